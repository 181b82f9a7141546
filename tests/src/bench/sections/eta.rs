//! How far travel times are off on real trips that were not learned from: Porto's taxis in the night and morning of 2013-07-01.

use std::time::Duration;

use region_node::travel::{DrivenTrip, SpeedProfile};
use serde::Deserialize;
use shared::geo::Point;
use time::{OffsetDateTime, macros::datetime};

use crate::bench::{Options, Table, median};

const BEGAN: OffsetDateTime = datetime!(2013-07-01 00:00:00 UTC);
/// A trace has a point every fifteen seconds.
const STEP_S: f64 = 15.0;
/// Trips with ends nearer than this, or shorter, went round in a circle: nobody is told how long that takes.
const NEAR_M: f64 = 300.0;
const SHORTEST_S: f64 = 60.0;
/// As a region-node does.
const LEARNS_EVERY: Duration = Duration::from_secs(15 * 60);
const FOLDS: usize = 5;

const COLUMNS: [&str; 4] = ["", "trips judged", "MAPE, %", "half of them err by less than, %"];

pub async fn run(_: &Options) -> anyhow::Result<Vec<Table>> {
    let trips = trips()?;
    let mut table = Table::new("Travel times against Porto's taxis, on trips not learned from", &COLUMNS);
    for (judging, name) in [(again_and_again as Judging, "every 15 min"), (by_folds, "five folds")] {
        for (estimator, of) in
            [(general as Learning, "nothing learned"), (one_factor, "one factor"), (learned, "hours and areas")]
        {
            let errors = judging(&trips, estimator);
            let mape = errors.iter().sum::<f64>() / errors.len() as f64;
            let row = vec![Some(errors.len() as f64), Some(100.0 * mape), Some(100.0 * median(errors))];
            table.row(format!("{of}, {name}"), &[row]);
        }
    }
    table.notes.push(
        "Every 15 min: as a region-node learns, from all trips that had ended, judged on those of the quarter of an hour after. \
         Five folds: learned from four fifths, judged on the fifth, hours known. Nothing learned is 1.3 times the great circle at \
         25 km/h; one factor, learned the same way, makes that right on average. Too little of Porto's street graph is in the \
         data for a router."
            .into(),
    );
    Ok(vec![table])
}

type Estimator = Box<dyn Fn(&DrivenTrip) -> f64>;
type Learning = fn(&[DrivenTrip]) -> Estimator;
/// The relative errors of what was learned by `Learning`.
type Judging = fn(&[DrivenTrip], Learning) -> Vec<f64>;

fn general(_: &[DrivenTrip]) -> Estimator {
    of_profile(SpeedProfile::default())
}

fn learned(past: &[DrivenTrip]) -> Estimator {
    of_profile(SpeedProfile::fit(past).unwrap_or_default())
}

fn one_factor(past: &[DrivenTrip]) -> Estimator {
    let general = general(past);
    let factor =
        if past.is_empty() { 1.0 } else { median(past.iter().map(|trip| trip.driving_s / general(trip)).collect()) };
    Box::new(move |trip| factor * general(trip))
}

fn of_profile(profile: SpeedProfile) -> Estimator {
    Box::new(move |trip| profile.eta_s(trip.from, trip.to, trip.began_at).into())
}

fn again_and_again(trips: &[DrivenTrip], learning: Learning) -> Vec<f64> {
    let (mut errors, mut now) = (Vec::new(), BEGAN);
    while trips.iter().any(|trip| trip.began_at >= now) {
        let has_ended = |trip: &&DrivenTrip| trip.began_at + Duration::from_secs_f64(trip.driving_s) <= now;
        let past: Vec<_> = trips.iter().filter(has_ended).copied().collect();
        let estimator = learning(&past);
        let next = trips.iter().filter(|trip| trip.began_at >= now && trip.began_at < now + LEARNS_EVERY);
        errors.extend(next.map(|trip| error(&estimator, trip)));
        now += LEARNS_EVERY;
    }
    errors
}

fn by_folds(trips: &[DrivenTrip], learning: Learning) -> Vec<f64> {
    let fold = |fold| {
        let (held_out, rest): (Vec<_>, Vec<_>) =
            trips.iter().copied().enumerate().partition(|(index, _)| index % FOLDS == fold);
        let estimator = learning(&rest.into_iter().map(|(_, trip)| trip).collect::<Vec<_>>());
        held_out.into_iter().map(move |(_, trip)| error(&estimator, &trip)).collect::<Vec<_>>()
    };
    (0..FOLDS).flat_map(fold).collect()
}

fn error(estimator: &Estimator, trip: &DrivenTrip) -> f64 {
    (estimator(trip) - trip.driving_s).abs() / trip.driving_s
}

#[derive(Deserialize)]
struct Row {
    at_s: f64,
    polyline5: String,
}

fn trips() -> anyhow::Result<Vec<DrivenTrip>> {
    let mut trips = Vec::new();
    for row in csv::Reader::from_reader(include_str!("../../../data/porto/trips.csv").as_bytes()).deserialize() {
        let Row { at_s, polyline5 } = row?;
        let line = polyline::decode_polyline(&polyline5, 5)?;
        let ends = (line.0.first(), line.0.last());
        let (Some(first), Some(last)) = ends else { continue };
        let trip = DrivenTrip {
            from: Point::new(first.y, first.x),
            to: Point::new(last.y, last.x),
            began_at: BEGAN + Duration::from_secs_f64(at_s),
            driving_s: STEP_S * (line.0.len() - 1) as f64,
        };
        if trip.from.distance_m(trip.to) >= NEAR_M && trip.driving_s >= SHORTEST_S {
            trips.push(trip);
        }
    }
    Ok(trips)
}
