use shared::ids::{PaymentId, StrayDisputeId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{money, unreadable};
use crate::{
    db::TenantTx,
    payments::{
        DisputeStatus,
        psp::DisputeNews,
        stray::{Attended, StrayDispute},
    },
};

struct Row {
    id: Uuid,
    payment_id: Uuid,
    provider: String,
    provider_ref: String,
    charge_ref: String,
    status: String,
    amount: i64,
    currency: String,
    opened_at: OffsetDateTime,
    told_at: OffsetDateTime,
    attended_by: Option<String>,
    attended_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for StrayDispute {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.id.into(),
            payment_id: row.payment_id.into(),
            provider: row.provider,
            provider_ref: row.provider_ref,
            charge_ref: row.charge_ref,
            status: DisputeStatus::from_name(&row.status).ok_or_else(|| unreadable("status", &row.status))?,
            amount: money(row.amount, &row.currency)?,
            opened_at: row.opened_at,
            told_at: row.told_at,
            attended: row.attended_by.zip(row.attended_at).map(|(by, at)| Attended { by, at }),
        })
    }
}

/// Selects stray disputes; `$tail` is what follows FROM.
macro_rules! select {
    ($tx:expr, $tail:tt $(, $argument:expr)*) => {{
        let sql = sqlx::query_as!(
            Row,
            "SELECT id, payment_id, provider, provider_ref, charge_ref, status, amount, currency, opened_at, told_at, attended_by,
                 attended_at
             FROM stray_disputes " + $tail
            $(, $argument)*
        );
        sql.fetch_all($tx.conn()).await?.into_iter().map(StrayDispute::try_from).collect::<sqlx::Result<Vec<_>>>()
    }};
}

/// Keeps what a PSP says of a dispute about a payment that is not here; false if that is nothing new. One that is decided changes no
/// more; how it was decided is for somebody to see, whoever has seen that it was opened.
pub(in crate::payments) async fn keep(
    tx: &mut TenantTx,
    provider: &str,
    payment: PaymentId,
    news: &DisputeNews,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO stray_disputes AS known (id, tenant_id, payment_id, provider, provider_ref, charge_ref, status, amount, currency,
             opened_at, told_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT ON CONSTRAINT one_stray_dispute DO UPDATE
         SET status = excluded.status, told_at = excluded.told_at, attended_by = NULL, attended_at = NULL
         WHERE known.status = 'open' AND excluded.status <> 'open'",
        StrayDisputeId::new().0,
        tenant.as_str(),
        payment.0,
        provider,
        news.reference,
        news.charge_ref,
        news.status.as_str(),
        news.amount.amount,
        news.amount.currency.code(),
        news.opened_at,
        now
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Those nobody has seen to, the newest first.
pub(in crate::payments) async fn to_attend(
    tx: &mut TenantTx,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<StrayDispute>> {
    select!(tx, "WHERE attended_at IS NULL AND ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2", before, limit)
}

/// Loads one.
pub(in crate::payments) async fn load(tx: &mut TenantTx, id: StrayDisputeId) -> sqlx::Result<Option<StrayDispute>> {
    Ok(select!(tx, "WHERE id = $1", id.0)?.pop())
}

/// Notes who has seen to one; false if it waits for nobody.
pub(in crate::payments) async fn attend(
    tx: &mut TenantTx,
    id: StrayDisputeId,
    by: &str,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let sql = sqlx::query!(
        "UPDATE stray_disputes SET attended_by = $2, attended_at = $3 WHERE id = $1 AND attended_at IS NULL",
        id.0,
        by,
        now
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected() == 1)
}
