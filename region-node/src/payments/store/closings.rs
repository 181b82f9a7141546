use shared::ids::TenantId;
use time::OffsetDateTime;

use super::unreadable;
use crate::db::{SystemTx, TenantTx};

/// Of these tenants, those whose ledger is not closed until then.
pub(in crate::payments) async fn open_until(
    tx: &mut SystemTx,
    tenants: &[TenantId],
    until: OffsetDateTime,
) -> sqlx::Result<Vec<TenantId>> {
    let tenants: Vec<String> = tenants.iter().map(ToString::to_string).collect();
    let sql = sqlx::query_scalar!(
        r#"SELECT tenant_id AS "tenant_id!" FROM unnest($1::text[]) AS open (tenant_id)
           WHERE NOT EXISTS (SELECT FROM ledger_closings c
                             WHERE c.tenant_id = open.tenant_id AND c.closed_until >= $2 AND c.summed_at IS NOT NULL)"#,
        &tenants,
        until
    );
    let open = sql.fetch_all(tx.conn()).await?;
    open.into_iter().map(|id| id.parse().map_err(|_| unreadable("tenant_id", &id))).collect()
}

/// Closes the tenant's ledger until then, if that is over by Postgres' clock too: once this is committed, nothing more is booked
/// that is dated before. Waits for those who are booking, but not long, since whoever books next waits behind it.
pub(in crate::payments) async fn close(tx: &mut TenantTx, until: OffsetDateTime) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    sqlx::query!("SET LOCAL lock_timeout = '500ms'").execute(tx.conn()).await?;
    sqlx::query!(
        r#"SELECT pg_advisory_xact_lock(hashtextextended('ledger:' || $1, 0)) AS "locked!: ()""#,
        tenant.as_str()
    )
    .fetch_one(tx.conn())
    .await?;
    sqlx::query!(
        "INSERT INTO ledger_closings (tenant_id, closed_until) SELECT $1, $2::timestamptz WHERE $2 <= now()
         ON CONFLICT (tenant_id, closed_until) DO NOTHING",
        tenant.as_str(),
        until
    )
    .execute(tx.conn())
    .await
    .map(|_| ())
}

/// Sums up what is closed; false if there is nothing to sum up, or somebody else does it.
pub(in crate::payments) async fn sum_up(
    tx: &mut TenantTx,
    until: OffsetDateTime,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let held = sqlx::query_scalar!(
        "SELECT closed_until FROM ledger_closings WHERE tenant_id = $1 AND closed_until = $2 AND summed_at IS NULL
         FOR UPDATE SKIP LOCKED",
        tenant.as_str(),
        until
    );
    if held.fetch_optional(tx.conn()).await?.is_none() {
        return Ok(false);
    }
    let closed = last_closing(tx, Some(until)).await?;
    // A first closing reads all there is.
    sqlx::query!("SET LOCAL statement_timeout = '5min'").execute(tx.conn()).await?;
    sqlx::query!(
        "WITH summed AS (
             INSERT INTO ledger_closed_balances (tenant_id, closed_until, account, currency, balance)
             SELECT $1, $2, account, currency, sum(amount)::bigint FROM ledger_parts($1, $3, $2) GROUP BY account, currency
         )
         UPDATE ledger_closings SET summed_at = $4 WHERE tenant_id = $1 AND closed_until = $2",
        tenant.as_str(),
        until,
        closed,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(true)
}

/// Until when the tenant's ledger was last closed and summed up, by `at` or by now; before anything could be booked, if it never
/// was.
pub(in crate::payments) async fn last_closing(
    tx: &mut TenantTx,
    at: Option<OffsetDateTime>,
) -> sqlx::Result<OffsetDateTime> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query_scalar!(
        r#"SELECT coalesce(max(closed_until), 'epoch') AS "closed!" FROM ledger_closings
           WHERE tenant_id = $1 AND summed_at IS NOT NULL AND ($2::timestamptz IS NULL OR closed_until <= $2)"#,
        tenant.as_str(),
        at
    );
    sql.fetch_one(tx.conn()).await
}
