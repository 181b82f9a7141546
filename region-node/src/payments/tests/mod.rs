//! Payments over the API, and what is left of them after a crash at any step.

mod account;
mod attention;
mod bad_input;
mod books;
mod closing;
mod dispute;
mod fee;
mod pay;
mod payout;
mod promotion;
mod reconcile;
mod recover;
mod refund;
mod settlements;
mod statement;
mod stripe;
mod tip;
mod wallet;
mod webhook;

use serde_json::{Value, json};
use shared::ids::{FactId, PaymentId, TripId};
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use uuid::Uuid;

use super::{
    Answer, Entry, NoAnswer, PaymentKind, Sequence, Split, psp::OperationKey, record::AskedBy, record::PaymentRecord,
    resume, steps, store,
};
use crate::{
    db::TenantTx,
    http::IdempotencyKey,
    identity::Sealer,
    rides::{MethodType, PaymentMethod},
    testing::{TestAnswer, TestRegion, TestUser},
    trips,
};

/// A region with a rider, a driver and a back office.
struct Scene {
    region: TestRegion,
    rider: TestUser,
    driver: TestUser,
    admin: TestUser,
    pool: PgPool,
}

/// The fare of a scene's trips, tax included.
const FARE: i64 = 1_100;
const TAX: i64 = 100;

impl Scene {
    async fn new(pool: PgPool) -> Self {
        Self::with_config(pool, json!({})).await
    }

    async fn with_config(pool: PgPool, config: Value) -> Self {
        Self::of(TestRegion::with_config(pool.clone(), config).await, pool).await
    }

    async fn with_settings(pool: PgPool, settings: &str) -> Self {
        Self::of(TestRegion::with_settings(pool.clone(), settings).await, pool).await
    }

    async fn of(region: TestRegion, pool: PgPool) -> Self {
        let (rider, driver, admin) = (region.rider().await, region.driver().await, region.admin().await);
        Self { region, rider, driver, admin, pool }
    }

    /// A trip that was driven to its end.
    async fn trip(&self) -> TripId {
        self.trip_that_is("completed", FARE).await
    }

    /// A driven trip of a ride the rider said he would pay in cash.
    async fn cash_trip(&self) -> TripId {
        let trip = self.trip().await;
        let mut tx = self.tx().await;
        sqlx::query("UPDATE rides SET payment_method = $1 WHERE trip_id = $2")
            .bind(json!({"type": "cash"}))
            .bind(trip.0)
            .execute(tx.conn())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        trip
    }

    /// A driven trip with a fare in dinars of Kuwait, which have a third digit that cards are not charged.
    async fn trip_in_kwd(&self) -> TripId {
        let trip = self.trip().await;
        let mut tx = self.tx().await;
        for sql in [
            "UPDATE trips SET fare_currency = 'KWD', fare = replace(fare::text, 'USD', 'KWD')::jsonb WHERE id = $1",
            "UPDATE rides SET quote = quote || '{\"currency\": \"KWD\"}' WHERE trip_id = $1",
        ] {
            sqlx::query(sql).bind(trip.0).execute(tx.conn()).await.unwrap();
        }
        tx.commit().await.unwrap();
        trip
    }

    /// Writes a settlement as replication does when it comes, or comes back, from another region.
    async fn replicated(&self, fact: FactId, payment: PaymentId, trip: TripId) {
        let mut conn = self.conn().await;
        sqlx::query(
            "INSERT INTO ledger_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
                 origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash)
             SELECT $1, $2, $3, $4, 'settlement', 1100, 'USD', 'us-east', 1, 1 + count(*), 1, 0, $5, decode(repeat('00', 32), 'hex')
             FROM ledger_facts",
        )
        .bind(fact.0)
        .bind(payment.0)
        .bind(trip.0)
        .bind(self.region.tenant.as_str())
        .bind(self.region.clock.now())
        .execute(&mut *conn)
        .await
        .unwrap();
    }

    async fn set_payments(&self, on: bool) {
        let path = format!("/v1/tenants/{}/config", self.region.tenant);
        let patch = json!({"flags": {"payments": on}});
        self.admin.call(axum::http::Method::PATCH, &path, Some(patch), &[]).await.ok(200);
    }

    async fn trip_that_is(&self, status: &str, total: i64) -> TripId {
        let usd = |amount: i64| json!({"amount": amount, "currency": "USD"});
        let line = |code: &str, amount: i64| json!({"code": code, "description": code, "amount": usd(amount)});
        let tax = TAX.min(total);
        let fare = json!({"total": usd(total), "lines": [line("base", total - tax), line("tax", tax)],
            "tariff_version": 1, "surge_multiplier": 1.0, "quoted": true});
        let place = json!({"lat": 40.7, "lng": -74.0});
        let quote = json!({"rider_id": self.rider.id, "pickup": place, "dropoff": place, "vehicle_class": "standard",
            "tariff_version": 1, "tariff": {}, "surge": 1.0, "currency": "USD", "distance_m": 1000, "duration_s": 100,
            "reprice_percent": 150, "expires_at": 0});
        let (ride, trip) = (Uuid::now_v7(), Uuid::now_v7());
        let mut tx = self.tx().await;
        sqlx::query(
            "INSERT INTO rides (id, tenant_id, rider_id, driver_id, trip_id, status, pickup_lat, pickup_lng, dropoff_lat,
                 dropoff_lng, vehicle_class, payment_method, quote, pin, requested_at, expires_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, 'completed', 40.7, -74.0, 40.7, -74.0, 'standard', $6, $7, '0000', $8, $8, $8)",
        )
        .bind(ride)
        .bind(self.region.tenant.as_str())
        .bind(self.rider.id)
        .bind(self.driver.id)
        .bind(trip)
        .bind(json!({"type": "card", "token": "tok_amex"}))
        .bind(quote)
        .bind(self.region.clock.now())
        .execute(tx.conn())
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, fare_amount,
                 fare_currency, fare, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'USD', $9, $7)",
        )
        .bind(trip)
        .bind(self.region.tenant.as_str())
        .bind(ride)
        .bind(self.rider.id)
        .bind(self.driver.id)
        .bind(status)
        .bind(self.region.clock.now())
        .bind(total)
        .bind(fare)
        .execute(tx.conn())
        .await
        .unwrap();
        tx.commit().await.unwrap();
        trip.into()
    }

    /// The rider pays a trip with a card.
    async fn pay(&self, trip: TripId, token: &str) -> TestAnswer {
        self.rider.post("/v1/payments", card(trip, token)).await
    }

    /// A trip the rider has paid for; the payment's id.
    async fn paid(&self, token: &str) -> PaymentId {
        let payment = self.pay(self.trip().await, token).await.ok(201);
        assert_eq!(payment["status"], "settled");
        id_of(&payment)
    }

    /// The rider's receipt of a driven trip, which ends now.
    async fn receipt(&self, trip: TripId) -> Value {
        let mut tx = self.tx().await;
        let ended = sqlx::query("UPDATE trips SET ended_at = now() WHERE id = $1").bind(trip.0);
        ended.execute(tx.conn()).await.unwrap();
        tx.commit().await.unwrap();
        self.rider.get(&format!("/v1/trips/{trip}/receipt")).await.ok(200)
    }

    async fn payment(&self, id: PaymentId) -> Value {
        self.rider.get(&format!("/v1/payments/{id}")).await.ok(200)
    }

    /// Lets all holds and waits run out, and runs what is due.
    async fn later(&self) -> u64 {
        self.region.clock.advance(time::Duration::minutes(11));
        resume::run_due(&self.region.app).await.unwrap()
    }

    async fn tx(&self) -> TenantTx {
        self.region.app.db.begin(&self.region.tenant).await.unwrap()
    }

    /// A connection of the schema's owner that sees the scene's tenant.
    async fn conn(&self) -> PoolConnection<Postgres> {
        let mut conn = self.pool.acquire().await.unwrap();
        let set = sqlx::query("SELECT set_config('app.tenant_id', $1, false)").bind(self.region.tenant.as_str());
        set.execute(&mut *conn).await.unwrap();
        conn
    }

    async fn number(&self, sql: &'static str) -> i64 {
        number(&mut *self.conn().await, sql).await
    }

    /// An intent as a crash right after its transaction leaves it.
    async fn intent(&self, trip: TripId, token: &str, asked_by: Option<AskedBy>) -> PaymentRecord {
        let now = self.region.clock.now();
        let mut tx = self.tx().await;
        let trip = trips::load(&mut tx, trip).await.unwrap().unwrap();
        let fare = trip.fare.unwrap();
        let payment = PaymentRecord {
            id: PaymentId::new(),
            ride_id: Some(trip.ride_id),
            trip_id: Some(trip.id),
            rider_id: trip.rider_id,
            driver_id: Some(trip.driver_id),
            share_id: None,
            kind: PaymentKind::Fare,
            method: PaymentMethod { kind: MethodType::Card, token: Some(token.to_owned()) },
            amount: fare.total,
            refunded_amount: 0,
            split: Split::of_fare(fare.total.amount, TAX, 0, 0, 20),
            provider: "sandbox".to_owned(),
            sequence: Sequence::begun(now + self.region.app.psp.hold()),
            asked_by,
            created_at: now,
            settled_at: None,
            remote_durable_at: None,
            dispute: None,
        };
        store::insert_payment(&mut tx, &payment).await.unwrap();
        tx.commit().await.unwrap();
        payment
    }

    /// Writes what was told of accounts here as replication does once it is numbered, or comes back from another region.
    async fn accounts_replicated(&self) {
        let sql = "INSERT INTO ledger_facts (fact_id, payout_id, driver_id, payment_id, entry_id, rider_id, tenant_id, kind, amount, currency,
                 origin_region, origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash)
             SELECT (told ->> 'fact_id')::uuid, (told ->> 'payout_id')::uuid, (told ->> 'driver_id')::uuid,
                 (told ->> 'payment_id')::uuid, (told ->> 'entry_id')::uuid, (told ->> 'rider_id')::uuid, told ->> 'tenant', kind, (told ->> 'amount')::bigint,
                 told ->> 'currency', 'us-east', 1, row_number() OVER (), 1, 0,
                 coalesce(told ->> 'paid_at', told ->> 'moved_at')::timestamptz, decode(repeat('00', 32), 'hex')
             FROM (SELECT kind, convert_from(body, 'UTF8')::jsonb AS told FROM repl_outbox
                   WHERE kind IN ('payout', 'wallet')) bodies";
        sqlx::query(sql).execute(&mut *self.conn().await).await.unwrap();
    }

    /// Runs statements that go around what the ledger allows, as an old backup does that takes it back.
    async fn forgets(&self, sql: &'static str) {
        let mut conn = self.conn().await;
        for what in ["DISABLE", "ENABLE"] {
            for table in ["ledger_postings", "ledger_entries"] {
                let alter = format!("ALTER TABLE {table} {what} TRIGGER USER");
                sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(&mut *conn).await.unwrap();
            }
            if what == "DISABLE" {
                sqlx::raw_sql(sql).execute(&mut *conn).await.unwrap();
            }
        }
    }

    /// What every story must end with: what the PSP holds, what the ledger says it holds and what other regions are told
    /// agree to the cent; every entry sums to zero, every wallet holds what was posted to it; nothing was charged twice.
    async fn assert_books_agree(&self) {
        let conn = &mut *self.conn().await;
        let held = number(
            conn,
            "SELECT coalesce(sum(CASE kind WHEN 'charge' THEN amount ELSE -amount END), 0)::bigint
             FROM sandbox_psp_operations WHERE outcome = 'succeeded'",
        )
        .await;
        let booked =
            number(conn, "SELECT coalesce(-sum(amount), 0)::bigint FROM ledger_postings WHERE account LIKE 'psp:%'")
                .await;
        assert_eq!(held, booked, "the PSP's books and the ledger differ");
        let told = number(
            conn,
            "SELECT coalesce(sum(CASE kind WHEN 'refund' THEN -1 ELSE 1 END
                 * (convert_from(body, 'UTF8')::jsonb ->> 'amount')::bigint), 0)::bigint
             FROM repl_outbox WHERE stream = 'ledger' AND kind NOT IN ('payout', 'wallet')",
        )
        .await;
        let settled = number(
            conn,
            "SELECT coalesce(sum(amount - refunded_amount), 0)::bigint FROM payments
             WHERE kind <> 'top_up' AND status IN ('settled', 'refunded', 'partially_refunded')",
        )
        .await;
        assert_eq!(told, settled, "what other regions are told differs from the payments");
        let charged_twice = number(
            conn,
            "SELECT count(*) FROM (SELECT trip_id, share_id, p.kind = 'tip' FROM payments p JOIN sandbox_psp_operations o
                 ON o.idempotency_key = 'payment-' || p.id AND o.outcome = 'succeeded'
             WHERE p.kind <> 'top_up' GROUP BY 1, 2, 3 HAVING count(*) > 1) twice",
        )
        .await;
        assert_eq!(charged_twice, 0);
        assert_eq!(number(conn, "SELECT coalesce(sum(amount), 0)::bigint FROM ledger_postings").await, 0);
        let untold = number(
            conn,
            "SELECT count(*) FROM ledger_entries e
             WHERE NOT EXISTS (SELECT FROM ledger_facts f WHERE e.id IN (f.fact_id, f.entry_id))
                 AND NOT EXISTS (SELECT FROM repl_outbox o, jsonb_to_record(convert_from(o.body, 'UTF8')::jsonb)
                                     AS told (fact_id uuid, entry_id uuid)
                                 WHERE o.stream = 'ledger' AND e.id IN (told.fact_id, told.entry_id))
                 AND NOT EXISTS (SELECT FROM ledger_postings p WHERE p.entry_id = e.id AND p.account = 'tenant:suspense')
                 AND NOT EXISTS (SELECT FROM payments y WHERE y.id = e.payment_id AND y.kind = 'top_up' AND e.kind IN ('adjustment', 'refund'))",
        )
        .await;
        assert_eq!(untold, 0, "other regions do not learn of all that is booked");
        let wrong_wallets = number(
            conn,
            "SELECT count(*) FROM (SELECT p.account, e.currency, sum(p.amount) AS balance
                                   FROM ledger_postings p JOIN ledger_entries e ON e.id = p.entry_id
                                   WHERE p.account LIKE 'rider:%' GROUP BY 1, 2) posted
                 FULL JOIN wallets w ON 'rider:' || w.rider_id = posted.account AND w.currency = posted.currency
             WHERE w.balance IS DISTINCT FROM posted.balance",
        )
        .await;
        assert_eq!(wrong_wallets, 0, "a wallet does not hold what was posted to it");
        let told_twice = number(
            conn,
            "SELECT count(*) - count(DISTINCT convert_from(body, 'UTF8')::jsonb ->> 'fact_id') FROM repl_outbox
             WHERE stream = 'ledger'",
        )
        .await;
        assert_eq!(told_twice, 0);
    }
}

async fn number(conn: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(conn).await.unwrap()
}

fn card(trip: TripId, token: &str) -> Value {
    json!({"trip_id": trip, "method": {"type": "card", "token": token}})
}

fn id_of(payment: &Value) -> PaymentId {
    payment["id"].as_str().unwrap().parse().unwrap()
}

/// Who asks, as a request under `key` would be recorded.
fn asked_by(user: &TestUser, path: &str, key: &str, body: &Value) -> AskedBy {
    let sealer = Sealer::new(&Sealer::new(&[7; 32]).tenant_key(&"cabs".parse().unwrap()));
    let request_hash =
        IdempotencyKey::new(key.to_owned(), "POST", path, body.to_string().as_bytes()).request_hash(&sealer);
    let caller = format!("rider:{}", user.id);
    AskedBy { caller, key: key.to_owned(), request_hash: request_hash.to_vec() }
}
