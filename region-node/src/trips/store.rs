//! All SQL of trips, their traces and ratings.

use shared::{
    geo::Point,
    ids::{DriverId, PaymentId, RideId, RiderId, ShareId, TripId},
    money::Money,
};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    RatedBy, Rating, Trip, TripError, TripStatus,
    receipt::{ReceiptPart, ReceiptRefund},
    trace::Breadcrumb,
};
use crate::{
    db::{TenantTx, constraint},
    identity::{SealedParties, Subject},
    payments::{Dispute, PaymentKind, PaymentStatus},
    pricing::{Fare, Quote, Travelled},
    rides::{PaymentMethod, Place, Ride, RideRow, RideStatus},
};

/// The columns of a trip, the places of its ride and the payment that stands for it.
struct TripRow {
    id: Uuid,
    ride_id: Uuid,
    rider_id: Uuid,
    driver_id: Uuid,
    status: String,
    pickup_lat: f64,
    pickup_lng: f64,
    pickup_address: Option<String>,
    dropoff_lat: f64,
    dropoff_lng: f64,
    dropoff_address: Option<String>,
    accepted_at: OffsetDateTime,
    after_trip_id: Option<Uuid>,
    starts_by: Option<OffsetDateTime>,
    arrived_at: Option<OffsetDateTime>,
    started_at: Option<OffsetDateTime>,
    paused_at: Option<OffsetDateTime>,
    paused_s: i64,
    ended_at: Option<OffsetDateTime>,
    distance_m: Option<i64>,
    duration_s: Option<i64>,
    travelled: Option<Json<Travelled>>,
    fare: Option<Json<Fare>>,
    shared_amount: Option<i64>,
    payment_id: Option<Uuid>,
    updated_at: OffsetDateTime,
}

/// Selects trips; the first argument ends the statement.
macro_rules! select_trips {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            TripRow,
            r#"SELECT t.id, t.ride_id, t.rider_id, t.driver_id, t.status, r.pickup_lat, r.pickup_lng, r.pickup_address,
                      r.dropoff_lat, r.dropoff_lng, r.dropoff_address, t.accepted_at, t.after_trip_id, t.starts_by,
                      t.arrived_at, t.started_at, t.paused_at, t.paused_s, t.ended_at, t.distance_m, t.duration_s,
                      t.travelled AS "travelled: Json<Travelled>", t.fare AS "fare: Json<Fare>",
                      (SELECT sum(s.amount)::bigint FROM fare_shares s WHERE s.ride_id = t.ride_id) AS shared_amount,
                      (SELECT p.id FROM payments p WHERE p.trip_id = t.id AND p.kind <> 'tip' AND p.share_id IS NULL
                       ORDER BY p.status = 'failed', p.id DESC LIMIT 1) AS payment_id,
                      t.updated_at
               FROM trips t JOIN rides r ON r.id = t.ride_id "# + $tail
            $(, $argument)*
        )
    };
}

/// Loads a trip.
pub async fn load(tx: &mut TenantTx, id: TripId) -> sqlx::Result<Option<Trip>> {
    let row = select_trips!("WHERE t.id = $1", id.0).fetch_optional(tx.conn()).await?;
    row.map(TripRow::into_trip).transpose()
}

/// Loads a trip and its ride and holds both until the transaction ends, the ride first as everybody does: whoever accepts a
/// ride to follow this trip waits for that. A trip that may still take a step has no payment.
pub(super) async fn hold(tx: &mut TenantTx, id: TripId) -> sqlx::Result<Option<(Ride, Trip)>> {
    let row = sqlx::query!(
        r#"SELECT r.id AS ride_id, r.status AS ride_status, r.rider_id, r.driver_id AS ride_driver_id, r.trip_id AS ride_trip_id,
                  r.pickup_lat, r.pickup_lng, r.pickup_address, r.dropoff_lat, r.dropoff_lng, r.dropoff_address,
                  r.vehicle_class, r.payment_method AS "payment_method: Json<PaymentMethod>", r.quote AS "quote: Json<Quote>",
                  r.pin, r.scheduled_at, r.requested_at, r.dispatch_at, r.expires_at, r.offers_made, r.rounds, r.pickup_eta_s,
                  r.accepted_at AS ride_accepted_at, r.after_trip_id AS ride_after_trip_id, r.ended_at AS ride_ended_at,
                  r.cancelled_by, r.cancel_reason, r.cancellation_fee, r.updated_at AS ride_updated_at,
                  t.driver_id, t.status, t.accepted_at, t.after_trip_id, t.starts_by, t.arrived_at, t.started_at, t.paused_at,
                  t.paused_s, t.ended_at, t.distance_m, t.duration_s, t.travelled AS "travelled: Json<Travelled>",
                  t.fare AS "fare: Json<Fare>", t.updated_at
           FROM rides r JOIN trips t ON t.ride_id = r.id WHERE t.id = $1 FOR UPDATE OF r, t"#,
        id.0
    );
    let Some(row) = row.fetch_optional(tx.conn()).await? else { return Ok(None) };
    let ride = RideRow {
        id: row.ride_id,
        rider_id: row.rider_id,
        driver_id: row.ride_driver_id,
        trip_id: row.ride_trip_id,
        status: row.ride_status,
        pickup_lat: row.pickup_lat,
        pickup_lng: row.pickup_lng,
        pickup_address: row.pickup_address,
        dropoff_lat: row.dropoff_lat,
        dropoff_lng: row.dropoff_lng,
        dropoff_address: row.dropoff_address,
        vehicle_class: row.vehicle_class,
        payment_method: row.payment_method,
        quote: row.quote,
        pin: row.pin,
        scheduled_at: row.scheduled_at,
        requested_at: row.requested_at,
        dispatch_at: row.dispatch_at,
        expires_at: row.expires_at,
        offers_made: row.offers_made,
        rounds: row.rounds,
        pickup_eta_s: row.pickup_eta_s,
        accepted_at: row.ride_accepted_at,
        after_trip_id: row.ride_after_trip_id,
        ended_at: row.ride_ended_at,
        cancelled_by: row.cancelled_by,
        cancel_reason: row.cancel_reason,
        cancellation_fee: row.cancellation_fee,
        updated_at: row.ride_updated_at,
    }
    .into_ride(tx)?;
    let trip = Trip {
        id,
        ride_id: ride.id,
        rider_id: ride.rider_id,
        driver_id: DriverId(row.driver_id),
        status: row.status.parse().map_err(|error: String| sqlx::Error::Decode(error.into()))?,
        pickup: ride.pickup.clone(),
        dropoff: ride.dropoff.clone(),
        accepted_at: row.accepted_at,
        after_trip_id: row.after_trip_id.map(TripId),
        starts_by: row.starts_by,
        arrived_at: row.arrived_at,
        started_at: row.started_at,
        paused_at: row.paused_at,
        paused_s: row.paused_s,
        ended_at: row.ended_at,
        distance_m: row.distance_m,
        duration_s: row.duration_s,
        travelled: row.travelled.map(|travelled| travelled.0),
        fare: row.fare.map(|fare| fare.0),
        shared: None,
        payment_id: None,
        updated_at: row.updated_at,
    };
    Ok(Some((ride, trip)))
}

/// The trip a driver is busy with.
pub async fn active_of_driver(tx: &mut TenantTx, driver: DriverId) -> sqlx::Result<Option<Trip>> {
    let row = select_trips!(
        "WHERE t.driver_id = $1 AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused')
           AND t.after_trip_id IS NULL",
        driver.0
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(TripRow::into_trip).transpose()
}

/// Whether a trip is under way, which it stays until the caller's transaction ends: whoever ends it waits for that.
pub(crate) async fn hold_under_way(tx: &mut TenantTx, id: TripId) -> sqlx::Result<bool> {
    let status = sqlx::query_scalar!("SELECT status FROM trips WHERE id = $1 FOR SHARE", id.0);
    let status = status.fetch_optional(tx.conn()).await?;
    Ok(status.is_some_and(|status| [TripStatus::InProgress, TripStatus::Paused].iter().any(|on| on.as_str() == status)))
}

/// Begins the trip that waits for `ended` to end, if there is one; its ride is held.
pub(crate) async fn begin_next(tx: &mut TenantTx, ended: TripId, now: OffsetDateTime) -> sqlx::Result<Option<TripId>> {
    let begun = sqlx::query_scalar!(
        "UPDATE trips SET after_trip_id = NULL, starts_by = NULL, updated_at = $2
         WHERE after_trip_id = $1 AND status = 'accepted' RETURNING id",
        ended.0,
        now
    );
    Ok(begun.fetch_optional(tx.conn()).await?.map(TripId))
}

/// Saves a trip that was given up, if it still is what it `was`.
pub(super) async fn save_cancelled(tx: &mut TenantTx, trip: &Trip, was: TripStatus) -> Result<(), TripError> {
    let saved = sqlx::query!(
        "UPDATE trips SET status = $3, ended_at = $4, updated_at = $5 WHERE id = $1 AND status = $2",
        trip.id.0,
        was.as_str(),
        trip.status.as_str(),
        trip.ended_at,
        trip.updated_at
    )
    .execute(tx.conn())
    .await?;
    match saved.rows_affected() {
        1 => Ok(()),
        _ => Err(TripError::InvalidTransition { from: was, to: trip.status }),
    }
}

/// What a step of a trip leads to.
pub(super) struct Taken {
    /// Of the trip and its ride.
    pub(super) parties: SealedParties,
    /// Whether a trip was accepted to begin when this one ends.
    pub(super) is_followed: bool,
    /// Whether others were asked to share its fare.
    pub(super) is_shared: bool,
}

/// Saves a trip that is held, as by [`hold`], and its ride with it, if both still are what they were.
pub(super) async fn save(
    tx: &mut TenantTx,
    trip: &Trip,
    was: TripStatus,
    ride_was: RideStatus,
) -> Result<Taken, TripError> {
    let tenant = tx.tenant().clone();
    let saved = sqlx::query!(
        r#"WITH trip AS (
               UPDATE trips SET status = $3, arrived_at = $4, started_at = $5, paused_at = $6, paused_s = $7, ended_at = $8,
                   distance_m = $9, duration_s = $10, fare_amount = $11, fare_currency = $12, fare = $13, travelled = $21,
                   updated_at = $14
               WHERE id = $1 AND status = $2 RETURNING id
           ), ride AS (
               UPDATE rides SET status = $17, ended_at = $8, updated_at = $14
               WHERE id = $15 AND status = $16 AND EXISTS (SELECT FROM trip) RETURNING id
           )
           SELECT d.sealed_name AS driver_name, d.vehicle_class, d.vehicle_plate, d.vehicle_model, d.vehicle_seats, d.rating_sum,
                  d.rating_count, r.sealed_name AS rider_name,
                  EXISTS (SELECT FROM trips n WHERE n.tenant_id = $18 AND n.driver_id = $19 AND n.after_trip_id = $1
                          AND n.status = 'accepted') AS "is_followed!",
                  EXISTS (SELECT FROM fare_shares s WHERE s.ride_id = ride.id AND s.status IN ('invited', 'accepted'))
                  AS "is_shared!"
           FROM ride, drivers d, riders r WHERE d.id = $19 AND r.id = $20"#,
        trip.id.0,
        was.as_str(),
        trip.status.as_str(),
        trip.arrived_at,
        trip.started_at,
        trip.paused_at,
        trip.paused_s,
        trip.ended_at,
        trip.distance_m,
        trip.duration_s,
        trip.fare.as_ref().map(|fare| fare.total.amount),
        trip.fare.as_ref().map(|fare| fare.total.currency.code().to_owned()),
        trip.fare.as_ref().map(Json) as _,
        trip.updated_at,
        trip.ride_id.0,
        ride_was.as_str(),
        trip.status.of_ride().as_str(),
        tenant.as_str(),
        trip.driver_id.0,
        trip.rider_id.0,
        trip.travelled.as_ref().map(Json) as _
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or(TripError::InvalidTransition { from: was, to: trip.status })?;
    let parties = SealedParties {
        driver_name: saved.driver_name,
        vehicle_class: saved.vehicle_class,
        vehicle_plate: saved.vehicle_plate,
        vehicle_model: saved.vehicle_model,
        vehicle_seats: saved.vehicle_seats,
        rating_sum: saved.rating_sum,
        rating_count: saved.rating_count,
        rider_name: saved.rider_name,
    };
    Ok(Taken { parties, is_followed: saved.is_followed, is_shared: saved.is_shared })
}

/// A trip's trace from `since` on, in the order of time.
pub(super) async fn trace(tx: &mut TenantTx, trip: TripId, since: OffsetDateTime) -> sqlx::Result<Vec<Breadcrumb>> {
    let rows = sqlx::query!(
        "SELECT recorded_at, lat, lng FROM breadcrumbs WHERE trip_id = $1 AND recorded_at >= $2 ORDER BY recorded_at",
        trip.0,
        since
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| Breadcrumb { at: row.recorded_at, place: Point::new(row.lat, row.lng) }).collect())
}

/// Stores a rating and adds its stars to whom it is about; each party rates once.
pub(super) async fn rate(tx: &mut TenantTx, trip: &Trip, rating: &Rating) -> Result<(), TripError> {
    let tenant = tx.tenant().clone();
    sqlx::query!(
        "INSERT INTO ratings (tenant_id, trip_id, rated_by, stars, comment, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        tenant.as_str(),
        rating.trip_id.0,
        rating.rated_by.as_str(),
        i16::from(rating.stars),
        rating.comment,
        rating.created_at
    )
    .execute(tx.conn())
    .await
    .map_err(|error| match constraint(&error) {
        Some("one_rating_per_party") => TripError::AlreadyRated,
        _ => error.into(),
    })?;
    let stars = i64::from(rating.stars);
    match rating.rated_by {
        RatedBy::Rider => sqlx::query!(
            "UPDATE drivers SET rating_sum = rating_sum + $2, rating_count = rating_count + 1 WHERE id = $1",
            trip.driver_id.0,
            stars
        ),
        RatedBy::Driver => sqlx::query!(
            "UPDATE riders SET rating_sum = rating_sum + $2, rating_count = rating_count + 1 WHERE id = $1",
            trip.rider_id.0,
            stars
        ),
    }
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// How a trip was paid.
pub(super) struct PaymentRow {
    pub(super) status: String,
    pub(super) method: serde_json::Value,
    pub(super) amount: i64,
    pub(super) refunded_amount: i64,
    pub(super) settled_at: Option<OffsetDateTime>,
    pub(super) dispute: Option<Json<Dispute>>,
}

pub(super) async fn payment(tx: &mut TenantTx, id: PaymentId) -> sqlx::Result<Option<PaymentRow>> {
    sqlx::query_as!(
        PaymentRow,
        r#"SELECT status, method, amount, refunded_amount, settled_at,
               (SELECT jsonb_build_object('status', d.status,
                           'amount', jsonb_build_object('amount', d.amount, 'currency', d.currency))
                FROM disputes d WHERE d.payment_id = p.id ORDER BY d.opened_at DESC, d.id DESC LIMIT 1)
               AS "dispute: Json<Dispute>"
           FROM payments p WHERE id = $1"#,
        id.0
    )
    .fetch_optional(tx.conn())
    .await
}

/// A trip's payments that a reader may see, oldest first; whose shares they are is left open.
pub(super) async fn payments(tx: &mut TenantTx, id: TripId, reader: &Subject) -> sqlx::Result<Vec<ReceiptPart>> {
    let (rider, driver) = match reader {
        Subject::Rider(rider) => (Some(rider.0), None),
        Subject::Driver(driver) => (None, Some(driver.0)),
        Subject::Client(_) => (None, None),
    };
    let rows = sqlx::query!(
        r#"SELECT p.id, p.kind, p.share_id, p.status, p.method ->> 'type' AS "method!", p.amount, p.currency, p.settled_at,
               (SELECT jsonb_agg(jsonb_build_object('status', f.status, 'to', f.goes_to,
                           'amount', jsonb_build_object('amount', f.amount, 'currency', f.currency))
                           ORDER BY f.created_at, f.id)
                FROM refunds f WHERE f.payment_id = p.id) AS "refunds: Json<Vec<ReceiptRefund>>",
               (SELECT jsonb_agg(jsonb_build_object('status', d.status,
                           'amount', jsonb_build_object('amount', d.amount, 'currency', d.currency))
                           ORDER BY d.opened_at, d.id)
                FROM disputes d WHERE d.payment_id = p.id) AS "disputes: Json<Vec<Dispute>>"
           FROM payments p
           WHERE p.trip_id = $1 AND ($2::uuid IS NULL OR p.rider_id = $2) AND ($3::uuid IS NULL OR p.driver_id = $3)
           ORDER BY p.created_at, p.id"#,
        id.0,
        rider,
        driver
    )
    .fetch_all(tx.conn())
    .await?;
    let unreadable = |what: &str| sqlx::Error::Decode(format!("'{what}' is unknown of a payment").into());
    let parts = rows.into_iter().map(|row| {
        let currency = row.currency.parse().map_err(|_| unreadable(&row.currency))?;
        Ok(ReceiptPart {
            id: PaymentId(row.id),
            kind: PaymentKind::from_name(&row.kind).ok_or_else(|| unreadable(&row.kind))?,
            share_id: row.share_id.map(ShareId),
            share_of: None,
            status: PaymentStatus::from_name(&row.status).ok_or_else(|| unreadable(&row.status))?,
            method: row.method,
            amount: Money::new(row.amount, currency),
            settled_at: row.settled_at,
            refunds: row.refunds.map(|refunds| refunds.0).unwrap_or_default(),
            disputes: row.disputes.map(|disputes| disputes.0).unwrap_or_default(),
        })
    });
    parts.collect()
}

/// What the driver was tipped for a trip, less what of it went back.
pub(super) async fn tip(tx: &mut TenantTx, id: TripId) -> sqlx::Result<Option<i64>> {
    let tip = sqlx::query_scalar!(
        r#"SELECT amount - refunded_amount AS "tip!" FROM payments
           WHERE trip_id = $1 AND kind = 'tip' AND status IN ('settled', 'partially_refunded')"#,
        id.0
    );
    tip.fetch_optional(tx.conn()).await
}

impl TripRow {
    fn into_trip(self) -> sqlx::Result<Trip> {
        let fare = self.fare.map(|fare| fare.0);
        let shared = fare.as_ref().zip(self.shared_amount);
        Ok(Trip {
            shared: shared.map(|(fare, amount)| Money::new(amount, fare.total.currency)),
            id: TripId(self.id),
            ride_id: RideId(self.ride_id),
            rider_id: RiderId(self.rider_id),
            driver_id: DriverId(self.driver_id),
            status: self.status.parse().map_err(|error: String| sqlx::Error::Decode(error.into()))?,
            pickup: Place { lat: self.pickup_lat, lng: self.pickup_lng, address: self.pickup_address },
            dropoff: Place { lat: self.dropoff_lat, lng: self.dropoff_lng, address: self.dropoff_address },
            accepted_at: self.accepted_at,
            after_trip_id: self.after_trip_id.map(TripId),
            starts_by: self.starts_by,
            arrived_at: self.arrived_at,
            started_at: self.started_at,
            paused_at: self.paused_at,
            paused_s: self.paused_s,
            ended_at: self.ended_at,
            distance_m: self.distance_m,
            duration_s: self.duration_s,
            travelled: self.travelled.map(|travelled| travelled.0),
            fare,
            payment_id: self.payment_id.map(PaymentId),
            updated_at: self.updated_at,
        })
    }
}
