//! Looking at shares.

use axum::{Json, extract::State};
use shared::ids::RideId;

use super::{FareShare, FareShareError, store, view};
use crate::{
    app::App,
    http::{Page, PageQuery, Path, Problem, ProblemBody, Query},
    identity::Caller,
    rides::{self, Viewer},
};

/// The shares of a ride's fare, oldest first, all on one page; for its rider and the back office.
#[utoipa::path(get, path = "/v1/rides/{id}/shares", tag = "fare sharing", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = RideId, Path)),
    responses((status = 200, body = Page<FareShare>), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "fare_shares.list_of_ride", skip_all, fields(ride.id = %id))]
pub(super) async fn list_ride_shares(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RideId>,
) -> Result<Json<Page<FareShare>>, Problem> {
    let mut tx = app.db.read(caller.tenant()).await?;
    let ride = rides::load(&mut tx, id).await?.ok_or(FareShareError::NoSuchRide(id))?;
    match ride.viewer(&caller) {
        Some(Viewer::Rider | Viewer::Tenant) => {
            let items = view::of_rides(&mut tx, &[id]).await?;
            Ok(Json(Page { items, next_cursor: None }))
        }
        Some(Viewer::Driver) | None => Err(FareShareError::NoSuchRide(id).into()),
    }
}

/// What the calling rider was asked to share, newest first.
#[utoipa::path(get, path = "/v1/shares", tag = "fare sharing", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), PageQuery),
    responses((status = 200, body = Page<FareShare>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "fare_shares.list", skip_all)]
pub(super) async fn list_shares(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<FareShare>>, Problem> {
    let rider = caller.rider()?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let asked = store::asked_of(&mut tx, rider, page.after()?, page.limit() + 1).await?;
    let rides: Vec<_> = asked.iter().map(|(_, ride)| *ride).collect();
    let mut shares = view::of_rides(&mut tx, &rides).await?;
    shares.retain(|share| asked.iter().any(|(id, _)| *id == share.id));
    shares.sort_by_key(|share| std::cmp::Reverse(share.id));
    Ok(Json(Page::new(shares, page.limit(), |share| share.id.0)))
}
