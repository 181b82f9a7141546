//! `region-node`: a region's API, dispatch and payments, or an edge.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use region_node::{
    config::{Config, NodeRole},
    db, edge,
    http::router,
    serve,
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A region's node of the ride-hailing platform.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Settings over the defaults, TOML.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the API (the default).
    Serve,
    /// Brings the database's schema up to date and ends.
    Migrate,
    /// Prints the OpenAPI document and ends.
    Openapi,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what failed and how to mend it, then why.
            eprintln!("region-node: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(Command::Openapi) = cli.command {
        let document = router::openapi().to_pretty_json().context("the document could not be made")?;
        return writeln!(std::io::stdout(), "{document}").context("the document could not be written");
    }
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed twice"))?;
    let config = Config::load(cli.config.as_deref())?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime could be made")?;
    runtime.block_on(async move {
        if let Some(Command::Migrate) = cli.command {
            let url = config.database.migrate_url.as_ref();
            return db::migrate(url.context("database.migrate_url is missing; set it in the file or the environment")?)
                .await;
        }
        let telemetry = shared::telemetry::start("region-node", config.region.name.as_str(), &config.telemetry)?;
        let role = match config.role {
            NodeRole::Full => "full",
            NodeRole::Edge => "edge",
        };
        metrics::gauge!("region_node_build_info", "version" => env!("CARGO_PKG_VERSION"), "role" => role).set(1.0);
        let stop = CancellationToken::new();
        let signalled = stop.clone();
        let metrics = telemetry.metrics.clone();
        let serving = async {
            match config.role {
                NodeRole::Full => Box::pin(serve::serve(config, metrics, stop)).await,
                NodeRole::Edge => edge::serve_alone(config, metrics, stop).await,
            }
        };
        let signal = async {
            wait_for_signal().await;
            signalled.cancel();
            std::future::pending().await
        };
        tokio::select! {
            served = serving => served,
            never = signal => never,
        }
    })
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be waited for inside the runtime");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be waited for inside the runtime");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
