//! Which instance leads: a row with an epoch, judged by the database's clock.
//!
//! A transaction that numbers or applies holds a share lock on the epoch's row, so a takeover waits for it or it sees
//! the takeover; it can never commit after one. Renewing touches another row and waits for nobody.

use sqlx::{PgConnection, PgTransaction};
use uuid::Uuid;

use super::{Store, StoreError};

/// How long a lease lasts without renewal, seconds.
pub const LEASE_S: i32 = 5;

/// Proof of having been made leader; void as soon as another instance was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    epoch: i64,
    holder: Uuid,
}

impl Fence {
    /// Counts the leaders there have been.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Makes sure that this instance still leads, until the transaction ends.
    pub(super) async fn check(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let held = sqlx::query_scalar!(
            r#"SELECT 1 AS "held!" FROM repl_lease WHERE epoch = $1 AND holder = $2 FOR SHARE"#,
            self.epoch,
            self.holder
        )
        .fetch_optional(connection)
        .await?;
        held.map(|_| ()).ok_or(StoreError::NotLeading)
    }
}

impl Store {
    /// Begins a transaction that commits only while `fence` holds.
    pub(crate) async fn begin_fenced(&self, fence: &Fence) -> Result<PgTransaction<'static>, StoreError> {
        let mut tx = self.pool.begin().await?;
        fence.check(&mut tx).await?;
        Ok(tx)
    }

    /// Takes the lease if nobody holds it.
    pub async fn take_lease(&self, holder: Uuid) -> Result<Option<Fence>, StoreError> {
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
        let taken = sqlx::query!(
            "UPDATE repl_lease_expiry SET expires_at = clock_timestamp() + make_interval(secs => $1)
             WHERE expires_at < clock_timestamp()",
            f64::from(LEASE_S)
        )
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(None);
        }
        let epoch = sqlx::query_scalar!("UPDATE repl_lease SET epoch = epoch + 1, holder = $1 RETURNING epoch", holder)
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Some(Fence { epoch, holder }))
    }

    /// Extends the lease; false if it is no longer ours.
    pub async fn renew_lease(&self, fence: &Fence) -> Result<bool, StoreError> {
        self.set_expiry(fence, LEASE_S).await
    }

    /// Gives the lease back, so that another instance need not wait.
    pub async fn release_lease(&self, fence: &Fence) -> Result<(), StoreError> {
        self.set_expiry(fence, -1).await?;
        Ok(())
    }

    /// How many leaders there have been; none before the first.
    pub async fn lease_epoch(&self) -> Result<Option<i64>, StoreError> {
        Ok(sqlx::query_scalar!("SELECT epoch FROM repl_lease").fetch_optional(&self.pool).await?)
    }

    async fn set_expiry(&self, fence: &Fence, seconds: i32) -> Result<bool, StoreError> {
        let renewed = sqlx::query!(
            "UPDATE repl_lease_expiry SET expires_at = clock_timestamp() + make_interval(secs => $3)
             FROM repl_lease WHERE repl_lease.epoch = $1 AND repl_lease.holder = $2",
            fence.epoch,
            fence.holder,
            f64::from(seconds)
        )
        .execute(&self.pool)
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    async fn lease_is_free(&self) -> Result<bool, StoreError> {
        let free = sqlx::query_scalar!(r#"SELECT expires_at < clock_timestamp() AS "free!" FROM repl_lease_expiry"#);
        Ok(free.fetch_one(&self.pool).await?)
    }
}
