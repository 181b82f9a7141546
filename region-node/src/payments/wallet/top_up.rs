use axum::{extract::State, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::ids::PaymentId;

use crate::{
    app::App,
    db::TenantTx,
    http::{Command, ProblemBody, Stop},
    identity::Caller,
    payments::{
        Payment, PaymentError, PaymentKind, Split, pay,
        payment::AskedAmount,
        record::{AskedBy, PaymentRecord},
        store,
    },
    rides::{MethodType, PaymentMethod},
    tenants::PublishedConfig,
};

/// How much to put into the rider's wallet, and from where.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(in crate::payments) struct TopUpRequest {
    /// In the tenant's currency.
    #[garde(skip)]
    amount: AskedAmount,
    /// A card; without a token, or missing, the rider's usual one.
    #[garde(skip)]
    #[serde(default)]
    method: Option<PaymentMethod>,
}

/// Puts something into the calling rider's wallet: a payment of its own, of kind `top_up`, charged as a trip's is. It is in the wallet
/// once it is `settled`.
#[utoipa::path(post, path = "/v1/riders/me/wallet/top-ups", tag = "payments", security(("bearer" = [])),
    request_body = TopUpRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Payment), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 409, body = ProblemBody), (status = 422, body = ProblemBody), (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "wallets.top_up", skip_all)]
pub(in crate::payments) async fn top_up(
    State(app): State<App>,
    caller: Caller,
    command: Command<TopUpRequest>,
) -> Result<Response, Stop> {
    caller.rider()?;
    let published = app.tenants.config(caller.tenant()).await?;
    let mut tx = command.begin(&app, &caller).await?;
    let (begun, is_new) = match pay::begun_before(&mut tx, &command, &caller, app.clock.now()).await? {
        Some(payment) => (payment, false),
        None => (intend(&app, &mut tx, &published, &command, &caller).await?, true),
    };
    pay::go_on(&app, &caller, &command, tx, begun, is_new).await
}

async fn intend(
    app: &App,
    tx: &mut TenantTx,
    published: &PublishedConfig,
    command: &Command<TopUpRequest>,
    caller: &Caller,
) -> Result<PaymentRecord, Stop> {
    let (config, now) = (&published.config, app.clock.now());
    if !config.flags.payments {
        return Err(PaymentError::PaymentsOff.into());
    }
    let amount = command.body.amount.to_give(config.currency)?;
    let usual = PaymentMethod { kind: MethodType::Card, token: None };
    let method = command.body.method.clone().unwrap_or(usual);
    if method.kind != MethodType::Card {
        return Err(PaymentError::TopUpNotByCard.into());
    }
    let provider = pay::provider_of(app, &config.psp, &method, amount, caller)?;
    let (method, sequence) = pay::begin(app, &provider, method, None, now)?;
    let payment = PaymentRecord {
        id: PaymentId::new(),
        ride_id: None,
        trip_id: None,
        rider_id: caller.rider()?,
        driver_id: None,
        share_id: None,
        kind: PaymentKind::TopUp,
        method,
        amount,
        refunded_amount: 0,
        split: Split::of_amount(amount.amount, 0, 0, 0),
        provider,
        sequence,
        asked_by: AskedBy::of(command, caller, &tx.sealer().await?),
        created_at: now,
        settled_at: None,
        remote_durable_at: None,
        dispute: None,
    };
    store::insert_payment(tx, &payment).await?;
    Ok(payment)
}
