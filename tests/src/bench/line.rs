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
/// A frame with the Engine.IO ping `2`, as the server sends it.
const PING: [u8; 3] = [0x81, 1, b'2'];

/// One connection that sends, and answers pings.
pub struct Line(Arc<TcpStream>);

impl Line {
    /// Connects as somebody with a token.
    pub async fn open(base_url: &str, tenant: &str, token: &str, tasks: &TaskTracker) -> anyhow::Result<Self> {
        let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(base_url, tenant, token));
        let stream = Arc::new(opened.await.context("the handshake took too long")??);
        tasks.spawn(answer_pings(stream.clone()));
        Ok(Self(stream))
    }

    /// A connection without a protocol, for the floor.
    pub async fn bare(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(Arc::new(stream)))
    }

    /// Sends bytes; waits while the other side takes no more.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.0, bytes).await
    }
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn answer_pings(stream: Arc<TcpStream>) {
    let mut pong = Vec::new();
    frame("3", &mut pong);
    let mut buffer = [0; 1_024];
    while stream.readable().await.is_ok() {
        let read = match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let pinged = buffer[..read].windows(PING.len()).any(|bytes| bytes == PING);
        if pinged && send(&stream, &pong).await.is_err() {
            return;
        }
    }
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
