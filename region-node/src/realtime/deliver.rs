//! Events become messages in rooms, and news for the live table and the dispatcher.

use fred::{clients::SubscriberClient, prelude::ClientLike, types::ClientState};
use serde::Serialize;
use shared::ids::{OfferId, RideId};
use socketioxide::{BroadcastError, SocketError, SocketIo};
use time::OffsetDateTime;

use super::{Adapter, Event, EventReceiver, MissedMessages, rooms};
use crate::{
    app::App,
    drivers::{Duty, Position},
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

/// `driver:location`.
#[derive(Serialize)]
struct Moved {
    ride_id: RideId,
    lat: f64,
    lng: f64,
    heading: Option<f32>,
    #[serde(with = "time::serde::rfc3339")]
    recorded_at: OffsetDateTime,
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
                let Position { point, heading, recorded_at } = position;
                let moved = Moved { ride_id, lat: point.lat, lng: point.lng, heading, recorded_at };
                self.emit_latest(rooms::rider(&tenant, rider_id), "driver:location", &moved).await;
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

    /// To all sockets of a room on all nodes; to those of this node if the others cannot be reached. Who reads too slowly
    /// to take it is cut off.
    async fn emit(&self, room: String, event: &'static str, message: &impl Serialize) {
        if self.redis.state() == ClientState::Connected {
            match self.io.to(room.clone()).emit(event, message).await {
                Ok(()) => return,
                Err(BroadcastError::Socket(errors)) => return self.cut_off_slow(&room, &errors),
                Err(error) => tracing::debug!(%error, "a message did not reach the other nodes"),
            }
        }
        match self.io.to(room.clone()).local().emit(event, message).await {
            Ok(()) => {}
            Err(BroadcastError::Socket(errors)) => self.cut_off_slow(&room, &errors),
            Err(error) => tracing::debug!(%error, "a message did not reach every socket of this node"),
        }
    }

    /// The same for what only the newest of counts: a slow reader skips the older ones.
    async fn emit_latest(&self, room: String, event: &'static str, message: &impl Serialize) {
        if self.redis.state() == ClientState::Connected
            && self.io.to(room.clone()).volatile().emit(event, message).await.is_ok()
        {
            return;
        }
        if let Err(error) = self.io.to(room).local().volatile().emit(event, message).await {
            tracing::debug!(%error, "a position did not reach every socket of this node");
        }
    }

    /// A client that missed a message would be wrong without knowing it. One that is disconnected connects again and asks.
    fn cut_off_slow(&self, room: &str, errors: &[SocketError]) {
        if !errors.iter().any(|error| matches!(error, SocketError::InternalChannelFull)) {
            return;
        }
        for socket in self.io.to(room.to_owned()).local().sockets() {
            socket.extensions.insert(MissedMessages);
            // Its queue is full, so it may not hear of this either: `disconnect_unfit` tries again, and a reader that takes
            // nothing at all is ended by the next ping.
            let _ = socket.disconnect();
        }
        metrics::counter!("region_node_slow_sockets_total").increment(1);
    }
}
