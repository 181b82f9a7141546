//! What is known of a driver besides the place: a hint from Postgres, kept beside the position so that a search can
//! skip who is of no use. The newer knowledge wins; whatever it says, Postgres decides.

use std::sync::Arc;

use shared::ids::{RideId, RiderId};
use time::OffsetDateTime;

/// A driver's standing at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Whether the driver takes rides.
    pub online: bool,
    /// The vehicle's class.
    pub vehicle_class: Arc<str>,
    /// Since when the driver has been without work.
    pub idle_since: Option<OffsetDateTime>,
    /// What the driver is doing.
    pub duty: Duty,
    /// When this was so; of two, the later counts.
    pub as_of: OffsetDateTime,
}

/// What a driver is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: may be offered a ride.
    Free,
    /// Thinking about an offer, at most until then.
    Offered {
        /// When the offer ends by itself.
        until: OffsetDateTime,
    },
    /// Driving to or with a rider.
    OnTrip {
        /// The ride that became the trip.
        ride_id: RideId,
        /// Who watches the car come.
        rider_id: RiderId,
    },
}

impl Duty {
    /// What it is at `now`: an offer nobody answered is over by itself.
    pub fn at(self, now: OffsetDateTime) -> Self {
        match self {
            Self::Offered { until } if until <= now => Self::Free,
            Self::Free | Self::Offered { .. } | Self::OnTrip { .. } => self,
        }
    }
}
