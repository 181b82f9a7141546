use shared::ids::{ReconciliationId, TenantId};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::unreadable;
use crate::{
    db::{SystemTx, TenantTx},
    payments::{
        Entry,
        psp::{Listed, ListedKind, OperationKey},
        reconcile::{CLOCKS_DIFFER, Difference, Job, Phase, Reconciliation, SENT_BACK_WITHIN, Seen},
    },
};

/// Makes a reconciliation; nothing if its account has one of this day. The PSP's lists will be read from where the first
/// thing began that was settled in its span.
pub(in crate::payments) async fn insert(
    tx: &mut TenantTx,
    job: &Job,
    day: Option<Date>,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let began = sqlx::query_scalar!(
        "SELECT least((SELECT min(p.created_at) FROM payments p
                       WHERE p.provider = $1 AND p.settled_at >= $2 AND p.settled_at < $3),
                      (SELECT min(r.created_at) FROM refunds r JOIN payments p ON p.id = r.payment_id
                       WHERE p.provider = $1 AND r.settled_at >= $2 AND r.settled_at < $3)) AS began",
        job.provider,
        job.from,
        job.to
    );
    let began = began.fetch_one(tx.conn()).await?;
    let list_from = began.map_or(job.list_from, |began| job.list_from.min(began - CLOCKS_DIFFER));
    let sql = sqlx::query!(
        "INSERT INTO reconciliations (id, tenant_id, provider, day, from_time, to_time, status, phase, list_from, attempts,
             next_attempt_at, listed, differences, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, 'running', $7, $8, 0, $9, 0, 0, $9)
         ON CONFLICT (tenant_id, provider, day) WHERE day IS NOT NULL DO NOTHING",
        job.id.0,
        tenant.as_str(),
        job.provider,
        day,
        job.from,
        job.to,
        job.phase.as_str(),
        list_from,
        now
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// How many of the tenant's are running.
pub(in crate::payments) async fn count_running(tx: &mut TenantTx) -> sqlx::Result<i64> {
    let sql = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM reconciliations WHERE status = 'running'"#);
    sql.fetch_one(tx.conn()).await
}

/// Tenants at home in `region` without a reconciliation of `day`.
pub(in crate::payments) async fn tenants_without_day(
    tx: &mut SystemTx,
    region: &str,
    day: Date,
    limit: i64,
) -> sqlx::Result<Vec<TenantId>> {
    let sql = sqlx::query_scalar!(
        "SELECT h.tenant_id FROM tenant_homes h
         WHERE h.region = $1 AND h.state = 'active' AND (NOT h.is_leased OR home_is_confirmed(h.tenant_id, h.term))
           AND NOT EXISTS (SELECT FROM reconciliations r WHERE r.tenant_id = h.tenant_id AND r.day = $2)
         ORDER BY h.tenant_id LIMIT $3",
        region,
        day,
        limit
    );
    let tenants = sql.fetch_all(tx.conn()).await?;
    tenants.into_iter().map(|tenant| tenant.parse().map_err(|_| unreadable("tenant_id", &tenant))).collect()
}

/// The accounts through which something was settled, or begun and not ended, or is disputed, or a refund may still be sent back.
pub(in crate::payments) async fn accounts_used(
    tx: &mut TenantTx,
    from: OffsetDateTime,
    to: OffsetDateTime,
) -> sqlx::Result<Vec<String>> {
    let sql = sqlx::query_scalar!(
        r#"SELECT p.provider AS "provider!" FROM payments p
           WHERE p.settled_at >= $1 AND p.settled_at < $2 AND p.provider NOT IN ('cash', 'wallet')
           UNION SELECT p.provider FROM payments p
           WHERE p.status IN ('pending', 'authorized', 'unknown') AND p.created_at < $2 AND p.provider NOT IN ('cash', 'wallet')
           UNION SELECT p.provider FROM refunds r JOIN payments p ON p.id = r.payment_id
           WHERE r.status IN ('pending', 'authorized', 'unknown') AND r.created_at < $2 AND r.goes_to = 'source'
             AND p.provider NOT IN ('cash', 'wallet')
           UNION SELECT p.provider FROM disputes d JOIN payments p ON p.id = d.payment_id WHERE d.status = 'open'
           UNION SELECT p.provider FROM refunds r JOIN payments p ON p.id = r.payment_id
           WHERE r.settled_at >= $3 AND r.settled_at < $2 AND r.goes_to = 'source' AND p.provider NOT IN ('cash', 'wallet')"#,
        from,
        to,
        from - SENT_BACK_WITHIN
    );
    sql.fetch_all(tx.conn()).await
}

/// Takes reconciliations somebody must go on with, of tenants at home in `region`, and holds them until `held_until`.
pub(in crate::payments) async fn claim_due(
    tx: &mut SystemTx,
    region: &str,
    now: OffsetDateTime,
    held_until: OffsetDateTime,
    limit: i64,
) -> sqlx::Result<Vec<(TenantId, ReconciliationId)>> {
    let sql = sqlx::query!(
        "UPDATE reconciliations SET attempts = attempts + 1, next_attempt_at = $3
         WHERE id IN (SELECT r.id FROM reconciliations r JOIN tenant_homes h ON h.tenant_id = r.tenant_id
                      WHERE r.status = 'running' AND r.next_attempt_at <= $2 AND h.region = $1 AND h.state = 'active'
                        AND (NOT h.is_leased OR home_is_confirmed(h.tenant_id, h.term))
                      ORDER BY r.next_attempt_at LIMIT $4 FOR UPDATE OF r SKIP LOCKED)
         RETURNING tenant_id, id",
        region,
        now,
        held_until,
        limit
    );
    let rows = sql.fetch_all(tx.conn()).await?.into_iter();
    let claimed = |tenant: String, id| Ok((tenant.parse().map_err(|_| unreadable("tenant_id", &tenant))?, id));
    rows.map(|row| claimed(row.tenant_id, ReconciliationId(row.id))).collect()
}

/// What it takes to go on with one that is running.
pub(in crate::payments) async fn load_job(tx: &mut TenantTx, id: ReconciliationId) -> sqlx::Result<Option<Job>> {
    let sql = sqlx::query!(
        "SELECT provider, from_time, to_time, list_from, phase, cursor, attempts, next_attempt_at FROM reconciliations
         WHERE id = $1 AND status = 'running'",
        id.0
    );
    let Some(row) = sql.fetch_optional(tx.conn()).await? else { return Ok(None) };
    Ok(Some(Job {
        id,
        provider: row.provider,
        from: row.from_time,
        to: row.to_time,
        list_from: row.list_from,
        phase: Phase::from_name(&row.phase).ok_or_else(|| unreadable("phase", &row.phase))?,
        cursor: row.cursor,
        attempts: row.attempts,
        held_until: row.next_attempt_at,
    }))
}

/// Goes on to `next`, unless another node holds it by now.
pub(in crate::payments) async fn advance(
    tx: &mut TenantTx,
    job: &Job,
    next: &Job,
    listed: usize,
) -> sqlx::Result<bool> {
    let sql = sqlx::query!(
        "UPDATE reconciliations SET phase = $3, cursor = $4, attempts = $5, next_attempt_at = $6, listed = listed + $7,
             failure = NULL
         WHERE id = $1 AND status = 'running' AND next_attempt_at = $2",
        job.id.0,
        job.held_until,
        next.phase.as_str(),
        next.cursor,
        next.attempts,
        next.held_until,
        i64::try_from(listed).unwrap_or(i64::MAX)
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected() == 1)
}

/// Keeps a page of what the PSP has done.
pub(in crate::payments) async fn keep_listed(
    tx: &mut TenantTx,
    id: ReconciliationId,
    kind: ListedKind,
    page: &[Listed],
) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let ours = |listed: &Listed| match listed.key {
        Some(OperationKey::Payment(id)) => (Some(id.0), Some(Entry::id_of_settlement(id).0)),
        Some(OperationKey::Refund(id)) => (Some(id.0), Some(Entry::id_of_refund(id).0)),
        None => (None, None),
    };
    let (refs, charges): (Vec<_>, Vec<_>) =
        page.iter().map(|one| (one.provider_ref.clone(), one.charge_ref.clone())).unzip();
    let (amounts, currencies): (Vec<_>, Vec<_>) = page.iter().map(|one| (one.amount, one.currency.clone())).unzip();
    let (states, times): (Vec<_>, Vec<_>) =
        page.iter().map(|one| (one.state.as_str().to_owned(), one.created_at)).unzip();
    let (ours, facts): (Vec<_>, Vec<_>) = page.iter().map(ours).unzip();
    let sql = sqlx::query!(
        "INSERT INTO reconciliation_operations (reconciliation_id, tenant_id, kind, provider_ref, ours, fact, charge_ref,
             amount, currency, state, made_at)
         SELECT $1, $2, $3, page.* FROM unnest($4::text[], $5::uuid[], $6::uuid[], $7::text[], $8::bigint[], $9::text[],
             $10::text[], $11::timestamptz[]) AS page
         ON CONFLICT (reconciliation_id, kind, provider_ref) DO NOTHING",
        id.0,
        tenant.as_str(),
        kind.as_str(),
        &refs,
        &ours as _,
        &facts as _,
        &charges as _,
        &amounts,
        &currencies,
        &states,
        &times
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// Lets one wait until `next_attempt_at`; without one it has failed.
pub(in crate::payments) async fn put_off(
    tx: &mut TenantTx,
    job: &Job,
    attempts: i32,
    next_attempt_at: Option<OffsetDateTime>,
    why: Option<&str>,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "UPDATE reconciliations SET attempts = $3, next_attempt_at = $4, failure = coalesce($5, failure),
             status = CASE WHEN $4::timestamptz IS NULL THEN 'failed' ELSE status END,
             finished_at = CASE WHEN $4::timestamptz IS NULL THEN $6::timestamptz END
         WHERE id = $1 AND status = 'running' AND next_attempt_at = $2",
        job.id.0,
        job.held_until,
        attempts,
        next_attempt_at,
        why,
        now
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// Whether it is still ours to go on with; holds its row until the transaction ends.
pub(in crate::payments) async fn is_held(tx: &mut TenantTx, job: &Job) -> sqlx::Result<bool> {
    let sql = sqlx::query!(
        "SELECT id FROM reconciliations WHERE id = $1 AND status = 'running' AND next_attempt_at = $2 FOR UPDATE",
        job.id.0,
        job.held_until
    );
    Ok(sql.fetch_optional(tx.conn()).await?.is_some())
}

/// Ends a compared one; how many differences it has. What the PSP listed is not needed any more.
pub(in crate::payments) async fn complete(
    tx: &mut TenantTx,
    id: ReconciliationId,
    now: OffsetDateTime,
) -> sqlx::Result<i64> {
    sqlx::query!("DELETE FROM reconciliation_operations WHERE reconciliation_id = $1", id.0).execute(tx.conn()).await?;
    let sql = sqlx::query_scalar!(
        "UPDATE reconciliations SET status = 'completed', next_attempt_at = NULL, finished_at = $2, failure = NULL,
             differences = (SELECT count(*) FROM reconciliation_differences d WHERE d.reconciliation_id = $1)
         WHERE id = $1 RETURNING differences",
        id.0,
        now
    );
    sql.fetch_one(tx.conn()).await
}

/// A reconciliation, as clients see it.
pub(in crate::payments) async fn load(tx: &mut TenantTx, id: ReconciliationId) -> sqlx::Result<Option<Reconciliation>> {
    let sql = sqlx::query_as!(
        Reconciliation,
        r#"SELECT id, provider, day::text AS day, from_time AS "from", to_time AS "to", status, failure, listed, differences,
               created_at, finished_at
           FROM reconciliations WHERE id = $1"#,
        id.0
    );
    sql.fetch_optional(tx.conn()).await
}

/// The tenant's, the newest first, begun before `before`; only what somebody should look at, if `attention`.
pub(in crate::payments) async fn list(
    tx: &mut TenantTx,
    attention: bool,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Reconciliation>> {
    let sql = sqlx::query_as!(
        Reconciliation,
        r#"SELECT id, provider, day::text AS day, from_time AS "from", to_time AS "to", status, failure, listed, differences,
               created_at, finished_at
           FROM reconciliations WHERE id < $1 AND (NOT $2 OR differences > 0 OR status = 'failed')
           ORDER BY id DESC LIMIT $3"#,
        before.unwrap_or(Uuid::max()),
        attention,
        limit
    );
    sql.fetch_all(tx.conn()).await
}

/// Its differences after one of them.
pub(in crate::payments) async fn differences(
    tx: &mut TenantTx,
    id: ReconciliationId,
    after: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Difference>> {
    let sql = sqlx::query!(
        "SELECT id, class, payment_id, refund_id, provider_ref, amount_here, currency_here, status_here, amount_there,
             currency_there, status_there
         FROM reconciliation_differences WHERE reconciliation_id = $1 AND ($2::uuid IS NULL OR id > $2)
         ORDER BY id LIMIT $3",
        id.0,
        after,
        limit
    );
    let seen = |amount, currency, status| Some(Seen { amount: amount?, currency: currency?, status: status? });
    let rows = sql.fetch_all(tx.conn()).await?.into_iter();
    Ok(rows
        .map(|row| Difference {
            id: row.id,
            class: row.class,
            payment_id: row.payment_id.map(Into::into),
            refund_id: row.refund_id.map(Into::into),
            provider_ref: row.provider_ref,
            here: seen(row.amount_here, row.currency_here, row.status_here),
            there: seen(row.amount_there, row.currency_there, row.status_there),
        })
        .collect())
}

/// By class, what reconciliations that ended after `since` have found.
pub(in crate::payments) async fn found_since(
    tx: &mut SystemTx,
    since: OffsetDateTime,
) -> sqlx::Result<Vec<(String, i64)>> {
    let sql = sqlx::query!(
        r#"SELECT d.class, count(*) AS "count!" FROM reconciliations r
           JOIN reconciliation_differences d ON d.reconciliation_id = r.id
           WHERE r.finished_at > $1 AND (r.differences > 0 OR r.status = 'failed') GROUP BY d.class"#,
        since
    );
    Ok(sql.fetch_all(tx.conn()).await?.into_iter().map(|row| (row.class, row.count)).collect())
}

/// Reconciliations given up after `since`.
pub(in crate::payments) async fn count_failed_since(tx: &mut SystemTx, since: OffsetDateTime) -> sqlx::Result<i64> {
    let sql = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM reconciliations
           WHERE finished_at > $1 AND (differences > 0 OR status = 'failed') AND status = 'failed'"#,
        since
    );
    sql.fetch_one(tx.conn()).await
}
