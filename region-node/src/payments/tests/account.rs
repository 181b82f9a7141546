//! Accounts at payment services: which one a tenant's config names, and whether this region has its secrets.

use axum::http::Method;

use super::*;
use crate::payments::psp::sign;

const ACCOUNT: &str = r#"
    [psp.stripe]
    base_url = "http://127.0.0.1:1"
    [psp.stripe.accounts.acme]
    mode = "test"
    tenants = ["cabs"]
    secret_key = "sk_test_of_tests"
    webhook_secret = "whsec_old,whsec_new"
"#;

async fn configure(scene: &Scene, psp: Value) -> Value {
    let path = format!("/v1/tenants/{}/config", scene.region.tenant);
    scene.admin.call(Method::PATCH, &path, Some(json!({"psp": psp})), &[]).await.ok(200)
}

async fn with_account(pool: PgPool) -> Scene {
    Scene::with_settings(pool, ACCOUNT).await
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_account_without_secrets_here_is_not_published_and_the_fix_is_named(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let view = configure(&scene, json!({"provider": "stripe", "account": "acme"})).await;
    assert_eq!(view["published"]["version"], 1);
    let why = view["rejected"][0].as_str().unwrap();
    assert!(why.contains("REGION_NODE_PSP__STRIPE__ACCOUNTS__ACME__SECRET_KEY"), "{why}");
    let path = format!("/v1/tenants/{}/config/publish", scene.region.tenant);
    let refused = scene.admin.post(&path, json!({})).await.problem(422);
    assert_eq!(refused.fields, ["psp.account"]);
    assert_eq!(scene.paid("tok_visa").await.to_string().len(), 36, "what runs goes on running");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_account_of_another_company_and_a_sandbox_that_is_switched_off_are_not_published(pool: PgPool) {
    let settings = ACCOUNT.replace("\"cabs\"", "\"porto-taxis\"") + "\n[psp.sandbox]\nenabled = false";
    let scene = Scene::new(pool).await;
    let strict = scene.region.another_node_with(&settings).await;
    let admin = strict.visited_by(&scene.admin);
    let path = format!("/v1/tenants/{}/config", scene.region.tenant);
    for (psp, fix) in [
        (json!({"provider": "stripe", "account": "acme"}), "psp.stripe.accounts.acme.tenants"),
        (json!({"provider": "sandbox", "account": null, "capture": "manual"}), "psp.sandbox.enabled"),
    ] {
        let view = admin.call(Method::PATCH, &path, Some(json!({"psp": psp})), &[]).await.ok(200);
        assert_eq!(view["published"]["version"], 1);
        assert!(view["rejected"][0].as_str().unwrap().contains(fix), "{view}");
        let refused = admin.post(&format!("{path}/publish"), json!({})).await;
        assert!(
            refused.json()["errors"][0]["message"].as_str().is_some_and(|why| why.contains(fix)),
            "{}",
            refused.json()
        );
        assert_eq!(refused.problem(422).fields, ["psp.account"]);
    }
    let paid = strict.visited_by(&scene.rider).post("/v1/payments", card(scene.trip().await, "tok_visa")).await;
    assert_eq!(paid.problem(503).code, "psp_unavailable", "though it was published when there was a sandbox");
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_node_that_lacks_the_secrets_others_have_says_so_and_writes_nothing(pool: PgPool) {
    let scene = with_account(pool).await;
    configure(&scene, json!({"provider": "stripe", "account": "acme"})).await;
    let trip = scene.trip().await;
    let poor = scene.region.another_node_with("").await;
    let refused = poor.visited_by(&scene.rider).post("/v1/payments", card(trip, "pm_1")).await;
    assert_eq!(refused.headers["retry-after"], "60");
    let names_settings = |answer: &TestAnswer| answer.json()["detail"].as_str().unwrap().contains("SECRET_KEY");
    assert!(!names_settings(&refused), "how a node is set up is none of a rider's business");
    assert_eq!(refused.problem(503).code, "psp_unavailable");
    let refused = poor.visited_by(&scene.admin).post("/v1/payments", card(trip, "pm_1")).await;
    assert!(names_settings(&refused), "the back office is told what to have mended");
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_silent_stripe_leaves_unknown_under_the_account_s_name(pool: PgPool) {
    let scene = with_account(pool).await;
    configure(&scene, json!({"provider": "stripe", "account": "acme"})).await;
    let trip = scene.trip().await;
    assert_eq!(scene.pay(trip, "tok_visa").await.problem(422).fields, ["method.token"]);
    for nonsense in ["pm_", "cus_1/", "cus_/pm_1", "pm_1&amount=1"] {
        assert_eq!(scene.pay(trip, nonsense).await.problem(422).fields, ["method.token"], "{nonsense}");
    }
    let payment = scene.pay(trip, "cus_1/pm_1").await.ok(201);
    assert_eq!((&payment["status"], &payment["provider"]), (&json!("unknown"), &json!("stripe:acme")));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_account_that_keeps_silent_is_left_alone_before_anything_is_begun(pool: PgPool) {
    let scene = with_account(pool).await;
    configure(&scene, json!({"provider": "stripe", "account": "acme"})).await;
    for _ in 0..10 {
        assert_eq!(scene.pay(scene.trip().await, "pm_1").await.ok(201)["status"], "unknown");
    }
    let refused = scene.pay(scene.trip().await, "pm_1").await;
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.problem(503).code, "psp_unavailable");
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 10);
    assert_eq!(scene.later().await, 10);
    let attempts = scene.number("SELECT sum(attempts)::bigint FROM payments").await;
    assert!(attempts <= 11, "{attempts}: the first of each, and whoever tries whether it answers again");
    configure(&scene, json!({"provider": "sandbox", "account": null})).await;
    scene.paid("tok_visa").await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn stripe_s_webhooks_name_the_tenant_in_their_address_and_are_signed_with_either_secret(pool: PgPool) {
    let scene = with_account(pool).await;
    configure(&scene, json!({"provider": "stripe", "account": "acme"})).await;
    let payment = scene.pay(scene.trip().await, "pm_1").await.ok(201);
    let object = json!({"metadata": {"gocomet_key": OperationKey::Payment(id_of(&payment)).to_string()}});
    let event = json!({"id": "evt_1", "type": "payment_intent.succeeded", "data": {"object": object}});
    let send = async |path: &str, secret: &str| {
        let now = scene.region.clock.now();
        let signature = sign(secret.as_bytes(), event.to_string().as_bytes(), now);
        let request = axum::http::Request::post(path).header("stripe-signature", signature);
        let body = axum::body::Body::from(event.to_string());
        scene.region.call(request.header("content-type", "application/json").body(body).unwrap()).await
    };
    let path = format!("/v1/psp/webhooks/stripe?tenant={}", scene.region.tenant);
    assert_eq!(send(&path, "whsec_other").await.problem(401).code, "invalid_signature");
    assert_eq!(send("/v1/psp/webhooks/stripe", "whsec_new").await.problem(400).code, "tenant_required");
    assert_eq!(send("/v1/psp/webhooks/stripe?tenant=nobody", "whsec_new").await.problem(404).code, "unknown_tenant");
    for (path, secret) in [(path.clone(), "whsec_new"), (path.replace("stripe?", "stripe:acme?"), "whsec_old")] {
        send(&path, secret).await.ok(200);
    }
    assert_eq!(scene.number("SELECT count(*) FROM psp_webhook_events").await, 1, "the second was a replay");
}
