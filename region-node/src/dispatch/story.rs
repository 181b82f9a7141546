//! Why a ride has, or has not, the driver it has: every candidate with its reason.

use axum::{Json, extract::State};
use serde::Serialize;
use shared::ids::{DriverId, OfferId, RideId};
use time::OffsetDateTime;

use super::{
    offer::OfferStatus,
    reason::Reason,
    store::{self, CandidateRow, OfferRow, Round},
};
use crate::{
    app::App,
    http::{Path, Problem, ProblemBody},
    identity::{BACK_OFFICE, Caller},
    rides::{self, RideError, RideStatus},
};

/// How a ride was dispatched.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DispatchStory {
    /// Which ride.
    ride_id: RideId,
    /// Where it stands.
    status: RideStatus,
    /// Who was asked, first to last.
    offers: Vec<OfferRecord>,
    /// Who was considered, round by round.
    candidates: Vec<CandidateRecord>,
}

/// An offer and what became of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct OfferRecord {
    offer_id: OfferId,
    driver_id: DriverId,
    status: OfferStatus,
    pickup_eta_s: i32,
    #[serde(with = "time::serde::rfc3339")]
    offered_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    answered_at: Option<OffsetDateTime>,
}

/// A driver considered.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CandidateRecord {
    driver_id: DriverId,
    /// From 0; a round ends with an offer.
    round: i32,
    reason: Reason,
    /// What the reason means.
    explanation: &'static str,
    /// Of those who could have been asked.
    pickup_eta_s: Option<u32>,
    /// As the crow flies; null of who has not been heard of for too long.
    distance_m: Option<u32>,
    /// When the round was last added to.
    #[serde(with = "time::serde::rfc3339")]
    considered_at: OffsetDateTime,
}

/// Every driver considered for a ride, with the reason why he was or was not asked, and every offer made; while they are kept.
#[utoipa::path(get, path = "/v1/rides/{id}/dispatch", tag = "dispatch", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = RideId, Path)),
    responses((status = 200, body = DispatchStory), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody)))]
pub(super) async fn get_story(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RideId>,
) -> Result<Json<DispatchStory>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let ride = rides::load(&mut tx, id).await?.ok_or(RideError::NotFound(id))?;
    let offers = store::offers_of_ride(&mut tx, id).await?.into_iter().map(OfferRecord::read);
    let candidates = store::rounds(&mut tx, id).await?.into_iter().map(|(round, at)| CandidateRecord::read(round, at));
    let candidates: Vec<Vec<CandidateRecord>> = candidates.collect::<sqlx::Result<_>>()?;
    Ok(Json(DispatchStory {
        ride_id: id,
        status: ride.status,
        offers: offers.collect::<sqlx::Result<_>>()?,
        candidates: candidates.into_iter().flatten().collect(),
    }))
}

impl OfferRecord {
    fn read(row: OfferRow) -> sqlx::Result<Self> {
        Ok(Self {
            offer_id: row.id.into(),
            driver_id: row.driver_id.into(),
            status: row.status.parse().map_err(|error: String| sqlx::Error::Decode(error.into()))?,
            pickup_eta_s: row.pickup_eta_s,
            offered_at: row.offered_at,
            expires_at: row.expires_at,
            answered_at: row.answered_at,
        })
    }
}

impl CandidateRecord {
    /// A round's candidates, the nearest first.
    fn read(round: Round, considered_at: OffsetDateTime) -> sqlx::Result<Vec<Self>> {
        let record = |(driver_id, row): (DriverId, CandidateRow)| {
            let CandidateRow { reason, pickup_eta_s, distance_m } = row;
            let reason: Reason = reason.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            let explanation = reason.explanation();
            Ok(Self { driver_id, round: round.number, reason, explanation, pickup_eta_s, distance_m, considered_at })
        };
        let mut records: Vec<Self> = round.candidates.into_iter().map(record).collect::<sqlx::Result<_>>()?;
        let or_last = |figure: Option<u32>| figure.unwrap_or(u32::MAX);
        records.sort_by_key(|record| (or_last(record.pickup_eta_s), or_last(record.distance_m)));
        Ok(records)
    }
}
