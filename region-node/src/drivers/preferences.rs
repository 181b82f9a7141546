//! What a driver wants: how far off a pick-up may be.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::ids::DriverId;

use super::{relearn, store};
use crate::{
    app::App,
    http::{Command, Path, Problem, ProblemBody, Stop},
    identity::Caller,
};

/// What a driver wants from now on.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, Validate, utoipa::ToSchema)]
pub(super) struct Preferences {
    /// Rides that begin farther away than this, as the crow flies, are not offered; null: the tenant's limit alone.
    #[garde(range(min = 100, max = 100_000))]
    max_pickup_m: Option<u32>,
}

/// Sets what the driver wants.
#[utoipa::path(put, path = "/v1/drivers/{id}/preferences", tag = "drivers", security(("bearer" = [])),
    request_body = Preferences,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = Preferences), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "drivers.preferences", skip_all, fields(driver.id = %id))]
pub(super) async fn set_preferences(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    command: Command<Preferences>,
) -> Result<Response, Stop> {
    let id = caller.driver_is(id)?;
    let wanted = command.body;
    let mut tx = command.begin(&app, &caller).await?;
    if !store::set_max_pickup(&mut tx, id, wanted.max_pickup_m).await? {
        return Err(Problem::not_found(format!("no driver {id}")).into());
    }
    let changed = store::standing(&mut tx, id, app.clock.now()).await?;
    let answer = tx.finish(StatusCode::OK, &wanted).await?;
    relearn(&app, caller.tenant(), id, changed);
    Ok(answer)
}

/// What the driver wants.
#[utoipa::path(get, path = "/v1/drivers/{id}/preferences", tag = "drivers", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = Preferences), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody)))]
pub(super) async fn get_preferences(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
) -> Result<Json<Preferences>, Problem> {
    let id = caller.driver_is(id)?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let terms = store::terms(&mut tx, id).await?.ok_or_else(|| Problem::not_found(format!("no driver {id}")))?;
    Ok(Json(Preferences { max_pickup_m: terms.max_pickup_m }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sqlx::PgPool;

    use crate::testing::TestRegion;

    #[sqlx::test(migrations = "../migrations")]
    async fn a_driver_says_how_far_a_pickup_may_be_and_nobody_else_does(pool: PgPool) {
        let region = TestRegion::new(pool).await;
        let (driver, other, rider) = (region.driver().await, region.driver().await, region.rider().await);
        let path = format!("/v1/drivers/{}/preferences", driver.id);
        assert_eq!(driver.get(&path).await.ok(200), json!({"max_pickup_m": null}));
        let wanted = json!({"max_pickup_m": 2_000});
        assert_eq!(driver.put(&path, wanted.clone()).await.ok(200), wanted);
        assert_eq!(driver.get(&path).await.ok(200), wanted);
        assert_eq!(other.put(&path, wanted.clone()).await.problem(404).code, "not_found");
        assert_eq!(rider.put(&path, wanted).await.problem(403).code, "forbidden");
        let near = json!({"max_pickup_m": 5});
        assert_eq!(driver.put(&path, near).await.problem(422).fields, ["max_pickup_m"]);
        driver.put(&path, json!({"max_pickup_m": null})).await.ok(200);
        assert_eq!(driver.get(&path).await.ok(200), json!({"max_pickup_m": null}));
    }
}
