//! Sockets as clients have them: a bare WebSocket that speaks Engine.IO 4 and Socket.IO 5.

use std::{net::SocketAddr, pin::pin, time::Duration};

use fred::interfaces::ClientLike;
use futures::{SinkExt, StreamExt, future::join_all};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use shared::{
    geo::Point,
    ids::{DriverId, OfferId, RideId, RiderId},
};
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use uuid::Uuid;

use super::Event;
use crate::{
    dispatch::{self, tests::online},
    drivers::{Keys, Position},
    rides::tests::{accepted, request},
    testing::{RedisCluster, TestRegion, TestUser},
    zones,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    acks: u32,
    /// Events that came while something else was waited for.
    early: Vec<(String, Value)>,
}

impl Client {
    async fn open(address: SocketAddr, query: &str) -> Self {
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket{query}");
        let (socket, _) = connect_async(url.into_client_request().unwrap()).await.unwrap();
        Self { socket, acks: 0, early: Vec::new() }
    }

    /// Connects to the default namespace; the answer is `40{…}` or `44{…}`.
    async fn connect(&mut self, auth: Value) -> String {
        self.send(format!("40{auth}")).await;
        loop {
            let text = self.text().await;
            if text.starts_with("40") || text.starts_with("44") {
                return text;
            }
        }
    }

    async fn signed_in(address: SocketAddr, user: &TestUser) -> Self {
        let mut client = Self::open(address, "").await;
        let answer = client.connect(json!({"token": user.token, "tenant": user.tenant})).await;
        assert!(answer.starts_with("40"), "{answer}");
        client
    }

    async fn send(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next packet that is no ping.
    async fn text(&mut self) -> String {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a message in time");
            match message.expect("an open socket").unwrap() {
                Message::Text(text) if text.as_str() == "2" => self.send("3".into()).await,
                Message::Text(text) => return text.to_string(),
                Message::Close(_) => return "closed".into(),
                _ => {}
            }
        }
    }

    async fn emit(&mut self, event: &str, data: Value) -> Value {
        self.acks += 1;
        let id = self.acks;
        self.send(format!("42{id}{}", json!([event, data]))).await;
        loop {
            let text = self.text().await;
            if let Some(answer) = text.strip_prefix(&format!("43{id}")) {
                return serde_json::from_str::<Vec<Value>>(answer).unwrap().remove(0);
            }
            self.keep(&text);
        }
    }

    fn keep(&mut self, text: &str) {
        if let Some(event) = text.strip_prefix("42") {
            let (name, data) = serde_json::from_str(event).unwrap();
            self.early.push((name, data));
        }
    }

    /// Waits for an event.
    async fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.early.iter().position(|(event, _)| event == name) {
                return self.early.remove(at).1;
            }
            let text = self.text().await;
            assert_ne!(text, "closed", "while waiting for {name}");
            self.keep(&text);
        }
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_refused_are_told_why(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    region.new_tenant("other", json!({})).await;
    let address = region.serve().await;
    let rider = region.rider().await;
    let token = &rider.token;
    let cases = [
        ("", json!({"tenant": "cabs"}), "unauthenticated"),
        ("", json!({"tenant": "cabs", "token": "x.y.z"}), "invalid_token"),
        ("", json!({"tenant": "other", "token": token}), "tenant_mismatch"),
        ("&tenant=cabs", json!({"tenant": "other", "token": token}), "tenant_mismatch"),
        ("", json!({"tenant": "nobody", "token": token}), "unknown_tenant"),
        ("", json!({"token": token}), "tenant_required"),
        ("", json!("nonsense"), "tenant_required"),
    ];
    for (query, auth, code) in cases {
        let mut client = Client::open(address, query).await;
        let refused = client.connect(auth).await;
        let packet: Value = serde_json::from_str(refused.strip_prefix("44").expect(&refused)).unwrap();
        assert_eq!(packet, json!({"message": code, "data": {"code": code}}));
    }
    let mut client = Client::open(address, "&tenant=cabs").await;
    assert!(client.connect(json!({"token": token})).await.starts_with("40"));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_tenant_at_home_elsewhere_is_sent_there(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    sqlx::query("INSERT INTO regions (name, base_url, quic_addr) VALUES ('eu-west', 'http://eu-west.example', '')")
        .execute(region.app.db.app_pool())
        .await
        .unwrap();
    let mut tx = region.app.db.anywhere(&"porto".parse().unwrap()).await.unwrap();
    sqlx::query("INSERT INTO tenant_homes (tenant_id, name, region, term, n) VALUES ('porto', '', 'eu-west', 1, 1)")
        .execute(tx.conn())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    region.app.tenants.refresh().await.unwrap();
    let mut client = Client::open(region.serve().await, "").await;
    let refused = client.connect(json!({"tenant": "porto", "token": "any"})).await;
    let packet: Value = serde_json::from_str(&refused[2..]).unwrap();
    assert_eq!(packet["data"], json!({"code": "wrong_region", "base_url": "http://eu-west.example"}));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_ride_is_offered_taken_and_followed_over_sockets(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    dispatch::start(&region.app);
    let address = region.serve().await;
    let (rider, driver, stranger) = (region.rider().await, region.driver().await, region.rider().await);
    let mut at_rider = Client::signed_in(address, &rider).await;
    let mut at_driver = Client::signed_in(address, &driver).await;
    let mut at_stranger = Client::signed_in(address, &stranger).await;

    online(&driver, 400.0).await;
    let ride = request(&rider).await;
    let offer = at_driver.event("ride:offer").await;
    assert_eq!(offer["ride_id"], ride["id"]);
    let fields: Vec<_> = offer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["dropoff", "expires_at", "fare", "offer_id", "pickup", "pickup_eta_s", "ride_id"]);
    let trip = at_driver.emit("ride:accept", json!({"ride_id": ride["id"]})).await;
    assert_eq!((&trip["ride_id"], trip["status"].as_str()), (&ride["id"], Some("accepted")));
    let mut seen = Vec::new();
    while seen.last().is_none_or(|status| status != "accepted") {
        let update = at_rider.event("ride:update").await;
        assert!(update["pin"].is_string());
        seen.push(update["status"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["requested", "offered", "accepted"]);
    let update = at_driver.event("ride:update").await;
    assert_eq!((update["status"].as_str(), update.get("pin")), (Some("accepted"), None));

    let place = json!({"lat": 40.7585, "lng": -73.9855, "heading": 12.5});
    assert_eq!(at_driver.emit("location:update", place).await, json!({"ok": true}));
    let moved = at_rider.event("driver:location").await;
    assert_eq!(
        (&moved["ride_id"], moved["lat"].as_f64(), moved["heading"].as_f64()),
        (&ride["id"], Some(40.7585), Some(12.5))
    );

    let refused = at_driver.emit("location:update", json!({"lat": 100, "lng": 0})).await;
    assert_eq!(refused, json!({"ok": false, "code": "validation_failed"}));
    let refused = at_driver.emit("ride:accept", json!({"ride_id": Uuid::now_v7()})).await;
    assert_eq!((refused["status"].as_u64(), refused["code"].as_str()), (Some(404), Some("not_found")));

    // Whatever was said so far, nobody else heard it: their next message is about their own ride.
    let own = request(&stranger).await;
    assert_eq!(at_stranger.event("ride:update").await["id"], own["id"]);
    assert!(at_stranger.early.is_empty());
}

/// An app forgets what it was told is taken.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_position_of_a_running_trip_is_acknowledged_once_it_is_stored(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let address = region.serve().await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    online(&driver, 0.0).await;
    let (_, trip) = accepted(&region, &rider, &driver).await;
    for step in ["arrive", "start"] {
        driver.post(&format!("{trip}/{step}"), json!({})).await.ok(200);
    }
    let stored = async || -> i64 {
        let mut tx = region.app.db.read(&region.tenant).await.unwrap();
        let count = sqlx::query_scalar("SELECT count(*) FROM breadcrumbs").fetch_one(tx.conn()).await.unwrap();
        tx.commit().await.unwrap();
        count
    };
    let place = |lat: f64| json!({"lat": lat, "lng": -73.9855});
    let mut socket = Client::signed_in(address, &driver).await;
    assert_eq!(socket.emit("location:update", place(40.758)).await, json!({"ok": true}));
    assert_eq!(stored().await, 1);
    region.clock.advance(time::Duration::SECOND);
    let there = format!("/v1/drivers/{}/location", driver.id);
    driver.post(&there, place(40.759)).await.ok(202);
    assert_eq!(stored().await, 2);

    // Sent at once by many, in few statements; and sent again for want of an answer, kept once.
    region.clock.advance(time::Duration::SECOND);
    let now = region.clock.now();
    let earlier = |n: i64| (now - time::Duration::milliseconds(n)).format(&Rfc3339).unwrap();
    let many = (0..20).chain(0..20).map(|n| json!({"lat": 40.76, "lng": -73.9855, "recorded_at": earlier(n)}));
    join_all(many.map(async |place| driver.post(&there, place).await.ok(202))).await;
    assert_eq!(stored().await, 22);
}

/// Nobody but whoever asks for a cancellation would hear that it did not get through.
#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_driver_hears_of_a_cancellation_although_whoever_cancels_hangs_up_before_it_commits(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let address = region.serve().await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let mut at_driver = Client::signed_in(address, &driver).await;
    online(&driver, 400.0).await;
    let ride = request(&rider).await;
    dispatch::run_due(&region.app).await;
    at_driver.event("ride:offer").await;
    at_driver.emit("ride:accept", json!({"ride_id": ride["id"]})).await;
    assert_eq!(at_driver.event("ride:update").await["status"], "accepted");

    let mut slow = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE rides").execute(&mut *slow).await.unwrap();
    let cancel = format!("/v1/rides/{}/cancel", ride["id"].as_str().unwrap());
    let hung_up = tokio::time::timeout(Duration::from_millis(300), rider.post(&cancel, json!({}))).await;
    assert!(hung_up.is_err(), "{hung_up:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut *slow).await.unwrap();
    assert_eq!(at_driver.event("ride:update").await["status"], "cancelled");
}

/// The sockets of two free drivers, the first the nearer one.
async fn near_and_far(region: &TestRegion) -> (Client, Client) {
    let address = region.serve().await;
    let (near, far) = (region.driver().await, region.driver().await);
    let sockets = (Client::signed_in(address, &near).await, Client::signed_in(address, &far).await);
    online(&near, 100.0).await;
    online(&far, 900.0).await;
    sockets
}

#[sqlx::test(migrations = "../migrations")]
async fn a_declined_offer_and_one_that_ended_are_gone_from_the_socket(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let (mut at_first, mut at_second) = near_and_far(&region).await;
    let ride = request(&region.rider().await).await;
    dispatch::run_due(&region.app).await;
    at_first.event("ride:offer").await;
    assert_eq!(at_first.emit("ride:decline", json!({"ride_id": ride["id"]})).await, json!({"ok": true}));
    dispatch::run_due(&region.app).await;
    let offer = at_second.event("ride:offer").await;
    region.clock.advance(time::Duration::seconds(15));
    dispatch::run_due(&region.app).await;
    let withdrawn = at_second.event("ride:offer_withdrawn").await;
    assert_eq!(withdrawn, json!({"offer_id": offer["offer_id"], "ride_id": ride["id"], "reason": "expired"}));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn whoever_is_too_late_for_a_ride_offered_to_several_hears_so_at_once(pool: PgPool) {
    let region = TestRegion::with_config(pool, json!({"dispatch": {"group_size": 2}})).await;
    let (mut at_first, mut at_second) = near_and_far(&region).await;
    let ride = request(&region.rider().await).await;
    dispatch::run_due(&region.app).await;
    let offer = at_first.event("ride:offer").await;
    assert_eq!(at_second.event("ride:offer").await["ride_id"], ride["id"]);
    let trip = at_second.emit("ride:accept", json!({"ride_id": ride["id"]})).await;
    assert_eq!(trip["ride_id"], ride["id"]);
    let withdrawn = at_first.event("ride:offer_withdrawn").await;
    assert_eq!(withdrawn, json!({"offer_id": offer["offer_id"], "ride_id": ride["id"], "reason": "ride_taken"}));
    let late = at_first.emit("ride:accept", json!({"ride_id": ride["id"]})).await;
    assert_eq!(late["code"], "ride_already_taken");
}

#[sqlx::test(migrations = "../migrations")]
async fn who_waits_in_a_zone_s_queue_hears_of_his_place_on_each_socket_and_nobody_else_does(pool: PgPool) {
    let area = json!({"circle": {"center": {"lat": 40.758, "lng": -73.9855}, "radius_m": 1000}});
    let zone = json!({"id": "rank", "name": "Times Square", "area": area, "queue": true});
    let region = TestRegion::with_config(pool, json!({"zones": [zone]})).await;
    region.new_tenant("other", json!({})).await;
    zones::start(&region.app);
    let address = region.serve().await;
    let [first, second, outside] = [region.driver().await, region.driver().await, region.driver().await];
    let (stranger, rider) = (region.driver_of("other").await, region.rider().await);
    let mut at_first = Client::signed_in(address, &first).await;
    let mut at_second = [Client::signed_in(address, &second).await, Client::signed_in(address, &second).await];
    let mut others = Vec::new();
    for user in [&outside, &stranger, &rider] {
        others.push(Client::signed_in(address, user).await);
    }
    online(&outside, 1_500.0).await;
    online(&stranger, 0.0).await;

    let place = |update: &Value| (update["queue"]["zone_id"].clone(), update["queue"]["place"].clone());
    online(&first, 900.0).await;
    let update = at_first.event("queue:update").await;
    assert_eq!((place(&update), &update["queue"]["name"]), ((json!("rank"), json!(1)), &json!("Times Square")));
    region.clock.advance(time::Duration::seconds(10));
    online(&second, 100.0).await;
    for socket in &mut at_second {
        assert_eq!(place(&socket.event("queue:update").await), (json!("rank"), json!(2)));
    }
    region.clock.advance(time::Duration::seconds(10));
    first.post(&format!("/v1/drivers/{}/status", first.id), json!({"status": "offline"})).await.ok(200);
    assert_eq!(at_first.event("queue:update").await, json!({"queue": null}));
    for socket in &mut at_second {
        assert_eq!(place(&socket.event("queue:update").await), (json!("rank"), json!(1)));
    }

    // One person's messages keep their order: had anybody been told of a place before, it would have come by now.
    for (user, socket) in [(&outside, 0), (&stranger, 1)] {
        tell_of_an_offer(&region, user);
        others[socket].event("ride:offer_withdrawn").await;
    }
    request(&rider).await;
    others[2].event("ride:update").await;
    tell_of_an_offer(&region, &first);
    at_first.event("ride:offer_withdrawn").await;
    tell_of_an_offer(&region, &second);
    for socket in &mut at_second {
        socket.event("ride:offer_withdrawn").await;
    }
    let all = others.iter().chain(&at_second).chain([&at_first]);
    let unasked: Vec<_> = all.flat_map(|socket| &socket.early).collect();
    assert!(unasked.is_empty(), "{unasked:?}");
}

/// Signs in with a small window, so that what the system holds for a reader who does not read is soon full.
async fn slow_reader(address: SocketAddr, user: &TestUser) -> Client {
    let stream = TcpSocket::new_v4().unwrap();
    stream.set_recv_buffer_size(4_096).unwrap();
    let stream = MaybeTlsStream::Plain(stream.connect(address).await.unwrap());
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let mut client = Client { socket, acks: 0, early: Vec::new() };
    client.connect(json!({"token": user.token, "tenant": user.tenant})).await;
    client
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_reader_too_slow_for_what_it_must_know_is_cut_off(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let address = region.serve().await;
    let driver = region.driver().await;
    // Of this thread, on which all of the test runs.
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _counted_here = metrics::set_default_local_recorder(&recorder);
    let mut client = slow_reader(address, &driver).await;
    for _ in 0..30_000 {
        tell_of_an_offer(&region, &driver);
        // Delivering takes a way to Redis and back: as long as this, so that none waits in the lane.
        let () = region.app.redis.ping(None).await.unwrap();
    }
    while !matches!(client.text().await.as_str(), "41" | "closed") {}
    let counted = metrics.render();
    assert!(
        counted.contains(r#"region_node_slow_sockets_total{why="queue_full"} 1"#),
        "cut off, but not for that: {counted}"
    );
}

/// Settings of nodes that hear each other and nobody else.
fn alone_together() -> String {
    format!("region = {{ cluster_id = \"{}\" }}", Uuid::now_v7())
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn who_takes_nothing_of_what_another_node_tells_loses_the_connection_costs_little_and_holds_up_nobody(
    pool: PgPool,
) {
    let http = "http = { write_timeout = \"2s\", max_connections = 2 }";
    let here = TestRegion::with_settings(pool, &format!("{}\n{http}", alone_together())).await;
    let there = here.another_node().await;
    let address = there.serve().await;
    let (driver, other) = (here.driver().await, here.driver().await);
    let deaf = slow_reader(address, &driver).await;
    let mut reads = Client::signed_in(address, &other).await;
    // Large messages soon fill what the system holds for a connection. 120 MB of them come to the other node.
    let large: &str = "x".repeat(60_000).leak();
    let before_kib = resident_kib();
    for told in 0..2_000 {
        tell_why(&here, &driver, large);
        if told % 20 == 0 {
            tell_of_an_offer(&here, &other);
            reads.event("ride:offer_withdrawn").await;
        }
        // Delivering takes a way to Redis and back: as long as this, so that none waits in the lane.
        let () = here.app.redis.ping(None).await.unwrap();
    }
    let grown_kib = resident_kib() - before_kib;
    assert!(grown_kib < 60_000.0, "what nobody reads takes {grown_kib} KiB");
    // There is no place for a third until one of the two has lost its own.
    let third = tokio::time::timeout(PATIENCE, Client::signed_in(address, &driver));
    let mut third = third.await.expect("the place of who takes nothing");
    tell_of_an_offer(&here, &driver);
    third.event("ride:offer_withdrawn").await;
    tell_of_an_offer(&here, &other);
    reads.event("ride:offer_withdrawn").await;
    drop(deaf);
}

/// Memory of this process, where the system tells.
fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    resident.unwrap_or_default()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_one_node_tells_is_heard_at_another_in_order_and_by_nobody_else(pool: PgPool) {
    let here = TestRegion::with_settings(pool, &alone_together()).await;
    hears_at_another_node(&here).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn sockets_hear_of_other_nodes_through_a_redis_cluster_and_again_after_a_server_of_it_died(pool: PgPool) {
    let mut redis = RedisCluster::start().await;
    let settings = format!("{}\nredis = {{ url = \"{}\" }}", alone_together(), redis.url());
    let here = TestRegion::with_settings(pool, &settings).await;
    hears_at_another_node(&here).await;

    let there = here.another_node().await;
    let driver = here.driver().await;
    let mut client = Client::signed_in(there.serve().await, &driver).await;
    // The one channel on which nodes tell each other's sockets.
    redis.kill_server_of(&format!("{}-request#/#", Keys::new(&here.app.config.region.cluster_id).sockets())).await;
    let mut hears = pin!(client.event("ride:offer_withdrawn"));
    let mut told = 0;
    loop {
        tell_of_an_offer(&here, &driver);
        told += 1;
        assert!(told < 600, "the other node does not hear any more");
        if tokio::time::timeout(Duration::from_millis(50), &mut hears).await.is_ok() {
            break;
        }
    }
}

async fn hears_at_another_node(here: &TestRegion) {
    const MESSAGES: usize = 100;
    let there = here.another_node().await;
    let address = there.serve().await;
    let mut drivers = Vec::new();
    for _ in 0..4 {
        let driver = here.driver().await;
        drivers.push((Client::signed_in(address, &driver).await, driver));
    }
    let mut offers = vec![Vec::new(); drivers.len()];
    for _ in 0..MESSAGES {
        for ((_, driver), offers) in drivers.iter().zip(&mut offers) {
            offers.push(json!(tell_of_an_offer(here, driver)));
        }
    }
    for ((client, _), offers) in drivers.iter_mut().zip(offers) {
        for offer_id in offers {
            assert_eq!(client.event("ride:offer_withdrawn").await["offer_id"], offer_id);
        }
    }
    let (rider, other) = (here.rider().await, here.rider().await);
    let mut client = Client::signed_in(address, &rider).await;
    let mut outsiders =
        vec![Client::signed_in(address, &other).await, Client::signed_in(here.serve().await, &other).await];
    outsiders.extend(drivers.into_iter().map(|(client, _)| client));
    let (rider_id, ride_id) = (RiderId(rider.id), RideId::new());
    let tell_position = |rider_id: RiderId, lat: f64| {
        let position = Position { point: Point::new(lat, 2.0), heading: None, recorded_at: here.clock.now() };
        here.app.events.tell(Event::DriverMoved { tenant: rider.tenant.clone(), ride_id, rider_id, position });
    };
    for lat in 0..=50 {
        tell_position(rider_id, f64::from(lat));
        // Delivering takes a way to Redis and back: as long as this, so that no reader is too slow for all of them.
        let () = here.app.redis.ping(None).await.unwrap();
    }
    for lat in 0..=50 {
        assert_eq!(client.event("driver:location").await["lat"], f64::from(lat));
    }
    // What the others hear next is what is theirs.
    tell_position(RiderId(other.id), 77.0);
    for outsider in &mut outsiders[..2] {
        assert_eq!(outsider.event("driver:location").await["lat"], 77.0);
    }
    for outsider in &mut outsiders[2..] {
        outsider.emit("location:update", json!({"lat": 1.0, "lng": 1.0})).await;
        assert_eq!(outsider.early, [], "drivers hear of no car");
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_driver_who_sends_too_much_is_refused_then_cut_off_and_others_are_not(pool: PgPool) {
    let limits = "limits = { positions_per_second = 1, socket_events_per_second = 1 }";
    let region = TestRegion::with_settings(pool, limits).await;
    let address = region.serve().await;
    let (floods, drives) = (region.driver().await, region.driver().await);
    let mut at_floods = Client::signed_in(address, &floods).await;
    let mut at_drives = Client::signed_in(address, &drives).await;
    let place = json!({"lat": 40.758, "lng": -73.9855});
    let (taken, refused) = (json!({"ok": true}), json!({"ok": false, "code": "rate_limited"}));
    assert_eq!(at_floods.emit("location:update", json!(vec![place.clone(); 50])).await, taken);
    assert_eq!(at_floods.emit("location:update", json!(vec![place.clone(); 50])).await, refused);
    for _ in 0..5 {
        let answer = at_drives.emit("ride:decline", json!({"ride_id": Uuid::now_v7()})).await;
        assert_eq!(answer["code"], "not_found");
    }
    let answer = at_drives.emit("ride:decline", json!({"ride_id": Uuid::now_v7()})).await;
    assert_eq!(answer["code"], "rate_limited");
    assert_eq!(at_drives.emit("location:update", place.clone()).await, taken);
    for _ in 0..200 {
        at_floods.send(format!("42{}", json!(["location:update", place]))).await;
    }
    while !matches!(at_floods.text().await.as_str(), "41" | "closed") {}
    assert_eq!(at_drives.emit("location:update", place).await, taken);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn hundreds_who_connect_at_once_come_one_by_one_or_are_told_to_come_back_as_fast_as_they_can_be_let_in(
    pool: PgPool,
) {
    let limits = "limits = { new_sockets_per_second = 20, connections_per_minute = 100000 }";
    let region = TestRegion::with_settings(pool, limits).await;
    let address = region.serve().await;
    let open = async || {
        let url = format!("http://{address}/socket.io/?EIO=4&transport=polling");
        let answer = region.app.http.get(url).send().await.unwrap();
        let wait = answer.headers().get("retry-after").map(|wait| wait.to_str().unwrap().parse::<u64>().unwrap());
        (answer.status().as_u16(), wait)
    };
    let begun = std::time::Instant::now();
    let answers = join_all((0..400).map(|_| open())).await;
    let opened = answers.iter().filter(|(status, _)| *status == 200).count();
    // Two seconds' worth wait for their turn, besides those whose turn came meanwhile.
    let elapsed = begun.elapsed();
    let at_most = 41 + (elapsed.as_secs_f64() * 20.0) as usize;
    assert!((40..=at_most).contains(&opened), "{opened} were let in within {elapsed:?}");
    assert!(elapsed > Duration::from_millis(1_500), "they waited for their turn");
    let refused: Vec<_> = answers.into_iter().filter(|(status, _)| *status != 200).collect();
    assert!(refused.iter().all(|(status, _)| *status == 503));
    // 20 of them each second: the last of some 360 after at most 18, and the others before.
    let told: std::collections::BTreeSet<_> = refused.iter().map(|(_, wait)| wait.unwrap()).collect();
    assert!(told.len() >= 8, "too many are told to come back at once: {told:?}");
    assert!(told.iter().all(|s| (1..=19).contains(s)), "somebody is told to come back too late: {told:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(open().await.0, 200);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn whoever_may_have_missed_a_message_there_was_no_room_for_is_cut_off_and_nobody_who_told_waits(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let address = region.serve().await;
    let driver = region.driver().await;
    let mut client = Client::signed_in(address, &driver).await;
    for _ in 0..10_000 {
        tell_of_an_offer(&region, &driver);
    }
    while !matches!(client.text().await.as_str(), "41" | "closed") {}
}

fn tell_of_an_offer(region: &TestRegion, driver: &TestUser) -> OfferId {
    tell_why(region, driver, "expired")
}

fn tell_why(region: &TestRegion, driver: &TestUser, reason: &'static str) -> OfferId {
    let (offer_id, ride_id, at) = (OfferId::new(), RideId::new(), region.clock.now());
    let (tenant, driver_id) = (driver.tenant.clone(), DriverId(driver.id));
    region.app.events.tell(Event::OfferWithdrawn { tenant, driver_id, offer_id, ride_id, reason, at });
    offer_id
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_socket_ends_with_its_token(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let mut client = Client::signed_in(region.serve().await, &region.rider().await).await;
    region.clock.advance(time::Duration::hours(13));
    loop {
        let text = client.text().await;
        if text == "41" || text == "closed" {
            break;
        }
    }
}
