//! What of a snapshot nobody but its giver has been found to have.
//!
//! The ledger is compared as of what both have, whatever is written meanwhile. What config and directory are can be compared as a
//! whole only while both sides have applied the very same entries and nothing waits for its number, which they hardly ever
//! have while people edit. So they are compared part by part as well, each as it is on either side: a part has to have been
//! equal once, not all of them at one moment. Where they are many, parts are buckets of rows, which are looked into as long as
//! they differ, down to single rows; what nobody edits is soon found equal, and what somebody does a little later.
//!
//! That rows are equal proves something only if the other side has applied what was applied here when the looking began: what
//! a snapshot left out it has not left out too.

use super::*;
use crate::protocol::{
    log::hash_of,
    message::Inspect,
    rows::{Difference, MAX_PREFIX, MAX_ROWS},
};

/// Parts one peer is asked about in one round: each answer is a look through a table.
const ASKED_AT_ONCE: usize = 8;
/// Parts that are looked at by themselves; those that differ beyond are not looked into before others were found equal.
const MAX_PARTS: usize = 2_048;

/// A bucket: rows of this stream whose keys' hashes begin so.
type Part = (FactStream, Vec<u8>);

#[derive(Debug)]
pub(super) struct Unchecked {
    /// Who gave the snapshot.
    giver: RegionName,
    /// Kinds of logs of which not all that was derived was found equal.
    kinds: BTreeSet<FactStream>,
    /// What was applied here when the looking began.
    since: Option<BTreeMap<LogId, u64>>,
    /// What is left of kinds that are looked at in parts; once it is known, the keys of the rows that were never equal.
    parts: BTreeMap<Part, Option<BTreeSet<String>>>,
    /// Who was asked about which parts since it was asked about all.
    asked: BTreeSet<(RegionName, Part)>,
}

impl Unchecked {
    /// All of this region's snapshot.
    pub(super) fn of(giver: RegionName) -> Self {
        let whole = |stream| ((stream, Vec::new()), None);
        Self {
            giver,
            kinds: FactStream::ALL.into(),
            since: None,
            parts: [FactStream::Control, FactStream::Config].map(whole).into(),
            asked: BTreeSet::new(),
        }
    }

    pub(super) fn giver(&self) -> &RegionName {
        &self.giver
    }

    /// Whether all was found equal.
    pub(super) fn holds(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The looking begins, if it has not: with this applied.
    pub(super) fn begin(&mut self, logs: &BTreeMap<LogId, LogState>) {
        self.since.get_or_insert_with(|| logs.iter().map(|(log, state)| (log.clone(), state.applied)).collect());
    }

    /// What a peer is to be asked about next: one part after the other.
    pub(super) fn next_parts(&mut self, peer: &RegionName) -> Vec<Inspect> {
        let parts = &self.parts;
        self.asked.retain(|(_, part)| parts.contains_key(part));
        if parts.keys().all(|part| self.asked.contains(&(peer.clone(), part.clone()))) {
            self.asked.retain(|(asked, _)| asked != peer);
        }
        let new = parts.keys().filter(|part| !self.asked.contains(&(peer.clone(), (*part).clone())));
        let next: Vec<Part> = new.take(ASKED_AT_ONCE).cloned().collect();
        self.asked.extend(next.iter().map(|part| (peer.clone(), part.clone())));
        let question = |(stream, prefix)| Inspect { stream, vector: None, prefix, as_they_are: true };
        next.into_iter().map(question).collect()
    }

    /// What was found in comparing with somebody whose word counts.
    pub(super) fn compared(&mut self, question: &Inspect, difference: &Difference) {
        let stream = question.stream;
        if !question.as_they_are {
            if question.prefix.is_empty() && difference.is_none() {
                self.kinds.remove(&stream);
                self.parts.retain(|(of, _), _| *of != stream);
            }
            return;
        }
        let part = (stream, question.prefix.clone());
        if !self.parts.contains_key(&part) || !self.has_heard_of_all(question) {
            return;
        }
        match difference {
            Difference::Buckets(buckets) => self.look_into(part, buckets),
            // There may be more.
            Difference::Keys(keys) if keys.len() >= MAX_ROWS => {}
            Difference::Keys(keys) => self.keep(part, keys.clone(), |key| keys.contains(key)),
        }
        if self.parts.keys().all(|(of, _)| *of != stream) {
            self.kinds.remove(&stream);
        }
    }

    /// Whether the other side had applied all that was applied here when the looking began.
    fn has_heard_of_all(&self, question: &Inspect) -> bool {
        let (Some(since), Some(vector)) = (&self.since, &question.vector) else { return false };
        let of_stream = since.iter().filter(|(log, _)| log.stream == question.stream);
        of_stream.into_iter().all(|(log, applied)| vector.get(&log.origin).copied().unwrap_or_default() >= *applied)
    }

    /// Of a part only what is in these buckets is left.
    fn look_into(&mut self, part: Part, buckets: &[u8]) {
        let depth = part.1.len();
        if depth >= MAX_PREFIX {
            return;
        }
        if self.parts.get(&part).is_some_and(Option::is_some) {
            // They were few before.
            let differs = |key: &str| buckets.contains(&hash_of(key.as_bytes())[depth]);
            self.keep(part, BTreeSet::new(), differs);
        } else if self.parts.len() + buckets.len() <= MAX_PARTS {
            self.parts.remove(&part);
            let below = |bucket: &u8| ((part.0, [part.1.as_slice(), &[*bucket]].concat()), None);
            self.parts.extend(buckets.iter().map(below));
        }
    }

    /// Of a part those rows are left that differ and were not equal before: `all` of those that do, if this is the first look.
    fn keep(&mut self, part: Part, all: BTreeSet<String>, differs: impl Fn(&str) -> bool) {
        let Some(left) = self.parts.get_mut(&part) else { return };
        let left = left.get_or_insert(all);
        left.retain(|key| differs(key));
        if left.is_empty() {
            self.parts.remove(&part);
        }
    }
}
