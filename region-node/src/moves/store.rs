//! All SQL of moves that operators ask for and look at.

use shared::ids::{RegionName, TenantId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{MoveMode, MoveView};
use crate::db::{Epoch, TenantTx};

/// Most moves shown.
const SHOWN: i64 = 100;

/// The tenant's home, as it is in this transaction, and its key as it stands here.
pub(super) struct Held {
    pub(super) region: String,
    /// It is here, and no move is about to end that.
    pub(super) is_here: bool,
    pub(super) epoch: Epoch,
    pub(super) wrapped_key: Option<Vec<u8>>,
}

pub(super) async fn home(tx: &mut TenantTx, region: &RegionName) -> sqlx::Result<Option<Held>> {
    let tenant = tx.tenant().clone();
    let row = sqlx::query!(
        r#"SELECT h.region, h.region = $2 AND h.state = 'active' AS "is_here!", h.term, h.n, w.wrapped AS "wrapped?"
           FROM tenant_homes h LEFT JOIN tenant_keys w USING (tenant_id) WHERE h.tenant_id = $1 FOR SHARE OF h"#,
        tenant.as_str(),
        region.as_str()
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| Held {
        region: row.region,
        is_here: row.is_here,
        epoch: Epoch { term: row.term, n: row.n },
        wrapped_key: row.wrapped,
    }))
}

/// A move to be written down.
pub(super) struct NewMove<'a> {
    pub(super) id: Uuid,
    pub(super) mode: MoveMode,
    pub(super) from: &'a str,
    pub(super) to: &'a RegionName,
    pub(super) epoch: Epoch,
    /// Where the old home gives it.
    pub(super) wrapped_key: Option<Vec<u8>>,
    pub(super) requested_by: &'a str,
}

pub(super) async fn insert(tx: &mut TenantTx, new: &NewMove<'_>) -> sqlx::Result<MoveView> {
    let tenant = tx.tenant().clone();
    let requested_at = sqlx::query_scalar!(
        "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, wrapped_key, requested_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING requested_at",
        new.id,
        tenant.as_str(),
        new.mode.as_str(),
        new.from,
        new.to.as_str(),
        new.epoch.term,
        new.epoch.n,
        new.wrapped_key.as_deref(),
        new.requested_by
    )
    .fetch_one(tx.conn())
    .await?;
    Ok(MoveView {
        id: new.id,
        tenant: tenant.to_string(),
        mode: new.mode,
        from_region: new.from.to_owned(),
        to_region: new.to.to_string(),
        state: "requested".to_owned(),
        rows_moved: 0,
        paused_ms: None,
        attempts: 0,
        failure: None,
        requested_by: new.requested_by.to_owned(),
        cancelled_by: None,
        requested_at,
        handed_over_at: None,
        ended_at: None,
    })
}

/// The newest moves written down here that the connection may see: of one tenant, or one alone, or all.
pub(super) async fn list(
    conn: &mut PgConnection,
    tenant: Option<&TenantId>,
    id: Option<Uuid>,
) -> sqlx::Result<Vec<MoveView>> {
    let rows = sqlx::query!(
        r#"SELECT id, tenant_id, mode = 'failover' AS "is_forced!", from_region, to_region, state, rows_moved, paused_ms, attempts,
                  failure, requested_by, cancelled_by, requested_at, handed_over_at, ended_at
           FROM tenant_moves WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR id = $2)
           ORDER BY requested_at DESC LIMIT $3"#,
        tenant.map(TenantId::as_str),
        id,
        SHOWN
    )
    .fetch_all(conn)
    .await?;
    let read = rows.into_iter().map(|row| MoveView {
        id: row.id,
        tenant: row.tenant_id,
        mode: if row.is_forced { MoveMode::Failover } else { MoveMode::Planned },
        from_region: row.from_region,
        to_region: row.to_region,
        state: row.state,
        rows_moved: row.rows_moved,
        paused_ms: row.paused_ms,
        attempts: row.attempts,
        failure: row.failure,
        requested_by: row.requested_by,
        cancelled_by: row.cancelled_by,
        requested_at: row.requested_at,
        handed_over_at: row.handed_over_at,
        ended_at: row.ended_at,
    });
    Ok(read.collect())
}

/// Cancels the tenant's move unless the home is handed over; nothing if there is none to cancel. Who was first stays named.
pub(super) async fn cancel(tx: &mut TenantTx, by: &str) -> sqlx::Result<Option<Uuid>> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query_scalar!(
        "UPDATE tenant_moves SET cancelled_by = COALESCE(cancelled_by, $2)
         WHERE tenant_id = $1 AND mode = 'planned' AND state IN ('requested', 'copying', 'pausing') RETURNING id",
        tenant.as_str(),
        by
    );
    sql.fetch_optional(tx.conn()).await
}
