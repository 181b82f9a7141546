//! What can come back instead of an answer.

use std::time::Duration;

use serde::Deserialize;

/// An error as the API writes it (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    #[serde(default)]
    pub detail: Option<String>,
    pub code: String,
    pub request_id: String,
    #[serde(default)]
    pub errors: Vec<FieldError>,
    /// Where to go instead, with `wrong_region`.
    #[serde(default)]
    pub base_url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FieldError {
    pub field: String,
    pub message: String,
}

/// A call that brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{} {}: {}", .problem.status, .problem.code, .problem.detail.as_deref().unwrap_or(&.problem.title))]
    Refused { problem: Box<Problem>, retry_after: Option<Duration> },
    #[error("no answer: {0}")]
    NoAnswer(#[from] reqwest::Error),
    #[error("an answer {status} that is not what the contract says: {text}")]
    Garbled { status: u16, text: String },
    #[error("nobody is signed in")]
    SignedOut,
}

impl ApiError {
    /// The problem's stable code.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => Some(&problem.code),
            Self::NoAnswer(_) | Self::Garbled { .. } | Self::SignedOut => None,
        }
    }

    /// Whether the same call may well succeed a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused { problem, .. } => {
                matches!(problem.status, 408 | 429 | 502 | 503 | 504) || problem.code == "idempotency_in_progress"
            }
            Self::NoAnswer(_) => true,
            Self::Garbled { status, .. } => *status >= 500,
            Self::SignedOut => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::NoAnswer(_) | Self::Garbled { .. } | Self::SignedOut => None,
        }
    }
}
