use shared::{
    fact::Fact,
    ids::{PaymentId, TenantId},
};
use time::OffsetDateTime;

use super::note_if_given_up;
use crate::{
    app::App,
    db::TenantTx,
    http::Problem,
    payments::{
        Answer, Entry, EntryKind, NoAnswer, PaymentError, PaymentKind, Phase, ledger,
        psp::{ChargeOrder, OperationKey, Order},
        record::PaymentRecord,
        resume, share, store, wallet,
    },
    realtime::Event,
};

/// Asks the PSP for the money. To be called outside of transactions.
pub(in crate::payments) async fn ask_for_charge(
    app: &App,
    tenant: &TenantId,
    payment: &PaymentRecord,
) -> Result<Answer, NoAnswer> {
    payment.passing().at(app, Phase::Intended).await;
    let answer = app.psp.charge(&payment.provider, &order(tenant, payment)).await;
    payment.passing().at(app, Phase::Asked).await;
    answer
}

fn order(tenant: &TenantId, payment: &PaymentRecord) -> ChargeOrder {
    ChargeOrder {
        tenant: tenant.clone(),
        key: OperationKey::Payment(payment.id),
        token: payment.method.token.clone().unwrap_or_default(),
        amount: payment.amount,
        begun_at: payment.created_at,
    }
}

/// Asks the PSP what became of the charge, and only if it never saw it, for the money; unless `may_charge` is off, in which
/// case there is no answer to record.
pub(in crate::payments) async fn find_or_charge(
    app: &App,
    tenant: &TenantId,
    payment: &PaymentRecord,
    may_charge: bool,
) -> Option<Result<Answer, NoAnswer>> {
    match app.psp.find(&payment.provider, Order::Charge(&order(tenant, payment)), may_charge).await {
        Ok(Some(answer)) => Some(Ok(answer)),
        Ok(None) if may_charge => Some(ask_for_charge(app, tenant, payment).await),
        Ok(None) => None,
        Err(no_answer) => Some(Err(no_answer)),
    }
}

/// Records what the PSP said, or that it said nothing.
pub(in crate::payments) async fn record_charge(
    app: &App,
    tenant: &TenantId,
    id: PaymentId,
    answer: &Result<Answer, NoAnswer>,
) -> Result<PaymentRecord, Problem> {
    let now = app.clock.now();
    let published = app.tenants.config(tenant).await?;
    let mut tx = app.db.begin_step(tenant).await?;
    let mut payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    let was = payment.status();
    payment.sequence = payment.sequence.answered(answer, now, rand::random());
    store::save_payment(&mut tx, &payment, now).await?;
    if payment.status() != was {
        share::fall_back_if_failed(app, &mut tx, &payment, &published.config.psp, now).await?;
        tell(&mut tx, &payment);
    }
    payment.passing().at(app, Phase::Recording).await;
    tx.commit().await?;
    payment.passing().at(app, Phase::Answered).await;
    if let Err(reason) = answer {
        tracing::warn!(payment.id = %id, %reason, "payment {id} is {}", payment.status());
    }
    note_if_given_up("payment", &id, &payment.sequence);
    Ok(payment)
}

/// Records why a payment could not go on; it is tried again later, or given up.
pub(in crate::payments) async fn hinder_charge(
    app: &App,
    tenant: &TenantId,
    id: PaymentId,
    why: &str,
) -> Result<(), Problem> {
    let now = app.clock.now();
    let mut tx = app.db.begin_step(tenant).await?;
    let mut payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    payment.sequence = payment.sequence.hindered(why, now, rand::random());
    store::save_payment(&mut tx, &payment, now).await?;
    tx.commit().await?;
    note_if_given_up("payment", &id, &payment.sequence);
    Ok(())
}

/// Failure of what was to be paid from a wallet.
const WALLET_INSUFFICIENT: &str = "wallet_insufficient";

/// Takes a payment nobody waits for out of its rider's wallet, or declines it: in one transaction, since nobody else is asked.
pub(in crate::payments) async fn take_from_wallet(app: &App, tenant: &TenantId, id: PaymentId) -> Result<(), Problem> {
    let now = app.clock.now();
    let published = app.tenants.config(tenant).await?;
    let mut tx = app.db.begin_step(tenant).await?;
    let mut payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    if !payment.sequence.awaits_answer() {
        return Ok(());
    }
    match wallet::hold_enough(app, &mut tx, &payment).await? {
        Ok(()) => {
            payment.sequence = payment.sequence.agreed();
            payment = settle_payment(&mut tx, payment, now).await?;
        }
        Err(PaymentError::WalletInsufficient { .. }) => {
            let declined = Ok(Answer::Declined { code: WALLET_INSUFFICIENT.to_owned() });
            payment.sequence = payment.sequence.answered(&declined, now, 0.0);
            store::save_payment(&mut tx, &payment, now).await?;
            share::fall_back_if_failed(app, &mut tx, &payment, &published.config.psp, now).await?;
            tell(&mut tx, &payment);
        }
        Err(_) => {
            drop(tx);
            return resume::put_off(app, tenant, id).await;
        }
    }
    payment.passing().at(app, Phase::Settling).await;
    tx.commit().await?;
    payment.passing().at(app, Phase::Settled).await;
    tracing::info!(payment.id = %id, "payment {id} is {}", payment.status());
    Ok(())
}

/// Books a locked payment the PSP has agreed to: settlement, ledger entry and fact in the transaction at hand. One that is
/// not at this step, because another node was faster, stays as it is.
pub(in crate::payments) async fn settle_payment(
    tx: &mut TenantTx,
    payment: PaymentRecord,
    now: OffsetDateTime,
) -> sqlx::Result<PaymentRecord> {
    let Some(sequence) = payment.sequence.clone().settled() else { return Ok(payment) };
    let payment = PaymentRecord { sequence, settled_at: Some(now), ..payment };
    let entry = Entry {
        id: Entry::id_of_settlement(payment.id),
        kind: match payment.kind {
            PaymentKind::Fare => EntryKind::Settlement,
            PaymentKind::CancellationFee => EntryKind::CancellationFee,
            PaymentKind::NoShowFee => EntryKind::NoShowFee,
            PaymentKind::Tip => EntryKind::Tip,
            PaymentKind::TopUp => EntryKind::TopUp,
        },
        payment_id: Some(payment.id),
        refund_id: None,
        payout_id: None,
        credit_id: None,
        currency: payment.amount.currency,
        postings: match payment.kind {
            PaymentKind::TopUp => ledger::top_up(payment.amount.amount, payment.rider_id, &payment.provider),
            _ => ledger::settlement(payment.split, &payment.parties()),
        },
        posted_at: now,
    };
    // A top-up is nothing a rider has paid for: other regions learn of it as what his wallet moved by.
    let told = payment.trip_id.map(|trip| {
        Fact::Settlement(entry.told(tx.tenant(), &payment, trip, payment.amount.amount, payment.created_at))
    });
    wallet::book(tx, entry, told, payment.created_at).await?;
    tell(tx, &payment);
    Ok(payment)
}

/// Tells the rider of a payment's new status, and counts it.
pub(in crate::payments) fn tell(tx: &mut TenantTx, payment: &PaymentRecord) {
    let (tenant, rider_id) = (tx.tenant().clone(), payment.rider_id);
    let labels = [("tenant", tenant.to_string()), ("status", payment.status().to_string())];
    metrics::counter!("region_node_payments_total", &labels).increment(1);
    tx.tell(Event::PaymentChanged { tenant, rider_id, payment: Box::new(payment.view()) });
}
