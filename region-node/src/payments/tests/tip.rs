use super::*;

fn path(trip: TripId) -> String {
    format!("/v1/trips/{trip}/tip")
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tip_is_a_payment_of_its_own_and_all_the_driver_s(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    // Before the fare is paid, with the card the ride was asked for with.
    let tip = scene.rider.post(&path(trip), json!({"amount": 250})).await.ok(201);
    assert_eq!(
        (&tip["kind"], &tip["status"], &tip["amount"]["amount"]),
        (&json!("tip"), &json!("settled"), &json!(250))
    );
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations WHERE token = 'tok_amex'").await, 1);
    let driver = "SELECT coalesce(sum(amount), 0)::bigint FROM ledger_postings WHERE account LIKE 'driver:%'";
    assert_eq!(scene.number(driver).await, 250);
    assert_eq!(scene.rider.get(&format!("/v1/trips/{trip}")).await.ok(200).get("payment_id"), None);

    let fare = scene.pay(trip, "tok_visa").await.ok(201);
    assert_eq!((&fare["kind"], &fare["status"]), (&json!("fare"), &json!("settled")));
    assert_eq!(scene.number(driver).await, 250 + 800);
    assert_eq!(scene.rider.get(&format!("/v1/trips/{trip}")).await.ok(200)["payment_id"], fare["id"]);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trip_is_tipped_once_however_many_try_and_anew_after_a_declined_card(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let declined = json!({"amount": 100, "method": {"type": "card", "token": "tok_declined"}});
    assert_eq!(scene.rider.post(&path(trip), declined).await.ok(201)["status"], "failed");
    let path = path(trip);
    let all = (0..10).map(|_| scene.rider.post(&path, json!({"amount": {"amount": 100, "currency": "USD"}})));
    let (tipped, refused): (Vec<_>, Vec<_>) =
        futures::future::join_all(all).await.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(tipped.len(), 1);
    for answer in refused {
        assert_eq!(answer.problem(409).code, "already_tipped");
    }
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_same_key_tips_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let path = path(scene.trip().await);
    let first = scene.rider.post_keyed(&path, "t", json!({"amount": 100})).await.ok(201);
    let again = scene.rider.post_keyed(&path, "t", json!({"amount": 100})).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(201), first);
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 1);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_rider_alone_tips_a_completed_trip_and_not_in_cash(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (trip, cancelled) = (scene.trip().await, scene.trip_that_is("cancelled", FARE).await);
    let tip = json!({"amount": 100});
    for user in [&scene.driver, &scene.admin] {
        assert_eq!(user.post(&path(trip), tip.clone()).await.problem(403).code, "forbidden");
    }
    let stranger = scene.region.rider().await;
    assert_eq!(stranger.post(&path(trip), tip.clone()).await.problem(404).code, "not_found");
    assert_eq!(scene.rider.post(&path(cancelled), tip).await.problem(409).code, "invalid_transition");
    for (body, field) in [
        (json!({"amount": 0}), "amount"),
        (json!({"amount": 100_000_001}), "amount"),
        (json!({"amount": {"amount": 5, "currency": "EUR"}}), "amount.currency"),
        (json!({"amount": 5, "method": "cash"}), "method.type"),
    ] {
        assert_eq!(scene.rider.post(&path(trip), body.clone()).await.problem(422).fields, [field], "{body}");
    }
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
}
