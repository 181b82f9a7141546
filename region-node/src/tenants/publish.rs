//! Publishing: the home region turns a valid draft into the next immutable version.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use serde_json::Value;
use shared::{
    fact::{ConfigPublished, Fact, MAX_BODY_BYTES},
    ids::{RegionName, TenantId},
    problem::{Code, FieldError},
    tenant_config::TenantConfig,
};
use time::OffsetDateTime;

use super::{
    draft::{self, ConfigView},
    generation::compact_if_grown,
    rollout::{self, Canary},
    store::{self, StoredVersion},
};
use crate::{
    app::App,
    db::TenantTx,
    http::{Command, Path, Problem, ProblemBody, Stop},
    identity::Caller,
    outbox,
};

/// How a draft is published.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Publish {
    /// The one region that runs the version until it is promoted or rolled back; every region, if none is named.
    #[garde(skip)]
    canary_region: Option<String>,
}

/// Publishes a draft whose tenant has `auto_publish` off, or again what was rolled back.
#[utoipa::path(post, path = "/v1/tenants/{id}/config/publish", tag = "tenants", security(("bearer" = [])), request_body = Publish,
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ConfigView), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 421, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.publish_config", skip_all, fields(tenant = %caller.tenant()))]
pub(super) async fn publish_config(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    command: Command<Publish>,
) -> Result<Response, Stop> {
    draft::may_configure(&caller, &id)?;
    let mut tx = command.begin(&app, &caller).await?;
    let stored = store::lock_draft(&mut tx).await?;
    let stored = stored.ok_or_else(draft::not_here_yet)?;
    let canary_region = command.body.canary_region.as_deref().map(|name| known_region(&app, name)).transpose()?;
    let config = TenantConfig::from_draft(&stored.draft).map_err(Problem::validation)?;
    if let Some(why) = app.psp.why_unusable(tx.tenant(), &config.psp) {
        return Err(Problem::field("psp.account", why).into());
    }
    let now = app.clock.now();
    match publish(&mut tx, stored.draft, now, canary_region.as_ref()).await? {
        Published::Version => {}
        Published::Already(latest) => release(&mut tx, latest, now, canary_region).await?,
    }
    compact_if_grown(&app, &mut tx).await?;
    let view = draft::view(&app, &mut tx).await?;
    let answer = tx.finish(StatusCode::OK, &view).await?;
    app.tenants.forget_config(caller.tenant());
    Ok(answer)
}

fn known_region(app: &App, name: &str) -> Result<RegionName, Problem> {
    let known = name.parse::<RegionName>().ok().filter(|region| app.tenants.directory().regions.contains_key(region));
    known.ok_or_else(|| Problem::field("canary_region", format!("no region '{name}' is known here")))
}

/// Lets a version run that was published and rolled back.
async fn release(
    tx: &mut TenantTx,
    version: i64,
    now: OffsetDateTime,
    canary_region: Option<RegionName>,
) -> Result<(), Problem> {
    if canary_region.is_some() && store::decision(tx, None).await?.stable.is_none() {
        let detail = format!("version {version} runs in every region already; there is nothing to try");
        return Err(Problem::new(Code::InvalidTransition, detail));
    }
    rollout::decide(tx, None, now, |decided| match canary_region {
        Some(region) => decided.canary = Some(Canary { region: region.to_string(), version }),
        None => decided.stable = None,
    })
    .await
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
        Some(_) => {
            let why_not = publish_if_fit(app, &mut tx).await?;
            compact_if_grown(app, &mut tx).await?;
            why_not
        }
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
            if let Some(why) = app.psp.why_unusable(tx.tenant(), &config.psp) {
                return Ok(Some(in_words(&FieldError::new("psp.account", why))));
            }
        }
        Err(errors) => return Ok(Some(errors.iter().map(in_words).collect::<Vec<_>>().join("; "))),
    }
    let decided = store::decision(tx, None).await?;
    match (decided.canary, decided.stable) {
        (Some(Canary { region, version }), _) => {
            return Ok(Some(format!("version {version} is tried in {region}: promote it or roll it back")));
        }
        (None, Some(stable)) => {
            return Ok(Some(format!("what came after version {stable} was rolled back: publish it by hand")));
        }
        (None, None) => {}
    }
    // Edits that were fit one by one may have merged into one that is not.
    if let Err(problem) = must_fit(tx.tenant(), &stored.draft) {
        return Ok(Some(problem.detail().to_owned()));
    }
    publish(tx, stored.draft, app.clock.now(), None).await?;
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

/// What publishing came to.
pub(super) enum Published {
    /// A new version.
    Version,
    /// Nothing: the newest version, this one, says the same.
    Already(i64),
}

/// Makes `config` the next version, unless it is the newest already. It runs in every region, or in one alone; refused while
/// another is tried in a canary region. The caller holds the draft's row.
pub(super) async fn publish(
    tx: &mut TenantTx,
    config: Value,
    now: OffsetDateTime,
    canary_region: Option<&RegionName>,
) -> Result<Published, Problem> {
    must_fit(tx.tenant(), &config)?;
    let decided = store::decision(tx, None).await?;
    if let Some(Canary { region, version }) = decided.canary {
        let detail = format!("version {version} is tried in {region}: promote it or roll it back first");
        return Err(Problem::new(Code::RolloutInProgress, detail));
    }
    let latest = store::latest_version(tx).await?;
    if let Some(latest) = latest.as_ref().filter(|latest| latest.config == config) {
        return Ok(Published::Already(latest.version));
    }
    let latest = latest.map(|latest| latest.version);
    let version = StoredVersion { version: latest.map_or(1, |latest| latest + 1), config, published_at: now };
    // Facts of one region arrive in their order: no region runs a canary's version before it knows that it is one, or what was
    // rolled back before it has the version that replaces it.
    if let (Some(region), Some(latest)) = (canary_region, latest) {
        let canary = Canary { region: region.to_string(), version: version.version };
        let stable = decided.stable.unwrap_or(latest);
        rollout::decide(tx, None, now, |decided| (decided.stable, decided.canary) = (Some(stable), Some(canary)))
            .await?;
        insert(tx, version).await?;
    } else {
        insert(tx, version).await?;
        rollout::decide(tx, None, now, |decided| decided.stable = None).await?;
    }
    Ok(Published::Version)
}

async fn insert(tx: &mut TenantTx, version: StoredVersion) -> Result<(), Problem> {
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
