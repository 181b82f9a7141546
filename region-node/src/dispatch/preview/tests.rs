//! The preview against the code that serves riders, on the same people.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use futures::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use shared::{
    ids::{DriverId, RideId, RiderId, TripId},
    tenant_config::DispatchMode,
    zone::Zone,
};
use time::{Duration, macros::datetime};

use super::*;
use crate::{
    dispatch::{
        chain::arriving,
        line::line_up,
        plan::{Wanted, plan},
        reason::Reason,
        store::Ending,
    },
    drivers::{Duty, Fleet, LiveTable, Position, ShareRule, Standing, Terms},
    travel::SpeedProfile,
    zones::Waiting,
};

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00:00 UTC);
const CENTER: Point = Point::new(40.758, -73.9855);
const SEEDS: u64 = 300;
const CLASSES: [&str; 2] = ["standard", "xl"];

/// The same moment, as the live dispatcher and as a caller of the preview knows it.
struct Moment {
    rules: DispatchPolicy,
    map: ZoneMap,
    fleet: Arc<Fleet>,
    wanted: Vec<Wanted>,
    waiting: Vec<Waiting>,
    ending: Vec<Ending>,
    preview: serde_json::Value,
}

fn place(rng: &mut StdRng) -> Point {
    let mut off = || rng.random_range(-0.03..0.03);
    Point::new(CENTER.lat + off(), CENTER.lng + off())
}

fn rules(rng: &mut StdRng) -> DispatchPolicy {
    DispatchPolicy {
        mode: if rng.random() { DispatchMode::Batched } else { DispatchMode::Nearest },
        radius_m: rng.random_range(1_000..6_000),
        group_size: rng.random_range(1..4),
        max_pickup_s: rng.random::<bool>().then(|| rng.random_range(200..1_500)),
        chain_within_s: if rng.random() { 0 } else { 300 },
        idle_bonus_s: rng.random_range(0..240),
        fairness_bonus_s: rng.random_range(0..240),
        ..DispatchPolicy::default()
    }
}

fn zone() -> Zone {
    let center = json!({"lat": CENTER.lat + 0.01, "lng": CENTER.lng});
    let area = json!({"circle": {"center": center, "radius_m": 900}});
    serde_json::from_value(json!({"id": "rank", "area": area, "queue": true})).unwrap()
}

impl Moment {
    fn of(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let table = LiveTable::new(ShareRule { distance_m: 25.0, heartbeat: Duration::seconds(20) });
        let mut moment = Self {
            rules: rules(rng),
            map: ZoneMap::new(&[zone()]),
            fleet: table.fleet(&"cabs".parse().unwrap()),
            wanted: Vec::new(),
            waiting: Vec::new(),
            ending: Vec::new(),
            preview: json!({"now": rfc3339(NOW), "requests": [], "drivers": []}),
        };
        let drivers: Vec<DriverId> = (0..rng.random_range(1..60)).map(|_| DriverId::new()).collect();
        drivers.iter().for_each(|id| moment.add_driver(*id, rng));
        (0..rng.random_range(1..20)).for_each(|number| moment.add_ride(number, &drivers, rng));
        moment.preview["median_earned"] = json!(moment.fleet.median_earned(NOW));
        moment
    }

    fn add_driver(&mut self, id: DriverId, rng: &mut StdRng) {
        let at = place(rng);
        let class = CLASSES[rng.random_range(0..2)];
        let (accepted, refused) = (rng.random_range(0.0..20.0), rng.random_range(0.0..5.0));
        let record = Record { accepted, refused, earned: rng.random_range(0.0..9_000.0), as_of: NOW };
        let idle_since = NOW - Duration::seconds(rng.random_range(0..3_000));
        let max_pickup_m = rng.random_ratio(1, 4).then(|| rng.random_range(300..4_000));
        let duty = match rng.random_ratio(1, 5) {
            true => Duty::OnTrip { ride_id: RideId::new(), rider_id: RiderId::new() },
            false => Duty::Free,
        };
        let mut told = json!({"id": id, "lat": at.lat, "lng": at.lng, "vehicle_class": class, "idle_since": rfc3339(idle_since),
            "acceptance": acceptance::probability(&record), "earned": record.earned, "max_pickup_m": max_pickup_m});
        if let Duty::OnTrip { .. } = duty {
            let dropoff = Point::new(at.lat + rng.random_range(-0.01..0.01), at.lng + rng.random_range(-0.01..0.01));
            self.ending.push(Ending { driver_id: id, trip_id: TripId::new(), dropoff });
            let free_in_s = SpeedProfile::default().eta_s(at, dropoff, NOW);
            let seen_from = json!({"lat": dropoff.lat, "lng": dropoff.lng, "free_in_s": free_in_s});
            told.as_object_mut().unwrap().extend(seen_from.as_object().unwrap().clone());
        } else if self.map.queue_at(at).is_some() {
            let entered_at = NOW - Duration::seconds(1_000 - self.waiting.len() as i64);
            told["queue"] = json!({"zone_id": "rank", "place": self.waiting.len()});
            let (zone_id, vehicle_class) = ("rank".to_owned(), class.to_owned());
            self.waiting.push(Waiting {
                driver_id: id,
                zone_id,
                vehicle_class,
                entered_at,
                away_since: None,
                declines: 0,
            });
        }
        self.preview["drivers"].as_array_mut().unwrap().push(told);
        let standing = Standing {
            online: true,
            vehicle_class: class.into(),
            idle_since: Some(idle_since),
            duty,
            terms: Terms::new(Default::default(), max_pickup_m),
            record,
            as_of: NOW,
            duty_as_of: NOW,
        };
        self.fleet.learn(id, standing);
        self.fleet.observe(id, &mut [Position { point: at, heading: None, recorded_at: NOW }], NOW);
    }

    fn add_ride(&mut self, number: i64, drivers: &[DriverId], rng: &mut StdRng) {
        let (pickup, class) = (place(rng), CLASSES[usize::from(rng.random_ratio(1, 4))]);
        let asked: Vec<DriverId> = drivers.iter().copied().filter(|_| rng.random_ratio(1, 12)).collect();
        let waits_since = NOW - Duration::seconds(100 - number);
        let ride_id = RideId::new();
        let at = json!({"lat": pickup.lat, "lng": pickup.lng});
        self.preview["requests"].as_array_mut().unwrap().push(json!({"id": ride_id, "pickup": at, "dropoff": at,
            "requested_at": rfc3339(waits_since), "vehicle_class": class, "excluded": asked}));
        self.wanted.push(Wanted {
            ride_id,
            pickup,
            vehicle_class: class.to_owned(),
            waits_since,
            asked: asked.into_iter().map(|id| (id, Reason::DeclinedBefore)).collect(),
            offers_left: usize::try_from(self.rules.max_offers).unwrap(),
        });
    }

    /// As `run` plans, ride by ride: whom to ask, the best first, and how long he needs.
    async fn live(&self) -> HashMap<String, (u32, Vec<String>)> {
        let travel = SpeedProfile::default();
        let in_line = (&self.map, self.waiting.as_slice());
        let lined = line_up(&self.fleet, &travel, &self.rules, in_line, self.wanted.clone(), NOW).await;
        let ending = if self.rules.chain_within_s == 0 { &[] } else { self.ending.as_slice() };
        let arriving = arriving(&self.fleet, &travel, &self.rules, ending, NOW).await;
        let mut plans = plan(&self.fleet, &travel, &self.rules, &lined.others, &arriving, NOW).await;
        plans.extend(lined.plans);
        let asked = plans.into_iter().filter(|plan| !plan.ask.is_empty()).map(|plan| {
            let who = plan.ask.iter().map(|ask| ask.driver_id.to_string()).collect();
            (plan.ride_id.to_string(), (plan.ask[0].eta_s, who))
        });
        asked.collect()
    }

    async fn previewed(&self) -> HashMap<String, (u32, Vec<String>)> {
        let request: PreviewRequest = serde_json::from_value(self.preview.clone()).unwrap();
        request.validate().unwrap();
        let preview = request.decide(&self.map, &SpeedProfile::default(), &self.rules).await;
        assert_eq!(preview.assignments.len() + preview.unassigned.len(), self.wanted.len());
        let asked = preview.assignments.into_iter().map(|assigned| {
            let PreviewAssignment { request_id, driver_id, eta_s, also_asked } = assigned;
            (request_id, (eta_s, [vec![driver_id], also_asked].concat()))
        });
        asked.collect()
    }
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339).unwrap()
}

#[tokio::test]
async fn a_preview_says_what_the_live_dispatcher_does_with_the_same_people() {
    let (mut asked, mut by_queue, mut after_a_trip, mut groups) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let moment = Moment::of(seed);
        let live = moment.live().await;
        assert_eq!(moment.previewed().await, live, "seed {seed}");
        let on_trip = |id: &String| moment.ending.iter().any(|ending| ending.driver_id.to_string() == *id);
        let begins_in_zone = |id: &String| {
            let ride = moment.wanted.iter().find(|wanted| wanted.ride_id.to_string() == *id).unwrap();
            moment.map.queue_at(ride.pickup).is_some()
        };
        asked += live.len();
        by_queue += live.keys().filter(|id| begins_in_zone(id)).count();
        after_a_trip += live.values().filter(|(_, who)| on_trip(&who[0])).count();
        groups += live.values().filter(|(_, who)| who.len() > 1).count();
    }
    println!("{asked} rides, {by_queue} in the zone, {after_a_trip} after a trip, {groups} offered to several");
    assert!(asked > 1_000 && by_queue > 50 && after_a_trip > 20 && groups > 200);
}

#[tokio::test]
async fn previews_take_turns_on_threads_that_serve_nobody() {
    let previews = Previews::default();
    let turns = previews.computing.available_permits();
    let (computing, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let one = |let_in| {
        let (computing, most) = (computing.clone(), most.clone());
        previews.compute(let_in, async move {
            most.fetch_max(computing.fetch_add(1, SeqCst) + 1, SeqCst);
            thread::yield_now();
            computing.fetch_sub(1, SeqCst);
            Ok(thread::current().id())
        })
    };
    let let_in: Vec<_> = std::iter::from_fn(|| previews.let_in().ok()).collect();
    assert_eq!(let_in.len(), MOST_LET_IN);
    let threads = join_all(let_in.into_iter().map(one)).await;
    assert!(threads.into_iter().all(|thread| thread.unwrap() != thread::current().id()));
    assert!(most.load(SeqCst) <= turns);
    assert_eq!(previews.let_in.available_permits(), MOST_LET_IN);
}

/// A matrix says how far everybody is; who may go is said in the same words as without.
#[tokio::test]
async fn with_a_matrix_queues_classes_exclusions_and_trips_count_as_without() {
    let decide = async |edit: &dyn Fn(&mut serde_json::Value)| {
        let at = json!({"lat": CENTER.lat + 0.01, "lng": CENTER.lng});
        let driver = |id: &str| json!({"id": id, "lat": CENTER.lat, "lng": CENTER.lng, "vehicle_class": "standard"});
        let request =
            json!({"id": "r", "pickup": at, "dropoff": at, "requested_at": rfc3339(NOW), "vehicle_class": "standard"});
        let mut moment = json!({"now": rfc3339(NOW), "requests": [request], "drivers": [driver("near"), driver("far")],
            "costs_s": [[10.0, 500.0]]});
        edit(&mut moment);
        let request: PreviewRequest = serde_json::from_value(moment).unwrap();
        let rules = DispatchPolicy { chain_within_s: 300, ..DispatchPolicy::default() };
        let preview = request.decide(&ZoneMap::new(&[zone()]), &SpeedProfile::default(), &rules).await;
        let assigned = preview.assignments.iter().map(|one| (one.driver_id.clone(), one.eta_s));
        assigned.map(Ok).chain(preview.unassigned.iter().map(|one| Err(one.reason))).collect::<Vec<_>>()
    };
    let near_in = |eta_s| vec![Ok(("near".to_owned(), eta_s))];
    let far = vec![Ok(("far".to_owned(), 500))];
    assert_eq!(decide(&|_| {}).await, near_in(10));
    assert_eq!(decide(&|moment| moment["drivers"][1]["queue"] = json!({"zone_id": "rank", "place": 3})).await, far);
    assert_eq!(decide(&|moment| moment["drivers"][0]["vehicle_class"] = json!("xl")).await, far);
    assert_eq!(decide(&|moment| moment["requests"][0]["excluded"] = json!(["near"])).await, far);
    assert_eq!(
        decide(&|moment| moment["drivers"][0]["free_in_s"] = json!(200)).await,
        near_in(210),
        "as soon as the trip before has ended"
    );
    assert_eq!(decide(&|moment| moment["drivers"][0]["free_in_s"] = json!(301)).await, far, "too late to be asked now");
    let alone_in_the_queue = |moment: &mut serde_json::Value| {
        moment["drivers"] = json!([moment["drivers"][0]]);
        moment["drivers"][0]["queue"] = json!({"zone_id": "rank", "place": 1});
        moment["requests"] = json!([moment["requests"][0], moment["requests"][0]]);
        moment["costs_s"] = json!([[10.0], [10.0]]);
    };
    let [first, second] = [near_in(10), vec![Err(UnassignedReason::NoDriverLeft)]];
    assert_eq!(decide(&alone_in_the_queue).await, [first, second].concat());
    assert_eq!(
        decide(&|moment| moment["requests"][0]["excluded"] = json!(["near", "far"])).await,
        [Err(UnassignedReason::NobodyFits)]
    );
}
