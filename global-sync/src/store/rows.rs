//! Derived rows as of a version vector, one by one: what regions that have applied the same entries have in common.
//!
//! The ledger is a set that only grows, and each of its rows says which entry brought it, so it can be read as of any vector
//! that is applied here. What drafts, versions, homes and regions have been cannot be read back: they can be had only while
//! exactly the vector is applied and nothing committed here waits for its number. Whoever only looks for what is equal takes them
//! as they are.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use shared::fact::FactStream;
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{Store, StoreError, from_sql, hash, region_name, to_sql};
use crate::protocol::{Inspect, Origin, Row};

/// A row's key names its table and what identifies it there; its hash covers what is equal in all regions, as it lies there
/// now: no sum that was stored beside it.
fn rows_of(stream: FactStream) -> &'static str {
    match stream {
        FactStream::Ledger => {
            "SELECT 'fact ' || f.fact_id AS key, ledger_fact_hash(f) AS hash
             FROM ledger_facts f JOIN UNNEST($1::text[], $2::bigint[], $3::bigint[]) AS v (region, incarnation, seq)
                 ON f.origin_region = v.region AND f.origin_incarnation = v.incarnation AND f.origin_seq <= v.seq"
        }
        FactStream::Config => {
            "SELECT 'draft ' || tenant_id AS key,
                    sha256(convert_to(concat_ws(' ', generation, array_to_string(heads, ' '), md5(draft::text)), 'UTF8'))
                        AS hash
             FROM tenant_documents
             UNION ALL
             SELECT concat_ws(' ', 'version', tenant_id, version),
                    sha256(convert_to(concat_ws(' ', home_term, home_n, md5(config::text)), 'UTF8'))
             FROM tenant_config_versions
             UNION ALL
             SELECT concat_ws(' ', 'rollout', tenant_id, NULLIF(region, '')), config_rollout_hash(r)
             FROM tenant_config_rollouts r"
        }
        FactStream::Control => {
            "SELECT 'home ' || tenant_id AS key,
                    sha256(convert_to(concat_ws(' ', region, term, n, md5(name)), 'UTF8')) AS hash
             FROM tenant_homes
             UNION ALL
             SELECT concat_ws(' ', 'takeover', tenant_id, term), sha256(convert_to(takeover_rank(t), 'UTF8'))
             FROM home_takeovers t
             UNION ALL
             SELECT 'region ' || name,
                    sha256(convert_to(concat_ws(' ', md5(base_url), md5(quic_addr), md5(jwks::text), state,
                                                state_incarnation), 'UTF8'))
             FROM regions"
        }
    }
}

impl Store {
    /// Gives `take` every row in question and returns the vector they are as of; none, and no row, if they cannot be had as
    /// of the one that is named. Rows as they are may be of later than that, and never of earlier.
    pub async fn derived_rows(
        &self,
        question: &Inspect,
        mut take: impl FnMut(Row),
    ) -> Result<Option<BTreeMap<Origin, u64>>, StoreError> {
        // A connection of its own: this may take longer than anything else is allowed to.
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        connection
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '10min'")
            .await?;
        let Some(vector) = vector_of(&mut connection, question).await? else { return Ok(None) };
        let regions: Vec<String> = vector.keys().map(|origin| origin.region.to_string()).collect();
        let incarnations: Vec<i64> =
            vector.keys().map(|origin| to_sql(origin.incarnation)).collect::<Result<_, _>>()?;
        let applied: Vec<i64> = vector.values().map(|applied| to_sql(*applied)).collect::<Result<_, _>>()?;
        let sql = format!(
            "WITH as_of AS (SELECT $1::text[], $2::bigint[], $3::bigint[])
             SELECT key, hash FROM ({}) AS r
             WHERE length($4::bytea) = 0
                OR substring(sha256(convert_to(key, 'UTF8')) FROM 1 FOR length($4::bytea)) = $4::bytea",
            rows_of(question.stream)
        );
        let mut rows = sqlx::query_as::<_, (String, Vec<u8>)>(sqlx::AssertSqlSafe(sql))
            .bind(regions)
            .bind(incarnations)
            .bind(applied)
            .bind(question.prefix.as_slice())
            .fetch(&mut connection);
        while let Some((key, of)) = rows.try_next().await? {
            take(Row { key, hash: hash(&of)? });
        }
        drop(rows);
        connection.close().await?;
        Ok(Some(vector))
    }
}

/// As of which entries the rows in question can be read here.
async fn vector_of(
    connection: &mut PgConnection,
    question: &Inspect,
) -> Result<Option<BTreeMap<Origin, u64>>, StoreError> {
    let stream = question.stream.as_str();
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT origin_region, origin_incarnation, applied FROM repl_apply WHERE stream = $1 AND bucket = 0 AND applied > 0",
    )
    .bind(stream)
    .fetch_all(&mut *connection)
    .await?;
    let origin = |region: &str, incarnation| -> Result<_, StoreError> {
        Ok(Origin { region: region_name(region)?, incarnation: from_sql(incarnation) })
    };
    let applied: BTreeMap<Origin, u64> = rows
        .into_iter()
        .map(|(region, incarnation, applied)| Ok((origin(&region, incarnation)?, from_sql(applied))))
        .collect::<Result<_, StoreError>>()?;
    if question.as_they_are {
        return Ok(Some(applied));
    }
    let there = match (question.stream, &question.vector) {
        (FactStream::Ledger, None) => true,
        (FactStream::Ledger, Some(named)) => {
            named.iter().all(|(origin, seq)| applied.get(origin).copied().unwrap_or_default() >= *seq)
        }
        (FactStream::Config | FactStream::Control, named) => {
            let waiting: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM repl_outbox WHERE stream = $1)")
                .bind(stream)
                .fetch_one(connection)
                .await?;
            !waiting && named.as_ref().is_none_or(|named| *named == applied)
        }
    };
    Ok(there.then(|| question.vector.clone().unwrap_or(applied)))
}

#[cfg(test)]
mod tests;
