//! What a position costs, in the shapes fleets send them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::bench::{
    Caller, Cars, Cpu, Floor, Line, Meter, Options, Paced, Person, Stand, Table, make_drivers, make_riders, make_trips,
    median, send_paced,
};

/// What was sent may still be on its way.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);
/// The node looks at the ages of its positions once a second.
const AGES_EVERY: Duration = Duration::from_secs(1);
const TAKEN: &str = "region_node_positions_total";
/// What a rider hears of each position of his driver.
const SHOWN: &str = "driver:location";
const AGE: &str = "region_node_position_age_seconds";
/// Handshakes under way at once.
const OPENING: usize = 64;
const HTTP_LINES: usize = 64;
/// Positions this old are still good for matching.
const FRESH_MS: f64 = 1_000.0;

const COLUMNS: [&str; 9] =
    ["", "messages/s", "positions/s", "µs CPU/position", "region-node", "Redis", "Postgres", "lost", "p99 age, ms"];

/// One row: so many connections, each so often.
#[derive(Clone, Copy)]
struct Shape {
    lines: usize,
    per_second_each: f64,
    positions: usize,
}

impl Shape {
    fn every(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.per_second_each)
    }

    /// Between two positions of one car.
    fn step(self) -> Duration {
        self.every().div_f64(self.positions as f64)
    }

    fn per_second(self) -> f64 {
        self.lines as f64 * self.per_second_each
    }
}

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new("Positions: CPU of all programs, by what the system charged them", &COLUMNS);
    let fleet = Shape { lines: 1_000, per_second_each: 10.0, positions: 1 };
    for (which, name) in [("sink", "bare epoll loop, 1,000 × 10/s"), ("echo", "plain socketioxide, 1,000 × 10/s")] {
        let mut runs = Vec::new();
        for _ in 0..options.runs() {
            runs.push(floor(which, fleet, options.duration()).await?);
        }
        table.row(name, &runs);
    }
    let stand = Stand::start(1).await?;
    let shapes = [
        ("1,000 × 10/s", fleet),
        ("1,000 × 2/s", Shape { per_second_each: 2.0, ..fleet }),
        ("1,000 × 0.5/s, 20 positions each", Shape { per_second_each: 0.5, positions: 20, ..fleet }),
    ];
    let drivers = make_drivers(&stand, fleet.lines).await?;
    let lines = open(&stand, &drivers).await?;
    for (name, shape) in shapes {
        let mut runs = Vec::new();
        for _ in 0..options.runs() {
            runs.push(over_sockets(&stand, &lines, shape, options.duration()).await?);
        }
        table.row(format!("Socket.IO, {name}"), &runs);
    }
    drop(lines);
    let mut runs = Vec::new();
    for _ in 0..options.runs() {
        runs.push(over_http(&stand, &drivers, 5_000.0, options.duration()).await?);
    }
    table.row("HTTP, 64 connections, 5,000/s", &runs);
    let watched = Shape { lines: 1_000, per_second_each: 1.0, positions: 1 };
    table.row(
        "Socket.IO, 1,000 × 1/s, each on a trip and watched by its rider",
        &on_trips(&stand, watched, options).await?,
    );
    table.notes.push("Of a trip each position is kept in Postgres, and lost is what the rider was not shown.".into());
    let mut tables = vec![table];
    if !options.quick {
        // A stand of its own: those who report no more would be the oldest in its index.
        drop(stand);
        tables.push(many(&Stand::start(1).await?, options).await?);
    }
    Ok(tables)
}

/// Drivers on trips, whose riders are connected and see each position.
async fn on_trips(stand: &Stand, shape: Shape, options: &Options) -> anyhow::Result<Vec<Vec<Option<f64>>>> {
    let (drivers, riders) = (make_drivers(stand, shape.lines).await?, make_riders(stand, shape.lines).await?);
    make_trips(stand, &drivers, &riders).await?;
    let lines = open(stand, &drivers).await?;
    let shown = Arc::new(AtomicU64::new(0));
    for rider in &riders {
        let token = stand.signer.sign(&stand.tenant, rider.role, rider.id);
        let line = Line::connect(&stand.url(), &stand.tenant, &token).await?;
        let shown = shown.clone();
        stand.tasks.spawn(async move {
            line.listen(|text| {
                shown.fetch_add(u64::from(text.contains(SHOWN)), Ordering::Relaxed);
            })
            .await;
        });
    }
    let mut cars = Cars::new(shape.lines, shape.step());
    // Once round, so that the node knows everybody's trip before it is measured.
    send(&lines, shape, &mut cars, shape.every().mul_f64(1.1)).await?;
    let mut runs = Vec::new();
    for _ in 0..options.runs() {
        settled(stand).await?;
        let (meter, before) = (stand.meter()?, shown.load(Ordering::Relaxed));
        let paced = send(&lines, shape, &mut cars, options.duration()).await?;
        let begun = Instant::now();
        let missing = || paced.messages as f64 - (shown.load(Ordering::Relaxed) - before) as f64;
        while missing() > 0.0 && begun.elapsed() < COUNTED_WITHIN {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        runs.push(cells(paced, shape.positions, meter.used()?, Some(missing()), None));
    }
    Ok(runs)
}

/// 15,000 connections: at a pace that is held, and at one that fills the machine.
async fn many(stand: &Stand, options: &Options) -> anyhow::Result<Table> {
    let mut table =
        Table::new("15,000 connections, and the rate held with the load driver beside the server", &COLUMNS);
    let before = stand.memory_kib(1)?;
    let drivers = make_drivers(stand, 15_000).await?;
    let begun = Instant::now();
    let lines = open(stand, &drivers).await?;
    let opened_s = begun.elapsed().as_secs_f64();
    let per_line = (stand.memory_kib(1)? - before) / lines.len() as f64;
    let mut held = None;
    for per_second_each in [2.0, 4.0, 6.0, 10.0] {
        let shape = Shape { lines: lines.len(), per_second_each, positions: 1 };
        let mut runs = Vec::new();
        for _ in 0..options.runs() {
            runs.push(over_sockets(stand, &lines, shape, options.duration()).await?);
        }
        table.row(format!("Socket.IO, 15,000 × {per_second_each}/s asked for"), &runs);
        held = Held::of(&runs).or(held);
    }
    table.notes.extend(held.map(|held| held.told()));
    let gathered = Shape { lines: lines.len(), per_second_each: 0.5, positions: 20 };
    let mut runs = Vec::new();
    for _ in 0..options.runs() {
        runs.push(over_sockets(stand, &lines, gathered, options.duration()).await?);
    }
    table.row("Socket.IO, 15,000 × 0.5/s, 20 positions each", &runs);
    table.notes.push(format!(
        "{} connections opened in {opened_s:.1} s; region-node holds {per_line:.1} KiB for each, driver and position included.",
        lines.len()
    ));
    Ok(table)
}

/// A rate at which nothing was lost and the index was fresh.
struct Held {
    per_second: f64,
    /// Of all programs.
    us_each: f64,
}

impl Held {
    fn of(runs: &[Vec<Option<f64>>]) -> Option<Self> {
        let [_, per_second, us_each, .., lost, age_ms] = (0..COLUMNS.len() - 1)
            .map(|column| median(runs.iter().filter_map(|run| run[column]).collect()))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or([f64::NAN; COLUMNS.len() - 1]);
        (lost <= 0.0 && age_ms < FRESH_MS).then_some(Self { per_second, us_each })
    }

    fn told(&self) -> String {
        let cores = |per_second: f64| per_second * self.us_each / 1e6;
        format!(
            "{:.0} positions a second is the most that was taken without loss and with p99 age below {FRESH_MS:.0} ms. At its {:.1} µs \
             each, 200,000 a second take {:.1} cores and 500,000 take {:.1}, the load driver's not among them.",
            self.per_second,
            self.us_each,
            cores(200_000.0),
            cores(500_000.0)
        )
    }
}

async fn open(stand: &Stand, drivers: &[Person]) -> anyhow::Result<Vec<Line>> {
    let url = stand.url();
    let connect = |driver: &Person| {
        let (url, token) = (url.clone(), stand.signer.sign(&stand.tenant, driver.role, driver.id));
        async move { Line::open(&url, &stand.tenant, &token, &stand.tasks).await }
    };
    stream::iter(drivers.iter().map(connect)).buffered(OPENING).try_collect().await
}

async fn floor(which: &str, shape: Shape, duration: Duration) -> anyhow::Result<Vec<Option<f64>>> {
    let floor = Floor::start(which).await?;
    let (tasks, url) = (TaskTracker::new(), format!("http://{}", floor.address));
    let mut lines = Vec::new();
    for _ in 0..shape.lines {
        lines.push(match which {
            "sink" => Line::bare(&floor.address).await?,
            _ => Line::open(&url, "nobody", "", &tasks).await?,
        });
    }
    let mut cars = Cars::new(shape.lines, shape.step());
    let meter = Meter::of_process(floor.pid)?;
    let paced = send(&lines, shape, &mut cars, duration).await?;
    Ok(cells(paced, shape.positions, meter.used()?, None, None))
}

async fn over_sockets(
    stand: &Stand,
    lines: &[Line],
    shape: Shape,
    duration: Duration,
) -> anyhow::Result<Vec<Option<f64>>> {
    let mut cars = Cars::new(shape.lines, shape.step());
    // Once round, so that the node knows everybody before it is measured.
    let warm_up = Shape { per_second_each: (2_000.0 / shape.lines as f64).min(1.0), ..shape };
    send(lines, warm_up, &mut cars, Duration::from_secs_f64(1.1 / warm_up.per_second_each)).await?;
    let taken = settled(stand).await?;
    let meter = stand.meter()?;
    let (paced, age_ms) = tokio::join!(send(lines, shape, &mut cars, duration), worst_age_ms(stand, duration));
    let (paced, cpu) = (paced?, meter.used()?);
    let lost = lost_since(stand, taken, paced.messages * shape.positions as u64).await?;
    Ok(cells(paced, shape.positions, cpu, lost, age_ms?))
}

async fn send(lines: &[Line], shape: Shape, cars: &mut Cars, duration: Duration) -> anyhow::Result<Paced> {
    let report = |line, now, out: &mut Vec<u8>| cars.report_frame(line, shape.positions, now, out);
    send_paced(lines, shape.per_second(), duration, report).await
}

fn cells(paced: Paced, positions: usize, cpu: Cpu, lost: Option<f64>, age_ms: Option<f64>) -> Vec<Option<f64>> {
    let sent = paced.messages as f64 * positions as f64;
    let each = |us: f64| Some(us / sent);
    vec![
        Some(paced.messages as f64 / paced.seconds),
        Some(sent / paced.seconds),
        each(cpu.total_us()),
        each(cpu.node_us),
        each(cpu.redis_us),
        each(cpu.postgres_us),
        lost,
        age_ms,
    ]
}

/// The worst 99th percentile of the ages in the index while positions are sent.
async fn worst_age_ms(stand: &Stand, duration: Duration) -> anyhow::Result<Option<f64>> {
    let until = Instant::now() + duration;
    let mut worst = None;
    // The first look was taken before all had reported.
    tokio::time::sleep(AGES_EVERY * 2).await;
    while Instant::now() < until {
        let age_ms = stand.metric(AGE, r#"quantile="0.99""#).await?.map(|seconds| seconds * 1_000.0);
        worst = age_ms.into_iter().chain(worst).max_by(f64::total_cmp);
        tokio::time::sleep(AGES_EVERY).await;
    }
    Ok(worst)
}

/// What the node has counted once it counts no more; none if it does not count.
async fn settled(stand: &Stand) -> anyhow::Result<Option<f64>> {
    let begun = Instant::now();
    let mut last = stand.metric(TAKEN, "").await?;
    while begun.elapsed() < COUNTED_WITHIN {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = stand.metric(TAKEN, "").await?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

async fn lost_since(stand: &Stand, before: Option<f64>, sent: u64) -> anyhow::Result<Option<f64>> {
    let Some(before) = before else { return Ok(None) };
    let begun = Instant::now();
    loop {
        let taken = stand.metric(TAKEN, "").await?.unwrap_or_default() - before;
        if taken >= sent as f64 || begun.elapsed() > COUNTED_WITHIN {
            return Ok(Some(sent as f64 - taken));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn over_http(
    stand: &Stand,
    drivers: &[Person],
    per_second: f64,
    duration: Duration,
) -> anyhow::Result<Vec<Option<f64>>> {
    let every = Duration::from_secs_f64(drivers.len() as f64 / per_second);
    let mut callers = Caller::several(stand, HTTP_LINES, drivers, |_, count| Cars::new(count, every));
    // Once round, so that the node knows everybody's token before it is measured.
    for caller in &mut callers {
        caller.once_round().await?;
    }
    let meter = stand.meter()?;
    let each = per_second / HTTP_LINES as f64;
    let calls =
        callers.into_iter().map(|mut caller| stand.tasks.spawn(async move { caller.call(each, duration).await }));
    let mut messages = 0;
    for call in futures::future::join_all(calls).await {
        messages += call??;
    }
    Ok(cells(Paced { messages, seconds: duration.as_secs_f64() }, 1, meter.used()?, None, None))
}
