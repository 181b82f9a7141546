//! The new home takes a tenant over whose old home is gone.
//!
//! A majority of all regions has to agree to it, for a term that is greater than any before, and the old home has no voice.
//! Who has agreed never agrees to another for that term or an earlier one, so that of two regions one alone is the home of
//! a term, and a later term beats every earlier one wherever both are heard of. What was not replicated stays at the old home.
//! A region that was put back from a backup has forgotten what it agreed to since, and agrees to nothing while that may be used.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use shared::fact::{Fact, HeardLedger, TenantMoved};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use super::{
    ABSTAINS, Answer, Ask, Move, MoveError, Promise,
    arrival::{erase_arrived, replace_attempt},
    lease::TAKE_AFTER,
    record::{hold_home, tell_moved},
};
use crate::{
    documents::keep_takeover,
    store::{Fence, Store, StoreError, from_sql, tell_directory_changed},
    transport::MoveLink,
};

/// A region that does not answer for so long has not agreed.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Two regions that want the same tenant may keep each other from a majority; each stands again, soon, so often.
const ROUNDS: usize = 8;
/// Left to chance, so that one of the two is twice as fast once.
const NEXT_ROUND_AFTER_MS: std::ops::Range<u64> = 50..1_000;

/// That a majority agrees to this region as a tenant's home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Majority {
    term: i64,
    regions: usize,
    /// Whoever has agreed no longer confirms the old home, and what it was told before has run out by then.
    pub(crate) may_take_at: Instant,
}

/// Has a majority agree; `call` reaches a region.
pub(crate) async fn win<L>(
    store: &Store,
    fence: &Fence,
    moving: &Move,
    call: impl Fn(String) -> L,
) -> Result<Majority, MoveError>
where
    L: Future<Output = anyhow::Result<MoveLink>>,
{
    let mut voters = store.voters().await?;
    voters.extend([moving.from.clone(), moving.to.clone()]);
    let needed = voters.len() / 2 + 1;
    let others: Vec<_> = voters.iter().filter(|name| **name != moving.from && **name != moving.to).collect();
    if others.len() + 1 < needed {
        let (all, from) = (voters.len(), &moving.from);
        let reason = format!("{needed} of {all} regions have to agree, and without {from} there are not so many");
        let joining = store.joining().await?;
        if !joining.is_empty() {
            let why = format!("{reason} while {} only joins", joining.join(", "));
            return Err(MoveError::NoMajority { agreed: 1, needed, why });
        }
        store.refuse_move(fence, moving, &reason).await?;
        return Err(MoveError::Refused(reason));
    }
    if store.abstains().await? {
        let why = format!("{}: {ABSTAINS}", moving.to);
        return Err(MoveError::NoMajority { agreed: 0, needed, why });
    }
    let mut rounds = 0;
    loop {
        rounds += 1;
        let Some(term) = store.stand(fence, moving).await? else {
            let reason = format!("{} is not the home of {} any more", moving.from, moving.tenant);
            store.refuse_move(fence, moving, &reason).await?;
            return Err(MoveError::Refused(reason));
        };
        let mut asked = Vec::with_capacity(others.len());
        for region in &others {
            asked.push(ask(region, call((*region).clone()), moving, term));
        }
        let (mut agreed, mut leased, mut outbid, mut refusals) = (1, false, None, Vec::new());
        for answer in join_all(asked).await {
            match answer {
                Ok(is_leased) => {
                    agreed += 1;
                    leased |= is_leased;
                }
                Err(Refusal { why, term }) => {
                    outbid = outbid.max(term);
                    refusals.push(why);
                }
            }
        }
        if agreed >= needed {
            // Any of them may be the first to have heard that the tenant wants its home leased.
            let wait = if leased || store.is_leased(&moving.tenant).await? { TAKE_AFTER } else { Duration::ZERO };
            return Ok(Majority { term, regions: agreed, may_take_at: Instant::now() + wait });
        }
        match outbid.filter(|_| rounds < ROUNDS) {
            Some(greatest) => store.outbid(fence, &moving.tenant, greatest).await?,
            None => return Err(MoveError::NoMajority { agreed, needed, why: refusals.join("; ") }),
        }
        sleep(Duration::from_millis(rand::random_range(NEXT_ROUND_AFTER_MS))).await;
    }
}

/// Takes the home that a majority has agreed to.
pub(crate) async fn take(store: &Store, fence: &Fence, moving: &Move, majority: Majority) -> Result<(), MoveError> {
    let Majority { term, regions, .. } = majority;
    store.take_by_force(fence, moving, term).await?;
    let Move { tenant, from, to, .. } = moving;
    let what = "what only that one has stays there";
    tracing::warn!(tenant, term, regions, "{to} has taken {tenant} from {from}, which does not hand it over: {what}");
    Ok(())
}

/// Why a region has not agreed, and the term that stands in the way.
struct Refusal {
    why: String,
    term: Option<i64>,
}

/// Whether the region that has agreed knows the tenant's home as leased.
async fn ask(
    region: &str,
    link: impl Future<Output = anyhow::Result<MoveLink>>,
    moving: &Move,
    term: i64,
) -> Result<bool, Refusal> {
    let asking = async {
        let mut link = link.await?;
        link.say(&Ask::Vote { tenant: moving.tenant.clone(), term, from: (moving.term, moving.n) }).await?;
        anyhow::Ok(link.hear::<Answer>().await?)
    };
    let failed = |why: &str| Err(Refusal { why: format!("{region}: {why}"), term: None });
    match timeout(ANSWER_WITHIN, asking).await {
        Ok(Ok(Answer::Agreed { is_leased })) => Ok(is_leased),
        Ok(Ok(Answer::Outbid { term })) => {
            Err(Refusal { why: format!("{region}: it has agreed to another for term {term}"), term: Some(term) })
        }
        Ok(Ok(Answer::Refused { reason } | Answer::Failed { reason })) => failed(&reason),
        Ok(Ok(Answer::Ready | Answer::Counted { .. } | Answer::Home | Answer::Taken | Answer::Confirmed { .. })) => {
            failed("it answered something else than was asked")
        }
        Ok(Err(error)) => failed(&format!("{error:#}")),
        Err(_) => failed("it does not answer"),
    }
}

async fn last_promise(connection: &mut PgConnection, tenant: &str) -> sqlx::Result<Option<Promise>> {
    let sql = sqlx::query_as!(
        Promise,
        "SELECT term, target FROM repl_promise WHERE tenant_id = $1 ORDER BY term DESC LIMIT 1",
        tenant
    );
    sql.fetch_optional(connection).await
}

async fn promise(connection: &mut PgConnection, tenant: &str, term: i64, target: &str) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "INSERT INTO repl_promise (tenant_id, term, target) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        tenant,
        term,
        target
    );
    sql.execute(connection).await.map(|_| ())
}

/// The home as it is known here; nobody agrees to anything meanwhile.
async fn lock_home(connection: &mut PgConnection, tenant: &str) -> sqlx::Result<Option<(i64, i64)>> {
    let home = sqlx::query!("SELECT term, n FROM tenant_homes WHERE tenant_id = $1 FOR UPDATE", tenant);
    Ok(home.fetch_optional(connection).await?.map(|home| (home.term, home.n)))
}

impl Store {
    /// Regions that were heard of and have a voice.
    pub(super) async fn voters(&self) -> Result<BTreeSet<String>, StoreError> {
        let voters = sqlx::query_scalar!(r#"SELECT region AS "region!" FROM home_voters"#);
        Ok(voters.fetch_all(self.pool()).await?.into_iter().collect())
    }

    /// Regions that will have a voice once they have joined.
    async fn joining(&self) -> Result<Vec<String>, StoreError> {
        let joining = "SELECT region FROM repl_membership WHERE state = 'joining' ORDER BY region";
        Ok(sqlx::query_scalar(joining).fetch_all(self.pool()).await?)
    }

    /// Agrees that another region is the tenant's home from `term` on, if that was not promised otherwise and the home it
    /// takes is not an earlier one.
    #[expect(clippy::disallowed_methods, reason = "a voice is given by every instance, whoever leads")]
    pub(super) async fn vote(
        &self,
        tenant: &str,
        term: i64,
        from: (i64, i64),
        target: &str,
    ) -> Result<Answer, StoreError> {
        if self.abstains().await? {
            return Ok(Answer::Refused { reason: ABSTAINS.to_owned() });
        }
        let mut tx = self.pool().begin().await?;
        let Some(home) = lock_home(&mut tx, tenant).await? else {
            return Ok(Answer::Refused { reason: format!("{tenant} is not known there") });
        };
        if home > from {
            return Ok(Answer::Refused { reason: format!("{tenant} has a later home there") });
        }
        match last_promise(&mut tx, tenant).await? {
            Some(last) if last.term > term || last.term == term && last.target != target => {
                return Ok(Answer::Outbid { term: last.term });
            }
            _ => promise(&mut tx, tenant, term, target).await?,
        }
        tx.commit().await?;
        tracing::warn!(tenant, term, "{target} may take {tenant} over");
        Ok(Answer::Agreed { is_leased: self.is_leased(tenant).await? })
    }

    /// The term to take the home for, with this region's own voice; none if the home is not the one that was to be taken.
    async fn stand(&self, fence: &Fence, moving: &Move) -> Result<Option<i64>, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let home = lock_home(&mut tx, &moving.tenant).await?;
        if home != Some((moving.term, moving.n)) {
            return Ok(None);
        }
        let term = match last_promise(&mut tx, &moving.tenant).await? {
            Some(last) if last.term > moving.term && last.target == moving.to => last.term,
            Some(last) => last.term.max(moving.term) + 1,
            None => moving.term + 1,
        };
        promise(&mut tx, &moving.tenant, term, &moving.to).await?;
        sqlx::query!("UPDATE tenant_moves SET state = 'voting', updated_at = now() WHERE id = $1", moving.id)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Some(term))
    }

    /// Has this region stand for a greater term than somebody has agreed to for another.
    async fn outbid(&self, fence: &Fence, tenant: &str, term: i64) -> Result<(), StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        sqlx::query!(
            "INSERT INTO repl_promise (tenant_id, term, target)
             SELECT $1, $2::bigint + 1, region FROM repl_self
             WHERE NOT EXISTS (SELECT FROM repl_promise WHERE tenant_id = $1 AND term > $2)",
            tenant,
            term
        )
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    /// Makes this region the home, and ends the move with it.
    async fn take_by_force(&self, fence: &Fence, moving: &Move, term: i64) -> Result<(), MoveError> {
        // What a planned move has brought is not known to be whole.
        let attempt = replace_attempt(self, &moving.tenant).await?;
        if let Some(attempt) = attempt {
            erase_arrived(self, &moving.tenant, attempt).await?;
        }
        let mut tx = self.begin_fenced(fence).await?;
        hold_home(&mut tx, &moving.tenant).await?;
        let home = lock_home(&mut tx, &moving.tenant).await?;
        let last = last_promise(&mut tx, &moving.tenant).await?;
        if home != Some((moving.term, moving.n)) || last.is_none_or(|last| last.term != term) {
            return Err(MoveError::Differs(format!("the home of {} changed while it was voted on", moving.tenant)));
        }
        let name = sqlx::query_scalar!(
            "UPDATE tenant_homes SET region = $2, term = $3, n = 0, state = 'active' WHERE tenant_id = $1 RETURNING name",
            moving.tenant,
            moving.to,
            term
        )
        .fetch_one(&mut *tx)
        .await?;
        let arriving = sqlx::query!("SELECT FROM tenant_arrivals WHERE tenant_id = $1", moving.tenant);
        if arriving.fetch_optional(&mut *tx).await?.is_some() {
            return Err(MoveError::Differs(format!("{} still moves {} here", moving.from, moving.tenant)));
        }
        let logs = sqlx::query!(
            "SELECT origin_region, origin_incarnation, stored FROM repl_cursor WHERE stream = 'ledger' AND stored > 0"
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut heard = HeardLedger::new();
        for log in logs {
            let of_region = heard.entry(log.origin_region).or_default();
            of_region.insert(from_sql(log.origin_incarnation), from_sql(log.stored));
        }
        keep_takeover(&mut tx, &moving.tenant, from_sql(term), &moving.to, &heard).await?;
        let fact = Fact::TenantMoved(TenantMoved {
            tenant: moving.tenant.clone(),
            name,
            home_region: moving.to.clone(),
            term: from_sql(term),
            n: 0,
            heard: Some(heard),
        });
        tell_moved(&mut tx, &moving.tenant, &fact, (term, 0)).await?;
        sqlx::query!(
            "UPDATE tenant_moves SET state = 'completed', handed_over_at = now(), ended_at = now(), updated_at = now(),
                 failure = NULL WHERE id = $1",
            moving.id
        )
        .execute(&mut *tx)
        .await?;
        tell_directory_changed(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}
