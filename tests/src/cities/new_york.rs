//! New York: taxi requests of one Sunday evening, on the drive graph of Manhattan.

use serde::Deserialize;
use shared::geo::Point;

use super::{City, Demand, PlannedRide, Source, rows};
use crate::streets::GraphBuilder;

pub(super) const TENANT: &str = "manhattan-cabs";
/// The data holds five hours, from 18:00 to 23:00.
const WINDOW_S: f64 = 5.0 * 3600.0;
/// Crossings of the drive graph are further apart than this.
const CROSSING_M: f64 = 1.0;

#[derive(Deserialize)]
struct Trip {
    at_s: f64,
    pickup_lat: f64,
    pickup_lng: f64,
    dropoff_lat: f64,
    dropoff_lng: f64,
}

#[derive(Deserialize)]
struct Edge {
    from: usize,
    to: usize,
    travel_time_s: f64,
}

pub(super) fn load() -> City {
    let mut builder = GraphBuilder::new(CROSSING_M);
    let crossings: Vec<usize> =
        rows::<Point>(include_str!("../../data/new-york/road_nodes.csv")).map(|node| builder.crossing(node)).collect();
    for edge in rows::<Edge>(include_str!("../../data/new-york/road_edges.csv")) {
        builder.one_way(crossings[edge.from], crossings[edge.to], edge.travel_time_s);
    }
    let rides = rows::<Trip>(include_str!("../../data/new-york/trips.csv")).map(|trip| PlannedRide {
        at_s: trip.at_s,
        pickup: Point::new(trip.pickup_lat, trip.pickup_lng),
        dropoff: Point::new(trip.dropoff_lat, trip.dropoff_lng),
    });
    City { tenant: TENANT, streets: builder.build(), demand: Demand::new(Source::Recorded, WINDOW_S, rides) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_through_manhattan_follows_streets_at_city_speed() {
        let city = load();
        let (times_square, wall_street) = (Point::new(40.758, -73.9855), Point::new(40.7066, -74.0090));
        let route = city.route(times_square, wall_street);
        assert!(route.points().count() > 30, "follows crossings");
        assert!((6_000.0..12_000.0).contains(&route.length_m()), "{}", route.length_m());
        assert!((400.0..2_400.0).contains(&route.duration_s()), "{}", route.duration_s());
    }

    #[test]
    fn every_ride_begins_and_ends_near_a_street() {
        let city = load();
        for ride in city.demand.planned().iter().step_by(50) {
            for place in [ride.pickup, ride.dropoff] {
                assert!(city.streets.nearest(place).unwrap().1 < 450.0, "{ride:?}");
            }
        }
    }
}
