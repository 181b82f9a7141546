//! Drivers over the API, between nodes and in Postgres.

use serde_json::{Value, json};
use sqlx::PgPool;
use time::Duration;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::*;
use crate::{
    dispatch::tests::online,
    rides::tests::{accepted, request},
    testing::{RedisCluster, TestRegion, TestUser},
};

const NEARBY: &str = "/v1/drivers/nearby?lat=40.758&lng=-73.9855";

fn path(driver: &TestUser, what: &str) -> String {
    format!("/v1/drivers/{}/{what}", driver.id)
}

async fn seen(user: &TestUser, query: &str) -> Vec<Value> {
    user.get(&format!("{NEARBY}{query}")).await.ok(200)["items"].as_array().unwrap().clone()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn cars_are_shown_without_who_drives_them(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    online(&driver, 500.0).await;
    let cars = seen(&rider, "").await;
    assert_eq!(cars.len(), 1);
    assert_eq!((cars[0]["distance_m"].as_u64(), cars[0]["vehicle_class"].as_str()), (Some(500), Some("standard")));
    assert!(!cars[0].to_string().contains(&driver.id.to_string()));
    assert!(cars[0].get("doing").is_none());
    assert!(seen(&rider, "&radius_m=400").await.is_empty());
    assert!(seen(&rider, "&vehicle_class=xl").await.is_empty());
    assert_eq!(seen(&region.admin().await, "").await[0]["doing"], "free");
    assert_eq!(driver.get(NEARBY).await.problem(403).code, "forbidden");
    assert_eq!(rider.get("/v1/drivers/nearby?lat=91&lng=0&limit=0").await.problem(422).fields, ["lat", "limit"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn there_are_no_ghosts(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    region.new_tenant("other", json!({})).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    assert!(seen(&rider, "").await.is_empty());
    let place = json!({"lat": 40.758, "lng": -73.9855});
    let taken = driver.post(&path(&driver, "location"), place.clone()).await.ok(202);
    assert_eq!(taken, json!({"accepted": 1, "online": false}));
    assert!(seen(&rider, "").await.is_empty(), "offline");
    online(&driver, 0.0).await;
    assert_eq!(seen(&rider, "").await.len(), 1);
    assert!(seen(&region.rider_of("other").await, "").await.is_empty(), "another tenant's");
    driver.post(&path(&driver, "location"), json!({"lat": 41.0, "lng": -73.9855})).await.ok(202);
    assert!(seen(&rider, "").await.is_empty(), "moved away");
    driver.post(&path(&driver, "location"), place.clone()).await.ok(202);
    region.clock.advance(Duration::seconds(60));
    assert!(seen(&rider, "").await.is_empty(), "expired");
    driver.post(&path(&driver, "location"), place).await.ok(202);
    driver.post(&path(&driver, "status"), json!({"status": "offline"})).await.ok(200);
    assert!(seen(&rider, "").await.is_empty(), "gone offline");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_place_of_an_erased_driver_is_not_written(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = region.driver().await;
    online(&driver, 0.0).await;
    let mut tx = region.app.db.system().await.unwrap();
    sqlx::query("UPDATE drivers SET erased_at = now()").execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    background::store_places(&region.app).await.unwrap();
    let mut tx = region.app.db.system().await.unwrap();
    let written: i64 = sqlx::query_scalar("SELECT count(*) FROM driver_places").fetch_one(tx.conn()).await.unwrap();
    assert_eq!(written, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn positions_are_checked_one_by_one(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (driver, rider) = (region.driver().await, region.rider().await);
    let place = json!({"lat": 40.758, "lng": -73.9855, "heading": 90, "speed": 8.5, "accuracy": 5});
    let take = path(&driver, "location");
    assert_eq!(driver.post(&take, json!([place, place])).await.ok(202)["accepted"], 2);
    let bad = json!([place, {"lat": 91, "lng": -181}]);
    assert_eq!(driver.post(&take, bad).await.problem(422).fields, ["[1].lat", "[1].lng"]);
    for body in [json!([]), json!(vec![place.clone(); 101]), json!("here"), json!({"lat": 1})] {
        assert_eq!(driver.post(&take, body).await.problem(422).code, "validation_failed");
    }
    assert_eq!(rider.post(&take, place.clone()).await.problem(403).code, "forbidden");
    let other = path(&region.driver().await, "location");
    assert_eq!(driver.post(&other, place.clone()).await.problem(404).code, "not_found");
    // Positions have no effect to repeat: the key is not even looked at.
    driver.post_keyed(&take, "k", place.clone()).await.ok(202);
    driver.post_keyed(&take, "k", json!({"lat": 1.0, "lng": 1.0})).await.ok(202);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn going_online_again_keeps_the_time_without_work(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = region.driver().await;
    let set = async |status: &str| driver.post(&path(&driver, "status"), json!({"status": status})).await.ok(200);
    let first = set("online").await;
    region.clock.advance(Duration::MINUTE);
    assert_eq!(set("online").await["idle_since"], first["idle_since"]);
    assert_eq!(set("offline").await["idle_since"], Value::Null);
    assert_ne!(set("online").await["idle_since"], first["idle_since"]);
    assert_eq!(
        driver.post(&path(&driver, "status"), json!({"status": "busy"})).await.problem(422).code,
        "validation_failed"
    );
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_trace_of_a_running_trip_is_kept_whole(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    online(&driver, 0.0).await;
    let (ride, trip) = accepted(&region, &rider, &driver).await;
    reconcile_all(&region).await;
    let drive = async |what: &str, body: Value| driver.post(&format!("{trip}/{what}"), body).await.ok(200);
    let report = async |from: i32| {
        let start = region.clock.now();
        let crumb = |n: i32| {
            let at = start - Duration::milliseconds(i64::from(10 - n));
            let at = at.format(&time::format_description::well_known::Rfc3339).unwrap();
            json!({"lat": 40.758 + f64::from(from + n) * 1e-4, "lng": -73.9855, "recorded_at": at})
        };
        let crumbs: Vec<_> = (0..10).map(crumb).collect();
        driver.post(&path(&driver, "location"), json!(crumbs)).await.ok(202);
    };
    report(0).await;
    region.clock.advance(Duration::SECOND);
    drive("arrive", json!({})).await;
    let pin = rider.get(&format!("/v1/rides/{}", ride["id"].as_str().unwrap())).await.ok(200)["pin"].clone();
    drive("start", json!({"pin": pin})).await;
    region.clock.advance(Duration::SECOND);
    report(10).await;
    report(10).await;
    flush_breadcrumbs(&region.app).await.unwrap();
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM breadcrumbs").fetch_one(tx.conn()).await.unwrap();
    assert_eq!(kept, 20, "those before the start are of no trip");
    tx.commit().await.unwrap();
    region.clock.advance(Duration::MINUTE);
    let ended = drive("end", json!({})).await;
    assert!(ended["distance_m"].as_i64().is_some());
}

async fn reconcile_all(region: &TestRegion) {
    // What was read counts as a little older than the reading.
    region.clock.advance(Duration::seconds(3));
    background::reconcile(&region.app, true).await.unwrap();
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trace_loses_nothing_to_a_node_that_has_yet_to_hear_of_the_trip_nor_to_a_clock_that_is_behind(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let behind = Duration::seconds(90);
    // How late the driver is told to be, by second.
    let drives = async |seconds: i32| {
        let mut told = Vec::new();
        for second in 0..seconds {
            let at = (region.clock.now() - behind).format(&time::format_description::well_known::Rfc3339).unwrap();
            let place = json!({"lat": 40.758 + f64::from(second) * 1e-4, "lng": -73.9855, "recorded_at": at});
            let taken = driver.post(&path(&driver, "location"), place).await.ok(202);
            told.push(taken["late_s"].as_i64());
            region.clock.advance(Duration::SECOND);
        }
        told
    };
    set_status(&driver, "online").await;
    let told = drives(60).await;
    assert_eq!((told[0], told[59]), (Some(90), None));
    let (ride, trip) = accepted(&region, &rider, &driver).await;
    let drive = async |what: &str, body: Value| driver.post(&format!("{trip}/{what}"), body).await.ok(200);
    drive("arrive", json!({})).await;
    let pin = rider.get(&format!("/v1/rides/{}", ride["id"].as_str().unwrap())).await.ok(200)["pin"].clone();
    drive("start", json!({"pin": pin})).await;
    // As another node believes it that did not hear of the trip, until it looks.
    let fleet = region.app.drivers.live.fleet(&region.tenant);
    fleet.set_duty(DriverId(driver.id), Duty::Free, region.clock.now());
    region.app.drivers.set_sharing(true);
    drives(5).await;
    background::reconcile(&region.app, false).await.unwrap();
    drives(15).await;
    flush_breadcrumbs(&region.app).await.unwrap();
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM breadcrumbs").fetch_one(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    // Times are put right to the second: the first may be of just before the start.
    assert!((19..=20).contains(&kept), "{kept} of 20");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_table_believes_what_postgres_knows(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    online(&driver, 0.0).await;
    accepted(&region, &rider, &driver).await;
    reconcile_all(&region).await;
    assert!(seen(&rider, "").await.is_empty(), "on a trip");
    assert_eq!(seen(&region.admin().await, "").await[0]["doing"], "on_trip");
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    sqlx::query("UPDATE trips SET status = 'cancelled'").execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    reconcile_all(&region).await;
    assert_eq!(seen(&rider, "").await.len(), 1);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_node_that_starts_finds_the_drivers_in_postgres(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = region.driver().await;
    online(&driver, 100.0).await;
    background::store_places(&region.app).await.unwrap();
    let fleet = region.app.drivers.live.fleet(&region.tenant);
    fleet.forget(DriverId(driver.id));
    let rider = region.rider().await;
    assert!(seen(&rider, "").await.is_empty());
    share::rebuild(&region.app).await;
    assert_eq!(seen(&rider, "").await.len(), 1);
    request(&rider).await;
}

/// A node that knows no database: a table and its share of Redis.
struct Node {
    live: LiveTable,
    sharing: share::Sharing,
    redis: fred::clients::Client,
}

impl Node {
    async fn new(cluster: &str) -> Self {
        let url = std::env::var("TEST_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());
        let rule = ShareRule { distance_m: 25.0, heartbeat: Duration::seconds(20) };
        let redis = redis::connect(&crate::config::RedisConfig { url: url.into() }).await.unwrap();
        Self { live: LiveTable::new(rule), sharing: share::Sharing::new(cluster), redis }
    }

    async fn tell(&self, now: OffsetDateTime) -> bool {
        self.sharing.tell(&self.redis, &self.live, now, now).await
    }

    fn fleet(&self) -> Arc<Fleet> {
        self.live.fleet(&"cabs".parse().unwrap())
    }

    fn finds(&self, now: OffsetDateTime) -> usize {
        self.fleet().search(shared::geo::Point::new(1.0, 1.0), 1_000.0, 10, now, |_, _| true).len()
    }

    fn hears_of_a_driver(&self, now: OffsetDateTime) -> DriverId {
        let id = DriverId::new();
        let standing = Standing {
            online: true,
            vehicle_class: "standard".into(),
            idle_since: None,
            duty: Duty::Free,
            terms: Terms::default(),
            record: Record::NONE,
            as_of: now,
            duty_as_of: now,
        };
        self.fleet().learn(id, standing);
        let position = Position { point: shared::geo::Point::new(1.0, 1.0), heading: None, recorded_at: now };
        self.fleet().observe(id, &mut [position], now);
        id
    }
}

#[tokio::test]
async fn nodes_share_drivers_and_share_them_again_when_redis_was_emptied() {
    use fred::prelude::{ClientLike, EventInterface, KeysInterface};
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Uuid::now_v7().to_string();
    let keys = Keys::new(&cluster);
    let (here, there) = (Node::new(&cluster).await, Node::new(&cluster).await);
    let now = shared::clock::Clock::system().now();
    let url = std::env::var("TEST_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());
    let subscriber = redis::subscriber(&crate::config::RedisConfig { url: url.into() }).unwrap();
    let mut messages = subscriber.message_rx();
    subscriber.init().await.unwrap();
    redis::subscribe(&subscriber, &keys.all_sightings()).await.unwrap();

    here.tell(now).await;
    let id = here.hears_of_a_driver(now);
    assert!(here.tell(now).await);
    let told = messages.recv().await.unwrap();
    there.sharing.hear(&there.live, told.value.as_bytes().unwrap(), now);
    assert_eq!(there.finds(now), 1, "told at once");
    let late = Node::new(&cluster).await;
    assert_eq!(late.sharing.read_all(&late.redis, &late.live, now).await.unwrap(), 1, "read at start");

    // As FLUSHALL leaves it, for this cluster.
    let tenant = "cabs".parse().unwrap();
    let every = format!("gocomet:{cluster}:*");
    let own: Vec<fred::types::Key> =
        futures::TryStreamExt::try_collect(here.redis.scan_buffered(every, None, None)).await.unwrap();
    assert_eq!(own.len(), 2, "the driver and the node itself");
    let _: () = here.redis.del(own).await.unwrap();
    assert!(!here.tell(now).await, "the loss is noticed");
    here.fleet().share_all();
    assert!(here.tell(now).await);
    let again: Option<Vec<u8>> = here.redis.get(keys.live(&tenant, id)).await.unwrap();
    assert!(again.is_some());

    let offline = Standing {
        online: false,
        vehicle_class: "standard".into(),
        idle_since: None,
        duty: Duty::Free,
        terms: Terms::default(),
        record: Record::NONE,
        as_of: now,
        duty_as_of: now,
    };
    here.fleet().learn(id, offline);
    assert!(here.tell(now).await);
    let gone: Option<Vec<u8>> = here.redis.get(keys.live(&tenant, id)).await.unwrap();
    assert_eq!(gone, None);
}

#[tokio::test]
async fn what_redis_does_not_take_waits_until_it_does() {
    use fred::prelude::{ClientLike, KeysInterface, ListInterface};
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Uuid::now_v7().to_string();
    let here = Node::new(&cluster).await;
    let now = shared::clock::Clock::system().now();
    here.tell(now).await;
    let every = format!("gocomet:{cluster}:node:*");
    let marks: Vec<fred::types::Key> =
        futures::TryStreamExt::try_collect(here.redis.scan_buffered(every, None, None)).await.unwrap();
    let id = here.hears_of_a_driver(now);
    let waits = || here.fleet().take_to_share(now).iter().map(|sighting| sighting.driver_id).collect::<Vec<_>>();
    // Of another kind than the node's command is for, which fails.
    let _: () = here.redis.del(marks.clone()).await.unwrap();
    let _: () = here.redis.rpush(&marks[0], "x").await.unwrap();
    assert!(!here.tell(now).await);
    assert_eq!(waits(), [id], "refused");

    here.fleet().share_again([id]);
    here.redis.quit().await.unwrap();
    assert!(!here.tell(now).await);
    assert_eq!(waits(), [id], "not even asked");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trip_this_node_has_not_heard_of_is_found_in_postgres(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    online(&driver, 0.0).await;
    accepted(&region, &rider, &driver).await;
    let (fleet, id) = (region.app.drivers.live.fleet(&region.tenant), DriverId(driver.id));
    fleet.set_duty(id, Duty::Free, region.clock.now());
    assert_eq!(seen(&rider, "").await.len(), 1, "misheard");
    region.clock.advance(Duration::seconds(3));
    background::reconcile(&region.app, false).await.unwrap();
    assert!(seen(&rider, "").await.is_empty());
}

/// It prints how long it took.
#[tokio::test]
async fn a_node_that_joins_knows_twenty_thousand_drivers_within_seconds() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Uuid::now_v7().to_string();
    let here = Node::new(&cluster).await;
    let now = shared::clock::Clock::system().now();
    here.tell(now).await;
    for _ in 0..20_000 {
        here.hears_of_a_driver(now);
    }
    let begun = std::time::Instant::now();
    assert!(here.tell(now).await);
    let told = begun.elapsed();
    let joins = Node::new(&cluster).await;
    let begun = std::time::Instant::now();
    assert_eq!(joins.sharing.read_all(&joins.redis, &joins.live, now).await.unwrap(), 20_000);
    println!("20,000 drivers: told in {told:?}, read in {:?}", begun.elapsed());
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    assert_eq!(joins.finds(now), 10);
}

/// Settings of nodes that hear each other and nobody else, and in Postgres leave nobody's place.
fn alone_together(redis: &str) -> String {
    format!(
        "region = {{ cluster_id = \"{}\" }}\n{redis}\ndrivers = {{ share_every = \"50ms\", store_every = \"1h\" }}",
        Uuid::now_v7()
    )
}

/// Waits until a place shows so many cars.
async fn shows(user: &TestUser, lat: f64, cars: usize) {
    let at = format!("/v1/drivers/nearby?lat={lat}&lng=-73.9855&radius_m=300");
    let mut seen = Vec::new();
    for _ in 0..400 {
        seen = user.get(&at).await.ok(200)["items"].as_array().unwrap().clone();
        if seen.len() == cars {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{cars} cars were never shown at {lat}, but {seen:?}");
}

async fn report(driver: &TestUser, lat: f64) {
    driver.post(&path(driver, "location"), json!({"lat": lat, "lng": -73.9855})).await.ok(202);
}

async fn set_status(driver: &TestUser, status: &str) {
    driver.post(&path(driver, "status"), json!({"status": status})).await.ok(200);
}

/// A node that can die as a process does: all at once, in the midst of whatever it does.
struct Mortal {
    region: TestRegion,
    runtime: Option<Runtime>,
}

impl Mortal {
    async fn start(pool: PgPool, settings: String) -> Self {
        let runtime = Runtime::new().unwrap();
        let born = async move {
            let region = TestRegion::with_settings(pool, &settings).await;
            start(&region.app).await.unwrap();
            region
        };
        let region = runtime.spawn(born).await.unwrap();
        Self { region, runtime: Some(runtime) }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_node_that_dies_loses_nobody_and_leaves_no_ghost(pool: PgPool) {
    let dying = Mortal::start(pool, alone_together("")).await;
    let here = &dying.region;
    let there = here.another_node().await;
    start(&there.app).await.unwrap();
    let (rider, moves, leaves) = (there.visited_by(&here.rider().await), here.driver().await, here.driver().await);
    for driver in [&moves, &leaves] {
        set_status(driver, "online").await;
        report(driver, 40.758).await;
    }
    shows(&rider, 40.758, 2).await;
    drop(dying);
    let mut tx = there.app.db.system().await.unwrap();
    let written: i64 = sqlx::query_scalar("SELECT count(*) FROM driver_places").fetch_one(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(written, 0, "it had no time to write");
    shows(&rider, 40.758, 2).await;
    // Both come back at the other node: one somewhere else, one to go home.
    report(&there.visited_by(&moves), 40.768).await;
    set_status(&there.visited_by(&leaves), "offline").await;
    shows(&rider, 40.768, 1).await;
    shows(&rider, 40.758, 0).await;
    // Nor does a node that joins now believe what the dead one said.
    let joins = there.another_node().await;
    start(&joins.app).await.unwrap();
    shows(&joins.visited_by(&rider), 40.768, 1).await;
    shows(&joins.visited_by(&rider), 40.758, 0).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_node_that_writes_breadcrumbs_for_another_hears_meanwhile_where_drivers_are(pool: PgPool) {
    let here = TestRegion::with_settings(pool.clone(), &alone_together("")).await;
    let there = here.another_node().await;
    start(&here.app).await.unwrap();
    start(&there.app).await.unwrap();
    let (rider, drives, stays) = (here.rider().await, here.driver().await, here.driver().await);
    let (at_there, stays) = (there.visited_by(&rider), there.visited_by(&stays));
    for (driver, lat) in [(&drives, 40.758), (&stays, 40.768)] {
        set_status(driver, "online").await;
        report(driver, lat).await;
    }
    shows(&at_there, 40.758, 1).await;
    shows(&rider, 40.768, 1).await;

    let mut slow = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE breadcrumbs").execute(&mut *slow).await.unwrap();
    let point = shared::geo::Point::new(40.768, -73.9855);
    let crumb = Position { point, heading: None, recorded_at: here.clock.now() };
    there.app.drivers.breadcrumbs.drop_all(&there.tenant, DriverId(stays.id), &[crumb]);
    here.app.drivers.sharing.others_write_breadcrumbs(&here.app).await;
    report(&drives, 40.778).await;
    shows(&at_there, 40.778, 1).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut *slow).await.unwrap();
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn who_goes_offline_unheard_is_found_nowhere_once_the_others_can_be_heard_again(pool: PgPool) {
    use fred::prelude::ClientLike;
    // It tells nobody of what its drivers do.
    let here = TestRegion::with_settings(pool, &alone_together("")).await;
    let there = here.another_node().await;
    let subscriber = redis::subscriber(&there.app.config.redis).unwrap();
    let listening = share::listen(&there.app, subscriber.clone()).await;
    there.app.spawn(share::hear_others(there.app.clone(), listening));
    let (rider, driver) = (there.visited_by(&here.rider().await), here.driver().await);
    set_status(&there.visited_by(&driver), "online").await;
    report(&there.visited_by(&driver), 40.758).await;
    shows(&rider, 40.758, 1).await;
    // What was read counts as a little older than the reading.
    here.clock.advance(Duration::seconds(3));
    set_status(&driver, "offline").await;
    subscriber.force_reconnection().await.unwrap();
    shows(&rider, 40.758, 0).await;
}

#[tokio::test]
async fn whoever_was_cut_off_is_told_so_once_he_hears_again() {
    use fred::prelude::{ClientLike, EventInterface, PubsubInterface};
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Uuid::now_v7().to_string();
    let (here, keys) = (Node::new(&cluster).await, Keys::new(&cluster));
    let url = std::env::var("TEST_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());
    let subscriber = redis::subscriber(&crate::config::RedisConfig { url: url.into() }).unwrap();
    let mut messages = subscriber.message_rx();
    let hears_again = Arc::new(tokio::sync::Notify::new());
    let told = hears_again.clone();
    let kept = redis::keep_subscribed(subscriber.clone(), keys.all_sightings(), move || told.notify_one());
    let cut_off = async {
        subscriber.init().await.unwrap();
        for _ in 0..5 {
            hears_again.notified().await;
            let () = here.redis.spublish(keys.sightings(7), "heard").await.unwrap();
            assert_eq!(messages.recv().await.unwrap().value.as_str().unwrap(), "heard");
            subscriber.force_reconnection().await.unwrap();
        }
    };
    tokio::select! {
        () = kept => panic!("ended"),
        () = cut_off => {}
        () = tokio::time::sleep(std::time::Duration::from_secs(20)) => panic!("not told"),
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_node_that_did_not_hear_the_call_for_its_breadcrumbs_is_asked_once_more_and_waited_for(pool: PgPool) {
    use fred::prelude::{ClientLike, EventInterface, PubsubInterface};
    let here = TestRegion::with_settings(pool, &alone_together("")).await;
    start(&here.app).await.unwrap();
    let cluster = &here.app.config.region.cluster_id;
    let (there, calls) = (Node::new(cluster).await, Keys::new(cluster).breadcrumbs());
    let subscriber = redis::subscriber(&here.app.config.redis).unwrap();
    let mut messages = subscriber.message_rx();
    subscriber.init().await.unwrap();
    redis::subscribe(&subscriber, std::slice::from_ref(&calls)).await.unwrap();
    let now = here.clock.now();
    let id = there.hears_of_a_driver(now);
    let is_heard_of = || here.app.drivers.live.fleet(&here.tenant).sighting(id, now).is_some();
    for _ in 0..400 {
        there.fleet().share_all();
        there.tell(now).await;
        if is_heard_of() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(is_heard_of());

    let answers = async {
        let mut heard = Vec::new();
        for _ in 0..2 {
            let message = messages.recv().await.unwrap();
            heard.push(serde_json::from_slice::<Value>(message.value.as_bytes().unwrap()).unwrap());
        }
        assert_eq!(heard[0], heard[1], "the same call");
        let answer = json!({"written": {"from": Uuid::now_v7(), "call": heard[1]["write"]["call"]}});
        let () = there.redis.spublish(&calls, answer.to_string()).await.unwrap();
        // Nobody asks again.
        messages.recv().await.unwrap().value
    };
    let asks = here.app.drivers.sharing.others_write_breadcrumbs(&here.app);
    let both = Box::pin(async { tokio::join!(asks, answers) });
    let ((), last) = tokio::time::timeout(std::time::Duration::from_secs(20), both).await.expect("both in time");
    assert!(last.as_str().unwrap().contains("written"), "{last:?}");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_emptied_redis_is_filled_again_and_brings_nobody_back(pool: PgPool) {
    use fred::prelude::KeysInterface;
    let here = TestRegion::with_settings(pool, &alone_together("")).await;
    start(&here.app).await.unwrap();
    let (rider, stays, leaves) = (here.rider().await, here.driver().await, here.driver().await);
    for driver in [&stays, &leaves] {
        set_status(driver, "online").await;
        report(driver, 40.758).await;
    }
    let redis = here.app.redis.clone();
    let cluster = here.app.config.region.cluster_id.clone();
    let keys = async || -> Vec<fred::types::Key> {
        let every = format!("gocomet:{cluster}:live:*");
        futures::TryStreamExt::try_collect(redis.scan_buffered(every, None, None)).await.unwrap()
    };
    while keys().await.len() != 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let every = format!("gocomet:{cluster}:*");
    let all: Vec<fred::types::Key> =
        futures::TryStreamExt::try_collect(redis.scan_buffered(every, None, None)).await.unwrap();
    let _: () = redis.del(all).await.unwrap();
    set_status(&leaves, "offline").await;
    while keys().await.len() != 1 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let joins = here.another_node().await;
    start(&joins.app).await.unwrap();
    assert_eq!(seen(&joins.visited_by(&rider), "").await.len(), 1, "known before it serves");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn nodes_hear_each_other_through_a_redis_cluster_and_after_a_server_of_it_died(pool: PgPool) {
    let mut redis = RedisCluster::start().await;
    let settings = alone_together(&format!("redis = {{ url = \"{}\" }}", redis.url()));
    let here = TestRegion::with_settings(pool, &settings).await;
    let there = here.another_node().await;
    start(&here.app).await.unwrap();
    start(&there.app).await.unwrap();
    let (rider, driver) = (here.rider().await, here.driver().await);
    set_status(&driver, "online").await;
    report(&driver, 40.758).await;
    shows(&there.visited_by(&rider), 40.758, 1).await;
    // A node that starts again, from what the cluster's servers hold.
    let again = here.another_node().await;
    start(&again.app).await.unwrap();
    assert_eq!(seen(&again.visited_by(&rider), "").await.len(), 1, "known before it serves");

    redis.kill_server_of(&Keys::new(&here.app.config.region.cluster_id).sightings(0)).await;
    let at = "/v1/drivers/nearby?lat=40.778&lng=-73.9855&radius_m=300";
    let (sees, mut heard) = (there.visited_by(&rider), Vec::new());
    for step in 0.. {
        // Moves enough each time to be worth telling of, whichever channel it goes by.
        report(&driver, 40.778 + f64::from(step % 2) * 0.001).await;
        let found = sees.get(at).await.ok(200)["items"].as_array().unwrap().clone();
        heard.extend(found.iter().map(|car| car["recorded_at"].to_string()));
        heard.dedup();
        // As often as there are channels, so that also the one of the dead server carries again.
        if heard.len() > 30 {
            break;
        }
        assert!(step < 1_500, "the other node does not hear any more: {} positions", heard.len());
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    set_status(&driver, "offline").await;
    shows(&there.visited_by(&rider), 40.778, 0).await;
}
