//! Rides that begin in a zone with a queue: they go to whoever has waited there longest, and to the others by the ordinary
//! policy only when nobody of the queue can take them.

use std::collections::{HashMap, HashSet};

use shared::{
    ids::{DriverId, RideId},
    tenant_config::DispatchPolicy,
};
use time::OffsetDateTime;

use super::{
    gate::gate,
    plan::{Ask, Plan, Verdict, Wanted, whole_metres},
    reason::Reason,
};
use crate::{
    drivers::{Fleet, Standing},
    travel::TravelTimes,
    zones::{Waiting, ZoneMap},
};

/// Drivers outside of the queue of whom it is recorded that the queue goes first.
const EXPLAINED: usize = 12;

/// Plans for rides of queues, and what is left for the policy.
pub(super) struct Lined {
    pub(super) plans: Vec<Plan>,
    /// Whose queue each of these rides is offered to.
    pub(super) zones: HashMap<RideId, String>,
    pub(super) others: Vec<Wanted>,
}

/// Gives rides to the first in line, in the order of the rides. Who is given one is out of the question for all others.
pub(super) async fn line_up(
    fleet: &Fleet,
    travel: &impl TravelTimes,
    rules: &DispatchPolicy,
    (map, queue): (&ZoneMap, &[Waiting]),
    rides: Vec<Wanted>,
    now: OffsetDateTime,
) -> Lined {
    let mut lined = Lined { plans: Vec::new(), zones: HashMap::new(), others: Vec::new() };
    let mut given: HashSet<DriverId> = HashSet::new();
    for ride in rides {
        let Some(zone) = map.queue_at(ride.pickup) else {
            lined.others.push(ride);
            continue;
        };
        let in_line: Vec<DriverId> =
            queue.iter().filter(|waiting| waiting.zone_id == zone.id).map(|waiting| waiting.driver_id).collect();
        let mut verdicts: Vec<Verdict> = Vec::new();
        let mut first = None;
        for driver_id in &in_line {
            let Some(sighting) = fleet.sighting(*driver_id, now) else { continue };
            let Some(position) = sighting.position else { continue };
            let distance_m = position.point.distance_m(ride.pickup);
            let cannot = match sighting.standing.online {
                true => gate(&sighting.standing, distance_m, &ride.vehicle_class, rules, now),
                false => Some(Reason::Offline),
            };
            let cannot = cannot.or_else(|| ride.asked.get(driver_id).copied());
            let cannot = cannot.or_else(|| given.contains(driver_id).then_some(Reason::NotChosen));
            let reason = cannot.unwrap_or(if first.is_none() { Reason::Offered } else { Reason::BehindInQueue });
            if reason == Reason::Offered {
                first = Some((*driver_id, position.point));
            }
            let distance_m = whole_metres(distance_m);
            verdicts.push(Verdict { driver_id: *driver_id, reason, pickup_eta_s: None, distance_m });
        }
        let Some((driver_id, place)) = first else {
            lined.others.push(ride);
            continue;
        };
        given.insert(driver_id);
        let eta_s = travel.to_pickup(&[place], ride.pickup, now).await.first().copied().unwrap_or_default();
        verdicts
            .iter_mut()
            .filter(|verdict| verdict.driver_id == driver_id)
            .for_each(|of| of.pickup_eta_s = Some(eta_s));
        let may_be_asked = |standing: &Standing, distance_m: f64| {
            gate(standing, distance_m, &ride.vehicle_class, rules, now).is_none()
        };
        let around = fleet.search(ride.pickup, rules.radius_m.into(), in_line.len() + EXPLAINED, now, may_be_asked);
        let others = around.into_iter().filter(|found| !in_line.contains(&found.driver_id)).take(EXPLAINED);
        verdicts.extend(others.map(|found| Verdict {
            driver_id: found.driver_id,
            reason: ride.asked.get(&found.driver_id).copied().unwrap_or(Reason::BehindInQueue),
            pickup_eta_s: None,
            distance_m: whole_metres(found.distance_m),
        }));
        lined.zones.insert(ride.ride_id, zone.id.clone());
        lined.plans.push(Plan { ride_id: ride.ride_id, ask: vec![Ask { driver_id, eta_s }], verdicts });
    }
    for ride in &mut lined.others {
        for plan in &lined.plans {
            plan.ask.iter().for_each(|ask| _ = ride.asked.entry(ask.driver_id).or_insert(Reason::NotChosen));
        }
    }
    lined
}
