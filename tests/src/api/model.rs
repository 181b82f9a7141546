//! What the API returns, as far as a client reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::{
    geo::Point,
    ids::{DriverId, FactId, OfferId, PaymentId, RideId, RiderId, TripId},
    money::Money,
};
use time::OffsetDateTime;
use uuid::Uuid;

/// Tokens and whose they are.
#[derive(Clone, Debug, Deserialize)]
pub struct SignedIn {
    pub access_token: String,
    #[serde(default)]
    pub refresh_token: String,
    pub expires_in: i64,
    pub role: String,
    pub subject: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct RiderAccount {
    pub id: RiderId,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DriverAccount {
    pub id: DriverId,
}

#[derive(Clone, Debug, Serialize)]
pub struct Vehicle {
    pub class: String,
    pub plate: String,
    pub model: String,
    pub seats: u16,
}

/// From where to where, in what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journey {
    pub pickup: Point,
    pub dropoff: Point,
    pub vehicle_class: String,
}

/// The answer to an estimate.
#[derive(Clone, Debug, Deserialize)]
pub struct Quote {
    pub quote_id: String,
    pub fare: Value,
    pub surge_multiplier: f64,
    pub distance_m: f64,
    pub duration_s: f64,
    pub pickup_eta_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RideStatus {
    Requested,
    Offered,
    Accepted,
    Arrived,
    InProgress,
    Completed,
    Cancelled,
    Expired,
}

impl RideStatus {
    /// Whether anything can still happen to the ride.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Completed | Self::Cancelled | Self::Expired)
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Ride {
    pub id: RideId,
    pub status: RideStatus,
    pub rider_id: RiderId,
    #[serde(default)]
    pub driver_id: Option<DriverId>,
    #[serde(default)]
    pub trip_id: Option<TripId>,
    pub pickup: Point,
    pub dropoff: Point,
    #[serde(default)]
    pub pin: Option<String>,
    #[serde(default)]
    pub cancellation_fee: Option<Money>,
}

/// An offer to a driver.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Offer {
    pub offer_id: OfferId,
    pub ride_id: RideId,
    pub pickup: Point,
    pub dropoff: Point,
    pub fare: Value,
    pub pickup_eta_s: f64,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Withdrawn {
    pub ride_id: RideId,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TripStatus {
    Accepted,
    Arrived,
    InProgress,
    Paused,
    Completed,
    Cancelled,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Trip {
    pub id: TripId,
    pub ride_id: RideId,
    pub status: TripStatus,
    #[serde(default)]
    pub fare: Option<Fare>,
    #[serde(default)]
    pub payment_id: Option<PaymentId>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Fare {
    pub total: Money,
    pub lines: Vec<FareLine>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FareLine {
    pub code: String,
    pub amount: Money,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    Pending,
    Authorized,
    Settled,
    Failed,
    Refunded,
    PartiallyRefunded,
    Unknown,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Payment {
    pub id: PaymentId,
    pub trip_id: TripId,
    pub status: PaymentStatus,
    pub amount: Money,
    #[serde(default)]
    pub remote_durable_at: Option<String>,
}

/// One entry of the replicated ledger.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Settlement {
    pub fact_id: FactId,
    pub payment_id: PaymentId,
    pub trip_id: TripId,
    pub tenant: String,
    pub kind: String,
    pub amount: i64,
    pub currency: String,
    pub origin_region: String,
    pub late: bool,
}

/// A tenant's move to another region.
#[derive(Clone, Debug, Deserialize)]
pub struct Move {
    pub id: Uuid,
    pub mode: String,
    pub to_region: String,
    pub state: String,
    pub rows_moved: i64,
    pub paused_ms: Option<i32>,
    pub failure: Option<String>,
}

/// One page of a list.
#[derive(Clone, Debug, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}

/// A tenant's config: the draft, and what is published of it.
#[derive(Clone, Debug, Deserialize)]
pub struct ConfigView {
    pub config: Value,
    pub heads: Vec<String>,
    #[serde(default)]
    pub conflicts: Vec<Value>,
    pub published: Option<Published>,
    #[serde(default)]
    pub rejected: Vec<Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Published {
    pub version: i64,
    pub config: Value,
}

/// Where a tenant is at home.
#[derive(Clone, Debug, Deserialize)]
pub struct HomeRoute {
    pub tenant: String,
    pub home_region: String,
    pub base_url: String,
}

/// What `global-sync` says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct SyncStatus {
    pub region: String,
    pub leader: bool,
    pub version_vector: BTreeMap<String, Value>,
    pub digest: String,
    pub logs: BTreeMap<String, LogStatus>,
    pub outbox: Backlog,
    pub peers: Vec<PeerStatus>,
}

/// How far a log is.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct LogStatus {
    pub stored: u64,
    pub applied: u64,
}

/// Facts that are committed and that nobody else can have yet.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Backlog {
    pub pending: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PeerStatus {
    pub region: String,
    pub connected: bool,
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    #[serde(default)]
    pub lag_entries: Option<i64>,
    #[serde(default)]
    pub lag_ms: Option<f64>,
}
