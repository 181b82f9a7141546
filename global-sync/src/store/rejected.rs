//! Facts of ours that were refused a number: an operator has them looked at once more, or says that they are never to leave.

use shared::sync_command::RejectedFact;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Fence, Store, StoreError,
    number::{OutboxRow, read_row},
    operations::{Outcome, finish},
};

impl Store {
    /// Has a refused fact wait for its number again, as it was committed; if it still may not leave, its reason is the one of
    /// now. What only the database can say of it is said when it gets its number.
    pub async fn readmit(&self, fence: &Fence, id: Uuid, fact: &RejectedFact) -> Result<Outcome, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let Some(row) = take(&mut tx, fact).await? else { return finish(tx, id, Err(not_rejected(fact))).await };
        let outcome = match read_row(&row) {
            Ok(_) => {
                sqlx::query!(
                    "INSERT INTO repl_outbox
                         (id, stream, kind, tenant_id, home_term, home_n, body, traceparent, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    row.id,
                    row.stream,
                    row.kind,
                    row.tenant_id,
                    row.home_term,
                    row.home_n,
                    row.body,
                    row.traceparent,
                    row.created_at
                )
                .execute(&mut *tx)
                .await?;
                Ok("it waits for its number".to_owned())
            }
            Err(reason) => {
                reject(&mut tx, row, &reason).await?;
                Err(reason)
            }
        };
        finish(tx, id, outcome).await
    }

    /// Drops a refused fact for good: it never leaves the region. What it was stays with the command.
    pub async fn dismiss(&self, fence: &Fence, id: Uuid, fact: &RejectedFact) -> Result<Outcome, StoreError> {
        let mut tx = self.begin_fenced(fence).await?;
        let outcome = match take(&mut tx, fact).await? {
            Some(OutboxRow { kind, tenant_id, created_at, .. }) => {
                let whose = tenant_id.map_or_else(String::new, |tenant| format!(" of {tenant}"));
                Ok(format!("the {kind}{whose} committed at {created_at} is dropped"))
            }
            None => Err(not_rejected(fact)),
        };
        finish(tx, id, outcome).await
    }
}

fn not_rejected(fact: &RejectedFact) -> String {
    format!("no refused fact is named {}", fact.id)
}

/// Takes a fact from among the refused, as it lay in the outbox.
async fn take(connection: &mut PgConnection, fact: &RejectedFact) -> Result<Option<OutboxRow>, StoreError> {
    let row = sqlx::query_as!(
        OutboxRow,
        r#"DELETE FROM repl_rejected WHERE id = $1
           RETURNING id, 0::bigint AS "position!", stream, kind, tenant_id, home_term, home_n, body, traceparent, created_at"#,
        fact.id
    );
    Ok(row.fetch_optional(connection).await?)
}

/// Keeps a fact that may not leave, and why.
pub(super) async fn reject(connection: &mut PgConnection, row: OutboxRow, reason: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO repl_rejected
             (id, stream, kind, tenant_id, home_term, home_n, body, traceparent, created_at, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        row.id,
        row.stream,
        row.kind,
        row.tenant_id,
        row.home_term,
        row.home_n,
        row.body,
        row.traceparent,
        row.created_at,
        reason
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
