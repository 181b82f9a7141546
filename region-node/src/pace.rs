//! How often something may happen: a few at once, then one at a time. One number, changed without a lock.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

/// So many a second.
#[derive(Debug)]
pub struct Pace {
    every_us: i64,
    begun: Instant,
    /// When, in microseconds since the beginning, all that was allowed so far is over.
    busy_until_us: AtomicI64,
}

impl Pace {
    /// `per_second` of them.
    pub fn new(per_second: NonZeroU32) -> Self {
        let every_us = (1_000_000 / i64::from(per_second.get())).max(1);
        Self { every_us, begun: Instant::now(), busy_until_us: AtomicI64::new(0) }
    }

    /// Takes `count` of them if the last one's turn comes within `patience`; how long until then.
    pub fn take(&self, count: usize, patience: Duration) -> Option<Duration> {
        self.take_at(count, patience, self.begun.elapsed())
    }

    fn take_at(&self, count: usize, patience: Duration, now: Duration) -> Option<Duration> {
        let (now, patience) = (micros(now), micros(patience));
        let cost = self.every_us.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX));
        let end = |busy_until: i64| busy_until.max(now).saturating_add(cost);
        let taken = self.busy_until_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy_until| {
            Some(end(busy_until)).filter(|end| end - now <= patience)
        });
        let busy_until = taken.ok()?;
        // The first of them may go at once.
        Some(Duration::from_micros(u64::try_from(busy_until.max(now) - now).unwrap_or_default()))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_at_a_time() {
        let pace = Pace::new(NonZeroU32::new(10).unwrap());
        let allowed = (0..50).filter(|_| pace.take_at(1, BURST, at(0)).is_some()).count();
        assert_eq!(allowed, 20);
        assert_eq!(pace.take_at(1, BURST, at(99)), None);
        assert!(pace.take_at(1, BURST, at(100)).is_some());
        assert_eq!(pace.take_at(1, BURST, at(100)), None);
        assert_eq!(
            (0..50).filter(|_| pace.take_at(1, BURST, at(60_000)).is_some()).count(),
            20,
            "idle time is not saved up"
        );
    }

    #[test]
    fn whoever_comes_too_soon_hears_how_long_to_wait_and_many_count_as_many() {
        let pace = Pace::new(NonZeroU32::new(10).unwrap());
        assert_eq!(pace.take_at(10, BURST, at(0)), Some(at(0)));
        assert_eq!(pace.take_at(5, BURST, at(0)), Some(at(1_000)));
        assert_eq!(pace.take_at(6, BURST, at(0)), None, "the last of them would come too late");
        assert_eq!(pace.take_at(5, BURST, at(500)), Some(at(1_000)));
    }
}
