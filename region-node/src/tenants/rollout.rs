//! Which published version runs where: first in one canary region, or pinned to one that is known to be good.
//!
//! The home region decides for all regions; a region may pin one for itself, also while it is cut off from all others. A
//! decision travels as a fact and is taken up by every node like a version.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{ids::RegionName, problem::Code};
use time::OffsetDateTime;

use super::{
    draft::{self, ConfigView},
    publish, store,
};
use crate::{
    app::App,
    db::{Epoch, TenantTx},
    http::{Command, CommandTx, Empty, Page, PageQuery, Path, Problem, ProblemBody, Query, Stop},
    identity::Caller,
};

/// A version that runs in one region before the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(super) struct Canary {
    /// The region.
    pub(super) region: String,
    /// The version.
    pub(super) version: i64,
}

/// What was decided last, about all regions or about one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Counts decisions.
    pub(super) number: i64,
    /// Of the home that decided.
    pub(super) epoch: Epoch,
    /// Runs whatever is published.
    pub(super) pinned: Option<i64>,
    /// Runs outside the canary region; the newest, if none.
    pub(super) stable: Option<i64>,
    /// Runs in one region.
    pub(super) canary: Option<Canary>,
}

impl Decision {
    fn same_as(&self, other: &Self) -> bool {
        (self.pinned, self.stable, &self.canary) == (other.pinned, other.stable, &other.canary)
    }
}

/// Where which version runs.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RolloutView {
    /// Runs in every region whatever is published, until it is unpinned.
    pinned: Option<i64>,
    /// Runs in this region whatever is decided for all.
    pinned_here: Option<i64>,
    /// Runs outside the canary region, or everywhere after a version was rolled back; the newest, if null.
    stable: Option<i64>,
    /// Runs in one region first.
    canary: Option<Canary>,
    /// Where a version can be tried.
    #[schema(value_type = Vec<String>)]
    regions: Vec<RegionName>,
}

pub(super) async fn view(app: &App, tx: &mut TenantTx) -> sqlx::Result<RolloutView> {
    let Decision { pinned, stable, canary, .. } = store::decision(tx, None).await?;
    let pinned_here = store::decision(tx, Some(&app.region)).await?.pinned;
    let regions = app.tenants.directory().regions.keys().cloned().collect();
    Ok(RolloutView { pinned, pinned_here, stable, canary, regions })
}

/// Decides anew, if `change` changes anything; a first decision of a new home is always told, so that what an earlier one
/// decided late is not heard any more. The caller holds the draft's row.
pub(super) async fn decide(
    tx: &mut TenantTx,
    region: Option<&RegionName>,
    now: OffsetDateTime,
    change: impl FnOnce(&mut Decision),
) -> Result<(), Problem> {
    let before = store::decision(tx, region).await?;
    let mut decided = before.clone();
    change(&mut decided);
    // What a region decides for itself no home has a say in.
    let epoch = if region.is_some() { Epoch::default() } else { tx.epoch() };
    let is_new_home = match before.number {
        0 => region.is_none() && store::is_published_by_earlier_home(tx, epoch).await?,
        _ => before.epoch < epoch,
    };
    if decided.same_as(&before) && !is_new_home {
        return Ok(());
    }
    decided.number += 1;
    decided.epoch = epoch;
    store::decide(tx, region, &decided, now).await
}

/// Lets the canary region's version run in every region.
#[utoipa::path(post, path = "/v1/tenants/{id}/config/promote", tag = "tenants", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 421, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.promote_config", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn promote(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    let mut tx = begin_at_home(&app, &caller, &id, &command).await?;
    must_have_canary(&mut tx).await?;
    let promote = |decided: &mut Decision| (decided.stable, decided.canary) = (None, None);
    decide(&mut tx, None, app.clock.now(), promote).await?;
    // What was edited while the canary ran has waited for this.
    publish::publish_if_fit(&app, &mut tx).await?;
    finish(&app, &caller, tx).await
}

/// Ends the canary: every region runs what the others ran. The draft stays a draft until somebody publishes it by hand.
#[utoipa::path(post, path = "/v1/tenants/{id}/config/rollback", tag = "tenants", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 421, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.roll_back_config", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn roll_back(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    let mut tx = begin_at_home(&app, &caller, &id, &command).await?;
    must_have_canary(&mut tx).await?;
    decide(&mut tx, None, app.clock.now(), |decided| decided.canary = None).await?;
    finish(&app, &caller, tx).await
}

/// A version to pin.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pin {
    /// Its number; the one that runs here, if none is named.
    #[garde(inner(range(min = 1)))]
    version: Option<i64>,
}

/// Pins a version: every region runs it until it is unpinned, whatever is published.
#[utoipa::path(put, path = "/v1/tenants/{id}/config/pin", tag = "tenants", security(("bearer" = [])), request_body = Pin,
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody), (status = 421, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.pin_config", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn pin(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    command: Command<Pin>,
) -> Result<Response, Stop> {
    let mut tx = begin_at_home(&app, &caller, &id, &command).await?;
    let version = version_to_pin(&app, &mut tx, &command.body).await?;
    decide(&mut tx, None, app.clock.now(), |decided| decided.pinned = Some(version)).await?;
    finish(&app, &caller, tx).await
}

/// Unpins: every region runs what is due without the pin.
#[utoipa::path(delete, path = "/v1/tenants/{id}/config/pin", tag = "tenants", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody), (status = 421, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.unpin_config", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn unpin(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    let mut tx = begin_at_home(&app, &caller, &id, &command).await?;
    decide(&mut tx, None, app.clock.now(), |decided| decided.pinned = None).await?;
    finish(&app, &caller, tx).await
}

/// Pins a version in the region that takes the call, home or not, also while it is cut off from all others.
#[utoipa::path(put, path = "/v1/tenants/{id}/config/pin/here", tag = "tenants", security(("bearer" = [])), request_body = Pin,
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.pin_config_here", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn pin_here(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    command: Command<Pin>,
) -> Result<Response, Stop> {
    let mut tx = begin_here(&app, &caller, &id, &command).await?;
    let version = version_to_pin(&app, &mut tx, &command.body).await?;
    decide(&mut tx, Some(&app.region), app.clock.now(), |decided| decided.pinned = Some(version)).await?;
    finish(&app, &caller, tx).await
}

/// Unpins in the region that takes the call.
#[utoipa::path(delete, path = "/v1/tenants/{id}/config/pin/here", tag = "tenants", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.unpin_config_here", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn unpin_here(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    let mut tx = begin_here(&app, &caller, &id, &command).await?;
    decide(&mut tx, Some(&app.region), app.clock.now(), |decided| decided.pinned = None).await?;
    finish(&app, &caller, tx).await
}

/// A published version, without its content.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct VersionView {
    version: i64,
    #[serde(with = "time::serde::rfc3339")]
    published_at: OffsetDateTime,
}

/// The published versions this region holds, the newest first.
#[utoipa::path(get, path = "/v1/tenants/{id}/config/versions", tag = "tenants", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path), PageQuery),
    responses((status = 200, body = Page<VersionView>), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.list_config_versions", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn list_versions(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<VersionView>>, Problem> {
    draft::may_configure(&caller, &id)?;
    let before = query.below()?;
    let mut tx = app.db.anywhere(caller.tenant()).await?;
    let rows = store::versions_before(&mut tx, before, query.limit() + 1).await?;
    tx.commit().await?;
    let views = rows.into_iter().map(|(version, published_at)| VersionView { version, published_at }).collect();
    Ok(Json(Page::numbered(views, query.limit(), |view: &VersionView| view.version)))
}

async fn begin_at_home<T>(app: &App, caller: &Caller, id: &str, command: &Command<T>) -> Result<CommandTx, Stop> {
    draft::may_configure(caller, id)?;
    let mut tx = command.begin(app, caller).await?;
    must_have_arrived(&mut tx).await?;
    Ok(tx)
}

async fn begin_here<T>(app: &App, caller: &Caller, id: &str, command: &Command<T>) -> Result<CommandTx, Stop> {
    draft::may_configure(caller, id)?;
    let mut tx = command.begin_anywhere(app, caller.tenant(), caller).await?;
    must_have_arrived(&mut tx).await?;
    Ok(tx)
}

/// Holds the draft's row, behind which edits, versions and decisions of one region follow each other.
async fn must_have_arrived(tx: &mut TenantTx) -> Result<(), Problem> {
    let arrived = store::lock_draft(tx).await?.is_some();
    arrived.then_some(()).ok_or_else(draft::not_here_yet)
}

async fn must_have_canary(tx: &mut TenantTx) -> Result<(), Problem> {
    let canary = store::decision(tx, None).await?.canary;
    canary.map(|_| ()).ok_or_else(|| Problem::new(Code::InvalidTransition, "no version is tried in a canary region"))
}

async fn version_to_pin(app: &App, tx: &mut TenantTx, pin: &Pin) -> Result<i64, Problem> {
    let Some(version) = pin.version else {
        let in_force = store::config_in_force(tx, &app.region).await?;
        let runs = in_force.and_then(|in_force| in_force.runs);
        return Ok(runs.ok_or_else(|| Problem::field("version", "nothing runs here that could be pinned"))?.version);
    };
    let known = store::version_up_to(tx, version).await?.is_some_and(|known| known.version == version);
    if known { Ok(version) } else { Err(Problem::field("version", format!("there is no version {version}"))) }
}

async fn finish(app: &App, caller: &Caller, mut tx: CommandTx) -> Result<Response, Stop> {
    let view = draft::view(app, &mut tx).await?;
    let answer = tx.finish(StatusCode::OK, &view).await?;
    app.tenants.forget_unfit(caller.tenant());
    app.tenants.forget_config(caller.tenant());
    Ok(answer)
}
