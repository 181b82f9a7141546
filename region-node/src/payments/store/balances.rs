use shared::{
    ids::{DriverId, RegionName},
    money::{Currency, Money},
};
use uuid::Uuid;

use super::{last_closing, money, unreadable};
use crate::{
    db::TenantTx,
    payments::{ledger::Account, payout::Balance},
};

/// What counts when a driver's balance is read.
#[derive(Clone, Copy)]
pub(in crate::payments) struct Reading<'a> {
    /// This one.
    pub(in crate::payments) region: &'a RegionName,
    /// Earnings are held until another region has their settlement.
    pub(in crate::payments) hold_until_durable: bool,
}

/// A driver's balances by currency.
///
/// Held is what is left, after refunds, of payments whose settlement no other region is known to have. What another region
/// settled is in two by being here; in a region that is alone nobody could ever have it, and nothing is held.
pub(in crate::payments) async fn of_driver(
    tx: &mut TenantTx,
    driver: DriverId,
    reading: Reading<'_>,
) -> sqlx::Result<Vec<Balance>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        r#"WITH holding AS (SELECT $3 AND EXISTS (SELECT FROM regions WHERE name <> $4 AND state <> 'retired') AS is_on),
           of_payment AS (
               SELECT e.currency, sum(p.amount) AS amount,
                      bool_or(e.kind IN ('settlement', 'cancellation_fee', 'no_show_fee', 'tip') AND holding.is_on AND NOT EXISTS
                          (SELECT FROM ledger_facts f
                           WHERE f.payment_id = e.payment_id AND f.kind = 'settlement' AND (f.origin_region <> $4 OR EXISTS
                               (SELECT FROM repl_remote_durable d
                                WHERE d.origin_region = f.origin_region AND d.origin_incarnation = f.origin_incarnation
                                  AND d.seq >= f.origin_seq))))
                      AS is_held
               FROM holding, ledger_postings p JOIN ledger_entries e ON e.id = p.entry_id
               WHERE p.tenant_id = $1 AND p.account = $2 GROUP BY e.currency, e.payment_id)
           SELECT currency, sum(amount)::bigint AS "balance!",
                  coalesce(sum(amount) FILTER (WHERE is_held AND amount > 0), 0)::bigint AS "held!"
           FROM of_payment GROUP BY currency ORDER BY currency"#,
        tenant.as_str(),
        Account::Driver(driver).to_string(),
        reading.hold_until_durable,
        reading.region.as_str()
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    let currency = |code: &str| code.parse::<Currency>().map_err(|_| unreadable("currency", code));
    rows.into_iter().map(|row| Ok(Balance::new(currency(&row.currency)?, row.balance, row.held))).collect()
}

/// Drivers after `after` in the order of their ids, those with anything in the ledger.
pub(in crate::payments) async fn drivers_with_balances(
    tx: &mut TenantTx,
    after: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<DriverId>> {
    // OFFSET has Postgres look for each driver by the index: row-level security lets it join by no account that is made of an id.
    let sql = sqlx::query_scalar!(
        "SELECT d.id FROM drivers d
         WHERE ($1::uuid IS NULL OR d.id > $1)
           AND EXISTS (SELECT FROM ledger_postings p WHERE p.tenant_id = d.tenant_id AND p.account = 'driver:' || d.id
                       OFFSET 0)
         ORDER BY d.id LIMIT $2",
        after,
        limit
    );
    let drivers = sql.fetch_all(tx.conn()).await?;
    Ok(drivers.into_iter().map(DriverId::from).collect())
}

/// What stands on the accounts of the tenant and of its payment services, by account and currency.
pub(in crate::payments) async fn of_tenant(tx: &mut TenantTx) -> sqlx::Result<Vec<(String, Money)>> {
    let (tenant, closed) = (tx.tenant().clone(), last_closing(tx, None).await?);
    let rows = sqlx::query!(
        r#"SELECT account AS "account!", currency AS "currency!", sum(amount)::bigint AS "amount!"
           FROM ledger_parts($1, $2, 'infinity') WHERE account NOT LIKE 'driver:%'
           GROUP BY account, currency ORDER BY account, currency"#,
        tenant.as_str(),
        closed
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    rows.into_iter().map(|row| Ok((row.account, money(row.amount, &row.currency)?))).collect()
}

/// What drivers have coming, and what they owe, by currency.
pub(in crate::payments) async fn of_all_drivers(tx: &mut TenantTx) -> sqlx::Result<Vec<(Money, Money)>> {
    let (tenant, closed) = (tx.tenant().clone(), last_closing(tx, None).await?);
    let rows = sqlx::query!(
        r#"SELECT currency AS "currency!", coalesce(sum(amount) FILTER (WHERE amount > 0), 0)::bigint AS "coming!",
                  coalesce(-sum(amount) FILTER (WHERE amount < 0), 0)::bigint AS "owed!"
           FROM (SELECT account, currency, sum(amount) AS amount FROM ledger_parts($1, $2, 'infinity')
                 WHERE account LIKE 'driver:%' GROUP BY account, currency) balances
           GROUP BY currency ORDER BY currency"#,
        tenant.as_str(),
        closed
    );
    let rows = rows.fetch_all(tx.conn()).await?;
    rows.into_iter().map(|row| Ok((money(row.coming, &row.currency)?, money(row.owed, &row.currency)?))).collect()
}
