use shared::ids::{PaymentId, RefundId};
use time::OffsetDateTime;

use crate::{
    db::{SystemTx, TenantTx},
    payments::machine::MAX_ATTEMPTS,
};

/// Notes a webhook's event; false if it has been here before.
pub(in crate::payments) async fn first_sight(
    tx: &mut TenantTx,
    provider: &str,
    event_id: &str,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO psp_webhook_events (tenant_id, provider, event_id, received_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT ON CONSTRAINT one_webhook_event DO NOTHING",
        tenant.as_str(),
        provider,
        event_id,
        now
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Forgets up to `limit` events received before `before`, except of tenants that are only arriving here; says how many.
pub(in crate::payments) async fn forget_webhooks(
    tx: &mut SystemTx,
    before: OffsetDateTime,
    limit: i64,
) -> sqlx::Result<u64> {
    let sql = sqlx::query!(
        "DELETE FROM psp_webhook_events e
         USING (SELECT tenant_id, provider, event_id FROM psp_webhook_events
                WHERE received_at < $1 AND tenant_id NOT IN (SELECT tenant_id FROM tenant_arrivals)
                ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED) old
         WHERE (e.tenant_id, e.provider, e.event_id) = (old.tenant_id, old.provider, old.event_id)",
        before,
        limit
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected())
}

/// Has the PSP asked about a payment without further delay, if its outcome is not known; one that was given up, once.
pub(in crate::payments) async fn make_payment_due(
    tx: &mut TenantTx,
    provider: &str,
    id: PaymentId,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "UPDATE payments SET next_attempt_at = $3, attempts = least(attempts, $4)
         WHERE id = $1 AND provider = $2 AND status IN ('pending', 'unknown')
           AND (next_attempt_at > $3 OR next_attempt_at IS NULL)",
        id.0,
        provider,
        now,
        MAX_ATTEMPTS - 1
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// Has the PSP asked about a refund without further delay, if its outcome is not known; one that was given up, once.
pub(in crate::payments) async fn make_refund_due(
    tx: &mut TenantTx,
    provider: &str,
    id: RefundId,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "UPDATE refunds SET next_attempt_at = $3, attempts = least(attempts, $4)
         WHERE id = $1 AND status IN ('pending', 'unknown') AND (next_attempt_at > $3 OR next_attempt_at IS NULL)
           AND EXISTS (SELECT FROM payments p WHERE p.id = refunds.payment_id AND p.provider = $2)",
        id.0,
        provider,
        now,
        MAX_ATTEMPTS - 1
    );
    sql.execute(tx.conn()).await.map(|_| ())
}
