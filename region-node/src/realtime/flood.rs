//! How much one driver's socket may send. Counted per socket, in numbers of its own: no message waits for another driver's.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{config::LimitsConfig, pace::Pace};

/// Positions that may come at once, in time at their pace: those of a minute without a network.
const POSITIONS_AT_ONCE: Duration = Duration::from_secs(60);
/// The same of other events.
const EVENTS_AT_ONCE: Duration = Duration::from_secs(5);
/// A socket with so many more messages refused than taken is cut off.
const MOST_REFUSED: u32 = 100;

/// One socket's messages, counted.
#[derive(Debug)]
pub(super) struct Flood {
    positions: Pace,
    events: Pace,
    refused: AtomicU32,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is taken.
    Taken,
    /// It is not.
    Refused,
    /// Nor is any other of this socket.
    CutOff,
}

impl Flood {
    /// Of a new socket.
    pub(super) fn new(limits: &LimitsConfig) -> Self {
        Self {
            positions: Pace::new(limits.positions_per_second),
            events: Pace::new(limits.socket_events_per_second),
            refused: AtomicU32::new(0),
        }
    }

    /// Counts so many positions.
    pub(super) fn positions(&self, count: usize) -> Verdict {
        self.judge(self.positions.take(count, POSITIONS_AT_ONCE), "positions")
    }

    /// Counts an event.
    pub(super) fn event(&self) -> Verdict {
        self.judge(self.events.take(1, EVENTS_AT_ONCE), "events")
    }

    fn judge(&self, taken: Option<Duration>, limit: &'static str) -> Verdict {
        // A socket's messages are read one after the other, so nothing is lost between the two.
        let refused = self.refused.load(Ordering::Relaxed);
        if taken.is_some() {
            if refused > 0 {
                self.refused.store(refused - 1, Ordering::Relaxed);
            }
            return Verdict::Taken;
        }
        metrics::counter!("region_node_rate_limited_total", "limit" => limit).increment(1);
        self.refused.store(refused.saturating_add(1), Ordering::Relaxed);
        if refused < MOST_REFUSED { Verdict::Refused } else { Verdict::CutOff }
    }
}
