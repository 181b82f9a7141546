//! What the fleet's drivers have earned lately, in the middle: whom it is fair to prefer.

use std::sync::Mutex;

use time::{Duration, OffsetDateTime};

use super::{record::Record, table::lock};

/// Finding the middle looks at every driver, so it is found this often; in between it fades as everybody's earnings do.
const FOUND_EVERY: Duration = Duration::seconds(10);

/// The middle as last found.
#[derive(Default)]
pub(super) struct Middle(Mutex<Option<(f64, OffsetDateTime)>>);

impl Middle {
    /// The median at `now` of what `earned` says, which is asked only if it was long ago.
    pub(super) fn at(&self, now: OffsetDateTime, earned: impl FnOnce() -> Vec<f64>) -> f64 {
        let mut found = lock(&self.0);
        match *found {
            Some((median, at)) if (now - at).abs() < FOUND_EVERY => Record::faded_earnings(median, at, now),
            _ => {
                let median = median(earned());
                *found = Some((median, now));
                median
            }
        }
    }
}

/// Half of the values are at most this; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    match values.len() {
        0 => 0.0,
        count => *values.select_nth_unstable_by(count / 2, f64::total_cmp).1,
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_middle_is_found_again_after_a_while() {
        const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
        let middle = Middle::default();
        assert_eq!(middle.at(NOW, || vec![3.0, 9.0, 5.0]), 5.0);
        let soon = middle.at(NOW + Duration::seconds(9), || vec![1_000.0]);
        assert!(soon < 5.0 && soon > 4.9, "{soon}");
        assert_eq!(middle.at(NOW + FOUND_EVERY, || vec![1_000.0]), 1_000.0);
        assert_eq!(Middle::default().at(NOW, Vec::new), 0.0);
    }
}
