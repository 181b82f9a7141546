//! The ledger is closed day by day, so that a balance, or what a statement opens with, is read from the last closing on and not from
//! the first entry.
//!
//! Closing is two steps, of any node. First the day is closed: a row says so, and from its commit on the database refuses to book
//! what is dated before; it waits for those who are booking, and they for it, for as long as that row takes. Then what each
//! account had come to by then is summed up from the closing before, while others book on; until that is done, the closing before
//! counts. A node that dies in between leaves the second step to whichever looks next.
//!
//! Whatever is booked late, such as what was forgotten or an answer that took days, is dated when it is booked.

use shared::ids::TenantId;
use time::{Duration, OffsetDateTime, Time, UtcOffset};

use super::store;
use crate::{app::App, http::Problem, serve::every};

const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(60);
/// A day is closed so long after its end: nodes' clocks differ by less, and what is being booked is booked by then.
pub(super) const AFTER: Duration = Duration::hours(1);

/// Closes the days of tenants at home here until the node stops.
pub async fn close_ledgers(app: App) {
    every(app, LOOK_EVERY, async |app| run_due(&app).await.map(drop)).await;
}

/// Closes what is over, by UTC, and not closed yet; says how many ledgers that were.
pub(super) async fn run_due(app: &App) -> Result<u64, Problem> {
    let until = (app.clock.now() - AFTER).to_offset(UtcOffset::UTC).replace_time(Time::MIDNIGHT);
    let tenants: Vec<TenantId> = app.tenants.directory().at_home_in(&app.region).cloned().collect();
    let mut tx = app.db.system().await?;
    let open = store::ledgers_open_until(&mut tx, &tenants, until).await?;
    tx.commit().await?;
    let mut closed = 0;
    for tenant in open {
        match close(app, &tenant, until).await {
            Ok(is_closed) => closed += u64::from(is_closed),
            Err(problem) => {
                tracing::warn!(%problem, %tenant, %until, "a ledger could not be closed; any node tries again");
            }
        }
    }
    Ok(closed)
}

async fn close(app: &App, tenant: &TenantId, until: OffsetDateTime) -> Result<bool, Problem> {
    let mut tx = app.db.begin(tenant).await?;
    store::close_ledger(&mut tx, until).await?;
    tx.commit().await?;
    let mut tx = app.db.begin(tenant).await?;
    let is_closed = store::sum_ledger_up(&mut tx, until, app.clock.now()).await?;
    tx.commit().await?;
    if is_closed {
        metrics::counter!("region_node_ledger_closings_total", "tenant" => tenant.to_string()).increment(1);
        tracing::info!(%tenant, %until, "the ledger is closed until {until}");
    }
    Ok(is_closed)
}
