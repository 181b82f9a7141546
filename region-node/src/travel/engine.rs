//! A routing engine elsewhere, asked over HTTP as OSRM is: one table of all drivers to one pick-up in one call. It may be
//! slow or gone at any time; whoever asks has another answer ready.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use shared::geo::Point;
use tokio::time::Instant;
use url::Url;

/// A way to the engine.
pub(super) struct Engine {
    http: reqwest::Client,
    url: Url,
    timeout: Duration,
    pause: Duration,
    /// Until when it is left alone, having failed.
    paused_until: Mutex<Option<Instant>>,
}

/// What the engine answers.
#[derive(Deserialize)]
struct Table {
    code: String,
    /// By origin, then by destination; null where there is no way.
    #[serde(default)]
    durations: Vec<Vec<Option<f64>>>,
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
    pub(super) fn new(http: reqwest::Client, url: Url, timeout: Duration, pause: Duration) -> Self {
        Self { http, url, timeout, pause, paused_until: Mutex::default() }
    }

    /// Seconds from each of `from` to `to`, none where there is no way; nothing at all if the engine does not serve.
    pub(super) async fn ask(&self, from: &[Point], to: Point) -> Option<Vec<Option<u32>>> {
        if self.is_paused() {
            return None;
        }
        match self.table(from, to).await {
            Ok(durations) => Some(durations),
            Err(error) => {
                tracing::warn!(%error, "the routing engine does not serve and is left alone for a while");
                *self.lock() = Some(Instant::now() + self.pause);
                None
            }
        }
    }

    async fn table(&self, from: &[Point], to: Point) -> Result<Vec<Option<u32>>, EngineError> {
        let places: Vec<_> =
            from.iter().chain([&to]).map(|place| format!("{:.6},{:.6}", place.lng, place.lat)).collect();
        let sources: Vec<_> = (0..from.len()).map(|index| index.to_string()).collect();
        let mut url = self.url.clone();
        let path = format!("{}/table/v1/driving/{}", url.path().trim_end_matches('/'), places.join(";"));
        url.set_path(&path);
        url.set_query(Some(&format!("sources={}&destinations={}&annotations=duration", sources.join(";"), from.len())));
        let answer = self.http.get(url).timeout(self.timeout).send().await?.error_for_status()?;
        let table: Table = answer.json().await?;
        if table.code != "Ok" {
            return Err(EngineError::Refused(table.code));
        }
        if table.durations.len() != from.len() || table.durations.iter().any(|row| row.len() != 1) {
            return Err(EngineError::Shape);
        }
        // A cast from a float saturates; no duration is negative.
        Ok(table.durations.into_iter().map(|row| row[0].map(|seconds| seconds.round() as u32)).collect())
    }

    fn is_paused(&self) -> bool {
        self.lock().is_some_and(|until| Instant::now() < until)
    }

    /// A moment stays whole whatever happened to the thread that held it.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
