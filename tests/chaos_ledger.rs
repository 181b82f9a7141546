//! The ledger under everything a wide network and bad luck do to it, read like a set all the while: what was acknowledged comes
//! to be in every region and stays there, nothing else does, and nothing twice.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deploy_local::{Cluster, Service, TenantSpec};
use sqlx::{Connection, PgConnection};
use system_tests::{
    api::Client,
    harness::{TestCluster, eventually_within, tell},
    set_history::SetHistory,
    stories,
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];
const PATIENCE: Duration = Duration::from_secs(90);
const WRITE_EVERY: Duration = Duration::from_millis(20);
const READ_EVERY: Duration = Duration::from_millis(100);
const READ_WITHIN: Duration = Duration::from_secs(5);
const SYNCS: [Service; 2] = [Service::GlobalSync(1), Service::GlobalSync(2)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_ledger() {
    let spec = TenantSpec::demo(&REGIONS.map(str::to_owned)).into_iter().take(1);
    let builder = Cluster::builder().regions(REGIONS).global_syncs(2).tenants(spec);
    let cluster = TestCluster::start_as(builder).await;
    let stories = stories!(cluster; whatever_happens_every_acknowledged_settlement_is_everywhere_once);
    tell(&cluster, 1, stories).await;
}

async fn whatever_happens_every_acknowledged_settlement_is_everywhere_once(cluster: TestCluster) {
    make_wide(&cluster);
    let history = History::default();
    let readers = Busy::reading(&cluster, &history, &REGIONS);
    let writers = Busy::writing(&cluster, &history, &REGIONS);
    history.grows(100).await;
    cluster.link("us-east", "ap-south").cut().unwrap();
    history.grows(60).await;
    cluster.one_way("eu-west", "us-east").cut().unwrap();
    history.grows(60).await;
    make_wide(&cluster);
    for region in ["us-east", "eu-west"] {
        let leader = leader(&cluster, region).await;
        cluster.kill(region, leader).await.unwrap();
        history.grows(60).await;
        cluster.restart(region, leader).await.unwrap();
    }
    let frozen = leader(&cluster, "ap-south").await;
    cluster.freeze("ap-south", frozen).unwrap();
    eventually_within(PATIENCE, "the standby leads", async || {
        let standby = SYNCS.into_iter().find(|sync| *sync != frozen).unwrap();
        if leads(&cluster, "ap-south", standby).await { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    history.grows(60).await;
    cluster.thaw("ap-south", frozen).unwrap();
    cluster.kill("eu-west", Service::Postgres).await.unwrap();
    history.grows(40).await;
    cluster.restart("eu-west", Service::Postgres).await.unwrap();
    history.grows(60).await;
    writers.stop().await;
    history.is_held_everywhere(&cluster).await;

    // What a region told nobody is gone with its database; so the backup lacks only what the others have.
    cluster.backup("us-east", "old").await.unwrap();
    let writers = Busy::writing(&cluster, &history, &REGIONS);
    history.grows(100).await;
    writers.stop().await;
    history.is_held_everywhere(&cluster).await;
    readers.stop().await;
    let others = ["eu-west", "ap-south"];
    let readers = Busy::reading(&cluster, &history, &others);
    let elsewhere = Busy::writing(&cluster, &history, &others);
    cluster.restore("us-east", "old").await.unwrap();
    history.begins_anew("us-east");
    let reader = Busy::reading(&cluster, &history, &["us-east"]);
    let writer = Busy::writing(&cluster, &history, &["us-east"]);
    history.grows(100).await;
    elsewhere.stop().await;
    writer.stop().await;
    history.is_held_everywhere(&cluster).await;
    readers.stop().await;
    reader.stop().await;
}

/// What was settled, and what each region's ledger showed of it meanwhile.
#[derive(Clone, Default)]
struct History {
    facts: Arc<Mutex<SetHistory<Uuid>>>,
}

impl History {
    fn acknowledged(&self) -> BTreeSet<Uuid> {
        self.facts.lock().unwrap().acknowledged()
    }

    /// A region's ledger is another one from now on.
    fn begins_anew(&self, region: &str) {
        self.facts.lock().unwrap().begins_anew(region);
    }

    /// Waits until a region's ledger was read once more, from the beginning of the read on.
    async fn is_read_again(&self, region: &str) {
        let reads = || self.facts.lock().unwrap().count_reads(region);
        let before = reads();
        eventually_within(PATIENCE, &format!("{region} is read"), async || match reads() - before {
            // One may have been under way.
            2.. => Ok(()),
            few => Err(format!("{few} more reads")),
        })
        .await;
    }

    /// Waits until so many more settlements are acknowledged.
    async fn grows(&self, more: usize) {
        let before = self.acknowledged().len();
        eventually_within(PATIENCE, "settlements go on", async || {
            let grown = self.acknowledged().len() - before;
            if grown >= more { Ok(()) } else { Err(format!("{grown} of {more}")) }
        })
        .await;
    }

    async fn is_held_everywhere(&self, cluster: &TestCluster) {
        let acknowledged = self.acknowledged();
        for region in REGIONS {
            eventually_within(PATIENCE, &format!("{region} has every acknowledged settlement"), async || {
                let held = held(&cluster.postgres_url(region)).await.map_err(|error| error.to_string())?;
                let lost = acknowledged.difference(&held).count();
                if lost == 0 { Ok(()) } else { Err(format!("{lost} of {} are lost", acknowledged.len())) }
            })
            .await;
        }
        cluster.converged().await;
        for region in REGIONS {
            self.is_read_again(region).await;
            let verdict = self.facts.lock().unwrap().judge(region).unwrap();
            let wrong = [&verdict.lost, &verdict.never_read, &verdict.gone, &verdict.unwritten];
            assert!(wrong.iter().all(|facts| facts.is_empty()), "{region}: {verdict:?}");
            assert!(verdict.stable >= acknowledged.len(), "{region}: {verdict:?}");
            assert!(verdict.longest_stale < PATIENCE, "{region}: {verdict:?}");
        }
        let first = held(&cluster.postgres_url(REGIONS[0])).await.unwrap();
        for region in REGIONS {
            let held = held(&cluster.postgres_url(region)).await.unwrap();
            assert_eq!(held, first, "{region} holds the same set");
            // One number, one fact, in the log as in the ledger; nothing waits and nothing was set aside.
            let twice: i64 = count(
                cluster,
                region,
                "SELECT (SELECT count(*) FROM repl_log WHERE stream = 'ledger') - (SELECT count(*) FROM ledger_facts)
                      + (SELECT count(*) FROM repl_outbox) + (SELECT count(*) FROM repl_quarantine)",
            )
            .await;
            assert_eq!(twice, 0, "{region}");
        }
    }
}

/// Does something in some regions until told to stop.
struct Busy {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Busy {
    /// Commits settlements, as region-node does.
    fn writing(cluster: &TestCluster, history: &History, regions: &[&str]) -> Self {
        Self::start(regions, |region, stop| {
            let (url, history) = (cluster.postgres_url(region), history.clone());
            cluster.tasks.spawn(async move {
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    if connection.is_none() {
                        connection = PgConnection::connect(&url).await.ok();
                    }
                    if let Some(open) = &mut connection {
                        let fact = Uuid::now_v7();
                        history.facts.lock().unwrap().tries(fact);
                        match sqlx::query(SETTLE).bind(fact).execute(open).await {
                            Ok(_) => history.facts.lock().unwrap().is_acknowledged(fact, Instant::now()),
                            Err(_) => connection = None,
                        }
                    }
                    sleep(WRITE_EVERY).await;
                }
            })
        })
    }

    /// Reads whole ledgers.
    fn reading(cluster: &TestCluster, history: &History, regions: &[&str]) -> Self {
        Self::start(regions, |region, stop| {
            let (url, region, history) = (cluster.postgres_url(region), region.to_owned(), history.clone());
            cluster.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    // A region that is down is read when it is back.
                    if let Ok(Ok(held)) = timeout(READ_WITHIN, held(&url)).await {
                        history.facts.lock().unwrap().reads(&region, began, &held);
                    }
                    sleep(READ_EVERY).await;
                }
            })
        })
    }

    fn start(regions: &[&str], task: impl Fn(&str, Arc<AtomicBool>) -> tokio::task::JoinHandle<()>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = regions.iter().map(|region| task(region, stop.clone())).collect();
        Self { stop, tasks }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

const SETTLE: &str = "INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body)
    VALUES ($1, 'ledger', 'settlement', 'manhattan-cabs', 1, 0, convert_to(json_build_object(
        'fact_id', $1, 'payment_id', $1, 'trip_id', $1, 'tenant', 'manhattan-cabs', 'amount', 1250, 'currency', 'USD',
        'settled_at', '2026-01-01T00:00:00Z')::text, 'UTF8'))";

/// The network between continents, with nothing cut.
fn make_wide(cluster: &TestCluster) {
    cluster.all_links().heal().unwrap();
    for (a, b, ms) in [("us-east", "eu-west", 40), ("us-east", "ap-south", 120), ("eu-west", "ap-south", 90)] {
        cluster.link(a, b).delay(Duration::from_millis(ms)).unwrap();
    }
    cluster.all_links().loss(0.01).unwrap();
}

async fn held(url: &str) -> sqlx::Result<BTreeSet<Uuid>> {
    let mut connection = PgConnection::connect(url).await?;
    let facts = sqlx::query_scalar("SELECT fact_id FROM ledger_facts").fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(facts.into_iter().collect())
}

async fn count(cluster: &TestCluster, region: &str, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(&cluster.postgres_url(region)).await.unwrap();
    let count = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    count
}

async fn leader(cluster: &TestCluster, region: &str) -> Service {
    eventually_within(PATIENCE, &format!("{region} has a leader"), async || {
        for sync in SYNCS {
            if leads(cluster, region, sync).await {
                return Ok(sync);
            }
        }
        Err("nobody leads".to_owned())
    })
    .await
}

/// Whether an instance says that it leads; one that is killed or frozen says nothing.
async fn leads(cluster: &TestCluster, region: &str, sync: Service) -> bool {
    let Service::GlobalSync(number) = sync else { return false };
    let client = Client::new(&cluster.sync_url(region, number));
    let answer = timeout(Duration::from_secs(2), client.sync_status()).await;
    answer.is_ok_and(|status| status.is_ok_and(|status| status.leader))
}
