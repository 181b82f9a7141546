//! Waiting for a condition instead of for a time.

use std::{fmt::Display, time::Duration};

use tokio::time::Instant;

const USUALLY: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Looks again and again until `look` finds something; panics with what it last saw when that takes too long.
pub async fn eventually<T, E: Display>(what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> T {
    eventually_within(USUALLY, what, look).await
}

/// As [`eventually`], with a limit of its own.
pub async fn eventually_within<T, E: Display>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let give_up_at = Instant::now() + limit;
    loop {
        let seen = match look().await {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(Instant::now() < give_up_at, "{what}: not within {limit:?}; last seen: {seen}");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_comes_true_is_waited_for() {
        let mut looks = 0;
        let found = eventually("three looks", async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks} looks")) }
        });
        assert_eq!(found.await, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "a miracle: not within 1s; last seen: nothing")]
    async fn one_that_never_does_says_what_was_seen_last() {
        eventually_within(Duration::from_secs(1), "a miracle", async || Err::<(), _>("nothing")).await;
    }
}
