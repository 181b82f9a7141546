//! What each party sees of a ride, and telling them when it changed.

use serde::Serialize;
use shared::{
    claims::Role,
    ids::{DriverId, RideId, RiderId, TenantId, TripId},
    money::Money,
};
use time::OffsetDateTime;

use super::{CancelledBy, MethodType, Place, Ride, RideStatus};
use crate::{
    db::TenantTx,
    identity::{self, Caller, DriverProfile, Subject},
    pricing::Surge,
    realtime::Event,
};

/// In which part somebody looks at a ride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    Rider,
    Driver,
    Tenant,
}

/// What a driver may know of a rider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RiderProfile {
    /// First name.
    pub name: String,
}

/// A ride, as one of its parties sees it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = Ride)]
pub struct RideView {
    pub id: RideId,
    pub tenant: TenantId,
    pub rider_id: RiderId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_id: Option<DriverId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trip_id: Option<TripId>,
    pub status: RideStatus,
    pub pickup: Place,
    pub dropoff: Place,
    pub vehicle_class: String,
    pub payment_method: MethodView,
    /// The price quoted.
    pub fare: Money,
    pub surge_multiplier: Surge,
    /// Along the way quoted.
    pub distance_m: i64,
    /// Along the way quoted.
    pub duration_s: i64,
    /// What the rider tells the driver at the pick-up; shown to the rider alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// Who drives; once a driver has accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverProfile>,
    /// Whom to pick up; shown to the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rider: Option<RiderProfile>,
    /// The driver's way to the pick-up, as estimated when he was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pickup_eta_s: Option<i32>,
    /// The driver brings another rider to their place first, and is on his way after that; `pickup_eta_s` counts both.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub driver_ends_trip_first: bool,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub requested_at: OffsetDateTime,
    /// When the ride is given up if nobody takes it.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<OffsetDateTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<CancelledBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancellation_fee: Option<Money>,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// How the rider means to pay; a card's token stays with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct MethodView {
    #[serde(rename = "type")]
    pub kind: MethodType,
}

impl Ride {
    /// The ride as `viewer` may see it.
    pub fn seen_by(&self, viewer: Viewer) -> RideView {
        let ride = self.clone();
        let currency = ride.quote.currency;
        RideView {
            fare: ride.quote.fare().total,
            surge_multiplier: ride.quote.surge,
            distance_m: ride.quote.distance_m,
            duration_s: ride.quote.duration_s,
            payment_method: MethodView { kind: ride.payment_method.kind },
            pin: (viewer == Viewer::Rider).then_some(ride.pin),
            driver: ride.driver,
            rider: ride.rider.filter(|_| viewer != Viewer::Rider),
            cancellation_fee: ride.cancellation_fee.map(|fee| Money::new(fee, currency)),
            id: ride.id,
            tenant: ride.tenant,
            rider_id: ride.rider_id,
            driver_id: ride.driver_id,
            trip_id: ride.trip_id,
            status: ride.status,
            pickup: ride.pickup,
            dropoff: ride.dropoff,
            vehicle_class: ride.vehicle_class,
            pickup_eta_s: ride.pickup_eta_s,
            driver_ends_trip_first: ride.status == RideStatus::Accepted && ride.after_trip_id.is_some(),
            scheduled_at: ride.scheduled_at,
            requested_at: ride.requested_at,
            expires_at: ride.expires_at,
            accepted_at: ride.accepted_at,
            ended_at: ride.ended_at,
            cancelled_by: ride.cancelled_by,
            cancel_reason: ride.cancel_reason,
            updated_at: ride.updated_at,
        }
    }

    /// In which part `caller` looks at the ride; `None` if it is none of theirs, and then it does not exist for them.
    pub fn viewer(&self, caller: &Caller) -> Option<Viewer> {
        match (caller.role, &caller.subject) {
            (_, Subject::Rider(id)) => (self.rider_id == *id).then_some(Viewer::Rider),
            (_, Subject::Driver(id)) => (self.driver_id == Some(*id)).then_some(Viewer::Driver),
            (Role::TenantAdmin | Role::Operator, Subject::Client(_)) => Some(Viewer::Tenant),
            (Role::Rider | Role::Driver, Subject::Client(_)) => None,
        }
    }
}

/// Loads what the parties may know of each other.
pub async fn describe(tx: &mut TenantTx, ride: &mut Ride) -> sqlx::Result<()> {
    if let Some(driver) = ride.driver_id {
        let parties = identity::parties(tx, driver, ride.rider_id).await?;
        (ride.driver, ride.rider) = parties.map(|(driver, name)| (driver, RiderProfile { name })).unzip();
    }
    Ok(())
}

/// Completes a changed ride and tells its parties, once the transaction has committed.
pub async fn announce(tx: &mut TenantTx, mut ride: Ride) -> sqlx::Result<Ride> {
    describe(tx, &mut ride).await?;
    tx.tell(Event::RideChanged(Box::new(ride.clone())));
    Ok(ride)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rides::tests::ride;

    #[test]
    fn the_pin_is_the_rider_s_and_the_card_is_nobody_s() {
        let ride = Ride { rider: Some(RiderProfile { name: "Ada".into() }), ..ride() };
        let json = |viewer| serde_json::to_value(ride.seen_by(viewer)).unwrap();
        assert_eq!(json(Viewer::Rider)["pin"], "0427");
        assert_eq!(json(Viewer::Driver).get("pin"), None);
        assert_eq!(json(Viewer::Tenant).get("pin"), None);
        assert_eq!(json(Viewer::Rider).get("rider"), None);
        assert_eq!(json(Viewer::Driver)["rider"]["name"], "Ada");
        for viewer in [Viewer::Rider, Viewer::Driver, Viewer::Tenant] {
            assert!(!json(viewer).to_string().contains("tok_visa"));
        }
    }
}
