//! Stripe on a bad day, over the API.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{Form, Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing};
use tokio::task::JoinSet;

use super::*;

/// A Stripe that makes what it is ordered to, and answers that something went wrong.
#[derive(Clone, Default)]
struct Failing {
    ordered: Arc<AtomicU32>,
    intent: Arc<Mutex<Option<Value>>>,
}

impl Failing {
    /// Serves until what it gives back is gone.
    async fn serve(&self) -> (SocketAddr, JoinSet<()>) {
        let order = async |State(stripe): State<Self>, Form(order): Form<BTreeMap<String, String>>| {
            stripe.ordered.fetch_add(1, Ordering::SeqCst);
            *stripe.intent.lock().unwrap() = Some(json!({"id": "pi_1", "status": "succeeded", "created": 1,
                "amount": order["amount"].parse::<i64>().unwrap(), "currency": order["currency"],
                "metadata": {"gocomet_key": order["metadata[gocomet_key]"]}}));
            let error = Json(json!({"error": {"type": "api_error"}}));
            (StatusCode::INTERNAL_SERVER_ERROR, [("stripe-should-retry", "false")], error).into_response()
        };
        let search = async |State(stripe): State<Self>| {
            let found: Vec<Value> = stripe.intent.lock().unwrap().iter().cloned().collect();
            Json(json!({"data": found}))
        };
        let router = Router::new()
            .route("/v1/payment_intents", routing::post(order))
            .route("/v1/payment_intents/search", routing::get(search))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (address, serving)
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_server_error_of_stripe_is_asked_about_and_never_guessed_at(pool: PgPool) {
    let stripe = Failing::default();
    let (address, _serving) = stripe.serve().await;
    let settings = format!(
        "[psp.stripe]\nbase_url = \"http://{address}\"\n[psp.stripe.accounts.acme]\nmode = \"test\"\ntenants = [\"cabs\"]\nsecret_key = \"sk_test_1\"\n"
    );
    let scene = Scene::with_settings(pool, &settings).await;
    let path = format!("/v1/tenants/{}/config", scene.region.tenant);
    let config = json!({"psp": {"provider": "stripe", "account": "acme"}});
    scene.admin.call(axum::http::Method::PATCH, &path, Some(config), &[]).await.ok(200);

    let payment = scene.pay(scene.trip().await, "pm_card_visa").await.ok(201);
    assert_eq!(payment["status"], "unknown");
    // Stripe says that asking again does not help: it is left alone for a while.
    scene.region.clock.advance(time::Duration::minutes(9));
    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 0);
    assert_eq!(scene.payment(id_of(&payment)).await["status"], "unknown");
    assert_eq!(scene.later().await, 1);
    assert_eq!(scene.payment(id_of(&payment)).await["status"], "settled");
    assert_eq!(stripe.ordered.load(Ordering::SeqCst), 1, "it was asked about, not ordered anew");
}
