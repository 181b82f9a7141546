//! Tenants move, with all they own and in a short pause, and whatever happens meanwhile.

use serde_json::json;
use sqlx::PgPool;

use super::cluster::{Cluster, eventually};

/// Everything a tenant can own, a few of each, and what belongs to the region and stays.
const BELONGINGS: &str = "
    INSERT INTO riders (id, tenant_id, sealed_name, phone_hash, created_at)
        SELECT gen_random_uuid(), 'cabs', decode(md5(n::text), 'hex'), decode(md5('p' || n), 'hex'), now() FROM generate_series(1, 3000) n;
    INSERT INTO riders (id, tenant_id, created_at) VALUES ('00000000-0000-7000-8000-0000000000a1', 'cabs', now()), (gen_random_uuid(), 'limos', now());
    INSERT INTO drivers (id, tenant_id, vehicle_class, vehicle_plate, vehicle_model, vehicle_seats, status, created_at)
        VALUES ('00000000-0000-7000-8000-0000000000d1', 'cabs', 'standard', 'P', 'M', 4, 'online', now());
    INSERT INTO driver_places VALUES ('00000000-0000-7000-8000-0000000000d1', 'cabs', 1, 2, now());
    INSERT INTO refresh_tokens (token_hash, family_id, tenant_id, subject, role, expires_at, created_at)
        VALUES ('a', gen_random_uuid(), 'cabs', 'a', 'rider', now(), now()), ('b', gen_random_uuid(), 'cabs', 'b', 'tenant_admin', now(), now());
    INSERT INTO idempotency_keys (tenant_id, caller, key, request_hash, status, sealed_body, created_at)
        VALUES ('cabs', 'rider:a', 'k', 'h', 201, 'b', now()), ('cabs', 'anywhere/tenant_admin:b', 'k', 'h', 200, 'b', now());
    INSERT INTO rides (id, tenant_id, rider_id, driver_id, status, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_class,
            payment_method, quote, pin, requested_at, expires_at, updated_at)
        VALUES ('00000000-0000-7000-8000-0000000000e1', 'cabs', '00000000-0000-7000-8000-0000000000a1', '00000000-0000-7000-8000-0000000000d1',
            'in_progress', 0.1, 0.2, 0.3, 1e-7, 'standard', '{\"type\": \"card\"}', '{\"promotion\": {\"code\": \"X\"}}', '0000', now(), now(), now());
    INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, updated_at)
        VALUES ('00000000-0000-7000-8000-0000000000f1', 'cabs', '00000000-0000-7000-8000-0000000000e1', '00000000-0000-7000-8000-0000000000a1',
            '00000000-0000-7000-8000-0000000000d1', 'in_progress', now(), now());
    INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng) SELECT 'cabs', '00000000-0000-7000-8000-0000000000f1', now() + n * interval '1 s', n, n
        FROM generate_series(1, 50) n;
    INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, status, method, amount, currency, tax_amount, commission_amount, provider,
            attempts, created_at, updated_at)
        VALUES ('00000000-0000-7000-8000-0000000000b1', 'cabs', '00000000-0000-7000-8000-0000000000e1', '00000000-0000-7000-8000-0000000000f1',
            '00000000-0000-7000-8000-0000000000a1', 'settled', '{}', 1000, 'EUR', 0, 0, 'sandbox', 1, now(), now());
    WITH entry AS (INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at)
            VALUES ('00000000-0000-7000-8000-0000000000c1', 'cabs', 'settlement', '00000000-0000-7000-8000-0000000000b1', 'EUR', now()))
        INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount)
            VALUES ('00000000-0000-7000-8000-0000000000c1', 1, 'cabs', 'a', 1000), ('00000000-0000-7000-8000-0000000000c1', 2, 'cabs', 'b', -1000);";

const MOVE: &str = "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, wrapped_key, requested_by)
    VALUES (gen_random_uuid(), 'cabs', 'planned', 'us-east', 'eu-west', 1, 0, 'wrapped', 'operator')";

/// What is worth comparing of a tenant's rows.
const OWNED: &str = "SELECT (SELECT sum(hashtext(r::text)) FROM riders r WHERE tenant_id = 'cabs')
    + (SELECT sum(hashtext(r::text)) FROM rides r WHERE tenant_id = 'cabs') + (SELECT sum(hashtext(r::text)) FROM trips r WHERE tenant_id = 'cabs')
    + (SELECT sum(hashtext(r::text)) FROM breadcrumbs r WHERE tenant_id = 'cabs') + (SELECT sum(hashtext(r::text)) FROM payments r WHERE tenant_id = 'cabs')
    + (SELECT sum(hashtext(r::text)) FROM ledger_postings r WHERE tenant_id = 'cabs') + (SELECT sum(hashtext(r::text)) FROM drivers r WHERE tenant_id = 'cabs')";

#[sqlx::test(migrations = "../migrations")]
async fn a_tenant_moves_with_everything_it_owns_and_nothing_stays(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.create_tenant("us-east", "limos").await;
    cluster.as_system("us-east", BELONGINGS).await;
    let owned = cluster.count("us-east", OWNED).await;
    eventually("the tenant is known at its next home", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'cabs'").await == 1
    })
    .await;
    cluster.all_are_members().await;
    cluster.as_system("us-east", MOVE).await;
    eventually("the move is completed", async || {
        cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE state = 'completed'").await == 1
    })
    .await;

    assert_eq!(cluster.count("eu-west", OWNED).await, owned, "what was there is here, row by row");
    let one = async |region: &str, sql: &str| cluster.count(region, sql).await;
    assert_eq!(one("eu-west", "SELECT count(*) FROM refresh_tokens").await, 1, "the rider's session");
    assert_eq!(one("eu-west", "SELECT count(*) FROM idempotency_keys").await, 1, "the rider's answer");
    assert_eq!(one("eu-west", "SELECT count(*) FROM tenant_keys").await, 1);
    assert_eq!(one("eu-west", "SELECT count(*) FROM tenant_arrivals").await, 0);
    assert_eq!(one("eu-west", "SELECT count(*) FROM driver_places").await, 0, "drivers say anew where they are");
    for table in ["rides", "drivers", "driver_places", "trips", "payments", "ledger_entries", "ledger_postings"] {
        assert_eq!(one("us-east", &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(one("us-east", "SELECT count(*) FROM riders").await, 1, "another tenant's");
    assert_eq!(one("us-east", "SELECT count(*) FROM refresh_tokens").await, 1, "the back office's session");
    for region in cluster.regions() {
        eventually("every region knows the new home", async || {
            let home = "SELECT count(*) FROM tenant_homes
                        WHERE tenant_id = 'cabs' AND region = 'eu-west' AND (term, n) = (1, 1) AND state = 'active'";
            cluster.count(&region, home).await == 1
        })
        .await;
    }
    cluster.stop_all().await;
}

/// Far more than what changes in a round.
const OLD_ROWS: &str = "
    INSERT INTO dispatch_candidates (tenant_id, ride_id, round, candidates, considered_at)
        SELECT 'cabs', '00000000-0000-7000-8000-0000000000e1', n, '{}', now() FROM generate_series(1, 50) n;
    INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng)
        SELECT 'cabs', '00000000-0000-7000-8000-0000000000f1', now() + n * interval '1 s', n, n FROM generate_series(51, 200000) n;
    INSERT INTO idempotency_keys (tenant_id, caller, key, request_hash, status, sealed_body, created_at)
        SELECT 'cabs', 'rider:a', 'k' || n, 'h', 201, 'b', now() FROM generate_series(1, 50000) n";

#[sqlx::test(migrations = "../migrations")]
async fn a_tenant_with_many_old_rows_that_never_stops_writing_moves_in_a_short_pause_and_what_is_deleted_meanwhile_is_gone(
    pool: PgPool,
) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.as_system("us-east", BELONGINGS).await;
    cluster.as_system("us-east", OLD_ROWS).await;
    eventually("the tenant is known at its next home", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'cabs'").await == 1
    })
    .await;
    cluster.all_are_members().await;
    // While a command is under way nothing is handed over.
    let command = cluster.hold_home("us-east").await;
    cluster.as_system("us-east", MOVE).await;
    eventually("rows are copied", async || {
        cluster.count("eu-west", "SELECT count(*) FROM breadcrumbs").await == 200_000
    })
    .await;
    cluster
        .as_system(
            "us-east",
            "DELETE FROM breadcrumbs WHERE lat::int % 1000 = 0; DELETE FROM idempotency_keys WHERE key = 'k7';
             DELETE FROM dispatch_candidates WHERE round <= 10; DELETE FROM driver_records",
        )
        .await;
    command.rollback().await.unwrap();
    let mut written = 0;
    while cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE handed_over_at IS NOT NULL").await == 0 {
        let wrote = cluster
            .try_as_command(
                "us-east",
                "INSERT INTO riders (id, tenant_id, created_at) VALUES (gen_random_uuid(), 'cabs', now());
                 UPDATE rides SET pickup_eta_s = COALESCE(pickup_eta_s, 0) + 1",
            )
            .await;
        written += i64::from(wrote);
    }
    eventually("the move is completed", async || {
        cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE state = 'completed'").await == 1
    })
    .await;
    let one = async |region: &str, sql: &str| cluster.count(region, sql).await;
    assert_eq!(one("eu-west", "SELECT count(*) FROM breadcrumbs").await, 199_800);
    assert_eq!(one("eu-west", "SELECT count(*) FROM dispatch_candidates").await, 40);
    assert_eq!(one("eu-west", "SELECT count(*) FROM idempotency_keys").await, 50_000, "and one was there before");
    assert_eq!(one("eu-west", "SELECT count(*) FROM riders").await, 3001 + written);
    assert_eq!(one("eu-west", "SELECT COALESCE(sum(pickup_eta_s), 0) FROM rides").await, written);
    assert_eq!(one("us-east", "SELECT count(*) FROM breadcrumbs").await, 0);
    let paused_ms = one("us-east", "SELECT paused_ms::bigint FROM tenant_moves").await;
    assert!(paused_ms < 3_000, "writes paused for {paused_ms} ms");
    let moved = one("us-east", "SELECT rows_moved FROM tenant_moves").await;
    assert!((253_000..300_000).contains(&moved), "{moved} rows were sent: old ones once");
    cluster.stop_all().await;
}

/// A writer that keeps to the rules of commands writes all the time, the leader is killed again and again, and every row that
/// was written is there in the end, once.
#[sqlx::test(migrations = "../migrations")]
async fn a_move_goes_on_after_crashes_and_loses_nothing_that_was_written(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.start("eu-west").await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.as_system("us-east", BELONGINGS).await;
    let mut source = cluster.start_process("us-east");
    eventually("the tenant is known at its next home", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'cabs'").await == 1
    })
    .await;
    cluster.all_are_members().await;
    cluster.as_system("us-east", MOVE).await;
    let mut written = 0;
    let mut kills = 0;
    loop {
        // As a command does it.
        let wrote = cluster
            .try_as_command(
                "us-east",
                "INSERT INTO riders (id, tenant_id, created_at) VALUES (gen_random_uuid(), 'cabs', now())",
            )
            .await;
        written += i64::from(wrote);
        if cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE handed_over_at IS NOT NULL").await == 1 {
            break;
        }
        let state = cluster.text("us-east", "SELECT state FROM tenant_moves").await;
        assert_ne!(state, "failed", "{}", cluster.text("us-east", "SELECT failure FROM tenant_moves").await);
        if kills < 2 && state == ["copying", "pausing"][kills] {
            // Which kills it.
            drop(source);
            source = cluster.start_process("us-east");
            kills += 1;
        }
    }
    drop(source);
    let source = cluster.start_process("us-east");
    eventually("the move is completed", async || {
        cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE state = 'completed'").await == 1
    })
    .await;
    assert!(kills > 0 && written > 0, "{kills} kills, {written} rows");
    assert_eq!(cluster.count("eu-west", "SELECT count(*) FROM riders").await, 3001 + written);
    assert_eq!(cluster.count("us-east", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await, 0);
    drop(source);
    cluster.stop_all().await;
}

/// Its own move may have to wait for others that are older, and copied first.
#[sqlx::test(migrations = "../migrations")]
async fn a_tenant_that_was_paused_when_the_leader_died_goes_on_under_the_next_before_any_move_does(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.create_tenant("us-east", "cabs").await;
    let paused = "UPDATE tenant_homes SET state = 'moving' WHERE tenant_id = 'cabs';
        INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by, state, next_attempt_at)
        VALUES (gen_random_uuid(), 'cabs', 'planned', 'us-east', 'eu-west', 1, 0, 'operator', 'pausing', now() + interval '1 hour')";
    cluster.as_system("us-east", paused).await;
    cluster.start("us-east").await;
    eventually("its commands go on", async || {
        cluster.text("us-east", "SELECT state FROM tenant_homes WHERE tenant_id = 'cabs'").await == "active"
    })
    .await;
    assert_eq!(cluster.text("us-east", "SELECT state FROM tenant_moves").await, "requested", "as before the pause");
    cluster.stop_all().await;
}

/// Somebody changes his mind while rows are copied: the tenant stays, its commands go on, and what was copied is nobody's.
#[sqlx::test(migrations = "../migrations")]
async fn a_move_that_is_cancelled_leaves_the_tenant_where_it_was(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.as_system("us-east", BELONGINGS).await;
    eventually("the tenant is known at its next home", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'cabs'").await == 1
    })
    .await;
    let owned = cluster.count("us-east", OWNED).await;
    // While a command is under way nothing is handed over.
    let command = cluster.hold_home("us-east").await;
    cluster.all_are_members().await;
    cluster.as_system("us-east", MOVE).await;
    eventually("rows are copied", async || {
        cluster.count("eu-west", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await > 0
    })
    .await;
    cluster.tamper("us-east", "UPDATE tenant_moves SET cancelled_by = 'operator'").await;
    eventually("the move has ended", async || {
        cluster.text("us-east", "SELECT state FROM tenant_moves").await == "cancelled"
    })
    .await;
    command.rollback().await.unwrap();
    assert_eq!(cluster.count("us-east", OWNED).await, owned);
    assert!(cluster.try_as_command("us-east", "SELECT 1").await, "commands go on");
    cluster.stop_all().await;
}

/// After a failover the old home still has what the tenant left there, and takes it back once that is erased.
#[sqlx::test(migrations = "../migrations")]
async fn a_tenant_taken_by_force_moves_back_once_its_old_rows_are_erased_by_command(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.as_system("us-east", BELONGINGS).await;
    cluster.converged(0).await;
    cluster.all_are_members().await;
    let erase = async |cluster: &Cluster, and_given_up: bool| {
        let erase = json!({"erase_lost": {"tenant": "cabs", "and_given_up": and_given_up}});
        cluster.command("us-east", erase).await
    };
    assert_eq!(erase(&cluster, false).await, (false, "cabs is at home here".to_owned()));
    cluster.stop("us-east").await;
    let take = "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by)
                VALUES (gen_random_uuid(), 'cabs', 'failover', 'us-east', 'eu-west', 1, 0, 'operator')";
    cluster.as_system("eu-west", take).await;
    let moves = async |cluster: &Cluster, state: &str| {
        let last = "SELECT state FROM tenant_moves ORDER BY requested_at DESC LIMIT 1";
        eventually(&format!("the move is {state}"), async || cluster.text("eu-west", last).await == state).await;
    };
    moves(&cluster, "completed").await;
    let new = "INSERT INTO riders (id, tenant_id, created_at) SELECT gen_random_uuid(), 'cabs', now() FROM generate_series(1, 7)";
    cluster.as_system("eu-west", new).await;
    cluster.start("us-east").await;
    let lost = "SELECT concat_ws(' ', region, term, n, lost_term, lost_n) FROM tenant_homes WHERE tenant_id = 'cabs'";
    eventually("the old home knows", async || cluster.text("us-east", lost).await == "eu-west 2 0 1 0").await;

    let back = "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, wrapped_key, requested_by)
                VALUES (gen_random_uuid(), 'cabs', 'planned', 'eu-west', 'us-east', 2, 0, 'wrapped', 'operator')";
    cluster.as_system("eu-west", back).await;
    moves(&cluster, "failed").await;
    let failure = cluster.text("eu-west", "SELECT failure FROM tenant_moves WHERE mode = 'planned'").await;
    assert!(failure.contains("give this region the command erase_lost"), "{failure}");

    for (payments, why) in [
        ("UPDATE payments SET status = 'unknown', next_attempt_at = now() + interval '1 h'", "have not ended"),
        ("UPDATE payments SET next_attempt_at = NULL", "say and_given_up"),
    ] {
        cluster.as_system("us-east", payments).await;
        let (done, said) = erase(&cluster, false).await;
        assert!(!done && said.contains(why), "{said}");
    }
    assert_eq!(cluster.count("us-east", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await, 3001);
    let (done, said) = erase(&cluster, true).await;
    assert!(done && said.ends_with("rows of cabs are erased: it can move here again"), "{said}");
    assert_eq!(cluster.count("us-east", "SELECT count(*) FROM riders").await, 1, "another tenant's");
    assert_eq!(cluster.text("us-east", lost).await, "eu-west 2 0", "nothing goes on under the old home");
    assert_eq!(erase(&cluster, false).await, (true, "nothing of cabs is here".to_owned()));
    cluster.as_system("eu-west", back).await;
    moves(&cluster, "completed").await;
    assert_eq!(cluster.count("us-east", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await, 7);
    assert_eq!(cluster.count("eu-west", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await, 0);
    cluster.stop_all().await;
}
