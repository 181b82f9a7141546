//! How long the way to a pick-up takes.
//!
//! The port is [`TravelTimes`]. [`profile`] answers anywhere and at once: the great circle, at speeds learned from the
//! tenant's driven trips ([`learn`]) or, before there are any, at those of cities in general. Where a routing engine is
//! configured, [`engine`] asks it, and the profile answers for each way it does not know and whenever it is late or down.

mod config;
mod engine;
mod learn;
mod profile;
mod store;

use std::sync::Arc;

use dashmap::DashMap;
use shared::{geo::Point, ids::TenantId};
use time::OffsetDateTime;

pub use config::TravelConfig;
use engine::Engine;
pub use profile::{DrivenTrip, SpeedProfile};

use crate::app::App;

/// Estimates travel times.
pub trait TravelTimes: Send + Sync {
    /// Seconds from each of `from` to `to`, setting out at `at`.
    fn to_pickup(&self, from: &[Point], to: Point, at: OffsetDateTime) -> impl Future<Output = Vec<u32>> + Send;
}

/// What a node knows of travel times; cheap to clone.
#[derive(Clone)]
pub struct Travel {
    profiles: Arc<DashMap<TenantId, Arc<SpeedProfile>>>,
    engine: Option<Arc<Engine>>,
}

impl Travel {
    /// Has learned nothing yet.
    pub fn new(config: &TravelConfig, http: reqwest::Client) -> Self {
        let engine = config.engine_url.clone();
        Self {
            profiles: Arc::default(),
            engine: engine.map(|url| Arc::new(Engine::new(http, url, config.engine_timeout, config.engine_pause))),
        }
    }

    /// The travel times of one tenant.
    pub fn of(&self, tenant: &TenantId) -> TenantTravel {
        let profile = self.profiles.get(tenant).map(|profile| profile.clone()).unwrap_or_default();
        TenantTravel { profile, engine: self.engine.clone() }
    }

    fn learned(&self, tenant: TenantId, profile: SpeedProfile) {
        self.profiles.insert(tenant, Arc::new(profile));
    }
}

/// Travel times of one tenant, as known at one moment.
#[derive(Clone)]
pub struct TenantTravel {
    profile: Arc<SpeedProfile>,
    engine: Option<Arc<Engine>>,
}

impl TravelTimes for TenantTravel {
    async fn to_pickup(&self, from: &[Point], to: Point, at: OffsetDateTime) -> Vec<u32> {
        let guess = |from: &Point| self.profile.eta_s(*from, to, at);
        let by_road = match &self.engine {
            Some(engine) if !from.is_empty() => engine.ask(from, to).await,
            Some(_) | None => None,
        };
        match by_road {
            Some(by_road) => {
                by_road.into_iter().zip(from).map(|(eta_s, from)| eta_s.unwrap_or_else(|| guess(from))).collect()
            }
            None => from.iter().map(guess).collect(),
        }
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
