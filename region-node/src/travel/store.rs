//! All SQL of travel times.

use shared::geo::Point;
use time::OffsetDateTime;

use super::DrivenTrip;
use crate::db::TenantTx;

/// The tenant's trips driven since `since`, at most `most`, the newest first.
pub(super) async fn driven_trips(tx: &mut TenantTx, since: OffsetDateTime, most: u32) -> sqlx::Result<Vec<DrivenTrip>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        r#"SELECT r.pickup_lat, r.pickup_lng, r.dropoff_lat, r.dropoff_lng, t.started_at AS "started_at!",
                  t.duration_s - t.paused_s AS "driving_s!"
           FROM trips t JOIN rides r ON r.id = t.ride_id
           WHERE t.tenant_id = $1 AND t.status = 'completed' AND t.started_at > $2 AND t.duration_s > t.paused_s
           ORDER BY t.started_at DESC LIMIT $3"#,
        tenant.as_str(),
        since,
        i64::from(most)
    )
    .fetch_all(tx.conn())
    .await?;
    let trips = rows.into_iter().map(|row| DrivenTrip {
        from: Point::new(row.pickup_lat, row.pickup_lng),
        to: Point::new(row.dropoff_lat, row.dropoff_lng),
        began_at: row.started_at,
        driving_s: row.driving_s as f64,
    });
    Ok(trips.collect())
}
