//! A tenant that moves from region to region while its people ride: for how long its writes pause, and who notices.

use std::time::Duration;

use anyhow::{Context, ensure};
use deploy_local::{Cluster, Durability};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    api::Patience,
    bench::{Options, Table, percentile},
    harness::{TestCluster, Traffic},
};

const TENANT: &str = "porto-taxis";
const REGIONS: [&str; 2] = ["us-east", "eu-west"];
/// Pairs of a rider and a driver, each taking ride after ride: some 50 rides a second on two cores.
const PAIRS: usize = 64;
const WARM_UP: usize = 300;
const MOVED_WITHIN: Duration = Duration::from_secs(120);
const COLUMNS: [&str; 8] = [
    "",
    "moves",
    "rides/s meanwhile",
    "rows moved, median",
    "writes paused p50, ms",
    "p99, ms",
    "whole move p50, s",
    "rides that failed for good",
];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let cluster = TestCluster::start_as(Cluster::builder().durability(Durability::PowerCut)).await;
    let operator = cluster.operator_at("ap-south").await.with_patience(Patience::PATIENT);
    let traffic = Traffic::start(&[cluster.city(TENANT)], PAIRS).await;
    traffic.rides_go_on(WARM_UP).await;
    let (begun, before) = (Instant::now(), traffic.settled());
    let (mut pauses, mut rows, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let moves = if options.quick { 2 } else { 20 };
    for number in 0..moves {
        let to = REGIONS[number % REGIONS.len()];
        let asked = Instant::now();
        let ask = json!({"to_region": to, "mode": "planned"});
        let moving: Value = operator.post(&format!("/v1/tenants/{TENANT}/rehome"), &ask).await?;
        let path = format!("/v1/moves/{}", moving["id"].as_str().context("a move has an id")?);
        let moved = loop {
            let moved: Value = operator.get(&path).await?;
            if moved["state"] == "completed" {
                break moved;
            }
            ensure!(asked.elapsed() < MOVED_WITHIN, "the move does not end: {moved}");
            sleep(Duration::from_millis(100)).await;
        };
        pauses.push(moved["paused_ms"].as_f64().context("writes paused")?);
        rows.push(moved["rows_moved"].as_f64().context("rows moved")?);
        whole.push(asked.elapsed().as_secs_f64());
        traffic.rides_go_on(20).await;
    }
    let rate = (traffic.settled() - before) as f64 / begun.elapsed().as_secs_f64();
    let book = traffic.stop().await;
    book.must_hold_after_moves(&cluster, &REGIONS).await;
    let mut table = Table::new("A tenant moves between two regions while its people ride", &COLUMNS);
    let cells = vec![
        Some(moves as f64),
        Some(rate),
        percentile(&mut rows, 0.5),
        percentile(&mut pauses, 0.5),
        percentile(&mut pauses, 0.99),
        percentile(&mut whole, 0.5),
        Some(book.failures().len() as f64),
    ];
    table.row(format!("{PAIRS} pairs"), &[cells]);
    table.notes.push(
        "All three regions, riders and drivers on one machine. A ride fails for good when a call is still refused after a \
         minute of asking again. Afterwards every ride that was paid is in every ledger once."
            .into(),
    );
    Ok(vec![table])
}
