//! Looking for bits that changed where they lay: entries are compared with their hashes, their bodies and their neighbours,
//! a few thousand at a time.

use super::{Store, StoreError, from_sql, to_sql};
use crate::protocol::{Envelope, LogId, hash_of};

/// An entry that is not what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The log.
    pub log: LogId,
    /// The entry.
    pub seq: u64,
    /// What is wrong with it.
    pub what: String,
}

/// What a look at a part of a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Entries looked at.
    pub entries: usize,
    /// Where to go on; none at the end.
    pub next: Option<u64>,
    /// Entries that are not what was stored.
    pub damage: Vec<Damage>,
}

impl Store {
    /// Looks at up to `limit` entries of a log from `from` on: envelopes hash to what stands beside them, chain to the entry
    /// before, vouch for their bodies, and the cursor's head is that of the last. Entries that are gone are damage too.
    pub async fn verify_log(&self, log: &LogId, from: u64, limit: i64) -> Result<Looked, StoreError> {
        let (region, incarnation) = (log.origin.region.as_str(), to_sql(log.origin.incarnation)?);
        let stream = log.stream.as_str();
        let mut tx = self.pool.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        let cursor = sqlx::query!(
            "SELECT stored, head_hash, truncated FROM repl_cursor
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3",
            region,
            incarnation,
            stream
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(cursor) = cursor else { return Ok(Looked::default()) };
        let first = from.max(from_sql(cursor.truncated) + 1);
        let rows = sqlx::query!(
            "SELECT seq, hash, envelope, body FROM repl_log
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq >= $4 AND seq <= $5
             ORDER BY seq LIMIT $6",
            region,
            incarnation,
            stream,
            to_sql(first.saturating_sub(1))?,
            cursor.stored,
            limit + 1
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.rollback().await?;

        let mut looked = Looked::default();
        let mut before: Option<(u64, Vec<u8>)> = None;
        let mut expected = first;
        for row in rows {
            let seq = from_sql(row.seq);
            let mut damaged =
                |seq, what: &str| looked.damage.push(Damage { log: log.clone(), seq, what: what.to_owned() });
            if seq >= first {
                for missing in expected..seq {
                    damaged(missing, "it is gone");
                }
                expected = seq + 1;
                looked.entries += 1;
                if hash_of(&row.envelope).as_slice() != row.hash {
                    damaged(seq, "its envelope does not have the hash it was stored with");
                }
                match Envelope::read(&row.envelope) {
                    Err(error) => damaged(seq, &error.to_string()),
                    Ok(envelope) if envelope.log != *log || envelope.seq != seq => {
                        damaged(seq, "its envelope is of another place");
                    }
                    Ok(envelope) => {
                        let follows = before.as_ref().filter(|(at, _)| at + 1 == seq);
                        if follows.is_some_and(|(_, hash)| *hash != envelope.prev_hash) {
                            damaged(seq, "it does not continue the entry before it");
                        }
                        if let Some(Err(error)) = row.body.as_ref().map(|body| envelope.check_body(body)) {
                            damaged(seq, &error.to_string());
                        }
                    }
                }
                if row.seq == cursor.stored && row.hash != cursor.head_hash {
                    damaged(seq, "the cursor names another hash");
                }
            }
            before = Some((seq, row.hash));
        }
        let full = looked.entries as i64 >= limit;
        if !full {
            for missing in expected..=from_sql(cursor.stored) {
                looked.damage.push(Damage { log: log.clone(), seq: missing, what: "it is gone".to_owned() });
            }
        }
        looked.next = full.then_some(expected);
        Ok(looked)
    }
}

#[cfg(test)]
mod tests;
