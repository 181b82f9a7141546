//! Events, told after the transaction that caused them has committed.

use shared::ids::{DriverId, OfferId, RideId, RiderId, TenantId};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::{dispatch::OfferView, drivers::Position, payments::Payment, rides::Ride};

/// Something others want to hear of.
#[derive(Clone, Debug)]
pub enum Event {
    /// A ride looks for a driver now.
    DispatchDue {
        /// Whose ride.
        tenant: TenantId,
        /// Which.
        ride_id: RideId,
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
        /// Why: `ride_cancelled`, `ride_taken`, `expired`, `driver_offline`.
        reason: &'static str,
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

/// Events waiting to be delivered; beyond this a teller waits.
const QUEUE: usize = 4_096;

/// Where events are told.
#[derive(Clone, Debug)]
pub struct EventSender(mpsc::Sender<Event>);

/// Where they come out.
pub type EventReceiver = mpsc::Receiver<Event>;

/// A bounded queue of events.
pub fn channel() -> (EventSender, EventReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (EventSender(sender), receiver)
}

impl EventSender {
    /// Tells `event`; waits while the queue is full. At shutdown nobody listens any more, and that is fine: what is told
    /// is in the database.
    pub async fn send(&self, event: Event) {
        let _ = self.0.send(event).await;
    }

    /// Tells what is worth nothing later: dropped while the queue is full.
    pub fn try_send(&self, event: Event) {
        if self.0.try_send(event).is_err() {
            metrics::counter!("region_node_events_dropped_total").increment(1);
        }
    }
}
