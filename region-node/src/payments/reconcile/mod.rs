//! Comparing what a payment service has done with what stands here, so that no cent is missing on either side.
//!
//! A reconciliation is of one tenant's account and a span of time. It reads the PSP's lists page by page and keeps each
//! operation in a table, then the database joins that table with payments, refunds, disputes and ledger and keeps what differs. Every
//! page commits with the place it was read up to, so any node goes on after a crash, and memory holds one page.
//!
//! The span ends some hours ago (`psp.reconciliation.settle_after`): what is still under way then is no difference, and by
//! the time it is compared it has ended or was given up. The day's reconciliation of each account is made by whichever node is
//! first; `one_daily_reconciliation` refuses the others.
//!
//! What may come to another end long after it was done is looked at again each day: the refunds of the last weeks, and disputes for as
//! long as they are open here.

pub(super) mod api;
mod difference;
mod job;

pub(super) use difference::{CLASSES, Difference, Seen};
pub use job::reconcile_due;
#[cfg(test)]
pub(super) use job::run_due;
pub(super) use job::{CLOCKS_DIFFER, Job, Phase, SENT_BACK_WITHIN};

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::ids::ReconciliationId;
use time::OffsetDateTime;

/// How payments are compared with the payment services' own lists.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconciliationConfig {
    /// What is younger may be under way and is not compared yet.
    #[serde(with = "humantime_serde")]
    pub settle_after: Duration,
    /// How often a node looks for reconciliations to go on with, and for days that have none.
    #[serde(with = "humantime_serde")]
    pub look_every: Duration,
}

/// A comparison of an account's list with the books here.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Reconciliation {
    pub(super) id: ReconciliationId,
    /// The account: `sandbox`, `stripe:acme`.
    pub(super) provider: String,
    /// The day (UTC) a daily one is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) day: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) from: OffsetDateTime,
    /// What was done before this; some hours ago at most.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) to: OffsetDateTime,
    /// `running`, `completed`, or `failed` when the payment service does not show its list.
    pub(super) status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
    /// Operations the payment service has listed.
    pub(super) listed: i64,
    /// How many differences there are.
    pub(super) differences: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub(super) finished_at: Option<OffsetDateTime>,
}
