use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    ids::{PaymentId, RefundId, RiderId},
    money::Money,
};

use crate::{
    app::App,
    http::{Command, Path, Problem, ProblemBody, Stop},
    identity::{BACK_OFFICE, Caller},
    payments::{
        PaymentError, Refund, RefundTo, Sequence, Split,
        payment::{AskedAmount, not_chargeable},
        record::RefundRecord,
        store,
    },
};

/// Top-ups that are given back at once, the newest: no payment service gives back much older ones.
const TOP_UPS: i64 = 50;

/// How much of a wallet to give back, and why.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(in crate::payments) struct WalletRefundRequest {
    /// In the tenant's currency; all that can go back, if not said.
    #[garde(skip)]
    #[serde(default)]
    amount: Option<AskedAmount>,
    /// For the books and the rider.
    #[garde(length(chars, min = 1, max = 200))]
    reason: String,
}

/// What goes back out of a rider's wallet.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(in crate::payments) struct WalletRefund {
    rider_id: RiderId,
    amount: Money,
    /// One for each top-up it goes back to, the newest first.
    refunds: Vec<Refund>,
}

/// A top-up, and what of it was neither given back nor disputed.
pub(in crate::payments) struct TopUpLeft {
    pub(in crate::payments) payment_id: PaymentId,
    pub(in crate::payments) left: i64,
}

/// Gives back to a rider what he put into his wallet and has not spent, or a part of it: to the cards his top-ups were charged to, the
/// newest first, as one refund of each. It is out of the wallet at once; the payment service is asked soon after, and what it refuses,
/// or a bank sends back, is in the wallet again. What the company gave, or refunded into the wallet of what was paid by card, is no
/// cash and is not paid out: what goes back is never more than was topped up and not spent since.
#[utoipa::path(post, path = "/v1/riders/{id}/wallet/refunds", tag = "payments", security(("bearer" = [])),
    request_body = WalletRefundRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = RiderId, Path)),
    responses((status = 201, body = WalletRefund), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
              (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "wallets.refund", skip_all, fields(rider.id = %id))]
pub(in crate::payments) async fn refund_wallet(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RiderId>,
    command: Command<WalletRefundRequest>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let currency = app.tenants.config(caller.tenant()).await?.config.currency;
    let asked = command.body.amount.map(|asked| asked.minor_units(currency)).transpose()?;
    if asked.is_some_and(|amount| amount < 1) {
        return Err(Problem::field("amount", "must be at least 1 minor unit").into());
    }
    if asked.is_some_and(|amount| amount % currency.charge_step() != 0) {
        return Err(not_chargeable(currency).into());
    }
    let now = app.clock.now();
    let mut tx = command.begin(&app, &caller).await?;
    if !store::is_rider(&mut tx, id).await? {
        return Err(PaymentError::NoSuchRider(id).into());
    }
    if store::is_in_doubt(&mut tx, &app.region).await? {
        return Err(PaymentError::InDoubt.into());
    }
    // The wallet is the last that is locked; from then on nothing of what is added up here changes.
    let top_ups = store::lock_top_ups(&mut tx, id, currency, TOP_UPS).await?;
    super::book_forgotten(&mut tx, id, now).await?;
    let balance = store::lock_wallet(&mut tx, id, currency).await?;
    let top_ups = store::left_of_top_ups(&mut tx, &top_ups).await?;
    let unspent = store::topped_up_and_not_spent(&mut tx, id, currency).await?;
    let left = top_ups.iter().map(|top_up| top_up.left).sum::<i64>();
    let payable = balance.amount.min(unspent).min(left).max(0);
    let payable = Money::new(payable - payable % currency.charge_step(), currency);
    let amount = Money::new(asked.unwrap_or(payable.amount), currency);
    if amount.amount == 0 || amount.amount > payable.amount {
        return Err(PaymentError::WalletNotRefundable { payable }.into());
    }
    let mut refunds = Vec::new();
    for (payment_id, part) in parts(&top_ups, amount.amount) {
        let refund = RefundRecord {
            id: RefundId::new(),
            payment_id,
            amount: Money::new(part, currency),
            split: Split::of_amount(part, 0, 0, 0),
            reason: command.body.reason.clone(),
            to: RefundTo::Source,
            sequence: Sequence::left_for(now),
            asked_by: None,
            created_at: now,
            settled_at: None,
        };
        store::insert_refund(&mut tx, &refund).await?;
        super::withdraw(&mut tx, id, &refund).await?;
        refunds.push(refund.view());
    }
    let answer = tx.finish(StatusCode::CREATED, &WalletRefund { rider_id: id, amount, refunds }).await?;
    metrics::counter!("region_node_wallet_refunds_total", "tenant" => caller.tenant().to_string()).increment(1);
    tracing::info!(
        audit.by = caller.key_owner(),
        audit.deed = "wallet.refund",
        "{amount} of rider {id}'s wallet go back"
    );
    Ok(answer)
}

/// Takes an amount out of top-ups, one after another.
fn parts(top_ups: &[TopUpLeft], amount: i64) -> Vec<(PaymentId, i64)> {
    let mut rest = amount;
    let parts = top_ups.iter().map(|top_up| {
        let part = top_up.left.min(rest);
        rest -= part;
        (top_up.payment_id, part)
    });
    parts.filter(|(_, part)| *part > 0).collect()
}
