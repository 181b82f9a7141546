//! A region of the simulated world and its two instances: cores that forget everything at a crash.

use std::collections::{BTreeMap, BTreeSet};

use global_sync::protocol::{
    Checkpoint, KeyId, Limits, LogId, MemberState, Millis, Past, Replica, Settings, Trust, TrustError, features,
    hash_of,
};
use shared::{fact::FactStream, ids::RegionName};

use super::{
    disk::{Disk, Fence},
    random::Random,
};

pub(crate) const CLUSTER: &str = "simulated";
pub(crate) const INSTANCES: usize = 2;
/// A database's clock at first, ahead of the world's so that it can be put back.
pub(crate) const CLOCK_AHEAD_MS: u64 = 3_600_000;

/// Everything happens often enough to be seen, and entries are given up on early.
pub(crate) const LIMITS: Limits = Limits {
    pull_credit_bytes: 256 * 1024,
    heads_every_ms: 1_000,
    rows_every_ms: 2_000,
    truncate_every_ms: 1_000,
    kept_entries: 4,
};

/// A signature is the hash of region and message: enough to tell right from wrong, and fast.
#[derive(Clone, Default)]
pub(crate) struct HashTrust {
    pub(crate) believes_everybody: bool,
}

pub(crate) fn sign(region: &RegionName, message: &[u8]) -> Vec<u8> {
    hash_of(&[region.as_str().as_bytes(), message].concat()).to_vec()
}

impl Trust for HashTrust {
    fn verify(&mut self, region: &RegionName, checkpoint: &Checkpoint, message: &[u8]) -> Result<(), TrustError> {
        let fits = self.believes_everybody || checkpoint.signature == sign(region, message);
        if fits { Ok(()) } else { Err(TrustError::BadSignature) }
    }

    fn known_keys(&self, _region: &RegionName) -> Vec<KeyId> {
        Vec::new()
    }

    fn stored(&mut self, _region: &RegionName, _key: &KeyId) {}
}

/// A region, its database and how that does.
pub(crate) struct Region {
    pub(crate) name: RegionName,
    pub(crate) disk: Disk,
    /// Where the directory says it stands; nowhere before it joins.
    pub(crate) state: Option<MemberState>,
    /// When it became a member, if it was none at first.
    pub(crate) joined_at: u64,
    /// With these peers no entries of these streams are to pass, as operators say.
    pub(crate) paused: BTreeSet<(RegionName, FactStream)>,
    /// It is never heard of again.
    pub(crate) gone: bool,
    /// The copy of the disk that is put in its place once the database is back.
    pub(crate) restore: Option<Disk>,
    /// Since when it leaves, and what it had of each log then.
    pub(crate) leaves: Option<(u64, BTreeMap<LogId, u64>)>,
    /// How many databases it has had before this one.
    pub(crate) lost: u64,
    /// Nobody reaches the database before this.
    pub(crate) away_until: u64,
    /// The database's clock, by which leases run out, is so much ahead of the world's.
    pub(crate) clock_ahead_ms: u64,
    /// Transactions take long until then, or are refused.
    pub(crate) slow_until: u64,
    pub(crate) full_until: u64,
}

impl Region {
    pub(crate) fn new(name: &str, state: Option<MemberState>) -> Self {
        Self {
            name: name.parse().expect("a name"),
            disk: Disk::of(name),
            state,
            joined_at: 0,
            paused: BTreeSet::new(),
            gone: false,
            restore: None,
            leaves: None,
            lost: 0,
            away_until: 0,
            clock_ahead_ms: CLOCK_AHEAD_MS,
            slow_until: 0,
            full_until: 0,
        }
    }

    /// The copy that takes the disk's place once the database is back, or the disk.
    pub(crate) fn disk_to_be(&self) -> &Disk {
        self.restore.as_ref().unwrap_or(&self.disk)
    }
}

/// A process, which may run, stand still, or be gone.
#[derive(Default)]
pub(crate) struct Instance {
    pub(crate) core: Option<Replica<HashTrust>>,
    /// How often it was started; what an earlier life of the process had under way is void.
    pub(crate) start: u64,
    /// Its name in the lease, of this start.
    pub(crate) holder: u128,
    /// It does nothing before this, and then goes on as if nothing had been.
    pub(crate) frozen_until: u64,
    /// Its own connection to the database is down until then.
    pub(crate) away_until: u64,
    /// The database and the life of the region it was started with, as it can tell, and as it is.
    pub(crate) timeline: u64,
    pub(crate) lost: u64,
    pub(crate) life: u64,
    /// Whether that database was in doubt then.
    pub(crate) doubts: bool,
    pub(crate) fence: Option<Fence>,
    pub(crate) renewed_at: u64,
    pub(crate) may_number: bool,
    /// What it was told is paused.
    pub(crate) paused: BTreeSet<(RegionName, FactStream)>,
    /// When what was last handed over of each log will be durable: one after the other.
    pub(crate) durable_at: BTreeMap<LogId, u64>,
    /// Bytes handed over to be stored and not durable yet.
    pub(crate) storing: BTreeMap<LogId, u64>,
    /// Its clock is so much ahead of the world's, and runs at so many thousandths of its pace.
    clock_ahead_ms: u64,
    clock_pace: u64,
    pub(crate) features: u64,
}

/// What a start needs to know.
pub(crate) struct Start<'a> {
    pub(crate) now: u64,
    pub(crate) expected: BTreeSet<RegionName>,
    pub(crate) past: Past,
    pub(crate) limits: Limits,
    pub(crate) trust: HashTrust,
    pub(crate) features: u64,
    pub(crate) random: &'a mut Random,
}

impl Instance {
    pub(crate) fn start(&mut self, number: usize, region: &Region, how: Start<'_>) {
        let start = self.start + 1;
        *self = Self {
            start,
            holder: u128::from(start) << 8 | number as u128,
            away_until: self.away_until,
            timeline: region.disk.timeline,
            lost: region.lost,
            life: region.disk.life,
            doubts: region.disk.doubted,
            clock_ahead_ms: how.random.between(0, 3_600_000),
            clock_pace: how.random.between(970, 1_030),
            features: how.features,
            ..Self::default()
        };
        let settings = Settings {
            cluster_id: CLUSTER.to_owned(),
            origin: region.disk.origin(&region.name),
            instance: self.holder,
            state: region.state.unwrap_or(MemberState::Joining),
            expected: how.expected,
            past: how.past,
            features: how.features,
            limits: how.limits,
        };
        self.core = Some(Replica::new(settings, how.trust, region.disk.log_states(), self.clock(how.now)));
    }

    pub(crate) fn stop(&mut self) {
        let (start, away_until) = (self.start, self.away_until);
        *self = Self { start, away_until, ..Self::default() };
    }

    pub(crate) fn runs(&self) -> bool {
        self.core.is_some()
    }

    /// The time as it sees it.
    pub(crate) fn clock(&self, now: u64) -> Millis {
        Millis(self.clock_ahead_ms + now * self.clock_pace / 1000)
    }

    pub(crate) fn is_old(&self) -> bool {
        self.runs() && self.features != features::ALL
    }
}
