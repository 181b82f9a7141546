//! Time is an argument: programs ask a [`Clock`], tests move one.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use time::{Duration, OffsetDateTime};

/// Tells the time; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Nanoseconds added to the system's time; only tests move it.
    offset_ns: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// Now, in UTC, to the microsecond: what Postgres stores, so that a time read back equals the one written.
    pub fn now(&self) -> OffsetDateTime {
        #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
        let now = OffsetDateTime::now_utc() + Duration::nanoseconds(self.offset_ns.load(Ordering::Relaxed));
        now.replace_nanosecond(now.nanosecond() / 1_000 * 1_000).expect("rounding down keeps it below a second")
    }

    /// Moves this clock and its clones forward (or back), for tests and drills.
    pub fn advance(&self, by: Duration) {
        let ns = i64::try_from(by.whole_nanoseconds()).expect("a test moves the clock by less than 292 years");
        self.offset_ns.fetch_add(ns, Ordering::Relaxed);
    }
}
