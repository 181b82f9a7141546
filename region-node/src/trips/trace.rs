//! How far a trip went and where it ended, from its breadcrumbs.

use shared::geo::Point;
use time::OffsetDateTime;

/// One position of a running trip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Breadcrumb {
    pub(super) at: OffsetDateTime,
    pub(super) place: Point,
}

/// What a trace says of a trip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Driven {
    pub(super) length_m: i64,
    pub(super) end: Point,
}

/// A receiver that stands still still wanders this far.
const NOISE_M: f64 = 5.0;

/// The trace's length and end; `None` without at least two positions. Positions come in the order of their times. A leg faster
/// than `fastest_mps`, which no car can drive, counts nothing and ends no trip, and one within the receiver's noise waits until
/// it adds up.
pub(super) fn driven(trace: &[Breadcrumb], fastest_mps: f64) -> Option<Driven> {
    let (first, rest) = trace.split_first()?;
    if rest.is_empty() {
        return None;
    }
    let mut total_m = 0.0;
    let (mut from, mut end) = (first, first.place);
    for next in rest {
        let leg_m = from.place.distance_m(next.place);
        if leg_m < NOISE_M {
            end = next.place;
            continue;
        }
        let leg_s = (next.at - from.at).as_seconds_f64();
        if leg_m <= leg_s * fastest_mps {
            total_m += leg_m;
            end = next.place;
        }
        from = next;
    }
    Some(Driven { length_m: total_m.round() as i64, end })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::{Duration, macros::datetime};

    use super::*;

    fn length_m(trace: &[Breadcrumb]) -> Option<i64> {
        driven(trace, 60.0).map(|driven| driven.length_m)
    }

    /// Metres north of a point in Porto, seconds after noon.
    fn trace(legs: &[(f64, i64)]) -> Vec<Breadcrumb> {
        let crumb = |&(north_m, after_s): &(f64, i64)| Breadcrumb {
            at: datetime!(2026-03-01 12:00 UTC) + Duration::seconds(after_s),
            place: Point::new(41.15 + north_m / 111_195.0, -8.61),
        };
        legs.iter().map(crumb).collect()
    }

    fn assert_near(length: Option<i64>, expected: i64) {
        let length = length.unwrap();
        assert!((length - expected).abs() <= 2, "{length} instead of {expected}");
    }

    #[test]
    fn a_straight_drive_is_as_long_as_its_legs() {
        assert_near(length_m(&trace(&[(0.0, 0), (100.0, 10), (250.0, 20), (100.0, 40)])), 400);
    }

    #[test]
    fn a_leap_of_the_receiver_counts_nothing() {
        assert_near(length_m(&trace(&[(0.0, 0), (100.0, 10), (9_000.0, 11), (120.0, 12), (220.0, 22)])), 200);
    }

    #[test]
    fn a_trip_ends_at_its_last_position_unless_the_receiver_leapt_there() {
        let end = |legs: &[(f64, i64)]| driven(&trace(legs), 60.0).unwrap().end;
        let north = |north_m| trace(&[(north_m, 0)])[0].place;
        assert_eq!(end(&[(0.0, 0), (100.0, 10), (103.0, 20)]), north(103.0));
        assert_eq!(end(&[(0.0, 0), (100.0, 10), (9_000.0, 11)]), north(100.0));
        assert_eq!(end(&[(0.0, 0), (9_000.0, 1), (9_100.0, 11)]), north(9_100.0));
    }

    #[test]
    fn what_is_too_fast_is_a_setting_since_a_replay_runs_faster_than_any_car() {
        let replayed = trace(&[(0.0, 0), (1_000.0, 10), (2_000.0, 20)]);
        assert_eq!(length_m(&replayed), Some(0));
        assert_near(driven(&replayed, 600.0).map(|driven| driven.length_m), 2_000);
    }

    #[test]
    fn standing_still_is_no_way_but_crawling_is() {
        let wobble: Vec<(f64, i64)> = (0..100).map(|i| (f64::from(i % 2) * 4.0, i64::from(i))).collect();
        assert_eq!(length_m(&trace(&wobble)), Some(0));
        let crawl: Vec<(f64, i64)> = (0..100).map(|i| (f64::from(i), i64::from(i))).collect();
        assert!(length_m(&trace(&crawl)).unwrap() > 90);
    }

    #[test]
    fn fewer_than_two_positions_are_no_trace() {
        assert_eq!(length_m(&[]), None);
        assert_eq!(length_m(&trace(&[(0.0, 0)])), None);
    }

    proptest! {
        #[test]
        fn a_longer_trace_is_never_shorter(
            legs in prop::collection::vec((-3000.0..3000.0_f64, 1..120_i64), 2..40), cut in 2..40_usize,
        ) {
            let mut after_s = 0;
            let legs: Vec<(f64, i64)> = legs.into_iter().map(|(north, s)| { after_s += s; (north, after_s) }).collect();
            let whole = trace(&legs);
            let part = &whole[..cut.min(whole.len())];
            prop_assert!(length_m(part) <= length_m(&whole));
        }
    }
}
