//! Rides asked for at a given rate, whatever the answers take, among a hundred thousand live drivers.
//!
//! The drivers in the middle of the town are connected and accept at once; all others stand around it and report over HTTP.
//! Rides are asked for well inside the middle, so that whoever is nearest has a socket to hear the offer on. An accepted ride
//! is called off by its rider, which sets its driver free again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::json;
use shared::{clock::Clock, geo::Point, ids::RideId, telemetry::LATENCY_BUCKETS_S};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    api::{Client, Journey},
    bench::{
        Caller, Cars, Cpu, Crowd, Line, Member, Options, Orders, Person, Stand, Table, is_in_the_middle, make_drivers,
        make_riders, micros, percentile, place_in_town,
    },
};

const NODES: u16 = 2;
const CONNECTED: usize = 20_000;
const FED: usize = 80_000;
const RIDERS: usize = 3_000;
/// Each opens at most so many sockets.
const PROCESSES: usize = 2;
/// A driver in town reports about as often as everywhere; one who stands, inside the minute a position lives.
const REPORT_EVERY: Duration = Duration::from_secs(5);
pub(super) const FEED_EVERY: Duration = Duration::from_secs(40);
const FEED_LINES: usize = 64;
/// As dense as the town: a fifth of the drivers on a fifth of the ground. Rides stay away from its rim.
const MIDDLE: f64 = 0.447;
const PICKUPS: f64 = 0.4;
const SETTLING: Duration = Duration::from_secs(300);
/// A ride not accepted this long after the last request is not counted as matched.
const PATIENCE: Duration = Duration::from_secs(5);
const CALLS_OFF_AT_ONCE: usize = 64;
/// What a tenant has who sets nothing.
const WINDOW_MS: u32 = 200;
const RATE: f64 = 10_000.0;
const LADDER: [f64; 9] = [1_250.0, 2_500.0, 5_000.0, RATE, 15_000.0, 20_000.0, 30_000.0, 40_000.0, 60_000.0];
/// How far one node's index is behind what another heard, and how far it should be at most.
const LAG: &str = "region_node_index_lag_seconds";
const FRESH_MS: f64 = 1_000.0;
const HELD_WITHIN_MS: f64 = 1_000.0;

const COLUMNS: [&str; 13] = [
    "rides/min asked for",
    "rides",
    "to offer p50, ms",
    "p95",
    "p99",
    "to accepted p50, ms",
    "p95",
    "not matched, %",
    "two at once",
    "ms CPU/ride",
    "region-node",
    "Redis",
    "Postgres",
];

pub async fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        format!("Matching, {} live drivers, {CONNECTED} of them connected, {NODES} region-nodes", CONNECTED + FED),
        &COLUMNS,
    );
    let town = Town::open().await?;
    let length = options.duration() * 3;
    let idle = town.idle(length).await?;
    // The first rides prepare statements and fill caches.
    town.ride_out(LADDER[0], Duration::from_secs(5)).await?;
    // Before the ladder, which ends with a rate that leaves rides over.
    town.set_window(0).await?;
    let (cells, _) = town.ride_out_often(RATE, length, options.runs(), &idle).await?;
    table.row(format!("{RATE:.0}, no window"), &cells);
    town.set_window(WINDOW_MS).await?;
    let mut held = None;
    for rate in LADDER {
        // Every rate up to the one wanted is measured, and beyond it the ladder ends with the first that is not held.
        let runs = if rate == RATE { options.runs() } else { 1 };
        let (cells, p95_ms) = town.ride_out_often(rate, length, runs, &idle).await?;
        table.row(format!("{rate:.0}, window {WINDOW_MS} ms"), &cells);
        if rate == RATE {
            table.notes.extend(town.index_lag().await?);
        }
        if p95_ms < HELD_WITHIN_MS {
            held = Some(rate);
        } else if rate >= RATE {
            break;
        }
    }
    let held = held.map_or("no rate of the ladder".to_owned(), |rate| format!("{rate:.0} rides/min"));
    table.notes.push(format!("{held} is the highest of the ladder with p95 from request to accepted below 1 s."));
    table.notes.push(format!(
        "Times count from when the schedule wanted the request sent; with a window they contain the wait for its end, {WINDOW_MS} ms \
         at most. Rides not matched count as infinitely late. The CPU per ride contains calling it off, and not the positions of \
         all drivers, which cost {:.0} ms of CPU a second: region-node {:.0}, Redis {:.0}, Postgres {:.0}.",
        idle.per_second_ms(idle.cpu.total_us()),
        idle.per_second_ms(idle.cpu.node_us),
        idle.per_second_ms(idle.cpu.redis_us),
        idle.per_second_ms(idle.cpu.postgres_us),
    ));
    let failures = town.failures();
    if !failures.is_empty() {
        table.notes.push(format!("Not as the schedule wanted: {failures:?}."));
    }
    Ok(vec![table])
}

/// What everybody's positions cost while nobody asks for a ride.
struct Idle {
    cpu: Cpu,
    seconds: f64,
}

impl Idle {
    fn per_second_ms(&self, us: f64) -> f64 {
        us / 1_000.0 / self.seconds
    }
}

/// One rate, once.
struct Run {
    seconds: f64,
    cpu: Cpu,
    /// Infinite where there was none.
    offered_ms: Vec<f64>,
    accepted_ms: Vec<f64>,
    doubles: i64,
}

impl Run {
    fn cells(self, idle: &Idle) -> Vec<Option<f64>> {
        let Self { seconds, cpu, mut offered_ms, mut accepted_ms, doubles } = self;
        let rides = accepted_ms.len() as f64;
        let missing = accepted_ms.iter().filter(|ms| ms.is_infinite()).count() as f64;
        let each = |us: f64, idle_us: f64| Some((us - idle_us * seconds / idle.seconds) / 1_000.0 / rides);
        vec![
            Some(rides),
            percentile(&mut offered_ms, 0.5),
            percentile(&mut offered_ms, 0.95),
            percentile(&mut offered_ms, 0.99),
            percentile(&mut accepted_ms, 0.5),
            percentile(&mut accepted_ms, 0.95),
            Some(100.0 * missing / rides),
            Some(doubles as f64),
            each(cpu.total_us(), idle.cpu.total_us()),
            each(cpu.node_us, idle.cpu.node_us),
            each(cpu.redis_us, idle.cpu.redis_us),
            each(cpu.postgres_us, idle.cpu.postgres_us),
        ]
    }
}

/// The town with everybody in it.
struct Town {
    stand: Stand,
    crowd: Crowd,
    riders: Vec<Client>,
    seen: Arc<Seen>,
}

/// What riders saw and did.
#[derive(Default)]
struct Seen {
    /// Who may ask for a ride.
    free: Mutex<VecDeque<usize>>,
    /// When each ride was wanted, and by whom.
    wanted: Mutex<HashMap<RideId, (usize, i64)>>,
    /// When its rider saw that it was accepted.
    accepted: Mutex<HashMap<RideId, i64>>,
    failures: Mutex<HashMap<String, u64>>,
}

impl Seen {
    fn failed(&self, what: String) {
        *lock(&self.failures).entry(what).or_default() += 1;
    }
}

/// A ride as its rider is shown it.
#[derive(Deserialize)]
struct Shown {
    id: RideId,
    status: String,
}

impl Town {
    async fn open() -> anyhow::Result<Self> {
        let stand = Stand::start(NODES).await?;
        let connected = make_drivers(&stand, CONNECTED).await?;
        let fed = make_drivers(&stand, FED).await?;
        let riders = make_riders(&stand, RIDERS).await?;
        let urls: Vec<_> = (1..=NODES).map(|node| stand.cluster.node_url(stand.region(), node)).collect();
        let member = |(index, driver): (usize, &Person)| Member {
            token: stand.signer.sign(&stand.tenant, driver.role, driver.id),
            at: place_in_town(index, MIDDLE),
        };
        let members: Vec<_> = connected.iter().enumerate().map(member).collect();
        let orders = Orders { tenant: stand.tenant.clone(), urls, report_every: REPORT_EVERY, accepts: true };
        let crowd = Crowd::gather(&orders, &members, PROCESSES, &stand.tasks).await?;
        crowd.until_connected(CONNECTED, SETTLING).await?;
        feed(&stand, &fed, &around(FED), |cars| cars).await?;
        let seen = Arc::new(Seen::default());
        let riders = open_riders(&stand, &orders.urls, &riders, &seen).await?;
        lock(&seen.free).extend(0..riders.len());
        let town = Self { stand, crowd, riders, seen };
        town.until_all_live().await?;
        Ok(town)
    }

    async fn until_all_live(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for node in 1..=NODES {
            while self.stand.metric_of(node, "region_node_live_drivers", "").await?.unwrap_or_default()
                < (CONNECTED + FED) as f64
            {
                anyhow::ensure!(begun.elapsed() < SETTLING, "not all drivers are live on node {node}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        Ok(())
    }

    async fn idle(&self, length: Duration) -> anyhow::Result<Idle> {
        let (meter, begun) = (self.stand.meter()?, Instant::now());
        tokio::time::sleep(length).await;
        Ok(Idle { cpu: meter.used()?, seconds: begun.elapsed().as_secs_f64() })
    }

    /// Sets the tenant's batching window.
    async fn set_window(&self, window_ms: u32) -> anyhow::Result<()> {
        let patch = json!({"dispatch": {"window_ms": window_ms}});
        self.stand.operator.patch_config(&self.stand.tenant, &patch).await?;
        // Nodes hear of it a moment later.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// Several times the same; the cells of each, and the worst 95th percentile from request to accepted.
    async fn ride_out_often(
        &self,
        per_minute: f64,
        length: Duration,
        runs: usize,
        idle: &Idle,
    ) -> anyhow::Result<(Vec<Vec<Option<f64>>>, f64)> {
        let (mut cells, mut worst_ms) = (Vec::new(), 0.0_f64);
        for _ in 0..runs {
            let mut run = self.ride_out(per_minute, length).await?;
            worst_ms = worst_ms.max(percentile(&mut run.accepted_ms, 0.95).unwrap_or(f64::INFINITY));
            cells.push(run.cells(idle));
        }
        Ok((cells, worst_ms))
    }

    /// Asks for rides at times drawn beforehand, at so many a minute.
    async fn ride_out(&self, per_minute: f64, length: Duration) -> anyhow::Result<Run> {
        let (meter, begun, begun_us) = (self.stand.meter()?, Instant::now(), micros(Clock::system().now()));
        let mut random = StdRng::seed_from_u64(7);
        let (mut at_s, mut number) = (0.0, 0);
        while at_s < length.as_secs_f64() {
            tokio::time::sleep_until(begun + Duration::from_secs_f64(at_s)).await;
            let wanted_us = begun_us + (at_s * 1e6) as i64;
            self.ask(number, wanted_us);
            number += 1;
            // Independent riders: exponential gaps.
            at_s -= (1.0 - random.random::<f64>()).ln() * 60.0 / per_minute;
        }
        self.until_accepted(number).await;
        let (seconds, cpu) = (begun.elapsed().as_secs_f64(), meter.used()?);
        let (wanted, accepted) =
            (std::mem::take(&mut *lock(&self.seen.wanted)), std::mem::take(&mut *lock(&self.seen.accepted)));
        let offered = self.crowd.take_offers();
        let since = |at: Option<&i64>, wanted_us: i64| at.map_or(f64::INFINITY, |at| (at - wanted_us) as f64 / 1_000.0);
        let of = |seen: &HashMap<RideId, i64>| {
            let mut all: Vec<f64> = wanted.iter().map(|(id, (_, at))| since(seen.get(id), *at)).collect();
            // Requests that were refused or not even made.
            all.resize(number, f64::INFINITY);
            all
        };
        let (offered_ms, accepted_ms) = (of(&offered), of(&accepted));
        // Whoever was not served gives up, so that the next run begins with an empty town.
        let left = wanted.iter().filter(|(id, _)| !accepted.contains_key(id)).map(|(id, (rider, _))| (*rider, *id));
        stream::iter(left.collect::<Vec<_>>())
            .for_each_concurrent(CALLS_OFF_AT_ONCE, |(rider, id)| call_off(&self.riders, &self.seen, rider, id))
            .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Run { seconds, cpu, offered_ms, accepted_ms, doubles: self.doubles().await? })
    }

    /// How long after one node the other hears of drivers, so far.
    async fn index_lag(&self) -> anyhow::Result<Option<String>> {
        let mut batches = 0.0;
        for node in 1..=NODES {
            batches += self.stand.metric_of(node, &format!("{LAG}_count"), "").await?.unwrap_or_default();
        }
        for bound_s in LATENCY_BUCKETS_S {
            let (name, label) = (format!("{LAG}_bucket"), format!("le=\"{bound_s}\""));
            let mut within = 0.0;
            for node in 1..=NODES {
                within += self.stand.metric_of(node, &name, &label).await?.unwrap_or_default();
            }
            if batches > 0.0 && within >= 0.99 * batches {
                let bound_ms = bound_s * 1_000.0;
                return Ok(Some(format!(
                    "Of what one node had heard of drivers by then, at {RATE:.0} rides/min at most, 99 % was in the index of the \
                     other within {bound_ms:.0} ms (objective: {FRESH_MS:.0})."
                )));
            }
        }
        Ok(None)
    }

    fn ask(&self, number: usize, wanted_us: i64) {
        let Some(rider) = lock(&self.seen.free).pop_front() else {
            return self.seen.failed("no rider is free".to_owned());
        };
        let (client, seen) = (self.riders[rider].clone(), self.seen.clone());
        let pickup = place_in_town(number, PICKUPS);
        let dropoff = Point::new(pickup.lat + 0.014, pickup.lng + 0.012);
        let journey = Journey { pickup, dropoff, vehicle_class: "standard".into() };
        self.stand.tasks.spawn(async move {
            match client.request_ride(&journey, None).await {
                Ok(ride) => {
                    lock(&seen.wanted).insert(ride.id, (rider, wanted_us));
                }
                Err(error) => {
                    seen.failed(error.code().map_or_else(|| error.to_string(), str::to_owned));
                    lock(&seen.free).push_back(rider);
                }
            }
        });
    }

    /// Waits until every ride asked for is accepted, but not longer than riders have patience.
    async fn until_accepted(&self, count: usize) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && lock(&self.seen.accepted).len() < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Trips of one driver, or of one ride, that ran at the same time.
    async fn doubles(&self) -> anyhow::Result<i64> {
        let sql = "SELECT count(*) FROM (
                       SELECT accepted_at < lag(coalesce(ended_at, 'infinity')) OVER (PARTITION BY driver_id ORDER BY accepted_at) AS twice
                       FROM trips
                       UNION ALL
                       SELECT accepted_at < lag(coalesce(ended_at, 'infinity')) OVER (PARTITION BY ride_id ORDER BY accepted_at)
                       FROM trips) AS of_all
                   WHERE twice";
        Ok(sqlx::query_scalar(sql).fetch_one(&self.stand.database).await?)
    }

    fn failures(&self) -> HashMap<String, u64> {
        let mut failures = lock(&self.seen.failures).clone();
        failures.extend(self.crowd.state().failed.into_iter().map(|(what, times)| (format!("drivers: {what}"), times)));
        failures
    }
}

/// Places all over the town but in its middle.
pub(super) fn around(count: usize) -> Vec<Point> {
    let places = (0..).map(|index| place_in_town(index, 1.0));
    places.filter(|place| !is_in_the_middle(*place, MIDDLE)).take(count).collect()
}

/// Reports for drivers over a few connections, again and again for as long as the bench lasts. They stand, but for what
/// `moves` makes of their cars.
pub(super) async fn feed(
    stand: &Stand,
    drivers: &[Person],
    places: &[Point],
    moves: fn(Cars) -> Cars,
) -> anyhow::Result<()> {
    let cars = |line: usize, _| moves(Cars::parked(places.iter().skip(line).step_by(FEED_LINES).copied()));
    let mut callers = Caller::several(stand, FEED_LINES, drivers, cars);
    let first = stream::iter(callers.iter_mut()).for_each_concurrent(None, async |caller| {
        if let Err(error) = caller.once_round().await {
            tracing::warn!(%error, "drivers without sockets could not report");
        }
    });
    first.await;
    let each = drivers.len() as f64 / FEED_EVERY.as_secs_f64() / FEED_LINES as f64;
    for mut caller in callers {
        stand.tasks.spawn(async move {
            // A node that starts announces its region's keys anew, and until the bench's are, too, nobody is believed.
            while caller.call(each, Duration::from_hours(6)).await.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    Ok(())
}

/// Connects the riders, who note when their ride is accepted and then call it off.
async fn open_riders(
    stand: &Stand,
    urls: &[String],
    riders: &[Person],
    seen: &Arc<Seen>,
) -> anyhow::Result<Vec<Client>> {
    let (calls_off, off) = mpsc::channel(RIDERS);
    let (base, mut clients) = (Client::new(&stand.url()), Vec::new());
    for (index, rider) in riders.iter().enumerate() {
        let url = &urls[index % urls.len()];
        let client = base.through(url).for_tenant(&stand.tenant);
        client.set_token(stand.signer.session(&stand.tenant, rider.role, rider.id)).await;
        let line = Line::connect(url, &stand.tenant, &stand.signer.sign(&stand.tenant, rider.role, rider.id)).await?;
        let (seen, calls_off) = (seen.clone(), calls_off.clone());
        stand.tasks.spawn(async move {
            line.listen(|text| {
                if let Some(id) = accepted_ride(text)
                    && lock(&seen.accepted).insert(id, micros(Clock::system().now())).is_none()
                    && calls_off.try_send((index, id)).is_err()
                {
                    seen.failed("too many rides to call off".to_owned());
                }
            })
            .await;
            seen.failed("a rider lost his connection".to_owned());
        });
        clients.push(client);
    }
    let (riders, seen) = (clients.clone(), seen.clone());
    stand.tasks.spawn(async move {
        let each = stream::unfold(off, async |mut off| off.recv().await.map(|ride| (ride, off)));
        each.for_each_concurrent(CALLS_OFF_AT_ONCE, |(rider, id)| call_off(&riders, &seen, rider, id)).await;
    });
    Ok(clients)
}

async fn call_off(riders: &[Client], seen: &Seen, rider: usize, id: RideId) {
    if let Err(error) = riders[rider].cancel_ride(id, "the bench has seen enough").await {
        seen.failed(format!("calling off: {}", error.code().unwrap_or("no answer")));
    }
    lock(&seen.free).push_back(rider);
}

fn accepted_ride(text: &str) -> Option<RideId> {
    let update = text.strip_prefix("42").filter(|update| update.starts_with(r#"["ride:update","#))?;
    let (_, Shown { id, status }) = serde_json::from_str::<(IgnoredAny, Shown)>(update).ok()?;
    (status == "accepted").then_some(id)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
