use proptest::{prelude::*, strategy::ValueTree};

use super::*;

fn path(id: PaymentId) -> String {
    format!("/v1/payments/{id}/refunds")
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_payment_goes_back_in_parts_up_to_its_total(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let refund = scene.admin.post(&path(id), json!({"amount": 300, "reason": "detour"})).await.ok(201);
    assert_eq!((&refund["status"], &refund["amount"]["amount"]), (&json!("settled"), &json!(300)));
    let payment = scene.payment(id).await;
    assert_eq!((&payment["status"], &payment["refunded"]["amount"]), (&json!("partially_refunded"), &json!(300)));
    let money = json!({"amount": {"amount": 200, "currency": "USD"}, "reason": "detour"});
    scene.admin.post(&path(id), money).await.ok(201);
    let too_much = scene.admin.post(&path(id), json!({"amount": 601, "reason": "all"})).await;
    assert_eq!(too_much.problem(422).code, "amount_exceeds_payment");
    scene.admin.post(&path(id), json!({"reason": "the rest"})).await.ok(201);
    let payment = scene.payment(id).await;
    assert_eq!((&payment["status"], &payment["refunded"]["amount"]), (&json!("refunded"), &json!(FARE)));
    let nothing_left = scene.admin.post(&path(id), json!({"reason": "again"})).await;
    assert_eq!(nothing_left.problem(422).code, "amount_exceeds_payment");
    let listed = scene.rider.get(&path(id)).await.ok(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    let held =
        "SELECT count(*) FROM (SELECT account FROM ledger_postings GROUP BY account HAVING sum(amount) <> 0) held";
    assert_eq!(scene.number(held).await, 0, "after a whole refund nobody holds anything");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn only_the_back_office_gives_back_and_only_what_was_taken(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let body = json!({"amount": 100, "reason": "please"});
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.post(&path(id), body.clone()).await.problem(403).code, "forbidden");
    }
    let office = scene.region.new_tenant("other-cabs", json!({})).await;
    let other = scene.region.admin_of("other-cabs".parse().unwrap(), &office).await;
    assert_eq!(other.post(&path(id), body.clone()).await.problem(404).code, "not_found");
    let absent = scene.admin.post(&path(PaymentId::new()), body.clone()).await;
    assert_eq!(absent.problem(404).code, "not_found");
    for (bad, field) in [
        (json!({"amount": 100}), "reason"),
        (json!({"amount": 100, "reason": ""}), "reason"),
        (json!({"amount": 0, "reason": "x"}), "amount"),
        (json!({"amount": -1, "reason": "x"}), "amount"),
        (json!({"amount": {"amount": 1, "currency": "EUR"}, "reason": "x"}), "amount.currency"),
    ] {
        let problem = scene.admin.post(&path(id), bad).await.problem(422);
        assert_eq!((problem.code.as_str(), problem.fields), ("validation_failed", vec![field.to_owned()]));
    }
    let failed = id_of(&scene.pay(scene.trip().await, "tok_declined").await.ok(201));
    assert_eq!(scene.admin.post(&path(failed), body).await.problem(409).code, "invalid_transition");
    assert_eq!(scene.number("SELECT count(*) FROM refunds").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_repeated_refund_gives_back_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let body = json!({"amount": 300, "reason": "detour"});
    let path = path(id);
    let all = (0..20).map(|_| scene.admin.post_keyed(&path, "k", body.clone()));
    for answer in futures::future::join_all(all).await {
        assert!(answer.status == 201 || answer.problem(409).code == "idempotency_in_progress");
    }
    let again = scene.admin.post_keyed(&path, "k", body).await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(scene.payment(id).await["refunded"]["amount"], 300);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn refunds_at_once_stay_within_the_total(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let path = path(id);
    let all = (0..8).map(|_| scene.admin.post(&path, json!({"amount": 300, "reason": "each"})));
    let answers = futures::future::join_all(all).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 3);
    assert_eq!(scene.payment(id).await["refunded"]["amount"], 900);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_declined_refund_leaves_the_payment_whole(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_refund_declined").await;
    let refund = scene.admin.post(&path(id), json!({"reason": "sorry"})).await.ok(201);
    assert_eq!((&refund["status"], &refund["failure_code"]), (&json!("failed"), &json!("charge_disputed")));
    assert_eq!(scene.payment(id).await["status"], "settled");
    let another = scene.admin.post(&path(id), json!({"reason": "once more"})).await.ok(201);
    assert_eq!(another["status"], "failed", "a failed one holds nothing back");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_refund_without_an_answer_is_unknown_until_the_psp_says(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_refund_timeout").await;
    let refund = scene.admin.post(&path(id), json!({"amount": 1_000, "reason": "sorry"})).await.ok(201);
    assert_eq!(refund["status"], "unknown");
    let more = scene.admin.post(&path(id), json!({"amount": 200, "reason": "more"})).await;
    assert_eq!(more.problem(422).code, "amount_exceeds_payment", "what may have gone back counts");
    assert_eq!(scene.payment(id).await["status"], "settled");
    scene.later().await;
    assert_eq!(scene.payment(id).await["status"], "partially_refunded");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations WHERE kind = 'refund'").await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_crash_in_a_refund_is_made_good_whatever_step_it_follows(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    for crash_after in 0..4 {
        let id = scene.paid("tok_visa").await;
        let mut tx = scene.tx().await;
        let payment = store::load_payment(&mut tx, id).await.unwrap().unwrap();
        let refund = crate::payments::record::RefundRecord {
            id: shared::ids::RefundId::new(),
            payment_id: id,
            amount: shared::money::Money::new(500, payment.amount.currency),
            split: payment.split.part(500).unwrap(),
            reason: "crash".into(),
            to: crate::payments::RefundTo::Source,
            sequence: Sequence::begun(scene.region.clock.now()),
            asked_by: None,
            created_at: scene.region.clock.now(),
            settled_at: None,
        };
        store::insert_refund(&mut tx, &refund).await.unwrap();
        tx.commit().await.unwrap();
        if crash_after >= 1 {
            let answer = steps::ask_for_refund(app, tenant, &payment, &refund).await;
            if crash_after >= 2 {
                steps::record_refund(app, tenant, refund.id, &answer).await.unwrap();
            }
        }
        if crash_after >= 3 {
            let mut tx = scene.tx().await;
            steps::settle_refund(&mut tx, &refund, scene.region.clock.now()).await.unwrap();
            tx.commit().await.unwrap();
        }
        scene.later().await;
        let payment = scene.payment(id).await;
        assert_eq!(payment["refunded"]["amount"], 500, "crash after step {crash_after}");
        scene.assert_books_agree().await;
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn cash_is_given_back_out_of_the_tenant_s_till(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let body = json!({"trip_id": scene.cash_trip().await, "method": {"type": "cash"}});
    let id = id_of(&scene.rider.post("/v1/payments", body).await.ok(201));
    let refund = scene.admin.post(&path(id), json!({"reason": "sorry"})).await.ok(201);
    assert_eq!(refund["status"], "settled");
    let till = "SELECT sum(amount)::bigint FROM ledger_postings WHERE account = 'tenant:cash'";
    assert_eq!(scene.number(till).await, FARE);
    let driver = "SELECT sum(amount)::bigint FROM ledger_postings WHERE account LIKE 'driver:%'";
    assert_eq!(scene.number(driver).await, -FARE, "he took the fare and keeps no share of it");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn any_sequence_of_refunds_keeps_the_books(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let amounts = prop::collection::vec(1..700_i64, 1..6);
    for _ in 0..4 {
        let id = scene.paid("tok_visa").await;
        let mut left = FARE;
        for amount in amounts.new_tree(&mut runner).unwrap().current() {
            let answer = scene.admin.post(&path(id), json!({"amount": amount, "reason": "some"})).await;
            if amount <= left {
                answer.ok(201);
                left -= amount;
            } else {
                assert_eq!(answer.problem(422).code, "amount_exceeds_payment");
            }
        }
        assert_eq!(scene.payment(id).await["refunded"]["amount"], FARE - left);
        scene.assert_books_agree().await;
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_cards_cannot_be_charged_or_given_back_is_neither_tipped_put_in_nor_refunded(pool: PgPool) {
    let scene = Scene::with_config(pool, json!({"currency": "KWD"})).await;
    let trip = scene.trip_in_kwd().await;
    let id = id_of(&scene.pay(trip, "tok_visa").await.ok(201));
    let (refunds, tip) = (path(id), format!("/v1/trips/{trip}/tip"));
    let top_ups = "/v1/riders/me/wallet/top-ups";
    for (user, path) in [(&scene.admin, refunds.as_str()), (&scene.rider, &tip), (&scene.rider, top_ups)] {
        let of = |amount: i64| match path == refunds {
            true => json!({"amount": amount, "reason": "sorry"}),
            false => json!({"amount": amount}),
        };
        let problem = user.post(path, of(255)).await.problem(422);
        assert_eq!((problem.code.as_str(), problem.fields), ("validation_failed", vec!["amount".to_owned()]), "{path}");
        assert_eq!(user.post(path, of(250)).await.ok(201)["amount"], json!({"amount": 250, "currency": "KWD"}));
    }
    let to_wallet = json!({"amount": 255, "reason": "sorry", "to": "wallet"});
    scene.admin.post(&refunds, to_wallet).await.ok(201);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_refund_that_is_declined_at_once_waits_for_nobody_since_whoever_asked_for_it_was_told(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    scene.admin.post(&path(id), json!({"amount": 300, "reason": "sorry"})).await.ok(201);
    let decline = "UPDATE refunds SET status = 'failed', settled_at = NULL";
    sqlx::query(decline).execute(&mut *scene.conn().await).await.unwrap();
    assert_eq!(attention::waiting(&scene, "refunds").await, Vec::<Value>::new());
    let attend =
        format!("/v1/refunds/{}/attend", scene.rider.get(&path(id)).await.ok(200)["items"][0]["id"].as_str().unwrap());
    assert_eq!(scene.admin.post(&attend, json!({})).await.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_refund_that_its_bank_sends_back_after_days_is_taken_back_and_can_be_made_anew(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let id = id_of(&scene.pay(trip, "tok_visa").await.ok(201));
    let refund = scene.admin.post(&path(id), json!({"amount": 300, "reason": "sorry"})).await.ok(201);
    let refund_id: shared::ids::RefundId = refund["id"].as_str().unwrap().parse().unwrap();
    let key = OperationKey::Refund(refund_id).to_string();
    let told = async |event_id: &str| {
        let event = webhook::event(event_id, &key);
        webhook::send(&scene, &event, &webhook::signature(&scene, &event)).await.ok(200);
    };
    told("evt_1").await;
    assert_eq!(scene.payment(id).await["refunded"]["amount"], 300, "the PSP says that it has succeeded");

    scene.region.clock.advance(time::Duration::hours(1));
    let fail = "UPDATE sandbox_psp_operations SET outcome = 'declined', decline_code = 'expired_or_canceled_card'
                WHERE kind = 'refund'";
    sqlx::query(fail).execute(&mut *scene.conn().await).await.unwrap();
    for event in ["evt_2", "evt_2", "evt_3"] {
        told(event).await;
        let payment = scene.payment(id).await;
        assert_eq!((&payment["status"], &payment["refunded"]["amount"]), (&json!("settled"), &json!(0)));
    }
    let listed = scene.rider.get(&path(id)).await.ok(200);
    let refund = &listed["items"][0];
    assert_eq!(refund["status"], "failed");
    assert_eq!(refund["failure_code"], "expired_or_canceled_card");
    assert_eq!(scene.receipt(trip).await["payment"]["refunded"]["amount"], 0);
    assert_eq!(scene.number("SELECT count(*) FROM ledger_entries WHERE kind = 'adjustment'").await, 1, "once");
    scene.assert_books_agree().await;
    let report = reconcile::reconciled(&scene).await;
    assert_eq!(report["differences"], 0, "{report}");

    scene.admin.post(&path(id), json!({"reason": "to another card"})).await.ok(201);
    assert_eq!(scene.payment(id).await["refunded"]["amount"], FARE);
    scene.assert_books_agree().await;

    let waiting = attention::waiting(&scene, "refunds").await;
    let [seen] = waiting.as_slice() else {
        panic!("it waits for somebody until he says that he has seen to it: {waiting:?}")
    };
    assert_eq!((&seen["id"], &seen["payment_id"], &seen["sent_back"]), (&json!(refund_id), &json!(id), &json!(true)));
    assert_eq!((&seen["failure_code"], seen.get("next_attempt_at")), (&json!("expired_or_canceled_card"), None));
    let [attend, retry] = ["attend", "retry"].map(|deed| format!("/v1/refunds/{refund_id}/{deed}"));
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.post(&attend, json!({})).await.problem(403).code, "forbidden");
    }
    assert_eq!(scene.admin.post(&retry, json!({})).await.problem(409).code, "invalid_transition", "it has ended");
    let attended = scene.admin.post_keyed(&attend, "a", json!({})).await.ok(200);
    assert_eq!((&attended["id"], &attended["status"]), (&json!(refund_id), &json!("failed")));
    assert_eq!(scene.admin.post_keyed(&attend, "a", json!({})).await.ok(200), attended);
    assert_eq!(scene.admin.post(&attend, json!({})).await.problem(409).code, "invalid_transition");
    assert_eq!(attention::waiting(&scene, "refunds").await, Vec::<Value>::new());
    assert_eq!(scene.number("SELECT count(*) FROM refunds WHERE attended_by LIKE 'tenant_admin:%'").await, 1);
    let unknown = format!("/v1/refunds/{}/attend", Uuid::now_v7());
    assert_eq!(scene.admin.post(&unknown, json!({})).await.problem(404).code, "not_found");
}
