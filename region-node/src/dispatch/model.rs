//! The offer protocol, explored: every order in which two nodes, two drivers and two rides can meet.
//!
//! The model is this module's SQL at the grain at which transactions see each other: a node claims, plans, inserts under the
//! snapshot its statement began with, marks under a new one, and commits; it may be slow or die anywhere in between. What is
//! locked cannot be changed, and what is not committed cannot be seen, by others. Whom a node asks is free: its table may
//! believe anything. Each rule of the protocol can be left out, and then the model must find what that rule is for.

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};

const RIDES: usize = 2;
const DRIVERS: usize = 2;
const NODES: usize = 2;
/// Claims of one ride; enough for each node to claim, die or be slow, and be overtaken.
const MOST_CLAIMS: u8 = 3;

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
    /// A lease ends by itself.
    leases_end: bool,
}

const KEPT: Protocol = Protocol {
    checks_the_lease: true,
    checks_trips_again: true,
    holds_drivers: true,
    one_offer_per_driver: true,
    releases: true,
    leases_end: true,
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
    locked_by: Option<NodeNo>,
    /// Who drives.
    trip: Option<DriverNo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Status {
    Requested,
    Offered,
    Accepted,
    Cancelled,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Driver {
    online: bool,
    /// Rides offered, by committed transactions.
    offers: BTreeSet<RideNo>,
    /// Rides offered by a transaction that has yet to commit.
    pending: BTreeSet<RideNo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Node {
    Idle,
    /// Claimed a ride and chose a driver.
    Planned {
        ride: RideNo,
        claim: u8,
        ask: DriverNo,
    },
    /// The insert has begun: these drivers had a trip by its snapshot.
    Inserting {
        ride: RideNo,
        ask: DriverNo,
        busy: BTreeSet<DriverNo>,
    },
    /// The offer is there, for this transaction alone; or there is none.
    Inserted {
        ride: RideNo,
        ask: DriverNo,
        made: bool,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Claims {
        node: NodeNo,
        ride: RideNo,
        ask: DriverNo,
    },
    Begins(NodeNo),
    Inserts(NodeNo),
    MarksAndCommits(NodeNo),
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

impl World {
    fn has_trip(&self, driver: DriverNo) -> bool {
        self.rides.iter().any(|ride| ride.trip == Some(driver))
    }

    fn busy(&self) -> BTreeSet<DriverNo> {
        (0..DRIVERS).filter(|driver| self.has_trip(*driver)).collect()
    }

    fn is_held(&self, driver: DriverNo) -> bool {
        self.nodes.iter().any(|node| matches!(node, Node::Inserted { ask, made: true, .. } if *ask == driver))
    }

    /// Ends what is offered of a ride.
    fn withdraw(&mut self, ride: RideNo) {
        for driver in &mut self.drivers {
            driver.offers.remove(&ride);
        }
    }

    /// As `release` does: a ride none of whose offers is left is due again.
    fn release(&mut self, ride: RideNo, protocol: &Protocol) {
        let is_offered = self.drivers.iter().any(|driver| driver.offers.contains(&ride));
        let of = &mut self.rides[ride];
        if of.status == Status::Offered && !is_offered && protocol.releases {
            (of.status, of.lease) = (Status::Requested, None);
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let ride = Ride { status: Status::Requested, lease: None, claims: 0, locked_by: None, trip: None };
        let driver = || Driver { online: true, offers: BTreeSet::new(), pending: BTreeSet::new() };
        vec![World { rides: [ride; RIDES], drivers: [driver(), driver()], nodes: [Node::Idle, Node::Idle] }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (node, state) in world.nodes.iter().enumerate() {
            match state {
                Node::Idle => {
                    for (ride, of) in world.rides.iter().enumerate() {
                        let is_due = of.status == Status::Requested && of.lease.is_none();
                        if is_due && of.locked_by.is_none() && of.claims < MOST_CLAIMS {
                            steps.extend((0..DRIVERS).map(|ask| Step::Claims { node, ride, ask }));
                        }
                    }
                }
                Node::Planned { ride, .. } if world.rides[*ride].locked_by.is_none() => steps.push(Step::Begins(node)),
                Node::Planned { .. } => {}
                // The index makes it wait for who inserts, and has not committed, the same.
                Node::Inserting { ask, .. } => {
                    if world.drivers[*ask].pending.is_empty() || !self.one_offer_per_driver {
                        steps.push(Step::Inserts(node));
                    }
                }
                Node::Inserted { .. } => steps.push(Step::MarksAndCommits(node)),
            }
            if *state != Node::Idle {
                steps.push(Step::Dies(node));
            }
        }
        for (ride, of) in world.rides.iter().enumerate().filter(|(_, ride)| ride.locked_by.is_none()) {
            if of.lease.is_some() && of.status == Status::Requested && self.leases_end {
                steps.push(Step::LeaseEnds(ride));
            }
            if of.status != Status::Cancelled {
                steps.push(Step::Cancels(ride));
            }
            if of.trip.is_some() {
                steps.push(Step::GivesUp(ride));
            }
            for driver in (0..DRIVERS).filter(|driver| world.drivers[*driver].offers.contains(&ride)) {
                steps.push(Step::Accepts { driver, ride });
                steps.push(Step::LetsGo { driver, ride });
            }
        }
        for (driver, of) in world.drivers.iter().enumerate() {
            let offers_are_free = of.offers.iter().all(|ride| world.rides[*ride].locked_by.is_none());
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
                let is_open = matches!(of.status, Status::Requested | Status::Offered);
                if !is_open || (self.checks_the_lease && of.lease != Some(claim)) {
                    next.nodes[node] = Node::Idle;
                } else {
                    of.locked_by = Some(node);
                    next.nodes[node] = Node::Inserting { ride, ask, busy: world.busy() };
                }
            }
            Step::Inserts(node) => {
                let Node::Inserting { ride, ask, busy } = next.nodes[node].clone() else { return None };
                let driver = &mut next.drivers[ask];
                let is_free = driver.offers.is_empty() || !self.one_offer_per_driver;
                let made = driver.online && !busy.contains(&ask) && is_free;
                if made {
                    driver.pending.insert(ride);
                }
                next.nodes[node] = Node::Inserted { ride, ask, made };
            }
            Step::MarksAndCommits(node) => {
                let Node::Inserted { ride, ask, made } = next.nodes[node].clone() else { return None };
                let keeps = made && !(self.checks_trips_again && world.has_trip(ask));
                next.drivers[ask].pending.remove(&ride);
                let of = &mut next.rides[ride];
                (of.locked_by, of.lease) = (None, None);
                if keeps {
                    of.status = Status::Offered;
                    next.drivers[ask].offers.insert(ride);
                }
                next.nodes[node] = Node::Idle;
            }
            Step::Dies(node) => {
                // Postgres rolls its transaction back.
                if let Node::Inserting { ride, ask, .. } | Node::Inserted { ride, ask, .. } = next.nodes[node].clone() {
                    next.rides[ride].locked_by = None;
                    next.drivers[ask].pending.remove(&ride);
                }
                next.nodes[node] = Node::Idle;
            }
            Step::LeaseEnds(ride) => next.rides[ride].lease = None,
            Step::Accepts { driver, ride } => {
                // `one_active_trip_per_driver` refuses him who has one, and his transaction changes nothing.
                if world.has_trip(driver) {
                    return None;
                }
                next.withdraw(ride);
                (next.rides[ride].status, next.rides[ride].trip) = (Status::Accepted, Some(driver));
            }
            Step::LetsGo { driver, ride } => {
                next.drivers[driver].offers.remove(&ride);
                next.release(ride, self);
            }
            Step::GivesUp(ride) => {
                let of = &mut next.rides[ride];
                (of.status, of.trip, of.lease) = (Status::Requested, None, None);
            }
            Step::Cancels(ride) => {
                next.withdraw(ride);
                (next.rides[ride].status, next.rides[ride].trip) = (Status::Cancelled, None);
            }
            Step::GoesOffline(driver) => {
                next.drivers[driver].online = false;
                for ride in std::mem::take(&mut next.drivers[driver].offers) {
                    next.release(ride, self);
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a driver has one trip at most", |_, world: &World| {
                (0..DRIVERS).all(|driver| world.rides.iter().filter(|ride| ride.trip == Some(driver)).count() <= 1)
            }),
            Property::always("a driver thinks about one offer at most", |_, world: &World| {
                world.drivers.iter().all(|driver| driver.offers.len() <= 1)
            }),
            Property::always("a ride is put to one driver at a time", |_, world: &World| {
                (0..RIDES).all(|ride| world.drivers.iter().filter(|driver| driver.offers.contains(&ride)).count() <= 1)
            }),
            Property::always("nobody on a trip is asked", |_, world: &World| {
                (0..DRIVERS).all(|driver| !world.has_trip(driver) || world.drivers[driver].offers.is_empty())
            }),
            Property::always("nobody offline is asked", |_, world: &World| {
                world.drivers.iter().all(|driver| driver.online || driver.offers.is_empty())
            }),
            Property::always("only an open ride is offered, and an offered one has its offer", |_, world: &World| {
                (0..RIDES).all(|ride| {
                    let has_offer = world.drivers.iter().any(|driver| driver.offers.contains(&ride));
                    (world.rides[ride].status == Status::Offered) == has_offer
                })
            }),
            Property::always("a ride that waits is due, or will be", |protocol: &Self, world: &World| {
                world.rides.iter().enumerate().all(|(number, ride)| {
                    let is_worked_on = world.nodes.iter().any(|node| match node {
                        Node::Idle => false,
                        Node::Planned { ride, .. } | Node::Inserting { ride, .. } | Node::Inserted { ride, .. } => {
                            *ride == number
                        }
                    });
                    ride.status != Status::Requested || ride.lease.is_none() || is_worked_on || protocol.leases_end
                })
            }),
            Property::sometimes("both rides are driven", |_, world: &World| {
                world.rides.iter().all(|ride| ride.trip.is_some())
            }),
            Property::sometimes("a ride is driven after a node died and another was overtaken", |_, world: &World| {
                world.rides.iter().any(|ride| ride.claims == MOST_CLAIMS && ride.trip.is_some())
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
        (Protocol { checks_the_lease: false, ..KEPT }, "a ride is put to one driver at a time"),
        (Protocol { checks_trips_again: false, ..KEPT }, "nobody on a trip is asked"),
        (Protocol { holds_drivers: false, ..KEPT }, "nobody offline is asked"),
        (Protocol { one_offer_per_driver: false, ..KEPT }, "a driver thinks about one offer at most"),
        (Protocol { releases: false, ..KEPT }, "only an open ride is offered, and an offered one has its offer"),
        (Protocol { leases_end: false, ..KEPT }, "a ride that waits is due, or will be"),
    ];
    for (protocol, broken) in left_out {
        let explored = protocol.checker().threads(2).spawn_bfs().join();
        assert!(explored.discovery(broken).is_some(), "'{broken}' holds without the rule");
    }
}
