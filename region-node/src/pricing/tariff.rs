//! A tariff's arithmetic: what was measured becomes lines of money.
//!
//! The rounding rule: each line is rounded half up to the currency's minor unit on its own, and the total is the sum of the
//! lines as shown, never rounded again. Each line grows with distance and time, so the total does too.

use shared::{
    money::{Currency, Money},
    tenant_config::Tariff,
};

use super::{FareLine, LineCode, Surge};

/// What a price is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    pub distance_m: i64,
    /// On the way, pauses not counted.
    pub driving_s: i64,
    /// Paused.
    pub waiting_s: i64,
}

/// The lines of a price and their sum; lines of nothing are left out, but the first always stands.
pub(super) fn price(tariff: &Tariff, surge: Surge, currency: Currency, measured: Measured) -> (Money, Vec<FareLine>) {
    let Measured { distance_m, driving_s, waiting_s } = measured;
    let money = |amount| Money::new(amount, currency);
    let (per_km, per_minute) = (money(tariff.per_km), money(tariff.per_minute));

    let distance = share(tariff.per_km, distance_m, 1000);
    let time = share(tariff.per_minute, driving_s, 60);
    let waiting = share(tariff.waiting_per_minute, waiting_s, 60);
    let driven = tariff.base.saturating_add(distance).saturating_add(time);
    let raised = share(driven, i64::from(surge.hundredths()) - 100, 100);
    let ridden = driven.saturating_add(waiting).saturating_add(raised);
    let top_up = tariff.minimum.saturating_sub(ridden).max(0);
    let before_tax = ridden.saturating_add(top_up).saturating_add(tariff.booking_fee);
    let tax = share(before_tax, tariff.tax_percent.into(), 100);

    let line = |code, description: String, amount| FareLine { code, description, amount: money(amount) };
    let lines = vec![
        line(LineCode::Base, "Base fare".into(), tariff.base),
        line(LineCode::Distance, format!("{} at {per_km} per km", kilometres(distance_m)), distance),
        line(LineCode::Time, format!("{} at {per_minute} per minute", minutes(driving_s)), time),
        line(LineCode::Waiting, format!("{} of waiting", minutes(waiting_s)), waiting),
        line(LineCode::Surge, format!("High demand, x{:.2}", f64::from(surge)), raised),
        line(LineCode::Minimum, format!("Up to the minimum fare of {}", money(tariff.minimum)), top_up),
        line(LineCode::BookingFee, "Booking fee".into(), tariff.booking_fee),
        line(LineCode::Tax, format!("Tax, {} %", tariff.tax_percent), tax),
    ];
    let shown = lines.into_iter().filter(|line| line.code == LineCode::Base || line.amount.amount != 0).collect();
    (money(before_tax.saturating_add(tax)), shown)
}

/// `amount` × `part` / `whole`, rounded half up; negative parts count as none.
fn share(amount: i64, part: i64, whole: i64) -> i64 {
    let (amount, part, whole) = (i128::from(amount), i128::from(part.max(0)), i128::from(whole));
    i64::try_from((amount * part * 2 + whole) / (whole * 2)).unwrap_or(i64::MAX)
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CITY: Tariff = Tariff {
        base: 250,
        per_km: 123,
        per_minute: 37,
        waiting_per_minute: 40,
        minimum: 700,
        booking_fee: 100,
        tax_percent: 9,
    };

    fn priced(tariff: &Tariff, surge: u32, distance_m: i64, driving_s: i64, waiting_s: i64) -> (i64, Vec<FareLine>) {
        let measured = Measured { distance_m, driving_s, waiting_s };
        let (total, lines) = price(tariff, Surge::from_hundredths(surge), Currency::USD, measured);
        (total.amount, lines)
    }

    fn amounts(lines: &[FareLine]) -> Vec<(LineCode, i64)> {
        lines.iter().map(|line| (line.code, line.amount.amount)).collect()
    }

    #[test]
    fn a_ride_is_priced_line_by_line() {
        let (total, lines) = priced(&CITY, 150, 8_400, 1_230, 90);
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

    #[test]
    fn a_short_ride_costs_the_minimum_plus_fee_and_tax() {
        let (total, lines) = priced(&CITY, 100, 0, 0, 0);
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
            tax_percent: 0,
        };
        let (total, lines) = priced(&free, 300, 5_000, 900, 10);
        assert_eq!((total, amounts(&lines)), (0, vec![(LineCode::Base, 0)]));
    }

    prop_compose! {
        fn any_tariff()(
            base in 0..=100_000_000_i64, per_km in 0..=100_000_000_i64, per_minute in 0..=100_000_000_i64,
            waiting_per_minute in 0..=100_000_000_i64, minimum in 0..=100_000_000_i64,
            booking_fee in 0..=100_000_000_i64, tax_percent in 0..=100_u8,
        ) -> Tariff {
            Tariff { base, per_km, per_minute, waiting_per_minute, minimum, booking_fee, tax_percent }
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
            prop_assert!(total >= tariff.minimum + tariff.booking_fee);
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
