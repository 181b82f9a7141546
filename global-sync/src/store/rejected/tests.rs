use shared::sync_command::SyncCommand;
use sqlx::PgPool;

use super::*;
use crate::store::{
    operations::tests::order,
    tests::{Home, settlement},
};

const REFUSED: &str = "SELECT count(*) FROM repl_rejected";
const REASON: &str = "SELECT reason FROM repl_rejected";

/// A settlement whose row names another tenant, which is refused.
async fn us_with_one_refused(pool: &PgPool) -> (Home, RejectedFact) {
    let us = Home::new(pool, "us-east").await;
    let id = us.commit(&settlement(1)).await;
    sqlx::query(
        "UPDATE repl_outbox SET tenant_id = 'manhattan-cabs', traceparent = 'a trace', created_at = '2026-03-01 12:00Z'",
    )
    .execute(us.store.pool())
    .await
    .unwrap();
    assert_eq!(us.number().await.rejected, 1);
    (us, RejectedFact { id })
}

async fn readmit(us: &Home, fact: &RejectedFact) -> Outcome {
    let command = order(us, &SyncCommand::Readmit(fact.clone())).await;
    us.store.readmit(&us.fence, command.id, fact).await.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_refused_fact_is_numbered_as_it_was_committed_once_it_may_leave(pool: PgPool) {
    let (us, fact) = us_with_one_refused(&pool).await;
    sqlx::query("UPDATE repl_rejected SET reason = 'of an older release'").execute(&us.superuser).await.unwrap();
    let refused = readmit(&us, &fact).await;
    assert_eq!(refused, Err(us.scalar::<String>(REASON).await), "it is told, and kept, why it may not leave now");
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_outbox").await, 0);

    sqlx::query("UPDATE repl_rejected SET tenant_id = 'porto-taxis'").execute(&us.superuser).await.unwrap();
    readmit(&us, &fact).await.unwrap();
    let waits =
        "SELECT concat_ws(' ', id, tenant_id, home_term, home_n, traceparent, created_at::date) FROM repl_outbox";
    assert_eq!(us.scalar::<String>(waits).await, format!("{} porto-taxis 1 0 a trace 2026-03-01", fact.id));
    assert_eq!((us.number().await.entries, us.scalar::<i64>(REFUSED).await), (1, 0));
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 1);
    assert_eq!(readmit(&us, &fact).await, Err(format!("no refused fact is named {}", fact.id)));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_dismissed_fact_is_gone_and_the_command_says_what_it_was(pool: PgPool) {
    let (us, fact) = us_with_one_refused(&pool).await;
    assert_eq!(us.store.backlog().await.unwrap().rejected, 1);
    let command = order(&us, &SyncCommand::Dismiss(fact.clone())).await;
    us.store.dismiss(&us.fence, command.id, &fact).await.unwrap().unwrap();
    assert_eq!(us.store.backlog().await.unwrap().rejected, 0);
    let outcome: String = us.scalar("SELECT outcome FROM repl_command").await;
    assert!(outcome.starts_with("the settlement of manhattan-cabs committed at 2026-03-01"), "{outcome}");
    let again = order(&us, &SyncCommand::Dismiss(fact.clone())).await;
    assert!(us.store.dismiss(&us.fence, again.id, &fact).await.unwrap().is_err(), "it is gone");

    us.store.release_lease(&us.fence).await.unwrap();
    let _second = Home::new(&pool, "us-east").await;
    assert!(matches!(us.store.dismiss(&us.fence, again.id, &fact).await, Err(StoreError::NotLeading)));
    assert!(matches!(us.store.readmit(&us.fence, again.id, &fact).await, Err(StoreError::NotLeading)));
}
