//! A circuit breaker: a payment service that keeps falling silent is left alone for a while, ever longer, and then tried with
//! one payment before it is trusted with all. Pure: the time comes from outside.

use std::time::Duration;

use tokio::time::Instant;

use super::BreakerConfig;

/// Whether one account can be asked.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    /// Calls in a row that were not answered.
    silences: u32,
    /// Open: nobody asks before this.
    closed_to: Option<Instant>,
    /// How often it opened in a row.
    opened: u32,
}

impl Breaker {
    /// Closed.
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, silences: 0, closed_to: None, opened: 0 }
    }

    /// Lets somebody ask, or says how long to wait. Once a pause is over one is let through, who has as long as the pause was
    /// to bring an answer before the next one is.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self.closed_to {
            None => Ok(()),
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                self.closed_to = Some(now + self.pause());
                Ok(())
            }
        }
    }

    /// A call was answered: it is as good as new.
    pub(super) fn answered(&mut self) {
        *self = Self::new(self.config);
    }

    /// A call was not answered. `jitter`, 0 to 1, keeps nodes from trying together.
    pub(super) fn silent(&mut self, now: Instant, jitter: f64) {
        self.silences = self.silences.saturating_add(1);
        let is_over = self.closed_to.is_none_or(|until| now >= until - self.pause());
        if self.silences >= self.config.silences.get() && is_over {
            self.opened = self.opened.saturating_add(1);
            self.closed_to = Some(now + self.pause().mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0));
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.closed_to.is_some()
    }

    fn pause(&self) -> Duration {
        let doubled = self.config.first_pause.saturating_mul(2_u32.pow(self.opened.saturating_sub(1).min(10)));
        doubled.min(self.config.longest_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCES: u32 = 10;
    const FIRST_PAUSE: Duration = Duration::from_secs(5);
    const LONGEST_PAUSE: Duration = Duration::from_mins(1);

    fn closed() -> Breaker {
        let silences = SILENCES.try_into().unwrap();
        Breaker::new(BreakerConfig { silences, first_pause: FIRST_PAUSE, longest_pause: LONGEST_PAUSE })
    }

    fn opened(now: Instant) -> Breaker {
        let mut breaker = closed();
        for _ in 0..SILENCES {
            assert_eq!(breaker.admit(now), Ok(()));
            breaker.silent(now, 1.0);
        }
        breaker
    }

    #[test]
    fn only_silence_upon_silence_opens_it() {
        let now = Instant::now();
        let mut breaker = closed();
        for _ in 0..5 {
            (1..SILENCES).for_each(|_| breaker.silent(now, 1.0));
            assert_eq!(breaker.admit(now), Ok(()));
            breaker.answered();
        }
        assert!(!breaker.is_open());
        assert_eq!(opened(now).admit(now), Err(FIRST_PAUSE));
    }

    #[test]
    fn after_the_pause_one_is_let_through_and_his_answer_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + FIRST_PAUSE;
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(breaker.admit(later).is_err(), "one at a time");
        breaker.answered();
        assert_eq!(breaker.admit(later), Ok(()));
        assert_eq!(breaker.admit(later), Ok(()));
    }

    #[test]
    fn each_silence_after_a_pause_makes_the_next_one_longer_up_to_a_limit() {
        let mut now = Instant::now();
        let (mut breaker, mut pauses) = (opened(now), Vec::new());
        for _ in 0..8 {
            let pause = breaker.admit(now).unwrap_err();
            pauses.push(pause);
            now += pause;
            assert_eq!(breaker.admit(now), Ok(()));
            breaker.silent(now, 1.0);
        }
        assert!(pauses.is_sorted() && pauses[0] < pauses[1], "{pauses:?}");
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
    }
}
