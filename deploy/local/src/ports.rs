//! Which port is whose. Everything of a cluster lies in one block of ports that begins at its base.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::failure::Failure;
use crate::service::Service;

/// Where `make up` puts its ports unless told otherwise.
pub const DEFAULT_BASE: u16 = 18_000;
/// Regions one block has room for.
pub(crate) const MAX_REGIONS: u16 = 20;
/// Of global-sync and of edges, each.
pub(crate) const MAX_INSTANCES: u16 = 4;
/// Of region-node: as many as a hundred thousand sockets need, with one of them down.
pub(crate) const MAX_NODES: u16 = 8;
const PER_REGION: u16 = 20;
const LINKS: u16 = PER_REGION * MAX_REGIONS;
/// Where the nodes are that found no room among their region's ports.
const MORE_NODES: u16 = LINKS + MAX_REGIONS * MAX_REGIONS;
/// Ports of one cluster in all.
pub(crate) const BLOCK: u16 = MORE_NODES + MAX_REGIONS * (MAX_NODES - MAX_INSTANCES);
/// How far a cluster that finds its ports taken is told to move.
const ASIDE: u16 = 1_600;

/// The ports of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub base: u16,
}

impl Ports {
    /// Where a region-node listens for HTTP.
    pub(crate) fn http(self, region: u16, node: u16) -> u16 {
        match node {
            1 => self.of(region, 0),
            2 => self.of(region, 5),
            n @ 3..=MAX_INSTANCES => self.of(region, 5 + n),
            n => self.base + MORE_NODES + region * (MAX_NODES - MAX_INSTANCES) + n - MAX_INSTANCES - 1,
        }
    }

    /// Where a global-sync answers `/status`.
    pub(crate) fn status(self, region: u16, sync: u16) -> u16 {
        self.of(
            region,
            match sync {
                1 => 1,
                2 => 6,
                n => 7 + n,
            },
        )
    }

    /// Where a global-sync takes QUIC.
    pub(crate) fn quic(self, region: u16, sync: u16) -> u16 {
        self.of(
            region,
            match sync {
                1 => 2,
                2 => 7,
                n => 9 + n,
            },
        )
    }

    /// Where an edge listens for HTTP.
    pub(crate) fn edge(self, region: u16, edge: u16) -> u16 {
        self.of(region, 13 + edge)
    }

    pub(crate) fn postgres(self, region: u16) -> u16 {
        self.of(region, 3)
    }

    pub(crate) fn redis(self, region: u16) -> u16 {
        self.of(region, 4)
    }

    /// The relay through which one region reaches another: TCP and UDP at one number.
    pub(crate) fn link(self, from: u16, to: u16) -> u16 {
        self.base + LINKS + from * MAX_REGIONS + to
    }

    /// Holding this one marks the whole block as taken: no region has itself as a peer.
    pub(crate) fn reservation(self) -> u16 {
        self.link(0, 0)
    }

    fn of(self, region: u16, offset: u16) -> u16 {
        self.base + region * PER_REGION + offset
    }
}

/// A block of ports that no other cluster of this machine uses, held until dropped.
#[derive(Debug)]
pub(crate) struct Block {
    pub ports: Ports,
    _reservation: TcpListener,
}

impl Block {
    /// The block at a given base.
    pub(crate) fn at(base: u16) -> anyhow::Result<Self> {
        let fix = "choose another, for example `make up PORT_BASE=19600`";
        if !(1024..=u16::MAX - BLOCK).contains(&base) {
            return Err(Failure::new(
                format!("PORT_BASE={base} leaves no room for {BLOCK} ports between 1024 and 65535"),
                fix,
            )
            .into());
        }
        let ports = Ports { base };
        let reservation = listen(ports.reservation()).map_err(|_| {
            Failure::new(format!("another cluster uses PORT_BASE={base} (port {} is in use)", ports.reservation()), fix)
        })?;
        Ok(Self { ports, _reservation: reservation })
    }

    /// Any block below the ports the system gives to outgoing connections; `needed` says which ports must be free.
    pub(crate) fn any(needed: impl Fn(Ports) -> Vec<(String, Port)>) -> anyhow::Result<Self> {
        let bases: Vec<u16> = (10_000_u16..32_000)
            .step_by(usize::from(BLOCK))
            .filter(|base| base.abs_diff(DEFAULT_BASE) >= BLOCK)
            .collect();
        let first = rand::random_range(0..bases.len());
        for base in bases.iter().cycle().skip(first).take(bases.len()) {
            if let Ok(block) = Self::at(*base)
                && check_free(&needed(block.ports), *base).is_ok()
            {
                return Ok(block);
            }
        }
        Err(Failure::new("no block of free ports between 10000 and 32000", "stop other clusters").into())
    }
}

/// A port by what speaks on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Tcp(u16),
    Udp(u16),
}

/// The ports of the relays between regions, for each pair of a sender and a receiver.
pub(crate) fn of_links<'a>(
    ports: Ports,
    pairs: impl IntoIterator<Item = ((&'a str, u16), (&'a str, u16))>,
) -> Vec<(String, Port)> {
    let both = |((from, from_index), (to, to_index)): ((&str, u16), (&str, u16))| {
        let (user, port) = (format!("the relay {from} → {to}"), ports.link(from_index, to_index));
        [(user.clone(), Port::Tcp(port)), (user, Port::Udp(port))]
    };
    pairs.into_iter().flat_map(both).collect()
}

/// The ports one region listens on, with whose they are.
pub(crate) fn of_region(ports: Ports, name: &str, index: u16, services: &[Service]) -> Vec<(String, Port)> {
    let mut all = Vec::new();
    for service in services {
        let user = format!("{name}/{service}");
        match *service {
            Service::Postgres => all.push((user, Port::Tcp(ports.postgres(index)))),
            Service::Redis => all.push((user, Port::Tcp(ports.redis(index)))),
            Service::RegionNode(n) => all.push((user, Port::Tcp(ports.http(index, n)))),
            Service::Edge(n) => all.push((user, Port::Tcp(ports.edge(index, n)))),
            Service::GlobalSync(n) => {
                all.push((user.clone(), Port::Tcp(ports.status(index, n))));
                all.push((user, Port::Udp(ports.quic(index, n))));
            }
        }
    }
    all
}

/// Fails with the port's number, its intended user and the way out when one of them is taken.
pub(crate) fn check_free(needed: &[(String, Port)], base: u16) -> anyhow::Result<()> {
    for (user, port) in needed {
        let (number, kind, free) = match *port {
            Port::Tcp(number) => (number, "", listen(number).is_ok()),
            Port::Udp(number) => (number, "UDP ", UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).is_ok()),
        };
        if !free {
            let cause = format!("{kind}port {number}, needed for {user}, is in use");
            let other = if base < 50_000 { base + ASIDE } else { DEFAULT_BASE };
            return Err(Failure::new(
                cause,
                format!("stop what uses it or choose other ports, for example `make up PORT_BASE={other}`"),
            )
            .into());
        }
    }
    Ok(())
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_where_the_documentation_says() {
        let ports = Ports { base: 18_000 };
        assert_eq!(
            (ports.http(0, 1), ports.status(0, 1), ports.quic(0, 1), ports.postgres(0), ports.redis(0)),
            (18_000, 18_001, 18_002, 18_003, 18_004)
        );
        assert_eq!((ports.http(2, 2), ports.status(2, 2), ports.quic(2, 2)), (18_045, 18_046, 18_047));
        assert_eq!(ports.link(0, 1), 18_401);
    }

    #[test]
    fn no_two_users_share_a_port() {
        let ports = Ports { base: 18_000 };
        let mut seen = BTreeSet::from([ports.reservation()]);
        for region in 0..MAX_REGIONS {
            let mut own = vec![ports.postgres(region), ports.redis(region)];
            own.extend((1..=MAX_NODES).map(|n| ports.http(region, n)));
            for n in 1..=MAX_INSTANCES {
                own.extend([ports.status(region, n), ports.quic(region, n), ports.edge(region, n)]);
            }
            own.extend((0..MAX_REGIONS).filter(|to| *to != region).map(|to| ports.link(region, to)));
            for port in own {
                assert!(seen.insert(port), "{port} of region {region} is used twice");
                assert!(port < ports.base + BLOCK);
            }
        }
    }

    #[test]
    fn a_busy_port_is_named_with_its_user_and_the_way_out() {
        let taken = listen(0).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check_free(&[("us-east/postgres".to_owned(), Port::Tcp(port))], 18_000).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "port {port}, needed for us-east/postgres, is in use; stop what uses it or choose other ports, for example `make up PORT_BASE=19600`"
            )
        );
    }

    #[test]
    fn a_block_belongs_to_one_cluster() {
        let block = Block::any(|_| Vec::new()).unwrap();
        let error = Block::at(block.ports.base).unwrap_err().to_string();
        assert!(error.starts_with("another cluster uses PORT_BASE="), "{error}");
    }
}
