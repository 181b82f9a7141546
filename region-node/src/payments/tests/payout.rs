use time::Duration;

use super::*;
use crate::payments::{forgotten, payout};

/// What a trip paid by card leaves the driver, and one paid in cash takes from him.
const EARNED: i64 = 800;
const OWED: i64 = 300;

impl Scene {
    async fn paid_in_cash(&self) {
        let trip = self.cash_trip().await;
        self.rider.post("/v1/payments", json!({"trip_id": trip, "method": {"type": "cash"}})).await.ok(201);
    }

    fn payouts_of_driver(&self) -> String {
        format!("/v1/drivers/{}/payouts", self.driver.id)
    }

    /// The driver's balance, what of it is held, and what he can be paid.
    async fn balance(&self) -> [i64; 3] {
        let answer = self.driver.get(&format!("/v1/drivers/{}/balance", self.driver.id)).await.ok(200);
        match answer["balances"].as_array().unwrap().as_slice() {
            [] => [0; 3],
            [one] => ["balance", "held", "payable"].map(|name| one[name]["amount"].as_i64().unwrap()),
            more => panic!("{more:?}"),
        }
    }

    async fn has_a_peer(&self) {
        let peer = "INSERT INTO regions (name, base_url, quic_addr) VALUES ('eu-west', 'http://127.0.0.1:2', '')";
        sqlx::query(peer).execute(&mut *self.conn().await).await.unwrap();
    }

    /// Takes the database back to before any payout, as an old backup does.
    async fn forgets_payouts(&self) {
        let sql = "
            DELETE FROM ledger_postings p USING ledger_entries e WHERE e.id = p.entry_id AND e.kind = 'payout';
            DELETE FROM ledger_entries WHERE kind = 'payout';
            DELETE FROM payouts;
            DELETE FROM repl_outbox WHERE kind = 'payout'";
        self.forgets(sql).await;
    }

    /// What replication says of this region, as SQL.
    pub(super) async fn replication(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut *self.conn().await).await.unwrap();
    }

    /// Another region says that it has stored a payment's settlement.
    async fn becomes_durable(&self, payment: PaymentId) {
        let acknowledged = sqlx::query(
            "INSERT INTO repl_remote_durable (origin_region, origin_incarnation, seq)
             SELECT origin_region, origin_incarnation, origin_seq FROM ledger_facts WHERE payment_id = $1",
        );
        acknowledged.bind(payment.0).execute(&mut *self.conn().await).await.unwrap();
    }
}

fn hold_until_durable() -> Value {
    json!({"payouts": {"hold_until_durable": true}})
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_balance_is_what_cards_earned_less_what_cash_owes_and_the_driver_s_own_to_see(pool: PgPool) {
    let scene = Scene::new(pool).await;
    assert_eq!(scene.balance().await, [0; 3]);
    scene.paid_in_cash().await;
    assert_eq!(scene.balance().await, [-OWED, 0, 0]);
    scene.paid("tok_visa").await;
    assert_eq!(scene.balance().await, [EARNED - OWED, 0, EARNED - OWED]);

    let path = format!("/v1/drivers/{}/balance", scene.driver.id);
    let seen = scene.driver.get(&path).await.ok(200);
    assert_eq!(scene.admin.get(&path).await.ok(200), seen);
    assert_eq!(scene.region.driver().await.get(&path).await.problem(404).code, "not_found");
    assert_eq!(scene.rider.get(&path).await.problem(403).code, "forbidden");
    let unknown = format!("/v1/drivers/{}/balance", Uuid::now_v7());
    assert_eq!(scene.admin.get(&unknown).await.problem(404).code, "not_found");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tenant_s_balances_come_to_zero_with_its_drivers_and_payment_services(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    scene.admin.post(&scene.payouts_of_driver(), json!({"amount": 200})).await.ok(201);
    let debtor = Scene { driver: scene.region.driver().await, ..scene };
    debtor.paid_in_cash().await;
    let balances = debtor.admin.get("/v1/balances").await.ok(200);
    let usd = |amount: i64| json!({"amount": amount, "currency": "USD"});
    let account = |name: &str, amount| json!({"account": name, "balance": usd(amount)});
    let expected = json!({
        "accounts": [
            account("psp:sandbox", -FARE),
            account("tenant:payouts", 200),
            account("tenant:revenue", 2 * 200),
            account("tenant:tax", 2 * TAX),
        ],
        "drivers": [{"coming": usd(EARNED - 200), "owed": usd(OWED)}],
        "riders": [],
    });
    assert_eq!(balances, expected);
    let of_drivers = debtor.admin.get("/v1/balances/drivers?limit=1").await.ok(200);
    assert_eq!(of_drivers["items"][0]["balances"][0]["balance"], usd(EARNED - 200));
    let next = format!("/v1/balances/drivers?limit=1&cursor={}", of_drivers["next_cursor"].as_str().unwrap());
    let of_drivers = debtor.admin.get(&next).await.ok(200);
    assert_eq!(of_drivers["items"][0]["driver_id"], json!(debtor.driver.id));
    assert_eq!(of_drivers["next_cursor"], Value::Null);
    for path in ["/v1/balances", "/v1/balances/drivers"] {
        for user in [&debtor.rider, &debtor.driver] {
            assert_eq!(user.get(path).await.problem(403).code, "forbidden");
        }
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_payout_pays_what_is_left_after_cash_trips_and_is_in_the_ledger(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let path = scene.payouts_of_driver();
    scene.paid_in_cash().await;
    assert_eq!(scene.admin.post(&path, json!({})).await.problem(409).code, "nothing_to_pay_out");
    scene.paid("tok_visa").await;
    let part = scene.admin.post(&path, json!({"amount": {"amount": 100, "currency": "USD"}})).await.ok(201);
    assert_eq!((&part["amount"]["amount"], &part["driver_id"]), (&json!(100), &json!(scene.driver.id)));
    assert!(part["made_by"].as_str().unwrap().starts_with("tenant_admin:"));
    let rest = scene.admin.post(&path, json!({})).await.ok(201);
    assert_eq!(rest["amount"]["amount"], EARNED - OWED - 100);
    assert_eq!(scene.balance().await, [0; 3]);
    assert_eq!(
        scene.number("SELECT sum(amount)::bigint FROM ledger_postings WHERE account = 'tenant:payouts'").await,
        500
    );
    let booked = "SELECT count(*) FROM ledger_entries e JOIN payouts p ON p.id = e.payout_id WHERE e.kind = 'payout'";
    assert_eq!(scene.number(booked).await, 2);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_payout_that_cannot_be_made_says_why_and_leaves_no_trace(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    let path = scene.payouts_of_driver();
    let too_much = scene.admin.post(&path, json!({"amount": EARNED + 1})).await;
    assert_eq!(too_much.problem(422).code, "amount_exceeds_balance");
    for bad in [json!(0), json!(-5), json!("all"), json!({"amount": 5, "currency": "XXX"})] {
        scene.admin.post(&path, json!({"amount": bad})).await.problem(422);
    }
    let euros = json!({"amount": {"amount": 5, "currency": "EUR"}});
    assert_eq!(scene.admin.post(&path, euros).await.problem(409).code, "nothing_to_pay_out");
    let nobody = format!("/v1/drivers/{}/payouts", Uuid::now_v7());
    assert_eq!(scene.admin.post(&nobody, json!({})).await.problem(404).code, "not_found");
    for user in [&scene.driver, &scene.rider] {
        assert_eq!(user.post(&path, json!({})).await.problem(403).code, "forbidden");
    }
    let office = scene.region.new_tenant("other", json!({})).await;
    let stranger = scene.region.admin_of("other".parse().unwrap(), &office).await;
    assert_eq!(stranger.post(&path, json!({})).await.problem(404).code, "not_found");
    assert_eq!(scene.number("SELECT count(*) FROM payouts").await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM ledger_entries WHERE kind = 'payout'").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn payouts_asked_for_at_once_on_two_nodes_never_pass_the_balance(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    let node = scene.region.another_node().await;
    let elsewhere = node.visited_by(&scene.admin);
    let path = scene.payouts_of_driver();
    let ask = |admin: TestUser| {
        let path = path.clone();
        async move { admin.post(&path, json!({"amount": 300})).await }
    };
    let all = (0..16).map(|turn| ask(if turn % 2 == 0 { scene.admin.clone() } else { elsewhere.clone() }));
    let answers = futures::future::join_all(all).await;
    let (paid, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(paid.len(), 2);
    for answer in refused {
        assert_eq!(answer.problem(422).code, "amount_exceeds_balance");
    }
    assert_eq!(scene.balance().await, [200, 0, 200]);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_same_key_pays_out_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    let path = scene.payouts_of_driver();
    let first = scene.admin.post_keyed(&path, "p", json!({"amount": 100})).await.ok(201);
    let again = scene.admin.post_keyed(&path, "p", json!({"amount": 100})).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(201), first);
    assert_eq!(
        scene.admin.post_keyed(&path, "p", json!({"amount": 101})).await.problem(422).code,
        "idempotency_key_reused"
    );
    assert_eq!(scene.balance().await, [EARNED - 100, 0, EARNED - 100]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_driver_sees_his_payouts_alone_and_the_back_office_all(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    let path = scene.payouts_of_driver();
    let mut made = Vec::new();
    for _ in 0..3 {
        made.insert(0, scene.admin.post(&path, json!({"amount": 10})).await.ok(201)["payout_id"].clone());
    }
    let ids = |page: &Value| -> Vec<Value> {
        page["items"].as_array().unwrap().iter().map(|payout| payout["payout_id"].clone()).collect()
    };
    let first = scene.admin.get("/v1/payouts?limit=2").await.ok(200);
    assert_eq!(ids(&first), made[..2]);
    let rest = format!("/v1/payouts?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    assert_eq!(ids(&scene.admin.get(&rest).await.ok(200)), made[2..]);
    let own = scene.driver.get("/v1/payouts").await.ok(200);
    assert_eq!((ids(&own), own["items"][0].get("made_by")), (made.clone(), None));
    let of_driver = format!("/v1/payouts?driver={}", scene.driver.id);
    assert_eq!(ids(&scene.admin.get(&of_driver).await.ok(200)), made);

    let other = scene.region.driver().await;
    assert!(ids(&other.get("/v1/payouts").await.ok(200)).is_empty());
    assert_eq!(other.get(&of_driver).await.problem(404).code, "not_found");
    let one = format!("/v1/payouts/{}", made[0].as_str().unwrap());
    assert_eq!(scene.admin.get(&one).await.ok(200)["payout_id"], made[0]);
    assert_eq!(scene.driver.get(&one).await.ok(200)["payout_id"], made[0]);
    assert_eq!(other.get(&one).await.problem(404).code, "not_found");
    for path in ["/v1/payouts", one.as_str()] {
        assert_eq!(scene.rider.get(path).await.problem(403).code, "forbidden");
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn earnings_are_held_until_another_region_has_their_settlements(pool: PgPool) {
    let scene = Scene::with_config(pool, hold_until_durable()).await;
    scene.has_a_peer().await;
    let (first, second) = (scene.paid("tok_visa").await, scene.paid("tok_visa").await);
    // Not even numbered yet.
    assert_eq!(scene.balance().await, [2 * EARNED, 2 * EARNED, 0]);
    let path = scene.payouts_of_driver();
    assert_eq!(scene.admin.post(&path, json!({})).await.problem(409).code, "nothing_to_pay_out");
    for payment in [first, second] {
        scene.replicated(Entry::id_of_settlement(payment), payment, TripId::new()).await;
    }
    assert_eq!(scene.balance().await, [2 * EARNED, 2 * EARNED, 0]);
    scene.becomes_durable(first).await;
    assert_eq!(scene.balance().await, [2 * EARNED, EARNED, EARNED]);
    // What goes back of a payment that is held takes nothing from what is not.
    let refund = format!("/v1/payments/{second}/refunds");
    scene.admin.post(&refund, json!({"amount": FARE / 2, "reason": "a detour"})).await.ok(201);
    assert_eq!(scene.balance().await, [2 * EARNED - 400, EARNED - 400, EARNED]);
    let too_much = scene.admin.post(&path, json!({"amount": EARNED + 1})).await;
    assert_eq!(too_much.problem(422).code, "amount_exceeds_balance");
    assert_eq!(scene.admin.post(&path, json!({})).await.ok(201)["amount"]["amount"], EARNED);
    scene.becomes_durable(second).await;
    assert_eq!(scene.balance().await, [EARNED - 400, 0, EARNED - 400]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_is_earned_again_after_an_old_backup_was_restored_is_held_until_another_region_has_its_settlement(
    pool: PgPool,
) {
    let scene = Scene::with_config(pool, hold_until_durable()).await;
    scene.has_a_peer().await;
    scene.credited(600).await;
    let fee = fee::owe(&scene, json!({"type": "wallet"})).await;
    scene.later().await;
    scene.accounts_replicated().await;
    scene.replicated(Entry::id_of_settlement(fee), fee, TripId::new()).await;
    scene.forgets(wallet::FORGET).await;
    assert_eq!(scene.balance().await, [0; 3]);
    // The rest of its entry is booked anew, by an id of its own.
    scene.later().await;
    assert_eq!(scene.balance().await, [500, 500, 0]);
    scene.becomes_durable(fee).await;
    assert_eq!(scene.balance().await, [500, 0, 500]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_region_that_is_alone_or_left_by_its_last_peer_holds_nothing(pool: PgPool) {
    let scene = Scene::with_config(pool, hold_until_durable()).await;
    scene.paid("tok_visa").await;
    assert_eq!(scene.balance().await, [EARNED, 0, EARNED]);
    scene.has_a_peer().await;
    assert_eq!(scene.balance().await, [EARNED, EARNED, 0]);
    sqlx::query("UPDATE regions SET state = 'retired' WHERE name = 'eu-west'")
        .execute(&mut *scene.conn().await)
        .await
        .unwrap();
    assert_eq!(scene.balance().await, [EARNED, 0, EARNED]);
    scene.admin.post(&scene.payouts_of_driver(), json!({})).await.ok(201);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn daily_payouts_are_made_once_a_day_however_many_nodes_make_them(pool: PgPool) {
    let scene = Scene::with_settings(pool, r#"tokens = { access_ttl = "72h" }"#).await;
    let config = json!({"timezone": "Asia/Kolkata", "payouts": {"daily": true, "minimum": 500}});
    let path = format!("/v1/tenants/{}/config", scene.region.tenant);
    scene.admin.call(axum::http::Method::PATCH, &path, Some(config), &[]).await.ok(200);
    let nodes = [&scene.region.another_node().await, &scene.region.another_node().await, &scene.region];
    let run = async || -> u64 {
        let runs = nodes.map(|node| async { payout::run_due(&node.app).await.unwrap() });
        futures::future::join_all(runs).await.into_iter().sum()
    };
    assert_eq!(run().await, 0);
    scene.paid("tok_visa").await;
    assert_eq!(run().await, 0, "the day's are made");
    scene.region.clock.advance(Duration::DAY);
    assert_eq!(run().await, 1);
    assert_eq!(scene.balance().await, [0; 3]);
    let payouts = scene.admin.get("/v1/payouts").await.ok(200);
    let day = shared::local_time::local(scene.region.clock.now(), "Asia/Kolkata").date();
    let made = &payouts["items"][0];
    assert_eq!((&made["day"], &made["made_by"]), (&json!(day.to_string()), &json!("schedule")));
    // Less than is worth a payout waits for another day.
    scene.paid("tok_visa").await;
    scene.admin.post(&scene.payouts_of_driver(), json!({"amount": EARNED - 499})).await.ok(201);
    scene.region.clock.advance(Duration::DAY);
    assert_eq!(run().await, 0);
    assert_eq!(scene.balance().await, [499, 0, 499]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn daily_payouts_a_node_died_in_go_on_where_it_was_and_pay_nobody_twice(pool: PgPool) {
    let scene = Scene::with_config(pool, json!({"payouts": {"daily": true}})).await;
    scene.paid("tok_visa").await;
    assert_eq!(payout::run_due(&scene.region.app).await.unwrap(), 1);
    // As if the node had died after this payout and before it noted so; the driver has earned since.
    scene.paid("tok_visa").await;
    let undo = "UPDATE payout_runs SET finished_at = NULL, after_driver = NULL";
    sqlx::query(undo).execute(&mut *scene.conn().await).await.unwrap();
    assert_eq!(payout::run_due(&scene.region.app).await.unwrap(), 0, "it is held");
    assert_eq!(scene.number("SELECT count(*) FROM payout_runs WHERE finished_at IS NULL").await, 1);
    let let_go = "UPDATE payout_runs SET held_until = now() - interval '1 hour'";
    sqlx::query(let_go).execute(&mut *scene.conn().await).await.unwrap();
    assert_eq!(payout::run_due(&scene.region.app).await.unwrap(), 0, "he was paid for this day");
    assert_eq!(scene.number("SELECT count(*) FROM payout_runs WHERE finished_at IS NULL").await, 0);
    assert_eq!(scene.balance().await, [EARNED, 0, EARNED]);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_payout_is_a_fact_of_its_own_beside_what_riders_paid(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    let made = scene.admin.post(&scene.payouts_of_driver(), json!({"amount": 100})).await.ok(201);
    let told: String = sqlx::query_scalar("SELECT convert_from(body, 'UTF8') FROM repl_outbox WHERE kind = 'payout'")
        .fetch_one(&mut *scene.conn().await)
        .await
        .unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["payout_id"], &told["driver_id"]), (&made["payout_id"], &json!(scene.driver.id)));
    assert_eq!((&told["amount"], &told["currency"], &told["tenant"]), (&json!(100), &json!("USD"), &json!("cabs")));
    scene.accounts_replicated().await;
    assert_eq!(scene.admin.get("/v1/settlements").await.ok(200)["items"], json!([]), "none of what riders paid");
    assert_eq!(scene.admin.get("/v1/settlements/rollup").await.ok(200)["items"], json!([]));
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_region_taken_back_to_an_old_backup_has_its_payouts_back_and_pays_none_twice(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    let path = scene.payouts_of_driver();
    let made = scene.admin.post(&path, json!({"amount": 100})).await.ok(201);
    scene.accounts_replicated().await;
    scene.forgets_payouts().await;
    assert_eq!(scene.balance().await, [EARNED, 0, EARNED], "it has forgotten");
    let too_much = scene.admin.post(&path, json!({"amount": EARNED})).await;
    assert_eq!(too_much.problem(422).code, "amount_exceeds_balance");
    assert_eq!(scene.admin.post(&path, json!({})).await.ok(201)["amount"]["amount"], EARNED - 100);
    assert_eq!(scene.balance().await, [0; 3]);
    let booked = scene.admin.get(&format!("/v1/payouts/{}", made["payout_id"].as_str().unwrap())).await.ok(200);
    assert_eq!((&booked["amount"], &booked["created_at"]), (&made["amount"], &made["created_at"]));
    assert_eq!(booked["made_by"], "replication");
    assert_eq!(scene.admin.get("/v1/payouts").await.ok(200)["items"].as_array().unwrap().len(), 2);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn forgotten_payouts_are_booked_anew_once_by_whichever_node_looks(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    for _ in 0..3 {
        scene.admin.post(&scene.payouts_of_driver(), json!({"amount": 100})).await.ok(201);
    }
    scene.accounts_replicated().await;
    scene.forgets_payouts().await;
    let nodes = [&scene.region, &scene.region.another_node().await];
    let looks = nodes.map(|node| async { forgotten::run_due(&node.app, 0).await.unwrap() });
    let [newest, _] = futures::future::join_all(looks).await.try_into().unwrap();
    assert_eq!(scene.balance().await, [EARNED - 300, 0, EARNED - 300]);
    assert_eq!(scene.number("SELECT count(*) FROM payouts").await, 3);
    assert_eq!(forgotten::run_due(&scene.region.app, newest).await.unwrap(), newest);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn nobody_is_paid_while_other_regions_may_remember_payouts_that_are_forgotten_here(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    let path = scene.payouts_of_driver();
    let is_refused = async || {
        let answer = scene.admin.post(&path, json!({"amount": 10})).await;
        let is_refused = answer.status == 503;
        if is_refused {
            assert!(answer.headers.contains_key("retry-after"));
            assert_eq!(answer.problem(503).code, "unavailable");
        } else {
            answer.ok(201);
        }
        is_refused
    };
    const OWN_DATABASE: &str = "UPDATE repl_self SET database = repl_database()";
    scene
        .replication(
            "DELETE FROM repl_self; INSERT INTO repl_self (cluster_id, region, incarnation) VALUES ('test', 'us-east', 1)",
        )
        .await;
    assert!(is_refused().await, "the database may be a restored one");
    scene.replication(OWN_DATABASE).await;
    assert!(!is_refused().await);
    scene.has_a_peer().await;
    assert!(!is_refused().await, "in its first life there is nothing to forget");
    scene.replication("UPDATE repl_self SET incarnation = 2, changed_at = now()").await;
    assert!(is_refused().await, "eu-west has not spoken since");
    scene
        .replication(
            "INSERT INTO repl_ack (peer, origin_region, origin_incarnation, stream, stored, applied)
             VALUES ('eu-west', 'us-east', 1, 'ledger', 7, 7)",
        )
        .await;
    assert!(is_refused().await, "eu-west has more than is applied here");
    scene
        .replication(
            "INSERT INTO repl_apply (origin_region, origin_incarnation, stream, applied) VALUES ('us-east', 1, 'ledger', 7)",
        )
        .await;
    assert!(!is_refused().await);
}
