//! Reading a trip.

use axum::{Json, extract::State};
use shared::ids::TripId;

use super::{Trip, TripError, store};
use crate::{
    app::App,
    db::TenantTx,
    http::{Path, Problem, ProblemBody},
    identity::{Caller, Subject},
};

/// A trip, for its rider, its driver and the tenant's back office; for everybody else it does not exist.
#[utoipa::path(get, path = "/v1/trips/{id}", tag = "trips", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = TripId, Path)),
    responses((status = 200, body = Trip), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "trips.get", skip_all, fields(trip.id = %id))]
pub(super) async fn get_trip(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
) -> Result<Json<Trip>, Problem> {
    let mut tx = app.db.read(caller.tenant()).await?;
    Ok(Json(visible(&mut tx, &caller, id).await?))
}

/// The trip, if it is one of the caller's.
pub(super) async fn visible(tx: &mut TenantTx, caller: &Caller, id: TripId) -> Result<Trip, TripError> {
    let trip = store::load(tx, id).await?.ok_or(TripError::NotFound(id))?;
    if is_own(&trip, caller) { Ok(trip) } else { Err(TripError::NotFound(id)) }
}

/// Whether a trip is one of the caller's.
pub(super) fn is_own(trip: &Trip, caller: &Caller) -> bool {
    match &caller.subject {
        Subject::Rider(rider) => trip.rider_id == *rider,
        Subject::Driver(driver) => trip.driver_id == *driver,
        Subject::Client(_) => true,
    }
}
