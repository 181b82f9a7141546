//! One region of the simulated world: a core that forgets at every crash and a disk that does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use global_sync::protocol::{
    Checkpoint, Draft, Entry, Envelope, Head, Inspect, KeyId, Limits, LogId, LogState, MAX_GROUP_BYTES, MemberState,
    Millis, Origin, Replica, Row, Settings, Trust, TrustError, VerifiedBatch, checkpoint_message, features, hash_of,
};
use shared::{fact::FactStream, ids::RegionName};
use uuid::Uuid;

pub(crate) const CLUSTER: &str = "simulated";

/// Everything happens often enough to be seen, and entries are given up on early.
pub(crate) const LIMITS: Limits = Limits {
    pull_credit_bytes: 2 * 1024 * 1024,
    heads_every_ms: 1_000,
    rows_every_ms: 2_000,
    truncate_every_ms: 1_000,
    kept_entries: 4,
};

/// A signature is the hash of region and message: enough to tell right from wrong, and fast.
#[derive(Clone, Default)]
pub(crate) struct HashTrust;

fn sign(region: &RegionName, message: &[u8]) -> Vec<u8> {
    hash_of(&[region.as_str().as_bytes(), message].concat()).to_vec()
}

impl Trust for HashTrust {
    fn verify(&mut self, region: &RegionName, checkpoint: &Checkpoint, message: &[u8]) -> Result<(), TrustError> {
        if checkpoint.signature == sign(region, message) { Ok(()) } else { Err(TrustError::BadSignature) }
    }

    fn known_keys(&self, _region: &RegionName) -> Vec<KeyId> {
        Vec::new()
    }

    fn stored(&mut self, _region: &RegionName, _key: &KeyId) {}
}

/// What survives a crash.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    /// Entries that are not dropped, oldest first.
    pub(crate) logs: BTreeMap<LogId, VecDeque<(Entry, Head)>>,
    pub(crate) checkpoints: BTreeMap<LogId, BTreeMap<u64, Checkpoint>>,
    pub(crate) heads: BTreeMap<LogId, Head>,
    pub(crate) truncated: BTreeMap<LogId, u64>,
    /// What was derived: the fact of every entry that ever was here.
    pub(crate) rows: BTreeMap<(LogId, u64), Uuid>,
    pub(crate) outbox: Vec<(FactStream, Draft)>,
    /// What others said they have.
    pub(crate) acks: BTreeMap<RegionName, BTreeMap<LogId, u64>>,
    /// Counted from 0 here.
    pub(crate) incarnation: u64,
}

/// The fact an entry tells.
fn fact(entry: &Entry) -> Uuid {
    Envelope::read(&entry.envelope).expect("it was sealed here").id
}

impl Disk {
    pub(crate) fn head(&self, log: &LogId) -> Head {
        self.heads.get(log).copied().unwrap_or(Head::EMPTY)
    }

    pub(crate) fn truncated(&self, log: &LogId) -> u64 {
        self.truncated.get(log).copied().unwrap_or_default()
    }

    pub(crate) fn log_states(&self) -> BTreeMap<LogId, LogState> {
        let state =
            |log| LogState { head: self.head(log), applied: self.head(log).seq, truncated: self.truncated(log) };
        self.heads.keys().map(|log| (log.clone(), state(log))).collect()
    }

    /// Entries that came after this one.
    pub(crate) fn after(&self, log: &LogId, seq: u64) -> impl Iterator<Item = &(Entry, Head)> {
        self.logs.get(log).into_iter().flatten().filter(move |(_, head)| head.seq > seq)
    }

    fn append(&mut self, log: &LogId, entry: Entry, head: Head) {
        self.rows.insert((log.clone(), head.seq), fact(&entry));
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
        for (entry, _, head) in &batch.entries[first_new..] {
            self.append(&batch.log, entry.clone(), *head);
        }
        let seq = batch.checkpoint.head.seq;
        self.checkpoints.entry(batch.log.clone()).or_default().insert(seq, batch.checkpoint.clone());
        Ok(self.head(&batch.log))
    }

    /// One transaction: rows of the outbox become entries, a checkpoint after each few.
    pub(crate) fn number(&mut self, origin: &Origin, at_most: usize) -> Vec<(LogId, Head)> {
        let take = at_most.min(self.outbox.len());
        let mut grown = BTreeMap::new();
        for (stream, draft) in self.outbox.drain(..take).collect::<Vec<_>>() {
            let log = LogId { origin: origin.clone(), stream };
            let before = self.head(&log);
            let (entry, head) = Envelope::seal(CLUSTER, &log, &before, draft);
            let group_ends = entry.len() > MAX_GROUP_BYTES;
            self.append(&log, entry, head);
            if group_ends {
                self.sign(&log, head);
            }
            grown.insert(log, head);
        }
        for (log, head) in &grown {
            self.sign(log, *head);
        }
        grown.into_iter().collect()
    }

    fn sign(&mut self, log: &LogId, head: Head) {
        let signature = sign(&log.origin.region, &checkpoint_message(CLUSTER, log, &head));
        let checkpoint = Checkpoint { head, key_id: [1; 32], signature, certificate: None };
        self.checkpoints.entry(log.clone()).or_default().insert(head.seq, checkpoint);
    }

    /// Entries up to this one are no longer here; what was made of them is.
    pub(crate) fn truncate(&mut self, log: &LogId, upto: u64) {
        let Some(entries) = self.logs.get_mut(log) else { return };
        entries.retain(|(_, head)| head.seq > upto);
        self.checkpoints.entry(log.clone()).or_default().retain(|seq, _| *seq > upto);
        let truncated = self.truncated.entry(log.clone()).or_default();
        *truncated = upto.max(*truncated);
    }

    /// One transaction: of every log that is further there what was derived from it, and none of its entries. False, and
    /// nothing, if one of our own would be.
    pub(crate) fn load(&mut self, own: &Origin, other: &Self) -> bool {
        let further: Vec<_> = other.heads.keys().filter(|log| other.head(log).seq > self.head(log).seq).collect();
        if further.iter().any(|log| log.origin == *own) {
            return false;
        }
        for log in further {
            let head = other.head(log);
            self.heads.insert(log.clone(), head);
            self.truncated.insert(log.clone(), head.seq);
            self.logs.remove(log);
            self.checkpoints.remove(log);
            let rows = other.rows.iter().filter(|((of, _), _)| of == log);
            self.rows.extend(rows.map(|(place, fact)| (place.clone(), *fact)));
        }
        true
    }

    /// Derived rows in question, as of the vector it names or what is here; none if that is not here yet.
    pub(crate) fn derived(&self, question: &Inspect) -> Option<(BTreeMap<Origin, u64>, Vec<Row>)> {
        let heads = self.heads.iter().filter(|(log, head)| log.stream == question.stream && head.seq > 0);
        let here: BTreeMap<Origin, u64> = heads.map(|(log, head)| (log.origin.clone(), head.seq)).collect();
        let vector = question.vector.clone().unwrap_or_else(|| here.clone());
        if vector.iter().any(|(origin, seq)| here.get(origin).is_none_or(|has| has < seq)) {
            return None;
        }
        let within = |log: &LogId, seq: u64| {
            log.stream == question.stream && vector.get(&log.origin).is_some_and(|upto| seq <= *upto)
        };
        let rows = self
            .rows
            .iter()
            .filter(|((log, seq), _)| within(log, *seq))
            .map(|((log, seq), fact)| Row { key: format!("{log} {seq}"), hash: hash_of(fact.as_bytes()) });
        let rows = rows.filter(|row| hash_of(row.key.as_bytes()).starts_with(&question.prefix)).collect();
        Some((vector, rows))
    }

    /// The ids of all facts in it that `origin` wrote, numbered or not.
    pub(crate) fn written_by(&self, origin: &RegionName) -> BTreeSet<Uuid> {
        let numbered = self.rows.iter().filter(|((log, _), _)| log.origin.region == *origin).map(|(_, fact)| *fact);
        numbered.chain(self.outbox.iter().map(|(_, draft)| draft.id)).collect()
    }

    /// Entries from `from` up to the last checkpoint the bytes reach, at least to the first.
    pub(crate) fn read(&self, log: &LogId, from: u64, upto: u64, max_bytes: u64) -> Option<(Vec<Entry>, Checkpoint)> {
        if from <= self.truncated(log) {
            return None;
        }
        let checkpoints = self.checkpoints.get(log)?;
        let wanted = |last: u64| self.after(log, from - 1).take_while(move |(_, head)| head.seq <= last);
        let bytes = |last: u64| -> u64 { wanted(last).map(|(entry, _)| entry.len() as u64).sum() };
        let (_, first) = checkpoints.range(from..=upto).next()?;
        let chosen = checkpoints
            .range(from..=upto)
            .map(|(_, checkpoint)| checkpoint)
            .take_while(|checkpoint| bytes(checkpoint.head.seq) <= max_bytes)
            .last()
            .unwrap_or(first);
        Some((wanted(chosen.head.seq).map(|(entry, _)| entry.clone()).collect(), chosen.clone()))
    }
}

/// A region: its disk, and its process while it runs.
pub(crate) struct Region {
    pub(crate) name: RegionName,
    pub(crate) disk: Disk,
    /// An old copy of the disk, to be put back in its place at the next start.
    pub(crate) restore: Option<Disk>,
    /// The disk has been put back and nobody can tell yet what it lacks.
    pub(crate) may_be_restored: bool,
    pub(crate) core: Option<Replica<HashTrust>>,
    pub(crate) may_number: bool,
    /// How often it was started; what an earlier life had under way is void.
    pub(crate) life: u64,
    /// Bytes handed over to be stored and not durable yet.
    pub(crate) storing: BTreeMap<LogId, u64>,
}

impl Region {
    pub(crate) fn origin(&self) -> Origin {
        Origin { region: self.name.clone(), incarnation: self.disk.incarnation + 1 }
    }

    pub(crate) fn start(&mut self, now: Millis, others: &[RegionName]) {
        self.life += 1;
        self.may_number = false;
        self.storing.clear();
        let settings = Settings {
            cluster_id: CLUSTER.to_owned(),
            origin: self.origin(),
            instance: u128::from(self.life),
            state: MemberState::Active,
            expected: others.iter().filter(|name| **name != self.name).cloned().collect(),
            may_be_restored: self.may_be_restored,
            features: features::ALL,
            limits: LIMITS,
        };
        self.core = Some(Replica::new(settings, HashTrust, self.disk.log_states(), now));
    }

    pub(crate) fn stop(&mut self) {
        self.core = None;
        self.may_number = false;
        self.storing.clear();
    }
}
