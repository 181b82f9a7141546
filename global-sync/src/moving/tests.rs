use std::collections::BTreeSet;

use sqlx::PgPool;

use super::tables::{self, MOVES, STAYS};

#[sqlx::test(migrations = "../migrations")]
async fn every_table_with_a_tenant_moves_or_is_said_to_stay(pool: PgPool) {
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE a.attname = 'tenant_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
           AND c.relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let said: BTreeSet<&str> = MOVES.iter().map(|table| table.name).chain(STAYS).collect();
    assert_eq!(found, said);
    assert_eq!(said.len(), MOVES.len() + STAYS.len(), "no table is named twice");
}

/// Rows are written in the order of the list, and erased in the opposite one.
#[sqlx::test(migrations = "../migrations")]
async fn a_table_comes_after_those_it_refers_to(pool: PgPool) {
    let references: Vec<(String, String)> = sqlx::query_as(
        "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint
         WHERE contype = 'f' AND conrelid <> confrelid",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let place = |name: &str| MOVES.iter().position(|table| table.name == name);
    for (table, referred) in references {
        if let (Some(at), Some(before)) = (place(&table), place(&referred)) {
            assert!(before < at, "{table} refers to {referred}");
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_the_database_makes_by_itself_does_not_move(pool: PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    let shapes = tables::shapes(&mut connection).await.unwrap();
    let copy = |name: &str| shapes.iter().find(|shape| shape.table.name == name).unwrap().copy_out("cabs", None);
    assert!(!copy("rides").contains("promotion_code"), "a generated column");
    assert!(!copy("ledger_entries").contains("made_by"), "the number of a transaction there");
    assert!(copy("riders").contains("sealed_phone"));
}
