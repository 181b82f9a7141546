//! Homes that are confirmed: a region goes on as the home of a leased tenant only while a majority of all regions says that it is.
//!
//! The leader of a region asks every other one again and again, and writes down what it said and when it was asked. That word
//! holds for the lease's time from then on (`home_lease()`); region-node looks whether enough of them hold whenever a command
//! begins. Whoever agrees to another home says so from then on, and the other home waits for the lease's time after the last
//! of its majority has agreed. As two majorities have a region in common, the words for the old home have run out by then. No
//! clock is compared with another's; only their rates are trusted.

use std::{collections::BTreeMap, time::Duration};

use sqlx::types::Json;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{Answer, Ask, MoveError};
use crate::{
    store::{Fence, Store, StoreError},
    transport::MoveLink,
};

/// A command that began while the home was confirmed has ended by then; what takes longer is booked late.
pub(super) const COMMANDS_END_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Has the region at the other end confirm the homes in this one.
pub(crate) async fn confirm(store: &Store, fence: &Fence, link: &mut MoveLink) -> Result<(), MoveError> {
    let asked_at = store.time().await?;
    let asking = async {
        link.say(&Ask::Confirm).await?;
        link.hear::<Answer>().await
    };
    let answer = timeout(ANSWER_WITHIN, asking).await.map_err(|_| MoveError::TooSlow("it does not answer"))??;
    match answer {
        Answer::Confirmed { promised } => {
            Ok(store.note_confirmed(fence, link.region.as_str(), asked_at, promised).await?)
        }
        Answer::Failed { reason } | Answer::Refused { reason } => Err(MoveError::Differs(reason)),
        Answer::Ready
        | Answer::Counted { .. }
        | Answer::Home
        | Answer::Taken
        | Answer::Agreed
        | Answer::Outbid { .. } => Err(MoveError::Differs("it answered something else than was asked".to_owned())),
    }
}

impl Store {
    async fn time(&self) -> Result<OffsetDateTime, StoreError> {
        Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(self.pool()).await?)
    }

    /// Whether any home is leased, here or where it may come here from: then it is confirmed here from the first moment on.
    pub(crate) async fn has_leased_homes(&self) -> Result<bool, StoreError> {
        let sql = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM tenant_homes WHERE is_leased) AS "has!""#);
        Ok(sql.fetch_one(self.pool()).await?)
    }

    /// The lease's time, if the tenant wants its home leased.
    pub(super) async fn lease_of(&self, tenant: &str) -> Result<Option<Duration>, StoreError> {
        let sql = sqlx::query_scalar!(
            r#"SELECT extract(epoch FROM home_lease())::float8 AS "seconds!" FROM tenant_homes
               WHERE tenant_id = $1 AND is_leased"#,
            tenant
        );
        Ok(sql.fetch_optional(self.pool()).await?.map(Duration::from_secs_f64))
    }

    /// The regions that are to confirm homes here.
    pub(crate) async fn other_voters(&self) -> Result<Vec<String>, StoreError> {
        let (mut voters, own) = (self.voters().await?, self.own_region().await?);
        voters.remove(&own);
        Ok(voters.into_iter().collect())
    }

    async fn note_confirmed(
        &self,
        fence: &Fence,
        region: &str,
        asked_at: OffsetDateTime,
        promised: BTreeMap<String, i64>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!(
            "INSERT INTO home_grants (region, asked_at, promised) VALUES ($1, $2, $3)
             ON CONFLICT (region) DO UPDATE SET asked_at = EXCLUDED.asked_at, promised = EXCLUDED.promised",
            region,
            asked_at,
            Json(promised) as _
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Tenants this region knows, or has agreed to, another home of than `region`, and from which term on. Whoever is agreed to
    /// hears of it after it is written down. What this region stands for itself counts while it does.
    pub(super) async fn promised_to_others_than(&self, region: &str) -> Result<BTreeMap<String, i64>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT tenant_id AS "tenant_id!", max(term) AS "term!" FROM (
                   SELECT p.tenant_id, p.term FROM repl_promise p, repl_self s
                   WHERE p.target <> $1
                     AND (p.target <> s.region OR EXISTS (SELECT FROM tenant_moves m WHERE m.tenant_id = p.tenant_id
                                                            AND m.mode = 'failover' AND m.ended_at IS NULL))
                   UNION ALL
                   SELECT tenant_id, term FROM tenant_homes WHERE region <> $1 AND term > 1
               ) AS elsewhere GROUP BY tenant_id"#,
            region
        );
        Ok(rows.fetch_all(self.pool()).await?.into_iter().map(|row| (row.tenant_id, row.term)).collect())
    }
}
