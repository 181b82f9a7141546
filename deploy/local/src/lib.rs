//! A whole cluster on one machine: behind `make up`, and behind every whole-system test.
//!
//! [`Cluster`] starts regions, each with a Postgres, a Redis, region-nodes and global-syncs of its own, and offers the
//! drills: processes killed, frozen and restarted, links between regions slowed and cut, old backups restored. A [guard]
//! process cleans up even after this one was killed. The library knows nothing of rides: it starts programs, waits until
//! they say they are ready, and creates tenants over the public API as an operator would.

mod account;
mod certificates;
mod cluster;
mod cluster_file;
pub mod control;
mod drills;
mod failure;
pub mod guard;
mod install;
mod interrupts;
mod link;
mod localstripe;
mod ports;
mod postgres;
mod process;
mod procs;
mod progress;
mod redis;
mod region;
mod secrets;
mod service;
mod start;
pub mod state;
pub mod supervisor;
mod tenants;
pub mod throwaway;
mod tools;
mod valhalla;
mod wait;

pub use cluster::Cluster;
pub use cluster_file::{ClusterFile, LinkEntry, RegionEntry};
pub use drills::Link;
pub use failure::{Failure, last_lines};
pub use interrupts::Interrupts;
pub use link::{Carried, Direction, Links, Route};
pub use ports::DEFAULT_BASE;
pub use postgres::Durability;
pub use process::Process;
pub use procs::ProcessId;
pub use progress::{Event, Progress};
pub use region::Credentials;
pub use service::Service;
pub use start::Builder;
pub use tenants::{Tenant, TenantSpec};
pub use tools::{Programs, TestTools, Tools};
