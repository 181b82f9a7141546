//! The network between regions: relays of our own, where delay, loss and cuts are made.
//!
//! Every ordered pair of regions has one relay, TCP and UDP at the same port number: what region A sends to region B on
//! connections A opened goes through relay A→B, and so do the answers. A [`Direction`] is the state of one way between
//! two regions; the relay A→B applies A→B's to what flows forward and B→A's to what flows back, so that a one-way cut
//! stops everything that travels that way, whoever opened the connection. What travels is counted the same way.

mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What happens to whatever travels one way between two regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Nothing arrives; TCP waits for better times, datagrams are lost.
    pub cut: bool,
    pub delay: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
}

/// Bytes put on a way so far, whether or not they arrived: what was written to sockets, without the headers of TCP, UDP
/// and IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub streams: u64,
    pub datagrams: u64,
}

#[derive(Debug, Default)]
struct Counter {
    streams: AtomicU64,
    datagrams: AtomicU64,
}

/// One way, as whoever changes it and asks about it sees it.
#[derive(Debug, Default)]
struct Control {
    direction: watch::Sender<Direction>,
    counter: Arc<Counter>,
}

/// One way, as the relays that use it see it.
#[derive(Clone, Debug)]
struct Way {
    direction: watch::Receiver<Direction>,
    counter: Arc<Counter>,
}

impl Way {
    fn now(&self) -> Direction {
        *self.direction.borrow()
    }

    /// Waits until it is open.
    async fn open(&mut self) {
        let _ = self.direction.wait_for(|direction| !direction.cut).await;
    }

    /// Waits until nothing passes.
    async fn cut(&mut self) {
        let _ = self.direction.wait_for(|direction| direction.cut).await;
    }

    fn count_stream(&self, bytes: usize) {
        self.counter.streams.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_datagram(&self, bytes: usize) {
        self.counter.datagrams.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Both ways of one relay.
#[derive(Clone, Debug)]
struct Ways {
    forward: Way,
    back: Way,
}

/// Where a relay takes what it gets: of several targets the first that answers.
#[derive(Clone, Debug)]
pub struct Route {
    pub listen: u16,
    pub tcp: Vec<SocketAddr>,
    pub udp: Vec<SocketAddr>,
}

type Pair = (String, String);

/// All relays of a cluster, on threads of their own so that a busy test does not slow them.
#[derive(Debug)]
pub struct Links {
    runtime: Option<Runtime>,
    tracker: TaskTracker,
    ways: Mutex<BTreeMap<Pair, Control>>,
    relays: Mutex<BTreeMap<Pair, CancellationToken>>,
}

impl Links {
    pub fn new() -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("relays").enable_all().build()?;
        Ok(Self {
            runtime: Some(runtime),
            tracker: TaskTracker::new(),
            ways: Mutex::default(),
            relays: Mutex::default(),
        })
    }

    /// Opens the relay through which `from` reaches `to`.
    pub async fn open(&self, from: &str, to: &str, route: Route) -> anyhow::Result<()> {
        let ways = Ways { forward: self.way(from, to), back: self.way(to, from) };
        let stop = CancellationToken::new();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, route.listen));
        let (tracker, token) = (self.tracker.clone(), stop.clone());
        let start = async move {
            let (streams, datagrams) = (TcpListener::bind(listen).await?, UdpSocket::bind(listen).await?);
            tracker.spawn(token.clone().run_until_cancelled_owned(tcp::relay(streams, route.tcp, ways.clone())));
            tracker.spawn(token.run_until_cancelled_owned(udp::relay(datagrams, route.udp, ways)));
            std::io::Result::Ok(())
        };
        let runtime = self.runtime.as_ref().expect("taken only when dropped");
        runtime.spawn(start).await?.with_context(|| format!("the relay {from} → {to} cannot listen on {listen}"))?;
        let pair = (from.to_owned(), to.to_owned());
        if let Some(old) = lock(&self.relays).insert(pair, stop) {
            old.cancel();
        }
        Ok(())
    }

    /// Closes every relay from and to a region.
    pub fn close(&self, region: &str) {
        lock(&self.relays).retain(|(from, to), stop| {
            let stays = from != region && to != region;
            if !stays {
                stop.cancel();
            }
            stays
        });
        lock(&self.ways).retain(|(from, to), _| from != region && to != region);
    }

    /// Changes what happens to everything that travels from one region to another.
    pub fn change(&self, from: &str, to: &str, change: impl FnOnce(&mut Direction)) -> anyhow::Result<()> {
        let ways = lock(&self.ways);
        known(&ways, from, to)?.direction.send_modify(change);
        Ok(())
    }

    /// What travelled from one region to another since the link between them was opened.
    pub fn carried(&self, from: &str, to: &str) -> anyhow::Result<Carried> {
        let ways = lock(&self.ways);
        let counter = &known(&ways, from, to)?.counter;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Carried { streams: read(&counter.streams), datagrams: read(&counter.datagrams) })
    }

    /// The state of every way.
    pub fn all(&self) -> BTreeMap<Pair, Direction> {
        lock(&self.ways).iter().map(|(pair, way)| (pair.clone(), *way.direction.borrow())).collect()
    }

    fn way(&self, from: &str, to: &str) -> Way {
        let mut ways = lock(&self.ways);
        let way = ways.entry((from.to_owned(), to.to_owned())).or_default();
        Way { direction: way.direction.subscribe(), counter: way.counter.clone() }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn known<'a>(ways: &'a BTreeMap<Pair, Control>, from: &str, to: &str) -> anyhow::Result<&'a Control> {
    ways.get(&(from.to_owned(), to.to_owned())).with_context(|| format!("there is no link {from} → {to}"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tracker that ends its tasks with the relay it belongs to.
#[derive(Debug, Default)]
struct Flock {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Flock {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

type Shared<T> = Arc<Mutex<T>>;
