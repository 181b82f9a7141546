//! One ride after another, explored: every order in which a driver's trip can end while he accepts the next ride, and somebody
//! gives it up, cancels it or goes offline, or a node dies in the middle.
//!
//! As in `model.rs`, the steps are the grain at which transactions see each other. A ride's row is its lock; who accepts reads
//! the trip before and holds it, who ends a trip writes it and only then looks for what follows.

use stateright::{Checker, Model, Property};

/// The first ride is under way when this begins; the others look for a driver.
const RIDES: usize = 3;
/// Offers of one ride; enough to lose it and take it again.
const MOST_OFFERS: u8 = 2;

type RideNo = usize;

/// The rules; all of them are kept.
#[derive(Clone)]
struct Protocol {
    /// Who accepts holds the trip his ride is to follow.
    holds_the_trip_before: bool,
    /// One trip to follow per driver is a unique index.
    one_next_per_driver: bool,
    /// Going offline gives the next ride back.
    gives_back: bool,
}

const KEPT: Protocol = Protocol { holds_the_trip_before: true, one_next_per_driver: true, gives_back: true };

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    rides: [Ride; RIDES],
    online: bool,
    accepting: Option<Accepting>,
    ending: Option<Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ride {
    status: Status,
    offers: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Status {
    Requested,
    /// Offered to the driver, to follow this ride if any.
    Offered(Option<RideNo>),
    /// Accepted, and waits for this ride's trip to end.
    Waits(RideNo),
    UnderWay,
    Completed,
    Cancelled,
}

/// A transaction that accepts: it holds the ride, and has read the trip before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Accepting {
    ride: RideNo,
    follows: Option<RideNo>,
}

/// A transaction that ends a trip: it holds its ride and has written that it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ending {
    ride: RideNo,
    /// What it found to follow, if it looked already.
    found: Option<Option<RideNo>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// The dispatcher asks the driver.
    Asks(RideNo),
    Accepts(RideNo),
    Accepted,
    Ends(RideNo),
    Looks,
    Ended,
    /// The driver gives a ride up, or the trip before ran over.
    GivesBack(RideNo),
    Cancels(RideNo),
    GoesOffline,
    /// The node that accepts dies before it commits.
    DiesAccepting,
    /// The node that ends a trip does.
    DiesEnding,
}

impl World {
    fn under_way(&self) -> Vec<RideNo> {
        (0..RIDES).filter(|ride| self.rides[*ride].status == Status::UnderWay).collect()
    }

    fn waiting(&self) -> Vec<RideNo> {
        (0..RIDES).filter(|ride| matches!(self.rides[*ride].status, Status::Waits(_))).collect()
    }

    fn follower(&self, of: RideNo) -> Option<RideNo> {
        (0..RIDES).find(|ride| self.rides[*ride].status == Status::Waits(of))
    }

    fn is_held(&self, ride: RideNo) -> bool {
        let found = |ending: Ending| ending.ride == ride || ending.found == Some(Some(ride));
        self.accepting.is_some_and(|accepting| accepting.ride == ride) || self.ending.is_some_and(found)
    }

    fn has_offer(&self) -> bool {
        self.rides.iter().any(|ride| matches!(ride.status, Status::Offered(_)))
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let ride = |number| Ride { status: if number == 0 { Status::UnderWay } else { Status::Requested }, offers: 0 };
        vec![World { rides: std::array::from_fn(ride), online: true, accepting: None, ending: None }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let free = |ride: &RideNo| !world.is_held(*ride);
        for ride in (0..RIDES).filter(free) {
            match world.rides[ride].status {
                Status::Requested => {
                    // `insert_offers`: online, no other offer, no trip but one under way, and none that follows it.
                    let may_be_asked = world.online && !world.has_offer() && world.rides[ride].offers < MOST_OFFERS;
                    if may_be_asked && (world.waiting().is_empty() || !self.one_next_per_driver) {
                        steps.push(Step::Asks(ride));
                    }
                    steps.push(Step::Cancels(ride));
                }
                Status::Offered(_) => {
                    if world.accepting.is_none() {
                        steps.push(Step::Accepts(ride));
                    }
                    steps.push(Step::Cancels(ride));
                }
                Status::Waits(_) => steps.extend([Step::GivesBack(ride), Step::Cancels(ride)]),
                Status::UnderWay => {
                    // Writing that it ended waits for whoever holds the trip.
                    let follows_it = |accepting: Accepting| accepting.follows == Some(ride);
                    let is_held = self.holds_the_trip_before && world.accepting.is_some_and(follows_it);
                    if world.ending.is_none() && !is_held {
                        steps.push(Step::Ends(ride));
                    }
                }
                Status::Completed | Status::Cancelled => {}
            }
        }
        if world.accepting.is_some() {
            steps.extend([Step::Accepted, Step::DiesAccepting]);
        }
        if world.ending.is_some() {
            steps.push(Step::DiesEnding);
        }
        match world.ending {
            Some(Ending { found: None, .. }) => steps.push(Step::Looks),
            Some(Ending { found: Some(_), .. }) => steps.push(Step::Ended),
            None => {}
        }
        // Offers and waiting rides that somebody holds make it wait.
        let touches =
            (0..RIDES).filter(|ride| matches!(world.rides[*ride].status, Status::Offered(_) | Status::Waits(_)));
        if world.online && touches.clone().all(|ride| free(&ride)) {
            steps.push(Step::GoesOffline);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Asks(ride) => {
                let of = &mut next.rides[ride];
                of.offers += 1;
                // Who writes that a trip ended has not committed: it is seen under way.
                let before = world.under_way().first().copied();
                of.status = Status::Offered(before.or(world.ending.map(|ending| ending.ride)));
            }
            Step::Accepts(ride) => {
                let Status::Offered(before) = world.rides[ride].status else { return None };
                if before.is_some() && before == world.ending.map(|ending| ending.ride) && self.holds_the_trip_before {
                    // Waits for the trip, whose row somebody has written.
                    return None;
                }
                let is_under_way = |before: &RideNo| {
                    world.rides[*before].status == Status::UnderWay
                        || world.ending.is_some_and(|ending| ending.ride == *before)
                };
                next.accepting = Some(Accepting { ride, follows: before.filter(is_under_way) });
            }
            Step::Accepted => {
                let Accepting { ride, follows } = world.accepting?;
                next.accepting = None;
                let refused = match follows {
                    Some(_) => self.one_next_per_driver && !world.waiting().is_empty(),
                    None => !world.under_way().is_empty() || world.ending.is_some(),
                };
                if !refused {
                    next.rides[ride].status = follows.map_or(Status::UnderWay, Status::Waits);
                } else {
                    // The transaction changes nothing; the offer runs out.
                    next.rides[ride].status = Status::Requested;
                }
            }
            Step::Ends(ride) => {
                next.rides[ride].status = Status::Completed;
                next.ending = Some(Ending { ride, found: None });
            }
            Step::Looks => {
                let ending = world.ending?;
                let found = world.follower(ending.ride);
                if found.is_some_and(|found| world.is_held(found)) {
                    return None;
                }
                next.ending = Some(Ending { found: Some(found), ..ending });
            }
            Step::Ended => {
                let Ending { ride, found } = world.ending?;
                next.ending = None;
                if let Some(found) = found.flatten()
                    && world.rides[found].status == Status::Waits(ride)
                {
                    next.rides[found].status = Status::UnderWay;
                }
            }
            // Postgres rolls the transaction back.
            Step::DiesAccepting => next.accepting = None,
            Step::DiesEnding => {
                next.rides[world.ending?.ride].status = Status::UnderWay;
                next.ending = None;
            }
            Step::GivesBack(ride) => next.rides[ride].status = Status::Requested,
            Step::Cancels(ride) => next.rides[ride].status = Status::Cancelled,
            Step::GoesOffline => {
                next.online = false;
                for ride in &mut next.rides {
                    match ride.status {
                        Status::Offered(_) => ride.status = Status::Requested,
                        Status::Waits(_) if self.gives_back => ride.status = Status::Requested,
                        _ => {}
                    }
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a driver has one trip at most", |_, world: &World| world.under_way().len() <= 1),
            Property::always("a driver has one trip to follow at most", |_, world: &World| world.waiting().len() <= 1),
            Property::always("what waits, waits for a trip that has yet to end", |_, world: &World| {
                world.waiting().into_iter().all(|ride| {
                    let Status::Waits(before) = world.rides[ride].status else { return true };
                    let is_ending = world.ending.is_some_and(|ending| ending.ride == before);
                    world.rides[before].status == Status::UnderWay || is_ending
                })
            }),
            Property::always("nobody offline has a ride to follow", |_, world: &World| {
                world.online || world.waiting().is_empty()
            }),
            Property::sometimes("each ride is driven after the one before", |_, world: &World| {
                world.rides.iter().all(|ride| ride.status == Status::Completed)
            }),
            Property::sometimes("a ride given back is taken again", |_, world: &World| {
                world.rides.iter().any(|ride| ride.offers == MOST_OFFERS && ride.status == Status::UnderWay)
            }),
        ]
    }
}

#[test]
fn no_order_of_events_loses_a_ride_that_follows_another() {
    let explored = KEPT.checker().spawn_bfs().join();
    explored.assert_properties();
    println!("{} states of one ride after another", explored.unique_state_count());
    assert!(explored.unique_state_count() > 500, "{}", explored.unique_state_count());
}

#[test]
fn each_rule_of_chaining_is_there_for_something() {
    let left_out = [
        (Protocol { holds_the_trip_before: false, ..KEPT }, "what waits, waits for a trip that has yet to end"),
        (Protocol { one_next_per_driver: false, ..KEPT }, "a driver has one trip to follow at most"),
        (Protocol { gives_back: false, ..KEPT }, "nobody offline has a ride to follow"),
    ];
    for (protocol, broken) in left_out {
        let explored = protocol.checker().spawn_bfs().join();
        assert!(explored.discovery(broken).is_some(), "'{broken}' holds without the rule");
    }
}
