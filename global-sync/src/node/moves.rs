//! Goes on with the moves of tenants from here, one after another, while this instance leads.

use std::time::Duration;

use shared::ids::RegionName;
use tokio::time::Instant;

use super::{targets, tasks::Leader};
use crate::{
    config::Config,
    moving::{self, Move},
    store::{Fence, StoreError},
    transport::{Mesh, MoveLink},
};

const LOOK_EVERY: Duration = Duration::from_millis(500);
const ERASE_STALE_EVERY: Duration = Duration::from_secs(60);

/// Goes on with what is to be moved from here, and erases what others have begun to move here and given up.
pub(super) async fn move_tenants(mut leader: Leader, mesh: Mesh, config: Config) {
    let mut erased_at: Option<Instant> = None;
    while let Some(fence) = leader.lead().await {
        let done = async {
            if erased_at.is_none_or(|at| at.elapsed() > ERASE_STALE_EVERY) {
                leader.store.erase_stale_arrivals(&fence).await?;
                erased_at = Some(Instant::now());
            }
            for moving in leader.store.moves_to_go_on_with().await? {
                go_on(&leader, &fence, &mesh, &config, &moving).await?;
            }
            Ok(())
        };
        let stop = leader.stop.clone();
        // Broken off anywhere, it is gone on with from its row.
        let Some(done) = stop.run_until_cancelled(done).await else { return };
        let goes_on = match done {
            Ok(()) => leader.pause(LOOK_EVERY).await,
            Err(error) => leader.after("tenants are not moved", &error).await,
        };
        if !goes_on {
            return;
        }
    }
}

async fn go_on(leader: &Leader, fence: &Fence, mesh: &Mesh, config: &Config, moving: &Move) -> Result<(), StoreError> {
    tracing::info!(tenant = moving.tenant, "{} moves to {}", moving.tenant, moving.to);
    let link = call(leader, mesh, config, &moving.to);
    match moving::go_on(&leader.store, fence, moving, link).await {
        Ok(()) => {
            metrics::counter!("global_sync_moves_total", "outcome" => "completed").increment(1);
            Ok(())
        }
        Err(error) => {
            metrics::counter!("global_sync_moves_total", "outcome" => "hindered").increment(1);
            tracing::warn!(
                tenant = moving.tenant,
                "the move of {} to {} is hindered: {error}",
                moving.tenant,
                moving.to
            );
            leader.store.hinder_move(fence, moving, &error.to_string()).await
        }
    }
}

async fn call(leader: &Leader, mesh: &Mesh, config: &Config, to: &str) -> anyhow::Result<MoveLink> {
    let region: RegionName = to.parse()?;
    let targets = targets(config, leader.store.directory().await?);
    let address = targets.get(&region).ok_or_else(|| anyhow::anyhow!("its address is not known here"))?;
    mesh.move_to(&region, address).await
}
