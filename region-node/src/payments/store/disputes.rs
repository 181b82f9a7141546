use shared::ids::PaymentId;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{money, unreadable};
use crate::{
    db::TenantTx,
    payments::{DisputeStatus, dispute::DisputeRecord},
};

/// Loads a dispute; its payment's row is locked.
pub(in crate::payments) async fn load(tx: &mut TenantTx, id: Uuid) -> sqlx::Result<Option<DisputeRecord>> {
    let sql = sqlx::query!(
        "SELECT payment_id, provider_ref, status, amount, currency, opened_at FROM disputes WHERE id = $1",
        id
    );
    let Some(row) = sql.fetch_optional(tx.conn()).await? else { return Ok(None) };
    Ok(Some(DisputeRecord {
        id,
        payment_id: row.payment_id.into(),
        provider_ref: row.provider_ref,
        status: DisputeStatus::from_name(&row.status).ok_or_else(|| unreadable("status", &row.status))?,
        amount: money(row.amount, &row.currency)?,
        opened_at: row.opened_at,
    }))
}

/// What banks hold of a payment, or have taken for good: its disputes that are not won.
pub(in crate::payments) async fn held_back(tx: &mut TenantTx, payment: PaymentId) -> sqlx::Result<i64> {
    let sql = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(amount), 0)::bigint AS "amount!" FROM disputes WHERE payment_id = $1 AND status <> 'won'"#,
        payment.0
    );
    sql.fetch_one(tx.conn()).await
}

/// When the oldest dispute about charges of an account was opened that is open still.
pub(in crate::payments) async fn oldest_open(
    tx: &mut TenantTx,
    provider: &str,
) -> sqlx::Result<Option<OffsetDateTime>> {
    let sql = sqlx::query_scalar!(
        "SELECT min(d.opened_at) FROM disputes d JOIN payments p ON p.id = d.payment_id
         WHERE d.status = 'open' AND p.provider = $1",
        provider
    );
    sql.fetch_one(tx.conn()).await
}

/// Writes a dispute, or how far it has come.
pub(in crate::payments) async fn save(
    tx: &mut TenantTx,
    dispute: &DisputeRecord,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO disputes (id, tenant_id, payment_id, provider_ref, status, amount, currency, opened_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (id) DO UPDATE SET status = excluded.status, updated_at = excluded.updated_at",
        dispute.id,
        tenant.as_str(),
        dispute.payment_id.0,
        dispute.provider_ref,
        dispute.status.as_str(),
        dispute.amount.amount,
        dispute.amount.currency.code(),
        dispute.opened_at,
        now,
    );
    sql.execute(tx.conn()).await.map(|_| ())
}
