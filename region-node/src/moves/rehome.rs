//! `POST /v1/tenants/{id}/rehome`: has a tenant moved to another region.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use garde::Validate;
use serde::Deserialize;
use shared::{
    ids::{RegionName, TenantId},
    problem::Code,
};
use uuid::Uuid;

use super::{
    MoveMode, MoveView,
    store::{self, NewMove},
};
use crate::{
    app::App,
    db::constraint,
    http::{Command, Path, Problem, ProblemBody, Stop, bearer},
    identity::Operator,
    regions,
};

/// Where a tenant is to be at home.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct RehomeRequest {
    /// An active region.
    #[garde(length(min = 2, max = 40))]
    to_region: String,
    #[garde(skip)]
    mode: MoveMode,
}

/// Has a tenant moved. It goes on behind this call: the answer's `Location` tells how far it is.
#[utoipa::path(post, path = "/v1/tenants/{id}/rehome", tag = "tenants", request_body = RehomeRequest,
    security(("bearer" = [])), params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = MoveView), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody),
              (status = 409, body = ProblemBody), (status = 421, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "moves.rehome", skip_all, fields(tenant = id))]
pub(super) async fn rehome_tenant(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    headers: HeaderMap,
    command: Command<RehomeRequest>,
) -> Result<Response, Stop> {
    let unknown = || Problem::new(Code::UnknownTenant, format!("no tenant '{}'", id.escape_default()));
    let tenant: TenantId = id.parse().map_err(|_| unknown())?;
    let mut tx = command.begin_of_operator(&app, &tenant, &operator).await?;
    let held = store::home(&mut tx, &app.region).await?.ok_or_else(unknown)?;
    let mode = command.body.mode;
    let (to, wrapped_key) = match mode {
        MoveMode::Planned => {
            if !held.is_here {
                let detail = format!("{} is not the home of '{tenant}', or the tenant moves already", app.region);
                return Err(Problem::new(Code::WrongRegion, detail).retry_after(1).into());
            }
            let (to, jwks) = target(&app, &command.body.to_region, bearer(&headers)).await?;
            let wrapped_key = app.tenant_keys.wrap(&tenant, held.wrapped_key.as_deref(), &jwks).map_err(|error| {
                tracing::error!(%error, "a tenant's key cannot be opened");
                Problem::internal()
            })?;
            let wrapped_key = wrapped_key.ok_or_else(|| unfit(&to, "it announces no key to wrap the tenant's for"))?;
            (to, Some(wrapped_key))
        }
        MoveMode::Failover => (successor(&app, &command.body.to_region, &held.region)?, None),
    };
    let new = NewMove {
        id: Uuid::now_v7(),
        mode,
        from: &held.region,
        to: &to,
        epoch: held.epoch,
        wrapped_key,
        requested_by: &operator.client_id,
    };
    let moving = store::insert(&mut tx, &new).await.map_err(|error| match constraint(&error) {
        Some("one_open_move_per_tenant") => {
            Problem::new(Code::MoveInProgress, format!("a move of '{tenant}' is under way"))
        }
        _ => error.into(),
    })?;
    tracing::info!(
        audit.by = operator.client_id,
        audit.deed = "tenant.rehome",
        mode = mode.as_str(),
        "{tenant} is to move to {to}"
    );
    let mut answer = tx.finish(StatusCode::ACCEPTED, &moving).await?;
    let location = HeaderValue::from_str(&format!("/v1/moves/{}", moving.id)).expect("an id is ASCII");
    answer.headers_mut().insert(header::LOCATION, location);
    Ok(answer)
}

/// The region named, if it can take a tenant over, and the keys it announces.
async fn target(app: &App, name: &str, token: Option<&str>) -> Result<(RegionName, serde_json::Value), Problem> {
    let directory = app.tenants.directory();
    let to = name.parse::<RegionName>().ok().filter(|to| *to != app.region);
    let known = to.and_then(|to| directory.regions.get(&to).map(|entry| (to, entry)));
    let (to, entry) =
        known.ok_or_else(|| Problem::field("to_region", format!("no other region '{name}' is known here")))?;
    if entry.state != "active" {
        return Err(unfit(&to, &format!("it is {}", entry.state)));
    }
    if !regions::is_healthy(app, &to, &entry.base_url, token).await {
        return Err(unfit(&to, "not all of it answers and works"));
    }
    Ok((to, entry.jwks.clone()))
}

/// This region, if it can take the place of `home`; only it can say so.
fn successor(app: &App, name: &str, home: &str) -> Result<RegionName, Problem> {
    let directory = app.tenants.directory();
    let to = name.parse::<RegionName>().ok().filter(|to| to.as_str() != home);
    let known = to.and_then(|to| directory.regions.get(&to).map(|entry| (to, entry)));
    let (to, entry) = known
        .ok_or_else(|| Problem::field("to_region", format!("no region '{name}' that could take over is known here")))?;
    if to != app.region {
        return Err(Problem::new(Code::WrongRegion, format!("only {to} itself can take a tenant over")).retry_after(1));
    }
    if entry.state != "active" {
        return Err(unfit(&to, &format!("it is {}", entry.state)));
    }
    Ok(to)
}

fn unfit(region: &RegionName, why: &str) -> Problem {
    Problem::new(Code::RegionUnfit, format!("{region} cannot take the tenant over: {why}"))
}
