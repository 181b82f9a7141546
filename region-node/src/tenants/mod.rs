//! Tenants: where each is at home, and the config it runs by.
//!
//! [`directory`] is what every region knows of all regions and homes, [`published`] the versions of config that run;
//! both are cached in memory and follow NOTIFY, with a slow poll underneath in case one is missed. [`draft`] is the editable
//! document, which any region may write and which merges.

mod create;
mod directory;
mod draft;
mod header;
mod publish;
mod published;
mod route;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shared::{ids::TenantId, problem::Code};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use directory::DirectoryCell;
pub use directory::{Directory, Home, RegionEntry};
pub(crate) use draft::may_configure;
pub use header::{OptionalTenant, TenantHeader};
pub(crate) use header::{named_tenant, tenant_in_query};
pub use publish::publish_due_drafts;
pub use published::PublishedConfig;
pub(crate) use route::Route;
pub use store::announce_region;

use crate::{app::App, db::Db, http::Problem};
use published::ConfigCache;

/// What this region knows of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<Inner>);

struct Inner {
    directory: DirectoryCell,
    configs: ConfigCache,
    /// The heads of drafts that were found unfit to be published, so that each is looked at and logged once.
    unfit: Mutex<HashMap<TenantId, Vec<String>>>,
    db: Db,
}

impl Tenants {
    /// Loads the directory.
    pub async fn load(db: Db) -> Result<Self, Problem> {
        let tenants = Self(Arc::new(Inner {
            directory: DirectoryCell::default(),
            configs: ConfigCache::default(),
            unfit: Mutex::default(),
            db,
        }));
        tenants.refresh().await?;
        Ok(tenants)
    }

    /// Regions and homes as known now.
    pub fn directory(&self) -> Arc<Directory> {
        self.0.directory.get()
    }

    /// The cell that follows the directory, for the edge.
    pub(crate) fn directory_cell(&self) -> DirectoryCell {
        self.0.directory.clone()
    }

    /// The tenant's published config: the newest this release can read.
    pub async fn config(&self, tenant: &TenantId) -> Result<Arc<PublishedConfig>, Problem> {
        if let Some(config) = self.0.configs.get(tenant) {
            return Ok(config);
        }
        let mut tx = self.0.db.anywhere(tenant).await?;
        let found = store::newest_config(&mut tx).await?;
        tx.commit().await?;
        let (newest, config) = found.ok_or_else(|| match self.directory().homes.contains_key(tenant) {
            true => {
                Problem::new(Code::Unavailable, format!("the config of '{tenant}' has not arrived yet")).retry_after(1)
            }
            false => Problem::new(Code::UnknownTenant, format!("no tenant '{tenant}'")),
        })?;
        Ok(self.0.configs.insert(tenant.clone(), newest, config))
    }

    /// Reads the directory again and drops configs that have a newer version.
    pub async fn refresh(&self) -> Result<(), Problem> {
        let mut tx = self.0.db.system().await?;
        let directory = store::directory(&mut tx).await?;
        tx.commit().await?;
        self.0.configs.keep_current(&directory);
        self.0.directory.set(directory);
        Ok(())
    }

    /// Whether the draft at these heads was found unfit to be published before.
    fn is_known_unfit(&self, tenant: &TenantId, heads: &[String]) -> bool {
        self.unfit().get(tenant).is_some_and(|known| known == heads)
    }

    fn note_unfit(&self, tenant: TenantId, heads: Vec<String>) {
        self.unfit().insert(tenant, heads);
    }

    fn unfit(&self) -> MutexGuard<'_, HashMap<TenantId, Vec<String>>> {
        self.0.unfit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the cached config of one tenant.
    pub fn forget_config(&self, tenant: &TenantId) {
        self.0.configs.remove(tenant);
    }
}

/// Endpoints about tenants.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::create_tenant))
        .routes(routes!(draft::get_config, draft::patch_config))
        .routes(routes!(publish::publish_config))
        .routes(routes!(route::route))
        .routes(routes!(route::directory))
}
