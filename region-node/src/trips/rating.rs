//! Rating each other.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{ids::TripId, problem::Code};
use time::OffsetDateTime;

use super::{TripError, TripStatus, get, store};
use crate::{
    app::App,
    http::{Command, Path, Problem, ProblemBody, Stop},
    identity::{Caller, Subject},
};

/// What somebody thinks of the other party.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct RatingRequest {
    /// 1 to 5.
    #[garde(range(min = 1, max = 5))]
    #[schema(minimum = 1, maximum = 5)]
    stars: u8,
    #[garde(length(chars, max = 500))]
    #[serde(default)]
    comment: Option<String>,
}

/// Who rated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatedBy {
    /// Of the driver.
    Rider,
    /// Of the rider.
    Driver,
}

/// A rating, as stored.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Rating {
    pub trip_id: TripId,
    pub rated_by: RatedBy,
    pub stars: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl RatedBy {
    /// As in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rider => "rider",
            Self::Driver => "driver",
        }
    }
}

/// Rates the other party of a completed trip, once.
#[utoipa::path(post, path = "/v1/trips/{id}/rating", tag = "trips", security(("bearer" = [])), request_body = RatingRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = TripId, Path)),
    responses((status = 201, body = Rating), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "trips.rate", skip_all, fields(trip.id = %id))]
pub(super) async fn rate_trip(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    command: Command<RatingRequest>,
) -> Result<Response, Stop> {
    let rated_by = match caller.subject {
        Subject::Rider(_) => RatedBy::Rider,
        Subject::Driver(_) => RatedBy::Driver,
        Subject::Client(_) => {
            return Err(Problem::new(Code::Forbidden, "a trip is rated by its rider and its driver").into());
        }
    };
    let mut tx = command.begin(&app, &caller).await?;
    let trip = get::visible(&mut tx, &caller, id).await?;
    if trip.status != TripStatus::Completed {
        return Err(TripError::NotCompleted(trip.status).into());
    }
    let RatingRequest { stars, comment } = command.body;
    let rating = Rating { trip_id: id, rated_by, stars, comment, created_at: app.clock.now() };
    store::rate(&mut tx, &trip, &rating).await?;
    tx.finish(StatusCode::CREATED, &rating).await
}
