//! Tenants and their config over the router, on a real database.

use axum::http::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::testing::{TestRegion, TestUser};

mod generation;
mod rollout;

const CONFIG: &str = "/v1/tenants/cabs/config";

async fn patch(user: &TestUser, patch: Value, if_match: Option<&str>) -> crate::testing::TestAnswer {
    let headers: Vec<_> = if_match.map(|heads| ("if-match", heads)).into_iter().collect();
    user.call(Method::PATCH, CONFIG, Some(patch), &headers).await
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tenant_is_made_once_with_its_first_config_published(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"currency": "EUR"})).await;
    let config = region.admin().await.get(CONFIG).await.ok(200);
    assert_eq!(config["published"]["version"], 1);
    assert_eq!(config["published"]["config"]["currency"], "EUR");
    assert_eq!(config["rejected"], json!([]));
    assert!(config["config"].get("auth").is_none(), "credentials never show");
    let again = json!({"id": "cabs", "name": "Again", "home_region": "us-east"});
    assert_eq!(region.operator().await.post("/v1/tenants", again).await.problem(409).code, "already_exists");
    let nowhere = json!({"id": "limos", "name": "Limos", "home_region": "atlantis"});
    assert_eq!(region.operator().await.post("/v1/tenants", nowhere).await.problem(422).fields, ["home_region"]);
    let by_office = json!({"id": "limos", "name": "Limos", "home_region": "us-east"});
    assert_eq!(region.admin().await.post("/v1/tenants", by_office).await.problem(403).code, "forbidden");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_valid_edit_is_published_and_an_invalid_one_stays_a_draft(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let edited = patch(&admin, json!({"labels": {"city": "Springfield"}}), None).await.ok(200);
    assert_eq!(edited["published"]["version"], 2);
    let rejected = patch(&admin, json!({"commission_percent": 150}), None).await.ok(200);
    assert_eq!(rejected["config"]["commission_percent"], 150);
    assert_eq!(rejected["published"]["version"], 2);
    assert_eq!(rejected["rejected"][0], "commission_percent: must be 0 to 100");
    let config = region.app.tenants.config(&region.tenant).await.unwrap();
    assert_eq!((config.version, config.config.commission_percent), (2, 20));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_edit_of_what_was_read_earlier_keeps_what_others_wrote_since(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let heads = admin.get(CONFIG).await.ok(200)["heads"].clone();
    let heads = heads.as_array().unwrap().iter().map(|head| head.as_str().unwrap()).collect::<Vec<_>>().join(",");
    patch(&admin, json!({"labels": {"a": "1"}}), None).await.ok(200);
    let merged = patch(&admin, json!({"labels": {"b": "2"}}), Some(&heads)).await.ok(200);
    assert_eq!(merged["config"]["labels"], json!({"a": "1", "b": "2"}));
    let unknown = "0".repeat(64);
    assert_eq!(patch(&admin, json!({}), Some(&unknown)).await.problem(412).code, "precondition_failed");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_edit_of_a_damaged_draft_is_an_error_of_ours_and_changes_nothing(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let before = admin.get(CONFIG).await.ok(200);
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    let damage = "UPDATE tenant_documents SET document = substring(document FROM 1 FOR 20)";
    sqlx::query(damage).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(patch(&admin, json!({"labels": {"a": "1"}}), None).await.problem(500).code, "internal");
    assert_eq!(admin.get(CONFIG).await.ok(200), before, "what it reads as is still there");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn edits_on_two_nodes_of_a_region_at_once_all_stand(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let other = region.another_node().await;
    let there = other.visited_by(&admin);
    let edits = (0..20).map(|n| {
        let user = if n % 2 == 0 { &admin } else { &there };
        async move { patch(user, json!({"labels": {(format!("n{n}")): "set"}}), None).await.ok(200) }
    });
    futures::future::join_all(edits).await;
    let config = admin.get(CONFIG).await.ok(200);
    assert_eq!(config["config"]["labels"].as_object().unwrap().len(), 20);
    assert_eq!(config["conflicts"], json!([]));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tenant_that_publishes_by_hand_runs_the_old_version_until_then(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    patch(&admin, json!({"auto_publish": false, "name": "New"}), None).await.ok(200);
    assert_eq!(region.app.tenants.config(&region.tenant).await.unwrap().config.name, "cabs");
    let published = admin.post("/v1/tenants/cabs/config/publish", json!({})).await.ok(200);
    assert_eq!(published["published"]["version"], 2);
    assert_eq!(region.app.tenants.config(&region.tenant).await.unwrap().config.name, "New");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_region_is_announced_anew_for_every_life_of_it_while_its_nodes_run(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let options = pool.connect_options().as_ref().clone().username("gocomet_sync");
    let replication = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    let first = "INSERT INTO repl_self (cluster_id, region, incarnation) VALUES ('test', 'us-east', 1)";
    sqlx::query(first).execute(&replication).await.unwrap();
    sqlx::query("DELETE FROM repl_outbox").execute(&replication).await.unwrap();
    let second_node = region.another_node().await;
    for node in [&region, &second_node] {
        node.app.spawn(crate::serve::follow_directory(node.app.clone()));
    }
    let told = async || -> Vec<Value> {
        let bodies = "SELECT convert_from(body, 'UTF8')::jsonb FROM repl_outbox WHERE kind = 'region.announced' ORDER BY position";
        sqlx::query_scalar(bodies).fetch_all(&replication).await.unwrap()
    };
    assert_eq!(told().await, Vec::<Value>::new(), "nothing is new");
    for life in [2_i64, 1_790_000_000] {
        let begin = "WITH begun AS (UPDATE repl_self SET incarnation = $1, changed_at = now())
                     SELECT pg_notify('directory_changed', '')";
        sqlx::query(begin).bind(life).execute(&replication).await.unwrap();
        let entered = "SELECT incarnation FROM regions WHERE name = 'us-east'";
        let follows = async {
            while sqlx::query_scalar::<_, i64>(entered).fetch_one(&replication).await.unwrap() != life {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), follows).await.expect("the directory follows");
        assert_eq!(told().await.last().unwrap()["incarnation"], life);
    }
    assert_eq!(told().await.len(), 2, "one of the nodes says it");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_call_without_or_with_an_unknown_tenant_is_told_so(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    assert_eq!(region.nobody().get_without_tenant("/v1/route").await.problem(400).code, "tenant_required");
    let mut nobody = region.nobody();
    nobody.tenant = "nobodys".parse().unwrap();
    assert_eq!(nobody.get("/v1/route").await.problem(404).code, "unknown_tenant");
    let route = region.nobody().get("/v1/route").await.ok(200);
    assert_eq!(route["home_region"], "us-east");
    assert_eq!(route["base_url"], "http://127.0.0.1:1");
    assert_eq!(route["epoch"], json!({"term": 1, "n": 0}));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_route_says_what_a_client_shows_before_anybody_signs_in(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let bare = region.nobody().get("/v1/route").await.ok(200);
    assert_eq!(bare["vehicle_classes"], json!(["standard"]));
    assert!(bare.get("map").is_none(), "nobody has said where the map opens");
    let config = json!({"name": "Springfield Cabs", "map": {"lat": 39.8, "lng": -89.6, "zoom": 12},
        "vehicle_classes": ["xl", "auto"]});
    patch(&region.admin().await, config, None).await.ok(200);
    let route = region.nobody().get("/v1/route").await.ok(200);
    assert_eq!(route["name"], "Springfield Cabs");
    assert_eq!(route["map"], json!({"lat": 39.8, "lng": -89.6, "zoom": 12.0}));
    assert_eq!(route["vehicle_classes"], json!(["auto", "xl"]));
    assert_eq!(route["home_region"], "us-east");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_version_that_cannot_be_read_leaves_the_one_before_it_running(pool: PgPool) {
    let tariff = json!({"tariffs": {"standard": {"base": 777}}});
    let region = TestRegion::with_config(pool, tariff).await;
    let publish = async |version: i64, config: Value| {
        let mut tx = region.app.db.system().await.unwrap();
        let insert = "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at) VALUES ('cabs', $1, $2, now())";
        sqlx::query(insert).bind(version).bind(config).execute(tx.conn()).await.unwrap();
        tx.commit().await.unwrap();
        region.app.tenants.refresh().await.unwrap();
    };
    let base = async || {
        let published = region.app.tenants.config(&region.tenant).await?;
        Ok::<_, crate::http::Problem>((published.version, published.config.tariff("standard").base))
    };
    publish(2, json!({"tariffs": {"standard": {"base": "dear"}}})).await;
    assert_eq!(base().await.unwrap(), (1, 777), "never a default price");
    // A later release's version is read but for what is new in it.
    publish(3, json!({"tariffs": {"standard": {"base": 888, "per_stop": 5}}, "loyalty": true})).await;
    assert_eq!(base().await.unwrap(), (3, 888));
    let mut tx = region.app.db.system().await.unwrap();
    sqlx::query("INSERT INTO tenant_homes (tenant_id, name, region, term, n) VALUES ('limos', '', 'us-east', 1, 0), ('vans', '', 'us-east', 1, 0)")
        .execute(tx.conn())
        .await
        .unwrap();
    sqlx::query("INSERT INTO tenant_config_versions (tenant_id, version, config, published_at) VALUES ('limos', 1, '{\"currency\": 1}', now())")
        .execute(tx.conn())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    region.app.tenants.refresh().await.unwrap();
    // None that can be read, and none that has arrived.
    for tenant in ["limos", "vans"] {
        let problem = region.app.tenants.config(&tenant.parse().unwrap()).await.unwrap_err();
        assert_eq!(problem.code().as_str(), "unavailable", "{tenant}");
    }
    let problem = region.app.tenants.config(&"nobodys".parse().unwrap()).await.unwrap_err();
    assert_eq!(problem.code().as_str(), "unknown_tenant");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_config_too_large_to_replicate_is_refused_whole(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let large = |n: usize| json!({"labels": {(format!("l{n}")): "x".repeat(50_000)}});
    let mut grown = 0;
    let refused = loop {
        let answer = patch(&admin, large(grown), None).await;
        if answer.status != 200 {
            break answer.problem(422);
        }
        grown += 1;
    };
    assert_eq!((refused.code.as_str(), grown), ("validation_failed", 5), "256 KiB hold five labels of 50 KB");
    let config = admin.get(CONFIG).await.ok(200);
    assert_eq!(config["config"]["labels"].as_object().unwrap().len(), 5, "nothing of the refused edit stays");
    assert_eq!(config["published"]["version"], 6);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_edit_is_published_only_where_the_tenant_is_at_home_now(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    // Moved, and this node has not heard of it yet.
    let mut tx = region.app.db.system().await.unwrap();
    sqlx::query("UPDATE tenant_homes SET region = 'eu-west', n = 1").execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    let edited = patch(&admin, json!({"name": "New"}), None).await.ok(200);
    assert_eq!((&edited["config"]["name"], &edited["published"]["version"]), (&json!("New"), &json!(1)));
    assert_eq!(edited["rejected"], json!(["the home region has not published it yet"]));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn one_tenant_s_draft_holds_up_no_other_s_and_an_unfit_one_is_looked_at_once(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    region.new_tenant("zebra", json!({})).await;
    region.new_tenant("wrong", json!({})).await;
    let mut tx = region.app.db.system().await.unwrap();
    let drafts = [
        ("cabs", json!({"name": "C"})),
        ("wrong", json!({"commission_percent": 200})),
        ("zebra", json!({"name": "Z"})),
    ];
    for (tenant, draft) in drafts {
        let edit = "UPDATE tenant_documents SET draft = $2 WHERE tenant_id = $1";
        sqlx::query(edit).bind(tenant).bind(draft).execute(tx.conn()).await.unwrap();
    }
    // A home this region no longer is, by a state no command passes: publishing for it fails.
    sqlx::query("UPDATE tenant_homes SET state = 'moving' WHERE tenant_id = 'cabs'").execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    super::publish_due_drafts(&region.app).await.unwrap();
    let version = async |tenant: &str| {
        region.app.tenants.refresh().await.unwrap();
        region.app.tenants.config(&tenant.parse().unwrap()).await.unwrap().version
    };
    assert_eq!((version("cabs").await, version("wrong").await, version("zebra").await), (1, 1, 2));
    let mut tx = region.app.db.system().await.unwrap();
    let unpublished = super::store::unpublished(tx.conn(), &region.app.region).await.unwrap();
    tx.commit().await.unwrap();
    let is_unfit = |tenant: &str| {
        let (tenant, heads) = unpublished.iter().find(|(id, _)| id.as_str() == tenant).unwrap();
        region.app.tenants.is_known_unfit(tenant, heads)
    };
    assert!(is_unfit("wrong") && !is_unfit("cabs"));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn an_operator_s_key_is_good_for_one_tenant(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let operator = region.operator().await;
    let make =
        |id: &str| operator.post_keyed("/v1/tenants", "k1", json!({"id": id, "name": id, "home_region": "us-east"}));
    let made = make("limos").await.ok(201);
    let again = make("limos").await;
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.ok(201), made, "its secret, which is shown only so");
    assert_eq!(make("vans").await.problem(422).code, "idempotency_key_reused");
    assert!(
        !region.app.tenants.directory().homes.contains_key("vans".parse::<shared::ids::TenantId>().as_ref().unwrap())
    );
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn hashes_of_secrets_do_not_show_in_conflicts(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let mut tx = region.app.db.system().await.unwrap();
    let conflict =
        |path: &str| json!({"path": path, "values": ["$argon2id$a", "$argon2id$b"], "winner": "$argon2id$a"});
    let conflicts = json!([conflict("/auth/clients/cabs-office"), conflict("/labels/a")]);
    sqlx::query("UPDATE tenant_documents SET conflicts = $1").bind(conflicts).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    let shown = region.admin().await.get(CONFIG).await.ok(200);
    assert_eq!(shown["conflicts"], json!([conflict("/labels/a")]));
}
