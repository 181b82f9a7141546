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

/// Lets each driver be under way with a rider; nobody asked for these trips.
pub async fn make_trips(stand: &Stand, drivers: &[Person], riders: &[Person]) -> anyhow::Result<()> {
    let ids = |people: &[Person]| people.iter().map(|person| person.id).collect::<Vec<Uuid>>();
    let rides: Vec<Uuid> = drivers.iter().map(|_| Uuid::now_v7()).collect();
    sqlx::query(
        r#"WITH parties AS (SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS p (ride_id, driver_id, rider_id)),
                rides AS (
             INSERT INTO rides (id, tenant_id, rider_id, driver_id, trip_id, status, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng,
                                vehicle_class, payment_method, quote, pin, requested_at, expires_at, accepted_at, updated_at)
             SELECT ride_id, $4, rider_id, driver_id, ride_id, 'in_progress', 40.73, -73.98, 40.75, -73.99,
                    'standard', '{"type": "cash"}', '{}', '0000', now(), now() + interval '5 minutes', now(), now() FROM parties
             RETURNING id
         )
         INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, arrived_at, started_at, updated_at)
         SELECT ride_id, $4, ride_id, rider_id, driver_id, 'in_progress', now(), now(), now(), now()
         FROM parties JOIN rides ON rides.id = ride_id"#,
    )
    .bind(&rides)
    .bind(ids(drivers))
    .bind(ids(riders))
    .bind(&stand.tenant)
    .execute(&stand.database)
    .await?;
    Ok(())
}
