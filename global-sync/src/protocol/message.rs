//! What peers say to each other, and its bytes.
//!
//! A frame is a length, a type and a protobuf message. New fields may be added; what a message means may not change.
//! Frames of unknown types are skipped, so a newer peer may say more.

use std::collections::BTreeMap;

use prost::Message as _;
use shared::{
    fact::{FactStream, MemberState},
    ids::RegionName,
};

use super::{
    envelope::{Entry, MAX_ENVELOPE_BYTES},
    log::{Hash, Head, KeyId, LogId, MAX_NUMBER, Origin},
    rows::{MAX_PREFIX, MAX_ROWS, Row, Rows, Sum},
};

/// The version of the protocol this program speaks, offered as a range in [`Hello`].
pub const PROTOCOL_VERSION: u32 = 1;
/// The largest frame, checked before a byte of it is read.
pub const MAX_FRAME_BYTES: usize = 4 * 1024 * 1024;
/// The most entries' bytes in one batch; a batch may exceed it by finishing the group it is in. Small enough that a slow
/// link still brings one every few seconds.
pub const MAX_BATCH_BYTES: u64 = 256 * 1024;
/// The most bytes an origin leaves between two signed checkpoints, unless a single entry has more.
pub const MAX_GROUP_BYTES: usize = 128 * 1024;
/// The most entries an origin leaves between two signed checkpoints.
pub const MAX_GROUP_ENTRIES: usize = 1000;

/// What a peer can do beyond the first version; it says so in [`Hello`], and is asked for nothing else.
pub mod features {
    /// It answers [`super::Message::Inspect`].
    pub const INSPECT: u64 = 1;
    /// It may have dropped old entries, says which, and gives and loads snapshots instead.
    pub const SNAPSHOTS: u64 = 1 << 1;
    /// It tells of rows as they are, where it is asked for them so.
    pub const AS_THEY_ARE: u64 = 1 << 2;
    /// All that this version can do.
    pub const ALL: u64 = INSPECT | SNAPSHOTS | AS_THEY_ARE;
}

const MAX_LOGS: usize = 4096;
const MAX_BATCH_ENTRIES: usize = 65_536;
const MAX_KINDS: usize = 256;
const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;
const MAX_KEY_BYTES: usize = 256;

/// The first thing each side says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Oldest version spoken.
    pub min_version: u32,
    /// Newest version spoken.
    pub max_version: u32,
    /// Bits of optional [`features`].
    pub features: u64,
    /// Kinds of facts understood.
    pub kinds: Vec<String>,
    /// The mesh; peers of another are refused.
    pub cluster_id: String,
    /// The speaker; its region must be the one in its certificate.
    pub origin: Origin,
    /// Which process of the region speaks.
    pub instance: u128,
    /// Where the region stands.
    pub state: MemberState,
}

/// What somebody has of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogState {
    /// Stored: durable, verified, fit to be passed on.
    pub head: Head,
    /// Applied to the tables people read.
    pub applied: u64,
    /// Entries up to this one are no longer here; what was applied of them is.
    pub truncated: u64,
}

impl LogState {
    /// Nothing of a log.
    pub const EMPTY: Self = Self { head: Head::EMPTY, applied: 0, truncated: 0 };
}

/// Everything the speaker has. Said often; silence means the peer is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Advert {
    /// Every log it knows of, empty ones too.
    pub logs: BTreeMap<LogId, LogState>,
    /// Whether the speaker leads its region and so hears of new entries first.
    pub leading: bool,
}

/// Send me this log from here on, now and as it grows, up to so many bytes. No bytes: stop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pull {
    /// The log.
    pub log: LogId,
    /// Names this request; a newer one for the same log replaces it.
    pub id: u64,
    /// The first entry wanted.
    pub from: u64,
    /// How many bytes may be sent before more is granted.
    pub credit: u64,
    /// Certificates of the origin that need not be sent again.
    pub known_keys: Vec<KeyId>,
}

/// That many more bytes for a running pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credit {
    /// The log.
    pub log: LogId,
    /// The pull it belongs to.
    pub id: u64,
    /// Bytes granted on top.
    pub bytes: u64,
}

/// The origin vouches for its log up to here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The entry, which is the last of its batch.
    pub head: Head,
    /// Which key signed.
    pub key_id: KeyId,
    /// Ed25519 over [`super::checkpoint_message`].
    pub signature: Vec<u8>,
    /// The key's certificate (DER), unless the puller said it knows it.
    pub certificate: Option<Vec<u8>>,
}

/// Consecutive entries of one log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Batch {
    /// The log.
    pub log: LogId,
    /// The pull it answers.
    pub pull: u64,
    /// The entries, oldest first.
    pub entries: Vec<Entry>,
    /// The origin's word for them.
    pub checkpoint: Checkpoint,
}

/// I have durably stored that much of a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    /// The log.
    pub log: LogId,
    /// What is stored and applied.
    pub state: LogState,
}

/// Tell me of the rows you derived from one kind of log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inspect {
    /// Which rows: those derived from logs of this stream.
    pub stream: FactStream,
    /// As of these entries of each origin; absent: as of what is applied where the answer is written.
    pub vector: Option<BTreeMap<Origin, u64>>,
    /// Those whose key's hash begins with this.
    pub prefix: Vec<u8>,
    /// Rows as they are now, although they may say what has no number yet or was applied after the vector was read: what is
    /// equal then is equal, and what differs means nothing.
    pub as_they_are: bool,
}

/// The answer to [`Inspect`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digest {
    /// What was asked, its vector filled in.
    pub of: Inspect,
    /// The rows.
    pub rows: Rows,
}

/// Anything a peer says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Advert`].
    Advert(Advert),
    /// See [`Pull`].
    Pull(Pull),
    /// See [`Credit`].
    Credit(Credit),
    /// See [`Batch`].
    Batch(Batch),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Inspect`].
    Inspect(Inspect),
    /// See [`Digest`].
    Digest(Digest),
}

/// Why a frame is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not protobuf, or not this message.
    #[error("a {0} cannot be read: {1}")]
    Malformed(&'static str, String),
    /// More items than the message may have.
    #[error("a {0} has too many items")]
    TooMany(&'static str),
}

impl Message {
    /// The byte that names the type in a frame.
    pub fn frame_type(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Advert(_) => 2,
            Self::Pull(_) => 3,
            Self::Credit(_) => 4,
            Self::Batch(_) => 5,
            Self::Ack(_) => 6,
            Self::Inspect(_) => 7,
            Self::Digest(_) => 8,
        }
    }

    /// The message's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Advert(_) => "advert",
            Self::Pull(_) => "pull",
            Self::Credit(_) => "credit",
            Self::Batch(_) => "batch",
            Self::Ack(_) => "ack",
            Self::Inspect(_) => "inspect",
            Self::Digest(_) => "digest",
        }
    }

    /// The bytes of a frame after its length and type.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => wire::Hello::from(hello).encode_to_vec(),
            Self::Advert(advert) => wire::Advert::from(advert).encode_to_vec(),
            Self::Pull(pull) => wire::Pull::from(pull).encode_to_vec(),
            Self::Credit(credit) => wire::Credit::from(credit).encode_to_vec(),
            Self::Batch(batch) => wire::Batch::from(batch).encode_to_vec(),
            Self::Ack(ack) => wire::Ack::from(ack).encode_to_vec(),
            Self::Inspect(inspect) => wire::Inspect::from(inspect).encode_to_vec(),
            Self::Digest(digest) => wire::Digest::from(digest).encode_to_vec(),
        }
    }

    /// Reads a frame's content; `None` for a type this version does not know.
    pub fn decode(frame_type: u8, bytes: &[u8]) -> Result<Option<Self>, WireError> {
        Ok(Some(match frame_type {
            1 => Self::Hello(wire::read::<wire::Hello>("hello", bytes)?.try_into()?),
            2 => Self::Advert(wire::read::<wire::Advert>("advert", bytes)?.try_into()?),
            3 => Self::Pull(wire::read::<wire::Pull>("pull", bytes)?.try_into()?),
            4 => Self::Credit(wire::read::<wire::Credit>("credit", bytes)?.try_into()?),
            5 => Self::Batch(wire::read::<wire::Batch>("batch", bytes)?.try_into()?),
            6 => Self::Ack(wire::read::<wire::Ack>("ack", bytes)?.try_into()?),
            7 => Self::Inspect(wire::read::<wire::Inspect>("inspect", bytes)?.try_into()?),
            8 => Self::Digest(wire::read::<wire::Digest>("digest", bytes)?.try_into()?),
            _ => return Ok(None),
        }))
    }
}

mod wire;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::tests::log;

    pub(super) fn one_of_each() -> Vec<Message> {
        let state = LogState { head: Head { seq: 7, hash: [9; 32] }, applied: 5, truncated: 0 };
        vec![
            Message::Hello(Hello {
                min_version: 1,
                max_version: 1,
                features: 0,
                kinds: vec!["settlement".to_owned()],
                cluster_id: "c1".to_owned(),
                origin: log().origin,
                instance: 77,
                state: MemberState::Active,
            }),
            Message::Advert(Advert { logs: [(log(), state)].into(), leading: true }),
            Message::Pull(Pull { log: log(), id: 3, from: 8, credit: 1 << 20, known_keys: vec![[4; 32]] }),
            Message::Credit(Credit { log: log(), id: 3, bytes: 512 }),
            Message::Batch(Batch {
                log: log(),
                pull: 3,
                entries: vec![
                    Entry { envelope: vec![1, 2], body: Some(vec![3]) },
                    Entry { envelope: vec![4], body: None },
                ],
                checkpoint: Checkpoint {
                    head: state.head,
                    key_id: [4; 32],
                    signature: vec![5; 64],
                    certificate: Some(vec![6]),
                },
            }),
            Message::Ack(Ack { log: log(), state }),
            Message::Inspect(Inspect {
                stream: FactStream::Ledger,
                vector: None,
                prefix: vec![1, 2],
                as_they_are: false,
            }),
            Message::Digest(Digest {
                of: Inspect {
                    stream: FactStream::Ledger,
                    vector: Some([(log().origin, 7)].into()),
                    prefix: vec![1],
                    as_they_are: false,
                },
                rows: Rows::Each(vec![Row { key: "a row".to_owned(), hash: [7; 32] }]),
            }),
        ]
    }

    /// Bytes of the first version; peers one version apart must understand each other.
    #[test]
    fn messages_of_the_first_version_stay_readable() {
        let mut golden = String::new();
        for message in one_of_each() {
            let bytes = message.encode();
            golden.push_str(&format!("{} {}\n", message.frame_type(), hex::encode(&bytes)));
            assert_eq!(Message::decode(message.frame_type(), &bytes).unwrap(), Some(message));
        }
        insta::assert_snapshot!(golden, @r"
        1 08011001220a736574746c656d656e742a026331320765752d77657374380242100000000000000000000000000000004d4a06616374697665
        2 0a3b0a130a0765752d7765737410021a066c656467657210071a20090909090909090909090909090909090909090909090909090909090909090920051001
        3 0a130a0765752d7765737410021a066c656467657210031808208080402a200404040404040404040404040404040404040404040404040404040404040404
        4 0a130a0765752d7765737410021a066c65646765721003188004
        5 0a130a0765752d7765737410021a066c656467657210031a070a0201021201031a030a010420072a200909090909090909090909090909090909090909090909090909090909090909322004040404040404040404040404040404040404040404040404040404040404043a4005050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505050505420106
        6 0a3b0a130a0765752d7765737410021a066c656467657210071a2009090909090909090909090909090909090909090909090909090909090909092005
        7 0a066c65646765721a020102
        8 0a1c0a066c6564676572120f0a0d0a0765752d77657374100218071a01011a290a056120726f7712200707070707070707070707070707070707070707070707070707070707070707
        ");
    }

    #[test]
    fn a_digest_of_sums_reads_back_and_one_with_a_hole_or_out_of_order_is_refused() {
        let of =
            Inspect { stream: FactStream::Config, vector: Some(BTreeMap::new()), prefix: vec![], as_they_are: false };
        let sums = Digest { of: of.clone(), rows: Rows::Sums(vec![Sum { rows: 3, hashes: [1; 32] }; 256]) };
        let bytes = Message::Digest(sums.clone()).encode();
        assert_eq!(Message::decode(8, &bytes).unwrap(), Some(Message::Digest(sums.clone())));
        let hole = Digest { rows: Rows::Sums(vec![Sum::default(); 255]), ..sums.clone() };
        let row = |key: &str| Row { key: key.to_owned(), hash: [1; 32] };
        let order = Digest { rows: Rows::Each(vec![row("b"), row("a")]), ..sums.clone() };
        let when = Digest { of: Inspect { vector: None, ..of }, ..sums };
        for bad in [hole, order, when] {
            assert!(matches!(Message::decode(8, &Message::Digest(bad).encode()), Err(WireError::Malformed(..))));
        }
    }

    #[test]
    fn a_peer_that_has_dropped_old_entries_says_so_and_the_first_version_reads_over_it() {
        let state = LogState { head: Head { seq: 7, hash: [9; 32] }, applied: 5, truncated: 3 };
        let ack = Message::Ack(Ack { log: log(), state });
        let bytes = ack.encode();
        assert_eq!(Message::decode(6, &bytes).unwrap(), Some(ack));
        let first = Message::Ack(Ack { log: log(), state: LogState { truncated: 0, ..state } }).encode();
        assert_eq!(bytes.len(), first.len() + 2, "one field more, nothing else moved");
    }

    #[test]
    fn rows_as_they_are_are_asked_for_by_one_field_more_that_the_first_version_reads_over() {
        let inspect = |as_they_are| {
            let question = Inspect { stream: FactStream::Config, vector: None, prefix: vec![7], as_they_are };
            Message::Inspect(question)
        };
        let bytes = inspect(true).encode();
        assert_eq!(Message::decode(7, &bytes).unwrap(), Some(inspect(true)));
        assert_eq!(bytes.len(), inspect(false).encode().len() + 2, "one field more, nothing else moved");
    }

    #[test]
    fn fields_and_types_of_the_future_are_skipped() {
        for message in one_of_each() {
            let mut bytes = message.encode();
            bytes.extend([0xfa, 0x3f, 2, 1, 2]); // field 1023, two bytes
            assert_eq!(Message::decode(message.frame_type(), &bytes).unwrap(), Some(message));
        }
        assert_eq!(Message::decode(99, &[1, 2, 3]).unwrap(), None);
    }

    #[test]
    fn numbers_the_database_cannot_hold_are_refused_whoever_says_them() {
        let far = LogId { origin: Origin { incarnation: u64::MAX, ..log().origin }, ..log() };
        let near = LogState { head: Head { seq: 7, hash: [9; 32] }, applied: 5, truncated: 0 };
        let beyond = LogState { head: Head { seq: MAX_NUMBER + 1, hash: [9; 32] }, applied: 5, truncated: 0 };
        let applied = LogState { applied: u64::MAX, ..near };
        let advert = |log: LogId, state| Message::Advert(Advert { logs: [(log, state)].into(), leading: false });
        for message in [
            advert(far.clone(), near),
            advert(log(), beyond),
            advert(log(), applied),
            Message::Ack(Ack { log: log(), state: beyond }),
            Message::Pull(Pull { log: far.clone(), id: 3, from: 8, credit: 1, known_keys: vec![] }),
            Message::Pull(Pull { log: log(), id: 3, from: u64::MAX, credit: 1, known_keys: vec![] }),
        ] {
            let refused = Message::decode(message.frame_type(), &message.encode());
            assert!(matches!(refused, Err(WireError::Malformed(..))), "{message:?}");
        }
        for mut message in one_of_each() {
            match &mut message {
                Message::Hello(hello) => hello.origin.incarnation = u64::MAX,
                Message::Batch(batch) => batch.checkpoint.head.seq = u64::MAX,
                Message::Inspect(inspect) => inspect.vector = Some([(far.origin.clone(), 1)].into()),
                Message::Advert(_) | Message::Pull(_) | Message::Credit(_) | Message::Ack(_) | Message::Digest(_) => {
                    continue;
                }
            }
            let refused = Message::decode(message.frame_type(), &message.encode());
            assert!(matches!(refused, Err(WireError::Malformed(..))), "{message:?}");
        }
    }

    #[test]
    fn truncated_and_random_frames_never_panic() {
        for message in one_of_each() {
            let bytes = message.encode();
            for end in 0..bytes.len() {
                let _ = Message::decode(message.frame_type(), &bytes[..end]);
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = Message::decode(message.frame_type(), &flipped);
            }
        }
    }
}
