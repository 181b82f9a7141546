//! Refusals and idempotency keys over the router, on a real database.

use std::{net::SocketAddr, num::NonZeroU32};

use axum::{extract::ConnectInfo, http::Method};
use serde_json::json;
use sqlx::PgPool;
use time::Duration;
use tower::ServiceExt;

use super::forget_old_answers;
use crate::testing::TestRegion;

#[test]
fn the_committed_document_is_the_api_s() {
    let document = super::router::openapi().to_pretty_json().unwrap();
    let committed = include_str!("../../openapi.json");
    assert!(document.trim() == committed.trim(), "the API has changed: run `make api` and commit what it writes");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn every_refusal_of_the_framework_is_a_problem_too(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let nobody = region.nobody();
    assert_eq!(nobody.get("/v1/nothing-here").await.problem(404).code, "not_found");
    assert_eq!(nobody.call(Method::DELETE, "/v1/riders", None, &[]).await.problem(405).code, "method_not_allowed");
    let broken = nobody.call_raw("/v1/riders", "application/json", b"{\"name\":").await;
    assert_eq!(broken.problem(400).code, "malformed_json");
    for cut_short in ["[1,", "[1", "{\"name\": 1,", "{\"name\": 1} x", "[[]"] {
        let broken = nobody.call_raw("/v1/riders", "application/json", cut_short.as_bytes()).await;
        assert_eq!(broken.problem(400).code, "malformed_json", "{cut_short}");
    }
    let text = nobody.call_raw("/v1/riders", "text/plain", b"name=Ada").await;
    assert_eq!(text.problem(415).code, "unsupported_media_type");
    let large = nobody.call_raw("/v1/riders", "application/json", &vec![b' '; 70_000]).await;
    assert_eq!(large.problem(413).code, "payload_too_large");
    let missing = nobody.post("/v1/riders", json!({"name": "Ada"})).await.problem(422);
    assert_eq!((missing.code.as_str(), missing.fields.as_slice()), ("validation_failed", &["phone".to_owned()][..]));
    let driver = region.driver().await;
    assert_eq!(driver.get("/v1/rides/not-an-id").await.problem(404).code, "not_found");
    for (query, field) in [("limit=1000", "limit"), ("limit=many", "limit"), ("status=flying", "status")] {
        assert_eq!(driver.get(&format!("/v1/rides?{query}")).await.problem(422).fields, [field], "{query}");
    }
    let rider = region.rider().await;
    assert_eq!(rider.get("/v1/drivers/nearby?lat=1").await.problem(422).fields, ["lng"]);
    assert_eq!(driver.get("/v1/rides?cursor=nonsense").await.problem(422).fields, ["cursor"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_field_of_the_wrong_type_is_named_by_its_path(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    let place = json!({"lat": 1.0, "lng": 1.0});
    let cases = [
        (json!({"pickup": {"lat": "north", "lng": 1.0}}), "pickup.lat"),
        (json!({"pickup": {"lat": 1.0}}), "pickup.lng"),
        (json!({"pickup": place, "dropoff": 7}), "dropoff"),
        (json!({"pickup": place, "dropoff": place}), "vehicle_class"),
        (
            json!({"pickup": place, "dropoff": place, "vehicle_class": "standard", "payment_method": {"type": "gold"}}),
            "payment_method.type",
        ),
        (
            json!({"pickup": place, "dropoff": place, "vehicle_class": "standard", "payment_method": "cash", "scheduled_at": "soon"}),
            "scheduled_at",
        ),
    ];
    for (body, field) in cases {
        assert_eq!(rider.post("/v1/rides", body.clone()).await.problem(422).fields, [field], "{body}");
    }
    let driver = region.driver().await;
    let status = format!("/v1/drivers/{}/status", driver.id);
    assert_eq!(driver.post(&status, json!({"status": "asleep"})).await.problem(422).fields, ["status"]);
}

/// Each forged token would be a caller of its own; they all are the address they come from.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_made_up_token_is_no_caller_of_its_own(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let tokens = region.app.tokens.clone();
    let mut config = region.app.config.limits;
    (config.requests_per_second, config.requests_burst) = (NonZeroU32::new(1).unwrap(), NonZeroU32::new(2).unwrap());
    let limits = super::Limits::new(config, tokens);
    let call = |token: &str| {
        let mut request = axum::extract::Request::new(axum::body::Body::empty());
        *request.uri_mut() = "/v1/rides".parse().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 1))));
        let refusal = super::limits::limit(&limits, &Default::default(), &mut request);
        refusal.map_or(200, |refusal| refusal.status().as_u16())
    };
    let forged = [call("a"), call("b"), call("c"), call("d")];
    assert_eq!(forged, [200, 200, 429, 429]);
    let rider = region.rider().await;
    assert_eq!(call(&rider.token), 200, "whoever is signed in has limits of their own");
}

/// A page must be able to read why it was refused, and when to come back.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_page_of_another_origin_can_read_a_refusal(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let address = region.serve().await;
    let call = || {
        let request =
            region.app.http.post(format!("http://{address}/v1/riders")).header("origin", "https://app.example");
        request.header("x-tenant-id", "cabs").send()
    };
    let mut refused = call().await.unwrap();
    for _ in 0..100 {
        if refused.status() == 429 {
            break;
        }
        refused = call().await.unwrap();
    }
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["access-control-allow-origin"], "*");
    let exposed = refused.headers()["access-control-expose-headers"].to_str().unwrap();
    for name in ["retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
        assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name} in {exposed}");
        assert!(refused.headers().contains_key(name), "{name}");
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn details_are_internal_where_there_is_an_internal_address(pool: PgPool) {
    let internal = r#"http = { internal_listen = "127.0.0.1:1" }"#;
    let region = TestRegion::with_settings(pool, internal).await;
    let nobody = region.nobody();
    assert_eq!(nobody.get("/docs/").await.problem(404).code, "not_found");
    let seen = nobody.get("/health").await.ok(200);
    assert_eq!(seen, json!({"status": seen["status"], "region": "us-east"}));
    assert_eq!(region.operator().await.get("/health").await.ok(200)["health"]["postgres"], true);
    nobody.get("/health/ready").await.ok(200);
    let internal = super::router::internal(&region.app);
    let get = async |path: &str| {
        let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = internal.clone().oneshot(request).await.unwrap();
        (response.status().as_u16(), axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap())
    };
    assert_eq!(get("/docs/").await.0, 200);
    let (status, health) = get("/health").await;
    let health: serde_json::Value = serde_json::from_slice(&health).unwrap();
    assert_eq!((status, &health["health"]["postgres"]), (200, &json!(true)));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_answer_carries_the_request_id_it_was_given(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let answer = region.nobody().call(Method::GET, "/v1/nothing", None, &[("x-request-id", "abc-123")]).await;
    assert_eq!(answer.headers["x-request-id"], "abc-123");
    assert_eq!(answer.headers["x-edge-region"], "us-east");
    assert_eq!(answer.headers["x-served-by-region"], "us-east");
    assert_eq!(answer.json()["request_id"], "abc-123");
    let hostile = region.nobody().call(Method::GET, "/v1/nothing", None, &[("x-request-id", "a b<script>")]).await;
    assert_ne!(hostile.headers["x-request-id"], "a b<script>");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn copies_of_one_request_at_once_have_one_effect(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Ada", "phone": "+15550100", "password": "correct horse"});
    let copies = (0..8).map(|_| {
        let (nobody, account) = (region.nobody(), account.clone());
        async move { nobody.post_keyed("/v1/riders", "same", account).await }
    });
    let answers = futures::future::join_all(copies).await;
    let made = answers.iter().filter(|answer| answer.status == 201).collect::<Vec<_>>();
    assert!(!made.is_empty());
    assert!(
        made.iter().all(|answer| answer.json() == made[0].json()),
        "every copy that is answered gets the same account"
    );
    let others = answers.iter().filter(|answer| answer.status != 201);
    assert!(others.into_iter().all(|answer| answer.json()["code"] == "idempotency_in_progress"));
    let mut tx = region.app.db.system().await.unwrap();
    let riders = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM riders"#).fetch_one(tx.conn()).await.unwrap();
    assert_eq!(riders, 1);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_key_is_forgotten_after_a_day(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Ada", "phone": "+15550100", "password": "correct horse"});
    region.nobody().post_keyed("/v1/riders", "old", account).await.ok(201);
    region.clock.advance(Duration::hours(25));
    let other = json!({"name": "Eve", "phone": "+15550101", "password": "correct horse"});
    region.nobody().post_keyed("/v1/riders", "old", other).await.ok(201);
    region.clock.advance(Duration::hours(25));
    assert_eq!(forget_old_answers(&region.app.db, region.clock.now()).await.unwrap(), 1);
}
