use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::testing::{TestRegion, TestUser};

const COMMANDS: &str = "/v1/regions/us-east/sync/commands";
const QUARANTINE: &str = "/v1/regions/us-east/sync/quarantine";
const REJECTED: &str = "/v1/regions/us-east/sync/rejected";

fn verify() -> Value {
    json!({"command": "verify", "reason": "a drill"})
}

/// Has the database do something as global-sync.
async fn execute(pool: &PgPool, sql: &'static str) {
    let as_sync = (*pool.connect_options()).clone().username("gocomet_sync");
    let mut database = PgConnection::connect_with(&as_sync).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut database).await.unwrap();
}

/// Gives a command and, as global-sync would, says what came of it.
async fn give(pool: &PgPool, operator: &TestUser, key: &str, command: Value) -> Value {
    let carried_out = async {
        while sqlx::query(
            "UPDATE repl_command SET ended_at = now(), done = true, outcome = 'so it is' WHERE ended_at IS NULL",
        )
        .execute(pool)
        .await
        .unwrap()
        .rows_affected()
            == 0
        {
            tokio::task::yield_now().await;
        }
    };
    let (answer, ()) = tokio::join!(operator.post_keyed(COMMANDS, key, command), carried_out);
    answer.ok(200)
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_command_waits_for_replication_and_stays_with_who_gave_it_why_and_what_came_of_it(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let operator = region.operator().await;
    let entry = json!({"origin": "eu-west", "incarnation": 1, "stream": "ledger", "seq": 7});
    let skip = json!({"command": {"skip": entry}, "reason": "it names a driver who never was"});
    let answer = give(&pool, &operator, "one", skip.clone()).await;
    assert_eq!((&answer["command"], &answer["outcome"]), (&skip["command"], &json!("so it is")));
    assert_eq!((&answer["made_by"], &answer["done"]), (&json!("operator"), &json!(true)));

    let again = operator.post_keyed(COMMANDS, "one", skip).await.ok(200);
    assert_eq!(again["id"], answer["id"]);
    assert_eq!(operator.post_keyed(COMMANDS, "one", verify()).await.problem(422).code, "idempotency_key_reused");

    let waits = operator.post(COMMANDS, verify()).await.ok(202);
    assert_eq!(waits["ended_at"], Value::Null, "nobody carries it out");
    let first = operator.get(&format!("{COMMANDS}?limit=1")).await.ok(200);
    assert_eq!(first["items"][0]["id"], waits["id"]);
    let next = format!("{COMMANDS}?limit=1&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = operator.get(&next).await.ok(200);
    assert_eq!((&second["items"][0], &second["next_cursor"]), (&answer, &Value::Null));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn only_operators_command_replication_and_a_wrong_command_leaves_no_trace(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let (operator, admin, rider) = (region.operator().await, region.admin().await, region.rider().await);
    for user in [&admin, &rider] {
        for path in [COMMANDS, QUARANTINE, REJECTED, "/v1/regions/us-east/sync/quarantine/eu-west/1/ledger/1"] {
            assert_eq!(user.get(path).await.problem(403).code, "forbidden", "{path}");
        }
        assert_eq!(user.post(COMMANDS, verify()).await.problem(403).code, "forbidden");
    }
    assert_eq!(region.nobody().post(COMMANDS, verify()).await.problem(401).code, "unauthenticated");
    let elsewhere = "/v1/regions/mars-1/sync/commands";
    assert_eq!(operator.post(elsewhere, verify()).await.problem(404).code, "unknown_region");

    let place = |incarnation: i64, seq: i64| json!({"origin": "eu-west", "incarnation": incarnation, "stream": "ledger", "seq": seq});
    for (body, field) in [
        (json!({"command": "verify"}), "reason"),
        (json!({"command": "verify", "reason": "ab"}), "reason"),
        (json!({"command": "explode", "reason": "a drill"}), "command"),
        (json!({"command": {"retry": place(0, 1)}, "reason": "a drill"}), "command"),
        (json!({"command": {"retry": place(1, 0)}, "reason": "a drill"}), "command"),
        (json!({"command": {"dismiss": {"id": "the first"}}, "reason": "a drill"}), "command.dismiss.id"),
        (json!({"command": {"mend": {"key": "money 7"}}, "reason": "a drill"}), "command.mend.key"),
        (json!({"command": {"erase_lost": {"tenant": "P"}}, "reason": "a drill"}), "command.erase_lost.tenant"),
        (json!({"command": {"readmit": {}}, "reason": "a drill"}), "command.readmit.id"),
        (json!({"command": {"retry": {"origin": "eu-west"}}, "reason": "a drill"}), "command.retry.incarnation"),
        (
            json!({"command": {"pause": {"peer": "eu-west", "stream": "money"}}, "reason": "a drill"}),
            "command.pause.stream",
        ),
        (json!({"command": {"pause": {"peer": "EU", "stream": "ledger"}}, "reason": "a drill"}), "command.pause.peer"),
        (json!({"command": "verify", "reason": "a drill", "force": true}), "force"),
    ] {
        let problem = operator.post(COMMANDS, body.clone()).await.problem(422);
        assert_eq!((problem.code.as_str(), problem.fields), ("validation_failed", vec![field.to_owned()]), "{body}");
    }
    let given: i64 = sqlx::query_scalar("SELECT count(*) FROM repl_command").fetch_one(&pool).await.unwrap();
    assert_eq!(given, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_is_set_aside_is_listed_by_state_and_shown_with_what_it_says(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let operator = region.operator().await;
    execute(
        &pool,
        r#"INSERT INTO repl_log (origin_region, origin_incarnation, stream, seq, hash, envelope, body)
           VALUES ('eu-west', 1, 'ledger', 7, decode(repeat('ab', 32), 'hex'), 'envelope',
                   decode(repeat('00', 16), 'hex') || '{"amount": 5}');
           INSERT INTO repl_quarantine (origin_region, origin_incarnation, stream, seq, tenant_id, kind, state, reason)
           VALUES ('eu-west', 1, 'ledger', 7, 'cabs', 'settlement', 'failed', 'no such currency'),
                  ('eu-west', 1, 'config', 9, 'cabs', 'config.changed', 'held', 'an edit before it is not here')"#,
    )
    .await;
    let all = operator.get(QUARANTINE).await.ok(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    assert_eq!(all["items"][0]["kind"], "config.changed", "the newest first");
    let failed = operator.get(&format!("{QUARANTINE}?state=failed")).await.ok(200);
    assert_eq!(failed["items"][0]["reason"], "no such currency");
    let shown = operator.get(&format!("{QUARANTINE}/eu-west/1/ledger/7")).await.ok(200);
    assert_eq!((&shown["body"], &shown["tenant"]), (&json!({"amount": 5}), &json!("cabs")));
    assert_eq!(shown["hash"], "ab".repeat(32));
    let dropped = operator.get(&format!("{QUARANTINE}/eu-west/1/config/9")).await.ok(200);
    assert_eq!((&dropped["hash"], &dropped["body"]), (&Value::Null, &Value::Null));
    for path in ["eu-west/1/ledger/8", "eu-west/1/money/7", "eu-west/one/ledger/7"] {
        operator.get(&format!("{QUARANTINE}/{path}")).await.problem(404);
    }
    assert_eq!(operator.get(&format!("{QUARANTINE}?state=lost")).await.problem(422).fields, ["state"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn facts_that_may_not_leave_are_listed_page_by_page_without_what_they_say(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let operator = region.operator().await;
    execute(
        &pool,
        "INSERT INTO repl_rejected (id, stream, kind, tenant_id, body, created_at, reason)
         SELECT ('0000000' || n || '-0000-7000-8000-000000000000')::uuid, 'ledger', 'settlement', 'cabs', '+351 1234',
                '2026-03-01 12:00Z', 'a fact may not carry rider_phone'
         FROM generate_series(1, 3) n",
    )
    .await;
    let first = operator.get(&format!("{REJECTED}?limit=2")).await.ok(200);
    let newest = json!({
        "id": "00000003-0000-7000-8000-000000000000", "stream": "ledger", "kind": "settlement", "tenant": "cabs",
        "reason": "a fact may not carry rider_phone", "bytes": 9, "committed_at": "2026-03-01T12:00:00Z",
        "rejected_at": first["items"][0]["rejected_at"],
    });
    assert_eq!(first["items"][0], newest);
    let next = format!("{REJECTED}?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = operator.get(&next).await.ok(200);
    assert_eq!(second["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&second["items"][0]["id"], &second["next_cursor"]),
        (&json!("00000001-0000-7000-8000-000000000000"), &Value::Null)
    );
    for (query, field) in [("limit=0", "limit"), ("limit=101", "limit"), ("cursor=x", "cursor")] {
        assert_eq!(operator.get(&format!("{REJECTED}?{query}")).await.problem(422).fields, [field], "{query}");
    }
    operator.get("/v1/regions/mars-1/sync/rejected").await.problem(404);
}
