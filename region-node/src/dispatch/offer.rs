//! An offer: a ride put to one driver for a while.

use serde::Serialize;
use shared::{
    ids::{OfferId, RideId, TripId},
    money::Money,
};
use time::OffsetDateTime;

use crate::rides::{Place, Ride};

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OfferStatus {
    /// May be answered.
    Live,
    /// The driver took the ride.
    Accepted,
    /// The driver did not want it, or gave the ride up later.
    Declined,
    /// Nobody answered in time.
    Expired,
    /// Taken back.
    Withdrawn,
    /// Another driver who was asked at the same time took the ride.
    Taken,
}

impl OfferStatus {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Live, Self::Accepted, Self::Declined, Self::Expired, Self::Withdrawn, Self::Taken];

    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Taken => "taken",
        }
    }
}

impl std::str::FromStr for OfferStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("'{text}' is no status of an offer"))
    }
}

/// An offer as its driver sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = Offer)]
pub struct OfferView {
    /// Which offer.
    pub offer_id: OfferId,
    /// Of which ride.
    pub ride_id: RideId,
    /// From where.
    pub pickup: Place,
    /// Where to.
    pub dropoff: Place,
    /// What the rider pays.
    pub fare: Money,
    /// The driver's way to the pick-up.
    pub pickup_eta_s: i32,
    /// The trip the driver ends first, whose rest `pickup_eta_s` counts too; missing if he is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_trip_id: Option<TripId>,
    /// Until when it may be answered.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

impl OfferView {
    /// The offer of `ride`.
    pub fn of(
        ride: &Ride,
        offer_id: OfferId,
        pickup_eta_s: i32,
        after_trip_id: Option<TripId>,
        expires_at: OffsetDateTime,
    ) -> Self {
        Self {
            offer_id,
            ride_id: ride.id,
            pickup: ride.pickup.clone(),
            dropoff: ride.dropoff.clone(),
            fare: ride.quote.fare().total,
            pickup_eta_s,
            after_trip_id,
            expires_at,
        }
    }
}
