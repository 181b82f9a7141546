use shared::ids::FactId;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{last_closing, money, unreadable};
use crate::{
    db::TenantTx,
    payments::{
        EntryKind,
        ledger::Account,
        statement::{Line, Standing, Whose},
    },
};

/// Where a line stands in the order of lines: its time, its entry, its number in it.
pub(in crate::payments) type Place = (OffsetDateTime, FactId, i16);

/// What stood on each account just before `at`.
pub(in crate::payments) async fn before(
    tx: &mut TenantTx,
    whose: Whose,
    at: OffsetDateTime,
) -> sqlx::Result<Vec<Standing>> {
    let (tenant, closed) = (tx.tenant().clone(), last_closing(tx, Some(at)).await?);
    let rows = match whose {
        Whose::Driver(driver) => {
            let sql = sqlx::query_as!(
                StandingRow,
                r#"SELECT account AS "account!", currency AS "currency!", sum(amount)::bigint AS "amount!"
                   FROM ledger_parts($1, $2, $3) WHERE account = $4 GROUP BY account, currency"#,
                tenant.as_str(),
                closed,
                at,
                Account::Driver(driver).to_string()
            );
            sql.fetch_all(tx.conn()).await?
        }
        Whose::Tenant => {
            let sql = sqlx::query_as!(
                StandingRow,
                r#"SELECT account AS "account!", currency AS "currency!", sum(amount)::bigint AS "amount!"
                   FROM ledger_parts($1, $2, $3) WHERE account NOT LIKE 'driver:%' GROUP BY account, currency"#,
                tenant.as_str(),
                closed,
                at
            );
            sql.fetch_all(tx.conn()).await?
        }
    };
    rows.into_iter()
        .map(|row| Ok(Standing { account: row.account, balance: money(row.amount, &row.currency)? }))
        .collect()
}

/// Lines posted from one moment until just before another, those after a place, in their order.
pub(in crate::payments) async fn lines(
    tx: &mut TenantTx,
    whose: Whose,
    (from, to): (OffsetDateTime, OffsetDateTime),
    after: Option<Place>,
    limit: i64,
) -> sqlx::Result<Vec<Line>> {
    let tenant = tx.tenant().clone();
    let (time, entry, number) = after.unwrap_or((from, FactId(Uuid::nil()), -1));
    let rows = match whose {
        Whose::Driver(driver) => {
            let sql = sqlx::query_as!(
                LineRow,
                r#"SELECT e.id, e.posted_at, e.kind, p.line, p.account, p.amount, e.currency, e.payment_id, e.refund_id,
                       e.payout_id, y.trip_id AS "trip_id?"
                   FROM ledger_postings p JOIN ledger_entries e ON e.id = p.entry_id
                       LEFT JOIN payments y ON y.id = e.payment_id
                   WHERE p.tenant_id = $1 AND p.account = $2 AND e.posted_at >= $4 AND e.posted_at < $3
                     AND (e.posted_at, e.id, p.line) > ($4, $5, $6)
                   ORDER BY e.posted_at, e.id, p.line LIMIT $7"#,
                tenant.as_str(),
                Account::Driver(driver).to_string(),
                to,
                time,
                entry.0,
                number,
                limit
            );
            sql.fetch_all(tx.conn()).await?
        }
        Whose::Tenant => {
            let sql = sqlx::query_as!(
                LineRow,
                r#"SELECT e.id, e.posted_at, e.kind, p.line, p.account, p.amount, e.currency, e.payment_id, e.refund_id,
                       e.payout_id, y.trip_id AS "trip_id?"
                   FROM ledger_entries e JOIN ledger_postings p ON p.entry_id = e.id
                       LEFT JOIN payments y ON y.id = e.payment_id
                   WHERE e.tenant_id = $1 AND p.account NOT LIKE 'driver:%' AND p.account NOT LIKE 'rider:%' AND e.posted_at >= $3 AND e.posted_at < $2
                     AND (e.posted_at, e.id, p.line) > ($3, $4, $5)
                   ORDER BY e.posted_at, e.id, p.line LIMIT $6"#,
                tenant.as_str(),
                to,
                time,
                entry.0,
                number,
                limit
            );
            sql.fetch_all(tx.conn()).await?
        }
    };
    rows.into_iter().map(Line::try_from).collect()
}

struct StandingRow {
    account: String,
    currency: String,
    amount: i64,
}

struct LineRow {
    id: Uuid,
    posted_at: OffsetDateTime,
    kind: String,
    line: i16,
    account: String,
    amount: i64,
    currency: String,
    payment_id: Option<Uuid>,
    refund_id: Option<Uuid>,
    payout_id: Option<Uuid>,
    trip_id: Option<Uuid>,
}

impl TryFrom<LineRow> for Line {
    type Error = sqlx::Error;

    fn try_from(row: LineRow) -> sqlx::Result<Self> {
        Ok(Self {
            entry_id: row.id.into(),
            posted_at: row.posted_at,
            kind: EntryKind::from_name(&row.kind).ok_or_else(|| unreadable("kind", &row.kind))?,
            account: row.account,
            amount: money(row.amount, &row.currency)?,
            payment_id: row.payment_id.map(Into::into),
            trip_id: row.trip_id.map(Into::into),
            refund_id: row.refund_id.map(Into::into),
            payout_id: row.payout_id.map(Into::into),
            number: row.line,
        })
    }
}
