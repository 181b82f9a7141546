//! The traces of running trips: kept whole, because the fare needs them.
//!
//! What drivers on a trip report waits here for a moment and goes to Postgres in batches. Which trip a position belongs to
//! is decided there, by driver and time, so that a table that knows too little or too much loses and invents nothing.
//! Until Postgres has taken a batch it stays here, whatever becomes of the call that writes it: who ends a trip writes what
//! waits, other drivers' traces among it, and may hang up in the middle.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    held: Arc<Mutex<Held>>,
    /// Held while a batch is written, so that whoever needs a whole trace waits for what is under way.
    writing: Arc<tokio::sync::Mutex<()>>,
    most_held: usize,
}

/// What Postgres has not taken yet.
#[derive(Default)]
struct Held {
    waiting: Vec<Breadcrumb>,
    /// Taken out to be written; they come back if they are not.
    being_written: usize,
}

impl Held {
    fn of(held: &Mutex<Self>) -> MutexGuard<'_, Self> {
        held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Breadcrumbs on their way to Postgres. Dropped, by a failure or because nobody waits any more, it puts back what is not
/// known to be there; what was written after all is found there by its key and not written twice.
struct Batches<'a> {
    held: &'a Mutex<Held>,
    crumbs: Vec<Breadcrumb>,
    written: usize,
}

impl Batches<'_> {
    fn next(&self) -> Option<&[Breadcrumb]> {
        let left = &self.crumbs[self.written..];
        (!left.is_empty()).then(|| &left[..left.len().min(BATCH)])
    }
}

impl Drop for Batches<'_> {
    fn drop(&mut self) {
        let mut held = Held::of(self.held);
        held.being_written = 0;
        let later = mem::replace(&mut held.waiting, self.crumbs.split_off(self.written));
        held.waiting.extend(later);
    }
}

impl Breadcrumbs {
    /// Holds at most `most_held`.
    pub(super) fn new(most_held: usize) -> Self {
        Self { held: Arc::default(), writing: Arc::default(), most_held }
    }

    /// Takes the positions of a driver who may be on a trip.
    pub(super) fn drop_all(&self, tenant: &TenantId, driver_id: DriverId, positions: &[Position]) {
        let mut held = Held::of(&self.held);
        let room = self.most_held.saturating_sub(held.waiting.len() + held.being_written);
        let crumb = |position: &Position| Breadcrumb { tenant: tenant.clone(), driver_id, position: *position };
        held.waiting.extend(positions.iter().take(room).map(crumb));
        let dropped = positions.len().saturating_sub(room);
        if dropped > 0 {
            metrics::counter!("region_node_breadcrumbs_dropped_total").increment(dropped as u64);
        }
    }

    /// Writes all that waits here; returns once what it found is in Postgres.
    pub(super) async fn flush(&self, app: &App) -> Result<(), Problem> {
        let _writing = self.writing.lock().await;
        let mut batches = self.take_all();
        while let Some(batch) = batches.next() {
            store::insert_breadcrumbs(app, batch).await?;
            batches.written += batch.len();
        }
        Ok(())
    }

    fn take_all(&self) -> Batches<'_> {
        let mut held = Held::of(&self.held);
        let mut crumbs = mem::take(&mut held.waiting);
        held.being_written = crumbs.len();
        drop(held);
        // In the order of the key, so that two nodes that write at once never wait for each other in a circle.
        crumbs.sort_by(|a, b| {
            (&a.tenant, a.driver_id, a.position.recorded_at).cmp(&(&b.tenant, b.driver_id, b.position.recorded_at))
        });
        Batches { held: &self.held, crumbs, written: 0 }
    }
}

#[cfg(test)]
mod tests {
    use shared::geo::Point;
    use time::{Duration, macros::datetime};

    use super::*;

    const MOST: usize = 6;

    fn trace(from: usize, to: usize) -> Vec<Position> {
        let at = |i: usize| Position {
            point: Point::new(40.0, -74.0),
            heading: None,
            recorded_at: datetime!(2026-03-01 12:00 UTC) + Duration::seconds(i64::try_from(i).unwrap()),
        };
        (from..to).map(at).collect()
    }

    fn held(crumbs: &Breadcrumbs) -> Vec<Position> {
        Held::of(&crumbs.held).waiting.iter().map(|crumb| crumb.position).collect()
    }

    #[test]
    fn what_was_not_written_comes_back_before_what_came_meanwhile_and_all_of_it_is_bounded() {
        let (crumbs, tenant, driver) = (Breadcrumbs::new(MOST), "cabs".parse().unwrap(), DriverId::new());
        crumbs.drop_all(&tenant, driver, &trace(0, 4));
        let mut batches = crumbs.take_all();
        assert_eq!(held(&crumbs), []);
        // What is being written may come back, so there is room for two more only.
        crumbs.drop_all(&tenant, driver, &trace(4, 9));
        batches.written = 1;
        drop(batches);
        assert_eq!(held(&crumbs), trace(1, 6));
        crumbs.drop_all(&tenant, driver, &trace(6, 9));
        assert_eq!(held(&crumbs), trace(1, 7));
        let mut batches = crumbs.take_all();
        batches.written = batches.next().unwrap().len();
        assert!(batches.next().is_none());
        drop(batches);
        assert_eq!(held(&crumbs), [], "what was written is gone");
    }
}
