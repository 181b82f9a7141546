//! Paying for a trip.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::{
    claims::Role,
    ids::{PaymentId, ShareId, TripId},
    money::Money,
    tenant_config::{PspAccount, TenantConfig},
};
use time::OffsetDateTime;

use super::{
    Payment, PaymentError, PaymentKind, Phase, Sequence, Split, Step,
    record::{AskedBy, CASH, PaymentRecord, WALLET, is_psp, may_go_on},
    resume, steps,
    store::{self, Owed},
    wallet,
};
use crate::{
    app::App,
    db::{TenantTx, constraint},
    http::{Command, CommandTx, KEPT_FOR, Problem, ProblemBody, Stop},
    identity::{Caller, Subject},
    rides::{MethodType, PaymentMethod},
    trips::TripStatus,
};

/// What to pay, and how.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct PayRequest {
    /// A completed trip, or a cancelled one whose ride has a cancellation fee.
    #[garde(skip)]
    trip_id: TripId,
    /// A share of its fare that has fallen back to the ride's rider; missing: his own part, which is all of a fare nobody shares.
    #[garde(skip)]
    #[serde(default)]
    share_id: Option<ShareId>,
    /// `cash`, `wallet` for the rider's wallet with the company, or `card` with the PSP's token; without a token, the ride's own
    /// or the rider's usual one is charged. The sandbox knows `tok_visa`, `tok_declined`, `tok_insufficient_funds`, `tok_timeout`, `tok_error`,
    /// `tok_refund_declined` and `tok_refund_timeout`.
    #[garde(skip)]
    method: PaymentMethod,
}

/// Pays for a completed trip, or the fee of a cancellation that cost, once. A rider may name cash only where the ride was to
/// be paid so; the back office may record it for any. A wallet pays all of it or nothing (`wallet_insufficient`). A card that is declined leaves a `failed` payment, and the trip may be
/// paid anew. Where the PSP does not answer in time the payment is `unknown`, and resolves by itself once the PSP says what
/// happened.
#[utoipa::path(post, path = "/v1/payments", tag = "payments", security(("bearer" = [])), request_body = PayRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Payment), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
              (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "payments.pay", skip_all, fields(trip.id = %command.body.trip_id))]
pub(super) async fn pay(
    State(app): State<App>,
    caller: Caller,
    command: Command<PayRequest>,
) -> Result<Response, Stop> {
    caller.must_be(&[Role::Rider, Role::TenantAdmin, Role::Operator])?;
    let published = app.tenants.config(caller.tenant()).await?;
    let now = app.clock.now();
    let mut tx = command.begin(&app, &caller).await?;
    let (begun, is_new) = match begun_before(&mut tx, &command, &caller, now).await? {
        Some(payment) => (payment, false),
        None => (intend(&app, &mut tx, &published.config, &command, &caller).await?, true),
    };
    go_on(&app, &caller, &command, tx, begun, is_new).await
}

/// Goes on with a payment to the end of the command: asks the PSP where that has to be, and settles what it agrees to.
pub(super) async fn go_on<T>(
    app: &App,
    caller: &Caller,
    command: &Command<T>,
    mut tx: CommandTx,
    begun: PaymentRecord,
    is_new: bool,
) -> Result<Response, Stop> {
    let now = app.clock.now();
    let payment = match begun.sequence.step {
        Step::Pending if is_new => {
            begun.passing().at(app, Phase::Intending).await;
            tx.commit().await?;
            let answer = steps::ask_for_charge(app, caller.tenant(), &begun).await;
            steps::record_charge(app, caller.tenant(), begun.id, &answer).await?
        }
        Step::Pending => {
            let begun = PaymentRecord { sequence: begun.sequence.taken(now + app.psp.hold()), ..begun };
            store::save_payment(&mut tx, &begun, now).await?;
            tx.commit().await?;
            let may_charge = app.tenants.config(caller.tenant()).await?.config.flags.payments;
            match steps::find_or_charge(app, caller.tenant(), &begun, may_charge).await {
                Some(answer) => steps::record_charge(app, caller.tenant(), begun.id, &answer).await?,
                None => {
                    resume::put_off(app, caller.tenant(), begun.id).await?;
                    return Err(PaymentError::PaymentsOff.into());
                }
            }
        }
        Step::Unknown | Step::Authorized | Step::Settled | Step::Failed => return finish(app, tx, begun).await,
    };
    let mut tx = command.resume(app, caller).await?;
    let payment = store::lock_payment(&mut tx, payment.id).await?.ok_or(PaymentError::NotFound(payment.id))?;
    finish(app, tx, payment).await
}

/// The last transaction: settles what the PSP agreed to and stores the answer with it. The payment is locked.
async fn finish(app: &App, mut tx: CommandTx, payment: PaymentRecord) -> Result<Response, Stop> {
    let payment = steps::settle_payment(&mut tx, payment, app.clock.now()).await?;
    tracing::info!(payment.id = %payment.id, "payment {} is {}", payment.id, payment.status());
    payment.passing().at(app, Phase::Settling).await;
    let answer = tx.finish(StatusCode::CREATED, &payment.view()).await;
    payment.passing().at(app, Phase::Settled).await;
    answer
}

/// The payment this very request began before a crash, or begins right now on another connection.
pub(super) async fn begun_before<T>(
    tx: &mut CommandTx,
    command: &Command<T>,
    caller: &Caller,
    now: OffsetDateTime,
) -> Result<Option<PaymentRecord>, Stop> {
    let Some(key) = &command.key else { return Ok(None) };
    let begun = store::asked_under_key(tx, &caller.key_owner(), &key.key, now - KEPT_FOR).await?;
    if let Some(begun) = &begun {
        may_go_on(tx, key, begun.asked_by.as_ref(), &begun.sequence, now).await?;
    }
    Ok(begun)
}

/// Records the intent to pay for a trip.
async fn intend(
    app: &App,
    tx: &mut TenantTx,
    config: &TenantConfig,
    command: &Command<PayRequest>,
    caller: &Caller,
) -> Result<PaymentRecord, Stop> {
    if !config.flags.payments {
        return Err(PaymentError::PaymentsOff.into());
    }
    let share = command.body.share_id;
    let owed = owed(tx, caller, command.body.trip_id, share).await?;
    let due = Due::of(&owed, share, owed.commission_percent.unwrap_or(config.commission_percent))?;
    let method = command.body.method.clone();
    due.check_method(&method, &owed, caller)?;
    if owed.is_settled {
        return Err(PaymentError::AlreadyPaid(owed.trip_id).into());
    }
    let provider = provider_of(app, &config.psp, &method, due.amount, caller)?;
    let asked_by = AskedBy::of(command, caller, &tx.sealer().await?);
    Ok(record(app, tx, provider, owed, due, method, asked_by).await?)
}

/// Who is to move the money: the tenant's account at a payment service where that is needed.
pub(super) fn provider_of(
    app: &App,
    psp: &PspAccount,
    method: &PaymentMethod,
    amount: Money,
    caller: &Caller,
) -> Result<String, PaymentError> {
    match method.kind {
        _ if amount.amount == 0 => return Ok(CASH.to_owned()),
        MethodType::Cash => return Ok(CASH.to_owned()),
        MethodType::Wallet => return Ok(WALLET.to_owned()),
        MethodType::Card => {}
    }
    usable_account(app, psp, caller)
}

/// The name of the tenant's account, if the tenant can be charged through it.
pub(super) fn usable_account(app: &App, psp: &PspAccount, caller: &Caller) -> Result<String, PaymentError> {
    match app.psp.why_unusable(caller.tenant(), psp) {
        Some(why) => Err(unusable(why, caller, &psp.reference())),
        None => Ok(psp.reference()),
    }
}

/// Records the intent; what needs no PSP is agreed to at once.
pub(super) async fn record(
    app: &App,
    tx: &mut TenantTx,
    provider: String,
    owed: Owed,
    due: Due,
    method: PaymentMethod,
    asked_by: Option<AskedBy>,
) -> Result<PaymentRecord, Problem> {
    let now = app.clock.now();
    let (method, sequence) = begin(app, &provider, method, owed.method.token.as_deref(), now)?;
    let payment = PaymentRecord {
        id: PaymentId::new(),
        ride_id: Some(owed.ride_id),
        trip_id: Some(owed.trip_id),
        rider_id: owed.rider_id,
        driver_id: Some(owed.driver_id),
        share_id: due.share,
        kind: due.kind,
        method,
        amount: due.amount,
        refunded_amount: 0,
        split: due.split,
        provider,
        sequence,
        asked_by,
        created_at: now,
        settled_at: None,
        remote_durable_at: None,
        dispute: None,
    };
    store::insert_payment(tx, &payment).await.map_err(|error| match constraint(&error) {
        Some("one_live_payment_per_share") => PaymentError::AlreadyPaid(owed.trip_id).into(),
        Some("one_live_tip_per_trip") => PaymentError::AlreadyTipped(owed.trip_id).into(),
        _ => Problem::from(error),
    })?;
    if payment.is_from_wallet() {
        wallet::hold_enough(app, tx, &payment).await??;
    }
    Ok(payment)
}

/// How a payment begins that a call waits for, and what it is made with: where no token is said, the one saved with the ride, or the
/// rider's usual one.
pub(super) fn begin(
    app: &App,
    provider: &str,
    mut method: PaymentMethod,
    saved: Option<&str>,
    now: OffsetDateTime,
) -> Result<(PaymentMethod, Sequence), PaymentError> {
    if !is_psp(provider) {
        return Ok((method, Sequence::without_psp()));
    }
    let psp = app.psp.get(provider)?;
    method.token = Some(match &method.token {
        Some(token) => psp.token(Some(token))?,
        None => psp.token(saved).map_err(PaymentError::of_saved_method)?,
    });
    app.psp.admit(provider)?;
    Ok((method, Sequence::begun(now + app.psp.hold())))
}

/// How a node is set up is told to those who can mend it, and to the log.
fn unusable(why: String, caller: &Caller, provider: &str) -> PaymentError {
    tracing::error!(tenant = %caller.tenant(), provider, "a payment cannot be begun: {why}");
    let why = if caller.is_back_office() { why } else { "the company's account there cannot be used yet".to_owned() };
    PaymentError::PspUnavailable { why, wait_s: 60 }
}

/// What a trip costs its rider, and who shares it.
pub(super) struct Due {
    /// Of the fare; none for the ride's rider's own part.
    pub(super) share: Option<ShareId>,
    pub(super) kind: PaymentKind,
    pub(super) amount: Money,
    pub(super) split: Split,
}

impl Due {
    /// A completed trip costs its fare, less what others pay as their shares. A share costs the ride's rider what it came to,
    /// once it has fallen back to him. A cancelled trip costs the fee of the cancellation that ended it, if that cost.
    fn of(owed: &Owed, share: Option<ShareId>, commission_percent: u8) -> Result<Self, PaymentError> {
        match (owed.status, &owed.fare, owed.cancellation_fee) {
            (TripStatus::Completed, Some(fare), _) => {
                let amounts: Vec<_> = owed.shares.iter().map(|share| share.amount).collect();
                let (parts, own) = Split::of(fare, commission_percent).shared(&amounts);
                let split = match share {
                    None => own,
                    Some(id) => match owed.shares.iter().zip(parts).find(|(share, _)| share.id == id) {
                        Some((share, part)) if share.has_fallen_back => part,
                        Some(_) => return Err(PaymentError::SharePaidByOther(id)),
                        None => return Err(PaymentError::NoSuchShare(id)),
                    },
                };
                let amount = Money::new(split.total(), fare.total.currency);
                Ok(Self { share, kind: PaymentKind::Fare, amount, split })
            }
            (TripStatus::Cancelled, _, Some(fee)) if share.is_none() => Ok(Self {
                share,
                kind: PaymentKind::of_fee(owed.cancelled_by),
                amount: fee,
                split: Split::of_cancellation_fee(fee.amount, Some(owed.driver_id)),
            }),
            _ => Err(PaymentError::NothingToPay { trip: owed.trip_id, status: owed.status.to_string() }),
        }
    }

    /// Nobody but the driver sees cash change hands, so a rider's word counts only where cash was agreed on and the two
    /// have met.
    fn check_method(&self, method: &PaymentMethod, owed: &Owed, caller: &Caller) -> Result<(), PaymentError> {
        let is_agreed = self.kind == PaymentKind::Fare && owed.method.kind == MethodType::Cash;
        let by_rider = matches!(caller.subject, Subject::Rider(_));
        if by_rider && method.kind == MethodType::Cash && !is_agreed {
            return Err(PaymentError::CashNotAgreed);
        }
        Ok(())
    }
}

/// What is owed for a trip, or for a share of its fare, if the caller may pay for it.
pub(super) async fn owed(tx: &mut TenantTx, caller: &Caller, id: TripId, share: Option<ShareId>) -> Result<Owed, Stop> {
    let owed = store::owed(tx, id, share).await?.ok_or(PaymentError::NoSuchTrip(id))?;
    match caller.subject {
        Subject::Rider(rider) if rider != owed.rider_id => Err(PaymentError::NoSuchTrip(id).into()),
        Subject::Rider(_) | Subject::Driver(_) | Subject::Client(_) => Ok(owed),
    }
}
