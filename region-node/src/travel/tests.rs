//! Travel times: judged on real trips, learned from driven ones, and asked of an engine that may be down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration as StdDuration,
};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use serde_json::json;
use sqlx::PgPool;
use time::{Duration, macros::datetime};

use super::{engine::Engine, *};
use crate::testing::TestRegion;

const NOW: OffsetDateTime = datetime!(2013-07-01 00:00:00 UTC);
const BOLHAO: Point = Point::new(41.1497, -8.6065);

/// Every trip of the data set, in the order they were driven.
fn porto() -> Vec<DrivenTrip> {
    let rows = include_str!("../../../tests/data/porto/trips.csv").lines().skip(1);
    let trip = |row: &str| {
        let (at_s, line) = row.split_once(',').unwrap();
        let line = polyline::decode_polyline(line.trim_matches('"'), 5).unwrap();
        let place = |index: usize| Point::new(line[index].y, line[index].x);
        let driving_s = 15.0 * (line.0.len() - 1) as f64;
        let began_at = NOW + Duration::seconds(at_s.parse().unwrap());
        DrivenTrip { from: place(0), to: place(line.0.len() - 1), began_at, driving_s }
    };
    rows.map(trip).collect()
}

/// Whether an estimate makes sense at all: a trip that ended where it began went somewhere else in between.
fn goes_somewhere(trip: &&DrivenTrip) -> bool {
    trip.from.distance_m(trip.to) >= 300.0 && trip.driving_s >= 60.0
}

/// Mean absolute error in percent of the time driven.
fn mape(trips: &[DrivenTrip], eta_s: impl Fn(&DrivenTrip) -> f64) -> f64 {
    let error = |trip: &DrivenTrip| (eta_s(trip) - trip.driving_s).abs() / trip.driving_s;
    100.0 * trips.iter().map(error).sum::<f64>() / trips.len() as f64
}

fn error_of(profile: &SpeedProfile, trips: &[DrivenTrip]) -> f64 {
    mape(trips, |trip| profile.eta_s(trip.from, trip.to, trip.began_at).into())
}

#[test]
fn learned_times_err_by_less_than_thirty_percent_on_trips_of_porto_not_learned_from() {
    let trips: Vec<_> = porto().iter().filter(goes_somewhere).copied().collect();
    assert!(trips.len() > 900);
    let general = error_of(&SpeedProfile::default(), &trips);
    let mut errors = Vec::new();
    for fold in 0..5 {
        let is_held_out = |index: usize| index % 5 == fold;
        let pick = |held_out: bool| -> Vec<DrivenTrip> {
            let chosen = trips.iter().enumerate().filter(|(index, _)| is_held_out(*index) == held_out);
            chosen.map(|(_, trip)| *trip).collect()
        };
        let profile = SpeedProfile::fit(&pick(false)).unwrap();
        errors.push(error_of(&profile, &pick(true)));
    }
    let learned = errors.iter().sum::<f64>() / errors.len() as f64;
    // The past teaches the future, too: the last third of the night by the first two.
    let (past, future) = trips.split_at(trips.len() * 2 / 3);
    let tomorrow = error_of(&SpeedProfile::fit(past).unwrap(), future);
    println!(
        "MAPE on Porto: {learned:.1} % learned ({errors:.1?}), {tomorrow:.1} % ahead in time, {general:.1} % unlearned"
    );
    assert!(learned < 28.0, "{learned:.1} %, {errors:.1?}");
    assert!(errors.iter().all(|error| *error < 30.0), "{errors:.1?}");
    assert!(tomorrow < 30.0, "{tomorrow:.1} %");
    assert!(learned + 5.0 < general, "{general:.1} %");
}

/// What `make bench` reports: as a node learns, again and again, from all trips that have ended, and judged on what comes next.
#[test]
fn times_learned_every_quarter_of_an_hour_err_by_less_than_thirty_percent_on_the_trips_after() {
    let trips: Vec<_> = porto().iter().filter(goes_somewhere).copied().collect();
    let (mut judged, mut error) = (0.0, 0.0);
    for quarter in 4..37 {
        let begins = NOW + Duration::minutes(15 * quarter);
        let ends = begins + Duration::minutes(15);
        let has_ended = |trip: &&DrivenTrip| trip.began_at + Duration::seconds_f64(trip.driving_s) <= begins;
        let past: Vec<_> = trips.iter().filter(has_ended).copied().collect();
        let profile = SpeedProfile::fit(&past).unwrap();
        let next: Vec<_> =
            trips.iter().filter(|trip| trip.began_at >= begins && trip.began_at < ends).copied().collect();
        judged += next.len() as f64;
        error += next.len() as f64 * if next.is_empty() { 0.0 } else { error_of(&profile, &next) };
    }
    assert!(judged > 700.0, "{judged} trips");
    assert!(error / judged < 28.5, "{:.1} %", error / judged);
}

#[test]
fn a_kilometre_takes_about_three_minutes_where_nothing_was_learned() {
    let profile = SpeedProfile::default();
    let (from, to) = (Point::new(40.758, -73.9855), Point::new(40.767, -73.9855));
    assert_eq!(profile.eta_s(from, to, NOW), 186);
    assert_eq!(profile.eta_s(from, from, NOW), 0);
}

/// Trips of 1 to 5 km to the north, at ten metres a second, in the first hour of the day; half as fast in the second.
fn made_up() -> Vec<DrivenTrip> {
    let trip = |n: i64| {
        let metres = 1_000.0 + 40.0 * (n % 100) as f64;
        let (hour, speed_mps) = if n < 100 { (0, 10.0) } else { (1, 5.0) };
        let to = Point::new(BOLHAO.lat + metres / 111_195.0, BOLHAO.lng);
        DrivenTrip { from: BOLHAO, to, began_at: NOW + Duration::hours(hour), driving_s: metres / speed_mps }
    };
    (0..200).map(trip).collect()
}

#[test]
fn hours_are_told_apart() {
    let profile = SpeedProfile::fit(&made_up()).unwrap();
    let to = Point::new(BOLHAO.lat + 3_000.0 / 111_195.0, BOLHAO.lng);
    let at = |hours| f64::from(profile.eta_s(BOLHAO, to, NOW + Duration::hours(hours)));
    assert!((at(0) - 300.0).abs() < 30.0, "{}", at(0));
    assert!((at(1) - 600.0).abs() < 60.0, "{}", at(1));
}

#[test]
fn an_hour_of_which_nothing_is_known_is_like_those_beside_it() {
    let profile = SpeedProfile::fit(&made_up()).unwrap();
    let to = Point::new(BOLHAO.lat + 3_000.0 / 111_195.0, BOLHAO.lng);
    let at = |hours| profile.eta_s(BOLHAO, to, NOW + Duration::hours(hours));
    assert_eq!((at(2), at(23)), (at(1), at(0)));
}

#[test]
fn few_or_absurd_trips_teach_nothing() {
    assert_eq!(SpeedProfile::fit(&made_up()[..49]), None);
    let absurd = DrivenTrip { driving_s: 1.0, ..made_up()[0] };
    let standing = DrivenTrip { to: BOLHAO, ..made_up()[0] };
    assert_eq!(SpeedProfile::fit(&[absurd; 100]), None);
    assert_eq!(SpeedProfile::fit(&[standing; 100]), None);
    let mut mixed = made_up();
    mixed.extend([absurd; 500]);
    assert_eq!(SpeedProfile::fit(&mixed), SpeedProfile::fit(&made_up()));
}

#[test]
fn farther_always_takes_longer() {
    let profile = SpeedProfile::fit(&made_up()).unwrap();
    let eta_s = |metres: i32| {
        let to = Point::new(BOLHAO.lat, BOLHAO.lng + f64::from(metres) / 111_195.0);
        profile.eta_s(BOLHAO, to, NOW + Duration::hours(5))
    };
    assert_eq!(eta_s(0), 0);
    assert!((1..40).all(|step| eta_s(step * 20) > eta_s((step - 1) * 20)));
}

#[test]
fn an_hour_is_the_same_whichever_zone_it_is_told_in() {
    let profile = SpeedProfile::fit(&made_up()).unwrap();
    let to = Point::new(BOLHAO.lat + 3_000.0 / 111_195.0, BOLHAO.lng);
    let there = time::UtcOffset::from_hms(5, 30, 0).unwrap();
    for hours in [0, 1, 7] {
        let at = NOW + Duration::hours(hours);
        assert_eq!(profile.eta_s(BOLHAO, to, at.to_offset(there)), profile.eta_s(BOLHAO, to, at));
    }
}

impl Travel {
    /// Knows neither roads nor trips.
    fn of_nothing() -> TenantTravel {
        TenantTravel { speeds: Arc::default(), roads: None, engine: None }
    }
}

fn by_road() -> Travel {
    Travel { learned: Arc::default(), roads: Some(Arc::new(roads::tests::manhattan())), engine: None }
}

const TIMES_SQUARE: Point = Point::new(40.758, -73.9855);

#[tokio::test]
async fn ways_on_the_map_go_by_road_and_all_others_as_the_crow_flies() {
    let tenant: TenantId = "cabs".parse().unwrap();
    // Across the river it is a stone's throw and no way at all by the streets of Manhattan.
    let (uptown, across) = (Point::new(40.7712, -73.9819), Point::new(40.7590, -74.0300));
    let etas = by_road().of(&tenant).to_pickup(&[uptown, across], TIMES_SQUARE, NOW).await;
    let crow = [uptown, across].map(|from| SpeedProfile::default().eta_s(from, TIMES_SQUARE, NOW));
    assert_ne!(etas[0], crow[0]);
    assert!((200..600).contains(&etas[0]), "{etas:?}");
    assert_eq!(etas[1], crow[1]);
}

#[tokio::test]
async fn a_ride_goes_the_same_roads_as_the_driver_on_his_way_to_it() {
    let travel = by_road().of(&"cabs".parse().unwrap());
    let (uptown, across) = (Point::new(40.7712, -73.9819), Point::new(40.7590, -74.0300));
    let etas = travel.to_pickup(&[uptown, across], TIMES_SQUARE, NOW).await;
    let on_the_map = travel.way(uptown, TIMES_SQUARE, NOW).await;
    let metres = roads::tests::manhattan().metres(uptown, TIMES_SQUARE).unwrap();
    assert_eq!(on_the_map, Way { distance_m: metres.round() as i64, duration_s: etas[0].into() });
    let guessed_m = (1.3 * across.distance_m(TIMES_SQUARE)).round() as i64;
    let off_the_map = travel.way(across, TIMES_SQUARE, NOW).await;
    assert_eq!(off_the_map, Way { distance_m: guessed_m, duration_s: etas[1].into() });
    assert_eq!(Travel::of_nothing().way(BOLHAO, BOLHAO, NOW).await, Way { distance_m: 0, duration_s: 0 });
}

#[tokio::test]
async fn driven_trips_teach_how_much_longer_than_empty_roads_a_way_takes() {
    let tenant: TenantId = "cabs".parse().unwrap();
    let travel = by_road();
    let roads = roads::tests::manhattan();
    let trip = |n: u32| {
        let from = Point::new(40.7505 + 0.0004 * f64::from(n % 50), -73.9800);
        let way_s = roads.seconds(&[from], TIMES_SQUARE)[0].unwrap();
        DrivenTrip { from, to: TIMES_SQUARE, began_at: NOW, driving_s: 2.5 * way_s }
    };
    let trips: Vec<_> = (0..200).map(trip).collect();
    travel.learn(tenant.clone(), &trips);
    let held_out = trip(17);
    let eta_s = travel.of(&tenant).to_pickup(&[held_out.from], TIMES_SQUARE, NOW).await[0];
    let off_by = (f64::from(eta_s) / held_out.driving_s - 1.0).abs();
    assert!(off_by < 0.05, "{eta_s} s, driven in {:.0} s", held_out.driving_s);
}

/// How a test's engine behaves, and how often it was asked.
#[derive(Clone, Default)]
struct Behaviour {
    mode: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
}

const WELL: u32 = 0;
const SILENT: u32 = 1;
const BROKEN: u32 = 2;
const ODD: u32 = 3;
const OFF_THE_MAP: u32 = 4;
const NO_WAY: u32 = 5;

/// Answers `/table` as OSRM does: a second for each thousandth of a degree north of the goal, a hundred metres a second, no
/// way for the third.
async fn table(State(behaviour): State<Behaviour>, uri: axum::http::Uri) -> axum::response::Response {
    behaviour.asked.fetch_add(1, Ordering::SeqCst);
    let mode = behaviour.mode.load(Ordering::SeqCst);
    match mode {
        SILENT => std::future::pending().await,
        BROKEN => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        ODD => Json(json!({"code": "Ok", "durations": [[1.0]]})).into_response(),
        NO_WAY => (StatusCode::BAD_REQUEST, Json(json!({"code": "NoSegment"}))).into_response(),
        _ => {
            let places: Vec<(f64, f64)> = uri
                .path()
                .rsplit('/')
                .next()
                .unwrap()
                .split(';')
                .map(|place| {
                    let (lng, lat) = place.split_once(',').unwrap();
                    (lat.parse().unwrap(), lng.parse().unwrap())
                })
                .collect();
            let (to, from) = places.split_last().unwrap();
            let sources: Vec<_> = (0..from.len()).map(|index| index.to_string()).collect();
            let table = format!("sources={}&destinations={}&annotations=", sources.join(";"), from.len());
            let annotations = uri.query().unwrap().strip_prefix(&table).unwrap();
            let seconds =
                |(index, place): (usize, &(f64, f64))| (index != 2).then(|| ((place.0 - to.0) * 1_000.0).round());
            let durations: Vec<_> = from.iter().enumerate().map(seconds).collect();
            let snapped = |place: &(f64, f64)| {
                let lat = if mode == OFF_THE_MAP { place.0 + 0.01 } else { place.0 + 0.001 };
                json!({"location": [place.1, lat]})
            };
            let mut answer = json!({
                "code": "Ok",
                "durations": durations.iter().map(|duration| [*duration]).collect::<Vec<_>>(),
                "sources": from.iter().map(snapped).collect::<Vec<_>>(),
                "destinations": [snapped(to)],
            });
            if annotations == "duration,distance" {
                let metres = durations.iter().map(|duration| [duration.map(|seconds| 100.0 * seconds)]);
                answer["distances"] = json!(metres.collect::<Vec<_>>());
            } else {
                assert_eq!(annotations, "duration");
            }
            Json(answer).into_response()
        }
    }
}

/// The address of a new engine, and how it behaves.
async fn engine_at() -> (Url, Behaviour) {
    let behaviour = Behaviour::default();
    let service = Router::new().route("/osrm/table/v1/driving/{places}", get(table)).with_state(behaviour.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/osrm/", listener.local_addr().unwrap()).parse().unwrap();
    tokio_util::task::TaskTracker::new().spawn(async move { axum::serve(listener, service).await });
    (url, behaviour)
}

async fn with_engine(pause: StdDuration) -> (TenantTravel, Behaviour) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (url, behaviour) = engine_at().await;
    let http = crate::app::http_client(StdDuration::from_secs(2)).unwrap();
    let engine = || {
        let (http, url) = (http.clone(), url.clone());
        Arc::new(Engine::new(http, url, EngineApi::Osrm, StdDuration::from_millis(300), pause))
    };
    let engine = Some(Engines { to_pickups: engine(), of_rides: engine() });
    (TenantTravel { engine, ..Travel::of_nothing() }, behaviour)
}

fn drivers() -> [Point; 3] {
    [10, 20, 30].map(|step| Point::new(BOLHAO.lat + f64::from(step) / 1_000.0, BOLHAO.lng))
}

#[tokio::test]
async fn the_engine_answers_and_the_profile_for_the_way_it_does_not_know() {
    let (travel, behaviour) = with_engine(StdDuration::from_secs(60)).await;
    let unknown = SpeedProfile::default().eta_s(drivers()[2], BOLHAO, NOW);
    assert_eq!(travel.to_pickup(&drivers(), BOLHAO, NOW).await, [10, 20, unknown]);
    assert_eq!(travel.to_pickup(&[], BOLHAO, NOW).await, [0; 0]);
    assert_eq!(behaviour.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_engine_that_fails_is_done_without_and_left_alone() {
    let guess = drivers().map(|from| SpeedProfile::default().eta_s(from, BOLHAO, NOW));
    for fault in [SILENT, BROKEN, ODD] {
        let (travel, behaviour) = with_engine(StdDuration::from_secs(600)).await;
        behaviour.mode.store(fault, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(travel.to_pickup(&drivers(), BOLHAO, NOW).await, guess);
        }
        assert_eq!(behaviour.asked.load(Ordering::SeqCst), 1, "fault {fault}");
    }
}

#[tokio::test]
async fn an_engine_that_recovered_is_asked_again() {
    let (travel, behaviour) = with_engine(StdDuration::ZERO).await;
    behaviour.mode.store(BROKEN, Ordering::SeqCst);
    assert_ne!(travel.to_pickup(&drivers(), BOLHAO, NOW).await[..2], [10, 20]);
    behaviour.mode.store(WELL, Ordering::SeqCst);
    assert_eq!(travel.to_pickup(&drivers(), BOLHAO, NOW).await[..2], [10, 20]);
}

#[tokio::test]
async fn the_engine_knows_how_far_a_ride_is_and_whoever_is_behind_it_both_measures_of_what_it_does_not_know() {
    let (travel, behaviour) = with_engine(StdDuration::from_secs(600)).await;
    let way = async || travel.way(drivers()[1], BOLHAO, NOW).await;
    let guess = Travel::of_nothing().way(drivers()[1], BOLHAO, NOW).await;
    assert_eq!(way().await, Way { distance_m: 2_000, duration_s: 20 });
    for elsewhere in [OFF_THE_MAP, NO_WAY] {
        behaviour.mode.store(elsewhere, Ordering::SeqCst);
        assert_eq!(way().await, guess, "mode {elsewhere}");
    }
    behaviour.mode.store(WELL, Ordering::SeqCst);
    assert_eq!(way().await, Way { distance_m: 2_000, duration_s: 20 }, "the engine served all along");
    assert_eq!(behaviour.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_ride_the_engine_fails_at_costs_no_pick_up_its_answer() {
    let (travel, behaviour) = with_engine(StdDuration::from_secs(600)).await;
    behaviour.mode.store(SILENT, Ordering::SeqCst);
    let guess = Travel::of_nothing().way(drivers()[0], BOLHAO, NOW).await;
    assert_eq!(travel.way(drivers()[0], BOLHAO, NOW).await, guess);
    behaviour.mode.store(WELL, Ordering::SeqCst);
    assert_eq!(travel.way(drivers()[0], BOLHAO, NOW).await, guess, "the engine is left alone with rides");
    assert_eq!(travel.to_pickup(&drivers(), BOLHAO, NOW).await[..2], [10, 20]);
}

/// A ride from here to the goal of the tests' trips.
fn ride_from(from: Point, to: Point) -> serde_json::Value {
    let card = json!({"type": "card", "token": "tok_visa"});
    json!({"pickup": from, "dropoff": to, "vehicle_class": "standard", "payment_method": card})
}

#[sqlx::test(migrations = "../migrations")]
async fn a_price_follows_the_engine_s_roads_and_those_behind_it_while_it_is_down(pool: PgPool) {
    let (url, behaviour) = engine_at().await;
    let roads = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/new-york");
    let settings = format!("travel = {{ engine_url = \"{url}\", engine_pause = \"1ms\", road_graph = \"{roads}\" }}");
    let region = TestRegion::with_settings(pool, &settings).await;
    let rider = region.rider().await;
    let wall_street = Point::new(40.706, -74.009);
    let ride = ride_from(TIMES_SQUARE, wall_street);
    let estimate = async || rider.post("/v1/rides/estimate", ride.clone()).await.ok(200);
    let measures = |answer: &serde_json::Value| {
        let whole = |field: &str| answer[field].as_i64().unwrap();
        Way { distance_m: whole("distance_m"), duration_s: whole("duration_s") }
    };
    let by_engine = estimate().await;
    assert_eq!(measures(&by_engine), Way { distance_m: 5_200, duration_s: 52 });
    behaviour.mode.store(BROKEN, Ordering::SeqCst);
    let on_roads = estimate().await;
    assert_eq!(measures(&on_roads), by_road().of(&region.tenant).way(TIMES_SQUARE, wall_street, NOW).await);
    assert!(on_roads["fare"]["amount"].as_i64() > by_engine["fare"]["amount"].as_i64());
    // What was promised holds; who asks without a promise pays by what is known now.
    let mut taken = ride.clone();
    taken["quote_id"] = by_engine["quote_id"].clone();
    let taken = rider.post("/v1/rides", taken).await.ok(201);
    assert_eq!((&taken["fare"], measures(&taken)), (&by_engine["fare"], measures(&by_engine)));
    let unasked = region.rider().await.post("/v1/rides", ride.clone()).await.ok(201);
    assert_eq!((&unasked["fare"], measures(&unasked)), (&on_roads["fare"], measures(&on_roads)));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ride_booked_for_a_slow_hour_is_priced_by_the_time_it_takes_then_and_by_no_quote_of_another(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let rider = region.rider().await;
    region.app.travel.learn(region.tenant.clone(), &made_up());
    let ride = ride_from(BOLHAO, Point::new(BOLHAO.lat + 3_000.0 / 111_195.0, BOLHAO.lng));
    // Of the trips learned from, those of the first hour of the day were twice as fast as those of the second.
    let midnight = (region.clock.now() + Duration::days(2)).replace_time(time::Time::MIDNIGHT);
    let there = time::UtcOffset::from_hms(5, 30, 0).unwrap();
    let at = |minutes: i64| {
        let at = (midnight + Duration::minutes(minutes)).to_offset(there);
        let mut ride = ride.clone();
        ride["scheduled_at"] = json!(at.format(&time::format_description::well_known::Rfc3339).unwrap());
        ride
    };
    let (fast, slow) = (
        rider.post("/v1/rides/estimate", at(10)).await.ok(200),
        rider.post("/v1/rides/estimate", at(70)).await.ok(200),
    );
    let seconds = |estimate: &serde_json::Value| estimate["duration_s"].as_i64().unwrap();
    assert!((270..330).contains(&seconds(&fast)) && (540..660).contains(&seconds(&slow)), "{fast} {slow}");
    assert_eq!(fast["distance_m"], slow["distance_m"]);
    assert!(slow["fare"]["amount"].as_i64() > fast["fare"]["amount"].as_i64());
    let quoted = |minutes, quote: &serde_json::Value| {
        let mut ride = at(minutes);
        ride["quote_id"] = quote["quote_id"].clone();
        rider.post("/v1/rides", ride)
    };
    assert_eq!(quoted(70, &fast).await.problem(422).fields, ["quote_id"]);
    assert_eq!(quoted(20, &fast).await.ok(201)["fare"], fast["fare"]);
    assert_eq!(rider.post("/v1/rides", at(70)).await.ok(201)["fare"], slow["fare"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_node_learns_from_its_tenant_s_trips_alone(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    region.new_tenant("other", json!({})).await;
    let (rider, driver) = (region.rider().await, region.driver().await);
    let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
    let now = region.clock.now();
    for (n, trip) in (0..).zip(made_up()) {
        let began_at = now - Duration::minutes(10 + n);
        let ride_id = uuid::Uuid::now_v7();
        let quote = json!({});
        sqlx::query(
            "INSERT INTO rides (id, tenant_id, rider_id, status, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng,
                 vehicle_class, payment_method, quote, pin, requested_at, expires_at, updated_at)
             VALUES ($1, $2, $3, 'completed', $4, $5, $6, $7, 'standard', $8, $8, '0000', $9, $9, $9)",
        )
        .bind(ride_id)
        .bind(region.tenant.as_str())
        .bind(rider.id)
        .bind(trip.from.lat)
        .bind(trip.from.lng)
        .bind(trip.to.lat)
        .bind(trip.to.lng)
        .bind(&quote)
        .bind(began_at)
        .execute(tx.conn())
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, started_at, ended_at,
                 paused_s, duration_s, updated_at)
             VALUES ($1, $2, $3, $4, $5, 'completed', $6, $6, $6, 60, $7, $6)",
        )
        .bind(uuid::Uuid::now_v7())
        .bind(region.tenant.as_str())
        .bind(ride_id)
        .bind(rider.id)
        .bind(driver.id)
        .bind(began_at)
        .bind(60 + trip.driving_s as i64)
        .execute(tx.conn())
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    let to = Point::new(BOLHAO.lat + 4_000.0 / 111_195.0, BOLHAO.lng);
    let other: TenantId = "other".parse().unwrap();
    let unlearned = SpeedProfile::default().eta_s(BOLHAO, to, now);
    for tenant in [&region.tenant, &other] {
        assert_eq!(region.app.travel.of(tenant).to_pickup(&[BOLHAO], to, now).await, [unlearned]);
        learn::learn(&region.app, tenant).await.unwrap();
    }
    let learned = region.app.travel.of(&region.tenant).to_pickup(&[BOLHAO], to, now).await[0];
    assert!((300..=800).contains(&learned), "{learned} s, unlearned {unlearned} s");
    assert_ne!(learned, unlearned);
    assert_eq!(region.app.travel.of(&other).to_pickup(&[BOLHAO], to, now).await, [unlearned]);
}
