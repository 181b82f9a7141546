//! What a tenant owns in its home alone, table by table, in the order in which rows refer to each other.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::store::StoreError;

/// A table of which a tenant's rows move.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Which rows move, where not all do.
    only: &'static str,
    /// Where a row may take the place another has left, within an index that allows one: those that have left come first.
    leavers_first: &'static str,
    /// Whether rows are deleted at their home. Of other tables Postgres lets nobody delete any, and no key changes: what is gone
    /// need not be looked for.
    pub(super) loses_rows: bool,
    /// A row may refer to one of the same table that was made before it.
    follows_itself: bool,
}

const fn table(name: &'static str) -> Table {
    Table { name, only: "true", leavers_first: "1", loses_rows: false, follows_itself: false }
}

const fn losing(name: &'static str) -> Table {
    Table { loses_rows: true, ..table(name) }
}

/// What nodes may still write when they hear of the hand-over a moment late.
pub(super) const TAIL: &str = "breadcrumbs";

/// Every table with a tenant_id is here or in `STAYS`; a test says so.
pub(super) const MOVES: [Table; 31] = [
    table("riders"),
    table("drivers"),
    losing("driver_records"),
    Table { only: "role IN ('rider', 'driver')", ..losing("refresh_tokens") },
    Table { only: "caller NOT LIKE 'anywhere/%'", ..losing("idempotency_keys") },
    Table {
        leavers_first: "CASE WHEN status IN ('completed', 'cancelled', 'expired')
                               OR status IN ('requested', 'offered') AND scheduled_at IS NOT NULL THEN 0 ELSE 1 END",
        ..table("rides")
    },
    Table { leavers_first: "CASE WHEN status = 'live' THEN 1 ELSE 0 END", ..losing("offers") },
    losing("zone_queue"),
    losing("dispatch_candidates"),
    Table {
        leavers_first: "CASE WHEN status IN ('completed', 'cancelled') THEN 0 WHEN after_trip_id IS NULL THEN 1 ELSE 2 END",
        follows_itself: true,
        ..table("trips")
    },
    Table { leavers_first: "CASE WHEN status IN ('declined', 'withdrawn') THEN 0 ELSE 1 END", ..table("fare_shares") },
    losing("breadcrumbs"),
    table("ratings"),
    Table { leavers_first: "CASE WHEN status = 'failed' THEN 0 ELSE 1 END", ..table("payments") },
    table("refunds"),
    table("payouts"),
    table("payout_runs"),
    table("wallets"),
    table("wallet_credits"),
    table("ledger_entries"),
    table("ledger_postings"),
    table("ledger_closings"),
    table("ledger_closed_balances"),
    table("disputes"),
    table("stray_disputes"),
    losing("psp_webhook_events"),
    table("sandbox_psp_operations"),
    losing("sandbox_psp_webhooks"),
    table("reconciliations"),
    losing("reconciliation_operations"),
    table("reconciliation_differences"),
];

/// Of these the new home has, or soon makes, its own.
#[cfg(test)]
pub(super) const STAYS: [&str; 16] = [
    // Drivers say anew where they are; surge follows from that.
    "driver_places",
    "surge_maps",
    // Wrapped anew for the new home.
    "tenant_keys",
    // Of the moves themselves.
    "tenant_moves",
    "tenant_arrivals",
    // In every region.
    "tenant_homes",
    "home_takeovers",
    "tenant_documents",
    "tenant_config_versions",
    "tenant_config_sums",
    "tenant_config_rollouts",
    "ledger_facts",
    // Of the log.
    "repl_outbox",
    "repl_rejected",
    "repl_quarantine",
    "repl_promise",
];

/// Erased at the old home, and never moved.
const LEFT_BEHIND: [&str; 3] = ["driver_places", "surge_maps", "tenant_keys"];

/// A table's columns here.
pub(super) struct Shape {
    pub(super) table: &'static Table,
    columns: Vec<String>,
    key: Vec<String>,
    types: String,
}

/// What the tables look like here. Columns whose values the database makes, and numbers of transactions, which mean nothing elsewhere,
/// are none of it.
pub(super) async fn shapes(connection: &mut PgConnection) -> Result<Vec<Shape>, StoreError> {
    let mut shapes = Vec::with_capacity(MOVES.len());
    for table in &MOVES {
        let rows: Vec<(String, String, bool)> = sqlx::query_as(
            "SELECT quote_ident(a.attname), format_type(a.atttypid, a.atttypmod), a.attnum = ANY(i.indkey::smallint[])
             FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
             WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
               AND a.atttypid <> 'xid8'::regtype
             ORDER BY a.attnum",
        )
        .bind(table.name)
        .fetch_all(&mut *connection)
        .await?;
        let mut shape = Shape { table, columns: Vec::new(), key: Vec::new(), types: String::new() };
        for (column, kind, is_key) in rows {
            let _ = write!(shape.types, "{column} {kind} {is_key},");
            if is_key {
                shape.key.push(column.clone());
            }
            shape.columns.push(column);
        }
        shapes.push(shape);
    }
    Ok(shapes)
}

/// The same in two regions exactly if rows of one fit into the other.
pub(super) fn fingerprint(shapes: &[Shape]) -> String {
    let texts = shapes.iter().map(|shape| format!("{}({})", shape.table.name, shape.types));
    hex::encode(texts.fold(Sha256::new(), |digest, text| digest.chain_update(text)).finalize())
}

/// A row as text, in few bytes: the same wherever the row is the same.
fn hash_of(columns: &[String]) -> String {
    format!("hashtextextended(ROW({})::text, 0)", columns.join(", "))
}

impl Shape {
    fn list(&self) -> String {
        self.columns.join(", ")
    }

    fn own(&self, tenant: &str) -> String {
        format!("tenant_id = '{tenant}' AND {}", self.table.only)
    }

    /// Copies out a tenant's rows with the hash of each: those written since the transaction number `since`, or all. What
    /// was written by a number 2^31 before counts as well, which does no harm.
    pub(super) fn copy_out(&self, tenant: &str, since: Option<i64>) -> String {
        let changed = since.map_or_else(String::new, |since| format!(" AND age(xmin) <= (SELECT age('{since}'::xid))"));
        let (columns, hash) = (self.list(), hash_of(&self.columns));
        let order = if self.table.follows_itself { " ORDER BY id" } else { "" };
        format!(
            "COPY (SELECT {columns}, {hash} FROM {} WHERE {}{changed}{order}) TO STDOUT (FORMAT binary)",
            self.table.name,
            self.own(tenant)
        )
    }

    /// Makes the place where rows that come in can be looked at.
    pub(super) fn incoming(&self) -> String {
        format!(
            "CREATE TEMP TABLE incoming ON COMMIT DROP AS SELECT {}, 0::bigint AS incoming_hash FROM {} WITH NO DATA",
            self.list(),
            self.table.name
        )
    }

    /// Writes what came in; tells how many rows that were, and how many are not what was sent.
    pub(super) fn take_in(&self) -> String {
        let set = self.columns.iter().filter(|column| !self.key.contains(column));
        let set: Vec<_> = set.map(|column| format!("{column} = excluded.{column}")).collect();
        let (name, columns, key) = (self.table.name, self.list(), self.key.join(", "));
        let deed = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        let hash = hash_of(&self.columns.iter().map(|column| format!("{name}.{column}")).collect::<Vec<_>>());
        format!(
            "WITH stored AS (
                 INSERT INTO {name} ({columns}) SELECT {columns} FROM incoming ORDER BY {}, {key}
                 ON CONFLICT ({key}) DO {deed} RETURNING {hash} AS hash
             )
             SELECT (SELECT count(*) FROM incoming),
                    COALESCE((SELECT sum(hash::numeric) FROM stored), 0)
                        = COALESCE((SELECT sum(incoming_hash::numeric) FROM incoming), 0)
                    AND (SELECT count(*) FROM stored) = (SELECT count(*) FROM incoming)",
            self.table.leavers_first
        )
    }

    /// Adds what came in and is not here.
    pub(super) fn add_in(&self) -> String {
        let columns = self.list();
        format!("INSERT INTO {} ({columns}) SELECT {columns} FROM incoming ON CONFLICT DO NOTHING", self.table.name)
    }

    /// Counts a tenant's rows and sums their hashes; or, of a table that loses rows, counts them alone, and of others nothing.
    fn tally(&self, tenant: &str, with_digests: bool) -> String {
        let digest = match (with_digests, self.table.loses_rows) {
            (true, _) => format!("COALESCE(sum({}::numeric), 0)::text", hash_of(&self.columns)),
            (false, true) => "NULL::text".to_owned(),
            (false, false) => return "SELECT NULL::bigint, NULL::text".to_owned(),
        };
        format!("SELECT count(*), {digest} FROM {} WHERE {}", self.table.name, self.own(tenant))
    }

    /// Copies out the keys of all rows.
    pub(super) fn copy_keys(&self, tenant: &str) -> String {
        let key = self.key.join(", ");
        format!("COPY (SELECT {key} FROM {} WHERE {}) TO STDOUT (FORMAT binary)", self.table.name, self.own(tenant))
    }

    /// Makes the place where keys that come in can be looked at.
    pub(super) fn incoming_keys(&self) -> String {
        let key = self.key.join(", ");
        format!("CREATE TEMP TABLE incoming ON COMMIT DROP AS SELECT {key} FROM {} WITH NO DATA", self.table.name)
    }

    /// Deletes the rows whose keys did not come in: they are gone where they came from.
    pub(super) fn delete_others(&self, tenant: &str) -> String {
        let name = self.table.name;
        let is_it: Vec<_> = self.key.iter().map(|key| format!("incoming.{key} = {name}.{key}")).collect();
        // Not NOT IN, which looks through all keys for each row where they do not fit into memory.
        format!(
            "DELETE FROM {name} WHERE {} AND NOT EXISTS (SELECT FROM incoming WHERE {})",
            self.own(tenant),
            is_it.join(" AND ")
        )
    }
}

/// How many rows of a tenant's a table has, and the sum of their hashes, as far as that was looked at.
#[derive(Debug, Serialize, Deserialize, sqlx::FromRow)]
pub(super) struct Tally {
    pub(super) rows: Option<i64>,
    pub(super) digest: Option<String>,
}

/// Counts a tenant's rows, table by table in their order: with digests of every table, else where rows may have been deleted.
pub(super) async fn tally(
    connection: &mut PgConnection,
    shapes: &[Shape],
    tenant: &str,
    with_digests: bool,
) -> sqlx::Result<Vec<Tally>> {
    let one = |(at, shape): (usize, &Shape)| {
        format!("SELECT {at} AS at, t.* FROM ({}) AS t (rows, digest)", shape.tally(tenant, with_digests))
    };
    let all: Vec<_> = shapes.iter().enumerate().map(one).collect();
    let sql = format!("SELECT rows, digest FROM ({}) AS tables ORDER BY at", all.join(" UNION ALL "));
    sqlx::query_as(AssertSqlSafe(sql)).fetch_all(connection).await
}

/// Rows deleted with one statement.
const ERASED_AT_ONCE: i64 = 10_000;

/// Where a tenant's rows are erased, those that refer to others first.
fn to_erase() -> impl Iterator<Item = Table> {
    LEFT_BEHIND.iter().map(|name| table(name)).chain(MOVES.into_iter().rev())
}

/// What is still here of a tenant that is to be erased. It is looked through until there is nothing, since a node that has yet
/// to hear that the tenant is gone may have written to a table that was found empty.
pub(super) struct Remains<'a> {
    tenant: &'a str,
    /// Nothing is looked for that refers to what is erased: all of that goes as well. Postgres would go through whole tables for
    /// each row, other tenants' and all: few references have an index, which every ride would pay for.
    is_unchecked: bool,
    tables: Vec<Table>,
    at: usize,
    /// How many tables were found empty one after the other.
    empty: usize,
}

impl<'a> Remains<'a> {
    /// Nothing is looked for yet.
    pub(super) async fn of(connection: &mut PgConnection, tenant: &'a str) -> sqlx::Result<Self> {
        let may = "SELECT has_parameter_privilege('session_replication_role', 'SET')";
        let is_unchecked: bool = sqlx::query_scalar(may).fetch_one(connection).await?;
        if !is_unchecked {
            tracing::warn!("what tenants leave is erased slowly: run deploy/sql/roles.sql once more");
        }
        Ok(Self { tenant, is_unchecked, tables: to_erase().collect(), at: 0, empty: 0 })
    }

    /// Some rows, by where they lie; none if nothing is left.
    pub(super) async fn find_some(&mut self, connection: &mut PgConnection) -> sqlx::Result<Option<Found<'a>>> {
        let Self { tenant, is_unchecked, .. } = *self;
        while self.empty < self.tables.len() {
            let table = self.tables[self.at];
            let Table { name, only, .. } = table;
            let order = if table.follows_itself && !is_unchecked { " ORDER BY id DESC" } else { "" };
            let find = format!(
                "SELECT array_agg(ctid)::text FROM (
                     SELECT ctid FROM {name} WHERE tenant_id = '{tenant}' AND {only}{order} LIMIT {ERASED_AT_ONCE}) AS found"
            );
            let rows: Option<String> = sqlx::query_scalar(AssertSqlSafe(find)).fetch_one(&mut *connection).await?;
            if let Some(rows) = rows {
                self.empty = 0;
                return Ok(Some(Found { tenant, is_unchecked, table, rows }));
            }
            self.empty += 1;
            self.at = (self.at + 1) % self.tables.len();
        }
        Ok(None)
    }
}

/// Rows of a table that are to be erased.
pub(super) struct Found<'a> {
    tenant: &'a str,
    is_unchecked: bool,
    table: Table,
    rows: String,
}

impl Found<'_> {
    /// Erases them, if they are still the tenant's, as part of a transaction; how many there were.
    pub(super) async fn erase(&self, tx: &mut PgConnection) -> sqlx::Result<u64> {
        let Self { tenant, is_unchecked, table: Table { name, only, .. }, rows } = self;
        if *is_unchecked {
            tx.execute("SET LOCAL session_replication_role = replica").await?;
        }
        let delete =
            format!("DELETE FROM {name} WHERE ctid = ANY($1::text::tid[]) AND tenant_id = '{tenant}' AND {only}");
        Ok(sqlx::query(AssertSqlSafe(delete)).bind(rows).execute(tx).await?.rows_affected())
    }
}

/// Whether any row of a tenant's is here.
pub(super) async fn holds_any(connection: &mut PgConnection, tenant: &str) -> Result<bool, StoreError> {
    for table in &MOVES {
        let exists =
            format!("SELECT EXISTS (SELECT FROM {} WHERE tenant_id = '{tenant}' AND {})", table.name, table.only);
        if sqlx::query_scalar::<_, bool>(AssertSqlSafe(exists)).fetch_one(&mut *connection).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
