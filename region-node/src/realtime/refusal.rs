//! Telling a refused client why, in a way programs can read.
//!
//! Socket.IO carries an object beside the message of a refused connection (`connect_error`'s `data`), but socketioxide writes
//! the message alone. So a refusal's message is made as long as the whole packet will be: a secret of this process, then the
//! packet it stands for. Where bytes leave the node, [`Refusals`] puts the packet in its place. Nothing a client sends can look
//! like it, since nobody ever sees the secret, and the length stays, so frames and Content-Length do too.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use axum::serve::Listener;
use memchr::memmem;
use rand::RngExt;
use serde::Serialize;
use shared::problem::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// As long as the packet's own quotes and keys need, and long enough that nobody guesses it.
const SECRET_BYTES: usize = 16;

static SECRET: LazyLock<String> = LazyLock::new(|| hex::encode(rand::rng().random::<[u8; SECRET_BYTES]>()));

/// Why a socket is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Refusal {
    /// The stable reason.
    pub(super) code: Code,
    /// Where to connect instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) base_url: Option<String>,
}

#[derive(Serialize)]
struct ConnectError<'a> {
    message: &'static str,
    data: &'a Refusal,
}

/// The message that stands for the packet.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = ConnectError { message: self.code.as_str(), data: self };
        let packet = serde_json::to_vec(&packet).map_err(|_| fmt::Error)?;
        write!(f, "{}{}", *SECRET, hex::encode(packet))
    }
}

/// `bytes` with each message that stands for a packet replaced by the packet; `None` if there is none.
fn unveiled(bytes: &[u8]) -> Option<Vec<u8>> {
    const BEFORE: &[u8] = br#"{"message":""#;
    const AFTER: &[u8] = br#""}"#;
    // Only a refusal begins like this; other traffic is looked at no further.
    let secret = SECRET.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let mut from = 0;
    while let Some(found) = find(&bytes[from..], secret).map(|at| at + from) {
        from = found + secret.len();
        let hex_length = bytes[from..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let end = from + hex_length + AFTER.len();
        let Some(begin) = found.checked_sub(BEFORE.len()) else { continue };
        let is_whole = bytes.get(begin..found) == Some(BEFORE) && bytes.get(from + hex_length..end) == Some(AFTER);
        let Some(packet) = hex::decode(&bytes[from..from + hex_length]).ok().filter(|_| is_whole) else { continue };
        let place = &mut out.get_or_insert_with(|| bytes.to_vec())[begin..end];
        // The packet is shorter than what stands for it: spaces after an object are no part of it.
        place.fill(b' ');
        place[..packet.len()].copy_from_slice(&packet);
        from = end;
    }
    out
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    // A refusal is small and alone; larger writes are never one.
    const LARGEST: usize = 4_096;
    if bytes.len() < what.len() || bytes.len() > LARGEST {
        return None;
    }
    memmem::find(bytes, what)
}

/// A listener whose connections tell the refused why.
pub struct Refusals(pub TcpListener);

impl Listener for Refusals {
    type Io = Unveiling;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Unveiling, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection may be slow: TCP_NODELAY could not be set");
        }
        (Unveiling { stream, rest: Vec::new() }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Listener::local_addr(&self.0)
    }
}

/// A connection on which refusals are unveiled.
pub struct Unveiling {
    stream: TcpStream,
    /// What was unveiled and the socket has yet to take.
    rest: Vec<u8>,
}

impl Unveiling {
    /// Writes what is left of an unveiled packet.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => drop(self.rest.drain(..written)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Unveiling {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unveiling {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.drain(cx))?;
        match unveiled(bytes) {
            None => Pin::new(&mut self.stream).poll_write(cx, bytes),
            Some(unveiled) => {
                // Taken whole, so that no part of the original can follow.
                self.rest = unveiled;
                let _ = self.drain(cx)?;
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.drain(cx))?;
        match slices.iter().position(|slice| unveiled(slice).is_some()) {
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
            Some(0) => self.poll_write(cx, &slices[0]),
            Some(before) => Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..before]),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn packet(refusal: &Refusal) -> String {
        // As socketioxide and engineioxide write it.
        format!("44{}", json!({"message": refusal.to_string()}))
    }

    #[test]
    fn a_refusal_leaves_as_message_and_data_of_the_same_length() {
        let base_url = Some("https://eu-west.example".to_owned());
        for refusal in
            [Refusal { code: Code::InvalidToken, base_url: None }, Refusal { code: Code::WrongRegion, base_url }]
        {
            let veiled = packet(&refusal);
            let frame = [b"\x81\x7e\x01\x00", veiled.as_bytes()].concat();
            let sent = unveiled(&frame).unwrap();
            assert_eq!(sent.len(), frame.len());
            assert_eq!(&sent[..4], &frame[..4]);
            let read: Value = serde_json::from_slice(&sent[6..]).unwrap();
            let code = refusal.code.as_str();
            assert_eq!(read["message"], code);
            assert_eq!(read["data"], serde_json::to_value(&refusal).unwrap());
        }
    }

    #[test]
    fn several_packets_of_one_write_are_all_unveiled() {
        let one = packet(&Refusal { code: Code::TenantMismatch, base_url: None });
        let sent = unveiled(format!("{one}\u{1e}2").as_bytes()).unwrap();
        assert!(!String::from_utf8(sent).unwrap().contains(SECRET.as_str()));
    }

    #[test]
    fn everything_else_passes_untouched() {
        for bytes in [&b""[..], b"42[\"ride:update\",{}]", br#"44{"message":"0123456789abcdef0123456789abcdef"}"#] {
            assert_eq!(unveiled(bytes), None);
        }
        assert_eq!(unveiled(&vec![b'a'; 100_000]), None);
    }
}
