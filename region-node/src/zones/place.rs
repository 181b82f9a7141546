//! A driver's place in a queue, and the whole queue for the back office.

use axum::{Json, extract::State};
use serde::Serialize;
use shared::ids::DriverId;
use time::OffsetDateTime;

use super::{queue::places, store};
use crate::{
    app::App,
    http::{Path, Problem, ProblemBody},
    identity::{BACK_OFFICE, Caller},
};

/// A place in a zone's queue.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct QueuePlace {
    /// Which zone's.
    pub zone_id: String,
    /// The zone's name.
    pub name: String,
    /// 1 is asked first; counted among those with the same class of vehicle.
    pub place: u32,
    /// Since when in the queue, or at its end again.
    #[serde(with = "time::serde::rfc3339")]
    pub entered_at: OffsetDateTime,
}

/// Where a driver stands in a queue.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DriverQueue {
    /// Null while in none.
    queue: Option<QueuePlace>,
}

/// A zone's queue.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ZoneQueue {
    zone_id: String,
    name: String,
    /// In the order in which they are asked.
    items: Vec<ZoneQueueEntry>,
    /// Always null.
    next_cursor: Option<String>,
}

/// A driver in a zone's queue.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ZoneQueueEntry {
    driver_id: DriverId,
    vehicle_class: String,
    /// Among those with the same class of vehicle.
    place: u32,
    #[serde(with = "time::serde::rfc3339")]
    entered_at: OffsetDateTime,
    /// Since when too far outside, or out of sight; the place is lost when that lasts.
    #[serde(with = "time::serde::rfc3339::option")]
    away_since: Option<OffsetDateTime>,
    /// Rides of the queue declined, or left to run out.
    declines: i32,
}

/// The driver's place in the queue of the zone he waits in.
#[utoipa::path(get, path = "/v1/drivers/{id}/queue", tag = "drivers", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = DriverQueue), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody)))]
pub(super) async fn get_place(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
) -> Result<Json<DriverQueue>, Problem> {
    let id = caller.driver_is(id)?;
    let map = app.zones.now(&app, caller.tenant()).await?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let queue = places(&map, &store::queue(&mut tx).await?).remove(&id);
    Ok(Json(DriverQueue { queue }))
}

/// Everybody in a zone's queue, first to last.
#[utoipa::path(get, path = "/v1/zones/{id}/queue", tag = "dispatch", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = String, Path)),
    responses((status = 200, body = ZoneQueue), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody)))]
pub(super) async fn get_queue(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ZoneQueue>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let map = app.zones.now(&app, caller.tenant()).await?;
    let zone = map.queue(&id).ok_or_else(|| Problem::not_found(format!("no zone '{id}' with a queue")))?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let waiting = store::queue(&mut tx).await?;
    let places = places(&map, &waiting);
    let of_zone = waiting.into_iter().filter(|waiting| waiting.zone_id == zone.id);
    let entry = |waiting: super::Waiting| {
        let place = places.get(&waiting.driver_id)?.place;
        let super::Waiting { driver_id, vehicle_class, entered_at, away_since, declines, .. } = waiting;
        Some(ZoneQueueEntry { driver_id, vehicle_class, place, entered_at, away_since, declines })
    };
    let items = of_zone.filter_map(entry).collect();
    Ok(Json(ZoneQueue { zone_id: zone.id.clone(), name: zone.name.clone(), items, next_cursor: None }))
}
