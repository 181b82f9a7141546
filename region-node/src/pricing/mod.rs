//! What a ride costs: the arithmetic of a tariff, the quote shown before, the fare charged after.
//!
//! Money is integers only. Nothing here knows a database or a clock; [`quote`] is told how to sign.

pub mod fare;
pub mod quote;
mod surge;
mod tariff;

pub use fare::{Fare, FareLine, LineCode, Travelled};
pub use quote::{Promise, Quote, QuoteError};
pub use surge::{Surge, SurgeCell, SurgeCount, SurgeKey, surge_cell, surge_cell_of, surge_map};
pub use tariff::Measured;
pub(crate) use tariff::{kilometres, minutes};
