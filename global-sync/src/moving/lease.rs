//! Homes that are confirmed: a region goes on as the home of a leased tenant only while a majority of all regions says that it is.
//!
//! The leader of a region asks every other one again and again, and writes down what it said and when it was asked. That word
//! holds for the lease's time from then on (`home_lease()`). A command looks whether enough of them hold (`home_is_confirmed`)
//! when it begins, and once more with its commit, in one message to Postgres: a node that stands still in between is told so
//! when it goes on. Reads ask for nothing.
//!
//! Whoever agrees to another home says so from then on, and that one waits [`TAKE_AFTER`] after the last of its majority has
//! agreed. Two majorities have a region in common, and the old home is never asked to agree: so one of those that have agreed
//! is in every majority that confirms the old home, and what it said for that one was asked for before it agreed. When the wait
//! is over that word has run out. What a region has agreed to itself counts against its own voice. A take-over that has come to
//! nothing no longer stands in the old home's way once the region that wanted it says so.
//!
//! No clock is compared with another's, only time that has passed is: at the old home by the clock of Postgres, at the new one by
//! a clock that cannot be put back. They have to run about as fast, also while a machine is paused. Should the old home's be put
//! back, a word from its future does not count, and is deleted; a word that is younger than the lease holds again for less than
//! the lease's time at most, and so the new home waits for two of them. Like every vote, this takes for granted that both sides
//! know the same members: regions that join together while one is cut off are counted by the others only.

use std::{collections::BTreeMap, time::Duration};

use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Answer, Ask, MoveError, Promise};
use crate::{
    store::{Fence, Store, StoreError},
    transport::MoveLink,
};

/// Twice `home_lease()`, since the old home's clock may have been put back once, and five seconds for a commit that was on
/// its way and for clocks of different speed.
pub(super) const TAKE_AFTER: Duration = Duration::from_secs(35);

/// Has the region at the other end confirm the homes in this one.
pub(crate) async fn confirm(store: &Store, fence: &Fence, link: &mut MoveLink) -> Result<(), MoveError> {
    let asked_at = store.time().await?;
    link.say(&Ask::Confirm).await?;
    match link.hear::<Answer>().await? {
        Answer::Confirmed { promised } => {
            Ok(store.note_confirmed(fence, link.region.as_str(), asked_at, promised).await?)
        }
        Answer::Failed { reason } | Answer::Refused { reason } => Err(MoveError::Differs(reason)),
        Answer::Ready
        | Answer::Counted { .. }
        | Answer::Home
        | Answer::Taken
        | Answer::Agreed { .. }
        | Answer::Outbid { .. } => Err(MoveError::Differs("it answered something else than was asked".to_owned())),
    }
}

/// Leased homes, as one region knows them.
pub(crate) struct LeasedHomes {
    /// In all regions.
    pub(crate) all: i64,
    /// In this one, and no majority confirms them.
    pub(crate) unconfirmed: i64,
}

impl Store {
    async fn time(&self) -> Result<OffsetDateTime, StoreError> {
        Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(self.pool()).await?)
    }

    /// How many homes are leased. Those elsewhere count, since they may come here: then they are confirmed from the first
    /// moment on.
    pub(crate) async fn leased_homes(&self) -> Result<LeasedHomes, StoreError> {
        let sql = sqlx::query_as!(
            LeasedHomes,
            r#"SELECT count(*) AS "all!",
                      count(*) FILTER (WHERE h.region = s.region AND NOT home_is_confirmed(h.tenant_id, h.term)) AS "unconfirmed!"
               FROM tenant_homes h CROSS JOIN repl_self s WHERE h.is_leased"#
        );
        Ok(sql.fetch_one(self.pool()).await?)
    }

    /// Whether the tenant wants its home leased, as far as is known here.
    pub(super) async fn is_leased(&self, tenant: &str) -> Result<bool, StoreError> {
        let sql = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM tenant_homes WHERE tenant_id = $1 AND is_leased) AS "is!""#,
            tenant
        );
        Ok(sql.fetch_one(self.pool()).await?)
    }

    /// The regions that are to confirm homes here. What was said in what this region's clock calls the future is forgotten.
    pub(crate) async fn regions_to_ask(&self, fence: &Fence) -> Result<Vec<String>, StoreError> {
        let (mut voters, own) = (self.voters().await?, self.own_region().await?);
        voters.remove(&own);
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!("DELETE FROM home_grants WHERE asked_at > clock_timestamp()").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(voters.into_iter().collect())
    }

    /// Of what was promised only terms that are not known here matter: those that are beat this region's anyway.
    async fn note_confirmed(
        &self,
        fence: &Fence,
        region: &str,
        asked_at: OffsetDateTime,
        promised: BTreeMap<String, Promise>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!(
            "INSERT INTO home_grants (region, asked_at, promised)
             SELECT $1, $2, COALESCE(jsonb_object_agg(p.key, p.value) FILTER (WHERE p.key IS NOT NULL), '{}')
             FROM (SELECT key, value FROM jsonb_each($3) p
                   WHERE NOT EXISTS (SELECT FROM tenant_homes h
                                     WHERE h.tenant_id = p.key AND h.term >= (p.value ->> 'term')::bigint)) p
             ON CONFLICT (region) DO UPDATE SET asked_at = EXCLUDED.asked_at, promised = EXCLUDED.promised",
            region,
            asked_at,
            Json(promised) as _
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Tenants this region knows, or has agreed to, another home of than `region`. Whoever is agreed to hears of it after it is
    /// written down. What this region stands for itself counts while it does.
    pub(super) async fn promised_to_others_than(&self, region: &str) -> Result<BTreeMap<String, Promise>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT DISTINCT ON (tenant_id) tenant_id AS "tenant_id!", term AS "term!", target AS "target!" FROM (
                   SELECT p.tenant_id, p.term, p.target FROM repl_promise p, repl_self s
                   WHERE p.target <> $1
                     AND (p.target <> s.region OR EXISTS (SELECT FROM tenant_moves m WHERE m.tenant_id = p.tenant_id
                                                            AND m.mode = 'failover' AND m.ended_at IS NULL))
                   UNION ALL
                   SELECT tenant_id, term, region FROM tenant_homes WHERE region <> $1 AND term > 1
               ) AS elsewhere ORDER BY tenant_id, term DESC"#,
            region
        );
        let rows = rows.fetch_all(self.pool()).await?;
        Ok(rows.into_iter().map(|row| (row.tenant_id, Promise { term: row.term, target: row.target })).collect())
    }
}
