//! `POST /v1/tenants/{id}/rehome/cancel`: lets a tenant stay where it is.

use axum::{extract::State, http::StatusCode, response::Response};
use shared::{ids::TenantId, problem::Code};

use super::{MoveView, store};
use crate::{
    app::App,
    http::{Command, Empty, Path, Problem, ProblemBody, Stop},
    identity::Operator,
};

/// Cancels a planned move, unless the home is handed over already: then there is nothing to cancel. What was copied is erased.
#[utoipa::path(post, path = "/v1/tenants/{id}/rehome/cancel", tag = "tenants", security(("bearer" = [])),
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = MoveView), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "moves.cancel", skip_all, fields(tenant = id))]
pub(super) async fn cancel_move(
    State(app): State<App>,
    operator: Operator,
    Path(id): Path<String>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    let none = || Problem::new(Code::NotFound, format!("no move of '{}' is left to be cancelled", id.escape_default()));
    let tenant: TenantId = id.parse().map_err(|_| none())?;
    let mut tx = command.begin_of_operator(&app, &tenant, &operator).await?;
    let id = store::cancel(&mut tx, &operator.client_id).await?.ok_or_else(none)?;
    let moving = store::list(tx.conn(), None, Some(id)).await?.pop().ok_or_else(none)?;
    tracing::info!(
        audit.by = operator.client_id,
        audit.deed = "tenant.rehome.cancel",
        "the move of {tenant} is cancelled"
    );
    tx.finish(StatusCode::ACCEPTED, &moving).await
}
