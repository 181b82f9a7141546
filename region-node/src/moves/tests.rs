//! What operators may ask for, and what everybody else is told meanwhile. That rows arrive is global-sync's to test.

use axum::{Json, Router, routing::get};
use serde_json::json;
use shared::problem::Code;
use sqlx::PgPool;

use crate::{
    identity::{Sealer, TenantKeys},
    testing::TestRegion,
};

/// The master key of the other region.
const THEIRS: [u8; 32] = [9; 32];

/// Makes `eu-west` known here, which says that it is well, and announces a key; its address.
async fn know_another_region(pool: &PgPool, state: &str) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let well = json!({"health": {"ready": true, "postgres": true, "redis": true, "sync": true}});
    let service = Router::new().route("/health", get(move || std::future::ready(Json(well.clone()))));
    tokio_util::task::TaskTracker::new().spawn(axum::serve(listener, service).into_future());
    let keys = TenantKeys::new("eu-west".parse().unwrap(), Sealer::new(&THEIRS));
    sqlx::query("INSERT INTO regions (name, base_url, quic_addr, jwks, state) VALUES ('eu-west', $1, '', $2, $3)")
        .bind(base_url)
        .bind(json!({"keys": [keys.jwk()]}))
        .bind(state)
        .execute(pool)
        .await
        .unwrap();
}

async fn as_sync(pool: &PgPool, sql: &'static str) {
    let options = pool.connect_options().as_ref().clone().username("gocomet_sync");
    let sync = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    sqlx::query(sql).execute(&sync).await.unwrap();
    sync.close().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_move_is_written_down_once_with_the_tenant_s_key_for_the_other_region_alone(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    know_another_region(&pool, "active").await;
    region.app.tenants.refresh().await.unwrap();
    let operator = region.operator().await;
    let asked = json!({"to_region": "eu-west", "mode": "planned"});
    let moving = operator.post_keyed("/v1/tenants/cabs/rehome", "once", asked.clone()).await;
    assert_eq!(moving.headers["location"], format!("/v1/moves/{}", moving.json()["id"].as_str().unwrap()));
    let moving = moving.ok(202);
    assert_eq!(
        (&moving["state"], &moving["from_region"], &moving["tenant"]),
        (&json!("requested"), &json!("us-east"), &json!("cabs"))
    );
    let replayed = operator.post_keyed("/v1/tenants/cabs/rehome", "once", asked.clone()).await;
    assert_eq!(replayed.ok(202), moving);
    assert_eq!(operator.post("/v1/tenants/cabs/rehome", asked).await.problem(409).code, "move_in_progress");
    let shown = operator.get(&format!("/v1/moves/{}", moving["id"].as_str().unwrap())).await.ok(200);
    assert_eq!(shown, moving);
    assert_eq!(operator.get("/v1/moves?tenant=cabs").await.ok(200)["items"], json!([moving]));
    assert_eq!(operator.get("/v1/moves?tenant=limos").await.ok(200)["items"], json!([]));
    // Whoever cancels is named, and global-sync, which sees it, ends the move.
    let cancelled = operator.post("/v1/tenants/cabs/rehome/cancel", json!({})).await.ok(202);
    assert_eq!((&cancelled["id"], &cancelled["cancelled_by"]), (&moving["id"], &moving["requested_by"]));
    as_sync(&pool, "UPDATE tenant_moves SET state = 'handed_over'").await;
    assert_eq!(operator.post("/v1/tenants/cabs/rehome/cancel", json!({})).await.problem(404).code, "not_found");
    let by_office = region.admin().await.post("/v1/tenants/cabs/rehome/cancel", json!({})).await;
    assert_eq!(by_office.problem(403).code, "forbidden");

    let wrapped: Vec<u8> = sqlx::query_scalar("SELECT wrapped_key FROM tenant_moves")
        .fetch_one(region.app.db.system_alone())
        .await
        .unwrap();
    let sealed = region.app.db.sealer(&region.tenant).await.unwrap().seal("a", b"Ada");
    let theirs = TenantKeys::new("eu-west".parse().unwrap(), Sealer::new(&THEIRS));
    let sealer = theirs.read(&region.tenant, Some(&wrapped)).unwrap();
    assert_eq!(sealer.open("a", &sealed).unwrap(), b"Ada", "the other region reads what was sealed here");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_region_that_cannot_take_a_tenant_over_is_refused_and_nothing_is_written(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    know_another_region(&pool, "draining").await;
    // Nobody answers there.
    sqlx::query("INSERT INTO regions (name, base_url, quic_addr) VALUES ('ap-south', 'http://127.0.0.1:1', '')")
        .execute(&pool)
        .await
        .unwrap();
    region.app.tenants.refresh().await.unwrap();
    let operator = region.operator().await;
    let to = |name: &str| json!({"to_region": name, "mode": "planned"});
    for unfit in ["eu-west", "ap-south"] {
        assert_eq!(operator.post("/v1/tenants/cabs/rehome", to(unfit)).await.problem(409).code, "region_unfit");
    }
    for nowhere in ["atlantis", "us-east", "No region!"] {
        assert_eq!(operator.post("/v1/tenants/cabs/rehome", to(nowhere)).await.problem(422).fields, ["to_region"]);
    }
    assert_eq!(operator.post("/v1/tenants/limos/rehome", to("eu-west")).await.problem(404).code, "unknown_tenant");
    let by_office = region.admin().await.post("/v1/tenants/cabs/rehome", to("eu-west")).await;
    assert_eq!(by_office.problem(403).code, "forbidden");
    assert_eq!(region.rider().await.get("/v1/moves").await.problem(403).code, "forbidden");
    assert_eq!(operator.get("/v1/moves").await.ok(200)["items"], json!([]));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn while_a_home_is_paused_commands_are_to_come_again_and_reads_are_answered(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let rider = region.rider().await;
    as_sync(&pool, "UPDATE tenant_homes SET state = 'moving' WHERE tenant_id = 'cabs'").await;
    let method = json!({"type": "cash"});
    let (pickup, dropoff) = (json!({"lat": 40.0, "lng": -73.0}), json!({"lat": 40.01, "lng": -73.01}));
    let wish = json!({"pickup": pickup, "dropoff": dropoff, "vehicle_class": "standard", "payment_method": method});
    let refused = rider.post("/v1/rides", wish).await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.problem(503).code, "tenant_moving");
    rider.get("/v1/rides").await.ok(200);
    assert_eq!(region.app.db.begin(&region.tenant).await.err().unwrap().code(), Code::TenantMoving);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_region_is_asked_to_take_a_tenant_over_whose_home_is_another(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let operator = region.operator().await;
    let here = json!({"to_region": "us-east", "mode": "failover"});
    assert_eq!(operator.post("/v1/tenants/cabs/rehome", here.clone()).await.problem(422).fields, ["to_region"]);
    know_another_region(&pool, "active").await;
    as_sync(&pool, "UPDATE tenant_homes SET region = 'eu-west', n = 1 WHERE tenant_id = 'cabs'").await;
    as_sync(&pool, "UPDATE regions SET state = 'active' WHERE name = 'us-east'").await;
    region.app.tenants.refresh().await.unwrap();
    let taken = operator.post("/v1/tenants/cabs/rehome", here.clone()).await.ok(202);
    assert_eq!(
        (&taken["mode"], &taken["from_region"], &taken["to_region"], &taken["state"]),
        (&json!("failover"), &json!("eu-west"), &json!("us-east"), &json!("requested"))
    );
    assert_eq!(operator.post("/v1/tenants/cabs/rehome", here).await.problem(409).code, "move_in_progress");
}

/// What was begun before another region took the home by force is ended, and what was handed over is not.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn money_that_was_moved_is_booked_under_the_epoch_it_was_moved_in(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let (db, tenant) = (&region.app.db, &region.tenant);
    let before = db.begin(tenant).await.unwrap().epoch();
    as_sync(&pool, "UPDATE tenant_homes SET state = 'moving' WHERE tenant_id = 'cabs'").await;
    as_sync(&pool, "UPDATE tenant_homes SET region = 'eu-west', n = 1, state = 'active' WHERE tenant_id = 'cabs'")
        .await;
    assert_eq!(db.begin_step(tenant).await.err().unwrap().code(), Code::WrongRegion);
    as_sync(&pool, "UPDATE tenant_homes SET term = 2, n = 0, lost_term = 1, lost_n = 0 WHERE tenant_id = 'cabs'").await;
    assert_eq!(db.begin(tenant).await.err().unwrap().code(), Code::WrongRegion);
    assert_eq!(db.begin_step(tenant).await.unwrap().epoch(), before);
}

/// As when the database was put back from a backup of before the hand-over, and the tenant's riders paid until it was heard of.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn money_that_was_moved_at_a_home_that_had_forgotten_its_hand_over_is_booked(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let (db, tenant) = (&region.app.db, &region.tenant);
    let own = "INSERT INTO repl_self (cluster_id, region, incarnation) VALUES ('test', 'us-east', 1)";
    as_sync(&pool, own).await;
    let before = db.begin(tenant).await.unwrap().epoch();
    as_sync(&pool, "UPDATE tenant_homes SET region = 'eu-west', n = 1 WHERE tenant_id = 'cabs'").await;
    assert_eq!(db.begin(tenant).await.err().unwrap().code(), Code::WrongRegion);
    assert_eq!(db.begin_step(tenant).await.unwrap().epoch(), before);
    as_sync(&pool, "UPDATE tenant_homes SET region = 'us-east', n = 2 WHERE tenant_id = 'cabs'").await;
    as_sync(&pool, "UPDATE tenant_homes SET state = 'moving' WHERE tenant_id = 'cabs'").await;
    as_sync(&pool, "UPDATE tenant_homes SET region = 'eu-west', n = 3, state = 'active' WHERE tenant_id = 'cabs'")
        .await;
    assert_eq!(db.begin_step(tenant).await.err().unwrap().code(), Code::WrongRegion, "that one it knows of");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn whom_only_the_old_home_knew_is_told_to_register(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let rider = region.rider().await;
    let gone = "SELECT set_config('app.tenant_id', 'cabs', true); DELETE FROM riders";
    sqlx::raw_sql(gone).execute(&pool).await.unwrap();
    let (pickup, dropoff) = (json!({"lat": 40.0, "lng": -73.0}), json!({"lat": 40.01, "lng": -73.01}));
    let wish =
        json!({"pickup": pickup, "dropoff": dropoff, "vehicle_class": "standard", "payment_method": {"type": "cash"}});
    assert_eq!(rider.post("/v1/rides", wish).await.problem(401).code, "invalid_token");
}

/// A tenant of three regions that wants its home leased; nobody confirms it yet.
async fn leased(pool: &PgPool) -> TestRegion {
    let region = TestRegion::with_config(pool.clone(), json!({"home": {"lease": true}})).await;
    let members =
        "INSERT INTO regions (name, base_url, quic_addr, state) SELECT name, 'http://127.0.0.1:1', '', 'active'
                   FROM unnest(ARRAY['us-east', 'eu-west', 'ap-south']) AS name
                   ON CONFLICT (name) DO UPDATE SET state = excluded.state";
    sqlx::query(members).execute(pool).await.unwrap();
    as_sync(pool, "INSERT INTO repl_self (cluster_id, region, incarnation) VALUES ('test', 'us-east', 1)").await;
    region
}

async fn begun(region: &TestRegion) -> Result<(), Code> {
    region.app.db.begin(&region.tenant).await.map(drop).map_err(|problem| problem.code())
}

const CONFIRM: &str = "INSERT INTO home_grants (region, asked_at, promised) VALUES ('eu-west', now(), '{}')
                       ON CONFLICT (region) DO UPDATE SET asked_at = excluded.asked_at, promised = excluded.promised";
const RUN_OUT: &str = "UPDATE home_grants SET asked_at = now() - interval '16 s'";

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tenant_that_would_rather_have_no_home_than_two_is_refused_while_no_majority_confirms_it(pool: PgPool) {
    let region = leased(&pool).await;
    assert_eq!(begun(&region).await, Err(Code::HomeUnconfirmed), "one of three is no majority");
    region.app.db.begin_step(&region.tenant).await.unwrap().commit().await.unwrap();
    as_sync(&pool, CONFIRM).await;
    assert_eq!(begun(&region).await, Ok(()));
    let rider = region.rider().await;
    as_sync(&pool, "UPDATE regions SET state = 'joining' WHERE name = 'eu-west'").await;
    assert_eq!(begun(&region).await, Err(Code::HomeUnconfirmed), "who only joins has no voice");
    as_sync(&pool, "UPDATE regions SET state = 'active' WHERE name = 'eu-west'").await;
    for not_now in [RUN_OUT, "UPDATE home_grants SET asked_at = now() + interval '1 s'"] {
        as_sync(&pool, not_now).await;
        assert_eq!(begun(&region).await, Err(Code::HomeUnconfirmed), "{not_now}");
    }
    let unconfirmed = rider.post("/v1/rides/00000000-0000-7000-8000-000000000001/cancel", json!({})).await;
    assert_eq!(unconfirmed.headers["retry-after"], "3");
    assert_eq!(unconfirmed.problem(503).code, "home_unconfirmed");
    rider.get("/v1/rides").await.ok(200);
    // Whoever does not ask for it is served.
    let without = "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at) VALUES ('cabs', 99, '{}', now())";
    as_sync(&pool, without).await;
    assert_eq!(begun(&region).await, Ok(()));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_word_for_another_home_confirms_none_here_until_that_one_is_given_up(pool: PgPool) {
    let region = leased(&pool).await;
    as_sync(&pool, CONFIRM).await;
    as_sync(&pool, r#"UPDATE home_grants SET promised = '{"cabs": {"term": 2, "target": "ap-south"}}'"#).await;
    assert_eq!(begun(&region).await, Err(Code::HomeUnconfirmed), "it has agreed to another home");
    as_sync(&pool, r#"UPDATE home_grants SET promised = '{"cabs": {"term": 1, "target": "ap-south"}}'"#).await;
    assert_eq!(begun(&region).await, Ok(()), "of an earlier term");
    as_sync(&pool, "INSERT INTO repl_promise (tenant_id, term, target) VALUES ('cabs', 2, 'ap-south')").await;
    assert_eq!(begun(&region).await, Err(Code::HomeUnconfirmed), "this region has agreed to another home itself");
    as_sync(&pool, r#"UPDATE home_grants SET promised = '{"cabs": {"term": 2, "target": "ap-south"}}'"#).await;
    let stands = r#"INSERT INTO home_grants VALUES ('ap-south', now(), '{"cabs": {"term": 2, "target": "ap-south"}}')"#;
    as_sync(&pool, stands).await;
    assert_eq!(begun(&region).await, Err(Code::HomeUnconfirmed), "that one wants it");
    as_sync(&pool, "UPDATE home_grants SET promised = '{}' WHERE region = 'ap-south'").await;
    assert_eq!(begun(&region).await, Ok(()), "that one does not want it any more");
    as_sync(&pool, "UPDATE home_grants SET asked_at = now() - interval '16 s' WHERE region = 'ap-south'").await;
    assert_eq!(begun(&region).await, Err(Code::HomeUnconfirmed), "it may want it again");
}

/// As when the node, or its machine, stood still in the middle of a command.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_command_that_commits_after_its_home_s_lease_has_run_out_writes_nothing(pool: PgPool) {
    const TOUCH: &str = "UPDATE riders SET erased_at = now()";
    const TOUCHED: &str = "SELECT count(*) FROM riders WHERE erased_at IS NOT NULL";
    let region = leased(&pool).await;
    as_sync(&pool, CONFIRM).await;
    region.rider().await;
    let touched = async || sqlx::query_scalar::<_, i64>(TOUCHED).fetch_one(region.app.db.system_alone()).await.unwrap();
    let taken = "UPDATE tenant_homes SET region = 'ap-south', term = 2 WHERE tenant_id = 'cabs'";
    let back = "UPDATE tenant_homes SET region = 'us-east', term = 1 WHERE tenant_id = 'cabs'";
    for (what, mended) in [(RUN_OUT, CONFIRM), (taken, back)] {
        let mut frozen = region.app.db.begin(&region.tenant).await.unwrap();
        sqlx::query(TOUCH).execute(frozen.conn()).await.unwrap();
        as_sync(&pool, what).await;
        let refused = crate::http::Problem::from(frozen.commit().await.unwrap_err());
        assert_eq!((refused.code(), touched().await), (Code::HomeUnconfirmed, 0), "{what}");
        as_sync(&pool, mended).await;
    }
    let mut in_time = region.app.db.begin(&region.tenant).await.unwrap();
    sqlx::query(TOUCH).execute(in_time.conn()).await.unwrap();
    in_time.commit().await.unwrap();
    assert_eq!(touched().await, 1);
}
