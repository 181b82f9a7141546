//! What a tenant left behind in a region it was taken from by force: erased when an operator says so, after which the tenant can
//! move here again.
//!
//! Nothing is lost with it that others have to know: what was settled here is in the log, which stays, and every other region
//! has to have stored it; and money that was about to move under the old home has to have moved or not. What the accounts, rides
//! and balances of that time say is gone for good.

use shared::sync_command::LostTenant;
use sqlx::{Connection as _, PgConnection, types::Uuid};

use super::{MoveError, arrival::erase_arrived, connect, record::hold_home};
use crate::store::{Fence, Outcome, Store, StoreError};

/// A home that another region has, as it is known here.
#[derive(sqlx::FromRow)]
struct LostHome {
    region: String,
    /// This region.
    own: String,
    /// The tenant moves from here or to here.
    moves: bool,
    /// Facts of it have no number yet.
    waits: bool,
    /// Facts of it were refused one.
    refused: bool,
}

impl Store {
    /// Erases what a tenant that is at home elsewhere has here; what was done, or why nothing was. Begun again by the same command
    /// it goes on.
    pub(crate) async fn erase_lost(&self, fence: &Fence, id: Uuid, what: &LostTenant) -> Result<Outcome, StoreError> {
        let tenant = what.tenant.as_str();
        if let Some(region) = self.lacks_facts_of(tenant).await? {
            return Ok(Err(format!("{region} has not stored all that was settled for {tenant} here")));
        }
        let attempt = match self.end_lost_home(fence, id, what).await? {
            Ok(attempt) => attempt,
            Err(why) => return Ok(Err(why)),
        };
        match erase_arrived(self, tenant, attempt).await {
            Ok(0) => Ok(Ok(format!("nothing of {tenant} is here"))),
            Ok(rows) => Ok(Ok(format!("{rows} rows of {tenant} are erased: it can move here again"))),
            Err(MoveError::Store(error)) => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// A region that has not stored every fact of a tenant's that this one settled, by its own word.
    async fn lacks_facts_of(&self, tenant: &str) -> Result<Option<String>, StoreError> {
        let lacking = sqlx::query_scalar(
            "WITH newest AS (SELECT f.origin_region, f.origin_incarnation, max(f.origin_seq) AS seq
                               FROM ledger_facts f JOIN repl_self s ON s.region = f.origin_region
                               WHERE f.tenant_id = $1 GROUP BY 1, 2)
               SELECT m.region
               FROM newest JOIN repl_membership m ON m.region <> newest.origin_region AND m.state <> 'retired'
               LEFT JOIN repl_ack a ON a.peer = m.region AND a.origin_region = newest.origin_region
                    AND a.origin_incarnation = newest.origin_incarnation AND a.stream = 'ledger'
               WHERE COALESCE(a.stored, 0) < newest.seq ORDER BY 1 LIMIT 1",
        )
        .bind(tenant);
        Ok(lacking.fetch_optional(self.pool()).await?)
    }

    /// Ends for good what may still be done here under the old home, and says which attempt may erase what there is. As long as that
    /// is noted nobody moves the tenant here without taking its place; if it comes to nothing, what is here is erased all the same.
    async fn end_lost_home(
        &self,
        fence: &Fence,
        id: Uuid,
        what: &LostTenant,
    ) -> Result<Result<Uuid, String>, StoreError> {
        let tenant = what.tenant.as_str();
        let mut tx = self.begin_fenced(fence).await?;
        // Whatever books money under the old home has ended now, and sees this when it begins again.
        hold_home(&mut tx, tenant).await?;
        let home: Option<LostHome> = sqlx::query_as(
            "SELECT h.region, s.region AS own,
                      EXISTS (SELECT FROM tenant_moves m WHERE m.tenant_id = $1 AND m.ended_at IS NULL)
                          OR EXISTS (SELECT FROM tenant_arrivals a WHERE a.tenant_id = $1 AND a.move_id <> $2) AS moves,
                      EXISTS (SELECT FROM repl_outbox o WHERE o.tenant_id = $1) AS waits,
                      EXISTS (SELECT FROM repl_rejected r WHERE r.tenant_id = $1) AS refused
               FROM tenant_homes h, repl_self s WHERE h.tenant_id = $1 FOR UPDATE OF h",
        )
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(home) = home else { return Ok(Err(format!("no tenant {tenant} is known here"))) };
        let why = if home.region == home.own {
            Some(format!("{tenant} is at home here"))
        } else if home.moves {
            Some(format!("a move of {tenant} is under way"))
        } else if home.waits {
            Some(format!("facts of {tenant} wait for their number: try again"))
        } else if home.refused {
            Some(format!("facts of {tenant} may not leave this region: readmit or dismiss them first"))
        } else {
            let mut connection = connect(self, tenant).await?;
            let why = unfinished(&mut connection, what).await?;
            connection.close().await?;
            why
        };
        if let Some(why) = why {
            return Ok(Err(why));
        }
        sqlx::query("UPDATE tenant_homes SET lost_term = NULL, lost_n = NULL WHERE tenant_id = $1")
            .bind(tenant)
            .execute(&mut *tx)
            .await?;
        let attempt = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO tenant_arrivals (tenant_id, move_id, attempt, from_region) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id) DO UPDATE SET attempt = excluded.attempt, touched_at = now()",
        )
        .bind(tenant)
        .bind(id)
        .bind(attempt)
        .bind(&home.own)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Ok(attempt))
    }
}

/// What of a tenant's money is still about to move here.
async fn unfinished(connection: &mut PgConnection, what: &LostTenant) -> Result<Option<String>, StoreError> {
    let (runs, given_up, disputed): (i64, i64, i64) = sqlx::query_as(
        "WITH movements AS (
             SELECT next_attempt_at FROM payments WHERE tenant_id = $1 AND status IN ('pending', 'authorized', 'unknown')
             UNION ALL
             SELECT next_attempt_at FROM refunds WHERE tenant_id = $1 AND status IN ('pending', 'authorized', 'unknown'))
         SELECT count(next_attempt_at), count(*) - count(next_attempt_at),
                (SELECT count(*) FROM disputes WHERE tenant_id = $1 AND status = 'open')
         FROM movements",
    )
    .bind(what.tenant.as_str())
    .fetch_one(connection)
    .await?;
    Ok(if runs > 0 {
        Some(format!(
            "{runs} payments or refunds that began here have not ended: this region goes on with them by itself"
        ))
    } else if disputed > 0 {
        Some(format!("{disputed} disputes are open here"))
    } else if given_up > 0 && !what.and_given_up {
        Some(format!(
            "{given_up} payments or refunds were given up here, and nobody knows whether money moved: see to them at the payment provider, then say and_given_up"
        ))
    } else {
        None
    })
}
