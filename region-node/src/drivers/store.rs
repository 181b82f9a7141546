//! All SQL of drivers.

use shared::{
    geo::Point,
    ids::{DriverId, RideId, RiderId, TenantId},
};
use time::{Duration, OffsetDateTime};

use super::{
    breadcrumbs::Breadcrumb,
    position::Position,
    standing::{Duty, Standing},
    table::Sighting,
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
    id: uuid::Uuid,
    status: String,
    vehicle_class: String,
    idle_since: Option<OffsetDateTime>,
    lat: Option<f64>,
    lng: Option<f64>,
    located_at: Option<OffsetDateTime>,
    offered_until: Option<OffsetDateTime>,
    ride_id: Option<uuid::Uuid>,
    rider_id: Option<uuid::Uuid>,
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
            as_of: as_of - READ_LAG,
            duty_as_of: as_of - READ_LAG,
        }
    }

    fn position(&self) -> Option<Position> {
        let point = Point::new(self.lat?, self.lng?);
        Some(Position { point, heading: None, recorded_at: self.located_at? })
    }
}

/// The standing of one driver.
pub(super) async fn standing(
    tx: &mut TenantTx,
    driver_id: DriverId,
    now: OffsetDateTime,
) -> sqlx::Result<Option<Standing>> {
    let row = sqlx::query_as!(
        StandingRow,
        r#"SELECT d.tenant_id, d.id, d.status, d.vehicle_class, d.idle_since, d.lat, d.lng, d.located_at,
                  o.expires_at AS "offered_until?", t.ride_id AS "ride_id?", t.rider_id AS "rider_id?"
           FROM drivers d
           LEFT JOIN offers o ON o.tenant_id = d.tenant_id AND o.driver_id = d.id AND o.status = 'live'
           LEFT JOIN trips t ON t.tenant_id = d.tenant_id AND t.driver_id = d.id
                AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused')
           WHERE d.id = $1 AND d.erased_at IS NULL"#,
        driver_id.0
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| row.standing(now)))
}

/// The standings of many drivers of all tenants; one that is missing is gone.
pub(super) async fn standings(app: &App, drivers: &[DriverId]) -> Result<Vec<(TenantId, DriverId, Standing)>, Problem> {
    let now = app.clock.now();
    let ids: Vec<_> = drivers.iter().map(|id| id.0).collect();
    let mut tx = app.db.system().await?;
    let rows = sqlx::query_as!(
        StandingRow,
        r#"SELECT d.tenant_id, d.id, d.status, d.vehicle_class, d.idle_since, d.lat, d.lng, d.located_at,
                  o.expires_at AS "offered_until?", t.ride_id AS "ride_id?", t.rider_id AS "rider_id?"
           FROM drivers d
           LEFT JOIN offers o ON o.tenant_id = d.tenant_id AND o.driver_id = d.id AND o.status = 'live'
           LEFT JOIN trips t ON t.tenant_id = d.tenant_id AND t.driver_id = d.id
                AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused')
           WHERE d.id = ANY($1) AND d.erased_at IS NULL"#,
        &ids
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    let read = |row: StandingRow| Some((row.tenant_id.parse().ok()?, DriverId(row.id), row.standing(now)));
    Ok(rows.into_iter().filter_map(read).collect())
}

/// The drivers with an offer to answer or a trip to drive.
pub(super) async fn busy(app: &App) -> Result<Vec<(TenantId, DriverId)>, Problem> {
    let mut tx = app.db.system().await?;
    let rows = sqlx::query!(
        r#"SELECT tenant_id AS "tenant_id!", driver_id AS "driver_id!" FROM offers WHERE status = 'live'
           UNION SELECT tenant_id, driver_id FROM trips WHERE status IN ('accepted', 'arrived', 'in_progress', 'paused')"#
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.tenant_id.parse().ok()?, DriverId(row.driver_id)))).collect())
}

/// The drivers online in Postgres and last heard of after `since`.
pub(super) async fn last_seen(app: &App, since: OffsetDateTime) -> Result<Vec<(TenantId, Sighting)>, Problem> {
    let now = app.clock.now();
    let mut tx = app.db.system().await?;
    let rows = sqlx::query_as!(
        StandingRow,
        r#"SELECT d.tenant_id, d.id, d.status, d.vehicle_class, d.idle_since, d.lat, d.lng, d.located_at,
                  o.expires_at AS "offered_until?", t.ride_id AS "ride_id?", t.rider_id AS "rider_id?"
           FROM drivers d
           LEFT JOIN offers o ON o.tenant_id = d.tenant_id AND o.driver_id = d.id AND o.status = 'live'
           LEFT JOIN trips t ON t.tenant_id = d.tenant_id AND t.driver_id = d.id
                AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused')
           WHERE d.status = 'online' AND d.located_at > $1 AND d.erased_at IS NULL"#,
        since
    )
    .fetch_all(tx.conn())
    .await?;
    tx.commit().await?;
    let read = |row: StandingRow| {
        let sighting = Sighting { driver_id: DriverId(row.id), standing: row.standing(now), position: row.position() };
        Some((row.tenant_id.parse().ok()?, sighting))
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// Sets whether a driver takes rides; `None` if there is no such driver. Time without work counts from coming online.
pub(super) async fn set_status(
    tx: &mut TenantTx,
    driver_id: DriverId,
    status: DriverStatus,
    now: OffsetDateTime,
) -> sqlx::Result<Option<(String, Option<OffsetDateTime>)>> {
    let row = sqlx::query!(
        "UPDATE drivers SET status = $2,
             idle_since = CASE WHEN $2 = 'offline' THEN NULL WHEN status = 'online' THEN idle_since ELSE $3 END
         WHERE id = $1 AND erased_at IS NULL RETURNING vehicle_class, idle_since",
        driver_id.0,
        status.as_str(),
        now
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| (row.vehicle_class, row.idle_since)))
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
        "UPDATE drivers d SET lat = n.lat, lng = n.lng, located_at = n.located_at
         FROM unnest($1::uuid[], $2::float8[], $3::float8[], $4::timestamptz[]) AS n (id, lat, lng, located_at)
         WHERE d.id = n.id AND d.erased_at IS NULL AND (d.located_at IS NULL OR d.located_at < n.located_at)",
        &ids,
        &lats,
        &lngs,
        &times
    )
    .execute(tx.conn())
    .await?;
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
    let mut tx = app.db.system().await?;
    sqlx::query!(
        "INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng)
         SELECT c.tenant_id, t.id, c.recorded_at, c.lat, c.lng
         FROM unnest($1::text[], $2::uuid[], $3::timestamptz[], $4::float8[], $5::float8[])
              AS c (tenant_id, driver_id, recorded_at, lat, lng)
         CROSS JOIN LATERAL (
             SELECT id, started_at, ended_at FROM trips
             WHERE tenant_id = c.tenant_id AND driver_id = c.driver_id ORDER BY id DESC LIMIT 2
         ) t
         WHERE t.started_at <= c.recorded_at AND (t.ended_at IS NULL OR c.recorded_at <= t.ended_at)
         ON CONFLICT DO NOTHING",
        &tenants,
        &drivers,
        &times,
        &lats,
        &lngs
    )
    .execute(tx.conn())
    .await?;
    Ok(tx.commit().await?)
}
