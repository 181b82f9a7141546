//! Reading entries for a peer, in pieces that end where their origin signed.

use super::{Store, StoreError, from_sql, hash, to_sql};
use crate::protocol::{Checkpoint, Entry, Hash, Head, KeyId, LogId, MAX_BATCH_BYTES};

/// What one entry likely has at least. Where entries are smaller one read brings less than was asked for, and the next one the rest.
const LIKELY_BYTES: u64 = 256;
/// More entries than a batch can have, whose hashes alone take this much.
const MAX_ENTRIES: u64 = MAX_BATCH_BYTES / 96;

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
        // No entry is read that is too far: one alone can have a megabyte. What is signed as one is read whole, which is a group
        // where it was written and a batch where it came as one. Where to end is looked up first and what is sent is one range:
        // to join what lies before the end costs several times as much.
        let rows = sqlx::query!(
            r#"SELECT l.seq, l.hash, l.envelope, l.body, c.key_id AS "key_id?", c.signature AS "signature?"
               FROM repl_log l LEFT JOIN repl_checkpoint c USING (origin_region, origin_incarnation, stream, seq)
               WHERE l.origin_region = $1 AND l.origin_incarnation = $2 AND l.stream = $3 AND l.seq BETWEEN $4 AND $5
                 AND l.seq <= GREATEST(
                     (SELECT max(seq)
                      FROM (SELECT seq, sum(size) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - size AS bytes_before
                            FROM (SELECT seq, octet_length(envelope) + COALESCE(octet_length(body), 0) AS size FROM repl_log
                                  WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq BETWEEN $4 AND $5
                                  ORDER BY seq LIMIT 1 + $6::bigint / $7::bigint) next) counted
                      WHERE bytes_before < $6),
                     (SELECT min(seq) FROM repl_checkpoint
                      WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq >= $4))
               ORDER BY l.seq LIMIT $8"#,
            log.origin.region.as_str(),
            to_sql(log.origin.incarnation)?,
            log.stream.as_str(),
            to_sql(from)?,
            to_sql(upto)?,
            to_sql(max_bytes)?,
            to_sql(LIKELY_BYTES)?,
            to_sql(MAX_ENTRIES)?
        )
        .fetch_all(&self.pool)
        .await?;
        let (mut entries, mut end, mut bytes, mut expected) = (Vec::new(), None, 0, to_sql(from)?);
        for row in rows {
            let entry = Entry { envelope: row.envelope, body: row.body };
            bytes += entry.len() as u64;
            // What is between them was dropped, or it is enough.
            if row.seq != expected || (end.is_some() && bytes > max_bytes) {
                break;
            }
            entries.push(entry);
            if let (Some(key_id), Some(signature)) = (row.key_id, row.signature) {
                let head = Head { seq: from_sql(row.seq), hash: hash(&row.hash)? };
                end = Some((entries.len(), head, hash(&key_id)?, signature));
            }
            expected += 1;
        }
        let Some((count, head, key_id, signature)) = end else { return Ok(None) };
        entries.truncate(count);
        let certificate = if known_keys.contains(&key_id) {
            None
        } else {
            sqlx::query_scalar!("SELECT certificate FROM repl_origin_cert WHERE key_id = $1", key_id.as_slice())
                .fetch_optional(&self.pool)
                .await?
        };
        Ok(Some(Outgoing { entries, checkpoint: Checkpoint { head, key_id, signature, certificate } }))
    }

    /// The hash of an entry, whether its origin signed there or further on; none if it is not here.
    pub async fn hash_of_entry(&self, log: &LogId, seq: u64) -> Result<Option<Hash>, StoreError> {
        let stored = sqlx::query_scalar!(
            "SELECT hash FROM repl_log
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4",
            log.origin.region.as_str(),
            to_sql(log.origin.incarnation)?,
            log.stream.as_str(),
            to_sql(seq)?
        );
        stored.fetch_optional(&self.pool).await?.map(|stored| hash(&stored)).transpose()
    }
}
