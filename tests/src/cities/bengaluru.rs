//! Bengaluru: made-up rides between wards, in proportion to the people living there; real streets in the very centre.
//!
//! No openly licensed trips of a South Asian city were found, so this demand is synthetic and says so.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde::Deserialize;
use shared::geo::Point;

use super::{City, Demand, PlannedRide, Source, rows};
use crate::streets::GraphBuilder;

pub(super) const TENANT: &str = "bengaluru-rides";
/// The plan of rides is itself data: always made from this seed.
const SEED: u64 = 560_001;
const RIDES: usize = 4_000;
const WINDOW_S: f64 = 4.0 * 3600.0;
/// Vidhana Soudha; trips thin out with the distance from here, half of them ending in the centre.
const CENTRE: Point = Point::new(12.9655, 77.5865);
const CENTRE_RADIUS_M: f64 = 900.0;
const FARTHEST_M: f64 = 7_000.0;

#[derive(Deserialize)]
struct Ward {
    population: f64,
    area_km2: f64,
    lat: f64,
    lng: f64,
}

#[derive(Deserialize)]
struct Street {
    class: u8,
    /// `lat;lng lat;lng …`
    points: String,
}

pub(super) fn load() -> City {
    let mut streets = GraphBuilder::new(8.0);
    for street in rows::<Street>(include_str!("../../data/bengaluru/streets.csv")) {
        let points: Vec<Point> = street.points.split(' ').map(parse_point).collect();
        for leg in points.windows(2) {
            let (a, b) = (streets.crossing(leg[0]), streets.crossing(leg[1]));
            streets.two_way(a, b, (leg[0].distance_m(leg[1]) / speed_mps(street.class)).max(0.1));
        }
    }
    let wards: Vec<Ward> = rows(include_str!("../../data/bengaluru/wards.csv"))
        .filter(|ward: &Ward| CENTRE.distance_m(Point::new(ward.lat, ward.lng)) < FARTHEST_M)
        .collect();
    let mut rng = StdRng::seed_from_u64(SEED);
    let rides: Vec<_> = (0..RIDES).map(|_| plan(&wards, &mut rng)).collect();
    City { tenant: TENANT, streets: streets.build(), demand: Demand::new(Source::Synthetic, WINDOW_S, rides) }
}

/// From where somebody lives to the centre, from the centre home, or about the centre.
fn plan(wards: &[Ward], rng: &mut impl Rng) -> PlannedRide {
    let (home, centre) = (home(wards, rng), near(CENTRE, CENTRE_RADIUS_M, rng));
    let (pickup, dropoff) = match rng.random_range(0..4) {
        0 => (home, centre),
        1 => (centre, home),
        _ => (centre, near(CENTRE, CENTRE_RADIUS_M, rng)),
    };
    PlannedRide { at_s: rng.random_range(0.0..WINDOW_S), pickup, dropoff }
}

/// A place in a ward, drawn by population; a ward is taken as a circle of its area.
fn home(wards: &[Ward], rng: &mut impl Rng) -> Point {
    let mut rest = rng.random_range(0.0..wards.iter().map(|ward| ward.population).sum());
    let drawn = wards.iter().find(|ward| {
        rest -= ward.population;
        rest < 0.0
    });
    let ward = drawn.unwrap_or(&wards[0]);
    near(Point::new(ward.lat, ward.lng), (ward.area_km2 / std::f64::consts::PI).sqrt() * 1_000.0, rng)
}

fn near(centre: Point, radius_m: f64, rng: &mut impl Rng) -> Point {
    let away_m = radius_m * rng.random_range(0.0_f64..1.0).sqrt();
    let (north, east) = rng.random_range(0.0..std::f64::consts::TAU).sin_cos();
    let metre_deg = 1.0 / 111_195.0;
    Point::new(
        centre.lat + north * away_m * metre_deg,
        centre.lng + east * away_m * metre_deg / centre.lat.to_radians().cos(),
    )
}

/// By class: 1 motorway and trunk, 2 primary and secondary, 3 tertiary, 4 residential.
fn speed_mps(class: u8) -> f64 {
    match class {
        1 => 12.0,
        2 => 8.5,
        3 => 7.0,
        _ => 5.5,
    }
}

fn parse_point(text: &str) -> Point {
    let (lat, lng) = text.split_once(';').expect("a point of the embedded streets is lat;lng");
    let degrees = |part: &str| part.parse().expect("degrees are numbers");
    Point::new(degrees(lat), degrees(lng))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rides_stay_in_the_city_and_half_are_about_the_centre() {
        let city = load();
        let near_centre = |at: Point| at.distance_m(CENTRE) <= CENTRE_RADIUS_M * 1.01;
        let rides = city.demand.planned();
        assert!(rides.iter().all(|ride| ride.pickup.distance_m(CENTRE) < 2.0 * FARTHEST_M));
        let inner = rides.iter().filter(|ride| near_centre(ride.pickup) && near_centre(ride.dropoff)).count();
        assert!((rides.len() * 2 / 5..rides.len() * 3 / 5).contains(&inner), "{inner} of {}", rides.len());
    }

    #[test]
    fn a_ride_about_the_centre_follows_streets() {
        let city = load();
        let route = city.route(Point::new(12.9600, 77.5800), Point::new(12.9705, 77.5930));
        assert!(route.points().count() > 8, "{route:?}");
    }
}
