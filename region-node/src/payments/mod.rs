//! Money, charged once and settled once.
//!
//! A payment is a recoverable sequence, and a refund is the same one the other way round: the intent is recorded, the PSP
//! asked (outside of any transaction, with an idempotency key made of the payment's id), its answer recorded, and then
//! settlement, ledger entry and the fact other regions learn commit together. [`machine`] says how one step follows another,
//! [`steps`] are the steps, [`resume`] goes on with what a crash or a silent PSP left half done, on any node. What the PSP
//! did not answer is `unknown`, and only asking the PSP resolves it. What comes to nothing too often is given up, and waits for
//! somebody of the back office in [`attention`], as do refunds that banks have sent back, and [`stray`] disputes. [`reconcile`]
//! compares what PSPs have done with all that stands here, day by day.
//!
//! [`ledger`] says who gets what, [`balance`] what that comes to, [`closing`] from where on that is summed up, [`statement`] how it came to be, and [`payout`] pays it to
//! drivers; [`wallet`] is what riders have with the company, and pay from; what a region taken back to an old backup has forgotten
//! of payouts and wallets [`forgotten`] has back from others; [`psp`] is the port to payment services; [`store`] holds all SQL. The unique index `one_live_payment_per_share`
//! decides who charges a trip, or a share of its fare, when several try, `one_live_tip_per_trip` who tips it.

mod attention;
mod balance;
mod closing;
mod crash;
mod dispute;
mod error;
mod fee;
mod forgotten;
mod get;
mod ledger;
mod machine;
mod pay;
mod payment;
mod payout;
mod psp;
mod reconcile;
mod record;
mod refund;
mod resume;
mod rollup;
mod settlements;
mod share;
mod statement;
mod steps;
mod store;
mod stray;
mod tip;
mod wallet;
mod webhook;

use utoipa_axum::{router::OpenApiRouter, routes};

pub use closing::close_ledgers;
pub use error::PaymentError;
pub use fee::charge_cancellation_fee;
pub use forgotten::book_forgotten;
pub use payment::{
    AskedAmount, Dispute, DisputeStatus, PaidBy, Payment, PaymentKind, PaymentStatus, Refund, RefundStatus, RefundTo,
};
pub use payout::pay_out_daily;
pub use psp::{PspConfig, PspRegistry};
pub use reconcile::reconcile_due;
pub use resume::{resume_payments, run_due};
pub use share::{FixedShare, charge_shares, usable_token};
pub use webhook::forget_webhooks;

use crash::{Passing, Phase};
use ledger::{Entry, EntryKind, Parties, Source, Split};
use machine::{Answer, NoAnswer, Sequence, Step};

use crate::app::App;

/// This feature's endpoints.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(pay::pay, attention::list_given_up_payments))
        .routes(routes!(attention::retry_payment))
        .routes(routes!(attention::list_refunds_to_attend))
        .routes(routes!(attention::retry_refund))
        .routes(routes!(attention::attend_refund))
        .routes(routes!(stray::list_stray_disputes))
        .routes(routes!(stray::attend_stray_dispute))
        .routes(routes!(tip::tip))
        .routes(routes!(get::get_payment))
        .routes(routes!(refund::refund_payment, get::list_refunds))
        .routes(routes!(webhook::receive_webhook))
        .routes(routes!(reconcile::api::reconcile, reconcile::api::list_reconciliations))
        .routes(routes!(reconcile::api::get_reconciliation))
        .routes(routes!(settlements::list_settlements))
        .routes(routes!(rollup::get_rollup))
        .routes(routes!(balance::get_driver_balance))
        .routes(routes!(balance::get_balances))
        .routes(routes!(balance::list_driver_balances))
        .routes(routes!(payout::api::make_payout))
        .routes(routes!(payout::api::list_payouts))
        .routes(routes!(payout::api::get_payout))
        .routes(routes!(wallet::api::get_own_wallet))
        .routes(routes!(wallet::api::get_wallet))
        .routes(routes!(wallet::api::credit_wallet))
        .routes(routes!(wallet::refund::refund_wallet))
        .routes(routes!(wallet::top_up::top_up))
        .routes(routes!(statement::api::get_driver_statement))
        .routes(routes!(statement::api::get_statement))
}

#[cfg(test)]
mod tests;
