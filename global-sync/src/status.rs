//! What an instance says about itself: `/status` for programs, health for supervisors, `/metrics` for graphs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use shared::{fact::FactStream, ids::RegionName};
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use crate::{
    protocol::{Flow, LogId, MemberState, Origin},
    store::{Backlog, DamageSeen, Lag, Lease, LogLag, Store, StoreError},
    transport::Link,
};

const DIGEST_AGE: Duration = Duration::from_secs(1);

/// What the running parts tell the status page.
#[derive(Clone)]
pub struct Board {
    inner: Arc<RwLock<Inner>>,
    store: Store,
    region: RegionName,
    configured: Arc<[RegionName]>,
    digest: Arc<Mutex<Option<(Instant, String)>>>,
}

#[derive(Default)]
struct Inner {
    origin: Option<Origin>,
    instance: Uuid,
    leader: bool,
    links: BTreeMap<RegionName, Link>,
    credits: BTreeMap<(RegionName, LogId), i64>,
    fetched: BTreeMap<(RegionName, FactStream), Fetched>,
    /// Peers, where rows and logs differ, logs that peers lack, and logs of which entries are set aside, that metrics tell of.
    measured: BTreeSet<RegionName>,
    measured_differing: BTreeSet<(RegionName, FactStream)>,
    measured_diverged: BTreeSet<OfPeer>,
    measured_logs: BTreeSet<OfPeer>,
    measured_quarantined: BTreeSet<(RegionName, FactStream, String)>,
}

/// Entries of another origin's that were stored here since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Fetched {
    /// From the origin itself.
    pub direct: u64,
    /// From a region that had them.
    pub relayed: u64,
    /// The part that was relayed, 0 to 1.
    pub relay_share: f64,
}

/// `GET /status`.
#[derive(Debug, Serialize)]
pub struct Status {
    /// This region.
    pub region: RegionName,
    /// This process.
    pub instance: Uuid,
    /// Whether this instance numbers and applies.
    pub leader: bool,
    /// Who leads the region.
    pub lease: Option<Lease>,
    /// Every region of the mesh, this one included: joining, active, draining or retired.
    pub members: BTreeMap<RegionName, &'static str>,
    /// Newest entry of every log, by origin and stream.
    pub version_vector: BTreeMap<String, StreamHeads>,
    /// Equal in two regions exactly when they hold the same facts.
    pub digest: String,
    /// The other regions.
    pub peers: Vec<PeerStatus>,
    /// Every log, by origin and stream: how far it is stored, and how far applied.
    pub logs: BTreeMap<String, LogStatus>,
    /// Facts that wait for their number, and those that may not leave.
    pub outbox: Backlog,
    /// Entries set aside, by state.
    pub quarantine: BTreeMap<String, i64>,
    /// Entries stored here since the start, by origin and stream, and which way they came.
    pub fetched: BTreeMap<String, Fetched>,
    /// What the last look through all logs found, whichever instance looked; none before the first.
    pub damage: Option<DamageSeen>,
    /// Rows found to be others in another region than here, by region and stream, and not found equal since; whichever
    /// instance compared them.
    pub differing: BTreeMap<String, BTreeSet<String>>,
    /// Logs found to be others in another region than here, by region, each with the entry that showed it, and not found the
    /// same since; whichever instance compared them.
    pub diverged: BTreeMap<RegionName, BTreeSet<String>>,
}

/// How far a log is here.
#[derive(Debug, Serialize)]
pub struct LogStatus {
    /// Newest entry that is durable.
    pub stored: u64,
    /// Newest entry that stands in the tables people read.
    pub applied: u64,
}

/// Newest entries of one origin.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamHeads {
    /// Regions and homes.
    pub control: u64,
    /// Tenant config.
    pub config: u64,
    /// Settlements.
    pub ledger: u64,
}

/// Another region, seen from here.
#[derive(Debug, Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub region: RegionName,
    /// Whether it is connected to this instance.
    pub connected: bool,
    /// Round trip, if connected.
    pub rtt_ms: Option<f64>,
    /// Entries of ours it has not stored.
    pub lag_entries: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Every log that is here, by origin and stream: how far the peer is behind, and what it may be sent.
    pub logs: BTreeMap<String, PeerLog>,
    /// Streams of which no entries pass between it and this region, by an operator's command.
    pub paused: BTreeSet<FactStream>,
}

/// How far a peer is behind on one log, whoever writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerLog {
    /// Entries it has not stored.
    pub lag_entries: u64,
    /// Their bytes; where they are many, estimated from the oldest.
    pub lag_bytes: u64,
    /// How long the oldest of them has been here.
    pub lag_ms: u64,
    /// Bytes it lets this instance send; missing if it does not pull the log from here.
    pub credit_bytes: Option<i64>,
}

impl Board {
    /// A board of an instance that does nothing yet.
    pub fn new(store: Store, region: RegionName, configured: impl Iterator<Item = RegionName>) -> Self {
        Self { inner: Arc::default(), store, region, configured: configured.collect(), digest: Arc::default() }
    }

    pub(crate) fn set_origin(&self, origin: Origin, instance: Uuid) {
        let mut inner = self.write();
        (inner.origin, inner.instance) = (Some(origin), instance);
    }

    pub(crate) fn set_leader(&self, leader: bool) {
        self.write().leader = leader;
        metrics::gauge!("global_sync_leader").set(if leader { 1.0 } else { 0.0 });
    }

    pub(crate) fn set_links(&self, links: BTreeMap<RegionName, Link>) {
        self.write().links = links;
    }

    /// Whether a region is connected to this instance.
    pub(crate) fn is_connected(&self, region: &RegionName) -> bool {
        self.read().links.contains_key(region)
    }

    /// What peers let us send.
    pub(crate) fn set_flows(&self, flows: Vec<Flow>) {
        let credits: BTreeMap<_, _> =
            flows.into_iter().map(|Flow { peer, log, credit_bytes }| ((peer, log), credit_bytes)).collect();
        let gauge = |(peer, log): &(RegionName, LogId)| {
            metrics::gauge!(
                "global_sync_peer_credit_bytes",
                "peer" => peer.to_string(), "origin" => log.origin.region.to_string(), "stream" => log.stream.as_str()
            )
        };
        let mut inner = self.write();
        inner.credits.keys().filter(|ended| !credits.contains_key(*ended)).for_each(|ended| gauge(ended).set(0.0));
        credits.iter().for_each(|(flow, credit)| gauge(flow).set(*credit as f64));
        inner.credits = credits;
    }

    /// Entries of another origin's are about to be stored.
    pub(crate) fn count_fetched(&self, log: &LogId, entries: u64, direct: bool) {
        let mut inner = self.write();
        let fetched = inner.fetched.entry((log.origin.region.clone(), log.stream)).or_default();
        *(if direct { &mut fetched.direct } else { &mut fetched.relayed }) += entries;
        fetched.relay_share = fetched.relayed as f64 / (fetched.direct + fetched.relayed).max(1) as f64;
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect("nobody panics while holding it")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect("nobody panics while holding it")
    }

    /// Everything `/status` says.
    pub async fn status(&self) -> Result<Option<Status>, StoreError> {
        let Some(origin) = self.read().origin.clone() else { return Ok(None) };
        // Before the logs: what waits no more is in them.
        let outbox = self.store.backlog().await?;
        let mut version_vector: BTreeMap<String, StreamHeads> = BTreeMap::new();
        let mut logs = BTreeMap::new();
        for (log, state) in self.store.logs().await?.into_iter().filter(|(_, state)| state.head.seq > 0) {
            logs.insert(log.to_string(), LogStatus { stored: state.head.seq, applied: state.applied });
            let heads = version_vector.entry(log.origin.to_string()).or_default();
            match log.stream {
                FactStream::Control => heads.control = state.head.seq,
                FactStream::Config => heads.config = state.head.seq,
                FactStream::Ledger => heads.ledger = state.head.seq,
            }
        }
        let peers = self.peers(&origin, self.store.log_lags().await?).await?;
        let digest = self.digest().await?;
        let members = self.store.membership().await?.states;
        let lease = self.store.lease().await?;
        let quarantine = self.store.quarantine_counts().await?.into_iter().collect();
        let damage = self.store.damage().await?;
        let differing = self.store.differing().await?;
        let mut diverged: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for ((peer, log), seq) in self.store.diverged().await? {
            diverged.entry(peer).or_default().insert(format!("{log}/{seq}"));
        }
        let inner = self.read();
        Ok(Some(Status {
            region: self.region.clone(),
            instance: inner.instance,
            leader: inner.leader,
            lease,
            members: members.into_iter().map(|(region, state)| (region, state.as_str())).collect(),
            version_vector,
            digest,
            peers,
            logs,
            outbox,
            quarantine,
            fetched: by_name(&inner.fetched),
            damage,
            differing: by_name(&differing),
            diverged,
        }))
    }

    /// The digest, at most a second old: however many ask, the database computes it once a second.
    async fn digest(&self) -> Result<String, StoreError> {
        let mut known = self.digest.lock().await;
        if let Some((at, digest)) = &*known
            && at.elapsed() < DIGEST_AGE
        {
            return Ok(digest.clone());
        }
        let digest = self.store.digest().await?;
        *known = Some((Instant::now(), digest.clone()));
        Ok(digest)
    }

    async fn peers(&self, origin: &Origin, log_lags: Vec<LogLag>) -> Result<Vec<PeerStatus>, StoreError> {
        let mut lags = self.store.lag(origin).await?;
        let pauses = self.store.pauses().await?;
        let inner = self.read();
        let paused_peers = pauses.iter().map(|(peer, _)| peer);
        for region in inner.links.keys().chain(self.configured.iter()).chain(paused_peers) {
            lags.entry(region.clone()).or_default();
        }
        lags.remove(&self.region);
        let mut logs: BTreeMap<RegionName, BTreeMap<String, PeerLog>> = BTreeMap::new();
        for LogLag { peer, log, lag, bytes } in log_lags {
            let name = log.to_string();
            let credit_bytes = inner.credits.get(&(peer.clone(), log)).copied();
            let of_log = PeerLog { lag_entries: lag.entries, lag_bytes: bytes, lag_ms: lag.ms, credit_bytes };
            logs.entry(peer).or_default().insert(name, of_log);
        }
        let peers = lags.into_iter().map(|(region, lag)| {
            let link = inner.links.get(&region);
            let paused = pauses.iter().filter(|(peer, _)| *peer == region).map(|(_, stream)| *stream);
            PeerStatus {
                connected: link.is_some(),
                rtt_ms: link.map(|link| (link.rtt().as_secs_f64() * 1e6).round() / 1e3),
                lag_entries: lag.entries,
                lag_ms: lag.ms,
                logs: logs.remove(&region).unwrap_or_default(),
                paused: paused.collect(),
                region,
            }
        });
        Ok(peers.collect())
    }

    /// Puts lag and quarantine into metrics.
    pub(crate) async fn measure(&self) -> Result<(), StoreError> {
        let Some(origin) = self.read().origin.clone() else { return Ok(()) };
        let log_lags = self.store.log_lags().await?;
        let mut lacking: BTreeMap<_, _> = summed(&log_lags)
            .into_iter()
            .map(|(log, (lag, bytes))| (log, (lag.entries as f64, bytes as f64, lag.ms as f64 / 1e3)))
            .collect();
        // A gauge cannot be taken back; of a region that has left it is no number, which raises no alarm.
        let present: BTreeSet<_> = lacking.keys().cloned().collect();
        let before = std::mem::replace(&mut self.write().measured_logs, present.clone());
        lacking.extend(before.difference(&present).map(|left| (left.clone(), (f64::NAN, f64::NAN, f64::NAN))));
        for ((peer, origin, stream), (entries, bytes, seconds)) in lacking {
            let labels = [("peer", peer.to_string()), ("origin", origin.to_string()), ("stream", stream.to_string())];
            metrics::gauge!("global_sync_peer_log_lag_entries", &labels).set(entries);
            metrics::gauge!("global_sync_peer_log_lag_bytes", &labels).set(bytes);
            metrics::gauge!("global_sync_peer_log_lag_seconds", &labels).set(seconds);
        }
        for (region, state) in self.store.membership().await?.states {
            for other in MemberState::ALL {
                metrics::gauge!("global_sync_member", "member" => region.to_string(), "state" => other.as_str())
                    .set(f64::from(u8::from(other == state)));
            }
        }
        self.measure_findings().await?;
        let peers = self.peers(&origin, log_lags).await?;
        let present: BTreeSet<_> = peers.iter().map(|peer| peer.region.clone()).collect();
        let before = std::mem::replace(&mut self.write().measured, present.clone());
        for left in before.difference(&present) {
            let name = left.to_string();
            metrics::gauge!("global_sync_peer_connected", "peer" => name.clone()).set(f64::NAN);
            metrics::gauge!("global_sync_peer_lag_entries", "peer" => name.clone()).set(f64::NAN);
            metrics::gauge!("global_sync_peer_lag_seconds", "peer" => name).set(f64::NAN);
        }
        for peer in peers {
            for stream in FactStream::ALL {
                metrics::gauge!("global_sync_paused", "peer" => peer.region.to_string(), "stream" => stream.as_str())
                    .set(f64::from(u8::from(peer.paused.contains(&stream))));
            }
            let name = peer.region.to_string();
            metrics::gauge!("global_sync_peer_connected", "peer" => name.clone())
                .set(f64::from(u8::from(peer.connected)));
            if let Some(rtt_ms) = peer.rtt_ms {
                metrics::gauge!("global_sync_peer_rtt_seconds", "peer" => name.clone()).set(rtt_ms / 1e3);
            }
            metrics::gauge!("global_sync_peer_lag_entries", "peer" => name.clone()).set(peer.lag_entries as f64);
            metrics::gauge!("global_sync_peer_lag_seconds", "peer" => name).set(peer.lag_ms as f64 / 1e3);
        }
        let backlog = self.store.backlog().await?;
        metrics::gauge!("global_sync_outbox_pending").set(backlog.pending as f64);
        metrics::gauge!("global_sync_outbox_oldest_seconds").set(backlog.oldest_s);
        metrics::gauge!("global_sync_rejected").set(backlog.rejected as f64);
        let mut quarantined = self.store.quarantined().await?;
        let present = quarantined.keys().cloned().collect();
        let before = std::mem::replace(&mut self.write().measured_quarantined, present);
        for left in before {
            quarantined.entry(left).or_insert(0);
        }
        for ((origin, stream, state), count) in quarantined {
            let labels = [("origin", origin.to_string()), ("stream", stream.to_string()), ("state", state)];
            metrics::gauge!("global_sync_quarantined", &labels).set(count as f64);
        }
        Ok(())
    }

    /// Puts what is damaged or differs into metrics, of the leader alone: each is told of once.
    async fn measure_findings(&self) -> Result<(), StoreError> {
        let leads = self.read().leader;
        let damage = self.store.damage().await?.filter(|_| leads);
        let differing = if leads { self.store.differing().await? } else { BTreeMap::new() };
        metrics::gauge!("global_sync_damaged_entries")
            .set(damage.as_ref().map_or(0.0, |seen| seen.found.entries as f64));
        metrics::gauge!("global_sync_log_check_age_seconds")
            .set(damage.map_or(f64::NAN, |seen| seen.seconds_ago as f64));
        let present = differing.keys().cloned().collect();
        let mended = std::mem::replace(&mut self.write().measured_differing, present);
        let none = BTreeSet::new();
        for of in mended.iter().chain(differing.keys()) {
            let rows = differing.get(of).unwrap_or(&none).len();
            let (peer, stream) = of;
            metrics::gauge!("global_sync_differing_rows", "peer" => peer.to_string(), "stream" => stream.as_str())
                .set(rows as f64);
        }
        let diverged = if leads { self.store.diverged().await? } else { BTreeMap::new() };
        let mut logs: BTreeMap<OfPeer, u32> = BTreeMap::new();
        for (peer, log) in diverged.into_keys() {
            *logs.entry((peer, log.origin.region, log.stream)).or_default() += 1;
        }
        let present = logs.keys().cloned().collect();
        let agreed = std::mem::replace(&mut self.write().measured_diverged, present);
        for of in agreed {
            logs.entry(of).or_insert(0);
        }
        for ((peer, origin, stream), count) in logs {
            let labels = [("peer", peer.to_string()), ("origin", origin.to_string()), ("stream", stream.to_string())];
            metrics::gauge!("global_sync_diverged_logs", &labels).set(f64::from(count));
        }
        Ok(())
    }
}

/// By region and stream, as one name.
fn by_name<T: Clone>(map: &BTreeMap<(RegionName, FactStream), T>) -> BTreeMap<String, T> {
    map.iter().map(|((region, stream), value)| (format!("{region}/{stream}"), value.clone())).collect()
}

/// A peer, and a region's logs of one stream.
type OfPeer = (RegionName, RegionName, FactStream);

/// What peers lack, with the lives of an origin together, as metrics name them.
fn summed(lags: &[LogLag]) -> BTreeMap<OfPeer, (Lag, u64)> {
    let mut sums: BTreeMap<OfPeer, (Lag, u64)> = BTreeMap::new();
    for LogLag { peer, log, lag, bytes } in lags {
        let (sum, sum_bytes) = sums.entry((peer.clone(), log.origin.region.clone(), log.stream)).or_default();
        *sum = Lag { entries: sum.entries + lag.entries, ms: sum.ms.max(lag.ms) };
        *sum_bytes += bytes;
    }
    sums
}

/// The pages of an instance.
pub fn router(board: Board, render_metrics: impl Fn() -> String + Clone + Send + Sync + 'static) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/health/live", get(async || Json(serde_json::json!({"status": "ok"}))))
        .route("/health/ready", get(ready))
        .route("/metrics", get(async move || render_metrics()))
        .with_state(board)
}

async fn status(State(board): State<Board>) -> Response {
    match tokio::time::timeout(Duration::from_secs(10), board.status()).await {
        Ok(Ok(Some(status))) => Json(status).into_response(),
        Ok(Ok(None)) => unavailable("starting", "the database is not ready yet"),
        Ok(Err(error)) => {
            tracing::warn!("status is not available: {error}");
            unavailable("database_unavailable", "the database does not answer")
        }
        Err(_) => unavailable("database_unavailable", "the database does not answer in time"),
    }
}

async fn ready(State(board): State<Board>) -> Response {
    let started = board.read().origin.is_some();
    let answers = tokio::time::timeout(Duration::from_secs(2), board.store.is_ready()).await;
    if started && matches!(answers, Ok(Ok(true))) {
        Json(serde_json::json!({"status": "ok"})).into_response()
    } else {
        unavailable("not_ready", "the database does not answer or lacks the schema")
    }
}

fn unavailable(code: &str, detail: &str) -> Response {
    let body = serde_json::json!({
        "type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": detail, "code": code
    });
    let content_type = [(axum::http::header::CONTENT_TYPE, "application/problem+json")];
    (StatusCode::SERVICE_UNAVAILABLE, content_type, body.to_string()).into_response()
}
