//! Settlements on their way to another region, beside Postgres' logical replication of the same table in the same run:
//! the same two databases with the same settings, the same delay between them, every commit synced.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use deploy_local::{Builder, Cluster, Durability, Links, Route, Service, TenantSpec};
use serde_json::json;
use shared::tenant_document::{DocumentActor, TenantDocument};
use sqlx::{Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    api::Client,
    bench::{Cpu, Meter, Options, Table, memory_kib, most_memory_kib, percentile, sum_of_metric},
};

pub(super) const HERE: &str = "us-east";
pub(super) const THERE: &str = "eu-west";
const BOTH_WAYS: [(&str, &str); 2] = [(HERE, THERE), (THERE, HERE)];
const ONE_WAY: Duration = Duration::from_millis(40);
/// Settlements in a second while latency is measured, and when as many as possible are to be kept up with.
pub(super) const CALM_PER_S: u32 = 500;
const BUSY_PER_S: u32 = 2_000;
/// Settlements of an hour.
const HOUR: i64 = CALM_PER_S as i64 * 3_600;
/// Commits of a writer are this far apart.
const COMMITS_EVERY: Duration = Duration::from_millis(10);
const LOOKS_EVERY: Duration = Duration::from_millis(2);
/// What was committed arrives within this time, or the section fails.
const ARRIVES_WITHIN: Duration = Duration::from_secs(900);
/// Rows made by one statement while a peer is away.
const AT_A_TIME: i64 = 10_000;

/// How settlements get from one region to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    GlobalSync,
    Logical,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GlobalSync => "global-sync",
            Self::Logical => "logical replication",
        }
    }

    /// The table in which they become visible there.
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::GlobalSync => "ledger_facts",
            Self::Logical => "bench_facts",
        }
    }

    /// Commits `$1::uuid[]` as settlements here.
    fn insert(self) -> &'static str {
        match self {
            Self::GlobalSync => {
                "INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body)
                 SELECT f, 'ledger', 'settlement', 'manhattan-cabs', 1, 0, convert_to(json_build_object(
                     'fact_id', f, 'payment_id', f, 'trip_id', f, 'tenant', 'manhattan-cabs', 'amount', 1250,
                     'currency', 'USD', 'settled_at', '2026-01-01T00:00:00Z')::text, 'UTF8')
                 FROM UNNEST($1::uuid[]) f"
            }
            Self::Logical => {
                "INSERT INTO bench_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
                     origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash)
                 SELECT f, f, f, 'manhattan-cabs', 'settlement', 1250, 'USD', 'us-east', 1, nextval('bench_seq'), 1, 0,
                        '2026-01-01T00:00:00Z', sha256(f::text::bytea)
                 FROM UNNEST($1::uuid[]) f"
            }
        }
    }
}

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let stand = Stand::start().await?;
    let mut tables = Tables { latency: latency_table(), catch_up: catch_up_table(), memory: memory_table() };
    add_rows(&stand, Way::GlobalSync, &mut tables, options).await?;
    stand.halt_global_syncs().await?;
    // Only now: its decoder reads every commit of the database, whosever it is.
    let subscription = stand.subscribe(Copied::Nothing).await?;
    add_rows(&stand, Way::Logical, &mut tables, options).await?;
    subscription.end().await?;
    Ok(vec![tables.latency, tables.catch_up, tables.memory, drafts(options)?])
}

struct Tables {
    latency: Table,
    catch_up: Table,
    memory: Table,
}

async fn add_rows(stand: &Stand, way: Way, tables: &mut Tables, options: &Options) -> anyhow::Result<()> {
    for per_s in [CALM_PER_S, BUSY_PER_S] {
        let mut runs = Vec::new();
        for _ in 0..options.runs() {
            runs.push(paced(stand, way, per_s, options.duration()).await?);
        }
        tables.latency.row(format!("{}, {per_s}/s asked for", way.name()), &runs);
    }
    let rows = if options.quick { 20_000 } else { HOUR };
    match way {
        Way::GlobalSync => ours(stand, rows, tables).await,
        Way::Logical => theirs(stand, rows, tables).await,
    }
}

const DRAFT_EDITS: u32 = 1_000;

/// What a tenant's draft costs after many edits, with its whole history and in generations; no database, one core.
fn drafts(options: &Options) -> anyhow::Result<Table> {
    let mut table = Table::new(
        format!("A draft after {DRAFT_EDITS} edits"),
        &["", "bytes", "taking in an edit, ms", "bytes at most"],
    );
    for generations in [false, true] {
        let runs = (0..options.runs()).map(|_| {
            let (mut draft, mut generation, mut largest) = (TenantDocument::create("cabs", 0), 0, 0);
            let edited = |draft: &mut TenantDocument, n: u32| {
                let patch = json!({"labels": {(format!("label-{}", n % 50)): format!("value {n} of a label")}});
                draft.apply_merge_patch(None, &patch, &DocumentActor::of("us-east", 1))
            };
            for n in 0..DRAFT_EDITS {
                edited(&mut draft, n)?;
                if generations && draft.is_grown() {
                    largest = largest.max(draft.save().len());
                    generation += 1;
                    draft = TenantDocument::compact("cabs", generation, &draft.to_json())?;
                }
            }
            let saved = draft.save();
            let mut author = TenantDocument::load(&saved)?;
            let change = edited(&mut author, DRAFT_EDITS)?.context("it changes something")?;
            // As an edit that arrives is: read, merge, write.
            let begun = Instant::now();
            let mut reader = TenantDocument::load(&saved)?;
            reader.apply_changes(&[change])?;
            let bytes = reader.save().len();
            let took_ms = begun.elapsed().as_secs_f64() * 1e3;
            Ok(vec![Some(bytes as f64), Some(took_ms), Some(largest.max(bytes) as f64)])
        });
        let runs = runs.collect::<anyhow::Result<Vec<_>>>()?;
        table.row(if generations { "in generations" } else { "its whole history" }, &runs);
    }
    Ok(table)
}

/// Two regions, and the same table replicated both ways.
pub(super) struct Stand {
    pub(super) cluster: Cluster,
    pub(super) here: PgPool,
    pub(super) there: PgPool,
    /// The way a subscription has to go, as long as that between the global-syncs.
    links: Links,
    /// Where that way begins.
    publisher: u16,
}

/// What a new subscription takes besides what is committed from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    Nothing,
    Everything,
}

/// Postgres' logical replication of the other table.
pub(super) struct Subscription {
    /// Owns it: no transaction may hold its changes.
    there: PgConnection,
}

impl Subscription {
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.there.execute("DROP SUBSCRIPTION bench").await?;
        Ok(self.there.close().await?)
    }
}

impl Stand {
    async fn start() -> anyhow::Result<Self> {
        Self::start_with(|builder| builder).await
    }

    /// The same with other settings.
    pub(super) async fn start_with(settings: impl FnOnce(Builder) -> Builder) -> anyhow::Result<Self> {
        let spec = TenantSpec::demo(&[HERE.to_owned()]).into_iter().next().context("the demo has tenants")?;
        let builder = Cluster::builder().regions([HERE, THERE]).links(true).tenants([spec]);
        let builder = builder.postgres_setting("wal_level = logical").durability(Durability::PowerCut);
        let cluster = settings(builder).start().await?;
        cluster.all_links().delay(ONE_WAY)?;
        let pool = async |region| PgPoolOptions::new().max_connections(8).connect(&cluster.postgres_url(region)).await;
        let (here, there) = (pool(HERE).await?, pool(THERE).await?);
        for pool in [&here, &there] {
            pool.execute("CREATE SEQUENCE bench_seq; CREATE TABLE bench_facts (LIKE ledger_facts INCLUDING ALL)")
                .await?;
        }
        // The table's own numbers may not be those of the other region.
        there.execute("ALTER TABLE bench_facts ALTER position DROP IDENTITY").await?;
        here.execute("CREATE PUBLICATION bench FOR TABLE bench_facts").await?;

        let links = Links::new()?;
        let publisher = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let postgres = SocketAddr::from(([127, 0, 0, 1], here.connect_options().get_port()));
        links.open(THERE, HERE, Route { listen: publisher, tcp: vec![postgres], udp: vec![postgres] }).await?;
        for (from, to) in BOTH_WAYS {
            links.change(from, to, |direction| direction.delay = ONE_WAY)?;
        }
        Ok(Self { cluster, here, there, links, publisher })
    }

    pub(super) async fn subscribe(&self, copied: Copied) -> anyhow::Result<Subscription> {
        let mut there = PgConnection::connect(&self.cluster.postgres_url(THERE)).await?;
        let subscribe = format!(
            "CREATE SUBSCRIPTION bench CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=gocomet'
             PUBLICATION bench WITH (copy_data = {})",
            self.publisher,
            copied == Copied::Everything
        );
        there.execute(sqlx::AssertSqlSafe(subscribe)).await?;
        Ok(Subscription { there })
    }

    /// Leaves both databases to logical replication alone.
    pub(super) async fn halt_global_syncs(&self) -> anyhow::Result<()> {
        for region in [HERE, THERE] {
            self.cluster.halt(region, Service::SYNC).await?;
        }
        Ok(())
    }

    /// Has the global-sync there run again; what it uses counts from its start.
    pub(super) async fn bring_back(&self) -> anyhow::Result<[Meter; 2]> {
        let [here, mut there] = self.meters()?;
        self.cluster.restart(THERE, Service::SYNC).await?;
        there.add_started(&self.cluster, THERE, Service::SYNC)?;
        Ok([here, there])
    }

    /// Bytes that travelled between the regions so far, both ways: UDP's of global-sync, TCP's of the subscription.
    pub(super) fn carried(&self, way: Way) -> anyhow::Result<f64> {
        let bytes = match way {
            Way::GlobalSync => self.cluster.link(HERE, THERE).carried()?.datagrams,
            Way::Logical => BOTH_WAYS
                .iter()
                .try_fold(0, |sum, (from, to)| anyhow::Ok(sum + self.links.carried(from, to)?.streams))?,
        };
        Ok(bytes as f64)
    }

    fn memory_mib(&self, region: &str) -> anyhow::Result<f64> {
        Ok(memory_kib(&self.cluster, region, Service::SYNC)? / 1024.0)
    }

    pub(super) fn most_memory_mib(&self, region: &str) -> anyhow::Result<f64> {
        Ok(most_memory_kib(&self.cluster, region, Service::SYNC)? / 1024.0)
    }

    pub(super) async fn count(&self, pool: &PgPool, table: &str) -> anyhow::Result<i64> {
        let count = format!("SELECT count(*) FROM {table}");
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(pool).await?)
    }

    /// A metric of the global-sync here, over all its labels.
    async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let client = Client::new(&self.cluster.status_url(HERE));
        let answer = client.call(reqwest::Method::GET, "/metrics").unsigned().send().await?;
        Ok(sum_of_metric(&answer.text(), name, "").unwrap_or_default())
    }

    pub(super) fn meters(&self) -> anyhow::Result<[Meter; 2]> {
        Ok([Meter::of_region(&self.cluster, HERE)?, Meter::of_region(&self.cluster, THERE)?])
    }
}

pub(super) fn used(meters: &[Meter; 2]) -> anyhow::Result<Cpu> {
    let (a, b) = (meters[0].used()?, meters[1].used()?);
    Ok(Cpu { postgres_us: a.postgres_us + b.postgres_us, sync_us: a.sync_us + b.sync_us, ..Cpu::default() })
}

/// What counts as bytes on the wire, for every table that has them.
pub(super) const WIRE: &str = "Bytes on the wire are those the relay between the regions carried, there and back, counted \
     at its sockets for both. In global-sync's are QUIC's headers, acknowledgements and encryption; logical replication's are \
     plain, and TCP's own headers and acknowledgements are not in them.";

fn latency_table() -> Table {
    let columns = [
        "way",
        "settlements/s",
        "p50 ms over the one-way delay",
        "p99 ms over it",
        "visible/s",
        "bytes on the wire each",
        "CPU µs each",
    ];
    let mut table = Table::new("From the commit here until it is visible there, 40 ms away", &columns);
    table.notes.push(
        "Logical replication numbers nothing, signs nothing and compares nothing: it is the floor. CPU is that of both \
         databases and both global-syncs, the look that finds what is visible (every 2 ms) included."
            .into(),
    );
    table.notes.push(WIRE.into());
    table
}

/// Commits at a pace and looks when each settlement is visible on the other side.
async fn paced(stand: &Stand, way: Way, per_s: u32, duration: Duration) -> anyhow::Result<Vec<Option<f64>>> {
    let (meters, carried) = (stand.meters()?, stand.carried(way)?);
    let newest = format!("SELECT COALESCE(max(position), 0) FROM {}", way.table());
    let after: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(newest)).fetch_one(&stand.there).await?;
    let tasks = TaskTracker::new();
    let writing = tasks.spawn(write(stand.here.clone(), way, per_s, duration, CancellationToken::new()));
    let begun = Instant::now();
    let expected = u64::from(per_s) * duration.as_secs();
    let mut seen: HashMap<Uuid, Instant> = HashMap::new();
    // Positions of several writers become visible out of order: a little is read again.
    let look = format!("SELECT fact_id, position FROM {} WHERE position > $1 - 2000 AND position > $2", way.table());
    let mut reached = after;
    let mut looks = interval(LOOKS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = begun;
    while (seen.len() as u64) < expected {
        looks.tick().await;
        ensure!(begun.elapsed() < ARRIVES_WITHIN, "{} of {expected} settlements are visible", seen.len());
        let rows: Vec<(Uuid, i64)> =
            sqlx::query_as(sqlx::AssertSqlSafe(look.clone())).bind(reached).bind(after).fetch_all(&stand.there).await?;
        let now = Instant::now();
        for (fact, position) in rows {
            reached = reached.max(position);
            seen.entry(fact).or_insert_with(|| {
                last = now;
                now
            });
        }
    }
    let committed = writing.await??;
    let late = |(fact, at): (&Uuid, &Instant)| {
        let took = seen.get(fact)?.saturating_duration_since(*at);
        Some((took.as_secs_f64() - ONE_WAY.as_secs_f64()) * 1e3)
    };
    let mut over_ms: Vec<f64> = committed.iter().filter_map(late).collect();
    ensure!(over_ms.len() as u64 == expected, "{} of {expected} settlements are visible", over_ms.len());
    let seconds = last.duration_since(begun).as_secs_f64();
    Ok(vec![
        Some(f64::from(per_s)),
        percentile(&mut over_ms, 0.5),
        percentile(&mut over_ms, 0.99),
        Some(expected as f64 / seconds),
        Some((stand.carried(way)? - carried) / expected as f64),
        Some(used(&meters)?.total_us() / expected as f64),
    ])
}

/// Commits some settlements every ten milliseconds, until told to stop; says when each commit was done.
pub(super) async fn write(
    here: PgPool,
    way: Way,
    per_s: u32,
    duration: Duration,
    stop: CancellationToken,
) -> anyhow::Result<HashMap<Uuid, Instant>> {
    let mut ticks = interval(COMMITS_EVERY);
    let each = u64::from(per_s) * u64::try_from(COMMITS_EVERY.as_millis())? / 1_000;
    let mut committed = HashMap::new();
    for _ in 0..duration.as_millis() / COMMITS_EVERY.as_millis() {
        ticks.tick().await;
        if stop.is_cancelled() {
            break;
        }
        let facts: Vec<Uuid> = (0..each).map(|_| Uuid::now_v7()).collect();
        sqlx::query(way.insert()).bind(&facts).execute(&here).await?;
        let now = Instant::now();
        committed.extend(facts.into_iter().map(|fact| (fact, now)));
    }
    Ok(committed)
}

fn catch_up_table() -> Table {
    let columns =
        ["way", "settlements", "rows/s", "bytes on the wire each", "bytes of packed messages each", "CPU µs each"];
    let mut table = Table::new("A region that was away for an hour catches up", &columns);
    table.notes.push(
        "From the moment the other side is there again until it holds everything. Global-sync's CPU is that of sending, \
         storing, verifying and applying; the time it took to number them is not in it."
            .into(),
    );
    table.notes.push(WIRE.into());
    table
}

fn memory_table() -> Table {
    let columns =
        ["", "settlements", "MiB before", "MiB with all of them waiting for the peer", "MiB at most", "MiB at the end"];
    let mut table = Table::new("Memory of global-sync while an hour's traffic goes through it", &columns);
    table.notes.push(
        "Resident memory in the run of the table above: committed as fast as they are taken while the other side is away, \
         then sent to it. That of the other side counts from when it is back. At most is since the program started, what was \
         measured before in this section included."
            .into(),
    );
    table
}

async fn ours(stand: &Stand, rows: i64, tables: &mut Tables) -> anyhow::Result<()> {
    let before = stand.count(&stand.there, "ledger_facts").await?;
    stand.cluster.halt(THERE, Service::SYNC).await?;
    let here_before = stand.count(&stand.here, "ledger_facts").await?;
    let memory_before = stand.memory_mib(HERE)?;
    fill(stand, Way::GlobalSync, rows).await?;
    until(&stand.here, "ledger_facts", here_before + rows).await?;
    let memory_waiting = stand.memory_mib(HERE)?;
    let sent = stand.metric("global_sync_sent_bytes_total").await?;
    let carried = stand.carried(Way::GlobalSync)?;
    let meters = stand.bring_back().await?;
    let memory_back = stand.memory_mib(THERE)?;
    let begun = Instant::now();
    until(&stand.there, "ledger_facts", before + rows).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_us = used(&meters)?.total_us();
    let carried = stand.carried(Way::GlobalSync)? - carried;
    let sent = stand.metric("global_sync_sent_bytes_total").await? - sent;
    let each = rows as f64;
    let run = [each, each / seconds, carried / each, sent / each, cpu_us / each].map(Some);
    tables.catch_up.row(Way::GlobalSync.name(), &[run.to_vec()]);
    for (name, region, before, waiting) in [
        ("here, where they are committed", HERE, memory_before, Some(memory_waiting)),
        ("there, where they arrive", THERE, memory_back, None),
    ] {
        let (most, end) = (stand.most_memory_mib(region)?, stand.memory_mib(region)?);
        tables.memory.row(name, &[vec![Some(each), Some(before), waiting, Some(most), Some(end)]]);
    }
    Ok(())
}

async fn theirs(stand: &Stand, rows: i64, tables: &mut Tables) -> anyhow::Result<()> {
    let before = stand.count(&stand.there, "bench_facts").await?;
    stand.there.execute("ALTER SUBSCRIPTION bench DISABLE").await?;
    fill(stand, Way::Logical, rows).await?;
    let (meters, carried) = (stand.meters()?, stand.carried(Way::Logical)?);
    let begun = Instant::now();
    stand.there.execute("ALTER SUBSCRIPTION bench ENABLE").await?;
    until(&stand.there, "bench_facts", before + rows).await?;
    let (each, seconds) = (rows as f64, begun.elapsed().as_secs_f64());
    let (cpu_us, carried) = (used(&meters)?.total_us(), stand.carried(Way::Logical)? - carried);
    let run = vec![Some(each), Some(each / seconds), Some(carried / each), None, Some(cpu_us / each)];
    tables.catch_up.row(Way::Logical.name(), &[run]);
    Ok(())
}

/// Commits many settlements, some in each transaction, as an hour of traffic would have.
pub(super) async fn fill(stand: &Stand, way: Way, rows: i64) -> anyhow::Result<()> {
    let mut left = rows;
    while left > 0 {
        let facts: Vec<Uuid> = (0..left.min(AT_A_TIME)).map(|_| Uuid::now_v7()).collect();
        sqlx::query(way.insert()).bind(&facts).execute(&stand.here).await?;
        left -= AT_A_TIME;
    }
    Ok(())
}

/// Waits until a table has so many rows; counting costs, so seldom.
pub(super) async fn until(pool: &PgPool, table: &str, rows: i64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let count = format!("SELECT count(*) FROM {table}");
    loop {
        let asked = Instant::now();
        let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count.clone())).fetch_one(pool).await?;
        if found >= rows {
            return Ok(());
        }
        ensure!(begun.elapsed() < ARRIVES_WITHIN, "{found} of {rows} rows are in {table}");
        sleep(asked.elapsed().mul_f64(3.0).clamp(Duration::from_millis(20), Duration::from_secs(1))).await;
    }
}
