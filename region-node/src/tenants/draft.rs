//! A tenant's draft config: edited in any region, merged by automerge, conflicts shown.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::{
    claims::Role,
    fact::{ConfigChanged, Fact},
    ids::{RegionName, TenantId},
    problem::Code,
    tenant_config::TenantConfig,
    tenant_document::{Conflict, DocumentActor, DocumentError, TenantDocument},
};
use time::OffsetDateTime;

use super::{
    RefusedVersion,
    generation::compact_if_grown,
    publish,
    rollout::{self, RolloutView},
    store::{self, StoredDraft, StoredVersion},
};
use crate::{
    app::App,
    db::TenantTx,
    http::{Command, CommandTx, Path, Problem, ProblemBody, Stop},
    identity::{BACK_OFFICE, Caller},
    outbox,
};

/// A JSON merge patch (RFC 7396) of the draft.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub(super) struct ConfigPatch(#[garde(skip)] serde_json::Map<String, Value>);

/// A tenant's config: the merged draft and what runs.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ConfigView {
    /// The merged draft.
    #[schema(value_type = Object)]
    config: Value,
    /// The draft's version: send it back as If-Match to edit what was read.
    heads: Vec<String>,
    /// Where concurrent edits disagreed.
    #[schema(value_type = Vec<Object>)]
    conflicts: Vec<Conflict>,
    /// The newest published version; it runs unless `rollout` says otherwise.
    published: Option<PublishedView>,
    /// What runs in the region that answers, as far as the node that answers accepts it.
    running: RunningView,
    /// Which version is tried, held or pinned where.
    rollout: RolloutView,
    /// Why the draft is not published, if it is not.
    rejected: Vec<String>,
}

/// A published version.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct PublishedView {
    version: i64,
    #[schema(value_type = Object)]
    config: Value,
    #[serde(with = "time::serde::rfc3339")]
    published_at: OffsetDateTime,
}

impl From<StoredVersion> for PublishedView {
    fn from(stored: StoredVersion) -> Self {
        let StoredVersion { version, config, published_at } = stored;
        Self { version, config: TenantConfig::public_view(&config), published_at }
    }
}

/// What runs in one region.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RunningView {
    /// The region.
    #[schema(value_type = String)]
    region: RegionName,
    /// The version; null where none is accepted.
    version: Option<PublishedView>,
    /// Versions that should run and that this node refuses.
    refused: Vec<RefusedVersion>,
}

/// Shows the draft and what runs.
#[utoipa::path(get, path = "/v1/tenants/{id}/config", tag = "tenants", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.get_config", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn get_config(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    may_configure(&caller, &id)?;
    let mut tx = app.db.anywhere(caller.tenant()).await?;
    let view = view(&app, &mut tx).await?;
    tx.commit().await?;
    Ok(([(header::ETAG, etag(&view.heads))], Json(view)).into_response())
}

/// Edits the draft; publishes it if it is valid and `auto_publish` is not off.
#[utoipa::path(patch, path = "/v1/tenants/{id}/config", tag = "tenants", request_body(content = ConfigPatch, content_type = "application/merge-patch+json"),
    security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The heads that were read, comma-separated: edits made since then merge with this one instead of being overwritten.")),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody), (status = 412, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.patch_config", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn patch_config(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    command: Command<ConfigPatch>,
) -> Result<Response, Stop> {
    may_configure(&caller, &id)?;
    if command.body.0.contains_key("auth") && caller.role != Role::Operator {
        return Err(Problem::field("auth", "only an operator changes credentials").into());
    }
    let base = if_match(&headers)?;
    let tenant = caller.tenant().clone();
    let (mut tx, publishes) = begin(&app, &caller, &command).await?;
    let stored = store::lock_draft(&mut tx).await?;
    let stored = stored.ok_or_else(not_here_yet)?;
    let mut document = read(&tenant, &stored)?;
    let actor = DocumentActor::of(app.region.as_str(), store::database_run(&mut tx).await?);
    let patch = Value::Object(command.body.0.clone());
    if let Some(change) = document.apply_merge_patch(base.as_deref(), &patch, &actor).map_err(refused)? {
        store::save_draft(&mut tx, stored.generation, &mut document).await?;
        publish::must_fit(&tenant, &document.to_json())?;
        let generation = u32::try_from(stored.generation).expect("generations count from zero");
        let changed = ConfigChanged { tenant: tenant.to_string(), generation, changes: vec![change] };
        outbox::append(&mut tx, &Fact::ConfigChanged(changed)).await?;
        if publishes {
            publish::publish_if_fit(&app, &mut tx).await?;
            compact_if_grown(&app, &mut tx).await?;
        }
    }
    let view = view(&app, &mut tx).await?;
    let answer = tx.finish(StatusCode::OK, &view).await?;
    app.tenants.forget_config(&tenant);
    Ok(answer)
}

pub(crate) fn may_configure(caller: &Caller, id: &str) -> Result<(), Problem> {
    caller.must_be(&BACK_OFFICE)?;
    if caller.tenant().as_str() == id { Ok(()) } else { Err(Problem::not_found(format!("no tenant '{id}'"))) }
}

/// Begins an edit and says whether it may publish, which only the home may: held to that by the transaction, not by what
/// the directory said a moment ago.
async fn begin(app: &App, caller: &Caller, command: &Command<ConfigPatch>) -> Result<(CommandTx, bool), Stop> {
    let home = app.tenants.directory().homes.get(caller.tenant()).map(|home| home.region.clone());
    if home.as_ref() == Some(&app.region) {
        match command.begin(app, caller).await {
            Err(Stop::Problem(problem)) if problem.code() == Code::WrongRegion => {}
            begun => return begun.map(|tx| (tx, true)),
        }
    }
    Ok((command.begin_anywhere(app, caller.tenant(), caller).await?, false))
}

/// The refusal of a call about a config of which nothing has arrived.
pub(super) fn not_here_yet() -> Problem {
    Problem::new(Code::Unavailable, "this region has not received the tenant's config yet").retry_after(1)
}

pub(super) async fn view(app: &App, tx: &mut TenantTx) -> Result<ConfigView, Problem> {
    let stored = store::load_draft(tx).await?.ok_or_else(not_here_yet)?;
    let version = store::latest_version(tx).await?;
    let is_published = version.as_ref().is_some_and(|version| version.config == stored.draft);
    let rejected = match TenantConfig::from_draft(&stored.draft) {
        Err(errors) => errors.iter().map(publish::in_words).collect(),
        Ok(config) if !is_published && !config.auto_publish => {
            vec!["auto_publish is off: publish it by hand".to_owned()]
        }
        Ok(config) if !is_published => match publish::must_fit(tx.tenant(), &stored.draft) {
            Ok(()) if let Some(why) = app.psp.why_unusable(tx.tenant(), &config.psp) => {
                vec![format!("psp.account: {why}")]
            }
            Ok(()) => vec!["the home region has not published it yet".to_owned()],
            Err(problem) => vec![problem.detail().to_owned()],
        },
        Ok(_) => Vec::new(),
    };
    let (runs, refused) = store::config_in_force(tx, &app.region).await?.map(|now| (now.runs, now.refused)).unzip();
    let running = match runs.flatten() {
        Some(runs) => store::version_up_to(tx, runs.version).await?,
        None => None,
    };
    Ok(ConfigView {
        config: TenantConfig::public_view(&stored.draft),
        heads: stored.heads,
        conflicts: TenantConfig::public_conflicts(stored.conflicts.0),
        published: version.map(PublishedView::from),
        running: RunningView {
            region: app.region.clone(),
            version: running.map(PublishedView::from),
            refused: refused.unwrap_or_default(),
        },
        rollout: rollout::view(app, tx).await?,
        rejected,
    })
}

/// The draft's document. If what is stored is damaged, people have to mend it: the caller can do nothing.
pub(super) fn read(tenant: &TenantId, stored: &StoredDraft) -> Result<TenantDocument, Problem> {
    TenantDocument::load(&stored.document).map_err(|error| {
        tracing::error!(%tenant, "the draft of {tenant} is damaged: {error}");
        Problem::internal()
    })
}

/// What an edit that automerge refuses is answered with.
pub(super) fn refused(error: DocumentError) -> Problem {
    match error {
        DocumentError::UnknownHeads => Problem::new(
            Code::PreconditionFailed,
            "If-Match names heads this region does not have; read the config again",
        ),
        error => Problem::field("", error.to_string()),
    }
}

fn etag(heads: &[String]) -> String {
    format!("\"{}\"", heads.join(","))
}

fn if_match(headers: &HeaderMap) -> Result<Option<Vec<String>>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let malformed = || Problem::field("If-Match", "must be the heads of the config as read, comma-separated");
    let text = value.to_str().map_err(|_| malformed())?.trim();
    if text == "*" {
        return Ok(None);
    }
    let heads: Vec<String> =
        text.split(',').map(|head| head.trim().trim_matches('"').to_owned()).filter(|head| !head.is_empty()).collect();
    if heads.is_empty() { Err(malformed()) } else { Ok(Some(heads)) }
}
