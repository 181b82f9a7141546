//! One ride after another, over the API, and its races.

use serde_json::{Value, json};
use shared::ids::DriverId;
use sqlx::PgPool;
use time::Duration;

use super::{
    tests::{answer, driver_at, offers, reasons, somebody_waits, status},
    worker::run_due,
};
use crate::{
    drivers::{Duty, Standing},
    rides::{
        self,
        tests::{id_of, request, wish},
    },
    testing::{TestRegion, TestUser},
};

/// Near Wall Street, where the first ride ends.
const NEAR_THE_END: (f64, f64) = (40.7068, -74.0082);

/// Far longer than a call takes that waits for nobody.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// A driver shortly before the end of a trip, and another rider who waits there.
struct Chained {
    region: TestRegion,
    driver: TestUser,
    first: Value,
    rider: TestUser,
    ride: Value,
}

impl Chained {
    /// The second ride is offered to the driver.
    async fn offered(pool: PgPool) -> Self {
        let chained = Self::waiting(pool, json!({"dispatch": {"chain_within_s": 300}})).await;
        run_due(&chained.region.app).await;
        chained
    }

    async fn accepted(pool: PgPool) -> (Self, Value) {
        let chained = Self::offered(pool).await;
        let trip = answer(&chained.driver, "accept", &chained.ride).await.ok(200);
        (chained, trip)
    }

    async fn waiting(pool: PgPool, config: Value) -> Self {
        let region = TestRegion::with_config(pool, config).await;
        let driver = driver_at(&region, 100.0).await;
        let (first, rider, ride) = Self::next(&region, &driver).await;
        Self { region, driver, first, rider, ride }
    }

    /// A driver without a trip takes one, nearly drives it, and another rider asks for a ride there.
    async fn next(region: &TestRegion, driver: &TestUser) -> (Value, TestUser, Value) {
        let ride = request(&region.rider().await).await;
        region.clock.advance(Duration::seconds(1));
        run_due(&region.app).await;
        let trip = answer(driver, "accept", &ride).await.ok(200);
        for step in ["arrive", "start"] {
            driver.post(&format!("/v1/trips/{}/{step}", text(&trip["id"])), json!({})).await.ok(200);
        }
        let (lat, lng) = NEAR_THE_END;
        driver.post(&format!("/v1/drivers/{}/location", driver.id), json!({"lat": lat, "lng": lng})).await.ok(202);
        let rider = region.rider().await;
        let mut wish = wish();
        wish["pickup"] = json!({"lat": lat, "lng": lng + 0.001});
        let next = rider.post("/v1/rides", wish).await.ok(201);
        region.clock.advance(Duration::seconds(1));
        (trip, rider, next)
    }

    async fn step(&self, trip: &Value, step: &str) -> crate::testing::TestAnswer {
        self.driver.post(&format!("/v1/trips/{}/{step}", text(&trip["id"])), json!({})).await
    }

    async fn seen(&self) -> Value {
        self.rider.get(&format!("/v1/rides/{}", text(&self.ride["id"]))).await.ok(200)
    }

    fn cancel(&self) -> String {
        format!("/v1/rides/{}/cancel", text(&self.ride["id"]))
    }

    /// What Postgres says the driver drives now, and what waits for that to end.
    async fn rides_of_driver(&self) -> (Vec<uuid::Uuid>, Vec<uuid::Uuid>) {
        let mut tx = self.region.app.db.read(&self.region.tenant).await.unwrap();
        let mut rides = async |waits: bool| {
            sqlx::query_scalar::<_, uuid::Uuid>(
                "SELECT ride_id FROM trips WHERE driver_id = $1 AND (after_trip_id IS NOT NULL) = $2
                   AND status IN ('accepted', 'arrived', 'in_progress', 'paused')",
            )
            .bind(self.driver.id)
            .bind(waits)
            .fetch_all(tx.conn())
            .await
            .unwrap()
        };
        (rides(false).await, rides(true).await)
    }

    fn standing(&self) -> Standing {
        let fleet = self.region.app.drivers.live.fleet(&self.region.tenant);
        fleet.sighting(DriverId(self.driver.id), self.region.clock.now()).unwrap().standing
    }

    fn duty(&self) -> Duty {
        self.standing().duty
    }

    fn is_driving(&self, ride: &Value) -> bool {
        matches!(self.duty(), Duty::OnTrip { ride_id, .. } if ride_id == id_of(ride))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn ride_of(trip: &Value) -> Value {
    json!({"id": trip["ride_id"]})
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_near_the_end_of_a_trip_takes_the_next_ride_and_drives_it_when_the_first_ends(pool: PgPool) {
    let chained = Chained::offered(pool).await;
    let offered = offers(&chained.driver).await;
    assert_eq!((&offered[0]["ride_id"], &offered[0]["after_trip_id"]), (&chained.ride["id"], &chained.first["id"]));
    assert!(chained.is_driving(&ride_of(&chained.first)));

    let next = answer(&chained.driver, "accept", &chained.ride).await.ok(200);
    assert_eq!((&next["status"], &next["after_trip_id"]), (&json!("accepted"), &chained.first["id"]));
    assert_eq!(answer(&chained.driver, "accept", &chained.ride).await.ok(200)["id"], next["id"]);
    let seen = chained.seen().await;
    assert_eq!((&seen["status"], &seen["driver_ends_trip_first"]), (&json!("accepted"), &json!(true)));
    assert_eq!(seen["pickup_eta_s"], offered[0]["pickup_eta_s"]);
    assert_eq!(seen["driver"]["vehicle"]["plate"], "T 1");
    assert!(chained.is_driving(&ride_of(&chained.first)));
    assert_eq!(chained.step(&next, "arrive").await.problem(409).code, "invalid_transition");

    assert_eq!(chained.step(&chained.first, "end").await.ok(200)["status"], "completed");
    assert!(chained.is_driving(&chained.ride));
    let seen = chained.seen().await;
    assert_eq!((&seen["status"], seen.get("driver_ends_trip_first")), (&json!("accepted"), None));
    for (step, status) in [("arrive", "arrived"), ("start", "in_progress"), ("end", "completed")] {
        let trip = chained.step(&next, step).await.ok(200);
        assert_eq!((&trip["status"], trip.get("after_trip_id")), (&json!(status), None));
    }
    assert_eq!(chained.duty(), Duty::Free);
    assert_eq!(chained.rides_of_driver().await, (vec![], vec![]));
}

#[sqlx::test(migrations = "../migrations")]
async fn without_the_tenant_s_leave_and_too_far_from_the_end_nobody_on_a_trip_is_asked(pool: PgPool) {
    let off = Chained::waiting(pool, json!({})).await;
    run_due(&off.region.app).await;
    assert!(offers(&off.driver).await.is_empty());
    let said = reasons(&off.region, &off.ride).await;
    assert_eq!(said, [(0, off.driver.id.to_string(), "busy".to_owned())]);
    let on = json!({"dispatch": {"chain_within_s": 30}});
    off.region.admin().await.call(axum::http::Method::PATCH, "/v1/tenants/cabs/config", Some(on), &[]).await.ok(200);
    // Five kilometres before the end.
    let place = json!({"lat": NEAR_THE_END.0 + 0.045, "lng": NEAR_THE_END.1});
    off.driver.post(&format!("/v1/drivers/{}/location", off.driver.id), place).await.ok(202);
    off.region.clock.advance(Duration::seconds(1));
    run_due(&off.region.app).await;
    assert!(offers(&off.driver).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_free_driver_who_is_there_sooner_is_asked_and_not_the_one_on_a_trip(pool: PgPool) {
    let chained = Chained::waiting(pool, json!({"dispatch": {"chain_within_s": 300}})).await;
    let free = chained.region.driver().await;
    free.post(&format!("/v1/drivers/{}/status", free.id), json!({"status": "online"})).await.ok(200);
    let place = json!({"lat": NEAR_THE_END.0, "lng": NEAR_THE_END.1 + 0.001});
    free.post(&format!("/v1/drivers/{}/location", free.id), place).await.ok(202);
    run_due(&chained.region.app).await;
    assert_eq!(offers(&free).await.len(), 1);
    assert!(offers(&chained.driver).await.is_empty());
    let said = reasons(&chained.region, &chained.ride).await;
    assert!(said.contains(&(0, chained.driver.id.to_string(), "not_chosen".into())), "{said:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn drivers_about_to_be_free_and_free_ones_are_matched_together(pool: PgPool) {
    let chained = Chained::waiting(pool, json!({"dispatch": {"chain_within_s": 300}})).await;
    let region = &chained.region;
    // Nearest to where the trip ends is a free driver, who is also the only one for another ride farther north.
    let free = region.driver().await;
    free.post(&format!("/v1/drivers/{}/status", free.id), json!({"status": "online"})).await.ok(200);
    let place = json!({"lat": NEAR_THE_END.0 + 0.01, "lng": NEAR_THE_END.1});
    free.post(&format!("/v1/drivers/{}/location", free.id), place).await.ok(202);
    let mut wish = wish();
    wish["pickup"] = json!({"lat": NEAR_THE_END.0 + 0.03, "lng": NEAR_THE_END.1});
    let north = region.rider().await.post("/v1/rides", wish).await.ok(201);
    region.clock.advance(Duration::seconds(1));
    run_due(&region.app).await;
    assert_eq!(offers(&chained.driver).await[0]["ride_id"], chained.ride["id"]);
    assert_eq!(offers(&free).await[0]["ride_id"], north["id"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_has_one_ride_to_follow_at_most(pool: PgPool) {
    let (chained, _) = Chained::accepted(pool).await;
    let mut wish = wish();
    wish["pickup"] = json!({"lat": NEAR_THE_END.0, "lng": NEAR_THE_END.1});
    let third = chained.region.rider().await.post("/v1/rides", wish).await.ok(201);
    chained.region.clock.advance(Duration::seconds(1));
    run_due(&chained.region.app).await;
    assert!(offers(&chained.driver).await.is_empty());
    assert_eq!(reasons(&chained.region, &third).await, [(0, chained.driver.id.to_string(), "busy".to_owned())]);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_offer_that_runs_out_leaves_the_driver_on_his_trip(pool: PgPool) {
    let chained = Chained::offered(pool).await;
    answer(&chained.driver, "decline", &chained.ride).await.ok(204);
    assert!(chained.is_driving(&ride_of(&chained.first)));
    run_due(&chained.region.app).await;
    assert!(offers(&chained.driver).await.is_empty());
    chained.step(&chained.first, "end").await.ok(200);
    assert_eq!(chained.duty(), Duty::Free);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ride_whose_driver_s_trip_runs_over_goes_to_somebody_else(pool: PgPool) {
    let (chained, next) = Chained::accepted(pool).await;
    chained.region.clock.advance(Duration::seconds(60));
    run_due(&chained.region.app).await;
    assert_eq!(status(&chained.rider, &chained.ride).await, "accepted");
    chained.region.clock.advance(Duration::minutes(10));
    let other = chained.region.driver().await;
    other.post(&format!("/v1/drivers/{}/status", other.id), json!({"status": "online"})).await.ok(200);
    let place = json!({"lat": NEAR_THE_END.0, "lng": NEAR_THE_END.1});
    other.post(&format!("/v1/drivers/{}/location", other.id), place).await.ok(202);
    run_due(&chained.region.app).await;
    assert_eq!(offers(&other).await[0]["ride_id"], chained.ride["id"]);
    assert!(chained.is_driving(&ride_of(&chained.first)));
    assert_eq!(chained.step(&next, "arrive").await.problem(409).code, "invalid_transition");
    answer(&other, "accept", &chained.ride).await.ok(200);
    chained.step(&chained.first, "end").await.ok(200);
    assert_eq!(chained.rides_of_driver().await, (vec![], vec![]));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_who_goes_offline_gives_the_next_ride_back_and_ends_his_trip(pool: PgPool) {
    let (chained, _) = Chained::accepted(pool).await;
    let offline = format!("/v1/drivers/{}/status", chained.driver.id);
    let refused = || chained.standing().record.refused.round();
    assert_eq!(refused(), 0.0);
    chained.region.clock.advance(Duration::seconds(1));
    chained.driver.post(&offline, json!({"status": "offline"})).await.ok(200);
    assert_eq!((status(&chained.rider, &chained.ride).await.as_str(), refused()), ("requested", 1.0));
    assert!(chained.is_driving(&ride_of(&chained.first)));
    chained.driver.post(&offline, json!({"status": "online"})).await.ok(200);
    run_due(&chained.region.app).await;
    // He had it and let it go: others are asked.
    assert!(offers(&chained.driver).await.is_empty());
    chained.step(&chained.first, "end").await.ok(200);
    assert_eq!(chained.duty(), Duty::Free);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_who_gives_the_next_ride_up_is_still_on_his_trip(pool: PgPool) {
    let (chained, _) = Chained::accepted(pool).await;
    let given_up = chained.driver.post(&chained.cancel(), json!({})).await.ok(200);
    assert_eq!((&given_up["status"], given_up.get("driver_id")), (&json!("requested"), None));
    assert!(chained.is_driving(&ride_of(&chained.first)));
    run_due(&chained.region.app).await;
    assert!(offers(&chained.driver).await.is_empty());
    let said = reasons(&chained.region, &chained.ride).await;
    assert!(said.contains(&(1, chained.driver.id.to_string(), "busy".into())), "{said:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_rider_who_cancels_before_the_driver_is_on_his_way_pays_nothing_and_leaves_nothing(pool: PgPool) {
    let (chained, _) = Chained::accepted(pool).await;
    // Longer than the tenant's time of grace.
    chained.region.clock.advance(Duration::seconds(130));
    let cancelled = chained.rider.post(&chained.cancel(), json!({})).await.ok(200);
    assert_eq!((&cancelled["status"], cancelled.get("cancellation_fee")), (&json!("cancelled"), None));
    assert!(chained.is_driving(&ride_of(&chained.first)));
    chained.step(&chained.first, "end").await.ok(200);
    assert_eq!(chained.duty(), Duty::Free);
    assert_eq!(chained.rides_of_driver().await, (vec![], vec![]));
}

#[sqlx::test(migrations = "../migrations")]
async fn accepting_while_the_trip_before_ends_begins_the_next_all_the_same(pool: PgPool) {
    let mut chained = Chained::offered(pool).await;
    for _ in 0..4 {
        let (accepted, ended) =
            tokio::join!(answer(&chained.driver, "accept", &chained.ride), chained.step(&chained.first, "end"));
        let next = accepted.ok(200);
        ended.ok(200);
        assert_eq!(chained.rides_of_driver().await, (vec![id_of(&chained.ride)], vec![]));
        assert!(chained.is_driving(&chained.ride));
        for step in ["arrive", "start", "end"] {
            chained.step(&next, step).await.ok(200);
        }
        let place = json!({"lat": 40.758, "lng": -73.9855});
        chained.driver.post(&format!("/v1/drivers/{}/location", chained.driver.id), place).await.ok(202);
        (chained.first, chained.rider, chained.ride) = Chained::next(&chained.region, &chained.driver).await;
        run_due(&chained.region.app).await;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn ending_a_trip_while_the_next_rider_cancels_leaves_the_driver_free(pool: PgPool) {
    let (mut chained, _) = Chained::accepted(pool).await;
    for _ in 0..4 {
        let cancel = chained.cancel();
        let (cancelled, ended) =
            tokio::join!(chained.rider.post(&cancel, json!({})), chained.step(&chained.first, "end"));
        cancelled.ok(200);
        ended.ok(200);
        assert_eq!(status(&chained.rider, &chained.ride).await, "cancelled");
        assert_eq!(chained.rides_of_driver().await, (vec![], vec![]));
        let place = json!({"lat": 40.758, "lng": -73.9855});
        chained.driver.post(&format!("/v1/drivers/{}/location", chained.driver.id), place).await.ok(202);
        (chained.first, chained.rider, chained.ride) = Chained::next(&chained.region, &chained.driver).await;
        run_due(&chained.region.app).await;
        answer(&chained.driver, "accept", &chained.ride).await.ok(200);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn going_offline_while_accepting_or_ending_never_leaves_a_ride_waiting_for_nobody(pool: PgPool) {
    let chained = Chained::offered(pool).await;
    let offline = format!("/v1/drivers/{}/status", chained.driver.id);
    let (accepted, gone, ended) = tokio::join!(
        answer(&chained.driver, "accept", &chained.ride),
        chained.driver.post(&offline, json!({"status": "offline"})),
        chained.step(&chained.first, "end"),
    );
    gone.ok(200);
    ended.ok(200);
    let (driving, waiting) = chained.rides_of_driver().await;
    assert!(waiting.is_empty());
    let status = status(&chained.rider, &chained.ride).await;
    match driving.is_empty() {
        true => assert_eq!(status, "requested"),
        false => assert_eq!(status, "accepted"),
    }
    assert!([200, 409].contains(&accepted.status), "{accepted:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_trip_ends_while_its_driver_who_goes_offline_waits_for_the_ride_he_is_offered(pool: PgPool) {
    let chained = Chained::offered(pool.clone()).await;
    let mut accepting = chained.region.app.db.begin(&chained.region.tenant).await.unwrap();
    rides::lock(&mut accepting, id_of(&chained.ride)).await.unwrap().unwrap();
    let status = format!("/v1/drivers/{}/status", chained.driver.id);
    let other_side = async {
        somebody_waits(&pool).await;
        let ended = tokio::time::timeout(PATIENCE, chained.step(&chained.first, "end")).await;
        accepting.rollback().await.unwrap();
        ended.expect("whoever accepts waits for the end: if that waited for the driver, it were a circle").ok(200);
    };
    let (gone, ()) = tokio::join!(chained.driver.post(&status, json!({"status": "offline"})), other_side);
    gone.ok(200);
}
