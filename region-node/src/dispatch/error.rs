//! Why an offer cannot be answered, and what the driver is told.

use shared::{ids::RideId, problem::Code};

use crate::{http::Problem, rides::RideError};

/// Why an answer to an offer is refused.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// No such ride, or of another tenant.
    #[error("no ride {0}")]
    NoRide(RideId),
    /// Another driver has the ride.
    #[error("another driver has the ride")]
    RideAlreadyTaken,
    /// The driver has no open offer of this ride.
    #[error("there is no open offer of this ride")]
    OfferExpired,
    /// Accepting failed.
    #[error(transparent)]
    Ride(#[from] RideError),
    /// What the tenant has configured could not be read.
    #[error(transparent)]
    Config(Box<Problem>),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<Problem> for OfferError {
    fn from(problem: Problem) -> Self {
        Self::Config(Box::new(problem))
    }
}

impl From<OfferError> for Problem {
    fn from(error: OfferError) -> Self {
        let detail = error.to_string();
        match error {
            OfferError::NoRide(_) => Problem::not_found(detail),
            OfferError::RideAlreadyTaken => Problem::new(Code::RideAlreadyTaken, detail),
            OfferError::OfferExpired => Problem::new(Code::OfferExpired, detail),
            OfferError::Ride(error) => error.into(),
            OfferError::Config(problem) => *problem,
            OfferError::Database(error) => error.into(),
        }
    }
}
