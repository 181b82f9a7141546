//! Which regions there are and where each tenant is at home.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, RwLock},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::ids::{RegionName, TenantId};
use tokio::time::Instant;

use crate::db::Epoch;

/// All regions and homes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Directory {
    /// By name.
    #[schema(value_type = Object)]
    pub regions: BTreeMap<RegionName, RegionEntry>,
    /// By tenant.
    #[schema(value_type = Object)]
    pub homes: HashMap<TenantId, Home>,
}

impl Directory {
    /// The tenants whose home a region is.
    pub fn at_home_in(&self, region: &RegionName) -> impl Iterator<Item = &TenantId> {
        self.homes.iter().filter(move |(_, home)| home.region == *region).map(|(tenant, _)| tenant)
    }
}

/// A region as it announced itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RegionEntry {
    /// Where clients and other regions reach it.
    pub base_url: String,
    /// Its replication address.
    pub quic_addr: String,
    /// The keys it signs tokens with, a JWK set.
    #[schema(value_type = Object)]
    pub jwks: Value,
    /// joining, active, draining or retired.
    pub state: String,
}

/// A tenant's home.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Home {
    /// Where its riders and drivers live.
    pub region: RegionName,
    /// Which home of its history this is.
    pub epoch: Epoch,
    /// The company's name.
    pub name: String,
    /// active, or moving while its commands are refused for a moment.
    #[serde(default)]
    pub state: String,
    /// The number of the published config that is due in the region asked; null before the first has arrived.
    #[serde(default)]
    pub config_version: Option<i64>,
}

/// Holds the newest directory; readers never wait for each other.
#[derive(Clone, Default)]
pub(crate) struct DirectoryCell(Arc<RwLock<Newest>>);

#[derive(Default)]
struct Newest {
    directory: Arc<Directory>,
    /// When it was last read whole.
    read_at: Option<Instant>,
}

impl DirectoryCell {
    pub(crate) fn get(&self) -> Arc<Directory> {
        Arc::clone(&self.0.read().expect("no holder of this lock panics").directory)
    }

    pub(crate) fn set(&self, directory: Directory) {
        *self.0.write().expect("no holder of this lock panics") =
            Newest { directory: Arc::new(directory), read_at: Some(Instant::now()) };
    }

    /// Reports how old it is, once there is one.
    pub(crate) fn report(&self) {
        if let Some(at) = self.0.read().expect("no holder of this lock panics").read_at {
            metrics::gauge!("region_node_directory_age_seconds").set(at.elapsed().as_secs_f64());
        }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Directory)) {
        change(Arc::make_mut(&mut self.0.write().expect("no holder of this lock panics").directory));
    }
}
