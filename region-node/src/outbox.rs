//! What leaves the region: a command appends a fact in its own transaction; replication numbers and sends it after commit.

use shared::fact::Fact;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::{Epoch, TenantTx};

/// Appends a fact about the transaction's tenant, stamped with the home epoch the command began under.
pub async fn append(tx: &mut TenantTx, fact: &Fact) -> sqlx::Result<()> {
    let epoch = tx.epoch();
    insert(tx.conn(), fact, Some(epoch)).await
}

/// Appends a fact about no tenant: a region's announcement.
pub async fn append_control(conn: &mut PgConnection, fact: &Fact) -> sqlx::Result<()> {
    insert(conn, fact, None).await
}

async fn insert(conn: &mut PgConnection, fact: &Fact, epoch: Option<Epoch>) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body, traceparent)
         VALUES ($1, $2::text, $3, $4, $5, $6, $7, $8)",
        Uuid::now_v7(),
        fact.stream().as_str(),
        fact.kind(),
        fact.tenant(),
        epoch.map(|epoch| epoch.term),
        epoch.map(|epoch| epoch.n),
        fact.to_body(),
        shared::telemetry::current_traceparent(),
    )
    .execute(conn)
    .await?;
    Ok(())
}
