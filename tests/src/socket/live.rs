//! A connection that comes back.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{Emitter, Event, Socket, SocketError};
use crate::{api::Client, backoff::Backoff};

/// What happens on a connection that comes back.
#[derive(Clone, Debug, PartialEq)]
pub enum LiveEvent {
    /// Connected, for the first time or again: whatever was said in between has been missed.
    Connected,
    Disconnected,
    Message(Event),
}

/// Connects, and connects again, until dropped.
pub struct LiveSocket {
    current: watch::Receiver<Option<Emitter>>,
    events: mpsc::Receiver<LiveEvent>,
    _closing: DropGuard,
}

impl LiveSocket {
    /// Begins to connect as the caller of `client`.
    pub fn open(client: &Client, tasks: &TaskTracker) -> Self {
        let (announce, current) = watch::channel(None);
        let (sender, events) = mpsc::channel(256);
        let closing = CancellationToken::new();
        let keeper = Keeper { client: client.clone(), tasks: tasks.clone(), announce, events: sender };
        tasks.spawn(closing.clone().run_until_cancelled_owned(keeper.run()));
        Self { current, events, _closing: closing.drop_guard() }
    }

    /// What happens next. Safe to cancel.
    pub async fn next(&mut self) -> LiveEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The keeper ends with this socket only; while it is held the connection comes back.
            None => std::future::pending().await,
        }
    }

    /// Says something if connected; what is said to nobody is lost.
    pub async fn emit(&self, name: &'static str, payload: Value) -> Result<(), SocketError> {
        self.emitter()?.emit(name, payload).await
    }

    /// Asks something if connected.
    pub async fn ask(&self, name: &'static str, payload: Value) -> Result<Value, SocketError> {
        self.emitter()?.ask(name, payload).await
    }

    pub fn is_connected(&self) -> bool {
        self.current.borrow().is_some()
    }

    fn emitter(&self) -> Result<Emitter, SocketError> {
        self.current.borrow().clone().ok_or(SocketError::Over)
    }
}

struct Keeper {
    client: Client,
    tasks: TaskTracker,
    announce: watch::Sender<Option<Emitter>>,
    events: mpsc::Sender<LiveEvent>,
}

impl Keeper {
    async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let asked_for = match Socket::connect(&self.client, &self.tasks).await {
                Ok(socket) => {
                    backoff.reset();
                    self.attend(socket).await;
                    None
                }
                Err(error) => {
                    self.on_refusal(&error).await;
                    error.retry_after()
                }
            };
            tokio::time::sleep(backoff.next(asked_for)).await;
        }
    }

    /// Passes on what a connection says until it is over.
    async fn attend(&self, mut socket: Socket) {
        self.announce.send_replace(Some(socket.emitter()));
        self.tell(LiveEvent::Connected).await;
        while let Some(event) = socket.next().await {
            self.tell(LiveEvent::Message(event)).await;
        }
        self.announce.send_replace(None);
        self.tell(LiveEvent::Disconnected).await;
    }

    async fn on_refusal(&self, error: &SocketError) {
        tracing::debug!("no connection: {error}");
        match error.code() {
            Some("invalid_token" | "unauthenticated") => {
                if let Err(error) = self.client.renew(self.client.token().await.as_deref()).await {
                    tracing::debug!("no new token either: {error}");
                }
            }
            // The server names a wait only in its own words; a longer pause than usual is what it means.
            Some("rate_limited") => tokio::time::sleep(Duration::from_secs(5)).await,
            _ => {}
        }
    }

    async fn tell(&self, event: LiveEvent) {
        // Nobody listens any more only when this keeper is about to end as well.
        let _ = self.events.send(event).await;
    }
}
