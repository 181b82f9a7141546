//! Policies compared on the same evenings: figures, and a page with plots for people.

use std::{fmt::Write, fs, path::Path};

use anyhow::Context;
use plotters::prelude::*;
use shared::tenant_config::DispatchMode;

use super::{Outcome, Scenario, Town, simulate};

/// Fleets from scarce to ample for the evening.
const FLEETS: [usize; 4] = [400, 600, 800, 1_000];
const SEEDS: [u64; 3] = [1, 2, 3];
/// Of the plots, pixels.
const SIZE: (u32, u32) = (760, 380);
const NEAREST: RGBColor = RGBColor(0xB4, 0x5F, 0x06);
const BATCHED: RGBColor = RGBColor(0x0B, 0x53, 0x94);

/// One fleet's evenings, by policy; the same people in both.
pub struct Comparison {
    pub drivers: usize,
    pub nearest: Vec<Outcome>,
    pub batched: Vec<Outcome>,
}

/// What a reader looks at first: means over several evenings.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub wait_mean_s: f64,
    pub wait_p95_s: f64,
    pub drive_mean_s: f64,
    pub unserved_percent: f64,
    /// Driven without a rider, by all drivers, kilometres, and their share in all that was driven.
    pub empty_km: f64,
    pub empty_percent: f64,
    pub gini: f64,
    pub without_a_ride: f64,
    /// The longest of all evenings.
    pub longest_idle_s: f64,
    pub starved: f64,
}

impl Figures {
    pub fn of(outcomes: &[Outcome]) -> Self {
        let mean = |of: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / outcomes.len() as f64;
        Self {
            wait_mean_s: mean(&|outcome| outcome.pickup_wait().mean),
            wait_p95_s: mean(&|outcome| outcome.pickup_wait().p95),
            drive_mean_s: mean(&|outcome| outcome.drive().mean),
            unserved_percent: mean(&|outcome| 100.0 * outcome.unserved_share()),
            empty_km: mean(&Outcome::empty_km),
            empty_percent: mean(&|outcome| 100.0 * outcome.empty_share()),
            gini: mean(&Outcome::gini),
            without_a_ride: mean(&|outcome| outcome.without_a_ride() as f64),
            longest_idle_s: outcomes.iter().map(Outcome::longest_idle_s).fold(0.0, f64::max),
            starved: mean(&|outcome| outcome.starved() as f64),
        }
    }
}

/// Simulates New York's evening with each fleet, seed and policy; `quick` is one fleet and one seed.
pub async fn compare(town: &Town, quick: bool) -> Vec<Comparison> {
    let (fleets, seeds) = if quick { (&FLEETS[1..2], &SEEDS[..1]) } else { (&FLEETS[..], &SEEDS[..]) };
    let mut comparisons = Vec::new();
    for drivers in fleets {
        let mut comparison = Comparison { drivers: *drivers, nearest: Vec::new(), batched: Vec::new() };
        for seed in seeds {
            let evening = |mode| Scenario::new_york_evening(mode, *drivers, *seed);
            comparison.nearest.push(simulate(town, &evening(DispatchMode::Nearest)).await);
            comparison.batched.push(simulate(town, &evening(DispatchMode::Batched)).await);
        }
        comparisons.push(comparison);
    }
    comparisons
}

/// Writes a page with the figures and plots of each fleet.
pub fn write_page(comparisons: &[Comparison], to: &Path) -> anyhow::Result<()> {
    let mut page = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Dispatch policies compared</title>\
         <style>body{font:16px/1.5 sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}\
         table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ccc}\
         svg{max-width:100%;height:auto}</style><h1>Dispatch policies compared</h1>\
         <p>New York, 2014-12-21, 21:00 to 22:00: every request of the record, on Manhattan's streets, with the same drivers, \
         riders and luck for both policies. <b>nearest</b> gives each request, in order of arrival, the nearest free driver; \
         <b>batched</b> assigns all waiting requests together. A driver is <b>starved</b> who has been available for half an hour \
         without an offer when a ride that begins within five minutes of him is offered to somebody who has been available \
         for less than a quarter of an hour. Trip records: NYC TLC. Streets: &copy; OpenStreetMap \
         contributors.</p>",
    );
    for (title, of) in BY_FLEET {
        page.push_str(
            &by_fleet(title, of, comparisons).with_context(|| format!("the plot of '{title}' cannot be drawn"))?,
        );
    }
    for Comparison { drivers, nearest, batched } in comparisons {
        let (of_nearest, of_batched) = (Figures::of(nearest), Figures::of(batched));
        write!(page, "<h2>{drivers} drivers</h2><table><tr><th><th>nearest<th>batched")?;
        for (name, of, digits) in ROWS {
            write!(page, "<tr><th>{name}<td>{:.digits$}<td>{:.digits$}", of(&of_nearest), of(&of_batched))?;
        }
        page.push_str("</table>");
        page.push_str(&wait_shares(nearest, batched).context("the plot of waits cannot be drawn")?);
        page.push_str(&waits_by_time(nearest, batched).context("the plot of the evening cannot be drawn")?);
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, page).with_context(|| format!("{} cannot be written", to.display()))
}

type Row = (&'static str, fn(&Figures) -> f64, usize);

/// One of the figures of a run.
type Figure = fn(&Figures) -> f64;

/// Plotted for each fleet.
const BY_FLEET: [(&str, Figure); 5] = [
    ("Mean wait until picked up, minutes", |figures| figures.wait_mean_s / 60.0),
    ("Mean drive to the pick-up, minutes", |figures| figures.drive_mean_s / 60.0),
    ("Driven without a rider, km", |figures| figures.empty_km),
    ("Inequality of paid driving, Gini", |figures| figures.gini),
    ("Riders nobody came for, %", |figures| figures.unserved_percent),
];

const ROWS: [Row; 10] = [
    ("wait until picked up, mean, s", |figures| figures.wait_mean_s, 0),
    ("wait until picked up, 95th percentile, s", |figures| figures.wait_p95_s, 0),
    ("drive to the pick-up, mean, s", |figures| figures.drive_mean_s, 0),
    ("riders nobody came for, %", |figures| figures.unserved_percent, 1),
    ("driven without a rider, km", |figures| figures.empty_km, 0),
    ("driven without a rider, % of all km", |figures| figures.empty_percent, 1),
    ("inequality of paid driving, Gini", |figures| figures.gini, 3),
    ("drivers without a ride", |figures| figures.without_a_ride, 1),
    ("longest time available without an offer, min", |figures| figures.longest_idle_s / 60.0, 0),
    ("drivers starved", |figures| figures.starved, 1),
];

/// A figure by the size of the fleet.
fn by_fleet(title: &str, of: fn(&Figures) -> f64, comparisons: &[Comparison]) -> anyhow::Result<String> {
    let points = |outcomes: fn(&Comparison) -> &[Outcome]| -> Points {
        let point = |comparison: &Comparison| (comparison.drivers as f64, of(&Figures::of(outcomes(comparison))));
        comparisons.iter().map(point).collect()
    };
    let (nearest, batched) = (points(|comparison| &comparison.nearest), points(|comparison| &comparison.batched));
    let top = nearest.iter().chain(&batched).map(|(_, figure)| *figure).fold(0.0, f64::max);
    // So that nothing at all has a height, too.
    let top = if top > 0.0 { 1.1 * top } else { 1.0 };
    plot(title, "drivers", nearest, batched, top)
}

/// Which share of riders has been picked up after how long.
fn wait_shares(nearest: &[Outcome], batched: &[Outcome]) -> anyhow::Result<String> {
    let shares = |outcomes: &[Outcome]| {
        let mut waits: Vec<f64> =
            outcomes.iter().flat_map(|outcome| &outcome.waits).map(|wait| wait.picked_up_after_s / 60.0).collect();
        waits.sort_by(f64::total_cmp);
        let all = waits.len() as f64;
        waits.into_iter().zip(1..).step_by(20).map(|(wait, rank)| (wait, 100.0 * f64::from(rank) / all)).collect()
    };
    plot(
        "Riders picked up within so many minutes, %",
        "minutes after the request",
        shares(nearest),
        shares(batched),
        100.0,
    )
}

/// The mean wait of those who asked in each five minutes.
fn waits_by_time(nearest: &[Outcome], batched: &[Outcome]) -> anyhow::Result<String> {
    const SLOT_S: f64 = 300.0;
    let by_time = |outcomes: &[Outcome]| {
        let mut slots: std::collections::BTreeMap<i64, (f64, f64)> = Default::default();
        for wait in outcomes.iter().flat_map(|outcome| &outcome.waits) {
            let slot = slots.entry((wait.asked_at_s / SLOT_S).floor() as i64).or_default();
            *slot = (slot.0 + wait.picked_up_after_s / 60.0, slot.1 + 1.0);
        }
        let first = slots.keys().next().copied().unwrap_or_default();
        slots.into_iter().map(|(slot, (sum, count))| ((slot - first) as f64 * SLOT_S / 60.0, sum / count)).collect()
    };
    let (nearest, batched): (Points, Points) = (by_time(nearest), by_time(batched));
    let top = nearest.iter().chain(&batched).map(|(_, wait)| *wait).fold(1.0, f64::max);
    plot("Mean wait by time of request, minutes", "minutes after 21:00", nearest, batched, 1.1 * top)
}

type Points = Vec<(f64, f64)>;

fn plot(title: &str, x: &str, nearest: Points, batched: Points, top: f64) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let all = || nearest.iter().chain(&batched).map(|(at, _)| *at);
        let (left, right) = (all().fold(f64::MAX, f64::min), all().fold(1.0, f64::max));
        // What begins soon after nothing is shown from there; one point alone has room on both sides.
        let (left, right) = match left {
            left if left <= right / 4.0 => (0.0, right),
            left if left < right => (left, right),
            left => (0.9 * left, 1.1 * right),
        };
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(left..right, 0.0..top)?;
        chart.configure_mesh().x_desc(x).light_line_style(WHITE).draw()?;
        for (name, points, colour) in [("nearest", nearest, NEAREST), ("batched", batched, BATCHED)] {
            // A few points are shown as such, and one alone is no line.
            if points.len() <= FLEETS.len() {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
            }
            let line = LineSeries::new(points, colour.stroke_width(2));
            let key = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2));
            chart.draw_series(line)?.label(name).legend(key);
        }
        chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE).draw()?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::outcome::{Day, Wait};

    fn outcome(wait_s: f64) -> Outcome {
        let wait = Wait { asked_at_s: 10_800.0, accepted_after_s: wait_s / 2.0, picked_up_after_s: wait_s };
        let day = Day { rides: 1, empty_m: 800.0, paid_m: 2_400.0, paid_s: 300.0, ..Day::default() };
        Outcome { waits: vec![wait; 40], days: vec![day; 10], ..Outcome::default() }
    }

    #[test]
    fn the_page_plots_each_figure_by_the_size_of_the_fleet_and_the_waits_of_each() {
        let comparison = |drivers| Comparison { drivers, nearest: vec![outcome(400.0)], batched: vec![outcome(200.0)] };
        let folder = std::env::temp_dir().join(format!("policies-{}", uuid::Uuid::now_v7()));
        for comparisons in [vec![comparison(400)], vec![comparison(400), comparison(800)]] {
            let file = folder.join("page.html");
            write_page(&comparisons, &file).unwrap();
            let page = fs::read_to_string(&file).unwrap();
            assert_eq!(page.matches("<svg").count(), BY_FLEET.len() + 2 * comparisons.len());
            assert!(BY_FLEET.iter().all(|(title, _)| page.contains(title)));
            assert!(page.contains("driven without a rider, km<td>8<td>8"), "{page}");
            assert!(page.contains("driven without a rider, % of all km<td>25.0<td>25.0"));
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
