//! How far and how long a way by road is, guessed from the map alone.

use shared::geo::Point;

/// A way between two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Travel {
    pub distance_m: i64,
    pub duration_s: i64,
}

/// Roads are this much longer than the great circle, in cities of any kind about 1.2 to 1.4.
const DETOUR: f64 = 1.3;
/// 25 km/h: what taxis make door to door in large cities.
const CITY_SPEED_M_PER_S: f64 = 25.0 / 3.6;

/// The way from one place to another: the great circle with a detour, at a city's speed.
pub fn travel(from: Point, to: Point) -> Travel {
    let crow_m = from.distance_m(to);
    Travel { distance_m: (crow_m * DETOUR).round() as i64, duration_s: seconds_along(crow_m) }
}

/// How long somebody takes who is `crow_m` metres away on the great circle.
fn seconds_along(crow_m: f64) -> i64 {
    (crow_m * DETOUR / CITY_SPEED_M_PER_S).ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_through_manhattan_is_plausible() {
        let way = travel(Point::new(40.7580, -73.9855), Point::new(40.7061, -74.0087));
        assert!((7_500..8_500).contains(&way.distance_m), "{way:?}");
        assert!((1_000..1_300).contains(&way.duration_s), "{way:?}");
    }

    #[test]
    fn nowhere_is_no_way() {
        let here = Point::new(41.15, -8.61);
        assert_eq!(travel(here, here), Travel { distance_m: 0, duration_s: 0 });
    }
}
