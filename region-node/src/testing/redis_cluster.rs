//! A Redis cluster of a test's own: three servers and a replica of each, gone with it.

use std::{path::PathBuf, process::Stdio, time::Duration};

use rand::RngExt;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use uuid::Uuid;

/// Three with slots of their own, then a replica of each.
const SERVERS: u16 = 6;

/// The cluster; dropped, it ends and leaves nothing.
pub struct RedisCluster {
    cli: PathBuf,
    folder: PathBuf,
    servers: Vec<(u16, Child)>,
}

impl RedisCluster {
    /// Starts one on this machine's loopback.
    pub async fn start() -> Self {
        // Or Valkey's programs of the same names, as `local services` found them.
        let program = PathBuf::from(std::env::var_os("GOCOMET_REDIS").unwrap_or_else(|| "redis-server".into()));
        let cli = program.with_file_name(program.file_name().unwrap().to_str().unwrap().replace("server", "cli"));
        let folder = std::env::temp_dir().join(format!("gocomet-redis-cluster-{}", Uuid::now_v7()));
        let mut cluster = Self { cli, folder, servers: Vec::new() };
        let ports = free_ports().await;
        for port in ports.clone() {
            let folder = cluster.folder.join(port.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            let mut server = Command::new(&program);
            server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes"]);
            server.args(["--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"]);
            server.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
            cluster.servers.push((port, server.spawn().expect("Redis is installed")));
        }
        for port in ports.clone() {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let mut create = Command::new(&cluster.cli);
        create.args(["--cluster", "create"]).args(ports.clone().map(|port| format!("127.0.0.1:{port}")));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]).stdin(Stdio::null());
        let created = create.output().await.unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        for port in ports {
            while !cluster.says(port, &["cluster", "info"]).await.contains("cluster_state:ok") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        cluster
    }

    /// As in `redis.url`.
    pub fn url(&self) -> String {
        let (first, _) = self.servers[0];
        let others: Vec<_> = self.servers[1..].iter().map(|(port, _)| format!("node=127.0.0.1:{port}")).collect();
        format!("redis-cluster://127.0.0.1:{first}?{}", others.join("&"))
    }

    /// Ends, as a crash does, the server whose slots hold `key`.
    pub async fn kill_server_of(&mut self, key: &str) {
        let (any, _) = self.servers[0];
        let slot: u16 = self.says(any, &["cluster", "keyslot", key]).await.trim().parse().unwrap();
        // One line a server: id, address, flags with "master", …, the slots it serves.
        let nodes = self.says(any, &["cluster", "nodes"]).await;
        let serves = |line: &&str| {
            line.split(' ').skip(8).any(|slots| {
                let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
                (first.parse::<u16>().unwrap()..=last.parse::<u16>().unwrap()).contains(&slot)
            })
        };
        let address = nodes.lines().find(serves).unwrap().split(' ').nth(1).unwrap().split('@').next().unwrap();
        let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
        let (_, server) = self.servers.iter_mut().find(|(of, _)| *of == port).unwrap();
        server.kill().await.unwrap();
    }

    async fn says(&self, port: u16, command: &[&str]) -> String {
        let said = Command::new(&self.cli).args(["-p", &port.to_string()]).args(command).output().await.unwrap();
        String::from_utf8(said.stdout).unwrap()
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        for (_, server) in &mut self.servers {
            let _ = server.start_kill();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Ports below those the system gives to whoever asks for none; servers speak to each other 10,000 above.
async fn free_ports() -> std::ops::Range<u16> {
    loop {
        let first = rand::rng().random_range(12_000..21_000_u16);
        let ports = first..first + SERVERS;
        let mut are_free = true;
        for port in ports.clone().chain(first + 10_000..first + 10_000 + SERVERS) {
            are_free &= TcpListener::bind(("127.0.0.1", port)).await.is_ok();
        }
        if are_free {
            return ports;
        }
    }
}
