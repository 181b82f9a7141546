//! What one node hears, all nodes of the region know: through Redis, as fast as it answers, and without it when it does
//! not.
//!
//! Every tick one pipeline carries what changed: a key per driver, which lives as long as a position does, and one
//! message per tenant to the other nodes. A node that starts reads the keys, then Postgres. A key of the node's own tells
//! it that Redis was emptied or restarted: then it shares everything again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use fred::{
    clients::SubscriberClient,
    prelude::{ClientLike, EventInterface, Expiration, FredResult, KeysInterface, PubsubInterface},
    types::{ClientState, Message},
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use shared::ids::TenantId;
use time::OffsetDateTime;
use tokio::sync::{Notify, broadcast::error::RecvError};
use uuid::Uuid;

use super::{
    keys::Keys,
    store,
    table::{Fleet, LIFE, LiveTable, Sighting},
    wire::{self, Batch},
};
use crate::app::{App, keep_subscribed};

/// Sightings in one message.
const BATCH: usize = 500;
/// Keys read with one command.
const READ: usize = 500;
/// How long a node waits for the others to write the breadcrumbs they hold.
const WAIT_FOR_OTHERS: std::time::Duration = std::time::Duration::from_millis(300);
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

struct Awaited {
    left: u64,
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

    /// Tells the others what changed; false if they may not have heard it.
    pub(super) async fn tell(&self, redis: &fred::clients::Client, live: &LiveTable, now: OffsetDateTime) -> bool {
        let changed = live.fleets().into_iter().map(|(tenant, fleet)| {
            let sightings = fleet.take_to_share(now);
            (tenant, sightings)
        });
        let changed: Vec<_> = changed.filter(|(_, sightings)| !sightings.is_empty()).collect();
        if redis.state() != ClientState::Connected {
            return false;
        }
        match self.send(redis, changed).await {
            Ok(was_emptied) => !was_emptied,
            Err(error) => {
                tracing::debug!(%error, "Redis did not take what was shared");
                false
            }
        }
    }

    /// One pipeline; true if Redis forgot this node meanwhile.
    async fn send(&self, redis: &fred::clients::Client, changed: Vec<(TenantId, Vec<Sighting>)>) -> FredResult<bool> {
        let pipeline = redis.pipeline();
        let life = Some(Expiration::EX(LIFE.whole_seconds()));
        // The first answer is this node's key as it was.
        let () = pipeline.set(self.keys.node(self.node), "1", life.clone(), None, true).await?;
        for (tenant, sightings) in changed {
            for sighting in &sightings {
                let key = self.keys.live(&tenant, sighting.driver_id);
                if sighting.standing.online && sighting.position.is_some() {
                    let () = pipeline.set(key, wire::encode(sighting).as_slice(), life.clone(), None, false).await?;
                } else {
                    let () = pipeline.del(key).await?;
                }
            }
            for sightings in sightings.chunks(BATCH) {
                let batch = Batch { node: self.node, tenant: tenant.clone(), sightings: sightings.to_vec() };
                let () = pipeline.publish(self.keys.sightings(), batch.encode().as_slice()).await?;
            }
        }
        let answers: Vec<fred::types::Value> = pipeline.all().await?;
        Ok(answers.first().is_none_or(|before| before.is_null()))
    }

    /// Takes in what another node told.
    pub(super) fn hear(&self, live: &LiveTable, bytes: &[u8], now: OffsetDateTime) {
        match Batch::decode(bytes) {
            Ok(batch) if batch.node == self.node => {}
            Ok(batch) => {
                self.others.lock().unwrap_or_else(PoisonError::into_inner).insert(batch.node, now);
                let fleet = live.fleet(&batch.tenant);
                batch.sightings.into_iter().for_each(|sighting| fleet.merge(sighting, now));
            }
            Err(error) => tracing::warn!(%error, "another node told something that cannot be read"),
        }
    }

    /// Reads what all nodes shared.
    pub(super) async fn read_all(
        &self,
        redis: &fred::clients::Client,
        live: &LiveTable,
        now: OffsetDateTime,
    ) -> FredResult<usize> {
        let scanned: Vec<fred::types::Key> =
            redis.scan_buffered(self.keys.every_live(), Some(1_000), None).try_collect().await?;
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
        let awaited = Awaited { left: u64::MAX, done: done.clone() };
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(call, awaited);
        let answered = async {
            let ask = BreadcrumbsCall::Write { from: self.node, call };
            let heard: u64 = self.say(app, &ask).await?;
            self.answered(call, u64::MAX - heard.saturating_sub(1));
            done.notified().await;
            Ok::<_, fred::error::Error>(())
        };
        match tokio::time::timeout(WAIT_FOR_OTHERS, answered).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the other nodes could not be asked for breadcrumbs"),
            Err(_) => tracing::warn!("another node did not write its breadcrumbs in time"),
        }
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&call);
    }

    /// Counts `answers` to a call; the last wakes who waits. Answers may come before it is known how many to expect, so
    /// the count begins at the top and what is not expected counts as answered.
    fn answered(&self, call: Uuid, answers: u64) {
        let mut waiting = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(awaited) = waiting.get_mut(&call) {
            awaited.left = awaited.left.saturating_sub(answers);
            if awaited.left == 0 {
                awaited.done.notify_one();
            }
        }
    }

    async fn say(&self, app: &App, call: &BreadcrumbsCall) -> FredResult<u64> {
        let text = serde_json::to_string(call).expect("two ids are plain data");
        app.redis.publish(self.keys.breadcrumbs(), text).await
    }

    async fn hear_of_breadcrumbs(&self, app: &App, text: &[u8]) {
        match serde_json::from_slice(text) {
            Ok(BreadcrumbsCall::Write { from, call }) if from != self.node => {
                if let Err(problem) = app.drivers.breadcrumbs.flush(app).await {
                    tracing::warn!(%problem, "breadcrumbs could not be written for another node");
                    return;
                }
                if let Err(error) = self.say(app, &BreadcrumbsCall::Written { from: self.node, call }).await {
                    tracing::debug!(%error, "another node waits in vain");
                }
            }
            Ok(BreadcrumbsCall::Written { from, call }) if from != self.node => self.answered(call, 1),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "another node said something that cannot be read"),
        }
    }
}

/// Tells the others, tick by tick.
pub(super) async fn tell_others(app: App) {
    let mut ticks = tokio::time::interval(app.config.drivers.share_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard_all = true;
    loop {
        ticks.tick().await;
        let live = &app.drivers.live;
        if !heard_all && app.redis.state() == ClientState::Connected {
            live.fleets().iter().for_each(|(_, fleet)| fleet.share_all());
        }
        heard_all = app.drivers.sharing.tell(&app.redis, live, app.clock.now()).await;
        app.drivers.set_sharing(heard_all);
    }
}

/// Listens to the others for as long as the node runs.
pub(super) async fn hear_others(app: App, subscriber: SubscriberClient) {
    let sharing = &app.drivers.sharing;
    let mut messages = subscriber.message_rx();
    let mut reconnected = subscriber.reconnect_rx();
    let channels = vec![sharing.keys.sightings(), sharing.keys.breadcrumbs()];
    let connected = async {
        subscriber.init().await?;
        subscriber.subscribe(channels).await
    };
    if let Err(error) = connected.await {
        tracing::warn!(%error, "the other nodes cannot be heard yet");
    }
    app.spawn(keep_subscribed(subscriber.clone()));
    loop {
        let missed = tokio::select! {
            message = messages.recv() => match message {
                Ok(message) => {
                    take_in(&app, message).await;
                    false
                }
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => break,
            },
            reconnected = reconnected.recv() => match reconnected {
                Ok(_) | Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => break,
            },
        };
        if missed && let Err(error) = sharing.read_all(&app.redis, &app.drivers.live, app.clock.now()).await {
            tracing::warn!(%error, "what was missed could not be read from Redis");
        }
    }
}

async fn take_in(app: &App, message: Message) {
    let sharing = &app.drivers.sharing;
    let Some(bytes) = message.value.as_bytes() else { return };
    if *message.channel == *sharing.keys.sightings() {
        sharing.hear(&app.drivers.live, bytes, app.clock.now());
    } else {
        sharing.hear_of_breadcrumbs(app, bytes).await;
    }
}

/// Fills the table of a node that starts: from what the others shared, then from what Postgres remembers.
pub(super) async fn rebuild(app: &App) {
    let now = app.clock.now();
    let live = &app.drivers.live;
    match app.drivers.sharing.read_all(&app.redis, live, now).await {
        Ok(read) => tracing::info!(drivers = read, "live drivers read from Redis"),
        Err(error) => tracing::warn!(%error, "live drivers could not be read from Redis"),
    }
    match store::last_seen(app, now - LIFE).await {
        Ok(seen) => {
            let drivers = seen.len();
            for (tenant, sighting) in seen {
                let fleet: Arc<Fleet> = live.fleet(&tenant);
                fleet.merge(sighting, now);
            }
            tracing::info!(drivers, "live drivers read from Postgres");
        }
        Err(problem) => tracing::warn!(%problem, "live drivers could not be read from Postgres"),
    }
}
