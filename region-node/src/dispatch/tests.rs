//! Dispatch over the API, and every race for a ride.

use serde_json::{Value, json};
use shared::ids::{DriverId, RideId};
use sqlx::PgPool;
use time::Duration;

use super::{answer as answers, store, worker::run_due};
use crate::{
    drivers::{Addition, Duty, Record, Standing, Terms, note},
    rides::tests::{id_of, offer, request, wish},
    testing::{TestRegion, TestUser},
};

const PICKUP: (f64, f64) = (40.758, -73.9855);

/// Brings a driver online, so many metres north of where rides begin.
pub(crate) async fn online(driver: &TestUser, north_m: f64) {
    let path = |what: &str| format!("/v1/drivers/{}/{what}", driver.id);
    driver.post(&path("status"), json!({"status": "online"})).await.ok(200);
    let place = json!({"lat": PICKUP.0 + north_m / 111_195.0, "lng": PICKUP.1});
    driver.post(&path("location"), place).await.ok(202);
}

pub(super) async fn driver_at(region: &TestRegion, north_m: f64) -> TestUser {
    let driver = region.driver().await;
    online(&driver, north_m).await;
    driver
}

/// The rides a driver is offered.
pub(super) async fn offers(driver: &TestUser) -> Vec<Value> {
    let offers = driver.get(&format!("/v1/drivers/{}/offers", driver.id)).await.ok(200);
    offers["items"].as_array().unwrap().clone()
}

pub(super) async fn answer(driver: &TestUser, what: &str, ride: &Value) -> crate::testing::TestAnswer {
    driver.post(&format!("/v1/drivers/{}/{what}", driver.id), json!({"ride_id": ride["id"]})).await
}

pub(super) async fn status(rider: &TestUser, ride: &Value) -> String {
    let ride = rider.get(&format!("/v1/rides/{}", ride["id"].as_str().unwrap())).await.ok(200);
    ride["status"].as_str().unwrap().to_owned()
}

/// The reasons of a ride's candidates, by round and driver.
pub(super) async fn reasons(region: &TestRegion, ride: &Value) -> Vec<(i64, String, String)> {
    let path = format!("/v1/rides/{}/dispatch", ride["id"].as_str().unwrap());
    let story = region.admin().await.get(&path).await.ok(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let read = |candidate: &Value| {
        (candidate["round"].as_i64().unwrap(), text(&candidate["driver_id"]), text(&candidate["reason"]))
    };
    story["candidates"].as_array().unwrap().iter().map(read).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn the_nearest_driver_is_asked_and_takes_the_ride(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let (near, far) = (driver_at(&region, 300.0).await, driver_at(&region, 1_500.0).await);
    let ride = request(&rider).await;
    run_due(&region.app).await;

    assert_eq!(status(&rider, &ride).await, "offered");
    let offered = offers(&near).await;
    assert_eq!(offered.len(), 1);
    assert_eq!(offered[0]["ride_id"], ride["id"]);
    assert_eq!(offered[0]["fare"], ride["fare"]);
    assert!(offers(&far).await.is_empty());

    let trip = answer(&near, "accept", &ride).await.ok(200);
    assert_eq!((&trip["ride_id"], trip["status"].as_str()), (&ride["id"], Some("accepted")));
    assert_eq!(status(&rider, &ride).await, "accepted");
    assert!(offers(&near).await.is_empty());
    let expected = [(near.id, "offered"), (far.id, "not_chosen")];
    let expected: Vec<_> = expected.map(|(id, reason)| (0, id.to_string(), reason.to_owned())).into();
    assert_eq!(reasons(&region, &ride).await, expected);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_declined_ride_goes_to_the_next_driver_and_never_back(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let (first, second) = (driver_at(&region, 300.0).await, driver_at(&region, 1_500.0).await);
    let ride = request(&rider).await;
    run_due(&region.app).await;
    answer(&first, "decline", &ride).await.ok(204);
    assert_eq!(status(&rider, &ride).await, "requested");
    answer(&first, "decline", &ride).await.ok(204);
    run_due(&region.app).await;
    assert_eq!(offers(&second).await.len(), 1);
    assert_eq!(answer(&first, "accept", &ride).await.problem(409).code, "offer_expired");
    answer(&second, "decline", &ride).await.ok(204);
    run_due(&region.app).await;
    assert!(offers(&first).await.is_empty() && offers(&second).await.is_empty());
    let round_2: Vec<_> = reasons(&region, &ride).await.into_iter().filter(|(round, _, _)| *round == 2).collect();
    assert_eq!(round_2.len(), 2);
    assert!(round_2.iter().all(|(_, _, reason)| reason == "declined_before"));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_unanswered_offer_ends_and_the_next_driver_is_asked(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let (first, second) = (driver_at(&region, 300.0).await, driver_at(&region, 1_500.0).await);
    let ride = request(&rider).await;
    run_due(&region.app).await;
    region.clock.advance(Duration::seconds(15));
    assert_eq!(answer(&first, "accept", &ride).await.problem(409).code, "offer_expired");
    assert!(offers(&first).await.is_empty());
    run_due(&region.app).await;
    assert_eq!(offers(&second).await.len(), 1);
    let said = reasons(&region, &ride).await;
    assert!(said.contains(&(1, first.id.to_string(), "did_not_answer".into())), "{said:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ride_nobody_takes_expires_and_its_rider_may_ask_again(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let ride = request(&rider).await;
    run_due(&region.app).await;
    assert_eq!(status(&rider, &ride).await, "requested");
    region.clock.advance(Duration::seconds(180));
    run_due(&region.app).await;
    assert_eq!(status(&rider, &ride).await, "expired");
    request(&rider).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn after_so_many_offers_a_ride_expires(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"dispatch": {"max_offers": 1}})).await;
    let rider = region.rider().await;
    let (first, second) = (driver_at(&region, 300.0).await, driver_at(&region, 500.0).await);
    let ride = request(&rider).await;
    run_due(&region.app).await;
    answer(&first, "decline", &ride).await.ok(204);
    run_due(&region.app).await;
    assert_eq!(status(&rider, &ride).await, "expired");
    assert!(offers(&second).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_takes_a_ride_they_were_not_offered(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    region.new_tenant("other", json!({})).await;
    let rider = region.rider().await;
    let driver = region.driver().await;
    let ride = request(&rider).await;
    for what in ["accept", "decline"] {
        assert_eq!(answer(&driver, what, &ride).await.problem(409).code, "offer_expired");
    }
    let stranger = json!({"id": DriverId::new()});
    assert_eq!(answer(&driver, "accept", &stranger).await.problem(404).code, "not_found");
    let other_ride = request(&region.rider_of("other").await).await;
    assert_eq!(answer(&driver, "accept", &other_ride).await.problem(404).code, "not_found");
    let foreign_id = format!("/v1/drivers/{}/accept", DriverId::new());
    assert_eq!(driver.post(&foreign_id, json!({"ride_id": ride["id"]})).await.problem(404).code, "not_found");
    assert_eq!(answer(&rider, "accept", &ride).await.problem(403).code, "forbidden");
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_drivers_who_accept_at_once_one_gets_the_ride(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    for _ in 0..5 {
        let (a, b) = (region.driver().await, region.driver().await);
        let ride = request(&region.rider().await).await;
        offer(&region, &ride, &a).await;
        offer(&region, &ride, &b).await;
        let (a, b) = tokio::join!(answer(&a, "accept", &ride), answer(&b, "accept", &ride));
        let (won, lost) = if a.status == 200 { (a, b) } else { (b, a) };
        assert_eq!(won.ok(200)["ride_id"], ride["id"]);
        assert_eq!(lost.problem(409).code, "ride_already_taken");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn accepting_again_answers_with_the_same_trip(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (driver, ride) = (region.driver().await, request(&region.rider().await).await);
    offer(&region, &ride, &driver).await;
    let path = format!("/v1/drivers/{}/accept", driver.id);
    let first = driver.post_keyed(&path, "once", json!({"ride_id": ride["id"]})).await;
    let again = driver.post_keyed(&path, "once", json!({"ride_id": ride["id"]})).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(first.ok(200), again.ok(200));
    assert_eq!(answer(&driver, "accept", &ride).await.ok(200)["ride_id"], ride["id"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_on_a_trip_is_busy(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = driver_at(&region, 100.0).await;
    let first = request(&region.rider().await).await;
    run_due(&region.app).await;
    answer(&driver, "accept", &first).await.ok(200);
    let second = request(&region.rider().await).await;
    run_due(&region.app).await;
    // Though the table believes the driver free, as when nobody told it, Postgres makes no offer.
    assert!(offers(&driver).await.is_empty());
    assert_eq!(reasons(&region, &second).await, [(0, driver.id.to_string(), "busy".to_owned())]);
    offer(&region, &second, &driver).await;
    assert_eq!(answer(&driver, "accept", &second).await.problem(409).code, "driver_busy");
}

#[sqlx::test(migrations = "../migrations")]
async fn accepting_while_the_rider_cancels_leaves_no_trip_behind(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    for _ in 0..5 {
        let (driver, rider) = (region.driver().await, region.rider().await);
        let ride = request(&rider).await;
        offer(&region, &ride, &driver).await;
        let cancel = format!("/v1/rides/{}/cancel", ride["id"].as_str().unwrap());
        let (accepted, cancelled) = tokio::join!(answer(&driver, "accept", &ride), rider.post(&cancel, json!({})));
        cancelled.ok(200);
        if accepted.status != 200 {
            assert_eq!(accepted.problem(409).code, "offer_expired");
        }
        assert_eq!(status(&rider, &ride).await, "cancelled");
        assert!(offers(&driver).await.is_empty());
        // The driver is free for another ride.
        let next = request(&rider).await;
        offer(&region, &next, &driver).await;
        answer(&driver, "accept", &next).await.ok(200);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn accepting_while_the_offer_ends_is_one_or_the_other(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    for _ in 0..5 {
        let (driver, rider) = (region.driver().await, region.rider().await);
        let ride = request(&rider).await;
        offer(&region, &ride, &driver).await;
        region.clock.advance(Duration::seconds(15) - Duration::milliseconds(3));
        let dispatching = async {
            region.clock.advance(Duration::milliseconds(3));
            run_due(&region.app).await;
        };
        let (accepted, ()) = tokio::join!(answer(&driver, "accept", &ride), dispatching);
        let status = status(&rider, &ride).await;
        if accepted.status == 200 {
            assert_eq!(status, "accepted");
        } else {
            assert_eq!(accepted.problem(409).code, "offer_expired");
            // Free again, or asked of a driver of an earlier round.
            assert!(["requested", "offered"].contains(&status.as_str()), "{status}");
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_thinks_about_one_ride_at_a_time(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = driver_at(&region, 100.0).await;
    let first = request(&region.rider().await).await;
    let second = request(&region.rider().await).await;
    run_due(&region.app).await;
    region.clock.advance(Duration::seconds(1));
    run_due(&region.app).await;
    assert_eq!(offers(&driver).await.len(), 1);
    let mut said = [reasons(&region, &first).await, reasons(&region, &second).await].concat();
    said.sort();
    let expected = [(0, driver.id.to_string(), "has_offer".into()), (0, driver.id.to_string(), "offered".into())];
    assert_eq!(said, expected);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_who_goes_offline_lets_the_ride_go(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let (first, second) = (driver_at(&region, 300.0).await, driver_at(&region, 1_500.0).await);
    let ride = request(&rider).await;
    run_due(&region.app).await;
    first.post(&format!("/v1/drivers/{}/status", first.id), json!({"status": "offline"})).await.ok(200);
    assert_eq!(status(&rider, &ride).await, "requested");
    run_due(&region.app).await;
    assert_eq!(offers(&second).await.len(), 1);
    assert!(offers(&first).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn two_nodes_dispatching_at_once_ask_no_driver_twice(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let mut drivers = Vec::new();
    for n in 0..4 {
        drivers.push(driver_at(&region, f64::from(n) * 200.0).await);
    }
    for _ in 0..6 {
        request(&region.rider().await).await;
    }
    let node = || run_due(&region.app);
    tokio::join!(node(), node(), node());
    for _ in 0..3 {
        region.clock.advance(Duration::seconds(1));
        tokio::join!(node(), node());
    }
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    let live: (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*), count(DISTINCT driver_id), count(DISTINCT ride_id) FROM offers WHERE status = 'live'",
    )
    .fetch_one(tx.conn())
    .await
    .unwrap();
    assert_eq!(live, (4, 4, 4));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_dead_node_s_rides_are_taken_over_when_its_lease_ends(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = driver_at(&region, 300.0).await;
    let ride = request(&region.rider().await).await;
    let now = region.clock.now();
    let (lease, always) = (now + Duration::seconds(5), store::Claiming::WhateverRanOut);
    let claimed = store::claim(&region.app, &region.tenant, now, lease, 8, always).await.unwrap();
    assert_eq!(claimed[0].wanted.ride_id, id_of::<RideId>(&ride));
    run_due(&region.app).await;
    assert!(offers(&driver).await.is_empty());
    region.clock.advance(Duration::seconds(6));
    run_due(&region.app).await;
    assert_eq!(offers(&driver).await.len(), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ride_booked_ahead_is_not_dispatched_before_its_time(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let at = (region.clock.now() + Duration::hours(1)).replace_nanosecond(0).unwrap();
    let mut wish = wish();
    wish["scheduled_at"] = json!(at.format(&time::format_description::well_known::Rfc3339).unwrap());
    let ride = rider.post("/v1/rides", wish).await.ok(201);
    let driver = driver_at(&region, 300.0).await;
    run_due(&region.app).await;
    assert!(offers(&driver).await.is_empty());
    region.clock.advance(Duration::minutes(55));
    // An hour later everybody's token has expired, but not the driver's place.
    let again = driver_at(&region, 200.0).await;
    run_due(&region.app).await;
    assert_eq!(offers(&again).await[0]["ride_id"], ride["id"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_worker_finds_by_itself_what_is_due(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    super::start(&region.app);
    let driver = driver_at(&region, 300.0).await;
    request(&region.rider().await).await;
    let offered = async {
        while offers(&driver).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), offered).await.unwrap();
    region.app.stop.cancel();
    region.app.tasks.close();
    region.app.tasks.wait().await;
}

fn preview_of(requests: &[(&str, f64)], drivers: &[(&str, f64)]) -> Value {
    let place = |north_m: &f64| json!({"lat": 40.758 + north_m / 111_195.0, "lng": -73.9855});
    let request = |(id, north_m): &(&str, f64)| json!({"id": id, "pickup": place(north_m), "dropoff": place(&0.0), "requested_at": "2026-03-01T12:00:00Z"});
    let driver = |(id, north_m): &(&str, f64)| {
        let mut driver = place(north_m);
        driver["id"] = json!(id);
        driver["idle_since"] = json!("2026-03-01T12:00:00Z");
        driver
    };
    let requests: Vec<_> = requests.iter().map(request).collect();
    let drivers: Vec<_> = drivers.iter().map(driver).collect();
    json!({"now": "2026-03-01T12:00:01Z", "requests": requests, "drivers": drivers})
}

#[sqlx::test(migrations = "../migrations")]
async fn a_preview_matches_as_the_live_policy_would(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let mut moment = preview_of(&[("r1", 0.0), ("r2", 100.0)], &[("a", 50.0), ("b", 900.0), ("c", 90_000.0)]);
    let preview = admin.post("/v1/dispatch/preview", moment.clone()).await.ok(200);
    let pairs = |preview: &Value| {
        let pair = |assigned: &Value| (assigned["request_id"].clone(), assigned["driver_id"].clone());
        preview["assignments"].as_array().unwrap().iter().map(pair).collect::<Vec<_>>()
    };
    assert_eq!(preview["unassigned"], json!([]));
    assert_eq!(pairs(&preview).len(), 2);

    moment["costs_s"] = json!([[10.0, 20.0, null], [30.0, 500.0, 600.0]]);
    let preview = admin.post("/v1/dispatch/preview", moment.clone()).await.ok(200);
    assert_eq!(pairs(&preview), [(json!("r1"), json!("b")), (json!("r2"), json!("a"))]);
    assert_eq!(preview["assignments"][0]["eta_s"], 20);

    let alone = preview_of(&[("r1", 0.0)], &[("c", 90_000.0)]);
    let preview = admin.post("/v1/dispatch/preview", alone).await.ok(200);
    assert_eq!(preview["unassigned"], json!([{"request_id": "r1", "reason": "too_far"}]));

    moment["costs_s"] = json!([[10.0]]);
    assert_eq!(admin.post("/v1/dispatch/preview", moment.clone()).await.problem(422).fields, ["costs_s"]);
    let rider = region.rider().await;
    assert_eq!(rider.post("/v1/dispatch/preview", preview_of(&[], &[])).await.problem(403).code, "forbidden");
}

#[sqlx::test(migrations = "../migrations")]
async fn only_the_back_office_reads_how_a_ride_was_dispatched(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let ride = request(&rider).await;
    let path = format!("/v1/rides/{}/dispatch", ride["id"].as_str().unwrap());
    assert_eq!(rider.get(&path).await.problem(403).code, "forbidden");
    let office = region.new_tenant("other", json!({})).await;
    let other = region.admin_of("other".parse().unwrap(), &office).await;
    assert_eq!(other.get(&path).await.problem(404).code, "not_found");
    assert_eq!(region.admin().await.get(&path).await.ok(200)["candidates"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ride_offered_to_a_group_goes_to_the_first_who_accepts_and_the_others_are_told(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"dispatch": {"group_size": 3}})).await;
    let rider = region.rider().await;
    let (a, b) = (driver_at(&region, 300.0).await, driver_at(&region, 400.0).await);
    let (c, d) = (driver_at(&region, 500.0).await, driver_at(&region, 600.0).await);
    let ride = request(&rider).await;
    run_due(&region.app).await;
    for driver in [&a, &b, &c] {
        assert_eq!(offers(driver).await.len(), 1);
    }
    assert!(offers(&d).await.is_empty());
    // As long as one of them may still take it, nobody else is asked.
    answer(&a, "decline", &ride).await.ok(204);
    run_due(&region.app).await;
    assert_eq!(status(&rider, &ride).await, "offered");
    assert!(offers(&d).await.is_empty());

    let (first, second) = tokio::join!(answer(&b, "accept", &ride), answer(&c, "accept", &ride));
    let (won, lost) = if first.status == 200 { (first, second) } else { (second, first) };
    assert_eq!(won.ok(200)["ride_id"], ride["id"]);
    assert_eq!(lost.problem(409).code, "ride_already_taken");
    assert!(offers(&b).await.is_empty() && offers(&c).await.is_empty());
    let path = format!("/v1/rides/{}/dispatch", ride["id"].as_str().unwrap());
    let story = region.admin().await.get(&path).await.ok(200);
    let mut ends: Vec<&str> =
        story["offers"].as_array().unwrap().iter().map(|o| o["status"].as_str().unwrap()).collect();
    ends.sort_unstable();
    assert_eq!(ends, ["accepted", "declined", "taken"]);
    // Whoever lost it is free for the next at once.
    let next = request(&region.rider().await).await;
    run_due(&region.app).await;
    let asked = [offers(&a).await, offers(&b).await, offers(&c).await, offers(&d).await].concat();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|offer| offer["ride_id"] == next["id"]));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_group_none_of_whom_answers_makes_room_for_the_next_as_far_as_the_limit_goes(pool: PgPool) {
    let config = json!({"dispatch": {"group_size": 2, "max_offers": 3}});
    let region = TestRegion::with_config(pool, config).await;
    let rider = region.rider().await;
    let drivers = [driver_at(&region, 300.0).await, driver_at(&region, 400.0).await, driver_at(&region, 500.0).await];
    let fourth = driver_at(&region, 600.0).await;
    let ride = request(&rider).await;
    run_due(&region.app).await;
    answer(&drivers[0], "decline", &ride).await.ok(204);
    region.clock.advance(Duration::seconds(15));
    run_due(&region.app).await;
    assert_eq!(offers(&drivers[2]).await.len(), 1);
    assert!(offers(&fourth).await.is_empty(), "three offers are all that may be made");
    answer(&drivers[2], "decline", &ride).await.ok(204);
    run_due(&region.app).await;
    assert_eq!(status(&rider, &ride).await, "expired");
}

#[sqlx::test(migrations = "../migrations")]
async fn answers_and_fares_are_kept_with_the_driver_and_known_where_rides_are_planned(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = driver_at(&region, 300.0).await;
    let id = DriverId(driver.id);
    let fleet = region.app.drivers.live.fleet(&region.tenant);
    let known = || {
        let record = fleet.sighting(id, region.clock.now()).unwrap().standing.record;
        (record.accepted.round(), record.refused.round())
    };
    let rider = region.rider().await;
    let declined = request(&rider).await;
    run_due(&region.app).await;
    answer(&driver, "decline", &declined).await.ok(204);
    assert_eq!(known(), (0.0, 1.0));
    let slow = request(&region.rider().await).await;
    run_due(&region.app).await;
    region.clock.advance(Duration::seconds(16));
    run_due(&region.app).await;
    assert_eq!((known(), status(&rider, &declined).await.as_str()), ((0.0, 2.0), "requested"));
    online(&driver, 300.0).await;
    let taken = request(&region.rider().await).await;
    run_due(&region.app).await;
    answer(&driver, "accept", &taken).await.ok(200);
    assert_eq!(known(), (1.0, 2.0));
    assert_ne!(slow["id"], taken["id"]);
    // Postgres has the same sums, for a node that starts.
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    fleet.forget(id);
    let position = json!({"lat": PICKUP.0, "lng": PICKUP.1});
    driver.post(&format!("/v1/drivers/{}/location", driver.id), position).await.ok(202);
    assert_eq!(known(), (1.0, 2.0));
    note(&mut tx, &[id], Addition::earned(700), region.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    let before = fleet.sighting(id, region.clock.now()).unwrap().standing.record;
    assert!((before.earned - 700.0).abs() < 0.01);
    // A half-life later half of it counts, in Postgres as here.
    let later = region.clock.now() + Duration::hours(2);
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    note(&mut tx, &[id], Addition::REFUSED, later).await.unwrap();
    tx.commit().await.unwrap();
    let after = fleet.sighting(id, later).unwrap().standing.record;
    let expected = before.plus(Addition::REFUSED, later);
    assert!((after.earned - 350.0).abs() < 0.5 && (after.earned - expected.earned).abs() < 1e-6, "{after:?}");
    assert!((after.refused - expected.refused).abs() < 1e-9, "{after:?} {expected:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn going_offline_refuses_the_offer_that_was_open_and_nothing_else(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = driver_at(&region, 300.0).await;
    let fleet = region.app.drivers.live.fleet(&region.tenant);
    let refused = async || {
        region.clock.advance(Duration::seconds(1));
        let offline = json!({"status": "offline"});
        driver.post(&format!("/v1/drivers/{}/status", driver.id), offline).await.ok(200);
        let sighting = fleet.sighting(DriverId(driver.id), region.clock.now()).unwrap();
        sighting.standing.record.refused.round()
    };
    assert_eq!(refused().await, 0.0);
    online(&driver, 300.0).await;
    let rider = region.rider().await;
    let ride = request(&rider).await;
    run_due(&region.app).await;
    assert_eq!(offers(&driver).await.len(), 1);
    assert_eq!(refused().await, 1.0);
    // Back at once he may be asked again, and each time counts.
    online(&driver, 300.0).await;
    region.clock.advance(Duration::seconds(1));
    run_due(&region.app).await;
    assert_eq!(offers(&driver).await[0]["ride_id"], ride["id"]);
    assert_eq!(refused().await, 2.0);
    assert_eq!(refused().await, 2.0);
    online(&driver, 300.0).await;
    rider.post(&format!("/v1/rides/{}/cancel", ride["id"].as_str().unwrap()), json!({})).await.ok(200);
    let taken = request(&rider).await;
    region.clock.advance(Duration::seconds(1));
    run_due(&region.app).await;
    answer(&driver, "accept", &taken).await.ok(200);
    assert_eq!(refused().await, 2.0);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_whose_document_expires_while_online_is_offered_nothing_and_it_says_so(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"dispatch": {"required_documents": ["licence"]}})).await;
    let (admin, driver) = (region.admin().await, region.driver().await);
    let documents = |until: time::OffsetDateTime| {
        let until =
            until.replace_nanosecond(0).unwrap().format(&time::format_description::well_known::Rfc3339).unwrap();
        json!({"documents": [{"kind": "licence", "expires_at": until}]})
    };
    let path = format!("/v1/drivers/{}/documents", driver.id);
    admin.put(&path, documents(region.clock.now() + Duration::seconds(90))).await.ok(200);
    online(&driver, 300.0).await;
    region.clock.advance(Duration::seconds(100));
    let place = json!({"lat": PICKUP.0, "lng": PICKUP.1});
    driver.post(&format!("/v1/drivers/{}/location", driver.id), place).await.ok(202);
    let ride = request(&region.rider().await).await;
    run_due(&region.app).await;
    assert!(offers(&driver).await.is_empty());
    assert_eq!(reasons(&region, &ride).await, [(0, driver.id.to_string(), "document_expired".to_owned())]);

    // A table that has not heard of it yet asks, and Postgres does not.
    let fleet = region.app.drivers.live.fleet(&region.tenant);
    let now = region.clock.now();
    let known = fleet.sighting(DriverId(driver.id), now).unwrap().standing;
    let terms = Terms::new([("licence".to_owned(), now + Duration::DAY)].into(), None);
    fleet.learn(DriverId(driver.id), Standing { terms, as_of: now, ..known });
    region.clock.advance(Duration::seconds(1));
    run_due(&region.app).await;
    assert!(offers(&driver).await.is_empty());

    admin.put(&path, documents(region.clock.now() + Duration::DAY)).await.ok(200);
    region.clock.advance(Duration::seconds(1));
    run_due(&region.app).await;
    assert_eq!(offers(&driver).await.len(), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_is_not_offered_rides_beyond_his_own_limit(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = driver_at(&region, 1_500.0).await;
    driver.put(&format!("/v1/drivers/{}/preferences", driver.id), json!({"max_pickup_m": 1_000})).await.ok(200);
    let ride = request(&region.rider().await).await;
    run_due(&region.app).await;
    assert!(offers(&driver).await.is_empty());
    assert_eq!(reasons(&region, &ride).await, [(0, driver.id.to_string(), "beyond_own_limit".to_owned())]);
}

#[sqlx::test(migrations = "../migrations")]
async fn rides_of_one_area_that_come_together_wait_for_the_end_of_their_window(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"dispatch": {"window_ms": 10_000}})).await;
    let driver = driver_at(&region, 300.0).await;
    let alone = request(&region.rider().await).await;
    run_due(&region.app).await;
    assert_eq!(offers(&driver).await[0]["ride_id"], alone["id"], "empty roads answer at once");
    let second = driver_at(&region, 500.0).await;
    request(&region.rider().await).await;
    run_due(&region.app).await;
    assert!(offers(&second).await.is_empty());
    region.clock.advance(Duration::seconds(10));
    run_due(&region.app).await;
    assert_eq!(offers(&second).await.len(), 1);
}

/// Waits until some transaction of this database waits for a lock.
pub(super) async fn somebody_waits(pool: &PgPool) {
    let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                 WHERE NOT granted AND datname = current_database()";
    let waiting = async {
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(pool).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.expect("nobody waits for a lock");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_who_takes_a_ride_while_another_is_offered_to_him_keeps_only_the_one(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let (one, two) = (region.rider().await, region.rider().await);
    let driver = driver_at(&region, 300.0).await;
    let taken = request(&one).await;
    run_due(&region.app).await;
    let other = request(&two).await;
    let (id, now) = (DriverId(driver.id), region.clock.now());
    // As on a node that has not heard of the first offer.
    region.app.drivers.set_duty(&region.tenant, id, Duty::Free, now);

    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    answers::accept(&region.app, &mut tx, RideId(id_of(&taken)), id).await.unwrap();
    let other_side = async {
        somebody_waits(&pool).await;
        tx.commit().await.unwrap();
    };
    tokio::join!(run_due(&region.app), other_side);

    assert!(offers(&driver).await.is_empty());
    assert_eq!(status(&two, &other).await, "requested");
    assert_eq!(reasons(&region, &other).await, [(0, driver.id.to_string(), "busy".into())]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_who_goes_offline_while_a_ride_is_offered_to_him_is_left_without_an_offer(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let rider = region.rider().await;
    let driver = driver_at(&region, 300.0).await;
    let ride = request(&rider).await;
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    sqlx::query("UPDATE drivers SET status = 'offline' WHERE id = $1")
        .bind(driver.id)
        .execute(tx.conn())
        .await
        .unwrap();
    let other_side = async {
        somebody_waits(&pool).await;
        tx.commit().await.unwrap();
    };
    tokio::join!(run_due(&region.app), other_side);

    assert!(offers(&driver).await.is_empty());
    assert_eq!(status(&rider, &ride).await, "requested");
    assert_eq!(reasons(&region, &ride).await, [(0, driver.id.to_string(), "offline".into())]);
}

#[sqlx::test(migrations = "../migrations")]
async fn rides_that_wait_are_looked_at_in_step(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (early, late) = (region.rider().await, region.rider().await);
    request(&early).await;
    run_due(&region.app).await;
    region.clock.advance(Duration::milliseconds(230));
    request(&late).await;
    run_due(&region.app).await;
    let due: Vec<time::OffsetDateTime> = sqlx::query_scalar("SELECT dispatch_at FROM rides ORDER BY id")
        .fetch_all(region.app.db.system().await.unwrap().conn())
        .await
        .unwrap();
    let every_ns = region.app.config.dispatch.retry_after.as_nanos() as i128;
    assert!(due.iter().all(|at| at.unix_timestamp_nanos() % every_ns == 0), "{due:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_preview_asks_whom_the_live_dispatcher_asks(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"dispatch": {"group_size": 2, "fairness_bonus_s": 120}})).await;
    let names = ["a", "b", "c"];
    let mut drivers = Vec::new();
    for north_m in [300.0, 400.0, 500.0] {
        drivers.push(driver_at(&region, north_m).await);
    }
    let fleet = region.app.drivers.live.fleet(&region.tenant);
    let now = region.clock.now();
    let refused = (0..30).fold(Record::NONE, |record, _| record.plus(Addition::REFUSED, now));
    fleet.set_record(DriverId(drivers[0].id), refused);
    request(&region.rider().await).await;
    run_due(&region.app).await;
    let mut asked = Vec::new();
    for (driver, name) in drivers.iter().zip(names) {
        if !offers(driver).await.is_empty() {
            asked.push(name);
        }
    }
    assert_eq!(asked, ["b", "c"]);

    let admin = region.admin().await;
    let mut moment = preview_of(&[("r", 0.0)], &[("a", 300.0), ("b", 400.0), ("c", 500.0)]);
    moment["drivers"][0]["acceptance"] = json!(0.13);
    let preview = admin.post("/v1/dispatch/preview", moment.clone()).await.ok(200);
    let assigned = &preview["assignments"][0];
    assert_eq!((&assigned["driver_id"], &assigned["also_asked"]), (&json!("b"), &json!(["c"])));

    moment["drivers"][0]["acceptance"] = json!(0.9);
    moment["drivers"][1]["max_pickup_m"] = json!(350);
    let preview = admin.post("/v1/dispatch/preview", moment.clone()).await.ok(200);
    let assigned = &preview["assignments"][0];
    assert_eq!((&assigned["driver_id"], &assigned["also_asked"]), (&json!("a"), &json!(["c"])));

    // Who earned nothing where others did goes first.
    moment["drivers"][0]["earned"] = json!(5_000.0);
    moment["drivers"][1]["earned"] = json!(5_000.0);
    moment["drivers"][2]["earned"] = json!(0.0);
    let preview = admin.post("/v1/dispatch/preview", moment).await.ok(200);
    let assigned = &preview["assignments"][0];
    assert_eq!((&assigned["driver_id"], &assigned["also_asked"]), (&json!("c"), &json!(["a"])));
}

#[sqlx::test(migrations = "../migrations")]
async fn of_too_many_previews_at_once_the_last_is_told_to_come_back(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (admin, moment) = (region.admin().await, preview_of(&[("r", 0.0)], &[("a", 300.0)]));
    let others: Vec<_> = std::iter::from_fn(|| region.app.previews.let_in().ok()).collect();
    let refused = admin.post("/v1/dispatch/preview", moment.clone()).await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.problem(503).code, "unavailable");
    drop(others);
    admin.post("/v1/dispatch/preview", moment).await.ok(200);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_preview_takes_a_matrix_larger_than_other_calls_may_be(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let names: Vec<String> = (0..200).map(|n| format!("n{n}")).collect();
    let everybody: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 0.0)).collect();
    let mut moment = preview_of(&everybody, &everybody);
    // Each request's own driver is near, and the others are as far as their numbers are.
    let cost_s = |request: i32, driver: i32| 10.0 + 20.0 * f64::from((request - driver).abs());
    let row = |request| (0..200).map(|driver| cost_s(request, driver)).collect::<Vec<_>>();
    moment["costs_s"] = json!((0..200).map(row).collect::<Vec<_>>());
    assert!(moment.to_string().len() > 200_000);
    let preview = region.admin().await.post("/v1/dispatch/preview", moment).await.ok(200);
    let assignments = preview["assignments"].as_array().unwrap();
    assert_eq!(assignments.len(), 200);
    assert!(assignments.iter().all(|pair| pair["request_id"] == pair["driver_id"] && pair["eta_s"] == 10));
}
