//! Paying drivers what their balances hold: by the back office, or every day by the tenant's policy.
//!
//! A payout is one transaction: it holds the driver's row, reads what the ledger comes to, and books no more than that. So
//! payouts of one driver are made one at a time, whichever nodes make them, and what he owes of trips paid in cash is settled
//! before he is paid anything. It is money the tenant's bank moves: the ledger says what it owes (`tenant:payouts`).
//!
//! Each is a fact other regions learn. A region taken back to an old backup has it back from them, books it anew
//! ([`super::forgotten`]) and pays nobody before that.

pub(super) mod api;
mod daily;

pub use daily::pay_out_daily;
#[cfg(test)]
pub(super) use daily::run_due;

use serde::Serialize;
use shared::{
    fact::{Fact, PayoutMade},
    ids::{DriverId, PayoutId, TenantId},
    money::{Currency, Money},
};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{
    Entry, EntryKind, PaymentError, ledger,
    store::{self, Reading},
};
use crate::db::TenantTx;

/// A driver's balance in one currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(super) struct Balance {
    /// What he earned and was not paid; negative: what he owes.
    balance: Money,
    /// What of it is not paid out before another region has stored the settlements behind it, if the tenant wants that.
    held: Money,
    /// What he can be paid now.
    payable: Money,
}

impl PayoutRecord {
    /// What the ledger books of it, at `now`.
    fn entry(&self, now: OffsetDateTime) -> Entry {
        Entry {
            id: Entry::id_of_payout(self.id),
            kind: EntryKind::Payout,
            payment_id: None,
            refund_id: None,
            payout_id: Some(self.id),
            credit_id: None,
            currency: self.amount.currency,
            postings: ledger::payout(self.amount.amount, self.driver_id),
            posted_at: now,
        }
    }

    /// What other regions learn of it.
    fn told(&self, tenant: &TenantId) -> Fact {
        Fact::Payout(PayoutMade {
            fact_id: Entry::id_of_payout(self.id).0,
            payout_id: self.id.0,
            driver_id: self.driver_id.0,
            tenant: tenant.to_string(),
            amount: self.amount.amount,
            currency: self.amount.currency.to_string(),
            paid_at: self.created_at,
        })
    }
}

impl Balance {
    /// `balance` minor units, of which `held` are not paid out yet.
    pub(super) fn new(currency: Currency, balance: i64, held: i64) -> Self {
        let payable = balance.saturating_sub(held).max(0);
        let money = |amount| Money::new(amount, currency);
        Self { balance: money(balance), held: money(held), payable: money(payable) }
    }
}

/// A payout's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PayoutRecord {
    pub(super) id: PayoutId,
    pub(super) driver_id: DriverId,
    pub(super) amount: Money,
    /// The day in the tenant's city a daily one is of.
    pub(super) day: Option<Date>,
    pub(super) made_by: String,
    pub(super) created_at: OffsetDateTime,
}

/// A tenant's daily payouts while somebody makes them.
pub(super) struct Run {
    pub(super) day: Date,
    /// They are made up to this driver.
    pub(super) after_driver: Option<Uuid>,
    /// Whoever makes them holds them until then; the time tells one holder from the next.
    pub(super) held_until: OffsetDateTime,
}

/// What is to be paid to a driver.
struct Wish {
    driver: DriverId,
    currency: Currency,
    /// All he can be paid, if not said.
    amount: Option<i64>,
    /// If it would be less there is none.
    at_least: i64,
    day: Option<Date>,
    made_by: String,
}

/// Pays a driver, within what he can be paid now, and once for a day.
async fn make(
    tx: &mut TenantTx,
    wish: Wish,
    reading: Reading<'_>,
    now: OffsetDateTime,
) -> sqlx::Result<Result<PayoutRecord, PaymentError>> {
    let Wish { driver, currency, amount, at_least, day, made_by } = wish;
    if !store::lock_driver(tx, driver).await? {
        return Ok(Err(PaymentError::NoSuchDriver(driver)));
    }
    if store::is_in_doubt(tx, reading.region).await? {
        return Ok(Err(PaymentError::InDoubt));
    }
    book_forgotten(tx, driver, now).await?;
    // Read once the row is held: a statement sees what was committed when it began.
    let balances = store::balances_of_driver(tx, driver, reading).await?;
    let balance = balances.into_iter().find(|balance| balance.balance.currency == currency);
    let payable = balance.map_or(Money::new(0, currency), |balance| balance.payable);
    if payable.amount < at_least {
        return Ok(Err(PaymentError::NothingToPayOut(driver)));
    }
    let amount = Money::new(amount.unwrap_or(payable.amount), currency);
    if amount.amount > payable.amount {
        return Ok(Err(PaymentError::AmountExceedsBalance { asked: amount, payable }));
    }
    let payout = PayoutRecord { id: PayoutId::new(), driver_id: driver, amount, day, made_by, created_at: now };
    if !store::insert_payout(tx, &payout).await? {
        return Ok(Err(PaymentError::NothingToPayOut(driver)));
    }
    let told = payout.told(tx.tenant());
    store::book(tx, &payout.entry(now), &[told]).await?;
    Ok(Ok(payout))
}

/// Books a driver's forgotten payouts; his row is held. They are posted now, since statements of the time they were made in are
/// out, and told to nobody, since every region has them.
pub(super) async fn book_forgotten(tx: &mut TenantTx, driver: DriverId, now: OffsetDateTime) -> sqlx::Result<()> {
    for payout in store::forgotten_payouts(tx, driver).await? {
        store::insert_payout(tx, &payout).await?;
        store::book(tx, &payout.entry(now), &[]).await?;
        tracing::warn!(payout.id = %payout.id, driver.id = %driver, "payout {} was forgotten here and is booked anew", payout.id);
    }
    Ok(())
}

/// Says that a payout was made, once it is committed.
fn note(payout: &PayoutRecord, tenant: &TenantId, reason: &'static str) {
    let labels = [("tenant", tenant.to_string()), ("reason", reason.to_owned())];
    metrics::counter!("region_node_payouts_total", &labels).increment(1);
    let PayoutRecord { id, driver_id, made_by, .. } = payout;
    tracing::info!(payout.id = %id, driver.id = %driver_id, audit.by = made_by, audit.deed = "payout", "payout {id} is made");
}
