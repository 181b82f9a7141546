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

use std::sync::Arc;

use shared::{ids::TenantId, problem::Code};
use sqlx::PgPool;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use directory::DirectoryCell;
pub use directory::{Directory, Home, RegionEntry};
pub use header::{OptionalTenant, TenantHeader};
pub use publish::publish_due_drafts;
pub use published::PublishedConfig;
pub use store::announce_region;

use crate::{app::App, http::Problem};
use published::ConfigCache;

/// What this region knows of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<Inner>);

struct Inner {
    directory: DirectoryCell,
    configs: ConfigCache,
    pool: PgPool,
}

impl Tenants {
    /// Loads the directory; `pool` sees every tenant's home and published config, and nothing else without a tenant.
    pub async fn load(pool: PgPool) -> sqlx::Result<Self> {
        let tenants =
            Self(Arc::new(Inner { directory: DirectoryCell::default(), configs: ConfigCache::default(), pool }));
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

    /// The tenant's published config.
    pub async fn config(&self, tenant: &TenantId) -> Result<Arc<PublishedConfig>, Problem> {
        if let Some(config) = self.0.configs.get(tenant) {
            return Ok(config);
        }
        let config = store::latest_config(&self.0.pool, tenant).await?;
        let config = config.ok_or_else(|| Problem::new(Code::UnknownTenant, format!("no tenant '{tenant}'")))?;
        Ok(self.0.configs.insert(tenant.clone(), config))
    }

    /// Reads the directory again and drops configs that have a newer version.
    pub async fn refresh(&self) -> sqlx::Result<()> {
        self.0.directory.set(store::directory(&self.0.pool).await?);
        let versions = store::config_versions(&self.0.pool).await?;
        self.0.configs.keep_current(&versions);
        Ok(())
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
