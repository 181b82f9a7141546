//! SQL about what replication has set aside or refused and what operators told it to do.

use shared::sync_command::{EntryPlace, SyncCommand};
use sqlx::types::Json;
use uuid::Uuid;

use super::{commands::SyncCommandView, quarantine::QuarantinedView, rejected::RejectedView};
use crate::db::SystemTx;

/// Stores a command under a key and the hash of its request; under a key that was used before nothing is stored, and what was
/// stored then is returned with the hash of its request.
pub(super) async fn insert_command(
    tx: &mut SystemTx,
    command: &SyncCommand,
    reason: &str,
    made_by: &str,
    key: Option<(&str, [u8; 32])>,
) -> sqlx::Result<(Uuid, Option<Vec<u8>>)> {
    let id = Uuid::now_v7();
    let inserted = sqlx::query!(
        "INSERT INTO repl_command (id, command, reason, made_by, key, request_hash) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (made_by, key) DO NOTHING",
        id,
        Json(command) as _,
        reason,
        made_by,
        key.map(|(key, _)| key),
        key.as_ref().map(|(_, hash)| hash.as_slice())
    )
    .execute(tx.conn())
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok((id, None));
    }
    let before = sqlx::query!(
        r#"SELECT id, request_hash AS "request_hash!" FROM repl_command WHERE made_by = $1 AND key = $2"#,
        made_by,
        key.map(|(key, _)| key)
    )
    .fetch_one(tx.conn())
    .await?;
    Ok((before.id, Some(before.request_hash)))
}

pub(super) async fn load_command(tx: &mut SystemTx, id: Uuid) -> sqlx::Result<SyncCommandView> {
    let row = sqlx::query_as!(
        SyncCommandView,
        "SELECT id, position, command, reason, made_by, made_at, ended_at, done, outcome FROM repl_command WHERE id = $1",
        id
    );
    row.fetch_one(tx.conn()).await
}

/// Commands before a position, the newest first.
pub(super) async fn commands_before(tx: &mut SystemTx, before: i64, limit: i64) -> sqlx::Result<Vec<SyncCommandView>> {
    let rows = sqlx::query_as!(
        SyncCommandView,
        "SELECT id, position, command, reason, made_by, made_at, ended_at, done, outcome FROM repl_command
         WHERE position < $1 ORDER BY position DESC LIMIT $2",
        before,
        limit
    );
    rows.fetch_all(tx.conn()).await
}

/// Entries set aside before a position, of one state or of all, the newest first.
pub(super) async fn quarantined_before(
    tx: &mut SystemTx,
    state: Option<&str>,
    before: i64,
    limit: i64,
) -> sqlx::Result<Vec<QuarantinedView>> {
    let rows = sqlx::query_as!(
        QuarantinedView,
        "SELECT position, origin_region AS origin, origin_incarnation AS incarnation, stream, seq, tenant_id AS tenant,
                kind, state, reason, attempts, first_at, last_at
         FROM repl_quarantine WHERE position < $1 AND ($2::text IS NULL OR state = $2) ORDER BY position DESC LIMIT $3",
        before,
        state,
        limit
    );
    rows.fetch_all(tx.conn()).await
}

/// An entry that is set aside, and what the log still has of it.
pub(super) struct Quarantined {
    pub(super) view: QuarantinedView,
    pub(super) stored: Option<StoredEntry>,
}

/// An entry as the log has it.
pub(super) struct StoredEntry {
    pub(super) hash: Vec<u8>,
    pub(super) envelope: Vec<u8>,
    pub(super) body: Option<Vec<u8>>,
}

pub(super) async fn load_quarantined(tx: &mut SystemTx, entry: &EntryPlace) -> sqlx::Result<Option<Quarantined>> {
    let incarnation = i64::try_from(entry.incarnation).unwrap_or(i64::MAX);
    let seq = i64::try_from(entry.seq).unwrap_or(i64::MAX);
    let (origin, stream) = (entry.origin.as_str(), entry.stream.as_str());
    let view = sqlx::query_as!(
        QuarantinedView,
        "SELECT position, origin_region AS origin, origin_incarnation AS incarnation, stream, seq, tenant_id AS tenant,
                kind, state, reason, attempts, first_at, last_at
         FROM repl_quarantine WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4",
        origin,
        incarnation,
        stream,
        seq
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(view) = view else { return Ok(None) };
    let stored = sqlx::query_as!(
        StoredEntry,
        "SELECT hash, envelope, body FROM repl_log
         WHERE origin_region = $1 AND origin_incarnation = $2 AND stream = $3 AND seq = $4",
        origin,
        incarnation,
        stream,
        seq
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(Some(Quarantined { view, stored }))
}

/// Facts that may not leave, of ids before this one, the newest first.
pub(super) async fn rejected_before(tx: &mut SystemTx, before: Uuid, limit: i64) -> sqlx::Result<Vec<RejectedView>> {
    let rows = sqlx::query_as!(
        RejectedView,
        r#"SELECT id, stream, kind, tenant_id AS tenant, reason, octet_length(body)::bigint AS "bytes!",
                  created_at AS committed_at, rejected_at
           FROM repl_rejected WHERE id < $1 ORDER BY id DESC LIMIT $2"#,
        before,
        limit
    );
    rows.fetch_all(tx.conn()).await
}
