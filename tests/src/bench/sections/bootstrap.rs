//! A region that was away for so long that nobody keeps what it lacks: it loads a snapshot, while settlements go on.

use std::time::Duration;

use anyhow::ensure;
use deploy_local::Service;
use tokio::time::{Instant, sleep, timeout};

use super::replication::{CALM_PER_S, HERE, Stand, THERE, Way, fill, until, used, write};
use crate::bench::{Options, Table, most_memory_kib};

/// Entries a region may lack and is waited for: more than are written while it loads, fewer than it lacks.
const KEPT: i64 = 1_000_000;
const FEW_KEPT: i64 = 10_000;
const DROPPED_WITHIN: Duration = Duration::from_secs(900);
/// Longer than any bootstrap; the writer is stopped when it is over.
const WRITES_FOR: Duration = Duration::from_hours(6);

const COLUMNS: [&str; 8] = [
    "settlements in it",
    "s until it has them",
    "rows/s",
    "settlements meanwhile",
    "s until it has those too",
    "rows missing",
    "CPU µs each",
    "MiB of memory at most",
];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let (rows, kept) = if options.quick { (50_000, FEW_KEPT) } else { (5_000_000, KEPT) };
    let settings = [("KEEP", "1s".to_owned()), ("KEEP_ENTRIES", kept.to_string()), ("DROP_EVERY", "1s".to_owned())];
    let stand = Stand::start_with(|builder| {
        settings
            .iter()
            .fold(builder, |builder, (name, value)| builder.sync_env(&format!("GLOBAL_SYNC_LOG__{name}"), value))
    })
    .await?;
    let mut table = Table::new("A region without settlements that nobody keeps in a log loads a snapshot", &COLUMNS);
    table.row(format!("while {CALM_PER_S} settlements/s are written"), &[bootstrap(&stand, rows, kept).await?]);
    table.notes.push(
        "The giving region takes new settlements all the while. Memory is the most either global-sync ever held. Rows missing \
         are those of the giving region's that the other lacks when both have the same number of them, or a minute has passed."
            .into(),
    );
    Ok(vec![table])
}

async fn bootstrap(stand: &Stand, rows: i64, kept: i64) -> anyhow::Result<Vec<Option<f64>>> {
    let table = Way::GlobalSync.table();
    stand.cluster.halt(THERE, Service::SYNC).await?;
    let before = stand.count(&stand.here, table).await?;
    fill(stand, Way::GlobalSync, rows).await?;
    until(&stand.here, table, before + rows).await?;
    until_dropped(stand, rows - kept).await?;

    let meters = stand.meters()?;
    stand.cluster.restart(THERE, Service::SYNC).await?;
    let begun = Instant::now();
    // Dropped when the other has what the snapshot had: what it committed until then is counted here.
    tokio::select! {
        written = write(stand.here.clone(), Way::GlobalSync, CALM_PER_S, WRITES_FOR) => {
            written?;
        }
        there = until(&stand.there, table, before + rows) => there?,
    }
    let seconds = begun.elapsed().as_secs_f64();
    until_numbered(stand).await?;
    let all = stand.count(&stand.here, table).await?;
    // Not fatal: what is missing then is what this row shows.
    let _late = timeout(Duration::from_secs(60), until(&stand.there, table, all)).await;
    let (complete_s, cpu_us) = (begun.elapsed().as_secs_f64(), used(&meters)?.total_us());
    let missing = all - stand.count(&stand.there, table).await?;
    let kib = [HERE, THERE].map(|region| most_memory_kib(&stand.cluster, region, Service::SYNC));
    let [here_kib, there_kib] = kib;
    Ok(vec![
        Some(rows as f64),
        Some(seconds),
        Some(rows as f64 / seconds),
        Some((all - before - rows) as f64),
        Some(complete_s),
        Some(missing as f64),
        Some(cpu_us / (all - before) as f64),
        Some(here_kib?.max(there_kib?) / 1024.0),
    ])
}

/// Waits until so many entries are in no log any more.
async fn until_dropped(stand: &Stand, entries: i64) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let dropped: Option<i64> =
            sqlx::query_scalar("SELECT max(truncated) FROM repl_cursor WHERE origin_region = $1 AND stream = 'ledger'")
                .bind(HERE)
                .fetch_one(&stand.here)
                .await?;
        if dropped.unwrap_or_default() >= entries {
            return Ok(());
        }
        ensure!(begun.elapsed() < DROPPED_WITHIN, "{dropped:?} of {entries} entries were dropped");
        sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until nothing committed waits for its number.
async fn until_numbered(stand: &Stand) -> anyhow::Result<()> {
    let begun = Instant::now();
    while stand.count(&stand.here, "repl_outbox").await? > 0 {
        ensure!(begun.elapsed() < DROPPED_WITHIN, "the outbox is not empty");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
