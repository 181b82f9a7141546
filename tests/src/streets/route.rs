//! A way through the streets, with the moment each of its points is reached.

use shared::geo::Point;

/// Where a car is, where it looks to and how fast it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    pub point: Point,
    /// Degrees clockwise from north.
    pub heading: f64,
    pub speed_mps: f64,
}

/// A timed polyline; it has at least one point and its times never go back.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    stops: Vec<Stop>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Stop {
    after_s: f64,
    point: Point,
}

impl Route {
    /// A car that stays where it is.
    pub fn standing_at(point: Point) -> Self {
        Self { stops: vec![Stop { after_s: 0.0, point }] }
    }

    /// As the crow flies, at a steady speed: for places no known street leads to.
    pub fn straight(from: Point, to: Point, speed_mps: f64) -> Self {
        let mut route = Self::standing_at(from);
        route.go_on_to(to, from.distance_m(to) / speed_mps);
        route
    }

    /// Adds a next point, reached `seconds` after the last one.
    pub fn go_on_to(&mut self, point: Point, seconds: f64) {
        let after_s = self.duration_s() + seconds.max(0.0);
        self.stops.push(Stop { after_s, point });
    }

    /// This way and then that one; a gap between them is driven straight, at `speed_mps`.
    #[must_use]
    pub fn then(mut self, next: Route, speed_mps: f64) -> Self {
        let gap_m = self.end().distance_m(next.start());
        if gap_m > 1.0 {
            self.go_on_to(next.start(), gap_m / speed_mps);
        }
        let begun_s = self.duration_s();
        self.stops.extend(next.stops.iter().skip(1).map(|stop| Stop { after_s: begun_s + stop.after_s, ..*stop }));
        self
    }

    pub fn start(&self) -> Point {
        self.stops.first().expect("a route has a first point").point
    }

    pub fn end(&self) -> Point {
        self.stops.last().expect("a route has a last point").point
    }

    pub fn duration_s(&self) -> f64 {
        self.stops.last().expect("a route has a last point").after_s
    }

    pub fn length_m(&self) -> f64 {
        self.stops.windows(2).map(|leg| leg[0].point.distance_m(leg[1].point)).sum()
    }

    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        self.stops.iter().map(|stop| stop.point)
    }

    /// Where the car is `after_s` seconds after it set out: at the start before, at the end ever after.
    pub fn position_at(&self, after_s: f64) -> Position {
        let next = self.stops.partition_point(|stop| stop.after_s <= after_s);
        let Some((from, to)) = next.checked_sub(1).and_then(|i| Some((self.stops[i], *self.stops.get(next)?))) else {
            let point = if next == 0 { self.start() } else { self.end() };
            return Position { point, heading: self.last_heading(), speed_mps: 0.0 };
        };
        let leg_s = to.after_s - from.after_s;
        let share = (after_s - from.after_s) / leg_s;
        let point = Point::new(
            from.point.lat + (to.point.lat - from.point.lat) * share,
            from.point.lng + (to.point.lng - from.point.lng) * share,
        );
        Position { point, heading: heading(from.point, to.point), speed_mps: from.point.distance_m(to.point) / leg_s }
    }

    fn last_heading(&self) -> f64 {
        let moved = self.stops.windows(2).rev().find(|leg| leg[0].point != leg[1].point);
        moved.map_or(0.0, |leg| heading(leg[0].point, leg[1].point))
    }
}

/// Degrees clockwise from north, on a plane: exact enough for one street.
fn heading(from: Point, to: Point) -> f64 {
    let east = (to.lng - from.lng) * from.lat.to_radians().cos();
    east.atan2(to.lat - from.lat).to_degrees().rem_euclid(360.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Point = Point::new(40.0, -74.0);
    const NORTH: Point = Point::new(40.01, -74.0);
    const EAST: Point = Point::new(40.01, -73.99);

    #[test]
    fn a_car_is_halfway_after_half_the_time_and_stays_at_the_end() {
        let route = Route::straight(HOME, NORTH, 10.0);
        let halfway = route.position_at(route.duration_s() / 2.0);
        assert!(halfway.point.distance_m(Point::new(40.005, -74.0)) < 0.1);
        assert!((halfway.speed_mps - 10.0).abs() < 0.01);
        assert_eq!(halfway.heading, 0.0);
        for late in [route.duration_s(), route.duration_s() + 100.0] {
            assert_eq!(route.position_at(late), Position { point: NORTH, heading: 0.0, speed_mps: 0.0 });
        }
        assert_eq!(route.position_at(-1.0).point, HOME);
    }

    #[test]
    fn joined_routes_take_the_time_of_both_and_of_the_gap() {
        let joined = Route::straight(HOME, NORTH, 10.0).then(Route::straight(EAST, HOME, 20.0), 5.0);
        let expected = HOME.distance_m(NORTH) / 10.0 + NORTH.distance_m(EAST) / 5.0 + EAST.distance_m(HOME) / 20.0;
        assert!((joined.duration_s() - expected).abs() < 1e-6);
        assert_eq!((joined.start(), joined.end()), (HOME, HOME));
        assert_eq!(joined.points().count(), 4);
    }

    #[test]
    fn a_car_going_east_looks_east() {
        assert!((Route::straight(NORTH, EAST, 10.0).position_at(1.0).heading - 90.0).abs() < 0.01);
    }

    #[test]
    fn a_point_repeated_in_no_time_divides_nothing_by_zero() {
        let mut route = Route::standing_at(HOME);
        route.go_on_to(HOME, 0.0);
        route.go_on_to(NORTH, 10.0);
        assert!(route.position_at(0.0).point.is_valid());
        assert_eq!(Route::standing_at(HOME).position_at(5.0).point, HOME);
    }
}
