//! What leaves the region: a command appends a fact in its own transaction; replication numbers and sends it after commit.

use shared::fact::Fact;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::{Epoch, TenantTx};

/// A fact as `repl_outbox` holds it, for a statement that appends it beside what it is about; others have [`append`].
pub struct Row<'a> {
    pub id: Uuid,
    pub stream: &'static str,
    pub kind: &'static str,
    pub tenant: Option<&'a str>,
    pub home_term: Option<i64>,
    pub home_n: Option<i64>,
    pub body: Vec<u8>,
    pub traceparent: Option<String>,
}

impl<'a> Row<'a> {
    /// Of a fact about a tenant, stamped with the home epoch of the transaction that tells it; of one about no tenant, with none.
    pub fn of(fact: &'a Fact, epoch: Option<Epoch>) -> Self {
        Self {
            id: Uuid::now_v7(),
            stream: fact.stream().as_str(),
            kind: fact.kind(),
            tenant: fact.tenant(),
            home_term: epoch.map(|epoch| epoch.term),
            home_n: epoch.map(|epoch| epoch.n),
            body: fact.to_body(),
            traceparent: shared::telemetry::current_traceparent(),
        }
    }
}

/// Appends a fact about the transaction's tenant, stamped with the home epoch the command began under.
pub async fn append(tx: &mut TenantTx, fact: &Fact) -> sqlx::Result<()> {
    let row = Row::of(fact, Some(tx.epoch()));
    insert(tx.conn(), row).await
}

/// Appends a fact about no tenant: a region's announcement.
pub async fn append_control(conn: &mut PgConnection, fact: &Fact) -> sqlx::Result<()> {
    insert(conn, Row::of(fact, None)).await
}

async fn insert(conn: &mut PgConnection, row: Row<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body, traceparent)
         VALUES ($1, $2::text, $3, $4, $5, $6, $7, $8)",
        row.id,
        row.stream,
        row.kind,
        row.tenant,
        row.home_term,
        row.home_n,
        row.body,
        row.traceparent,
    )
    .execute(conn)
    .await?;
    Ok(())
}
