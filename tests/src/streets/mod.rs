//! Streets a simulated car can drive along.
//!
//! A [`StreetGraph`] knows which way is quickest; a [`Route`] knows where a car is at a given moment. Neither knows a clock, a
//! city or the platform.

mod graph;
mod route;

pub use graph::{GraphBuilder, StreetGraph};
pub use route::{Position, Route};
