//! One file per section.

pub mod assignment;
pub mod bootstrap;
pub mod config;
pub mod eta;
pub mod matching;
pub mod moves;
pub mod payments;
pub mod policies;
pub mod positions;
pub mod rebuild;
pub mod replication;
pub mod rides;
pub mod sockets;
