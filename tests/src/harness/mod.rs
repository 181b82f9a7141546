//! What whole-system tests stand on: a cluster of real processes, cities in it, riders and drivers who do one thing at a time.
//!
//! A test file starts one [`TestCluster`] and tells its stories on it, each at a [`Spot`] of its own, so far from all others that no
//! driver of one is ever offered a ride of another. Everything panics with a sentence when it does not happen: this is for tests.

mod city;
mod cluster;
mod command;
mod driven;
mod driver;
mod hear;
mod rider;
mod stories;
mod traffic;
mod up;
mod wait;

pub use city::{Served, Spot, TestCity};
pub use cluster::TestCluster;
pub use command::{run, run_for_output};
pub use driven::Drives;
pub use driver::Driver;
pub use hear::{hear, hear_status};
pub use rider::Rider;
pub use stories::{Story, tell};
pub use traffic::{Book, Traffic};
pub use up::Up;
pub use wait::{eventually, eventually_within};
