//! The new home: takes rows in, and the home when it is handed over.

use std::time::Duration;

use shared::{
    fact::{Fact, TenantMoved},
    ids::RegionName,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, types::Uuid};

use super::{
    ABSTAINS, Answer, Ask, MoveError, connect,
    record::tell_moved,
    tables::{self, Remains, Shape},
};
use crate::{
    store::{Fence, Store, StoreError, from_sql, tell_directory_changed},
    transport::{MoveFrame, MoveLink},
};

/// An attempt that has not said anything for so long is over, and what it brought is erased.
const STALE_AFTER_S: f64 = 600.0;

/// What arrives, and who may write it: an attempt that begins later takes the place of this one.
struct Arrival {
    tenant: String,
    attempt: Uuid,
    connection: PgConnection,
    shapes: Vec<Shape>,
    /// Rows written since they were last counted.
    written: i64,
}

/// Takes in what the region at the other end sends, until it ends the connection.
pub(crate) async fn receive(store: &Store, mut link: MoveLink) {
    let peer = link.region.clone();
    if let Err(error) = follow(store, &mut link).await {
        // It ends the connection when it has what it wants.
        if !matches!(error, MoveError::BrokenOff(_)) {
            tracing::warn!(%peer, "what {peer} moves here cannot be taken in: {error}");
        }
        let answer = match error {
            MoveError::Refused(reason) => Answer::Refused { reason },
            error => Answer::Failed { reason: error.to_string() },
        };
        let _ = link.say(&answer).await;
        // Lets the answer out before the connection ends.
        let _ = tokio::time::timeout(Duration::from_secs(2), link.hear::<Ask>()).await;
    }
}

async fn follow(store: &Store, link: &mut MoveLink) -> Result<(), MoveError> {
    let mut arrival: Option<Arrival> = None;
    let mut said: Ask = link.hear().await?;
    loop {
        let (answer, next) = match said {
            Ask::Begin { tenant, move_id, term, n, wrapped_key, fingerprint } => {
                let begun = Arrival::begin(store, link, tenant, move_id, (term, n), wrapped_key, &fingerprint).await?;
                arrival = Some(begun);
                (Some(Answer::Ready), None)
            }
            Ask::Table { name } => (None, Some(begun(&mut arrival)?.take_rows(link, &name).await?)),
            Ask::Keys { name } => (None, Some(begun(&mut arrival)?.take_keys(link, &name).await?)),
            Ask::Count { with_digests } => (Some(begun(&mut arrival)?.count(with_digests).await?), None),
            Ask::HandedOver { tenant, from, term, n } => {
                store.take_home(&link.region, &tenant, &from, (term, n)).await?;
                if arrival.is_none() {
                    arrival = Some(Arrival::of_tail(store, tenant).await?);
                }
                (Some(Answer::Home), None)
            }
            Ask::Vote { tenant, term, from } => {
                (Some(store.vote(&tenant, term, from, link.region.as_str()).await?), None)
            }
            Ask::Confirm if store.abstains().await? => (Some(Answer::Refused { reason: ABSTAINS.to_owned() }), None),
            Ask::Confirm => {
                let promised = store.promised_to_others_than(link.region.as_str()).await?;
                (Some(Answer::Confirmed { promised }), None)
            }
            Ask::Tail => {
                let next = begun(&mut arrival)?.take_tail(link).await?;
                link.say(&Answer::Taken).await?;
                (None, Some(next))
            }
        };
        if let Some(answer) = answer {
            link.say(&answer).await?;
        }
        said = match next {
            Some(next) => next,
            None => link.hear().await?,
        };
    }
}

fn begun(arrival: &mut Option<Arrival>) -> Result<&mut Arrival, MoveError> {
    arrival.as_mut().ok_or_else(|| MoveError::Differs("rows come before they were announced".to_owned()))
}

impl Arrival {
    #[expect(clippy::disallowed_methods, reason = "every instance takes tenants in, whoever leads")]
    async fn begin(
        store: &Store,
        link: &MoveLink,
        tenant: String,
        move_id: Uuid,
        epoch: (i64, i64),
        wrapped_key: Vec<u8>,
        fingerprint: &str,
    ) -> Result<Self, MoveError> {
        let mut connection = connect(store, &tenant).await?;
        let shapes = tables::shapes(&mut connection).await?;
        if tables::fingerprint(&shapes) != fingerprint {
            return Err(refusal("the two regions run different versions of the schema; finish the upgrade first"));
        }
        let state = sqlx::query_scalar!("SELECT r.state FROM regions r JOIN repl_self s ON s.region = r.name")
            .fetch_one(store.pool())
            .await?;
        if state != "active" {
            return Err(refusal(&format!("the region is {state}")));
        }
        let mut tx = store.pool().begin().await?;
        // Held, so that nobody takes the home by force before the attempt stands there to be seen.
        let home = sqlx::query!("SELECT region, term, n FROM tenant_homes WHERE tenant_id = $1 FOR SHARE", tenant)
            .fetch_optional(&mut *tx)
            .await?;
        let is_theirs = home.is_some_and(|home| home.region == link.region.as_str() && (home.term, home.n) == epoch);
        if !is_theirs {
            return Err(refusal(&format!("{} is not the home of {tenant}, as far as is known here", link.region)));
        }
        let attempt = Uuid::new_v4();
        let replaced = sqlx::query!(
            "UPDATE tenant_arrivals SET move_id = $2, attempt = $3, from_region = $4, touched_at = now()
             WHERE tenant_id = $1",
            tenant,
            move_id,
            attempt,
            link.region.as_str()
        )
        .execute(&mut *tx)
        .await?;
        if replaced.rows_affected() == 0 {
            if tables::holds_any(&mut connection, &tenant).await? {
                let reason = format!(
                    "rows of {tenant} from an earlier time as its home are still here: give this region the command \
                     erase_lost, then move it again"
                );
                return Err(refusal(&reason));
            }
            sqlx::query!(
                "INSERT INTO tenant_arrivals (tenant_id, move_id, attempt, from_region) VALUES ($1, $2, $3, $4)",
                tenant,
                move_id,
                attempt,
                link.region.as_str()
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        erase(&mut connection, &tenant, attempt).await?;
        hold_attempt(&mut connection, &tenant, attempt).await?;
        sqlx::query(
            "INSERT INTO tenant_keys (tenant_id, wrapped) VALUES ($1, $2)
             ON CONFLICT (tenant_id) DO UPDATE SET wrapped = excluded.wrapped",
        )
        .bind(&tenant)
        .bind(wrapped_key)
        .execute(&mut connection)
        .await?;
        connection.execute("COMMIT").await?;
        Ok(Self { tenant, attempt, connection, shapes, written: 0 })
    }

    /// For what comes after the hand-over.
    async fn of_tail(store: &Store, tenant: String) -> Result<Self, MoveError> {
        let mut connection = connect(store, &tenant).await?;
        let shapes = tables::shapes(&mut connection).await?;
        Ok(Self { tenant, attempt: Uuid::nil(), connection, shapes, written: 0 })
    }

    fn shape(&self, name: &str) -> Result<usize, MoveError> {
        let at = self.shapes.iter().position(|shape| shape.table.name == name);
        at.ok_or_else(|| MoveError::Differs(format!("{name} is not a table that moves")))
    }

    /// Begins a transaction that commits only while no other attempt has begun, and whose commit the next count makes durable.
    async fn begin_fenced(&mut self) -> Result<(), MoveError> {
        hold_attempt(&mut self.connection, &self.tenant, self.attempt).await?;
        self.connection.execute("SET LOCAL synchronous_commit = off").await?;
        Ok(())
    }

    async fn take_rows(&mut self, link: &mut MoveLink, name: &str) -> Result<Ask, MoveError> {
        let at = self.shape(name)?;
        self.begin_fenced().await?;
        let next = self.copy_in(link, self.shapes[at].incoming()).await?;
        let take_in = self.shapes[at].take_in();
        let (rows, is_whole): (i64, bool) =
            sqlx::query_as(AssertSqlSafe(take_in)).fetch_one(&mut self.connection).await?;
        if !is_whole {
            return Err(MoveError::Differs(format!("rows of {name} are not here what they were there")));
        }
        self.connection.execute("COMMIT").await?;
        self.written += rows;
        Ok(next)
    }

    async fn take_keys(&mut self, link: &mut MoveLink, name: &str) -> Result<Ask, MoveError> {
        let at = self.shape(name)?;
        self.begin_fenced().await?;
        let next = self.copy_in(link, self.shapes[at].incoming_keys()).await?;
        let delete = self.shapes[at].delete_others(&self.tenant);
        self.connection.execute(AssertSqlSafe(delete)).await?;
        self.connection.execute("COMMIT").await?;
        Ok(next)
    }

    /// Breadcrumbs only add up: those of a trip that has ended here meanwhile do no harm.
    async fn take_tail(&mut self, link: &mut MoveLink) -> Result<Ask, MoveError> {
        let at = self.shape(tables::TAIL)?;
        self.connection.execute("BEGIN").await?;
        let next = self.copy_in(link, self.shapes[at].incoming()).await?;
        self.connection.execute(AssertSqlSafe(self.shapes[at].add_in())).await?;
        self.connection.execute("COMMIT").await?;
        Ok(next)
    }

    /// Puts what comes into a table made by `make`; what was said after it.
    async fn copy_in(&mut self, link: &mut MoveLink, make: String) -> Result<Ask, MoveError> {
        self.connection.execute(AssertSqlSafe(make)).await?;
        let mut copy = self.connection.copy_in_raw("COPY incoming FROM STDIN (FORMAT binary)").await?;
        let next = loop {
            match link.next().await {
                Ok(MoveFrame::Rows(rows)) => {
                    copy.send(rows).await?;
                }
                Ok(MoveFrame::Said(said)) => break said,
                Err(error) => {
                    copy.abort("the old home is gone").await?;
                    return Err(error.into());
                }
            }
        };
        copy.finish().await?;
        Ok(next)
    }

    /// What is here now of the attempt, for good: rows are written without waiting for the disk, which this commit does for all.
    async fn count(&mut self, with_digests: bool) -> Result<Answer, MoveError> {
        let tables = tables::tally(&mut self.connection, &self.shapes, &self.tenant, with_digests).await?;
        hold_attempt(&mut self.connection, &self.tenant, self.attempt).await?;
        self.connection.execute("COMMIT").await?;
        Ok(Answer::Counted { written: std::mem::take(&mut self.written), tables })
    }
}

/// Begins a transaction that an attempt alone may write in: until it ends nobody takes the place of that one, nor later on for
/// want of a word of it.
async fn hold_attempt(connection: &mut PgConnection, tenant: &str, attempt: Uuid) -> Result<(), MoveError> {
    Executor::execute(&mut *connection, "BEGIN").await?;
    let held = sqlx::query("UPDATE tenant_arrivals SET touched_at = now() WHERE tenant_id = $1 AND attempt = $2")
        .bind(tenant)
        .bind(attempt)
        .execute(connection)
        .await?;
    match held.rows_affected() {
        0 => Err(MoveError::Differs("another attempt has begun, or the move is over".to_owned())),
        _ => Ok(()),
    }
}

/// Takes the place of whoever moves a tenant here; the attempt that is to write from here on, if there was any.
pub(super) async fn replace_attempt(store: &Store, tenant: &str) -> Result<Option<Uuid>, StoreError> {
    let sql = sqlx::query_scalar!(
        "UPDATE tenant_arrivals SET attempt = gen_random_uuid(), touched_at = now() WHERE tenant_id = $1 RETURNING attempt",
        tenant
    );
    Ok(sql.fetch_optional(store.pool()).await?)
}

/// Erases all that has arrived of a tenant, if no other attempt has begun meanwhile; how many rows that were.
pub(super) async fn erase_arrived(store: &Store, tenant: &str, attempt: Uuid) -> Result<u64, MoveError> {
    let mut connection = connect(store, tenant).await?;
    let rows = erase(&mut connection, tenant, attempt).await?;
    hold_attempt(&mut connection, tenant, attempt).await?;
    sqlx::query("DELETE FROM tenant_arrivals WHERE tenant_id = $1").bind(tenant).execute(&mut connection).await?;
    connection.execute("COMMIT").await?;
    connection.close().await?;
    Ok(rows)
}

/// Erases what has arrived, some rows at a time: what is gone another attempt need not erase.
async fn erase(connection: &mut PgConnection, tenant: &str, attempt: Uuid) -> Result<u64, MoveError> {
    let (mut erased, mut remains) = (0, Remains::of(connection, tenant).await?);
    while let Some(found) = remains.find_some(connection).await? {
        hold_attempt(connection, tenant, attempt).await?;
        erased += found.erase(connection).await?;
        Executor::execute(&mut *connection, "COMMIT").await?;
    }
    Ok(erased)
}

fn refusal(reason: &str) -> MoveError {
    MoveError::Refused(reason.to_owned())
}

impl Store {
    /// Makes this region the home, as the old home says. The fact by which that one says the same to everybody may come before or
    /// after, or never: where it has not come yet this region says so itself, since the old home may be gone before it has told
    /// anybody else.
    #[expect(clippy::disallowed_methods, reason = "homes are replication's to change, as when their facts are applied")]
    pub(super) async fn take_home(
        &self,
        peer: &RegionName,
        tenant: &str,
        from: &str,
        epoch: (i64, i64),
    ) -> Result<(), MoveError> {
        let mut tx = self.pool().begin().await?;
        let taken = sqlx::query!(
            "UPDATE tenant_homes SET region = s.region, term = $3, n = $4, state = 'active'
             FROM repl_self s
             WHERE tenant_id = $1 AND tenant_homes.region = $2 AND $2 = $5 AND (term, n) < ($3, $4)
             RETURNING name, tenant_homes.region",
            tenant,
            from,
            epoch.0,
            epoch.1,
            peer.as_str()
        )
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(home) = taken {
            let fact = Fact::TenantMoved(TenantMoved {
                tenant: tenant.to_owned(),
                name: home.name,
                home_region: home.region,
                term: from_sql(epoch.0),
                n: from_sql(epoch.1),
                heard: None,
            });
            tell_moved(&mut tx, tenant, &fact, epoch).await?;
        }
        let is_home = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM tenant_homes h JOIN repl_self s USING (region)
                              WHERE tenant_id = $1 AND (term, n) >= ($2, $3)) AS "is_home!""#,
            tenant,
            epoch.0,
            epoch.1
        )
        .fetch_one(&mut *tx)
        .await?;
        if !is_home {
            return Err(MoveError::Differs(format!("{tenant} has moved on meanwhile")));
        }
        sqlx::query!("DELETE FROM tenant_arrivals WHERE tenant_id = $1", tenant).execute(&mut *tx).await?;
        tell_directory_changed(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Erases what attempts have brought that nobody goes on with; of how many tenants.
    pub(crate) async fn erase_stale_arrivals(&self, fence: &Fence) -> Result<usize, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        // Whoever still writes is fenced off; those that have arrived are no longer looked after.
        sqlx::query!(
            "DELETE FROM tenant_arrivals a USING tenant_homes h, repl_self s
             WHERE h.tenant_id = a.tenant_id AND h.region = s.region"
        )
        .execute(&mut *tx)
        .await?;
        let stale = sqlx::query!(
            r#"UPDATE tenant_arrivals SET attempt = gen_random_uuid()
               WHERE touched_at < now() - make_interval(secs => $1) RETURNING tenant_id, attempt"#,
            STALE_AFTER_S
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        for row in &stale {
            let tenant = &row.tenant_id;
            match erase_arrived(self, tenant, row.attempt).await {
                Ok(rows) => {
                    tracing::warn!(
                        tenant,
                        rows,
                        "a move of {tenant} to this region has come to nothing; its rows are erased"
                    );
                }
                // Another attempt has begun, which erases by itself.
                Err(MoveError::Differs(_)) => {}
                Err(MoveError::Store(error)) => return Err(error),
                Err(error) => tracing::warn!(tenant, "what has arrived of {tenant} is not erased yet: {error}"),
            }
        }
        Ok(stale.len())
    }
}
