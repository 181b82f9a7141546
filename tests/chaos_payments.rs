//! Whatever dies in the midst of a payment, a top-up of a wallet or a refund, and however the PSP misbehaves meanwhile: what the PSP
//! holds, what was settled, what wallets hold and what the ledger says agree to the cent afterwards, in every region.
//!
//! A run is drawn from its seed: a phase of a payment, top-up or refund, a fault of the PSP, and who dies there. A node that is to die
//! aborts at that very instruction; else it stands still there while Postgres is killed beneath it, or while its hold runs out
//! and another node goes on with its work. Each run must meet its phase, and it is the node that says it did. Several trips are
//! paid at once in each run, by card or from the rider's wallet, and given back to where the money came from or into the wallet, by
//! clients that try again, that ask both nodes at once, or that never come back. Beside the fault a
//! run is about, the PSP has its bad days by a script of the same seed: it dawdles, declines, fails before and after the deed,
//! falls silent, and its webhooks get lost, doubled and late; some more of them come from here. Nobody waits for the recovery
//! from one run before the next begins. `PAYMENT_RUNS` says how many runs (each phase of a payment, a top-up and a refund once, if
//! not said), `PAYMENT_SEED` from which seed.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    time::Duration,
};

use deploy_local::{Cluster, Service};
use futures::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use reqwest::Method;
use ring::hmac;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use system_tests::{
    api::{Client, Patience},
    harness::{Driver, Drives, Rider, TestCluster, eventually, eventually_within},
};
use time::OffsetDateTime;
use uuid::Uuid;

const PHASES: [&str; 7] = ["intending", "intended", "asked", "recording", "answered", "settling", "settled"];
/// What the PSP does, by the card's token: see the sandbox's own list.
const CHARGE_FAULTS: [&str; 4] = ["tok_visa", "tok_declined", "tok_timeout", "tok_error"];
const REFUND_FAULTS: [&str; 3] = ["tok_visa", "tok_refund_declined", "tok_refund_timeout"];
const KILLS: [Kill; 3] = [Kill::Node, Kill::Postgres, Kill::Nobody];
const TRIPS_PER_RUN: usize = 4;

const PSP_TIMEOUT: Duration = Duration::from_millis(400);
/// How often the script has something go wrong.
const BAD_DAYS: [(&str, &str); 8] = [
    ("LATENCY", "50ms"),
    ("DECLINES", "0.05"),
    ("ERRORS_BEFORE", "0.05"),
    ("ERRORS_AFTER", "0.03"),
    ("SILENCES", "0.05"),
    ("WEBHOOKS_LOST", "0.2"),
    ("WEBHOOKS_DOUBLED", "0.2"),
    ("WEBHOOKS_LATE", "0.2"),
];
/// An account that fell silent is left alone for a minute at the longest, and refuses meanwhile.
const PHASE_COMES_WITHIN: Duration = Duration::from_secs(90);
const RECOVERY: Duration = Duration::from_secs(120);
/// A node that is told to stand still does so no longer.
const LONGEST_HOLD: Duration = Duration::from_secs(20);
const SIGABRT: i32 = 6;
const WEBHOOK_SECRET: &str = "a secret of tests";
const TENANTS: [(&str, &str); 3] = [("manhattan-cabs", "USD"), ("porto-taxis", "EUR"), ("bengaluru-rides", "INR")];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    Node,
    Postgres,
    /// The node only stands still until its hold is over.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    what: &'static str,
    phase: &'static str,
    fault: &'static str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_in_a_payment_the_psp_the_settlements_and_the_ledger_agree_to_the_cent() {
    let seed = from_env("PAYMENT_SEED").unwrap_or_else(rand::random);
    let plans = plans(seed);
    let runs = from_env("PAYMENT_RUNS").map_or(PHASES.len() * 3, |runs| usize::try_from(runs).unwrap());
    println!("PAYMENT_SEED={seed} PAYMENT_RUNS={runs}");
    if runs >= KILLS.len() * plans.len() {
        assert_each_phase_meets_each_kill(&plans, runs);
    }
    let folder = std::env::temp_dir().join(format!("payments-{}", Uuid::new_v4()));
    std::fs::create_dir_all(&folder).unwrap();
    let builder = Cluster::builder()
        .region_nodes(2)
        .node_env("REGION_NODE_PSP__CRASH_DIR", &folder.to_string_lossy())
        .node_env("REGION_NODE_PSP__TIMEOUT", &format!("{}ms", PSP_TIMEOUT.as_millis()))
        .node_env("REGION_NODE_PSP__RESUME_EVERY", "200ms")
        .node_env("REGION_NODE_PSP__SANDBOX__WEBHOOK_SECRET", WEBHOOK_SECRET)
        // Settings are signed.
        .node_env("REGION_NODE_PSP__SANDBOX__SCRIPT__SEED", &(seed >> 1).to_string())
        .node_env("REGION_NODE_PSP__SANDBOX__SCRIPT__LATE_BY", "2s");
    let builder = BAD_DAYS.iter().fold(builder, |builder, (what, how)| {
        builder.node_env(&format!("REGION_NODE_PSP__SANDBOX__SCRIPT__{what}"), how)
    });
    let cluster = TestCluster::start_as(builder).await;
    let scenes = join_all(TENANTS.map(|(tenant, currency)| Scene::new(&cluster, tenant, currency, &folder))).await;

    let told = scenes.iter().enumerate().map(|(region, scene)| {
        let plans = &plans;
        async move {
            let mut told = Told::default();
            // Regions and kills each take turns, against each other, so that all meet all.
            for number in (0..runs).filter(|n| (n + n / TENANTS.len()) % TENANTS.len() == region) {
                let mut rng = StdRng::seed_from_u64(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let (plan, kill) = planned(plans, number);
                scene.run(plan, kill, &mut rng, &mut told).await;
            }
            told
        }
    });
    let told = join_all(told).await;

    for (scene, told) in scenes.iter().zip(&told) {
        let latest = told.trips.len().saturating_sub(5 * TRIPS_PER_RUN);
        scene.webhooks("late", &told.trips[latest..]).await;
        scene.audit(told).await;
    }
    cluster.converged().await;
    for scene in &scenes {
        scene.audit_everywhere(&cluster).await;
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Each phase with each fault once, in rounds that go through all phases, in an order and with faults that the seed shifts.
fn plans(seed: u64) -> Vec<Plan> {
    let mut rng = StdRng::seed_from_u64(seed);
    let shift: usize = rng.random_range(0..CHARGE_FAULTS.len() * REFUND_FAULTS.len());
    let mut plans = Vec::new();
    for round in 0..CHARGE_FAULTS.len() {
        let mut of_round = Vec::new();
        for (n, phase) in PHASES.into_iter().enumerate() {
            let turn = n + round + shift;
            of_round.push(Plan { what: "payment", phase, fault: CHARGE_FAULTS[turn % CHARGE_FAULTS.len()] });
            of_round.push(Plan { what: "top_up", phase, fault: CHARGE_FAULTS[(turn + 1) % CHARGE_FAULTS.len()] });
            if round < REFUND_FAULTS.len() {
                of_round.push(Plan { what: "refund", phase, fault: REFUND_FAULTS[turn % REFUND_FAULTS.len()] });
            }
        }
        of_round.shuffle(&mut rng);
        plans.append(&mut of_round);
    }
    plans
}

/// What a run is about and who dies in it. A plan that comes again meets the next kill, so three times through the plans is each
/// plan with each kill.
fn planned(plans: &[Plan], number: usize) -> (Plan, Kill) {
    let (round, place) = (number / plans.len(), number % plans.len());
    (plans[place], KILLS[(place + round) % KILLS.len()])
}

fn assert_each_phase_meets_each_kill(plans: &[Plan], runs: usize) {
    let met: Vec<_> = (0..runs).map(|number| planned(plans, number)).collect();
    for what in ["payment", "top_up", "refund"] {
        for phase in PHASES {
            for kill in KILLS {
                let is_it = |(plan, by): &(Plan, Kill)| plan.what == what && plan.phase == phase && *by == kill;
                assert!(met.iter().any(is_it), "in {runs} runs {kill:?} never comes in {what}.{phase}");
            }
        }
    }
}

#[test]
fn three_times_through_the_plans_each_plan_meets_each_kill() {
    for seed in 0..20 {
        let plans = plans(seed);
        let runs = KILLS.len() * plans.len();
        assert_each_phase_meets_each_kill(&plans, runs);
        for plan in &plans {
            let met = (0..runs).map(|number| planned(&plans, number)).filter(|(of, _)| of == plan);
            let kills: Vec<Kill> = met.map(|(_, kill)| kill).collect();
            assert!(KILLS.iter().all(|kill| kills.contains(kill)), "{seed}: {plan:?} meets {kills:?} only");
        }
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What clients were told.
#[derive(Default)]
struct Told {
    trips: Vec<Uuid>,
    /// By payment: its status as the last answer said it.
    payments: BTreeMap<Uuid, String>,
}

/// A tenant with a rider whose trips are paid.
struct Scene {
    cluster: TestCluster,
    region: String,
    tenant: &'static str,
    currency: &'static str,
    rider: Rider,
    driver: Driver,
    office: Client,
    orders: PathBuf,
}

impl Scene {
    async fn new(cluster: &TestCluster, tenant: &'static str, currency: &'static str, orders: &Path) -> Self {
        let city = cluster.city(tenant);
        Self {
            region: city.home.clone(),
            rider: city.rider().await,
            driver: city.driver().await,
            office: cluster.office(tenant, &city.home).await,
            cluster: cluster.clone(),
            tenant,
            currency,
            orders: orders.to_owned(),
        }
    }

    async fn run(&self, plan: Plan, kill: Kill, rng: &mut StdRng, told: &mut Told) {
        let node = rng.random_range(1..=2);
        let trips = self.driven_trips(rng).await;
        told.trips.extend(&trips);
        let tokens: Vec<&str> = (0..TRIPS_PER_RUN)
            .map(|n| if n == 0 { plan.fault } else { CHARGE_FAULTS[rng.random_range(0..CHARGE_FAULTS.len())] })
            .collect();
        let (subject, calls): (Uuid, Vec<Attempt>) = match plan.what {
            "payment" => {
                let calls =
                    trips.iter().zip(tokens).enumerate().map(|(n, (trip, token))| match (n, rng.random_range(0..3)) {
                        (1.., 0) => Attempt::pay_from_wallet(*trip, Manner::drawn(rng)),
                        _ => Attempt::pay(*trip, token, Manner::drawn(rng)),
                    });
                (trips[0], calls.collect())
            }
            "top_up" => {
                let mut calls = vec![Attempt::top_up(plan.fault, rng)];
                calls.extend(trips.iter().map(|trip| Attempt::pay_from_wallet(*trip, Manner::drawn(rng))));
                (self.rider.id.0, calls)
            }
            _ => {
                let paid = join_all(trips.iter().map(|trip| self.paid(3 - node, *trip, plan.fault))).await;
                paid.iter().for_each(|payment| told.hear(payment));
                let calls = paid.iter().enumerate().map(|(n, payment)| {
                    let to = if n > 0 && rng.random_bool(0.3) { "wallet" } else { "source" };
                    Attempt::refund(payment, plan.fault, to, rng)
                });
                (paid[0]["id"].as_str().unwrap().parse().unwrap(), calls.collect())
            }
        };
        let deed = if kill == Kill::Node { "abort" } else { "hold" };
        let order = self.orders.join(subject.to_string());
        // Renamed into place, so that no node reads half of it.
        let draft = order.with_extension("draft");
        std::fs::write(&draft, format!("{}.{} {deed}", plan.what, plan.phase)).unwrap();
        std::fs::rename(&draft, &order).unwrap();
        let answers = join_all(calls.into_iter().map(|call| self.attempt(node, call)));
        let ((), answers) = tokio::join!(self.strike(&order, subject, plan, kill), answers);
        if plan.what != "refund" {
            answers.iter().flatten().for_each(|payment| told.hear(payment));
        }
        self.webhooks("evt", &trips).await;
    }

    /// A trip that is paid, whatever the run before left broken, and however often the PSP declines.
    async fn paid(&self, node: u16, trip: Uuid, token: &str) -> Value {
        loop {
            let begun = self.attempt(node, Attempt::pay(trip, token, Manner::TriesAgain)).await;
            let path = format!("/v1/payments/{}", begun.expect("a trip can be paid")["id"].as_str().unwrap());
            let payment = eventually_within(RECOVERY, "a payment comes to its end", async || {
                let payment: Value = self.rider.client.get(&path).await.map_err(|error| error.to_string())?;
                let has_ended = ["settled", "failed"].contains(&payment["status"].as_str().unwrap());
                if has_ended { Ok(payment) } else { Err(payment.to_string()) }
            })
            .await;
            if payment["status"] == "settled" {
                return payment;
            }
        }
    }

    /// Waits until a node says that it is at the phase, and kills there.
    async fn strike(&self, order: &Path, subject: Uuid, plan: Plan, kill: Kill) {
        let what = format!("{}: a node comes to {plan:?}", self.region);
        let (node, taken) = eventually_within(PHASE_COMES_WITHIN, &what, async || {
            let taken = [1, 2].map(|node| (node, order.with_extension(self.port(node))));
            taken.into_iter().find(|(_, taken)| taken.exists()).ok_or("no node has taken the order")
        })
        .await;
        match kill {
            Kill::Node => {
                let service = Service::RegionNode(node);
                let running = self.cluster.processes();
                let is_it = |(region, of, _): &&_| *region == self.region && *of == service;
                let process = &running.iter().find(is_it).unwrap().2;
                process.ended().await;
                assert_eq!(process.exited().unwrap().signal(), Some(SIGABRT), "{} {plan:?}", self.region);
                self.cluster.restart(&self.region, service).await.unwrap();
            }
            Kill::Postgres => {
                self.cluster.kill(&self.region, Service::Postgres).await.unwrap();
                self.cluster.restart(&self.region, Service::Postgres).await.unwrap();
            }
            Kill::Nobody => self.another_may_go_on(subject, plan).await,
        }
        std::fs::remove_file(&taken).unwrap();
    }

    /// Waits until the hold of the node that stands still is over, and, where it does not stand in the midst of a transaction,
    /// until another node has gone on in its place.
    async fn another_may_go_on(&self, subject: Uuid, plan: Plan) {
        let sql = match plan.what {
            "payment" => "SELECT next_attempt_at, now() FROM payments WHERE trip_id = $1 ORDER BY id DESC LIMIT 1",
            "top_up" => {
                "SELECT next_attempt_at, now() FROM payments WHERE rider_id = $1 AND kind = 'top_up' ORDER BY id DESC LIMIT 1"
            }
            _ => "SELECT next_attempt_at, now() FROM refunds WHERE payment_id = $1 ORDER BY id DESC LIMIT 1",
        };
        type Held = Option<(Option<OffsetDateTime>, OffsetDateTime)>;
        let look = async || -> Held {
            sqlx::query_as(sql).bind(subject).fetch_optional(&mut self.database().await).await.unwrap()
        };
        let Some((first @ Some(_), _)) = look().await else { return };
        let is_in_transaction = matches!(plan.phase, "recording" | "settling");
        eventually_within(LONGEST_HOLD, "another node may go on", async || match look().await {
            Some((until, now)) if until == first && (!is_in_transaction || until > Some(now)) => Err("it is held"),
            _ => Ok(()),
        })
        .await;
    }

    /// Makes a call at a node; what follows when that goes wrong is the client's manner.
    async fn attempt(&self, node: u16, attempt: Attempt) -> Option<Value> {
        let client = if attempt.by_office { &self.office } else { &self.rider.client };
        let at = |node: u16| client.through(&self.cluster.node_url(&self.region, node));
        let (here, there) = (at(node), at(3 - node));
        // Who is refused for a while is no victim of a crash and asks again; who is not answered follows his manner.
        let call = async |client: &Client| {
            eventually_within(PHASE_COMES_WITHIN, "a call is taken", async || {
                let call = client.call(Method::POST, &attempt.path).key(&attempt.key).body(&attempt.body);
                match call.answer().await {
                    Ok(answer) if matches!(answer.status, 429 | 503) => Err(answer.text()),
                    Ok(answer) if answer.status == 401 => {
                        let _ = client.renew(client.token().await.as_deref()).await;
                        Err("the token was old".to_owned())
                    }
                    answer => Ok(answer.ok()),
                }
            })
            .await
        };
        let first = match attempt.manner {
            Manner::AsksBothAtOnce => {
                let (first, second) = tokio::join!(call(&here), call(&there));
                first.filter(|answer| answer.status == 201).or(second)
            }
            Manner::TriesAgain | Manner::NeverComesBack => call(&here).await,
        };
        match first.filter(|answer| answer.status == 201) {
            Some(answer) => answer.json().ok(),
            None if attempt.manner == Manner::NeverComesBack => None,
            None => {
                let patient = there.with_patience(Patience::PATIENT);
                let answer = patient.call(Method::POST, &attempt.path).key(&attempt.key).body(&attempt.body).send();
                // A refund may be refused since its payment is not settled, and a payment since the wallet holds too little; that is
                // an answer too.
                answer.await.ok()?.json().ok()
            }
        }
    }

    /// The PSP tells of what it did for these trips, each twice at once, and until it is heard.
    async fn webhooks(&self, prefix: &str, trips: &[Uuid]) {
        let sql = sqlx::query_scalar(OPERATIONS_OF_TRIPS).bind(trips);
        let keys: Vec<String> = sql.fetch_all(&mut self.database().await).await.unwrap();
        for key in keys {
            let event = json!({"id": format!("{prefix}_{key}"), "type": "updated", "data": {"idempotency_key": key}});
            tokio::join!(self.deliver(1, &event), self.deliver(2, &event));
        }
    }

    async fn deliver(&self, node: u16, event: &Value) {
        let client = self.rider.client.through(&self.cluster.node_url(&self.region, node));
        let body = event.to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, WEBHOOK_SECRET.as_bytes());
        eventually("a webhook is taken", async || {
            let at = shared::clock::Clock::system().now().unix_timestamp();
            let tag = hmac::sign(&key, format!("{at}.{body}").as_bytes());
            let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            let call = client.call(Method::POST, "/v1/psp/webhooks/sandbox").unsigned().raw_body(body.clone());
            let call = call.header("sandbox-signature", format!("t={at},v1={hex}"));
            let answer = call.answer().await.map_err(|error| error.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }

    /// Trips of the scene's rider that were driven and not paid.
    async fn driven_trips(&self, rng: &mut StdRng) -> Vec<Uuid> {
        let fares = [(); TRIPS_PER_RUN].map(|()| (rng.random_range(500..50_000_i64), rng.random_range(0..400_i64)));
        let (rider, driver) = (self.rider.id.0, self.driver.id.0);
        let drives = Drives { tenant: self.tenant, currency: self.currency, rider, driver };
        drives.driven(&mut self.database().await, &fares).await.unwrap()
    }

    /// After recovery: nothing is left half done, and three books agree, payment by payment.
    async fn audit(&self, told: &Told) {
        eventually_within(RECOVERY, "every payment and refund has come to its end", async || {
            let mut conn = self.database().await;
            let open: i64 = sqlx::query_scalar(
                "SELECT (SELECT count(*) FROM payments WHERE status IN ('pending', 'unknown', 'authorized'))
                      + (SELECT count(*) FROM refunds WHERE status IN ('pending', 'unknown', 'authorized'))",
            )
            .fetch_one(&mut conn)
            .await
            .map_err(|error| error.to_string())?;
            if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
        })
        .await;
        let mut conn = self.database().await;
        for (what, sql) in [
            ("a payment and the PSP's charge differ", DIFFERENT_CHARGES),
            ("a payment and its ledger entry differ", DIFFERENT_SETTLEMENTS),
            ("a refund, the PSP's and its ledger entry differ", DIFFERENT_REFUNDS),
            ("refunds do not add up to what a payment says", DIFFERENT_SUMS),
            ("the PSP has what nobody here knows", UNKNOWN_OPERATIONS),
            ("a trip is charged twice", CHARGED_TWICE),
            ("an entry does not sum to zero", OFF_BALANCE),
            ("a wallet does not hold what was posted to it", DIFFERENT_WALLETS),
            ("a wallet was booked anew, though nothing was forgotten", IN_SUSPENSE),
        ] {
            let found: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut conn).await.unwrap();
            assert!(found.is_empty(), "{}: {what}: {found:?}", self.region);
        }
        let ended: BTreeMap<Uuid, String> =
            sqlx::query_as("SELECT id, status FROM payments").fetch_all(&mut conn).await.unwrap().into_iter().collect();
        for (id, said) in &told.payments {
            let is = ended.get(id).unwrap_or_else(|| panic!("{id} was acknowledged and is gone"));
            let holds = match said.as_str() {
                "settled" => matches!(is.as_str(), "settled" | "refunded" | "partially_refunded"),
                "failed" => is == "failed",
                _ => true,
            };
            assert!(holds, "{id} was told to be {said} and is {is}");
        }
        let known: i64 = sqlx::query_scalar("SELECT count(*) FROM trips WHERE id = ANY($1)")
            .bind(&told.trips)
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!(known, i64::try_from(told.trips.len()).unwrap(), "every trip is audited");
    }

    /// The settlements and refunds of the tenant as each region's ledger has them are those of its home.
    async fn audit_everywhere(&self, cluster: &TestCluster) {
        let mut conn = self.database().await;
        let own: Vec<(Uuid, String, i64)> = sqlx::query_as(
            "SELECT e.id, e.kind, coalesce(y.amount, r.amount)
             FROM (SELECT e.*, CASE WHEN e.refund_id IS NULL THEN e.payment_id END AS paid FROM ledger_entries e) e
                 LEFT JOIN payments y ON y.id = e.paid LEFT JOIN refunds r ON r.id = e.refund_id
             WHERE e.tenant_id = $1 AND e.kind IN ('settlement', 'refund')
             UNION ALL
             SELECT p.entry_id, 'wallet', p.amount FROM ledger_postings p WHERE p.tenant_id = $1 AND p.account LIKE 'rider:%'
             ORDER BY 1, 2",
        )
        .bind(self.tenant)
        .fetch_all(&mut conn)
        .await
        .unwrap();
        assert!(!own.is_empty(), "{} moved no money", self.tenant);
        for region in cluster.regions() {
            let mut conn = PgConnection::connect(&cluster.postgres_url(&region)).await.unwrap();
            let facts: Vec<(Uuid, String, i64)> = sqlx::query_as(
                "SELECT coalesce(entry_id, fact_id), kind, amount FROM ledger_facts WHERE tenant_id = $1 ORDER BY 1, 2",
            )
            .bind(self.tenant)
            .fetch_all(&mut conn)
            .await
            .unwrap();
            assert_eq!(facts, own, "{region} has another ledger of {}", self.tenant);
        }
    }

    async fn database(&self) -> PgConnection {
        let url = self.cluster.postgres_url(&self.region);
        eventually("the database answers", async || PgConnection::connect(&url).await).await
    }

    fn port(&self, node: u16) -> String {
        self.cluster.node_url(&self.region, node).rsplit(':').next().unwrap().to_owned()
    }
}

impl Told {
    fn hear(&mut self, payment: &Value) {
        let (id, status) = (payment["id"].as_str().unwrap(), payment["status"].as_str().unwrap());
        self.payments.insert(id.parse().unwrap(), status.to_owned());
    }
}

/// What a client does when it is not answered, or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    TriesAgain,
    AsksBothAtOnce,
    NeverComesBack,
}

impl Manner {
    fn drawn(rng: &mut StdRng) -> Self {
        [Self::TriesAgain, Self::AsksBothAtOnce, Self::NeverComesBack][rng.random_range(0..3)]
    }
}

struct Attempt {
    path: String,
    body: Value,
    key: String,
    by_office: bool,
    manner: Manner,
}

impl Attempt {
    fn pay(trip: Uuid, token: &str, manner: Manner) -> Self {
        let body = json!({"trip_id": trip, "method": {"type": "card", "token": token}});
        let key = Uuid::new_v4().to_string();
        Self { path: "/v1/payments".to_owned(), body, key, by_office: false, manner }
    }

    fn pay_from_wallet(trip: Uuid, manner: Manner) -> Self {
        let body = json!({"trip_id": trip, "method": "wallet"});
        let key = Uuid::new_v4().to_string();
        Self { path: "/v1/payments".to_owned(), body, key, by_office: false, manner }
    }

    fn top_up(token: &str, rng: &mut StdRng) -> Self {
        let body = json!({"amount": rng.random_range(500..100_000), "method": {"type": "card", "token": token}});
        let (key, manner) = (Uuid::new_v4().to_string(), Manner::drawn(rng));
        Self { path: "/v1/riders/me/wallet/top-ups".to_owned(), body, key, by_office: false, manner }
    }

    fn refund(payment: &Value, reason: &str, to: &str, rng: &mut StdRng) -> Self {
        let amount = rng.random_range(1..=payment["amount"]["amount"].as_i64().unwrap());
        let path = format!("/v1/payments/{}/refunds", payment["id"].as_str().unwrap());
        let body = json!({"amount": amount, "reason": reason, "to": to});
        let (key, manner) = (Uuid::new_v4().to_string(), Manner::drawn(rng));
        Self { path, body, key, by_office: true, manner }
    }
}

const OPERATIONS_OF_TRIPS: &str = "SELECT o.idempotency_key FROM payments p
    JOIN sandbox_psp_operations o ON o.idempotency_key = 'payment-' || p.id WHERE p.trip_id = ANY($1)
    UNION ALL SELECT o.idempotency_key FROM payments p JOIN refunds r ON r.payment_id = p.id
    JOIN sandbox_psp_operations o ON o.idempotency_key = 'refund-' || r.id WHERE p.trip_id = ANY($1)";

const DIFFERENT_CHARGES: &str = "SELECT p.id || ' ' || p.status FROM payments p
    LEFT JOIN sandbox_psp_operations o ON o.idempotency_key = 'payment-' || p.id AND o.outcome = 'succeeded'
    WHERE o.amount IS DISTINCT FROM CASE WHEN p.status <> 'failed' AND p.provider <> 'wallet' THEN p.amount END
       OR o.currency <> p.currency";

const DIFFERENT_SETTLEMENTS: &str = "SELECT p.id || ' ' || p.status FROM payments p
    WHERE (SELECT array_agg(-l.amount) FROM ledger_entries e JOIN ledger_postings l ON l.entry_id = e.id
           WHERE e.payment_id = p.id AND e.kind IN ('settlement', 'top_up')
             AND l.account LIKE CASE p.provider WHEN 'wallet' THEN 'rider:%' ELSE 'psp:%' END)
          IS DISTINCT FROM CASE WHEN p.status <> 'failed' THEN ARRAY[p.amount] END";

const DIFFERENT_REFUNDS: &str = "SELECT r.id || ' ' || r.status FROM refunds r JOIN payments p ON p.id = r.payment_id
    LEFT JOIN sandbox_psp_operations o ON o.idempotency_key = 'refund-' || r.id AND o.outcome = 'succeeded'
    WHERE o.amount IS DISTINCT FROM
              CASE WHEN r.status = 'settled' AND r.goes_to = 'source' AND p.provider <> 'wallet' THEN r.amount END
       OR (SELECT array_agg(l.amount) FROM ledger_entries e JOIN ledger_postings l ON l.entry_id = e.id
           WHERE e.refund_id = r.id AND l.account LIKE
               CASE WHEN r.goes_to = 'wallet' OR p.provider = 'wallet' THEN 'rider:%' ELSE 'psp:%' END)
          IS DISTINCT FROM CASE WHEN r.status = 'settled' THEN ARRAY[r.amount] END";

const DIFFERENT_SUMS: &str = "SELECT p.id || ' ' || p.refunded_amount FROM payments p
    WHERE p.refunded_amount
        <> (SELECT coalesce(sum(r.amount), 0) FROM refunds r WHERE r.payment_id = p.id AND r.status = 'settled')";

const UNKNOWN_OPERATIONS: &str = "SELECT o.idempotency_key FROM sandbox_psp_operations o
    WHERE NOT EXISTS (SELECT FROM payments p WHERE o.idempotency_key = 'payment-' || p.id)
      AND NOT EXISTS (SELECT FROM refunds r WHERE o.idempotency_key = 'refund-' || r.id)";

const CHARGED_TWICE: &str = "SELECT p.trip_id::text FROM payments p
    JOIN sandbox_psp_operations o ON o.idempotency_key = 'payment-' || p.id AND o.outcome = 'succeeded'
    WHERE p.kind <> 'top_up' GROUP BY p.trip_id HAVING count(*) > 1";

const OFF_BALANCE: &str = "SELECT entry_id::text FROM ledger_postings GROUP BY entry_id HAVING sum(amount) <> 0";

const DIFFERENT_WALLETS: &str = "SELECT coalesce(w.rider_id::text, posted.account)
    FROM (SELECT account, sum(amount) AS balance FROM ledger_postings WHERE account LIKE 'rider:%' GROUP BY account) posted
    FULL JOIN wallets w ON 'rider:' || w.rider_id = posted.account WHERE w.balance IS DISTINCT FROM posted.balance";

const IN_SUSPENSE: &str = "SELECT entry_id::text FROM ledger_postings WHERE account = 'tenant:suspense'";
