//! RFC 9457 answers: every refusal says what is wrong in a stable code and nothing about our insides.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::problem::{Code, FieldError};

use crate::db;

/// A refusal.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Problem {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_s: Option<u64>,
}

/// How a refusal is written (`application/problem+json`).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ProblemBody {
    /// `about:blank#<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened here.
    pub detail: String,
    /// Stable, for programs.
    #[schema(value_type = String)]
    pub code: Code,
    /// Finds this call in our logs.
    pub request_id: String,
    /// Per field, where fields are wrong.
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A refusal with `code`, explained to this caller by `detail`.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after_s: None }
    }

    /// 422 with one entry per wrong field.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] if one.field.is_empty() => one.message.clone(),
            [one] => format!("{}: {}", one.field, one.message),
            many => format!("{} fields are wrong", many.len()),
        };
        Self { errors, ..Self::new(Code::ValidationFailed, detail) }
    }

    /// 422 about one field.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::validation(vec![FieldError::new(field, message)])
    }

    /// 404: no such thing, or none the caller may know of.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, what.to_string())
    }

    /// 500: what went wrong is for our log, and nothing the caller can mend.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "something went wrong on our side")
    }

    /// Says after how many seconds to try again.
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The stable reason.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The explanation for this caller.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// As it is written, for the call with `request_id`.
    pub fn body(&self, request_id: &str) -> ProblemBody {
        ProblemBody {
            kind: format!("about:blank#{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status(),
            detail: self.detail.clone(),
            code: self.code,
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        }
    }

    /// The answer to the call with `request_id`.
    pub fn response(&self, request_id: &str) -> Response {
        let status = StatusCode::from_u16(self.code.status()).expect("codes carry valid statuses");
        let mut response = (status, Json(self.body(request_id))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code.status() == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The request id is filled in by the outermost layer (`router::finish`), which finds the problem in the extensions.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.response("");
        response.extensions_mut().insert(self);
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        match (&error, code.as_deref()) {
            (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed, _)
            // Shut down, crashed, starting up, too many connections, lock or statement time-out, deadlock, serialization.
            | (_, Some("57P01" | "57P02" | "57P03" | "53300" | "55P03" | "57014" | "40P01" | "40001")) => {
                tracing::warn!(%error, "the database could not serve a call");
                Self::new(Code::Unavailable, "the database is not available right now; try again").retry_after(1)
            }
            // Of whom only the home knew that was taken by force from.
            (sqlx::Error::Database(error), Some("23503"))
                if error.constraint().is_some_and(|name| name.ends_with("rider_id_fkey") || name.ends_with("driver_id_fkey")) =>
            {
                Self::new(Code::InvalidToken, "this account is not known at the company's new home; register there")
            }
            (sqlx::Error::Database(error), _) if error.constraint() == Some(db::HOME_IS_CONFIRMED) => db::unconfirmed(),
            // A NUL, the one character JSON can carry and Postgres can't.
            (_, Some("22021" | "22P05")) => Self::field("", "text must not contain the character U+0000"),
            _ => {
                tracing::error!(%error, "a database call failed");
                Self::internal()
            }
        }
    }
}
