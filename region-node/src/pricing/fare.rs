//! What a driven trip costs.

use serde::{Deserialize, Serialize};
use shared::money::Money;

use super::{
    Measured, Quote, Surge,
    tariff::{self, Basis, Price},
};

/// What a trip costs and why; the lines sum to the total.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Fare {
    pub total: Money,
    pub lines: Vec<FareLine>,
    /// The version of the tenant's config whose tariff was applied.
    pub tariff_version: i64,
    pub surge_multiplier: Surge,
    /// Whether the quoted distance and time were charged; false if the trip ended elsewhere than it was quoted to, and became so
    /// much longer on the way that it was priced from its trace.
    pub quoted: bool,
    /// The tax within the lines, where prices contain it; otherwise it has a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub included_tax: Option<Money>,
}

/// One part of a fare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FareLine {
    pub code: LineCode,
    /// For people.
    #[schema(example = "8.4 km at 1.23 USD per km")]
    pub description: String,
    pub amount: Money,
}

/// What a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineCode {
    Base,
    /// In the place of base, distance and time.
    Flat,
    Distance,
    Time,
    Waiting,
    Surge,
    Minimum,
    Night,
    /// Of a zone.
    Extra,
    BookingFee,
    Tax,
    Toll,
    /// Tolls the driver declared at the end.
    DeclaredTolls,
    /// What the tenant pays of it; less than nothing.
    Promotion,
    /// What the total is rounded by to be chargeable; less than nothing where it is rounded down.
    Rounding,
    /// A ride given up too late; alone on its receipt.
    CancellationFee,
    /// A ride whose rider did not come; alone on its receipt.
    NoShowFee,
}

/// A trip as it was driven: with its ride's quote, all that its fare is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Travelled {
    /// Along the trace; none if the trace is too thin to measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<i64>,
    /// How far from the quoted drop-off the trace ends, as the crow flies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_dropoff_m: Option<i64>,
    /// From start to end, pauses not counted.
    pub driving_s: i64,
    /// At the pick-up and paused.
    pub waiting_s: i64,
    /// Tolls the driver declares, minor units.
    pub declared_tolls: i64,
}

impl Fare {
    /// The fare of a trip: the quoted distance and time, with its waiting and the tolls declared. Only one that ended elsewhere
    /// than at the quoted drop-off, and is longer than the quote's `reprice_percent` of its distance, is another trip than the one
    /// quoted; it is priced as driven, a flat fare or not, and never below the quote. Which way a driver takes to the drop-off
    /// changes nothing: he alone chooses it.
    pub fn of(quote: &Quote, travelled: Travelled) -> Self {
        let Travelled { waiting_s, declared_tolls, .. } = travelled;
        let (distance_m, driving_s) = (quote.distance_m, quote.duration_s);
        let promised = Self::price(quote, Measured { distance_m, driving_s, waiting_s, declared_tolls }, Basis::Quote);
        let limit = i128::from(quote.distance_m) * i128::from(quote.reprice_percent);
        let is_elsewhere = travelled.from_dropoff_m.is_some_and(|metres| metres > i64::from(quote.same_dropoff_m));
        match travelled.distance_m {
            Some(distance_m) if is_elsewhere && i128::from(distance_m) * 100 > limit => {
                let driving_s = travelled.driving_s.max(quote.duration_s);
                let measured = Measured { distance_m, driving_s, waiting_s, declared_tolls };
                let driven = Self::price(quote, measured, Basis::Way);
                if driven.total.amount > promised.total.amount { driven } else { promised }
            }
            _ => promised,
        }
    }

    /// The price of a quote.
    pub(super) fn quoted(quote: &Quote) -> Self {
        let measured =
            Measured { distance_m: quote.distance_m, driving_s: quote.duration_s, waiting_s: 0, declared_tolls: 0 };
        Self::price(quote, measured, Basis::Quote)
    }

    /// The tax in the total.
    pub fn tax(&self) -> i64 {
        self.sum_of(&[LineCode::Tax]) + self.included_tax.map_or(0, |tax| tax.amount)
    }

    /// The tolls in the total: laid out by the driver, they are his without commission.
    pub fn tolls(&self) -> i64 {
        self.sum_of(&[LineCode::Toll, LineCode::DeclaredTolls])
    }

    /// What the tenant pays for the rider, beside the total.
    pub fn promotion(&self) -> i64 {
        -self.sum_of(&[LineCode::Promotion])
    }

    fn sum_of(&self, codes: &[LineCode]) -> i64 {
        self.lines.iter().filter(|line| codes.contains(&line.code)).map(|line| line.amount.amount).sum()
    }

    fn price(quote: &Quote, measured: Measured, basis: Basis) -> Self {
        let Price { total, lines, included_tax } =
            tariff::price(&quote.tariff, quote.surge, quote.currency, measured, basis);
        let mut fare = Self {
            total,
            lines,
            tariff_version: quote.tariff_version,
            surge_multiplier: quote.surge,
            quoted: basis == Basis::Quote,
            included_tax,
        };
        if let Some(promise) = &quote.promotion {
            let amount = promise.worth.of(fare.total.amount - fare.tolls());
            if amount > 0 {
                let (description, currency) = (format!("Promotion {}", promise.code), quote.currency);
                fare.lines.push(FareLine {
                    code: LineCode::Promotion,
                    description,
                    amount: Money::new(-amount, currency),
                });
                fare.total.amount -= amount;
            }
        }
        let to_charge = fare.total.to_charge();
        if to_charge != fare.total {
            let step = Money::new(quote.currency.charge_step(), quote.currency);
            fare.lines.push(FareLine {
                code: LineCode::Rounding,
                description: format!("Rounded to {step}"),
                amount: Money::new(to_charge.amount - fare.total.amount, quote.currency),
            });
            fare.total = to_charge;
        }
        fare
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use shared::promotion::Worth;

    use super::*;
    use crate::pricing::{
        quote::{Promise, tests::quote},
        tariff::tests::any_tariff,
    };

    const AT_ONCE: Travelled =
        Travelled { distance_m: None, from_dropoff_m: None, driving_s: 0, waiting_s: 0, declared_tolls: 0 };

    /// Of a trip that ended where the rider wanted, far from the drop-off.
    fn fare(quote: &Quote, distance_m: impl Into<Option<i64>>, driving_s: i64, waiting_s: i64) -> Fare {
        let distance_m = distance_m.into();
        let from_dropoff_m = distance_m.map(|_| 3_000);
        Fare::of(quote, Travelled { distance_m, from_dropoff_m, driving_s, waiting_s, ..AT_ONCE })
    }

    #[test]
    fn the_price_seen_is_the_price_charged() {
        let quote = quote();
        let quoted = quote.fare();
        for distance_m in [None, Some(0), Some(quote.distance_m), Some(quote.distance_m * 3 / 2)] {
            assert_eq!(fare(&quote, distance_m, quote.duration_s * 3, 0), quoted, "{distance_m:?}");
        }
        assert!(quoted.quoted);
    }

    #[test]
    fn pauses_are_charged_on_top_of_the_quote() {
        let quote = quote();
        let free_s = i64::from(quote.tariff.free_waiting_minutes) * 60;
        assert_eq!(fare(&quote, quote.distance_m, quote.duration_s, free_s), quote.fare());
        let fare = fare(&quote, quote.distance_m, quote.duration_s, free_s + 120);
        let waiting = fare.lines.iter().find(|line| line.code == LineCode::Waiting).unwrap();
        assert_eq!(waiting.amount.amount, 2 * quote.tariff.waiting_per_minute);
        assert!(fare.quoted);
        assert!(fare.total.amount > quote.fare().total.amount);
    }

    #[test]
    fn a_much_longer_trip_to_elsewhere_is_priced_as_driven() {
        let quote = quote();
        let long = fare(&quote, quote.distance_m * 2, quote.duration_s * 2, 0);
        assert!(!long.quoted);
        assert!(long.total.amount > quote.fare().total.amount);
    }

    #[test]
    fn a_driver_s_detour_to_the_drop_off_costs_the_rider_nothing() {
        let quote = quote();
        let circled = |from_dropoff_m| {
            let distance_m = Some(quote.distance_m * 5);
            Fare::of(&quote, Travelled { distance_m, from_dropoff_m, driving_s: 9_000, ..AT_ONCE })
        };
        for at_dropoff_m in [None, Some(0), Some(quote.same_dropoff_m.into())] {
            assert_eq!(circled(at_dropoff_m), quote.fare(), "{at_dropoff_m:?}");
        }
        assert!(!circled(Some(i64::from(quote.same_dropoff_m) + 1)).quoted);
    }

    #[test]
    fn a_flat_fare_holds_until_the_rider_changes_the_trip_and_then_costs_no_less() {
        let flat = |amount| {
            let rule = serde_json::json!({"zone": "jfk", "at": "either", "kind": "flat", "amount": amount});
            let mut quote = quote();
            quote.tariff.zones = vec![serde_json::from_value(rule).unwrap()];
            quote
        };
        for (quote, changes) in [(flat(1_000), true), (flat(100_000), false)] {
            assert_eq!(fare(&quote, quote.distance_m * 3 / 2, quote.duration_s * 9, 0), quote.fare());
            let long = fare(&quote, quote.distance_m * 2, quote.duration_s, 0);
            assert_eq!((long.quoted, long != quote.fare()), (!changes, changes));
            assert!(long.total.amount >= quote.fare().total.amount);
        }
    }

    #[test]
    fn a_fare_is_recomputed_from_what_is_stored_of_it() {
        let quote = quote();
        let travelled = Travelled {
            distance_m: Some(19_100),
            from_dropoff_m: Some(8_000),
            driving_s: 1_300,
            waiting_s: 400,
            declared_tolls: 250,
        };
        let fare = Fare::of(&quote, travelled);
        assert_eq!(fare.tolls(), 250);
        let stored: Quote = serde_json::from_value(serde_json::to_value(&quote).unwrap()).unwrap();
        let travelled = serde_json::from_value(serde_json::to_value(travelled).unwrap()).unwrap();
        assert_eq!(Fare::of(&stored, travelled), fare);
        assert!(!fare.quoted);
    }

    #[test]
    fn a_promotion_is_the_last_line_and_takes_nothing_off_tolls() {
        let worth = Worth { percent: 100.into(), amount: 0, cap: None };
        let free = Quote { promotion: Some(Promise { code: "FREE".into(), worth }), ..quote() };
        let travelled = Travelled { declared_tolls: 700, ..AT_ONCE };
        let fare = Fare::of(&free, travelled);
        let full = Fare::of(&quote(), travelled);
        assert_eq!((fare.total.amount, fare.promotion()), (700, full.total.amount - 700));
        assert_eq!(fare.total.amount, fare.lines.iter().map(|line| line.amount.amount).sum::<i64>());
        assert_eq!((fare.tax(), fare.tolls()), (full.tax(), full.tolls()));
        let last = fare.lines.last().unwrap();
        assert_eq!((last.code, last.description.as_str()), (LineCode::Promotion, "Promotion FREE"));
        assert_eq!(full.promotion(), 0);
    }

    #[test]
    fn a_fare_in_kwd_is_rounded_to_ten_fils_on_a_line_of_its_own() {
        let quote = quote();
        for (base, rounding) in [(0, None), (3, Some(-3)), (7, Some(3))] {
            let unrounded = Fare::of(&quote, AT_ONCE);
            let declared_tolls = (10 - unrounded.total.amount % 10) % 10 + base;
            let travelled = Travelled { declared_tolls, ..AT_ONCE };
            let in_kwd = Quote { currency: "KWD".parse().unwrap(), ..quote.clone() };
            let (fare, in_usd) = (Fare::of(&in_kwd, travelled), Fare::of(&quote, travelled));
            assert_eq!(fare.total.amount, in_usd.total.amount + rounding.unwrap_or(0));
            let line = fare.lines.iter().find(|line| line.code == LineCode::Rounding);
            assert_eq!(line.map(|line| line.amount.amount), rounding);
            assert!(line.is_none_or(|line| line.description == "Rounded to 0.010 KWD"));
            assert_eq!(
                (fare.tax(), fare.tolls()),
                (in_usd.tax(), in_usd.tolls()),
                "it is the company's and the driver's"
            );
        }
    }

    prop_compose! {
        fn any_quote()(
            tariff in any_tariff(), surge in 100..=1000_u32, code in prop::sample::select(vec!["USD", "INR", "JPY", "KWD"]),
            distance_m in 0..=1_000_000_i64, duration_s in 0..=86_400_i64, percent in prop::option::of(1..=100_u8),
            cap in prop::option::of(1..=1_000_000_i64),
        ) -> Quote {
            let worth = |percent: u8| Worth { percent: percent.into(), amount: 0, cap };
            Quote {
                tariff, distance_m, duration_s,
                surge: Surge::from_hundredths(surge),
                currency: code.parse().unwrap(),
                promotion: percent.map(|percent| Promise { code: "SOME".into(), worth: worth(percent) }),
                ..quote()
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_charged_unless_the_rider_changed_the_trip(
            quote in any_quote(), longer_percent in 0..=200_u32, driving_s in 0..=172_800_i64, waited_s in 0..=7_200_i64,
            declared_tolls in 0..=100_000_i64, is_traced: bool, off_m in 0..=1_000_i64,
        ) {
            let quoted = quote.fare();
            prop_assert_eq!(quoted.total.amount, quoted.lines.iter().map(|line| line.amount.amount).sum::<i64>());
            let distance_m = is_traced.then(|| quote.distance_m * i64::from(longer_percent) / 100);
            let from_dropoff_m = is_traced.then_some(off_m);
            let travelled = |waiting_s, declared_tolls| Travelled { distance_m, from_dropoff_m, driving_s, waiting_s, declared_tolls };
            let free_s = i64::from(quote.tariff.free_waiting_minutes) * 60;
            let charged = Fare::of(&quote, travelled(waited_s.min(free_s), 0));
            let is_longer = distance_m.is_some_and(|driven| driven * 100 > quote.distance_m * i64::from(quote.reprice_percent));
            match is_longer && off_m > i64::from(quote.same_dropoff_m) {
                false => prop_assert_eq!(&charged, &quoted),
                true => prop_assert!(charged.total.amount >= quoted.total.amount),
            }
            let more = Fare::of(&quote, travelled(waited_s, declared_tolls));
            for fare in [&quoted, &charged, &more] {
                prop_assert_eq!(fare.total.amount % quote.currency.charge_step(), 0, "it can be charged");
            }
            prop_assert_eq!(more.total.amount, more.lines.iter().map(|line| line.amount.amount).sum::<i64>());
            prop_assert!(more.total.amount >= charged.total.amount, "waiting and tolls come on top");
        }

        #[test]
        fn a_fare_never_falls_with_distance_time_or_waiting(
            distance_m in 0..60_000_i64, driving_s in 0..7_200_i64, waiting_s in 0..3_600_i64, more in 0..20_000_i64,
            code in prop::sample::select(vec!["USD", "JPY", "KWD"]),
        ) {
            let quote = Quote { currency: code.parse().unwrap(), ..quote() };
            let of = |distance_m, driving_s, waiting_s| fare(&quote, distance_m, driving_s, waiting_s).total.amount;
            let total = of(distance_m, driving_s, waiting_s);
            prop_assert!(of(distance_m + more, driving_s, waiting_s) >= total);
            prop_assert!(of(distance_m, driving_s + more, waiting_s) >= total);
            prop_assert!(of(distance_m, driving_s, waiting_s + more) >= total);
            prop_assert!(total >= quote.fare().total.amount);
        }
    }
}
