//! A tenant that moves from region to region: for how long its writes pause while its people ride, who notices, and how soon
//! another region serves it when its home stands still.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use deploy_local::{Cluster, Durability};
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    api::{Client, Move, Patience},
    bench::{Options, Table, percentile},
    harness::{Book, TestCity, TestCluster, Traffic},
};

const HANDED_OVER: &str = "porto-taxis";
const BETWEEN: [&str; 2] = ["us-east", "eu-west"];
/// Enough that rides begin when they are due, though for seconds none ends.
const PAIRS: usize = 160;
/// Rides that are asked for each second: of these the first that the machine keeps up with, or else the last.
const PACES: [f64; 4] = [50.0, 35.0, 20.0, 10.0];
const WARM_UP: usize = 300;
const KEPT_UP_FOR: Duration = Duration::from_secs(10);
const MOVED_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks at how far something is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One that hangs at the old home is asked anew.
const CALL_WITHIN: Duration = Duration::from_secs(1);

const TAKEN: &str = "bengaluru-rides";
/// Each takes the tenant from the one before, the first from the last, where it is at home.
const IN_TURN: [&str; 3] = ["us-east", "eu-west", "ap-south"];

const PLANNED: [&str; 12] = [
    "",
    "moves",
    "rides/s asked for",
    "rides/s paid",
    "rows moved, median",
    "writes paused p50, ms",
    "p99, ms",
    "whole move p50, s",
    "ride p50, ms",
    "slowest ride, ms",
    "rides that failed for good",
    "paid rides in every ledger once",
];
const FORCED: [&str; 7] = [
    "",
    "moves",
    "s from the command until it serves, p50",
    "most",
    "s from the thaw until the old home refuses writes, p50",
    "most",
    "late payments, flagged in every ledger",
];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let cluster = TestCluster::start_as(Cluster::builder().durability(Durability::PowerCut)).await;
    Ok(vec![planned(&cluster, options).await?, forced(&cluster, options).await?])
}

async fn planned(cluster: &TestCluster, options: &Options) -> anyhow::Result<Table> {
    let operator = patient_operator(cluster, "ap-south").await;
    let (traffic, pace) = people(cluster.city(HANDED_OVER)).await;
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
    let mut took: Vec<f64> = book.took().iter().map(|took| took.as_secs_f64() * 1_000.0).collect();
    let mut table = Table::new("A tenant moves between two regions while its people ride", &PLANNED);
    let cells = vec![
        Some(moves as f64),
        Some(pace),
        Some(rate),
        percentile(&mut rows, 0.5),
        percentile(&mut pauses, 0.5),
        percentile(&mut pauses, 0.99),
        percentile(&mut whole, 0.5),
        percentile(&mut took, 0.5),
        percentile(&mut took, 1.0),
        Some(book.failures().len() as f64),
        Some(book.settled() as f64),
    ];
    table.row(HANDED_OVER, &[cells]);
    table.notes.push(
        "All three regions, riders and drivers on one machine. Rides are asked for at their pace, however long those before \
         take; where the machine cannot carry 50 a second beside all that, as many as it can. A ride fails for good when a call \
         is still refused after a minute of asking again. The section ends with an error if a ride or payment that was \
         acknowledged is not there afterwards as it was, or not in every ledger exactly once."
            .into(),
    );
    table.notes.extend(book.failures().first().map(|failure| format!("The first that failed: {failure}")));
    Ok(table)
}

/// Rides of a city that come at a pace the machine keeps up with, and that pace.
async fn people(city: TestCity) -> (Traffic, f64) {
    for pace in PACES {
        let traffic = Traffic::start_paced(std::slice::from_ref(&city), PAIRS, pace).await;
        traffic.rides_go_on(WARM_UP).await;
        sleep(KEPT_UP_FOR).await;
        // No more than what is due in a second.
        if traffic.waiting() as f64 <= pace || pace == PACES[PACES.len() - 1] {
            return (traffic, pace);
        }
        let _: Arc<Book> = traffic.stop().await;
    }
    unreachable!("the last pace is gone by in any case")
}

async fn forced(cluster: &TestCluster, options: &Options) -> anyhow::Result<Table> {
    let (mut served_s, mut refused_s, mut flagged) = (Vec::new(), Vec::new(), 0);
    let moves = if options.quick { 1 } else { 6 };
    for at in 0..moves {
        let [to, other, from] = [0, 1, 2].map(|ahead| IN_TURN[(at + ahead) % IN_TURN.len()]);
        let operator = patient_operator(cluster, other).await;
        let city = cluster.city(TAKEN);
        let (old, third) = (city.through(&cluster.http_url(from)), city.through(&cluster.http_url(other)));
        // Its payment is settled where nobody else hears of it.
        let served = old.serve_ride().await;
        for region in [to, other] {
            cluster.link(from, region).cut()?;
        }
        served.rider.pay(served.trip.id).await;
        cluster.freeze_region(from)?;
        let commanded = Instant::now();
        let moving = operator.rehome(TAKEN, to, "failover").await?;
        while !matches!(timeout(CALL_WITHIN, third.try_register()).await, Ok(Ok(()))) {
            ensure!(commanded.elapsed() < MOVED_WITHIN, "{to} does not serve");
            sleep(LOOK_EVERY).await;
        }
        served_s.push(commanded.elapsed().as_secs_f64());
        until_completed(&operator, &moving).await?;
        cluster.thaw_region(from)?;
        cluster.all_links().heal()?;
        let thawed = Instant::now();
        while !sends_on_to(&old, to).await {
            ensure!(thawed.elapsed() < MOVED_WITHIN, "{from} does not hear that {to} is the home");
            sleep(LOOK_EVERY).await;
        }
        refused_s.push(thawed.elapsed().as_secs_f64());
        cluster.converged().await;
        for region in [to, other] {
            let ledger = cluster.operator_at(region).await.with_patience(Patience::PATIENT).all_settlements().await?;
            let of_trip: Vec<_> = ledger.iter().filter(|fact| fact.trip_id == served.trip.id).collect();
            ensure!(of_trip.len() == 1 && of_trip[0].late, "{region} has of a late payment: {of_trip:?}");
        }
        flagged += 1;
    }
    let mut table = Table::new("A tenant whose home stands still is taken over by another region", &FORCED);
    let cells = vec![
        Some(moves as f64),
        percentile(&mut served_s, 0.5),
        percentile(&mut served_s, 1.0),
        percentile(&mut refused_s, 0.5),
        percentile(&mut refused_s, 1.0),
        Some(f64::from(flagged)),
    ];
    table.row(TAKEN, &[cells]);
    table.notes.push(
        "All programs of the home stand still, its database too; a third region is asked to register riders until that is done. \
         Just before, one payment was settled where nobody else heard of it. The old home refuses writes as soon as it sends \
         commands on to the new one."
            .into(),
    );
    Ok(table)
}

/// Whether an old home answers a command, which has nothing in it, with what the new one says.
async fn sends_on_to(old: &TestCity, to: &str) -> bool {
    let asked = old.client.call(Method::POST, "/v1/riders").body(&json!({})).unsigned().answer();
    let answer = timeout(CALL_WITHIN, asked).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.header("x-served-by-region") == Some(to)))
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
