//! What goes wrong in a world, and when: drawn from the seed before anything happens.

use std::collections::BTreeMap;

use global_sync::protocol::{Draft, Event, LogId, MemberState, SALT_BYTES};
use shared::fact::FactStream;
use uuid::Uuid;

use super::{
    disk::{Disk, POISON, Waiting},
    moves::PAID,
    random::Random,
    region::{CLOCK_AHEAD_MS, INSTANCES, LIMITS, Region},
    world::{Happening, World},
};

pub(super) const FAULTS_LAST_MS: u64 = 9_000;
const CONVERGE_WITHIN_MS: u64 = 30_000;
/// Where a large fact takes every line seconds, and a region that was restored fetches all of them.
const CONVERGE_SLOWLY_WITHIN_MS: u64 = 90_000;
/// Of so many seeds one has seven regions, which take several times as long.
const SEVEN_IN: u64 = 50;
/// A folder that is put back so much later tells that nobody has led it for long: longer than a lease and a restart take.
const UNLED_AFTER_MS: u64 = 5_100;
/// A region that joins or leaves is looked at this often; who has not left by then is told to leave once more.
const SETTLE_EVERY_MS: u64 = 200;
const LEAVES_WITHIN_MS: u64 = 1_000;
/// Where config is written all the time: how often, how much of it is kept, and since when a region hears none of it.
const EDITED_EVERY_MS: u64 = 60;
const EDIT_BYTES: u64 = 20;
const BUSY_KEPT_ENTRIES: u64 = 50;
const BUSY_CUT_OFF_AT_MS: u64 = 1_500;
/// Slower than a batch is ever given time for, and slower than the slowest transaction before the database went away.
const AWAY_AT_LEAST_MS: u64 = 1_600;

/// What a world is like.
#[derive(Clone, Copy, Default)]
pub(crate) struct Plan {
    pub(super) count: usize,
    /// The region that joins while the others run.
    joins: Option<usize>,
    /// Of a thousand facts, so many are large, and how large.
    large: u64,
    large_bytes: u64,
    /// All is the same so long after the last fault.
    pub(super) converges_within_ms: u64,
    /// Whether some databases are put back from copies.
    pub(super) loses: bool,
    pub(super) tampers: bool,
    /// Whether a database misreads the hash of an entry that it is asked to compare.
    pub(super) misreads: bool,
    /// Whether the tenant moves.
    pub(super) moves: bool,
    /// Whether its home dies with the next hand-over that the new home alone has heard of.
    pub(super) home_dies: bool,
    /// Whether config is written everywhere all the time, until what snapshots brought is found to hold.
    pub(super) busy: bool,
    pub(super) kept_entries: u64,
}

impl Plan {
    pub(super) fn draw(random: &mut Random, seed: u64) -> Self {
        let few = usize::try_from(random.between(3, 6)).expect("few");
        let count = if seed % SEVEN_IN == SEVEN_IN - 1 { 7 } else { few };
        Self {
            count,
            joins: (count > 3 && random.chance(250)).then_some(count - 1),
            large: 20,
            large_bytes: 70_000,
            converges_within_ms: CONVERGE_WITHIN_MS,
            loses: random.chance(400),
            tampers: false,
            misreads: false,
            moves: false,
            home_dies: false,
            busy: false,
            kept_entries: LIMITS.kept_entries,
        }
    }

    pub(super) fn regions(&self) -> Vec<Region> {
        let names = ["us-east", "eu-west", "ap-south", "sa-east", "af-south", "me-central", "ap-north"];
        let state = |number| if self.joins == Some(number) { None } else { Some(MemberState::Active) };
        names[..self.count].iter().enumerate().map(|(number, name)| Region::new(name, state(number))).collect()
    }
}

impl World {
    /// Every line is slower than a large fact takes until its source is given up.
    pub(crate) fn with_slow_lines(mut self) -> Self {
        (self.plan.large, self.plan.large_bytes) = (200, 200_000);
        self.plan.converges_within_ms = CONVERGE_SLOWLY_WITHIN_MS;
        for from in 0..self.regions.len() {
            for to in 0..self.regions.len() {
                let bytes_a_second = self.random.between(80_000, 120_000);
                self.network.bandwidth.insert((from, to), bytes_a_second);
            }
        }
        self
    }

    /// Config is written in every region all the time, and one of them is cut off for so long that it needs a snapshot.
    pub(crate) fn with_busy_config(mut self) -> Self {
        self.plan.busy = true;
        (self.plan.kept_entries, self.plan.converges_within_ms) = (BUSY_KEPT_ENTRIES, CONVERGE_SLOWLY_WITHIN_MS);
        for region in 0..self.regions.len() {
            self.schedule(0, Happening::Edit { region });
        }
        for other in 1..self.regions.len() {
            self.schedule(BUSY_CUT_OFF_AT_MS, Happening::Cut { from: 0, to: other });
            self.schedule(BUSY_CUT_OFF_AT_MS, Happening::Cut { from: other, to: 0 });
        }
        self
    }

    /// A region's folder is put back long after, as it was, and another is never heard of again. It lacks nothing, which only
    /// that one could deny.
    pub(crate) fn with_a_region_in_doubt(mut self) -> Self {
        let (region, lost) = (0, 1_000);
        self.schedule(900, Happening::Die { region: 1 });
        self.schedule(lost, Happening::Backup { region });
        let back_after = Some(UNLED_AFTER_MS);
        self.schedule(lost, Happening::Lose { region, processes_too: true, as_it_lay: true, back_after });
        self.schedule(lost + UNLED_AFTER_MS + 1_000, Happening::Emit { region, burst: 1 });
        self
    }

    pub(super) fn plan_faults(&mut self) {
        let count = self.plan.count;
        for region in 0..count {
            for at in region * INSTANCES..(region + 1) * INSTANCES {
                self.sometime(0, 400, Happening::Start { at });
                for _ in 0..self.random.between(0, 3) {
                    self.sometime(500, FAULTS_LAST_MS, Happening::Crash { at });
                }
                if self.random.chance(300) {
                    let (begins, ends) = self.span(500, 4_500);
                    self.schedule(begins, Happening::Freeze { at, until: ends });
                }
                if self.random.chance(200) {
                    let (begins, ends) = self.span(500, 5_000);
                    self.schedule(begins, Happening::CutOff { at, until: ends });
                }
            }
            for _ in 0..self.random.between(5, 30) {
                self.sometime(0, FAULTS_LAST_MS, Happening::Emit { region, burst: 1 });
            }
            if self.random.chance(150) {
                let (begins, until) = self.span(500, 3_000);
                self.schedule(begins, Happening::Slow { region, until });
            }
            if self.random.chance(100) {
                let (begins, until) = self.span(300, 2_000);
                self.schedule(begins, Happening::Full { region, until });
            }
        }
        for from in 0..count {
            for to in 0..count {
                if self.random.chance(250) {
                    let bytes_a_second = self.random.between(60_000, 300_000);
                    self.network.bandwidth.insert((from, to), bytes_a_second);
                }
            }
        }
        if self.random.chance(100) {
            let (region, burst) = (self.a_region(), 40);
            self.sometime(500, FAULTS_LAST_MS, Happening::Emit { region, burst });
        }
        self.plan_losses();
        self.plan_cuts();
        self.plan_members();
        self.schedule(FAULTS_LAST_MS, Happening::Heal);
    }

    /// Operators of some worlds pause streams, let them go on, and have everything compared; one of their databases misreads an
    /// entry's hash once. Drawn apart, so that all else is as it would be without.
    pub(super) fn plan_operators(&mut self, seed: u64) {
        let mut random = Random::new(!seed);
        if !random.chance(250) {
            return;
        }
        let count = self.plan.count as u64;
        let number = |drawn: u64| usize::try_from(drawn).expect("few");
        for _ in 0..random.between(1, 4) {
            let region = random.between(0, count);
            let (peer, region) = (number((region + random.between(1, count)) % count), number(region));
            let stream = FactStream::ALL[number(random.between(0, 3))];
            let begins = random.between(500, FAULTS_LAST_MS);
            let ends = begins + random.between(500, 4_000);
            self.schedule(begins, Happening::Pause { region, peer, stream });
            self.schedule(ends, Happening::Resume { region, peer, stream });
            self.schedule(random.between(begins, ends), Happening::CompareNow { region });
        }
        self.plan.misreads = !self.plan.loses && random.chance(500);
    }

    /// The clocks of some databases are put forward, or back. Drawn apart, too.
    pub(super) fn plan_clocks(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ 0x636c_6f63);
        if !random.chance(200) {
            return;
        }
        // Nothing tells a folder that was put back as it lay where the clock goes back by as much.
        let (steps, least_ms) = if self.plan.loses { (1, CLOCK_AHEAD_MS) } else { (random.between(1, 4), 0) };
        for _ in 0..steps {
            let region = usize::try_from(random.between(0, self.plan.count as u64)).expect("few");
            let ahead_ms = random.between(least_ms, 2 * CLOCK_AHEAD_MS);
            self.schedule(random.between(500, FAULTS_LAST_MS), Happening::StepClock { region, ahead_ms });
        }
    }

    /// Databases that come back as they were a while or just a moment ago, with or without the processes on them.
    fn plan_losses(&mut self) {
        if !self.plan.loses {
            return;
        }
        for _ in 0..self.random.between(1, 3) {
            let region = self.a_region();
            let lost = self.random.between(1_000, FAULTS_LAST_MS);
            let age = if self.random.chance(500) { 300 } else { lost };
            let backup = lost - self.random.between(20, age);
            let (processes_too, as_it_lay) = (self.random.chance(500), self.random.chance(500));
            self.schedule(backup, Happening::Backup { region });
            self.schedule(lost, Happening::Lose { region, processes_too, as_it_lay, back_after: None });
        }
    }

    fn plan_cuts(&mut self) {
        for _ in 0..self.random.between(0, 8) {
            let from = self.a_region();
            let others = self.plan.count as u64;
            let to = (from + usize::try_from(self.random.between(1, others)).expect("few")) % self.plan.count;
            let both_ways = self.random.chance(400);
            let (begins, ends) = self.span(200, 6_000);
            self.schedule(begins, Happening::Cut { from, to });
            self.schedule(ends, Happening::Mend { from, to });
            if both_ways {
                self.schedule(begins, Happening::Cut { from: to, to: from });
                self.schedule(ends, Happening::Mend { from: to, to: from });
            }
        }
    }

    fn plan_members(&mut self) {
        if let Some(region) = self.plan.joins {
            self.sometime(1_000, 5_000, Happening::Join { region });
        }
        if self.random.chance(200) {
            let region = self.a_region();
            self.sometime(2_000, 8_000, Happening::Die { region });
        }
        if self.plan.count > 3 && self.random.chance(200) {
            let region = self.a_region();
            self.sometime(2_000, 7_000, Happening::Drain { region });
        }
    }

    fn sometime(&mut self, from: u64, to: u64, happening: Happening) {
        let at = self.random.between(from, to);
        self.schedule(at, happening);
    }

    fn span(&mut self, shortest: u64, longest: u64) -> (u64, u64) {
        let begins = self.random.between(0, FAULTS_LAST_MS);
        (begins, begins + self.random.between(shortest, longest))
    }

    fn a_region(&mut self) -> usize {
        usize::try_from(self.random.between(0, self.plan.count as u64)).expect("few")
    }

    /// Something happens to a region, its people or its database.
    pub(super) fn suffer(&mut self, happening: Happening) {
        match happening {
            Happening::Crash { at } if !self.healed && self.instances[at].runs() => self.crash(at, "crash"),
            Happening::Freeze { at, until } if !self.healed && self.instances[at].runs() => {
                self.saw("freeze");
                self.instances[at].frozen_until = until.min(FAULTS_LAST_MS);
            }
            Happening::CutOff { at, until } => {
                self.saw("instance without database");
                self.instances[at].away_until = until.min(FAULTS_LAST_MS);
            }
            Happening::Slow { region, until } => self.regions[region].slow_until = until.min(FAULTS_LAST_MS),
            Happening::Full { region, until } => self.regions[region].full_until = until.min(FAULTS_LAST_MS),
            Happening::Emit { region, burst } => self.emit(region, burst),
            Happening::Edit { region } => self.edit(region),
            Happening::Commit { region, database, row } => self.commit(region, database, *row),
            // A database that is lost already is not copied any more.
            Happening::Backup { region } if self.regions[region].restore.is_none() => {
                let copy = self.regions[region].disk.clone();
                self.backups.insert(region, copy);
            }
            Happening::Lose { region, processes_too, as_it_lay, back_after } => {
                self.lose(region, processes_too, as_it_lay, back_after);
            }
            Happening::Back { region, as_it_lay } => self.come_back(region, as_it_lay),
            Happening::Die { region } => self.die(region),
            Happening::Join { region } => self.join(region),
            Happening::Drain { region } => self.drain(region),
            Happening::Settle { region } => self.settle(region),
            Happening::Pause { region, peer, stream } if !self.healed => {
                let peer = self.regions[peer].name.clone();
                self.regions[region].paused.insert((peer, stream));
            }
            Happening::Resume { region, peer, stream } => {
                let peer = self.regions[peer].name.clone();
                self.regions[region].paused.remove(&(peer, stream));
            }
            // The leader carries operators' commands out.
            Happening::CompareNow { region } => {
                let mut instances = region * INSTANCES..(region + 1) * INSTANCES;
                if let Some(at) = instances.find(|at| self.instances[*at].fence.is_some() && !self.is_frozen(*at)) {
                    self.give(at, Event::CompareNow);
                }
            }
            Happening::Pay => self.pay(),
            Happening::HandOver { to } => self.hand_over(to),
            Happening::Stand { by } => self.stand(by),
            Happening::Take { by, home, term } => self.take(by, &home, term),
            Happening::Cut { from, to } if !self.healed => {
                if !self.network.cut.contains(&(to, from)) {
                    self.saw("cut one way");
                }
                self.network.cut.insert((from, to));
            }
            Happening::Mend { from, to } => {
                self.network.cut.remove(&(from, to));
            }
            Happening::StepClock { region, ahead_ms } => {
                let before = std::mem::replace(&mut self.regions[region].clock_ahead_ms, ahead_ms);
                self.saw(if ahead_ms > before { "clock put forward" } else { "clock put back" });
            }
            Happening::Heal => self.heal(),
            _ => {}
        }
    }

    /// Facts are written by transactions that begin in one order and commit in another.
    fn emit(&mut self, region: usize, burst: u64) {
        if self.regions[region].state != Some(MemberState::Active) || self.regions[region].gone {
            return;
        }
        let stream = FactStream::ALL[usize::try_from(self.random.between(0, 3)).expect("three")];
        for _ in 0..burst {
            self.emitted += 1;
            // Settled again after a restart, a fact is the same.
            let again = self.emitted > 1 && self.random.chance(30);
            let number = if again { self.random.between(1, self.emitted) } else { self.emitted };
            let at = self.now + self.random.between(0, 80);
            let drawn = if burst > 1 { 30_000 } else { self.a_length() };
            let length = *self.lengths.entry(number).or_insert(drawn);
            self.begin_transaction(region, stream, number, length, at);
            // A mistake elsewhere may tell another one under its id.
            if !again && !self.plan.loses && self.random.chance(20) {
                self.emitted += 1;
                self.begin_transaction(region, stream, number, 77, at);
            }
        }
    }

    /// Somebody edits config again and again.
    fn edit(&mut self, region: usize) {
        if !self.plan.busy {
            return;
        }
        self.schedule(self.now + EDITED_EVERY_MS, Happening::Edit { region });
        if self.regions[region].state == Some(MemberState::Active) && !self.regions[region].gone {
            self.emitted += 1;
            // Told again after a restart, it says the same.
            self.lengths.insert(self.emitted, EDIT_BYTES);
            let at = self.now + self.random.between(0, EDITED_EVERY_MS);
            self.begin_transaction(region, FactStream::Config, self.emitted, EDIT_BYTES, at);
        }
    }

    fn a_length(&mut self) -> u64 {
        let large = self.random.chance(self.plan.large);
        if large { self.plan.large_bytes } else { self.random.between(20, 300) }
    }

    fn begin_transaction(&mut self, region: usize, stream: FactStream, number: u64, length: u64, commits_at: u64) {
        let salt = [u8::try_from(number % 256).expect("a byte"); SALT_BYTES];
        let draft = Draft {
            id: Uuid::from_u128(u128::from(number)),
            kind: if number.is_multiple_of(41) { POISON } else { "simulated" }.to_owned(),
            tenant: None,
            home_epoch: None,
            traceparent: None,
            committed_at_ms: 0,
            body: [salt.as_slice(), &vec![7; usize::try_from(length).expect("small")]].concat(),
        };
        let newer = self.random.chance(200);
        let row = Box::new(Waiting { position: self.emitted, stream, draft, newer });
        let database = self.regions[region].lost;
        self.schedule(commits_at, Happening::Commit { region, database, row });
    }

    fn commit(&mut self, region: usize, database: u64, row: Waiting) {
        let away = self.regions[region].away_until > self.now || self.regions[region].gone;
        if away || self.regions[region].lost != database {
            return;
        }
        if row.draft.kind == PAID && !self.may_pay(region, &row.draft) {
            return;
        }
        self.laws.committed(region, row.draft.id, row.draft.kind == POISON);
        self.regions[region].disk.outbox.push(row);
    }

    /// A region loses its database; a copy takes its place after a while. It is promoted, or restored to a point in time, and
    /// says so by its timeline; or its folder is put back as it lay, which nothing in it says but a lease that ran out long
    /// ago.
    fn lose(&mut self, region: usize, processes_too: bool, as_it_lay: bool, back_after: Option<u64>) {
        let away = self.regions[region].away_until > self.now;
        let Some(copy) = self.backups.remove(&region).filter(|_| !away && self.may_run(region)) else { return };
        self.saw(if processes_too { "disk lost" } else { "disk replaced under running processes" });
        let back = self.now + back_after.unwrap_or_else(|| self.random.between(AWAY_AT_LEAST_MS, 4_000));
        let as_it_lay = as_it_lay && copy.is_unled(back + self.regions[region].clock_ahead_ms);
        self.regions[region].away_until = back;
        self.regions[region].restore = Some(copy);
        for at in region * INSTANCES..(region + 1) * INSTANCES {
            if processes_too && self.instances[at].runs() {
                self.crash(at, "crash");
            }
        }
        self.schedule(back, Happening::Back { region, as_it_lay });
    }

    fn come_back(&mut self, region: usize, as_it_lay: bool) {
        let ours = &mut self.regions[region];
        let Some(copy) = ours.restore.take() else { return };
        let had = std::mem::replace(&mut ours.disk, copy);
        (ours.lost, ours.leaves) = (ours.lost + 1, None);
        if as_it_lay {
            self.saw("disk put back as it lay");
        } else {
            ours.disk.timeline = had.timeline + 1;
        }
        self.laws.disk_lost(region, &self.regions, &had, as_it_lay);
    }

    /// A region is never heard of again.
    pub(super) fn die(&mut self, region: usize) {
        if self.may_run(region) && self.regions[region].restore.is_none() {
            self.saw("region gone");
            self.regions[region].gone = true;
            self.stop_for_good(region);
        }
    }

    fn stop_for_good(&mut self, region: usize) {
        for at in region * INSTANCES..(region + 1) * INSTANCES {
            self.stop(at, "stop");
        }
    }

    fn join(&mut self, region: usize) {
        self.saw("join");
        self.regions[region].state = Some(MemberState::Joining);
        for at in region * INSTANCES..(region + 1) * INSTANCES {
            self.schedule(self.now, Happening::Start { at });
        }
        self.schedule(self.now + SETTLE_EVERY_MS, Happening::Settle { region });
    }

    fn drain(&mut self, region: usize) {
        if self.may_run(region) && self.regions[region].state == Some(MemberState::Active) {
            self.saw("drain");
            self.regions[region].state = Some(MemberState::Draining);
            self.schedule(self.now + SETTLE_EVERY_MS, Happening::Settle { region });
        }
    }

    /// A region that joins becomes a member once it has what some other has, and what a snapshot brought is found to hold; one
    /// that leaves is retired once all others have what it said, and what it had of others when it was told to leave.
    fn settle(&mut self, region: usize) {
        let ours = &self.regions[region];
        let has = |disk: &Disk, of: &Disk| of.heads.iter().all(|(log, head)| disk.head(log).seq >= head.seq);
        let mut others = self.regions.iter().filter(|other| {
            other.name != ours.name && !other.gone && other.state.is_some_and(|state| state < MemberState::Retired)
        });
        let state = ours.state;
        match state {
            Some(MemberState::Joining)
                if ours.disk.snapshot_of.is_none() && others.any(|other| has(&ours.disk, &other.disk)) =>
            {
                self.saw("joined");
                self.regions[region].state = Some(MemberState::Active);
                self.regions[region].joined_at = self.now;
                return;
            }
            Some(MemberState::Draining)
                if ours.restore.is_none()
                    && ours.disk.outbox.is_empty()
                    && !(self.plan.moves && ours.disk.tenant.is_home()) =>
            {
                let leaves = ours.leaves.as_ref().filter(|(since, _)| self.now < since + LEAVES_WITHIN_MS);
                let told = |other: &Region, had: &BTreeMap<LogId, u64>| {
                    let has = |(log, seq): (&LogId, u64)| other.disk.head(log).seq >= seq;
                    let said = ours.disk.heads.iter().filter(|(log, _)| log.origin.region == ours.name);
                    other.restore.is_none()
                        && said.map(|(log, head)| (log, head.seq)).all(has)
                        && had.iter().map(|(log, seq)| (log, *seq)).all(has)
                };
                let everything = leaves.is_some_and(|(_, had)| others.all(|other| told(other, had)));
                if leaves.is_none() {
                    let had = ours.disk.heads.iter().map(|(log, head)| (log.clone(), head.seq)).collect();
                    self.regions[region].leaves = Some((self.now, had));
                } else if everything && !ours.gone {
                    self.saw("retired");
                    self.regions[region].state = Some(MemberState::Retired);
                    self.stop_for_good(region);
                    return;
                }
            }
            _ => {}
        }
        if !self.regions[region].gone && self.now < FAULTS_LAST_MS {
            self.schedule(self.now + SETTLE_EVERY_MS, Happening::Settle { region });
        }
    }

    /// From now on nothing goes wrong any more, nothing is paused, and what runs is of this version.
    fn heal(&mut self) {
        self.healed = true;
        self.network.cut.clear();
        self.regions.iter_mut().for_each(|region| region.paused.clear());
        for at in 0..self.instances.len() {
            if self.instances[at].is_old() {
                self.start_over(at, "upgrade");
            }
            self.schedule(self.now + 1, Happening::Start { at });
        }
        self.schedule(self.now + 200, Happening::Look);
    }
}
