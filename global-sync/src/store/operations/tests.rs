use shared::sync_command::SyncCommand;
use sqlx::PgPool;

use super::*;
use crate::store::tests::{Home, batch, log, settlement};

fn entry(seq: u64) -> EntryPlace {
    EntryPlace { origin: "eu-west".parse().unwrap(), incarnation: 1, stream: FactStream::Ledger, seq }
}

/// An operator's command as region-node stores it.
pub(crate) async fn order(us: &Home, command: &SyncCommand) -> Order {
    sqlx::query("INSERT INTO repl_command (id, command, reason, made_by) VALUES ($1, $2, 'a drill', 'ops')")
        .bind(Uuid::now_v7())
        .bind(serde_json::to_value(command).unwrap())
        .execute(&us.superuser)
        .await
        .unwrap();
    us.store.orders().await.unwrap().pop().unwrap()
}

async fn states(us: &Home) -> String {
    us.scalar("SELECT COALESCE(string_agg(seq || ' ' || state, ', ' ORDER BY seq), '') FROM repl_quarantine").await
}

const LEDGER_ROWS: &str = "SELECT count(*) FROM ledger_facts";

/// eu-west's ledger of four, of which the second changed before it was applied.
async fn us_with_one_set_aside(pool: &PgPool) -> Home {
    let us = Home::new(pool, "us-east").await;
    let facts: Vec<_> = (1..=4).map(settlement).collect();
    us.store.receive(&batch(&log("eu-west", FactStream::Ledger), Head::EMPTY, &facts)).await.unwrap();
    flip(&us).await;
    us.apply_all().await;
    assert_eq!(states(&us).await, "2 failed");
    us
}

async fn flip(us: &Home) {
    let flip = "UPDATE repl_log SET body = set_bit(body, 200, 1 - get_bit(body, 200)) WHERE seq = 2";
    sqlx::query(flip).execute(us.store.pool()).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn an_entry_that_is_set_aside_is_applied_once_it_can_be_and_the_command_says_what_came_of_it(pool: PgPool) {
    let us = us_with_one_set_aside(&pool).await;
    let retry = order(&us, &SyncCommand::Retry(entry(2))).await;
    let refused = us.store.retry_by_hand(&us.fence, retry.id, &entry(2)).await.unwrap();
    assert!(refused.is_err_and(|why| why.starts_with("failed: ")), "it is damaged as ever");
    assert_eq!(us.scalar::<i32>("SELECT attempts FROM repl_quarantine").await, 2);
    flip(&us).await;
    let retry = order(&us, &SyncCommand::Retry(entry(2))).await;
    us.store.retry_by_hand(&us.fence, retry.id, &entry(2)).await.unwrap().unwrap();
    assert_eq!((states(&us).await, us.scalar::<i64>(LEDGER_ROWS).await), (String::new(), 4));
    let again = order(&us, &SyncCommand::Retry(entry(2))).await;
    let refused = us.store.retry_by_hand(&us.fence, again.id, &entry(2)).await.unwrap();
    assert_eq!(refused, Err("eu-west/1/ledger/2 is not set aside".to_owned()));
    let done = "SELECT string_agg(done::text || ' ' || made_by, ', ' ORDER BY position) FROM repl_command";
    assert_eq!(us.scalar::<String>(done).await, "false ops, true ops, false ops");
    assert_eq!(us.store.orders().await.unwrap(), vec![]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_skipped_entry_is_never_applied_counts_against_nobody_and_is_shown_with_who_said_so(pool: PgPool) {
    let us = us_with_one_set_aside(&pool).await;
    let skip = order(&us, &SyncCommand::Skip(entry(2))).await;
    us.store.skip(&us.fence, &skip, &entry(2)).await.unwrap().unwrap();
    assert_eq!(states(&us).await, "2 skipped");
    let reason: String = us.scalar("SELECT reason FROM repl_quarantine").await;
    assert!(reason.starts_with("ops says: a drill (failed: "), "{reason}");
    assert_eq!(us.store.retry_parked(&us.fence).await.unwrap(), 0);
    assert_eq!(us.scalar::<i64>(LEDGER_ROWS).await, 3);
    let again = order(&us, &SyncCommand::Skip(entry(2))).await;
    assert!(us.store.skip(&us.fence, &again, &entry(2)).await.unwrap().is_err(), "it is skipped already");
    let other = order(&us, &SyncCommand::Skip(entry(3))).await;
    assert!(us.store.skip(&us.fence, &other, &entry(3)).await.unwrap().is_err(), "an applied entry stays applied");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_log_is_fetched_anew_from_a_damaged_entry_on_and_nothing_is_applied_twice(pool: PgPool) {
    let us = us_with_one_set_aside(&pool).await;
    let eu = log("eu-west", FactStream::Ledger);
    let refetch = async |from: u64, own: &Origin| {
        let order = order(&us, &SyncCommand::Refetch(entry(from))).await;
        us.store.forget_from(&us.fence, order.id, own, &entry(from)).await.unwrap()
    };
    let (outcome, head) = refetch(5, &us.origin).await;
    assert!(outcome.is_err() && head.is_none(), "there is no fifth");
    let (outcome, _) = refetch(1, &eu.origin).await;
    assert!(outcome.is_err(), "nobody knows better than the origin");
    let (outcome, _) = refetch(3, &us.origin).await;
    assert!(outcome.is_ok(), "the envelope of the second is whole, and so is the chain up to it");
    let (outcome, head) = refetch(2, &us.origin).await;
    assert_eq!((outcome, head.map(|head| head.seq)), (Ok("1 entries are fetched anew".to_owned()), Some(1)));
    assert_eq!(us.store.logs().await.unwrap()[&eu].head, head.unwrap());
    assert_eq!(us.scalar::<i64>(LEDGER_ROWS).await, 3, "what was applied stays");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_log_whose_beginning_was_dropped_is_fetched_anew_only_where_it_is_still_whole(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    let facts: Vec<_> = (1..=8).map(settlement).collect();
    us.store.receive(&batch(&eu, Head::EMPTY, &facts)).await.unwrap();
    us.apply_all().await;
    sqlx::query("UPDATE repl_log SET received_at = now() - interval '8 days'").execute(us.store.pool()).await.unwrap();
    assert_eq!(us.store.truncate(&us.fence, &eu, 3, 3_600.0).await.unwrap(), (3, false));
    let flip = "UPDATE repl_log SET envelope = set_bit(envelope, 99, 1 - get_bit(envelope, 99)) WHERE seq = 6";
    sqlx::query(flip).execute(us.store.pool()).await.unwrap();
    for (from, is_possible) in [(1, false), (4, false), (7, false), (6, true), (5, true)] {
        let order = order(&us, &SyncCommand::Refetch(entry(from))).await;
        let (outcome, _) = us.store.forget_from(&us.fence, order.id, &us.origin, &entry(from)).await.unwrap();
        assert_eq!(outcome.is_ok(), is_possible, "{outcome:?}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn entries_of_a_stream_are_paused_with_a_known_peer_and_only_the_leader_obeys(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let what = |peer: &str| PeerStream { peer: peer.parse().unwrap(), stream: FactStream::Ledger };
    let pause = async |us: &Home, peer: &str, paused| {
        let order = order(us, &SyncCommand::Pause(what(peer))).await;
        us.store.pause(&us.fence, order.id, &what(peer), paused).await
    };
    assert!(pause(&us, "eu-west", true).await.unwrap().is_err(), "nobody knows it");
    let origin = Origin { region: "eu-west".parse().unwrap(), incarnation: 1 };
    us.store.save_member(&origin, crate::protocol::MemberState::Active, 0, &[]).await.unwrap();
    pause(&us, "eu-west", true).await.unwrap().unwrap();
    pause(&us, "eu-west", true).await.unwrap().unwrap();
    assert_eq!(us.store.pauses().await.unwrap(), BTreeSet::from([(origin.region, FactStream::Ledger)]));
    assert!(pause(&us, "us-east", true).await.unwrap().is_err(), "not with oneself");
    pause(&us, "eu-west", false).await.unwrap().unwrap();
    assert_eq!(us.store.pauses().await.unwrap(), BTreeSet::new());

    us.store.release_lease(&us.fence).await.unwrap();
    let _second = Home::new(&pool, "us-east").await;
    assert!(matches!(pause(&us, "eu-west", true).await, Err(StoreError::NotLeading)));
    assert_eq!(us.store.orders().await.unwrap().len(), 1, "it waits for whoever leads now");
}
