//! All SQL of accounts. Names and phones are sealed; what others may see of somebody is a first name and a vehicle.

use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    claims::Role,
    ids::{DriverId, RiderId},
};
use sqlx::PgConnection;
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

impl Kind {
    /// The kind of account a role has; back offices and operators have none.
    pub(super) fn of(role: Role) -> Option<Self> {
        match role {
            Role::Rider => Some(Self::Rider),
            Role::Driver => Some(Self::Driver),
            Role::TenantAdmin | Role::Operator => None,
        }
    }

    pub(super) fn role(self) -> Role {
        match self {
            Self::Rider => Role::Rider,
            Self::Driver => Role::Driver,
        }
    }
}

/// What sign-in needs of an account.
pub(super) struct Credential {
    pub(super) id: Uuid,
    pub(super) password_hash: Option<String>,
}

/// Finds a phone by its digits: with or without a leading + it is one account.
fn phone_hash(sealer: &Sealer, tx: &TenantTx, phone: &str) -> Vec<u8> {
    let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
    sealer.sign(&format!("phone/{}", tx.tenant()), digits.as_bytes()).to_vec()
}

/// A new account's fields besides its kind.
pub(super) struct NewAccount<'a> {
    pub(super) id: Uuid,
    pub(super) name: &'a str,
    pub(super) phone: &'a str,
    pub(super) password_hash: &'a str,
    pub(super) now: OffsetDateTime,
}

pub(super) async fn insert_rider(tx: &mut TenantTx, account: NewAccount<'_>) -> sqlx::Result<()> {
    let sealer = tx.sealer().await?;
    let (tenant, hash) = (tx.tenant().clone(), phone_hash(&sealer, tx, account.phone));
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

pub(super) async fn insert_driver(tx: &mut TenantTx, account: NewAccount<'_>, vehicle: &Vehicle) -> sqlx::Result<()> {
    let sealer = tx.sealer().await?;
    let (tenant, hash) = (tx.tenant().clone(), phone_hash(&sealer, tx, account.phone));
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

pub(super) async fn credential(tx: &mut TenantTx, kind: Kind, phone: &str) -> sqlx::Result<Option<Credential>> {
    let sealer = tx.sealer().await?;
    let hash = phone_hash(&sealer, tx, phone);
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

fn mean_rating(sum: i64, count: i64) -> Option<f64> {
    (count > 0).then(|| (sum as f64 / count as f64 * 100.0).round() / 100.0)
}

/// Both parties of a ride as their rows hold them, still sealed.
pub struct SealedParties {
    pub driver_name: Option<Vec<u8>>,
    pub vehicle_class: String,
    pub vehicle_plate: String,
    pub vehicle_model: String,
    pub vehicle_seats: i16,
    pub rating_sum: i64,
    pub rating_count: i64,
    pub rider_name: Option<Vec<u8>>,
}

impl SealedParties {
    /// Opens what they may see of each other, as [`parties`] tells it.
    pub fn open(self, sealer: &Sealer, driver: DriverId, rider: RiderId) -> (DriverProfile, String) {
        let vehicle = Vehicle {
            class: self.vehicle_class,
            plate: self.vehicle_plate,
            model: self.vehicle_model,
            seats: self.vehicle_seats,
        };
        let name = open_first_name(sealer, driver.0, self.driver_name.as_deref());
        let profile = DriverProfile { name, vehicle, rating: mean_rating(self.rating_sum, self.rating_count) };
        (profile, open_first_name(sealer, rider.0, self.rider_name.as_deref()))
    }
}

/// The rider who has this phone.
pub async fn rider_by_phone(tx: &mut TenantTx, phone: &str) -> sqlx::Result<Option<RiderId>> {
    let sealer = tx.sealer().await?;
    let hash = phone_hash(&sealer, tx, phone);
    let id = sqlx::query_scalar!("SELECT id FROM riders WHERE phone_hash = $1", hash);
    Ok(id.fetch_optional(tx.conn()).await?.map(RiderId))
}

/// Whether a rider is not erased, which he stays until the transaction ends.
pub async fn hold_rider(tx: &mut TenantTx, id: RiderId) -> sqlx::Result<bool> {
    hold_live(tx.conn(), Kind::Rider, id.0).await
}

/// A rider's first name, as others may know it; empty once he is erased.
pub fn first_name(sealer: &Sealer, id: RiderId, sealed: Option<&[u8]>) -> String {
    open_first_name(sealer, id.0, sealed)
}

/// What a rider may see of his driver, and the name by which the driver knows the rider. Accounts are erased, never removed, so
/// there are both or neither.
pub async fn parties(
    tx: &mut TenantTx,
    driver: DriverId,
    rider: RiderId,
) -> sqlx::Result<Option<(DriverProfile, String)>> {
    let sealed = sqlx::query_as!(
        SealedParties,
        r#"SELECT d.sealed_name AS driver_name, d.vehicle_class, d.vehicle_plate, d.vehicle_model, d.vehicle_seats, d.rating_sum,
                  d.rating_count, r.sealed_name AS rider_name
           FROM drivers d, riders r WHERE d.id = $1 AND r.id = $2"#,
        driver.0,
        rider.0
    );
    let Some(sealed) = sealed.fetch_optional(tx.conn()).await? else { return Ok(None) };
    Ok(Some(sealed.open(&tx.sealer().await?, driver, rider)))
}

/// Holds an account's row, so that no ride of it begins until the transaction ends; `None` if there is no such account.
/// When it was erased, if it was.
pub(super) async fn lock(tx: &mut TenantTx, kind: Kind, id: Uuid) -> sqlx::Result<Option<Option<OffsetDateTime>>> {
    match kind {
        Kind::Rider => {
            sqlx::query_scalar!("SELECT erased_at FROM riders WHERE id = $1 FOR UPDATE", id)
                .fetch_optional(tx.conn())
                .await
        }
        Kind::Driver => {
            sqlx::query_scalar!("SELECT erased_at FROM drivers WHERE id = $1 FOR UPDATE", id)
                .fetch_optional(tx.conn())
                .await
        }
    }
}

/// Whether an account may have a session; if so it is not erased before the transaction ends.
pub(super) async fn hold_live(conn: &mut PgConnection, kind: Kind, id: Uuid) -> sqlx::Result<bool> {
    let held = match kind {
        Kind::Rider => {
            sqlx::query_scalar!("SELECT id FROM riders WHERE id = $1 AND erased_at IS NULL FOR KEY SHARE", id)
                .fetch_optional(conn)
                .await?
        }
        Kind::Driver => {
            sqlx::query_scalar!("SELECT id FROM drivers WHERE id = $1 AND erased_at IS NULL FOR KEY SHARE", id)
                .fetch_optional(conn)
                .await?
        }
    };
    Ok(held.is_some())
}

/// Empties the personal data of an account, ends its sessions, and clears what its rides say in free text or as a place it
/// was at. What money moved, and for which trip, stays.
pub(super) async fn erase(tx: &mut TenantTx, kind: Kind, id: Uuid, now: OffsetDateTime) -> sqlx::Result<()> {
    match kind {
        Kind::Rider => {
            sqlx::query!(
                "UPDATE riders SET sealed_name = NULL, sealed_phone = NULL, phone_hash = NULL, password_hash = NULL,
                 erased_at = $2 WHERE id = $1",
                id,
                now
            )
            .execute(tx.conn())
            .await?;
            // What he has not paid of others' fares their riders do; what he has accepted is not held by their rides here, so
            // this comes after he is (fare_shares/mod.rs).
            sqlx::query!(
                "UPDATE fare_shares SET status = 'declined', method = NULL, answered_at = $2, updated_at = $2
                 WHERE rider_id = $1 AND status IN ('invited', 'accepted')",
                id,
                now
            )
            .execute(tx.conn())
            .await?;
            erase_means_of_payment(tx, id).await?;
            sqlx::query!("UPDATE rides SET pickup_address = NULL, dropoff_address = NULL WHERE rider_id = $1", id)
                .execute(tx.conn())
                .await?;
        }
        Kind::Driver => {
            sqlx::query!(
                "UPDATE drivers SET sealed_name = NULL, sealed_phone = NULL, phone_hash = NULL, password_hash = NULL,
                 status = 'offline', vehicle_plate = '', vehicle_model = '', documents = '{}',
                 max_pickup_m = NULL, erased_at = $2 WHERE id = $1",
                id,
                now
            )
            .execute(tx.conn())
            .await?;
            sqlx::query!("DELETE FROM driver_records WHERE driver_id = $1", id).execute(tx.conn()).await?;
            sqlx::query!("DELETE FROM driver_places WHERE driver_id = $1", id).execute(tx.conn()).await?;
        }
    }
    let trips = sqlx::query_scalar!(
        r#"UPDATE rides SET cancel_reason = NULL WHERE rider_id = $1 OR driver_id = $1 RETURNING trip_id"#,
        id
    )
    .fetch_all(tx.conn())
    .await?;
    let trips: Vec<_> = trips.into_iter().flatten().collect();
    sqlx::query!("UPDATE ratings SET comment = NULL WHERE trip_id = ANY($1)", &trips).execute(tx.conn()).await?;
    sqlx::query!("DELETE FROM breadcrumbs WHERE trip_id = ANY($1)", &trips).execute(tx.conn()).await?;
    sqlx::query!("DELETE FROM refresh_tokens WHERE subject = $1", id.to_string()).execute(tx.conn()).await?;
    Ok(())
}

/// Forgets the cards of what is paid, or never will be. One that is still to be charged stays until it is: so does a ride's while
/// a share of its fare may fall back to it.
async fn erase_means_of_payment(tx: &mut TenantTx, rider: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE rides r SET payment_method = payment_method - 'token'
         WHERE rider_id = $1 AND payment_method ? 'token' AND (status IN ('cancelled', 'expired') OR EXISTS (
             SELECT FROM payments p WHERE p.tenant_id = r.tenant_id AND p.trip_id = r.trip_id
             AND p.kind <> 'tip' AND p.share_id IS NULL AND p.status IN ('settled', 'refunded', 'partially_refunded'))
             AND NOT EXISTS (SELECT FROM payments p WHERE p.tenant_id = r.tenant_id AND p.trip_id = r.trip_id
                             AND p.share_id IS NOT NULL AND p.status IN ('pending', 'authorized', 'unknown')))",
        rider
    )
    .execute(tx.conn())
    .await?;
    // By the top-ups' index and by that of trips: payments have none by rider.
    sqlx::query!(
        "UPDATE payments SET method = method - 'token'
         WHERE rider_id = $1 AND kind = 'top_up'
             AND status IN ('settled', 'refunded', 'partially_refunded', 'failed') AND method ? 'token'",
        rider
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!(
        "UPDATE payments SET method = method - 'token'
         WHERE rider_id = $1 AND trip_id = ANY(ARRAY(
                 SELECT trip_id FROM rides WHERE rider_id = $1
                 UNION ALL
                 SELECT r.trip_id FROM fare_shares s JOIN rides r ON r.id = s.ride_id WHERE s.rider_id = $1))
             AND status IN ('settled', 'refunded', 'partially_refunded', 'failed') AND method ? 'token'",
        rider
    )
    .execute(tx.conn())
    .await?;
    Ok(())
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
