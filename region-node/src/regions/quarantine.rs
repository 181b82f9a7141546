//! Entries that a region has stored and not applied, with the reason.

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::{
    fact::{FactStream, SALT_BYTES},
    ids::RegionName,
    sync_command::EntryPlace,
};
use time::OffsetDateTime;

use super::{
    must_be_here,
    store::{self, StoredEntry},
};
use crate::{
    app::App,
    http::{Page, PageQuery, Path, Problem, ProblemBody, Query},
    identity::Operator,
};

/// Why an entry is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum QuarantineState {
    /// What it depends on has not arrived.
    Held,
    /// Of a kind this release does not know.
    Parked,
    /// It could not be applied.
    Failed,
    /// It contradicts a fact that was here first.
    Conflict,
    /// An edit of a draft that was replaced too long ago.
    Stale,
    /// An operator said that it is never to be applied.
    Skipped,
}

impl QuarantineState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Parked => "parked",
            Self::Failed => "failed",
            Self::Conflict => "conflict",
            Self::Stale => "stale",
            Self::Skipped => "skipped",
        }
    }
}

/// Which entries.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct QuarantineQuery {
    /// held, parked, failed, conflict, stale or skipped; all, if not said.
    #[garde(skip)]
    #[param(value_type = Option<String>)]
    state: Option<QuarantineState>,
    /// `next_cursor` of the page before.
    #[garde(length(max = 64))]
    cursor: Option<String>,
    /// Items on a page, 1 to 100; 20 if not said.
    #[garde(range(min = 1, max = 100))]
    limit: Option<u16>,
}

/// An entry that is stored and not applied.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QuarantinedView {
    #[serde(skip)]
    pub(super) position: i64,
    /// The region that wrote it.
    pub(super) origin: String,
    /// Which life of that region.
    pub(super) incarnation: i64,
    /// Which of its logs.
    pub(super) stream: String,
    /// Its number there.
    pub(super) seq: i64,
    /// Whose it is, as far as it can be told.
    pub(super) tenant: Option<String>,
    /// Its kind, as far as it can be told.
    pub(super) kind: String,
    /// held, parked, failed, conflict, stale or skipped.
    pub(super) state: String,
    pub(super) reason: String,
    pub(super) attempts: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) first_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) last_at: OffsetDateTime,
}

/// An entry that is set aside, and what it says.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct QuarantinedEntry {
    #[serde(flatten)]
    entry: QuarantinedView,
    /// SHA-256 of the envelope as it was stored, in hex; null where the log has the entry no more.
    hash: Option<String>,
    /// The envelope, base64.
    envelope: Option<String>,
    /// What it says; null where the body is withheld or no JSON.
    #[schema(value_type = Option<Object>)]
    body: Option<Value>,
}

/// What a region has set aside, the newest first.
#[utoipa::path(get, path = "/v1/regions/{region}/sync/quarantine", tag = "regions", security(("bearer" = [])),
    params(("region" = String, Path), QuarantineQuery),
    responses((status = 200, body = Page<QuarantinedView>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "regions.list_quarantine", skip_all)]
pub(super) async fn list_quarantine(
    State(app): State<App>,
    _: Operator,
    Path(region): Path<String>,
    Query(query): Query<QuarantineQuery>,
) -> Result<Json<Page<QuarantinedView>>, Problem> {
    must_be_here(&app, &region)?;
    let page = PageQuery { cursor: query.cursor, limit: query.limit };
    let before = page.below()?;
    let state = query.state.map(QuarantineState::as_str);
    let mut tx = app.db.system().await?;
    let found = store::quarantined_before(&mut tx, state, before, page.limit() + 1).await?;
    tx.commit().await?;
    Ok(Json(Page::numbered(found, page.limit(), |view: &QuarantinedView| view.position)))
}

/// One entry a region has set aside, and what it says.
#[utoipa::path(get, path = "/v1/regions/{region}/sync/quarantine/{origin}/{incarnation}/{stream}/{seq}",
    tag = "regions", security(("bearer" = [])),
    params(("region" = String, Path), ("origin" = String, Path), ("incarnation" = u64, Path), ("stream" = String, Path),
           ("seq" = u64, Path)),
    responses((status = 200, body = QuarantinedEntry), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "regions.show_quarantined", skip_all)]
pub(super) async fn show_quarantined(
    State(app): State<App>,
    _: Operator,
    Path((region, origin, incarnation, stream, seq)): Path<(String, RegionName, u64, FactStream, u64)>,
) -> Result<Json<QuarantinedEntry>, Problem> {
    must_be_here(&app, &region)?;
    let entry = EntryPlace { origin, incarnation, stream, seq };
    let mut tx = app.db.system().await?;
    let found = store::load_quarantined(&mut tx, &entry).await?;
    tx.commit().await?;
    let found = found.ok_or_else(|| {
        let EntryPlace { origin, incarnation, stream, seq } = &entry;
        Problem::not_found(format!("{origin}/{incarnation}/{stream}/{seq} is not set aside"))
    })?;
    let (hash, envelope, body) = match found.stored {
        Some(StoredEntry { hash, envelope, body }) => {
            let said = body.and_then(|body| serde_json::from_slice(body.get(SALT_BYTES..)?).ok());
            (Some(hex::encode(hash)), Some(STANDARD.encode(envelope)), said)
        }
        None => (None, None, None),
    };
    Ok(Json(QuarantinedEntry { entry: found.view, hash, envelope, body }))
}
