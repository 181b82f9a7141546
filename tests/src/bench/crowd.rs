//! Drivers by the ten thousand, each on a socket of its own, in processes of their own: one process may open only so many
//! files. What they hear and how they fare comes back line by line.

use std::{
    collections::{BTreeMap, HashMap},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::json;
use shared::{clock::Clock, geo::Point, ids::RideId};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter},
    process::{Child, ChildStdin, Command},
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval, interval_at},
};
use tokio_util::task::TaskTracker;

use super::{Line, frame, line::retry_after};

/// First handshakes under way at once in one process; who lost his connection waits for nobody.
const OPENING: usize = 64;
/// What a process may have to say before it drops something.
const UNSAID: usize = 100_000;
const SAYS_EVERY: Duration = Duration::from_millis(250);
/// As Socket.IO's client does: from one second, doubled up to five, each half as long to half as long again.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What a crowd does; its first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    pub tenant: String,
    /// Where to connect, in turn.
    pub urls: Vec<String>,
    /// Each says so often where he is.
    pub report_every: Duration,
    /// Whether offers are accepted, at once.
    pub accepts: bool,
}

/// One driver; a line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    pub token: String,
    pub at: Point,
}

/// How a crowd fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub connected: usize,
    /// What went wrong since the start, and how often.
    pub failed: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    State(State),
    Offered { ride_id: RideId, at_us: i64 },
}

/// A crowd in one or more processes, which end when this is dropped.
pub struct Crowd {
    heard: Arc<Mutex<Heard>>,
    processes: Vec<(Child, ChildStdin)>,
}

#[derive(Default)]
struct Heard {
    states: Vec<State>,
    offered: HashMap<RideId, i64>,
}

impl Crowd {
    /// Starts this very program so many times and deals the members out.
    pub async fn gather(
        orders: &Orders,
        members: &[Member],
        processes: usize,
        tasks: &TaskTracker,
    ) -> anyhow::Result<Self> {
        let heard = Arc::new(Mutex::new(Heard { states: vec![State::default(); processes], ..Heard::default() }));
        let mut crowd = Self { heard, processes: Vec::new() };
        for (number, members) in members.chunks(members.len().div_ceil(processes)).enumerate() {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("--crowd").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn()?;
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
            let (heard, mut lines) = (crowd.heard.clone(), BufReader::new(stdout.context("it is piped")?).lines());
            tasks.spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    match serde_json::from_str(&line) {
                        Ok(Said::State(state)) => lock(&heard).states[number] = state,
                        Ok(Said::Offered { ride_id, at_us }) => {
                            lock(&heard).offered.entry(ride_id).or_insert(at_us);
                        }
                        Err(error) => tracing::warn!(%error, "a crowd says what cannot be read: {line}"),
                    }
                }
            });
            let mut stdin = BufWriter::new(stdin.context("it is piped")?);
            stdin.write_all(format!("{}\n", serde_json::to_string(orders)?).as_bytes()).await?;
            for member in members {
                stdin.write_all(format!("{}\n", serde_json::to_string(member)?).as_bytes()).await?;
            }
            stdin.write_all(b"\n").await?;
            stdin.flush().await?;
            crowd.processes.push((child, stdin.into_inner()));
        }
        Ok(crowd)
    }

    /// All processes together.
    pub fn state(&self) -> State {
        let mut sum = State::default();
        for state in &lock(&self.heard).states {
            sum.connected += state.connected;
            for (what, times) in &state.failed {
                *sum.failed.entry(what.clone()).or_default() += times;
            }
        }
        sum
    }

    /// Waits until so many are connected; how long that took.
    pub async fn until_connected(&self, count: usize, within: Duration) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            let state = self.state();
            if state.connected >= count {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < within, "{} of {count} are connected: {:?}", state.connected, state.failed);
            tokio::time::sleep(SAYS_EVERY / 4).await;
        }
    }

    /// The first offer of each ride, in microseconds since 1970; asked once, each is told once.
    pub fn take_offers(&self) -> HashMap<RideId, i64> {
        std::mem::take(&mut lock(&self.heard).offered)
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Microseconds since 1970: the one clock all processes of a machine share.
pub fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).expect("times on the clock are within 290,000 years of 1970")
}

/// Is a crowd until its input ends.
pub async fn serve() -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let orders = input.next_line().await?.context("no orders")?;
    let (says, mut said) = mpsc::channel(UNSAID);
    let drive = Arc::new(Drive {
        orders: serde_json::from_str(&orders)?,
        connected: AtomicUsize::new(0),
        failed: Mutex::default(),
        says,
        opening: Semaphore::new(OPENING),
    });
    let tasks = TaskTracker::new();
    let mut members = 0;
    while let Some(line) = input.next_line().await?.filter(|line| !line.is_empty()) {
        let member: Member = serde_json::from_str(&line)?;
        tasks.spawn(drive.clone().take_part(member, members));
        members += 1;
    }
    let (mut output, mut ticks) = (BufWriter::new(tokio::io::stdout()), interval(SAYS_EVERY));
    loop {
        let line = tokio::select! {
            Some(offer) = said.recv() => offer,
            _ = ticks.tick() => Said::State(drive.state()),
            _ = input.next_line() => return Ok(()),
        };
        output.write_all(format!("{}\n", serde_json::to_string(&line)?).as_bytes()).await?;
        if said.is_empty() {
            output.flush().await?;
        }
    }
}

struct Drive {
    orders: Orders,
    connected: AtomicUsize,
    failed: Mutex<BTreeMap<String, u64>>,
    says: mpsc::Sender<Said>,
    opening: Semaphore,
}

/// An offer as far as it matters here.
#[derive(Deserialize)]
struct Offer {
    ride_id: RideId,
}

/// What an acceptance is answered with: a trip, or a problem with a code.
#[derive(Deserialize)]
struct Answer {
    code: Option<String>,
}

impl Drive {
    fn state(&self) -> State {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        State { connected: self.connected.load(Ordering::Relaxed), failed }
    }

    fn failed(&self, what: String) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// Connects, and again whenever the connection is lost, to one of the other nodes.
    async fn take_part(self: Arc<Self>, member: Member, number: usize) {
        let urls = &self.orders.urls;
        let (mut url, mut wait, mut is_first) = (number % urls.len(), FIRST_WAIT, true);
        loop {
            // The semaphore is never closed.
            let permit = if is_first { self.opening.acquire().await.ok() } else { None };
            let line = Line::connect(&urls[url], &self.orders.tenant, &member.token).await;
            drop(permit);
            match line {
                Ok(line) => {
                    (wait, is_first) = (FIRST_WAIT, false);
                    self.connected.fetch_add(1, Ordering::Relaxed);
                    self.hold(&line, member.at).await;
                    self.connected.fetch_sub(1, Ordering::Relaxed);
                    self.failed("connection lost".to_owned());
                }
                Err(error) => match retry_after(&error) {
                    // Those told the same come back at different times all the same, and never sooner.
                    Some(asked_for) => {
                        self.failed("told to come back later".to_owned());
                        tokio::time::sleep(asked_for.mul_f64(rand::random_range(1.0..1.5))).await;
                        continue;
                    }
                    None => self.failed(error.root_cause().to_string()),
                },
            }
            url = (url + rand::random_range(1..urls.len().max(2))) % urls.len();
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.5))).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Reports and listens until the connection is over.
    async fn hold(&self, line: &Line, at: Point) {
        let reports = async {
            let every = self.orders.report_every;
            // The first at once, the others somewhere in between.
            let mut ticks = interval_at(Instant::now() + every.mul_f64(rand::random()), every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while line.send(&report(at)).await.is_ok() {
                ticks.tick().await;
            }
        };
        tokio::select! {
            () = reports => {}
            () = line.listen(|text| self.hear(line, text)) => {}
        }
    }

    fn hear(&self, line: &Line, text: &str) {
        const ACCEPTED: &str = "431";
        if let Some(answer) = text.strip_prefix(ACCEPTED) {
            if let Ok((Answer { code: Some(code) },)) = serde_json::from_str(answer) {
                self.failed(format!("accepting: {code}"));
            }
        } else if text.starts_with(r#"42["ride:offer","#)
            && let Ok((_, Offer { ride_id })) = serde_json::from_str::<(IgnoredAny, Offer)>(&text[2..])
        {
            let at_us = micros(Clock::system().now());
            if self.says.try_send(Said::Offered { ride_id, at_us }).is_err() {
                self.failed("unsaid".to_owned());
            }
            if self.orders.accepts {
                let mut bytes = Vec::new();
                frame(&format!(r#"421["ride:accept",{}]"#, json!({"ride_id": ride_id})), &mut bytes);
                if line.send_now(&bytes).is_err() {
                    self.failed("accepting: the socket is full".to_owned());
                }
            }
        }
    }
}

fn report(at: Point) -> Vec<u8> {
    let recorded_at = Clock::system().now().format(&Rfc3339).unwrap_or_default();
    let mut bytes = Vec::new();
    let position = json!({"lat": at.lat, "lng": at.lng, "heading": 10.0, "recorded_at": recorded_at});
    frame(&format!(r#"42["location:update",{position}]"#), &mut bytes);
    bytes
}
