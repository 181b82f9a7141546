//! A driver who does what a test says.

use std::sync::{Arc, Mutex, PoisonError};

use shared::{
    geo::Point,
    ids::{DriverId, RideId, TripId},
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{Spot, eventually};
use crate::{
    api::{ApiError, Client, Offer, Trip, location_update},
    socket::Socket,
    streets::{Position, Route},
};

/// How often a waiting driver repeats where he is.
const REPORT_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Clone)]
pub struct Driver {
    pub client: Client,
    pub id: DriverId,
    /// Where he was last.
    pub(super) place: Arc<Mutex<Option<Point>>>,
    pub(super) tasks: TaskTracker,
}

impl Driver {
    /// Goes online at a place.
    pub async fn online_at(&self, place: Point) {
        self.client.set_online(self.id, true).await.expect("a driver can go online");
        self.is_at(place).await;
    }

    pub async fn offline(&self) {
        self.client.set_online(self.id, false).await.expect("a driver can go offline");
    }

    /// Says where he is.
    pub async fn is_at(&self, place: Point) {
        self.try_be_at(place).await.expect("a driver can say where he is");
    }

    /// Says where he is, which may fail.
    pub async fn try_be_at(&self, place: Point) -> Result<(), ApiError> {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        let position = Position { point: place, heading: 0.0, speed_mps: 0.0 };
        self.client.send_location(self.id, &location_update(position)).await
    }

    /// Waits for an offer, saying now and then that he is still there.
    pub async fn next_offer(&self) -> Offer {
        let mut reported = Instant::now();
        eventually("the driver is offered a ride", async || {
            let place = *self.place.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = place.filter(|_| reported.elapsed() > REPORT_EVERY) {
                self.is_at(place).await;
                reported = Instant::now();
            }
            let mut offers = self.client.offers(self.id).await.map_err(|error| error.to_string())?;
            offers.pop().ok_or_else(|| "no offer".to_owned())
        })
        .await
    }

    pub async fn accept(&self, ride: RideId) -> Trip {
        self.client.accept(self.id, ride).await.expect("a driver can accept what he is offered")
    }

    /// Drives an accepted trip from the pickup to its end.
    pub async fn drive(&self, trip: TripId, spot: &Spot) -> Trip {
        self.client.arrive(trip).await.expect("a driver can arrive");
        self.client.start(trip, None).await.expect("a driver can start");
        let way = Route::straight(spot.pickup, spot.dropoff, 10.0);
        for share in [0.25, 0.5, 0.75, 1.0] {
            self.is_at(way.position_at(way.duration_s() * share).point).await;
        }
        self.client.end(trip).await.expect("a driver can end")
    }

    /// A socket to the address this driver speaks to.
    pub async fn socket(&self) -> Socket {
        Socket::connect(&self.client, &self.tasks).await.expect("a driver can connect")
    }
}
