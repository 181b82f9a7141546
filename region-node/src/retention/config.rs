//! Settings of retention.

use std::time::Duration;

use serde::Deserialize;

/// For how long it is kept how a ride came about, from its end.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionConfig {
    /// Who was considered for a ride, and why he was or was not asked.
    #[serde(with = "humantime_serde")]
    pub candidates: Duration,
    /// Who was asked.
    #[serde(with = "humantime_serde")]
    pub offers: Duration,
    /// Where a trip went.
    #[serde(with = "humantime_serde")]
    pub traces: Duration,
}
