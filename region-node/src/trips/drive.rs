//! A driver's steps along a trip: arrive, start, pause, resume.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::ids::TripId;
use time::OffsetDateTime;

use super::{Trip, TripError, store};
use crate::{
    app::App,
    http::{Command, CommandTx, Empty, Path, ProblemBody, Stop},
    identity::Caller,
    realtime::Event,
    rides::{Ride, RiderProfile},
};

/// What the rider told the driver.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct StartRequest {
    /// The rider's four digits; checked if given.
    #[garde(length(max = 10))]
    #[serde(default)]
    pin: Option<String>,
}

/// The driver has reached the pick-up.
#[utoipa::path(post, path = "/v1/trips/{id}/arrive", tag = "trips", security(("bearer" = [])), request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = TripId, Path)),
    responses((status = 200, body = Trip), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "trips.arrive", skip_all, fields(trip.id = %id))]
pub(super) async fn arrive(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    step(&app, &caller, id, &command, |trip, _, now| trip.arrive(now)).await
}

/// The rider is on board.
#[utoipa::path(post, path = "/v1/trips/{id}/start", tag = "trips", security(("bearer" = [])), request_body = StartRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = TripId, Path)),
    responses((status = 200, body = Trip), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "trips.start", skip_all, fields(trip.id = %id))]
pub(super) async fn start(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    command: Command<StartRequest>,
) -> Result<Response, Stop> {
    let given = command.body.pin.clone();
    step(&app, &caller, id, &command, |trip, ride, now| trip.start(given.as_deref(), &ride.pin, now)).await
}

/// The trip stands for a while, at the rider's wish; the time counts as waiting.
#[utoipa::path(post, path = "/v1/trips/{id}/pause", tag = "trips", security(("bearer" = [])), request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = TripId, Path)),
    responses((status = 200, body = Trip), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "trips.pause", skip_all, fields(trip.id = %id))]
pub(super) async fn pause(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    step(&app, &caller, id, &command, |trip, _, now| trip.pause(now)).await
}

/// The trip goes on.
#[utoipa::path(post, path = "/v1/trips/{id}/resume", tag = "trips", security(("bearer" = [])), request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = TripId, Path)),
    responses((status = 200, body = Trip), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "trips.resume", skip_all, fields(trip.id = %id))]
pub(super) async fn resume(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    step(&app, &caller, id, &command, |trip, _, now| trip.resume(now)).await
}

/// Begins a driver's command on his own trip and holds the trip and its ride; another driver's trip does not exist for him.
pub(super) async fn own_trip<T>(
    app: &App,
    caller: &Caller,
    id: TripId,
    command: &Command<T>,
) -> Result<(CommandTx, Ride, Trip), Stop> {
    let driver = caller.driver()?;
    let mut tx = command.begin(app, caller).await?;
    let (ride, trip) = store::hold(&mut tx, id).await?.ok_or(TripError::NotFound(id))?;
    if trip.driver_id != driver {
        return Err(TripError::NotFound(id).into());
    }
    Ok((tx, ride, trip))
}

/// What is to be done once a trip has ended.
pub(super) struct AtTheEnd {
    /// Another trip waits for this one to end.
    pub(super) is_followed: bool,
    /// Others were asked to share its fare.
    pub(super) is_shared: bool,
}

/// Saves a trip that has taken a step, and its ride with it, and tells their parties.
pub(super) async fn save(
    tx: &mut CommandTx,
    ride: Ride,
    was: super::TripStatus,
    trip: &Trip,
) -> Result<AtTheEnd, TripError> {
    let taken = store::save(tx, trip, was, ride.status).await?;
    let (driver, rider) = taken.parties.open(&tx.sealer().await?, trip.driver_id, trip.rider_id);
    let ride = Ride {
        status: trip.status.of_ride(),
        ended_at: trip.ended_at,
        updated_at: trip.updated_at,
        driver: Some(driver),
        rider: Some(RiderProfile { name: rider }),
        ..ride
    };
    tx.tell(Event::RideChanged(Box::new(ride)));
    Ok(AtTheEnd { is_followed: taken.is_followed, is_shared: taken.is_shared })
}

async fn step<T>(
    app: &App,
    caller: &Caller,
    id: TripId,
    command: &Command<T>,
    take: impl FnOnce(Trip, &Ride, OffsetDateTime) -> Result<Trip, TripError>,
) -> Result<Response, Stop> {
    let (mut tx, ride, trip) = own_trip(app, caller, id, command).await?;
    let was = trip.status;
    let trip = take(trip, &ride, app.clock.now())?;
    save(&mut tx, ride, was, &trip).await?;
    tracing::info!(trip.id = %id, status = %trip.status, "trip {id} is {}", trip.status);
    tx.finish(StatusCode::OK, &trip).await
}
