use super::*;

/// Takes 300 off a scene's trip, as its end does with a quote that promises so.
async fn promoted(scene: &Scene, trip: TripId) {
    let mut conn = scene.conn().await;
    sqlx::query(
        r#"UPDATE trips SET fare_amount = 800, fare = jsonb_set(fare, '{total,amount}', '800') || jsonb_build_object('lines',
               fare -> 'lines' || '[{"code": "promotion", "description": "Promotion WELCOME",
                                     "amount": {"amount": -300, "currency": "USD"}}]')
           WHERE id = $1"#,
    )
    .bind(trip.0)
    .execute(&mut *conn)
    .await
    .unwrap();
}

async fn on(scene: &Scene, account: &str) -> i64 {
    let sql = "SELECT coalesce(sum(amount), 0)::bigint FROM ledger_postings WHERE account LIKE $1";
    sqlx::query_scalar(sql).bind(account).fetch_one(&mut *scene.conn().await).await.unwrap()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_tenant_pays_for_its_promotion_and_has_its_part_back_with_refunds(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    promoted(&scene, trip).await;
    let payment = scene.pay(trip, "tok_visa").await.ok(201);
    assert_eq!((&payment["status"], &payment["amount"]["amount"]), (&json!("settled"), &json!(800)));
    // Tax and commission of the whole fare, and the driver's share of it.
    let accounts = ["psp:%", "driver:%", "tenant:revenue", "tenant:tax", "tenant:promotions"];
    let balances = async || {
        let mut balances = Vec::new();
        for account in accounts {
            balances.push(on(&scene, account).await);
        }
        balances
    };
    assert_eq!(balances().await, [-800, 800, 200, 100, -300]);
    let path = format!("/v1/payments/{}/refunds", id_of(&payment));
    scene.admin.post(&path, json!({"amount": 400, "reason": "late"})).await.ok(201);
    assert_eq!(balances().await, [-400, 400, 100, 50, -150]);
    scene.admin.post(&path, json!({"reason": "and the rest"})).await.ok(201);
    assert_eq!(balances().await, [0, 0, 0, 0, 0]);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_promotion_of_a_cash_trip_is_owed_to_its_driver(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.cash_trip().await;
    promoted(&scene, trip).await;
    scene.rider.post("/v1/payments", json!({"trip_id": trip, "method": {"type": "cash"}})).await.ok(201);
    // He has taken 800 and earned 800.
    assert_eq!((on(&scene, "driver:%").await, on(&scene, "tenant:promotions").await), (0, -300));
}
