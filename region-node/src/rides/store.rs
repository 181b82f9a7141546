//! All SQL of rides.

use shared::ids::{DriverId, RideId, RiderId, TripId};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{PaymentMethod, Place, Ride, RideError, RideStatus, RiderProfile, announce};
use crate::{
    db::{TenantTx, constraint},
    identity::SealedParties,
    pricing::Quote,
    trips::{self, Trip},
};

/// The columns of a ride, as they are.
pub(crate) struct RideRow {
    pub(crate) id: Uuid,
    pub(crate) rider_id: Uuid,
    pub(crate) driver_id: Option<Uuid>,
    pub(crate) trip_id: Option<Uuid>,
    pub(crate) status: String,
    pub(crate) pickup_lat: f64,
    pub(crate) pickup_lng: f64,
    pub(crate) pickup_address: Option<String>,
    pub(crate) dropoff_lat: f64,
    pub(crate) dropoff_lng: f64,
    pub(crate) dropoff_address: Option<String>,
    pub(crate) vehicle_class: String,
    pub(crate) payment_method: Json<PaymentMethod>,
    pub(crate) quote: Json<Quote>,
    pub(crate) pin: String,
    pub(crate) scheduled_at: Option<OffsetDateTime>,
    pub(crate) requested_at: OffsetDateTime,
    pub(crate) dispatch_at: Option<OffsetDateTime>,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) offers_made: i32,
    pub(crate) rounds: i32,
    pub(crate) pickup_eta_s: Option<i32>,
    pub(crate) accepted_at: Option<OffsetDateTime>,
    pub(crate) after_trip_id: Option<Uuid>,
    pub(crate) ended_at: Option<OffsetDateTime>,
    pub(crate) cancelled_by: Option<String>,
    pub(crate) cancel_reason: Option<String>,
    pub(crate) cancellation_fee: Option<i64>,
    pub(crate) updated_at: OffsetDateTime,
}

/// Selects rides; the first argument ends the statement.
macro_rules! select_rides {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            RideRow,
            r#"SELECT id, rider_id, driver_id, trip_id, status, pickup_lat, pickup_lng, pickup_address, dropoff_lat,
                      dropoff_lng, dropoff_address, vehicle_class, payment_method AS "payment_method: Json<PaymentMethod>",
                      quote AS "quote: Json<Quote>", pin, scheduled_at, requested_at, dispatch_at, expires_at, offers_made,
                      rounds, pickup_eta_s, accepted_at, after_trip_id, ended_at, cancelled_by, cancel_reason,
                      cancellation_fee, updated_at
               FROM rides "# + $tail
            $(, $argument)*
        )
    };
}

/// Loads a ride.
pub async fn load(tx: &mut TenantTx, id: RideId) -> sqlx::Result<Option<Ride>> {
    let row = select_rides!("WHERE id = $1", id.0).fetch_optional(tx.conn()).await?;
    row.map(|row| row.into_ride(tx)).transpose()
}

/// Loads a ride and holds its row, and with it the ride's trip, until the transaction ends.
pub async fn lock(tx: &mut TenantTx, id: RideId) -> sqlx::Result<Option<Ride>> {
    let row = select_rides!("WHERE id = $1 FOR UPDATE", id.0).fetch_optional(tx.conn()).await?;
    row.map(|row| row.into_ride(tx)).transpose()
}

/// [`lock`] for several rides, held in the order of their ids, so that nobody waits in a circle.
pub async fn lock_all(tx: &mut TenantTx, ids: &[RideId]) -> sqlx::Result<Vec<Ride>> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let rows = select_rides!("WHERE id = ANY($1) ORDER BY id FOR UPDATE", &ids).fetch_all(tx.conn()).await?;
    rows.into_iter().map(|row| row.into_ride(tx)).collect()
}

/// Whose rides a list holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    Rider(RiderId),
    Driver(DriverId),
    Everybody,
}

/// Rides older than `before`, newest first.
pub(super) async fn list(
    tx: &mut TenantTx,
    whose: Whose,
    status: Option<RideStatus>,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Ride>> {
    let status = status.map(RideStatus::as_str);
    let before = before.unwrap_or(Uuid::max());
    let rows = match whose {
        Whose::Rider(rider) => {
            select_rides!(
                "WHERE rider_id = $1 AND id < $2 AND ($3::text IS NULL OR status = $3) ORDER BY id DESC LIMIT $4",
                rider.0,
                before,
                status,
                limit
            )
            .fetch_all(tx.conn())
            .await?
        }
        Whose::Driver(driver) => {
            select_rides!(
                "WHERE driver_id = $1 AND id < $2 AND ($3::text IS NULL OR status = $3) ORDER BY id DESC LIMIT $4",
                driver.0,
                before,
                status,
                limit
            )
            .fetch_all(tx.conn())
            .await?
        }
        Whose::Everybody => {
            select_rides!(
                "WHERE id < $1 AND ($2::text IS NULL OR status = $2) ORDER BY id DESC LIMIT $3",
                before,
                status,
                limit
            )
            .fetch_all(tx.conn())
            .await?
        }
    };
    rows.into_iter().map(|row| row.into_ride(tx)).collect()
}

/// Rides a rider has booked ahead that no driver has taken yet; whoever counts them holds the rider until the transaction
/// ends, so that nobody books between counting and inserting.
pub(super) async fn count_bookings(tx: &mut TenantTx, rider: RiderId) -> sqlx::Result<i64> {
    sqlx::query!("SELECT id FROM riders WHERE id = $1 FOR NO KEY UPDATE", rider.0).fetch_optional(tx.conn()).await?;
    let tenant = tx.tenant().clone();
    let booked = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM rides
           WHERE tenant_id = $1 AND rider_id = $2 AND status IN ('requested', 'offered') AND scheduled_at IS NOT NULL"#,
        tenant.as_str(),
        rider.0
    );
    booked.fetch_one(tx.conn()).await
}

/// How often a promotion was used.
pub(super) struct PromotionUses {
    pub(super) by_rider: i64,
    /// By all riders, where that was asked for.
    pub(super) by_all: i64,
}

/// Counts the rides with a promotion's code that were not given up.
pub(super) async fn promotion_uses(
    tx: &mut TenantTx,
    code: &str,
    rider: RiderId,
    count_all: bool,
) -> sqlx::Result<PromotionUses> {
    let tenant = tx.tenant().clone();
    sqlx::query_as!(
        PromotionUses,
        r#"SELECT (SELECT count(*) FROM rides
                   WHERE tenant_id = $1 AND promotion_code = $2 AND rider_id = $3
                     AND status NOT IN ('cancelled', 'expired')) AS "by_rider!",
                  CASE WHEN $4 THEN (SELECT count(*) FROM rides
                                     WHERE tenant_id = $1 AND promotion_code = $2
                                       AND status NOT IN ('cancelled', 'expired')) ELSE 0 END AS "by_all!""#,
        tenant.as_str(),
        code,
        rider.0,
        count_all
    )
    .fetch_one(tx.conn())
    .await
}

/// Has everybody else who wants to use a promotion wait until this transaction ends; without a limit for all, only the
/// rider's other requests.
pub(super) async fn lock_promotion(tx: &mut TenantTx, code: &str, rider: RiderId, for_all: bool) -> sqlx::Result<()> {
    let holder = if for_all { String::new() } else { rider.to_string() };
    let name = format!("promotion {} {code} {holder}", tx.tenant());
    sqlx::query!(r#"SELECT pg_advisory_xact_lock(hashtextextended($1, 0)) AS "locked!: ()""#, name)
        .fetch_one(tx.conn())
        .await
        .map(|_| ())
}

/// Inserts a new ride; a rider waits for one ride at a time, and one who was erased for none.
pub(super) async fn insert(tx: &mut TenantTx, ride: &Ride) -> Result<(), RideError> {
    let inserted = sqlx::query!(
        "INSERT INTO rides (id, tenant_id, rider_id, status, pickup_lat, pickup_lng, pickup_address, dropoff_lat,
             dropoff_lng, dropoff_address, vehicle_class, payment_method, quote, pin, scheduled_at, requested_at,
             dispatch_at, expires_at, updated_at)
         SELECT $1, $2, r.id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19
         FROM riders r WHERE r.id = $3 AND r.erased_at IS NULL FOR KEY SHARE",
        ride.id.0,
        ride.tenant.as_str(),
        ride.rider_id.0,
        ride.status.as_str(),
        ride.pickup.lat,
        ride.pickup.lng,
        ride.pickup.address,
        ride.dropoff.lat,
        ride.dropoff.lng,
        ride.dropoff.address,
        ride.vehicle_class,
        Json(&ride.payment_method) as _,
        Json(&ride.quote) as _,
        ride.pin,
        ride.scheduled_at,
        ride.requested_at,
        ride.dispatch_at,
        ride.expires_at,
        ride.updated_at
    )
    .execute(tx.conn())
    .await
    .map_err(|error| match constraint(&error) {
        Some("one_open_ride_per_rider") => RideError::RideInProgress,
        _ => error.into(),
    })?;
    if inserted.rows_affected() == 1 { Ok(()) } else { Err(RideError::Erased) }
}

/// Saves what may change of a ride, if it still is what it `was`.
pub async fn save(tx: &mut TenantTx, ride: &Ride, was: RideStatus) -> Result<(), RideError> {
    let saved = sqlx::query!(
        "UPDATE rides SET status = $3, driver_id = $4, trip_id = $5, dispatch_at = $6, expires_at = $7, offers_made = $8,
             pickup_eta_s = $9, accepted_at = $10, ended_at = $11, cancelled_by = $12, cancel_reason = $13,
             cancellation_fee = $14, updated_at = $15, after_trip_id = $16
         WHERE id = $1 AND status = $2",
        ride.id.0,
        was.as_str(),
        ride.status.as_str(),
        ride.driver_id.map(|id| id.0),
        ride.trip_id.map(|id| id.0),
        ride.dispatch_at,
        ride.expires_at,
        ride.offers_made,
        ride.pickup_eta_s,
        ride.accepted_at,
        ride.ended_at,
        ride.cancelled_by.map(|by| by.as_str()),
        ride.cancel_reason,
        ride.cancellation_fee,
        ride.updated_at,
        ride.after_trip_id.map(|id| id.0)
    )
    .execute(tx.conn())
    .await?;
    if saved.rows_affected() == 1 { Ok(()) } else { Err(RideError::InvalidTransition { from: was, to: ride.status }) }
}

/// The trip under way that a ride is accepted to follow, and until when it must have ended.
#[derive(Clone, Copy, Debug)]
pub struct Follows {
    pub trip_id: TripId,
    pub starts_by: OffsetDateTime,
}

/// Gives an offered ride to `driver`, who had it on offer, and begins his trip, or lets it wait for the one it follows; the
/// ride, with its parties, and the trip. The update's condition and the unique indexes decide every race: of any number of drivers one succeeds.
pub async fn accept(
    tx: &mut TenantTx,
    ride: &Ride,
    driver: DriverId,
    pickup_eta_s: i32,
    follows: Option<Follows>,
    now: OffsetDateTime,
) -> Result<(Ride, Trip), RideError> {
    let after_trip_id = follows.map(|follows| follows.trip_id);
    let starts_by = follows.map(|follows| follows.starts_by);
    let trip = Trip { after_trip_id, starts_by, ..Trip::begin(ride, driver, now) };
    let tenant = tx.tenant().clone();
    let taken = sqlx::query!(
        r#"WITH ride AS (
               UPDATE rides SET status = 'accepted', driver_id = $2, trip_id = $3, accepted_at = $4, updated_at = $4,
                   dispatch_at = NULL, after_trip_id = $5, pickup_eta_s = $8
               WHERE id = $1 AND status = 'offered'
                   AND EXISTS (SELECT FROM drivers WHERE id = $2 AND erased_at IS NULL FOR KEY SHARE)
               RETURNING id, rider_id
           ), trip AS (
               INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, updated_at, after_trip_id,
                   starts_by)
               SELECT $3, $6, id, rider_id, $2, 'accepted', $4, $4, $5, $7 FROM ride
           )
           SELECT d.sealed_name AS driver_name, d.vehicle_class, d.vehicle_plate, d.vehicle_model,
                  d.vehicle_seats, d.rating_sum, d.rating_count, r.sealed_name AS rider_name
           FROM ride JOIN drivers d ON d.id = $2 JOIN riders r ON r.id = ride.rider_id"#,
        ride.id.0,
        driver.0,
        trip.id.0,
        now,
        after_trip_id.map(|id| id.0),
        tenant.as_str(),
        starts_by,
        pickup_eta_s
    )
    .fetch_optional(tx.conn())
    .await
    .map_err(|error| match constraint(&error) {
        Some("one_open_ride_per_rider") => RideError::RiderBusy,
        Some("one_active_trip_per_driver" | "one_next_trip_per_driver") => RideError::DriverBusy,
        Some("one_active_trip_per_ride") => RideError::AlreadyTaken,
        _ => error.into(),
    })?
    .ok_or(RideError::AlreadyTaken)?;
    let parties = SealedParties {
        driver_name: taken.driver_name,
        vehicle_class: taken.vehicle_class,
        vehicle_plate: taken.vehicle_plate,
        vehicle_model: taken.vehicle_model,
        vehicle_seats: taken.vehicle_seats,
        rating_sum: taken.rating_sum,
        rating_count: taken.rating_count,
        rider_name: taken.rider_name,
    };
    let (profile, rider_name) = parties.open(&tx.sealer().await?, driver, ride.rider_id);
    let ride = Ride {
        status: RideStatus::Accepted,
        driver_id: Some(driver),
        trip_id: Some(trip.id),
        accepted_at: Some(now),
        after_trip_id,
        dispatch_at: None,
        pickup_eta_s: Some(pickup_eta_s),
        updated_at: now,
        driver: Some(profile),
        rider: Some(RiderProfile { name: rider_name }),
        ..ride.clone()
    };
    Ok((ride, trip))
}

/// Begins the trip that waits for `ended` to end, if there is one: its driver is on his way from now on. `ended` has changed
/// in this transaction, so nobody can accept another ride to follow it any more.
///
/// Nobody who holds a ride that waits asks for the one before it, so holding this one second is no circle.
pub(crate) async fn begin_next(
    tx: &mut TenantTx,
    driver: DriverId,
    ended: TripId,
    now: OffsetDateTime,
) -> sqlx::Result<Option<RideId>> {
    let tenant = tx.tenant().clone();
    let next = select_rides!(
        "WHERE tenant_id = $1 AND driver_id = $2 AND after_trip_id = $3 AND status = 'accepted' FOR UPDATE",
        tenant.as_str(),
        driver.0,
        ended.0
    );
    let Some(next) = next.fetch_optional(tx.conn()).await? else { return Ok(None) };
    let ride = next.into_ride(tx)?;
    // With its ride held, it is the one that counts: given up while this waited, it begins no more.
    if trips::begin_next(tx, ended, now).await?.is_none() {
        return Ok(None);
    }
    sqlx::query!("UPDATE rides SET after_trip_id = NULL, updated_at = $2 WHERE id = $1", ride.id.0, now)
        .execute(tx.conn())
        .await?;
    let ride = announce(tx, Ride { after_trip_id: None, updated_at: now, ..ride }).await?;
    tracing::info!(ride.id = %ride.id, "ride {} follows the trip that ended", ride.id);
    Ok(Some(ride.id))
}

/// The ride a driver has accepted to follow his present one, held; none if there is none, or none any more.
pub(crate) async fn hold_next_of(tx: &mut TenantTx, driver: DriverId) -> sqlx::Result<Option<Ride>> {
    let tenant = tx.tenant().clone();
    let row = select_rides!(
        "WHERE tenant_id = $1 AND driver_id = $2 AND after_trip_id IS NOT NULL AND status = 'accepted' FOR UPDATE",
        tenant.as_str(),
        driver.0
    );
    row.fetch_optional(tx.conn()).await?.map(|row| row.into_ride(tx)).transpose()
}

/// The rides whose driver should have come to them by now and is still on the trip before, held; one that is changing right
/// now is left to whoever changes it.
pub(crate) async fn hold_overdue(tx: &mut TenantTx, now: OffsetDateTime) -> sqlx::Result<Vec<Ride>> {
    let tenant = tx.tenant().clone();
    let rows = select_rides!(
        "WHERE after_trip_id IS NOT NULL AND status = 'accepted' AND id IN (
             SELECT ride_id FROM trips
             WHERE tenant_id = $1 AND status = 'accepted' AND after_trip_id IS NOT NULL AND starts_by <= $2
         ) ORDER BY id FOR UPDATE SKIP LOCKED",
        tenant.as_str(),
        now
    );
    rows.fetch_all(tx.conn()).await?.into_iter().map(|row| row.into_ride(tx)).collect()
}

impl RideRow {
    /// The ride, without what its parties may know of each other.
    pub(crate) fn into_ride(self, tx: &TenantTx) -> sqlx::Result<Ride> {
        let unreadable = |error: String| sqlx::Error::Decode(error.into());
        Ok(Ride {
            id: RideId(self.id),
            tenant: tx.tenant().clone(),
            rider_id: RiderId(self.rider_id),
            driver_id: self.driver_id.map(DriverId),
            trip_id: self.trip_id.map(TripId),
            status: self.status.parse().map_err(unreadable)?,
            pickup: Place { lat: self.pickup_lat, lng: self.pickup_lng, address: self.pickup_address },
            dropoff: Place { lat: self.dropoff_lat, lng: self.dropoff_lng, address: self.dropoff_address },
            vehicle_class: self.vehicle_class,
            payment_method: self.payment_method.0,
            quote: self.quote.0,
            pin: self.pin,
            scheduled_at: self.scheduled_at,
            requested_at: self.requested_at,
            dispatch_at: self.dispatch_at,
            expires_at: self.expires_at,
            offers_made: self.offers_made,
            rounds: self.rounds,
            pickup_eta_s: self.pickup_eta_s,
            accepted_at: self.accepted_at,
            after_trip_id: self.after_trip_id.map(TripId),
            ended_at: self.ended_at,
            cancelled_by: self.cancelled_by.map(|by| by.parse()).transpose().map_err(unreadable)?,
            cancel_reason: self.cancel_reason,
            cancellation_fee: self.cancellation_fee,
            updated_at: self.updated_at,
            driver: None,
            rider: None,
        })
    }
}
