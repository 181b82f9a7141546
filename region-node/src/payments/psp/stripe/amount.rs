use shared::money::Money;

/// Zero-decimal currencies that Stripe, for the sake of its older clients, takes with two digits that must be zero.
const TWO_DIGITS_AT_STRIPE: [&str; 2] = ["ISK", "UGX"];
/// Three-decimal currencies Stripe charges in; their last digit must be zero.
const THREE_DIGITS_AT_STRIPE: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];

/// An order in this amount would be refused, so it is not sent.
pub(super) const NOT_CHARGEABLE: &str = "amount_not_chargeable";

/// `money` in what Stripe counts its currency in; none if it cannot be charged there.
pub(super) fn at_stripe(money: Money) -> Option<i64> {
    let (amount, code) = (money.amount, money.currency.code());
    match money.currency.exponent() {
        _ if amount < 1 => None,
        0 if TWO_DIGITS_AT_STRIPE.contains(&code) => amount.checked_mul(100),
        3 => Some(amount).filter(|amount| THREE_DIGITS_AT_STRIPE.contains(&code) && amount % 10 == 0),
        _ => Some(amount),
    }
}

/// The amount in our minor units of what Stripe counts as `amount`.
pub(super) fn from_stripe(amount: i64, currency: &str) -> i64 {
    if TWO_DIGITS_AT_STRIPE.contains(&currency) { amount / 100 } else { amount }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_currency_is_counted_as_stripe_counts_it() {
        let sent = |amount, code: &str| at_stripe(Money::new(amount, code.parse().unwrap()));
        assert_eq!(sent(1250, "USD"), Some(1250));
        assert_eq!(sent(800, "JPY"), Some(800), "no decimals");
        assert_eq!(sent(800, "ISK"), Some(80_000), "no decimals, but Stripe writes two");
        assert_eq!(sent(1_250, "KWD"), Some(1_250));
        assert_eq!(sent(1_255, "KWD"), None, "must be a multiple of ten");
        assert_eq!(sent(1_250, "IQD"), None, "not charged in there");
        for (amount, code) in [(1_250, "USD"), (800, "JPY"), (800, "ISK"), (1_250, "KWD")] {
            assert_eq!(sent(amount, code).map(|at_stripe| from_stripe(at_stripe, code)), Some(amount), "{code}");
        }
        assert_eq!((sent(0, "USD"), sent(-1, "USD"), sent(i64::MAX, "UGX")), (None, None, None));
    }
}
