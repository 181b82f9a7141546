//! Why a driver was or was not asked to take a ride: one code for each way out, so that none is silent.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal),* $(,)?) => {
        /// What became of a candidate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// One sentence on what it means.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)* }
            }
        }

        impl std::str::FromStr for Reason {
            type Err = UnknownReason;
            fn from_str(text: &str) -> Result<Self, UnknownReason> {
                match text { $($code => Ok(Self::$name),)* _ => Err(UnknownReason(text.to_owned())) }
            }
        }
    };
}

reasons! {
    /// Was offered the ride.
    Offered = "offered",
    /// Could have been asked, but another driver suited better.
    NotChosen = "not_chosen",
    /// Is farther from the pick-up than the tenant allows.
    TooFar = "too_far",
    /// Would need longer to the pick-up than the tenant allows.
    PickupTooLong = "pickup_too_long",
    /// Is farther from the pick-up than the driver himself wants to go.
    BeyondOwnLimit = "beyond_own_limit",
    /// Has no document of a kind the tenant requires.
    DocumentMissing = "document_missing",
    /// Has a document that has expired.
    DocumentExpired = "document_expired",
    /// Is on a trip.
    Busy = "busy",
    /// Is thinking about another offer.
    HasOffer = "has_offer",
    /// Has declined this ride.
    DeclinedBefore = "declined_before",
    /// Let an earlier offer of this ride run out.
    DidNotAnswer = "did_not_answer",
    /// Drives another class of vehicle.
    WrongVehicleClass = "wrong_vehicle_class",
    /// Is no longer online.
    Offline = "offline",
    /// Others have waited longer in the queue of the zone where the ride begins.
    BehindInQueue = "behind_in_queue",
    /// Has not been heard of for too long.
    StalePosition = "stale_position",
}

/// A code this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no reason code of a candidate")]
pub struct UnknownReason(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_reads_back_and_serialises_as_its_code() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse::<Reason>().unwrap(), *reason);
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert!(reason.explanation().ends_with('.'));
        }
    }
}
