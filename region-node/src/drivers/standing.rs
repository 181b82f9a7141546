//! What is known of a driver besides the place: a hint from Postgres, kept beside the position so that a search can
//! skip who is of no use. The newer knowledge wins; whatever it says, Postgres decides.

use std::sync::Arc;

use shared::ids::{RideId, RiderId};
use time::OffsetDateTime;

use super::{record::Record, terms::Terms};

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
    /// What the driver may take, and wants to; as of `as_of`.
    pub terms: Terms,
    /// How the driver answers and earns, with a time of its own.
    pub record: Record,
    /// When the driver took rides or not, in such a vehicle; of two, the later counts.
    pub as_of: OffsetDateTime,
    /// When the driver did that. Of its own, since a node that hears of a trip need not have heard that its driver went
    /// offline, and must not tell the others otherwise.
    pub duty_as_of: OffsetDateTime,
}

impl Standing {
    /// Takes over what `other` knows as late or later.
    pub(super) fn take_newer(&mut self, other: Standing) {
        if self.as_of <= other.as_of {
            (self.online, self.as_of, self.idle_since) = (other.online, other.as_of, other.idle_since);
            (self.vehicle_class, self.terms) = (other.vehicle_class, other.terms);
        }
        if self.record.as_of <= other.record.as_of {
            self.record = other.record;
        }
        if self.duty_as_of <= other.duty_as_of {
            (self.duty, self.duty_as_of, self.idle_since) = (other.duty, other.duty_as_of, other.idle_since);
        }
    }
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
