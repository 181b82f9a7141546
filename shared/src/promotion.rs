//! Codes that make a ride cheaper for its rider, at the tenant's cost.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    money::share,
    tariff::{MAX_TARIFF_AMOUNT, Percent},
};

/// The most promotions of a tenant.
pub const MAX_PROMOTIONS: usize = 100;

/// What a code is worth, when, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Promotion {
    /// What it is worth.
    #[serde(flatten)]
    pub worth: Worth,
    /// Rides asked for from then on.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub valid_from: Option<OffsetDateTime>,
    /// Until just before then.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub valid_until: Option<OffsetDateTime>,
    /// How often one rider may use it; a ride that was cancelled, or that nobody took, does not count.
    pub uses_per_rider: u32,
    /// How often all riders together may; null: no limit.
    pub uses: Option<u32>,
}

/// How much of a fare the tenant pays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Worth {
    /// Of the fare without tolls, percent.
    pub percent: Percent,
    /// And so much besides, minor units.
    pub amount: i64,
    /// Never more than this, minor units; null: never more than the fare without tolls.
    pub cap: Option<i64>,
}

impl Default for Promotion {
    fn default() -> Self {
        Self { worth: Worth::default(), valid_from: None, valid_until: None, uses_per_rider: 1, uses: None }
    }
}

impl Promotion {
    /// Whether it holds for a ride asked for at `now`.
    pub fn is_valid(&self, now: OffsetDateTime) -> bool {
        self.valid_from.is_none_or(|from| from <= now) && self.valid_until.is_none_or(|until| now < until)
    }

    /// What is wrong with it, by field.
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let amount = 0..=MAX_TARIFF_AMOUNT;
        let is_worth = self.worth.percent.thousandths() > 0 || self.worth.amount > 0;
        let rules = [
            ("amount", amount.contains(&self.worth.amount), "must be 0 to 100000000 minor units"),
            ("percent", is_worth, "must be above 0, or amount must be"),
            (
                "cap",
                self.worth.cap.is_none_or(|cap| amount.contains(&cap)),
                "must be 0 to 100000000 minor units, or null",
            ),
            ("uses_per_rider", (1..=1_000).contains(&self.uses_per_rider), "must be 1 to 1000"),
            ("uses", self.uses.is_none_or(|uses| (1..=100_000).contains(&uses)), "must be 1 to 100000, or null"),
        ];
        rules.into_iter().filter(|(_, holds, _)| !holds).map(|(field, _, message)| (field, message)).collect()
    }
}

impl Worth {
    /// What the tenant pays of a fare of `fare` minor units, tolls not counted: never more than it, and never so much more for
    /// a higher fare that its rider would pay less.
    pub fn of(&self, fare: i64) -> i64 {
        let whole = share(fare, self.percent.thousandths(), Percent::WHOLE).saturating_add(self.amount);
        whole.min(self.cap.unwrap_or(i64::MAX)).clamp(0, fare.max(0))
    }
}

/// Whether something is a code: `[A-Z0-9-]{3,20}`.
pub fn is_code(text: &str) -> bool {
    (3..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_promotion_holds_from_its_first_moment_to_just_before_its_last() {
        let (from, until) = (datetime!(2026-03-01 00:00 UTC), datetime!(2026-04-01 00:00 UTC));
        let march = Promotion { valid_from: Some(from), valid_until: Some(until), ..Promotion::default() };
        let second = time::Duration::SECOND;
        assert!(march.is_valid(from) && march.is_valid(until - second));
        assert!(!march.is_valid(from - second) && !march.is_valid(until));
        assert!(Promotion::default().is_valid(from));
    }

    #[test]
    fn a_code_is_short_and_in_capitals() {
        assert!(is_code("WELCOME-10"));
        assert!(["", "AB", "welcome", "SPRING 26", "A23456789012345678901"].iter().all(|bad| !is_code(bad)));
    }

    #[test]
    fn a_promotion_is_worth_something_and_says_what_is_wrong_with_it() {
        let promotion = |json: serde_json::Value| serde_json::from_value::<Promotion>(json).unwrap();
        assert_eq!(promotion(serde_json::json!({"percent": 12.5, "cap": 500})).faults(), []);
        let wrong = promotion(serde_json::json!({"cap": -1, "uses_per_rider": 0, "uses": 0}));
        let fields: Vec<_> = wrong.faults().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["percent", "cap", "uses_per_rider", "uses"]);
    }

    #[test]
    fn a_percentage_is_rounded_half_up_and_capped() {
        let worth = Worth { percent: 15.into(), amount: 0, cap: Some(300) };
        assert_eq!([0, 10, 1_250, 9_000].map(|fare| worth.of(fare)), [0, 2, 188, 300]);
        let both = Worth { percent: 10.into(), amount: 200, cap: None };
        assert_eq!([100, 1_000].map(|fare| both.of(fare)), [100, 300]);
    }

    proptest! {
        #[test]
        fn a_rider_never_pays_less_for_a_higher_fare_and_never_less_than_nothing(
            percent in 0..=100_000_u32, amount in 0..=MAX_TARIFF_AMOUNT, cap in prop::option::of(0..=MAX_TARIFF_AMOUNT),
            fare in 0..=10_000_000_000_i64, more in 0..=1_000_000_i64,
        ) {
            let worth = Worth { percent: Percent::from_thousandths(percent), amount, cap };
            let pays = |fare| fare - worth.of(fare);
            prop_assert!((0..=fare).contains(&pays(fare)));
            prop_assert!(pays(fare + more) >= pays(fare));
        }
    }
}
