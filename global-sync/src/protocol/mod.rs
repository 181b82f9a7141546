//! The replication core: `handle(now, event) -> effects`, nothing else.
//!
//! It knows logs, peers, credits and signatures. It knows no socket, clock, database, randomness or task: whoever
//! drives it ([`crate::node`], or the simulation) brings the time and carries out the effects. Any event in any order
//! is legal. What it remembers can be rebuilt from the database at any moment, and is after an error.

#![warn(clippy::wildcard_enum_match_arm)]

mod batch;
mod envelope;
mod event;
mod log;
mod message;
mod replica;
mod rows;
mod session;

pub use batch::{BatchError, Trust, TrustError, VerifiedBatch, prove_head, verify};
pub use envelope::{Draft, Entry, Envelope, EnvelopeError, HomeEpoch, MAX_ENVELOPE_BYTES, SALT_BYTES};
pub use event::{Alarm, CloseReason, ConnectionId, Effect, Event, Limits, Past, Settings};
pub use log::{
    GENESIS_HASH, Hash, Head, KeyId, LogId, MAX_NUMBER, Millis, Origin, VersionVector, checkpoint_message, hash_of,
};
pub use message::{
    Ack, Advert, Batch, Checkpoint, Credit, Digest, Hello, Inspect, LogState, MAX_BATCH_BYTES, MAX_FRAME_BYTES,
    MAX_GROUP_BYTES, MAX_GROUP_ENTRIES, Message, PROTOCOL_VERSION, Pull, WireError, features,
};
pub use replica::{Flow, Replica};
pub use rows::{Comparison, Difference, MAX_PREFIX, MAX_ROWS, Row, Rows, Sum, Summary};
pub use shared::fact::MemberState;
