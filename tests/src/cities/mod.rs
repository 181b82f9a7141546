//! The three demo cities: their streets and where and when people want to go.
//!
//! New York and Porto replay trips that were really driven; Bengaluru's are made up from where people live and are marked
//! [`Source::Synthetic`]. `tests/data/README.md` names every source and licence.

mod bengaluru;
mod demand;
mod new_york;
mod porto;

use rand::{Rng, RngExt};
use shared::geo::Point;

pub use demand::{Demand, PlannedRide, Source};

use crate::streets::{Route, StreetGraph};

/// Where no street is known a car goes straight, at the pace of city traffic.
const CITY_MPS: f64 = 7.0;
/// A door this far from the nearest known street is still served through it.
const STREET_REACH_M: f64 = 1_500.0;

/// One city with everything a simulated fleet needs to know of it.
pub struct City {
    /// The demo's tenant of this city.
    pub tenant: &'static str,
    streets: StreetGraph,
    demand: Demand,
}

impl City {
    /// The city in which a demo tenant drives.
    pub fn of_tenant(tenant: &str) -> Option<Self> {
        match tenant {
            new_york::TENANT => Some(new_york::load()),
            porto::TENANT => Some(porto::load()),
            bengaluru::TENANT => Some(bengaluru::load()),
            _ => None,
        }
    }

    /// The way a car takes: the recorded drive if there was one, else the quickest by street, else straight.
    pub fn route(&self, from: Point, to: Point) -> Route {
        if let Some(recorded) = self.demand.recorded_drive(from, to) {
            return recorded.clone();
        }
        let by_street = self.streets.route(from, to, STREET_REACH_M);
        // Where the map covers a part of the city only, a detour through that part is no way to go.
        let sensible = by_street.filter(|route| route.length_m() < 3.0 * from.distance_m(to) + 2_000.0);
        sensible.unwrap_or_else(|| Route::straight(from, to, CITY_MPS))
    }

    /// The rides people want, over and over, about `per_hour` of them.
    pub fn rides(&self, per_hour: f64, seed: u64) -> impl Iterator<Item = PlannedRide> + Send + '_ {
        self.demand.rides(per_hour, seed)
    }

    /// The rides people wanted in the stretch of time the data covers, by time.
    pub fn planned(&self) -> &[PlannedRide] {
        self.demand.planned()
    }

    /// A place where people are picked up: where an idle driver may well stand.
    pub fn pickup_place(&self, rng: &mut impl Rng) -> Point {
        let rides = self.demand.planned();
        rides[rng.random_range(0..rides.len())].pickup
    }

    /// Whether this city's rides were really driven.
    pub fn source(&self) -> Source {
        self.demand.source()
    }
}

/// One row type of an embedded CSV file; what does not parse is a broken build, not a run-time condition.
fn rows<T: serde::de::DeserializeOwned>(file: &'static str) -> impl Iterator<Item = T> {
    csv::Reader::from_reader(file.as_bytes())
        .into_deserialize()
        .map(|row| row.expect("the embedded data is well-formed"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn all() -> Vec<City> {
        [new_york::TENANT, porto::TENANT, bengaluru::TENANT].map(|tenant| City::of_tenant(tenant).unwrap()).into()
    }

    #[test]
    fn every_city_drives_from_any_place_to_any_other() {
        for city in all() {
            let mut rng = StdRng::seed_from_u64(7);
            for _ in 0..20 {
                let (from, to) = (city.pickup_place(&mut rng), city.pickup_place(&mut rng));
                let route = city.route(from, to);
                assert!(route.end().distance_m(to) < 1.0, "{}", city.tenant);
                assert!(route.duration_s() >= 0.0 && route.duration_s() < 3.0 * 3600.0, "{}: {route:?}", city.tenant);
                assert!(route.length_m() + 1.0 >= from.distance_m(to), "{}", city.tenant);
            }
        }
    }

    #[test]
    fn the_same_seed_plans_the_same_rides_and_another_seed_others() {
        for city in all() {
            let plan = |seed| city.rides(200.0, seed).take(50).map(|ride| format!("{ride:?}")).collect::<Vec<_>>();
            assert_eq!(plan(1), plan(1), "{}", city.tenant);
            assert_ne!(plan(1), plan(2), "{}", city.tenant);
        }
    }

    #[test]
    fn rides_come_in_order_without_end_and_about_as_many_as_asked_for() {
        for city in all() {
            let rides: Vec<_> = city.rides(100.0, 3).take_while(|ride| ride.at_s < 40.0 * 3600.0).collect();
            assert!(rides.is_sorted_by_key(|ride| ride.at_s as i64), "{}", city.tenant);
            assert!((3_000..5_000).contains(&rides.len()), "{}: {}", city.tenant, rides.len());
            let places: BTreeSet<_> = rides.iter().map(|ride| ride.pickup.lat.to_bits()).collect();
            assert!(places.len() > 100, "{}", city.tenant);
        }
    }

    #[test]
    fn only_bengaluru_is_made_up() {
        let sources = all().iter().map(City::source).collect::<Vec<_>>();
        assert_eq!(sources, [Source::Recorded, Source::Recorded, Source::Synthetic]);
    }
}
