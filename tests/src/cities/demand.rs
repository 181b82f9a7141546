//! Who wants to go where, and when.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use shared::geo::Point;

use crate::streets::Route;

/// Rides shorter than this are left out: a fare of nothing shows nothing.
const SHORTEST_RIDE_M: f64 = 300.0;

/// Whether people really took these rides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Recorded,
    Synthetic,
}

/// A ride somebody will want `at_s` seconds into the simulation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedRide {
    pub at_s: f64,
    pub pickup: Point,
    pub dropoff: Point,
}

/// A stretch of time with its rides, repeated for ever.
pub struct Demand {
    source: Source,
    rides: Vec<PlannedRide>,
    length_s: f64,
    drives: HashMap<DriveKey, Route>,
}

type DriveKey = [i64; 4];

impl Demand {
    pub fn new(source: Source, length_s: f64, rides: impl IntoIterator<Item = PlannedRide>) -> Self {
        let fits = |ride: &PlannedRide| ride.pickup.distance_m(ride.dropoff) >= SHORTEST_RIDE_M && ride.at_s < length_s;
        let mut rides: Vec<_> = rides.into_iter().filter(fits).collect();
        assert!(!rides.is_empty(), "a city without rides is no city");
        rides.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        Self { source, rides, length_s, drives: HashMap::new() }
    }

    /// Keeps how a ride was really driven, to be driven so again.
    pub fn record_drive(&mut self, drive: Route) {
        self.drives.insert(drive_key(drive.start(), drive.end()), drive);
    }

    pub fn recorded_drive(&self, from: Point, to: Point) -> Option<&Route> {
        self.drives.get(&drive_key(from, to))
    }

    pub fn planned(&self) -> &[PlannedRide] {
        &self.rides
    }

    pub fn source(&self) -> Source {
        self.source
    }

    /// About `per_hour` rides an hour for ever: a sample if there are more, the rush hours of the data staying rush hours.
    /// With fewer in the data each comes more than once, moved by up to half an hour.
    pub fn rides(&self, per_hour: f64, seed: u64) -> impl Iterator<Item = PlannedRide> + Send + '_ {
        let mut rng = StdRng::seed_from_u64(seed);
        let wanted = (per_hour * self.length_s / 3600.0).max(1.0);
        let copies = wanted / self.rides.len() as f64;
        (0_u64..).flat_map(move |round| {
            let begun_s = round as f64 * self.length_s;
            let mut this_round = Vec::with_capacity(wanted as usize + 16);
            for ride in &self.rides {
                let times = copies as u64 + u64::from(rng.random_bool(copies.fract()));
                for time in 0..times {
                    // Recorded times are whole minutes or quarters of one; real people don't come in volleys.
                    let spread_s = if time == 0 { 60.0 } else { 1_800.0 };
                    let at_s = (ride.at_s + rng.random_range(0.0..spread_s)).min(self.length_s);
                    this_round.push(PlannedRide { at_s: begun_s + at_s, ..*ride });
                }
            }
            this_round.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
            this_round
        })
    }
}

/// Places to about a metre: the platform may return a place with fewer digits than it was given.
fn drive_key(from: Point, to: Point) -> DriveKey {
    [from.lat, from.lng, to.lat, to.lng].map(|degrees| (degrees * 1e5).round() as i64)
}
