//! Riders and drivers by the thousand, put straight into the database: registering them is not what is measured.

use uuid::Uuid;

use super::Stand;

/// A rider or a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    pub id: Uuid,
    /// As in tokens.
    pub role: &'static str,
}

/// Makes drivers who are online; nobody knows where.
pub async fn make_drivers(stand: &Stand, count: usize) -> anyhow::Result<Vec<Person>> {
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    sqlx::query(
        "WITH made AS (
             INSERT INTO drivers (id, tenant_id, vehicle_class, vehicle_plate, vehicle_model, vehicle_seats, status, created_at)
             SELECT id, $2, 'standard', 'BENCH', 'Crown Victoria', 4, 'online', now() FROM unnest($1::uuid[]) AS id
             RETURNING id
         )
         INSERT INTO driver_records (driver_id, tenant_id, accepted, refused, earned, as_of, idle_since)
         SELECT id, $2, 0, 0, 0, now(), now() FROM made",
    )
    .bind(&ids)
    .bind(&stand.tenant)
    .execute(&stand.database)
    .await?;
    Ok(ids.into_iter().map(|id| Person { id, role: "driver" }).collect())
}

/// Makes riders.
pub async fn make_riders(stand: &Stand, count: usize) -> anyhow::Result<Vec<Person>> {
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    sqlx::query("INSERT INTO riders (id, tenant_id, created_at) SELECT id, $2, now() FROM unnest($1::uuid[]) AS id")
        .bind(&ids)
        .bind(&stand.tenant)
        .execute(&stand.database)
        .await?;
    Ok(ids.into_iter().map(|id| Person { id, role: "rider" }).collect())
}
