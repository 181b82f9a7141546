//! Facts of the ledger that are told more than once, as by two lives of a region, one of which had forgotten the other.
//!
//! Such a fact has one row, which names the first of its tellings by region, life and number, whichever came here first: so all
//! regions that have heard them say the same of where it is from, and whether it is late.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, ledger::NewFact, to_sql};
use crate::protocol::Origin;

/// Has the rows of facts that one origin has told name its telling, where they name a later one.
pub(super) async fn keep_first(
    connection: &mut PgConnection,
    origin: &Origin,
    facts: &[NewFact],
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = facts.iter().map(|fact| fact.row.fact_id).collect();
    let hashes: Vec<&[u8]> = facts.iter().map(|fact| fact.hash.as_slice()).collect();
    let numbers = |get: fn(&NewFact) -> u64| facts.iter().map(get).map(to_sql).collect::<Result<Vec<_>, _>>();
    sqlx::query(
        r#"UPDATE ledger_facts f
           SET origin_region = $1, origin_incarnation = $2, origin_seq = t.seq, home_term = t.home_term, home_n = t.home_n
           FROM (SELECT DISTINCT ON (fact_id, body_hash) *
                 FROM UNNEST($3::uuid[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[])
                      AS told (fact_id, body_hash, seq, home_term, home_n)
                 ORDER BY fact_id, body_hash, seq) t
           WHERE f.fact_id = t.fact_id AND f.body_hash = t.body_hash
             AND (f.origin_region COLLATE "C", f.origin_incarnation, f.origin_seq) > ($1 COLLATE "C", $2, t.seq)"#,
    )
    .bind(origin.region.as_str())
    .bind(to_sql(origin.incarnation)?)
    .bind(ids)
    .bind(hashes)
    .bind(numbers(|fact| fact.seq)?)
    .bind(numbers(|fact| fact.epoch.term)?)
    .bind(numbers(|fact| fact.epoch.n)?)
    .execute(connection)
    .await?;
    Ok(())
}

/// The same of what a snapshot brings, which lies in the table `incoming_fact`.
pub(super) async fn keep_first_of_snapshot(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query(
        r#"UPDATE ledger_facts f
           SET origin_region = i.origin_region, origin_incarnation = i.origin_incarnation, origin_seq = i.origin_seq,
               home_term = i.home_term, home_n = i.home_n
           FROM incoming_fact i
           WHERE f.fact_id = i.fact_id AND f.body_hash = i.body_hash
             AND (f.origin_region COLLATE "C", f.origin_incarnation, f.origin_seq)
                 > (i.origin_region COLLATE "C", i.origin_incarnation, i.origin_seq)"#,
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
