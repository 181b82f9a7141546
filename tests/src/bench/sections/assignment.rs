//! The assignment alone, at the size its bound is set for, and beyond it.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use region_node::{
    dispatch::{Candidate, Matching, Request, assign},
    travel::SpeedProfile,
};
use shared::{geo::Point, tenant_config::DispatchMode};
use time::{Duration, macros::datetime};
use tokio::time::Instant;

use crate::bench::{Options, Table};

const RIDERS: usize = 1_000;
const DRIVERS: usize = 3_000;
/// As many as dispatch looks at for a ride that is alone in its place, and in a crowd.
const NEAREST: usize = 12;
const MOST: usize = 50;
/// Sides of a city and of the quarter where all its riders are, degrees.
const CITY: f64 = 0.1;
const QUARTER: f64 = 0.02;

const COLUMNS: [&str; 7] =
    ["", "riders", "drivers", "candidates of each", "ms", "riders matched, %", "mean pick-up of those, s"];

pub async fn run(_: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new("Riders and drivers of one window assigned", &COLUMNS);
    for (name, mode, riders, most, side) in [
        ("riders all over a city", DispatchMode::Batched, RIDERS, NEAREST, CITY),
        ("all riders in one quarter", DispatchMode::Batched, RIDERS, MOST, QUARTER),
        ("the same, everybody for everybody", DispatchMode::Batched, RIDERS, DRIVERS, QUARTER),
        ("one rider more: beyond the bound, cheapest pair first", DispatchMode::Batched, RIDERS + 1, DRIVERS, QUARTER),
        ("everybody for everybody, nearest first", DispatchMode::Nearest, RIDERS, DRIVERS, QUARTER),
    ] {
        let asked = matching(riders, most, side);
        let begun = Instant::now();
        let (asked, chosen) = assign(mode, asked).await;
        let took_ms = begun.elapsed().as_secs_f64() * 1_000.0;
        let of_pair = |(request, chosen): (&Request, &Option<usize>)| Some(request.candidates[(*chosen)?].eta_s);
        let pickups_s: Vec<u32> = asked.requests.iter().zip(&chosen).filter_map(of_pair).collect();
        let matched = pickups_s.len() as f64;
        let mean_s = pickups_s.iter().map(|eta_s| f64::from(*eta_s)).sum::<f64>() / matched;
        let cells = [riders as f64, DRIVERS as f64, most as f64, took_ms, 100.0 * matched / riders as f64, mean_s];
        table.row(name, &[cells.map(Some).to_vec()]);
    }
    table.notes.push(
        "One run each, the travel times known beforehand. Dispatch looks at 12 to 50 drivers for each ride, as in the first two rows; the \
         third is the most that its bound lets the solver take on, and the fourth what it answers above that."
            .into(),
    );
    Ok(vec![table])
}

/// Riders in a square in the middle of a city, each with the nearest of the drivers all over it.
fn matching(riders: usize, most: usize, side: f64) -> Matching {
    let at = datetime!(2026-03-01 12:00 UTC);
    let (travel, mut random) = (SpeedProfile::default(), StdRng::seed_from_u64(7));
    let mut place = |side: f64| {
        let mut degrees = || random.random_range(-side / 2.0..side / 2.0);
        Point::new(40.75 + degrees(), -73.98 + degrees())
    };
    let places: Vec<Point> = (0..DRIVERS).map(|_| place(CITY)).collect();
    let mut request = |_| {
        let pickup = place(side);
        let candidate = |(driver, place): (usize, &Point)| {
            let eta_s = travel.eta_s(*place, pickup, at);
            Candidate { driver, eta_s, cost_s: eta_s.into() }
        };
        let mut candidates: Vec<_> = places.iter().enumerate().map(candidate).collect();
        candidates.sort_by_key(|candidate| candidate.eta_s);
        candidates.truncate(most);
        Request { waited: Duration::ZERO, candidates }
    };
    Matching { requests: (0..riders).map(&mut request).collect() }
}
