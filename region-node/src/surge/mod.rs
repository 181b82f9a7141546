//! Where drivers are scarce, as an input for prices.
//!
//! Every few seconds one node counts, per H3 cell and class of vehicle, the rides that look for a driver or found none and the
//! drivers who could take one, smooths that (`pricing::surge_map`, which knows neither database nor clock) and writes it whole.
//! All nodes price by what is written, so all of them say the same; nobody counts while pricing. Should no node write any more,
//! nothing is scarce.

mod list;
mod store;

use std::{collections::BTreeMap, time::Duration as StdDuration};

use shared::{geo::Point, ids::TenantId, tenant_config::TenantConfig};
use time::Duration;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    db::TenantTx,
    http::Problem,
    pricing::{Surge, SurgeCount, SurgeKey, surge_cell, surge_cell_of, surge_map},
    serve::every,
};

/// How often it is computed.
const EVERY: StdDuration = StdDuration::from_secs(5);
/// What is older says nothing any more.
const STALE: Duration = Duration::seconds(60);

/// What scarcity makes of the price of one ride.
#[derive(Clone, Debug, PartialEq)]
pub struct Scarcity {
    pub surge: Surge,
    /// Where, if prices rise.
    pub cell: Option<String>,
}

impl Scarcity {
    /// Prices as in the tariff.
    pub const NONE: Self = Self { surge: Surge::NONE, cell: None };
}

/// Endpoints of surge.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list::list_surge))
}

/// Computes until the node stops.
pub fn start(app: &App) {
    app.spawn(every(app.clone(), EVERY, async |app| {
        let directory = app.tenants.directory();
        for tenant in directory.at_home_in(&app.region) {
            if let Err(problem) = compute(&app, tenant).await {
                tracing::warn!(%problem, %tenant, "scarcity could not be computed");
            }
        }
        Ok(())
    }));
}

/// Whether scarcity has anything to say on prices: the tenant's policy, and its kill switch.
pub fn is_on(config: &TenantConfig) -> bool {
    config.surge.enabled && config.flags.surge
}

/// What holds for a ride in such a vehicle from a place, by what was computed last.
pub async fn at(app: &App, tx: &mut TenantTx, place: Point, vehicle_class: &str) -> sqlx::Result<Scarcity> {
    let cell = surge_cell(place);
    let known = store::cell(tx, &(vehicle_class.to_owned(), cell), app.clock.now() - STALE).await?;
    Ok(match known {
        Some(known) if known.multiplier > Surge::NONE => {
            Scarcity { surge: known.multiplier, cell: Some(cell.to_string()) }
        }
        Some(_) | None => Scarcity::NONE,
    })
}

/// Computes a tenant's map anew, unless another node does or just did.
pub(crate) async fn compute(app: &App, tenant: &TenantId) -> Result<(), Problem> {
    let published = app.tenants.config(tenant).await?;
    if !is_on(&published.config) {
        return Ok(());
    }
    let policy = &published.config.surge;
    let now = app.clock.now();
    let mut tx = app.db.begin(tenant).await?;
    let Some(before) = store::hold(&mut tx).await? else { return Ok(()) };
    let since = now - before.computed_at;
    // As long ago as the clocks of nodes may differ is long enough.
    if since < EVERY / 2 {
        return Ok(());
    }
    let mut counts: BTreeMap<SurgeKey, SurgeCount> = BTreeMap::new();
    let unserved_since = now - Duration::seconds(policy.unserved_for_s.into());
    for (vehicle_class, pickup) in store::demand(&mut tx, now, unserved_since).await? {
        counts.entry((vehicle_class, surge_cell(pickup))).or_default().demand += 1.0;
    }
    for ((vehicle_class, cell), free) in app.drivers.live.fleet(tenant).free_by_cell(now) {
        counts.entry((vehicle_class.as_ref().to_owned(), surge_cell_of(cell))).or_default().supply += f64::from(free);
    }
    let cells = surge_map(policy, &before.cells, &counts, since);
    store::save(&mut tx, &cells, now).await?;
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests;
