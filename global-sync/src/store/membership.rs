//! A region's way into the mesh and out of it. Where it stands is a row of the directory and a fact to all others, written
//! with one transaction.

use std::collections::BTreeMap;

use shared::{
    fact::{Fact, MemberState, RegionState},
    ids::RegionName,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Fence, Outcome, Store, StoreError, from_sql, operations::finish, tell_directory_changed, to_sql};
use crate::{
    documents::keep_state,
    protocol::{LogId, LogState, Origin},
};

/// Entries of config and ledger a newcomer may lack of what others had by their last word: while they write, it is never
/// without any. Of the directory it may lack none.
const NEARLY_ALL: i64 = 1_000;

/// How far a region's leaving has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It cannot leave, and why.
    Refused(String),
    /// It waits for this.
    Waits(String),
    /// It has left, and every other region knows, has all it wrote, and what it had of others.
    Left,
}

/// How far a region that joins is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joining {
    /// This was said of it.
    Said(MemberState),
    /// It waits for others.
    Waits,
    /// It has joined, or is beyond that.
    Over,
}

impl Store {
    /// Goes on with joining: says that this region joins if nothing was ever said of it, and that it is a member once every
    /// other region has applied that, nothing they have is missing here, and what a snapshot brought was found to hold.
    /// `configured` are regions it has to have met.
    pub async fn join_mesh(
        &self,
        fence: &Fence,
        own: &Origin,
        configured: &[RegionName],
    ) -> Result<Joining, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let said = match state_of(&mut tx, &own.region).await? {
            None => MemberState::Joining,
            Some(MemberState::Joining) if everybody_counts_on(&mut tx, &own.region, configured).await? => {
                MemberState::Active
            }
            Some(MemberState::Joining) => return Ok(Joining::Waits),
            Some(_) => return Ok(Joining::Over),
        };
        say(&mut tx, &own.region, own.incarnation, said).await?;
        tx.commit().await?;
        Ok(Joining::Said(said))
    }

    /// Begins to leave.
    pub async fn drain(&self, fence: &Fence, id: Uuid, own: &Origin) -> Result<Outcome, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let outcome = match state_of(&mut tx, &own.region).await? {
            None | Some(MemberState::Joining | MemberState::Active) => {
                say(&mut tx, &own.region, own.incarnation, MemberState::Draining).await?;
                Ok("no tenant gets its home here any more: move those that have, then leave".to_owned())
            }
            Some(state) => Err(format!("this region is {} already", state.as_str())),
        };
        finish(tx, id, outcome).await
    }

    /// Goes on with leaving. `had` is what was here a while ago, if every other region has been connected since, and so has said
    /// what it has: what others wrote may be nowhere else, since who wrote it is gone, or has come back with an older database.
    pub async fn leave(
        &self,
        fence: &Fence,
        own: &Origin,
        had: Option<&BTreeMap<LogId, LogState>>,
    ) -> Result<Leaving, StoreError> {
        let lacking = match had {
            Some(had) => self.membership().await?.lacking(&own.region, had),
            None => Some("not every other region is connected".to_owned()),
        };
        let mut tx = self.begin_fenced(fence).await?;
        let state = state_of(&mut tx, &own.region).await?;
        if !matches!(state, Some(MemberState::Draining | MemberState::Retired)) {
            return Ok(Leaving::Refused("drain this region first".to_owned()));
        }
        if let Some(why) = homes_in(&mut tx, &own.region).await? {
            return Ok(Leaving::Refused(why));
        }
        if let Some(what) = what_others_lack(&mut tx, &own.region).await? {
            return Ok(Leaving::Waits(what));
        }
        if state == Some(MemberState::Retired) {
            return Ok(Leaving::Left);
        }
        if let Some(what) = lacking {
            return Ok(Leaving::Waits(what));
        }
        say(&mut tx, &own.region, own.incarnation, MemberState::Retired).await?;
        tx.commit().await?;
        Ok(Leaving::Waits("others have not heard that it has left".to_owned()))
    }

    /// Comes back after leaving: a new life of the region begins, which joins, and the lease of the one that left ends.
    pub async fn join_again(&self, fence: &Fence, id: Uuid, own: &Origin) -> Result<Outcome, StoreError> {
        let mut tx = self.pool.begin().await?;
        fence.end(&mut tx).await?;
        let state = state_of(&mut tx, &own.region).await?.unwrap_or(MemberState::Joining);
        if state < MemberState::Draining {
            tx.rollback().await?;
            let refused = Err(format!("this region is {} already", state.as_str()));
            return finish(self.begin_fenced(fence).await?, id, refused).await;
        }
        let next = own.incarnation + 1;
        sqlx::query!("UPDATE repl_self SET incarnation = $1, changed_at = now() WHERE incarnation < $1", to_sql(next)?)
            .execute(&mut *tx)
            .await?;
        say(&mut tx, &own.region, next, MemberState::Joining).await?;
        finish(tx, id, Ok(format!("life {next} of this region joins"))).await
    }

    /// Says that another region is gone for good, unless tenants are at home there.
    pub async fn retire(&self, fence: &Fence, id: Uuid, region: &RegionName) -> Result<Outcome, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let known = sqlx::query!(
            r#"SELECT GREATEST(r.state_incarnation, r.incarnation, m.incarnation) AS "incarnation!"
               FROM regions r FULL JOIN repl_member m ON m.region = r.name WHERE COALESCE(r.name, m.region) = $1"#,
            region.as_str()
        )
        .fetch_optional(&mut *tx)
        .await?;
        let outcome = match (known, homes_in(&mut tx, region).await?) {
            (None, _) => Err(format!("no region {region} is known here")),
            (Some(_), Some(why)) => Err(why),
            (Some(known), None) => {
                say(&mut tx, region, from_sql(known.incarnation), MemberState::Retired).await?;
                Ok(format!("nobody waits for {region} any more"))
            }
        };
        finish(tx, id, outcome).await
    }
}

/// What was said last of where a region stands.
async fn state_of(connection: &mut PgConnection, region: &RegionName) -> Result<Option<MemberState>, StoreError> {
    let state = sqlx::query_scalar!(
        "SELECT state FROM regions WHERE name = $1 AND state_incarnation > 0 FOR UPDATE",
        region.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(state.and_then(|state| MemberState::from_name(&state)))
}

/// Writes where a region stands into the directory, and a fact for all others.
async fn say(
    connection: &mut PgConnection,
    region: &RegionName,
    incarnation: u64,
    state: MemberState,
) -> Result<(), StoreError> {
    let said = RegionState { region: region.to_string(), incarnation, state };
    keep_state(connection, &said).await?;
    let fact = Fact::RegionState(said);
    sqlx::query!(
        "INSERT INTO repl_outbox (id, stream, kind, body) VALUES ($1, $2, $3, $4)",
        Uuid::now_v7(),
        fact.stream().as_str(),
        fact.kind(),
        fact.to_body()
    )
    .execute(&mut *connection)
    .await?;
    tell_directory_changed(connection).await?;
    Ok(())
}

/// Whether every other region has applied what this one has said of itself, in whichever life, and nothing any of them had by
/// its last word is missing here; of a snapshot's rows another must have the same.
async fn everybody_counts_on(
    connection: &mut PgConnection,
    own: &RegionName,
    configured: &[RegionName],
) -> Result<bool, StoreError> {
    let configured: Vec<String> = configured.iter().map(ToString::to_string).collect();
    let counted = sqlx::query_scalar!(
        r#"WITH others AS (
               SELECT region FROM repl_membership WHERE state <> 'retired' AND region <> $1
               UNION SELECT c.region FROM UNNEST($2::text[]) AS c (region)
                     WHERE NOT EXISTS (SELECT FROM repl_membership s WHERE s.region = c.region))
           SELECT NOT EXISTS (SELECT FROM repl_outbox WHERE stream = 'control')
              AND NOT EXISTS (SELECT FROM repl_self WHERE snapshot_of IS NOT NULL)
              AND NOT EXISTS (
                  SELECT FROM others WHERE NOT EXISTS (SELECT FROM repl_member m WHERE m.region = others.region))
              AND NOT EXISTS (
                  SELECT FROM others JOIN repl_cursor c ON c.origin_region = $1 AND c.stream = 'control'
                  LEFT JOIN repl_ack a ON a.peer = others.region AND a.origin_region = c.origin_region
                       AND a.origin_incarnation = c.origin_incarnation AND a.stream = c.stream
                  WHERE COALESCE(a.applied, 0) < c.stored)
              AND NOT EXISTS (
                  SELECT FROM others JOIN repl_ack a ON a.peer = others.region
                  LEFT JOIN repl_apply p USING (origin_region, origin_incarnation, stream)
                  WHERE a.stored > COALESCE(p.applied, 0) + CASE a.stream WHEN 'control' THEN 0 ELSE $3::bigint END)
              AS "counted!""#,
        own.as_str(),
        &configured,
        NEARLY_ALL
    );
    Ok(counted.fetch_one(connection).await?)
}

/// Why a region cannot go: tenants are at home there.
async fn homes_in(connection: &mut PgConnection, region: &RegionName) -> Result<Option<String>, StoreError> {
    let homes = sqlx::query!(
        r#"SELECT count(*) AS "count!", min(tenant_id) AS first FROM tenant_homes WHERE region = $1"#,
        region.as_str()
    )
    .fetch_one(connection)
    .await?;
    Ok(homes.first.map(|first| match homes.count {
        1 => format!("tenant {first} is at home in {region}: move it first"),
        count => format!("{count} tenants are at home in {region}, {first} for one: move them first"),
    }))
}

/// What is not numbered yet, or some other region has not stored.
async fn what_others_lack(connection: &mut PgConnection, own: &RegionName) -> Result<Option<String>, StoreError> {
    let waiting =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM repl_outbox"#).fetch_one(&mut *connection).await?;
    if waiting > 0 {
        return Ok(Some(format!("{waiting} facts are not numbered yet")));
    }
    let lacking = sqlx::query!(
        r#"SELECT s.region AS "region!", sum(c.stored - COALESCE(a.stored, 0))::bigint AS "entries!"
           FROM repl_membership s JOIN repl_cursor c ON c.origin_region = $1
           LEFT JOIN repl_ack a ON a.peer = s.region AND a.origin_region = c.origin_region
                AND a.origin_incarnation = c.origin_incarnation AND a.stream = c.stream
           WHERE s.region <> $1 AND s.state <> 'retired' AND c.stored > COALESCE(a.stored, 0)
           GROUP BY s.region ORDER BY s.region LIMIT 1"#,
        own.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(lacking.map(|row| format!("{} has not stored {} entries of this region", row.region, row.entries)))
}

#[cfg(test)]
mod tests;
