//! What `make bench` measures: programs built for speed, a real region, and beside them in the same run the floors no
//! implementation on this machine can go below.
//!
//! A section is a file in [`sections`]: a function that takes [`Options`] and returns tables. To add one, write the file and
//! name it in [`ALL`]. CPU is what the operating system charged each program for ([`Meter`]), so it can be trusted on a busy
//! machine, where rates and latencies cannot.

mod caller;
mod crowd;
mod floor;
mod line;
mod load;
mod meter;
mod people;
pub mod sections;
mod signer;
mod stand;
mod table;

use std::{pin::Pin, time::Duration};

pub use caller::Caller;
pub use crowd::{Crowd, Member, Orders, micros, serve as serve_crowd};
pub use floor::{Floor, serve as serve_floor};
pub use line::{Line, frame};
pub use load::{Cars, Paced, is_in_the_middle, place_in_town, send_paced};
pub use meter::{Cpu, Meter, memory_kib, most_memory_kib, sum_of_metric};
pub use people::{Person, make_drivers, make_riders, make_trips};
pub use signer::Signer;
pub use stand::Stand;
pub use table::{Row, Table, median, percentile};

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct Options {
    /// One short run of each, for developing.
    pub quick: bool,
}

impl Options {
    /// How often each row is measured; the median counts.
    pub fn runs(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// How long one run sends.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(if self.quick { 5 } else { 10 })
    }
}

/// A section's tables, once it has run.
pub type Measured<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Vec<Table>>> + 'a>>;

/// Something `make bench` measures.
#[derive(Clone, Copy)]
pub struct Section {
    /// `BENCH=name` runs it alone.
    pub name: &'static str,
    pub run: fn(&Options) -> Measured<'_>,
}

/// Every section, in the order in which they run.
pub const ALL: &[Section] = &[
    Section { name: "positions", run: |options| Box::pin(sections::positions::run(options)) },
    Section { name: "policies", run: |options| Box::pin(sections::policies::run(options)) },
    Section { name: "assignment", run: |options| Box::pin(sections::assignment::run(options)) },
    Section { name: "matching", run: |options| Box::pin(sections::matching::run(options)) },
    Section { name: "sockets", run: |options| Box::pin(sections::sockets::run(options)) },
    Section { name: "rebuild", run: |options| Box::pin(sections::rebuild::run(options)) },
    Section { name: "eta", run: |options| Box::pin(sections::eta::run(options)) },
    Section { name: "rides", run: |options| Box::pin(sections::rides::run(options)) },
    Section { name: "payments", run: |options| Box::pin(sections::payments::run(options)) },
    Section { name: "replication", run: |options| Box::pin(sections::replication::run(options)) },
    Section { name: "bootstrap", run: |options| Box::pin(sections::bootstrap::run(options)) },
    Section { name: "config", run: |options| Box::pin(sections::config::run(options)) },
    Section { name: "moves", run: |options| Box::pin(sections::moves::run(options)) },
];
