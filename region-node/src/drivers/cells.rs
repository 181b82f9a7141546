//! Which H3 cells a circle touches, nearest ring first.

use h3o::{CellIndex, LatLng, Resolution};
use shared::geo::Point;

/// Cells about a kilometre across: a busy city has a handful of drivers in each, and 5 km around a pick-up are some
/// three hundred of them.
pub(super) const RESOLUTION: Resolution = Resolution::Eight;

/// Cells some seven kilometres across: rides that begin in one have drivers in common.
const AREA: Resolution = Resolution::Six;

/// No edge of a cell is shorter, in metres, anywhere on the globe (the mean is 531; a test measures the least).
const SHORTEST_EDGE_M: f64 = 340.0;

/// The cell of a place.
pub(crate) fn cell_of(point: Point) -> CellIndex {
    LatLng::new(point.lat, point.lng).expect("a validated place is finite").to_cell(RESOLUTION)
}

/// The cell of a place at [`AREA`].
pub(crate) fn area_of(point: Point) -> CellIndex {
    cell_of(point).parent(AREA).expect("an area is larger than a cell")
}

/// How many rings around a place's cell hold everything within `radius_m` of the place.
///
/// Leaving `k` rings of hexagons with edges `e`, from anywhere in the middle cell, takes at least `1.5·e·k - e/2`.
pub(super) fn rings_within(radius_m: f64) -> u32 {
    let rings = (radius_m / SHORTEST_EDGE_M + 0.5) / 1.5;
    // Saturates for what is larger than the globe; those searches don't walk rings.
    rings.ceil() as u32
}

/// Everything outside `rings` rings is farther away than this, in metres.
pub(super) fn reach_m(rings: u32) -> f64 {
    (1.5 * f64::from(rings) - 0.5) * SHORTEST_EDGE_M
}

/// How many cells `rings` rings have, the middle one included.
pub(super) fn cells_in(rings: u32) -> u64 {
    let rings = u64::from(rings);
    3 * rings * (rings + 1) + 1
}

/// The cells of `rings` rings around `center` with their ring, nearest ring first.
pub(super) fn disk(center: CellIndex, rings: u32) -> Vec<(CellIndex, u32)> {
    let mut cells: Vec<(CellIndex, u32)> = center.grid_disk_distances(rings);
    cells.sort_by_key(|(_, ring)| *ring);
    cells
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_edge_is_shorter_than_assumed(lat in -89.9..89.9_f64, lng in -180.0..180.0_f64) {
            let cell = cell_of(Point::new(lat, lng));
            for edge in cell.edges() {
                prop_assert!(edge.length_m() > SHORTEST_EDGE_M, "{} of {cell}", edge.length_m());
            }
        }

        #[test]
        fn what_is_within_the_radius_is_within_the_rings(
            lat in -85.0..85.0_f64, lng in -180.0..180.0_f64, bearing in 0.0..std::f64::consts::TAU, radius_m in 1.0..8_000.0_f64,
        ) {
            let center = Point::new(lat, lng);
            let north_m = bearing.cos() * radius_m * 0.999;
            let east_m = bearing.sin() * radius_m * 0.999;
            let point = Point::new(lat + north_m / 111_195.0, lng + east_m / (111_195.0 * lat.to_radians().cos()));
            prop_assume!(point.is_valid() && center.distance_m(point) <= radius_m);
            let disk = disk(cell_of(center), rings_within(radius_m));
            prop_assert!(disk.iter().any(|(cell, _)| *cell == cell_of(point)));
        }
    }

    #[test]
    fn rings_come_nearest_first_and_are_counted_right() {
        let disk = disk(cell_of(Point::new(40.758, -73.9855)), 4);
        assert_eq!(disk.len() as u64, cells_in(4));
        assert!(disk.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }
}
