//! Reading rides: one, or a party's own by page.

use std::collections::{BTreeMap, btree_map::Entry};

use axum::{Json, extract::State};
use garde::Validate;
use serde::Deserialize;
use shared::ids::{DriverId, RideId, RiderId};

use super::{RideError, RideStatus, RideView, RiderProfile, Viewer, describe, store, store::Whose};
use crate::{
    app::App,
    http::{Page, PageQuery, Path, Problem, ProblemBody, Query},
    identity::{Caller, DriverProfile, Subject},
};

/// Which rides.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RideQuery {
    /// Only rides that are this.
    #[garde(skip)]
    status: Option<RideStatus>,
    /// `next_cursor` of the page before.
    #[garde(length(max = 64))]
    cursor: Option<String>,
    /// Rides on a page, 1 to 100; 20 if not said.
    #[garde(range(min = 1, max = 100))]
    limit: Option<u16>,
}

/// A ride, for its rider, its driver and the tenant's back office; for everybody else it does not exist.
#[utoipa::path(get, path = "/v1/rides/{id}", tag = "rides", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = RideId, Path)),
    responses((status = 200, body = RideView), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "rides.get", skip_all, fields(ride.id = %id))]
pub(super) async fn get_ride(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RideId>,
) -> Result<Json<RideView>, Problem> {
    let mut tx = app.db.read(caller.tenant()).await?;
    let mut ride = store::load(&mut tx, id).await?.ok_or(RideError::NotFound(id))?;
    let viewer = ride.viewer(&caller).ok_or(RideError::NotFound(id))?;
    describe(&mut tx, &mut ride).await?;
    Ok(Json(ride.seen_by(viewer)))
}

/// The caller's rides, newest first; the back office sees the tenant's.
#[utoipa::path(get, path = "/v1/rides", tag = "rides", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), RideQuery),
    responses((status = 200, body = Page<RideView>), (status = 401, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "rides.list", skip_all)]
pub(super) async fn list_rides(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<RideQuery>,
) -> Result<Json<Page<RideView>>, Problem> {
    let page = PageQuery { cursor: query.cursor, limit: query.limit };
    let (whose, viewer) = match caller.subject {
        Subject::Rider(id) => (Whose::Rider(id), Viewer::Rider),
        Subject::Driver(id) => (Whose::Driver(id), Viewer::Driver),
        Subject::Client(_) => (Whose::Everybody, Viewer::Tenant),
    };
    let mut tx = app.db.read(caller.tenant()).await?;
    // One more than asked for tells whether there is a further page.
    let mut rides = store::list(&mut tx, whose, query.status, page.after()?, page.limit() + 1).await?;
    let mut known: BTreeMap<(DriverId, RiderId), (Option<DriverProfile>, Option<RiderProfile>)> = BTreeMap::new();
    for ride in &mut rides {
        let Some(driver) = ride.driver_id else { continue };
        match known.entry((driver, ride.rider_id)) {
            Entry::Occupied(parties) => (ride.driver, ride.rider) = parties.get().clone(),
            Entry::Vacant(new) => {
                describe(&mut tx, ride).await?;
                new.insert((ride.driver.clone(), ride.rider.clone()));
            }
        }
    }
    let views = rides.iter().map(|ride| ride.seen_by(viewer)).collect();
    Ok(Json(Page::new(views, page.limit(), |ride: &RideView| ride.id.0)))
}
