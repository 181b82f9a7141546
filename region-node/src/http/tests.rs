//! Refusals and idempotency keys over the router, on a real database.

use axum::http::Method;
use serde_json::json;
use sqlx::PgPool;
use time::Duration;

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
    assert_eq!(driver.get("/v1/rides?limit=1000").await.problem(422).fields, ["limit"]);
    assert_eq!(driver.get("/v1/rides?cursor=nonsense").await.problem(422).fields, ["cursor"]);
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
