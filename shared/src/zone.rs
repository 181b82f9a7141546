//! Areas of a city with rules of their own: an airport's rank, a station.

use serde::{Deserialize, Serialize};

use crate::geo::Point;

/// Metres of a degree of latitude, and of one of longitude at the equator.
const METRES_PER_DEGREE: f64 = 111_195.0;
/// The largest zone, from its middle to its edge.
pub const MAX_ZONE_RADIUS_M: u32 = 20_000;
/// The most corners of a polygon.
pub const MAX_CORNERS: usize = 200;
/// The most zones of a tenant.
pub const MAX_ZONES: usize = 50;

/// An area with rules of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Zone {
    /// Names it in answers: `[a-z0-9_-]{1,30}`.
    pub id: String,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// Where it is.
    pub area: Area,
    /// Free drivers inside wait in a queue, and rides that begin inside are offered in its order.
    #[serde(default)]
    pub queue: bool,
    /// A driver this far outside still keeps the place, metres: positions at the edge jump.
    #[serde(default = "default_leave_margin_m")]
    pub leave_margin_m: u32,
    /// Farther outside, or out of sight, the place is kept so long, seconds.
    #[serde(default = "default_leave_after_s")]
    pub leave_after_s: u32,
    /// Who declines so many rides of the queue, or lets them run out, begins at its end again; 0: no matter how many.
    #[serde(default = "default_decline_limit")]
    pub decline_limit: u32,
}

fn default_leave_margin_m() -> u32 {
    150
}

fn default_leave_after_s() -> u32 {
    60
}

fn default_decline_limit() -> u32 {
    2
}

/// Where a zone is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Everything near a place.
    Circle {
        /// Its middle.
        center: Point,
        /// From there to the edge, metres.
        radius_m: u32,
    },
    /// Everything between these corners, in the order in which one walks around; the last is joined to the first.
    Polygon(Vec<Point>),
}

impl Zone {
    /// What is wrong with it, by field.
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let mut faults = Vec::new();
        if !crate::tenant_config::is_class_name(&self.id) {
            faults.push(("id", "must match [a-z0-9_-]{1,30}"));
        }
        if self.name.chars().count() > 80 {
            faults.push(("name", "must have at most 80 characters"));
        }
        match &self.area {
            Area::Circle { center, radius_m } => {
                if !center.is_valid() {
                    faults.push(("area.circle.center", "must be a place on the globe"));
                }
                if !(50..=MAX_ZONE_RADIUS_M).contains(radius_m) {
                    faults.push(("area.circle.radius_m", "must be 50 to 20000"));
                }
            }
            Area::Polygon(corners) => {
                let is_on_the_globe = corners.iter().all(|corner| corner.is_valid());
                if !is_on_the_globe || !(3..=MAX_CORNERS).contains(&corners.len()) {
                    faults.push(("area.polygon", "must have 3 to 200 corners on the globe"));
                } else if self.area.bounds().1 > f64::from(MAX_ZONE_RADIUS_M) {
                    // One across the 180th meridian seems to span the globe, and is refused here too.
                    faults.push(("area.polygon", "must reach at most 20000 metres from its middle"));
                }
            }
        }
        if self.leave_margin_m > 2_000 {
            faults.push(("leave_margin_m", "must be at most 2000"));
        }
        if self.leave_after_s > 3_600 {
            faults.push(("leave_after_s", "must be at most 3600"));
        }
        if self.decline_limit > 100 {
            faults.push(("decline_limit", "must be at most 100"));
        }
        faults
    }
}

impl Area {
    /// A circle around all of it: its middle, and metres to its edge.
    pub fn bounds(&self) -> (Point, f64) {
        match self {
            Self::Circle { center, radius_m } => (*center, f64::from(*radius_m)),
            Self::Polygon(corners) => {
                let ends = |of: fn(&Point) -> f64| {
                    let each = corners.iter().map(of);
                    (each.clone().fold(f64::INFINITY, f64::min), each.fold(f64::NEG_INFINITY, f64::max))
                };
                let ((south, north), (west, east)) = (ends(|corner| corner.lat), ends(|corner| corner.lng));
                let middle = Point::new((south + north) / 2.0, (west + east) / 2.0);
                (middle, corners.iter().map(|corner| middle.distance_m(*corner)).fold(0.0, f64::max))
            }
        }
    }

    /// Whether a place is in it.
    pub fn holds(&self, place: Point) -> bool {
        self.depth_m(place) >= 0.0
    }

    /// How deep inside a place is, metres from the edge; below zero: how far outside.
    pub fn depth_m(&self, place: Point) -> f64 {
        match self {
            Self::Circle { center, radius_m } => f64::from(*radius_m) - center.distance_m(place),
            Self::Polygon(corners) => {
                // On a plane around the place: a zone is small.
                let scale = place.lat.to_radians().cos();
                let flat = |corner: &Point| {
                    ((corner.lng - place.lng) * scale * METRES_PER_DEGREE, (corner.lat - place.lat) * METRES_PER_DEGREE)
                };
                let mut is_inside = false;
                let mut nearest_m = f64::INFINITY;
                let following = corners.iter().cycle().skip(1);
                for ((ax, ay), (bx, by)) in corners.iter().map(flat).zip(following.map(flat)) {
                    // Edges that a ray from the place to the east crosses.
                    if (ay > 0.0) != (by > 0.0) && ax + (bx - ax) * -ay / (by - ay) > 0.0 {
                        is_inside = !is_inside;
                    }
                    let (dx, dy) = (bx - ax, by - ay);
                    let length = dx * dx + dy * dy;
                    let along = if length > 0.0 { (-(ax * dx + ay * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
                    nearest_m = nearest_m.min((ax + along * dx).hypot(ay + along * dy));
                }
                if is_inside { nearest_m } else { -nearest_m }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn square() -> Area {
        // About 1.1 km by 0.85 km.
        let corner = |lat, lng| Point::new(lat, lng);
        Area::Polygon(vec![corner(40.64, -73.79), corner(40.65, -73.79), corner(40.65, -73.78), corner(40.64, -73.78)])
    }

    #[test]
    fn depth_is_metres_from_the_edge_and_below_zero_outside() {
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 3.0, "{found} {expected}");
        near(square().depth_m(Point::new(40.641, -73.785)), 111.2);
        near(square().depth_m(Point::new(40.639, -73.785)), -111.2);
        near(square().depth_m(Point::new(40.639, -73.791)), -139.6);
        let circle = Area::Circle { center: Point::new(40.645, -73.785), radius_m: 500 };
        near(circle.depth_m(Point::new(40.645, -73.785)), 500.0);
        near(circle.depth_m(Point::new(40.655, -73.785)), -612.0);
    }

    #[test]
    fn a_polygon_with_a_bay_does_not_hold_what_lies_in_the_bay() {
        let corners = [(0.0, 0.0), (0.0, 0.03), (0.03, 0.03), (0.03, 0.02), (0.01, 0.015), (0.03, 0.01), (0.03, 0.0)];
        let area = Area::Polygon(corners.iter().map(|(lat, lng)| Point::new(*lat, *lng)).collect());
        assert!(area.holds(Point::new(0.005, 0.015)) && area.holds(Point::new(0.025, 0.005)));
        assert!(!area.holds(Point::new(0.025, 0.015)));
    }

    #[test]
    fn a_zone_reads_with_defaults_and_says_what_is_wrong_with_it() {
        let read = |area| serde_json::from_value::<Zone>(json!({"id": "jfk", "area": area, "queue": true})).unwrap();
        let zone = read(json!({"circle": {"center": {"lat": 40.64, "lng": -73.78}, "radius_m": 900}}));
        assert_eq!((zone.leave_margin_m, zone.leave_after_s, zone.decline_limit), (150, 60, 2));
        assert!(zone.faults().is_empty());
        let fields = |zone: &Zone| zone.faults().into_iter().map(|(field, _)| field).collect::<Vec<_>>();
        let line = read(json!({"polygon": [{"lat": 0.0, "lng": 0.0}, {"lat": 0.0, "lng": 1.0}]}));
        assert_eq!(fields(&line), ["area.polygon"]);
        let around =
            read(json!({"polygon": [{"lat": 0, "lng": 179.9}, {"lat": 0, "lng": -179.9}, {"lat": 1, "lng": 179.9}]}));
        assert_eq!(fields(&around), ["area.polygon"]);
        let bad = Zone { id: "J F K".into(), leave_margin_m: 5_000, ..zone };
        assert_eq!(fields(&bad), ["id", "leave_margin_m"]);
    }
}
