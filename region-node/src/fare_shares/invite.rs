//! Asking somebody to pay a part of a ride's fare.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::Deserialize;
use shared::{
    ids::{RideId, ShareId},
    money::Money,
};

use super::{FareShare, FareShareError, MAX_SHARES, store, view};
use crate::{
    app::App,
    http::{Command, Path, ProblemBody, Stop},
    identity::{self, Caller},
    payments::AskedAmount,
    rides::{self, MethodType},
};

/// Who is asked to pay, and how much.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct InviteRequest {
    /// Of another rider of the company: digits, with or without a leading +.
    #[garde(pattern(r"^\+?[0-9]{6,15}$"))]
    phone: String,
    /// In the currency of the fare; missing: as much as everybody else of whom no amount is asked.
    #[garde(skip)]
    #[serde(default)]
    amount: Option<AskedAmount>,
}

/// Asks another rider of the company, known by phone, to share the fare of a ride that is not over, up to seven of them. Amounts
/// together stay within the quoted fare; without one, the rest is shared in equal parts, the ride's rider's among them. What is
/// not accepted before the trip ends stays with the ride's rider.
#[utoipa::path(post, path = "/v1/rides/{id}/shares", tag = "fare sharing", security(("bearer" = [])),
    request_body = InviteRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = RideId, Path)),
    responses((status = 201, body = FareShare), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "fare_shares.invite", skip_all, fields(ride.id = %id))]
pub(super) async fn invite_to_share(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RideId>,
    command: Command<InviteRequest>,
) -> Result<Response, Stop> {
    let rider = caller.rider()?;
    let now = app.clock.now();
    let mut tx = command.begin(&app, &caller).await?;
    let ride = rides::lock(&mut tx, id).await?.filter(|ride| ride.rider_id == rider);
    let ride = ride.ok_or(FareShareError::NoSuchRide(id))?;
    if ride.status.is_final() {
        return Err(FareShareError::RideOver(ride.status).into());
    }
    if ride.payment_method.kind == MethodType::Cash {
        return Err(FareShareError::PaidInCash.into());
    }
    let invited = identity::rider_by_phone(&mut tx, &command.body.phone).await?;
    let invited = invited.filter(|invited| *invited != rider).ok_or(FareShareError::NoSuchRider)?;
    let open = store::open_of_ride(&mut tx, id).await?;
    if open.len() >= MAX_SHARES {
        return Err(FareShareError::TooMany.into());
    }
    let quoted = ride.quote.fare().total;
    let asked = command.body.amount.map(|asked| asked.minor_units(quoted.currency)).transpose()?;
    let left = quoted.amount - open.iter().flatten().sum::<i64>();
    if asked.is_some_and(|asked| !(1..=left).contains(&asked)) {
        return Err(FareShareError::TooMuch(Money::new(left, quoted.currency)).into());
    }
    if asked.is_some_and(|asked| asked % quoted.currency.charge_step() != 0) {
        return Err(FareShareError::NotChargeable(quoted.currency.charge_step()).into());
    }
    let share = ShareId::new();
    store::insert(&mut tx, share, id, invited, asked, now).await?;
    let view = view::tell(&mut tx, id, share).await?;
    tracing::info!(share.id = %share, "ride {id} is shared");
    tx.finish(StatusCode::CREATED, &view).await
}
