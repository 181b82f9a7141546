//! Replication between regions: one append-only log of facts per origin and stream, numbered after commit, signed,
//! pulled by whoever lacks it, stored, and then applied to the tables `region-node` reads.
//!
//! [`protocol`] is the core: a state machine without sockets, clock or database. [`store`] is Postgres, [`transport`]
//! is QUIC, [`documents`] says what applying a fact means, `moving` takes a tenant's rows to its next home, [`node`] puts them
//! together and [`status`] shows them.
#![warn(missing_docs)]

pub mod config;
mod documents;
mod moving;
pub mod node;
mod once;
pub mod protocol;
mod refusal;
pub mod status;
pub mod store;
pub mod transport;
