//! A real routing engine behind a real node: its times decide who is asked, and without it rides go on.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use deploy_local::{Cluster, TestTools};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::Method;
use serde_json::{Value, json};
use shared::geo::Point;
use system_tests::{
    api::{Client, Journey},
    harness::{Rider, Spot, TestCluster, eventually, run},
};
use tokio::process::{Child, Command};

const TENANT: &str = "manhattan-cabs";
/// In the West Village, all that the engine of this test knows.
const PICKUP: Point = Point::new(40.7340, -74.0030);
/// A street grid's worth of places around it.
const STEPS: std::ops::RangeInclusive<i32> = -4..=4;
const STEP_DEG: f64 = 0.0008;
/// Far longer than the node waits for the engine, far shorter than an offer takes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn travel() {
    let TestTools { valhalla, .. } = TestTools::find().unwrap_or_else(|error| panic!("{error}"));
    let programs =
        valhalla.expect("Valhalla is missing: `target/debug/local tools --tests` fetches it or says why it cannot");
    let mut engine = Engine::build(&programs).await;
    engine.start().await;
    let settings = Cluster::builder()
        .regions(["us-east"])
        .node_env("REGION_NODE_TRAVEL__ENGINE_URL", &engine.url)
        .node_env("REGION_NODE_TRAVEL__ENGINE_API", "valhalla")
        .node_env("REGION_NODE_TRAVEL__ENGINE_PAUSE", "500ms");
    let cluster = TestCluster::start_as(settings).await;
    let office = cluster.office(TENANT, "us-east").await;

    let (near, soon) = engine.near_and_soon().await;
    assert_eq!(
        preview(&office, &[near.at, soon.at]).await,
        json!([{"request_id": "r", "driver_id": "1", "eta_s": soon.eta_s}])
    );
    the_one_who_is_there_first_is_offered_the_ride(&cluster, &near, &soon).await;
    let rider = cluster.city(TENANT).rider().await;
    assert_eq!(quoted(&rider, soon.at).await, (soon.distance_m, soon.eta_s.into()));

    engine.freeze();
    let guessed = quoted(&rider, soon.at).await;
    assert_ne!(guessed, (soon.distance_m, soon.eta_s.into()), "a price waits for no engine");
    let without = preview(&office, &[soon.at]).await;
    assert_eq!(without[0]["driver_id"], "0");
    engine.kill().await;
    assert_eq!(preview(&office, &[soon.at]).await, without, "a dead engine is done without as a silent one is");
    engine.start().await;
    eventually("the engine is asked again", async || {
        let answer = preview(&office, &[soon.at]).await;
        if answer[0]["eta_s"] == json!(soon.eta_s) { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    somebody_off_the_engine_s_map_is_estimated_without_it(&office, &soon).await;
}

/// Offers go by the engine's times, not by who is nearest as the crow flies.
async fn the_one_who_is_there_first_is_offered_the_ride(cluster: &TestCluster, near: &Place, soon: &Place) {
    let city = cluster.city(TENANT);
    let (rider, first, second) = (city.rider().await, city.driver().await, city.driver().await);
    first.online_at(near.at).await;
    second.online_at(soon.at).await;
    let spot = Spot { pickup: PICKUP, dropoff: Point::new(40.7580, -73.9855) };
    let ride = rider.request(&spot).await;
    let offer = second.next_offer().await;
    assert_eq!((offer.ride_id, offer.pickup_eta_s), (ride.id, f64::from(soon.eta_s)));
    assert!(first.client.offers(first.id).await.unwrap().is_empty());
    rider.client.cancel_ride(ride.id, "seen").await.unwrap();
    first.offline().await;
    second.offline().await;
}

/// Valhalla takes the nearest street it has for any place on earth, which says nothing.
async fn somebody_off_the_engine_s_map_is_estimated_without_it(office: &Client, soon: &Place) {
    let uptown = Point::new(40.7580, -73.9855);
    let answer = preview(office, &[uptown]).await;
    let eta_s = answer[0]["eta_s"].as_u64().unwrap();
    assert!(eta_s > 300, "3 km take longer than {eta_s} s");
    assert_eq!(preview(office, &[uptown, soon.at]).await[0]["eta_s"], json!(soon.eta_s));
}

/// How far and how long a ride from a place to the pick-up is by its quote.
async fn quoted(rider: &Rider, from: Point) -> (i64, i64) {
    let journey = Journey { pickup: from, dropoff: PICKUP, vehicle_class: "standard".into() };
    let call = rider.client.call(Method::POST, "/v1/rides/estimate").body(&journey).send();
    let answer = tokio::time::timeout(ANSWERED_WITHIN, call).await.expect("the answer waits for no engine").unwrap();
    let answer: Value = answer.json().unwrap();
    let whole = |field: &str| answer[field].as_i64().unwrap();
    (whole("distance_m"), whole("duration_s"))
}

/// Whom the live policy would ask of drivers at these places, and how long he would take.
async fn preview(office: &Client, drivers: &[Point]) -> Value {
    let at = "2026-03-01T12:00:00Z";
    let driver = |(index, place): (usize, &Point)| json!({"id": index.to_string(), "lat": place.lat, "lng": place.lng, "idle_since": at});
    let drivers: Vec<_> = drivers.iter().enumerate().map(driver).collect();
    let request =
        json!({"id": "r", "pickup": PICKUP, "dropoff": {"lat": 40.7580, "lng": -73.9855}, "requested_at": at});
    let question = json!({"now": at, "requests": [request], "drivers": drivers});
    let call = office.call(Method::POST, "/v1/dispatch/preview").body(&question).send();
    let answer = tokio::time::timeout(ANSWERED_WITHIN, call).await.expect("the answer waits for no engine");
    answer.unwrap().json::<Value>().unwrap()["assignments"].take()
}

/// Somewhere near the pick-up, and the engine's way from there.
struct Place {
    at: Point,
    eta_s: u32,
    distance_m: i64,
}

/// Valhalla with the West Village in it.
struct Engine {
    url: String,
    programs: PathBuf,
    folder: PathBuf,
    process: Option<Child>,
}

impl Engine {
    /// Builds its tiles.
    async fn build(programs: &Path) -> Self {
        let folder = std::env::temp_dir().join(format!("gocomet-valhalla-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let engine =
            Self { url: format!("http://127.0.0.1:{port}"), programs: programs.to_owned(), folder, process: None };
        std::fs::write(engine.settings(), settings(&engine.folder, port).to_string()).unwrap();
        let extract = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/new-york/west_village.osm.pbf");
        let mut build = Command::new(programs.join("valhalla_build_tiles"));
        run(build.arg("-c").arg(engine.settings()).arg(extract)).await;
        engine
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("valhalla.json")
    }

    async fn start(&mut self) {
        let mut service = Command::new(self.programs.join("valhalla_service"));
        service.arg(self.settings()).arg("1").stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.process = Some(service.spawn().unwrap());
        eventually("Valhalla answers", async || self.try_from(PICKUP).await.map(|_| ())).await;
    }

    fn freeze(&self) {
        let pid = self.process.as_ref().and_then(Child::id).unwrap();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).unwrap();
    }

    async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    /// The way to the pick-up by the engine itself.
    async fn try_from(&self, from: Point) -> Result<Place, String> {
        let place = |place: Point| json!([{"lat": place.lat, "lon": place.lng}]);
        let question = json!({"sources": place(from), "targets": place(PICKUP), "costing": "auto"});
        let client = Client::new(&self.url);
        let answer = client.call(Method::POST, "/sources_to_targets").unsigned().body(&question).send().await;
        let answer: Value = answer.and_then(|answer| answer.json()).map_err(|error| error.to_string())?;
        let way = &answer["sources_to_targets"][0][0];
        let (Some(seconds), Some(kilometres)) = (way["time"].as_f64(), way["distance"].as_f64()) else {
            return Err(answer.to_string());
        };
        Ok(Place { at: from, eta_s: seconds.round() as u32, distance_m: (kilometres * 1_000.0).round() as i64 })
    }

    /// Two places of which the one nearer as the crow flies is clearly the longer way by street: one-way streets see to that.
    async fn near_and_soon(&self) -> (Place, Place) {
        let mut places = Vec::new();
        for (north, east) in STEPS.flat_map(|north| STEPS.map(move |east| (north, east))) {
            let at = Point::new(PICKUP.lat + f64::from(north) * STEP_DEG, PICKUP.lng + f64::from(east) * STEP_DEG);
            places.push(self.try_from(at).await.unwrap());
        }
        places.sort_by(|a, b| a.at.distance_m(PICKUP).total_cmp(&b.at.distance_m(PICKUP)));
        let is_clear = |near: &Place, soon: &Place| near.eta_s > soon.eta_s + 60;
        let near = places.iter().position(|near| {
            places.iter().any(|soon| near.at.distance_m(PICKUP) < soon.at.distance_m(PICKUP) && is_clear(near, soon))
        });
        let mut farther = places.split_off(near.expect("the West Village is no grid"));
        let near = farther.remove(0);
        let soon = farther.into_iter().find(|soon| is_clear(&near, soon)).unwrap();
        (near, soon)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// As little as the programs need; with their sockets in the folder two of them can run side by side.
fn settings(folder: &Path, port: u16) -> Value {
    let ipc = |name: &str| format!("ipc://{}", folder.join(name).display());
    json!({
        "mjolnir": {"tile_dir": folder.join("tiles")},
        "loki": {
            "actions": ["sources_to_targets"],
            "service": {"proxy": ipc("loki")},
            "service_defaults": {
                "radius": 0, "minimum_reachability": 50, "search_cutoff": 35_000, "node_snap_tolerance": 5,
                "street_side_tolerance": 5, "street_side_max_distance": 1_000, "heading_tolerance": 60,
                "mvt_min_zoom_road_class": [7, 7, 8, 11, 11, 12, 13, 14], "mvt_cache_min_zoom": 11,
            },
        },
        "thor": {"service": {"proxy": ipc("thor")}},
        "odin": {"service": {"proxy": ipc("odin")}},
        "meili": {"default": {"breakage_distance": 2_000}},
        "httpd": {"service": {
            "listen": format!("tcp://127.0.0.1:{port}"), "loopback": ipc("loopback"), "interrupt": ipc("interrupt"),
            "timeout_seconds": -1,
        }},
        "service_limits": {
            "auto": {
                "max_distance": 5e6, "max_locations": 20, "max_matrix_distance": 4e5, "max_matrix_location_pairs": 2_500,
            },
            "skadi": {"max_shape": 750_000, "min_resample": 10.0},
            "isochrone": {
                "max_contours": 4, "max_time_contour": 120, "max_distance": 25e3, "max_locations": 1,
                "max_distance_contour": 200,
            },
            "trace": {
                "max_distance": 2e5, "max_gps_accuracy": 100.0, "max_search_radius": 100.0, "max_shape": 16_000,
                "max_alternates": 3, "max_alternates_shape": 100,
            },
            "max_exclude_locations": 50, "max_reachability": 100, "max_radius": 200, "max_alternates": 2,
            "max_exclude_polygons_length": 10_000,
        },
    })
}
