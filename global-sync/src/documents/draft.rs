//! A tenant's draft: edits of all regions merge in it.
//!
//! All edits of one document are given to automerge at once, under a lock on its row, together with those that waited
//! for them. One that builds on an edit that has not arrived stays in the log, "held". So does a new generation until
//! everything it was made of is here; edits of the generation before it are carried over, those of none before that can
//! still come.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    fact::{ConfigAdopted, ConfigCompacted, Fact},
    tenant_document::{DocumentError, TenantDocument, change_dependencies},
};
use sqlx::{PgConnection, types::Json};

use super::Objection;
use crate::{
    protocol::{HomeEpoch, LogId},
    store::{Aside, SetAside, StoreError, Stored, held_edits, quarantine, release, to_sql},
};

/// A fact about a draft, and where it came from.
pub(super) struct Edit {
    pub(super) log: LogId,
    pub(super) seq: u64,
    pub(super) epoch: HomeEpoch,
    pub(super) fact: Fact,
}

/// Which generation each region edits.
pub(super) type Adopted = BTreeMap<String, u32>;

const WAITS: &str = "it builds on an edit that has not arrived";

/// Merges new edits of a tenant's draft, then those that waited for them.
pub(super) async fn merge(
    connection: &mut PgConnection,
    tenant: &str,
    edits: Vec<Edit>,
) -> Result<Vec<SetAside>, StoreError> {
    let mut draft = match Draft::lock(connection, tenant).await {
        Ok(draft) => draft,
        // Nothing is lost: the edits stay in the log and wait until the row is mended.
        Err(StoreError::Damaged(reason)) => {
            return Ok(edits.into_iter().map(|edit| SetAside::new(edit.seq, Aside::Held, &reason)).collect());
        }
        Err(error) => return Err(error),
    };
    let before = draft.generation;
    let mut set_aside = Vec::new();
    let mut waiting = edits;
    // An edit can wait for one that waits itself, on either side: until nothing moves any more.
    loop {
        let mut applied = 0;
        let mut still = Vec::new();
        for (edit, refusal) in draft.merge_some(std::mem::take(&mut waiting))? {
            match refusal {
                None => applied += 1,
                Some((Aside::Held, _)) => still.push(edit),
                Some((state, reason)) => set_aside.push(SetAside::new(edit.seq, state, reason)),
            }
        }
        waiting = still;
        let released = merge_held(connection, &mut draft).await?;
        if released == 0 && (applied == 0 || waiting.is_empty()) {
            break;
        }
    }
    set_aside.extend(waiting.into_iter().map(|edit| SetAside::new(edit.seq, Aside::Held, WAITS)));
    if draft.generation > before {
        draft.adopt(connection).await?;
    }
    draft.save(connection).await?;
    Ok(set_aside)
}

/// Tries the edits that wait, a few at a time; how many are part of the draft now.
async fn merge_held(connection: &mut PgConnection, draft: &mut Draft) -> Result<usize, StoreError> {
    let mut applied = 0;
    let mut after = None;
    loop {
        let held = held_edits(connection, &draft.tenant, after.as_ref()).await?;
        let Some((log, Stored { seq, .. })) = held.last() else { return Ok(applied) };
        after = Some((log.clone(), *seq));
        let edits = held.into_iter().map(|(log, Stored { seq, envelope, fact, .. })| {
            let epoch = envelope.home_epoch.unwrap_or_default();
            Edit { log, seq, epoch, fact }
        });
        for (Edit { log, seq, fact, .. }, refusal) in draft.merge_some(edits.collect())? {
            match refusal {
                None => {
                    release(connection, &log, &[seq]).await?;
                    applied += 1;
                }
                Some((Aside::Held, _)) => {}
                Some((state, reason)) => {
                    quarantine(connection, &log, seq, Some(&draft.tenant), fact.kind(), state, &reason).await?;
                }
            }
        }
    }
}

/// A tenant's row of drafts, locked until the transaction ends.
pub(super) struct Draft {
    tenant: String,
    generation: u32,
    document: TenantDocument,
    /// The generation before, if there was one.
    previous: Option<TenantDocument>,
    /// The heads of `previous` that `document` was made of.
    base: Vec<String>,
    /// The tenure of the home that made this generation.
    made: HomeEpoch,
    adopted: Adopted,
}

/// A row of `tenant_documents` as a snapshot brings it too.
#[derive(sqlx::FromRow)]
pub(super) struct DraftRow {
    pub(super) tenant_id: String,
    generation: i32,
    document: Vec<u8>,
    previous: Option<Vec<u8>>,
    base: Vec<String>,
    made_term: i64,
    made_n: i64,
    adopted: Json<Adopted>,
}

impl Draft {
    /// The tenant's draft; made if there is none.
    pub(super) async fn lock(connection: &mut PgConnection, tenant: &str) -> Result<Self, StoreError> {
        let mut first = TenantDocument::create(tenant, 0);
        sqlx::query!(
            "INSERT INTO tenant_documents (tenant_id, generation, heads, document, draft) VALUES ($1, 0, $2, $3, $4)
             ON CONFLICT (tenant_id) DO NOTHING",
            tenant,
            &first.heads(),
            first.save(),
            first.to_json()
        )
        .execute(&mut *connection)
        .await?;
        let row = sqlx::query_as!(
            DraftRow,
            r#"SELECT tenant_id, generation, document, previous, base, made_term, made_n, adopted AS "adopted: Json<Adopted>"
               FROM tenant_documents WHERE tenant_id = $1 FOR UPDATE"#,
            tenant
        )
        .fetch_one(connection)
        .await?;
        Self::read(row)
    }

    pub(super) fn read(row: DraftRow) -> Result<Self, StoreError> {
        let damaged = |error| StoreError::Damaged(format!("the draft of {}: {error}", row.tenant_id));
        Ok(Self {
            generation: u32::try_from(row.generation).unwrap_or_default(),
            document: TenantDocument::load(&row.document).map_err(damaged)?,
            previous: row.previous.as_deref().map(TenantDocument::load).transpose().map_err(damaged)?,
            base: row.base,
            made: HomeEpoch { term: row.made_term.unsigned_abs(), n: row.made_n.unsigned_abs() },
            adopted: row.adopted.0,
            tenant: row.tenant_id,
        })
    }

    pub(super) async fn save(mut self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let conflicts = serde_json::to_value(self.document.conflicts()).expect("conflicts are plain JSON");
        sqlx::query!(
            "UPDATE tenant_documents
             SET generation = $2, heads = $3, document = $4, draft = $5, conflicts = $6, previous = $7, base = $8,
                 made_term = $9, made_n = $10, adopted = $11
             WHERE tenant_id = $1",
            self.tenant,
            i32::try_from(self.generation).unwrap_or(i32::MAX),
            &self.document.heads(),
            self.document.save(),
            self.document.to_json(),
            conflicts,
            self.previous.as_mut().map(TenantDocument::save),
            &self.base,
            to_sql(self.made.term)?,
            to_sql(self.made.n)?,
            Json(&self.adopted) as _
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Says to all regions that this one edits nothing older any more.
    pub(super) async fn adopt(&mut self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let fact = Fact::ConfigAdopted(ConfigAdopted { tenant: self.tenant.clone(), generation: self.generation });
        let region = sqlx::query_scalar!(
            "WITH told AS (INSERT INTO repl_outbox (id, stream, kind, tenant_id, body)
                           VALUES (gen_random_uuid(), $1, $2, $3, $4))
             SELECT region FROM repl_self",
            fact.stream().as_str(),
            fact.kind(),
            self.tenant,
            fact.to_body()
        )
        .fetch_one(connection)
        .await?;
        self.note_adopted(&region, self.generation);
        Ok(())
    }

    fn note_adopted(&mut self, region: &str, generation: u32) {
        let known = self.adopted.entry(region.to_owned()).or_default();
        *known = generation.max(*known);
    }

    /// Merges what can be of some edits; for each that cannot, why.
    fn merge_some(&mut self, edits: Vec<Edit>) -> Result<Vec<(Edit, Option<Objection>)>, StoreError> {
        let mut outcome = Vec::with_capacity(edits.len());
        let mut current = Vec::with_capacity(edits.len());
        for edit in edits {
            let refusal = match &edit.fact {
                Fact::ConfigAdopted(fact) => {
                    self.note_adopted(edit.log.origin.region.as_str(), fact.generation);
                    None
                }
                Fact::ConfigCompacted(fact) => {
                    // Edits of the generation that ends come first.
                    outcome.append(&mut merge_all(&mut self.document, std::mem::take(&mut current))?);
                    self.note_adopted(edit.log.origin.region.as_str(), fact.generation);
                    self.take_generation(fact, edit.epoch)
                }
                Fact::ConfigChanged(fact) if fact.generation == self.generation => {
                    current.push(edit);
                    continue;
                }
                Fact::ConfigChanged(fact) if fact.generation > self.generation => {
                    Some((Aside::Held, format!("generation {} of the draft has not arrived", fact.generation)))
                }
                Fact::ConfigChanged(fact) => self.merge_late(fact.generation, &fact.changes)?,
                _ => Some((Aside::Failed, "not about a draft".to_owned())),
            };
            outcome.push((edit, refusal));
        }
        outcome.append(&mut merge_all(&mut self.document, current)?);
        Ok(outcome)
    }

    /// Goes over to a generation, once everything it was made of is here. Of two homes that both made one the later stays, and of
    /// two lives of one home, of which neither knew what the other had made, one: the same in every region.
    fn take_generation(&mut self, fact: &ConfigCompacted, made: HomeEpoch) -> Option<Objection> {
        let is_next = fact.generation == self.generation + 1;
        let is_rival = fact.generation == self.generation
            && (made.term, made.n, &fact.base) > (self.made.term, self.made.n, &self.base);
        let mut before = match (is_next, is_rival, self.previous.as_mut()) {
            (true, ..) => TenantDocument::load(&self.document.save()).ok()?,
            (_, true, Some(previous)) => TenantDocument::load(&previous.save()).ok()?,
            _ if fact.generation <= self.generation => return None,
            _ => return Some((Aside::Held, "the generation before it has not arrived".to_owned())),
        };
        if !before.knows(&fact.base) {
            return Some((Aside::Held, WAITS.to_owned()));
        }
        let made_of = TenantDocument::compact(&self.tenant, fact.generation, &fact.draft).and_then(|mut document| {
            document.carry_over(&mut before, &fact.base)?;
            Ok(document)
        });
        match made_of {
            Ok(document) => {
                if is_rival {
                    tracing::error!(
                        tenant = self.tenant,
                        "generation {} of a draft was made twice: one stays, without what was edited on the other",
                        self.generation
                    );
                }
                self.generation = fact.generation;
                self.document = document;
                self.previous = Some(before);
                self.base.clone_from(&fact.base);
                self.made = made;
                None
            }
            Err(error) => Some((Aside::Failed, error.to_string())),
        }
    }

    /// Carries over an edit of the generation before this one.
    fn merge_late(&mut self, generation: u32, changes: &[Vec<u8>]) -> Result<Option<Objection>, StoreError> {
        let Some(previous) = self.previous.as_mut().filter(|_| generation + 1 == self.generation) else {
            let reason = format!("generation {generation} was replaced long before {}", self.generation);
            return Ok(Some((Aside::Stale, reason)));
        };
        let (before, document_before) = (previous.save(), self.document.save());
        let taken = previous.apply_changes(changes).and_then(|applied| {
            if applied.waiting.is_empty() {
                self.document.carry_over(previous, &self.base)?;
            }
            Ok(applied.waiting.is_empty())
        });
        match taken {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some((Aside::Held, WAITS.to_owned()))),
            Err(error) => {
                *previous = reload(&before)?;
                self.document = reload(&document_before)?;
                Ok(Some((Aside::Failed, error.to_string())))
            }
        }
    }

    /// Takes in what another region's snapshot has of this draft; whether another generation is edited now.
    pub(super) fn take_in(&mut self, mut theirs: Self) -> Result<bool, DocumentError> {
        for (region, generation) in &theirs.adopted {
            self.note_adopted(region, *generation);
        }
        let ours = self.generation;
        match (theirs.generation, ours) {
            (theirs_now, ours) if theirs_now == ours => {
                self.document.merge(&mut theirs.document)?;
                if let (Some(previous), Some(theirs)) = (&mut self.previous, &mut theirs.previous) {
                    previous.merge(theirs)?;
                    self.document.carry_over(previous, &self.base)?;
                }
            }
            (theirs_now, ours) if theirs_now == ours + 1 => {
                if let Some(previous) = &mut theirs.previous {
                    previous.merge(&mut self.document)?;
                    theirs.document.carry_over(previous, &theirs.base)?;
                }
                *self = Self { adopted: std::mem::take(&mut self.adopted), ..theirs };
            }
            (theirs_now, ours) if theirs_now + 1 == ours => {
                if let Some(previous) = &mut self.previous {
                    previous.merge(&mut theirs.document)?;
                    self.document.carry_over(previous, &self.base)?;
                }
            }
            (theirs_now, ours) if theirs_now > ours => {
                *self = Self { adopted: std::mem::take(&mut self.adopted), ..theirs };
            }
            _ => {}
        }
        Ok(self.generation > ours)
    }
}

/// Drafts looked at in one transaction: each may have a megabyte, and its generation before another.
const LOOKED_AT: i64 = 20;

/// What is wrong with the drafts of the tenants after this one, each by its tenant, and where to go on: a document that does
/// not load, or does not read as what stands beside it.
pub(crate) async fn damaged_drafts(
    connection: &mut PgConnection,
    after: &str,
) -> Result<(Vec<(String, String)>, Option<String>), StoreError> {
    let rows = sqlx::query!(
        "SELECT tenant_id, heads, document, previous, base, adopted FROM tenant_documents
         WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2",
        after,
        LOOKED_AT
    )
    .fetch_all(&mut *connection)
    .await?;
    let next = rows.last().map(|row| row.tenant_id.clone());
    let mut damaged = Vec::new();
    let (mut tenants, mut drafts, mut conflicts) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        match look_at(&row.document, &row.heads, row.previous.as_deref(), &row.base) {
            Ok(_) if serde_json::from_value::<Adopted>(row.adopted).is_err() => {
                damaged.push((row.tenant_id, "which generation each region edits cannot be read".to_owned()));
            }
            Ok(document) => {
                drafts.push(document.to_json());
                conflicts.push(serde_json::to_value(document.conflicts()).expect("conflicts are plain JSON"));
                tenants.push(row.tenant_id);
            }
            Err(what) => damaged.push((row.tenant_id, what)),
        }
    }
    // There a number is the same number however it was written.
    let differing = sqlx::query_scalar!(
        r#"SELECT tenant_id AS "tenant!"
           FROM UNNEST($1::text[], $2::jsonb[], $3::jsonb[]) AS read (tenant_id, draft, conflicts)
           JOIN tenant_documents d USING (tenant_id)
           WHERE (d.draft, d.conflicts) IS DISTINCT FROM (read.draft, read.conflicts) ORDER BY 1"#,
        &tenants,
        &drafts,
        &conflicts
    )
    .fetch_all(connection)
    .await?;
    let what = "the document reads otherwise than what stands beside it";
    damaged.extend(differing.into_iter().map(|tenant| (tenant, what.to_owned())));
    Ok((damaged, next))
}

/// The document of a row of drafts, or what is wrong with it.
fn look_at(
    document: &[u8],
    heads: &[String],
    previous: Option<&[u8]>,
    base: &[String],
) -> Result<TenantDocument, String> {
    let mut document = TenantDocument::load(document).map_err(|error| error.to_string())?;
    if document.heads() != heads {
        return Err("its heads are not those of its document".to_owned());
    }
    if let Some(previous) = previous {
        let mut previous = TenantDocument::load(previous).map_err(|error| format!("its last generation: {error}"))?;
        if !previous.knows(base) {
            return Err("it was made of what its last generation does not have".to_owned());
        }
    }
    Ok(document)
}

/// Merges edits of one generation; for each that cannot be merged, why.
fn merge_all(document: &mut TenantDocument, edits: Vec<Edit>) -> Result<Vec<(Edit, Option<Objection>)>, StoreError> {
    let mut outcome = Vec::with_capacity(edits.len());
    let mut current = Vec::with_capacity(edits.len());
    for edit in edits {
        let invalid = changes_of(&edit).iter().find_map(|change| change_dependencies(change).err());
        match invalid {
            Some(error) => outcome.push((edit, Some((Aside::Failed, error.to_string())))),
            None => current.push(edit),
        }
    }
    if current.is_empty() {
        return Ok(outcome);
    }
    let before = document.save();
    let sources = current.iter().enumerate().flat_map(|(at, edit)| changes_of(edit).iter().map(move |_| at));
    let sources: Vec<usize> = sources.collect();
    let changes: Vec<&[u8]> = current.iter().flat_map(changes_of).map(Vec::as_slice).collect();
    if let Ok(applied) = document.apply_changes(&changes) {
        let waiting: BTreeSet<usize> = applied.waiting.iter().map(|index| sources[*index]).collect();
        let judged = current.into_iter().enumerate();
        outcome.extend(judged.map(|(at, edit)| (edit, waiting.contains(&at).then(|| (Aside::Held, WAITS.to_owned())))));
        return Ok(outcome);
    }
    // One of them does harm. Find it: each on its own, on the draft as it was.
    *document = reload(&before)?;
    for edit in current {
        let before = document.save();
        let refusal = match document.apply_changes(changes_of(&edit)) {
            Ok(applied) if applied.waiting.is_empty() => None,
            Ok(_) => Some((Aside::Held, WAITS.to_owned())),
            Err(error) => {
                *document = reload(&before)?;
                Some((Aside::Failed, error.to_string()))
            }
        };
        outcome.push((edit, refusal));
    }
    Ok(outcome)
}

fn changes_of(edit: &Edit) -> &[Vec<u8>] {
    match &edit.fact {
        Fact::ConfigChanged(fact) => &fact.changes,
        _ => &[],
    }
}

fn reload(saved: &[u8]) -> Result<TenantDocument, StoreError> {
    TenantDocument::load(saved).map_err(|error| StoreError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests;
