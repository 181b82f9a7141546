//! Reading entries for a peer, in pieces that end where their origin signed.

use super::{Store, StoreError, from_sql, hash, to_sql};
use crate::protocol::{Checkpoint, Entry, Head, KeyId, LogId};

/// How far ahead one read looks for a good place to end.
const LOOK_AHEAD: i64 = 4000;

/// Entries ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Consecutive entries.
    pub entries: Vec<Entry>,
    /// The origin's signature for the last of them.
    pub checkpoint: Checkpoint,
}

impl Store {
    /// Entries of a log from `from` to at most `upto`, about `max_bytes` of them but at least up to the first place the
    /// origin signed. `None` if there is no such place.
    pub async fn read_for_peer(
        &self,
        log: &LogId,
        from: u64,
        upto: u64,
        max_bytes: u64,
        known_keys: &[KeyId],
    ) -> Result<Option<Outgoing>, StoreError> {
        let region = log.origin.region.as_str();
        let incarnation = to_sql(log.origin.incarnation)?;
        let stream = log.stream.as_str();
        let sizes = sqlx::query!(
            r#"SELECT l.seq, l.hash, (octet_length(l.envelope) + COALESCE(octet_length(l.body), 0))::bigint AS "size!",
                      c.key_id AS "key_id?", c.signature AS "signature?"
               FROM repl_log l
               LEFT JOIN repl_checkpoint c USING (origin_region, origin_incarnation, stream, seq)
               WHERE l.origin_region = $1 AND l.origin_incarnation = $2 AND l.stream = $3
                 AND l.seq BETWEEN $4 AND $5
               ORDER BY l.seq LIMIT $6"#,
            region,
            incarnation,
            stream,
            to_sql(from)?,
            to_sql(upto)?,
            LOOK_AHEAD
        )
        .fetch_all(&self.pool)
        .await?;
        let mut end = None;
        let mut bytes = 0;
        for (expected, row) in (to_sql(from)?..).zip(sizes) {
            if row.seq != expected {
                break; // what is between them was dropped
            }
            bytes += from_sql(row.size);
            if end.is_some() && bytes > max_bytes {
                break;
            }
            if let (Some(key_id), Some(signature)) = (row.key_id, row.signature) {
                end = Some((Head { seq: from_sql(row.seq), hash: hash(&row.hash)? }, hash(&key_id)?, signature));
            }
        }
        let Some((head, key_id, signature)) = end else { return Ok(None) };
        let certificate = if known_keys.contains(&key_id) {
            None
        } else {
            sqlx::query_scalar!("SELECT certificate FROM repl_origin_cert WHERE key_id = $1", key_id.as_slice())
                .fetch_optional(&self.pool)
                .await?
        };
        let rows = sqlx::query!(
            "SELECT envelope, body FROM repl_log
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq BETWEEN $4 AND $5
             ORDER BY seq",
            region,
            incarnation,
            stream,
            to_sql(from)?,
            to_sql(head.seq)?
        )
        .fetch_all(&self.pool)
        .await?;
        if rows.len() as u64 != head.seq + 1 - from {
            return Ok(None); // some were dropped just now
        }
        let entries = rows.into_iter().map(|row| Entry { envelope: row.envelope, body: row.body }).collect();
        Ok(Some(Outgoing { entries, checkpoint: Checkpoint { head, key_id, signature, certificate } }))
    }
}
