//! Taking in the drafts and versions of a snapshot, from the tables it was put into.

use shared::{fact::ConfigPublished, tenant_document::TenantDocument};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::config::{keep_version, save_document};
use crate::{
    protocol::{HomeEpoch, Origin},
    store::{StoreError, from_sql, region_name},
};

/// Rows that need a look of their own, read at a time.
const SOME: i64 = 100;

/// A draft that is here too.
#[derive(sqlx::FromRow)]
struct Drafts {
    tenant_id: String,
    generation: i32,
    document: Vec<u8>,
    our_generation: i32,
    our_document: Vec<u8>,
}

/// A draft nobody has here is taken as it is; one that is here too is merged, unless either is of an older generation.
pub(crate) async fn take_documents(connection: &mut PgConnection) -> Result<(), StoreError> {
    let mut after = String::new();
    loop {
        let known: Vec<Drafts> = sqlx::query_as(
            "SELECT i.tenant_id, i.generation, i.document, d.generation AS our_generation, d.document AS our_document
             FROM incoming_document i JOIN tenant_documents d USING (tenant_id)
             WHERE i.tenant_id > $1 AND i.heads <> d.heads ORDER BY 1 LIMIT $2 FOR UPDATE OF d",
        )
        .bind(&after)
        .bind(SOME)
        .fetch_all(&mut *connection)
        .await?;
        let Some(last) = known.last() else { break };
        after.clone_from(&last.tenant_id);
        for Drafts { tenant_id: tenant, generation, document, our_generation, our_document } in known {
            if generation < our_generation {
                continue;
            }
            let damaged = |error| StoreError::Damaged(format!("the draft of {tenant}: {error}"));
            let mut merged = TenantDocument::load(&document).map_err(damaged)?;
            if generation == our_generation {
                let mut ours = TenantDocument::load(&our_document).map_err(damaged)?;
                merged.merge(&mut ours).map_err(damaged)?;
            }
            save_document(connection, &tenant, u32::try_from(generation).unwrap_or_default(), &mut merged).await?;
        }
    }
    sqlx::query(
        "INSERT INTO tenant_documents (tenant_id, generation, heads, document, draft, conflicts)
         SELECT tenant_id, generation, heads, document, draft, conflicts FROM incoming_document
         ON CONFLICT (tenant_id) DO NOTHING",
    )
    .execute(connection)
    .await?;
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
