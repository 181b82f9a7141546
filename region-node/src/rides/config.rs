//! Settings of rides and their prices.

use std::time::Duration;

use serde::Deserialize;

/// How rides are quoted, booked ahead and priced at their end.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RideConfig {
    /// How long an estimate's price holds.
    #[serde(with = "humantime_serde")]
    pub quote_ttl: Duration,
    /// A ride booked ahead looks for a driver this long before its time.
    #[serde(with = "humantime_serde")]
    pub schedule_lead: Duration,
    /// How far ahead a ride may be booked.
    pub schedule_days_ahead: i64,
    /// Nearer than this is now.
    #[serde(with = "humantime_serde")]
    pub schedule_min_ahead: Duration,
    /// Rides one rider may have booked ahead at once.
    pub max_bookings: i64,
    /// The longest ride, along its way.
    pub max_distance_km: i64,
    /// A trip longer than this percentage of the quoted distance that ended elsewhere is priced as driven instead of as quoted.
    pub reprice_percent: u32,
    /// What ended within this of the quoted drop-off ended there.
    pub same_dropoff_m: u32,
}
