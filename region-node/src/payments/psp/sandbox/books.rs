//! The sandbox's own books: all its SQL.

use time::OffsetDateTime;

use crate::{
    db::{SystemTx, TenantTx},
    payments::psp::{Listing, OperationKey},
};

/// An operation as the books have it.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) provider_ref: String,
    pub(super) charge_ref: Option<String>,
    pub(super) token: String,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) outcome: String,
    pub(super) decline_code: Option<String>,
    /// Every attempt is answered with a server error, although it is done.
    pub(super) replays_error: bool,
    pub(super) attempts: i32,
}

/// An operation as it is listed.
pub(super) struct Entry {
    pub(super) idempotency_key: String,
    pub(super) provider_ref: String,
    pub(super) charge_ref: Option<String>,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) outcome: String,
    pub(super) created_at: OffsetDateTime,
}

/// A webhook whose time has come.
pub(super) struct Webhook {
    pub(super) tenant_id: String,
    pub(super) event_id: String,
    pub(super) idempotency_key: String,
}

/// Writes an operation into the books and holds its key until the transaction ends; false if the key is in use or known.
pub(super) async fn insert(
    tx: &mut TenantTx,
    key: OperationKey,
    kind: &str,
    operation: &Operation,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO sandbox_psp_operations (idempotency_key, tenant_id, provider_ref, kind, charge_ref, token, amount,
             currency, outcome, decline_code, replays_error, created_at)
         SELECT $1::text, $2::text, $3::text, $4::text, $5::text, $6::text, $7::bigint, $8::text, $9::text, $10::text,
             $11::boolean, $12::timestamptz
         WHERE pg_try_advisory_xact_lock(hashtextextended('sandbox:' || $1::text, 0))
         ON CONFLICT (idempotency_key) DO NOTHING",
        key.to_string(),
        tenant.as_str(),
        operation.provider_ref,
        kind,
        operation.charge_ref,
        operation.token,
        operation.amount,
        operation.currency,
        operation.outcome,
        operation.decline_code,
        operation.replays_error,
        now
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected() == 1)
}

/// What is known under a key, which the transaction then holds; none while another one does.
pub(super) async fn hold(tx: &mut TenantTx, key: OperationKey) -> sqlx::Result<Option<Operation>> {
    let sql = sqlx::query_as!(
        Operation,
        "SELECT provider_ref, charge_ref, token, amount, currency, outcome, decline_code, replays_error, attempts
         FROM sandbox_psp_operations
         WHERE idempotency_key = $1 AND pg_try_advisory_xact_lock(hashtextextended('sandbox:' || $1, 0))",
        key.to_string()
    );
    sql.fetch_optional(tx.conn()).await
}

/// Writes down how an attempt after the first ended.
pub(super) async fn save(tx: &mut TenantTx, key: OperationKey, operation: &Operation) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "UPDATE sandbox_psp_operations SET outcome = $2, decline_code = $3, replays_error = $4, attempts = $5
         WHERE idempotency_key = $1",
        key.to_string(),
        operation.outcome,
        operation.decline_code,
        operation.replays_error,
        operation.attempts
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// What is known under a key.
pub(super) async fn load(tx: &mut TenantTx, key: OperationKey) -> sqlx::Result<Option<Operation>> {
    let sql = sqlx::query_as!(
        Operation,
        "SELECT provider_ref, charge_ref, token, amount, currency, outcome, decline_code, replays_error, attempts
         FROM sandbox_psp_operations WHERE idempotency_key = $1",
        key.to_string()
    );
    sql.fetch_optional(tx.conn()).await
}

/// Refunds of one charge follow one another.
pub(super) async fn lock_charge(tx: &mut TenantTx, charge_ref: &str) -> sqlx::Result<Option<Operation>> {
    let sql = sqlx::query_as!(
        Operation,
        "SELECT provider_ref, charge_ref, token, amount, currency, outcome, decline_code, replays_error, attempts
         FROM sandbox_psp_operations
         WHERE provider_ref = $1 AND kind = 'charge' AND outcome = 'succeeded' FOR UPDATE",
        charge_ref
    );
    sql.fetch_optional(tx.conn()).await
}

/// The key of what a charge was made for.
pub(super) async fn key_of_charge(tx: &mut TenantTx, charge_ref: &str) -> sqlx::Result<Option<String>> {
    let sql = sqlx::query_scalar!(
        "SELECT idempotency_key FROM sandbox_psp_operations WHERE provider_ref = $1 AND kind = 'charge'",
        charge_ref
    );
    sql.fetch_optional(tx.conn()).await
}

/// How much of a charge went back.
pub(super) async fn refunded(tx: &mut TenantTx, charge_ref: &str) -> sqlx::Result<i64> {
    let sql = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(amount), 0)::bigint AS "sum!" FROM sandbox_psp_operations
           WHERE charge_ref = $1 AND kind = 'refund' AND outcome = 'succeeded'"#,
        charge_ref
    );
    sql.fetch_one(tx.conn()).await
}

/// What was done, oldest first, after what is listed already.
pub(super) async fn list(
    tx: &mut TenantTx,
    listing: &Listing,
    after: (OffsetDateTime, &str),
    limit: i64,
) -> sqlx::Result<Vec<Entry>> {
    let sql = sqlx::query_as!(
        Entry,
        "SELECT idempotency_key, provider_ref, charge_ref, amount, currency, outcome, created_at
         FROM sandbox_psp_operations
         WHERE tenant_id = $1 AND kind = $2 AND outcome <> 'error' AND created_at >= $3 AND created_at < $4
           AND (created_at, provider_ref) > ($5, $6)
         ORDER BY created_at, provider_ref LIMIT $7",
        listing.tenant.as_str(),
        listing.kind.as_str(),
        listing.from,
        listing.to,
        after.0,
        after.1,
        limit
    );
    sql.fetch_all(tx.conn()).await
}

/// Has a webhook sent at each of these times.
pub(super) async fn announce(
    tx: &mut TenantTx,
    key: OperationKey,
    event_id: &str,
    due: &[OffsetDateTime],
) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO sandbox_psp_webhooks (tenant_id, event_id, idempotency_key, due_at)
         SELECT $1, $2, $3, due_at FROM unnest($4::timestamptz[]) AS due (due_at)",
        tenant.as_str(),
        event_id,
        key.to_string(),
        due
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// Takes webhooks whose time has come, of tenants at home in `region`.
pub(super) async fn take_due(
    tx: &mut SystemTx,
    region: &str,
    now: OffsetDateTime,
    limit: i64,
) -> sqlx::Result<Vec<Webhook>> {
    let sql = sqlx::query_as!(
        Webhook,
        "DELETE FROM sandbox_psp_webhooks
         WHERE id IN (SELECT w.id FROM sandbox_psp_webhooks w JOIN tenant_homes h ON h.tenant_id = w.tenant_id
                      WHERE w.due_at <= $2 AND h.region = $1 AND h.state = 'active'
                      ORDER BY w.due_at LIMIT $3 FOR UPDATE OF w SKIP LOCKED)
         RETURNING tenant_id, event_id, idempotency_key",
        region,
        now,
        limit
    );
    sql.fetch_all(tx.conn()).await
}
