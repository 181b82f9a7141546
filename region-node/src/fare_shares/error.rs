//! Why a fare is not shared, and what the caller is told.

use shared::{
    ids::{RideId, ShareId},
    money::Money,
    problem::Code,
};

use super::{MAX_SHARES, ShareStatus};
use crate::{http::Problem, rides::RideStatus};

/// Why a step of a share is refused.
#[derive(Debug, thiserror::Error)]
pub enum FareShareError {
    #[error("no ride {0}")]
    NoSuchRide(RideId),
    #[error("no share {0}")]
    NotFound(ShareId),
    #[error("the ride is {0}; a fare is shared until the trip ends")]
    RideOver(RideStatus),
    #[error("a share that is {from} cannot become {to}")]
    InvalidTransition { from: ShareStatus, to: ShareStatus },
    #[error("this ride is to be paid in cash; the fare of one paid by card or wallet can be shared")]
    PaidInCash,
    #[error("a fare is shared with at most {MAX_SHARES} riders")]
    TooMany,
    #[error("this rider has been asked to share this ride already")]
    AlreadyInvited,
    #[error("no other rider of this company has this phone")]
    NoSuchRider,
    #[error("must be at least 1 minor unit and at most {0}, which is what of the quoted fare nobody is asked for yet")]
    TooMuch(Money),
    #[error("must be a multiple of {0} minor units: cards are charged no less")]
    NotChargeable(i64),
    #[error("a share is paid by card or wallet")]
    ShareInCash,
    #[error("the account of this access token was erased")]
    Erased,
}

impl From<FareShareError> for Problem {
    fn from(error: FareShareError) -> Self {
        let detail = error.to_string();
        let code = match error {
            FareShareError::NoSuchRide(_) | FareShareError::NotFound(_) => Code::NotFound,
            FareShareError::RideOver(_) | FareShareError::InvalidTransition { .. } => Code::InvalidTransition,
            FareShareError::PaidInCash => Code::NotShareable,
            FareShareError::TooMany => Code::TooManyShares,
            FareShareError::AlreadyInvited => Code::AlreadyExists,
            FareShareError::NoSuchRider => return Self::field("phone", detail),
            FareShareError::TooMuch(_) | FareShareError::NotChargeable(_) => return Self::field("amount", detail),
            FareShareError::ShareInCash => return Self::field("method.type", detail),
            FareShareError::Erased => Code::InvalidToken,
        };
        Self::new(code, detail)
    }
}
