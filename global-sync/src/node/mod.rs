//! An instance: the core, and the tasks that do what it says.
//!
//! One task owns the core and never waits for the network or the database. Around it: a writer for each kind of log, readers
//! for peers, and, while this instance leads, one task that numbers and three that apply. Every part can be told to stop
//! and every part survives the database going away.

mod checks;
mod dial;
mod driver;
mod moves;
mod operations;
mod tasks;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use rustls::RootCertStore;
use secrecy::ExposeSecret;
use shared::ids::RegionName;
use sqlx::{Connection, PgConnection};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    status::{Board, router},
    store::{Store, StoreError},
    transport::{Credentials, Mesh, MeshEvent, SigningKey},
};

/// An instance that listens and is about to run.
pub struct Node {
    config: Config,
    store: Store,
    mesh: Mesh,
    events: mpsc::Receiver<MeshEvent>,
    trusted: Trusted,
    board: Board,
    status_listener: TcpListener,
}

/// Whom we believe, and with what we sign: what the files say.
struct Trusted {
    credentials: Credentials,
    signing_roots: Arc<RootCertStore>,
    signer: Arc<SigningKey>,
}

/// Tasks that only end when they are told to. If one does not keep to that, the process ends: its supervisor starts it
/// again, whole.
#[derive(Default)]
struct Vital {
    tasks: JoinSet<&'static str>,
}

/// A part of the process is gone.
#[derive(Debug, thiserror::Error)]
#[error("a part of the process has ended: {0}")]
struct Ended(String);

impl Vital {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until one of them ends.
    async fn ended(&mut self) -> Ended {
        match self.tasks.join_next().await {
            Some(Ok(name)) => Ended(name.to_owned()),
            Some(Err(error)) => Ended(error.to_string()),
            None => std::future::pending().await,
        }
    }

    /// Waits until all have ended, once they were told to.
    async fn wait(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Node {
    /// Reads certificates and takes the ports; every error names what to change.
    pub async fn bind(config: Config) -> anyhow::Result<Self> {
        let region = &config.region.name;
        let trusted = load_trusted(&config)?;
        let store = Store::new(config.database.url.expose_secret(), config.database.max_connections)
            .context("database.url is not the address of a Postgres")?;
        let (mesh, events) =
            Mesh::listen(config.quic.listen, &trusted.credentials, &config.region.cluster_id, config.quic.max_age)
                .with_context(|| format!("cannot listen at {}: change quic.listen", config.quic.listen))?;
        let status_listener = TcpListener::bind(config.status.listen)
            .await
            .with_context(|| format!("cannot listen at {}: change status.listen", config.status.listen))?;
        let board = Board::new(store.clone(), region.clone(), config.peers.keys().cloned());
        Ok(Self { store, mesh, events, trusted, board, status_listener, config })
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
        let Self { config, store, mesh, mut events, trusted, board, status_listener } = self;
        let mut vital = Vital::default();
        let (use_trusted, trusted) = watch::channel(Arc::new(trusted));
        let page = router(board.clone(), render_metrics);
        let stop = shutdown.clone();
        vital.spawn("the status page", async move {
            let served = axum::serve(status_listener, page).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!("the status page has ended: {error}");
            }
        });
        let (acceptor, stop) = (mesh.clone(), shutdown.clone());
        vital.spawn("taking calls", async move { acceptor.accept(stop).await });
        let watching = watch_certificates(config.clone(), mesh.clone(), use_trusted, shutdown.clone());
        vital.spawn("watching certificates", watching);
        vital.spawn("measuring", measure(board.clone(), shutdown.clone()));

        let mut lives = Box::pin(async {
            if !wait_for_database(&store, config.database.wait_for_schema, &shutdown).await? {
                return Ok(());
            }
            loop {
                let life = driver::Life {
                    config: &config,
                    store: &store,
                    mesh: &mesh,
                    trusted: trusted.clone(),
                    board: &board,
                };
                match life.run(&mut events, &shutdown).await {
                    Ok(driver::End::Shutdown) => break Ok(()),
                    Ok(driver::End::NewIncarnation) => tracing::warn!("starting over as a new incarnation"),
                    Ok(driver::End::Outlived) => {
                        tracing::warn!("starting over: the database is another or in another incarnation, or may be");
                    }
                    Ok(driver::End::NewCertificates) => tracing::info!("starting over with changed certificates"),
                    Err(error) if shutdown.is_cancelled() || is_final(&error) => break Err(error),
                    Err(error) => {
                        tracing::warn!("starting over: {error:#}");
                        sleep(Duration::from_millis(500)).await;
                    }
                }
            }
        });
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut lives => break outcome,
                ended = vital.ended() => if !shutdown.is_cancelled() {
                    break Err(ended.into());
                }
            }
        };
        drop(lives);
        shutdown.cancel();
        events.close();
        mesh.close().await;
        vital.wait().await;
        outcome
    }
}

/// What starting over does not mend.
fn is_final(error: &anyhow::Error) -> bool {
    error.is::<Ended>() || matches!(error.downcast_ref(), Some(StoreError::Damaged(_)))
}

fn load_trusted(config: &Config) -> anyhow::Result<Trusted> {
    let (region, tls, signing) = (&config.region, &config.tls, &config.signing);
    let credentials = Credentials::load(&tls.ca_file, &tls.cert_file, &tls.key_file, &region.cluster_id, &region.name)
        .context("tls")?;
    let signing_roots = credentials.signing_roots(signing.former_ca_file.as_deref()).context("signing")?;
    let (roots, cluster_id) = (signing_roots.clone(), &region.cluster_id);
    let signer =
        SigningKey::load(&signing.cert_file, &signing.key_file, roots, cluster_id, &region.name).context("signing")?;
    Ok(Trusted { credentials, signing_roots, signer: Arc::new(signer) })
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
        StoreError::NotLeading
        | StoreError::Discontinuous
        | StoreError::Conflict
        | StoreError::Damaged(_)
        | StoreError::Snapshot(_)
        | StoreError::Forged { .. }
        | StoreError::TooGreat(_) => false,
    }
}

/// Takes up changed certificate files: for connections, for what is believed and for what is signed from then on. A bad
/// file is reported and the old ones stay in use.
async fn watch_certificates(
    config: Config,
    mesh: Mesh,
    use_trusted: watch::Sender<Arc<Trusted>>,
    shutdown: CancellationToken,
) {
    let (tls, signing) = (&config.tls, &config.signing);
    let mut files = vec![&tls.ca_file, &tls.cert_file, &tls.key_file, &signing.cert_file, &signing.key_file];
    files.extend(&signing.former_ca_file);
    let read = || -> Vec<_> { files.iter().map(|file| std::fs::read(file).unwrap_or_default()).collect() };
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
        let used = load_trusted(&config).and_then(|trusted| {
            mesh.use_credentials(&trusted.credentials)?;
            Ok(trusted)
        });
        match used {
            Ok(trusted) => {
                tracing::info!("changed certificates are in use");
                use_trusted.send_replace(Arc::new(trusted));
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
