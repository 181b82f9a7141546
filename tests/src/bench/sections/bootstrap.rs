//! A region that was away for so long that nobody keeps what it lacks: it loads a snapshot, while settlements go on. Beside
//! it a new subscription of Postgres' logical replication, which copies as many rows of the same table first.

use std::time::Duration;

use anyhow::ensure;
use deploy_local::Service;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::replication::{CALM_PER_S, Copied, HERE, Stand, THERE, WIRE, Way, fill, until, used, write};
use crate::bench::{Meter, Options, Table};

/// Entries a region may lack and is waited for: more than are written while it loads, fewer than it lacks.
const KEPT: i64 = 1_000_000;
const FEW_KEPT: i64 = 10_000;
const DROPPED_WITHIN: Duration = Duration::from_secs(900);
/// Longer than any bootstrap; the writer is stopped when it is over.
const WRITES_FOR: Duration = Duration::from_hours(6);

const COLUMNS: [&str; 10] = [
    "way",
    "settlements in it",
    "s until it has them",
    "rows/s",
    "settlements meanwhile",
    "s until it has those too",
    "rows missing",
    "bytes on the wire each",
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
    let title =
        format!("A region without any settlements loads a snapshot while {CALM_PER_S} more are written a second");
    let mut table = Table::new(title, &COLUMNS);
    table.row(Way::GlobalSync.name(), &[ours(&stand, rows, kept).await?]);
    stand.halt_global_syncs().await?;
    table.row(format!("{}, a new subscription", Way::Logical.name()), &[theirs(&stand, rows).await?]);
    table.notes.push(
        "Nobody keeps them in a log any more, and the giving region takes new ones all the while. Memory is the most either \
         global-sync ever held. Rows missing are those of the giving region's that the other lacks when both have the same \
         number of them, or a minute has passed; with any missing of global-sync's the section fails. A subscription copies \
         rows and compares nothing; CPU is that of both databases and both global-syncs."
            .into(),
    );
    table.notes.push(WIRE.into());
    Ok(vec![table])
}

async fn ours(stand: &Stand, rows: i64, kept: i64) -> anyhow::Result<Vec<Option<f64>>> {
    let table = Way::GlobalSync.table();
    stand.cluster.halt(THERE, Service::SYNC).await?;
    let before = stand.count(&stand.here, table).await?;
    fill(stand, Way::GlobalSync, rows).await?;
    until(&stand.here, table, before + rows).await?;
    until_dropped(stand, rows - kept).await?;

    let carried = stand.carried(Way::GlobalSync)?;
    let meters = stand.bring_back().await?;
    let load = Load { way: Way::GlobalSync, before, rows, carried, meters, begun: Instant::now() };
    let mut run = load.measure(stand).await?;
    run.push(Some(stand.most_memory_mib(HERE)?.max(stand.most_memory_mib(THERE)?)));
    Ok(run)
}

async fn theirs(stand: &Stand, rows: i64) -> anyhow::Result<Vec<Option<f64>>> {
    fill(stand, Way::Logical, rows).await?;
    let (carried, meters, begun) = (stand.carried(Way::Logical)?, stand.meters()?, Instant::now());
    let subscription = stand.subscribe(Copied::Everything).await?;
    let load = Load { way: Way::Logical, before: 0, rows, carried, meters, begun };
    let mut run = load.measure(stand).await?;
    run.push(None);
    subscription.end().await?;
    Ok(run)
}

/// A region that loads, and what was counted when it began.
struct Load {
    way: Way,
    /// Settlements it had already.
    before: i64,
    rows: i64,
    carried: f64,
    meters: [Meter; 2],
    begun: Instant,
}

impl Load {
    /// Writes on until it is over.
    async fn measure(self, stand: &Stand) -> anyhow::Result<Vec<Option<f64>>> {
        let table = self.way.table();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let writing = tasks.spawn(write(stand.here.clone(), self.way, CALM_PER_S, WRITES_FOR, stop.clone()));
        let stopped_at_the_end = stop.drop_guard();
        until(&stand.there, table, self.before + self.rows).await?;
        let seconds = self.begun.elapsed().as_secs_f64();
        drop(stopped_at_the_end);
        writing.await??;
        if self.way == Way::GlobalSync {
            until_numbered(stand).await?;
        }
        let all = stand.count(&stand.here, table).await?;
        // What is missing then is told below.
        let _late = timeout(Duration::from_secs(60), until(&stand.there, table, all)).await;
        let (complete_s, cpu_us) = (self.begun.elapsed().as_secs_f64(), used(&self.meters)?.total_us());
        let carried = stand.carried(self.way)? - self.carried;
        let missing = all - stand.count(&stand.there, table).await?;
        ensure!(
            missing == 0 || self.way == Way::Logical,
            "{missing} of {all} rows are missing: a snapshot has to bring all"
        );
        let came = (all - self.before) as f64;
        let measured = [
            self.rows as f64,
            seconds,
            self.rows as f64 / seconds,
            came - self.rows as f64,
            complete_s,
            missing as f64,
            carried / came,
            cpu_us / came,
        ];
        Ok(measured.map(Some).to_vec())
    }
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
