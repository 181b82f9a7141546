use crate::{db::TenantTx, payments::reconcile::Job};

/// Keeps every difference between what the PSP has listed for a reconciliation and what stands here. What the PSP did in the
/// span is looked for here whenever it was settled, and what was settled in the span is looked for in all that is listed. What
/// the tenant's home before `region` has settled is here as a fact alone. Of what is settled, an operation by another name than the
/// one it was settled with is one too many; if that one came to nothing, it is none.
pub(in crate::payments) async fn compare(tx: &mut TenantTx, job: &Job, region: &str) -> sqlx::Result<()> {
    charges_there(tx, job, region).await?;
    payments_here(tx, job).await?;
    refunds_there(tx, job, region).await?;
    refunds_here(tx, job).await?;
    disputes_there(tx, job).await?;
    payments_in_ledger(tx, job).await?;
    refunds_in_ledger(tx, job).await
}

async fn charges_there(tx: &mut TenantTx, job: &Job, region: &str) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "INSERT INTO reconciliation_differences (reconciliation_id, tenant_id, class, payment_id, provider_ref, amount_here,
             currency_here, status_here, amount_there, currency_there, status_there)
         SELECT $1::uuid, o.tenant_id, found.class, p.id, o.provider_ref, p.amount, p.currency, p.status, o.amount, o.currency,
             o.state
         FROM reconciliation_operations o LEFT JOIN payments p ON p.id = o.ours AND p.provider = $2
         CROSS JOIN LATERAL (SELECT CASE
             WHEN p.id IS NULL AND o.state = 'succeeded'
                 AND NOT EXISTS (SELECT FROM ledger_facts f WHERE f.fact_id = o.fact AND f.origin_region <> $5)
                 AND NOT EXISTS (SELECT FROM ledger_facts f
                                 WHERE f.kind = 'wallet' AND f.entry_id = o.fact AND f.origin_region <> $5)
                 THEN 'missing_here'
             WHEN p.status IN ('settled', 'refunded', 'partially_refunded') AND o.provider_ref IS DISTINCT FROM p.provider_ref
                 THEN CASE WHEN o.state = 'succeeded' THEN 'charged_twice' END
             WHEN (o.state = 'succeeded') <> (p.status IN ('settled', 'refunded', 'partially_refunded')) THEN 'status_differs'
             WHEN o.state = 'succeeded' AND (p.amount, p.currency) <> (o.amount, o.currency) THEN 'amount_differs'
             END AS class) found
         WHERE o.reconciliation_id = $1 AND o.kind = 'charge' AND o.made_at >= $3 AND o.made_at < $4
           AND found.class IS NOT NULL",
        job.id.0,
        job.provider,
        job.from,
        job.to,
        region
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

async fn payments_here(tx: &mut TenantTx, job: &Job) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "INSERT INTO reconciliation_differences (reconciliation_id, tenant_id, class, payment_id, provider_ref, amount_here,
             currency_here, status_here)
         SELECT $1::uuid, p.tenant_id, 'missing_at_psp', p.id, p.provider_ref, p.amount, p.currency, p.status
         FROM payments p
         WHERE p.provider = $2 AND p.settled_at >= $3 AND p.settled_at < $4 AND p.amount > 0
           AND NOT EXISTS (SELECT FROM reconciliation_operations o
                           WHERE o.reconciliation_id = $1 AND o.ours = p.id AND o.kind = 'charge'
                             AND o.provider_ref = p.provider_ref)",
        job.id.0,
        job.provider,
        job.from,
        job.to
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// A refund we never asked for is ours if its charge is. Of one made before the span, it is compared whether it has come to nothing
/// since it was settled.
async fn refunds_there(tx: &mut TenantTx, job: &Job, region: &str) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "INSERT INTO reconciliation_differences (reconciliation_id, tenant_id, class, payment_id, refund_id, provider_ref,
             amount_here, currency_here, status_here, amount_there, currency_there, status_there)
         SELECT $1::uuid, o.tenant_id, found.class, coalesce(r.payment_id, charge.id), r.id, o.provider_ref, r.amount, r.currency,
             r.status, o.amount, o.currency, o.state
         FROM reconciliation_operations o LEFT JOIN refunds r ON r.id = o.ours
         LEFT JOIN LATERAL (SELECT p.id FROM payments p
                            WHERE r.id IS NULL AND p.tenant_id = o.tenant_id AND p.provider_ref = o.charge_ref
                              AND p.provider = $2
                            LIMIT 1) charge ON true
         CROSS JOIN LATERAL (SELECT CASE
             WHEN r.id IS NULL AND o.state = 'succeeded' AND (o.ours IS NOT NULL OR charge.id IS NOT NULL)
                 AND NOT EXISTS (SELECT FROM ledger_facts f WHERE f.fact_id = o.fact AND f.origin_region <> $5)
                 AND NOT EXISTS (SELECT FROM ledger_facts f
                                 WHERE f.kind = 'wallet' AND f.entry_id = o.fact AND f.origin_region <> $5)
                 THEN 'refund_missing_here'
             WHEN r.status = 'settled' AND o.provider_ref IS DISTINCT FROM r.provider_ref
                 THEN CASE WHEN o.state = 'succeeded' THEN 'refund_made_twice' END
             WHEN (o.state = 'succeeded') <> (r.status = 'settled') THEN 'refund_status_differs'
             WHEN o.state = 'succeeded' AND (r.amount, r.currency) <> (o.amount, o.currency) THEN 'refund_amount_differs'
             END AS class) found
         WHERE o.reconciliation_id = $1 AND o.kind = 'refund' AND o.made_at < $4
           AND (o.made_at >= $3 OR r.status = 'settled' AND o.provider_ref = r.provider_ref AND o.state <> 'succeeded')
           AND found.class IS NOT NULL",
        job.id.0,
        job.provider,
        job.from,
        job.to,
        region
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

async fn refunds_here(tx: &mut TenantTx, job: &Job) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "INSERT INTO reconciliation_differences (reconciliation_id, tenant_id, class, payment_id, refund_id, provider_ref,
             amount_here, currency_here, status_here)
         SELECT $1::uuid, r.tenant_id, 'refund_missing_at_psp', r.payment_id, r.id, r.provider_ref, r.amount, r.currency, r.status
         FROM refunds r JOIN payments p ON p.id = r.payment_id
         WHERE p.provider = $2 AND r.settled_at >= $3 AND r.settled_at < $4 AND r.goes_to = 'source'
           AND NOT EXISTS (SELECT FROM reconciliation_operations o
                           WHERE o.reconciliation_id = $1 AND o.ours = r.id AND o.kind = 'refund'
                             AND o.provider_ref = r.provider_ref)",
        job.id.0,
        job.provider,
        job.from,
        job.to
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// A dispute is the tenant's if its charge is; one about a payment that was never settled is found with that. How one opened
/// before the span was decided is compared, too.
async fn disputes_there(tx: &mut TenantTx, job: &Job) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "INSERT INTO reconciliation_differences (reconciliation_id, tenant_id, class, payment_id, provider_ref, amount_here,
             currency_here, status_here, amount_there, currency_there, status_there)
         SELECT $1::uuid, o.tenant_id, found.class, p.id, o.provider_ref, coalesce(d.amount, p.amount),
             coalesce(d.currency, p.currency), coalesce(d.status, p.status), o.amount, o.currency, o.state
         FROM reconciliation_operations o
         JOIN payments p ON p.tenant_id = o.tenant_id AND p.provider = $2 AND p.provider_ref = o.charge_ref
         LEFT JOIN disputes d ON d.payment_id = p.id AND d.provider_ref = o.provider_ref
         CROSS JOIN LATERAL (SELECT CASE
             WHEN d.id IS NULL THEN CASE WHEN o.made_at >= $3 THEN 'dispute_missing_here' END
             WHEN o.state <> CASE d.status WHEN 'won' THEN 'failed' WHEN 'lost' THEN 'succeeded' ELSE 'open' END
                 THEN 'dispute_status_differs'
             END AS class) found
         WHERE o.reconciliation_id = $1 AND o.kind = 'dispute' AND o.made_at < $4 AND found.class IS NOT NULL",
        job.id.0,
        job.provider,
        job.from,
        job.to
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

async fn payments_in_ledger(tx: &mut TenantTx, job: &Job) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "INSERT INTO reconciliation_differences (reconciliation_id, tenant_id, class, payment_id, provider_ref, amount_here,
             currency_here, status_here, amount_there, currency_there, status_there)
         SELECT $1::uuid, p.tenant_id, 'ledger_differs', p.id, p.provider_ref, p.amount, p.currency, p.status, -booked.amount,
             booked.currency, CASE WHEN booked.amount IS NOT NULL THEN 'booked' END
         FROM payments p
         LEFT JOIN LATERAL (SELECT g.amount, e.currency FROM ledger_entries e
                            JOIN ledger_postings g ON g.entry_id = e.id AND g.account = 'psp:' || p.provider
                            WHERE e.payment_id = p.id AND e.kind IN ('settlement', 'cancellation_fee', 'no_show_fee', 'tip', 'top_up')) booked
             ON true
         WHERE p.provider = $2 AND p.settled_at >= $3 AND p.settled_at < $4 AND p.amount > 0
           AND (-booked.amount, booked.currency) IS DISTINCT FROM (p.amount, p.currency)",
        job.id.0,
        job.provider,
        job.from,
        job.to
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

async fn refunds_in_ledger(tx: &mut TenantTx, job: &Job) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "INSERT INTO reconciliation_differences (reconciliation_id, tenant_id, class, payment_id, refund_id, provider_ref,
             amount_here, currency_here, status_here, amount_there, currency_there, status_there)
         SELECT $1::uuid, r.tenant_id, 'ledger_differs', p.id, r.id, r.provider_ref, r.amount, r.currency, r.status, booked.amount,
             booked.currency, CASE WHEN booked.amount IS NOT NULL THEN 'booked' END
         FROM refunds r JOIN payments p ON p.id = r.payment_id
         LEFT JOIN LATERAL (SELECT g.amount, e.currency FROM ledger_entries e
                            JOIN ledger_postings g ON g.entry_id = e.id AND g.account = 'psp:' || p.provider
                            WHERE e.refund_id = r.id) booked ON true
         WHERE p.provider = $2 AND r.settled_at >= $3 AND r.settled_at < $4 AND r.goes_to = 'source'
           AND (booked.amount, booked.currency) IS DISTINCT FROM (r.amount, r.currency)",
        job.id.0,
        job.provider,
        job.from,
        job.to
    );
    sql.execute(tx.conn()).await.map(|_| ())
}
