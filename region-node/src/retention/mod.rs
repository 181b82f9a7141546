//! What says how a ride came about goes when it has been over for long: who was considered for it and who was asked, and where its
//! trip went. By far the most rows there are say that; rides, trips and all that is money stay.
//!
//! Nothing goes of a ride whose money is not settled: a payment or a refund is under way or was given up, or a dispute is open. Nor
//! does anything of a tenant that moves, since a move copies these rows and would have to look for those that are gone, or whose
//! home is elsewhere.
//!
//! Once a day each table is looked through from its oldest ride on, a few rides at a time. How far that is stands in `sweeps`, and
//! whoever holds that row sweeps: a node that dies leaves the rest to the others, and two never delete the same.

mod config;
mod store;
#[cfg(test)]
mod tests;

use std::time::Duration as StdDuration;

use time::{Duration, OffsetDateTime};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub use config::RetentionConfig;

use crate::{app::App, http::Problem, serve::every};

const LOOK_EVERY: StdDuration = StdDuration::from_secs(30);
/// A table is looked through anew after this.
const SWEEP_EVERY: Duration = Duration::days(1);
/// Rides looked at together, and the most rows deleted with them.
const RIDES: i32 = 100;
const ROWS: i64 = 10_000;
/// A table's turns before the next table's.
const TURNS: usize = 200;

/// What is swept.
#[derive(Clone, Copy, Debug)]
enum Table {
    Candidates,
    Offers,
    Traces,
}

impl Table {
    const ALL: [Self; 3] = [Self::Candidates, Self::Offers, Self::Traces];

    const fn name(self) -> &'static str {
        match self {
            Self::Candidates => "dispatch_candidates",
            Self::Offers => "offers",
            Self::Traces => "breadcrumbs",
        }
    }

    const fn kept_for(self, config: &RetentionConfig) -> StdDuration {
        match self {
            Self::Candidates => config.candidates,
            Self::Offers => config.offers,
            Self::Traces => config.traces,
        }
    }
}

/// Sweeps until the node stops.
pub fn start(app: &App) {
    app.spawn(every(app.clone(), LOOK_EVERY, async |app| run_due(&app).await.map(drop)));
}

/// Takes a node's turns at all tables; says how many rows are gone. Between two turns it rests for as long as the last one took, so
/// that it is slow where the database is.
async fn run_due(app: &App) -> Result<u64, Problem> {
    let mut gone = 0;
    for table in Table::ALL {
        for _ in 0..TURNS {
            let begun = Instant::now();
            let Some(rows) = sweep(app, table).await? else { break };
            gone += rows;
            sleep(begun.elapsed()).await;
        }
    }
    Ok(gone)
}

/// Deletes what is old enough of a few rides; how many rows. None if the day's sweep is over, or another node is at it.
async fn sweep(app: &App, table: Table) -> Result<Option<u64>, Problem> {
    let now = app.clock.now();
    let Some(before) = moment_before(now, table.kept_for(&app.config.retention)) else { return Ok(None) };
    let mut tx = app.db.system().await?;
    let Some(found) = store::hold(&mut tx, table, now - SWEEP_EVERY, now).await? else { return Ok(None) };
    let (begun_at, after) = found.upto.map_or((now, Uuid::nil()), |upto| (found.begun_at, upto));
    let swept = store::sweep(&mut tx, table, after, before, &app.region).await?;
    let upto = if swept.rows == ROWS {
        // There may be more of these rides.
        Some(after)
    } else if swept.rides < i64::from(RIDES) {
        None
    } else {
        swept.last
    };
    store::save(&mut tx, table, begun_at, upto).await?;
    tx.commit().await?;
    let rows = swept.rows.unsigned_abs();
    metrics::counter!("region_node_swept_rows_total", "table" => table.name()).increment(rows);
    Ok(Some(rows))
}

/// None if that is so long ago that nothing can have been before it.
fn moment_before(now: OffsetDateTime, ago: StdDuration) -> Option<OffsetDateTime> {
    now.checked_sub(ago.try_into().ok()?).filter(|moment| *moment > OffsetDateTime::UNIX_EPOCH)
}
