//! Scarcity and prices over the API.

use axum::http::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::Duration;

use super::compute;
use crate::{
    dispatch::{run_due, tests::online},
    rides::tests::{request, wish},
    testing::{TestRegion, TestUser},
};

async fn region(pool: PgPool) -> TestRegion {
    TestRegion::with_config(pool, json!({"surge": {"enabled": true, "cap": 1.8, "half_life_s": 10}})).await
}

/// Lets so much time pass that what is counted counts in full.
async fn settle(region: &TestRegion) {
    region.clock.advance(Duration::minutes(2));
    compute(&region.app, &region.tenant).await.unwrap();
}

async fn estimate(rider: &TestUser) -> Value {
    let mut wish = wish();
    wish.as_object_mut().unwrap().remove("payment_method");
    rider.post("/v1/rides/estimate", wish).await.ok(200)
}

async fn multiplier(rider: &TestUser) -> f64 {
    estimate(rider).await["surge_multiplier"].as_f64().unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn prices_rise_where_rides_wait_and_the_quote_says_where(pool: PgPool) {
    let region = region(pool).await;
    let rider = region.rider().await;
    settle(&region).await;
    let calm = estimate(&rider).await;
    assert_eq!(calm["surge_multiplier"], 1.0);
    for _ in 0..2 {
        request(&region.rider().await).await;
    }
    // Nothing is counted while pricing.
    assert_eq!(multiplier(&rider).await, 1.0);
    settle(&region).await;
    let busy = estimate(&rider).await;
    assert_eq!(busy["surge_multiplier"], 1.5);
    assert!(busy["fare"]["amount"].as_i64() > calm["fare"]["amount"].as_i64());

    let admin = region.admin().await;
    let surge = admin.get("/v1/surge").await.ok(200);
    let items = surge["items"].as_array().unwrap();
    let scarce = items.iter().find(|item| item["demand"].as_f64() > Some(1.9)).unwrap();
    assert_eq!(
        (&scarce["vehicle_class"], &scarce["supply"], &scarce["surge_multiplier"]),
        (&json!("standard"), &json!(0.0), &json!(1.5))
    );
    assert_eq!((items.len(), &surge["enabled"]), (7, &json!(true)));
    assert_eq!(scarce["corners"].as_array().unwrap().len(), 6);

    let mut wish = wish();
    wish["quote_id"] = busy["quote_id"].clone();
    let ride = rider.post("/v1/rides", wish).await.ok(201);
    assert_eq!((&ride["fare"], &ride["surge_multiplier"]), (&busy["fare"], &json!(1.5)));
    let mut tx = region.app.db.read(&region.tenant).await.unwrap();
    let cell: Option<String> = sqlx::query_scalar("SELECT quote ->> 'surge_cell' FROM rides WHERE rider_id = $1")
        .bind(rider.id)
        .fetch_one(tx.conn())
        .await
        .unwrap();
    assert_eq!(cell.as_deref(), scarce["cell"].as_str());
}

#[sqlx::test(migrations = "../migrations")]
async fn free_drivers_ease_prices_and_rides_nobody_took_keep_them_up_for_a_while(pool: PgPool) {
    let region = region(pool).await;
    let rider = region.rider().await;
    request(&region.rider().await).await;
    settle(&region).await;
    assert_eq!(multiplier(&rider).await, 1.25);
    region.clock.advance(Duration::minutes(2));
    run_due(&region.app).await;
    // Expired, but not forgotten.
    compute(&region.app, &region.tenant).await.unwrap();
    assert_eq!(multiplier(&rider).await, 1.25);
    let driver = region.driver().await;
    online(&driver, 100.0).await;
    region.clock.advance(Duration::seconds(50));
    online(&driver, 100.0).await;
    compute(&region.app, &region.tenant).await.unwrap();
    assert!(multiplier(&rider).await < 1.05);
    region.clock.advance(Duration::minutes(5));
    compute(&region.app, &region.tenant).await.unwrap();
    assert_eq!(region.admin().await.get("/v1/surge").await.ok(200)["items"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn the_cap_and_the_kill_switch_hold_at_once(pool: PgPool) {
    let region = region(pool).await;
    let rider = region.rider().await;
    for _ in 0..6 {
        request(&region.rider().await).await;
    }
    settle(&region).await;
    assert_eq!(multiplier(&rider).await, 1.8);
    let admin = region.admin().await;
    let off = json!({"flags": {"surge": false}});
    admin.call(Method::PATCH, "/v1/tenants/cabs/config", Some(off), &[]).await.ok(200);
    assert_eq!(multiplier(&rider).await, 1.0);
    assert_eq!(admin.get("/v1/surge").await.ok(200)["enabled"], false);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_nobody_computes_any_more_raises_no_price(pool: PgPool) {
    let region = region(pool).await;
    let rider = region.rider().await;
    request(&region.rider().await).await;
    settle(&region).await;
    region.clock.advance(Duration::seconds(59));
    assert_eq!(multiplier(&rider).await, 1.25);
    region.clock.advance(Duration::seconds(1));
    assert_eq!(multiplier(&rider).await, 1.0);
}

#[sqlx::test(migrations = "../migrations")]
async fn nodes_that_compute_at_once_count_once(pool: PgPool) {
    let region = region(pool).await;
    request(&region.rider().await).await;
    settle(&region).await;
    // A half-life passes once, however many nodes look.
    region.clock.advance(Duration::seconds(10));
    let node = || compute(&region.app, &region.tenant);
    for _ in 0..2 {
        let (a, b, c) = tokio::join!(node(), node(), node());
        [a, b, c].into_iter().for_each(|computed| computed.unwrap());
    }
    let surge = region.admin().await.get("/v1/surge").await.ok(200);
    let computed_at = surge["computed_at"].clone();
    region.clock.advance(Duration::seconds(1));
    compute(&region.app, &region.tenant).await.unwrap();
    assert_eq!(region.admin().await.get("/v1/surge").await.ok(200)["computed_at"], computed_at);
}

#[sqlx::test(migrations = "../migrations")]
async fn only_the_back_office_sees_where_drivers_are_scarce(pool: PgPool) {
    let region = region(pool).await;
    assert_eq!(region.rider().await.get("/v1/surge").await.problem(403).code, "forbidden");
    let surge = region.admin().await.get("/v1/surge").await.ok(200);
    assert_eq!((&surge["computed_at"], &surge["items"]), (&Value::Null, &json!([])));
}
