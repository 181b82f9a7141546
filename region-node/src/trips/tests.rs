//! Trips over the API.

use serde_json::{Value, json};
use shared::{geo::Point, ids::DriverId, tariff::Tariff, tenant_config::TenantConfig};
use sqlx::{PgPool, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    drivers::{Position, Reporter},
    pricing::{Fare, LineCode, Quote, Travelled},
    rides::tests::accepted,
    testing::{TestRegion, TestUser},
};

/// The places of the ride.
const PICKUP: Point = Point::new(40.758, -73.9855);
const DROPOFF: Point = Point::new(40.7061, -74.0087);

/// A trip under way.
struct Driven {
    region: TestRegion,
    rider: TestUser,
    driver: TestUser,
    ride: Value,
    /// `/v1/trips/…`
    trip: String,
}

impl Driven {
    async fn accepted(pool: PgPool) -> Self {
        Self::accepted_with(pool, json!({})).await
    }

    async fn accepted_with(pool: PgPool, config: Value) -> Self {
        let region = TestRegion::with_config(pool, config).await;
        let (rider, driver) = (region.rider().await, region.driver().await);
        let (ride, trip) = accepted(&region, &rider, &driver).await;
        Self { region, rider, driver, ride, trip }
    }

    async fn started(pool: PgPool) -> Self {
        let driven = Self::accepted(pool).await;
        driven.step("arrive").await;
        driven.step("start").await;
        driven
    }

    async fn completed(pool: PgPool) -> Self {
        let driven = Self::started(pool).await;
        driven.region.clock.advance(time::Duration::minutes(10));
        driven.step("end").await;
        driven
    }

    async fn step(&self, step: &str) -> Value {
        self.driver.post(&format!("{}/{step}", self.trip), json!({})).await.ok(200)
    }

    async fn ride_status(&self) -> Value {
        let path = format!("/v1/rides/{}", self.ride["id"].as_str().unwrap());
        self.rider.get(&path).await.ok(200)["status"].clone()
    }

    /// Drives northwards for so many minutes at 15 m/s and reports as a phone does: several positions at a time.
    async fn drive_reporting(&self, minutes: i64) {
        let path = format!("/v1/drivers/{}/location", self.driver.id);
        let rfc3339 = time::format_description::well_known::Rfc3339;
        let mut north_m = 0.0;
        for minute in 0..minutes {
            let mut positions = Vec::new();
            for _ in 0..6 {
                // The first position is of where the trip began.
                if minute > 0 || !positions.is_empty() {
                    self.region.clock.advance(time::Duration::seconds(10));
                    north_m += 150.0;
                }
                let at = self.region.clock.now().format(&rfc3339).unwrap();
                let lat = 40.758 + north_m / 111_195.0;
                positions.push(json!({"lat": lat, "lng": -73.9855, "speed": 15.0, "recorded_at": at}));
            }
            self.driver.post(&path, json!(positions)).await.ok(202);
        }
    }

    /// Drives northwards.
    async fn drive(&self, metres: f64, minutes: i64) {
        self.drive_by(&[PICKUP, north_of_pickup(metres)], minutes).await;
    }

    /// Leaves breadcrumbs from place to place, one every ten seconds from now on, and moves the clock along.
    async fn drive_by(&self, places: &[Point], minutes_each: i64) {
        let mut tx = self.region.app.db.begin(&self.region.tenant).await.unwrap();
        let trip: Uuid = self.trip.rsplit('/').next().unwrap().parse().unwrap();
        let crumbs = minutes_each * 6;
        for (leg, ends) in places.windows(2).enumerate() {
            for i in i64::from(leg > 0)..=crumbs {
                self.region.clock.advance(time::Duration::seconds(if i == 0 { 0 } else { 10 }));
                let between = |from: f64, to: f64| from + (to - from) * i as f64 / crumbs as f64;
                sqlx::query(
                    "INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng) VALUES ($1, $2, $3, $4, $5)",
                )
                .bind(self.region.tenant.as_str())
                .bind(trip)
                .bind(self.region.clock.now())
                .bind(between(ends[0].lat, ends[1].lat))
                .bind(between(ends[0].lng, ends[1].lng))
                .execute(tx.conn())
                .await
                .unwrap();
            }
        }
        tx.commit().await.unwrap();
    }
}

fn north_of_pickup(metres: f64) -> Point {
    Point::new(PICKUP.lat + metres / 111_195.0, PICKUP.lng)
}

fn sum(fare: &Value) -> i64 {
    fare["lines"].as_array().unwrap().iter().map(|line| line["amount"]["amount"].as_i64().unwrap()).sum()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trip_is_driven_to_its_quoted_fare(pool: PgPool) {
    let driven = Driven::accepted(pool).await;
    assert_eq!(driven.step("arrive").await["status"], "arrived");
    assert_eq!(driven.ride_status().await, "arrived");
    let pin = json!({"pin": driven.ride["pin"]});
    let started = driven.driver.post(&format!("{}/start", driven.trip), pin).await.ok(200);
    assert_eq!(started["status"], "in_progress");
    driven.drive(8_000.0, 12).await;
    let ended = driven.step("end").await;
    assert_eq!((&ended["status"], &ended["duration_s"]), (&json!("completed"), &json!(720)));
    assert!((7_990..=8_010).contains(&ended["distance_m"].as_i64().unwrap()), "{ended}");
    assert_eq!(ended["fare"]["total"], driven.ride["fare"]);
    assert_eq!(ended["fare"]["quoted"], true);
    assert_eq!(sum(&ended["fare"]), ended["fare"]["total"]["amount"].as_i64().unwrap());
    assert_eq!(driven.ride_status().await, "completed");
    assert_eq!(driven.rider.get(&driven.trip).await.ok(200), ended);
    let mut tx = driven.region.app.db.read(&driven.region.tenant).await.unwrap();
    let idle: bool = sqlx::query_scalar("SELECT idle_since IS NOT NULL FROM driver_records WHERE driver_id = $1")
        .bind(driven.driver.id)
        .fetch_one(tx.conn())
        .await
        .unwrap();
    assert!(idle);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trip_far_longer_than_quoted_that_ended_elsewhere_is_priced_as_driven(pool: PgPool) {
    let driven = Driven::started(pool).await;
    driven.drive(16_000.0, 13).await;
    let ended = driven.step("end").await;
    assert_eq!(ended["fare"]["quoted"], false);
    assert!(ended["fare"]["total"]["amount"].as_i64() > driven.ride["fare"]["amount"].as_i64());
    assert_eq!(sum(&ended["fare"]), ended["fare"]["total"]["amount"].as_i64().unwrap());
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_driver_s_detour_to_the_drop_off_shows_and_costs_the_rider_nothing(pool: PgPool) {
    let driven = Driven::started(pool).await;
    driven.drive_by(&[PICKUP, north_of_pickup(9_000.0), PICKUP, DROPOFF], 10).await;
    let ended = driven.step("end").await;
    assert_eq!((&ended["fare"]["total"], &ended["fare"]["quoted"]), (&driven.ride["fare"], &json!(true)));
    let distance_m = ended["distance_m"].as_i64().unwrap();
    assert!((23_900..24_300).contains(&distance_m), "{ended}");
    assert!(distance_m > 2 * driven.ride["distance_m"].as_i64().unwrap(), "{}", driven.ride);
    let travelled = &ended["travelled"];
    assert_eq!((&travelled["distance_m"], &travelled["from_dropoff_m"]), (&json!(distance_m), &json!(0)));
    assert_eq!(driven.rider.get(&driven.trip).await.ok(200), ended);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_positions_a_driver_reports_make_the_fare_of_a_trip_to_elsewhere(pool: PgPool) {
    let driven = Driven::started(pool).await;
    driven.drive_reporting(20).await;
    let ended = driven.step("end").await;
    // 119 legs of 150 m.
    let distance_m = ended["distance_m"].as_i64().unwrap();
    assert!((17_849..=17_851).contains(&distance_m), "{ended}");
    assert_eq!(ended["fare"]["quoted"], false);
    let duration_s = ended["duration_s"].as_i64().unwrap();
    assert!((1_190..1_200).contains(&duration_s), "{ended}");
    let half_up = |amount: i64, part: i64, whole: i64| (amount * part * 2 + whole) / (whole * 2);
    let expected = [
        ("base", 250),
        ("distance", half_up(120, distance_m, 1_000)),
        ("time", half_up(35, duration_s, 60)),
        ("booking_fee", 100),
    ];
    let lines = ended["fare"]["lines"].as_array().unwrap().iter();
    let lines: Vec<_> =
        lines.map(|line| (line["code"].as_str().unwrap(), line["amount"]["amount"].as_i64().unwrap())).collect();
    assert_eq!(lines, expected);
    let total: i64 = expected.iter().map(|(_, amount)| amount).sum();
    assert_eq!(ended["fare"]["total"], json!({"amount": total, "currency": "USD"}));
    assert_eq!(driven.rider.get(&format!("{}/receipt", driven.trip)).await.ok(200)["total"]["amount"], total);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn who_hangs_up_while_ending_a_trip_loses_nobody_s_trace(pool: PgPool) {
    let driven = Driven::started(pool.clone()).await;
    let region = &driven.region;
    let (rider, other) = (region.rider().await, region.driver().await);
    let (_, others_trip) = accepted(region, &rider, &other).await;
    for step in ["arrive", "start"] {
        other.post(&format!("{others_trip}/{step}"), json!({})).await.ok(200);
    }
    let reporter = Reporter::new(&region.app, &region.tenant, DriverId(other.id));
    let reports = async |lat| {
        let now = region.clock.now();
        let place = Position { point: Point::new(lat, -73.9855), heading: None, recorded_at: now };
        reporter.take(&region.app, &mut [place], now).await.unwrap();
    };
    reports(40.758).await;
    region.clock.advance(time::Duration::seconds(30));
    reports(40.762).await;

    // Somebody else's `/end` takes these positions along, finds Postgres slow and gives up waiting.
    let mut slow = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE breadcrumbs").execute(&mut *slow).await.unwrap();
    let end = format!("{}/end", driven.trip);
    let hung_up =
        tokio::time::timeout(std::time::Duration::from_millis(500), driven.driver.post(&end, json!({}))).await;
    assert!(hung_up.is_err(), "{hung_up:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut *slow).await.unwrap();

    let ended = other.post(&format!("{others_trip}/end"), json!({})).await.ok(200);
    assert!((440..=450).contains(&ended["distance_m"].as_i64().unwrap()), "{ended}");
    while driven.ride_status().await != "completed" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn pauses_are_charged_as_waiting_beyond_the_free_minutes(pool: PgPool) {
    let driven = Driven::started(pool).await;
    driven.region.clock.advance(time::Duration::minutes(2));
    assert_eq!(driven.step("pause").await["status"], "paused");
    assert_eq!(driven.ride_status().await, "in_progress");
    driven.region.clock.advance(time::Duration::minutes(4));
    assert_eq!(driven.step("resume").await["paused_s"], 240);
    driven.region.clock.advance(time::Duration::minutes(2));
    let ended = driven.step("end").await;
    assert_eq!((&ended["duration_s"], &ended["paused_s"]), (&json!(480), &json!(240)));
    let waiting = ended["fare"]["lines"].as_array().unwrap().iter().find(|line| line["code"] == "waiting").unwrap();
    // Three minutes of four are free.
    assert_eq!(waiting["amount"]["amount"], 35);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_driver_declares_tolls_when_he_ends_a_trip_as_far_as_the_tariff_allows(pool: PgPool) {
    let config = json!({"tariffs": {"standard": {"max_declared_tolls": 900}}});
    let driven = Driven::accepted_with(pool, config).await;
    driven.step("arrive").await;
    driven.step("start").await;
    driven.region.clock.advance(time::Duration::minutes(10));
    let end = format!("{}/end", driven.trip);
    for bad in [-1, 901] {
        let refused = driven.driver.post(&end, json!({"declared_tolls": bad})).await.problem(422);
        assert_eq!((refused.code.as_str(), refused.fields), ("validation_failed", vec!["declared_tolls".to_owned()]));
    }
    assert_eq!(driven.ride_status().await, "in_progress");
    let ended = driven.driver.post(&end, json!({"declared_tolls": 900})).await.ok(200);
    let tolls = ended["fare"]["lines"].as_array().unwrap().iter().find(|line| line["code"] == "declared_tolls");
    assert_eq!(tolls.unwrap()["amount"]["amount"], 900);
    let total = ended["fare"]["total"]["amount"].as_i64().unwrap();
    assert_eq!((total, sum(&ended["fare"])), (driven.ride["fare"]["amount"].as_i64().unwrap() + 900, total));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_fare_is_recomputed_from_the_stored_rows_of_its_ride_and_trip_and_the_config_version_it_names(pool: PgPool) {
    let zone = |id: &str, lat: f64| {
        let circle = json!({"center": {"lat": lat, "lng": -73.9855}, "radius_m": 1000});
        json!({"id": id, "area": {"circle": circle}})
    };
    let rule =
        |zone: &str, kind: &str, amount: i64| json!({"zone": zone, "at": "pickup", "kind": kind, "amount": amount});
    let tariff = json!({
        "tax_percent": 8.875, "max_declared_tolls": 900,
        "night": [{"from": "00:00", "to": "00:00", "raise_percent": 25, "extra": 50}],
        "zones": [rule("far", "extra", 70_000), rule("square", "toll", 300), rule("square", "extra", 125)],
    });
    let config = json!({"zones": [zone("square", PICKUP.lat), zone("far", 41.5)], "tariffs": {"standard": tariff}});
    let driven = Driven::accepted_with(pool, config).await;
    let minutes = |n| driven.region.clock.advance(time::Duration::minutes(n));
    driven.step("arrive").await;
    minutes(2);
    driven.step("start").await;
    driven.drive(9_000.0, 10).await;
    driven.step("pause").await;
    minutes(4);
    driven.step("resume").await;
    let other =
        json!({"currency": "EUR", "tariffs": {"standard": {"base": 9_000, "per_km": 1, "night": [], "zones": []}}});
    let admin = driven.region.admin().await;
    admin.call(axum::http::Method::PATCH, "/v1/tenants/cabs/config", Some(other), &[]).await.ok(200);
    driven.drive_by(&[north_of_pickup(9_000.0), north_of_pickup(20_000.0)], 10).await;
    let end = driven.driver.post(&format!("{}/end", driven.trip), json!({"declared_tolls": 700})).await.ok(200);

    let mut tx = driven.region.app.db.read(&driven.region.tenant).await.unwrap();
    type Stored = (Json<Quote>, OffsetDateTime, Json<Travelled>, i64, i64, i64, Json<Fare>);
    let sql = "SELECT r.quote, r.requested_at, t.travelled, t.duration_s, t.paused_s, t.fare_amount, t.fare
               FROM trips t JOIN rides r ON r.id = t.ride_id WHERE t.id::text = $1";
    let id = driven.trip.rsplit('/').next().unwrap();
    let stored: Stored = sqlx::query_as(sql).bind(id).fetch_one(tx.conn()).await.unwrap();
    let (Json(quote), requested_at, Json(travelled), duration_s, paused_s, fare_amount, Json(fare)) = stored;
    assert_eq!(Fare::of(&quote, travelled), fare);
    assert_eq!((json!(fare), fare.total.amount), (end["fare"].clone(), fare_amount));
    assert_eq!((travelled.driving_s, travelled.declared_tolls), (duration_s - paused_s, 700));
    assert!(!fare.quoted && travelled.waiting_s >= 360, "{travelled:?}");
    let codes: Vec<LineCode> = fare.lines.iter().map(|line| line.code).collect();
    let expected =
        [LineCode::Waiting, LineCode::Night, LineCode::Extra, LineCode::Tax, LineCode::Toll, LineCode::DeclaredTolls];
    assert!(expected.iter().all(|code| codes.contains(code)), "{codes:?}");

    let config = async |tx: &mut crate::db::TenantTx, version: i64| -> TenantConfig {
        let sql =
            sqlx::query_scalar("SELECT config FROM tenant_config_versions WHERE tenant_id = 'cabs' AND version = $1");
        let Json(config): Json<TenantConfig> = sql.bind(version).fetch_one(tx.conn()).await.unwrap();
        config
    };
    let of_ride = |config: &TenantConfig| {
        let tariff = config.tariff(&quote.vehicle_class);
        let rules = tariff.of_ride(&config.zones, quote.pickup, quote.dropoff, requested_at, &config.timezone);
        Tariff { commission_percent: Some(config.commission_percent), ..rules }
    };
    let then = config(&mut tx, fare.tariff_version).await;
    assert_eq!((&of_ride(&then), then.currency), (&quote.tariff, quote.currency));
    assert_eq!(Some(then.cancellation), quote.cancellation);
    let now = config(&mut tx, fare.tariff_version + 1).await;
    assert_ne!((&of_ride(&now), now.currency), (&quote.tariff, quote.currency));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_wrong_pin_starts_nothing(pool: PgPool) {
    let driven = Driven::accepted(pool).await;
    driven.step("arrive").await;
    let start = format!("{}/start", driven.trip);
    assert_eq!(driven.driver.post(&start, json!({"pin": "none"})).await.problem(422).code, "wrong_pin");
    assert_eq!(driven.ride_status().await, "arrived");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_illegal_step_is_refused_and_changes_nothing(pool: PgPool) {
    let driven = Driven::accepted(pool).await;
    let before = driven.driver.get(&driven.trip).await.ok(200);
    for step in ["start", "pause", "resume", "end"] {
        let refused = driven.driver.post(&format!("{}/{step}", driven.trip), json!({})).await.problem(409);
        assert_eq!(refused.code, "invalid_transition", "{step}");
    }
    assert_eq!(driven.driver.get(&driven.trip).await.ok(200), before);
    let cancel = format!("/v1/rides/{}/cancel", driven.ride["id"].as_str().unwrap());
    driven.step("arrive").await;
    driven.step("start").await;
    for user in [&driven.rider, &driven.driver, &driven.region.admin().await] {
        assert_eq!(user.post(&cancel, json!({})).await.problem(409).code, "invalid_transition");
    }
    assert_eq!(driven.ride_status().await, "in_progress");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trip_is_driven_by_its_driver_and_seen_by_its_parties(pool: PgPool) {
    let driven = Driven::accepted(pool).await;
    driven.region.new_tenant("other-cabs", json!({})).await;
    let region = &driven.region;
    let strangers = [region.rider().await, region.driver().await, region.rider_of("other-cabs").await];
    for stranger in &strangers {
        assert_eq!(stranger.get(&driven.trip).await.problem(404).code, "not_found");
    }
    let arrive = format!("{}/arrive", driven.trip);
    assert_eq!(strangers[1].post(&arrive, json!({})).await.problem(404).code, "not_found");
    for user in [&driven.rider, &region.admin().await] {
        assert_eq!(user.post(&arrive, json!({})).await.problem(403).code, "forbidden");
        assert_eq!(user.get(&driven.trip).await.ok(200)["status"], "accepted");
    }
    assert_eq!(region.nobody().get(&driven.trip).await.problem(401).code, "unauthenticated");
    let nowhere = format!("/v1/trips/{}/arrive", Uuid::now_v7());
    assert_eq!(driven.driver.post(&nowhere, json!({})).await.problem(404).code, "not_found");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trip_ends_once(pool: PgPool) {
    let driven = Driven::started(pool).await;
    driven.region.clock.advance(time::Duration::minutes(5));
    let end = format!("{}/end", driven.trip);
    let first = driven.driver.post_keyed(&end, "end-1", json!({})).await.ok(200);
    let again = driven.driver.post_keyed(&end, "end-1", json!({})).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(200), first);
    assert_eq!(driven.driver.post(&end, json!({})).await.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn of_many_who_end_a_trip_at_once_one_succeeds(pool: PgPool) {
    let driven = Driven::started(pool).await;
    let end = format!("{}/end", driven.trip);
    let answers = futures::future::join_all((0..5).map(|_| driven.driver.post(&end, json!({})))).await;
    let (ended, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!(ended.len(), 1);
    for answer in refused {
        assert_eq!(answer.problem(409).code, "invalid_transition");
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_receipt_comes_in_the_format_asked_for(pool: PgPool) {
    let driven = Driven::completed(pool).await;
    let path = format!("{}/receipt", driven.trip);
    let ask = async |user: &TestUser, accept: &'static str| {
        user.call(axum::http::Method::GET, &path, None, &[("accept", accept)]).await
    };
    let receipt = driven.rider.get(&path).await.ok(200);
    assert_eq!(receipt["total"], driven.ride["fare"]);
    assert_eq!(sum(&receipt), receipt["total"]["amount"].as_i64().unwrap());
    assert_eq!((&receipt["rider"], &receipt["driver"]), (&json!("Test"), &json!("Test")));
    assert!(!receipt.to_string().contains("phone"));
    let html = ask(&driven.driver, "text/html,*/*;q=0.8").await;
    assert_eq!(html.headers["content-type"], "text/html; charset=utf-8");
    assert!(String::from_utf8(html.bytes).unwrap().contains("Times Square"));
    let pdf = ask(&driven.region.admin().await, "application/pdf").await;
    assert_eq!((pdf.status, pdf.headers["content-type"].to_str().unwrap()), (200, "application/pdf"));
    assert!(pdf.bytes.starts_with(b"%PDF-"));
    assert_eq!(ask(&driven.rider, "image/png").await.problem(406).code, "not_acceptable");
    assert_eq!(driven.region.rider().await.get(&path).await.problem(404).code, "not_found");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_cancellation_that_cost_has_a_receipt_in_every_format_and_a_free_one_has_none(pool: PgPool) {
    let driven = Driven::accepted(pool).await;
    let cancel = format!("/v1/rides/{}/cancel", driven.ride["id"].as_str().unwrap());
    driven.region.clock.advance(time::Duration::minutes(2));
    driven.rider.post(&cancel, json!({})).await.ok(200);
    let path = format!("{}/receipt", driven.trip);
    let receipt = driven.rider.get(&path).await.ok(200);
    let fee = json!({"amount": 500, "currency": "USD"});
    assert_eq!((&receipt["kind"], &receipt["total"]), (&json!("cancellation_fee"), &fee));
    let line =
        json!([{"code": "cancellation_fee", "description": "Cancellation fee: called off too late", "amount": fee}]);
    assert_eq!(receipt["lines"], line);
    assert_eq!((&receipt["payment"]["status"], receipt.get("distance_m")), (&json!("pending"), None));
    assert_eq!(receipt.get("tariff_version"), None);
    for (accept, begins) in [("text/html", "<!DOCTYPE"), ("application/pdf", "%PDF-")] {
        let answer = driven.driver.call(axum::http::Method::GET, &path, None, &[("accept", accept)]).await;
        assert_eq!(answer.status, 200);
        assert!(answer.bytes.starts_with(begins.as_bytes()), "{accept}");
    }
    assert_eq!(driven.region.rider().await.get(&path).await.problem(404).code, "not_found");

    let (rider, driver) = (driven.region.rider().await, driven.region.driver().await);
    let (free, trip) = accepted(&driven.region, &rider, &driver).await;
    rider.post(&format!("/v1/rides/{}/cancel", free["id"].as_str().unwrap()), json!({})).await.ok(200);
    assert_eq!(rider.get(&format!("{trip}/receipt")).await.problem(404).code, "not_found");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trip_under_way_has_no_receipt_and_no_rating(pool: PgPool) {
    let driven = Driven::started(pool).await;
    assert_eq!(driven.rider.get(&format!("{}/receipt", driven.trip)).await.problem(404).code, "not_found");
    let rating = format!("{}/rating", driven.trip);
    let refused = driven.rider.post(&rating, json!({"stars": 5})).await.problem(409);
    assert_eq!(refused.code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn each_party_rates_once(pool: PgPool) {
    let driven = Driven::completed(pool).await;
    let path = format!("{}/rating", driven.trip);
    for bad in [json!({}), json!({"stars": 0}), json!({"stars": 6})] {
        assert_eq!(driven.rider.post(&path, bad).await.problem(422).fields, ["stars"]);
    }
    let rating = driven.rider.post_keyed(&path, "r", json!({"stars": 4, "comment": "smooth"})).await.ok(201);
    assert_eq!(
        (&rating["rated_by"], &rating["stars"], &rating["comment"]),
        (&json!("rider"), &json!(4), &json!("smooth"))
    );
    assert_eq!(driven.rider.post_keyed(&path, "r", json!({"stars": 4, "comment": "smooth"})).await.ok(201), rating);
    assert_eq!(driven.rider.post(&path, json!({"stars": 1})).await.problem(409).code, "already_rated");
    driven.driver.post(&path, json!({"stars": 5})).await.ok(201);
    assert_eq!(driven.driver.post(&path, json!({"stars": 5})).await.problem(409).code, "already_rated");
    assert_eq!(driven.region.admin().await.post(&path, json!({"stars": 5})).await.problem(403).code, "forbidden");
    assert_eq!(driven.region.rider().await.post(&path, json!({"stars": 5})).await.problem(404).code, "not_found");
    let ride = format!("/v1/rides/{}", driven.ride["id"].as_str().unwrap());
    assert_eq!(driven.rider.get(&ride).await.ok(200)["driver"]["rating"], 4.0);
}
