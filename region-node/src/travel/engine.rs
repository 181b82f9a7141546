//! A routing engine elsewhere, asked over HTTP as OSRM or as Valhalla is: one table of all drivers to one pick-up in one call.
//! It may be slow or gone at any time; whoever asks has another answer ready.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use shared::geo::Point;
use tokio::time::Instant;
use url::Url;

/// A place farther than this from every street the engine knows is not on its map.
const REACH_M: f64 = 500.0;

/// How an engine is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineApi {
    /// `GET /table/v1/driving/…`.
    Osrm,
    /// `POST /sources_to_targets`.
    Valhalla,
}

/// A way to the engine.
pub(super) struct Engine {
    http: reqwest::Client,
    url: Url,
    api: EngineApi,
    timeout: Duration,
    pause: Duration,
    /// Until when it is left alone, having failed.
    paused_until: Mutex<Option<Instant>>,
}

/// What OSRM answers.
#[derive(Deserialize)]
struct Table {
    code: String,
    /// By origin, then by destination; null where there is no way.
    #[serde(default)]
    durations: Vec<Vec<Option<f64>>>,
}

/// What Valhalla answers.
#[derive(Deserialize)]
struct Matrix {
    /// By origin, then by destination.
    sources_to_targets: Vec<Vec<Way>>,
    /// The places on streets that were taken for those asked about, however far away.
    sources: Vec<OnStreet>,
    targets: Vec<OnStreet>,
}

#[derive(Deserialize)]
struct Way {
    /// Seconds; null where there is no way.
    time: Option<f64>,
}

#[derive(Deserialize)]
struct OnStreet {
    lat: f64,
    lon: f64,
}

impl OnStreet {
    fn is_near(&self, asked: Point) -> bool {
        asked.distance_m(Point::new(self.lat, self.lon)) <= REACH_M
    }
}

#[derive(Debug, thiserror::Error)]
enum EngineError {
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("the engine answered {0}")]
    Refused(String),
    #[error("the engine's table has another shape than was asked for")]
    Shape,
}

impl Engine {
    pub(super) fn new(http: reqwest::Client, url: Url, api: EngineApi, timeout: Duration, pause: Duration) -> Self {
        Self { http, url, api, timeout, pause, paused_until: Mutex::default() }
    }

    /// Seconds from each of `from` to `to`, none where there is no way; nothing at all if the engine does not serve.
    pub(super) async fn ask(&self, from: &[Point], to: Point) -> Option<Vec<Option<u32>>> {
        if self.is_paused() {
            return None;
        }
        let asked = match self.api {
            EngineApi::Osrm => self.table(from, to).await,
            EngineApi::Valhalla => self.matrix(from, to).await,
        };
        match asked {
            // A cast from a float saturates; no duration is negative.
            Ok(durations) => Some(durations.into_iter().map(|way| way.map(|seconds| seconds.round() as u32)).collect()),
            Err(error) => {
                tracing::warn!(%error, "the routing engine does not serve and is left alone for a while");
                *self.lock() = Some(Instant::now() + self.pause);
                None
            }
        }
    }

    async fn table(&self, from: &[Point], to: Point) -> Result<Vec<Option<f64>>, EngineError> {
        let places: Vec<_> =
            from.iter().chain([&to]).map(|place| format!("{:.6},{:.6}", place.lng, place.lat)).collect();
        let sources: Vec<_> = (0..from.len()).map(|index| index.to_string()).collect();
        let mut url = self.at(&format!("table/v1/driving/{}", places.join(";")));
        url.set_query(Some(&format!("sources={}&destinations={}&annotations=duration", sources.join(";"), from.len())));
        let answer = self.http.get(url).timeout(self.timeout).send().await?.error_for_status()?;
        let table: Table = answer.json().await?;
        if table.code != "Ok" {
            return Err(EngineError::Refused(table.code));
        }
        if table.durations.len() != from.len() || table.durations.iter().any(|row| row.len() != 1) {
            return Err(EngineError::Shape);
        }
        Ok(table.durations.into_iter().map(|row| row[0]).collect())
    }

    async fn matrix(&self, from: &[Point], to: Point) -> Result<Vec<Option<f64>>, EngineError> {
        let place = |place: &Point| json!({"lat": place.lat, "lon": place.lng});
        let sources: Vec<_> = from.iter().map(place).collect();
        let question = json!({"sources": sources, "targets": [place(&to)], "costing": "auto"});
        let call = self.http.post(self.at("sources_to_targets")).json(&question).timeout(self.timeout);
        let answer: Matrix = call.send().await?.error_for_status()?.json().await?;
        let Matrix { sources_to_targets, sources, targets } = answer;
        let [target] = &targets[..] else { return Err(EngineError::Shape) };
        let is_whole = sources_to_targets.len() == from.len() && sources.len() == from.len();
        if !is_whole || sources_to_targets.iter().any(|row| row.len() != 1) {
            return Err(EngineError::Shape);
        }
        let is_there = target.is_near(to);
        let way = |((row, source), from): ((&Vec<Way>, &OnStreet), &Point)| {
            row[0].time.filter(|_| is_there && source.is_near(*from))
        };
        Ok(sources_to_targets.iter().zip(&sources).zip(from).map(way).collect())
    }

    /// An address of the engine.
    fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        let path = format!("{}/{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    fn is_paused(&self) -> bool {
        self.lock().is_some_and(|until| Instant::now() < until)
    }

    /// A moment stays whole whatever happened to the thread that held it.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
