//! Nobody reaches into another tenant: every endpoint of the OpenAPI document, with a forged tenant and with foreign ids.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use shared::clock::Clock;
use system_tests::{
    api::{Client, Payment},
    harness::{Served, Spot, TestCluster, tell},
    socket::{Socket, SocketError},
    stories,
};
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

const OWN: &str = "manhattan-cabs";
const FOREIGN: &str = "porto-taxis";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation() {
    // Both tenants at home in one region and one database: nothing but the tenant's fence stands between them.
    let cluster = TestCluster::start_as(deploy_local::Cluster::builder().regions(["us-east"])).await;
    let stories = stories!(cluster;
        a_forged_tenant_is_refused_on_every_endpoint,
        a_foreign_id_does_not_exist_on_any_endpoint,
        another_tenant_s_config_is_not_there,
        a_driver_cannot_take_a_foreign_ride_by_socket,
        another_rider_s_ride_does_not_exist,
        lists_and_searches_show_one_tenant,
        a_socket_with_a_forged_tenant_is_refused,
        one_phone_is_two_people_of_two_tenants,
    );
    tell(&cluster, 2, stories).await;
}

/// One operation of the OpenAPI document.
#[derive(Debug)]
struct Operation {
    method: Method,
    path: String,
    is_signed: bool,
}

async fn operations(cluster: &TestCluster) -> Vec<Operation> {
    let document: Value = cluster.client("us-east").get("/openapi.json").await.unwrap();
    assert_eq!(document["openapi"].as_str().unwrap().split('.').take(2).collect::<Vec<_>>(), ["3", "1"]);
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let is_signed = operation["security"].as_array().is_some_and(|list| !list.is_empty());
            found.push(Operation { method, path: path.clone(), is_signed });
        }
    }
    let signed = found.iter().filter(|operation| operation.is_signed && operation.path.starts_with("/v1/")).count();
    assert!(signed >= 30, "only {signed} operations say that they need a token");
    found
}

/// Operators' calls, about no tenant; what they answer to others is tested by role.
fn is_about_no_tenant(path: &str) -> bool {
    matches!(path, "/v1/regions" | "/v1/directory" | "/v1/tenants" | "/v1/moves" | "/v1/moves/{id}")
        || path.ends_with("/rehome")
}

async fn a_forged_tenant_is_refused_on_every_endpoint(cluster: TestCluster) {
    let city = cluster.city(OWN);
    let callers = [city.rider().await.client, city.driver().await.client, cluster.office(OWN, "us-east").await];
    for operation in operations(&cluster).await {
        if !operation.is_signed || !operation.path.starts_with("/v1/") || is_about_no_tenant(&operation.path) {
            continue;
        }
        let path = operation.path.replace("/v1/tenants/{id}", &format!("/v1/tenants/{FOREIGN}"));
        let path = path.replace("{id}", &Uuid::now_v7().to_string());
        for caller in &callers {
            let forged = caller.naming_tenant(FOREIGN);
            let call = forged.call(operation.method.clone(), &path).body(&body_for(&operation.path, &Uuid::now_v7()));
            let answer = call.answer().await.unwrap();
            assert_eq!(answer.status, 403, "{operation:?}: {}", answer.text());
            assert_eq!(answer.problem().unwrap().code, "tenant_mismatch", "{operation:?}");
        }
    }
}

async fn a_foreign_id_does_not_exist_on_any_endpoint(cluster: TestCluster) {
    let theirs = cluster.city(FOREIGN).serve_ride().await;
    let payment = theirs.rider.pay(theirs.trip.id).await;
    let city = cluster.city(OWN);
    let callers = [city.rider().await.client, city.driver().await.client, cluster.office(OWN, "us-east").await];
    let mut walked = 0;
    for operation in operations(&cluster).await {
        let Some(id) = foreign_id(&operation.path, &theirs, &payment) else { continue };
        let path = operation.path.replace("{id}", &id) + &query_for(&operation.path);
        let mut statuses = BTreeSet::new();
        for caller in &callers {
            let body = body_for(&operation.path, &theirs.ride.id.0);
            let answer = caller.call(operation.method.clone(), &path).body(&body).answer().await.unwrap();
            let problem = answer.problem().unwrap_or_else(|error| panic!("{operation:?}: {error}"));
            assert!(
                matches!((answer.status, problem.code.as_str()), (404, "not_found") | (403, "forbidden")),
                "{operation:?}: {}",
                answer.text()
            );
            statuses.insert(answer.status);
        }
        assert!(statuses.contains(&404), "{operation:?} forbids everybody; who may do it?");
        walked += 1;
    }
    assert!(walked >= 18, "only {walked} endpoints take an id");
    let pay = callers[0].pay(theirs.trip.id).await.unwrap_err();
    assert_eq!(pay.code(), Some("not_found"));
    // And nothing of theirs has changed.
    let ride = theirs.rider.client.ride(theirs.ride.id).await.unwrap();
    assert_eq!(ride, theirs.ride);
    theirs.driver.client.set_online(theirs.driver.id, false).await.unwrap();
}

/// Whose id an endpoint takes; none if it takes none, or a tenant's.
fn foreign_id(path: &str, theirs: &Served, payment: &Payment) -> Option<String> {
    let kinds: [(&str, String); 5] = [
        ("/v1/rides/{id}", theirs.ride.id.to_string()),
        ("/v1/trips/{id}", theirs.trip.id.to_string()),
        ("/v1/payments/{id}", payment.id.to_string()),
        ("/v1/drivers/{id}", theirs.driver.id.to_string()),
        ("/v1/riders/{id}", theirs.rider.id.to_string()),
    ];
    kinds.into_iter().find(|(prefix, _)| path.starts_with(prefix)).map(|(_, id)| id)
}

/// What has to be asked besides, right in form as well.
fn query_for(path: &str) -> String {
    let yesterday = Clock::system().now() - time::Duration::days(1);
    match path.ends_with("/statement") {
        true => format!("?from={}", yesterday.format(&Rfc3339).unwrap()),
        false => String::new(),
    }
}

/// A body that is right in form, so that only whose it is can be wrong.
fn body_for(path: &str, ride: &Uuid) -> Value {
    let last = path.rsplit('/').next().unwrap_or_default();
    match last {
        "status" => json!({"status": "online"}),
        "location" => json!({"lat": 1.0, "lng": 1.0}),
        "accept" | "decline" => json!({"ride_id": ride}),
        "rating" => json!({"stars": 5}),
        "documents" => json!({"documents": []}),
        "refunds" => json!({"reason": "none of theirs"}),
        "tip" => json!({"amount": 100}),
        "shares" => json!({"phone": "+99955555555555"}),
        _ => json!({}),
    }
}

/// The header is one's own, the path is not.
async fn another_tenant_s_config_is_not_there(cluster: TestCluster) {
    let path = format!("/v1/tenants/{FOREIGN}/config");
    let before = cluster.office(FOREIGN, "us-east").await.config(FOREIGN).await.unwrap();
    let office = cluster.office(OWN, "us-east").await;
    let calls = [(Method::GET, path.clone()), (Method::PATCH, path.clone()), (Method::POST, format!("{path}/publish"))];
    for (method, path) in calls {
        let body = if method == Method::PATCH { json!({"name": "Ours now"}) } else { json!({}) };
        let answer = office.call(method.clone(), &path).body(&body).answer().await.unwrap();
        assert_eq!((answer.status, answer.problem().unwrap().code.as_str()), (404, "not_found"), "{method} {path}");
        let forged = office.naming_tenant(FOREIGN).call(method.clone(), &path).body(&body).answer().await.unwrap();
        let problem = forged.problem().unwrap();
        assert_eq!((forged.status, problem.code.as_str()), (403, "tenant_mismatch"), "{method} {path}");
    }
    let after = cluster.office(FOREIGN, "us-east").await.config(FOREIGN).await.unwrap();
    assert_eq!((after.heads, after.config), (before.heads, before.config));
}

async fn a_driver_cannot_take_a_foreign_ride_by_socket(cluster: TestCluster) {
    let (spot, driver) = (Spot::new(), cluster.city(OWN).driver().await);
    let rider = cluster.city(FOREIGN).rider().await;
    driver.online_at(spot.pickup).await;
    let ride = rider.request(&spot).await;
    let socket = driver.socket().await;
    for event in ["ride:accept", "ride:decline"] {
        let refused = socket.ask(event, json!({"ride_id": ride.id})).await.unwrap();
        assert_eq!((&refused["status"], &refused["code"]), (&json!(404), &json!("not_found")), "{event}: {refused}");
    }
    let accepted = driver.client.accept(driver.id, ride.id).await.unwrap_err();
    assert_eq!(accepted.code(), Some("not_found"));
    assert_eq!(rider.client.ride(ride.id).await.unwrap().driver_id, None);
    rider.client.cancel_ride(ride.id, "only a test").await.unwrap();
    driver.offline().await;
}

async fn another_rider_s_ride_does_not_exist(cluster: TestCluster) {
    let city = cluster.city(OWN);
    let served = city.serve_ride().await;
    let payment = served.rider.pay(served.trip.id).await;
    let (rider, driver) = (city.rider().await, city.driver().await);
    for client in [&rider.client, &driver.client] {
        assert_eq!(client.ride(served.ride.id).await.unwrap_err().code(), Some("not_found"));
        assert_eq!(client.trip(served.trip.id).await.unwrap_err().code(), Some("not_found"));
    }
    assert_eq!(rider.client.payment(payment.id).await.unwrap_err().code(), Some("not_found"));
    assert_eq!(rider.client.cancel_ride(served.ride.id, "not mine").await.unwrap_err().code(), Some("not_found"));
    let as_other = driver.client.set_online(served.driver.id, true).await.unwrap_err();
    assert_eq!(as_other.code(), Some("not_found"));
}

async fn lists_and_searches_show_one_tenant(cluster: TestCluster) {
    let (own, foreign, spot) = (cluster.city(OWN), cluster.city(FOREIGN), Spot::new());
    let theirs = foreign.serve_ride().await;
    theirs.rider.pay(theirs.trip.id).await;
    let their_driver = foreign.driver().await;
    their_driver.online_at(spot.pickup).await;

    let office = cluster.office(OWN, "us-east").await;
    let rides = office.call(Method::GET, "/v1/rides?limit=100").send().await.unwrap().text();
    assert!(!rides.contains(&theirs.ride.id.to_string()));
    let ledger = office.call(Method::GET, "/v1/settlements?limit=500").send().await.unwrap().text();
    assert!(!ledger.contains(&theirs.trip.id.to_string()));
    let spying = office.call(Method::GET, &format!("/v1/settlements?tenant={FOREIGN}")).answer().await.unwrap();
    assert_eq!((spying.status, spying.problem().unwrap().code.as_str()), (403, "tenant_mismatch"));

    let rider = own.rider().await;
    let nearby = rider.client.nearby(spot.pickup, 3_000).await.unwrap().to_string();
    assert!(!nearby.contains("\"lat\""), "a driver of another tenant is seen: {nearby}");
    // And is never sent to a rider who is not his.
    let ride = rider.request(&spot).await;
    let our_driver = own.driver().await;
    our_driver.online_at(spot.north_m(2_500.0)).await;
    assert_eq!(our_driver.next_offer().await.ride_id, ride.id);
    assert!(their_driver.client.offers(their_driver.id).await.unwrap().is_empty());
    our_driver.offline().await;
    their_driver.offline().await;
}

async fn a_socket_with_a_forged_tenant_is_refused(cluster: TestCluster) {
    let rider = cluster.city(OWN).rider().await;
    let own_token = rider.client.token().await;
    for (header, auth) in [(FOREIGN, FOREIGN), (FOREIGN, OWN), (OWN, FOREIGN)] {
        let auth = json!({"token": own_token, "tenant": auth});
        let refused = Socket::connect_with(rider.client.base_url(), Some(header), &auth, &cluster.tasks).await;
        match refused.err() {
            Some(SocketError::Refused { data, .. }) => assert_eq!(data["code"], "tenant_mismatch", "{header} {auth}"),
            other => panic!("{header} {auth}: {other:?}"),
        }
    }
    let nobody = json!({"tenant": OWN});
    let refused = Socket::connect_with(rider.client.base_url(), Some(OWN), &nobody, &cluster.tasks).await;
    match refused.err() {
        Some(SocketError::Refused { data, .. }) => assert_eq!(data["code"], "unauthenticated"),
        other => panic!("{other:?}"),
    }
}

async fn one_phone_is_two_people_of_two_tenants(cluster: TestCluster) {
    let phone = "+99955555555555";
    let register = async |tenant: &str| {
        let client: Client = cluster.client("us-east").for_tenant(tenant);
        client.register_rider("Ada", phone, "correct horse battery").await.unwrap().id
    };
    assert_ne!(register(OWN).await, register(FOREIGN).await);
}
