//! Goes on with the moves of tenants from here, and takes those over whose homes are gone, one after another, while this
//! instance leads; and has leased homes confirmed.

use std::{collections::BTreeMap, time::Duration};

use futures::future::{join_all, try_join_all};
use shared::ids::RegionName;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{targets, tasks::Leader};
use crate::{
    config::Config,
    moving::{self, Majority, Mode, Move, MoveError},
    store::{Fence, StoreError},
    transport::{Mesh, MoveLink},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const ERASE_STALE_EVERY: Duration = Duration::from_secs(60);
/// Tenants taken over side by side.
const TAKEN_AT_ONCE: usize = 16;
/// With [`CONFIRM_WITHIN`] well below a lease, so that the word of those that answer never runs out for those that do not.
const CONFIRM_EVERY: Duration = Duration::from_secs(2);
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);

/// Goes on with what is to be moved from here, and erases what others have begun to move here and given up.
pub(super) async fn move_tenants(mut leader: Leader, mesh: Mesh, config: Config) {
    let mut erased_at: Option<Instant> = None;
    let mut all_resumed_for = None;
    while let Some(fence) = leader.lead().await {
        let done = async {
            // Whoever led before may have died in the pause of a tenant, and a round that was broken off may have left one so.
            if all_resumed_for.take() != Some(fence) {
                leader.store.resume_homes(&fence).await?;
            }
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
            all_resumed_for = Some(fence);
            Ok(())
        };
        if !Box::pin(goes_on(&leader, fence, done, LOOK_EVERY)).await {
            return;
        }
    }
}

/// Takes the tenants whose homes are gone; no move that is under way keeps them waiting, and no lease of another tenant's home.
pub(super) async fn take_tenants_over(mut leader: Leader, mesh: Mesh, config: Config) {
    let mut won: BTreeMap<Uuid, Majority> = BTreeMap::new();
    while let Some(fence) = leader.lead().await {
        let done = async {
            let mut waiting = BTreeMap::new();
            for some in leader.store.moves_to_go_on_with(Mode::Failover).await?.chunks(TAKEN_AT_ONCE) {
                let mut taken = Vec::with_capacity(some.len());
                for moving in some {
                    taken.push(take_over(&leader, &fence, &mesh, &config, moving, won.get(&moving.id).copied()));
                }
                let ids = some.iter().map(|moving| moving.id);
                let waits = ids.zip(try_join_all(taken).await?);
                waiting.extend(waits.filter_map(|(id, majority)| Some((id, majority?))));
            }
            won = waiting;
            Ok(())
        };
        if !Box::pin(goes_on(&leader, fence, done, LOOK_EVERY)).await {
            return;
        }
    }
}

/// The majority that agrees, as long as the lease of the old home has not run out.
async fn take_over(
    leader: &Leader,
    fence: &Fence,
    mesh: &Mesh,
    config: &Config,
    moving: &Move,
    won: Option<Majority>,
) -> Result<Option<Majority>, StoreError> {
    let taken = async {
        let majority = match won {
            Some(majority) => majority,
            None => {
                tracing::warn!(
                    tenant = moving.tenant,
                    "{} is to take {} from {}",
                    moving.to,
                    moving.tenant,
                    moving.from
                );
                moving::win(&leader.store, fence, moving, |region| call(leader, mesh, config, region)).await?
            }
        };
        if Instant::now() < majority.may_take_at {
            return Ok(Some(majority));
        }
        moving::take(&leader.store, fence, moving, majority).await?;
        Ok(None)
    };
    match taken.await {
        Ok(Some(majority)) => Ok(Some(majority)),
        Ok(None) => note(leader, fence, moving, Ok(())).await.map(|()| None),
        Err(error) => note(leader, fence, moving, Err(error)).await.map(|()| None),
    }
}

/// Has the other regions confirm the homes that are leased here.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(super) async fn keep_homes(mut leader: Leader, mesh: Mesh, config: Config) {
    let mut links: BTreeMap<String, MoveLink> = BTreeMap::new();
    while let Some(fence) = leader.lead().await {
        let done = async {
            let leased = leader.store.leased_homes().await?;
            metrics::gauge!("global_sync_homes_unconfirmed").set(leased.unconfirmed as f64);
            if leased.all == 0 {
                links.clear();
                return Ok(());
            }
            let mut asked = Vec::new();
            for region in leader.store.regions_to_ask(&fence).await? {
                let link = links.remove(&region);
                asked.push(confirm(&leader, &fence, &mesh, &config, region, link));
            }
            links = join_all(asked).await.into_iter().flatten().collect();
            Ok(())
        };
        if !Box::pin(goes_on(&leader, fence, done, CONFIRM_EVERY)).await {
            return;
        }
    }
}

/// The link to a region that has confirmed them.
async fn confirm(
    leader: &Leader,
    fence: &Fence,
    mesh: &Mesh,
    config: &Config,
    region: String,
    link: Option<MoveLink>,
) -> Option<(String, MoveLink)> {
    let confirming = async {
        let mut link = match link {
            Some(link) => link,
            None => call(leader, mesh, config, region.clone()).await?,
        };
        moving::confirm(&leader.store, fence, &mut link).await?;
        anyhow::Ok(link)
    };
    let confirmed = match timeout(CONFIRM_WITHIN, confirming).await {
        Ok(confirmed) => confirmed,
        Err(_) => Err(anyhow::anyhow!("it does not answer")),
    };
    let outcome = if confirmed.is_ok() { "confirmed" } else { "failed" };
    metrics::counter!("global_sync_home_confirmations_total", "peer" => region.clone(), "outcome" => outcome)
        .increment(1);
    match confirmed {
        Ok(link) => Some((region, link)),
        Err(error) => {
            tracing::debug!(peer = region, "{region} does not confirm the homes here: {error:#}");
            None
        }
    }
}

/// False when told to stop meanwhile: what is broken off anywhere is gone on with from its row.
async fn goes_on(
    leader: &Leader,
    fence: Fence,
    done: impl Future<Output = Result<(), StoreError>>,
    again_after: Duration,
) -> bool {
    match leader.stop.run_until_cancelled(done).await {
        Some(Ok(())) => leader.pause(again_after).await,
        Some(Err(error)) => leader.after(fence, "tenants are not moved", &error).await,
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
