//! A tenant's moves to other regions: asked for here, carried out by global-sync, shown while they go on.
//!
//! [`rehome`] only writes down what is to be moved, at the tenant's home; where that is gone, at the region that is to take its
//! place. From then on the row is global-sync's: it copies, pauses the tenant's commands ([`crate::db`] refuses them), hands the
//! home over and erases what is left; or it asks the other regions, and takes the home.

mod cancel;
mod list;
mod rehome;
mod store;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::app::App;

/// How a tenant changes its home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MoveMode {
    /// The home hands over everything, with a pause of a second or so.
    Planned,
    /// The home is gone, and the region named takes its place once a majority of all regions agrees. What only the old home has,
    /// accounts and open rides, stays there; payments that it settled and nobody had heard of are in the ledger when it is
    /// back, marked as late. Where the tenant's config says `home.lease` it waits for the old home's lease to run out.
    Failover,
}

impl MoveMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Failover => "failover",
        }
    }
}

/// A move, as operators see it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct MoveView {
    id: Uuid,
    tenant: String,
    mode: MoveMode,
    from_region: String,
    to_region: String,
    /// requested, copying, pausing, handed_over, erasing, completed, failed or cancelled; of a failover requested, voting,
    /// completed or failed. It cannot fail or be cancelled once it is handed over.
    state: String,
    /// Rows that the new home has written.
    rows_moved: i64,
    /// How long writes were refused, in milliseconds.
    paused_ms: Option<i32>,
    /// Attempts that came to nothing, and why the last one did.
    attempts: i32,
    failure: Option<String>,
    requested_by: String,
    cancelled_by: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    requested_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    handed_over_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
}

/// Endpoints about moves.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(rehome::rehome_tenant))
        .routes(routes!(cancel::cancel_move))
        .routes(routes!(list::list_moves))
        .routes(routes!(list::get_move))
}
