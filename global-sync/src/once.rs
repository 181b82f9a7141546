//! Saying a thing once: whoever knocks all day fills no log and no memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Said again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Things remembered; past it only the counters tell.
const REMEMBERED: usize = 256;

/// What has been said lately.
#[derive(Debug, Default)]
pub(crate) struct Once {
    said: Mutex<BTreeMap<String, Instant>>,
}

impl Once {
    /// Whether this was not said lately; from now on it was.
    pub(crate) fn is_new(&self, what: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|_, at| at.elapsed() < AGAIN_AFTER);
        if said.contains_key(what) || said.len() >= REMEMBERED {
            return false;
        }
        said.insert(what.to_owned(), Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thing_is_said_once_in_ten_minutes_and_endless_other_things_take_no_memory() {
        let once = Once::default();
        assert!(once.is_new("a"));
        assert!(!once.is_new("a"));
        for n in 0..10_000 {
            once.is_new(&n.to_string());
        }
        assert_eq!(once.said.lock().unwrap().len(), REMEMBERED);
        tokio::time::advance(AGAIN_AFTER).await;
        assert!(once.is_new("a"));
    }
}
