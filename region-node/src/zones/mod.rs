//! Zones with a queue: an airport's rank.
//!
//! A free driver inside joins, and whoever entered first is asked first. The queue is in Postgres, written when somebody comes
//! or goes and never because somebody moves: every so often one node at a time compares it with the live table ([`watch`]) and
//! writes what [`mod@queue`] says has changed. So nothing is done per position, all nodes see one order, and no place is lost with
//! a node. [`map`] says which zone a place is in. Who goes offline or takes a ride leaves with the same commit.

mod list;
mod map;
mod place;
mod queue;
mod store;
mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dashmap::DashMap;
use shared::ids::{DriverId, OfferId, TenantId};
use time::OffsetDateTime;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use map::ZoneMap;
pub use place::QueuePlace;
pub use queue::Waiting;
pub use store::queue;

use crate::{app::App, db::TenantTx, http::Problem, tenants::PublishedConfig};
use queue::Told;

/// What a node keeps of zones; cheap to clone.
#[derive(Clone, Default)]
pub struct Zones {
    maps: Arc<DashMap<TenantId, (i64, Arc<ZoneMap>)>>,
    /// The places this node's sockets were last told of.
    told: Arc<Mutex<HashMap<TenantId, HashMap<DriverId, Told>>>>,
}

impl Zones {
    /// The zones a tenant has published.
    async fn now(&self, app: &App, tenant: &TenantId) -> Result<Arc<ZoneMap>, Problem> {
        let published = app.tenants.config(tenant).await?;
        Ok(self.of(tenant, &published))
    }

    /// The zones of a published config.
    pub fn of(&self, tenant: &TenantId, published: &PublishedConfig) -> Arc<ZoneMap> {
        if let Some(known) = self.maps.get(tenant).filter(|known| known.0 == published.version) {
            return known.1.clone();
        }
        let map = Arc::new(ZoneMap::new(&published.config.zones));
        self.maps.insert(tenant.clone(), (published.version, map.clone()));
        map
    }

    fn told(&self) -> MutexGuard<'_, HashMap<TenantId, HashMap<DriverId, Told>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Endpoints of zones.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::list_zones))
        .routes(routes!(place::get_place))
        .routes(routes!(place::get_queue))
}

/// Watches who comes and goes until the node stops.
pub fn start(app: &App) {
    app.spawn(watch::watch(app.clone()));
}

/// Takes a driver out of his queue, who goes offline or takes a ride. Part of the transaction that says so.
pub async fn leave(app: &App, tx: &mut TenantTx, driver_id: DriverId) -> Result<(), Problem> {
    if app.zones.now(app, tx.tenant()).await?.has_queues() {
        store::leave(tx, &[driver_id]).await?;
    }
    Ok(())
}

/// Counts offers that were declined, or ran out, against their drivers' places.
pub async fn note_refused(
    app: &App,
    tx: &mut TenantTx,
    offers: &[OfferId],
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let map = app.zones.now(app, tx.tenant()).await?;
    if map.has_queues() && !offers.is_empty() {
        let limits: Vec<(&str, u32)> = map.queues().map(|zone| (zone.id.as_str(), zone.decline_limit)).collect();
        store::count_refusals(tx, offers, &limits, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
