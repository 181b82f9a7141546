//! Why a step of a trip is refused, and what the caller is told.

use shared::{
    ids::TripId,
    problem::{Code, FieldError},
};

use super::TripStatus;
use crate::{http::Problem, rides::RideError};

/// Why a trip does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum TripError {
    #[error("no trip {0}")]
    NotFound(TripId),
    #[error("a trip that is {from} cannot become {to}")]
    InvalidTransition { from: TripStatus, to: TripStatus },
    #[error("the PIN is not the rider's")]
    WrongPin,
    #[error("must be 0 to {most} minor units, as the tariff of the trip allows")]
    TooManyTolls { most: i64 },
    #[error("a trip can be rated once it is completed; this one is {0}")]
    NotCompleted(TripStatus),
    #[error("you have rated this trip already")]
    AlreadyRated,
    #[error("trip {0} has no receipt: it is neither completed nor cancelled at a cost")]
    NoReceipt(TripId),
    #[error("a receipt comes as application/json, text/html or application/pdf")]
    NotAcceptable,
    #[error(transparent)]
    Ride(#[from] RideError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<TripError> for Problem {
    fn from(error: TripError) -> Self {
        let detail = error.to_string();
        match error {
            TripError::NotFound(_) | TripError::NoReceipt(_) => Problem::new(Code::NotFound, detail),
            TripError::InvalidTransition { .. } | TripError::NotCompleted(_) => {
                Problem::new(Code::InvalidTransition, detail)
            }
            TripError::WrongPin => Problem::new(Code::WrongPin, detail),
            TripError::TooManyTolls { .. } => Problem::validation(vec![FieldError::new("declared_tolls", detail)]),
            TripError::AlreadyRated => Problem::new(Code::AlreadyRated, detail),
            TripError::NotAcceptable => Problem::new(Code::NotAcceptable, detail),
            TripError::Ride(error) => error.into(),
            TripError::Database(error) => error.into(),
        }
    }
}
