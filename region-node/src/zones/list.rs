//! A tenant's zones as they run, for the back office.

use axum::{Json, extract::State};
use serde::Serialize;
use shared::zone::{Area, Zone};

use super::store;
use crate::{
    app::App,
    http::{Problem, ProblemBody},
    identity::{BACK_OFFICE, Caller},
};

/// A tenant's zones.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ZoneList {
    /// As published; where two overlap, the first counts.
    items: Vec<ZoneItem>,
    /// Always null.
    next_cursor: Option<String>,
}

/// A zone and how many wait in it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ZoneItem {
    id: String,
    name: String,
    area: Area,
    /// Drivers in its queue, of all classes of vehicle; null if it has none.
    waiting: Option<usize>,
}

/// The zones that are published, with the length of their queues.
#[utoipa::path(get, path = "/v1/zones", tag = "dispatch", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header)),
    responses((status = 200, body = ZoneList), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody)))]
pub(super) async fn list_zones(State(app): State<App>, caller: Caller) -> Result<Json<ZoneList>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let published = app.tenants.config(caller.tenant()).await?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let queue = store::queue(&mut tx).await?;
    let item = |Zone { id, name, area, queue: has_queue, .. }: &Zone| ZoneItem {
        id: id.clone(),
        name: name.clone(),
        area: area.clone(),
        waiting: has_queue.then(|| queue.iter().filter(|waiting| waiting.zone_id == *id).count()),
    };
    Ok(Json(ZoneList { items: published.config.zones.iter().map(item).collect(), next_cursor: None }))
}
