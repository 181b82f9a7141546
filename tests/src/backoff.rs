//! How long to wait before trying again.

use std::time::Duration;

use rand::RngExt;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double, each drawn at random so that a crowd does not come back all at once.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next wait; at least what the server asked for.
    pub fn next(&mut self, asked_for: Option<Duration>) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries += 1;
        let drawn = ceiling.mul_f64(rand::rng().random_range(0.5..1.0));
        drawn.max(asked_for.unwrap_or_default())
    }

    /// It worked: the next failure is a first one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_obey_the_server() {
        let mut backoff = Backoff::default();
        let first = backoff.next(None);
        assert!(first >= FIRST / 2 && first <= FIRST, "{first:?}");
        for _ in 0..50 {
            backoff.next(None);
        }
        let late = backoff.next(None);
        assert!(late >= LONGEST / 2 && late <= LONGEST, "{late:?}");
        assert_eq!(backoff.next(Some(Duration::from_secs(9))), Duration::from_secs(9));
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }
}
