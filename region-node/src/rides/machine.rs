//! Which step of a ride is legal, and what it changes. Pure: no database, no clock.
//!
//! ```text
//!                 ┌──────────── every offer refused ───────────┐
//!                 ▼                                            │
//! ──► requested ──────► offered ──────► accepted ──► arrived ──────► in_progress ──► completed
//!        │ ▲               │               │ │          │ │
//!        │ └───────────────┼── driver gives it up ──────┘ │   (back to the dispatcher, without that driver)
//!        ├─► expired ◄─────┤               │              │
//!        └─► cancelled ◄───┴───────────────┴──────────────┘
//! ```

use serde::{Deserialize, Serialize};
use shared::tenant_config::CancellationPolicy;
use time::{Duration, OffsetDateTime};

use super::{Ride, RideError};

/// Where a ride stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RideStatus {
    /// Waits for a driver, or for its time if booked ahead.
    Requested,
    /// A driver is being asked.
    Offered,
    /// A driver is on the way to the pick-up.
    Accepted,
    /// The driver is at the pick-up.
    Arrived,
    /// Being driven.
    InProgress,
    /// Driven to its end.
    Completed,
    /// Given up by somebody.
    Cancelled,
    /// Nobody took it in time.
    Expired,
}

/// Who gave up a ride.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelledBy {
    Rider,
    Driver,
    Tenant,
    System,
}

impl RideStatus {
    /// All of them, in the order of a ride's life.
    pub const ALL: [Self; 8] = [
        Self::Requested,
        Self::Offered,
        Self::Accepted,
        Self::Arrived,
        Self::InProgress,
        Self::Completed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// As in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Arrived => "arrived",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether nothing more can happen to the ride.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Expired)
    }

    /// Whether a ride may go from here to `next`.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Requested => matches!(next, Self::Offered | Self::Cancelled | Self::Expired),
            Self::Offered => matches!(next, Self::Requested | Self::Accepted | Self::Cancelled | Self::Expired),
            Self::Accepted => matches!(next, Self::Arrived | Self::Requested | Self::Cancelled),
            Self::Arrived => matches!(next, Self::InProgress | Self::Requested | Self::Cancelled),
            Self::InProgress => next == Self::Completed,
            Self::Completed | Self::Cancelled | Self::Expired => false,
        }
    }
}

impl std::fmt::Display for RideStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for RideStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("'{text}' is no status of a ride"))
    }
}

impl CancelledBy {
    /// As in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rider => "rider",
            Self::Driver => "driver",
            Self::Tenant => "tenant",
            Self::System => "system",
        }
    }
}

impl std::str::FromStr for CancelledBy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Rider, Self::Driver, Self::Tenant, Self::System].into_iter().find(|by| by.as_str() == text);
        known.ok_or_else(|| format!("'{text}' cancels no ride"))
    }
}

/// What a cancellation comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// The ride is over; the rider owes so many minor units (0: nothing).
    Ends { fee: i64 },
    /// Its driver gave it up; another one is looked for.
    Redispatches,
}

impl Ride {
    /// What follows if `by` cancels at `now`. `arrived_at` is when the driver reached the pick-up.
    ///
    /// A rider cancels freely until a driver has been on his way for the policy's grace time. A driver's cancellation
    /// sends the ride back to the dispatcher, unless he has waited long enough at the pick-up, and not before the time it was
    /// booked for: then the rider, who did not come, pays. The tenant cancels freely.
    pub fn cancellation(
        &self,
        by: CancelledBy,
        arrived_at: Option<OffsetDateTime>,
        policy: &CancellationPolicy,
        now: OffsetDateTime,
    ) -> Result<Cancellation, RideError> {
        if !self.status.may_become(RideStatus::Cancelled) {
            return Err(RideError::InvalidTransition { from: self.status, to: RideStatus::Cancelled });
        }
        let passed = |since: Option<OffsetDateTime>, seconds: u32| {
            since.is_some_and(|since| now - since >= Duration::seconds(seconds.into()))
        };
        let waits_since = arrived_at.map(|arrived_at| self.scheduled_at.map_or(arrived_at, |at| at.max(arrived_at)));
        let free = Cancellation::Ends { fee: 0 };
        let costs = Cancellation::Ends { fee: policy.fee };
        Ok(match by {
            // A driver who has another trip to end is not on his way yet.
            CancelledBy::Rider if self.after_trip_id.is_none() && passed(self.accepted_at, policy.free_seconds) => {
                costs
            }
            CancelledBy::Rider | CancelledBy::Tenant | CancelledBy::System => free,
            CancelledBy::Driver if passed(waits_since, policy.no_show_wait_seconds) => costs,
            CancelledBy::Driver => Cancellation::Redispatches,
        })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::rides::tests::ride;

    const ACCEPTED_AT: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const POLICY: CancellationPolicy = CancellationPolicy { free_seconds: 120, fee: 500, no_show_wait_seconds: 300 };

    fn cancel(status: RideStatus, by: CancelledBy, after_s: i64) -> Result<Cancellation, RideError> {
        let taken = matches!(status, RideStatus::Accepted | RideStatus::Arrived);
        let ride = Ride { status, accepted_at: taken.then_some(ACCEPTED_AT), ..ride() };
        // The driver took a minute to the pick-up.
        let arrived_at = (status == RideStatus::Arrived).then_some(ACCEPTED_AT + Duration::MINUTE);
        ride.cancellation(by, arrived_at, &POLICY, ACCEPTED_AT + Duration::seconds(after_s))
    }

    const FREE: Cancellation = Cancellation::Ends { fee: 0 };
    const FEE: Cancellation = Cancellation::Ends { fee: 500 };

    #[test]
    fn a_rider_pays_once_a_driver_has_been_under_way_for_a_while() {
        for status in [RideStatus::Requested, RideStatus::Offered] {
            assert_eq!(cancel(status, CancelledBy::Rider, 10_000).unwrap(), FREE);
        }
        for status in [RideStatus::Accepted, RideStatus::Arrived] {
            assert_eq!(cancel(status, CancelledBy::Rider, 119).unwrap(), FREE);
            assert_eq!(cancel(status, CancelledBy::Rider, 120).unwrap(), FEE);
            assert_eq!(cancel(status, CancelledBy::Tenant, 10_000).unwrap(), FREE);
        }
    }

    #[test]
    fn a_driver_gives_a_ride_back_or_after_waiting_in_vain_ends_it_at_the_rider_s_cost() {
        assert_eq!(cancel(RideStatus::Accepted, CancelledBy::Driver, 10_000).unwrap(), Cancellation::Redispatches);
        assert_eq!(cancel(RideStatus::Arrived, CancelledBy::Driver, 60 + 299).unwrap(), Cancellation::Redispatches);
        assert_eq!(cancel(RideStatus::Arrived, CancelledBy::Driver, 60 + 300).unwrap(), FEE);
    }

    #[test]
    fn who_comes_early_to_a_ride_booked_ahead_waits_for_its_time_before_the_rider_is_late() {
        let (accepted_at, arrived_at) = (Some(ACCEPTED_AT), Some(ACCEPTED_AT + Duration::MINUTE));
        let scheduled_at = ACCEPTED_AT + Duration::minutes(20);
        let ride = Ride { status: RideStatus::Arrived, accepted_at, scheduled_at: Some(scheduled_at), ..ride() };
        let give_up = |at| ride.cancellation(CancelledBy::Driver, arrived_at, &POLICY, at).unwrap();
        assert_eq!(give_up(scheduled_at + Duration::seconds(299)), Cancellation::Redispatches);
        assert_eq!(give_up(scheduled_at + Duration::seconds(300)), FEE);
    }

    #[test]
    fn a_ride_under_way_or_over_cannot_be_cancelled_by_anybody() {
        for status in [RideStatus::InProgress, RideStatus::Completed, RideStatus::Cancelled, RideStatus::Expired] {
            for by in [CancelledBy::Rider, CancelledBy::Driver, CancelledBy::Tenant, CancelledBy::System] {
                let refused = cancel(status, by, 0).unwrap_err();
                assert!(matches!(refused, RideError::InvalidTransition { from, .. } if from == status));
            }
        }
    }

    #[test]
    fn what_is_final_stays() {
        for from in RideStatus::ALL {
            let ways_out = RideStatus::ALL.into_iter().filter(|to| from.may_become(*to)).count();
            assert_eq!(from.is_final(), ways_out == 0, "{from}");
            assert!(!from.may_become(from), "{from}");
            assert_eq!(from.as_str().parse(), Ok(from));
        }
    }
}
