//! Disputes: a rider's bank takes money back, and somebody decides whether for good.
//!
//! Unlike the outcome of an operation of ours, a dispute is the PSP's own: its signed webhook is taken at its word. Webhooks
//! come doubled, late and in any order, so each says how far the dispute is, and whatever lies between is booked with it; one
//! that is decided changes no more. One about a charge of ours whose outcome is not known here yet is refused until it is, since
//! nobody else would tell of it; where the payment is gone for good, it is kept as a [`super::stray`] one.

use shared::{
    fact::Fact,
    ids::{PaymentId, TenantId},
    money::Money,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{
    DisputeStatus, Entry, EntryKind, PaymentError, ledger,
    psp::{DisputeNews, OperationKey},
    record::PaymentRecord,
    store,
};
use crate::{app::App, db::TenantTx, http::Problem, realtime::Event};

/// A dispute's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DisputeRecord {
    pub(super) id: Uuid,
    pub(super) payment_id: PaymentId,
    pub(super) provider_ref: String,
    pub(super) status: DisputeStatus,
    pub(super) amount: Money,
    pub(super) opened_at: OffsetDateTime,
}

/// A dispute that is younger is refused while its payment is not here: whoever has put an old backup back may find a newer one.
const RECENT: Duration = Duration::HOUR;

/// Looks for the charge a dispute is about: none if its payment is here, or if it is none of ours, and else the payment, which is not
/// here and will not come. One that may become known here yet is refused, so that the PSP sends its webhook again: it is asked at once
/// what it charged. To be called outside of transactions.
pub(super) async fn find_stray(
    app: &App,
    tenant: &TenantId,
    provider: &str,
    news: &DisputeNews,
) -> Result<Option<PaymentId>, Problem> {
    let mut tx = app.db.begin(tenant).await?;
    let is_known = store::lock_charged_as(&mut tx, provider, &news.charge_ref).await?.is_some();
    drop(tx);
    if is_known {
        return Ok(None);
    }
    let asked = app.psp.key_of(provider, tenant, &news.charge_ref).await;
    let key = asked.map_err(|silence| PaymentError::PspUnavailable { why: silence.to_string(), wait_s: 60 })?;
    // Other companies' charges, and what is no ride's, go through the same account.
    let Some(OperationKey::Payment(id)) = key else { return Ok(None) };
    let now = app.clock.now();
    let mut tx = app.db.begin(tenant).await?;
    let may_become_known = match store::lock_payment(&mut tx, id).await? {
        // Its answer was recorded in between.
        Some(payment) if payment.sequence.provider_ref.as_ref() == Some(&news.charge_ref) => return Ok(None),
        Some(payment) => payment.sequence.awaits_answer(),
        None => news.opened_at > now - RECENT || store::is_in_doubt(&mut tx, &app.region).await?,
    };
    if !may_become_known {
        return Ok(Some(id));
    }
    store::make_payment_due(&mut tx, provider, id, now).await?;
    tx.commit().await?;
    tracing::error!(payment.id = %id, dispute = news.reference, "a dispute about payment {id}, not known to be charged");
    Err(PaymentError::NotYetCharged(id).into())
}

/// Takes what a PSP says of a dispute into the books.
pub(super) async fn take(
    tx: &mut TenantTx,
    provider: &str,
    news: &DisputeNews,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let Some(payment) = store::lock_charged_as(tx, provider, &news.charge_ref).await? else {
        tracing::warn!(dispute = news.reference, charge = news.charge_ref, "a dispute about no charge of ours");
        return Ok(());
    };
    if news.amount.currency != payment.amount.currency || news.amount.amount < 1 {
        let why = format!("a dispute about {} of a payment of {}", news.amount, payment.amount);
        return Err(PaymentError::MalformedEvent(why).into());
    }
    let id = ledger::id_of_dispute(payment.id, &news.reference);
    let known = store::load_dispute(tx, id).await?;
    let was = known.as_ref().map(|dispute| dispute.status);
    let steps: &[DisputeStatus] = match (was, news.status) {
        (None, DisputeStatus::Open) => &[DisputeStatus::Open],
        (None, DisputeStatus::Won) => &[DisputeStatus::Open, DisputeStatus::Won],
        (None, DisputeStatus::Lost) => &[DisputeStatus::Open, DisputeStatus::Lost],
        (Some(DisputeStatus::Open), DisputeStatus::Won) => &[DisputeStatus::Won],
        (Some(DisputeStatus::Open), DisputeStatus::Lost) => &[DisputeStatus::Lost],
        (Some(_), _) => return Ok(()),
    };
    let new = DisputeRecord {
        id,
        payment_id: payment.id,
        provider_ref: news.reference.clone(),
        status: news.status,
        amount: news.amount,
        opened_at: news.opened_at,
    };
    // What it was opened with stays, whatever is said of it later.
    let dispute = DisputeRecord { status: news.status, ..known.unwrap_or(new) };
    store::save_dispute(tx, &dispute, now).await?;
    for status in steps {
        let came_at = match status {
            DisputeStatus::Open => dispute.opened_at,
            DisputeStatus::Won | DisputeStatus::Lost => decided_at(tx, &dispute, news).await?,
        };
        book(tx, &payment, &dispute, *status, came_at, now).await?;
    }
    let labels = [("tenant", tx.tenant().to_string()), ("status", dispute.status.to_string())];
    metrics::counter!("region_node_disputes_total", &labels).increment(1);
    tracing::warn!(payment.id = %payment.id, dispute = dispute.provider_ref, "a dispute is {}", dispute.status);
    let payment = store::load_payment(tx, payment.id).await?.ok_or(PaymentError::NotFound(payment.id))?;
    let (tenant, rider_id) = (tx.tenant().clone(), payment.rider_id);
    tx.tell(Event::PaymentChanged { tenant, rider_id, payment: Box::new(payment.view()) });
    Ok(())
}

/// When a dispute was decided: by the event that says so, whenever it comes. Whoever hears of it anew, since an old backup was restored,
/// and by another event of the same decision, is to tell the very same fact, so what is known of it already counts first.
async fn decided_at(tx: &mut TenantTx, dispute: &DisputeRecord, news: &DisputeNews) -> Result<OffsetDateTime, Problem> {
    let known = store::fact_settled_at(tx, Entry::id_of_dispute(dispute.id, news.status)).await?;
    let told_at = news.told_at.map_or(dispute.opened_at, |at| at.max(dispute.opened_at));
    Ok(known.unwrap_or(told_at))
}

/// Books the step that a dispute came to at `came_at`, and tells other regions.
async fn book(
    tx: &mut TenantTx,
    payment: &PaymentRecord,
    dispute: &DisputeRecord,
    status: DisputeStatus,
    came_at: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let amount = dispute.amount.amount;
    let entry = Entry {
        id: Entry::id_of_dispute(dispute.id, status),
        kind: EntryKind::Adjustment,
        payment_id: Some(payment.id),
        refund_id: None,
        payout_id: None,
        credit_id: None,
        currency: dispute.amount.currency,
        postings: ledger::dispute(status, amount, &payment.provider),
        posted_at: now,
    };
    let moved = match status {
        DisputeStatus::Open => -amount,
        DisputeStatus::Won => amount,
        // It left when the dispute was opened.
        DisputeStatus::Lost => 0,
    };
    // Of what was paid for trips others have a settlement, which this adjusts; of a top-up they have none.
    let told = payment.trip_id.map(|trip| entry.told(tx.tenant(), payment, trip, moved, came_at));
    let told: Vec<_> = told.into_iter().map(Fact::Adjustment).collect();
    store::book(tx, &entry, &told).await?;
    Ok(())
}
