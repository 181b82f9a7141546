//! All SQL of zones' queues.

use shared::ids::{DriverId, OfferId};
use time::OffsetDateTime;

use super::queue::Waiting;
use crate::db::TenantTx;

/// Whether this transaction is the one that writes who comes and goes, until it ends.
pub(super) async fn may_write(tx: &mut TenantTx) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let may_write = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock(hashtextextended('zones:' || $1, 0)) AS "may_write!""#,
        tenant.as_str()
    );
    may_write.fetch_one(tx.conn()).await
}

/// All who wait, in the order in which they are asked.
pub async fn queue(tx: &mut TenantTx) -> sqlx::Result<Vec<Waiting>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        "SELECT q.driver_id, q.zone_id, d.vehicle_class, q.entered_at, q.away_since, q.declines
         FROM zone_queue q JOIN drivers d ON d.id = q.driver_id
         WHERE q.tenant_id = $1 ORDER BY q.entered_at, q.driver_id",
        tenant.as_str()
    )
    .fetch_all(tx.conn())
    .await?;
    let waiting = rows.into_iter().map(|row| Waiting {
        driver_id: DriverId(row.driver_id),
        zone_id: row.zone_id,
        vehicle_class: row.vehicle_class,
        entered_at: row.entered_at,
        away_since: row.away_since,
        declines: row.declines,
    });
    Ok(waiting.collect())
}

/// Lets drivers join at the end, those who are online and on no trip.
pub(super) async fn join(tx: &mut TenantTx, drivers: &[(DriverId, String)], now: OffsetDateTime) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let ids: Vec<_> = drivers.iter().map(|(id, _)| id.0).collect();
    let zones: Vec<_> = drivers.iter().map(|(_, zone)| zone.clone()).collect();
    // The driver's row is held: who goes offline meanwhile finds his place and leaves it.
    sqlx::query!(
        "INSERT INTO zone_queue (driver_id, tenant_id, zone_id, entered_at)
         SELECT d.id, $1, n.zone_id, $4 FROM unnest($2::uuid[], $3::text[]) AS n (driver_id, zone_id)
         JOIN drivers d ON d.id = n.driver_id AND d.status = 'online' AND d.erased_at IS NULL
         WHERE NOT EXISTS (
             SELECT FROM trips t WHERE t.tenant_id = $1 AND t.driver_id = n.driver_id
               AND t.status IN ('accepted', 'arrived', 'in_progress', 'paused') AND t.after_trip_id IS NULL
         )
         ORDER BY d.id FOR SHARE OF d
         ON CONFLICT DO NOTHING",
        tenant.as_str(),
        &ids,
        &zones,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Takes drivers out.
pub(super) async fn leave(tx: &mut TenantTx, drivers: &[DriverId]) -> sqlx::Result<()> {
    let ids: Vec<_> = drivers.iter().map(|id| id.0).collect();
    sqlx::query!("DELETE FROM zone_queue WHERE driver_id = ANY($1)", &ids).execute(tx.conn()).await?;
    Ok(())
}

/// Notes since when drivers are away, or that they are back.
pub(super) async fn set_away(
    tx: &mut TenantTx,
    drivers: &[DriverId],
    since: Option<OffsetDateTime>,
) -> sqlx::Result<()> {
    let ids: Vec<_> = drivers.iter().map(|id| id.0).collect();
    sqlx::query!("UPDATE zone_queue SET away_since = $2 WHERE driver_id = ANY($1)", &ids, since)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Counts refused offers of a queue; who has refused as many as his zone allows now begins at the end again.
pub(super) async fn count_refusals(
    tx: &mut TenantTx,
    offers: &[OfferId],
    limits: &[(&str, u32)],
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let offers: Vec<_> = offers.iter().map(|id| id.0).collect();
    let zones: Vec<_> = limits.iter().map(|(zone, _)| (*zone).to_owned()).collect();
    let limits: Vec<_> = limits.iter().map(|(_, most)| i32::try_from(*most).unwrap_or(i32::MAX)).collect();
    sqlx::query!(
        "UPDATE zone_queue q
         SET declines = CASE WHEN l.most > 0 AND q.declines + 1 >= l.most THEN 0 ELSE q.declines + 1 END,
             entered_at = CASE WHEN l.most > 0 AND q.declines + 1 >= l.most THEN $4 ELSE q.entered_at END
         FROM offers o, unnest($2::text[], $3::int[]) AS l (zone_id, most)
         WHERE o.id = ANY($1) AND q.driver_id = o.driver_id AND q.zone_id = o.zone_id AND l.zone_id = q.zone_id",
        &offers,
        &zones,
        &limits,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
