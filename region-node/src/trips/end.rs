//! The end of a trip: what was travelled becomes a fare.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::{ids::TripId, money::Money};

use super::{Trip, drive, store, trace};
use crate::{
    app::App,
    drivers::{self, Addition},
    fare_shares,
    http::{Command, Path, ProblemBody, Stop},
    identity::Caller,
    pricing::Fare,
    rides::{self, RIDES},
};

/// What the driver has to say at the end.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct EndRequest {
    /// What he paid for tolls on the way, minor units of the fare's currency: it is added to the fare and his without
    /// commission. At most what the tariff allows.
    #[garde(skip)]
    #[serde(default)]
    #[schema(minimum = 0)]
    declared_tolls: i64,
}

/// Ends a trip; the answer carries the fare and what it is made of. A ride accepted to follow it begins with the same commit.
#[utoipa::path(post, path = "/v1/trips/{id}/end", tag = "trips", security(("bearer" = [])), request_body = EndRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = TripId, Path)),
    responses((status = 200, body = Trip), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "trips.end", skip_all, fields(trip.id = %id))]
pub(super) async fn end_trip(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    command: Command<EndRequest>,
) -> Result<Response, Stop> {
    drivers::flush_breadcrumbs(&app).await?;
    let config = app.tenants.config(caller.tenant()).await?;
    let (mut tx, ride, trip) = drive::own_trip(&app, &caller, id, &command).await?;
    let driven = match trip.started_at {
        Some(started_at) => {
            trace::driven(&store::trace(&mut tx, id, started_at).await?, app.config.trips.fastest_leg_mps)
        }
        None => None,
    };
    let (was, now) = (trip.status, app.clock.now());
    let mut trip = trip.end(&ride, driven, command.body.declared_tolls, now)?;
    let at_the_end = drive::save(&mut tx, ride.clone(), was, &trip).await?;
    if at_the_end.is_shared {
        let shared = fare_shares::fix(&app, &mut tx, &config.config, &ride, &trip).await?;
        trip.shared = trip.fare.as_ref().filter(|_| shared > 0).map(|fare| Money::new(shared, fare.total.currency));
    }
    let goes_on = at_the_end.is_followed && rides::begin_next(&mut tx, trip.driver_id, id, now).await?.is_some();
    let driven_for = |fare: &Fare| fare.total.amount + fare.promotion() - fare.tolls();
    let earned = Addition::earned(trip.fare.as_ref().map_or(0, driven_for));
    drivers::note_trip_ended(&mut tx, trip.driver_id, earned, !goes_on, now).await?;
    tx.count(RIDES, "completed");
    tracing::info!(trip.id = %id, "trip {id} is completed");
    tx.finish(StatusCode::OK, &trip).await
}
