//! An edge of its own: no database, near riders; it forwards, and goes on with what it knows when its full node is gone.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use deploy_local::Service;
use reqwest::Method;
use serde_json::{Value, json};
use system_tests::{
    api::{Answer, Trip},
    harness::{Spot, TestCluster, eventually, tell},
    socket::Socket,
    stories,
};

/// At home in the edge's region, and in the other one.
const TENANTS: [&str; 2] = ["manhattan-cabs", "porto-taxis"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edge() {
    let regions = deploy_local::Cluster::builder().regions(["us-east", "eu-west"]).edges(1);
    let cluster = TestCluster::start_as(regions).await;
    let stories = stories!(cluster;
        whole_rides_run_through_an_edge_and_its_sockets,
        an_edge_refuses_what_no_region_would_take,
        an_edge_answers_routes_and_keys_itself,
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
