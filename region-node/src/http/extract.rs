//! Extractors whose refusals are problems.

use axum::{
    extract::{FromRequestParts, rejection::PathRejection},
    http::{HeaderMap, header, request::Parts},
};
use garde::Validate;
use serde::de::DeserializeOwned;
use shared::problem::{Code, FieldError};

use super::Problem;

/// The bearer token of a call, whatever it is worth.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The path's parameters; one that is not of its type names nothing, so it is 404.
pub struct Path<T>(pub T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path: Result<axum::extract::Path<T>, PathRejection> =
            axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|rejection| Problem::new(Code::NotFound, rejection.body_text()))
    }
}

/// The query's parameters, validated.
pub struct Query<T>(pub T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned + Validate + Send,
    T::Context: Default,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let pairs = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let query = serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs)).map_err(|error| {
            let message = error.inner().to_string();
            Problem::field(field_at(error.path(), &message), message)
        })?;
        validated(query).map(Self)
    }
}

/// The field an error speaks of: where it was found and, if something is missing or unknown there, its name, which stands
/// in the message between backquotes.
pub(super) fn field_at(path: &serde_path_to_error::Path, message: &str) -> String {
    let is_named = message.starts_with("missing field") || message.starts_with("unknown field");
    let named = message.split('`').nth(1).filter(|_| is_named).map(str::to_owned);
    let found_at = Some(path.to_string()).filter(|path| path != ".");
    // An unknown field is part of the path already.
    let is_there = found_at.iter().any(|path| named.iter().any(|name| path.rsplit('.').next() == Some(name)));
    let named = named.filter(|_| !(is_there && message.starts_with("unknown field")));
    found_at.into_iter().chain(named).collect::<Vec<_>>().join(".")
}

/// `value`, if all its fields are in range.
pub(super) fn validated<T: Validate>(value: T) -> Result<T, Problem>
where
    T::Context: Default,
{
    match value.validate() {
        Ok(()) => Ok(value),
        Err(report) => {
            let errors = report.iter().map(|(path, error)| FieldError::new(path.to_string(), error.message()));
            Err(Problem::validation(errors.collect()))
        }
    }
}
