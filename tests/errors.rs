//! Every error is a problem of exactly the promised status, code and shape, those of the framework included.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use system_tests::{
    api::{Answer, Call, Problem, SignedIn, payment_request, ride_request},
    harness::{Driver, Rider, Spot, TestCity, TestCluster, tell},
    socket::Socket,
    stories,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

const TENANT: &str = "manhattan-cabs";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors() {
    let limits = deploy_local::Cluster::builder()
        .regions(["us-east", "eu-west"])
        .node_env("REGION_NODE_HTTP__REQUEST_TIMEOUT", "2s")
        .node_env("REGION_NODE_LIMITS__CONNECTIONS_PER_MINUTE", "10")
        .node_env("REGION_NODE_LIMITS__REQUESTS_PER_SECOND", "50")
        .node_env("REGION_NODE_LIMITS__REQUESTS_BURST", "200");
    let cluster = TestCluster::start_as(limits).await;
    let stories = stories!(cluster;
        what_the_framework_refuses_is_a_problem_too,
        a_call_names_its_tenant,
        a_token_must_be_good_and_of_the_tenant,
        each_role_keeps_to_its_calls,
        wrong_credentials_are_refused,
        each_wrong_field_is_named,
        steps_out_of_order_change_nothing,
        what_is_not_there_is_404,
        a_body_that_never_comes_ends_in_time,
        a_problem_carries_the_request_s_id,
        an_idempotency_key_must_be_one,
        nothing_internal_leaves,
    );
    tell(&cluster, 3, stories).await;
    tell(&cluster, 1, stories!(cluster; too_many_calls_are_429, too_many_connections_are_429)).await;
}

async fn what_the_framework_refuses_is_a_problem_too(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let rider = city.rider().await.client;
    expect(rider.call(Method::GET, "/v1/no-such-thing"), 404, "not_found").await;
    expect(rider.call(Method::PUT, "/v1/rides"), 405, "method_not_allowed").await;
    expect(rider.call(Method::DELETE, "/v1/auth/token"), 405, "method_not_allowed").await;
    let estimate = || rider.call(Method::POST, "/v1/rides/estimate");
    expect(estimate().raw_body("{").header("content-type", "application/json"), 400, "malformed_json").await;
    expect(estimate().raw_body("{\"pickup\":").header("content-type", "application/json"), 400, "malformed_json").await;
    for cut_short in ["[1,", "{\"pickup\": 1,", "[1] x"] {
        let call = estimate().raw_body(cut_short).header("content-type", "application/json");
        expect(call, 400, "malformed_json").await;
    }
    expect(estimate().raw_body("").header("content-type", "application/json"), 422, "validation_failed").await;
    expect(estimate().raw_body("a=b").header("content-type", "text/plain"), 415, "unsupported_media_type").await;
    let large = json!({"pickup": "x".repeat(70_000)});
    expect(estimate().body(&large), 413, "payload_too_large").await;
    expect(rider.call(Method::GET, "/v1/rides/not-a-uuid"), 404, "not_found").await;
    expect(rider.call(Method::GET, "/v1/rides?limit=many"), 422, "validation_failed").await;
    expect(rider.call(Method::GET, "/v1/rides?cursor=%00"), 422, "validation_failed").await;
}

async fn a_call_names_its_tenant(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await.client;
    let without = cluster.client("us-east");
    expect(without.call(Method::GET, "/v1/rides"), 400, "tenant_required").await;
    expect(without.call(Method::GET, "/v1/route"), 400, "tenant_required").await;
    let registration = json!({"name": "A", "phone": "+9990000000001", "password": "12345678"});
    expect(without.call(Method::POST, "/v1/riders").body(&registration), 400, "tenant_required").await;
    for unknown in ["nobodys-cabs", "NOT A SLUG", "x"] {
        expect(rider.naming_tenant(unknown).call(Method::GET, "/v1/rides"), 404, "unknown_tenant").await;
    }
}

async fn a_token_must_be_good_and_of_the_tenant(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await.client;
    expect(rider.call(Method::GET, "/v1/rides").unsigned(), 401, "unauthenticated").await;
    expect(rider.naming_tenant("porto-taxis").call(Method::GET, "/v1/rides"), 403, "tenant_mismatch").await;
    let good = rider.token().await.unwrap();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let flipped: String = signature.chars().rev().collect();
    for bad in ["rubbish".to_owned(), format!("{head}."), format!("{head}.{flipped}"), unsigned(&good)] {
        let client = cluster.client("us-east").for_tenant(TENANT);
        client.set_token(token(&bad)).await;
        expect(client.call(Method::GET, "/v1/rides"), 401, "invalid_token").await;
    }
}

async fn each_role_keeps_to_its_calls(cluster: TestCluster) {
    let (rider, driver) = two(&cluster.city(TENANT)).await;
    let (spot, office) = (Spot::new(), cluster.office(TENANT, "us-east").await);
    let ride = ride_request(&spot.journey(), None);
    expect(driver.client.call(Method::POST, "/v1/rides").body(&ride), 403, "forbidden").await;
    let status = format!("/v1/drivers/{}/status", driver.id);
    expect(rider.client.call(Method::POST, &status).body(&json!({"status": "online"})), 403, "forbidden").await;
    let config = format!("/v1/tenants/{TENANT}/config");
    expect(rider.client.call(Method::GET, &config), 403, "forbidden").await;
    expect(rider.client.call(Method::GET, "/v1/settlements"), 403, "forbidden").await;
    expect(office.call(Method::GET, "/v1/regions"), 403, "forbidden").await;
    let verify = json!({"command": "verify", "reason": "a drill"});
    for region in ["us-east", "eu-west"] {
        let commands = format!("/v1/regions/{region}/sync/commands");
        expect(office.call(Method::POST, &commands).body(&verify), 403, "forbidden").await;
    }
    let tenant = json!({"id": "new-cabs", "name": "New", "home_region": "us-east"});
    expect(office.call(Method::POST, "/v1/tenants").body(&tenant), 403, "forbidden").await;
}

async fn wrong_credentials_are_refused(cluster: TestCluster) {
    let client = cluster.client("us-east").for_tenant(TENANT);
    let grants = [
        (
            json!({"grant_type": "password", "phone": "+9991111111111", "password": "whatever"}),
            401,
            "invalid_credentials",
        ),
        (
            json!({"grant_type": "client_credentials", "client_id": "a", "client_secret": "b"}),
            401,
            "invalid_credentials",
        ),
        (json!({"grant_type": "refresh_token", "refresh_token": "stolen"}), 401, "invalid_refresh_token"),
        (json!({"grant_type": "password"}), 422, "validation_failed"),
        (json!({"grant_type": "magic"}), 422, "validation_failed"),
    ];
    for (grant, status, code) in grants {
        expect(client.call(Method::POST, "/v1/auth/token").body(&grant), status, code).await;
    }
    let again = json!({"name": "A", "phone": "+9992222222222", "password": "12345678"});
    client.call(Method::POST, "/v1/riders").body(&again).send().await.unwrap();
    expect(client.call(Method::POST, "/v1/riders").body(&again), 409, "already_exists").await;
}

async fn each_wrong_field_is_named(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await.client;
    let far = json!({"pickup": {"lat": 91.0, "lng": 0.0}, "dropoff": {"lat": 0.0, "lng": 181.0}, "vehicle_class": "standard"});
    let problem = expect(rider.call(Method::POST, "/v1/rides/estimate").body(&far), 422, "validation_failed").await;
    let mut fields: Vec<_> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["dropoff.lng", "pickup.lat"]);
    let registration = json!({"name": "", "phone": "abc", "password": "short"});
    let problem = expect(rider.call(Method::POST, "/v1/riders").body(&registration), 422, "validation_failed").await;
    let mut fields: Vec<_> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["name", "password", "phone"]);
    let mut unknown_class = ride_request(&Spot::new().journey(), None);
    unknown_class["vehicle_class"] = json!("hovercraft");
    let problem = expect(rider.call(Method::POST, "/v1/rides").body(&unknown_class), 422, "validation_failed").await;
    assert_eq!(problem.errors[0].field, "vehicle_class");
    let mut no_number = ride_request(&Spot::new().journey(), None);
    no_number["pickup"]["lng"] = json!("east");
    let problem = expect(rider.call(Method::POST, "/v1/rides").body(&no_number), 422, "validation_failed").await;
    assert_eq!(problem.errors[0].field, "pickup.lng");
}

async fn steps_out_of_order_change_nothing(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let served = city.serve_ride().await;
    let (rider, driver, trip) = (&served.rider.client, &served.driver.client, served.trip.id);
    for step in ["arrive", "start", "pause", "resume", "end"] {
        let call = driver.call(Method::POST, &format!("/v1/trips/{trip}/{step}")).body(&json!({}));
        expect(call, 409, "invalid_transition").await;
    }
    let cancel = rider.call(Method::POST, &format!("/v1/rides/{}/cancel", served.ride.id)).body(&json!({}));
    expect(cancel, 409, "invalid_transition").await;
    assert_eq!(served.rider.client.ride(served.ride.id).await.unwrap(), served.ride);
    let rating =
        |stars: u8| rider.call(Method::POST, &format!("/v1/trips/{trip}/rating")).body(&json!({"stars": stars}));
    expect(rating(6), 422, "validation_failed").await;
    rating(5).send().await.unwrap();
    expect(rating(4), 409, "already_rated").await;
    let payment = served.rider.pay(trip).await;
    let (refunds, refund) =
        (format!("/v1/payments/{}/refunds", payment.id), json!({"amount": 10_000_000, "reason": "a test"}));
    expect(rider.call(Method::POST, &refunds).body(&refund), 403, "forbidden").await;
    let office = cluster.office(TENANT, "us-east").await;
    expect(office.call(Method::POST, &refunds).body(&refund), 422, "amount_exceeds_payment").await;
    expect(rider.call(Method::POST, "/v1/payments").body(&payment_request(trip)), 409, "already_paid").await;
}

async fn what_is_not_there_is_404(cluster: TestCluster) {
    let (rider, driver) = two(&cluster.city(TENANT)).await;
    let nothing = Uuid::now_v7();
    for path in [format!("/v1/rides/{nothing}"), format!("/v1/trips/{nothing}"), format!("/v1/payments/{nothing}")] {
        expect(rider.client.call(Method::GET, &path), 404, "not_found").await;
    }
    let accept = format!("/v1/drivers/{}/accept", driver.id);
    expect(driver.client.call(Method::POST, &accept).body(&json!({"ride_id": nothing})), 404, "not_found").await;
}

async fn a_body_that_never_comes_ends_in_time(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await.client;
    let address = cluster.http_url("us-east").replace("http://", "");
    let mut connection = TcpStream::connect(address.trim_end_matches('/')).await.unwrap();
    let head = format!(
        "POST /v1/rides/estimate HTTP/1.1\r\nhost: here\r\nconnection: close\r\nx-tenant-id: {TENANT}\r\n\
         authorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        rider.token().await.unwrap()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), connection.read_to_string(&mut text)).await;
    read.expect("the server does not wait for ever").unwrap();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(text.contains("application/problem+json") && text.contains("\"request_timeout\""), "{text}");
}

async fn a_problem_carries_the_request_s_id(cluster: TestCluster) {
    let client = cluster.client("us-east").for_tenant(TENANT);
    let call = client.call(Method::GET, "/v1/rides").header("x-request-id", "my-own-id");
    let answer = call.answer().await.unwrap();
    assert_eq!(answer.header("x-request-id"), Some("my-own-id"));
    assert_eq!(answer.problem().unwrap().request_id, "my-own-id");
    let made = client.call(Method::GET, "/v1/rides").answer().await.unwrap();
    assert_eq!(made.header("x-request-id").unwrap(), made.problem().unwrap().request_id);
}

async fn an_idempotency_key_must_be_one(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await.client;
    let ride = ride_request(&Spot::new().journey(), None);
    for key in ["k".repeat(256), "\u{fc}".to_owned(), String::new()] {
        let call = rider.call(Method::POST, "/v1/rides").key(key).body(&ride);
        let problem = expect(call, 422, "validation_failed").await;
        assert_eq!(problem.errors[0].field, "Idempotency-Key");
    }
}

/// Rubbish of every kind: whatever the answer, it is a problem and tells nothing of the inside.
async fn nothing_internal_leaves(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await.client;
    let rubbish = [
        json!(null),
        json!([]),
        json!("'; DROP TABLE rides; --"),
        json!({"pickup": {"lat": "1e999", "lng": 0}}),
        json!({"pickup": {"lat": 0, "lng": 0}, "dropoff": {"lat": 0, "lng": 0}, "vehicle_class": "\u{0}"}),
        json!({"name": "A", "phone": "\u{0}", "password": "12345678"}),
        json!({"trip_id": "' OR 1=1", "method": {"type": "card"}}),
        json!({"grant_type": "password", "phone": "\u{0}", "password": "\u{0}"}),
        Value::Object((0..500).map(|n| (format!("field{n}"), json!(n))).collect()),
    ];
    for path in ["/v1/rides", "/v1/rides/estimate", "/v1/riders", "/v1/payments", "/v1/auth/token"] {
        for body in &rubbish {
            let answer = rider.call(Method::POST, path).body(body).answer().await.unwrap();
            assert!((400..500).contains(&answer.status), "{path} {body}: {} {}", answer.status, answer.text());
            answer.problem().unwrap_or_else(|error| panic!("{path} {body}: {error}"));
            let text = answer.text().to_lowercase();
            for word in ["sqlx", "postgres", "panicked", "select ", "insert ", ".rs:", "/src/", "stack backtrace"] {
                assert!(!text.contains(word), "{path} {body}: {word} in {text}");
            }
        }
    }
}

async fn too_many_calls_are_429(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await.client;
    let calls = (0..400).map(|_| rider.call(Method::GET, "/v1/rides?limit=1").answer());
    let answers = futures::future::join_all(calls).await;
    let refused = answers.iter().flatten().find(|answer| answer.status == 429);
    assert_limited(refused.expect("400 calls at once are too many"));
}

async fn too_many_connections_are_429(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await;
    let handshake = "/socket.io/?EIO=4&transport=polling";
    let mut refused = None;
    for _ in 0..12 {
        let answer = rider.client.call(Method::GET, handshake).answer().await.unwrap();
        refused = (answer.status == 429).then_some(answer).or(refused);
    }
    assert_limited(&refused.expect("more than ten connections in a minute are too many"));
    assert!(Socket::connect(&rider.client, &cluster.tasks).await.is_err());
}

fn assert_limited(answer: &Answer) {
    assert_eq!(answer.problem().unwrap().code, "rate_limited");
    for name in ["retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
        let value = answer.header(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(value.parse::<u64>().is_ok(), "{name}: {value}");
    }
}

/// Sends a call and checks that exactly this problem comes back, whole.
async fn expect(call: Call<'_>, status: u16, code: &str) -> Problem {
    let answer = call.answer().await.unwrap();
    assert_eq!(answer.status, status, "{code} expected: {}", answer.text());
    let problem = answer.problem().unwrap();
    assert_eq!((problem.status, problem.code.as_str()), (status, code), "{problem:?}");
    assert!(!problem.kind.is_empty() && !problem.title.is_empty(), "{problem:?}");
    assert_eq!(answer.header("x-request-id"), Some(problem.request_id.as_str()));
    assert_eq!(problem.errors.is_empty(), code != "validation_failed", "{problem:?}");
    problem
}

async fn two(city: &TestCity) -> (Rider, Driver) {
    (city.rider().await, city.driver().await)
}

fn token(access_token: &str) -> SignedIn {
    SignedIn {
        access_token: access_token.to_owned(),
        refresh_token: String::new(),
        expires_in: 60,
        role: "rider".into(),
        subject: String::new(),
    }
}

/// The same claims under `alg: none`, without a signature.
fn unsigned(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap_or_default();
    // {"alg":"none","typ":"JWT"}
    format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
}
