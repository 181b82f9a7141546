//! Rides that begin in a zone with a queue: they go to whoever has waited there longest, and to the others by the ordinary
//! policy only when nobody of the queue can take them.

use std::{
    collections::{HashMap, HashSet},
    slice,
};

use futures::future::join_all;
use shared::{
    geo::Point,
    ids::{DriverId, RideId},
    tenant_config::DispatchPolicy,
};
use time::OffsetDateTime;

use super::{
    gate::gate,
    plan::{ASKED_AT_ONCE, Ask, Plan, Verdict, Wanted, whole_metres},
    reason::Reason,
};
use crate::{
    drivers::{Fleet, Sighting, Standing},
    travel::TravelTimes,
    zones::{Waiting, ZoneMap},
};

/// Drivers in line of whom it is recorded what became of them, the first; at hardly any rank are there more. With them and
/// those of [`EXPLAINED`] a look at a ride writes at most some 20 KB.
const EXPLAINED_IN_LINE: usize = 200;
/// Drivers outside of the queue of whom it is recorded that the queue goes first.
const EXPLAINED: usize = 12;

/// Plans for rides of queues, and what is left for the policy.
pub(super) struct Lined {
    pub(super) plans: Vec<Plan>,
    /// Whose queue each of these rides is offered to.
    pub(super) zones: HashMap<RideId, String>,
    pub(super) others: Vec<Wanted>,
    /// Of others that begin where there is a queue: why nobody of it can go.
    nobody_can: HashMap<RideId, Vec<Verdict>>,
}

impl Lined {
    /// Adds to the plans for others why nobody of the queue goes; what the policy says of a driver counts more.
    pub(super) fn explain(&mut self, plans: &mut [Plan]) {
        for plan in plans {
            let mut verdicts = self.nobody_can.remove(&plan.ride_id).unwrap_or_default();
            let known: HashSet<DriverId> = plan.verdicts.iter().map(|verdict| verdict.driver_id).collect();
            verdicts.retain(|verdict| !known.contains(&verdict.driver_id));
            plan.verdicts.append(&mut verdicts);
        }
    }
}

/// Gives rides to the first in line, in the order of the rides. Who is given one is out of the question for all others. How long
/// each takes is asked when all are given, since the time is told and decides nothing.
pub(super) async fn line_up(
    fleet: &Fleet,
    travel: &impl TravelTimes,
    rules: &DispatchPolicy,
    (map, queue): (&ZoneMap, &[Waiting]),
    rides: Vec<Wanted>,
    now: OffsetDateTime,
) -> Lined {
    let mut lined = Lined { plans: Vec::new(), zones: HashMap::new(), others: Vec::new(), nobody_can: HashMap::new() };
    let mut given: HashSet<DriverId> = HashSet::new();
    let mut going = Vec::new();
    for ride in rides {
        let Some(zone) = map.queue_at(ride.pickup) else {
            lined.others.push(ride);
            continue;
        };
        let in_line: Vec<DriverId> =
            queue.iter().filter(|waiting| waiting.zone_id == zone.id).map(|waiting| waiting.driver_id).collect();
        let (first, mut verdicts) = look_along(fleet, rules, &ride, &in_line, &given, now);
        let Some((driver_id, place)) = first else {
            lined.nobody_can.insert(ride.ride_id, verdicts);
            lined.others.push(ride);
            continue;
        };
        given.insert(driver_id);
        let may_be_asked = |standing: &Standing, distance_m: f64| {
            gate(standing, distance_m, &ride.vehicle_class, rules, now).is_none()
        };
        let around = fleet.search(ride.pickup, rules.radius_m.into(), in_line.len() + EXPLAINED, now, may_be_asked);
        let others = around.into_iter().filter(|found| !in_line.contains(&found.driver_id)).take(EXPLAINED);
        verdicts.extend(others.map(|found| Verdict {
            driver_id: found.driver_id,
            reason: ride.asked.get(&found.driver_id).copied().unwrap_or(Reason::BehindInQueue),
            pickup_eta_s: None,
            distance_m: Some(whole_metres(found.distance_m)),
        }));
        lined.zones.insert(ride.ride_id, zone.id.clone());
        going.push((ride, driver_id, place, verdicts));
    }
    let mut etas = Vec::with_capacity(going.len());
    for some in going.chunks(ASKED_AT_ONCE) {
        let ask = some.iter().map(|(ride, _, place, _)| async move {
            let ways_s = travel.to_pickup(slice::from_ref(place), ride.pickup, now).await;
            ways_s.first().copied().unwrap_or_default()
        });
        etas.extend(join_all(ask).await);
    }
    for ((ride, driver_id, _, mut verdicts), eta_s) in going.into_iter().zip(etas) {
        let of_first = verdicts.iter_mut().filter(|verdict| verdict.driver_id == driver_id);
        of_first.for_each(|verdict| verdict.pickup_eta_s = Some(eta_s));
        lined.plans.push(Plan { ride_id: ride.ride_id, ask: vec![Ask { driver_id, eta_s }], verdicts });
    }
    for ride in &mut lined.others {
        for plan in &lined.plans {
            plan.ask.iter().for_each(|ask| _ = ride.asked.entry(ask.driver_id).or_insert(Reason::NotChosen));
        }
    }
    lined
}

/// The first in line who can go, with his place, and what became of each.
fn look_along(
    fleet: &Fleet,
    rules: &DispatchPolicy,
    ride: &Wanted,
    in_line: &[DriverId],
    given: &HashSet<DriverId>,
    now: OffsetDateTime,
) -> (Option<(DriverId, Point)>, Vec<Verdict>) {
    let (mut first, mut verdicts) = (None, Vec::new());
    for driver_id in in_line {
        let sighting = fleet.sighting(*driver_id, now);
        let place = sighting.as_ref().and_then(|sighting| sighting.position).map(|position| position.point);
        let distance_m = place.map(|place| place.distance_m(ride.pickup));
        let cannot = match (&sighting, distance_m) {
            (Some(Sighting { standing, .. }), _) if !standing.online => Some(Reason::Offline),
            (Some(Sighting { standing, .. }), Some(distance_m)) => {
                gate(standing, distance_m, &ride.vehicle_class, rules, now)
            }
            (Some(_), None) | (None, _) => Some(Reason::StalePosition),
        };
        let cannot = cannot.or_else(|| ride.asked.get(driver_id).copied());
        let cannot = cannot.or_else(|| given.contains(driver_id).then_some(Reason::NotChosen));
        let reason = match (cannot, first) {
            (Some(reason), _) => reason,
            (None, Some(_)) => Reason::BehindInQueue,
            (None, None) => {
                first = place.map(|place| (*driver_id, place));
                Reason::Offered
            }
        };
        if verdicts.len() < EXPLAINED_IN_LINE || reason == Reason::Offered {
            let distance_m = distance_m.map(whole_metres);
            verdicts.push(Verdict { driver_id: *driver_id, reason, pickup_eta_s: None, distance_m });
        }
    }
    (first, verdicts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::Duration;
    use tokio::sync::Barrier;

    use super::*;
    use crate::{
        dispatch::plan::{
            plan,
            tests::{NOW, PICKUP, fleet, rules, wanted},
        },
        drivers::Duty,
        travel::SpeedProfile,
    };

    /// A rank where rides begin.
    fn rank() -> ZoneMap {
        let area = json!({"circle": {"center": {"lat": PICKUP.lat, "lng": PICKUP.lng}, "radius_m": 1_000}});
        ZoneMap::new(&[serde_json::from_value(json!({"id": "rank", "area": area, "queue": true})).unwrap()])
    }

    fn in_line(drivers: &[DriverId]) -> Vec<Waiting> {
        let waiting = |(n, driver_id): (i64, &DriverId)| Waiting {
            driver_id: *driver_id,
            zone_id: "rank".into(),
            vehicle_class: "standard".into(),
            entered_at: NOW - Duration::seconds(1_000 - n),
            away_since: None,
            declines: 0,
        };
        (0..).zip(drivers).map(waiting).collect()
    }

    fn reasons(plan: &Plan) -> HashMap<DriverId, Reason> {
        let reasons: HashMap<_, _> = plan.verdicts.iter().map(|v| (v.driver_id, v.reason)).collect();
        assert_eq!(reasons.len(), plan.verdicts.len(), "two verdicts of one driver");
        reasons
    }

    #[tokio::test]
    async fn everybody_in_line_leaves_a_verdict_though_his_position_has_expired() {
        let [unheard, first, second] = std::array::from_fn(|_| DriverId::new());
        let free = Duty::Free;
        let fleet = fleet(&[(first, 500.0, "standard", free), (second, 100.0, "standard", free)]);
        let (map, queue) = (rank(), in_line(&[unheard, first, second]));
        let times = SpeedProfile::default();
        let lined = line_up(&fleet, &times, &rules(), (&map, &queue), vec![wanted(&[])], NOW).await;
        let expected = [(unheard, Reason::StalePosition), (first, Reason::Offered), (second, Reason::BehindInQueue)];
        assert_eq!(reasons(&lined.plans[0]), expected.into());
        assert_eq!(lined.plans[0].verdicts[0].distance_m, None);
    }

    /// Answers nobody before so many have asked.
    struct Together(Barrier);

    impl TravelTimes for Together {
        async fn to_pickup(&self, from: &[Point], _: Point, _: OffsetDateTime) -> Vec<u32> {
            self.0.wait().await;
            vec![77; from.len()]
        }
    }

    #[tokio::test]
    async fn the_ways_of_all_in_line_are_asked_for_at_once() {
        let ids: [DriverId; 3] = std::array::from_fn(|_| DriverId::new());
        let fleet = fleet(&ids.map(|id| (id, 100.0, "standard", Duty::Free)));
        let (map, queue, times) = (rank(), in_line(&ids), Together(Barrier::new(3)));
        let (rules, rides) = (rules(), [(); 3].map(|()| wanted(&[])).into());
        let lined = line_up(&fleet, &times, &rules, (&map, &queue), rides, NOW);
        let lined = tokio::time::timeout(std::time::Duration::from_secs(10), lined).await.expect("asked one by one");
        let asked = |plan: &Plan| plan.ask.clone();
        let expected = ids.map(|driver_id| vec![Ask { driver_id, eta_s: 77 }]);
        assert_eq!(lined.plans.iter().map(asked).collect::<Vec<_>>(), expected);
        assert_eq!(lined.plans[0].verdicts[0].pickup_eta_s, Some(77));
    }

    #[tokio::test]
    async fn where_nobody_in_line_can_go_it_is_said_beside_what_the_policy_says() {
        let [unheard, thinking, declined, van, outside] = std::array::from_fn(|_| DriverId::new());
        let fleet = fleet(&[
            (thinking, 100.0, "standard", Duty::Offered { until: NOW + Duration::seconds(5) }),
            (declined, 200.0, "standard", Duty::Free),
            (van, 300.0, "xl", Duty::Free),
            (outside, 1_500.0, "standard", Duty::Free),
        ]);
        let (map, queue) = (rank(), in_line(&[unheard, thinking, declined, van]));
        let (times, rides) = (SpeedProfile::default(), vec![wanted(&[(declined, Reason::DeclinedBefore)])]);
        let mut lined = line_up(&fleet, &times, &rules(), (&map, &queue), rides, NOW).await;
        assert!(lined.plans.is_empty());
        let mut plans = plan(&fleet, &times, &rules(), &lined.others, &[], NOW).await;
        lined.explain(&mut plans);
        let expected = [
            (unheard, Reason::StalePosition),
            (thinking, Reason::HasOffer),
            (declined, Reason::DeclinedBefore),
            (van, Reason::WrongVehicleClass),
            (outside, Reason::Offered),
        ];
        assert_eq!(reasons(&plans[0]), expected.into());
    }

    #[tokio::test]
    async fn of_a_long_line_who_is_asked_and_the_first_are_recorded() {
        let ids: Vec<_> = (0..300).map(|_| DriverId::new()).collect();
        let drivers: Vec<_> = ids.iter().map(|id| (*id, 100.0, "standard", Duty::Free)).collect();
        let asked: Vec<_> = ids[..250].iter().map(|id| (*id, Reason::DidNotAnswer)).collect();
        let (fleet, map, queue) = (fleet(&drivers), rank(), in_line(&ids));
        let times = SpeedProfile::default();
        let lined = line_up(&fleet, &times, &rules(), (&map, &queue), vec![wanted(&asked)], NOW).await;
        let reasons = reasons(&lined.plans[0]);
        assert_eq!(reasons.len(), EXPLAINED_IN_LINE + 1);
        assert!(ids[..EXPLAINED_IN_LINE].iter().all(|id| reasons[id] == Reason::DidNotAnswer));
        assert_eq!(reasons[&ids[250]], Reason::Offered);
    }
}
