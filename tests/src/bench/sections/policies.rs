//! Dispatch policies on New York's busiest hour, in simulated time.

use std::path::PathBuf;

use crate::{
    bench::{Options, Table},
    simulation::{
        Town,
        report::{Comparison, Figures, compare, write_page},
    },
};

const COLUMNS: [&str; 11] = [
    "drivers, policy",
    "wait mean, s",
    "wait p95, s",
    "drive to pick-up, s",
    "nobody came, %",
    "empty driving, %",
    "Gini",
    "without a ride",
    "longest wait for an offer, min",
    "starved",
    "mean wait against nearest, %",
];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let town = Town::manhattan()?;
    let comparisons = compare(&town, options.quick).await;
    let mut table = Table::new("Policies, New York 2014-12-21, 21:00 to 22:00", &COLUMNS);
    for Comparison { drivers, nearest, batched } in &comparisons {
        let base_s = Figures::of(nearest).wait_mean_s;
        for (name, outcomes) in [("nearest", nearest), ("batched", batched)] {
            let figures = Figures::of(outcomes);
            table.row(
                format!("{drivers}, {name}"),
                &[vec![
                    Some(figures.wait_mean_s),
                    Some(figures.wait_p95_s),
                    Some(figures.drive_mean_s),
                    Some(figures.unserved_percent),
                    Some(figures.empty_percent),
                    Some(figures.gini),
                    Some(figures.without_a_ride),
                    Some(figures.longest_idle_s / 60.0),
                    Some(figures.starved),
                    Some(100.0 * (figures.wait_mean_s / base_s - 1.0)),
                ]],
            );
        }
    }
    let page = PathBuf::from("target/bench/policies.html");
    write_page(&comparisons, &page)?;
    let seeds = comparisons.first().map_or(0, |comparison| comparison.nearest.len());
    table
        .notes
        .push(format!("Means over {seeds} seeds, the same people for both policies; plots in {}.", page.display()));
    table.notes.push(
        "Starved: available for half an hour without an offer when a ride that begins within five minutes is offered to \
         somebody available for less than a quarter of an hour."
            .to_owned(),
    );
    Ok(vec![table])
}
