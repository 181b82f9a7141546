//! Giving a payment back, whole or in parts.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::{
    ids::{PaymentId, RefundId},
    money::Money,
};
use time::OffsetDateTime;

use super::{
    PaymentError, PaymentKind, Phase, Refund, RefundTo, Sequence, Step,
    payment::{AskedAmount, not_chargeable},
    record::{AskedBy, PaymentRecord, RefundRecord, may_go_on},
    steps, store,
};
use crate::{
    app::App,
    db::TenantTx,
    http::{Command, CommandTx, KEPT_FOR, Path, Problem, ProblemBody, Stop},
    identity::{self, BACK_OFFICE, Caller},
};

/// How much to give back, and why.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct RefundRequest {
    /// All that is left of the payment and not disputed, if not said.
    #[garde(skip)]
    #[serde(default)]
    amount: Option<AskedAmount>,
    /// For the books and the rider.
    #[garde(length(chars, min = 1, max = 200))]
    reason: String,
    /// `source`, if not said.
    #[garde(skip)]
    #[serde(default)]
    to: RefundTo,
}

/// Gives a settled payment back, whole or a part of it; several parts up to its total. It goes back to where it came from, or into the
/// wallet of the rider who paid, where it is at once.
#[utoipa::path(post, path = "/v1/payments/{id}/refunds", tag = "payments", security(("bearer" = [])),
    request_body = RefundRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = PaymentId, Path)),
    responses((status = 201, body = Refund), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
              (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "payments.refund", skip_all, fields(payment.id = %id))]
pub(super) async fn refund_payment(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PaymentId>,
    command: Command<RefundRequest>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let (tenant, now) = (caller.tenant(), app.clock.now());
    let mut tx = command.begin(&app, &caller).await?;
    let payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    let (begun, is_new) = match begun_before(&mut tx, &command, &caller, now).await? {
        Some(refund) => (refund, false),
        None => (intend(&app, &mut tx, &payment, &command, &caller).await?, true),
    };
    let refund = match begun.sequence.step {
        Step::Pending if is_new => {
            begun.passing().at(&app, Phase::Intending).await;
            tx.commit().await?;
            let answer = steps::ask_for_refund(&app, tenant, &payment, &begun).await;
            steps::record_refund(&app, tenant, begun.id, &answer).await?
        }
        Step::Pending => {
            let begun = RefundRecord { sequence: begun.sequence.taken(now + app.psp.hold()), ..begun };
            store::save_refund(&mut tx, &begun, now).await?;
            tx.commit().await?;
            let answer = steps::find_or_refund(&app, tenant, &payment, &begun).await;
            steps::record_refund(&app, tenant, begun.id, &answer).await?
        }
        Step::Unknown | Step::Authorized | Step::Settled | Step::Failed => return finish(&app, tx, &begun).await,
    };
    finish(&app, command.resume(&app, &caller).await?, &refund).await
}

/// The last transaction: settles what the PSP agreed to and stores the answer with it.
async fn finish(app: &App, mut tx: CommandTx, refund: &RefundRecord) -> Result<Response, Stop> {
    let refund = steps::settle_refund(&mut tx, refund, app.clock.now()).await?;
    tracing::info!(refund.id = %refund.id, "refund {} is {}", refund.id, refund.status());
    refund.passing().at(app, Phase::Settling).await;
    let answer = tx.finish(StatusCode::CREATED, &refund.view()).await;
    refund.passing().at(app, Phase::Settled).await;
    answer
}

/// The refund this very request began before a crash, or begins right now on another connection.
async fn begun_before(
    tx: &mut CommandTx,
    command: &Command<RefundRequest>,
    caller: &Caller,
    now: OffsetDateTime,
) -> Result<Option<RefundRecord>, Stop> {
    let Some(key) = &command.key else { return Ok(None) };
    let begun = store::refund_asked_under_key(tx, &caller.key_owner(), &key.key, now - KEPT_FOR).await?;
    if let Some(begun) = &begun {
        may_go_on(tx, key, begun.asked_by.as_ref(), &begun.sequence, now).await?;
    }
    Ok(begun)
}

/// Records the intent to give back a part of a locked payment; refunds under way count, and what banks took back, so that together
/// they stay within the total.
async fn intend(
    app: &App,
    tx: &mut TenantTx,
    payment: &PaymentRecord,
    command: &Command<RefundRequest>,
    caller: &Caller,
) -> Result<RefundRecord, Stop> {
    if payment.kind == PaymentKind::TopUp {
        return Err(PaymentError::TopUpNotRefundable.into());
    }
    let now = app.clock.now();
    let left = payment.refundable(store::begun_split(tx, payment.id).await?)?;
    let held_back = store::held_back(tx, payment.id).await?;
    let undisputed = (left.total() - held_back).max(0);
    let currency = payment.amount.currency;
    let amount = match command.body.amount {
        None if undisputed == 0 => left.total(),
        None => undisputed,
        Some(asked) => asked.minor_units(currency)?,
    };
    if command.body.amount.is_some() && amount < 1 {
        return Err(Problem::field("amount", "must be at least 1 minor unit").into());
    }
    let exceeds = || PaymentError::AmountExceedsPayment {
        asked: Money::new(amount, currency),
        left: Money::new(left.total(), currency),
    };
    let split = left.part(amount).filter(|_| amount > 0).ok_or_else(exceeds)?;
    if amount > undisputed {
        let money = |amount| Money::new(amount, currency);
        return Err(PaymentError::Disputed { disputed: money(held_back), left: money(undisputed) }.into());
    }
    let to = command.body.to;
    if to == RefundTo::Wallet && !identity::hold_rider(tx, payment.rider_id).await? {
        return Err(Problem::field("to", "must be source: the rider's account is erased").into());
    }
    let needs_psp = payment.needs_psp() && to == RefundTo::Source;
    let amount = Money::new(amount, currency);
    if needs_psp {
        if amount != amount.to_charge() {
            return Err(not_chargeable(currency).into());
        }
        app.psp.admit(&payment.provider)?;
    }
    let refund = RefundRecord {
        id: RefundId::new(),
        payment_id: payment.id,
        amount,
        split,
        reason: command.body.reason.clone(),
        to,
        sequence: if needs_psp { Sequence::begun(now + app.psp.hold()) } else { Sequence::without_psp() },
        asked_by: AskedBy::of(command, caller, &tx.sealer().await?),
        created_at: now,
        settled_at: None,
    };
    store::insert_refund(tx, &refund).await?;
    Ok(refund)
}
