//! The end of a trip: what was travelled becomes a fare.

use axum::{extract::State, http::StatusCode, response::Response};
use shared::ids::TripId;

use super::{Trip, drive, store, trace};
use crate::{
    app::App,
    drivers::{self, Addition},
    http::{Command, Empty, Path, ProblemBody, Stop},
    identity::Caller,
    rides,
};

/// Ends a trip; the answer carries the fare and what it is made of. A ride accepted to follow it begins with the same commit.
#[utoipa::path(post, path = "/v1/trips/{id}/end", tag = "trips", security(("bearer" = [])), request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = TripId, Path)),
    responses((status = 200, body = Trip), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "trips.end", skip_all, fields(trip.id = %id))]
pub(super) async fn end_trip(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    drivers::flush_breadcrumbs(&app).await?;
    let (mut tx, ride, trip) = drive::own_trip(&app, &caller, id, &command).await?;
    let measured_m = match trip.started_at {
        Some(started_at) => {
            trace::length_m(&store::trace(&mut tx, id, started_at).await?, app.config.trips.fastest_leg_mps)
        }
        None => None,
    };
    let (was, now) = (trip.status, app.clock.now());
    let trip = trip.end(measured_m, &ride.quote, app.config.rides.reprice_percent, now)?;
    let is_followed = drive::save(&app, &mut tx, ride, was, &trip).await?;
    if !is_followed || rides::begin_next(&app, &mut tx, trip.driver_id, id, now).await?.is_none() {
        rides::driver_is_idle(&mut tx, trip.driver_id, now).await?;
    }
    if let Some(fare) = &trip.fare {
        drivers::note(&mut tx, &[trip.driver_id], Addition::earned(fare.total.amount), now).await?;
    }
    tracing::info!(trip.id = %id, "trip {id} is completed");
    tx.finish(StatusCode::OK, &trip).await
}
