//! Travel times at speeds learned from driven trips.
//!
//! A way is measured by metres as the crow flies, or by seconds on empty roads where there is a graph of them, and one of
//! measure `d` takes `level * d^exponent` seconds: long ways use faster roads, so the exponent of a city is well below one. Hour of the day and the areas of both ends each multiply that. Every factor is the weighted
//! median of what was driven over what was expected, the one number that makes the mean relative error least; single trips
//! with a detour or a stop do not move it, and few trips move it little.

use std::collections::BTreeMap;

use h3o::{CellIndex, LatLng, Resolution};
use shared::geo::Point;
use time::{OffsetDateTime, UtcOffset};

/// A trip as it was driven.
#[derive(Clone, Copy, Debug)]
pub struct DrivenTrip {
    /// From where.
    pub from: Point,
    /// Where to.
    pub to: Point,
    /// When it set out.
    pub began_at: OffsetDateTime,
    /// How long it drove, pauses not counted.
    pub driving_s: f64,
}

/// What a way is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Metres on the great circle.
    Crow,
    /// Seconds on empty roads.
    EmptyRoads,
}

/// How fast one gets about.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeedProfile {
    measure: Measure,
    exponent: f64,
    level: f64,
    /// By hour of the day, UTC.
    hours: [f64; 24],
    areas: BTreeMap<CellIndex, f64>,
}

/// Streets are so many times longer than the great circle in most cities, and this fast: 25 km/h.
const DETOUR: f64 = 1.3;
const CITY_SPEED_MPS: f64 = 7.0;
/// A way through a city takes so many times as long as on empty roads: lights, queues, crossings.
const TRAFFIC: f64 = 1.5;

/// Trips with ends nearer than this went round in a circle and teach nothing; ways as short grow in proportion.
const NEAR_M: f64 = 300.0;
const SHORTEST_S: f64 = 60.0;
const TOP_SPEED_MPS: f64 = 40.0;
/// With fewer trips the general profile is the better guess.
const FEWEST_TRIPS: usize = 50;
/// No city is without faster roads for longer ways, and none has only those.
const EXPONENTS: std::ops::RangeInclusive<f64> = 0.4..=1.0;
/// A factor of one counts as much as so many trips.
const DOUBT: f64 = 5.0;
/// To an hour's factor a trip of the next hour counts so much, one of the hour after that so much of it, and so on: traffic
/// changes little from one hour to the next, and an hour of which nothing is known yet is like those beside it.
const NEXT_HOUR: f64 = 0.25;
/// Areas of about five square kilometres.
const AREA: Resolution = Resolution::Seven;

impl Default for SpeedProfile {
    fn default() -> Self {
        Self::unlearned(Measure::Crow)
    }
}

impl Measure {
    /// Ways shorter than this grow in proportion.
    fn near(self) -> f64 {
        match self {
            Self::Crow => NEAR_M,
            Self::EmptyRoads => SHORTEST_S,
        }
    }
}

impl SpeedProfile {
    /// Knows no trip yet.
    pub(super) fn unlearned(measure: Measure) -> Self {
        let level = match measure {
            Measure::Crow => DETOUR / CITY_SPEED_MPS,
            Measure::EmptyRoads => TRAFFIC,
        };
        Self { measure, exponent: 1.0, level, hours: [1.0; 24], areas: BTreeMap::new() }
    }

    /// Learns from driven trips; nothing if there are too few.
    pub fn fit(trips: &[DrivenTrip]) -> Option<Self> {
        let crow_m = |trip: &DrivenTrip| (*trip, trip.from.distance_m(trip.to));
        Self::fit_to(Measure::Crow, &trips.iter().map(crow_m).collect::<Vec<_>>())
    }

    /// Learns from driven trips whose ways have been measured; nothing if there are too few.
    pub(super) fn fit_to(measure: Measure, trips: &[(DrivenTrip, f64)]) -> Option<Self> {
        let trips: Vec<_> = trips.iter().filter(|(trip, way)| teaches(trip) && *way >= measure.near()).collect();
        if trips.len() < FEWEST_TRIPS {
            return None;
        }
        let mut profile = Self { exponent: exponent(&trips), level: 1.0, ..Self::unlearned(measure) };
        let ratio = |profile: &Self, (trip, way): &(DrivenTrip, f64)| {
            trip.driving_s / profile.seconds(*way, trip.from, trip.to, trip.began_at)
        };
        profile.level = factor(trips.iter().map(|trip| (ratio(&profile, trip), 1.0)).collect(), 0.0);
        let by_hour: Vec<_> = trips.iter().map(|trip| (trip.0.began_at.hour(), ratio(&profile, trip))).collect();
        for (hour, hour_factor) in (0..).zip(&mut profile.hours) {
            let near = by_hour.iter().map(|(of, ratio)| (*ratio, NEXT_HOUR.powi(hours_apart(hour, *of))));
            *hour_factor = factor(near.collect(), DOUBT);
        }
        let mut by_area: BTreeMap<CellIndex, Vec<(f64, f64)>> = BTreeMap::new();
        for trip in &trips {
            for area in [area(trip.0.from), area(trip.0.to)].into_iter().flatten() {
                by_area.entry(area).or_default().push((ratio(&profile, trip), 1.0));
            }
        }
        profile.areas = by_area.into_iter().map(|(area, ratios)| (area, factor(ratios, DOUBT))).collect();
        Some(profile)
    }

    /// Whole seconds from one place to another, measured as the crow flies, for who sets out at `at`.
    pub fn eta_s(&self, from: Point, to: Point, at: OffsetDateTime) -> u32 {
        self.eta_of_s(from.distance_m(to), from, to, at)
    }

    /// Whole seconds for a way that has been measured.
    pub(super) fn eta_of_s(&self, way: f64, from: Point, to: Point, at: OffsetDateTime) -> u32 {
        // Half the globe at walking speed still fits; a cast from a float saturates anyway.
        self.seconds(way, from, to, at).round() as u32
    }

    fn seconds(&self, way: f64, from: Point, to: Point, at: OffsetDateTime) -> f64 {
        let near = self.measure.near();
        let free_s = self.level * way.max(near).powf(self.exponent) * (way / near).min(1.0);
        let of_area = |place| area(place).and_then(|area| self.areas.get(&area)).copied().unwrap_or(1.0);
        let areas = if self.areas.is_empty() { 1.0 } else { (of_area(from) * of_area(to)).sqrt() };
        free_s * self.hours[usize::from(at.to_offset(UtcOffset::UTC).hour())] * areas
    }
}

/// How far a way is by road of which nothing is known but its ends, metres.
pub(super) fn guessed_m(from: Point, to: Point) -> f64 {
    DETOUR * from.distance_m(to)
}

fn area(place: Point) -> Option<CellIndex> {
    LatLng::new(place.lat, place.lng).ok().map(|place| place.to_cell(AREA))
}

fn teaches(trip: &DrivenTrip) -> bool {
    let crow_m = trip.from.distance_m(trip.to);
    crow_m >= NEAR_M && trip.driving_s >= SHORTEST_S && crow_m / trip.driving_s <= TOP_SPEED_MPS
}

/// The slope of time over measure, both as logarithms, by least squares.
fn exponent(trips: &[&(DrivenTrip, f64)]) -> f64 {
    let points = || trips.iter().map(|(trip, way)| (way.ln(), trip.driving_s.ln()));
    let count = trips.len() as f64;
    let (sum_x, sum_y) = points().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (rise, run) = points()
        .fold((0.0, 0.0), |(rise, run), (x, y)| (rise + (x - mean_x) * (y - mean_y), run + (x - mean_x).powi(2)));
    // Trips all of one length say nothing of others.
    let slope = if run > 0.0 { rise / run } else { *EXPONENTS.end() };
    slope.clamp(*EXPONENTS.start(), *EXPONENTS.end())
}

/// How many hours lie between two hours of the day, the shorter way round.
fn hours_apart(hour: u8, other: u8) -> i32 {
    let apart = i32::from(hour.abs_diff(other));
    apart.min(24 - apart)
}

/// The factor with the least mean relative error over `ratios` of driven to expected time, each with how much it counts: their
/// median, each weighing its inverse besides. One counts with the weight of `doubt` trips.
fn factor(ratios: Vec<(f64, f64)>, doubt: f64) -> f64 {
    let driven = ratios.into_iter().map(|(ratio, counts)| (ratio, counts / ratio));
    let mut weighted: Vec<(f64, f64)> = driven.chain([(1.0, doubt)]).collect();
    weighted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = weighted.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut sum = 0.0;
    let reaches_half = |(_, weight): &&(f64, f64)| {
        sum += weight;
        sum >= half
    };
    weighted.iter().find(reaches_half).map_or(1.0, |(ratio, _)| *ratio)
}
