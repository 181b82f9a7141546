//! Waiting for what a socket is told.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{api::Ride, socket::Socket};

const USUALLY: Duration = Duration::from_secs(20);

/// The next event of a name that fits; others are passed over.
pub async fn hear(socket: &mut Socket, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut heard = Vec::new();
    let found = timeout(USUALLY, async {
        while let Some(event) = socket.next().await {
            if event.name == name && fits(&event.payload) {
                return Some(event.payload);
            }
            heard.push(event);
        }
        None
    });
    let found = found.await.unwrap_or_default();
    found.unwrap_or_else(|| panic!("no {name} came; heard: {heard:?}"))
}

/// The ride as it is told when it has this status.
pub async fn hear_status(socket: &mut Socket, ride: &Ride, status: &str) -> Value {
    hear(socket, "ride:update", |update| update["id"] == json!(ride.id) && update["status"] == status).await
}
