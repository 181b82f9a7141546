//! Crossings, the streets between them, and the quickest way from here to there.

use pathfinding::directed::astar::astar;
use shared::geo::Point;

use super::Route;

/// How a car moves where no street is known: from a door to the first crossing.
const OFF_STREET_MPS: f64 = 4.0;

/// Crossings and directed streets, each with its travel time.
#[derive(Debug, Default)]
pub struct StreetGraph {
    crossings: Vec<Point>,
    /// By crossing: where one can go from it and how many milliseconds that takes.
    streets: Vec<Vec<(usize, u64)>>,
    top_speed_mps: f64,
}

impl StreetGraph {
    pub fn crossings(&self) -> &[Point] {
        &self.crossings
    }

    /// The crossing nearest to a place.
    pub fn nearest(&self, place: Point) -> Option<(usize, f64)> {
        // A few thousand multiplications once per ride: an index would cost more lines than it saves microseconds.
        let stretch = place.lat.to_radians().cos();
        let flat = |at: &Point| (at.lat - place.lat).powi(2) + ((at.lng - place.lng) * stretch).powi(2);
        let by_distance = |a: &&(usize, &Point), b: &&(usize, &Point)| flat(a.1).total_cmp(&flat(b.1));
        let (index, at) = self.crossings.iter().enumerate().min_by(|a, b| by_distance(&a, &b))?;
        Some((index, at.distance_m(place)))
    }

    /// The quickest way between two crossings; none if no street joins them.
    pub fn between(&self, from: usize, to: usize) -> Option<Route> {
        let target = *self.crossings.get(to)?;
        let at_best_ms = |at: &usize| (self.crossings[*at].distance_m(target) / self.top_speed_mps * 1000.0) as u64;
        let (path, _) = astar(&from, |at| self.streets[*at].iter().copied(), at_best_ms, |at| *at == to)?;
        let mut route = Route::standing_at(*self.crossings.get(from)?);
        for leg in path.windows(2) {
            let street = self.streets[leg[0]].iter().filter(|street| street.0 == leg[1]).map(|street| street.1).min();
            route.go_on_to(self.crossings[leg[1]], street.unwrap_or_default() as f64 / 1000.0);
        }
        Some(route)
    }

    /// Door to door, if both doors are within `reach_m` of a street and streets join them.
    pub fn route(&self, from: Point, to: Point, reach_m: f64) -> Option<Route> {
        let (first, first_m) = self.nearest(from)?;
        let (last, last_m) = self.nearest(to)?;
        if first_m > reach_m || last_m > reach_m {
            return None;
        }
        let drive = self.between(first, last)?;
        Some(Route::standing_at(from).then(drive, OFF_STREET_MPS).then(Route::standing_at(to), OFF_STREET_MPS))
    }
}

/// Collects streets, making one crossing of all points in the same small square.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: StreetGraph,
    square_deg: f64,
    squares: std::collections::HashMap<(i64, i64), usize>,
}

impl GraphBuilder {
    /// `square_m` is how near two points must be to count as one crossing.
    pub fn new(square_m: f64) -> Self {
        Self { graph: StreetGraph::default(), square_deg: square_m / 111_000.0, squares: Default::default() }
    }

    /// The crossing at a place, made if there is none yet.
    pub fn crossing(&mut self, at: Point) -> usize {
        let square = ((at.lat / self.square_deg).floor() as i64, (at.lng / self.square_deg).floor() as i64);
        *self.squares.entry(square).or_insert_with(|| {
            self.graph.crossings.push(at);
            self.graph.streets.push(Vec::new());
            self.graph.crossings.len() - 1
        })
    }

    /// A street one can drive from `from` to `to`.
    pub fn one_way(&mut self, from: usize, to: usize, seconds: f64) {
        if from == to {
            return;
        }
        let metres = self.graph.crossings[from].distance_m(self.graph.crossings[to]);
        self.graph.top_speed_mps = self.graph.top_speed_mps.max(metres / seconds);
        self.graph.streets[from].push((to, (seconds * 1000.0).ceil() as u64));
    }

    /// A street for both directions.
    pub fn two_way(&mut self, a: usize, b: usize, seconds: f64) {
        self.one_way(a, b, seconds);
        self.one_way(b, a, seconds);
    }

    /// The graph without the crossings one could not leave or not come back from.
    pub fn build(self) -> StreetGraph {
        largest_connected_part(&self.graph)
    }
}

/// Keeps the largest set of crossings that can all reach one another, so that no route fails for a dead end at the map's edge.
fn largest_connected_part(graph: &StreetGraph) -> StreetGraph {
    let all: Vec<usize> = (0..graph.crossings.len()).collect();
    let parts = pathfinding::directed::strongly_connected_components::strongly_connected_components(&all, |at| {
        graph.streets[*at].iter().map(|street| street.0).collect::<Vec<_>>()
    });
    let mut kept = parts.into_iter().max_by_key(Vec::len).unwrap_or_default();
    kept.sort_unstable();
    let number_of = |old: usize| kept.binary_search(&old).ok();
    let streets_of = |old: &usize| -> Vec<(usize, u64)> {
        graph.streets[*old].iter().filter_map(|(to, ms)| Some((number_of(*to)?, *ms))).collect()
    };
    StreetGraph {
        crossings: kept.iter().map(|old| graph.crossings[*old]).collect(),
        streets: kept.iter().map(streets_of).collect(),
        top_speed_mps: graph.top_speed_mps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORNER: Point = Point::new(40.70, -74.00);
    const FAST: Point = Point::new(40.70, -73.99);
    const SLOW: Point = Point::new(40.71, -74.00);
    const GOAL: Point = Point::new(40.71, -73.99);

    fn block() -> StreetGraph {
        let mut streets = GraphBuilder::new(10.0);
        let [corner, fast, slow, goal] = [CORNER, FAST, SLOW, GOAL].map(|at| streets.crossing(at));
        streets.one_way(corner, fast, 60.0);
        streets.one_way(fast, goal, 60.0);
        streets.two_way(corner, slow, 300.0);
        streets.two_way(slow, goal, 300.0);
        let cul_de_sac = streets.crossing(Point::new(40.72, -73.99));
        streets.one_way(goal, cul_de_sac, 10.0);
        streets.build()
    }

    #[test]
    fn the_quickest_way_wins_and_one_way_streets_are_kept() {
        let graph = block();
        let there = graph.route(CORNER, GOAL, 50.0).unwrap();
        assert_eq!(there.points().collect::<Vec<_>>(), [CORNER, FAST, GOAL]);
        assert!((there.duration_s() - 120.0).abs() < 0.01);
        let back = graph.route(GOAL, CORNER, 50.0).unwrap();
        assert_eq!(back.points().collect::<Vec<_>>(), [GOAL, SLOW, CORNER]);
    }

    #[test]
    fn a_door_far_from_any_street_has_no_route() {
        assert_eq!(block().route(CORNER, Point::new(41.0, -74.0), 500.0), None);
    }

    #[test]
    fn a_crossing_without_a_way_back_is_left_out() {
        assert_eq!(block().crossings().len(), 4);
    }

    #[test]
    fn points_in_one_square_are_one_crossing() {
        let mut streets = GraphBuilder::new(50.0);
        let at = Point::new(40.70001, -73.99999);
        assert_eq!(streets.crossing(at), streets.crossing(Point::new(40.70002, -73.99998)));
        assert_ne!(streets.crossing(at), streets.crossing(Point::new(40.701, -73.99999)));
    }
}
