//! All SQL of accounts. Names and phones are sealed; what others may see of somebody is a first name and a vehicle.

use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::ids::{DriverId, RiderId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Sealer;
use crate::db::TenantTx;

/// What a driver drives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Validate, utoipa::ToSchema)]
pub struct Vehicle {
    /// One of the tenant's vehicle classes.
    #[garde(length(min = 1, max = 30))]
    pub class: String,
    /// Number plate.
    #[garde(length(min = 1, max = 20))]
    pub plate: String,
    /// Maker and model.
    #[garde(length(min = 1, max = 60))]
    pub model: String,
    /// Passengers it takes.
    #[garde(range(min = 1, max = 60))]
    pub seats: i16,
}

/// What a rider sees of their driver.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DriverProfile {
    /// First name.
    pub name: String,
    /// What to look for in the street.
    pub vehicle: Vehicle,
    /// Mean of the stars given; missing before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rating: Option<f64>,
}

/// Which table an account is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rider,
    Driver,
}

/// What sign-in needs of an account.
pub(super) struct Credential {
    pub(super) id: Uuid,
    pub(super) password_hash: Option<String>,
}

pub(super) fn phone_hash(sealer: &Sealer, tx: &TenantTx, phone: &str) -> Vec<u8> {
    sealer.sign(&format!("phone/{}", tx.tenant()), phone.as_bytes()).to_vec()
}

/// A new account's fields besides its kind.
pub(super) struct NewAccount<'a> {
    pub(super) id: Uuid,
    pub(super) name: &'a str,
    pub(super) phone: &'a str,
    pub(super) password_hash: &'a str,
    pub(super) now: OffsetDateTime,
}

pub(super) async fn insert_rider(tx: &mut TenantTx, sealer: &Sealer, account: NewAccount<'_>) -> sqlx::Result<()> {
    let (tenant, hash) = (tx.tenant().clone(), phone_hash(sealer, tx, account.phone));
    sqlx::query!(
        "INSERT INTO riders (id, tenant_id, sealed_name, sealed_phone, phone_hash, password_hash, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        account.id,
        tenant.as_str(),
        sealer.seal(&context(account.id, "name"), account.name.as_bytes()),
        sealer.seal(&context(account.id, "phone"), account.phone.as_bytes()),
        hash,
        account.password_hash,
        account.now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub(super) async fn insert_driver(
    tx: &mut TenantTx,
    sealer: &Sealer,
    account: NewAccount<'_>,
    vehicle: &Vehicle,
) -> sqlx::Result<()> {
    let (tenant, hash) = (tx.tenant().clone(), phone_hash(sealer, tx, account.phone));
    sqlx::query!(
        "INSERT INTO drivers (id, tenant_id, sealed_name, sealed_phone, phone_hash, password_hash, created_at,
                              vehicle_class, vehicle_plate, vehicle_model, vehicle_seats)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        account.id,
        tenant.as_str(),
        sealer.seal(&context(account.id, "name"), account.name.as_bytes()),
        sealer.seal(&context(account.id, "phone"), account.phone.as_bytes()),
        hash,
        account.password_hash,
        account.now,
        vehicle.class,
        vehicle.plate,
        vehicle.model,
        vehicle.seats
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub(super) async fn credential(
    tx: &mut TenantTx,
    sealer: &Sealer,
    kind: Kind,
    phone: &str,
) -> sqlx::Result<Option<Credential>> {
    let hash = phone_hash(sealer, tx, phone);
    match kind {
        Kind::Rider => {
            sqlx::query_as!(Credential, "SELECT id, password_hash FROM riders WHERE phone_hash = $1", hash)
                .fetch_optional(tx.conn())
                .await
        }
        Kind::Driver => {
            sqlx::query_as!(Credential, "SELECT id, password_hash FROM drivers WHERE phone_hash = $1", hash)
                .fetch_optional(tx.conn())
                .await
        }
    }
}

/// What a rider may see of `driver`; `None` if there is no such driver.
pub async fn driver_profile(
    tx: &mut TenantTx,
    sealer: &Sealer,
    driver: DriverId,
) -> sqlx::Result<Option<DriverProfile>> {
    let row = sqlx::query!(
        "SELECT sealed_name, vehicle_class, vehicle_plate, vehicle_model, vehicle_seats, rating_sum, rating_count
         FROM drivers WHERE id = $1",
        driver.0
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| DriverProfile {
        name: open_first_name(sealer, driver.0, row.sealed_name.as_deref()),
        vehicle: Vehicle {
            class: row.vehicle_class,
            plate: row.vehicle_plate,
            model: row.vehicle_model,
            seats: row.vehicle_seats,
        },
        rating: (row.rating_count > 0).then(|| {
            let mean = row.rating_sum as f64 / row.rating_count as f64;
            (mean * 100.0).round() / 100.0
        }),
    }))
}

/// What a driver may see of `rider`; `None` if there is no such rider.
pub async fn rider_first_name(tx: &mut TenantTx, sealer: &Sealer, rider: RiderId) -> sqlx::Result<Option<String>> {
    let row = sqlx::query!("SELECT sealed_name FROM riders WHERE id = $1", rider.0).fetch_optional(tx.conn()).await?;
    Ok(row.map(|row| open_first_name(sealer, rider.0, row.sealed_name.as_deref())))
}

/// Empties the personal data of an account and ends its sessions; `false` if there is none.
pub(super) async fn erase(tx: &mut TenantTx, kind: Kind, id: Uuid, now: OffsetDateTime) -> sqlx::Result<bool> {
    let erased = match kind {
        Kind::Rider => {
            sqlx::query!(
                "UPDATE riders SET sealed_name = NULL, sealed_phone = NULL, phone_hash = NULL, password_hash = NULL,
                 erased_at = coalesce(erased_at, $2) WHERE id = $1",
                id,
                now
            )
            .execute(tx.conn())
            .await?
        }
        Kind::Driver => {
            sqlx::query!(
                "UPDATE drivers SET sealed_name = NULL, sealed_phone = NULL, phone_hash = NULL, password_hash = NULL,
                 status = 'offline', lat = NULL, lng = NULL, located_at = NULL, vehicle_plate = '', vehicle_model = '',
                 erased_at = coalesce(erased_at, $2) WHERE id = $1",
                id,
                now
            )
            .execute(tx.conn())
            .await?
        }
    };
    sqlx::query!("DELETE FROM refresh_tokens WHERE subject = $1", id.to_string()).execute(tx.conn()).await?;
    Ok(erased.rows_affected() == 1)
}

/// Whether the account has a ride or trip that is not over.
pub(super) async fn has_open_ride(tx: &mut TenantTx, id: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM rides WHERE (rider_id = $1 OR driver_id = $1)
               AND status IN ('requested', 'offered', 'accepted', 'arrived', 'in_progress')) AS "open!""#,
        id
    )
    .fetch_one(tx.conn())
    .await
}

fn context(id: Uuid, field: &str) -> String {
    format!("account/{id}/{field}")
}

fn open_first_name(sealer: &Sealer, id: Uuid, sealed: Option<&[u8]>) -> String {
    let name = sealed.and_then(|sealed| sealer.open(&context(id, "name"), sealed));
    let name = name.and_then(|name| String::from_utf8(name).ok()).unwrap_or_default();
    name.split_whitespace().next().unwrap_or_default().to_owned()
}
