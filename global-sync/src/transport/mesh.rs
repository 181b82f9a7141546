//! The endpoint: who calls us, whom we call, and nobody who is not of our mesh.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quinn::{Endpoint, VarInt};
use shared::ids::RegionName;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ALPN,
    connection::{Conversation, Link},
    frame,
    moving::{self, MoveLink},
    snapshot,
    tls::{Credentials, TlsError, called_for, region_of},
};
use crate::{
    protocol::{ConnectionId, Message},
    refusal::{Refusal, Refusals},
    store::Piece,
};

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Far above any mesh; below what a stranger could use up.
const MAX_CONNECTIONS: usize = 256;

/// What the mesh tells the node.
pub enum MeshEvent {
    /// A connection stands.
    Connected {
        /// Its name.
        conn: ConnectionId,
        /// The way to the peer.
        link: Link,
        /// Whether we called.
        dialed: bool,
    },
    /// A peer said something.
    Received {
        /// The connection.
        conn: ConnectionId,
        /// What it said.
        message: Message,
    },
    /// A region wants a snapshot of ours.
    SnapshotWanted {
        /// Who, by its certificate.
        region: RegionName,
        /// Where the pieces are to go; closed when it takes them no more.
        pieces: mpsc::Sender<Piece>,
    },
    /// A region moves a tenant here.
    Moving {
        /// The way to it.
        link: MoveLink,
    },
    /// A connection is gone.
    Disconnected {
        /// The connection.
        conn: ConnectionId,
    },
}

/// The QUIC endpoint of this instance.
#[derive(Clone)]
pub struct Mesh {
    endpoint: Endpoint,
    client: Arc<std::sync::RwLock<Callers>>,
    cluster_id: Arc<str>,
    max_age: Duration,
    events: mpsc::Sender<MeshEvent>,
    next_conn: Arc<AtomicU64>,
    tasks: TaskTracker,
    snapshots: Arc<Semaphore>,
    pub(super) moves: Arc<Semaphore>,
    refusals: Refusals,
    pub(super) max_connections: usize,
    pub(super) frame_within: Duration,
}

/// How we call: to replicate, for a snapshot, and to move a tenant.
struct Callers {
    sync: quinn::ClientConfig,
    snapshot: quinn::ClientConfig,
    moving: quinn::ClientConfig,
}

impl Callers {
    fn of(credentials: &Credentials) -> Result<Self, TlsError> {
        Ok(Self {
            sync: credentials.client_config(ALPN)?,
            snapshot: credentials.client_config(snapshot::ALPN)?,
            moving: credentials.client_config(moving::ALPN)?,
        })
    }
}

impl Mesh {
    /// Listens at an address; the receiver gets everything that happens.
    pub fn listen(
        address: SocketAddr,
        credentials: &Credentials,
        cluster_id: &str,
        max_age: Duration,
    ) -> anyhow::Result<(Self, mpsc::Receiver<MeshEvent>)> {
        let endpoint = Endpoint::server(credentials.server_config()?, address)?;
        let (events, receiver) = mpsc::channel(64);
        let mesh = Self {
            endpoint,
            client: Arc::new(std::sync::RwLock::new(Callers::of(credentials)?)),
            cluster_id: cluster_id.into(),
            max_age,
            events,
            next_conn: Arc::new(AtomicU64::new(1)),
            tasks: TaskTracker::new(),
            snapshots: Arc::new(Semaphore::new(snapshot::AT_A_TIME)),
            moves: Arc::new(Semaphore::new(moving::AT_A_TIME)),
            refusals: Refusals::default(),
            max_connections: MAX_CONNECTIONS,
            frame_within: frame::READ_WITHIN,
        };
        Ok((mesh, receiver))
    }

    /// Where we listen.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Uses other certificates for connections made from now on.
    pub fn use_credentials(&self, credentials: &Credentials) -> Result<(), TlsError> {
        let client = Callers::of(credentials)?;
        self.endpoint.set_server_config(Some(credentials.server_config()?));
        *self.client.write().expect("nobody panics while holding it") = client;
        Ok(())
    }

    /// Takes calls until `shutdown`.
    pub async fn accept(&self, shutdown: CancellationToken) {
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                () = shutdown.cancelled() => None,
            };
            let Some(incoming) = incoming else { return };
            let caller = incoming.remote_address().ip();
            let open = self.endpoint.open_connections();
            if open >= self.max_connections {
                let detail = format!("there are {} connections already", self.max_connections);
                self.refusals.connection(caller, Refusal::TooMany, detail);
                incoming.refuse();
                continue;
            }
            // A forged address takes a place until the handshake's time is up. While half of them are taken, a caller shows first
            // that it hears where it calls from, which costs it a round trip and takes no place.
            if open >= self.max_connections / 2 && !incoming.remote_address_validated() {
                metrics::counter!("global_sync_address_checks_total").increment(1);
                incoming.retry().expect("an address that is not validated may be asked to be");
                continue;
            }
            let mesh = self.clone();
            // At once, not when its task runs: those that wait behind it are told by how many there are.
            let accepted = incoming.accept();
            self.tasks.spawn(async move {
                match timeout(HANDSHAKE_WITHIN, async { accepted?.await }).await {
                    Ok(Ok(connection)) => {
                        // Whatever is wrong with it has been told.
                        let _ = mesh.run(connection, None).await;
                    }
                    Ok(Err(error)) => mesh.refusals.connection(caller, Refusal::of_handshake(&error), error),
                    Err(_) => mesh.refusals.connection(caller, Refusal::Handshake, "the handshake took too long"),
                }
            });
        }
    }

    /// Calls a region and stays until the connection ends. An error is why there was none. The connection does not depend on
    /// the caller: it ends by being closed, and says so, whoever still waits for it.
    pub async fn dial(&self, region: &RegionName, address: &str) -> anyhow::Result<()> {
        let config = self.client.read().expect("nobody panics while holding it").sync.clone();
        let connection = self.call(config, address).await?;
        let (mesh, region) = (self.clone(), region.clone());
        self.tasks.spawn(async move { mesh.run(connection, Some(&region)).await }).await?
    }

    /// Calls a region for a snapshot; its pieces come until [`Piece::End`], or break off.
    pub async fn ask_snapshot(&self, region: &RegionName, address: &str) -> anyhow::Result<mpsc::Receiver<Piece>> {
        let config = self.client.read().expect("nobody panics while holding it").snapshot.clone();
        let connection = self.call_region(config, region, address).await?;
        let (pieces, queue) = mpsc::channel(4);
        self.tasks.spawn(snapshot::take(connection, region.clone(), pieces, self.refusals.clone()));
        Ok(queue)
    }

    /// Calls a region to move a tenant there.
    pub async fn move_to(&self, region: &RegionName, address: &str) -> anyhow::Result<MoveLink> {
        let config = self.client.read().expect("nobody panics while holding it").moving.clone();
        let connection = self.call_region(config, region, address).await?;
        Ok(MoveLink::open(connection, region.clone(), self.refusals.clone()).await?)
    }

    async fn call_region(
        &self,
        config: quinn::ClientConfig,
        region: &RegionName,
        address: &str,
    ) -> anyhow::Result<quinn::Connection> {
        let connection = self.call(config, address).await?;
        self.identify(&connection, Some(region))?;
        Ok(connection)
    }

    async fn call(&self, config: quinn::ClientConfig, address: &str) -> anyhow::Result<quinn::Connection> {
        let address = timeout(HANDSHAKE_WITHIN, tokio::net::lookup_host(address))
            .await??
            .next()
            .ok_or_else(|| anyhow::anyhow!("{address} has no address"))?;
        // The name is only for the wire; certificates are judged by the region they name.
        let connecting = self.endpoint.connect_with(config, address, "gocomet.invalid")?;
        Ok(timeout(HANDSHAKE_WITHIN, connecting).await??)
    }

    /// Who was refused, and what.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Ends every connection and waits for their tasks.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"shutting down");
        self.tasks.close();
        self.tasks.wait().await;
        // Lets the last packets out; a peer that does not answer is not waited for long.
        let _ = timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }

    /// Who is at the other end, or why it is refused.
    fn identify(&self, connection: &quinn::Connection, expected: Option<&RegionName>) -> anyhow::Result<RegionName> {
        let refuse = |refusal: Refusal, detail: String| {
            self.refusals.connection(connection.remote_address().ip(), refusal, &detail);
            connection.close(VarInt::from_u32(1), refusal.as_str().as_bytes());
            anyhow::anyhow!(detail)
        };
        let Some(region) = region_of(connection, &self.cluster_id) else {
            let detail = "the certificate names no region of this cluster".to_owned();
            return Err(refuse(Refusal::OtherCluster, detail));
        };
        match expected {
            Some(expected) if region != *expected => {
                Err(refuse(Refusal::WrongRegion, format!("{expected} was called, {region} answered")))
            }
            Some(_) | None => Ok(region),
        }
    }

    async fn run(&self, connection: quinn::Connection, expected: Option<&RegionName>) -> anyhow::Result<()> {
        let region = self.identify(&connection, expected)?;
        if expected.is_none() && called_for(&connection, snapshot::ALPN) {
            snapshot::give(connection, region, self.snapshots.clone(), self.events.clone()).await;
            return Ok(());
        }
        if expected.is_none() && called_for(&connection, moving::ALPN) {
            let place = self.moves.clone().try_acquire_owned().ok();
            if let Some(link) = MoveLink::accept(connection, region, self.refusals.clone(), place).await {
                // Nobody cares when the node is shutting down.
                let _ = self.events.send(MeshEvent::Moving { link }).await;
            }
            return Ok(());
        }
        let conn = self.next_conn.fetch_add(1, Ordering::Relaxed);
        // Not all at once after an hour.
        let max_age = self.max_age.mul_f64(rand::random_range(0.9..1.1));
        let (dialed, events, refusals) = (expected.is_some(), self.events.clone(), self.refusals.clone());
        let frame_within = self.frame_within;
        Conversation { conn, connection, region, dialed, max_age, frame_within, events, refusals }.run().await;
        Ok(())
    }
}
