//! All SQL of surge.

use std::collections::BTreeMap;

use shared::geo::Point;
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::{
    db::TenantTx,
    pricing::{SurgeCell, SurgeKey},
};

/// What was computed last.
pub(super) struct Computed {
    pub(super) computed_at: OffsetDateTime,
    pub(super) cells: BTreeMap<SurgeKey, SurgeCell>,
}

/// As stored: by class and cell, which a class's name has no slash to mistake.
type Stored = Json<BTreeMap<String, SurgeCell>>;

fn name((vehicle_class, cell): &SurgeKey) -> String {
    format!("{vehicle_class}/{cell}")
}

fn read(stored: BTreeMap<String, SurgeCell>) -> BTreeMap<SurgeKey, SurgeCell> {
    let key = |name: &str| {
        let (vehicle_class, cell) = name.split_once('/')?;
        Some((vehicle_class.to_owned(), cell.parse().ok()?))
    };
    stored.into_iter().filter_map(|(name, cell)| Some((key(&name)?, cell))).collect()
}

/// Holds the tenant's map to write it anew; none while another node does.
pub(super) async fn hold(tx: &mut TenantTx) -> sqlx::Result<Option<Computed>> {
    let tenant = tx.tenant().clone();
    // The first one begins with nothing, long ago.
    sqlx::query!(
        "INSERT INTO surge_maps (tenant_id, computed_at, cells) VALUES ($1, 'epoch', '{}') ON CONFLICT DO NOTHING",
        tenant.as_str()
    )
    .execute(tx.conn())
    .await?;
    let row = sqlx::query!(
        r#"SELECT computed_at, cells AS "cells: Stored" FROM surge_maps WHERE tenant_id = $1 FOR UPDATE SKIP LOCKED"#,
        tenant.as_str()
    );
    let row = row.fetch_optional(tx.conn()).await?;
    Ok(row.map(|row| Computed { computed_at: row.computed_at, cells: read(row.cells.0) }))
}

/// The tenant's map as it was computed last, if ever.
pub(super) async fn load(tx: &mut TenantTx) -> sqlx::Result<Option<Computed>> {
    let tenant = tx.tenant().clone();
    let row = sqlx::query!(
        r#"SELECT computed_at, cells AS "cells: Stored" FROM surge_maps WHERE tenant_id = $1"#,
        tenant.as_str()
    );
    let row = row.fetch_optional(tx.conn()).await?;
    Ok(row.map(|row| Computed { computed_at: row.computed_at, cells: read(row.cells.0) }))
}

/// One cell of the map, if that was computed after `since`.
pub(super) async fn cell(tx: &mut TenantTx, key: &SurgeKey, since: OffsetDateTime) -> sqlx::Result<Option<SurgeCell>> {
    let tenant = tx.tenant().clone();
    let cell = sqlx::query_scalar!(
        r#"SELECT cells -> $2 AS "cell: Json<SurgeCell>" FROM surge_maps WHERE tenant_id = $1 AND computed_at > $3"#,
        tenant.as_str(),
        name(key),
        since
    );
    Ok(cell.fetch_optional(tx.conn()).await?.flatten().map(|cell| cell.0))
}

/// Writes the map whole.
pub(super) async fn save(
    tx: &mut TenantTx,
    cells: &BTreeMap<SurgeKey, SurgeCell>,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let stored: BTreeMap<String, SurgeCell> = cells.iter().map(|(key, cell)| (name(key), *cell)).collect();
    sqlx::query!(
        "UPDATE surge_maps SET cells = $2, computed_at = $3 WHERE tenant_id = $1",
        tenant.as_str(),
        Json(stored) as _,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Where rides look for a driver now, or found none after `unserved_since`: nobody took them, or their riders gave up waiting.
pub(super) async fn demand(
    tx: &mut TenantTx,
    now: OffsetDateTime,
    unserved_since: OffsetDateTime,
) -> sqlx::Result<Vec<(String, Point)>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        r#"SELECT vehicle_class AS "vehicle_class!", pickup_lat AS "lat!", pickup_lng AS "lng!" FROM rides
           WHERE tenant_id = $1 AND status IN ('requested', 'offered') AND (scheduled_at IS NULL OR dispatch_at <= $2)
           UNION ALL
           SELECT vehicle_class, pickup_lat, pickup_lng FROM rides
           WHERE tenant_id = $1 AND status IN ('expired', 'cancelled') AND accepted_at IS NULL AND ended_at > $3
             AND cancelled_by IS DISTINCT FROM 'tenant'"#,
        tenant.as_str(),
        now,
        unserved_since
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.vehicle_class, Point::new(row.lat, row.lng))).collect())
}
