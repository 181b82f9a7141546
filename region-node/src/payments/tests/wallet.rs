use proptest::{prelude::*, strategy::ValueTree};

use super::*;
use crate::payments::{forgotten, statement::BOOKED_WITHIN};

impl Scene {
    /// The back office gives the rider something into his wallet.
    pub(super) async fn credited(&self, amount: i64) -> Value {
        let path = format!("/v1/riders/{}/wallet/credits", self.rider.id);
        self.admin.post(&path, json!({"amount": amount, "reason": "sorry"})).await.ok(201)
    }

    async fn wallet(&self) -> Value {
        self.rider.get("/v1/riders/me/wallet").await.ok(200)
    }

    async fn in_wallet(&self) -> i64 {
        self.wallet().await["balance"]["amount"].as_i64().unwrap()
    }

    async fn pay_from_wallet(&self, trip: TripId) -> TestAnswer {
        self.rider.post("/v1/payments", from_wallet(trip)).await
    }

    async fn on(&self, account: &'static str) -> i64 {
        let sql = "SELECT coalesce(sum(amount), 0)::bigint FROM ledger_postings WHERE account LIKE $1";
        sqlx::query_scalar(sql).bind(account).fetch_one(&mut *self.conn().await).await.unwrap()
    }
}

fn from_wallet(trip: TripId) -> Value {
    json!({"trip_id": trip, "method": "wallet"})
}

fn usd(amount: i64) -> Value {
    json!({"amount": amount, "currency": "USD"})
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_the_back_office_gives_a_rider_pays_a_trip_and_all_accounts_together_are_zero(pool: PgPool) {
    let scene = Scene::new(pool).await;
    assert_eq!(
        scene.wallet().await,
        json!({"rider_id": scene.rider.id, "balance": usd(0), "items": [], "next_cursor": null})
    );
    let credit = scene.credited(1_500).await;
    assert_eq!((&credit["amount"], &credit["reason"]), (&usd(1_500), &json!("sorry")));
    let trip = scene.trip().await;
    let payment = scene.pay_from_wallet(trip).await.ok(201);
    assert_eq!(
        (&payment["status"], &payment["method"]["type"], &payment["provider"]),
        (&json!("settled"), &json!("wallet"), &json!("wallet"))
    );
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0, "no payment service took part");
    let wallet = scene.wallet().await;
    assert_eq!(wallet["balance"], usd(400));
    let [paid, given] = wallet["items"].as_array().unwrap().as_slice() else { panic!("{wallet}") };
    assert_eq!((&paid["kind"], &paid["amount"]), (&json!("settlement"), &usd(-FARE)));
    assert_eq!((&paid["trip_id"], &paid["payment_id"]), (&json!(trip), &payment["id"]));
    assert_eq!((&given["kind"], &given["amount"], &given["reason"]), (&json!("credit"), &usd(1_500), &json!("sorry")));
    let account = |name: &str, amount| json!({"account": name, "balance": usd(amount)});
    let expected = json!({
        "accounts": [account("tenant:credits", -1_500), account("tenant:revenue", 200), account("tenant:tax", TAX)],
        "drivers": [{"coming": usd(800), "owed": usd(0)}],
        "riders": [usd(400)],
    });
    assert_eq!(scene.admin.get("/v1/balances").await.ok(200), expected);
    let receipt = scene.receipt(trip).await;
    assert_eq!((&receipt["payment"]["method"], &receipt["payment"]["status"]), (&json!("wallet"), &json!("settled")));
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_wallet_is_read_page_by_page_and_the_tenant_s_statement_has_nothing_of_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for amount in 1..=5 {
        scene.credited(amount).await;
        scene.region.clock.advance(time::Duration::SECOND);
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/riders/me/wallet?limit=2".to_owned());
    loop {
        let page = scene.rider.get(&path).await.ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|entry| entry["amount"]["amount"].as_i64().unwrap()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/riders/me/wallet?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
    let statement = scene.admin.get("/v1/statement?from=2020-01-01T00:00:00Z").await;
    assert_eq!(statement.problem(422).fields, ["from"], "a year at most");
    let from = scene.region.clock.now() - time::Duration::HOUR;
    scene.region.clock.advance(BOOKED_WITHIN);
    let from = from.format(&time::format_description::well_known::Rfc3339).unwrap();
    let statement = scene.admin.get(&format!("/v1/statement?from={from}")).await.ok(200);
    assert_eq!(statement["closing"], json!([{"account": "tenant:credits", "balance": usd(-15)}]));
    assert_eq!(statement["entries"].as_array().unwrap().len(), 5);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_wallet_that_holds_too_little_pays_nothing_and_leaves_no_trace(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    assert_eq!(
        scene.pay_from_wallet(trip).await.problem(409).code,
        "wallet_insufficient",
        "there never was anything in it"
    );
    scene.credited(FARE - 1).await;
    let refused = scene.pay_from_wallet(trip).await;
    assert_eq!(refused.json()["detail"], "the wallet holds 10.99 USD, less than the 11.00 USD that are to be paid");
    assert_eq!(refused.problem(409).code, "wallet_insufficient");
    let tip = scene.rider.post(&format!("/v1/trips/{trip}/tip"), json!({"amount": FARE, "method": "wallet"})).await;
    assert_eq!(tip.problem(409).code, "wallet_insufficient");
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
    assert_eq!(scene.pay(trip, "tok_visa").await.ok(201)["status"], "settled", "another method pays");
    assert_eq!(scene.in_wallet().await, FARE - 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_wallet_spent_from_at_once_is_never_overdrawn_and_a_trip_is_paid_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.credited(3 * FARE + 1).await;
    let trip = scene.trip().await;
    let body = from_wallet(trip);
    let all = (0..20).map(|_| scene.rider.post("/v1/payments", body.clone()));
    let paid = futures::future::join_all(all).await.into_iter().filter(|answer| answer.status == 201).count();
    assert_eq!((paid, scene.in_wallet().await), (1, 2 * FARE + 1));

    let mut trips = Vec::new();
    for _ in 0..10 {
        trips.push(scene.trip().await);
    }
    let answers = futures::future::join_all(trips.iter().map(|trip| scene.pay_from_wallet(*trip))).await;
    let (paid, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(paid.len(), 2);
    for answer in refused {
        assert_eq!(answer.problem(409).code, "wallet_insufficient");
    }
    assert_eq!(scene.in_wallet().await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_repeated_credit_or_payment_counts_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let path = format!("/v1/riders/{}/wallet/credits", scene.rider.id);
    let credit = json!({"amount": usd(2 * FARE), "reason": "sorry"});
    let first = scene.admin.post_keyed(&path, "c", credit.clone()).await.ok(201);
    assert_eq!(scene.admin.post_keyed(&path, "c", credit).await.ok(201), first);
    let body = from_wallet(scene.trip().await);
    let first = scene.rider.post_keyed("/v1/payments", "p", body.clone()).await.ok(201);
    assert_eq!(scene.rider.post_keyed("/v1/payments", "p", body).await.ok(201), first);
    assert_eq!(scene.in_wallet().await, FARE);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tip_from_the_wallet_is_the_driver_s_and_a_refund_goes_back_into_the_wallet(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.credited(2_000).await;
    let trip = scene.trip().await;
    let payment = id_of(&scene.pay_from_wallet(trip).await.ok(201));
    let tip = json!({"amount": 200, "method": {"type": "wallet"}});
    assert_eq!(scene.rider.post(&format!("/v1/trips/{trip}/tip"), tip).await.ok(201)["status"], "settled");
    assert_eq!((scene.in_wallet().await, scene.on("driver:%").await), (700, 1_000));
    let refunds = format!("/v1/payments/{payment}/refunds");
    let refund = scene.admin.post(&refunds, json!({"amount": 100, "reason": "detour"})).await.ok(201);
    assert_eq!((&refund["status"], scene.in_wallet().await), (&json!("settled"), 800));
    scene.admin.post(&refunds, json!({"reason": "all of it"})).await.ok(201);
    assert_eq!((scene.in_wallet().await, scene.on("driver:%").await), (1_800, 200));
    let wallet = scene.wallet().await;
    assert_eq!((&wallet["items"][0]["kind"], &wallet["items"][0]["reason"]), (&json!("refund"), &json!("all of it")));
    assert_eq!(scene.payment(payment).await["status"], "refunded");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_fee_comes_from_the_wallet_the_ride_was_to_be_paid_with_or_fails_as_a_declined_card_does(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let too_early = fee::owe(&scene, json!({"type": "wallet"})).await;
    scene.later().await;
    let failed = scene.payment(too_early).await;
    assert_eq!((&failed["status"], &failed["failure_code"]), (&json!("failed"), &json!("wallet_insufficient")));
    scene.credited(FARE).await;
    let paid = fee::owe(&scene, json!({"type": "wallet"})).await;
    scene.set_payments(false).await;
    scene.later().await;
    assert_eq!(scene.payment(paid).await["status"], "pending", "not while payments are switched off");
    scene.set_payments(true).await;
    scene.later().await;
    assert_eq!((&scene.payment(paid).await["status"], scene.in_wallet().await), (&json!("settled"), FARE - 500));
    assert_eq!(scene.later().await, 0);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_wallet_is_its_rider_s_to_see_and_the_back_office_s_to_fill(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.credited(100).await;
    let path = format!("/v1/riders/{}/wallet", scene.rider.id);
    let seen = scene.rider.get(&path).await.ok(200);
    assert_eq!(seen, scene.wallet().await);
    assert_eq!(scene.admin.get(&path).await.ok(200), seen);
    assert_eq!(scene.region.rider().await.get(&path).await.problem(404).code, "not_found");
    assert_eq!(scene.driver.get(&path).await.problem(403).code, "forbidden");
    assert_eq!(scene.admin.get("/v1/riders/me/wallet").await.problem(403).code, "forbidden");
    let unknown = format!("/v1/riders/{}/wallet", Uuid::now_v7());
    assert_eq!(scene.admin.get(&unknown).await.problem(404).code, "not_found");

    let (credits, gift) = (format!("{path}/credits"), json!({"amount": 100, "reason": "please"}));
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.post(&credits, gift.clone()).await.problem(403).code, "forbidden");
    }
    assert_eq!(scene.admin.post(&format!("{unknown}/credits"), gift.clone()).await.problem(404).code, "not_found");
    for (bad, field) in [
        (json!({"amount": 100}), "reason"),
        (json!({"amount": 100, "reason": ""}), "reason"),
        (json!({"amount": 0, "reason": "x"}), "amount"),
        (json!({"amount": -1, "reason": "x"}), "amount"),
        (json!({"amount": {"amount": 1, "currency": "EUR"}, "reason": "x"}), "amount.currency"),
    ] {
        assert_eq!(scene.admin.post(&credits, bad.clone()).await.problem(422).fields, [field], "{bad}");
    }
    let office = scene.region.new_tenant("other-cabs", json!({})).await;
    let other = scene.region.admin_of("other-cabs".parse().unwrap(), &office).await;
    assert_eq!(other.post(&credits, gift).await.problem(404).code, "not_found");
    assert_eq!(other.get(&path).await.problem(404).code, "not_found");
    assert_eq!(scene.in_wallet().await, 100);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_database_itself_refuses_to_overdraw_a_wallet(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.credited(100).await;
    let spend = "INSERT INTO ledger_entries (id, tenant_id, kind, currency, posted_at)
        SELECT '00000000-0000-7000-8000-000000000001', tenant_id, 'recovered', currency, now() FROM wallets;
        INSERT INTO ledger_postings SELECT '00000000-0000-7000-8000-000000000001', line, tenant_id, account, amount
        FROM (SELECT tenant_id, 'rider:' || rider_id, 'tenant:suspense' FROM wallets) w (tenant_id, rider, other),
             LATERAL (VALUES (1, rider, -101), (2, other, 101)) AS posting (line, account, amount)";
    let mut conn = scene.conn().await;
    let failed = sqlx::raw_sql(spend).execute(&mut *conn).await.unwrap_err();
    assert_eq!(crate::db::constraint(&failed), Some("wallet_is_never_overdrawn"));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn whatever_is_given_spent_and_given_back_the_wallet_holds_what_is_left(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let deeds = prop::collection::vec((0..3_u8, 1..1_500_i64), 20..30);
    let (mut left, mut paid) = (0, Vec::new());
    for (deed, amount) in deeds.new_tree(&mut runner).unwrap().current() {
        match (deed, paid.last().copied()) {
            (0, _) => {
                scene.credited(amount).await;
                left += amount;
            }
            (1, Some((payment, rest))) => {
                let path = format!("/v1/payments/{payment}/refunds");
                let answer = scene.admin.post(&path, json!({"amount": amount, "reason": "some"})).await;
                if amount <= rest {
                    answer.ok(201);
                    left += amount;
                    paid.pop();
                    paid.push((payment, rest - amount));
                } else {
                    assert_eq!(answer.problem(422).code, "amount_exceeds_payment");
                }
            }
            _ => {
                let answer = scene.pay_from_wallet(scene.trip_that_is("completed", amount).await).await;
                if amount <= left {
                    paid.push((id_of(&answer.ok(201)), amount));
                    left -= amount;
                } else {
                    assert_eq!(answer.problem(409).code, "wallet_insufficient");
                }
            }
        }
        assert_eq!(scene.in_wallet().await, left);
    }
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_a_wallet_moved_is_a_fact_of_its_own_and_no_revenue(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.credited(1_500).await;
    scene.pay_from_wallet(scene.trip().await).await.ok(201);
    let told = "SELECT kind, (convert_from(body, 'UTF8')::jsonb ->> 'amount')::bigint FROM repl_outbox WHERE stream = 'ledger' ORDER BY position";
    let told: Vec<(String, i64)> = sqlx::query_as(told).fetch_all(&mut *scene.conn().await).await.unwrap();
    let expected =
        [("wallet", 1_500), ("settlement", FARE), ("wallet", -FARE)].map(|(kind, amount)| (kind.to_owned(), amount));
    assert_eq!(told, expected);
    scene.accounts_replicated().await;
    assert_eq!(scene.admin.get("/v1/settlements").await.ok(200)["items"], json!([]), "none of what riders paid");
    assert_eq!(scene.admin.get("/v1/settlements/rollup").await.ok(200)["items"], json!([]));
}

/// Takes the database back to before anything moved a wallet, as an old backup does.
pub(super) const FORGET: &str = "
    CREATE TEMPORARY TABLE gone AS SELECT entry_id FROM ledger_postings WHERE account LIKE 'rider:%';
    DELETE FROM ledger_postings WHERE entry_id IN (SELECT entry_id FROM gone);
    DELETE FROM ledger_entries WHERE id IN (SELECT entry_id FROM gone);
    DELETE FROM wallets; DELETE FROM wallet_credits;
    DELETE FROM payments WHERE status = 'settled' AND requested_by IS NOT NULL;
    UPDATE payments SET status = 'pending', settled_at = NULL, next_attempt_at = created_at;
    DELETE FROM repl_outbox WHERE stream = 'ledger'";

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_region_taken_back_to_an_old_backup_has_its_wallets_back_and_spends_nothing_twice(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.credited(2_000).await;
    let trip = scene.trip().await;
    scene.rider.post_keyed("/v1/payments", "p", from_wallet(trip)).await.ok(201);
    scene.credited(500).await;
    scene.accounts_replicated().await;
    scene.forgets(FORGET).await;
    assert_eq!(scene.in_wallet().await, 0, "it has forgotten");
    let nodes = [&scene.region, &scene.region.another_node().await];
    let looks = nodes.map(|node| async { forgotten::run_due(&node.app, 0).await.unwrap() });
    futures::future::join_all(looks).await;
    assert_eq!(scene.in_wallet().await, 2_000 - FARE + 500);
    assert_eq!(scene.on("tenant:suspense").await, FARE - 2_500, "nobody knows what for");
    let kinds: Vec<_> =
        scene.wallet().await["items"].as_array().unwrap().iter().map(|entry| entry["kind"].clone()).collect();
    assert_eq!(kinds, ["recovered"; 3].map(|kind| json!(kind)));
    scene.pay_from_wallet(scene.trip().await).await.ok(201);
    assert_eq!(scene.in_wallet().await, 500 + 2_000 - 2 * FARE);
    assert_eq!(scene.number("SELECT coalesce(sum(amount), 0)::bigint FROM ledger_postings").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_payment_that_was_settled_before_an_old_backup_was_restored_is_settled_again_and_moves_the_wallet_once(
    pool: PgPool,
) {
    let scene = Scene::new(pool).await;
    scene.credited(600).await;
    let fee = fee::owe(&scene, json!({"type": "wallet"})).await;
    scene.later().await;
    scene.accounts_replicated().await;
    scene.forgets(FORGET).await;
    // Whoever goes on with it first has what was forgotten booked.
    scene.later().await;
    assert_eq!((&scene.payment(fee).await["status"], scene.in_wallet().await), (&json!("settled"), 100));
    assert_eq!((scene.on("driver:%").await, scene.on("tenant:suspense").await), (500, -600), "but for the credit");
    let told = "SELECT count(*) FROM repl_outbox o JOIN ledger_facts f ON f.fact_id = (convert_from(o.body, 'UTF8')::jsonb ->> 'fact_id')::uuid
        WHERE o.kind = 'wallet'";
    assert_eq!(scene.number(told).await, 1, "the same fact is told again");
    assert_eq!(forgotten::run_due(&scene.region.app, 0).await.unwrap(), 2);
    assert_eq!(scene.in_wallet().await, 100);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn nobody_spends_while_other_regions_may_remember_what_is_forgotten_here(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.credited(2 * FARE).await;
    let fee = fee::owe(&scene, json!({"type": "wallet"})).await;
    scene
        .replication(
            "DELETE FROM repl_self; INSERT INTO repl_self (cluster_id, region, incarnation) VALUES ('test', 'us-east', 1)",
        )
        .await;
    let refused = scene.pay_from_wallet(scene.trip().await).await;
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.problem(503).code, "unavailable");
    scene.later().await;
    assert_eq!(scene.payment(fee).await["status"], "pending");
    scene.replication("UPDATE repl_self SET database = repl_database()").await;
    scene.later().await;
    assert_eq!((&scene.payment(fee).await["status"], scene.in_wallet().await), (&json!("settled"), 2 * FARE - 500));
}

const TOP_UPS: &str = "/v1/riders/me/wallet/top-ups";

fn top_up(amount: i64, token: &str) -> Value {
    json!({"amount": amount, "method": {"type": "card", "token": token}})
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rider_tops_up_his_wallet_by_card_once_and_pays_with_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let made = scene.rider.post_keyed(TOP_UPS, "t", json!({"amount": usd(5_000)})).await.ok(201);
    assert_eq!((&made["status"], &made["kind"], &made["amount"]), (&json!("settled"), &json!("top_up"), &usd(5_000)));
    assert_eq!((made.get("trip_id"), made.get("ride_id")), (None, None));
    assert_eq!(scene.rider.post_keyed(TOP_UPS, "t", json!({"amount": usd(5_000)})).await.ok(201), made);
    assert_eq!(scene.payment(id_of(&made)).await, made);
    assert_eq!((scene.in_wallet().await, scene.on("psp:%").await), (5_000, -5_000));
    scene.pay_from_wallet(scene.trip().await).await.ok(201);
    let wallet = scene.wallet().await;
    assert_eq!((&wallet["items"][1]["kind"], &wallet["balance"]), (&json!("top_up"), &usd(5_000 - FARE)));
    let told = "SELECT count(*) FROM repl_outbox WHERE kind = 'settlement'";
    assert_eq!(scene.number(told).await, 1, "a top-up is a charge and no revenue, the trip the other way round");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_top_up_is_in_the_wallet_once_the_psp_has_charged_it_and_never_before(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let declined = scene.rider.post(TOP_UPS, top_up(1_000, "tok_declined")).await.ok(201);
    assert_eq!((&declined["status"], scene.in_wallet().await), (&json!("failed"), 0));
    let silent = scene.rider.post(TOP_UPS, top_up(1_000, "tok_timeout")).await.ok(201);
    let broken = scene.rider.post(TOP_UPS, top_up(500, "tok_error")).await.ok(201);
    assert_eq!((&silent["status"], &broken["status"]), (&json!("unknown"), &json!("unknown")));
    assert_eq!(scene.in_wallet().await, 0);
    scene.later().await;
    assert_eq!(scene.payment(id_of(&silent)).await["status"], "settled");
    assert_eq!(scene.in_wallet().await, 1_500);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_crash_in_a_top_up_is_made_good_whatever_step_it_follows(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    for crash_after in 0..4_i64 {
        let begun = scene.intent(scene.trip().await, "tok_visa", None).await;
        let mut tx = scene.tx().await;
        let as_top_up =
            "UPDATE payments SET kind = 'top_up', trip_id = NULL, ride_id = NULL, driver_id = NULL, tax_amount = 0,
            commission_amount = 0 WHERE id = $1";
        sqlx::query(as_top_up).bind(begun.id.0).execute(tx.conn()).await.unwrap();
        let payment = store::load_payment(&mut tx, begun.id).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        if crash_after >= 1 {
            let answer = steps::ask_for_charge(app, tenant, &payment).await;
            if crash_after >= 2 {
                steps::record_charge(app, tenant, payment.id, &answer).await.unwrap();
            }
        }
        if crash_after >= 3 {
            let mut tx = scene.tx().await;
            let locked = store::lock_payment(&mut tx, payment.id).await.unwrap().unwrap();
            steps::settle_payment(&mut tx, locked, scene.region.clock.now()).await.unwrap();
            tx.commit().await.unwrap();
        }
        scene.later().await;
        assert_eq!(scene.payment(payment.id).await["status"], "settled", "crash after step {crash_after}");
        assert_eq!(scene.in_wallet().await, (crash_after + 1) * FARE);
        scene.assert_books_agree().await;
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_top_up_that_cannot_be_is_refused_and_leaves_no_trace(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for (bad, field) in [
        (json!({"amount": 0}), "amount"),
        (json!({"amount": 100_000_001}), "amount"),
        (json!({"amount": {"amount": 5, "currency": "EUR"}}), "amount.currency"),
        (json!({"amount": 5, "method": "cash"}), "method.type"),
        (json!({"amount": 5, "method": "wallet"}), "method.type"),
        (top_up(5, "tok_gold"), "method.token"),
    ] {
        assert_eq!(scene.rider.post(TOP_UPS, bad.clone()).await.problem(422).fields, [field], "{bad}");
    }
    for user in [&scene.driver, &scene.admin] {
        assert_eq!(user.post(TOP_UPS, json!({"amount": 5})).await.problem(403).code, "forbidden");
    }
    scene.set_payments(false).await;
    assert_eq!(scene.rider.post(TOP_UPS, json!({"amount": 5})).await.problem(403).code, "feature_disabled");
    scene.set_payments(true).await;
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
    let made = id_of(&scene.rider.post(TOP_UPS, json!({"amount": 5})).await.ok(201));
    let refused = scene.admin.post(&format!("/v1/payments/{made}/refunds"), json!({"reason": "back"})).await;
    assert_eq!(refused.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_disputed_top_up_is_the_tenant_s_loss_and_no_adjustment_of_what_trips_brought(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let made = id_of(&scene.rider.post(TOP_UPS, json!({"amount": 1_000})).await.ok(201));
    let charge = dispute::provider_ref(&scene, made).await;
    dispute::tell(&scene, "evt_1", &charge, &usd(1_000), "lost").await.ok(200);
    assert_eq!(
        (scene.in_wallet().await, scene.on("tenant:revenue").await, scene.on("psp:%").await),
        (1_000, -1_000, 0)
    );
    let told = "SELECT count(*) FROM repl_outbox WHERE stream = 'ledger' AND kind <> 'wallet'";
    assert_eq!(scene.number(told).await, 0);
    assert_eq!(scene.number("SELECT sum(amount)::bigint FROM ledger_postings").await, 0);
}

impl Scene {
    /// The back office has some of the wallet given back, or all that can be.
    async fn withdrawn(&self, body: Value) -> TestAnswer {
        self.admin.post(&format!("/v1/riders/{}/wallet/refunds", self.rider.id), body).await
    }

    async fn topped_up(&self, amount: i64, token: &str) -> PaymentId {
        id_of(&self.rider.post(TOP_UPS, top_up(amount, token)).await.ok(201))
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_a_rider_put_in_and_has_not_spent_goes_back_to_his_cards_the_newest_first_and_credit_stays(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let top_ups = [scene.topped_up(1_000, "tok_visa").await, scene.topped_up(600, "tok_amex").await];
    let newest = scene.topped_up(500, "tok_visa").await;
    scene.credited(700).await;
    scene.pay_from_wallet(scene.trip().await).await.ok(201);
    assert_eq!(scene.in_wallet().await, 1_700);
    let too_much = scene.withdrawn(json!({"amount": 1_001, "reason": "closes his account"})).await;
    assert!(too_much.json()["detail"].as_str().unwrap().starts_with("10.00 USD of what is in the wallet"));
    assert_eq!(too_much.problem(409).code, "wallet_insufficient");
    let made = scene.withdrawn(json!({"reason": "closes his account"})).await.ok(201);
    assert_eq!((&made["rider_id"], &made["amount"]), (&json!(scene.rider.id), &usd(1_000)));
    let refunds: Vec<_> = made["refunds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refund| (id_at(refund, "payment_id"), refund["amount"].clone()))
        .collect();
    assert_eq!(refunds, [(newest, usd(500)), (top_ups[1], usd(500))]);
    assert!(made["refunds"].as_array().unwrap().iter().all(|refund| refund["status"] == "pending"), "{made}");
    assert_eq!(
        (scene.in_wallet().await, scene.on("tenant:withdrawals").await),
        (700, 1_000),
        "nobody spends it meanwhile"
    );
    let wallet = scene.wallet().await;
    let latest = &wallet["items"][0];
    assert_eq!((&latest["kind"], &latest["reason"]), (&json!("withdrawal"), &json!("closes his account")));
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations WHERE kind = 'refund'").await, 0);

    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 2);
    assert_eq!((scene.on("tenant:withdrawals").await, scene.on("psp:%").await), (0, 1_000 - 2_100));
    let payment = scene.payment(top_ups[1]).await;
    assert_eq!((&payment["status"], &payment["refunded"]), (&json!("partially_refunded"), &usd(500)));
    assert_eq!(scene.payment(newest).await["status"], "refunded");
    assert_eq!(scene.payment(top_ups[0]).await["status"], "settled");
    assert_eq!(scene.withdrawn(json!({"reason": "more"})).await.problem(409).code, "wallet_insufficient");
    let told = "SELECT coalesce(sum((convert_from(body, 'UTF8')::jsonb ->> 'amount')::bigint), 0)::bigint FROM repl_outbox WHERE kind = 'wallet'";
    assert_eq!((scene.number(told).await, scene.in_wallet().await), (700, 700), "other regions know what is in it");
    scene.assert_books_agree().await;
    let from = scene.region.clock.now() - time::Duration::HOUR;
    scene.region.clock.advance(BOOKED_WITHIN);
    let from = from.format(&time::format_description::well_known::Rfc3339).unwrap();
    let statement = scene.admin.get(&format!("/v1/statement?from={from}")).await.ok(200);
    let of_withdrawals =
        statement["entries"].as_array().unwrap().iter().filter(|line| line["account"] == "tenant:withdrawals");
    assert_eq!(of_withdrawals.count(), 4);
    let report = reconcile::reconciled(&scene).await;
    assert_eq!(report["items"], json!([]), "{report}");
}

fn id_at(value: &Value, name: &str) -> PaymentId {
    value[name].as_str().unwrap().parse().unwrap()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_wallet_given_back_many_times_at_once_gives_back_what_is_in_it_and_a_repeat_counts_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for amount in [300, 400, 500] {
        scene.topped_up(amount, "tok_visa").await;
    }
    let path = format!("/v1/riders/{}/wallet/refunds", scene.rider.id);
    let body = json!({"amount": usd(100), "reason": "asked for it"});
    let first = scene.admin.post_keyed(&path, "k", body.clone()).await.ok(201);
    assert_eq!(scene.admin.post_keyed(&path, "k", body).await.ok(201), first);
    assert_eq!(scene.in_wallet().await, 1_100);
    let mut trips = Vec::new();
    for _ in 0..3 {
        trips.push(scene.trip_that_is("completed", 150).await);
    }
    let withdrawals = (0..10).map(|_| scene.withdrawn(json!({"amount": 250, "reason": "asked for it"})));
    let (given, paid) = futures::future::join(
        futures::future::join_all(withdrawals),
        futures::future::join_all(trips.iter().map(|trip| scene.pay_from_wallet(*trip))),
    )
    .await;
    let count = |answers: Vec<TestAnswer>| {
        let count = answers.iter().filter(|answer| answer.status == 201).count();
        let others = answers.into_iter().filter(|answer| answer.status != 201);
        others.for_each(|answer| assert_eq!(answer.problem(409).code, "wallet_insufficient"));
        i64::try_from(count).unwrap()
    };
    let (given, paid) = (count(given), count(paid));
    assert_eq!(scene.in_wallet().await, 1_100 - 250 * given - 150 * paid);
    assert!(scene.in_wallet().await < 250, "{given} withdrawals, {paid} trips");
    while scene.later().await > 0 {}
    assert_eq!((scene.on("psp:%").await, scene.on("tenant:withdrawals").await), (100 + 250 * given - 1_200, 0));
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_the_payment_service_refuses_to_give_back_is_in_the_wallet_again_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let top_up = scene.topped_up(1_000, "tok_refund_declined").await;
    let made = scene.withdrawn(json!({"amount": 400, "reason": "asked for it"})).await.ok(201);
    assert_eq!(scene.in_wallet().await, 600);
    while scene.later().await > 0 {}
    assert_eq!((scene.in_wallet().await, scene.on("tenant:withdrawals").await), (1_000, 0));
    let refund = scene.rider.get(&format!("/v1/payments/{top_up}/refunds")).await.ok(200)["items"][0].clone();
    assert_eq!((&refund["id"], &refund["status"]), (&made["refunds"][0]["id"], &json!("failed")));
    let refund = refund["id"].as_str().unwrap().parse().unwrap();
    let declined = Ok(Answer::Declined { code: "again".to_owned() });
    steps::record_refund(&scene.region.app, &scene.region.tenant, refund, &declined).await.unwrap();
    assert_eq!(scene.in_wallet().await, 1_000);
    assert_eq!(scene.wallet().await["items"][0]["kind"], "adjustment");
    scene.assert_books_agree().await;
    assert_eq!(
        scene.withdrawn(json!({"reason": "again"})).await.ok(201)["amount"],
        usd(1_000),
        "it can be asked for again"
    );
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_a_bank_sends_back_of_a_wallet_that_was_given_back_is_in_the_wallet_again(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let top_up = scene.topped_up(1_000, "tok_refund_timeout").await;
    let made = scene.withdrawn(json!({"reason": "asked for it"})).await.ok(201);
    while scene.later().await > 0 {}
    assert_eq!(scene.payment(top_up).await["status"], "refunded", "the answer came in the end");
    scene.assert_books_agree().await;
    let fail = "UPDATE sandbox_psp_operations SET outcome = 'declined', decline_code = 'expired_or_canceled_card'
                WHERE kind = 'refund'";
    sqlx::query(fail).execute(&mut *scene.conn().await).await.unwrap();
    let refund: shared::ids::RefundId = made["refunds"][0]["id"].as_str().unwrap().parse().unwrap();
    for event in ["evt_1", "evt_2"] {
        let event = webhook::event(event, &OperationKey::Refund(refund).to_string());
        webhook::send(&scene, &event, &webhook::signature(&scene, &event)).await.ok(200);
        assert_eq!((scene.in_wallet().await, scene.on("psp:%").await), (1_000, -1_000));
    }
    assert_eq!(scene.payment(top_up).await["status"], "settled");
    assert_eq!(attention::waiting(&scene, "refunds").await.len(), 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_the_company_gave_refunded_or_a_bank_disputes_is_not_paid_out_of_a_wallet(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.credited(500).await;
    let paid = scene.paid("tok_visa").await;
    let body = json!({"amount": 300, "reason": "detour", "to": "wallet"});
    scene.admin.post(&format!("/v1/payments/{paid}/refunds"), body).await.ok(201);
    assert_eq!(scene.withdrawn(json!({"reason": "all"})).await.problem(409).code, "wallet_insufficient");
    let disputed = scene.topped_up(1_000, "tok_visa").await;
    let charge = dispute::provider_ref(&scene, disputed).await;
    dispute::tell(&scene, "evt_1", &charge, &usd(600), "open").await.ok(200);
    assert_eq!(scene.withdrawn(json!({"amount": 401, "reason": "all"})).await.problem(409).code, "wallet_insufficient");
    assert_eq!(scene.withdrawn(json!({"reason": "all"})).await.ok(201)["amount"], usd(400));
    // A trip paid from the wallet and refunded into it is as if it had not been.
    scene.topped_up(FARE, "tok_visa").await;
    let trip = id_of(&scene.pay_from_wallet(scene.trip().await).await.ok(201));
    assert_eq!(scene.withdrawn(json!({"reason": "all"})).await.ok(201)["amount"], usd(600));
    scene.admin.post(&format!("/v1/payments/{trip}/refunds"), json!({"reason": "sorry"})).await.ok(201);
    assert_eq!(scene.withdrawn(json!({"reason": "all"})).await.ok(201)["amount"], usd(500));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_wallet_is_given_back_by_its_own_back_office_alone(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.topped_up(1_000, "tok_visa").await;
    let path = format!("/v1/riders/{}/wallet/refunds", scene.rider.id);
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.post(&path, json!({"reason": "mine"})).await.problem(403).code, "forbidden");
    }
    let unknown = format!("/v1/riders/{}/wallet/refunds", Uuid::now_v7());
    assert_eq!(scene.admin.post(&unknown, json!({"reason": "his"})).await.problem(404).code, "not_found");
    let office = scene.region.new_tenant("other-cabs", json!({})).await;
    let other = scene.region.admin_of("other-cabs".parse().unwrap(), &office).await;
    assert_eq!(other.post(&path, json!({"reason": "his"})).await.problem(404).code, "not_found");
    for (bad, field) in [
        (json!({"amount": 100}), "reason"),
        (json!({"amount": 0, "reason": "x"}), "amount"),
        (json!({"amount": {"amount": 1, "currency": "EUR"}, "reason": "x"}), "amount.currency"),
    ] {
        assert_eq!(scene.admin.post(&path, bad.clone()).await.problem(422).fields, [field], "{bad}");
    }
    scene
        .replication(
            "DELETE FROM repl_self; INSERT INTO repl_self (cluster_id, region, incarnation) VALUES ('test', 'us-east', 1)",
        )
        .await;
    assert_eq!(
        scene.withdrawn(json!({"reason": "all"})).await.problem(503).code,
        "unavailable",
        "it may be spent already"
    );
    assert_eq!(scene.in_wallet().await, 1_000);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_card_payment_goes_back_into_the_wallet_at_once_and_the_payment_service_hears_nothing_of_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let path = format!("/v1/payments/{id}/refunds");
    let refund = scene.admin.post(&path, json!({"amount": 300, "reason": "detour", "to": "wallet"})).await.ok(201);
    assert_eq!((&refund["status"], &refund["to"], scene.in_wallet().await), (&json!("settled"), &json!("wallet"), 300));
    let card = scene.admin.post(&path, json!({"amount": 200, "reason": "detour"})).await.ok(201);
    assert_eq!((&card["status"], &card["to"]), (&json!("settled"), &json!("source")));
    assert_eq!(scene.payment(id).await["refunded"], usd(500));
    assert_eq!((scene.on("psp:%").await, scene.on("rider:%").await), (200 - FARE, 300));
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations WHERE kind = 'refund'").await, 1);
    let too_much = scene.admin.post(&path, json!({"amount": 601, "reason": "all", "to": "wallet"})).await;
    assert_eq!(too_much.problem(422).code, "amount_exceeds_payment");
    let unknown = scene.admin.post(&path, json!({"reason": "all", "to": "heaven"})).await;
    assert_eq!(unknown.problem(422).fields, ["to"]);
    scene.assert_books_agree().await;

    let cash = json!({"trip_id": scene.cash_trip().await, "method": "cash"});
    let cash = id_of(&scene.rider.post("/v1/payments", cash).await.ok(201));
    let body = json!({"reason": "sorry", "to": "wallet"});
    scene.admin.post(&format!("/v1/payments/{cash}/refunds"), body).await.ok(201);
    assert_eq!((scene.in_wallet().await, scene.on("tenant:cash").await), (300 + FARE, 0), "nobody opens the till");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn reconciliation_finds_top_ups_and_misses_no_refund_that_went_into_a_wallet(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.rider.post(TOP_UPS, json!({"amount": 5_000})).await.ok(201);
    scene.pay_from_wallet(scene.trip().await).await.ok(201);
    let id = scene.paid("tok_visa").await;
    let body = json!({"reason": "sorry", "to": "wallet"});
    scene.admin.post(&format!("/v1/payments/{id}/refunds"), body).await.ok(201);
    let report = reconcile::reconciled(&scene).await;
    assert_eq!((&report["listed"], &report["items"]), (&json!(2), &json!([])));
}
