//! Published config, cached: read on every call, changed a few times a day.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use shared::{ids::TenantId, tenant_config::TenantConfig};

/// One whole, validated, numbered version of a tenant's config.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedConfig {
    /// Counts from 1.
    pub version: i64,
    /// What runs.
    pub config: TenantConfig,
}

#[derive(Default)]
pub(super) struct ConfigCache(RwLock<HashMap<TenantId, Arc<PublishedConfig>>>);

impl ConfigCache {
    pub(super) fn get(&self, tenant: &TenantId) -> Option<Arc<PublishedConfig>> {
        self.0.read().expect("no holder of this lock panics").get(tenant).cloned()
    }

    /// Keeps the newer of `config` and what is there, since two readers may finish in either order.
    pub(super) fn insert(&self, tenant: TenantId, config: PublishedConfig) -> Arc<PublishedConfig> {
        let mut configs = self.0.write().expect("no holder of this lock panics");
        let config = Arc::new(config);
        let kept = configs.entry(tenant).or_insert_with(|| Arc::clone(&config));
        if kept.version < config.version {
            *kept = config;
        }
        Arc::clone(kept)
    }

    pub(super) fn remove(&self, tenant: &TenantId) {
        self.0.write().expect("no holder of this lock panics").remove(tenant);
    }

    pub(super) fn keep_current(&self, versions: &HashMap<TenantId, i64>) {
        let mut configs = self.0.write().expect("no holder of this lock panics");
        configs.retain(|tenant, config| versions.get(tenant) == Some(&config.version));
    }
}
