//! How long a ride waits for others to be matched with: not at all where it comes alone, else to the end of its area's
//! window. Pure but for what it remembers; time is an argument.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration as StdDuration,
};

use h3o::CellIndex;
use shared::{geo::Point, ids::TenantId};
use time::{Duration, OffsetDateTime};

use crate::drivers::area_of;

/// Areas remembered before those are forgotten whose last ride was longer ago than any window.
const MOST_AREAS: usize = 10_000;
/// No tenant's window is longer (`shared::tenant_config`).
const LONGEST_WINDOW: Duration = Duration::seconds(10);

/// When a ride last came in, by tenant and area, as far as this node heard; cheap to clone. Nodes need not agree: a window
/// ends at the same moment on each, and whoever looks first takes all that is due.
#[derive(Clone, Default)]
pub struct Windows {
    last: Arc<Mutex<HashMap<(TenantId, CellIndex), OffsetDateTime>>>,
}

impl Windows {
    /// When a ride from `pickup` that comes in at `now` is to be looked at. Alone in its area for a whole window it competes
    /// with nobody, and waiting would only cost time; after another, those of the window are looked at together.
    pub fn due_at(&self, tenant: &TenantId, pickup: Point, window: StdDuration, now: OffsetDateTime) -> OffsetDateTime {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MOST_AREAS {
            last.retain(|_, at| *at > now - LONGEST_WINDOW);
            if last.len() >= MOST_AREAS {
                last.clear();
            }
        }
        match last.insert((tenant.clone(), area_of(pickup)), now) {
            // A clock that was ahead and no longer is must not make anybody wait.
            Some(before) if now - before < window && before <= now => step_after(now, window),
            _ => now,
        }
    }
}

/// The next moment after `now` in steps of `every`, the same on each node.
pub(super) fn step_after(now: OffsetDateTime, every: StdDuration) -> OffsetDateTime {
    let every_ns = i128::try_from(every.as_nanos()).unwrap_or(i128::MAX).max(1);
    let into_ns = now.unix_timestamp_nanos().rem_euclid(every_ns);
    // Shorter than `every`, which is seconds at most; a longer one saturates and is cut by the ride's end.
    now + Duration::nanoseconds(i64::try_from(every_ns - into_ns).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00.050 UTC);
    const HERE: Point = Point::new(40.758, -73.9855);
    const THERE: Point = Point::new(40.65, -73.78);
    const WINDOW: StdDuration = StdDuration::from_millis(200);

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[test]
    fn a_ride_alone_in_its_area_is_looked_at_at_once_and_others_when_the_window_ends() {
        let windows = Windows::default();
        let due = |pickup, after_ms| {
            windows.due_at(&tenant("cabs"), pickup, WINDOW, NOW + Duration::milliseconds(after_ms)) - NOW
        };
        assert_eq!(due(HERE, 0), Duration::ZERO);
        assert_eq!(due(HERE, 10), Duration::milliseconds(150));
        assert_eq!(due(HERE, 149), Duration::milliseconds(150));
        assert_eq!(due(HERE, 160), Duration::milliseconds(350));
        // The roads were empty for a window: at once again.
        assert_eq!(due(HERE, 360), Duration::milliseconds(360));
        // Neither another area nor another tenant competes.
        assert_eq!(due(THERE, 361), Duration::milliseconds(361));
        let other = windows.due_at(&tenant("vans"), HERE, WINDOW, NOW + Duration::milliseconds(361));
        assert_eq!(other - NOW, Duration::milliseconds(361));
    }

    #[test]
    fn without_a_window_nobody_waits_and_a_clock_set_back_makes_nobody_wait() {
        let windows = Windows::default();
        let cabs = tenant("cabs");
        for _ in 0..3 {
            assert_eq!(windows.due_at(&cabs, HERE, StdDuration::ZERO, NOW), NOW);
        }
        let before = NOW - Duration::hours(1);
        assert_eq!(windows.due_at(&cabs, HERE, WINDOW, before), before);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let windows = Windows::default();
        for n in 0..2 * MOST_AREAS {
            let pickup = Point::new(-60.0 + (n / 200) as f64, -100.0 + (n % 200) as f64);
            windows.due_at(&tenant("cabs"), pickup, WINDOW, NOW);
        }
        assert!(windows.last.lock().unwrap().len() <= MOST_AREAS);
    }

    proptest! {
        #[test]
        fn nobody_waits_for_longer_than_a_window(
            gaps_ms in prop::collection::vec(0..500_i64, 1..50), window_ms in 0..1_000_u64,
        ) {
            let (windows, window) = (Windows::default(), StdDuration::from_millis(window_ms));
            let mut now = NOW;
            for gap_ms in gaps_ms {
                now += Duration::milliseconds(gap_ms);
                let due = windows.due_at(&tenant("cabs"), HERE, window, now);
                prop_assert!(now <= due && due <= now + window);
            }
        }
    }
}
