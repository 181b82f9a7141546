//! A region's database: what survives a crash, and what one transaction does to it. Transactions take no time here; how
//! long a region waits for one is the world's matter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use global_sync::protocol::{
    Checkpoint, Draft, Entry, Envelope, Hash, Head, Inspect, LogId, LogState, MAX_GROUP_BYTES, Origin, Past, Row,
    VerifiedBatch, checkpoint_message, hash_of,
};
use shared::{fact::FactStream, ids::RegionName};
use uuid::Uuid;

use super::{
    moves::Tenant,
    region::{CLUSTER, sign},
};

/// How long a lease lasts that nobody renews.
pub(crate) const LEASE_MS: u64 = 3_000;
/// Who has not been led for longer than this may have been put back from a backup.
const LONGEST_RESTART_MS: u64 = 2_000;
/// A promise is used within this time, or never.
pub(crate) const PROMISES_LAST_MS: u64 = 3_500;
/// Entries of this kind cannot be applied.
pub(crate) const POISON: &str = "poison";
/// A field that no version of envelopes has yet, as a newer one may.
const UNKNOWN_FIELD: [u8; 3] = [0xc0, 0x3e, 0x01];

/// What an instance shows to prove that it leads: the epoch it took the lease in, and its own name.
pub(crate) type Fence = (u64, u128);

/// A row of the outbox. Positions are given when a transaction begins, and rows come in the order in which they commit.
#[derive(Clone)]
pub(crate) struct Waiting {
    pub(crate) position: u64,
    pub(crate) stream: FactStream,
    pub(crate) draft: Draft,
    /// Whether a newer version of region-node wrote it.
    pub(crate) newer: bool,
}

/// What a fact came to: what it says, and how often it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) body: Hash,
    pub(crate) times: u32,
}

#[derive(Clone, Default)]
pub(crate) struct Disk {
    /// Entries that are not dropped, oldest first.
    pub(crate) logs: BTreeMap<LogId, VecDeque<(Entry, Head)>>,
    pub(crate) checkpoints: BTreeMap<LogId, BTreeMap<u64, Checkpoint>>,
    pub(crate) heads: BTreeMap<LogId, Head>,
    pub(crate) truncated: BTreeMap<LogId, u64>,
    pub(crate) applied: BTreeMap<LogId, u64>,
    /// Which fact each applied entry told.
    pub(crate) rows: BTreeMap<(LogId, u64), Uuid>,
    /// Entries that could not be applied.
    pub(crate) set_aside: BTreeSet<(LogId, u64)>,
    /// What people read.
    pub(crate) facts: BTreeMap<Uuid, Counted>,
    pub(crate) outbox: Vec<Waiting>,
    /// What others said they have.
    pub(crate) acks: BTreeMap<RegionName, BTreeMap<LogId, u64>>,
    /// What is known of the tenant that moves.
    pub(crate) tenant: Tenant,
    /// Who gave the snapshot that is loaded, until another is found to have the same.
    pub(crate) snapshot_of: Option<RegionName>,
    /// The life the region is in, less one.
    pub(crate) life: u64,
    /// Nobody had led the region for long, and nobody could tell yet what it lacks.
    pub(crate) doubted: bool,
    /// What it is told by from others: a copy that is promoted, or restored to a point in time, has another.
    pub(crate) timeline: u64,
    /// The timeline the life began on.
    began_on: u64,
    epoch: u64,
    holder: u128,
    /// The timeline the lease was taken on.
    leased_on: u64,
    pub(crate) lease_ends_ms: u64,
    /// Until then it gives no voice in who takes the tenant: it may have forgotten what it promised.
    pub(crate) abstains_until_ms: u64,
    /// The last position of the outbox that was read, for a planted bug.
    pub(crate) position: u64,
}

/// How a fact is applied; the planted bugs change it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Applying {
    pub(crate) counts_again: bool,
    pub(crate) last_body_wins: bool,
    pub(crate) stops_at_poison: bool,
    pub(crate) drops_neighbours: bool,
}

impl Disk {
    /// Of a region in which nothing has happened yet.
    pub(crate) fn of(region: &str) -> Self {
        Self { tenant: Tenant::known_to(region), ..Self::default() }
    }

    pub(crate) fn origin(&self, region: &RegionName) -> Origin {
        Origin { region: region.clone(), incarnation: self.life + 1 }
    }

    pub(crate) fn head(&self, log: &LogId) -> Head {
        self.heads.get(log).copied().unwrap_or(Head::EMPTY)
    }

    pub(crate) fn truncated(&self, log: &LogId) -> u64 {
        self.truncated.get(log).copied().unwrap_or_default()
    }

    pub(crate) fn applied(&self, log: &LogId) -> u64 {
        self.applied.get(log).copied().unwrap_or_default()
    }

    pub(crate) fn log_states(&self) -> BTreeMap<LogId, LogState> {
        let state = |log| LogState { head: self.head(log), applied: self.applied(log), truncated: self.truncated(log) };
        self.heads.keys().map(|log| (log.clone(), state(log))).collect()
    }

    /// Entries that came after this one.
    pub(crate) fn after(&self, log: &LogId, seq: u64) -> impl Iterator<Item = &(Entry, Head)> {
        let entries = self.logs.get(log);
        let first = entries.map_or(0, |entries| entries.partition_point(|(_, head)| head.seq <= seq));
        entries.into_iter().flat_map(move |entries| entries.range(first..))
    }

    pub(crate) fn take_lease(&mut self, now_ms: u64, holder: u128) -> Fence {
        self.epoch += 1;
        self.holder = holder;
        self.leased_on = self.timeline;
        self.lease_ends_ms = now_ms + LEASE_MS;
        (self.epoch, holder)
    }

    pub(crate) fn renew_lease(&mut self, now_ms: u64, fence: Fence) -> bool {
        let held = self.holds(now_ms, fence);
        if held {
            self.lease_ends_ms = now_ms + LEASE_MS;
        }
        held
    }

    pub(crate) fn release_lease(&mut self, now_ms: u64, fence: Fence) {
        if self.holds(now_ms, fence) {
            self.lease_ends_ms = now_ms - 1;
        }
    }

    /// Every transaction of a leader begins with this question.
    pub(crate) fn holds(&self, now_ms: u64, fence: Fence) -> bool {
        self.is_of(fence) && self.leased_on == self.timeline && now_ms <= self.lease_ends_ms
    }

    /// Whether it names a fence, as a copy of the database does too.
    pub(crate) fn is_of(&self, fence: Fence) -> bool {
        (self.epoch, self.holder) == fence
    }

    /// Whether nobody has led it for longer than a restart takes.
    pub(crate) fn is_unled(&self, now_ms: u64) -> bool {
        self.epoch > 0 && self.lease_ends_ms + LONGEST_RESTART_MS < now_ms
    }

    /// What an instance makes of the database at its start.
    pub(crate) fn identify(&mut self, now_ms: u64) -> Past {
        if self.is_unled(now_ms) {
            self.doubted = true;
            self.abstains_until_ms = now_ms + PROMISES_LAST_MS;
            self.lease_ends_ms = now_ms;
        }
        match (self.began_on == self.timeline, self.doubted) {
            (false, _) => Past::Copied,
            (true, true) => Past::Doubted,
            (true, false) => Past::Known,
        }
    }

    /// Whether it may have forgotten what it promised lately.
    pub(crate) fn abstains(&self, now_ms: u64) -> bool {
        now_ms < self.abstains_until_ms || self.is_copied() || self.is_unled(now_ms)
    }

    /// Whether it says of itself that it is not the one its life began on.
    pub(crate) fn is_copied(&self) -> bool {
        self.began_on != self.timeline
    }

    /// Begins a life after this one and ends the lease of this.
    pub(crate) fn begin_life(&mut self, after: u64, alone: bool, now_ms: u64) {
        self.life = after.max(self.life + 1).max(if alone { 1_000_000 + now_ms } else { 0 });
        self.takes_for_its_own();
        self.abstains_until_ms = now_ms + PROMISES_LAST_MS;
        self.epoch += 1;
        self.holder = 0;
        self.lease_ends_ms = now_ms - 1;
    }

    /// The life goes on here, or begins here.
    pub(crate) fn takes_for_its_own(&mut self) {
        self.doubted = false;
        self.began_on = self.timeline;
    }

    fn append(&mut self, log: &LogId, entry: Entry, head: Head) {
        self.logs.entry(log.clone()).or_default().push_back((entry, head));
        self.heads.insert(log.clone(), head);
    }

    /// One transaction: all of the batch that is new, or nothing if it does not continue the log.
    pub(crate) fn store(&mut self, batch: &VerifiedBatch) -> Result<Head, Head> {
        let head = self.head(&batch.log);
        let first_new = batch.entries.iter().position(|(_, envelope, _)| envelope.seq == head.seq + 1);
        let Some(first_new) = first_new else {
            let last = batch.entries.last().map_or(0, |(_, _, head)| head.seq);
            return if last <= head.seq { Ok(head) } else { Err(head) };
        };
        if batch.entries[first_new].1.prev_hash != head.hash {
            return Err(head);
        }
        self.store_from(batch, first_new);
        Ok(self.head(&batch.log))
    }

    /// Writes entries of a batch, whatever is there.
    pub(crate) fn store_from(&mut self, batch: &VerifiedBatch, first: usize) {
        for (entry, _, head) in &batch.entries[first..] {
            self.append(&batch.log, entry.clone(), *head);
        }
        let seq = batch.checkpoint.head.seq;
        self.checkpoints.entry(batch.log.clone()).or_default().insert(seq, batch.checkpoint.clone());
    }

    /// One transaction: these rows of the outbox become entries of their logs, a checkpoint after each few.
    pub(crate) fn number(&mut self, origin: &Origin, rows: Vec<Waiting>, how: Applying) -> Vec<(LogId, Head)> {
        let mut grown = BTreeMap::new();
        let mut group_bytes = BTreeMap::new();
        for Waiting { stream, draft, newer, .. } in rows {
            let log = LogId { origin: origin.clone(), stream };
            let (mut entry, mut head) = Envelope::seal(CLUSTER, &log, &self.head(&log), draft);
            if newer {
                entry.envelope.extend(UNKNOWN_FIELD);
                head.hash = hash_of(&entry.envelope);
            }
            let bytes = group_bytes.entry(log.clone()).or_insert(0);
            *bytes += entry.len();
            let group_ends = *bytes > MAX_GROUP_BYTES;
            self.append(&log, entry, head);
            if group_ends {
                group_bytes.insert(log.clone(), 0);
                self.sign(&log, head);
            }
            grown.insert(log, head);
        }
        for (log, head) in &grown {
            self.sign(log, *head);
            self.apply(log, usize::MAX, how);
        }
        grown.into_iter().collect()
    }

    fn sign(&mut self, log: &LogId, head: Head) {
        let signature = sign(&log.origin.region, &checkpoint_message(CLUSTER, log, &head));
        let checkpoint = Checkpoint { head, key_id: [1; 32], signature, certificate: None };
        self.checkpoints.entry(log.clone()).or_default().insert(head.seq, checkpoint);
    }

    /// One transaction: the next entries of a log and the cursor that counts them.
    pub(crate) fn apply(&mut self, log: &LogId, at_most: usize, how: Applying) -> Option<u64> {
        let applied = self.applied(log);
        let next: Vec<(Entry, u64)> =
            self.after(log, applied).take(at_most).map(|(entry, head)| (entry.clone(), head.seq)).collect();
        let poisoned = next.iter().any(|(entry, _)| envelope(entry).kind == POISON);
        if poisoned && how.stops_at_poison {
            return None;
        }
        let last = next.last().map(|(_, seq)| *seq)?;
        for (entry, seq) in next {
            let envelope = envelope(&entry);
            let place = (log.clone(), seq);
            self.rows.insert(place.clone(), envelope.id);
            if envelope.kind == POISON || (poisoned && how.drops_neighbours) {
                self.set_aside.insert(place);
                continue;
            }
            self.tenant.apply(log, &envelope, &entry);
            let told = Counted { body: envelope.body_hash, times: 1 };
            self.facts
                .entry(envelope.id)
                .and_modify(|known| {
                    if how.counts_again {
                        known.times += 1;
                    }
                    if how.last_body_wins {
                        known.body = told.body;
                    }
                })
                .or_insert(told);
        }
        self.applied.insert(log.clone(), last);
        Some(last)
    }

    /// Entries up to this one are no longer here, except what is not applied and the newest that is; what was made of them
    /// stays. Says how far it came.
    pub(crate) fn truncate(&mut self, log: &LogId, upto: u64) -> u64 {
        let upto = upto.min(self.applied(log).saturating_sub(1));
        if let Some(entries) = self.logs.get_mut(log) {
            entries.retain(|(_, head)| head.seq > upto);
        }
        self.checkpoints.entry(log.clone()).or_default().retain(|seq, _| *seq > upto);
        let truncated = self.truncated.entry(log.clone()).or_default();
        *truncated = upto.max(*truncated);
        *truncated
    }

    /// What a snapshot of this database brings to another: logs that are further here, each with its newest applied entry.
    /// None while a log's newest applied entry came with a snapshot and is no longer the newest stored: its hash is not known.
    pub(crate) fn news_for(&self, other: &Self) -> Option<Vec<(LogId, Head)>> {
        let newest = |log: &LogId, applied: u64| {
            let kept = self.after(log, applied - 1).map(|(_, head)| *head);
            kept.chain([self.head(log)]).find(|head| head.seq == applied)
        };
        let further = self.applied.iter().filter(|(log, applied)| **applied > other.head(log).seq);
        further.map(|(log, applied)| Some((log.clone(), newest(log, *applied)?))).collect()
    }

    /// One transaction: what was derived from these logs, and the cursors that say so.
    pub(crate) fn load(&mut self, news: &[(LogId, Head)], from: &Self) {
        self.load_rows(news, from);
        self.load_cursors(news);
    }

    pub(crate) fn load_rows(&mut self, news: &[(LogId, Head)], from: &Self) {
        self.tenant.settle_as(&from.tenant);
        for (log, upto) in news {
            let told = from.rows.iter().filter(|((of, seq), _)| of == log && *seq <= upto.seq);
            self.tenant.load(&from.tenant, told.clone().map(|(_, fact)| fact));
            for (place, fact) in told {
                self.rows.insert(place.clone(), *fact);
                if from.set_aside.contains(place) {
                    self.set_aside.insert(place.clone());
                } else if let Some(counted) = from.facts.get(fact) {
                    self.facts.entry(*fact).or_insert(*counted);
                }
            }
        }
    }

    pub(crate) fn load_cursors(&mut self, news: &[(LogId, Head)]) {
        for (log, head) in news {
            self.heads.insert(log.clone(), *head);
            self.applied.insert(log.clone(), head.seq);
            self.truncated.insert(log.clone(), head.seq);
            self.logs.remove(log);
            self.checkpoints.remove(log);
        }
    }

    /// Derived rows in question, as of the vector it names or what is applied here; none if they cannot be had. Facts of the
    /// ledger can once it is applied; all else only while exactly that is, and nothing waits for its number, or as it is.
    pub(crate) fn derived(&self, question: &Inspect) -> Option<(BTreeMap<Origin, u64>, Vec<Row>)> {
        let applied = self.applied.iter().filter(|(log, applied)| log.stream == question.stream && **applied > 0);
        let here: BTreeMap<Origin, u64> = applied.map(|(log, applied)| (log.origin.clone(), *applied)).collect();
        let waits = self.outbox.iter().any(|row| row.stream == question.stream);
        let vector = match &question.vector {
            Some(vector) if !question.as_they_are => vector.clone(),
            _ => here.clone(),
        };
        let there = match question.stream {
            FactStream::Ledger => vector.iter().all(|(origin, seq)| here.get(origin).is_some_and(|has| has >= seq)),
            FactStream::Config | FactStream::Control => question.as_they_are || (!waits && vector == here),
        };
        if !there {
            return None;
        }
        let in_bucket = |(log, seq): &(LogId, u64)| {
            question.prefix.is_empty() || hash_of(format!("{log} {seq}").as_bytes()).starts_with(&question.prefix)
        };
        let rows = self
            .rows_of(question)
            .filter(|((log, seq), _)| vector.get(&log.origin).is_some_and(|upto| seq <= upto))
            .filter(|(place, _)| in_bucket(place))
            .map(|(place, fact)| self.row(place, fact))
            .collect();
        Some((vector, rows))
    }

    /// Rows of a stream, of any time.
    pub(crate) fn rows_of(&self, question: &Inspect) -> impl Iterator<Item = (&(LogId, u64), &Uuid)> {
        let stream = question.stream;
        self.rows.iter().filter(move |((log, _), _)| log.stream == stream)
    }

    pub(crate) fn row(&self, (log, seq): &(LogId, u64), fact: &Uuid) -> Row {
        let body = self.facts.get(fact).map_or([0; 32], |counted| counted.body);
        Row { key: format!("{log} {seq}"), hash: hash_of(&[fact.as_bytes().as_slice(), &body].concat()) }
    }

    /// The ids of all facts in it, whoever wrote them.
    pub(crate) fn told(&self) -> BTreeSet<Uuid> {
        let stored = self.logs.values().flatten().map(|(entry, _)| envelope(entry).id);
        self.rows.values().copied().chain(stored).chain(self.outbox.iter().map(|row| row.draft.id)).collect()
    }

    /// Entries from `from` up to the last checkpoint the bytes reach, at least to the first.
    pub(crate) fn read(&self, log: &LogId, from: u64, upto: u64, max_bytes: u64) -> Option<(Vec<Entry>, Checkpoint)> {
        if from <= self.truncated(log) {
            return None;
        }
        let checkpoints = self.checkpoints.get(log)?;
        let mut bytes = 0;
        let mut entries = Vec::new();
        let mut ends: Option<(usize, &Checkpoint)> = None;
        for (entry, head) in self.after(log, from - 1).take_while(|(_, head)| head.seq <= upto) {
            bytes += entry.len() as u64;
            if bytes > max_bytes && ends.is_some() {
                break;
            }
            entries.push(entry.clone());
            if let Some(checkpoint) = checkpoints.get(&head.seq) {
                ends = Some((entries.len(), checkpoint));
            }
        }
        let (count, checkpoint) = ends?;
        entries.truncate(count);
        Some((entries, checkpoint.clone()))
    }
}

/// An entry as a program would write it that drops what it does not know.
pub(crate) fn written_anew(entry: &mut Entry) {
    if entry.envelope.ends_with(&UNKNOWN_FIELD) {
        entry.envelope.truncate(entry.envelope.len() - UNKNOWN_FIELD.len());
    }
}

pub(crate) fn envelope(entry: &Entry) -> Envelope {
    Envelope::read(&entry.envelope).expect("only what can be read is stored")
}
