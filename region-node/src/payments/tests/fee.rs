use shared::money::{Currency, Money};

use super::*;
use crate::{payments::charge_cancellation_fee, rides};

async fn owe(scene: &Scene, method: Value) -> PaymentId {
    let trip = scene.trip_that_is("cancelled", 0).await;
    let mut tx = scene.tx().await;
    sqlx::query("UPDATE rides SET payment_method = $1").bind(method).execute(tx.conn()).await.unwrap();
    let ride = trips::load(&mut tx, trip).await.unwrap().unwrap().ride_id;
    let ride = rides::load(&mut tx, ride).await.unwrap().unwrap();
    let fee = Money::new(500, Currency::USD);
    charge_cancellation_fee(&scene.region.app, &mut tx, &ride, fee).await.unwrap();
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
    for (method, code) in [
        (json!({"type": "cash"}), "no_payment_method"),
        (json!({"type": "card", "token": "tok_gold"}), "unusable_token"),
    ] {
        let payment = scene.payment(owe(&scene, method).await).await;
        assert_eq!((&payment["status"], &payment["failure_code"]), (&json!("failed"), &json!(code)));
    }
    assert_eq!(scene.later().await, 0);
}
