//! Time, network, crashes, and the laws that must hold throughout.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use global_sync::protocol::{
    Alarm, Batch, Comparison, ConnectionId, Digest, Draft, Effect, Entry, Envelope, Event, Hash, Head, Inspect, LogId,
    MAX_BATCH_BYTES, MemberState, Message, Millis, Origin, Row, Rows, Summary, VerifiedBatch,
};
use shared::{fact::FactStream, ids::RegionName};
use uuid::Uuid;

use super::{
    random::Random,
    region::{Disk, LIMITS, Region},
};

const FAULTS_LAST_MS: u64 = 9_000;
const CONVERGE_WITHIN_MS: u64 = 30_000;
const TICK_MS: u64 = 100;
/// What the database remembers of the members is told this often.
const MEMBERS_EVERY_MS: u64 = 1_000;
/// Until then relays and lines alter what they carry; whoever did is avoided for half a minute.
const ALTERED_UNTIL_MS: u64 = 3_000;

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) trace: u64,
    pub(crate) failure: Option<String>,
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

/// A mistake around the core that the laws have to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bug {
    /// What is reported as stored is sometimes not.
    DiskForgets,
    /// Rows leave the outbox in another transaction than the one that numbers them.
    OutboxDeletedLater,
    /// The cursor moves, and a crash comes before the rows.
    CursorBeforeRows,
    /// A batch is reported as stored when it arrives.
    StoredTooEarly,
    /// Old entries are dropped whoever lacks them.
    TruncatesForItself,
    /// A snapshot's vector and rows are of two moments.
    TornSnapshot,
    /// Sums leave out the newest row.
    DigestOmitsRow,
    /// A region that was restored goes on in the life it was in.
    OldLifeGoesOn,
}

enum Happening {
    Tick { region: usize, life: u64 },
    Connect { a: usize, b: usize },
    Deliver { to: usize, life: u64, conn: ConnectionId, message: Message },
    HangUp { at: usize, life: u64, conn: ConnectionId },
    Durable { region: usize, life: u64, batch: Box<VerifiedBatch> },
    Emit { region: usize },
    Number { region: usize, life: u64 },
    Crash { region: usize },
    Backup { region: usize },
    Lose { region: usize },
    Members { region: usize, life: u64 },
    Snapshot { region: usize, life: u64, from: usize },
    Served { region: usize, life: u64, event: Box<Event> },
    Start { region: usize },
    Cut { from: usize, to: usize },
    Mend { from: usize, to: usize },
    Heal,
}

struct Due(u64, u64, Happening);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub(crate) struct World {
    now: u64,
    random: Random,
    due: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    regions: Vec<Region>,
    /// Both ends of each connection, the one that opened it first.
    connections: BTreeMap<ConnectionId, (usize, usize)>,
    next_conn: ConnectionId,
    cut: BTreeSet<(usize, usize)>,
    /// Bytes a second from one region to another, where it is not plenty, and until when what was sent takes the line.
    bandwidth: BTreeMap<(usize, usize), u64>,
    busy_until: BTreeMap<(usize, usize), u64>,
    /// Connections of a region whose disk was lost: what was on its way is lost too.
    void: BTreeSet<ConnectionId>,
    backups: BTreeMap<usize, Disk>,
    healed: bool,
    bug: Option<Bug>,
    /// Members that a region waits for no more.
    given_up: BTreeSet<(usize, usize)>,
    /// Regions that had everything once and came back with less.
    restored: BTreeSet<usize>,
    /// A row of a region that is not what was derived, and whether anybody has told.
    tampered: Option<((usize, LogId, u64), bool)>,
    tampers: bool,
    /// The one true hash of every entry ever numbered.
    truth: BTreeMap<(LogId, u64), Hash>,
    emitted: u64,
    /// Batches altered on their way that nobody has complained about.
    altered: u64,
    /// Facts that were on a lost disk and nowhere else.
    lost: BTreeSet<Uuid>,
    /// Of a thousand facts, so many are large.
    large: u64,
    trace: DefaultHasher,
    failure: Option<String>,
    seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = usize::try_from(random.between(3, 6)).expect("few");
        let names = ["us-east", "eu-west", "ap-south", "sa-east", "af-south"];
        let regions = names[..count].iter().map(|name| Region {
            name: name.parse().expect("a name"),
            disk: Disk::default(),
            restore: None,
            may_be_restored: false,
            core: None,
            may_number: false,
            life: 0,
            storing: BTreeMap::new(),
        });
        let mut world = Self {
            now: 0,
            random,
            due: BinaryHeap::new(),
            scheduled: 0,
            regions: regions.collect(),
            connections: BTreeMap::new(),
            next_conn: 1,
            cut: BTreeSet::new(),
            bandwidth: BTreeMap::new(),
            busy_until: BTreeMap::new(),
            void: BTreeSet::new(),
            backups: BTreeMap::new(),
            healed: false,
            bug: None,
            given_up: BTreeSet::new(),
            restored: BTreeSet::new(),
            tampered: None,
            tampers: false,
            truth: BTreeMap::new(),
            emitted: 0,
            altered: 0,
            lost: BTreeSet::new(),
            large: 20,
            trace: DefaultHasher::new(),
            failure: None,
            seen: BTreeMap::new(),
        };
        world.plan_faults();
        world
    }

    pub(crate) fn with_bug(mut self, bug: Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// A row of one region is another than what was derived, once the world has healed.
    pub(crate) fn with_a_tampered_row(mut self) -> Self {
        self.tampers = true;
        self
    }

    /// Every line is slower than a large fact takes until its source is given up.
    pub(crate) fn with_slow_lines(mut self) -> Self {
        self.large = 100;
        for from in 0..self.regions.len() {
            for to in 0..self.regions.len() {
                let bytes_a_second = self.random.between(80_000, 120_000);
                self.bandwidth.insert((from, to), bytes_a_second);
            }
        }
        self
    }

    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse(Due(at, _, happening))) = self.due.pop() {
            if self.failure.is_some() {
                break;
            }
            self.now = at;
            let look = matches!(happening, Happening::Tick { region: 0, .. });
            if self.healed && look && self.converged() {
                break;
            }
            if at > FAULTS_LAST_MS + CONVERGE_WITHIN_MS {
                let vectors: Vec<_> = self.regions.iter().map(|region| self.lengths(region)).collect();
                self.fail(format!("not converged {CONVERGE_WITHIN_MS} ms after healing: {vectors:?}"));
                break;
            }
            self.happen(happening);
        }
        self.check_nothing_lost_or_doubled();
        Outcome { trace: self.trace.finish(), failure: self.failure, seen: self.seen }
    }

    fn plan_faults(&mut self) {
        let count = self.regions.len();
        for region in 0..count {
            let at = self.random.between(0, 400);
            self.schedule(at, Happening::Start { region });
            for _ in 0..self.random.between(5, 30) {
                let at = self.random.between(0, FAULTS_LAST_MS);
                self.schedule(at, Happening::Emit { region });
            }
            for _ in 0..self.random.between(0, 3) {
                let at = self.random.between(500, FAULTS_LAST_MS);
                self.schedule(at, Happening::Crash { region });
            }
        }
        for from in 0..count {
            for to in 0..count {
                if self.random.chance(250) {
                    let bytes_a_second = self.random.between(60_000, 300_000);
                    self.bandwidth.insert((from, to), bytes_a_second);
                }
            }
        }
        if self.random.chance(400) {
            let region = usize::try_from(self.random.between(0, count as u64)).expect("few");
            let backup = self.random.between(0, FAULTS_LAST_MS / 2);
            let lose = self.random.between(backup + 500, FAULTS_LAST_MS);
            self.schedule(backup, Happening::Backup { region });
            self.schedule(lose, Happening::Lose { region });
        }
        for _ in 0..self.random.between(0, 8) {
            let (from, to) = self.two_regions();
            let at = self.random.between(0, FAULTS_LAST_MS);
            let both_ways = self.random.chance(400);
            let lasts = self.random.between(200, 6_000);
            self.schedule(at, Happening::Cut { from, to });
            self.schedule(at + lasts, Happening::Mend { from, to });
            if both_ways {
                self.schedule(at, Happening::Cut { from: to, to: from });
                self.schedule(at + lasts, Happening::Mend { from: to, to: from });
            }
        }
        self.schedule(FAULTS_LAST_MS, Happening::Heal);
    }

    fn two_regions(&mut self) -> (usize, usize) {
        let count = self.regions.len() as u64;
        let from = self.random.between(0, count);
        let to = (from + self.random.between(1, count)) % count;
        (usize::try_from(from).expect("few"), usize::try_from(to).expect("few"))
    }

    fn schedule(&mut self, at: u64, happening: Happening) {
        self.scheduled += 1;
        self.due.push(Reverse(Due(at, self.scheduled, happening)));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start { region } => self.start(region),
            Happening::Crash { region } => {
                if !self.healed && self.regions[region].core.is_some() {
                    self.crash(region, "crash");
                }
            }
            Happening::Backup { region } => {
                let copy = self.regions[region].disk.clone();
                self.backups.insert(region, copy);
            }
            Happening::Lose { region } => self.lose(region),
            Happening::Members { region, life } => {
                if self.alive(region, life) {
                    let states = self.regions.iter().map(|region| (region.name.clone(), MemberState::Active)).collect();
                    let acks = self.regions[region].disk.acks.clone();
                    self.schedule(self.now + MEMBERS_EVERY_MS, Happening::Members { region, life });
                    self.give(region, Event::Members { states, acks });
                }
            }
            Happening::Snapshot { region, life, from } => {
                if self.alive(region, life) {
                    self.load_snapshot(region, from);
                }
            }
            Happening::Served { region, life, event } => {
                if self.alive(region, life) {
                    self.give(region, *event);
                }
            }
            Happening::Tick { region, life } => {
                if self.alive(region, life) {
                    self.schedule(self.now + TICK_MS, Happening::Tick { region, life });
                    self.give(region, Event::Tick);
                }
            }
            Happening::Connect { a, b } => self.connect(a, b),
            Happening::Deliver { to, life, conn, message } => {
                if self.alive(to, life) && !self.void.contains(&conn) {
                    self.give(to, Event::Received { conn, message });
                }
            }
            Happening::HangUp { at, life, conn } => {
                if self.alive(at, life) {
                    self.give(at, Event::Disconnected { conn });
                }
            }
            Happening::Durable { region, life, batch } => {
                if self.alive(region, life) {
                    self.store(region, &batch);
                }
            }
            Happening::Emit { region } => self.emit(region),
            Happening::Number { region, life } => {
                if self.alive(region, life) {
                    self.number(region);
                    self.schedule(self.now + 20, Happening::Number { region, life });
                }
            }
            Happening::Cut { from, to } => {
                if !self.healed {
                    if !self.cut.contains(&(to, from)) {
                        self.saw("cut one way");
                    }
                    self.cut.insert((from, to));
                }
            }
            Happening::Mend { from, to } => {
                self.cut.remove(&(from, to));
            }
            Happening::Heal => {
                self.healed = true;
                self.cut.clear();
                if self.tampers {
                    let at = usize::try_from(self.random.between(0, self.regions.len() as u64)).expect("few");
                    let place = self.regions[at].disk.rows.keys().next().cloned();
                    self.tampered = place.map(|(log, seq)| ((at, log, seq), false));
                }
                for region in 0..self.regions.len() {
                    if self.regions[region].core.is_none() {
                        self.start(region);
                    }
                }
            }
        }
    }

    fn alive(&self, region: usize, life: u64) -> bool {
        self.regions[region].core.is_some() && self.regions[region].life == life
    }

    fn start(&mut self, region: usize) {
        if self.regions[region].core.is_some() {
            return;
        }
        if let Some(old) = self.regions[region].restore.take() {
            self.restore(region, old);
        }
        let names: Vec<_> = self.regions.iter().map(|region| region.name.clone()).collect();
        self.regions[region].start(Millis(self.now), &names);
        self.given_up.retain(|(at, _)| *at != region);
        let life = self.regions[region].life;
        let logs = self.regions[region].disk.log_states();
        self.give(region, Event::Leads { logs });
        self.schedule(self.now + 1, Happening::Tick { region, life });
        self.schedule(self.now + 2, Happening::Members { region, life });
        self.schedule(self.now + 5, Happening::Number { region, life });
        for other in 0..self.regions.len() {
            if other != region {
                self.schedule(self.now + 3, Happening::Connect { a: region, b: other });
            }
        }
    }

    fn crash(&mut self, region: usize, how: &'static str) {
        let restart = self.now + self.random.between(10, 3_000);
        self.stop(region, how, restart);
    }

    fn stop(&mut self, region: usize, how: &'static str, restart: u64) {
        self.saw(how);
        self.regions[region].stop();
        self.schedule(restart, Happening::Start { region });
        let gone: Vec<_> =
            self.connections.iter().filter(|(_, (a, b))| *a == region || *b == region).map(|(c, _)| *c).collect();
        for conn in gone {
            self.drop_connection(conn, Some(region));
        }
    }

    /// A region loses its disk and comes back with a copy of it, when all it said has been stored by others or is lost.
    fn lose(&mut self, region: usize) {
        let Some(copy) = self.backups.remove(&region) else { return };
        if self.regions[region].core.is_none() {
            return;
        }
        self.void
            .extend(self.connections.iter().filter(|(_, (a, b))| *a == region || *b == region).map(|(conn, _)| *conn));
        let restart = self.now + self.random.between(500, 3_000);
        self.stop(region, "disk lost", restart);
        self.regions[region].restore = Some(copy);
    }

    fn restore(&mut self, region: usize, old: Disk) {
        let name = self.regions[region].name.clone();
        let had = std::mem::replace(&mut self.regions[region].disk, old);
        self.regions[region].may_be_restored = true;
        self.restored.insert(region);
        let disks: Vec<Disk> = self
            .regions
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != region)
            .map(|(_, other)| other.restore.as_ref().unwrap_or(&other.disk).clone())
            .collect();
        let mut kept = self.regions[region].disk.written_by(&name);
        for disk in &disks {
            kept.extend(disk.written_by(&name));
        }
        self.lost.extend(had.written_by(&name).difference(&kept).copied());
        // What only the lost disk knew has never been, so its number may be given again.
        let own = self.regions[region].disk.clone();
        self.truth.retain(|(log, seq), _| {
            log.origin.region != name || disks.iter().chain([&own]).any(|disk| disk.head(log).seq >= *seq)
        });
    }

    /// The other end notices after a while, or at once.
    fn drop_connection(&mut self, conn: ConnectionId, closed_by: Option<usize>) {
        let Some((a, b)) = self.connections.remove(&conn) else { return };
        for end in [a, b] {
            if Some(end) != closed_by {
                let life = self.regions[end].life;
                let at = self.now + self.random.between(1, 1_500);
                self.schedule(at, Happening::HangUp { at: end, life, conn });
            }
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let connected = self.connections.values().any(|ends| *ends == (a, b));
        let reachable = !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a));
        let both_alive = self.regions[a].core.is_some() && self.regions[b].core.is_some();
        if self.regions[a].core.is_some() {
            let again = self.now + self.random.between(200, 600);
            self.schedule(again, Happening::Connect { a, b });
        }
        // As the real dialler does: no second connection to a peer that is connected.
        let known = self.connections.values().any(|ends| *ends == (b, a)) && !self.random.chance(100);
        if connected || known || !reachable || !both_alive {
            return;
        }
        let conn = self.next_conn;
        self.next_conn += 1;
        self.connections.insert(conn, (a, b));
        let (name_a, name_b) = (self.regions[a].name.clone(), self.regions[b].name.clone());
        self.give(a, Event::Connected { conn, region: name_b, dialed: true });
        self.give(b, Event::Connected { conn, region: name_a, dialed: false });
    }

    fn emit(&mut self, region: usize) {
        self.emitted += 1;
        let stream = FactStream::ALL[usize::try_from(self.random.between(0, 3)).expect("three")];
        let length = if self.random.chance(self.large) { 200_000 } else { self.random.between(20, 300) };
        let draft = Draft {
            id: Uuid::from_u128(u128::from(self.emitted)),
            kind: "simulated".to_owned(),
            tenant: None,
            home_epoch: None,
            traceparent: None,
            committed_at_ms: 0,
            body: vec![7; usize::try_from(length).expect("small")],
        };
        self.regions[region].disk.outbox.push((stream, draft));
    }

    fn number(&mut self, region: usize) {
        if !self.regions[region].may_number {
            return;
        }
        let at_most = usize::try_from(self.random.between(1, 5)).expect("few");
        if self.regions[region].disk.outbox.is_empty() {
            return;
        }
        let origin = self.regions[region].origin();
        let before = self.regions[region].disk.heads.clone();
        let waited = self.regions[region].disk.outbox.clone();
        let grown = self.regions[region].disk.number(&origin, at_most);
        for (log, _) in &grown {
            let known = before.get(log).map_or(0, |head| head.seq);
            let new: Vec<Head> = self.regions[region].disk.after(log, known).map(|(_, head)| *head).collect();
            for head in new {
                if self.truth.insert((log.clone(), head.seq), head.hash).is_some() {
                    self.fail(format!("{log} number {} was given twice", head.seq));
                    return;
                }
            }
        }
        if !grown.is_empty() && !self.healed && self.random.chance(20) {
            if self.bug == Some(Bug::OutboxDeletedLater) {
                self.regions[region].disk.outbox = waited;
            }
            self.crash(region, "crash before report");
            return;
        }
        for (log, head) in grown {
            self.give(region, Event::Numbered { log, head });
        }
    }

    fn store(&mut self, region: usize, batch: &VerifiedBatch) {
        if !self.healed && self.random.chance(10) {
            self.crash(region, "crash before durable");
            return;
        }
        let log = batch.log.clone();
        let bytes: u64 = batch.entries.iter().map(|(entry, _, _)| entry.len() as u64).sum();
        if let Some(storing) = self.regions[region].storing.get_mut(&log) {
            *storing = storing.saturating_sub(bytes);
        }
        let known = self.regions[region].disk.head(&log).seq;
        let hit = self.bug.is_some() && self.random.chance(300);
        let result = if hit && self.bug == Some(Bug::DiskForgets) {
            Ok(batch.checkpoint.head)
        } else if hit && self.bug == Some(Bug::CursorBeforeRows) && !self.healed {
            if known < batch.checkpoint.head.seq {
                self.regions[region].disk.heads.insert(log, batch.checkpoint.head);
            }
            self.crash(region, "crash before durable");
            return;
        } else if !self.healed && self.random.chance(20) {
            Err(self.regions[region].disk.head(&log))
        } else {
            self.regions[region].disk.store(batch)
        };
        let stored: Vec<Head> = self.regions[region].disk.after(&log, known).map(|(_, head)| *head).collect();
        let kept = self.regions[region].disk.logs.get(&log).and_then(|entries| entries.back());
        if kept.is_some_and(|(entry, _)| !is_whole(entry)) {
            self.fail(format!("{} stored an altered entry of {log}", self.regions[region].name));
            return;
        }
        for (index, head) in stored.into_iter().enumerate() {
            if head.seq != known + index as u64 + 1 || self.truth.get(&(log.clone(), head.seq)) != Some(&head.hash) {
                self.fail(format!("{} stored something else as {log} {}", self.regions[region].name, head.seq));
                return;
            }
        }
        if !self.healed && self.random.chance(10) {
            self.crash(region, "crash before report");
            return;
        }
        match result {
            Ok(head) => self.give(region, Event::Stored { log, head }),
            Err(head) => self.give(region, Event::StoreFailed { log, head }),
        }
    }

    fn give(&mut self, region: usize, event: Event) {
        let now = Millis(self.now);
        let Some(core) = self.regions[region].core.as_mut() else { return };
        let effects = core.handle(now, event);
        (self.now, region, effects.len()).hash(&mut self.trace);
        for effect in effects {
            if self.regions[region].core.is_none() {
                return;
            }
            self.carry_out(region, effect);
            if !self.healed && self.random.chance(1) && self.random.chance(300) {
                self.crash(region, "crash");
            }
        }
    }

    fn carry_out(&mut self, region: usize, effect: Effect) {
        let life = self.regions[region].life;
        match effect {
            Effect::Send { conn, message } => {
                self.saw(message.name());
                self.send(region, conn, message);
            }
            Effect::Close { conn, reason } => {
                self.saw("close");
                reason.as_str().hash(&mut self.trace);
                self.drop_connection(conn, Some(region));
            }
            Effect::Store { batch, direct: _ } => {
                self.saw("store");
                let bytes: u64 = batch.entries.iter().map(|(entry, _, _)| entry.len() as u64).sum();
                let storing = self.regions[region].storing.entry(batch.log.clone()).or_default();
                *storing += bytes;
                if *storing > LIMITS.pull_credit_bytes + 2 * MAX_BATCH_BYTES {
                    self.fail(format!("{bytes} more bytes than granted wait to be stored"));
                }
                let at = self.now + self.random.between(1, 30);
                let (log, head) = (batch.log.clone(), batch.checkpoint.head);
                self.schedule(at, Happening::Durable { region, life, batch });
                if self.bug == Some(Bug::StoredTooEarly) {
                    self.give(region, Event::Stored { log, head });
                }
            }
            Effect::Serve { conn, log, pull, from, upto, max_bytes, known_keys: _ } => {
                self.saw("serve");
                let found = self.regions[region].disk.read(&log, from, upto, max_bytes);
                let mut served = Event::Served { conn, log: log.clone(), pull, next: from, bytes: 0 };
                if let Some((entries, checkpoint)) = found {
                    if log.origin.region != self.regions[region].name {
                        self.saw("relayed");
                    }
                    let bytes = entries.iter().map(|entry| entry.len() as u64).sum();
                    let next = checkpoint.head.seq + 1;
                    let batch = Batch { log: log.clone(), pull, entries, checkpoint };
                    self.saw("batch");
                    let gone_at = self.send(region, conn, Message::Batch(batch));
                    served = Event::Served { conn, log, pull, next, bytes };
                    if gone_at > self.now {
                        let event = Box::new(served);
                        self.schedule(gone_at, Happening::Served { region, life, event });
                        return;
                    }
                }
                self.give(region, served);
            }
            Effect::SaveAck { peer, log, state } => {
                self.check_ack(&peer, &log, state.head);
                self.regions[region].disk.acks.entry(peer).or_default().insert(log, state.head.seq);
            }
            Effect::SaveMember { .. } => {}
            Effect::AllowNumbering => {
                if self.regions[region].life > 1 {
                    self.saw("late numbering");
                }
                self.regions[region].may_number = true;
                self.regions[region].may_be_restored = false;
            }
            Effect::BeginIncarnation { after, alone } => {
                if !self.regions[region].may_be_restored {
                    self.fail("a region that lost nothing was told that it had".to_owned());
                    return;
                }
                self.saw(if alone { "new life, not everybody heard" } else { "new life" });
                if self.bug != Some(Bug::OldLifeGoesOn) {
                    self.regions[region].disk.incarnation = if alone { 1_000_000 + self.now } else { after };
                }
                self.regions[region].may_be_restored = false;
                self.crash(region, "over again");
            }
            Effect::Alarm(Alarm::BadBatch { .. }) if self.altered > 0 => {
                self.saw("altered and noticed");
                self.altered -= 1;
            }
            Effect::CheckHead { peer, log, head } => {
                self.saw("check head");
                if self.truth.get(&(log.clone(), head.seq)) != Some(&head.hash) {
                    self.fail(format!("{peer} has another {log} {}", head.seq));
                }
            }
            Effect::Truncate { log, upto } => self.truncate(region, log, upto),
            Effect::GiveUpOn { peer, log: _ } => {
                self.saw("give up on");
                let peer = self.number_of(&peer);
                self.given_up.insert((region, peer));
            }
            Effect::LoadSnapshot { peer } => {
                self.saw("load snapshot");
                let (from, at) = (self.number_of(&peer), self.now + self.random.between(20, 400));
                self.schedule(at, Happening::Snapshot { region, life, from });
            }
            Effect::Answer { conn, question } => {
                self.saw("answer");
                if let Some((vector, mut rows)) = self.derived(region, &question) {
                    if self.bug == Some(Bug::DigestOmitsRow) {
                        rows.pop();
                    }
                    let mut summary = Summary::new(&question.prefix);
                    rows.into_iter().for_each(|row| summary.add(row));
                    let of = Inspect { vector: Some(vector), ..question };
                    self.saw("digest");
                    self.send(region, conn, Message::Digest(Digest { of, rows: summary.finish() }));
                }
                self.give(region, Event::Answered { conn });
            }
            Effect::Compare { conn, theirs: Digest { of, rows } } => {
                self.saw(if matches!(rows, Rows::Sums(_)) { "compare sums" } else { "compare rows" });
                let difference = self.derived(region, &of).map(|(_, ours)| {
                    let mut comparison = Comparison::new(&of.prefix, rows);
                    ours.into_iter().for_each(|row| comparison.add(row));
                    comparison.finish()
                });
                self.give(region, Event::Compared { conn, question: of, difference });
            }
            Effect::Alarm(Alarm::RowsDiffer { keys, .. })
                if self.tampered.as_ref().is_some_and(|((_, log, seq), _)| keys == [format!("{log} {seq}")]) =>
            {
                self.saw("tampered row found");
                self.tampered.iter_mut().for_each(|(_, told)| *told = true);
            }
            Effect::Alarm(alarm @ (Alarm::BadBatch { .. } | Alarm::Diverged { .. } | Alarm::RowsDiffer { .. })) => {
                self.fail(format!("false alarm: {alarm:?}"));
            }
        }
    }

    /// Sends a message and says when the line is free of it.
    fn send(&mut self, from: usize, conn: ConnectionId, mut message: Message) -> u64 {
        let Some((a, b)) = self.connections.get(&conn).copied() else { return self.now };
        let to = if a == from { b } else { a };
        message.frame_type().hash(&mut self.trace);
        if let Message::Batch(batch) = &message {
            batch.checkpoint.head.hash.hash(&mut self.trace);
        }
        let life = self.regions[to].life;
        // Hello opens a connection: without it there is none.
        if matches!(message, Message::Hello(_)) {
            self.schedule(self.now + 1, Happening::Deliver { to, life, conn, message });
            return self.now;
        }
        // Entries queue for the line; what is said about them overtakes them, as on streams of another priority.
        let mut gone_at = self.now;
        if let (Message::Batch(batch), Some(bytes_a_second)) = (&message, self.bandwidth.get(&(from, to))) {
            let bytes: u64 = batch.entries.iter().map(|entry| entry.len() as u64).sum();
            let line = self.busy_until.entry((from, to)).or_default();
            gone_at = self.now.max(*line) + bytes * 1000 / bytes_a_second;
            *line = gone_at;
            if bytes * 1000 / bytes_a_second > 1000 {
                self.saw("slow batch");
            }
        }
        let faulty = !self.healed;
        if self.cut.contains(&(from, to)) || (faulty && self.random.chance(30)) {
            self.saw("lost");
            return gone_at;
        }
        if let Message::Batch(batch) = &mut message
            && self.now < ALTERED_UNTIL_MS
            && self.random.chance(20)
        {
            self.altered += 1;
            let last = batch.entries.last_mut().expect("a batch has entries");
            match (self.random.between(0, 3), &mut last.body) {
                (0, Some(body)) => body[0] ^= 1,
                (1, body) => *body = None,
                _ => batch.checkpoint.signature[0] ^= 1,
            }
        }
        if faulty && self.random.chance(30) {
            self.saw("doubled");
            let at = gone_at + self.random.between(2, 400);
            self.schedule(at, Happening::Deliver { to, life, conn, message: message.clone() });
        }
        let at = gone_at + self.random.between(2, 120);
        self.schedule(at, Happening::Deliver { to, life, conn, message });
        gone_at
    }

    /// What a region derived, or reads as if it had.
    fn derived(&self, region: usize, question: &Inspect) -> Option<(BTreeMap<Origin, u64>, Vec<Row>)> {
        let (vector, mut rows) = self.regions[region].disk.derived(question)?;
        if let Some(((at, log, seq), _)) = &self.tampered
            && *at == region
        {
            let key = format!("{log} {seq}");
            rows.iter_mut().filter(|row| row.key == key).for_each(|row| row.hash[0] ^= 1);
        }
        Some((vector, rows))
    }

    /// Law: no entry is dropped that a member lacks, but one that was given up on or has lost its disk since.
    fn truncate(&mut self, region: usize, log: LogId, upto: u64) {
        self.saw("truncate");
        let newest = self.regions[region].disk.head(&log).seq;
        let upto = if self.bug == Some(Bug::TruncatesForItself) { newest - 1 } else { upto };
        if upto >= newest {
            self.fail(format!("the newest entry of {log} is dropped"));
            return;
        }
        for other in 0..self.regions.len() {
            let excused = other == region || self.restored.contains(&other) || self.given_up.contains(&(region, other));
            if !excused && self.regions[other].disk.head(&log).seq < upto {
                self.fail(format!("{log} {upto} is dropped, and {} lacks it", self.regions[other].name));
                return;
            }
        }
        self.regions[region].disk.truncate(&log, upto);
        self.give(region, Event::Truncated { log, upto });
    }

    fn load_snapshot(&mut self, region: usize, from: usize) {
        let reachable = !self.cut.contains(&(region, from)) && !self.cut.contains(&(from, region));
        let own = self.regions[region].origin();
        let other = self.regions[from].disk.clone();
        let breaks_off = !self.healed && self.random.chance(200);
        let up = self.regions[from].core.is_some() && reachable && !breaks_off;
        let before = self.regions[region].disk.rows.clone();
        if !up || !self.regions[region].disk.load(&own, &other) {
            self.saw("snapshot failed");
            self.give(region, Event::SnapshotFailed);
            return;
        }
        self.saw("snapshot loaded");
        if self.bug == Some(Bug::TornSnapshot) {
            let rows = &mut self.regions[region].disk.rows;
            let newest = rows.keys().rfind(|place| !before.contains_key(place)).cloned();
            newest.map(|place| rows.remove(&place));
        }
        if !self.healed && self.random.chance(100) {
            self.crash(region, "crash before report");
            return;
        }
        let logs = self.regions[region].disk.log_states();
        self.give(region, Event::SnapshotLoaded { logs });
    }

    fn number_of(&self, name: &RegionName) -> usize {
        self.regions.iter().position(|region| region.name == *name).expect("a region of this world")
    }

    /// Law: what a peer acknowledged is on its disk.
    fn check_ack(&mut self, peer: &RegionName, log: &LogId, head: Head) {
        let Some(peer) = self.regions.iter().find(|region| region.name == *peer) else { return };
        if peer.disk.head(log).seq < head.seq {
            let text = format!("{} acknowledged {log} {} without having it", peer.name, head.seq);
            self.fail(text);
        }
    }

    /// Law: every fact committed anywhere is in a log of its origin, unless a lost disk was all that had it; every log is
    /// the same everywhere; and nothing is numbered twice, unless the origin lost its disk and with it the memory of it.
    fn check_nothing_lost_or_doubled(&mut self) {
        if self.failure.is_some() {
            return;
        }
        let emitted: BTreeSet<Uuid> = (1..=self.emitted).map(|n| Uuid::from_u128(u128::from(n))).collect();
        let numbered = self.truth.len() as u64;
        if !self.seen.contains_key("disk lost") && numbered != self.emitted {
            self.fail(format!("{} facts were committed, {numbered} numbered", self.emitted));
            return;
        }
        let names: Vec<_> = self.regions.iter().map(|region| region.name.clone()).collect();
        for region in &self.regions {
            let held: BTreeSet<Uuid> = names.iter().flat_map(|name| region.disk.written_by(name)).collect();
            let entries = region.disk.rows.len() as u64;
            let missing: Vec<_> = emitted.difference(&held).filter(|id| !self.lost.contains(id)).collect();
            if !missing.is_empty() || entries != numbered {
                let text = format!("{} lacks {missing:?}, has {entries} of {numbered} entries", region.name);
                self.fail(text);
                return;
            }
        }
    }

    fn converged(&self) -> bool {
        self.tampered.as_ref().is_none_or(|(_, told)| *told)
            && self
                .regions
                .iter()
                .all(|region| region.disk.outbox.is_empty() && self.lengths(region) == self.lengths(&self.regions[0]))
    }

    fn lengths(&self, region: &Region) -> BTreeMap<String, u64> {
        let heads = region.disk.heads.iter().filter(|(_, head)| head.seq > 0);
        heads.map(|(log, head)| (log.to_string(), head.seq)).collect()
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn fail(&mut self, text: String) {
        if self.failure.is_none() {
            self.failure = Some(format!("at {} ms: {text}", self.now));
        }
    }
}

fn is_whole(entry: &Entry) -> bool {
    let envelope = Envelope::read(&entry.envelope).expect("only what can be read is stored");
    entry.body.as_ref().is_some_and(|body| envelope.check_body(body).is_ok())
}
