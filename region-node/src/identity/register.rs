//! Registration of riders and drivers.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    ids::{DriverId, RiderId, TenantId},
    problem::Code,
};
use time::OffsetDateTime;

use super::{Vehicle, accounts, hash_secret};
use crate::{
    app::App,
    db::constraint,
    http::{Command, Problem, ProblemBody, Stop},
    tenants::{PublishedConfig, TenantHeader},
};

/// A new rider.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct NewRider {
    #[garde(length(chars, min = 1, max = 80))]
    name: String,
    /// Digits, with or without a leading +; found again by the same digits.
    #[garde(pattern(r"^\+?[0-9]{6,15}$"))]
    phone: String,
    #[garde(length(chars, min = 8, max = 128))]
    password: String,
}

/// A new driver.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct NewDriver {
    #[garde(length(chars, min = 1, max = 80))]
    name: String,
    /// Digits, with or without a leading +; found again by the same digits.
    #[garde(pattern(r"^\+?[0-9]{6,15}$"))]
    phone: String,
    #[garde(length(chars, min = 8, max = 128))]
    password: String,
    #[garde(dive)]
    vehicle: Vehicle,
}

/// A rider's account.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RiderAccount {
    id: RiderId,
    tenant: TenantId,
    name: String,
    phone: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

/// A driver's account.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DriverAccount {
    id: DriverId,
    tenant: TenantId,
    name: String,
    phone: String,
    vehicle: Vehicle,
    status: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

/// Registers a rider.
#[utoipa::path(post, path = "/v1/riders", tag = "identity", request_body = NewRider,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = RiderAccount), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "identity.register_rider", skip_all)]
pub(super) async fn register_rider(
    State(app): State<App>,
    TenantHeader(tenant): TenantHeader,
    command: Command<NewRider>,
) -> Result<Response, Stop> {
    let published = app.tenants.config(&tenant).await?;
    let password_hash = hash_secret(&command.body.password).await?;
    let mut tx = command.begin_unknown(&app, &tenant).await?;
    may_sign_up(&published, &tenant)?;
    let NewRider { name, phone, .. } = &command.body;
    let (id, now) = (RiderId::new(), app.clock.now());
    let account = accounts::NewAccount { id: id.0, name, phone, password_hash: &password_hash, now };
    accounts::insert_rider(&mut tx, account).await.map_err(phone_taken)?;
    tx.tells_of(id.0);
    let account = RiderAccount { id, tenant, name: name.clone(), phone: phone.clone(), created_at: now };
    tx.finish(StatusCode::CREATED, &account).await
}

/// Registers a driver with a vehicle; he starts offline.
#[utoipa::path(post, path = "/v1/drivers", tag = "identity", request_body = NewDriver,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = DriverAccount), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "identity.register_driver", skip_all)]
pub(super) async fn register_driver(
    State(app): State<App>,
    TenantHeader(tenant): TenantHeader,
    command: Command<NewDriver>,
) -> Result<Response, Stop> {
    let NewDriver { name, phone, vehicle, .. } = &command.body;
    let published = app.tenants.config(&tenant).await?;
    let password_hash = hash_secret(&command.body.password).await?;
    let mut tx = command.begin_unknown(&app, &tenant).await?;
    may_sign_up(&published, &tenant)?;
    let classes = &published.config.vehicle_classes;
    if !classes.contains(&vehicle.class) {
        let known = classes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Problem::field("vehicle.class", format!("must be one of: {known}")).into());
    }
    let (id, now) = (DriverId::new(), app.clock.now());
    let account = accounts::NewAccount { id: id.0, name, phone, password_hash: &password_hash, now };
    accounts::insert_driver(&mut tx, account, vehicle).await.map_err(phone_taken)?;
    tx.tells_of(id.0);
    let account = DriverAccount {
        id,
        tenant,
        name: name.clone(),
        phone: phone.clone(),
        vehicle: vehicle.clone(),
        status: "offline",
        created_at: now,
    };
    tx.finish(StatusCode::CREATED, &account).await
}

/// Checked once it is known that the request is new: an answer given before is given again, whatever has changed since.
fn may_sign_up(published: &PublishedConfig, tenant: &TenantId) -> Result<(), Problem> {
    match published.config.flags.sign_up {
        true => Ok(()),
        false => Err(Problem::new(Code::FeatureDisabled, format!("{tenant} takes no new accounts right now"))),
    }
}

fn phone_taken(error: sqlx::Error) -> Problem {
    match constraint(&error) {
        Some("one_rider_per_phone" | "one_driver_per_phone") => {
            Problem::new(Code::AlreadyExists, "this phone has an account already; sign in instead")
        }
        _ => error.into(),
    }
}
