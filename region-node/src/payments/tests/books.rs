//! The database's own rules of the ledger.

use super::*;

/// Tries a statement on a settled payment's entry; the constraint it breaks.
async fn broken(scene: &Scene, sql: &'static str) -> String {
    let mut conn = scene.conn().await;
    let failed = sqlx::raw_sql(sql).execute(&mut *conn).await.unwrap_err();
    failed.as_database_error().and_then(|error| error.constraint()).unwrap_or_default().to_owned()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_database_refuses_to_unbalance_change_or_extend_the_ledger(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    scene.pay(scene.trip().await, "tok_declined").await.ok(201);
    let unbalanced = "INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at)
        SELECT '00000000-0000-7000-8000-000000000001', tenant_id, 'adjustment', id, currency, now()
        FROM payments WHERE status = 'failed';
        INSERT INTO ledger_postings SELECT id, 1, tenant_id, 'tenant:revenue', 5 FROM ledger_entries
        WHERE id = '00000000-0000-7000-8000-000000000001'";
    assert_eq!(broken(&scene, unbalanced).await, "ledger_entry_balances");
    let late =
        "INSERT INTO ledger_postings SELECT entry_id, 90 + line, tenant_id, account, amount FROM ledger_postings";
    assert_eq!(broken(&scene, late).await, "ledger_entry_is_closed");
    for change in [
        "UPDATE ledger_postings SET amount = amount * 2",
        "DELETE FROM ledger_postings",
        "UPDATE ledger_entries SET currency = 'EUR'",
        "DELETE FROM ledger_entries",
        "TRUNCATE ledger_entries CASCADE",
    ] {
        assert_eq!(broken(&scene, change).await, "ledger_is_immutable", "{change}");
    }
    let second = "INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at)
        SELECT gen_random_uuid(), tenant_id, kind, payment_id, currency, posted_at FROM ledger_entries";
    assert_eq!(broken(&scene, second).await, "one_settlement_entry_per_payment");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_database_refuses_a_second_payment_of_a_trip_and_more_refunds_than_money(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let mut tx = scene.tx().await;
    let paid = store::load_payment(&mut tx, id).await.unwrap().unwrap();
    drop(tx);
    let second = PaymentRecord { id: PaymentId::new(), sequence: Sequence::begun(paid.created_at), ..paid };
    let mut tx = scene.tx().await;
    let error = store::insert_payment(&mut tx, &second).await.unwrap_err();
    assert_eq!(crate::db::constraint(&error), Some("one_live_payment_per_share"));
    assert_eq!(broken(&scene, "UPDATE payments SET refunded_amount = amount + 1").await, "payments_check");
    assert_eq!(broken(&scene, "UPDATE payments SET commission_amount = amount").await, "payment_is_divided");
}
