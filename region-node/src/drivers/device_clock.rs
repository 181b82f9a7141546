//! How far a device's clock is ahead or behind.
//!
//! No message comes from the future: one that seems to tells how far at least the clock is ahead. By as much as was seen once
//! every later message is moved back, so that a position sent again, late or for ever is as old as it is.
//!
//! One message cannot tell a slow clock from a slow way. Many can: of a device that reports as it drives some messages come as
//! fast as the network goes, so how late even the least late of them is, that is the clock. Positions kept in a tunnel come
//! in a burst and catch up; steady lateness is not theirs. A device that repeats an old position says nothing new, and its
//! place must grow old.

use time::{Duration, OffsetDateTime};

/// Messages of so long are looked at together.
const SPAN: Duration = Duration::seconds(20);
/// Less may be the network's.
const LEAST: Duration = Duration::seconds(5);
/// From span to span the least lateness of a clock that is behind differs by less; a device that catches up is not so steady.
const STEADY: Duration = Duration::seconds(3);
/// After so long without anything new it is begun anew, and after as long without anything at all it is forgotten.
const SILENCE: Duration = Duration::MINUTE;

/// What is known of one device's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceClock {
    ahead: Ahead,
    behind: Behind,
    /// When the device last said anything, new or not.
    spoke: OffsetDateTime,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    by: Duration,
    /// A message much later than that allows, and when it came: if others go on from it as time does, the clock was set back.
    late: Option<(OffsetDateTime, OffsetDateTime)>,
}

#[derive(Clone, Copy, Debug)]
struct Behind {
    /// The newest time the device gave, by its own clock, and when that came.
    newest: OffsetDateTime,
    heard: OffsetDateTime,
    /// When the present span began, how late its least late message was, and the same of the span before.
    began: OffsetDateTime,
    least: Duration,
    before: Option<Duration>,
    /// The span before was as late as the one before that.
    is_steady: bool,
}

impl DeviceClock {
    /// Knows one message.
    pub(super) fn new(newest: OffsetDateTime, now: OffsetDateTime) -> Self {
        Self { ahead: Ahead::default(), behind: Behind::new(newest, now), spoke: now }
    }

    /// Takes note of a message whose newest position is of `newest`; by how much the clock is ahead, or, below zero, behind: in
    /// whole seconds so that a position sent twice gets the same time twice. Zero while that is not known.
    pub(super) fn ahead(&mut self, newest: OffsetDateTime, now: OffsetDateTime) -> Duration {
        self.spoke = now;
        let behind = self.behind.note(newest, now);
        if behind.is_zero() {
            return self.ahead.note(newest, now);
        }
        self.ahead = Ahead::default();
        -behind
    }

    /// The device spoke lately.
    pub(super) fn is_in_use(&self, now: OffsetDateTime) -> bool {
        now - self.spoke < SILENCE
    }
}

impl Ahead {
    fn note(&mut self, newest: OffsetDateTime, now: OffsetDateTime) -> Duration {
        let ahead = newest - now;
        if ahead > self.by {
            self.by = rounded_up(ahead);
        }
        if ahead >= self.by - STEADY {
            self.late = None;
            return self.by;
        }
        let (of, came) = *self.late.get_or_insert((newest, now));
        let gained = (newest - of) - (now - came);
        if gained > STEADY {
            // What was late catches up.
            self.late = Some((newest, now));
        } else if gained >= -STEADY && now - came >= SPAN {
            *self = Self { by: rounded_up(ahead.max(Duration::ZERO)), late: None };
        }
        self.by
    }
}

/// Clocks that are right differ by less than a second, which is taken as it is.
fn rounded_up(ahead: Duration) -> Duration {
    let rest = ahead.subsec_nanoseconds();
    if ahead < Duration::SECOND || rest == 0 { ahead } else { Duration::seconds(ahead.whole_seconds() + 1) }
}

impl Behind {
    fn new(newest: OffsetDateTime, now: OffsetDateTime) -> Self {
        Self { newest, heard: now, began: now, least: now - newest, before: None, is_steady: false }
    }

    fn note(&mut self, newest: OffsetDateTime, now: OffsetDateTime) -> Duration {
        if now - self.heard > SILENCE {
            *self = Self::new(newest, now);
        } else if newest > self.newest {
            (self.newest, self.heard) = (newest, now);
            let late = now - newest;
            if now - self.began >= SPAN {
                let is_as_late = |before: Duration| (before - self.least).abs() <= STEADY;
                self.is_steady = self.before.is_some_and(is_as_late);
                (self.began, self.before, self.least) = (now, Some(self.least), late);
            } else {
                self.least = self.least.min(late);
            }
        }
        let is_catching_up = |before: &Duration| *before - self.least > STEADY;
        let behind = self.before.filter(|before| self.is_steady && !is_catching_up(before));
        let behind = behind.map_or(Duration::ZERO, |before| before.min(self.least));
        if behind < LEAST { Duration::ZERO } else { Duration::seconds(behind.whole_seconds()) }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    fn at(second: i64) -> OffsetDateTime {
        START + Duration::seconds(second)
    }

    /// What is known after messages that came at a second, of a second by the device's clock.
    fn ahead(messages: impl IntoIterator<Item = (i64, i64)>) -> Duration {
        let mut messages = messages.into_iter().peekable();
        let (came, of) = *messages.peek().unwrap();
        let mut clock = DeviceClock::new(at(of), at(came));
        messages.map(|(came, of)| clock.ahead(at(of), at(came))).last().unwrap_or_default()
    }

    fn behind(messages: impl IntoIterator<Item = (i64, i64)>) -> Duration {
        -ahead(messages)
    }

    #[test]
    fn a_clock_that_is_ahead_is_known_to_be_at_once_and_what_comes_late_changes_nothing() {
        let fast = |second: i64| (second, second + 30);
        assert_eq!(ahead([fast(0)]), Duration::seconds(30));
        assert_eq!(ahead([fast(0), fast(1), (2, 30), (3, 31)]), Duration::seconds(30), "sent twice");
        let stuck = (1..2_000).map(|second| (second, 30));
        assert_eq!(ahead([fast(0)].into_iter().chain(stuck)), Duration::seconds(30), "said again and again");
        // Three minutes kept in a tunnel, sent twice as fast as they were driven.
        let drains = |second: i64| (180 + second, 2 * second + 30);
        assert!(
            (1..170).all(|last| ahead([fast(0)].into_iter().chain((0..last).map(drains))) == Duration::seconds(30))
        );
    }

    #[test]
    fn a_clock_that_was_ahead_and_is_set_right_is_known_to_be_soon_though_some_messages_are_late() {
        let fast = |second: i64| (second, second + 600);
        let jitters = |second: i64| (second, second - if second % 3 == 0 { 8 } else { 0 });
        let after = |seconds: i64| (0..60).map(fast).chain((60..60 + seconds).map(jitters));
        assert_eq!(ahead(after(10)), Duration::seconds(600), "too early to tell");
        assert_eq!(ahead(after(30)), Duration::ZERO);
    }

    #[test]
    fn a_device_in_use_is_not_forgotten_even_if_it_says_nothing_new() {
        let mut clock = DeviceClock::new(at(0), at(0));
        clock.ahead(at(0), at(50));
        assert!(clock.is_in_use(at(109)));
        assert!(!clock.is_in_use(at(110)));
    }

    #[test]
    fn a_clock_that_is_behind_is_known_to_be_within_a_minute_and_right_again_at_once() {
        let slow = |second: i64| (second, second - 90);
        assert_eq!(behind((0..15).map(slow)), Duration::ZERO, "too early to tell");
        assert_eq!(behind((0..60).map(slow)), Duration::seconds(90));
        assert_eq!(behind((0..60).map(slow).chain([(60, 60)])), Duration::ZERO);
    }

    #[test]
    fn a_slow_way_and_a_few_seconds_are_no_slow_clock() {
        let jitters = |second: i64| (second, second - if second % 10 == 0 { 0 } else { 30 });
        assert_eq!(behind((0..100).map(jitters)), Duration::ZERO);
        assert_eq!(behind((0..100).map(|second| (second, second - 4))), Duration::ZERO);
    }

    #[test]
    fn what_was_kept_in_a_tunnel_is_of_when_it_says() {
        // Three minutes of it, sent twice as fast as they were driven.
        let drains = |second: i64| (180 + second, 2 * second);
        let live = (0..60).map(|second| (second - 60, second - 60));
        assert!((1..170).all(|last| behind(live.clone().chain((0..last).map(drains))) == Duration::ZERO));
    }

    #[test]
    fn a_position_said_again_and_again_grows_old() {
        let stuck = (0..300).map(|second| (second, 0));
        assert_eq!(behind(stuck), Duration::ZERO);
    }
}
