//! Tenants: where each is at home, and the config it runs by.
//!
//! [`directory`] is what every region knows of all regions and homes, [`published`] the versions of config that run;
//! both are cached in memory and follow NOTIFY, with a slow poll underneath in case one is missed. [`draft`] is the editable
//! document, which any region may write and which merges.

mod create;
mod directory;
mod draft;
mod generation;
mod header;
mod publish;
mod published;
mod rollout;
mod route;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shared::{
    ids::{RegionName, TenantId},
    problem::Code,
};
use tokio::sync::watch;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use directory::DirectoryCell;
pub use directory::{Directory, Home, RegionEntry};
pub(crate) use draft::may_configure;
pub use header::{OptionalTenant, TenantHeader};
pub(crate) use header::{named_tenant, tenant_in_query};
pub use publish::publish_due_drafts;
pub use published::{PublishedConfig, RefusedVersion};
pub(crate) use route::Route;
pub use store::{announce_region, begins_anew};

use crate::{app::App, db::Db, http::Problem, identity::TenantKeys};
use published::{ConfigCache, InForce};

/// What this region knows of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<Inner>);

struct Inner {
    directory: DirectoryCell,
    configs: ConfigCache,
    /// The heads of drafts that were found unfit to be published, so that each is looked at and logged once.
    unfit: Mutex<HashMap<TenantId, Vec<String>>>,
    db: Db,
    region: RegionName,
    keys: TenantKeys,
    /// Told when a tenant is at home here no more.
    departed: watch::Sender<()>,
}

impl Tenants {
    /// Loads the directory as the region of `db` knows it; `keys` are read again whenever it is.
    pub async fn load(db: Db, keys: TenantKeys) -> Result<Self, Problem> {
        let tenants = Self(Arc::new(Inner {
            directory: DirectoryCell::default(),
            configs: ConfigCache::default(),
            unfit: Mutex::default(),
            departed: watch::Sender::new(()),
            region: db.region().clone(),
            keys,
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

    /// The tenant's config that runs here: the version that is due in this region, or the newest before it that this node
    /// accepts.
    pub async fn config(&self, tenant: &TenantId) -> Result<Arc<PublishedConfig>, Problem> {
        if let Some(config) = self.0.configs.get(tenant) {
            return Ok(config);
        }
        let is_known = self.directory().homes.contains_key(tenant);
        // Of tenants nobody has heard of nothing is kept.
        let changes = if is_known { self.0.configs.ask_for(tenant) } else { 0 };
        let read = self.read_config(tenant, changes).await?.ok_or_else(|| match is_known {
            true => {
                Problem::new(Code::Unavailable, format!("the config of '{tenant}' has not arrived yet")).retry_after(1)
            }
            false => Problem::new(Code::UnknownTenant, format!("no tenant '{tenant}'")),
        })?;
        // Better no price than a made-up one.
        read.runs.ok_or_else(|| {
            let detail = format!("no published config of '{tenant}' can be read by this release");
            Problem::new(Code::Unavailable, detail).retry_after(30)
        })
    }

    /// Reads what runs and keeps it, unless the tenant's config has changed since `changes` were counted.
    async fn read_config(&self, tenant: &TenantId, changes: u64) -> Result<Option<InForce>, Problem> {
        let mut tx = self.0.db.anywhere(tenant).await?;
        let read = store::config_in_force(&mut tx, &self.0.region).await?;
        tx.commit().await?;
        if let Some(read) = &read
            && let Some(before) = self.0.configs.insert(tenant, changes, read)
        {
            report_refused(tenant, &before, &read.refused);
        }
        Ok(read)
    }

    /// Takes up what has been published, or decided about what runs, for these tenants. Those nobody has asked for here are
    /// read when somebody does.
    pub async fn take_up(&self, tenants: &BTreeSet<TenantId>) -> Result<(), Problem> {
        let mut due = Vec::with_capacity(tenants.len());
        for tenant in tenants {
            let version = if self.0.configs.is_asked_for(tenant) {
                let changes = self.0.configs.touch(tenant);
                self.read_config(tenant, changes).await?.map(|read| read.due)
            } else {
                let mut tx = self.0.db.anywhere(tenant).await?;
                let version = store::version_due(&mut tx, &self.0.region).await?;
                tx.commit().await?;
                version
            };
            due.push((tenant, version));
        }
        self.0.directory.update(|directory| {
            for (tenant, version) in due {
                if let Some(home) = directory.homes.get_mut(tenant) {
                    home.config_version = version;
                }
            }
        });
        Ok(())
    }

    /// Reads the directory again, and the configs of which another version is due than the one that runs.
    pub async fn refresh(&self) -> Result<(), Problem> {
        let mut tx = self.0.db.system().await?;
        let directory = store::directory(&mut tx, &self.0.region).await?;
        tx.commit().await?;
        let behind = self.0.configs.behind(&directory);
        let own = &self.0.region;
        let before = self.0.directory.get();
        let stays = |tenant: &TenantId| directory.homes.get(tenant).is_some_and(|home| home.region == *own);
        let has_departed = !before.at_home_in(own).all(stays);
        self.0.keys.forget();
        self.0.directory.set(directory);
        if has_departed {
            self.0.departed.send_replace(());
        }
        for tenant in behind {
            let changes = self.0.configs.touch(&tenant);
            if self.read_config(&tenant, changes).await?.is_none() {
                self.0.configs.remove(&tenant);
            }
        }
        Ok(())
    }

    /// Tells whenever a tenant is at home here no more.
    pub(crate) fn departures(&self) -> watch::Receiver<()> {
        self.0.departed.subscribe()
    }

    /// Whether the draft at these heads was found unfit to be published before.
    fn is_known_unfit(&self, tenant: &TenantId, heads: &[String]) -> bool {
        self.unfit().get(tenant).is_some_and(|known| known == heads)
    }

    /// A decision about what runs lets a draft be looked at anew.
    fn forget_unfit(&self, tenant: &TenantId) {
        self.unfit().remove(tenant);
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

/// Shows refused versions as metrics, and that those refused before are refused no more.
fn report_refused(tenant: &TenantId, before: &[RefusedVersion], now: &[RefusedVersion]) {
    let gauge = |refused: &RefusedVersion| {
        metrics::gauge!(
            "region_node_config_refused",
            "tenant" => tenant.to_string(),
            "version" => refused.version.to_string(),
            "field" => refused.field.clone(),
            "reason" => refused.reason.clone()
        )
    };
    for refused in before.iter().filter(|refused| !now.contains(refused)) {
        gauge(refused).set(0.0);
    }
    for refused in now.iter().filter(|refused| !before.contains(refused)) {
        let RefusedVersion { version, field, reason } = refused;
        tracing::error!(%tenant, version, field, "version {version} of {tenant}'s config is refused here, {field}: {reason}");
        gauge(refused).set(1.0);
    }
}

/// Endpoints about tenants.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create::create_tenant))
        .routes(routes!(draft::get_config, draft::patch_config))
        .routes(routes!(publish::publish_config))
        .routes(routes!(rollout::promote))
        .routes(routes!(rollout::roll_back))
        .routes(routes!(rollout::pin, rollout::unpin))
        .routes(routes!(rollout::pin_here, rollout::unpin_here))
        .routes(routes!(rollout::list_versions))
        .routes(routes!(route::route))
        .routes(routes!(route::directory))
}
