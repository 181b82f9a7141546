//! Health, metrics, what this region knows of all regions, and what operators have its replication do.
//!
//! What replication says of itself is read from global-sync's status page, which takes no commands. A command is a row that
//! an operator's call writes and global-sync carries out, so that whoever may give one has shown a token and is named beside
//! what came of it.

mod commands;
mod quarantine;
mod rejected;
mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::get,
};
use fred::interfaces::ClientLike;
use futures::future::join_all;
use serde::Serialize;
use serde_json::{Value, json};
use shared::{ids::RegionName, problem::Code};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    http::{Problem, ProblemBody, bearer},
    identity::Operator,
};

/// Longer than this, and a part counts as down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Endpoints for operators and their tools.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(regions))
        .routes(routes!(commands::give_command, commands::list_commands))
        .routes(routes!(quarantine::list_quarantine))
        .routes(routes!(quarantine::show_quarantined))
        .routes(routes!(rejected::list_rejected))
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(health))
}

/// Calls about one region are answered there: the edge forwards them.
fn must_be_here(app: &App, region: &str) -> Result<(), Problem> {
    match region == app.region.as_str() {
        true => Ok(()),
        false => Err(Problem::new(Code::UnknownRegion, format!("no region '{region}' is known here"))),
    }
}

/// The health of the node and the region in detail, on the node's internal address.
pub(crate) fn internal_routes() -> Router<App> {
    Router::new()
        .route("/health", get(health_in_detail))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
}

/// All regions as this one sees them.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RegionsView {
    /// Whose view this is.
    #[schema(value_type = String)]
    region: RegionName,
    regions: Vec<RegionView>,
}

/// One region.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RegionView {
    #[schema(value_type = String)]
    name: RegionName,
    base_url: String,
    quic_addr: String,
    /// joining, active, draining or retired.
    state: String,
    health: HealthView,
    /// What its global-sync says of itself; null where it cannot be asked.
    #[schema(value_type = Option<Object>)]
    sync: Option<Value>,
}

/// Which parts of a region work.
#[derive(Debug, Default, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct HealthView {
    ready: bool,
    postgres: bool,
    redis: bool,
    sync: bool,
}

/// Every region: health, peers, lag, version vector, digest.
#[utoipa::path(get, path = "/v1/regions", tag = "regions", security(("bearer" = [])),
    responses((status = 200, body = RegionsView), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody)))]
#[tracing::instrument(name = "regions.list", skip_all)]
async fn regions(State(app): State<App>, _: Operator, headers: HeaderMap) -> Json<RegionsView> {
    let directory = app.tenants.directory();
    // A region that keeps its details internal shows them to an operator.
    let token = bearer(&headers).map(str::to_owned);
    let views = directory.regions.iter().map(|(name, entry)| {
        let (app, token) = (app.clone(), token.clone());
        async move {
            let (health, sync) = match *name == app.region {
                true => own_health(&app).await,
                false => ask_region(&app, name, &entry.base_url, token.as_deref()).await,
            };
            RegionView {
                name: name.clone(),
                base_url: entry.base_url.clone(),
                quic_addr: entry.quic_addr.clone(),
                state: entry.state.clone(),
                health,
                sync,
            }
        }
    });
    Json(RegionsView { region: app.region.clone(), regions: join_all(views).await })
}

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "regions", responses((status = 200)))]
async fn live() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// The node can serve: its database answers.
#[utoipa::path(get, path = "/health/ready", tag = "regions", responses((status = 200), (status = 503, body = ProblemBody)))]
async fn ready(State(app): State<App>) -> Response {
    let is_stopping = app.stop.is_cancelled();
    match !is_stopping && postgres_answers(&app).await {
        true => Json(json!({"status": "ok"})).into_response(),
        false => {
            let detail = if is_stopping { "the node is stopping" } else { "the database does not answer" };
            Problem::new(Code::Unavailable, detail).retry_after(1).into_response()
        }
    }
}

/// Which parts of this region work; where details are internal, only whether all do, except to an operator.
#[utoipa::path(get, path = "/health", tag = "regions", responses((status = 200)))]
async fn health(state: State<App>, operator: Result<Operator, Problem>) -> Json<Value> {
    let is_open = state.config.http.internal_listen.is_none() || operator.is_ok();
    let mut health = health_in_detail(state).await;
    if let (false, Some(fields)) = (is_open, health.as_object_mut()) {
        fields.retain(|name, _| matches!(name.as_str(), "status" | "region"));
    }
    health
}

async fn health_in_detail(State(app): State<App>) -> Json<Value> {
    let (health, sync) = own_health(&app).await;
    let status = if health.ready && health.redis && health.sync { "ok" } else { "degraded" };
    Json(json!({"status": status, "region": app.region, "health": health, "sync": sync}))
}

/// Which parts of this region work, and what its global-sync says of itself.
async fn own_health(app: &App) -> (HealthView, Option<Value>) {
    let (postgres, redis, sync) = tokio::join!(postgres_answers(app), redis_answers(app), own_sync(app));
    let ready = postgres && !app.stop.is_cancelled();
    (HealthView { ready, postgres, redis, sync: sync.is_some() }, sync)
}

async fn postgres_answers(app: &App) -> bool {
    let probe = sqlx::query_scalar!("SELECT 1").fetch_one(app.db.app_pool());
    matches!(tokio::time::timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(_)))
}

async fn redis_answers(app: &App) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, app.redis.ping::<String>(None)).await, Ok(Ok(_)))
}

async fn own_sync(app: &App) -> Option<Value> {
    let url = app.config.sync.status_url.as_ref()?.join("/status").ok()?;
    ask(app, url.as_str(), None).await
}

/// Whether everything in a region answers and works, as it says itself.
pub(crate) async fn is_healthy(app: &App, name: &RegionName, base_url: &str, token: Option<&str>) -> bool {
    let (health, _) = ask_region(app, name, base_url, token).await;
    health.ready && health.sync
}

/// What another region answers to a GET of `path`; nothing if it does not.
pub(crate) async fn ask_of(
    app: &App,
    name: &RegionName,
    base_url: &str,
    path: &str,
    token: Option<&str>,
) -> Option<Value> {
    let configured = app.config.edge.peers.0.get(name).map(|url| url.as_str().trim_end_matches('/').to_owned());
    let base_url = configured.unwrap_or_else(|| base_url.trim_end_matches('/').to_owned());
    ask(app, &format!("{base_url}{path}"), token).await
}

async fn ask_region(app: &App, name: &RegionName, base_url: &str, token: Option<&str>) -> (HealthView, Option<Value>) {
    let Some(answer) = ask_of(app, name, base_url, "/health", token).await else { return Default::default() };
    let part = |name: &str| answer["health"][name].as_bool().unwrap_or(false);
    let health =
        HealthView { ready: part("ready"), postgres: part("postgres"), redis: part("redis"), sync: part("sync") };
    (health, Some(answer["sync"].clone()).filter(|sync| !sync.is_null()))
}

async fn ask(app: &App, url: &str, token: Option<&str>) -> Option<Value> {
    let request = app.http.get(url).timeout(PROBE_TIMEOUT);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let answer = request.send().await.ok()?;
    answer.error_for_status().ok()?.json().await.ok()
}
