//! Numbering: committed rows of the outbox become entries of the log. Only here are numbers given, only by the leader.

use std::collections::BTreeMap;

use shared::{
    fact::{Fact, FactStream},
    ids::TenantId,
};
use sqlx::{PgConnection, types::Uuid};
use time::OffsetDateTime;

use super::{
    Fence, Store, StoreError,
    apply::{Aside, quarantine},
    from_sql, hash,
    ledger::{self, LedgerRow, NewFact, fact_hash},
    rejected::reject,
    to_sql,
};
use crate::{
    documents::{keep_rollout, keep_version},
    protocol::{
        Draft, Entry, Envelope, Head, HomeEpoch, KeyId, LogId, MAX_GROUP_BYTES, MAX_GROUP_ENTRIES, Origin, SALT_BYTES,
        checkpoint_message,
    },
};

/// Rows moved in one transaction, and bytes of bodies after which no further one is begun.
const ROWS: i64 = 1000;
const BYTES: i64 = 4 * 1024 * 1024;

/// Signs this region's checkpoints.
pub trait Signer: Send + Sync {
    /// The key's id.
    fn key_id(&self) -> KeyId;
    /// An Ed25519 signature.
    fn sign(&self, message: &[u8]) -> Vec<u8>;
}

/// What one transaction numbered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbered {
    /// The logs that grew, with their new heads.
    pub heads: Vec<(LogId, Head)>,
    /// How many entries they grew by.
    pub entries: usize,
    /// Rows that may not leave the region and were set aside.
    pub rejected: usize,
    /// Whether more rows were waiting.
    pub more: bool,
}

/// Which rows of the outbox one transaction takes. One that failed is named: rows come in while it is looked for, and no
/// other may be set aside in its place.
enum Rows<'a> {
    Next,
    One(Uuid),
    Poison(Uuid, &'a str),
}

/// A committed fact as it lies in the outbox.
pub(super) struct OutboxRow {
    pub(super) id: Uuid,
    /// Where it lies there; 0 where it does not any more.
    pub(super) position: i64,
    pub(super) stream: String,
    pub(super) kind: String,
    pub(super) tenant_id: Option<String>,
    pub(super) home_term: Option<i64>,
    pub(super) home_n: Option<i64>,
    pub(super) body: Vec<u8>,
    pub(super) traceparent: Option<String>,
    pub(super) created_at: OffsetDateTime,
}

impl Store {
    /// Moves up to a thousand rows of the outbox into the log of `origin`. A crash leaves each row in one of the two. A row
    /// the database refuses is set aside, and the others go on.
    pub async fn number(
        &self,
        fence: &Fence,
        cluster_id: &str,
        origin: &Origin,
        signer: &dyn Signer,
    ) -> Result<Numbered, StoreError> {
        let attempt = async |rows| self.number_some(fence, cluster_id, origin, signer, rows).await;
        match attempt(Rows::Next).await {
            Err(error) if error.is_about_data() => {}
            other => return other,
        }
        // One of them is poison: go one by one until it is found.
        let first = sqlx::query_scalar!("SELECT id FROM repl_outbox ORDER BY position LIMIT 1");
        let Some(id) = first.fetch_optional(&self.pool).await? else { return Ok(Numbered::default()) };
        match attempt(Rows::One(id)).await {
            Err(error) if error.is_about_data() => attempt(Rows::Poison(id, &error.to_string())).await,
            other => other,
        }
    }

    async fn number_some(
        &self,
        fence: &Fence,
        cluster_id: &str,
        origin: &Origin,
        signer: &dyn Signer,
        which: Rows<'_>,
    ) -> Result<Numbered, StoreError> {
        // Asked many times a second; mostly there is nothing, and then there is no transaction.
        let waiting = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM repl_outbox) AS "waiting!""#);
        if !waiting.fetch_one(&self.pool).await? {
            return Ok(Numbered::default());
        }
        let (at_most, only, poison) = match which {
            Rows::Next => (ROWS, None, None),
            Rows::One(id) => (1, Some(id), None),
            Rows::Poison(id, reason) => (1, Some(id), Some(reason)),
        };
        let mut tx = self.begin_fenced(fence).await?;
        // Not SKIP LOCKED: only the leader reads here, and what holds a lock is an attempt of its own being rolled back.
        let mut rows = sqlx::query_as!(
            OutboxRow,
            r#"DELETE FROM repl_outbox WHERE id IN
                   (SELECT id
                    FROM (SELECT id, sum(size) OVER (ORDER BY position) - size AS bytes_before
                          FROM (SELECT id, position, octet_length(body) AS size FROM repl_outbox
                                WHERE $3::uuid IS NULL OR id = $3
                                ORDER BY position LIMIT $1 FOR UPDATE) locked) counted
                    WHERE bytes_before < $2)
               RETURNING id, position, stream, kind, tenant_id, home_term, home_n, body, traceparent, created_at"#,
            at_most,
            BYTES,
            only
        )
        .fetch_all(&mut *tx)
        .await?;
        rows.sort_unstable_by_key(|row| row.position);
        let bytes: usize = rows.iter().map(|row| row.body.len()).sum();
        let more = rows.len() as i64 == at_most || bytes as i64 >= BYTES;
        let mut numbered = Numbered { more, ..Numbered::default() };

        let mut streams: BTreeMap<FactStream, Vec<(Draft, Fact)>> = BTreeMap::new();
        for row in rows {
            match poison.map_or_else(|| read_row(&row), |reason| Err(reason.to_owned())) {
                Ok((stream, draft, fact)) => streams.entry(stream).or_default().push((draft, fact)),
                Err(reason) => {
                    tracing::error!(outbox.id = %row.id, kind = row.kind, "a fact may not leave this region: {reason}");
                    reject(&mut tx, row, &reason).await?;
                    numbered.rejected += 1;
                }
            }
        }
        let mut counts = Vec::new();
        for (stream, drafts) in streams {
            let log = LogId { origin: origin.clone(), stream };
            numbered.entries += drafts.len();
            counts.push((stream, drafts.len()));
            let head = append(&mut tx, cluster_id, &log, drafts, signer).await?;
            numbered.heads.push((log, head));
        }
        tx.commit().await?;
        for (stream, count) in counts {
            metrics::counter!("global_sync_sequenced_total", "stream" => stream.as_str()).increment(count as u64);
        }
        Ok(numbered)
    }
}

/// What a committed fact says, or why it may not leave.
pub(super) fn read_row(row: &OutboxRow) -> Result<(FactStream, Draft, Fact), String> {
    let stream = FactStream::from_name(&row.stream).ok_or("an unknown stream")?;
    let fact = Fact::check(stream, &row.kind, &row.body).map_err(|error| error.to_string())?;
    if fact.tenant() != row.tenant_id.as_deref() {
        return Err("its row names another tenant".to_owned());
    }
    let tenant = row.tenant_id.as_deref().map(str::parse::<TenantId>).transpose().map_err(|error| error.to_string())?;
    let home_epoch = match (row.home_term, row.home_n) {
        (Some(term), Some(n)) if term >= 0 && n >= 0 => Some(HomeEpoch { term: from_sql(term), n: from_sql(n) }),
        (None, None) => None,
        _ => return Err("half an epoch".to_owned()),
    };
    let salt: [u8; SALT_BYTES] = rand::random();
    let traceparent = row.traceparent.clone().filter(|text| text.len() <= 128);
    let draft = Draft {
        id: row.id,
        kind: row.kind.clone(),
        tenant,
        home_epoch,
        traceparent,
        committed_at_ms: i64::try_from(row.created_at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
        body: [&salt, row.body.as_slice()].concat(),
    };
    Ok((stream, draft, fact))
}

async fn append(
    connection: &mut PgConnection,
    cluster_id: &str,
    log: &LogId,
    drafts: Vec<(Draft, Fact)>,
    signer: &dyn Signer,
) -> Result<Head, StoreError> {
    let mut head = lock_head(connection, log).await?;
    let mut entries: Vec<(Entry, Head)> = Vec::with_capacity(drafts.len());
    let mut checkpoints: Vec<Head> = Vec::new();
    let mut facts: Vec<NewFact> = Vec::new();
    let mut config = Vec::new();
    let (mut group_bytes, mut group_entries) = (0, 0);
    for (draft, fact) in drafts {
        let epoch = draft.home_epoch.unwrap_or_default();
        let hash = fact_hash(&draft.kind, draft.body.get(SALT_BYTES..).unwrap_or_default());
        let (entry, next) = Envelope::seal(cluster_id, log, &head, draft);
        let kind = fact.kind();
        if let Fact::ConfigPublished(_) | Fact::ConfigRollout(_) = &fact {
            config.push((next.seq, epoch, fact.clone()));
        }
        if let Some(row) = LedgerRow::of(fact) {
            facts.push(NewFact { seq: next.seq, kind, row, epoch, hash });
        }
        if group_entries > 0 && (group_bytes + entry.len() > MAX_GROUP_BYTES || group_entries == MAX_GROUP_ENTRIES) {
            checkpoints.push(head);
            (group_bytes, group_entries) = (0, 0);
        }
        group_bytes += entry.len();
        group_entries += 1;
        entries.push((entry, next));
        head = next;
    }
    checkpoints.push(head);

    insert_entries(connection, log, entries.iter().map(|(entry, head)| (entry, head))).await?;
    for checkpoint in checkpoints {
        let signature = signer.sign(&checkpoint_message(cluster_id, log, &checkpoint));
        insert_checkpoint(connection, log, checkpoint.seq, &signer.key_id(), &signature).await?;
    }
    save_head(connection, log, &head).await?;
    save_applied(connection, log, head.seq).await?;
    for (seq, epoch, fact) in config {
        let refused = match &fact {
            Fact::ConfigPublished(published) => keep_version(connection, &log.origin, epoch, published).await?,
            Fact::ConfigRollout(decided) => keep_rollout(connection, &log.origin, epoch, decided).await?,
            _ => None,
        };
        if let Some((state, reason)) = refused {
            tracing::error!(log = %log, seq, "what we said of a tenant's config is not what applies: {reason}");
            quarantine(connection, log, seq, fact.tenant(), fact.kind(), state, &reason).await?;
        }
    }
    let conflicts = ledger::insert(connection, &log.origin, &facts).await?;
    for seq in conflicts {
        tracing::error!(log = %log, seq, "a fact of ours has the id of another one: the first one stays");
        metrics::counter!("global_sync_equivocations_total").increment(1);
        let kind = facts.iter().find(|fact| fact.seq == seq).map_or("", |fact| fact.kind);
        quarantine(connection, log, seq, None, kind, Aside::Conflict, "the id belongs to another fact").await?;
    }
    Ok(head)
}

/// The head of a log, locked until the transaction ends; the log begins to exist.
pub(super) async fn lock_head(connection: &mut PgConnection, log: &LogId) -> Result<Head, StoreError> {
    if let Some(head) = lock_known_head(connection, log).await? {
        return Ok(head);
    }
    sqlx::query!(
        "INSERT INTO repl_cursor (origin_region, origin_incarnation, stream, head_hash) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        Head::EMPTY.hash.as_slice()
    )
    .execute(&mut *connection)
    .await?;
    Ok(lock_known_head(connection, log).await?.unwrap_or(Head::EMPTY))
}

async fn lock_known_head(connection: &mut PgConnection, log: &LogId) -> Result<Option<Head>, StoreError> {
    let row = sqlx::query!(
        "SELECT stored, head_hash FROM repl_cursor
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 FOR UPDATE",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str()
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok(Head { seq: from_sql(row.stored), hash: hash(&row.head_hash)? })).transpose()
}

pub(super) async fn save_head(connection: &mut PgConnection, log: &LogId, head: &Head) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE repl_cursor SET stored = $4, head_hash = $5
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        to_sql(head.seq)?,
        head.hash.as_slice()
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn save_applied(connection: &mut PgConnection, log: &LogId, applied: u64) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO repl_apply (origin_region, origin_incarnation, stream, applied) VALUES ($1, $2, $3, $4)
         ON CONFLICT (origin_region, origin_incarnation, stream, bucket) DO UPDATE SET applied = EXCLUDED.applied",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        to_sql(applied)?
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn insert_entries<'a>(
    connection: &mut PgConnection,
    log: &LogId,
    entries: impl Iterator<Item = (&'a Entry, &'a Head)> + Clone,
) -> Result<(), StoreError> {
    let seqs: Vec<i64> = entries.clone().map(|(_, head)| to_sql(head.seq)).collect::<Result<_, _>>()?;
    let hashes: Vec<&[u8]> = entries.clone().map(|(_, head)| head.hash.as_slice()).collect();
    let envelopes: Vec<&[u8]> = entries.clone().map(|(entry, _)| entry.envelope.as_slice()).collect();
    let bodies: Vec<Option<&[u8]>> = entries.map(|(entry, _)| entry.body.as_deref()).collect();
    sqlx::query!(
        "INSERT INTO repl_log (origin_region, origin_incarnation, stream, seq, hash, envelope, body)
         SELECT $1, $2, $3, e.seq, e.hash, e.envelope, e.body
         FROM UNNEST($4::bigint[], $5::bytea[], $6::bytea[], $7::bytea[]) AS e (seq, hash, envelope, body)",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        &seqs,
        &hashes as &[&[u8]],
        &envelopes as &[&[u8]],
        &bodies as &[Option<&[u8]>]
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn insert_checkpoint(
    connection: &mut PgConnection,
    log: &LogId,
    seq: u64,
    key_id: &KeyId,
    signature: &[u8],
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO repl_checkpoint (origin_region, origin_incarnation, stream, seq, key_id, signature)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        to_sql(seq)?,
        key_id.as_slice(),
        signature
    )
    .execute(connection)
    .await?;
    Ok(())
}
