//! `global-sync`: replication of a region with all others.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use global_sync::{config::Config, node::Node};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Replicates a region's facts with all other regions.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Settings over the defaults, TOML.
    #[arg(long)]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("global-sync: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(cli: &Cli) -> anyhow::Result<()> {
    // Two providers may be linked in; say which one is meant before anything asks.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config::load(cli.config.as_deref())?;
    let telemetry = shared::telemetry::start("global-sync", config.region.name.as_str(), &config.telemetry)?;
    metrics::gauge!("global_sync_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let shutdown = CancellationToken::new();
    let signals = TaskTracker::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = shutdown.clone();
    signals.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
            () = stop.cancelled() => {}
        }
        stop.cancel();
    });
    let node = Node::bind(config).await?;
    tracing::info!(quic = %node.quic_address()?, status = %node.status_address()?, "listening");
    let metrics = telemetry.metrics.clone();
    let outcome = node.run(shutdown.clone(), move || metrics.render()).await;
    shutdown.cancel();
    signals.close();
    signals.wait().await;
    outcome
}
