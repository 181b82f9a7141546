//! Config: edits merge into a tenant's draft, published versions are kept as they are.

use std::collections::{BTreeMap, BTreeSet};

use shared::fact::{ConfigPublished, Fact};
use sqlx::PgConnection;

use super::{
    Objection,
    draft::{Edit, merge},
    rollout::keep_rollout,
};
use crate::{
    protocol::{HomeEpoch, LogId, Origin},
    store::{Aside, SetAside, StoreError, Stored, to_sql},
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
        let epoch = envelope.home_epoch.unwrap_or_default();
        match fact {
            Fact::ConfigChanged(_) | Fact::ConfigCompacted(_) | Fact::ConfigAdopted(_) => {
                let tenant = fact.tenant().unwrap_or_default().to_owned();
                edits.entry(tenant).or_default().push(Edit { log: log.clone(), seq, epoch, fact });
            }
            Fact::ConfigPublished(fact) => {
                let refused = keep_version(connection, &origin, epoch, &fact).await?;
                set_aside.extend(refused.map(|(state, reason)| SetAside::new(seq, state, reason)));
                changed.insert(fact.tenant);
            }
            Fact::ConfigRollout(fact) => {
                let refused = keep_rollout(connection, &origin, epoch, &fact).await?;
                set_aside.extend(refused.map(|(state, reason)| SetAside::new(seq, state, reason)));
                changed.insert(fact.tenant);
            }
            Fact::RegionAnnounced(_)
            | Fact::TenantCreated(_)
            | Fact::TenantMoved(_)
            | Fact::Settlement(_)
            | Fact::Refund(_)
            | Fact::Adjustment(_)
            | Fact::Payout(_)
            | Fact::Wallet(_)
            | Fact::RegionState(_) => set_aside.push(SetAside::new(seq, Aside::Failed, "not a config fact")),
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
) -> Result<Option<Objection>, StoreError> {
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
        return Ok(Some((Aside::Stale, format!("a later home has published version {later}"))));
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
    Ok((!same).then(|| (Aside::Conflict, reason())))
}
