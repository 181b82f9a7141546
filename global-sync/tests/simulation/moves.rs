//! A tenant that moves: handed over by its home, or taken by force with a majority's word, while riders pay.
//!
//! What region-node and the moves do with a database is done to the simulated one here, each in one transaction; regions hear
//! of it by facts alone, in whatever order they come.

use std::collections::BTreeMap;

use global_sync::protocol::{Draft, Entry, Envelope, HomeEpoch, LogId, MemberState, Origin, SALT_BYTES};
use shared::fact::{Fact, FactStream, HeardLedger, TenantMoved};
use uuid::Uuid;

use super::{
    bugs::Bug,
    disk::{Disk, PROMISES_LAST_MS, Waiting},
    faults::FAULTS_LAST_MS,
    random::Random,
    region::INSTANCES,
    world::{Happening, World},
};

/// A payment of the tenant's.
pub(crate) const PAID: &str = "paid";
const MOVED: &str = "tenant.moved";
const TENANT: &str = "cabs";
/// Ids of payments and moves, apart from those of all other facts: nobody tells them twice.
const IDS: u128 = 1 << 64;

/// Whoever stands for a home asks so often, since not everybody hears him at once.
const ASKS: u64 = 8;
const ASKS_EVERY_MS: u64 = 100;

/// A home of the tenant: its region, and its epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) region: String,
    pub(crate) epoch: (u64, u64),
}

/// A payment as it was numbered, and whether a later term had begun here when it came.
#[derive(Clone, Debug)]
struct Paid {
    origin: Origin,
    seq: u64,
    term: u64,
    came_after: bool,
}

/// What a database knows of the tenant.
#[derive(Clone, Default)]
pub(crate) struct Tenant {
    own: String,
    pub(crate) home: Home,
    /// The epoch in which this region was the home until another took it by force.
    lost: Option<(u64, u64)>,
    /// To whom a term was promised last.
    promise: Option<(u64, String)>,
    /// By term: who took the home by force, and what that one had heard of by then.
    takeovers: BTreeMap<u64, (String, HeardLedger)>,
    paid: BTreeMap<Uuid, Paid>,
}

impl Tenant {
    /// At home where the world begins.
    pub(crate) fn known_to(own: &str) -> Self {
        let home = Home { region: "us-east".to_owned(), epoch: (1, 0) };
        Self { own: own.to_owned(), home, ..Self::default() }
    }

    pub(crate) fn is_home(&self) -> bool {
        self.home.region == self.own
    }

    /// A greater epoch wins.
    fn settle(&mut self, home: &Home) {
        if home.epoch <= self.home.epoch {
            return;
        }
        if home.region == self.own {
            self.lost = None;
        } else if self.is_home() {
            self.lost = Some(self.home.epoch);
        }
        self.home = home.clone();
    }

    /// Hands the tenant over, which nobody pays any more by then.
    fn hand_over(&mut self, home: &Home) {
        self.home = home.clone();
        self.lost = None;
    }

    /// Applies an entry that is about the tenant.
    pub(crate) fn apply(&mut self, log: &LogId, envelope: &Envelope, entry: &Entry) {
        if envelope.kind == PAID {
            let term = envelope.home_epoch.map_or(0, |epoch| epoch.term);
            let came_after = self.home.epoch.0 > term;
            let paid = Paid { origin: log.origin.clone(), seq: envelope.seq, term, came_after };
            self.keep_first(envelope.id, paid);
        } else if envelope.kind == MOVED
            && let Ok(Fact::TenantMoved(moved)) = Fact::from_body(MOVED, entry.json().unwrap_or_default())
        {
            let TenantMoved { home_region: region, term, n, heard, .. } = moved;
            if let Some(heard) = heard {
                self.takeovers.insert(term, (region.clone(), heard));
            }
            self.settle(&Home { region, epoch: (term, n) });
        }
    }

    /// Takes in what a snapshot says of homes.
    pub(crate) fn settle_as(&mut self, other: &Self) {
        self.settle(&other.home);
        self.takeovers.extend(other.takeovers.clone());
    }

    /// Takes in those of these facts that are payments.
    pub(crate) fn load<'a>(&mut self, from: &Self, facts: impl Iterator<Item = &'a Uuid>) {
        for fact in facts {
            if let Some(paid) = from.paid.get(fact) {
                self.keep_first(*fact, paid.clone());
            }
        }
    }

    /// What two lives have told is of the first.
    fn keep_first(&mut self, fact: Uuid, told: Paid) {
        let known = self.paid.entry(fact).or_insert_with(|| told.clone());
        if (&told.origin, told.seq) < (&known.origin, known.seq) {
            *known = told;
        }
    }

    /// The first term after this one that began by force, for all that is known here.
    pub(crate) fn taken_after(&self, term: u64) -> Option<u64> {
        self.takeovers.range(term + 1..).next().map(|(term, _)| *term)
    }

    /// Payments, and whether each is late.
    pub(crate) fn late(&self, by_arrival: bool) -> BTreeMap<Uuid, bool> {
        let late = |paid: &Paid| {
            let Some((_, (by, heard))) = self.takeovers.range(paid.term + 1..).next() else { return false };
            let region = paid.origin.region.as_str();
            let heard = heard.get(region).and_then(|lives| lives.get(&paid.origin.incarnation));
            by != region && heard.copied().unwrap_or_default() < paid.seq
        };
        let flagged = |paid: &Paid| if by_arrival { paid.came_after } else { late(paid) };
        self.paid.iter().map(|(fact, paid)| (*fact, flagged(paid))).collect()
    }
}

impl World {
    /// The tenant of some worlds moves. Drawn apart, so that all else is as it would be without.
    pub(super) fn plan_moves(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ 0x6d6f_7665);
        if !random.chance(600) {
            return;
        }
        self.plan.moves = true;
        self.plan.home_dies = Random::new(seed ^ 0x6469_6573).chance(250);
        let count = self.plan.count as u64;
        let a_region = |random: &mut Random| usize::try_from(random.between(0, count)).expect("few");
        for _ in 0..random.between(20, 40) {
            self.schedule(random.between(500, FAULTS_LAST_MS), Happening::Pay);
        }
        for _ in 0..random.between(1, 5) {
            let to = a_region(&mut random);
            self.schedule(random.between(1_000, FAULTS_LAST_MS), Happening::HandOver { to });
        }
        for _ in 0..random.between(1, 4) {
            let at = random.between(1_500, FAULTS_LAST_MS - 1_000);
            // Rivals that have not heard of each other yet.
            for _ in 0..random.between(1, 4) {
                let (by, first) = (a_region(&mut random), at + random.between(0, 100));
                (0..ASKS).for_each(|again| self.schedule(first + again * ASKS_EVERY_MS, Happening::Stand { by }));
            }
        }
    }

    /// Somebody pays wherever the tenant is thought to be at home.
    pub(super) fn pay(&mut self) {
        for region in 0..self.regions.len() {
            let home = self.regions[region].disk.tenant.home.clone();
            if !self.regions[region].disk.tenant.is_home() || self.regions[region].gone {
                continue;
            }
            let commits_at = self.now + self.random.between(0, 400);
            let length = usize::try_from(self.random.between(20, 300)).expect("few");
            let row = self.about_the_tenant(FactStream::Ledger, PAID, home.epoch, vec![7; length]);
            let database = self.regions[region].lost;
            self.schedule(commits_at, Happening::Commit { region, database, row: Box::new(row) });
        }
    }

    fn about_the_tenant(&mut self, stream: FactStream, kind: &str, epoch: (u64, u64), body: Vec<u8>) -> Waiting {
        self.emitted += 1;
        let draft = Draft {
            id: Uuid::from_u128(IDS | u128::from(self.emitted)),
            kind: kind.to_owned(),
            tenant: Some(TENANT.parse().expect("a tenant")),
            home_epoch: Some(HomeEpoch { term: epoch.0, n: epoch.1 }),
            traceparent: None,
            committed_at_ms: 0,
            body: [[1; SALT_BYTES].as_slice(), &body].concat(),
        };
        Waiting { position: self.emitted, stream, draft, newer: false }
    }

    /// Whether a payment commits: where the tenant is at home still, or was until another took it by force.
    pub(super) fn may_pay(&mut self, region: usize, draft: &Draft) -> bool {
        let Some(epoch) = draft.home_epoch.map(|epoch| (epoch.term, epoch.n)) else { return false };
        let tenant = &self.regions[region].disk.tenant;
        let is_home = tenant.is_home() && tenant.home.epoch == epoch;
        let may = is_home || tenant.lost == Some(epoch) || self.has(Bug::HandOverUnfenced);
        if !may || !self.may_run(region) {
            self.saw("payment refused");
            return false;
        }
        self.laws.paid(region, draft.id, epoch);
        true
    }

    /// An instance that may write for its region.
    fn leader_of(&self, region: usize) -> Option<usize> {
        let mut instances = region * INSTANCES..(region + 1) * INSTANCES;
        instances.find(|at| {
            self.instances[*at].runs() && !self.is_frozen(*at) && self.reaches_database(*at) && self.leads(*at)
        })
    }

    fn abstains(&self, region: usize) -> bool {
        self.regions[region].disk.abstains(self.database_clock(region))
    }

    fn tell_moved(&mut self, region: usize, home: &Home, heard: Option<HeardLedger>) {
        let (term, n) = home.epoch;
        let (tenant, name) = (TENANT.to_owned(), String::new());
        let fact = Fact::TenantMoved(TenantMoved { tenant, name, home_region: home.region.clone(), term, n, heard });
        let row = self.about_the_tenant(FactStream::Control, MOVED, home.epoch, fact.to_body());
        self.laws.committed(region, row.draft.id, false);
        self.regions[region].disk.outbox.push(row);
    }

    /// The home hands the tenant over, and tells the new one at once if it can. One that may have forgotten that it has done so
    /// waits until it must have heard of it.
    pub(super) fn hand_over(&mut self, to: usize) {
        let Some(from) = (0..self.regions.len()).find(|region| self.regions[*region].disk.tenant.is_home()) else {
            return;
        };
        let ready = to != from && self.regions[to].state == Some(MemberState::Active) && !self.regions[to].gone;
        if !ready || self.abstains(from) || self.leader_of(from).is_none() {
            return;
        }
        self.saw("tenant handed over");
        let (term, n) = self.regions[from].disk.tenant.home.epoch;
        let home = Home { region: self.regions[to].name.to_string(), epoch: (term, n + 1) };
        self.laws.handed_over((term, n));
        self.regions[from].disk.tenant.hand_over(&home);
        self.tell_moved(from, &home, None);
        if self.network.reachable(from, to) && self.leader_of(to).is_some() {
            self.regions[to].disk.tenant.settle(&home);
            if !self.has(Bug::NewHomeTellsNobody) {
                self.tell_moved(to, &home, None);
            }
            if self.plan.home_dies {
                self.plan.home_dies = false;
                self.saw("home gone after hand-over");
                self.die(from);
            }
        }
    }

    /// A region asks the others to be the home from a later term on, whoever is it now.
    pub(super) fn stand(&mut self, by: usize) {
        let tenant = &self.regions[by].disk.tenant;
        let (home, own) = (tenant.home.clone(), tenant.own.clone());
        let may = !tenant.is_home() && self.regions[by].state == Some(MemberState::Active) && !self.abstains(by);
        if !may || self.leader_of(by).is_none() {
            return;
        }
        let term = match &tenant.promise {
            Some((term, target)) if *term > home.epoch.0 && *target == own => *term,
            promised => promised.as_ref().map_or(0, |(term, _)| *term).max(home.epoch.0) + 1,
        };
        self.regions[by].disk.tenant.promise = Some((term, own.clone()));
        let has_voice = |state| matches!(state, Some(MemberState::Active | MemberState::Draining));
        let voters: Vec<usize> =
            (0..self.regions.len()).filter(|voter| has_voice(self.regions[*voter].state)).collect();
        let mut agreed = 1;
        for voter in voters.iter().copied().filter(|voter| *voter != by) {
            let answers = self.network.reachable(by, voter) && self.leader_of(voter).is_some() && !self.abstains(voter);
            let forgets = self.has(Bug::PromiseForgotten);
            let tenant = &mut self.regions[voter].disk.tenant;
            let promised = tenant.promise.as_ref();
            let outbid = promised.is_some_and(|(last, target)| *last > term || (*last == term && *target != own));
            if answers && tenant.own != home.region && tenant.home.epoch <= home.epoch && !outbid {
                agreed += 1;
                if !forgets {
                    tenant.promise = Some((term, own.clone()));
                }
            }
        }
        if agreed > voters.len() / 2 {
            // A home that is leased is taken when its lease has run out.
            let longest = if self.random.chance(300) { PROMISES_LAST_MS } else { 300 };
            let at = self.now + self.random.between(0, longest);
            self.schedule(at, Happening::Take { by, home: Box::new(home), term });
        }
    }

    /// Takes the home that a majority has agreed to.
    pub(super) fn take(&mut self, by: usize, before: &Home, term: u64) {
        let tenant = &self.regions[by].disk.tenant;
        let promised = tenant.promise.as_ref().is_some_and(|(last, _)| *last == term);
        if tenant.home != *before || !promised || self.leader_of(by).is_none() {
            return;
        }
        self.saw("tenant taken by force");
        let disk = &mut self.regions[by].disk;
        let home = Home { region: disk.tenant.own.clone(), epoch: (term, 0) };
        let (heard, stored) = (heard_by(disk), disk.told());
        disk.tenant.settle(&home);
        disk.tenant.takeovers.insert(term, (home.region.clone(), heard.clone()));
        self.laws.taken(term, by, stored);
        self.tell_moved(by, &home, Some(heard));
    }

    /// In the end every region names the same home and the same late payments.
    pub(super) fn end_moves(&mut self) {
        let left: Vec<usize> = (0..self.regions.len()).filter(|region| self.may_run(*region)).collect();
        for region in left {
            let late = self.regions[region].disk.tenant.late(self.has(Bug::LateByArrival));
            if late.values().any(|late| *late) {
                self.saw("late payment");
            }
            self.laws.moves_ended(&self.regions[region].disk.tenant, &late);
        }
    }
}

/// How much of each region's ledger is stored here.
fn heard_by(disk: &Disk) -> HeardLedger {
    let mut heard = HeardLedger::new();
    for (log, head) in disk.heads.iter().filter(|(log, _)| log.stream == FactStream::Ledger) {
        heard.entry(log.origin.region.to_string()).or_default().insert(log.origin.incarnation, head.seq);
    }
    heard
}
