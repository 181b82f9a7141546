//! How long the way to a pick-up takes, and how far and how long the way of a ride is.
//!
//! The port is [`TravelTimes`] for dispatch, and [`TenantTravel::way`] for quotes. [`profile`] answers anywhere and at once: the great circle, at speeds learned from the
//! tenant's driven trips ([`learn`]) or, before there are any, at those of cities in general. Where the region has a graph
//! of its streets, [`roads`] measures ways on it and the same speeds apply. Where a routing engine is configured, [`engine`]
//! asks it. Each answers for the ways the next better one does not know, and whenever that one is late or down. A price thus
//! follows the same roads as the driver on his way to the rider.

mod config;
mod engine;
mod learn;
mod profile;
mod roads;
mod store;

use std::sync::Arc;

use dashmap::DashMap;
use shared::{geo::Point, ids::TenantId};
use time::OffsetDateTime;
use url::Url;

pub use config::TravelConfig;
use engine::Engine;
pub use engine::EngineApi;
use profile::Measure;
pub use profile::{DrivenTrip, SpeedProfile};
pub use roads::{RoadGraph, RoadGraphError, RoadTables};

use crate::app::App;

/// Estimates travel times.
pub trait TravelTimes: Send + Sync {
    /// Seconds from each of `from` to `to`, setting out at `at`.
    fn to_pickup(&self, from: &[Point], to: Point, at: OffsetDateTime) -> impl Future<Output = Vec<u32>> + Send;
}

/// The way of a ride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// By road, metres.
    pub distance_m: i64,
    /// Seconds, stops on the way not counted.
    pub duration_s: i64,
}

/// What a node knows of travel times; cheap to clone.
#[derive(Clone)]
pub struct Travel {
    learned: Arc<DashMap<TenantId, Arc<Speeds>>>,
    roads: Option<Arc<RoadGraph>>,
    engine: Option<Engines>,
}

/// The engine as it is asked for pick-ups and for rides. Each is left alone for itself when it fails: riders choose where their
/// rides end, and one whose way takes long to find holds up no dispatch.
#[derive(Clone)]
struct Engines {
    to_pickups: Arc<Engine>,
    of_rides: Arc<Engine>,
}

/// What was learned of one tenant's city.
struct Speeds {
    as_the_crow_flies: SpeedProfile,
    on_roads: SpeedProfile,
}

impl Default for Speeds {
    fn default() -> Self {
        Self {
            as_the_crow_flies: SpeedProfile::unlearned(Measure::Crow),
            on_roads: SpeedProfile::unlearned(Measure::EmptyRoads),
        }
    }
}

impl Travel {
    /// Has learned nothing yet. Fails if the configured road graph cannot be read.
    pub fn new(config: &TravelConfig, http: reqwest::Client) -> Result<Self, RoadGraphError> {
        let engine = |url: &Url| {
            let (http, url) = (http.clone(), url.clone());
            Arc::new(Engine::new(http, url, config.engine_api, config.engine_timeout, config.engine_pause))
        };
        Ok(Self {
            learned: Arc::default(),
            roads: config.road_graph.as_deref().map(RoadGraph::load).transpose()?.map(Arc::new),
            engine: config.engine_url.as_ref().map(|url| Engines { to_pickups: engine(url), of_rides: engine(url) }),
        })
    }

    /// The travel times of one tenant.
    pub fn of(&self, tenant: &TenantId) -> TenantTravel {
        let speeds = self.learned.get(tenant).map(|speeds| speeds.clone()).unwrap_or_default();
        TenantTravel { speeds, roads: self.roads.clone(), engine: self.engine.clone() }
    }

    /// Learns a tenant's speeds from its driven trips, as far as there are enough; computes for a while.
    fn learn(&self, tenant: TenantId, trips: &[DrivenTrip]) {
        let mut speeds = Speeds::default();
        if let Some(profile) = SpeedProfile::fit(trips) {
            speeds.as_the_crow_flies = profile;
        }
        if let Some(roads) = &self.roads {
            let by_road = |trip: &DrivenTrip| Some((*trip, roads.seconds(&[trip.from], trip.to)[0]?));
            let measured: Vec<_> = trips.iter().filter_map(by_road).collect();
            if let Some(profile) = SpeedProfile::fit_to(Measure::EmptyRoads, &measured) {
                speeds.on_roads = profile;
            }
        }
        self.learned.insert(tenant, Arc::new(speeds));
    }
}

/// Travel times of one tenant, as known at one moment.
#[derive(Clone)]
pub struct TenantTravel {
    speeds: Arc<Speeds>,
    roads: Option<Arc<RoadGraph>>,
    engine: Option<Engines>,
}

impl TravelTimes for TenantTravel {
    async fn to_pickup(&self, from: &[Point], to: Point, at: OffsetDateTime) -> Vec<u32> {
        let by_engine = match &self.engine {
            Some(engine) if !from.is_empty() => engine.to_pickups.ask(from, to).await,
            Some(_) | None => None,
        };
        match by_engine {
            Some(by_engine) => {
                let unknown = by_engine.iter().any(Option::is_none);
                let guesses = if unknown { self.guess(from, to, at) } else { vec![0; from.len()] };
                by_engine.into_iter().zip(guesses).map(|(eta_s, guess)| eta_s.unwrap_or(guess)).collect()
            }
            None => self.guess(from, to, at),
        }
    }
}

impl TenantTravel {
    /// The way of a ride that sets out at `at`, both measures from whoever knows it best.
    pub async fn way(&self, from: Point, to: Point, at: OffsetDateTime) -> Way {
        let by_engine = match &self.engine {
            Some(engine) => engine.of_rides.way(from, to).await,
            None => None,
        };
        by_engine.unwrap_or_else(|| self.guess_way(from, to, at))
    }

    fn guess_way(&self, from: Point, to: Point, at: OffsetDateTime) -> Way {
        let by_road = self.roads.as_ref().and_then(|roads| roads.way(from, to));
        let (distance_m, duration_s) = match by_road {
            Some(way) => (way.metres, self.speeds.on_roads.eta_of_s(way.seconds, from, to, at)),
            None => (profile::guessed_m(from, to), self.speeds.as_the_crow_flies.eta_s(from, to, at)),
        };
        Way { distance_m: distance_m.round() as i64, duration_s: duration_s.into() }
    }

    /// By road where there is a graph and both ends are on it, else as the crow flies.
    fn guess(&self, from: &[Point], to: Point, at: OffsetDateTime) -> Vec<u32> {
        let by_road = match &self.roads {
            Some(roads) => roads.seconds(from, to),
            None => vec![None; from.len()],
        };
        let eta_s = |(from, by_road): (&Point, Option<f64>)| match by_road {
            Some(way_s) => self.speeds.on_roads.eta_of_s(way_s, *from, to, at),
            None => self.speeds.as_the_crow_flies.eta_s(*from, to, at),
        };
        from.iter().zip(by_road).map(eta_s).collect()
    }
}

impl TravelTimes for SpeedProfile {
    async fn to_pickup(&self, from: &[Point], to: Point, at: OffsetDateTime) -> Vec<u32> {
        from.iter().map(|from| self.eta_s(*from, to, at)).collect()
    }
}

/// Learns until the node stops.
pub fn start(app: &App) {
    app.spawn(learn::keep_learning(app.clone()));
}

#[cfg(test)]
mod tests;
