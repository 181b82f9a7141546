//! What riders and drivers hear at once, over Socket.IO: events told after commit, delivered to rooms; and what drivers say.
//!
//! Every user has a room of their own ([`rooms`]), which spans the nodes of the region through Redis. Without Redis each node
//! serves its own sockets.

mod deliver;
mod event;
mod flood;
mod handshake;
mod incoming;
mod moves;
mod refusal;
mod rooms;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use socketioxide::{
    SocketIo,
    extract::{SocketRef, State, TryData},
    handler::ConnectHandler,
    layer::SocketIoLayer,
};
use socketioxide_redis::{FredAdapter, RedisAdapterConfig, RedisAdapterCtr};
use tokio::sync::Semaphore;

pub use event::{Event, EventReceiver, EventSender, channel};
pub use refusal::{Refusals, Unveiling};

use crate::{
    app::App,
    drivers::{Keys, Reporter},
    identity::Caller,
    redis,
};
use flood::Flood;
use handshake::Auth;
use refusal::Refusal;
use rooms::Room;

/// Nodes reach each other's sockets through Redis.
type Adapter = FredAdapter<socketioxide::adapter::Emitter>;

/// How often sockets are looked for that must go: their token has expired, or they are [`Unfit`].
const EXPIRY: Duration = Duration::from_secs(5);
/// Messages to one socket that wait for a slow reader; one more, and it is cut off ([`deliver`]). A message of another node
/// that finds no room is only dropped by the adapter. But whoever is farther behind than the time to answer a ping loses the
/// session, and who takes nothing the connection (`http.write_timeout`): so many messages to one person take longer to come,
/// and positions, which may come faster, don't wait here.
const MOST_WAITING: usize = 256;
/// Each socket has one. A few positions fit into it; what is longer is read in several goes.
const READ_BUFFER: usize = 2_048;

/// A socket's user.
#[derive(Clone, Debug)]
struct Session {
    caller: Caller,
}

/// Marks a socket that must go: it read too slowly, so that something was not sent to it, or sent too much.
#[derive(Clone, Copy, Debug)]
struct Unfit;

/// Starts Socket.IO: the layer that serves it, and the delivery of events until the node stops.
pub async fn start(app: &App, events: EventReceiver) -> anyhow::Result<SocketIoLayer<Adapter>> {
    let redis = redis::subscriber(&app.config.redis)?;
    let prefix = Keys::new(&app.config.region.cluster_id).sockets();
    let adapter = RedisAdapterCtr::new_with_fred_config(
        redis.clone(),
        RedisAdapterConfig::default().with_prefix(prefix).with_stream_buffer(8_192),
    );
    let adapter = adapter.await.context("Redis cannot be used for sockets: is it running, and is redis.url right?")?;
    let (layer, io) = SocketIo::builder()
        .max_buffer_size(MOST_WAITING)
        .max_payload(app.config.http.body_limit_bytes as u64)
        .ws_max_message_size(app.config.http.body_limit_bytes)
        .ws_max_frame_size(app.config.http.body_limit_bytes)
        .ws_read_buffer_size(READ_BUFFER)
        .with_state(app.clone())
        .with_adapter::<Adapter>(adapter)
        .build_layer();
    io.ns("/", connected.with(authenticate)).await.context("sockets cannot be served")?;

    let channels = redis.tracked_shard_channels().iter().map(ToString::to_string).collect();
    app.spawn(redis::keep_subscribed(redis.clone(), channels, || {}));
    deliver::Delivery { io: io.clone(), redis }.start(app, events);
    let (stop, app) = (app.stop.clone(), app.clone());
    app.tasks.clone().spawn(async move {
        let mut ticks = tokio::time::interval(EXPIRY);
        let mut departures = app.tenants.departures();
        let mut is_due = async || {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = departures.changed() => {}
            }
        };
        while stop.run_until_cancelled(is_due()).await.is_some() {
            incoming::disconnect_unfit(&io, &app);
            metrics::gauge!("region_node_sockets").set(io.sockets().len() as f64);
        }
        io.close().await;
    });
    Ok(layer)
}

/// Lets a socket in, and listens to it before it is told so: what it says at once must not find nobody there.
async fn authenticate(
    socket: SocketRef<Adapter>,
    TryData(auth): TryData<Auth>,
    State(app): State<App>,
) -> Result<(), Refusal> {
    let caller = handshake::authenticate(&app, auth.unwrap_or_default(), socket.req_parts())?;
    if let Some(room) = Room::of(&caller) {
        socket.join(room.to_string());
    }
    if let Ok(driver_id) = caller.driver() {
        let reporter = Reporter::new(&app, caller.tenant(), driver_id);
        let flood = Arc::new(Flood::new(&app.config.limits));
        socket.extensions.insert(flood.clone());
        let acks = Arc::new(Semaphore::new(incoming::ACKS_AT_ONCE));
        socket.on("location:update", incoming::LocationUpdate { app, reporter, flood, acks });
        socket.on("ride:accept", incoming::ride_accept);
        socket.on("ride:decline", incoming::ride_decline);
    }
    socket.extensions.insert(Session { caller });
    Ok(())
}

async fn connected() {}

#[cfg(test)]
mod tests;
