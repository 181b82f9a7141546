//! QUIC between regions: mutual TLS of a private authority, one control stream and one stream per kind of log and
//! direction, so that bulk never delays what is urgent.
//!
//! It moves frames and knows who is at the other end; what frames mean is [`crate::protocol`]'s business.

mod connection;
mod frame;
mod keys;
mod mesh;
mod moving;
mod snapshot;
mod tls;

pub use connection::Link;
pub use keys::{KeyRing, SigningKey};
pub use mesh::{Mesh, MeshEvent};
pub(crate) use moving::STALLED_AFTER;
pub use moving::{BrokenOff, MoveFrame, MoveLink};
pub use tls::{Credentials, TlsError};

/// The protocol's name in the TLS handshake; a major version of the wire format.
pub const ALPN: &[u8] = b"gocomet-sync/1";

#[cfg(test)]
pub(crate) mod tests;
