//! Goes on with the moves of tenants from here, and takes those over whose homes are gone, one after another, while this
//! instance leads.

use std::time::Duration;

use shared::ids::RegionName;
use tokio::time::Instant;

use super::{targets, tasks::Leader};
use crate::{
    config::Config,
    moving::{self, Mode, Move, MoveError},
    store::{Fence, StoreError},
    transport::{Mesh, MoveLink},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
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
            for moving in leader.store.moves_to_go_on_with(Mode::Planned).await? {
                tracing::info!(tenant = moving.tenant, "{} moves to {}", moving.tenant, moving.to);
                let link = call(&leader, &mesh, &config, moving.to.clone());
                let outcome = moving::go_on(&leader.store, &fence, &moving, link).await;
                note(&leader, &fence, &moving, outcome).await?;
            }
            Ok(())
        };
        if !Box::pin(goes_on(&leader, done)).await {
            return;
        }
    }
}

/// Takes the tenants whose homes are gone; no move that is under way keeps them waiting.
pub(super) async fn take_tenants_over(mut leader: Leader, mesh: Mesh, config: Config) {
    while let Some(fence) = leader.lead().await {
        let done = async {
            for moving in leader.store.moves_to_go_on_with(Mode::Failover).await? {
                tracing::warn!(
                    tenant = moving.tenant,
                    "{} is to take {} from {}",
                    moving.to,
                    moving.tenant,
                    moving.from
                );
                let reach = |region| call(&leader, &mesh, &config, region);
                let outcome = moving::take_over(&leader.store, &fence, &moving, reach).await;
                note(&leader, &fence, &moving, outcome).await?;
            }
            Ok(())
        };
        if !Box::pin(goes_on(&leader, done)).await {
            return;
        }
    }
}

/// False when told to stop meanwhile: what is broken off anywhere is gone on with from its row.
async fn goes_on(leader: &Leader, done: impl Future<Output = Result<(), StoreError>>) -> bool {
    match leader.stop.run_until_cancelled(done).await {
        Some(Ok(())) => leader.pause(LOOK_EVERY).await,
        Some(Err(error)) => leader.after("tenants are not moved", &error).await,
        None => false,
    }
}

async fn note(leader: &Leader, fence: &Fence, moving: &Move, outcome: Result<(), MoveError>) -> Result<(), StoreError> {
    let label = match &outcome {
        Ok(()) => "completed",
        Err(MoveError::Cancelled) => "cancelled",
        Err(_) => "hindered",
    };
    metrics::counter!("global_sync_moves_total", "outcome" => label).increment(1);
    let Err(error) = outcome else { return Ok(()) };
    if matches!(error, MoveError::Cancelled) {
        return leader.store.end_cancelled(fence, moving).await;
    }
    tracing::warn!(tenant = moving.tenant, "the move of {} to {} is hindered: {error}", moving.tenant, moving.to);
    leader.store.hinder_move(fence, moving, &error.to_string()).await
}

async fn call(leader: &Leader, mesh: &Mesh, config: &Config, to: String) -> anyhow::Result<MoveLink> {
    let region: RegionName = to.parse()?;
    let targets = targets(config, leader.store.directory().await?);
    let address = targets.get(&region).ok_or_else(|| anyhow::anyhow!("its address is not known here"))?;
    mesh.move_to(&region, address).await
}
