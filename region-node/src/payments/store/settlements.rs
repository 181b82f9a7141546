use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// A fact of the replicated ledger.
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

/// Facts after `position`, of one tenant or of all the connection may see, in this region's order of arrival.
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
                "SELECT fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region, origin_seq,
                     settled_at, late
                 FROM ledger_facts WHERE tenant_id = $1 AND position > $2 ORDER BY position LIMIT $3",
                tenant,
                position,
                limit
            );
            sql.fetch_all(conn).await
        }
        None => {
            let sql = sqlx::query_as!(
                SettlementRow,
                "SELECT fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region, origin_seq,
                     settled_at, late
                 FROM ledger_facts WHERE position > $1 ORDER BY position LIMIT $2",
                position,
                limit
            );
            sql.fetch_all(conn).await
        }
    }
}
