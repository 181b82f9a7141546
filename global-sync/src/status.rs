//! What an instance says about itself: `/status` for programs, health for supervisors, `/metrics` for graphs.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
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
use shared::ids::RegionName;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    protocol::Origin,
    store::{Backlog, Store, StoreError},
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
    leader: bool,
    links: BTreeMap<RegionName, Link>,
}

/// `GET /status`.
#[derive(Debug, Serialize)]
pub struct Status {
    /// This region.
    pub region: RegionName,
    /// Whether this instance numbers and applies.
    pub leader: bool,
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
    /// How many leaders there have been.
    pub lease_epoch: Option<i64>,
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
    /// Entries it has not stored, whoever wrote them: by origin and stream, where there are some.
    pub lacks: BTreeMap<String, u64>,
}

impl Board {
    /// A board of an instance that does nothing yet.
    pub fn new(store: Store, region: RegionName, configured: impl Iterator<Item = RegionName>) -> Self {
        Self { inner: Arc::default(), store, region, configured: configured.collect(), digest: Arc::default() }
    }

    pub(crate) fn set_origin(&self, origin: Origin) {
        self.inner.write().expect("nobody panics while holding it").origin = Some(origin);
    }

    pub(crate) fn set_leader(&self, leader: bool) {
        self.inner.write().expect("nobody panics while holding it").leader = leader;
        metrics::gauge!("global_sync_leader").set(if leader { 1.0 } else { 0.0 });
    }

    pub(crate) fn set_links(&self, links: BTreeMap<RegionName, Link>) {
        self.inner.write().expect("nobody panics while holding it").links = links;
    }

    /// Everything `/status` says.
    pub async fn status(&self) -> Result<Option<Status>, StoreError> {
        let (origin, leader, links) = {
            let inner = self.inner.read().expect("nobody panics while holding it");
            (inner.origin.clone(), inner.leader, inner.links.clone())
        };
        let Some(origin) = origin else { return Ok(None) };
        let mut version_vector: BTreeMap<String, StreamHeads> = BTreeMap::new();
        let mut logs = BTreeMap::new();
        for (log, state) in self.store.logs().await?.into_iter().filter(|(_, state)| state.head.seq > 0) {
            logs.insert(log.to_string(), LogStatus { stored: state.head.seq, applied: state.applied });
            let heads = version_vector.entry(log.origin.to_string()).or_default();
            match log.stream {
                shared::fact::FactStream::Control => heads.control = state.head.seq,
                shared::fact::FactStream::Config => heads.config = state.head.seq,
                shared::fact::FactStream::Ledger => heads.ledger = state.head.seq,
            }
        }
        let peers = self.peers(&origin, &links).await?;
        let digest = self.digest().await?;
        Ok(Some(Status {
            region: self.region.clone(),
            leader,
            version_vector,
            digest,
            peers,
            logs,
            outbox: self.store.backlog().await?,
            quarantine: self.store.quarantine_counts().await?.into_iter().collect(),
            lease_epoch: self.store.lease_epoch().await?,
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

    async fn peers(&self, origin: &Origin, links: &BTreeMap<RegionName, Link>) -> Result<Vec<PeerStatus>, StoreError> {
        let mut lags = self.store.lag(origin).await?;
        for region in links.keys().chain(self.configured.iter()) {
            lags.entry(region.clone()).or_default();
        }
        lags.remove(&self.region);
        let mut lacks: BTreeMap<RegionName, BTreeMap<String, u64>> = BTreeMap::new();
        let mut sums: BTreeMap<(RegionName, RegionName, &str), u64> = BTreeMap::new();
        for (peer, log, entries) in self.store.log_lags().await? {
            *sums.entry((peer.clone(), log.origin.region.clone(), log.stream.as_str())).or_default() += entries;
            if entries > 0 {
                lacks.entry(peer).or_default().insert(log.to_string(), entries);
            }
        }
        for ((peer, origin, stream), entries) in sums {
            metrics::gauge!(
                "global_sync_peer_log_lag_entries",
                "peer" => peer.to_string(), "origin" => origin.to_string(), "stream" => stream
            )
            .set(entries as f64);
        }
        let peers = lags.into_iter().map(|(region, lag)| {
            let link = links.get(&region);
            PeerStatus {
                connected: link.is_some(),
                rtt_ms: link.map(|link| (link.rtt().as_secs_f64() * 1e6).round() / 1e3),
                lag_entries: lag.entries,
                lag_ms: lag.ms,
                lacks: lacks.remove(&region).unwrap_or_default(),
                region,
            }
        });
        Ok(peers.collect())
    }

    /// Puts lag and quarantine into metrics.
    pub(crate) async fn measure(&self) -> Result<(), StoreError> {
        let (origin, links) = {
            let inner = self.inner.read().expect("nobody panics while holding it");
            (inner.origin.clone(), inner.links.clone())
        };
        let Some(origin) = origin else { return Ok(()) };
        for peer in self.peers(&origin, &links).await? {
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
        for (state, count) in self.store.quarantine_counts().await? {
            metrics::gauge!("global_sync_quarantined", "state" => state).set(count as f64);
        }
        Ok(())
    }
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
    let started = board.inner.read().expect("nobody panics while holding it").origin.is_some();
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
