//! Who joins a queue, who leaves it, and who is to hear of a new place. Pure: no database, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{ids::DriverId, zone::Zone};
use time::{Duration, OffsetDateTime};

use super::{map::ZoneMap, place::QueuePlace};
use crate::drivers::{Duty, Fleet, Sighting, Standing};

/// More free drivers than this at one zone are not looked at; those farthest from its middle wait for the next look.
const MOST_AT_A_ZONE: usize = 5_000;
/// A driver hears of a new place at most so often.
const TELL_EVERY: Duration = Duration::seconds(5);

/// A driver in a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Who.
    pub driver_id: DriverId,
    /// In which zone's.
    pub zone_id: String,
    /// In what; a ride is for those who drive its class, in order.
    pub vehicle_class: String,
    /// Decides the place.
    pub entered_at: OffsetDateTime,
    /// Since when too far outside, or out of sight.
    pub away_since: Option<OffsetDateTime>,
    /// Rides of the queue refused since.
    pub declines: i32,
}

/// What has changed of a queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Changes {
    /// Who joins which zone.
    pub(super) join: Vec<(DriverId, String)>,
    pub(super) leave: Vec<DriverId>,
    pub(super) away: Vec<DriverId>,
    pub(super) back: Vec<DriverId>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares the queues with where drivers are at `now`.
pub(super) fn changes(map: &ZoneMap, queue: &[Waiting], fleet: &Fleet, now: OffsetDateTime) -> Changes {
    let mut changes = Changes::default();
    for waiting in queue {
        let id = waiting.driver_id;
        let zone = map.queue(&waiting.zone_id);
        match whereabouts(zone, fleet.sighting(id, now), now) {
            Whereabouts::Gone => changes.leave.push(id),
            Whereabouts::Near if waiting.away_since.is_some() => changes.back.push(id),
            Whereabouts::Near => {}
            Whereabouts::Away { for_at_most } => match waiting.away_since {
                Some(since) if now - since >= for_at_most => changes.leave.push(id),
                Some(_) => {}
                None if for_at_most.is_zero() => changes.leave.push(id),
                None => changes.away.push(id),
            },
        }
    }
    let waits: BTreeSet<DriverId> = queue.iter().map(|waiting| waiting.driver_id).collect();
    for zone in map.queues() {
        let (middle, radius_m) = zone.area.bounds();
        let is_free = |standing: &Standing, _| standing.duty.at(now) == Duty::Free;
        for found in fleet.search(middle, radius_m, MOST_AT_A_ZONE, now, is_free) {
            let is_inside = map.queue_at(found.position.point).is_some_and(|at| at.id == zone.id);
            if is_inside && !waits.contains(&found.driver_id) {
                changes.join.push((found.driver_id, zone.id.clone()));
            }
        }
    }
    changes.join.sort();
    changes
}

enum Whereabouts {
    /// Has no place any more.
    Gone,
    /// In the zone, or so little outside that the position may be to blame.
    Near,
    /// Farther outside, or out of sight.
    Away { for_at_most: Duration },
}

fn whereabouts(zone: Option<&Zone>, sighting: Option<Sighting>, now: OffsetDateTime) -> Whereabouts {
    let Some(zone) = zone else { return Whereabouts::Gone };
    let away = Whereabouts::Away { for_at_most: Duration::seconds(zone.leave_after_s.into()) };
    let Some(Sighting { standing, position, .. }) = sighting else { return away };
    match (standing.online, standing.duty.at(now), position) {
        (false, _, _) | (_, Duty::OnTrip { .. }, _) => Whereabouts::Gone,
        (true, _, Some(position)) if zone.area.depth_m(position.point) >= -f64::from(zone.leave_margin_m) => {
            Whereabouts::Near
        }
        (true, _, _) => away,
    }
}

/// The place of each, among those with the same class of vehicle; `queue` in order.
pub(super) fn places(map: &ZoneMap, queue: &[Waiting]) -> BTreeMap<DriverId, QueuePlace> {
    let mut counted: HashMap<(&str, &str), u32> = HashMap::new();
    let mut places = BTreeMap::new();
    for waiting in queue {
        let Some(zone) = map.queue(&waiting.zone_id) else { continue };
        let place = counted.entry((waiting.zone_id.as_str(), waiting.vehicle_class.as_str())).or_default();
        *place += 1;
        let (zone_id, name) = (zone.id.clone(), zone.name.clone());
        places.insert(waiting.driver_id, QueuePlace { zone_id, name, place: *place, entered_at: waiting.entered_at });
    }
    places
}

/// What a driver was last told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    place: QueuePlace,
    at: OffsetDateTime,
}

/// Who is to hear of which place now; of none: not in a queue any more. Who was told a moment ago hears of it later.
pub(super) fn news(
    told: &mut HashMap<DriverId, Told>,
    places: &BTreeMap<DriverId, QueuePlace>,
    now: OffsetDateTime,
) -> Vec<(DriverId, Option<QueuePlace>)> {
    let mut news = Vec::new();
    told.retain(|driver_id, _| {
        let waits = places.contains_key(driver_id);
        if !waits {
            news.push((*driver_id, None));
        }
        waits
    });
    news.sort_by_key(|(driver_id, _)| *driver_id);
    for (driver_id, place) in places {
        let is_known = told.get(driver_id).is_some_and(|told| told.place == *place || now - told.at < TELL_EVERY);
        if !is_known {
            told.insert(*driver_id, Told { place: place.clone(), at: now });
            news.push((*driver_id, Some(place.clone())));
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use shared::{
        geo::Point,
        ids::{RideId, RiderId},
    };
    use time::macros::datetime;

    use super::*;
    use crate::drivers::{LiveTable, Position, Record, ShareRule, Terms};

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const RANK: Point = Point::new(40.645, -73.785);

    fn map() -> ZoneMap {
        let area = json!({"circle": {"center": {"lat": RANK.lat, "lng": RANK.lng}, "radius_m": 500}});
        ZoneMap::new(&[
            serde_json::from_value(json!({"id": "jfk", "name": "JFK", "area": area, "queue": true})).unwrap()
        ])
    }

    fn fleet() -> Arc<Fleet> {
        let rule = ShareRule { distance_m: 25.0, heartbeat: Duration::seconds(20) };
        LiveTable::new(rule).fleet(&"cabs".parse().unwrap())
    }

    /// Puts a driver so many metres north of the rank's middle.
    fn put(fleet: &Fleet, driver_id: DriverId, north_m: f64, at: OffsetDateTime) {
        if fleet.sighting(driver_id, at).is_none() {
            tell(fleet, driver_id, true, Duty::Free, at);
        }
        let point = Point::new(RANK.lat + north_m / 111_195.0, RANK.lng);
        fleet.observe(driver_id, &mut [Position { point, heading: None, recorded_at: at }], at);
    }

    fn tell(fleet: &Fleet, driver_id: DriverId, online: bool, duty: Duty, at: OffsetDateTime) {
        let (vehicle_class, terms) = ("standard".into(), Terms::default());
        let (as_of, duty_as_of, record) = (at, at, Record::NONE);
        fleet.learn(
            driver_id,
            Standing { online, vehicle_class, idle_since: None, duty, terms, record, as_of, duty_as_of },
        );
    }

    fn waiting(driver_id: DriverId, entered_at: OffsetDateTime) -> Waiting {
        let (zone_id, vehicle_class) = ("jfk".to_owned(), "standard".to_owned());
        Waiting { driver_id, zone_id, vehicle_class, entered_at, away_since: None, declines: 0 }
    }

    fn seconds(seconds: i64) -> OffsetDateTime {
        NOW + Duration::seconds(seconds)
    }

    #[test]
    fn a_free_driver_inside_joins_and_nobody_else() {
        let (fleet, map) = (fleet(), map());
        let [inside, outside, busy, offline] = std::array::from_fn(|_| DriverId::new());
        put(&fleet, inside, 400.0, NOW);
        put(&fleet, outside, 510.0, NOW);
        put(&fleet, busy, 100.0, NOW);
        tell(&fleet, busy, true, Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() }, NOW);
        put(&fleet, offline, 100.0, NOW);
        tell(&fleet, offline, false, Duty::Free, NOW);
        let changes = changes(&map, &[], &fleet, NOW);
        assert_eq!(changes, Changes { join: vec![(inside, "jfk".into())], ..Changes::default() });
    }

    #[test]
    fn a_position_that_jumps_at_the_edge_costs_nothing() {
        let (fleet, map, id) = (fleet(), map(), DriverId::new());
        let mut queue = [waiting(id, NOW)];
        // Up to the margin of 150 m it is as good as inside, and beyond it for less than a minute too.
        for (second, north_m) in [(0, 490.0), (5, 640.0), (10, 520.0), (15, 900.0), (40, 660.0), (70, 495.0)] {
            put(&fleet, id, north_m, seconds(second));
            let changes = changes(&map, &queue, &fleet, seconds(second));
            assert!(changes.leave.is_empty() && changes.join.is_empty(), "{second}: {changes:?}");
            if !changes.away.is_empty() {
                queue[0].away_since = Some(seconds(second));
            }
            if !changes.back.is_empty() {
                queue[0].away_since = None;
            }
        }
        assert_eq!(queue[0].away_since, None);
    }

    #[test]
    fn who_stays_away_or_out_of_sight_for_a_minute_leaves() {
        let (fleet, map, [far, unseen]) = (fleet(), map(), std::array::from_fn(|_| DriverId::new()));
        put(&fleet, far, 700.0, NOW);
        let queue = [waiting(far, NOW), waiting(unseen, NOW)];
        assert_eq!(changes(&map, &queue, &fleet, NOW).away, [far, unseen]);
        let queue = queue.map(|waiting| Waiting { away_since: Some(NOW), ..waiting });
        put(&fleet, far, 700.0, seconds(59));
        assert!(changes(&map, &queue, &fleet, seconds(59)).is_empty());
        assert_eq!(changes(&map, &queue, &fleet, seconds(60)).leave, [far, unseen]);
    }

    #[test]
    fn who_goes_offline_or_takes_a_ride_leaves_at_once_and_so_does_everybody_of_a_zone_that_is_no_more() {
        let (fleet, map, [offline, busy, asked]) = (fleet(), map(), std::array::from_fn(|_| DriverId::new()));
        for id in [offline, busy, asked] {
            put(&fleet, id, 0.0, NOW);
        }
        tell(&fleet, offline, false, Duty::Free, NOW);
        tell(&fleet, busy, true, Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() }, NOW);
        tell(&fleet, asked, true, Duty::Offered { until: seconds(10) }, NOW);
        let queue = [offline, busy, asked].map(|id| waiting(id, NOW));
        assert_eq!(changes(&map, &queue, &fleet, NOW).leave, [offline, busy]);
        assert_eq!(changes(&ZoneMap::default(), &queue, &fleet, NOW).leave, [offline, busy, asked]);
    }

    #[test]
    fn places_are_counted_by_class_of_vehicle() {
        let [a, van, b] = std::array::from_fn(|_| DriverId::new());
        let queue =
            [waiting(a, NOW), Waiting { vehicle_class: "xl".into(), ..waiting(van, NOW) }, waiting(b, seconds(1))];
        let places = places(&map(), &queue);
        assert_eq!([a, van, b].map(|id| places[&id].place), [1, 1, 2]);
        assert_eq!(places[&a].name, "JFK");
    }

    #[test]
    fn a_driver_hears_of_a_new_place_but_not_of_each_at_once() {
        let (map, [a, b, c]) = (map(), std::array::from_fn(|_| DriverId::new()));
        let queue = [a, b, c].map(|id| waiting(id, NOW));
        let mut told = HashMap::new();
        let mut hear = |queue: &[Waiting], second| {
            let news = news(&mut told, &places(&map, queue), seconds(second));
            news.into_iter().map(|(id, place)| (id, place.map(|place| place.place))).collect::<Vec<_>>()
        };
        assert_eq!(hear(&queue, 0), [(a, Some(1)), (b, Some(2)), (c, Some(3))]);
        assert!(hear(&queue, 6).is_empty());
        assert_eq!(hear(&queue[1..], 10), [(a, None), (b, Some(1)), (c, Some(2))]);
        // Two seconds later c is first; what it heard last is too recent.
        assert_eq!(hear(&queue[2..], 12), [(b, None)]);
        assert_eq!(hear(&queue[2..], 15), [(c, Some(1))]);
    }
}
