//! Settings of trips.

use serde::Deserialize;

/// How a trip's length is measured.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TripConfig {
    /// A leg of a trace that is faster counts nothing, metres per second: the receiver leapt, not the car.
    pub fastest_leg_mps: f64,
}
