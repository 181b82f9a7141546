//! The tasks around the core. Each ends when told to, and waits out a database that is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use shared::{fact::FactStream, ids::RegionName};
use sqlx::postgres::PgListener;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{driver::Report, targets};
use crate::{
    config::Config,
    once::Once,
    protocol::{Event, Head, LogId, LogState, Origin, VerifiedBatch},
    store::{Applied, Damage, Damaged, Fence, Identity, Joining, LEASE_S, Membership, Received, Store, StoreError},
    transport::{KeyRing, Mesh, SigningKey},
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

/// Compares the ledger's sums with its rows, at once and then now and again.
pub(super) async fn check_ledger(mut leader: Leader, every: Duration) {
    while let Some(fence) = leader.lead().await {
        match leader.store.check_ledger(&fence).await {
            Ok(buckets) if buckets.is_empty() => {}
            Ok(buckets) => {
                metrics::counter!("global_sync_ledger_damaged_total").increment(buckets.len() as u64);
                tracing::error!(
                    ?buckets,
                    "rows of ledger_facts are not what was put there: the digest shows what is there now"
                );
            }
            Err(error) => {
                if leader.after(fence, "the ledger is not checked", &error).await {
                    continue;
                }
                return;
            }
        }
        if !leader.pause(every).await {
            return;
        }
    }
}

/// Entries of a log looked at before others get their turn at the database.
const LOOKED_AT: i64 = 2_000;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Looks through every log for entries that are not what was stored, once round, then again after a while. `ring` holds the
/// keys that are known already.
pub(super) async fn check_logs(mut leader: Leader, ring: KeyRing, every: Duration) {
    let once = Once::default();
    while let Some(fence) = leader.lead().await {
        let looked = match look_through_logs(&mut leader, fence, ring.clone(), &once).await {
            Ok(Some(found)) => leader.store.save_damage(&fence, &found).await.map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        match looked {
            Ok(true) => {
                metrics::counter!("global_sync_log_checks_total").increment(1);
                leader.pause_leading(fence, every).await;
            }
            Ok(false) => {}
            Err(error) => {
                leader.after(fence, "the logs are not checked", &error).await;
            }
        }
        if leader.stop.is_cancelled() {
            return;
        }
    }
}

/// What of all logs is damaged, of the certificates of keys that signed them, and of drafts; none if the lease was lost or the end came
/// before all were looked at.
pub(super) async fn look_through_logs(
    leader: &mut Leader,
    fence: Fence,
    mut ring: KeyRing,
    once: &Once,
) -> Result<Option<Damaged>, StoreError> {
    let mut found = Damaged::default();
    for named in look_at_certificates(&leader.store, &mut ring).await? {
        if once.is_new(&named) {
            tracing::error!("{named}");
        }
        found.add(named, None);
    }
    let cluster_id = ring.cluster_id().to_owned();
    for log in leader.store.logs().await?.into_keys() {
        let mut from = Some(1);
        while let Some(at) = from {
            if !leader.pause_leading(fence, BETWEEN_LOOKS).await {
                return Ok(None);
            }
            let looked = leader.store.verify_log(&cluster_id, &log, at, LOOKED_AT, &mut ring).await?;
            for Damage { log, seq, what, row } in looked.damage {
                let named = format!("entry {seq} of {log} is damaged: {what}");
                if once.is_new(&named) {
                    tracing::error!(%log, seq, "{named}");
                }
                found.add(format!("{log}/{seq}: {what}"), row);
            }
            from = looked.next;
        }
    }
    let mut after = Some(String::new());
    while let Some(tenant) = after {
        if !leader.pause_leading(fence, BETWEEN_LOOKS).await {
            return Ok(None);
        }
        let (damaged, next) = leader.store.damaged_drafts(&tenant).await?;
        for (tenant, what) in damaged {
            let named = format!("draft {tenant} is damaged: {what}");
            if once.is_new(&named) {
                tracing::error!(tenant, "{named}");
            }
            found.add(format!("draft {tenant}: {what}"), None);
        }
        after = next;
    }
    Ok(Some(found))
}

/// The certificates that are not what was stored, each by its key, and what is wrong with it; `ring` recalls the others.
async fn look_at_certificates(store: &Store, ring: &mut KeyRing) -> Result<Vec<String>, StoreError> {
    let certificates = store.certificates().await?.into_iter();
    let damaged = certificates.filter_map(|(region, key_id, certificate)| {
        let error = ring.recall(&region, &key_id, &certificate).err()?;
        let key = hex::encode(key_id);
        Some(format!("the certificate of key {key} of {region} is damaged: {error}"))
    });
    Ok(damaged.collect())
}

/// Calls every region that is known and not connected, less and less often when it does not answer.
pub(super) async fn dial(
    config: Config,
    store: Store,
    mesh: Mesh,
    connected: watch::Receiver<BTreeSet<RegionName>>,
    stop: CancellationToken,
) {
    let calls = TaskTracker::new();
    let waits: Arc<Mutex<BTreeMap<RegionName, Wait>>> = Arc::default();
    let mut listener = None;
    let mut known = targets(&config, Vec::new());
    let mut looked_at: Option<Instant> = None;
    while !stop.is_cancelled() {
        if looked_at.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
            match store.directory().await {
                Ok(directory) => known = targets(&config, directory),
                Err(error) => tracing::debug!("the directory cannot be read: {error}"),
            }
            looked_at = Some(Instant::now());
        }
        for (region, address) in &known {
            let due = {
                let mut waits = waits.lock().expect("nobody panics while holding it");
                let wait = waits.entry(region.clone()).or_default();
                let due = !wait.calling && wait.until.is_none_or(|until| Instant::now() >= until);
                let due = due && !connected.borrow().contains(region);
                wait.calling |= due;
                due
            };
            if due {
                let (mesh, region, address) = (mesh.clone(), region.clone(), address.clone());
                let (waits, stop) = (waits.clone(), stop.clone());
                calls.spawn(async move {
                    let begun = Instant::now();
                    let result = tokio::select! {
                        result = mesh.dial(&region, &address) => result,
                        () = stop.cancelled() => return,
                    };
                    let mut waits = waits.lock().expect("nobody panics while holding it");
                    waits.entry(region.clone()).or_default().finished(&region, &address, begun, result);
                });
            }
        }
        directory_changed(&store, &mut listener, &mut looked_at, &stop).await;
    }
    calls.close();
    calls.wait().await;
}

/// Waits a quarter of a second, or less when the directory changes.
async fn directory_changed(
    store: &Store,
    listener: &mut Option<PgListener>,
    looked_at: &mut Option<Instant>,
    stop: &CancellationToken,
) {
    if listener.is_none()
        && let Ok(mut fresh) = PgListener::connect_with(store.pool()).await
        && fresh.listen("directory_changed").await.is_ok()
    {
        *listener = Some(fresh);
    }
    let heard = async {
        match listener.as_mut() {
            Some(listener) => listener.try_recv().await.is_ok_and(|notification| notification.is_some()),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        heard = heard => {
            *looked_at = None;
            if !heard {
                *listener = None;
                sleep(Duration::from_millis(250)).await;
            }
        }
        () = sleep(Duration::from_millis(250)) => {}
        () = stop.cancelled() => {}
    }
}

/// When to call a region again.
#[derive(Default)]
struct Wait {
    calling: bool,
    failures: u32,
    until: Option<Instant>,
}

impl Wait {
    fn finished(&mut self, region: &RegionName, address: &str, begun: Instant, result: anyhow::Result<()>) {
        self.calling = false;
        // A connection that held for a while was a good one, however it ended.
        if begun.elapsed() > Duration::from_secs(10) {
            self.failures = 0;
        }
        if let Err(error) = result {
            if self.failures == 0 {
                tracing::warn!(peer = %region, "{region} cannot be reached at {address}: {error:#}");
            }
            metrics::counter!("global_sync_failed_calls_total", "peer" => region.to_string()).increment(1);
        }
        let wait_ms = 250 * 2_u64.pow(self.failures.min(5));
        self.failures += 1;
        let jittered = Duration::from_millis(wait_ms).mul_f64(rand::random_range(0.7..1.3));
        self.until = Some(Instant::now() + jittered);
    }
}

#[cfg(test)]
mod tests {
    use shared::tenant_document::{DocumentActor, TenantDocument};
    use sqlx::PgPool;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        store::{
            Signer as _,
            tests::{CLUSTER, Home, batch, edited, log, published, settlement},
        },
        transport::tests::Authority,
    };

    /// Who leads with this fence until it is taken away.
    fn leading(us: &Home) -> (Leader, watch::Sender<Option<Fence>>) {
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

    /// Flips the eighth bit of a column of every row; done twice it is undone.
    async fn flip(us: &Home, table: &str, column: &str) {
        let sql = match column {
            "region" => format!("UPDATE {table} SET region = translate(region, 'ef', 'fe')"),
            _ => format!("UPDATE {table} SET {column} = set_bit({column}, 7, 1 - get_bit({column}, 7))"),
        };
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&us.superuser).await.unwrap();
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_bit_that_flips_in_a_signature_or_a_certificate_is_found_where_it_lies(pool: PgPool) {
        let us = Home::new(&pool, "us-east").await;
        let (signer, roots) = Authority::new().signing_key(CLUSTER, "us-east");
        us.store.save_certificate(&us.origin.region, &signer.key_id(), signer.certificate()).await.unwrap();
        for n in 1..=3 {
            us.commit(&settlement(n)).await;
            us.store.number(&us.fence, CLUSTER, &us.origin, &signer).await.unwrap();
        }
        let (mut leader, _hold) = leading(&us);
        let ring = KeyRing::new(roots, CLUSTER);
        let mut found = async |us: &Home| {
            let found = look_through_logs(&mut leader, us.fence, ring.clone(), &Once::default()).await.unwrap();
            let mut recalled = ring.clone();
            let certificates = look_at_certificates(&us.store, &mut recalled).await.unwrap();
            let ledger = log("us-east", FactStream::Ledger);
            let looked = us.store.verify_log(CLUSTER, &ledger, 1, 100, &mut recalled).await.unwrap();
            let entries: Vec<u64> = looked.damage.iter().map(|damage| damage.seq).collect();
            assert_eq!(found.map(|found| found.entries), Some((certificates.len() + entries.len()) as u64));
            (certificates, entries)
        };
        assert_eq!(found(&us).await, (vec![], vec![]));
        for column in ["signature", "key_id"] {
            flip(&us, "repl_checkpoint", column).await;
            assert_eq!(found(&us).await, (vec![], vec![1, 2, 3]), "{column}");
            flip(&us, "repl_checkpoint", column).await;
        }
        for column in ["certificate", "key_id", "region"] {
            flip(&us, "repl_origin_cert", column).await;
            let key: String = us.scalar("SELECT encode(key_id, 'hex') FROM repl_origin_cert").await;
            let (certificates, _) = found(&us).await;
            assert!(certificates.len() == 1 && certificates[0].contains(&key), "{column}: {certificates:?}");
            flip(&us, "repl_origin_cert", column).await;
        }
        assert_eq!(found(&us).await, (vec![], vec![]));
    }

    /// The key's certificate comes in with the first entry it signed, perhaps after all others were read.
    #[sqlx::test(migrations = "../migrations")]
    async fn an_entry_that_comes_in_during_a_look_is_not_damaged_though_its_key_was_not_known_when_that_began(
        pool: PgPool,
    ) {
        let us = Home::new(&pool, "us-east").await;
        let (signer, roots) = Authority::new().signing_key(CLUSTER, "us-east");
        let mut ring = KeyRing::new(roots, CLUSTER);
        assert_eq!(look_at_certificates(&us.store, &mut ring).await.unwrap(), Vec::<String>::new());
        us.store.save_certificate(&us.origin.region, &signer.key_id(), signer.certificate()).await.unwrap();
        us.commit(&settlement(1)).await;
        us.store.number(&us.fence, CLUSTER, &us.origin, &signer).await.unwrap();
        let ledger = log("us-east", FactStream::Ledger);
        let looked = us.store.verify_log(CLUSTER, &ledger, 1, 100, &mut ring).await.unwrap();
        assert_eq!((looked.entries, looked.damage), (1, vec![]));
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_draft_that_changed_where_it_lies_is_found_by_its_tenant_whichever_part_it_was(pool: PgPool) {
        let us = Home::new(&pool, "us-east").await;
        let (_, roots) = Authority::new().signing_key(CLUSTER, "us-east");
        let mut author = TenantDocument::create("porto-taxis", 0);
        let patch = serde_json::json!({"labels": {"a": 1.5e20}});
        let change = author.apply_merge_patch(None, &patch, &DocumentActor::of("ap-south", 1)).unwrap().unwrap();
        let arrived = batch(&log("ap-south", FactStream::Config), Head::EMPTY, &[edited(vec![change])]);
        us.store.receive(&arrived).await.unwrap();
        us.apply_all().await;
        let (mut leader, _hold) = leading(&us);
        let ring = KeyRing::new(roots, CLUSTER);
        let mut look = async || {
            let found =
                look_through_logs(&mut leader, us.fence, ring.clone(), &Once::default()).await.unwrap().unwrap();
            let drafts = found.named.into_iter().filter(|named| named.starts_with("draft "));
            drafts.collect::<Vec<_>>()
        };
        assert_eq!(look().await, Vec::<String>::new());
        for alter in [
            "document = set_byte(document, length(document) - 3, 255 - get_byte(document, length(document) - 3))",
            "heads = ARRAY[repeat('0', 64)]",
            r#"draft = '{"labels": {"a": 2}}'"#,
            r#"conflicts = '[{"path": "/labels/a"}]'"#,
            "previous = 'no document'",
            "previous = document, base = ARRAY[repeat('0', 64)]",
            r#"adopted = '{"us-east": "none"}'"#,
        ] {
            let sql = format!("CREATE TABLE sound AS TABLE tenant_documents; UPDATE tenant_documents SET {alter}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&us.superuser).await.unwrap();
            let found = look().await;
            assert!(found.len() == 1 && found[0].starts_with("draft porto-taxis: "), "{alter}: {found:?}");
            let mend = "TRUNCATE tenant_documents; INSERT INTO tenant_documents TABLE sound; DROP TABLE sound";
            sqlx::raw_sql(mend).execute(&us.superuser).await.unwrap();
        }
        assert_eq!(look().await, Vec::<String>::new());
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn a_look_through_the_logs_that_is_cut_short_by_a_lost_lease_is_none(pool: PgPool) {
        let us = Home::new(&pool, "us-east").await;
        let (signer, roots) = Authority::new().signing_key(CLUSTER, "us-east");
        us.commit(&settlement(1)).await;
        us.store.number(&us.fence, CLUSTER, &us.origin, &signer).await.unwrap();
        let mut ring = KeyRing::new(roots, CLUSTER);
        ring.learn(&us.origin.region, signer.certificate()).unwrap();
        sqlx::query("UPDATE repl_log SET body = body || 'x'").execute(&pool).await.unwrap();
        let (mut leader, hold) = leading(&us);
        let mut look = async || {
            let found = look_through_logs(&mut leader, us.fence, ring.clone(), &Once::default()).await.unwrap();
            found.map(|found| found.entries)
        };
        assert_eq!(look().await, Some(1));
        hold.send_replace(None);
        assert_eq!(look().await, None);
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
