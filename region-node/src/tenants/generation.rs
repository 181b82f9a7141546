//! Generations: the home region replaces a grown draft by one that says the same without its history.

use shared::{
    fact::{ConfigCompacted, Fact, MAX_BODY_BYTES},
    tenant_document::{MAX_DOCUMENT_BYTES, TenantDocument},
};

use super::{
    draft::{read, refused},
    store,
};
use crate::{app::App, db::TenantTx, http::Problem, outbox};

/// Begins the draft's next generation if it has grown and every region edits this one by now: what is edited meanwhile
/// elsewhere is carried over, and of what came before nothing can come any more. Called at the tenant's home; the caller holds
/// the draft's row.
pub(super) async fn compact_if_grown(app: &App, tx: &mut TenantTx) -> Result<(), Problem> {
    let Some(stored) = store::load_draft(tx).await? else { return Ok(()) };
    let mut document = read(tx.tenant(), &stored)?;
    // A conflict shows until it is settled; who never settles any does not keep a draft from being compacted at last.
    let may_wait = !stored.conflicts.0.is_empty() && stored.document.len() < MAX_DOCUMENT_BYTES / 2;
    if may_wait || !document.is_grown() || !store::is_edited_everywhere(tx, &app.region).await? {
        return Ok(());
    }
    let generation = u32::try_from(stored.generation).expect("generations count from zero") + 1;
    let tenant = tx.tenant().to_string();
    let mut next = TenantDocument::compact(&tenant, generation, &stored.draft).map_err(refused)?;
    let fact = Fact::ConfigCompacted(ConfigCompacted {
        tenant,
        generation,
        base: stored.heads.clone(),
        draft: stored.draft.clone(),
    });
    if fact.to_body().len() > MAX_BODY_BYTES {
        return Ok(());
    }
    store::begin_generation(tx, &stored, &mut next, &app.region).await?;
    outbox::append(tx, &fact).await?;
    Ok(())
}
