//! A small Socket.IO client: Engine.IO protocol 4 over WebSocket, Socket.IO protocol 5, the namespace `/`.
//!
//! [`Socket`] is one connection, over when it breaks. [`LiveSocket`] connects again for as long as somebody holds it.
//! Binary attachments and HTTP long polling are not spoken: the platform sends no binary, and the tests use the official client
//! for polling.

mod connection;
mod live;
mod packet;
#[cfg(test)]
mod tests;

pub use connection::{Emitter, Event, Socket, SocketError, retry_after};
pub use live::{LiveEvent, LiveSocket};
