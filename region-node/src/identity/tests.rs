//! Sign-in, registration, refresh and erasure over the router, on a real database.

use axum::http::Method;
use serde_json::json;
use sqlx::PgPool;
use time::Duration;

use crate::testing::{TestProblem, TestRegion};

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
    let refresh = |token: &serde_json::Value| json!({"grant_type": "refresh_token", "refresh_token": token});
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

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn erasure_empties_the_account_and_another_rider_cannot_ask_for_it(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (rider, other) = (region.rider().await, region.rider().await);
    let path = format!("/v1/riders/{}", rider.id);
    assert_eq!(code(other.call(Method::DELETE, &path, None, &[]).await.problem(404)), "not_found");
    rider.call(Method::DELETE, &path, None, &[]).await.ok(202);
    let mut tx = region.app.db.system().await.unwrap();
    let row =
        sqlx::query!("SELECT sealed_name, sealed_phone, phone_hash, password_hash FROM riders WHERE id = $1", rider.id)
            .fetch_one(tx.conn())
            .await
            .unwrap();
    assert!(row.sealed_name.is_none() && row.sealed_phone.is_none());
    assert!(row.phone_hash.is_none() && row.password_hash.is_none());
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn names_and_phones_are_not_readable_in_the_database(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let account = json!({"name": "Zebulon Quill", "phone": "+15550123", "password": "correct horse"});
    region.nobody().post("/v1/riders", account).await.ok(201);
    let mut tx = region.app.db.system().await.unwrap();
    let row = sqlx::query_scalar!(r#"SELECT riders::text AS "row!" FROM riders"#).fetch_one(tx.conn()).await.unwrap();
    for plain in ["Zebulon", "15550123"] {
        assert!(!row.contains(plain) && !row.contains(&hex::encode(plain)), "{row}");
    }
}
