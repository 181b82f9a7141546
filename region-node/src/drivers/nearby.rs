//! Cars on a rider's map: where, but never who.

use axum::{Json, extract::State};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{claims::Role, geo::Point};
use time::OffsetDateTime;

use super::{Duty, Found, Standing};
use crate::{
    app::App,
    http::{Page, Problem, ProblemBody, Query},
    identity::Caller,
};

/// Around where, and what.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct NearbyQuery {
    /// Degrees north.
    #[garde(range(min = -90.0, max = 90.0))]
    lat: f64,
    /// Degrees east.
    #[garde(range(min = -180.0, max = 180.0))]
    lng: f64,
    /// Metres, 1 to 50000; 2000 if not said.
    #[garde(range(min = 1.0, max = 50_000.0))]
    #[serde(default = "two_kilometres")]
    radius_m: f64,
    /// Only vehicles of this class.
    #[garde(length(min = 1, max = 30))]
    #[serde(default)]
    vehicle_class: Option<String>,
    /// At most so many, 1 to 100; 20 if not said. A back office may ask for 1000.
    #[garde(range(min = 1, max = 1_000))]
    #[serde(default)]
    limit: Option<usize>,
}

fn two_kilometres() -> f64 {
    2_000.0
}

/// A car.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct NearbyDriver {
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lng: f64,
    /// Degrees clockwise from north.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heading: Option<f32>,
    /// The vehicle's class.
    pub vehicle_class: String,
    /// From the place asked about, as the crow flies.
    pub distance_m: u32,
    /// When the car was there.
    #[serde(with = "time::serde::rfc3339")]
    pub recorded_at: OffsetDateTime,
    /// What the driver is doing; shown to the back office, for which the busy are on the map too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doing: Option<Doing>,
}

/// What a driver is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Doing {
    /// Nothing: may be offered a ride.
    Free,
    /// Thinking about an offer.
    Offered,
    /// Driving to or with a rider.
    OnTrip,
}

impl From<Duty> for Doing {
    fn from(duty: Duty) -> Self {
        match duty {
            Duty::Free => Self::Free,
            Duty::Offered { .. } => Self::Offered,
            Duty::OnTrip { .. } => Self::OnTrip,
        }
    }
}

/// The cars near a place, nearest first: to a rider those that could be had, to the back office all of them. Nobody is
/// named.
#[utoipa::path(get, path = "/v1/drivers/nearby", tag = "drivers", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), NearbyQuery),
    responses((status = 200, body = Page<NearbyDriver>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 422, body = ProblemBody)))]
pub(super) async fn nearby(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<NearbyQuery>,
) -> Result<Json<Page<NearbyDriver>>, Problem> {
    caller.must_be(&[Role::Rider, Role::TenantAdmin, Role::Operator])?;
    let shows_all = caller.is_back_office();
    let now = app.clock.now();
    let published = app.tenants.config(caller.tenant()).await?;
    let required = &published.config.dispatch.required_documents;
    let wanted = |standing: &Standing, _| {
        let is_free = standing.duty.at(now) == Duty::Free && standing.terms.document_fault(required, now).is_none();
        let class = query.vehicle_class.as_deref();
        (shows_all || is_free) && class.is_none_or(|class| *class == *standing.vehicle_class)
    };
    let most = if shows_all { 1_000 } else { 100 };
    let limit = query.limit.unwrap_or(20);
    if limit > most {
        return Err(Problem::field("limit", format!("must be 1 to {most}")));
    }
    let center = Point::new(query.lat, query.lng);
    let found = app.drivers.live.fleet(caller.tenant()).search(center, query.radius_m, limit, now, wanted);
    let show = |found: Found| NearbyDriver {
        lat: found.position.point.lat,
        lng: found.position.point.lng,
        heading: found.position.heading,
        vehicle_class: found.standing.vehicle_class.as_ref().to_owned(),
        // Below half the globe.
        distance_m: found.distance_m.round() as u32,
        recorded_at: found.position.recorded_at,
        doing: shows_all.then(|| found.standing.duty.at(now).into()),
    };
    Ok(Json(Page { items: found.into_iter().map(show).collect(), next_cursor: None }))
}
