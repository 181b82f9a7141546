//! The config that runs, cached: read on every call, changed a few times a day.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use serde::Serialize;
use shared::{ids::TenantId, problem::FieldError, tenant_config::TenantConfig};

use super::Directory;

/// One whole, validated, numbered version of a tenant's config.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedConfig {
    /// Counts from 1.
    pub version: i64,
    /// What runs.
    pub config: TenantConfig,
}

/// A version that should run and does not, since this node cannot read it or finds it invalid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
pub struct RefusedVersion {
    /// Its number.
    pub version: i64,
    /// The setting.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl RefusedVersion {
    pub(super) fn new(version: i64, errors: Vec<FieldError>) -> Self {
        let error = errors.into_iter().next().unwrap_or_else(|| FieldError::new("", "it cannot be read"));
        Self { version, field: error.field, reason: error.message }
    }
}

/// What runs in a region, as read from its database.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    /// The version that should run here.
    pub(super) due: i64,
    /// The one that does: the newest up to it that this node accepts, if it accepts any.
    pub(super) runs: Option<Arc<PublishedConfig>>,
    /// Those it refused on the way, the newest first.
    pub(super) refused: Vec<RefusedVersion>,
}

#[derive(Default)]
pub(super) struct ConfigCache(RwLock<HashMap<TenantId, Slot>>);

#[derive(Default)]
struct Slot {
    /// Counts what has happened to it: who read before the last change does not put in what he read.
    changes: u64,
    known: Option<InForce>,
    /// What was refused when it was last read.
    refused: Vec<RefusedVersion>,
}

impl ConfigCache {
    pub(super) fn get(&self, tenant: &TenantId) -> Option<Arc<PublishedConfig>> {
        let slots = self.0.read().expect("no holder of this lock panics");
        slots.get(tenant)?.known.as_ref()?.runs.clone()
    }

    /// Whether the tenant's config was asked for here since the node started.
    pub(super) fn is_asked_for(&self, tenant: &TenantId) -> bool {
        self.0.read().expect("no holder of this lock panics").contains_key(tenant)
    }

    /// Makes room for a tenant's config; what is returned has to be shown when it is put in.
    pub(super) fn ask_for(&self, tenant: &TenantId) -> u64 {
        self.0.write().expect("no holder of this lock panics").entry(tenant.clone()).or_default().changes
    }

    /// Puts in what was read, unless something happened since `changes` were counted or there is no room. Returns what was
    /// refused before.
    pub(super) fn insert(&self, tenant: &TenantId, changes: u64, read: &InForce) -> Option<Vec<RefusedVersion>> {
        let mut slots = self.0.write().expect("no holder of this lock panics");
        let slot = slots.get_mut(tenant).filter(|slot| slot.changes == changes)?;
        slot.changes += 1;
        slot.known = Some(read.clone());
        Some(std::mem::replace(&mut slot.refused, read.refused.clone()))
    }

    /// Says that what is known of a tenant may be old; it goes on being served until it is read again.
    pub(super) fn touch(&self, tenant: &TenantId) -> u64 {
        let mut slots = self.0.write().expect("no holder of this lock panics");
        let slot = slots.entry(tenant.clone()).or_default();
        slot.changes += 1;
        slot.changes
    }

    /// Forgets what is known of a tenant.
    pub(super) fn remove(&self, tenant: &TenantId) {
        if let Some(slot) = self.0.write().expect("no holder of this lock panics").get_mut(tenant) {
            slot.changes += 1;
            slot.known = None;
        }
    }

    /// Tenants of which `directory` says that another version should run than the one known.
    pub(super) fn behind(&self, directory: &Directory) -> Vec<TenantId> {
        let due = |tenant: &TenantId| directory.homes.get(tenant).and_then(|home| home.config_version);
        let slots = self.0.read().expect("no holder of this lock panics");
        let behind = slots
            .iter()
            .filter(|(tenant, slot)| slot.known.as_ref().is_some_and(|known| due(tenant) != Some(known.due)));
        behind.map(|(tenant, _)| tenant.clone()).collect()
    }
}
