//! Which instance leads: a row with an epoch, judged by the database's clock.
//!
//! A transaction that numbers or applies holds a share lock on the epoch's row, so a takeover waits for it or it sees
//! the takeover; it can never commit after one. Renewing touches another row and waits for nobody.
//!
//! A copy of the database holds a copy of the lease. So the row names the database the lease was taken on: on a copy that was
//! promoted or restored to a point in time no fence of before holds, the lease is free at once, and nobody takes it who began
//! on another database or in another incarnation. A folder that was put back as it lay keeps the name, but its lease has run
//! out. One that lasts longer than any was given for is from before the clock was put back, and is free too: its holder would
//! have renewed it.

use sqlx::{PgConnection, PgTransaction};
use uuid::Uuid;

use super::{Identity, Store, StoreError};

/// How long a lease lasts without renewal, seconds.
pub const LEASE_S: i32 = 5;

/// Proof of having been made leader; void as soon as another instance was, the lease has run out, a new incarnation has begun
/// or the database is a copy of the one it was given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    epoch: i64,
    holder: Uuid,
}

/// Who leads the region.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Lease {
    /// How many leaders there have been.
    pub epoch: i64,
    /// The instance that leads, or led last.
    pub holder: Uuid,
    /// How long it still may without renewing, milliseconds; 0 if nobody leads.
    pub valid_for_ms: i64,
}

impl Fence {
    /// Counts the leaders there have been.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Makes sure that this instance still leads, until the transaction ends.
    pub(super) async fn check(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let held = sqlx::query_scalar!(
            r#"SELECT 1 AS "held!" FROM repl_lease WHERE epoch = $1 AND holder = $2 AND database = repl_database()
                 AND EXISTS (SELECT FROM repl_lease_expiry WHERE expires_at >= clock_timestamp()) FOR SHARE"#,
            self.epoch,
            self.holder
        )
        .fetch_optional(connection)
        .await?;
        held.map(|_| ()).ok_or(StoreError::NotLeading)
    }

    /// Ends the lease for a new incarnation's sake, in the transaction that begins it: what is under way commits before it, and
    /// nothing after.
    pub(super) async fn end(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let ended = sqlx::query!(
            "UPDATE repl_lease SET epoch = epoch + 1, holder = $3
             WHERE epoch = $1 AND holder = $2 AND database = repl_database()
               AND EXISTS (SELECT FROM repl_lease_expiry WHERE expires_at >= clock_timestamp())",
            self.epoch,
            self.holder,
            Uuid::nil()
        )
        .execute(&mut *connection)
        .await?;
        if ended.rows_affected() == 0 {
            return Err(StoreError::NotLeading);
        }
        sqlx::query!("UPDATE repl_lease_expiry SET expires_at = clock_timestamp()").execute(connection).await?;
        Ok(())
    }
}

impl Store {
    /// Begins a transaction that commits only while `fence` holds.
    pub(crate) async fn begin_fenced(&self, fence: &Fence) -> Result<PgTransaction<'static>, StoreError> {
        let mut tx = self.pool.begin().await?;
        fence.check(&mut tx).await?;
        Ok(tx)
    }

    /// Takes the lease if nobody holds it, for an instance that began as `identity` says; none either once that has been
    /// outlived.
    pub async fn take_lease(&self, holder: Uuid, identity: &Identity) -> Result<Option<Fence>, StoreError> {
        sqlx::query!("INSERT INTO repl_lease (epoch, holder) VALUES (0, $1) ON CONFLICT DO NOTHING", Uuid::nil())
            .execute(&self.pool)
            .await?;
        sqlx::query!("INSERT INTO repl_lease_expiry (expires_at) VALUES ('-infinity') ON CONFLICT DO NOTHING")
            .execute(&self.pool)
            .await?;
        // Looked at without a lock first: a lock request would make the leader's transactions queue behind it.
        if !self.lease_is_free().await? {
            return Ok(None);
        }
        let mut tx = self.pool.begin().await?;
        sqlx::query!("SELECT epoch FROM repl_lease FOR UPDATE").fetch_one(&mut *tx).await?;
        if identity.is_outlived(&mut tx).await? {
            return Ok(None);
        }
        let taken = sqlx::query!(
            "UPDATE repl_lease_expiry e SET expires_at = clock_timestamp() + make_interval(secs => $1)
             FROM repl_lease l WHERE repl_lease_is_free(e.expires_at, l.database, $1)",
            f64::from(LEASE_S)
        )
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(None);
        }
        let epoch = sqlx::query_scalar!(
            "UPDATE repl_lease SET epoch = epoch + 1, holder = $1, database = repl_database() RETURNING epoch",
            holder
        )
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(Fence { epoch, holder }))
    }

    /// Extends the lease; false if it is no longer ours, or has run out.
    pub async fn renew_lease(&self, fence: &Fence) -> Result<bool, StoreError> {
        self.set_expiry(fence, LEASE_S).await
    }

    /// Gives the lease back, so that another instance need not wait.
    pub async fn release_lease(&self, fence: &Fence) -> Result<(), StoreError> {
        self.set_expiry(fence, -1).await?;
        Ok(())
    }

    /// Who leads; none before the first.
    pub async fn lease(&self) -> Result<Option<Lease>, StoreError> {
        let lease = sqlx::query_as!(
            Lease,
            r#"SELECT epoch, holder, CASE WHEN isfinite(expires_at)
                   THEN GREATEST(extract(epoch FROM expires_at - clock_timestamp()) * 1000, 0)::bigint
                   ELSE 0 END AS "valid_for_ms!"
               FROM repl_lease, repl_lease_expiry"#
        );
        Ok(lease.fetch_optional(&self.pool).await?)
    }

    async fn set_expiry(&self, fence: &Fence, seconds: i32) -> Result<bool, StoreError> {
        let renewed = sqlx::query!(
            "UPDATE repl_lease_expiry SET expires_at = clock_timestamp() + make_interval(secs => $3)
             FROM repl_lease WHERE repl_lease.epoch = $1 AND repl_lease.holder = $2
               AND repl_lease.database = repl_database() AND expires_at >= clock_timestamp()",
            fence.epoch,
            fence.holder,
            f64::from(seconds)
        )
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    async fn lease_is_free(&self) -> Result<bool, StoreError> {
        let free = sqlx::query_scalar!(
            r#"SELECT repl_lease_is_free(e.expires_at, l.database, $1) AS "free!" FROM repl_lease_expiry e, repl_lease l"#,
            f64::from(LEASE_S)
        );
        Ok(free.fetch_one(&self.pool).await?)
    }
}

#[cfg(test)]
mod tests;
