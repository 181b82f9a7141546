//! Each tenant is served through every region's edge, by its home region alone.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use deploy_local::Service;
use reqwest::Method;
use serde_json::json;
use system_tests::{
    api::{Answer, Client},
    harness::{Spot, TestCluster, eventually, tell},
    socket::{Socket, SocketError},
    stories,
};
use uuid::Uuid;

const TENANTS: [&str; 3] = ["manhattan-cabs", "porto-taxis", "bengaluru-rides"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing() {
    let cluster = TestCluster::start().await;
    let stories = stories!(cluster;
        every_tenant_is_served_through_every_edge_by_its_home,
        a_whole_ride_runs_through_a_foreign_edge_and_its_sockets,
        a_token_of_one_region_is_good_at_every_edge,
        a_client_is_told_where_its_tenant_is_at_home,
        a_call_is_forwarded_once_and_then_a_loop,
        a_socket_without_its_tenant_in_the_handshake_is_sent_home,
        nothing_of_a_forwarded_call_is_stored_at_the_edge,
        one_key_through_two_edges_is_one_command,
    );
    tell(&cluster, 3, stories).await;
    let alone = stories!(cluster; a_home_that_is_down_is_503_with_a_time_to_come_back);
    tell(&cluster, 1, alone).await;
}

async fn every_tenant_is_served_through_every_edge_by_its_home(cluster: TestCluster) {
    for tenant in TENANTS {
        let city = cluster.city(tenant);
        for region in cluster.regions() {
            let there = city.through(&cluster.http_url(&region));
            let rider = there.rider().await;
            let answer = rider.client.call(Method::GET, "/v1/rides").send().await.unwrap();
            assert_eq!(answer.header("x-served-by-region"), Some(city.home.as_str()), "{tenant} through {region}");
            assert_eq!(answer.header("x-edge-region"), Some(region.as_str()), "{tenant} through {region}");
            // Errors go through as they are.
            let missing = rider.client.ride(Uuid::now_v7().into()).await.unwrap_err();
            assert_eq!(missing.code(), Some("not_found"));
        }
    }
}

async fn a_whole_ride_runs_through_a_foreign_edge_and_its_sockets(cluster: TestCluster) {
    let city = cluster.city("manhattan-cabs");
    let [for_rider, for_driver] = ["eu-west", "ap-south"].map(|region| city.through(&cluster.http_url(region)));
    let (rider, driver, spot) = (for_rider.rider().await, for_driver.driver().await, Spot::new());
    let (mut rider_socket, mut driver_socket) = (rider.socket().await, driver.socket().await);
    driver.client.set_online(driver.id, true).await.unwrap();
    assert_eq!(driver_socket.ask("location:update", json!(spot.pickup)).await.unwrap(), json!({"ok": true}));
    let ride = rider.request(&spot).await;
    loop {
        let event = driver_socket.next().await.expect("the socket holds");
        if event.name == "ride:offer" && event.payload["ride_id"] == json!(ride.id) {
            break;
        }
    }
    let trip = driver_socket.ask("ride:accept", json!({"ride_id": ride.id})).await.unwrap();
    let trip: system_tests::api::Trip = serde_json::from_value(trip).unwrap();
    driver.drive(trip.id, &spot).await;
    loop {
        let event = rider_socket.next().await.expect("the socket holds");
        if event.name == "ride:update" && event.payload["status"] == "completed" {
            break;
        }
    }
    rider.pay(trip.id).await;
    driver.offline().await;
}

async fn a_token_of_one_region_is_good_at_every_edge(cluster: TestCluster) {
    let rider = cluster.city("porto-taxis").rider().await;
    for region in cluster.regions() {
        rider.client.through(&cluster.http_url(&region)).rides("limit=1").await.unwrap();
    }
    let operator = cluster.operator_at("us-east").await;
    for region in cluster.regions() {
        operator.through(&cluster.http_url(&region)).all_settlements().await.unwrap();
    }
}

async fn a_client_is_told_where_its_tenant_is_at_home(cluster: TestCluster) {
    for tenant in TENANTS {
        let home = cluster.tenant(tenant).home_region;
        for region in cluster.regions() {
            let route = cluster.client(&region).for_tenant(tenant).home_route().await.unwrap();
            assert_eq!((route.tenant.as_str(), &route.home_region), (tenant, &home));
            assert_eq!(route.base_url.trim_end_matches('/'), cluster.http_url(&home).trim_end_matches('/'));
        }
    }
    let unknown = cluster.client("us-east").for_tenant("nobodys-cabs").home_route().await.unwrap_err();
    assert_eq!(unknown.code(), Some("unknown_tenant"));
}

async fn a_call_is_forwarded_once_and_then_a_loop(cluster: TestCluster) {
    let city = cluster.city("bengaluru-rides");
    let rider = city.rider().await;
    let abroad = rider.client.through(&cluster.http_url("us-east"));
    // As it would arrive if another edge held this region for the tenant's home.
    let call = abroad.call(Method::GET, "/v1/rides").header("x-gocomet-forwarded-by", "eu-west");
    assert_problem(&call.answer().await.unwrap(), 508, "routing_loop");
}

async fn a_socket_without_its_tenant_in_the_handshake_is_sent_home(cluster: TestCluster) {
    let city = cluster.city("porto-taxis");
    let rider = city.rider().await;
    let auth = json!({"token": rider.client.token().await, "tenant": "porto-taxis"});
    let at_home = Socket::connect_with(&cluster.http_url("eu-west"), None, &auth, &cluster.tasks).await;
    assert!(at_home.is_ok(), "{:?}", at_home.err());
    let abroad = Socket::connect_with(&cluster.http_url("us-east"), None, &auth, &cluster.tasks).await;
    match abroad.err().expect("a region that is not home sends the client there") {
        SocketError::Refused { data, .. } => {
            assert_eq!(data["code"], "wrong_region");
            let base_url = data["base_url"].as_str().unwrap_or_default().trim_end_matches('/');
            assert_eq!(base_url, cluster.http_url("eu-west").trim_end_matches('/'));
        }
        other => panic!("{other}"),
    }
}

async fn nothing_of_a_forwarded_call_is_stored_at_the_edge(cluster: TestCluster) {
    let city = cluster.city("manhattan-cabs");
    let rider = city.through(&cluster.http_url("ap-south")).rider().await;
    let ride = rider.request(&Spot::new()).await;
    let rows = |region: &str| {
        let url = cluster.postgres_url(region);
        async move {
            let pool = sqlx::PgPool::connect(&url).await.expect("the region's database answers");
            let mut found: i64 = 0;
            for query in ["SELECT count(*) FROM riders WHERE id = $1", "SELECT count(*) FROM rides WHERE rider_id = $1"]
            {
                found += sqlx::query_scalar::<_, i64>(query).bind(rider.id.0).fetch_one(&pool).await.unwrap();
            }
            let keys: i64 =
                sqlx::query_scalar("SELECT count(*) FROM idempotency_keys WHERE caller LIKE '%' || $1 || '%'")
                    .bind(rider.id.to_string())
                    .fetch_one(&pool)
                    .await
                    .unwrap();
            (found, keys)
        }
    };
    assert_eq!(rows("us-east").await.0, 2, "rider and ride are at home");
    assert_eq!(rows("ap-south").await, (0, 0), "and nowhere else");
    rider.client.cancel_ride(ride.id, "only a test").await.unwrap();
}

async fn one_key_through_two_edges_is_one_command(cluster: TestCluster) {
    let rider = cluster.city("porto-taxis").rider().await;
    let (spot, key) = (Spot::new(), Uuid::new_v4().to_string());
    let body = system_tests::api::ride_request(&spot.journey(), None);
    let mut answers = Vec::new();
    for region in ["us-east", "ap-south", "eu-west"] {
        let client = rider.client.through(&cluster.http_url(region));
        answers.push(client.call(Method::POST, "/v1/rides").key(&key).body(&body).send().await.unwrap());
    }
    assert_eq!(answers[0].header("idempotency-replayed"), None);
    for replayed in &answers[1..] {
        assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
        assert_eq!((replayed.status, &replayed.body), (answers[0].status, &answers[0].body));
    }
}

async fn a_home_that_is_down_is_503_with_a_time_to_come_back(cluster: TestCluster) {
    let rider = cluster.city("porto-taxis").rider().await;
    let abroad: Vec<Client> =
        ["us-east", "ap-south"].map(|region| rider.client.through(&cluster.http_url(region))).into();
    cluster.kill("eu-west", Service::NODE).await.unwrap();
    for client in &abroad {
        let answer = client.call(Method::GET, "/v1/rides").answer().await.unwrap();
        assert_problem(&answer, 503, "home_region_unreachable");
        let wait: u64 = answer.header("retry-after").expect("says when to come back").parse().unwrap();
        assert!((1..=60).contains(&wait));
        // What every region knows is answered all the same.
        client.home_route().await.unwrap();
        let office = cluster.office("porto-taxis", "us-east").await;
        office.through(client.base_url()).config("porto-taxis").await.unwrap();
    }
    cluster.restart("eu-west", Service::NODE).await.unwrap();
    for client in &abroad {
        eventually("the home answers again", async || client.rides("limit=1").await).await;
    }
}

fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let problem = answer.problem().unwrap();
    assert_eq!((problem.status, problem.code.as_str()), (status, code));
}
