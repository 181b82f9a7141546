//! What a fleet notes down: counts for the summary.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::ids::RideId;
use tokio::time::Instant;

/// Waits longer ago than this say nothing about now.
const RECENT: Duration = Duration::from_secs(300);
const MINUTE: Duration = Duration::from_secs(60);
/// Of a ride that nobody was ever offered the request is forgotten after so many others.
const OPEN_WAITS: usize = 4_096;

/// Shared by all people of a fleet.
#[derive(Debug, Default)]
pub struct Tally {
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    online: i64,
    open_rides: i64,
    completed: u64,
    matches: VecDeque<Instant>,
    waits: VecDeque<(Instant, Duration)>,
    /// Rides of which one end of the wait is known: the offer may be seen before the answer to the request.
    half_known: HashMap<RideId, Half>,
}

#[derive(Clone, Copy, Debug)]
enum Half {
    Requested(Instant),
    Offered(Instant),
}

/// The state of a fleet at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub online: i64,
    pub open_rides: i64,
    pub completed: u64,
    pub matches_per_minute: usize,
    /// From the request to the first offer, 95th percentile of the last five minutes.
    pub offer_p95: Option<Duration>,
}

impl Tally {
    pub fn went_online(&self) {
        self.notes().online += 1;
    }

    pub fn went_offline(&self) {
        self.notes().online -= 1;
    }

    pub fn ride_opened(&self) {
        self.notes().open_rides += 1;
    }

    pub fn ride_closed(&self) {
        self.notes().open_rides -= 1;
    }

    pub fn ride_completed(&self) {
        self.notes().completed += 1;
    }

    pub fn matched(&self) {
        self.notes().matches.push_back(Instant::now());
    }

    /// A ride was asked for at `moment`.
    pub fn requested(&self, ride: RideId, moment: Instant) {
        let mut notes = self.notes();
        match notes.half_known.remove(&ride) {
            Some(Half::Offered(offered)) => notes.waited(offered.saturating_duration_since(moment)),
            Some(Half::Requested(_)) | None => notes.learn(ride, Half::Requested(moment)),
        }
    }

    /// A driver has just been offered a ride.
    pub fn offered(&self, ride: RideId) {
        let mut notes = self.notes();
        match notes.half_known.remove(&ride) {
            Some(Half::Requested(requested)) => notes.waited(requested.elapsed()),
            // A ride offered again, or one whose request is still on its way back.
            Some(Half::Offered(first)) => notes.learn(ride, Half::Offered(first)),
            None => notes.learn(ride, Half::Offered(Instant::now())),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut notes = self.notes();
        while notes.matches.front().is_some_and(|moment| moment.elapsed() > MINUTE) {
            notes.matches.pop_front();
        }
        while notes.waits.front().is_some_and(|(moment, _)| moment.elapsed() > RECENT) {
            notes.waits.pop_front();
        }
        let mut waits: Vec<_> = notes.waits.iter().map(|(_, wait)| *wait).collect();
        waits.sort_unstable();
        Snapshot {
            online: notes.online,
            open_rides: notes.open_rides,
            completed: notes.completed,
            matches_per_minute: notes.matches.len(),
            offer_p95: waits.get((waits.len() * 95 / 100).min(waits.len().saturating_sub(1))).copied(),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Counts stay usable whatever happened to the task that held them.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    fn waited(&mut self, wait: Duration) {
        self.waits.push_back((Instant::now(), wait));
    }

    fn learn(&mut self, ride: RideId, half: Half) {
        if self.half_known.len() >= OPEN_WAITS {
            self.half_known.clear();
        }
        self.half_known.insert(ride, half);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_measured_whichever_end_is_heard_of_first() {
        let tally = Tally::default();
        let [slow, quick] = [RideId::new(), RideId::new()];
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(200)).await;
        tally.offered(quick);
        tally.requested(quick, asked);
        tally.requested(slow, asked);
        tokio::time::advance(Duration::from_millis(700)).await;
        tally.offered(slow);
        assert_eq!(tally.snapshot().offer_p95, Some(Duration::from_millis(900)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_later_a_match_no_longer_counts() {
        let tally = Tally::default();
        tally.matched();
        assert_eq!(tally.snapshot().matches_per_minute, 1);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(tally.snapshot(), Snapshot::default());
    }
}
