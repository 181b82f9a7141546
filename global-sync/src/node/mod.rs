//! An instance: the core, and the tasks that do what it says.
//!
//! One task owns the core and never waits for the network or the database. Around it: a writer for each kind of log, readers
//! for peers, and, while this instance leads, one task that numbers and three that apply. Every part can be told to stop
//! and every part survives the database going away.

mod driver;
mod tasks;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use secrecy::ExposeSecret;
use shared::ids::RegionName;
use sqlx::{Connection, PgConnection};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    status::{Board, router},
    store::{Store, StoreError},
    transport::{Credentials, KeyRing, Mesh, SigningKey},
};

/// An instance that listens and is about to run.
pub struct Node {
    config: Config,
    store: Store,
    mesh: Mesh,
    events: tokio::sync::mpsc::Receiver<crate::transport::MeshEvent>,
    credentials: Credentials,
    signer: Arc<SigningKey>,
    board: Board,
    status_listener: TcpListener,
}

impl Node {
    /// Reads certificates and takes the ports; every error names what to change.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let region = &config.region.name;
        let credentials = load_credentials(&config)?;
        let signer = SigningKey::load(
            &config.signing.cert_file,
            &config.signing.key_file,
            credentials.roots(),
            &config.region.cluster_id,
            region,
        )
        .context("signing")?;
        let store = Store::new(config.database.url.expose_secret(), config.database.max_connections)
            .context("database.url is not the address of a Postgres")?;
        let (mesh, events) =
            Mesh::listen(config.quic.listen, &credentials, &config.region.cluster_id, config.quic.max_age)
                .with_context(|| format!("cannot listen at {}: change quic.listen", config.quic.listen))?;
        let status_listener = TcpListener::bind(config.status.listen)
            .await
            .with_context(|| format!("cannot listen at {}: change status.listen", config.status.listen))?;
        let board = Board::new(store.clone(), region.clone(), config.peers.keys().cloned());
        Ok(Self { store, mesh, events, credentials, signer: Arc::new(signer), board, status_listener, config })
    }

    /// Where other regions reach this instance.
    pub fn quic_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.mesh.local_address()
    }

    /// Where its status is.
    pub fn status_address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.status_listener.local_addr()
    }

    /// What it says about itself.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Runs until `shutdown`, then leaves nothing behind.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        render_metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let Self { config, store, mesh, mut events, credentials, signer, board, status_listener } = self;
        let tasks = TaskTracker::new();
        let page = router(board.clone(), render_metrics);
        let stop = shutdown.clone();
        tasks.spawn(async move {
            let served = axum::serve(status_listener, page).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!("the status page has ended: {error}");
            }
        });
        let (acceptor, stop) = (mesh.clone(), shutdown.clone());
        tasks.spawn(async move { acceptor.accept(stop).await });
        tasks.spawn(watch_certificates(config.clone(), mesh.clone(), shutdown.clone()));
        tasks.spawn(measure(board.clone(), shutdown.clone()));

        let outcome = match wait_for_database(&store, config.database.wait_for_schema, &shutdown).await {
            Ok(false) => Ok(()),
            Err(error) => Err(error),
            Ok(true) => loop {
                let life = driver::Life {
                    config: &config,
                    store: &store,
                    mesh: &mesh,
                    signer: signer.clone(),
                    ring: KeyRing::new(credentials.roots(), &config.region.cluster_id),
                    board: &board,
                };
                match life.run(&mut events, &shutdown).await {
                    Ok(driver::End::Shutdown) => break Ok(()),
                    Ok(driver::End::NewIncarnation) => tracing::warn!("starting over as a new incarnation"),
                    Err(error) if shutdown.is_cancelled() => break Err(error),
                    Err(error) => {
                        if error.downcast_ref().is_some_and(|error| matches!(error, StoreError::Damaged(_))) {
                            break Err(error);
                        }
                        tracing::warn!("starting over: {error:#}");
                        sleep(Duration::from_millis(500)).await;
                    }
                }
            },
        };
        shutdown.cancel();
        events.close();
        mesh.close().await;
        tasks.close();
        tasks.wait().await;
        outcome
    }
}

fn load_credentials(config: &Config) -> anyhow::Result<Credentials> {
    let region = &config.region;
    Credentials::load(
        &config.tls.ca_file,
        &config.tls.cert_file,
        &config.tls.key_file,
        &region.cluster_id,
        &region.name,
    )
    .context("tls")
}

/// How long a database that cannot be used is tried at start. It may be starting too; after that a person has to look.
const CONNECT_FOR: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often somebody who watches is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Waits until the database can be used and region-node has brought the schema; false if we are told to stop first.
async fn wait_for_database(
    store: &Store,
    wait_for_schema: Duration,
    shutdown: &CancellationToken,
) -> anyhow::Result<bool> {
    let options = store.pool().connect_options();
    let (host, port) = (options.get_host(), options.get_port());
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    let mut unusable_since = None;
    loop {
        let (problem, over) = match look_for_schema(store).await {
            Ok(true) => return Ok(true),
            Ok(false) => {
                unusable_since = None;
                let fix = "start region-node, or run `region-node migrate`";
                (
                    anyhow::anyhow!("the database at {host}:{port} has no schema yet: {fix}"),
                    begun.elapsed() >= wait_for_schema,
                )
            }
            Err(error) => {
                let since = *unusable_since.get_or_insert_with(Instant::now);
                let over = !may_pass(&error) || since.elapsed() >= CONNECT_FOR;
                let fix = "is Postgres running there, and is database.url right?";
                (
                    anyhow::Error::new(error).context(format!("the database at {host}:{port} cannot be used: {fix}")),
                    over,
                )
            }
        };
        if over {
            return Err(problem);
        }
        if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            tracing::info!("waiting: {problem:#}");
            told = Some(Instant::now());
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return Ok(false),
        }
    }
}

async fn look_for_schema(store: &Store) -> Result<bool, StoreError> {
    // A connection of its own says why it fails; the pool would say only that it has none in time.
    let options = store.pool().connect_options();
    let connecting = timeout(CONNECT_FOR, PgConnection::connect_with(&options)).await;
    connecting.map_err(|_| StoreError::Database(sqlx::Error::PoolTimedOut))??.close().await?;
    store.is_ready().await
}

/// Whether a failure to connect can end by itself: nobody listens yet, or the server is still starting. A wrong role,
/// password or database stays wrong.
fn may_pass(error: &StoreError) -> bool {
    const CANNOT_CONNECT_NOW: &str = "57P03";
    const TOO_MANY_CONNECTIONS: &str = "53300";
    match error {
        StoreError::Database(sqlx::Error::Database(error)) => {
            error.code().is_some_and(|code| [CANNOT_CONNECT_NOW, TOO_MANY_CONNECTIONS].contains(&code.as_ref()))
        }
        StoreError::Database(_) => true,
        StoreError::NotLeading | StoreError::Discontinuous | StoreError::Conflict | StoreError::Damaged(_) => false,
    }
}

/// Takes up changed certificate files for new connections; a bad file is reported and the old one stays in use.
async fn watch_certificates(config: Config, mesh: Mesh, shutdown: CancellationToken) {
    let files = [&config.tls.ca_file, &config.tls.cert_file, &config.tls.key_file];
    let read = || files.map(|file| std::fs::read(file).unwrap_or_default());
    let mut known = read();
    loop {
        tokio::select! {
            () = sleep(config.tls.reload_every) => {}
            () = shutdown.cancelled() => return,
        }
        let now = read();
        if now == known {
            continue;
        }
        let used = load_credentials(&config).and_then(|credentials| Ok(mesh.use_credentials(&credentials)?));
        match used {
            Ok(()) => {
                tracing::info!("changed certificates are in use");
                known = now;
            }
            Err(error) => tracing::error!("changed certificates are not usable, the old ones stay: {error:#}"),
        }
    }
}

async fn measure(board: Board, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = sleep(Duration::from_secs(5)) => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = board.measure().await {
            tracing::debug!("not measured: {error}");
        }
    }
}

/// Whom to call: what is configured wins over what the directory says, and never ourselves.
fn targets(config: &Config, directory: Vec<(RegionName, String)>) -> BTreeMap<RegionName, String> {
    let mut targets: BTreeMap<_, _> = directory.into_iter().filter(|(_, address)| !address.is_empty()).collect();
    targets.extend(config.peers.clone());
    targets.remove(&config.region.name);
    targets
}
