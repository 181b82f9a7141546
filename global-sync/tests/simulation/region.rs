//! One region of the simulated world: a core that forgets at every crash and a disk that does not.

use std::collections::{BTreeMap, BTreeSet};

use global_sync::protocol::{
    Checkpoint, Draft, Entry, Envelope, Head, KeyId, LogId, LogState, MAX_GROUP_BYTES, MemberState, Millis, Origin,
    Replica, Settings, Trust, TrustError, VerifiedBatch, checkpoint_message, hash_of,
};
use shared::{fact::FactStream, ids::RegionName};
use uuid::Uuid;

pub(crate) const CLUSTER: &str = "simulated";

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
    pub(crate) logs: BTreeMap<LogId, Vec<(Entry, Head)>>,
    pub(crate) checkpoints: BTreeMap<LogId, BTreeMap<u64, Checkpoint>>,
    pub(crate) outbox: Vec<(FactStream, Draft)>,
    /// Counted from 0 here.
    pub(crate) incarnation: u64,
}

impl Disk {
    pub(crate) fn head(&self, log: &LogId) -> Head {
        self.logs.get(log).and_then(|entries| entries.last()).map_or(Head::EMPTY, |(_, head)| *head)
    }

    pub(crate) fn log_states(&self) -> BTreeMap<LogId, LogState> {
        let state = |head: Head| LogState { head, applied: head.seq };
        self.logs.keys().map(|log| (log.clone(), state(self.head(log)))).collect()
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
        let log = self.logs.entry(batch.log.clone()).or_default();
        log.extend(batch.entries[first_new..].iter().map(|(entry, _, head)| (entry.clone(), *head)));
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
            self.logs.entry(log.clone()).or_default().push((entry, head));
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

    /// The ids of all facts in it that `origin` wrote, numbered or not.
    pub(crate) fn written_by(&self, origin: &RegionName) -> BTreeSet<Uuid> {
        let numbered = self
            .logs
            .iter()
            .filter(|(log, _)| log.origin.region == *origin)
            .flat_map(|(_, entries)| entries.iter())
            .map(|(entry, _)| Envelope::read(&entry.envelope).expect("it was sealed here").id);
        numbered.chain(self.outbox.iter().map(|(_, draft)| draft.id)).collect()
    }

    /// Entries from `from` up to the last checkpoint the bytes reach, at least to the first.
    pub(crate) fn read(&self, log: &LogId, from: u64, upto: u64, max_bytes: u64) -> Option<(Vec<Entry>, Checkpoint)> {
        let checkpoints = self.checkpoints.get(log)?;
        let entries = self.logs.get(log)?;
        let index = |seq: u64| usize::try_from(seq).expect("simulated logs are short");
        let bytes = |last: u64| -> u64 {
            entries[index(from) - 1..index(last)].iter().map(|(entry, _)| entry.len() as u64).sum()
        };
        let (_, first) = checkpoints.range(from..=upto).next()?;
        let chosen = checkpoints
            .range(from..=upto)
            .map(|(_, checkpoint)| checkpoint)
            .take_while(|checkpoint| bytes(checkpoint.head.seq) <= max_bytes)
            .last()
            .unwrap_or(first);
        let slice = &entries[index(from) - 1..index(chosen.head.seq)];
        Some((slice.iter().map(|(entry, _)| entry.clone()).collect(), chosen.clone()))
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
        };
        self.core = Some(Replica::new(settings, HashTrust, self.disk.log_states(), now));
    }

    pub(crate) fn stop(&mut self) {
        self.core = None;
        self.may_number = false;
        self.storing.clear();
    }
}
