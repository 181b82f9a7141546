//! Learns each tenant's speeds from its driven trips, again and again. A node that has not learned yet guesses as for any
//! city; nothing waits for this.

use shared::ids::TenantId;
use tokio::time::MissedTickBehavior;

use super::store;
use crate::{app::App, http::Problem};

/// Learns until cancelled.
pub(super) async fn keep_learning(app: App) {
    let mut turns = tokio::time::interval(app.config.travel.learn_every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let directory = app.tenants.directory();
        for tenant in directory.at_home_in(&app.region) {
            if let Err(problem) = learn(&app, tenant).await {
                tracing::warn!(%problem, %tenant, "travel times could not be learned and stay as they were");
            }
        }
    }
}

/// Learns one tenant's speeds.
pub(super) async fn learn(app: &App, tenant: &TenantId) -> Result<(), Problem> {
    let config = &app.config.travel;
    let mut tx = app.db.read(tenant).await?;
    let trips = store::driven_trips(&mut tx, app.clock.now() - config.learn_from, config.learn_from_at_most).await?;
    tx.commit().await?;
    let (travel, of, learned_from) = (app.travel.clone(), tenant.clone(), trips.len());
    // Measuring thousands of ways takes longer than a thread that serves others may be held.
    let learned = tokio::task::spawn_blocking(move || travel.learn(of, &trips)).await;
    match learned {
        Ok(()) => tracing::debug!(%tenant, trips = learned_from, "travel times learned"),
        Err(error) => tracing::error!(%error, %tenant, "travel times could not be computed and stay as they were"),
    }
    Ok(())
}
