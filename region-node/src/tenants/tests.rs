//! Tenants and their config over the router, on a real database.

use axum::http::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::testing::{TestRegion, TestUser};

const CONFIG: &str = "/v1/tenants/cabs/config";

async fn patch(user: &TestUser, patch: Value, if_match: Option<&str>) -> crate::testing::TestAnswer {
    let headers: Vec<_> = if_match.map(|heads| ("if-match", heads)).into_iter().collect();
    user.call(Method::PATCH, CONFIG, Some(patch), &headers).await
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tenant_is_made_once_with_its_first_config_published(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"currency": "EUR"})).await;
    let config = region.admin().await.get(CONFIG).await.ok(200);
    assert_eq!(config["published"]["version"], 1);
    assert_eq!(config["published"]["config"]["currency"], "EUR");
    assert_eq!(config["rejected"], json!([]));
    assert!(config["config"].get("auth").is_none(), "credentials never show");
    let again = json!({"id": "cabs", "name": "Again", "home_region": "us-east"});
    assert_eq!(region.operator().await.post("/v1/tenants", again).await.problem(409).code, "already_exists");
    let nowhere = json!({"id": "limos", "name": "Limos", "home_region": "atlantis"});
    assert_eq!(region.operator().await.post("/v1/tenants", nowhere).await.problem(422).fields, ["home_region"]);
    let by_office = json!({"id": "limos", "name": "Limos", "home_region": "us-east"});
    assert_eq!(region.admin().await.post("/v1/tenants", by_office).await.problem(403).code, "forbidden");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_valid_edit_is_published_and_an_invalid_one_stays_a_draft(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let edited = patch(&admin, json!({"labels": {"city": "Springfield"}}), None).await.ok(200);
    assert_eq!(edited["published"]["version"], 2);
    let rejected = patch(&admin, json!({"commission_percent": 150}), None).await.ok(200);
    assert_eq!(rejected["config"]["commission_percent"], 150);
    assert_eq!(rejected["published"]["version"], 2);
    assert_eq!(rejected["rejected"][0], "commission_percent: must be 0 to 100");
    let config = region.app.tenants.config(&region.tenant).await.unwrap();
    assert_eq!((config.version, config.config.commission_percent), (2, 20));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_edit_of_what_was_read_earlier_keeps_what_others_wrote_since(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let heads = admin.get(CONFIG).await.ok(200)["heads"].clone();
    let heads = heads.as_array().unwrap().iter().map(|head| head.as_str().unwrap()).collect::<Vec<_>>().join(",");
    patch(&admin, json!({"labels": {"a": "1"}}), None).await.ok(200);
    let merged = patch(&admin, json!({"labels": {"b": "2"}}), Some(&heads)).await.ok(200);
    assert_eq!(merged["config"]["labels"], json!({"a": "1", "b": "2"}));
    let unknown = "0".repeat(64);
    assert_eq!(patch(&admin, json!({}), Some(&unknown)).await.problem(412).code, "precondition_failed");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tenant_that_publishes_by_hand_runs_the_old_version_until_then(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    patch(&admin, json!({"auto_publish": false, "name": "New"}), None).await.ok(200);
    assert_eq!(region.app.tenants.config(&region.tenant).await.unwrap().config.name, "cabs");
    let published = admin.post("/v1/tenants/cabs/config/publish", json!({})).await.ok(200);
    assert_eq!(published["published"]["version"], 2);
    assert_eq!(region.app.tenants.config(&region.tenant).await.unwrap().config.name, "New");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_call_without_or_with_an_unknown_tenant_is_told_so(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    assert_eq!(region.nobody().get_without_tenant("/v1/route").await.problem(400).code, "tenant_required");
    let mut nobody = region.nobody();
    nobody.tenant = "nobodys".parse().unwrap();
    assert_eq!(nobody.get("/v1/route").await.problem(404).code, "unknown_tenant");
    let route = region.nobody().get("/v1/route").await.ok(200);
    assert_eq!(route["home_region"], "us-east");
    assert_eq!(route["base_url"], "http://127.0.0.1:1");
    assert_eq!(route["epoch"], json!({"term": 1, "n": 0}));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_route_says_what_a_client_shows_before_anybody_signs_in(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let bare = region.nobody().get("/v1/route").await.ok(200);
    assert_eq!(bare["vehicle_classes"], json!(["standard"]));
    assert!(bare.get("map").is_none(), "nobody has said where the map opens");
    let config = json!({"name": "Springfield Cabs", "map": {"lat": 39.8, "lng": -89.6, "zoom": 12},
        "vehicle_classes": ["xl", "auto"]});
    patch(&region.admin().await, config, None).await.ok(200);
    let route = region.nobody().get("/v1/route").await.ok(200);
    assert_eq!(route["name"], "Springfield Cabs");
    assert_eq!(route["map"], json!({"lat": 39.8, "lng": -89.6, "zoom": 12.0}));
    assert_eq!(route["vehicle_classes"], json!(["auto", "xl"]));
    assert_eq!(route["home_region"], "us-east");
}
