//! `cluster.json`: everything a program needs to know about the running cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::region::Credentials;
use crate::service::Service;
use crate::tenants::Tenant;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    pub regions: Vec<RegionEntry>,
    pub tenants: Vec<Tenant>,
    pub operator: Credentials,
    pub cluster_id: String,
    pub port_base: u16,
    /// The process that holds the cluster together; SIGTERM stops all of it.
    pub supervisor_pid: u32,
    /// `<region>/<program>.log`.
    pub logs: PathBuf,
    /// Where `local` sends its orders.
    pub control: PathBuf,
    /// Relays between regions.
    pub links: Vec<LinkEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionEntry {
    pub name: String,
    pub http: String,
    pub quic: String,
    /// For a superuser, who sees all tenants.
    pub postgres_url: String,
    pub redis_url: String,
    /// `/status` is to be added.
    pub sync_status_url: String,
    /// By program: `postgres`, `redis`, `region-node`, `global-sync`. What does not run is missing.
    pub pids: BTreeMap<String, u32>,
    /// Each region-node's address, the first is `http`.
    pub nodes: Vec<String>,
    /// The folder with the region's certificates and keys.
    pub certificates: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEntry {
    pub from: String,
    pub to: String,
    /// TCP and UDP.
    pub address: String,
}

impl ClusterFile {
    /// The description of a cluster as it is now.
    pub fn of(cluster: &Cluster) -> Self {
        let setup = &cluster.setup;
        let names = cluster.regions();
        let index = |name: &str| cluster.region(name).map_or(0, |region| region.index);
        let pairs = names
            .iter()
            .flat_map(|from| names.iter().map(move |to| (from, to)))
            .filter(|(from, to)| setup.links && from != to);
        let link = |(from, to): (&String, &String)| LinkEntry {
            from: from.clone(),
            to: to.clone(),
            address: format!("127.0.0.1:{}", setup.ports.link(index(from), index(to))),
        };
        Self {
            regions: names.iter().map(|name| RegionEntry::of(cluster, name)).collect(),
            tenants: cluster.tenants(),
            operator: setup.operator.clone(),
            cluster_id: setup.cluster_id.clone(),
            port_base: setup.ports.base,
            supervisor_pid: std::process::id(),
            logs: setup.state.dir.join("logs"),
            control: setup.state.control_socket(),
            links: pairs.map(link).collect(),
        }
    }
}

impl RegionEntry {
    fn of(cluster: &Cluster, name: &str) -> Self {
        let services = cluster.setup.services().into_iter();
        let pids = services.filter_map(|service| Some((service.to_string(), cluster.pid(name, service)?)));
        let nodes = cluster.setup.services().into_iter().filter_map(|service| match service {
            Service::RegionNode(n) => Some(cluster.node_url(name, n)),
            Service::Postgres | Service::Redis | Service::GlobalSync(_) | Service::Edge(_) => None,
        });
        Self {
            name: name.to_owned(),
            http: cluster.http_url(name),
            quic: cluster.quic_addr(name),
            postgres_url: cluster.postgres_url(name),
            redis_url: cluster.redis_url(name),
            sync_status_url: cluster.status_url(name),
            pids: pids.collect(),
            nodes: nodes.collect(),
            certificates: cluster.certificates(name),
        }
    }
}
