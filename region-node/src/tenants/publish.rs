//! Publishing: the home region turns a valid draft into the next immutable version.

use axum::{extract::State, http::StatusCode, response::Response};
use serde_json::Value;
use shared::{
    fact::{ConfigPublished, Fact},
    problem::Code,
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
    TenantConfig::from_draft(&stored.draft).map_err(Problem::validation)?;
    publish(&mut tx, stored.draft, app.clock.now()).await?;
    let view = draft::view(&mut tx).await?;
    let answer = tx.finish(StatusCode::OK, &view).await?;
    app.tenants.forget_config(caller.tenant());
    Ok(answer)
}

/// Publishes every draft at home here that is valid, differs from what runs and publishes itself. Edits made elsewhere
/// arrive as changed drafts; this is what turns them into versions.
pub async fn publish_due_drafts(app: &App) -> Result<(), Problem> {
    let mut scan = app.db.system().await?;
    let tenants = store::unpublished(scan.conn(), &app.region).await?;
    scan.commit().await?;
    for tenant in tenants {
        let mut tx = app.db.begin(&tenant).await?;
        if store::lock_draft(&mut tx).await?.is_some() {
            publish_if_valid(&mut tx, app.clock.now()).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Publishes the draft if it is valid and publishes itself; the caller holds its row.
pub(super) async fn publish_if_valid(tx: &mut TenantTx, now: OffsetDateTime) -> Result<(), Problem> {
    let Some(stored) = store::load_draft(tx).await? else { return Ok(()) };
    match TenantConfig::from_draft(&stored.draft) {
        Ok(config) if config.auto_publish => publish(tx, stored.draft, now).await,
        Ok(_) => Ok(()),
        Err(errors) => {
            tracing::info!(tenant = %tx.tenant(), ?errors, "a draft is not valid and stays a draft");
            Ok(())
        }
    }
}

/// Makes `config` the next version, unless it is what runs already.
pub(super) async fn publish(tx: &mut TenantTx, config: Value, now: OffsetDateTime) -> Result<(), Problem> {
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
