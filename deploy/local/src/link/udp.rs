//! UDP through a relay: datagrams arrive late, or never.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Direction, Flock, Shared, Way, Ways};

/// Datagrams under way in one direction; more are lost, as in a full router.
const UNDER_WAY: usize = 8192;
/// The largest a datagram can be.
const LARGEST: usize = 65_536;
/// A sender that was silent for so long is forgotten.
const SILENCE: Duration = Duration::from_secs(120);

type Queue = mpsc::Sender<(Instant, Bytes)>;

pub(super) async fn relay(near: UdpSocket, targets: Vec<SocketAddr>, ways: Ways) {
    let near = Arc::new(near);
    let senders: Shared<HashMap<SocketAddr, Queue>> = Shared::default();
    let tasks = Flock::default();
    let mut buffer = vec![0; LARGEST];
    loop {
        // An error here is a peer's refusal of an earlier datagram: no business of this one.
        let Ok((length, sender)) = near.recv_from(&mut buffer).await else {
            continue;
        };
        let known = senders.lock().unwrap_or_else(PoisonError::into_inner).get(&sender).cloned();
        let queue = match known {
            Some(queue) => queue,
            None => {
                let Ok(far) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else {
                    continue;
                };
                let (queue, receiver) = mpsc::channel(UNDER_WAY);
                senders.lock().unwrap_or_else(PoisonError::into_inner).insert(sender, queue.clone());
                let session = session(near.clone(), sender, (Arc::new(far), targets.clone()), receiver, ways.clone());
                let senders = senders.clone();
                tasks.spawn(async move {
                    session.await;
                    senders.lock().unwrap_or_else(PoisonError::into_inner).remove(&sender);
                });
                queue
            }
        };
        put(&queue, &ways.forward, &buffer[..length]);
    }
}

/// Everything of one sender: its datagrams to the target, and the answers back, until both are silent.
async fn session(
    near: Arc<UdpSocket>,
    sender: SocketAddr,
    (far, targets): (Arc<UdpSocket>, Vec<SocketAddr>),
    mut forward: mpsc::Receiver<(Instant, Bytes)>,
    ways: Ways,
) {
    let (queue, mut back) = mpsc::channel(UNDER_WAY);
    let mut targets = targets.iter().cycle();
    let Some(first) = targets.next() else { return };
    if far.connect(first).await.is_err() {
        return;
    }
    let there = async {
        while let Ok(Some((due, bytes))) = timeout(SILENCE, forward.recv()).await {
            sleep_until(due).await;
            let _ = far.send(&bytes).await;
        }
    };
    let answers = async {
        let mut buffer = vec![0; LARGEST];
        loop {
            match (far.recv(&mut buffer).await, targets.next()) {
                (Ok(length), _) => put(&queue, &ways.back, &buffer[..length]),
                // Nobody listens there: what comes next goes to the next target.
                (Err(_), Some(next)) => drop(far.connect(next).await),
                (Err(_), None) => return,
            }
        }
    };
    let home = async {
        while let Some((due, bytes)) = back.recv().await {
            sleep_until(due).await;
            let _ = near.send_to(&bytes, sender).await;
        }
    };
    tokio::select! {
        () = there => {}
        () = answers => {}
        () = home => {}
    }
}

fn put(queue: &Queue, way: &Way, datagram: &[u8]) {
    way.count_datagram(datagram.len());
    let Direction { cut, delay, loss } = way.now();
    if !cut && rand::random::<f64>() >= loss {
        // A full queue loses the datagram.
        let _ = queue.try_send((Instant::now() + delay, Bytes::copy_from_slice(datagram)));
    }
}
