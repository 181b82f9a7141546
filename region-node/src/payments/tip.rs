//! Something for the driver, after the trip.

use axum::{extract::State, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::ids::TripId;

use super::{
    Payment, PaymentError, PaymentKind, Split,
    pay::{self, Due},
    payment::AskedAmount,
    record::{AskedBy, PaymentRecord},
};
use crate::{
    app::App,
    db::TenantTx,
    http::{Command, Path, ProblemBody, Stop},
    identity::Caller,
    rides::{MethodType, PaymentMethod},
    tenants::PublishedConfig,
    trips::TripStatus,
};

/// How much for the driver.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct TipRequest {
    /// In the currency of the fare.
    #[garde(skip)]
    amount: AskedAmount,
    /// A card or wallet; missing: what the ride was to be paid with.
    #[garde(skip)]
    #[serde(default)]
    method: Option<PaymentMethod>,
}

/// Tips the driver of a completed trip, once: a payment of its own, of kind `tip`, all of it the driver's. One that is
/// declined may be tried anew.
#[utoipa::path(post, path = "/v1/trips/{id}/tip", tag = "payments", security(("bearer" = [])), request_body = TipRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = TripId, Path)),
    responses((status = 201, body = Payment), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
              (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "payments.tip", skip_all, fields(trip.id = %id))]
pub(super) async fn tip(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    command: Command<TipRequest>,
) -> Result<Response, Stop> {
    caller.rider()?;
    let published = app.tenants.config(caller.tenant()).await?;
    let mut tx = command.begin(&app, &caller).await?;
    let (begun, is_new) = match pay::begun_before(&mut tx, &command, &caller, app.clock.now()).await? {
        Some(payment) => (payment, false),
        None => (intend(&app, &mut tx, &published, &command, &caller, id).await?, true),
    };
    pay::go_on(&app, &caller, &command, tx, begun, is_new).await
}

async fn intend(
    app: &App,
    tx: &mut TenantTx,
    published: &PublishedConfig,
    command: &Command<TipRequest>,
    caller: &Caller,
    id: TripId,
) -> Result<PaymentRecord, Stop> {
    let config = &published.config;
    if !config.flags.payments {
        return Err(PaymentError::PaymentsOff.into());
    }
    let owed = pay::owed(tx, caller, id, None).await?;
    let fare = match (owed.status, &owed.fare) {
        (TripStatus::Completed, Some(fare)) => fare.total,
        (status, _) => return Err(PaymentError::NoTip { trip: id, status: status.to_string() }.into()),
    };
    let amount = command.body.amount.to_give(fare.currency)?;
    let method = command.body.method.clone().unwrap_or_else(|| owed.method.clone());
    if method.kind == MethodType::Cash {
        return Err(PaymentError::TipInCash.into());
    }
    if owed.is_tipped {
        return Err(PaymentError::AlreadyTipped(id).into());
    }
    let provider = pay::provider_of(app, &config.psp, &method, amount, caller)?;
    let due = Due { share: None, kind: PaymentKind::Tip, amount, split: Split::of_tip(amount.amount) };
    let asked_by = AskedBy::of(command, caller, &tx.sealer().await?);
    Ok(pay::record(app, tx, provider, owed, due, method, asked_by).await?)
}
