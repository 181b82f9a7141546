//! All SQL of tenants, homes and config.

use std::collections::HashMap;

use serde_json::Value;
use shared::{
    fact::{Fact, RegionAnnounced},
    ids::{RegionName, TenantId},
    tenant_config::TenantConfig,
    tenant_document::TenantDocument,
};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use super::{Directory, Home, PublishedConfig, RegionEntry};
use crate::{
    db::{Epoch, TenantTx},
    http::Problem,
    outbox,
};

pub(super) async fn directory(pool: &PgPool) -> sqlx::Result<Directory> {
    let regions = sqlx::query!("SELECT name, base_url, quic_addr, jwks, state FROM regions").fetch_all(pool).await?;
    let homes = sqlx::query!("SELECT tenant_id, name, region, term, n FROM tenant_homes").fetch_all(pool).await?;
    let regions = regions.into_iter().filter_map(|row| {
        let entry = RegionEntry { base_url: row.base_url, quic_addr: row.quic_addr, jwks: row.jwks, state: row.state };
        Some((row.name.parse().ok()?, entry))
    });
    let homes = homes.into_iter().filter_map(|row| {
        let epoch = Epoch { term: row.term, n: row.n };
        Some((row.tenant_id.parse().ok()?, Home { region: row.region.parse().ok()?, epoch, name: row.name }))
    });
    Ok(Directory { regions: regions.collect(), homes: homes.collect() })
}

pub(super) async fn config_versions(pool: &PgPool) -> sqlx::Result<HashMap<TenantId, i64>> {
    let rows =
        sqlx::query!(r#"SELECT tenant_id, max(version) AS "version!" FROM tenant_config_versions GROUP BY tenant_id"#)
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().filter_map(|row| Some((row.tenant_id.parse().ok()?, row.version))).collect())
}

pub(super) async fn latest_config(pool: &PgPool, tenant: &TenantId) -> Result<Option<PublishedConfig>, Problem> {
    let row = sqlx::query!(
        "SELECT version, config FROM tenant_config_versions WHERE tenant_id = $1 ORDER BY version DESC LIMIT 1",
        tenant.as_str()
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    // What was valid when published stays usable: a later release that knows more settings fills in their defaults.
    let config = TenantConfig::from_draft(&row.config).unwrap_or_else(|errors| {
        tracing::error!(tenant = %tenant, version = row.version, ?errors, "published config is not valid here; defaults stand in");
        TenantConfig::default()
    });
    Ok(Some(PublishedConfig { version: row.version, config }))
}

/// Writes this region's entry of the directory and tells the other regions, if it says anything new.
pub async fn announce_region(pool: &PgPool, region: &RegionName, entry: &RegionEntry) -> sqlx::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a region's entry belongs to no tenant")]
    let mut tx = pool.begin().await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('announce_region', 0))").execute(&mut *tx).await?;
    let changed = sqlx::query_scalar!(
        "INSERT INTO regions (name, base_url, quic_addr, jwks, announced_at) VALUES ($1, $2, $3, $4, now())
         ON CONFLICT (name) DO UPDATE SET base_url = excluded.base_url, quic_addr = excluded.quic_addr,
             jwks = excluded.jwks, announced_at = now()
         WHERE (regions.base_url, regions.quic_addr, regions.jwks)
             IS DISTINCT FROM (excluded.base_url, excluded.quic_addr, excluded.jwks)
         RETURNING incarnation",
        region.as_str(),
        entry.base_url,
        entry.quic_addr,
        entry.jwks
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(incarnation) = changed {
        let fact = Fact::RegionAnnounced(RegionAnnounced {
            region: region.to_string(),
            base_url: entry.base_url.clone(),
            quic_addr: entry.quic_addr.clone(),
            jwks: entry.jwks.clone(),
            incarnation: u64::try_from(incarnation).unwrap_or(1),
        });
        outbox::append_control(&mut tx, &fact).await?;
        sqlx::query!("SELECT pg_notify('directory_changed', '')").execute(&mut *tx).await?;
    }
    tx.commit().await
}

pub(super) async fn insert_home(tx: &mut TenantTx, name: &str, region: &RegionName, epoch: Epoch) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    sqlx::query!(
        "INSERT INTO tenant_homes (tenant_id, name, region, term, n, state) VALUES ($1, $2, $3, $4, $5, 'active')",
        tenant.as_str(),
        name,
        region.as_str(),
        epoch.term,
        epoch.n
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!("SELECT pg_notify('directory_changed', '')").execute(tx.conn()).await?;
    Ok(())
}

/// This region's incarnation, which names the author of its edits.
pub(super) async fn incarnation(tx: &mut TenantTx) -> sqlx::Result<u64> {
    let incarnation = sqlx::query_scalar!("SELECT incarnation FROM repl_self").fetch_optional(tx.conn()).await?;
    Ok(incarnation.and_then(|incarnation| incarnation.try_into().ok()).unwrap_or(1))
}

/// The draft as stored.
pub(super) struct StoredDraft {
    pub(super) generation: i32,
    pub(super) heads: Vec<String>,
    pub(super) document: Vec<u8>,
    pub(super) draft: Value,
    pub(super) conflicts: Value,
}

pub(super) async fn load_draft(tx: &mut TenantTx) -> sqlx::Result<Option<StoredDraft>> {
    let tenant = tx.tenant().clone();
    sqlx::query_as!(
        StoredDraft,
        "SELECT generation, heads, document, draft, conflicts FROM tenant_documents WHERE tenant_id = $1",
        tenant.as_str()
    )
    .fetch_optional(tx.conn())
    .await
}

/// Loads the draft and holds its row until the transaction ends: edits of one region follow each other.
pub(super) async fn lock_draft(tx: &mut TenantTx) -> sqlx::Result<Option<StoredDraft>> {
    let tenant = tx.tenant().clone();
    sqlx::query_as!(
        StoredDraft,
        "SELECT generation, heads, document, draft, conflicts FROM tenant_documents WHERE tenant_id = $1 FOR UPDATE",
        tenant.as_str()
    )
    .fetch_optional(tx.conn())
    .await
}

pub(super) async fn save_draft(
    tx: &mut TenantTx,
    generation: i32,
    document: &mut TenantDocument,
) -> Result<(), Problem> {
    let tenant = tx.tenant().clone();
    let conflicts = serde_json::to_value(document.conflicts()).expect("conflicts are plain data");
    sqlx::query!(
        "INSERT INTO tenant_documents (tenant_id, generation, heads, document, draft, conflicts)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (tenant_id) DO UPDATE SET heads = excluded.heads, document = excluded.document,
             draft = excluded.draft, conflicts = excluded.conflicts",
        tenant.as_str(),
        generation,
        &document.heads(),
        document.save(),
        document.to_json(),
        conflicts
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A published version as stored.
pub(super) struct StoredVersion {
    pub(super) version: i64,
    pub(super) config: Value,
    pub(super) published_at: OffsetDateTime,
}

pub(super) async fn latest_version(tx: &mut TenantTx) -> sqlx::Result<Option<StoredVersion>> {
    let tenant = tx.tenant().clone();
    sqlx::query_as!(
        StoredVersion,
        "SELECT version, config, published_at FROM tenant_config_versions
         WHERE tenant_id = $1 ORDER BY version DESC LIMIT 1",
        tenant.as_str()
    )
    .fetch_optional(tx.conn())
    .await
}

pub(super) async fn insert_version(tx: &mut TenantTx, version: &StoredVersion) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    sqlx::query!(
        "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at) VALUES ($1, $2, $3, $4)",
        tenant.as_str(),
        version.version,
        version.config,
        version.published_at
    )
    .execute(tx.conn())
    .await?;
    sqlx::query!("SELECT pg_notify('config_changed', $1)", tenant.as_str()).execute(tx.conn()).await?;
    Ok(())
}

/// Tenants at home in `region` whose draft is not what runs.
pub(super) async fn unpublished(conn: &mut PgConnection, region: &RegionName) -> sqlx::Result<Vec<TenantId>> {
    let tenants = sqlx::query_scalar!(
        "SELECT h.tenant_id FROM tenant_homes h JOIN tenant_documents d USING (tenant_id)
         WHERE h.region = $1 AND d.draft IS DISTINCT FROM
             (SELECT v.config FROM tenant_config_versions v WHERE v.tenant_id = h.tenant_id ORDER BY v.version DESC LIMIT 1)",
        region.as_str()
    )
    .fetch_all(conn)
    .await?;
    Ok(tenants.into_iter().filter_map(|tenant| tenant.parse().ok()).collect())
}
