//! Publishing: the home region turns a valid draft into the next immutable version.

use axum::{extract::State, http::StatusCode, response::Response};
use serde_json::Value;
use shared::{
    fact::{ConfigPublished, Fact, MAX_BODY_BYTES},
    ids::TenantId,
    problem::{Code, FieldError},
    tenant_config::TenantConfig,
};
use time::OffsetDateTime;

use super::{
    draft::{self, ConfigView},
    store::{self, StoredVersion},
};
use crate::{
    app::App,
    db::TenantTx,
    http::{Command, Empty, Path, Problem, ProblemBody, Stop},
    identity::Caller,
    outbox,
};

/// Publishes a draft whose tenant has `auto_publish` off.
#[utoipa::path(post, path = "/v1/tenants/{id}/config/publish", tag = "tenants", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody), (status = 421, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.publish_config", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn publish_config(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    draft::may_configure(&caller, &id)?;
    let mut tx = command.begin(&app, &caller).await?;
    let stored = store::lock_draft(&mut tx).await?;
    let stored =
        stored.ok_or_else(|| Problem::new(Code::Unavailable, "the config has not arrived yet").retry_after(1))?;
    let config = TenantConfig::from_draft(&stored.draft).map_err(Problem::validation)?;
    if let Some(why) = app.psp.why_unusable(&config.psp) {
        return Err(Problem::field("psp.account", why).into());
    }
    publish(&mut tx, stored.draft, app.clock.now()).await?;
    let view = draft::view(&app, &mut tx).await?;
    let answer = tx.finish(StatusCode::OK, &view).await?;
    app.tenants.forget_config(caller.tenant());
    Ok(answer)
}

/// Publishes every draft at home here that is valid, differs from what runs and publishes itself. Edits made elsewhere
/// arrive as changed drafts; this is what turns them into versions. One tenant's failure holds up no other's.
pub async fn publish_due_drafts(app: &App) -> Result<(), Problem> {
    let mut scan = app.db.system().await?;
    let drafts = store::unpublished(scan.conn(), &app.region).await?;
    scan.commit().await?;
    for (tenant, heads) in drafts {
        if app.tenants.is_known_unfit(&tenant, &heads) {
            continue;
        }
        match publish_draft(app, &tenant).await {
            Ok(None) => {}
            Ok(Some(why)) => {
                tracing::info!(%tenant, "the draft of {tenant} stays a draft: {why}");
                app.tenants.note_unfit(tenant, heads);
            }
            Err(problem) => tracing::warn!(%tenant, %problem, "the draft of {tenant} could not be published"),
        }
    }
    Ok(())
}

async fn publish_draft(app: &App, tenant: &TenantId) -> Result<Option<String>, Problem> {
    let mut tx = app.db.begin(tenant).await?;
    let why_not = match store::lock_draft(&mut tx).await? {
        Some(_) => publish_if_fit(app, &mut tx).await?,
        None => None,
    };
    tx.commit().await?;
    Ok(why_not)
}

/// Publishes the draft if it is valid and publishes itself, else says why not; the caller holds its row.
pub(super) async fn publish_if_fit(app: &App, tx: &mut TenantTx) -> Result<Option<String>, Problem> {
    let Some(stored) = store::load_draft(tx).await? else { return Ok(None) };
    match TenantConfig::from_draft(&stored.draft) {
        Ok(config) if !config.auto_publish => return Ok(Some("auto_publish is off".to_owned())),
        Ok(config) => {
            if let Some(why) = app.psp.why_unusable(&config.psp) {
                return Ok(Some(in_words(&FieldError::new("psp.account", why))));
            }
        }
        Err(errors) => return Ok(Some(errors.iter().map(in_words).collect::<Vec<_>>().join("; "))),
    }
    // Edits that were fit one by one may have merged into one that is not.
    if let Err(problem) = must_fit(tx.tenant(), &stored.draft) {
        return Ok(Some(problem.detail().to_owned()));
    }
    publish(tx, stored.draft, app.clock.now()).await?;
    Ok(None)
}

/// A reason why a draft is not published, for people.
pub(super) fn in_words(error: &FieldError) -> String {
    match error.field.as_str() {
        "" => error.message.clone(),
        field => format!("{field}: {}", error.message),
    }
}

/// Refuses a config that could never be published: replication carries none so large.
pub(super) fn must_fit(tenant: &TenantId, config: &Value) -> Result<(), Problem> {
    let largest = ConfigPublished {
        tenant: tenant.to_string(),
        version: u64::MAX,
        config: config.clone(),
        published_at: OffsetDateTime::UNIX_EPOCH,
    };
    match Fact::ConfigPublished(largest).to_body().len() {
        size if size <= MAX_BODY_BYTES => Ok(()),
        _ => Err(Problem::field("", format!("the whole config may have at most {} KiB", MAX_BODY_BYTES / 1024))),
    }
}

/// Makes `config` the next version, unless it is what runs already.
pub(super) async fn publish(tx: &mut TenantTx, config: Value, now: OffsetDateTime) -> Result<(), Problem> {
    must_fit(tx.tenant(), &config)?;
    let latest = store::latest_version(tx).await?;
    if latest.as_ref().is_some_and(|latest| latest.config == config) {
        return Ok(());
    }
    let version = StoredVersion { version: latest.map_or(1, |latest| latest.version + 1), config, published_at: now };
    store::insert_version(tx, &version).await?;
    let published = ConfigPublished {
        tenant: tx.tenant().to_string(),
        version: u64::try_from(version.version).expect("versions count from one"),
        config: version.config,
        published_at: version.published_at,
    };
    outbox::append(tx, &Fact::ConfigPublished(published)).await?;
    Ok(())
}
