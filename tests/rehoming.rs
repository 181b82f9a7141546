//! A tenant moves to another region while its people ride.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{
    api::{Client, Patience},
    harness::{TestCluster, Traffic, eventually, eventually_within, tell},
    stories,
};

const TENANT: &str = "porto-taxis";
const FROM: &str = "eu-west";
const TO: &str = "us-east";
/// With builds for debugging on a busy machine; `paused_ms` says what it was.
const MOVED_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rehoming() {
    let cluster = TestCluster::start().await;
    let stories = stories!(cluster; a_tenant_moves_while_its_people_ride_and_nobody_is_refused_for_good);
    tell(&cluster, 1, stories).await;
}

async fn a_tenant_moves_while_its_people_ride_and_nobody_is_refused_for_good(cluster: TestCluster) {
    let (city, other) = (cluster.city(TENANT), cluster.city("bengaluru-rides"));
    let abroad = city.through(&cluster.http_url("ap-south"));
    let traffic = Traffic::start(&[city.clone(), abroad, city.through(&cluster.http_url(TO)), other], 2).await;
    traffic.rides_go_on(10).await;
    let rider = city.rider().await;
    let mut socket = rider.socket().await;
    let quiet = city.driver().await;
    let operator = cluster.operator_at("ap-south").await.with_patience(Patience::PATIENT);

    let refused = rehome(&operator, FROM).await.unwrap_err();
    assert_eq!(refused.code(), Some("validation_failed"), "it is at home there");
    let moving = rehome(&operator, TO).await.unwrap();
    let again = rehome(&operator, TO).await.unwrap_err();
    assert!(matches!(again.code(), Some("move_in_progress" | "validation_failed")), "{again}");
    let path = format!("/v1/moves/{}", moving["id"].as_str().unwrap());
    let moved = eventually_within(MOVED_WITHIN, "the tenant has moved", async || {
        let moved: Value = operator.get(&path).await.map_err(|error| error.to_string())?;
        if moved["state"] == "completed" { Ok(moved) } else { Err(moved.to_string()) }
    })
    .await;
    traffic.rides_go_on(10).await;

    let told = loop {
        let event = socket.next().await.expect("the socket is told where to go before it ends");
        if event.name == "tenant:moved" {
            break event.payload;
        }
    };
    assert_eq!(told["home_region"], TO);
    assert_eq!(told["base_url"], cluster.http_url(TO));
    // Who was signed in still is, with the token of before and with the next one.
    rider.client.rides("limit=1").await.unwrap();
    rider.client.renew(None).await.unwrap();
    quiet.client.renew(None).await.unwrap();
    for region in cluster.regions() {
        let there = rider.client.through(&cluster.http_url(&region)).with_patience(Patience::PATIENT);
        eventually("every edge forwards to the new home", async || {
            let answer =
                there.call(reqwest::Method::GET, "/v1/rides").send().await.map_err(|error| error.to_string())?;
            let served_by = answer.header("x-served-by-region").unwrap_or_default().to_owned();
            if served_by == TO { Ok(()) } else { Err(served_by) }
        })
        .await;
    }
    let book = traffic.stop().await;
    assert_eq!(book.failures(), Vec::<String>::new(), "writes paused for {} ms", moved["paused_ms"]);
    book.must_hold_after_moves(&cluster, &[TO]).await;
    eprintln!("{} rides paid; {moved}", book.settled());
}

async fn rehome(operator: &Client, to: &str) -> Result<Value, system_tests::api::ApiError> {
    let asked = json!({"to_region": to, "mode": "planned"});
    operator.post(&format!("/v1/tenants/{TENANT}/rehome"), &asked).await
}
