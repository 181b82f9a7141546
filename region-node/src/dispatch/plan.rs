//! Who could take a ride and who is to be asked: looks at the live table, never at the database, and changes nothing.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use shared::{
    geo::Point,
    ids::{DriverId, RideId},
    tenant_config::DispatchPolicy,
};
use time::OffsetDateTime;

use super::{
    acceptance,
    chain::Arriving,
    cost::{Costs, Person},
    gate::{gate, takes_too_long},
    group::groups,
    policy::{Candidate, Matching, Request, assign},
    reason::Reason,
};
use crate::{
    drivers::{Fleet, Found, LIFE, Search, Standing, cell_of},
    travel::TravelTimes,
};

/// Drivers of a ride who may be chosen. More would not change who is nearest, but the size of the assignment. Where several
/// rides begin in one place there is one more for each of the others, up to the larger number: they compete for the same.
const CHOICES: usize = 12;
const MOST_CHOICES: usize = 50;
/// The nearest of all are looked at too, so many more than may be chosen, to say why they are not.
const EXPLAINED: usize = 12;
/// Drivers about to end a trip who may be chosen for one ride, besides those who are free.
pub(super) const ARRIVING: usize = 4;
/// Drivers looked at for each who may be chosen: one some way off may have waited so long for work that the ride is his.
///
/// Everybody looked at leaves a verdict, some 100 bytes in Postgres. A look at a ride thus leaves at most
/// `(LOOKED_AT + 1) * choices + EXPLAINED + LOOKED_AT * ARRIVING` of them, besides those asked before: 88 for a ride alone,
/// 278 in the largest crowd.
pub(super) const LOOKED_AT: usize = 4;
/// Rides whose travel times are asked for at once, should they come from elsewhere.
pub(super) const ASKED_AT_ONCE: usize = 32;
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
    /// How many more offers may be made for it.
    pub offers_left: usize,
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
    /// From the pick-up, as the crow flies; unknown of who has not been heard of for too long.
    pub distance_m: Option<u32>,
}

/// A driver to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who.
    pub driver_id: DriverId,
    /// Seconds to the pick-up.
    pub eta_s: u32,
}

/// What is to be done for one ride.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which.
    pub ride_id: RideId,
    /// Whom to ask; more than one only where the tenant's policy says so, and then the best first.
    pub ask: Vec<Ask>,
    /// Every candidate.
    pub verdicts: Vec<Verdict>,
}

/// Plans for the rides of one window, in the order they were asked for, among those who are free and those about to be.
pub async fn plan(
    fleet: &Fleet,
    travel: &impl TravelTimes,
    rules: &DispatchPolicy,
    rides: &[Wanted],
    arriving: &[Arriving],
    now: OffsetDateTime,
) -> Vec<Plan> {
    let mut numbers: HashMap<DriverId, usize> = HashMap::new();
    let mut matching = Matching::default();
    let most = choices(rides.iter().map(|ride| ride.pickup));
    let costs = Costs { rules, median_earned: fleet.median_earned(now) };
    let look = |(ride, most)| look_around(fleet, costs, ride, most, arriving, now);
    let mut looks: Vec<Look> = rides.iter().zip(most).map(look).collect();
    let mut etas = Vec::with_capacity(rides.len());
    for some in rides.iter().zip(&looks).collect::<Vec<_>>().chunks(ASKED_AT_ONCE) {
        let ask = some.iter().map(|(ride, look)| async move {
            let places: Vec<Point> = look.choices.iter().map(|choice| choice.found.position.point).collect();
            let ways_s = travel.to_pickup(&places, ride.pickup, now).await;
            look.choices.iter().zip(ways_s).map(|(choice, way_s)| choice.free_in_s.saturating_add(way_s)).collect()
        });
        etas.extend(join_all(ask).await);
    }
    for ((ride, look), etas) in rides.iter().zip(&mut looks).zip(etas) {
        let etas = look.leave_out_the_slow(rules, etas);
        let candidates = look.choices.iter().zip(etas).map(|(Choice { found, .. }, eta_s)| {
            let next = numbers.len();
            let cost_s = costs.cost_s(eta_s, person(&found.standing, now));
            Candidate { driver: *numbers.entry(found.driver_id).or_insert(next), eta_s, cost_s }
        });
        let candidates = candidates.collect();
        matching.requests.push(Request { waited: now - ride.waits_since, candidates });
    }
    let (matching, chosen) = assign(rules.mode, matching).await;
    let group_size = usize::try_from(rules.group_size).unwrap_or(usize::MAX);
    let most: Vec<usize> = rides.iter().map(|ride| ride.offers_left.clamp(1, group_size.max(1))).collect();
    let groups = groups(rules.mode, &matching, &chosen, &most);
    let mut plans = Vec::with_capacity(rides.len());
    for (((ride, look), request), group) in rides.iter().zip(looks).zip(&matching.requests).zip(groups) {
        let candidates = &request.candidates;
        let choices = look.choices.iter().zip(candidates).enumerate().map(|(index, (choice, candidate))| Verdict {
            driver_id: choice.found.driver_id,
            reason: if group.contains(&index) { Reason::Offered } else { Reason::NotChosen },
            pickup_eta_s: Some(candidate.eta_s),
            distance_m: Some(whole_metres(choice.found.distance_m)),
        });
        let ask =
            |index: &usize| Ask { driver_id: look.choices[*index].found.driver_id, eta_s: candidates[*index].eta_s };
        let ask = group.iter().map(ask).collect();
        plans.push(Plan { ride_id: ride.ride_id, ask, verdicts: choices.chain(look.others).collect() });
    }
    plans
}

/// How many drivers of each ride may be chosen, given where they begin.
pub(super) fn choices(pickups: impl Iterator<Item = Point>) -> Vec<usize> {
    let cells: Vec<_> = pickups.map(cell_of).collect();
    let mut in_cell: HashMap<_, usize> = HashMap::new();
    for cell in &cells {
        *in_cell.entry(*cell).or_default() += 1;
    }
    cells.iter().map(|cell| (CHOICES - 1 + in_cell[cell]).min(MOST_CHOICES)).collect()
}

/// What counts of a driver besides the way.
fn person(standing: &Standing, now: OffsetDateTime) -> Person {
    let record = standing.record.at(now);
    Person {
        idle: now - standing.idle_since.unwrap_or(now),
        acceptance: acceptance::probability(&record),
        earned: record.earned,
    }
}

struct Look {
    choices: Vec<Choice>,
    others: Vec<Verdict>,
}

/// A driver who may be chosen.
struct Choice {
    found: Found,
    /// After the trip that ends first.
    free_in_s: u32,
}

impl Look {
    /// Moves those who would need too long to those who cannot be asked; the times of the others.
    fn leave_out_the_slow(&mut self, rules: &DispatchPolicy, etas: Vec<u32>) -> Vec<u32> {
        let mut kept = Vec::with_capacity(etas.len());
        let mut etas = etas.into_iter();
        let others = &mut self.others;
        self.choices.retain(|Choice { found, .. }| {
            let Some(eta_s) = etas.next() else { return false };
            let too_long = takes_too_long(eta_s, rules);
            if too_long {
                others.push(Verdict {
                    driver_id: found.driver_id,
                    reason: Reason::PickupTooLong,
                    pickup_eta_s: Some(eta_s),
                    distance_m: Some(whole_metres(found.distance_m)),
                });
            } else {
                kept.push(eta_s);
            }
            !too_long
        });
        kept
    }
}

/// The drivers around a pick-up: those who may be chosen, and all others looked at, with the reason. Rings widen until there are
/// enough of the first; nobody beyond the tenant's radius is asked.
fn look_around(
    fleet: &Fleet,
    costs: Costs<'_>,
    ride: &Wanted,
    most: usize,
    arriving: &[Arriving],
    now: OffsetDateTime,
) -> Look {
    let rules = costs.rules;
    let radius_m = f64::from(rules.radius_m);
    let gate = |standing: &Standing, distance_m: f64| gate(standing, distance_m, &ride.vehicle_class, rules, now);
    let may_be_asked = |standing: &Standing, distance_m: f64| gate(standing, distance_m).is_none();
    let was_asked = |found: &Found| ride.asked.contains_key(&found.driver_id);
    let free = Search { radius_m, limit: LOOKED_AT * most + ride.asked.len(), wanted: &may_be_asked };
    let around = Search { radius_m: radius_m * EXPLAINED_RADIUS, limit: most + EXPLAINED, wanted: &|_, _| true };
    let [free, around] = fleet.search_each(ride.pickup, now, [free, around]);
    let (asked, mut free): (Vec<_>, Vec<_>) = free.into_iter().partition(was_asked);
    free.sort_by_cached_key(|found| costs.guess_s(found.distance_m, person(&found.standing, now)));
    let farther = free.split_off(most.min(free.len()));
    let is_free = |id: DriverId| free.iter().any(|found| found.driver_id == id);
    let soon = arriving.iter().filter(|arriving| !is_free(arriving.driver_id));
    let soon = soon.map(|arriving| (arriving.found_from(ride.pickup, now), arriving.remaining_s));
    let may_follow = |(found, _): &(Found, u32)| !was_asked(found) && may_be_asked(&found.standing, found.distance_m);
    let mut soon: Vec<_> = soon.filter(may_follow).collect();
    soon.sort_by(|(a, _), (b, _)| a.distance_m.total_cmp(&b.distance_m).then(a.driver_id.cmp(&b.driver_id)));
    soon.truncate(LOOKED_AT * ARRIVING);
    let later = soon.split_off(ARRIVING.min(soon.len()));
    let free = free.into_iter().map(|found| (found, 0));
    let choices: Vec<_> = free.chain(soon).map(|(found, free_in_s)| Choice { found, free_in_s }).collect();
    let explain = |found: Found| {
        let reason = gate(&found.standing, found.distance_m)
            .or_else(|| ride.asked.get(&found.driver_id).copied())
            .unwrap_or(Reason::NotChosen);
        let distance_m = Some(whole_metres(found.distance_m));
        Verdict { driver_id: found.driver_id, reason, pickup_eta_s: None, distance_m }
    };
    let mut said: HashSet<DriverId> = choices.iter().map(|choice| choice.found.driver_id).collect();
    // Who could have been asked at the end of a trip is not just busy.
    let others = farther.into_iter().chain(later.into_iter().map(|(found, _)| found)).chain(asked).chain(around);
    let others = others.filter(|found| said.insert(found.driver_id)).map(explain).collect();
    Look { choices, others }
}

/// Whether a driver chosen a moment ago can still be found: planning may have waited for travel times.
pub(super) fn is_still_there(fleet: &Fleet, driver_id: DriverId, now: OffsetDateTime) -> Option<Reason> {
    match fleet.sighting(driver_id, now) {
        Some(sighting) if !sighting.standing.online => Some(Reason::Offline),
        Some(sighting) if sighting.position.is_some_and(|position| position.recorded_at > now - LIFE) => None,
        Some(_) | None => Some(Reason::StalePosition),
    }
}

pub(super) fn whole_metres(distance_m: f64) -> u32 {
    // Below half the globe; a cast from a float saturates anyway.
    distance_m.round() as u32
}

#[cfg(test)]
pub(super) mod tests {
    use shared::{ids::RiderId, tenant_config::DispatchMode};
    use time::{Duration, macros::datetime};

    use super::*;
    use crate::{
        drivers::{Addition, Duty, LiveTable, Position, Record, ShareRule, Terms},
        travel::SpeedProfile,
    };

    pub(crate) const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
    pub(crate) const PICKUP: Point = Point::new(40.758, -73.9855);

    pub(crate) fn rules() -> DispatchPolicy {
        DispatchPolicy { radius_m: 3_000, ..DispatchPolicy::default() }
    }

    /// Drivers so many metres north of where rides begin.
    pub(crate) fn fleet(drivers: &[(DriverId, f64, &str, Duty)]) -> std::sync::Arc<Fleet> {
        let table = LiveTable::new(ShareRule { distance_m: 25.0, heartbeat: Duration::seconds(20) });
        let fleet = table.fleet(&"cabs".parse().unwrap());
        for (id, north_m, class, duty) in drivers {
            let vehicle_class = (*class).into();
            let standing = Standing {
                online: true,
                vehicle_class,
                idle_since: None,
                duty: *duty,
                terms: Terms::default(),
                record: Record::NONE,
                as_of: NOW,
                duty_as_of: NOW,
            };
            fleet.learn(*id, standing);
            let point = Point::new(PICKUP.lat + north_m / 111_195.0, PICKUP.lng);
            fleet.observe(*id, &mut [Position { point, heading: None, recorded_at: NOW }], NOW);
        }
        fleet
    }

    pub(crate) fn wanted(asked: &[(DriverId, Reason)]) -> Wanted {
        Wanted {
            ride_id: RideId::new(),
            waits_since: NOW,
            pickup: PICKUP,
            vehicle_class: "standard".into(),
            asked: asked.iter().copied().collect(),
            offers_left: 8,
        }
    }

    fn who(plan: &Plan) -> Vec<DriverId> {
        plan.ask.iter().map(|ask| ask.driver_id).collect()
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
        let plans = plan(&fleet, &SpeedProfile::default(), &rules(), &rides, &[], NOW).await;
        assert_eq!(who(&plans[0]), [near]);
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
    async fn each_of_sixty_drivers_looked_at_leaves_one_verdict_and_so_does_who_is_nearer_than_the_one_asked() {
        let ids: Vec<_> = (0..60).map(|_| DriverId::new()).collect();
        let drivers: Vec<_> =
            ids.iter().zip(1..).map(|(id, n)| (*id, f64::from(n) * 40.0, "standard", Duty::Free)).collect();
        let (fleet, idle) = (fleet(&drivers), ids[40]);
        let standing = fleet.sighting(idle, NOW).unwrap().standing;
        fleet.learn(idle, Standing { idle_since: Some(NOW - Duration::minutes(30)), ..standing });
        // So many more are looked at as were asked before: all sixty.
        let asked: Vec<_> = ids[..12].iter().map(|id| (*id, Reason::DidNotAnswer)).collect();
        let plans = plan(&fleet, &SpeedProfile::default(), &rules(), &[wanted(&asked)], &[], NOW).await;
        assert_eq!(who(&plans[0]), [idle]);
        let reasons: HashMap<_, _> = plans[0].verdicts.iter().map(|v| (v.driver_id, v.reason)).collect();
        assert_eq!(plans[0].verdicts.len(), reasons.len());
        let expected = ids.iter().enumerate().map(|(n, id)| match n {
            0..12 => (*id, Reason::DidNotAnswer),
            40 => (*id, Reason::Offered),
            _ => (*id, Reason::NotChosen),
        });
        assert_eq!(reasons, expected.collect());
    }

    #[tokio::test]
    async fn two_rides_of_one_window_never_share_a_driver() {
        let (a, b) = (DriverId::new(), DriverId::new());
        let fleet = fleet(&[(a, 100.0, "standard", Duty::Free), (b, 2_000.0, "standard", Duty::Free)]);
        let plans =
            plan(&fleet, &SpeedProfile::default(), &rules(), &[wanted(&[]), wanted(&[]), wanted(&[])], &[], NOW).await;
        let mut asked: Vec<_> = plans.iter().flat_map(who).collect();
        asked.sort();
        assert_eq!(asked, [a, b]);
    }

    #[tokio::test]
    async fn with_all_near_drivers_asked_before_the_next_is_asked() {
        let ids: Vec<_> = (0..30).map(|_| DriverId::new()).collect();
        let drivers: Vec<_> =
            ids.iter().zip(1..).map(|(id, n)| (*id, f64::from(n) * 50.0, "standard", Duty::Free)).collect();
        let asked: Vec<_> = ids[..20].iter().map(|id| (*id, Reason::DidNotAnswer)).collect();
        let plans = plan(&fleet(&drivers), &SpeedProfile::default(), &rules(), &[wanted(&asked)], &[], NOW).await;
        assert_eq!(who(&plans[0]), [ids[20]]);
    }

    #[tokio::test]
    async fn who_refuses_is_asked_after_who_accepts_though_he_is_a_little_nearer() {
        let (choosy, willing) = (DriverId::new(), DriverId::new());
        let fleet = fleet(&[(choosy, 300.0, "standard", Duty::Free), (willing, 400.0, "standard", Duty::Free)]);
        let asked = async |rules: DispatchPolicy| {
            who(&plan(&fleet, &SpeedProfile::default(), &rules, &[wanted(&[])], &[], NOW).await[0])
        };
        assert_eq!(asked(rules()).await, [choosy]);
        let refused = (0..20).fold(Record::NONE, |record, _| record.plus(Addition::REFUSED, NOW));
        fleet.set_record(choosy, refused);
        assert_eq!(asked(rules()).await, [willing]);
        assert_eq!(asked(DispatchPolicy { refusal_cost_cap_s: 0, ..rules() }).await, [choosy]);
        assert_eq!(asked(DispatchPolicy { mode: DispatchMode::Nearest, ..rules() }).await, [choosy]);
    }

    #[tokio::test]
    async fn of_two_as_near_the_one_who_earned_less_is_asked() {
        let [rich, poor, third] = std::array::from_fn(|_| DriverId::new());
        let fleet = fleet(&[
            (rich, 300.0, "standard", Duty::Free),
            (poor, 310.0, "standard", Duty::Free),
            (third, 2_900.0, "standard", Duty::Free),
        ]);
        for id in [rich, third] {
            fleet.set_record(id, Record::NONE.plus(Addition::earned(5_000), NOW));
        }
        let asked = async |rules: DispatchPolicy| {
            who(&plan(&fleet, &SpeedProfile::default(), &rules, &[wanted(&[])], &[], NOW).await[0])
        };
        assert_eq!(asked(rules()).await, [poor]);
        assert_eq!(asked(DispatchPolicy { fairness_bonus_s: 0, ..rules() }).await, [rich]);
    }

    #[tokio::test]
    async fn a_group_is_the_best_few_as_many_as_may_still_be_asked() {
        let ids: Vec<_> = (0..6).map(|_| DriverId::new()).collect();
        let drivers: Vec<_> =
            ids.iter().zip(1..).map(|(id, n)| (*id, f64::from(n) * 100.0, "standard", Duty::Free)).collect();
        let (fleet, rules) = (fleet(&drivers), DispatchPolicy { group_size: 3, ..rules() });
        let plans = plan(&fleet, &SpeedProfile::default(), &rules, &[wanted(&[])], &[], NOW).await;
        assert_eq!(who(&plans[0]), ids[..3]);
        let offered = plans[0].verdicts.iter().filter(|verdict| verdict.reason == Reason::Offered);
        assert_eq!(offered.count(), 3);
        let last = Wanted { offers_left: 2, ..wanted(&[]) };
        let plans = plan(&fleet, &SpeedProfile::default(), &rules, &[last], &[], NOW).await;
        assert_eq!(who(&plans[0]), ids[..2]);
    }

    #[tokio::test]
    async fn who_needs_too_long_is_not_asked_and_it_says_so() {
        let (near, slow) = (DriverId::new(), DriverId::new());
        let fleet = fleet(&[(near, 100.0, "standard", Duty::Free), (slow, 2_900.0, "standard", Duty::Free)]);
        let rules = DispatchPolicy { max_pickup_s: Some(120), ..rules() };
        let rides = [wanted(&[(near, Reason::DeclinedBefore)])];
        let plans = plan(&fleet, &SpeedProfile::default(), &rules, &rides, &[], NOW).await;
        assert!(plans[0].ask.is_empty());
        let verdict = plans[0].verdicts.iter().find(|verdict| verdict.driver_id == slow).unwrap();
        assert!(verdict.reason == Reason::PickupTooLong && verdict.pickup_eta_s.is_some_and(|eta_s| eta_s > 120));
    }

    #[test]
    fn a_ride_alone_has_few_choices_and_one_in_a_crowd_has_more() {
        let elsewhere = Point::new(40.80, -73.95);
        let mut pickups = vec![PICKUP; 20];
        pickups.push(elsewhere);
        let most = choices(pickups.into_iter());
        assert_eq!((most[0], most[20]), (31, 12));
        assert!(choices(std::iter::repeat_n(PICKUP, 500)).iter().all(|most| *most == 50));
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
