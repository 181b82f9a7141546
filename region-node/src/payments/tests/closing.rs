use time::{Duration, OffsetDateTime, Time, UtcOffset};

use super::*;
use crate::payments::closing;

/// What each account comes to by its postings, all of them, and by the last closing and what follows; where the two differ.
const DIFFERENT: &str = "SELECT count(*) FROM
    (SELECT account, currency, sum(amount) AS balance
     FROM ledger_parts('cabs', (SELECT max(closed_until) FROM ledger_closings WHERE summed_at IS NOT NULL), 'infinity')
     GROUP BY 1, 2) closed
    FULL JOIN (SELECT p.account, e.currency, sum(p.amount) AS balance
               FROM ledger_postings p JOIN ledger_entries e ON e.id = p.entry_id
               WHERE p.account NOT LIKE 'rider:%' GROUP BY 1, 2) posted USING (account, currency)
    WHERE closed.balance IS DISTINCT FROM posted.balance";
/// Where a closing says something else than the postings dated before it.
const WRONG: &str = "SELECT count(*) FROM
    (SELECT c.closed_until, p.account, e.currency, sum(p.amount) AS balance
     FROM ledger_closings c JOIN ledger_entries e ON e.posted_at < c.closed_until JOIN ledger_postings p ON p.entry_id = e.id
     WHERE c.summed_at IS NOT NULL AND p.account NOT LIKE 'rider:%' GROUP BY 1, 2, 3) posted
    FULL JOIN ledger_closed_balances b USING (closed_until, account, currency)
    WHERE b.balance IS DISTINCT FROM posted.balance";

impl Scene {
    /// A scene ten days ago, since no ledger is closed until a time that is yet to come.
    async fn some_days_ago(pool: PgPool) -> Self {
        let region = TestRegion::with_settings(pool.clone(), r#"tokens = { access_ttl = "480h" }"#).await;
        region.clock.advance(-Duration::days(10));
        Self::of(region, pool).await
    }

    async fn close(&self) -> u64 {
        closing::run_due(&self.region.app).await.unwrap()
    }

    /// The end of the day it is; and the clock goes on to when that is closed.
    fn day_ends(&self) -> OffsetDateTime {
        let now = self.region.clock.now();
        let end = (now + Duration::DAY).to_offset(UtcOffset::UTC).replace_time(Time::MIDNIGHT);
        self.region.clock.advance(end + closing::AFTER - now);
        end
    }

    async fn tenant_s_statement(&self, from: OffsetDateTime, to: OffsetDateTime) -> Value {
        self.admin.get(&format!("/v1/statement?{}", statement::period(from, to))).await.ok(200)
    }

    /// Books something small on the driver's account that is dated so.
    async fn book(&self, posted_at: OffsetDateTime) -> sqlx::Result<()> {
        let mut conn = self.conn().await;
        let mut tx = sqlx::Connection::begin(&mut *conn).await?;
        let entry = Uuid::now_v7();
        sqlx::query("INSERT INTO ledger_entries (id, tenant_id, kind, currency, posted_at) VALUES ($1, 'cabs', 'recovered', 'USD', $2)")
            .bind(entry)
            .bind(posted_at)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO ledger_postings SELECT $1, line, 'cabs', account, amount
             FROM (VALUES (1, 'driver:' || $2::uuid, 1), (2, 'tenant:suspense', -1)) AS posting (line, account, amount)",
        )
        .bind(entry)
        .bind(self.driver.id)
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn balances_and_statements_are_the_same_with_closings_as_without(pool: PgPool) {
    let scene = Scene::some_days_ago(pool).await;
    let mut begins = vec![scene.region.clock.now() - Duration::DAY];
    for day in 0..4 {
        begins.push(scene.region.clock.now());
        let paid = scene.paid("tok_visa").await;
        if day > 0 {
            let refund = json!({"amount": 100 + day, "reason": "a detour"});
            scene.admin.post(&format!("/v1/payments/{paid}/refunds"), refund).await.ok(201);
        }
        scene.day_ends();
        let before = scene.admin.get("/v1/balances").await.ok(200);
        let mut statements = Vec::new();
        for pair in begins.windows(2) {
            statements.push(scene.tenant_s_statement(pair[0], pair[1]).await);
            statements.push(scene.driver.get(&scene.statement_of_driver(pair[0], pair[1])).await.ok(200));
        }
        assert_eq!(scene.close().await, 1);
        assert_eq!(scene.close().await, 0, "a day is closed once");
        assert_eq!(scene.admin.get("/v1/balances").await.ok(200), before);
        let mut again = Vec::new();
        for pair in begins.windows(2) {
            again.push(scene.tenant_s_statement(pair[0], pair[1]).await);
            again.push(scene.driver.get(&scene.statement_of_driver(pair[0], pair[1])).await.ok(200));
        }
        assert_eq!(again, statements, "day {day}");
        assert_eq!((scene.number(DIFFERENT).await, scene.number(WRONG).await), (0, 0));
    }
    assert_eq!(scene.number("SELECT count(*) FROM ledger_closings WHERE summed_at IS NOT NULL").await, 4);
    scene.paid("tok_visa").await;
    assert_eq!(scene.number(DIFFERENT).await, 0);
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn nothing_is_booked_that_is_dated_before_a_closing(pool: PgPool) {
    let scene = Scene::some_days_ago(pool).await;
    scene.paid("tok_visa").await;
    let late = scene.intent(scene.trip().await, "tok_visa", None).await;
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    let answer = steps::ask_for_charge(app, tenant, &late).await;
    steps::record_charge(app, tenant, late.id, &answer).await.unwrap();
    let end = scene.day_ends();
    scene.close().await;
    let entries = scene.number("SELECT count(*) FROM ledger_entries").await;
    let refused = scene.book(end - Duration::MICROSECOND).await.unwrap_err();
    assert_eq!(crate::db::constraint(&refused), Some("ledger_day_is_closed"));
    assert_eq!(scene.number("SELECT count(*) FROM ledger_entries").await, entries);
    scene.book(end).await.unwrap();
    // What was asked for on the day before and is settled now is dated now.
    scene.later().await;
    assert_eq!(scene.payment(late.id).await["status"], "settled");
    assert_eq!((scene.number(DIFFERENT).await, scene.number(WRONG).await), (0, 0));
    let changed = sqlx::query("UPDATE ledger_closed_balances SET balance = 0").execute(&mut *scene.conn().await).await;
    assert_eq!(crate::db::constraint(&changed.unwrap_err()), Some("ledger_is_immutable"));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_day_is_not_closed_while_something_is_being_booked_and_holds_it_then(pool: PgPool) {
    let scene = Scene::some_days_ago(pool).await;
    let late = scene.intent(scene.trip().await, "tok_visa", None).await;
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    let answer = steps::ask_for_charge(app, tenant, &late).await;
    steps::record_charge(app, tenant, late.id, &answer).await.unwrap();
    let mut tx = scene.tx().await;
    let locked = store::lock_payment(&mut tx, late.id).await.unwrap().unwrap();
    steps::settle_payment(&mut tx, locked, scene.region.clock.now()).await.unwrap();
    scene.day_ends();
    assert_eq!(scene.close().await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM ledger_closings").await, 0);
    tx.commit().await.unwrap();
    assert_eq!(scene.close().await, 1);
    assert_eq!(scene.number("SELECT count(*) FROM ledger_closed_balances").await, 4);
    assert_eq!((scene.number(DIFFERENT).await, scene.number(WRONG).await), (0, 0));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn however_bookings_race_with_a_closing_it_holds_all_that_is_dated_before_it(pool: PgPool) {
    let scene = Scene::some_days_ago(pool).await;
    let other = scene.region.another_node().await;
    let (mut booked, mut refused) = (0, 0);
    for _ in 0..5 {
        let end = scene.day_ends();
        let bookings = futures::future::join_all((0..12).map(|n| scene.book(end - Duration::SECOND * (n % 2))));
        let closings = [&scene.region.app, &other.app].map(|app| async { closing::run_due(app).await.unwrap() });
        let (answers, closed) = tokio::join!(bookings, futures::future::join_all(closings));
        assert_eq!(closed.iter().sum::<u64>() + scene.close().await, 1, "by one of the nodes");
        for answer in answers {
            match answer {
                Ok(()) => booked += 1,
                Err(error) => {
                    assert_eq!(crate::db::constraint(&error), Some("ledger_day_is_closed"));
                    refused += 1;
                }
            }
        }
        assert_eq!((scene.number(DIFFERENT).await, scene.number(WRONG).await), (0, 0));
    }
    assert_eq!(booked + refused, 60);
    assert_eq!(scene.number("SELECT count(*) FROM ledger_entries").await, booked);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_day_whose_node_died_before_it_was_summed_up_is_summed_up_by_another_and_counts_for_nothing_before(
    pool: PgPool,
) {
    let scene = Scene::some_days_ago(pool).await;
    scene.paid("tok_visa").await;
    let end = scene.day_ends();
    let mut tx = scene.tx().await;
    store::close_ledger(&mut tx, end).await.unwrap();
    tx.commit().await.unwrap();
    let before = scene.admin.get("/v1/balances").await.ok(200);
    assert_eq!(before["drivers"][0]["coming"]["amount"], 800);
    let other = scene.region.another_node().await;
    assert_eq!(closing::run_due(&other.app).await.unwrap(), 1);
    assert_eq!(scene.admin.get("/v1/balances").await.ok(200), before);
    assert_eq!(scene.number(WRONG).await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_node_whose_clock_is_days_ahead_closes_nothing(pool: PgPool) {
    let scene = Scene::with_settings(pool, r#"tokens = { access_ttl = "480h" }"#).await;
    scene.region.clock.advance(Duration::days(10));
    assert_eq!(scene.close().await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM ledger_closings").await, 0);
    scene.region.clock.advance(-Duration::days(10));
    scene.paid("tok_visa").await;
}
