//! All SQL of shared fares.

use shared::{
    ids::{RideId, RiderId, ShareId},
    money::Money,
};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{FareShareError, SharePayment, ShareStatus};
use crate::{
    db::{TenantTx, constraint},
    http::Problem,
    payments::{FixedShare, PaymentStatus},
    pricing::Quote,
    rides::PaymentMethod,
};

/// A share and what is to be known beside it.
pub(super) struct ShareRow {
    pub(super) id: ShareId,
    pub(super) ride_id: RideId,
    pub(super) rider_id: RiderId,
    pub(super) rider_name: Option<Vec<u8>>,
    pub(super) ride_rider_id: RiderId,
    pub(super) ride_rider_name: Option<Vec<u8>>,
    /// Open only as long as the ride is.
    pub(super) status: ShareStatus,
    pub(super) asked_amount: Option<i64>,
    pub(super) amount: Option<i64>,
    /// The ride's price as its rider saw it.
    pub(super) quoted: Money,
    pub(super) payment: Option<SharePayment>,
    pub(super) invited_at: OffsetDateTime,
    pub(super) answered_at: Option<OffsetDateTime>,
}

/// All shares of some rides, oldest first.
pub(super) async fn of_rides(tx: &mut TenantTx, rides: &[RideId]) -> sqlx::Result<Vec<ShareRow>> {
    let rides: Vec<Uuid> = rides.iter().map(|ride| ride.0).collect();
    let rows = sqlx::query!(
        r#"SELECT s.id, s.ride_id, s.rider_id, invited.sealed_name AS rider_name, r.rider_id AS ride_rider_id,
                  ride_rider.sealed_name AS ride_rider_name,
                  CASE WHEN s.status IN ('invited', 'accepted') AND r.status IN ('completed', 'cancelled', 'expired')
                       THEN 'lapsed' ELSE s.status END AS "status!",
                  s.asked_amount, s.amount, r.quote AS "quote: Json<Quote>", p.id AS "payment_id?",
                  p.status AS "payment_status?", s.invited_at, s.answered_at
           FROM fare_shares s JOIN rides r ON r.id = s.ride_id
               JOIN riders invited ON invited.id = s.rider_id JOIN riders ride_rider ON ride_rider.id = r.rider_id
               LEFT JOIN LATERAL (SELECT p.id, p.status FROM payments p
                                  WHERE p.tenant_id = s.tenant_id AND p.trip_id = r.trip_id AND p.share_id = s.id
                                  ORDER BY p.status = 'failed', p.created_at DESC LIMIT 1) p ON s.amount IS NOT NULL
           WHERE s.ride_id = ANY($1) ORDER BY s.id"#,
        &rides
    )
    .fetch_all(tx.conn())
    .await?;
    let rows = rows.into_iter().map(|row| {
        let payment = match (row.payment_id, row.payment_status) {
            (Some(id), Some(status)) => {
                let status = PaymentStatus::from_name(&status).ok_or_else(|| unreadable(&status))?;
                Some(SharePayment { id: id.into(), status })
            }
            _ => None,
        };
        Ok(ShareRow {
            id: ShareId(row.id),
            ride_id: RideId(row.ride_id),
            rider_id: RiderId(row.rider_id),
            rider_name: row.rider_name,
            ride_rider_id: RiderId(row.ride_rider_id),
            ride_rider_name: row.ride_rider_name,
            status: status_of(&row.status)?,
            asked_amount: row.asked_amount,
            amount: row.amount,
            quoted: row.quote.0.fare().total,
            payment,
            invited_at: row.invited_at,
            answered_at: row.answered_at,
        })
    });
    rows.collect()
}

/// What a rider was asked to share, newest first, older than `before`.
pub(super) async fn asked_of(
    tx: &mut TenantTx,
    rider: RiderId,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<(ShareId, RideId)>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        "SELECT id, ride_id FROM fare_shares
         WHERE tenant_id = $1 AND rider_id = $2 AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4",
        tenant.as_str(),
        rider.0,
        before,
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (ShareId(row.id), RideId(row.ride_id))).collect())
}

/// What the open shares of a held ride ask for.
pub(super) async fn open_of_ride(tx: &mut TenantTx, ride: RideId) -> sqlx::Result<Vec<Option<i64>>> {
    sqlx::query_scalar!(
        "SELECT asked_amount FROM fare_shares WHERE ride_id = $1 AND status IN ('invited', 'accepted')",
        ride.0
    )
    .fetch_all(tx.conn())
    .await
}

/// Asks a rider to share a held ride; `one_share_per_rider` refuses a second time.
pub(super) async fn insert(
    tx: &mut TenantTx,
    id: ShareId,
    ride: RideId,
    rider: RiderId,
    asked_amount: Option<i64>,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let tenant = tx.tenant().clone();
    let inserted = sqlx::query!(
        "INSERT INTO fare_shares (id, tenant_id, ride_id, rider_id, status, asked_amount, invited_at, updated_at)
         VALUES ($1, $2, $3, $4, 'invited', $5, $6, $6)",
        id.0,
        tenant.as_str(),
        ride.0,
        rider.0,
        asked_amount,
        now
    );
    match inserted.execute(tx.conn()).await {
        Ok(_) => Ok(()),
        Err(error) if constraint(&error) == Some("one_share_per_rider") => Err(FareShareError::AlreadyInvited.into()),
        Err(error) => Err(error.into()),
    }
}

/// Whose share it is.
pub(super) struct Parties {
    pub(super) ride_id: RideId,
    pub(super) invited: RiderId,
    pub(super) ride_rider: RiderId,
}

/// Reads what of a share never changes.
pub(super) async fn parties(tx: &mut TenantTx, id: ShareId) -> sqlx::Result<Option<Parties>> {
    let row = sqlx::query!(
        "SELECT s.ride_id, s.rider_id, r.rider_id AS ride_rider_id
         FROM fare_shares s JOIN rides r ON r.id = s.ride_id WHERE s.id = $1",
        id.0
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| Parties {
        ride_id: RideId(row.ride_id),
        invited: RiderId(row.rider_id),
        ride_rider: RiderId(row.ride_rider_id),
    }))
}

/// How a share of a held ride stands; its row is held too, since an erasure declines without the ride.
pub(super) async fn hold(tx: &mut TenantTx, id: ShareId) -> sqlx::Result<Option<ShareStatus>> {
    let status = sqlx::query_scalar!("SELECT status FROM fare_shares WHERE id = $1 FOR NO KEY UPDATE", id.0);
    status.fetch_optional(tx.conn()).await?.map(|status| status_of(&status)).transpose()
}

/// Saves the answer to a held share.
pub(super) async fn answer(
    tx: &mut TenantTx,
    id: ShareId,
    status: ShareStatus,
    method: Option<&PaymentMethod>,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE fare_shares SET status = $2, method = $3, answered_at = $4, updated_at = $4 WHERE id = $1",
        id.0,
        status.as_str(),
        method.map(Json) as _,
        now
    )
    .execute(tx.conn())
    .await
    .map(|_| ())
}

/// Has erasures of those who are asked to share a held ride wait until the transaction ends.
pub(super) async fn hold_riders(tx: &mut TenantTx, ride: RideId) -> sqlx::Result<()> {
    sqlx::query!(
        "SELECT FROM riders WHERE id IN (SELECT rider_id FROM fare_shares WHERE ride_id = $1) ORDER BY id FOR KEY SHARE",
        ride.0
    )
    .execute(tx.conn())
    .await
    .map(|_| ())
}

/// A share somebody has accepted.
pub(super) struct Accepted {
    pub(super) id: ShareId,
    pub(super) rider_id: RiderId,
    pub(super) method: PaymentMethod,
    pub(super) asked_amount: Option<i64>,
}

/// The accepted shares of a ride, oldest first.
pub(super) async fn accepted_of_ride(tx: &mut TenantTx, ride: RideId) -> sqlx::Result<Vec<Accepted>> {
    let rows = sqlx::query!(
        r#"SELECT id, rider_id, method AS "method!: Json<PaymentMethod>", asked_amount FROM fare_shares
           WHERE ride_id = $1 AND status = 'accepted' ORDER BY id"#,
        ride.0
    )
    .fetch_all(tx.conn())
    .await?;
    let accepted = rows.into_iter().map(|row| Accepted {
        id: ShareId(row.id),
        rider_id: RiderId(row.rider_id),
        method: row.method.0,
        asked_amount: row.asked_amount,
    });
    Ok(accepted.collect())
}

/// Fixes a ride's shares that cost something; those that are open otherwise lapse. Which they were.
pub(super) async fn fix(
    tx: &mut TenantTx,
    ride: RideId,
    fixed: &[FixedShare],
    now: OffsetDateTime,
) -> sqlx::Result<Vec<ShareId>> {
    let (ids, amounts): (Vec<Uuid>, Vec<i64>) = fixed.iter().map(|share| (share.id.0, share.amount)).unzip();
    let ended = sqlx::query_scalar!(
        "UPDATE fare_shares s SET status = CASE WHEN part.amount IS NULL THEN 'lapsed' ELSE 'fixed' END, method = NULL,
             amount = part.amount, updated_at = $4
         FROM fare_shares open LEFT JOIN unnest($2::uuid[], $3::bigint[]) AS part (id, amount) ON part.id = open.id
         WHERE open.ride_id = $1 AND open.status IN ('invited', 'accepted') AND s.id = open.id RETURNING s.id",
        ride.0,
        &ids,
        &amounts,
        now
    );
    Ok(ended.fetch_all(tx.conn()).await?.into_iter().map(ShareId).collect())
}

/// Who pays a share that has just fallen back, and how.
pub(super) async fn fall_back(
    tx: &mut TenantTx,
    id: ShareId,
    now: OffsetDateTime,
) -> sqlx::Result<Option<(RideId, RiderId, PaymentMethod)>> {
    let row = sqlx::query!(
        r#"UPDATE fare_shares s SET status = 'fallen_back', updated_at = $2 FROM rides r
           WHERE s.id = $1 AND s.status = 'fixed' AND r.id = s.ride_id
           RETURNING r.id, r.rider_id, r.payment_method AS "method: Json<PaymentMethod>""#,
        id.0,
        now
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| (RideId(row.id), RiderId(row.rider_id), row.method.0)))
}

fn status_of(status: &str) -> sqlx::Result<ShareStatus> {
    status.parse().map_err(|error: String| sqlx::Error::Decode(error.into()))
}

/// What a column holds although its CHECK forbids it.
fn unreadable(status: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("'{status}' is no status of a payment").into())
}
