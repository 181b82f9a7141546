//! `GET /v1/moves`: how far moves are. Each region knows those from it; whoever is asked asks the others.

use axum::{Json, extract::State, http::HeaderMap};
use futures::future::join_all;
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{ids::TenantId, problem::Code};
use uuid::Uuid;

use super::{MoveView, store};
use crate::{
    app::App,
    http::{Path, Problem, ProblemBody, Query, bearer},
    identity::Operator,
    regions,
};

/// Moves, the newest first.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(super) struct Moves {
    items: Vec<MoveView>,
}

/// Which moves.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
pub(super) struct MovesQuery {
    /// Of this tenant alone.
    #[garde(skip)]
    tenant: Option<String>,
    /// Only those from the region that answers; the others are not asked.
    #[garde(skip)]
    #[serde(default)]
    here: bool,
}

/// Lists the newest moves of all regions that can be asked.
#[utoipa::path(get, path = "/v1/moves", tag = "tenants", security(("bearer" = [])), params(MovesQuery),
    responses((status = 200, body = Moves), (status = 403, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "moves.list", skip_all)]
pub(super) async fn list_moves(
    State(app): State<App>,
    _: Operator,
    Query(query): Query<MovesQuery>,
    headers: HeaderMap,
) -> Result<Json<Moves>, Problem> {
    let tenant = query.tenant.as_deref().map(str::parse::<TenantId>).transpose();
    let tenant = tenant.map_err(|_| Problem::field("tenant", "must match [a-z0-9-]{2,40}"))?;
    let mut items = own(&app, tenant.as_ref(), None).await?;
    if !query.here {
        let tenant = tenant.map_or_else(String::new, |tenant| format!("&tenant={tenant}"));
        items.extend(of_others(&app, &format!("/v1/moves?here=true{tenant}"), bearer(&headers)).await);
        items.sort_by_key(|moved| std::cmp::Reverse(moved.requested_at));
    }
    Ok(Json(Moves { items }))
}

/// Shows how far a move is.
#[utoipa::path(get, path = "/v1/moves/{id}", tag = "tenants", security(("bearer" = [])), params(("id" = String, Path)),
    responses((status = 200, body = MoveView), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "moves.get", skip_all)]
pub(super) async fn get_move(
    State(app): State<App>,
    _: Operator,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Json<MoveView>, Problem> {
    if let Some(own) = own(&app, None, Some(id)).await?.pop() {
        return Ok(Json(own));
    }
    let others = of_others(&app, "/v1/moves?here=true", bearer(&headers)).await;
    let found = others.into_iter().find(|moved| moved.id == id);
    found.map(Json).ok_or_else(|| Problem::new(Code::NotFound, format!("no move {id} in a region that answers")))
}

async fn own(app: &App, tenant: Option<&TenantId>, id: Option<Uuid>) -> Result<Vec<MoveView>, Problem> {
    let mut tx = app.db.system().await?;
    let moves = store::list(tx.conn(), tenant, id).await?;
    tx.commit().await?;
    Ok(moves)
}

async fn of_others(app: &App, path: &str, token: Option<&str>) -> Vec<MoveView> {
    let directory = app.tenants.directory();
    let others = directory.regions.iter().filter(|(name, _)| **name != app.region);
    let asked = others.map(async |(name, entry)| {
        let answer = regions::ask_of(app, name, &entry.base_url, path, token).await?;
        serde_json::from_value::<Moves>(answer).ok()
    });
    join_all(asked).await.into_iter().flatten().flat_map(|moves| moves.items).collect()
}
