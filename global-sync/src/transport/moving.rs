//! A tenant's rows on a connection of their own: personal data shares nothing with what is replicated.
//!
//! Whoever calls under this name in the TLS handshake moves one tenant on one stream, both ways: frames are four bytes of
//! length, one of type and the content. What is said is JSON; rows are packed with zstd.

use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream, VarInt};
use serde::{Serialize, de::DeserializeOwned};
use shared::ids::RegionName;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::frame::{self, FrameError};
use crate::refusal::{Refusal, Refusals};

/// The name in the TLS handshake; it carries the version of the format.
pub(super) const ALPN: &[u8] = b"gocomet-move/1";
/// Callers listened to at a time: each may have a frame's memory, and a transaction.
pub(super) const AT_A_TIME: usize = 32;

const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Either side gives up when nothing moves for so long: a large tenant's rows are counted with one statement. One that is gone is
/// noticed far sooner, by the connection.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(300);

const SAID: u8 = 1;
const ROWS: u8 = 2;

/// The connection over which a tenant moves; it ends when this is dropped.
pub struct MoveLink {
    /// Who is there, by its certificate.
    pub region: RegionName,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    refusals: Refusals,
    /// The place of a caller among those that are listened to.
    _place: Option<OwnedSemaphorePermit>,
}

/// What came.
pub enum MoveFrame<T> {
    /// Something that was said.
    Said(T),
    /// Rows, as `COPY` writes them.
    Rows(Vec<u8>),
}

/// The connection is of no use any more.
#[derive(Debug, thiserror::Error)]
#[error("the connection to {region} broke off: {reason}")]
pub struct BrokenOff {
    region: RegionName,
    reason: String,
}

impl MoveLink {
    /// The side that called.
    pub(super) async fn open(
        connection: Connection,
        region: RegionName,
        refusals: Refusals,
    ) -> Result<Self, BrokenOff> {
        match timeout(OPEN_WITHIN, connection.open_bi()).await {
            Ok(Ok((send, receive))) => Ok(Self { region, connection, send, receive, refusals, _place: None }),
            Ok(Err(error)) => Err(BrokenOff { region, reason: error.to_string() }),
            Err(_) => Err(BrokenOff { region, reason: "no stream".to_owned() }),
        }
    }

    /// The side that was called; none if the caller is gone, or is refused.
    pub(super) async fn accept(
        connection: Connection,
        region: RegionName,
        refusals: Refusals,
        place: Option<OwnedSemaphorePermit>,
    ) -> Option<Self> {
        let refuse = |refusal: Refusal, detail: &str| {
            refusals.connection(&region, refusal, detail);
            connection.close(VarInt::from_u32(3), refusal.as_str().as_bytes());
        };
        if place.is_none() {
            refuse(Refusal::TooMany, "too many tenants are being moved here");
            return None;
        }
        match timeout(OPEN_WITHIN, connection.accept_bi()).await {
            Ok(Ok((send, receive))) => Some(Self { region, connection, send, receive, refusals, _place: place }),
            Ok(Err(_)) => None,
            Err(_) => {
                refuse(Refusal::Handshake, "no stream in time");
                None
            }
        }
    }

    /// Says something.
    pub async fn say(&mut self, what: &impl Serialize) -> Result<(), BrokenOff> {
        self.write(SAID, &serde_json::to_vec(what).expect("what is said is plain data")).await
    }

    /// Sends rows; returns how many bytes that took.
    pub async fn send_rows(&mut self, rows: &[u8]) -> Result<usize, BrokenOff> {
        let packed = zstd::bulk::compress(rows, frame::LEVEL).expect("memory can be compressed into memory");
        self.write(ROWS, &packed).await?;
        Ok(packed.len())
    }

    /// What comes next.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<MoveFrame<T>, BrokenOff> {
        let read =
            timeout(STALLED_AFTER, frame::read_frame(&mut self.receive, frame::MAX_ROWS_BYTES, frame::READ_WITHIN))
                .await;
        let (kind, content) = match read {
            Err(_) => return Err(self.broken("it stalled")),
            Ok(Ok(None)) => return Err(self.broken("it ended")),
            Ok(Ok(Some(frame))) => frame,
            Ok(Err(error)) => return Err(self.refuse(&error)),
        };
        match kind {
            SAID => {
                serde_json::from_slice(&content).map(MoveFrame::Said).map_err(|_| self.refuse(&FrameError::Unreadable))
            }
            ROWS => zstd::bulk::decompress(&content, frame::MAX_ROWS_BYTES)
                .map(MoveFrame::Rows)
                .map_err(|_| self.refuse(&FrameError::Packing)),
            _ => Err(self.refuse(&FrameError::Unreadable)),
        }
    }

    /// What is said next; rows would be out of place.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> Result<T, BrokenOff> {
        match self.next().await? {
            MoveFrame::Said(said) => Ok(said),
            MoveFrame::Rows(_) => Err(self.refuse(&FrameError::OutOfPlace)),
        }
    }

    async fn write(&mut self, kind: u8, content: &[u8]) -> Result<(), BrokenOff> {
        let written = timeout(STALLED_AFTER, self.send.write_all(&frame::framed(kind, &[content]))).await;
        written.map_err(|_| self.broken("it stalled"))?.map_err(|error| self.broken(error))
    }

    /// The other side broke the rules, or is gone.
    fn refuse(&self, error: &FrameError) -> BrokenOff {
        if let Some(refusal) = error.refusal() {
            self.refusals.connection(&self.region, refusal, error);
            self.connection.close(VarInt::from_u32(2), refusal.as_str().as_bytes());
        }
        self.broken(error)
    }

    fn broken(&self, reason: impl ToString) -> BrokenOff {
        BrokenOff { region: self.region.clone(), reason: reason.to_string() }
    }
}

impl Drop for MoveLink {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"done");
    }
}
