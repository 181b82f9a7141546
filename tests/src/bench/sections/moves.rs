//! A tenant that moves from region to region: for how long its writes pause while its people ride, who notices, and how soon
//! another region serves it when its home stands still.

use std::time::Duration;

use anyhow::{Context, ensure};
use deploy_local::{Cluster, Durability};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    api::{Client, Move, Patience},
    bench::{Options, Table, percentile},
    harness::{TestCluster, Traffic},
};

const HANDED_OVER: &str = "porto-taxis";
const BETWEEN: [&str; 2] = ["us-east", "eu-west"];
/// Pairs of a rider and a driver, each taking ride after ride: some 50 rides a second on two cores.
const PAIRS: usize = 64;
const WARM_UP: usize = 300;
const MOVED_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks at how far something is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One that hangs at the old home is asked anew.
const CALL_WITHIN: Duration = Duration::from_secs(1);

const TAKEN: &str = "bengaluru-rides";
/// Each takes the tenant from the one before, the first from the last, where it is at home.
const IN_TURN: [&str; 3] = ["us-east", "eu-west", "ap-south"];

const PLANNED: [&str; 9] = [
    "",
    "moves",
    "rides/s meanwhile",
    "rows moved, median",
    "writes paused p50, ms",
    "p99, ms",
    "whole move p50, s",
    "rides that failed for good",
    "paid rides in every ledger once",
];
const FORCED: [&str; 4] = ["", "moves", "s from the command until it serves, p50", "most"];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let cluster = TestCluster::start_as(Cluster::builder().durability(Durability::PowerCut)).await;
    Ok(vec![planned(&cluster, options).await?, forced(&cluster, options).await?])
}

async fn planned(cluster: &TestCluster, options: &Options) -> anyhow::Result<Table> {
    let operator = patient_operator(cluster, "ap-south").await;
    let traffic = Traffic::start(&[cluster.city(HANDED_OVER)], PAIRS).await;
    traffic.rides_go_on(WARM_UP).await;
    let (begun, before) = (Instant::now(), traffic.settled());
    let (mut pauses, mut rows, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let moves = if options.quick { 2 } else { 20 };
    for to in BETWEEN.into_iter().cycle().take(moves) {
        let asked = Instant::now();
        let moving = operator.rehome(HANDED_OVER, to, "planned").await?;
        let moved = until_completed(&operator, &moving).await?;
        whole.push(asked.elapsed().as_secs_f64());
        pauses.push(f64::from(moved.paused_ms.context("writes paused")?));
        rows.push(moved.rows_moved as f64);
        traffic.rides_go_on(20).await;
    }
    let rate = (traffic.settled() - before) as f64 / begun.elapsed().as_secs_f64();
    let book = traffic.stop().await;
    book.must_hold_after_moves(cluster, &BETWEEN).await;
    let mut table = Table::new("A tenant moves between two regions while its people ride", &PLANNED);
    let cells = vec![
        Some(moves as f64),
        Some(rate),
        percentile(&mut rows, 0.5),
        percentile(&mut pauses, 0.5),
        percentile(&mut pauses, 0.99),
        percentile(&mut whole, 0.5),
        Some(book.failures().len() as f64),
        Some(book.settled() as f64),
    ];
    table.row(format!("{PAIRS} pairs"), &[cells]);
    table.notes.push(
        "All three regions, riders and drivers on one machine. A ride fails for good when a call is still refused after a \
         minute of asking again. The section ends with an error if a ride or payment that was acknowledged is not there \
         afterwards as it was, or not in every ledger exactly once."
            .into(),
    );
    Ok(table)
}

async fn forced(cluster: &TestCluster, options: &Options) -> anyhow::Result<Table> {
    let mut seconds = Vec::new();
    let moves = if options.quick { 1 } else { 6 };
    for at in 0..moves {
        let [to, other, from] = [0, 1, 2].map(|ahead| IN_TURN[(at + ahead) % IN_TURN.len()]);
        let operator = patient_operator(cluster, other).await;
        let city = cluster.city(TAKEN).through(&cluster.http_url(other));
        cluster.freeze_region(from)?;
        let commanded = Instant::now();
        let moving = operator.rehome(TAKEN, to, "failover").await?;
        while !matches!(timeout(CALL_WITHIN, city.try_register()).await, Ok(Ok(()))) {
            ensure!(commanded.elapsed() < MOVED_WITHIN, "{to} does not serve");
            sleep(LOOK_EVERY).await;
        }
        seconds.push(commanded.elapsed().as_secs_f64());
        until_completed(&operator, &moving).await?;
        cluster.thaw_region(from)?;
        cluster.converged().await;
    }
    let mut table = Table::new("A tenant whose home stands still is taken over by another region", &FORCED);
    table.row("", &[vec![Some(moves as f64), percentile(&mut seconds, 0.5), percentile(&mut seconds, 1.0)]]);
    table.notes.push(
        "All programs of the home stand still, its database too; a third region is asked to register riders until that is done."
            .into(),
    );
    Ok(table)
}

async fn patient_operator(cluster: &TestCluster, region: &str) -> Client {
    cluster.operator_at(region).await.with_patience(Patience::PATIENT)
}

async fn until_completed(operator: &Client, moving: &Move) -> anyhow::Result<Move> {
    let begun = Instant::now();
    loop {
        let moved = operator.tenant_move(moving.id).await?;
        if moved.state == "completed" {
            return Ok(moved);
        }
        ensure!(begun.elapsed() < MOVED_WITHIN, "the move does not end: {moved:?}");
        sleep(LOOK_EVERY).await;
    }
}
