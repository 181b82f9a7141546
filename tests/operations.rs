//! What an operator has the regions' replication do, through any region's address.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use system_tests::{
    api::Client,
    harness::{TestCluster, eventually, tell},
    stories,
};

const TENANT: &str = "manhattan-cabs";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations() {
    let cluster = TestCluster::start().await;
    let stories = stories!(cluster;
        a_stream_that_is_paused_with_both_peers_stays_until_it_is_resumed,
        a_damaged_copy_of_a_log_is_named_fetched_anew_and_whole_again,
    );
    tell(&cluster, 1, stories).await;
}

/// Has a region do something, through another one's address, and waits for it to be done.
async fn command(through: &Client, region: &str, command: &Value) -> Value {
    let path = format!("/v1/regions/{region}/sync/commands");
    let given: Value = through.post(&path, &json!({"command": command, "reason": "a drill"})).await.unwrap();
    let mut ended = given.clone();
    eventually(&format!("{command} is carried out in {region}"), async || {
        let list: Value = through.get(&path).await.unwrap();
        let found = list["items"].as_array().unwrap().iter().find(|item| item["id"] == given["id"]).cloned();
        ended = found.ok_or("it is not listed")?;
        if ended["ended_at"].is_null() { Err("it goes on") } else { Ok(()) }
    })
    .await;
    assert_eq!(ended["done"], true, "{ended}");
    ended
}

/// What a region's replication says of itself, as every region's console shows it.
async fn sync_of(operator: &Client, region: &str) -> Value {
    let view: Value = operator.get("/v1/regions").await.unwrap();
    let found = view["regions"].as_array().unwrap().iter().find(|entry| entry["name"] == region).cloned();
    found.unwrap()["sync"].clone()
}

/// A region's database, as its replication sees it.
async fn database(cluster: &TestCluster, region: &str) -> PgConnection {
    PgConnection::connect(&cluster.postgres_url_as(region, "gocomet_sync")).await.unwrap()
}

async fn count(database: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(database).await.unwrap()
}

const LEDGER_FACTS: &str = "SELECT count(*) FROM ledger_facts";

async fn a_stream_that_is_paused_with_both_peers_stays_until_it_is_resumed(cluster: TestCluster) {
    // Through a region that is neither the one commanded nor its peer.
    let operator = cluster.operator_at("ap-south").await;
    for peer in ["eu-west", "ap-south"] {
        command(&operator, "us-east", &json!({"pause": {"peer": peer, "stream": "ledger"}})).await;
    }
    let mut eu = database(&cluster, "eu-west").await;
    let before = count(&mut eu, LEDGER_FACTS).await;
    let served = cluster.city(TENANT).serve_ride().await;
    served.rider.pay(served.trip.id).await;
    eventually("us-east shows what eu-west lacks", async || {
        let sync = sync_of(&operator, "us-east").await;
        let peer = sync["peers"].as_array().unwrap().iter().find(|peer| peer["region"] == "eu-west").unwrap();
        let log = &peer["logs"]["us-east/1/ledger"];
        let lacks = log["lag_entries"].as_u64() >= Some(1) && log["lag_bytes"].as_u64() > Some(100);
        if lacks && peer["paused"] == json!(["ledger"]) { Ok(()) } else { Err(peer.clone()) }
    })
    .await;
    // Config goes its way meanwhile.
    let office = cluster.office(TENANT, "us-east").await;
    office.patch_config(TENANT, &json!({"name": "Paused Cabs"})).await.unwrap();
    let named = "SELECT count(*) FROM tenant_config_versions WHERE config ->> 'name' = 'Paused Cabs'";
    eventually(
        "eu-west has the config",
        async || {
            if count(&mut eu, named).await > 0 { Ok(()) } else { Err("it has not") }
        },
    )
    .await;
    assert_eq!(count(&mut eu, LEDGER_FACTS).await, before);
    for peer in ["eu-west", "ap-south"] {
        command(&operator, "us-east", &json!({"resume": {"peer": peer, "stream": "ledger"}})).await;
    }
    cluster.converged().await;
    assert!(count(&mut eu, LEDGER_FACTS).await > before);
}

async fn a_damaged_copy_of_a_log_is_named_fetched_anew_and_whole_again(cluster: TestCluster) {
    let operator = cluster.operator_at("us-east").await;
    for _ in 0..3 {
        let served = cluster.city(TENANT).serve_ride().await;
        served.rider.pay(served.trip.id).await;
    }
    cluster.converged().await;
    let flip = "UPDATE repl_log SET body = set_bit(body, 200, 1 - get_bit(body, 200))
                WHERE origin_region = 'us-east' AND stream = 'ledger' AND seq = 2";
    sqlx::query(flip).execute(&mut database(&cluster, "eu-west").await).await.unwrap();
    let found = command(&operator, "eu-west", &json!("verify")).await;
    assert!(found["outcome"].as_str().unwrap().contains("us-east/1/ledger/2"), "{found}");
    let entry = json!({"origin": "us-east", "incarnation": 1, "stream": "ledger", "seq": 2});
    command(&operator, "eu-west", &json!({"refetch": entry})).await;
    cluster.converged().await;
    let found = command(&operator, "eu-west", &json!("verify")).await;
    assert_eq!(found["outcome"], "every entry is what was stored");
    command(&operator, "eu-west", &json!("compare")).await;
    command(&operator, "eu-west", &json!({"load_snapshot": {"peer": "us-east"}})).await;
    cluster.converged().await;
}
