//! Dropping old entries: a few thousand in one transaction, so that nobody waits for it.

use shared::fact::FactStream;
use sqlx::PgConnection;

use super::{Fence, Store, StoreError, from_sql, to_sql};
use crate::protocol::LogId;

/// Entries dropped in one transaction.
const BATCH: i64 = 10_000;

impl Store {
    /// Drops the oldest entries of a log, at most up to `upto` and only what was stored longer ago than `keep_s` and is
    /// applied. What is set aside stays, and so does the newest applied entry, whose hash a snapshot needs. Returns up to
    /// which entry nothing is left and whether more could go at once.
    pub async fn truncate(
        &self,
        fence: &Fence,
        log: &LogId,
        upto: u64,
        keep_s: f64,
    ) -> Result<(u64, bool), StoreError> {
        let (region, incarnation) = (log.origin.region.as_str(), to_sql(log.origin.incarnation)?);
        let stream = log.stream.as_str();
        let mut tx = self.begin_fenced(fence).await?;
        let before = sqlx::query_scalar!(
            "SELECT truncated FROM repl_cursor
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 FOR UPDATE",
            region,
            incarnation,
            stream
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(before) = before else { return Ok((0, false)) };
        // The first entry that has to stay ends it: a log has no holes.
        let row = sqlx::query!(
            r#"SELECT COALESCE(min(l.seq) FILTER (WHERE l.received_at >= now() - make_interval(secs => $6)), $5 + 1) - 1
                      AS "upto!", count(*) AS "seen!"
               FROM (SELECT seq, received_at FROM repl_log
                     WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq > $4
                       AND seq <= LEAST($5, $4 + $7,
                           (SELECT applied - 1 FROM repl_apply a WHERE a.origin_region = $1
                              AND a.origin_incarnation = $2 AND a.stream = $3 AND a.bucket = 0))
                     ORDER BY seq) l"#,
            region,
            incarnation,
            stream,
            before,
            to_sql(upto)?,
            keep_s,
            BATCH
        )
        .fetch_one(&mut *tx)
        .await?;
        let reached = row.upto.min(before + row.seen);
        if reached <= before {
            return Ok((from_sql(before), false));
        }
        sqlx::query!(
            "DELETE FROM repl_log l WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3
               AND seq > $4 AND seq <= $5
               AND NOT EXISTS (SELECT 1 FROM repl_quarantine q WHERE q.origin_region = l.origin_region
                                 AND q.origin_incarnation = l.origin_incarnation AND q.stream = l.stream
                                 AND q.seq = l.seq)",
            region,
            incarnation,
            stream,
            before,
            reached
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM repl_checkpoint
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq <= $4",
            region,
            incarnation,
            stream,
            reached
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "UPDATE repl_cursor SET truncated = $4
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3",
            region,
            incarnation,
            stream,
            reached
        )
        .execute(&mut *tx)
        .await?;
        thin_out_durable(&mut tx, log, before, reached).await?;
        tx.commit().await?;
        Ok((from_sql(reached), row.seen == BATCH && reached == before + row.seen))
    }
}

/// Of the old acknowledgements between these entries the last of each minute is enough: a fact is never said to have been
/// durable elsewhere before it was, and at most a minute after.
async fn thin_out_durable(
    connection: &mut PgConnection,
    log: &LogId,
    before: i64,
    reached: i64,
) -> Result<(), StoreError> {
    if log.stream != FactStream::Ledger {
        return Ok(());
    }
    sqlx::query!(
        "WITH old AS (
             SELECT seq, durable_at, lead(durable_at) OVER (ORDER BY seq) AS next_at FROM repl_remote_durable
             WHERE origin_region = $1 AND origin_incarnation = $2 AND seq <= $4
               AND seq >= COALESCE((SELECT max(seq) FROM repl_remote_durable
                                    WHERE origin_region = $1 AND origin_incarnation = $2 AND seq <= $3), 0))
         DELETE FROM repl_remote_durable d USING old
         WHERE d.origin_region = $1 AND d.origin_incarnation = $2 AND d.seq = old.seq
           AND date_trunc('minute', old.durable_at) = date_trunc('minute', old.next_at)",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        before,
        reached
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
