//! Places on the globe.

use serde::{Deserialize, Serialize};

/// Mean radius of the earth, metres (IUGG).
const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// A place in WGS 84 degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Point {
    /// Degrees north, -90 to 90.
    pub lat: f64,
    /// Degrees east, -180 to 180.
    pub lng: f64,
}

impl Point {
    /// A place; not checked, see [`Point::is_valid`].
    pub const fn new(lat: f64, lng: f64) -> Self {
        Self { lat, lng }
    }

    /// Whether both angles are numbers within the globe.
    pub fn is_valid(self) -> bool {
        (-90.0..=90.0).contains(&self.lat) && (-180.0..=180.0).contains(&self.lng)
    }

    /// Great-circle distance in metres, by the haversine formula, which stays exact for neighbours.
    pub fn distance_m(self, other: Self) -> f64 {
        let (lat_a, lat_b) = (self.lat.to_radians(), other.lat.to_radians());
        let half_lat = ((lat_b - lat_a) / 2.0).sin();
        let half_lng = ((other.lng - self.lng).to_radians() / 2.0).sin();
        let h = half_lat * half_lat + lat_a.cos() * lat_b.cos() * half_lng * half_lng;
        2.0 * EARTH_RADIUS_M * h.sqrt().min(1.0).asin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_matches_known_pairs() {
        let times_square = Point::new(40.758, -73.9855);
        let jfk = Point::new(40.6413, -73.7781);
        assert!((times_square.distance_m(jfk) - 21_789.0).abs() < 60.0, "{}", times_square.distance_m(jfk));
        assert_eq!(jfk.distance_m(jfk), 0.0);
        let antipodes = Point::new(0.0, 0.0).distance_m(Point::new(0.0, 180.0));
        assert!((antipodes - std::f64::consts::PI * EARTH_RADIUS_M).abs() < 1.0);
    }

    #[test]
    fn a_point_off_the_globe_or_not_a_number_is_invalid() {
        assert!(Point::new(90.0, 180.0).is_valid());
        for (lat, lng) in [(90.1, 0.0), (0.0, -180.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert!(!Point::new(lat, lng).is_valid(), "{lat},{lng}");
        }
    }
}
