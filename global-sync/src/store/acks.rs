//! What peers have acknowledged: how far they lag, and which settlements another region has.

use std::collections::BTreeMap;

use shared::{fact::FactStream, ids::RegionName};
use sqlx::PgConnection;

use super::{Store, StoreError, from_sql, region_name, to_sql};
use crate::protocol::{Envelope, LogId, LogState, Origin};

/// How far a peer is behind on what this region wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Entries it has not stored.
    pub entries: u64,
    /// Age of the oldest of them by this region's clock, milliseconds.
    pub ms: u64,
}

/// How far a peer is behind on one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLag {
    /// The peer.
    pub peer: RegionName,
    /// The log.
    pub log: LogId,
    /// Entries it lacks, and since when the oldest of them is here.
    pub lag: Lag,
    /// Their bytes; where they are many, as many times the mean of the oldest hundred.
    pub bytes: u64,
}

/// Entries weighed to know what all of them weigh.
const WEIGHED: i64 = 100;

/// What waits to be numbered.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Backlog {
    /// Facts committed and not numbered.
    pub pending: i64,
    /// Age of the oldest.
    pub oldest_s: f64,
    /// Facts that may not leave.
    pub rejected: i64,
}

impl Store {
    /// What waits to be numbered, and what never will be.
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        let backlog = sqlx::query_as!(
            Backlog,
            r#"SELECT count(*) AS "pending!",
                      COALESCE(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS "oldest_s!",
                      (SELECT count(*) FROM repl_rejected) AS "rejected!"
               FROM repl_outbox"#
        );
        Ok(backlog.fetch_one(&self.pool).await?)
    }

    /// Remembers what peers have, or that they name a log no more, and since when another region has the settlements of `own`:
    /// those it names by the hash they have here.
    pub async fn save_acks(
        &self,
        own: &Origin,
        acks: &BTreeMap<(RegionName, LogId), Option<LogState>>,
    ) -> Result<(), StoreError> {
        let gone: Vec<_> = acks.iter().filter(|(_, state)| state.is_none()).map(|(key, _)| key).collect();
        let acks: BTreeMap<_, _> = acks.iter().filter_map(|(key, state)| Some((key, (*state)?))).collect();
        let mut tx = self.pool.begin().await?;
        if !gone.is_empty() {
            let (peers, regions, incarnations, streams) = columns(gone)?;
            sqlx::query!(
                "DELETE FROM repl_ack a
                 USING UNNEST($1::text[], $2::text[], $3::bigint[], $4::text[]) AS g (peer, region, incarnation, stream)
                 WHERE (a.peer, a.origin_region, a.origin_incarnation, a.stream)
                     = (g.peer, g.region, g.incarnation, g.stream)",
                &peers,
                &regions,
                &incarnations,
                &streams
            )
            .execute(&mut *tx)
            .await?;
        }
        let (peers, regions, incarnations, streams) = columns(acks.keys().copied())?;
        let stored: Vec<i64> = acks.values().map(|state| to_sql(state.head.seq)).collect::<Result<_, _>>()?;
        let applied: Vec<i64> = acks.values().map(|state| to_sql(state.applied)).collect::<Result<_, _>>()?;
        sqlx::query!(
            "INSERT INTO repl_ack (peer, origin_region, origin_incarnation, stream, stored, applied)
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[])
             ORDER BY 1, 2, 3, 4
             ON CONFLICT (peer, origin_region, origin_incarnation, stream) DO UPDATE
             SET stored = EXCLUDED.stored, applied = EXCLUDED.applied, acked_at = now()",
            &peers,
            &regions,
            &incarnations,
            &streams,
            &stored,
            &applied
        )
        .execute(&mut *tx)
        .await?;
        for ((_, log), state) in acks {
            if log.origin.region == own.region && log.stream == FactStream::Ledger {
                let reached = sqlx::query!(
                    "INSERT INTO repl_remote_durable (origin_region, origin_incarnation, seq)
                     SELECT origin_region, origin_incarnation, seq FROM repl_log l
                     WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4 AND hash = $5
                       AND NOT EXISTS (SELECT FROM repl_remote_durable d
                                       WHERE d.origin_region = $1 AND d.origin_incarnation = $2 AND d.seq >= $4)
                     ON CONFLICT DO NOTHING",
                    log.origin.region.as_str(),
                    to_sql(log.origin.incarnation)?,
                    log.stream.as_str(),
                    to_sql(state.head.seq)?,
                    state.head.hash.as_slice()
                )
                .execute(&mut *tx)
                .await?;
                if reached.rows_affected() > 0 {
                    measure_newest(&mut tx, log, &state).await?;
                }
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// How far every peer that ever acknowledged anything is behind on what this region wrote.
    pub async fn lag(&self, own: &Origin) -> Result<BTreeMap<RegionName, Lag>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT m.region AS "peer!", GREATEST(c.stored - COALESCE(a.stored, 0), 0) AS "entries!",
                      (SELECT (extract(epoch FROM clock_timestamp() - l.received_at) * 1000)::bigint FROM repl_log l
                       WHERE l.origin_region = c.origin_region AND l.origin_incarnation = c.origin_incarnation
                         AND l.stream = c.stream AND l.seq = COALESCE(a.stored, 0) + 1) AS ms
               FROM repl_member m
               JOIN repl_membership s USING (region)
               CROSS JOIN repl_cursor c
               LEFT JOIN repl_ack a ON a.peer = m.region AND a.origin_region = c.origin_region
                    AND a.origin_incarnation = c.origin_incarnation AND a.stream = c.stream
               WHERE c.origin_region = $1 AND s.state <> 'retired'"#,
            own.region.as_str()
        )
        .fetch_all(&self.pool)
        .await?;
        let mut lags: BTreeMap<RegionName, Lag> = BTreeMap::new();
        for row in rows {
            let lag = lags.entry(region_name(&row.peer)?).or_default();
            if row.entries > 0 {
                lag.entries += from_sql(row.entries);
                lag.ms = lag.ms.max(row.ms.map_or(0, |ms| from_sql(ms.max(0))));
            }
        }
        Ok(lags)
    }

    /// What each peer lacks of every log that is here, whoever wrote it; logs it lacks nothing of too.
    pub async fn log_lags(&self) -> Result<Vec<LogLag>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT m.region AS "peer!", c.origin_region AS "origin_region!", c.origin_incarnation AS "incarnation!",
                      c.stream AS "stream!", GREATEST(c.stored - COALESCE(a.stored, 0), 0) AS "entries!",
                      oldest.mean_bytes, oldest.ms
               FROM repl_member m
               JOIN repl_membership s USING (region)
               JOIN repl_cursor c ON c.origin_region <> m.region AND c.stored > 0
               LEFT JOIN repl_ack a ON a.peer = m.region AND a.origin_region = c.origin_region
                    AND a.origin_incarnation = c.origin_incarnation AND a.stream = c.stream
               LEFT JOIN LATERAL (
                   SELECT avg(octet_length(envelope) + COALESCE(octet_length(body), 0))::float8 AS mean_bytes,
                          (extract(epoch FROM clock_timestamp() - min(received_at)) * 1000)::bigint AS ms
                   FROM (SELECT envelope, body, received_at FROM repl_log l
                         WHERE l.origin_region = c.origin_region AND l.origin_incarnation = c.origin_incarnation
                           AND l.stream = c.stream AND l.seq > COALESCE(a.stored, 0)
                         ORDER BY l.seq LIMIT $1) lacking
               ) oldest ON c.stored > COALESCE(a.stored, 0)
               WHERE s.state <> 'retired' AND m.region <> (SELECT region FROM repl_self)
               ORDER BY 1, 2, 3, 4"#,
            WEIGHED
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let log = super::log_id(&row.origin_region, row.incarnation, &row.stream)?;
                let entries = from_sql(row.entries);
                let lag = Lag { entries, ms: row.ms.map_or(0, |ms| from_sql(ms.max(0))) };
                let bytes = (row.mean_bytes.unwrap_or_default() * entries as f64).round() as u64;
                Ok(LogLag { peer: region_name(&row.peer)?, log, lag, bytes })
            })
            .collect()
    }
}

/// Peers, and regions, incarnations and streams of logs.
type Columns = (Vec<String>, Vec<String>, Vec<i64>, Vec<String>);

fn columns<'a>(of: impl IntoIterator<Item = &'a (RegionName, LogId)>) -> Result<Columns, StoreError> {
    let mut columns = Columns::default();
    for (peer, log) in of {
        columns.0.push(peer.to_string());
        columns.1.push(log.origin.region.to_string());
        columns.2.push(to_sql(log.origin.incarnation)?);
        columns.3.push(log.stream.to_string());
    }
    Ok(columns)
}

/// How long the newest settlement a peer has just acknowledged took, from its commit, by this region's clock.
async fn measure_newest(connection: &mut PgConnection, log: &LogId, state: &LogState) -> Result<(), StoreError> {
    let row = sqlx::query!(
        r#"SELECT envelope, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS "now_ms!" FROM repl_log
           WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4"#,
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        to_sql(state.head.seq)?
    )
    .fetch_optional(connection)
    .await?;
    if let Some(row) = row
        && let Ok(envelope) = Envelope::read(&row.envelope)
    {
        let took_ms = row.now_ms.saturating_sub(envelope.committed_at_ms).max(0);
        metrics::histogram!("global_sync_commit_to_remote_seconds").record(took_ms as f64 / 1e3);
    }
    Ok(())
}
