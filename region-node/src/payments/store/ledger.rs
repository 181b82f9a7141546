use shared::fact::Fact;

use crate::{db::TenantTx, outbox, payments::Entry};

/// Books an entry and, unless they know, tells other regions. The database refuses an entry that does not sum to zero, and
/// a second one for the same payment, refund or payout.
///
/// One statement, since every ride comes here: three of them were a large part of what settling costs.
pub(in crate::payments) async fn book(tx: &mut TenantTx, entry: &Entry, told: Option<&Fact>) -> sqlx::Result<()> {
    let (tenant, epoch) = (tx.tenant().clone(), tx.epoch());
    let accounts: Vec<String> = entry.postings.iter().map(|posting| posting.account.to_string()).collect();
    let amounts: Vec<i64> = entry.postings.iter().map(|posting| posting.amount).collect();
    let told = told.map(|fact| outbox::Row::of(fact, Some(epoch)));
    let told = told.as_ref();
    let sql = sqlx::query!(
        "WITH entry AS (
             INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, refund_id, payout_id, currency, posted_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ), told AS (
             INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body, traceparent)
             SELECT $11, $12, $13, $2, $14, $15, $16, $17 WHERE $11::uuid IS NOT NULL
         )
         INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount)
         SELECT $1, line, $2, account, amount
         FROM unnest($9::text[], $10::bigint[]) WITH ORDINALITY AS posting (account, amount, line)",
        entry.id.0,
        tenant.as_str(),
        entry.kind.as_str(),
        entry.payment_id.map(|id| id.0),
        entry.refund_id.map(|id| id.0),
        entry.payout_id.map(|id| id.0),
        entry.currency.code(),
        entry.posted_at,
        &accounts,
        &amounts,
        told.map(|row| row.id),
        told.map(|row| row.stream),
        told.map(|row| row.kind),
        told.and_then(|row| row.home_term),
        told.and_then(|row| row.home_n),
        told.map(|row| row.body.as_slice()),
        told.and_then(|row| row.traceparent.as_deref()),
    );
    sql.execute(tx.conn()).await.map(|_| ())
}
