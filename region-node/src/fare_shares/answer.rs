//! Accepting, declining and withdrawing a share.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::ids::{RiderId, ShareId};

use super::{FareShare, FareShareError, ShareStatus, store, view};
use crate::{
    app::App,
    http::{Command, Empty, Path, ProblemBody, Stop},
    identity::{self, Caller},
    payments,
    rides::{self, MethodType, PaymentMethod},
};

/// How a share will be paid.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct AcceptRequest {
    /// `card`, without a token the rider's usual one, or `wallet`.
    #[garde(skip)]
    method: PaymentMethod,
}

/// Accepts a share until the trip ends; it is charged then, and shown by `payment`. Should that be declined, or
/// his wallet hold too little by then, the ride's rider is charged instead.
#[utoipa::path(post, path = "/v1/shares/{id}/accept", tag = "fare sharing", security(("bearer" = [])),
    request_body = AcceptRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = ShareId, Path)),
    responses((status = 200, body = FareShare), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
              (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "fare_shares.accept", skip_all, fields(share.id = %id))]
pub(super) async fn accept_share(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ShareId>,
    command: Command<AcceptRequest>,
) -> Result<Response, Stop> {
    let PaymentMethod { kind, token } = &command.body.method;
    let token = match kind {
        MethodType::Cash => return Err(FareShareError::ShareInCash.into()),
        MethodType::Wallet => None,
        MethodType::Card => {
            let published = app.tenants.config(caller.tenant()).await?;
            Some(payments::usable_token(&app, &published.config.psp, &caller, token.as_deref())?)
        }
    };
    let method = PaymentMethod { kind: *kind, token };
    step(&app, &caller, id, &command, Party::Invited, ShareStatus::Accepted, Some(&method)).await
}

/// Declines a share, even one that was accepted, until the trip ends; the ride's rider pays it then.
#[utoipa::path(post, path = "/v1/shares/{id}/decline", tag = "fare sharing", security(("bearer" = [])), request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = ShareId, Path)),
    responses((status = 200, body = FareShare), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "fare_shares.decline", skip_all, fields(share.id = %id))]
pub(super) async fn decline_share(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ShareId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    step(&app, &caller, id, &command, Party::Invited, ShareStatus::Declined, None).await
}

/// Takes a share back, by the ride's rider, until the trip ends.
#[utoipa::path(post, path = "/v1/shares/{id}/withdraw", tag = "fare sharing", security(("bearer" = [])), request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = ShareId, Path)),
    responses((status = 200, body = FareShare), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "fare_shares.withdraw", skip_all, fields(share.id = %id))]
pub(super) async fn withdraw_share(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ShareId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    step(&app, &caller, id, &command, Party::RideRider, ShareStatus::Withdrawn, None).await
}

/// Whose step it is.
#[derive(Clone, Copy)]
enum Party {
    Invited,
    RideRider,
}

async fn step<T>(
    app: &App,
    caller: &Caller,
    id: ShareId,
    command: &Command<T>,
    party: Party,
    next: ShareStatus,
    method: Option<&PaymentMethod>,
) -> Result<Response, Stop> {
    let rider = caller.rider()?;
    let mut tx = command.begin(app, caller).await?;
    let not_found = || FareShareError::NotFound(id);
    let parties = store::parties(&mut tx, id).await?.ok_or_else(not_found)?;
    let may: RiderId = match party {
        Party::Invited => parties.invited,
        Party::RideRider => parties.ride_rider,
    };
    if may != rider {
        return Err(not_found().into());
    }
    let ride = rides::lock(&mut tx, parties.ride_id).await?.ok_or_else(not_found)?;
    if ride.status.is_final() {
        return Err(FareShareError::RideOver(ride.status).into());
    }
    if !identity::hold_rider(&mut tx, parties.invited).await? && next == ShareStatus::Accepted {
        return Err(FareShareError::Erased.into());
    }
    let from = store::hold(&mut tx, id).await?.ok_or_else(not_found)?;
    if !from.may_become(next) {
        return Err(FareShareError::InvalidTransition { from, to: next }.into());
    }
    store::answer(&mut tx, id, next, method, app.clock.now()).await?;
    let view = view::tell(&mut tx, ride.id, id).await?;
    tracing::info!(share.id = %id, "share {id} is {next}");
    tx.finish(StatusCode::OK, &view).await
}
