use shared::{
    money::{Currency, Money},
    tenant_config::PspAccount,
};

use super::*;
use crate::{payments::charge_cancellation_fee, rides};

pub(super) async fn owe(scene: &Scene, method: Value) -> PaymentId {
    owe_at(scene, &scene.region, method).await
}

/// The same where `node` is the one that takes the cancellation.
async fn owe_at(scene: &Scene, node: &TestRegion, method: Value) -> PaymentId {
    let trip = scene.trip_that_is("cancelled", 0).await;
    let mut tx = scene.tx().await;
    sqlx::query(
        "UPDATE rides SET status = 'cancelled', cancellation_fee = 500, payment_method = $1 WHERE trip_id = $2",
    )
    .bind(method)
    .bind(trip.0)
    .execute(tx.conn())
    .await
    .unwrap();
    let ride = trips::load(&mut tx, trip).await.unwrap().unwrap().ride_id;
    let ride = rides::load(&mut tx, ride).await.unwrap().unwrap();
    let fee = Money::new(500, Currency::USD);
    charge_cancellation_fee(&node.app, &mut tx, &PspAccount::default(), &ride, fee).await.unwrap();
    tx.commit().await.unwrap();
    let mut conn = scene.conn().await;
    let id: Uuid =
        sqlx::query_scalar("SELECT id FROM payments ORDER BY id DESC LIMIT 1").fetch_one(&mut *conn).await.unwrap();
    id.into()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_cancellation_fee_is_charged_by_whichever_node_comes_first_and_is_the_driver_s(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = owe(&scene, json!({"type": "card", "token": "tok_visa"})).await;
    assert_eq!(scene.payment(id).await["status"], "pending");
    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 1);
    let payment = scene.payment(id).await;
    assert_eq!((&payment["status"], &payment["kind"]), (&json!("settled"), &json!("cancellation_fee")));
    let driver = "SELECT sum(amount)::bigint FROM ledger_postings WHERE account LIKE 'driver:%'";
    assert_eq!(scene.number(driver).await, 500);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_fee_nobody_can_charge_fails_in_the_open(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let unusable = "what the ride was to be paid with cannot be charged: the sandbox knows no token 'tok_gold'; try tok_visa; name \
                    another card or wallet";
    for (method, code, why) in [
        (json!({"type": "cash"}), "no_payment_method", "it was to be paid in cash"),
        (json!({"type": "card", "token": "tok_gold"}), "unusable_token", unusable),
    ] {
        let payment = scene.payment(owe(&scene, method).await).await;
        assert_eq!((&payment["status"], &payment["failure_code"]), (&json!("failed"), &json!(code)));
        assert_eq!(payment["failure_reason"], why);
    }
    assert_eq!(scene.later().await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_fee_through_an_account_that_cannot_be_used_fails_in_the_open_and_credits_nobody(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let strict = scene.region.another_node_with("[psp.sandbox]\nenabled = false").await;
    let fee = owe_at(&scene, &strict, json!({"type": "card", "token": "tok_visa"})).await;
    let payment = scene.payment(fee).await;
    assert_eq!((&payment["status"], &payment["failure_code"]), (&json!("failed"), &json!("unusable_account")));
    assert_eq!(payment["failure_reason"], "the company's account there cannot be used yet");
    assert_eq!(scene.later().await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM ledger_postings").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_fee_that_could_not_be_charged_is_paid_by_another_card_and_is_the_driver_s(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let failed = scene.payment(owe(&scene, json!({"type": "cash"})).await).await;
    let trip: TripId = failed["trip_id"].as_str().unwrap().parse().unwrap();
    let cash = scene.rider.post("/v1/payments", json!({"trip_id": trip, "method": {"type": "cash"}})).await;
    assert_eq!(cash.problem(422).fields, ["method.type"], "nobody was there to take it");
    let paid = scene.pay(trip, "tok_visa").await.ok(201);
    assert_eq!((&paid["status"], &paid["kind"]), (&json!("settled"), &json!("cancellation_fee")));
    assert_eq!(paid["amount"], json!({"amount": 500, "currency": "USD"}));
    assert_eq!(scene.pay(trip, "tok_visa").await.problem(409).code, "already_paid");
    let driver = "SELECT sum(amount)::bigint FROM ledger_postings WHERE account LIKE 'driver:%'";
    assert_eq!(scene.number(driver).await, 500);
    let fees = "SELECT count(*) FROM ledger_entries WHERE kind = 'cancellation_fee'";
    assert_eq!(scene.number(fees).await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_fee_under_way_is_not_paid_a_second_time(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let begun = scene.payment(owe(&scene, json!({"type": "card", "token": "tok_visa"})).await).await;
    let trip: TripId = begun["trip_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(scene.pay(trip, "tok_amex").await.problem(409).code, "already_paid");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0);
}
