use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgPool;
use uuid::Uuid;

use super::*;
use crate::{
    protocol::Head,
    store::{
        Damaged,
        tests::{CLUSTER, HashSigner, Home, batch, created, log, published, settlement, taken},
    },
};

/// us-east with a ledger of four of eu-west's, a version and a home.
async fn us_with_rows(pool: &PgPool) -> Home {
    let us = Home::new(pool, "us-east").await;
    let facts: Vec<_> = (1..=4).map(settlement).collect();
    us.store.receive(&batch(&log("eu-west", FactStream::Ledger), Head::EMPTY, &facts)).await.unwrap();
    for (stream, fact) in [(FactStream::Config, published(1, "EUR")), (FactStream::Control, created("eu-west", 1, 0))] {
        us.store.receive(&batch(&log("eu-west", stream), Head::EMPTY, &[fact])).await.unwrap();
    }
    us.apply_all().await;
    us
}

async fn alter(us: &Home, sql: &'static str) {
    sqlx::query(sql).execute(&us.superuser).await.unwrap();
}

async fn mend(us: &Home, key: &str) -> Outcome {
    us.store.mend(&us.fence, &key.parse().unwrap()).await.unwrap()
}

/// Everything a region says that it holds, and what is damaged in its ledger.
async fn state(us: &Home) -> (String, BTreeMap<u64, Option<String>>) {
    us.store.check_ledger(&us.fence).await.unwrap();
    let ledger = log("eu-west", FactStream::Ledger);
    let looked = us.store.verify_log(CLUSTER, &ledger, 1, 100, &mut HashSigner).await.unwrap();
    let damaged = looked.damage.into_iter().map(|damage| (damage.seq, damage.row.map(|key| key.to_string())));
    (us.store.digest().await.unwrap(), damaged.collect())
}

#[sqlx::test(migrations = "../migrations")]
async fn a_fact_s_row_that_changed_in_any_way_is_named_by_its_key_and_made_anew_of_its_entry(pool: PgPool) {
    let us = us_with_rows(&pool).await;
    let sound = state(&us).await;
    assert!(sound.1.is_empty());
    let key = format!("fact {}", Uuid::from_u128(3));
    for damage in [
        "UPDATE ledger_facts SET amount = amount # 64 WHERE origin_seq = 3",
        "UPDATE ledger_facts SET tenant_id = 'porto-taxit' WHERE origin_seq = 3",
        "UPDATE ledger_facts SET payment_id = gen_random_uuid() WHERE origin_seq = 3",
        "UPDATE ledger_facts SET settled_at = settled_at + interval '1 hour' WHERE origin_seq = 3",
        "UPDATE ledger_facts SET body_hash = set_bit(body_hash, 9, 1 - get_bit(body_hash, 9)) WHERE origin_seq = 3",
        "UPDATE ledger_facts SET fact_id = gen_random_uuid() WHERE origin_seq = 3",
        "UPDATE ledger_facts SET origin_seq = 77, amount = 1 WHERE origin_seq = 3",
        "DELETE FROM ledger_facts WHERE origin_seq = 3",
    ] {
        alter(&us, damage).await;
        let (digest, damaged) = state(&us).await;
        assert!(digest != sound.0 && damaged == BTreeMap::from([(3, Some(key.clone()))]), "{damage}: {damaged:?}");
        let said = mend(&us, &key).await;
        assert_eq!(said, Ok(format!("{key} is what entry 3 of eu-west/1/ledger says again")), "{damage}");
        assert_eq!(state(&us).await, sound, "{damage}");
        let again = mend(&us, &key).await.unwrap();
        assert!(again.starts_with(&format!("{key} was what entry 3")), "{again}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_version_and_a_home_are_made_anew_of_what_was_said_of_them(pool: PgPool) {
    let us = us_with_rows(&pool).await;
    let sound = state(&us).await.0;
    for (damage, key) in [
        (r#"UPDATE tenant_config_versions SET config = '{"currency": "EUS"}'"#, "version porto-taxis 1"),
        ("UPDATE tenant_config_versions SET home_term = 5", "version porto-taxis 1"),
        ("DELETE FROM tenant_config_versions", "version porto-taxis 1"),
        ("UPDATE tenant_homes SET region = 'us-easu'", "home porto-taxis"),
        ("UPDATE tenant_homes SET term = 3", "home porto-taxis"),
        ("DELETE FROM tenant_homes", "home porto-taxis"),
    ] {
        alter(&us, damage).await;
        assert_ne!(state(&us).await.0, sound, "{damage}");
        mend(&us, key).await.unwrap();
        assert_eq!(state(&us).await.0, sound, "{damage}");
    }
}

/// A damaged one says which payments are late, and where two say something of one term every region keeps the same of them.
#[sqlx::test(migrations = "../migrations")]
async fn a_takeover_is_made_anew_of_what_whoever_took_the_home_has_said_whatever_the_row_says(pool: PgPool) {
    let us = us_with_rows(&pool).await;
    let key = "takeover porto-taxis 2";
    let mut told = Head::EMPTY;
    for (heard, of) in [(3, 1), (2, 2), (4, 2)] {
        let next = batch(&log("ap-south", FactStream::Control), told, &[taken("ap-south", "porto-taxis", heard)]);
        told = next.checkpoint.head;
        us.store.receive(&next).await.unwrap();
        us.apply_all().await;
        let sound = state(&us).await.0;
        for damage in [
            r#"UPDATE home_takeovers SET heard = '{"eu-west": {"1": 1}}'"#,
            r#"UPDATE home_takeovers SET heard = '{"eu-west": {"1": 9}}'"#,
            "UPDATE home_takeovers SET region = 'af-south'",
            "UPDATE home_takeovers SET term = 7",
            "DELETE FROM home_takeovers",
        ] {
            alter(&us, damage).await;
            assert_ne!(state(&us).await.0, sound, "{damage}");
            let said = mend(&us, key).await;
            assert_eq!(said, Ok(format!("{key} is what entry {of} of ap-south/1/control says again")), "{damage}");
            alter(&us, "DELETE FROM home_takeovers WHERE term = 7").await;
            assert_eq!(state(&us).await.0, sound, "{damage}");
            let again = mend(&us, key).await.unwrap();
            assert!(again.starts_with(&format!("{key} was what entry {of}")), "{again}");
        }
    }
    alter(&us, "UPDATE repl_cursor SET truncated = 1 WHERE stream = 'control'").await;
    alter(&us, "DELETE FROM home_takeovers").await;
    assert!(mend(&us, key).await.is_ok(), "one region alone takes a term");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_row_is_not_put_back_to_an_earlier_tenure_where_a_later_entry_may_be_dropped(pool: PgPool) {
    let us = us_with_rows(&pool).await;
    alter(&us, "UPDATE tenant_homes SET term = 2, region = 'ap-south'").await;
    alter(&us, "UPDATE tenant_config_versions SET home_term = 2, config = '{}'").await;
    alter(&us, "UPDATE repl_cursor SET truncated = 1 WHERE stream <> 'ledger'").await;
    for key in ["home porto-taxis", "version porto-taxis 1"] {
        let why = mend(&us, key).await.unwrap_err();
        assert!(why.contains("a later one may be dropped"), "{why}");
    }
    let (home, config): (String, serde_json::Value) =
        sqlx::query_as("SELECT h.region, v.config FROM tenant_homes h JOIN tenant_config_versions v USING (tenant_id)")
            .fetch_one(us.store.pool())
            .await
            .unwrap();
    assert_eq!((home.as_str(), config), ("ap-south", serde_json::json!({})), "nothing was changed");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_no_entry_says_is_not_made_up_and_a_damaged_entry_is_not_believed(pool: PgPool) {
    let us = us_with_rows(&pool).await;
    let key = format!("fact {}", Uuid::from_u128(3));
    alter(&us, "UPDATE ledger_facts SET amount = 1 WHERE origin_seq = 3").await;
    alter(
        &us,
        "UPDATE repl_log SET body = set_bit(body, 200, 1 - get_bit(body, 200)) WHERE stream = 'ledger' AND seq = 3",
    )
    .await;
    let unknown = format!("fact {}", Uuid::from_u128(99));
    for key in [&key, &unknown, "version porto-taxis 2", "home manhattan-cabs", "takeover porto-taxis 2"] {
        let why = mend(&us, key).await.unwrap_err();
        assert!(why.starts_with(&format!("no entry here says anything of {key}")), "{why}");
    }
    for key in ["draft porto-taxis", "rollout porto-taxis", "region eu-west"] {
        mend(&us, key).await.unwrap_err();
    }
    assert_eq!(us.scalar::<i64>("SELECT amount FROM ledger_facts WHERE origin_seq = 3").await, 1);
    us.store.release_lease(&us.fence).await.unwrap();
    let _second = Home::new(&pool, "us-east").await;
    let not_leading = us.store.mend(&us.fence, &key.parse().unwrap()).await;
    assert!(matches!(not_leading, Err(StoreError::NotLeading)), "{not_leading:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_mended_row_is_told_of_no_more_and_others_are(pool: PgPool) {
    let us = us_with_rows(&pool).await;
    let keys: Vec<String> = [2, 3].map(|n| format!("fact {}", Uuid::from_u128(n))).to_vec();
    alter(&us, "UPDATE ledger_facts SET amount = 1 WHERE origin_seq IN (2, 3)").await;
    let mut found = Damaged::default();
    found.add("draft porto-taxis: it does not load".to_owned(), None);
    for key in &keys {
        found.add(
            format!("eu-west/1/ledger/2: the ledger's row of {key} is not what it says"),
            Some(key.parse().unwrap()),
        );
    }
    us.store.save_damage(&us.fence, &found).await.unwrap();
    for peer in ["eu-west", "ap-south"] {
        us.store.add_differing(&us.fence, &peer.parse().unwrap(), FactStream::Ledger, &keys).await.unwrap();
    }
    let all: Vec<String> = us.store.rows_to_mend().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(all, keys);
    mend(&us, &keys[0]).await.unwrap();
    let seen = us.store.damage().await.unwrap().unwrap().found;
    assert_eq!((seen.entries, seen.named.len(), seen.rows), (2, 2, vec![keys[1].clone()]));
    let differing: BTreeSet<String> = us.store.differing().await.unwrap().into_values().flatten().collect();
    assert_eq!(differing.into_iter().collect::<Vec<_>>(), keys[1..]);
}
