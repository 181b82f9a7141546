use shared::{
    fact::Fact,
    ids::{RefundId, TenantId},
};
use time::OffsetDateTime;

use super::{charge::tell, note_if_given_up};
use crate::{
    app::App,
    db::TenantTx,
    http::Problem,
    payments::{
        Answer, Entry, EntryKind, NoAnswer, Parties, PaymentError, PaymentKind, Phase, RefundTo, Source, Step, ledger,
        psp::{OperationKey, Order, RefundOrder},
        record::{PaymentRecord, RefundRecord},
        store, wallet,
    },
};

/// Asks the PSP to give money back. To be called outside of transactions.
pub(in crate::payments) async fn ask_for_refund(
    app: &App,
    tenant: &TenantId,
    payment: &PaymentRecord,
    refund: &RefundRecord,
) -> Result<Answer, NoAnswer> {
    refund.passing().at(app, Phase::Intended).await;
    let answer = app.psp.refund(&payment.provider, &order(tenant, payment, refund)).await;
    refund.passing().at(app, Phase::Asked).await;
    answer
}

fn order(tenant: &TenantId, payment: &PaymentRecord, refund: &RefundRecord) -> RefundOrder {
    RefundOrder {
        tenant: tenant.clone(),
        key: OperationKey::Refund(refund.id),
        charge_ref: payment.sequence.provider_ref.clone().unwrap_or_default(),
        amount: refund.amount,
        begun_at: refund.created_at,
    }
}

/// Asks the PSP what became of the refund, and only if it never saw it, to make it.
pub(in crate::payments) async fn find_or_refund(
    app: &App,
    tenant: &TenantId,
    payment: &PaymentRecord,
    refund: &RefundRecord,
) -> Result<Answer, NoAnswer> {
    match app.psp.find(&payment.provider, Order::Refund(&order(tenant, payment, refund)), true).await? {
        Some(answer) => Ok(answer),
        None => ask_for_refund(app, tenant, payment, refund).await,
    }
}

/// Records what the PSP said, or that it said nothing.
pub(in crate::payments) async fn record_refund(
    app: &App,
    tenant: &TenantId,
    id: RefundId,
    answer: &Result<Answer, NoAnswer>,
) -> Result<RefundRecord, Problem> {
    let now = app.clock.now();
    let mut tx = app.db.begin_step(tenant).await?;
    let mut refund = store::lock_refund(&mut tx, id).await?.ok_or(PaymentError::NoSuchRefund(id))?;
    let awaited_answer = refund.sequence.awaits_answer();
    refund.sequence = refund.sequence.answered(answer, now, rand::random());
    store::save_refund(&mut tx, &refund, now).await?;
    if awaited_answer && refund.sequence.step == Step::Failed {
        wallet::undo_if_withdrawn(&mut tx, &refund, now).await?;
    }
    refund.passing().at(app, Phase::Recording).await;
    tx.commit().await?;
    refund.passing().at(app, Phase::Answered).await;
    if let Err(reason) = answer {
        tracing::warn!(refund.id = %id, %reason, "refund {id} is {}", refund.status());
    }
    note_if_given_up("refund", &id, &refund.sequence);
    Ok(refund)
}

/// Records why a refund could not go on; it is tried again later, or given up.
pub(in crate::payments) async fn hinder_refund(
    app: &App,
    tenant: &TenantId,
    id: RefundId,
    why: &str,
) -> Result<(), Problem> {
    let now = app.clock.now();
    let mut tx = app.db.begin_step(tenant).await?;
    let mut refund = store::lock_refund(&mut tx, id).await?.ok_or(PaymentError::NoSuchRefund(id))?;
    refund.sequence = refund.sequence.hindered(why, now, rand::random());
    store::save_refund(&mut tx, &refund, now).await?;
    tx.commit().await?;
    note_if_given_up("refund", &id, &refund.sequence);
    Ok(())
}

/// Books a refund the PSP has agreed to: refund, payment, ledger entry and fact in the transaction at hand. One that is not
/// at this step, because another node was faster, stays as it is.
pub(in crate::payments) async fn settle_refund(
    tx: &mut TenantTx,
    refund: &RefundRecord,
    now: OffsetDateTime,
) -> Result<RefundRecord, Problem> {
    // The payment first, as everywhere, so that two refunds of one payment never wait for each other.
    let (payment_id, refund_id) = (refund.payment_id, refund.id);
    let payment = store::lock_payment(tx, payment_id).await?.ok_or(PaymentError::NotFound(payment_id))?;
    let refund = store::lock_refund(tx, refund_id).await?.ok_or(PaymentError::NoSuchRefund(refund_id))?;
    let Some(sequence) = refund.sequence.clone().settled() else { return Ok(refund) };
    let refund = RefundRecord { sequence, settled_at: Some(now), ..refund };
    store::save_refund(tx, &refund, now).await?;
    let refunded_amount = payment.refunded_amount + refund.amount.amount;
    let payment = PaymentRecord { refunded_amount, ..payment };
    store::save_payment(tx, &payment, now).await?;
    let parties = match refund.to {
        RefundTo::Source => payment.parties(),
        RefundTo::Wallet => Parties { source: Source::Wallet(payment.rider_id), ..payment.parties() },
    };
    let (id, postings) = match payment.kind {
        PaymentKind::TopUp => {
            let postings = ledger::withdrawal_paid(refund.amount.amount, &payment.provider);
            (Entry::id_of_withdrawal_paid(refund_id), postings)
        }
        _ => (Entry::id_of_refund(refund_id), ledger::refund(refund.split, &parties)),
    };
    let entry = Entry {
        id,
        kind: EntryKind::Refund,
        payment_id: Some(payment_id),
        refund_id: Some(refund_id),
        payout_id: None,
        credit_id: None,
        currency: refund.amount.currency,
        postings,
        posted_at: now,
    };
    let told = payment
        .trip_id
        .map(|trip| Fact::Refund(entry.told(tx.tenant(), &payment, trip, refund.amount.amount, refund.created_at)));
    wallet::book(tx, entry, told, refund.created_at).await?;
    tell(tx, &payment);
    Ok(refund)
}

/// Asks the PSP whether a refund that is settled has failed after all, as banks send money back days later, and takes it back if so:
/// the rider has nothing, so the payment is refunded by less, and may be again. To be called outside of transactions.
pub(in crate::payments) async fn take_back_if_sent_back(
    app: &App,
    tenant: &TenantId,
    provider: &str,
    id: RefundId,
) -> Result<(), Problem> {
    let mut tx = app.db.read(tenant).await?;
    let refund = store::load_refund(&mut tx, id).await?;
    let is_settled = |refund: &RefundRecord| refund.sequence.step == Step::Settled && refund.to == RefundTo::Source;
    let Some(refund) = refund.filter(is_settled) else { return Ok(()) };
    let payment_id = refund.payment_id;
    let payment = store::load_payment(&mut tx, payment_id).await?.ok_or(PaymentError::NotFound(payment_id))?;
    drop(tx);
    if payment.provider != provider || !payment.needs_psp() {
        return Ok(());
    }
    let answer = app.psp.find(provider, Order::Refund(&order(tenant, &payment, &refund)), false).await;
    let answer = answer.map_err(|silence| PaymentError::PspUnavailable { why: silence.to_string(), wait_s: 60 })?;
    let Some(Answer::Declined { code }) = answer else { return Ok(()) };
    let mut tx = app.db.begin(tenant).await?;
    take_back(&mut tx, &refund, code, app.clock.now()).await?;
    tx.commit().await?;
    Ok(())
}

/// Books what a settled refund posted the other way round: refund, payment, ledger entry and fact in the transaction at hand. One that
/// was taken back before stays as it is.
async fn take_back(tx: &mut TenantTx, refund: &RefundRecord, code: String, now: OffsetDateTime) -> Result<(), Problem> {
    let (payment_id, refund_id) = (refund.payment_id, refund.id);
    let payment = store::lock_payment(tx, payment_id).await?.ok_or(PaymentError::NotFound(payment_id))?;
    let refund = store::lock_refund(tx, refund_id).await?.ok_or(PaymentError::NoSuchRefund(refund_id))?;
    let Some(sequence) = refund.sequence.clone().sent_back(code) else { return Ok(()) };
    let refund = RefundRecord { sequence, ..refund };
    store::save_refund(tx, &refund, now).await?;
    let refunded_amount = payment.refunded_amount - refund.amount.amount;
    let payment = PaymentRecord { refunded_amount, ..payment };
    store::save_payment(tx, &payment, now).await?;
    let postings = match payment.kind {
        PaymentKind::TopUp => {
            ledger::withdrawal_undone(refund.amount.amount, payment.rider_id, Some(&payment.provider))
        }
        _ => ledger::refund_sent_back(refund.split, &payment.parties()),
    };
    let entry = Entry::of_refund_undone(&refund, postings, now);
    let amount = refund.amount.amount;
    let told = payment.trip_id.map(|trip| entry.told(tx.tenant(), &payment, trip, amount, refund.created_at));
    wallet::book(tx, entry, told.map(Fact::Adjustment), refund.created_at).await?;
    metrics::counter!("region_node_refunds_sent_back_total", "tenant" => tx.tenant().to_string()).increment(1);
    let why = refund.sequence.failure_code.as_deref().unwrap_or_default();
    tracing::error!(payment.id = %payment_id, why, "refund {refund_id} was sent back: the rider has not had it");
    tell(tx, &payment);
    Ok(())
}
