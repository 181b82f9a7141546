//! The region's Postgres: the only way to a transaction is through a tenant, or, for background work, through [`Db::system`].
//!
//! Row-level security shows a transaction one tenant's rows. A writing transaction also checks, inside itself, that this
//! region is still the tenant's home and holds that fact until it ends: a hand-over takes the same lock exclusively, so
//! what is in flight either finishes first or fails.

mod connect;
#[cfg(test)]
mod tests;

use shared::{
    ids::{RegionName, TenantId},
    problem::Code,
};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};
use time::OffsetDateTime;

pub use connect::{connect, migrate, must_be_migrated};

use crate::{
    http::Problem,
    identity::{Sealer, TenantKeys, Unusable},
    realtime::{Event, EventSender},
};

/// The region's migrations, embedded.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// A tenant's home epoch: a later one beats every earlier one, term first. The default is before all of them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub struct Epoch {
    /// Raised by a forced move.
    pub term: i64,
    /// Raised by a planned move.
    pub n: i64,
}

/// The region's database.
#[derive(Clone)]
pub struct Db {
    app: PgPool,
    system: PgPool,
    region: RegionName,
    events: EventSender,
    keys: TenantKeys,
}

impl Db {
    /// Wraps the two pools: `app` sees one tenant at a time, `system` all.
    pub fn new(app: PgPool, system: PgPool, region: RegionName, events: EventSender, keys: TenantKeys) -> Self {
        Self { app, system, region, events, keys }
    }

    /// With what `tenant`'s personal data is sealed.
    pub async fn sealer(&self, tenant: &TenantId) -> Result<Sealer, Problem> {
        match self.keys.remembered(tenant) {
            Some(sealer) => Ok(sealer),
            None => Ok(self.read(tenant).await?.sealer().await?),
        }
    }

    /// Begins a command of `tenant`; refused unless this region is its home.
    pub async fn begin(&self, tenant: &TenantId) -> Result<TenantTx, Problem> {
        self.begin_at_home(tenant, None, Begun::Now).await.map(|(tx, _)| tx)
    }

    /// Begins a step of a movement of money that was begun here. It is gone on with, under the epoch of then, even where another
    /// region has taken the home by force since: what was moved is booked, late as it is.
    pub async fn begin_step(&self, tenant: &TenantId) -> Result<TenantTx, Problem> {
        self.begin_at_home(tenant, None, Begun::Before).await.map(|(tx, _)| tx)
    }

    /// The same under a key of the tenant's, which it tries to hold until the transaction ends.
    pub async fn begin_under(&self, tenant: &TenantId, key: &Key<'_>) -> Result<(TenantTx, Held), Problem> {
        self.begin_at_home(tenant, Some(key), Begun::Now).await
    }

    async fn begin_at_home(
        &self,
        tenant: &TenantId,
        key: Option<&Key<'_>>,
        begun: Begun,
    ) -> Result<(TenantTx, Held), Problem> {
        let mut tx = self.open(tenant, &held_from_the_start(tenant, key.map(|key| key.lock))).await?;
        let home = match home_of(&mut tx, key).await? {
            home if home.is_fenced => home,
            _ => {
                // A hand-over is under way. A statement sees what was committed when it began: whoever waited for the lock
                // reads the home again, as the hand-over left it.
                sqlx::query!(
                    r#"SELECT pg_advisory_xact_lock_shared(hashtextextended('home:' || $1, 0)) IS NULL AS "locked!""#,
                    tenant.as_str()
                )
                .fetch_one(tx.conn())
                .await?;
                home_of(&mut tx, key).await?
            }
        };
        let lost = home.lost_epoch().filter(|_| begun == Begun::Before);
        if home.region != self.region.as_str() && lost.is_none() {
            let detail = format!("tenant '{tenant}' is at home in {}", home.region);
            return Err(Problem::new(Code::WrongRegion, detail).retry_after(1));
        }
        if home.state != "active" && lost.is_none() {
            let detail = format!("tenant '{tenant}' is being moved to another region");
            return Err(Problem::new(Code::TenantMoving, detail).retry_after(1));
        }
        if !home.is_confirmed && begun == Begun::Now {
            return Err(unconfirmed());
        }
        tx.is_leased = home.is_leased && begun == Begun::Now;
        tx.epoch = lost.unwrap_or(Epoch { term: home.term, n: home.n });
        tx.sealer = Some(self.keys.read(tenant, home.wrapped_key.as_deref()).map_err(unusable)?);
        let held = match (home.is_held, home.request_hash, home.status, home.sealed_body) {
            (false, ..) => Held::BySomebody,
            (true, Some(request_hash), Some(status), Some(sealed_body)) => {
                Held::Answered(Answered { request_hash, status, sealed_body })
            }
            (true, ..) => Held::New,
        };
        Ok((tx, held))
    }

    /// Begins a transaction on what every region holds of `tenant` (its config, the ledger): no home is checked.
    pub async fn anywhere(&self, tenant: &TenantId) -> Result<TenantTx, Problem> {
        self.open(tenant, "").await
    }

    /// Begins a transaction that reads `tenant`'s own rows; there are some only at its home.
    pub async fn read(&self, tenant: &TenantId) -> Result<TenantTx, Problem> {
        self.open(tenant, "").await
    }

    /// Begins a transaction of background work, which sees every tenant. A command found this way runs in its own
    /// [`Db::begin`].
    pub async fn system(&self) -> Result<SystemTx, Problem> {
        #[expect(clippy::disallowed_methods, reason = "the one place that opens a system transaction")]
        Ok(SystemTx { tx: self.system.begin().await? })
    }

    /// Where background work runs a statement that stands alone: it sees every tenant and is a transaction by itself, without
    /// the two round trips more.
    pub fn system_alone(&self) -> &PgPool {
        &self.system
    }

    /// Reports how many connections there are and may be.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub fn report(&self) {
        for (name, pool) in [("app", &self.app), ("system", &self.system)] {
            let idle = pool.num_idle();
            let used = (pool.size() as usize).saturating_sub(idle);
            for (state, count) in [("used", used), ("idle", idle)] {
                metrics::gauge!("region_node_db_connections", "pool" => name, "state" => state).set(count as f64);
            }
            let most = pool.options().get_max_connections();
            metrics::gauge!("region_node_db_connections_max", "pool" => name).set(f64::from(most));
        }
    }

    /// Whose database it is.
    pub fn region(&self) -> &RegionName {
        &self.region
    }

    /// The pool that sees one tenant at a time, for health checks and listeners.
    pub fn app_pool(&self) -> &PgPool {
        &self.app
    }

    /// Begins a transaction that has named its tenant, in one round trip; `also` is selected besides. What may wait, or fail,
    /// is no part of it: sqlx does not end a transaction whose beginning failed half-way.
    async fn open(&self, tenant: &TenantId, also: &str) -> Result<TenantTx, Problem> {
        // A name is letters, digits and hyphens, whoever made it: nothing in it can end the quotes.
        let begin = format!("BEGIN; SELECT set_config('app.tenant_id', '{tenant}', true){also}");
        #[expect(clippy::disallowed_methods, reason = "the one place that opens a tenant's transaction")]
        let tx = self.app.begin_with(AssertSqlSafe(begin)).await?;
        Ok(TenantTx {
            tx,
            tenant: tenant.clone(),
            epoch: Epoch::default(),
            is_leased: false,
            sealer: None,
            keys: self.keys.clone(),
            told: Vec::new(),
            counted: Vec::new(),
            events: self.events.clone(),
        })
    }
}

/// Tries to hold the tenant's home, and a lock, where nothing can be answered yet: settings of the transaction keep whether it
/// could.
fn held_from_the_start(tenant: &TenantId, lock: Option<i64>) -> String {
    let fence = format!("pg_try_advisory_xact_lock_shared(hashtextextended('home:{tenant}', 0))");
    let lock = lock.map_or_else(|| "true".to_owned(), |lock| format!("pg_try_advisory_xact_lock({lock})"));
    format!(", set_config('app.is_fenced', ({fence})::text, true), set_config('app.is_held', ({lock})::text, true)")
}

/// An idempotency key of a tenant's.
pub struct Key<'a> {
    /// The number of its advisory lock.
    pub lock: i64,
    /// Whose key.
    pub caller: &'a str,
    /// The key itself.
    pub key: &'a str,
    /// An answer of before is forgotten.
    pub since: OffsetDateTime,
}

/// What is known under a key.
pub enum Held {
    /// Nothing, since another transaction holds it.
    BySomebody,
    /// This transaction holds it, and nothing was answered yet.
    New,
    /// It was answered before.
    Answered(Answered),
}

/// An answer as it is kept.
pub struct Answered {
    /// Of the request that was answered.
    pub request_hash: Vec<u8>,
    /// Of HTTP.
    pub status: i16,
    /// Sealed to its key.
    pub sealed_body: Vec<u8>,
}

/// When what a transaction is about was begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    /// With this transaction: this region has to be the home.
    Now,
    /// Before: it is enough that this region was the home then, and has not handed it over.
    Before,
}

/// A tenant's home as this transaction sees it, and the answer kept under its key.
struct Home {
    region: String,
    term: i64,
    n: i64,
    state: String,
    /// Of this region's time as the home, where another has ended it by force.
    lost_term: Option<i64>,
    lost_n: Option<i64>,
    /// Other regions have to agree that it is, and do, or need not.
    is_leased: bool,
    is_confirmed: bool,
    wrapped_key: Option<Vec<u8>>,
    /// No hand-over was under way when the transaction began, and none can begin before it ends.
    is_fenced: bool,
    /// The lock asked for is this transaction's.
    is_held: bool,
    request_hash: Option<Vec<u8>>,
    status: Option<i16>,
    sealed_body: Option<Vec<u8>>,
}

impl Home {
    fn lost_epoch(&self) -> Option<Epoch> {
        Some(Epoch { term: self.lost_term?, n: self.lost_n? })
    }
}

/// One statement, since every command begins with it. It comes after the one that took the locks: a statement sees what was
/// committed when it began.
async fn home_of(tx: &mut TenantTx, key: Option<&Key<'_>>) -> Result<Home, Problem> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query_as!(
        Home,
        r#"SELECT h.region, h.term, h.n, h.state, h.lost_term, h.lost_n, w.wrapped AS "wrapped_key?",
                  h.is_leased, CASE WHEN h.is_leased THEN home_is_confirmed(h.tenant_id, h.term) ELSE true END AS "is_confirmed!",
                  current_setting('app.is_fenced') = 'true' AS "is_fenced!",
                  current_setting('app.is_held') = 'true' AS "is_held!",
                  k.request_hash AS "request_hash?", k.status AS "status?", k.sealed_body AS "sealed_body?"
           FROM tenant_homes h LEFT JOIN tenant_keys w ON w.tenant_id = $1 LEFT JOIN idempotency_keys k
               ON k.tenant_id = $1 AND k.caller = $2 AND k.key = $3 AND k.created_at > $4
           WHERE h.tenant_id = $1"#,
        tenant.as_str(),
        key.map(|key| key.caller),
        key.map(|key| key.key),
        key.map(|key| key.since)
    );
    let home = sql.fetch_optional(tx.conn()).await?;
    home.ok_or_else(|| Problem::new(Code::UnknownTenant, format!("no tenant '{tenant}'")))
}

/// A transaction that sees one tenant.
pub struct TenantTx {
    tx: Transaction<'static, Postgres>,
    tenant: TenantId,
    epoch: Epoch,
    /// The home has to be confirmed still when this commits.
    is_leased: bool,
    /// Known from the beginning of a command.
    sealer: Option<Sealer>,
    keys: TenantKeys,
    told: Vec<Event>,
    counted: Vec<(&'static str, &'static str)>,
    events: EventSender,
}

impl TenantTx {
    /// The connection to run statements on.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Whose rows it sees.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The home epoch checked when a command began; zero for reads.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// With what the tenant's personal data is sealed.
    pub async fn sealer(&mut self) -> sqlx::Result<Sealer> {
        if let Some(sealer) = self.sealer.clone().or_else(|| self.keys.remembered(&self.tenant)) {
            return Ok(sealer);
        }
        let stored = sqlx::query_scalar!("SELECT wrapped FROM tenant_keys WHERE tenant_id = $1", self.tenant.as_str());
        let wrapped = stored.fetch_optional(&mut *self.tx).await?;
        self.keys.read(&self.tenant, wrapped.as_deref()).map_err(unusable)
    }

    /// Tells `event` once this transaction has committed, and never if it doesn't.
    pub fn tell(&mut self, event: Event) {
        self.told.push(event);
    }

    /// Counts one more of the tenant's `counter` with this outcome once this transaction has committed, and never if it doesn't.
    pub fn count(&mut self, counter: &'static str, outcome: &'static str) {
        self.counted.push((counter, outcome));
    }

    /// Ends without effect, now rather than when the connection is next used.
    pub async fn rollback(self) -> sqlx::Result<()> {
        self.tx.rollback().await
    }

    /// Commits, then tells and counts. A crash between the two loses the telling, not the truth: clients read it again when they
    /// reconnect, and the dispatcher polls.
    ///
    /// Where the home is leased and is confirmed no more, it fails with [`HOME_IS_CONFIRMED`] and without effect.
    pub async fn commit(mut self) -> sqlx::Result<()> {
        if self.is_leased {
            // One message: whatever keeps this node from going on does so before both or after both. What is left of the
            // transaction then is an empty one.
            let (tenant, term) = (&self.tenant, self.epoch.term);
            let commit = format!("SELECT must_be_confirmed('{tenant}', {term}); COMMIT AND CHAIN");
            sqlx::raw_sql(AssertSqlSafe(commit)).execute(&mut *self.tx).await?;
        }
        self.tx.commit().await?;
        for (counter, outcome) in self.counted {
            let labels = [("tenant", self.tenant.to_string()), ("outcome", outcome.to_owned())];
            metrics::counter!(counter, &labels).increment(1);
        }
        for event in self.told {
            self.events.tell(event);
        }
        Ok(())
    }
}

/// A transaction that sees all tenants; for background work only.
pub struct SystemTx {
    tx: Transaction<'static, Postgres>,
}

impl SystemTx {
    /// The connection to run statements on.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Commits.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.tx.commit().await
    }
}

fn unusable(error: Unusable) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

/// What a commit breaks at a leased home that is not confirmed.
pub const HOME_IS_CONFIRMED: &str = "home_is_confirmed";

/// What a command is told then.
pub(crate) fn unconfirmed() -> Problem {
    let detail =
        "this region cannot tell whether it still is the tenant's home, since too few other regions say so; try again";
    Problem::new(Code::HomeUnconfirmed, detail).retry_after(3)
}

/// The name of the constraint or unique index a statement broke; it is what decides a race, so the caller turns it into
/// an answer.
pub fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}
