//! Taking in the drafts and versions of a snapshot, from the tables it was put into.

use std::collections::BTreeSet;

use shared::fact::ConfigPublished;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    config::keep_version,
    draft::{Draft, DraftRow, merge},
};
use crate::{
    protocol::{HomeEpoch, Origin},
    store::{StoreError, from_sql, region_name},
};

/// Rows that need a look of their own, read at a time.
const SOME: i64 = 100;

/// A draft nobody has here is taken as it is; one that is here too is merged, or gives way if it is damaged. Who edits another
/// generation from now on says so. Returns the tenants whose drafts gave way: what the logs here have for them is to be merged
/// again.
pub(crate) async fn take_documents(connection: &mut PgConnection) -> Result<BTreeSet<String>, StoreError> {
    let mut replaced = BTreeSet::new();
    let mut after = String::new();
    loop {
        let theirs: Vec<DraftRow> = sqlx::query_as(
            "SELECT i.* FROM incoming_document i JOIN tenant_documents d USING (tenant_id)
             WHERE i.tenant_id > $1
               AND (i.generation, i.heads, i.document, i.previous, i.adopted)
                   IS DISTINCT FROM (d.generation, d.heads, d.document, d.previous, d.adopted)
             ORDER BY i.tenant_id LIMIT $2",
        )
        .bind(&after)
        .bind(SOME)
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = theirs.last() else { break };
        after.clone_from(&last.tenant_id);
        for row in theirs {
            let tenant = row.tenant_id.clone();
            let damaged = |error| StoreError::Damaged(format!("the draft of {tenant}: {error}"));
            let theirs = Draft::read(row)?;
            let draft = match Draft::lock(connection, &tenant).await {
                Ok(mut draft) => {
                    if draft.take_in(theirs).map_err(damaged)? {
                        draft.adopt(connection).await?;
                    }
                    draft
                }
                Err(StoreError::Damaged(error)) => {
                    tracing::error!(tenant, "damaged here, and replaced by what the snapshot brings: {error}");
                    let mut draft = theirs;
                    draft.adopt(connection).await?;
                    replaced.insert(tenant);
                    draft
                }
                Err(error) => return Err(error),
            };
            draft.save(connection).await?;
        }
    }
    let new: Vec<String> = sqlx::query_scalar(
        "WITH new AS (
             INSERT INTO tenant_documents (tenant_id, generation, heads, document, draft, conflicts, previous, base,
                                           made_term, made_n, adopted)
             SELECT tenant_id, generation, heads, document, draft, conflicts, previous, base, made_term, made_n, adopted
             FROM incoming_document ON CONFLICT (tenant_id) DO NOTHING RETURNING tenant_id, generation)
         SELECT tenant_id FROM new WHERE generation > 0",
    )
    .fetch_all(&mut *connection)
    .await?;
    for tenant in new {
        let mut draft = Draft::lock(connection, &tenant).await?;
        draft.adopt(connection).await?;
        draft.save(connection).await?;
    }
    Ok(replaced)
}

/// Merges what waits for a tenant's draft.
pub(crate) async fn merge_waiting(connection: &mut PgConnection, tenant: &str) -> Result<(), StoreError> {
    merge(connection, tenant, Vec::new()).await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Version {
    tenant_id: String,
    version: i64,
    config: serde_json::Value,
    published_at: OffsetDateTime,
    home_term: i64,
    home_n: i64,
    origin_region: String,
    origin_incarnation: i64,
}

/// Versions of tenants nobody has published for here are taken as they are; the others one by one, by the same rule as
/// when their facts are applied.
pub(crate) async fn take_versions(connection: &mut PgConnection) -> Result<(), StoreError> {
    let mut after = (String::new(), 0);
    loop {
        let known: Vec<Version> = sqlx::query_as(
            "SELECT i.* FROM incoming_version i
             WHERE (i.tenant_id, i.version) > ($1, $2)
               AND EXISTS (SELECT 1 FROM tenant_config_versions v WHERE v.tenant_id = i.tenant_id)
               AND NOT EXISTS (SELECT 1 FROM tenant_config_versions v
                               WHERE (v.tenant_id, v.version, v.home_term, v.home_n, v.config)
                                   = (i.tenant_id, i.version, i.home_term, i.home_n, i.config))
             ORDER BY i.tenant_id, i.version LIMIT $3",
        )
        .bind(&after.0)
        .bind(after.1)
        .bind(SOME)
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = known.last() else { break };
        after = (last.tenant_id.clone(), last.version);
        for row in known {
            let origin =
                Origin { region: region_name(&row.origin_region)?, incarnation: from_sql(row.origin_incarnation) };
            let epoch = HomeEpoch { term: from_sql(row.home_term), n: from_sql(row.home_n) };
            let fact = ConfigPublished {
                tenant: row.tenant_id,
                version: from_sql(row.version),
                config: row.config,
                published_at: row.published_at,
            };
            keep_version(connection, &origin, epoch, &fact).await?;
        }
    }
    sqlx::query(
        "INSERT INTO tenant_config_versions
             (tenant_id, version, config, published_at, home_term, home_n, origin_region, origin_incarnation)
         SELECT tenant_id, version, config, published_at, home_term, home_n, origin_region, origin_incarnation
         FROM incoming_version i
         WHERE NOT EXISTS (SELECT 1 FROM tenant_config_versions v WHERE v.tenant_id = i.tenant_id)",
    )
    .execute(connection)
    .await?;
    Ok(())
}
