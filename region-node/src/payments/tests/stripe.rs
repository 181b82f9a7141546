//! Stripe on a bad day, over the API.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Form, Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing,
};
use tokio::task::JoinSet;

use super::*;

/// A Stripe that makes what it is ordered to, and answers that something went wrong.
#[derive(Clone, Default)]
struct Failing {
    /// What is ordered for the first time it does not even make.
    fails_before: bool,
    /// The idempotency key of each order.
    keys: Arc<Mutex<Vec<String>>>,
    intent: Arc<Mutex<Option<Value>>>,
}

impl Failing {
    /// Serves until what it gives back is gone.
    async fn serve(&self) -> (SocketAddr, JoinSet<()>) {
        let order =
            async |State(stripe): State<Self>, headers: HeaderMap, Form(order): Form<BTreeMap<String, String>>| {
                if stripe.makes(&headers) {
                    let status = if order["capture_method"] == "manual" { "requires_capture" } else { "succeeded" };
                    *stripe.intent.lock().unwrap() = Some(json!({"id": "pi_1", "status": status, "created": 1,
                        "amount": order["amount"].parse::<i64>().unwrap(), "currency": order["currency"],
                        "metadata": {"gocomet_key": order["metadata[gocomet_key]"]}}));
                }
                error()
            };
        let capture = async |State(stripe): State<Self>, headers: HeaderMap| {
            if !stripe.makes(&headers) {
                return error();
            }
            let mut intent = stripe.intent.lock().unwrap();
            let intent = intent.as_mut().unwrap();
            intent["status"] = json!("succeeded");
            Json(intent.clone()).into_response()
        };
        let search = async |State(stripe): State<Self>| {
            let found: Vec<Value> = stripe.intent.lock().unwrap().iter().cloned().collect();
            Json(json!({"data": found}))
        };
        let router = Router::new()
            .route("/v1/payment_intents", routing::post(order))
            .route("/v1/payment_intents/pi_1/capture", routing::post(capture))
            .route("/v1/payment_intents/search", routing::get(search))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (address, serving)
    }

    /// Notes an order's key; whether the order is made.
    fn makes(&self, headers: &HeaderMap) -> bool {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        let mut keys = self.keys.lock().unwrap();
        let is_first = !keys.contains(&key);
        keys.push(key);
        !(is_first && self.fails_before)
    }

    fn keys(&self) -> Vec<String> {
        self.keys.lock().unwrap().clone()
    }
}

/// Stripe says that asking again does not help: it is left alone for a while.
fn error() -> Response {
    let error = Json(json!({"error": {"type": "api_error"}}));
    (StatusCode::INTERNAL_SERVER_ERROR, [("stripe-should-retry", "false")], error).into_response()
}

/// A company that is charged through it.
async fn charged_at(pool: PgPool, address: SocketAddr, capture: &str) -> Scene {
    let settings = format!(
        "[psp.stripe]\nbase_url = \"http://{address}\"\n[psp.stripe.accounts.acme]\nmode = \"test\"\ntenants = [\"cabs\"]\nsecret_key = \"sk_test_1\"\n"
    );
    let scene = Scene::with_settings(pool, &settings).await;
    let path = format!("/v1/tenants/{}/config", scene.region.tenant);
    let config = json!({"psp": {"provider": "stripe", "account": "acme", "capture": capture}});
    scene.admin.call(axum::http::Method::PATCH, &path, Some(config), &[]).await.ok(200);
    scene
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_server_error_of_stripe_is_asked_about_and_never_guessed_at(pool: PgPool) {
    let stripe = Failing::default();
    let (address, _serving) = stripe.serve().await;
    let scene = charged_at(pool, address, "automatic").await;

    let payment = scene.pay(scene.trip().await, "pm_card_visa").await.ok(201);
    assert_eq!(payment["status"], "unknown");
    scene.region.clock.advance(time::Duration::minutes(9));
    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 0);
    assert_eq!(scene.payment(id_of(&payment)).await["status"], "unknown");
    assert_eq!(scene.later().await, 1);
    assert_eq!(scene.payment(id_of(&payment)).await["status"], "settled");
    assert_eq!(stripe.keys().len(), 1, "it was asked about, not ordered anew");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_is_ordered_again_at_stripe_is_the_same_order_its_capture_too(pool: PgPool) {
    let stripe = Failing { fails_before: true, ..Failing::default() };
    let (address, _serving) = stripe.serve().await;
    let scene = charged_at(pool, address, "manual").await;
    let payment = id_of(&scene.pay(scene.trip().await, "pm_card_visa").await.ok(201));
    // Ordered anew, found set aside, and captured at the second attempt.
    for status in ["unknown", "unknown", "settled"] {
        assert_eq!(scene.later().await, 1);
        assert_eq!(scene.payment(payment).await["status"], status);
    }
    let (charge, capture) = (format!("payment-{payment}"), format!("payment-{payment}-capture"));
    assert_eq!(stripe.keys(), [charge.clone(), charge, capture.clone(), capture]);
}
