//! Frames: four bytes of length, one of type, then the message. The length is checked before anything is allocated, and
//! memory is taken only for what has come.

use std::time::Duration;

use quinn::{RecvStream, SendStream};
use tokio::time::timeout;

use crate::{
    protocol::{MAX_FRAME_BYTES, Message, WireError},
    refusal::Refusal,
};

/// The bit in [`Hello`](crate::protocol::Hello) of who can unpack zstd. The upper half of the bits is the transport's.
pub(super) const ZSTD: u64 = 1 << 32;
/// Added to the type of a frame whose content is zstd, after four bytes of its real length.
const COMPRESSED: u8 = 0x80;
/// Smaller frames are not worth it.
const COMPRESS_FROM: usize = 512;
/// Fast, and most of what can be had.
pub(super) const LEVEL: i32 = 1;

/// A frame that is not taken within this time: the slowest link brings the largest one sooner.
const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// The largest frame of rows: above a piece with the largest row in it, and checked before anything is allocated.
pub(super) const MAX_ROWS_BYTES: usize = 16 * 1024 * 1024;
/// Memory taken for a frame before any of its content has come.
const FIRST_READ: usize = 16 * 1024;
/// The rest of a frame that has begun comes within this time.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(60);

/// Why a stream of frames ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of no bytes")]
    Empty,
    #[error("a frame of {0} bytes")]
    TooLarge(usize),
    #[error("a frame cannot be unpacked")]
    Packing,
    #[error("a frame says nothing that can be understood")]
    Unreadable,
    #[error("a frame out of place")]
    OutOfPlace,
    #[error("a frame took too long")]
    Slow,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Read(#[from] quinn::ReadExactError),
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
}

impl FrameError {
    /// Which rule the peer broke; none if it has gone away.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Empty | Self::Packing | Self::Unreadable | Self::Wire(_) => Some(Refusal::UnreadableFrame),
            Self::OutOfPlace => Some(Refusal::OutOfOrder),
            Self::TooLarge(_) => Some(Refusal::OversizedFrame),
            Self::Slow => Some(Refusal::SlowFrame),
            // It ended its stream in the midst of a frame.
            Self::Read(quinn::ReadExactError::FinishedEarly(_)) => Some(Refusal::TruncatedFrame),
            Self::Read(quinn::ReadExactError::ReadError(_)) | Self::Write(_) => None,
        }
    }
}

/// The bytes of a message, packed if the peer has said that it can unpack.
pub(super) fn encode(message: &Message, pack: bool) -> Vec<u8> {
    let content = message.encode();
    let frame_type = message.frame_type();
    if pack
        && content.len() >= COMPRESS_FROM
        && let Ok(compressed) = zstd::bulk::compress(&content, LEVEL)
        && compressed.len() + 4 < content.len()
    {
        framed(frame_type | COMPRESSED, &[&length(content.len()), &compressed])
    } else {
        framed(frame_type, &[&content])
    }
}

/// A frame of this type with this content, which comes in parts.
pub(super) fn framed(frame_type: u8, content: &[&[u8]]) -> Vec<u8> {
    let bytes: usize = content.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(5 + bytes);
    frame.extend(length(bytes + 1));
    frame.push(frame_type);
    content.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

/// Writes a message; a peer that takes nothing for too long is given up.
pub(super) async fn write(stream: &mut SendStream, message: &Message, pack: bool) -> Result<usize, FrameError> {
    let frame = encode(message, pack);
    timeout(WRITE_WITHIN, stream.write_all(&frame)).await.map_err(|_| FrameError::Slow)??;
    Ok(frame.len())
}

/// The next message, which once begun comes `within` a time, with the bytes it took; types this version does not know are
/// skipped. `None` at the end.
pub(super) async fn read(stream: &mut RecvStream, within: Duration) -> Result<Option<(Message, usize)>, FrameError> {
    loop {
        let Some((frame_type, content)) = read_frame(stream, MAX_FRAME_BYTES, within).await? else { return Ok(None) };
        if let Some(message) = decode(frame_type, &content)? {
            return Ok(Some((message, content.len() + 5)));
        }
    }
}

/// Type and content of the next frame, of at most so many bytes; `None` at the end. It may be long in coming, but
/// the rest of it comes `within` a time.
pub(super) async fn read_frame(
    stream: &mut RecvStream,
    max_bytes: usize,
    within: Duration,
) -> Result<Option<(u8, Vec<u8>)>, FrameError> {
    let mut first = [0];
    match stream.read_exact(&mut first).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let rest = async {
        let mut head = [0; 4];
        stream.read_exact(&mut head[..3]).await?;
        let [b, c, d, _] = head;
        let size = u32::from_be_bytes([first[0], b, c, d]) as usize;
        if size > max_bytes {
            return Err(FrameError::TooLarge(size));
        }
        let rest = size.checked_sub(1).ok_or(FrameError::Empty)?;
        stream.read_exact(&mut head[3..]).await?;
        Ok(Some((head[3], read_content(stream, rest).await?)))
    };
    timeout(within, rest).await.map_err(|_| FrameError::Slow)?
}

/// Reads what a frame's head has promised. A promise takes no memory: it is taken as bytes come, at most twice as much.
async fn read_content(stream: &mut RecvStream, size: usize) -> Result<Vec<u8>, quinn::ReadExactError> {
    let mut content = Vec::new();
    while content.len() < size {
        let begin = content.len();
        content.resize(size.min(begin + begin.max(FIRST_READ)), 0);
        stream.read_exact(&mut content[begin..]).await?;
    }
    Ok(content)
}

fn decode(frame_type: u8, content: &[u8]) -> Result<Option<Message>, FrameError> {
    if frame_type & COMPRESSED == 0 {
        return Ok(Message::decode(frame_type, content)?);
    }
    let (size, packed) = content.split_first_chunk::<4>().ok_or(FrameError::Packing)?;
    let size = u32::from_be_bytes(*size) as usize;
    if size > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge(size));
    }
    let content = zstd::bulk::decompress(packed, size).map_err(|_| FrameError::Packing)?;
    Ok(Message::decode(frame_type & !COMPRESSED, &content)?)
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a frame is far below 4 GiB").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Advert, Batch, Checkpoint, Entry, Head, LogId, Origin};

    fn batch(body: Vec<u8>) -> Message {
        let origin = Origin { region: "us-east".parse().unwrap(), incarnation: 1 };
        Message::Batch(Batch {
            log: LogId { origin, stream: shared::fact::FactStream::Ledger },
            pull: 1,
            entries: vec![Entry { envelope: vec![1], body: Some(body) }],
            checkpoint: Checkpoint { head: Head::EMPTY, key_id: [0; 32], signature: vec![], certificate: None },
        })
    }

    #[test]
    fn frames_unpack_to_what_was_packed() {
        let large = batch(vec![7; 100_000]);
        for message in [Message::Advert(Advert::default()), large] {
            let frame = encode(&message, true);
            assert!(frame.len() < 2_000);
            assert_eq!(decode(frame[4], &frame[5..]).unwrap(), Some(message));
        }
    }

    #[test]
    fn nothing_is_packed_for_a_peer_that_has_not_said_it_can_unpack() {
        let message = batch(vec![7; 100_000]);
        let frame = encode(&message, false);
        assert!(frame.len() > 100_000);
        assert_eq!(decode(frame[4], &frame[5..]).unwrap(), Some(message));
    }

    #[test]
    fn a_small_frame_that_claims_to_unpack_into_much_is_refused() {
        let mut frame = encode(&batch(vec![0; 1_000_000]), true);
        frame[5..9].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(decode(frame[4], &frame[5..]), Err(FrameError::TooLarge(_))));
        frame[5..9].copy_from_slice(&10_u32.to_be_bytes());
        assert!(matches!(decode(frame[4], &frame[5..]), Err(FrameError::Packing)));
        assert!(matches!(decode(COMPRESSED | 5, &[1, 2]), Err(FrameError::Packing)));
    }
}
