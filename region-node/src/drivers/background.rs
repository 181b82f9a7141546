//! What goes on beside the calls: places and traces to Postgres, expiry, and correcting what the table believes.

use std::{collections::HashSet, time::Duration};

use fred::{prelude::ClientLike, types::ClientState};
use shared::ids::{DriverId, TenantId};

use super::{Duty, Position, store};
use crate::{app::App, http::Problem, serve::every};

/// Searches leave out what has expired anyway; this frees the memory.
const SWEEP: Duration = Duration::from_secs(5);
/// How often it is looked at how fresh the table is.
const CENSUS: Duration = Duration::from_secs(1);
/// Places older than this are of no use, and deleted so often.
const FORGET_PLACES: Duration = Duration::from_secs(3_600);
/// Rows of one statement.
const BATCH: usize = 2_000;
/// Every driver is compared with Postgres so often: while nodes cannot hear each other, and while they can, in case they
/// misheard.
const RECONCILE_ALL: Duration = Duration::from_secs(15);
const RECONCILE_ALL_ANYWAY: Duration = Duration::from_secs(60);

pub(super) fn start(app: &App) {
    let config = &app.config.drivers;
    app.spawn(every(app.clone(), config.store_every, async |app| store_places(&app).await));
    app.spawn(every(app.clone(), FORGET_PLACES, async |app| {
        store::forget_places(&app, app.clock.now() - FORGET_PLACES).await
    }));
    app.spawn(every(app.clone(), SWEEP, async |app| {
        let now = app.clock.now();
        app.drivers.live.fleets().iter().for_each(|(_, fleet)| fleet.sweep(now));
        Ok(())
    }));
    app.spawn(every(app.clone(), CENSUS, async |app| {
        take_census(&app);
        Ok(())
    }));
    app.spawn(every(app.clone(), config.reconcile_every, async |app| reconcile(&app, false).await));
    app.spawn(every(app.clone(), RECONCILE_ALL, async |app| match app.drivers.is_sharing() {
        true => Ok(()),
        false => reconcile(&app, true).await,
    }));
    app.spawn(every(app.clone(), RECONCILE_ALL_ANYWAY, async |app| reconcile(&app, true).await));
    // What is still here when the node stops is written before it ends.
    let (tasks, stop, app) = (app.tasks.clone(), app.stop.clone(), app.clone());
    tasks.spawn(async move {
        let writing = every(app.clone(), app.config.drivers.breadcrumbs_every, async |app| {
            app.drivers.breadcrumbs.flush(&app).await
        });
        stop.run_until_cancelled(writing).await;
        for last in [app.drivers.breadcrumbs.flush(&app).await, store_places(&app).await] {
            if let Err(problem) = last {
                tracing::warn!(%problem, "the last positions could not be written");
            }
        }
    });
}

/// Writes the places that changed, far slower than they change.
pub(super) async fn store_places(app: &App) -> Result<(), Problem> {
    let mut places: Vec<(DriverId, Position)> =
        app.drivers.live.fleets().into_iter().flat_map(|(_, fleet)| fleet.take_to_store()).collect();
    // In the order of the key, so that two nodes that write at once never wait for each other in a circle.
    places.sort_by_key(|(id, _)| *id);
    for batch in places.chunks(BATCH) {
        store::store_places(app, batch).await?;
    }
    Ok(())
}

/// Reports how many drivers are live and how fresh their positions are, and whether the other nodes can be told.
fn take_census(app: &App) {
    let is_up = app.redis.state() == ClientState::Connected;
    metrics::gauge!("region_node_redis_up").set(f64::from(u8::from(is_up)));
    let now = app.clock.now();
    for (tenant, fleet) in app.drivers.live.fleets() {
        let census = fleet.census(now);
        let labels = [("tenant", tenant.to_string())];
        metrics::gauge!("region_node_live_drivers", &labels).set(census.live as f64);
        metrics::gauge!("region_node_busy_drivers", &labels).set(census.on_trip as f64);
        metrics::gauge!("region_node_oldest_position_seconds", &labels).set(census.oldest.as_seconds_f64());
        let [tenant] = labels;
        for (quantile, age) in [("0.5", census.median), ("0.99", census.most)] {
            let labels = [tenant.clone(), ("quantile", quantile.to_owned())];
            metrics::gauge!("region_node_position_age_seconds", &labels).set(age.as_seconds_f64());
        }
    }
}

/// Corrects the table where Postgres knows better: of the drivers who are busy, here or there, or of all.
pub(super) async fn reconcile(app: &App, all: bool) -> Result<(), Problem> {
    let fleets = app.drivers.live.fleets().into_iter();
    let mut believed: Vec<(TenantId, DriverId)> =
        fleets.flat_map(|(tenant, fleet)| fleet.known(all).into_iter().map(move |id| (tenant.clone(), id))).collect();
    if !all {
        let now = app.clock.now();
        let is_news = |(tenant, id): &(TenantId, DriverId)| {
            let known = app.drivers.live.fleet(tenant).sighting(*id, now);
            known.is_some_and(|known| known.standing.duty == Duty::Free)
        };
        believed.extend(store::busy(app).await?.into_iter().filter(is_news));
    }
    for batch in believed.chunks(BATCH) {
        let ids: Vec<_> = batch.iter().map(|(_, id)| *id).collect();
        let known = store::standings(app, &ids).await?;
        let found: HashSet<_> = known.iter().map(|(_, id, _)| *id).collect();
        for (tenant, id, standing) in known {
            app.drivers.live.fleet(&tenant).correct(id, standing);
        }
        for (tenant, id) in batch.iter().filter(|(_, id)| !found.contains(id)) {
            app.drivers.live.fleet(tenant).forget(*id);
        }
    }
    Ok(())
}
