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

/// The cells `away` rings away from `center`; none away is the middle. No more is computed than is asked for.
pub(super) fn ring(center: CellIndex, away: u32) -> Vec<CellIndex> {
    center.grid_ring(away)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            let mut rings = (0..=rings_within(radius_m)).map(|away| ring(cell_of(center), away));
            prop_assert!(rings.any(|ring| ring.contains(&cell_of(point))));
        }
    }

    /// One of the twelve pentagons of the grid, in the Norwegian Sea, and a usual place.
    #[test]
    fn rings_are_whole_and_share_nothing_even_around_a_pentagon() {
        let pentagon = RESOLUTION.pentagons().next().unwrap();
        for center in [cell_of(Point::new(40.758, -73.9855)), pentagon] {
            let rings: Vec<_> = (0..=4).map(|away| ring(center, away)).collect();
            let together: BTreeSet<_> = rings.iter().flatten().copied().collect();
            assert_eq!(together.len(), rings.iter().map(Vec::len).sum::<usize>());
            assert_eq!(together, center.grid_disk::<BTreeSet<_>>(4));
            assert!(rings.iter().enumerate().all(|(away, ring)| {
                ring.iter().all(|cell| center.is_pentagon() || center.grid_distance(*cell).unwrap() as usize == away)
            }));
        }
        let usual = (0..=4).map(|away| ring(cell_of(Point::new(40.758, -73.9855)), away).len() as u64).sum::<u64>();
        assert_eq!(usual, cells_in(4));
    }
}
