//! What must hold whatever happens. Each law is looked at as soon as it could be broken, and the first breach ends the run.
//!
//! The laws know more than any region does: all that was ever committed, what every number stands for, whose disk was lost.
//! They only look on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use global_sync::protocol::{ConnectionId, Entry, Envelope, Hash, Head, LogId, MAX_BATCH_BYTES, MemberState, hash_of};
use shared::{fact::FactStream, ids::RegionName};
use uuid::Uuid;

use super::{
    disk::{Disk, LEASE_MS, envelope},
    moves::{Home, Tenant},
    region::{INSTANCES, LIMITS, Region},
};

/// For so long a region may not know that its database was put back, or another that it is a member.
const NOTICED_WITHIN_MS: u64 = 4_000;

/// A law, by the name it is reported with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Law {
    /// No number of a log is given to two entries, unless its region's database was put back as it lay and all disks that
    /// knew of the first are lost.
    NumbersAreGivenOnce,
    /// A row of the outbox becomes one entry, unless it came back with an old copy of the database.
    RowsAreNumberedOnce,
    /// Nothing is numbered in a life of a region that is over.
    OldLivesAreOver,
    /// Only the lease's holder numbers, applies, drops and loads.
    OnlyTheLeaderWrites,
    /// The lease is taken from nobody before it has run out by the database's clock.
    LeasesAreHonoured,
    /// What is stored is what its origin wrote, in order, without a gap and whole.
    CopiesAreTrue,
    /// What a region says it has is on its disk.
    AcknowledgedIsDurable,
    /// No more waits to be stored than was granted and what a source given up had under way.
    WhatWaitsIsBounded,
    /// No more is sent than was granted, and the rest of what was signed as one: of a batch, where it came as one.
    CreditIsKept,
    /// An instance asks one peer at a time for a log.
    OneFetcher,
    /// No entry is dropped that a member lacks, unless it was given up on or has lost its disk since; nor the newest one.
    NothingNeededIsDropped,
    /// Every fact that was committed is in every region in the end, unless only lost disks had it, and disks of regions that
    /// are gone or have left.
    NothingIsLost,
    /// A fact counts once, and says what it said first.
    FactsCountOnce,
    /// One region alone writes in an epoch of a tenant, and nothing once it was handed over; one alone takes a term by force.
    OneHomeWrites,
    /// In the end every region names the same home of a tenant, and as late exactly the payments that whoever took it by force
    /// had not stored by then.
    MovesEndAlike,
    /// Nobody has to tell of damage, but of what was altered on its way or tampered with.
    NothingIsDamaged,
    /// An entry that is found to be another one is told of.
    DifferencesAreTold,
    /// No entry goes where an instance knows its operators want none to go.
    PausesAreKept,
    /// A new life is begun only by a region that may have lost its disk.
    NoNeedlessLife,
    /// Once the world has healed, all that are left soon have the same, keep no more than they should, have told of what was
    /// tampered with, and have found what snapshots brought in another region, although config is written all the while.
    AllConverge,
}

/// A law was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    pub(crate) law: Law,
    at_ms: u64,
    text: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} ms: {}", self.law, self.at_ms, self.text)
    }
}

/// One end of a connection: whose core, and which connection.
pub(crate) type End = (usize, ConnectionId);

#[derive(Default)]
pub(crate) struct Laws {
    pub(crate) now_ms: u64,
    pub(crate) breach: Option<Breach>,
    /// The one true hash of every entry ever numbered.
    truth: BTreeMap<(LogId, u64), Hash>,
    /// Every fact that was committed, and whether it cannot be applied.
    committed: BTreeMap<Uuid, bool>,
    /// By region and fact: rows committed to the outbox, and entries made of them.
    rows: BTreeMap<(usize, Uuid), (u32, u32)>,
    /// What each fact said when it was first numbered.
    bodies: BTreeMap<Uuid, Hash>,
    /// Facts that were on lost disks, and nowhere else but in regions that have left.
    lost: BTreeSet<Uuid>,
    /// Regions whose database was put back as it lay: they number on where it ends once everybody was asked, and whoever is
    /// asked answers with what is on its disk.
    put_back: BTreeSet<RegionName>,
    /// Entries of such a region that were on lost disks and nowhere else: they have never been, on their way or waiting to be
    /// stored neither. Nothing in the folder tells it from one that nobody has led for long, so the region can only ask, and
    /// nobody speaks of what it has not stored. It is kept off until what was on its way is stored or gone, as operators are
    /// told to.
    forgotten: BTreeSet<Hash>,
    /// Regions that had everything once and came back with less, and when.
    restored: BTreeMap<usize, u64>,
    /// Of those, the ones of which an instance has spoken of what they had before, since it could not know better, and when.
    spoke_of_before: BTreeMap<usize, u64>,
    /// Members that an instance waits for no more.
    given_up: BTreeSet<(usize, usize)>,
    /// By who asks: bytes granted to and sent for one pull.
    pulls: BTreeMap<(End, LogId, u64), (u64, u64)>,
    /// Whom an instance asks for a log.
    asked: BTreeMap<(usize, LogId), ConnectionId>,
    /// Who paid in which epoch of the tenant, and which epochs were handed over.
    writers: BTreeMap<(u64, u64), usize>,
    handed_over: BTreeSet<(u64, u64)>,
    /// Where each payment was committed, and in which term.
    paid: BTreeMap<Uuid, (usize, u64)>,
    /// Who took a term by force, and the facts that one had stored.
    taken: BTreeMap<u64, (usize, BTreeSet<Uuid>)>,
    /// The tenant's home, as the first region that was asked in the end has it.
    home: Option<Home>,
}

impl Laws {
    pub(crate) fn broken(&mut self, law: Law, text: String) {
        if self.breach.is_none() {
            self.breach = Some(Breach { law, at_ms: self.now_ms, text });
        }
    }

    pub(crate) fn committed(&mut self, region: usize, fact: Uuid, is_poison: bool) {
        self.committed.insert(fact, is_poison);
        self.rows.entry((region, fact)).or_default().0 += 1;
    }

    pub(crate) fn numbered(&mut self, region: usize, log: &LogId, disk: &Disk, known: u64, life_over: bool) {
        if life_over {
            self.broken(Law::OldLivesAreOver, format!("{log} grows, and a later life has begun"));
        }
        for (entry, head) in disk.after(log, known) {
            let Envelope { id, body_hash, .. } = envelope(entry);
            self.bodies.entry(id).or_insert(body_hash);
            let (committed, numbered) = self.rows.entry((region, id)).or_default();
            *numbered += 1;
            if *numbered > *committed && !self.restored.contains_key(&region) {
                self.broken(Law::RowsAreNumberedOnce, format!("{log} {} is a row that was numbered before", head.seq));
            }
            self.forgotten.remove(&head.hash);
            if self.truth.insert((log.clone(), head.seq), head.hash).is_some() {
                self.broken(Law::NumbersAreGivenOnce, format!("{log} number {} was given twice", head.seq));
            }
        }
    }

    pub(crate) fn wrote(&mut self, what: &str, leads: bool) {
        if !leads {
            self.broken(Law::OnlyTheLeaderWrites, format!("somebody else leads, and this was done: {what}"));
        }
    }

    /// By the database's clock: one that lasts longer than any is from before that was put back.
    pub(crate) fn lease_taken(&mut self, clock_ms: u64, ended_ms: u64) {
        if clock_ms <= ended_ms && ended_ms <= clock_ms + LEASE_MS {
            self.broken(
                Law::LeasesAreHonoured,
                format!("a lease was taken at {clock_ms} ms that ends at {ended_ms} ms"),
            );
        }
    }

    pub(crate) fn is_true(&self, log: &LogId, head: Head) -> bool {
        self.truth.get(&(log.clone(), head.seq)) == Some(&head.hash)
    }

    /// Whether an entry has never been, for all that anybody can know.
    pub(crate) fn is_forgotten(&self, entry: &Entry) -> bool {
        !self.forgotten.is_empty() && self.forgotten.contains(&hash_of(&entry.envelope))
    }

    /// A region has stored what comes after `known`.
    pub(crate) fn stored(&mut self, region: &Region, log: &LogId, known: u64) {
        let wrong = (known + 1..).zip(region.disk.after(log, known)).find(|(expected, (entry, head))| {
            let envelope = envelope(entry);
            let whole = entry.body.as_ref().is_some_and(|body| envelope.check_body(body).is_ok());
            head.seq != *expected || !self.is_true(log, *head) || !whole
        });
        let wrong = wrong.map(|(expected, _)| expected);
        let again = region.disk.logs.get(log).into_iter().flatten().any({
            let mut last = 0;
            move |(_, head)| head.seq <= std::mem::replace(&mut last, head.seq)
        });
        if let Some(seq) = wrong.or(again.then_some(known)) {
            self.broken(Law::CopiesAreTrue, format!("{} stored something else as {log} {seq}", region.name));
        }
    }

    /// An instance that was cut off from its region's database while that was put back speaks of what it had.
    pub(crate) fn speaks_of_before(&mut self, region: usize) {
        self.spoke_of_before.insert(region, self.now_ms);
    }

    /// Whether a region's database was put back so lately that its instances may still speak of what it had, or one that was
    /// cut off from it has.
    pub(crate) fn may_not_know(&self, region: usize) -> bool {
        let lately =
            |times: &BTreeMap<usize, u64>| times.get(&region).is_some_and(|at| self.now_ms < at + NOTICED_WITHIN_MS);
        lately(&self.restored) || lately(&self.spoke_of_before)
    }

    pub(crate) fn acknowledged(&mut self, (number, peer): (usize, &Region), log: &LogId, head: Head) {
        if !self.may_not_know(number) && peer.disk.head(log).seq < head.seq {
            let text = format!("{} acknowledged {log} {} without having it", peer.name, head.seq);
            self.broken(Law::AcknowledgedIsDurable, text);
        }
    }

    pub(crate) fn waits_to_be_stored(&mut self, bytes: u64) {
        if bytes > LIMITS.pull_credit_bytes + 2 * MAX_BATCH_BYTES {
            self.broken(Law::WhatWaitsIsBounded, format!("{bytes} bytes wait to be stored"));
        }
    }

    /// An instance has asked a peer for a log; no bytes are an end to it.
    pub(crate) fn asked(&mut self, (instance, conn): End, log: &LogId, bytes: u64) {
        let place = (instance, log.clone());
        if bytes == 0 {
            self.asked.remove(&place);
            return;
        }
        if self.asked.insert(place, conn).is_some_and(|before| before != conn) {
            self.broken(Law::OneFetcher, format!("{log} is asked for twice by one instance"));
        }
    }

    /// What was granted has arrived at whoever was asked.
    pub(crate) fn granted(&mut self, asker: End, log: &LogId, pull: u64, bytes: u64) {
        self.pulls.entry((asker, log.clone(), pull)).or_default().0 += bytes;
    }

    /// Bytes of entries go to whoever asked.
    pub(crate) fn sent(&mut self, asker: End, log: &LogId, pull: u64, bytes: u64, longest_entry: u64) {
        let (granted, sent) = self.pulls.entry((asker, log.clone(), pull)).or_default();
        *sent += bytes;
        let (granted, sent) = (*granted, *sent);
        if sent > granted + MAX_BATCH_BYTES + longest_entry {
            self.broken(Law::CreditIsKept, format!("{sent} bytes of {log} were sent, {granted} granted"));
        }
    }

    /// Entries of a log are to be read for a peer.
    pub(crate) fn serves(&mut self, paused: &BTreeSet<(RegionName, FactStream)>, peer: RegionName, log: &LogId) {
        let paused = !paused.is_empty() && paused.contains(&(peer.clone(), log.stream));
        if paused {
            self.broken(Law::PausesAreKept, format!("{peer} is served {log}, which is paused"));
        }
    }

    pub(crate) fn disconnected(&mut self, instance: usize, conn: ConnectionId) {
        self.asked.retain(|(who, _), of| *who != instance || *of != conn);
    }

    /// An instance begins, or is told that it leads or does not: what it asked for before is void.
    pub(crate) fn starts_over(&mut self, instance: usize) {
        self.asked.retain(|(who, _), _| *who != instance);
    }

    /// An instance that starts knows of nobody it has given up on.
    pub(crate) fn starts(&mut self, instance: usize) {
        self.given_up.retain(|(at, _)| *at != instance);
        self.starts_over(instance);
    }

    pub(crate) fn gives_up_on(&mut self, instance: usize, peer: usize) {
        self.given_up.insert((instance, peer));
    }

    /// An instance drops entries of its region up to this one.
    pub(crate) fn drops(&mut self, instance: usize, regions: &[Region], log: &LogId, upto: u64) {
        let region = instance / INSTANCES;
        if upto >= regions[region].disk.head(log).seq {
            self.broken(Law::NothingNeededIsDropped, format!("the newest entry of {log} is dropped"));
            return;
        }
        for (other, peer) in regions.iter().enumerate() {
            let excused = other == region
                || self.restored.contains_key(&other)
                || self.given_up.contains(&(instance, other))
                || (peer.joined_at > 0 && self.now_ms < peer.joined_at + NOTICED_WITHIN_MS)
                || matches!(peer.state, None | Some(MemberState::Joining | MemberState::Retired));
            if !excused && peer.disk.head(log).seq < upto {
                let text = format!("{log} {upto} is dropped, and {} lacks it", peer.name);
                self.broken(Law::NothingNeededIsDropped, text);
                return;
            }
        }
    }

    /// A region has applied a log from after `known`.
    pub(crate) fn applied(&mut self, disk: &Disk, log: &LogId, known: u64) {
        let places = (log.clone(), known + 1)..=(log.clone(), u64::MAX);
        for (_, fact) in disk.rows.range(places) {
            let Some(counted) = disk.facts.get(fact) else { continue };
            if counted.times != 1 || self.bodies.get(fact) != Some(&counted.body) {
                self.broken(
                    Law::FactsCountOnce,
                    format!("{fact} counts {} times or says another thing", counted.times),
                );
                return;
            }
        }
    }

    /// A region's database has been put back.
    pub(crate) fn disk_lost(&mut self, region: usize, regions: &[Region], had: &Disk, as_it_lay: bool) {
        self.restored.insert(region, self.now_ms);
        if as_it_lay {
            self.put_back.insert(regions[region].name.clone());
        }
        // A database that is about to be put back too counts as what it will be.
        // Who has left has seen to it that others have what it wrote, and what it had when it was told to leave.
        let stayed = regions.iter().filter(|other| other.state != Some(MemberState::Retired));
        let kept: BTreeSet<Uuid> = stayed.flat_map(|other| other.disk_to_be().told()).collect();
        self.lost.extend(had.told().difference(&kept).copied());
        let put_back = &self.put_back;
        let gone = self.truth.extract_if(.., |(log, seq), _| {
            put_back.contains(&log.origin.region) && regions.iter().all(|other| other.disk_to_be().head(log).seq < *seq)
        });
        self.forgotten.extend(gone.map(|(_, hash)| hash));
    }

    /// A payment of the tenant is committed.
    pub(crate) fn paid(&mut self, region: usize, fact: Uuid, epoch: (u64, u64)) {
        self.paid.insert(fact, (region, epoch.0));
        // Whose database was put back may have forgotten that it handed the tenant over.
        let forgotten = self.restored.contains_key(&region);
        if *self.writers.entry(epoch).or_insert(region) != region || (self.handed_over.contains(&epoch) && !forgotten) {
            self.broken(Law::OneHomeWrites, format!("region {region} writes in {epoch:?}, which is not its own"));
        }
    }

    pub(crate) fn handed_over(&mut self, epoch: (u64, u64)) {
        self.handed_over.insert(epoch);
    }

    /// A region takes the tenant by force, with these facts.
    pub(crate) fn taken(&mut self, term: u64, by: usize, stored: BTreeSet<Uuid>) {
        if let Some((before, _)) = self.taken.insert(term, (by, stored)) {
            self.broken(Law::OneHomeWrites, format!("regions {before} and {by} take term {term}"));
        }
    }

    /// What a region has of the tenant in the end.
    pub(crate) fn moves_ended(&mut self, tenant: &Tenant, late: &BTreeMap<Uuid, bool>) {
        let home = self.home.get_or_insert_with(|| tenant.home.clone());
        if *home != tenant.home {
            let text = format!("the home is {home:?} or {:?}", tenant.home);
            self.broken(Law::MovesEndAlike, text);
        }
        let wrong = late.iter().find(|(fact, late)| {
            let Some((region, term)) = self.paid.get(*fact) else { return true };
            let taken = tenant.taken_after(*term).and_then(|term| self.taken.get(&term));
            **late != taken.is_some_and(|(by, stored)| by != region && !stored.contains(*fact))
        });
        if let Some((fact, late)) = wrong {
            self.broken(Law::MovesEndAlike, format!("that payment {fact} is late is said to be {late}"));
        }
    }

    /// A region begins another life.
    pub(crate) fn life_begins(&mut self, region: usize, doubted: bool) {
        if !doubted && !self.restored.contains_key(&region) {
            self.broken(Law::NoNeedlessLife, "a region that lost nothing begins another life".to_owned());
        }
    }

    /// The world has come to rest.
    pub(crate) fn at_the_end(&mut self, regions: &[Region]) {
        if self.breach.is_some() {
            return;
        }
        let (gone, left): (Vec<&Region>, Vec<&Region>) = regions
            .iter()
            .filter(|region| region.state.is_some_and(|state| state < MemberState::Retired))
            .partition(|region| region.gone);
        let told: BTreeSet<Uuid> = left.iter().flat_map(|region| region.disk.rows.values().copied()).collect();
        for region in &gone {
            self.lost.extend(region.disk.told().difference(&told).copied());
        }
        for region in left {
            let poison: BTreeSet<Uuid> =
                region.disk.set_aside.iter().filter_map(|place| region.disk.rows.get(place)).copied().collect();
            let here = |fact: &Uuid, is_poison: bool| {
                if is_poison { poison.contains(fact) } else { region.disk.facts.contains_key(fact) }
            };
            let mut missing = self.committed.iter().filter(|(fact, is_poison)| !here(fact, **is_poison));
            let missing = missing.find(|(fact, _)| !self.lost.contains(*fact)).map(|(fact, _)| *fact);
            if let Some(fact) = missing {
                self.broken(Law::NothingIsLost, format!("{} lacks {fact}", region.name));
                return;
            }
        }
    }
}
