use crate::{db::TenantTx, payments::Entry};

/// Books an entry. The database refuses one that does not sum to zero, and a second one for the same payment, refund or payout.
pub(in crate::payments) async fn post(tx: &mut TenantTx, entry: &Entry) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, refund_id, payout_id, currency, posted_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        entry.id.0,
        tenant.as_str(),
        entry.kind.as_str(),
        entry.payment_id.map(|id| id.0),
        entry.refund_id.map(|id| id.0),
        entry.payout_id.map(|id| id.0),
        entry.currency.code(),
        entry.posted_at,
    );
    sql.execute(tx.conn()).await?;
    let accounts: Vec<String> = entry.postings.iter().map(|posting| posting.account.to_string()).collect();
    let amounts: Vec<i64> = entry.postings.iter().map(|posting| posting.amount).collect();
    let sql = sqlx::query!(
        "INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount)
         SELECT $1, line, $2, account, amount
         FROM unnest($3::text[], $4::bigint[]) WITH ORDINALITY AS posting (account, amount, line)",
        entry.id.0,
        tenant.as_str(),
        &accounts,
        &amounts,
    );
    sql.execute(tx.conn()).await.map(|_| ())
}
