//! A tenant moves to another region: handed over while its people ride, or taken from a region that stands still.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use system_tests::{
    api::{Patience, Payment},
    harness::{Spot, TestCluster, Traffic, eventually, eventually_within, tell},
    stories,
};
use tokio::time::Instant;

const TENANT: &str = "porto-taxis";
const FROM: &str = "eu-west";
const TO: &str = "us-east";
/// With builds for debugging on a busy machine; `paused_ms` says what it was.
const MOVED_WITHIN: Duration = Duration::from_secs(120);
/// From the command to the first call that the new home answers.
const SERVED_WITHIN: Duration = Duration::from_secs(60);
const CONVERGED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rehoming() {
    let cluster = TestCluster::start().await;
    let stories = stories!(cluster;
        a_tenant_moves_while_its_people_ride_and_nobody_is_refused_for_good,
        a_home_that_stands_still_is_taken_over_and_its_late_payments_are_in_the_ledger_flagged,
    );
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

    let refused = operator.rehome(TENANT, FROM, "planned").await.unwrap_err();
    assert_eq!(refused.code(), Some("validation_failed"), "it is at home there");
    let moving = operator.rehome(TENANT, TO, "planned").await.unwrap();
    let again = operator.rehome(TENANT, TO, "planned").await.unwrap_err();
    assert!(matches!(again.code(), Some("move_in_progress" | "validation_failed")), "{again}");
    let moved = eventually_within(MOVED_WITHIN, "the tenant has moved", async || {
        let moved = operator.tenant_move(moving.id).await.map_err(|error| error.to_string())?;
        if moved.state == "completed" { Ok(moved) } else { Err(format!("{moved:?}")) }
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
            let answer = there.call(Method::GET, "/v1/rides").send().await.map_err(|error| error.to_string())?;
            let served_by = answer.header("x-served-by-region").unwrap_or_default().to_owned();
            if served_by == TO { Ok(()) } else { Err(served_by) }
        })
        .await;
    }
    let book = traffic.stop().await;
    assert_eq!(book.failures(), Vec::<String>::new(), "{moved:?}");
    book.must_hold_after_moves(&cluster, &[TO]).await;
    eprintln!("{} rides paid; {moved:?}", book.settled());
}

/// The old home settles what nobody else hears of, and begins what is not answered yet; then all of it stands still.
async fn a_home_that_stands_still_is_taken_over_and_its_late_payments_are_in_the_ledger_flagged(cluster: TestCluster) {
    let (tenant, from, to) = ("bengaluru-rides", "ap-south", "us-east");
    let others = ["us-east", "eu-west"];
    let city = cluster.city(tenant);
    let before = city.serve_ride().await;
    before.rider.pay(before.trip.id).await;
    cluster.ledger_everywhere(before.trip.id, "settlement").await;
    let (unheard, unanswered) = (city.serve_ride().await, city.serve_ride().await);
    for other in others {
        cluster.link(from, other).cut().unwrap();
    }
    unheard.rider.pay(unheard.trip.id).await;
    let silent = json!({"trip_id": unanswered.trip.id, "method": {"type": "card", "token": "tok_timeout"}});
    let _: Payment = unanswered.rider.client.post("/v1/payments", &silent).await.unwrap();
    cluster.freeze_region(from).unwrap();

    let operator = cluster.operator_at("eu-west").await.with_patience(Patience::PATIENT);
    let commanded = Instant::now();
    let moving = operator.rehome(tenant, to, "failover").await.unwrap();
    assert_eq!((moving.mode.as_str(), moving.to_region.as_str()), ("failover", to));
    let abroad = city.through(&cluster.http_url("eu-west"));
    eventually_within(SERVED_WITHIN, "the new home serves", async || abroad.try_register().await).await;
    let took = commanded.elapsed();
    let moved = operator.tenant_move(moving.id).await.unwrap();
    assert_eq!(moved.state, "completed", "{moved:?}");
    let anew = abroad.serve_ride().await;
    anew.rider.pay(anew.trip.id).await;

    cluster.thaw_region(from).unwrap();
    cluster.all_links().heal().unwrap();
    eventually_within(CONVERGED_WITHIN, "the old home hears of the new one", async || {
        let call = city.client.call(Method::POST, "/v1/riders").body(&json!({}));
        let answer = call.unsigned().answer().await.map_err(|error| error.to_string())?;
        let served_by = answer.header("x-served-by-region").unwrap_or_default().to_owned();
        if served_by == to { Ok(()) } else { Err(format!("{served_by}: {}", answer.text())) }
    })
    .await;
    // Who knew the old home alone is told to register, and nothing is written for them anywhere.
    let stranger = unheard.rider.client.with_patience(Patience::PATIENT);
    let refused = stranger.request_ride(&Spot::new().journey(), None).await.unwrap_err();
    assert_eq!(refused.code(), Some("invalid_token"), "{refused}");
    for served in [&unheard, &unanswered, &before, &anew] {
        cluster.ledger_everywhere(served.trip.id, "settlement").await;
    }
    for region in others {
        let ledger = cluster.operator_at(region).await.all_settlements().await.unwrap();
        for (served, is_late) in [(&unheard, true), (&unanswered, true), (&before, false), (&anew, false)] {
            let fact = ledger.iter().find(|fact| fact.trip_id == served.trip.id).unwrap();
            assert_eq!(fact.late, is_late, "{region}: {fact:?}");
        }
    }
    cluster.converged().await;
    eprintln!("served {} ms after the command", took.as_millis());
}
