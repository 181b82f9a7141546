//! Drives real trips of three cities through a running cluster, and says in one line per region what happens.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use deploy_local::{ClusterFile, RegionEntry};
use system_tests::{
    api::{Client, Credentials},
    cities::{City, Source},
    fleet::{self, FleetOptions, Pace},
    summary::RegionWatch,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often the lines are written.
const REFRESH: Duration = Duration::from_secs(2);
const REFRESH_IN_LOG: Duration = Duration::from_secs(10);
/// How long drivers have to go offline in the end.
const FAREWELL: Duration = Duration::from_secs(4);

/// Simulated riders and drivers for a running cluster; ends with Ctrl-C.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The description of the cluster that `make up` writes.
    #[arg(long, default_value = ".local/cluster.json")]
    cluster: PathBuf,
    /// How many seconds of the simulation pass in one second.
    #[arg(long, default_value_t = 5.0, value_parser = speed)]
    speed: f64,
    /// Drivers in each city.
    #[arg(long, default_value_t = 60)]
    drivers: usize,
    /// Another seed, other people and other rides.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ends by itself after so many seconds.
    #[arg(long)]
    once_seconds: Option<f64>,
}

fn speed(text: &str) -> Result<f64, String> {
    let fits = |speed: &f64| (0.01..=1_000.0).contains(speed);
    text.parse().ok().filter(fits).ok_or_else(|| "a number from 0.01 to 1000 is wanted".to_owned())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let cluster = read_cluster(&arguments.cluster)?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let watches = set_in_motion(&cluster, &arguments, &tasks, &stop)?;
    tokio::select! {
        () = report(watches) => {}
        end = told_to_end(arguments.once_seconds) => end?,
    }
    stop.cancel();
    tasks.close();
    // Whoever takes longer is noticed as gone by the platform itself.
    let _ = tokio::time::timeout(FAREWELL, tasks.wait()).await;
    Ok(())
}

fn read_cluster(file: &std::path::Path) -> anyhow::Result<ClusterFile> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("no cluster is described in {name}; start one with `make up`"))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{name} does not describe a cluster; start it anew with `make up`"))
}

/// Starts a fleet for each tenant whose city we know; one watch per region.
fn set_in_motion(
    cluster: &ClusterFile,
    arguments: &Arguments,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<RegionWatch>> {
    let pace = Pace::starting_now(arguments.speed);
    let options = FleetOptions { drivers: arguments.drivers, seed: arguments.seed, pace };
    let mut fleets: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for tenant in &cluster.tenants {
        let Some(city) = City::of_tenant(&tenant.id) else { continue };
        let Some(home) = cluster.regions.iter().find(|region| region.name == tenant.home_region) else { continue };
        let kind = match city.source() {
            Source::Recorded => "replays trips that were really driven",
            Source::Synthetic => "drives made-up trips (synthetic demand)",
        };
        let (drivers, speed) = (options.drivers, pace.speed());
        say(&format!("{} in {}: {drivers} drivers, {kind}, at {speed} times the speed\n", tenant.id, home.name));
        let tally = fleet::start(city, &Client::new(&home.http), options, tasks, stop);
        fleets.entry(&home.name).or_default().push((tenant.id.clone(), tally));
    }
    ensure!(!fleets.is_empty(), "the cluster has none of the demo's tenants; start it with `make up`");
    let operator =
        Credentials::Client { id: cluster.operator.client_id.clone(), secret: cluster.operator.client_secret.clone() };
    let watch = |region: &RegionEntry| {
        let fleets = fleets.remove(region.name.as_str()).unwrap_or_default();
        RegionWatch::new(
            &region.name,
            fleets,
            (Client::new(&region.http), operator.clone()),
            Client::new(&region.sync_status_url),
        )
    };
    Ok(cluster.regions.iter().map(watch).collect())
}

/// Writes the lines again and again; in place on a terminal.
async fn report(mut watches: Vec<RegionWatch>) {
    let in_place = std::io::stdout().is_terminal();
    let mut ticks = tokio::time::interval(if in_place { REFRESH } else { REFRESH_IN_LOG });
    let mut drawn = 0;
    loop {
        ticks.tick().await;
        let lines = futures::future::join_all(watches.iter_mut().map(RegionWatch::line)).await;
        let mut text = if in_place && drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
        for line in &lines {
            // In place a long line is cut at the edge of the terminal, since one that wraps could not be drawn over.
            let (clear, restore) = if in_place { ("\x1b[2K\x1b[?7l", "\x1b[?7h") } else { ("", "") };
            text.push_str(&format!("{clear}{line}{restore}\n"));
        }
        drawn = lines.len();
        say(&text);
    }
}

/// Writes to the standard output; a reader who has gone away ends nothing.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Returns when it is time to end: by signal, or because the time is up.
async fn told_to_end(once_seconds: Option<f64>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let time_is_up = async {
        match once_seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = time_is_up => {}
    }
    Ok(())
}
