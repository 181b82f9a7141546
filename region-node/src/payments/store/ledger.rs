use shared::fact::Fact;

use crate::{db::TenantTx, outbox, payments::Entry};

/// Books an entry and tells other regions what they have to know of it; a payment whose settlement it is, is settled with it. The
/// database refuses an entry that does not sum to zero, a second one for the same payment, refund or payout, and one that would
/// overdraw a wallet.
///
/// One statement, since every ride comes here: four of them were a large part of what settling costs.
pub(in crate::payments) async fn book(tx: &mut TenantTx, entry: &Entry, told: &[Fact]) -> sqlx::Result<()> {
    let (tenant, epoch) = (tx.tenant().clone(), tx.epoch());
    let accounts: Vec<String> = entry.postings.iter().map(|posting| posting.account.to_string()).collect();
    let amounts: Vec<i64> = entry.postings.iter().map(|posting| posting.amount).collect();
    let (mut ids, mut streams, mut kinds, mut bodies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut traceparent = None;
    for fact in told {
        let row = outbox::Row::of(fact, Some(epoch));
        ids.push(row.id);
        streams.push(row.stream.to_owned());
        kinds.push(row.kind.to_owned());
        bodies.push(row.body);
        traceparent = row.traceparent;
    }
    let sql = sqlx::query!(
        "WITH entry AS (
             INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, refund_id, payout_id, credit_id, currency, posted_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ), settled AS (
             UPDATE payments SET status = 'settled', next_attempt_at = NULL, last_error = NULL, settled_at = $9, updated_at = $9
             WHERE id = $4 AND $19
         ), told AS (
             INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body, traceparent)
             SELECT id, stream, kind, $2, $16, $17, body, $18
             FROM unnest($12::uuid[], $13::text[], $14::text[], $15::bytea[]) AS fact (id, stream, kind, body)
         )
         INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount)
         SELECT $1, line, $2, account, amount
         FROM unnest($10::text[], $11::bigint[]) WITH ORDINALITY AS posting (account, amount, line)",
        entry.id.0,
        tenant.as_str(),
        entry.kind.as_str(),
        entry.payment_id.map(|id| id.0),
        entry.refund_id.map(|id| id.0),
        entry.payout_id.map(|id| id.0),
        entry.credit_id.map(|id| id.0),
        entry.currency.code(),
        entry.posted_at,
        &accounts,
        &amounts,
        &ids,
        &streams,
        &kinds,
        &bodies,
        epoch.term,
        epoch.n,
        traceparent,
        entry.kind.settles(),
    );
    sql.execute(tx.conn()).await.map(|_| ())
}
