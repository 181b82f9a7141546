//! A ride from the estimate to the settlement in every region: over REST, over sockets, and with the official Socket.IO client.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::{path::Path, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use shared::{clock::Clock, ids::TripId};
use system_tests::{
    api::{Payment, PaymentStatus, Ride, RideStatus, Trip, TripStatus, location_update, ride_request},
    harness::{Spot, TestCluster, eventually, eventually_within, hear, hear_status, run, tell},
    stories,
    streets::Position,
};
use time::format_description::well_known::Rfc3339;
use tokio::{process::Command, sync::OnceCell};

const TENANT: &str = "manhattan-cabs";
/// A tenant whose offers and rides end within seconds and who charges every cancellation.
const IMPATIENT: &str = "bengaluru-rides";
const IMPATIENT_FEE: i64 = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_ride() {
    // Nobody here has ten minutes.
    let builder = deploy_local::Cluster::builder()
        .node_env("REGION_NODE_RIDES__SCHEDULE_MIN_AHEAD", "2s")
        .node_env("REGION_NODE_RIDES__SCHEDULE_LEAD", "1s");
    let cluster = TestCluster::start_as(builder).await;
    let policy = json!({
        "dispatch": {"offer_ttl_s": 2, "expire_after_s": 6},
        "cancellation": {"free_seconds": 0, "fee": IMPATIENT_FEE, "no_show_wait_seconds": 300},
    });
    cluster.office(IMPATIENT, "ap-south").await.patch_config(IMPATIENT, &policy).await.unwrap();
    let stories = stories!(cluster;
        a_ride_over_rest_ends_in_every_region_s_ledger,
        every_step_of_a_ride_is_told_on_the_socket,
        the_official_client_takes_a_ride_over_websocket,
        the_official_client_takes_a_ride_over_polling,
        a_declined_ride_goes_to_the_next_driver,
        a_ride_called_off_in_time_is_free_and_withdraws_the_offer,
        a_refund_reaches_every_region,
        a_refund_of_a_part_leaves_the_rest_paid,
        every_region_rolls_the_same_settlements_up,
        an_offer_nobody_answers_goes_to_the_next_driver,
        a_ride_nobody_takes_expires_and_its_rider_may_ask_again,
        a_ride_booked_ahead_is_dispatched_shortly_before_its_time,
        a_late_cancellation_costs_a_fee_that_reaches_every_ledger,
        a_cash_ride_is_paid_in_cash_and_a_card_ride_is_not,
        erasing_a_rider_leaves_every_ledger_as_it_is,
    );
    tell(&cluster, 3, stories).await;
}

async fn a_ride_over_rest_ends_in_every_region_s_ledger(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    driver.online_at(spot.north_m(300.0)).await;

    let quote = rider.client.estimate(&spot.journey()).await.unwrap();
    let ride = rider.client.request_ride(&spot.journey(), Some(&quote.quote_id)).await.unwrap();
    let pin = ride.pin.clone().expect("the rider knows his pin");
    let offer = driver.next_offer().await;
    assert_eq!((offer.ride_id, offer.pickup), (ride.id, spot.pickup));
    rider.sees(ride.id, RideStatus::Offered).await;

    let trip = driver.accept(ride.id).await;
    assert_eq!(rider.sees(ride.id, RideStatus::Accepted).await.driver_id, Some(driver.id));
    driver.is_at(spot.pickup).await;
    assert_eq!(driver.client.arrive(trip.id).await.unwrap().status, TripStatus::Arrived);
    let wrong = if pin == "0000" { "1111" } else { "0000" };
    assert_eq!(driver.client.start(trip.id, Some(wrong)).await.unwrap_err().code(), Some("wrong_pin"));
    assert_eq!(driver.client.start(trip.id, Some(&pin)).await.unwrap().status, TripStatus::InProgress);
    assert_eq!(driver.client.pause(trip.id).await.unwrap().status, TripStatus::Paused);
    assert_eq!(driver.client.resume(trip.id).await.unwrap().status, TripStatus::InProgress);
    driver.is_at(spot.dropoff).await;
    let ended = driver.client.end(trip.id).await.unwrap();
    let fare = ended.fare.expect("an ended trip has a fare");
    assert_eq!(fare.lines.iter().map(|line| line.amount.amount).sum::<i64>(), fare.total.amount);
    assert_eq!(json!(fare.total), quote.fare, "the price he saw is the price he pays");
    assert_eq!(rider.sees(ride.id, RideStatus::Completed).await.trip_id, Some(trip.id));

    let payment = rider.pay(trip.id).await;
    for (accept, begins) in [("application/json", "{"), ("text/html", "<!"), ("application/pdf", "%PDF")] {
        let receipt = rider
            .client
            .call(Method::GET, &format!("/v1/trips/{}/receipt", trip.id))
            .header("accept", accept)
            .send()
            .await
            .unwrap();
        assert!(receipt.header("content-type").unwrap().starts_with(accept));
        assert!(receipt.text().trim_start().to_uppercase().starts_with(&begins.to_uppercase()), "{accept}");
    }
    rider.client.rate(trip.id, 5).await.unwrap();
    driver.client.rate(trip.id, 4).await.unwrap();
    driver.offline().await;

    assert_eq!(cluster.ledger_everywhere(trip.id, "settlement").await, fare.total.amount);
    let durable = eventually("another region has stored the settlement", async || {
        let payment = rider.client.payment(payment.id).await.map_err(|error| error.to_string())?;
        payment.remote_durable_at.ok_or("remote_durable_at is not set".to_owned())
    });
    durable.await;
}

async fn every_step_of_a_ride_is_told_on_the_socket(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    let (mut rider_socket, mut driver_socket) = (rider.socket().await, driver.socket().await);
    driver.client.set_online(driver.id, true).await.unwrap();
    let position = |point| location_update(Position { point, heading: 90.0, speed_mps: 5.0 });
    assert_eq!(driver_socket.ask("location:update", position(spot.pickup)).await.unwrap(), json!({"ok": true}));
    let bad = driver_socket.ask("location:update", json!({"lat": 91, "lng": 0})).await.unwrap();
    assert_eq!((&bad["ok"], &bad["code"]), (&json!(false), &json!("validation_failed")));
    let batch = json!([position(spot.pickup), position(spot.pickup)]);
    assert_eq!(driver_socket.ask("location:update", batch).await.unwrap(), json!({"ok": true}));

    let ride = rider.request(&spot).await;
    let offer = hear(&mut driver_socket, "ride:offer", |offer| offer["ride_id"] == json!(ride.id)).await;
    for field in ["offer_id", "pickup", "dropoff", "fare", "pickup_eta_s", "expires_at"] {
        assert!(!offer[field].is_null(), "{field} in {offer}");
    }
    hear_status(&mut rider_socket, &ride, "offered").await;
    let answer = driver_socket.ask("ride:accept", json!({"ride_id": ride.id})).await.unwrap();
    let trip: Trip = serde_json::from_value(answer).expect("the answer is the trip");
    hear_status(&mut rider_socket, &ride, "accepted").await;
    hear_status(&mut driver_socket, &ride, "accepted").await;

    driver_socket.emit("location:update", position(spot.north_m(50.0))).await.unwrap();
    let seen = hear(&mut rider_socket, "driver:location", |seen| seen["ride_id"] == json!(ride.id)).await;
    assert!(seen["lat"].is_number() && seen["lng"].is_number() && seen["recorded_at"].is_string(), "{seen}");

    driver.drive(trip.id, &spot).await;
    for status in ["arrived", "in_progress", "completed"] {
        hear_status(&mut rider_socket, &ride, status).await;
    }
    let payment = rider.client.pay(trip.id).await.unwrap();
    hear(&mut rider_socket, "payment:update", |update| {
        update["id"] == json!(payment.id) && update["status"] == "settled"
    })
    .await;
    driver.offline().await;
}

async fn the_official_client_takes_a_ride_over_websocket(cluster: TestCluster) {
    official_client(&cluster, "websocket").await;
}

async fn the_official_client_takes_a_ride_over_polling(cluster: TestCluster) {
    official_client(&cluster, "polling").await;
}

async fn a_declined_ride_goes_to_the_next_driver(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let (rider, near, far, spot) = (city.rider().await, city.driver().await, city.driver().await, Spot::new());
    near.online_at(spot.north_m(100.0)).await;
    far.online_at(spot.north_m(2_000.0)).await;
    let ride = rider.request(&spot).await;
    assert_eq!(near.next_offer().await.ride_id, ride.id);
    assert!(far.client.offers(far.id).await.unwrap().is_empty(), "one driver is asked at a time");
    near.client.decline(near.id, ride.id).await.unwrap();
    assert_eq!(far.next_offer().await.ride_id, ride.id);
    far.accept(ride.id).await;
    let story = cluster.office(TENANT, &city.home).await.dispatch_story(ride.id).await.unwrap();
    let text = story.to_string();
    for driver in [near.id, far.id] {
        assert!(text.contains(&driver.to_string()), "{driver} is part of {text}");
    }
}

async fn a_ride_called_off_in_time_is_free_and_withdraws_the_offer(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    let mut socket = driver.socket().await;
    driver.online_at(spot.pickup).await;
    let ride = rider.request(&spot).await;
    hear(&mut socket, "ride:offer", |offer| offer["ride_id"] == json!(ride.id)).await;
    let cancelled = rider.client.cancel_ride(ride.id, "changed my mind").await.unwrap();
    assert_eq!(cancelled.status, RideStatus::Cancelled);
    assert_eq!(cancelled.cancellation_fee.map_or(0, |fee| fee.amount), 0);
    hear(&mut socket, "ride:offer_withdrawn", |gone| gone["ride_id"] == json!(ride.id)).await;
    let late = driver.client.accept(driver.id, ride.id).await.unwrap_err();
    assert!(matches!(late.code(), Some("offer_expired" | "ride_already_taken" | "invalid_transition")), "{late}");
    // Neither of them is held up by it.
    let again = rider.request(&spot).await;
    assert_eq!(driver.next_offer().await.ride_id, again.id);
    driver.offline().await;
}

async fn a_refund_reaches_every_region(cluster: TestCluster) {
    let served = cluster.city("porto-taxis").serve_ride().await;
    let payment = served.rider.pay(served.trip.id).await;
    let office = cluster.office("porto-taxis", "eu-west").await;
    office.refund(payment.id, "a long detour").await.unwrap();
    let total = served.trip.fare.unwrap().total.amount;
    assert_eq!(cluster.ledger_everywhere(served.trip.id, "settlement").await, total);
    assert_eq!(cluster.ledger_everywhere(served.trip.id, "refund").await.abs(), total);
    assert_eq!(office.payment(payment.id).await.unwrap().status, PaymentStatus::Refunded);
}

async fn a_refund_of_a_part_leaves_the_rest_paid(cluster: TestCluster) {
    let served = cluster.city(TENANT).serve_ride().await;
    let payment = served.rider.pay(served.trip.id).await;
    let office = cluster.office(TENANT, "us-east").await;
    let path = format!("/v1/payments/{}/refunds", payment.id);
    let _: Value = office.post(&path, &json!({"amount": 100, "reason": "a short detour"})).await.unwrap();
    assert_eq!(office.payment(payment.id).await.unwrap().status, PaymentStatus::PartiallyRefunded);
    let total = served.trip.fare.unwrap().total.amount;
    let rest = json!({"amount": total - 99, "reason": "more than is left"});
    let refused = office.post::<Value>(&path, &rest).await.unwrap_err();
    assert_eq!(refused.code(), Some("amount_exceeds_payment"));
    assert_eq!(cluster.ledger_everywhere(served.trip.id, "settlement").await, total);
    assert_eq!(cluster.ledger_everywhere(served.trip.id, "refund").await.abs(), 100);
}

async fn every_region_rolls_the_same_settlements_up(cluster: TestCluster) {
    let served = cluster.city(TENANT).serve_ride().await;
    let payment = served.rider.pay(served.trip.id).await;
    let home = cluster.office(TENANT, "us-east").await;
    let part = json!({"amount": 100, "reason": "a short detour"});
    let _: Value = home.post(&format!("/v1/payments/{}/refunds", payment.id), &part).await.unwrap();
    cluster.ledger_everywhere(served.trip.id, "refund").await;
    let path = format!("/v1/settlements/rollup?tenant={TENANT}");
    // Other stories go on meanwhile, and a digest tells of news a moment later: what counts is that regions that have come to
    // the same facts answer the same, and what those facts sum up to.
    let refunds = eventually_within(Duration::from_secs(180), "all regions roll the same facts up", async || {
        cluster.converged().await;
        let mut rollups = Vec::new();
        for region in cluster.regions() {
            let operator = cluster.operator_at(&region).await;
            let answer = operator.call(Method::GET, &path).send().await.map_err(|error| error.to_string())?;
            assert_eq!(answer.header("x-served-by-region"), Some(region.as_str()), "no region asks another one");
            rollups.push(answer.json::<Value>().map_err(|error| error.to_string())?);
        }
        if rollups.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("{rollups:?}"));
        }
        let facts = cluster.operator_at("ap-south").await.all_settlements().await.map_err(|error| error.to_string())?;
        let sum = |kind: &str| -> i64 {
            let of = facts.iter().filter(|fact| fact.tenant.as_str() == TENANT && fact.kind == kind);
            of.map(|fact| fact.amount).sum()
        };
        let days = rollups[0]["items"].as_array().unwrap();
        let rolled = |what: &str| -> i64 { days.iter().map(|day| day[what]["amount"].as_i64().unwrap()).sum() };
        let expected = [sum("settlement"), sum("refund"), sum("settlement") - sum("refund") + sum("adjustment")];
        let found = ["gross", "refunds", "net"].map(rolled);
        if found == expected { Ok(found[1]) } else { Err(format!("{found:?} are rolled up of {expected:?}")) }
    })
    .await;
    assert!(refunds >= 100);
}

async fn an_offer_nobody_answers_goes_to_the_next_driver(cluster: TestCluster) {
    let city = cluster.city(IMPATIENT);
    let (rider, near, far, spot) = (city.rider().await, city.driver().await, city.driver().await, Spot::new());
    near.online_at(spot.north_m(100.0)).await;
    far.online_at(spot.north_m(2_000.0)).await;
    let ride = rider.request(&spot).await;
    assert_eq!(near.next_offer().await.ride_id, ride.id);
    assert_eq!(far.next_offer().await.ride_id, ride.id);
    let late = near.client.accept(near.id, ride.id).await.unwrap_err();
    assert!(matches!(late.code(), Some("offer_expired" | "ride_already_taken")), "{late}");
    far.accept(ride.id).await;
    assert_eq!(rider.sees(ride.id, RideStatus::Accepted).await.driver_id, Some(far.id));
}

async fn a_ride_nobody_takes_expires_and_its_rider_may_ask_again(cluster: TestCluster) {
    let rider = cluster.city(IMPATIENT).rider().await;
    let spot = Spot::new();
    let ride = rider.request(&spot).await;
    let impatient = rider.client.request_ride(&spot.journey(), None).await.unwrap_err();
    assert_eq!(impatient.code(), Some("ride_in_progress"));
    rider.sees(ride.id, RideStatus::Expired).await;
    let again = rider.request(&spot).await;
    rider.client.cancel_ride(again.id, "only a test").await.unwrap();
}

async fn a_ride_booked_ahead_is_dispatched_shortly_before_its_time(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    driver.online_at(spot.pickup).await;
    let at = Clock::system().now() + Duration::from_secs(5);
    let mut body = ride_request(&spot.journey(), None);
    body["scheduled_at"] = json!(at.format(&Rfc3339).unwrap());
    let booked: Ride = rider.client.post("/v1/rides", &body).await.unwrap();
    assert!(driver.client.offers(driver.id).await.unwrap().is_empty(), "not yet");
    assert_eq!(rider.client.ride(booked.id).await.unwrap().status, RideStatus::Requested);
    assert_eq!(driver.next_offer().await.ride_id, booked.id);
    assert!(Clock::system().now() >= at - Duration::from_secs(1), "not before its time");
    let trip = driver.accept(booked.id).await;
    assert_eq!(driver.drive(trip.id, &spot).await.status, TripStatus::Completed);
    driver.offline().await;
}

async fn a_late_cancellation_costs_a_fee_that_reaches_every_ledger(cluster: TestCluster) {
    let city = cluster.city(IMPATIENT);
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    driver.online_at(spot.pickup).await;
    let ride = rider.request(&spot).await;
    driver.next_offer().await;
    let trip = driver.accept(ride.id).await;
    let cancelled = rider.client.cancel_ride(ride.id, "changed my mind").await.unwrap();
    assert_eq!(cancelled.cancellation_fee.map(|fee| fee.amount), Some(IMPATIENT_FEE));
    assert_eq!(cluster.ledger_everywhere(trip.id, "settlement").await, IMPATIENT_FEE);
    let receipt: Value = rider.client.get(&format!("/v1/trips/{}/receipt", trip.id)).await.unwrap();
    assert_eq!((&receipt["kind"], &receipt["total"]["amount"]), (&json!("cancellation_fee"), &json!(IMPATIENT_FEE)));
    assert_eq!(receipt["payment"]["status"], "settled");
    driver.offline().await;
}

async fn a_cash_ride_is_paid_in_cash_and_a_card_ride_is_not(cluster: TestCluster) {
    let city = cluster.city(TENANT);
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    driver.online_at(spot.pickup).await;
    let mut body = ride_request(&spot.journey(), None);
    body["payment_method"] = json!({"type": "cash"});
    let ride: Ride = rider.client.post("/v1/rides", &body).await.unwrap();
    driver.next_offer().await;
    let trip = driver.accept(ride.id).await;
    let total = driver.drive(trip.id, &spot).await.fare.unwrap().total.amount;
    driver.offline().await;
    let cash = |trip: TripId| json!({"trip_id": trip, "method": {"type": "cash"}});
    let paid: Payment = rider.client.post("/v1/payments", &cash(trip.id)).await.unwrap();
    assert_eq!(paid.status, PaymentStatus::Settled);
    assert_eq!(cluster.ledger_everywhere(trip.id, "settlement").await, total);

    let by_card = city.serve_ride().await;
    let refused = by_card.rider.client.post::<Payment>("/v1/payments", &cash(by_card.trip.id)).await.unwrap_err();
    assert_eq!(refused.code(), Some("validation_failed"));
}

async fn erasing_a_rider_leaves_every_ledger_as_it_is(cluster: TestCluster) {
    let served = cluster.city("porto-taxis").serve_ride().await;
    let payment = served.rider.pay(served.trip.id).await;
    let total = served.trip.fare.unwrap().total.amount;
    assert_eq!(cluster.ledger_everywhere(served.trip.id, "settlement").await, total);
    let account = format!("/v1/riders/{}", served.rider.id);
    let erased = served.rider.client.call(Method::DELETE, &account).send().await.unwrap();
    assert_eq!(erased.status, 202);
    assert_eq!(cluster.ledger_everywhere(served.trip.id, "settlement").await, total);
    let office = cluster.office("porto-taxis", "eu-west").await;
    assert_eq!(office.payment(payment.id).await.unwrap().status, PaymentStatus::Settled);
    let receipt: Value = office.get(&format!("/v1/trips/{}/receipt", served.trip.id)).await.unwrap();
    assert_eq!((&receipt["total"]["amount"], &receipt["rider"]), (&json!(total), &json!("")), "a sum without a name");
}

/// Lets `clients/ride.mjs` take a ride as browsers and phones do.
async fn official_client(cluster: &TestCluster, transport: &str) {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    INSTALLED
        .get_or_init(|| async {
            run(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(&folder)).await;
        })
        .await;
    let city = cluster.city(TENANT);
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    let errand = json!({
        "url": city.client.base_url(),
        "tenant": TENANT,
        "transport": transport,
        "rider": {"token": rider.client.token().await},
        "driver": {"token": driver.client.token().await, "id": driver.id},
        "pickup": spot.pickup,
        "dropoff": spot.dropoff,
    });
    run(Command::new("node").arg("ride.mjs").arg(errand.to_string()).current_dir(&folder)).await;
}
