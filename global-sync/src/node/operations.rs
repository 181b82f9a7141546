//! Carries out what operators tell replication to do.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shared::sync_command::{RowKey, SyncCommand};
use tokio::{task::JoinSet, time::Instant};
use uuid::Uuid;

use super::{
    checks::look_through_logs,
    driver::{Report, snapshot_of},
    tasks::Leader,
};
use crate::{
    config::Config,
    once::Once,
    protocol::{Event, LogId, Origin},
    status::Board,
    store::{Damaged, Fence, Leaving, Order, Outcome, Store, StoreError},
    transport::{KeyRing, Mesh},
};

/// Commands are looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A region that leaves waits this long for the others, before its operator is told what they lack.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// What commands need beside the leader's.
#[derive(Clone)]
pub(super) struct Office {
    pub(super) config: Config,
    pub(super) mesh: Mesh,
    pub(super) own: Origin,
    /// The keys that were known at the start.
    pub(super) ring: KeyRing,
    pub(super) board: Board,
}

/// Carries out commands in their order, as long as this instance leads. What takes long goes on beside the rest; what a
/// lost lease or the end cuts short, whoever leads next begins again.
pub(super) async fn carry_out(mut leader: Leader, office: Office) {
    let begun: Arc<Mutex<BTreeSet<Uuid>>> = Arc::default();
    let mut long = JoinSet::new();
    while let Some(fence) = leader.lead().await {
        match leader.store.orders().await {
            Ok(orders) => {
                for order in orders {
                    let is_new = begun.lock().unwrap_or_else(PoisonError::into_inner).insert(order.id);
                    if !is_new {
                        continue;
                    }
                    let (leader, office, begun) = (leader.clone(), office.clone(), begun.clone());
                    let takes_long = matches!(
                        order.command,
                        Some(
                            SyncCommand::LoadSnapshot(_)
                                | SyncCommand::Verify
                                | SyncCommand::Mend(_)
                                | SyncCommand::MendAll
                                | SyncCommand::EraseLost(_)
                                | SyncCommand::Leave
                        )
                    );
                    let carried_out = async move {
                        let id = order.id;
                        let store = leader.store.clone();
                        let outcome = match obey(leader, &fence, &office, &order).await {
                            Err(error) if error.is_about_data() => {
                                let refused = Err(error.to_string());
                                store.end_order(&fence, id, &refused).await.map(|()| refused)
                            }
                            other => other,
                        };
                        tell(&order, outcome);
                        begun.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    };
                    if takes_long {
                        long.spawn(carried_out);
                    } else {
                        carried_out.await;
                    }
                }
            }
            Err(error) => tracing::warn!("commands cannot be read: {error}"),
        }
        while long.try_join_next().is_some() {}
        if !leader.pause(LOOK_EVERY).await {
            break;
        }
    }
    long.shutdown().await;
}

fn tell(order: &Order, outcome: Result<Outcome, StoreError>) {
    let Order { id, made_by, reason, .. } = order;
    let name = order.command.as_ref().map_or("unknown", SyncCommand::name);
    let (result, said) = match outcome {
        Ok(Ok(said)) => ("done", said),
        Ok(Err(said)) => ("refused", said),
        Err(error) => {
            tracing::warn!(%id, "command {name} is carried out later: {error}");
            return;
        }
    };
    metrics::counter!("global_sync_commands_total", "command" => name, "outcome" => result).increment(1);
    tracing::info!(
        audit.by = made_by,
        audit.deed = format!("sync.{name}"),
        audit.reason = reason,
        "command {id} to {name} is {result}: {said}"
    );
}

async fn obey(mut leader: Leader, fence: &Fence, office: &Office, order: &Order) -> Result<Outcome, StoreError> {
    let (store, id) = (leader.store.clone(), order.id);
    let Some(command) = &order.command else {
        let outcome = Err("this release of global-sync does not know the command".to_owned());
        store.end_order(fence, id, &outcome).await?;
        return Ok(outcome);
    };
    let outcome = match command {
        SyncCommand::Retry(entry) => return store.retry_by_hand(fence, id, entry).await,
        SyncCommand::Skip(entry) => return store.skip(fence, order, entry).await,
        SyncCommand::Readmit(fact) => return store.readmit(fence, id, fact).await,
        SyncCommand::Dismiss(fact) => return store.dismiss(fence, id, fact).await,
        SyncCommand::Pause(what) | SyncCommand::Resume(what) => {
            let pauses = matches!(command, SyncCommand::Pause(_));
            let outcome = store.pause(fence, id, what, pauses).await?;
            let paused = store.pauses().await?;
            let _ = leader.reports.send(Report::Core(Box::new(Event::Paused(paused))));
            return Ok(outcome);
        }
        SyncCommand::Refetch(entry) => {
            let (outcome, head) = store.forget_from(fence, id, &office.own, entry).await?;
            if let Some(head) = head {
                let origin = Origin { region: entry.origin.clone(), incarnation: entry.incarnation };
                let log = LogId { origin, stream: entry.stream };
                // As after a batch that was not stored: this is what the database holds.
                let _ = leader.reports.send(Report::Core(Box::new(Event::StoreFailed { log, head })));
            }
            return Ok(outcome);
        }
        SyncCommand::LoadSnapshot(from) => {
            let Office { mesh, config, own, ring, .. } = office;
            let loaded = snapshot_of(&store, mesh, config, Some(*fence), own, ring.clone(), &from.peer).await;
            match loaded {
                Ok(logs) => {
                    let _ = leader.reports.send(Report::Core(Box::new(Event::SnapshotLoaded { logs })));
                    Ok(format!("a snapshot of {} is loaded", from.peer))
                }
                Err(error) => Err(format!("{error:#}")),
            }
        }
        SyncCommand::Compare => {
            let _ = leader.reports.send(Report::Core(Box::new(Event::CompareNow)));
            Ok("every connected region is asked; rows that differ are shown by their keys until they do not".to_owned())
        }
        SyncCommand::Verify => {
            match look_through_logs(&mut leader, *fence, office.ring.clone(), &Once::default()).await? {
                Some(found) => {
                    store.save_damage(fence, &found).await?;
                    Ok(summary(&found))
                }
                None => return Err(StoreError::NotLeading),
            }
        }
        SyncCommand::Mend(row) => mend(store.clone(), fence, vec![row.key.clone()]).await?,
        SyncCommand::MendAll => mend(store.clone(), fence, store.rows_to_mend().await?).await?,
        SyncCommand::EraseLost(what) => store.erase_lost(fence, id, what).await?,
        SyncCommand::Drain => return store.drain(fence, id, &office.own).await,
        SyncCommand::Join => return store.join_again(fence, id, &office.own).await,
        SyncCommand::Retire(gone) if gone.region == office.own.region => {
            Err("a region leaves by itself: drain it, then have it leave".to_owned())
        }
        SyncCommand::Retire(gone) if office.board.is_connected(&gone.region) => {
            Err(format!("{} is connected: drain it, then have it leave", gone.region))
        }
        SyncCommand::Retire(gone) => return store.retire(fence, id, &gone.region).await,
        SyncCommand::Leave => {
            let begun = Instant::now();
            let mut had = None;
            loop {
                let is_connected = store.members().await?.iter().all(|region| office.board.is_connected(region));
                had = had.filter(|_| is_connected);
                match store.leave(fence, &office.own, had.as_ref()).await? {
                    Leaving::Left => {
                        let left =
                            "every region has all it wrote, and what it had of others: its programs can be stopped";
                        break Ok(left.to_owned());
                    }
                    Leaving::Refused(why) => break Err(why),
                    Leaving::Waits(what) if begun.elapsed() >= LEAVE_WITHIN => break Err(what),
                    Leaving::Waits(_) if leader.pause_leading(*fence, LOOK_EVERY).await => {}
                    Leaving::Waits(_) => return Err(StoreError::NotLeading),
                }
                if is_connected && had.is_none() {
                    had = Some(store.logs().await?);
                }
            }
        }
    };
    store.end_order(fence, id, &outcome).await?;
    Ok(outcome)
}

/// Rows whose outcome is told one by one; of more only how many there are.
const TOLD: usize = 20;

/// Makes rows anew, each by itself; what cannot be is told, and keeps no other.
async fn mend(store: Store, fence: &Fence, keys: Vec<RowKey>) -> Result<Outcome, StoreError> {
    let (mut told, mut is_whole) = (Vec::new(), true);
    let rows = keys.len();
    for key in keys {
        let outcome = match store.mend(fence, &key).await {
            Err(error) if error.is_about_data() => Err(error.to_string()),
            other => other?,
        };
        is_whole &= outcome.is_ok();
        let said = outcome.unwrap_or_else(|why| format!("{key} is as it was: {why}"));
        tracing::warn!(row = %key, "{said}");
        if told.len() < TOLD {
            told.push(said);
        }
    }
    // The sums follow the rows, which are what was put there; nobody has to be told of that.
    store.check_ledger(fence).await?;
    let more = match rows - told.len() {
        0 => String::new(),
        more => format!("; and {more} more, which the log names"),
    };
    let said = match rows {
        0 => "no row is known to be damaged or to differ".to_owned(),
        _ => format!("{}{more}", told.join("; ")),
    };
    Ok(if is_whole { Ok(said) } else { Err(said) })
}

fn summary(found: &Damaged) -> String {
    match found.entries {
        0 => "every entry is what was stored".to_owned(),
        entries => format!("{entries} are not what was stored: {}", found.named.join("; ")),
    }
}
