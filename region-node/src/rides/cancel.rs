//! Giving a ride up.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::{
    ids::{OfferId, RideId},
    money::Money,
};
use time::{Duration, OffsetDateTime};

use super::{Cancellation, CancelledBy, RIDES, Ride, RideError, RideStatus, RideView, Viewer, announce, store};
use crate::{
    app::App,
    db::TenantTx,
    dispatch, drivers,
    http::{Command, Path, Problem, ProblemBody, Stop},
    identity::Caller,
    payments,
    realtime::Event,
    trips::{self, Trip},
};

/// Why.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct CancelRequest {
    /// For the other party and the back office.
    #[garde(length(chars, max = 200))]
    #[serde(default)]
    reason: Option<String>,
}

/// Cancels a ride that is not under way yet; what it costs follows the tenant's policy as it was when the ride was priced. A driver's cancellation sends the
/// ride back to be dispatched to somebody else, unless the rider did not come.
#[utoipa::path(post, path = "/v1/rides/{id}/cancel", tag = "rides", security(("bearer" = [])), request_body = CancelRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = RideId, Path)),
    responses((status = 200, body = RideView), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody),
              (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "rides.cancel", skip_all, fields(ride.id = %id))]
pub(super) async fn cancel_ride(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RideId>,
    command: Command<CancelRequest>,
) -> Result<Response, Stop> {
    let config = app.tenants.config(caller.tenant()).await?;
    let mut tx = command.begin(&app, &caller).await?;
    let ride = store::lock(&mut tx, id).await?.ok_or(RideError::NotFound(id))?;
    let viewer = ride.viewer(&caller).ok_or(RideError::NotFound(id))?;
    let by = match viewer {
        Viewer::Rider => CancelledBy::Rider,
        Viewer::Driver => CancelledBy::Driver,
        Viewer::Tenant => CancelledBy::Tenant,
    };
    let now = app.clock.now();
    let trip = trip_of(&mut tx, &ride).await?;
    let arrived_at = trip.as_ref().and_then(|trip| trip.arrived_at);
    let outcome = ride.cancellation(by, arrived_at, &ride.quote.cancellation(&config.config), now)?;

    let ride = match outcome {
        Cancellation::Ends { fee } => {
            leave(&mut tx, &ride, trip, now).await?;
            let fee = Money::new(fee, ride.quote.currency).to_charge();
            let ride = end(&mut tx, ride, by, command.body.reason, fee.amount, now).await?;
            if fee.amount > 0 {
                payments::charge_cancellation_fee(&app, &mut tx, &config.config.psp, &ride, fee).await?;
            }
            ride
        }
        Cancellation::Redispatches => {
            let expire_after = Duration::seconds(config.config.dispatch.expire_after_s.into());
            redispatch(&mut tx, ride, expire_after, now).await?.0
        }
    };
    let ride = announce(&mut tx, ride).await?;
    tracing::info!(ride.id = %id, status = %ride.status, "ride {id} given up by its {}", by.as_str());
    tx.finish(StatusCode::OK, &ride.seen_by(viewer)).await
}

async fn end(
    tx: &mut TenantTx,
    ride: Ride,
    by: CancelledBy,
    reason: Option<String>,
    fee: i64,
    now: OffsetDateTime,
) -> Result<Ride, Stop> {
    let was = ride.status;
    let ride = Ride {
        status: RideStatus::Cancelled,
        dispatch_at: None,
        ended_at: Some(now),
        cancelled_by: Some(by),
        cancel_reason: reason,
        cancellation_fee: (fee > 0).then_some(fee),
        updated_at: now,
        ..ride
    };
    store::save(tx, &ride, was).await?;
    // An accepted ride has no offer left to withdraw.
    if was == RideStatus::Offered {
        dispatch::withdraw_offers(tx, ride.id, now).await?;
    }
    tx.count(RIDES, "cancelled");
    Ok(ride)
}

/// Takes a ride from its driver, who gives it up or does not come, and sends it back to be dispatched to somebody else; it is
/// yet to be announced. The offer the driver had accepted counts as declined.
pub(crate) async fn redispatch(
    tx: &mut TenantTx,
    ride: Ride,
    expire_after: Duration,
    now: OffsetDateTime,
) -> Result<(Ride, Option<OfferId>), Problem> {
    let was = ride.status;
    let trip = trip_of(tx, &ride).await?;
    leave(tx, &ride, trip, now).await?;
    let mut offer = None;
    if let Some(driver_id) = ride.driver_id {
        offer = dispatch::decline_accepted_offer(tx, ride.id, driver_id, now).await?;
        // Whoever has a trip to end is busy with that one as before.
        if ride.after_trip_id.is_none() {
            tx.tell(Event::DriverFreed { tenant: ride.tenant.clone(), driver_id, since: now });
        }
    }
    let ride = Ride {
        status: RideStatus::Requested,
        driver_id: None,
        trip_id: None,
        accepted_at: None,
        after_trip_id: None,
        pickup_eta_s: None,
        offers_made: 0,
        dispatch_at: Some(now),
        expires_at: ride.expires_at.max(now + expire_after),
        updated_at: now,
        ..ride
    };
    store::save(tx, &ride, was).await?;
    tx.tell(Event::DispatchDue { tenant: ride.tenant.clone(), ride_id: ride.id, at: now });
    Ok((ride, offer))
}

async fn trip_of(tx: &mut TenantTx, ride: &Ride) -> sqlx::Result<Option<Trip>> {
    match ride.trip_id {
        Some(trip) => trips::load(tx, trip).await,
        None => Ok(None),
    }
}

/// Ends the trip of a ride that is given up; its driver is idle then, unless he is still on the one before.
async fn leave(tx: &mut TenantTx, ride: &Ride, trip: Option<Trip>, now: OffsetDateTime) -> Result<(), Problem> {
    if let Some(trip) = trip {
        trips::cancel(tx, trip, now).await?;
    }
    match ride.driver_id {
        Some(driver) if ride.after_trip_id.is_none() => Ok(drivers::note_idle(tx, driver, now).await?),
        Some(_) | None => Ok(()),
    }
}
