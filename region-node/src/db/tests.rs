//! The schema itself: the tenant fence and the constraints that decide races, each tried.

use std::collections::BTreeSet;

use sqlx::PgPool;

use crate::{db::constraint, testing::TestRegion};

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn every_table_with_a_tenant_forces_row_level_security(pool: PgPool) {
    let open = sqlx::query_scalar!(
        r#"SELECT c.relname AS "name!" FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
           WHERE a.attname = 'tenant_id' AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
             AND c.relnamespace = 'public'::regnamespace AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"#
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(open, Vec::<String>::new());
}

/// A policy that lets the application see more than the tenant it named, or that no longer says what it should, is listed.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn every_policy_shows_the_application_one_tenant(pool: PgPool) {
    const ONE_TENANT: [&str; 2] =
        ["(tenant_id = current_tenant())", "(tenant_id = current_setting('app.tenant_id'::text, true))"];
    let policies = sqlx::query!(
        r#"SELECT p.tablename::text AS "table!", p.policyname::text AS "policy!", p.roles::text[] AS "roles!", p.cmd AS "cmd!",
                  p.qual, p.with_check
           FROM pg_policies p WHERE p.schemaname = 'public'"#
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(policies.len() >= 40, "only {} policies", policies.len());
    for policy in policies {
        let name = format!("{}.{} {:?}", policy.table, policy.policy, (&policy.qual, &policy.with_check));
        let (shown, written) = (policy.qual.as_deref(), policy.with_check.as_deref());
        if policy.roles == ["gocomet_system"] || policy.roles == ["gocomet_sync"] {
            assert_eq!((shown, written), (Some("true"), None), "{name}");
        } else if policy.policy == "repl_outbox_of_no_tenant" {
            // What a region announces is of no tenant; it can be written, not read.
            assert_eq!((policy.cmd.as_str(), shown), ("INSERT", None), "{name}");
            assert_eq!(written, Some("((tenant_id IS NULL) AND (stream = 'control'::text))"), "{name}");
        } else {
            assert!(ONE_TENANT.contains(&shown.unwrap()) && written.is_none(), "{name}");
        }
    }
}

/// A hand-over holds the lock exclusively, changes the home and commits.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_command_that_waited_for_a_hand_over_is_refused(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    #[expect(clippy::disallowed_methods, reason = "the test plays replication, which hands a tenant over")]
    let mut hand_over = pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('home:cabs', 0))")
        .execute(&mut *hand_over)
        .await
        .unwrap();
    let command = region.app.db.begin(&region.tenant);
    let hand_over = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&pool).await.unwrap() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        sqlx::query("SELECT set_config('app.tenant_id', 'cabs', true)").execute(&mut *hand_over).await.unwrap();
        let moved = "UPDATE tenant_homes SET region = 'eu-west', n = n + 1 WHERE tenant_id = 'cabs'";
        assert_eq!(sqlx::query(moved).execute(&mut *hand_over).await.unwrap().rows_affected(), 1);
        hand_over.commit().await.unwrap();
    };
    let (began, ()) = tokio::join!(command, hand_over);
    assert_eq!(began.err().unwrap().code(), shared::problem::Code::WrongRegion);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn no_role_of_the_application_can_bypass_the_fence(pool: PgPool) {
    let able = sqlx::query_scalar!(
        r#"SELECT rolname::text AS "name!" FROM pg_roles WHERE rolname LIKE 'gocomet_%' AND (rolsuper OR rolbypassrls)"#
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(able, Vec::<String>::new());
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_query_that_forgets_or_forges_its_tenant_sees_and_writes_nothing(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    region.rider().await;
    let app_pool = region.app.db.app_pool();
    let seen = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM riders"#).fetch_one(app_pool).await.unwrap();
    assert_eq!(seen, 0, "no tenant, no rows");

    let mut tx = region.app.db.anywhere(&"limos".parse().unwrap()).await.unwrap();
    let seen = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM riders WHERE tenant_id = 'cabs'"#)
        .fetch_one(tx.conn())
        .await
        .unwrap();
    assert_eq!(seen, 0, "another tenant's rows are not there");
    let forged =
        sqlx::query!("INSERT INTO riders (id, tenant_id, created_at) VALUES (gen_random_uuid(), 'cabs', now())")
            .execute(tx.conn())
            .await;
    assert!(forged.unwrap_err().to_string().contains("row-level security"));
}

/// Two of everything, from which each test below breaks one rule.
const FIXTURE: &str = "
    INSERT INTO riders (id, tenant_id, created_at) VALUES
        ('00000000-0000-0000-0000-0000000000a1', 'cabs', now()), ('00000000-0000-0000-0000-0000000000a2', 'cabs', now());
    INSERT INTO drivers (id, tenant_id, vehicle_class, vehicle_plate, vehicle_model, vehicle_seats, created_at)
        SELECT ('00000000-0000-0000-0000-0000000000d' || n)::uuid, 'cabs', 'standard', 'P', 'M', 4, now() FROM generate_series(1, 2) n;
    INSERT INTO rides (id, tenant_id, rider_id, status, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_class,
            payment_method, quote, pin, requested_at, expires_at, updated_at)
        SELECT ('00000000-0000-0000-0000-0000000000e' || n)::uuid, 'cabs', ('00000000-0000-0000-0000-0000000000a' || n)::uuid,
            'requested', 0, 0, 0, 1, 'standard', '{}', '{}', '0000', now(), now(), now() FROM generate_series(1, 2) n;
    INSERT INTO offers (id, tenant_id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at) VALUES
        (gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e1', '00000000-0000-0000-0000-0000000000d1', 'live', 60, now(), now());
    INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, updated_at) VALUES
        ('00000000-0000-0000-0000-0000000000f1', 'cabs', '00000000-0000-0000-0000-0000000000e1',
         '00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000d1', 'accepted', now(), now());
    INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, driver_id, status, method, amount, currency, tax_amount, commission_amount, provider, attempts, created_at, updated_at) VALUES
        ('00000000-0000-0000-0000-0000000000b1', 'cabs', '00000000-0000-0000-0000-0000000000e1', '00000000-0000-0000-0000-0000000000f1',
         '00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000d1', 'settled', '{}', 100, 'USD', 0, 20, 'sandbox', 1, now(), now());
    INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at) VALUES
        ('00000000-0000-0000-0000-0000000000c1', 'cabs', 'settlement', '00000000-0000-0000-0000-0000000000b1', 'USD', now());
    INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount) VALUES
        ('00000000-0000-0000-0000-0000000000c1', 1, 'cabs', 'psp:sandbox', 100),
        ('00000000-0000-0000-0000-0000000000c1', 2, 'cabs', 'tenant:revenue', -100);
    INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, driver_id, status, method, amount, currency, tax_amount, commission_amount, provider, attempts, created_at, updated_at) VALUES
        ('00000000-0000-0000-0000-0000000000b2', 'cabs', '00000000-0000-0000-0000-0000000000e1', '00000000-0000-0000-0000-0000000000f1',
         '00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000d1', 'failed', '{}', 100, 'USD', 0, 20, 'sandbox', 1, now(), now());
    INSERT INTO refunds (id, tenant_id, payment_id, status, amount, currency, tax_amount, commission_amount, reason, attempts, created_at, updated_at) VALUES
        ('00000000-0000-0000-0000-0000000000b5', 'cabs', '00000000-0000-0000-0000-0000000000b1', 'settled', 40, 'USD', 0, 8, 'sorry', 1, now(), now());
    INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, refund_id, currency, posted_at) VALUES
        ('00000000-0000-0000-0000-0000000000c2', 'cabs', 'refund', '00000000-0000-0000-0000-0000000000b1', '00000000-0000-0000-0000-0000000000b5', 'USD', now());
    INSERT INTO fare_shares (id, tenant_id, ride_id, rider_id, status, invited_at, updated_at) VALUES
        ('00000000-0000-0000-0000-000000000051', 'cabs', '00000000-0000-0000-0000-0000000000e1',
         '00000000-0000-0000-0000-0000000000a2', 'invited', now(), now());
    INSERT INTO ratings (tenant_id, trip_id, rated_by, stars, created_at) VALUES
        ('cabs', '00000000-0000-0000-0000-0000000000f1', 'rider', 5, now());
    INSERT INTO psp_webhook_events (tenant_id, provider, event_id, received_at) VALUES ('cabs', 'sandbox', 'evt_1', now());
    INSERT INTO reconciliations (id, tenant_id, provider, day, from_time, to_time, status, phase, list_from, attempts, listed, differences, created_at) VALUES
        (gen_random_uuid(), 'cabs', 'sandbox', '2026-03-01', '2026-03-01', '2026-03-02', 'completed', 'compare', '2026-03-01', 1, 0, 0, now());
    UPDATE riders SET phone_hash = '\\x01' WHERE id = '00000000-0000-0000-0000-0000000000a1';
    UPDATE drivers SET phone_hash = '\\x01' WHERE id = '00000000-0000-0000-0000-0000000000d1';
";

async fn broken_rule(pool: &PgPool, statement: &'static str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the test plays a client that goes around the code")]
    let mut tx = pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT set_config('app.tenant_id', 'cabs', true)").execute(&mut *tx).await.unwrap();
    sqlx::raw_sql(FIXTURE).execute(&mut *tx).await.unwrap();
    sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *tx).await.unwrap();
    let error = sqlx::raw_sql(statement).execute(&mut *tx).await.err()?;
    Some(constraint(&error).unwrap_or_else(|| panic!("{error}")).to_owned())
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_schema_decides_every_race(pool: PgPool) {
    let attempts = [
        ("one_live_offer_per_driver", "INSERT INTO offers (id, tenant_id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at) VALUES
            (gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e2', '00000000-0000-0000-0000-0000000000d1', 'live', 60, now(), now())"),
        ("one_active_trip_per_driver", "INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, updated_at) VALUES
            (gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e2', '00000000-0000-0000-0000-0000000000a2',
             '00000000-0000-0000-0000-0000000000d1', 'in_progress', now(), now())"),
        // Of those that wait for another to end.
        ("one_next_trip_per_driver", "UPDATE trips SET after_trip_id = id, starts_by = now();
            INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, updated_at, after_trip_id, starts_by) VALUES
            (gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e2', '00000000-0000-0000-0000-0000000000a2',
             '00000000-0000-0000-0000-0000000000d1', 'accepted', now(), now(), '00000000-0000-0000-0000-0000000000f1', now())"),
        ("one_active_trip_per_ride", "INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, updated_at) VALUES
            (gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e1', '00000000-0000-0000-0000-0000000000a1',
             '00000000-0000-0000-0000-0000000000d2', 'accepted', now(), now())"),
        ("one_open_ride_per_rider", "UPDATE rides SET rider_id = '00000000-0000-0000-0000-0000000000a1'"),
        // A ride booked ahead counts from when a driver takes it.
        ("one_open_ride_per_rider", "UPDATE rides SET rider_id = '00000000-0000-0000-0000-0000000000a1',
            scheduled_at = CASE id WHEN '00000000-0000-0000-0000-0000000000e2' THEN now() END,
            status = CASE id WHEN '00000000-0000-0000-0000-0000000000e2' THEN 'accepted' ELSE status END"),
        ("one_rider_per_phone", "UPDATE riders SET phone_hash = '\\x01'"),
        ("one_driver_per_phone", "UPDATE drivers SET phone_hash = '\\x01'"),
        ("one_live_payment_per_share", "INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, driver_id, status, method, amount, currency, tax_amount, commission_amount, provider, attempts, created_at, updated_at) VALUES
            (gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e1', '00000000-0000-0000-0000-0000000000f1',
             '00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000d1', 'pending', '{}', 100, 'USD', 0, 20, 'sandbox', 0, now(), now())"),
        ("one_live_payment_per_share", "UPDATE payments SET status = 'settled'"),
        ("one_live_payment_per_share", "UPDATE payments SET status = 'unknown' WHERE status = 'failed'"),
        // A share beside the ride's rider's own part is none of them, a second payment of the share is.
        ("one_live_payment_per_share", "INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, share_id, status, method, amount, currency, tax_amount, commission_amount, provider, attempts, created_at, updated_at)
            SELECT gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e1', '00000000-0000-0000-0000-0000000000f1',
             '00000000-0000-0000-0000-0000000000a2', '00000000-0000-0000-0000-000000000051', 'pending', '{}', 100, 'USD', 0, 0, 'sandbox', 0, now(), now()
            FROM generate_series(1, 2)"),
        ("one_share_per_rider", "INSERT INTO fare_shares (id, tenant_id, ride_id, rider_id, status, invited_at, updated_at)
            SELECT gen_random_uuid(), tenant_id, ride_id, rider_id, 'invited', now(), now() FROM fare_shares"),
        ("accepted_share_has_method", "UPDATE fare_shares SET status = 'accepted'"),
        ("fixed_share_has_amount", "UPDATE fare_shares SET status = 'fixed'"),
        ("fares_are_shared", "UPDATE payments SET kind = 'tip', share_id = '00000000-0000-0000-0000-000000000051' WHERE status = 'failed'"),
        // A tip beside a live payment is none of them, a second tip is.
        ("one_live_tip_per_trip", "INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, driver_id, kind, status, method, amount, currency, tax_amount, commission_amount, provider, attempts, created_at, updated_at)
            SELECT gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e1', '00000000-0000-0000-0000-0000000000f1',
             '00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000d1', 'tip', 'pending', '{}', 100, 'USD', 0, 0, 'sandbox', 0, now(), now()
            FROM generate_series(1, 2)"),
        ("one_daily_payout_per_driver", "INSERT INTO payouts (id, tenant_id, driver_id, amount, currency, day, made_by, created_at)
            SELECT gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000d1', 100, 'USD', '2026-03-01', 'schedule', now()
            FROM generate_series(1, 2)"),
        ("one_payout_run_per_day", "INSERT INTO payout_runs (tenant_id, day, held_until)
            SELECT 'cabs', '2026-03-01', now() FROM generate_series(1, 2)"),
        ("wallet_is_never_overdrawn", "INSERT INTO wallets (rider_id, tenant_id, currency, balance)
            VALUES ('00000000-0000-0000-0000-0000000000a1', 'cabs', 'USD', -1)"),
        ("one_wallet_per_rider_and_currency", "INSERT INTO wallets (rider_id, tenant_id, currency, balance)
            SELECT '00000000-0000-0000-0000-0000000000a1', 'cabs', 'USD', 1 FROM generate_series(1, 2)"),
        ("top_ups_have_no_trip", "UPDATE payments SET kind = 'top_up' WHERE status = 'failed'"),
        ("entry_is_of_one_thing", "INSERT INTO ledger_entries (id, tenant_id, kind, currency, posted_at)
            VALUES (gen_random_uuid(), 'cabs', 'credit', 'USD', now())"),
        ("one_closing_per_day", "INSERT INTO ledger_closings (tenant_id, closed_until)
            SELECT 'cabs', '2026-03-02' FROM generate_series(1, 2)"),
        ("ledger_day_is_closed", "INSERT INTO ledger_closings (tenant_id, closed_until) VALUES ('cabs', now() + interval '1 s');
            INSERT INTO ledger_entries (id, tenant_id, kind, currency, posted_at) VALUES
                ('00000000-0000-0000-0000-0000000000c3', 'cabs', 'recovered', 'USD', now());
            INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount) VALUES
                ('00000000-0000-0000-0000-0000000000c3', 1, 'cabs', 'tenant:suspense', 0)"),
        ("payments_check", "UPDATE payments SET refunded_amount = 101"),
        ("payment_is_divided", "UPDATE payments SET tax_amount = 81"),
        ("refund_is_divided", "UPDATE refunds SET tax_amount = 33"),
        ("refunds_amount_check", "UPDATE refunds SET amount = 0, tax_amount = 0, commission_amount = 0"),
        ("ledger_entry_balances", "INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount) VALUES
            ('00000000-0000-0000-0000-0000000000c1', 3, 'cabs', 'tenant:revenue', 1)"),
        ("ledger_is_immutable", "UPDATE ledger_postings SET amount = 0"),
        ("ledger_is_immutable", "DELETE FROM ledger_entries"),
        ("one_settlement_entry_per_payment", "INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at) VALUES
            (gen_random_uuid(), 'cabs', 'settlement', '00000000-0000-0000-0000-0000000000b1', 'USD', now())"),
        // A fee settles its payment as a fare does.
        ("one_settlement_entry_per_payment", "INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at) VALUES
            (gen_random_uuid(), 'cabs', 'cancellation_fee', '00000000-0000-0000-0000-0000000000b1', 'USD', now())"),
        ("one_entry_per_refund", "INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, refund_id, currency, posted_at) VALUES
            (gen_random_uuid(), 'cabs', 'refund', '00000000-0000-0000-0000-0000000000b1', '00000000-0000-0000-0000-0000000000b5', 'USD', now())"),
        ("one_rating_per_party", "INSERT INTO ratings (tenant_id, trip_id, rated_by, stars, created_at) VALUES
            ('cabs', '00000000-0000-0000-0000-0000000000f1', 'rider', 1, now())"),
        ("ratings_stars_check", "UPDATE ratings SET stars = 6"),
        ("one_open_move_per_tenant", "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by)
            SELECT gen_random_uuid(), 'cabs', 'planned', 'us-east', 'eu-west', 1, 0, 'operator' FROM generate_series(1, 2)"),
        ("one_webhook_event", "INSERT INTO psp_webhook_events (tenant_id, provider, event_id, received_at)
            VALUES ('cabs', 'sandbox', 'evt_1', now())"),
        ("one_stray_dispute", "INSERT INTO stray_disputes (id, tenant_id, payment_id, provider, provider_ref, charge_ref, status, amount, currency, opened_at, told_at)
            SELECT gen_random_uuid(), 'cabs', gen_random_uuid(), 'sandbox', 'dp_1', 'ch_1', 'open', 1, 'USD', now(), now() FROM generate_series(1, 2)"),
        ("one_daily_reconciliation", "INSERT INTO reconciliations (id, tenant_id, provider, day, from_time, to_time, status, phase, list_from, attempts, listed, differences, created_at)
            SELECT gen_random_uuid(), tenant_id, provider, day, from_time, to_time, 'running', 'charges', list_from, 0, 0, 0, now() FROM reconciliations"),
        ("one_command_per_key", "INSERT INTO repl_command (id, command, reason, made_by, key, request_hash)
            SELECT gen_random_uuid(), '\"verify\"', 'a drill', 'operator', 'one', '\\x01' FROM generate_series(1, 2)"),
    ];
    for (rule, attempt) in attempts {
        assert_eq!(broken_rule(&pool, attempt).await.as_deref(), Some(rule), "{attempt}");
    }
    let named: BTreeSet<String> = sqlx::query_scalar(
        r"SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE 'one\_%'",
    )
    .fetch_all(&pool)
    .await
    .unwrap()
    .into_iter()
    .collect();
    let tried: BTreeSet<String> =
        attempts.iter().map(|(rule, _)| (*rule).to_owned()).filter(|rule| rule.starts_with("one_")).collect();
    assert_eq!(tried, named, "every index that decides a race is tried");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_no_rule_forbids_is_possible(pool: PgPool) {
    for statement in [
        // Rides booked ahead wait beside the one for now.
        "UPDATE rides SET rider_id = '00000000-0000-0000-0000-0000000000a1',
            scheduled_at = CASE id WHEN '00000000-0000-0000-0000-0000000000e2' THEN now() END",
        "INSERT INTO ratings (tenant_id, trip_id, rated_by, stars, created_at) VALUES
            ('cabs', '00000000-0000-0000-0000-0000000000f1', 'driver', 1, now())",
        // A share's payment beside the ride's rider's own.
        "INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, share_id, status, method, amount, currency, tax_amount, commission_amount, provider, attempts, created_at, updated_at) VALUES
            (gen_random_uuid(), 'cabs', '00000000-0000-0000-0000-0000000000e1', '00000000-0000-0000-0000-0000000000f1',
             '00000000-0000-0000-0000-0000000000a2', '00000000-0000-0000-0000-000000000051', 'pending', '{}', 100, 'USD', 0, 0, 'sandbox', 0, now(), now())",
        // Who has declined may be asked again.
        "UPDATE fare_shares SET status = 'declined';
         INSERT INTO fare_shares (id, tenant_id, ride_id, rider_id, status, invited_at, updated_at)
            SELECT gen_random_uuid(), tenant_id, ride_id, rider_id, 'invited', now(), now() FROM fare_shares",
        "UPDATE payments SET status = CASE status WHEN 'settled' THEN 'refunded' ELSE status END, refunded_amount = amount",
    ] {
        assert_eq!(broken_rule(&pool, statement).await, None, "{statement}");
    }
}

#[sqlx::test(migrations = false)]
async fn a_database_without_a_schema_says_what_to_run(pool: PgPool) {
    let error = crate::db::must_be_migrated(&pool).await.unwrap_err().to_string();
    assert!(error.contains("region-node migrate"), "{error}");
    crate::db::MIGRATOR.run(&pool).await.unwrap();
    crate::db::must_be_migrated(&pool).await.unwrap();
}

/// Text of every source and migration below a folder.
fn texts_below(folder: &std::path::Path, texts: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "web") {
            texts_below(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "sql") {
            texts.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

/// A commit that notifies waits for every other one that does, whatever it is about.
#[test]
fn only_config_and_the_directory_are_told_by_notify() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut texts = Vec::new();
    for folder in ["migrations", "shared/src", "region-node/src", "global-sync/src"] {
        texts_below(&root.join(folder), &mut texts);
    }
    // In two pieces, or this would be one of the places.
    let (call, statement) = (["pg_", "notify("].concat(), ["NOT", "IFY "].concat());
    let mut channels = BTreeSet::new();
    for text in &texts {
        let places = text.split(call.as_str()).skip(1);
        channels.extend(places.map(|rest| rest.split([',', ')']).next().unwrap_or_default().to_owned()));
        let said = |line: &&str| !line.trim_start().starts_with(['/', '-']) && line.contains(statement.as_str());
        assert_eq!(text.lines().find(said), None);
    }
    assert_eq!(channels, ["'config_changed'", "'directory_changed'"].map(str::to_owned).into());
}
