//! Any one process may die at any moment: what was acknowledged stands, and the rest of the world goes on.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::time::Duration;

use deploy_local::{Cluster, Service};
use reqwest::Method;
use serde_json::json;
use shared::clock::Clock;
use system_tests::{
    api::{Client, ride_request},
    backoff::Backoff,
    harness::{Spot, TestCluster, Traffic, eventually, eventually_within, tell},
    socket::Socket,
    stories,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use uuid::Uuid;

/// Back to full speed means an offer within this.
const FULL_SPEED: Duration = Duration::from_secs(8);
/// Slow enough to be told from a crowd that comes back at once.
const NEW_SOCKETS_PER_SECOND: u32 = 10;
const SOCKETS: usize = 60;
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// How often a node writes the traces of running trips, and how long it may take to.
const TRACES_EVERY: Duration = Duration::from_millis(500);
const WRITING_TAKES: Duration = Duration::from_secs(2);
/// A driver on a trip says so often where he is, and so often before and after his node dies.
const SAYS_EVERY: Duration = Duration::from_millis(100);
const SAYS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_crash() {
    let cluster = TestCluster::start().await;
    let stories = stories!(cluster;
        a_killed_region_node_loses_nothing_acknowledged,
        an_answer_given_before_a_crash_is_given_again_after_it,
        a_killed_global_sync_loses_nothing_acknowledged,
        a_killed_redis_loses_nothing_acknowledged,
        a_killed_postgres_loses_nothing_acknowledged,
        an_emptied_redis_costs_seconds_and_no_truth,
        with_one_region_gone_the_others_go_on,
    );
    tell(&cluster, 1, stories).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_crash_of_what_two_nodes_share() {
    let builder = Cluster::builder().regions(["us-east"]).region_nodes(2);
    let pace = NEW_SOCKETS_PER_SECOND.to_string();
    let builder = builder.node_env("REGION_NODE_LIMITS__NEW_SOCKETS_PER_SECOND", &pace);
    let traces_every = format!("{}ms", TRACES_EVERY.as_millis());
    let builder = builder.node_env("REGION_NODE_DRIVERS__BREADCRUMBS_EVERY", &traces_every);
    // What a node knows of places it has from the other one, then, and not from Postgres.
    let builder = builder.node_env("REGION_NODE_DRIVERS__STORE_EVERY", "1h");
    let cluster = TestCluster::start_as(builder).await;
    let stories = stories!(cluster;
        an_emptied_redis_hides_no_driver_from_the_other_node,
        a_node_that_joins_after_redis_was_emptied_finds_every_driver_and_hears_of_all_that_follows,
        a_node_killed_in_a_running_trip_costs_its_trace_no_more_than_it_had_yet_to_write,
        the_sockets_of_a_killed_node_come_back_to_the_other_one_at_its_pace,
    );
    tell(&cluster, 1, stories).await;
}

async fn a_killed_region_node_loses_nothing_acknowledged(cluster: TestCluster) {
    kill_twice(&cluster, Service::NODE).await;
}

async fn an_answer_given_before_a_crash_is_given_again_after_it(cluster: TestCluster) {
    let rider = cluster.city("manhattan-cabs").rider().await;
    let (key, body) = (Uuid::new_v4().to_string(), ride_request(&Spot::new().journey(), None));
    let ask = || rider.client.call(Method::POST, "/v1/rides").key(&key).body(&body).send();
    let first = ask().await.unwrap();
    cluster.kill("us-east", Service::NODE).await.unwrap();
    cluster.restart("us-east", Service::NODE).await.unwrap();
    let again = eventually("the node answers again", ask).await;
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), (None, Some("true")));
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    let rides = rider.client.rides("limit=10").await.unwrap();
    assert_eq!(rides.items.len(), 1, "one ride was asked for");
    rider.client.cancel_ride(rides.items[0].id, "only a test").await.unwrap();
}

async fn a_killed_global_sync_loses_nothing_acknowledged(cluster: TestCluster) {
    kill_twice(&cluster, Service::SYNC).await;
}

async fn a_killed_redis_loses_nothing_acknowledged(cluster: TestCluster) {
    kill_twice(&cluster, Service::Redis).await;
}

async fn a_killed_postgres_loses_nothing_acknowledged(cluster: TestCluster) {
    kill_twice(&cluster, Service::Postgres).await;
}

/// SIGKILL in the midst of rides, a restart, rides go on; once more; then the books are compared.
async fn kill_twice(cluster: &TestCluster, service: Service) {
    let traffic = Traffic::start(&[cluster.city("manhattan-cabs")], 3).await;
    traffic.rides_go_on(2).await;
    for _ in 0..2 {
        cluster.kill("us-east", service).await.unwrap();
        cluster.restart("us-east", service).await.unwrap();
        traffic.rides_go_on(4).await;
    }
    traffic.stop().await.must_hold(cluster).await;
    no_double_assignment(cluster).await;
}

async fn an_emptied_redis_costs_seconds_and_no_truth(cluster: TestCluster) {
    let city = cluster.city("manhattan-cabs");
    let traffic = Traffic::start(std::slice::from_ref(&city), 3).await;
    for _ in 0..3 {
        traffic.rides_go_on(2).await;
        flush_all(&cluster.redis_url("us-east")).await;
    }
    // Full speed again: a driver who has just said where he is is found within seconds.
    let (rider, driver, spot) = (city.rider().await, city.driver().await, Spot::new());
    driver.online_at(spot.pickup).await;
    let ride = rider.request(&spot).await;
    let offered = eventually_within(FULL_SPEED, "an offer after FLUSHALL", async || {
        let offers = driver.client.offers(driver.id).await.map_err(|error| error.to_string())?;
        offers.into_iter().find(|offer| offer.ride_id == ride.id).ok_or("no offer".to_owned())
    });
    offered.await;
    driver.accept(ride.id).await;
    rider.client.cancel_ride(ride.id, "only a test").await.unwrap();
    driver.offline().await;
    traffic.rides_go_on(4).await;
    traffic.stop().await.must_hold(&cluster).await;
    no_double_assignment(&cluster).await;
}

async fn an_emptied_redis_hides_no_driver_from_the_other_node(cluster: TestCluster) {
    let here = cluster.city("manhattan-cabs");
    let there = here.through(&cluster.node_url("us-east", 2));
    let traffic = Traffic::start(&[here.clone(), there.clone()], 2).await;
    let (rider, driver) = (here.rider().await, there.driver().await);
    let mut socket = driver.socket().await;
    for _ in 0..3 {
        traffic.rides_go_on(2).await;
        let spot = Spot::new();
        driver.online_at(spot.pickup).await;
        flush_all(&cluster.redis_url("us-east")).await;
        let ride = rider.request(&spot).await;
        // The driver goes on saying where he is, to his own node; over his socket there the offer reaches him.
        let heard = async {
            loop {
                let event = socket.next().await.expect("the socket holds");
                if event.name == "ride:offer" && event.payload["ride_id"] == json!(ride.id) {
                    return;
                }
            }
        };
        let reporting = async {
            loop {
                driver.is_at(spot.pickup).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let offered = tokio::time::timeout(FULL_SPEED, async {
            tokio::select! { () = heard => {}, () = reporting => {} }
        });
        offered.await.expect("an offer crosses to the other node within seconds after FLUSHALL");
        driver.accept(ride.id).await;
        rider.client.cancel_ride(ride.id, "only a test").await.unwrap();
        driver.offline().await;
    }
    traffic.rides_go_on(4).await;
    traffic.stop().await.must_hold(&cluster).await;
    no_double_assignment(&cluster).await;
}

async fn a_node_that_joins_after_redis_was_emptied_finds_every_driver_and_hears_of_all_that_follows(
    cluster: TestCluster,
) {
    let here = cluster.city("manhattan-cabs");
    let there = here.through(&cluster.node_url("us-east", 2));
    let (rider, spot) = (here.rider().await, Spot::new());
    let drivers = [there.driver().await, there.driver().await, there.driver().await];
    for driver in &drivers {
        driver.online_at(spot.pickup).await;
    }
    let shows = async |place, cars: usize| {
        eventually_within(FULL_SPEED, &format!("{cars} cars shown at {place:?}"), async || {
            let nearby = rider.client.nearby(place, 300).await.map_err(|error| error.to_string())?;
            let seen = nearby["items"].as_array().map_or(0, Vec::len);
            if seen == cars { Ok(()) } else { Err(format!("{seen} cars")) }
        })
        .await;
    };
    shows(spot.pickup, drivers.len()).await;
    flush_all(&cluster.redis_url("us-east")).await;
    // This node forgets all, and the drivers say nothing more: what the other one knows must have come to Redis again.
    cluster.kill("us-east", Service::RegionNode(1)).await.unwrap();
    cluster.restart("us-east", Service::RegionNode(1)).await.unwrap();
    shows(spot.pickup, drivers.len()).await;
    let elsewhere = spot.north_m(2_000.0);
    drivers[0].is_at(elsewhere).await;
    shows(elsewhere, 1).await;
    shows(spot.pickup, drivers.len() - 1).await;
    for driver in &drivers {
        driver.offline().await;
    }
    shows(spot.pickup, 0).await;
}

async fn a_node_killed_in_a_running_trip_costs_its_trace_no_more_than_it_had_yet_to_write(cluster: TestCluster) {
    let here = cluster.city("manhattan-cabs");
    let there = here.through(&cluster.node_url("us-east", 2));
    let (rider, driver, spot) = (here.rider().await, there.driver().await, Spot::new());
    driver.online_at(spot.pickup).await;
    let ride = rider.request(&spot).await;
    assert_eq!(driver.next_offer().await.ride_id, ride.id);
    let trip = driver.accept(ride.id).await.id;
    driver.client.arrive(trip).await.unwrap();
    driver.client.start(trip, None).await.unwrap();

    let clock = Clock::system();
    let mut pace = tokio::time::interval(SAYS_EVERY);
    let mut drives = async |client: &Client, from: usize| {
        let mut said = Vec::new();
        for step in from..from + SAYS {
            pace.tick().await;
            let (now, place) = (clock.now(), spot.north_m(step as f64));
            let at = now.format(&Rfc3339).expect("a time can be written");
            client
                .send_location(driver.id, &json!({"lat": place.lat, "lng": place.lng, "recorded_at": at}))
                .await
                .expect("a driver can say where he is");
            said.push(now);
        }
        said
    };
    let before = drives(&driver.client, 0).await;
    let killed = clock.now();
    cluster.kill("us-east", Service::RegionNode(2)).await.unwrap();
    let client = driver.client.through(&cluster.node_url("us-east", 1));
    let after = drives(&client, SAYS).await;
    let ended = client.end(trip).await.expect("another node ends the trip");
    assert!(ended.fare.is_some());

    let pool = sqlx::PgPool::connect(&cluster.postgres_url("us-east")).await.expect("the database answers");
    let of_trip = sqlx::query_scalar("SELECT recorded_at FROM breadcrumbs WHERE trip_id = $1").bind(trip.0);
    let kept: Vec<OffsetDateTime> = of_trip.fetch_all(&pool).await.unwrap();
    pool.close().await;
    let is_kept = |said: &OffsetDateTime| kept.iter().any(|kept| (*kept - *said).abs() < time::Duration::MILLISECOND);
    let must_be = before.iter().filter(|said| **said < killed - TRACES_EVERY - WRITING_TAKES);
    assert!(must_be.clone().count() > SAYS / 3);
    for said in must_be.chain(&after) {
        assert!(is_kept(said), "{said} is lost; the node died at {killed}; kept are {}", kept.len());
    }
    cluster.restart("us-east", Service::RegionNode(2)).await.unwrap();
}

/// Sixty that come back at once would be let in within a fraction of a second.
async fn the_sockets_of_a_killed_node_come_back_to_the_other_one_at_its_pace(cluster: TestCluster) {
    let here = cluster.city("manhattan-cabs");
    let driver = here.driver().await;
    let client_of = |node| driver.client.through(&cluster.node_url("us-east", node));
    let (dying, living) = (client_of(2), client_of(1));
    let mut sockets = Vec::new();
    while sockets.len() < SOCKETS {
        sockets.push(come_in(&dying, &cluster).await.socket);
    }
    cluster.kill("us-east", Service::RegionNode(2)).await.unwrap();
    let come_back = sockets.into_iter().map(async |mut socket| {
        while socket.next().await.is_some() {}
        come_in(&living, &cluster).await
    });
    let back = tokio::time::timeout(BACK_WITHIN, futures::future::join_all(come_back)).await;
    let mut back = back.expect("all sockets come back");
    back.sort_by_key(|back| back.at);
    let within = |count: usize| back[count - 1].at - back[0].at;
    let at_its_pace = Duration::from_secs_f64((SOCKETS - 1) as f64 / f64::from(NEW_SOCKETS_PER_SECOND));
    assert!(within(SOCKETS) >= at_its_pace.mul_f64(0.7), "all came back within {:?}", within(SOCKETS));
    assert!(within(SOCKETS / 2) >= at_its_pace.mul_f64(0.2), "half of them came back within {:?}", within(SOCKETS / 2));
    assert!(back.iter().any(|back| back.times_sent_away > 0), "nobody was told to come back later");
    for Back { socket, .. } in &back {
        let taken = socket.ask("location:update", json!({"lat": 40.73, "lng": -73.99})).await;
        assert_eq!(taken.unwrap()["ok"], true);
    }
    drop(back);
    cluster.restart("us-east", Service::RegionNode(2)).await.unwrap();
}

/// A socket that was let in.
struct Back {
    socket: Socket,
    at: Instant,
    times_sent_away: u32,
}

/// Connects as clients do: whoever is told to come back later does, and no sooner.
async fn come_in(client: &Client, cluster: &TestCluster) -> Back {
    let (mut backoff, mut times_sent_away) = (Backoff::default(), 0);
    loop {
        match Socket::connect(client, &cluster.tasks).await {
            Ok(socket) => return Back { socket, at: Instant::now(), times_sent_away },
            Err(error) => {
                times_sent_away += u32::from(error.retry_after().is_some());
                tokio::time::sleep(backoff.next(error.retry_after())).await;
            }
        }
    }
}

async fn with_one_region_gone_the_others_go_on(cluster: TestCluster) {
    let all = ["manhattan-cabs", "porto-taxis", "bengaluru-rides"].map(|tenant| cluster.city(tenant));
    let before = Traffic::start(&all, 1).await;
    before.rides_go_on(3).await;
    let before = before.stop().await;
    cluster.kill_region("eu-west").await.unwrap();
    let [manhattan, _, bengaluru] = all;
    let others = Traffic::start(&[manhattan, bengaluru], 1).await;
    others.rides_go_on(6).await;
    let others = others.stop().await;
    cluster.restart_region("eu-west").await.unwrap();
    // The region that was gone has all of its own, and learns what it missed.
    before.must_hold(&cluster).await;
    others.must_hold(&cluster).await;
}

/// No driver drove two rides at once and no ride had two drivers, as the database remembers it.
async fn no_double_assignment(cluster: &TestCluster) {
    let pool = sqlx::PgPool::connect(&cluster.postgres_url("us-east")).await.expect("the database answers");
    let overlapping: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM trips a JOIN trips b ON a.driver_id = b.driver_id AND a.id < b.id
         WHERE tstzrange(a.accepted_at, a.ended_at) && tstzrange(b.accepted_at, b.ended_at)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let shared: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT 1 FROM trips WHERE status <> 'cancelled' GROUP BY ride_id HAVING count(*) > 1) twice",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((overlapping, shared), (0, 0), "trips at the same time, rides with two trips");
    pool.close().await;
}

async fn flush_all(redis_url: &str) {
    let address = redis_url.trim_start_matches("redis://").trim_end_matches('/');
    let address = address.rsplit('@').next().unwrap_or(address);
    let address = address.split('/').next().unwrap_or(address);
    let mut connection = TcpStream::connect(address).await.expect("Redis answers");
    connection.write_all(b"FLUSHALL\r\n").await.unwrap();
    let mut answer = [0; 5];
    connection.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+OK\r\n");
}
