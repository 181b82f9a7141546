use axum::http::Method;

use super::*;
use crate::{
    payments::{forget_webhooks, psp::sign},
    testing::WEBHOOK_SECRET,
};

const PATH: &str = "/v1/psp/webhooks/sandbox";

pub(super) async fn send(scene: &Scene, event: &Value, signature: &str) -> TestAnswer {
    let headers = [("sandbox-signature", signature)];
    scene.region.nobody().call(Method::POST, PATH, Some(event.clone()), &headers).await
}

pub(super) fn signature(scene: &Scene, event: &Value) -> String {
    sign(WEBHOOK_SECRET.as_bytes(), event.to_string().as_bytes(), scene.region.clock.now())
}

pub(super) fn event(id: &str, about: &str) -> Value {
    json!({"id": id, "type": "charge.succeeded", "data": {"idempotency_key": about}})
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_webhook_has_the_psp_asked_at_once_and_its_replay_does_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = id_of(&scene.pay(scene.trip().await, "tok_timeout").await.ok(201));
    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 0);
    let event = event("evt_1", &OperationKey::Payment(id).to_string());
    assert_eq!(send(&scene, &event, &signature(&scene, &event)).await.ok(200), json!({"received": true}));
    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 1);
    let settled = scene.payment(id).await;
    assert_eq!(settled["status"], "settled");
    for _ in 0..3 {
        send(&scene, &event, &signature(&scene, &event)).await.ok(200);
        assert_eq!(scene.later().await, 0);
    }
    assert_eq!(scene.payment(id).await, settled);
    assert_eq!(scene.number("SELECT count(*) FROM psp_webhook_events").await, 1);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_webhook_that_lies_decides_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let declined = id_of(&scene.pay(scene.trip().await, "tok_declined").await.ok(201));
    let failing = id_of(&scene.pay(scene.trip().await, "tok_error").await.ok(201));
    for (i, id) in [declined, failing, PaymentId::new()].into_iter().enumerate() {
        let event = event(&format!("evt_{i}"), &OperationKey::Payment(id).to_string());
        send(&scene, &event, &signature(&scene, &event)).await.ok(200);
    }
    assert_eq!(scene.payment(failing).await["status"], "unknown", "it is the PSP's answer that counts");
    assert_eq!(scene.payment(declined).await["status"], "failed");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn unsigned_stale_and_foreign_webhooks_are_refused_and_write_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let event = event("evt_1", "payment-0");
    let good = signature(&scene, &event);
    let forged = sign(b"another secret", event.to_string().as_bytes(), scene.region.clock.now());
    for bad in ["", "t=1,v1=00", &forged] {
        assert_eq!(send(&scene, &event, bad).await.problem(401).code, "invalid_signature");
    }
    let other_body = send(&scene, &json!({"id": "evt_2", "data": {}}), &good).await;
    assert_eq!(other_body.problem(401).code, "invalid_signature");
    scene.region.clock.advance(time::Duration::minutes(6));
    assert_eq!(send(&scene, &event, &good).await.problem(401).code, "invalid_signature", "stale");
    let nonsense = json!(["no event"]);
    assert_eq!(send(&scene, &nonsense, &signature(&scene, &nonsense)).await.problem(400).code, "malformed_json");
    let nobody = scene.region.nobody();
    let unknown = nobody.post("/v1/psp/webhooks/monopoly", event.clone()).await;
    assert_eq!(unknown.problem(404).code, "not_found");
    assert_eq!(scene.number("SELECT count(*) FROM psp_webhook_events").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_webhook_of_the_sandbox_s_script_may_be_late_and_doubled_and_works_once(pool: PgPool) {
    let script = "seed = 1, silences = 1.0, webhooks_late = 1.0, webhooks_doubled = 1.0, late_by = \"2s\"";
    let settings = format!("psp = {{ timeout = \"100ms\", sandbox = {{ script = {{ {script} }} }} }}");
    let scene = Scene::with_settings(pool, &settings).await;
    let id = id_of(&scene.pay(scene.trip().await, "tok_visa").await.ok(201));
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_webhooks").await, 2);
    assert_eq!(scene.payment(id).await["status"], "unknown");
    // Sooner than anybody would look by himself.
    scene.region.clock.advance(time::Duration::seconds(2));
    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 1);
    let settled = scene.payment(id).await;
    assert_eq!(settled["status"], "settled");
    assert_eq!(scene.later().await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_webhooks").await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM psp_webhook_events").await, 1);
    assert_eq!(scene.payment(id).await, settled);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_webhook_s_event_is_known_for_a_month_and_then_forgotten(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let seen = async |id: &str| {
        let event = event(id, "payment-0");
        send(&scene, &event, &signature(&scene, &event)).await.ok(200);
    };
    seen("evt_old").await;
    scene.region.clock.advance(time::Duration::days(29));
    seen("evt_new").await;
    let forget = async || forget_webhooks(&scene.region.app.db, scene.region.clock.now()).await.unwrap();
    assert_eq!(forget().await, 0);
    scene.region.clock.advance(time::Duration::days(2));
    assert_eq!((forget().await, forget().await), (1, 0));
    assert_eq!(scene.number("SELECT count(*) FROM psp_webhook_events WHERE event_id = 'evt_new'").await, 1);
}
