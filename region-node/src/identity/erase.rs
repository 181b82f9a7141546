//! Erasure: personal data goes, the ledger stays.

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use shared::{
    ids::{DriverId, RiderId, TenantId},
    problem::Code,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Caller, Subject,
    accounts::{self, Kind},
    caller::key_owner,
};
use crate::{
    app::App,
    dispatch,
    drivers::{Duty, Standing},
    http::{Path, Problem, ProblemBody, forget_answers_of},
};

/// What was erased.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Erasure {
    id: Uuid,
    status: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    erased_at: OffsetDateTime,
}

/// Erases a rider's personal data; rides and ledger keep their pseudonymous id.
#[utoipa::path(delete, path = "/v1/riders/{id}", tag = "identity", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = RiderId, Path)),
    responses((status = 202, body = Erasure), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "identity.erase_rider", skip_all, fields(rider.id = %id))]
pub(super) async fn erase_rider(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RiderId>,
) -> Result<(StatusCode, Json<Erasure>), Problem> {
    let is_own = caller.subject == Subject::Rider(id);
    erase(&app, &caller, is_own, Kind::Rider, id.0).await
}

/// Erases a driver's personal data; trips and ledger keep their pseudonymous id.
#[utoipa::path(delete, path = "/v1/drivers/{id}", tag = "identity", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 202, body = Erasure), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "identity.erase_driver", skip_all, fields(driver.id = %id))]
pub(super) async fn erase_driver(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
) -> Result<(StatusCode, Json<Erasure>), Problem> {
    let is_own = caller.subject == Subject::Driver(id);
    erase(&app, &caller, is_own, Kind::Driver, id.0).await
}

async fn erase(
    app: &App,
    caller: &Caller,
    is_own: bool,
    kind: Kind,
    id: Uuid,
) -> Result<(StatusCode, Json<Erasure>), Problem> {
    let nobody = || Problem::not_found(format!("no account {id}"));
    if !is_own && !caller.is_back_office() {
        return Err(nobody());
    }
    let now = app.clock.now();
    let mut tx = app.db.begin(caller.tenant()).await?;
    if kind == Kind::Driver {
        // Before the account is held: whoever accepts an offer holds its ride first and then the driver. One made between the
        // two expires in its time, and the account it was made to can no longer accept it.
        dispatch::withdraw_from(app, &mut tx, DriverId(id), now).await?;
    }
    let erased_at = accounts::lock(&mut tx, kind, id).await?.ok_or_else(nobody)?;
    if accounts::has_open_ride(&mut tx, id).await? {
        return Err(Problem::new(Code::InvalidTransition, "end or cancel the open ride first"));
    }
    let erased_at = match erased_at {
        Some(before) => before,
        None => {
            accounts::erase(&mut tx, kind, id, now).await?;
            now
        }
    };
    forget_answers_of(&mut tx, &key_owner(kind.role(), id), id).await?;
    tx.commit().await?;
    if kind == Kind::Driver {
        leave_the_map(app, caller.tenant(), DriverId(id), now);
    }
    Ok((StatusCode::ACCEPTED, Json(Erasure { id, status: "erased", erased_at })))
}

/// As going offline does, for good; the other nodes hear of it too.
fn leave_the_map(app: &App, tenant: &TenantId, id: DriverId, now: OffsetDateTime) {
    let fleet = app.drivers.live.fleet(tenant);
    if let Some(known) = fleet.sighting(id, now) {
        fleet.learn(id, Standing { online: false, idle_since: None, duty: Duty::Free, as_of: now, ..known.standing });
    }
}
