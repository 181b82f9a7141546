use sqlx::PgPool;

use super::*;
use crate::{
    protocol::hash_of,
    store::tests::{Home, log},
};

fn ledger(prefix: &[u8]) -> Inspect {
    Inspect { stream: FactStream::Ledger, vector: None, prefix: prefix.to_vec(), as_they_are: false }
}

fn keys(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("fact {n:03}")).collect()
}

async fn known(us: &Home, peer: &RegionName) -> Vec<String> {
    let mut known = us.store.differing().await.unwrap();
    known.remove(&(peer.clone(), FactStream::Ledger)).unwrap_or_default().into_iter().collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn rows_that_differ_are_kept_once_a_hundred_of_each_peer_and_stream(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let (eu, ap) = ("eu-west".parse().unwrap(), "ap-south".parse().unwrap());
    let add = async |peer: &RegionName, numbers| {
        us.store.add_differing(&us.fence, peer, FactStream::Ledger, &keys(numbers)).await.unwrap()
    };
    assert_eq!(add(&eu, 0..3).await, keys(0..3));
    assert_eq!(add(&eu, 1..5).await, keys(3..5), "the others are known");
    assert_eq!(add(&eu, 5..200).await, keys(5..100));
    assert_eq!(add(&ap, 0..2).await, keys(0..2), "each peer has room of its own");
    assert_eq!((known(&us, &eu).await, known(&us, &ap).await), (keys(0..100), keys(0..2)));
}

#[sqlx::test(migrations = "../migrations")]
async fn what_a_comparison_finds_equal_is_forgotten_and_nothing_beside_it(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let (eu, ap) = ("eu-west".parse().unwrap(), "ap-south".parse().unwrap());
    for peer in [&eu, &ap] {
        us.store.add_differing(&us.fence, peer, FactStream::Ledger, &keys(0..4)).await.unwrap();
    }
    let bucket = |n: usize| hash_of(keys(n..n + 1)[0].as_bytes())[0];
    let compare = async |prefix: &[u8], difference| {
        us.store.forget_equal(&us.fence, &eu, &ledger(prefix), &difference).await.unwrap();
        known(&us, &eu).await
    };
    assert_eq!(compare(&[], Difference::Buckets((0..=u8::MAX).collect())).await, keys(0..4));
    assert_eq!(compare(&[bucket(3)], Difference::Keys(keys(3..4).into_iter().collect())).await, keys(0..4));
    let too_many = Difference::Keys((0..MAX_ROWS).map(|n| format!("fact of others {n}")).collect());
    assert_eq!(compare(&[], too_many).await, keys(0..4), "there may be more");
    assert_eq!(compare(&[bucket(3)], Difference::Keys(BTreeSet::new())).await, keys(0..3));
    assert_eq!(compare(&[], Difference::Buckets(vec![bucket(0), bucket(1)])).await, keys(0..2));
    assert_eq!(compare(&[], Difference::Keys(keys(1..2).into_iter().collect())).await, keys(1..2));
    assert_eq!(compare(&[], Difference::Buckets(Vec::new())).await, Vec::<String>::new());
    assert_eq!(known(&us, &ap).await, keys(0..4), "nothing was compared with it");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_log_that_differs_from_a_peer_s_is_kept_with_one_entry_until_it_does_not(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let (eu, ap): (RegionName, RegionName) = ("eu-west".parse().unwrap(), "ap-south".parse().unwrap());
    let (ledger, config) = (log("us-east", FactStream::Ledger), log("us-east", FactStream::Config));
    let add =
        async |peer: &RegionName, log: &LogId, seq| us.store.add_diverged(&us.fence, peer, log, seq).await.unwrap();
    assert!(add(&eu, &ledger, 7).await);
    assert!(!add(&eu, &ledger, 9).await, "it is known");
    assert!(add(&eu, &config, 2).await && add(&ap, &ledger, 7).await);
    us.store.forget_diverged(&us.fence, &eu, &ledger).await.unwrap();
    let left = BTreeMap::from([((ap.clone(), ledger.clone()), 7), ((eu.clone(), config), 2)]);
    assert_eq!(us.store.diverged().await.unwrap(), left);

    us.store.release_lease(&us.fence).await.unwrap();
    let second = Home::new(&pool, "us-east").await;
    let add = us.store.add_diverged(&us.fence, &eu, &ledger, 9).await;
    assert!(matches!(add, Err(StoreError::NotLeading)));
    let forget = us.store.forget_diverged(&us.fence, &ap, &ledger).await;
    assert!(matches!(forget, Err(StoreError::NotLeading)));
    assert_eq!(second.store.diverged().await.unwrap(), left);
}

#[sqlx::test(migrations = "../migrations")]
async fn whoever_leads_no_more_keeps_and_forgets_nothing(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu: RegionName = "eu-west".parse().unwrap();
    let named = vec!["us-east/1/ledger/3: it is gone".to_owned()];
    let found = Damaged { entries: 1, named, rows: Vec::new() };
    assert_eq!(us.store.damage().await.unwrap(), None, "nobody has looked");
    us.store.save_damage(&us.fence, &found).await.unwrap();
    us.store.add_differing(&us.fence, &eu, FactStream::Ledger, &keys(0..1)).await.unwrap();
    us.store.release_lease(&us.fence).await.unwrap();
    let second = Home::new(&pool, "us-east").await;
    let nothing = Damaged::default();
    assert!(matches!(us.store.save_damage(&us.fence, &nothing).await, Err(StoreError::NotLeading)));
    let add = us.store.add_differing(&us.fence, &eu, FactStream::Ledger, &keys(1..2)).await;
    assert!(matches!(add, Err(StoreError::NotLeading)));
    let forget = us.store.forget_equal(&us.fence, &eu, &ledger(&[]), &Difference::Buckets(Vec::new())).await;
    assert!(matches!(forget, Err(StoreError::NotLeading)));
    assert_eq!(second.store.damage().await.unwrap().map(|seen| seen.found), Some(found));
    assert_eq!(known(&second, &eu).await, keys(0..1));
    second.store.save_damage(&second.fence, &nothing).await.unwrap();
    assert_eq!(us.store.damage().await.unwrap().map(|seen| seen.found), Some(nothing));
}
