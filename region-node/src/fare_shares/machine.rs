//! Which step of a share is legal, and who pays how much. Pure: no database, no clock.
//!
//! ```text
//!  invited ──► accepted ──trip ends──► fixed ──payment declined──► fallen_back (the ride's rider pays it)
//!     │ │         │ │ │
//!     │ │         │ │ └─ nothing is left to pay ─► lapsed
//!     │ └─────────┼─┴──► withdrawn (by the ride's rider)
//!     ├───────────┴────► declined
//!     └── trip ends ───► lapsed
//! ```

use serde::{Deserialize, Serialize};
use shared::money::Money;

/// Where a share stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShareStatus {
    /// Waits for an answer.
    Invited,
    /// Will be paid by who was asked to.
    Accepted,
    /// Will not.
    Declined,
    /// Taken back by the ride's rider.
    Withdrawn,
    /// Not accepted before the ride was over, or nothing was left to pay.
    Lapsed,
    /// The trip has ended; who accepted is charged.
    Fixed,
    /// That payment was declined; the ride's rider is charged.
    FallenBack,
}

impl ShareStatus {
    const ALL: [Self; 7] =
        [Self::Invited, Self::Accepted, Self::Declined, Self::Withdrawn, Self::Lapsed, Self::Fixed, Self::FallenBack];

    /// As in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::Withdrawn => "withdrawn",
            Self::Lapsed => "lapsed",
            Self::Fixed => "fixed",
            Self::FallenBack => "fallen_back",
        }
    }

    /// Whether it may still be answered.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Invited | Self::Accepted)
    }

    /// Whether people may take it from here to `next`, before the trip ends.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Invited => matches!(next, Self::Accepted | Self::Declined | Self::Withdrawn),
            Self::Accepted => matches!(next, Self::Declined | Self::Withdrawn),
            Self::Declined | Self::Withdrawn | Self::Lapsed | Self::Fixed | Self::FallenBack => false,
        }
    }
}

impl std::fmt::Display for ShareStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ShareStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("'{text}' is no status of a share"))
    }
}

/// What shares of `total` come to, in minor units and the order of `asked`: first the amounts asked for, as far as the total
/// goes; then equal parts of the rest, one of them the ride's rider's, whose is also what rounding leaves. Each can be charged, as
/// the total can.
pub(super) fn divide(total: Money, asked: &[Option<i64>]) -> Vec<i64> {
    let step = total.currency.charge_step();
    let to_charge = |amount: i64| amount - amount % step;
    let mut left = total.amount.max(0);
    let mut amounts = vec![0; asked.len()];
    for (amount, asked) in amounts.iter_mut().zip(asked) {
        *amount = to_charge(asked.unwrap_or(0).clamp(0, left));
        left -= *amount;
    }
    let alike = asked.iter().filter(|asked| asked.is_none()).count();
    let part = to_charge(left / (i64::try_from(alike).expect("shares are few") + 1));
    for (amount, _) in amounts.iter_mut().zip(asked).filter(|(_, asked)| asked.is_none()) {
        *amount = part;
    }
    amounts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::money::Currency;

    use super::*;

    fn divided(total: i64, asked: &[Option<i64>]) -> Vec<i64> {
        divide(Money::new(total, Currency::USD), asked)
    }

    #[test]
    fn all_pay_alike_and_the_remainder_is_the_ride_s_rider_s() {
        assert_eq!(divided(1_100, &[None, None]), [366, 366]);
        assert_eq!(divided(2, &[None, None]), [0, 0]);
        assert!(divided(1_000, &[]).is_empty());
    }

    #[test]
    fn amounts_come_first_and_never_exceed_the_total() {
        assert_eq!(divided(1_000, &[None, Some(400)]), [300, 400]);
        assert_eq!(divided(1_000, &[Some(700), Some(700), None]), [700, 300, 0]);
    }

    #[test]
    fn what_is_answered_for_good_stays() {
        for from in ShareStatus::ALL {
            let ways_out = ShareStatus::ALL.into_iter().filter(|to| from.may_become(*to)).count();
            assert_eq!(from.is_open(), ways_out > 0, "{from}");
            assert!(!from.may_become(from), "{from}");
            assert_eq!(from.as_str().parse(), Ok(from));
        }
    }

    proptest! {
        #[test]
        fn shares_and_the_ride_s_rider_s_part_sum_to_the_total(
            total in 0..1_000_000_000_i64, code in prop::sample::select(vec!["USD", "KWD"]),
            asked in prop::collection::vec(prop::option::of(1..10_000_000_000_i64), 0..8),
        ) {
            let total = Money::new(total, code.parse().unwrap()).to_charge();
            let step = total.currency.charge_step();
            let amounts = divide(total, &asked);
            let own = total.amount - amounts.iter().sum::<i64>();
            prop_assert!(own >= 0 && amounts.iter().all(|amount| *amount >= 0));
            prop_assert!(amounts.iter().chain([&own]).all(|amount| amount % step == 0), "each can be charged");
            for (amount, asked) in amounts.iter().zip(&asked) {
                prop_assert!(asked.is_none_or(|asked| *amount <= asked), "nobody pays more than was asked");
            }
            let alike: Vec<_> = amounts.iter().zip(&asked).filter(|(_, asked)| asked.is_none()).map(|(amount, _)| *amount).collect();
            if let Some(part) = alike.first() {
                prop_assert!(alike.iter().all(|amount| amount == part));
                let rounding = own - part;
                prop_assert!((0..=i64::try_from(alike.len()).unwrap()).contains(&(rounding / step)), "{rounding}");
            }
        }
    }
}
