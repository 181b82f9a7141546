//! Whether what a snapshot brings is what the origins of its entries wrote.

use futures::TryStreamExt as _;
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::super::{StoreError, from_sql, hash, log_id};
use crate::{
    protocol::{BatchError, Checkpoint, Envelope, Head, LogId, Trust, hash_of, prove_head},
    refusal::reason_of,
};

/// Logs of one snapshot: more than a mesh comes to in its life.
const MAX_LOGS: i64 = 10_000;
/// Envelopes between two signatures: more than a batch has.
const MAX_LINKS: i64 = 8_192;

/// Looks at the tables a snapshot was put into. The first thing that is not as its origin wrote it ends it.
pub(super) async fn check(
    connection: &mut PgConnection,
    cluster_id: &str,
    trust: &mut impl Trust,
) -> Result<(), StoreError> {
    check_vector(connection, cluster_id, trust).await?;
    check_entries(connection, cluster_id).await?;
    check_facts(connection).await?;
    let below_zero: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM incoming_version WHERE least(version, home_term, home_n, origin_incarnation) < 0)
             OR EXISTS (SELECT FROM incoming_rollout
                        WHERE least(number, home_term, home_n, pinned, stable, canary_version) < 0)
             OR EXISTS (SELECT FROM incoming_document WHERE least(generation, made_term, made_n) < 0)",
    )
    .fetch_one(connection)
    .await?;
    if below_zero { Err(StoreError::Snapshot("it has a number below zero")) } else { Ok(()) }
}

/// Every log ends with an entry its origin signed for, and where the entry is here it is the same. Certificates that vouch for
/// none of this are left out.
async fn check_vector(
    connection: &mut PgConnection,
    cluster_id: &str,
    trust: &mut impl Trust,
) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT v.origin_region, v.origin_incarnation, v.stream, v.applied AS seq, v.head_hash, k.key_id, k.signature,
                c.certificate
         FROM incoming_vector v LEFT JOIN incoming_checkpoint k USING (origin_region, origin_incarnation, stream)
         LEFT JOIN incoming_certificate c ON c.key_id = k.key_id AND c.region = v.origin_region
         LIMIT $1 + 1",
    )
    .bind(MAX_LOGS)
    .fetch_all(&mut *connection)
    .await?;
    if rows.len() as i64 > MAX_LOGS {
        return Err(StoreError::Snapshot("it has more logs than a mesh comes to"));
    }
    for row in rows {
        let (log, seq) = place(&row)?;
        let bytes = |column| row.try_get::<Option<Vec<u8>>, _>(column);
        // Whoever has loaded a snapshot itself may lack them until the tail is there.
        let (Some(end), Some(key_id), Some(signature)) = (bytes("head_hash")?, bytes("key_id")?, bytes("signature")?)
        else {
            return Err(StoreError::Snapshot("nothing that its origin signed came for the end of a log"));
        };
        let links: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT envelope FROM incoming_link
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 ORDER BY seq LIMIT $4",
        )
        .bind(log.origin.region.as_str())
        .bind(row.try_get::<i64, _>("origin_incarnation")?)
        .bind(log.stream.as_str())
        .bind(MAX_LINKS)
        .fetch_all(&mut *connection)
        .await?;
        let head = Head { seq, hash: hash(&end)? };
        let checkpoint =
            Checkpoint { head, key_id: hash(&key_id)?, signature, certificate: row.try_get("certificate")? };
        prove_head(cluster_id, &log, head, &links, checkpoint, trust)
            .map_err(|error| forged(&log, seq, reason_of(&error), error))?;
    }
    let left_out = "DELETE FROM incoming_certificate c
                    WHERE NOT EXISTS (SELECT FROM incoming_vector v
                                      JOIN incoming_checkpoint k USING (origin_region, origin_incarnation, stream)
                                      WHERE k.key_id = c.key_id AND v.origin_region = c.region)";
    sqlx::query(left_out).execute(&mut *connection).await?;
    let fork = sqlx::query(
        "SELECT v.origin_region, v.origin_incarnation, v.stream, v.applied AS seq
         FROM incoming_vector v JOIN repl_cursor c USING (origin_region, origin_incarnation, stream)
         LEFT JOIN repl_log l ON l.origin_region = v.origin_region AND l.origin_incarnation = v.origin_incarnation
              AND l.stream = v.stream AND l.seq = v.applied
         WHERE v.head_hash <> CASE WHEN c.stored = v.applied THEN c.head_hash ELSE l.hash END
         LIMIT 1",
    )
    .fetch_optional(connection)
    .await?;
    match fork {
        Some(row) => {
            let (log, seq) = place(&row)?;
            Err(forged(&log, seq, "fork", "another entry is here"))
        }
        None => Ok(()),
    }
}

/// Entries that were set aside are whole, and of the place they are said to be of.
async fn check_entries(connection: &mut PgConnection, cluster_id: &str) -> Result<(), StoreError> {
    let mut rows =
        sqlx::query("SELECT origin_region, origin_incarnation, stream, seq, hash, envelope, body FROM incoming_entry")
            .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (log, seq) = place(&row)?;
        let bytes: Vec<u8> = row.try_get("envelope")?;
        let body: Option<Vec<u8>> = row.try_get("body")?;
        let entry = |error| forged(&log, seq, "entry", BatchError::Entry(seq, error));
        let envelope = Envelope::read(&bytes).map_err(entry)?;
        if (&envelope.log, envelope.seq, envelope.cluster_id.as_str()) != (&log, seq, cluster_id) {
            return Err(forged(&log, seq, "wrong_log", BatchError::WrongLog(seq)));
        }
        if hash_of(&bytes).as_slice() != row.try_get::<&[u8], _>("hash")? {
            return Err(forged(&log, seq, "entry", "its envelope does not have its hash"));
        }
        match &body {
            Some(body) => envelope.check_body(body).map_err(entry)?,
            None if envelope.residency_tag.is_empty() => {
                return Err(forged(&log, seq, "no_body", BatchError::NoBody(seq)));
            }
            None => {}
        }
    }
    Ok(())
}

/// Each fact is of an entry that the snapshot says it has.
async fn check_facts(connection: &mut PgConnection) -> Result<(), StoreError> {
    let beyond = sqlx::query(
        "SELECT f.origin_region, f.origin_incarnation, 'ledger' AS stream, f.origin_seq AS seq, f.fact_id::text AS fact
         FROM incoming_fact f LEFT JOIN incoming_vector v ON v.origin_region = f.origin_region
              AND v.origin_incarnation = f.origin_incarnation AND v.stream = 'ledger'
         WHERE f.origin_seq NOT BETWEEN 1 AND COALESCE(v.applied, 0) LIMIT 1",
    )
    .fetch_optional(connection)
    .await?;
    match beyond {
        Some(row) => {
            let (log, seq) = place(&row)?;
            let fact: String = row.try_get("fact")?;
            Err(forged(&log, seq, "fact", format!("fact {fact} is of an entry that it does not have")))
        }
        None => Ok(()),
    }
}

/// The log and the number a row is about.
fn place(row: &PgRow) -> Result<(LogId, u64), StoreError> {
    let (region, stream): (&str, &str) = (row.try_get("origin_region")?, row.try_get("stream")?);
    let (incarnation, seq): (i64, i64) = (row.try_get("origin_incarnation")?, row.try_get("seq")?);
    if incarnation < 0 || seq < 0 {
        return Err(StoreError::Snapshot("it has a number below zero"));
    }
    Ok((log_id(region, incarnation, stream)?, from_sql(seq)))
}

fn forged(log: &LogId, seq: u64, reason: &'static str, why: impl ToString) -> StoreError {
    StoreError::Forged { what: format!("entry {seq} of {log}"), reason, why: why.to_string() }
}
