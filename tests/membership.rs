//! Regions join a running mesh, leave it, and are given up, while nobody else is restarted and rides go on.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use deploy_local::{Cluster, Progress, Service};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use system_tests::{
    api::Client,
    harness::{TestCluster, Traffic, eventually, tell},
    stories,
};

const OTHERS: [&str; 2] = ["us-east", "eu-west"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn membership() {
    let cluster = TestCluster::start_as(
        Cluster::builder()
            .regions(OTHERS)
            .sync_env("GLOBAL_SYNC_LOG__KEEP", "1s")
            .sync_env("GLOBAL_SYNC_LOG__DROP_EVERY", "1s"),
    )
    .await;
    let stories = stories!(cluster;
        a_region_joins_loads_what_was_dropped_and_leaves_with_nothing_lost_while_rides_go_on,
        a_region_that_is_gone_is_given_up_by_command_and_nobody_waits_for_it,
    );
    tell(&cluster, 1, stories).await;
}

async fn a_region_joins_loads_what_was_dropped_and_leaves_with_nothing_lost_while_rides_go_on(cluster: TestCluster) {
    for region in OTHERS {
        stands(&cluster, region, &OTHERS, "active").await;
    }
    let pids = pids(&cluster);
    let traffic = Traffic::start(&[cluster.city("manhattan-cabs")], 2).await;
    traffic.rides_go_on(2).await;
    let dropped = "SELECT COALESCE(sum(truncated), 0)::bigint FROM repl_cursor WHERE origin_region = 'us-east'";
    let dropped = async |region: &str| {
        let mut database = PgConnection::connect(&cluster.postgres_url_as(region, "gocomet_sync")).await.unwrap();
        sqlx::query_scalar::<_, i64>(dropped).fetch_one(&mut database).await.unwrap()
    };
    eventually("old entries are dropped", async || {
        if dropped("us-east").await > 0 && dropped("eu-west").await > 0 { Ok(()) } else { Err("nothing is") }
    })
    .await;

    cluster.add_region("sa-east", &Progress::silent()).await.unwrap();
    stands(&cluster, "sa-east", &["us-east", "eu-west", "sa-east"], "active").await;
    assert!(dropped("sa-east").await > 0, "it began with a snapshot");
    traffic.rides_go_on(2).await;

    // What it writes must not be lost when it leaves.
    let there = cluster.operator_at("sa-east").await;
    let tenant = |id: &str, home: &str| json!({"id": id, "name": id, "home_region": home});
    let _: Value = there.post("/v1/tenants", &tenant("late-cabs", "us-east")).await.unwrap();
    refused(&there, "sa-east", json!("leave"), "drain").await;
    done(&there, "sa-east", json!("drain")).await;
    stands(&cluster, "sa-east", &OTHERS, "draining").await;
    let elsewhere = cluster.operator_at("us-east").await;
    let lost =
        elsewhere.call(Method::POST, "/v1/tenants").body(&tenant("lost-cabs", "sa-east")).answer().await.unwrap();
    assert_eq!((lost.status, lost.problem().unwrap().code.as_str()), (422, "validation_failed"));
    done(&there, "sa-east", json!("leave")).await;
    stands(&cluster, "sa-east", &OTHERS, "retired").await;
    // It comes back as a new life of the region, and leaves once more.
    done(&there, "sa-east", json!("join")).await;
    stands(&cluster, "sa-east", &["us-east", "eu-west", "sa-east"], "active").await;
    done(&there, "sa-east", json!("drain")).await;
    done(&there, "sa-east", json!("leave")).await;
    cluster.remove_region("sa-east").await.unwrap();
    stands(&cluster, "sa-east", &OTHERS, "retired").await;
    for region in OTHERS {
        let operator = cluster.operator_at(region).await;
        eventually("what the region wrote is there", async || {
            let directory: Value = operator.get("/v1/directory").await.unwrap();
            if directory["homes"]["late-cabs"].is_object() { Ok(()) } else { Err(directory) }
        })
        .await;
        is_not_waited_for(&operator, region, "sa-east").await;
    }
    traffic.rides_go_on(2).await;
    traffic.stop().await.must_hold(&cluster).await;
    assert_eq!(self::pids(&cluster), pids, "nobody was restarted");
}

async fn a_region_that_is_gone_is_given_up_by_command_and_nobody_waits_for_it(cluster: TestCluster) {
    let pids = pids(&cluster);
    let operator = cluster.operator_at("us-east").await;
    cluster.add_region("af-south", &Progress::silent()).await.unwrap();
    stands(&cluster, "af-south", &OTHERS, "active").await;
    let give_up = || json!({"retire": {"region": "af-south"}});
    refused(&operator, "us-east", give_up(), "connected").await;
    cluster.kill_region("af-south").await.unwrap();
    eventually("af-south is seen to be gone", async || {
        let peers = sync_of(&operator, "us-east").await["peers"].clone();
        let is_gone = |peer: &Value| peer["region"] == "af-south" && peer["connected"] == false;
        if peers.as_array().unwrap().iter().any(is_gone) { Ok(()) } else { Err(peers) }
    })
    .await;
    refused(&operator, "us-east", json!({"retire": {"region": "eu-west"}}), "connected").await;
    done(&operator, "us-east", give_up()).await;
    stands(&cluster, "af-south", &OTHERS, "retired").await;
    for region in OTHERS {
        is_not_waited_for(&operator, region, "af-south").await;
    }
    cluster.remove_region("af-south").await.unwrap();
    cluster.converged().await;
    assert_eq!(self::pids(&cluster), pids, "nobody was restarted");
}

async fn is_not_waited_for(operator: &Client, region: &str, gone: &str) {
    eventually(&format!("{region} waits for {gone} no more"), async || {
        let peers = sync_of(operator, region).await["peers"].clone();
        if peers.as_array().unwrap().iter().all(|peer| peer["region"] != gone) { Ok(()) } else { Err(peers) }
    })
    .await;
}

/// The processes of the regions that stay.
fn pids(cluster: &TestCluster) -> Vec<Option<u32>> {
    let of = |region: &str| [Service::NODE, Service::SYNC].map(|service| cluster.pid(region, service));
    OTHERS.into_iter().flat_map(of).collect()
}

/// Waits until all of `seen_by` say that a region stands so.
async fn stands(cluster: &TestCluster, region: &str, seen_by: &[&str], state: &str) {
    for by in seen_by {
        let operator = cluster.operator_at(by).await;
        eventually(&format!("{region} is {state} in {by}"), async || {
            let view: Value = operator.get("/v1/regions").await.unwrap();
            let found = view["regions"].as_array().unwrap().iter().find(|entry| entry["name"] == region).cloned();
            let members = sync_of(&operator, by).await["members"].clone();
            let agrees = found.as_ref().is_some_and(|entry| entry["state"] == state) && members[region] == state;
            if agrees { Ok(()) } else { Err(format!("{found:?} {members}")) }
        })
        .await;
    }
}

async fn sync_of(operator: &Client, region: &str) -> Value {
    let view: Value = operator.get("/v1/regions").await.unwrap();
    let found = view["regions"].as_array().unwrap().iter().find(|entry| entry["name"] == region).cloned();
    found.map_or(Value::Null, |entry| entry["sync"].clone())
}

async fn done(operator: &Client, region: &str, command: Value) {
    let ended = give(operator, region, command).await;
    assert_eq!(ended["done"], true, "{ended}");
}

async fn refused(operator: &Client, region: &str, command: Value, why: &str) {
    let ended = give(operator, region, command).await;
    assert_eq!(ended["done"], false, "{ended}");
    assert!(ended["outcome"].as_str().unwrap().contains(why), "{ended}");
}

/// Gives a command and waits for what comes of it.
async fn give(operator: &Client, region: &str, command: Value) -> Value {
    let path = format!("/v1/regions/{region}/sync/commands");
    let given: Value = operator.post(&path, &json!({"command": command, "reason": "a drill"})).await.unwrap();
    let mut ended = Value::Null;
    eventually(&format!("{command} is carried out in {region}"), async || {
        let list: Value = operator.get(&path).await.unwrap();
        let found = list["items"].as_array().unwrap().iter().find(|item| item["id"] == given["id"]).cloned();
        ended = found.ok_or("it is not listed")?;
        if ended["ended_at"].is_null() { Err("it goes on") } else { Ok(()) }
    })
    .await;
    ended
}
