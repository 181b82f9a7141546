//! Commands to a region's replication: given, carried out by global-sync, kept for ever with who gave them and why.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::{problem::Code, sync_command::SyncCommand};
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::{must_be_here, store};
use crate::{
    app::App,
    http::{Command, Page, PageQuery, Path, Problem, ProblemBody, Query},
    identity::Operator,
};

/// How long a call waits for its command to be carried out.
const WAIT: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A command, and why it is given.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSyncCommand {
    /// What replication is to do.
    #[garde(custom(has_numbers_in_range))]
    command: SyncCommand,
    /// Why: it stays beside what came of it.
    #[garde(length(chars, min = 3, max = 300))]
    reason: String,
}

fn has_numbers_in_range(command: &SyncCommand, (): &()) -> garde::Result {
    let fits = |number: u64| (1..=i64::MAX.unsigned_abs()).contains(&number);
    match command.entry() {
        Some(entry) if !fits(entry.incarnation) || !fits(entry.seq) => {
            Err(garde::Error::new("incarnation and seq count from 1"))
        }
        _ => Ok(()),
    }
}

/// A command and what came of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SyncCommandView {
    pub(super) id: Uuid,
    #[serde(skip)]
    pub(super) position: i64,
    /// What replication was told to do.
    #[schema(value_type = Object)]
    pub(super) command: Value,
    /// Why.
    pub(super) reason: String,
    /// The operator's client id.
    pub(super) made_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) made_at: OffsetDateTime,
    /// When it was carried out or refused; null while it waits or goes on.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) ended_at: Option<OffsetDateTime>,
    /// Whether it was done; false if it was refused.
    pub(super) done: Option<bool>,
    /// What was done, or why nothing was.
    pub(super) outcome: Option<String>,
}

/// Has a region's replication do something. Waits a few seconds for what comes of it; 202 if it waits or goes on then.
#[utoipa::path(post, path = "/v1/regions/{region}/sync/commands", tag = "regions", request_body = NewSyncCommand,
    security(("bearer" = [])), params(("region" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = SyncCommandView), (status = 202, body = SyncCommandView),
              (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody),
              (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "regions.give_command", skip_all, fields(command = command.body.command.name()))]
pub(super) async fn give_command(
    State(app): State<App>,
    operator: Operator,
    Path(region): Path<String>,
    command: Command<NewSyncCommand>,
) -> Result<Response, Problem> {
    must_be_here(&app, &region)?;
    let NewSyncCommand { command: what, reason } = &command.body;
    let mut tx = app.db.system().await?;
    let key = command.key.as_ref().map(|key| (key.key.as_str(), key.request_hash(&app.sealer)));
    let (id, known) = store::insert_command(&mut tx, what, reason, &operator.client_id, key).await?;
    tx.commit().await?;
    let is_same = |hash: &[u8]| key.is_some_and(|(_, own)| own == hash);
    match known {
        Some(hash) if !is_same(&hash) => {
            let detail = "this Idempotency-Key was used for another request; take a new one";
            return Err(Problem::new(Code::IdempotencyKeyReused, detail));
        }
        Some(_) => {}
        None => tracing::info!(
            audit.by = operator.client_id,
            audit.deed = format!("sync.{}", what.name()),
            "command {id} is given"
        ),
    }
    let until = Instant::now() + WAIT;
    loop {
        let mut tx = app.db.system().await?;
        let view = store::load_command(&mut tx, id).await?;
        tx.commit().await?;
        if view.ended_at.is_some() {
            return Ok((StatusCode::OK, Json(view)).into_response());
        }
        if Instant::now() >= until {
            return Ok((StatusCode::ACCEPTED, Json(view)).into_response());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a region's replication was told to do, by whom and why, and what came of it, the newest first.
#[utoipa::path(get, path = "/v1/regions/{region}/sync/commands", tag = "regions", security(("bearer" = [])),
    params(("region" = String, Path), PageQuery),
    responses((status = 200, body = Page<SyncCommandView>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "regions.list_commands", skip_all)]
pub(super) async fn list_commands(
    State(app): State<App>,
    _: Operator,
    Path(region): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<SyncCommandView>>, Problem> {
    must_be_here(&app, &region)?;
    let before = query.below()?;
    let mut tx = app.db.system().await?;
    let found = store::commands_before(&mut tx, before, query.limit() + 1).await?;
    tx.commit().await?;
    Ok(Json(Page::numbered(found, query.limit(), |view: &SyncCommandView| view.position)))
}
