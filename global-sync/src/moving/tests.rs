use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};

use super::{
    Answer, Mode, MoveError, connect, go_on,
    tables::{self, MOVES, Remains, STAYS, Shape},
};
use crate::{
    protocol::Head,
    store::{
        StoreError,
        tests::{CLUSTER, Home, batch, created, handed_over, log},
    },
    transport::STALLED_AFTER,
};
use shared::fact::FactStream;

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

/// A move looks for deleted rows nowhere else.
#[sqlx::test(migrations = "../migrations")]
async fn rows_can_be_deleted_at_their_home_where_that_is_said_alone(pool: PgPool) {
    for table in &MOVES {
        let may = "SELECT has_table_privilege('gocomet_app', $1, 'DELETE') OR has_table_privilege('gocomet_system', $1, 'DELETE')";
        let may_be_deleted: bool = sqlx::query_scalar(may).bind(table.name).fetch_one(&pool).await.unwrap();
        assert_eq!(may_be_deleted, table.loses_rows, "{}", table.name);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_was_written_since_a_moment_is_copied_again_and_nothing_else(pool: PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    connection.execute("SELECT set_config('app.tenant_id', 'cabs', false)").await.unwrap();
    let shapes = tables::shapes(&mut connection).await.unwrap();
    let riders = shapes.iter().find(|shape| shape.table.name == "riders").unwrap();
    let write = "INSERT INTO riders (id, tenant_id, created_at) SELECT gen_random_uuid(), 'cabs', now() FROM generate_series(1, 9)";
    connection.execute(write).await.unwrap();
    // No transaction of another test's holds this back.
    let moment = "SELECT pg_current_xact_id()::text::bigint & 4294967295";
    let moment: i64 = sqlx::query_scalar(moment).fetch_one(&mut *connection).await.unwrap();
    assert_eq!(copied(&mut connection, riders, None).await, 9);
    assert_eq!(copied(&mut connection, riders, Some(moment)).await, 0);
    // Numbers of transactions begin anew after 2^32: what is ahead of the next one is long past.
    let ahead = (moment + (1 << 31) + 10_000) & 0xffff_ffff;
    assert_eq!(copied(&mut connection, riders, Some(ahead)).await, 9);
    connection.execute("UPDATE riders SET rating_sum = 5 WHERE id = (SELECT id FROM riders LIMIT 1)").await.unwrap();
    connection.execute(write).await.unwrap();
    assert_eq!(copied(&mut connection, riders, Some(moment)).await, 10);
}

async fn copied(connection: &mut PgConnection, shape: &Shape, since: Option<i64>) -> i64 {
    let copy = shape.copy_out("cabs", since);
    let rows = copy.strip_prefix("COPY (").and_then(|copy| copy.split(") TO STDOUT").next()).unwrap();
    let count = format!("SELECT count(*) FROM ({rows}) AS copied");
    sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(connection).await.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn what_the_database_makes_by_itself_does_not_move(pool: PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    let shapes = tables::shapes(&mut connection).await.unwrap();
    let copy = |name: &str| shapes.iter().find(|shape| shape.table.name == name).unwrap().copy_out("cabs", None);
    assert!(!copy("rides").contains("promotion_code"), "a generated column");
    assert!(!copy("ledger_entries").contains("made_by"), "the number of a transaction there");
    assert!(copy("riders").contains("sealed_phone"));
    assert!(copy("payouts").contains("made_by"), "who made it is no number of a transaction");
}

/// The old home may be gone for good before anybody else has heard from it.
#[sqlx::test(migrations = "../migrations")]
async fn a_region_that_is_told_that_it_is_the_home_tells_everybody_unless_the_old_home_s_word_was_here_first(
    pool: PgPool,
) {
    const WAITS: &str = "SELECT count(*) FROM repl_outbox";
    let control = log("eu-west", FactStream::Control);
    let eu = "eu-west".parse().unwrap();
    let us = Home::new(&pool, "us-east").await;
    let made = batch(&control, Head::EMPTY, &[created("eu-west", 1, 0)]);
    us.store.receive(&made).await.unwrap();
    us.apply_all().await;
    for _ in 0..2 {
        us.store.take_home(&eu, "porto-taxis", "eu-west", (1, 1)).await.unwrap();
        assert_eq!(us.scalar::<i64>(WAITS).await, 1, "once, however often it is told");
    }
    assert_eq!(us.number().await.entries, 1);
    let ours = log("us-east", FactStream::Control);
    let said = us.store.read_for_peer(&ours, 1, 1, 1, &[]).await.unwrap().unwrap();
    let body = said.entries[0].json().unwrap().to_vec();
    assert_eq!(shared::fact::Fact::from_body("tenant.moved", &body).unwrap(), handed_over("us-east", 1));

    // What comes from the old home after all says the same, and is said no second time.
    us.store.receive(&batch(&control, made.checkpoint.head, &[handed_over("us-east", 1)])).await.unwrap();
    assert_eq!(us.apply_all().await, 0);
    us.store.take_home(&eu, "porto-taxis", "eu-west", (1, 1)).await.unwrap();
    assert_eq!(us.scalar::<i64>(WAITS).await, 0);
}

/// Whom it has promised the same term to may be taking the home.
#[sqlx::test(migrations = "../migrations")]
async fn a_region_that_may_have_forgotten_its_promises_gives_none_until_those_are_of_no_use(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let control = log("eu-west", FactStream::Control);
    us.store.receive(&batch(&control, Head::EMPTY, &[created("eu-west", 1, 0)])).await.unwrap();
    us.apply_all().await;
    let vote = async |term| us.store.vote("porto-taxis", term, (1, 0), "ap-south").await.unwrap();
    assert!(matches!(vote(2).await, Answer::Agreed { .. }));
    let unled = "UPDATE repl_lease_expiry SET expires_at = clock_timestamp() - interval '11 seconds'";
    us.superuser.execute(unled).await.unwrap();
    assert!(matches!(vote(3).await, Answer::Refused { .. }), "an old folder may have been put back");
    us.store.identify(CLUSTER, &us.origin.region).await.unwrap();
    assert!(matches!(vote(3).await, Answer::Refused { .. }), "whoever leads again has not made it younger");
    us.superuser.execute("UPDATE repl_self SET abstains_until = clock_timestamp()").await.unwrap();
    assert!(matches!(vote(3).await, Answer::Agreed { .. }));
    us.superuser.execute("UPDATE repl_self SET database = 'another'").await.unwrap();
    assert!(matches!(vote(4).await, Answer::Refused { .. }), "it is a copy");
}

/// It may have handed the tenant over already, in the same epoch.
#[sqlx::test(migrations = "../migrations")]
async fn a_region_that_may_have_forgotten_what_it_handed_over_hands_over_nothing_until_it_has_heard(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let begin = "INSERT INTO tenant_homes (tenant_id, name, region, term, n) VALUES ('cabs', 'Cabs', 'us-east', 1, 0);
                 INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, state, requested_by)
                 VALUES (gen_random_uuid(), 'cabs', 'planned', 'us-east', 'eu-west', 1, 0, 'pausing', 'ops');
                 UPDATE repl_self SET abstains_until = clock_timestamp() + interval '1 minute'";
    us.superuser.execute(begin).await.unwrap();
    let moving = us.store.moves_to_go_on_with(Mode::Planned).await.unwrap().remove(0);
    assert!(matches!(us.store.pause_home(&us.fence, &moving).await, Err(MoveError::Differs(_))));
    const ACTIVE: &str = "SELECT count(*) FROM tenant_homes WHERE state = 'active'";
    assert_eq!(us.scalar::<i64>(ACTIVE).await, 1);
    us.superuser.execute("UPDATE repl_self SET abstains_until = clock_timestamp()").await.unwrap();
    us.store.pause_home(&us.fence, &moving).await.unwrap();
    assert_eq!(us.scalar::<i64>(ACTIVE).await, 0);
}

/// Whoever stood still since the hand-over erases no more once another leads, nor where the tenant is at home again.
#[sqlx::test(migrations = "../migrations")]
async fn the_rows_of_a_tenant_that_has_left_are_erased_by_the_leader_alone_and_not_if_it_comes_back(pool: PgPool) {
    const ROWS: &str = "SELECT (SELECT count(*) FROM riders) + (SELECT count(*) FROM tenant_keys)";
    let us = Home::new(&pool, "us-east").await;
    let begin = "INSERT INTO tenant_homes (tenant_id, name, region, term, n) VALUES ('cabs', 'Cabs', 'eu-west', 1, 1);
                 INSERT INTO riders (id, tenant_id, created_at) SELECT gen_random_uuid(), 'cabs', now() FROM generate_series(1, 9);
                 INSERT INTO riders (id, tenant_id, created_at) VALUES (gen_random_uuid(), 'limos', now());
                 INSERT INTO tenant_keys (tenant_id, wrapped) VALUES ('cabs', 'key')";
    us.superuser.execute(begin).await.unwrap();
    let erase = async |meanwhile: &'static str, undo: &'static str| {
        let ask = "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, state, requested_by)
                   VALUES (gen_random_uuid(), 'cabs', 'planned', 'us-east', 'eu-west', 1, 0, 'erasing', 'ops')";
        us.superuser.execute(ask).await.unwrap();
        let moving = us.store.moves_to_go_on_with(Mode::Planned).await.unwrap().remove(0);
        us.superuser.execute(meanwhile).await.unwrap();
        let nobody = std::future::ready(Err(anyhow::anyhow!("nobody is asked any more")));
        let outcome = go_on(&us.store, &us.fence, &moving, nobody).await;
        us.superuser.execute(undo).await.unwrap();
        let left: i64 = sqlx::query_scalar(ROWS).fetch_one(&us.superuser).await.unwrap();
        (outcome, left)
    };

    let (outcome, left) = erase(
        "UPDATE repl_lease SET epoch = epoch + 1",
        "UPDATE repl_lease SET epoch = epoch - 1; DELETE FROM tenant_moves",
    )
    .await;
    assert!(matches!(outcome, Err(MoveError::Store(StoreError::NotLeading))), "{outcome:?}");
    assert_eq!(left, 11, "another leads");

    let (outcome, left) =
        erase("UPDATE tenant_homes SET region = 'us-east', n = 2", "UPDATE tenant_homes SET region = 'eu-west', n = 1")
            .await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(left, 11, "it is at home here");

    let (outcome, left) = erase(
        "INSERT INTO tenant_arrivals (tenant_id, move_id, attempt, from_region)
         VALUES ('cabs', gen_random_uuid(), gen_random_uuid(), 'eu-west')",
        "DELETE FROM tenant_arrivals",
    )
    .await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(left, 11, "it is on its way back");

    let (outcome, left) = erase("SELECT", "SELECT").await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(left, 1, "what another tenant has stays");
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM tenant_moves WHERE state = 'completed'").await, 3);
}

/// Few references have an index: to look for each would go through other tenants' rows, once for every row that is erased.
#[sqlx::test(migrations = "../migrations")]
async fn what_refers_to_erased_rows_is_not_looked_for_row_by_row(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let begin = "INSERT INTO riders (id, tenant_id, created_at) SELECT gen_random_uuid(), 'cabs', now() FROM generate_series(1, 100)";
    us.superuser.execute(begin).await.unwrap();
    let mut connection = connect(&us.store, "cabs").await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let mut remains = Remains::of(&mut tx, "cabs").await.unwrap();
    let mut erased = 0;
    while let Some(found) = remains.find_some(&mut tx).await.unwrap() {
        erased += found.erase(&mut tx).await.unwrap();
    }
    assert_eq!(erased, 100);
    let scans: i64 = sqlx::query_scalar(
        "SELECT seq_scan + COALESCE(idx_scan, 0) FROM pg_stat_xact_user_tables WHERE relname = 'rides'",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    assert!(scans < 10, "{scans} looks at rides");
    tx.commit().await.unwrap();
}

/// By a node that has yet to hear that the tenant is gone.
#[sqlx::test(migrations = "../migrations")]
async fn what_is_written_to_a_table_that_was_found_empty_is_erased_as_well(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    us.superuser
        .execute("INSERT INTO riders (id, tenant_id, created_at) VALUES (gen_random_uuid(), 'cabs', now())")
        .await
        .unwrap();
    let mut connection = connect(&us.store, "cabs").await.unwrap();
    let mut remains = Remains::of(&mut connection, "cabs").await.unwrap();
    let found = remains.find_some(&mut connection).await.unwrap().expect("a rider");
    us.superuser.execute("INSERT INTO tenant_keys (tenant_id, wrapped) VALUES ('cabs', 'key')").await.unwrap();
    let mut erased = found.erase(&mut connection).await.unwrap();
    while let Some(found) = remains.find_some(&mut connection).await.unwrap() {
        erased += found.erase(&mut connection).await.unwrap();
    }
    assert_eq!(erased, 2);
}

/// It would cut the old home off in the midst of a table while the new one is busy.
#[sqlx::test(migrations = "../migrations")]
async fn postgres_is_more_patient_than_the_regions_are_with_each_other(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let mut connection = connect(&us.store, "cabs").await.unwrap();
    let shortest_s: i64 = sqlx::query_scalar(
        "SELECT min(setting::bigint / 1000) FROM pg_settings
         WHERE name IN ('idle_in_transaction_session_timeout', 'tcp_user_timeout', 'statement_timeout')",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!(shortest_s as u64 > STALLED_AFTER.as_secs(), "{shortest_s}");
}
