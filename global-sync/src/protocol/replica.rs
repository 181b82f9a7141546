//! One instance's replication state: which peers are there, what they have, who is asked for what.

mod fetch;
mod past;
mod serve;

use std::collections::{BTreeMap, BTreeSet};

use shared::{fact::Fact, ids::RegionName};

use super::{
    batch::{BatchError, Trust, VerifiedBatch},
    log::{Head, KeyId, LogId, Millis, Origin, VersionVector},
    message::{Ack, Advert, Batch, Hello, LogState, MemberState, Message, PROTOCOL_VERSION},
    session::{Greeting, Session},
};
use fetch::Incoming;
use past::{Claim, Numbering};

/// How many bytes of one log may be on their way or waiting to be stored.
pub const PULL_CREDIT_BYTES: u64 = 2 * 1024 * 1024;

/// A peer says what it has this often.
const ADVERT_EVERY_MS: u64 = 400;
/// A peer not heard for this long is asked only if nobody else can be; another one may have what it wrote.
const SILENT_AFTER_MS: u64 = 1_000;
/// A connection on which nothing is heard for this long is a leftover, whatever the network says of it.
const GONE_AFTER_MS: u64 = 20_000;
/// A peer says hello within this time.
const HELLO_WITHIN_MS: u64 = 5_000;

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
    /// Whether the database may be a restored backup, for all that can be seen from here.
    pub may_be_restored: bool,
}

/// What can happen.
#[derive(Clone, Debug)]
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
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Facts of our own may be numbered from now on.
    AllowNumbering,
    /// This database lacks facts of ours, or may: begin an incarnation after this one, then start over.
    BeginIncarnation {
        /// The newest incarnation we know of.
        after: u64,
        /// Not everybody could be asked: only an incarnation that nobody can have begun before will do.
        alone: bool,
    },
    /// Tell people.
    Alarm(Alarm),
}

/// Why we end a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A peer's copy of a log differs from ours.
    Diverged {
        /// The peer.
        peer: RegionName,
        /// The log.
        log: LogId,
        /// Where both end.
        seq: u64,
    },
}

/// The state machine. See the module's description.
pub struct Replica<T> {
    settings: Settings,
    trust: T,
    leading: bool,
    numbering: Numbering,
    /// Regions whose word about our logs we have.
    heard: BTreeSet<RegionName>,
    /// What peers say they have of our own log beyond what we have, while we wait for the proof.
    claims: BTreeMap<LogId, Claim>,
    /// What is durable here. Changes only by what the database says.
    logs: BTreeMap<LogId, LogState>,
    sessions: BTreeMap<ConnectionId, Session>,
    incoming: BTreeMap<LogId, Incoming>,
    next_pull: u64,
    advert_due: Millis,
    diverged: BTreeSet<(RegionName, LogId)>,
}

impl<T: Trust> Replica<T> {
    /// An instance that has `logs` stored, is connected to nobody and does not lead.
    pub fn new(settings: Settings, trust: T, logs: BTreeMap<LogId, LogState>, now: Millis) -> Self {
        let mut replica = Self {
            settings,
            trust,
            leading: false,
            numbering: Numbering::from(now),
            heard: BTreeSet::new(),
            claims: BTreeMap::new(),
            logs: BTreeMap::new(),
            sessions: BTreeMap::new(),
            incoming: BTreeMap::new(),
            next_pull: 1,
            advert_due: now,
            diverged: BTreeSet::new(),
        };
        replica.take_logs(logs);
        replica
    }

    /// Takes one event at `now` and says what to do about it.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Connected { conn, region, dialed } => self.on_connected(now, conn, region, dialed, &mut effects),
            Event::Disconnected { conn } => self.forget(conn),
            Event::Received { conn, message } => self.on_received(now, conn, message, &mut effects),
            Event::Stored { log, head } => self.on_stored(now, &log, head, &mut effects),
            Event::StoreFailed { log, head } => self.on_store_failed(now, &log, head),
            Event::Applied { log, applied } => {
                self.logs.entry(log).or_insert(NOTHING).applied = applied;
            }
            Event::Numbered { log, head } => {
                let state = self.logs.entry(log.clone()).or_insert(NOTHING);
                *state = LogState { head, applied: head.seq };
                self.serve_all(now, &log, &mut effects);
            }
            Event::Served { conn, log, pull, next, bytes } => {
                self.on_served(now, conn, &log, pull, next, bytes, &mut effects);
            }
            Event::Leads { logs } => {
                self.leading = true;
                self.incoming.clear();
                self.on_leads(now, logs, &mut effects);
            }
            Event::Follows => {
                self.leading = false;
                self.incoming.clear();
            }
            Event::Refreshed { logs } => {
                if !self.leading {
                    self.take_logs(logs);
                    for log in self.logs.keys().cloned().collect::<Vec<_>>() {
                        self.serve_all(now, &log, &mut effects);
                    }
                }
            }
            Event::Tick => self.on_tick(now, &mut effects),
        }
        self.plan(now, &mut effects);
        effects
    }

    /// What is durable here.
    pub fn vector(&self) -> VersionVector {
        self.logs.iter().map(|(log, state)| (log.clone(), state.head)).collect()
    }

    /// Who this instance is.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Peers that have said hello, with the connection that is in use.
    pub fn peers(&self) -> impl Iterator<Item = (ConnectionId, &RegionName)> {
        self.sessions.iter().filter(|(_, session)| session.is_ready()).map(|(conn, session)| (*conn, &session.region))
    }

    fn take_logs(&mut self, logs: BTreeMap<LogId, LogState>) {
        self.logs = logs;
        for stream in shared::fact::FactStream::ALL {
            let own = LogId { origin: self.settings.origin.clone(), stream };
            self.logs.entry(own).or_insert(NOTHING);
        }
    }

    fn on_connected(
        &mut self,
        now: Millis,
        conn: ConnectionId,
        region: RegionName,
        dialed: bool,
        effects: &mut Vec<Effect>,
    ) {
        if region == self.settings.origin.region {
            effects.push(Effect::Close { conn, reason: CloseReason::WrongRegion });
            return;
        }
        self.sessions.insert(conn, Session::new(region, dialed, now));
        let hello = Message::Hello(Hello {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            features: 0,
            kinds: Fact::KINDS.iter().map(|kind| (*kind).to_owned()).collect(),
            cluster_id: self.settings.cluster_id.clone(),
            origin: self.settings.origin.clone(),
            instance: self.settings.instance,
            state: self.settings.state,
        });
        effects.push(Effect::Send { conn, message: hello });
    }

    fn on_received(&mut self, now: Millis, conn: ConnectionId, message: Message, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        session.heard_at = now;
        let greeted = session.greeting.is_some();
        match message {
            Message::Hello(hello) if !greeted => self.on_hello(conn, hello, effects),
            Message::Advert(advert) if greeted => self.on_advert(now, conn, advert, effects),
            Message::Pull(pull) if greeted => self.on_pull(now, conn, pull, effects),
            Message::Credit(credit) if greeted => self.on_credit(now, conn, credit, effects),
            Message::Batch(batch) if greeted => self.on_batch(now, conn, batch, effects),
            Message::Ack(ack) if greeted => self.on_ack(conn, ack, effects),
            Message::Hello(_)
            | Message::Advert(_)
            | Message::Pull(_)
            | Message::Credit(_)
            | Message::Batch(_)
            | Message::Ack(_) => self.close(conn, CloseReason::OutOfOrder, effects),
        }
    }

    fn on_hello(&mut self, conn: ConnectionId, hello: Hello, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let refusal = if hello.cluster_id != self.settings.cluster_id {
            Some(CloseReason::OtherCluster)
        } else if hello.origin.region != session.region || hello.origin.incarnation == 0 {
            Some(CloseReason::WrongRegion)
        } else if hello.min_version > PROTOCOL_VERSION || hello.max_version < PROTOCOL_VERSION {
            Some(CloseReason::Version)
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.close(conn, reason, effects);
            return;
        }
        session.greeting = Some(Greeting { origin: hello.origin.clone(), instance: hello.instance });
        effects.push(Effect::SaveMember {
            origin: hello.origin,
            state: hello.state,
            features: hello.features,
            kinds: hello.kinds,
        });
        effects.push(Effect::Send { conn, message: Message::Advert(self.advert()) });
        self.close_duplicates(conn, effects);
    }

    /// Both sides may have dialled. Both keep the connection that the region with the smaller name opened, and the newer of
    /// two by the same side: the older one is a leftover nobody has noticed yet.
    fn close_duplicates(&mut self, conn: ConnectionId, effects: &mut Vec<Effect>) {
        let ours = self.settings.origin.region.clone();
        let Some(new) = self.sessions.get(&conn).cloned() else { return };
        let instance = new.greeting.as_ref().map(|greeting| greeting.instance);
        let twin = self.sessions.iter().find(|(other, session)| {
            **other != conn
                && session.region == new.region
                && session.greeting.as_ref().map(|greeting| greeting.instance) == instance
        });
        let Some((&old_conn, old)) = twin else { return };
        let opener = |session: &Session| if session.dialed { ours.clone() } else { session.region.clone() };
        let loser = if opener(&new) > opener(old) { conn } else { old_conn };
        self.close(loser, CloseReason::Duplicate, effects);
    }

    fn on_advert(&mut self, now: Millis, conn: ConnectionId, advert: Advert, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        session.adverted = true;
        session.leading = advert.leading;
        let previous = std::mem::replace(&mut session.logs, advert.logs);
        let region = session.region.clone();
        let current = session.logs.clone();
        self.heard.insert(region.clone());
        for (log, state) in &current {
            if previous.get(log) != Some(state) {
                effects.push(Effect::SaveAck { peer: region.clone(), log: log.clone(), state: *state });
            }
            self.compare(&region, log, state, effects);
            self.look_for_claim(now, conn, log, state, effects);
        }
    }

    fn on_ack(&mut self, conn: ConnectionId, ack: Ack, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if session.logs.insert(ack.log.clone(), ack.state) != Some(ack.state) {
            effects.push(Effect::SaveAck { peer: session.region.clone(), log: ack.log, state: ack.state });
        }
    }

    /// Two copies of a log that end at the same number must end in the same hash.
    fn compare(&mut self, peer: &RegionName, log: &LogId, theirs: &LogState, effects: &mut Vec<Effect>) {
        let ours = self.logs.get(log).map_or(Head::EMPTY, |state| state.head);
        if ours.seq == theirs.head.seq
            && ours.hash != theirs.head.hash
            && self.diverged.insert((peer.clone(), log.clone()))
        {
            effects.push(Effect::Alarm(Alarm::Diverged { peer: peer.clone(), log: log.clone(), seq: ours.seq }));
        }
    }

    fn on_tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if now >= self.advert_due {
            self.advert_due = now.plus(ADVERT_EVERY_MS);
            let advert = self.advert();
            for (conn, session) in &self.sessions {
                if session.greeting.is_some() {
                    effects.push(Effect::Send { conn: *conn, message: Message::Advert(advert.clone()) });
                }
            }
        }
        let gone = |session: &Session| {
            let patience = if session.greeting.is_some() { GONE_AFTER_MS } else { HELLO_WITHIN_MS };
            now.since(session.heard_at) > patience
        };
        let gone: Vec<_> = self.sessions.iter().filter(|(_, session)| gone(session)).map(|(conn, _)| *conn).collect();
        for conn in gone {
            self.close(conn, CloseReason::Silent, effects);
        }
        self.decide_numbering(now, effects);
        for log in self.logs.keys().cloned().collect::<Vec<_>>() {
            self.serve_all(now, &log, effects);
        }
    }

    fn advert(&self) -> Advert {
        Advert { logs: self.logs.clone(), leading: self.leading }
    }

    fn close(&mut self, conn: ConnectionId, reason: CloseReason, effects: &mut Vec<Effect>) {
        self.forget(conn);
        effects.push(Effect::Close { conn, reason });
    }

    fn forget(&mut self, conn: ConnectionId) {
        let session = self.sessions.remove(&conn);
        // What it said of ours and did not prove is still in question: it has to say so again.
        if let Some(session) = session
            && self.claims.values().any(|claim| claim.conn == conn)
        {
            self.heard.remove(&session.region);
        }
        for incoming in self.incoming.values_mut() {
            incoming.forget(conn);
        }
        self.claims.retain(|_, claim| claim.conn != conn);
    }
}

const NOTHING: LogState = LogState { head: Head::EMPTY, applied: 0 };

#[cfg(test)]
mod tests;
