//! Where drivers are scarce, for the back office.

use axum::{Json, extract::State};
use h3o::LatLng;
use serde::Serialize;
use shared::geo::Point;
use time::OffsetDateTime;

use super::{is_on, store};
use crate::{
    app::App,
    http::{Problem, ProblemBody},
    identity::{BACK_OFFICE, Caller},
    pricing::Surge,
};

/// Where drivers are scarce.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SurgeList {
    /// Whether prices rise by it: the policy says so, and its kill switch is not thrown.
    enabled: bool,
    /// Null before it ever was.
    #[serde(with = "time::serde::rfc3339::option")]
    computed_at: Option<OffsetDateTime>,
    /// Cells at or beside some demand.
    items: Vec<SurgeItem>,
    /// Always null.
    next_cursor: Option<String>,
}

/// One class of vehicle in one cell.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SurgeItem {
    /// H3 index.
    cell: String,
    /// Its middle, degrees north.
    lat: f64,
    /// Its middle, degrees east.
    lng: f64,
    /// Its corners, in the order in which one walks around.
    corners: Vec<Point>,
    vehicle_class: String,
    /// Rides that look for a driver, or found none lately; smoothed.
    demand: f64,
    /// Drivers who could take one; smoothed.
    supply: f64,
    surge_multiplier: Surge,
}

/// Demand, supply and what follows for prices, by cell and class of vehicle, as computed last.
#[utoipa::path(get, path = "/v1/surge", tag = "dispatch", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header)),
    responses((status = 200, body = SurgeList), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody)))]
pub(super) async fn list_surge(State(app): State<App>, caller: Caller) -> Result<Json<SurgeList>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let enabled = is_on(&app.tenants.config(caller.tenant()).await?.config);
    let mut tx = app.db.read(caller.tenant()).await?;
    let computed = store::load(&mut tx).await?;
    let computed_at = computed.as_ref().map(|computed| computed.computed_at);
    let items = computed.map(|computed| computed.cells).unwrap_or_default().into_iter();
    let items = items.map(|((vehicle_class, cell), known)| {
        let middle = LatLng::from(cell);
        SurgeItem {
            cell: cell.to_string(),
            lat: middle.lat(),
            lng: middle.lng(),
            corners: cell.boundary().iter().map(|corner| Point::new(corner.lat(), corner.lng())).collect(),
            vehicle_class,
            demand: known.demand,
            supply: known.supply,
            surge_multiplier: known.multiplier,
        }
    });
    Ok(Json(SurgeList { enabled, computed_at, items: items.collect(), next_cursor: None }))
}
