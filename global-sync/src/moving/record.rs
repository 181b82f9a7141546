//! All SQL of a move's own row, and of the home that is handed over. Whoever changes either leads the region.

use std::time::Duration;

use shared::fact::{Fact, TenantMoved};
use sqlx::{Executor as _, PgConnection, PgTransaction, types::Uuid};
use tokio::time::{Instant, sleep};

use super::{ABSTAINS, MoveError};
use crate::store::{Fence, Store, StoreError, from_sql, tell_directory_changed};

/// Attempts after which a move that has not been handed over is given up.
const MAX_ATTEMPTS: i32 = 10;
/// Between two attempts.
const TRY_AGAIN_AFTER_S: f64 = 2.0;
/// How long commands that are under way may keep a hand-over waiting.
const LOCK_WITHIN: &str = "1s";
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How a home changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The old home hands it over.
    Planned,
    /// The new one takes it.
    Failover,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Failover => "failover",
        }
    }
}

/// A move that is not over.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) id: Uuid,
    pub(crate) tenant: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(super) state: String,
    /// Of the home as it is until the hand-over.
    pub(super) term: i64,
    pub(super) n: i64,
    pub(super) wrapped_key: Vec<u8>,
    pub(super) is_cancelled: bool,
}

impl Store {
    /// The moves of a mode that are to go on now, the oldest first.
    pub(crate) async fn moves_to_go_on_with(&self, mode: Mode) -> Result<Vec<Move>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, tenant_id, from_region, to_region, state, from_term, from_n, wrapped_key,
                      cancelled_by IS NOT NULL AS "is_cancelled!"
               FROM tenant_moves
               WHERE ended_at IS NULL AND mode = $1 AND (next_attempt_at <= clock_timestamp() OR cancelled_by IS NOT NULL)
               ORDER BY requested_at"#,
            mode.as_str()
        )
        .fetch_all(self.pool())
        .await?;
        let read = rows.into_iter().map(|row| Move {
            id: row.id,
            tenant: row.tenant_id,
            from: row.from_region,
            to: row.to_region,
            state: row.state,
            term: row.from_term,
            n: row.from_n,
            wrapped_key: row.wrapped_key.unwrap_or_default(),
            is_cancelled: row.is_cancelled,
        });
        Ok(read.collect())
    }

    /// Says how far a move is.
    pub(super) async fn note_move(&self, fence: &Fence, id: Uuid, state: &str) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!(
            "UPDATE tenant_moves SET state = $2, updated_at = now(),
                 rows_moved = CASE WHEN $2 = 'copying' THEN 0 ELSE rows_moved END WHERE id = $1",
            id,
            state
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Counts rows that the new home has written, unless the move was cancelled.
    pub(super) async fn note_rows(&self, fence: &Fence, id: Uuid, rows: i64) -> Result<(), MoveError> {
        let mut tx = self.begin_fenced(fence).await?;
        let noted = sqlx::query!(
            "UPDATE tenant_moves SET rows_moved = rows_moved + $2, updated_at = now() WHERE id = $1 AND cancelled_by IS NULL",
            id,
            rows
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        if noted.rows_affected() == 0 { Err(MoveError::Cancelled) } else { Ok(()) }
    }

    /// Ends a move that was cancelled; the home stays where it is.
    pub(crate) async fn end_cancelled(&self, fence: &Fence, moving: &Move) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!(
            "UPDATE tenant_moves SET state = 'cancelled', updated_at = now(), ended_at = now(), wrapped_key = NULL WHERE id = $1",
            moving.id
        )
        .execute(&mut *tx)
        .await?;
        unpause(&mut tx, moving).await?;
        tx.commit().await?;
        tracing::info!(tenant = moving.tenant, "the move of {} to {} is cancelled", moving.tenant, moving.to);
        Ok(())
    }

    /// Which region this is.
    pub(super) async fn own_region(&self) -> Result<String, StoreError> {
        Ok(sqlx::query_scalar!("SELECT region FROM repl_self").fetch_one(self.pool()).await?)
    }

    /// Says why a move does not go on; it is tried again, or given up if nothing was handed over.
    pub(crate) async fn hinder_move(&self, fence: &Fence, moving: &Move, why: &str) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let given_up = sqlx::query_scalar!(
            r#"UPDATE tenant_moves SET attempts = attempts + 1, failure = $2, updated_at = now(),
                   next_attempt_at = clock_timestamp() + make_interval(secs => $3::float8 * LEAST(attempts + 1, 10)),
                   state = CASE WHEN state IN ('handed_over', 'erasing') THEN state
                                WHEN attempts + 1 >= $4 THEN 'failed' ELSE 'requested' END,
                   ended_at = CASE WHEN state NOT IN ('handed_over', 'erasing') AND attempts + 1 >= $4 THEN now() END
               WHERE id = $1 AND ended_at IS NULL RETURNING ended_at IS NOT NULL AS "given_up!""#,
            moving.id,
            why,
            TRY_AGAIN_AFTER_S,
            MAX_ATTEMPTS
        )
        .fetch_optional(&mut *tx)
        .await?;
        unpause(&mut tx, moving).await?;
        tx.commit().await?;
        if given_up == Some(true) {
            tracing::error!(
                tenant = moving.tenant,
                "the move of {} to {} is given up: {why}",
                moving.tenant,
                moving.to
            );
        }
        Ok(())
    }

    /// Refuses a move for good; nothing has been handed over.
    pub(super) async fn refuse_move(&self, fence: &Fence, moving: &Move, why: &str) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!(
            "UPDATE tenant_moves SET state = 'failed', failure = $2, updated_at = now(), ended_at = now(),
                 wrapped_key = NULL WHERE id = $1",
            moving.id,
            why
        )
        .execute(&mut *tx)
        .await?;
        unpause(&mut tx, moving).await?;
        Ok(tx.commit().await?)
    }

    /// Pauses the tenant's commands: those under way have ended when this returns, none begins before the home is active again
    /// or handed over. A region that was put back waits until it must have heard from the others what it had handed over.
    pub(super) async fn pause_home(&self, fence: &Fence, moving: &Move) -> Result<(), MoveError> {
        if self.abstains().await? {
            return Err(MoveError::Differs(format!("{}: {ABSTAINS}", moving.from)));
        }
        let mut tx = self.begin_fenced(fence).await?;
        hold_home(&mut tx, &moving.tenant).await?;
        let paused = sqlx::query!(
            "UPDATE tenant_homes SET state = 'moving'
             WHERE tenant_id = $1 AND (term, n) = ($2, $3) AND state = 'active'
               AND region = (SELECT region FROM repl_self)",
            moving.tenant,
            moving.term,
            moving.n
        )
        .execute(&mut *tx)
        .await?;
        if paused.rows_affected() == 0 {
            return Err(MoveError::Differs(format!("the home of {} is not active here any more", moving.tenant)));
        }
        tell_directory_changed(&mut tx).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.note_move(fence, moving.id, "pausing").await?;
        Ok(self.wait_for_writers().await?)
    }

    /// Lets the tenant's commands go on, if they were paused and the home is still here.
    pub(super) async fn resume_home(&self, fence: &Fence, moving: &Move) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        unpause(&mut tx, moving).await?;
        Ok(tx.commit().await?)
    }

    /// Lets the commands of every tenant go on whose home is paused and still here; only for whoever is moving none just now.
    pub(crate) async fn resume_homes(&self, fence: &Fence) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let resumed = sqlx::query!(
            "UPDATE tenant_homes h SET state = 'active' FROM repl_self s WHERE h.region = s.region AND h.state = 'moving'"
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("UPDATE tenant_moves SET state = 'requested', updated_at = now() WHERE state = 'pausing'")
            .execute(&mut *tx)
            .await?;
        if resumed.rows_affected() > 0 {
            tell_directory_changed(&mut tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Waits until whatever writes a tenant's table now has ended: background work asks for the home in the statement that
    /// writes, and one that began before the pause has not seen it.
    async fn wait_for_writers(&self) -> Result<(), StoreError> {
        let running = self.writers().await?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            let now = self.writers().await?;
            if !running.iter().any(|writer| now.contains(writer)) {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn writers(&self) -> Result<Vec<String>, StoreError> {
        let writers = sqlx::query_scalar!(
            r#"SELECT DISTINCT l.virtualtransaction AS "writer!" FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
               WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'RowExclusiveLock' AND c.relkind = 'r'
                 AND c.relname IN ('rides', 'offers', 'trips', 'payments', 'refunds', 'reconciliations',
                                   'sandbox_psp_webhooks', 'driver_records', 'zone_queue')
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"#
        );
        Ok(writers.fetch_all(self.pool()).await?)
    }

    /// Hands the home over: from here on it is the other region's, and every region will hear of it.
    pub(super) async fn hand_home_over(&self, fence: &Fence, moving: &Move, paused: Instant) -> Result<(), MoveError> {
        let mut tx = self.begin_fenced(fence).await?;
        hold_home(&mut tx, &moving.tenant).await?;
        let name = sqlx::query_scalar!(
            "UPDATE tenant_homes SET region = $4, n = n + 1, state = 'active'
             WHERE tenant_id = $1 AND (term, n) = ($2, $3) AND state = 'moving'
               AND region = (SELECT region FROM repl_self)
             RETURNING name",
            moving.tenant,
            moving.term,
            moving.n,
            moving.to
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(name) = name else {
            return Err(MoveError::Differs(format!("the home of {} changed while it was paused", moving.tenant)));
        };
        let fact = Fact::TenantMoved(TenantMoved {
            tenant: moving.tenant.clone(),
            name,
            home_region: moving.to.clone(),
            term: from_sql(moving.term),
            n: from_sql(moving.n + 1),
            heard: None,
        });
        tell_moved(&mut tx, &moving.tenant, &fact, (moving.term, moving.n + 1)).await?;
        let noted = sqlx::query!(
            "UPDATE tenant_moves SET state = 'handed_over', handed_over_at = now(), paused_ms = $2, failure = NULL,
                 attempts = 0, updated_at = now() WHERE id = $1 AND cancelled_by IS NULL",
            moving.id,
            i32::try_from(paused.elapsed().as_millis()).unwrap_or(i32::MAX)
        )
        .execute(&mut *tx)
        .await?;
        if noted.rows_affected() == 0 {
            return Err(MoveError::Cancelled);
        }
        tell_directory_changed(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Begins a transaction that erases rows of a tenant that has left, and sees that one's rows alone; until it ends the tenant
    /// does not come back. None if it does, or is back.
    pub(super) async fn begin_erasing(
        &self,
        fence: &Fence,
        tenant: &str,
    ) -> Result<Option<PgTransaction<'static>>, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let is_away = sqlx::query_scalar!(
            r#"SELECT h.region <> s.region AS "is_away!" FROM tenant_homes h, repl_self s WHERE h.tenant_id = $1
               FOR UPDATE OF h"#,
            tenant
        )
        .fetch_optional(&mut *tx)
        .await?;
        // Whoever brings it back shares the home's row while it notes that, so this is looked at second.
        let arrives = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM tenant_arrivals WHERE tenant_id = $1) AS "arrives!""#,
            tenant
        )
        .fetch_one(&mut *tx)
        .await?;
        if is_away != Some(true) || arrives {
            return Ok(None);
        }
        sqlx::query_scalar!("SELECT set_config('app.tenant_id', $1, true)", tenant).fetch_one(&mut *tx).await?;
        tx.execute("SET LOCAL ROLE gocomet_move; SET LOCAL statement_timeout = '1h'").await?;
        Ok(Some(tx))
    }

    /// A move is over: what the tenant had left here is erased.
    pub(super) async fn complete_move(&self, fence: &Fence, moving: &Move) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!(
            "UPDATE tenant_moves SET state = 'completed', ended_at = now(), updated_at = now(), failure = NULL,
                 wrapped_key = NULL WHERE id = $1",
            moving.id
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }
}

/// Lets commands go on that an attempt had paused, unless the home was handed over.
async fn unpause(connection: &mut PgConnection, moving: &Move) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE tenant_homes SET state = 'active'
         WHERE tenant_id = $1 AND (term, n) = ($2, $3) AND state = 'moving'
           AND region = (SELECT region FROM repl_self)",
        moving.tenant,
        moving.term,
        moving.n
    )
    .execute(&mut *connection)
    .await?;
    tell_directory_changed(connection).await?;
    Ok(())
}

/// Tells every region of a home that begins with this epoch.
pub(super) async fn tell_moved(
    connection: &mut PgConnection,
    tenant: &str,
    fact: &Fact,
    epoch: (i64, i64),
) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        Uuid::now_v7(),
        fact.stream().as_str(),
        fact.kind(),
        tenant,
        epoch.0,
        epoch.1,
        fact.to_body()
    )
    .execute(connection)
    .await
    .map(|_| ())
}

/// Holds the home of a tenant, which every command of it shares, until the transaction ends.
pub(super) async fn hold_home(connection: &mut PgConnection, tenant: &str) -> Result<(), StoreError> {
    sqlx::query_scalar!("SELECT set_config('lock_timeout', $1, true)", LOCK_WITHIN).fetch_one(&mut *connection).await?;
    sqlx::query!(r#"SELECT pg_advisory_xact_lock(hashtextextended('home:' || $1, 0)) IS NULL AS "locked!""#, tenant)
        .fetch_one(connection)
        .await?;
    Ok(())
}
