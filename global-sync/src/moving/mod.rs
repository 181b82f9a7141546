//! A tenant moves to another region: what it owns in its home alone is copied there, and then the home is.
//!
//! [`departure`] runs at the old home, in the leader, and can be broken off anywhere: the row of the move says how far it is.
//! It copies all rows as of one moment, then again and again what has changed, and compares both sides' digests, all while the
//! tenant goes on. From then on each row that changes is compared as it is written, and rows are counted where some may have been
//! deleted. Once that takes a moment only, writes pause, the last changes follow, and with one transaction the home is handed
//! over, which is never taken back. Only then are the rows here erased. [`arrival`] runs at the new home and holds rows that nobody reads
//! before the home is its own; an attempt that begins anew finds and erases what an earlier one has left. Where the old home is
//! gone, [`failover`] takes it, and nothing is copied; for tenants that would rather have no home than two, [`lease`] has the other
//! regions confirm it all the time.
//!
//! Rows move as they are, sealed with the tenant's own key, over a connection of their own. Here nothing knows what they mean.

mod arrival;
mod departure;
mod failover;
mod lease;
mod lost;
mod record;
mod tables;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use shared::ids::TenantId;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, types::Uuid};

pub(crate) use arrival::receive;
pub(crate) use departure::go_on;
pub(crate) use failover::{Majority, take, win};
pub(crate) use lease::confirm;
pub(crate) use record::{Mode, Move};

use self::tables::Tally;
use crate::{
    store::{Store, StoreError},
    transport::{BrokenOff, STALLED_AFTER},
};

/// Why a region that abstains neither agrees to a home nor hands one over.
const ABSTAINS: &str = "its database may be an older one, which forgets what it has promised and handed over: for a minute it \
                        has no voice, and keeps its tenants";

/// What the old home says, or who takes its place.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// A copy begins; what an earlier attempt has left is to be erased.
    Begin {
        tenant: String,
        move_id: Uuid,
        /// The home that will be handed over.
        term: i64,
        n: i64,
        /// The tenant's key, wrapped for the new home.
        wrapped_key: Vec<u8>,
        /// What the tables look like.
        fingerprint: String,
    },
    /// Rows of this table follow.
    Table { name: String },
    /// What was said before this is to be written, and then rows are to be counted: of every table with a digest, or of those
    /// alone that may have lost some.
    Count { with_digests: bool },
    /// The keys of all rows of this table follow; others are gone.
    Keys { name: String },
    /// The home is the other's now. What was told before this may be asked again.
    HandedOver { tenant: String, from: String, term: i64, n: i64 },
    /// Breadcrumbs that were written after the pause follow.
    Tail,
    /// Whether the region that asks may be the home from this term on, in place of the one with that term and n.
    Vote { tenant: String, term: i64, from: (i64, i64) },
    /// Whether the tenants that are at home where this comes from still are.
    Confirm,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// It may begin.
    Ready,
    /// Rows written since the last answer of this kind, which a crash does not take away, and what is there now, table by table
    /// in their order.
    Counted { written: i64, tables: Vec<Tally> },
    /// The tenant is at home here.
    Home,
    /// The tail is written.
    Taken,
    /// It may; and whether the tenant's home is leased, as far as is known there.
    Agreed { is_leased: bool },
    /// Another may for this term, which is not smaller.
    Outbid { term: i64 },
    /// All are but these.
    Confirmed { promised: BTreeMap<String, Promise> },
    /// It will not have the tenant, and why.
    Refused { reason: String },
    /// It cannot go on, and why; another attempt may do better.
    Failed { reason: String },
}

/// Which region is agreed to as a tenant's home, and from which term on.
#[derive(Debug, Serialize, Deserialize)]
struct Promise {
    term: i64,
    target: String,
}

/// Why a move does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MoveError {
    /// The database says no, or is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The other side is gone.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
    /// The new home will not have the tenant.
    #[error("refused: {0}")]
    Refused(String),
    /// The new home cannot go on.
    #[error("{0} cannot go on: {1}")]
    Failed(String, String),
    /// The other side is not where it should be.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// The two sides do not agree.
    #[error("{0}")]
    Differs(String),
    /// Not enough regions agree that this one is the home.
    #[error("{agreed} regions agree, {needed} have to: {why}")]
    NoMajority { agreed: usize, needed: usize, why: String },
    /// Somebody has changed his mind.
    #[error("cancelled")]
    Cancelled,
    /// Something takes too long.
    #[error("{0}")]
    TooSlow(String),
}

impl From<sqlx::Error> for MoveError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A connection of its own that sees the rows of one tenant, all of them and of it alone. Postgres is patient with it while the
/// other region is busy with what it was sent. The name of a tenant is letters, digits and hyphens, whoever says it: nothing in
/// it can end the quotes.
async fn connect(store: &Store, tenant: &str) -> Result<PgConnection, StoreError> {
    let tenant: TenantId = tenant.parse().map_err(|_| StoreError::Damaged(format!("{tenant:?} is no tenant")))?;
    let mut connection = PgConnection::connect_with(&store.pool().connect_options()).await?;
    let patience_s = (STALLED_AFTER + Duration::from_secs(30)).as_secs();
    let settings = format!(
        "SET ROLE gocomet_move; SET timezone = 'UTC'; SET datestyle = 'ISO'; SET statement_timeout = '12h'; SET jit = off;
         SET idle_in_transaction_session_timeout = '{patience_s}s'; SET tcp_user_timeout = '{patience_s}s';
         SELECT set_config('app.tenant_id', '{tenant}', false)"
    );
    connection.execute(AssertSqlSafe(settings)).await?;
    Ok(connection)
}
