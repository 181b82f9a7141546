//! Signed webhooks: `t=<unix seconds>,v1=<hex>`, an HMAC-SHA256 over `<unix seconds>.<body>`, as Stripe signs its own.

use axum::http::HeaderValue;
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use time::{Duration, OffsetDateTime};

use crate::payments::PaymentError;

/// A signature older (or newer) than this is refused, so that a captured webhook cannot be sent again later.
const TOLERANCE: Duration = Duration::minutes(5);

/// An event as payment services send one: its id, when it was made, and what it is about.
#[derive(Deserialize)]
pub(super) struct Event<T> {
    pub(super) id: String,
    /// Unix seconds, where it says so.
    #[serde(default)]
    created: serde_json::Value,
    pub(super) data: T,
}

impl<T> Event<T> {
    /// When it was made: unlike the time of its signature, that stays however often it is sent.
    pub(super) fn made_at(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp(self.created.as_i64()?).ok()
    }
}

/// Reads an event that `header` signs with one of `secrets`, about now.
pub(super) fn open<'a, T: DeserializeOwned>(
    secrets: impl IntoIterator<Item = &'a SecretString>,
    header: Option<&HeaderValue>,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<Event<T>, PaymentError> {
    let header = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !secrets.into_iter().any(|secret| verify(secret.expose_secret().as_bytes(), header, body, now)) {
        return Err(PaymentError::InvalidSignature);
    }
    let event: Event<T> =
        serde_json::from_slice(body).map_err(|error| PaymentError::MalformedEvent(error.to_string()))?;
    if !(1..=255).contains(&event.id.len()) {
        return Err(PaymentError::MalformedEvent("id must have 1 to 255 bytes".into()));
    }
    Ok(event)
}

/// Whether `header` signs `body` with `secret`, about now. Several `v1` are allowed, for when a secret is changed.
fn verify(secret: &[u8], header: &str, body: &[u8], now: OffsetDateTime) -> bool {
    let field = |name: &'static str| {
        header.split(',').filter_map(move |part| part.trim().split_once('=').filter(|(key, _)| *key == name))
    };
    let Some((_, sent_at)) = field("t").next() else { return false };
    let recent = sent_at
        .parse()
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .is_some_and(|sent_at| (now - sent_at).abs() <= TOLERANCE);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signed = [sent_at.as_bytes(), b".", body].concat();
    let signs = |hex: &str| hex::decode(hex).is_ok_and(|tag| hmac::verify(&key, &signed, &tag).is_ok());
    recent && field("v1").any(|(_, hex)| signs(hex))
}

/// The header of a webhook sent at `sent_at`.
pub(in crate::payments) fn sign(secret: &[u8], body: &[u8], sent_at: OffsetDateTime) -> String {
    let seconds = sent_at.unix_timestamp();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, &[seconds.to_string().as_bytes(), b".", body].concat());
    format!("t={seconds},v1={}", hex::encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn a_fresh_signature_of_this_body_verifies() {
        let header = sign(b"secret", b"{}", NOW);
        assert!(verify(b"secret", &header, b"{}", NOW + Duration::minutes(5)));
        assert!(
            verify(b"secret", &format!("{},v1=00", header), b"{}", NOW),
            "a second secret's signature may stand beside"
        );
        assert!(!verify(b"secret", &header, b"{}", NOW + Duration::minutes(6)), "stale");
        assert!(!verify(b"secret", &header, b"{}", NOW - Duration::minutes(6)), "from the future");
        assert!(!verify(b"secret", &header, b"{ }", NOW), "another body");
        assert!(!verify(b"other", &header, b"{}", NOW), "another secret");
    }

    #[test]
    fn nonsense_is_not_a_signature() {
        for header in ["", "t=0", "v1=", "t=x,v1=00", "t=,v1=", "t=0,v1=zz", "t=99999999999999999999,v1=00"] {
            assert!(!verify(b"secret", header, b"{}", NOW), "{header}");
        }
    }

    #[test]
    fn the_header_s_form_stays_as_it_is() {
        // Computed with: printf '0.{}' | openssl dgst -sha256 -hmac secret
        let expected = "t=0,v1=4bbe8d39de1ffea42cffafb4727e02f761bef8ed2886b51575ce417d542e918f";
        assert_eq!(sign(b"secret", b"{}", NOW), expected);
    }
}
