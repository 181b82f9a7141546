use axum::{Json, extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{ids::ReconciliationId, problem::Code};
use time::{Duration, OffsetDateTime};

use super::{Difference, Reconciliation, job::Job};
use crate::{
    app::App,
    http::{Command, Page, PageQuery, Path, Problem, ProblemBody, Query, Stop},
    identity::{BACK_OFFICE, Caller},
    payments::store,
};

const LONGEST: Duration = Duration::days(31);
/// A tenant's at once.
const RUNNING: i64 = 10;

/// What to compare.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(in crate::payments) struct ReconcileRequest {
    /// A day before `to`, if not said; 31 days at most.
    #[garde(skip)]
    #[serde(default, with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// As late as what is under way allows, if not said or later than that.
    #[garde(skip)]
    #[serde(default, with = "time::serde::rfc3339::option")]
    to: Option<OffsetDateTime>,
    /// The account, such as `stripe:acme`; the one the tenant uses now, if not said.
    #[garde(skip)]
    #[serde(default)]
    provider: Option<String>,
}

/// A reconciliation and a page of what it found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(in crate::payments) struct ReconciliationReport {
    #[serde(flatten)]
    reconciliation: Reconciliation,
    /// Differences, once it is completed.
    items: Vec<Difference>,
    /// Where the next page begins; null after the last.
    next_cursor: Option<String>,
}

/// Has what a payment service did compared with the books here. Each account's days are compared by themselves; this is for
/// other spans, or to look again.
#[utoipa::path(post, path = "/v1/reconciliations", tag = "payments", security(("bearer" = [])),
    request_body = ReconcileRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = Reconciliation), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 422, body = ProblemBody), (status = 429, body = ProblemBody)))]
#[tracing::instrument(name = "payments.reconcile", skip_all)]
pub(in crate::payments) async fn reconcile(
    State(app): State<App>,
    caller: Caller,
    command: Command<ReconcileRequest>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let published = app.tenants.config(caller.tenant()).await?;
    let now = app.clock.now();
    let mut tx = command.begin(&app, &caller).await?;
    let latest = now - app.config.psp.reconciliation.settle_after;
    let to = command.body.to.unwrap_or(latest).min(latest);
    let from = command.body.from.unwrap_or(to - Duration::DAY);
    if from >= to {
        return Err(Problem::field("from", format!("must be before {to}: what is later may be under way")).into());
    }
    if to - from > LONGEST {
        return Err(Problem::field("from", "must be 31 days before to at most").into());
    }
    let provider = command.body.provider.clone().unwrap_or_else(|| published.config.psp.reference());
    if app.psp.get(&provider).is_err() {
        return Err(Problem::field("provider", "is no account this region can reach").into());
    }
    if store::count_running_reconciliations(&mut tx).await? >= RUNNING {
        let detail = format!("{RUNNING} reconciliations are running; wait for one to end");
        return Err(Problem::new(Code::RateLimited, detail).retry_after(60).into());
    }
    let job = Job::new(provider, from, to);
    store::insert_reconciliation(&mut tx, &job, None, now).await?;
    let made = store::load_reconciliation(&mut tx, job.id).await?.ok_or_else(|| no_reconciliation(job.id))?;
    tx.finish(StatusCode::ACCEPTED, &made).await
}

/// Which reconciliations.
#[derive(Debug, Default, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::payments) struct ReconciliationsQuery {
    /// Only those that failed or found differences.
    #[garde(skip)]
    #[serde(default)]
    attention: bool,
    /// `next_cursor` of the page before.
    #[garde(length(max = 64))]
    #[serde(default)]
    cursor: Option<String>,
    /// Items on a page, 1 to 100; 20 if not said.
    #[garde(range(min = 1, max = 100))]
    #[serde(default)]
    limit: Option<u16>,
}

/// The tenant's reconciliations, the newest first: those of each day, and those asked for.
#[utoipa::path(get, path = "/v1/reconciliations", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ReconciliationsQuery),
    responses((status = 200, body = Page<Reconciliation>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 422, body = ProblemBody)))]
pub(in crate::payments) async fn list_reconciliations(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ReconciliationsQuery>,
) -> Result<Json<Page<Reconciliation>>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let page = PageQuery { cursor: query.cursor, limit: query.limit };
    let (before, limit) = (page.after()?, page.limit());
    let mut tx = app.db.read(caller.tenant()).await?;
    let rows = store::list_reconciliations(&mut tx, query.attention, before, limit + 1).await?;
    Ok(Json(Page::new(rows, limit, |reconciliation| reconciliation.id.0)))
}

/// How far a reconciliation is, and its differences by pages.
#[utoipa::path(get, path = "/v1/reconciliations/{id}", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = ReconciliationId, Path), PageQuery),
    responses((status = 200, body = ReconciliationReport), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
pub(in crate::payments) async fn get_reconciliation(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ReconciliationId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<ReconciliationReport>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let (after, limit) = (query.after()?, query.limit());
    let mut tx = app.db.read(caller.tenant()).await?;
    let reconciliation = store::load_reconciliation(&mut tx, id).await?.ok_or_else(|| no_reconciliation(id))?;
    let rows = store::list_differences(&mut tx, id, after, limit + 1).await?;
    let page = Page::new(rows, limit, |difference| difference.id);
    Ok(Json(ReconciliationReport { reconciliation, items: page.items, next_cursor: page.next_cursor }))
}

fn no_reconciliation(id: ReconciliationId) -> Problem {
    Problem::not_found(format!("no reconciliation {id}"))
}
