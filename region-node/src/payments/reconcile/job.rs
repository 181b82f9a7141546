use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use shared::ids::{ReconciliationId, TenantId};
use time::{Date, Duration, OffsetDateTime, UtcOffset};

use super::CLASSES;
use crate::{
    app::App,
    http::Problem,
    payments::{
        machine::{MAX_ATTEMPTS, retry_after},
        psp::{ListedKind, Listing},
        store,
    },
};

/// Claimed at once, and worked on at once.
const BATCH: i64 = 4;
const AT_ONCE: usize = 2;
/// Tenants whose day is begun at once.
const TENANTS: i64 = 500;
/// Days that were missed are made up for this far back.
const DAYS_BACK: usize = 3;
/// The PSP's clock and ours differ by less.
pub(in crate::payments) const CLOCKS_DIFFER: Duration = Duration::minutes(5);
/// Banks send a refund back within about so long of it.
pub(in crate::payments) const SENT_BACK_WITHIN: Duration = Duration::days(30);

/// A reconciliation, as far as it takes to go on with it.
#[derive(Clone, Debug)]
pub(in crate::payments) struct Job {
    pub(in crate::payments) id: ReconciliationId,
    pub(in crate::payments) provider: String,
    pub(in crate::payments) from: OffsetDateTime,
    pub(in crate::payments) to: OffsetDateTime,
    /// The PSP's lists are read from here.
    pub(in crate::payments) list_from: OffsetDateTime,
    pub(in crate::payments) phase: Phase,
    pub(in crate::payments) cursor: Option<String>,
    pub(in crate::payments) attempts: i32,
    /// Whoever works on it holds it until then; the time tells one holder from the next.
    pub(in crate::payments) held_until: Option<OffsetDateTime>,
}

/// What a reconciliation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::payments) enum Phase {
    Charges,
    Refunds,
    Disputes,
    Compare,
}

impl Phase {
    /// Its name in SQL.
    pub(in crate::payments) fn as_str(self) -> &'static str {
        match self {
            Self::Charges => "charges",
            Self::Refunds => "refunds",
            Self::Disputes => "disputes",
            Self::Compare => "compare",
        }
    }

    /// The one of that name.
    pub(in crate::payments) fn from_name(name: &str) -> Option<Self> {
        [Self::Charges, Self::Refunds, Self::Disputes, Self::Compare].into_iter().find(|phase| phase.as_str() == name)
    }
}

impl Job {
    /// To be begun by any node.
    pub(in crate::payments) fn new(provider: String, from: OffsetDateTime, to: OffsetDateTime) -> Self {
        let (id, list_from) = (ReconciliationId::new(), from - CLOCKS_DIFFER);
        Self { id, provider, from, to, list_from, phase: Phase::Charges, cursor: None, attempts: 0, held_until: None }
    }

    pub(in crate::payments) fn listing(&self, tenant: &TenantId, kind: ListedKind, from: OffsetDateTime) -> Listing {
        Listing { tenant: tenant.clone(), kind, from, to: self.to + CLOCKS_DIFFER, after: self.cursor.clone() }
    }

    /// Once a page has been read whose successor is at `next`.
    pub(in crate::payments) fn after_page(self, next: Option<String>, held_until: OffsetDateTime) -> Self {
        let phase = match (&next, self.phase) {
            (Some(_), phase) => phase,
            (None, Phase::Charges) => Phase::Refunds,
            (None, Phase::Refunds) => Phase::Disputes,
            (None, Phase::Disputes | Phase::Compare) => Phase::Compare,
        };
        Self { phase, cursor: next, attempts: 0, held_until: Some(held_until), ..self }
    }
}

/// Begins the days' reconciliations and goes on with all there are, until the node stops.
pub async fn reconcile_due(app: App) {
    loop {
        if let Err(problem) = run_due(&app).await {
            tracing::warn!(%problem, "reconciliations could not be looked for");
        }
        tokio::time::sleep(app.config.psp.reconciliation.look_every).await;
    }
}

/// Begins what is missing and goes on with what is due; says how much that was.
pub(in crate::payments) async fn run_due(app: &App) -> Result<u64, Problem> {
    let now = app.clock.now();
    begin_days(app, now).await?;
    let mut tx = app.db.system().await?;
    let due = store::claim_due_reconciliations(&mut tx, app.region.as_str(), now, now + app.psp.hold(), BATCH).await?;
    tx.commit().await?;
    let count = due.len() as u64;
    stream::iter(due).for_each_concurrent(AT_ONCE, |(tenant, id)| go_on_or_say(app, tenant, id)).await;
    show(app, now).await?;
    Ok(count)
}

/// Begins the reconciliations of whole days that have settled, for each tenant that has none: of the account it uses, and of
/// those it used that day.
async fn begin_days(app: &App, now: OffsetDateTime) -> Result<(), Problem> {
    let settled = (now - app.config.psp.reconciliation.settle_after).to_offset(UtcOffset::UTC).date();
    for day in std::iter::successors(settled.previous_day(), |day| day.previous_day()).take(DAYS_BACK) {
        let mut tx = app.db.system().await?;
        let tenants = store::tenants_without_day(&mut tx, app.region.as_str(), day, TENANTS).await?;
        tx.commit().await?;
        for tenant in tenants {
            if let Err(problem) = begin_day(app, &tenant, day, now).await {
                tracing::warn!(%problem, %tenant, %day, "the day's reconciliation could not be begun");
            }
        }
    }
    Ok(())
}

async fn begin_day(app: &App, tenant: &TenantId, day: Date, now: OffsetDateTime) -> Result<(), Problem> {
    let from = day.midnight().assume_utc();
    let to = from + Duration::DAY;
    let published = app.tenants.config(tenant).await?;
    let mut tx = app.db.begin(tenant).await?;
    let mut accounts: BTreeSet<String> = store::accounts_used(&mut tx, from, to).await?.into_iter().collect();
    accounts.insert(published.config.psp.reference());
    for account in accounts {
        store::insert_reconciliation(&mut tx, &Job::new(account, from, to), Some(day), now).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// What fails here stays due: its row says so.
async fn go_on_or_say(app: &App, tenant: TenantId, id: ReconciliationId) {
    if let Err(problem) = go_on(app, &tenant, id).await {
        tracing::warn!(%problem, %tenant, "reconciliation {id} could not go on; it will be tried again");
    }
}

async fn go_on(app: &App, tenant: &TenantId, id: ReconciliationId) -> Result<(), Problem> {
    let mut tx = app.db.read(tenant).await?;
    let Some(mut job) = store::load_job(&mut tx, id).await? else { return Ok(()) };
    drop(tx);
    loop {
        let kind = match job.phase {
            Phase::Charges => ListedKind::Charges,
            Phase::Refunds => ListedKind::Refunds,
            Phase::Disputes => ListedKind::Disputes,
            Phase::Compare => return finish(app, tenant, &job).await,
        };
        if app.psp.admit(&job.provider).is_err() {
            return put_off(app, tenant, &job, None).await;
        }
        let from = match kind {
            ListedKind::Charges => job.list_from,
            ListedKind::Refunds => job.list_from.min(job.from - SENT_BACK_WITHIN),
            ListedKind::Disputes => disputes_from(app, tenant, &job).await?,
        };
        let page = match app.psp.list(&job.provider, &job.listing(tenant, kind, from)).await {
            Ok(page) => page,
            Err(no_answer) => return put_off(app, tenant, &job, Some(&no_answer.to_string())).await,
        };
        let mut tx = app.db.begin(tenant).await?;
        let next = job.clone().after_page(page.next.clone(), app.clock.now() + app.psp.hold());
        // Held by another by now: it was too slow.
        if !store::advance(&mut tx, &job, &next, page.operations.len()).await? {
            return Ok(());
        }
        store::keep_listed(&mut tx, id, kind, &page.operations).await?;
        tx.commit().await?;
        job = next;
    }
}

/// Banks decide weeks after they have opened a dispute, so those that are open here are listed, too, however old they are.
async fn disputes_from(app: &App, tenant: &TenantId, job: &Job) -> Result<OffsetDateTime, Problem> {
    let mut tx = app.db.read(tenant).await?;
    let oldest = store::oldest_open_dispute(&mut tx, &job.provider).await?;
    Ok(oldest.map_or(job.list_from, |opened_at| job.list_from.min(opened_at - CLOCKS_DIFFER)))
}

/// Leaves it to be gone on with later; `why` counts as an attempt.
async fn put_off(app: &App, tenant: &TenantId, job: &Job, why: Option<&str>) -> Result<(), Problem> {
    let now = app.clock.now();
    let is_over = why.is_some() && job.attempts >= MAX_ATTEMPTS;
    let next_attempt_at = (!is_over).then(|| now + retry_after(job.attempts.max(1), rand::random()));
    let attempts = if why.is_some() { job.attempts } else { job.attempts.saturating_sub(1) };
    let mut tx = app.db.begin(tenant).await?;
    store::put_reconciliation_off(&mut tx, job, attempts, next_attempt_at, why, now).await?;
    tx.commit().await?;
    if is_over {
        tracing::error!(%tenant, provider = job.provider, "reconciliation {} is given up", job.id);
    }
    Ok(())
}

/// Compares, all in one transaction: who repeats it after a crash finds nothing half done.
async fn finish(app: &App, tenant: &TenantId, job: &Job) -> Result<(), Problem> {
    let now = app.clock.now();
    let mut tx = app.db.begin(tenant).await?;
    if !store::is_held(&mut tx, job).await? {
        return Ok(());
    }
    store::compare(&mut tx, job, app.region.as_str()).await?;
    let differences = store::complete(&mut tx, job.id, now).await?;
    tx.commit().await?;
    let (id, provider) = (job.id, &job.provider);
    match differences {
        0 => tracing::info!(%tenant, provider, "reconciliation {id}: nothing differs"),
        _ => tracing::error!(%tenant, provider, differences, "reconciliation {id}: {differences} differences"),
    }
    Ok(())
}

/// What the last day's reconciliations found, whoever made them: a counter would start anew with its node.
async fn show(app: &App, now: OffsetDateTime) -> Result<(), Problem> {
    let mut tx = app.db.system().await?;
    let found = store::differences_since(&mut tx, now - Duration::DAY).await?;
    let failed = store::count_failed_since(&mut tx, now - Duration::DAY).await?;
    tx.commit().await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    for class in CLASSES {
        let count = found.iter().find(|(found, _)| found == class).map_or(0, |(_, count)| *count);
        metrics::gauge!("region_node_reconciliation_differences", "class" => class).set(count as f64);
    }
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    metrics::gauge!("region_node_reconciliations_failed").set(failed as f64);
    Ok(())
}
