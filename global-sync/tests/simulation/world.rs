//! The world's time: what happens when, and what instances do with their databases when it does.
//!
//! Every instance runs as the program does: it takes, renews and loses the lease, numbers, applies, and looks now and again
//! at what the other one did. What it has under way ends with its process.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    hash::{Hash as _, Hasher},
};

use global_sync::protocol::{
    Alarm, Batch, Comparison, ConnectionId, Digest, Effect, Event, Inspect, LogId, MemberState, Message, Origin, Past,
    Row, Rows, Summary, VerifiedBatch, features, hash_of,
};
use shared::{fact::FactStream, ids::RegionName};

use super::{
    bugs::Bug,
    disk::{Applying, Disk, LEASE_MS, Waiting, written_anew},
    faults::{FAULTS_LAST_MS, Plan},
    laws::{Breach, Law, Laws},
    moves::Home,
    network::Network,
    random::Random,
    region::{HashTrust, INSTANCES, Instance, LIMITS, Region, Start},
};

const TICK_MS: u64 = 100;
pub(super) const LEASE_EVERY_MS: u64 = 500;
const NUMBER_EVERY_MS: u64 = 20;
const APPLY_EVERY_MS: u64 = 60;
/// The database is looked at for what another instance did.
const REFRESH_EVERY_MS: u64 = 500;
const LOOK_EVERY_MS: u64 = 100;
/// Config is written at least so long after healing, where it is all the time: longer than it takes to ask for a snapshot.
const BUSY_AT_LEAST_MS: u64 = 6_000;
/// Until then relays and lines alter what they carry; whoever did is avoided for half a minute.
pub(super) const ALTERED_UNTIL_MS: u64 = 3_000;

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) trace: u64,
    pub(crate) breach: Option<Breach>,
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

/// All that has happened so far, as a number: two that differ anywhere differ, but for a chance nobody works towards. Much goes in,
/// and a hasher that cannot be outwitted takes several times as long.
#[derive(Default)]
struct Trace(u64);

impl Hasher for Trace {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        if !rest.is_empty() {
            self.write_u64(u64::from_le_bytes(last));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Something that happens to an instance, named by its number and the start it belongs to, or to a region.
pub(super) enum Happening {
    Tick { at: usize, start: u64 },
    Lease { at: usize, start: u64 },
    Number { at: usize, start: u64 },
    Apply { at: usize, start: u64 },
    Refresh { at: usize, start: u64 },
    Dial { at: usize, start: u64, region: usize },
    Deliver { at: usize, start: u64, conn: ConnectionId, message: Message },
    HangUp { at: usize, start: u64, conn: ConnectionId },
    Durable { at: usize, start: u64, batch: Box<VerifiedBatch>, fails: bool },
    Snapshot { at: usize, start: u64, from: usize },
    Served { at: usize, start: u64, event: Box<Event> },
    Start { at: usize },
    Crash { at: usize },
    Freeze { at: usize, until: u64 },
    CutOff { at: usize, until: u64 },
    Emit { region: usize, burst: u64 },
    Edit { region: usize },
    Commit { region: usize, database: u64, row: Box<Waiting> },
    Slow { region: usize, until: u64 },
    Full { region: usize, until: u64 },
    Backup { region: usize },
    Lose { region: usize, processes_too: bool, as_it_lay: bool, back_after: Option<u64> },
    Back { region: usize, as_it_lay: bool },
    Die { region: usize },
    Join { region: usize },
    Drain { region: usize },
    Settle { region: usize },
    Pause { region: usize, peer: usize, stream: FactStream },
    Resume { region: usize, peer: usize, stream: FactStream },
    CompareNow { region: usize },
    Pay,
    HandOver { to: usize },
    Stand { by: usize },
    Take { by: usize, home: Box<Home>, term: u64 },
    Cut { from: usize, to: usize },
    Mend { from: usize, to: usize },
    StepClock { region: usize, ahead_ms: u64 },
    Heal,
    Look,
}

impl Happening {
    /// The instance it happens to, if it is one that runs.
    fn instance(&self) -> Option<(usize, u64)> {
        match self {
            Self::Tick { at, start }
            | Self::Lease { at, start }
            | Self::Number { at, start }
            | Self::Apply { at, start }
            | Self::Refresh { at, start }
            | Self::Dial { at, start, .. }
            | Self::Deliver { at, start, .. }
            | Self::HangUp { at, start, .. }
            | Self::Durable { at, start, .. }
            | Self::Snapshot { at, start, .. }
            | Self::Served { at, start, .. } => Some((*at, *start)),
            _ => None,
        }
    }
}

/// When, after how many others, and what: in a box, since the queue moves it about.
struct Due(u64, u64, Box<Happening>);

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
    pub(super) now: u64,
    pub(super) random: Random,
    due: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    pub(super) regions: Vec<Region>,
    pub(super) instances: Vec<Instance>,
    pub(super) network: Network,
    pub(super) plan: Plan,
    pub(super) backups: BTreeMap<usize, Disk>,
    pub(super) healed: bool,
    bug: Option<Bug>,
    /// A row of a region that is not what was derived, and whether anybody has told.
    pub(super) tampered: Option<((usize, LogId, u64), bool)>,
    /// The entry whose hash is being misread, until that is told.
    misread: Option<(RegionName, LogId, u64)>,
    pub(super) emitted: u64,
    /// How long each fact is, by its number.
    pub(super) lengths: BTreeMap<u64, u64>,
    pub(super) laws: Laws,
    trace: Trace,
    seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random, seed);
        let mut world = Self {
            now: 0,
            random,
            due: BinaryHeap::new(),
            scheduled: 0,
            regions: plan.regions(),
            instances: (0..plan.count * INSTANCES).map(|_| Instance::default()).collect(),
            network: Network::default(),
            plan,
            backups: BTreeMap::new(),
            healed: false,
            bug: None,
            tampered: None,
            misread: None,
            emitted: 0,
            lengths: BTreeMap::new(),
            laws: Laws::default(),
            trace: Trace::default(),
            seen: BTreeMap::new(),
        };
        world.plan_faults();
        world.plan_operators(seed);
        world.plan_clocks(seed);
        world.plan_moves(seed);
        world
    }

    pub(crate) fn with_bug(mut self, bug: Bug) -> Self {
        self.bug = Some(bug);
        self.plan.tampers = bug == Bug::DigestOfKeys;
        if bug == Bug::SnapshotComparedWhole { self.with_busy_config() } else { self }
    }

    /// A row of one region is another than what was derived, once the world has healed.
    pub(crate) fn with_a_tampered_row(mut self) -> Self {
        self.plan.tampers = true;
        self
    }

    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse(Due(at, _, happening))) = self.due.pop() {
            self.now = at;
            self.laws.now_ms = at;
            if self.laws.breach.is_some() || (matches!(*happening, Happening::Look) && self.looks_done()) {
                break;
            }
            self.happen(*happening);
        }
        self.laws.at_the_end(&self.regions);
        if self.plan.moves {
            self.end_moves();
        }
        Outcome { trace: self.trace.finish(), breach: self.laws.breach, seen: self.seen }
    }

    pub(super) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(super) fn schedule(&mut self, at: u64, happening: Happening) {
        self.scheduled += 1;
        self.due.push(Reverse(Due(at, self.scheduled, Box::new(happening))));
    }

    fn happen(&mut self, happening: Happening) {
        if let Some((at, start)) = happening.instance() {
            let instance = &self.instances[at];
            if !instance.runs() || instance.start != start {
                return;
            }
            if self.is_frozen(at) {
                self.schedule(self.instances[at].frozen_until, happening);
                return;
            }
        }
        match happening {
            Happening::Tick { at, start } => {
                self.schedule(self.now + TICK_MS, Happening::Tick { at, start });
                self.give(at, Event::Tick);
            }
            Happening::Lease { at, start } => {
                self.schedule(self.now + LEASE_EVERY_MS, Happening::Lease { at, start });
                self.keep_lease(at);
            }
            Happening::Number { at, start } => {
                self.schedule(self.now + NUMBER_EVERY_MS, Happening::Number { at, start });
                self.number(at);
            }
            Happening::Apply { at, start } => {
                self.schedule(self.now + APPLY_EVERY_MS, Happening::Apply { at, start });
                self.apply(at);
            }
            Happening::Refresh { at, start } => {
                self.schedule(self.now + REFRESH_EVERY_MS, Happening::Refresh { at, start });
                self.refresh(at);
            }
            Happening::Dial { at, region, .. } => self.dial(at, region),
            Happening::Deliver { at, conn, message, .. } => self.received(at, conn, message),
            Happening::HangUp { at, conn, .. } => {
                self.laws.disconnected(at, conn);
                self.give(at, Event::Disconnected { conn });
            }
            Happening::Durable { at, start, batch, fails } => {
                if self.reaches_database(at) {
                    let forgotten = batch.entries.iter().any(|(entry, ..)| self.laws.is_forgotten(entry));
                    self.store(at, &batch, fails || forgotten);
                } else {
                    let later = self.database_back(at) + 1;
                    self.schedule(later, Happening::Durable { at, start, batch, fails: true });
                }
            }
            Happening::Snapshot { at, from, .. } => self.load_snapshot(at, from),
            Happening::Served { at, event, .. } => self.give(at, *event),
            Happening::Start { at } => self.start(at),
            fault => self.suffer(fault),
        }
    }

    pub(super) fn is_frozen(&self, at: usize) -> bool {
        self.instances[at].frozen_until > self.now
    }

    fn database_back(&self, at: usize) -> u64 {
        self.instances[at].away_until.max(self.regions[at / INSTANCES].away_until)
    }

    pub(super) fn reaches_database(&self, at: usize) -> bool {
        self.now >= self.database_back(at)
    }

    /// The time by a region's database.
    pub(super) fn database_clock(&self, region: usize) -> u64 {
        self.now + self.regions[region].clock_ahead_ms
    }

    pub(super) fn origin_of(&self, at: usize) -> Origin {
        Origin { region: self.regions[at / INSTANCES].name.clone(), incarnation: self.instances[at].life + 1 }
    }

    pub(super) fn number_of(&self, name: &RegionName) -> usize {
        self.regions.iter().position(|region| region.name == *name).expect("a region of this world")
    }

    fn applying(&self) -> Applying {
        Applying {
            counts_again: self.has(Bug::FactCountsTwice),
            last_body_wins: self.has(Bug::LastBodyWins),
            stops_at_poison: self.has(Bug::PoisonStopsLog) || self.has(Bug::KindsWaitForEachOther),
            drops_neighbours: self.has(Bug::PoisonTakesNeighbours),
        }
    }

    fn start(&mut self, at: usize) {
        let region = at / INSTANCES;
        if self.instances[at].runs() || !self.may_run(region) {
            return;
        }
        if !self.reaches_database(at) {
            let again = self.database_back(at) + self.random.between(1, 300);
            self.schedule(again, Happening::Start { at });
            return;
        }
        let in_doubt = self.has(Bug::NumbersInDoubt);
        let clock = self.database_clock(region);
        let past = match self.regions[region].disk.identify(clock) {
            _ if in_doubt => Past::Known,
            Past::Copied if self.has(Bug::CopyKeepsItsLife) => Past::Doubted,
            Past::Doubted if self.has(Bug::DoubtForgotten) => Past::Known,
            past => past,
        };
        let others = self.regions.iter().enumerate();
        let expected = others
            .filter(|(other, peer)| {
                *other != region && !in_doubt && peer.state.is_some_and(|state| state < MemberState::Retired)
            })
            .map(|(_, peer)| peer.name.clone())
            .collect();
        let old = !self.healed && self.random.chance(80);
        let kept_entries = if self.has(Bug::WaitsForTheDead) { u64::MAX / 2 } else { self.plan.kept_entries };
        let how = Start {
            now: self.now,
            expected,
            past,
            limits: global_sync::protocol::Limits { kept_entries, ..LIMITS },
            trust: HashTrust { believes_everybody: self.has(Bug::BelievesEverybody) },
            features: match old {
                true => features::INSPECT,
                false if self.has(Bug::SnapshotComparedWhole) => features::ALL & !features::AS_THEY_ARE,
                false => features::ALL,
            },
            random: &mut self.random,
        };
        self.instances[at].start(at, &self.regions[region], how);
        self.laws.starts(at);
        let start = self.instances[at].start;
        self.schedule(self.now + 1, Happening::Tick { at, start });
        self.schedule(self.now + 2, Happening::Lease { at, start });
        self.schedule(self.now + 3, Happening::Refresh { at, start });
        self.schedule(self.now + 5, Happening::Number { at, start });
        self.schedule(self.now + 6, Happening::Apply { at, start });
        for other in 0..self.regions.len() {
            if other != region {
                self.schedule(self.now + 4, Happening::Dial { at, start, region: other });
            }
        }
    }

    pub(super) fn may_run(&self, region: usize) -> bool {
        let region = &self.regions[region];
        !region.gone && region.state.is_some_and(|state| state < MemberState::Retired)
    }

    /// Ends a process; another is started after a while.
    pub(super) fn crash(&mut self, at: usize, how: &'static str) {
        let restart = self.now + self.random.between(10, 3_000);
        self.stop(at, how);
        self.schedule(restart, Happening::Start { at });
    }

    pub(super) fn stop(&mut self, at: usize, how: &'static str) {
        if self.instances[at].runs() {
            self.saw(how);
            self.drop_connections(at);
            self.instances[at].stop();
        }
    }

    /// Ends a life of the program in an orderly way and begins the next.
    pub(super) fn start_over(&mut self, at: usize, why: &'static str) {
        if let Some(fence) = self.instances[at].fence
            && self.reaches_database(at)
        {
            let clock = self.database_clock(at / INSTANCES);
            self.regions[at / INSTANCES].disk.release_lease(clock, fence);
        }
        self.stop(at, why);
        let restart = self.now + self.random.between(2, 50);
        self.schedule(restart, Happening::Start { at });
    }

    /// Whether the region has begun another life since the start, or another database has taken the place of its own, or may
    /// have.
    fn is_outlived(&self, at: usize) -> bool {
        let (instance, disk) = (&self.instances[at], &self.regions[at / INSTANCES].disk);
        // Another instance may have looked first, and have begun to doubt.
        let unled = disk.is_unled(self.database_clock(at / INSTANCES)) || (disk.doubted && !instance.doubts);
        let another = instance.timeline != disk.timeline || unled;
        let outlived = instance.life != disk.life || (another && !self.has(Bug::FailoverUnnoticed));
        outlived && !self.has(Bug::OutlivedGoesOn)
    }

    /// What the database says when a transaction of an instance asks whether it leads.
    pub(super) fn leads(&self, at: usize) -> bool {
        let disk = &self.regions[at / INSTANCES].disk;
        let copy_too = self.has(Bug::LeaseOfCopyHolds) || self.has(Bug::FailoverUnnoticed);
        let clock = self.database_clock(at / INSTANCES);
        self.instances[at].fence.is_some_and(|fence| disk.holds(clock, fence) || (copy_too && disk.is_of(fence)))
    }

    /// As `leads`, for a transaction that writes; whoever hears no leads no longer.
    fn may_write(&mut self, at: usize, what: &'static str, unfenced: bool) -> bool {
        if self.instances[at].fence.is_none() || !self.reaches_database(at) {
            return false;
        }
        let leads = self.leads(at);
        if !leads && !unfenced {
            self.saw("zombie refused");
            self.follow(at);
            return false;
        }
        self.laws.wrote(what, leads);
        true
    }

    fn follow(&mut self, at: usize) {
        self.instances[at].fence = None;
        self.instances[at].may_number = false;
        self.laws.starts_over(at);
        self.give(at, Event::Follows);
    }

    fn keep_lease(&mut self, at: usize) {
        let region = at / INSTANCES;
        let reaches = self.reaches_database(at);
        let (clock, own_clock) = (self.database_clock(region), self.instances[at].clock(self.now).0);
        if reaches && self.is_outlived(at) {
            self.start_over(at, "outlived");
            return;
        }
        let disk = &mut self.regions[region].disk;
        match self.instances[at].fence {
            None if reaches => {
                let ends = disk.lease_ends_ms;
                let by = if self.bug == Some(Bug::LeaseByOwnClock) { own_clock } else { clock };
                // One that lasts longer than any is from before the clock was put back.
                if by > ends || ends > by + LEASE_MS {
                    let fence = disk.take_lease(clock, self.instances[at].holder);
                    let logs = disk.log_states();
                    self.laws.lease_taken(clock, ends);
                    self.laws.starts_over(at);
                    self.instances[at].fence = Some(fence);
                    self.instances[at].renewed_at = own_clock;
                    self.give(at, Event::Leads { logs });
                }
            }
            None => {}
            Some(fence) if reaches => {
                if disk.renew_lease(clock, fence) {
                    self.instances[at].renewed_at = own_clock;
                } else {
                    self.follow(at);
                }
            }
            Some(_) if own_clock.saturating_sub(self.instances[at].renewed_at) >= LEASE_MS => self.follow(at),
            Some(_) => {}
        }
    }

    fn refresh(&mut self, at: usize) {
        if !self.reaches_database(at) {
            return;
        }
        if self.is_outlived(at) {
            self.start_over(at, "outlived");
            return;
        }
        let states = self.regions.iter().filter_map(|region| Some((region.name.clone(), region.state?))).collect();
        let acks = self.regions[at / INSTANCES].disk.acks.clone();
        let unchecked = self.regions[at / INSTANCES].disk.snapshot_of.clone();
        self.give(at, Event::Members { states, acks, unchecked });
        if self.instances[at].runs() && self.instances[at].paused != self.regions[at / INSTANCES].paused {
            let paused = self.regions[at / INSTANCES].paused.clone();
            self.instances[at].paused = paused.clone();
            if !self.has(Bug::PauseUntold) {
                self.give(at, Event::Paused(paused));
            }
        }
        if self.instances[at].runs() && self.instances[at].fence.is_none() {
            let logs = self.regions[at / INSTANCES].disk.log_states();
            self.give(at, Event::Refreshed { logs });
        }
    }

    fn number(&mut self, at: usize) {
        let region = at / INSTANCES;
        if !self.instances[at].may_number || self.regions[region].disk.outbox.is_empty() {
            return;
        }
        if !self.may_write(at, "numbering", self.has(Bug::NumbersUnfenced)) {
            return;
        }
        let at_most = usize::try_from(self.random.between(1, 5)).expect("few");
        let (origin, how) = (self.origin_of(at), self.applying());
        let by_position = self.has(Bug::OutboxReadByPosition);
        let comes_back = self.has(Bug::OutboxDeletedLater);
        let disk = &mut self.regions[region].disk;
        let (life_over, heads) = (origin != disk.origin(&origin.region), disk.heads.clone());
        let waited = if comes_back { disk.outbox.clone() } else { Vec::new() };
        disk.outbox.sort_by_key(|row| row.position);
        let seen = if by_position { disk.position } else { 0 };
        let (mut rows, mut rest): (Vec<_>, Vec<_>) = disk.outbox.drain(..).partition(|row| row.position > seen);
        rest.extend(rows.split_off(at_most.min(rows.len())));
        disk.outbox = rest;
        disk.position = rows.last().map_or(seen, |row| row.position);
        let grown = disk.number(&origin, rows, how);
        for (log, _) in &grown {
            let known = heads.get(log).map_or(0, |head| head.seq);
            self.laws.numbered(region, log, &self.regions[region].disk, known, life_over);
            self.laws.applied(&self.regions[region].disk, log, known);
        }
        if !grown.is_empty() && !self.healed && self.random.chance(20) {
            if comes_back {
                self.regions[region].disk.outbox = waited;
            }
            self.crash(at, "crash before report");
            return;
        }
        for (log, head) in grown {
            self.give(at, Event::Numbered { log, head });
        }
    }

    fn apply(&mut self, at: usize) {
        let region = at / INSTANCES;
        if self.instances[at].fence.is_none() {
            return;
        }
        let disk = &self.regions[region].disk;
        let unapplied: Vec<LogId> =
            disk.heads.iter().filter(|(log, head)| head.seq > disk.applied(log)).map(|(log, _)| log.clone()).collect();
        let start = self.instances[at].start;
        for log in unapplied {
            if self.instances[at].start != start || !self.may_write(at, "applying", self.has(Bug::AppliesUnfenced)) {
                return;
            }
            let at_most = usize::try_from(self.random.between(1, 8)).expect("few");
            let how = self.applying();
            let forgets = self.has(Bug::AppliedBeforeRows) && !self.healed && self.random.chance(100);
            let disk = &mut self.regions[region].disk;
            let known = disk.applied(&log);
            if forgets {
                disk.applied.insert(log.clone(), disk.head(&log).seq);
                self.crash(at, "crash before report");
                return;
            }
            let applied = disk.apply(&log, at_most, how);
            self.laws.applied(&self.regions[region].disk, &log, known);
            if !self.healed && self.random.chance(5) {
                self.crash(at, "crash before report");
                return;
            }
            match applied {
                Some(applied) => self.give(at, Event::Applied { log, applied }),
                None if self.has(Bug::KindsWaitForEachOther) => return,
                None => {}
            }
        }
    }

    fn store(&mut self, at: usize, batch: &VerifiedBatch, fails: bool) {
        let region = at / INSTANCES;
        let faulty = !self.healed;
        if faulty && self.random.chance(10) {
            self.crash(at, "crash before durable");
            return;
        }
        let log = batch.log.clone();
        let bytes: u64 = batch.entries.iter().map(|(entry, _, _)| entry.len() as u64).sum();
        if let Some(storing) = self.instances[at].storing.get_mut(&log) {
            *storing = storing.saturating_sub(bytes);
        }
        let full = self.regions[region].full_until > self.now;
        let fails = fails || full || (faulty && self.random.chance(20));
        let hit = self.bug.is_some() && self.random.chance(300);
        let (forgets, breaks_off) = (self.has(Bug::DiskForgets), self.has(Bug::CursorBeforeRows) && faulty);
        let (blindly, unsigned) = (self.has(Bug::AppendsBlindly), self.has(Bug::CheckpointsNotKept));
        let disk = &mut self.regions[region].disk;
        let known = disk.head(&log).seq;
        let result = if hit && forgets {
            Ok(batch.checkpoint.head)
        } else if hit && breaks_off {
            if known < batch.checkpoint.head.seq {
                disk.heads.insert(log, batch.checkpoint.head);
            }
            self.crash(at, "crash before durable");
            return;
        } else if fails {
            Err(disk.head(&log))
        } else if blindly {
            disk.store_from(batch, 0);
            Ok(disk.head(&log))
        } else {
            disk.store(batch)
        };
        if unsigned {
            disk.checkpoints.remove(&log);
        }
        self.laws.stored(&self.regions[region], &log, known);
        if faulty && self.random.chance(10) {
            self.crash(at, "crash before report");
            return;
        }
        match result {
            Ok(head) => self.give(at, Event::Stored { log, head }),
            Err(_) if self.has(Bug::StoreFailureUntold) => {}
            Err(head) => {
                if full {
                    self.saw("disk full");
                }
                self.give(at, Event::StoreFailed { log, head });
            }
        }
    }

    pub(super) fn give(&mut self, at: usize, event: Event) {
        let instance = &mut self.instances[at];
        let (start, now) = (instance.start, instance.clock(self.now));
        let Some(core) = instance.core.as_mut() else { return };
        (self.now, at, now.0).hash(&mut self.trace);
        event.hash(&mut self.trace);
        let name = name_of(&event);
        let effects = core.handle(now, event);
        self.saw(name);
        for effect in effects {
            if !self.instances[at].runs() || self.instances[at].start != start {
                return;
            }
            effect.hash(&mut self.trace);
            self.saw(effect.name());
            self.carry_out(at, effect);
            if !self.healed && self.random.chance(1) && self.random.chance(300) && self.instances[at].start == start {
                self.crash(at, "crash");
            }
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let (region, start) = (at / INSTANCES, self.instances[at].start);
        match effect {
            Effect::Send { conn, message } => {
                if !self.is_kept_back(&message) {
                    self.saw(message.name());
                    self.send(at, conn, message);
                }
            }
            Effect::Close { conn, reason: _ } => self.drop_connection(conn, at),
            Effect::Store { batch, direct: _ } => self.begin_storing(at, batch),
            Effect::Serve { conn, log, pull, from, upto, max_bytes, known_keys: _ } => {
                if let Some(other) = self.network.other_end(conn, at) {
                    let peer = self.regions[other / INSTANCES].name.clone();
                    self.laws.serves(&self.instances[at].paused, peer, &log);
                }
                let found =
                    self.reaches_database(at).then(|| self.regions[region].disk.read(&log, from, upto, max_bytes));
                let mut served = Event::Served { conn, log: log.clone(), pull, next: from, bytes: 0 };
                let Some((mut entries, checkpoint)) = found.flatten() else {
                    self.give(at, served);
                    return;
                };
                if log.origin.region != self.regions[region].name {
                    self.saw("relayed");
                    if self.has(Bug::RelayWritesAnew) {
                        entries.iter_mut().for_each(written_anew);
                    }
                }
                let bytes = entries.iter().map(|entry| entry.len() as u64).sum();
                let next = checkpoint.head.seq + 1;
                let batch = Batch { log: log.clone(), pull, entries, checkpoint };
                self.saw("batch");
                let gone_at = self.send(at, conn, Message::Batch(batch));
                let bytes = if self.has(Bug::CreditNotSpent) { 0 } else { bytes };
                served = Event::Served { conn, log, pull, next, bytes };
                if self.has(Bug::ServedUntold) {
                    return;
                }
                if gone_at > self.now {
                    self.schedule(gone_at, Happening::Served { at, start, event: Box::new(served) });
                } else {
                    self.give(at, served);
                }
            }
            Effect::SaveAck { peer, log, state } => {
                let number = self.number_of(&peer);
                self.laws.acknowledged((number, &self.regions[number]), &log, state.head);
                if self.reaches_database(at) {
                    self.regions[region].disk.acks.entry(peer).or_default().insert(log, state.head.seq);
                }
            }
            Effect::ForgetAck { peer, log } => {
                if self.reaches_database(at) {
                    self.regions[region].disk.acks.entry(peer).or_default().remove(&log);
                }
            }
            Effect::SaveMember { .. } => {}
            Effect::AllowNumbering => {
                self.instances[at].may_number = true;
                if self.reaches_database(at) && self.leads(at) {
                    let disk = &mut self.regions[region].disk;
                    if self.bug == Some(Bug::CopyKeepsItsLife) {
                        disk.takes_for_its_own();
                    }
                    disk.doubted = false;
                }
            }
            Effect::BeginIncarnation { after, alone } => self.begin_life(at, after, alone),
            Effect::Alarm(alarm) => self.heed_alarm(at, &alarm),
            Effect::SnapshotHolds => {
                if self.reaches_database(at) && self.leads(at) {
                    self.regions[region].disk.snapshot_of = None;
                }
            }
            Effect::CheckHead { peer, log, head } => {
                let disk = &self.regions[region].disk;
                let ours = disk.after(&log, head.seq - 1).next().map(|(_, ours)| *ours);
                let Some(ours) = ours.filter(|ours| ours.seq == head.seq && self.reaches_database(at)) else { return };
                let misread = self.plan.misreads && ours == head;
                if misread {
                    self.plan.misreads = false;
                    self.misread = Some((peer.clone(), log.clone(), head.seq));
                }
                if misread || ours != head {
                    self.give(at, Event::HeadDiffers { peer, log, seq: head.seq });
                } else {
                    self.give(at, Event::HeadAgrees { peer, log });
                }
                if misread && self.misread.take().is_some() && self.instances[at].start == start {
                    self.laws.broken(
                        Law::DifferencesAreTold,
                        "an entry that is another one was looked at in silence".into(),
                    );
                }
            }
            Effect::HeadsAgree { .. } => {}
            Effect::Truncate { log, upto } => self.truncate(at, log, upto),
            Effect::GiveUpOn { peer, log: _ } => {
                let peer = self.number_of(&peer);
                self.laws.gives_up_on(at, peer);
            }
            Effect::LoadSnapshot { peer } => {
                let (from, arrives) = (self.number_of(&peer), self.now + self.random.between(20, 1_000));
                self.schedule(arrives, Happening::Snapshot { at, start, from });
            }
            Effect::Answer { conn, question } => {
                if let Some((vector, mut rows)) = self.derived(at, &question) {
                    if self.has(Bug::DigestOmitsRow) {
                        rows.pop();
                    }
                    let mut summary = Summary::new(&question.prefix);
                    rows.into_iter().for_each(|row| summary.add(row));
                    let of = Inspect { vector: Some(vector), ..question };
                    self.saw("digest");
                    self.send(at, conn, Message::Digest(Digest { of, rows: summary.finish() }));
                }
                self.give(at, Event::Answered { conn });
            }
            Effect::Compare { conn, theirs: Digest { of, rows } } => {
                self.saw(if matches!(rows, Rows::Sums(_)) { "compare sums" } else { "compare rows" });
                let asked = Inspect { vector: of.vector.clone().filter(|_| !self.has(Bug::DigestOfNow)), ..of.clone() };
                let difference = self.derived(at, &asked).map(|(_, ours)| {
                    let mut comparison = Comparison::new(&of.prefix, rows);
                    ours.into_iter().for_each(|row| comparison.add(row));
                    comparison.finish()
                });
                self.give(at, Event::Compared { conn, question: of, difference });
            }
        }
    }

    fn begin_storing(&mut self, at: usize, batch: Box<VerifiedBatch>) {
        let (region, start) = (at / INSTANCES, self.instances[at].start);
        let bytes: u64 = batch.entries.iter().map(|(entry, _, _)| entry.len() as u64).sum();
        let slow = self.regions[region].slow_until > self.now;
        let takes = if slow { self.random.between(200, 1_500) } else { self.random.between(1, 30) };
        let instance = &mut self.instances[at];
        let storing = instance.storing.entry(batch.log.clone()).or_default();
        *storing += bytes;
        self.laws.waits_to_be_stored(*storing);
        // One writer: what comes later is stored later.
        let durable_at = instance.durable_at.entry(batch.log.clone()).or_default();
        *durable_at = (self.now + takes).max(*durable_at + 1);
        let (due, log, head) = (*durable_at, batch.log.clone(), batch.checkpoint.head);
        self.schedule(due, Happening::Durable { at, start, batch, fails: false });
        if slow {
            self.saw("slow disk");
        }
        if self.has(Bug::StoredTooEarly) {
            self.give(at, Event::Stored { log, head });
        }
    }

    fn begin_life(&mut self, at: usize, after: u64, alone: bool) {
        let region = at / INSTANCES;
        if !self.reaches_database(at) {
            self.crash(at, "crash");
            return;
        }
        if self.leads(at) {
            let clock = self.database_clock(region);
            let disk = &mut self.regions[region].disk;
            let (doubted, copied) = (disk.doubted, disk.is_copied());
            if alone && !doubted && !copied {
                // Another instance has heard everybody meanwhile.
            } else if self.bug == Some(Bug::OldLifeGoesOn) {
                disk.takes_for_its_own();
            } else {
                disk.begin_life(after, alone, clock);
                self.saw(match (copied, alone) {
                    (true, _) => "new life on a copy",
                    (false, true) => "new life, not everybody heard",
                    (false, false) => "new life",
                });
                self.laws.life_begins(region, doubted);
            }
        }
        self.start_over(at, "over again");
    }

    fn heed_alarm(&mut self, at: usize, alarm: &Alarm) {
        match alarm {
            Alarm::BadBatch { .. } => self.complained(format!("{alarm:?}")),
            Alarm::RowsDiffer { keys, .. }
                if self.tampered.as_ref().is_some_and(|((_, log, seq), _)| *keys == [format!("{log} {seq}")]) =>
            {
                self.saw("tampered row found");
                self.tampered.iter_mut().for_each(|(_, told)| *told = true);
            }
            Alarm::Diverged { peer, log, seq } if self.misread.as_ref() == Some(&(peer.clone(), log.clone(), *seq)) => {
                self.saw("misread head told of");
                self.misread = None;
            }
            // One of the two speaks of what was lost with its database, which it is about to notice.
            Alarm::Diverged { peer, .. }
                if self.remembers_another(at) || self.laws.may_not_know(self.number_of(peer)) => {}
            Alarm::Diverged { .. } | Alarm::RowsDiffer { .. } => {
                self.laws.broken(Law::NothingIsDamaged, format!("{alarm:?}"));
            }
        }
    }

    /// Whether an instance began on a database that another has taken the place of.
    pub(super) fn remembers_another(&self, at: usize) -> bool {
        self.instances[at].lost != self.regions[at / INSTANCES].lost
    }

    /// What a region derived, or reads as if it had.
    fn derived(&self, at: usize, question: &Inspect) -> Option<(BTreeMap<Origin, u64>, Vec<Row>)> {
        if !self.reaches_database(at) {
            return None;
        }
        let (vector, mut rows) = self.regions[at / INSTANCES].disk.derived(question)?;
        if let Some(((region, log, seq), _)) = &self.tampered
            && *region == at / INSTANCES
        {
            let key = format!("{log} {seq}");
            rows.iter_mut().filter(|row| row.key == key).for_each(|row| row.hash[0] ^= 1);
        }
        if self.has(Bug::DigestOfKeys) {
            rows.iter_mut().for_each(|row| row.hash = hash_of(row.key.as_bytes()));
        }
        Some((vector, rows))
    }

    fn truncate(&mut self, at: usize, log: LogId, upto: u64) {
        let region = at / INSTANCES;
        if !self.may_write(at, "dropping", false) {
            return;
        }
        let disk = &self.regions[region].disk;
        let upto = if self.has(Bug::TruncatesForItself) { disk.head(&log).seq - 1 } else { upto };
        let upto = upto.min(disk.applied(&log).saturating_sub(1));
        self.laws.drops(at, &self.regions, &log, upto);
        let upto = self.regions[region].disk.truncate(&log, upto);
        if !self.has(Bug::TruncationUntold) {
            self.give(at, Event::Truncated { log, upto });
        }
    }

    fn load_snapshot(&mut self, at: usize, from: usize) {
        let region = at / INSTANCES;
        let answers = (from * INSTANCES..(from + 1) * INSTANCES)
            .any(|donor| self.instances[donor].runs() && !self.is_frozen(donor) && self.reaches_database(donor));
        let breaks_off = !self.healed && self.random.chance(200);
        let whole = self.regions[from].disk.news_for(&self.regions[region].disk);
        let is_whole = whole.is_some();
        let news = whole.unwrap_or_default();
        let lacks_own = news.iter().any(|(log, _)| log.origin == self.origin_of(at));
        let comes = answers && is_whole && self.network.reachable(region, from) && !lacks_own;
        if !comes || (breaks_off && !self.has(Bug::SnapshotCursorsFirst)) || !self.may_write(at, "loading", false) {
            if !self.has(Bug::SnapshotFailureUntold) {
                self.give(at, Event::SnapshotFailed);
            }
            return;
        }
        let torn = self.has(Bug::TornSnapshot);
        let [ours, other] = self.regions.get_disjoint_mut([region, from]).expect("a snapshot is another region's");
        let disk = &mut ours.disk;
        if breaks_off {
            disk.load_cursors(&news);
            self.give(at, Event::SnapshotFailed);
            return;
        }
        let before: BTreeSet<_> = if torn { disk.rows.keys().cloned().collect() } else { BTreeSet::new() };
        disk.load(&news, &other.disk);
        disk.snapshot_of = Some(other.name.clone());
        if torn {
            let newest = disk.rows.keys().rfind(|place| !before.contains(*place)).cloned();
            let fact = newest.and_then(|place| disk.rows.remove(&place));
            fact.map(|fact| disk.facts.remove(&fact));
        }
        if !self.healed && self.random.chance(100) {
            self.crash(at, "crash before report");
            return;
        }
        let logs = self.regions[region].disk.log_states();
        self.laws.starts_over(at);
        self.give(at, Event::SnapshotLoaded { logs });
    }

    /// Whether the world has come to rest, or should have.
    fn looks_done(&mut self) -> bool {
        if !self.healed {
            return false;
        }
        self.tamper();
        if self.now > FAULTS_LAST_MS + BUSY_AT_LEAST_MS && self.snapshots_hold() {
            self.plan.busy = false;
        }
        if self.has_converged() {
            return true;
        }
        let within_ms = self.plan.converges_within_ms;
        if self.now > FAULTS_LAST_MS + within_ms / 2 && self.plan.busy {
            let text = "config is written all the time, and nobody finds that a snapshot holds".to_owned();
            self.laws.broken(Law::AllConverge, text);
            return true;
        }
        if self.now > FAULTS_LAST_MS + within_ms {
            let left = self.regions.iter().enumerate().filter(|(number, _)| self.may_run(*number));
            let vector = |region: &Region| heads(&region.disk).map(|(log, seq)| (log.to_string(), seq)).collect();
            let vectors: Vec<(String, BTreeMap<String, u64>)> =
                left.map(|(_, region)| (region.name.to_string(), vector(region))).collect();
            let text = format!("not all is the same {within_ms} ms after healing: {vectors:?}");
            self.laws.broken(Law::AllConverge, text);
            return true;
        }
        self.schedule(self.now + LOOK_EVERY_MS, Happening::Look);
        false
    }

    fn tamper(&mut self) {
        let whole = self.regions.iter().all(|region| region.restore.is_none());
        if !self.plan.tampers || !whole || self.tampered.is_some() {
            return;
        }
        let left: Vec<usize> = (0..self.regions.len()).filter(|region| self.may_run(*region)).collect();
        let at = left[usize::try_from(self.random.between(0, left.len() as u64)).expect("few")];
        let place = self.regions[at].disk.rows.keys().next().cloned();
        self.tampered = place.map(|(log, seq)| ((at, log, seq), false));
    }

    fn has_converged(&self) -> bool {
        let left: Vec<&Region> =
            self.regions.iter().enumerate().filter(|(number, _)| self.may_run(*number)).map(|(_, r)| r).collect();
        let settled = |region: &Region| {
            region.restore.is_none()
                && region.disk.outbox.is_empty()
                && heads(&region.disk).eq(heads(&left[0].disk))
                && region.disk.heads.iter().all(|(log, head)| region.disk.applied(log) == head.seq)
                && self.keeps_no_more_than_it_should(region)
        };
        let told = if self.plan.tampers { self.tampered.as_ref().is_some_and(|(_, told)| *told) } else { true };
        told && !self.plan.busy && left.iter().all(|region| settled(region))
    }

    /// Every snapshot's rows were found in another region than its giver, where there is one.
    fn snapshots_hold(&self) -> bool {
        let left: Vec<&Region> =
            self.regions.iter().enumerate().filter(|(number, _)| self.may_run(*number)).map(|(_, r)| r).collect();
        left.iter().all(|region| match &region.disk.snapshot_of {
            Some(giver) => !left.iter().any(|other| other.name != region.name && other.name != *giver),
            None => true,
        })
    }

    /// A region that is never heard of again does not keep others from dropping what is old: none that has heard it once. Who
    /// was never heard may have everything, and is waited for until it is given up by an operator, of which there is none here.
    fn keeps_no_more_than_it_should(&self, region: &Region) -> bool {
        let gone = self.regions.iter().filter(|other| other.gone);
        let (heard, unheard): (Vec<&Region>, Vec<&Region>) =
            gone.partition(|gone| region.disk.acks.contains_key(&gone.name));
        unheard.iter().any(|gone| gone.state > Some(MemberState::Joining))
            || region.disk.logs.iter().all(|(log, entries)| {
                let newest = region.disk.head(log).seq;
                let lags = heard.iter().any(|gone| gone.disk.head(log).seq + self.plan.kept_entries < newest);
                !lags || entries.len() as u64 <= self.plan.kept_entries + 1
            })
    }
}

/// An event's name, for the account of what was seen.
fn name_of(event: &Event) -> &'static str {
    match event {
        Event::Connected { .. } => "connected",
        Event::Disconnected { .. } => "disconnected",
        Event::Received { .. } => "received",
        Event::Stored { .. } => "stored",
        Event::StoreFailed { .. } => "store failed",
        Event::Applied { .. } => "applied",
        Event::Numbered { .. } => "numbered",
        Event::Served { .. } => "served",
        Event::Leads { .. } => "leads",
        Event::Follows => "follows",
        Event::Refreshed { .. } => "refreshed",
        Event::Members { .. } => "members",
        Event::Paused(_) => "paused",
        Event::CompareNow => "compare now",
        Event::Truncated { .. } => "truncated",
        Event::SnapshotLoaded { .. } => "snapshot loaded",
        Event::SnapshotFailed => "snapshot failed",
        Event::HeadDiffers { .. } => "head differs",
        Event::HeadAgrees { .. } => "head agrees",
        Event::Diverged(_) => "diverged",
        Event::Answered { .. } => "answered",
        Event::Compared { .. } => "compared",
        Event::Tick => "tick",
    }
}

fn heads(disk: &Disk) -> impl Iterator<Item = (&LogId, u64)> {
    disk.heads.iter().filter(|(_, head)| head.seq > 0).map(|(log, head)| (log, head.seq))
}
