//! A running cluster: what its programs and tests ask of it. Starting one is in `start`, breaking it in `drills`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;

use crate::cluster_file::ClusterFile;
use crate::failure::Failure;
use crate::guard::Guard;
use crate::link::Links;
use crate::ports::Block;
use crate::process::Process;
use crate::region::{Credentials, Region, Setup};
use crate::service::Service;
use crate::start::Builder;
use crate::tenants::Tenant;
use crate::{postgres, redis, state};

/// How long a program has to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// Regions with everything in them, on this machine. Dropping it ends them all and removes their files.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) setup: Setup,
    pub(crate) regions: Mutex<BTreeMap<String, Region>>,
    pub(crate) processes: Mutex<BTreeMap<(String, Service), Arc<Process>>>,
    pub(crate) tenants: Mutex<Vec<Tenant>>,
    pub(crate) links: Option<Links>,
    pub(crate) http: reqwest::Client,
    /// Held by what starts or stops programs, so that two drills do not mix.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) guard: Option<Guard>,
    pub(crate) _block: Block,
}

impl Cluster {
    /// Describes a cluster to start.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The names of the regions, in the order in which they were named.
    pub fn regions(&self) -> Vec<String> {
        let mut regions: Vec<Region> = lock(&self.regions).values().cloned().collect();
        regions.sort_by_key(|region| region.index);
        regions.into_iter().map(|region| region.name).collect()
    }

    /// Where a region's first region-node answers.
    ///
    /// # Panics
    /// Like all accessors, when there is no such region.
    pub fn http_url(&self, region: &str) -> String {
        self.node_url(region, 1)
    }

    /// Where one of a region's region-nodes answers, counted from 1.
    pub fn node_url(&self, region: &str, node: u16) -> String {
        self.setup.http_url(&self.known(region), node)
    }

    /// Where one of a region's edges answers, counted from 1.
    pub fn edge_url(&self, region: &str, edge: u16) -> String {
        self.setup.edge_url(&self.known(region), edge)
    }

    /// Where a region's first global-sync tells its status: `/status` is to be added.
    pub fn status_url(&self, region: &str) -> String {
        self.sync_url(region, 1)
    }

    /// Where one of a region's global-syncs tells its status, counted from 1.
    pub fn sync_url(&self, region: &str, sync: u16) -> String {
        self.setup.status_url(&self.known(region), sync)
    }

    pub fn quic_addr(&self, region: &str) -> String {
        self.setup.quic_addr(&self.known(region))
    }

    /// A region's database, for a superuser who sees all tenants.
    pub fn postgres_url(&self, region: &str) -> String {
        self.postgres_url_as(region, "postgres")
    }

    /// A region's database, for one of its roles.
    pub fn postgres_url_as(&self, region: &str, role: &str) -> String {
        postgres::url(role, self.setup.ports.postgres(self.known(region).index))
    }

    pub fn redis_url(&self, region: &str) -> String {
        redis::url(self.setup.ports.redis(self.known(region).index))
    }

    pub fn operator(&self) -> &Credentials {
        &self.setup.operator
    }

    pub fn tenants(&self) -> Vec<Tenant> {
        lock(&self.tenants).clone()
    }

    /// A tenant that was created at the start.
    ///
    /// # Panics
    /// When there is no such tenant.
    pub fn tenant(&self, id: &str) -> Tenant {
        lock(&self.tenants).iter().find(|tenant| tenant.id == id).unwrap_or_else(|| panic!("no tenant {id}")).clone()
    }

    /// The file that says everything a program needs: `cluster.json`.
    pub fn cluster_file(&self) -> PathBuf {
        self.setup.state.cluster_file()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.setup.state.dir.clone()
    }

    /// The folder with `ca.pem`, `node.pem`, `node.key`, `signing.pem` and `signing.key` of a region.
    pub fn certificates(&self, region: &str) -> PathBuf {
        self.setup.certificates(region)
    }

    /// What a program said so far goes here.
    pub fn log_file(&self, region: &str, service: Service) -> PathBuf {
        self.setup.state.log(&format!("{region}/{service}"))
    }

    /// The number of a program's process, when it runs.
    pub fn pid(&self, region: &str, service: Service) -> Option<u32> {
        self.process(region, service).ok().filter(|process| process.is_running()).map(|process| process.id.pid)
    }

    /// Ends every program, the services before the databases, and removes all files.
    pub async fn stop(self) {
        self.end().await;
    }

    pub(crate) async fn end(&self) {
        let _alone = self.changing.lock().await;
        let processes = std::mem::take(&mut *lock(&self.processes));
        let (databases, services): (Vec<_>, Vec<_>) =
            processes.into_iter().partition(|((_, service), _)| service.is_database());
        join_all(services.iter().map(|(_, process)| process.stop(GRACE))).await;
        join_all(databases.iter().map(|(_, process)| process.abort(GRACE))).await;
        let owner = state::Owner::read(&self.setup.state.dir);
        state::remove(&self.setup.state.dir, owner.as_ref());
    }

    /// Every program with its process, for whoever shows or watches them.
    pub fn processes(&self) -> Vec<(String, Service, Arc<Process>)> {
        lock(&self.processes)
            .iter()
            .map(|((region, service), process)| (region.clone(), *service, process.clone()))
            .collect()
    }

    pub(crate) fn process(&self, region: &str, service: Service) -> anyhow::Result<Arc<Process>> {
        let process = lock(&self.processes).get(&(region.to_owned(), service)).cloned();
        process
            .with_context(|| format!("there is no {region}/{service}; the regions are {}", self.regions().join(", ")))
    }

    pub(crate) fn region(&self, name: &str) -> anyhow::Result<Region> {
        let region = lock(&self.regions).get(name).cloned();
        region.ok_or_else(|| {
            Failure::new(format!("there is no region {name}"), format!("the regions are {}", self.regions().join(", ")))
                .into()
        })
    }

    /// All regions but one.
    pub(crate) fn others(&self, name: &str) -> Vec<Region> {
        lock(&self.regions).values().filter(|region| region.name != name).cloned().collect()
    }

    /// Writes `cluster.json` as things are now.
    pub(crate) fn write_file(&self) -> anyhow::Result<()> {
        state::write_json(&self.cluster_file(), &ClusterFile::of(self))
    }

    fn known(&self, name: &str) -> Region {
        self.region(name).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Cluster {
    /// The guard does the work; a test that panics keeps its logs.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(kept) = keep_logs(&self.setup.state.dir)
        {
            eprintln!("logs are kept in {}", kept.display());
        }
        drop(self.guard.take());
    }
}

/// Saves the logs of a cluster that failed from being removed with it; where they are now.
pub(crate) fn keep_logs(state_dir: &Path) -> Option<PathBuf> {
    let kept = state_dir.join(state::KEPT_LOGS);
    let _ = std::fs::remove_dir_all(&kept);
    std::fs::rename(state_dir.join("logs"), &kept).ok().map(|()| kept)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
