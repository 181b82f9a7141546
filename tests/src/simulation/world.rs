//! Moves from event to event: riders ask and give up, the dispatcher looks, drivers answer, drive and go.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

use region_node::{
    dispatch::{Plan, Reason, Wanted, plan},
    drivers::{Duty, Fleet, LiveTable, Position, ShareRule, Standing},
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
    outcome::{Day, Outcome, Wait},
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
    Answers { driver: usize, ride: usize, offer: u32 },
    CallsOff { ride: usize, driver: usize },
    Arrives { driver: usize, ride: usize },
    SetsDown { driver: usize, ride: usize },
    ComesBack(usize),
    Heartbeat,
}

struct Ride {
    planned: PlannedRide,
    asked_at: Moment,
    state: RideState,
    offers: u32,
    asked: HashMap<DriverId, Reason>,
}

#[derive(Clone, Copy, PartialEq)]
enum RideState {
    Waits,
    Offered,
    Accepted { at: Moment },
    OnBoard,
    Over,
}

struct Driver {
    id: DriverId,
    place: Point,
    /// Added to the place by those who lie about it, degrees.
    lie: (f64, f64),
    state: DriverState,
    day: Day,
}

#[derive(Clone, Copy, PartialEq)]
enum DriverState {
    Idle { since: Moment },
    Thinks { idle_since: Moment },
    DrivesTo { ride: usize, from: Point, began: Moment },
    Serves,
    Away,
}

pub(super) struct World<'a> {
    town: &'a Town,
    scenario: &'a Scenario,
    people: People,
    fleet: Arc<Fleet>,
    now: Moment,
    events: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    scheduled: u64,
    rides: Vec<Ride>,
    drivers: Vec<Driver>,
    numbers: HashMap<DriverId, usize>,
    /// Rides that wait, in the order they were asked for.
    waiting: BTreeSet<usize>,
    looked_at: Moment,
    look_is_due: bool,
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
        let driver = |number: usize| Driver {
            id: DriverId(Uuid::from_u128(number as u128 + 1)),
            place: town.rides[people.home(number, town.rides.len())].pickup,
            lie: (0.0, 0.0),
            state: DriverState::Idle { since: begins },
            day: Day::default(),
        };
        let drivers: Vec<_> = (0..scenario.drivers).map(driver).collect();
        let mut world = Self {
            town,
            scenario,
            people,
            fleet: table.fleet(&tenant),
            now: begins,
            events: BinaryHeap::new(),
            scheduled: 0,
            rides: Vec::new(),
            numbers: drivers.iter().enumerate().map(|(number, driver)| (driver.id, number)).collect(),
            drivers,
            waiting: BTreeSet::new(),
            looked_at: begins - millis(3_600.0),
            look_is_due: false,
            outcome: Outcome::default(),
        };
        for number in 0..world.drivers.len() {
            world.tell(number, Duty::Free);
        }
        for (number, planned) in rides.into_iter().enumerate() {
            world.at(millis(planned.at_s), Event::Asks(number));
            let asked_at = millis(planned.at_s);
            let (state, offers, asked) = (RideState::Waits, 0, HashMap::new());
            world.rides.push(Ride { planned, asked_at, state, offers, asked });
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
                Event::Answers { driver, ride, offer } => self.answers(driver, ride, offer),
                Event::CallsOff { ride, driver } => self.calls_off(ride, driver),
                Event::Arrives { driver, ride } => self.arrives(driver, ride),
                Event::SetsDown { driver, ride } => self.sets_down(driver, ride),
                Event::ComesBack(driver) => self.is_idle(driver),
                Event::Heartbeat => self.heartbeat(),
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
        self.something_is_due();
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

    /// As the live dispatcher: at once, unless it looked less than a window ago.
    fn something_is_due(&mut self) {
        if !std::mem::replace(&mut self.look_is_due, true) {
            let at = self.now.max(self.looked_at + i64::from(self.scenario.policy.window_ms));
            self.at(at, Event::Look);
        }
    }

    async fn look(&mut self) {
        self.look_is_due = false;
        self.looked_at = self.now;
        let wanted: Vec<Wanted> = self.waiting.iter().map(|ride| self.wanted(*ride)).collect();
        let known = Known(self.town);
        for plan in plan(&self.fleet, &known, &self.scenario.policy, &wanted, self.time()).await {
            self.offer(&plan);
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
        }
    }

    fn offer(&mut self, plan: &Plan) {
        let Some((id, _)) = plan.ask else { return };
        let (driver, ride) = (self.numbers[&id], number_of(plan.ride_id));
        let DriverState::Idle { since } = self.drivers[driver].state else { return };
        self.waiting.remove(&ride);
        let policy = &self.scenario.policy;
        let ttl_s = f64::from(policy.offer_ttl_s);
        let of = &mut self.rides[ride];
        of.state = RideState::Offered;
        of.offers += 1;
        of.asked.insert(id, Reason::DidNotAnswer);
        let offer = of.offers;
        self.drivers[driver].state = DriverState::Thinks { idle_since: since };
        self.tell(driver, Duty::Offered { until: self.time() + Duration::seconds(policy.offer_ttl_s.into()) });
        let after_s = match self.people.answer(driver, ride) {
            Answer::Accepts { after_s } | Answer::Declines { after_s } => after_s,
            Answer::Ignores => ttl_s,
        };
        self.after(after_s, Event::Answers { driver, ride, offer });
    }

    fn answers(&mut self, driver: usize, ride: usize, offer: u32) {
        let DriverState::Thinks { idle_since } = self.drivers[driver].state else { return };
        let still_wanted = self.rides[ride].state == RideState::Offered && self.rides[ride].offers == offer;
        let answer = self.people.answer(driver, ride);
        if still_wanted && matches!(answer, Answer::Accepts { .. }) {
            return self.accepts(driver, ride, idle_since);
        }
        if still_wanted {
            if matches!(answer, Answer::Declines { .. }) {
                self.rides[ride].asked.insert(self.drivers[driver].id, Reason::DeclinedBefore);
            }
            self.rides[ride].state = RideState::Waits;
            self.waiting.insert(ride);
        }
        self.drivers[driver].state = DriverState::Idle { since: idle_since };
        self.tell(driver, Duty::Free);
        self.something_is_due();
    }

    fn accepts(&mut self, driver: usize, ride: usize, idle_since: Moment) {
        self.rides[ride].state = RideState::Accepted { at: self.now };
        let (place, pickup) = (self.drivers[driver].place, self.rides[ride].planned.pickup);
        let drive_s = self.town.seconds(&[place], pickup)[0] * self.people.luck(driver, ride);
        let idle_s = seconds(self.now - idle_since);
        let day = &mut self.drivers[driver].day;
        day.longest_idle_s = day.longest_idle_s.max(idle_s);
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
        self.note_driving(driver, driven_s, 0.0);
        self.is_idle(driver);
    }

    fn arrives(&mut self, driver: usize, ride: usize) {
        let DriverState::DrivesTo { ride: to, began, .. } = self.drivers[driver].state else { return };
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
        self.rides[ride].state = RideState::OnBoard;
        let PlannedRide { pickup, dropoff, .. } = self.rides[ride].planned;
        let drive_s = self.town.seconds(&[pickup], dropoff)[0] * self.people.luck(driver, ride);
        self.note_driving(driver, seconds(self.now - began), drive_s);
        self.drivers[driver].state = DriverState::Serves;
        self.after(self.people.boarding_s(ride) + drive_s, Event::SetsDown { driver, ride });
    }

    fn note_driving(&mut self, driver: usize, empty_s: f64, paid_s: f64) {
        if self.counts(self.now) {
            let day = &mut self.drivers[driver].day;
            day.empty_s += empty_s;
            day.paid_s += paid_s;
            day.rides += usize::from(paid_s > 0.0);
        }
    }

    fn sets_down(&mut self, driver: usize, ride: usize) {
        self.rides[ride].state = RideState::Over;
        self.drivers[driver].place = self.rides[ride].planned.dropoff;
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
        self.drivers[driver].state = DriverState::Idle { since: self.now };
        self.tell(driver, Duty::Free);
        self.something_is_due();
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
        let Driver { id, state, .. } = &self.drivers[driver];
        let idle_since = match state {
            DriverState::Idle { since } | DriverState::Thinks { idle_since: since } => Some(*since),
            DriverState::DrivesTo { .. } | DriverState::Serves | DriverState::Away => None,
        };
        let standing = Standing {
            online: *state != DriverState::Away,
            vehicle_class: CLASS.into(),
            idle_since: idle_since.map(|since| EPOCH + Duration::milliseconds(since)),
            duty,
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
        self.fleet.observe(*id, &[Position { point, heading: None, recorded_at: now }], now);
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
