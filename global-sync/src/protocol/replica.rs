//! One instance's replication state: which peers are there, what they have, who is asked for what.

mod entropy;
mod fetch;
mod members;
mod past;
mod serve;
mod unchecked;

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    fact::{Fact, FactStream, MemberState},
    ids::RegionName,
};

use super::{
    batch::{BatchError, Trust},
    event::{Alarm, CloseReason, ConnectionId, Effect, Event, Settings},
    log::{Head, KeyId, LogId, Millis, VersionVector},
    message::{Ack, Advert, Batch, Hello, LogState, Message, PROTOCOL_VERSION, features},
    session::{Greeting, Session},
};
use entropy::Entropy;
use fetch::Incoming;
use members::Members;
use past::{Claim, Numbering};

/// A peer says what it has this often.
const ADVERT_EVERY_MS: u64 = 400;
/// A peer not heard for this long is asked only if nobody else can be; another one may have what it wrote.
const SILENT_AFTER_MS: u64 = 1_000;
/// A connection on which nothing is heard for this long is a leftover, whatever the network says of it.
const GONE_AFTER_MS: u64 = 20_000;
/// A peer says hello within this time.
const HELLO_WITHIN_MS: u64 = 5_000;
/// What depends on time alone is decided anew this often; what an event is about, at once.
const PLAN_EVERY_MS: u64 = 50;

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
    /// When all logs were last planned, and those whose sources have changed since.
    planned_at: Option<Millis>,
    unplanned: BTreeSet<LogId>,
    /// Logs that are others at a peer than here, and were told of.
    diverged: BTreeSet<(RegionName, LogId)>,
    members: Members,
    /// With whom no entries of which streams pass.
    paused: BTreeSet<(RegionName, FactStream)>,
    entropy: Entropy,
}

/// A log that a peer is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The peer.
    pub peer: RegionName,
    /// The log.
    pub log: LogId,
    /// Bytes it still takes; below zero after a group that had to be finished.
    pub credit_bytes: i64,
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
            planned_at: None,
            unplanned: BTreeSet::new(),
            diverged: BTreeSet::new(),
            members: Members::new(now),
            paused: BTreeSet::new(),
            entropy: Entropy::new(now),
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
                self.logs.entry(log).or_insert(LogState::EMPTY).applied = applied;
            }
            Event::Numbered { log, head } => {
                let state = self.logs.entry(log.clone()).or_insert(LogState::EMPTY);
                *state = LogState { head, applied: head.seq, truncated: state.truncated };
                self.serve_all(now, &log, &mut effects);
            }
            Event::Members { states, acks, unchecked } => {
                self.on_members(states, acks);
                self.entropy.heed_snapshot(unchecked, now);
            }
            Event::Paused(paused) => self.on_paused(paused),
            Event::Diverged(known) => self.diverged = known,
            Event::CompareNow => self.entropy.hurry(now),
            Event::Truncated { log, upto } => {
                if let Some(state) = self.logs.get_mut(&log) {
                    state.truncated = state.truncated.max(upto);
                }
            }
            Event::SnapshotLoaded { logs } => {
                self.entropy.heed_snapshot(None, now);
                self.on_snapshot(logs);
            }
            Event::SnapshotFailed => self.members.loading = None,
            Event::HeadDiffers { peer, log, seq } => self.diverges(peer, log, seq, &mut effects),
            Event::HeadAgrees { peer, log } => self.agrees(&peer, &log, &mut effects),
            Event::Answered { conn } => self.on_answered(conn),
            Event::Compared { conn, question, difference } => {
                self.on_compared(conn, question, difference, &mut effects);
            }
            Event::Served { conn, log, pull, next, bytes } => {
                self.on_served(now, conn, &log, pull, next, bytes, &mut effects);
            }
            Event::Leads { logs } => {
                self.leading = true;
                self.entropy.begin_anew();
                self.start_over();
                self.on_leads(now, logs, &mut effects);
            }
            Event::Follows => {
                self.leading = false;
                self.start_over();
            }
            Event::Refreshed { logs } => {
                if !self.leading {
                    self.take_logs(logs);
                    self.serve_everybody(now, &mut effects);
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

    /// Peers that have said hello and what they have, with the connection that is in use.
    pub fn peers(&self) -> impl Iterator<Item = (ConnectionId, &RegionName)> {
        self.sessions.iter().filter(|(_, session)| session.is_ready()).map(|(conn, session)| (*conn, &session.region))
    }

    /// What peers are sent.
    pub fn flows(&self) -> Vec<Flow> {
        let flow =
            |peer: &RegionName, log: &LogId, credit_bytes| Flow { peer: peer.clone(), log: log.clone(), credit_bytes };
        self.sessions
            .values()
            .flat_map(|session| session.subscriptions.iter().map(|(log, wants)| (&session.region, log, wants.credit)))
            .map(|(peer, log, credit)| flow(peer, log, credit))
            .collect()
    }

    /// Whether no entries of a stream pass between us and a peer.
    fn is_paused(&self, peer: &RegionName, stream: FactStream) -> bool {
        !self.paused.is_empty() && self.paused.contains(&(peer.clone(), stream))
    }

    fn on_paused(&mut self, paused: BTreeSet<(RegionName, FactStream)>) {
        if self.paused != paused {
            self.paused = paused;
            self.planned_at = None;
        }
    }

    /// What was under way is void: another leads, or has led meanwhile.
    fn start_over(&mut self) {
        self.incoming.clear();
        self.planned_at = None;
        self.members.start_over();
    }

    fn take_logs(&mut self, logs: BTreeMap<LogId, LogState>) {
        self.logs = logs;
        for stream in FactStream::ALL {
            let own = LogId { origin: self.settings.origin.clone(), stream };
            self.logs.entry(own).or_insert(LogState::EMPTY);
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
            features: self.settings.features,
            kinds: Fact::KINDS.iter().map(|kind| (*kind).to_owned()).collect(),
            cluster_id: self.settings.cluster_id.clone(),
            origin: self.settings.origin.clone(),
            instance: self.settings.instance,
            state: self.state(),
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
            Message::Inspect(question) if greeted => self.on_inspect(conn, question, effects),
            Message::Digest(digest) if greeted => self.on_digest(conn, digest, effects),
            Message::Hello(_)
            | Message::Advert(_)
            | Message::Pull(_)
            | Message::Credit(_)
            | Message::Batch(_)
            | Message::Ack(_)
            | Message::Inspect(_)
            | Message::Digest(_) => self.close(conn, CloseReason::OutOfOrder, effects),
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
        session.greeting =
            Some(Greeting { origin: hello.origin.clone(), instance: hello.instance, features: hello.features });
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
        let first = !std::mem::replace(&mut session.adverted, true);
        let led = std::mem::replace(&mut session.leading, advert.leading);
        let region = session.region.clone();
        let previous = std::mem::take(&mut session.logs);
        self.heard.insert(region.clone());
        if first || led != advert.leading {
            self.planned_at = None;
        }
        for (log, state) in &advert.logs {
            if previous.get(log) != Some(state) {
                self.unplanned.insert(log.clone());
                effects.push(Effect::SaveAck { peer: region.clone(), log: log.clone(), state: *state });
            }
            self.compare(&region, log, state, effects);
            self.look_for_claim(now, conn, log, state, effects);
        }
        let unnamed = self.members.heed_advert(&region, &advert.logs);
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.logs = advert.logs;
        }
        // Another instance of the region may be further, and name what this one has not read yet.
        let others = || self.sessions.values().filter(|session| session.region == region);
        let gone = unnamed.into_iter().filter(|log| !others().any(|session| session.logs.contains_key(log)));
        effects.extend(gone.map(|log| Effect::ForgetAck { peer: region.clone(), log }));
    }

    /// Only of what we have: whoever counts on a log that we do not know adverts it.
    fn on_ack(&mut self, conn: ConnectionId, ack: Ack, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if self.logs.contains_key(&ack.log) && session.logs.insert(ack.log.clone(), ack.state) != Some(ack.state) {
            let peer = session.region.clone();
            self.members.heed_ack(&peer, &ack.log, ack.state.head.seq);
            effects.push(Effect::SaveAck { peer, log: ack.log, state: ack.state });
        }
    }

    /// Two copies of a log that end at the same number must end in the same hash.
    fn compare(&mut self, peer: &RegionName, log: &LogId, theirs: &LogState, effects: &mut Vec<Effect>) {
        let Some(LogState { head: ours, .. }) = self.logs.get(log).copied() else { return };
        if ours == theirs.head {
            self.agrees(peer, log, effects);
        } else if ours.seq == theirs.head.seq {
            self.diverges(peer.clone(), log.clone(), ours.seq, effects);
        }
    }

    fn diverges(&mut self, peer: RegionName, log: LogId, seq: u64, effects: &mut Vec<Effect>) {
        if self.diverged.insert((peer.clone(), log.clone())) {
            effects.push(Effect::Alarm(Alarm::Diverged { peer, log, seq }));
        }
    }

    fn agrees(&mut self, peer: &RegionName, log: &LogId, effects: &mut Vec<Effect>) {
        if !self.diverged.is_empty() && self.diverged.remove(&(peer.clone(), log.clone())) {
            effects.push(Effect::HeadsAgree { peer: peer.clone(), log: log.clone() });
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
        self.look_after_members(now, effects);
        self.look_for_differences(now, effects);
        self.serve_everybody(now, effects);
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
        self.planned_at = None;
        self.claims.retain(|_, claim| claim.conn != conn);
    }
}

#[cfg(test)]
mod tests;
