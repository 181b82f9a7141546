//! Queues over the API.

use serde_json::{Value, json};
use sqlx::PgPool;
use time::Duration;

use super::watch::look;
use crate::{
    dispatch::{run_due, tests::online},
    rides::tests::request,
    testing::{TestRegion, TestUser},
};

/// Rides begin in its middle; its edge is 1,000 m off.
async fn region(pool: PgPool) -> TestRegion {
    region_that_allows(pool, 2).await
}

/// Who declines so many rides begins at the end again.
async fn region_that_allows(pool: PgPool, decline_limit: u32) -> TestRegion {
    let area = json!({"circle": {"center": {"lat": 40.758, "lng": -73.9855}, "radius_m": 1000}});
    let zone =
        json!({"id": "rank", "name": "Times Square", "area": area, "queue": true, "decline_limit": decline_limit});
    TestRegion::with_config(pool, json!({"zones": [zone]})).await
}

/// Drivers who come one after the other, the first of them farthest from the middle.
async fn in_line(region: &TestRegion) -> [TestUser; 3] {
    let drivers = [region.driver().await, region.driver().await, region.driver().await];
    for (driver, north_m) in drivers.iter().zip([900.0, 500.0, 100.0]) {
        online(driver, north_m).await;
        look(&region.app, &region.tenant).await.unwrap();
        region.clock.advance(Duration::seconds(1));
    }
    drivers
}

/// Dispatches what was asked for by now, those that came together included.
async fn dispatch(region: &TestRegion) {
    region.clock.advance(Duration::seconds(1));
    run_due(&region.app).await;
}

async fn place(driver: &TestUser) -> Option<u64> {
    driver.get(&format!("/v1/drivers/{}/queue", driver.id)).await.ok(200)["queue"]["place"].as_u64()
}

async fn is_asked(driver: &TestUser) -> bool {
    let offers = driver.get(&format!("/v1/drivers/{}/offers", driver.id)).await.ok(200);
    !offers["items"].as_array().unwrap().is_empty()
}

async fn answer(driver: &TestUser, what: &str, ride: &Value) {
    let answer = driver.post(&format!("/v1/drivers/{}/{what}", driver.id), json!({"ride_id": ride["id"]})).await;
    assert!([200, 204].contains(&answer.status), "{answer:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ride_from_a_zone_is_offered_to_who_came_first_and_not_to_who_is_nearest(pool: PgPool) {
    let region = region(pool).await;
    let [first, second, third] = in_line(&region).await;
    assert_eq!([place(&first).await, place(&second).await, place(&third).await], [Some(1), Some(2), Some(3)]);
    // Free and near, but not in the zone.
    let outsider = region.driver().await;
    online(&outsider, 1_100.0).await;
    look(&region.app, &region.tenant).await.unwrap();
    assert_eq!(place(&outsider).await, None);

    let rider = region.rider().await;
    let ride = request(&rider).await;
    dispatch(&region).await;
    assert!(is_asked(&first).await && !is_asked(&second).await && !is_asked(&third).await);
    let story = region.admin().await.get(&format!("/v1/rides/{}/dispatch", ride["id"].as_str().unwrap())).await.ok(200);
    let candidates = story["candidates"].as_array().unwrap();
    let reason = |driver: &TestUser| {
        let of = candidates.iter().find(|candidate| candidate["driver_id"] == json!(driver.id)).unwrap();
        of["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason(&first), "offered");
    assert!([&second, &third, &outsider].iter().all(|driver| reason(driver) == "behind_in_queue"));

    answer(&first, "accept", &ride).await;
    assert_eq!([place(&first).await, place(&second).await, place(&third).await], [None, Some(1), Some(2)]);
    look(&region.app, &region.tenant).await.unwrap();
    assert_eq!(place(&first).await, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn rides_of_one_moment_go_down_the_line(pool: PgPool) {
    let region = region(pool).await;
    let [first, second, third] = in_line(&region).await;
    for _ in 0..2 {
        request(&region.rider().await).await;
    }
    dispatch(&region).await;
    assert!(is_asked(&first).await && is_asked(&second).await && !is_asked(&third).await);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_declines_twice_begins_at_the_end_again(pool: PgPool) {
    let region = region(pool).await;
    let [first, second, third] = in_line(&region).await;
    for left in [Some(1), Some(3)] {
        let ride = request(&region.rider().await).await;
        dispatch(&region).await;
        answer(&first, "decline", &ride).await;
        region.clock.advance(Duration::seconds(1));
        assert_eq!(place(&first).await, left);
        dispatch(&region).await;
        // The next in line takes it out of the way.
        let taker = if is_asked(&second).await { &second } else { &third };
        answer(taker, "decline", &ride).await;
        let rest: Vec<_> = [&second, &third].into_iter().filter(|driver| driver.id != taker.id).collect();
        dispatch(&region).await;
        answer(rest[0], "decline", &ride).await;
    }
}

/// The first in line, who has declined three rides, declines one more; his place then, and the declines that count.
async fn declines_a_fourth(region: &TestRegion) -> (Option<u64>, i32) {
    let [first, _, _] = in_line(region).await;
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    let declined = sqlx::query("UPDATE zone_queue SET declines = 3 WHERE driver_id = $1").bind(first.id);
    declined.execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    let ride = request(&region.rider().await).await;
    dispatch(region).await;
    answer(&first, "decline", &ride).await;
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    let declines = sqlx::query_scalar("SELECT declines FROM zone_queue WHERE driver_id = $1").bind(first.id);
    (place(&first).await, declines.fetch_one(tx.conn()).await.unwrap())
}

#[sqlx::test(migrations = "../migrations")]
async fn a_limit_lowered_below_what_somebody_has_declined_counts_for_him_too(pool: PgPool) {
    assert_eq!(declines_a_fourth(&region_that_allows(pool, 2).await).await, (Some(3), 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn where_there_is_no_limit_nobody_loses_his_place_by_declining(pool: PgPool) {
    assert_eq!(declines_a_fourth(&region_that_allows(pool, 0).await).await, (Some(1), 4));
}

#[sqlx::test(migrations = "../migrations")]
async fn who_lets_offers_run_out_is_counted_as_who_declines(pool: PgPool) {
    let region = region(pool).await;
    let [first, _, _] = in_line(&region).await;
    request(&region.rider().await).await;
    dispatch(&region).await;
    assert!(is_asked(&first).await);
    region.clock.advance(Duration::seconds(15));
    dispatch(&region).await;
    let queue = region.admin().await.get("/v1/zones/rank/queue").await.ok(200);
    assert_eq!((&queue["items"][0]["driver_id"], &queue["items"][0]["declines"]), (&json!(first.id), &json!(1)));
}

#[sqlx::test(migrations = "../migrations")]
async fn going_offline_costs_the_place_and_a_jump_over_the_edge_does_not(pool: PgPool) {
    let region = region(pool).await;
    let [first, second, _] = in_line(&region).await;
    let jump = json!({"lat": 40.758 + 1_600.0 / 111_195.0, "lng": -73.9855});
    first.post(&format!("/v1/drivers/{}/location", first.id), jump).await.ok(202);
    look(&region.app, &region.tenant).await.unwrap();
    region.clock.advance(Duration::seconds(20));
    online(&first, 950.0).await;
    look(&region.app, &region.tenant).await.unwrap();
    assert_eq!(place(&first).await, Some(1));

    let status = format!("/v1/drivers/{}/status", first.id);
    first.post(&status, json!({"status": "offline"})).await.ok(200);
    assert_eq!([place(&first).await, place(&second).await], [None, Some(1)]);
    online(&first, 900.0).await;
    look(&region.app, &region.tenant).await.unwrap();
    assert_eq!(place(&first).await, Some(3));
}

#[sqlx::test(migrations = "../migrations")]
async fn with_nobody_in_line_the_nearest_outside_is_asked(pool: PgPool) {
    let region = region(pool).await;
    let outsider = region.driver().await;
    online(&outsider, 1_500.0).await;
    look(&region.app, &region.tenant).await.unwrap();
    request(&region.rider().await).await;
    dispatch(&region).await;
    assert!(is_asked(&outsider).await);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_back_office_sees_each_zone_and_how_many_wait_there_and_nobody_else_does(pool: PgPool) {
    let corners = json!([{"lat": 40.6, "lng": -73.8}, {"lat": 40.7, "lng": -73.8}, {"lat": 40.7, "lng": -73.7}]);
    let area = json!({"circle": {"center": {"lat": 40.758, "lng": -73.9855}, "radius_m": 1000}});
    let zones = json!([
        {"id": "rank", "name": "Times Square", "area": area, "queue": true},
        {"id": "shore", "name": "The shore", "area": {"polygon": corners}},
    ]);
    let region = TestRegion::with_config(pool, json!({"zones": zones})).await;
    let drivers = in_line(&region).await;
    let seen = region.admin().await.get("/v1/zones").await.ok(200);
    let expected = json!([
        {"id": "rank", "name": "Times Square", "area": area, "waiting": 3},
        {"id": "shore", "name": "The shore", "area": {"polygon": corners}, "waiting": null},
    ]);
    assert_eq!(seen, json!({"items": expected, "next_cursor": null}));
    for stranger in [&drivers[0], &region.rider().await] {
        assert_eq!(stranger.get("/v1/zones").await.problem(403).code, "forbidden");
    }
    let office = region.new_tenant("other", json!({})).await;
    let other = region.admin_of("other".parse().unwrap(), &office).await;
    assert_eq!(other.get("/v1/zones").await.ok(200)["items"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn two_nodes_that_look_at_once_agree_on_the_order(pool: PgPool) {
    let region = region(pool).await;
    let drivers = in_line(&region).await;
    let late = region.driver().await;
    online(&late, 10.0).await;
    let look = || look(&region.app, &region.tenant);
    let (a, b, c) = tokio::join!(look(), look(), look());
    [a, b, c].into_iter().for_each(|looked| looked.unwrap());
    let queue = region.admin().await.get("/v1/zones/rank/queue").await.ok(200);
    let order: Vec<_> = queue["items"].as_array().unwrap().iter().map(|item| item["driver_id"].clone()).collect();
    assert_eq!(order, [&drivers[0], &drivers[1], &drivers[2], &late].map(|driver| json!(driver.id)));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_driver_sees_his_own_place_alone_and_the_back_office_the_queue(pool: PgPool) {
    let region = region(pool).await;
    let [first, second, _] = in_line(&region).await;
    let of_other = format!("/v1/drivers/{}/queue", second.id);
    assert_eq!(first.get(&of_other).await.problem(404).code, "not_found");
    assert_eq!(first.get("/v1/zones/rank/queue").await.problem(403).code, "forbidden");
    assert_eq!(region.admin().await.get("/v1/zones/nowhere/queue").await.problem(404).code, "not_found");
    let office = region.new_tenant("other", json!({})).await;
    let other = region.admin_of("other".parse().unwrap(), &office).await;
    assert_eq!(other.get("/v1/zones/rank/queue").await.problem(404).code, "not_found");
}
