//! Where every driver of the region is now: in memory, by tenant, indexed by H3 cells.
//!
//! It is a view, never the truth: Postgres knows who is online and who drives what, and decides every race. Each node
//! holds the whole region's drivers; what one node hears reaches the others through Redis ([`super::share`]). A driver's
//! row and cell change together under the row's lock, and a search reads each place from the row itself, so it can show
//! neither an old place, nor an offline driver, nor one whose position has expired. It looks at one cell after the other:
//! who crosses from one to the next meanwhile is found once or, coming nearer, missed until the next search.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{self, AtomicU64},
    },
};

use dashmap::{DashMap, mapref::entry::Entry};
use h3o::CellIndex;
use shared::{
    geo::Point,
    ids::{DriverId, TenantId},
};
use time::{Duration, OffsetDateTime};

use super::{
    cells,
    device_clock::DeviceClock,
    earnings::Middle,
    position::Position,
    record::Record,
    standing::{Duty, Standing},
};

#[cfg(test)]
mod tests;

/// A position older than this is gone.
pub const LIFE: Duration = Duration::seconds(60);

/// A trip this node has not heard of is known to it within this: what its driver says until then is kept, at most so many
/// positions of each driver.
const UNHEARD: Duration = Duration::seconds(10);
const MOST_UNHEARD: usize = 64;

/// By less than this almost every device's clock is wrong.
const NOTABLE: Duration = Duration::SECOND;

/// When other nodes need to hear of a driver again.
#[derive(Clone, Copy, Debug)]
pub struct ShareRule {
    /// Having moved so far since they last heard.
    pub distance_m: f64,
    /// Or so long after; well inside [`LIFE`].
    pub heartbeat: Duration,
}

/// The live table; cheap to clone.
#[derive(Clone)]
pub struct LiveTable {
    fleets: Arc<DashMap<TenantId, Arc<Fleet>>>,
    rule: ShareRule,
}

/// One tenant's drivers.
pub struct Fleet {
    rows: DashMap<DriverId, Row>,
    cells: DashMap<CellIndex, Vec<DriverId>>,
    /// How often somebody came into another cell.
    crossings: AtomicU64,
    rule: ShareRule,
    /// Of whom the other nodes have yet to hear, and whose place Postgres has yet to be told.
    to_share: Mutex<Vec<DriverId>>,
    to_store: Mutex<Vec<DriverId>>,
    earned: Middle,
}

struct Row {
    standing: Standing,
    position: Option<Position>,
    /// Where the index has the driver: the cell of `position` while that may be found, else nowhere.
    cell: Option<CellIndex>,
    /// Which of the fleet's crossings brought the driver there.
    crossing: u64,
    /// This node heard the newest position itself, so it is the one to pass it on.
    heard_here: bool,
    shared: Option<(Point, OffsetDateTime)>,
    waits_to_share: bool,
    waits_to_store: bool,
    /// Of the device that reports to this node.
    clock: Option<DeviceClock>,
    /// It was said that the device's clock is wrong.
    is_known_wrong: bool,
    /// What a driver without a trip said lately: he may have one of which this node is yet to hear.
    unheard: VecDeque<Position>,
}

/// A driver as nodes tell each other of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// Who.
    pub driver_id: DriverId,
    /// Doing what.
    pub standing: Standing,
    /// Where; unknown once it expired.
    pub position: Option<Position>,
}

/// What came of a message with positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed<'a> {
    /// Nothing is known of the driver here: look the standing up, [`Fleet::learn`] it and observe again.
    Stranger,
    /// The driver is known.
    Known {
        /// The standing's duty.
        duty: Duty,
        /// The driver is online.
        online: bool,
        /// The positions that are newer than what was known and not over, oldest first; the last is where the driver is.
        moved: &'a [Position],
        /// What the driver of a trip said shortly before this node heard of the trip.
        before: Vec<Position>,
    },
}

/// A driver a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Who.
    pub driver_id: DriverId,
    /// How far from the middle, as the crow flies.
    pub distance_m: f64,
    /// Where.
    pub position: Position,
    /// Doing what.
    pub standing: Standing,
}

impl LiveTable {
    /// An empty table.
    pub fn new(rule: ShareRule) -> Self {
        Self { fleets: Arc::default(), rule }
    }

    /// A tenant's drivers.
    pub fn fleet(&self, tenant: &TenantId) -> Arc<Fleet> {
        if let Some(fleet) = self.fleets.get(tenant) {
            return fleet.clone();
        }
        self.fleets.entry(tenant.clone()).or_insert_with(|| Arc::new(Fleet::new(self.rule))).clone()
    }

    /// Every fleet.
    pub fn fleets(&self) -> Vec<(TenantId, Arc<Fleet>)> {
        self.fleets.iter().map(|fleet| (fleet.key().clone(), fleet.value().clone())).collect()
    }
}

impl Fleet {
    fn new(rule: ShareRule) -> Self {
        Self {
            rows: DashMap::new(),
            cells: DashMap::new(),
            crossings: AtomicU64::new(0),
            rule,
            to_share: Mutex::default(),
            to_store: Mutex::default(),
            earned: Middle::default(),
        }
    }

    /// Takes positions a driver sent to this node, oldest first. Only those newer than what is known count, and none that is
    /// over already. A device whose clock is ahead or behind has their times put right.
    pub fn observe<'a>(&self, driver_id: DriverId, positions: &'a mut [Position], now: OffsetDateTime) -> Observed<'a> {
        let Some(mut row) = self.rows.get_mut(&driver_id) else { return Observed::Stranger };
        row.put_right(driver_id, positions, now);
        let positions: &'a [Position] = positions;
        let known = row.position.map(|known| known.recorded_at);
        let is_old = |position: &Position| {
            position.recorded_at <= now - LIFE || known.is_some_and(|known| position.recorded_at < known)
        };
        let moved = &positions[positions.partition_point(is_old)..];
        let newest = moved.last().copied();
        if let Some(position) = newest {
            row.position = Some(position);
            row.heard_here = true;
            self.index(driver_id, &mut row);
            let told_enough = row.shared.is_some_and(|(point, at)| {
                position.recorded_at - at < self.rule.heartbeat
                    && point.distance_m(position.point) < self.rule.distance_m
            });
            if row.standing.online && !told_enough {
                self.share(driver_id, &mut row);
            }
            if !mem::replace(&mut row.waits_to_store, true) {
                lock(&self.to_store).push(driver_id);
            }
        }
        let duty = row.standing.duty.at(now);
        let before = match duty {
            Duty::OnTrip { .. } => mem::take(&mut row.unheard).into(),
            Duty::Free | Duty::Offered { .. } => {
                row.keep_unheard(positions, now);
                Vec::new()
            }
        };
        Observed::Known { duty, online: row.standing.online, moved, before }
    }

    /// Takes over what is known of a driver's standing, unless something later is known, and shares it.
    pub fn learn(&self, driver_id: DriverId, standing: Standing) {
        match self.rows.entry(driver_id) {
            Entry::Vacant(entry) => {
                let mut row = entry.insert(Row::new(standing));
                self.share(driver_id, &mut row);
            }
            Entry::Occupied(mut entry) => {
                let row = entry.get_mut();
                row.standing.take_newer(standing);
                self.index(driver_id, row);
                self.share(driver_id, row);
            }
        }
    }

    /// Takes over what Postgres says of a driver known here, if it differs and nothing later is known.
    pub fn correct(&self, driver_id: DriverId, standing: Standing) {
        let differs = |known: &Standing| {
            (known.online, known.duty, &known.vehicle_class, &known.terms)
                != (standing.online, standing.duty, &standing.vehicle_class, &standing.terms)
                || known.record.as_of < standing.record.as_of
        };
        if self.rows.get(&driver_id).is_some_and(|row| differs(&row.standing)) {
            self.learn(driver_id, standing);
        }
    }

    /// Changes the duty of a driver who is known here, unless something later is known.
    pub fn set_duty(&self, driver_id: DriverId, duty: Duty, as_of: OffsetDateTime) {
        let Some(mut row) = self.rows.get_mut(&driver_id) else { return };
        if row.standing.duty_as_of > as_of {
            return;
        }
        row.standing.duty_as_of = as_of;
        let before = mem::replace(&mut row.standing.duty, duty);
        if duty == Duty::Free && matches!(before, Duty::OnTrip { .. }) {
            row.standing.idle_since = Some(as_of);
        }
        // Each step of a trip says so again, and the others know.
        if before != duty {
            self.share(driver_id, &mut row);
        }
    }

    /// Takes over how a driver who is known here answers and earns, unless something later is known.
    pub fn set_record(&self, driver_id: DriverId, record: Record) {
        let Some(mut row) = self.rows.get_mut(&driver_id) else { return };
        if row.standing.record.as_of < record.as_of {
            row.standing.record = record;
            self.share(driver_id, &mut row);
        }
    }

    /// What half of the online drivers have not earned more than lately.
    pub fn median_earned(&self, now: OffsetDateTime) -> f64 {
        self.earned.at(now, || {
            let online = self.rows.iter().filter(|row| row.standing.online);
            online.map(|row| row.standing.record.at(now).earned).collect()
        })
    }

    /// Takes what another node knows; standing and position each only if newer.
    pub fn merge(&self, sighting: Sighting, now: OffsetDateTime) {
        let Sighting { driver_id, standing, position } = sighting;
        let position = position.filter(|position| position.recorded_at > now - LIFE);
        let mut row = self.rows.entry(driver_id).or_insert_with(|| Row::new(standing.clone()));
        row.standing.take_newer(standing);
        if let Some(position) = position
            && row.position.is_none_or(|known| known.recorded_at < position.recorded_at)
        {
            row.position = Some(position);
            row.heard_here = false;
            row.shared = Some((position.point, position.recorded_at));
        }
        self.index(driver_id, &mut row);
    }

    /// Forgets a driver altogether.
    pub fn forget(&self, driver_id: DriverId) {
        if let Some((_, row)) = self.rows.remove(&driver_id)
            && let Some(cell) = row.cell
        {
            self.leave(cell, driver_id);
        }
    }

    /// What is known of one driver.
    pub fn sighting(&self, driver_id: DriverId, now: OffsetDateTime) -> Option<Sighting> {
        self.rows.get(&driver_id).map(|row| row.sighting(driver_id, now))
    }

    /// The online drivers within `radius_m` that `wanted` accepts, given how far away they are, nearest first, at most
    /// `limit`.
    pub fn search(
        &self,
        center: Point,
        radius_m: f64,
        limit: usize,
        now: OffsetDateTime,
        wanted: impl Fn(&Standing, f64) -> bool,
    ) -> Vec<Found> {
        let [found] = self.search_each(center, now, [Search { radius_m, limit, wanted: &wanted }]);
        found
    }

    /// Several searches around one place, each answered as by [`Fleet::search`], that look at every driver once.
    pub fn search_each<const N: usize>(
        &self,
        center: Point,
        now: OffsetDateTime,
        searches: [Search<'_>; N],
    ) -> [Vec<Found>; N] {
        let mut nearest = searches.each_ref().map(|search| Nearest::new(search.limit, search.radius_m));
        let crossings = self.crossings.load(atomic::Ordering::Relaxed);
        let look_at = |nearest: &mut [Nearest; N], driver_id: DriverId, row: &Row| {
            let Some(position) = row.fresh_position(now).filter(|_| row.standing.online) else { return };
            let distance_m = center.distance_m(position.point);
            for (search, nearest) in searches.iter().zip(nearest) {
                // In a crowded city most are looked at in vain, and need no copy made of them.
                if distance_m <= nearest.reach_m && (search.wanted)(&row.standing, distance_m) {
                    let found = Found { driver_id, distance_m, position, standing: row.standing.clone() };
                    nearest.offer(found, row.crossing > crossings);
                }
            }
        };
        let rings = cells::rings_within(searches.iter().map(|search| search.radius_m).fold(0.0, f64::max));
        if cells::cells_in(rings) >= self.rows.len() as u64 {
            self.rows.iter().for_each(|row| look_at(&mut nearest, *row.key(), row.value()));
            return nearest.map(Nearest::into_sorted);
        }
        let mut here = Vec::new();
        let middle = cells::cell_of(center);
        for ring in 0..=rings {
            for cell in cells::ring(middle, ring) {
                // Copied, so that no lock of a cell is held while a row's is taken.
                here.clear();
                if let Some(drivers) = self.cells.get(&cell) {
                    here.extend_from_slice(&drivers);
                }
                for id in &here {
                    if let Some(row) = self.rows.get(id) {
                        look_at(&mut nearest, *id, &row);
                    }
                }
            }
            // The rings so far are seen whole; whoever is in the others is farther away than these reach.
            if nearest.iter().all(|nearest| nearest.reach_m <= cells::reach_m(ring)) {
                break;
            }
        }
        nearest.map(Nearest::into_sorted)
    }

    /// Drops positions that have expired, and with them the drivers nothing else is known of and nothing is heard from: a
    /// device that goes on repeating an old position would seem a new one.
    pub fn sweep(&self, now: OffsetDateTime) {
        self.rows.retain(|id, row| {
            if row.position.is_some() && row.fresh_position(now).is_none() {
                row.position = None;
                row.shared = None;
                self.index(*id, row);
            }
            let is_in_use = row.clock.is_some_and(|clock| clock.is_in_use(now));
            row.position.is_some() || row.standing.duty.at(now) != Duty::Free || is_in_use
        });
    }

    /// What other nodes have yet to hear.
    pub fn take_to_share(&self, now: OffsetDateTime) -> Vec<Sighting> {
        let waiting = mem::take(&mut *lock(&self.to_share));
        let take = |id: DriverId| {
            let mut row = self.rows.get_mut(&id)?;
            row.waits_to_share = false;
            row.shared = row.position.map(|position| (position.point, position.recorded_at));
            Some(row.sighting(id, now))
        };
        waiting.into_iter().filter_map(take).collect()
    }

    /// Shares drivers again, as they are by then, since what was taken of them did not reach the others.
    pub fn share_again(&self, drivers: impl IntoIterator<Item = DriverId>) {
        for id in drivers {
            if let Some(mut row) = self.rows.get_mut(&id) {
                self.share(id, &mut row);
            }
        }
    }

    /// The places Postgres has yet to be told.
    pub fn take_to_store(&self) -> Vec<(DriverId, Position)> {
        let waiting = mem::take(&mut *lock(&self.to_store));
        let take = |id: DriverId| {
            let mut row = self.rows.get_mut(&id)?;
            row.waits_to_store = false;
            Some((id, row.position?))
        };
        waiting.into_iter().filter_map(take).collect()
    }

    /// Shares again all that this node heard itself, as after a loss of what was shared before.
    pub fn share_all(&self) {
        for mut row in self.rows.iter_mut() {
            if row.heard_here && row.position.is_some() {
                let id = *row.key();
                self.share(id, &mut row);
            }
        }
    }

    /// The drivers known here with a duty that only Postgres or an event can end, or, if `all`, every driver.
    pub fn known(&self, all: bool) -> Vec<DriverId> {
        let wanted = |row: &Row| all || row.standing.duty != Duty::Free;
        self.rows.iter().filter(|row| wanted(row)).map(|row| *row.key()).collect()
    }

    /// Whether a driver is known here, and believed to be online with nothing to do.
    pub fn is_believed_free(&self, driver_id: DriverId) -> bool {
        self.rows.get(&driver_id).is_some_and(|row| row.standing.online && row.standing.duty == Duty::Free)
    }

    /// How many are online with nothing to do, by what they drive and the cell they are in.
    pub fn free_by_cell(&self, now: OffsetDateTime) -> BTreeMap<(Arc<str>, CellIndex), u32> {
        let mut free: HashMap<_, u32> = HashMap::new();
        for row in &self.rows {
            if let Some(cell) = row.cell
                && row.standing.duty.at(now) == Duty::Free
                && row.fresh_position(now).is_some()
            {
                *free.entry((row.standing.vehicle_class.clone(), cell)).or_default() += 1;
            }
        }
        free.into_iter().collect()
    }

    /// How many online drivers have a fresh position, and how old these are.
    pub fn census(&self, now: OffsetDateTime) -> Census {
        let mut on_trip = 0;
        let mut ages = Vec::with_capacity(self.rows.len());
        for row in self.rows.iter().filter(|row| row.standing.online) {
            if let Some(position) = row.fresh_position(now) {
                on_trip += usize::from(matches!(row.standing.duty, Duty::OnTrip { .. }));
                ages.push(now - position.recorded_at);
            }
        }
        let mut age_at = |share: f64| {
            let last = ages.len().checked_sub(1)?;
            // Below the length, since a share is at most 1.
            Some(*ages.select_nth_unstable((last as f64 * share).round() as usize).1)
        };
        let [median, most, oldest] = [0.5, 0.99, 1.0].map(|share| age_at(share).unwrap_or_default());
        Census { live: ages.len(), on_trip, median, most, oldest }
    }

    /// Puts a driver where the index should have it: the cell of its place if it may be found, else nowhere. The new
    /// cell first, so that the driver is always in one. A search that has seen the new one by then and not yet the old one
    /// misses him all the same; one that has seen the old one comes upon him again, and knows it by the crossing's number.
    fn index(&self, driver_id: DriverId, row: &mut Row) {
        let cell = row.position.filter(|_| row.standing.online).map(|position| cells::cell_of(position.point));
        if cell == row.cell {
            return;
        }
        if let Some(cell) = cell {
            row.crossing = self.crossings.fetch_add(1, atomic::Ordering::Relaxed) + 1;
            self.cells.entry(cell).or_default().push(driver_id);
        }
        if let Some(old) = mem::replace(&mut row.cell, cell) {
            self.leave(old, driver_id);
        }
    }

    fn leave(&self, cell: CellIndex, driver_id: DriverId) {
        if let Entry::Occupied(mut drivers) = self.cells.entry(cell) {
            if let Some(place) = drivers.get().iter().position(|id| *id == driver_id) {
                drivers.get_mut().swap_remove(place);
            }
            if drivers.get().is_empty() {
                drivers.remove();
            }
        }
    }

    fn share(&self, driver_id: DriverId, row: &mut Row) {
        if !mem::replace(&mut row.waits_to_share, true) {
            lock(&self.to_share).push(driver_id);
        }
    }
}

/// How a fleet is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Census {
    /// Online drivers with a fresh position.
    pub live: usize,
    /// Of those, the ones on a trip.
    pub on_trip: usize,
    /// The age half of these positions do not exceed.
    pub median: Duration,
    /// The age 99 in 100 of them do not exceed.
    pub most: Duration,
    /// The age of the oldest.
    pub oldest: Duration,
}

impl Row {
    fn new(standing: Standing) -> Self {
        Self {
            standing,
            position: None,
            cell: None,
            crossing: 0,
            heard_here: false,
            shared: None,
            waits_to_share: false,
            waits_to_store: false,
            clock: None,
            is_known_wrong: false,
            unheard: VecDeque::new(),
        }
    }

    /// Puts the times right that a device gave whose clock is ahead or behind.
    fn put_right(&mut self, driver_id: DriverId, positions: &mut [Position], now: OffsetDateTime) {
        let Some(newest) = positions.last().map(|newest| newest.recorded_at) else { return };
        if newest == now {
            // By this node's clock: the device gave no time.
            return;
        }
        let ahead = self.clock.get_or_insert_with(|| DeviceClock::new(newest, now)).ahead(newest, now);
        positions.iter_mut().for_each(|position| position.recorded_at -= ahead);
        if ahead.abs() < NOTABLE {
            return;
        }
        metrics::counter!("region_node_positions_put_right_total").increment(positions.len() as u64);
        if !mem::replace(&mut self.is_known_wrong, true) {
            let ahead_s = ahead.whole_seconds();
            let (by_s, way) = (ahead_s.abs(), if ahead_s > 0 { "ahead" } else { "behind" });
            tracing::info!(driver.id = %driver_id, ahead_s, "the clock of driver {driver_id}'s device is {by_s} s {way}");
        }
    }

    fn keep_unheard(&mut self, positions: &[Position], now: OffsetDateTime) {
        self.unheard.extend(positions);
        let is_over = |position: &Position| position.recorded_at <= now - UNHEARD;
        while self.unheard.len() > MOST_UNHEARD || self.unheard.front().is_some_and(is_over) {
            self.unheard.pop_front();
        }
    }

    fn fresh_position(&self, now: OffsetDateTime) -> Option<Position> {
        self.position.filter(|position| position.recorded_at > now - LIFE)
    }

    fn sighting(&self, driver_id: DriverId, now: OffsetDateTime) -> Sighting {
        Sighting { driver_id, standing: self.standing.clone(), position: self.fresh_position(now) }
    }
}

/// Whom to look for around a place.
pub struct Search<'a> {
    /// No farther away than this.
    pub radius_m: f64,
    /// At most so many, the nearest.
    pub limit: usize,
    /// Whether somebody so far away is wanted.
    pub wanted: &'a dyn Fn(&Standing, f64) -> bool,
}

/// The `limit` nearest of what it is offered.
struct Nearest {
    limit: usize,
    /// How far away others may be and still be among them: shrinks once there are enough.
    reach_m: f64,
    farthest_first: BinaryHeap<ByDistance>,
}

struct ByDistance(Found);

impl Nearest {
    fn new(limit: usize, radius_m: f64) -> Self {
        Self { limit, reach_m: radius_m, farthest_first: BinaryHeap::new() }
    }

    /// Keeps somebody within reach if he is among the nearest. To look for him among them is for those alone who `may_be_here`
    /// already, since it takes as long as there are many.
    fn offer(&mut self, found: Found, may_be_here: bool) {
        if may_be_here && self.farthest_first.iter().any(|here| here.0.driver_id == found.driver_id) {
            return;
        }
        self.farthest_first.push(ByDistance(found));
        if self.farthest_first.len() > self.limit {
            self.farthest_first.pop();
        }
        if self.farthest_first.len() >= self.limit {
            self.reach_m = self.farthest_first.peek().map_or(0.0, |farthest| farthest.0.distance_m);
        }
    }

    fn into_sorted(self) -> Vec<Found> {
        self.farthest_first.into_sorted_vec().into_iter().map(|found| found.0).collect()
    }
}

// Equal distances are told apart by id, so that an answer is the same each time.
impl Ord for ByDistance {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.distance_m.total_cmp(&other.0.distance_m).then(self.0.driver_id.cmp(&other.0.driver_id))
    }
}

impl PartialOrd for ByDistance {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByDistance {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByDistance {}

/// What is kept here stays whole whatever happened to the thread that held it.
pub(super) fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
