//! The task that owns the core: feeds it what happens and hands out what it wants done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use shared::{fact::FactStream, ids::RegionName};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    Trusted, Vital,
    tasks::{self, Acks, Leader},
};
use crate::{
    config::Config,
    protocol::{
        Alarm, Batch, CloseReason, ConnectionId, Effect, Event, LogId, LogState, Message, Millis, Replica, Settings,
        Trust as _, VerifiedBatch,
    },
    status::Board,
    store::{Signer, Store},
    transport::{KeyRing, Link, Mesh, MeshEvent, SigningKey},
};

const TICK: Duration = Duration::from_millis(50);

/// What one life of the instance needs; it ends with the incarnation.
pub(super) struct Life<'a> {
    pub(super) config: &'a Config,
    pub(super) store: &'a Store,
    pub(super) mesh: &'a Mesh,
    pub(super) trusted: watch::Receiver<Arc<Trusted>>,
    pub(super) board: &'a Board,
}

/// Why a life ended.
pub(super) enum End {
    Shutdown,
    NewIncarnation,
    NewCertificates,
}

/// What the tasks report to the driver.
pub(super) enum Report {
    Core(Box<Event>),
    /// This instance leads from now on; with it comes what the database holds.
    Leads(BTreeMap<LogId, LogState>),
    /// This instance leads no longer.
    Follows,
    /// The incarnation in the database is no longer ours.
    Outlived,
}

struct Driver {
    replica: Replica<KeyRing>,
    started: Instant,
    links: BTreeMap<ConnectionId, Link>,
    store: Store,
    board: Board,
    reports: mpsc::UnboundedSender<Report>,
    /// One writer for each kind of log; what waits there is bounded by the credits we granted.
    writers: BTreeMap<FactStream, mpsc::UnboundedSender<Box<VerifiedBatch>>>,
    may_number: watch::Sender<bool>,
    acks: Arc<Acks>,
    connected: watch::Sender<BTreeSet<RegionName>>,
    work: TaskTracker,
    /// Begin an incarnation after this one, and whether not everybody could be asked.
    incarnation_after: Option<(u64, bool)>,
}

impl Life<'_> {
    pub(super) async fn run(
        mut self,
        events: &mut mpsc::Receiver<MeshEvent>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<End> {
        let region = &self.config.region;
        let trusted = self.trusted.borrow_and_update().clone();
        let (signer, mut ring) = (&trusted.signer, KeyRing::new(trusted.credentials.roots(), &region.cluster_id));
        let identity = self.store.identify(&region.cluster_id, &region.name).await?;
        self.store.save_certificate(&region.name, &signer.key_id(), signer.certificate()).await?;
        for (region, _, certificate) in self.store.certificates().await? {
            match ring.learn(&region, &certificate) {
                Ok(key) => ring.stored(&region, &key),
                Err(error) => {
                    tracing::warn!(%region, "a stored certificate of {region} is not believed any more: {error}");
                }
            }
        }
        let mut expected: BTreeSet<_> = self.store.members().await?.into_iter().collect();
        expected.extend(self.config.peers.keys().cloned());
        expected.remove(&region.name);
        let settings = Settings {
            cluster_id: region.cluster_id.clone(),
            origin: identity.origin.clone(),
            instance: Uuid::new_v4().as_u128(),
            state: identity.state,
            expected,
            may_be_restored: identity.may_be_restored,
        };
        tracing::info!(origin = %identity.origin, "replicating as {}", identity.origin);
        let board = self.board;
        board.set_origin(identity.origin.clone());
        let end = self.drive(settings, signer.clone(), ring, events, shutdown).await;
        board.set_leader(false);
        board.set_links(BTreeMap::new());
        end
    }

    async fn drive(
        &mut self,
        settings: Settings,
        signer: Arc<SigningKey>,
        ring: KeyRing,
        events: &mut mpsc::Receiver<MeshEvent>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<End> {
        let origin = settings.origin.clone();
        let holder = Uuid::from_u128(settings.instance);
        let started = Instant::now();
        let logs = self.store.logs().await?;
        let stop = shutdown.child_token();
        let work = TaskTracker::new();
        let mut vital = Vital::default();
        let (reports, mut reported) = mpsc::unbounded_channel();
        let (fence, fence_seen) = watch::channel(None);
        let (may_number, number_seen) = watch::channel(false);
        let (connected, connected_seen) = watch::channel(BTreeSet::new());
        let acks = Arc::new(Acks::default());
        let leader = Leader {
            store: self.store.clone(),
            fence: fence_seen,
            lost: Arc::new(Notify::new()),
            reports: reports.clone(),
            stop: stop.clone(),
        };

        let mut writers = BTreeMap::new();
        for stream in FactStream::ALL {
            let (batches, queue) = mpsc::unbounded_channel();
            writers.insert(stream, batches);
            let stored = Arc::new(Notify::new());
            let writing = tasks::write(self.store.clone(), queue, stored.clone(), reports.clone(), stop.clone());
            vital.spawn("storing", writing);
            vital.spawn("applying", tasks::apply(leader.clone(), stream, stored));
        }
        vital.spawn("leading", tasks::keep_lease(leader.clone(), holder, fence));
        let numbering = tasks::Numbering {
            cluster_id: self.config.region.cluster_id.clone(),
            origin: origin.clone(),
            signer,
            every: self.config.numbering.every,
            allowed: number_seen,
        };
        vital.spawn("numbering", tasks::number(leader.clone(), numbering));
        let acknowledging = tasks::save_acks(self.store.clone(), origin.clone(), acks.clone(), stop.clone());
        vital.spawn("acknowledging", acknowledging);
        vital.spawn("checking the ledger", tasks::check_ledger(leader.clone(), self.config.digest.check_ledger_every));
        vital.spawn("checking the logs", tasks::check_logs(leader.clone(), self.config.digest.check_logs_every));
        vital.spawn("looking at the database", tasks::refresh(leader, origin));
        let (config, store, mesh) = (self.config.clone(), self.store.clone(), self.mesh.clone());
        vital.spawn("calling", tasks::dial(config, store, mesh, connected_seen, stop.clone()));

        let mut driver = Driver {
            replica: Replica::new(settings, ring, logs, Millis(0)),
            started,
            links: BTreeMap::new(),
            store: self.store.clone(),
            board: self.board.clone(),
            reports,
            writers,
            may_number,
            acks,
            connected,
            work: work.clone(),
            incarnation_after: None,
        };
        let end = driver.run(events, &mut reported, &mut vital, &mut self.trusted, shutdown).await;
        stop.cancel();
        for link in driver.links.values() {
            link.close("starting over");
        }
        drop(driver);
        work.close();
        let all = async {
            vital.wait().await;
            work.wait().await;
        };
        if timeout(Duration::from_secs(10), all).await.is_err() {
            tracing::warn!("some work did not end in time");
        }
        end
    }
}

impl Driver {
    async fn run(
        &mut self,
        events: &mut mpsc::Receiver<MeshEvent>,
        reported: &mut mpsc::UnboundedReceiver<Report>,
        vital: &mut Vital,
        trusted: &mut watch::Receiver<Arc<Trusted>>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<End> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(End::Shutdown),
                report = reported.recv() => match report {
                    Some(Report::Core(event)) => self.feed(*event),
                    Some(Report::Leads(logs)) => {
                        self.board.set_leader(true);
                        self.feed(Event::Leads { logs });
                    }
                    Some(Report::Follows) => {
                        self.board.set_leader(false);
                        self.feed(Event::Follows);
                    }
                    Some(Report::Outlived) | None => return Ok(End::NewIncarnation),
                },
                event = events.recv() => match event {
                    Some(event) => self.on_mesh(event),
                    None => return Ok(End::Shutdown),
                },
                ended = vital.ended() => return Err(ended.into()),
                Ok(()) = trusted.changed() => return Ok(End::NewCertificates),
                _ = ticks.tick() => self.feed(Event::Tick),
            }
            if let Some((after, alone)) = self.incarnation_after.take() {
                if alone {
                    tracing::warn!("this database may be a restored one, and not every region could be asked");
                } else {
                    tracing::error!("facts of ours are known that this database lacks: it was restored from a backup");
                }
                self.may_number.send_replace(false);
                self.store.begin_incarnation(after, alone).await?;
                return Ok(End::NewIncarnation);
            }
        }
    }

    fn on_mesh(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Connected { conn, link, dialed } => {
                let region = link.region.clone();
                self.links.insert(conn, link);
                self.feed(Event::Connected { conn, region, dialed });
            }
            // A connection of an earlier life has no link here; the core does not know it either.
            MeshEvent::Received { conn, message } => self.feed(Event::Received { conn, message }),
            MeshEvent::SnapshotWanted { region, pieces } => {
                let store = self.store.clone();
                tracing::info!(peer = %region, "{region} asks for a snapshot");
                self.work.spawn(async move {
                    match store.export_snapshot(&pieces).await {
                        Ok(()) => tracing::info!(peer = %region, "{region} was given a snapshot"),
                        Err(error) => tracing::warn!(peer = %region, "a snapshot for {region} broke off: {error}"),
                    }
                });
            }
            MeshEvent::Disconnected { conn } => {
                self.links.remove(&conn);
                self.feed(Event::Disconnected { conn });
            }
        }
        self.tell_links();
    }

    fn feed(&mut self, event: Event) {
        let now = Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        for effect in self.replica.handle(now, event) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { conn, message } => {
                if let Some(link) = self.links.get(&conn) {
                    link.say(message);
                }
            }
            Effect::Close { conn, reason } => {
                if let Some(link) = self.links.remove(&conn) {
                    if !matches!(reason, CloseReason::Duplicate | CloseReason::Silent) {
                        metrics::counter!("global_sync_refused_connections_total").increment(1);
                        tracing::warn!(peer = %link.region, "connection to {} ended: {}", link.region, reason.as_str());
                    }
                    link.close(reason.as_str());
                    self.tell_links();
                }
            }
            Effect::Store { batch, direct } => {
                metrics::counter!(
                    "global_sync_stored_total",
                    "origin" => batch.log.origin.region.to_string(),
                    "stream" => batch.log.stream.as_str(),
                    "via" => if direct { "direct" } else { "relay" }
                )
                .increment(batch.entries.len() as u64);
                // The writer outlives the driver; if not, the node is stopping and the batch comes again.
                let _ = self.writers[&batch.log.stream].send(batch);
            }
            Effect::Serve { conn, log, pull, from, upto, max_bytes, known_keys } => {
                let Some(link) = self.links.get(&conn).cloned() else { return };
                let (store, reports) = (self.store.clone(), self.reports.clone());
                self.work.spawn(async move {
                    let mut served = Event::Served { conn, log: log.clone(), pull, next: from, bytes: 0 };
                    match store.read_for_peer(&log, from, upto, max_bytes, &known_keys).await {
                        Ok(Some(outgoing)) => {
                            let bytes = outgoing.entries.iter().map(|entry| entry.len() as u64).sum();
                            let next = outgoing.checkpoint.head.seq + 1;
                            let stream = log.stream;
                            let (entries, checkpoint) = (outgoing.entries, outgoing.checkpoint);
                            let batch = Batch { log: log.clone(), pull, entries, checkpoint };
                            if link.send(stream, Message::Batch(batch)).await {
                                served = Event::Served { conn, log, pull, next, bytes };
                            }
                        }
                        Ok(None) => tracing::warn!(%log, from, "nothing signed to send"),
                        Err(error) => tracing::warn!(%log, from, "could not read for a peer: {error}"),
                    }
                    let _ = reports.send(Report::Core(Box::new(served)));
                });
            }
            Effect::SaveMember { origin, state, features, kinds } => {
                let store = self.store.clone();
                tracing::info!(peer = %origin, "{origin} is here");
                self.work.spawn(async move {
                    if let Err(error) = store.save_member(&origin, state, features, &kinds).await {
                        tracing::warn!(peer = %origin, "a member was not remembered: {error}");
                    }
                });
            }
            Effect::SaveAck { peer, log, state } => self.acks.add(peer, log, state),
            Effect::AllowNumbering => {
                self.may_number.send_replace(true);
                let store = self.store.clone();
                self.work.spawn(async move {
                    if let Err(error) = store.confirm_database().await {
                        tracing::warn!("the database's name is not remembered: {error}");
                    }
                });
            }
            Effect::BeginIncarnation { after, alone } => self.incarnation_after = Some((after, alone)),
            Effect::Alarm(alarm) => raise(&alarm),
        }
    }

    /// Tells the dialler and the status page who is connected.
    fn tell_links(&self) {
        let links: BTreeMap<_, _> = self
            .replica
            .peers()
            .filter_map(|(conn, region)| Some((region.clone(), self.links.get(&conn)?.clone())))
            .collect();
        let regions: BTreeSet<_> = self.links.values().map(|link| link.region.clone()).collect();
        self.connected.send_if_modified(|known| {
            let changed = *known != regions;
            *known = regions;
            changed
        });
        self.board.set_links(links);
    }
}

fn raise(alarm: &Alarm) {
    match alarm {
        Alarm::BadBatch { from, log, error } => {
            metrics::counter!("global_sync_bad_batches_total", "from" => from.to_string()).increment(1);
            tracing::error!(peer = %from, %log, "{from} sent entries of {log} that are not believed: {error}");
        }
        Alarm::Diverged { peer, log, seq } => {
            metrics::counter!("global_sync_diverged_total", "peer" => peer.to_string()).increment(1);
            tracing::error!(%peer, %log, seq, "{peer} has another entry {seq} in {log} than we do");
        }
    }
}
