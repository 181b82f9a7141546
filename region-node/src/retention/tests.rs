//! What goes of rides that are over, and what stays.

use sqlx::{PgPool, raw_sql};
use time::Duration;
use uuid::Uuid;

use super::run_due;
use crate::testing::TestRegion;

struct Scene {
    region: TestRegion,
    rider: Uuid,
    driver: Uuid,
}

/// Positions, offers and rounds of candidates.
type Left = (i64, i64, i64);

const ALL: Left = (2, 1, 1);
const NOTHING: Left = (0, 0, 0);

impl Scene {
    async fn new(pool: PgPool) -> Self {
        Self::of(TestRegion::new(pool).await).await
    }

    async fn of(region: TestRegion) -> Self {
        let (rider, driver) = (region.rider().await.id, region.driver().await.id);
        Self { region, rider, driver }
    }

    /// A ride that is paid and has just ended; its trip.
    async fn ended(&self) -> Uuid {
        const RIDE: &str = "
            WITH ride AS (
                INSERT INTO rides (id, tenant_id, rider_id, driver_id, trip_id, status, pickup_lat, pickup_lng, dropoff_lat,
                    dropoff_lng, vehicle_class, payment_method, quote, pin, requested_at, expires_at, ended_at, updated_at)
                VALUES ($1, 'cabs', $3, $4, $2, 'completed', 0, 0, 0, 1, 'standard', '{\"type\": \"cash\"}', '{}', '0000', $5, $5, $5, $5)
            ), trip AS (
                INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, ended_at, updated_at)
                VALUES ($2, 'cabs', $1, $3, $4, 'completed', $5, $5, $5)
            ), trace AS (
                INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng)
                SELECT 'cabs', $2, $5 - n * interval '1 s', 0, 0 FROM generate_series(1, 2) n
            ), offer AS (
                INSERT INTO offers (id, tenant_id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at)
                VALUES (gen_random_uuid(), 'cabs', $1, $4, 'accepted', 60, $5, $5)
            ), candidates AS (
                INSERT INTO dispatch_candidates (tenant_id, ride_id, round, candidates, considered_at)
                VALUES ('cabs', $1, 0, '{}', $5)
            )
            INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, driver_id, status, method, amount, currency,
                tax_amount, commission_amount, provider, attempts, created_at, updated_at)
            VALUES (gen_random_uuid(), 'cabs', $1, $2, $3, $4, 'settled', '{}', 100, 'USD', 0, 20, 'sandbox', 1, $5, $5)";
        let (ride, trip) = (Uuid::now_v7(), Uuid::now_v7());
        let insert = sqlx::query(RIDE).bind(ride).bind(trip).bind(self.rider).bind(self.driver);
        insert.bind(self.region.clock.now()).execute(self.region.app.db.system_alone()).await.unwrap();
        trip
    }

    /// Does something about a trip, which is `$1`.
    async fn change(&self, sql: &'static str, trip: Uuid) {
        sqlx::query(sql).bind(trip).execute(self.region.app.db.system_alone()).await.unwrap();
    }

    async fn count<T>(&self, sql: &'static str) -> T
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        sqlx::query_as(sql).fetch_one(self.region.app.db.system_alone()).await.unwrap()
    }

    async fn left(&self) -> Left {
        self.count(
            "SELECT (SELECT count(*) FROM breadcrumbs), (SELECT count(*) FROM offers), (SELECT count(*) FROM dispatch_candidates)",
        )
        .await
    }

    async fn left_after(&self, time: Duration) -> Left {
        self.region.clock.advance(time);
        run_due(&self.region.app).await.unwrap();
        self.left().await
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn how_a_ride_came_about_is_forgotten_in_time_and_the_ride_its_trip_and_the_money_stay(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.ended().await;
    assert_eq!(scene.left_after(Duration::days(6)).await, ALL);
    assert_eq!(scene.left_after(Duration::days(2)).await, (2, 1, 0), "who was considered, after a week");
    // Its id is as old as the first one's, and it has ended later.
    scene.ended().await;
    assert_eq!(scene.left_after(Duration::days(81)).await, (4, 2, 0));
    assert_eq!(scene.left_after(Duration::days(2)).await, (2, 1, 0), "all of the first, after ninety days");
    let kept: Left = scene
        .count("SELECT (SELECT count(*) FROM rides), (SELECT count(*) FROM trips), (SELECT count(*) FROM payments)")
        .await;
    assert_eq!(kept, (2, 2, 2));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn each_is_kept_for_as_long_as_is_set(pool: PgPool) {
    let settings = r#"retention = { traces = "1day", offers = "2days", candidates = "100000years" }"#;
    let scene = Scene::of(TestRegion::with_settings(pool, settings).await).await;
    scene.ended().await;
    assert_eq!(scene.left_after(Duration::hours(20)).await, ALL);
    assert_eq!(scene.left_after(Duration::hours(25)).await, (0, 1, 1));
    assert_eq!(scene.left_after(Duration::hours(25)).await, (0, 0, 1));
    assert_eq!(scene.left_after(Duration::days(1_000)).await, (0, 0, 1), "for good");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn nothing_goes_of_a_ride_that_goes_on_or_whose_money_is_not_settled(pool: PgPool) {
    const CASES: [(&str, &str); 4] = [
        (
            "WITH trip AS (UPDATE trips SET status = 'in_progress', ended_at = NULL WHERE id = $1)
             UPDATE rides SET status = 'in_progress', ended_at = NULL WHERE trip_id = $1",
            "WITH trip AS (UPDATE trips SET status = 'completed', ended_at = accepted_at WHERE id = $1)
             UPDATE rides SET status = 'completed', ended_at = requested_at WHERE trip_id = $1",
        ),
        (
            "UPDATE payments SET status = 'unknown' WHERE trip_id = $1",
            "UPDATE payments SET status = 'settled' WHERE trip_id = $1",
        ),
        (
            "INSERT INTO refunds (id, tenant_id, payment_id, status, amount, currency, tax_amount, commission_amount, reason, attempts,
                 created_at, updated_at)
             SELECT gen_random_uuid(), 'cabs', id, 'pending', 40, 'USD', 0, 8, 'sorry', 1, now(), now() FROM payments WHERE trip_id = $1",
            "UPDATE refunds SET status = 'settled' WHERE payment_id = (SELECT id FROM payments WHERE trip_id = $1)",
        ),
        (
            "INSERT INTO disputes (id, tenant_id, payment_id, provider_ref, status, amount, currency, opened_at, updated_at)
             SELECT gen_random_uuid(), 'cabs', id, 'dp_1', 'open', 100, 'USD', now(), now() FROM payments WHERE trip_id = $1",
            "UPDATE disputes SET status = 'won' WHERE payment_id = (SELECT id FROM payments WHERE trip_id = $1)",
        ),
    ];
    let scene = Scene::new(pool).await;
    for (begun, ended) in CASES {
        let trip = scene.ended().await;
        scene.change(begun, trip).await;
        assert_eq!(scene.left_after(Duration::days(400)).await, ALL, "{begun}");
        scene.change(ended, trip).await;
        assert_eq!(scene.left_after(Duration::days(2)).await, NOTHING, "{ended}");
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tenant_that_moves_or_is_at_home_elsewhere_loses_nothing(pool: PgPool) {
    let scene = Scene::new(pool.clone()).await;
    scene.ended().await;
    let as_replication = async |sql: &'static str| {
        let tenant = "SELECT set_config('app.tenant_id', 'cabs', true);";
        raw_sql(sqlx::AssertSqlSafe(format!("{tenant} {sql}"))).execute(&pool).await.unwrap();
    };
    as_replication(
        "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by)
         VALUES (gen_random_uuid(), 'cabs', 'planned', 'us-east', 'eu-west', 1, 0, 'ops')",
    )
    .await;
    assert_eq!(scene.left_after(Duration::days(400)).await, ALL, "what a move copies");
    as_replication(
        "UPDATE tenant_moves SET state = 'cancelled', ended_at = now();
         UPDATE tenant_homes SET region = 'eu-west', term = 2",
    )
    .await;
    assert_eq!(scene.left_after(Duration::days(2)).await, ALL, "what was left where the home was");
    as_replication("UPDATE tenant_homes SET region = 'us-east', term = 3").await;
    assert_eq!(scene.left_after(Duration::days(2)).await, NOTHING);
}

/// More rides than are looked at together, some of which stay, and one with more positions than are deleted at once.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_sweep_goes_past_what_stays_and_the_next_day_begins_anew(pool: PgPool) {
    const MANY: &str = "
        WITH many AS (SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid AS id, n FROM generate_series(1, 250) n),
        made AS (
            INSERT INTO rides (id, tenant_id, rider_id, status, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_class,
                payment_method, quote, pin, requested_at, expires_at, ended_at, updated_at)
            SELECT id, 'cabs', rider_id, 'expired', 0, 0, 0, 1, 'standard', '{}', '{}', '0000', now(), now(),
                CASE WHEN n % 10 > 0 THEN now() END, now()
            FROM many CROSS JOIN (SELECT rider_id FROM trips WHERE id = $1) t
        )
        INSERT INTO dispatch_candidates (tenant_id, ride_id, round, candidates, considered_at)
        SELECT 'cabs', id, 0, '{}', now() FROM many";
    const LONG: &str = "
        INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng)
        SELECT 'cabs', $1, now() + n * interval '1 s', 0, 0 FROM generate_series(1, 25000) n";
    let scene = Scene::new(pool).await;
    let trip = scene.ended().await;
    scene.change(MANY, trip).await;
    scene.change(LONG, trip).await;
    assert_eq!(scene.left_after(Duration::days(100)).await, (0, 0, 25), "of rides that have not ended");
    scene
        .change("UPDATE rides SET ended_at = now() WHERE ended_at IS NULL AND trip_id IS DISTINCT FROM $1", trip)
        .await;
    assert_eq!(scene.left_after(Duration::hours(1)).await, (0, 0, 25), "it was swept today");
    assert_eq!(scene.left_after(Duration::days(1)).await, NOTHING);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn one_node_sweeps_at_a_time_and_another_goes_on_where_it_stopped(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.ended().await;
    let node = scene.region.another_node().await;
    let mut held = node.app.db.system().await.unwrap();
    sqlx::query("SELECT FROM sweeps FOR UPDATE").execute(held.conn()).await.unwrap();
    assert_eq!(scene.left_after(Duration::days(100)).await, ALL);
    // It had looked at nothing but what comes later, and says so.
    sqlx::query("UPDATE sweeps SET upto = 'ffffffff-ffff-7000-8000-000000000000', begun_at = $1")
        .bind(scene.region.clock.now())
        .execute(held.conn())
        .await
        .unwrap();
    held.commit().await.unwrap();
    assert_eq!(scene.left_after(Duration::hours(1)).await, ALL, "the rest of it");
    assert_eq!(scene.left_after(Duration::days(1)).await, NOTHING, "the next one");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn requests_can_delete_nothing_of_what_dispatch_considered(pool: PgPool) {
    let may = "SELECT has_table_privilege('gocomet_app', 'dispatch_candidates', 'DELETE')";
    assert!(!sqlx::query_scalar::<_, bool>(may).fetch_one(&pool).await.unwrap());
}
