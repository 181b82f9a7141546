//! Settings of live drivers.

use std::time::Duration;

use serde::Deserialize;

use super::table::ShareRule;

/// How positions spread and are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriversConfig {
    /// How often changes go to the other nodes.
    #[serde(with = "humantime_serde")]
    pub share_every: Duration,
    /// A driver who moved less is not worth telling of before the heartbeat.
    pub share_distance_m: f64,
    /// Other nodes hear of a driver who stands still this often; well inside the 60 s a position lives.
    #[serde(with = "humantime_serde")]
    pub share_heartbeat: Duration,
    /// How often the last known places go to Postgres.
    #[serde(with = "humantime_serde")]
    pub store_every: Duration,
    /// How often the traces of running trips go to Postgres: what a crash of this node can lose of what was not acknowledged.
    #[serde(with = "humantime_serde")]
    pub breadcrumbs_every: Duration,
    /// Positions of running trips held while Postgres is away, half of them at most in the midst of being written; beyond this
    /// the drivers with most of them keep every second of their own.
    pub breadcrumbs_held: usize,
    /// How often what the table believes of busy drivers is compared with Postgres.
    #[serde(with = "humantime_serde")]
    pub reconcile_every: Duration,
}

impl DriversConfig {
    /// When other nodes need to hear of a driver.
    pub fn share_rule(&self) -> ShareRule {
        ShareRule {
            distance_m: self.share_distance_m,
            heartbeat: self.share_heartbeat.try_into().unwrap_or(time::Duration::seconds(20)),
        }
    }
}
