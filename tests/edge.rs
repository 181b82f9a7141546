//! An edge of its own: no database, near riders; it forwards, and goes on with what it knows when its full node is gone.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::collections::BTreeSet;

use deploy_local::Service;
use futures::future::join_all;
use reqwest::Method;
use ring::hmac;
use serde_json::{Value, json};
use shared::ids::TripId;
use system_tests::{
    api::{Answer, Patience, Payment, PaymentStatus, Trip, payment_request},
    harness::{Spot, TestCluster, eventually, tell},
    socket::Socket,
    stories,
};
use uuid::Uuid;

const WEBHOOK_SECRET: &str = "a secret of tests";

/// At home in the edge's region, and in the other one.
const TENANTS: [&str; 2] = ["manhattan-cabs", "porto-taxis"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edge() {
    let regions = deploy_local::Cluster::builder().regions(["us-east", "eu-west"]).edges(1);
    let regions = regions
        .node_env("REGION_NODE_PSP__SANDBOX__WEBHOOK_SECRET", WEBHOOK_SECRET)
        .node_env("REGION_NODE_PSP__TIMEOUT", "1s");
    let cluster = TestCluster::start_as(regions).await;
    let stories = stories!(cluster;
        whole_rides_run_through_an_edge_and_its_sockets,
        an_edge_refuses_what_no_region_would_take,
        an_edge_answers_routes_and_keys_itself,
        fifty_payments_and_a_storm_of_retries_through_two_edges_charge_once,
        a_webhook_played_again_through_two_edges_charges_once,
    );
    tell(&cluster, 2, stories).await;
    let alone = stories!(cluster; an_edge_whose_full_node_is_gone_goes_on_with_what_it_knows);
    tell(&cluster, 1, alone).await;
}

async fn whole_rides_run_through_an_edge_and_its_sockets(cluster: TestCluster) {
    for tenant in TENANTS {
        let city = cluster.city(tenant);
        let there = city.through(&cluster.edge_url("us-east", 1));
        let (rider, driver, spot) = (there.rider().await, there.driver().await, Spot::new());
        let (mut rider_socket, mut driver_socket) = (rider.socket().await, driver.socket().await);
        driver.client.set_online(driver.id, true).await.unwrap();
        assert_eq!(driver_socket.ask("location:update", json!(spot.pickup)).await.unwrap(), json!({"ok": true}));
        let ride = rider.request(&spot).await;
        next(&mut driver_socket, |name, payload| name == "ride:offer" && payload["ride_id"] == json!(ride.id)).await;
        let trip = driver_socket.ask("ride:accept", json!({"ride_id": ride.id})).await.unwrap();
        let trip: Trip = serde_json::from_value(trip).unwrap();
        driver.drive(trip.id, &spot).await;
        next(&mut rider_socket, |name, payload| name == "ride:update" && payload["status"] == "completed").await;
        rider.pay(trip.id).await;
        driver.offline().await;
        let answer = rider.client.call(Method::GET, "/v1/rides").send().await.unwrap();
        assert_eq!(answer.header("x-served-by-region"), Some(city.home.as_str()), "{tenant}");
        assert_eq!(answer.header("x-edge-region"), Some("us-east"), "{tenant}");
    }
}

/// Each request with a key of its own, at the edges of both regions; then one of them again and again.
async fn fifty_payments_and_a_storm_of_retries_through_two_edges_charge_once(cluster: TestCluster) {
    let city = cluster.city(TENANTS[1]);
    let served = city.serve_ride().await;
    let edges = ["us-east", "eu-west"].map(|region| served.rider.client.through(&cluster.edge_url(region, 1)));
    let body = payment_request(served.trip.id);
    let keys: Vec<String> = (0..50).map(|_| Uuid::new_v4().to_string()).collect();
    let pay = |n: usize, key: &str| edges[n % 2].call(Method::POST, "/v1/payments").key(key).body(&body).answer();
    let (mut paid, mut by_key) = (BTreeSet::new(), None);
    for (answer, key) in join_all(keys.iter().enumerate().map(|(n, key)| pay(n, key))).await.into_iter().zip(&keys) {
        let answer = answer.unwrap();
        if answer.status == 201 {
            paid.insert(answer.json::<Payment>().unwrap().id);
            by_key = Some(key);
        } else {
            assert_problem(&answer, 409, "already_paid");
        }
    }
    assert_eq!(paid.len(), 1, "each with a key of its own, and one payment");
    for answer in join_all((0..50).map(|n| pay(n, by_key.unwrap()))).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (201, Some("true")), "{}", answer.text());
        assert!(paid.contains(&answer.json::<Payment>().unwrap().id));
    }
    assert_eq!(charges(&cluster, &city.home, served.trip.id).await, 1);
}

/// The PSP charges and falls silent, the rider asks again and again, and the PSP tells of it many times over.
async fn a_webhook_played_again_through_two_edges_charges_once(cluster: TestCluster) {
    let city = cluster.city(TENANTS[1]);
    let served = city.serve_ride().await;
    let edges = ["us-east", "eu-west"].map(|region| served.rider.client.through(&cluster.edge_url(region, 1)));
    let body = json!({"trip_id": served.trip.id, "method": {"type": "card", "token": "tok_timeout"}});
    let key = Uuid::new_v4().to_string();
    let storm = (0..20).map(|n| {
        let patient = edges[n % 2].with_patience(Patience::PATIENT);
        let (key, body) = (&key, &body);
        async move { patient.call(Method::POST, "/v1/payments").key(key).body(body).send().await.unwrap().json() }
    });
    let begun: Vec<Payment> = join_all(storm).await.into_iter().map(Result::unwrap).collect();
    let id = begun[0].id;
    assert!(begun.iter().all(|payment| payment.id == id), "{begun:?}");

    let about = format!("payment-{id}");
    let event = json!({"id": "evt_1", "type": "charge.succeeded", "data": {"idempotency_key": about}}).to_string();
    let at = shared::clock::Clock::system().now().unix_timestamp();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, WEBHOOK_SECRET.as_bytes());
    let tag = hmac::sign(&secret, format!("{at}.{event}").as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let deliveries = (0..20).map(|n| {
        let call = edges[n % 2].call(Method::POST, "/v1/psp/webhooks/sandbox").unsigned().raw_body(event.clone());
        call.header("sandbox-signature", format!("t={at},v1={hex}")).answer()
    });
    for answer in join_all(deliveries).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    eventually("the payment is settled", async || {
        let payment = edges[0].payment(id).await.map_err(|error| error.to_string())?;
        if payment.status == PaymentStatus::Settled { Ok(()) } else { Err(format!("{payment:?}")) }
    })
    .await;
    assert_eq!(charges(&cluster, &city.home, served.trip.id).await, 1);
}

/// How often the PSP has charged a trip.
async fn charges(cluster: &TestCluster, region: &str, trip: TripId) -> i64 {
    let database = sqlx::PgPool::connect(&cluster.postgres_url(region)).await.unwrap();
    let sql = "SELECT count(*) FROM payments p JOIN sandbox_psp_operations o ON o.idempotency_key = 'payment-' || p.id
        WHERE p.trip_id = $1 AND o.outcome = 'succeeded'";
    let charges = sqlx::query_scalar(sql).bind(trip.0).fetch_one(&database).await.unwrap();
    database.close().await;
    charges
}

async fn next(socket: &mut Socket, is_it: impl Fn(&str, &Value) -> bool) {
    loop {
        let event = socket.next().await.expect("the socket holds");
        if is_it(&event.name, &event.payload) {
            return;
        }
    }
}

async fn an_edge_refuses_what_no_region_would_take(cluster: TestCluster) {
    let edge = cluster.edge_url("us-east", 1);
    let rider = cluster.city(TENANTS[0]).rider().await.client.through(&edge);
    let forged =
        rider.anonymous().call(Method::GET, "/v1/rides").header("authorization", "Bearer a.b.c").answer().await;
    let forged = forged.unwrap();
    assert_problem(&forged, 401, "invalid_token");
    // As every answer, it says by which request and which edge.
    assert_eq!(forged.header("x-edge-region"), Some("us-east"));
    assert_eq!(forged.header("x-request-id").unwrap(), forged.problem().unwrap().request_id);
    let unknown = rider.naming_tenant("nobodys-cabs").call(Method::GET, "/v1/rides").answer().await.unwrap();
    assert_problem(&unknown, 404, "unknown_tenant");
    let nothing = rider.call(Method::GET, "/v1/no-such-thing").answer().await.unwrap();
    assert_problem(&nothing, 404, "not_found");
    // Given to this edge by an edge, it would go round.
    let round = rider.call(Method::GET, "/v1/rides").header("x-gocomet-given-by-edge", "us-east");
    assert_problem(&round.answer().await.unwrap(), 508, "routing_loop");
}

async fn an_edge_answers_routes_and_keys_itself(cluster: TestCluster) {
    for tenant in TENANTS {
        let home = cluster.tenant(tenant).home_region;
        let client = cluster.client("us-east").for_tenant(tenant).through(&cluster.edge_url("us-east", 1));
        let route = client.home_route().await.unwrap();
        assert_eq!((route.tenant.as_str(), &route.home_region), (tenant, &home));
        assert_eq!(route.base_url.trim_end_matches('/'), cluster.http_url(&home).trim_end_matches('/'));
    }
}

async fn an_edge_whose_full_node_is_gone_goes_on_with_what_it_knows(cluster: TestCluster) {
    let edge = cluster.edge_url("us-east", 1);
    let [here, elsewhere] = TENANTS.map(|tenant| cluster.city(tenant).through(&edge));
    let (rider, foreign) = (here.rider().await.client, elsewhere.rider().await.client);
    let office = cluster.office(TENANTS[0], "us-east").await.through(&edge);
    let published = office.config(TENANTS[0]).await.unwrap().published.unwrap();
    eventually("the edge has heard of all tenants", async || match office.get("/health/ready").await {
        Ok(Value::Object(ready)) if ready["tenants"].as_u64() >= Some(TENANTS.len() as u64) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    cluster.kill("us-east", Service::NODE).await.unwrap();
    let answer = rider.call(Method::GET, "/v1/rides").answer().await.unwrap();
    assert_problem(&answer, 503, "home_region_unreachable");
    assert!(answer.header("retry-after").is_some());
    foreign.rides("limit=1").await.expect("another region's riders are served");
    for client in [&rider, &foreign] {
        client.home_route().await.expect("routes are known");
    }
    let keys: Value = rider.get("/.well-known/jwks.json").await.unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2, "of both regions: {keys}");
    let remembered = office.config(TENANTS[0]).await.unwrap();
    assert_eq!(remembered.published.unwrap().version, published.version);
    assert_eq!(remembered.rejected.len(), 1, "and it says that this is all it knows");
    assert!(!remembered.config.to_string().contains("argon2"));

    cluster.restart("us-east", Service::NODE).await.unwrap();
    eventually("calls are served again", async || rider.rides("limit=1").await).await;
    eventually("so is the draft", async || match office.config(TENANTS[0]).await {
        Ok(config) if !config.heads.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let problem = answer.problem().unwrap();
    assert_eq!((problem.status, problem.code.as_str()), (status, code));
}
