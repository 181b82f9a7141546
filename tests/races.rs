//! Who is first wins, and everybody else is told so: each race of a ride, many times.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::collections::BTreeSet;

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;
use shared::ids::{PaymentId, RideId};
use system_tests::{
    api::{Answer, ApiError, PaymentStatus, RideStatus, TripStatus, payment_request, ride_request},
    harness::{Driver, Spot, TestCluster, eventually, tell},
    stories,
};
use tokio::sync::Barrier;
use uuid::Uuid;

const TENANT: &str = "manhattan-cabs";
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn races() {
    // Two nodes of one region: races are decided by the database, not in a process.
    let cluster = TestCluster::start_as(deploy_local::Cluster::builder().regions(["us-east"]).region_nodes(2)).await;
    let stories = stories!(cluster;
        of_two_drivers_who_accept_one_ride_one_gets_it,
        one_driver_who_accepts_on_two_nodes_gets_one_trip,
        a_driver_with_a_trip_is_busy_for_another_ride,
        accept_and_cancel_at_once_leave_one_truth,
        cancel_and_start_at_once_leave_one_truth,
        fifty_payments_at_once_charge_once,
        refunds_at_once_on_two_nodes_give_back_once,
        one_key_fifty_times_at_once_is_one_ride,
        one_rider_asking_many_times_at_once_has_one_open_ride,
        ending_a_trip_many_times_at_once_ends_it_once,
        a_key_used_for_another_request_is_refused,
    );
    tell(&cluster, 3, stories).await;
}

/// Rides are offered to one driver at a time, so the second can only be late; he must never get it, and must be told why.
async fn of_two_drivers_who_accept_one_ride_one_gets_it(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    for _ in 0..ROUNDS {
        let (rider, first, second, spot) = (city.rider().await, city.driver().await, city.driver().await, Spot::new());
        first.online_at(spot.pickup).await;
        second.online_at(spot.north_m(150.0)).await;
        let ride = rider.request(&spot).await;
        // The first lets his offer go, so that both have been asked, and both say yes at once.
        first.next_offer().await;
        first.client.decline(first.id, ride.id).await.unwrap();
        second.next_offer().await;
        let barrier = Barrier::new(2);
        let accept = async |driver: &Driver, node: u16| {
            let client = driver.client.through(&cluster.node_url("us-east", node));
            barrier.wait().await;
            client.accept(driver.id, ride.id).await
        };
        let (late, asked) = tokio::join!(accept(&first, 1), accept(&second, 2));
        assert!(matches!(late.unwrap_err().code(), Some("ride_already_taken" | "offer_expired")));
        assert_eq!(asked.unwrap().ride_id, ride.id);
        assert_eq!(rider.sees(ride.id, RideStatus::Accepted).await.driver_id, Some(second.id));
        let again = first.client.accept(first.id, ride.id).await.unwrap_err();
        assert_eq!(again.code(), Some("ride_already_taken"));
        first.offline().await;
        rider.client.cancel_ride(ride.id, "only a test").await.unwrap();
        second.offline().await;
    }
}

async fn one_driver_who_accepts_on_two_nodes_gets_one_trip(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    for _ in 0..ROUNDS {
        let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
        driver.online_at(spot.pickup).await;
        let ride = rider.request(&spot).await;
        driver.next_offer().await;
        let clients = [1, 2].map(|node| driver.client.through(&cluster.node_url("us-east", node)));
        let accepted = join_all((0..10).map(|n| clients[n % 2].accept(driver.id, ride.id))).await;
        let trips: BTreeSet<_> = accepted.iter().filter_map(|result| Some(result.as_ref().ok()?.id)).collect();
        assert_eq!(trips.len(), 1, "{accepted:?}");
        for refused in accepted.iter().filter_map(|result| result.as_ref().err()) {
            assert!(
                matches!(refused.code(), Some("ride_already_taken" | "driver_busy" | "offer_expired")),
                "{refused}"
            );
        }
        rider.client.cancel_ride(ride.id, "only a test").await.unwrap();
        driver.offline().await;
    }
}

async fn a_driver_with_a_trip_is_busy_for_another_ride(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let (rider, other, driver, spot) = (city.rider().await, city.rider().await, city.driver().await, Spot::new());
    driver.online_at(spot.pickup).await;
    let ride = rider.request(&spot).await;
    driver.next_offer().await;
    let second = other.request(&spot).await;
    driver.accept(ride.id).await;
    let refused = driver.client.accept(driver.id, second.id).await.unwrap_err();
    assert_eq!(refused.code(), Some("offer_expired"), "he was never asked");
    assert!(driver.client.offers(driver.id).await.unwrap().is_empty(), "a driver on a trip is offered nothing");
    // Even asked against all rules he cannot have two trips.
    let database = sqlx::PgPool::connect(&cluster.postgres_url("us-east")).await.unwrap();
    let offer = "WITH offered AS (
             UPDATE rides SET status = 'offered', dispatch_at = now() + interval '1 minute' WHERE id = $1
             RETURNING tenant_id, id
         )
         INSERT INTO offers (id, tenant_id, ride_id, driver_id, status, pickup_eta_s, offered_at, expires_at)
         SELECT gen_random_uuid(), tenant_id, id, $2, 'live', 60, now(), now() + interval '1 minute' FROM offered";
    sqlx::query(offer).bind(second.id.0).bind(driver.id.0).execute(&database).await.unwrap();
    database.close().await;
    let refused = driver.client.accept(driver.id, second.id).await.unwrap_err();
    assert_eq!(refused.code(), Some("driver_busy"));
    for (rider, ride) in [(&rider, ride.id), (&other, second.id)] {
        rider.client.cancel_ride(ride, "only a test").await.unwrap();
    }
    driver.offline().await;
}

async fn accept_and_cancel_at_once_leave_one_truth(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    for _ in 0..2 * ROUNDS {
        let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
        driver.online_at(spot.pickup).await;
        let ride = rider.request(&spot).await;
        driver.next_offer().await;
        let (accepted, cancelled) =
            tokio::join!(driver.client.accept(driver.id, ride.id), rider.client.cancel_ride(ride.id, "in a hurry"));
        let ride = rider.client.ride(ride.id).await.unwrap();
        // Cancelling what was just accepted is allowed, so the cancellation always stands in the end.
        assert!(cancelled.is_ok(), "{cancelled:?}");
        assert_eq!(ride.status, RideStatus::Cancelled);
        match accepted {
            Ok(trip) => {
                let trip = driver.client.trip(trip.id).await.unwrap();
                assert_eq!(trip.status, TripStatus::Cancelled);
            }
            Err(error) => assert!(matches!(error.code(), Some("ride_already_taken" | "offer_expired")), "{error}"),
        }
        // Whatever happened, the driver is free for the next one.
        let next = city.rider().await;
        let wanted = next.request(&spot).await;
        assert_eq!(driver.next_offer().await.ride_id, wanted.id);
        next.client.cancel_ride(wanted.id, "only a test").await.unwrap();
        driver.offline().await;
    }
}

async fn cancel_and_start_at_once_leave_one_truth(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    for _ in 0..2 * ROUNDS {
        let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
        driver.online_at(spot.pickup).await;
        let ride = rider.request(&spot).await;
        driver.next_offer().await;
        let trip = driver.accept(ride.id).await;
        driver.client.arrive(trip.id).await.unwrap();
        let starting = driver.client.through(&cluster.node_url("us-east", 1));
        let cancelling = rider.client.through(&cluster.node_url("us-east", 2));
        let (started, cancelled) =
            tokio::join!(starting.start(trip.id, None), cancelling.cancel_ride(ride.id, "in a hurry"));
        let (ride, trip) = (rider.client.ride(ride.id).await.unwrap(), driver.client.trip(trip.id).await.unwrap());
        match (started, cancelled) {
            (Ok(_), Err(refused)) => {
                assert_eq!(refused.code(), Some("invalid_transition"));
                assert_eq!((ride.status, trip.status), (RideStatus::InProgress, TripStatus::InProgress));
                driver.client.end(trip.id).await.unwrap();
            }
            (Err(refused), Ok(_)) => {
                assert_eq!(refused.code(), Some("invalid_transition"));
                assert_eq!((ride.status, trip.status), (RideStatus::Cancelled, TripStatus::Cancelled));
            }
            both => panic!("one of them must win: {both:?}"),
        }
        driver.offline().await;
    }
}

async fn refunds_at_once_on_two_nodes_give_back_once(cluster: TestCluster) {
    let served = cluster.city(TENANT).serve_ride().await;
    let payment = served.rider.pay(served.trip.id).await;
    let office = cluster.office(TENANT, "us-east").await;
    let offices = [1, 2].map(|node| office.through(&cluster.node_url("us-east", node)));
    let refunds = join_all((0..20).map(|n| offices[n % 2].refund(payment.id, "all of it"))).await;
    assert_eq!(refunds.iter().filter(|refund| refund.is_ok()).count(), 1, "{refunds:?}");
    for refused in refunds.iter().filter_map(|refund| refund.as_ref().err()) {
        assert_eq!(refused.code(), Some("amount_exceeds_payment"), "{refused}");
    }
    assert_eq!(office.payment(payment.id).await.unwrap().status, PaymentStatus::Refunded);
    eventually("one refund", async || {
        let ledger = office.all_settlements().await.map_err(|error| error.to_string())?;
        let facts = ledger.iter().filter(|fact| fact.trip_id == served.trip.id && fact.kind == "refund");
        let amounts: Vec<_> = facts.map(|fact| fact.amount.abs()).collect();
        let total = served.trip.fare.as_ref().map(|fare| fare.total.amount);
        if amounts.len() == 1 && amounts.first().copied() == total { Ok(()) } else { Err(format!("{amounts:?}")) }
    })
    .await;
}

async fn fifty_payments_at_once_charge_once(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let served = city.serve_ride().await;
    let clients = [1, 2].map(|node| served.rider.client.through(&cluster.node_url("us-east", node)));
    let body = payment_request(served.trip.id);
    let calls = (0..50).map(|n| clients[n % 2].call(Method::POST, "/v1/payments").body(&body).answer());
    let mut payments = BTreeSet::new();
    for answer in join_all(calls).await {
        let answer = answer.unwrap();
        match answer.status {
            201 => drop(payments.insert(answer.json::<system_tests::api::Payment>().unwrap().id)),
            409 => {
                assert!(matches!(answer.problem().unwrap().code.as_str(), "already_paid" | "idempotency_in_progress"))
            }
            _ => panic!("{} {}", answer.status, answer.text()),
        }
    }
    assert_eq!(payments.len(), 1, "each with a key of its own, and one payment");
    let payment: PaymentId = payments.pop_first().unwrap();
    let office = cluster.office(TENANT, "us-east").await;
    eventually("one settlement", async || {
        let ledger = office.all_settlements().await.map_err(|error| error.to_string())?;
        let facts: Vec<_> = ledger.into_iter().filter(|fact| fact.trip_id == served.trip.id).collect();
        let is_one = facts.len() == 1 && facts[0].payment_id == payment;
        if is_one { Ok(()) } else { Err(format!("{facts:?}")) }
    })
    .await;
}

async fn one_key_fifty_times_at_once_is_one_ride(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await;
    let (body, key) = (ride_request(&Spot::new().journey(), None), Uuid::new_v4().to_string());
    let clients = [1, 2].map(|node| rider.client.through(&cluster.node_url("us-east", node)));
    let ask = |n: usize| clients[n % 2].call(Method::POST, "/v1/rides").key(&key).body(&body);
    let answers: Vec<Answer> =
        join_all((0..50).map(|n| ask(n).answer())).await.into_iter().map(Result::unwrap).collect();
    let mut rides = BTreeSet::<RideId>::new();
    for answer in &answers {
        match answer.status {
            201 => drop(rides.insert(answer.json::<system_tests::api::Ride>().unwrap().id)),
            409 => assert_eq!(answer.problem().unwrap().code, "idempotency_in_progress"),
            _ => panic!("{} {}", answer.status, answer.text()),
        }
    }
    assert_eq!(rides.len(), 1);
    let firsts =
        answers.iter().filter(|answer| answer.status == 201 && answer.header("idempotency-replayed").is_none());
    assert_eq!(firsts.count(), 1, "all but one are replays");
    let replayed = ask(1).send().await.unwrap();
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    assert_eq!(rider.client.rides("limit=10").await.unwrap().items.len(), 1);
    rider.client.cancel_ride(rides.pop_first().unwrap(), "only a test").await.unwrap();
}

async fn one_rider_asking_many_times_at_once_has_one_open_ride(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await;
    let spot = Spot::new();
    let journey = spot.journey();
    let asked = join_all((0..20).map(|_| rider.client.request_ride(&journey, None))).await;
    assert_eq!(asked.iter().filter(|result| result.is_ok()).count(), 1);
    let refused = asked.iter().filter_map(|result| result.as_ref().err());
    for error in refused {
        assert_eq!(error.code(), Some("ride_in_progress"), "{error}");
    }
}

async fn ending_a_trip_many_times_at_once_ends_it_once(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    driver.online_at(spot.pickup).await;
    let ride = rider.request(&spot).await;
    driver.next_offer().await;
    let trip = driver.accept(ride.id).await;
    driver.client.arrive(trip.id).await.unwrap();
    driver.client.start(trip.id, None).await.unwrap();
    let ended = join_all((0..20).map(|_| driver.client.end(trip.id))).await;
    assert_eq!(ended.iter().filter(|result| result.is_ok()).count(), 1);
    let others: Vec<&ApiError> = ended.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(others.iter().all(|error| error.code() == Some("invalid_transition")), "{others:?}");
    driver.offline().await;
}

async fn a_key_used_for_another_request_is_refused(cluster: TestCluster) {
    let rider = cluster.city(TENANT).rider().await;
    let (spot, key) = (Spot::new(), Uuid::new_v4().to_string());
    let body = ride_request(&spot.journey(), None);
    rider.client.call(Method::POST, "/v1/rides").key(&key).body(&body).send().await.unwrap();
    let mut other = body.clone();
    other["pickup"] = json!(spot.north_m(500.0));
    let reused = rider.client.call(Method::POST, "/v1/rides").key(&key).body(&other).send().await.unwrap_err();
    assert_eq!(reused.code(), Some("idempotency_key_reused"));
}
