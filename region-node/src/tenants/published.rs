//! Published config, cached: read on every call, changed a few times a day.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use shared::{ids::TenantId, tenant_config::TenantConfig};

use super::Directory;

/// One whole, validated, numbered version of a tenant's config.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedConfig {
    /// Counts from 1.
    pub version: i64,
    /// What runs.
    pub config: TenantConfig,
}

#[derive(Default)]
pub(super) struct ConfigCache(RwLock<HashMap<TenantId, Cached>>);

struct Cached {
    /// The number of the newest version there was; what runs is older where that one cannot be read.
    newest: i64,
    runs: Arc<PublishedConfig>,
}

impl ConfigCache {
    pub(super) fn get(&self, tenant: &TenantId) -> Option<Arc<PublishedConfig>> {
        self.0.read().expect("no holder of this lock panics").get(tenant).map(|cached| cached.runs.clone())
    }

    /// Keeps the newer of `config` and what is there, since two readers may finish in either order.
    pub(super) fn insert(&self, tenant: TenantId, newest: i64, config: PublishedConfig) -> Arc<PublishedConfig> {
        let mut configs = self.0.write().expect("no holder of this lock panics");
        let read = || Cached { newest, runs: Arc::new(config.clone()) };
        let kept = configs.entry(tenant).or_insert_with(read);
        if kept.newest < newest {
            *kept = read();
        }
        kept.runs.clone()
    }

    pub(super) fn remove(&self, tenant: &TenantId) {
        self.0.write().expect("no holder of this lock panics").remove(tenant);
    }

    /// Drops what `directory` knows a newer version of.
    pub(super) fn keep_current(&self, directory: &Directory) {
        let newest = |tenant: &TenantId| directory.homes.get(tenant).and_then(|home| home.config_version);
        let mut configs = self.0.write().expect("no holder of this lock panics");
        configs.retain(|tenant, cached| newest(tenant) == Some(cached.newest));
    }
}
