//! Messages go out to rooms.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fred::{clients::SubscriberClient, prelude::ClientLike, types::ClientState};
use serde::Serialize;
use shared::ids::{OfferId, RideId};
use socketioxide::{BroadcastError, SocketError, SocketIo};
use time::OffsetDateTime;
use tokio::{sync::mpsc, time::timeout};

use super::{
    Adapter, EventReceiver, Session, Unfit,
    event::{Message, Says},
    moves::Moves,
    rooms::Room,
};
use crate::{app::App, drivers::Position, zones::QueuePlace};

/// Redis has this long to pass a message on; then the sockets of this node hear it alone, and whoever is connected to
/// another one learns by asking, as after any lost connection.
const PASS_ON: Duration = Duration::from_millis(300);

/// Delivers messages until the node stops.
#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) io: SocketIo<Adapter>,
    /// Carries messages to the other nodes; while it is away, the sockets of this node are served alone.
    pub(super) redis: SubscriberClient,
}

/// `ride:offer_withdrawn`.
#[derive(Serialize)]
struct Withdrawn {
    offer_id: OfferId,
    ride_id: RideId,
    reason: &'static str,
}

/// `queue:update`.
#[derive(Serialize)]
struct Queue {
    queue: Option<QueuePlace>,
}

/// `driver:location`.
#[derive(Serialize)]
struct Moved {
    ride_id: RideId,
    lat: f64,
    lng: f64,
    heading: Option<f32>,
    #[serde(with = "time::serde::rfc3339")]
    recorded_at: OffsetDateTime,
}

impl Delivery {
    /// Begins to deliver, lane by lane.
    pub(super) fn start(&self, app: &App, events: EventReceiver) {
        let lanes = events.lanes.len();
        for (number, (messages, overflowed)) in events.lanes.into_iter().enumerate() {
            app.spawn(self.clone().run(messages, Overflow { overflowed, number, lanes }));
        }
        for moves in events.moves {
            app.spawn(self.clone().show(moves));
        }
    }

    async fn run(self, mut messages: mpsc::Receiver<Message>, overflow: Overflow) {
        while let Some(message) = messages.recv().await {
            self.deliver(message).await;
            if overflow.overflowed.swap(false, Ordering::Relaxed) {
                self.cut_off_all(&overflow);
            }
        }
    }

    async fn show(self, moves: Arc<Moves>) {
        loop {
            let (room, ride_id, Position { point, heading, recorded_at }) = moves.next().await;
            let moved = Moved { ride_id, lat: point.lat, lng: point.lng, heading, recorded_at };
            self.emit_latest(&room, "driver:location", &moved).await;
        }
    }

    async fn deliver(&self, Message { room, says }: Message) {
        match says {
            Says::Ride(ride, viewer) => self.emit(&room, "ride:update", &ride.seen_by(viewer)).await,
            Says::Offer(offer) => self.emit(&room, "ride:offer", &offer).await,
            Says::Withdrawn { offer_id, ride_id, reason } => {
                self.emit(&room, "ride:offer_withdrawn", &Withdrawn { offer_id, ride_id, reason }).await;
            }
            Says::Payment(payment) => self.emit(&room, "payment:update", &*payment).await,
            Says::Share(share) => self.emit(&room, "share:update", &*share).await,
            Says::Queue(queue) => self.emit_here(&room, "queue:update", &Queue { queue }).await,
        }
    }

    /// To all sockets of a room on all nodes; to those of this node if the others cannot be reached. Who reads too slowly
    /// to take it is cut off.
    async fn emit(&self, room: &Room, event: &'static str, message: &impl Serialize) {
        if self.redis.state() == ClientState::Connected {
            match timeout(PASS_ON, self.io.to(room.to_string()).emit(event, message)).await {
                Ok(Ok(())) => return,
                Ok(Err(BroadcastError::Socket(errors))) => return self.cut_off_slow(room, &errors),
                Ok(Err(error)) => tracing::debug!(%error, "a message did not reach the other nodes"),
                Err(_) => tracing::debug!("a message was not passed on in time"),
            }
        }
        self.emit_here(room, event, message).await;
    }

    /// To the sockets of this node.
    async fn emit_here(&self, room: &Room, event: &'static str, message: &impl Serialize) {
        match self.io.to(room.to_string()).local().emit(event, message).await {
            Ok(()) => {}
            Err(BroadcastError::Socket(errors)) => self.cut_off_slow(room, &errors),
            Err(error) => tracing::debug!(%error, "a message did not reach every socket of this node"),
        }
    }

    /// The same for what only the newest of counts: a slow reader skips the older ones.
    async fn emit_latest(&self, room: &Room, event: &'static str, message: &impl Serialize) {
        if self.redis.state() == ClientState::Connected {
            let passed_on = timeout(PASS_ON, self.io.to(room.to_string()).volatile().emit(event, message)).await;
            if matches!(passed_on, Ok(Ok(()))) {
                return;
            }
        }
        if let Err(error) = self.io.to(room.to_string()).local().volatile().emit(event, message).await {
            tracing::debug!(%error, "a position did not reach every socket of this node");
        }
    }

    /// A client that missed a message would be wrong without knowing it. One that is disconnected connects again and asks.
    fn cut_off_slow(&self, room: &Room, errors: &[SocketError]) {
        if !errors.iter().any(|error| matches!(error, SocketError::InternalChannelFull)) {
            return;
        }
        for socket in self.io.to(room.to_string()).local().sockets() {
            if socket.extensions.insert(Unfit).is_none() {
                metrics::counter!("region_node_slow_sockets_total", "why" => "queue_full").increment(1);
            }
            // Its queue is full, so it may not hear of this either: `disconnect_unfit` tries again, and the connection of a
            // reader that takes nothing at all ends with `http.write_timeout`.
            let _ = socket.disconnect();
        }
    }

    /// The same for everybody a lane serves that had no room for a message.
    fn cut_off_all(&self, overflow: &Overflow) {
        tracing::warn!("more messages than could be delivered: sockets that may have missed one connect anew");
        for socket in self.io.sockets() {
            let room = socket.extensions.get::<Session>().and_then(|session| Room::of(&session.caller));
            if room.is_some_and(|room| room.lane(overflow.lanes) == overflow.number) {
                socket.extensions.insert(Unfit);
            }
        }
    }
}

/// Whether a lane lost a message, and whom it serves.
struct Overflow {
    overflowed: Arc<AtomicBool>,
    number: usize,
    lanes: usize,
}
