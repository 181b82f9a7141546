//! Porto: taxi trips of one night and morning with their full GPS traces.
//!
//! No drive graph of the whole city comes with the data, but a thousand traces make one: where taxis drove, one can drive, as
//! fast as they did. A ride that was recorded is driven exactly as it was; the way to its pickup is found among all traces.

use serde::Deserialize;
use shared::geo::Point;

use super::{CITY_MPS, City, Demand, PlannedRide, Source, rows};
use crate::streets::{GraphBuilder, Route};

pub(super) const TENANT: &str = "porto-taxis";
/// A trace has a point every fifteen seconds.
const STEP_S: f64 = 15.0;
/// Points nearer than this are the same crossing: about the error of GPS between houses.
const CROSSING_M: f64 = 45.0;
/// No taxi goes faster; a jump of more is a broken trace.
const TOP_MPS: f64 = 40.0;
/// The traces run from 01:00 to 10:00 local time; until five there are few, so the replay starts in the sixth hour.
const FROM_S: f64 = 5.0 * 3600.0;
const WINDOW_S: f64 = 4.0 * 3600.0;

#[derive(Deserialize)]
struct Trip {
    at_s: f64,
    polyline5: String,
}

pub(super) fn load() -> City {
    let mut streets = GraphBuilder::new(CROSSING_M);
    let mut recorded = Vec::new();
    for trip in rows::<Trip>(include_str!("../../data/porto/trips.csv")) {
        let drive = decode(&trip.polyline5);
        learn_streets(&mut streets, &drive);
        if trip.at_s >= FROM_S && is_plausible(&drive) {
            recorded.push((trip.at_s - FROM_S, drive));
        }
    }
    let planned =
        recorded.iter().map(|(at_s, drive)| PlannedRide { at_s: *at_s, pickup: drive.start(), dropoff: drive.end() });
    let mut demand = Demand::new(Source::Recorded, WINDOW_S, planned);
    for (_, drive) in recorded {
        demand.record_drive(drive);
    }
    City { tenant: TENANT, streets: streets.build(), demand }
}

fn decode(polyline5: &str) -> Route {
    let line = polyline::decode_polyline(polyline5, 5).expect("the embedded traces are well-formed");
    let mut points = line.into_iter().map(|at| Point::new(at.y, at.x));
    let mut route = Route::standing_at(points.next().expect("a trace has points"));
    for point in points {
        route.go_on_to(point, STEP_S);
    }
    route
}

fn learn_streets(streets: &mut GraphBuilder, drive: &Route) {
    let points: Vec<_> = drive.points().collect();
    for leg in points.windows(2) {
        let metres = leg[0].distance_m(leg[1]);
        if metres / STEP_S > TOP_MPS {
            continue;
        }
        let (from, to) = (streets.crossing(leg[0]), streets.crossing(leg[1]));
        // Standing in traffic says nothing about the street; nobody crawls slower than this when it is free.
        streets.one_way(from, to, (metres / CITY_MPS).clamp(0.1, STEP_S));
        // Most streets go both ways; the other direction is assumed to be the slower choice.
        streets.one_way(to, from, (2.0 * metres / CITY_MPS).max(0.1));
    }
}

fn is_plausible(drive: &Route) -> bool {
    let points: Vec<_> = drive.points().collect();
    points.windows(2).all(|leg| leg[0].distance_m(leg[1]) / STEP_S <= TOP_MPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_ride_is_driven_as_it_was() {
        let city = load();
        let ride = city.demand.planned()[10];
        let route = city.route(ride.pickup, ride.dropoff);
        assert!(route.points().count() > 4);
        assert_eq!(route.duration_s() % STEP_S, 0.0);
    }

    #[test]
    fn the_way_to_a_pickup_follows_traces_of_others() {
        let city = load();
        let (bolhao, boavista) = (Point::new(41.1497, -8.6065), Point::new(41.1579, -8.6291));
        let route = city.route(bolhao, boavista);
        assert!(route.points().count() > 8, "{route:?}");
        assert!(route.length_m() < 5_000.0, "{}", route.length_m());
        assert!(city.streets.crossings().len() > 2_000, "{}", city.streets.crossings().len());
    }
}
