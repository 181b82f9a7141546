//! What is given up, and what the back office does about it.

use super::*;
use crate::payments::{machine::MAX_ATTEMPTS, record::RefundRecord};

/// Nodes take the payment up and die, as often as one is let.
async fn killed_again_and_again(scene: &Scene) {
    let app = &scene.region.app;
    for _ in 1..MAX_ATTEMPTS {
        scene.region.clock.advance(time::Duration::minutes(11));
        let mut tx = app.db.system().await.unwrap();
        let now = scene.region.clock.now();
        let region = app.region.as_str();
        let payments = store::claim_due_payments(&mut tx, region, now, app.psp.hold(), 32).await.unwrap();
        let refunds = store::claim_due_refunds(&mut tx, region, now, app.psp.hold(), 32).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(payments.len() + refunds.len(), 1);
        assert!(payments.iter().all(|claim| !claim.is_given_up) && refunds.iter().all(|claim| !claim.is_given_up));
    }
    assert_eq!(scene.later().await, 1, "the last look gives it up");
    assert_eq!(scene.later().await, 0);
}

pub(super) async fn waiting(scene: &Scene, what: &str) -> Vec<Value> {
    let page = scene.admin.get(&format!("/v1/{what}?attention=true")).await.ok(200);
    page["items"].as_array().unwrap().clone()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_payment_that_keeps_killing_its_node_is_given_up_with_its_reason_and_a_retry_ends_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.intent(scene.trip().await, "tok_visa", None).await.id;
    killed_again_and_again(&scene).await;
    let listed = waiting(&scene, "payments").await;
    assert_eq!((listed.len(), id_of(&listed[0]), &listed[0]["status"]), (1, id, &json!("pending")));
    assert_eq!((&listed[0]["attempts"], &listed[0]["next_attempt_at"]), (&json!(MAX_ATTEMPTS), &Value::Null));
    assert!(listed[0]["last_error"].as_str().unwrap().contains("broken off"), "{listed:?}");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0, "nobody guesses, nobody charges");

    let path = format!("/v1/payments/{id}/retry");
    let retried = scene.admin.post_keyed(&path, "k", json!({})).await.ok(200);
    assert_eq!(scene.admin.post_keyed(&path, "k", json!({})).await.ok(200), retried, "the stored answer again");
    assert_eq!((&retried["status"], &retried["attempts"]), (&json!("settled"), &json!(1)));
    let by = retried["retried_by"].as_str().unwrap();
    assert!(by.starts_with("tenant_admin:") && retried["retried_at"].is_string(), "{retried}");
    assert_eq!(waiting(&scene, "payments").await, Vec::<Value>::new());
    let rows = "SELECT count(*) FROM payments WHERE retried_by LIKE 'tenant_admin:%' AND last_error IS NULL";
    assert_eq!(scene.number(rows).await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_refund_that_keeps_killing_its_node_is_given_up_and_a_retry_gives_the_money_back_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let payment = scene.paid("tok_visa").await;
    let now = scene.region.clock.now();
    let mut tx = scene.tx().await;
    let paid = store::load_payment(&mut tx, payment).await.unwrap().unwrap();
    let refund = RefundRecord {
        id: shared::ids::RefundId::new(),
        payment_id: payment,
        amount: shared::money::Money::new(300, paid.amount.currency),
        split: paid.split.part(300).unwrap(),
        reason: "detour".to_owned(),
        to: crate::payments::RefundTo::Source,
        sequence: Sequence::begun(now + scene.region.app.psp.hold()),
        asked_by: None,
        created_at: now,
        settled_at: None,
    };
    store::insert_refund(&mut tx, &refund).await.unwrap();
    tx.commit().await.unwrap();
    killed_again_and_again(&scene).await;
    let listed = waiting(&scene, "refunds").await;
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &json!(refund.id)));
    assert!(listed[0]["last_error"].is_string() && listed[0]["sent_back"] == false, "{listed:?}");
    let path = format!("/v1/refunds/{}/retry", refund.id);
    assert_eq!(scene.admin.post(&path, json!({})).await.ok(200)["status"], "settled");
    assert_eq!(scene.admin.post(&path, json!({})).await.problem(409).code, "invalid_transition");
    assert_eq!(scene.payment(payment).await["refunded"]["amount"], 300);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_cannot_settle_says_why_and_is_given_up(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let payment = scene.intent(scene.trip().await, "tok_visa", None).await;
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    let answer = steps::ask_for_charge(app, tenant, &payment).await;
    steps::record_charge(app, tenant, payment.id, &answer).await.unwrap();
    let broken = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON ledger_entries EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(broken).execute(&mut *scene.conn().await).await.unwrap();
    let mut looks = 0;
    while scene.later().await > 0 {
        looks += 1;
        assert!(looks <= MAX_ATTEMPTS, "it is never given up");
    }
    let listed = waiting(&scene, "payments").await;
    assert_eq!((listed.len(), &listed[0]["status"]), (1, &json!("authorized")));
    assert!(listed[0]["last_error"].is_string(), "{listed:?}");
    sqlx::raw_sql("DROP TRIGGER refuse ON ledger_entries").execute(&mut *scene.conn().await).await.unwrap();
    let retried = scene.admin.post(&format!("/v1/payments/{}/retry", payment.id), json!({})).await.ok(200);
    assert_eq!(retried["status"], "settled");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_waits_is_paged_and_shown_to_the_back_office_alone(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for _ in 0..3 {
        let id = scene.intent(scene.trip().await, "tok_visa", None).await.id;
        for _ in 0..MAX_ATTEMPTS {
            steps::hinder_charge(&scene.region.app, &scene.region.tenant, id, "the PSP is on fire").await.unwrap();
        }
        let give_up = "UPDATE payments SET next_attempt_at = NULL";
        sqlx::query(give_up).execute(&mut *scene.conn().await).await.unwrap();
    }
    let first = scene.admin.get("/v1/payments?attention=true&limit=2").await.ok(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = scene.admin.get(&format!("/v1/payments?attention=true&limit=2&cursor={cursor}")).await.ok(200);
    let items = [&first, &second].map(|page| page["items"].as_array().unwrap().clone()).concat();
    let ids: std::collections::BTreeSet<PaymentId> = items.iter().map(id_of).collect();
    assert_eq!((items.len(), ids.len(), &second["next_cursor"]), (3, 3, &Value::Null));
    assert!(items.iter().all(|item| item["last_error"] == "the PSP is on fire"), "{items:?}");
    assert_eq!(scene.admin.get("/v1/payments?attention=false").await.problem(422).code, "validation_failed");
    let retry = format!("/v1/payments/{}/retry", ids.first().unwrap());
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.get("/v1/payments?attention=true").await.problem(403).code, "forbidden");
        assert_eq!(user.get("/v1/refunds?attention=true").await.problem(403).code, "forbidden");
        assert_eq!(user.post(&retry, json!({})).await.problem(403).code, "forbidden");
    }
    let unknown = scene.admin.post(&format!("/v1/payments/{}/retry", PaymentId::new()), json!({})).await;
    assert_eq!(unknown.problem(404).code, "not_found");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_goes_on_by_itself_is_not_retried_by_hand(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let unknown = id_of(&scene.pay(scene.trip().await, "tok_timeout").await.ok(201));
    let retry = format!("/v1/payments/{unknown}/retry");
    assert_eq!(scene.admin.post(&retry, json!({})).await.problem(409).code, "invalid_transition");
    scene.later().await;
    assert_eq!(scene.payment(unknown).await["status"], "settled");
    assert_eq!(scene.admin.post(&retry, json!({})).await.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_webhook_about_what_was_given_up_has_the_psp_asked_once_more(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = id_of(&scene.pay(scene.trip().await, "tok_timeout").await.ok(201));
    let give_up = "UPDATE payments SET next_attempt_at = NULL, attempts = 20";
    sqlx::query(give_up).execute(&mut *scene.conn().await).await.unwrap();
    assert_eq!(scene.later().await, 0);
    let mut tx = scene.tx().await;
    store::make_payment_due(&mut tx, "sandbox", id, scene.region.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(scene.later().await, 1);
    assert_eq!(scene.payment(id).await["status"], "settled");
    scene.assert_books_agree().await;
}
