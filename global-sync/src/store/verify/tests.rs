use shared::fact::FactStream;
use sqlx::PgPool;

use super::*;
use crate::protocol::Head;
use crate::store::tests::{CLUSTER, HashSigner, Home, batch, log, settlement};

async fn look(us: &Home, log: &LogId) -> Vec<u64> {
    let mut found = Vec::new();
    let mut from = 1;
    loop {
        let looked = us.store.verify_log(CLUSTER, log, from, 7, &mut HashSigner).await.unwrap();
        found.extend(looked.damage.into_iter().map(|damage| damage.seq));
        let Some(next) = looked.next else { return found };
        from = next;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bit_that_flips_anywhere_in_a_row_of_the_log_is_found_by_its_number(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    for n in 1..=20 {
        us.commit(&settlement(n)).await;
    }
    us.number().await;
    let ledger = log("us-east", FactStream::Ledger);
    assert_eq!(look(&us, &ledger).await, Vec::<u64>::new());
    for column in ["hash", "envelope", "body"] {
        for (seq, bit) in [(1_i64, 0), (7, 77), (8, 100), (20, 200)] {
            let flip = format!(
                "UPDATE repl_log SET {column} = set_bit({column}, $1, 1 - get_bit({column}, $1)) WHERE seq = $2"
            );
            let flip = async || {
                let flip = sqlx::query(sqlx::AssertSqlSafe(flip.clone())).bind(i64::from(bit)).bind(seq);
                flip.execute(us.store.pool()).await.unwrap();
            };
            flip().await;
            assert!(look(&us, &ledger).await.contains(&seq.unsigned_abs()), "{column} of {seq}");
            flip().await;
        }
    }
    sqlx::query("DELETE FROM repl_log WHERE seq IN (9, 20)").execute(us.store.pool()).await.unwrap();
    assert_eq!(look(&us, &ledger).await, [9, 20]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_signature_that_changed_strayed_or_vanished_is_found_by_the_number_of_its_entry(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    for n in 1..=20 {
        us.commit(&settlement(n)).await;
        us.number().await;
    }
    let ledger = log("us-east", FactStream::Ledger);
    us.store.truncate(&us.fence, &ledger, 3, 0.0).await.unwrap();
    assert_eq!(look(&us, &ledger).await, Vec::<u64>::new());
    let flip = "SET signature = set_bit(signature, 99, 1 - get_bit(signature, 99)) WHERE seq =";
    for (change, undo, found) in [
        (format!("{flip} 4"), format!("{flip} 4"), vec![4]),
        (format!("{flip} 11"), format!("{flip} 11"), vec![11]),
        (format!("{flip} 20"), format!("{flip} 20"), vec![20]),
        ("SET seq = 2 WHERE seq = 6".to_owned(), "SET seq = 6 WHERE seq = 2".to_owned(), vec![2]),
        ("SET seq = 84 WHERE seq = 20".to_owned(), "SET seq = 20 WHERE seq = 84".to_owned(), vec![84, 20]),
    ] {
        let update = async |what: &str| {
            let sql = format!("UPDATE repl_checkpoint {what}");
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(us.store.pool()).await.unwrap();
        };
        update(&change).await;
        assert_eq!(look(&us, &ledger).await, found, "{change}");
        update(&undo).await;
    }
    assert_eq!(look(&us, &ledger).await, Vec::<u64>::new());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_stored_entry_that_changed_before_it_was_applied_reaches_no_table(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    us.store.receive(&batch(&eu, Head::EMPTY, &[settlement(1), settlement(2), settlement(3)])).await.unwrap();
    let flip = "UPDATE repl_log SET envelope = set_bit(envelope, 8 * (length(envelope) - 20),
                    1 - get_bit(envelope, 8 * (length(envelope) - 20))) WHERE seq = 2";
    sqlx::query(flip).execute(us.store.pool()).await.unwrap();
    us.apply_all().await;
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 2);
    let place = "SELECT concat_ws('/', origin_region, stream, seq, state) FROM repl_quarantine";
    assert_eq!(us.scalar::<String>(place).await, "eu-west/ledger/2/failed");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_settlement_that_changed_or_vanished_in_the_ledger_is_named_by_its_id(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    for n in 1..=20 {
        us.commit(&settlement(n)).await;
    }
    us.number().await;
    let ledger = log("us-east", FactStream::Ledger);
    for change in [
        "amount = amount + 1",
        "currency = 'EUX'",
        "tenant_id = 'porto-taxix'",
        "kind = 'refund'",
        "settled_at = settled_at + interval '1 microsecond'",
        "body_hash = set_bit(body_hash, 3, 1 - get_bit(body_hash, 3))",
        "trip_id = gen_random_uuid()",
    ] {
        let row: Vec<u8> = us.scalar("SELECT body_hash FROM ledger_facts WHERE origin_seq = 7").await;
        let change = format!("UPDATE ledger_facts SET {change} WHERE origin_seq = 7");
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(&us.superuser).await.unwrap();
        let damage = us.store.verify_log(CLUSTER, &ledger, 1, 100, &mut HashSigner).await.unwrap().damage;
        assert_eq!(damage.len(), 1);
        assert!(damage[0].seq == 7 && damage[0].what.contains(&Uuid::from_u128(7).to_string()), "{damage:?}");
        let restore = "UPDATE ledger_facts SET amount = 70, currency = 'EUR', tenant_id = 'porto-taxis',
                           kind = 'settlement', settled_at = to_timestamp(0), body_hash = $1, trip_id = $2
                       WHERE origin_seq = 7";
        let restore = sqlx::query(restore).bind(row).bind(Uuid::from_u128(2_000_007));
        restore.execute(&us.superuser).await.unwrap();
        assert_eq!(us.store.verify_log(CLUSTER, &ledger, 1, 100, &mut HashSigner).await.unwrap().damage, vec![]);
    }
}
