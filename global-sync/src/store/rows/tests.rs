use std::collections::BTreeSet;

use sqlx::PgPool;

use super::*;
use crate::{
    protocol::{Comparison, Difference, Head, Rows, Summary},
    store::tests::{Home, batch, created, log, published, settlement, taken},
};

fn question(stream: FactStream) -> Inspect {
    Inspect { stream, vector: None, prefix: Vec::new(), as_they_are: false }
}

async fn told(us: &Home, question: &Inspect) -> Option<(Inspect, Rows)> {
    let mut summary = Summary::new(&question.prefix);
    let vector = us.store.derived_rows(question, |row| summary.add(row)).await.unwrap()?;
    Some((Inspect { vector: Some(vector), ..question.clone() }, summary.finish()))
}

async fn compared(us: &Home, of: &Inspect, theirs: Rows) -> Option<Difference> {
    let mut comparison = Comparison::new(&of.prefix, theirs);
    us.store.derived_rows(of, |row| comparison.add(row)).await.unwrap()?;
    Some(comparison.finish())
}

fn nothing() -> Option<Difference> {
    Some(Difference::Keys(BTreeSet::new()))
}

#[sqlx::test(migrations = "../migrations")]
async fn the_ledger_is_compared_as_of_what_both_have_although_one_has_more(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let ledger = log("eu-west", FactStream::Ledger);
    let facts: Vec<_> = (1..=30).map(settlement).collect();
    let first = batch(&ledger, Head::EMPTY, &facts[..20]);
    us.store.receive(&first).await.unwrap();
    us.apply_all().await;
    let (of, then) = told(&us, &question(FactStream::Ledger)).await.unwrap();
    assert!(matches!(&then, Rows::Each(rows) if rows.len() == 20));
    us.store.receive(&batch(&ledger, first.checkpoint.head, &facts[20..])).await.unwrap();
    assert_eq!(compared(&us, &of, then.clone()).await, nothing());
    us.apply_all().await;
    assert_eq!(compared(&us, &of, then.clone()).await, nothing(), "what came later does not count");

    let (later, now) = told(&us, &question(FactStream::Ledger)).await.unwrap();
    assert_ne!(later, of);
    let beyond = later.vector.clone().unwrap().into_keys().map(|origin| (origin, 31)).collect();
    let beyond = Inspect { vector: Some(beyond), ..later };
    assert_eq!(compared(&us, &beyond, now).await, None, "nobody can tell before it is applied");

    sqlx::query("UPDATE ledger_facts SET amount = 1 WHERE origin_seq = 7").execute(&us.superuser).await.unwrap();
    let altered = BTreeSet::from([format!("fact {}", uuid::Uuid::from_u128(7))]);
    assert_eq!(compared(&us, &of, then).await, Some(Difference::Keys(altered)));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_altered_row_among_many_is_found_by_its_key_bucket_by_bucket(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    for n in 1..=600 {
        us.commit(&settlement(n)).await;
    }
    while us.number().await.more {}
    let (of, sums) = told(&us, &question(FactStream::Ledger)).await.unwrap();
    assert!(matches!(sums, Rows::Sums(_)));
    assert_eq!(compared(&us, &of, sums.clone()).await, Some(Difference::Buckets(Vec::new())));
    let key = format!("fact {}", uuid::Uuid::from_u128(321));
    let bucket = crate::protocol::hash_of(key.as_bytes())[0];
    let below = Inspect { prefix: vec![bucket], ..of.clone() };
    let (_, rows) = told(&us, &below).await.unwrap();
    sqlx::query("UPDATE ledger_facts SET currency = 'USD' WHERE fact_id = $1")
        .bind(uuid::Uuid::from_u128(321))
        .execute(&us.superuser)
        .await
        .unwrap();
    assert_eq!(compared(&us, &of, sums).await, Some(Difference::Buckets(vec![bucket])));
    assert_eq!(compared(&us, &below, rows).await, Some(Difference::Keys(BTreeSet::from([key]))));
}

#[sqlx::test(migrations = "../migrations")]
async fn homes_and_versions_are_compared_only_as_of_the_very_same_entries_and_while_nothing_waits(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let control = log("eu-west", FactStream::Control);
    let home = batch(&control, Head::EMPTY, &[created("eu-west", 1, 0), taken("ap-south", "porto-taxis", 7)]);
    us.store.receive(&home).await.unwrap();
    let versions = batch(&log("eu-west", FactStream::Config), Head::EMPTY, &[published(1, "EUR")]);
    us.store.receive(&versions).await.unwrap();
    us.apply_all().await;
    for (stream, alter, key) in [
        (FactStream::Control, "UPDATE tenant_homes SET n = n + 1", "home porto-taxis"),
        (FactStream::Control, r#"UPDATE home_takeovers SET heard = '{"eu-west": {"1": 8}}'"#, "takeover porto-taxis 2"),
        (FactStream::Config, "UPDATE tenant_config_versions SET config = '{}'", "version porto-taxis 1"),
    ] {
        let (of, rows) = told(&us, &question(stream)).await.unwrap();
        assert_eq!(compared(&us, &of, rows.clone()).await, nothing());
        sqlx::query(alter).execute(us.store.pool()).await.unwrap();
        let altered = BTreeSet::from([key.to_owned()]);
        assert_eq!(compared(&us, &of, rows.clone()).await, Some(Difference::Keys(altered)));
        let older = Inspect { vector: Some(BTreeMap::new()), ..of };
        assert_eq!(compared(&us, &older, rows).await, None);
    }
    us.commit(&created("us-east", 2, 0)).await;
    assert_eq!(told(&us, &question(FactStream::Control)).await, None, "its row may be here before it has a number");
}

#[sqlx::test(migrations = "../migrations")]
async fn rows_as_they_are_can_be_had_at_any_time_and_what_is_equal_in_them_is_equal(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let config = log("eu-west", FactStream::Config);
    let first = batch(&config, Head::EMPTY, &[published(1, "EUR"), published(2, "EUR")]);
    us.store.receive(&first).await.unwrap();
    us.apply_all().await;
    let as_they_are = Inspect { as_they_are: true, ..question(FactStream::Config) };
    let (of, rows) = told(&us, &as_they_are).await.unwrap();
    us.store.receive(&batch(&config, first.checkpoint.head, &[published(3, "EUR")])).await.unwrap();
    us.apply_all().await;
    us.commit(&published(4, "EUR")).await;
    assert_eq!(told(&us, &question(FactStream::Config)).await, None, "as of no vector while something waits");
    let newer = BTreeSet::from(["version porto-taxis 3".to_owned()]);
    assert_eq!(compared(&us, &of, rows).await, Some(Difference::Keys(newer)));
    let (later, _) = told(&us, &as_they_are).await.unwrap();
    assert_eq!(later.vector.unwrap().into_values().collect::<Vec<_>>(), [3], "it says what was applied at the least");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_config_that_changed_where_it_lies_differs_whatever_sum_stands_beside_it(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let versions = batch(&log("eu-west", FactStream::Config), Head::EMPTY, &[published(1, "EUR")]);
    us.store.receive(&versions).await.unwrap();
    us.apply_all().await;
    let (of, rows) = told(&us, &question(FactStream::Config)).await.unwrap();
    let alone = "ALTER TABLE tenant_config_versions ALTER COLUMN config_md5 DROP EXPRESSION";
    sqlx::query(alone).execute(&us.superuser).await.unwrap();
    assert_eq!(compared(&us, &of, rows.clone()).await, nothing());
    let alter = r#"UPDATE tenant_config_versions SET config = '{"currency": "EUS"}'"#;
    sqlx::query(alter).execute(&us.superuser).await.unwrap();
    let altered = BTreeSet::from(["version porto-taxis 1".to_owned()]);
    assert_eq!(compared(&us, &of, rows).await, Some(Difference::Keys(altered)));
}
