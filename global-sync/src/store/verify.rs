//! Looking for bits that changed where they lay: entries are compared with their hashes, their bodies, their neighbours and
//! what their origin signed, a few thousand at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use shared::{
    fact::{Fact, FactStream},
    sync_command::RowKey,
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Store, StoreError, from_sql, hash,
    ledger::{LedgerRow, fact_hash},
    to_sql,
};
use crate::{
    documents,
    protocol::{
        Checkpoint, Envelope, Hash, Head, KeyId, LogId, MAX_NUMBER, SALT_BYTES, Trust, checkpoint_message, hash_of,
    },
};

/// An entry that is not what was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The log.
    pub log: LogId,
    /// The entry.
    pub seq: u64,
    /// What is wrong with it.
    pub what: String,
    /// The row made of it, if that is what is wrong.
    pub row: Option<RowKey>,
}

impl Damage {
    fn of_entry(log: &LogId, seq: u64, what: impl Into<String>) -> Self {
        Self { log: log.clone(), seq, what: what.into(), row: None }
    }
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
    /// before, vouch for their bodies, and the cursor's head is that of the last; their origin signed them, by the keys that
    /// `trust` knows; settlements stand in the ledger as they say. What is gone is damage too.
    pub async fn verify_log(
        &self,
        cluster_id: &str,
        log: &LogId,
        from: u64,
        limit: i64,
        trust: &mut impl Trust,
    ) -> Result<Looked, StoreError> {
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
        let mut looked = Looked::default();
        let mut before: Option<(u64, Vec<u8>)> = None;
        let mut expected = first;
        let mut facts = BTreeMap::new();
        let mut hashes: BTreeMap<u64, Hash> = BTreeMap::new();
        if cursor.truncated == cursor.stored {
            // It came with a snapshot, and what its origin signed of it is passed on with the next one.
            hashes.insert(from_sql(cursor.stored), hash(&cursor.head_hash)?);
        }
        for row in rows {
            let seq = from_sql(row.seq);
            let mut damaged = |seq, what: &str| looked.damage.push(Damage::of_entry(log, seq, what));
            if seq >= first {
                for missing in expected..seq {
                    damaged(missing, "it is gone");
                }
                expected = seq + 1;
                looked.entries += 1;
                let hash = hash_of(&row.envelope);
                if hash.as_slice() == row.hash {
                    hashes.insert(seq, hash);
                } else {
                    damaged(seq, "its envelope does not have the hash it was stored with");
                }
                let follows = before.as_ref().filter(|(at, _)| at + 1 == seq).map(|(_, hash)| hash.as_slice());
                let (fact, wrong) = look_into(log, seq, follows, &row.envelope, row.body.as_deref());
                wrong.iter().for_each(|what| damaged(seq, what));
                facts.extend(fact.map(|fact| (seq, fact)));
                if row.seq == cursor.stored && row.hash != cursor.head_hash {
                    damaged(seq, "the cursor names another hash");
                }
            }
            before = Some((seq, row.hash));
        }
        let full = looked.entries as i64 >= limit;
        if !full {
            for missing in expected..=from_sql(cursor.stored) {
                looked.damage.push(Damage::of_entry(log, missing, "it is gone"));
            }
        }
        looked.next = full.then_some(expected);
        // A signature that strayed before the first entry or after the last is found with these.
        let (stored, truncated) = (from_sql(cursor.stored), from_sql(cursor.truncated));
        let places = if from <= truncated + 1 { 0 } else { first }..=if full { expected - 1 } else { MAX_NUMBER };
        let mut signed = false;
        for (seq, key_id, signature, certificate) in checkpoints(&mut tx, log, places).await? {
            signed |= seq == stored;
            let wrong = match hashes.get(&seq) {
                Some(hash) => {
                    let head = Head { seq, hash: *hash };
                    let checkpoint = Checkpoint { head, key_id, signature, certificate };
                    let message = checkpoint_message(cluster_id, log, &head);
                    trust.verify(&log.origin.region, &checkpoint, &message).err().map(|error| error.to_string())
                }
                None if seq < truncated || seq > stored => Some("a signature lies here for no entry".to_owned()),
                // The entry is damaged itself, which has been said; or it is the last that is not here any more.
                None => None,
            };
            looked.damage.extend(wrong.map(|what| Damage::of_entry(log, seq, what)));
        }
        if !full && stored > truncated && !signed {
            looked.damage.push(Damage::of_entry(log, stored, "its origin's signature is gone"));
        }
        if log.stream == FactStream::Ledger {
            looked.damage.extend(compare_with_ledger(&mut tx, log, &facts).await?);
        }
        tx.rollback().await?;
        Ok(looked)
    }
}

impl Store {
    /// Drafts of the tenants after this one that are not what was written, each by its tenant with what is wrong, and where to
    /// go on.
    pub async fn damaged_drafts(&self, after: &str) -> Result<(Vec<(String, String)>, Option<String>), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *tx).await?;
        let found = documents::damaged_drafts(&mut tx, after).await?;
        tx.rollback().await?;
        Ok(found)
    }
}

/// Kind and body of a fact.
type KindAndBody = (String, Vec<u8>);

/// What an entry vouches for, if it still has a body, and what is wrong with it. `follows` is the hash of the entry before.
fn look_into(
    log: &LogId,
    seq: u64,
    follows: Option<&[u8]>,
    envelope: &[u8],
    body: Option<&[u8]>,
) -> (Option<KindAndBody>, Vec<String>) {
    let envelope = match Envelope::read(envelope) {
        Ok(envelope) if envelope.log == *log && envelope.seq == seq => envelope,
        Ok(_) => return (None, vec!["its envelope is of another place".to_owned()]),
        Err(error) => return (None, vec![error.to_string()]),
    };
    let mut wrong = Vec::new();
    if follows.is_some_and(|hash| hash != envelope.prev_hash) {
        wrong.push("it does not continue the entry before it".to_owned());
    }
    let Some(body) = body else { return (None, wrong) };
    if let Err(error) = envelope.check_body(body) {
        wrong.push(error.to_string());
        return (None, wrong);
    }
    (Some((envelope.kind, body.get(SALT_BYTES..).unwrap_or_default().to_vec())), wrong)
}

/// A place an origin signed: where, with which key, the signature, and the key's certificate, if it is here.
type Signed = (u64, KeyId, Vec<u8>, Option<Vec<u8>>);

/// Where the origin of a log signed between these places. Certificates are read with the signatures, since one may have come in
/// with an entry after all others were read.
async fn checkpoints(
    connection: &mut PgConnection,
    log: &LogId,
    places: RangeInclusive<u64>,
) -> Result<Vec<Signed>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT p.seq, p.key_id, p.signature, c.certificate AS "certificate?"
           FROM repl_checkpoint p LEFT JOIN repl_origin_cert c ON c.key_id = p.key_id AND c.region = p.origin_region
           WHERE p.origin_region = $1 AND p.origin_incarnation = $2 AND p.stream = $3 AND p.seq BETWEEN $4 AND $5
           ORDER BY p.seq"#,
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        to_sql(*places.start())?,
        to_sql(*places.end())?
    )
    .fetch_all(connection)
    .await?;
    // An id of another length is that of no key.
    let signed = |key_id: &[u8]| hash(key_id).unwrap_or_default();
    Ok(rows.into_iter().map(|row| (from_sql(row.seq), signed(&row.key_id), row.signature, row.certificate)).collect())
}

/// Settlements that do not stand in the ledger as their entries say, named by their ids.
async fn compare_with_ledger(
    connection: &mut PgConnection,
    log: &LogId,
    bodies: &BTreeMap<u64, KindAndBody>,
) -> Result<Vec<Damage>, StoreError> {
    let (Some(first), Some(last)) = (bodies.keys().next(), bodies.keys().next_back()) else { return Ok(Vec::new()) };
    let (region, incarnation) = (log.origin.region.as_str(), to_sql(log.origin.incarnation)?);
    let applied = sqlx::query_scalar!(
        "SELECT applied FROM repl_apply
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND bucket = 0",
        region,
        incarnation,
        log.stream.as_str()
    )
    .fetch_optional(&mut *connection)
    .await?;
    let set_aside = sqlx::query_scalar!(
        "SELECT seq FROM repl_quarantine
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq BETWEEN $4 AND $5",
        region,
        incarnation,
        log.stream.as_str(),
        to_sql(*first)?,
        to_sql(*last)?
    )
    .fetch_all(&mut *connection)
    .await?;
    let applied = applied.map_or(0, from_sql);
    let mut entries = BTreeMap::new();
    for (seq, (kind, body)) in bodies.iter().filter(|(seq, _)| **seq <= applied) {
        if let Some(row) = Fact::from_body(kind, body).ok().and_then(LedgerRow::of)
            && !set_aside.contains(&to_sql(*seq)?)
        {
            entries.insert(row.fact_id, (*seq, kind, fact_hash(kind, body), row));
        }
    }
    let ids: Vec<Uuid> = entries.keys().copied().collect();
    let rows = sqlx::query!(
        "SELECT fact_id, payment_id, trip_id, payout_id, driver_id, entry_id, rider_id, tenant_id, kind, amount, currency,
             settled_at, body_hash
         FROM ledger_facts WHERE fact_id = ANY($1)",
        &ids
    )
    .fetch_all(connection)
    .await?;
    let micros = |at: OffsetDateTime| at.unix_timestamp_nanos() / 1_000;
    let mut sound = BTreeSet::new();
    for row in rows {
        let Some((_, kind, hash, said)) = entries.get(&row.fact_id) else { continue };
        let LedgerRow {
            fact_id: _,
            payment_id,
            trip_id,
            payout_id,
            driver_id,
            entry_id,
            rider_id,
            tenant,
            amount,
            currency,
            settled_at,
        } = said;
        if (row.payment_id, row.trip_id, row.payout_id, row.driver_id, row.entry_id, row.rider_id)
            == (*payment_id, *trip_id, *payout_id, *driver_id, *entry_id, *rider_id)
            && (&row.tenant_id, &row.kind, row.amount, &row.currency) == (tenant, *kind, *amount, currency)
            && micros(row.settled_at) == micros(*settled_at)
            && row.body_hash == hash
        {
            sound.insert(row.fact_id);
        }
    }
    let damaged = entries.into_iter().filter(|(id, _)| !sound.contains(id));
    let damage = damaged.map(|(id, (seq, ..))| Damage {
        log: log.clone(),
        seq,
        what: format!("the ledger's row of fact {id} is not what it says"),
        row: Some(RowKey::Fact(id)),
    });
    Ok(damage.collect())
}

#[cfg(test)]
mod tests;
