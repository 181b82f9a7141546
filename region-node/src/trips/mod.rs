//! A trip is what a driver drives: from the acceptance of a ride to its end, its fare, its receipt and its ratings.
//!
//! [`machine`] decides which step is legal and knows no database; [`store`] holds all SQL of trips. A trip changes only under
//! the lock of its ride's row (`rides::lock`), and the two always agree.

mod config;
mod drive;
mod end;
mod error;
mod get;
mod machine;
mod rating;
mod receipt;
mod receipt_html;
mod receipt_pdf;
mod store;
mod trace;

use serde::Serialize;
use shared::{
    ids::{DriverId, PaymentId, RideId, RiderId, TripId},
    money::Money,
};
use time::OffsetDateTime;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use config::TripConfig;
pub use error::TripError;
pub use machine::TripStatus;
pub use rating::{RatedBy, Rating};
pub use store::{active_of_driver, load};
pub(crate) use store::{begin_next, hold_under_way};

use crate::{
    app::App,
    db::TenantTx,
    pricing::{Fare, Travelled},
    rides::{Place, Ride},
};

/// Endpoints of trips.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get::get_trip))
        .routes(routes!(drive::arrive))
        .routes(routes!(drive::start))
        .routes(routes!(drive::pause))
        .routes(routes!(drive::resume))
        .routes(routes!(end::end_trip))
        .routes(routes!(receipt::get_receipt))
        .routes(routes!(rating::rate_trip))
}

/// A trip.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Trip {
    pub id: TripId,
    pub ride_id: RideId,
    pub rider_id: RiderId,
    pub driver_id: DriverId,
    pub status: TripStatus,
    pub pickup: Place,
    pub dropoff: Place,
    #[serde(with = "time::serde::rfc3339")]
    pub accepted_at: OffsetDateTime,
    /// The trip its driver has to end first; this one then begins by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_trip_id: Option<TripId>,
    /// If that one has not ended by then, the ride goes to somebody else.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub starts_by: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub arrived_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub started_at: Option<OffsetDateTime>,
    /// Since when it stands, while it is paused.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<OffsetDateTime>,
    /// Paused so far, the present pause not included.
    pub paused_s: i64,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<OffsetDateTime>,
    /// Along the travelled trace; as quoted if there is none. Longer than quoted where the driver made a detour, which the fare is
    /// not raised by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<i64>,
    /// From start to end, pauses included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<i64>,
    /// What the fare was made of, beside the quote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub travelled: Option<Travelled>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fare: Option<Fare>,
    /// What of the fare others pay as their shares, or were to pay; the rest is the rider's own part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<Money>,
    /// The payment of the rider's own part of the fare, or of what the cancellation cost, once one was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl Trip {
    /// What begins when `driver` accepts `ride`.
    pub fn begin(ride: &Ride, driver: DriverId, now: OffsetDateTime) -> Self {
        Self {
            id: TripId::new(),
            ride_id: ride.id,
            rider_id: ride.rider_id,
            driver_id: driver,
            status: TripStatus::Accepted,
            pickup: ride.pickup.clone(),
            dropoff: ride.dropoff.clone(),
            accepted_at: now,
            after_trip_id: None,
            starts_by: None,
            arrived_at: None,
            started_at: None,
            paused_at: None,
            paused_s: 0,
            ended_at: None,
            distance_m: None,
            duration_s: None,
            travelled: None,
            fare: None,
            shared: None,
            payment_id: None,
            updated_at: now,
        }
    }
}

/// Cancels a trip whose ride is locked and given up.
pub(crate) async fn cancel(tx: &mut TenantTx, trip: Trip, now: OffsetDateTime) -> Result<(), TripError> {
    let was = trip.status;
    let trip = trip.cancel(now)?;
    store::save_cancelled(tx, &trip, was).await
}

#[cfg(test)]
mod tests;
