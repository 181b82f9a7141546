//! A crash after any step, and a PSP that does not answer.

use super::*;

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_psp_that_charges_and_falls_silent_leaves_unknown_and_the_reconciler_finds_out(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let payment = scene.rider.post_keyed("/v1/payments", "k", card(trip, "tok_timeout")).await.ok(201);
    assert_eq!(payment["status"], "unknown");
    assert_eq!(scene.pay(trip, "tok_visa").await.problem(409).code, "already_paid", "not failed by guess");
    let replay = scene.rider.post_keyed("/v1/payments", "k", card(trip, "tok_timeout")).await;
    assert_eq!(replay.ok(201), payment);
    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 0, "not before its time");
    assert_eq!(scene.later().await, 1);
    assert_eq!(scene.payment(id_of(&payment)).await["status"], "settled");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 1, "asked, not charged again");
    assert_eq!(scene.later().await, 0);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_psp_that_fails_without_charging_is_asked_again_with_the_same_key(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let payment = scene.pay(scene.trip().await, "tok_error").await.ok(201);
    assert_eq!(payment["status"], "unknown");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations WHERE outcome = 'succeeded'").await, 0);
    scene.later().await;
    assert_eq!(scene.payment(id_of(&payment)).await["status"], "settled");
    scene.assert_books_agree().await;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CrashAfter {
    Intent,
    Asking,
    Answer,
    Settlement,
}

use CrashAfter::{Answer as AfterAnswer, Asking, Intent, Settlement};

/// Takes a payment as far as `crash` and drops it there.
async fn crash(scene: &Scene, token: &str, key: Option<&str>, crash: CrashAfter) -> (TripId, PaymentId) {
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    let trip = scene.trip().await;
    let asked_by = key.map(|key| asked_by(&scene.rider, "/v1/payments", key, &card(trip, token)));
    let payment = scene.intent(trip, token, asked_by).await;
    if crash >= Asking {
        let answer = steps::ask_for_charge(app, tenant, &payment).await;
        if crash >= AfterAnswer {
            steps::record_charge(app, tenant, payment.id, &answer).await.unwrap();
        }
    }
    if crash >= Settlement {
        let mut tx = scene.tx().await;
        let locked = store::lock_payment(&mut tx, payment.id).await.unwrap().unwrap();
        steps::settle_payment(&mut tx, locked, scene.region.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
    }
    (trip, payment.id)
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn whatever_step_a_crash_follows_another_node_goes_on_and_charges_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for (crash_after, token, end) in [
        (Intent, "tok_visa", "settled"),
        (Asking, "tok_visa", "settled"),
        (AfterAnswer, "tok_visa", "settled"),
        (Settlement, "tok_visa", "settled"),
        (Intent, "tok_declined", "failed"),
        (Asking, "tok_declined", "failed"),
        (AfterAnswer, "tok_declined", "failed"),
        (Intent, "tok_timeout", "settled"),
        (Asking, "tok_timeout", "settled"),
        (AfterAnswer, "tok_error", "settled"),
    ] {
        let (_, id) = crash(&scene, token, None, crash_after).await;
        // A silent PSP needs two looks: the first charge is not answered, the second look finds it.
        scene.later().await;
        scene.later().await;
        assert_eq!(scene.payment(id).await["status"], end, "{crash_after:?} {token}");
        scene.assert_books_agree().await;
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_retry_after_a_crash_goes_on_with_the_same_payment(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for (i, crash_after) in [Intent, Asking, AfterAnswer, Settlement].into_iter().enumerate() {
        let key = format!("key-{i}");
        let (trip, id) = crash(&scene, "tok_visa", Some(&key), crash_after).await;
        if crash_after < AfterAnswer {
            let held = scene.rider.post_keyed("/v1/payments", &key, card(trip, "tok_visa")).await;
            assert_eq!(held.problem(409).code, "idempotency_in_progress", "{crash_after:?}");
            let reused = scene.rider.post_keyed("/v1/payments", &key, card(trip, "tok_amex")).await;
            assert_eq!(reused.problem(422).code, "idempotency_key_reused", "{crash_after:?}");
        }
        scene.region.clock.advance(time::Duration::minutes(1));
        let retried = scene.rider.post_keyed("/v1/payments", &key, card(trip, "tok_visa")).await;
        assert!(!retried.headers.contains_key("idempotency-replayed"));
        let retried = retried.ok(201);
        assert_eq!((id_of(&retried), &retried["status"]), (id, &json!("settled")), "{crash_after:?}");
        let again = scene.rider.post_keyed("/v1/payments", &key, card(trip, "tok_visa")).await.ok(201);
        assert_eq!(again, retried);
        scene.assert_books_agree().await;
    }
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 4);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn many_nodes_at_once_settle_each_payment_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for crash_after in [Intent, Asking, AfterAnswer, Intent, Asking, AfterAnswer] {
        crash(&scene, "tok_visa", None, crash_after).await;
    }
    scene.region.clock.advance(time::Duration::minutes(11));
    let nodes = (0..6).map(|_| resume::run_due(&scene.region.app));
    let done: u64 = futures::future::join_all(nodes).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(done, 6, "each is claimed by one node");
    assert_eq!(scene.number("SELECT count(*) FROM payments WHERE status = 'settled'").await, 6);
    scene.assert_books_agree().await;
}

/// Puts the database back to where the PSP had agreed and nothing was booked, as an old backup does.
const RESTORE: &str = "
    ALTER TABLE ledger_postings DISABLE TRIGGER USER;
    ALTER TABLE ledger_entries DISABLE TRIGGER USER;
    DELETE FROM ledger_postings;
    DELETE FROM ledger_entries;
    ALTER TABLE ledger_postings ENABLE TRIGGER USER;
    ALTER TABLE ledger_entries ENABLE TRIGGER USER;
    DELETE FROM repl_outbox WHERE stream = 'ledger';
    UPDATE payments SET status = 'authorized', settled_at = NULL, refunded_amount = 0, next_attempt_at = created_at;
    UPDATE refunds SET status = 'authorized', settled_at = NULL, next_attempt_at = created_at";

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_is_settled_again_after_an_old_backup_was_restored_is_the_same_fact(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let path = format!("/v1/payments/{id}/refunds");
    scene.admin.post(&path, json!({"amount": 300, "reason": "detour"})).await.ok(201);
    let told = async || -> Vec<String> {
        let sql = "SELECT convert_from(body, 'UTF8') FROM repl_outbox WHERE stream = 'ledger' ORDER BY kind";
        sqlx::query_scalar(sql).fetch_all(&mut *scene.conn().await).await.unwrap()
    };
    let booked = async || -> Vec<Uuid> {
        sqlx::query_scalar("SELECT id FROM ledger_entries ORDER BY id")
            .fetch_all(&mut *scene.conn().await)
            .await
            .unwrap()
    };
    let (told_before, booked_before) = (told().await, booked().await);
    assert_eq!((told_before.len(), booked_before.len()), (2, 2));
    sqlx::raw_sql(RESTORE).execute(&mut *scene.conn().await).await.unwrap();
    assert_eq!(scene.later().await, 2);
    assert_eq!(scene.payment(id).await["status"], "partially_refunded");
    assert_eq!((told().await, booked().await), (told_before, booked_before));
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_slow_node_whose_hold_ran_out_changes_nothing_any_more(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    let (_, id) = crash(&scene, "tok_visa", None, Asking).await;
    scene.later().await;
    let settled = scene.payment(id).await;
    assert_eq!(settled["status"], "settled");
    for late in [Err(NoAnswer::new("time-out")), Ok(Answer::Declined { code: "late".into() })] {
        steps::record_charge(app, tenant, id, &late).await.unwrap();
        assert_eq!(scene.payment(id).await, settled);
    }
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_psp_that_never_says_is_given_up_in_the_open(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    let (_, id) = crash(&scene, "tok_visa", None, Intent).await;
    for _ in 0..super::super::machine::MAX_ATTEMPTS {
        let mut tx = scene.tx().await;
        let payment = store::lock_payment(&mut tx, id).await.unwrap().unwrap();
        let sequence = payment.sequence.clone().taken(scene.region.clock.now());
        store::save_payment(&mut tx, &PaymentRecord { sequence, ..payment }, scene.region.clock.now()).await.unwrap();
        tx.commit().await.unwrap();
        steps::record_charge(app, tenant, id, &Err(NoAnswer::new("time-out"))).await.unwrap();
    }
    assert_eq!(scene.later().await, 0, "nobody tries any more");
    assert_eq!(scene.payment(id).await["status"], "unknown", "and nobody guesses");
    assert_eq!(scene.number("SELECT count(*) FROM payments WHERE next_attempt_at IS NULL").await, 1);
}
