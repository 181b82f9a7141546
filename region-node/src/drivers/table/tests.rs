use proptest::prelude::*;
use shared::ids::{RideId, RiderId};
use time::macros::datetime;
use uuid::Uuid;

use super::*;
use crate::drivers::{Addition, Terms};

const START: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
const CENTER: Point = Point::new(40.758, -73.9855);
const RULE: ShareRule = ShareRule { distance_m: 25.0, heartbeat: Duration::seconds(20) };

fn fleet() -> Fleet {
    Fleet::new(RULE)
}

fn driver(n: u128) -> DriverId {
    DriverId(Uuid::from_u128(n))
}

fn standing(online: bool, as_of: OffsetDateTime) -> Standing {
    Standing {
        online,
        vehicle_class: "standard".into(),
        idle_since: None,
        duty: Duty::Free,
        terms: Terms::default(),
        record: Record::NONE,
        as_of,
        duty_as_of: as_of,
    }
}

fn at(point: Point, recorded_at: OffsetDateTime) -> Position {
    Position { point, heading: None, recorded_at }
}

fn north_of(point: Point, metres: f64) -> Point {
    Point::new(point.lat + metres / 111_195.0, point.lng)
}

fn everyone(fleet: &Fleet, now: OffsetDateTime) -> Vec<DriverId> {
    fleet.search(CENTER, 20_000.0, 100, now, |_, _| true).iter().map(|found| found.driver_id).collect()
}

fn online_at(fleet: &Fleet, n: u128, point: Point, now: OffsetDateTime) -> DriverId {
    fleet.learn(driver(n), standing(true, START));
    fleet.observe(driver(n), &mut [at(point, now)], now);
    driver(n)
}

#[test]
fn a_stranger_s_position_waits_until_the_standing_is_known() {
    let fleet = fleet();
    assert_eq!(fleet.observe(driver(1), &mut [at(CENTER, START)], START), Observed::Stranger);
    fleet.learn(driver(1), standing(true, START));
    let moved = &[at(CENTER, START)];
    let mut said = [at(CENTER, START)];
    let known = fleet.observe(driver(1), &mut said, START);
    assert_eq!(known, Observed::Known { duty: Duty::Free, online: true, moved, before: Vec::new() });
    assert_eq!(everyone(&fleet, START), [driver(1)]);
}

#[test]
fn a_driver_who_moved_is_found_only_where_they_are_now() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    let there = north_of(CENTER, 8_000.0);
    fleet.observe(id, &mut [at(there, START + Duration::SECOND)], START + Duration::SECOND);
    let now = START + Duration::SECOND;
    assert!(fleet.search(CENTER, 2_000.0, 10, now, |_, _| true).is_empty());
    assert_eq!(fleet.search(there, 2_000.0, 10, now, |_, _| true)[0].position.point, there);
    assert_eq!(fleet.cells.len(), 1);
}

#[test]
fn a_driver_who_crosses_into_a_cell_yet_to_be_searched_is_found_once() {
    let fleet = fleet();
    // Strangers far away make the fleet large enough that cells are walked, not rows.
    for n in 1_000..1_400 {
        online_at(&fleet, n, Point::new(-33.0, 151.0), START);
    }
    let id = online_at(&fleet, 1, CENTER, START);
    for n in 100..164 {
        online_at(&fleet, n, north_of(CENTER, 1_200.0), START);
    }
    let has_left = std::cell::Cell::new(false);
    let leaves = |distance_m: f64| {
        // While one of those a ring away is looked at, unless his lock is the leaver's too, as it is not of all of them.
        if distance_m > 1_000.0 && !has_left.get() && !fleet.rows.try_get_mut(&id).is_locked() {
            fleet.observe(id, &mut [at(north_of(CENTER, 3_500.0), START)], START);
            has_left.set(true);
        }
    };
    let wanted = |_: &Standing, distance_m: f64| {
        leaves(distance_m);
        true
    };
    let found = fleet.search(CENTER, 5_000.0, 100, START, wanted);
    assert!(has_left.get());
    assert_eq!(found.iter().filter(|found| found.driver_id == id).count(), 1);
    assert_eq!(found.len(), 65);
    let again = fleet.search(CENTER, 5_000.0, 100, START, |_, _| true);
    assert_eq!(again.last().map(|found| found.driver_id), Some(id), "where he is now");
}

#[test]
fn an_offline_driver_is_not_found_though_positions_go_on() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    fleet.learn(id, standing(false, START + Duration::SECOND));
    fleet.observe(id, &mut [at(CENTER, START + Duration::seconds(2))], START + Duration::seconds(2));
    assert!(everyone(&fleet, START + Duration::seconds(2)).is_empty());
    assert!(fleet.cells.is_empty());
    fleet.learn(id, standing(true, START + Duration::seconds(3)));
    assert_eq!(everyone(&fleet, START + Duration::seconds(3)), [id]);
}

#[test]
fn an_expired_position_is_not_found_even_before_the_sweep() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    assert_eq!(everyone(&fleet, START + LIFE - Duration::SECOND), [id]);
    assert!(everyone(&fleet, START + LIFE).is_empty());
    fleet.sweep(START + LIFE);
    assert!(fleet.cells.is_empty() && fleet.rows.is_empty());
}

#[test]
fn a_duplicate_changes_nothing_and_an_older_position_is_dropped() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    let old = at(north_of(CENTER, 500.0), START - Duration::seconds(5));
    let mut said = [old];
    let Observed::Known { moved, .. } = fleet.observe(id, &mut said, START) else { panic!("known") };
    assert_eq!(moved, []);
    fleet.observe(id, &mut [at(CENTER, START)], START);
    assert_eq!(fleet.search(CENTER, 1_000.0, 10, START, |_, _| true)[0].position, at(CENTER, START));
    assert_eq!(fleet.rows.len(), 1);
}

#[test]
fn a_clock_a_minute_behind_makes_nobody_live() {
    let fleet = fleet();
    fleet.learn(driver(1), standing(true, START));
    fleet.observe(driver(1), &mut [at(CENTER, START - LIFE)], START);
    assert!(everyone(&fleet, START).is_empty());
}

#[test]
fn a_driver_whose_clock_stays_behind_is_found_and_one_who_repeats_an_old_place_is_not() {
    let fleet = fleet();
    let (slow, stuck) = (driver(1), driver(2));
    for id in [slow, stuck] {
        fleet.learn(id, standing(true, START));
    }
    for second in 0..60 {
        let now = START + Duration::seconds(second);
        let there = north_of(CENTER, f64::from(second as i32));
        fleet.observe(slow, &mut [at(there, now - Duration::seconds(100))], now);
        fleet.observe(stuck, &mut [at(CENTER, START - Duration::seconds(100))], now);
    }
    let now = START + Duration::seconds(59);
    assert_eq!(everyone(&fleet, now), [slow]);
    assert_eq!(fleet.sighting(slow, now).unwrap().position, Some(at(north_of(CENTER, 59.0), now)));
}

#[test]
fn of_a_device_whose_clock_is_ahead_what_is_sent_again_or_late_is_older_than_what_came_before() {
    let fleet = fleet();
    fleet.learn(driver(1), standing(true, START));
    let second = |second: i64| START + Duration::seconds(second);
    // Drives a metre a second; its clock is 30 s ahead.
    let said = |of: i64| at(north_of(CENTER, of as f64), second(of + 30));
    let meant = |of: i64| at(north_of(CENTER, of as f64), second(of));
    for (came, of, newest) in [(0, 0, 0), (1, 1, 1), (2, 0, 1), (3, 1, 1), (5, 4, 4), (5, 3, 4), (6, 6, 6), (7, 5, 6)] {
        fleet.observe(driver(1), &mut [said(of)], second(came));
        let known = fleet.sighting(driver(1), second(came)).unwrap().position;
        assert_eq!(known, Some(meant(newest)), "after the message of {of} at {came}");
    }
    let mut both = [said(7), said(8)];
    fleet.observe(driver(1), &mut both, second(8));
    assert_eq!(both, [meant(7), meant(8)], "intervals stay");
    fleet.observe(driver(1), &mut [at(CENTER, second(9))], second(9));
    assert_eq!(fleet.sighting(driver(1), second(9)).unwrap().position, Some(at(CENTER, second(9))), "no time given");
}

#[test]
fn a_place_repeated_for_ever_grows_old_though_the_device_s_clock_is_ahead() {
    let fleet = fleet();
    let id = driver(1);
    // At no full second, lest one message seem to be of that very moment.
    let frozen = at(CENTER, START + Duration::minutes(10) + Duration::MILLISECOND);
    for seconds in 0..700 {
        let now = START + Duration::seconds(seconds);
        if fleet.observe(id, &mut [frozen], now) == Observed::Stranger {
            fleet.learn(id, standing(true, START));
            fleet.observe(id, &mut [frozen], now);
        }
        assert_eq!(everyone(&fleet, now).len(), usize::from(seconds < 60), "after {seconds} s");
        if seconds % 5 == 0 {
            fleet.sweep(now);
        }
    }
    let silent = START + Duration::seconds(700) + Duration::MINUTE;
    fleet.sweep(silent);
    assert!(fleet.rows.is_empty());
}

#[test]
fn what_was_said_before_a_trip_was_heard_of_is_given_with_the_next_of_it() {
    let fleet = fleet();
    let second = |second: i64| START + Duration::seconds(second);
    let id = online_at(&fleet, 1, CENTER, START);
    for number in 1..20 {
        fleet.observe(id, &mut [at(CENTER, second(number))], second(number));
    }
    fleet.set_duty(id, Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() }, second(15));
    let said = || match fleet.observe(id, &mut [at(CENTER, second(20))], second(20)) {
        Observed::Known { before, .. } => before.iter().map(|position| position.recorded_at).collect::<Vec<_>>(),
        Observed::Stranger => panic!("known"),
    };
    assert_eq!(said(), (10..20).map(second).collect::<Vec<_>>(), "the last seconds");
    assert!(said().is_empty(), "once");
}

#[test]
fn the_later_knowledge_wins_whichever_arrives_first() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    let trip = Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() };
    fleet.set_duty(id, trip, START + Duration::seconds(5));
    fleet.set_duty(id, Duty::Free, START + Duration::seconds(4));
    assert_eq!(fleet.sighting(id, START).unwrap().standing.duty, trip);
    fleet.set_duty(id, Duty::Free, START + Duration::seconds(6));
    let standing = fleet.sighting(id, START).unwrap().standing;
    assert_eq!((standing.duty, standing.idle_since), (Duty::Free, Some(START + Duration::seconds(6))));
}

#[test]
fn another_node_s_older_sighting_overwrites_nothing() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    let before = fleet.sighting(id, START).unwrap();
    let old = Sighting {
        driver_id: id,
        standing: standing(false, START - Duration::SECOND),
        position: Some(at(north_of(CENTER, 900.0), START - Duration::SECOND)),
    };
    fleet.merge(old, START);
    assert_eq!(fleet.sighting(id, START).unwrap(), before);
}

#[test]
fn only_what_others_need_is_shared() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    assert_eq!(fleet.take_to_share(START).len(), 1);
    let step = |seconds: i64, metres: f64| {
        let now = START + Duration::seconds(seconds);
        fleet.observe(id, &mut [at(north_of(CENTER, metres), now)], now);
        fleet.take_to_share(now).len()
    };
    assert_eq!(step(1, 10.0), 0, "not far enough");
    assert_eq!(step(2, 30.0), 1, "moved");
    assert_eq!(step(10, 31.0), 0, "lately shared");
    assert_eq!(step(22, 31.0), 1, "heartbeat");
    fleet.share_all();
    assert_eq!(fleet.take_to_share(START).len(), 1, "all of it again");
    assert_eq!(fleet.take_to_store().len(), 1, "coalesced");
}

#[test]
fn what_did_not_reach_the_others_is_shared_again_once_and_as_it_is_by_then() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    // One whose place another node heard, whom `share_all` leaves out.
    fleet.merge(
        Sighting { driver_id: driver(2), standing: standing(true, START), position: Some(at(CENTER, START)) },
        START,
    );
    fleet.learn(driver(2), standing(false, START));
    let taken = fleet.take_to_share(START);
    assert_eq!(taken.len(), 2);
    fleet.learn(id, standing(false, START + Duration::SECOND));
    fleet.share_again(taken.iter().map(|sighting| sighting.driver_id));
    let again = fleet.take_to_share(START + Duration::SECOND);
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|sighting| !sighting.standing.online));
    assert!(fleet.take_to_share(START + Duration::SECOND).is_empty());
}

#[test]
fn what_one_node_shares_another_can_find() {
    let (here, there) = (fleet(), fleet());
    let id = online_at(&here, 1, CENTER, START);
    for sighting in here.take_to_share(START) {
        there.merge(sighting, START);
    }
    assert_eq!(everyone(&there, START), [id]);
    assert!(there.take_to_share(START).is_empty(), "what was heard from others is not passed on");
}

#[derive(Clone, Debug)]
enum Step {
    Move { driver: u8, north_m: f64, east_m: f64 },
    Online(u8),
    Offline(u8),
    Forget(u8),
    Wait(u8),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let spread = -6_000.0..6_000.0_f64;
    let step = prop_oneof![
        8 => (any::<u8>(), spread.clone(), spread)
            .prop_map(|(driver, north_m, east_m)| Step::Move { driver, north_m, east_m }),
        2 => any::<u8>().prop_map(Step::Online),
        1 => any::<u8>().prop_map(Step::Offline),
        1 => any::<u8>().prop_map(Step::Forget),
        1 => (0..20_u8).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happened, a search equals a look at every live position, and the index holds nobody else.
    #[test]
    fn a_search_equals_brute_force(steps in steps(), radius_m in 10.0..4_000.0_f64, limit in 1..30_usize) {
        let fleet = fleet();
        // Strangers far away make the fleet large enough that cells are walked, not rows.
        for n in 1_000..1_400 {
            online_at(&fleet, n, Point::new(-33.0, 151.0), START);
        }
        let mut truth = BTreeMap::new();
        let mut now = START;
        for step in steps {
            now += Duration::milliseconds(1);
            match step {
                Step::Move { driver: n, north_m, east_m } => {
                    let point = Point::new(CENTER.lat + north_m / 111_195.0, CENTER.lng + east_m / 84_000.0);
                    let position = at(point, now);
                    if let Observed::Known { online, .. } = fleet.observe(driver(n.into()), &mut [position], now) {
                        truth.insert(n, (online, Some(position)));
                    }
                }
                Step::Online(n) | Step::Offline(n) => {
                    let online = matches!(step, Step::Online(_));
                    fleet.learn(driver(n.into()), standing(online, now));
                    truth.entry(n).or_insert((online, None)).0 = online;
                }
                Step::Forget(n) => {
                    fleet.forget(driver(n.into()));
                    truth.remove(&n);
                }
                Step::Wait(seconds) => now += Duration::seconds(seconds.into()),
                Step::Sweep => {
                    fleet.sweep(now);
                    truth.retain(|_, (_, position)| position.is_some_and(|position| position.recorded_at > now - LIFE));
                }
            }
        }
        let mut expected: Vec<_> = truth
            .iter()
            .filter_map(|(n, (online, position))| position.filter(|_| *online).map(|position| (n, position)))
            .filter(|(_, position)| position.recorded_at > now - LIFE)
            .map(|(n, position)| (CENTER.distance_m(position.point), driver((*n).into())))
            .filter(|(distance_m, _)| *distance_m <= radius_m)
            .collect();
        expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        expected.truncate(limit);
        let found: Vec<_> =
            fleet.search(CENTER, radius_m, limit, now, |_, _| true).iter().map(|f| (f.distance_m, f.driver_id)).collect();
        prop_assert_eq!(found, expected);

        let indexed: usize = fleet.cells.iter().map(|cell| cell.len()).sum();
        let indexable = fleet.rows.iter().filter(|row| row.cell.is_some()).count();
        prop_assert_eq!(indexed, indexable);
        for row in fleet.rows.iter() {
            let right = row.position.filter(|_| row.standing.online).map(|position| cells::cell_of(position.point));
            prop_assert_eq!(row.cell, right);
        }
    }
}

#[test]
fn a_node_that_has_not_heard_a_driver_went_offline_does_not_bring_him_back_by_telling_of_a_trip() {
    let (here, there) = (fleet(), fleet());
    let id = online_at(&here, 1, CENTER, START);
    online_at(&there, 1, CENTER, START);
    let (left_at, freed_at) = (START + Duration::seconds(1), START + Duration::seconds(2));
    here.learn(id, standing(false, left_at));
    // The other node hears of the trip's end first, and tells of what it knows.
    there.set_duty(id, Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() }, START);
    there.set_duty(id, Duty::Free, freed_at);
    here.merge(there.sighting(id, freed_at).unwrap(), freed_at);
    assert!(everyone(&here, freed_at).is_empty());
    there.merge(here.sighting(id, freed_at).unwrap(), freed_at);
    assert!(everyone(&there, freed_at).is_empty());
}

#[test]
fn an_offer_s_end_heard_late_does_not_end_the_trip_that_came_after_it() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    let trip = Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() };
    let (withdrawn_at, accepted_at) = (START + Duration::seconds(1), START + Duration::seconds(2));
    fleet.set_duty(id, trip, accepted_at);
    fleet.set_duty(id, Duty::Free, withdrawn_at);
    assert_eq!(fleet.sighting(id, accepted_at).unwrap().standing.duty, trip);
}

#[test]
fn a_step_of_a_trip_that_says_nothing_new_is_not_shared_again() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    let trip = Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() };
    fleet.set_duty(id, trip, START);
    assert_eq!(fleet.take_to_share(START).len(), 1);
    fleet.set_duty(id, trip, START + Duration::SECOND);
    assert!(fleet.take_to_share(START).is_empty());
}

#[test]
fn of_two_records_the_later_counts_whatever_order_they_come_in() {
    let fleet = fleet();
    let id = online_at(&fleet, 1, CENTER, START);
    let early = Record::NONE.plus(Addition::REFUSED, START);
    let late = early.plus(Addition::ACCEPTED, START + Duration::SECOND);
    let known = |fleet: &Fleet| fleet.sighting(id, START).unwrap().standing.record;
    fleet.set_record(id, late);
    fleet.set_record(id, early);
    assert_eq!(known(&fleet), late);
    let sighting = Sighting {
        standing: Standing { record: early, ..standing(true, START) },
        ..fleet.sighting(id, START).unwrap()
    };
    fleet.merge(sighting, START);
    assert_eq!(known(&fleet), late);
    // Nobody told of it: Postgres knows.
    let later = late.plus(Addition::ACCEPTED, START + Duration::MINUTE);
    fleet.correct(id, Standing { record: later, ..standing(true, START) });
    assert_eq!(known(&fleet), later);
}

#[test]
fn half_of_the_online_drivers_have_earned_at_most_the_median() {
    let fleet = fleet();
    for n in 0..5 {
        let id = online_at(&fleet, n, CENTER, START);
        fleet.set_record(id, Record::NONE.plus(Addition::earned(1_000 * n as i64), START));
    }
    let record = Record::NONE.plus(Addition::earned(1_000_000), START);
    fleet.learn(driver(9), Standing { record, ..standing(false, START) });
    assert_eq!(fleet.median_earned(START), 2_000.0);
}
