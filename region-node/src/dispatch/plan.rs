//! Who could take a ride and who is to be asked: looks at the live table, never at the database, and changes nothing.

use std::collections::HashMap;

use futures::future::join_all;
use shared::{
    geo::Point,
    ids::{DriverId, RideId},
    tenant_config::DispatchPolicy,
};
use time::OffsetDateTime;

use super::{
    policy::{Candidate, Matching, Request, assign},
    reason::Reason,
};
use crate::{
    drivers::{Duty, Fleet, Found, LIFE, Standing},
    travel::TravelTimes,
};

/// Drivers of a ride who may be chosen. More would not change who is nearest, but the size of the assignment.
const CHOICES: usize = 12;
/// Drivers of a ride who may not, and of whom the reason is recorded.
const EXPLAINED: usize = 12;
/// Rides whose travel times are asked for at once, should they come from elsewhere.
const ASKED_AT_ONCE: usize = 32;
/// So much farther than allowed it is still worth saying that somebody was too far.
const EXPLAINED_RADIUS: f64 = 1.5;

/// A ride that wants a driver.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which.
    pub ride_id: RideId,
    /// Where to pick up.
    pub pickup: Point,
    /// In what.
    pub vehicle_class: String,
    /// Since when the rider waits; in the future for a ride booked ahead.
    pub waits_since: OffsetDateTime,
    /// Who was asked before, and what came of it.
    pub asked: HashMap<DriverId, Reason>,
}

/// What became of one candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Who.
    pub driver_id: DriverId,
    /// What.
    pub reason: Reason,
    /// To the pick-up; only of those who could have been chosen.
    pub pickup_eta_s: Option<u32>,
    /// From the pick-up, as the crow flies.
    pub distance_m: u32,
}

/// What is to be done for one ride.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which.
    pub ride_id: RideId,
    /// Whom to ask, and the seconds to the pick-up.
    pub ask: Option<(DriverId, u32)>,
    /// Every candidate.
    pub verdicts: Vec<Verdict>,
}

/// Plans for the rides of one window, in the order they were asked for.
pub async fn plan(
    fleet: &Fleet,
    travel: &impl TravelTimes,
    rules: &DispatchPolicy,
    rides: &[Wanted],
    now: OffsetDateTime,
) -> Vec<Plan> {
    let mut numbers: HashMap<DriverId, usize> = HashMap::new();
    let mut matching = Matching::default();
    let looks: Vec<Look> = rides.iter().map(|ride| look_around(fleet, rules, ride, now)).collect();
    let mut etas = Vec::with_capacity(rides.len());
    for some in rides.iter().zip(&looks).collect::<Vec<_>>().chunks(ASKED_AT_ONCE) {
        let ask = some.iter().map(|(ride, look)| async move {
            let places: Vec<Point> = look.choices.iter().map(|found| found.position.point).collect();
            travel.to_pickup(&places, ride.pickup, now).await
        });
        etas.extend(join_all(ask).await);
    }
    for ((ride, look), etas) in rides.iter().zip(&looks).zip(etas) {
        let candidates = look.choices.iter().zip(etas).map(|(found, eta_s)| {
            let next = numbers.len();
            let idle_since = found.standing.idle_since.unwrap_or(now);
            let idle = (now - idle_since).max(time::Duration::ZERO);
            Candidate { driver: *numbers.entry(found.driver_id).or_insert(next), eta_s, idle }
        });
        let candidates = candidates.collect();
        matching.requests.push(Request { waited: now - ride.waits_since, candidates });
    }
    let (matching, chosen) = assign(rules.mode, matching).await;
    let mut plans = Vec::with_capacity(rides.len());
    for (((ride, look), request), chosen) in rides.iter().zip(looks).zip(&matching.requests).zip(chosen) {
        let candidates = &request.candidates;
        let choices = look.choices.iter().zip(candidates).enumerate().map(|(index, (found, candidate))| Verdict {
            driver_id: found.driver_id,
            reason: if Some(index) == chosen { Reason::Offered } else { Reason::NotChosen },
            pickup_eta_s: Some(candidate.eta_s),
            distance_m: whole_metres(found.distance_m),
        });
        let ask = chosen.map(|index| (look.choices[index].driver_id, candidates[index].eta_s));
        plans.push(Plan { ride_id: ride.ride_id, ask, verdicts: choices.chain(look.others).collect() });
    }
    plans
}

struct Look {
    choices: Vec<Found>,
    others: Vec<Verdict>,
}

/// The drivers around a pick-up: those who can be asked, and the nearest of those who cannot, with the reason. Rings widen
/// until there are enough of the first; nobody beyond the tenant's radius is asked.
fn look_around(fleet: &Fleet, rules: &DispatchPolicy, ride: &Wanted, now: OffsetDateTime) -> Look {
    let radius_m = f64::from(rules.radius_m);
    let may_be_asked = |standing: &Standing| gate(standing, ride, now).is_none();
    let mut choices = fleet.search(ride.pickup, radius_m, CHOICES + ride.asked.len(), now, may_be_asked);
    choices.retain(|found| !ride.asked.contains_key(&found.driver_id));
    choices.truncate(CHOICES);
    let around = fleet.search(ride.pickup, radius_m * EXPLAINED_RADIUS, CHOICES + EXPLAINED, now, |_| true);
    let explain = |found: Found| {
        let reason = gate(&found.standing, ride, now)
            .or_else(|| ride.asked.get(&found.driver_id).copied())
            .or_else(|| (found.distance_m > radius_m).then_some(Reason::TooFar))
            // Searched for twice: somebody may have come free in between, and is a candidate of the next round.
            .unwrap_or(Reason::NotChosen);
        Verdict { driver_id: found.driver_id, reason, pickup_eta_s: None, distance_m: whole_metres(found.distance_m) }
    };
    let is_choice = |found: &Found| choices.iter().any(|choice| choice.driver_id == found.driver_id);
    let others = around.into_iter().filter(|found| !is_choice(found)).map(explain).take(EXPLAINED).collect();
    Look { choices, others }
}

/// Why a driver of this standing cannot be asked at all.
fn gate(standing: &Standing, ride: &Wanted, now: OffsetDateTime) -> Option<Reason> {
    if *standing.vehicle_class != *ride.vehicle_class {
        return Some(Reason::WrongVehicleClass);
    }
    match standing.duty.at(now) {
        Duty::OnTrip { .. } => Some(Reason::Busy),
        Duty::Offered { .. } => Some(Reason::HasOffer),
        Duty::Free => None,
    }
}

/// Whether a driver chosen a moment ago can still be found: planning may have waited for travel times.
pub(super) fn is_still_there(fleet: &Fleet, driver_id: DriverId, now: OffsetDateTime) -> Option<Reason> {
    match fleet.sighting(driver_id, now) {
        Some(sighting) if !sighting.standing.online => Some(Reason::Offline),
        Some(sighting) if sighting.position.is_some_and(|position| position.recorded_at > now - LIFE) => None,
        Some(_) | None => Some(Reason::StalePosition),
    }
}

fn whole_metres(distance_m: f64) -> u32 {
    // Below half the globe; a cast from a float saturates anyway.
    distance_m.round() as u32
}

#[cfg(test)]
mod tests {
    use shared::{ids::RiderId, tenant_config::DispatchMode};
    use time::{Duration, macros::datetime};

    use super::*;
    use crate::{
        drivers::{LiveTable, Position, ShareRule},
        travel::SpeedProfile,
    };

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
    const PICKUP: Point = Point::new(40.758, -73.9855);
    const RULES: DispatchPolicy = DispatchPolicy {
        mode: DispatchMode::Batched,
        window_ms: 200,
        offer_ttl_s: 15,
        max_offers: 8,
        radius_m: 3_000,
        expire_after_s: 180,
    };

    fn fleet(drivers: &[(DriverId, f64, &str, Duty)]) -> std::sync::Arc<Fleet> {
        let table = LiveTable::new(ShareRule { distance_m: 25.0, heartbeat: Duration::seconds(20) });
        let fleet = table.fleet(&"cabs".parse().unwrap());
        for (id, north_m, class, duty) in drivers {
            let vehicle_class = (*class).into();
            fleet.learn(
                *id,
                Standing { online: true, vehicle_class, idle_since: None, duty: *duty, as_of: NOW, duty_as_of: NOW },
            );
            let point = Point::new(PICKUP.lat + north_m / 111_195.0, PICKUP.lng);
            fleet.observe(*id, &[Position { point, heading: None, recorded_at: NOW }], NOW);
        }
        fleet
    }

    fn wanted(asked: &[(DriverId, Reason)]) -> Wanted {
        Wanted {
            ride_id: RideId::new(),
            waits_since: NOW,
            pickup: PICKUP,
            vehicle_class: "standard".into(),
            asked: asked.iter().copied().collect(),
        }
    }

    #[tokio::test]
    async fn every_way_out_has_its_reason() {
        let [near, far, busy, asked, offered, van, beyond] = std::array::from_fn(|_| DriverId::new());
        let on_trip = Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() };
        let thinking = Duty::Offered { until: NOW + Duration::seconds(5) };
        let fleet = fleet(&[
            (near, 400.0, "standard", Duty::Free),
            (far, 900.0, "standard", Duty::Free),
            (busy, 100.0, "standard", on_trip),
            (asked, 200.0, "standard", Duty::Free),
            (offered, 150.0, "standard", thinking),
            (van, 50.0, "xl", Duty::Free),
            (beyond, 3_500.0, "standard", Duty::Free),
        ]);
        let rides = [wanted(&[(asked, Reason::DeclinedBefore)])];
        let plans = plan(&fleet, &SpeedProfile::default(), &RULES, &rides, NOW).await;
        assert_eq!(plans[0].ask.map(|(driver, _)| driver), Some(near));
        let reasons: HashMap<_, _> = plans[0].verdicts.iter().map(|v| (v.driver_id, v.reason)).collect();
        let expected = [
            (near, Reason::Offered),
            (far, Reason::NotChosen),
            (busy, Reason::Busy),
            (asked, Reason::DeclinedBefore),
            (offered, Reason::HasOffer),
            (van, Reason::WrongVehicleClass),
            (beyond, Reason::TooFar),
        ];
        assert_eq!(reasons, expected.into());
    }

    #[tokio::test]
    async fn two_rides_of_one_window_never_share_a_driver() {
        let (a, b) = (DriverId::new(), DriverId::new());
        let fleet = fleet(&[(a, 100.0, "standard", Duty::Free), (b, 2_000.0, "standard", Duty::Free)]);
        let plans = plan(&fleet, &SpeedProfile::default(), &RULES, &[wanted(&[]), wanted(&[]), wanted(&[])], NOW).await;
        let mut asked: Vec<_> = plans.iter().filter_map(|plan| plan.ask).map(|(driver, _)| driver).collect();
        asked.sort();
        assert_eq!(asked, [a, b]);
    }

    #[tokio::test]
    async fn with_all_near_drivers_asked_before_the_next_is_asked() {
        let ids: Vec<_> = (0..30).map(|_| DriverId::new()).collect();
        let drivers: Vec<_> =
            ids.iter().zip(1..).map(|(id, n)| (*id, f64::from(n) * 50.0, "standard", Duty::Free)).collect();
        let asked: Vec<_> = ids[..20].iter().map(|id| (*id, Reason::DidNotAnswer)).collect();
        let plans = plan(&fleet(&drivers), &SpeedProfile::default(), &RULES, &[wanted(&asked)], NOW).await;
        assert_eq!(plans[0].ask.map(|(driver, _)| driver), Some(ids[20]));
    }

    #[test]
    fn a_driver_who_left_while_planning_is_not_asked() {
        let id = DriverId::new();
        let fleet = fleet(&[(id, 10.0, "standard", Duty::Free)]);
        assert_eq!(is_still_there(&fleet, id, NOW), None);
        assert_eq!(is_still_there(&fleet, id, NOW + LIFE), Some(Reason::StalePosition));
        assert_eq!(is_still_there(&fleet, DriverId::new(), NOW), Some(Reason::StalePosition));
    }
}
