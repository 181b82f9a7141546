//! A tenant with its riders and drivers, and places for them far from everybody else's.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use shared::geo::Point;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{Driver, Rider};
use crate::api::{ApiError, Client, Credentials, Journey, Ride, Trip, Vehicle};

const PASSWORD: &str = "correct horse battery";
/// Spots are this far apart, well over any dispatch radius.
const SPOT_DEG: f64 = 0.2;
const SPOTS_PER_ROW: u32 = 20;

/// A tenant as tests use it; clones are the same one.
#[derive(Clone)]
pub struct TestCity {
    pub tenant: String,
    pub home: String,
    /// Nobody, at home.
    pub client: Client,
    pub(super) tasks: TaskTracker,
}

/// Spots and people are never used twice, by no test of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A place for one story.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub pickup: Point,
    pub dropoff: Point,
}

/// A ride that came to its end, with the people in it.
pub struct Served {
    pub rider: Rider,
    pub driver: Driver,
    pub ride: Ride,
    pub trip: Trip,
}

impl Spot {
    /// A place no other story uses; the drop-off is about two kilometres from the pickup.
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (row, column) = (number / SPOTS_PER_ROW, number % SPOTS_PER_ROW);
        let pickup = Point::new(20.0 + f64::from(row) * SPOT_DEG, -60.0 + f64::from(column) * SPOT_DEG);
        Self { pickup, dropoff: Point::new(pickup.lat + 0.014, pickup.lng + 0.012) }
    }

    pub fn journey(&self) -> Journey {
        Journey { pickup: self.pickup, dropoff: self.dropoff, vehicle_class: "standard".into() }
    }

    /// A place so many metres north of the pickup.
    pub fn north_m(&self, metres: f64) -> Point {
        Point::new(self.pickup.lat + metres / 111_195.0, self.pickup.lng)
    }
}

impl Default for Spot {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCity {
    pub(super) fn new(client: Client, tenant: &str, home: &str, tasks: TaskTracker) -> Self {
        Self { client: client.for_tenant(tenant), tenant: tenant.to_owned(), home: home.to_owned(), tasks }
    }

    /// The same tenant through another address.
    pub fn through(&self, base_url: &str) -> Self {
        Self { client: self.client.through(base_url), ..self.clone() }
    }

    /// A new rider, signed in.
    pub async fn rider(&self) -> Rider {
        let (client, phone) = self.somebody();
        let account = client.register_rider("Ada Test", &phone, PASSWORD).await.expect("a rider registers");
        sign_in(&client, phone).await;
        Rider { client, id: account.id, tasks: self.tasks.clone() }
    }

    /// A new driver, signed in, not yet online.
    pub async fn driver(&self) -> Driver {
        let (client, phone) = self.somebody();
        let vehicle =
            Vehicle { class: "standard".into(), plate: "TEST-1".into(), model: "Crown Victoria".into(), seats: 4 };
        let account = client.register_driver("Bo Test", &phone, PASSWORD, &vehicle).await.expect("a driver registers");
        sign_in(&client, phone).await;
        Driver { client, id: account.id, place: Arc::default(), tasks: self.tasks.clone() }
    }

    /// A new rider takes a ride with a new driver to its end; paid is it not.
    pub async fn serve_ride(&self) -> Served {
        self.serve_ride_of(self.rider().await, self.driver().await).await
    }

    /// These two take a ride to its end.
    pub async fn serve_ride_of(&self, rider: Rider, driver: Driver) -> Served {
        let spot = Spot::new();
        driver.online_at(spot.pickup).await;
        let ride = rider.request(&spot).await;
        let offer = driver.next_offer().await;
        assert_eq!(offer.ride_id, ride.id, "a driver alone at his spot is offered the ride asked for there");
        let trip = driver.accept(ride.id).await;
        let trip = driver.drive(trip.id, &spot).await;
        let ride = rider.client.ride(ride.id).await.expect("a rider sees his ride");
        driver.offline().await;
        Served { rider, driver, ride, trip }
    }

    /// Has somebody new register, if the tenant's home takes it: the smallest command there is.
    pub async fn try_register(&self) -> Result<(), ApiError> {
        let (client, phone) = self.somebody();
        client.register_rider("Eve Test", &phone, PASSWORD).await.map(|_| ())
    }

    fn somebody(&self) -> (Client, String) {
        // Several processes may test against one cluster, so the number is not only counted.
        let digits = Uuid::new_v4().as_u128() % 10_u128.pow(10);
        (self.client.for_tenant(&self.tenant), format!("+9990{digits:010}"))
    }
}

async fn sign_in(client: &Client, phone: String) {
    let credentials = Credentials::Password { phone, password: PASSWORD.into() };
    client.sign_in(credentials).await.expect("who has registered can sign in");
}
