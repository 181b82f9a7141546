//! Moves from event to event: riders ask and give up, the dispatcher looks, drivers answer, drive and go.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

use region_node::{
    dispatch::{Ask, Plan, Reason, Wanted, Windows, plan},
    drivers::{Addition, Duty, Fleet, LiveTable, Position, Record, ShareRule, Standing, Terms},
    travel::TravelTimes,
};
use shared::{
    geo::Point,
    ids::{DriverId, RideId, RiderId, TenantId},
};
use time::{Duration, OffsetDateTime, macros::datetime};
use uuid::Uuid;

use super::{
    Scenario, Town,
    outcome::{Day, NEAR_S, NEWCOMER_S, Outcome, PASSED_OVER_AFTER_S, Wait},
    people::{Answer, People},
};
use crate::cities::PlannedRide;

/// When the data begins: 18:00 in New York.
const EPOCH: OffsetDateTime = datetime!(2014-12-21 23:00:00 UTC);
/// A standing driver says where he is this often.
const HEARTBEAT_S: f64 = 20.0;
const CLASS: &str = "standard";

/// Milliseconds after [`EPOCH`]; whole, so that events have one order.
type Moment = i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asks(usize),
    GivesUp(usize),
    Look,
    Answers { driver: usize, ride: usize, round: u32 },
    CallsOff { ride: usize, driver: usize },
    Arrives { driver: usize, ride: usize },
    SetsDown { driver: usize, ride: usize },
    ComesBack(usize),
    Heartbeat,
}

struct Ride {
    planned: PlannedRide,
    asked_at: Moment,
    /// When it is looked at first.
    due_at: Moment,
    state: RideState,
    /// Rounds that ended in offers, and offers made in all of them.
    rounds: u32,
    offers: usize,
    /// Drivers who think about it.
    thinking: BTreeSet<usize>,
    asked: HashMap<DriverId, Reason>,
}

#[derive(Clone, Copy, PartialEq)]
enum RideState {
    Waits,
    Offered,
    Accepted { at: Moment },
    OnBoard { since: Moment },
    Over,
}

struct Driver {
    id: DriverId,
    place: Point,
    /// Added to the place by those who lie about it, degrees.
    lie: (f64, f64),
    state: DriverState,
    /// Since when available without an offer, if idle.
    unasked_since: Moment,
    record: Record,
    day: Day,
}

#[derive(Clone, Copy, PartialEq)]
enum DriverState {
    Idle { since: Moment },
    Thinks { idle_since: Moment, ride: usize, round: u32 },
    DrivesTo { ride: usize, from: Point, began: Moment },
    Serves,
    Away,
}

/// What a driver drove to a pick-up and from there on.
#[derive(Default)]
struct Driven {
    empty_m: f64,
    paid_m: f64,
    paid_s: f64,
}

pub(super) struct World<'a> {
    town: &'a Town,
    scenario: &'a Scenario,
    people: People,
    tenant: TenantId,
    fleet: Arc<Fleet>,
    now: Moment,
    events: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    scheduled: u64,
    rides: Vec<Ride>,
    drivers: Vec<Driver>,
    numbers: HashMap<DriverId, usize>,
    /// Rides that wait, in the order they were asked for.
    waiting: BTreeSet<usize>,
    windows: Windows,
    looks: BTreeSet<Moment>,
    outcome: Outcome,
}

/// Travel times as everybody in this town knows them.
struct Known<'a>(&'a Town);

impl TravelTimes for Known<'_> {
    async fn to_pickup(&self, from: &[Point], to: Point, _: OffsetDateTime) -> Vec<u32> {
        // A cast from a float saturates.
        self.0.seconds(from, to).into_iter().map(|seconds| seconds.round() as u32).collect()
    }
}

impl<'a> World<'a> {
    pub(super) fn new(town: &'a Town, scenario: &'a Scenario) -> Self {
        let people = People { seed: scenario.seed };
        let tenant: TenantId = "manhattan-cabs".parse().expect("a slug");
        // Nobody else listens: what is shared stays where it is.
        let table = LiveTable::new(ShareRule { distance_m: f64::MAX, heartbeat: Duration::hours(10) });
        let begins_s = (scenario.from_s - scenario.warm_up_s).max(0.0);
        let is_simulated = |ride: &&PlannedRide| (begins_s..scenario.to_s).contains(&ride.at_s);
        let rides: Vec<_> = town.rides.iter().filter(is_simulated).copied().collect();
        let begins = millis(begins_s);
        let record = |number: usize| {
            let (accepted, refused) = people.answered_before(number);
            Record { accepted, refused, earned: 0.0, as_of: EPOCH }
        };
        let driver = |number: usize| Driver {
            id: DriverId(Uuid::from_u128(number as u128 + 1)),
            place: town.rides[people.home(number, town.rides.len())].pickup,
            lie: (0.0, 0.0),
            state: DriverState::Idle { since: begins },
            unasked_since: begins,
            record: record(number),
            day: Day::default(),
        };
        let drivers: Vec<_> = (0..scenario.drivers).map(driver).collect();
        let mut world = Self {
            town,
            scenario,
            people,
            fleet: table.fleet(&tenant),
            tenant,
            now: begins,
            events: BinaryHeap::new(),
            scheduled: 0,
            rides: Vec::new(),
            numbers: drivers.iter().enumerate().map(|(number, driver)| (driver.id, number)).collect(),
            drivers,
            waiting: BTreeSet::new(),
            windows: Windows::default(),
            looks: BTreeSet::new(),
            outcome: Outcome::default(),
        };
        for number in 0..world.drivers.len() {
            world.tell(number, Duty::Free);
        }
        for (number, planned) in rides.into_iter().enumerate() {
            world.at(millis(planned.at_s), Event::Asks(number));
            let asked_at = millis(planned.at_s);
            world.rides.push(Ride {
                planned,
                asked_at,
                due_at: asked_at,
                state: RideState::Waits,
                rounds: 0,
                offers: 0,
                thinking: BTreeSet::new(),
                asked: HashMap::new(),
            });
        }
        world.at(begins, Event::Heartbeat);
        world
    }

    pub(super) async fn run(mut self) -> Outcome {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Asks(ride) => self.asks(ride),
                Event::GivesUp(ride) => self.gives_up(ride),
                Event::Look => self.look().await,
                Event::Answers { driver, ride, round } => self.answers(driver, ride, round),
                Event::CallsOff { ride, driver } => self.calls_off(ride, driver),
                Event::Arrives { driver, ride } => self.arrives(driver, ride),
                Event::SetsDown { driver, ride } => self.sets_down(driver, ride),
                Event::ComesBack(driver) => self.is_idle(driver),
                Event::Heartbeat => self.heartbeat(),
            }
        }
        for driver in 0..self.drivers.len() {
            if matches!(self.drivers[driver].state, DriverState::Idle { .. }) {
                self.ends_wait(driver, millis(self.scenario.to_s));
            }
        }
        self.outcome.days = self.drivers.into_iter().map(|driver| driver.day).collect();
        self.outcome
    }

    fn at(&mut self, at: Moment, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn after(&mut self, seconds: f64, event: Event) {
        self.at(self.now + millis(seconds), event);
    }

    fn time(&self) -> OffsetDateTime {
        EPOCH + Duration::milliseconds(self.now)
    }

    fn counts(&self, at: Moment) -> bool {
        (millis(self.scenario.from_s)..millis(self.scenario.to_s)).contains(&at)
    }

    fn asks(&mut self, ride: usize) {
        self.waiting.insert(ride);
        let patience_s = self.people.patience_s(ride).min(self.scenario.policy.expire_after_s.into());
        self.after(patience_s, Event::GivesUp(ride));
        let window = std::time::Duration::from_millis(self.scenario.policy.window_ms.into());
        let due = self.windows.due_at(&self.tenant, self.rides[ride].planned.pickup, window, self.time());
        // Windows end at whole milliseconds.
        self.rides[ride].due_at = (due - EPOCH).whole_milliseconds() as Moment;
        self.is_due(self.rides[ride].due_at);
    }

    fn gives_up(&mut self, ride: usize) {
        if !matches!(self.rides[ride].state, RideState::Waits | RideState::Offered) {
            return;
        }
        self.waiting.remove(&ride);
        self.rides[ride].state = RideState::Over;
        if self.counts(self.rides[ride].asked_at) {
            self.outcome.unserved += 1;
        }
    }

    fn is_due(&mut self, at: Moment) {
        if self.looks.insert(at) {
            self.at(at, Event::Look);
        }
    }

    /// As the live dispatcher, which looks again at rides that wait, in step.
    fn something_is_due(&mut self) {
        let window = i64::from(self.scenario.policy.window_ms.max(1));
        self.is_due((self.now.div_euclid(window) + 1) * window);
    }

    async fn look(&mut self) {
        self.looks.remove(&self.now);
        let due = self.waiting.iter().filter(|ride| self.rides[**ride].due_at <= self.now);
        let wanted: Vec<Wanted> = due.map(|ride| self.wanted(*ride)).collect();
        let known = Known(self.town);
        let plans = plan(&self.fleet, &known, &self.scenario.policy, &wanted, &[], self.time()).await;
        let newest: Vec<Option<Moment>> = plans.iter().map(|plan| self.newest_asked(plan)).collect();
        plans.iter().for_each(|plan| self.offer(plan));
        for (plan, newest) in plans.iter().zip(newest) {
            if newest.is_some_and(|since| seconds(self.now - since) < NEWCOMER_S) {
                self.passes_over(number_of(plan.ride_id));
            }
        }
    }

    /// Since when the newest of those a plan asks is available.
    fn newest_asked(&self, plan: &Plan) -> Option<Moment> {
        plan.ask.iter().map(|ask| self.drivers[self.numbers[&ask.driver_id]].unasked_since).max()
    }

    /// A ride went to a newcomer: who is near it, and has waited for long, is passed over.
    fn passes_over(&mut self, ride: usize) {
        // Nobody drives faster through this town.
        const FASTEST_MPS: f64 = 15.0;
        if !self.counts(self.now) {
            return;
        }
        let pickup = self.rides[ride].planned.pickup;
        let waits = |driver: &Driver| {
            matches!(driver.state, DriverState::Idle { .. })
                && seconds(self.now - driver.unasked_since) >= PASSED_OVER_AFTER_S
                && driver.place.distance_m(pickup) <= NEAR_S * FASTEST_MPS
        };
        let waiting: Vec<usize> = (0..self.drivers.len()).filter(|number| waits(&self.drivers[*number])).collect();
        let places: Vec<Point> = waiting.iter().map(|number| self.drivers[*number].place).collect();
        let ways_s = self.town.seconds(&places, pickup);
        for (number, way_s) in waiting.into_iter().zip(ways_s) {
            self.drivers[number].day.is_starved |= way_s <= NEAR_S;
        }
    }

    /// A driver's time without an offer is over.
    fn ends_wait(&mut self, driver: usize, until: Moment) {
        let until = until.min(millis(self.scenario.to_s));
        if until > millis(self.scenario.from_s) {
            let Driver { unasked_since, day, .. } = &mut self.drivers[driver];
            day.longest_idle_s = day.longest_idle_s.max(seconds(until - *unasked_since));
        }
    }

    fn wanted(&self, number: usize) -> Wanted {
        let ride = &self.rides[number];
        Wanted {
            ride_id: ride_id(number),
            pickup: ride.planned.pickup,
            vehicle_class: CLASS.to_owned(),
            waits_since: EPOCH + Duration::milliseconds(ride.asked_at),
            asked: ride.asked.clone(),
            offers_left: (self.scenario.policy.max_offers as usize).saturating_sub(ride.offers).max(1),
        }
    }

    fn offer(&mut self, plan: &Plan) {
        if !plan.ask.is_empty() {
            self.rides[number_of(plan.ride_id)].rounds += 1;
        }
        for Ask { driver_id, .. } in &plan.ask {
            self.offer_to(*driver_id, number_of(plan.ride_id));
        }
    }

    fn offer_to(&mut self, id: DriverId, ride: usize) {
        let driver = self.numbers[&id];
        let DriverState::Idle { since } = self.drivers[driver].state else { return };
        self.ends_wait(driver, self.now);
        self.waiting.remove(&ride);
        let policy = &self.scenario.policy;
        let ttl_s = f64::from(policy.offer_ttl_s);
        let of = &mut self.rides[ride];
        of.state = RideState::Offered;
        of.offers += 1;
        of.thinking.insert(driver);
        of.asked.insert(id, Reason::DidNotAnswer);
        let round = of.rounds;
        self.drivers[driver].state = DriverState::Thinks { idle_since: since, ride, round };
        self.tell(driver, Duty::Offered { until: self.time() + Duration::seconds(policy.offer_ttl_s.into()) });
        let after_s = match self.people.answer(driver, ride) {
            Answer::Accepts { after_s } | Answer::Declines { after_s } => after_s,
            Answer::Ignores => ttl_s,
        };
        self.after(after_s, Event::Answers { driver, ride, round });
    }

    fn answers(&mut self, driver: usize, ride: usize, round: u32) {
        let DriverState::Thinks { idle_since, ride: about, round: of } = self.drivers[driver].state else { return };
        if (about, of) != (ride, round) {
            return;
        }
        let still_wanted = self.rides[ride].state == RideState::Offered && self.rides[ride].rounds == round;
        let answer = self.people.answer(driver, ride);
        if still_wanted && matches!(answer, Answer::Accepts { .. }) {
            self.note(driver, Addition::ACCEPTED);
            return self.accepts(driver, ride);
        }
        if still_wanted {
            self.note(driver, Addition::REFUSED);
            self.outcome.refused += usize::from(self.counts(self.rides[ride].asked_at));
            if matches!(answer, Answer::Declines { .. }) {
                self.rides[ride].asked.insert(self.drivers[driver].id, Reason::DeclinedBefore);
            }
            self.rides[ride].thinking.remove(&driver);
            if self.rides[ride].thinking.is_empty() {
                self.rides[ride].state = RideState::Waits;
                self.waiting.insert(ride);
            }
        }
        self.is_unasked(driver, idle_since);
        self.something_is_due();
    }

    fn note(&mut self, driver: usize, what: Addition) {
        self.drivers[driver].record = self.drivers[driver].record.plus(what, self.time());
    }

    fn accepts(&mut self, driver: usize, ride: usize) {
        self.rides[ride].state = RideState::Accepted { at: self.now };
        // Whoever was asked as well need not answer any more.
        for other in std::mem::take(&mut self.rides[ride].thinking) {
            if let DriverState::Thinks { idle_since, .. } = self.drivers[other].state
                && other != driver
            {
                self.is_unasked(other, idle_since);
                self.something_is_due();
            }
        }
        let (place, pickup) = (self.drivers[driver].place, self.rides[ride].planned.pickup);
        let drive_s = self.town.seconds(&[place], pickup)[0] * self.people.luck(driver, ride);
        self.drivers[driver].state = DriverState::DrivesTo { ride, from: place, began: self.now };
        self.tell(driver, Duty::OnTrip { ride_id: ride_id(ride), rider_id: RiderId(Uuid::nil()) });
        self.after(drive_s, Event::Arrives { driver, ride });
        if let Some(after_s) = self.people.calls_off_after_s(ride) {
            self.after(after_s, Event::CallsOff { ride, driver });
        }
    }

    fn calls_off(&mut self, ride: usize, driver: usize) {
        let DriverState::DrivesTo { ride: to, from, began } = self.drivers[driver].state else { return };
        if to != ride || !matches!(self.rides[ride].state, RideState::Accepted { .. }) {
            return;
        }
        self.rides[ride].state = RideState::Over;
        if self.counts(self.rides[ride].asked_at) {
            self.outcome.called_off += 1;
        }
        // As far on the way as the time allowed.
        let pickup = self.rides[ride].planned.pickup;
        let whole_s = (self.town.seconds(&[from], pickup)[0] * self.people.luck(driver, ride)).max(1.0);
        let driven_s = seconds(self.now - began);
        let share = (driven_s / whole_s).min(1.0);
        let between = |a: f64, b: f64| a + (b - a) * share;
        let place = Point::new(between(from.lat, pickup.lat), between(from.lng, pickup.lng));
        self.drivers[driver].place = place;
        self.note_driving(driver, Driven { empty_m: self.town.metres(from, pickup) * share, ..Driven::default() });
        self.is_idle(driver);
    }

    fn arrives(&mut self, driver: usize, ride: usize) {
        let DriverState::DrivesTo { ride: to, from, .. } = self.drivers[driver].state else { return };
        let RideState::Accepted { at } = self.rides[ride].state else { return };
        if to != ride {
            return;
        }
        let asked_at = self.rides[ride].asked_at;
        if self.counts(asked_at) {
            self.outcome.waits.push(Wait {
                asked_at_s: seconds(asked_at),
                accepted_after_s: seconds(at - asked_at),
                picked_up_after_s: seconds(self.now - asked_at),
            });
        }
        self.rides[ride].state = RideState::OnBoard { since: self.now };
        let PlannedRide { pickup, dropoff, .. } = self.rides[ride].planned;
        let drive_s = self.town.seconds(&[pickup], dropoff)[0] * self.people.luck(driver, ride);
        let (empty_m, paid_m) = (self.town.metres(from, pickup), self.town.metres(pickup, dropoff));
        self.note_driving(driver, Driven { empty_m, paid_m, paid_s: drive_s });
        self.drivers[driver].state = DriverState::Serves;
        self.after(self.people.boarding_s(ride) + drive_s, Event::SetsDown { driver, ride });
    }

    fn note_driving(&mut self, driver: usize, driven: Driven) {
        if self.counts(self.now) {
            let day = &mut self.drivers[driver].day;
            day.empty_m += driven.empty_m;
            day.paid_m += driven.paid_m;
            day.paid_s += driven.paid_s;
            day.rides += usize::from(driven.paid_s > 0.0);
        }
    }

    fn sets_down(&mut self, driver: usize, ride: usize) {
        let begun_before =
            matches!(self.rides[ride].state, RideState::OnBoard { since } if since < millis(self.scenario.from_s));
        self.drivers[driver].day.rides += usize::from(begun_before && self.counts(self.now));
        self.rides[ride].state = RideState::Over;
        let PlannedRide { pickup, dropoff, .. } = self.rides[ride].planned;
        self.drivers[driver].place = dropoff;
        // A tariff that counts seconds.
        let paid_s = self.town.seconds(&[pickup], dropoff)[0];
        self.note(driver, Addition::earned(paid_s.round() as i64));
        self.drivers[driver].lie = self.people.lie(driver, ride).unwrap_or_default();
        match self.people.break_s(driver, ride) {
            Some(length_s) => {
                self.drivers[driver].state = DriverState::Away;
                self.tell(driver, Duty::Free);
                self.after(length_s, Event::ComesBack(driver));
            }
            None => self.is_idle(driver),
        }
    }

    fn is_idle(&mut self, driver: usize) {
        self.is_unasked(driver, self.now);
        self.something_is_due();
    }

    /// Has no offer any more, and is idle since `since`.
    fn is_unasked(&mut self, driver: usize, since: Moment) {
        self.drivers[driver].state = DriverState::Idle { since };
        self.drivers[driver].unasked_since = self.now;
        self.tell(driver, Duty::Free);
    }

    fn heartbeat(&mut self) {
        for number in 0..self.drivers.len() {
            self.report(number);
        }
        let over = self.now > millis(self.scenario.to_s) && self.events.is_empty();
        if !over {
            self.after(HEARTBEAT_S, Event::Heartbeat);
        }
    }

    /// What the platform learns of a driver's standing, and the place with it.
    fn tell(&mut self, driver: usize, duty: Duty) {
        let Driver { id, state, record, .. } = &self.drivers[driver];
        let idle_since = match state {
            DriverState::Idle { since } | DriverState::Thinks { idle_since: since, .. } => Some(*since),
            DriverState::DrivesTo { .. } | DriverState::Serves | DriverState::Away => None,
        };
        let standing = Standing {
            online: *state != DriverState::Away,
            vehicle_class: CLASS.into(),
            idle_since: idle_since.map(|since| EPOCH + Duration::milliseconds(since)),
            duty,
            terms: Terms::default(),
            record: *record,
            as_of: self.time(),
            duty_as_of: self.time(),
        };
        self.fleet.learn(*id, standing);
        self.report(driver);
    }

    fn report(&self, driver: usize) {
        let Driver { id, place, lie, .. } = &self.drivers[driver];
        let now = self.time();
        let point = Point::new(place.lat + lie.0, place.lng + lie.1);
        self.fleet.observe(*id, &mut [Position { point, heading: None, recorded_at: now }], now);
    }
}

fn ride_id(number: usize) -> RideId {
    RideId(Uuid::from_u128(number as u128))
}

fn number_of(ride: RideId) -> usize {
    usize::try_from(ride.0.as_u128()).expect("made of a number")
}

fn millis(seconds: f64) -> Moment {
    (seconds * 1_000.0).round() as Moment
}

fn seconds(moment: Moment) -> f64 {
    moment as f64 / 1_000.0
}
