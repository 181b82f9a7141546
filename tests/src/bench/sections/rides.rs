//! Full rides: asked for, offered, accepted, driven, paid and settled, by riders who begin anew at once.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use deploy_local::Builder;
use serde_json::json;
use shared::{
    clock::Clock,
    geo::Point,
    ids::{DriverId, RideId},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{
    api::{Client, PaymentStatus},
    bench::{Options, Person, Stand, Table, make_drivers, make_riders, percentile},
    harness::Spot,
    socket::Socket,
};

const AT_ONCE: usize = 32;
/// Whoever waits longer has been forgotten.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first rides prepare statements, fill caches, and give Postgres tables worth a plan.
const WARM_UP: Duration = Duration::from_secs(10);
const COLUMNS: [&str; 11] = [
    "",
    "rides/s",
    "ms CPU/ride",
    "region-node",
    "Redis",
    "Postgres",
    "global-sync",
    "transactions/ride",
    "request to offer p50, ms",
    "p95, ms",
    "whole ride p50, ms",
];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let (stand, lanes) = warm(|builder| builder).await?;
    let mut table = Table::new(format!("Full rides, {AT_ONCE} riders at once, sandbox PSP at 0 ms"), &COLUMNS);
    let mut runs = Vec::new();
    for _ in 0..options.runs() {
        runs.push(measure(&stand, &lanes, options.duration()).await?);
    }
    table.row("full rides", &runs);
    table.notes.push("Every ride: request, offer, accept, arrive, start, 4 positions, end, payment settled.".into());
    drop((stand, lanes));
    // To count statements costs Postgres something itself, so it is done apart.
    let (stand, lanes) =
        warm(|builder| builder.postgres_setting("shared_preload_libraries = 'pg_stat_statements'")).await?;
    sqlx::query("CREATE EXTENSION pg_stat_statements").execute(&stand.database).await?;
    sqlx::query("SELECT pg_stat_statements_reset()").execute(&stand.database).await?;
    let settled = stand.settled().await?;
    drive(&stand, &lanes, options.duration()).await?;
    let rides = stand.settled().await? - settled;
    Ok(vec![table, statements(&stand, rides).await?])
}

/// A region in which rides have been driven for a while, and what is ready to drive more.
async fn warm(settings: impl FnOnce(Builder) -> Builder) -> anyhow::Result<(Arc<Stand>, Vec<Arc<Mutex<Lane>>>)> {
    let stand = Arc::new(Stand::start_with(1, settings).await?);
    let (riders, drivers) = (make_riders(&stand, AT_ONCE).await?, make_drivers(&stand, AT_ONCE).await?);
    let mut lanes = Vec::new();
    for (rider, driver) in riders.iter().zip(&drivers) {
        lanes.push(Arc::new(Mutex::new(Lane::open(&stand, rider, driver).await?)));
    }
    drive(&stand, &lanes, WARM_UP).await?;
    // As autovacuum does in its first minute. Until then Postgres goes by plans it made for empty tables.
    sqlx::query("VACUUM ANALYZE").execute(&stand.database).await?;
    drive(&stand, &lanes, Duration::from_secs(2)).await?;
    Ok((stand, lanes))
}

/// What Postgres was asked, by kind.
async fn statements(stand: &Stand, rides: f64) -> anyhow::Result<Table> {
    let rows: Vec<(String, i64, f64)> = sqlx::query_as(
        "SELECT query, calls, total_exec_time FROM pg_stat_statements
         WHERE userid::regrole::text IN ('gocomet_app', 'gocomet_system', 'gocomet_sync')",
    )
    .fetch_all(&stand.database)
    .await?;
    let mut sums = vec![(0.0, 0.0); KINDS.len()];
    for (query, calls, ms) in rows {
        let is_of = |kind: &Kind| kind.marks.iter().any(|mark| query.contains(mark));
        let kind = KINDS.iter().position(is_of).unwrap_or(KINDS.len() - 1);
        sums[kind].0 += calls as f64 / rides;
        sums[kind].1 += ms / rides;
    }
    let mut table = Table::new("What a ride asks of Postgres", &STATEMENT_COLUMNS);
    let mut round_trips = 0.0;
    for (kind, (calls, ms)) in KINDS.iter().zip(sums) {
        let trips = if kind.goes_along { 0.0 } else { calls };
        round_trips += trips;
        table.row(kind.name, &[vec![Some(calls), Some(trips), Some(ms)]]);
    }
    table.notes.push(format!("{round_trips:.1} round trips a ride. Why each is needed:"));
    table.notes.extend(KINDS.iter().map(|kind| format!("- **{}**: {}", kind.name, kind.why)));
    Ok(table)
}

const STATEMENT_COLUMNS: [&str; 4] = ["", "statements/ride", "round trips/ride", "ms of Postgres/ride"];

/// Statements for one purpose.
struct Kind {
    name: &'static str,
    why: &'static str,
    /// What their text holds; the first kind that finds its own takes a statement.
    marks: &'static [&'static str],
    /// Sent together with the statement before.
    goes_along: bool,
}

const fn kind(name: &'static str, marks: &'static [&'static str], why: &'static str) -> Kind {
    Kind { name, why, marks, goes_along: false }
}

/// The last is whatever is none of the others.
const KINDS: [Kind; 15] = [
    kind(
        "begin",
        &["BEGIN"],
        "each of the seven commands is a transaction, the payment two: none is open while the PSP is asked.",
    ),
    Kind {
        goes_along: true,
        ..kind(
            "name the tenant, try the locks",
            &["set_config"],
            "without a tenant row-level security shows nothing; sent with the begin.",
        )
    },
    kind("commit", &["COMMIT"], "what was answered must outlive a crash."),
    kind(
        "home, and answered before?",
        &["FROM tenant_homes", "SELECT request_hash"],
        "whether this region may still write is known only inside the transaction that does, and so is the first answer of a \
         repeated command; read after both locks are held.",
    ),
    kind(
        "keep the answer",
        &["INSERT INTO idempotency_keys"],
        "commits with the effect, so that neither is ever without the other.",
    ),
    kind(
        "wait for the key",
        &["pg_advisory_xact_lock", "pg_try_advisory"],
        "a payment goes on after the PSP has answered.",
    ),
    kind(
        "rides",
        &["INSERT INTO rides", "UPDATE rides", "FROM rides"],
        "locked and written at each step; once more read to find what surge is.",
    ),
    kind(
        "trips",
        &["INTO trips", "UPDATE trips", "FROM trips t"],
        "read and written at each step, and read for the payment.",
    ),
    kind(
        "names",
        &["FROM drivers d, riders r", "sealed_name"],
        "both parties' names for each update of a ride that is shown to them.",
    ),
    kind(
        "records",
        &["INTO driver_records"],
        "how a driver answers, what he earns and since when he is idle, kept with the answer and the fare, since dispatch goes by it.",
    ),
    kind(
        "offers and candidates",
        &["offers", "dispatch_candidates"],
        "the dispatcher's, for many rides at once; and the driver's answer.",
    ),
    kind("traces", &["breadcrumbs"], "of many trips at once; read to price the trip."),
    kind(
        "payments and ledger",
        &["payments", "ledger_entries", "ledger_postings", "sandbox_psp"],
        "intent, the PSP's answer, and the entry with its postings.",
    ),
    kind(
        "replication",
        &["repl_", "ledger_facts"],
        "the settlement as a fact; numbered, logged and applied for many at once.",
    ),
    kind("other", &[], "background work that has nothing to do with one ride."),
];

type Lanes = [Arc<Mutex<Lane>>];

async fn measure(stand: &Arc<Stand>, lanes: &Lanes, duration: Duration) -> anyhow::Result<Vec<Option<f64>>> {
    let (meter, transactions) = (stand.meter()?, stand.transactions().await?);
    let begun = Instant::now();
    let times = drive(stand, lanes, duration).await?;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), meter.used()?);
    // Postgres tells of its transactions a moment later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rides = times.len() as f64;
    let transactions = (stand.transactions().await? - transactions) / rides;
    let mut offered: Vec<f64> = times.iter().map(|times| times.offered_ms).collect();
    let mut whole: Vec<f64> = times.iter().map(|times| times.settled_ms).collect();
    let each = |us: f64| Some(us / 1_000.0 / rides);
    Ok(vec![
        Some(rides / seconds),
        each(cpu.total_us()),
        each(cpu.node_us),
        each(cpu.redis_us),
        each(cpu.postgres_us),
        each(cpu.sync_us),
        Some(transactions),
        percentile(&mut offered, 0.5),
        percentile(&mut offered, 0.95),
        percentile(&mut whole, 0.5),
    ])
}

async fn drive(stand: &Arc<Stand>, lanes: &Lanes, duration: Duration) -> anyhow::Result<Vec<Times>> {
    let until = Instant::now() + duration;
    let tasks = lanes.iter().cloned().map(|lane| {
        stand.tasks.spawn(async move {
            let (mut lane, mut times) = (lane.lock_owned().await, Vec::new());
            while Instant::now() < until {
                times.push(lane.ride().await?);
            }
            anyhow::Ok(times)
        })
    });
    let mut all = Vec::new();
    for times in futures::future::join_all(tasks).await {
        all.extend(times??);
    }
    Ok(all)
}

/// How long after the request.
struct Times {
    offered_ms: f64,
    settled_ms: f64,
}

/// A rider and the one driver near.
struct Lane {
    rider: Client,
    driver: Client,
    driver_id: DriverId,
    hears: Socket,
    spot: Spot,
}

impl Lane {
    async fn open(stand: &Stand, rider: &Person, driver: &Person) -> anyhow::Result<Self> {
        let (rider, caller) = (stand.client(rider).await, stand.client(driver).await);
        let hears = Socket::connect(&caller, &stand.tasks).await?;
        Ok(Self { rider, driver: caller, driver_id: DriverId(driver.id), hears, spot: Spot::new() })
    }

    async fn ride(&mut self) -> anyhow::Result<Times> {
        self.report(self.spot.pickup).await?;
        let begun = Instant::now();
        let ride = self.rider.request_ride(&self.spot.journey(), None).await?;
        timeout(PATIENCE, self.offer_of(ride.id)).await.context("no offer")??;
        let offered_ms = begun.elapsed().as_secs_f64() * 1_000.0;
        let trip = self.driver.accept(self.driver_id, ride.id).await?.id;
        self.driver.arrive(trip).await?;
        self.driver.start(trip, None).await?;
        for step in 1..=4 {
            let share = f64::from(step) / 4.0;
            let (from, to) = (self.spot.pickup, self.spot.dropoff);
            let between = |a: f64, b: f64| a + (b - a) * share;
            self.report(Point::new(between(from.lat, to.lat), between(from.lng, to.lng))).await?;
        }
        self.driver.end(trip).await?;
        let mut payment = self.rider.pay(trip).await?;
        while payment.status != PaymentStatus::Settled {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "payment {} is {:?}", payment.id, payment.status);
            tokio::time::sleep(Duration::from_millis(5)).await;
            payment = self.rider.payment(payment.id).await?;
        }
        Ok(Times { offered_ms, settled_ms: begun.elapsed().as_secs_f64() * 1_000.0 })
    }

    async fn report(&self, at: Point) -> anyhow::Result<()> {
        let now = Clock::system().now().format(&time::format_description::well_known::Rfc3339)?;
        let position = json!({"lat": at.lat, "lng": at.lng, "heading": 10.0, "recorded_at": now});
        Ok(self.hears.emit("location:update", position).await?)
    }

    async fn offer_of(&mut self, ride: RideId) -> anyhow::Result<()> {
        loop {
            let event = self.hears.next().await.context("the driver's socket is over")?;
            if event.name == "ride:offer" && event.payload["ride_id"] == json!(ride) {
                return Ok(());
            }
        }
    }
}
