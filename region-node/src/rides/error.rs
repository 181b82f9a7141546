//! Why a ride cannot be had, and what the caller is told.

use shared::{
    ids::RideId,
    problem::{Code, FieldError},
};

use super::RideStatus;
use crate::{http::Problem, pricing::QuoteError};

/// Why a step of a ride is refused.
#[derive(Debug, thiserror::Error)]
pub enum RideError {
    #[error("no ride {0}")]
    NotFound(RideId),
    #[error("a ride that is {from} cannot become {to}")]
    InvalidTransition { from: RideStatus, to: RideStatus },
    #[error("you have an open ride already")]
    RideInProgress,
    #[error("you have {0} rides booked ahead already; cancel one to book another")]
    TooManyBookings(i64),
    #[error("the rider has begun another ride, and this one waits until that ends")]
    RiderBusy,
    #[error("another driver has the ride")]
    AlreadyTaken,
    #[error("you have another trip under way")]
    DriverBusy,
    #[error("the account of this access token was erased")]
    Erased,
    #[error("this company takes no ride requests at the moment")]
    DispatchOff,
    #[error("must be one of: {known}")]
    UnknownVehicleClass { known: String },
    #[error("must be at least {minutes} minutes and at most {days} days ahead; leave it out to be picked up now")]
    BadSchedule { minutes: u64, days: i64 },
    #[error("must be within {km} km of the pickup")]
    TooFar { km: i64 },
    #[error("is no promotion that can be used now")]
    NoPromotion,
    #[error("has been used as often as it may be")]
    PromotionUsedUp,
    #[error("is for another promotion_code, or none; leave promotion_code out or ask for a new estimate")]
    OtherPromotion,
    #[error(transparent)]
    Quote(#[from] QuoteError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl From<RideError> for Problem {
    fn from(error: RideError) -> Self {
        let detail = error.to_string();
        let field = |name: &str| Problem::validation(vec![FieldError::new(name, detail.clone())]);
        match error {
            RideError::NotFound(_) => Problem::new(Code::NotFound, detail),
            RideError::InvalidTransition { .. } => Problem::new(Code::InvalidTransition, detail),
            RideError::RideInProgress => Problem::new(Code::RideInProgress, detail),
            RideError::TooManyBookings(_) => Problem::new(Code::TooManyBookings, detail),
            RideError::RiderBusy => Problem::new(Code::OfferExpired, detail),
            RideError::AlreadyTaken => Problem::new(Code::RideAlreadyTaken, detail),
            RideError::DriverBusy => Problem::new(Code::DriverBusy, detail),
            RideError::Erased => Problem::new(Code::InvalidToken, detail),
            RideError::DispatchOff => Problem::new(Code::FeatureDisabled, detail),
            RideError::UnknownVehicleClass { .. } => field("vehicle_class"),
            RideError::BadSchedule { .. } => field("scheduled_at"),
            RideError::TooFar { .. } => field("dropoff"),
            RideError::NoPromotion | RideError::PromotionUsedUp => field("promotion_code"),
            RideError::OtherPromotion => field("quote_id"),
            RideError::Quote(QuoteError::Expired) => Problem::new(Code::QuoteExpired, detail),
            RideError::Quote(
                QuoteError::Forged | QuoteError::Foreign | QuoteError::OtherRide | QuoteError::OtherTime,
            ) => field("quote_id"),
            RideError::Database(error) => error.into(),
        }
    }
}
