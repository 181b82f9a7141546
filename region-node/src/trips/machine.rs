//! Which step of a trip is legal, and what it changes. Pure: no database, no clock.
//!
//! ```text
//! ──► accepted ──► arrived ──► in_progress ──► completed
//!        │            │          ▲    │            ▲
//!        ▼            ▼          │    ▼            │
//!      cancelled ◄────┘          paused ───────────┘
//! ```

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Trip, TripError, trace::Driven};
use crate::{
    pricing::{Fare, Travelled},
    rides::{Ride, RideStatus},
};

/// Where a trip stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TripStatus {
    /// The driver is on the way to the pick-up.
    Accepted,
    /// The driver is at the pick-up.
    Arrived,
    /// The rider is on board.
    InProgress,
    /// Under way, but standing at the rider's wish.
    Paused,
    /// Driven to its end.
    Completed,
    /// Given up before it began.
    Cancelled,
}

impl TripStatus {
    /// All of them, in the order of a trip's life.
    pub const ALL: [Self; 6] =
        [Self::Accepted, Self::Arrived, Self::InProgress, Self::Paused, Self::Completed, Self::Cancelled];

    /// As in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Arrived => "arrived",
            Self::InProgress => "in_progress",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the trip keeps its driver busy.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Accepted | Self::Arrived | Self::InProgress | Self::Paused)
    }

    /// Whether a trip may go from here to `next`.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Accepted => matches!(next, Self::Arrived | Self::Cancelled),
            Self::Arrived => matches!(next, Self::InProgress | Self::Cancelled),
            Self::InProgress => matches!(next, Self::Paused | Self::Completed),
            Self::Paused => matches!(next, Self::InProgress | Self::Completed),
            Self::Completed | Self::Cancelled => false,
        }
    }

    /// What the trip's ride is meanwhile.
    pub fn of_ride(self) -> RideStatus {
        match self {
            Self::Accepted => RideStatus::Accepted,
            Self::Arrived => RideStatus::Arrived,
            Self::InProgress | Self::Paused => RideStatus::InProgress,
            Self::Completed => RideStatus::Completed,
            Self::Cancelled => RideStatus::Cancelled,
        }
    }
}

impl std::fmt::Display for TripStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for TripStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| format!("'{text}' is no status of a trip"))
    }
}

impl Trip {
    /// The driver is at the pick-up.
    pub fn arrive(self, now: OffsetDateTime) -> Result<Self, TripError> {
        // Another trip of the driver's has to end first.
        if self.after_trip_id.is_some() {
            return Err(TripError::InvalidTransition { from: self.status, to: TripStatus::Arrived });
        }
        Ok(Self { arrived_at: Some(now), ..self.become_status(TripStatus::Arrived, now)? })
    }

    /// The rider is on board. `given` is the PIN the driver was told, if he typed one in; `pin` the rider's.
    pub fn start(self, given: Option<&str>, pin: &str, now: OffsetDateTime) -> Result<Self, TripError> {
        // Resuming has a step of its own.
        if self.status == TripStatus::Paused {
            return Err(TripError::InvalidTransition { from: self.status, to: TripStatus::InProgress });
        }
        let trip = Self { started_at: Some(now), ..self.become_status(TripStatus::InProgress, now)? };
        if given.is_some_and(|given| given != pin) {
            return Err(TripError::WrongPin);
        }
        Ok(trip)
    }

    /// The rider wants to stop for a while.
    pub fn pause(self, now: OffsetDateTime) -> Result<Self, TripError> {
        Ok(Self { paused_at: Some(now), ..self.become_status(TripStatus::Paused, now)? })
    }

    /// It goes on.
    pub fn resume(self, now: OffsetDateTime) -> Result<Self, TripError> {
        if self.status != TripStatus::Paused {
            return Err(TripError::InvalidTransition { from: self.status, to: TripStatus::InProgress });
        }
        let trip = self.become_status(TripStatus::InProgress, now)?;
        Ok(Self { paused_s: trip.paused_until(now), paused_at: None, ..trip })
    }

    /// It is over: what was travelled and what it costs. `driven` is what the trace says, if there is a trace; `declared_tolls`
    /// what the driver says he paid on the way.
    pub(super) fn end(
        self,
        ride: &Ride,
        driven: Option<Driven>,
        declared_tolls: i64,
        now: OffsetDateTime,
    ) -> Result<Self, TripError> {
        let trip = self.become_status(TripStatus::Completed, now)?;
        let quote = &ride.quote;
        let most = quote.tariff.max_declared_tolls;
        if !(0..=most).contains(&declared_tolls) {
            return Err(TripError::TooManyTolls { most });
        }
        let duration_s = trip.started_at.map_or(0, |started_at| (now - started_at).whole_seconds().max(0));
        let paused_s = trip.paused_until(now).min(duration_s);
        let travelled = Travelled {
            distance_m: driven.map(|driven| driven.length_m),
            from_dropoff_m: driven.map(|driven| driven.end.distance_m(quote.dropoff).round() as i64),
            driving_s: duration_s - paused_s,
            waiting_s: trip.waited_at_pickup_s(ride.scheduled_at) + paused_s,
            declared_tolls,
        };
        Ok(Self {
            ended_at: Some(now),
            paused_at: None,
            paused_s,
            distance_m: Some(travelled.distance_m.unwrap_or(quote.distance_m)),
            duration_s: Some(duration_s),
            travelled: Some(travelled),
            fare: Some(Fare::of(quote, travelled)),
            ..trip
        })
    }

    /// It will not be driven.
    pub fn cancel(self, now: OffsetDateTime) -> Result<Self, TripError> {
        Ok(Self { ended_at: Some(now), ..self.become_status(TripStatus::Cancelled, now)? })
    }

    /// Whole seconds paused, the pause that lasts until `now` included.
    fn paused_until(&self, now: OffsetDateTime) -> i64 {
        self.paused_s + self.paused_at.map_or(0, |since| (now - since).whole_seconds().max(0))
    }

    /// Whole seconds the driver stood at the pick-up until the rider was on board. Who comes early to a ride that was
    /// booked ahead waits at his own cost.
    fn waited_at_pickup_s(&self, scheduled_at: Option<OffsetDateTime>) -> i64 {
        let Some((arrived_at, started_at)) = self.arrived_at.zip(self.started_at) else { return 0 };
        let since = scheduled_at.map_or(arrived_at, |at| at.max(arrived_at));
        (started_at - since).whole_seconds().max(0)
    }

    fn become_status(self, next: TripStatus, now: OffsetDateTime) -> Result<Self, TripError> {
        match self.status.may_become(next) {
            true => Ok(Self { status: next, updated_at: now, ..self }),
            false => Err(TripError::InvalidTransition { from: self.status, to: next }),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;
    use crate::{
        pricing::{FareLine, LineCode},
        rides::tests::ride,
    };

    const T0: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

    fn minute(n: i64) -> OffsetDateTime {
        T0 + Duration::minutes(n)
    }

    fn trip() -> Trip {
        Trip::begin(&ride(), shared::ids::DriverId::new(), T0)
    }

    fn end(trip: Trip, distance_m: impl Into<Option<i64>>, now: OffsetDateTime) -> Result<Trip, TripError> {
        let at_dropoff = |length_m| Driven { length_m, end: ride().quote.dropoff };
        trip.end(&ride(), distance_m.into().map(at_dropoff), 0, now)
    }

    fn line(trip: &Trip, code: LineCode) -> Option<&FareLine> {
        trip.fare.as_ref().unwrap().lines.iter().find(|line| line.code == code)
    }

    #[test]
    fn a_trip_runs_from_acceptance_to_its_fare() {
        let quote = ride().quote;
        let trip = trip().arrive(minute(4)).unwrap().start(Some("0427"), "0427", minute(5)).unwrap();
        let trip = end(trip, quote.distance_m + 40, minute(25)).unwrap();
        assert_eq!(trip.status, TripStatus::Completed);
        assert_eq!(trip.duration_s, Some(1200));
        assert_eq!(trip.distance_m, Some(quote.distance_m + 40));
        assert_eq!(trip.fare, Some(quote.fare()));
        assert_eq!(
            (trip.arrived_at, trip.started_at, trip.ended_at),
            (Some(minute(4)), Some(minute(5)), Some(minute(25)))
        );
    }

    #[test]
    fn pauses_add_up_and_are_charged_as_waiting_beyond_the_free_minutes() {
        let trip = trip().arrive(minute(1)).unwrap().start(None, "0427", minute(2)).unwrap();
        let trip = trip.pause(minute(5)).unwrap().resume(minute(7)).unwrap().pause(minute(10)).unwrap();
        let trip = end(trip, 3_000, minute(13)).unwrap();
        assert_eq!((trip.duration_s, trip.paused_s, trip.paused_at), (Some(660), 300, None));
        // A minute at the pick-up and five on the way, of which three are free.
        assert_eq!(ride().quote.tariff.free_waiting_minutes, 3);
        let waiting = line(&trip, LineCode::Waiting).unwrap();
        assert_eq!(waiting.amount.amount, 3 * ride().quote.tariff.waiting_per_minute);
    }

    #[test]
    fn waiting_at_the_pick_up_costs_from_arrival_on_but_not_before_the_time_that_was_booked() {
        let waited = |scheduled_at: Option<OffsetDateTime>| {
            let ride = Ride { scheduled_at, ..ride() };
            let trip = trip().arrive(minute(0)).unwrap().start(None, "0427", minute(10)).unwrap();
            let trip = trip.end(&ride, None, 0, minute(20)).unwrap();
            line(&trip, LineCode::Waiting).map_or(0, |line| line.amount.amount)
        };
        let per_minute = ride().quote.tariff.waiting_per_minute;
        assert_eq!(waited(None), 7 * per_minute);
        assert_eq!(waited(Some(minute(-5))), 7 * per_minute);
        assert_eq!(waited(Some(minute(4))), 3 * per_minute);
        assert_eq!(waited(Some(minute(15))), 0);
    }

    #[test]
    fn a_driver_declares_tolls_up_to_what_the_tariff_allows() {
        let mut ride = ride();
        ride.quote.tariff.max_declared_tolls = 900;
        let under_way = trip().arrive(minute(1)).unwrap().start(None, "0427", minute(2)).unwrap();
        let declare = |tolls| under_way.clone().end(&ride, None, tolls, minute(9));
        for bad in [-1, 901, i64::MAX] {
            assert!(matches!(declare(bad), Err(TripError::TooManyTolls { most: 900 })), "{bad}");
        }
        let (without, with) = (declare(0).unwrap(), declare(900).unwrap());
        assert_eq!(line(&without, LineCode::DeclaredTolls), None);
        assert_eq!(line(&with, LineCode::DeclaredTolls).unwrap().amount.amount, 900);
        assert_eq!(with.fare.unwrap().total.amount, without.fare.unwrap().total.amount + 900);
    }

    #[test]
    fn a_trip_without_a_trace_has_the_quoted_distance() {
        let trip = trip().arrive(minute(1)).unwrap().start(None, "0427", minute(2)).unwrap();
        assert_eq!(end(trip, None, minute(9)).unwrap().distance_m, Some(ride().quote.distance_m));
    }

    #[test]
    fn a_trip_far_longer_than_quoted_costs_more_if_it_ended_elsewhere_than_at_the_drop_off() {
        let quote = ride().quote;
        let trip = trip().arrive(minute(1)).unwrap().start(None, "0427", minute(2)).unwrap();
        let detour = end(trip.clone(), quote.distance_m * 3, minute(60)).unwrap();
        assert_eq!((detour.distance_m, detour.fare), (Some(quote.distance_m * 3), Some(quote.fare())));
        let elsewhere = Driven { length_m: quote.distance_m * 3, end: quote.pickup };
        let changed = trip.end(&ride(), Some(elsewhere), 0, minute(60)).unwrap();
        assert!(changed.fare.unwrap().total.amount > quote.fare().total.amount);
        let from_dropoff_m = changed.travelled.unwrap().from_dropoff_m.unwrap();
        assert!((6_000..6_200).contains(&from_dropoff_m), "{from_dropoff_m}");
    }

    #[test]
    fn a_wrong_pin_starts_nothing_but_none_is_not_asked_for() {
        let arrived = trip().arrive(minute(1)).unwrap();
        assert!(matches!(arrived.clone().start(Some("0000"), "0427", minute(2)), Err(TripError::WrongPin)));
        assert!(arrived.start(None, "0427", minute(2)).is_ok());
        let early = trip().start(Some("0000"), "0427", minute(2));
        assert!(matches!(early, Err(TripError::InvalidTransition { .. })));
    }

    #[test]
    fn each_step_is_legal_from_its_states_alone() {
        use TripStatus::{Accepted, Arrived, Cancelled, Completed, InProgress, Paused};
        type Step = fn(Trip) -> Result<Trip, TripError>;
        let steps: [(&str, Step, &[TripStatus], TripStatus); 6] = [
            ("arrive", |trip| trip.arrive(T0), &[Accepted], Arrived),
            ("start", |trip| trip.start(None, "0427", T0), &[Arrived], InProgress),
            ("pause", |trip| trip.pause(T0), &[InProgress], Paused),
            ("resume", |trip| trip.resume(T0), &[Paused], InProgress),
            ("end", |trip| end(trip, 1, T0), &[InProgress, Paused], Completed),
            ("cancel", |trip| trip.cancel(T0), &[Accepted, Arrived], Cancelled),
        ];
        for (name, step, legal, reached) in steps {
            for from in TripStatus::ALL {
                let outcome = step(Trip { status: from, ..trip() });
                match legal.contains(&from) {
                    true => assert_eq!(outcome.unwrap().status, reached, "{name} from {from}"),
                    false => assert!(
                        matches!(outcome, Err(TripError::InvalidTransition { from: refused, .. }) if refused == from),
                        "{name} from {from}"
                    ),
                }
            }
        }
    }

    #[test]
    fn a_trip_and_its_ride_agree_on_which_steps_exist() {
        for from in TripStatus::ALL {
            for to in TripStatus::ALL {
                if from.may_become(to) && from.of_ride() != to.of_ride() {
                    assert!(from.of_ride().may_become(to.of_ride()), "{from} to {to}");
                }
            }
            assert_eq!(from.as_str().parse(), Ok(from));
        }
    }
}
