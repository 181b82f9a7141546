//! The sandbox on a bad day: Stripe's rules of idempotency hold whatever its script does.

use uuid::Uuid;

use super::*;
use crate::payments::psp::PspRegistry;

async fn scripted(pool: &PgPool, script: &str) -> TestRegion {
    let settings = format!("psp = {{ timeout = \"100ms\", sandbox = {{ script = {{ seed = 4, {script} }} }} }}");
    TestRegion::with_settings(pool.clone(), &settings).await
}

/// The same in every run.
fn numbered(n: u128) -> ChargeOrder {
    ChargeOrder { key: OperationKey::Payment(PaymentId(Uuid::from_u128(n))), ..order("tok_visa", 1_100) }
}

/// Asks until it is known what became of an order, as the platform does.
async fn end_of(psp: &PspRegistry, order: Order<'_>) -> Answer {
    for _ in 0..20 {
        let asked = match order {
            Order::Charge(order) => psp.charge("sandbox", order).await,
            Order::Refund(order) => psp.refund("sandbox", order).await,
        };
        let known = if asked.is_ok() { asked.map(Some) } else { psp.find("sandbox", order, true).await };
        if let Ok(Some(answer)) = known {
            return answer;
        }
    }
    panic!("{order:?} has no end")
}

async fn done(pool: &PgPool) -> Vec<(String, i64, i64)> {
    let mut conn = pool.acquire().await.unwrap();
    sqlx::query("SELECT set_config('app.tenant_id', 'cabs', false)").execute(&mut *conn).await.unwrap();
    let sql = "SELECT kind || ' ' || outcome, count(*), sum(amount)::bigint FROM sandbox_psp_operations GROUP BY 1 ORDER BY 1";
    sqlx::query_as(sql).fetch_all(&mut *conn).await.unwrap()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn whatever_the_script_does_an_order_is_done_once_and_its_end_is_found(pool: PgPool) {
    let script = "latency = \"5ms\", declines = 0.2, errors_before = 0.2, errors_after = 0.2, silences = 0.1";
    let region = scripted(&pool, script).await;
    let (mut charged, mut declined, mut refunded) = (0, 0, 0);
    for n in 0..40 {
        let charge = numbered(n);
        let end = end_of(&region.app.psp, Order::Charge(&charge)).await;
        assert_eq!(end_of(&region.app.psp, Order::Charge(&charge)).await, end, "and stays so");
        let Answer::Approved { provider_ref } = end else {
            declined += 1;
            continue;
        };
        charged += 1;
        let key = OperationKey::Refund(RefundId(Uuid::from_u128(n)));
        let (tenant, begun_at) = (charge.tenant, charge.begun_at);
        let refund = RefundOrder { tenant, key, charge_ref: provider_ref, amount: usd(300), begun_at };
        if let Answer::Approved { .. } = end_of(&region.app.psp, Order::Refund(&refund)).await {
            refunded += 1;
        }
    }
    assert!(charged > 20 && declined > 0 && refunded > 10, "{charged} {declined} {refunded}");
    let expected = [
        ("charge declined".to_owned(), declined, declined * 1_100),
        ("charge succeeded".to_owned(), charged, charged * 1_100),
        ("refund declined".to_owned(), charged - refunded, (charged - refunded) * 300),
        ("refund succeeded".to_owned(), refunded, refunded * 300),
    ];
    assert_eq!(done(&pool).await, expected);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_server_error_after_the_deed_is_given_again_and_the_deed_is_found(pool: PgPool) {
    let region = scripted(&pool, "errors_after = 1.0").await;
    let charge = numbered(1);
    for _ in 0..3 {
        let answer = region.app.psp.charge("sandbox", &charge).await.unwrap_err();
        assert!(answer.to_string().contains("500"), "{answer}");
    }
    let found = region.app.psp.find("sandbox", Order::Charge(&charge), true).await;
    assert!(matches!(found, Ok(Some(Answer::Approved { .. }))), "{found:?}");
    assert_eq!(done(&pool).await, [("charge succeeded".to_owned(), 1, 1_100)]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_server_error_before_the_deed_leaves_nothing_but_the_attempt(pool: PgPool) {
    let region = scripted(&pool, "errors_before = 1.0").await;
    for _ in 0..3 {
        assert!(region.app.psp.charge("sandbox", &numbered(1)).await.is_err());
    }
    assert_eq!(region.app.psp.find("sandbox", Order::Charge(&numbered(1)), true).await, Ok(None));
    assert_eq!(done(&pool).await, [("charge error".to_owned(), 1, 1_100)]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_key_in_use_has_no_answer_and_is_asked_again(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let (psp, charge) = (&region.app.psp, numbered(1));
    let mut first = region.app.db.anywhere(&charge.tenant).await.unwrap();
    let hold = sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('sandbox:' || $1, 0))");
    hold.bind(charge.key.to_string()).execute(first.conn()).await.unwrap();
    let in_use = psp.charge("sandbox", &charge).await.unwrap_err();
    assert!(in_use.to_string().contains("409"), "{in_use}");
    first.rollback().await.unwrap();
    let answers = futures::future::join_all((0..8).map(|_| psp.charge("sandbox", &charge))).await;
    for answer in answers {
        assert!(answer.is_ok() || answer.unwrap_err().to_string().contains("409"));
    }
    assert!(psp.charge("sandbox", &charge).await.is_ok());
    assert_eq!(done(&pool).await, [("charge succeeded".to_owned(), 1, 1_100)]);
}
