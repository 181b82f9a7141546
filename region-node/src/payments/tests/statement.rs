use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::*;
use crate::payments::statement::BOOKED_WITHIN;

pub(super) fn period(from: OffsetDateTime, to: OffsetDateTime) -> String {
    let utc = |at: OffsetDateTime| at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).unwrap();
    format!("from={}&to={}", utc(from), utc(to))
}

impl Scene {
    pub(super) fn statement_of_driver(&self, from: OffsetDateTime, to: OffsetDateTime) -> String {
        format!("/v1/drivers/{}/statement?{}", self.driver.id, period(from, to))
    }

    /// Everything that can happen to a driver's balance, in an hour; then the next begins.
    async fn an_hour_of_everything(&self) -> OffsetDateTime {
        let paid = self.paid("tok_visa").await;
        let cash = self.cash_trip().await;
        self.rider.post("/v1/payments", json!({"trip_id": cash, "method": {"type": "cash"}})).await.ok(201);
        self.rider
            .post(
                &format!("/v1/trips/{cash}/tip"),
                json!({"amount": 70, "method": {"type": "card", "token": "tok_visa"}}),
            )
            .await
            .ok(201);
        self.admin
            .post(&format!("/v1/payments/{paid}/refunds"), json!({"amount": 110, "reason": "a detour"}))
            .await
            .ok(201);
        self.admin.post(&format!("/v1/drivers/{}/payouts", self.driver.id), json!({"amount": 100})).await.ok(201);
        self.region.clock.advance(Duration::hours(1));
        self.region.clock.now()
    }

    /// So many payouts' entries, several in each moment, as years of work leave them.
    async fn many_payouts(&self, count: i64, from: OffsetDateTime) {
        let mut conn = self.conn().await;
        let mut tx = sqlx::Connection::begin(&mut *conn).await.unwrap();
        for sql in [
            "INSERT INTO payouts (id, tenant_id, driver_id, amount, currency, made_by, created_at)
             SELECT gen_random_uuid(), 'cabs', $1, 1, 'USD', 'test', $2 + n / 7 * interval '41 s' FROM generate_series(0, $3 - 1) n",
            "INSERT INTO ledger_entries (id, tenant_id, kind, payout_id, currency, posted_at)
             SELECT gen_random_uuid(), 'cabs', 'payout', id, currency, created_at FROM payouts
             WHERE driver_id = $1 AND $2 <= created_at AND $3 > 0",
            "INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount)
             SELECT id, line, 'cabs', account, amount FROM ledger_entries,
                 (VALUES (1, 'driver:' || $1::uuid, -1), (2, 'tenant:payouts', 1)) posting (line, account, amount)
             WHERE $2 <= posted_at AND $3 > 0",
        ] {
            sqlx::query(sql).bind(self.driver.id).bind(from).bind(count).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
}

fn amounts(list: &Value, amount: &str) -> i64 {
    list.as_array().unwrap().iter().map(|one| one[amount]["amount"].as_i64().unwrap()).sum()
}

fn csv(answer: TestAnswer) -> Vec<Vec<String>> {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/csv; charset=utf-8");
    let text = String::from_utf8(answer.bytes).unwrap();
    let rows: Vec<Vec<String>> =
        text.split_terminator("\r\n").map(|row| row.split(',').map(str::to_owned).collect()).collect();
    assert!(rows.iter().all(|row| row.len() == 12), "{text}");
    rows
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_statement_opens_with_what_the_one_before_closed_with_and_lists_all_in_between(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut begins = vec![scene.region.clock.now() - Duration::hours(1), scene.region.clock.now()];
    for _ in 0..3 {
        begins.push(scene.an_hour_of_everything().await);
    }
    let of_tenant = |from, to| format!("/v1/statement?{}", period(from, to));
    let mut closed: Option<[Value; 2]> = None;
    for (hour, pair) in begins.windows(2).enumerate() {
        let driver = scene.driver.get(&scene.statement_of_driver(pair[0], pair[1])).await.ok(200);
        let tenant = scene.admin.get(&of_tenant(pair[0], pair[1])).await.ok(200);
        for (index, statement) in [&driver, &tenant].into_iter().enumerate() {
            if let Some(closed) = &closed {
                assert_eq!(statement["opening"], closed[index], "hour {hour}");
            }
            let moved = amounts(&statement["entries"], "amount");
            assert_eq!(amounts(&statement["totals"], "amount"), moved);
            assert_eq!(amounts(&statement["opening"], "balance") + moved, amounts(&statement["closing"], "balance"));
            let times: Vec<&str> = statement["entries"]
                .as_array()
                .unwrap()
                .iter()
                .map(|line| line["posted_at"].as_str().unwrap())
                .collect();
            assert!(times.is_sorted());
        }
        assert_eq!(
            amounts(&driver["closing"], "balance"),
            -amounts(&tenant["closing"], "balance"),
            "together it is zero"
        );
        closed = Some([driver["closing"].clone(), tenant["closing"].clone()]);
        if hour == 1 {
            let kinds: Vec<(&str, i64, i64)> = driver["totals"]
                .as_array()
                .unwrap()
                .iter()
                .map(|total| {
                    let amount = total["amount"]["amount"].as_i64().unwrap();
                    (total["kind"].as_str().unwrap(), total["count"].as_i64().unwrap(), amount)
                })
                .collect();
            // A trip paid in cash has two lines: what the driver has in hand, and his share.
            assert_eq!(
                kinds,
                [("payout", 1, -100), ("refund", 1, -80), ("settlement", 3, 800 + 800 - 1_100), ("tip", 1, 70)]
            );
        }
    }
    let balance = scene.driver.get(&format!("/v1/drivers/{}/balance", scene.driver.id)).await.ok(200);
    assert_eq!(closed.unwrap()[0][0]["balance"], balance["balances"][0]["balance"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_statement_says_the_same_as_json_csv_and_pdf(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let from = scene.region.clock.now();
    let to = scene.an_hour_of_everything().await;
    let path = scene.statement_of_driver(from, to);
    let json = scene.driver.get(&path).await.ok(200);
    let as_csv = scene.driver.call(axum::http::Method::GET, &path, None, &[("accept", "text/csv")]).await;
    assert!(as_csv.headers["content-disposition"].to_str().unwrap().ends_with(".csv\""));
    let rows = csv(as_csv);
    let of = |kind: &str| rows.iter().filter(|row| row[0] == kind).collect::<Vec<_>>();
    let entries = json["entries"].as_array().unwrap();
    assert_eq!(of("entry").len(), entries.len());
    for (row, entry) in of("entry").into_iter().zip(entries) {
        assert_eq!(
            (row[3].as_str(), row[7].as_str()),
            (entry["kind"].as_str().unwrap(), entry["entry_id"].as_str().unwrap())
        );
    }
    assert_eq!(of("total").len(), json["totals"].as_array().unwrap().len());
    assert_eq!(of("closing")[0][5..7], ["3.90".to_owned(), "USD".to_owned()]);

    let pdf = scene.driver.call(axum::http::Method::GET, &path, None, &[("accept", "application/pdf")]).await;
    assert_eq!((pdf.status, pdf.headers["content-type"].to_str().unwrap()), (200, "application/pdf"));
    for text in ["3.90 USD", "8.00 USD", "-1.00 USD", "Closing balance"] {
        assert!(pdf.bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
    }
    let image = scene.driver.call(axum::http::Method::GET, &path, None, &[("accept", "image/png")]).await;
    assert_eq!(image.problem(406).code, "not_acceptable");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_long_statement_is_written_page_by_page_and_misses_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let count = 5_100;
    let to = scene.region.clock.now();
    let from = to - Duration::hours(10);
    scene.many_payouts(count, from).await;
    for path in [format!("/v1/statement?{}", period(from, to)), scene.statement_of_driver(from, to)] {
        let statement = scene.admin.get(&path).await.ok(200);
        let entries = statement["entries"].as_array().unwrap();
        assert_eq!(i64::try_from(entries.len()).unwrap(), count, "{path}");
        let ids: std::collections::BTreeSet<&str> =
            entries.iter().map(|line| line["entry_id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), entries.len(), "none twice");
        assert_eq!(amounts(&statement["closing"], "balance").abs(), count);
        let rows = csv(scene.admin.call(axum::http::Method::GET, &path, None, &[("accept", "text/csv")]).await);
        assert_eq!(rows.iter().filter(|row| row[0] == "entry").count(), entries.len());
        let pdf = scene.admin.call(axum::http::Method::GET, &path, None, &[("accept", "application/pdf")]).await;
        assert_eq!(pdf.problem(422).fields, ["from"], "a PDF is made whole, and bounded");
        // Pages of a PDF.
        let hour = path.replace(&period(from, to), &period(from, from + Duration::hours(1)));
        let pdf = scene.admin.call(axum::http::Method::GET, &hour, None, &[("accept", "application/pdf")]).await;
        assert_eq!(pdf.status, 200);
        assert!(String::from_utf8_lossy(&pdf.bytes).matches("/MediaBox").count() > 10);
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_is_committed_after_the_time_it_is_dated_is_missing_in_no_statement(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (app, tenant) = (&scene.region.app, &scene.region.tenant);
    let payment = scene.intent(scene.trip().await, "tok_visa", None).await;
    let answer = steps::ask_for_charge(app, tenant, &payment).await;
    steps::record_charge(app, tenant, payment.id, &answer).await.unwrap();
    let mut tx = scene.tx().await;
    let locked = store::lock_payment(&mut tx, payment.id).await.unwrap().unwrap();
    let dated = scene.region.clock.now();
    steps::settle_payment(&mut tx, locked, dated).await.unwrap();
    scene.region.clock.advance(BOOKED_WITHIN - Duration::SECOND * 10);
    let path = scene.statement_of_driver(dated - Duration::HOUR, scene.region.clock.now());
    let before = scene.driver.get(&path).await.ok(200);
    assert_eq!((&before["entries"], &before["closing"]), (&json!([]), &json!([])));
    tx.commit().await.unwrap();

    scene.region.clock.advance(BOOKED_WITHIN);
    let end = before["to"].as_str().unwrap();
    let after = scene.driver.get(&format!("/v1/drivers/{}/statement?from={end}", scene.driver.id)).await.ok(200);
    assert_eq!((amounts(&after["entries"], "amount"), amounts(&after["closing"], "balance")), (800, 800));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_statement_is_for_its_driver_and_the_back_office_and_of_a_time_that_is_over(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let now = scene.region.clock.now();
    let (own, tenant) = (
        scene.statement_of_driver(now - Duration::DAY, now),
        format!("/v1/statement?{}", period(now - Duration::DAY, now)),
    );
    assert_eq!(scene.driver.get(&own).await.ok(200)["entries"], json!([]));
    scene.admin.get(&own).await.ok(200);
    assert_eq!(scene.region.driver().await.get(&own).await.problem(404).code, "not_found");
    assert_eq!(scene.rider.get(&own).await.problem(403).code, "forbidden");
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.get(&tenant).await.problem(403).code, "forbidden");
    }
    let unknown = format!("/v1/drivers/{}/statement?{}", Uuid::now_v7(), period(now - Duration::DAY, now));
    assert_eq!(scene.admin.get(&unknown).await.problem(404).code, "not_found");
    for (from, to) in [
        (now, now),
        (now, now - Duration::HOUR),
        (now + Duration::HOUR, now + Duration::DAY),
        (now - Duration::days(367), now),
    ] {
        let path = format!("/v1/statement?{}", period(from, to));
        assert_eq!(scene.admin.get(&path).await.problem(422).fields, ["from"]);
    }
    scene.admin.get("/v1/statement?from=yesterday").await.problem(422);
    scene.admin.get("/v1/statement").await.problem(422);
}
