//! A program that cannot start says why and what to do, in one line, and ends.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::{
    collections::BTreeMap,
    net::{TcpListener, UdpSocket},
    process::Stdio,
    time::Duration,
};

use deploy_local::{Cluster, ClusterFile, Programs};
use system_tests::{
    harness::{TestCluster, tell},
    stories,
};
use tokio::process::Command;

/// A database that cannot be reached is tried for a while first.
const ENDS_WITHIN: Duration = Duration::from_secs(40);
const REGION: &str = "us-east";
/// A port nobody listens on: the first is never given to a program.
const NOBODY: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn startup() {
    // A Postgres with the roles and an empty database, a Redis and certificates; no program of ours.
    let databases = Cluster::builder().regions([REGION]).region_nodes(0).global_syncs(0);
    let cluster = TestCluster::start_as(databases).await;
    // Before the first of the others brings the schema.
    let unmigrated = stories!(cluster; an_unmigrated_database_ends_both_programs);
    tell(&cluster, 1, unmigrated).await;
    let stories = stories!(cluster;
        a_busy_port_ends_both_programs,
        a_wrong_value_ends_both_programs,
        an_unknown_setting_ends_both_programs,
        a_missing_setting_ends_both_programs,
        an_unreachable_database_ends_both_programs,
        a_wrong_role_ends_both_programs_at_once,
        a_missing_redis_ends_a_region_node,
    );
    tell(&cluster, 4, stories).await;
}

async fn an_unmigrated_database_ends_both_programs(cluster: TestCluster) {
    let database = host_of(&cluster.postgres_url(REGION));
    Program::node(&cluster)
        .without("DATABASE__MIGRATE_URL")
        .ends_with(&[
            &format!("the database at {database} has no schema"),
            "run `region-node migrate`",
            "database.migrate_url",
        ])
        .await;
    Program::sync(&cluster)
        .with("DATABASE__WAIT_FOR_SCHEMA", "1s")
        .ends_with(&[&format!("the database at {database} has no schema yet"), "run `region-node migrate`"])
        .await;
}

async fn a_busy_port_ends_both_programs(cluster: TestCluster) {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp_address = tcp.local_addr().unwrap().to_string();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_address = udp.local_addr().unwrap().to_string();
    let node = Program::node(&cluster).with("HTTP__LISTEN", &tcp_address);
    node.ends_with(&[&format!("cannot listen on {tcp_address}"), "Set http.listen", "in use"]).await;
    let status = Program::sync(&cluster).with("STATUS__LISTEN", &tcp_address);
    status.ends_with(&[&format!("cannot listen at {tcp_address}"), "change status.listen", "in use"]).await;
    let quic = Program::sync(&cluster).with("QUIC__LISTEN", &udp_address);
    quic.ends_with(&[&format!("cannot listen at {udp_address}"), "change quic.listen", "in use"]).await;
}

async fn a_wrong_value_ends_both_programs(cluster: TestCluster) {
    let node = Program::node(&cluster).with("HTTP__LISTEN", "everywhere");
    node.ends_with(&["configuration: http.listen: ", "as REGION_NODE_HTTP__LISTEN"]).await;
    let sync = Program::sync(&cluster).with("PEERS", "eu-west");
    sync.ends_with(&["configuration: peers: 'eu-west' is not region=host:port", "as GLOBAL_SYNC_PEERS"]).await;
}

async fn an_unknown_setting_ends_both_programs(cluster: TestCluster) {
    let node = Program::node(&cluster).with("HTTP__LISTNE", NOBODY);
    node.ends_with(&["configuration: http", "listne", "expected"]).await;
    let sync = Program::sync(&cluster).with("QUIC__LISTNE", NOBODY);
    sync.ends_with(&["configuration: quic", "listne", "expected"]).await;
}

async fn a_missing_setting_ends_both_programs(cluster: TestCluster) {
    let node = Program::node(&cluster).without("REGION__NAME");
    node.ends_with(&["configuration: region.name: is missing", "as REGION_NODE_REGION__NAME"]).await;
    let node = Program::node(&cluster).without("DATABASE__URL");
    node.ends_with(&["configuration: database.url is missing", "as REGION_NODE_DATABASE__URL"]).await;
    let edge = Program::node(&cluster).with("ROLE", "edge");
    edge.ends_with(&["edge.upstream is missing", "as REGION_NODE_EDGE__UPSTREAM"]).await;
    let sync = Program::sync(&cluster).without("DATABASE__URL");
    sync.ends_with(&["configuration: database.url: is missing", "as GLOBAL_SYNC_DATABASE__URL"]).await;
    let sync = Program::sync(&cluster).with("TLS__CA_FILE", "/nowhere/ca.pem");
    sync.ends_with(&["/nowhere/ca.pem", "tls"]).await;
}

async fn an_unreachable_database_ends_both_programs(cluster: TestCluster) {
    let url = format!("postgres://gocomet_app@{NOBODY}/gocomet");
    let says = ["the database at 127.0.0.1:1 cannot be used", "is Postgres running there", "database.url right?"];
    let node = Program::node(&cluster).without("DATABASE__MIGRATE_URL").with("DATABASE__URL", &url);
    let sync = Program::sync(&cluster).with("DATABASE__URL", &url);
    tokio::join!(node.ends_with(&says), sync.ends_with(&says));
}

async fn a_wrong_role_ends_both_programs_at_once(cluster: TestCluster) {
    let url = cluster.postgres_url_as(REGION, "nobody_we_know");
    let says = ["cannot be used", "database.url right?", "nobody_we_know"];
    let node = Program::node(&cluster).without("DATABASE__MIGRATE_URL").with("DATABASE__URL", &url);
    let sync = Program::sync(&cluster).with("DATABASE__URL", &url);
    tokio::join!(node.ends_with(&says), sync.ends_with(&says));
}

/// Once it runs Redis may come and go; at the start its absence is a mistake somebody wants to hear of.
async fn a_missing_redis_ends_a_region_node(cluster: TestCluster) {
    let node = Program::node(&cluster).with("REDIS__URL", &format!("redis://{NOBODY}"));
    node.ends_with(&[&format!("Redis at {NOBODY} cannot be used"), "is it running there", "redis.url right?"]).await;
}

/// A program with all the settings it needs, to be spoilt.
struct Program {
    name: &'static str,
    prefix: &'static str,
    settings: BTreeMap<String, String>,
}

impl Program {
    fn node(cluster: &TestCluster) -> Self {
        let settings = [
            ("REGION__NAME", REGION.to_owned()),
            ("HTTP__LISTEN", "127.0.0.1:0".to_owned()),
            ("HTTP__PUBLIC_URL", "http://127.0.0.1:1".to_owned()),
            ("DATABASE__URL", cluster.postgres_url_as(REGION, "gocomet_app")),
            ("DATABASE__SYSTEM_URL", cluster.postgres_url_as(REGION, "gocomet_system")),
            ("DATABASE__MIGRATE_URL", cluster.postgres_url_as(REGION, "gocomet_owner")),
            ("REDIS__URL", cluster.redis_url(REGION)),
            ("SECRETS__MASTER_KEY", "GIsng5qGHBjDoGBf77gxNCw6QZQ8mStn+0O2YjalvME=".to_owned()),
        ];
        Self::new("region-node", "REGION_NODE_", settings)
    }

    fn sync(cluster: &TestCluster) -> Self {
        let description = std::fs::read_to_string(cluster.cluster_file()).unwrap();
        let ClusterFile { cluster_id, .. } = serde_json::from_str(&description).unwrap();
        let file = |name: &str| cluster.certificates(REGION).join(name).to_string_lossy().into_owned();
        let settings = [
            ("REGION__NAME", REGION.to_owned()),
            ("REGION__CLUSTER_ID", cluster_id),
            ("DATABASE__URL", cluster.postgres_url_as(REGION, "gocomet_sync")),
            ("QUIC__LISTEN", "127.0.0.1:0".to_owned()),
            ("STATUS__LISTEN", "127.0.0.1:0".to_owned()),
            ("TLS__CA_FILE", file("ca.pem")),
            ("TLS__CERT_FILE", file("node.pem")),
            ("TLS__KEY_FILE", file("node.key")),
            ("SIGNING__CERT_FILE", file("signing.pem")),
            ("SIGNING__KEY_FILE", file("signing.key")),
        ];
        Self::new("global-sync", "GLOBAL_SYNC_", settings)
    }

    fn new<const N: usize>(name: &'static str, prefix: &'static str, settings: [(&str, String); N]) -> Self {
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { name, prefix, settings }
    }

    fn with(mut self, setting: &str, value: &str) -> Self {
        self.settings.insert(setting.to_owned(), value.to_owned());
        self
    }

    fn without(mut self, setting: &str) -> Self {
        self.settings.remove(setting);
        self
    }

    /// Starts it and waits for its end, which must be a failure told in one line with all of these words.
    async fn ends_with(self, words: &[&str]) {
        let program = Programs::discover().unwrap().get(self.name).unwrap();
        let settings = self.settings.iter().map(|(name, value)| (format!("{}{name}", self.prefix), value));
        let mut command = Command::new(program);
        command.env_clear().envs(settings).stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(ENDS_WITHIN, command.output()).await;
        let output = ended.unwrap_or_else(|_| panic!("{} still runs; it should say {words:?}", self.name)).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{} ended well; it should say {words:?}", self.name);
        assert_eq!(said.lines().count(), 1, "{} does not say it in one line: {said}", self.name);
        assert!(said.starts_with(&format!("{}: ", self.name)), "{said}");
        for word in words {
            assert!(said.contains(word), "{} should say {word:?}: {said}", self.name);
        }
    }
}

fn host_of(url: &str) -> String {
    let url: url::Url = url.parse().unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}
