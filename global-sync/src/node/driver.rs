//! The task that owns the core: feeds it what happens and hands out what it wants done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use shared::{fact::FactStream, ids::RegionName};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    Trusted, Vital, checks, dial, moves,
    operations::{self, Office},
    targets,
    tasks::{self, Acks, Leader},
};
use crate::{
    config::Config,
    moving,
    protocol::{
        Alarm, Batch, Comparison, ConnectionId, Digest, Effect, Event, Inspect, Limits, LogId, LogState, Message,
        Millis, Origin, Past, Replica, Settings, Summary, Trust as _, VerifiedBatch, features,
    },
    refusal::Refusal,
    status::Board,
    store::{Fence, Identity, Signer, Store},
    transport::{KeyRing, Link, Mesh, MeshEvent, SigningKey},
};

/// What peers are sent is shown this often.
const SHOW_EVERY: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);
/// Tables read as a whole at a time, for whoever asks.
const READ_AT_ONCE: usize = 2;
/// How long rows are waited for that a peer has told of and that are not applied here yet.
const COMPARE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
    Outlived,
    NewCertificates,
}

/// What the tasks report to the driver.
pub(super) enum Report {
    Core(Box<Event>),
    /// This instance leads from now on; with it comes what the database holds.
    Leads(Fence, BTreeMap<LogId, LogState>),
    /// This instance leads no longer.
    Follows,
    /// Another incarnation has begun, or the database is another than at the start, or may be.
    Outlived,
}

struct Driver {
    replica: Replica<KeyRing>,
    /// Whom a snapshot's signatures are believed of.
    ring: KeyRing,
    started: Instant,
    links: BTreeMap<ConnectionId, Link>,
    store: Store,
    mesh: Mesh,
    config: Config,
    /// Whether this instance leads, as the core has been told.
    fence: Option<Fence>,
    board: Board,
    reports: mpsc::UnboundedSender<Report>,
    stop: CancellationToken,
    /// One writer for each kind of log; what waits there is bounded by the credits we granted.
    writers: BTreeMap<FactStream, mpsc::UnboundedSender<Box<VerifiedBatch>>>,
    may_number: watch::Sender<bool>,
    acks: Arc<Acks>,
    reading: Arc<Semaphore>,
    connected: watch::Sender<BTreeSet<RegionName>>,
    work: TaskTracker,
    shown_at: Instant,
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
        let (signer, mut ring) = (&trusted.signer, KeyRing::new(trusted.signing_roots.clone(), &region.cluster_id));
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
            past: identity.past,
            features: features::ALL,
            limits: limits(self.config),
        };
        tracing::info!(origin = %identity.origin, "replicating as {}", identity.origin);
        let board = self.board;
        board.set_origin(identity.origin.clone(), Uuid::from_u128(settings.instance));
        let end = self.drive(settings, identity, signer.clone(), ring, events, shutdown).await;
        board.set_leader(false);
        board.set_links(BTreeMap::new());
        end
    }

    async fn drive(
        &mut self,
        settings: Settings,
        identity: Identity,
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
        let (lost, lost_seen) = mpsc::unbounded_channel();
        let (may_number, number_seen) = watch::channel(false);
        let (connected, connected_seen) = watch::channel(BTreeSet::new());
        let acks = Arc::new(Acks::default());
        let leader =
            Leader { store: self.store.clone(), fence: fence_seen, lost, reports: reports.clone(), stop: stop.clone() };

        let mut writers = BTreeMap::new();
        for stream in FactStream::ALL {
            let (batches, queue) = mpsc::unbounded_channel();
            writers.insert(stream, batches);
            let stored = Arc::new(Notify::new());
            let writing = tasks::write(leader.clone(), queue, stored.clone());
            vital.spawn("storing", writing);
            vital.spawn("applying", tasks::apply(leader.clone(), stream, stored));
        }
        let leading = tasks::keep_lease(leader.clone(), holder, identity.clone(), fence, lost_seen);
        vital.spawn("leading", leading);
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
        vital.spawn("checking the ledger", checks::check_ledger(leader.clone(), self.config.digest.check_ledger_every));
        let check_every = self.config.digest.check_logs_every;
        vital.spawn("checking the logs", checks::check_logs(leader.clone(), ring.clone(), check_every));
        let office = Office {
            config: self.config.clone(),
            mesh: self.mesh.clone(),
            own: origin.clone(),
            ring: ring.clone(),
            board: self.board.clone(),
        };
        vital.spawn("carrying out commands", operations::carry_out(leader.clone(), office));
        let configured = self.config.peers.keys().cloned().collect();
        vital.spawn("joining the mesh", tasks::join_mesh(leader.clone(), origin.clone(), configured));
        vital.spawn("moving tenants", moves::move_tenants(leader.clone(), self.mesh.clone(), self.config.clone()));
        let taking_over = moves::take_tenants_over(leader.clone(), self.mesh.clone(), self.config.clone());
        vital.spawn("taking tenants over", taking_over);
        let keeping = moves::keep_homes(leader.clone(), self.mesh.clone(), self.config.clone());
        vital.spawn("having homes confirmed", keeping);
        vital.spawn("looking at the database", tasks::refresh(leader, identity));
        let (config, store, mesh) = (self.config.clone(), self.store.clone(), self.mesh.clone());
        vital.spawn("calling", dial::dial(config, store, mesh, connected_seen, stop.clone()));

        let mut driver = Driver {
            replica: Replica::new(settings, ring.clone(), logs, Millis(0)),
            ring,
            started,
            links: BTreeMap::new(),
            store: self.store.clone(),
            mesh: self.mesh.clone(),
            config: self.config.clone(),
            fence: None,
            board: self.board.clone(),
            reports,
            stop: stop.clone(),
            writers,
            may_number,
            acks,
            reading: Arc::new(Semaphore::new(READ_AT_ONCE)),
            connected,
            work: work.clone(),
            shown_at: started,
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
                    Some(Report::Leads(fence, logs)) => {
                        self.board.set_leader(true);
                        self.fence = Some(fence);
                        self.feed(Event::Leads { logs });
                    }
                    Some(Report::Follows) => {
                        self.board.set_leader(false);
                        self.fence = None;
                        self.may_number.send_replace(false);
                        self.feed(Event::Follows);
                    }
                    Some(Report::Outlived) | None => return Ok(End::Outlived),
                },
                event = events.recv() => match event {
                    Some(event) => self.on_mesh(event),
                    None => return Ok(End::Shutdown),
                },
                ended = vital.ended() => return Err(ended.into()),
                Ok(()) = trusted.changed() => return Ok(End::NewCertificates),
                _ = ticks.tick() => {
                    self.feed(Event::Tick);
                    if self.shown_at.elapsed() >= SHOW_EVERY {
                        self.shown_at = Instant::now();
                        self.board.set_flows(self.replica.flows());
                    }
                }
            }
            if let Some((after, alone)) = self.incarnation_after.take() {
                if self.replica.settings().past == Past::Copied {
                    tracing::warn!(
                        "this database is a promoted or restored copy: facts of ours may be known that it lacks"
                    );
                } else if alone {
                    tracing::warn!("this database may be a restored one, and not every region could be asked");
                } else {
                    tracing::error!("facts of ours are known that this database lacks: it was restored from a backup");
                }
                self.may_number.send_replace(false);
                // Whoever has lost the lease meanwhile begins nothing: another leads, and sees the same.
                let Some(fence) = self.fence else { return Ok(End::Outlived) };
                self.store.begin_incarnation(&fence, after, alone).await?;
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
                    // If it gets none the other end sees that nothing comes, and asks another region.
                    match store.damage().await {
                        Ok(Some(seen)) if seen.found.entries > 0 => {
                            tracing::error!(peer = %region, "{region} is given no snapshot: what is damaged here has to be mended first");
                            return;
                        }
                        Ok(_) => {}
                        Err(error) => {
                            tracing::warn!(peer = %region, "{region} is given no snapshot: {error}");
                            return;
                        }
                    }
                    match store.export_snapshot(&pieces).await {
                        Ok(()) => tracing::info!(peer = %region, "{region} was given a snapshot"),
                        Err(error) => tracing::warn!(peer = %region, "a snapshot for {region} broke off: {error}"),
                    }
                });
            }
            MeshEvent::Moving { link } => {
                let (store, stop) = (self.store.clone(), self.stop.clone());
                self.work.spawn(async move {
                    stop.run_until_cancelled(moving::receive(&store, link)).await;
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
                    if let Some(refusal) = Refusal::of(&reason) {
                        self.mesh.refusals().connection(&link.region, refusal, "it broke a rule of the protocol");
                    }
                    link.close(reason.as_str());
                    self.tell_links();
                }
            }
            Effect::Store { batch, direct } => {
                self.board.count_fetched(&batch.log, batch.entries.len() as u64, direct);
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
            Effect::SaveAck { peer, log, state } => self.acks.add(peer, log, Some(state)),
            Effect::ForgetAck { peer, log } => self.acks.add(peer, log, None),
            Effect::AllowNumbering => {
                self.may_number.send_replace(true);
                let Some(fence) = self.fence else { return };
                let store = self.store.clone();
                self.work.spawn(async move {
                    if let Err(error) = store.confirm_database(&fence).await {
                        tracing::warn!("that the database is in no doubt is not remembered: {error}");
                    }
                });
            }
            Effect::BeginIncarnation { after, alone } => self.incarnation_after = Some((after, alone)),
            Effect::Truncate { log, upto } => self.truncate(log, upto),
            Effect::GiveUpOn { peer, log } => {
                metrics::counter!("global_sync_given_up_total", "peer" => peer.to_string()).increment(1);
                tracing::error!(%peer, %log, "{peer} is too far behind in {log}: it will need a snapshot");
            }
            Effect::LoadSnapshot { peer } => self.load_snapshot(peer),
            Effect::SnapshotHolds => {
                let Some(fence) = self.fence else { return };
                let store = self.store.clone();
                self.work.spawn(async move {
                    match store.confirm_snapshot(&fence).await {
                        Ok(()) => tracing::info!("another region has the rows that the snapshot brought"),
                        // It is compared again.
                        Err(error) => tracing::warn!("that the snapshot holds is not remembered: {error}"),
                    }
                });
            }
            Effect::CheckHead { peer, log, head } => {
                let (store, reports) = (self.store.clone(), self.reports.clone());
                self.work.spawn(async move {
                    match store.hash_of_entry(&log, head.seq).await {
                        Ok(Some(ours)) if ours != head.hash => {
                            let event = Event::HeadDiffers { peer, log, seq: head.seq };
                            let _ = reports.send(Report::Core(Box::new(event)));
                        }
                        Ok(Some(_)) => {
                            let _ = reports.send(Report::Core(Box::new(Event::HeadAgrees { peer, log })));
                        }
                        // It was dropped since it was asked about.
                        Ok(None) => tracing::debug!(%peer, %log, seq = head.seq, "an entry is not here to be compared"),
                        Err(error) => {
                            tracing::warn!(%peer, %log, seq = head.seq, "an entry is not compared: {error}");
                        }
                    }
                });
            }
            Effect::HeadsAgree { peer, log } => {
                let Some(fence) = self.fence else { return };
                let store = self.store.clone();
                self.work.spawn(async move {
                    match store.forget_diverged(&fence, &peer, &log).await {
                        Ok(()) => tracing::info!(%peer, %log, "{peer} has the same entries in {log} as we do again"),
                        // It is known until it is found once more.
                        Err(error) => tracing::warn!(%peer, %log, "that {log} is the same again is not kept: {error}"),
                    }
                });
            }
            Effect::Answer { conn, question } => self.answer(conn, question),
            Effect::Compare { conn, theirs } => self.compare(conn, theirs),
            Effect::Alarm(alarm) => self.raise(alarm),
        }
    }

    fn truncate(&self, log: LogId, upto: u64) {
        let Some(fence) = self.fence else { return };
        let (store, reports) = (self.store.clone(), self.reports.clone());
        let keep_s = self.config.log.keep.as_secs_f64();
        self.work.spawn(async move {
            loop {
                match store.truncate(&fence, &log, upto, keep_s).await {
                    Ok((upto, more)) => {
                        let event = Event::Truncated { log: log.clone(), upto };
                        if reports.send(Report::Core(Box::new(event))).is_err() || !more {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%log, "old entries of {log} stay: {error}");
                        return;
                    }
                }
            }
        });
    }

    fn load_snapshot(&self, peer: RegionName) {
        let (store, mesh, config) = (self.store.clone(), self.mesh.clone(), self.config.clone());
        let (fence, own, reports) = (self.fence, self.replica.settings().origin.clone(), self.reports.clone());
        let (stop, ring) = (self.stop.clone(), self.ring.clone());
        tracing::warn!(%peer, "entries we lack are nowhere any more: loading a snapshot from {peer}");
        self.work.spawn(async move {
            let loading = snapshot_of(&store, &mesh, &config, fence, &own, ring, &peer);
            let event = match stop.run_until_cancelled(loading).await {
                // Nothing of it is here, and whoever leads next asks anew.
                None => return,
                Some(Ok(logs)) => Event::SnapshotLoaded { logs },
                Some(Err(error)) => {
                    tracing::warn!(%peer, "no snapshot from {peer}: {error:#}");
                    Event::SnapshotFailed
                }
            };
            let _ = reports.send(Report::Core(Box::new(event)));
        });
    }

    /// Tells a peer of our rows as they are now. If they cannot be had it gets no answer, and asks again in its next round.
    fn answer(&self, conn: ConnectionId, question: Inspect) {
        let (store, reports, reading) = (self.store.clone(), self.reports.clone(), self.reading.clone());
        let link = self.links.get(&conn).cloned();
        self.work.spawn(async move {
            let _turn = reading.acquire().await;
            let mut summary = Summary::new(&question.prefix);
            match store.derived_rows(&question, |row| summary.add(row)).await {
                Ok(Some(vector)) => {
                    if let Some(link) = link {
                        let of = Inspect { vector: Some(vector), ..question };
                        link.say(Message::Digest(Digest { of, rows: summary.finish() }));
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(stream = %question.stream, "rows cannot be told of: {error}"),
            }
            let _ = reports.send(Report::Core(Box::new(Event::Answered { conn })));
        });
    }

    /// Compares our rows with those a peer has told of, once we have applied what it had. Rows that differed and are equal now
    /// are forgotten.
    fn compare(&self, conn: ConnectionId, theirs: Digest) {
        let peer = self.links.get(&conn).map(|link| link.region.clone());
        let fence = self.fence;
        let (store, reports, reading) = (self.store.clone(), self.reports.clone(), self.reading.clone());
        self.work.spawn(async move {
            let Digest { of, rows } = theirs;
            let mut comparison = Comparison::new(&of.prefix, rows);
            let begun = Instant::now();
            let difference = loop {
                let turn = reading.acquire().await;
                let read = store.derived_rows(&of, |row| comparison.add(row)).await;
                drop(turn);
                match read {
                    Ok(Some(_)) => break Some(comparison.finish()),
                    Ok(None) if begun.elapsed() < COMPARE_WITHIN => sleep(LOOK_AGAIN).await,
                    Ok(None) => break None,
                    Err(error) => {
                        tracing::warn!(stream = %of.stream, "rows cannot be compared: {error}");
                        break None;
                    }
                }
            };
            let outcome = if difference.is_some() { "compared" } else { "not comparable" };
            metrics::counter!("global_sync_rows_compared_total", "stream" => of.stream.as_str(), "outcome" => outcome)
                .increment(1);
            // What is equal as it is may differ as of one moment.
            if let (Some(fence), Some(peer), Some(difference), false) = (fence, peer, &difference, of.as_they_are)
                && let Err(error) = store.forget_equal(&fence, &peer, &of, difference).await
            {
                tracing::warn!(%peer, stream = %of.stream, "rows that may be equal now are not forgotten: {error}");
            }
            let _ = reports.send(Report::Core(Box::new(Event::Compared { conn, question: of, difference })));
        });
    }

    fn raise(&self, alarm: Alarm) {
        match alarm {
            Alarm::BadBatch { from, log, error } => self.mesh.refusals().entries(&from, &log, &error),
            Alarm::Diverged { peer, log, seq } => {
                let Some(fence) = self.fence else { return };
                let store = self.store.clone();
                self.work.spawn(async move {
                    match store.add_diverged(&fence, &peer, &log, seq).await {
                        Ok(false) => {}
                        Ok(true) => {
                            metrics::counter!(
                                "global_sync_diverged_total",
                                "peer" => peer.to_string(),
                                "origin" => log.origin.region.to_string(),
                                "stream" => log.stream.as_str()
                            )
                            .increment(1);
                            tracing::error!(%peer, %log, seq, "{peer} has another entry {seq} in {log} than we do");
                        }
                        // It is told again.
                        Err(error) => tracing::warn!(%peer, %log, seq, "that {log} differs is not kept: {error}"),
                    }
                });
            }
            Alarm::RowsDiffer { peer, stream, keys } => {
                let Some(fence) = self.fence else { return };
                let store = self.store.clone();
                self.work.spawn(async move {
                    match store.add_differing(&fence, &peer, stream, &keys).await {
                        Ok(new) if new.is_empty() => {}
                        Ok(new) => {
                            metrics::counter!(
                                "global_sync_rows_differ_total",
                                "peer" => peer.to_string(),
                                "stream" => stream.as_str()
                            )
                            .increment(new.len() as u64);
                            tracing::error!(%peer, %stream, keys = ?new, "rows derived from {stream} are others at {peer} than here");
                        }
                        // The next round tells of them again.
                        Err(error) => tracing::warn!(%peer, %stream, ?keys, "rows that differ are not kept: {error}"),
                    }
                });
            }
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

fn limits(config: &Config) -> Limits {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Limits {
        rows_every_ms: ms(config.digest.compare_rows_every),
        truncate_every_ms: ms(config.log.drop_every),
        kept_entries: config.log.keep_entries,
        ..Limits::default()
    }
}

/// Loads a snapshot of `peer` and says what the database holds then.
pub(super) async fn snapshot_of(
    store: &Store,
    mesh: &Mesh,
    config: &Config,
    fence: Option<Fence>,
    own: &Origin,
    mut ring: KeyRing,
    peer: &RegionName,
) -> anyhow::Result<BTreeMap<LogId, LogState>> {
    let fence = fence.ok_or_else(|| anyhow::anyhow!("another instance leads now"))?;
    let targets = targets(config, store.directory().await?);
    let address = targets.get(peer).ok_or_else(|| anyhow::anyhow!("nobody knows where {peer} is reached"))?;
    let mut pieces = mesh.ask_snapshot(peer, address).await?;
    let imported = store.import_snapshot(&fence, &config.region.cluster_id, own, peer, &mut ring, &mut pieces).await;
    imported.inspect_err(|error| mesh.refusals().snapshot(peer, error))?;
    Ok(store.logs().await?)
}
