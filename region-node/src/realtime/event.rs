//! Events, told after the transaction that caused them has committed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use shared::ids::{DriverId, OfferId, RideId, RiderId, TenantId};
use time::OffsetDateTime;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{moves::Moves, rooms::Room};
use crate::{
    dispatch::{Due, OfferView},
    drivers::{Drivers, Duty, Position, Record},
    fare_shares::FareShare,
    payments::Payment,
    rides::{Ride, RideStatus, Viewer},
    zones::QueuePlace,
};

/// Something others want to hear of.
#[derive(Clone, Debug)]
pub enum Event {
    /// A ride looks for a driver.
    DispatchDue {
        /// Whose ride.
        tenant: TenantId,
        /// Which.
        ride_id: RideId,
        /// From when on.
        at: OffsetDateTime,
    },
    /// A payment has another status.
    PaymentChanged {
        /// Whose.
        tenant: TenantId,
        /// Who pays.
        rider_id: RiderId,
        /// As it is now.
        payment: Box<Payment>,
    },
    /// A share of a fare has another status.
    ShareChanged {
        /// Whose.
        tenant: TenantId,
        /// Who is told: who is asked to pay it, or whose ride it is.
        rider_id: RiderId,
        /// As it is now.
        share: Box<FareShare>,
    },
    /// A ride is new or changed; each party is shown what is theirs of it (`Ride::seen_by`).
    RideChanged(Box<Ride>),
    /// A driver is asked to take a ride.
    OfferMade {
        /// Whose.
        tenant: TenantId,
        /// Who.
        driver_id: DriverId,
        /// What.
        offer: OfferView,
        /// When.
        at: OffsetDateTime,
    },
    /// A driver need not answer an offer any more.
    OfferWithdrawn {
        /// Whose.
        tenant: TenantId,
        /// Who was asked.
        driver_id: DriverId,
        /// Which offer.
        offer_id: OfferId,
        /// Of which ride.
        ride_id: RideId,
        /// Why: `ride_cancelled`, `ride_taken`, `expired`, `driver_offline`, `trip_ran_over`.
        reason: &'static str,
        /// When.
        at: OffsetDateTime,
    },
    /// A driver has declined an offer; whoever told knows of it already.
    OfferDeclined {
        /// Whose.
        tenant: TenantId,
        /// Who.
        driver_id: DriverId,
        /// When.
        at: OffsetDateTime,
    },
    /// A driver who had a ride has it no more, and may be asked again.
    DriverFreed {
        /// Whose.
        tenant: TenantId,
        /// Who.
        driver_id: DriverId,
        /// Since when.
        since: OffsetDateTime,
    },
    /// A driver has answered an offer, or earned something.
    RecordChanged {
        /// Whose.
        tenant: TenantId,
        /// Who.
        driver_id: DriverId,
        /// All that is known of it now.
        record: Record,
    },
    /// A driver has another place in a zone's queue, or none any more. Each node tells its own sockets.
    QueueMoved {
        /// Whose.
        tenant: TenantId,
        /// Who.
        driver_id: DriverId,
        /// Where he stands.
        place: Option<QueuePlace>,
    },
    /// A driver on a trip is somewhere else now; only the trip's rider hears of it.
    DriverMoved {
        /// Whose.
        tenant: TenantId,
        /// On which ride.
        ride_id: RideId,
        /// Whose ride.
        rider_id: RiderId,
        /// Where to.
        position: Position,
    },
}

/// Messages of one lane that wait to be delivered.
const LANE: usize = 4_096;
/// Everybody's messages go one after the other, different people's by lanes, so that one slow delivery holds up few.
const LANES: usize = 8;

/// Where events are told. What this node's own table and dispatcher make of one takes effect at once; what people are to
/// hear waits in a lane of theirs. Nobody who tells ever waits.
#[derive(Clone)]
pub struct EventSender(Arc<Outlets>);

struct Outlets {
    drivers: Drivers,
    due: Due,
    lanes: Vec<Lane>,
    /// Positions are many and worth nothing later: they have lanes of their own, and no message waits behind one.
    moves: Vec<Arc<Moves>>,
}

struct Lane {
    messages: mpsc::Sender<Message>,
    /// A message found no room. Whoever this lane serves may have missed it.
    overflowed: Arc<AtomicBool>,
}

/// Where messages come out.
pub struct EventReceiver {
    pub(super) lanes: Vec<(mpsc::Receiver<Message>, Arc<AtomicBool>)>,
    pub(super) moves: Vec<Arc<Moves>>,
}

/// Something one person's sockets are to hear.
pub(super) struct Message {
    pub(super) room: Room,
    pub(super) says: Says,
}

/// What a message says.
pub(super) enum Says {
    Ride(Arc<Ride>, Viewer),
    Offer(OfferView),
    Withdrawn { offer_id: OfferId, ride_id: RideId, reason: &'static str },
    Payment(Box<Payment>),
    Share(Box<FareShare>),
    Queue(Option<QueuePlace>),
}

/// Bounded lanes for messages, and the table and dispatcher of this node.
pub fn channel(drivers: Drivers, due: Due) -> (EventSender, EventReceiver) {
    let moves: Vec<_> = (0..LANES).map(|_| Arc::new(Moves::new(LANE))).collect();
    let (mut lanes, mut receivers) = (Vec::new(), EventReceiver { lanes: Vec::new(), moves: moves.clone() });
    for _ in 0..LANES {
        let (messages, receiver) = mpsc::channel(LANE);
        let overflowed = Arc::new(AtomicBool::new(false));
        receivers.lanes.push((receiver, overflowed.clone()));
        lanes.push(Lane { messages, overflowed });
    }
    (EventSender(Arc::new(Outlets { drivers, due, lanes, moves })), receivers)
}

impl EventSender {
    /// Tells `event`.
    pub fn tell(&self, event: Event) {
        let Outlets { drivers, due, .. } = &*self.0;
        match event {
            Event::DispatchDue { tenant, ride_id: _, at } => due.tell(tenant, at),
            Event::RideChanged(ride) => {
                self.note_duty(&ride);
                let ride: Arc<Ride> = ride.into();
                self.send(Room::Rider(ride.tenant.clone(), ride.rider_id), Says::Ride(ride.clone(), Viewer::Rider));
                if let Some(driver_id) = ride.driver_id {
                    self.send(Room::Driver(ride.tenant.clone(), driver_id), Says::Ride(ride.clone(), Viewer::Driver));
                }
            }
            Event::OfferMade { tenant, driver_id, offer, at } => {
                // Who is on a trip stays on it while he thinks about the next.
                if offer.after_trip_id.is_none() {
                    drivers.set_duty(&tenant, driver_id, Duty::Offered { until: offer.expires_at }, at);
                }
                self.send(Room::Driver(tenant, driver_id), Says::Offer(offer));
            }
            Event::OfferWithdrawn { tenant, driver_id, offer_id, ride_id, reason, at } => {
                drivers.end_offer(&tenant, driver_id, at);
                self.send(Room::Driver(tenant, driver_id), Says::Withdrawn { offer_id, ride_id, reason });
            }
            Event::OfferDeclined { tenant, driver_id, at } => drivers.end_offer(&tenant, driver_id, at),
            Event::DriverFreed { tenant, driver_id, since } => {
                drivers.set_duty(&tenant, driver_id, Duty::Free, since);
            }
            Event::RecordChanged { tenant, driver_id, record } => drivers.set_record(&tenant, driver_id, record),
            Event::PaymentChanged { tenant, rider_id, payment } => {
                self.send(Room::Rider(tenant, rider_id), Says::Payment(payment));
            }
            Event::ShareChanged { tenant, rider_id, share } => {
                self.send(Room::Rider(tenant, rider_id), Says::Share(share));
            }
            Event::QueueMoved { tenant, driver_id, place } => {
                self.send(Room::Driver(tenant, driver_id), Says::Queue(place));
            }
            Event::DriverMoved { tenant, ride_id, rider_id, position } => {
                let room = Room::Rider(tenant, rider_id);
                self.0.moves[room.lane(LANES)].tell(room, ride_id, position);
            }
        }
    }

    /// A hint for searches; the ride itself says so.
    fn note_duty(&self, ride: &Ride) {
        // The driver of a ride that waits for another is busy with that one.
        let Some(driver_id) = ride.driver_id.filter(|_| ride.after_trip_id.is_none()) else { return };
        let duty = match ride.status {
            RideStatus::Accepted | RideStatus::Arrived | RideStatus::InProgress => {
                Duty::OnTrip { ride_id: ride.id, rider_id: ride.rider_id }
            }
            RideStatus::Completed | RideStatus::Cancelled | RideStatus::Expired => Duty::Free,
            RideStatus::Requested | RideStatus::Offered => return,
        };
        self.0.drivers.set_duty(&ride.tenant, driver_id, duty, ride.updated_at);
    }

    fn send(&self, room: Room, says: Says) {
        let lane = &self.0.lanes[room.lane(LANES)];
        // At shutdown nobody listens any more, and that is fine: what is told is in the database.
        if let Err(TrySendError::Full(_)) = lane.messages.try_send(Message { room, says }) {
            lane.overflowed.store(true, Ordering::Relaxed);
            metrics::counter!("region_node_events_dropped_total", "what" => "message").increment(1);
        }
    }
}
