//! Making a derived row anew of the entries it was made of, when an operator says so: nothing is mended in silence.
//!
//! An entry is believed as when it is applied: its envelope has the hash it was stored with, and vouches for its body. A
//! fact of the ledger is what its entry says, whichever others there are, and so is a takeover, since one region alone takes a
//! term. A version and a home are the outcome of all that was said of them, so where entries are dropped already what is left may
//! not be the last word: then a row is never put back to an earlier tenure than it shows.

use std::collections::BTreeSet;

use shared::{
    fact::{Fact, FactStream, TenantMoved},
    sync_command::RowKey,
};
use sqlx::{Connection as _, Executor as _, PgConnection, PgTransaction};

use super::{
    Fence, Outcome, Store, StoreError,
    apply::{Stored, said_by},
    findings::forget_mended,
    ledger::{self, LedgerRow, NewFact},
    log_id, tell_directory_changed, to_sql,
};
use crate::{
    documents::{keep_takeover, keep_version},
    protocol::{HomeEpoch, LogId},
};

/// Entries that may name one row; more are not looked at.
const CANDIDATES: i64 = 1000;

/// Rows that are not made anew of single entries, and what helps there.
const DRAFT: &str = "a draft is the sum of edits of which the log may have dropped some: load a snapshot of a region whose \
                     draft is whole, and a damaged one here gives way to it";
const ROLLOUT: &str = "a decision stays until the next one: pin, unpin, promote or roll back once more, and every region \
                       keeps that";
const REGION: &str = "a region says itself where it is and stands: another address, or another life of it (drain, leave, join), \
                      is kept by every region";

impl Store {
    /// Makes a row anew of what the logs here say of it; what was done, or why nothing was.
    pub async fn mend(&self, fence: &Fence, key: &RowKey) -> Result<Outcome, StoreError> {
        let (stream, needles) = match key {
            RowKey::Fact(id) => (FactStream::Ledger, [id.to_string(), String::new(), String::new()]),
            RowKey::Version { tenant, version } => (
                FactStream::Config,
                [tenant.to_string(), format!("\"version\":{version}"), "config.published".to_owned()],
            ),
            RowKey::Home(tenant) => (FactStream::Control, [tenant.to_string(), String::new(), "tenant.".to_owned()]),
            RowKey::Takeover { tenant, term } => {
                (FactStream::Control, [tenant.to_string(), format!("\"term\":{term}"), "tenant.moved".to_owned()])
            }
            RowKey::Draft(_) => return Ok(Err(DRAFT.to_owned())),
            RowKey::Rollout { .. } => return Ok(Err(ROLLOUT.to_owned())),
            RowKey::Region(_) => return Ok(Err(REGION.to_owned())),
        };
        let places = self.places(key, stream, &needles).await?;
        if places.len() as i64 >= CANDIDATES {
            return Ok(Err(format!("more than {CANDIDATES} entries may be about {key}")));
        }
        let mut tx = self.begin_fenced(fence).await?;
        let mut told = Vec::new();
        for (log, seq) in places {
            if let Some(stored) = said_by(&mut tx, &log, seq).await?.filter(|stored| is_about(&stored.fact, key)) {
                told.push((log, stored));
            }
        }
        if told.is_empty() {
            return Ok(Err(format!("no entry here says anything of {key}: none ever did, or it is dropped")));
        }
        let done = match key {
            RowKey::Fact(_) => mend_fact(&mut tx, told).await?,
            RowKey::Version { tenant, version } => mend_version(&mut tx, tenant.as_str(), *version, told).await?,
            RowKey::Takeover { tenant, term } => mend_takeover(&mut tx, tenant.as_str(), *term, told).await?,
            _ => mend_home(&mut tx, told).await?,
        };
        match done {
            Ok(Mended { of, changed }) => {
                forget_mended(&mut tx, key, changed).await?;
                tx.commit().await?;
                if changed {
                    metrics::counter!("global_sync_rows_mended_total", "stream" => stream.as_str()).increment(1);
                    return Ok(Ok(format!("{key} is what {of} says again")));
                }
                Ok(Ok(format!("{key} was what {of} says: where another region's differs, have it mended there")))
            }
            Err(why) => Ok(Err(why)),
        }
    }

    /// Rows known to be damaged here, or to differ from a peer's.
    pub async fn rows_to_mend(&self) -> Result<Vec<RowKey>, StoreError> {
        let damaged = self.damage().await?.map(|seen| seen.found.rows).unwrap_or_default();
        let differing = self.differing().await?.into_values().flatten();
        let keys: BTreeSet<String> = damaged.into_iter().chain(differing).collect();
        Ok(keys.iter().filter_map(|key| key.parse().ok()).collect())
    }

    /// Where entries lie that are applied and contain all this: in their bodies, the last of it in their envelopes. First the one
    /// that a fact's row names itself.
    async fn places(
        &self,
        key: &RowKey,
        stream: FactStream,
        [needle, another, of_envelope]: &[String; 3],
    ) -> Result<Vec<(LogId, i64)>, StoreError> {
        // A connection of its own: this may take longer than anything else is allowed to, and the lease is not held for it.
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        connection
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '10min'")
            .await?;
        if let RowKey::Fact(id) = key {
            let named = sqlx::query!(
                "SELECT origin_region, origin_incarnation, origin_seq FROM ledger_facts WHERE fact_id = $1",
                id
            )
            .fetch_optional(&mut connection)
            .await?;
            if let Some(row) = named
                && let Ok(log) = log_id(&row.origin_region, row.origin_incarnation, stream.as_str())
                && said_by(&mut connection, &log, row.origin_seq)
                    .await?
                    .is_some_and(|stored| is_about(&stored.fact, key))
            {
                connection.close().await?;
                return Ok(vec![(log, row.origin_seq)]);
            }
        }
        let rows = sqlx::query!(
            "SELECT l.origin_region, l.origin_incarnation, l.seq
             FROM repl_log l JOIN repl_apply a USING (origin_region, origin_incarnation, stream)
             WHERE l.stream = $1 AND a.bucket = 0 AND l.seq <= a.applied
               AND position($2::bytea IN l.body) > 0 AND position($3::bytea IN l.body) > 0
               AND position($4::bytea IN l.envelope) > 0
               AND NOT EXISTS (SELECT FROM repl_quarantine q
                               WHERE (q.origin_region, q.origin_incarnation, q.stream, q.seq)
                                   = (l.origin_region, l.origin_incarnation, l.stream, l.seq))
             ORDER BY 1, 2, 3 LIMIT $5",
            stream.as_str(),
            needle.as_bytes(),
            another.as_bytes(),
            of_envelope.as_bytes(),
            CANDIDATES
        )
        .fetch_all(&mut connection)
        .await?;
        connection.close().await?;
        rows.iter()
            .map(|row| Ok((log_id(&row.origin_region, row.origin_incarnation, stream.as_str())?, row.seq)))
            .collect()
    }
}

/// What became of a row.
struct Mended {
    /// The entry it says the same as.
    of: String,
    /// Whether it said anything else before.
    changed: bool,
}

fn is_about(fact: &Fact, key: &RowKey) -> bool {
    match (key, fact) {
        (RowKey::Fact(id), fact) => LedgerRow::of(fact.clone()).is_some_and(|row| row.fact_id == *id),
        (RowKey::Version { tenant, version }, Fact::ConfigPublished(fact)) => {
            fact.tenant == tenant.as_str() && fact.version == *version
        }
        (RowKey::Home(tenant), Fact::TenantCreated(fact)) => fact.tenant == tenant.as_str(),
        (RowKey::Home(tenant), Fact::TenantMoved(fact)) => fact.tenant == tenant.as_str(),
        (RowKey::Takeover { tenant, term }, Fact::TenantMoved(fact)) => {
            fact.tenant == tenant.as_str() && fact.term == *term && fact.heard.is_some()
        }
        _ => false,
    }
}

fn epoch(stored: &Stored) -> HomeEpoch {
    stored.envelope.home_epoch.unwrap_or_default()
}

fn name(log: &LogId, stored: &Stored) -> String {
    format!("entry {} of {log}", stored.seq)
}

async fn mend_fact(
    tx: &mut PgTransaction<'_>,
    told: Vec<(LogId, Stored)>,
) -> Result<Result<Mended, String>, StoreError> {
    let Some((log, stored)) = told.into_iter().next() else { return Ok(Err("nothing is said of it".to_owned())) };
    let (of, seq, kind, epoch, hash) =
        (name(&log, &stored), stored.seq, stored.fact.kind(), epoch(&stored), stored.hash);
    let Some(row) = LedgerRow::of(stored.fact) else { return Ok(Err(format!("{of} is about no money"))) };
    let fact = NewFact { seq, kind, row, epoch, hash };
    let changed = ledger::restore(tx, &log.origin, &fact).await?;
    Ok(Ok(Mended { of, changed }))
}

/// Puts in anew what was published under a number, by the rule it was put in by.
async fn mend_version(
    tx: &mut PgTransaction<'_>,
    tenant: &str,
    version: u64,
    told: Vec<(LogId, Stored)>,
) -> Result<Result<Mended, String>, StoreError> {
    let number = to_sql(version)?;
    let before = version_row(tx, tenant, number).await?;
    sqlx::query!("DELETE FROM tenant_config_versions WHERE tenant_id = $1 AND version = $2", tenant, number)
        .execute(&mut **tx)
        .await?;
    let mut of = String::new();
    let mut refused = None;
    for (log, stored) in &told {
        let Fact::ConfigPublished(fact) = &stored.fact else { continue };
        match keep_version(tx, &log.origin, epoch(stored), fact).await? {
            None => of = name(log, stored),
            Some((_, why)) => refused = Some(why),
        }
    }
    let (Some(after), false) = (version_row(tx, tenant, number).await?, of.is_empty()) else {
        return Ok(Err(refused.unwrap_or_else(|| "nothing is said of it".to_owned())));
    };
    let shown = before.as_ref().map(|row| (row.home_term, row.home_n));
    if shown > Some((after.home_term, after.home_n)) && drops(tx, FactStream::Config).await? {
        return Ok(Err(earlier(&of)));
    }
    sqlx::query!("SELECT pg_notify('config_changed', $1)", tenant).execute(&mut **tx).await?;
    Ok(Ok(Mended { of, changed: before.map(|row| row.row) != Some(after.row) }))
}

struct VersionRow {
    row: serde_json::Value,
    home_term: i64,
    home_n: i64,
}

/// A published version as it lies there.
async fn version_row(
    connection: &mut PgConnection,
    tenant: &str,
    number: i64,
) -> Result<Option<VersionRow>, StoreError> {
    let row = sqlx::query_as!(
        VersionRow,
        r#"SELECT to_jsonb(v) AS "row!", home_term, home_n FROM tenant_config_versions v
           WHERE tenant_id = $1 AND version = $2"#,
        tenant,
        number
    );
    Ok(row.fetch_optional(connection).await?)
}

/// The home is where the fact of the greatest epoch says; of two in one epoch, in the region of the smaller name.
async fn mend_home(
    tx: &mut PgTransaction<'_>,
    told: Vec<(LogId, Stored)>,
) -> Result<Result<Mended, String>, StoreError> {
    let homes = told.iter().filter_map(|(log, stored)| {
        let home = match &stored.fact {
            Fact::TenantMoved(moved) => moved.clone(),
            Fact::TenantCreated(made) => TenantMoved {
                tenant: made.tenant.clone(),
                name: made.name.clone(),
                home_region: made.home_region.clone(),
                term: made.term,
                n: made.n,
                heard: None,
            },
            _ => return None,
        };
        Some((home, name(log, stored)))
    });
    let newest = homes.max_by(|(a, _), (b, _)| {
        (a.term, a.n).cmp(&(b.term, b.n)).then_with(|| b.home_region.as_bytes().cmp(a.home_region.as_bytes()))
    });
    let Some((home, of)) = newest else { return Ok(Err("nothing is said of it".to_owned())) };
    let (term, n) = (to_sql(home.term)?, to_sql(home.n)?);
    let before = sqlx::query!("SELECT term, n FROM tenant_homes WHERE tenant_id = $1 FOR UPDATE", home.tenant)
        .fetch_optional(&mut **tx)
        .await?;
    if before.is_some_and(|row| (row.term, row.n) > (term, n)) && drops(tx, FactStream::Control).await? {
        return Ok(Err(earlier(&of)));
    }
    let put = sqlx::query!(
        "INSERT INTO tenant_homes AS known (tenant_id, name, region, term, n) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id) DO UPDATE
         SET name = EXCLUDED.name, region = EXCLUDED.region, term = EXCLUDED.term, n = EXCLUDED.n
         WHERE (known.name, known.region, known.term, known.n)
             IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.region, EXCLUDED.term, EXCLUDED.n)",
        home.tenant,
        home.name,
        home.home_region,
        term,
        n
    )
    .execute(&mut **tx)
    .await?;
    tell_directory_changed(tx).await?;
    Ok(Ok(Mended { of, changed: put.rows_affected() > 0 }))
}

/// What whoever took a home by force had heard of is what he said; if another said so too, of the two what stays everywhere.
async fn mend_takeover(
    tx: &mut PgTransaction<'_>,
    tenant: &str,
    term: u64,
    told: Vec<(LogId, Stored)>,
) -> Result<Result<Mended, String>, StoreError> {
    let number = to_sql(term)?;
    let before = takeover_row(tx, tenant, number).await?;
    let mut of = String::new();
    let mut stays = None;
    for (log, stored) in &told {
        let Fact::TenantMoved(TenantMoved { home_region: region, heard: Some(heard), .. }) = &stored.fact else {
            continue;
        };
        if of.is_empty() {
            sqlx::query("UPDATE home_takeovers SET region = $3, heard = $4 WHERE tenant_id = $1 AND term = $2")
                .bind(tenant)
                .bind(number)
                .bind(region)
                .bind(sqlx::types::Json(heard))
                .execute(&mut **tx)
                .await?;
        }
        keep_takeover(tx, tenant, term, region, heard).await?;
        let row = takeover_row(tx, tenant, number).await?;
        if row != stays {
            (of, stays) = (name(log, stored), row);
        }
    }
    Ok(if stays.is_some() {
        Ok(Mended { of, changed: before != stays })
    } else {
        Err("nothing is said of it".to_owned())
    })
}

/// What is kept of a home that was taken by force.
async fn takeover_row(
    connection: &mut PgConnection,
    tenant: &str,
    term: i64,
) -> Result<Option<(String, serde_json::Value)>, StoreError> {
    let row = sqlx::query_as("SELECT region, heard FROM home_takeovers WHERE tenant_id = $1 AND term = $2");
    Ok(row.bind(tenant).bind(term).fetch_optional(connection).await?)
}

/// Whether entries of a kind have been dropped here.
async fn drops(tx: &mut PgTransaction<'_>, stream: FactStream) -> Result<bool, StoreError> {
    let drops = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM repl_cursor WHERE stream = $1 AND truncated > 0) AS "drops!""#,
        stream.as_str()
    );
    Ok(drops.fetch_one(&mut **tx).await?)
}

fn earlier(of: &str) -> String {
    format!("{of} is the newest about it here and of an earlier tenure than the row: a later one may be dropped")
}

#[cfg(test)]
mod tests;
