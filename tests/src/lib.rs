//! Simulated riders and drivers, as the demo and the whole-system tests use them.
//!
//! Everything here is a client: it knows the public API, the Socket.IO protocol and the streets of three cities, and nothing
//! of how the platform works inside. [`simulation`] is the exception: a city in simulated time around the dispatcher's core.

pub mod api;
pub mod backoff;
pub mod bench;
pub mod cities;
pub mod fleet;
pub mod harness;
pub mod set_history;
pub mod simulation;
pub mod socket;
pub mod streets;
pub mod summary;
