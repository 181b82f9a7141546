//! The traces of running trips: kept whole, because the fare needs them.
//!
//! What drivers on a trip report waits here for a moment and goes to Postgres in batches. Which trip a position belongs to
//! is decided there, by driver and time, so that a table that knows too little or too much loses and invents nothing.
//! Until Postgres has taken a batch it stays here, whatever becomes of the call that writes it: who ends a trip writes what
//! waits, other drivers' traces among it, and may hang up in the middle.
//!
//! Whoever wants to know that his positions are kept has what waits written too, and all that came meanwhile goes with the next
//! batch: however many ask, one statement is under way.
//!
//! While Postgres is away the room is shared out: whoever holds more than an equal share keeps every second of his own
//! positions, the newest among them. So nobody pushes out another's, and each trace becomes coarser, never cut off.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shared::ids::{DriverId, TenantId};
use tokio::sync::watch;

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
const ROWS: usize = 2_000;

/// Breadcrumbs on their way; cheap to clone.
#[derive(Clone)]
pub(super) struct Breadcrumbs {
    held: Arc<Mutex<Held>>,
    /// Held while a batch is written, so that whoever needs a whole trace waits for what is under way.
    writing: Arc<tokio::sync::Mutex<()>>,
    /// The newest batch that is in Postgres, and with it all before.
    written: watch::Sender<Batch>,
    /// Of what waits. As much may be in the midst of being written, and come back.
    most_waiting: usize,
}

/// What waits to be written.
#[derive(Default)]
struct Held {
    traces: BTreeMap<DriverId, Trace>,
    /// Positions of all of them.
    count: usize,
    /// Batches taken from here before this one.
    taken: u64,
}

/// What waited at one time, by its number. What could not be written is in a later one as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Batch(u64);

struct Trace {
    tenant: TenantId,
    positions: Vec<Position>,
}

impl Held {
    /// The batch that is taken next.
    fn next(&self) -> Batch {
        Batch(self.taken + 1)
    }

    /// Its traces; it holds none any more.
    fn take(&mut self) -> BTreeMap<DriverId, Trace> {
        self.count = 0;
        mem::take(&mut self.traces)
    }

    fn of(held: &Mutex<Self>) -> MutexGuard<'_, Self> {
        held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&mut self, tenant: &TenantId, driver_id: DriverId, positions: &[Position]) {
        let new = || Trace { tenant: tenant.clone(), positions: Vec::new() };
        self.traces.entry(driver_id).or_insert_with(new).positions.extend_from_slice(positions);
        self.count += positions.len();
    }

    /// Makes what is held fit, but for the newest position of each driver.
    fn thin(&mut self, most: usize) {
        if self.count > most {
            // What was not answered in time was sent again.
            self.count -= self.traces.values_mut().map(Trace::forget_copies).sum::<usize>();
        }
        let before = self.count;
        while self.count > most {
            let share = (most / self.traces.len()).max(1);
            let held = self.count;
            for trace in self.traces.values_mut().filter(|trace| trace.positions.len() > share) {
                self.count -= trace.keep_every_second();
            }
            if self.count == held {
                break;
            }
        }
        if self.count < before {
            metrics::counter!("region_node_breadcrumbs_dropped_total").increment((before - self.count) as u64);
        }
    }
}

impl Trace {
    /// Keeps one of those that are of the same time; how many are gone.
    fn forget_copies(&mut self) -> usize {
        let before = self.positions.len();
        self.positions.sort_by_key(|position| position.recorded_at);
        self.positions.dedup_by_key(|position| position.recorded_at);
        before - self.positions.len()
    }

    /// Counted from the newest; how many are gone.
    fn keep_every_second(&mut self) -> usize {
        let before = self.positions.len();
        let mut left = before;
        self.positions.retain(|_| {
            left -= 1;
            left.is_multiple_of(2)
        });
        before - self.positions.len()
    }
}

/// Breadcrumbs on their way to Postgres. Dropped, by a failure or because nobody waits any more, it puts back what is not
/// known to be there; what was written after all is found there by its key and not written twice.
struct Batches<'a> {
    all: &'a Breadcrumbs,
    batch: Batch,
    crumbs: Vec<Breadcrumb>,
    written: usize,
}

impl Batches<'_> {
    fn next(&self) -> Option<&[Breadcrumb]> {
        let left = &self.crumbs[self.written..];
        (!left.is_empty()).then(|| &left[..left.len().min(ROWS)])
    }
}

impl Drop for Batches<'_> {
    fn drop(&mut self) {
        if self.next().is_none() {
            self.all.written.send_replace(self.batch);
            return;
        }
        let mut held = Held::of(&self.all.held);
        let later = held.take();
        for Breadcrumb { tenant, driver_id, position } in &self.crumbs[self.written..] {
            held.add(tenant, *driver_id, &[*position]);
        }
        for (driver_id, Trace { tenant, positions }) in later {
            held.add(&tenant, driver_id, &positions);
        }
        held.thin(self.all.most_waiting);
    }
}

impl Breadcrumbs {
    /// Holds at most `most_held`, what is being written included.
    pub(super) fn new(most_held: usize) -> Self {
        let written = watch::Sender::new(Batch(0));
        Self { held: Arc::default(), writing: Arc::default(), written, most_waiting: most_held / 2 }
    }

    /// Takes the positions of a driver who may be on a trip; in which batch they are.
    pub(super) fn drop_all(&self, tenant: &TenantId, driver_id: DriverId, positions: &[Position]) -> Batch {
        let mut held = Held::of(&self.held);
        held.add(tenant, driver_id, positions);
        held.thin(self.most_waiting);
        held.next()
    }

    /// Writes all that waits here; returns once what it found is in Postgres.
    pub(super) async fn flush(&self, app: &App) -> Result<(), Problem> {
        let _writing = self.writing.lock().await;
        self.write(app).await
    }

    /// Returns once a batch is in Postgres, having it written unless somebody else does.
    pub(super) async fn keep(&self, app: &App, batch: Batch) -> Result<(), Problem> {
        let mut written = self.written.subscribe();
        let writing = tokio::select! {
            biased;
            _ = written.wait_for(|written| *written >= batch) => return Ok(()),
            writing = self.writing.clone().lock_owned() => writing,
        };
        if *self.written.borrow() >= batch {
            return Ok(());
        }
        // In a task of its own: whoever waits no longer leaves the others what has begun.
        let (crumbs, app) = (self.clone(), app.clone());
        let write = app.tasks.clone().spawn(async move {
            let _writing = writing;
            crumbs.write(&app).await
        });
        write.await.unwrap_or_else(|_| Err(Problem::internal()))
    }

    async fn write(&self, app: &App) -> Result<(), Problem> {
        let mut batches = self.take_all();
        while let Some(batch) = batches.next() {
            store::insert_breadcrumbs(app, batch).await?;
            batches.written += batch.len();
        }
        Ok(())
    }

    fn take_all(&self) -> Batches<'_> {
        let (batch, traces) = {
            let mut held = Held::of(&self.held);
            held.taken += 1;
            (Batch(held.taken), held.take())
        };
        // In an order that is the same everywhere, so that two nodes that write at once never wait for each other in a circle.
        let crumbs = traces.into_iter().flat_map(|(driver_id, Trace { tenant, mut positions })| {
            positions.sort_by_key(|position| position.recorded_at);
            positions.into_iter().map(move |position| Breadcrumb { tenant: tenant.clone(), driver_id, position })
        });
        Batches { all: self, batch, crumbs: crumbs.collect(), written: 0 }
    }
}

#[cfg(test)]
mod tests {
    use shared::geo::Point;
    use time::{Duration, macros::datetime};

    use super::*;

    fn trace(seconds: impl IntoIterator<Item = i64>) -> Vec<Position> {
        let at = |second: i64| Position {
            point: Point::new(40.0, -74.0),
            heading: None,
            recorded_at: datetime!(2026-03-01 12:00 UTC) + Duration::seconds(second),
        };
        seconds.into_iter().map(at).collect()
    }

    fn held(crumbs: &Breadcrumbs, driver: DriverId) -> Vec<Position> {
        Held::of(&crumbs.held).traces.get(&driver).map(|trace| trace.positions.clone()).unwrap_or_default()
    }

    #[test]
    fn what_was_not_written_comes_back_before_what_came_meanwhile_and_all_of_it_is_bounded() {
        let (crumbs, tenant, driver) = (Breadcrumbs::new(12), "cabs".parse().unwrap(), DriverId::new());
        crumbs.drop_all(&tenant, driver, &trace(0..4));
        let mut batches = crumbs.take_all();
        assert_eq!(held(&crumbs, driver), []);
        crumbs.drop_all(&tenant, driver, &trace(4..7));
        batches.written = 1;
        drop(batches);
        assert_eq!(held(&crumbs, driver), trace(1..7));
        crumbs.drop_all(&tenant, driver, &trace(7..8));
        assert_eq!(held(&crumbs, driver), trace([1, 3, 5, 7]), "coarser, from its beginning to its end");
        let mut batches = crumbs.take_all();
        batches.written = batches.next().unwrap().len();
        assert!(batches.next().is_none());
        drop(batches);
        assert_eq!(held(&crumbs, driver), [], "what was written is gone");
    }

    #[test]
    fn a_batch_is_written_once_what_was_in_it_is_in_whichever_batch_that_was() {
        let (crumbs, tenant, driver) = (Breadcrumbs::new(12), "cabs".parse().unwrap(), DriverId::new());
        let written = || *crumbs.written.borrow();
        let first = crumbs.drop_all(&tenant, driver, &trace(0..2));
        assert_eq!(crumbs.drop_all(&tenant, driver, &trace(2..3)), first);
        assert_ne!(written(), first);
        let failed = crumbs.take_all();
        let second = crumbs.drop_all(&tenant, driver, &trace(3..4));
        assert_ne!(second, first);
        drop(failed);
        assert_ne!(written(), first, "it came back");
        let mut batches = crumbs.take_all();
        batches.written = batches.crumbs.len();
        assert_eq!(batches.written, 4);
        drop(batches);
        assert_eq!(written(), second);
    }

    #[test]
    fn whoever_says_much_pushes_out_nobody_else_s_trace() {
        let (crumbs, tenant) = (Breadcrumbs::new(200), "cabs".parse().unwrap());
        let (quiet, loud) = (DriverId::new(), DriverId::new());
        crumbs.drop_all(&tenant, quiet, &trace(0..50));
        for second in 0..1_000 {
            crumbs.drop_all(&tenant, loud, &trace([second]));
        }
        assert_eq!(held(&crumbs, quiet), trace(0..50), "not above an equal share");
        let (all, newest) = (held(&crumbs, loud), trace([999]));
        assert!((25..=50).contains(&all.len()), "{}", all.len());
        assert_eq!(all.last(), newest.last());
        // Somebody more: now all three share.
        let late = DriverId::new();
        crumbs.drop_all(&tenant, late, &trace(0..30));
        assert_eq!(held(&crumbs, late), trace(0..30));
        assert!(Held::of(&crumbs.held).count <= 100);
    }

    #[test]
    fn what_was_sent_again_pushes_nothing_out() {
        let (crumbs, tenant, driver) = (Breadcrumbs::new(20), "cabs".parse().unwrap(), DriverId::new());
        for _ in 0..50 {
            crumbs.drop_all(&tenant, driver, &trace(0..8));
        }
        let mut kept = held(&crumbs, driver);
        kept.dedup();
        assert_eq!(kept[..8], trace(0..8));
        assert!(Held::of(&crumbs.held).count <= 10);
    }

    #[test]
    fn the_newest_of_each_driver_is_kept_however_many_there_are() {
        let (crumbs, tenant) = (Breadcrumbs::new(4), "cabs".parse().unwrap());
        let drivers: Vec<DriverId> = (0..10).map(|_| DriverId::new()).collect();
        for driver in &drivers {
            crumbs.drop_all(&tenant, *driver, &trace(0..3));
        }
        assert!(drivers.iter().all(|driver| held(&crumbs, *driver) == trace([2])));
    }
}
