//! Snapshots on a connection of their own, so that bulk shares no window with what is urgent.
//!
//! Whoever calls under this name in the TLS handshake is sent one snapshot on one stream. Frames are four bytes of length,
//! one of type and the content, rows packed with zstd; the name carries the version of that format.

use std::{sync::Arc, time::Duration};

use quinn::{Connection, RecvStream, SendStream, VarInt};
use shared::ids::RegionName;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    frame::{self, FrameError},
    mesh::MeshEvent,
};
use crate::{refusal::Refusals, store::Piece};

/// The name in the TLS handshake.
pub(super) const ALPN: &[u8] = b"gocomet-snapshot/1";
/// Snapshots given at a time; each holds a transaction open.
pub(super) const AT_A_TIME: usize = 1;

const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Either side gives up when nothing moves for so long.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Pieces between the database and the network.
const QUEUE: usize = 4;

const TABLE: u8 = 1;
const ROWS: u8 = 2;
const END: u8 = 3;

/// Gives a snapshot to whoever called.
pub(super) async fn give(
    connection: Connection,
    region: RegionName,
    permits: Arc<Semaphore>,
    events: mpsc::Sender<MeshEvent>,
) {
    let Ok(_permit) = permits.try_acquire() else {
        connection.close(VarInt::from_u32(3), b"another snapshot is being given");
        return;
    };
    let Ok(Ok(mut stream)) = timeout(OPEN_WITHIN, connection.open_uni()).await else {
        connection.close(VarInt::from_u32(1), b"no stream");
        return;
    };
    let (pieces, mut queue) = mpsc::channel(QUEUE);
    if events.send(MeshEvent::SnapshotWanted { region: region.clone(), pieces }).await.is_err() {
        return;
    }
    while let Ok(Some(piece)) = timeout(STALLED_AFTER, queue.recv()).await {
        let over = piece == Piece::End;
        let Ok(Ok(bytes)) = timeout(STALLED_AFTER, write(&mut stream, piece)).await else { break };
        metrics::counter!("global_sync_snapshot_sent_bytes_total", "peer" => region.to_string())
            .increment(bytes as u64);
        if over {
            // What is on its way arrives before the connection ends.
            let _ = stream.finish();
            let _ = timeout(STALLED_AFTER, stream.stopped()).await;
            break;
        }
    }
    connection.close(VarInt::from_u32(0), b"done");
}

async fn write(stream: &mut SendStream, piece: Piece) -> Result<usize, quinn::WriteError> {
    let (kind, content) = match piece {
        Piece::Table(number) => (TABLE, vec![number]),
        Piece::Rows(rows) => {
            (ROWS, zstd::bulk::compress(&rows, frame::LEVEL).expect("memory can be compressed into memory"))
        }
        Piece::End => (END, Vec::new()),
    };
    let frame = frame::framed(kind, &[&content]);
    stream.write_all(&frame).await?;
    Ok(frame.len())
}

/// Takes the pieces of a snapshot; the sender is dropped when it breaks off, and then it lacks its end. A giver that breaks
/// the rules is refused.
pub(super) async fn take(connection: Connection, region: RegionName, pieces: mpsc::Sender<Piece>, refusals: Refusals) {
    if let Ok(Ok(mut stream)) = timeout(OPEN_WITHIN, connection.accept_uni()).await {
        while let Ok(read) = timeout(STALLED_AFTER, read(&mut stream)).await {
            match read {
                Ok(Some(piece)) => {
                    if !matches!(timeout(STALLED_AFTER, pieces.send(piece)).await, Ok(Ok(()))) {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    if let Some(refusal) = error.refusal() {
                        refusals.connection(&region, refusal, error);
                        connection.close(VarInt::from_u32(2), refusal.as_str().as_bytes());
                    }
                    break;
                }
            }
        }
    }
    connection.close(VarInt::from_u32(0), b"done");
}

async fn read(stream: &mut RecvStream) -> Result<Option<Piece>, FrameError> {
    let Some((kind, content)) = frame::read_frame(stream, frame::MAX_ROWS_BYTES, frame::READ_WITHIN).await? else {
        return Ok(None);
    };
    let piece = match kind {
        TABLE => Piece::Table(*content.first().ok_or(FrameError::Unreadable)?),
        ROWS => Piece::Rows(zstd::bulk::decompress(&content, frame::MAX_ROWS_BYTES).map_err(|_| FrameError::Packing)?),
        END => Piece::End,
        _ => return Err(FrameError::Unreadable),
    };
    Ok(Some(piece))
}
