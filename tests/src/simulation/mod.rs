//! A city in simulated time: real demand, real streets, and the dispatcher's own core.
//!
//! Nothing waits and nothing is asked over a network: an evening takes seconds. [`world`] moves from event to event, [`people`]
//! is what chance makes of riders and drivers, [`outcome`] counts, and [`report`] compares policies on the same people. The
//! platform's part is `region_node::dispatch::plan` on a live table of its own, the very code that serves riders; whatever
//! else a region does (offers in a database, sockets, nodes that die) is not part of this and is shown by whole-system tests.

pub mod outcome;
mod people;
pub mod report;
mod world;

use region_node::travel::{RoadGraph, RoadTables};
use shared::{
    geo::Point,
    tenant_config::{DispatchMode, DispatchPolicy},
};

pub use outcome::Outcome;

use crate::cities::{City, PlannedRide};

/// Through a city's traffic a way takes this many times as long as on its empty streets.
const TRAFFIC: f64 = 1.5;

/// One evening with one policy.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub policy: DispatchPolicy,
    pub drivers: usize,
    pub seed: u64,
    /// The stretch that counts, seconds after the data begins; simulated is as long after it as it takes to drive everybody.
    pub from_s: f64,
    pub to_s: f64,
    /// Simulated before it, so that the fleet is where it would be.
    pub warm_up_s: f64,
}

impl Scenario {
    /// New York on 2014-12-21 from 21:00 to 22:00, when demand rises to five times that of the hour before.
    pub fn new_york_evening(mode: DispatchMode, drivers: usize, seed: u64) -> Self {
        let policy = DispatchPolicy { mode, ..DispatchPolicy::default() };
        Self { policy, drivers, seed, from_s: 3.0 * 3_600.0, to_s: 4.0 * 3_600.0, warm_up_s: 1_800.0 }
    }
}

/// Where it happens.
pub struct Town {
    rides: Vec<PlannedRide>,
    roads: RoadGraph,
}

impl Town {
    /// Manhattan, its streets and the rides people wanted.
    pub fn manhattan() -> anyhow::Result<Self> {
        let city = City::of_tenant("manhattan-cabs").expect("the demo has this tenant");
        let roads = RoadGraph::read(RoadTables {
            nodes: include_bytes!("../../data/new-york/road_nodes.csv").as_slice(),
            edges: include_bytes!("../../data/new-york/road_edges.csv").as_slice(),
        })?;
        Ok(Self { rides: city.planned().to_vec(), roads })
    }

    /// Seconds through traffic from each of `from` to `to`; what is not on the map is driven to in a straight line.
    fn seconds(&self, from: &[Point], to: Point) -> Vec<f64> {
        const OFF_MAP_MPS: f64 = 5.0;
        let by_road = self.roads.seconds(from, to).into_iter().zip(from);
        by_road.map(|(way_s, from)| way_s.map_or(from.distance_m(to) / OFF_MAP_MPS, |way_s| way_s * TRAFFIC)).collect()
    }

    /// Metres of that way.
    fn metres(&self, from: Point, to: Point) -> f64 {
        self.roads.metres(from, to).unwrap_or_else(|| from.distance_m(to))
    }
}

/// Lets the evening happen. The same scenario has the same outcome each time.
pub async fn simulate(town: &Town, scenario: &Scenario) -> Outcome {
    world::World::new(town, scenario).run().await
}

#[cfg(test)]
mod tests;
