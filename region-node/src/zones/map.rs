//! Which zone a place is in, by the H3 cell it falls in: only in cells on an edge does anybody measure.

use std::collections::HashMap;

use h3o::{CellIndex, LatLng, Resolution};
use shared::{geo::Point, zone::Zone};

/// Cells some 400 m across: an airport is a few dozen of them, and those on its edge are few.
const RESOLUTION: Resolution = Resolution::Nine;
/// No edge of a cell is shorter, in metres: those of the cells one step larger are at least 340 (`drivers/cells.rs`), and
/// `√7` times as long.
const SHORTEST_EDGE_M: f64 = 125.0;

/// The queues of one published config, ready to be asked.
#[derive(Debug, Default)]
pub struct ZoneMap {
    queues: Vec<Zone>,
    cells: HashMap<CellIndex, Vec<(usize, Cover)>>,
}

/// How much of a cell a zone covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    Whole,
    Part,
}

impl ZoneMap {
    /// Of these zones, those with a queue.
    pub fn new(zones: &[Zone]) -> Self {
        let queues: Vec<Zone> = zones.iter().filter(|zone| zone.queue).cloned().collect();
        let mut cells: HashMap<CellIndex, Vec<(usize, Cover)>> = HashMap::new();
        for (number, zone) in queues.iter().enumerate() {
            for (cell, cover) in covered(zone) {
                cells.entry(cell).or_default().push((number, cover));
            }
        }
        Self { queues, cells }
    }

    /// Whether there are any.
    pub fn has_queues(&self) -> bool {
        !self.queues.is_empty()
    }

    /// All of them, as configured.
    pub fn queues(&self) -> impl Iterator<Item = &Zone> {
        self.queues.iter()
    }

    /// The one of this id.
    pub fn queue(&self, id: &str) -> Option<&Zone> {
        self.queues.iter().find(|zone| zone.id == id)
    }

    /// The one a place is in.
    pub fn queue_at(&self, place: Point) -> Option<&Zone> {
        let candidates = self.cells.get(&cell_of(place))?;
        let holds = |(number, cover): &(usize, Cover)| {
            let zone = &self.queues[*number];
            (*cover == Cover::Whole || zone.area.holds(place)).then_some(zone)
        };
        candidates.iter().find_map(holds)
    }
}

fn cell_of(place: Point) -> CellIndex {
    LatLng::new(place.lat, place.lng).expect("a validated place is finite").to_cell(RESOLUTION)
}

/// The cells a zone covers, whole or in part.
fn covered(zone: &Zone) -> Vec<(CellIndex, Cover)> {
    let (middle, radius_m) = zone.area.bounds();
    // As `rings_within` of the live table's cells, for these.
    let rings = ((radius_m / SHORTEST_EDGE_M + 0.5) / 1.5).ceil() as u32;
    let around: Vec<CellIndex> = cell_of(middle).grid_disk(rings);
    let cover = |cell: CellIndex| {
        let point = |at: LatLng| Point::new(at.lat(), at.lng());
        let center = point(cell.into());
        let reach_m = cell.boundary().iter().map(|corner| center.distance_m(point(*corner))).fold(0.0, f64::max);
        let depth_m = zone.area.depth_m(center);
        // A little more than the reach: edges of cells are arcs, and the depth is measured on a plane.
        match (depth_m >= reach_m * 1.05, depth_m >= -reach_m * 1.05) {
            (true, _) => Some((cell, Cover::Whole)),
            (false, true) => Some((cell, Cover::Part)),
            (false, false) => None,
        }
    };
    around.into_iter().filter_map(cover).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn zone(id: &str, area: serde_json::Value) -> Zone {
        serde_json::from_value(json!({"id": id, "area": area, "queue": true})).unwrap()
    }

    fn airport() -> Vec<Zone> {
        let circle = json!({"circle": {"center": {"lat": 40.645, "lng": -73.785}, "radius_m": 1800}});
        let corner = |lat: f64, lng: f64| json!({"lat": lat, "lng": lng});
        let corners = [
            corner(40.64, -73.79),
            corner(40.67, -73.79),
            corner(40.66, -73.77),
            corner(40.67, -73.75),
            corner(40.64, -73.75),
        ];
        vec![zone("rank", circle), zone("outer", json!({"polygon": corners}))]
    }

    proptest! {
        #[test]
        fn the_cells_say_what_measuring_says(lat in 40.6..40.7_f64, lng in -73.83..-73.72_f64) {
            let zones = airport();
            let map = ZoneMap::new(&zones);
            let place = Point::new(lat, lng);
            let measured = zones.iter().find(|zone| zone.area.holds(place));
            prop_assert_eq!(map.queue_at(place).map(|zone| &zone.id), measured.map(|zone| &zone.id));
        }
    }

    #[test]
    fn most_cells_of_a_zone_need_no_measuring() {
        let map = ZoneMap::new(&airport()[..1]);
        let whole = map.cells.values().flatten().filter(|(_, cover)| *cover == Cover::Whole).count();
        assert!(whole * 2 > map.cells.len(), "{whole} of {}", map.cells.len());
    }

    #[test]
    fn a_zone_without_a_queue_is_none() {
        let map = ZoneMap::new(&[Zone { queue: false, ..airport().remove(0) }]);
        assert!(!map.has_queues() && map.queue_at(Point::new(40.645, -73.785)).is_none());
    }
}
