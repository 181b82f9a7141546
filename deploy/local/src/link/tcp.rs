//! TCP through a relay: bytes arrive late, or wait while the way is cut, as a real connection's would.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::sys::socket::{self, Backlog};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Flock, Way, Ways};

/// Bytes under way in one direction are bounded by this many reads, so a slow reader slows the writer.
const READS_UNDER_WAY: usize = 64;
const READ: usize = 16 * 1024;
/// Connections that may wait to be taken.
const BACKLOG: i32 = 1024;
const RETRY: Duration = Duration::from_millis(20);

/// Listens until the relay is closed. While either way is cut no connection can be opened, and nobody is told so: the
/// first packet gets no answer, which is what a caller's connect time-out is for.
pub(super) async fn relay(listener: TcpListener, targets: Vec<SocketAddr>, mut ways: Ways) -> std::io::Result<()> {
    let connections = Flock::default();
    let address = listener.local_addr()?;
    // The connection that keeps the door shut while the way is cut; it leads nowhere.
    let mut doorstop = None;
    loop {
        places(&listener, BACKLOG)?;
        let taking = async {
            loop {
                match listener.accept().await {
                    Ok((_, from)) if Some(from) == doorstop => {}
                    Ok((stream, _)) => connections.spawn(connection(stream, targets.clone(), ways.clone())),
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        };
        let (mut forward, mut back) = (ways.forward.clone(), ways.back.clone());
        tokio::select! {
            () = taking => {}
            () = forward.cut() => {}
            () = back.cut() => {}
        }
        // One place is left to wait in, and it is taken: the system drops whatever else knocks. It is taken too when
        // somebody was quicker than this, who then waits; this would otherwise wait for him past the end of the cut.
        places(&listener, 0)?;
        let hold = async {
            let held = TcpStream::connect(address).await;
            doorstop = held.as_ref().ok().and_then(|held| held.local_addr().ok());
            std::future::pending::<()>().await;
            drop(held);
        };
        let healed = async {
            ways.forward.open().await;
            ways.back.open().await;
        };
        tokio::select! {
            () = hold => {}
            () = healed => {}
        }
    }
}

/// Sets how many connections may wait to be taken, one more than `backlog`; the door stays the same, so that nobody else
/// can take its port meanwhile.
fn places(listener: &TcpListener, backlog: i32) -> std::io::Result<()> {
    Ok(socket::listen(listener, Backlog::new(backlog)?)?)
}

async fn connection(near: TcpStream, targets: Vec<SocketAddr>, mut ways: Ways) {
    // The three packets of a connection's opening travel too: there and back before the first byte.
    ways.forward.open().await;
    ways.back.open().await;
    let round_trip = ways.forward.now().delay + ways.back.now().delay;
    tokio::time::sleep(round_trip).await;
    let Ok(far) = TcpStream::connect(&targets[..]).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(carry(near_in, far_out, ways.forward), carry(far_in, near_out, ways.back));
}

/// Carries bytes one way until either end closes.
async fn carry(from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin, way: Way) {
    let (sender, receiver) = mpsc::channel(READS_UNDER_WAY);
    tokio::join!(take(from, sender, way.clone()), deliver(to, receiver, way));
}

async fn take(mut from: impl AsyncRead + Unpin, sender: mpsc::Sender<(Instant, Bytes)>, way: Way) {
    loop {
        let mut buffer = BytesMut::with_capacity(READ);
        let ended = !matches!(from.read_buf(&mut buffer).await, Ok(1..));
        way.count_stream(buffer.len());
        let due = Instant::now() + way.now().delay;
        // An empty piece is the end: it too arrives late.
        if sender.send((due, buffer.freeze())).await.is_err() || ended {
            return;
        }
    }
}

async fn deliver(mut to: impl AsyncWrite + Unpin, mut receiver: mpsc::Receiver<(Instant, Bytes)>, mut way: Way) {
    while let Some((due, bytes)) = receiver.recv().await {
        sleep_until(due).await;
        way.open().await;
        if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
