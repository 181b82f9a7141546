//! What `make up` runs: a cluster with its traffic, steered over its control socket, until it is told to stop.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::make_folder;
use crate::cluster::Cluster;
use crate::cluster_file::ClusterFile;
use crate::control::{self, Order};
use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::postgres::Durability;
use crate::process::{Process, Spec};
use crate::progress::{Event, Progress};
use crate::state::{self, Owner};
use crate::tools::{Programs, Tools};
use crate::wait::until;

/// What the supervisor in the background says besides its progress.
const SUPERVISOR_LOG: &str = "supervisor.log";

/// What `make up` may be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Regions to start
    #[arg(long, env = "REGIONS", value_delimiter = ',', default_value = "us-east,eu-west,ap-south")]
    pub regions: Vec<String>,
    /// The first of the ports to use
    #[arg(long, env = "PORT_BASE", default_value_t = crate::DEFAULT_BASE)]
    pub port_base: u16,
    /// region-nodes in each region
    #[arg(long, default_value_t = 1)]
    pub region_nodes: u16,
    /// Instances of global-sync in each region
    #[arg(long, default_value_t = 1)]
    pub global_syncs: u16,
    /// region-nodes of the role `edge` in each region
    #[arg(long, default_value_t = 0)]
    pub edges: u16,
    /// Start without simulated traffic
    #[arg(long)]
    pub no_sim: bool,
    /// How many times faster than real the simulated traffic runs
    #[arg(long, env = "SPEED", default_value = "10")]
    pub speed: String,
}

/// Runs a cluster until a signal or an order ends it.
pub async fn run(options: &Options, state_dir: &Path, progress: &Progress, foreground: bool) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    stop_on_signals(&stop, &tasks)?;
    let programs = Programs::discover()?;
    let demo = (!options.no_sim).then(|| programs.get("demo")).transpose()?;
    let mut builder = Cluster::builder()
        .regions(options.regions.clone())
        .region_nodes(options.region_nodes)
        .global_syncs(options.global_syncs)
        .edges(options.edges)
        .port_base(options.port_base)
        .state_dir(state_dir)
        .durability(Durability::PowerCut)
        .progress(progress.clone());
    if demo.is_some() {
        // Simulated cars are as much faster as their time is: what is no leap to them must be none to a trip's meter.
        let speed: f64 = options.speed.parse().map_err(|_| {
            Failure::new(
                format!("SPEED={} is no number", options.speed),
                "choose how many simulated seconds pass in one, for example SPEED=10",
            )
        })?;
        builder = builder.node_env("REGION_NODE_TRIPS__FASTEST_LEG_MPS", &(60.0 * speed.max(1.0)).to_string());
    }
    let Some(cluster) = stop.run_until_cancelled(builder.start()).await else {
        return Err(Failure::new("the start was interrupted", "everything it began has been removed").into());
    };
    let cluster = Arc::new(cluster?);
    let listener = control::listen(&cluster.setup.state.control_socket())?;
    let serving = tasks.spawn(control::serve(cluster.clone(), listener, stop.clone()));
    let demo = demo.map(|program| start_demo(&cluster, program, &options.speed, foreground)).transpose()?;
    progress.tell(&Event::Started);
    if foreground {
        println!("{}\n\nCtrl-C stops everything.\n", summary(&ClusterFile::of(&cluster)));
    }
    let watching = watch(&cluster, demo.as_ref(), foreground);
    let _ = stop.run_until_cancelled(watching).await;
    if foreground {
        eprintln!("stopping");
    }
    if let Some(demo) = demo {
        demo.stop(Duration::from_secs(5)).await;
    }
    serving.await?;
    cluster.end().await;
    Ok(())
}

/// Starts a supervisor of its own session that outlives this command, and returns when all is ready.
pub async fn run_detached(options: &Options, state_dir: &Path, progress: &Progress) -> anyhow::Result<()> {
    let mut interrupts = Interrupts::hold()?;
    // Here, where a person can be asked for a password: the supervisor has no terminal.
    Tools::ensure(progress)?;
    interrupts.check()?;
    // Before anything is written: the folder may be a running cluster's.
    state::settle(state_dir)?;
    make_folder(state_dir)?;
    let words = state_dir.join(SUPERVISOR_LOG);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--state-dir").arg(state_dir).arg("supervise");
    command.arg("--regions").arg(options.regions.join(",")).arg("--speed").arg(&options.speed);
    command.args(["--port-base", &options.port_base.to_string(), "--region-nodes", &options.region_nodes.to_string()]);
    command
        .args(["--global-syncs", &options.global_syncs.to_string(), "--edges", &options.edges.to_string()])
        .args(options.no_sim.then_some("--no-sim"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&words)?).spawn()?;
    if let Err(error) = until_started(&mut child, &words, progress, &mut interrupts).await {
        end(&child);
        child.wait().await?;
        let dir = state_dir.to_owned();
        tokio::task::spawn_blocking(move || clear_away(&dir)).await?;
        return Err(error);
    }
    let file: ClusterFile = serde_json::from_slice(&std::fs::read(state_dir.join("cluster.json"))?)?;
    println!("{}\n\n`make down` stops everything.", summary(&file));
    Ok(())
}

/// Passes on what the supervisor tells until it has started the cluster.
async fn until_started(
    child: &mut Child,
    words: &Path,
    progress: &Progress,
    interrupts: &mut Interrupts,
) -> anyhow::Result<()> {
    let mut lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            _ = interrupts.next() => { end(child); continue }
        };
        match line.as_deref().map(serde_json::from_str::<Event>).transpose()? {
            Some(Event::Started) => {
                progress.tell(&Event::Started);
                return Ok(());
            }
            Some(Event::Failed { text }) => {
                progress.tell(&Event::Failed { text: text.clone() });
                anyhow::bail!("{text}");
            }
            Some(event) => progress.tell(&event),
            None => {
                let failure = Failure::new("the supervisor ended while starting", "its last words are above");
                return Err(failure.with_log(words).into());
            }
        }
    }
}

/// Leaves nothing of a start that failed but the logs that were kept to tell why.
fn clear_away(state_dir: &Path) {
    // Somebody else's cluster may run from there by now.
    if state::settle(state_dir).is_ok() {
        state::remove(state_dir, None);
    }
}

/// Stops the cluster of a state folder and waits until nothing of it is left. Says what it did.
pub async fn down(state_dir: &Path) -> anyhow::Result<&'static str> {
    let Some(owner) = Owner::read(state_dir) else {
        return Ok("nothing runs here");
    };
    if !owner.supervisor.is_running() {
        let dir = state_dir.to_owned();
        tokio::task::spawn_blocking(move || state::settle(&dir)).await??;
        return Ok("removed what a crashed cluster had left");
    }
    if control::send(state_dir, &Order::Stop).await.is_err() {
        owner.supervisor.signal(Signal::SIGTERM);
    }
    let gone = || async { (!owner.supervisor.is_running()).then_some(()) };
    if until(Duration::from_secs(60), gone).await.is_none() {
        owner.supervisor.signal(Signal::SIGKILL);
        until(Duration::from_secs(10), gone).await.context("the supervisor cannot be ended")?;
    }
    let dir = state_dir.to_owned();
    tokio::task::spawn_blocking(move || state::settle(&dir)).await??;
    Ok("stopped")
}

/// What a person wants to see first.
pub fn summary(file: &ClusterFile) -> String {
    let mut lines = vec![String::new()];
    for region in &file.regions {
        let tenants: Vec<&str> = file
            .tenants
            .iter()
            .filter(|tenant| tenant.home_region == region.name)
            .map(|tenant| tenant.id.as_str())
            .collect();
        lines.push(format!("  {:<12} {}   {}", region.name, region.http, tenants.join(", ")));
    }
    if let Some(first) = file.regions.first() {
        lines.push(format!("  {:<12} {}/docs", "API", first.http));
    }
    let details = file.logs.with_file_name("cluster.json");
    lines.push(format!("  {:<12} {} (credentials of operator and tenants)", "all details", details.display()));
    lines.join("\n")
}

fn end(child: &Child) {
    if let Some(id) = child.id().and_then(crate::ProcessId::of) {
        id.signal(Signal::SIGTERM);
    }
}

fn stop_on_signals(stop: &CancellationToken, tasks: &TaskTracker) -> anyhow::Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signals, stop) = (signal(kind)?, stop.clone());
        tasks.spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}

fn start_demo(cluster: &Cluster, program: PathBuf, speed: &str, foreground: bool) -> anyhow::Result<Process> {
    let setup = &cluster.setup;
    let file = setup.state.cluster_file().to_string_lossy().into_owned();
    let spec = Spec {
        name: "demo".to_owned(),
        program,
        args: vec!["--cluster".to_owned(), file, "--speed".to_owned(), speed.to_owned()],
        envs: Vec::new(),
        folder: setup.state.dir.join("regions"),
        log: setup.state.log("demo"),
        to_terminal: foreground,
        account: None,
        stop: Signal::SIGTERM,
        abort: Signal::SIGKILL,
    };
    Process::start(spec, &setup.state)
}

/// Says once when a program ended that nobody had asked to end, and keeps `cluster.json` true.
async fn watch(cluster: &Cluster, demo: Option<&Process>, foreground: bool) {
    let mut told = BTreeSet::new();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut ended = Vec::new();
        for (region, service, process) in cluster.processes() {
            if let Some(status) = process.exited()
                && told.insert(process.id.clone())
            {
                ended.push(format!("{region}/{service} ended ({status}); `target/debug/local restart {region} {service}` starts it again"));
            }
        }
        if let Some((demo, status)) = demo.and_then(|demo| Some((demo, demo.exited()?)))
            && told.insert(demo.id.clone())
        {
            ended.push(format!("the simulated traffic ended ({status}); its log is {}", demo.spec.log.display()));
        }
        if !ended.is_empty() {
            let _ = cluster.write_file();
        }
        for line in ended.iter().filter(|_| foreground) {
            eprintln!("{line}");
        }
    }
}
