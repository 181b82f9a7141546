//! Riders' wallets: money the company owes a rider, who pays trips with it.
//!
//! A wallet is an account of the ledger, one for each currency. The database keeps what it holds with the postings that make it, and
//! refuses what would overdraw it: whoever posts to a wallet holds its row until the transaction ends, as the last of all rows, so
//! spending of one wallet is decided one by one, whichever nodes do it. No PSP takes part in a payment from a wallet: it is agreed
//! to and settled in one transaction. A wallet that holds too little pays nothing of it.
//!
//! A top-up is a payment like those of trips, charged by the PSP and recovered as they are, but no revenue: it is told to nobody as a
//! settlement, nor is a dispute about it. What is left of top-ups can go back to where it came from: it is taken out of the wallet
//! first, so that nobody spends it meanwhile, and is in it again if the PSP refuses or a bank sends it back.
//!
//! Every movement is a fact other regions learn. A region taken back to an old backup has it back from them and books it anew,
//! against `tenant:suspense` since it has forgotten what for ([`super::forgotten`]); before that it lets nobody spend.

pub(super) mod api;
pub(super) mod refund;
pub(super) mod top_up;

use serde::Serialize;
use shared::{
    fact::Fact,
    ids::{CreditId, FactId, PaymentId, RefundId, RiderId, TripId},
    money::Money,
};
use time::OffsetDateTime;

use super::{
    Entry, EntryKind, PaymentError, PaymentKind, ledger,
    record::{PaymentRecord, RefundRecord},
    store,
};
use crate::{app::App, db::TenantTx, http::Problem};

/// A movement of a wallet.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct WalletEntry {
    pub(super) entry_id: FactId,
    /// `top_up`: put in by the rider; `credit`: given by the company; `settlement`, `cancellation_fee`, `no_show_fee` and `tip`: paid with it; `refund`: such a
    /// payment went back; `withdrawal`: a top-up, or a part of it, goes back; `adjustment`: it could not; `recovered`: one of these, of which the region has forgotten more, since an old backup was restored.
    pub(super) kind: EntryKind,
    /// Negative: spent.
    pub(super) amount: Money,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) posted_at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payment_id: Option<PaymentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trip_id: Option<TripId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refund_id: Option<RefundId>,
    /// Of a credit, a refund or a withdrawal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// Money given to a rider.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = WalletCredit)]
pub(super) struct CreditRecord {
    pub(super) credit_id: CreditId,
    pub(super) rider_id: RiderId,
    pub(super) amount: Money,
    pub(super) reason: String,
    /// Who gave it: a role and a client.
    pub(super) made_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created_at: OffsetDateTime,
}

/// A movement other regions remember and this one has forgotten.
pub(super) struct Forgotten {
    pub(super) entry_id: FactId,
    pub(super) amount: Money,
}

/// Holds the wallet a payment comes from, if there is enough in it, or if it has paid already and only the rest is to be booked.
pub(super) async fn hold_enough(
    app: &App,
    tx: &mut TenantTx,
    payment: &PaymentRecord,
) -> sqlx::Result<Result<(), PaymentError>> {
    let (rider, asked) = (payment.rider_id, payment.amount);
    if store::is_in_doubt(tx, &app.region).await? {
        return Ok(Err(PaymentError::InDoubt));
    }
    book_forgotten(tx, rider, app.clock.now()).await?;
    let balance = store::lock_wallet(tx, rider, asked.currency).await?;
    if balance.amount < asked.amount && !store::is_booked(tx, Entry::id_of_settlement(payment.id)).await? {
        return Ok(Err(PaymentError::WalletInsufficient { asked, balance }));
    }
    Ok(Ok(()))
}

/// Books an entry, and tells other regions of it and of the wallet it moves, which was asked for at `asked_at`. Where the wallet
/// has moved already, since it was booked anew after an old backup was restored, the rest of the entry is.
pub(super) async fn book(
    tx: &mut TenantTx,
    entry: Entry,
    told: Option<Fact>,
    asked_at: OffsetDateTime,
) -> sqlx::Result<()> {
    let of_wallet = entry.told_of_wallet(tx.tenant(), asked_at);
    let told: Vec<_> = told.into_iter().chain(of_wallet).collect();
    let entry = match entry.moves_wallet() {
        Some((rider, _)) => {
            store::lock_wallet(tx, rider, entry.currency).await?;
            if store::is_booked(tx, entry.id).await? { entry.after_recovery() } else { entry }
        }
        None => entry,
    };
    store::book(tx, &entry, &told).await
}

/// Gives a rider something into his wallet.
async fn credit(tx: &mut TenantTx, credit: &CreditRecord) -> sqlx::Result<()> {
    store::insert_credit(tx, credit).await?;
    let entry = Entry {
        id: Entry::id_of_credit(credit.credit_id),
        kind: EntryKind::Credit,
        payment_id: None,
        refund_id: None,
        payout_id: None,
        credit_id: Some(credit.credit_id),
        currency: credit.amount.currency,
        postings: ledger::credit(credit.amount.amount, credit.rider_id),
        posted_at: credit.created_at,
    };
    book(tx, entry, None, credit.created_at).await
}

/// Takes what a refund of a top-up is to give back out of the wallet.
async fn withdraw(tx: &mut TenantTx, rider: RiderId, refund: &RefundRecord) -> sqlx::Result<()> {
    let entry = Entry {
        id: Entry::id_of_refund(refund.id),
        kind: EntryKind::Withdrawal,
        payment_id: Some(refund.payment_id),
        refund_id: Some(refund.id),
        payout_id: None,
        credit_id: None,
        currency: refund.amount.currency,
        postings: ledger::withdrawal(refund.amount.amount, rider),
        posted_at: refund.created_at,
    };
    book(tx, entry, None, refund.created_at).await
}

/// Puts what a refund of a top-up was to give back into the wallet again, once the PSP has refused it; of other refunds nothing has
/// moved.
pub(super) async fn undo_if_withdrawn(
    tx: &mut TenantTx,
    refund: &RefundRecord,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let id = refund.payment_id;
    let payment = store::load_payment(tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    if payment.kind != PaymentKind::TopUp {
        return Ok(());
    }
    let postings = ledger::withdrawal_undone(refund.amount.amount, payment.rider_id, None);
    let entry = Entry::of_refund_undone(refund, postings, now);
    Ok(book(tx, entry, None, refund.created_at).await?)
}

/// Books what was forgotten of a rider's wallet: posted now, since statements of the time it moved are out, and told to nobody, since
/// every region has it.
pub(super) async fn book_forgotten(tx: &mut TenantTx, rider: RiderId, now: OffsetDateTime) -> sqlx::Result<()> {
    if store::forgotten_of_wallet(tx, rider).await?.is_empty() {
        return Ok(());
    }
    store::lock_rider(tx, rider).await?;
    for Forgotten { entry_id, amount } in store::forgotten_of_wallet(tx, rider).await? {
        let entry = Entry {
            id: entry_id,
            kind: EntryKind::Recovered,
            payment_id: None,
            refund_id: None,
            payout_id: None,
            credit_id: None,
            currency: amount.currency,
            postings: ledger::recovered(amount.amount, rider),
            posted_at: now,
        };
        store::book(tx, &entry, &[]).await?;
        tracing::warn!(rider.id = %rider, "entry {entry_id} of a wallet was forgotten here and is booked anew");
    }
    Ok(())
}
