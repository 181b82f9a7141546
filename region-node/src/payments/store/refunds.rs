use shared::ids::{PaymentId, RefundId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{BROKEN_OFF, Claim, asked_by, money, retried, unreadable};
use crate::{
    db::{SystemTx, TenantTx},
    payments::{RefundStatus, RefundTo, Sequence, Split, Step, machine::MAX_ATTEMPTS, record::RefundRecord},
};

struct Row {
    id: Uuid,
    payment_id: Uuid,
    status: String,
    amount: i64,
    currency: String,
    tax_amount: i64,
    commission_amount: i64,
    promotion_amount: i64,
    reason: String,
    goes_to: String,
    provider_ref: Option<String>,
    failure_code: Option<String>,
    attempts: i32,
    next_attempt_at: Option<OffsetDateTime>,
    last_error: Option<String>,
    retried_by: Option<String>,
    retried_at: Option<OffsetDateTime>,
    requested_by: Option<String>,
    idempotency_key: Option<String>,
    request_hash: Option<Vec<u8>>,
    created_at: OffsetDateTime,
    settled_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for RefundRecord {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        let status = RefundStatus::from_name(&row.status).ok_or_else(|| unreadable("status", &row.status))?;
        Ok(Self {
            id: row.id.into(),
            payment_id: row.payment_id.into(),
            amount: money(row.amount, &row.currency)?,
            split: Split::of_amount(row.amount, row.tax_amount, row.commission_amount, row.promotion_amount),
            reason: row.reason,
            to: RefundTo::from_name(&row.goes_to).ok_or_else(|| unreadable("goes_to", &row.goes_to))?,
            sequence: Sequence {
                step: match status {
                    RefundStatus::Pending => Step::Pending,
                    RefundStatus::Unknown => Step::Unknown,
                    RefundStatus::Authorized => Step::Authorized,
                    RefundStatus::Settled => Step::Settled,
                    RefundStatus::Failed => Step::Failed,
                },
                attempts: row.attempts,
                next_attempt_at: row.next_attempt_at,
                provider_ref: row.provider_ref,
                failure_code: row.failure_code,
                last_error: row.last_error,
                retried: retried(row.retried_by, row.retried_at),
            },
            asked_by: asked_by(row.requested_by, row.idempotency_key, row.request_hash),
            created_at: row.created_at,
            settled_at: row.settled_at,
        })
    }
}

/// Selects refunds; `$tail` is what follows FROM.
macro_rules! select {
    ($tx:expr, $tail:tt $(, $argument:expr)*) => {{
        let sql = sqlx::query_as!(
            Row,
            "SELECT id, payment_id, status, amount, currency, tax_amount, commission_amount, promotion_amount, reason, goes_to, provider_ref,
                 failure_code, attempts, next_attempt_at, last_error, retried_by, retried_at, requested_by, idempotency_key, request_hash, created_at, settled_at
             FROM refunds " + $tail
            $(, $argument)*
        );
        sql.fetch_all($tx.conn()).await?.into_iter().map(RefundRecord::try_from).collect::<sqlx::Result<Vec<_>>>()
    }};
}

/// Loads a refund.
pub(in crate::payments) async fn load(tx: &mut TenantTx, id: RefundId) -> sqlx::Result<Option<RefundRecord>> {
    Ok(select!(tx, "WHERE id = $1", id.0)?.pop())
}

/// Loads a refund and holds its row until the transaction ends. Whoever locks its payment too does that first.
pub(in crate::payments) async fn lock(tx: &mut TenantTx, id: RefundId) -> sqlx::Result<Option<RefundRecord>> {
    Ok(select!(tx, "WHERE id = $1 FOR UPDATE", id.0)?.pop())
}

/// A payment's refunds, oldest first.
pub(in crate::payments) async fn of_payment(tx: &mut TenantTx, id: PaymentId) -> sqlx::Result<Vec<RefundRecord>> {
    select!(tx, "WHERE payment_id = $1 ORDER BY id", id.0)
}

/// Refunds nobody goes on with any more though they have not ended, and those that were sent back and that nobody has seen to; newest
/// first.
pub(in crate::payments) async fn to_attend(
    tx: &mut TenantTx,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<RefundRecord>> {
    select!(
        tx,
        "WHERE (status IN ('pending', 'authorized', 'unknown') AND next_attempt_at IS NULL
                OR status = 'failed' AND settled_at IS NOT NULL AND attended_at IS NULL)
           AND ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2",
        before,
        limit
    )
}

/// Notes who has seen to a refund that was sent back; false if there is none that waits for somebody.
pub(in crate::payments) async fn attend(
    tx: &mut TenantTx,
    id: RefundId,
    by: &str,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let sql = sqlx::query!(
        "UPDATE refunds SET attended_by = $2, attended_at = $3
         WHERE id = $1 AND status = 'failed' AND settled_at IS NOT NULL AND attended_at IS NULL",
        id.0,
        by,
        now
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected() == 1)
}

/// The refund `caller` began under `key` after `since`, locked.
pub(in crate::payments) async fn asked_under_key(
    tx: &mut TenantTx,
    caller: &str,
    key: &str,
    since: OffsetDateTime,
) -> sqlx::Result<Option<RefundRecord>> {
    let found = select!(
        tx,
        "WHERE requested_by = $1 AND idempotency_key = $2 AND created_at > $3 ORDER BY id DESC LIMIT 1 FOR UPDATE",
        caller,
        key,
        since
    );
    Ok(found?.pop())
}

/// What the refunds of a payment that have not failed take from whom, settled or not.
pub(in crate::payments) async fn begun_split(tx: &mut TenantTx, payment: PaymentId) -> sqlx::Result<Split> {
    let sql = sqlx::query!(
        r#"SELECT coalesce(sum(amount), 0)::bigint AS "amount!", coalesce(sum(tax_amount), 0)::bigint AS "tax!",
                  coalesce(sum(commission_amount), 0)::bigint AS "commission!",
                  coalesce(sum(promotion_amount), 0)::bigint AS "promotion!"
           FROM refunds WHERE payment_id = $1 AND status <> 'failed'"#,
        payment.0
    );
    let sums = sql.fetch_one(tx.conn()).await?;
    Ok(Split::of_amount(sums.amount, sums.tax, sums.commission, sums.promotion))
}

/// Records the intent to give money back.
pub(in crate::payments) async fn insert(tx: &mut TenantTx, refund: &RefundRecord) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let asked_by = refund.asked_by.as_ref();
    let sql = sqlx::query!(
        "INSERT INTO refunds (id, tenant_id, payment_id, status, amount, currency, tax_amount, commission_amount,
             promotion_amount, reason, attempts, next_attempt_at, requested_by, idempotency_key, request_hash, created_at,
             updated_at, goes_to)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17)",
        refund.id.0,
        tenant.as_str(),
        refund.payment_id.0,
        refund.status().as_str(),
        refund.amount.amount,
        refund.amount.currency.code(),
        refund.split.tax,
        refund.split.commission,
        refund.split.promotion,
        refund.reason,
        refund.sequence.attempts,
        refund.sequence.next_attempt_at,
        asked_by.map(|asked| asked.caller.as_str()),
        asked_by.map(|asked| asked.key.as_str()),
        asked_by.map(|asked| asked.request_hash.as_slice()),
        refund.created_at,
        refund.to.as_str(),
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// Saves how far a locked refund is.
pub(in crate::payments) async fn save(
    tx: &mut TenantTx,
    refund: &RefundRecord,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "UPDATE refunds SET status = $2, provider_ref = $3, failure_code = $4, attempts = $5, next_attempt_at = $6,
             settled_at = $7, updated_at = $8, last_error = $9, retried_by = $10, retried_at = $11
         WHERE id = $1",
        refund.id.0,
        refund.status().as_str(),
        refund.sequence.provider_ref,
        refund.sequence.failure_code,
        refund.sequence.attempts,
        refund.sequence.next_attempt_at,
        refund.settled_at,
        now,
        refund.sequence.last_error,
        refund.sequence.retried.as_ref().map(|retried| retried.by.as_str()),
        refund.sequence.retried.as_ref().map(|retried| retried.at),
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// Takes refunds somebody must go on with; see the payments' own.
pub(in crate::payments) async fn claim_due(
    tx: &mut SystemTx,
    region: &str,
    now: OffsetDateTime,
    hold: Duration,
    limit: i64,
) -> sqlx::Result<Vec<Claim<RefundId>>> {
    let sql = sqlx::query!(
        r#"UPDATE refunds SET attempts = CASE WHEN attempts < $5 THEN attempts + 1 ELSE attempts END,
             next_attempt_at = CASE WHEN attempts < $5 THEN $3::timestamptz END,
             last_error = CASE WHEN attempts < $5 THEN last_error ELSE concat_ws('; before that: ', $6::text, last_error) END
         WHERE id IN (SELECT r.id FROM refunds r JOIN tenant_homes h ON h.tenant_id = r.tenant_id
                      WHERE r.status IN ('pending', 'authorized', 'unknown') AND r.next_attempt_at <= $2
                        AND (h.region = $1 AND h.state = 'active' OR h.lost_term IS NOT NULL)
                      ORDER BY r.next_attempt_at LIMIT $4 FOR UPDATE OF r SKIP LOCKED)
         RETURNING tenant_id, id, next_attempt_at IS NULL AS "is_given_up!""#,
        region,
        now,
        now + hold,
        limit,
        MAX_ATTEMPTS,
        BROKEN_OFF
    );
    let rows = sql.fetch_all(tx.conn()).await?;
    rows.into_iter().map(|row| Claim::new(&row.tenant_id, row.id.into(), row.is_given_up)).collect()
}
