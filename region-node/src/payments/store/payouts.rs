use shared::ids::{DriverId, PayoutId, RegionName, TenantId};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{money, unreadable};
use crate::{
    db::{SystemTx, TenantTx},
    payments::{
        forgotten::Holder,
        payout::{PayoutRecord, Run},
    },
};

/// Holds a driver's row until the transaction ends, if there is such a driver: payouts of one driver are made one at a time.
pub(in crate::payments) async fn lock_driver(tx: &mut TenantTx, driver: DriverId) -> sqlx::Result<bool> {
    let sql = sqlx::query_scalar!("SELECT id FROM drivers WHERE id = $1 FOR NO KEY UPDATE", driver.0);
    Ok(sql.fetch_optional(tx.conn()).await?.is_some())
}

/// Whether there is such a driver.
pub(in crate::payments) async fn is_driver(tx: &mut TenantTx, driver: DriverId) -> sqlx::Result<bool> {
    let sql = sqlx::query_scalar!("SELECT id FROM drivers WHERE id = $1", driver.0);
    Ok(sql.fetch_optional(tx.conn()).await?.is_some())
}

/// Whether other regions may remember what this one has paid, and has forgotten itself: its database may be an old backup, or
/// was one, and not every region has spoken since, or one has more of what this region wrote than is applied here.
pub(in crate::payments) async fn is_in_doubt(tx: &mut TenantTx, region: &RegionName) -> sqlx::Result<bool> {
    let sql = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM repl_self WHERE doubted OR database <> repl_database())
               OR EXISTS (SELECT FROM repl_self s, regions r
                          WHERE s.incarnation > 1 AND r.name <> $1 AND r.state <> 'retired'
                            AND NOT EXISTS (SELECT FROM repl_ack a WHERE a.peer = r.name AND a.acked_at >= s.changed_at))
               OR EXISTS (SELECT FROM repl_ack a
                              LEFT JOIN repl_apply p USING (origin_region, origin_incarnation, stream)
                          WHERE a.origin_region = $1 AND a.stream = 'ledger' AND a.stored > coalesce(p.applied, 0))
           AS "is_in_doubt!""#,
        region.as_str()
    );
    sql.fetch_one(tx.conn()).await
}

/// A driver's payouts that other regions remember and this one has forgotten, the oldest first.
pub(in crate::payments) async fn forgotten(tx: &mut TenantTx, driver: DriverId) -> sqlx::Result<Vec<PayoutRecord>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        r#"SELECT f.payout_id AS "payout_id!", f.amount, f.currency, f.settled_at FROM ledger_facts f
           WHERE f.tenant_id = $1 AND f.driver_id = $2 AND f.kind = 'payout'
             AND NOT EXISTS (SELECT FROM ledger_entries e WHERE e.id = f.fact_id)
           ORDER BY f.position"#,
        tenant.as_str(),
        driver.0
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    rows.into_iter()
        .map(|row| {
            Ok(PayoutRecord {
                id: row.payout_id.into(),
                driver_id: driver,
                amount: money(row.amount, &row.currency)?,
                day: None,
                made_by: "replication".to_owned(),
                created_at: row.settled_at,
            })
        })
        .collect()
}

/// Facts that are looked through with one statement.
const FACTS_AT_ONCE: i64 = 100_000;

/// Whose payouts, or movements of wallets, this region has forgotten, of tenants at home here: those whose facts came after
/// `position`; and up to which position they were looked at, [`FACTS_AT_ONCE`] at most.
pub(in crate::payments) async fn holders_forgotten(
    tx: &mut SystemTx,
    region: &RegionName,
    position: i64,
) -> sqlx::Result<(Vec<(TenantId, Holder)>, i64)> {
    let sql = sqlx::query_scalar!(r#"SELECT coalesce(max(position), 0) AS "newest!" FROM ledger_facts"#);
    let until = sql.fetch_one(tx.conn()).await?.min(position + FACTS_AT_ONCE);
    let sql = sqlx::query!(
        r#"SELECT DISTINCT f.tenant_id, f.driver_id, f.rider_id
           FROM ledger_facts f JOIN tenant_homes h ON h.tenant_id = f.tenant_id AND h.region = $1
           WHERE f.kind IN ('payout', 'wallet') AND f.position > $2 AND f.position <= $3
             AND NOT EXISTS (SELECT FROM ledger_entries e WHERE e.id = coalesce(f.entry_id, f.fact_id))"#,
        region.as_str(),
        position,
        until
    );
    let rows = sql.fetch_all(tx.conn()).await?;
    let tenant = |id: &str| id.parse().map_err(|_| unreadable("tenant_id", id));
    let holder = |driver: Option<Uuid>, rider: Option<Uuid>| {
        let driver = driver.map(|id| Holder::Driver(id.into()));
        driver.or(rider.map(|id| Holder::Rider(id.into())))
    };
    let holders = rows.into_iter().filter_map(|row| {
        let holder = holder(row.driver_id, row.rider_id)?;
        Some(tenant(&row.tenant_id).map(|tenant| (tenant, holder)))
    });
    Ok((holders.collect::<sqlx::Result<_>>()?, until))
}

/// Records a payout; false if the driver was paid for that day already, as `one_daily_payout_per_driver` knows.
pub(in crate::payments) async fn insert(tx: &mut TenantTx, payout: &PayoutRecord) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO payouts (id, tenant_id, driver_id, amount, currency, day, made_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (driver_id, currency, day) WHERE day IS NOT NULL DO NOTHING",
        payout.id.0,
        tenant.as_str(),
        payout.driver_id.0,
        payout.amount.amount,
        payout.amount.currency.code(),
        payout.day,
        payout.made_by,
        payout.created_at
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected() > 0)
}

/// Loads a payout.
pub(in crate::payments) async fn load(tx: &mut TenantTx, id: PayoutId) -> sqlx::Result<Option<PayoutRecord>> {
    let sql = sqlx::query_as!(
        Row,
        "SELECT id, driver_id, amount, currency, day, made_by, created_at FROM payouts WHERE id = $1",
        id.0
    );
    sql.fetch_optional(tx.conn()).await?.map(PayoutRecord::try_from).transpose()
}

/// Payouts, of one driver or of all, the newest first.
pub(in crate::payments) async fn list(
    tx: &mut TenantTx,
    driver: Option<DriverId>,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<PayoutRecord>> {
    let tenant = tx.tenant().clone();
    let rows = match driver {
        Some(driver) => {
            let sql = sqlx::query_as!(
                Row,
                "SELECT id, driver_id, amount, currency, day, made_by, created_at FROM payouts
                 WHERE tenant_id = $1 AND driver_id = $2 AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4",
                tenant.as_str(),
                driver.0,
                before,
                limit
            );
            sql.fetch_all(tx.conn()).await?
        }
        None => {
            let sql = sqlx::query_as!(
                Row,
                "SELECT id, driver_id, amount, currency, day, made_by, created_at FROM payouts
                 WHERE tenant_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
                tenant.as_str(),
                before,
                limit
            );
            sql.fetch_all(tx.conn()).await?
        }
    };
    rows.into_iter().map(PayoutRecord::try_from).collect()
}

struct Row {
    id: Uuid,
    driver_id: Uuid,
    amount: i64,
    currency: String,
    day: Option<Date>,
    made_by: String,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for PayoutRecord {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.id.into(),
            driver_id: row.driver_id.into(),
            amount: money(row.amount, &row.currency)?,
            day: row.day,
            made_by: row.made_by,
            created_at: row.created_at,
        })
    }
}

/// Of these tenants and their days, those whose daily payouts nobody has made or makes now.
pub(in crate::payments) async fn without_run(
    tx: &mut SystemTx,
    days: &[(TenantId, Date)],
    now: OffsetDateTime,
) -> sqlx::Result<Vec<(TenantId, Date)>> {
    let tenants: Vec<String> = days.iter().map(|(tenant, _)| tenant.to_string()).collect();
    let dates: Vec<Date> = days.iter().map(|(_, day)| *day).collect();
    let sql = sqlx::query!(
        r#"SELECT due.tenant_id AS "tenant_id!", due.day AS "day!"
           FROM unnest($1::text[], $2::date[]) AS due (tenant_id, day)
           WHERE NOT EXISTS (SELECT FROM payout_runs r WHERE r.tenant_id = due.tenant_id AND r.day = due.day
                             AND (r.finished_at IS NOT NULL OR r.held_until > $3))"#,
        &tenants,
        &dates,
        now
    );
    let rows = sql.fetch_all(tx.conn()).await?;
    let tenant = |id: &str| id.parse().map_err(|_| unreadable("tenant_id", id));
    rows.into_iter().map(|row| Ok((tenant(&row.tenant_id)?, row.day))).collect()
}

/// Takes the daily payouts of a day to make them until `held_until`, unless somebody else has them.
pub(in crate::payments) async fn claim_run(
    tx: &mut TenantTx,
    day: Date,
    now: OffsetDateTime,
    held_until: OffsetDateTime,
) -> sqlx::Result<Option<Run>> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query_as!(
        Run,
        "INSERT INTO payout_runs AS r (tenant_id, day, held_until) VALUES ($1, $2, $3)
         ON CONFLICT (tenant_id, day) DO UPDATE SET held_until = EXCLUDED.held_until
         WHERE r.finished_at IS NULL AND r.held_until <= $4 RETURNING r.day, r.after_driver, r.held_until",
        tenant.as_str(),
        day,
        held_until,
        now
    );
    sql.fetch_optional(tx.conn()).await
}

/// Notes up to whom the daily payouts are made, and holds them on; none if somebody else holds them by now.
pub(in crate::payments) async fn advance_run(
    tx: &mut TenantTx,
    run: &Run,
    after_driver: DriverId,
    held_until: OffsetDateTime,
) -> sqlx::Result<Option<Run>> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query_as!(
        Run,
        "UPDATE payout_runs SET after_driver = $4, held_until = $5
         WHERE tenant_id = $1 AND day = $2 AND held_until = $3 AND finished_at IS NULL
         RETURNING day, after_driver, held_until",
        tenant.as_str(),
        run.day,
        run.held_until,
        after_driver.0,
        held_until
    );
    sql.fetch_optional(tx.conn()).await
}

/// Notes that all of a day's payouts are made.
pub(in crate::payments) async fn finish_run(tx: &mut TenantTx, day: Date, now: OffsetDateTime) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "UPDATE payout_runs SET finished_at = $3 WHERE tenant_id = $1 AND day = $2",
        tenant.as_str(),
        day,
        now
    );
    sql.execute(tx.conn()).await.map(|_| ())
}
