//! All SQL of replication.
//!
//! Three rules hold everywhere: rows and the cursor that counts them change in one transaction; whoever numbers or
//! applies re-checks the lease's epoch in that transaction; and no decision rests on a clock other than the database's.
#![expect(clippy::disallowed_methods, reason = "replication works on the region's log, which belongs to no tenant")]

mod acks;
mod apply;
mod digest;
mod findings;
mod identity;
mod lease;
mod ledger;
mod membership;
mod mend;
mod number;
mod operations;
mod receive;
mod rejected;
mod retold;
mod rows;
mod send;
mod snapshot;
mod truncate;
mod verify;

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use shared::{fact::FactStream, ids::RegionName};
use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use acks::{Backlog, Lag, LogLag};
pub use apply::{Applied, MAX_EXCEPTIONS};
pub(crate) use apply::{Aside, SetAside, Stored, held_edits, quarantine, release};
pub use findings::{DamageSeen, Damaged};
pub use identity::{Identity, Membership};
pub use lease::{Fence, LEASE_S, Lease};
pub use membership::{Joining, Leaving};
pub use number::{Numbered, Signer};
pub use operations::{Order, Outcome};
pub use receive::Received;
pub use send::Outgoing;
pub use snapshot::{Imported, Piece};
pub use verify::{Damage, Looked};

use crate::protocol::{Hash, Head, LogId, LogState, Origin};

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The lease was taken by another, ended, or is of another database: stop at once, change nothing.
    #[error("this instance does not lead its region any more")]
    NotLeading,
    /// The batch does not continue what is stored.
    #[error("the batch does not continue what is stored")]
    Discontinuous,
    /// The log's head differs from a stored entry of the same number.
    #[error("an entry differs from the one stored under its number")]
    Conflict,
    /// A snapshot cannot be sent or taken in.
    #[error("a snapshot is of no use: {0}")]
    Snapshot(&'static str),
    /// A snapshot brings something that is not what its origin wrote.
    #[error("{what} of a snapshot: {why}")]
    Forged {
        /// What of it.
        what: String,
        /// A stable name for what is wrong, for metrics.
        reason: &'static str,
        /// What is wrong, for people.
        why: String,
    },
    /// A number that the database cannot hold.
    #[error("{0} is too great a number")]
    TooGreat(u64),
    /// Something stored is not what was written.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The database failed or is away.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

impl StoreError {
    /// Whether somebody held for too long what was to be locked.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        const LOCK_NOT_AVAILABLE: &str = "55P03";
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE))
    }

    /// Whether the data itself was refused, so that trying again cannot help.
    pub(crate) fn is_about_data(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
            }
            Self::TooGreat(_) => true,
            Self::NotLeading
            | Self::Discontinuous
            | Self::Conflict
            | Self::Damaged(_)
            | Self::Snapshot(_)
            | Self::Forged { .. }
            | Self::Database(_) => false,
        }
    }
}

/// The region's database, as seen by replication.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Prepares connections to the database; none is made yet.
    pub fn new(url: &str, max_connections: u32) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)?;
        Ok(Self { pool: pool_with(options, max_connections) })
    }

    /// Uses the database another pool is connected to, as another role.
    pub fn beside(pool: &PgPool, role: &str) -> Self {
        let options = pool.connect_options().as_ref().clone().username(role);
        Self { pool: pool_with(options, 12) }
    }

    /// The connections, for listening.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Whether the database answers and has the schema.
    pub async fn is_ready(&self) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar!(
            r#"SELECT to_regclass('repl_ledger_digest') IS NOT NULL
                  AND has_table_privilege('repl_ledger_digest', 'UPDATE') AS "ready!""#
        );
        Ok(found.fetch_one(&self.pool).await?)
    }

    /// Every log with what is stored and applied of it.
    pub async fn logs(&self) -> Result<BTreeMap<LogId, LogState>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT c.origin_region AS "origin_region!", c.origin_incarnation AS "origin_incarnation!",
                      c.stream AS "stream!", c.stored AS "stored!", c.head_hash AS "head_hash!",
                      c.truncated AS "truncated!",
                      COALESCE(a.applied, 0) AS "applied!"
               FROM repl_cursor c
               LEFT JOIN repl_apply a USING (origin_region, origin_incarnation, stream)"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let log = log_id(&row.origin_region, row.origin_incarnation, &row.stream)?;
                let head = Head { seq: from_sql(row.stored), hash: hash(&row.head_hash)? };
                let (applied, truncated) = (from_sql(row.applied), from_sql(row.truncated));
                Ok((log, LogState { head, applied, truncated }))
            })
            .collect()
    }
}

/// Has whoever listens read the directory again, once the transaction commits.
pub(crate) async fn tell_directory_changed(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("SELECT pg_notify('directory_changed', '')").execute(connection).await?;
    Ok(())
}

fn pool_with(options: PgConnectOptions, max_connections: u32) -> PgPool {
    let options = options.application_name("global-sync").options([
        ("idle_in_transaction_session_timeout", "4s"),
        ("lock_timeout", "10s"),
        ("statement_timeout", "60s"),
        ("tcp_user_timeout", "10s"),
    ]);
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy_with(options)
}

/// Numbers are `bigint` in SQL. What peers and envelopes count is checked where it is read; bodies say what they like.
pub(crate) fn to_sql(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::TooGreat(number))
}

pub(crate) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).expect("the schema allows no negative numbers here")
}

fn hash(bytes: &[u8]) -> Result<Hash, StoreError> {
    bytes.try_into().map_err(|_| StoreError::Damaged("a hash is not 32 bytes".to_owned()))
}

fn log_id(region: &str, incarnation: i64, stream: &str) -> Result<LogId, StoreError> {
    Ok(LogId {
        origin: Origin { region: region_name(region)?, incarnation: from_sql(incarnation) },
        stream: stream_name(stream)?,
    })
}

fn stream_name(text: &str) -> Result<FactStream, StoreError> {
    FactStream::from_name(text).ok_or_else(|| StoreError::Damaged(format!("unknown stream {text}")))
}

pub(crate) fn region_name(text: &str) -> Result<RegionName, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged(format!("{text:?} is no region")))
}

#[cfg(test)]
pub(crate) mod tests;
