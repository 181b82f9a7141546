//! The next ride for a driver who is about to end a trip.
//!
//! A trip under way whose driver needs at most `chain_within_s` to its drop-off makes him a candidate as if he were free there,
//! that much later: one of the same assignment as all others. A ride he accepts is his by all means, but its trip waits: `after_trip_id` names the one before, and the
//! transaction that ends that one begins it. Until then whoever takes his place away (he goes offline, he gives the ride up, his
//! trip runs over) sends the ride back to be dispatched to somebody else, and the rider may leave at no cost.
//!
//! Postgres decides: one trip to follow per driver is a unique index, and who accepts holds the trip before, so that it either
//! ends later and begins the next, or has ended and there is nothing to wait for. `chain_model.rs` explores the orders.

use futures::future::join_all;
use shared::{
    geo::Point,
    ids::{DriverId, TenantId, TripId},
    tenant_config::DispatchPolicy,
};
use time::{Duration, OffsetDateTime};

use super::{
    answer::tell_withdrawn,
    error::OfferError,
    store::{self, Ended, Ending, OfferRow},
};
use crate::{
    app::App,
    db::TenantTx,
    drivers::{Duty, Fleet, Found, Position, Standing},
    http::Problem,
    rides::{self, Follows, Ride},
    travel::TravelTimes,
    trips,
};

/// Trips that end near one pick-up and are looked at, the nearest first.
const LOOKED_AT: i64 = 16;
/// Nobody gets through a city faster: who is farther from his drop-off than this allows need not be asked about.
const FASTEST_MPS: f64 = 35.0;

/// Trips that end near where rides begin, if the tenant lets rides follow each other.
pub(super) async fn ending_near(
    app: &App,
    tenant: &TenantId,
    rules: &DispatchPolicy,
    pickups: &[Point],
) -> Result<Vec<Ending>, Problem> {
    if rules.chain_within_s == 0 || pickups.is_empty() {
        return Ok(Vec::new());
    }
    Ok(store::trips_ending_near(app, tenant, pickups, rules.radius_m.into(), LOOKED_AT).await?)
}

/// A driver who is about to end a trip, and may be asked as if he were free at its end, so much later.
#[derive(Clone, Debug)]
pub struct Arriving {
    pub(super) driver_id: DriverId,
    pub(super) trip_id: TripId,
    dropoff: Point,
    /// To the drop-off.
    pub(super) remaining_s: u32,
    /// As it will be there.
    standing: Standing,
}

impl Arriving {
    /// As a search around `pickup` would find this driver at the drop-off.
    pub(super) fn found_from(&self, pickup: Point, now: OffsetDateTime) -> Found {
        let Self { driver_id, dropoff, standing, .. } = self;
        let position = Position { point: *dropoff, heading: None, recorded_at: now };
        let distance_m = dropoff.distance_m(pickup);
        Found { driver_id: *driver_id, distance_m, position, standing: standing.clone() }
    }
}

/// Those who are near enough to their drop-offs, by the way and not as the crow flies.
pub(super) async fn arriving(
    fleet: &Fleet,
    travel: &impl TravelTimes,
    rules: &DispatchPolicy,
    ending: &[Ending],
    now: OffsetDateTime,
) -> Vec<Arriving> {
    let within_s = rules.chain_within_s;
    let ask = ending.iter().filter_map(|ending| {
        let sighting = fleet.sighting(ending.driver_id, now)?;
        let place = sighting.position?.point;
        let could_be = place.distance_m(ending.dropoff) <= f64::from(within_s) * FASTEST_MPS;
        // Whoever has ended it meanwhile is found as everybody who is free.
        let is_driving = matches!(sighting.standing.duty, Duty::OnTrip { .. });
        (could_be && is_driving && sighting.standing.online).then_some((ending, place, sighting.standing))
    });
    let ask = ask.map(|(ending, place, standing)| async move {
        let remaining_s = travel.to_pickup(&[place], ending.dropoff, now).await.first().copied()?;
        let Ending { driver_id, trip_id, dropoff } = *ending;
        let standing = Standing { duty: Duty::Free, idle_since: None, ..standing };
        (remaining_s <= within_s).then_some(Arriving { driver_id, trip_id, dropoff, remaining_s, standing })
    });
    join_all(ask).await.into_iter().flatten().collect()
}

/// What an accepted offer's ride follows: the trip the driver was on when he was asked, if he still is. It is held, so that
/// whoever ends it afterwards sees what follows. That trip may end so much later than its driver should have been at the next
/// pick-up as the tenant allows, or as he was expected to need in all; then his next ride goes to somebody else.
pub(super) async fn follows(app: &App, tx: &mut TenantTx, offer: &OfferRow) -> Result<Option<Follows>, OfferError> {
    let Some(trip_id) = offer.after_trip_id.map(TripId) else { return Ok(None) };
    let slack_s = app.tenants.config(tx.tenant()).await?.config.dispatch.chain_slack_s;
    let expected = Duration::seconds(offer.pickup_eta_s.into());
    let starts_by = offer.offered_at + expected + expected.max(Duration::seconds(slack_s.into()));
    Ok(trips::hold_under_way(tx, trip_id).await?.then_some(Follows { trip_id, starts_by }))
}

/// Gives back the ride a driver was to take next, who goes offline; whether there was one.
pub(super) async fn give_back_of(
    app: &App,
    tx: &mut TenantTx,
    driver_id: DriverId,
    now: OffsetDateTime,
) -> Result<bool, Problem> {
    let Some(ride) = rides::hold_next_of(tx, driver_id).await? else { return Ok(false) };
    give_back(app, tx, ride, "driver_offline", now).await?;
    Ok(true)
}

/// Gives back the rides whose drivers' trips run over.
pub(super) async fn give_back_overdue(app: &App, tx: &mut TenantTx, now: OffsetDateTime) -> Result<(), Problem> {
    for ride in rides::hold_overdue(tx, now).await? {
        give_back(app, tx, ride, "trip_ran_over", now).await?;
    }
    Ok(())
}

async fn give_back(
    app: &App,
    tx: &mut TenantTx,
    ride: Ride,
    reason: &'static str,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let (ride_id, driver_id) = (ride.id, ride.driver_id);
    let policy = &app.tenants.config(tx.tenant()).await?.config.dispatch;
    let expire_after = Duration::seconds(policy.expire_after_s.into());
    let (ride, offer_id) = rides::redispatch(tx, ride, expire_after, now).await?;
    if let (Some(driver_id), Some(offer_id)) = (driver_id, offer_id) {
        tell_withdrawn(tx, Ended { offer_id, ride_id, driver_id }, reason, now);
    }
    rides::announce(tx, ride).await?;
    tracing::info!(ride.id = %ride_id, reason, "ride {ride_id} goes back: {reason}");
    Ok(())
}
