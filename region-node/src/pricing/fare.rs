//! What a driven trip costs.

use serde::{Deserialize, Serialize};
use shared::money::Money;

use super::{Measured, Quote, Surge, tariff};

/// What a trip costs and why; the lines sum to the total.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Fare {
    pub total: Money,
    pub lines: Vec<FareLine>,
    /// The version of the tenant's config whose tariff was applied.
    pub tariff_version: i64,
    pub surge_multiplier: Surge,
    /// Whether the quoted distance and time were charged; false if the trip became so much longer that it was priced from
    /// its trace.
    pub quoted: bool,
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
    Distance,
    Time,
    Waiting,
    Surge,
    Minimum,
    BookingFee,
    Tax,
    /// A ride given up too late; alone on its receipt.
    CancellationFee,
}

/// A trip as it was driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Travelled {
    /// Along the trace; none if the trace is too thin to measure.
    pub distance_m: Option<i64>,
    /// From start to end, pauses not counted.
    pub driving_s: i64,
    /// Paused.
    pub waiting_s: i64,
}

impl Fare {
    /// The fare of a trip: the quoted distance and time, and its pauses as waiting. Only a trip longer than
    /// `reprice_percent` of the quoted distance is another trip than the one quoted; it is priced as driven, and never
    /// below the quote.
    pub fn of(quote: &Quote, travelled: Travelled, reprice_percent: u32) -> Self {
        let waiting_s = travelled.waiting_s;
        let promised = Measured { distance_m: quote.distance_m, driving_s: quote.duration_s, waiting_s };
        let limit = i128::from(quote.distance_m) * i128::from(reprice_percent);
        match travelled.distance_m {
            Some(distance_m) if i128::from(distance_m) * 100 > limit => {
                let driving_s = travelled.driving_s.max(quote.duration_s);
                Self::price(quote, Measured { distance_m, driving_s, waiting_s }, false)
            }
            _ => Self::price(quote, promised, true),
        }
    }

    /// The price of a quote.
    pub(super) fn quoted(quote: &Quote) -> Self {
        let measured = Measured { distance_m: quote.distance_m, driving_s: quote.duration_s, waiting_s: 0 };
        Self::price(quote, measured, true)
    }

    fn price(quote: &Quote, measured: Measured, quoted: bool) -> Self {
        let (total, lines) = tariff::price(&quote.tariff, quote.surge, quote.currency, measured);
        Self { total, lines, tariff_version: quote.tariff_version, surge_multiplier: quote.surge, quoted }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pricing::quote::tests::quote;

    const REPRICE_PERCENT: u32 = 150;

    fn fare(quote: &Quote, distance_m: impl Into<Option<i64>>, driving_s: i64, waiting_s: i64) -> Fare {
        let travelled = Travelled { distance_m: distance_m.into(), driving_s, waiting_s };
        Fare::of(quote, travelled, REPRICE_PERCENT)
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
        let fare = fare(&quote, quote.distance_m, quote.duration_s, 120);
        let waiting = fare.lines.iter().find(|line| line.code == LineCode::Waiting).unwrap();
        assert_eq!(waiting.amount.amount, 2 * quote.tariff.waiting_per_minute);
        assert!(fare.quoted);
        assert!(fare.total.amount > quote.fare().total.amount);
    }

    #[test]
    fn a_much_longer_trip_is_priced_as_driven() {
        let quote = quote();
        let long = fare(&quote, quote.distance_m * 2, quote.duration_s * 2, 0);
        assert!(!long.quoted);
        assert!(long.total.amount > quote.fare().total.amount);
    }

    proptest! {
        #[test]
        fn a_fare_never_falls_with_distance_time_or_waiting(
            distance_m in 0..60_000_i64, driving_s in 0..7_200_i64, waiting_s in 0..3_600_i64, more in 0..20_000_i64,
        ) {
            let quote = quote();
            let of = |distance_m, driving_s, waiting_s| fare(&quote, distance_m, driving_s, waiting_s).total.amount;
            let total = of(distance_m, driving_s, waiting_s);
            prop_assert!(of(distance_m + more, driving_s, waiting_s) >= total);
            prop_assert!(of(distance_m, driving_s + more, waiting_s) >= total);
            prop_assert!(of(distance_m, driving_s, waiting_s + more) >= total);
            prop_assert!(total >= quote.fare().total.amount);
        }
    }
}
