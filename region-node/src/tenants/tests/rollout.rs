//! Canaries, pins and refusals of published versions.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{CONFIG, patch};
use crate::testing::{TestAnswer, TestRegion, TestUser};

const PIN: &str = "/v1/tenants/cabs/config/pin";
const PIN_HERE: &str = "/v1/tenants/cabs/config/pin/here";

/// A region whose tenant publishes by hand, with one version beyond its first in the draft.
async fn with_draft(pool: PgPool) -> (TestRegion, TestUser) {
    let region = TestRegion::with_config(pool, json!({"auto_publish": false})).await;
    execute(&region, "INSERT INTO regions (name, base_url, quic_addr) VALUES ('eu-west', 'http://127.0.0.1:2', '')")
        .await;
    region.app.tenants.refresh().await.unwrap();
    let admin = region.admin().await;
    patch(&admin, json!({"name": "Two"}), None).await.ok(200);
    (region, admin)
}

async fn execute(region: &TestRegion, sql: &str) {
    let mut tx = region.app.db.system().await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
}

async fn publish(admin: &TestUser, body: Value) -> TestAnswer {
    admin.post("/v1/tenants/cabs/config/publish", body).await
}

async fn runs(region: &TestRegion) -> (i64, String) {
    let config = region.app.tenants.config(&region.tenant).await.unwrap();
    (config.version, config.config.name.clone())
}

/// What runs from the start.
fn one() -> (i64, String) {
    (1, "cabs".to_owned())
}

fn two() -> (i64, String) {
    (2, "Two".to_owned())
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_canary_elsewhere_changes_nothing_here_until_it_is_promoted(pool: PgPool) {
    let (region, admin) = with_draft(pool).await;
    let published = publish(&admin, json!({"canary_region": "eu-west"})).await.ok(200);
    assert_eq!(published["published"]["version"], 2);
    assert_eq!(published["running"]["version"]["version"], 1);
    assert_eq!(published["rollout"]["canary"], json!({"region": "eu-west", "version": 2}));
    assert_eq!(runs(&region).await, one());
    // A further draft waits, published by hand or not.
    patch(&admin, json!({"name": "Three"}), None).await.ok(200);
    assert_eq!(publish(&admin, json!({})).await.problem(409).code, "rollout_in_progress");
    patch(&admin, json!({"auto_publish": true}), None).await.ok(200);
    super::super::publish_due_drafts(&region.app).await.unwrap();
    assert_eq!(runs(&region).await, one());
    let promoted = admin.post("/v1/tenants/cabs/config/promote", json!({})).await.ok(200);
    assert_eq!(promoted["rollout"]["canary"], Value::Null);
    assert_eq!(runs(&region).await, (3, "Three".to_owned()), "the draft that waited publishes itself");
    assert_eq!(admin.post("/v1/tenants/cabs/config/promote", json!({})).await.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_canary_here_runs_here_and_is_rolled_back_until_it_is_published_again(pool: PgPool) {
    let (region, admin) = with_draft(pool).await;
    assert_eq!(publish(&admin, json!({"canary_region": "atlantis"})).await.problem(422).fields, ["canary_region"]);
    publish(&admin, json!({"canary_region": "us-east"})).await.ok(200);
    assert_eq!(runs(&region).await, two());
    let back = admin.post("/v1/tenants/cabs/config/rollback", json!({})).await.ok(200);
    assert_eq!((&back["running"]["version"]["version"], &back["rollout"]["stable"]), (&json!(1), &json!(1)));
    assert_eq!(runs(&region).await, one());
    assert_eq!(admin.post("/v1/tenants/cabs/config/rollback", json!({})).await.problem(409).code, "invalid_transition");
    // Nothing that was rolled back comes back by itself, nor what was built on it.
    patch(&admin, json!({"auto_publish": true}), None).await.ok(200);
    super::super::publish_due_drafts(&region.app).await.unwrap();
    assert_eq!(runs(&region).await, one());
    publish(&admin, json!({})).await.ok(200);
    assert_eq!(runs(&region).await, (3, "Two".to_owned()));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_was_rolled_back_can_be_tried_and_published_again(pool: PgPool) {
    let (region, admin) = with_draft(pool).await;
    publish(&admin, json!({"canary_region": "us-east"})).await.ok(200);
    admin.post("/v1/tenants/cabs/config/rollback", json!({})).await.ok(200);
    let again = publish(&admin, json!({"canary_region": "us-east"})).await.ok(200);
    assert_eq!(again["rollout"]["canary"], json!({"region": "us-east", "version": 2}));
    assert_eq!(runs(&region).await, two());
    admin.post("/v1/tenants/cabs/config/rollback", json!({})).await.ok(200);
    publish(&admin, json!({})).await.ok(200);
    assert_eq!(runs(&region).await, two());
    assert_eq!(publish(&admin, json!({"canary_region": "us-east"})).await.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_pinned_version_runs_whatever_is_published_until_it_is_unpinned(pool: PgPool) {
    let (region, admin) = with_draft(pool).await;
    let pinned = admin.call(Method::PUT, PIN, Some(json!({})), &[]).await.ok(200);
    assert_eq!(pinned["rollout"]["pinned"], 1, "what runs, if no other is named");
    publish(&admin, json!({})).await.ok(200);
    assert_eq!(runs(&region).await, one());
    assert_eq!(admin.call(Method::PUT, PIN, Some(json!({"version": 9})), &[]).await.problem(422).fields, ["version"]);
    assert_eq!(admin.call(Method::PUT, PIN, Some(json!({"version": 0})), &[]).await.problem(422).fields, ["version"]);
    admin.call(Method::DELETE, PIN, None, &[]).await.ok(200);
    assert_eq!(runs(&region).await, two());
    let mut tx = region.app.db.system().await.unwrap();
    let decided = "SELECT number FROM tenant_config_rollouts WHERE region = ''";
    let decided: i64 = sqlx::query_scalar(decided).fetch_one(tx.conn()).await.unwrap();
    assert_eq!(decided, 2, "a pin and its end; publishing decided nothing");
    let versions = admin.get("/v1/tenants/cabs/config/versions?limit=1").await.ok(200);
    assert_eq!(versions["items"][0]["version"], 2);
    let next = format!("/v1/tenants/cabs/config/versions?cursor={}", versions["next_cursor"].as_str().unwrap());
    let older = admin.get(&next).await.ok(200);
    assert_eq!((&older["items"][0]["version"], &older["next_cursor"]), (&json!(1), &Value::Null));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_region_pins_for_itself_where_the_tenant_is_not_at_home(pool: PgPool) {
    let (region, admin) = with_draft(pool).await;
    publish(&admin, json!({})).await.ok(200);
    execute(&region, "UPDATE tenant_homes SET region = 'eu-west', n = 1").await;
    let for_all = admin.call(Method::PUT, PIN, Some(json!({"version": 1})), &[]).await;
    assert_eq!(for_all.problem(503).code, "tenant_moving", "this node has not heard of the new home yet");
    let pinned = admin.call(Method::PUT, PIN_HERE, Some(json!({"version": 1})), &[]).await.ok(200);
    assert_eq!((&pinned["rollout"]["pinned_here"], &pinned["rollout"]["pinned"]), (&json!(1), &Value::Null));
    assert_eq!(runs(&region).await, one());
    admin.call(Method::DELETE, PIN_HERE, None, &[]).await.ok(200);
    assert_eq!(runs(&region).await, two());
    let foreign = region.new_tenant("vans", json!({})).await;
    drop(foreign);
    let other = "/v1/tenants/vans/config/pin/here";
    assert_eq!(admin.call(Method::PUT, other, Some(json!({})), &[]).await.problem(404).code, "not_found");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_refused_version_is_named_and_the_last_good_one_stays(pool: PgPool) {
    let (region, admin) = with_draft(pool).await;
    assert_eq!(runs(&region).await, one());
    let insert = "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at) VALUES ('cabs', 2, '{\"commission_percent\": 150}', now())";
    execute(&region, insert).await;
    region.app.tenants.take_up(&BTreeSet::from([region.tenant.clone()])).await.unwrap();
    assert_eq!(runs(&region).await, one());
    let view = admin.get(CONFIG).await.ok(200);
    assert_eq!(view["running"]["version"]["version"], 1);
    assert_eq!(
        view["running"]["refused"],
        json!([{"version": 2, "field": "commission_percent", "reason": "must be 0 to 100"}])
    );
    assert_eq!(view["published"]["version"], 2);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_first_decision_of_a_new_home_is_told_although_nothing_changes(pool: PgPool) {
    let (region, admin) = with_draft(pool).await;
    // As an earlier home has published it.
    let insert = "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at, home_term, home_n)
                  VALUES ('cabs', 2, '{}', now(), 1, 0)";
    execute(&region, insert).await;
    execute(&region, "UPDATE tenant_homes SET term = 2, n = 0").await;
    publish(&admin, json!({})).await.ok(200);
    let mut tx = region.app.db.system().await.unwrap();
    let decided: (i64, i64, Option<i64>) =
        sqlx::query_as("SELECT home_term, home_n, stable FROM tenant_config_rollouts")
            .fetch_one(tx.conn())
            .await
            .unwrap();
    assert_eq!(decided, (2, 0, None), "a canary the old home began late is not heard any more");
}
