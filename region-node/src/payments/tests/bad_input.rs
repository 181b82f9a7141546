use super::*;
use crate::payments::{psp::sign, tests::webhook};

/// Everything money leaves a trace in.
const TRACES: [&str; 8] = [
    "SELECT count(*) FROM payments",
    "SELECT count(*) FROM refunds",
    "SELECT count(*) FROM ledger_entries",
    "SELECT count(*) FROM ledger_postings",
    "SELECT count(*) FROM sandbox_psp_operations",
    "SELECT count(*) FROM psp_webhook_events",
    "SELECT count(*) FROM repl_outbox WHERE stream = 'ledger'",
    "SELECT count(*) FROM idempotency_keys",
];

async fn traces(scene: &Scene) -> Vec<i64> {
    let mut counts = Vec::new();
    for trace in TRACES {
        counts.push(scene.number(trace).await);
    }
    counts
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn each_kind_of_bad_input_has_its_problem_and_leaves_no_trace(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let paid = scene.paid("tok_visa").await;
    let trip = scene.trip().await;
    let stranger = scene.region.rider().await;
    scene.region.new_tenant("other-cabs", json!({})).await;
    let foreigner = scene.region.rider_of("other-cabs").await;
    let refunds = format!("/v1/payments/{paid}/refunds");
    let tip = |money: Value| json!({"amount": money, "method": {"type": "card", "token": "tok_visa"}});
    let tips = format!("/v1/trips/{}/tip", trip.0);
    let dollars = |amount: i64| json!({"amount": amount, "currency": "USD"});
    let euros = json!({"amount": 100, "currency": "EUR"});
    let event = webhook::event("evt_bad", &OperationKey::Payment(paid).to_string());
    let now = scene.region.clock.now();
    let unsigned = "";
    let forged = sign(b"another secret", event.to_string().as_bytes(), now);
    let stale =
        sign(crate::testing::WEBHOOK_SECRET.as_bytes(), event.to_string().as_bytes(), now - time::Duration::hours(1));

    let before = traces(&scene).await;
    let calls: [(&str, TestAnswer, u16, &str, &[&str]); 9] = [
        ("unknown token", scene.pay(trip, "tok_gold").await, 422, "validation_failed", &["method.token"]),
        (
            "wrong currency of a refund",
            scene.admin.post(&refunds, json!({"amount": euros, "reason": "x"})).await,
            422,
            "validation_failed",
            &["amount.currency"],
        ),
        (
            "wrong currency of a tip",
            scene.rider.post(&tips, tip(euros.clone())).await,
            422,
            "validation_failed",
            &["amount.currency"],
        ),
        (
            "amount above the rest",
            scene.admin.post(&refunds, json!({"amount": dollars(FARE + 1), "reason": "x"})).await,
            422,
            "amount_exceeds_payment",
            &[],
        ),
        ("another rider's trip", stranger.post("/v1/payments", card(trip, "tok_visa")).await, 404, "not_found", &[]),
        ("another company's trip", foreigner.post("/v1/payments", card(trip, "tok_visa")).await, 404, "not_found", &[]),
        ("unsigned webhook", webhook::send(&scene, &event, unsigned).await, 401, "invalid_signature", &[]),
        ("forged webhook", webhook::send(&scene, &event, &forged).await, 401, "invalid_signature", &[]),
        ("stale webhook", webhook::send(&scene, &event, &stale).await, 401, "invalid_signature", &[]),
    ];
    for (what, answer, status, code, fields) in calls {
        let problem = answer.problem(status);
        assert_eq!(
            (problem.code.as_str(), problem.fields),
            (code, fields.iter().map(|field| (*field).to_owned()).collect()),
            "{what}"
        );
    }
    assert_eq!(traces(&scene).await, before, "{TRACES:?}");
    assert_eq!(scene.pay(trip, "tok_visa").await.ok(201)["status"], "settled", "the same trip is paid as ever");
    scene.assert_books_agree().await;
}
