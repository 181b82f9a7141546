//! Money: an integer of minor units and an ISO 4217 code, never a float.
#![warn(clippy::arithmetic_side_effects)]

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An ISO 4217 currency this platform can charge in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency {
    code: [u8; 3],
    /// Digits after the point: 2 for most, 0 for JPY, 3 for KWD.
    exponent: u8,
}

/// Three letters that name no currency we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an ISO 4217 currency this platform supports")]
pub struct UnknownCurrency(String);

/// Currencies with two digits after the point, ISO 4217:2015 and its amendments, those in daily use.
const TWO_DIGITS: &[&str] = &[
    "AED", "ARS", "AUD", "BDT", "BGN", "BRL", "CAD", "CHF", "CNY", "COP", "CZK", "DKK", "EGP", "EUR", "GBP", "GHS",
    "HKD", "HUF", "IDR", "ILS", "INR", "KES", "LKR", "MAD", "MXN", "MYR", "NGN", "NOK", "NPR", "NZD", "PEN", "PHP",
    "PKR", "PLN", "QAR", "RON", "RSD", "SAR", "SEK", "SGD", "THB", "TRY", "TWD", "TZS", "UAH", "USD", "UYU", "ZAR",
];
const NO_DIGITS: &[&str] = &["CLP", "ISK", "JPY", "KRW", "PYG", "RWF", "UGX", "VND", "XAF", "XOF"];
const THREE_DIGITS: &[&str] = &["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"];

impl Currency {
    /// US dollars, what an unconfigured tenant charges in.
    pub const USD: Self = Self { code: *b"USD", exponent: 2 };

    /// The three letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).expect("only ASCII codes are ever stored")
    }

    /// Digits after the point.
    pub fn exponent(self) -> u8 {
        self.exponent
    }

    /// What riders pay is a multiple of this, in minor units: where a currency has three digits, card networks take a last one of
    /// zero alone.
    pub fn charge_step(self) -> i64 {
        if self.exponent == 3 { 10 } else { 1 }
    }
}

impl utoipa::PartialSchema for Currency {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        let text = utoipa::openapi::schema::Type::String;
        utoipa::openapi::ObjectBuilder::new().schema_type(text).pattern(Some("^[A-Z]{3}$")).examples(["USD"]).into()
    }
}
impl utoipa::ToSchema for Currency {}

impl FromStr for Currency {
    type Err = UnknownCurrency;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let exponent = [(TWO_DIGITS, 2), (NO_DIGITS, 0), (THREE_DIGITS, 3)]
            .into_iter()
            .find_map(|(codes, exponent)| codes.contains(&text).then_some(exponent));
        match (text.as_bytes().try_into(), exponent) {
            (Ok(code), Some(exponent)) => Ok(Self { code, exponent }),
            _ => Err(UnknownCurrency(text.chars().take(8).collect())),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = UnknownCurrency;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> String {
        currency.code().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount in the currency's minor unit (cents, paise; whole yen).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(example = json!({"amount": 1250, "currency": "USD"}))]
pub struct Money {
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: Currency,
}

impl Money {
    /// `amount` minor units of `currency`.
    pub fn new(amount: i64, currency: Currency) -> Self {
        Self { amount, currency }
    }

    /// What of it can be charged: rounded half up to a multiple of [`Currency::charge_step`].
    #[must_use]
    pub fn to_charge(self) -> Self {
        let step = self.currency.charge_step();
        let raised = self.amount.saturating_add(step / 2);
        Self { amount: raised.saturating_sub(raised.checked_rem_euclid(step).unwrap_or(0)), ..self }
    }
}

impl fmt::Display for Money {
    /// `12.50 USD`, `-3.00 EUR`, `800 JPY`, `1.250 KWD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = 10_u64.pow(self.currency.exponent.into());
        let units = self.amount.unsigned_abs();
        let (whole, rest) = (units.checked_div(scale).unwrap_or(units), units.checked_rem(scale).unwrap_or(0));
        let sign = if self.amount < 0 { "-" } else { "" };
        match self.currency.exponent {
            0 => write!(f, "{sign}{whole} {}", self.currency),
            digits => write!(f, "{sign}{whole}.{rest:0width$} {}", self.currency, width = usize::from(digits)),
        }
    }
}

/// `amount` × `part` / `whole`, rounded half up to the minor unit; negative parts count as none.
pub fn share(amount: i64, part: i64, whole: i64) -> i64 {
    let (amount, part, whole) = (i128::from(amount), i128::from(part.max(0)), i128::from(whole));
    let doubled = amount.saturating_mul(part).saturating_mul(2).saturating_add(whole);
    let rounded = doubled.checked_div(whole.saturating_mul(2)).unwrap_or(0);
    i64::try_from(rounded).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_with_its_currency_s_digits() {
        let written = |amount, code: &str| Money::new(amount, code.parse().unwrap()).to_string();
        assert_eq!(written(1250, "USD"), "12.50 USD");
        assert_eq!(written(-5, "EUR"), "-0.05 EUR");
        assert_eq!(written(800, "JPY"), "800 JPY");
        assert_eq!(written(1250, "KWD"), "1.250 KWD");
        assert_eq!(written(i64::MIN, "USD"), "-92233720368547758.08 USD");
    }

    #[test]
    fn what_is_charged_has_no_third_digit() {
        let charged = |amount, code: &str| Money::new(amount, code.parse().unwrap()).to_charge().amount;
        for (amount, to_charge) in [(2_587, 2_590), (2_585, 2_590), (2_584, 2_580), (4, 0), (-5, 0), (-6, -10)] {
            assert_eq!(charged(amount, "KWD"), to_charge, "{amount}");
        }
        assert_eq!((charged(2_587, "USD"), charged(2_587, "JPY")), (2_587, 2_587));
    }

    #[test]
    fn an_unknown_currency_is_refused() {
        for bad in ["usd", "XXX", "US", "USDD", ""] {
            assert!(bad.parse::<Currency>().is_err(), "{bad}");
        }
    }
}
