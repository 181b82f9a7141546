//! Facts of a region's own that may not leave it, with the reason. What they say is not shown: it may be what must not be told.

use axum::{Json, extract::State};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{must_be_here, store};
use crate::{
    app::App,
    http::{Page, PageQuery, Path, Problem, ProblemBody, Query},
    identity::Operator,
};

/// A fact that was refused a number.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RejectedView {
    /// What `readmit` and `dismiss` name it by.
    pub(super) id: Uuid,
    /// The log it would have been part of.
    pub(super) stream: String,
    pub(super) kind: String,
    pub(super) tenant: Option<String>,
    /// Why it may not leave.
    pub(super) reason: String,
    /// How long what it says is, bytes.
    pub(super) bytes: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) committed_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) rejected_at: OffsetDateTime,
}

/// Facts of a region's own that may not leave it, the newest first.
#[utoipa::path(get, path = "/v1/regions/{region}/sync/rejected", tag = "regions", security(("bearer" = [])),
    params(("region" = String, Path), PageQuery),
    responses((status = 200, body = Page<RejectedView>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "regions.list_rejected", skip_all)]
pub(super) async fn list_rejected(
    State(app): State<App>,
    _: Operator,
    Path(region): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<RejectedView>>, Problem> {
    must_be_here(&app, &region)?;
    let before = query.after()?.unwrap_or(Uuid::max());
    let mut tx = app.db.system().await?;
    let found = store::rejected_before(&mut tx, before, query.limit() + 1).await?;
    tx.commit().await?;
    Ok(Json(Page::new(found, query.limit(), |view: &RejectedView| view.id)))
}
