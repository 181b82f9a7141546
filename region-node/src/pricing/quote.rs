//! The price a rider saw, signed so that nothing need be stored until the rider takes it.
//!
//! A `quote_id` is an opaque token: the quote's fields and an HMAC over them. Whoever holds the region's master key can
//! check it on any node; nobody else can make one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use shared::{
    geo::Point,
    ids::{RiderId, TenantId},
    money::Currency,
    promotion::Worth,
    tariff::Tariff,
    tenant_config::{CancellationPolicy, TenantConfig},
};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use super::{Fare, Surge};

/// What signs a quote is used for nothing else.
pub const SIGNING_PURPOSE: &str = "quote";
/// Places this close are the same place, metres; a client may round.
const SAME_PLACE_M: f64 = 2.0;

/// A price and all it was made from, so that it can be recomputed at any time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quote {
    pub rider_id: RiderId,
    pub pickup: Point,
    pub dropoff: Point,
    pub vehicle_class: String,
    /// When to be picked up, where the price was asked for with a time.
    #[serde(default, with = "time::serde::timestamp::option", skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<OffsetDateTime>,
    /// The version of the tenant's config that `tariff` is of.
    pub tariff_version: i64,
    /// As it holds for this ride: the rules that apply to it, and the commission.
    pub tariff: Tariff,
    pub surge: Surge,
    /// The cell of the map whose scarcity that was; none while nothing was scarce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surge_cell: Option<String>,
    pub currency: Currency,
    /// What giving the ride up costs. Quotes of releases that asked the config of the day do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancellation: Option<CancellationPolicy>,
    /// What the tenant pays of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promise>,
    pub distance_m: i64,
    pub duration_s: i64,
    /// A trip longer than this percentage of `distance_m` that ended elsewhere is another trip than this one.
    pub reprice_percent: u32,
    /// What ended within this of `dropoff` ended there. Quotes of releases that did not ask where a trip ended say nothing of it.
    #[serde(default)]
    pub same_dropoff_m: u32,
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
}

/// A promotion as it was when its code was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub code: String,
    pub worth: Worth,
}

/// Why a quote cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    #[error("must be a quote_id this service gave out")]
    Forged,
    #[error("was given to somebody else")]
    Foreign,
    #[error("is for another pickup, dropoff or vehicle_class")]
    OtherRide,
    #[error("is for another hour, which has another price; ask for an estimate with scheduled_at")]
    OtherTime,
    #[error("the quote has expired; ask for a new estimate")]
    Expired,
}

/// What is asked for when a quote is taken.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub rider_id: RiderId,
    pub pickup: Point,
    pub dropoff: Point,
    pub vehicle_class: &'a str,
}

impl Quote {
    /// The price.
    pub fn fare(&self) -> Fare {
        Fare::quoted(self)
    }

    /// What giving the ride up costs, in the quote's currency: as it was when this was quoted. Where the quote does not say, it is
    /// as `today`, but for a fee in another currency, of which nobody ever told the rider.
    pub fn cancellation(&self, today: &TenantConfig) -> CancellationPolicy {
        let of_today = today.cancellation;
        let fee = if today.currency == self.currency { of_today.fee } else { 0 };
        self.cancellation.unwrap_or(CancellationPolicy { fee, ..of_today })
    }

    /// The quote as its `quote_id`; `sign` is an HMAC under a key of the region.
    pub fn token(&self, tenant: &TenantId, sign: impl Fn(&[u8]) -> [u8; 32]) -> String {
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a quote is plain data"));
        let signature = URL_SAFE_NO_PAD.encode(sign(&signed_bytes(tenant, &body)));
        format!("{body}.{signature}")
    }

    /// The quote of a `quote_id`, if it is genuine, of this tenant, fresh at `now` and for what is `wanted`.
    pub fn redeem(
        token: &str,
        tenant: &TenantId,
        wanted: Wanted<'_>,
        now: OffsetDateTime,
        sign: impl Fn(&[u8]) -> [u8; 32],
    ) -> Result<Self, QuoteError> {
        let (body, signature) = token.split_once('.').ok_or(QuoteError::Forged)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| QuoteError::Forged)?;
        if !bool::from(signature.ct_eq(&sign(&signed_bytes(tenant, body)))) {
            return Err(QuoteError::Forged);
        }
        let body = URL_SAFE_NO_PAD.decode(body).map_err(|_| QuoteError::Forged)?;
        // Genuine, but perhaps of a release whose quotes looked otherwise: as good as expired.
        let quote: Self = serde_json::from_slice(&body).map_err(|_| QuoteError::Expired)?;
        if quote.rider_id != wanted.rider_id {
            return Err(QuoteError::Foreign);
        }
        if quote.expires_at <= now {
            return Err(QuoteError::Expired);
        }
        let same = |a: Point, b: Point| a.distance_m(b) <= SAME_PLACE_M;
        let fits = same(quote.pickup, wanted.pickup) && same(quote.dropoff, wanted.dropoff);
        if !fits || quote.vehicle_class != wanted.vehicle_class {
            return Err(QuoteError::OtherRide);
        }
        Ok(quote)
    }
}

fn signed_bytes(tenant: &TenantId, body: &str) -> Vec<u8> {
    // A slug has no NUL, so no other tenant and body give these bytes.
    [tenant.as_str().as_bytes(), b"\0", body.as_bytes()].concat()
}

#[cfg(test)]
pub(super) mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    pub(in crate::pricing) fn quote() -> Quote {
        Quote {
            rider_id: RiderId(uuid::Uuid::from_u128(7)),
            pickup: Point::new(40.758, -73.9855),
            dropoff: Point::new(40.7061, -74.0087),
            vehicle_class: "standard".into(),
            scheduled_at: None,
            tariff_version: 3,
            tariff: Tariff { tax_percent: 8.into(), ..Tariff::default() },
            surge: Surge::from_hundredths(120),
            surge_cell: Some("872a100d2ffffff".into()),
            currency: Currency::USD,
            cancellation: Some(CancellationPolicy { free_seconds: 120, fee: 500, no_show_wait_seconds: 300 }),
            promotion: None,
            distance_m: 7_900,
            duration_s: 1_140,
            reprice_percent: 150,
            same_dropoff_m: 500,
            expires_at: NOW + Duration::minutes(5),
        }
    }

    fn sign(bytes: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&[9; 32], bytes).as_bytes()
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn wanted(quote: &Quote) -> Wanted<'_> {
        let Quote { rider_id, pickup, dropoff, vehicle_class, .. } = quote;
        Wanted { rider_id: *rider_id, pickup: *pickup, dropoff: *dropoff, vehicle_class }
    }

    #[test]
    fn a_quote_comes_back_as_it_was_given_out() {
        let quote = quote();
        let token = quote.token(&tenant("cabs"), sign);
        assert_eq!(Quote::redeem(&token, &tenant("cabs"), wanted(&quote), NOW, sign), Ok(quote));
    }

    #[test]
    fn giving_up_costs_what_it_did_when_the_price_was_seen() {
        let quote = quote();
        let dearer = CancellationPolicy { free_seconds: 10, fee: 5_000, no_show_wait_seconds: 60 };
        let today = |currency: &str| TenantConfig {
            currency: currency.parse().unwrap(),
            cancellation: dearer,
            ..TenantConfig::default()
        };
        for currency in ["USD", "INR"] {
            assert_eq!(Some(quote.cancellation(&today(currency))), quote.cancellation);
        }
        let mut older = serde_json::to_value(&quote).unwrap();
        older.as_object_mut().unwrap().remove("cancellation").unwrap();
        let older: Quote = serde_json::from_value(older).unwrap();
        assert_eq!(older.cancellation(&today("USD")), dearer);
        assert_eq!(older.cancellation(&today("INR")), CancellationPolicy { fee: 0, ..dearer });
    }

    #[test]
    fn a_forged_altered_or_foreign_quote_is_refused() {
        let quote = quote();
        let token = quote.token(&tenant("cabs"), sign);
        let redeem = |token: &str, at| Quote::redeem(token, &tenant(at), wanted(&quote), NOW, sign);
        let cheap = Quote { tariff: Tariff { base: 0, ..quote.tariff.clone() }, ..quote.clone() };
        let cheap_body = cheap.token(&tenant("cabs"), sign).split_once('.').unwrap().0.to_owned();
        let (_, signature) = token.split_once('.').unwrap();
        for bad in ["", ".", "x.y", "8f4e", &format!("{cheap_body}.{signature}"), &format!("{token}A")] {
            assert_eq!(redeem(bad, "cabs"), Err(QuoteError::Forged), "{bad}");
        }
        assert_eq!(redeem(&token, "other-cabs"), Err(QuoteError::Forged));
        let other_key = |bytes: &[u8]| *blake3::keyed_hash(&[8; 32], bytes).as_bytes();
        assert_eq!(Quote::redeem(&token, &tenant("cabs"), wanted(&quote), NOW, other_key), Err(QuoteError::Forged));
    }

    #[test]
    fn a_quote_serves_its_rider_its_ride_and_its_time_alone() {
        let quote = quote();
        let token = quote.token(&tenant("cabs"), sign);
        let redeem = |wanted, now| Quote::redeem(&token, &tenant("cabs"), wanted, now, sign).map(|_| ());
        let stranger = Wanted { rider_id: RiderId(uuid::Uuid::from_u128(8)), ..wanted(&quote) };
        assert_eq!(redeem(stranger, NOW), Err(QuoteError::Foreign));
        let elsewhere = Wanted { dropoff: Point::new(40.8, -74.0), ..wanted(&quote) };
        assert_eq!(redeem(elsewhere, NOW), Err(QuoteError::OtherRide));
        let larger = Wanted { vehicle_class: "xl", ..wanted(&quote) };
        assert_eq!(redeem(larger, NOW), Err(QuoteError::OtherRide));
        assert_eq!(redeem(wanted(&quote), NOW + Duration::minutes(5)), Err(QuoteError::Expired));
        assert_eq!(redeem(wanted(&quote), NOW + Duration::seconds(299)), Ok(()));
    }
}
