//! A Socket.IO connection as cheap as a client's can be: after the handshake, ready-made WebSocket frames on a bare socket.

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue, protocol::WebSocketConfig},
};
use tokio_util::task::TaskTracker;

/// Any key masks as well as another.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0xe9];
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes read at once.
const READ: usize = 4_096;
/// A server that says more than this in one message has gone mad.
const LONGEST: usize = 1 << 20;

/// How long whoever was told to come back later should wait.
pub(super) fn retry_after(error: &anyhow::Error) -> Option<Duration> {
    crate::socket::retry_after(error.downcast_ref()?)
}

/// One connection. Clones are the same one.
#[derive(Clone)]
pub struct Line(Arc<TcpStream>);

impl Line {
    /// Connects as somebody with a token, and answers pings.
    pub async fn open(base_url: &str, tenant: &str, token: &str, tasks: &TaskTracker) -> anyhow::Result<Self> {
        let line = Self::connect(base_url, tenant, token).await?;
        let listening = line.clone();
        tasks.spawn(async move { listening.listen(|_| ()).await });
        Ok(line)
    }

    /// Connects as somebody with a token; who does so must [`listen`](Self::listen), or is taken for dead.
    pub async fn connect(base_url: &str, tenant: &str, token: &str) -> anyhow::Result<Self> {
        let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(base_url, tenant, token));
        Ok(Self(Arc::new(opened.await.context("the handshake took too long")??)))
    }

    /// A connection without a protocol, for the floor.
    pub async fn bare(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(Arc::new(stream)))
    }

    /// Sends bytes; waits while the other side takes no more.
    pub async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.0.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.0.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a few bytes at once. Fails if the other side takes no more.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<()> {
        let written = self.0.try_write(bytes)?;
        if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Answers pings and passes on what else the server says, until the connection is over.
    pub async fn listen(&self, mut hears: impl FnMut(&str)) {
        let (mut pong, mut unread) = (Vec::new(), Vec::new());
        frame("3", &mut pong);
        while self.0.readable().await.is_ok() {
            let Ok(is_pinged) = self.read(&mut unread, &mut hears) else { return };
            if is_pinged && self.send(&pong).await.is_err() {
                return;
            }
        }
    }

    /// Reads what has come; true if there was a ping.
    fn read(&self, unread: &mut Vec<u8>, hears: &mut impl FnMut(&str)) -> io::Result<bool> {
        // On the stack and not kept: a hundred thousand connections wait most of the time.
        let mut buffer = [0; READ];
        match self.0.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => unread.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let (mut is_pinged, mut rest) = (false, unread.as_slice());
        while let Some((text, after)) = server_frame(rest)? {
            match text {
                "2" => is_pinged = true,
                "" => {}
                text => hears(text),
            }
            rest = after;
        }
        *unread = rest.to_vec();
        Ok(is_pinged)
    }
}

/// The first frame of what a server sent and what comes behind it; none while it is not whole. A frame that is no text is
/// empty.
fn server_frame(bytes: &[u8]) -> io::Result<Option<(&str, &[u8])>> {
    const TEXT: u8 = 1;
    const CLOSE: u8 = 8;
    let [kind, length, rest @ ..] = bytes else { return Ok(None) };
    let wide = match length {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((wide, rest)) = rest.split_at_checked(wide) else { return Ok(None) };
    let length = match wide {
        [] => usize::from(*length),
        wide => wide.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte)),
    };
    if length > LONGEST || kind & 0x0f == CLOSE {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let Some((text, after)) = rest.split_at_checked(length) else { return Ok(None) };
    let text = if kind & 0x0f == TEXT { std::str::from_utf8(text).map_err(io::Error::other)? } else { "" };
    Ok(Some((text, after)))
}

async fn shake_hands(base_url: &str, tenant: &str, token: &str) -> anyhow::Result<TcpStream> {
    let address = base_url.strip_prefix("http://").context("the bench speaks plain HTTP")?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut request = format!("ws://{address}/socket.io/?EIO=4&transport=websocket").into_client_request()?;
    request.headers_mut().insert("x-tenant-id", HeaderValue::from_str(tenant)?);
    let config = WebSocketConfig::default().read_buffer_size(1_024).write_buffer_size(0);
    let (mut socket, _) = client_async_with_config(request, stream, Some(config)).await?;
    // The server asks for a sign of life at once, before or after it answers. Left unread in the library's buffer, that
    // would be lost with it, and the server would take the line for dead twenty seconds later.
    let (mut connected, mut pinged) = (false, false);
    while !(connected && pinged) {
        match socket.next().await.context("the server hung up")?? {
            Message::Text(text) if text.starts_with('0') => {
                socket.send(Message::text(format!("40{}", json!({"token": token, "tenant": tenant})))).await?;
            }
            Message::Text(text) if text.as_str() == "2" => {
                socket.send(Message::text("3")).await?;
                pinged = true;
            }
            Message::Text(text) if text.starts_with("40") => connected = true,
            Message::Text(text) => bail!("the server refused the connection: {text}"),
            _ => {}
        }
    }
    Ok(socket.into_inner())
}

/// Adds a client's text frame to `out`.
pub fn frame(text: &str, out: &mut Vec<u8>) {
    out.push(0x81);
    match text.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        middle @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(text.bytes().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_apart_and_one_that_is_cut_waits_for_its_rest() {
        let long = "x".repeat(300);
        let bytes = [&[0x81, 1, b'2', 0x8a, 0, 0x81, 126, 1, 44], long.as_bytes()].concat();
        let (first, rest) = server_frame(&bytes).unwrap().unwrap();
        let (second, rest) = server_frame(rest).unwrap().unwrap();
        assert_eq!((first, second), ("2", ""));
        assert_eq!(server_frame(rest).unwrap(), Some((long.as_str(), &[][..])));
        assert_eq!(server_frame(&rest[..200]).unwrap(), None);
        assert_eq!(server_frame(&rest[..3]).unwrap(), None);
        assert!(server_frame(&[0x88, 0]).is_err());
    }
}
