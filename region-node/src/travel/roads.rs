//! Travel times by road, in this process: the streets of a city as a graph, searched by contraction hierarchies (Geisberger
//! et al., 2008), some tens of microseconds a way. The graph knows empty roads; [`super::SpeedProfile`] learns from driven
//! trips how much longer they take.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use fast_paths::{FastGraph, InputGraph, PathCalculator, ShortestPath};
use rstar::{RTree, primitives::GeomWithData};
use serde::Deserialize;
use shared::geo::Point;

/// A place farther than this from every crossing is not on the map.
const REACH_M: f64 = 500.0;
/// How fast a car gets from a place to the first crossing, metres a second.
const OFF_ROAD_MPS: f64 = 4.0;
/// Metres of a degree of latitude.
const DEGREE_M: f64 = 111_195.0;

/// The streets of a city, ready to be searched.
pub struct RoadGraph {
    crossings: RTree<GeomWithData<[f64; 2], usize>>,
    ways: FastGraph,
    /// By number.
    places: Vec<Point>,
    /// Metres of a degree of longitude in the middle of the map.
    lng_m: f64,
    /// Each is as large as the graph, so they are lent out and kept.
    calculators: Mutex<Vec<PathCalculator>>,
}

/// Why a graph cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RoadGraphError {
    /// A file is missing or unreadable.
    #[error("{path} cannot be read: {error}", path = .0.display(), error = .1)]
    File(PathBuf, std::io::Error),
    /// A file is no such table.
    #[error("{0}: {1}")]
    Table(&'static str, csv::Error),
    /// A crossing is not on the globe.
    #[error("crossing {0} is not on the globe")]
    Crossing(usize),
    /// A street leads from or to nowhere, or takes no time.
    #[error("street {0} must lead from one crossing to another in more than no time")]
    Street(usize),
    /// There is nothing on the map.
    #[error("the graph has no streets that lead somewhere and back")]
    Empty,
}

/// A way by road.
pub(super) struct RoadWay {
    pub(super) seconds: f64,
    pub(super) metres: f64,
}

#[derive(Deserialize)]
struct Street {
    from: usize,
    to: usize,
    travel_time_s: f64,
}

/// What a graph is made of, as CSV with a header row.
pub struct RoadTables<R> {
    /// `lat,lng` of each crossing, numbered from zero in this order.
    pub nodes: R,
    /// `from,to,travel_time_s` of each street; one-way, seconds on the empty road.
    pub edges: R,
}

impl RoadGraph {
    /// Reads `road_nodes.csv` and `road_edges.csv` of a folder and prepares the graph; takes a moment for each ten thousand
    /// crossings.
    pub fn load(folder: &Path) -> Result<Self, RoadGraphError> {
        let open = |name: &str| {
            let path = folder.join(name);
            File::open(&path).map_err(|error| RoadGraphError::File(path, error))
        };
        Self::read(RoadTables { nodes: open("road_nodes.csv")?, edges: open("road_edges.csv")? })
    }

    /// The same from tables already open.
    pub fn read<R: Read>(tables: RoadTables<R>) -> Result<Self, RoadGraphError> {
        let places: Vec<Point> =
            rows(tables.nodes).collect::<Result<_, _>>().map_err(|error| RoadGraphError::Table("nodes", error))?;
        if let Some(wrong) = places.iter().position(|place| !place.is_valid()) {
            return Err(RoadGraphError::Crossing(wrong));
        }
        let mut streets = InputGraph::new();
        let (mut is_left, mut is_reached) = (vec![false; places.len()], vec![false; places.len()]);
        for (index, street) in rows::<_, Street>(tables.edges).enumerate() {
            let Street { from, to, travel_time_s } = street.map_err(|error| RoadGraphError::Table("edges", error))?;
            let is_street = from < places.len() && to < places.len() && from != to;
            // Not a day's drive between two crossings, so it fits.
            if !is_street || !(0.001..86_400.0).contains(&travel_time_s) {
                return Err(RoadGraphError::Street(index));
            }
            streets.add_edge(from, to, (travel_time_s * 1_000.0).round() as usize);
            (is_left[from], is_reached[to]) = (true, true);
        }
        // A car that could not get away again would not be there.
        let usable: Vec<usize> = (0..places.len()).filter(|number| is_left[*number] && is_reached[*number]).collect();
        if usable.is_empty() {
            return Err(RoadGraphError::Empty);
        }
        streets.freeze();
        let (south, north) =
            places.iter().fold((f64::MAX, f64::MIN), |(low, high), place| (low.min(place.lat), high.max(place.lat)));
        let lng_m = DEGREE_M * ((south + north) / 2.0).to_radians().cos();
        let crossing = |number: usize| GeomWithData::new(plane(places[number], lng_m), number);
        Ok(Self {
            crossings: RTree::bulk_load(usable.into_iter().map(crossing).collect()),
            ways: fast_paths::prepare(&streets),
            places,
            lng_m,
            calculators: Mutex::default(),
        })
    }

    /// Seconds from each of `from` to `to` on empty roads; none where an end is not on the map or no street leads there.
    pub fn seconds(&self, from: &[Point], to: Point) -> Vec<Option<f64>> {
        let Some((last, last_m)) = self.nearest(to) else { return vec![None; from.len()] };
        self.calculate(|calculator| {
            let mut seconds_from = |from: &Point| {
                let (first, first_m) = self.nearest(*from)?;
                let way = calculator.calc_path(&self.ways, first, last)?;
                Some(empty_roads_s(&way, first_m + last_m))
            };
            from.iter().map(&mut seconds_from).collect()
        })
    }

    /// How long the quickest way is, metres from crossing to crossing; none as for [`RoadGraph::seconds`].
    pub fn metres(&self, from: Point, to: Point) -> Option<f64> {
        Some(self.way(from, to)?.metres)
    }

    /// The quickest way on empty roads; none as for [`RoadGraph::seconds`].
    pub(super) fn way(&self, from: Point, to: Point) -> Option<RoadWay> {
        let ((first, first_m), (last, last_m)) = (self.nearest(from)?, self.nearest(to)?);
        let way = self.calculate(|calculator| calculator.calc_path(&self.ways, first, last))?;
        let leg_m = |ends: &[usize]| self.places[ends[0]].distance_m(self.places[ends[1]]);
        Some(RoadWay {
            seconds: empty_roads_s(&way, first_m + last_m),
            metres: first_m + way.get_nodes().windows(2).map(leg_m).sum::<f64>() + last_m,
        })
    }

    fn calculate<T>(&self, with: impl FnOnce(&mut PathCalculator) -> T) -> T {
        let lent = self.lock().pop();
        let mut calculator = lent.unwrap_or_else(|| fast_paths::create_calculator(&self.ways));
        let calculated = with(&mut calculator);
        self.lock().push(calculator);
        calculated
    }

    /// The crossing nearest to a place on the map, and how far away it is.
    fn nearest(&self, place: Point) -> Option<(usize, f64)> {
        let (nearest, squared_m) =
            self.crossings.nearest_neighbor_iter_with_distance_2(&plane(place, self.lng_m)).next()?;
        let away_m = squared_m.sqrt();
        (away_m <= REACH_M).then_some((nearest.data, away_m))
    }

    /// A list of calculators stays whole whatever happened to the thread that held it.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PathCalculator>> {
        self.calculators.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a way takes with so many metres off the road at its ends.
fn empty_roads_s(way: &ShortestPath, off_road_m: f64) -> f64 {
    way.get_weight() as f64 / 1_000.0 + off_road_m / OFF_ROAD_MPS
}

fn rows<R: Read, T: serde::de::DeserializeOwned>(table: R) -> impl Iterator<Item = Result<T, csv::Error>> {
    csv::Reader::from_reader(table).into_deserialize()
}

/// Metres north and east on a plane: a city is small enough.
fn plane(place: Point, lng_m: f64) -> [f64; 2] {
    [place.lat * DEGREE_M, place.lng * lng_m]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Manhattan's drive graph.
    pub(in crate::travel) fn manhattan() -> RoadGraph {
        RoadGraph::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/new-york")).unwrap()
    }

    fn graph(nodes: &str, edges: &str) -> Result<RoadGraph, RoadGraphError> {
        let (nodes, edges) = (format!("lat,lng\n{nodes}"), format!("from,to,travel_time_s\n{edges}"));
        RoadGraph::read(RoadTables { nodes: nodes.as_bytes(), edges: edges.as_bytes() })
    }

    const SQUARE: &str = "40.700,-74.000\n40.700,-73.990\n40.710,-74.000\n40.710,-73.990\n";

    #[test]
    fn the_quickest_way_counts_and_one_way_streets_are_kept() {
        let graph = graph(SQUARE, "0,1,60\n1,3,60.5\n0,2,300\n2,0,300\n2,3,300\n3,2,300\n").unwrap();
        let (corner, goal) = (Point::new(40.700, -74.000), Point::new(40.710, -73.990));
        assert_eq!(graph.seconds(&[corner, goal], goal), [Some(120.5), Some(0.0)]);
        assert_eq!(graph.seconds(&[goal], corner), [Some(600.0)]);
        // Round the corner.
        let quickest_m = graph.metres(corner, goal).unwrap();
        assert!((quickest_m - 843.0 - 1_112.0).abs() < 5.0, "{quickest_m}");
    }

    #[test]
    fn what_is_not_on_the_map_or_not_to_be_reached_has_no_time() {
        let graph = graph(SQUARE, "0,1,60\n1,0,60\n2,3,60\n3,2,60\n").unwrap();
        let [here, there, elsewhere] =
            [(40.700, -74.000), (40.710, -74.000), (41.0, -74.0)].map(|(a, b)| Point::new(a, b));
        assert_eq!(graph.seconds(&[there, elsewhere], here), [None, None]);
        assert_eq!(graph.seconds(&[here], elsewhere), [None]);
    }

    #[test]
    fn the_way_to_the_first_crossing_takes_its_time() {
        let graph = graph(SQUARE, "0,1,60\n1,0,60\n").unwrap();
        let off_m = 200.0;
        let from = Point::new(40.700 - off_m / DEGREE_M, -74.000);
        let seconds = graph.seconds(&[from], Point::new(40.700, -73.990))[0].unwrap();
        assert!((seconds - 60.0 - off_m / OFF_ROAD_MPS).abs() < 0.1, "{seconds}");
    }

    #[test]
    fn a_broken_graph_is_refused_by_what_is_wrong_with_it() {
        let refused = |nodes, edges| graph(nodes, edges).err().unwrap().to_string();
        assert_eq!(
            refused(SQUARE, "0,1,60\n1,4,60\n"),
            "street 1 must lead from one crossing to another in more than no time"
        );
        assert_eq!(refused(SQUARE, "0,1,0\n"), "street 0 must lead from one crossing to another in more than no time");
        assert_eq!(refused("91,0\n0,0\n", "0,1,60\n"), "crossing 0 is not on the globe");
        assert_eq!(refused(SQUARE, ""), "the graph has no streets that lead somewhere and back");
        assert!(refused(SQUARE, "0,1\n").starts_with("edges: "));
        let missing = RoadGraph::load(Path::new("/nowhere")).err().unwrap().to_string();
        assert!(missing.starts_with("/nowhere/road_nodes.csv cannot be read: "), "{missing}");
    }

    #[test]
    fn ways_through_manhattan_are_plausible() {
        let (times_square, wall_street) = (Point::new(40.758, -73.9855), Point::new(40.7066, -74.0090));
        let seconds = manhattan().seconds(&[times_square], wall_street)[0].unwrap();
        assert!((400.0..1_200.0).contains(&seconds), "{seconds}");
        let metres = manhattan().metres(times_square, wall_street).unwrap();
        assert!((6_000.0..11_000.0).contains(&metres), "{metres}");
    }
}
