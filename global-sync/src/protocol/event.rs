//! What the core is told, and what it wants done.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    fact::{FactStream, MemberState},
    ids::RegionName,
};

use super::{
    batch::{BatchError, VerifiedBatch},
    log::{Head, KeyId, LogId, Origin},
    message::{Digest, Inspect, LogState, Message},
    rows::Difference,
};

/// Names a connection; never used twice by one instance.
pub type ConnectionId = u64;

/// Who this instance is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The mesh.
    pub cluster_id: String,
    /// The region and its incarnation.
    pub origin: Origin,
    /// This process.
    pub instance: u128,
    /// Where the region stands.
    pub state: MemberState,
    /// Regions that may know more of us than we do after a restore; numbering waits a little for them.
    pub expected: BTreeSet<RegionName>,
    /// What can be seen from here of what became of the database before this start.
    pub past: Past,
    /// Bits of what this instance can do beyond the first version, see [`super::features`].
    pub features: u64,
    /// How often and how much.
    pub limits: Limits,
}

/// What became of the database before a start, for all that can be seen from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// The incarnation began on it, and nobody has been away for long.
    Known,
    /// Nobody had led the region for long: an old copy may have been put in its place meanwhile.
    Doubted,
    /// It is a copy of the one the incarnation began on, restored or promoted. What it lacks of that may be anywhere: on the
    /// other database still, on its way to a peer, or being stored by one.
    Copied,
}

/// How often things are done and how much of them at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one log that may be on their way or waiting to be stored.
    pub pull_credit_bytes: u64,
    /// Chain heads are compared with those of peers this often.
    pub heads_every_ms: u64,
    /// Derived rows are compared with those of peers this often.
    pub rows_every_ms: u64,
    /// Old entries are dropped this often.
    pub truncate_every_ms: u64,
    /// So many entries of a log are kept for a member that lags; then it has to load a snapshot.
    pub kept_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // 30,000 facts a second over a line of 120 ms each way, by which time what was granted has come and is granted again.
            pull_credit_bytes: 4 * 1024 * 1024,
            heads_every_ms: 60_000,
            rows_every_ms: 15 * 60_000,
            truncate_every_ms: 60_000,
            kept_entries: 20_000_000,
        }
    }
}

/// What can happen.
#[derive(Clone, Debug, Hash)]
pub enum Event {
    /// A connection stands; its certificate names the region.
    Connected {
        /// The connection.
        conn: ConnectionId,
        /// Who is at the other end.
        region: RegionName,
        /// Whether we opened it.
        dialed: bool,
    },
    /// A connection is gone.
    Disconnected {
        /// The connection.
        conn: ConnectionId,
    },
    /// A peer said something.
    Received {
        /// The connection.
        conn: ConnectionId,
        /// What it said.
        message: Message,
    },
    /// A batch is durable; this is now our head.
    Stored {
        /// The log.
        log: LogId,
        /// Its head in the database.
        head: Head,
    },
    /// A batch could not be stored; our head is (still) this.
    StoreFailed {
        /// The log.
        log: LogId,
        /// Its head in the database.
        head: Head,
    },
    /// Entries of a log were applied.
    Applied {
        /// The log.
        log: LogId,
        /// Up to this one.
        applied: u64,
    },
    /// Entries of our own are numbered and durable.
    Numbered {
        /// The log.
        log: LogId,
        /// Its head now.
        head: Head,
    },
    /// An [`Effect::Serve`] is done.
    Served {
        /// The connection.
        conn: ConnectionId,
        /// The log.
        log: LogId,
        /// The pull that was served.
        pull: u64,
        /// The first entry not sent.
        next: u64,
        /// The bytes sent.
        bytes: u64,
    },
    /// We became the region's leader; this is what the database holds.
    Leads {
        /// Every log we have.
        logs: BTreeMap<LogId, LogState>,
    },
    /// We lead no longer.
    Follows,
    /// Another instance leads; this is what it has stored meanwhile.
    Refreshed {
        /// Every log we have.
        logs: BTreeMap<LogId, LogState>,
    },
    /// What the database knows of the members: where they stand, and how much of each log they had by their last word.
    Members {
        /// By the region directory, ourselves included.
        states: BTreeMap<RegionName, MemberState>,
        /// What was acknowledged, in this life or an earlier one.
        acks: BTreeMap<RegionName, BTreeMap<LogId, u64>>,
        /// Of whom the snapshot was that is loaded here, until [`Effect::SnapshotHolds`].
        unchecked: Option<RegionName>,
    },
    /// With these peers no entries of these streams pass, by an operator's command.
    Paused(BTreeSet<(RegionName, FactStream)>),
    /// Logs that are known to be others at a peer than here, whichever instance found them.
    Diverged(BTreeSet<(RegionName, LogId)>),
    /// An operator wants everything compared with all peers now.
    CompareNow,
    /// Old entries of a log are gone.
    Truncated {
        /// The log.
        log: LogId,
        /// Up to this one.
        upto: u64,
    },
    /// A snapshot is loaded; this is what the database holds now.
    SnapshotLoaded {
        /// Every log we have.
        logs: BTreeMap<LogId, LogState>,
    },
    /// A snapshot could not be loaded; nothing has changed.
    SnapshotFailed,
    /// An [`Effect::CheckHead`] found another entry here.
    HeadDiffers {
        /// The peer.
        peer: RegionName,
        /// The log.
        log: LogId,
        /// The entry.
        seq: u64,
    },
    /// An [`Effect::CheckHead`] found the same entry here, and so all before it are the same.
    HeadAgrees {
        /// The peer.
        peer: RegionName,
        /// The log.
        log: LogId,
    },
    /// An [`Effect::Answer`] is done.
    Answered {
        /// The connection.
        conn: ConnectionId,
    },
    /// An [`Effect::Compare`] is done.
    Compared {
        /// The connection the answer came from.
        conn: ConnectionId,
        /// What was compared.
        question: Inspect,
        /// The outcome; none if our rows cannot be had as of that vector.
        difference: Option<Difference>,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say something to a peer.
    Send {
        /// The connection.
        conn: ConnectionId,
        /// What to say.
        message: Message,
    },
    /// End a connection.
    Close {
        /// The connection.
        conn: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
    /// Make a batch durable, then report [`Event::Stored`] or [`Event::StoreFailed`].
    Store {
        /// What to store.
        batch: Box<VerifiedBatch>,
        /// Whether its origin sent it itself.
        direct: bool,
    },
    /// Read entries of a log and send them, then report [`Event::Served`].
    Serve {
        /// To whom.
        conn: ConnectionId,
        /// The log.
        log: LogId,
        /// The pull this answers.
        pull: u64,
        /// The first entry to send.
        from: u64,
        /// The last entry that may be sent; the database may be further than this instance has heard.
        upto: u64,
        /// How many bytes; at least one group is sent.
        max_bytes: u64,
        /// Certificates the peer has.
        known_keys: Vec<KeyId>,
    },
    /// Remember a member.
    SaveMember {
        /// Its origin.
        origin: Origin,
        /// Where it stands.
        state: MemberState,
        /// Its optional features.
        features: u64,
        /// The kinds of facts it understands.
        kinds: Vec<String>,
    },
    /// Remember what a peer has of a log; others' durability rests on it.
    SaveAck {
        /// The peer.
        peer: RegionName,
        /// The log.
        log: LogId,
        /// What it has.
        state: LogState,
    },
    /// Forget what a peer had of a log: it names it no more.
    ForgetAck {
        /// The peer.
        peer: RegionName,
        /// The log.
        log: LogId,
    },
    /// Facts of our own may be numbered from now on, as long as we lead.
    AllowNumbering,
    /// This database lacks facts of ours, or may: begin an incarnation after this one, then start over.
    BeginIncarnation {
        /// The newest incarnation we know of.
        after: u64,
        /// What others know was not or could not be asked of all: only an incarnation that nobody can have begun before will do.
        alone: bool,
    },
    /// Drop old entries of a log, those that are old enough, then report [`Event::Truncated`].
    Truncate {
        /// The log.
        log: LogId,
        /// The last entry that may go.
        upto: u64,
    },
    /// Entries a member lacks are dropped all the same: it will need a snapshot.
    GiveUpOn {
        /// The member.
        peer: RegionName,
        /// The log it would have held up.
        log: LogId,
    },
    /// Nobody has the entries we need any more: load a snapshot from this peer, then report [`Event::SnapshotLoaded`] or
    /// [`Event::SnapshotFailed`].
    LoadSnapshot {
        /// From whom.
        peer: RegionName,
    },
    /// What was derived from all three kinds of logs is the same here as in a region that did not give the snapshot, or in the
    /// only other one: remember that it is looked at no more.
    SnapshotHolds,
    /// Compare the hash of one of our entries; report [`Event::HeadDiffers`] or [`Event::HeadAgrees`].
    CheckHead {
        /// Who has it.
        peer: RegionName,
        /// The log.
        log: LogId,
        /// The entry and the peer's hash of it.
        head: Head,
    },
    /// What was told of with [`Alarm::Diverged`] is so no more: the copies of a log are the same as far as both go.
    HeadsAgree {
        /// The peer.
        peer: RegionName,
        /// The log.
        log: LogId,
    },
    /// Sum up derived rows for a peer and send it [`Message::Digest`], then report [`Event::Answered`].
    Answer {
        /// To whom.
        conn: ConnectionId,
        /// What it asks.
        question: Inspect,
    },
    /// Sum up our rows as the peer did and report the difference in [`Event::Compared`].
    Compare {
        /// Who answered.
        conn: ConnectionId,
        /// What it said.
        theirs: Digest,
    },
    /// Tell people.
    Alarm(Alarm),
}

impl Effect {
    /// The effect's name, for traces and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Send { .. } => "send",
            Self::Close { .. } => "close",
            Self::Store { .. } => "store",
            Self::Serve { .. } => "serve",
            Self::SaveMember { .. } => "save member",
            Self::SaveAck { .. } => "save ack",
            Self::ForgetAck { .. } => "forget ack",
            Self::AllowNumbering => "allow numbering",
            Self::BeginIncarnation { .. } => "begin incarnation",
            Self::Truncate { .. } => "truncate",
            Self::GiveUpOn { .. } => "give up on",
            Self::LoadSnapshot { .. } => "load snapshot",
            Self::SnapshotHolds => "snapshot holds",
            Self::CheckHead { .. } => "check head",
            Self::HeadsAgree { .. } => "heads agree",
            Self::Answer { .. } => "answer",
            Self::Compare { .. } => "compare",
            Self::Alarm(_) => "alarm",
        }
    }
}

/// Why we end a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The peer speaks no version we do.
    Version,
    /// The peer is of another mesh.
    OtherCluster,
    /// The peer says it is a region its certificate does not name, or ours.
    WrongRegion,
    /// The peer said something at the wrong time.
    OutOfOrder,
    /// There are two connections to one peer.
    Duplicate,
    /// The peer has said nothing for too long.
    Silent,
}

impl CloseReason {
    /// A stable name, for the peer, logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::OtherCluster => "other_cluster",
            Self::WrongRegion => "wrong_region",
            Self::OutOfOrder => "out_of_order",
            Self::Duplicate => "duplicate",
            Self::Silent => "silent",
        }
    }
}

/// Something a person should look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// A peer sent entries that are not what their origin wrote.
    BadBatch {
        /// Who sent it.
        from: RegionName,
        /// The log.
        log: LogId,
        /// What is wrong with it.
        error: BatchError,
    },
    /// A peer's copy of a log differs from ours. Told again until it is known, and with [`Event::Diverged`] said to be.
    Diverged {
        /// The peer.
        peer: RegionName,
        /// The log.
        log: LogId,
        /// The entry.
        seq: u64,
    },
    /// A peer's derived rows differ from ours although both have applied the same entries. Told again as long as they do.
    RowsDiffer {
        /// The peer.
        peer: RegionName,
        /// The log they were derived from.
        stream: FactStream,
        /// The keys of the rows.
        keys: Vec<String>,
    },
}
