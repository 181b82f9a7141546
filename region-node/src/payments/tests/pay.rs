use super::*;

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_completed_trip_is_paid_and_settled(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let payment = scene.pay(trip, "tok_visa").await.ok(201);
    insta::assert_json_snapshot!(payment, {
        ".id" => "[id]", ".trip_id" => "[id]", ".ride_id" => "[id]", ".created_at" => "[time]", ".settled_at" => "[time]",
    }, @r#"
    {
      "amount": {
        "amount": 1100,
        "currency": "USD"
      },
      "created_at": "[time]",
      "id": "[id]",
      "kind": "fare",
      "method": {
        "type": "card"
      },
      "provider": "sandbox",
      "refunded": {
        "amount": 0,
        "currency": "USD"
      },
      "remote_durable_at": null,
      "ride_id": "[id]",
      "settled_at": "[time]",
      "status": "settled",
      "trip_id": "[id]"
    }
    "#);
    assert_eq!(scene.payment(id_of(&payment)).await, payment);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn only_the_trip_s_parties_may_pay_or_look(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    scene.region.new_tenant("other-cabs", json!({})).await;
    let stranger = scene.region.rider().await;
    let foreigner = scene.region.rider_of("other-cabs").await;
    for user in [&stranger, &foreigner] {
        assert_eq!(user.post("/v1/payments", card(trip, "tok_visa")).await.problem(404).code, "not_found");
    }
    assert_eq!(scene.driver.post("/v1/payments", card(trip, "tok_visa")).await.problem(403).code, "forbidden");
    let nobody = scene.region.nobody().post("/v1/payments", card(trip, "tok_visa")).await;
    assert_eq!(nobody.problem(401).code, "unauthenticated");
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);

    let paid = scene.admin.post("/v1/payments", card(trip, "tok_visa")).await.ok(201);
    let path = format!("/v1/payments/{}", id_of(&paid));
    for user in [&scene.rider, &scene.driver, &scene.admin] {
        assert_eq!(user.get(&path).await.ok(200), paid);
        user.get(&format!("{path}/refunds")).await.ok(200);
    }
    for user in [&stranger, &foreigner] {
        assert_eq!(user.get(&path).await.problem(404).code, "not_found");
        assert_eq!(user.get(&format!("{path}/refunds")).await.problem(404).code, "not_found");
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn fifty_at_once_make_one_charge(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let all = (0..50).map(|_| scene.pay(trip, "tok_visa"));
    let answers = futures::future::join_all(all).await;
    let (paid, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(paid.len(), 1);
    for answer in refused {
        assert_eq!(answer.problem(409).code, "already_paid");
    }
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn fifty_copies_of_one_request_are_one_payment(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let all = (0..50).map(|_| scene.rider.post_keyed("/v1/payments", "k", card(trip, "tok_visa")));
    let answers = futures::future::join_all(all).await;
    let first = scene.rider.post_keyed("/v1/payments", "k", card(trip, "tok_visa")).await;
    assert_eq!(first.headers["idempotency-replayed"], "true");
    let first = first.ok(201);
    for answer in answers {
        match answer.status {
            201 => assert_eq!(answer.json(), first),
            _ => assert_eq!(answer.problem(409).code, "idempotency_in_progress"),
        }
    }
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_repeat_is_answered_as_the_first_and_another_key_is_refused(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (trip, other) = (scene.trip().await, scene.trip().await);
    let first = scene.rider.post_keyed("/v1/payments", "k", card(trip, "tok_visa")).await.ok(201);
    let again = scene.rider.post_keyed("/v1/payments", "k", card(trip, "tok_visa")).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(201), first);
    let reused = scene.rider.post_keyed("/v1/payments", "k", card(other, "tok_visa")).await;
    assert_eq!(reused.problem(422).code, "idempotency_key_reused");
    let other_key = scene.rider.post_keyed("/v1/payments", "k2", card(trip, "tok_visa")).await;
    assert_eq!(other_key.problem(409).code, "already_paid");
    let other_caller = scene.admin.post_keyed("/v1/payments", "k", card(trip, "tok_visa")).await;
    assert_eq!(other_caller.problem(409).code, "already_paid");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_declined_card_leaves_a_failed_payment_and_the_trip_can_be_paid_anew(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    for (token, code) in [("tok_declined", "card_declined"), ("tok_insufficient_funds", "insufficient_funds")] {
        let payment = scene.pay(trip, token).await.ok(201);
        assert_eq!((&payment["status"], &payment["failure_code"]), (&json!("failed"), &json!(code)));
    }
    assert_eq!(scene.pay(trip, "tok_visa").await.ok(201)["status"], "settled");
    assert_eq!(scene.pay(trip, "tok_visa").await.problem(409).code, "already_paid");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn bad_input_is_named_and_writes_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let unknown = scene.pay(trip, "tok_gold").await.problem(422);
    assert_eq!((unknown.code.as_str(), unknown.fields), ("validation_failed", vec!["method.token".to_owned()]));
    for body in [
        json!({}),
        json!({"trip_id": trip}),
        json!({"trip_id": "x", "method": {"type": "cash"}}),
        json!({"trip_id": trip, "method": {"type": "gold"}}),
    ] {
        assert_eq!(scene.rider.post("/v1/payments", body).await.problem(422).code, "validation_failed");
    }
    assert_eq!(scene.pay(TripId::new(), "tok_visa").await.problem(404).code, "not_found");
    for status in ["accepted", "in_progress", "cancelled"] {
        let trip = scene.trip_that_is(status, FARE).await;
        assert_eq!(scene.pay(trip, "tok_visa").await.problem(409).code, "invalid_transition", "{status}");
        let mut tx = scene.tx().await;
        sqlx::query("UPDATE trips SET status = 'cancelled' WHERE id = $1")
            .bind(trip.0)
            .execute(tx.conn())
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn payments_switched_off_are_refused(pool: PgPool) {
    let scene = Scene::with_config(pool, json!({"flags": {"payments": false}})).await;
    let trip = scene.trip().await;
    assert_eq!(scene.pay(trip, "tok_visa").await.problem(403).code, "feature_disabled");
    let begun = scene.intent(trip, "tok_visa", None).await;
    scene.later().await;
    assert_eq!(scene.payment(begun.id).await["status"], "pending", "what was begun waits, uncharged");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_repeat_that_takes_a_payment_over_charges_nothing_while_payments_are_off(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let asked_by = asked_by(&scene.rider, "/v1/payments", "k", &card(trip, "tok_visa"));
    let begun = scene.intent(trip, "tok_visa", Some(asked_by)).await;
    scene.set_payments(false).await;
    scene.region.clock.advance(time::Duration::minutes(1));
    let again = scene.rider.post_keyed("/v1/payments", "k", card(trip, "tok_visa")).await;
    assert_eq!(again.problem(403).code, "feature_disabled");
    assert_eq!(scene.payment(begun.id).await["status"], "pending");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0);
    scene.set_payments(true).await;
    scene.later().await;
    assert_eq!(scene.payment(begun.id).await["status"], "settled");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn cash_needs_no_psp_and_leaves_the_driver_owing_commission_and_tax(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let body = json!({"trip_id": scene.cash_trip().await, "method": {"type": "cash"}});
    let payment = scene.rider.post("/v1/payments", body).await.ok(201);
    assert_eq!((&payment["status"], &payment["provider"]), (&json!("settled"), &json!("cash")));
    let driver = "SELECT sum(amount)::bigint FROM ledger_postings WHERE account LIKE 'driver:%'";
    assert_eq!(scene.number(driver).await, -300);
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_commission_is_the_quoted_tariff_s_and_takes_nothing_of_tax_or_tolls(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let usd = |amount: i64| json!({"amount": amount, "currency": "USD"});
    let line = |code: &str, amount: i64| json!({"code": code, "description": code, "amount": usd(amount)});
    let fare = json!({"total": usd(FARE), "lines": [line("flat", 600), line("toll", 300), line("declared_tolls", 200)],
        "tariff_version": 1, "surge_multiplier": 1.0, "quoted": true, "included_tax": usd(TAX)});
    let mut tx = scene.tx().await;
    let update = sqlx::query("UPDATE trips SET fare = $2 WHERE id = $1").bind(trip.0).bind(fare);
    update.execute(tx.conn()).await.unwrap();
    sqlx::query("UPDATE rides SET quote = jsonb_set(quote, '{tariff,commission_percent}', '10') WHERE trip_id = $1")
        .bind(trip.0)
        .execute(tx.conn())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    scene.pay(trip, "tok_visa").await.ok(201);
    let on = async |account| {
        let sum = "SELECT coalesce(sum(amount), 0)::bigint FROM ledger_postings WHERE account LIKE $1";
        sqlx::query_scalar::<_, i64>(sum).bind(account).fetch_one(&mut *scene.conn().await).await.unwrap()
    };
    // 600 with a tax of 100: a tenth of 500.
    let shares = (on("tenant:tax").await, on("tenant:revenue").await, on("driver:%").await);
    assert_eq!(shares, (100, 50, 450 + 500));
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rider_s_word_makes_no_card_ride_a_cash_ride_but_the_back_office_s_does(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let body = json!({"trip_id": scene.trip().await, "method": {"type": "cash"}});
    let refused = scene.rider.post("/v1/payments", body.clone()).await.problem(422);
    assert_eq!((refused.code.as_str(), refused.fields), ("validation_failed", vec!["method.type".to_owned()]));
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
    assert_eq!(scene.admin.post("/v1/payments", body).await.ok(201)["status"], "settled");
    // The other way round it is the rider's choice.
    assert_eq!(scene.pay(scene.cash_trip().await, "tok_visa").await.ok(201)["status"], "settled");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_trip_the_ledger_holds_as_settled_is_paid_although_its_payment_is_gone(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (trip, lost) = (scene.trip().await, PaymentId::new());
    scene.replicated(Entry::id_of_settlement(lost), lost, trip).await;
    assert_eq!(scene.pay(trip, "tok_visa").await.problem(409).code, "already_paid");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_payment_is_read_even_if_the_ledger_holds_two_settlements_of_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    for _ in 0..2 {
        scene.replicated(FactId::new(), id, TripId::new()).await;
    }
    assert_eq!(scene.payment(id).await["status"], "settled");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn without_a_token_the_ride_s_own_card_is_charged_and_nothing_costs_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let body = |trip: TripId| json!({"trip_id": trip, "method": {"type": "card"}});
    scene.rider.post("/v1/payments", body(scene.trip().await)).await.ok(201);
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations WHERE token = 'tok_amex'").await, 1);
    let free = scene.trip_that_is("completed", 0).await;
    let payment = scene.rider.post("/v1/payments", body(free)).await.ok(201);
    assert_eq!(payment["status"], "settled");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_payment_shows_when_another_region_has_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let mut conn = scene.conn().await;
    sqlx::query(
        "INSERT INTO ledger_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
             origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash)
         SELECT gen_random_uuid(), p.id, p.trip_id, p.tenant_id, 'settlement', p.amount, p.currency, 'us-east', 1, 4, 1, 0,
             p.settled_at, decode(repeat('00', 32), 'hex')
         FROM payments p",
    )
    .execute(&mut *conn)
    .await
    .unwrap();
    // Another region said that it has stored three entries, then five, then seven.
    for seq in [3, 5, 7] {
        let acknowledged =
            "INSERT INTO repl_remote_durable SELECT 'us-east', 1, $1, p.settled_at + make_interval(secs => $1 - 5)
                            FROM payments p";
        assert!(scene.payment(id).await["remote_durable_at"].is_null() == (seq <= 5), "{seq}");
        sqlx::query(acknowledged).bind(seq).execute(&mut *conn).await.unwrap();
    }
    let payment = scene.payment(id).await;
    assert_eq!(payment["remote_durable_at"], payment["settled_at"], "since the first of them that holds it");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_saved_payment_method_that_cannot_be_used_says_why_and_another_pays(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let mut tx = scene.tx().await;
    let saved = json!({"type": "card", "token": "tok_gold"});
    sqlx::query("UPDATE rides SET payment_method = $1").bind(saved).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    let message = |answer: &TestAnswer| answer.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    let refused = scene.rider.post("/v1/payments", json!({"trip_id": trip, "method": "card"})).await;
    let why = message(&refused);
    assert!(
        why.starts_with("what the ride was to be paid with cannot be charged: ") && why.contains("tok_gold"),
        "{why}"
    );
    assert_eq!(refused.problem(422).fields, ["method.token"]);
    let named = scene.pay(trip, "tok_silver").await;
    assert!(!message(&named).contains("the ride was to be paid with"), "it was named just now");
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
    assert_eq!(scene.pay(trip, "tok_visa").await.ok(201)["status"], "settled");
}
