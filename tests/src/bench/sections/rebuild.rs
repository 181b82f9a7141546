//! How long it takes until everybody is found again: by a node that starts, after Redis was emptied, and when a node dies whose
//! drivers must connect to another.

use std::time::Duration;

use anyhow::Context;
use deploy_local::Service;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::Instant,
};

use super::matching::{FEED_EVERY, around, feed};
use crate::bench::{Crowd, Member, Options, Orders, Person, Stand, Table, make_drivers, place_in_town};

const DRIVERS: usize = 100_000;
const FEW_DRIVERS: usize = 10_000;
const CONNECTED: usize = 10_000;
const FEW_CONNECTED: usize = 2_000;
const NODES: u16 = 2;
/// Feeds the other, which is restarted and killed.
const FED_NODE: u16 = 1;
const NODE: u16 = NODES;
const LIVE: &str = "region_node_live_drivers";
const OLDEST: &str = "region_node_oldest_position_seconds";
const KNOWN_WITHIN: Duration = Duration::from_secs(120);
const LOOKS_EVERY: Duration = Duration::from_millis(50);
/// A driver on the road.
const REPORT_EVERY: Duration = Duration::from_secs(4);

const COLUMNS: [&str; 4] = ["", "drivers", "s until it serves", "s until it knows them all"];
const EMPTIED: [&str; 4] = ["", "drivers", "s until Redis has them all", "fewest a running node knew"];
const KILLED: [&str; 5] = [
    "",
    "drivers whose node it was",
    "s until all are connected",
    "s until all are found anew",
    "fewest found meanwhile",
];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let count = if options.quick { FEW_DRIVERS } else { DRIVERS };
    let stand = Stand::start(NODES).await?;
    let drivers = make_drivers(&stand, count).await?;
    feed(&stand, &drivers, &around(count), |cars| cars.driving(FEED_EVERY)).await?;
    until_known(&stand, count).await?;
    // Until Postgres has the places, too.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let emptied = emptied(&stand, count, options).await?;
    let restarted = restarted(&stand, count, options).await?;
    drop(stand);
    Ok(vec![restarted, emptied, killed(options).await?])
}

async fn restarted(stand: &Stand, count: usize, options: &Options) -> anyhow::Result<Table> {
    let mut table = Table::new("A node restarted among drivers who drive", &COLUMNS);
    for (name, loses_redis) in [("node restarted", false), ("Redis and node restarted", true)] {
        let mut runs = Vec::new();
        for _ in 0..options.runs() {
            stand.cluster.halt(stand.region(), Service::RegionNode(NODE)).await?;
            if loses_redis {
                stand.cluster.restart(stand.region(), Service::Redis).await?;
            }
            let begun = Instant::now();
            stand.cluster.restart(stand.region(), Service::RegionNode(NODE)).await?;
            let serves_s = begun.elapsed().as_secs_f64();
            // Drivers are heard again only once it is; should the node have missed one, it is known by his next report.
            stand.announce_key().await?;
            until_known(stand, count).await?;
            runs.push(vec![Some(count as f64), Some(serves_s), Some(begun.elapsed().as_secs_f64())]);
        }
        table.row(name, &runs);
    }
    table.notes.push("From the start of the process. How many a node knows is looked at once a second.".into());
    Ok(table)
}

async fn emptied(stand: &Stand, count: usize, options: &Options) -> anyhow::Result<Table> {
    let mut table = Table::new("Redis emptied under running nodes and drivers who drive", &EMPTIED);
    let mut runs = Vec::new();
    for _ in 0..options.runs() {
        until_known(stand, count).await?;
        let begun = Instant::now();
        redis_says(stand, "FLUSHALL").await?;
        let (mut fewest, mut all_s) = (f64::INFINITY, None);
        // Until positions from before would be gone, had nodes forgotten to hear of those after.
        while all_s.is_none() || begun.elapsed() < FEED_EVERY * 2 {
            for node in 1..=NODES {
                fewest = fewest.min(stand.metric_of(node, LIVE, "").await?.unwrap_or_default());
            }
            let keys = redis_says(stand, "DBSIZE").await?;
            let keys: usize = keys.trim_start_matches(':').parse().with_context(|| format!("Redis answers {keys}"))?;
            if all_s.is_none() && keys >= count {
                all_s = Some(begun.elapsed().as_secs_f64());
            }
            anyhow::ensure!(begun.elapsed() < KNOWN_WITHIN, "Redis has {keys} keys for {count} drivers");
            tokio::time::sleep(LOOKS_EVERY).await;
        }
        runs.push(vec![Some(count as f64), all_s, Some(fewest)]);
    }
    table.row("FLUSHALL", &runs);
    table.notes.push(format!(
        "Running nodes search in what they know themselves, so their searches stay complete; a node that starts reads what Redis has. \
         How many nodes knew was looked at for {} s.",
        (FEED_EVERY * 2).as_secs()
    ));
    Ok(table)
}

/// What Redis answers to a command of one line with one line.
async fn redis_says(stand: &Stand, command: &str) -> anyhow::Result<String> {
    let url = stand.cluster.redis_url(stand.region());
    let address = url.trim_start_matches("redis://").trim_end_matches('/');
    let mut connection = BufReader::new(TcpStream::connect(address).await?);
    connection.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut answer = String::new();
    connection.read_line(&mut answer).await?;
    Ok(answer.trim_end().to_owned())
}

async fn killed(options: &Options) -> anyhow::Result<Table> {
    let count = if options.quick { FEW_CONNECTED } else { CONNECTED };
    let mut table = Table::new(format!("One of {NODES} nodes killed under {count} connected drivers"), &KILLED);
    let mut runs = Vec::new();
    for _ in 0..options.runs() {
        runs.push(kill_one(count).await?);
    }
    table.row("SIGKILL", &runs);
    table.notes.push(format!(
        "Each reports every {} s, and comes back as Socket.IO's client does, spread over seconds. Found anew: the node that is left \
         knows of each a place reported after the kill. How many it finds is looked at once a second.",
        REPORT_EVERY.as_secs()
    ));
    Ok(table)
}

async fn kill_one(count: usize) -> anyhow::Result<Vec<Option<f64>>> {
    let stand = Stand::start(NODES).await?;
    let drivers = make_drivers(&stand, count).await?;
    let member = |(index, driver): (usize, &Person)| Member {
        token: stand.signer.sign(&stand.tenant, driver.role, driver.id),
        at: place_in_town(index, 1.0),
    };
    let members: Vec<_> = drivers.iter().enumerate().map(member).collect();
    let urls = (1..=NODES).map(|node| stand.cluster.node_url(stand.region(), node)).collect();
    let orders = Orders { tenant: stand.tenant.clone(), urls, report_every: REPORT_EVERY, accepts: false };
    let crowd = Crowd::gather(&orders, &members, 1, &stand.tasks).await?;
    crowd.until_connected(count, KNOWN_WITHIN).await?;
    until_known(&stand, count).await?;
    let theirs = stand.metric_of(NODE, "region_node_sockets", "").await?;
    let begun = Instant::now();
    stand.cluster.kill(stand.region(), Service::RegionNode(NODE)).await?;
    let (mut fewest, mut connected_s, mut found_s) = (f64::INFINITY, None, None);
    while found_s.is_none() {
        let found = stand.metric_of(FED_NODE, LIVE, "").await?.unwrap_or_default();
        let oldest_s = stand.metric_of(FED_NODE, OLDEST, "").await?.unwrap_or(f64::INFINITY);
        let elapsed_s = begun.elapsed().as_secs_f64();
        fewest = fewest.min(found);
        // Those who are connected still count as such until they notice.
        let lost = crowd.state().failed.get("connection lost").copied().unwrap_or_default();
        if connected_s.is_none() && Some(lost as f64) >= theirs && crowd.state().connected == count {
            connected_s = Some(elapsed_s);
        }
        if found >= count as f64 && oldest_s < elapsed_s {
            found_s = Some(elapsed_s);
        }
        anyhow::ensure!(begun.elapsed() < KNOWN_WITHIN, "{found} of {count} are found, the oldest {oldest_s} s ago");
        tokio::time::sleep(LOOKS_EVERY).await;
    }
    Ok(vec![theirs, connected_s, found_s, Some(fewest)])
}

/// Until the second node knows them all.
async fn until_known(stand: &Stand, count: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let known = stand.metric_of(NODE, LIVE, "").await?.unwrap_or_default();
        if known >= count as f64 {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < KNOWN_WITHIN, "{known} of {count} drivers are known");
        tokio::time::sleep(LOOKS_EVERY).await;
    }
}
