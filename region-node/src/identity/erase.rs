//! Erasure: personal data goes, the ledger stays.

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use shared::{
    ids::{DriverId, RiderId},
    problem::Code,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Caller, Subject,
    accounts::{self, Kind},
};
use crate::{
    app::App,
    http::{Path, Problem, ProblemBody},
};

/// What was erased.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Erasure {
    id: Uuid,
    status: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    erased_at: OffsetDateTime,
}

/// Erases a rider's personal data; rides and ledger keep their pseudonymous id.
#[utoipa::path(delete, path = "/v1/riders/{id}", tag = "identity", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = RiderId, Path)),
    responses((status = 202, body = Erasure), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "identity.erase_rider", skip_all, fields(rider.id = %id))]
pub(super) async fn erase_rider(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RiderId>,
) -> Result<(StatusCode, Json<Erasure>), Problem> {
    let is_own = caller.subject == Subject::Rider(id);
    erase(&app, &caller, is_own, Kind::Rider, id.0).await
}

/// Erases a driver's personal data; trips and ledger keep their pseudonymous id.
#[utoipa::path(delete, path = "/v1/drivers/{id}", tag = "identity", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 202, body = Erasure), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "identity.erase_driver", skip_all, fields(driver.id = %id))]
pub(super) async fn erase_driver(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
) -> Result<(StatusCode, Json<Erasure>), Problem> {
    let is_own = caller.subject == Subject::Driver(id);
    erase(&app, &caller, is_own, Kind::Driver, id.0).await
}

async fn erase(
    app: &App,
    caller: &Caller,
    is_own: bool,
    kind: Kind,
    id: Uuid,
) -> Result<(StatusCode, Json<Erasure>), Problem> {
    let nobody = || Problem::not_found(format!("no account {id}"));
    if !is_own && !caller.is_admin() {
        return Err(nobody());
    }
    let now = app.clock.now();
    let mut tx = app.db.begin(caller.tenant()).await?;
    if accounts::has_open_ride(&mut tx, id).await? {
        return Err(Problem::new(Code::InvalidTransition, "end or cancel the open ride first"));
    }
    if !accounts::erase(&mut tx, kind, id, now).await? {
        return Err(nobody());
    }
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(Erasure { id, status: "erased", erased_at: now })))
}
