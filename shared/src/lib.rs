//! What `region-node` and `global-sync` both need, and nothing else: ids, money, places, errors, claims, tenant
//! configuration, facts, and how a program reads its settings and reports what it does.
//!
//! Nothing here opens a socket or a database.
#![warn(missing_docs)]

pub mod claims;
pub mod clock;
pub mod config;
pub mod fact;
pub mod geo;
pub mod ids;
pub mod local_time;
pub mod money;
pub mod problem;
pub mod promotion;
pub mod sync_command;
pub mod tariff;
pub mod telemetry;
pub mod tenant_config;
pub mod tenant_document;
pub mod zone;
