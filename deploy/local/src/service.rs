//! The programs of one region, by the names that people, files and the command line use.

use std::fmt;
use std::str::FromStr;

use anyhow::bail;

/// One program of one region. Of region-node and global-sync there may be several, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    Postgres,
    Redis,
    GlobalSync(u16),
    RegionNode(u16),
    /// A region-node of the role `edge`: no database of its own.
    Edge(u16),
}

impl Service {
    /// The first (usually only) region-node.
    pub const NODE: Self = Self::RegionNode(1);
    /// The first (usually only) global-sync.
    pub const SYNC: Self = Self::GlobalSync(1);

    /// What the others stand on: starts first and ends last.
    pub fn is_database(self) -> bool {
        matches!(self, Self::Postgres | Self::Redis)
    }

    /// The programs of a region, in the order in which they start.
    pub fn all(region_nodes: u16, global_syncs: u16, edges: u16) -> Vec<Self> {
        let edges = (1..=edges).map(Self::Edge);
        let nodes = (1..=region_nodes).map(Self::RegionNode);
        let syncs = (1..=global_syncs).map(Self::GlobalSync);
        [Self::Postgres, Self::Redis].into_iter().chain(nodes).chain(syncs).chain(edges).collect()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres => f.write_str("postgres"),
            Self::Redis => f.write_str("redis"),
            Self::RegionNode(1) => f.write_str("region-node"),
            Self::GlobalSync(1) => f.write_str("global-sync"),
            Self::Edge(1) => f.write_str("edge"),
            Self::Edge(n) => write!(f, "edge-{n}"),
            Self::RegionNode(n) => write!(f, "region-node-{n}"),
            Self::GlobalSync(n) => write!(f, "global-sync-{n}"),
        }
    }
}

impl FromStr for Service {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let number = |rest: &str| match rest.strip_prefix('-').map(str::parse) {
            None if rest.is_empty() => Some(1),
            Some(Ok(n)) if n > 0 => Some(n),
            _ => None,
        };
        let known = match text {
            "postgres" => Some(Self::Postgres),
            "redis" => Some(Self::Redis),
            _ => {
                let several = |name: &str| number(text.strip_prefix(name)?);
                let node = several("region-node").map(Self::RegionNode);
                node.or_else(|| several("global-sync").map(Self::GlobalSync))
                    .or_else(|| several("edge").map(Self::Edge))
            }
        };
        let Some(service) = known else {
            bail!(
                "no service {text}; there are postgres, redis, region-node, global-sync (and region-node-2 … where several run)"
            )
        };
        Ok(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for service in [
            Service::Postgres,
            Service::Redis,
            Service::NODE,
            Service::RegionNode(2),
            Service::SYNC,
            Service::GlobalSync(3),
            Service::Edge(1),
            Service::Edge(2),
        ] {
            assert_eq!(service.to_string().parse::<Service>().unwrap(), service);
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        for text in ["", "mysql", "region-node-0", "region-node-x", "global-sync2"] {
            assert!(text.parse::<Service>().is_err(), "{text}");
        }
    }
}
