//! The offer protocol, explored: every order in which two nodes, two drivers and two rides can meet, a ride being offered to
//! one of them or to both at once.
//!
//! The model is this module's SQL at the grain at which transactions see each other: a node claims, plans, inserts under the
//! snapshot its statement began with, marks under a new one, and commits; it may be slow or die anywhere in between. What is
//! locked cannot be changed, and what is not committed cannot be seen, by others. Whom a node asks is free: its table may
//! believe anything. That no ride hangs is asked of each state: whatever happened, nodes and time alone end every ride. Each
//! rule of the protocol can be left out, and then the model must find what that rule is for.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, HasDiscoveries, Model, Property};

const RIDES: usize = 2;
const DRIVERS: usize = 2;
const NODES: usize = 2;
/// Claims of one ride that may go wrong; enough for each node to claim, die or be slow, and be overtaken. What ends the ride is
/// claimed after them, too, by a node that is in time.
const MOST_CLAIMS: u8 = 3;
/// More than all nodes have left to do once nobody disturbs them.
const REST: usize = 40;

type RideNo = usize;
type DriverNo = usize;
type NodeNo = usize;

/// The rules; all of them are kept.
#[derive(Clone)]
struct Protocol {
    /// The second transaction acts only on rides whose lease is still its own.
    checks_the_lease: bool,
    /// Marking takes back offers whose driver got a trip meanwhile.
    checks_trips_again: bool,
    /// Inserting holds the drivers' rows.
    holds_drivers: bool,
    /// One live offer per driver is a unique index.
    one_offer_per_driver: bool,
    /// A ride whose last offer ended is due again.
    releases: bool,
    /// But not while another of the group still has its offer.
    waits_for_the_group: bool,
    /// Who accepts takes the others' offers back.
    takes_the_others_back: bool,
    /// Whether the offer is still open is read with the ride held, not before.
    accepts_under_the_lock: bool,
    /// A lease ends by itself.
    leases_end: bool,
    /// A ride nobody took in time is claimed to be ended.
    expires: bool,
}

const KEPT: Protocol = Protocol {
    checks_the_lease: true,
    checks_trips_again: true,
    holds_drivers: true,
    one_offer_per_driver: true,
    releases: true,
    waits_for_the_group: true,
    takes_the_others_back: true,
    accepts_under_the_lock: true,
    leases_end: true,
    expires: true,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    rides: [Ride; RIDES],
    drivers: [Driver; DRIVERS],
    nodes: [Node; NODES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ride {
    status: Status,
    /// Number of the claim that holds it; none while it is due.
    lease: Option<u8>,
    claims: u8,
    /// Nobody took it in time; clocks differ, so that some may take it for open still.
    is_late: bool,
    locked_by: Option<NodeNo>,
    /// Who drives.
    trips: Drivers,
}

/// A set of drivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Drivers(u8);

impl Drivers {
    /// Whom a node may ask: each driver alone, and all of them.
    fn groups() -> impl Iterator<Item = Self> {
        (1..1 << DRIVERS).map(Self)
    }

    fn only(driver: DriverNo) -> Self {
        Self(1 << driver)
    }

    fn has(self, driver: DriverNo) -> bool {
        self.0 & 1 << driver != 0
    }

    fn iter(self) -> impl Iterator<Item = DriverNo> {
        (0..DRIVERS).filter(move |driver| self.has(*driver))
    }

    fn those(self, keep: impl Fn(DriverNo) -> bool) -> Self {
        Self(self.iter().filter(|driver| keep(*driver)).map(|driver| 1 << driver).sum())
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Status {
    Requested,
    Offered,
    Accepted,
    Cancelled,
    Expired,
}

impl Status {
    fn is_open(self) -> bool {
        matches!(self, Self::Requested | Self::Offered)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Driver {
    online: bool,
    /// Rides offered, by committed transactions, and by which claim.
    offers: BTreeMap<RideNo, u8>,
    /// Rides he saw offered and may accept though it is over, where nobody looks again.
    remembers: BTreeSet<RideNo>,
    /// Rides offered by a transaction that has yet to commit.
    pending: BTreeSet<RideNo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Node {
    Idle,
    /// Claimed a ride and chose whom to ask.
    Planned {
        ride: RideNo,
        claim: u8,
        ask: Drivers,
    },
    /// The insert has begun: these drivers had a trip by its snapshot.
    Inserting {
        ride: RideNo,
        claim: u8,
        ask: Drivers,
        busy: Drivers,
    },
    /// The offers are there, for this transaction alone.
    Inserted {
        ride: RideNo,
        claim: u8,
        made: Drivers,
    },
    /// Claimed a ride to end it.
    Ending {
        ride: RideNo,
        claim: u8,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Claims {
        node: NodeNo,
        ride: RideNo,
        ask: Drivers,
    },
    Begins(NodeNo),
    Inserts(NodeNo),
    MarksAndCommits(NodeNo),
    TimeIsUp(RideNo),
    ClaimsToEnd {
        node: NodeNo,
        ride: RideNo,
    },
    Ends(NodeNo),
    Dies(NodeNo),
    LeaseEnds(RideNo),
    Accepts {
        driver: DriverNo,
        ride: RideNo,
    },
    /// Declines, or lets the offer run out.
    LetsGo {
        driver: DriverNo,
        ride: RideNo,
    },
    GivesUp(RideNo),
    Cancels(RideNo),
    GoesOffline(DriverNo),
}

impl Step {
    /// In which order things happen that need neither people nor faults: nodes finish what they do, then time passes and brings
    /// them work. None for what may never happen.
    fn turn(&self) -> Option<u8> {
        match self {
            Self::Begins(_) | Self::Inserts(_) | Self::MarksAndCommits(_) | Self::Ends(_) => Some(0),
            Self::LetsGo { .. } => Some(1),
            Self::TimeIsUp(_) => Some(2),
            Self::LeaseEnds(_) => Some(3),
            Self::ClaimsToEnd { .. } => Some(4),
            Self::Claims { .. }
            | Self::Dies(_)
            | Self::Accepts { .. }
            | Self::GivesUp(_)
            | Self::Cancels(_)
            | Self::GoesOffline(_) => None,
        }
    }
}

impl World {
    fn has_trip(&self, driver: DriverNo) -> bool {
        self.rides.iter().any(|ride| ride.trips.has(driver))
    }

    fn is_held(&self, driver: DriverNo) -> bool {
        self.nodes.iter().any(|node| matches!(node, Node::Inserted { made, .. } if made.has(driver)))
    }

    fn is_offered(&self, ride: RideNo) -> bool {
        self.drivers.iter().any(|driver| driver.offers.contains_key(&ride))
    }

    /// Ends what is offered of a ride.
    fn withdraw(&mut self, ride: RideNo) {
        for driver in &mut self.drivers {
            driver.offers.remove(&ride);
        }
    }

    /// As `release` does: a ride none of whose offers is left is due again.
    fn release(&mut self, ride: RideNo, protocol: &Protocol) {
        let is_offered = self.is_offered(ride) && protocol.waits_for_the_group;
        let of = &mut self.rides[ride];
        if of.status == Status::Offered && !is_offered && protocol.releases {
            (of.status, of.lease) = (Status::Requested, None);
        }
    }

    /// Whether every ride ends once people do nothing more and no node fails: from wherever it is, time and the nodes alone
    /// bring it to its end.
    fn comes_to_rest(&self, protocol: &Protocol) -> bool {
        let mut world = self.clone();
        let mut steps = Vec::new();
        for _ in 0..REST {
            if !world.rides.iter().any(|ride| ride.status.is_open()) {
                return true;
            }
            protocol.actions(&world, &mut steps);
            let by_turn = |step: &Step| Some((step.turn()?, step.clone()));
            let Some((_, step)) = steps.drain(..).filter_map(|step| by_turn(&step)).min_by_key(|(turn, _)| *turn)
            else {
                return false;
            };
            world = protocol.next_state(&world, step).expect("what happens by itself is never refused");
        }
        false
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let ride = Ride {
            status: Status::Requested,
            lease: None,
            claims: 0,
            is_late: false,
            locked_by: None,
            trips: Drivers::default(),
        };
        let driver =
            || Driver { online: true, offers: BTreeMap::new(), remembers: BTreeSet::new(), pending: BTreeSet::new() };
        vec![World { rides: [ride; RIDES], drivers: [driver(), driver()], nodes: [Node::Idle, Node::Idle] }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (node, state) in world.nodes.iter().enumerate() {
            match state {
                Node::Idle => {
                    for (ride, of) in world.rides.iter().enumerate() {
                        let is_due = of.status.is_open() && of.lease.is_none() && of.locked_by.is_none();
                        let is_asked_for = is_due && of.status == Status::Requested && of.claims < MOST_CLAIMS;
                        if is_asked_for && !of.is_late {
                            steps.extend(Drivers::groups().map(|ask| Step::Claims { node, ride, ask }));
                        }
                        if is_due && of.is_late && self.expires {
                            steps.push(Step::ClaimsToEnd { node, ride });
                        }
                    }
                }
                Node::Planned { ride, .. } if world.rides[*ride].locked_by.is_none() => steps.push(Step::Begins(node)),
                Node::Ending { ride, .. } if world.rides[*ride].locked_by.is_none() => steps.push(Step::Ends(node)),
                Node::Planned { .. } | Node::Ending { .. } => {}
                // The index makes it wait for who inserts, and has not committed, the same.
                Node::Inserting { ask, .. } => {
                    let is_free = |driver: DriverNo| world.drivers[driver].pending.is_empty();
                    if ask.iter().all(is_free) || !self.one_offer_per_driver {
                        steps.push(Step::Inserts(node));
                    }
                }
                Node::Inserted { .. } => steps.push(Step::MarksAndCommits(node)),
            }
            let is_in_time = matches!(state, Node::Ending { claim, .. } if *claim > MOST_CLAIMS);
            if *state != Node::Idle && !is_in_time {
                steps.push(Step::Dies(node));
            }
        }
        for (ride, of) in world.rides.iter().enumerate().filter(|(_, ride)| ride.locked_by.is_none()) {
            if of.lease.is_some_and(|claim| claim <= MOST_CLAIMS) && of.status.is_open() && self.leases_end {
                steps.push(Step::LeaseEnds(ride));
            }
            if of.status.is_open() && !of.is_late {
                steps.push(Step::TimeIsUp(ride));
            }
            if !matches!(of.status, Status::Cancelled | Status::Expired) {
                steps.push(Step::Cancels(ride));
            }
            if !of.trips.is_empty() {
                steps.push(Step::GivesUp(ride));
            }
            for (driver, of) in world.drivers.iter().enumerate() {
                if of.offers.contains_key(&ride) || of.remembers.contains(&ride) {
                    steps.push(Step::Accepts { driver, ride });
                }
                if of.offers.contains_key(&ride) {
                    steps.push(Step::LetsGo { driver, ride });
                }
            }
        }
        for (driver, of) in world.drivers.iter().enumerate() {
            let offers_are_free = of.offers.keys().all(|ride| world.rides[*ride].locked_by.is_none());
            if of.online && offers_are_free && !(self.holds_drivers && world.is_held(driver)) {
                steps.push(Step::GoesOffline(driver));
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Claims { node, ride, ask } => {
                let of = &mut next.rides[ride];
                of.claims += 1;
                of.lease = Some(of.claims);
                next.nodes[node] = Node::Planned { ride, claim: of.claims, ask };
            }
            Step::Begins(node) => {
                let Node::Planned { ride, claim, ask } = next.nodes[node].clone() else { return None };
                let of = &mut next.rides[ride];
                if !of.status.is_open() || (self.checks_the_lease && of.lease != Some(claim)) {
                    next.nodes[node] = Node::Idle;
                } else {
                    of.locked_by = Some(node);
                    let busy = ask.those(|driver| world.has_trip(driver));
                    next.nodes[node] = Node::Inserting { ride, claim, ask, busy };
                }
            }
            Step::Inserts(node) => {
                let Node::Inserting { ride, claim, ask, busy } = next.nodes[node].clone() else { return None };
                let made = ask.those(|driver| {
                    let of = &world.drivers[driver];
                    of.online && !busy.has(driver) && (of.offers.is_empty() || !self.one_offer_per_driver)
                });
                made.iter().for_each(|driver| _ = next.drivers[driver].pending.insert(ride));
                next.nodes[node] = Node::Inserted { ride, claim, made };
            }
            Step::MarksAndCommits(node) => {
                let Node::Inserted { ride, claim, made } = next.nodes[node].clone() else { return None };
                let kept = made.those(|driver| !(self.checks_trips_again && world.has_trip(driver)));
                made.iter().for_each(|driver| _ = next.drivers[driver].pending.remove(&ride));
                let of = &mut next.rides[ride];
                (of.locked_by, of.lease) = (None, None);
                if !kept.is_empty() {
                    of.status = Status::Offered;
                }
                for driver in kept.iter() {
                    next.drivers[driver].offers.insert(ride, claim);
                    if !self.accepts_under_the_lock {
                        next.drivers[driver].remembers.insert(ride);
                    }
                }
                next.nodes[node] = Node::Idle;
            }
            Step::TimeIsUp(ride) => next.rides[ride].is_late = true,
            Step::ClaimsToEnd { node, ride } => {
                let of = &mut next.rides[ride];
                of.claims += 1;
                of.lease = Some(of.claims);
                next.nodes[node] = Node::Ending { ride, claim: of.claims };
            }
            Step::Ends(node) => {
                let Node::Ending { ride, claim } = next.nodes[node].clone() else { return None };
                next.nodes[node] = Node::Idle;
                let of = next.rides[ride];
                if of.status.is_open() && (!self.checks_the_lease || of.lease == Some(claim)) {
                    next.withdraw(ride);
                    (next.rides[ride].status, next.rides[ride].lease) = (Status::Expired, None);
                }
            }
            Step::Dies(node) => {
                // Postgres rolls its transaction back.
                if let Node::Inserting { ride, .. } | Node::Inserted { ride, .. } = next.nodes[node].clone() {
                    next.rides[ride].locked_by = None;
                }
                if let Node::Inserted { ride, made, .. } = next.nodes[node].clone() {
                    made.iter().for_each(|driver| _ = next.drivers[driver].pending.remove(&ride));
                }
                next.nodes[node] = Node::Idle;
            }
            Step::LeaseEnds(ride) => next.rides[ride].lease = None,
            Step::Accepts { driver, ride } => {
                // `one_active_trip_per_driver` refuses him who has one, and his transaction changes nothing.
                if world.has_trip(driver) {
                    return None;
                }
                match self.takes_the_others_back {
                    true => next.withdraw(ride),
                    false => _ = next.drivers[driver].offers.remove(&ride),
                }
                let of = &mut next.rides[ride];
                of.status = Status::Accepted;
                of.trips = Drivers(of.trips.0 | Drivers::only(driver).0);
            }
            Step::LetsGo { driver, ride } => {
                next.drivers[driver].offers.remove(&ride);
                next.release(ride, self);
            }
            Step::GivesUp(ride) => {
                let of = &mut next.rides[ride];
                // Its time begins anew.
                (of.status, of.trips, of.lease, of.is_late) = (Status::Requested, Drivers::default(), None, false);
            }
            Step::Cancels(ride) => {
                next.withdraw(ride);
                (next.rides[ride].status, next.rides[ride].trips) = (Status::Cancelled, Drivers::default());
            }
            Step::GoesOffline(driver) => {
                next.drivers[driver].online = false;
                for ride in std::mem::take(&mut next.drivers[driver].offers).into_keys() {
                    next.release(ride, self);
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a driver has one trip at most", |_, world: &World| {
                (0..DRIVERS).all(|driver| world.rides.iter().filter(|ride| ride.trips.has(driver)).count() <= 1)
            }),
            Property::always("a ride has one driver at most", |_, world: &World| {
                world.rides.iter().all(|ride| ride.trips.iter().count() <= 1)
            }),
            Property::always("a driver thinks about one offer at most", |_, world: &World| {
                world.drivers.iter().all(|driver| driver.offers.len() <= 1)
            }),
            Property::always("a ride is put to one group at a time", |_, world: &World| {
                let claims = |ride| world.drivers.iter().filter_map(move |driver| driver.offers.get(&ride));
                (0..RIDES).all(|ride| claims(ride).collect::<BTreeSet<_>>().len() <= 1)
            }),
            Property::always("nobody on a trip is asked", |_, world: &World| {
                (0..DRIVERS).all(|driver| !world.has_trip(driver) || world.drivers[driver].offers.is_empty())
            }),
            Property::always("nobody offline is asked", |_, world: &World| {
                world.drivers.iter().all(|driver| driver.online || driver.offers.is_empty())
            }),
            Property::always("only an open ride is offered, and an offered one has its offer", |_, world: &World| {
                (0..RIDES).all(|ride| (world.rides[ride].status == Status::Offered) == world.is_offered(ride))
            }),
            Property::always("only a ride nobody took in time expires", |_, world: &World| {
                world.rides.iter().all(|ride| ride.status != Status::Expired || ride.is_late)
            }),
            Property::always("a ride never hangs", |protocol: &Self, world: &World| world.comes_to_rest(protocol)),
            Property::sometimes("both rides are driven", |_, world: &World| {
                world.rides.iter().all(|ride| !ride.trips.is_empty())
            }),
            Property::sometimes("both drivers think about one ride", |_, world: &World| {
                (0..RIDES).any(|ride| world.drivers.iter().all(|driver| driver.offers.contains_key(&ride)))
            }),
            Property::sometimes("a ride is driven after a node died and another was overtaken", |_, world: &World| {
                world.rides.iter().any(|ride| ride.claims == MOST_CLAIMS && !ride.trips.is_empty())
            }),
            Property::sometimes("a ride expires after nodes failed to end it", |_, world: &World| {
                world.rides.iter().any(|ride| ride.claims > MOST_CLAIMS && ride.status == Status::Expired)
            }),
        ]
    }
}

#[test]
fn no_order_of_events_gives_a_driver_two_rides_or_a_ride_two_drivers_or_lets_one_hang() {
    let explored = KEPT.checker().threads(2).spawn_bfs().join();
    explored.assert_properties();
    println!("{} states of the offer protocol", explored.unique_state_count());
    assert!(explored.unique_state_count() > 10_000, "{}", explored.unique_state_count());
}

#[test]
fn each_rule_of_the_protocol_is_there_for_something() {
    let left_out = [
        (Protocol { checks_the_lease: false, ..KEPT }, "a ride is put to one group at a time"),
        (Protocol { checks_trips_again: false, ..KEPT }, "nobody on a trip is asked"),
        (Protocol { holds_drivers: false, ..KEPT }, "nobody offline is asked"),
        (Protocol { one_offer_per_driver: false, ..KEPT }, "a driver thinks about one offer at most"),
        (Protocol { releases: false, ..KEPT }, "only an open ride is offered, and an offered one has its offer"),
        (
            Protocol { waits_for_the_group: false, ..KEPT },
            "only an open ride is offered, and an offered one has its offer",
        ),
        (
            Protocol { takes_the_others_back: false, ..KEPT },
            "only an open ride is offered, and an offered one has its offer",
        ),
        (Protocol { accepts_under_the_lock: false, ..KEPT }, "a ride has one driver at most"),
        (Protocol { checks_the_lease: false, ..KEPT }, "only a ride nobody took in time expires"),
        (Protocol { leases_end: false, ..KEPT }, "a ride never hangs"),
        (Protocol { expires: false, ..KEPT }, "a ride never hangs"),
    ];
    for (protocol, broken) in left_out {
        let found = HasDiscoveries::AllOf([broken].into());
        let explored = protocol.checker().threads(2).finish_when(found).spawn_bfs().join();
        assert!(explored.discovery(broken).is_some(), "'{broken}' holds without the rule");
    }
}
