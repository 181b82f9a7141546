//! All SQL of drivers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::{
    geo::Point,
    ids::{DriverId, RideId, RiderId, TenantId},
};
use sqlx::types::Json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{
    breadcrumbs::Breadcrumb,
    position::Position,
    record::{Addition, Record},
    standing::{Duty, Standing},
    terms::Terms,
};
use crate::{app::App, db::TenantTx, http::Problem};

/// What is read is taken to be this much older, so that an event of a transaction that was about to commit, and names
/// the time it began, still counts as newer.
const READ_LAG: Duration = Duration::seconds(2);

/// Whether a driver takes rides, as the account says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriverStatus {
    /// Takes rides.
    Online,
    /// Does not.
    Offline,
}

impl DriverStatus {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

struct StandingRow {
    tenant_id: String,
    id: Uuid,
    status: String,
    vehicle_class: String,
    idle_since: Option<OffsetDateTime>,
    offered_until: Option<OffsetDateTime>,
    ride_id: Option<Uuid>,
    rider_id: Option<Uuid>,
    documents: Json<Documents>,
    max_pickup_m: Option<i32>,
    accepted: Option<f64>,
    refused: Option<f64>,
    earned: Option<f64>,
    record_as_of: Option<OffsetDateTime>,
}

/// Documents as stored.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Documents(BTreeMap<String, GoodUntil>);

#[derive(Debug, Serialize, Deserialize)]
struct GoodUntil(#[serde(with = "time::serde::rfc3339")] OffsetDateTime);

impl Documents {
    fn new(documents: &BTreeMap<String, OffsetDateTime>) -> Self {
        Self(documents.iter().map(|(kind, until)| (kind.clone(), GoodUntil(*until))).collect())
    }

    fn terms(&self, max_pickup_m: Option<i32>) -> Terms {
        let documents = self.0.iter().map(|(kind, until)| (kind.clone(), until.0)).collect();
        Terms::new(documents, max_pickup_m.and_then(|metres| u32::try_from(metres).ok()))
    }
}

/// Selects standings; the first argument ends the statement.
macro_rules! select_standings {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            StandingRow,
            r#"SELECT d.tenant_id, d.id, d.status, d.vehicle_class,
                      CASE WHEN d.status = 'online' THEN r.idle_since END AS idle_since,
                      d.documents AS "documents: Json<Documents>", d.max_pickup_m,
                      o.expires_at AS "offered_until?", t.ride_id AS "ride_id?", t.rider_id AS "rider_id?",
                      r.accepted AS "accepted?", r.refused AS "refused?", r.earned AS "earned?",
                      r.as_of AS "record_as_of?"
               FROM drivers d
               LEFT JOIN driver_records r ON r.driver_id = d.id
               LEFT JOIN offers o ON o.tenant_id = d.tenant_id AND o.driver_id = d.id AND o.status = 'live'
               LEFT JOIN trips t ON t.tenant_id = d.tenant_id AND t.driver_id = d.id
                    AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused') AND t.after_trip_id IS NULL "# + $tail
            $(, $argument)*
        )
    };
}

impl StandingRow {
    fn standing(&self, as_of: OffsetDateTime) -> Standing {
        let duty = match (self.ride_id, self.rider_id, self.offered_until) {
            (Some(ride_id), Some(rider_id), _) => {
                Duty::OnTrip { ride_id: RideId(ride_id), rider_id: RiderId(rider_id) }
            }
            (_, _, Some(until)) => Duty::Offered { until },
            (_, _, None) => Duty::Free,
        };
        Standing {
            online: self.status == DriverStatus::Online.as_str(),
            vehicle_class: self.vehicle_class.as_str().into(),
            idle_since: self.idle_since,
            duty,
            terms: self.documents.terms(self.max_pickup_m),
            record: record(self.accepted, self.refused, self.earned, self.record_as_of),
            as_of: as_of - READ_LAG,
            duty_as_of: as_of - READ_LAG,
        }
    }
}

/// A record as read by an outer join.
fn record(accepted: Option<f64>, refused: Option<f64>, earned: Option<f64>, as_of: Option<OffsetDateTime>) -> Record {
    match (accepted, refused, earned, as_of) {
        (Some(accepted), Some(refused), Some(earned), Some(as_of)) => Record { accepted, refused, earned, as_of },
        _ => Record::NONE,
    }
}

/// The standing of one driver.
pub(super) async fn standing(
    tx: &mut TenantTx,
    driver_id: DriverId,
    now: OffsetDateTime,
) -> sqlx::Result<Option<Standing>> {
    let row =
        select_standings!("WHERE d.id = $1 AND d.erased_at IS NULL", driver_id.0).fetch_optional(tx.conn()).await?;
    Ok(row.map(|row| row.standing(now)))
}

/// The standings of many drivers of all tenants; one that is missing is gone.
pub(super) async fn standings(app: &App, drivers: &[DriverId]) -> Result<Vec<(TenantId, DriverId, Standing)>, Problem> {
    let now = app.clock.now();
    let ids: Vec<_> = drivers.iter().map(|id| id.0).collect();
    let rows = select_standings!("WHERE d.id = ANY($1) AND d.erased_at IS NULL", &ids);
    let rows = rows.fetch_all(app.db.system_alone()).await?;
    let read = |row: StandingRow| Some((row.tenant_id.parse().ok()?, DriverId(row.id), row.standing(now)));
    Ok(rows.into_iter().filter_map(read).collect())
}

/// The drivers with an offer to answer or a trip to drive.
pub(super) async fn busy(app: &App) -> Result<Vec<(TenantId, DriverId)>, Problem> {
    let rows = sqlx::query!(
        r#"SELECT tenant_id AS "tenant_id!", driver_id AS "driver_id!" FROM offers WHERE status = 'live'
           UNION SELECT tenant_id, driver_id FROM trips
                 WHERE status IN ('accepted', 'arrived', 'in_progress', 'paused') AND after_trip_id IS NULL"#
    )
    .fetch_all(app.db.system_alone())
    .await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.tenant_id.parse().ok()?, DriverId(row.driver_id)))).collect())
}

/// The places of drivers last heard of after `since`.
pub(super) async fn places(app: &App, since: OffsetDateTime) -> Result<Vec<(DriverId, Position)>, Problem> {
    let mut tx = app.db.system().await?;
    let rows = sqlx::query!("SELECT driver_id, lat, lng, located_at FROM driver_places WHERE located_at > $1", since)
        .fetch_all(tx.conn())
        .await?;
    tx.commit().await?;
    let read = rows.into_iter().map(|row| {
        let point = Point::new(row.lat, row.lng);
        (DriverId(row.driver_id), Position { point, heading: None, recorded_at: row.located_at })
    });
    Ok(read.collect())
}

/// A driver whose status was set.
pub(super) struct StatusChanged {
    pub(super) vehicle_class: String,
    pub(super) idle_since: Option<OffsetDateTime>,
    pub(super) terms: Terms,
    pub(super) record: Record,
}

/// Sets whether a driver takes rides; `None` if there is no such driver. Time without work counts from coming online.
pub(super) async fn set_status(
    tx: &mut TenantTx,
    driver_id: DriverId,
    status: DriverStatus,
    now: OffsetDateTime,
) -> sqlx::Result<Option<StatusChanged>> {
    let row = sqlx::query!(
        r#"WITH was AS (
               SELECT id, status FROM drivers WHERE id = $1 AND erased_at IS NULL FOR NO KEY UPDATE
           ), changed AS (
               UPDATE drivers d SET status = $2 FROM was WHERE d.id = was.id
               RETURNING d.id, d.tenant_id, d.vehicle_class, d.documents, d.max_pickup_m,
                         $2 = 'online' AND was.status = 'offline' AS comes_online
           ), idle AS (
               INSERT INTO driver_records (driver_id, tenant_id, accepted, refused, earned, as_of, idle_since)
               SELECT id, tenant_id, 0, 0, 0, $3, $3 FROM changed WHERE comes_online
               ON CONFLICT (driver_id) DO UPDATE SET idle_since = $3
           )
           SELECT c.vehicle_class AS "vehicle_class!", c.documents AS "documents!: Json<Documents>", c.max_pickup_m,
                  CASE WHEN c.comes_online THEN $3 WHEN $2 = 'online' THEN r.idle_since END AS idle_since,
                  r.accepted AS "accepted?", r.refused AS "refused?", r.earned AS "earned?", r.as_of AS "as_of?"
           FROM changed c LEFT JOIN driver_records r ON r.driver_id = c.id"#,
        driver_id.0,
        status.as_str(),
        now
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| StatusChanged {
        terms: row.documents.terms(row.max_pickup_m),
        record: record(row.accepted, row.refused, row.earned, row.as_of),
        vehicle_class: row.vehicle_class,
        idle_since: row.idle_since,
    }))
}

/// A driver's terms; `None` if there is no such driver.
pub(super) async fn terms(tx: &mut TenantTx, driver_id: DriverId) -> sqlx::Result<Option<Terms>> {
    let row = sqlx::query!(
        r#"SELECT documents AS "documents: Json<Documents>", max_pickup_m FROM drivers
           WHERE id = $1 AND erased_at IS NULL"#,
        driver_id.0
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| row.documents.terms(row.max_pickup_m)))
}

/// Replaces a driver's documents; false if there is no such driver.
pub(super) async fn set_documents(
    tx: &mut TenantTx,
    driver_id: DriverId,
    documents: &BTreeMap<String, OffsetDateTime>,
) -> sqlx::Result<bool> {
    let set = sqlx::query!(
        "UPDATE drivers SET documents = $2 WHERE id = $1 AND erased_at IS NULL",
        driver_id.0,
        Json(Documents::new(documents)) as _
    )
    .execute(tx.conn())
    .await?;
    Ok(set.rows_affected() == 1)
}

/// Sets a driver's own limit; false if there is no such driver.
pub(super) async fn set_max_pickup(
    tx: &mut TenantTx,
    driver_id: DriverId,
    max_pickup_m: Option<u32>,
) -> sqlx::Result<bool> {
    let set = sqlx::query!(
        "UPDATE drivers SET max_pickup_m = $2 WHERE id = $1 AND erased_at IS NULL",
        driver_id.0,
        max_pickup_m.map(|metres| i32::try_from(metres).unwrap_or(i32::MAX))
    )
    .execute(tx.conn())
    .await?;
    Ok(set.rows_affected() == 1)
}

/// Keeps in mind that a driver, who has answered an offer once, has nothing to drive from now on.
pub async fn note_idle(tx: &mut TenantTx, driver_id: DriverId, now: OffsetDateTime) -> sqlx::Result<()> {
    sqlx::query!("UPDATE driver_records SET idle_since = $2 WHERE driver_id = $1", driver_id.0, now)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Adds the same to the records of these drivers, in the order of their ids so that nobody waits in a circle; the records
/// as they are then. What was known has faded meanwhile, by the same sums as [`Record::plus`]. If `are_idle`, they have nothing
/// to drive from now on.
pub(super) async fn add_to_records(
    tx: &mut TenantTx,
    drivers: &[DriverId],
    more: Addition,
    are_idle: bool,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<(DriverId, Record)>> {
    let tenant = tx.tenant().clone();
    let mut ids: Vec<_> = drivers.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    let [answers_halve_s, earnings_halve_s] = Record::HALVE_IN.map(|after| after.as_seconds_f64());
    let rows = sqlx::query!(
        "INSERT INTO driver_records AS r (driver_id, tenant_id, accepted, refused, earned, as_of, idle_since)
         SELECT id, $2, $3, $4, $5, $6::timestamptz, CASE WHEN $9 THEN $6::timestamptz END FROM unnest($1::uuid[]) AS n (id)
         ON CONFLICT (driver_id) DO UPDATE SET
             accepted = excluded.accepted + r.accepted
                 * 0.5::float8 ^ least(100, greatest(0, extract(epoch FROM $6 - r.as_of))::float8 / $7),
             refused = excluded.refused + r.refused
                 * 0.5::float8 ^ least(100, greatest(0, extract(epoch FROM $6 - r.as_of))::float8 / $7),
             earned = excluded.earned + r.earned
                 * 0.5::float8 ^ least(100, greatest(0, extract(epoch FROM $6 - r.as_of))::float8 / $8),
             as_of = greatest(r.as_of, $6),
             idle_since = coalesce(excluded.idle_since, r.idle_since)
         RETURNING driver_id, accepted, refused, earned, as_of",
        &ids,
        tenant.as_str(),
        more.accepted,
        more.refused,
        more.earned,
        now,
        answers_halve_s,
        earnings_halve_s,
        are_idle
    )
    .fetch_all(tx.conn())
    .await?;
    let records = rows.into_iter().map(|row| {
        let record = Record { accepted: row.accepted, refused: row.refused, earned: row.earned, as_of: row.as_of };
        (DriverId(row.driver_id), record)
    });
    Ok(records.collect())
}

/// Writes last known places, each only if it is newer than what is there, and none of a driver who was erased meanwhile.
pub(super) async fn store_places(app: &App, places: &[(DriverId, Position)]) -> Result<(), Problem> {
    let ids: Vec<_> = places.iter().map(|(id, _)| id.0).collect();
    let lats: Vec<_> = places.iter().map(|(_, position)| position.point.lat).collect();
    let lngs: Vec<_> = places.iter().map(|(_, position)| position.point.lng).collect();
    let times: Vec<_> = places.iter().map(|(_, position)| position.recorded_at).collect();
    let mut tx = app.db.system().await?;
    // A crash may lose the last of these, which the drivers will have sent again by the time the node is back.
    sqlx::query!("SET LOCAL synchronous_commit = off").execute(tx.conn()).await?;
    sqlx::query!(
        "INSERT INTO driver_places AS p (driver_id, tenant_id, lat, lng, located_at)
         SELECT d.id, d.tenant_id, n.lat, n.lng, n.located_at
         FROM unnest($1::uuid[], $2::float8[], $3::float8[], $4::timestamptz[]) AS n (id, lat, lng, located_at)
         JOIN drivers d ON d.id = n.id AND d.erased_at IS NULL
         ORDER BY d.id
         ON CONFLICT (driver_id) DO UPDATE SET lat = excluded.lat, lng = excluded.lng, located_at = excluded.located_at
         WHERE p.located_at < excluded.located_at",
        &ids,
        &lats,
        &lngs,
        &times
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.commit().await?)
}

/// Forgets places nobody asks for any more.
pub(super) async fn forget_places(app: &App, before: OffsetDateTime) -> Result<(), Problem> {
    let mut tx = app.db.system().await?;
    sqlx::query!("DELETE FROM driver_places WHERE located_at < $1", before).execute(tx.conn()).await?;
    Ok(tx.commit().await?)
}

/// Writes breadcrumbs under the trip each belongs to: the driver's that was under way at that time. The others are of no
/// trip and are left out.
pub(super) async fn insert_breadcrumbs(app: &App, crumbs: &[Breadcrumb]) -> Result<(), Problem> {
    let tenants: Vec<_> = crumbs.iter().map(|crumb| crumb.tenant.to_string()).collect();
    let drivers: Vec<_> = crumbs.iter().map(|crumb| crumb.driver_id.0).collect();
    let times: Vec<_> = crumbs.iter().map(|crumb| crumb.position.recorded_at).collect();
    let lats: Vec<_> = crumbs.iter().map(|crumb| crumb.position.point.lat).collect();
    let lngs: Vec<_> = crumbs.iter().map(|crumb| crumb.position.point.lng).collect();
    sqlx::query!(
        "INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng)
         SELECT c.tenant_id, t.id, c.recorded_at, c.lat, c.lng
         FROM unnest($1::text[], $2::uuid[], $3::timestamptz[], $4::float8[], $5::float8[])
              AS c (tenant_id, driver_id, recorded_at, lat, lng)
         CROSS JOIN LATERAL (
             SELECT id, started_at, ended_at FROM trips
             WHERE tenant_id = c.tenant_id AND driver_id = c.driver_id AND started_at IS NOT NULL ORDER BY id DESC LIMIT 2
         ) t
         WHERE t.started_at <= c.recorded_at AND (t.ended_at IS NULL OR c.recorded_at <= t.ended_at)
         ON CONFLICT DO NOTHING",
        &tenants,
        &drivers,
        &times,
        &lats,
        &lngs
    )
    .execute(app.db.system_alone())
    .await?;
    Ok(())
}
