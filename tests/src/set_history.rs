//! A set that many write and many read at once, judged by what readers saw and when: Jepsen's set-full.
//!
//! An element is known from when its writer was told that it is there, or from when anybody read it. What a reader makes of it
//! then follows from its last read with the element and its last read without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// What was written, what of it was acknowledged, and what readers saw.
#[derive(Debug, Default)]
pub struct SetHistory<E> {
    elements: BTreeMap<E, Element>,
    readers: BTreeMap<String, Reader<E>>,
}

#[derive(Debug, Default)]
struct Element {
    acknowledged: bool,
    known_at: Option<Instant>,
}

#[derive(Debug)]
struct Reader<E> {
    reads: usize,
    /// Nothing is known to it before.
    since: Instant,
    seen: BTreeMap<E, Seen>,
    gone: BTreeSet<E>,
    unwritten: BTreeSet<E>,
}

/// When the last reads began.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    with: Option<Instant>,
    without: Option<Instant>,
}

/// What one reader makes of all elements that are known.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict<E> {
    /// How often it read.
    pub reads: usize,
    /// Elements in its last reads.
    pub stable: usize,
    /// How many of those it did not read for a while although they were known.
    pub stale: usize,
    /// The longest time it did not read one of them.
    pub longest_stale: Duration,
    /// Known when its last read began, and not in it.
    pub lost: BTreeSet<E>,
    /// Known, and it has not read since.
    pub never_read: BTreeSet<E>,
    /// In one of its reads and not in a later one, though perhaps once more after that.
    pub gone: BTreeSet<E>,
    /// Read, and nobody wrote it.
    pub unwritten: BTreeSet<E>,
}

impl<E: Copy + Ord> SetHistory<E> {
    /// Somebody begins to write an element.
    pub fn tries(&mut self, element: E) {
        self.elements.entry(element).or_default();
    }

    /// The writer has been told that it is there.
    pub fn is_acknowledged(&mut self, element: E, at: Instant) {
        let of = self.elements.entry(element).or_default();
        of.acknowledged = true;
        of.known_at = Some(of.known_at.map_or(at, |known| known.min(at)));
    }

    /// A reader has read this, in a read that ended just now. Each reads one time after the other.
    pub fn reads(&mut self, reader: &str, began: Instant, read: &BTreeSet<E>) {
        let ended = Instant::now();
        let of = self.readers.entry(reader.to_owned()).or_insert_with(|| Reader::since(began));
        of.reads += 1;
        of.unwritten.extend(read.iter().filter(|element| !self.elements.contains_key(element)));
        for (element, state) in &mut self.elements {
            let seen = of.seen.entry(*element).or_default();
            if read.contains(element) {
                state.known_at.get_or_insert(ended);
                seen.with = Some(began);
            } else {
                if seen.with > seen.without {
                    of.gone.insert(*element);
                }
                seen.without = Some(began);
            }
        }
    }

    /// What this reader reads is put back to what it was once: it begins to read anew, of what is known.
    pub fn begins_anew(&mut self, reader: &str) {
        self.readers.insert(reader.to_owned(), Reader::since(Instant::now()));
    }

    /// What was acknowledged.
    pub fn acknowledged(&self) -> BTreeSet<E> {
        self.elements.iter().filter(|(_, of)| of.acknowledged).map(|(element, _)| *element).collect()
    }

    /// How often a reader has read.
    pub fn count_reads(&self, reader: &str) -> usize {
        self.readers.get(reader).map_or(0, |of| of.reads)
    }

    /// What a reader makes of it, if it has read at all.
    pub fn judge(&self, reader: &str) -> Option<Verdict<E>> {
        let of = self.readers.get(reader)?;
        let mut verdict = Verdict {
            reads: of.reads,
            stable: 0,
            stale: 0,
            longest_stale: Duration::ZERO,
            lost: BTreeSet::new(),
            never_read: BTreeSet::new(),
            gone: of.gone.clone(),
            unwritten: of.unwritten.clone(),
        };
        for (element, state) in &self.elements {
            let Some(known_at) = state.known_at.map(|at| at.max(of.since)) else { continue };
            let Seen { with, without } = of.seen.get(element).copied().unwrap_or_default();
            // A read that began before may have missed it rightly.
            let missed = without.filter(|at| *at >= known_at);
            if with.is_some() && with > without {
                verdict.stable += 1;
                if let Some(at) = missed {
                    verdict.stale += 1;
                    verdict.longest_stale = verdict.longest_stale.max(at - known_at);
                }
            } else if missed.is_some() {
                verdict.lost.insert(*element);
            } else {
                verdict.never_read.insert(*element);
            }
        }
        Some(verdict)
    }
}

impl<E> Reader<E> {
    fn since(since: Instant) -> Self {
        Self { reads: 0, since, seen: BTreeMap::new(), gone: BTreeSet::new(), unwritten: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Writes these, and is told a second later.
    async fn write(history: &mut SetHistory<u8>, elements: &[u8]) {
        elements.iter().for_each(|element| history.tries(*element));
        advance(SECOND).await;
        elements.iter().for_each(|element| history.is_acknowledged(*element, Instant::now()));
    }

    /// Reads this, which takes a second.
    async fn read(history: &mut SetHistory<u8>, elements: &[u8]) {
        let began = Instant::now();
        advance(SECOND).await;
        history.reads("here", began, &elements.iter().copied().collect());
    }

    fn judged(history: &SetHistory<u8>) -> Verdict<u8> {
        history.judge("here").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_from_when_it_is_known_is_stable() {
        let mut history = SetHistory::default();
        history.tries(2);
        read(&mut history, &[]).await;
        advance(SECOND).await;
        write(&mut history, &[1]).await;
        // Nobody was told of the second one, and it is there all the same.
        read(&mut history, &[1, 2]).await;
        read(&mut history, &[1, 2]).await;
        let verdict = judged(&history);
        assert_eq!((verdict.reads, verdict.stable, verdict.stale), (3, 2, 0), "{verdict:?}");
        assert!(verdict.lost.is_empty() && verdict.never_read.is_empty() && verdict.gone.is_empty(), "{verdict:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_later_than_it_is_known_is_stale_for_as_long() {
        let mut history = SetHistory::default();
        write(&mut history, &[1]).await;
        for read_now in [&[][..], &[], &[1]] {
            read(&mut history, read_now).await;
        }
        let verdict = judged(&history);
        assert_eq!((verdict.stable, verdict.stale, verdict.longest_stale), (1, 1, SECOND), "{verdict:?}");
        assert!(verdict.gone.is_empty(), "it was not there before");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_and_not_in_the_last_read_is_lost_whether_it_was_read_before_or_not() {
        let mut history = SetHistory::default();
        write(&mut history, &[1, 2]).await;
        read(&mut history, &[1]).await;
        read(&mut history, &[]).await;
        let verdict = judged(&history);
        assert_eq!(verdict.lost, [1, 2].into());
        assert_eq!(verdict.gone, [1].into());
        // And nothing is once it is there again, but that it was gone.
        read(&mut history, &[1, 2]).await;
        let verdict = judged(&history);
        assert!(verdict.lost.is_empty() && verdict.stale == 2, "{verdict:?}");
        assert_eq!(verdict.gone, [1].into());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_could_have_read_yet_is_never_read_and_what_nobody_was_told_of_is_nothing() {
        let mut history = SetHistory::default();
        history.tries(2);
        let began = Instant::now();
        write(&mut history, &[1]).await;
        // It began before the first one was known.
        history.reads("here", began, &BTreeSet::new());
        let verdict = judged(&history);
        assert_eq!((verdict.never_read, verdict.lost), ([1].into(), BTreeSet::new()));
        assert_eq!(history.judge("there"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wrote_is_named() {
        let mut history = SetHistory::default();
        write(&mut history, &[1]).await;
        read(&mut history, &[1, 9]).await;
        assert_eq!(judged(&history).unwritten, [9].into());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_put_back_has_to_read_everything_again_and_has_lost_it_if_it_does_not() {
        let mut history = SetHistory::default();
        write(&mut history, &[1]).await;
        read(&mut history, &[1]).await;
        history.begins_anew("here");
        assert_eq!(judged(&history).never_read, [1].into());
        read(&mut history, &[]).await;
        assert_eq!(judged(&history).lost, [1].into());
        read(&mut history, &[1]).await;
        let verdict = judged(&history);
        assert_eq!((verdict.reads, verdict.stable, verdict.stale, verdict.gone), (2, 1, 1, BTreeSet::new()));
    }
}
