//! Calls to Stripe's API and what its errors mean: a card that is refused, an order that can never be made, or no answer.

use axum::http::{HeaderMap, Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use time::Duration;
use url::Url;

use crate::payments::NoAnswer;

/// What Stripe says is not worth asking again is asked again all the same, but not soon: nothing else tells what became of it.
const NOT_SOON: Duration = Duration::minutes(10);
/// The version of Stripe's API whose answers are read here.
const VERSION: &str = "2024-06-20";

/// A way to one account.
pub(super) struct Api {
    pub(super) http: reqwest::Client,
    pub(super) base_url: Url,
    pub(super) secret_key: SecretString,
}

/// Why a call came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing was done, and the same order will never be.
    Declined { code: String },
    /// It may have been done, or can be done later.
    NoAnswer(NoAnswer),
}

impl Refusal {
    pub(super) fn no_answer(why: impl Into<String>) -> Self {
        Self::NoAnswer(NoAnswer::new(why))
    }
}

/// What Stripe says of asking again.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    /// Whether it may help, if Stripe knows.
    should_retry: Option<bool>,
    /// Not before so long.
    after: Option<Duration>,
}

impl Again {
    /// From `Stripe-Should-Retry` and `Retry-After`.
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        Self {
            should_retry: text("stripe-should-retry").and_then(|text| text.parse().ok()),
            after: text("retry-after")
                .and_then(|text| text.parse().ok())
                .map(|seconds: u32| Duration::seconds(seconds.into())),
        }
    }

    fn wait(self) -> Option<Duration> {
        self.after.or((self.should_retry == Some(false)).then_some(NOT_SOON))
    }
}

/// A call's parameters, in Stripe's notation of nested fields.
pub(super) type Params<'a> = &'a [(&'a str, &'a str)];

#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    error: StripeError,
}

#[derive(Default, Deserialize)]
struct StripeError {
    #[serde(default, rename = "type")]
    kind: String,
    code: Option<String>,
    decline_code: Option<String>,
    param: Option<String>,
}

impl Api {
    /// Orders something, once per `key`.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        key: &str,
        params: Params<'_>,
    ) -> Result<T, Refusal> {
        let form = serde_urlencoded::to_string(params).map_err(|error| Refusal::no_answer(error.to_string()))?;
        let call = self.call(Method::POST, self.at(path)).header("Idempotency-Key", key);
        self.send(call.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)).await
    }

    /// Looks something up.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, params: Params<'_>) -> Result<T, Refusal> {
        let mut url = self.at(path);
        url.query_pairs_mut().extend_pairs(params);
        self.send(self.call(Method::GET, url)).await
    }

    fn call(&self, method: Method, url: Url) -> reqwest::RequestBuilder {
        self.http.request(method, url).bearer_auth(self.secret_key.expose_secret()).header("Stripe-Version", VERSION)
    }

    async fn send<T: DeserializeOwned>(&self, call: reqwest::RequestBuilder) -> Result<T, Refusal> {
        let lost = |error: reqwest::Error| Refusal::no_answer(error.without_url().to_string());
        let answer = call.send().await.map_err(lost)?;
        let (status, again) = (answer.status(), Again::of(answer.headers()));
        let body = answer.bytes().await.map_err(lost)?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| Refusal::no_answer(format!("Stripe's answer cannot be read: {error}")));
        }
        let body: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
        Err(meaning(status, again, body.error))
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.base_url.clone();
        let path = format!("{}/{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }
}

/// Stripe's published rules. A 402 is the card's; a 400 or 404 says that the order as it stands can never be made. Whoever is
/// too fast (429), whose key is in use (409) or was used for something else, whose secret is refused (401, 403), and whom a
/// server error answers (it may come after the deed) has no answer yet; nor has an order Stripe wants to be made again, whatever
/// the status.
fn meaning(status: StatusCode, again: Again, error: StripeError) -> Refusal {
    let code = error.decline_code.or(error.code);
    let is_card = error.kind == "card_error" || status == StatusCode::PAYMENT_REQUIRED;
    let is_order = matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)
        && error.kind != "idempotency_error"
        && code.as_deref() != Some("lock_timeout")
        && again.should_retry != Some(true);
    if is_card {
        return Refusal::Declined { code: code.unwrap_or_else(|| "card_declined".to_owned()) };
    }
    if is_order {
        let code = code.unwrap_or_else(|| "invalid_request".to_owned());
        tracing::error!(%status, %code, param = error.param, "Stripe does not take an order of ours");
        return Refusal::Declined { code };
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        tracing::error!(%status, "Stripe refuses the account's secret key; set one that is valid");
    }
    let why = format!("Stripe answered {status} {} {}", error.kind, code.unwrap_or_default());
    Refusal::NoAnswer(NoAnswer { why, wait: again.wait() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(status: u16, error: serde_json::Value) -> Refusal {
        meaning(StatusCode::from_u16(status).unwrap(), Again::default(), serde_json::from_value(error).unwrap())
    }

    fn read_with(status: u16, headers: &[(&'static str, &'static str)], kind: &str) -> Refusal {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let error = serde_json::from_value(json!({"type": kind})).unwrap();
        meaning(StatusCode::from_u16(status).unwrap(), Again::of(&headers), error)
    }

    fn wait_of(refusal: Refusal) -> Option<Duration> {
        match refusal {
            Refusal::NoAnswer(no_answer) => no_answer.wait,
            Refusal::Declined { .. } => panic!("{refusal:?}"),
        }
    }

    #[test]
    fn stripe_s_word_on_asking_again_is_kept() {
        let limited = read_with(429, &[("retry-after", "30")], "rate_limit_error");
        assert_eq!(wait_of(limited), Some(Duration::seconds(30)));
        let useless = read_with(500, &[("stripe-should-retry", "false")], "api_error");
        assert_eq!(wait_of(useless), Some(NOT_SOON));
        let both = read_with(503, &[("stripe-should-retry", "false"), ("retry-after", "5")], "api_error");
        assert_eq!(wait_of(both), Some(Duration::seconds(5)));
        // An order that Stripe wants again is not refused for good.
        let again = read_with(400, &[("stripe-should-retry", "true")], "invalid_request_error");
        assert_eq!(wait_of(again), None);
        let never = read_with(400, &[("stripe-should-retry", "false")], "invalid_request_error");
        assert!(matches!(never, Refusal::Declined { .. }));
        let garbled = [("stripe-should-retry", "perhaps"), ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")];
        assert_eq!(wait_of(read_with(500, &garbled, "api_error")), None);
    }

    #[test]
    fn each_class_of_error_means_what_stripe_says_it_does() {
        let declined = |code: &str| Refusal::Declined { code: code.to_owned() };
        let card = json!({"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"});
        assert_eq!(read(402, card), declined("insufficient_funds"));
        assert_eq!(read(402, json!({"code": "expired_card"})), declined("expired_card"));
        let unknown_card =
            json!({"type": "invalid_request_error", "code": "resource_missing", "param": "payment_method"});
        assert_eq!(read(400, unknown_card), declined("resource_missing"));
        for (status, kind) in [
            (400, "idempotency_error"),
            (401, "invalid_request_error"),
            (403, "invalid_request_error"),
            (409, "idempotency_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (503, ""),
        ] {
            assert!(matches!(read(status, json!({"type": kind})), Refusal::NoAnswer(_)), "{status} {kind}");
        }
    }
}
