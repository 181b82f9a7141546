//! What `make up DETACH=1` starts: real trips of three cities through all programs, and nothing of it once its supervisor is
//! killed.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::{
    collections::BTreeSet,
    net::{TcpListener, UdpSocket},
    path::Path,
    time::Duration,
};

use deploy_local::{ClusterFile, ProcessId};
use sqlx::{Connection, PgConnection};
use system_tests::{
    api::{Client, Credentials},
    harness::{Up, eventually_within},
};
use tokio::sync::Mutex;
use url::Url;

/// Simulated minutes pass in real seconds.
const SPEED: &str = "60";
/// Until each city has a paid trip, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(180);
const CITIES: [&str; 3] = ["bengaluru-rides", "manhattan-cabs", "porto-taxis"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_settles_trips_of_every_city_in_every_region_and_leaves_nothing_when_it_is_killed() {
    let up = Up::start(
        &Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{}", std::process::id())),
        &["--speed", SPEED],
    );
    let file = up.file();
    every_ledger_has_every_city(&file).await;
    trips_are_as_long_as_they_were_driven(&file).await;
    the_log_has_every_field(&up.dir, &file).await;

    let supervisor = ProcessId::of(file.supervisor_pid).unwrap();
    let everything = supervisor.tree();
    let programs = file.regions.len() * 4 + 2;
    assert!(everything.len() > programs, "supervisor, guard, demo and four programs a region: {everything:?}");
    let postgres = file.regions[0].pids["postgres"];
    let data = std::fs::read_link(format!("/proc/{postgres}/cwd")).unwrap();
    supervisor.signal(nix::sys::signal::Signal::SIGKILL);
    eventually_within(PATIENCE, "every program has ended", async || {
        let left: Vec<_> = everything.iter().filter(|id| id.is_running()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    eventually_within(PATIENCE, "every folder is gone", async || {
        let left: Vec<_> = [&up.dir, &data].into_iter().filter(|folder| folder.exists()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    for port in ports(&file) {
        TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("TCP {port}: {error}"));
        UdpSocket::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("UDP {port}: {error}"));
    }
}

async fn every_ledger_has_every_city(file: &ClusterFile) {
    for region in &file.regions {
        let operator = Client::new(&region.http);
        let (id, secret) = (file.operator.client_id.clone(), file.operator.client_secret.clone());
        operator.sign_in(Credentials::Client { id, secret }).await.unwrap();
        eventually_within(
            PATIENCE,
            &format!("every city has paid trips in the ledger of {}", region.name),
            async || {
                let ledger = operator.all_settlements().await.map_err(|error| error.to_string())?;
                let settled = ledger.iter().filter(|fact| fact.kind == "settlement" && fact.amount > 0);
                let cities: BTreeSet<&str> = settled.map(|fact| fact.tenant.as_str()).collect();
                if cities.iter().eq(&CITIES) { Ok(()) } else { Err(format!("{cities:?}")) }
            },
        )
        .await;
    }
}

/// Simulated cars are faster than any real one, and their meters believe them all the same.
async fn trips_are_as_long_as_they_were_driven(file: &ClusterFile) {
    for region in &file.regions {
        let database = PgConnection::connect(&region.postgres_url).await.unwrap();
        // The first trips that end are the shortest.
        let database = Mutex::new(database);
        eventually_within(PATIENCE, &format!("a trip of some length has ended in {}", region.name), async || {
            let longest = sqlx::query_scalar("SELECT max(distance_m) FROM trips WHERE status = 'completed'");
            let driven: Option<i64> = longest.fetch_one(&mut *database.lock().await).await.unwrap();
            if driven > Some(500) { Ok(()) } else { Err(format!("the longest trip has {driven:?} m")) }
        })
        .await;
    }
}

/// `us-east manhattan-cabs drivers 60 · open rides 3 · matches/min 9 · request to offer p95 120 ms · settlements 4 · eu-west lag 0, …`
async fn the_log_has_every_field(state_dir: &Path, file: &ClusterFile) {
    let log = state_dir.join("logs/demo.log");
    for region in &file.regions {
        let peers = file.regions.iter().filter(|peer| peer.name != region.name);
        eventually_within(PATIENCE, &format!("the summary of {} is complete", region.name), async || {
            let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
            let begins = format!("{} ", region.name);
            let line = text.lines().rev().find(|line| line.starts_with(&begins) && line.contains("settlements"));
            let line = line.ok_or_else(|| format!("no line of it:\n{text}"))?;
            let fields = ["drivers", "open rides", "matches/min", "request to offer p95", "settlements"];
            let missing = fields.into_iter().find(|field| number_after(line, field).is_none());
            let without_lag = peers.clone().find(|peer| number_after(line, &format!("{} lag", peer.name)).is_none());
            let idle = ["drivers", "matches/min", "settlements"]
                .into_iter()
                .find(|field| number_after(line, field) == Some(0));
            match (missing, without_lag, idle) {
                (None, None, None) => Ok(()),
                _ => Err(line.to_owned()),
            }
        })
        .await;
    }
}

fn number_after(line: &str, field: &str) -> Option<u64> {
    let (_, rest) = line.split_once(&format!("{field} "))?;
    rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Every port the description names.
fn ports(file: &ClusterFile) -> BTreeSet<u16> {
    let links = file.links.iter().map(|link| format!("tcp://{}", link.address));
    let regions = file.regions.iter().flat_map(|region| {
        let addresses = [&region.http, &region.postgres_url, &region.redis_url, &region.sync_status_url];
        addresses.into_iter().cloned().chain([format!("tcp://{}", region.quic)])
    });
    links.chain(regions).filter_map(|address| address.parse::<Url>().unwrap().port()).collect()
}
