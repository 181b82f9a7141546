//! Config: edits merge into a tenant's draft, published versions are kept as they are.
//!
//! All edits of one document are given to automerge at once, under a lock on its row, together with those that waited
//! for them. One that builds on an edit that has not arrived stays in the log, "held".

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    fact::{ConfigChanged, ConfigPublished, Fact},
    tenant_document::{TenantDocument, change_dependencies},
};
use sqlx::PgConnection;

use super::rollout::keep_rollout;
use crate::{
    protocol::{HomeEpoch, LogId, Origin},
    store::{SetAside, StoreError, Stored, held_edits, quarantine, release, to_sql},
};

/// Applies the config facts of one log.
pub(crate) async fn apply_config(
    connection: &mut PgConnection,
    log: &LogId,
    entries: Vec<Stored>,
) -> Result<Vec<SetAside>, StoreError> {
    let mut set_aside = Vec::new();
    let mut edits: BTreeMap<String, Vec<Edit>> = BTreeMap::new();
    let mut changed = BTreeSet::new();
    for Stored { origin, seq, envelope, fact, .. } in entries {
        match fact {
            Fact::ConfigChanged(fact) => {
                edits.entry(fact.tenant.clone()).or_default().push(Edit { log: log.clone(), seq, fact });
            }
            Fact::ConfigPublished(fact) => {
                let epoch = envelope.home_epoch.unwrap_or(HomeEpoch { term: 0, n: 0 });
                let refused = keep_version(connection, &origin, epoch, &fact).await?;
                set_aside.extend(refused.map(|(state, reason)| SetAside::new(seq, state, reason)));
                changed.insert(fact.tenant);
            }
            Fact::ConfigRollout(fact) => {
                let epoch = envelope.home_epoch.unwrap_or(HomeEpoch { term: 0, n: 0 });
                let refused = keep_rollout(connection, &origin, epoch, &fact).await?;
                set_aside.extend(refused.map(|(state, reason)| SetAside::new(seq, state, reason)));
                changed.insert(fact.tenant);
            }
            Fact::RegionAnnounced(_)
            | Fact::TenantCreated(_)
            | Fact::Settlement(_)
            | Fact::Refund(_)
            | Fact::Adjustment(_) => set_aside.push(SetAside::new(seq, "failed", "not a config fact")),
        }
    }
    for (tenant, edits) in edits {
        set_aside.extend(merge(connection, &tenant, edits).await?);
        changed.insert(tenant);
    }
    for tenant in changed {
        sqlx::query!("SELECT pg_notify('config_changed', $1)", tenant).execute(&mut *connection).await?;
    }
    Ok(set_aside)
}

/// Takes in a published version; says why if it is not the one that stays. Which one stays does not depend on the order they
/// come in: under one number that of the later tenure, within a tenure that of the smaller region's name, of its later life;
/// and what a later home published ends all that earlier ones published from that number on.
pub(crate) async fn keep_version(
    connection: &mut PgConnection,
    origin: &Origin,
    epoch: HomeEpoch,
    fact: &ConfigPublished,
) -> Result<Option<(&'static str, String)>, StoreError> {
    let (version, term, n) = (to_sql(fact.version)?, to_sql(epoch.term)?, to_sql(epoch.n)?);
    let later = sqlx::query_scalar!(
        "SELECT version FROM tenant_config_versions
         WHERE tenant_id = $1 AND version <= $2 AND (home_term, home_n) > ($3, $4) ORDER BY version LIMIT 1",
        fact.tenant,
        version,
        term,
        n
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(later) = later {
        // The home wrote it before it knew.
        sqlx::query!(
            "DELETE FROM tenant_config_versions WHERE tenant_id = $1 AND version = $2 AND home_term < 0",
            fact.tenant,
            version
        )
        .execute(connection)
        .await?;
        return Ok(Some(("stale", format!("a later home has published version {later}"))));
    }
    sqlx::query!(
        r#"INSERT INTO tenant_config_versions AS known
               (tenant_id, version, config, published_at, home_term, home_n, origin_region, origin_incarnation)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
           ON CONFLICT (tenant_id, version) DO UPDATE
           SET config = EXCLUDED.config, published_at = EXCLUDED.published_at, home_term = EXCLUDED.home_term,
               home_n = EXCLUDED.home_n, origin_region = EXCLUDED.origin_region,
               origin_incarnation = EXCLUDED.origin_incarnation
           WHERE (known.home_term, known.home_n) < (EXCLUDED.home_term, EXCLUDED.home_n)
              OR ((known.home_term, known.home_n) = (EXCLUDED.home_term, EXCLUDED.home_n)
                  AND (known.origin_region COLLATE "C", -known.origin_incarnation, known.config_md5)
                      > (EXCLUDED.origin_region COLLATE "C", -EXCLUDED.origin_incarnation,
                         md5(EXCLUDED.config::text)))"#,
        fact.tenant,
        version,
        fact.config,
        fact.published_at,
        term,
        n,
        origin.region.as_str(),
        to_sql(origin.incarnation)?
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM tenant_config_versions
         WHERE tenant_id = $1 AND version > $2 AND home_term >= 0 AND (home_term, home_n) < ($3, $4)",
        fact.tenant,
        version,
        term,
        n
    )
    .execute(&mut *connection)
    .await?;
    let same = sqlx::query_scalar!(
        r#"SELECT config = $3 AS "same!" FROM tenant_config_versions WHERE tenant_id = $1 AND version = $2"#,
        fact.tenant,
        version,
        fact.config
    )
    .fetch_one(connection)
    .await?;
    let reason = || "another config was published under this number in the same tenure".to_owned();
    Ok((!same).then(|| ("conflict", reason())))
}

/// An edit, and where it came from.
struct Edit {
    log: LogId,
    seq: u64,
    fact: ConfigChanged,
}

/// What became of an edit that is not part of the draft.
type Refusal = (&'static str, String);

/// Merges new edits of a tenant's draft, then those that waited for them.
async fn merge(connection: &mut PgConnection, tenant: &str, edits: Vec<Edit>) -> Result<Vec<SetAside>, StoreError> {
    let newest = edits.iter().map(|edit| edit.fact.generation).max().unwrap_or_default();
    let (generation, mut document) = match lock_document(connection, tenant, newest).await {
        Ok(locked) => locked,
        // Nothing is lost: the edits stay in the log and wait until the row is mended.
        Err(StoreError::Damaged(reason)) => {
            return Ok(edits.into_iter().map(|edit| SetAside::new(edit.seq, "held", &reason)).collect());
        }
        Err(error) => return Err(error),
    };
    let mut set_aside = Vec::new();
    let mut waiting = edits;
    // An edit can wait for one that waits itself, on either side: until nothing moves any more.
    loop {
        let mut applied = 0;
        let mut still = Vec::new();
        for (edit, refusal) in merge_some(&mut document, generation, std::mem::take(&mut waiting))? {
            match refusal {
                None => applied += 1,
                Some(("held", _)) => still.push(edit),
                Some((state, reason)) => set_aside.push(SetAside::new(edit.seq, state, reason)),
            }
        }
        waiting = still;
        let worth_it = applied > 0 || !waiting.is_empty();
        if !worth_it || merge_held(connection, tenant, generation, &mut document).await? == 0 {
            break;
        }
    }
    set_aside.extend(waiting.into_iter().map(|edit| SetAside::new(edit.seq, "held", WAITS)));
    save_document(connection, tenant, generation, &mut document).await?;
    Ok(set_aside)
}

const WAITS: &str = "it builds on an edit that has not arrived";

/// Tries the edits that wait, a few at a time; how many are part of the draft now.
async fn merge_held(
    connection: &mut PgConnection,
    tenant: &str,
    generation: u32,
    document: &mut TenantDocument,
) -> Result<usize, StoreError> {
    let mut applied = 0;
    let mut after = None;
    loop {
        let held = held_edits(connection, tenant, after.as_ref()).await?;
        let Some((log, seq, _)) = held.last() else { return Ok(applied) };
        after = Some((log.clone(), *seq));
        let edits = held.into_iter().map(|(log, seq, fact)| Edit { log, seq, fact }).collect();
        for (Edit { log, seq, .. }, refusal) in merge_some(document, generation, edits)? {
            match refusal {
                None => {
                    release(connection, &log, &[seq]).await?;
                    applied += 1;
                }
                Some(("held", _)) => {}
                Some((state, reason)) => {
                    quarantine(connection, &log, seq, Some(tenant), "config.changed", state, &reason).await?;
                }
            }
        }
    }
}

/// Merges what can be of some edits; for each that cannot, why.
fn merge_some(
    document: &mut TenantDocument,
    generation: u32,
    edits: Vec<Edit>,
) -> Result<Vec<(Edit, Option<Refusal>)>, StoreError> {
    let mut outcome = Vec::with_capacity(edits.len());
    let mut current = Vec::with_capacity(edits.len());
    for edit in edits {
        let invalid = edit.fact.changes.iter().find_map(|change| change_dependencies(change).err());
        if edit.fact.generation < generation {
            let reason = format!("generation {} was replaced by {generation}", edit.fact.generation);
            outcome.push((edit, Some(("stale", reason))));
        } else if let Some(error) = invalid {
            outcome.push((edit, Some(("failed", error.to_string()))));
        } else {
            current.push(edit);
        }
    }
    if current.is_empty() {
        return Ok(outcome);
    }
    let before = document.save();
    let sources = current.iter().enumerate().flat_map(|(at, edit)| edit.fact.changes.iter().map(move |_| at));
    let sources: Vec<usize> = sources.collect();
    let changes: Vec<&[u8]> = current.iter().flat_map(|edit| &edit.fact.changes).map(Vec::as_slice).collect();
    if let Ok(applied) = document.apply_changes(&changes) {
        let waiting: BTreeSet<usize> = applied.waiting.iter().map(|index| sources[*index]).collect();
        let judged = current.into_iter().enumerate();
        outcome.extend(judged.map(|(at, edit)| (edit, waiting.contains(&at).then(|| ("held", WAITS.to_owned())))));
        return Ok(outcome);
    }
    // One of them does harm. Find it: each on its own, on the draft as it was.
    *document = reload(&before)?;
    for edit in current {
        let before = document.save();
        let refusal = match document.apply_changes(&edit.fact.changes) {
            Ok(applied) if applied.waiting.is_empty() => None,
            Ok(_) => Some(("held", WAITS.to_owned())),
            Err(error) => {
                *document = reload(&before)?;
                Some(("failed", error.to_string()))
            }
        };
        outcome.push((edit, refusal));
    }
    Ok(outcome)
}

fn reload(saved: &[u8]) -> Result<TenantDocument, StoreError> {
    TenantDocument::load(saved).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// The tenant's document, locked until the transaction ends; made if there is none, replaced by an empty one of the next
/// generation if `newest` is later.
async fn lock_document(
    connection: &mut PgConnection,
    tenant: &str,
    newest: u32,
) -> Result<(u32, TenantDocument), StoreError> {
    let mut first = TenantDocument::create(tenant, newest);
    sqlx::query!(
        "INSERT INTO tenant_documents (tenant_id, generation, heads, document, draft) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant_id) DO NOTHING",
        tenant,
        i32::try_from(newest).unwrap_or(i32::MAX),
        &first.heads(),
        first.save(),
        first.to_json()
    )
    .execute(&mut *connection)
    .await?;
    let row = sqlx::query!("SELECT generation, document FROM tenant_documents WHERE tenant_id = $1 FOR UPDATE", tenant)
        .fetch_one(connection)
        .await?;
    let generation = u32::try_from(row.generation).unwrap_or_default();
    if generation < newest {
        return Ok((newest, first));
    }
    let document = TenantDocument::load(&row.document)
        .map_err(|error| StoreError::Damaged(format!("the draft of {tenant}: {error}")))?;
    Ok((generation, document))
}

pub(super) async fn save_document(
    connection: &mut PgConnection,
    tenant: &str,
    generation: u32,
    document: &mut TenantDocument,
) -> Result<(), StoreError> {
    let conflicts = serde_json::to_value(document.conflicts()).expect("conflicts are plain JSON");
    sqlx::query!(
        "UPDATE tenant_documents SET generation = $2, heads = $3, document = $4, draft = $5, conflicts = $6
         WHERE tenant_id = $1",
        tenant,
        i32::try_from(generation).unwrap_or(i32::MAX),
        &document.heads(),
        document.save(),
        document.to_json(),
        conflicts
    )
    .execute(connection)
    .await?;
    Ok(())
}
