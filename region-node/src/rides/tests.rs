//! Rides over the API, and the races of the store.

use std::time::Duration;

use serde_json::{Value, json};
use shared::{geo::Point, money::Currency, tariff::Tariff};
use sqlx::PgPool;
use time::{format_description::well_known::Rfc3339, macros::datetime};
use uuid::Uuid;

use super::*;
use crate::{
    dispatch::{run_due, tests::online},
    payments,
    pricing::Surge,
    testing::{TestRegion, TestUser},
    trips::Trip,
};

/// A ride that was just requested.
pub(crate) fn ride() -> Ride {
    let (pickup, dropoff) = (Point::new(40.758, -73.9855), Point::new(40.7061, -74.0087));
    let requested_at = datetime!(2026-03-01 11:59 UTC);
    Ride {
        id: RideId(Uuid::from_u128(1)),
        tenant: "manhattan-cabs".parse().unwrap(),
        rider_id: RiderId(Uuid::from_u128(7)),
        driver_id: None,
        trip_id: None,
        status: RideStatus::Requested,
        pickup: Place { lat: pickup.lat, lng: pickup.lng, address: None },
        dropoff: Place { lat: dropoff.lat, lng: dropoff.lng, address: None },
        vehicle_class: "standard".into(),
        payment_method: PaymentMethod { kind: MethodType::Card, token: Some("tok_visa".into()) },
        quote: Quote {
            rider_id: RiderId(Uuid::from_u128(7)),
            pickup,
            dropoff,
            vehicle_class: "standard".into(),
            scheduled_at: None,
            tariff_version: 3,
            tariff: Tariff { tax_percent: 8.into(), ..Tariff::default() },
            surge: Surge::from_hundredths(120),
            surge_cell: None,
            currency: Currency::USD,
            cancellation: None,
            promotion: None,
            distance_m: 7_900,
            duration_s: 1_140,
            reprice_percent: 150,
            same_dropoff_m: 500,
            expires_at: datetime!(2026-03-01 12:04 UTC),
        },
        pin: "0427".into(),
        scheduled_at: None,
        requested_at,
        dispatch_at: Some(requested_at),
        expires_at: datetime!(2026-03-01 12:02 UTC),
        offers_made: 0,
        rounds: 0,
        pickup_eta_s: None,
        accepted_at: None,
        after_trip_id: None,
        ended_at: None,
        cancelled_by: None,
        cancel_reason: None,
        cancellation_fee: None,
        updated_at: requested_at,
        driver: None,
        rider: None,
    }
}

/// A ride through Manhattan, as a client asks for it.
pub(crate) fn wish() -> Value {
    json!({
        "pickup": {"lat": 40.758, "lng": -73.9855, "address": "Times Square"},
        "dropoff": {"lat": 40.7061, "lng": -74.0087, "address": "Wall Street"},
        "vehicle_class": "standard",
        "payment_method": {"type": "card", "token": "tok_visa"},
    })
}

/// `wish` with other fields.
pub(crate) fn wish_with(fields: Value) -> Value {
    let mut wish = wish();
    wish.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    wish
}

pub(crate) async fn request(rider: &TestUser) -> Value {
    rider.post("/v1/rides", wish()).await.ok(201)
}

pub(crate) fn id_of<T: From<Uuid>>(value: &Value) -> T {
    T::from(value["id"].as_str().unwrap().parse::<Uuid>().unwrap())
}

/// Puts a ride on offer to a driver, as the dispatcher does.
pub(crate) async fn offer(region: &TestRegion, ride: &Value, driver: &TestUser) {
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    let (now, ride) = (region.clock.now(), id_of::<RideId>(ride));
    sqlx::query(
        "UPDATE rides SET status = 'offered', offers_made = offers_made + 1, rounds = rounds + 1 WHERE id = $1",
    )
    .bind(ride.0)
    .execute(tx.conn())
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO offers (id, tenant_id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at)
         VALUES ($1, $2, $3, $4, 'live', 240, $5, $5 + interval '15 seconds')",
    )
    .bind(Uuid::now_v7())
    .bind(region.tenant.as_str())
    .bind(ride.0)
    .bind(driver.id)
    .bind(now)
    .execute(tx.conn())
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

/// Accepts an offered ride in the store's way.
async fn take(region: &TestRegion, ride: &Value, driver: &TestUser) -> Result<Trip, RideError> {
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    let ride = load(&mut tx, id_of(ride)).await?.unwrap();
    let (ride, trip) = accept(&mut tx, &ride, DriverId(driver.id), 240, None, region.clock.now()).await?;
    sqlx::query("UPDATE offers SET status = 'accepted' WHERE ride_id = $1 AND driver_id = $2")
        .bind(ride.id.0)
        .bind(driver.id)
        .execute(tx.conn())
        .await?;
    tx.commit().await?;
    Ok(trip)
}

/// A ride that `driver` has accepted, and his trip's path.
pub(crate) async fn accepted(region: &TestRegion, rider: &TestUser, driver: &TestUser) -> (Value, String) {
    let ride = request(rider).await;
    offer(region, &ride, driver).await;
    let trip = take(region, &ride, driver).await.unwrap();
    (ride, format!("/v1/trips/{}", trip.id))
}

fn path(ride: &Value) -> String {
    format!("/v1/rides/{}", ride["id"].as_str().unwrap())
}

fn cancel(ride: &Value) -> String {
    path(ride) + "/cancel"
}

async fn fees(region: &TestRegion, ride: &Value) -> Vec<(String, i64, String)> {
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    sqlx::query_as("SELECT kind, amount, status FROM payments WHERE ride_id = $1")
        .bind(id_of::<RideId>(ride).0)
        .fetch_all(tx.conn())
        .await
        .unwrap()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_ride_costs_what_its_estimate_said(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let estimate = rider.post("/v1/rides/estimate", wish()).await.ok(200);
    assert_eq!(estimate["fare"]["currency"], "USD");
    assert_eq!(estimate["surge_multiplier"], 1.0);
    assert!((7_500..8_500).contains(&estimate["distance_m"].as_i64().unwrap()));
    region.clock.advance(time::Duration::seconds(290));
    let ride = rider.post("/v1/rides", wish_with(json!({"quote_id": estimate["quote_id"]}))).await.ok(201);
    assert_eq!(ride["status"], "requested");
    assert_eq!(ride["fare"], estimate["fare"]);
    assert_eq!(ride["pin"].as_str().unwrap().len(), 4);
    assert_eq!(rider.get(&path(&ride)).await.ok(200), ride);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_estimate_has_no_effect_to_repeat_and_ignores_every_key(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    for key in ["k", "k", &"k".repeat(300), " "] {
        let answer = rider.post_keyed("/v1/rides/estimate", key, wish()).await;
        assert!(!answer.headers.contains_key("idempotency-replayed"));
        answer.ok(200);
    }
    assert_eq!(rider.post_keyed("/v1/rides", &"k".repeat(300), wish()).await.problem(422).fields, ["Idempotency-Key"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_stale_forged_or_foreign_quote_is_refused(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, other) = (region.rider().await, region.rider().await);
    let estimate = rider.post("/v1/rides/estimate", wish()).await.ok(200);
    let quoted = |quote: &Value| wish_with(json!({"quote_id": quote}));
    let forged = other.post("/v1/rides", quoted(&json!("not-a-quote"))).await.problem(422);
    assert_eq!((forged.code.as_str(), forged.fields), ("validation_failed", vec!["quote_id".to_owned()]));
    let foreign = other.post("/v1/rides", quoted(&estimate["quote_id"])).await.problem(422);
    assert_eq!(foreign.fields, ["quote_id"]);
    let mut elsewhere = quoted(&estimate["quote_id"]);
    elsewhere["dropoff"] = json!({"lat": 40.8, "lng": -73.95});
    assert_eq!(rider.post("/v1/rides", elsewhere).await.problem(422).fields, ["quote_id"]);
    region.clock.advance(time::Duration::seconds(301));
    assert_eq!(rider.post("/v1/rides", quoted(&estimate["quote_id"])).await.problem(409).code, "quote_expired");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_estimate_knows_how_near_the_next_driver_is(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    assert_eq!(rider.post("/v1/rides/estimate", wish()).await.ok(200)["pickup_eta_s"], Value::Null);
    let own = format!("/v1/drivers/{}", driver.id);
    driver.post(&format!("{own}/status"), json!({"status": "online"})).await.ok(200);
    driver.post(&format!("{own}/location"), json!({"lat": 40.767, "lng": -73.9855})).await.ok(202);
    let eta_s = rider.post("/v1/rides/estimate", wish()).await.ok(200)["pickup_eta_s"].as_i64().unwrap();
    assert!((180..195).contains(&eta_s), "{eta_s}");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn each_wrong_field_is_named(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let off_globe = wish_with(json!({"pickup": {"lat": 90.5, "lng": 0}, "dropoff": {"lat": 0, "lng": -181}}));
    for path in ["/v1/rides", "/v1/rides/estimate"] {
        let mut fields = rider.post(path, off_globe.clone()).await.problem(422).fields;
        fields.sort();
        assert_eq!(fields, ["dropoff.lng", "pickup.lat"], "{path}");
    }
    let boat = wish_with(json!({"vehicle_class": "boat"}));
    assert_eq!(rider.post("/v1/rides/estimate", boat.clone()).await.problem(422).fields, ["vehicle_class"]);
    assert_eq!(rider.post("/v1/rides", boat).await.problem(422).fields, ["vehicle_class"]);
    let far = wish_with(json!({"dropoff": {"lat": -33.9, "lng": 151.2}}));
    assert_eq!(rider.post("/v1/rides", far).await.problem(422).fields, ["dropoff"]);
    let past = wish_with(json!({"scheduled_at": "2020-01-01T00:00:00Z"}));
    assert_eq!(rider.post("/v1/rides", past).await.problem(422).fields, ["scheduled_at"]);
    let mut unpaid = wish();
    unpaid.as_object_mut().unwrap().remove("payment_method");
    assert_eq!(rider.post("/v1/rides", unpaid).await.problem(422).fields, ["payment_method"]);
    let gold = wish_with(json!({"payment_method": {"type": "gold"}}));
    assert_eq!(rider.post("/v1/rides", gold).await.problem(422).code, "validation_failed");
    assert_eq!(rider.get("/v1/rides").await.ok(200)["items"], json!([]));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn only_riders_ask_for_rides_and_only_while_dispatch_is_on(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"flags": {"dispatch": false}})).await;
    let (rider, driver, admin) = (region.rider().await, region.driver().await, region.admin().await);
    assert_eq!(rider.post("/v1/rides", wish()).await.problem(403).code, "feature_disabled");
    for user in [&driver, &admin] {
        assert_eq!(user.post("/v1/rides", wish()).await.problem(403).code, "forbidden");
        assert_eq!(user.post("/v1/rides/estimate", wish()).await.problem(403).code, "forbidden");
    }
    assert_eq!(region.nobody().post("/v1/rides", wish()).await.problem(401).code, "unauthenticated");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rider_waits_for_one_ride_at_a_time(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let answers = futures::future::join_all((0..6).map(|_| rider.post("/v1/rides", wish()))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 1);
    for answer in refused {
        assert_eq!(answer.problem(409).code, "ride_in_progress");
    }
    rider.post(&cancel(&made[0].json()), json!({})).await.ok(200);
    request(&rider).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_same_key_requests_and_cancels_once(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let first = rider.post_keyed("/v1/rides", "k1", wish()).await.ok(201);
    let again = rider.post_keyed("/v1/rides", "k1", wish()).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(201), first);
    let cancelled = rider.post_keyed(&cancel(&first), "k2", json!({"reason": "late"})).await.ok(200);
    assert_eq!((&cancelled["status"], &cancelled["cancel_reason"]), (&json!("cancelled"), &json!("late")));
    assert_eq!(rider.post_keyed(&cancel(&first), "k2", json!({"reason": "late"})).await.ok(200), cancelled);
    assert_eq!(rider.post(&cancel(&first), json!({})).await.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_ride_exists_for_its_parties_alone(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    region.new_tenant("other-cabs", json!({})).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let (ride, _) = accepted(&region, &rider, &driver).await;
    let strangers = [region.rider().await, region.driver().await, region.rider_of("other-cabs").await];
    for stranger in &strangers {
        assert_eq!(stranger.get(&path(&ride)).await.problem(404).code, "not_found");
        assert_eq!(stranger.post(&cancel(&ride), json!({})).await.problem(404).code, "not_found");
        assert_eq!(stranger.get("/v1/rides").await.ok(200)["items"], json!([]));
    }
    let mut forged = rider.clone();
    forged.tenant = "other-cabs".parse().unwrap();
    assert_eq!(forged.get(&path(&ride)).await.problem(403).code, "tenant_mismatch");

    let mine = rider.get(&path(&ride)).await.ok(200);
    assert_eq!(mine["status"], "accepted");
    assert_eq!(mine["driver"]["name"], "Test");
    assert_eq!(mine["driver"]["vehicle"]["plate"], "T 1");
    assert_eq!(mine["pickup_eta_s"], 240);
    assert_eq!(mine["pin"], ride["pin"]);
    let his = driver.get(&path(&ride)).await.ok(200);
    assert_eq!(his["rider"]["name"], "Test");
    for view in [his, region.admin().await.get(&path(&ride)).await.ok(200)] {
        assert_eq!(view["status"], "accepted");
        assert_eq!(view.get("pin"), None);
        let text = view.to_string();
        assert!(!text.contains("phone") && !text.contains("+1") && !text.contains("hash") && !text.contains("tok_"));
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn lists_page_newest_first_for_each_role(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver, admin) = (region.rider().await, region.driver().await, region.admin().await);
    let mut made = Vec::new();
    for _ in 0..3 {
        let ride = request(&rider).await;
        rider.post(&cancel(&ride), json!({})).await.ok(200);
        made.push(ride["id"].clone());
    }
    let other = region.rider().await;
    let (taken, _) = accepted(&region, &other, &driver).await;
    made.reverse();

    let ids = |page: &Value| page["items"].as_array().unwrap().iter().map(|r| r["id"].clone()).collect::<Vec<_>>();
    let first = rider.get("/v1/rides?limit=2").await.ok(200);
    assert_eq!(ids(&first), made[..2]);
    let next = format!("/v1/rides?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = rider.get(&next).await.ok(200);
    assert_eq!(ids(&second), made[2..]);
    assert_eq!(second["next_cursor"], Value::Null);
    assert_eq!(ids(&driver.get("/v1/rides").await.ok(200)), [taken["id"].clone()]);
    assert_eq!(admin.get("/v1/rides").await.ok(200)["items"].as_array().unwrap().len(), 4);
    let open = admin.get("/v1/rides?status=accepted").await.ok(200);
    assert_eq!(ids(&open), [taken["id"].clone()]);
    assert_eq!(open["items"][0]["driver"]["name"], "Test");
    for bad in ["status=flying", "limit=0", "limit=101", "cursor=x"] {
        assert_eq!(admin.get(&format!("/v1/rides?{bad}")).await.problem(422).code, "validation_failed", "{bad}");
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rider_who_cancels_late_owes_the_fee(pool: PgPool) {
    let config = json!({"cancellation": {"free_seconds": 60, "fee": 450}});
    let region = TestRegion::with_config(pool, config).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let (early, _) = accepted(&region, &rider, &driver).await;
    let free = rider.post(&cancel(&early), json!({})).await.ok(200);
    assert_eq!((&free["cancelled_by"], free.get("cancellation_fee")), (&json!("rider"), None));
    assert_eq!(fees(&region, &early).await, []);

    let (late, trip) = accepted(&region, &rider, &driver).await;
    region.clock.advance(time::Duration::seconds(60));
    let costly = rider.post(&cancel(&late), json!({})).await.ok(200);
    assert_eq!(costly["cancellation_fee"], json!({"amount": 450, "currency": "USD"}));
    assert_eq!(fees(&region, &late).await, [("cancellation_fee".into(), 450, "pending".into())]);
    assert_eq!(driver.get(&trip).await.ok(200)["status"], "cancelled");
    assert_eq!(driver.post(&(trip + "/arrive"), json!({})).await.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn giving_up_costs_what_the_policy_said_when_the_ride_was_asked_for_whatever_the_tenant_has_changed_since(
    pool: PgPool,
) {
    let config = json!({"cancellation": {"free_seconds": 60, "fee": 450, "no_show_wait_seconds": 200}});
    let region = TestRegion::with_config(pool, config).await;
    let rider = region.rider().await;
    let (driver, waiting) = (region.driver().await, region.driver().await);
    let (late, _) = accepted(&region, &rider, &driver).await;
    let (no_show, trip) = accepted(&region, &region.rider().await, &waiting).await;
    waiting.post(&format!("{trip}/arrive"), json!({})).await.ok(200);
    let dearer =
        json!({"currency": "INR", "cancellation": {"free_seconds": 0, "fee": 5_000, "no_show_wait_seconds": 10_000}});
    let admin = region.admin().await;
    admin.call(axum::http::Method::PATCH, "/v1/tenants/cabs/config", Some(dearer), &[]).await.ok(200);

    region.clock.advance(time::Duration::seconds(200));
    let fee = json!({"amount": 450, "currency": "USD"});
    assert_eq!(rider.post(&cancel(&late), json!({})).await.ok(200)["cancellation_fee"], fee);
    assert_eq!(waiting.post(&cancel(&no_show), json!({})).await.ok(200)["cancellation_fee"], fee);
    assert_eq!(fees(&region, &late).await, [("cancellation_fee".into(), 450, "pending".into())]);
    assert_eq!(fees(&region, &no_show).await, [("no_show_fee".into(), 450, "pending".into())]);

    let (anew, _) = accepted(&region, &rider, &driver).await;
    let costly = rider.post(&cancel(&anew), json!({})).await.ok(200);
    assert_eq!(costly["cancellation_fee"], json!({"amount": 5_000, "currency": "INR"}));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_driver_who_gives_up_sends_the_ride_back_to_the_dispatcher(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver, second) = (region.rider().await, region.driver().await, region.driver().await);
    let (ride, trip) = accepted(&region, &rider, &driver).await;
    let back = driver.post(&cancel(&ride), json!({"reason": "flat tyre"})).await.ok(200);
    assert_eq!((&back["status"], back.get("driver_id")), (&json!("requested"), None));
    assert_eq!(driver.get(&trip).await.ok(200)["status"], "cancelled");
    assert_eq!(driver.get(&path(&ride)).await.problem(404).code, "not_found");
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    let (offer, due): (String, bool) = sqlx::query_as(
        "SELECT o.status, r.dispatch_at IS NOT NULL FROM offers o JOIN rides r ON r.id = o.ride_id WHERE r.id = $1",
    )
    .bind(id_of::<RideId>(&ride).0)
    .fetch_one(tx.conn())
    .await
    .unwrap();
    assert_eq!((offer.as_str(), due), ("declined", true));
    drop(tx);
    offer_and_take(&region, &ride, &second).await;
    assert_eq!(rider.get(&path(&ride)).await.ok(200)["driver_id"], second.id.to_string());
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_second_search_remembers_whom_the_first_asked_and_adds_to_its_story(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let (first, second) = (region.driver().await, region.driver().await);
    online(&first, 300.0).await;
    online(&second, 1_500.0).await;
    let ride = request(&rider).await;
    run_due(&region.app).await;
    let accept = |driver: &TestUser| format!("/v1/drivers/{}/accept", driver.id);
    first.post(&accept(&first), json!({"ride_id": ride["id"]})).await.ok(200);
    first.post(&cancel(&ride), json!({"reason": "flat tyre"})).await.ok(200);
    region.clock.advance(time::Duration::seconds(20));
    run_due(&region.app).await;
    second.post(&accept(&second), json!({"ride_id": ride["id"]})).await.ok(200);

    let story = region.admin().await.get(&format!("{}/dispatch", path(&ride))).await.ok(200);
    let told = |round: i64, driver: &TestUser| {
        let mut candidates = story["candidates"].as_array().unwrap().iter();
        let found = candidates.find(|one| one["round"] == round && one["driver_id"] == driver.id.to_string());
        found.map_or("nothing", |one| one["reason"].as_str().unwrap())
    };
    assert_eq!([told(0, &first), told(0, &second)], ["offered", "not_chosen"], "{story}");
    assert_eq!([told(1, &first), told(1, &second)], ["declined_before", "offered"], "{story}");
}

async fn offer_and_take(region: &TestRegion, ride: &Value, driver: &TestUser) {
    offer(region, ride, driver).await;
    take(region, ride, driver).await.unwrap();
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rider_who_does_not_come_pays(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let (ride, trip) = accepted(&region, &rider, &driver).await;
    driver.post(&format!("{trip}/arrive"), json!({})).await.ok(200);
    region.clock.advance(time::Duration::seconds(300));
    let ended = driver.post(&cancel(&ride), json!({"reason": "nobody here"})).await.ok(200);
    assert_eq!((&ended["status"], &ended["cancelled_by"]), (&json!("cancelled"), &json!("driver")));
    assert_eq!(fees(&region, &ride).await, [("no_show_fee".into(), 500, "pending".into())]);
    payments::run_due(&region.app).await.unwrap();
    assert_eq!(fees(&region, &ride).await, [("no_show_fee".into(), 500, "settled".into())]);
    let receipt = rider.get(&format!("{trip}/receipt")).await.ok(200);
    let fee = json!({"amount": 500, "currency": "USD"});
    let line = json!({"code": "no_show_fee", "description": "No-show fee: nobody came to the pick-up", "amount": fee});
    assert_eq!((&receipt["kind"], &receipt["lines"]), (&json!("no_show_fee"), &json!([line])));
    assert_eq!(receipt["payment"]["status"], "settled");

    let from = (region.clock.now() - time::Duration::HOUR).format(&Rfc3339).unwrap();
    region.clock.advance(time::Duration::minutes(6));
    let of_driver = format!("/v1/drivers/{}/statement?from={from}", driver.id);
    for (user, path, account, amount) in [
        (&driver, &of_driver, format!("driver:{}", driver.id), 500),
        (&region.admin().await, &format!("/v1/statement?from={from}"), "psp:sandbox".to_owned(), -500),
    ] {
        let statement = user.get(path).await.ok(200);
        let total = json!({"account": account, "kind": "no_show_fee", "count": 1,
                           "amount": {"amount": amount, "currency": "USD"}});
        assert_eq!(statement["totals"], json!([total]));
        let as_csv = user.call(axum::http::Method::GET, path, None, &[("accept", "text/csv")]).await;
        assert!(String::from_utf8(as_csv.bytes).unwrap().contains(&format!(",{account},no_show_fee,")));
        let pdf = user.call(axum::http::Method::GET, path, None, &[("accept", "application/pdf")]).await;
        assert!(pdf.bytes.windows(11).any(|window| window == b"no show fee"));
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn cancelling_an_offered_ride_withdraws_its_offers(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver, admin) = (region.rider().await, region.driver().await, region.admin().await);
    let ride = request(&rider).await;
    offer(&region, &ride, &driver).await;
    let cancelled = admin.post(&cancel(&ride), json!({})).await.ok(200);
    assert_eq!(cancelled["cancelled_by"], "tenant");
    assert!(matches!(take(&region, &ride, &driver).await, Err(RideError::AlreadyTaken)));
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    let status: String = sqlx::query_scalar("SELECT status FROM offers").fetch_one(tx.conn()).await.unwrap();
    assert_eq!(status, "withdrawn");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_ride_booked_ahead_waits_and_leaves_room_for_one_now(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let at = region.clock.now() + time::Duration::hours(3);
    let text = at.format(&Rfc3339).unwrap();
    let booked = rider.post("/v1/rides", wish_with(json!({"scheduled_at": text}))).await.ok(201);
    assert_eq!((&booked["status"], &booked["scheduled_at"]), (&json!("requested"), &json!(text)));
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    let ride = load(&mut tx, id_of(&booked)).await.unwrap().unwrap();
    assert_eq!(ride.dispatch_at, Some(at - Duration::from_secs(600)));
    assert!(ride.expires_at > at);
    drop(tx);
    request(&rider).await;
}

/// A time so far ahead, as a client writes it.
fn ahead(region: &TestRegion, by: time::Duration) -> Value {
    json!({"scheduled_at": (region.clock.now() + by).format(&Rfc3339).unwrap()})
}

async fn book(region: &TestRegion, rider: &TestUser, minutes: i64) -> Value {
    let body = wish_with(ahead(region, time::Duration::minutes(minutes)));
    rider.post("/v1/rides", body).await.ok(201)
}

async fn status(rider: &TestUser, ride: &Value) -> String {
    rider.get(&path(ride)).await.ok(200)["status"].as_str().unwrap().to_owned()
}

/// A region where a ride costs 400 more from so long after now on, for some hours; and a rider.
async fn region_with_night(pool: PgPool, after: time::Duration) -> (TestRegion, TestUser) {
    let region = TestRegion::new(pool).await;
    let clock = |by: time::Duration| {
        let at = (region.clock.now() + by).time();
        format!("{:02}:{:02}", at.hour(), at.minute())
    };
    let night = json!({"from": clock(after), "to": clock(after + time::Duration::hours(5)), "extra": 400});
    let config = json!({"tariffs": {"standard": {"night": [night]}}});
    let tenant = format!("/v1/tenants/{}/config", region.tenant);
    let patch = region.admin().await.call(axum::http::Method::PATCH, &tenant, Some(config), &[]).await.ok(200);
    assert_eq!(patch["rejected"], json!([]));
    let rider = region.rider().await;
    (region, rider)
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_quote_for_the_day_is_none_for_the_night_nor_the_other_way_round(pool: PgPool) {
    let (region, rider) = region_with_night(pool, time::Duration::hours(1)).await;
    let (now, tonight) = (json!({}), ahead(&region, time::Duration::hours(2)));
    let estimate = async |when: &Value| rider.post("/v1/rides/estimate", wish_with(when.clone())).await.ok(200);
    let (by_day, by_night) = (estimate(&now).await, estimate(&tonight).await);
    let amount = |estimate: &Value| estimate["fare"]["amount"].as_i64().unwrap();
    assert_eq!(amount(&by_night), amount(&by_day) + 400);
    let ask = |quote: &Value, when: &Value| {
        let mut body = wish_with(when.clone());
        body["quote_id"] = quote["quote_id"].clone();
        rider.post("/v1/rides", body)
    };
    assert_eq!(ask(&by_day, &tonight).await.problem(422).fields, ["quote_id"]);
    assert_eq!(ask(&by_night, &now).await.problem(422).fields, ["quote_id"]);
    assert_eq!(ask(&by_night, &tonight).await.ok(201)["fare"], by_night["fare"]);
    assert_eq!(ask(&by_day, &now).await.ok(201)["fare"], by_day["fare"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_quote_holds_although_the_night_begins_before_it_is_taken(pool: PgPool) {
    let (region, rider) = region_with_night(pool, time::Duration::minutes(2)).await;
    let estimate = rider.post("/v1/rides/estimate", wish()).await.ok(200);
    region.clock.advance(time::Duration::minutes(3));
    let dearer = rider.post("/v1/rides/estimate", wish()).await.ok(200);
    assert!(dearer["fare"]["amount"].as_i64() > estimate["fare"]["amount"].as_i64());
    let ride = rider.post("/v1/rides", wish_with(json!({"quote_id": estimate["quote_id"]}))).await.ok(201);
    assert_eq!(ride["fare"], estimate["fare"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_ride_cannot_be_booked_for_at_once(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    for soon in [time::Duration::SECOND, time::Duration::minutes(9)] {
        let refused = rider.post("/v1/rides", wish_with(ahead(&region, soon))).await.problem(422);
        assert_eq!(refused.fields, ["scheduled_at"], "{soon}");
    }
    book(&region, &rider, 11).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_booking_reads_the_same_whichever_zone_and_precision_its_time_came_in(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let at = (region.clock.now() + time::Duration::hours(5)).replace_nanosecond(123_456_789).unwrap();
    let there = at.to_offset(time::UtcOffset::from_hms(5, 30, 0).unwrap());
    let body = wish_with(json!({"scheduled_at": there.format(&Rfc3339).unwrap()}));
    let booked = rider.post("/v1/rides", body).await.ok(201);
    assert_eq!(booked["scheduled_at"], at.replace_nanosecond(123_456_000).unwrap().format(&Rfc3339).unwrap());
    assert_eq!(rider.get(&path(&booked)).await.ok(200), booked);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rider_books_so_many_rides_and_no_more_even_at_once(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let body = |i: i64| wish_with(ahead(&region, time::Duration::hours(1 + i)));
    let answers = futures::future::join_all((0..9).map(|i| rider.post("/v1/rides", body(i)))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 5);
    for answer in refused {
        assert_eq!(answer.problem(409).code, "too_many_bookings");
    }
    rider.post(&cancel(&made[0].json()), json!({})).await.ok(200);
    book(&region, &rider, 600).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_booking_that_is_due_waits_until_its_rider_has_no_other_ride(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"dispatch": {"expire_after_s": 3_600}})).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let booked = book(&region, &rider, 15).await;
    let now = request(&rider).await;
    region.clock.advance(time::Duration::minutes(6));
    online(&driver, 300.0).await;
    run_due(&region.app).await;
    assert_eq!((status(&rider, &now).await, status(&rider, &booked).await), ("offered".into(), "requested".into()));
    rider.post(&cancel(&now), json!({})).await.ok(200);
    // By now the driver's position and the offer he had are a while ago.
    region.clock.advance(time::Duration::minutes(1));
    online(&driver, 300.0).await;
    run_due(&region.app).await;
    assert_eq!(status(&rider, &booked).await, "offered");
    let accept = format!("/v1/drivers/{}/accept", driver.id);
    driver.post(&accept, json!({"ride_id": booked["id"]})).await.ok(200);
    assert_eq!(rider.post("/v1/rides", wish()).await.problem(409).code, "ride_in_progress");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_booking_whose_turn_does_not_come_in_time_expires(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let booked = book(&region, &rider, 15).await;
    accepted(&region, &rider, &driver).await;
    region.clock.advance(time::Duration::minutes(17));
    run_due(&region.app).await;
    assert_eq!(status(&rider, &booked).await, "requested");
    region.clock.advance(time::Duration::minutes(2));
    run_due(&region.app).await;
    assert_eq!(status(&rider, &booked).await, "expired");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn of_two_bookings_for_one_time_one_goes_first(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, drivers) = (region.rider().await, [region.driver().await, region.driver().await]);
    let booked = [book(&region, &rider, 15).await, book(&region, &rider, 15).await];
    region.clock.advance(time::Duration::minutes(6));
    for driver in &drivers {
        online(driver, 300.0).await;
    }
    run_due(&region.app).await;
    let seen = [status(&rider, &booked[0]).await, status(&rider, &booked[1]).await];
    assert_eq!(seen, ["offered", "requested"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_ride_for_now_goes_before_a_booking_nobody_has_taken_yet(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let booked = book(&region, &rider, 15).await;
    offer(&region, &booked, &driver).await;
    let now = request(&rider).await;
    let accept = format!("/v1/drivers/{}/accept", driver.id);
    let late = driver.post(&accept, json!({"ride_id": booked["id"]})).await;
    assert_eq!(late.problem(409).code, "offer_expired");
    rider.post(&cancel(&now), json!({})).await.ok(200);
    driver.post(&accept, json!({"ride_id": booked["id"]})).await.ok(200);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_acceptance_while_the_offer_times_out_leaves_one_truth(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (mut taken, mut timed_out) = (0, 0);
    for round in 0..12 {
        let (rider, driver) = (region.rider().await, region.driver().await);
        let ride = request(&rider).await;
        offer(&region, &ride, &driver).await;
        let accept = format!("/v1/drivers/{}/accept", driver.id);
        let late = async {
            // Sooner or later while the acceptance is under way.
            tokio::time::sleep(Duration::from_micros(500) * round).await;
            region.clock.advance(time::Duration::seconds(15));
            run_due(&region.app).await;
        };
        let (answer, ()) = tokio::join!(driver.post(&accept, json!({"ride_id": ride["id"]})), late);
        run_due(&region.app).await;
        let mut tx = region.app.db.read(&region.tenant).await.unwrap();
        let busy = crate::trips::active_of_driver(&mut tx, DriverId(driver.id)).await.unwrap();
        let offer: String = sqlx::query_scalar("SELECT status FROM offers WHERE driver_id = $1")
            .bind(driver.id)
            .fetch_one(tx.conn())
            .await
            .unwrap();
        drop(tx);
        let seen = status(&rider, &ride).await;
        if answer.status == 200 {
            taken += 1;
            assert_eq!((seen.as_str(), offer.as_str()), ("accepted", "accepted"));
            assert_eq!(busy.unwrap().ride_id, id_of(&ride));
        } else {
            timed_out += 1;
            assert_eq!(answer.problem(409).code, "offer_expired");
            assert_eq!((seen.as_str(), offer.as_str()), ("requested", "expired"));
            assert_eq!(busy, None);
        }
    }
    println!("{taken} taken, {timed_out} timed out");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn of_many_drivers_who_accept_at_once_one_gets_the_ride(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let ride = request(&region.rider().await).await;
    let drivers = [region.driver().await, region.driver().await, region.driver().await, region.driver().await];
    for driver in &drivers {
        offer(&region, &ride, driver).await;
    }
    let taken = futures::future::join_all(drivers.iter().map(|driver| take(&region, &ride, driver))).await;
    let (won, lost): (Vec<_>, Vec<_>) = taken.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|outcome| matches!(outcome, Err(RideError::AlreadyTaken))), "{lost:?}");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_driver_who_accepts_two_rides_at_once_drives_one(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let driver = region.driver().await;
    let rides = [request(&region.rider().await).await, request(&region.rider().await).await];
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    sqlx::query("UPDATE rides SET status = 'offered'").execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    let taken = futures::future::join_all(rides.iter().map(|ride| take(&region, ride, &driver))).await;
    assert_eq!(taken.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(taken.iter().any(|outcome| matches!(outcome, Err(RideError::DriverBusy))), "{taken:?}");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_acceptance_and_a_cancellation_at_once_leave_no_trip_behind(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    for _ in 0..5 {
        let (rider, driver) = (region.rider().await, region.driver().await);
        let ride = request(&rider).await;
        offer(&region, &ride, &driver).await;
        let path = cancel(&ride);
        let (cancelled, taken) = futures::join!(rider.post(&path, json!({})), take(&region, &ride, &driver));
        assert_eq!(cancelled.ok(200)["status"], "cancelled");
        let mut tx = region.app.db.read(&region.tenant).await.unwrap();
        if let Ok(trip) = taken {
            let trip = crate::trips::load(&mut tx, trip.id).await.unwrap().unwrap();
            assert_eq!(trip.status, crate::trips::TripStatus::Cancelled);
        }
        let busy = crate::trips::active_of_driver(&mut tx, DriverId(driver.id)).await.unwrap();
        assert_eq!(busy, None);
    }
}
