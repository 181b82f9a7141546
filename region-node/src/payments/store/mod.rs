//! All SQL of payments.

mod compare;
mod ledger;
mod payments;
mod reconciliations;
mod refunds;
mod settlements;
mod webhooks;

pub(super) use self::{
    compare::compare,
    ledger::post,
    payments::{
        Owed, asked_under_key, claim_due as claim_due_payments, count_unknown, insert as insert_payment,
        load as load_payment, lock as lock_payment, owed, save as save_payment,
    },
    reconciliations::{
        accounts_used, advance, claim_due as claim_due_reconciliations, complete, count_failed_since,
        count_running as count_running_reconciliations, differences as list_differences,
        found_since as differences_since, insert as insert_reconciliation, is_held, keep_listed,
        list as list_reconciliations, load as load_reconciliation, load_job, put_off as put_reconciliation_off,
        tenants_without_day,
    },
    refunds::{
        asked_under_key as refund_asked_under_key, begun_split, claim_due as claim_due_refunds,
        insert as insert_refund, load as load_refund, lock as lock_refund, of_payment as refunds_of_payment,
        save as save_refund,
    },
    settlements::{SettlementRow, list as list_settlements, position_of},
    webhooks::{first_sight, make_payment_due, make_refund_due},
};

use shared::money::Money;

use super::record::AskedBy;

/// What a column holds although its CHECK forbids it.
fn unreadable(column: &str, value: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds '{value}'").into())
}

fn money(amount: i64, currency: &str) -> sqlx::Result<Money> {
    let currency = currency.parse().map_err(|_| unreadable("currency", currency))?;
    Ok(Money::new(amount, currency))
}

fn asked_by(caller: Option<String>, key: Option<String>, request_hash: Option<Vec<u8>>) -> Option<AskedBy> {
    Some(AskedBy { caller: caller?, key: key?, request_hash: request_hash? })
}
