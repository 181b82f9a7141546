//! All SQL of dispatch.
//!
//! A ride's row is its lock: whoever changes an offer holds the ride first, and several rides are held in the order of their
//! ids, so nobody waits in a circle.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use shared::{
    geo::Point,
    ids::{DriverId, OfferId, RideId, TenantId, TripId},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{offer::OfferStatus, plan::Wanted, reason::Reason};
use crate::{app::App, db::TenantTx, http::Problem};

/// The tenants for which something is due: a ride to dispatch, or an offer nobody answered.
pub(super) async fn due_tenants(app: &App, now: OffsetDateTime) -> Result<Vec<TenantId>, Problem> {
    let tenants = sqlx::query_scalar!(
        r#"SELECT tenant_id AS "tenant_id!" FROM rides WHERE status IN ('requested', 'offered') AND dispatch_at <= $1
           UNION SELECT tenant_id FROM offers WHERE status = 'live' AND expires_at <= $1
           UNION SELECT tenant_id FROM trips
                 WHERE status = 'accepted' AND after_trip_id IS NOT NULL AND starts_by <= $1"#,
        now
    )
    .fetch_all(app.db.system_alone())
    .await?;
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

/// Ends the live offers of a ride that nobody is to take any more.
pub(super) async fn end_offers(
    tx: &mut TenantTx,
    ride_id: RideId,
    status: OfferStatus,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<Ended>> {
    let rows = sqlx::query!(
        "UPDATE offers SET status = $2, answered_at = $3 WHERE ride_id = $1 AND status = 'live'
         RETURNING id, driver_id",
        ride_id.0,
        status.as_str(),
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

/// Whether there are offers nobody answered in time, or trips that run over while a ride waits for their end.
pub(super) async fn something_ran_out(app: &App, tenant: &TenantId, now: OffsetDateTime) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM offers WHERE tenant_id = $1 AND status = 'live' AND expires_at <= $2)
                  OR EXISTS (SELECT FROM trips WHERE tenant_id = $1 AND status = 'accepted'
                                                 AND after_trip_id IS NOT NULL AND starts_by <= $2) AS "ran_out!""#,
        tenant.as_str(),
        now
    )
    .fetch_one(app.db.system_alone())
    .await
}

/// A ride this node has claimed.
pub(super) struct Claimed {
    pub(super) wanted: Wanted,
    pub(super) status_is_offered: bool,
    pub(super) expires_at: OffsetDateTime,
}

/// Whether rides are claimed while offers that nobody answered in time, or trips that run over, have yet to be dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claiming {
    /// None is. Mostly there is nothing to be dealt with, and then the claim alone is enough.
    UnlessSomethingRanOut,
    /// They are: somebody else may be dealing with those.
    WhateverRanOut,
}

/// Claims rides that are due, until `lease`: nobody else looks at them before, and should this node die, somebody will then.
/// A ride booked ahead waits its turn: while its rider is on another ride, looks for one, or has booked an earlier one.
///
/// It says nothing but who looks at a ride next, so it is a statement of its own, and one that waits for no disk: should
/// Postgres crash and forget it, the ride is due as before. Whether the tenant is still at home here is made sure of by the
/// command that makes the offers.
pub(super) async fn claim(
    app: &App,
    tenant: &TenantId,
    now: OffsetDateTime,
    lease: OffsetDateTime,
    max_offers: u32,
    claiming: Claiming,
) -> sqlx::Result<Vec<Claimed>> {
    let rows = sqlx::query!(
        "UPDATE rides SET dispatch_at = $2
         WHERE id IN (
             SELECT id FROM rides r WHERE tenant_id = $5 AND status IN ('requested', 'offered') AND dispatch_at <= $1
               AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL
               AND EXISTS (SELECT FROM tenant_homes WHERE tenant_id = $5 AND region = $6 AND state = 'active'
                             AND (NOT is_leased OR home_is_confirmed(tenant_id, term)))
               AND ($4 OR NOT (EXISTS (SELECT FROM offers WHERE tenant_id = $5 AND status = 'live' AND expires_at <= $1)
                               OR EXISTS (SELECT FROM trips WHERE tenant_id = $5 AND status = 'accepted'
                                                              AND after_trip_id IS NOT NULL AND starts_by <= $1)))
               AND (scheduled_at IS NULL OR status = 'offered' OR expires_at <= $1 OR NOT EXISTS (
                   SELECT FROM rides o WHERE o.tenant_id = r.tenant_id AND o.rider_id = r.rider_id AND o.id <> r.id
                     AND (o.status IN ('offered', 'accepted', 'arrived', 'in_progress')
                          OR (o.status = 'requested'
                              AND (o.scheduled_at IS NULL OR (o.scheduled_at, o.id) < (r.scheduled_at, r.id))))))
             ORDER BY dispatch_at LIMIT $3 FOR UPDATE SKIP LOCKED
         )
         RETURNING id, status, pickup_lat, pickup_lng, vehicle_class, requested_at, scheduled_at, expires_at,
                   offers_made, rounds",
        now,
        lease,
        i64::from(app.config.dispatch.batch),
        claiming == Claiming::WhateverRanOut,
        tenant.as_str(),
        app.region.as_str()
    )
    .fetch_all(app.db.system_alone())
    .await?;
    // Whom an earlier search asked counts as well.
    let ids: Vec<_> = rows.iter().filter(|row| row.rounds > 0).map(|row| row.id).collect();
    let mut asked: HashMap<Uuid, HashMap<DriverId, Reason>> = HashMap::new();
    if !ids.is_empty() {
        let offers =
            sqlx::query!("SELECT ride_id, driver_id, status FROM offers WHERE ride_id = ANY($1) ORDER BY id", &ids)
                .fetch_all(app.db.system_alone())
                .await?;
        for offer in offers {
            let reason = match offer.status.parse() {
                Ok(OfferStatus::Declined) => Reason::DeclinedBefore,
                Ok(OfferStatus::Expired) => Reason::DidNotAnswer,
                Ok(OfferStatus::Live | OfferStatus::Accepted) => Reason::HasOffer,
                // Taken back by us: the driver did nothing that would speak against asking again.
                Ok(OfferStatus::Withdrawn | OfferStatus::Taken) | Err(_) => continue,
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
                // A ride booked ahead waits from its time on.
                waits_since: row.scheduled_at.unwrap_or(row.requested_at),
                asked: asked.remove(&row.id).unwrap_or_default(),
                offers_left: (max_offers as usize).saturating_sub(usize::try_from(row.offers_made).unwrap_or_default()),
            },
            status_is_offered: row.status == "offered",
            expires_at: row.expires_at,
        })
        .collect();
    claimed.sort_by_key(|ride| (ride.wanted.waits_since, ride.wanted.ride_id));
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
    /// The trip its driver is on, if the ride is to follow that.
    pub(super) after_trip_id: Option<TripId>,
    /// The zone whose queue it is made to.
    pub(super) zone_id: Option<String>,
}

/// Makes the offers whose drivers are online, with the documents that are required, on no trip but the one that the ride is to
/// follow, and, as the index decides, thinking about no other offer; those that were made. The drivers' rows are held, so that nobody of them goes offline without seeing the offer.
pub(super) async fn insert_offers(
    tx: &mut TenantTx,
    offers: &[NewOffer],
    required_documents: &[String],
    now: OffsetDateTime,
) -> sqlx::Result<Vec<OfferId>> {
    let tenant = tx.tenant().clone();
    let ids: Vec<_> = offers.iter().map(|offer| offer.offer_id.0).collect();
    let rides: Vec<_> = offers.iter().map(|offer| offer.ride_id.0).collect();
    let drivers: Vec<_> = offers.iter().map(|offer| offer.driver_id.0).collect();
    let etas: Vec<_> = offers.iter().map(|offer| offer.pickup_eta_s).collect();
    let expiries: Vec<_> = offers.iter().map(|offer| offer.expires_at).collect();
    let zones: Vec<_> = offers.iter().map(|offer| offer.zone_id.clone()).collect();
    let after: Vec<_> = offers.iter().map(|offer| offer.after_trip_id.map(|id| id.0)).collect();
    let made = sqlx::query_scalar!(
        "INSERT INTO offers (id, tenant_id, ride_id, driver_id, status, pickup_eta_s, after_trip_id, zone_id, offered_at,
             expires_at)
         SELECT n.id, $1, n.ride_id, n.driver_id, 'live', n.pickup_eta_s, n.after_trip_id, n.zone_id, $7, n.expires_at
         FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::int[], $6::timestamptz[], $9::uuid[], $10::text[])
              AS n (id, ride_id, driver_id, pickup_eta_s, expires_at, after_trip_id, zone_id)
         JOIN drivers d ON d.id = n.driver_id AND d.status = 'online' AND d.erased_at IS NULL
         WHERE NOT EXISTS (
             SELECT FROM trips t WHERE t.tenant_id = $1 AND t.driver_id = n.driver_id
               AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused') AND t.after_trip_id IS NULL
               AND (t.id = n.after_trip_id AND t.status = 'in_progress') IS NOT TRUE
         ) AND NOT EXISTS (
             SELECT FROM trips t WHERE t.tenant_id = $1 AND t.driver_id = n.driver_id
               AND t.status = 'accepted' AND t.after_trip_id IS NOT NULL
         ) AND NOT EXISTS (
             SELECT FROM unnest($8::text[]) AS required (kind)
             WHERE coalesce((d.documents ->> required.kind)::timestamptz <= $7, true)
         )
         ORDER BY n.driver_id FOR SHARE OF d
         ON CONFLICT (tenant_id, driver_id) WHERE status = 'live' DO NOTHING
         RETURNING id",
        tenant.as_str(),
        &ids,
        &rides,
        &drivers,
        &etas,
        &expiries,
        now,
        required_documents,
        &after as &[Option<Uuid>],
        &zones as &[Option<String>]
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(made.into_iter().map(OfferId).collect())
}

/// Why Postgres would have none of these drivers.
pub(super) async fn why_not(
    tx: &mut TenantTx,
    drivers: &[DriverId],
    required_documents: &[String],
    now: OffsetDateTime,
) -> sqlx::Result<HashMap<DriverId, Reason>> {
    let ids: Vec<_> = drivers.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT d.id, d.status = 'online' AND d.erased_at IS NULL AS "online!",
                  EXISTS (SELECT FROM trips t WHERE t.tenant_id = d.tenant_id AND t.driver_id = d.id
                          AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused')
                          AND t.after_trip_id IS NULL) AS "on_trip!",
                  EXISTS (SELECT FROM unnest($2::text[]) AS required (kind)
                          WHERE d.documents ->> required.kind IS NULL) AS "lacks!",
                  EXISTS (SELECT FROM unnest($2::text[]) AS required (kind)
                          WHERE (d.documents ->> required.kind)::timestamptz <= $3) AS "expired!"
           FROM drivers d WHERE d.id = ANY($1)"#,
        &ids,
        required_documents,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    let reason = |online, lacks, expired, on_trip| match (online, lacks, expired, on_trip) {
        (false, _, _, _) => Reason::Offline,
        (true, true, _, _) => Reason::DocumentMissing,
        (true, false, true, _) => Reason::DocumentExpired,
        (true, false, false, true) => Reason::Busy,
        (true, false, false, false) => Reason::HasOffer,
    };
    let whys = rows.into_iter().map(|row| {
        let why = reason(row.online, row.lacks, row.expired, row.on_trip);
        (DriverId(row.id), why)
    });
    Ok(whys.collect())
}

/// Marks rides as offered until their offers end; the offers that stand. An offer whose driver got a trip while it was being
/// made is taken back: making it waited for that trip's transaction, but could not see what that did.
pub(super) async fn mark_offered(
    tx: &mut TenantTx,
    offers: &[OfferId],
    now: OffsetDateTime,
) -> sqlx::Result<Vec<OfferId>> {
    let tenant = tx.tenant().clone();
    let ids: Vec<_> = offers.iter().map(|id| id.0).collect();
    let marked = sqlx::query_scalar!(
        "WITH taken_back AS (
             DELETE FROM offers o WHERE o.id = ANY($2) AND (EXISTS (
                 SELECT FROM trips t WHERE t.tenant_id = $1 AND t.driver_id = o.driver_id
                   AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused') AND t.after_trip_id IS NULL
                   AND (t.id = o.after_trip_id AND t.status = 'in_progress') IS NOT TRUE
             ) OR EXISTS (
                 SELECT FROM trips t WHERE t.tenant_id = $1 AND t.driver_id = o.driver_id
                   AND t.status = 'accepted' AND t.after_trip_id IS NOT NULL
             )) RETURNING o.id
         ), standing AS (
             SELECT ride_id, array_agg(id) AS ids, max(expires_at) AS until FROM offers
             WHERE id = ANY($2) AND id NOT IN (SELECT id FROM taken_back) GROUP BY ride_id
         ), marked AS (
             UPDATE rides r SET status = 'offered', offers_made = r.offers_made + cardinality(s.ids), rounds = r.rounds + 1,
                 dispatch_at = s.until, updated_at = $3
             FROM standing s WHERE r.id = s.ride_id
             RETURNING s.ids
         )
         SELECT unnest(ids) AS \"id!\" FROM marked",
        tenant.as_str(),
        &ids,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(marked.into_iter().map(OfferId).collect())
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

/// A driver on a trip that ends near a pick-up.
pub(super) struct Ending {
    pub(super) driver_id: DriverId,
    pub(super) trip_id: TripId,
    pub(super) dropoff: Point,
}

/// Trips under way that end within `radius_m` of any of these places, or little farther: the nearest of each, whose drivers
/// could be asked to take another ride after it.
pub(super) async fn trips_ending_near(
    app: &App,
    tenant: &TenantId,
    places: &[Point],
    radius_m: f64,
    most: i64,
) -> sqlx::Result<Vec<Ending>> {
    const METRES_PER_DEGREE: f64 = 111_195.0;
    let lats: Vec<_> = places.iter().map(|place| place.lat).collect();
    let lngs: Vec<_> = places.iter().map(|place| place.lng).collect();
    // A degree of longitude by its length at each place.
    let scales: Vec<_> = places.iter().map(|place| place.lat.to_radians().cos().max(0.01)).collect();
    let rows = sqlx::query!(
        r#"SELECT DISTINCT near.id AS "trip_id!", near.driver_id AS "driver_id!", near.dropoff_lat AS "lat!",
                  near.dropoff_lng AS "lng!"
           FROM unnest($2::float8[], $3::float8[], $4::float8[]) AS p (lat, lng, scale)
           CROSS JOIN LATERAL (
               SELECT t.id, t.driver_id, r.dropoff_lat, r.dropoff_lng
               FROM rides r
               JOIN trips t ON t.id = r.trip_id AND t.status = 'in_progress'
               JOIN drivers d ON d.id = t.driver_id AND d.status = 'online' AND d.erased_at IS NULL
               WHERE r.tenant_id = $1 AND r.status = 'in_progress'
                 AND r.dropoff_lat BETWEEN p.lat - $5 AND p.lat + $5
                 AND r.dropoff_lng BETWEEN p.lng - $5 / p.scale AND p.lng + $5 / p.scale
                 AND NOT EXISTS (SELECT FROM trips n WHERE n.tenant_id = $1 AND n.driver_id = t.driver_id
                                 AND n.status = 'accepted' AND n.after_trip_id IS NOT NULL)
                 AND NOT EXISTS (SELECT FROM offers o WHERE o.tenant_id = $1 AND o.driver_id = t.driver_id
                                 AND o.status = 'live')
               ORDER BY (r.dropoff_lat - p.lat) ^ 2 + ((r.dropoff_lng - p.lng) * p.scale) ^ 2, t.id LIMIT $6
           ) near"#,
        tenant.as_str(),
        &lats,
        &lngs,
        &scales,
        radius_m / METRES_PER_DEGREE,
        most
    )
    .fetch_all(app.db.system_alone())
    .await?;
    let ending = rows.into_iter().map(|row| Ending {
        driver_id: DriverId(row.driver_id),
        trip_id: TripId(row.trip_id),
        dropoff: Point::new(row.lat, row.lng),
    });
    Ok(ending.collect())
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

/// The candidates of one round.
pub(super) struct Round {
    pub(super) ride_id: RideId,
    pub(super) number: i32,
    pub(super) candidates: BTreeMap<DriverId, CandidateRow>,
}

/// A candidate as recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CandidateRow {
    pub(super) reason: String,
    pub(super) pickup_eta_s: Option<u32>,
    pub(super) distance_m: Option<u32>,
}

/// Records what became of each candidate; of one considered again in a round the latest counts. The same again changes
/// nothing.
pub(super) async fn record(tx: &mut TenantTx, rounds: &[Round], now: OffsetDateTime) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let rides: Vec<_> = rounds.iter().map(|round| round.ride_id.0).collect();
    let numbers: Vec<_> = rounds.iter().map(|round| round.number).collect();
    let json =
        |round: &Round| serde_json::to_value(&round.candidates).map_err(|error| sqlx::Error::Encode(error.into()));
    let candidates: Vec<_> = rounds.iter().map(json).collect::<sqlx::Result<_>>()?;
    sqlx::query!(
        "INSERT INTO dispatch_candidates AS c (tenant_id, ride_id, round, candidates, considered_at)
         SELECT $1, n.ride_id, n.round, n.candidates, $5
         FROM unnest($2::uuid[], $3::int[], $4::jsonb[]) AS n (ride_id, round, candidates)
         ON CONFLICT (ride_id, round) DO UPDATE
         SET candidates = c.candidates || excluded.candidates, considered_at = excluded.considered_at
         WHERE NOT c.candidates @> excluded.candidates",
        tenant.as_str(),
        &rides,
        &numbers,
        &candidates,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// All rounds of a ride, the first first, and when each was last added to.
pub(super) async fn rounds(tx: &mut TenantTx, ride_id: RideId) -> sqlx::Result<Vec<(Round, OffsetDateTime)>> {
    let rows = sqlx::query!(
        "SELECT round, candidates, considered_at FROM dispatch_candidates WHERE ride_id = $1 ORDER BY round",
        ride_id.0
    );
    let read = |(number, candidates, at)| {
        let candidates = serde_json::from_value(candidates).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((Round { ride_id, number, candidates }, at))
    };
    let rows = rows.fetch_all(tx.conn()).await?;
    rows.into_iter().map(|row| read((row.round, row.candidates, row.considered_at))).collect()
}

/// An offer as stored.
#[derive(Clone, Debug)]
pub(super) struct OfferRow {
    pub(super) id: Uuid,
    pub(super) ride_id: Uuid,
    pub(super) driver_id: Uuid,
    pub(super) status: String,
    pub(super) pickup_eta_s: i32,
    pub(super) after_trip_id: Option<Uuid>,
    pub(super) offered_at: OffsetDateTime,
    pub(super) expires_at: OffsetDateTime,
    pub(super) answered_at: Option<OffsetDateTime>,
}

/// Selects offers; `$tail` is what follows FROM.
macro_rules! select_offers {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            OfferRow,
            "SELECT id, ride_id, driver_id, status, pickup_eta_s, after_trip_id, offered_at, expires_at, answered_at
             FROM offers " + $tail
            $(, $argument)*
        )
    };
}

/// All offers of a ride, oldest first.
pub(super) async fn offers_of_ride(tx: &mut TenantTx, ride_id: RideId) -> sqlx::Result<Vec<OfferRow>> {
    let rows = select_offers!("WHERE ride_id = $1 ORDER BY id", ride_id.0);
    rows.fetch_all(tx.conn()).await
}

/// The driver's last offer of a ride.
pub(super) async fn last_offer(
    tx: &mut TenantTx,
    ride_id: RideId,
    driver_id: DriverId,
) -> sqlx::Result<Option<OfferRow>> {
    let row = select_offers!("WHERE ride_id = $1 AND driver_id = $2 ORDER BY id DESC LIMIT 1", ride_id.0, driver_id.0);
    row.fetch_optional(tx.conn()).await
}

/// The driver's open offers.
pub(super) async fn live_offers(
    tx: &mut TenantTx,
    driver_id: DriverId,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<OfferRow>> {
    let tenant = tx.tenant().clone();
    let rows = select_offers!(
        "WHERE tenant_id = $1 AND driver_id = $2 AND status = 'live' AND expires_at > $3 ORDER BY id",
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

/// Ends all live offers of a ride, one of them accepted by `driver`; his, and those the others had. `None` if his had ended
/// already, and then nothing of this must be kept. The ride is held.
pub(super) async fn accept(
    tx: &mut TenantTx,
    ride_id: RideId,
    driver: DriverId,
    now: OffsetDateTime,
) -> sqlx::Result<Option<(OfferRow, Vec<Ended>)>> {
    let rows = sqlx::query_as!(
        OfferRow,
        "UPDATE offers SET status = CASE WHEN driver_id = $2 THEN 'accepted' ELSE 'taken' END, answered_at = $3
         WHERE ride_id = $1 AND status = 'live'
         RETURNING id, ride_id, driver_id, status, pickup_eta_s, after_trip_id, offered_at, expires_at, answered_at",
        ride_id.0,
        driver.0,
        now
    )
    .fetch_all(tx.conn())
    .await?;
    let (own, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|offer| offer.driver_id == driver.0);
    let ended = |offer: OfferRow| Ended { offer_id: offer.id.into(), ride_id, driver_id: DriverId(offer.driver_id) };
    Ok(own.into_iter().next().map(|own| (own, others.into_iter().map(ended).collect())))
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

/// Turns the offer a driver had accepted into one he declined, so that the dispatcher does not ask him again.
pub(crate) async fn decline_accepted_offer(
    tx: &mut TenantTx,
    ride_id: RideId,
    driver_id: DriverId,
    now: OffsetDateTime,
) -> sqlx::Result<Option<OfferId>> {
    let offer = sqlx::query_scalar!(
        "UPDATE offers SET status = 'declined', answered_at = $3
         WHERE ride_id = $1 AND driver_id = $2 AND status = 'accepted' RETURNING id",
        ride_id.0,
        driver_id.0,
        now
    );
    Ok(offer.fetch_optional(tx.conn()).await?.map(OfferId))
}
