//! Events become messages in rooms, and news for the live table and the dispatcher.

use fred::{clients::SubscriberClient, prelude::ClientLike, types::ClientState};
use serde::Serialize;
use serde_json::json;
use shared::ids::{OfferId, RideId};
use socketioxide::SocketIo;
use time::format_description::well_known::Rfc3339;

use super::{Adapter, Event, EventReceiver, rooms};
use crate::{
    app::App,
    drivers::Duty,
    rides::{Ride, RideStatus, Viewer},
};

/// Delivers events until the node stops.
pub(super) struct Delivery {
    pub(super) app: App,
    pub(super) io: SocketIo<Adapter>,
    /// Carries messages to the other nodes; while it is away, the sockets of this node are served alone.
    pub(super) redis: SubscriberClient,
}

/// `ride:offer_withdrawn`.
#[derive(Serialize)]
struct Withdrawn {
    offer_id: OfferId,
    ride_id: RideId,
    reason: &'static str,
}

impl Delivery {
    pub(super) async fn run(self, mut events: EventReceiver) {
        while let Some(event) = events.recv().await {
            self.deliver(event).await;
        }
    }

    async fn deliver(&self, event: Event) {
        let drivers = &self.app.drivers;
        match event {
            Event::DispatchDue { tenant, ride_id: _ } => self.app.dispatch_due.tell(tenant),
            Event::RideChanged(ride) => {
                self.note_duty(&ride);
                let rider = rooms::rider(&ride.tenant, ride.rider_id);
                self.emit(rider, "ride:update", &ride.seen_by(Viewer::Rider)).await;
                if let Some(driver_id) = ride.driver_id {
                    let driver = rooms::driver(&ride.tenant, driver_id);
                    self.emit(driver, "ride:update", &ride.seen_by(Viewer::Driver)).await;
                }
            }
            Event::OfferMade { tenant, driver_id, offer } => {
                self.emit(rooms::driver(&tenant, driver_id), "ride:offer", &offer).await;
            }
            Event::OfferWithdrawn { tenant, driver_id, offer_id, ride_id, reason } => {
                drivers.set_duty(&tenant, driver_id, Duty::Free, self.app.clock.now());
                let withdrawn = Withdrawn { offer_id, ride_id, reason };
                self.emit(rooms::driver(&tenant, driver_id), "ride:offer_withdrawn", &withdrawn).await;
            }
            Event::DriverFreed { tenant, driver_id, since } => {
                drivers.set_duty(&tenant, driver_id, Duty::Free, since);
            }
            Event::PaymentChanged { tenant, rider_id, payment } => {
                self.emit(rooms::rider(&tenant, rider_id), "payment:update", &*payment).await;
            }
            Event::DriverMoved { tenant, ride_id, rider_id, position } => {
                let moved = json!({
                    "ride_id": ride_id,
                    "lat": position.point.lat,
                    "lng": position.point.lng,
                    "heading": position.heading,
                    "recorded_at": position.recorded_at.format(&Rfc3339).unwrap_or_default(),
                });
                self.emit(rooms::rider(&tenant, rider_id), "driver:location", &moved).await;
            }
        }
    }

    /// A hint for searches; the ride itself says so.
    fn note_duty(&self, ride: &Ride) {
        let Some(driver_id) = ride.driver_id else { return };
        let duty = match ride.status {
            RideStatus::Accepted | RideStatus::Arrived | RideStatus::InProgress => {
                Duty::OnTrip { ride_id: ride.id, rider_id: ride.rider_id }
            }
            RideStatus::Completed | RideStatus::Cancelled | RideStatus::Expired => Duty::Free,
            RideStatus::Requested | RideStatus::Offered => return,
        };
        self.app.drivers.set_duty(&ride.tenant, driver_id, duty, ride.updated_at);
    }

    /// To all sockets of a room on all nodes; to those of this node if the others cannot be reached.
    async fn emit(&self, room: String, event: &'static str, message: &impl Serialize) {
        if self.redis.state() == ClientState::Connected {
            match self.io.to(room.clone()).emit(event, message).await {
                Ok(()) | Err(socketioxide::BroadcastError::Socket(_)) => return,
                Err(error) => tracing::debug!(%error, "a message did not reach the other nodes"),
            }
        }
        if let Err(error) = self.io.to(room).local().emit(event, message).await {
            tracing::debug!(%error, "a message did not reach every socket of this node");
        }
    }
}
