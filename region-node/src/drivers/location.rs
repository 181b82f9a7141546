//! Taking positions, over REST and from sockets.

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use shared::ids::{DriverId, TenantId};

use super::{Duty, Observed, PositionsInput, store};
use crate::{
    app::App,
    http::{Command, Path, Problem, ProblemBody},
    identity::Caller,
    realtime::Event,
};

/// How many positions were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Taken {
    /// Positions received.
    pub accepted: usize,
    /// Whether riders can find the driver there: offline drivers are found nowhere.
    pub online: bool,
}

/// Takes a driver's position, or an array of 1 to 100 of them; the newest counts, and all of them while on a trip.
#[utoipa::path(post, path = "/v1/drivers/{id}/location", tag = "drivers", security(("bearer" = [])),
    request_body = PositionsInput,
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 202, body = Taken), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
pub(super) async fn take_location(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    command: Command<PositionsInput>,
) -> Result<(StatusCode, Json<Taken>), Problem> {
    let id = caller.driver_is(id)?;
    let taken = take_positions(&app, caller.tenant(), id, command.body).await?;
    Ok((StatusCode::ACCEPTED, Json(taken)))
}

/// Takes validated positions of a driver who is signed in. Touches memory only, but for the first of a driver this node
/// knows nothing of.
pub async fn take_positions(
    app: &App,
    tenant: &TenantId,
    driver_id: DriverId,
    input: PositionsInput,
) -> Result<Taken, Problem> {
    let now = app.clock.now();
    let positions = input.received_at(now);
    let fleet = app.drivers.live.fleet(tenant);
    let (duty, online, moved_to) = loop {
        match fleet.observe(driver_id, &positions, now) {
            Observed::Known { duty, online, moved_to } => break (duty, online, moved_to),
            Observed::Stranger => {
                let mut tx = app.db.begin(tenant).await?;
                let standing = store::standing(&mut tx, driver_id, now).await?;
                tx.commit().await?;
                fleet.learn(driver_id, standing.ok_or_else(|| Problem::not_found(format!("no driver {driver_id}")))?);
            }
        }
    };
    match duty {
        Duty::OnTrip { ride_id, rider_id } => {
            app.drivers.breadcrumbs.drop_all(tenant, driver_id, &positions);
            if let Some(position) = moved_to {
                app.events.try_send(Event::DriverMoved { tenant: tenant.clone(), ride_id, rider_id, position });
            }
        }
        // Postgres will know whether there is a trip this node has not heard of.
        Duty::Free | Duty::Offered { .. } if !app.drivers.is_sharing() => {
            app.drivers.breadcrumbs.drop_all(tenant, driver_id, &positions);
        }
        Duty::Free | Duty::Offered { .. } => {}
    }
    Ok(Taken { accepted: positions.len(), online })
}
