//! A ride offered to a driver near the end of another: it is his at once and begins when the one before has ended, or goes to
//! somebody else when that one goes on, or is nobody's when its rider leaves.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use serde_json::{Value, json};
use system_tests::{
    api::{Ride, RideStatus, Trip, TripStatus, location_update},
    harness::{Driver, Rider, Spot, TestCluster, hear, hear_status, tell},
    socket::Socket,
    stories,
    streets::Position,
};

/// Lets rides follow each other, and charges every cancellation.
const PATIENT: &str = "manhattan-cabs";
/// Does too, and lets nobody wait long for a trip that goes on.
const IMPATIENT: &str = "porto-taxis";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chained_ride() {
    let builder = deploy_local::Cluster::builder().regions(["us-east", "eu-west"]);
    let cluster = TestCluster::start_as(builder).await;
    let patient = json!({
        "dispatch": {"chain_within_s": 300},
        "cancellation": {"free_seconds": 0, "fee": 500, "no_show_wait_seconds": 300},
    });
    cluster.office(PATIENT, "us-east").await.patch_config(PATIENT, &patient).await.unwrap();
    let impatient = json!({"dispatch": {"chain_within_s": 300, "chain_slack_s": 3}});
    cluster.office(IMPATIENT, "eu-west").await.patch_config(IMPATIENT, &impatient).await.unwrap();
    let stories = stories!(cluster;
        the_next_ride_is_taken_before_the_first_ends_and_begins_after_it,
        a_ride_whose_driver_s_trip_goes_on_is_driven_by_somebody_else,
        a_rider_who_does_not_wait_for_the_trip_before_pays_nothing_and_leaves_the_driver_free,
    );
    tell(&cluster, 3, stories).await;
}

/// A driver at the end of a trip that he has not ended, and somebody who asks for the way back from there.
struct Chain {
    driver: Driver,
    at_driver: Socket,
    first: Trip,
    first_rider: Rider,
    next: Ride,
    next_rider: Rider,
    at_next_rider: Socket,
    back: Spot,
}

impl Chain {
    /// The next ride is offered to the driver while he is on his trip.
    async fn offered(cluster: &TestCluster, tenant: &str) -> Self {
        let (city, spot) = (cluster.city(tenant), Spot::new());
        let (driver, first_rider, next_rider) = (city.driver().await, city.rider().await, city.rider().await);
        let (mut at_driver, at_next_rider) = (driver.socket().await, next_rider.socket().await);
        driver.online_at(spot.pickup).await;
        let ride = first_rider.request(&spot).await;
        hear(&mut at_driver, "ride:offer", |offer| offer["ride_id"] == json!(ride.id)).await;
        let first = driver.accept(ride.id).await;
        driver.client.arrive(first.id).await.unwrap();
        driver.client.start(first.id, None).await.unwrap();
        driver.is_at(spot.dropoff).await;

        let back = Spot { pickup: spot.dropoff, dropoff: spot.pickup };
        let next = next_rider.request(&back).await;
        let offer = hear(&mut at_driver, "ride:offer", |offer| offer["ride_id"] == json!(next.id)).await;
        assert_eq!(offer["after_trip_id"], json!(first.id));
        assert_eq!(driver.client.trip(first.id).await.unwrap().status, TripStatus::InProgress);
        Self { driver, at_driver, first, first_rider, next, next_rider, at_next_rider, back }
    }

    async fn accepted(cluster: &TestCluster, tenant: &str) -> (Self, Trip) {
        let mut chain = Self::offered(cluster, tenant).await;
        let answer = chain.at_driver.ask("ride:accept", json!({"ride_id": chain.next.id})).await.unwrap();
        assert_eq!(answer["after_trip_id"], json!(chain.first.id));
        let told = hear_status(&mut chain.at_next_rider, &chain.next, "accepted").await;
        assert_eq!(told["driver_ends_trip_first"], json!(true));
        let trip: Trip = serde_json::from_value(answer).expect("the answer is the trip");
        assert_eq!(trip.status, TripStatus::Accepted);
        (chain, trip)
    }

    async fn says_where_he_is(&self, north_m: f64) -> f64 {
        let point = self.back.north_m(north_m);
        let position = location_update(Position { point, heading: 0.0, speed_mps: 5.0 });
        assert_eq!(self.at_driver.ask("location:update", position).await.unwrap(), json!({"ok": true}));
        point.lat
    }

    async fn first_ends(&self) {
        let ended = self.driver.client.end(self.first.id).await.unwrap();
        assert_eq!(ended.status, TripStatus::Completed);
    }

    /// What was paid for a trip is in the ledger of each region.
    async fn settles(&self, cluster: &TestCluster, rider: &Rider, trip: &Trip) {
        let total = self.driver.client.trip(trip.id).await.unwrap().fare.unwrap().total.amount;
        rider.pay(trip.id).await;
        assert_eq!(cluster.ledger_everywhere(trip.id, "settlement").await, total);
    }

    /// The driver may be asked again: he is offered what is asked for where he is.
    async fn gets_another_offer(mut self) {
        let ride = self.next_rider.request(&self.back).await;
        let offer = hear(&mut self.at_driver, "ride:offer", |offer| offer["ride_id"] == json!(ride.id)).await;
        assert_eq!(offer.get("after_trip_id"), None);
        self.next_rider.client.cancel_ride(ride.id, "only a test").await.unwrap();
        self.driver.offline().await;
    }
}

fn lat(told: &Value) -> f64 {
    told["lat"].as_f64().unwrap()
}

async fn the_next_ride_is_taken_before_the_first_ends_and_begins_after_it(cluster: TestCluster) {
    let (mut chain, trip) = Chain::accepted(&cluster, PATIENT).await;
    let mut at_first_rider = chain.first_rider.socket().await;
    let too_early = chain.driver.client.arrive(trip.id).await.unwrap_err();
    assert_eq!(too_early.code(), Some("invalid_transition"));
    // Until then the driver is followed by the rider in his car, and by nobody else.
    let while_first = chain.says_where_he_is(30.0).await;
    let told = hear(&mut at_first_rider, "driver:location", |told| lat(told) == while_first).await;
    assert_eq!(told["ride_id"], json!(chain.first.ride_id));

    chain.first_ends().await;
    let told = hear(&mut chain.at_next_rider, "ride:update", |told| told.get("driver_ends_trip_first").is_none()).await;
    assert_eq!((&told["id"], &told["status"]), (&json!(chain.next.id), &json!("accepted")));
    let afterwards = chain.says_where_he_is(10.0).await;
    let told = hear(&mut chain.at_next_rider, "driver:location", |_| true).await;
    assert_eq!((&told["ride_id"], lat(&told)), (&json!(chain.next.id), afterwards));
    assert_eq!(chain.driver.drive(trip.id, &chain.back).await.status, TripStatus::Completed);
    hear_status(&mut chain.at_next_rider, &chain.next, "completed").await;
    chain.settles(&cluster, &chain.first_rider, &chain.first).await;
    chain.settles(&cluster, &chain.next_rider, &trip).await;
    chain.driver.offline().await;
}

async fn a_ride_whose_driver_s_trip_goes_on_is_driven_by_somebody_else(cluster: TestCluster) {
    let (mut chain, late) = Chain::accepted(&cluster, IMPATIENT).await;
    // The rider wants to go farther.
    chain.says_where_he_is(1_000.0).await;
    let withdrawn =
        hear(&mut chain.at_driver, "ride:offer_withdrawn", |told| told["ride_id"] == json!(chain.next.id)).await;
    assert_eq!(withdrawn["reason"], "trip_ran_over");
    let told = hear_status(&mut chain.at_next_rider, &chain.next, "requested").await;
    assert_eq!(told.get("driver_id"), None);
    let other = cluster.city(IMPATIENT).driver().await;
    other.online_at(chain.back.pickup).await;
    assert_eq!(other.next_offer().await.ride_id, chain.next.id);
    let trip = other.accept(chain.next.id).await;
    assert_eq!(chain.driver.client.trip(chain.first.id).await.unwrap().status, TripStatus::InProgress);

    chain.first_ends().await;
    assert_eq!(chain.driver.client.arrive(late.id).await.unwrap_err().code(), Some("invalid_transition"));
    assert_eq!(other.drive(trip.id, &chain.back).await.status, TripStatus::Completed);
    other.offline().await;
    assert_eq!(chain.next_rider.sees(chain.next.id, RideStatus::Completed).await.driver_id, Some(other.id));
    chain.settles(&cluster, &chain.first_rider, &chain.first).await;
    let total = other.client.trip(trip.id).await.unwrap().fare.unwrap().total.amount;
    chain.next_rider.pay(trip.id).await;
    assert_eq!(cluster.ledger_everywhere(trip.id, "settlement").await, total);
    chain.gets_another_offer().await;
}

async fn a_rider_who_does_not_wait_for_the_trip_before_pays_nothing_and_leaves_the_driver_free(cluster: TestCluster) {
    let (mut chain, _) = Chain::accepted(&cluster, PATIENT).await;
    let cancelled = chain.next_rider.client.cancel_ride(chain.next.id, "took the bus").await.unwrap();
    assert_eq!((cancelled.status, cancelled.cancellation_fee), (RideStatus::Cancelled, None));
    hear_status(&mut chain.at_driver, &chain.next, "cancelled").await;
    assert_eq!(chain.driver.client.trip(chain.first.id).await.unwrap().status, TripStatus::InProgress);
    chain.first_ends().await;
    chain.settles(&cluster, &chain.first_rider, &chain.first).await;
    chain.gets_another_offer().await;
}
