use shared::fact::FactStream;
use sqlx::PgPool;

use crate::store::tests::{CLUSTER, HashSigner, Home, log, settlement};

#[sqlx::test(migrations = "../migrations")]
async fn only_old_and_applied_entries_up_to_the_given_one_are_dropped_and_none_that_is_set_aside(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    for n in 1..=10 {
        us.commit(&settlement(n)).await;
    }
    us.number().await;
    let ledger = log("us-east", FactStream::Ledger);
    let truncate = async |upto, keep_s| us.store.truncate(&us.fence, &ledger, upto, keep_s).await.unwrap();
    assert_eq!(truncate(8, 3_600.0).await, (0, false), "nothing is old");
    let age = "UPDATE repl_log SET received_at = now() - interval '8 days' WHERE seq <= 6";
    sqlx::query(age).execute(us.store.pool()).await.unwrap();
    let set_aside = "INSERT INTO repl_quarantine (origin_region, origin_incarnation, stream, seq, kind, state, reason)
                     VALUES ('us-east', 1, 'ledger', 2, 'settlement', 'failed', '')";
    sqlx::query(set_aside).execute(us.store.pool()).await.unwrap();
    assert_eq!(truncate(4, 3_600.0).await, (4, false));
    assert_eq!(truncate(9, 3_600.0).await, (6, false));
    let left = "SELECT string_agg(seq::text, ' ' ORDER BY seq) FROM repl_log";
    assert_eq!(us.scalar::<String>(left).await, "2 7 8 9 10");
    let read = async |from| us.store.read_for_peer(&ledger, from, 10, 1_000_000, &[]).await.unwrap();
    for from in [1, 2, 6] {
        assert!(read(from).await.is_none(), "nothing is sent with a hole in it: {from}");
    }
    assert_eq!(read(7).await.map(|sent| sent.entries.len()), Some(4));
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 10);
    assert_eq!(truncate(10, 0.0).await, (9, false), "the newest stays");
    assert_eq!(us.store.verify_log(CLUSTER, &ledger, 1, 100, &mut HashSigner).await.unwrap().damage, vec![]);
}

#[sqlx::test(migrations = "../migrations")]
async fn of_old_acknowledgements_the_last_of_each_minute_stays_and_no_fact_is_durable_before_it_was(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    for n in 1..=12 {
        us.commit(&settlement(n)).await;
    }
    us.number().await;
    // An entry each twenty seconds.
    let acknowledged = "INSERT INTO repl_remote_durable (origin_region, origin_incarnation, seq, durable_at)
                        SELECT 'us-east', 1, n, '2026-01-01 00:00:00+00'::timestamptz + n * interval '20 s'
                        FROM generate_series(1, 12) n";
    sqlx::query(acknowledged).execute(us.store.pool()).await.unwrap();
    let ledger = log("us-east", FactStream::Ledger);
    let kept = "SELECT string_agg(seq::text, ' ' ORDER BY seq) FROM repl_remote_durable";
    for (upto, left) in [(4, "2 4 5 6 7 8 9 10 11 12"), (7, "2 5 7 8 9 10 11 12"), (11, "2 5 8 11 12")] {
        us.store.truncate(&us.fence, &ledger, upto, 0.0).await.unwrap();
        assert_eq!(us.scalar::<String>(kept).await, left, "{upto}");
    }
    let told = "SELECT bool_and(said >= was AND said < was + interval '1 min') FROM (
                    SELECT '2026-01-01 00:00:00+00'::timestamptz + f.origin_seq * interval '20 s' AS was,
                           (SELECT d.durable_at FROM repl_remote_durable d WHERE d.seq >= f.origin_seq
                            ORDER BY d.seq LIMIT 1) AS said
                    FROM ledger_facts f) of";
    assert!(us.scalar::<bool>(told).await);
}
