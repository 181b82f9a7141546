//! `POST /v1/tenants`: a new ride company, known in every region as soon as the fact arrives there.

use axum::{extract::State, http::StatusCode, response::Response};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use garde::Validate;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::{
    fact::{ConfigChanged, Fact, TenantCreated},
    ids::{RegionName, TenantId},
    problem::Code,
    tenant_config::TenantConfig,
    tenant_document::{DocumentActor, TenantDocument},
};

use super::{publish, store};
use crate::{
    app::App,
    db::{Epoch, constraint},
    http::{Command, Problem, ProblemBody, Stop},
    identity::{Operator, hash_secret},
    outbox,
};

/// A new tenant.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct NewTenant {
    /// `[a-z0-9-]{2,40}`, for ever.
    #[garde(custom(|id: &String, _: &()| id.parse::<TenantId>().map(drop).map_err(garde::Error::new)))]
    id: String,
    /// The company's name.
    #[garde(length(chars, min = 1, max = 80))]
    name: String,
    /// Where its riders and drivers live.
    #[garde(length(min = 2, max = 40))]
    home_region: String,
    /// What differs from the default config.
    #[garde(skip)]
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    config: Option<Value>,
}

/// The tenant made, and its back office's credentials: the secret is shown this once.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CreatedTenant {
    id: TenantId,
    name: String,
    #[schema(value_type = String)]
    home_region: RegionName,
    epoch: Epoch,
    client_id: String,
    client_secret: String,
}

/// Makes a tenant.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", request_body = NewTenant, security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = CreatedTenant), (status = 403, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "tenants.create", skip_all, fields(tenant = %command.body.id))]
pub(super) async fn create_tenant(
    State(app): State<App>,
    operator: Operator,
    command: Command<NewTenant>,
) -> Result<Response, Stop> {
    let NewTenant { id, name, home_region, config } = &command.body;
    let tenant: TenantId = id.parse().map_err(|_| Problem::field("id", "must match [a-z0-9-]{2,40}"))?;
    let home = home_region.parse::<RegionName>().ok().filter(|region| knows_region(&app, region));
    let home = home.ok_or_else(|| Problem::field("home_region", format!("no region '{home_region}' is known here")))?;

    if let Some(state) = leaving(&app, &home) {
        return Err(Problem::field("home_region", format!("{home} is {state}: it takes no new tenant")).into());
    }

    let client_id = format!("{tenant}-office");
    let client_secret = random_secret();
    let mut patch = match config {
        None => json!({}),
        Some(Value::Object(fields)) => Value::Object(fields.clone()),
        Some(_) => return Err(Problem::field("config", "must be an object").into()),
    };
    patch["name"] = json!(name);
    let secret_hash = hash_secret(&client_secret).await?;
    patch["auth"] = json!({"clients": {(client_id.clone()): {"secret_hash": secret_hash}}});
    let settings = TenantConfig::from_draft(&patch).map_err(|errors| {
        Problem::validation(
            errors
                .into_iter()
                .map(|mut error| {
                    error.field = format!("config.{}", error.field);
                    error
                })
                .collect(),
        )
    })?;

    // Other regions' accounts are theirs to know.
    if let Some(why) = app.psp.why_unusable(&tenant, &settings.psp).filter(|_| home == app.region) {
        return Err(Problem::field("config.psp.account", why).into());
    }

    let mut tx = command.begin_of_operator(&app, &tenant, &operator).await?;
    let epoch = Epoch { term: 1, n: 0 };
    store::insert_home(&mut tx, name, &home, epoch).await.map_err(|error| match constraint(&error) {
        Some("tenant_homes_pkey") => Problem::new(Code::AlreadyExists, format!("there is a tenant '{tenant}' already")),
        _ => error.into(),
    })?;
    let created =
        TenantCreated { tenant: tenant.to_string(), name: name.clone(), home_region: home.to_string(), term: 1, n: 0 };
    outbox::append(&mut tx, &Fact::TenantCreated(created)).await?;

    let generation = 0;
    let mut document = TenantDocument::create(tenant.as_str(), 0);
    let actor = DocumentActor::of(app.region.as_str(), store::database_run(&mut tx).await?);
    let change = document.apply_merge_patch(None, &patch, &actor).map_err(super::draft::refused)?;
    store::save_draft(&mut tx, generation, &mut document).await?;
    if let Some(change) = change {
        let changed = ConfigChanged { tenant: tenant.to_string(), generation: 0, changes: vec![change] };
        outbox::append(&mut tx, &Fact::ConfigChanged(changed)).await?;
    }
    // The first version is published where the tenant is made, so that every region can serve its config at once.
    publish::publish(&mut tx, document.to_json(), app.clock.now(), None).await?;
    let created = CreatedTenant { id: tenant, name: name.clone(), home_region: home, epoch, client_id, client_secret };
    let answer = tx.finish(StatusCode::CREATED, &created).await?;
    // The tenant is made whatever happens now; the directory follows by notification too.
    if let Err(problem) = app.tenants.refresh().await {
        tracing::warn!(%problem, "the directory could not be read after a tenant was made");
    }
    Ok(answer)
}

fn knows_region(app: &App, region: &RegionName) -> bool {
    *region == app.region || app.tenants.directory().regions.contains_key(region)
}

/// The state of a region that takes no new tenant.
fn leaving(app: &App, region: &RegionName) -> Option<String> {
    let state = app.tenants.directory().regions.get(region)?.state.clone();
    matches!(state.as_str(), "draining" | "retired").then_some(state)
}

fn random_secret() -> String {
    let mut random = [0; 24];
    SystemRandom::new().fill(&mut random).expect("the system gives random bytes");
    URL_SAFE_NO_PAD.encode(random)
}
