//! The tasks around the core. Each ends when told to, and waits out a database that is away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use shared::{fact::FactStream, ids::RegionName};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::driver::Report;
use crate::{
    protocol::{Event, Head, LogId, LogState, Origin, VerifiedBatch},
    store::{Applied, Fence, Identity, Joining, LEASE_S, Membership, Received, Store, StoreError},
    transport::SigningKey,
};

/// After a failure of the database.
const RETRY: Duration = Duration::from_millis(500);
const RENEW_EVERY: Duration = Duration::from_secs(1);
const ACKS_EVERY: Duration = Duration::from_millis(20);

/// What every task of the leader shares.
#[derive(Clone)]
pub(super) struct Leader {
    pub(super) store: Store,
    pub(super) fence: watch::Receiver<Option<Fence>>,
    /// What somebody found out to hold no more.
    pub(super) lost: mpsc::UnboundedSender<Fence>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) stop: CancellationToken,
}

impl Leader {
    /// The fence, once this instance leads; `None` when told to stop.
    pub(super) async fn lead(&mut self) -> Option<Fence> {
        tokio::select! {
            fence = self.fence.wait_for(Option::is_some) => fence.ok().and_then(|fence| *fence),
            () = self.stop.cancelled() => None,
        }
    }

    /// False when told to stop meanwhile.
    pub(super) async fn pause(&self, duration: Duration) -> bool {
        tokio::select! {
            () = sleep(duration) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// False when the lease was lost meanwhile, or we were told to stop.
    pub(super) async fn pause_leading(&mut self, held: Fence, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = self.fence.wait_for(|fence| *fence != Some(held)) => false,
            () = sleep(duration) => true,
        }
    }

    /// Waits after a failure of what was done as the leader that `held` makes; false when told to stop meanwhile.
    pub(super) async fn after(&self, held: Fence, what: &str, error: &StoreError) -> bool {
        if matches!(error, StoreError::NotLeading) {
            let _ = self.lost.send(held);
        } else {
            tracing::warn!("{what}: {error}");
        }
        self.pause(RETRY).await
    }
}

/// Takes the lease when it is free, renews it, and gives it back at the end. What is said to be `lost` may be a lease of before
/// the one that is held.
pub(super) async fn keep_lease(
    leader: Leader,
    holder: Uuid,
    identity: Identity,
    fence: watch::Sender<Option<Fence>>,
    mut lost: mpsc::UnboundedReceiver<Fence>,
) {
    let mut renewed_at = Instant::now();
    loop {
        let held = *fence.borrow();
        let asked_at = Instant::now();
        let next = match held {
            None => lead(&leader, holder, &identity).await.unwrap_or_else(|error| {
                tracing::warn!("the lease cannot be had: {error}");
                None
            }),
            Some(mine) => match leader.store.renew_lease(&mine).await {
                Ok(true) => {
                    renewed_at = asked_at;
                    Some(mine)
                }
                Ok(false) => None,
                // It may still be ours; after its time it is not, whatever the database would say.
                Err(_) if renewed_at.elapsed() < Duration::from_secs(LEASE_S.unsigned_abs().into()) => Some(mine),
                Err(_) => None,
            },
        };
        if next != held {
            renewed_at = asked_at;
            tracing::info!(leading = next.is_some(), epoch = next.map(|fence| fence.epoch()), "leadership changed");
            match next {
                Some(fence) => metrics::gauge!("global_sync_lease_epoch").set(fence.epoch() as f64),
                None => {
                    let _ = leader.reports.send(Report::Follows);
                }
            }
            fence.send_replace(next);
        }
        tokio::select! {
            () = sleep(RENEW_EVERY) => {}
            Some(gone) = lost.recv() => if next == Some(gone) {
                fence.send_replace(None);
                let _ = leader.reports.send(Report::Follows);
            },
            () = leader.stop.cancelled() => break,
        }
    }
    let held = *fence.borrow();
    if let Some(mine) = held
        && let Err(error) = leader.store.release_lease(&mine).await
    {
        tracing::warn!("the lease runs out by itself: {error}");
    }
}

/// Takes the lease if it is free and tells the driver what the database holds from then on: nobody else numbers any more.
async fn lead(leader: &Leader, holder: Uuid, identity: &Identity) -> Result<Option<Fence>, StoreError> {
    let Some(fence) = leader.store.take_lease(holder, identity).await? else { return Ok(None) };
    match leader.store.logs().await {
        Ok(logs) => {
            let _ = leader.reports.send(Report::Leads(fence, logs));
            Ok(Some(fence))
        }
        Err(error) => {
            // Another instance may be luckier.
            leader.store.release_lease(&fence).await?;
            Err(error)
        }
    }
}

/// What numbering needs to know.
pub(super) struct Numbering {
    pub(super) cluster_id: String,
    pub(super) origin: Origin,
    pub(super) signer: Arc<SigningKey>,
    pub(super) every: Duration,
    pub(super) allowed: watch::Receiver<bool>,
}

/// Where nothing comes, it is looked for so many times more seldom: to ask is most of what an idle region costs its database.
const QUIET: u32 = 20;

/// Moves committed facts from the outbox to the log.
pub(super) async fn number(mut leader: Leader, mut numbering: Numbering) {
    let mut pause = numbering.every;
    while let Some(fence) = leader.lead().await {
        tokio::select! {
            allowed = numbering.allowed.wait_for(|allowed| *allowed) => if allowed.is_err() { return },
            () = leader.stop.cancelled() => return,
        }
        let begun = Instant::now();
        let done =
            leader.store.number(&fence, &numbering.cluster_id, &numbering.origin, numbering.signer.as_ref()).await;
        match done {
            Ok(numbered) => {
                pause = match (numbered.more, numbered.heads.is_empty()) {
                    (true, _) => Duration::ZERO,
                    (false, false) => numbering.every,
                    (false, true) => (pause * 2).clamp(numbering.every, numbering.every * QUIET),
                };
                for (log, head) in numbered.heads {
                    let _ = leader.reports.send(Report::Core(Box::new(Event::Numbered { log, head })));
                }
            }
            Err(error) => {
                if leader.after(fence, "facts are not numbered", &error).await {
                    continue;
                }
                return;
            }
        }
        if !leader.pause(pause.saturating_sub(begun.elapsed())).await {
            return;
        }
    }
}

/// Batches made durable with one transaction.
const STORED_AT_ONCE: usize = 16;

/// Makes batches of one kind of log durable, in their order; those of one log that wait together, together. What the leader
/// can apply with them is applied; of the rest it is told that it is `stored`.
pub(super) async fn write(leader: Leader, mut queue: mpsc::UnboundedReceiver<Box<VerifiedBatch>>, stored: Arc<Notify>) {
    let Leader { store, fence, reports, stop, .. } = leader;
    let mut next: Option<Box<VerifiedBatch>> = None;
    loop {
        let first = match next.take() {
            Some(batch) => Some(batch),
            None => tokio::select! {
                batch = queue.recv() => batch,
                () = stop.cancelled() => return,
            },
        };
        let Some(first) = first else { return };
        let log = first.log.clone();
        let mut batches = vec![first];
        while batches.len() < STORED_AT_ONCE
            && let Ok(batch) = queue.try_recv()
        {
            if batch.log != log {
                next = Some(batch);
                break;
            }
            batches.push(batch);
        }
        let (begun, held) = (Instant::now(), *fence.borrow());
        match store_batches(&store, held.as_ref(), &batches).await {
            Ok(Received { head, applied }) => {
                let event = Event::Stored { log: log.clone(), head };
                let _ = reports.send(Report::Core(Box::new(event)));
                if applied > 0 {
                    let done = Applied { applied: head.seq, entries: applied, set_aside: 0 };
                    report_applied(&reports, log, &done, begun);
                } else {
                    stored.notify_one();
                }
            }
            Err(error) => {
                metrics::counter!("global_sync_store_failures_total").increment(1);
                tracing::warn!(%log, "a batch was not stored: {error}");
                let Some(head) = head_in_database(&store, &log, &stop).await else { return };
                let _ = reports.send(Report::Core(Box::new(Event::StoreFailed { log, head })));
            }
        }
    }
}

fn report_applied(reports: &mpsc::UnboundedSender<Report>, log: LogId, done: &Applied, begun: Instant) {
    let stream = log.stream.as_str();
    metrics::histogram!("global_sync_apply_batch_duration_seconds", "stream" => stream)
        .record(begun.elapsed().as_secs_f64());
    metrics::counter!("global_sync_applied_total", "stream" => stream).increment(done.entries as u64);
    let _ = reports.send(Report::Core(Box::new(Event::Applied { log, applied: done.applied })));
}

async fn store_batches(
    store: &Store,
    fence: Option<&Fence>,
    batches: &[Box<VerifiedBatch>],
) -> Result<Received, StoreError> {
    for batch in batches {
        if let Some(certificate) = &batch.checkpoint.certificate {
            store.save_certificate(&batch.log.origin.region, &batch.checkpoint.key_id, certificate).await?;
        }
    }
    match store.receive_all(fence, batches).await {
        // Whoever leads now applies them.
        Err(StoreError::NotLeading) => store.receive_all(None, batches).await,
        other => other,
    }
}

async fn head_in_database(store: &Store, log: &LogId, stop: &CancellationToken) -> Option<Head> {
    loop {
        if let Ok(logs) = store.logs().await {
            return Some(logs.get(log).map_or(Head::EMPTY, |state| state.head));
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = stop.cancelled() => return None,
        }
    }
}

/// Applies what is stored of one kind of log, whenever something was, and every second in case nobody said so.
pub(super) async fn apply(mut leader: Leader, stream: FactStream, stored: Arc<Notify>) {
    let mut retried_for = None;
    while let Some(fence) = leader.lead().await {
        if stream == FactStream::Control && retried_for != Some(fence) {
            match leader.store.retry_parked(&fence).await {
                Ok(0) => {}
                Ok(done) => tracing::info!("{done} entries of kinds that used to be unknown are applied"),
                Err(error) => tracing::warn!("parked entries stay parked: {error}"),
            }
            retried_for = Some(fence);
        }
        match apply_all(&leader, &fence, stream).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                if leader.after(fence, "entries are not applied", &error).await {
                    continue;
                }
                return;
            }
        }
        tokio::select! {
            () = stored.notified() => {}
            () = sleep(Duration::from_secs(1)) => {}
            () = leader.stop.cancelled() => return,
        }
    }
}

/// One transaction for each log that has something; whether anything was done. A log that fails does not keep the others
/// from going on; the first failure is returned at the end.
async fn apply_all(leader: &Leader, fence: &Fence, stream: FactStream) -> Result<bool, StoreError> {
    let mut progress = false;
    let mut failure = None;
    for log in leader.store.unapplied(stream).await? {
        if leader.stop.is_cancelled() {
            return Ok(false);
        }
        let begun = Instant::now();
        match leader.store.apply(fence, &log).await {
            Ok(Some(done)) => {
                progress = true;
                report_applied(&leader.reports, log, &done, begun);
            }
            Ok(None) => {
                metrics::counter!("global_sync_stuck_total", "stream" => stream.as_str()).increment(1);
                tracing::error!(%log, "too many entries of {log} are set aside: look at repl_quarantine");
            }
            Err(StoreError::NotLeading) => return Err(StoreError::NotLeading),
            Err(error) => {
                tracing::warn!(%log, "entries of {log} are not applied: {error}");
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or(Ok(progress), Err)
}

/// Acknowledgements that may wait for a database that is away: far more than a mesh has logs. Past it what a peer says of
/// others is lost until it says something new of them, and whoever is thought to lack entries has them kept.
const ACKS_WAIT: usize = 65_536;

/// Acknowledgements on their way to the database, the newest of each kind; none where a peer names a log no more.
#[derive(Default)]
pub(super) struct Acks {
    waiting: Mutex<BTreeMap<(RegionName, LogId), Option<LogState>>>,
    added: Notify,
}

impl Acks {
    pub(super) fn add(&self, peer: RegionName, log: LogId, state: Option<LogState>) {
        let mut waiting = self.waiting.lock().expect("nobody panics while holding it");
        let key = (peer, log);
        if waiting.len() < ACKS_WAIT || waiting.contains_key(&key) {
            waiting.insert(key, state);
        }
        drop(waiting);
        self.added.notify_one();
    }
}

/// Saves acknowledgements, a few at a time.
pub(super) async fn save_acks(store: Store, own: Origin, acks: Arc<Acks>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = acks.added.notified() => {}
            () = stop.cancelled() => return,
        }
        let taken = std::mem::take(&mut *acks.waiting.lock().expect("nobody panics while holding it"));
        let mut pause = ACKS_EVERY;
        if !taken.is_empty()
            && let Err(error) = store.save_acks(&own, &taken).await
        {
            tracing::warn!("acknowledgements are saved later: {error}");
            let mut waiting = acks.waiting.lock().expect("nobody panics while holding it");
            for (key, state) in taken {
                waiting.entry(key).or_insert(state);
            }
            acks.added.notify_one();
            pause = RETRY;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Tells the core what another instance of the region has done to the database, and when this life is over.
pub(super) async fn refresh(leader: Leader, identity: Identity) {
    while leader.pause(Duration::from_secs(1)).await {
        match leader.store.is_outlived(&identity).await {
            Ok(true) => {
                let _ = leader.reports.send(Report::Outlived);
                return;
            }
            Ok(false) => {}
            Err(_) => continue,
        }
        if let Ok(Membership { states, acks, unchecked }) = leader.store.membership().await {
            let _ = leader.reports.send(Report::Core(Box::new(Event::Members { states, acks, unchecked })));
        }
        if let Ok(paused) = leader.store.pauses().await {
            let _ = leader.reports.send(Report::Core(Box::new(Event::Paused(paused))));
        }
        if let Ok(diverged) = leader.store.diverged().await {
            let diverged = diverged.into_keys().collect();
            let _ = leader.reports.send(Report::Core(Box::new(Event::Diverged(diverged))));
        }
        if leader.fence.borrow().is_none()
            && let Ok(logs) = leader.store.logs().await
        {
            let _ = leader.reports.send(Report::Core(Box::new(Event::Refreshed { logs })));
        }
    }
}

/// Brings the region into the mesh: says that it joins, and that it is a member as soon as every other region counts on it.
pub(super) async fn join_mesh(mut leader: Leader, own: Origin, configured: Vec<RegionName>) {
    while let Some(fence) = leader.lead().await {
        match leader.store.join_mesh(&fence, &own, &configured).await {
            Ok(Joining::Said(state)) => tracing::info!(%own, "{own} is {} now", state.as_str()),
            Ok(Joining::Waits) => {}
            // Until its next life, which has a task of its own.
            Ok(Joining::Over) => return leader.stop.cancelled().await,
            Err(error) => {
                if leader.after(fence, "where this region stands is not said", &error).await {
                    continue;
                }
                return;
            }
        }
        if !leader.pause(Duration::from_secs(1)).await {
            return;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use sqlx::PgPool;
    use tokio::time::timeout;

    use super::*;
    use crate::store::tests::{Home, batch, log, published};

    /// Who leads with this fence until it is taken away.
    pub(in crate::node) fn leading(us: &Home) -> (Leader, watch::Sender<Option<Fence>>) {
        let (reports, _reported) = mpsc::unbounded_channel();
        let (lost, _lost) = mpsc::unbounded_channel();
        let (hold, fence) = watch::channel(Some(us.fence));
        let stop = CancellationToken::new();
        (Leader { store: us.store.clone(), fence, lost, reports, stop }, hold)
    }

    /// Waits until the lease is renewed.
    async fn renewed(us: &Home) {
        let expiry =
            async || us.scalar::<f64>("SELECT extract(epoch FROM expires_at)::float8 FROM repl_lease_expiry").await;
        let before = expiry().await;
        while expiry().await <= before {
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn what_failed_under_an_earlier_lease_ends_no_later_one(pool: PgPool) {
        let us = Home::new(&pool, "us-east").await;
        us.store.release_lease(&us.fence).await.unwrap();
        let (lost, lost_seen) = mpsc::unbounded_channel();
        let leader = Leader { lost, ..leading(&us).0 };
        let (fence, mut held) = watch::channel(None);
        let keeping = keep_lease(leader.clone(), Uuid::now_v7(), us.identity.clone(), fence, lost_seen);
        let failing = async {
            let later = held.wait_for(Option::is_some).await.unwrap().unwrap();
            leader.lost.send(us.fence).unwrap();
            // The second time it has been heard of.
            renewed(&us).await;
            renewed(&us).await;
            assert_eq!(*held.borrow(), Some(later));
            leader.lost.send(later).unwrap();
            held.wait_for(Option::is_none).await.unwrap();
            leader.stop.cancel();
        };
        let both = async { tokio::join!(keeping, failing) };
        assert!(timeout(Duration::from_secs(20), both).await.is_ok(), "a lease is kept, or not ended");
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_log_that_cannot_be_applied_keeps_no_other_from_going_on(pool: PgPool) {
        let us = Home::new(&pool, "us-east").await;
        let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
                      CREATE TRIGGER refuse BEFORE INSERT ON tenant_config_versions FOR EACH ROW
                      WHEN (NEW.origin_region = 'ap-south') EXECUTE FUNCTION refuse()";
        sqlx::raw_sql(refuse).execute(&pool).await.unwrap();
        for (region, version) in [("ap-south", 1), ("eu-west", 2)] {
            let arrived = batch(&log(region, FactStream::Config), Head::EMPTY, &[published(version, "EUR")]);
            us.store.receive(&arrived).await.unwrap();
        }
        let (leader, _hold) = leading(&us);
        let failed = apply_all(&leader, &us.fence, FactStream::Config).await;
        assert!(matches!(failed, Err(StoreError::Database(_))), "{failed:?}");
        assert_eq!(us.scalar::<i64>("SELECT max(version) FROM tenant_config_versions").await, 2);
    }
}
