//! What a PSP tells us unasked.
//!
//! A webhook may be late, doubled, or overtake the answer it is about, so it decides nothing: it makes the payment or refund
//! it names due, and the PSP is asked what is true; of a refund that was settled, whether it still is. What it says of a dispute is
//! another matter: see [`dispute`]. What cannot be taken yet is refused, so that the PSP sends it again, as it does for days.

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use serde::Serialize;
use shared::ids::TenantId;
use time::{Duration, OffsetDateTime};

use super::{PaymentError, dispute, psp::OperationKey, steps, store, stray};
use crate::{
    app::App,
    db::Db,
    http::{Path, Problem, ProblemBody, read_body},
    tenants::TenantHeader,
};

/// A replay is known for so long. Stripe sends an event again for three days, and signatures are good for minutes.
const REPLAYS_KNOWN_FOR: Duration = Duration::days(30);
/// Events forgotten at once.
const FORGOTTEN_AT_ONCE: i64 = 5_000;

/// The webhook has been taken, now or before.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Received {
    received: bool,
}

/// Takes a PSP's webhook. The sandbox signs with `Sandbox-Signature: t=<unix seconds>,v1=<hex>`, an HMAC-SHA256 over
/// `<unix seconds>.<body>` with the configured secret, and sends `{"id","type","data":{"idempotency_key"}}`, or of a
/// dispute `{"id","type","created","data":{"dispute":{"id","charge","amount":{"amount","currency"},"status":"open|won|lost","opened_at"}}}`,
/// where `created` (unix seconds; it may be missing) dates what was decided. Signatures older than five minutes are refused; a replay
/// does nothing. Stripe signs with `Stripe-Signature` in the same form; it cannot send a header of ours, so its endpoint is
/// `…/stripe?tenant=<tenant>`, or `…/stripe:<account>?tenant=<tenant>` for an account the tenant has left.
#[utoipa::path(post, path = "/v1/psp/webhooks/{provider}", tag = "payments",
    request_body(content = Object, content_type = "application/json"),
    params(("X-Tenant-Id" = Option<String>, Header), ("tenant" = Option<String>, Query, description = "Instead of X-Tenant-Id."),
           ("Sandbox-Signature" = Option<String>, Header), ("Stripe-Signature" = Option<String>, Header),
           ("provider" = String, Path)),
    responses((status = 200, body = Received), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "payments.webhook", skip_all, fields(provider = %provider))]
pub(super) async fn receive_webhook(
    State(app): State<App>,
    TenantHeader(tenant): TenantHeader,
    Path(provider): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Received>, Problem> {
    let provider = account_of(&app, &tenant, provider).await?;
    app.psp.get(&provider).map_err(|_| PaymentError::NoSuchProvider(provider.escape_default().to_string()))?;
    let body = read_body(body, app.config.http.body_limit_bytes).await?;
    take(&app, &tenant, &provider, &headers, &body).await?;
    Ok(Json(Received { received: true }))
}

/// Takes the webhooks the sandbox's script sends by now, just as those that come from outside.
pub(super) async fn take_scripted(app: &App) -> Result<(), Problem> {
    for sent in app.psp.due_webhooks(app.region.as_str()).await? {
        if let Err(problem) = take(app, &sent.tenant, sent.provider, &sent.headers, &sent.body).await {
            tracing::warn!(%problem, tenant = %sent.tenant, "a webhook of the sandbox was not taken");
        }
    }
    Ok(())
}

/// Forgets the events nobody can replay any more; any node may do it at any time.
pub async fn forget_webhooks(db: &Db, now: OffsetDateTime) -> Result<u64, Problem> {
    let mut forgotten = 0;
    loop {
        let mut tx = db.system().await?;
        let some = store::forget_webhooks(&mut tx, now - REPLAYS_KNOWN_FOR, FORGOTTEN_AT_ONCE).await?;
        tx.commit().await?;
        forgotten += some;
        if some < FORGOTTEN_AT_ONCE.unsigned_abs() {
            return Ok(forgotten);
        }
    }
}

async fn take(app: &App, tenant: &TenantId, provider: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Problem> {
    let now = app.clock.now();
    let event = app.psp.get(provider)?.webhook(headers, body, now)?;
    if let Some(OperationKey::Refund(id)) = event.about {
        steps::take_back_if_sent_back(app, tenant, provider, id).await?;
    }
    let stray = match &event.dispute {
        Some(news) => dispute::find_stray(app, tenant, provider, news).await?,
        None => None,
    };
    let mut tx = app.db.begin(tenant).await?;
    if store::first_sight(&mut tx, provider, &event.id, now).await? {
        match event.about {
            Some(OperationKey::Payment(id)) => store::make_payment_due(&mut tx, provider, id, now).await?,
            Some(OperationKey::Refund(id)) => store::make_refund_due(&mut tx, provider, id, now).await?,
            None if event.dispute.is_none() => tracing::info!(event.id = event.id, "a webhook about nothing of ours"),
            None => {}
        }
        match (&event.dispute, stray) {
            (Some(news), Some(payment)) => stray::keep(&mut tx, provider, payment, news, now).await?,
            (Some(news), None) => dispute::take(&mut tx, provider, news, now).await?,
            (None, _) => {}
        }
    }
    tx.commit().await?;
    Ok(())
}

/// A provider's bare name stands for the account there that the tenant uses now.
async fn account_of(app: &App, tenant: &TenantId, provider: String) -> Result<String, Problem> {
    let published = app.tenants.config(tenant).await?;
    let account = &published.config.psp;
    Ok(if account.provider == provider { account.reference() } else { provider })
}
