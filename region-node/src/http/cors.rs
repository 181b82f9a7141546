//! Which pages of other origins may call.

use axum::http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Origins as `["https://app.example.org"]`; `["*"]` is all of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub enum Origins {
    /// All.
    Any,
    /// These alone.
    These(Vec<HeaderValue>),
}

impl TryFrom<Vec<String>> for Origins {
    type Error = String;

    fn try_from(origins: Vec<String>) -> Result<Self, Self::Error> {
        if origins == ["*"] {
            return Ok(Self::Any);
        }
        let parse = |origin: &String| {
            let value = HeaderValue::from_str(origin).ok().filter(|_| is_origin(origin));
            value.ok_or_else(|| format!("'{origin}' is neither an origin such as https://app.example.org nor a lone *"))
        };
        origins.iter().map(parse).collect::<Result<_, _>>().map(Self::These)
    }
}

/// Scheme and authority, and nothing after them: browsers send no more, so nothing longer would ever match.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let is_in = |text: &str, allowed: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || allowed.contains(&byte))
    };
    is_in(scheme, b"+-.") && is_in(authority, b"-.:[]_")
}

/// The layer that answers preflights and marks answers as readable.
pub(super) fn layer(origins: &Origins) -> CorsLayer {
    let origins = match origins {
        Origins::Any => AllowOrigin::any(),
        Origins::These(list) => AllowOrigin::list(list.iter().cloned()),
    };
    let exposed = [
        "x-request-id",
        "x-served-by-region",
        "x-edge-region",
        "idempotency-replayed",
        "retry-after",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        "etag",
    ];
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::PUT, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed.map(HeaderName::from_static))
        .max_age(std::time::Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_could_never_match_is_named() {
        let read =
            |origins: &[&str]| Origins::try_from(origins.iter().map(|&origin| origin.to_owned()).collect::<Vec<_>>());
        assert_eq!(read(&["*"]), Ok(Origins::Any));
        let good = ["https://app.example.org", "http://127.0.0.1:5173", "http://[::1]:80", "capacitor://localhost"];
        assert_eq!(read(&good), Ok(Origins::These(good.map(HeaderValue::from_static).to_vec())));
        for bad in ["https://app.example.org/", "app.example.org", "*", "https://a b", "", "https://", "https://x\n"] {
            let error = read(&["https://good.example", bad]).unwrap_err();
            assert!(error.contains(&format!("'{bad}'")), "{error}");
        }
    }
}
