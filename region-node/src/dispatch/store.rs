//! All SQL of dispatch.
//!
//! A ride's row is its lock: whoever changes an offer holds the ride first, and several rides are held in the order of their
//! ids, so nobody waits in a circle.

use std::collections::HashMap;

use shared::{
    geo::Point,
    ids::{DriverId, OfferId, RideId, TenantId},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    offer::OfferStatus,
    plan::{Verdict, Wanted},
    reason::Reason,
};
use crate::{app::App, db::TenantTx, http::Problem};

/// The tenants for which something is due: a ride to dispatch, or an offer nobody answered.
pub(super) async fn due_tenants(app: &App, now: OffsetDateTime) -> Result<Vec<TenantId>, Problem> {
    let mut tx = app.db.system().await?;
    let tenants = sqlx::query_scalar!(
        r#"SELECT tenant_id AS "tenant_id!" FROM rides WHERE status IN ('requested', 'offered') AND dispatch_at <= $1
           UNION SELECT tenant_id FROM offers WHERE status = 'live' AND expires_at <= $1"#,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(tenants.into_iter().filter_map(|tenant| tenant.parse().ok()).collect())
}

/// An offer that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) offer_id: OfferId,
    pub(super) ride_id: RideId,
    pub(super) driver_id: DriverId,
}

/// Ends the offers nobody answered in time. A ride that is being answered right now is left to whoever holds it.
pub(super) async fn expire_offers(tx: &mut TenantTx, now: OffsetDateTime) -> sqlx::Result<Vec<Ended>> {
    let rows = sqlx::query!(
        "WITH held AS (
             SELECT id FROM rides
             WHERE id IN (SELECT ride_id FROM offers WHERE status = 'live' AND expires_at <= $1)
             ORDER BY id FOR UPDATE SKIP LOCKED
         )
         UPDATE offers o SET status = 'expired', answered_at = $1 FROM held
         WHERE o.ride_id = held.id AND o.status = 'live' AND o.expires_at <= $1
         RETURNING o.id, o.ride_id, o.driver_id",
        now
    )
    .fetch_all(tx.conn())
    .await?;
    let ended = rows.into_iter().map(|row| Ended {
        offer_id: OfferId(row.id),
        ride_id: RideId(row.ride_id),
        driver_id: DriverId(row.driver_id),
    });
    Ok(ended.collect())
}

/// Takes a ride's live offers back.
pub(super) async fn withdraw_offers(
    tx: &mut TenantTx,
    ride_id: RideId,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<Ended>> {
    let rows = sqlx::query!(
        "UPDATE offers SET status = 'withdrawn', answered_at = $2 WHERE ride_id = $1 AND status = 'live'
         RETURNING id, driver_id",
        ride_id.0,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    let ended =
        rows.into_iter().map(|row| Ended { offer_id: OfferId(row.id), ride_id, driver_id: DriverId(row.driver_id) });
    Ok(ended.collect())
}

/// Sends rides whose offers have all ended back to be dispatched at once; those that were.
pub(super) async fn release(tx: &mut TenantTx, rides: &[RideId], now: OffsetDateTime) -> sqlx::Result<Vec<RideId>> {
    let ids: Vec<_> = rides.iter().map(|id| id.0).collect();
    let released = sqlx::query_scalar!(
        "UPDATE rides r SET status = 'requested', dispatch_at = $2, updated_at = $2
         WHERE id = ANY($1) AND status = 'offered'
           AND NOT EXISTS (SELECT FROM offers o WHERE o.ride_id = r.id AND o.status = 'live')
         RETURNING id",
        &ids,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(released.into_iter().map(RideId).collect())
}

/// A ride this node has claimed.
pub(super) struct Claimed {
    pub(super) wanted: Wanted,
    pub(super) status_is_offered: bool,
    pub(super) requested_at: OffsetDateTime,
    pub(super) expires_at: OffsetDateTime,
    pub(super) offers_made: i32,
}

/// Claims rides that are due until `lease`: nobody else looks at them before, and should this node die, somebody will then.
pub(super) async fn claim(
    tx: &mut TenantTx,
    now: OffsetDateTime,
    lease: OffsetDateTime,
    most: i64,
) -> sqlx::Result<Vec<Claimed>> {
    let rows = sqlx::query!(
        "UPDATE rides SET dispatch_at = $2
         WHERE id IN (
             SELECT id FROM rides WHERE status IN ('requested', 'offered') AND dispatch_at <= $1
             ORDER BY dispatch_at LIMIT $3 FOR UPDATE SKIP LOCKED
         )
         RETURNING id, status, pickup_lat, pickup_lng, vehicle_class, requested_at, expires_at, offers_made",
        now,
        lease,
        most
    )
    .fetch_all(tx.conn())
    .await?;
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let mut asked: HashMap<Uuid, HashMap<DriverId, Reason>> = HashMap::new();
    if rows.iter().any(|row| row.offers_made > 0) {
        let offers =
            sqlx::query!("SELECT ride_id, driver_id, status FROM offers WHERE ride_id = ANY($1) ORDER BY id", &ids)
                .fetch_all(tx.conn())
                .await?;
        for offer in offers {
            let reason = match offer.status.parse() {
                Ok(OfferStatus::Declined) => Reason::DeclinedBefore,
                Ok(OfferStatus::Expired) => Reason::DidNotAnswer,
                Ok(OfferStatus::Live | OfferStatus::Accepted) => Reason::HasOffer,
                // Taken back by us: the driver did nothing that would speak against asking again.
                Ok(OfferStatus::Withdrawn) | Err(_) => continue,
            };
            asked.entry(offer.ride_id).or_default().insert(DriverId(offer.driver_id), reason);
        }
    }
    let mut claimed: Vec<_> = rows
        .into_iter()
        .map(|row| Claimed {
            wanted: Wanted {
                ride_id: RideId(row.id),
                pickup: Point::new(row.pickup_lat, row.pickup_lng),
                vehicle_class: row.vehicle_class,
                asked: asked.remove(&row.id).unwrap_or_default(),
            },
            status_is_offered: row.status == "offered",
            requested_at: row.requested_at,
            expires_at: row.expires_at,
            offers_made: row.offers_made,
        })
        .collect();
    claimed.sort_by_key(|ride| (ride.requested_at, ride.wanted.ride_id));
    Ok(claimed)
}

/// An offer to be made.
#[derive(Clone, Debug)]
pub(super) struct NewOffer {
    pub(super) offer_id: OfferId,
    pub(super) ride_id: RideId,
    pub(super) driver_id: DriverId,
    pub(super) pickup_eta_s: i32,
    pub(super) expires_at: OffsetDateTime,
}

/// Makes the offers whose drivers are online, on no trip, and, as the index decides, thinking about no other offer; those
/// that were made.
pub(super) async fn insert_offers(
    tx: &mut TenantTx,
    offers: &[NewOffer],
    now: OffsetDateTime,
) -> sqlx::Result<Vec<OfferId>> {
    let tenant = tx.tenant().clone();
    let ids: Vec<_> = offers.iter().map(|offer| offer.offer_id.0).collect();
    let rides: Vec<_> = offers.iter().map(|offer| offer.ride_id.0).collect();
    let drivers: Vec<_> = offers.iter().map(|offer| offer.driver_id.0).collect();
    let etas: Vec<_> = offers.iter().map(|offer| offer.pickup_eta_s).collect();
    let expiries: Vec<_> = offers.iter().map(|offer| offer.expires_at).collect();
    let made = sqlx::query_scalar!(
        "INSERT INTO offers (id, tenant_id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at)
         SELECT n.id, $1, n.ride_id, n.driver_id, 'live', n.pickup_eta_s, $7, n.expires_at
         FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::int[], $6::timestamptz[])
              AS n (id, ride_id, driver_id, pickup_eta_s, expires_at)
         JOIN drivers d ON d.id = n.driver_id AND d.status = 'online' AND d.erased_at IS NULL
         WHERE NOT EXISTS (
             SELECT FROM trips t WHERE t.tenant_id = $1 AND t.driver_id = n.driver_id
               AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused')
         )
         ORDER BY n.driver_id
         ON CONFLICT (tenant_id, driver_id) WHERE status = 'live' DO NOTHING
         RETURNING id",
        tenant.as_str(),
        &ids,
        &rides,
        &drivers,
        &etas,
        &expiries,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(made.into_iter().map(OfferId).collect())
}

/// Why Postgres would have none of these drivers.
pub(super) async fn why_not(tx: &mut TenantTx, drivers: &[DriverId]) -> sqlx::Result<HashMap<DriverId, Reason>> {
    let ids: Vec<_> = drivers.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT d.id, d.status = 'online' AND d.erased_at IS NULL AS "online!",
                  EXISTS (SELECT FROM trips t WHERE t.tenant_id = d.tenant_id AND t.driver_id = d.id
                          AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused')) AS "on_trip!"
           FROM drivers d WHERE d.id = ANY($1)"#,
        &ids
    )
    .fetch_all(tx.conn())
    .await?;
    let reason = |online: bool, on_trip: bool| match (online, on_trip) {
        (false, _) => Reason::Offline,
        (true, true) => Reason::Busy,
        (true, false) => Reason::HasOffer,
    };
    Ok(rows.into_iter().map(|row| (DriverId(row.id), reason(row.online, row.on_trip))).collect())
}

/// Marks rides as offered until their offer ends.
pub(super) async fn mark_offered(tx: &mut TenantTx, offers: &[NewOffer], now: OffsetDateTime) -> sqlx::Result<()> {
    let rides: Vec<_> = offers.iter().map(|offer| offer.ride_id.0).collect();
    let ends: Vec<_> = offers.iter().map(|offer| offer.expires_at).collect();
    sqlx::query!(
        "UPDATE rides r SET status = 'offered', offers_made = r.offers_made + 1, dispatch_at = n.ends, updated_at = $3
         FROM unnest($1::uuid[], $2::timestamptz[]) AS n (id, ends) WHERE r.id = n.id",
        &rides,
        &ends,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// When rides held by this transaction are looked at next.
pub(super) async fn look_again(tx: &mut TenantTx, rides: &[RideId], at: OffsetDateTime) -> sqlx::Result<()> {
    let ids: Vec<_> = rides.iter().map(|id| id.0).collect();
    sqlx::query!(
        "UPDATE rides SET dispatch_at = least($2, expires_at) WHERE id = ANY($1) AND status IN ('requested', 'offered')",
        &ids,
        at
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Ends rides nobody took.
pub(super) async fn expire_rides(tx: &mut TenantTx, rides: &[RideId], now: OffsetDateTime) -> sqlx::Result<()> {
    let ids: Vec<_> = rides.iter().map(|id| id.0).collect();
    sqlx::query!(
        "UPDATE rides SET status = 'expired', dispatch_at = NULL, ended_at = $2, updated_at = $2
         WHERE id = ANY($1) AND status IN ('requested', 'offered')",
        &ids,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records what became of each candidate of a round; the same again changes nothing.
pub(super) async fn record(
    tx: &mut TenantTx,
    verdicts: &[(RideId, i32, Verdict)],
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let whole = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let rides: Vec<_> = verdicts.iter().map(|(ride, _, _)| ride.0).collect();
    let rounds: Vec<_> = verdicts.iter().map(|(_, round, _)| *round).collect();
    let drivers: Vec<_> = verdicts.iter().map(|(_, _, verdict)| verdict.driver_id.0).collect();
    let reasons: Vec<_> = verdicts.iter().map(|(_, _, verdict)| verdict.reason.as_str().to_owned()).collect();
    let etas: Vec<_> = verdicts.iter().map(|(_, _, verdict)| verdict.pickup_eta_s.map(whole)).collect();
    let distances: Vec<_> = verdicts.iter().map(|(_, _, verdict)| whole(verdict.distance_m)).collect();
    sqlx::query!(
        "INSERT INTO dispatch_candidates AS c
             (tenant_id, ride_id, round, driver_id, reason, pickup_eta_s, distance_m, considered_at)
         SELECT $1, n.ride_id, n.round, n.driver_id, n.reason, n.pickup_eta_s, n.distance_m, $8
         FROM unnest($2::uuid[], $3::int[], $4::uuid[], $5::text[], $6::int[], $7::int[])
              AS n (ride_id, round, driver_id, reason, pickup_eta_s, distance_m)
         ON CONFLICT (ride_id, round, driver_id) DO UPDATE
         SET reason = excluded.reason, pickup_eta_s = excluded.pickup_eta_s, distance_m = excluded.distance_m,
             considered_at = excluded.considered_at
         WHERE c.reason <> excluded.reason",
        tenant.as_str(),
        &rides,
        &rounds,
        &drivers,
        &reasons,
        &etas as &[Option<i32>],
        &distances,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// One candidate as recorded.
pub(super) struct CandidateRow {
    pub(super) driver_id: Uuid,
    pub(super) round: i32,
    pub(super) reason: String,
    pub(super) pickup_eta_s: Option<i32>,
    pub(super) distance_m: Option<i32>,
    pub(super) considered_at: OffsetDateTime,
}

/// All candidates of a ride, round by round, the nearest first.
pub(super) async fn candidates(tx: &mut TenantTx, ride_id: RideId) -> sqlx::Result<Vec<CandidateRow>> {
    let rows = sqlx::query_as!(
        CandidateRow,
        "SELECT driver_id, round, reason, pickup_eta_s, distance_m, considered_at FROM dispatch_candidates
         WHERE ride_id = $1 ORDER BY round, pickup_eta_s NULLS LAST, distance_m, driver_id",
        ride_id.0
    );
    rows.fetch_all(tx.conn()).await
}

/// An offer as stored.
#[derive(Clone, Debug)]
pub(super) struct OfferRow {
    pub(super) id: Uuid,
    pub(super) ride_id: Uuid,
    pub(super) driver_id: Uuid,
    pub(super) status: String,
    pub(super) pickup_eta_s: i32,
    pub(super) offered_at: OffsetDateTime,
    pub(super) expires_at: OffsetDateTime,
    pub(super) answered_at: Option<OffsetDateTime>,
}

/// All offers of a ride, oldest first.
pub(super) async fn offers_of_ride(tx: &mut TenantTx, ride_id: RideId) -> sqlx::Result<Vec<OfferRow>> {
    let rows = sqlx::query_as!(
        OfferRow,
        "SELECT id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at, answered_at FROM offers
         WHERE ride_id = $1 ORDER BY id",
        ride_id.0
    );
    rows.fetch_all(tx.conn()).await
}

/// The driver's last offer of a ride.
pub(super) async fn last_offer(
    tx: &mut TenantTx,
    ride_id: RideId,
    driver_id: DriverId,
) -> sqlx::Result<Option<OfferRow>> {
    let row = sqlx::query_as!(
        OfferRow,
        "SELECT id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at, answered_at FROM offers
         WHERE ride_id = $1 AND driver_id = $2 ORDER BY id DESC LIMIT 1",
        ride_id.0,
        driver_id.0
    );
    row.fetch_optional(tx.conn()).await
}

/// The driver's open offers.
pub(super) async fn live_offers(
    tx: &mut TenantTx,
    driver_id: DriverId,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<OfferRow>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query_as!(
        OfferRow,
        "SELECT id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at, answered_at FROM offers
         WHERE tenant_id = $1 AND driver_id = $2 AND status = 'live' AND expires_at > $3 ORDER BY id",
        tenant.as_str(),
        driver_id.0,
        now
    );
    rows.fetch_all(tx.conn()).await
}

/// The driver's live offer, its ride held; `None` if there is none, or none any more.
pub(super) async fn hold_live_offer(tx: &mut TenantTx, driver_id: DriverId) -> sqlx::Result<Option<RideId>> {
    let tenant = tx.tenant().clone();
    let ride = sqlx::query_scalar!(
        "SELECT r.id FROM rides r
         WHERE r.id = (SELECT ride_id FROM offers WHERE tenant_id = $1 AND driver_id = $2 AND status = 'live')
         FOR UPDATE",
        tenant.as_str(),
        driver_id.0
    );
    Ok(ride.fetch_optional(tx.conn()).await?.map(RideId))
}

/// Ends a driver's live offer; false if it had ended already. The ride is held.
pub(super) async fn answer(
    tx: &mut TenantTx,
    ride_id: RideId,
    driver_id: DriverId,
    status: OfferStatus,
    now: OffsetDateTime,
) -> sqlx::Result<Option<OfferId>> {
    let offer = sqlx::query_scalar!(
        "UPDATE offers SET status = $3, answered_at = $4
         WHERE ride_id = $1 AND driver_id = $2 AND status = 'live' RETURNING id",
        ride_id.0,
        driver_id.0,
        status.as_str(),
        now
    );
    Ok(offer.fetch_optional(tx.conn()).await?.map(OfferId))
}
