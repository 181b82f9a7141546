//! What leaders have found to be other than it should be, kept where every instance of the region reads it: whichever is asked
//! says the same, whoever leads. Only who leads writes it; what is mended is forgotten by the next look that finds it so.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shared::{fact::FactStream, ids::RegionName, sync_command::RowKey};
use sqlx::{Executor as _, PgConnection};

use super::{Fence, Store, StoreError, from_sql, log_id, region_name, stream_name, to_sql};
use crate::protocol::{Difference, Inspect, LogId, MAX_ROWS};

/// Damaged entries that are named, and rows kept that differ from a peer's in one stream; more are only counted.
pub(crate) const NAMED: usize = 100;

/// What a look through all logs has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Entries, signatures, certificates, ledger rows and drafts that are not what was stored.
    pub entries: u64,
    /// The first of them: log and number, or the draft's tenant, and what is wrong.
    pub named: Vec<String>,
    /// The keys of those that are rows made of the logs, as the command to mend them takes them.
    pub rows: Vec<String>,
}

impl Damaged {
    pub(crate) fn add(&mut self, what: String, row: Option<RowKey>) {
        self.entries += 1;
        if self.named.len() < NAMED {
            self.named.push(what);
            self.rows.extend(row.map(|key| key.to_string()));
        }
    }
}

/// What the last whole look has found, and how long ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamageSeen {
    /// Since the look ended, by the database's clock.
    pub seconds_ago: u64,
    /// What it found.
    #[serde(flatten)]
    pub found: Damaged,
}

impl Store {
    /// Keeps what a whole look has found, in the place of what the one before had.
    pub async fn save_damage(&self, fence: &Fence, found: &Damaged) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query(
            "INSERT INTO repl_damage (looked_at, entries, named, rows) VALUES (clock_timestamp(), $1, $2, $3)
             ON CONFLICT (only_row) DO UPDATE
             SET looked_at = EXCLUDED.looked_at, entries = EXCLUDED.entries, named = EXCLUDED.named, rows = EXCLUDED.rows",
        )
        .bind(to_sql(found.entries)?)
        .bind(&found.named)
        .bind(&found.rows)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// What the last whole look has found; none before the first.
    pub async fn damage(&self) -> Result<Option<DamageSeen>, StoreError> {
        let seen: Option<(i64, i64, Vec<String>, Vec<String>)> = sqlx::query_as(
            "SELECT GREATEST(extract(epoch FROM clock_timestamp() - looked_at), 0)::bigint, entries, named, rows
             FROM repl_damage",
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(seen.map(|(seconds, entries, named, rows)| DamageSeen {
            seconds_ago: from_sql(seconds),
            found: Damaged { entries: from_sql(entries), named, rows },
        }))
    }

    /// Keeps rows that are others at a peer than here, as long as there is room; returns those that were not known.
    pub async fn add_differing(
        &self,
        fence: &Fence,
        peer: &RegionName,
        stream: FactStream,
        keys: &[String],
    ) -> Result<Vec<String>, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        // Two that are counted at once would both find room.
        tx.execute("LOCK TABLE repl_differing IN SHARE ROW EXCLUSIVE MODE").await?;
        let new = sqlx::query_scalar(
            "INSERT INTO repl_differing (peer, stream, key)
             SELECT $1, $2, key FROM UNNEST($3::text[]) AS found (key)
             WHERE NOT EXISTS (SELECT FROM repl_differing d WHERE (d.peer, d.stream, d.key) = ($1, $2, found.key))
             ORDER BY key
             LIMIT GREATEST($4 - (SELECT count(*) FROM repl_differing d WHERE (d.peer, d.stream) = ($1, $2)), 0)
             ON CONFLICT DO NOTHING RETURNING key",
        )
        .bind(peer.as_str())
        .bind(stream.as_str())
        .bind(keys)
        .bind(NAMED as i64)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(new)
    }

    /// Forgets the rows that a comparison with a peer has found equal: those of the bucket it was about that do not differ.
    pub async fn forget_equal(
        &self,
        fence: &Fence,
        peer: &RegionName,
        of: &Inspect,
        difference: &Difference,
    ) -> Result<(), StoreError> {
        let (buckets, keys): (Vec<i32>, Vec<&str>) = match difference {
            Difference::Buckets(buckets) => (buckets.iter().map(|bucket| i32::from(*bucket)).collect(), Vec::new()),
            // They may not be all.
            Difference::Keys(keys) if keys.len() >= MAX_ROWS => return Ok(()),
            Difference::Keys(keys) => (Vec::new(), keys.iter().map(String::as_str).collect()),
        };
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query(
            "DELETE FROM repl_differing
             WHERE (peer, stream) = ($1, $2)
               AND substring(sha256(convert_to(key, 'UTF8')) FROM 1 FOR length($3::bytea)) = $3::bytea
               AND get_byte(sha256(convert_to(key, 'UTF8')), length($3::bytea)) <> ALL ($4::integer[])
               AND key <> ALL ($5::text[])",
        )
        .bind(peer.as_str())
        .bind(of.stream.as_str())
        .bind(of.prefix.as_slice())
        .bind(&buckets)
        .bind(&keys)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Rows found to be others at a peer than here, and not found equal since.
    pub async fn differing(&self) -> Result<BTreeMap<(RegionName, FactStream), BTreeSet<String>>, StoreError> {
        let rows: Vec<(String, String, String)> =
            sqlx::query_as("SELECT peer, stream, key FROM repl_differing").fetch_all(&self.pool).await?;
        let mut differing: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (peer, stream, key) in rows {
            differing.entry((region_name(&peer)?, stream_name(&stream)?)).or_default().insert(key);
        }
        Ok(differing)
    }

    /// Keeps that an entry of a log is another at a peer than here; false if that log is known to differ.
    pub async fn add_diverged(
        &self,
        fence: &Fence,
        peer: &RegionName,
        log: &LogId,
        seq: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let added = sqlx::query(
            "INSERT INTO repl_diverged (peer, origin_region, origin_incarnation, stream, seq) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(peer.as_str())
        .bind(log.origin.region.as_str())
        .bind(to_sql(log.origin.incarnation)?)
        .bind(log.stream.as_str())
        .bind(to_sql(seq)?)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(added.rows_affected() == 1)
    }

    /// Forgets that a log differed, which ends in the same entry at the peer and here.
    pub async fn forget_diverged(&self, fence: &Fence, peer: &RegionName, log: &LogId) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query(
            "DELETE FROM repl_diverged
             WHERE (peer, origin_region, origin_incarnation, stream) = ($1, $2, $3, $4)",
        )
        .bind(peer.as_str())
        .bind(log.origin.region.as_str())
        .bind(to_sql(log.origin.incarnation)?)
        .bind(log.stream.as_str())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Logs found to be others at a peer than here, and not found the same since; each with the entry that showed it.
    pub async fn diverged(&self) -> Result<BTreeMap<(RegionName, LogId), u64>, StoreError> {
        let rows: Vec<(String, String, i64, String, i64)> =
            sqlx::query_as("SELECT peer, origin_region, origin_incarnation, stream, seq FROM repl_diverged")
                .fetch_all(&self.pool)
                .await?;
        let read = rows.into_iter().map(|(peer, region, incarnation, stream, seq)| {
            Ok(((region_name(&peer)?, log_id(&region, incarnation, &stream)?), from_sql(seq)))
        });
        read.collect()
    }
}

/// A row says what its entry does: it is damaged no more, and if it said anything else before it is taken to differ from no
/// peer's until they are compared again.
pub(super) async fn forget_mended(
    connection: &mut PgConnection,
    key: &RowKey,
    changed: bool,
) -> Result<(), StoreError> {
    let key = key.to_string();
    sqlx::query(
        "UPDATE repl_damage SET entries = GREATEST(entries - 1, 0), rows = array_remove(rows, $1),
             named = ARRAY(SELECT name FROM UNNEST(named) AS name WHERE position($1 IN name) = 0)
         WHERE $1 = ANY (rows)",
    )
    .bind(&key)
    .execute(&mut *connection)
    .await?;
    if changed {
        sqlx::query("DELETE FROM repl_differing WHERE key = $1").bind(&key).execute(connection).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
