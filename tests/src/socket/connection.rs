//! One connection, from the handshake until it breaks.

use std::{collections::BTreeMap, time::Duration};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue, protocol::WebSocketConfig},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::packet::{self, Packet};
use crate::api::Client;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Someone who leaves this many events unread has gone away.
const UNREAD_EVENTS: usize = 1_024;
/// The library's default of 128 KiB per connection is a lot for a fleet.
const READ_BUFFER: usize = 4_096;

type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("the connection failed: {0}")]
    Transport(Box<tungstenite::Error>),
    #[error("the server refused the connection: {message} {data}")]
    Refused { message: String, data: Value },
    #[error("the server did not answer in time")]
    Silent,
    #[error("the connection is over")]
    Over,
    #[error("the server sent what is not Socket.IO: {0}")]
    Garbled(String),
}

impl SocketError {
    /// How long the server asks to stay away, if it has no room now.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Transport(error) => retry_after(error),
            Self::Refused { .. } | Self::Silent | Self::Over | Self::Garbled(_) => None,
        }
    }

    /// The code with which a connection was refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { data, .. } => data.get("code")?.as_str(),
            Self::Transport(_) | Self::Silent | Self::Over | Self::Garbled(_) => None,
        }
    }
}

/// How long to stay away, as an answer that is no WebSocket's says.
pub fn retry_after(error: &tungstenite::Error) -> Option<Duration> {
    let tungstenite::Error::Http(answer) = error else { return None };
    let seconds = answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

impl From<tungstenite::Error> for SocketError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Transport(Box::new(error))
    }
}

/// Something the server said.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub name: String,
    pub payload: Value,
}

/// One connection; dropping it closes it.
pub struct Socket {
    emitter: Emitter,
    events: mpsc::Receiver<Event>,
    _closing: DropGuard,
}

/// The sending half; clones send over the same connection.
#[derive(Clone)]
pub struct Emitter {
    commands: mpsc::Sender<Emission>,
}

struct Emission {
    name: &'static str,
    payload: Value,
    answer: Option<oneshot::Sender<Value>>,
}

impl Socket {
    /// Connects as the caller of `client`, to his tenant.
    pub async fn connect(client: &Client, tasks: &TaskTracker) -> Result<Self, SocketError> {
        let auth = json!({"token": client.token().await, "tenant": client.tenant()});
        Self::connect_with(client.base_url(), client.tenant(), &auth, tasks).await
    }

    /// Connects with any `auth`, whatever it may be good for; `tenant` goes into the header.
    pub async fn connect_with(
        base_url: &str,
        tenant: Option<&str>,
        auth: &Value,
        tasks: &TaskTracker,
    ) -> Result<Self, SocketError> {
        let handshake = shake_hands(base_url, tenant, auth);
        let (web_socket, silence) = timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| SocketError::Silent)??;
        let (commands, emissions) = mpsc::channel(64);
        let (unread, events) = mpsc::channel(UNREAD_EVENTS);
        let closing = CancellationToken::new();
        let connection = Connection { web_socket, silence, emissions, unread, awaited: BTreeMap::new(), next_ack: 0 };
        tasks.spawn(connection.run(closing.clone()));
        Ok(Self { emitter: Emitter { commands }, events, _closing: closing.drop_guard() })
    }

    /// The next event; none once the connection is over.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    pub fn emitter(&self) -> Emitter {
        self.emitter.clone()
    }

    pub async fn emit(&self, name: &'static str, payload: Value) -> Result<(), SocketError> {
        self.emitter.emit(name, payload).await
    }

    pub async fn ask(&self, name: &'static str, payload: Value) -> Result<Value, SocketError> {
        self.emitter.ask(name, payload).await
    }
}

impl Emitter {
    /// Says something, without waiting for an answer.
    pub async fn emit(&self, name: &'static str, payload: Value) -> Result<(), SocketError> {
        self.commands.send(Emission { name, payload, answer: None }).await.map_err(|_| SocketError::Over)
    }

    /// Says something and waits for the acknowledgement.
    pub async fn ask(&self, name: &'static str, payload: Value) -> Result<Value, SocketError> {
        let (sender, answer) = oneshot::channel();
        let emission = Emission { name, payload, answer: Some(sender) };
        self.commands.send(emission).await.map_err(|_| SocketError::Over)?;
        let answer = timeout(ACK_TIMEOUT, answer).await.map_err(|_| SocketError::Silent)?;
        answer.map_err(|_| SocketError::Over)
    }
}

async fn shake_hands(base_url: &str, tenant: Option<&str>, auth: &Value) -> Result<(WebSocket, Duration), SocketError> {
    let address = base_url.replacen("http", "ws", 1);
    let mut request = format!("{address}/socket.io/?EIO=4&transport=websocket").into_client_request()?;
    if let Some(tenant) = tenant {
        let tenant = HeaderValue::from_str(tenant).map_err(|error| SocketError::Garbled(error.to_string()))?;
        request.headers_mut().insert("x-tenant-id", tenant);
    }
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let (mut web_socket, _) = connect_async_with_config(request, Some(config), true).await?;
    let silence = match read_packet(&mut web_socket).await? {
        Packet::Open { ping_interval, ping_timeout } => ping_interval + ping_timeout,
        other => return Err(SocketError::Garbled(format!("{other:?} instead of the handshake"))),
    };
    web_socket.send(Message::text(packet::connect(auth))).await?;
    loop {
        match read_packet(&mut web_socket).await? {
            Packet::Connected => return Ok((web_socket, silence)),
            Packet::Refused { message, data } => return Err(SocketError::Refused { message, data }),
            // A server may well ask for a sign of life before it answers.
            Packet::Ping => web_socket.send(Message::text(packet::PONG)).await?,
            Packet::Close | Packet::Disconnected => return Err(SocketError::Over),
            Packet::Other => {}
            other => return Err(SocketError::Garbled(format!("{other:?} before the connection"))),
        }
    }
}

async fn read_packet(web_socket: &mut WebSocket) -> Result<Packet, SocketError> {
    loop {
        match web_socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return packet::parse(&text).ok_or_else(|| SocketError::Garbled(text.to_string()));
            }
            Some(Ok(Message::Close(_))) | None => return Err(SocketError::Over),
            // Control frames are the library's business.
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
}

struct Connection {
    web_socket: WebSocket,
    /// A server silent for longer than this is gone.
    silence: Duration,
    emissions: mpsc::Receiver<Emission>,
    unread: mpsc::Sender<Event>,
    awaited: BTreeMap<u64, oneshot::Sender<Value>>,
    next_ack: u64,
}

impl Connection {
    async fn run(mut self, closing: CancellationToken) {
        if let Err(error) = self.serve(&closing).await {
            tracing::debug!("a socket is over: {error}");
        }
        // Nobody is left to hear of a failure to say goodbye.
        let _ = self.web_socket.send(Message::text(packet::DISCONNECT)).await;
        let _ = self.web_socket.close(None).await;
    }

    async fn serve(&mut self, closing: &CancellationToken) -> Result<(), SocketError> {
        loop {
            tokio::select! {
                () = closing.cancelled() => return Ok(()),
                read = timeout(self.silence, read_packet(&mut self.web_socket)) => {
                    self.on_packet(read.map_err(|_| SocketError::Silent)??).await?;
                }
                Some(emission) = self.emissions.recv() => self.on_emission(emission).await?,
            }
        }
    }

    async fn on_packet(&mut self, packet: Packet) -> Result<(), SocketError> {
        match packet {
            Packet::Ping => self.web_socket.send(Message::text(packet::PONG)).await?,
            Packet::Event { name, payload, ack: _ } => {
                self.unread.try_send(Event { name, payload }).map_err(|_| SocketError::Over)?;
            }
            Packet::Ack { id, payload } => {
                if let Some(answer) = self.awaited.remove(&id) {
                    // Whoever asked may have given up.
                    let _ = answer.send(payload);
                }
            }
            Packet::Close | Packet::Disconnected => return Err(SocketError::Over),
            Packet::Open { .. } | Packet::Connected | Packet::Refused { .. } | Packet::Other => {}
        }
        Ok(())
    }

    async fn on_emission(&mut self, emission: Emission) -> Result<(), SocketError> {
        let ack = emission.answer.map(|answer| {
            self.awaited.retain(|_, answer| !answer.is_closed());
            self.next_ack += 1;
            self.awaited.insert(self.next_ack, answer);
            self.next_ack
        });
        let text = packet::event(emission.name, &emission.payload, ack);
        Ok(self.web_socket.send(Message::text(text)).await?)
    }
}
