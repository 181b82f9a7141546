//! Applying stored entries to the tables people read, a few hundred in one transaction with the cursor that counts them.
//!
//! An entry that cannot be applied is set aside with its reason and holds back nothing but its own document. What fails
//! because the database is away, busy or led by another is simply tried again.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    fact::{Fact, FactError, FactStream},
    ids::{RegionName, TenantId},
};
use sqlx::{Connection, PgConnection};

use super::{
    Fence, Store, StoreError, from_sql,
    ledger::{self, LedgerRow, NewFact, fact_hash},
    log_id,
    number::save_applied,
    region_name, stream_name, to_sql,
};
use crate::{
    documents,
    protocol::{Entry, Envelope, Hash, Head, LogId, Origin, hash_of},
};

/// Entries applied in one transaction: measured to be where larger batches stop paying.
const BATCH: i64 = 500;
/// Bytes read for one transaction after which no further entry is.
const BATCH_BYTES: i64 = 4 * 1024 * 1024;
/// The most entries of one log that may be set aside; past it the log stops and people are told. Of each tenant only the
/// first hundred count, so that one tenant cannot stop what the origin says of all others.
pub const MAX_EXCEPTIONS: i64 = 1000;
const MAX_COUNTED_PER_TENANT: i64 = 100;
/// Places of parked entries looked up at a time.
const PARKED: i64 = 1000;

/// What one transaction applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Up to which entry.
    pub applied: u64,
    /// How many entries that was.
    pub entries: usize,
    /// How many of them were set aside.
    pub set_aside: usize,
}

/// A stored entry, read and understood as far as this version can.
pub(crate) struct Stored {
    pub(crate) origin: Origin,
    pub(crate) seq: u64,
    pub(crate) envelope: Envelope,
    pub(crate) fact: Fact,
    pub(super) hash: Hash,
}

/// An entry as it was read: its number, the hash it was stored with, and its bytes.
type Read = (u64, Vec<u8>, Entry);

/// How an entry is set aside; what each means stands with `repl_quarantine` in the schema, which also has those that an operator
/// skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    Held,
    Parked,
    Failed,
    Conflict,
    Stale,
}

impl Aside {
    /// As the schema names it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Parked => "parked",
            Self::Failed => "failed",
            Self::Conflict => "conflict",
            Self::Stale => "stale",
        }
    }
}

/// An entry to set aside.
pub(crate) struct SetAside {
    pub(crate) seq: u64,
    pub(crate) state: Aside,
    pub(crate) reason: String,
}

impl SetAside {
    pub(crate) fn new(seq: u64, state: Aside, reason: impl ToString) -> Self {
        Self { seq, state, reason: reason.to_string() }
    }
}

impl Store {
    /// Logs of a stream with entries that are stored and not applied.
    pub async fn unapplied(&self, stream: FactStream) -> Result<Vec<LogId>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT c.origin_region AS "origin_region!", c.origin_incarnation AS "origin_incarnation!"
               FROM repl_cursor c LEFT JOIN repl_apply a USING (origin_region, origin_incarnation, stream)
               WHERE c.stream = $1 AND c.stored > COALESCE(a.applied, 0)
               ORDER BY 1, 2"#,
            stream.as_str()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| log_id(&row.origin_region, row.origin_incarnation, stream.as_str())).collect()
    }

    /// Applies the next entries of a log; `None` if there are none, or too many are set aside already.
    pub async fn apply(&self, fence: &Fence, log: &LogId) -> Result<Option<Applied>, StoreError> {
        if self.exceptions(log).await? >= MAX_EXCEPTIONS {
            return Ok(None);
        }
        match self.apply_some(fence, log, BATCH, None).await {
            Err(error) if error.is_about_data() => {}
            other => return other,
        }
        // One of them is poison: go one by one until it is found, and set that one aside.
        match self.apply_some(fence, log, 1, None).await {
            Err(error) if error.is_about_data() => self.apply_some(fence, log, 1, Some(error.to_string())).await,
            other => other,
        }
    }

    /// Tries again what an older version did not know; for whoever begins to lead.
    pub async fn retry_parked(&self, fence: &Fence) -> Result<usize, StoreError> {
        let kinds: Vec<String> = Fact::KINDS.iter().map(|kind| (*kind).to_owned()).collect();
        let mut done = 0;
        let mut after = (String::new(), 0, String::new(), 0);
        loop {
            let parked = sqlx::query!(
                "SELECT origin_region, origin_incarnation, stream, seq FROM repl_quarantine
                 WHERE state = 'parked' AND kind = ANY($1)
                   AND (origin_region, origin_incarnation, stream, seq) > ($2, $3, $4, $5)
                 ORDER BY 1, 2, 3, 4 LIMIT $6",
                &kinds,
                after.0,
                after.1,
                after.2,
                after.3,
                PARKED
            )
            .fetch_all(&self.pool)
            .await?;
            for row in &parked {
                let log = log_id(&row.origin_region, row.origin_incarnation, &row.stream)?;
                match self.retry_entry(fence, &log, row.seq).await {
                    Ok(applied) => done += usize::from(applied),
                    Err(error) if error.is_about_data() => {
                        tracing::error!(%log, seq = row.seq, "a parked entry stays parked: {error}");
                    }
                    Err(error) => return Err(error),
                }
            }
            let Some(last) = parked.into_iter().next_back() else { return Ok(done) };
            after = (last.origin_region, last.origin_incarnation, last.stream, last.seq);
        }
    }

    async fn retry_entry(&self, fence: &Fence, log: &LogId, seq: i64) -> Result<bool, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let applied = apply_again(&mut tx, log, seq).await?.unwrap_or_default();
        if applied {
            release(&mut tx, log, &[from_sql(seq)]).await?;
            tx.commit().await?;
        }
        Ok(applied)
    }

    /// Entries set aside, by state.
    pub async fn quarantine_counts(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT s.state AS "state!", count(q.state) AS "count!"
               FROM UNNEST(ARRAY['held', 'parked', 'failed', 'conflict', 'stale', 'skipped']) AS s (state)
               LEFT JOIN repl_quarantine q USING (state) GROUP BY s.state ORDER BY s.state"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.state, row.count)).collect())
    }

    /// Entries set aside, by the region that wrote them, stream and state.
    pub async fn quarantined(&self) -> Result<BTreeMap<(RegionName, FactStream, String), i64>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT origin_region, stream, state, count(*) AS "count!" FROM repl_quarantine
               GROUP BY origin_region, stream, state"#
        )
        .fetch_all(&self.pool)
        .await?;
        let read = rows
            .into_iter()
            .map(|row| Ok(((region_name(&row.origin_region)?, stream_name(&row.stream)?, row.state), row.count)));
        read.collect()
    }

    async fn exceptions(&self, log: &LogId) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT COALESCE(sum(CASE WHEN tenant_id IS NULL THEN found ELSE LEAST(found, $4) END), 0)::bigint AS "count!"
               FROM (SELECT tenant_id, count(*) AS found FROM repl_quarantine
                     WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND state NOT IN ('stale', 'skipped')
                     GROUP BY tenant_id) tenants"#,
            log.origin.region.as_str(),
            to_sql(log.origin.incarnation)?,
            log.stream.as_str(),
            MAX_COUNTED_PER_TENANT
        );
        Ok(count.fetch_one(&self.pool).await?)
    }

    async fn apply_some(
        &self,
        fence: &Fence,
        log: &LogId,
        limit: i64,
        poison: Option<String>,
    ) -> Result<Option<Applied>, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let applied = lock_applied(&mut tx, log).await?;
        let rows = sqlx::query!(
            "SELECT l.seq, l.hash, l.envelope, l.body
             FROM (SELECT seq, sum(size) OVER (ORDER BY seq) - size AS bytes_before
                   FROM (SELECT seq, octet_length(envelope) + COALESCE(octet_length(body), 0) AS size
                         FROM repl_log JOIN repl_cursor c USING (origin_region, origin_incarnation, stream)
                         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3
                           AND seq > $4 AND seq <= c.stored
                         ORDER BY seq LIMIT $5) next) counted
             JOIN repl_log l USING (seq)
             WHERE l.origin_region = $1 AND l.origin_incarnation = $2 AND l.stream = $3 AND bytes_before < $6
             ORDER BY l.seq",
            log.origin.region.as_str(),
            to_sql(log.origin.incarnation)?,
            log.stream.as_str(),
            to_sql(applied)?,
            limit,
            BATCH_BYTES
        )
        .fetch_all(&mut *tx)
        .await?;
        let Some(last) = rows.last().map(|row| from_sql(row.seq)) else { return Ok(None) };
        let entry = |envelope, body| Entry { envelope, body };
        let entries: Vec<_> =
            rows.into_iter().map(|row| (from_sql(row.seq), row.hash, entry(row.envelope, row.body))).collect();
        let count = entries.len();
        let set_aside = match poison {
            Some(reason) => set_aside_unread(&mut tx, log, &entries, &reason).await?,
            None => apply_entries(&mut tx, log, entries).await?.len(),
        };
        save_applied(&mut tx, log, last).await?;
        tx.commit().await?;
        Ok(Some(Applied { applied: last, entries: count, set_aside }))
    }
}

/// Applies facts of the ledger that were stored after entry `before` by the same transaction, if they are the next ones and
/// nothing about them is out of the ordinary; whether they are applied now. If not, they are as if nobody had tried.
pub(super) async fn apply_at_once(
    connection: &mut PgConnection,
    log: &LogId,
    before: u64,
    new: &[&(Entry, Envelope, Head)],
) -> Result<bool, StoreError> {
    if log.stream != FactStream::Ledger {
        return Ok(false);
    }
    let facts: Option<Vec<NewFact>> =
        new.iter().map(|(entry, envelope, _)| ledger_fact(log, envelope, entry)).collect();
    let (Some(facts), Some((_, _, last))) = (facts, new.last()) else { return Ok(false) };
    // Where entries are set aside they are counted for each transaction, see [`Store::apply`].
    let are_next = sqlx::query_scalar!(
        r#"SELECT 1 AS "are_next!" FROM repl_apply
           WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND bucket = 0 AND applied = $4
             AND NOT EXISTS (SELECT FROM repl_quarantine
                             WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3
                               AND state NOT IN ('stale', 'skipped'))
           FOR UPDATE"#,
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        to_sql(before)?
    );
    if are_next.fetch_optional(&mut *connection).await?.is_none() {
        return Ok(false);
    }
    let _spans: Vec<_> = new.iter().filter_map(|(_, envelope, _)| trace(envelope)).collect();
    let mut attempt = connection.begin().await?;
    match ledger::insert_new(&mut attempt, &log.origin, &facts).await {
        Ok(()) => {}
        Err(error) if error.is_about_data() => return Ok(false),
        Err(error) => return Err(error),
    }
    save_applied(&mut attempt, log, last.seq).await?;
    attempt.commit().await?;
    Ok(true)
}

/// What a verified entry adds to the ledger; none if that wants a closer look.
fn ledger_fact(log: &LogId, envelope: &Envelope, entry: &Entry) -> Option<NewFact> {
    let fact = read_fact(log, envelope, entry).ok()?;
    new_fact(envelope, fact_hash(&envelope.kind, entry.json()?), fact)
}

fn new_fact(envelope: &Envelope, hash: Hash, fact: Fact) -> Option<NewFact> {
    let kind = fact.kind();
    let epoch = envelope.home_epoch.unwrap_or_default();
    Some(NewFact { seq: envelope.seq, kind, row: LedgerRow::of(fact)?, epoch, hash })
}

/// Applies an entry that was set aside; whether it could be, and none if it is not here.
pub(super) async fn apply_again(
    connection: &mut PgConnection,
    log: &LogId,
    seq: i64,
) -> Result<Option<bool>, StoreError> {
    let Some(read) = read(connection, log, seq).await? else { return Ok(None) };
    let set_aside = apply_entries(connection, log, vec![read]).await?;
    Ok(Some(set_aside.is_empty()))
}

/// What an entry says, if it is here and can be understood.
pub(super) async fn said_by(
    connection: &mut PgConnection,
    log: &LogId,
    seq: i64,
) -> Result<Option<Stored>, StoreError> {
    let Some((seq, hash, entry)) = read(connection, log, seq).await? else { return Ok(None) };
    Ok(understand(log, seq, &hash, &entry).ok())
}

async fn read(connection: &mut PgConnection, log: &LogId, seq: i64) -> Result<Option<Read>, StoreError> {
    let row = sqlx::query!(
        "SELECT hash, envelope, body FROM repl_log
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        seq
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (from_sql(seq), row.hash, Entry { envelope: row.envelope, body: row.body })))
}

/// Applies entries and sets aside those that cannot be; returns the numbers of the latter.
async fn apply_entries(connection: &mut PgConnection, log: &LogId, entries: Vec<Read>) -> Result<Vec<u64>, StoreError> {
    let mut facts: Vec<Stored> = Vec::with_capacity(entries.len());
    let mut kinds = BTreeMap::new();
    let mut set_aside: Vec<SetAside> = Vec::new();
    for (seq, hash, entry) in entries {
        match understand(log, seq, &hash, &entry) {
            Ok(stored) => {
                kinds.insert(seq, (stored.envelope.kind.clone(), stored.envelope.tenant.clone()));
                facts.push(stored);
            }
            Err((kind, tenant, reason)) => {
                kinds.insert(seq, (kind, tenant));
                set_aside.push(reason);
            }
        }
    }
    let _spans: Vec<_> = facts.iter().filter_map(|stored| trace(&stored.envelope)).collect();
    match log.stream {
        FactStream::Control => set_aside.extend(documents::apply_control(connection, &facts).await?),
        FactStream::Config => set_aside.extend(documents::apply_config(connection, log, facts).await?),
        FactStream::Ledger => set_aside.extend(apply_ledger(connection, log, facts).await?),
    }
    for SetAside { seq, state, reason } in &set_aside {
        let (kind, tenant) = kinds.get(seq).cloned().unwrap_or_default();
        if !matches!(state, Aside::Held | Aside::Parked) {
            tracing::error!(%log, seq, kind, state = state.as_str(), "an entry could not be applied: {reason}");
        }
        let tenant = tenant.as_ref().map(TenantId::as_str);
        quarantine(connection, log, *seq, tenant, &kind, *state, reason).await?;
    }
    Ok(set_aside.into_iter().map(|entry| entry.seq).collect())
}

/// Entries of a log of config read at a time.
const READ_AGAIN: i64 = 100;

/// Merges what the logs here still have for drafts that were replaced, and what waits for them; what they know already changes
/// nothing.
pub(super) async fn edit_again(connection: &mut PgConnection, tenants: &BTreeSet<String>) -> Result<(), StoreError> {
    if tenants.is_empty() {
        return Ok(());
    }
    let logs = sqlx::query!(
        "SELECT origin_region, origin_incarnation, applied FROM repl_apply
         WHERE stream = 'config' AND bucket = 0 ORDER BY 1, 2"
    )
    .fetch_all(&mut *connection)
    .await?;
    for of in logs {
        let log = log_id(&of.origin_region, of.origin_incarnation, FactStream::Config.as_str())?;
        let mut after = 0;
        loop {
            let rows = sqlx::query!(
                "SELECT seq, hash, envelope, body FROM repl_log
                 WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = 'config' AND seq > $3 AND seq <= $4
                 ORDER BY seq LIMIT $5",
                of.origin_region,
                of.origin_incarnation,
                after,
                of.applied,
                READ_AGAIN
            )
            .fetch_all(&mut *connection)
            .await?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            let entries = rows.into_iter().filter_map(|row| {
                let entry = Entry { envelope: row.envelope, body: row.body };
                let stored = understand(&log, from_sql(row.seq), &row.hash, &entry).ok()?;
                let edits =
                    matches!(stored.fact, Fact::ConfigChanged(_) | Fact::ConfigCompacted(_) | Fact::ConfigAdopted(_));
                (edits && stored.fact.tenant().is_some_and(|tenant| tenants.contains(tenant))).then_some(stored)
            });
            let entries: Vec<Stored> = entries.collect();
            let of_whom: BTreeMap<u64, (String, &'static str)> = entries
                .iter()
                .map(|stored| (stored.seq, (stored.fact.tenant().unwrap_or_default().to_owned(), stored.fact.kind())))
                .collect();
            // What is refused now was refused then, or is of a generation that has ended since.
            let refused = documents::apply_config(connection, &log, entries).await?;
            for SetAside { seq, state, reason } in refused.into_iter().filter(|refused| refused.state == Aside::Held) {
                let Some((tenant, kind)) = of_whom.get(&seq) else { continue };
                quarantine(connection, &log, seq, Some(tenant), kind, state, &reason).await?;
            }
        }
    }
    for tenant in tenants {
        documents::merge_waiting(connection, tenant).await?;
    }
    Ok(())
}

/// A span per traced fact, a child of the work that caused it in another region.
fn trace(envelope: &Envelope) -> Option<tracing::Span> {
    let traceparent = envelope.traceparent.as_deref()?;
    let span = tracing::info_span!(
        "replication.apply",
        origin = %envelope.log.origin,
        seq = envelope.seq,
        kind = envelope.kind
    );
    shared::telemetry::continue_trace(&span, traceparent);
    Some(span)
}

/// What an entry says; or its kind and tenant, as far as they can be told, and why it is set aside.
fn understand(
    log: &LogId,
    seq: u64,
    stored_hash: &[u8],
    entry: &Entry,
) -> Result<Stored, (String, Option<TenantId>, SetAside)> {
    if hash_of(&entry.envelope).as_slice() != stored_hash {
        let reason = "its envelope does not have the hash it was stored with";
        return Err((String::new(), None, SetAside::new(seq, Aside::Failed, reason)));
    }
    let envelope = Envelope::read(&entry.envelope)
        .map_err(|error| (String::new(), None, SetAside::new(seq, Aside::Failed, error)))?;
    match fact_of(log, seq, &envelope, entry) {
        Ok(fact) => {
            let hash = fact_hash(&envelope.kind, entry.json().unwrap_or_default());
            Ok(Stored { origin: log.origin.clone(), seq, envelope, fact, hash })
        }
        Err(reason) => Err((envelope.kind, envelope.tenant, reason)),
    }
}

fn fact_of(log: &LogId, seq: u64, envelope: &Envelope, entry: &Entry) -> Result<Fact, SetAside> {
    let failed = |reason: &dyn ToString| SetAside::new(seq, Aside::Failed, reason.to_string());
    if envelope.log != *log || envelope.seq != seq {
        return Err(failed(&"the stored envelope is of another place"));
    }
    if let Some(body) = &entry.body {
        envelope.check_body(body).map_err(|error| failed(&error))?;
    }
    read_fact(log, envelope, entry)
}

/// What the entry of a checked envelope and body says.
fn read_fact(log: &LogId, envelope: &Envelope, entry: &Entry) -> Result<Fact, SetAside> {
    let seq = envelope.seq;
    let failed = |reason: &dyn ToString| SetAside::new(seq, Aside::Failed, reason.to_string());
    if entry.body.is_none() {
        return Err(SetAside::new(seq, Aside::Parked, "its body is withheld"));
    }
    let fact = match Fact::from_body(&envelope.kind, entry.json().unwrap_or_default()) {
        Ok(fact) => fact,
        Err(error @ FactError::UnknownKind(_)) => return Err(SetAside::new(seq, Aside::Parked, error)),
        Err(error) => return Err(failed(&error)),
    };
    if fact.stream() != log.stream || fact.tenant() != envelope.tenant.as_ref().map(TenantId::as_str) {
        return Err(failed(&"envelope and body disagree"));
    }
    Ok(fact)
}

async fn apply_ledger(
    connection: &mut PgConnection,
    log: &LogId,
    entries: Vec<Stored>,
) -> Result<Vec<SetAside>, StoreError> {
    let mut set_aside = Vec::new();
    let mut facts = Vec::with_capacity(entries.len());
    for stored in entries {
        match new_fact(&stored.envelope, stored.hash, stored.fact) {
            Some(fact) => facts.push(fact),
            None => set_aside.push(SetAside::new(stored.seq, Aside::Failed, "not a ledger fact")),
        }
    }
    for seq in ledger::insert(connection, &log.origin, &facts).await? {
        metrics::counter!("global_sync_equivocations_total").increment(1);
        set_aside.push(SetAside::new(seq, Aside::Conflict, "a fact of this id with another body was here first"));
    }
    Ok(set_aside)
}

async fn set_aside_unread(
    connection: &mut PgConnection,
    log: &LogId,
    entries: &[Read],
    reason: &str,
) -> Result<usize, StoreError> {
    for (seq, _, entry) in entries {
        tracing::error!(%log, seq, "an entry could not be applied: {reason}");
        let read = Envelope::read(&entry.envelope).ok();
        let tenant = read.as_ref().and_then(|envelope| envelope.tenant.as_ref()).map(TenantId::as_str);
        let kind = read.as_ref().map_or("", |envelope| envelope.kind.as_str());
        quarantine(connection, log, *seq, tenant, kind, Aside::Failed, reason).await?;
    }
    Ok(entries.len())
}

async fn lock_applied(connection: &mut PgConnection, log: &LogId) -> Result<u64, StoreError> {
    sqlx::query!(
        "INSERT INTO repl_apply (origin_region, origin_incarnation, stream) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str()
    )
    .execute(&mut *connection)
    .await?;
    let applied = sqlx::query_scalar!(
        "SELECT applied FROM repl_apply
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND bucket = 0 FOR UPDATE",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str()
    )
    .fetch_one(connection)
    .await?;
    Ok(from_sql(applied))
}

/// Sets an entry aside, or updates why it still is.
pub(crate) async fn quarantine(
    connection: &mut PgConnection,
    log: &LogId,
    seq: u64,
    tenant: Option<&str>,
    kind: &str,
    state: Aside,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO repl_quarantine
             (origin_region, origin_incarnation, stream, seq, tenant_id, kind, state, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (origin_region, origin_incarnation, stream, seq) DO UPDATE
         SET state = EXCLUDED.state, reason = EXCLUDED.reason, attempts = repl_quarantine.attempts + 1,
             last_at = now()",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        to_sql(seq)?,
        tenant,
        kind,
        state.as_str(),
        reason
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Entries that could be applied after all.
pub(crate) async fn release(connection: &mut PgConnection, log: &LogId, seqs: &[u64]) -> Result<(), StoreError> {
    let seqs: Vec<i64> = seqs.iter().map(|seq| to_sql(*seq)).collect::<Result<_, _>>()?;
    sqlx::query!(
        "DELETE FROM repl_quarantine
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = ANY($4)",
        log.origin.region.as_str(),
        to_sql(log.origin.incarnation)?,
        log.stream.as_str(),
        &seqs
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Bytes of waiting edits taken at a time.
const HELD_BYTES: i64 = 2 * 1024 * 1024;

/// Edits of a tenant's document that wait for others, from whatever log: a few, those after `after`.
pub(crate) async fn held_edits(
    connection: &mut PgConnection,
    tenant: &str,
    after: Option<&(LogId, u64)>,
) -> Result<Vec<(LogId, Stored)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT l.origin_region, l.origin_incarnation, l.stream, l.seq, l.hash, l.envelope, l.body
         FROM (SELECT origin_region, origin_incarnation, stream, seq,
                      sum(size) OVER (ORDER BY origin_region, origin_incarnation, stream, seq) - size AS bytes_before
               FROM (SELECT origin_region, origin_incarnation, stream, seq, COALESCE(octet_length(b.body), 0) AS size
                     FROM repl_quarantine q JOIN repl_log b USING (origin_region, origin_incarnation, stream, seq)
                     WHERE q.tenant_id = $1 AND q.state = 'held' AND q.kind IN ('config.changed', 'config.compacted')
                       AND (origin_region, origin_incarnation, stream, seq) > ($2, $3, $4, $5)
                     ORDER BY 1, 2, 3, 4 LIMIT 500) next) counted
         JOIN repl_log l USING (origin_region, origin_incarnation, stream, seq)
         WHERE bytes_before < $6
         ORDER BY 1, 2, 3, 4",
        tenant,
        after.map_or("", |(log, _)| log.origin.region.as_str()),
        after.map_or(Ok(0), |(log, _)| to_sql(log.origin.incarnation))?,
        after.map_or("", |(log, _)| log.stream.as_str()),
        after.map_or(Ok(0), |(_, seq)| to_sql(*seq))?,
        HELD_BYTES
    )
    .fetch_all(connection)
    .await?;
    let mut held = Vec::with_capacity(rows.len());
    for row in rows {
        let log = log_id(&row.origin_region, row.origin_incarnation, &row.stream)?;
        let entry = Entry { envelope: row.envelope, body: row.body };
        let seq = from_sql(row.seq);
        if let Ok(stored) = understand(&log, seq, &row.hash, &entry) {
            held.push((log, stored));
        }
    }
    Ok(held)
}
