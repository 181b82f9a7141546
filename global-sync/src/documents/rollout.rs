//! Which published version runs where: the decision of the later tenure stays, within one that of the greater number.

use shared::fact::ConfigRollout;
use sqlx::PgConnection;

use super::Objection;
use crate::{
    protocol::{HomeEpoch, Origin},
    store::{Aside, StoreError, to_sql},
};

/// Puts in decisions, each unless a later one is there. Which one stays does not depend on the order they come in. A region
/// restored from a backup may give a number again: then the later decision stays, by that region's clock.
macro_rules! keep {
    ($decisions:literal) => {
        concat!(
            "INSERT INTO tenant_config_rollouts AS known
                 (tenant_id, region, number, home_term, home_n, pinned, stable, canary_region, canary_version, decided_at) ",
            $decisions,
            " ON CONFLICT (tenant_id, region) DO UPDATE
              SET number = EXCLUDED.number, home_term = EXCLUDED.home_term, home_n = EXCLUDED.home_n,
                  pinned = EXCLUDED.pinned, stable = EXCLUDED.stable, canary_region = EXCLUDED.canary_region,
                  canary_version = EXCLUDED.canary_version, decided_at = EXCLUDED.decided_at
              WHERE (known.home_term, known.home_n, known.number, known.decided_at, config_rollout_hash(known))
                  < (EXCLUDED.home_term, EXCLUDED.home_n, EXCLUDED.number, EXCLUDED.decided_at,
                     config_rollout_hash(EXCLUDED))"
        )
    };
}

/// Takes in a decision; says why if it is none.
pub(crate) async fn keep_rollout(
    connection: &mut PgConnection,
    origin: &Origin,
    epoch: HomeEpoch,
    fact: &ConfigRollout,
) -> Result<Option<Objection>, StoreError> {
    if fact.region.as_deref().is_some_and(|region| region != origin.region.as_str()) {
        return Ok(Some((Aside::Failed, "a region decides for itself alone".to_owned())));
    }
    // What a region decides for itself no home has a say in.
    let epoch = if fact.region.is_some() { HomeEpoch { term: 0, n: 0 } } else { epoch };
    sqlx::query(keep!("VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"))
        .bind(&fact.tenant)
        .bind(fact.region.as_deref().unwrap_or_default())
        .bind(to_sql(fact.number)?)
        .bind(to_sql(epoch.term)?)
        .bind(to_sql(epoch.n)?)
        .bind(fact.pinned.map(to_sql).transpose()?)
        .bind(fact.stable.map(to_sql).transpose()?)
        .bind(&fact.canary_region)
        .bind(fact.canary_version.map(to_sql).transpose()?)
        .bind(fact.decided_at)
        .execute(connection)
        .await?;
    Ok(None)
}

/// Takes in the decisions of a snapshot.
pub(crate) async fn take_rollouts(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query(keep!(
        "SELECT tenant_id, region, number, home_term, home_n, pinned, stable, canary_region, canary_version, decided_at
         FROM incoming_rollout"
    ))
    .execute(connection)
    .await?;
    Ok(())
}
