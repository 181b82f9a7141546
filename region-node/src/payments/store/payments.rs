use shared::{
    ids::{DriverId, PaymentId, RideId, RiderId, ShareId, TripId},
    money::Money,
};
use sqlx::types::Json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{BROKEN_OFF, Claim, asked_by, money, retried, unreadable};
use crate::{
    db::{SystemTx, TenantTx},
    payments::{
        Dispute, PaymentKind, PaymentStatus, Sequence, Split, Step, machine::MAX_ATTEMPTS, record::PaymentRecord,
    },
    pricing::Fare,
    rides::{CancelledBy, PaymentMethod},
    trips::TripStatus,
};

struct Row {
    id: Uuid,
    ride_id: Uuid,
    trip_id: Uuid,
    rider_id: Uuid,
    driver_id: Option<Uuid>,
    share_id: Option<Uuid>,
    kind: String,
    status: String,
    method: Json<PaymentMethod>,
    amount: i64,
    refunded_amount: i64,
    currency: String,
    tax_amount: i64,
    commission_amount: i64,
    promotion_amount: i64,
    provider: String,
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
    remote_durable_at: Option<OffsetDateTime>,
    dispute: Option<Json<Dispute>>,
}

impl TryFrom<Row> for PaymentRecord {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        let status = PaymentStatus::from_name(&row.status).ok_or_else(|| unreadable("status", &row.status))?;
        Ok(Self {
            id: row.id.into(),
            ride_id: row.ride_id.into(),
            trip_id: row.trip_id.into(),
            rider_id: row.rider_id.into(),
            driver_id: row.driver_id.map(Into::into),
            share_id: row.share_id.map(Into::into),
            kind: PaymentKind::from_name(&row.kind).ok_or_else(|| unreadable("kind", &row.kind))?,
            method: row.method.0,
            amount: money(row.amount, &row.currency)?,
            refunded_amount: row.refunded_amount,
            split: Split::of_amount(row.amount, row.tax_amount, row.commission_amount, row.promotion_amount),
            provider: row.provider,
            sequence: Sequence {
                step: match status {
                    PaymentStatus::Pending => Step::Pending,
                    PaymentStatus::Unknown => Step::Unknown,
                    PaymentStatus::Authorized => Step::Authorized,
                    PaymentStatus::Failed => Step::Failed,
                    PaymentStatus::Settled | PaymentStatus::PartiallyRefunded | PaymentStatus::Refunded => {
                        Step::Settled
                    }
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
            remote_durable_at: row.remote_durable_at,
            dispute: row.dispute.map(|dispute| dispute.0),
        })
    }
}

/// Selects payments; `$tail` is what follows FROM.
macro_rules! select {
    ($tx:expr, $tail:tt $(, $argument:expr)*) => {{
        let sql = sqlx::query_as!(
            Row,
            r#"SELECT p.id, p.ride_id, p.trip_id, p.rider_id, p.driver_id, p.share_id, p.kind, p.status,
                   p.method AS "method: Json<PaymentMethod>", p.amount, p.refunded_amount, p.currency, p.tax_amount,
                   p.commission_amount, p.promotion_amount, p.provider, p.provider_ref, p.failure_code, p.attempts, p.next_attempt_at, p.last_error,
                   p.retried_by, p.retried_at,
                   p.requested_by, p.idempotency_key, p.request_hash, p.created_at, p.settled_at,
                   (SELECT d.durable_at FROM ledger_facts f JOIN repl_remote_durable d USING (origin_region, origin_incarnation)
                    WHERE f.tenant_id = p.tenant_id AND f.payment_id = p.id AND f.kind = 'settlement'
                      AND d.seq >= f.origin_seq
                    ORDER BY d.seq LIMIT 1)
                   AS remote_durable_at,
                   (SELECT jsonb_build_object('status', d.status,
                               'amount', jsonb_build_object('amount', d.amount, 'currency', d.currency))
                    FROM disputes d WHERE d.payment_id = p.id ORDER BY d.opened_at DESC, d.id DESC LIMIT 1)
                   AS "dispute: Json<Dispute>"
               FROM payments p "# + $tail
            $(, $argument)*
        );
        sql.fetch_all($tx.conn()).await?.into_iter().map(PaymentRecord::try_from).collect::<sqlx::Result<Vec<_>>>()
    }};
}

/// Loads a payment.
pub(in crate::payments) async fn load(tx: &mut TenantTx, id: PaymentId) -> sqlx::Result<Option<PaymentRecord>> {
    Ok(select!(tx, "WHERE p.id = $1", id.0)?.pop())
}

/// Loads a payment and holds its row until the transaction ends.
pub(in crate::payments) async fn lock(tx: &mut TenantTx, id: PaymentId) -> sqlx::Result<Option<PaymentRecord>> {
    Ok(select!(tx, "WHERE p.id = $1 FOR UPDATE OF p", id.0)?.pop())
}

/// The payment whose charge the PSP knows by that name, locked.
pub(in crate::payments) async fn lock_charged_as(
    tx: &mut TenantTx,
    provider: &str,
    provider_ref: &str,
) -> sqlx::Result<Option<PaymentRecord>> {
    let found = select!(tx, "WHERE p.provider = $1 AND p.provider_ref = $2 FOR UPDATE OF p", provider, provider_ref);
    Ok(found?.pop())
}

/// The payment `caller` began under `key` after `since`, locked.
pub(in crate::payments) async fn asked_under_key(
    tx: &mut TenantTx,
    caller: &str,
    key: &str,
    since: OffsetDateTime,
) -> sqlx::Result<Option<PaymentRecord>> {
    let found = select!(
        tx,
        "WHERE p.requested_by = $1 AND p.idempotency_key = $2 AND p.created_at > $3
         ORDER BY p.id DESC LIMIT 1 FOR UPDATE OF p",
        caller,
        key,
        since
    );
    Ok(found?.pop())
}

/// Payments nobody goes on with any more though they have not ended, newest first.
pub(in crate::payments) async fn given_up(
    tx: &mut TenantTx,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<PaymentRecord>> {
    select!(
        tx,
        "WHERE p.status IN ('pending', 'authorized', 'unknown') AND p.next_attempt_at IS NULL
           AND ($1::uuid IS NULL OR p.id < $1) ORDER BY p.id DESC LIMIT $2",
        before,
        limit
    )
}

/// What a trip's payment is made of.
pub(in crate::payments) struct Owed {
    pub(in crate::payments) trip_id: TripId,
    pub(in crate::payments) ride_id: RideId,
    pub(in crate::payments) rider_id: RiderId,
    pub(in crate::payments) driver_id: DriverId,
    pub(in crate::payments) status: TripStatus,
    pub(in crate::payments) fare: Option<Fare>,
    /// Of a ride that was given up on this trip.
    pub(in crate::payments) cancellation_fee: Option<Money>,
    /// Who gave it up.
    pub(in crate::payments) cancelled_by: Option<CancelledBy>,
    /// Of the tariff the ride was quoted by.
    pub(in crate::payments) commission_percent: Option<u8>,
    /// As the ride was asked for.
    pub(in crate::payments) method: PaymentMethod,
    /// What others pay of the fare, or were to pay, oldest first.
    pub(in crate::payments) shares: Vec<OwedShare>,
    /// In the ledger. The payment itself may be gone, if an old backup was restored; such a one counts as fare and as tip.
    pub(in crate::payments) is_settled: bool,
    /// Likewise of a tip.
    pub(in crate::payments) is_tipped: bool,
}

fn unknown_name(error: String) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

/// A share of a fare, fixed.
pub(in crate::payments) struct OwedShare {
    pub(in crate::payments) id: ShareId,
    pub(in crate::payments) amount: i64,
    /// The ride's rider is to pay it.
    pub(in crate::payments) has_fallen_back: bool,
}

/// Reads what is owed for a trip; `share` is of its fare, none the ride's rider's own part.
pub(in crate::payments) async fn owed(
    tx: &mut TenantTx,
    trip: TripId,
    share: Option<ShareId>,
) -> sqlx::Result<Option<Owed>> {
    let row = sqlx::query!(
        r#"SELECT t.ride_id, t.rider_id, t.driver_id, t.status, t.fare AS "fare: Json<Fare>",
                  CASE WHEN r.trip_id = t.id THEN r.cancellation_fee END AS cancellation_fee,
                  r.cancelled_by,
                  r.quote ->> 'currency' AS "currency!",
                  (r.quote #>> '{tariff,commission_percent}')::smallint AS commission_percent,
                  r.payment_method AS "method: Json<PaymentMethod>",
                  EXISTS (SELECT FROM ledger_facts f
                          WHERE f.tenant_id = t.tenant_id AND f.trip_id = t.id AND f.kind = 'settlement'
                            AND NOT EXISTS (SELECT FROM payments p WHERE p.id = f.payment_id
                                            AND (p.kind = 'tip' OR p.share_id IS DISTINCT FROM $2)))
                  AS "is_settled!",
                  ARRAY(SELECT s.id FROM fare_shares s WHERE s.ride_id = t.ride_id AND s.amount IS NOT NULL ORDER BY s.id)
                  AS "share_ids!",
                  ARRAY(SELECT s.amount FROM fare_shares s WHERE s.ride_id = t.ride_id AND s.amount IS NOT NULL ORDER BY s.id)
                  AS "share_amounts!",
                  ARRAY(SELECT s.status = 'fallen_back' FROM fare_shares s
                        WHERE s.ride_id = t.ride_id AND s.amount IS NOT NULL ORDER BY s.id) AS "shares_fallen_back!",
                  EXISTS (SELECT FROM ledger_facts f
                          WHERE f.tenant_id = t.tenant_id AND f.trip_id = t.id AND f.kind = 'settlement'
                            AND NOT EXISTS (SELECT FROM payments p WHERE p.id = f.payment_id AND p.kind <> 'tip'))
                  AS "is_tipped!"
           FROM trips t JOIN rides r ON r.id = t.ride_id WHERE t.id = $1"#,
        trip.0,
        share.map(|share| share.0)
    );
    let Some(row) = row.fetch_optional(tx.conn()).await? else { return Ok(None) };
    let cancellation_fee = row.cancellation_fee.map(|fee| money(fee, &row.currency)).transpose()?;
    let shares = row.share_ids.into_iter().zip(row.share_amounts).zip(row.shares_fallen_back);
    let shares = shares.map(|((id, amount), has_fallen_back)| OwedShare { id: ShareId(id), amount, has_fallen_back });
    Ok(Some(Owed {
        trip_id: trip,
        ride_id: row.ride_id.into(),
        rider_id: row.rider_id.into(),
        driver_id: row.driver_id.into(),
        status: row.status.parse().map_err(unknown_name)?,
        fare: row.fare.map(|fare| fare.0),
        cancellation_fee,
        cancelled_by: row.cancelled_by.map(|by| by.parse()).transpose().map_err(unknown_name)?,
        commission_percent: row.commission_percent.and_then(|percent| percent.try_into().ok()),
        method: row.method.0,
        shares: shares.collect(),
        is_settled: row.is_settled,
        is_tipped: row.is_tipped,
    }))
}

/// Records the intent to charge. `one_live_payment_per_share` and `one_live_tip_per_trip` refuse a second one for the same.
pub(in crate::payments) async fn insert(tx: &mut TenantTx, payment: &PaymentRecord) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let asked_by = payment.asked_by.as_ref();
    let sql = sqlx::query!(
        "INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, driver_id, kind, status, method, amount, currency,
             tax_amount, commission_amount, promotion_amount, provider, provider_ref, failure_code, attempts, next_attempt_at,
             requested_by, idempotency_key, request_hash, created_at, updated_at, share_id, last_error)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $23, $24, $25)",
        payment.id.0,
        tenant.as_str(),
        payment.ride_id.0,
        payment.trip_id.0,
        payment.rider_id.0,
        payment.driver_id.map(|id| id.0),
        payment.kind.as_str(),
        payment.status().as_str(),
        Json(&payment.method) as _,
        payment.amount.amount,
        payment.amount.currency.code(),
        payment.split.tax,
        payment.split.commission,
        payment.split.promotion,
        payment.provider,
        payment.sequence.provider_ref,
        payment.sequence.failure_code,
        payment.sequence.attempts,
        payment.sequence.next_attempt_at,
        asked_by.map(|asked| asked.caller.as_str()),
        asked_by.map(|asked| asked.key.as_str()),
        asked_by.map(|asked| asked.request_hash.as_slice()),
        payment.created_at,
        payment.share_id.map(|id| id.0),
        payment.sequence.last_error,
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// Saves how far a locked payment is.
pub(in crate::payments) async fn save(
    tx: &mut TenantTx,
    payment: &PaymentRecord,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "UPDATE payments SET status = $2, refunded_amount = $3, provider_ref = $4, failure_code = $5, attempts = $6,
             next_attempt_at = $7, settled_at = $8, updated_at = $9, last_error = $10, retried_by = $11, retried_at = $12
         WHERE id = $1",
        payment.id.0,
        payment.status().as_str(),
        payment.refunded_amount,
        payment.sequence.provider_ref,
        payment.sequence.failure_code,
        payment.sequence.attempts,
        payment.sequence.next_attempt_at,
        payment.settled_at,
        now,
        payment.sequence.last_error,
        payment.sequence.retried.as_ref().map(|retried| retried.by.as_str()),
        payment.sequence.retried.as_ref().map(|retried| retried.at),
    );
    sql.execute(tx.conn()).await.map(|_| ())
}

/// Takes payments somebody must go on with, of tenants at home in `region`, or that were until another region took them by force;
/// each is held for `hold`, so that no two nodes take the same one.
pub(in crate::payments) async fn claim_due(
    tx: &mut SystemTx,
    region: &str,
    now: OffsetDateTime,
    hold: Duration,
    limit: i64,
) -> sqlx::Result<Vec<Claim<PaymentId>>> {
    let sql = sqlx::query!(
        r#"UPDATE payments SET attempts = CASE WHEN attempts < $5 THEN attempts + 1 ELSE attempts END,
             next_attempt_at = CASE WHEN attempts < $5 THEN $3::timestamptz END,
             last_error = CASE WHEN attempts < $5 THEN last_error ELSE concat_ws('; before that: ', $6::text, last_error) END
         WHERE id IN (SELECT p.id FROM payments p JOIN tenant_homes h ON h.tenant_id = p.tenant_id
                      WHERE p.status IN ('pending', 'authorized', 'unknown') AND p.next_attempt_at <= $2
                        AND (h.region = $1 AND h.state = 'active' OR h.lost_term IS NOT NULL)
                      ORDER BY p.next_attempt_at LIMIT $4 FOR UPDATE OF p SKIP LOCKED)
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
