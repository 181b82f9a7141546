//! Snapshots: what a region has derived, as of a version vector read in the same transaction as the rows.
//!
//! A region that lacks entries nobody has any more loads one. Everything it brings, and the cursors that say so, come in
//! with one transaction: before it commits nothing has changed, after it the tail of every log is pulled as ever. Rows on
//! their way lie beside the tables, and nobody waits for them; only whoever then still leads takes them in. What is here already
//! is kept where it is newer, so a snapshot may overlap; a gap is impossible. Rows stream through a channel of a few pieces on
//! both sides, however many there are.
//!
//! Nothing of it is taken in before its version vector, and each entry it brings, are known to be what their origins wrote
//! ([`proof`]). What was derived from them nobody has signed: of that whoever gives it compares the sums, and regions with each
//! other the rows: a region that joins is no member before another has the same.

mod proof;

use std::time::Duration;

use futures::TryStreamExt as _;
use shared::ids::RegionName;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::{sync::mpsc, time::timeout};

use super::{Fence, Store, StoreError, apply::edit_again, ledger, retold, to_sql};
use crate::{
    documents,
    protocol::{Origin, Trust},
};

/// Bytes of rows in one piece, about.
const PIECE_BYTES: usize = 256 * 1024;
/// A source that brings nothing for this long is given up, and a reader that takes nothing.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// A part of a snapshot on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Rows of this table follow, counted as in the list both sides know.
    Table(u8),
    /// Rows, as `COPY` writes them.
    Rows(Vec<u8>),
    /// All is said.
    End,
}

/// What a snapshot brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Logs that are further now.
    pub logs: u64,
    /// Settlements that were not here.
    pub facts: u64,
}

/// A table of the snapshot: its name here, and what is read of it there. The first is the version vector.
struct Table {
    name: &'static str,
    like: &'static str,
    copy_out: &'static str,
    copy_in: &'static str,
}

macro_rules! table {
    ($name:literal, $columns:literal, $from:literal) => {
        Table {
            name: $name,
            like: concat!(
                "CREATE TEMP TABLE incoming_",
                $name,
                " ON COMMIT DROP AS SELECT ",
                $columns,
                " FROM ",
                $from,
                " WITH NO DATA"
            ),
            copy_out: concat!("COPY (SELECT ", $columns, " FROM ", $from, ") TO STDOUT (FORMAT binary)"),
            copy_in: concat!("COPY incoming_", $name, " FROM STDIN (FORMAT binary)"),
        }
    };
}

/// In this order, which a snapshot of another version of the format would not keep to: it begins with the vector.
const TABLES: [Table; 13] = [
    table!(
        "vector",
        "c.origin_region, c.origin_incarnation, c.stream, a.applied,
         CASE WHEN a.applied = c.stored THEN c.head_hash ELSE l.hash END AS head_hash",
        "repl_cursor c JOIN repl_apply a USING (origin_region, origin_incarnation, stream)
         LEFT JOIN repl_log l ON l.origin_region = c.origin_region AND l.origin_incarnation = c.origin_incarnation
              AND l.stream = c.stream AND l.seq = a.applied
         WHERE a.applied > 0"
    ),
    table!("certificate", "key_id, region, certificate", "repl_origin_cert"),
    // The first place at which its origin signed a log as far as it is applied or further, and the way there.
    table!(
        "checkpoint",
        "a.origin_region, a.origin_incarnation, a.stream, k.seq, k.key_id, k.signature",
        "repl_apply a CROSS JOIN LATERAL (SELECT seq, key_id, signature FROM repl_checkpoint k
                                          WHERE k.origin_region = a.origin_region
                                            AND k.origin_incarnation = a.origin_incarnation
                                            AND k.stream = a.stream AND k.seq >= a.applied ORDER BY seq LIMIT 1) k
         WHERE a.applied > 0"
    ),
    table!(
        "link",
        "a.origin_region, a.origin_incarnation, a.stream, l.seq, l.envelope",
        "repl_apply a CROSS JOIN LATERAL (SELECT seq, envelope FROM repl_log l
                                          WHERE l.origin_region = a.origin_region
                                            AND l.origin_incarnation = a.origin_incarnation
                                            AND l.stream = a.stream AND l.seq > a.applied
                                            AND l.seq <= (SELECT min(seq) FROM repl_checkpoint k
                                                          WHERE k.origin_region = a.origin_region
                                                            AND k.origin_incarnation = a.origin_incarnation
                                                            AND k.stream = a.stream AND k.seq >= a.applied)
                                          ORDER BY seq LIMIT 8192) l
         WHERE a.applied > 0"
    ),
    table!("region", "name, base_url, quic_addr, jwks, incarnation, state, state_incarnation", "regions"),
    table!("home", "tenant_id, name, region, term, n, 'active'::text AS state", "tenant_homes"),
    table!("takeover", "tenant_id, term, region, heard", "home_takeovers"),
    table!(
        "document",
        "tenant_id, generation, heads, document, draft, conflicts, previous, base, made_term, made_n, adopted",
        "tenant_documents"
    ),
    table!(
        "version",
        "tenant_id, version, config, published_at, home_term, home_n, origin_region, origin_incarnation",
        "tenant_config_versions WHERE home_term >= 0"
    ),
    table!(
        "rollout",
        "tenant_id, region, number, home_term, home_n, pinned, stable, canary_region, canary_version, decided_at",
        "tenant_config_rollouts"
    ),
    table!(
        "fact",
        "fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region, origin_incarnation, origin_seq,
         home_term, home_n, settled_at, body_hash, payout_id, driver_id, entry_id, rider_id",
        "ledger_facts"
    ),
    table!(
        "set_aside",
        "origin_region, origin_incarnation, stream, seq, tenant_id, kind, state, reason, attempts",
        "repl_quarantine"
    ),
    table!(
        "entry",
        "origin_region, origin_incarnation, stream, seq, hash, envelope, body",
        "repl_log JOIN repl_quarantine q USING (origin_region, origin_incarnation, stream, seq)"
    ),
];

impl Store {
    /// Sends a snapshot of this region as it is now. It ends early, with an error, when nobody takes the pieces any more, or when
    /// rows of the ledger are not what was put there: damage does not spread.
    pub async fn export_snapshot(&self, pieces: &mpsc::Sender<Piece>) -> Result<(), StoreError> {
        // A connection of its own: one that is left in the midst of a copy is no use to anybody.
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        connection
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '12h'")
            .await?;
        // Whoever takes it may pause longer than Postgres waits for others.
        connection
            .execute("SET LOCAL tcp_user_timeout = '60s'; SET LOCAL idle_in_transaction_session_timeout = '60s'")
            .await?;
        for (number, table) in (0..).zip(&TABLES) {
            send(pieces, Piece::Table(number)).await?;
            let mut rows = connection.copy_out_raw(table.copy_out).await?;
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            while let Some(row) = rows.try_next().await? {
                piece.extend_from_slice(&row);
                if piece.len() >= PIECE_BYTES {
                    send(pieces, Piece::Rows(std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES)))).await?;
                }
            }
            send(pieces, Piece::Rows(piece)).await?;
        }
        // What was sent is taken in by nobody before the end is. Whoever waits for that hears meanwhile that it comes.
        let mut look = ledger::Look::begin(&mut connection).await?;
        while look.goes_on(&mut connection).await? {
            send(pieces, Piece::Rows(Vec::new())).await?;
        }
        if !look.is_whole() {
            return Err(StoreError::Snapshot("rows of the ledger are not what was put there"));
        }
        send(pieces, Piece::End).await?;
        connection.close().await?;
        Ok(())
    }

    /// Takes a snapshot in, whole or not at all, and nothing that is not what its origin wrote. Only the leader may, and only
    /// one that lacks nothing of its own: what others know of this life of ours and we do not is a matter of incarnations.
    pub async fn import_snapshot(
        &self,
        fence: &Fence,
        cluster_id: &str,
        own: &Origin,
        from: &RegionName,
        trust: &mut impl Trust,
        pieces: &mut mpsc::Receiver<Piece>,
    ) -> Result<Imported, StoreError> {
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        // The source may pause longer than a transaction of ours is allowed to.
        connection
            .execute(
                "BEGIN; SET LOCAL statement_timeout = '12h'; SET LOCAL idle_in_transaction_session_timeout = '60s'",
            )
            .await?;
        // A statement that takes long ends with this process, and leaves the lease to another.
        connection.execute("SET LOCAL client_connection_check_interval = '2s'").await?;
        take_rows(&mut connection, pieces).await?;
        proof::check(&mut connection, cluster_id, trust).await?;
        // Only now that nothing is waited for any more is the lease held fast: until then another instance may take it.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout TO DEFAULT").await?;
        fence.check(&mut connection).await?;
        let imported = take_in(&mut connection, own).await?;
        sqlx::query("UPDATE repl_self SET snapshot_of = $1").bind(from.as_str()).execute(&mut connection).await?;
        connection.execute("COMMIT").await?;
        connection.close().await?;
        Ok(imported)
    }
}

async fn send(pieces: &mpsc::Sender<Piece>, piece: Piece) -> Result<(), StoreError> {
    let sent = timeout(STALLED_AFTER, pieces.send(piece)).await;
    sent.map_err(|_| StoreError::Snapshot("nobody takes it"))?.map_err(|_| StoreError::Snapshot("nobody takes it"))
}

async fn next(pieces: &mut mpsc::Receiver<Piece>) -> Result<Piece, StoreError> {
    let piece = timeout(STALLED_AFTER, pieces.recv()).await.map_err(|_| StoreError::Snapshot("it stalled"))?;
    piece.ok_or(StoreError::Snapshot("it broke off"))
}

/// Puts all rows where they can be looked at.
async fn take_rows(connection: &mut PgConnection, pieces: &mut mpsc::Receiver<Piece>) -> Result<(), StoreError> {
    let mut piece = next(pieces).await?;
    for (number, table) in (0..).zip(&TABLES) {
        if piece != Piece::Table(number) {
            return Err(StoreError::Snapshot("it is out of order"));
        }
        connection.execute(table.like).await?;
        let mut copy = connection.copy_in_raw(table.copy_in).await?;
        piece = loop {
            match next(pieces).await {
                Ok(Piece::Rows(rows)) => {
                    copy.send(rows).await?;
                }
                Ok(other) => break other,
                Err(error) => {
                    copy.abort("the source is gone").await?;
                    return Err(error);
                }
            }
        };
        copy.finish().await?;
        tracing::debug!(table = table.name, "a table of the snapshot is here");
    }
    if piece == Piece::End { Ok(()) } else { Err(StoreError::Snapshot("it is out of order")) }
}

async fn take_in(connection: &mut PgConnection, own: &Origin) -> Result<Imported, StoreError> {
    let incarnation = to_sql(own.incarnation)?;
    // What arrives meanwhile waits: it would be compared with cursors that are about to move.
    connection
        .execute(
            "SELECT FROM repl_cursor ORDER BY origin_region, origin_incarnation, stream FOR UPDATE;
             CREATE TEMP TABLE advanced ON COMMIT DROP AS
                 SELECT v.* FROM incoming_vector v
                 LEFT JOIN repl_cursor c USING (origin_region, origin_incarnation, stream)
                 WHERE v.applied > COALESCE(c.stored, 0)",
        )
        .await?;
    let ours: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM advanced WHERE origin_region = $1 AND origin_incarnation = $2)")
            .bind(own.region.as_str())
            .bind(incarnation)
            .fetch_one(&mut *connection)
            .await?;
    if ours {
        return Err(StoreError::Discontinuous);
    }
    connection.execute(DIRECTORY).await?;
    let replaced = documents::take_documents(connection).await?;
    documents::take_versions(connection).await?;
    documents::take_rollouts(connection).await?;
    retold::keep_first_of_snapshot(connection).await?;
    let facts = ledger::take_facts(connection, own).await?;
    connection.execute(LOGS).await?;
    edit_again(connection, &replaced).await?;
    let logs: i64 = sqlx::query_scalar("SELECT count(*) FROM advanced").fetch_one(&mut *connection).await?;
    connection
        .execute(
            "SELECT pg_notify('directory_changed', '');
             SELECT pg_notify('config_changed', tenant_id) FROM incoming_document",
        )
        .await?;
    Ok(Imported { logs: logs.unsigned_abs(), facts })
}

/// Regions and homes change as when their facts are applied: to something newer.
const DIRECTORY: &str = r#"
    INSERT INTO repl_origin_cert (key_id, region, certificate)
        SELECT key_id, region, certificate FROM incoming_certificate ON CONFLICT DO NOTHING;
    INSERT INTO regions (name, base_url, quic_addr, jwks, incarnation, state, state_incarnation)
        SELECT name, base_url, quic_addr, jwks, incarnation, state, 0 FROM incoming_region
        ON CONFLICT (name) DO UPDATE
        SET base_url = EXCLUDED.base_url, quic_addr = EXCLUDED.quic_addr, jwks = EXCLUDED.jwks,
            incarnation = EXCLUDED.incarnation, announced_at = now()
        WHERE regions.incarnation < EXCLUDED.incarnation
           OR (regions.incarnation = EXCLUDED.incarnation
               AND EXISTS (SELECT 1 FROM advanced a WHERE a.origin_region = EXCLUDED.name
                             AND a.origin_incarnation = EXCLUDED.incarnation AND a.stream = 'control'));
    UPDATE regions r SET state = i.state, state_incarnation = i.state_incarnation FROM incoming_region i
        WHERE i.name = r.name AND (r.state_incarnation, member_rank(r.state)) < (i.state_incarnation, member_rank(i.state));
    INSERT INTO tenant_homes (tenant_id, name, region, term, n, state)
        SELECT tenant_id, name, region, term, n, state FROM incoming_home
        ON CONFLICT (tenant_id) DO UPDATE
        SET name = EXCLUDED.name, region = EXCLUDED.region, term = EXCLUDED.term, n = EXCLUDED.n, state = EXCLUDED.state
        WHERE (tenant_homes.term, tenant_homes.n) < (EXCLUDED.term, EXCLUDED.n)
           OR ((tenant_homes.term, tenant_homes.n) = (EXCLUDED.term, EXCLUDED.n)
               AND tenant_homes.region COLLATE "C" > EXCLUDED.region COLLATE "C");
    INSERT INTO home_takeovers (tenant_id, term, region, heard)
        SELECT tenant_id, term, region, heard FROM incoming_takeover
        ON CONFLICT (tenant_id, term) DO UPDATE
        SET region = EXCLUDED.region, heard = EXCLUDED.heard
        WHERE takeover_rank(home_takeovers) > takeover_rank(EXCLUDED);
"#;

/// Of a log that has moved on nothing older is of use but what is set aside; where the snapshot ends it goes on.
const LOGS: &str = "
    DELETE FROM repl_quarantine q USING advanced a WHERE (q.origin_region, q.origin_incarnation, q.stream)
        = (a.origin_region, a.origin_incarnation, a.stream);
    DELETE FROM repl_checkpoint q USING advanced a WHERE (q.origin_region, q.origin_incarnation, q.stream)
        = (a.origin_region, a.origin_incarnation, a.stream);
    DELETE FROM repl_log q USING advanced a WHERE (q.origin_region, q.origin_incarnation, q.stream)
        = (a.origin_region, a.origin_incarnation, a.stream);
    INSERT INTO repl_log (origin_region, origin_incarnation, stream, seq, hash, envelope, body)
        SELECT e.origin_region, e.origin_incarnation, e.stream, e.seq, e.hash, e.envelope, e.body
        FROM incoming_entry e JOIN advanced a USING (origin_region, origin_incarnation, stream)
        WHERE e.seq <= a.applied;
    INSERT INTO repl_checkpoint (origin_region, origin_incarnation, stream, seq, key_id, signature)
        SELECT k.origin_region, k.origin_incarnation, k.stream, k.seq, k.key_id, k.signature
        FROM incoming_checkpoint k JOIN advanced a USING (origin_region, origin_incarnation, stream)
        WHERE k.seq = a.applied;
    INSERT INTO repl_quarantine
            (origin_region, origin_incarnation, stream, seq, tenant_id, kind, state, reason, attempts)
        SELECT s.origin_region, s.origin_incarnation, s.stream, s.seq, s.tenant_id, s.kind, s.state, s.reason, s.attempts
        FROM incoming_set_aside s JOIN advanced a USING (origin_region, origin_incarnation, stream)
        WHERE s.seq <= a.applied;
    INSERT INTO repl_cursor (origin_region, origin_incarnation, stream, stored, head_hash, truncated)
        SELECT origin_region, origin_incarnation, stream, applied, head_hash, applied FROM advanced
        ON CONFLICT (origin_region, origin_incarnation, stream) DO UPDATE
        SET stored = EXCLUDED.stored, head_hash = EXCLUDED.head_hash, truncated = EXCLUDED.truncated;
    INSERT INTO repl_apply (origin_region, origin_incarnation, stream, applied)
        SELECT origin_region, origin_incarnation, stream, applied FROM advanced
        ON CONFLICT (origin_region, origin_incarnation, stream, bucket) DO UPDATE
        SET applied = GREATEST(repl_apply.applied, EXCLUDED.applied);
";

#[cfg(test)]
mod tests;
