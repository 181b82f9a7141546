//! One connection: a control stream both ways, and one stream per kind of log each way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quinn::{Connection, RecvStream, SendStream, VarInt};
use shared::{fact::FactStream, ids::RegionName};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{frame, mesh::MeshEvent};
use crate::{
    protocol::{ConnectionId, LogId, Message},
    refusal::{Refusal, Refusals},
};

/// Opening a stream hangs silently at the peer's limit: so never without this.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// Control messages that may wait; a peer that lets more pile up is cut off.
const CONTROL_QUEUE: usize = 256;
/// Batches of one kind that may wait; whoever has another waits with it.
const DATA_QUEUE: usize = 2;

/// The way to a peer.
#[derive(Clone)]
pub struct Link {
    /// Who is there, by its certificate.
    pub region: RegionName,
    connection: Connection,
    control: mpsc::Sender<Message>,
    data: Arc<[mpsc::Sender<Message>; 3]>,
}

impl Link {
    /// Says something small now, or ends the connection of a peer that does not listen.
    pub fn say(&self, message: Message) {
        if self.control.try_send(message).is_err() {
            self.close("slow");
        }
    }

    /// Sends entries of a kind of log, waiting for room; false if the connection is gone.
    pub async fn send(&self, stream: FactStream, message: Message) -> bool {
        self.data[index(stream)].send(message).await.is_ok()
    }

    /// Ends the connection, telling why.
    pub fn close(&self, reason: &str) {
        self.connection.close(VarInt::from_u32(1), reason.as_bytes());
    }

    /// The round trip as QUIC measures it.
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }
}

fn index(stream: FactStream) -> usize {
    match stream {
        FactStream::Control => 0,
        FactStream::Config => 1,
        FactStream::Ledger => 2,
    }
}

/// A connection with a member of the mesh, and what its tasks need.
#[derive(Clone)]
pub(super) struct Conversation {
    pub(super) conn: ConnectionId,
    pub(super) connection: Connection,
    /// Who is there, by its certificate.
    pub(super) region: RegionName,
    pub(super) dialed: bool,
    pub(super) max_age: Duration,
    /// How long a frame may take once it has begun.
    pub(super) frame_within: Duration,
    pub(super) events: mpsc::Sender<MeshEvent>,
    pub(super) refusals: Refusals,
}

impl Conversation {
    /// Runs until the connection ends. `Connected` is told once the control stream stands, `Disconnected` at the end.
    pub(super) async fn run(self) {
        let opened = if self.dialed {
            timeout(OPEN_WITHIN, self.connection.open_bi()).await
        } else {
            timeout(OPEN_WITHIN, self.connection.accept_bi()).await
        };
        match opened {
            Ok(Ok(streams)) => self.run_open(streams).await,
            // It is gone already.
            Ok(Err(_)) => {}
            Err(_) => {
                self.refusals.connection(&self.region, Refusal::Handshake, "no control stream in time");
                self.connection.close(VarInt::from_u32(1), b"no control stream");
            }
        }
    }

    async fn run_open(self, (send, receive): (SendStream, RecvStream)) {
        let Self { conn, connection, region, dialed, max_age, events, .. } = self.clone();
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (data, data_queues): (Vec<_>, Vec<_>) = FactStream::ALL.iter().map(|_| mpsc::channel(DATA_QUEUE)).unzip();
        let data = <[_; 3]>::try_from(data).expect("one queue a stream");
        let link = Link { region: region.clone(), connection: connection.clone(), control, data: Arc::new(data) };
        if events.send(MeshEvent::Connected { conn, link, dialed }).await.is_err() {
            return;
        }
        let tasks = TaskTracker::new();
        // Until the peer says what it can, it is told everything in the clear.
        let packs = Arc::new(AtomicBool::new(false));
        tasks.spawn(write_control(region.clone(), connection.clone(), packs.clone(), send, control_queue));
        for (priority, queue) in data_queues.into_iter().enumerate() {
            let priority = 3 - i32::try_from(priority).expect("three streams");
            tasks.spawn(write_data(region.clone(), connection.clone(), packs.clone(), priority, queue));
        }
        tasks.spawn(self.clone().read(packs.clone(), receive));
        let accepting = {
            let tasks = tasks.clone();
            async move {
                while let Ok(stream) = self.connection.accept_uni().await {
                    tasks.spawn(self.clone().read(packs.clone(), stream));
                }
            }
        };
        tasks.spawn(accepting);
        tokio::select! {
            reason = connection.closed() => {
                tracing::info!(peer = %region, "connection to {region} ended: {reason}");
            }
            () = sleep(max_age) => {
                tracing::info!(peer = %region, "connection to {region} has reached its age");
                connection.close(VarInt::from_u32(0), b"age");
            }
        }
        // Nobody cares when the node is shutting down.
        let _ = events.send(MeshEvent::Disconnected { conn }).await;
        tasks.close();
        tasks.wait().await;
    }

    async fn read(self, packs: Arc<AtomicBool>, mut stream: RecvStream) {
        loop {
            match frame::read(&mut stream, self.frame_within).await {
                Ok(Some((message, bytes))) => {
                    received(&self.region, &message, bytes);
                    if let Message::Hello(hello) = &message {
                        packs.store(hello.features & frame::ZSTD != 0, Ordering::Relaxed);
                    }
                    if self.events.send(MeshEvent::Received { conn: self.conn, message }).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    if let Some(refusal) = error.refusal() {
                        self.refusals.connection(&self.region, refusal, error);
                        self.connection.close(VarInt::from_u32(2), refusal.as_str().as_bytes());
                    }
                    break;
                }
            }
        }
    }
}

async fn write_control(
    peer: RegionName,
    connection: Connection,
    packs: Arc<AtomicBool>,
    mut stream: SendStream,
    mut queue: mpsc::Receiver<Message>,
) {
    // Above every data stream.
    let _ = stream.set_priority(10);
    loop {
        tokio::select! {
            message = queue.recv() => {
                let Some(mut message) = message else { break };
                if let Message::Hello(hello) = &mut message {
                    hello.features |= frame::ZSTD;
                }
                if !put(&peer, &connection, &packs, &mut stream, &message).await {
                    break;
                }
            }
            _ = connection.closed() => break,
        }
    }
}

async fn write_data(
    peer: RegionName,
    connection: Connection,
    packs: Arc<AtomicBool>,
    priority: i32,
    mut queue: mpsc::Receiver<Message>,
) {
    let mut stream: Option<SendStream> = None;
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            _ = connection.closed() => None,
        };
        let Some(message) = message else { break };
        if stream.is_none() {
            match timeout(OPEN_WITHIN, connection.open_uni()).await {
                Ok(Ok(opened)) => {
                    let _ = opened.set_priority(priority);
                    stream = Some(opened);
                }
                Ok(Err(_)) | Err(_) => {
                    connection.close(VarInt::from_u32(1), b"no data stream");
                    break;
                }
            }
        }
        let Some(open) = &mut stream else { break };
        if !put(&peer, &connection, &packs, open, &message).await {
            break;
        }
    }
}

/// Sends a message; a connection that does not take it is given up, and this says no.
async fn put(
    peer: &RegionName,
    connection: &Connection,
    packs: &AtomicBool,
    stream: &mut SendStream,
    message: &Message,
) -> bool {
    let written = frame::write(stream, message, packs.load(Ordering::Relaxed)).await;
    match &written {
        Ok(bytes) => sent(peer, message, *bytes),
        Err(_) => connection.close(VarInt::from_u32(1), b"slow"),
    }
    written.is_ok()
}

/// The log of entries; what is said beside them is about none.
fn log_of(message: &Message) -> Option<&LogId> {
    if let Message::Batch(batch) = message { Some(&batch.log) } else { None }
}

const NO_LOG: &str = "none";

fn sent(peer: &RegionName, message: &Message, bytes: usize) {
    let log = log_of(message);
    metrics::counter!(
        "global_sync_sent_bytes_total",
        "peer" => peer.to_string(),
        "origin" => log.map_or_else(|| NO_LOG.to_owned(), |log| log.origin.region.to_string()),
        "stream" => log.map_or(NO_LOG, |log| log.stream.as_str())
    )
    .increment(bytes as u64);
}

/// Not by origin: a peer may name as many as it likes.
fn received(peer: &RegionName, message: &Message, bytes: usize) {
    let stream = log_of(message).map_or(NO_LOG, |log| log.stream.as_str());
    metrics::counter!("global_sync_received_bytes_total", "peer" => peer.to_string(), "stream" => stream)
        .increment(bytes as u64);
}
