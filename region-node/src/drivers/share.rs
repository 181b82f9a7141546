//! What one node hears, all nodes of the region know: through Redis, as fast as it answers, and without it when it does
//! not.
//!
//! Every tick one pipeline carries what changed: a key per driver, which lives as long as a position does, and one
//! message per tenant to the other nodes. A node that starts first listens, then reads the keys, then Postgres, so that it
//! misses nothing; and so does one that may have missed something, since who went offline meanwhile has no key any more that
//! could say so. Keys of the node's own tell it that Redis was emptied or restarted: then it shares everything again. What
//! Redis did not take waits, of each driver the latest.
//!
//! In a Redis cluster each key and each channel is on one server and no command spans two; a pipeline goes to all of them.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fred::{
    clients::{Client, SubscriberClient},
    prelude::{ClientLike, EventInterface, Expiration, FredResult, KeysInterface, PubsubInterface},
    types::{ClientState, Key, Message},
};
use futures::{StreamExt, TryStreamExt, future::try_join_all};
use serde::{Deserialize, Serialize};
use shared::ids::TenantId;
use time::OffsetDateTime;
use tokio::{
    sync::{
        Notify,
        broadcast::{Receiver, error::RecvError},
        mpsc,
    },
    time::timeout,
};
use uuid::Uuid;

use super::{
    background::reconcile,
    keys::Keys,
    store,
    table::{LIFE, LiveTable, Sighting},
    wire::{self, Batch},
};
use crate::{app::App, http::Problem, redis};

/// Sightings in one message.
const BATCH: usize = 500;
/// Keys read with one command.
const READ: usize = 500;
/// Standings read with one statement.
const STANDINGS: usize = 5_000;
/// How long a node waits for the others to write the breadcrumbs they hold before it asks once more, and as long again after
/// that.
const WAIT_FOR_OTHERS: Duration = Duration::from_millis(300);
const ASKED_AT_MOST: usize = 2;
/// Calls for breadcrumbs that wait to be answered together; one more waits in vain.
const MOST_CALLS: usize = 256;
/// Filling the table from Redis and from Postgres takes no longer than this each; a node that starts serves then, and the
/// others' heartbeats complete it.
const FILL_AT_MOST: Duration = Duration::from_secs(10);
/// After a failure everything is shared again, but not more often than this.
const SHARE_ALL_AGAIN: Duration = Duration::from_secs(1);
/// What was missed is made up for, but not more often than this.
const MAKE_UP_AGAIN: Duration = Duration::from_secs(1);
/// Keys that tell a node whether a cluster's servers still have what it shared: so many that all are on the other servers with
/// a chance of less than one in a thousand for three servers.
const CLUSTER_MARKS: usize = 18;
/// A node that said nothing for this long need not be asked for breadcrumbs.
const OTHER_IS_GONE: time::Duration = time::Duration::minutes(2);

/// This node among the others.
#[derive(Clone)]
pub(super) struct Sharing {
    node: Uuid,
    keys: Keys,
    /// The other nodes, and when they were last heard of.
    others: Arc<Mutex<HashMap<Uuid, OffsetDateTime>>>,
    answers: Arc<Mutex<HashMap<Uuid, Awaited>>>,
}

/// A call the others are to answer. Answers may come before it is known how many to expect.
#[derive(Default)]
struct Awaited {
    asked: Option<usize>,
    /// Each counts once, however often it was asked.
    answered: HashSet<Uuid>,
    done: Arc<Notify>,
}

/// What nodes say to each other about breadcrumbs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BreadcrumbsCall {
    /// Write all you hold, then answer.
    Write { from: Uuid, call: Uuid },
    /// Written.
    Written { from: Uuid, call: Uuid },
}

impl Sharing {
    /// A node of the cluster.
    pub(super) fn new(cluster_id: &str) -> Self {
        Self { node: Uuid::now_v7(), keys: Keys::new(cluster_id), others: Arc::default(), answers: Arc::default() }
    }

    /// Tells the others what was heard since `since`; false if they may not have heard it. What Redis does not take waits for
    /// the next time.
    pub(super) async fn tell(
        &self,
        redis: &Client,
        live: &LiveTable,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> bool {
        if redis.state() != ClientState::Connected {
            return false;
        }
        let changed = live.fleets().into_iter().map(|(tenant, fleet)| {
            let sightings = fleet.take_to_share(now);
            (tenant, sightings)
        });
        let changed: Vec<_> = changed.filter(|(_, sightings)| !sightings.is_empty()).collect();
        match self.send(redis, &changed, since).await {
            Ok(was_emptied) => !was_emptied,
            Err(error) => {
                tracing::debug!(%error, "Redis did not take what was shared");
                for (tenant, sightings) in changed {
                    live.fleet(&tenant).share_again(sightings.iter().map(|sighting| sighting.driver_id));
                }
                false
            }
        }
    }

    /// One pipeline; true if Redis, or a server of its cluster, forgot this node meanwhile.
    async fn send(
        &self,
        redis: &Client,
        changed: &[(TenantId, Vec<Sighting>)],
        since: OffsetDateTime,
    ) -> FredResult<bool> {
        let pipeline = redis.pipeline();
        let life = Some(Expiration::EX(LIFE.whole_seconds()));
        let marks = if redis.is_clustered() { CLUSTER_MARKS } else { 1 };
        // The first answers are this node's keys as they were.
        for mark in 0..marks {
            let () = pipeline.set(self.keys.node(self.node, mark), "1", life.clone(), None, true).await?;
        }
        // Whichever channel the first batch takes, the next one takes another.
        let mut channel = usize::from(Uuid::now_v7().as_bytes()[15]);
        for (tenant, sightings) in changed {
            for sighting in sightings {
                let key = self.keys.live(tenant, sighting.driver_id);
                if sighting.standing.online && sighting.position.is_some() {
                    let () = pipeline.set(key, wire::encode(sighting).as_slice(), life.clone(), None, false).await?;
                } else {
                    let () = pipeline.del(key).await?;
                }
            }
            for sightings in sightings.chunks(BATCH) {
                let batch = Batch { node: self.node, tenant: tenant.clone(), since, sightings: sightings.to_vec() };
                let () = pipeline.spublish(self.keys.sightings(channel), batch.encode().as_slice()).await?;
                channel += 1;
            }
        }
        let answers: Vec<fred::types::Value> = pipeline.all().await?;
        Ok(answers.iter().take(marks).any(|before| before.is_null()))
    }

    /// Takes in what another node told.
    pub(super) fn hear(&self, live: &LiveTable, bytes: &[u8], now: OffsetDateTime) {
        match Batch::decode(bytes) {
            Ok(batch) if batch.node == self.node => {}
            Ok(batch) => {
                self.others.lock().unwrap_or_else(PoisonError::into_inner).insert(batch.node, now);
                // Two nodes' clocks may differ a little.
                let lag = (now - batch.since).max(time::Duration::ZERO);
                metrics::histogram!("region_node_index_lag_seconds").record(lag.as_seconds_f64());
                let fleet = live.fleet(&batch.tenant);
                batch.sightings.into_iter().for_each(|sighting| fleet.merge(sighting, now));
            }
            Err(error) => tracing::warn!(%error, "another node told something that cannot be read"),
        }
    }

    /// Reads what all nodes shared.
    pub(super) async fn read_all(&self, redis: &Client, live: &LiveTable, now: OffsetDateTime) -> FredResult<usize> {
        let scanned = match redis.is_clustered() {
            true => redis.scan_cluster_buffered(self.keys.every_live(), Some(1_000), None).boxed(),
            false => redis.scan_buffered(self.keys.every_live(), Some(1_000), None).boxed(),
        };
        let scanned: Vec<Key> = scanned.try_collect().await?;
        let keys: Vec<String> = scanned.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect();
        let mut read = 0;
        for keys in keys.chunks(READ) {
            let pipeline = redis.pipeline();
            for key in keys {
                let () = pipeline.get(key).await?;
            }
            let values: Vec<Option<Vec<u8>>> = pipeline.all().await?;
            for (key, value) in keys.iter().zip(values) {
                if let (Some(tenant), Some(Ok(sighting))) = (self.keys.tenant_of(key), value.map(|v| wire::decode(&v)))
                {
                    live.fleet(&tenant).merge(sighting, now);
                    read += 1;
                }
            }
        }
        Ok(read)
    }

    fn others_heard_since(&self, since: OffsetDateTime) -> bool {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.retain(|_, heard| *heard > since);
        !others.is_empty()
    }

    /// Asks the other nodes to write the breadcrumbs they hold and waits for them, but not for long.
    pub(super) async fn others_write_breadcrumbs(&self, app: &App) {
        if !self.others_heard_since(app.clock.now() - OTHER_IS_GONE) || app.redis.state() != ClientState::Connected {
            return;
        }
        let (call, done) = (Uuid::now_v7(), Arc::new(Notify::new()));
        self.awaited().insert(call, Awaited { done: done.clone(), ..Awaited::default() });
        for _ in 0..ASKED_AT_MOST {
            let answered = async {
                let heard = self.say(app, &BreadcrumbsCall::Write { from: self.node, call }).await?;
                self.note_answers(call, |awaited| awaited.asked = Some(heard.saturating_sub(1)));
                done.notified().await;
                Ok::<_, fred::error::Error>(())
            };
            match timeout(WAIT_FOR_OTHERS, answered).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the other nodes could not be asked for breadcrumbs");
                    break;
                }
                Err(_) => tracing::warn!("another node did not write its breadcrumbs in time"),
            }
        }
        self.awaited().remove(&call);
    }

    /// Takes note of what is known of a call's answers; the last of them wakes who waits.
    fn note_answers(&self, call: Uuid, note: impl FnOnce(&mut Awaited)) {
        if let Some(awaited) = self.awaited().get_mut(&call) {
            note(awaited);
            if awaited.asked.is_some_and(|asked| awaited.answered.len() >= asked) {
                awaited.done.notify_one();
            }
        }
    }

    fn awaited(&self) -> MutexGuard<'_, HashMap<Uuid, Awaited>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says it to all nodes, this one among them; to how many.
    async fn say(&self, app: &App, call: &BreadcrumbsCall) -> FredResult<usize> {
        let text = serde_json::to_string(call).expect("two ids are plain data");
        app.redis.spublish(self.keys.breadcrumbs(), text).await
    }

    fn hear_of_breadcrumbs(&self, asked: &mpsc::Sender<Uuid>, text: &[u8]) {
        match serde_json::from_slice(text) {
            Ok(BreadcrumbsCall::Write { from, call }) if from != self.node => {
                if asked.try_send(call).is_err() {
                    tracing::warn!("too many calls for breadcrumbs: another node waits in vain");
                }
            }
            Ok(BreadcrumbsCall::Written { from, call }) if from != self.node => {
                self.note_answers(call, |awaited| {
                    awaited.answered.insert(from);
                });
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "another node said something that cannot be read"),
        }
    }
}

/// Tells the others, tick by tick.
pub(super) async fn tell_others(app: App) {
    let mut ticks = tokio::time::interval(app.config.drivers.share_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reconnected = app.redis.reconnect_rx();
    let mut since = app.clock.now();
    // Since when the others lack something, and when all of it was last sent.
    let (mut lacking, mut sent_all): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        ticks.tick().await;
        let live = &app.drivers.live;
        // A server that was away may have lost what it had; of a cluster's, the marks of this node need not tell.
        while reconnected.try_recv().is_ok() {
            lacking.get_or_insert_with(Instant::now);
        }
        let is_due = sent_all.is_none_or(|sent| sent.elapsed() >= SHARE_ALL_AGAIN);
        let sends_all = lacking.is_some() && is_due && app.redis.state() == ClientState::Connected;
        if sends_all {
            sent_all = Some(Instant::now());
            live.fleets().iter().for_each(|(_, fleet)| fleet.share_all());
        }
        let now = app.clock.now();
        match app.drivers.sharing.tell(&app.redis, live, since, now).await {
            true => since = now,
            false => {
                lacking.get_or_insert_with(Instant::now);
            }
        }
        if sends_all
            && since == now
            && let Some(lacking) = lacking.take()
        {
            note_rebuilt("shared_again", lacking);
        }
        app.drivers.set_sharing(lacking.is_none());
    }
}

/// What a node hears of the others.
pub(super) struct Listening {
    messages: Receiver<Message>,
    /// Told when something may have been missed that was said until now.
    missed: Arc<Notify>,
}

/// Begins to listen to the others, so that from here on nothing they tell is missed while Redis is there.
pub(super) async fn listen(app: &App, subscriber: SubscriberClient) -> Listening {
    let listening = Listening { messages: subscriber.message_rx(), missed: Arc::default() };
    let keys = &app.drivers.sharing.keys;
    let channels: Vec<_> = keys.all_sightings().into_iter().chain([keys.breadcrumbs()]).collect();
    let missed = listening.missed.clone();
    let kept = redis::keep_subscribed(subscriber.clone(), channels.clone(), move || missed.notify_one());
    let connected = async {
        subscriber.init().await?;
        redis::subscribe(&subscriber, &channels).await
    };
    if let Err(error) = connected.await {
        tracing::warn!(%error, "the other nodes cannot be heard yet");
    }
    app.spawn(kept);
    listening
}

/// Hears the others for as long as the node runs.
pub(super) async fn hear_others(app: App, mut listening: Listening) {
    let (asked, calls) = mpsc::channel(MOST_CALLS);
    app.spawn(write_for_others(app.clone(), calls));
    app.spawn(make_up_for_missed(app.clone(), listening.missed.clone()));
    loop {
        match listening.messages.recv().await {
            Ok(message) => take_in(&app, &asked, message),
            Err(RecvError::Lagged(_)) => listening.missed.notify_one(),
            Err(RecvError::Closed) => break,
        }
    }
}

/// Completes the table whenever something may have been missed: from what the others share, then from Postgres, which alone
/// can tell who went offline.
async fn make_up_for_missed(app: App, missed: Arc<Notify>) {
    loop {
        missed.notified().await;
        let begun = Instant::now();
        fill_from_redis(&app).await;
        match reconcile(&app, true).await {
            Ok(()) => note_rebuilt("missed", begun),
            Err(problem) => {
                tracing::warn!(%problem, "who went offline unheard may be found until Postgres answers");
                missed.notify_one();
            }
        }
        tokio::time::sleep(MAKE_UP_AGAIN).await;
    }
}

fn take_in(app: &App, asked: &mpsc::Sender<Uuid>, message: Message) {
    let sharing = &app.drivers.sharing;
    let Some(bytes) = message.value.as_bytes() else { return };
    if *message.channel == *sharing.keys.breadcrumbs() {
        sharing.hear_of_breadcrumbs(asked, bytes);
    } else {
        sharing.hear(&app.drivers.live, bytes, app.clock.now());
    }
}

/// Writes the breadcrumbs held here when others ask for them, and answers: a task of its own, so that what else they say is
/// taken in however slow Postgres is. Who asks while it writes is answered with the next time, since what he needs may have
/// come too late for this one.
async fn write_for_others(app: App, mut calls: mpsc::Receiver<Uuid>) {
    let (app, sharing) = (&app, &app.drivers.sharing);
    let mut asked = Vec::new();
    while calls.recv_many(&mut asked, MOST_CALLS).await > 0 {
        let calls = mem::take(&mut asked);
        if let Err(problem) = app.drivers.breadcrumbs.flush(app).await {
            tracing::warn!(%problem, "breadcrumbs could not be written for another node");
            continue;
        }
        let answer =
            |call| async move { sharing.say(app, &BreadcrumbsCall::Written { from: sharing.node, call }).await };
        if let Err(error) = try_join_all(calls.into_iter().map(answer)).await {
            tracing::debug!(%error, "another node waits in vain");
        }
    }
}

/// Fills the table of a node that starts: from what the others shared, then from what Postgres remembers.
pub(super) async fn rebuild(app: &App) {
    let begun = Instant::now();
    fill_from_redis(app).await;
    match timeout(FILL_AT_MOST, fill_from_postgres(app)).await {
        Ok(Ok(read)) => tracing::info!(drivers = read, "live drivers read from Postgres"),
        Ok(Err(problem)) => tracing::warn!(%problem, "live drivers could not be read from Postgres"),
        Err(_) => tracing::warn!("live drivers could not be read from Postgres in time"),
    }
    note_rebuilt("start", begun);
}

async fn fill_from_postgres(app: &App) -> Result<usize, Problem> {
    let now = app.clock.now();
    let mut read = 0;
    let places: HashMap<_, _> = store::places(app, now - LIFE).await?.into_iter().collect();
    let seen: Vec<_> = places.keys().copied().collect();
    for drivers in seen.chunks(STANDINGS) {
        let standings = store::standings(app, drivers).await?;
        // The offline too: what another node shared of them before is over.
        for (tenant, driver_id, standing) in standings {
            let position = places.get(&driver_id).copied();
            app.drivers.live.fleet(&tenant).merge(Sighting { driver_id, standing, position }, now);
            read += 1;
        }
    }
    Ok(read)
}

async fn fill_from_redis(app: &App) {
    let read = app.drivers.sharing.read_all(&app.redis, &app.drivers.live, app.clock.now());
    match timeout(FILL_AT_MOST, read).await {
        Ok(Ok(read)) => tracing::info!(drivers = read, "live drivers read from Redis"),
        Ok(Err(error)) => tracing::warn!(%error, "live drivers could not be read from Redis"),
        Err(_) => tracing::warn!("live drivers could not be read from Redis in time"),
    }
}

/// Reports how long the table, here or at the others, was not known to be complete.
fn note_rebuilt(why: &'static str, begun: Instant) {
    let took = begun.elapsed();
    tracing::info!(why, took_ms = took.as_millis(), "the live table is complete again");
    metrics::gauge!("region_node_live_table_rebuilt_seconds", "why" => why).set(took.as_secs_f64());
}
