//! A tariff's arithmetic: what was measured becomes lines of money.
//!
//! The rounding rule: each line is rounded half up to the currency's minor unit on its own, and the total is the sum of the
//! lines as shown. Each line grows with distance and time, so the total does too. Where a currency has digits that cannot be charged
//! ([`Currency::charge_step`]), the fare rounds the total once more, on a line of its own.

use shared::{
    money::{Currency, Money, share},
    tariff::{Percent, Tariff, ZonePrice},
};

use super::{FareLine, LineCode, Surge};

/// What a price is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    pub distance_m: i64,
    /// On the way, pauses not counted.
    pub driving_s: i64,
    /// At the pick-up and paused.
    pub waiting_s: i64,
    /// Tolls the driver declared, minor units.
    pub declared_tolls: i64,
}

/// What a way is priced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// What was promised: a flat fare, where there is one.
    Quote,
    /// Its length and time.
    Way,
}

/// A price.
pub(super) struct Price {
    pub(super) total: Money,
    /// They sum to the total; lines of nothing are left out, but the first always stands.
    pub(super) lines: Vec<FareLine>,
    /// The tax within the lines, where prices contain it.
    pub(super) included_tax: Option<Money>,
}

/// Prices a ride by a tariff of which all rules apply to it.
pub(super) fn price(tariff: &Tariff, surge: Surge, currency: Currency, measured: Measured, basis: Basis) -> Price {
    let Measured { distance_m, driving_s, waiting_s, declared_tolls } = measured;
    let money = |amount| Money::new(amount, currency);
    let line = |code, description: String, amount| FareLine { code, description, amount: money(amount) };
    let (per_km, per_minute) = (money(tariff.per_km), money(tariff.per_minute));
    let rules = |kind| tariff.zones.iter().filter(move |rule| rule.kind == kind);
    let named = |name: &str, zone: &str| if name.is_empty() { zone.to_owned() } else { name.to_owned() };

    let flat = rules(ZonePrice::Flat).next().filter(|_| basis == Basis::Quote);
    let mut lines = match flat {
        Some(rule) => vec![line(LineCode::Flat, format!("Flat fare: {}", named(&rule.name, &rule.zone)), rule.amount)],
        None => vec![
            line(LineCode::Base, "Base fare".into(), tariff.base),
            line(
                LineCode::Distance,
                format!("{} at {per_km} per km", kilometres(distance_m)),
                share(tariff.per_km, distance_m, 1000),
            ),
            line(
                LineCode::Time,
                format!("{} at {per_minute} per minute", minutes(driving_s)),
                share(tariff.per_minute, driving_s, 60),
            ),
        ],
    };
    let driven = sum(&lines);
    let waiting_s = waiting_s.saturating_sub(i64::from(tariff.free_waiting_minutes) * 60).max(0);
    let waiting = share(tariff.waiting_per_minute, waiting_s, 60);
    lines.push(line(LineCode::Waiting, format!("{} of waiting", minutes(waiting_s)), waiting));
    if flat.is_none() {
        let raised = share(driven, i64::from(surge.hundredths()) - 100, 100);
        lines.push(line(LineCode::Surge, format!("High demand, x{:.2}", f64::from(surge)), raised));
        let top_up = tariff.minimum.saturating_sub(sum(&lines)).max(0);
        let minimum = format!("Up to the minimum fare of {}", money(tariff.minimum));
        lines.push(line(LineCode::Minimum, minimum, top_up));
    }
    for rule in &tariff.night {
        let night = share(driven, rule.raise_percent.into(), 100).saturating_add(rule.extra);
        lines.push(line(LineCode::Night, format!("From {} to {}", rule.from, rule.to), night));
    }
    for rule in rules(ZonePrice::Extra) {
        lines.push(line(LineCode::Extra, named(&rule.name, &rule.zone), rule.amount));
    }
    lines.push(line(LineCode::BookingFee, "Booking fee".into(), tariff.booking_fee));
    let rate = tariff.tax_percent.thousandths();
    let included_tax = match tariff.tax_included {
        true => Some(money(share(sum(&lines), rate, Percent::WHOLE + rate))).filter(|tax| tax.amount > 0),
        false => {
            let tax = share(sum(&lines), rate, Percent::WHOLE);
            lines.push(line(LineCode::Tax, format!("Tax, {}", tariff.tax_percent), tax));
            None
        }
    };
    for rule in rules(ZonePrice::Toll) {
        lines.push(line(LineCode::Toll, format!("Toll: {}", named(&rule.name, &rule.zone)), rule.amount));
    }
    lines.push(line(LineCode::DeclaredTolls, "Tolls on the way".into(), declared_tolls.max(0)));
    let first = lines[0].code;
    lines.retain(|line| line.code == first || line.amount.amount != 0);
    Price { total: money(sum(&lines)), lines, included_tax }
}

fn sum(lines: &[FareLine]) -> i64 {
    lines.iter().fold(0, |sum, line| sum.saturating_add(line.amount.amount))
}

/// `12.4 km`.
pub(crate) fn kilometres(distance_m: i64) -> String {
    let tenths = (distance_m.max(0) + 50) / 100;
    format!("{}.{} km", tenths / 10, tenths % 10)
}

/// `17 min 05 s`.
pub(crate) fn minutes(duration_s: i64) -> String {
    let duration_s = duration_s.max(0);
    format!("{} min {:02} s", duration_s / 60, duration_s % 60)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use shared::tariff::{NightRule, ZoneEnd, ZoneRule};

    use super::*;

    fn city() -> Tariff {
        Tariff {
            base: 250,
            per_km: 123,
            per_minute: 37,
            waiting_per_minute: 40,
            free_waiting_minutes: 0,
            minimum: 700,
            booking_fee: 100,
            tax_percent: Percent::from(9),
            ..Tariff::default()
        }
    }

    fn priced(tariff: &Tariff, surge: u32, distance_m: i64, driving_s: i64, waiting_s: i64) -> (i64, Vec<FareLine>) {
        let measured = Measured { distance_m, driving_s, waiting_s, declared_tolls: 0 };
        let Price { total, lines, .. } =
            price(tariff, Surge::from_hundredths(surge), Currency::USD, measured, Basis::Quote);
        (total.amount, lines)
    }

    #[test]
    fn nights_zones_and_tolls_have_lines_of_their_own_and_tolls_no_tax() {
        let rules = serde_json::json!({
            "base": 1000, "per_km": 0, "per_minute": 0, "minimum": 0, "booking_fee": 0, "tax_percent": 10,
            "night": [{"from": "22:00", "to": "06:00", "raise_percent": 25, "extra": 50}],
            "zones": [
                {"zone": "jfk", "at": "either", "kind": "extra", "amount": 300, "name": "Airport fee"},
                {"zone": "tunnel", "at": "either", "kind": "toll", "amount": 700},
            ],
        });
        let mut tariff: Tariff = serde_json::from_value(rules).unwrap();
        let measured = Measured { distance_m: 1, driving_s: 1, waiting_s: 180, declared_tolls: 40 };
        let of = |tariff: &Tariff| price(tariff, Surge::NONE, Currency::USD, measured, Basis::Quote);
        let expected = [
            (LineCode::Base, 1_000),
            (LineCode::Night, 300),
            (LineCode::Extra, 300),
            (LineCode::Tax, 160),
            (LineCode::Toll, 700),
            (LineCode::DeclaredTolls, 40),
        ];
        assert_eq!(amounts(&of(&tariff).lines), expected);
        tariff.tax_included = true;
        let included = of(&tariff);
        // A tenth on top of 1454.5 is 1600.
        assert_eq!((included.total.amount, included.included_tax.unwrap().amount), (2_340, 145));
    }

    fn amounts(lines: &[FareLine]) -> Vec<(LineCode, i64)> {
        lines.iter().map(|line| (line.code, line.amount.amount)).collect()
    }

    #[test]
    fn a_ride_is_priced_line_by_line() {
        let (total, lines) = priced(&city(), 150, 8_400, 1_230, 90);
        let expected = [
            (LineCode::Base, 250),
            (LineCode::Distance, 1_033), // 8.4 × 123 = 1033.2
            (LineCode::Time, 759),       // 20.5 × 37 = 758.5
            (LineCode::Waiting, 60),
            (LineCode::Surge, 1_021), // half of 2042
            (LineCode::BookingFee, 100),
            (LineCode::Tax, 290), // 9 % of 3223 = 290.07
        ];
        assert_eq!(amounts(&lines), expected);
        assert_eq!(total, 3_513);
        assert_eq!(lines[1].description, "8.4 km at 1.23 USD per km");
        assert_eq!(lines[2].description, "20 min 30 s at 0.37 USD per minute");
        assert_eq!(lines[4].description, "High demand, x1.50");
    }

    fn in_currency(code: &str, tariff: &Tariff, surge: u32) -> (Money, Vec<(LineCode, i64)>) {
        let measured = Measured { distance_m: 8_450, driving_s: 1_235, waiting_s: 95, declared_tolls: 0 };
        let currency = code.parse().unwrap();
        let Price { total, lines, .. } = price(tariff, Surge::from_hundredths(surge), currency, measured, Basis::Quote);
        (total, amounts(&lines))
    }

    #[test]
    fn a_ride_in_jpy_is_rounded_line_by_line_to_whole_yen() {
        let tokyo = Tariff {
            base: 500,
            per_km: 235,
            per_minute: 45,
            waiting_per_minute: 45,
            free_waiting_minutes: 0,
            minimum: 700,
            booking_fee: 120,
            tax_percent: Percent::from(10),
            ..Tariff::default()
        };
        let expected = [
            (LineCode::Base, 500),
            (LineCode::Distance, 1_986), // 8.45 × 235 = 1985.75
            (LineCode::Time, 926),       // 20.58 × 45 = 926.25
            (LineCode::Waiting, 71),     // 1.58 × 45 = 71.25
            (LineCode::Surge, 853),      // a quarter of 3412
            (LineCode::BookingFee, 120),
            (LineCode::Tax, 446), // 10 % of 4456 = 445.6
        ];
        let (total, lines) = in_currency("JPY", &tokyo, 125);
        assert_eq!((total.to_string(), lines.as_slice()), ("4902 JPY".into(), expected.as_slice()));
    }

    #[test]
    fn a_ride_in_kwd_is_rounded_line_by_line_to_the_fils() {
        let kuwait = Tariff {
            base: 500,
            per_km: 123,
            per_minute: 37,
            waiting_per_minute: 40,
            free_waiting_minutes: 0,
            minimum: 750,
            booking_fee: 100,
            tax_percent: Percent::from(5),
            ..Tariff::default()
        };
        let expected = [
            (LineCode::Base, 500),
            (LineCode::Distance, 1_039), // 8.45 × 123 = 1039.35
            (LineCode::Time, 762),       // 20.58 × 37 = 761.6
            (LineCode::Waiting, 63),     // 1.58 × 40 = 63.3
            (LineCode::BookingFee, 100),
            (LineCode::Tax, 123), // 5 % of 2464 = 123.2
        ];
        let (total, lines) = in_currency("KWD", &kuwait, 100);
        assert_eq!((total.to_string(), lines.as_slice()), ("2.587 KWD".into(), expected.as_slice()));
    }

    #[test]
    fn a_short_ride_costs_the_minimum_plus_fee_and_tax() {
        let (total, lines) = priced(&city(), 100, 0, 0, 0);
        let expected =
            [(LineCode::Base, 250), (LineCode::Minimum, 450), (LineCode::BookingFee, 100), (LineCode::Tax, 72)];
        assert_eq!(amounts(&lines), expected);
        assert_eq!(total, 872);
    }

    #[test]
    fn a_free_tariff_still_has_a_line() {
        let free = Tariff {
            base: 0,
            per_km: 0,
            per_minute: 0,
            waiting_per_minute: 0,
            minimum: 0,
            booking_fee: 0,
            ..Tariff::default()
        };
        let (total, lines) = priced(&free, 300, 5_000, 900, 10);
        assert_eq!((total, amounts(&lines)), (0, vec![(LineCode::Base, 0)]));
    }

    prop_compose! {
        pub(in crate::pricing) fn any_tariff()(
            base in 0..=100_000_000_i64, per_km in 0..=100_000_000_i64, per_minute in 0..=100_000_000_i64,
            waiting_per_minute in 0..=100_000_000_i64, minimum in 0..=100_000_000_i64,
            booking_fee in 0..=100_000_000_i64, tax in 0..=100_000_u32, tax_included: bool, free_waiting_minutes in 0..=60_u32,
            rules in prop::collection::vec((0..3_usize, 0..=100_000_000_i64), 0..4), raise_percent in 0..=300_u32,
        ) -> Tariff {
            let kinds = [ZonePrice::Extra, ZonePrice::Flat, ZonePrice::Toll];
            let (at, from, to) = (ZoneEnd::Either, "22:00".parse().unwrap(), "06:00".parse().unwrap());
            let rule = |(kind, amount): (usize, i64)| ZoneRule {
                zone: "jfk".into(), at, kind: kinds[kind], amount, name: String::new(),
            };
            Tariff {
                base, per_km, per_minute, waiting_per_minute, free_waiting_minutes, minimum, booking_fee, tax_included,
                tax_percent: Percent::from_thousandths(tax),
                night: vec![NightRule { from, to, days: Default::default(), raise_percent, extra: 0 }],
                zones: rules.into_iter().map(rule).collect(),
                ..Tariff::default()
            }
        }
    }

    proptest! {
        #[test]
        fn lines_sum_to_the_total_exactly(
            tariff in any_tariff(), surge in 100..=1000_u32,
            distance_m in 0..=40_000_000_i64, driving_s in 0..=2_592_000_i64, waiting_s in 0..=2_592_000_i64,
        ) {
            let (total, lines) = priced(&tariff, surge, distance_m, driving_s, waiting_s);
            prop_assert_eq!(total, lines.iter().map(|line| line.amount.amount).sum::<i64>());
            let is_flat = lines[0].code == LineCode::Flat;
            prop_assert!(is_flat || total >= tariff.minimum + tariff.booking_fee);
        }

        #[test]
        fn a_price_never_falls_with_distance_time_waiting_or_surge(
            tariff in any_tariff(), surge in 100..=1000_u32,
            distance_m in 0..=1_000_000_i64, driving_s in 0..=86_400_i64, waiting_s in 0..=86_400_i64,
            more in 0..=10_000_i64,
        ) {
            let of = |surge, distance_m, driving_s, waiting_s| priced(&tariff, surge, distance_m, driving_s, waiting_s).0;
            let total = of(surge, distance_m, driving_s, waiting_s);
            prop_assert!(of(surge, distance_m + more, driving_s, waiting_s) >= total);
            prop_assert!(of(surge, distance_m, driving_s + more, waiting_s) >= total);
            prop_assert!(of(surge, distance_m, driving_s, waiting_s + more) >= total);
            prop_assert!(of(surge + more as u32, distance_m, driving_s, waiting_s) >= total);
        }
    }
}
