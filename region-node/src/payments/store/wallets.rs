use shared::{
    ids::{FactId, PaymentId, RiderId},
    money::{Currency, Money},
};
use uuid::Uuid;

use super::{money, unreadable};
use crate::{
    db::TenantTx,
    payments::{
        EntryKind,
        ledger::Account,
        wallet::{CreditRecord, Forgotten, WalletEntry, refund::TopUpLeft},
    },
};

/// Whether there is such a rider.
pub(in crate::payments) async fn is_rider(tx: &mut TenantTx, rider: RiderId) -> sqlx::Result<bool> {
    let sql = sqlx::query_scalar!("SELECT id FROM riders WHERE id = $1", rider.0);
    Ok(sql.fetch_optional(tx.conn()).await?.is_some())
}

/// What a rider's wallet holds.
pub(in crate::payments) async fn balance(tx: &mut TenantTx, rider: RiderId, currency: Currency) -> sqlx::Result<Money> {
    let sql = sqlx::query_scalar!(
        "SELECT balance FROM wallets WHERE rider_id = $1 AND currency = $2",
        rider.0,
        currency.code()
    );
    Ok(Money::new(sql.fetch_optional(tx.conn()).await?.unwrap_or(0), currency))
}

/// What a rider's wallet holds, and holds its row until the transaction ends. Nothing else is locked after it.
pub(in crate::payments) async fn lock(tx: &mut TenantTx, rider: RiderId, currency: Currency) -> sqlx::Result<Money> {
    let sql = sqlx::query_scalar!(
        "SELECT balance FROM wallets WHERE rider_id = $1 AND currency = $2 FOR UPDATE",
        rider.0,
        currency.code()
    );
    Ok(Money::new(sql.fetch_optional(tx.conn()).await?.unwrap_or(0), currency))
}

/// What all riders' wallets hold together, by currency.
pub(in crate::payments) async fn of_all_riders(tx: &mut TenantTx) -> sqlx::Result<Vec<Money>> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        r#"SELECT currency, sum(balance)::bigint AS "balance!" FROM wallets WHERE tenant_id = $1
           GROUP BY currency ORDER BY currency"#,
        tenant.as_str()
    );
    let rows = sql.fetch_all(tx.conn()).await?;
    rows.into_iter().map(|row| money(row.balance, &row.currency)).collect()
}

/// What a wallet has moved by, the newest first, from the entry before `before` on.
pub(in crate::payments) async fn entries(
    tx: &mut TenantTx,
    rider: RiderId,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<WalletEntry>> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "SELECT e.id, e.kind, e.posted_at, p.amount, e.currency, e.payment_id, y.trip_id AS \"trip_id?\", e.refund_id,
             coalesce(c.reason, r.reason) AS reason
         FROM ledger_postings p JOIN ledger_entries e ON e.id = p.entry_id
             LEFT JOIN payments y ON y.id = e.payment_id LEFT JOIN refunds r ON r.id = e.refund_id
             LEFT JOIN wallet_credits c ON c.id = e.credit_id
         WHERE p.tenant_id = $1 AND p.account = $2
           AND ($3::uuid IS NULL
                OR (e.posted_at, e.id) < (SELECT last.posted_at, last.id FROM ledger_entries last WHERE last.id = $3))
         ORDER BY e.posted_at DESC, e.id DESC LIMIT $4",
        tenant.as_str(),
        Account::Rider(rider).to_string(),
        before,
        limit
    );
    let rows = sql.fetch_all(tx.conn()).await?;
    rows.into_iter()
        .map(|row| {
            Ok(WalletEntry {
                entry_id: row.id.into(),
                kind: EntryKind::from_name(&row.kind).ok_or_else(|| unreadable("kind", &row.kind))?,
                amount: money(row.amount, &row.currency)?,
                posted_at: row.posted_at,
                payment_id: row.payment_id.map(Into::into),
                trip_id: row.trip_id.map(Into::into),
                refund_id: row.refund_id.map(Into::into),
                reason: row.reason,
            })
        })
        .collect()
}

/// Records a credit.
pub(in crate::payments) async fn insert_credit(tx: &mut TenantTx, credit: &CreditRecord) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO wallet_credits (id, tenant_id, rider_id, amount, currency, reason, made_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        credit.credit_id.0,
        tenant.as_str(),
        credit.rider_id.0,
        credit.amount.amount,
        credit.amount.currency.code(),
        credit.reason,
        credit.made_by,
        credit.created_at
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// A rider's top-ups of which something may be left, the newest first, and holds their rows until the transaction ends.
pub(in crate::payments) async fn lock_top_ups(
    tx: &mut TenantTx,
    rider: RiderId,
    currency: Currency,
    limit: i64,
) -> sqlx::Result<Vec<PaymentId>> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query_scalar!(
        "SELECT id FROM payments
         WHERE tenant_id = $1 AND rider_id = $2 AND kind = 'top_up' AND currency = $3
           AND status IN ('settled', 'partially_refunded')
         ORDER BY id DESC LIMIT $4 FOR UPDATE",
        tenant.as_str(),
        rider.0,
        currency.code(),
        limit
    );
    Ok(sql.fetch_all(tx.conn()).await?.into_iter().map(PaymentId).collect())
}

/// What of locked top-ups was neither given back nor disputed, in their order.
pub(in crate::payments) async fn left_of_top_ups(
    tx: &mut TenantTx,
    top_ups: &[PaymentId],
) -> sqlx::Result<Vec<TopUpLeft>> {
    let ids: Vec<Uuid> = top_ups.iter().map(|id| id.0).collect();
    let sql = sqlx::query!(
        r#"SELECT p.id, (p.amount
               - (SELECT coalesce(sum(r.amount), 0) FROM refunds r WHERE r.payment_id = p.id AND r.status <> 'failed')
               - (SELECT coalesce(sum(d.amount), 0) FROM disputes d WHERE d.payment_id = p.id AND d.status <> 'won')
               )::bigint AS "left!"
           FROM payments p WHERE p.id = ANY ($1) ORDER BY p.id DESC"#,
        &ids
    );
    let rows = sql.fetch_all(tx.conn()).await?.into_iter();
    Ok(rows.map(|row| TopUpLeft { payment_id: row.id.into(), left: row.left.max(0) }).collect())
}

/// What a rider has put into a wallet less what he has spent from it: not what the company gave, nor what it refunded into it of what
/// was not paid from it. What came back from other regions after an old backup was restored counts as spent, not as put in.
pub(in crate::payments) async fn topped_up_and_not_spent(
    tx: &mut TenantTx,
    rider: RiderId,
    currency: Currency,
) -> sqlx::Result<i64> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(p.amount), 0)::bigint AS "unspent!"
           FROM ledger_postings p JOIN ledger_entries e ON e.id = p.entry_id LEFT JOIN payments y ON y.id = e.payment_id
           WHERE p.tenant_id = $1 AND p.account = $2 AND e.currency = $3
             AND CASE e.kind WHEN 'credit' THEN false
                             WHEN 'refund' THEN y.provider = 'wallet'
                             WHEN 'recovered' THEN p.amount < 0
                             ELSE true END"#,
        tenant.as_str(),
        Account::Rider(rider).to_string(),
        currency.code()
    );
    sql.fetch_one(tx.conn()).await
}

/// What other regions remember of a rider's wallet and this one has forgotten: what was put in first, so that it is not overdrawn
/// in between.
pub(in crate::payments) async fn forgotten(tx: &mut TenantTx, rider: RiderId) -> sqlx::Result<Vec<Forgotten>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        r#"SELECT f.entry_id AS "entry_id!", f.amount, f.currency FROM ledger_facts f
           WHERE f.tenant_id = $1 AND f.rider_id = $2 AND f.kind = 'wallet'
             AND NOT EXISTS (SELECT FROM ledger_entries e WHERE e.id = f.entry_id)
           ORDER BY f.amount DESC, f.position"#,
        tenant.as_str(),
        rider.0
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    rows.into_iter()
        .map(|row| Ok(Forgotten { entry_id: row.entry_id.into(), amount: money(row.amount, &row.currency)? }))
        .collect()
}

/// Holds a rider's row until the transaction ends: what was forgotten of his wallet is booked by one at a time.
pub(in crate::payments) async fn lock_rider(tx: &mut TenantTx, rider: RiderId) -> sqlx::Result<()> {
    let sql = sqlx::query_scalar!("SELECT id FROM riders WHERE id = $1 FOR NO KEY UPDATE", rider.0);
    sql.fetch_optional(tx.conn()).await.map(|_| ())
}

/// Whether an entry is in the ledger.
pub(in crate::payments) async fn is_booked(tx: &mut TenantTx, entry: FactId) -> sqlx::Result<bool> {
    let sql = sqlx::query_scalar!("SELECT id FROM ledger_entries WHERE id = $1", entry.0);
    Ok(sql.fetch_optional(tx.conn()).await?.is_some())
}
