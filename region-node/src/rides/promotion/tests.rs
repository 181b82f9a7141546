use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    rides::tests::wish_with,
    testing::{TestRegion, TestUser},
};

const ESTIMATE: &str = "/v1/rides/estimate";
const RIDES: &str = "/v1/rides";

async fn region(pool: PgPool) -> TestRegion {
    let promotions = json!({
        "WELCOME": {"percent": 20, "cap": 300},
        "THREE": {"amount": 100, "uses": 3},
        "OVER": {"amount": 100, "valid_until": "2020-01-01T00:00:00Z"},
    });
    TestRegion::with_config(pool, json!({"promotions": promotions})).await
}

/// A ride booked ahead, of which a rider may have several.
fn booked(region: &TestRegion, hours: i64, code: &str) -> Value {
    let at = region.clock.now() + time::Duration::hours(hours);
    let at = at.format(&time::format_description::well_known::Rfc3339).unwrap();
    wish_with(json!({"scheduled_at": at, "promotion_code": code}))
}

async fn cancel(rider: &TestUser, ride: &Value) {
    rider.post(&format!("{RIDES}/{}/cancel", ride["id"].as_str().unwrap()), json!({})).await.ok(200);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_code_makes_estimate_and_ride_cheaper_by_what_the_estimate_says(pool: PgPool) {
    let region = region(pool).await;
    let rider = region.rider().await;
    let full = rider.post(ESTIMATE, wish_with(json!({}))).await.ok(200);
    assert_eq!(full.get("discount"), None);
    let cheap = rider.post(ESTIMATE, wish_with(json!({"promotion_code": "welcome"}))).await.ok(200);
    assert_eq!(cheap["discount"], json!({"amount": 300, "currency": "USD"}));
    assert_eq!(cheap["fare"]["amount"], full["fare"]["amount"].as_i64().unwrap() - 300);
    // The promise holds although the promotion ends meanwhile.
    let path = format!("/v1/tenants/{}/config", region.tenant);
    let ended = json!({"promotions": {"WELCOME": {"valid_until": "2020-01-01T00:00:00Z"}}});
    region.admin().await.call(axum::http::Method::PATCH, &path, Some(ended), &[]).await.ok(200);
    let wish = wish_with(json!({"quote_id": cheap["quote_id"]}));
    let ride = rider.post(RIDES, wish.clone()).await.ok(201);
    assert_eq!(ride["fare"], cheap["fare"]);
    // Also to a rider who says the code again; another code is not what was promised.
    cancel(&rider, &ride).await;
    let with_code = |code: &str| {
        let mut wish = wish.clone();
        wish["promotion_code"] = json!(code);
        wish
    };
    for other in ["THREE", "OVER", "NOPE"] {
        assert_eq!(rider.post(RIDES, with_code(other)).await.problem(422).fields, ["quote_id"], "{other}");
    }
    let ride = rider.post(RIDES, with_code(" welcome")).await.ok(201);
    assert_eq!(ride["fare"], cheap["fare"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_code_that_does_not_hold_is_named_and_no_ride_is_made(pool: PgPool) {
    let region = region(pool).await;
    let rider = region.rider().await;
    for code in ["NOPE", "OVER", ""] {
        for path in [ESTIMATE, RIDES] {
            let refused = rider.post(path, wish_with(json!({"promotion_code": code}))).await.problem(422);
            assert_eq!(refused.fields, ["promotion_code"], "{code}");
        }
    }
    let plain = rider.post(ESTIMATE, wish_with(json!({}))).await.ok(200);
    let other = wish_with(json!({"quote_id": plain["quote_id"], "promotion_code": "WELCOME"}));
    assert_eq!(rider.post(RIDES, other).await.problem(422).fields, ["quote_id"]);
    assert_eq!(rider.get(RIDES).await.ok(200)["items"], json!([]));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rider_uses_a_code_so_often_and_again_once_a_ride_was_cancelled(pool: PgPool) {
    let region = region(pool).await;
    let rider = region.rider().await;
    // All at once: the lock lets one of them through.
    let all = (1..=4).map(|hours| rider.post(RIDES, booked(&region, hours, "WELCOME")));
    let answers = futures::future::join_all(all).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 1);
    for answer in refused {
        assert_eq!(answer.problem(422).fields, ["promotion_code"]);
    }
    assert_eq!(
        rider.post(ESTIMATE, booked(&region, 5, "WELCOME")).await.problem(422).fields,
        ["promotion_code"],
        "the estimate says so before"
    );
    region.rider().await.post(RIDES, booked(&region, 1, "WELCOME")).await.ok(201);
    cancel(&rider, &made[0].json()).await;
    rider.post(RIDES, booked(&region, 5, "WELCOME")).await.ok(201);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn all_riders_together_use_a_limited_code_so_often(pool: PgPool) {
    let region = region(pool).await;
    let riders = futures::future::join_all((0..8).map(|_| region.rider())).await;
    let all = riders.iter().map(|rider| rider.post(RIDES, wish_with(json!({"promotion_code": "THREE"}))));
    let answers = futures::future::join_all(all).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 3);
    let (used, unused): (Vec<_>, Vec<_>) =
        answers.into_iter().zip(&riders).partition(|(answer, _)| answer.status == 201);
    cancel(used[0].1, &used[0].0.json()).await;
    unused[0].1.post(RIDES, wish_with(json!({"promotion_code": "THREE"}))).await.ok(201);
}
