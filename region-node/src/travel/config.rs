//! Settings of travel times.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use url::Url;

use super::EngineApi;

/// Where travel times come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TravelConfig {
    /// A folder with `road_nodes.csv` and `road_edges.csv` ([`super::RoadTables`]); without it ways are measured as the
    /// crow flies.
    #[serde(default)]
    pub road_graph: Option<PathBuf>,
    /// A routing engine; without one, learned speeds serve.
    #[serde(default)]
    pub engine_url: Option<Url>,
    /// How it is asked.
    pub engine_api: EngineApi,
    /// An answer of the engine later than this is done without.
    #[serde(with = "humantime_serde")]
    pub engine_timeout: Duration,
    /// After a failure the engine is left alone for so long.
    #[serde(with = "humantime_serde")]
    pub engine_pause: Duration,
    /// Speeds are learned anew so often.
    #[serde(with = "humantime_serde")]
    pub learn_every: Duration,
    /// From trips no older than this.
    #[serde(with = "humantime_serde")]
    pub learn_from: Duration,
    /// And from no more than these, the newest.
    pub learn_from_at_most: u32,
}
