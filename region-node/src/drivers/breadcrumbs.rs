//! The traces of running trips: kept whole, because the fare needs them.
//!
//! What drivers on a trip report waits here for a moment and goes to Postgres in batches. Which trip a position belongs to
//! is decided there, by driver and time, so that a table that knows too little or too much loses and invents nothing.
//! Until Postgres has taken a batch it stays here.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use shared::ids::{DriverId, TenantId};

use super::{position::Position, store};
use crate::{app::App, http::Problem};

/// One position of a driver who may be on a trip.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Breadcrumb {
    /// Whose driver.
    pub(super) tenant: TenantId,
    /// Who.
    pub(super) driver_id: DriverId,
    /// Where and when.
    pub(super) position: Position,
}

/// Rows of one statement.
const BATCH: usize = 2_000;

/// Breadcrumbs on their way; cheap to clone.
#[derive(Clone)]
pub(super) struct Breadcrumbs {
    waiting: Arc<Mutex<Vec<Breadcrumb>>>,
    /// Held while a batch is written, so that whoever needs a whole trace waits for what is under way.
    writing: Arc<tokio::sync::Mutex<()>>,
    most_held: usize,
}

impl Breadcrumbs {
    /// Holds at most `most_held`.
    pub(super) fn new(most_held: usize) -> Self {
        Self { waiting: Arc::default(), writing: Arc::default(), most_held }
    }

    /// Takes the positions of a driver who may be on a trip.
    pub(super) fn drop_all(&self, tenant: &TenantId, driver_id: DriverId, positions: &[Position]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.most_held.saturating_sub(waiting.len());
        let crumb = |position: &Position| Breadcrumb { tenant: tenant.clone(), driver_id, position: *position };
        waiting.extend(positions.iter().take(room).map(crumb));
        let dropped = positions.len().saturating_sub(room);
        if dropped > 0 {
            metrics::counter!("region_node_breadcrumbs_dropped_total").increment(dropped as u64);
        }
    }

    /// Writes all that waits here; returns once what it found is in Postgres.
    pub(super) async fn flush(&self, app: &App) -> Result<(), Problem> {
        let _writing = self.writing.lock().await;
        let mut crumbs = mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        // In the order of the key, so that two nodes that write at once never wait for each other in a circle.
        crumbs.sort_by(|a, b| {
            (&a.tenant, a.driver_id, a.position.recorded_at).cmp(&(&b.tenant, b.driver_id, b.position.recorded_at))
        });
        let mut written = 0;
        while written < crumbs.len() {
            let batch = &crumbs[written..(written + BATCH).min(crumbs.len())];
            if let Err(problem) = store::insert_breadcrumbs(app, batch).await {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let later = mem::take(&mut *waiting);
                *waiting = crumbs.split_off(written);
                waiting.extend(later);
                return Err(problem);
            }
            written += batch.len();
        }
        Ok(())
    }
}
