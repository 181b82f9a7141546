//! What operators tell replication to do: commands as region-node stored them, and those that are a matter of the database.
//!
//! What a command changes and what came of it commit together, under the lease: carried out once, whoever dies in between.

use std::collections::BTreeSet;

use shared::{
    fact::FactStream,
    ids::RegionName,
    sync_command::{EntryPlace, PeerStream, SyncCommand},
};
use sqlx::{Acquire as _, PgConnection, PgTransaction};
use uuid::Uuid;

use super::{
    Fence, Store, StoreError, apply::apply_again, from_sql, hash, number::save_head, region_name, release, stream_name,
    to_sql,
};
use crate::protocol::{Envelope, Head, LogId, Origin, hash_of};

/// Commands looked at together.
const AT_ONCE: i64 = 50;

/// A command that waits to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its name.
    pub id: Uuid,
    /// What to do; none if this version does not know the command.
    pub command: Option<SyncCommand>,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub made_by: String,
}

/// What came of a command: what was done, or why nothing was.
pub type Outcome = Result<String, String>;

impl Store {
    /// Commands nobody has carried out yet, the oldest first.
    pub async fn orders(&self) -> Result<Vec<Order>, StoreError> {
        let rows = sqlx::query!(
            "SELECT id, command, reason, made_by FROM repl_command WHERE ended_at IS NULL ORDER BY position LIMIT $1",
            AT_ONCE
        )
        .fetch_all(&self.pool)
        .await?;
        let order = |id, command, reason, made_by| Order { id, command, reason, made_by };
        Ok(rows
            .into_iter()
            .map(|row| order(row.id, serde_json::from_value(row.command).ok(), row.reason, row.made_by))
            .collect())
    }

    /// Says what came of a command.
    pub async fn end_order(&self, fence: &Fence, id: Uuid, outcome: &Outcome) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        end(&mut tx, id, outcome).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Between us and which peers entries of which streams do not pass.
    pub async fn pauses(&self) -> Result<BTreeSet<(RegionName, FactStream)>, StoreError> {
        let rows = sqlx::query!("SELECT peer, stream FROM repl_pause").fetch_all(&self.pool).await?;
        rows.into_iter().map(|row| Ok((region_name(&row.peer)?, stream_name(&row.stream)?))).collect()
    }

    /// Lets no entries pass between us and a peer, or lets them again.
    pub async fn pause(&self, fence: &Fence, id: Uuid, what: &PeerStream, paused: bool) -> Result<Outcome, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let (peer, stream) = (what.peer.as_str(), what.stream.as_str());
        let is_known = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM repl_member WHERE region = $1 UNION ALL SELECT FROM regions WHERE name = $1)
                  AND NOT EXISTS (SELECT FROM repl_self WHERE region = $1) AS "is_known!""#,
            peer
        )
        .fetch_one(&mut *tx)
        .await?;
        let outcome = if !is_known {
            Err(format!("no other region {peer} is known here"))
        } else if paused {
            sqlx::query!("INSERT INTO repl_pause (peer, stream) VALUES ($1, $2) ON CONFLICT DO NOTHING", peer, stream)
                .execute(&mut *tx)
                .await?;
            Ok(format!("no entries of {stream} pass between here and {peer}"))
        } else {
            sqlx::query!("DELETE FROM repl_pause WHERE peer = $1 AND stream = $2", peer, stream)
                .execute(&mut *tx)
                .await?;
            Ok(format!("entries of {stream} pass between here and {peer}"))
        };
        finish(tx, id, outcome).await
    }

    /// Tries to apply an entry that is set aside once more. Where it cannot be, its reason is the one of now.
    pub async fn retry_by_hand(&self, fence: &Fence, id: Uuid, entry: &EntryPlace) -> Result<Outcome, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let log = log_of(entry);
        if set_aside_as(&mut tx, entry).await?.is_none() {
            return finish(tx, id, Err(not_set_aside(entry))).await;
        }
        let mut attempt = tx.begin().await?;
        let outcome = match apply_again(&mut attempt, &log, to_sql(entry.seq)?).await {
            Ok(tried) => {
                let outcome = match tried {
                    Some(true) => {
                        release(&mut attempt, &log, &[entry.seq]).await?;
                        Ok("it is applied".to_owned())
                    }
                    Some(false) => {
                        let why = set_aside_as(&mut attempt, entry).await?;
                        Err(why.map_or_else(String::new, |(state, reason)| format!("{state}: {reason}")))
                    }
                    None => Err("the log has no such entry any more".to_owned()),
                };
                attempt.commit().await?;
                outcome
            }
            Err(error) if error.is_about_data() => {
                attempt.rollback().await?;
                Err(error.to_string())
            }
            Err(error) => return Err(error),
        };
        finish(tx, id, outcome).await
    }

    /// Says that an entry that is set aside is never to be applied.
    pub async fn skip(&self, fence: &Fence, order: &Order, entry: &EntryPlace) -> Result<Outcome, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let reason = format!("{} says: {}", order.made_by, order.reason);
        let skipped = sqlx::query!(
            "UPDATE repl_quarantine SET state = 'skipped', reason = $5 || ' (' || state || ': ' || reason || ')',
                 last_at = now()
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4 AND state <> 'skipped'",
            entry.origin.as_str(),
            to_sql(entry.incarnation)?,
            entry.stream.as_str(),
            to_sql(entry.seq)?,
            reason
        )
        .execute(&mut *tx)
        .await?;
        let outcome = match skipped.rows_affected() {
            0 => Err(not_set_aside(entry)),
            _ => Ok("it is skipped".to_owned()),
        };
        finish(tx, order.id, outcome).await
    }

    /// Forgets the entries of another origin's log from one on, so that they are fetched anew; returns its head then. What
    /// was applied of them stays, and is not applied again.
    pub async fn forget_from(
        &self,
        fence: &Fence,
        id: Uuid,
        own: &Origin,
        entry: &EntryPlace,
    ) -> Result<(Outcome, Option<Head>), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let log = log_of(entry);
        let found = match log.origin == *own {
            true => Err("this region is the origin: nobody else's copy is better than its own".to_owned()),
            false => head_before(&mut tx, &log, entry.seq).await?,
        };
        let head = match found {
            Ok(head) => head,
            Err(why) => return Ok((finish(tx, id, Err(why)).await?, None)),
        };
        let (region, incarnation) = (entry.origin.as_str(), to_sql(entry.incarnation)?);
        let forgotten = sqlx::query!(
            "DELETE FROM repl_log WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq >= $4",
            region,
            incarnation,
            entry.stream.as_str(),
            to_sql(entry.seq)?
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM repl_checkpoint
             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq >= $4",
            region,
            incarnation,
            entry.stream.as_str(),
            to_sql(entry.seq)?
        )
        .execute(&mut *tx)
        .await?;
        save_head(&mut tx, &log, &head).await?;
        let outcome = Ok(format!("{} entries are fetched anew", forgotten.rows_affected()));
        Ok((finish(tx, id, outcome).await?, Some(head)))
    }
}

fn log_of(entry: &EntryPlace) -> LogId {
    let origin = Origin { region: entry.origin.clone(), incarnation: entry.incarnation };
    LogId { origin, stream: entry.stream }
}

fn not_set_aside(entry: &EntryPlace) -> String {
    format!("{}/{} is not set aside", log_of(entry), entry.seq)
}

pub(super) async fn finish(mut tx: PgTransaction<'_>, id: Uuid, outcome: Outcome) -> Result<Outcome, StoreError> {
    end(&mut tx, id, &outcome).await?;
    tx.commit().await?;
    Ok(outcome)
}

async fn end(connection: &mut PgConnection, id: Uuid, outcome: &Outcome) -> Result<(), StoreError> {
    let (done, said) = match outcome {
        Ok(said) => (true, said),
        Err(said) => (false, said),
    };
    sqlx::query!(
        "UPDATE repl_command SET ended_at = clock_timestamp(), done = $2, outcome = $3
         WHERE id = $1 AND ended_at IS NULL",
        id,
        done,
        said
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// State and reason of an entry that is set aside.
async fn set_aside_as(
    connection: &mut PgConnection,
    entry: &EntryPlace,
) -> Result<Option<(String, String)>, StoreError> {
    let row = sqlx::query!(
        "SELECT state, reason FROM repl_quarantine
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4",
        entry.origin.as_str(),
        to_sql(entry.incarnation)?,
        entry.stream.as_str(),
        to_sql(entry.seq)?
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.state, row.reason)))
}

/// The entry before `seq`, if it is here and what was stored; holds the log's cursor until the transaction ends.
async fn head_before(connection: &mut PgConnection, log: &LogId, seq: u64) -> Result<Result<Head, String>, StoreError> {
    let (region, incarnation) = (log.origin.region.as_str(), to_sql(log.origin.incarnation)?);
    let cursor = sqlx::query!(
        "SELECT stored, truncated FROM repl_cursor
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 FOR UPDATE",
        region,
        incarnation,
        log.stream.as_str()
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(cursor) = cursor.filter(|cursor| from_sql(cursor.stored) >= seq) else {
        return Ok(Err(format!("{log} has no entry {seq} here")));
    };
    if seq == 1 && cursor.truncated == 0 {
        return Ok(Ok(Head::EMPTY));
    }
    if seq <= from_sql(cursor.truncated) + 1 {
        let dropped = cursor.truncated;
        return Ok(Err(format!("entries of {log} up to {dropped} are dropped here: load a snapshot instead")));
    }
    let before = sqlx::query!(
        "SELECT hash, envelope FROM repl_log
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4",
        region,
        incarnation,
        log.stream.as_str(),
        to_sql(seq - 1)?
    )
    .fetch_optional(&mut *connection)
    .await?;
    let is_whole = |envelope: &[u8], of: &[u8]| {
        hash_of(envelope).as_slice() == of
            && Envelope::read(envelope).is_ok_and(|read| read.log == *log && read.seq == seq - 1)
    };
    match before {
        Some(row) if is_whole(&row.envelope, &row.hash) => Ok(Ok(Head { seq: seq - 1, hash: hash(&row.hash)? })),
        _ => Ok(Err(format!("entry {} is not what was stored either: begin with it, or earlier", seq - 1))),
    }
}

#[cfg(test)]
pub(super) mod tests;
