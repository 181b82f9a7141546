//! All SQL of tenants, homes and config.

use std::sync::Arc;

use serde_json::Value;
use shared::{
    fact::{ConfigRollout, Fact, RegionAnnounced},
    ids::{RegionName, TenantId},
    tenant_config::TenantConfig,
    tenant_document::{Conflict, TenantDocument},
};
use sqlx::{PgConnection, PgPool, types::Json};
use time::OffsetDateTime;

use super::{
    Directory, Home, PublishedConfig, RefusedVersion, RegionEntry,
    published::InForce,
    rollout::{Canary, Decision},
};
use crate::{
    db::{Epoch, SystemTx, TenantTx},
    http::Problem,
    outbox,
};

pub(super) async fn directory(tx: &mut SystemTx, here: &RegionName) -> sqlx::Result<Directory> {
    let regions =
        sqlx::query!("SELECT name, base_url, quic_addr, jwks, state FROM regions").fetch_all(tx.conn()).await?;
    let homes = sqlx::query!(
        r#"SELECT h.tenant_id, h.name, h.region, h.term, h.n, h.state,
                  (SELECT max(v.version) FROM tenant_config_versions v
                   WHERE v.tenant_id = h.tenant_id AND v.version <= config_limit(h.tenant_id, $1)) AS config_version
           FROM tenant_homes h"#,
        here.as_str()
    )
    .fetch_all(tx.conn())
    .await?;
    let regions = regions.into_iter().filter_map(|row| {
        let entry = RegionEntry { base_url: row.base_url, quic_addr: row.quic_addr, jwks: row.jwks, state: row.state };
        Some((row.name.parse().ok()?, entry))
    });
    let homes = homes.into_iter().filter_map(|row| {
        let epoch = Epoch { term: row.term, n: row.n };
        let (region, config_version) = (row.region.parse().ok()?, row.config_version);
        Some((row.tenant_id.parse().ok()?, Home { region, epoch, name: row.name, state: row.state, config_version }))
    });
    Ok(Directory { regions: regions.collect(), homes: homes.collect() })
}

/// Published versions looked through for one this release can read.
const VERSIONS_LOOKED_THROUGH: usize = 20;

/// The version that is due in a region.
pub(super) async fn version_due(tx: &mut TenantTx, region: &RegionName) -> sqlx::Result<Option<i64>> {
    let tenant = tx.tenant().clone();
    sqlx::query_scalar!(
        "SELECT max(version) FROM tenant_config_versions WHERE tenant_id = $1 AND version <= config_limit($1, $2)",
        tenant.as_str(),
        region.as_str()
    )
    .fetch_one(tx.conn())
    .await
}

/// What runs in a region: the version that is due there, or the newest before it that can be read here. None before any
/// version has arrived.
pub(super) async fn config_in_force(tx: &mut TenantTx, region: &RegionName) -> sqlx::Result<Option<InForce>> {
    let tenant = tx.tenant().clone();
    let Some(due) = version_due(tx, region).await? else { return Ok(None) };
    let mut in_force = InForce { due, runs: None, refused: Vec::new() };
    let mut next = due;
    for _ in 0..VERSIONS_LOOKED_THROUGH {
        let row = sqlx::query!(
            "SELECT version, config FROM tenant_config_versions WHERE tenant_id = $1 AND version <= $2
             ORDER BY version DESC LIMIT 1",
            tenant.as_str(),
            next
        )
        .fetch_optional(tx.conn())
        .await?;
        let Some(row) = row else { break };
        let version = row.version;
        match TenantConfig::from_published(&row.config) {
            Ok(config) => {
                in_force.runs = Some(Arc::new(PublishedConfig { version, config }));
                break;
            }
            Err(errors) => in_force.refused.push(RefusedVersion::new(version, errors)),
        }
        next = version - 1;
    }
    Ok(Some(in_force))
}

/// Whether a life of this region has begun that its entry of the directory says nothing of.
pub async fn begins_anew(pool: &PgPool) -> sqlx::Result<bool> {
    let begins = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM repl_self s JOIN regions r ON r.name = s.region
                          WHERE r.incarnation < s.incarnation) AS "begins!""#
    );
    begins.fetch_one(pool).await
}

/// Writes this region's entry of the directory and tells the other regions, if it says anything new, or says it for a new life.
pub async fn announce_region(pool: &PgPool, region: &RegionName, entry: &RegionEntry) -> sqlx::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a region's entry belongs to no tenant")]
    let mut tx = pool.begin().await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('announce_region', 0))").execute(&mut *tx).await?;
    let changed = sqlx::query_scalar!(
        "INSERT INTO regions (name, base_url, quic_addr, jwks, incarnation, announced_at)
         VALUES ($1, $2, $3, $4, COALESCE((SELECT incarnation FROM repl_self), 1), now())
         ON CONFLICT (name) DO UPDATE SET base_url = excluded.base_url, quic_addr = excluded.quic_addr,
             jwks = excluded.jwks, incarnation = GREATEST(regions.incarnation, excluded.incarnation), announced_at = now()
         WHERE (regions.base_url, regions.quic_addr, regions.jwks)
                 IS DISTINCT FROM (excluded.base_url, excluded.quic_addr, excluded.jwks)
            OR regions.incarnation < excluded.incarnation
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

/// What tells the database that runs now from every copy of it, whether its folder was put back or its rows: the author of this
/// region's edits.
pub(super) async fn database_run(tx: &mut TenantTx) -> sqlx::Result<String> {
    let run = sqlx::query_scalar!(
        r#"SELECT concat_ws(' ', (SELECT incarnation FROM repl_self), extract(epoch FROM pg_postmaster_start_time()),
                            'tenant_documents'::regclass::oid) AS "run!""#
    );
    run.fetch_one(tx.conn()).await
}

/// The draft as stored.
pub(super) struct StoredDraft {
    pub(super) generation: i32,
    pub(super) heads: Vec<String>,
    pub(super) document: Vec<u8>,
    pub(super) draft: Value,
    pub(super) conflicts: Json<Vec<Conflict>>,
}

pub(super) async fn load_draft(tx: &mut TenantTx) -> sqlx::Result<Option<StoredDraft>> {
    let tenant = tx.tenant().clone();
    sqlx::query_as!(
        StoredDraft,
        r#"SELECT generation, heads, document, draft, conflicts AS "conflicts: Json<Vec<Conflict>>"
           FROM tenant_documents WHERE tenant_id = $1"#,
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
        r#"SELECT generation, heads, document, draft, conflicts AS "conflicts: Json<Vec<Conflict>>"
           FROM tenant_documents WHERE tenant_id = $1 FOR UPDATE"#,
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

/// Whether every region there is edits the generation of the draft that this one edits.
pub(super) async fn is_edited_everywhere(tx: &mut TenantTx, here: &RegionName) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let everywhere = sqlx::query_scalar!(
        r#"SELECT NOT EXISTS (SELECT FROM regions r
                              WHERE r.state <> 'retired' AND r.name <> $2
                                AND COALESCE((d.adopted->>r.name)::integer, 0) < d.generation) AS "everywhere!"
           FROM tenant_documents d WHERE d.tenant_id = $1"#,
        tenant.as_str(),
        here.as_str()
    );
    everywhere.fetch_one(tx.conn()).await
}

/// Replaces the draft by its next generation.
pub(super) async fn begin_generation(
    tx: &mut TenantTx,
    before: &StoredDraft,
    next: &mut TenantDocument,
    here: &RegionName,
) -> sqlx::Result<()> {
    let (tenant, epoch) = (tx.tenant().clone(), tx.epoch());
    sqlx::query!(
        "UPDATE tenant_documents
         SET generation = $2, heads = $3, document = $4, draft = $5, conflicts = '[]', previous = $6, base = $7,
             made_term = $8, made_n = $9, adopted = adopted || jsonb_build_object($10::text, $2::integer)
         WHERE tenant_id = $1",
        tenant.as_str(),
        before.generation + 1,
        &next.heads(),
        next.save(),
        next.to_json(),
        before.document,
        &before.heads,
        epoch.term,
        epoch.n,
        here.as_str()
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
    version_up_to(tx, i64::MAX).await
}

/// The newest version up to a number.
pub(super) async fn version_up_to(tx: &mut TenantTx, version: i64) -> sqlx::Result<Option<StoredVersion>> {
    let tenant = tx.tenant().clone();
    sqlx::query_as!(
        StoredVersion,
        "SELECT version, config, published_at FROM tenant_config_versions
         WHERE tenant_id = $1 AND version <= $2 ORDER BY version DESC LIMIT 1",
        tenant.as_str(),
        version
    )
    .fetch_optional(tx.conn())
    .await
}

/// The numbers of the newest versions before one, and when they were published.
pub(super) async fn versions_before(
    tx: &mut TenantTx,
    before: i64,
    limit: i64,
) -> sqlx::Result<Vec<(i64, OffsetDateTime)>> {
    let tenant = tx.tenant().clone();
    let rows = sqlx::query!(
        "SELECT version, published_at FROM tenant_config_versions
         WHERE tenant_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3",
        tenant.as_str(),
        before,
        limit
    )
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().map(|row| (row.version, row.published_at)).collect())
}

/// Whether the tenant's newest version is of an earlier home than that of `epoch`. The first version is of none: it is
/// published where the tenant is made; one of this home has its tenure once it is numbered.
pub(super) async fn is_published_by_earlier_home(tx: &mut TenantTx, epoch: Epoch) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let newest = sqlx::query!(
        "SELECT home_term, home_n FROM tenant_config_versions WHERE tenant_id = $1 AND home_term > 0
         ORDER BY version DESC LIMIT 1",
        tenant.as_str()
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(newest.is_some_and(|row| Epoch { term: row.home_term, n: row.home_n } < epoch))
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

/// What is decided about all regions, or about one.
pub(super) async fn decision(tx: &mut TenantTx, region: Option<&RegionName>) -> sqlx::Result<Decision> {
    let tenant = tx.tenant().clone();
    let row = sqlx::query!(
        "SELECT number, home_term, home_n, pinned, stable, canary_region, canary_version FROM tenant_config_rollouts
         WHERE tenant_id = $1 AND region = $2",
        tenant.as_str(),
        region.map_or("", RegionName::as_str)
    )
    .fetch_optional(tx.conn())
    .await?;
    let Some(row) = row else { return Ok(Decision::default()) };
    let canary = row.canary_region.zip(row.canary_version);
    Ok(Decision {
        number: row.number,
        epoch: Epoch { term: row.home_term, n: row.home_n },
        pinned: row.pinned,
        stable: row.stable,
        canary: canary.map(|(region, version)| Canary { region, version }),
    })
}

/// Saves a decision and tells the other regions and the nodes of this one.
pub(super) async fn decide(
    tx: &mut TenantTx,
    region: Option<&RegionName>,
    decided: &Decision,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let tenant = tx.tenant().clone();
    let (canary_region, canary_version) =
        decided.canary.as_ref().map(|canary| (canary.region.as_str(), canary.version)).unzip();
    sqlx::query!(
        "INSERT INTO tenant_config_rollouts
             (tenant_id, region, number, home_term, home_n, pinned, stable, canary_region, canary_version, decided_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (tenant_id, region) DO UPDATE
         SET number = excluded.number, home_term = excluded.home_term, home_n = excluded.home_n,
             pinned = excluded.pinned, stable = excluded.stable, canary_region = excluded.canary_region,
             canary_version = excluded.canary_version, decided_at = excluded.decided_at",
        tenant.as_str(),
        region.map_or("", RegionName::as_str),
        decided.number,
        decided.epoch.term,
        decided.epoch.n,
        decided.pinned,
        decided.stable,
        canary_region,
        canary_version,
        now
    )
    .execute(tx.conn())
    .await?;
    let version = |version: i64| u64::try_from(version).expect("versions count from one");
    let fact = Fact::ConfigRollout(ConfigRollout {
        tenant: tenant.to_string(),
        region: region.map(ToString::to_string),
        number: version(decided.number),
        pinned: decided.pinned.map(version),
        stable: decided.stable.map(version),
        canary_region: canary_region.map(str::to_owned),
        canary_version: canary_version.map(version),
        decided_at: now,
    });
    outbox::append(tx, &fact).await?;
    sqlx::query!("SELECT pg_notify('config_changed', $1)", tenant.as_str()).execute(tx.conn()).await?;
    Ok(())
}

/// Tenants at home in `region` whose draft is not what runs, and the draft's heads.
pub(super) async fn unpublished(
    conn: &mut PgConnection,
    region: &RegionName,
) -> sqlx::Result<Vec<(TenantId, Vec<String>)>> {
    let drafts = sqlx::query!(
        "SELECT h.tenant_id, d.heads FROM tenant_homes h JOIN tenant_documents d USING (tenant_id)
         WHERE h.region = $1 AND d.draft IS DISTINCT FROM
             (SELECT v.config FROM tenant_config_versions v WHERE v.tenant_id = h.tenant_id ORDER BY v.version DESC LIMIT 1)",
        region.as_str()
    )
    .fetch_all(conn)
    .await?;
    Ok(drafts.into_iter().filter_map(|draft| Some((draft.tenant_id.parse().ok()?, draft.heads))).collect())
}
