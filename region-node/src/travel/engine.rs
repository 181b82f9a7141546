//! A routing engine elsewhere, asked over HTTP as OSRM or as Valhalla is: one table of all drivers to one pick-up in one call,
//! or of the one way of a ride. It may be slow or gone at any time; whoever asks has another answer ready.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{RequestBuilder, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use shared::geo::Point;
use tokio::time::Instant;
use url::Url;

use super::Way;

/// A place farther than this from every street the engine knows is not on its map.
const REACH_M: f64 = 500.0;

/// What Valhalla calls it when there is no way to speak of: too far, not connected, off the map, none found.
const VALHALLA_NO_WAY: [u64; 4] = [154, 170, 171, 442];
/// And OSRM.
const OSRM_NO_WAY: [&str; 3] = ["NoTable", "NoSegment", "NoRoute"];

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
    /// Seconds by origin, then by destination; null where there is no way.
    #[serde(default)]
    durations: Vec<Vec<Option<f64>>>,
    /// Metres, where they were asked for.
    #[serde(default)]
    distances: Vec<Vec<Option<f64>>>,
    /// The places on streets that were taken for those asked about, however far away.
    #[serde(default)]
    sources: Vec<Waypoint>,
    #[serde(default)]
    destinations: Vec<Waypoint>,
}

#[derive(Deserialize)]
struct Waypoint {
    /// Longitude and latitude.
    location: (f64, f64),
}

impl Waypoint {
    fn point(&self) -> Point {
        Point::new(self.location.1, self.location.0)
    }
}

/// What Valhalla answers.
#[derive(Deserialize)]
struct Matrix {
    /// By origin, then by destination.
    sources_to_targets: Vec<Vec<MatrixWay>>,
    /// The places on streets that were taken for those asked about, however far away.
    sources: Vec<OnStreet>,
    targets: Vec<OnStreet>,
}

#[derive(Deserialize)]
struct MatrixWay {
    /// Seconds; null where there is no way.
    time: Option<f64>,
    /// Kilometres, as asked for.
    distance: Option<f64>,
}

#[derive(Deserialize)]
struct OnStreet {
    lat: f64,
    lon: f64,
}

/// A way as an engine knows it.
struct Leg {
    duration_s: f64,
    distance_m: Option<f64>,
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
        let legs = self.legs(from, to, "duration").await?;
        // A cast from a float saturates; no duration is negative.
        Some(legs.into_iter().map(|leg| leg.map(|leg| leg.duration_s.round() as u32)).collect())
    }

    /// One way, both how far and how long; nothing if there is none or the engine does not serve.
    pub(super) async fn way(&self, from: Point, to: Point) -> Option<Way> {
        let Leg { duration_s, distance_m } = self.legs(&[from], to, "duration,distance").await?.pop()??;
        Some(Way { distance_m: distance_m?.round() as i64, duration_s: duration_s.round() as i64 })
    }

    /// The way from each of `from`; `annotations` are what OSRM is asked for, which finds distances at some cost.
    async fn legs(&self, from: &[Point], to: Point, annotations: &str) -> Option<Vec<Option<Leg>>> {
        if self.is_paused() {
            return None;
        }
        let asked = match self.api {
            EngineApi::Osrm => self.table(from, to, annotations).await,
            EngineApi::Valhalla => self.matrix(from, to).await,
        };
        match asked {
            Ok(legs) => Some(legs),
            Err(error) => {
                tracing::warn!(%error, "the routing engine does not serve and is left alone for a while");
                *self.lock() = Some(Instant::now() + self.pause);
                None
            }
        }
    }

    async fn table(&self, from: &[Point], to: Point, annotations: &str) -> Result<Vec<Option<Leg>>, EngineError> {
        let places: Vec<_> =
            from.iter().chain([&to]).map(|place| format!("{:.6},{:.6}", place.lng, place.lat)).collect();
        let sources: Vec<_> = (0..from.len()).map(|index| index.to_string()).collect();
        let mut url = self.at(&format!("table/v1/driving/{}", places.join(";")));
        let (sources, destination) = (sources.join(";"), from.len());
        url.set_query(Some(&format!("sources={sources}&destinations={destination}&annotations={annotations}")));
        let Some(table) = self.answer::<Table>(self.http.get(url)).await? else { return Ok(no_ways(from)) };
        if table.code != "Ok" {
            return Err(EngineError::Refused(table.code));
        }
        if table.durations.len() != from.len() || table.durations.iter().any(|row| row.len() != 1) {
            return Err(EngineError::Shape);
        }
        let is_near = |waypoint: Option<&Waypoint>, asked| waypoint.is_none_or(|found| is_near(found.point(), asked));
        let is_there = is_near(table.destinations.first(), to);
        let leg = |(index, from): (usize, &Point)| {
            let duration_s =
                table.durations[index][0].filter(|_| is_there && is_near(table.sources.get(index), *from))?;
            let distance_m = table.distances.get(index).and_then(|row| *row.first()?);
            Some(Leg { duration_s, distance_m })
        };
        Ok(from.iter().enumerate().map(leg).collect())
    }

    async fn matrix(&self, from: &[Point], to: Point) -> Result<Vec<Option<Leg>>, EngineError> {
        let place = |place: &Point| json!({"lat": place.lat, "lon": place.lng});
        let sources: Vec<_> = from.iter().map(place).collect();
        let question = json!({"sources": sources, "targets": [place(&to)], "costing": "auto", "units": "kilometers"});
        let call = self.http.post(self.at("sources_to_targets")).json(&question);
        let Some(matrix) = self.answer(call).await? else { return Ok(no_ways(from)) };
        let Matrix { sources_to_targets, sources, targets } = matrix;
        let [target] = &targets[..] else { return Err(EngineError::Shape) };
        let is_whole = sources_to_targets.len() == from.len() && sources.len() == from.len();
        if !is_whole || sources_to_targets.iter().any(|row| row.len() != 1) {
            return Err(EngineError::Shape);
        }
        let is_near = |found: &OnStreet, asked| is_near(Point::new(found.lat, found.lon), asked);
        let is_there = is_near(target, to);
        let leg = |((row, source), from): ((&Vec<MatrixWay>, &OnStreet), &Point)| {
            let duration_s = row[0].time.filter(|_| is_there && is_near(source, *from))?;
            Some(Leg { duration_s, distance_m: row[0].distance.map(|kilometres| kilometres * 1_000.0) })
        };
        Ok(sources_to_targets.iter().zip(&sources).zip(from).map(leg).collect())
    }

    /// What the engine answers; none where it says that there is no such way, which whoever asks may well have chosen: it serves.
    async fn answer<T: DeserializeOwned>(&self, call: RequestBuilder) -> Result<Option<T>, EngineError> {
        let answer = call.timeout(self.timeout).send().await?;
        if answer.status() != StatusCode::BAD_REQUEST {
            return Ok(Some(answer.error_for_status()?.json().await?));
        }
        let refusal: Value = answer.json().await?;
        let is_no_way = match self.api {
            EngineApi::Osrm => refusal["code"].as_str().is_some_and(|code| OSRM_NO_WAY.contains(&code)),
            EngineApi::Valhalla => refusal["error_code"].as_u64().is_some_and(|code| VALHALLA_NO_WAY.contains(&code)),
        };
        if is_no_way { Ok(None) } else { Err(EngineError::Refused(refusal.to_string())) }
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

fn is_near(found: Point, asked: Point) -> bool {
    asked.distance_m(found) <= REACH_M
}

fn no_ways(from: &[Point]) -> Vec<Option<Leg>> {
    from.iter().map(|_| None).collect()
}
