//! Going online and offline.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::ids::DriverId;
use time::OffsetDateTime;

use super::{
    DriverStatus, Duty, Standing,
    store::{self, StatusChanged},
};
use crate::{
    app::App,
    dispatch,
    http::{Command, Path, Problem, ProblemBody, Stop},
    identity::Caller,
};

/// What to be from now on.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct StatusRequest {
    #[garde(skip)]
    status: DriverStatus,
}

/// Whether a driver takes rides.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DriverState {
    /// Who.
    pub driver_id: DriverId,
    /// Takes rides or not.
    pub status: DriverStatus,
    /// Since when without work; null while offline.
    #[serde(with = "time::serde::rfc3339::option")]
    pub idle_since: Option<OffsetDateTime>,
}

/// Goes online, to be offered rides, or offline; online only with the documents the tenant requires. An offer still open is withdrawn and counts as refused, and so does a ride that was to be next; a trip under way goes on.
#[utoipa::path(post, path = "/v1/drivers/{id}/status", tag = "drivers", security(("bearer" = [])),
    request_body = StatusRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = DriverState), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "drivers.status", skip_all, fields(driver.id = %id))]
pub(super) async fn set_status(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    command: Command<StatusRequest>,
) -> Result<Response, Stop> {
    let id = caller.driver_is(id)?;
    let status = command.body.status;
    let required = app.tenants.config(caller.tenant()).await?.config.dispatch.required_documents.clone();
    let mut tx = command.begin(&app, &caller).await?;
    let now = app.clock.now();
    let changed = store::set_status(&mut tx, id, status, now).await?;
    let changed = changed.ok_or_else(|| Problem::not_found(format!("no driver {id}")))?;
    let StatusChanged { vehicle_class, idle_since, terms, record } = changed;
    if status == DriverStatus::Online
        && let Some(fault) = terms.document_fault(&required, now)
    {
        return Err(Problem::from(fault).into());
    }
    if status == DriverStatus::Offline {
        dispatch::withdraw_from(&app, &mut tx, id, now).await?;
    }
    let answer = tx.finish(StatusCode::OK, &DriverState { driver_id: id, status, idle_since }).await?;

    let fleet = app.drivers.live.fleet(caller.tenant());
    let known = fleet.sighting(id, now).map(|known| known.standing);
    let (duty, duty_as_of) = known.map_or((Duty::Free, now), |known| (known.duty, known.duty_as_of));
    let (online, vehicle_class) = (status == DriverStatus::Online, vehicle_class.into());
    fleet.learn(id, Standing { online, vehicle_class, idle_since, duty, terms, record, as_of: now, duty_as_of });
    Ok(answer)
}
