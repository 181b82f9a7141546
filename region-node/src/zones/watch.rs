//! Looks at the queues every so often: writes who came and who went, and tells drivers of their places.

use std::time::Duration;

use shared::ids::TenantId;

use super::{
    queue::{changes, news, places},
    store,
};
use crate::{app::App, http::Problem, realtime::Event, serve::every};

/// A driver joins at most so long after he is seen inside; those of one look, and with them their places, by their ids.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) async fn watch(app: App) {
    every(app, LOOK_EVERY, async |app| {
        let directory = app.tenants.directory();
        for tenant in directory.at_home_in(&app.region) {
            if let Err(problem) = look(&app, tenant).await {
                tracing::warn!(%problem, %tenant, "the queues of its zones could not be looked at");
            }
        }
        Ok(())
    })
    .await;
}

/// One look at a tenant's queues. One node writes at a time; each tells the sockets it serves.
pub(super) async fn look(app: &App, tenant: &TenantId) -> Result<(), Problem> {
    let map = app.zones.now(app, tenant).await?;
    // A queue that is no more is looked at once more, and empties.
    let was_told = app.zones.told().get(tenant).is_some_and(|told| !told.is_empty());
    if !map.has_queues() && !was_told {
        return Ok(());
    }
    let now = app.clock.now();
    let mut tx = app.db.begin(tenant).await?;
    let may_write = store::may_write(&mut tx).await?;
    let mut waiting = store::queue(&mut tx).await?;
    if may_write {
        let changes = changes(&map, &waiting, &app.drivers.live.fleet(tenant), now);
        if !changes.is_empty() {
            store::leave(&mut tx, &changes.leave).await?;
            store::set_away(&mut tx, &changes.away, Some(now)).await?;
            store::set_away(&mut tx, &changes.back, None).await?;
            store::join(&mut tx, &changes.join, now).await?;
            waiting = store::queue(&mut tx).await?;
        }
    }
    tx.commit().await?;
    let places = places(&map, &waiting);
    let news = news(app.zones.told().entry(tenant.clone()).or_default(), &places, now);
    for (driver_id, place) in news {
        app.events.tell(Event::QueueMoved { tenant: tenant.clone(), driver_id, place });
    }
    Ok(())
}
