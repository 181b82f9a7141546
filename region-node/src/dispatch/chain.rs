//! The next ride for a driver who is about to end a trip.
//!
//! A trip under way whose driver needs at most `chain_within_s` to its drop-off makes him a candidate as if he were free there,
//! that much later. A ride he accepts is his by all means, but its trip waits: `after_trip_id` names the one before, and the
//! transaction that ends that one begins it. Until then whoever takes his place away (he goes offline, he gives the ride up, his
//! trip runs over) sends the ride back to be dispatched to somebody else, and the rider may leave at no cost.
//!
//! Postgres decides: one trip to follow per driver is a unique index, and who accepts holds the trip before, so that it either
//! ends later and begins the next, or has ended and there is nothing to wait for. `chain_model.rs` explores the orders.

use std::collections::HashMap;

use futures::future::join_all;
use shared::{
    geo::Point,
    ids::{DriverId, TripId},
    tenant_config::DispatchPolicy,
};
use time::{Duration, OffsetDateTime};

use super::{
    answer::tell_withdrawn,
    error::OfferError,
    gate::{gate, takes_too_long},
    plan::{Ask, Plan, Verdict, Wanted, whole_metres},
    reason::Reason,
    store::{self, Ended, Ending, OfferRow},
};
use crate::{
    app::App,
    db::TenantTx,
    drivers::{Duty, Fleet, Standing},
    http::Problem,
    rides::{self, Follows, Ride},
    travel::TravelTimes,
    trips,
};

/// Trips that end near one pick-up and are looked at, the nearest first.
const LOOKED_AT: i64 = 16;
/// Drivers on a trip whose ways are asked for, for one ride.
const CHOICES: usize = 4;
/// Nobody gets through a city faster: who is farther from his drop-off than this allows need not be asked about.
const FASTEST_MPS: f64 = 35.0;
/// A trip may end so much later than its driver should have been at the next pick-up, or as much later as he was expected to
/// need in all; then his next ride goes to somebody else.
const SLACK: Duration = Duration::minutes(2);

/// Trips that end near where rides begin, if the tenant lets rides follow each other.
pub(super) async fn ending_near(
    tx: &mut TenantTx,
    rules: &DispatchPolicy,
    pickups: &[Point],
) -> sqlx::Result<Vec<Ending>> {
    if rules.chain_within_s == 0 || pickups.is_empty() {
        return Ok(Vec::new());
    }
    store::trips_ending_near(tx, pickups, rules.radius_m.into(), LOOKED_AT).await
}

/// Lets drivers who are about to end a trip have rides for which nobody free was found, or nobody who would be there as soon;
/// the trips they end first.
pub(super) async fn chain(
    fleet: &Fleet,
    travel: &impl TravelTimes,
    rules: &DispatchPolicy,
    rides: &[Wanted],
    ending: &[Ending],
    plans: &mut [Plan],
    now: OffsetDateTime,
) -> HashMap<DriverId, TripId> {
    let mut chained = HashMap::new();
    let arriving = arriving(fleet, travel, rules, ending, now).await;
    if arriving.is_empty() {
        return chained;
    }
    for (ride, plan) in rides.iter().zip(plans) {
        let mut near: Vec<_> = arriving.iter().filter_map(|arriving| arriving.candidate(rules, ride, now)).collect();
        near.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.driver_id.cmp(&b.0.driver_id)));
        near.truncate(CHOICES);
        let places: Vec<Point> = near.iter().map(|(arriving, _)| arriving.dropoff).collect();
        let etas = travel.to_pickup(&places, ride.pickup, now).await;
        let mut best: Option<Ask> = None;
        for ((arriving, distance_m), way_s) in near.into_iter().zip(etas) {
            let (driver_id, eta_s) = (arriving.driver_id, arriving.remaining_s.saturating_add(way_s));
            let reason = if takes_too_long(eta_s, rules) { Reason::PickupTooLong } else { Reason::NotChosen };
            let is_free = reason == Reason::NotChosen && !chained.contains_key(&driver_id);
            if is_free && best.is_none_or(|best| eta_s < best.eta_s) {
                best = Some(Ask { driver_id, eta_s });
            }
            plan.verdicts.retain(|verdict| verdict.driver_id != driver_id);
            let distance_m = whole_metres(distance_m);
            plan.verdicts.push(Verdict { driver_id, reason, pickup_eta_s: Some(eta_s), distance_m });
        }
        let soonest = plan.ask.iter().map(|ask| ask.eta_s).min();
        if let Some(best) = best.filter(|best| soonest.is_none_or(|soonest| best.eta_s < soonest)) {
            plan.ask = vec![best];
            for verdict in &mut plan.verdicts {
                match verdict.reason {
                    _ if verdict.driver_id == best.driver_id => verdict.reason = Reason::Offered,
                    Reason::Offered => verdict.reason = Reason::NotChosen,
                    _ => {}
                }
            }
            let trip = arriving.iter().find(|arriving| arriving.driver_id == best.driver_id);
            chained.extend(trip.map(|trip| (best.driver_id, trip.trip_id)));
        }
    }
    chained
}

/// A driver who is about to end a trip.
struct Arriving {
    driver_id: DriverId,
    trip_id: TripId,
    dropoff: Point,
    /// To the drop-off.
    remaining_s: u32,
    /// As it will be there.
    standing: Standing,
}

impl Arriving {
    /// This driver and how far off the pick-up his drop-off is, if he may be asked there.
    fn candidate(&self, rules: &DispatchPolicy, ride: &Wanted, now: OffsetDateTime) -> Option<(&Self, f64)> {
        let distance_m = self.dropoff.distance_m(ride.pickup);
        let may_be_asked = !ride.asked.contains_key(&self.driver_id)
            && gate(&self.standing, distance_m, &ride.vehicle_class, rules, now).is_none();
        may_be_asked.then_some((self, distance_m))
    }
}

/// Those who are near enough to their drop-offs, by the way and not as the crow flies.
async fn arriving(
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
        (could_be && sighting.standing.online).then_some((ending, place, sighting.standing))
    });
    let ask = ask.map(|(ending, place, standing)| async move {
        let remaining_s = travel.to_pickup(&[place], ending.dropoff, now).await.first().copied()?;
        let Ending { driver_id, trip_id, dropoff } = *ending;
        let standing = Standing { duty: Duty::Free, ..standing };
        (remaining_s <= within_s).then_some(Arriving { driver_id, trip_id, dropoff, remaining_s, standing })
    });
    join_all(ask).await.into_iter().flatten().collect()
}

/// What an accepted offer's ride follows: the trip the driver was on when he was asked, if he still is. It is held, so that
/// whoever ends it afterwards sees what follows.
pub(super) async fn follows(tx: &mut TenantTx, offer: &OfferRow) -> Result<Option<Follows>, OfferError> {
    let Some(trip_id) = offer.after_trip_id.map(TripId) else { return Ok(None) };
    let expected = Duration::seconds(offer.pickup_eta_s.into());
    let starts_by = offer.offered_at + expected + expected.max(SLACK);
    Ok(trips::hold_under_way(tx, trip_id).await?.then_some(Follows { trip_id, starts_by }))
}

/// Gives back the ride a driver was to take next, who goes offline.
pub(super) async fn give_back_of(
    app: &App,
    tx: &mut TenantTx,
    driver_id: DriverId,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    match rides::hold_next_of(tx, driver_id).await? {
        Some(ride) => give_back(app, tx, ride, "driver_offline", now).await,
        None => Ok(()),
    }
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
    rides::announce(app, tx, ride).await?;
    tracing::info!(ride.id = %ride_id, reason, "ride {ride_id} goes back: {reason}");
    Ok(())
}
