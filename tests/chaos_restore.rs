//! A region is taken back to an old backup: what it had told the others comes back from them, and nothing is told twice.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};
use system_tests::{
    api::{Patience, Settlement},
    harness::{TestCluster, Traffic, eventually_within, tell},
    stories,
};

const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_restore() {
    let cluster = TestCluster::start().await;
    let stories = stories!(cluster; an_old_backup_gets_its_newer_facts_back_and_goes_on_as_a_new_incarnation);
    tell(&cluster, 1, stories).await;
}

async fn an_old_backup_gets_its_newer_facts_back_and_goes_on_as_a_new_incarnation(cluster: TestCluster) {
    let city = cluster.city("manhattan-cabs");
    let elsewhere = Traffic::start(&[cluster.city("porto-taxis")], 1).await;
    rides(&cluster, 3).await;
    let (driver, coming) = creditor(&cluster).await;
    let rider = city.rider().await;
    cluster.backup("us-east", "old").await.unwrap();
    let at_backup = ledger(&cluster, "us-east").await;
    let office = cluster.office("manhattan-cabs", "us-east").await.with_patience(Patience::PATIENT);
    office.patch_config("manhattan-cabs", &json!({"labels": {"edit": "forgotten"}})).await.unwrap();
    let payouts = format!("/v1/drivers/{driver}/payouts");
    let payout: Value = office.post(&payouts, &json!({})).await.unwrap();
    assert_eq!(payout["amount"]["amount"], coming);
    let wallet = format!("/v1/riders/{}/wallet", rider.id);
    let _: Value = office.post(&format!("{wallet}/credits"), &json!({"amount": 500, "reason": "sorry"})).await.unwrap();
    let top_up: Value = rider.client.post("/v1/riders/me/wallet/top-ups", &json!({"amount": 250})).await.unwrap();
    assert_eq!(top_up["status"], "settled");
    rides(&cluster, 4).await;
    // What the region told nobody is lost with its database; this it has told, and the payout before it.
    eventually_within(PATIENCE, "eu-west knows what us-east settled", async || {
        let (there, here) = (ledger(&cluster, "eu-west").await, ledger(&cluster, "us-east").await);
        let missing =
            here.values().filter(|fact| fact.tenant == city.tenant && !there.contains_key(&fact.fact_id)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    })
    .await;
    has_labels(&cluster, "eu-west", &["edit"]).await;
    let told = ledger(&cluster, "eu-west").await;
    let newer =
        told.values().filter(|fact| fact.tenant == city.tenant && !at_backup.contains_key(&fact.fact_id)).count();
    assert!(newer >= 4, "the backup lacks what was settled after it");
    let before = incarnations(&cluster).await;

    cluster.restore("us-east", "old").await.unwrap();
    // Not of the number of the forgotten edit, as which it would be refused by whoever has that one.
    let office = cluster.office("manhattan-cabs", "us-east").await.with_patience(Patience::PATIENT);
    office.patch_config("manhattan-cabs", &json!({"labels": {"since": "the restore"}})).await.unwrap();
    eventually_within(PATIENCE, "us-east has what it had told, from the others", async || {
        let back = ledger(&cluster, "us-east").await;
        let missing = told.iter().filter(|(id, fact)| back.get(id) != Some(fact)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing or not the same")) }
    })
    .await;
    let path = format!("/v1/payouts/{}", payout["payout_id"].as_str().unwrap());
    let booked: Value =
        eventually_within(PATIENCE, "the payout is in the books again", async || office.get(&path).await).await;
    assert_eq!((&booked["amount"], &booked["driver_id"]), (&payout["amount"], &payout["driver_id"]));
    let held: Value = eventually_within(PATIENCE, "the wallet holds what was put into it", async || {
        let held: Value = office.get(&wallet).await.map_err(|error| error.to_string())?;
        if held["balance"]["amount"] == 750 { Ok(held) } else { Err(held.to_string()) }
    })
    .await;
    assert!(held["items"].as_array().unwrap().iter().all(|entry| entry["kind"] == "recovered"), "{held}");
    let again = office.post::<Value>(&payouts, &json!({})).await.unwrap_err();
    assert_eq!(again.code(), Some("nothing_to_pay_out"), "nobody is paid twice: {again}");
    rides(&cluster, 3).await;
    elsewhere.stop().await.must_hold(&cluster).await;
    cluster.converged().await;

    let after = incarnations(&cluster).await;
    assert!(
        after.last() > before.last(),
        "numbers that peers have seen are not given again: {before:?}, then {after:?}"
    );
    let all = ledger(&cluster, "us-east").await;
    assert!(all.len() >= told.len() + 3, "rides after the restore are settled");
    for region in cluster.regions() {
        has_labels(&cluster, &region, &["edit", "since"]).await;
        let held = ledger(&cluster, &region).await;
        assert_eq!(held, all, "{region} holds the same");
        let settled: Vec<_> = held.values().filter(|fact| fact.kind == "settlement").collect();
        let trips: BTreeSet<_> = settled.iter().map(|fact| fact.trip_id).collect();
        assert_eq!(trips.len(), settled.len(), "{region} has a trip's settlement twice");
    }
}

/// Waits until the config that a region works with has these labels.
async fn has_labels(cluster: &TestCluster, region: &str, labels: &[&str]) {
    let office = cluster.office("manhattan-cabs", region).await.with_patience(Patience::PATIENT);
    eventually_within(PATIENCE, &format!("{region} has the labels {labels:?}"), async || {
        let view = office.config("manhattan-cabs").await.map_err(|error| error.to_string())?;
        let published = view.published.ok_or("nothing is published")?;
        let has = |config: &Value| labels.iter().all(|label| config["labels"].get(label).is_some());
        if has(&view.config) && has(&published.config) { Ok(()) } else { Err(view.config["labels"].to_string()) }
    })
    .await;
}

/// A driver with something to be paid, and how much.
async fn creditor(cluster: &TestCluster) -> (String, i64) {
    let office = cluster.office("manhattan-cabs", "us-east").await.with_patience(Patience::PATIENT);
    let drivers: Value = office.get("/v1/balances/drivers?limit=100").await.unwrap();
    let payable = |driver: &Value| driver["balances"][0]["payable"]["amount"].as_i64().unwrap();
    let driver = drivers["items"].as_array().unwrap().iter().find(|driver| payable(driver) > 0).unwrap();
    (driver["driver_id"].as_str().unwrap().to_owned(), payable(driver))
}

/// New people take so many rides; who registered after a backup is unknown once it is restored.
async fn rides(cluster: &TestCluster, more: usize) {
    let traffic = Traffic::start(&[cluster.city("manhattan-cabs")], 2).await;
    traffic.rides_go_on(more).await;
    traffic.stop().await;
}

async fn ledger(cluster: &TestCluster, region: &str) -> BTreeMap<shared::ids::FactId, Settlement> {
    let operator = cluster.operator_at(region).await.with_patience(Patience::PATIENT);
    operator.all_settlements().await.unwrap().into_iter().map(|fact| (fact.fact_id, fact)).collect()
}

/// Under which incarnations eu-west knows us-east, the newest last.
async fn incarnations(cluster: &TestCluster) -> Vec<u64> {
    let known = cluster.sync_status("eu-west").await.unwrap().version_vector;
    let mut numbers: Vec<u64> =
        known.keys().filter_map(|origin| origin.strip_prefix("us-east/")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}
