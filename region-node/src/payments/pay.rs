//! Paying for a trip.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::{
    claims::Role,
    ids::{PaymentId, TripId},
};
use time::OffsetDateTime;

use super::{
    Payment, PaymentError, PaymentKind, Sequence, Split, Step,
    record::{AskedBy, NO_PSP, PaymentRecord, is_chargeable},
    steps, store,
};
use crate::{
    app::App,
    db::{TenantTx, constraint},
    http::{Command, CommandTx, KEPT_FOR, ProblemBody, Stop},
    identity::{Caller, Subject},
    pricing::LineCode,
    rides::{self, PaymentMethod},
    trips::{self, Trip, TripStatus},
};

/// What to pay, and how.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct PayRequest {
    /// A completed trip.
    #[garde(skip)]
    trip_id: TripId,
    /// `cash`, or `card` and `wallet` with the PSP's token; without a token, the ride's own or the rider's usual one is
    /// charged. The sandbox knows `tok_visa`, `tok_declined`, `tok_insufficient_funds`, `tok_timeout`, `tok_error`,
    /// `tok_refund_declined` and `tok_refund_timeout`.
    #[garde(skip)]
    method: PaymentMethod,
}

/// Pays for a completed trip, once. A card that is declined leaves a `failed` payment, and the trip may be paid anew. Where
/// the PSP does not answer in time the payment is `unknown`, and resolves by itself once the PSP says what happened.
#[utoipa::path(post, path = "/v1/payments", tag = "payments", security(("bearer" = [])), request_body = PayRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Payment), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "payments.pay", skip_all, fields(trip.id = %command.body.trip_id))]
pub(super) async fn pay(
    State(app): State<App>,
    caller: Caller,
    command: Command<PayRequest>,
) -> Result<Response, Stop> {
    caller.must_be(&[Role::Rider, Role::TenantAdmin, Role::Operator])?;
    let now = app.clock.now();
    let mut tx = command.begin(&app, &caller).await?;
    let (begun, is_new) = match begun_before(&mut tx, &command, &caller, now).await? {
        Some(payment) => (payment, false),
        None => (intend(&app, &mut tx, &command, &caller, now).await?, true),
    };
    let payment = match begun.sequence.step {
        Step::Pending if is_new => {
            tx.commit().await?;
            let answer = steps::ask_for_charge(&app, caller.tenant(), &begun).await;
            steps::record_charge(&app, caller.tenant(), begun.id, &answer).await?
        }
        Step::Pending => {
            let begun = PaymentRecord { sequence: begun.sequence.taken(now + app.psp.hold()), ..begun };
            store::save_payment(&mut tx, &begun, now).await?;
            tx.commit().await?;
            let answer = steps::find_or_charge(&app, caller.tenant(), &begun, true).await;
            let answer = answer.expect("a charge that may be made has an answer or none in time");
            steps::record_charge(&app, caller.tenant(), begun.id, &answer).await?
        }
        Step::Unknown | Step::Authorized | Step::Settled | Step::Failed => {
            let payment = steps::settle_payment(&mut tx, begun, now).await?;
            return tx.finish(StatusCode::CREATED, &payment.view()).await;
        }
    };
    finish(&app, &caller, &command, payment.id).await
}

/// The last transaction: settles what the PSP agreed to and stores the answer with it.
async fn finish(app: &App, caller: &Caller, command: &Command<PayRequest>, id: PaymentId) -> Result<Response, Stop> {
    let mut tx = command.resume(app, caller).await?;
    let payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    let payment = steps::settle_payment(&mut tx, payment, app.clock.now()).await?;
    tracing::info!(payment.id = %id, "payment {id} is {}", payment.status());
    tx.finish(StatusCode::CREATED, &payment.view()).await
}

/// The payment this very request began before a crash, or begins right now on another connection.
async fn begun_before(
    tx: &mut CommandTx,
    command: &Command<PayRequest>,
    caller: &Caller,
    now: OffsetDateTime,
) -> Result<Option<PaymentRecord>, Stop> {
    let Some(key) = &command.key else { return Ok(None) };
    let begun = store::asked_under_key(tx, &caller.key_owner(), &key.key, now - KEPT_FOR).await?;
    if let Some(begun) = &begun {
        if let Some(asked_by) = &begun.asked_by {
            asked_by.check(&key.request_hash)?;
        }
        if begun.sequence.is_held(now) {
            return Err(PaymentError::InProgress.into());
        }
    }
    Ok(begun)
}

/// Records the intent; what needs no PSP is agreed to at once.
async fn intend(
    app: &App,
    tx: &mut TenantTx,
    command: &Command<PayRequest>,
    caller: &Caller,
    now: OffsetDateTime,
) -> Result<PaymentRecord, Stop> {
    let config = app.tenants.config(caller.tenant()).await?;
    if !config.config.flags.payments {
        return Err(PaymentError::PaymentsOff.into());
    }
    let trip = trip_of(tx, caller, command.body.trip_id).await?;
    let Some(fare) = trip.fare.as_ref().filter(|_| trip.status == TripStatus::Completed) else {
        return Err(PaymentError::TripNotCompleted { trip: trip.id, status: trip.status.to_string() }.into());
    };
    let tax = fare.lines.iter().filter(|line| line.code == LineCode::Tax).map(|line| line.amount.amount).sum();
    let mut method = command.body.method.clone();
    let needs_psp = is_chargeable(&method) && fare.total.amount > 0;
    let provider = if needs_psp { config.config.psp.provider.as_str() } else { NO_PSP };
    if needs_psp {
        let given = match method.token {
            Some(token) => Some(token),
            None => rides::load(tx, trip.ride_id).await?.and_then(|ride| ride.payment_method.token),
        };
        method.token = Some(app.psp.get(provider)?.token(given.as_deref())?);
    }
    let payment = PaymentRecord {
        id: PaymentId::new(),
        ride_id: trip.ride_id,
        trip_id: trip.id,
        rider_id: trip.rider_id,
        driver_id: Some(trip.driver_id),
        kind: PaymentKind::Fare,
        method,
        amount: fare.total,
        refunded_amount: 0,
        split: Split::of_fare(fare.total.amount, tax, config.config.commission_percent),
        provider: provider.to_owned(),
        sequence: if needs_psp { Sequence::begun(now + app.psp.hold()) } else { Sequence::without_psp() },
        asked_by: AskedBy::of(command, caller),
        created_at: now,
        settled_at: None,
        remote_durable_at: None,
    };
    store::insert_payment(tx, &payment).await.map_err(|error| match constraint(&error) {
        Some("one_live_payment_per_trip") => Stop::from(PaymentError::AlreadyPaid(trip.id)),
        _ => Stop::from(error),
    })?;
    Ok(payment)
}

/// The trip, if the caller may pay for it.
async fn trip_of(tx: &mut TenantTx, caller: &Caller, id: TripId) -> Result<Trip, Stop> {
    let trip = trips::load(tx, id).await?.ok_or(PaymentError::NoSuchTrip(id))?;
    match caller.subject {
        Subject::Rider(rider) if rider != trip.rider_id => Err(PaymentError::NoSuchTrip(id).into()),
        Subject::Rider(_) | Subject::Driver(_) | Subject::Client(_) => Ok(trip),
    }
}
