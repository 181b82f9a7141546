//! A ride is what a rider asks for; a trip is what a driver then drives.
//!
//! [`machine`] decides which step is legal and knows no database; [`store`] holds all SQL of rides. Postgres is the truth:
//! two nodes may serve one ride at once, so nothing here is remembered between calls. A ride's row is the lock of the ride
//! and of its trip: whoever changes either takes [`lock`] first.

mod cancel;
mod config;
mod error;
mod estimate;
mod list;
mod machine;
mod open;
mod payment_method;
mod promotion;
mod request;
mod store;
mod view;

use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    geo::Point,
    ids::{DriverId, RideId, RiderId, TenantId, TripId},
};
use time::OffsetDateTime;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use cancel::redispatch;
pub use config::RideConfig;
pub use error::RideError;
pub use machine::{Cancellation, CancelledBy, RideStatus};
pub(crate) use open::{Reported, report_open};
pub use payment_method::{MethodType, PaymentMethod};
pub use store::{Follows, accept, load, lock, lock_all, save};
pub(crate) use store::{RideRow, begin_next, hold_next_of, hold_overdue};
pub use view::{RideView, RiderProfile, Viewer, announce, describe};

use crate::{app::App, identity::DriverProfile, pricing::Quote};

/// Rides asked for, and how they ended.
pub(crate) const RIDES: &str = "region_node_rides_total";

/// Endpoints of rides.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(estimate::estimate_ride))
        .routes(routes!(request::request_ride, list::list_rides))
        .routes(routes!(list::get_ride))
        .routes(routes!(cancel::cancel_ride))
}

/// A ride, whole. It is not what an answer shows: see [`Ride::seen_by`], which leaves out what is not the viewer's.
#[derive(Clone, Debug, PartialEq)]
pub struct Ride {
    pub id: RideId,
    pub tenant: TenantId,
    pub rider_id: RiderId,
    pub driver_id: Option<DriverId>,
    pub trip_id: Option<TripId>,
    pub status: RideStatus,
    pub pickup: Place,
    pub dropoff: Place,
    pub vehicle_class: String,
    pub payment_method: PaymentMethod,
    /// The price the rider saw and all it was made from.
    pub quote: Quote,
    /// What the rider tells the driver, so that both are in the right car.
    pub pin: String,
    pub scheduled_at: Option<OffsetDateTime>,
    pub requested_at: OffsetDateTime,
    /// When the dispatcher looks at it next; none once nobody needs to.
    pub dispatch_at: Option<OffsetDateTime>,
    pub expires_at: OffsetDateTime,
    /// Offers of the present search; a new one begins when a driver gives the ride up.
    pub offers_made: i32,
    /// Rounds of its dispatch that ended in offers.
    pub rounds: i32,
    /// As the driver's offer said.
    pub pickup_eta_s: Option<i32>,
    pub accepted_at: Option<OffsetDateTime>,
    /// The trip its driver ends before he sets out for this one.
    pub after_trip_id: Option<TripId>,
    pub ended_at: Option<OffsetDateTime>,
    pub cancelled_by: Option<CancelledBy>,
    pub cancel_reason: Option<String>,
    /// Minor units of the quote's currency.
    pub cancellation_fee: Option<i64>,
    pub updated_at: OffsetDateTime,
    /// What the rider may know of the driver; loaded by [`describe`].
    pub driver: Option<DriverProfile>,
    /// What the driver may know of the rider; loaded by [`describe`].
    pub rider: Option<RiderProfile>,
}

/// Where a ride begins or ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Validate, utoipa::ToSchema)]
pub struct Place {
    /// Degrees north.
    #[garde(range(min = -90.0, max = 90.0))]
    #[schema(minimum = -90, maximum = 90, example = 40.758)]
    pub lat: f64,
    /// Degrees east.
    #[garde(range(min = -180.0, max = 180.0))]
    #[schema(minimum = -180, maximum = 180, example = -73.9855)]
    pub lng: f64,
    /// For people.
    #[garde(length(chars, max = 200))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Place {
    /// On the globe.
    pub fn point(&self) -> Point {
        Point::new(self.lat, self.lng)
    }
}

#[cfg(test)]
pub(crate) mod tests;
