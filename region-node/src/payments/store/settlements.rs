use shared::ids::FactId;
use sqlx::PgConnection;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::money;
use crate::{db::TenantTx, payments::rollup::RollupRow};

/// A fact of the replicated ledger about what a rider paid.
pub(in crate::payments) struct SettlementRow {
    pub(in crate::payments) fact_id: Uuid,
    pub(in crate::payments) payment_id: Uuid,
    pub(in crate::payments) trip_id: Uuid,
    pub(in crate::payments) tenant_id: String,
    pub(in crate::payments) kind: String,
    pub(in crate::payments) amount: i64,
    pub(in crate::payments) currency: String,
    pub(in crate::payments) origin_region: String,
    pub(in crate::payments) origin_seq: i64,
    pub(in crate::payments) settled_at: OffsetDateTime,
    pub(in crate::payments) late: bool,
}

/// Where a fact stands in this region's order of arrival.
pub(in crate::payments) async fn position_of(conn: &mut PgConnection, fact: Uuid) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!("SELECT position FROM ledger_facts WHERE fact_id = $1", fact).fetch_optional(conn).await
}

/// Facts about what riders paid after `position`, of one tenant or of all the connection may see, in this region's order of arrival.
pub(in crate::payments) async fn list(
    conn: &mut PgConnection,
    tenant: Option<&str>,
    position: i64,
    limit: i64,
) -> sqlx::Result<Vec<SettlementRow>> {
    match tenant {
        Some(tenant) => {
            let sql = sqlx::query_as!(
                SettlementRow,
                r#"SELECT fact_id, payment_id AS "payment_id!", trip_id AS "trip_id!", tenant_id, kind, amount, currency,
                       origin_region, origin_seq, settled_at, is_late(ledger_facts) AS "late!"
                   FROM ledger_facts WHERE tenant_id = $1 AND position > $2 AND kind NOT IN ('payout', 'wallet') ORDER BY position LIMIT $3"#,
                tenant,
                position,
                limit
            );
            sql.fetch_all(conn).await
        }
        None => {
            let sql = sqlx::query_as!(
                SettlementRow,
                r#"SELECT fact_id, payment_id AS "payment_id!", trip_id AS "trip_id!", tenant_id, kind, amount, currency,
                       origin_region, origin_seq, settled_at, is_late(ledger_facts) AS "late!"
                   FROM ledger_facts WHERE position > $1 AND kind NOT IN ('payout', 'wallet') ORDER BY position LIMIT $2"#,
                position,
                limit
            );
            sql.fetch_all(conn).await
        }
    }
}

/// When a fact says that its money moved; none if it is not known here.
pub(in crate::payments) async fn fact_settled_at(
    tx: &mut TenantTx,
    fact: FactId,
) -> sqlx::Result<Option<OffsetDateTime>> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query_scalar!(
        "SELECT settled_at FROM ledger_facts WHERE tenant_id = $1 AND fact_id = $2",
        tenant.as_str(),
        fact.0
    );
    sql.fetch_optional(tx.conn()).await
}

/// What a tenant's facts about what riders paid come to by day (UTC) and currency, from one day to another.
pub(in crate::payments) async fn rollup(tx: &mut TenantTx, from: Date, to: Date) -> sqlx::Result<Vec<RollupRow>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        r#"SELECT (settled_at AT TIME ZONE 'UTC')::date AS "day!", currency,
                  count(*) FILTER (WHERE kind = 'settlement') AS "settlements!",
                  coalesce(sum(amount) FILTER (WHERE kind = 'settlement'), 0)::bigint AS "gross!",
                  count(*) FILTER (WHERE kind = 'refund') AS "refunds!",
                  coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS "refunded!",
                  coalesce(sum(amount) FILTER (WHERE kind = 'adjustment'), 0)::bigint AS "adjusted!"
           FROM ledger_facts
           WHERE tenant_id = $1 AND kind NOT IN ('payout', 'wallet') AND settled_at >= $2::date::timestamp AT TIME ZONE 'UTC'
             AND settled_at < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
           GROUP BY 1, 2 ORDER BY 1, 2"#,
        tenant.as_str(),
        from,
        to
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    rows.into_iter()
        .map(|row| {
            Ok(RollupRow {
                day: row.day,
                settlements: row.settlements,
                gross: money(row.gross, &row.currency)?,
                refunds: row.refunds,
                refunded: money(row.refunded, &row.currency)?,
                adjusted: money(row.adjusted, &row.currency)?,
            })
        })
        .collect()
}
