//! How long a node that starts takes to know where everybody is.

use std::time::Duration;

use deploy_local::Service;
use tokio::time::Instant;

use super::matching::{around, feed};
use crate::bench::{Options, Stand, Table, make_drivers};

const DRIVERS: usize = 100_000;
const FEW_DRIVERS: usize = 10_000;
/// Feeds the other, is restarted.
const NODE: u16 = 2;
const LIVE: &str = "region_node_live_drivers";
const KNOWN_WITHIN: Duration = Duration::from_secs(120);
const LOOKS_EVERY: Duration = Duration::from_millis(50);

const COLUMNS: [&str; 4] = ["", "drivers", "s until it serves", "s until it knows them all"];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let count = if options.quick { FEW_DRIVERS } else { DRIVERS };
    let stand = Stand::start(NODE).await?;
    let drivers = make_drivers(&stand, count).await?;
    feed(&stand, &drivers, &around(count)).await?;
    until_known(&stand, count).await?;
    // Until Postgres has the places, too.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut table = Table::new("A node restarted among live drivers", &COLUMNS);
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
            until_known(&stand, count).await?;
            runs.push(vec![Some(count as f64), Some(serves_s), Some(begun.elapsed().as_secs_f64())]);
        }
        table.row(name, &runs);
    }
    table.notes.push("From the start of the process. How many a node knows is looked at once a second.".into());
    Ok(vec![table])
}

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
