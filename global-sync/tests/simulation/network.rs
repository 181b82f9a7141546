//! The network between instances: connections, lines with a bandwidth, and what becomes of a message on its way.

use std::collections::{BTreeMap, BTreeSet};

use global_sync::protocol::{Batch, ConnectionId, Draft, Envelope, Event, Head, Message};

use super::{
    bugs::Bug,
    disk::envelope,
    laws::Law,
    region::{CLUSTER, INSTANCES},
    world::{ALTERED_UNTIL_MS, Happening, LEASE_EVERY_MS, World},
};

#[derive(Default)]
pub(super) struct Network {
    /// Both ends of each connection, the one that opened it first.
    connections: BTreeMap<ConnectionId, (usize, usize)>,
    made: ConnectionId,
    /// From one region to another nothing arrives.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Bytes a second from one region to another, where it is not plenty, and until when what was sent takes the line.
    pub(super) bandwidth: BTreeMap<(usize, usize), u64>,
    busy_until: BTreeMap<(usize, usize), u64>,
    /// Batches altered on their way that nobody has complained about.
    pub(super) altered: u64,
}

impl Network {
    pub(super) fn reachable(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    /// The instance at the other end, while the connection stands.
    pub(super) fn other_end(&self, conn: ConnectionId, end: usize) -> Option<usize> {
        self.connections.get(&conn).map(|(a, b)| if *a == end { *b } else { *a })
    }
}

impl World {
    /// An instance calls a region, whichever of its instances answers, as long as it is not connected to it.
    pub(super) fn dial(&mut self, caller: usize, region: usize) {
        let again = self.now + self.random.between(200, 600);
        self.schedule(again, Happening::Dial { at: caller, start: self.instances[caller].start, region });
        let us = caller / INSTANCES;
        let in_directory = self.regions[region].state.is_some() && self.regions[us].state.is_some();
        let connected = self
            .network
            .connections
            .values()
            .any(|(a, b)| (*a == caller && *b / INSTANCES == region) || (*b == caller && *a / INSTANCES == region));
        // Both may call at once.
        if !in_directory || !self.network.reachable(us, region) || (connected && !self.random.chance(30)) {
            return;
        }
        let first = usize::try_from(self.random.between(0, INSTANCES as u64)).expect("few");
        let answers = (0..INSTANCES).map(|n| region * INSTANCES + (first + n) % INSTANCES);
        let callee = answers.into_iter().find(|at| self.instances[*at].runs() && !self.is_frozen(*at));
        let Some(callee) = callee else { return };
        self.network.made += 1;
        let conn = self.network.made;
        self.network.connections.insert(conn, (caller, callee));
        let (ours, theirs) = (self.regions[us].name.clone(), self.regions[region].name.clone());
        self.give(caller, Event::Connected { conn, region: theirs, dialed: true });
        self.give(callee, Event::Connected { conn, region: ours, dialed: false });
    }

    /// The other end notices after a while, or at once.
    pub(super) fn drop_connection(&mut self, conn: ConnectionId, closed_by: usize) {
        self.laws.disconnected(closed_by, conn);
        let Some((a, b)) = self.network.connections.remove(&conn) else { return };
        let end = if a == closed_by { b } else { a };
        let at = self.now + self.random.between(1, 1_500);
        self.schedule(at, Happening::HangUp { at: end, start: self.instances[end].start, conn });
    }

    pub(super) fn drop_connections(&mut self, at: usize) {
        let ours = self.network.connections.iter().filter(|(_, (a, b))| *a == at || *b == at);
        let gone: Vec<_> = ours.map(|(conn, _)| *conn).collect();
        for conn in gone {
            self.drop_connection(conn, at);
        }
    }

    /// Sends a message and says when the line is free of it.
    pub(super) fn send(&mut self, from: usize, conn: ConnectionId, mut message: Message) -> u64 {
        let to = self.network.other_end(conn, from);
        if self.remembers_another(from) && self.now < self.instances[from].away_until + LEASE_EVERY_MS {
            self.laws.speaks_of_before(from / INSTANCES);
        }
        self.keep_account(from, to, conn, &message);
        let Some(to) = to else { return self.now };
        let line = (from / INSTANCES, to / INSTANCES);
        let deliver = |at: u64, message: Message, world: &mut Self| {
            let start = world.instances[to].start;
            world.schedule(at, Happening::Deliver { at: to, start, conn, message });
        };
        // Hello opens a connection: without it there is none.
        if matches!(message, Message::Hello(_)) {
            deliver(self.now + 1, message, self);
            return self.now;
        }
        // Entries queue for the line; what is said about them overtakes them, as on streams of another priority.
        let mut gone_at = self.now;
        if let (Message::Batch(batch), Some(bytes_a_second)) = (&message, self.network.bandwidth.get(&line)) {
            let takes_ms = bytes_of(batch) * 1000 / bytes_a_second;
            let busy_until = self.network.busy_until.entry(line).or_default();
            gone_at = self.now.max(*busy_until) + takes_ms;
            *busy_until = gone_at;
            if takes_ms > 1000 {
                self.saw("slow batch");
            }
        }
        let faulty = !self.healed;
        if self.network.cut.contains(&line) || (faulty && self.random.chance(30)) {
            self.saw("lost");
            return gone_at;
        }
        if let Message::Batch(batch) = &mut message
            && self.now < ALTERED_UNTIL_MS
            && self.random.chance(20)
        {
            self.network.altered += 1;
            self.alter(batch);
        }
        if faulty && self.random.chance(30) {
            self.saw("doubled");
            // No stream of QUIC's does that; whoever is granted something twice may use it twice.
            if let Message::Credit(credit) = &message {
                self.laws.granted((from, conn), &credit.log, credit.id, credit.bytes);
            }
            let at = gone_at + self.random.between(2, 400);
            deliver(at, message.clone(), self);
        }
        let at = gone_at + self.random.between(2, 120);
        deliver(at, message, self);
        gone_at
    }

    /// Somebody between origin and receiver alters an entry, withholds its body, or puts another in its place.
    fn alter(&mut self, batch: &mut Batch) {
        let how = self.random.between(0, 4);
        let last = batch.entries.last_mut().expect("a batch has entries");
        match (how, &mut last.body) {
            (0, Some(body)) => body[0] ^= 1,
            (1, body) => *body = None,
            (2, _) => batch.checkpoint.signature[0] ^= 1,
            _ => {
                self.saw("forged");
                let was = envelope(last);
                let draft = Draft {
                    id: was.id,
                    kind: was.kind,
                    tenant: was.tenant,
                    home_epoch: was.home_epoch,
                    traceparent: was.traceparent,
                    committed_at_ms: was.committed_at_ms,
                    body: b"a forged body, with a salt before it".to_vec(),
                };
                let before = Head { seq: was.seq - 1, hash: was.prev_hash };
                (*last, batch.checkpoint.head) = Envelope::seal(CLUSTER, &batch.log, &before, draft);
            }
        }
    }

    /// Laws about credit and sources see what is said, whether it arrives or not.
    fn keep_account(&mut self, from: usize, to: Option<usize>, conn: ConnectionId, message: &Message) {
        match message {
            Message::Pull(pull) if pull.log.origin != self.origin_of(from) => {
                self.laws.asked((from, conn), &pull.log, pull.credit);
            }
            Message::Batch(batch) => {
                let longest = batch.entries.iter().map(|entry| entry.len() as u64).max().unwrap_or_default();
                if let Some(to) = to {
                    self.laws.sent((to, conn), &batch.log, batch.pull, bytes_of(batch), longest);
                }
            }
            _ => {}
        }
    }

    pub(super) fn received(&mut self, at: usize, conn: ConnectionId, message: Message) {
        let asker = self.network.other_end(conn, at).map(|peer| (peer, conn));
        match (&message, asker) {
            (Message::Pull(pull), Some(asker)) => self.laws.granted(asker, &pull.log, pull.id, pull.credit),
            (Message::Credit(credit), Some(asker)) => self.laws.granted(asker, &credit.log, credit.id, credit.bytes),
            _ => {}
        }
        if let Message::Batch(batch) = &message
            && batch.entries.iter().any(|entry| self.laws.is_forgotten(entry))
        {
            return;
        }
        self.give(at, Event::Received { conn, message });
    }

    /// A peer's batch is not what its origin wrote; so it should be, if it was altered.
    pub(super) fn complained(&mut self, text: String) {
        if self.network.altered > 0 {
            self.saw("altered and noticed");
            self.network.altered -= 1;
        } else {
            self.laws.broken(Law::NothingIsDamaged, text);
        }
    }

    /// Whether a stop is said to a source that is left.
    pub(super) fn is_kept_back(&self, message: &Message) -> bool {
        self.has(Bug::SourcesNotStopped) && matches!(message, Message::Pull(pull) if pull.credit == 0)
    }
}

pub(super) fn bytes_of(batch: &Batch) -> u64 {
    batch.entries.iter().map(|entry| entry.len() as u64).sum()
}
