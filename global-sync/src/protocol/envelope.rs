//! An entry of a log: an envelope, opaque once written, and the body it vouches for.

use prost::Message as _;
use shared::{
    fact::{FactStream, MAX_BODY_BYTES},
    ids::{RegionName, TenantId},
};
use uuid::Uuid;

use super::log::{GENESIS_HASH, Hash, Head, LogId, MAX_NUMBER, Origin, hash_of};

/// The largest envelope; checked before anything of it is read.
pub const MAX_ENVELOPE_BYTES: usize = 8 * 1024;

pub use shared::fact::SALT_BYTES;

/// The version of envelopes this program writes.
const ENVELOPE_VERSION: u32 = 1;

/// Which tenure of a tenant's home wrote a fact; the default is before every tenure, for facts that name none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HomeEpoch {
    /// Raised by a forced move.
    pub term: u64,
    /// Raised by a planned move.
    pub n: u64,
}

/// One entry as it is stored and forwarded: bytes that are never written anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The envelope, byte for byte as its origin wrote it.
    pub envelope: Vec<u8>,
    /// Salt and JSON; absent if withheld or erased.
    pub body: Option<Vec<u8>>,
}

impl Entry {
    /// Bytes of it that travel.
    pub fn len(&self) -> usize {
        self.envelope.len() + self.body.as_ref().map_or(0, Vec::len)
    }

    /// Whether there is nothing in it, which no valid entry is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The JSON of the body, if it is here.
    pub fn json(&self) -> Option<&[u8]> {
        self.body.as_ref().and_then(|body| body.get(SALT_BYTES..))
    }
}

/// A fact about to be numbered.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The fact's own id, that of its outbox row.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
    /// The tenant it is about.
    pub tenant: Option<TenantId>,
    /// The tenure of the tenant's home that wrote it.
    pub home_epoch: Option<HomeEpoch>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
    /// When it was committed, by its origin's clock. Information only.
    pub committed_at_ms: i64,
    /// Salt and JSON.
    pub body: Vec<u8>,
}

/// What an envelope says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The mesh it belongs to.
    pub cluster_id: String,
    /// The log.
    pub log: LogId,
    /// Its number in the log, from 1.
    pub seq: u64,
    /// Hash of the entry before it.
    pub prev_hash: Hash,
    /// The fact's own id.
    pub id: Uuid,
    /// The fact's kind; possibly one this version does not know.
    pub kind: String,
    /// The tenant it is about.
    pub tenant: Option<TenantId>,
    /// The tenure of the tenant's home that wrote it.
    pub home_epoch: Option<HomeEpoch>,
    /// Where its body may be kept; empty means everywhere.
    pub residency_tag: String,
    /// SHA-256 of the body.
    pub body_hash: Hash,
    /// Length of the body.
    pub body_len: u32,
    /// When it was committed, by its origin's clock. Information only.
    pub committed_at_ms: i64,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
}

/// Why bytes are not an envelope, or not one with this body.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EnvelopeError {
    /// Longer than [`MAX_ENVELOPE_BYTES`], or a body longer than a fact may be.
    #[error("{0} bytes are more than an entry may have")]
    TooLarge(usize),
    /// Not the wire format.
    #[error("an envelope cannot be read: {0}")]
    Malformed(String),
    /// Written by a version that says so itself.
    #[error("an envelope of unknown version {0}")]
    UnknownVersion(u32),
    /// The body is not the one the envelope vouches for.
    #[error("the body does not match its envelope")]
    WrongBody,
}

impl Envelope {
    /// Writes the entry that follows `head` in `log`, and says the new head.
    pub fn seal(cluster_id: &str, log: &LogId, head: &Head, draft: Draft) -> (Entry, Head) {
        let seq = head.seq + 1;
        let wire = Wire {
            version: ENVELOPE_VERSION,
            cluster_id: cluster_id.to_owned(),
            region: log.origin.region.as_str().to_owned(),
            incarnation: log.origin.incarnation,
            stream: log.stream.as_str().to_owned(),
            seq,
            prev_hash: if seq == 1 { Vec::new() } else { head.hash.to_vec() },
            kind: draft.kind,
            tenant: draft.tenant.map(String::from),
            home_term: draft.home_epoch.map(|epoch| epoch.term),
            home_n: draft.home_epoch.map(|epoch| epoch.n),
            deps: Vec::new(),
            residency_tag: String::new(),
            body_hash: hash_of(&draft.body).to_vec(),
            body_len: u32::try_from(draft.body.len()).expect("a body is at most 256 KiB"),
            committed_at_ms: draft.committed_at_ms,
            traceparent: draft.traceparent,
            id: draft.id.as_bytes().to_vec(),
        };
        let envelope = wire.encode_to_vec();
        let head = Head { seq, hash: hash_of(&envelope) };
        (Entry { envelope, body: Some(draft.body) }, head)
    }

    /// Reads an envelope's bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE_BYTES {
            return Err(EnvelopeError::TooLarge(bytes.len()));
        }
        let malformed = |what: &str| EnvelopeError::Malformed(what.to_owned());
        let wire = Wire::decode(bytes).map_err(|error| EnvelopeError::Malformed(error.to_string()))?;
        if wire.version != ENVELOPE_VERSION {
            return Err(EnvelopeError::UnknownVersion(wire.version));
        }
        let numbers = [wire.seq, wire.incarnation, wire.home_term.unwrap_or_default(), wire.home_n.unwrap_or_default()];
        if numbers.iter().any(|number| *number > MAX_NUMBER) {
            return Err(malformed("a number is too great"));
        }
        let prev_hash = match (wire.seq, wire.prev_hash.as_slice()) {
            (0, _) => return Err(malformed("entries count from 1")),
            (1, []) => GENESIS_HASH,
            (_, hash) => hash.try_into().map_err(|_| malformed("the previous hash is not 32 bytes"))?,
        };
        Ok(Self {
            cluster_id: wire.cluster_id,
            log: LogId {
                origin: Origin {
                    region: wire.region.parse::<RegionName>().map_err(|_| malformed("the region is no name"))?,
                    incarnation: wire.incarnation,
                },
                stream: FactStream::from_name(&wire.stream).ok_or_else(|| malformed("unknown stream"))?,
            },
            seq: wire.seq,
            prev_hash,
            id: Uuid::from_slice(&wire.id).map_err(|_| malformed("the id is no UUID"))?,
            kind: wire.kind,
            tenant: wire.tenant.map(|tenant| tenant.parse().map_err(|_| malformed("bad tenant"))).transpose()?,
            home_epoch: match (wire.home_term, wire.home_n) {
                (Some(term), Some(n)) => Some(HomeEpoch { term, n }),
                _ => None,
            },
            residency_tag: wire.residency_tag,
            body_hash: wire
                .body_hash
                .as_slice()
                .try_into()
                .map_err(|_| malformed("the body's hash is not 32 bytes"))?,
            body_len: wire.body_len,
            committed_at_ms: wire.committed_at_ms,
            traceparent: wire.traceparent,
        })
    }

    /// Checks that a body is the one this envelope vouches for.
    pub fn check_body(&self, body: &[u8]) -> Result<(), EnvelopeError> {
        if body.len() > MAX_BODY_BYTES + SALT_BYTES {
            return Err(EnvelopeError::TooLarge(body.len()));
        }
        if u32::try_from(body.len()) != Ok(self.body_len) || hash_of(body) != self.body_hash {
            return Err(EnvelopeError::WrongBody);
        }
        Ok(())
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    cluster_id: String,
    #[prost(string, tag = "3")]
    region: String,
    #[prost(uint64, tag = "4")]
    incarnation: u64,
    #[prost(string, tag = "5")]
    stream: String,
    #[prost(uint64, tag = "6")]
    seq: u64,
    #[prost(bytes = "vec", tag = "7")]
    prev_hash: Vec<u8>,
    #[prost(string, tag = "8")]
    kind: String,
    #[prost(string, optional, tag = "9")]
    tenant: Option<String>,
    #[prost(uint64, optional, tag = "10")]
    home_term: Option<u64>,
    #[prost(uint64, optional, tag = "11")]
    home_n: Option<u64>,
    /// Entries this one builds on. Config changes carry theirs inside; reserved for kinds that do not.
    #[prost(bytes = "vec", repeated, tag = "12")]
    deps: Vec<Vec<u8>>,
    #[prost(string, tag = "13")]
    residency_tag: String,
    #[prost(bytes = "vec", tag = "14")]
    body_hash: Vec<u8>,
    #[prost(uint32, tag = "15")]
    body_len: u32,
    #[prost(int64, tag = "16")]
    committed_at_ms: i64,
    #[prost(string, optional, tag = "17")]
    traceparent: Option<String>,
    #[prost(bytes = "vec", tag = "18")]
    id: Vec<u8>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn log() -> LogId {
        LogId { origin: Origin { region: "eu-west".parse().unwrap(), incarnation: 2 }, stream: FactStream::Ledger }
    }

    pub(crate) fn draft(n: u8) -> Draft {
        Draft {
            id: Uuid::from_u128(u128::from(n)),
            kind: "settlement".to_owned(),
            tenant: Some("porto-taxis".parse().unwrap()),
            home_epoch: Some(HomeEpoch { term: 1, n: 0 }),
            traceparent: None,
            committed_at_ms: 1_700_000_000_000,
            body: [&[n; SALT_BYTES], b"{}".as_slice()].concat(),
        }
    }

    #[test]
    fn an_envelope_reads_back_and_chains() {
        let (first, head) = Envelope::seal("c1", &log(), &Head::EMPTY, draft(1));
        let (second, _) = Envelope::seal("c1", &log(), &head, draft(2));
        let read = Envelope::read(&second.envelope).unwrap();
        assert_eq!((read.seq, read.prev_hash), (2, hash_of(&first.envelope)));
        assert_eq!(read.log, log());
        assert_eq!(read.tenant.as_ref().map(TenantId::as_str), Some("porto-taxis"));
        read.check_body(second.body.as_ref().unwrap()).unwrap();
        assert_eq!(read.check_body(first.body.as_ref().unwrap()), Err(EnvelopeError::WrongBody));
        assert_eq!(second.json(), Some(b"{}".as_slice()));
    }

    /// These bytes were written by the first version and must be readable for ever.
    #[test]
    fn envelopes_of_the_first_version_stay_readable() {
        let (entry, head) = Envelope::seal("c1", &log(), &Head::EMPTY, draft(1));
        insta::assert_snapshot!(hex::encode(&entry.envelope), @"0801120263311a0765752d7765737420022a066c65646765723001420a736574746c656d656e744a0b706f72746f2d7461786973500158007220d355d911d2f26a54dc0366196d99e2ffef085bb9edf7a495a342ea52c2a4c2f37812800180d095ffbc3192011000000000000000000000000000000001");
        insta::assert_snapshot!(hex::encode(head.hash), @"b4886ec5475c21b43309d411ba49aea8dea2a4c448aaa0c3eb0760dda3ba468c");
        assert_eq!(Envelope::read(&entry.envelope).unwrap().log, log());
    }

    #[test]
    fn junk_is_refused_without_reading_far() {
        assert!(matches!(Envelope::read(&[0; MAX_ENVELOPE_BYTES + 1]), Err(EnvelopeError::TooLarge(_))));
        assert!(matches!(Envelope::read(b""), Err(EnvelopeError::UnknownVersion(0))));
        assert!(matches!(Envelope::read(&[8, 9]), Err(EnvelopeError::UnknownVersion(9))));
        assert!(matches!(Envelope::read(&[8, 1]), Err(EnvelopeError::Malformed(_))));
        assert!(matches!(Envelope::read(&[255; 40]), Err(EnvelopeError::Malformed(_))));
    }

    #[test]
    fn a_number_the_database_cannot_hold_is_refused() {
        let far = LogId { origin: Origin { incarnation: u64::MAX, ..log().origin }, ..log() };
        let (entry, _) = Envelope::seal("c1", &far, &Head::EMPTY, draft(1));
        assert!(matches!(Envelope::read(&entry.envelope), Err(EnvelopeError::Malformed(_))));
        let late = Draft { home_epoch: Some(HomeEpoch { term: MAX_NUMBER + 1, n: 0 }), ..draft(1) };
        let (entry, _) = Envelope::seal("c1", &log(), &Head::EMPTY, late);
        assert!(matches!(Envelope::read(&entry.envelope), Err(EnvelopeError::Malformed(_))));
    }
}
