//! Regions and homes: rows that change only to something newer.

use shared::fact::{Fact, HeardLedger, MemberState, RegionAnnounced, RegionState, TenantMoved};
use sqlx::PgConnection;

use super::Objection;
use crate::{
    protocol::Origin,
    store::{Aside, SetAside, StoreError, Stored, tell_directory_changed, to_sql},
};

/// Applies control facts in their order.
pub(crate) async fn apply_control(
    connection: &mut PgConnection,
    entries: &[Stored],
) -> Result<Vec<SetAside>, StoreError> {
    let mut set_aside = Vec::new();
    for stored in entries {
        let refused = match &stored.fact {
            Fact::RegionAnnounced(fact) => announce(connection, &stored.origin, fact).await?,
            Fact::RegionState(fact) => stand(connection, &stored.origin, fact).await?,
            Fact::TenantCreated(fact) => {
                let (tenant, name, home_region) = (fact.tenant.clone(), fact.name.clone(), fact.home_region.clone());
                let (term, n) = (fact.term, fact.n);
                settle_tenant(connection, &TenantMoved { tenant, name, home_region, term, n, heard: None }).await?
            }
            Fact::TenantMoved(fact) => settle_tenant(connection, fact).await?,
            Fact::ConfigChanged(_)
            | Fact::ConfigCompacted(_)
            | Fact::ConfigAdopted(_)
            | Fact::ConfigPublished(_)
            | Fact::ConfigRollout(_)
            | Fact::Settlement(_)
            | Fact::Refund(_)
            | Fact::Adjustment(_)
            | Fact::Payout(_)
            | Fact::Wallet(_) => Some((Aside::Failed, "not a control fact".to_owned())),
        };
        set_aside.extend(refused.map(|(state, reason)| SetAside::new(stored.seq, state, reason)));
    }
    tell_directory_changed(connection).await?;
    Ok(set_aside)
}

/// A region speaks for itself alone, and a later life of it overrules an earlier one.
async fn announce(
    connection: &mut PgConnection,
    origin: &Origin,
    fact: &RegionAnnounced,
) -> Result<Option<Objection>, StoreError> {
    if fact.region != origin.region.as_str() {
        return Ok(Some((Aside::Failed, format!("{origin} cannot announce {}", fact.region))));
    }
    sqlx::query!(
        "INSERT INTO regions (name, base_url, quic_addr, jwks, incarnation) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (name) DO UPDATE
         SET base_url = EXCLUDED.base_url, quic_addr = EXCLUDED.quic_addr, jwks = EXCLUDED.jwks,
             incarnation = EXCLUDED.incarnation, announced_at = now()
         WHERE regions.incarnation <= EXCLUDED.incarnation",
        fact.region,
        fact.base_url,
        fact.quic_addr,
        fact.jwks,
        to_sql(origin.incarnation)?
    )
    .execute(connection)
    .await?;
    Ok(None)
}

/// A region speaks for itself, and any region for one that is gone: its operators were told so.
async fn stand(
    connection: &mut PgConnection,
    origin: &Origin,
    fact: &RegionState,
) -> Result<Option<Objection>, StoreError> {
    if fact.region != origin.region.as_str() && fact.state != MemberState::Retired {
        let reason = format!("{origin} cannot say that {} is {}", fact.region, fact.state.as_str());
        return Ok(Some((Aside::Failed, reason)));
    }
    keep_state(connection, fact).await?;
    Ok(None)
}

/// Keeps where a region stands, unless what is known is of a later life, or later in the same one.
pub(crate) async fn keep_state(connection: &mut PgConnection, fact: &RegionState) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO regions (name, base_url, quic_addr, state, state_incarnation) VALUES ($1, '', '', $2, $3)
         ON CONFLICT (name) DO UPDATE SET state = EXCLUDED.state, state_incarnation = EXCLUDED.state_incarnation
         WHERE (regions.state_incarnation, member_rank(regions.state))
             < (EXCLUDED.state_incarnation, member_rank(EXCLUDED.state))",
        fact.region,
        fact.state.as_str(),
        to_sql(fact.incarnation)?
    )
    .execute(&mut *connection)
    .await?;
    if fact.state == MemberState::Retired {
        // Nobody compares anything with it any more.
        sqlx::query("DELETE FROM repl_differing WHERE peer = $1").bind(&fact.region).execute(&mut *connection).await?;
        sqlx::query("DELETE FROM repl_diverged WHERE peer = $1").bind(&fact.region).execute(connection).await?;
    }
    Ok(())
}

/// A greater (term, n) wins. Two regions that create one tenant at the same moment both begin at (1, 0): then the
/// smaller region name wins everywhere, and the loser's fact is shown as a conflict.
async fn settle_tenant(connection: &mut PgConnection, fact: &TenantMoved) -> Result<Option<Objection>, StoreError> {
    sqlx::query!(
        r#"INSERT INTO tenant_homes (tenant_id, name, region, term, n) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (tenant_id) DO UPDATE
           SET name = EXCLUDED.name, region = EXCLUDED.region, term = EXCLUDED.term, n = EXCLUDED.n, state = 'active'
           WHERE (tenant_homes.term, tenant_homes.n) < (EXCLUDED.term, EXCLUDED.n)
              OR ((tenant_homes.term, tenant_homes.n) = (EXCLUDED.term, EXCLUDED.n)
                  AND tenant_homes.region COLLATE "C" > EXCLUDED.region COLLATE "C")"#,
        fact.tenant,
        fact.name,
        fact.home_region,
        to_sql(fact.term)?,
        to_sql(fact.n)?
    )
    .execute(&mut *connection)
    .await?;
    if let Some(heard) = &fact.heard {
        keep_takeover(connection, &fact.tenant, fact.term, &fact.home_region, heard).await?;
    }
    let home = sqlx::query!("SELECT region, term, n FROM tenant_homes WHERE tenant_id = $1", fact.tenant)
        .fetch_one(connection)
        .await?;
    let same_epoch = home.term == to_sql(fact.term)? && home.n == to_sql(fact.n)?;
    Ok((same_epoch && home.region != fact.home_region)
        .then(|| (Aside::Conflict, format!("{} is at home in {} since the same epoch", fact.tenant, home.region))))
}

/// Keeps what whoever took a home by force had heard of: of two who say so of one term, what is smaller, as of two homes.
pub(crate) async fn keep_takeover(
    connection: &mut PgConnection,
    tenant: &str,
    term: u64,
    region: &str,
    heard: &HeardLedger,
) -> Result<(), StoreError> {
    sqlx::query!(
        r#"INSERT INTO home_takeovers (tenant_id, term, region, heard) VALUES ($1, $2, $3, $4)
           ON CONFLICT (tenant_id, term) DO UPDATE SET region = EXCLUDED.region, heard = EXCLUDED.heard
           WHERE takeover_rank(home_takeovers) > takeover_rank(EXCLUDED)"#,
        tenant,
        to_sql(term)?,
        region,
        sqlx::types::Json(heard) as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
