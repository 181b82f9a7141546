//! Every Redis key and channel of live drivers, built here and nowhere else.
//!
//! A name begins with the cluster of regions, so that several may share one Redis. What stands under them can be lost at any
//! time. No command names two of them, so a Redis cluster may have each on another server.

use shared::ids::{DriverId, TenantId};
use uuid::Uuid;

/// How many channels sightings spread over.
const SIGHTING_CHANNELS: usize = 8;

/// Names of one cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The names of a cluster.
    pub fn new(cluster_id: &str) -> Self {
        Self { prefix: format!("gocomet:{cluster_id}") }
    }

    /// One driver as last shared; lives as long as a position does.
    pub fn live(&self, tenant: &TenantId, driver_id: DriverId) -> String {
        format!("{}:live:{tenant}:{driver_id}", self.prefix)
    }

    /// Matches every [`Keys::live`].
    pub fn every_live(&self) -> String {
        format!("{}:live:*", self.prefix)
    }

    /// The tenant a [`Keys::live`] speaks of.
    pub fn tenant_of(&self, live_key: &str) -> Option<TenantId> {
        let rest = live_key.strip_prefix(&self.prefix)?.strip_prefix(":live:")?;
        rest.split_once(':')?.0.parse().ok()
    }

    /// Set by a node while it runs: gone means that Redis was emptied. A cluster has several, on its servers by chance.
    pub fn node(&self, node: Uuid, mark: usize) -> String {
        format!("{}:node:{node}:{mark}", self.prefix)
    }

    /// Where nodes tell each other of drivers: any of these, so that in a cluster no one server carries all of it.
    pub fn sightings(&self, channel: usize) -> String {
        format!("{}:sightings:{}", self.prefix, channel % SIGHTING_CHANNELS)
    }

    /// All of them.
    pub fn all_sightings(&self) -> Vec<String> {
        (0..SIGHTING_CHANNELS).map(|channel| self.sightings(channel)).collect()
    }

    /// Where a node asks the others to write a driver's breadcrumbs, and hears that they did.
    pub fn breadcrumbs(&self) -> String {
        format!("{}:breadcrumbs", self.prefix)
    }

    /// Before every channel of Socket.IO.
    pub fn sockets(&self) -> String {
        format!("{}:sockets", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_key_names_its_tenant() {
        let keys = Keys::new("demo");
        let tenant: TenantId = "cabs".parse().unwrap();
        let key = keys.live(&tenant, DriverId::new());
        assert!(key.starts_with("gocomet:demo:live:cabs:"));
        assert_eq!(keys.tenant_of(&key), Some(tenant));
        assert_eq!(Keys::new("other").tenant_of(&key), None);
    }
}
