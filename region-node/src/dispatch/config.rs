//! Settings of the dispatcher; how a tenant's rides find drivers is the tenant's config.

use std::time::Duration;

use serde::Deserialize;

/// How the dispatcher works.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DispatchConfig {
    /// How often it looks for what is due and nobody on this node told it of.
    #[serde(with = "humantime_serde")]
    pub poll_every: Duration,
    /// A ride a node has claimed is free for the others after this, should the node have died.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// A ride without a driver is looked at again after this.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    /// The most rides matched together.
    pub batch: u16,
    /// The largest body of a preview.
    pub preview_limit_bytes: usize,
}
