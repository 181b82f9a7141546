//! A driver's answer to an offer, over REST and from sockets.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::ids::{DriverId, OfferId, RideId, TenantId, TripId};
use time::OffsetDateTime;

use super::{
    OFFERS, chain,
    error::OfferError,
    offer::{OfferStatus, OfferView},
    store,
};
use crate::{
    app::App,
    db::TenantTx,
    drivers::{self, Addition},
    http::{Command, Path, Problem, ProblemBody, Stop},
    identity::Caller,
    realtime::Event,
    rides::{self, RideStatus},
    trips::{self, Trip},
    zones,
};

/// Which ride's offer is answered.
#[derive(Clone, Copy, Debug, Deserialize, Validate, utoipa::ToSchema)]
pub struct AnswerRequest {
    /// The offered ride.
    #[garde(skip)]
    pub ride_id: RideId,
}

/// A driver's open offers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Offers {
    /// At most one: a driver thinks about one ride at a time.
    pub items: Vec<OfferView>,
    /// Always null.
    pub next_cursor: Option<String>,
}

/// The driver's open offers, for clients without a socket.
#[utoipa::path(get, path = "/v1/drivers/{id}/offers", tag = "drivers", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = Offers), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody)))]
pub(super) async fn get_offers(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
) -> Result<Json<Offers>, Problem> {
    let id = caller.driver_is(id)?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let mut items = Vec::new();
    for offer in store::live_offers(&mut tx, id, app.clock.now()).await? {
        if let Some(ride) = rides::load(&mut tx, RideId(offer.ride_id)).await? {
            let after_trip_id = offer.after_trip_id.map(TripId);
            items.push(OfferView::of(&ride, offer.id.into(), offer.pickup_eta_s, after_trip_id, offer.expires_at));
        }
    }
    Ok(Json(Offers { items, next_cursor: None }))
}

/// Takes an offered ride. Of all drivers one gets it; the answer is the trip that begins.
#[utoipa::path(post, path = "/v1/drivers/{id}/accept", tag = "drivers", security(("bearer" = [])),
    request_body = AnswerRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = Trip), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "dispatch.accept", skip_all, fields(ride.id = %command.body.ride_id))]
pub(super) async fn accept_offer(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    command: Command<AnswerRequest>,
) -> Result<Response, Stop> {
    let id = caller.driver_is(id)?;
    let mut tx = command.begin(&app, &caller).await?;
    let trip = accept(&app, &mut tx, command.body.ride_id, id).await?;
    tx.finish(StatusCode::OK, &trip).await
}

/// Lets an offered ride go to somebody else.
#[utoipa::path(post, path = "/v1/drivers/{id}/decline", tag = "drivers", security(("bearer" = [])),
    request_body = AnswerRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = DriverId, Path)),
    responses((status = 204), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "dispatch.decline", skip_all, fields(ride.id = %command.body.ride_id))]
pub(super) async fn decline_offer(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    command: Command<AnswerRequest>,
) -> Result<Response, Stop> {
    let id = caller.driver_is(id)?;
    let mut tx = command.begin(&app, &caller).await?;
    decline(&app, &mut tx, command.body.ride_id, id).await?;
    tx.finish(StatusCode::NO_CONTENT, &()).await
}

/// [`accept_offer`] from a socket.
pub async fn accept_from_socket(
    app: &App,
    tenant: &TenantId,
    driver_id: DriverId,
    ride_id: RideId,
) -> Result<Trip, Problem> {
    let mut tx = app.db.begin(tenant).await?;
    let trip = accept(app, &mut tx, ride_id, driver_id).await?;
    tx.commit().await?;
    Ok(trip)
}

/// [`decline_offer`] from a socket.
pub async fn decline_from_socket(
    app: &App,
    tenant: &TenantId,
    driver_id: DriverId,
    ride_id: RideId,
) -> Result<(), Problem> {
    let mut tx = app.db.begin(tenant).await?;
    decline(app, &mut tx, ride_id, driver_id).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn accept(
    app: &App,
    tx: &mut TenantTx,
    ride_id: RideId,
    driver_id: DriverId,
) -> Result<Trip, OfferError> {
    let ride = rides::lock(tx, ride_id).await?.ok_or(OfferError::NoRide(ride_id))?;
    let now = app.clock.now();
    match ride.status {
        RideStatus::Offered => {}
        RideStatus::Requested | RideStatus::Cancelled | RideStatus::Expired => return Err(OfferError::OfferExpired),
        RideStatus::Accepted | RideStatus::Arrived | RideStatus::InProgress | RideStatus::Completed => {
            store::last_offer(tx, ride_id, driver_id).await?.ok_or(OfferError::OfferExpired)?;
            // The answer to a first acceptance may have been lost on its way; asking again is not a race.
            let own_trip = ride.trip_id.filter(|_| ride.driver_id == Some(driver_id));
            let trip = match own_trip {
                Some(trip) => trips::load(tx, trip).await?,
                None => None,
            };
            return trip.ok_or(OfferError::RideAlreadyTaken);
        }
    }
    let (offer, others) = store::accept(tx, ride_id, driver_id, now).await?.ok_or(OfferError::OfferExpired)?;
    if offer.expires_at <= now {
        return Err(OfferError::OfferExpired);
    }
    let follows = chain::follows(app, tx, &offer).await?;
    // It may have waited for the trip before to end, which was earlier then.
    let now = app.clock.now();
    let (ride, trip) = rides::accept(tx, &ride, driver_id, offer.pickup_eta_s, follows, now).await?;
    for other in others {
        tell_withdrawn(tx, other, "ride_taken", now);
    }
    drivers::note(tx, &[driver_id], Addition::ACCEPTED, now).await?;
    zones::leave(app, tx, driver_id).await?;
    tx.tell(Event::RideChanged(Box::new(ride)));
    tx.count(OFFERS, "accepted");
    tracing::info!(ride.id = %ride_id, driver.id = %driver_id, "ride {ride_id} accepted");
    Ok(trip)
}

async fn decline(app: &App, tx: &mut TenantTx, ride_id: RideId, driver_id: DriverId) -> Result<(), OfferError> {
    rides::lock(tx, ride_id).await?.ok_or(OfferError::NoRide(ride_id))?;
    let offer = store::last_offer(tx, ride_id, driver_id).await?.ok_or(OfferError::OfferExpired)?;
    if offer.status == OfferStatus::Declined.as_str() {
        return Ok(());
    }
    let now = app.clock.now();
    if offer.expires_at <= now {
        return Err(OfferError::OfferExpired);
    }
    store::answer(tx, ride_id, driver_id, OfferStatus::Declined, now).await?.ok_or(OfferError::OfferExpired)?;
    let tenant = tx.tenant().clone();
    tx.tell(Event::OfferDeclined { tenant, driver_id, at: now });
    tx.count(OFFERS, "declined");
    drivers::note(tx, &[driver_id], Addition::REFUSED, now).await?;
    zones::note_refused(app, tx, &[OfferId(offer.id)], now).await?;
    release(tx, &[ride_id], now).await
}

/// Takes back the offers of a ride that is given up before anybody took it.
pub async fn withdraw_offers(tx: &mut TenantTx, ride_id: RideId, now: OffsetDateTime) -> sqlx::Result<()> {
    for offer in store::end_offers(tx, ride_id, OfferStatus::Withdrawn, now).await? {
        tell_withdrawn(tx, offer, "ride_cancelled", now);
    }
    Ok(())
}

/// Takes back the offer a driver is thinking about, who goes offline, the ride he was to take next, and his place in a
/// zone's queue. Either ride counts as refused: going offline is no way around an answer. Part of the transaction that says so.
pub async fn withdraw_from(
    app: &App,
    tx: &mut TenantTx,
    driver_id: DriverId,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let mut refused = false;
    if let Some(ride_id) = store::hold_live_offer(tx, driver_id).await?
        && let Some(offer_id) = store::answer(tx, ride_id, driver_id, OfferStatus::Withdrawn, now).await?
    {
        refused = true;
        tell_withdrawn(tx, store::Ended { offer_id, ride_id, driver_id }, "driver_offline", now);
        release(tx, &[ride_id], now).await?;
    }
    refused |= chain::give_back_of(app, tx, driver_id, now).await?;
    if refused {
        drivers::note(tx, &[driver_id], Addition::REFUSED, now).await?;
    }
    zones::leave(app, tx, driver_id).await
}

/// Sends rides without a live offer back to the dispatcher, and tells their riders.
pub(super) async fn release(tx: &mut TenantTx, rides: &[RideId], now: OffsetDateTime) -> Result<(), OfferError> {
    let tenant = tx.tenant().clone();
    for ride_id in store::release(tx, rides, now).await? {
        tx.tell(Event::DispatchDue { tenant: tenant.clone(), ride_id, at: now });
        if let Some(ride) = rides::load(tx, ride_id).await? {
            rides::announce(tx, ride).await?;
        }
    }
    Ok(())
}

pub(super) fn tell_withdrawn(tx: &mut TenantTx, ended: store::Ended, reason: &'static str, at: OffsetDateTime) {
    let store::Ended { offer_id, ride_id, driver_id } = ended;
    let tenant = tx.tenant().clone();
    tx.count(OFFERS, if reason == "expired" { "expired" } else { "withdrawn" });
    tx.tell(Event::OfferWithdrawn { tenant, driver_id, offer_id, ride_id, reason, at });
}
