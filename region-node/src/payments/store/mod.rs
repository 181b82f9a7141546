//! All SQL of payments.

mod balances;
mod closings;
mod compare;
mod counts;
mod disputes;
mod ledger;
mod payments;
mod payouts;
mod reconciliations;
mod refunds;
mod settlements;
mod statements;
mod stray_disputes;
mod wallets;
mod webhooks;

pub(super) use self::{
    balances::{
        Reading, drivers_with_balances, of_all_drivers as balances_of_drivers, of_driver as balances_of_driver,
        of_tenant as balances_of_tenant,
    },
    closings::{close as close_ledger, last_closing, open_until as ledgers_open_until, sum_up as sum_ledger_up},
    compare::compare,
    counts::count_waiting,
    disputes::{held_back, load as load_dispute, oldest_open as oldest_open_dispute, save as save_dispute},
    ledger::book,
    payments::{
        Owed, asked_under_key, claim_due as claim_due_payments, given_up as given_up_payments,
        insert as insert_payment, load as load_payment, lock as lock_payment, lock_charged_as, owed,
        save as save_payment,
    },
    payouts::{
        advance_run, claim_run, finish_run, forgotten as forgotten_payouts, holders_forgotten, insert as insert_payout,
        is_driver, is_in_doubt, list as list_payouts, load as load_payout, lock_driver, without_run,
    },
    reconciliations::{
        accounts_used, advance, claim_due as claim_due_reconciliations, complete, count_failed_since,
        count_running as count_running_reconciliations, differences as list_differences,
        found_since as differences_since, insert as insert_reconciliation, is_held, keep_listed,
        list as list_reconciliations, load as load_reconciliation, load_job, put_off as put_reconciliation_off,
        tenants_without_day,
    },
    refunds::{
        asked_under_key as refund_asked_under_key, attend as attend_refund, begun_split,
        claim_due as claim_due_refunds, insert as insert_refund, load as load_refund, lock as lock_refund,
        of_payment as refunds_of_payment, save as save_refund, to_attend as refunds_to_attend,
    },
    settlements::{SettlementRow, fact_settled_at, list as list_settlements, position_of, rollup},
    statements::{Place, before as standings_before, lines as ledger_lines},
    stray_disputes::{
        attend as attend_stray_dispute, keep as keep_stray_dispute, load as load_stray_dispute,
        to_attend as stray_disputes_to_attend,
    },
    wallets::{
        balance as wallet_balance, entries as wallet_entries, forgotten as forgotten_of_wallet, insert_credit,
        is_booked, is_rider, left_of_top_ups, lock as lock_wallet, lock_rider, lock_top_ups,
        of_all_riders as balances_of_riders, topped_up_and_not_spent,
    },
    webhooks::{first_sight, forget_webhooks, make_payment_due, make_refund_due},
};

use shared::{ids::TenantId, money::Money};
use time::OffsetDateTime;

use super::{machine::Retried, record::AskedBy};

/// A movement taken to go on with, or found to have had its last attempt.
pub(super) struct Claim<I> {
    pub(super) tenant: TenantId,
    pub(super) id: I,
    pub(super) is_given_up: bool,
}

impl<I> Claim<I> {
    fn new(tenant: &str, id: I, is_given_up: bool) -> sqlx::Result<Self> {
        let tenant = tenant.parse().map_err(|_| unreadable("tenant_id", tenant))?;
        Ok(Self { tenant, id, is_given_up })
    }
}

/// What is said of a last attempt nobody came back from: else there would be an answer, or another reason.
const BROKEN_OFF: &str = "the last attempt was broken off: its node ended or lost its database";

fn retried(by: Option<String>, at: Option<OffsetDateTime>) -> Option<Retried> {
    Some(Retried { by: by?, at: at? })
}

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
