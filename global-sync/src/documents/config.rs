//! Config: edits merge into a tenant's draft, published versions are kept as they are.
//!
//! All edits of one document are given to automerge at once, under a lock on its row, together with those that waited
//! for them. One that builds on an edit that has not arrived stays in the log, "held".

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    fact::{ConfigChanged, ConfigPublished, Fact},
    tenant_document::{MAX_DOCUMENT_BYTES, TenantDocument},
};
use sqlx::PgConnection;

use crate::{
    protocol::LogId,
    store::{SetAside, StoreError, Stored, held_edits, quarantine, release, to_sql},
};

/// Applies the config facts of one log.
pub(crate) async fn apply_config(
    connection: &mut PgConnection,
    log: &LogId,
    entries: Vec<Stored>,
) -> Result<Vec<SetAside>, StoreError> {
    let mut set_aside = Vec::new();
    let mut edits: BTreeMap<String, Vec<(u64, ConfigChanged)>> = BTreeMap::new();
    let mut changed = BTreeSet::new();
    for Stored { seq, fact, .. } in entries {
        match fact {
            Fact::ConfigChanged(fact) => edits.entry(fact.tenant.clone()).or_default().push((seq, fact)),
            Fact::ConfigPublished(fact) => {
                set_aside.extend(keep_version(connection, seq, &fact).await?);
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
        set_aside.extend(merge(connection, log, &tenant, edits).await?);
        changed.insert(tenant);
    }
    for tenant in changed {
        sqlx::query!("SELECT pg_notify('config_changed', $1)", tenant).execute(&mut *connection).await?;
    }
    Ok(set_aside)
}

/// A version is immutable: the first to arrive under its number stays.
async fn keep_version(
    connection: &mut PgConnection,
    seq: u64,
    fact: &ConfigPublished,
) -> Result<Option<SetAside>, StoreError> {
    let inserted = sqlx::query!(
        "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (tenant_id, version) DO NOTHING",
        fact.tenant,
        to_sql(fact.version),
        fact.config,
        fact.published_at
    )
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(None);
    }
    let same = sqlx::query_scalar!(
        r#"SELECT config = $3 AS "same!" FROM tenant_config_versions WHERE tenant_id = $1 AND version = $2"#,
        fact.tenant,
        to_sql(fact.version),
        fact.config
    )
    .fetch_one(connection)
    .await?;
    let reason = "another config was published under this number first";
    Ok((!same).then(|| SetAside::new(seq, "conflict", reason)))
}

/// Where an edit came from, so that it can be set aside or released.
type Source = (LogId, u64);

async fn merge(
    connection: &mut PgConnection,
    log: &LogId,
    tenant: &str,
    edits: Vec<(u64, ConfigChanged)>,
) -> Result<Vec<SetAside>, StoreError> {
    let newest = edits.iter().map(|(_, edit)| edit.generation).max().unwrap_or_default();
    let (generation, mut document) = lock_document(connection, tenant, newest).await?;
    let fresh: BTreeSet<Source> = edits.iter().map(|(seq, _)| (log.clone(), *seq)).collect();
    let held = held_edits(connection, tenant).await?;
    let all = edits
        .into_iter()
        .map(|(seq, edit)| ((log.clone(), seq), edit))
        .chain(held.into_iter().map(|(log, seq, edit)| ((log, seq), edit)));

    let mut outcome: BTreeMap<Source, (&'static str, String)> = BTreeMap::new();
    let mut current: Vec<(Source, Vec<Vec<u8>>)> = Vec::new();
    for (source, edit) in all {
        if edit.generation < generation {
            outcome.insert(source, ("stale", format!("generation {} was replaced by {generation}", edit.generation)));
        } else {
            current.push((source, edit.changes));
        }
    }
    let (sources, changes): (Vec<&Source>, Vec<&[u8]>) =
        current.iter().flat_map(|(source, list)| list.iter().map(move |change| (source, change.as_slice()))).unzip();
    match apply_changes(&mut document, &changes) {
        Ok(waiting) => {
            for index in waiting {
                outcome
                    .insert(sources[index].clone(), ("held", "it builds on an edit that has not arrived".to_owned()));
            }
        }
        Err(_) => {
            // One of them is damaged. Find it: each on its own, on the document as it was.
            document = lock_document(connection, tenant, newest).await?.1;
            for (source, list) in &current {
                let list: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
                let before = document.save();
                match apply_changes(&mut document, &list) {
                    Ok(waiting) if waiting.is_empty() => {}
                    Ok(_) => {
                        let reason = "it builds on an edit that has not arrived".to_owned();
                        outcome.insert(source.clone(), ("held", reason));
                    }
                    Err(reason) => {
                        document =
                            TenantDocument::load(&before).map_err(|error| StoreError::Damaged(error.to_string()))?;
                        outcome.insert(source.clone(), ("failed", reason));
                    }
                }
            }
        }
    }
    save_document(connection, tenant, generation, &mut document).await?;

    let mut set_aside = Vec::new();
    for (source, _) in &current {
        if !outcome.contains_key(source) && !fresh.contains(source) {
            release(connection, &source.0, &[source.1]).await?;
        }
    }
    for ((from, seq), (state, reason)) in outcome {
        if fresh.contains(&(from.clone(), seq)) {
            set_aside.push(SetAside::new(seq, state, reason));
        } else {
            quarantine(connection, &from, seq, Some(tenant), "config.changed", state, &reason).await?;
        }
    }
    Ok(set_aside)
}

fn apply_changes(document: &mut TenantDocument, changes: &[&[u8]]) -> Result<Vec<usize>, String> {
    let applied = document.apply_changes(changes).map_err(|error| error.to_string())?;
    if document.save().len() > MAX_DOCUMENT_BYTES {
        return Err("the draft would grow beyond 1 MiB".to_owned());
    }
    Ok(applied.waiting)
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

async fn save_document(
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
