//! One region: where its things lie and how each of its programs is started.

use std::path::PathBuf;

use anyhow::Context;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::ports::Ports;
use crate::postgres::{self, Postgres};
use crate::process::Spec;
use crate::redis;
use crate::service::Service;
use crate::state::State;
use crate::tools::{Programs, Tools};

/// A name and the secret that goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub client_id: String,
    pub client_secret: String,
}

/// What all regions of a cluster have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub cluster_id: String,
    pub state: State,
    pub ports: Ports,
    pub programs: Programs,
    pub tools: Tools,
    pub postgres: Postgres,
    pub operator: Credentials,
    pub region_nodes: u16,
    pub global_syncs: u16,
    pub edges: u16,
    pub links: bool,
    /// More settings for every region-node and every global-sync.
    pub node_env: Vec<(String, String)>,
    pub sync_env: Vec<(String, String)>,
}

/// One region.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub name: String,
    /// Decides its ports.
    pub index: u16,
    /// Encrypts personal data in its database; lives as long as the data.
    pub master_key: String,
}

impl Region {
    pub(crate) fn new(name: &str, index: u16) -> Self {
        Self { name: name.to_owned(), index, master_key: crate::secrets::master_key() }
    }
}

impl Setup {
    /// The programs of every region, in the order in which they start.
    pub(crate) fn services(&self) -> Vec<Service> {
        Service::all(self.region_nodes, self.global_syncs, self.edges)
    }

    /// A region's working folder.
    pub(crate) fn folder(&self, region: &Region) -> PathBuf {
        self.state.dir.join("regions").join(&region.name)
    }

    pub(crate) fn certificates(&self, region: &str) -> PathBuf {
        self.state.dir.join("certificates").join(region)
    }

    /// The streets the demo knows: Manhattan's. Elsewhere ways are measured as the crow flies.
    pub(crate) fn roads(&self) -> PathBuf {
        self.state.dir.join("roads")
    }

    /// Writes them where region-nodes read them.
    pub(crate) fn write_roads(&self) -> anyhow::Result<()> {
        let files = [
            ("road_nodes.csv", include_str!("../../../tests/data/new-york/road_nodes.csv")),
            ("road_edges.csv", include_str!("../../../tests/data/new-york/road_edges.csv")),
        ];
        let folder = self.roads();
        std::fs::create_dir_all(&folder)?;
        for (name, table) in files {
            std::fs::write(folder.join(name), table)
                .with_context(|| format!("{} cannot be written", folder.join(name).display()))?;
        }
        Ok(())
    }

    /// The folder of Postgres' data and of its backups.
    pub(crate) fn data(&self, region: &Region) -> PathBuf {
        self.state.data.join(&region.name)
    }

    pub(crate) fn http_url(&self, region: &Region, node: u16) -> String {
        format!("http://127.0.0.1:{}", self.ports.http(region.index, node))
    }

    pub(crate) fn edge_url(&self, region: &Region, edge: u16) -> String {
        format!("http://127.0.0.1:{}", self.ports.edge(region.index, edge))
    }

    pub(crate) fn status_url(&self, region: &Region, sync: u16) -> String {
        format!("http://127.0.0.1:{}", self.ports.status(region.index, sync))
    }

    pub(crate) fn quic_addr(&self, region: &Region) -> String {
        format!("127.0.0.1:{}", self.ports.quic(region.index, 1))
    }

    /// How to start one of a region's programs, knowing which other regions there are.
    pub(crate) fn spec(&self, region: &Region, service: Service, others: &[Region]) -> Spec {
        let name = format!("{}/{service}", region.name);
        let log = self.state.log(&name);
        match service {
            Service::Postgres => {
                self.postgres.spec(name, &self.data(region).join("postgres"), self.ports.postgres(region.index), log)
            }
            Service::Redis => {
                redis::spec(&self.tools.redis, name, self.folder(region), self.ports.redis(region.index), log)
            }
            Service::RegionNode(n) => {
                self.own_program("region-node", name, region, log, self.node_settings(region, n, others))
            }
            Service::Edge(n) => {
                self.own_program("region-node", name, region, log, self.edge_settings(region, n, others))
            }
            Service::GlobalSync(n) => {
                self.own_program("global-sync", name, region, log, self.sync_settings(region, n, others))
            }
        }
    }

    fn own_program(
        &self,
        program: &str,
        name: String,
        region: &Region,
        log: PathBuf,
        envs: Vec<(String, String)>,
    ) -> Spec {
        let (folder, program) = (self.folder(region), self.programs.folder.join(program));
        Spec {
            name,
            program,
            args: Vec::new(),
            envs,
            folder,
            log,
            to_terminal: false,
            account: None,
            stop: Signal::SIGTERM,
            abort: Signal::SIGKILL,
        }
    }

    fn node_settings(&self, region: &Region, node: u16, others: &[Region]) -> Vec<(String, String)> {
        let port = self.ports.postgres(region.index);
        let mut settings = vec![
            ("REGION__NAME", region.name.clone()),
            ("REGION__CLUSTER_ID", self.cluster_id.clone()),
            ("ROLE", "full".to_owned()),
            ("HTTP__LISTEN", format!("127.0.0.1:{}", self.ports.http(region.index, node))),
            ("HTTP__PUBLIC_URL", self.http_url(region, 1)),
            ("DATABASE__URL", postgres::url("gocomet_app", port)),
            ("DATABASE__SYSTEM_URL", postgres::url("gocomet_system", port)),
            ("DATABASE__MIGRATE_URL", postgres::url("gocomet_owner", port)),
            ("REDIS__URL", redis::url(self.ports.redis(region.index))),
            ("SYNC__STATUS_URL", self.status_url(region, 1)),
            ("SYNC__QUIC_ADDR", self.quic_addr(region)),
            ("OPERATOR__CLIENT_ID", self.operator.client_id.clone()),
            ("OPERATOR__CLIENT_SECRET", self.operator.client_secret.clone()),
            ("SECRETS__MASTER_KEY", region.master_key.clone()),
            ("TRAVEL__ROAD_GRAPH", self.roads().to_string_lossy().into_owned()),
        ];
        settings.extend(common_settings());
        if !others.is_empty() {
            settings.push(("EDGE__PEERS", self.forwarding(region, others)));
        }
        with_prefix("REGION_NODE_", settings, &self.node_env)
    }

    fn edge_settings(&self, region: &Region, edge: u16, others: &[Region]) -> Vec<(String, String)> {
        let own = format!("{}={}", region.name, self.http_url(region, 1));
        let peers = if others.is_empty() { own } else { format!("{own},{}", self.forwarding(region, others)) };
        let mut settings = vec![
            ("REGION__NAME", region.name.clone()),
            ("REGION__CLUSTER_ID", self.cluster_id.clone()),
            ("ROLE", "edge".to_owned()),
            ("HTTP__LISTEN", format!("127.0.0.1:{}", self.ports.edge(region.index, edge))),
            ("HTTP__PUBLIC_URL", self.edge_url(region, edge)),
            ("EDGE__UPSTREAM", self.http_url(region, 1)),
            ("EDGE__PEERS", peers),
            ("OPERATOR__CLIENT_ID", self.operator.client_id.clone()),
            ("OPERATOR__CLIENT_SECRET", self.operator.client_secret.clone()),
        ];
        settings.extend(common_settings());
        with_prefix("REGION_NODE_", settings, &self.node_env)
    }

    /// Where this region's edge forwards calls for the others.
    fn forwarding(&self, region: &Region, others: &[Region]) -> String {
        list(others, |other| format!("http://{}", self.address(region, other, self.ports.http(other.index, 1))))
    }

    fn sync_settings(&self, region: &Region, sync: u16, others: &[Region]) -> Vec<(String, String)> {
        let file = |name: &str| self.certificates(&region.name).join(name).to_string_lossy().into_owned();
        let mut settings = vec![
            ("REGION__NAME", region.name.clone()),
            ("REGION__CLUSTER_ID", self.cluster_id.clone()),
            ("DATABASE__URL", postgres::url("gocomet_sync", self.ports.postgres(region.index))),
            ("QUIC__LISTEN", format!("127.0.0.1:{}", self.ports.quic(region.index, sync))),
            ("STATUS__LISTEN", format!("127.0.0.1:{}", self.ports.status(region.index, sync))),
            ("TLS__CA_FILE", file("ca.pem")),
            ("TLS__CERT_FILE", file("node.pem")),
            ("TLS__KEY_FILE", file("node.key")),
            ("SIGNING__CERT_FILE", file("signing.pem")),
            ("SIGNING__KEY_FILE", file("signing.key")),
            ("TELEMETRY__LOG_FORMAT", "json".to_owned()),
        ];
        if !others.is_empty() {
            settings
                .push(("PEERS", list(others, |other| self.address(region, other, self.ports.quic(other.index, 1)))));
        }
        with_prefix("GLOBAL_SYNC_", settings, &self.sync_env)
    }

    /// Where one region reaches another: through the relay between them, or straight at `port`.
    fn address(&self, from: &Region, to: &Region, port: u16) -> String {
        let port = if self.links { self.ports.link(from.index, to.index) } else { port };
        format!("127.0.0.1:{port}")
    }
}

/// What region-nodes of both roles are told.
fn common_settings() -> [(&'static str, String); 7] {
    [
        // All riders and drivers of the demo and of a test come from one address.
        ("LIMITS__CONNECTIONS_PER_MINUTE", "1000000".to_owned()),
        ("LIMITS__NEW_SOCKETS_PER_SECOND", "100000".to_owned()),
        ("LIMITS__POSITIONS_PER_SECOND", "100000".to_owned()),
        ("LIMITS__REQUESTS_PER_SECOND", "100000".to_owned()),
        ("LIMITS__REQUESTS_BURST", "100000".to_owned()),
        ("LIMITS__SIGN_INS_PER_MINUTE", "1000000".to_owned()),
        ("TELEMETRY__LOG_FORMAT", "json".to_owned()),
    ]
}

fn list(others: &[Region], address: impl Fn(&Region) -> String) -> String {
    others.iter().map(|other| format!("{}={}", other.name, address(other))).collect::<Vec<_>>().join(",")
}

fn with_prefix(prefix: &str, settings: Vec<(&str, String)>, more: &[(String, String)]) -> Vec<(String, String)> {
    let own = settings.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value));
    own.chain(more.iter().cloned()).collect()
}
