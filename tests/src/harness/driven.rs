use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

/// Who drove whom, for whom.
#[derive(Clone, Copy, Debug)]
pub struct Drives<'a> {
    pub tenant: &'a str,
    pub currency: &'a str,
    pub rider: Uuid,
    pub driver: Uuid,
}

impl Drives<'_> {
    /// Trips that were driven and not paid, one for each fare (total and the tax in it, minor units), written as the end of a
    /// drive leaves them: where paying is the subject, nobody need drive. `conn` is a superuser's.
    pub async fn driven(self, conn: &mut PgConnection, fares: &[(i64, i64)]) -> sqlx::Result<Vec<Uuid>> {
        let trips: Vec<Uuid> = fares.iter().map(|_| Uuid::now_v7()).collect();
        let rides: Vec<Uuid> = fares.iter().map(|_| Uuid::now_v7()).collect();
        let totals: Vec<i64> = fares.iter().map(|(total, _)| *total).collect();
        let money = |amount: i64| json!({"amount": amount, "currency": self.currency});
        let line = |code: &str, amount: i64| json!({"code": code, "description": code, "amount": money(amount)});
        let fare = |(total, tax): &(i64, i64)| {
            json!({"total": money(*total), "lines": [line("base", total - tax), line("tax", *tax)], "tariff_version": 1,
                "surge_multiplier": 1.0, "quoted": true})
        };
        let place = json!({"lat": 40.7, "lng": -74.0});
        let quote = json!({"rider_id": self.rider, "pickup": place, "dropoff": place, "vehicle_class": "standard",
            "tariff_version": 1, "tariff": {}, "surge": 1.0, "currency": self.currency, "distance_m": 1000, "duration_s": 100,
            "reprice_percent": 150, "expires_at": 0});
        sqlx::query(
            "WITH driven AS (
                 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::jsonb[]) AS d (ride, trip, total, fare)
             ), ridden AS (
                 INSERT INTO rides (id, tenant_id, rider_id, driver_id, trip_id, status, pickup_lat, pickup_lng, dropoff_lat,
                     dropoff_lng, vehicle_class, payment_method, quote, pin, requested_at, expires_at, updated_at)
                 SELECT ride, $5, $6, $7, trip, 'completed', 40.7, -74, 40.7, -74, 'standard', '{\"type\": \"card\"}', $8,
                     '0000', now(), now(), now() FROM driven
             )
             INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, fare_amount, fare_currency,
                 fare, updated_at)
             SELECT trip, $5, ride, $6, $7, 'completed', now(), total, $9, fare, now() FROM driven",
        )
        .bind(&rides)
        .bind(&trips)
        .bind(&totals)
        .bind(fares.iter().map(fare).collect::<Vec<_>>())
        .bind(self.tenant)
        .bind(self.rider)
        .bind(self.driver)
        .bind(quote)
        .bind(self.currency)
        .execute(conn)
        .await?;
        Ok(trips)
    }
}
