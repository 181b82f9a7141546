//! Extractors whose refusals are problems.

use axum::{
    extract::{FromRequestParts, rejection::PathRejection},
    http::request::Parts,
};
use garde::Validate;
use serde::de::DeserializeOwned;
use shared::problem::{Code, FieldError};

use super::Problem;

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

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query: axum::extract::Query<T> = axum::extract::Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::field("query", rejection.body_text()))?;
        validated(query.0).map(Self)
    }
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
