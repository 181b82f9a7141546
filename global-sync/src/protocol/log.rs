//! Names and positions of logs.

use std::{collections::BTreeMap, fmt};

use sha2::{Digest, Sha256};
use shared::{fact::FactStream, ids::RegionName};

/// SHA-256 of an envelope.
pub type Hash = [u8; 32];

/// SHA-256 of the certificate of a signing key.
pub type KeyId = [u8; 32];

/// What the first entry of a log has instead of a predecessor.
pub const GENESIS_HASH: Hash = [0; 32];

/// The greatest number anything is counted with: the database's integers end here.
pub const MAX_NUMBER: u64 = i64::MAX.unsigned_abs();

/// The time as the core sees it: milliseconds of a clock that only moves forward, from any start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// That much later.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// How long ago `earlier` was; zero if it is yet to come.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One life of a region. A region restored from a backup begins another, so a number is never used twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The region.
    pub region: RegionName,
    /// Which life of it, from 1.
    pub incarnation: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.incarnation)
    }
}

/// One log: what one origin says in one stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Who writes it.
    pub origin: Origin,
    /// Which of its three logs.
    pub stream: FactStream,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.origin, self.stream)
    }
}

/// The newest entry of a log somebody has. Entries before it are there too: logs have no holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    /// Its number; 0 for an empty log.
    pub seq: u64,
    /// Its hash, which vouches for everything before it.
    pub hash: Hash,
}

impl Head {
    /// The head of an empty log.
    pub const EMPTY: Self = Self { seq: 0, hash: GENESIS_HASH };
}

/// What a region has: the head of every log.
pub type VersionVector = BTreeMap<LogId, Head>;

/// SHA-256 of anything.
pub fn hash_of(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The bytes an origin signs to vouch for its log up to `head`. Every part is delimited, so no two heads share them.
pub fn checkpoint_message(cluster_id: &str, log: &LogId, head: &Head) -> Vec<u8> {
    let mut message = b"gocomet checkpoint 1".to_vec();
    for part in [cluster_id.as_bytes(), log.origin.region.as_str().as_bytes(), log.stream.as_str().as_bytes()] {
        message.extend(u32::try_from(part.len()).expect("names are short").to_be_bytes());
        message.extend(part);
    }
    message.extend(log.origin.incarnation.to_be_bytes());
    message.extend(head.seq.to_be_bytes());
    message.extend(head.hash);
    message
}
