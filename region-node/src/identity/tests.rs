//! Sign-in, registration, refresh and erasure over the router, on a real database.

use axum::http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use time::Duration;
use uuid::Uuid;

use crate::testing::{TestProblem, TestRegion, TestUser};

fn code(problem: TestProblem) -> String {
    problem.code
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_phone_registers_once_and_signs_in(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Ada L", "phone": "+15550100", "password": "correct horse"});
    let made = region.nobody().post("/v1/riders", account.clone()).await.ok(201);
    assert_eq!(made["tenant"], "cabs");
    assert!(made.get("password").is_none() && made.get("password_hash").is_none());
    assert_eq!(code(region.nobody().post("/v1/riders", account).await.problem(409)), "already_exists");

    let grant = json!({"grant_type": "password", "phone": "+15550100", "password": "correct horse"});
    let signed_in = region.nobody().post("/v1/auth/token", grant).await.ok(200);
    assert_eq!((&signed_in["role"], &signed_in["subject"]), (&json!("rider"), &made["id"]));
    let wrong = json!({"grant_type": "password", "phone": "+15550100", "password": "incorrect horse"});
    assert_eq!(code(region.nobody().post("/v1/auth/token", wrong).await.problem(401)), "invalid_credentials");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_bad_registration_names_each_wrong_field_and_leaves_nothing(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let bad = json!({"name": "", "phone": "abc", "password": "short",
        "vehicle": {"class": "standard", "plate": "", "model": "M", "seats": 0}});
    let problem = region.nobody().post("/v1/drivers", bad).await.problem(422);
    assert_eq!(problem.code, "validation_failed");
    assert_eq!(problem.fields, ["name", "password", "phone", "vehicle.plate", "vehicle.seats"]);
    let class = json!({"name": "Bo", "phone": "+15550101", "password": "correct horse",
        "vehicle": {"class": "rocket", "plate": "P", "model": "M", "seats": 4}});
    assert_eq!(region.nobody().post("/v1/drivers", class).await.problem(422).fields, ["vehicle.class"]);
    let mut tx = region.app.db.system().await.unwrap();
    let drivers =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM drivers"#).fetch_one(tx.conn()).await.unwrap();
    assert_eq!(drivers, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn registering_again_with_the_same_key_gives_the_same_account(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Ada", "phone": "+15550100", "password": "correct horse"});
    let first = region.nobody().post_keyed("/v1/riders", "k1", account.clone()).await;
    let again = region.nobody().post_keyed("/v1/riders", "k1", account).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(first.ok(201), again.ok(201));
    let other = json!({"name": "Eve", "phone": "+15550109", "password": "correct horse"});
    let reused = region.nobody().post_keyed("/v1/riders", "k1", other).await.problem(422);
    assert_eq!(reused.code, "idempotency_key_reused");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_refresh_token_works_once_and_its_second_use_ends_the_session(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Ada", "phone": "+15550100", "password": "correct horse"});
    region.nobody().post("/v1/riders", account).await.ok(201);
    let grant = json!({"grant_type": "password", "phone": "+15550100", "password": "correct horse"});
    let signed_in = region.nobody().post("/v1/auth/token", grant).await.ok(200);
    let refresh = |token: &Value| json!({"grant_type": "refresh_token", "refresh_token": token});
    let first = signed_in["refresh_token"].clone();
    let next = region.nobody().post("/v1/auth/token", refresh(&first)).await.ok(200)["refresh_token"].clone();
    let reuse = region.nobody().post("/v1/auth/token", refresh(&first)).await.problem(401);
    assert_eq!(reuse.code, "invalid_refresh_token");
    let after = region.nobody().post("/v1/auth/token", refresh(&next)).await.problem(401);
    assert_eq!(after.code, "invalid_refresh_token");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_expired_foreign_or_forged_token_is_refused(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    region.new_tenant("limos", json!({})).await;
    let rider = region.rider().await;
    let path = format!("/v1/riders/{}", rider.id);
    assert_eq!(code(region.nobody().call(Method::DELETE, &path, None, &[]).await.problem(401)), "unauthenticated");

    let mut foreign = rider.clone();
    foreign.tenant = "limos".parse().unwrap();
    assert_eq!(code(foreign.call(Method::DELETE, &path, None, &[]).await.problem(403)), "tenant_mismatch");

    let mut forged = rider.clone();
    forged.token.replace_range(forged.token.len() - 4.., "AAAA");
    assert_eq!(code(forged.call(Method::DELETE, &path, None, &[]).await.problem(401)), "invalid_token");

    region.clock.advance(Duration::hours(13));
    assert_eq!(code(rider.call(Method::DELETE, &path, None, &[]).await.problem(401)), "invalid_token");
}

/// A finished, paid and rated ride with an address, a card and a trace.
struct Past {
    rider: TestUser,
    driver: TestUser,
    ride: Uuid,
    trip: Uuid,
}

async fn past_ride(region: &TestRegion) -> Past {
    let (rider, driver) = (region.rider().await, region.driver().await);
    let past = Past { ride: Uuid::now_v7(), trip: Uuid::now_v7(), rider, driver };
    let statements = [
        "INSERT INTO rides (id, tenant_id, rider_id, driver_id, trip_id, status, pickup_lat, pickup_lng, pickup_address,
             dropoff_lat, dropoff_lng, dropoff_address, vehicle_class, payment_method, quote, pin, requested_at, expires_at,
             cancel_reason, updated_at)
         VALUES ($1, 'cabs', $3, $4, $2, 'completed', 0, 0, 'Quill Street 1', 0, 1, 'Quill Street 2', 'standard',
             '{\"type\": \"card\", \"token\": \"tok_quill\"}', '{}', '0000', now(), now(), 'Quill was late', now())",
        "INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, updated_at)
         VALUES ($2, 'cabs', $1, $3, $4, 'completed', now(), now())",
        "INSERT INTO breadcrumbs SELECT 'cabs', $2, now(), 0, 0 WHERE $1 <> $3 AND $1 <> $4",
        "INSERT INTO ratings (tenant_id, trip_id, rated_by, stars, comment, created_at)
         SELECT 'cabs', $2, who, 5, 'Quill talked', now() FROM unnest(ARRAY['rider', 'driver']) who
         WHERE $1 <> $3 AND $1 <> $4",
        "INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, driver_id, status, method, amount, currency,
             tax_amount, commission_amount, provider, attempts, created_at, updated_at)
         VALUES (gen_random_uuid(), 'cabs', $1, $2, $3, $4, 'settled', '{\"type\": \"card\", \"token\": \"tok_quill\"}', 100,
             'USD', 0, 20, 'sandbox', 1, now(), now())",
        "INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at)
         SELECT $2, 'cabs', 'settlement', id, 'USD', now() FROM payments WHERE ride_id = $1 AND rider_id = $3 AND driver_id = $4",
    ];
    let mut tx = region.app.db.system().await.unwrap();
    for statement in statements {
        let query = sqlx::query(statement).bind(past.ride).bind(past.trip).bind(past.rider.id).bind(past.driver.id);
        query.execute(tx.conn()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    tx.commit().await.unwrap();
    past
}

/// Every row of these tables as text.
async fn rows(region: &TestRegion, tables: &[&str]) -> String {
    let mut tx = region.app.db.system().await.unwrap();
    let mut text = String::new();
    for table in tables {
        let rows = format!("SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text), '') FROM {table} t");
        text += &sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(rows)).fetch_one(tx.conn()).await.unwrap();
    }
    text
}

const PERSONAL: [&str; 7] = ["riders", "drivers", "rides", "ratings", "payments", "refresh_tokens", "idempotency_keys"];
const LEDGER: [&str; 2] = ["ledger_entries", "ledger_postings"];

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_erased_rider_leaves_nothing_but_what_was_paid(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Ada Quill", "phone": "+15550177", "password": "correct horse"});
    region.nobody().post_keyed("/v1/riders", "k1", account).await.ok(201);
    let past = past_ride(&region).await;
    let grant = json!({"grant_type": "password", "phone": "+15550177", "password": "correct horse"});
    let session = region.nobody().post("/v1/auth/token", grant.clone()).await.ok(200);
    let ada: Uuid = session["subject"].as_str().unwrap().parse().unwrap();
    let mut tx = region.app.db.system().await.unwrap();
    for statement in
        ["UPDATE rides SET rider_id = $1", "UPDATE trips SET rider_id = $1", "UPDATE payments SET rider_id = $1"]
    {
        sqlx::query(statement).bind(ada).execute(tx.conn()).await.unwrap();
    }
    tx.commit().await.unwrap();
    let before = rows(&region, &LEDGER).await;

    let (other, path) = (region.rider().await, format!("/v1/riders/{ada}"));
    assert_eq!(code(other.call(Method::DELETE, &path, None, &[]).await.problem(404)), "not_found");
    assert_eq!(code(past.driver.call(Method::DELETE, &path, None, &[]).await.problem(404)), "not_found");
    let erased = region.admin().await.call(Method::DELETE, &path, None, &[]).await.ok(202);
    assert_eq!((&erased["id"], &erased["status"]), (&json!(ada), &json!("erased")));
    let again = region.admin().await.call(Method::DELETE, &path, None, &[]).await.ok(202);
    assert_eq!(again["erased_at"], erased["erased_at"], "it is erased once");

    let left = rows(&region, &PERSONAL).await;
    assert!(!left.to_lowercase().contains("quill"), "{left}");
    assert!(rows(&region, &["breadcrumbs"]).await.is_empty());
    assert!(!rows(&region, &["refresh_tokens"]).await.contains(&ada.to_string()), "no session is left");
    assert!(!rows(&region, &["idempotency_keys"]).await.contains(&ada.to_string()));
    assert_eq!(rows(&region, &LEDGER).await, before, "the ledger stays");
    let refresh = json!({"grant_type": "refresh_token", "refresh_token": session["refresh_token"]});
    assert_eq!(code(region.nobody().post("/v1/auth/token", refresh).await.problem(401)), "invalid_refresh_token");
    assert_eq!(code(region.nobody().post("/v1/auth/token", grant).await.problem(401)), "invalid_credentials");
    // The access token outlives the account by minutes, and begins nothing.
    let mut ada = region.nobody();
    ada.token = session["access_token"].as_str().unwrap().to_owned();
    assert_eq!(code(ada.post("/v1/rides", ride()).await.problem(401)), "invalid_token");
    assert_eq!(rows(&region, &["rides"]).await.matches("requested").count(), 0);
}

fn ride() -> Value {
    let place = |lat: f64| json!({"lat": lat, "lng": -73.99});
    json!({"pickup": place(40.73), "dropoff": place(40.75), "vehicle_class": "standard", "payment_method": "cash"})
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_erased_driver_is_off_the_map_and_takes_no_ride(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let past = past_ride(&region).await;
    let (driver, rider) = (past.driver, region.rider().await);
    let own = |what: &str| format!("/v1/drivers/{}{what}", driver.id);
    driver.post(&own("/status"), json!({"status": "online"})).await.ok(200);
    driver.post(&own("/location"), json!({"lat": 40.73, "lng": -73.99})).await.ok(202);
    let asked = rider.post("/v1/rides", ride()).await.ok(201)["id"].clone();
    crate::dispatch::run_due(&region.app).await;
    let offers = driver.get(&own("/offers")).await.ok(200);
    assert_eq!(offers["items"][0]["ride_id"], asked);

    driver.call(Method::DELETE, &own(""), None, &[]).await.ok(202);
    assert_eq!(driver.get(&own("/offers")).await.ok(200)["items"], json!([]), "the offer is withdrawn");
    let left = rows(&region, &PERSONAL).await;
    assert!(!left.contains("Quill was late") && !left.contains("Quill talked") && !left.contains("Test Car"), "{left}");
    assert!(left.contains("Quill Street"), "the rider's addresses are not his");
    let nearby = rider.get("/v1/drivers/nearby?lat=40.73&lng=-73.99&radius_m=1000").await.ok(200);
    assert_eq!(nearby["items"], json!([]));
    let mut tx = region.app.db.system().await.unwrap();
    let erased = sqlx::query!(
        r#"SELECT status, erased_at, EXISTS (SELECT FROM driver_places WHERE driver_id = d.id) AS "has_place!"
           FROM drivers d WHERE id = $1"#,
        driver.id
    );
    let erased = erased.fetch_one(tx.conn()).await.unwrap();
    assert!(!erased.has_place && erased.status == "offline" && erased.erased_at.is_some());
    // Were he asked all the same, he could not accept.
    sqlx::query("UPDATE offers SET status = 'live'").execute(tx.conn()).await.unwrap();
    sqlx::query("UPDATE rides SET status = 'offered' WHERE id = $1::uuid")
        .bind(asked.as_str().unwrap())
        .execute(tx.conn())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(code(driver.post(&own("/accept"), json!({"ride_id": asked})).await.problem(409)), "ride_already_taken");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn who_has_an_open_ride_is_erased_after_it(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let asked = rider.post("/v1/rides", ride()).await.ok(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/riders/{}", rider.id);
    assert_eq!(code(rider.call(Method::DELETE, &path, None, &[]).await.problem(409)), "invalid_transition");
    rider.post(&format!("/v1/rides/{asked}/cancel"), json!({"reason": "Quill"})).await.ok(200);
    rider.call(Method::DELETE, &path, None, &[]).await.ok(202);
    let gone = format!("/v1/riders/{}", Uuid::now_v7());
    assert_eq!(code(region.admin().await.call(Method::DELETE, &gone, None, &[]).await.problem(404)), "not_found");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn names_and_phones_are_not_readable_in_the_database(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Zebulon Quill", "phone": "+15550123", "password": "correct horse"});
    region.nobody().post_keyed("/v1/riders", "k1", account).await.ok(201);
    let tenant = json!({"id": "limos", "name": "Limos", "home_region": "us-east"});
    let made = region.operator().await.post_keyed("/v1/tenants", "k2", tenant).await.ok(201);
    let mut tx = region.app.db.system().await.unwrap();
    let mut rows =
        sqlx::query_scalar!(r#"SELECT riders::text AS "row!" FROM riders"#).fetch_all(tx.conn()).await.unwrap();
    let answers = sqlx::query_scalar!(r#"SELECT idempotency_keys::text AS "row!" FROM idempotency_keys"#);
    rows.extend(answers.fetch_all(tx.conn()).await.unwrap());
    assert_eq!(rows.len(), 3);
    for plain in ["Zebulon", "15550123", made["client_secret"].as_str().unwrap()] {
        let is_readable = |row: &String| row.contains(plain) || row.contains(&hex::encode(plain));
        assert!(!rows.iter().any(is_readable), "{plain} in {rows:?}");
    }
    // Who guesses the whole request cannot find it by its plain hash either.
    let account = r#"{"name":"Zebulon Quill","password":"correct horse","phone":"+15550123"}"#;
    let guess = hex::encode(Sha256::digest(["POST\0/v1/riders\0", account].concat()));
    assert!(!rows.iter().any(|row| row.contains(&guess)));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_phone_is_one_account_with_or_without_its_plus(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = |phone: &str| json!({"name": "Ada", "phone": phone, "password": "correct horse"});
    region.nobody().post("/v1/riders", account("15550100")).await.ok(201);
    assert_eq!(code(region.nobody().post("/v1/riders", account("+15550100")).await.problem(409)), "already_exists");
    let grant = json!({"grant_type": "password", "phone": "+15550100", "password": "correct horse"});
    region.nobody().post("/v1/auth/token", grant).await.ok(200);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_registration_is_answered_again_whatever_has_changed_since(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Bo", "phone": "+15550100", "password": "correct horse",
        "vehicle": {"class": "standard", "plate": "P", "model": "M", "seats": 4}});
    let first = region.nobody().post_keyed("/v1/drivers", "k1", account.clone()).await.ok(201);
    let closed = json!({"flags": {"sign_up": false}, "vehicle_classes": ["limousine"]});
    let admin = region.admin().await;
    admin.call(Method::PATCH, "/v1/tenants/cabs/config", Some(closed), &[]).await.ok(200);
    assert_eq!(region.nobody().post_keyed("/v1/drivers", "k1", account.clone()).await.ok(201), first);
    let refused = region.nobody().post_keyed("/v1/drivers", "k2", account).await;
    assert_eq!(code(refused.problem(403)), "feature_disabled");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_keys_of_every_region_are_published(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let other =
        json!({"keys": [{"kid": "eu-west-1", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]});
    sqlx::query(
        "INSERT INTO regions (name, base_url, quic_addr, jwks) VALUES ('eu-west', 'http://127.0.0.1:2', '', $1)",
    )
    .bind(other)
    .execute(&pool)
    .await
    .unwrap();
    region.app.tenants.refresh().await.unwrap();
    region.app.learn_keys();
    let published = region.nobody().get("/.well-known/jwks.json").await.ok(200);
    let kids: Vec<_> = published["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert!(kids.len() == 2 && kids[0] == "eu-west-1" && kids[1].starts_with("us-east-"), "{kids:?}");
}
