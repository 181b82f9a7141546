//! How a driver answers, and what he has earned lately: sums in which what is long ago counts for less and less.
//!
//! Postgres keeps them (`store::add_to_records` does the same sums); the live table knows them, so that planning asks no
//! database.

use time::{Duration, OffsetDateTime};

/// After so long an answer counts half.
const ANSWERS_HALVE_IN: Duration = Duration::weeks(1);
/// After so long what was earned counts half: lately means a few hours.
const EARNINGS_HALVE_IN: Duration = Duration::hours(2);

/// What a driver did until `as_of`, as it counts then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Offers accepted.
    pub accepted: f64,
    /// Offers declined, left to run out, or dodged by going offline.
    pub refused: f64,
    /// Fares of trips, minor units of the tenant's currency.
    pub earned: f64,
    /// When something was last added. Of two records of one driver the later holds all that the other does.
    pub as_of: OffsetDateTime,
}

impl Record {
    /// Of a driver who has not done anything yet.
    pub const NONE: Self = Self { accepted: 0.0, refused: 0.0, earned: 0.0, as_of: OffsetDateTime::UNIX_EPOCH };

    /// After how long answers and earnings count half.
    pub(super) const HALVE_IN: [Duration; 2] = [ANSWERS_HALVE_IN, EARNINGS_HALVE_IN];

    /// As it counts at `now`.
    pub fn at(self, now: OffsetDateTime) -> Self {
        // A clock behind must not make what was done count for more.
        let since = (now - self.as_of).max(Duration::ZERO);
        let left = |halves_in: Duration| 0.5_f64.powf(since / halves_in);
        let (answers, earnings) = (left(ANSWERS_HALVE_IN), left(EARNINGS_HALVE_IN));
        Self {
            accepted: self.accepted * answers,
            refused: self.refused * answers,
            earned: self.earned * earnings,
            as_of: self.as_of.max(now),
        }
    }

    /// This with `more` added to it, which happens at `now`.
    pub fn plus(self, more: Addition, now: OffsetDateTime) -> Self {
        let then = self.at(now);
        Self {
            accepted: then.accepted + more.accepted,
            refused: then.refused + more.refused,
            earned: then.earned + more.earned,
            as_of: then.as_of,
        }
    }

    /// What was earned until `earlier` as it counts at `now`.
    pub(super) fn faded_earnings(earned: f64, earlier: OffsetDateTime, now: OffsetDateTime) -> f64 {
        Self { earned, as_of: earlier, ..Self::NONE }.at(now).earned
    }
}

/// Something a driver does that is kept in mind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Addition {
    /// Offers accepted.
    pub accepted: f64,
    /// Offers declined, left to run out, or dodged by going offline.
    pub refused: f64,
    /// Minor units earned.
    pub earned: f64,
}

impl Addition {
    /// Took a ride.
    pub const ACCEPTED: Self = Self { accepted: 1.0, refused: 0.0, earned: 0.0 };
    /// Did not take one.
    pub const REFUSED: Self = Self { accepted: 0.0, refused: 1.0, earned: 0.0 };

    /// Drove a trip.
    pub fn earned(minor_units: i64) -> Self {
        // A fare is far below what a float holds exactly.
        Self { earned: minor_units as f64, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);

    #[test]
    fn what_is_a_half_life_ago_counts_half() {
        let record = Record::NONE.plus(Addition::ACCEPTED, START).plus(Addition::earned(800), START);
        let later = record.at(START + EARNINGS_HALVE_IN);
        assert!((later.earned - 400.0).abs() < 1e-9 && later.accepted > 0.99);
        let later = record.at(START + ANSWERS_HALVE_IN);
        assert!((later.accepted - 0.5).abs() < 1e-9 && later.earned < 1e-9);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_often_one_looks_and_nothing_grows_by_itself(
            seconds in prop::collection::vec(-3_600..1_000_000_i64, 1..8), refused in 0.0..50.0_f64,
        ) {
            let record = Record { refused, as_of: START, ..Record::NONE };
            let mut step_by_step = record;
            let mut latest = START;
            for seconds in seconds {
                let now = START + Duration::seconds(seconds);
                latest = latest.max(now);
                step_by_step = step_by_step.at(now);
                prop_assert!(step_by_step.refused <= refused);
            }
            prop_assert!((step_by_step.refused - record.at(latest).refused).abs() < 1e-9);
        }
    }
}
