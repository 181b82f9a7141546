//! Starting a cluster, and one region of it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::try_join_all;

use crate::account::{Account, make_folder};
use crate::certificates::Authority;
use crate::cluster::{Cluster, keep_logs, lock};
use crate::failure::Failure;
use crate::guard::Guard;
use crate::link::{Links, Route};
use crate::ports::{Block, MAX_INSTANCES, MAX_NODES, MAX_REGIONS, Port, Ports, check_free, of_links, of_region};
use crate::postgres::{self, Durability, Postgres};
use crate::process::Process;
use crate::progress::Progress;
use crate::redis;
use crate::region::{Credentials, Region, Setup};
use crate::secrets;
use crate::service::Service;
use crate::state::{self, State};
use crate::tenants::{self, TenantSpec};
use crate::tools::{Programs, Tools};
use crate::wait::until;

/// How long a program has to become ready; slow machines take their time.
const READY: Duration = Duration::from_secs(120);
/// How long a new tenant may take to be known in all regions.
const KNOWN: Duration = Duration::from_secs(60);

/// What to start. Without a word: the three regions of the demo with its tenants, on free ports, in a folder of its own.
#[derive(Clone, Debug)]
pub struct Builder {
    regions: Vec<String>,
    region_nodes: u16,
    global_syncs: u16,
    edges: u16,
    links: bool,
    tenants: Option<Vec<TenantSpec>>,
    port_base: Option<u16>,
    state_dir: Option<PathBuf>,
    programs: Option<PathBuf>,
    durability: Durability,
    postgres_settings: Vec<String>,
    progress: Progress,
    node_env: Vec<(String, String)>,
    sync_env: Vec<(String, String)>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            regions: ["us-east", "eu-west", "ap-south"].map(str::to_owned).to_vec(),
            region_nodes: 1,
            global_syncs: 1,
            edges: 0,
            links: true,
            tenants: None,
            port_base: None,
            state_dir: None,
            programs: None,
            durability: Durability::ProcessCrash,
            postgres_settings: Vec::new(),
            progress: Progress::silent(),
            node_env: Vec::new(),
            sync_env: Vec::new(),
        }
    }
}

impl Builder {
    #[must_use]
    pub fn regions<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.regions = names.into_iter().map(Into::into).collect();
        self
    }

    /// How many region-nodes each region has; none starts the databases alone.
    #[must_use]
    pub fn region_nodes(mut self, count: u16) -> Self {
        self.region_nodes = count;
        self
    }

    /// How many instances of global-sync each region has: one leads, the others stand by.
    #[must_use]
    pub fn global_syncs(mut self, count: u16) -> Self {
        self.global_syncs = count;
        self
    }

    /// How many region-nodes of the role `edge` each region has beside its whole ones.
    #[must_use]
    pub fn edges(mut self, count: u16) -> Self {
        self.edges = count;
        self
    }

    /// Whether regions reach each other through relays, so that links can be cut and slowed.
    #[must_use]
    pub fn links(mut self, through_relays: bool) -> Self {
        self.links = through_relays;
        self
    }

    /// Other tenants than the demo's.
    #[must_use]
    pub fn tenants(mut self, tenants: impl IntoIterator<Item = TenantSpec>) -> Self {
        self.tenants = Some(tenants.into_iter().collect());
        self
    }

    /// Fixed ports instead of free ones.
    #[must_use]
    pub fn port_base(mut self, base: u16) -> Self {
        self.port_base = Some(base);
        self
    }

    /// Where the cluster writes; a folder of its own beside the programs unless given.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Where `region-node`, `global-sync` and `local` lie.
    #[must_use]
    pub fn programs(mut self, folder: impl Into<PathBuf>) -> Self {
        self.programs = Some(folder.into());
        self
    }

    /// Whether commits survive a power cut; they survive a killed process in any case.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// One more line of every Postgres' configuration; it goes over what is there.
    #[must_use]
    pub fn postgres_setting(mut self, line: &str) -> Self {
        self.postgres_settings.push(line.to_owned());
        self
    }

    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// One more setting for every region-node, with its whole name: `REGION_NODE_…`.
    #[must_use]
    pub fn node_env(mut self, name: &str, value: &str) -> Self {
        self.node_env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more setting for every global-sync, with its whole name: `GLOBAL_SYNC_…`.
    #[must_use]
    pub fn sync_env(mut self, name: &str, value: &str) -> Self {
        self.sync_env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts everything and returns when every program is ready and every tenant known in every region. When it fails,
    /// or is dropped half-way, nothing it started stays.
    pub async fn start(self) -> anyhow::Result<Cluster> {
        self.check()?;
        let programs = self.programs.clone().map_or_else(Programs::discover, |folder| Ok(Programs { folder }))?;
        let guard_program = programs.get("local")?;
        for (name, count) in [("region-node", self.region_nodes), ("global-sync", self.global_syncs)] {
            if count > 0 {
                programs.get(name)?;
            }
        }
        let tools = Tools::ensure(&self.progress)?;
        let account = Account::for_postgres()?;
        let state_dir = self.state_dir.clone().unwrap_or_else(|| own_folder(&programs));
        state::settle(&state_dir)?;
        let block = self.take_ports()?;
        let state = State::claim(&state_dir, account.as_ref(), block.ports.base)?;
        let guard = Guard::start(&guard_program, &state)?;
        let setup = Setup {
            cluster_id: format!("local-{}", block.ports.base),
            postgres: Postgres {
                programs: tools.postgres.clone(),
                account,
                durability: self.durability,
                settings: self.postgres_settings.clone(),
            },
            operator: Credentials {
                client_id: "operator".to_owned(),
                client_secret: format!("op_{}", secrets::hex(24)),
            },
            ports: block.ports,
            region_nodes: self.region_nodes,
            global_syncs: self.global_syncs,
            edges: self.edges,
            links: self.links,
            node_env: self.node_env.clone(),
            sync_env: self.sync_env.clone(),
            state,
            programs,
            tools,
        };
        let regions =
            self.regions.iter().zip(0..).map(|(name, index)| (name.clone(), Region::new(name, index))).collect();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = Cluster {
            setup,
            regions: Mutex::new(regions),
            processes: Mutex::default(),
            tenants: Mutex::default(),
            links: self.links.then(Links::new).transpose()?,
            http: reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?,
            changing: tokio::sync::Mutex::new(()),
            guard: Some(guard),
            _block: block,
        };
        let started = self.start_in(&cluster).await;
        if started.is_err()
            && let Some(kept) = keep_logs(&cluster.setup.state.dir)
        {
            self.progress.note(&format!("logs are kept in {}", kept.display()));
        }
        started.map(|()| cluster)
    }

    async fn start_in(&self, cluster: &Cluster) -> anyhow::Result<()> {
        self.progress.note("preparing a database");
        cluster.setup.postgres.prepare(&cluster.template()).await?;
        cluster.setup.write_roads()?;
        let authority = Authority::create(&cluster.authority(), &cluster.setup.cluster_id)?;
        for name in cluster.regions() {
            authority.issue(&name, &cluster.setup.cluster_id)?;
            cluster.open_links(&cluster.region(&name)?, false).await?;
        }
        let names = cluster.regions();
        try_join_all(names.iter().map(|name| cluster.start_region(name, &self.progress))).await?;
        if self.region_nodes > 0 {
            let wanted = self.tenants.clone().unwrap_or_else(|| TenantSpec::demo(&names));
            self.progress.note(&format!("creating {} tenants", wanted.len()));
            cluster.create_tenants(&wanted).await?;
        }
        cluster.write_file()
    }

    fn check(&self) -> anyhow::Result<()> {
        let mut names = self.regions.clone();
        names.sort();
        names.dedup();
        let count = self.regions.len();
        if count == 0 || names.len() != count || count > usize::from(MAX_REGIONS) {
            let cause =
                format!("REGIONS={} names no region, one twice, or more than {MAX_REGIONS}", self.regions.join(","));
            return Err(Failure::new(cause, "name each once, for example REGIONS=us-east,eu-west").into());
        }
        for name in &self.regions {
            check_name(name)?;
        }
        if self.region_nodes > MAX_NODES || self.global_syncs.max(self.edges) > MAX_INSTANCES {
            return Err(Failure::new(
                format!("a region has room for {MAX_NODES} region-nodes and {MAX_INSTANCES} of each other program"),
                "start fewer",
            )
            .into());
        }
        Ok(())
    }

    fn take_ports(&self) -> anyhow::Result<Block> {
        let needed = |ports: Ports| self.needed_ports(ports);
        match self.port_base {
            None => Block::any(needed),
            Some(base) => {
                let block = Block::at(base)?;
                check_free(&needed(block.ports), base)?;
                Ok(block)
            }
        }
    }

    fn needed_ports(&self, ports: Ports) -> Vec<(String, Port)> {
        let services = Service::all(self.region_nodes, self.global_syncs, self.edges);
        let regions: Vec<(&str, u16)> = self.regions.iter().map(String::as_str).zip(0..).collect();
        let mut needed: Vec<_> =
            regions.iter().flat_map(|(name, index)| of_region(ports, name, *index, &services)).collect();
        if self.links {
            let pairs = regions.iter().flat_map(|from| regions.iter().map(move |to| (*from, *to)));
            needed.extend(of_links(ports, pairs.filter(|(from, to)| from != to)));
        }
        needed
    }
}

impl Cluster {
    /// Starts every program of a region and waits until all are ready.
    pub(crate) async fn start_region(&self, name: &str, progress: &Progress) -> anyhow::Result<()> {
        let region = self.region(name)?;
        progress.step(name, "copying the prepared database");
        make_folder(&self.setup.folder(&region))?;
        make_folder(&self.setup.data(&region))?;
        self.setup.postgres.copy(&self.template(), &self.setup.data(&region).join("postgres")).await?;
        progress.step(name, "starting Postgres and Redis");
        self.start_all(name, Service::is_database).await?;
        progress.step(name, "starting region-node and global-sync");
        self.start_all(name, |service| !service.is_database()).await?;
        progress.ready(name);
        Ok(())
    }

    pub(crate) async fn start_all(&self, region: &str, which: impl Fn(Service) -> bool) -> anyhow::Result<()> {
        let services = self.setup.services().into_iter().filter(|service| which(*service));
        try_join_all(services.map(|service| self.start_service(region, service))).await?;
        Ok(())
    }

    /// Starts one program and waits until it is ready.
    pub(crate) async fn start_service(&self, region: &str, service: Service) -> anyhow::Result<()> {
        let plan = self.region(region)?;
        let spec = self.setup.spec(&plan, service, &self.others(region));
        let process = Arc::new(Process::start(spec, &self.setup.state)?);
        lock(&self.processes).insert((region.to_owned(), service), process.clone());
        self.ready(&plan, service, &process).await
    }

    async fn ready(&self, region: &Region, service: Service, process: &Process) -> anyhow::Result<()> {
        let name = &process.spec.name;
        let asked = || async {
            if process.exited().is_some() {
                return Some(Err(()));
            }
            self.answers(region, service).await.map(Ok)
        };
        let failure = match until(READY, asked).await {
            Some(Ok(())) => return Ok(()),
            Some(Err(())) => {
                let status = process.exited().map(|status| status.to_string()).unwrap_or_default();
                Failure::new(format!("{name} ended while starting ({status})"), "its last words are above")
            }
            None => {
                Failure::new(format!("{name} was not ready after {} s", READY.as_secs()), "its last words are above")
            }
        };
        Err(failure.with_log(&process.spec.log).into())
    }

    async fn answers(&self, region: &Region, service: Service) -> Option<()> {
        let ports = self.setup.ports;
        let healthy = |url: String| async move {
            let answer =
                self.http.get(format!("{url}/health/ready")).timeout(Duration::from_secs(2)).send().await.ok()?;
            answer.status().is_success().then_some(())
        };
        match service {
            Service::Postgres => postgres::accepts(ports.postgres(region.index)).await,
            Service::Redis => redis::answers(ports.redis(region.index)).await,
            Service::RegionNode(n) => healthy(self.setup.http_url(region, n)).await,
            Service::Edge(n) => healthy(self.setup.edge_url(region, n)).await,
            Service::GlobalSync(n) => healthy(self.setup.status_url(region, n)).await,
        }
    }

    async fn create_tenants(&self, wanted: &[TenantSpec]) -> anyhow::Result<()> {
        for spec in wanted {
            let home = self.setup.http_url(&self.region(&spec.home_region)?, 1);
            let tenant = tenants::create(&self.http, &home, &self.setup.operator, spec).await?;
            lock(&self.tenants).push(tenant);
        }
        if self.setup.global_syncs == 0 {
            return Ok(());
        }
        let urls: BTreeMap<String, String> =
            self.regions().into_iter().map(|name| (name.clone(), self.http_url(&name))).collect();
        tenants::known_everywhere(&self.http, &urls, &self.tenants(), KNOWN).await
    }

    /// Opens the relays from a region to the others and, if it joined later, from them to it.
    pub(crate) async fn open_links(&self, region: &Region, both_ways: bool) -> anyhow::Result<()> {
        let Some(links) = &self.links else {
            return Ok(());
        };
        for other in self.others(&region.name) {
            links.open(&region.name, &other.name, self.route(region, &other)).await?;
            if both_ways {
                links.open(&other.name, &region.name, self.route(&other, region)).await?;
            }
        }
        Ok(())
    }

    fn route(&self, from: &Region, to: &Region) -> Route {
        let ports = self.setup.ports;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Route {
            listen: ports.link(from.index, to.index),
            tcp: (1..=self.setup.region_nodes).map(|n| local(ports.http(to.index, n))).collect(),
            udp: (1..=self.setup.global_syncs).map(|n| local(ports.quic(to.index, n))).collect(),
        }
    }

    /// The data folder every region's is copied from.
    pub(crate) fn template(&self) -> PathBuf {
        self.setup.state.data.join("template")
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.setup.state.dir.join("certificates")
    }
}

/// A name that can stand in host names, files and certificates.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let fits = (2..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits && !name.starts_with('-') && name != "template" {
        return Ok(());
    }
    Err(Failure::new(format!("{name:?} is no name for a region"), "use 2 to 32 of a-z, 0-9 and -").into())
}

fn own_folder(programs: &Programs) -> PathBuf {
    let beside = programs.folder.parent().unwrap_or(Path::new("/tmp"));
    beside.join("clusters").join(secrets::hex(6))
}
