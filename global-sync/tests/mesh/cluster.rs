//! Regions for tests: certificates, databases, instances that start and stop.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use global_sync::{
    config::{
        Config, DatabaseConfig, DigestConfig, LogConfig, NumberingConfig, QuicConfig, RegionConfig, SigningConfig,
        StatusConfig, TlsConfig,
    },
    node::Node,
    status::{Board, Status},
    transport::{Credentials, Mesh, MeshEvent, SigningKey},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType};
use shared::{
    fact::{Fact, LedgerEntry, TenantCreated},
    telemetry::{LogFormat, TelemetryConfig},
};
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const CLUSTER: &str = "test";

/// Polls until a condition holds; a test that waits in vain says for what.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !holds().await {
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

/// A private authority.
#[derive(Clone)]
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Arc<Issuer<'static, KeyPair>>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Arc::new(Issuer::new(params, key)) }
    }

    /// The certificates of both authorities.
    pub(crate) fn beside(&self, other: &Self) -> String {
        format!("{}{}", self.pem, other.pem)
    }

    fn issue(&self, folder: &Path, region: &str) {
        std::fs::create_dir_all(folder).unwrap();
        let sign = |key: &KeyPair| {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let uri = format!("gocomet://{CLUSTER}/{region}");
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
            params.signed_by(key, &*self.issuer).unwrap().pem()
        };
        let node = KeyPair::generate().unwrap();
        let signing = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        for (name, content) in [
            ("ca.pem", self.pem.clone()),
            ("node.pem", sign(&node)),
            ("node.key", node.serialize_pem()),
            ("signing.pem", sign(&signing)),
            ("signing.key", signing.serialize_pem()),
        ] {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }
}

/// An instance that is a process of its own; it ends with the test.
pub(crate) struct Process {
    child: Child,
    status: SocketAddr,
    log: PathBuf,
}

impl Process {
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Whether it says that it leads; no if it says nothing.
    pub(crate) async fn leads(&self) -> bool {
        self.get("/status").await.contains(r#""leader":true"#)
    }

    /// What it says of itself; null if it says nothing.
    pub(crate) async fn status(&self) -> serde_json::Value {
        let answer = self.get("/status").await;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }

    /// How many lines of its log say this.
    pub(crate) fn lines_with(&self, words: &str) -> usize {
        std::fs::read_to_string(&self.log).unwrap().lines().filter(|line| line.contains(words)).count()
    }

    /// The entries it says are damaged in one way or another, by log and number; none before it has looked.
    pub(crate) async fn damaged(&self) -> BTreeSet<String> {
        let status = self.status().await;
        let named = status["damage"]["named"].as_array().into_iter().flatten();
        named.map(|named| named.as_str().unwrap().split(':').next().unwrap().to_owned()).collect()
    }

    /// The sum of a metric over all its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.metric_with(name, "").await
    }

    /// The sum of a metric over those of its lines that have a label, as `reason="version"`.
    pub(crate) async fn metric_with(&self, name: &str, label: &str) -> f64 {
        let answer = self.get("/metrics").await;
        let lines = answer.lines().filter(|line| {
            line.contains(label) && line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// What it answers; nothing if it does not in time.
    async fn get(&self, path: &str) -> String {
        let answer = tokio::time::timeout(Duration::from_secs(2), async {
            let mut stream = TcpStream::connect(self.status).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        });
        answer.await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A member of the mesh that keeps to no rule but that of the wire.
pub(crate) struct Rogue {
    pub(crate) mesh: Mesh,
    pub(crate) events: mpsc::Receiver<MeshEvent>,
    pub(crate) key: SigningKey,
}

struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    board: Board,
}

struct Region {
    config: Config,
    /// As the owner sees it: for looking, and to commit facts as region-node would.
    pool: PgPool,
    running: Option<Running>,
}

pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    folder: PathBuf,
    regions: BTreeMap<String, Region>,
    databases: Vec<String>,
    owner: PgPool,
}

impl Cluster {
    /// Regions that are prepared and know each other, none of them started. The first uses the test's own database.
    pub(crate) async fn new(owner: &PgPool, names: &[&str]) -> Self {
        let authority = Authority::new("authority");
        let folder = std::env::temp_dir().join(format!("gocomet-sync-{}", Uuid::now_v7()));
        let mut cluster =
            Self { authority, folder, regions: BTreeMap::new(), databases: Vec::new(), owner: owner.clone() };
        let addresses: BTreeMap<String, SocketAddr> =
            names.iter().map(|name| ((*name).to_owned(), free_udp_address())).collect();
        for (index, name) in names.iter().enumerate() {
            let pool = if index == 0 { owner.clone() } else { cluster.another_database(owner).await };
            cluster.authority.issue(&cluster.folder.join(name), name);
            std::fs::write(cluster.folder.join(name).join("former-ca.pem"), &cluster.authority.pem).unwrap();
            let mut config = cluster.config(name, addresses[*name], &pool);
            let others = addresses.iter().filter(|(other, _)| other != name);
            config.peers = others.map(|(name, address)| (name.parse().unwrap(), address.to_string())).collect();
            let options = pool.connect_options().as_ref().clone();
            let system = options.clone().username("gocomet_system");
            let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(system);
            cluster.regions.insert((*name).to_owned(), Region { config, pool, running: None });
        }
        cluster
    }

    /// A second instance of a region: its database and certificates, its own ports.
    pub(crate) async fn add_standby(&mut self, region: &str, name: &str) {
        let config = Config {
            quic: QuicConfig { listen: free_udp_address(), max_age: Duration::from_secs(3600) },
            ..self.regions[region].config.clone()
        };
        let pool = self.regions[region].pool.clone();
        self.regions.insert(name.to_owned(), Region { config, pool, running: None });
    }

    /// Ends every connection replication has to a region's database, as a restart of Postgres would.
    pub(crate) async fn cut_database_connections(&self, name: &str) {
        use secrecy::ExposeSecret as _;
        let url = &self.regions[name].config.database.url;
        let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()";
        connection.execute(cut).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Changes something in a region's database behind replication's back, which takes more rights than replication has.
    pub(crate) async fn tamper(&self, name: &str, sql: &'static str) {
        let options = self.regions[name].pool.connect_options().as_ref().clone().username("postgres");
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        connection.execute(sql).await.unwrap();
        connection.close().await.unwrap();
    }

    /// How many keys of a region another one has the certificates of.
    pub(crate) async fn known_keys(&self, at: &str, of: &str) -> i64 {
        self.count_of(at, "SELECT count(*) FROM repl_origin_cert WHERE region = $1", of).await
    }

    /// Which entries of a region's ledger, of these, stand signed at another one.
    pub(crate) async fn signed_entries(&self, at: &str, of: &str, from: i64, upto: i64) -> BTreeSet<i64> {
        use secrecy::ExposeSecret as _;
        let mut connection = PgConnection::connect(self.regions[at].config.database.url.expose_secret()).await.unwrap();
        let signed =
            "SELECT seq FROM repl_checkpoint WHERE origin_region = $1 AND stream = 'ledger' AND seq BETWEEN $2 AND $3";
        let signed =
            sqlx::query_scalar(signed).bind(of).bind(from).bind(upto).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        signed.into_iter().collect()
    }

    /// How many entries of a region another one has stored.
    pub(crate) async fn stored_entries(&self, at: &str, of: &str) -> i64 {
        self.count_of(at, "SELECT count(*) FROM repl_log WHERE origin_region = $1", of).await
    }

    /// Counts as replication, since nobody else may look there.
    async fn count_of(&self, at: &str, sql: &'static str, region: &str) -> i64 {
        use secrecy::ExposeSecret as _;
        let url = &self.regions[at].config.database.url;
        let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
        let count = sqlx::query_scalar(sql).bind(region).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        count
    }

    /// No connection gets much older than this, whoever made it.
    pub(crate) fn limit_age(&mut self, max_age: Duration) {
        self.regions.values_mut().for_each(|region| region.config.quic.max_age = max_age);
    }

    pub(crate) fn knows(&mut self, region: &str, peers: &[&str]) {
        self.regions.get_mut(region).unwrap().config.peers.retain(|name, _| peers.contains(&name.as_str()));
    }

    pub(crate) fn reissue(&self, region: &str, authority: &Authority, names: &str) {
        authority.issue(&self.folder.join(region), names);
    }

    pub(crate) fn regions(&self) -> Vec<String> {
        self.regions.keys().cloned().collect()
    }

    /// Waits until every region knows every region for a member, which one that only joins is not.
    pub(crate) async fn all_are_members(&self) {
        for name in self.regions() {
            eventually("all regions are members", async || {
                let members = self.count(&name, "SELECT count(*) FROM repl_membership WHERE state = 'active'").await;
                members == i64::try_from(self.regions.len()).unwrap()
            })
            .await;
        }
    }

    pub(crate) async fn start_all(&mut self) {
        for name in self.regions() {
            self.start(&name).await;
        }
    }

    pub(crate) async fn start(&mut self, name: &str) {
        let region = self.regions.get_mut(name).unwrap();
        let mut bound = None;
        // One that was stopped says good-bye for a moment longer to a peer that does not answer.
        eventually("its address is free", async || {
            bound = Node::bind(region.config.clone()).await.ok();
            bound.is_some()
        })
        .await;
        let (node, shutdown) = (bound.unwrap(), CancellationToken::new());
        let board = node.board();
        #[expect(clippy::disallowed_methods, reason = "a test waits for its tasks itself")]
        let task = tokio::spawn(node.run(shutdown.clone(), String::new));
        region.running = Some(Running { shutdown, task, board });
    }

    /// Somebody with the certificates and the key of a region who says whatever they like.
    pub(crate) fn rogue(&self, name: &str) -> Rogue {
        let Config { region, tls, signing, .. } = &self.regions[name].config;
        let (id, who) = (&region.cluster_id, &region.name);
        let credentials = Credentials::load(&tls.ca_file, &tls.cert_file, &tls.key_file, id, who).unwrap();
        let roots = credentials.signing_roots(None).unwrap();
        let key = SigningKey::load(&signing.cert_file, &signing.key_file, roots, id, who).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let (mesh, events) = Mesh::listen(any, &credentials, id, Duration::from_secs(3600)).unwrap();
        Rogue { mesh, events, key }
    }

    /// Where an instance is reached by others.
    pub(crate) fn address(&self, name: &str) -> String {
        self.regions[name].config.quic.listen.to_string()
    }

    /// Starts an instance as a process of its own.
    pub(crate) fn start_process(&self, name: &str) -> Process {
        use secrecy::ExposeSecret as _;
        let Config { region, database, quic, tls, signing, peers, .. } = &self.regions[name].config;
        let status = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let peers: Vec<_> = peers.iter().map(|(name, address)| format!("{name}={address}")).collect();
        let log = self.folder.join(format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_global-sync"))
            .env("GLOBAL_SYNC_REGION__NAME", region.name.as_str())
            .env("GLOBAL_SYNC_REGION__CLUSTER_ID", &region.cluster_id)
            .env("GLOBAL_SYNC_DATABASE__URL", database.url.expose_secret())
            .env("GLOBAL_SYNC_QUIC__LISTEN", quic.listen.to_string())
            .env("GLOBAL_SYNC_QUIC__MAX_AGE", format!("{}ms", quic.max_age.as_millis()))
            .env("GLOBAL_SYNC_STATUS__LISTEN", status.to_string())
            .env("GLOBAL_SYNC_TLS__CA_FILE", &tls.ca_file)
            .env("GLOBAL_SYNC_TLS__CERT_FILE", &tls.cert_file)
            .env("GLOBAL_SYNC_TLS__KEY_FILE", &tls.key_file)
            .env("GLOBAL_SYNC_SIGNING__CERT_FILE", &signing.cert_file)
            .env("GLOBAL_SYNC_SIGNING__KEY_FILE", &signing.key_file)
            .env("GLOBAL_SYNC_DIGEST__COMPARE_ROWS_EVERY", "1s")
            .env("GLOBAL_SYNC_DIGEST__CHECK_LOGS_EVERY", "1s")
            .env("GLOBAL_SYNC_PEERS", peers.join(","))
            .stdout(std::fs::File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Process { child, status, log }
    }

    /// Both authorities are believed from now on.
    pub(crate) fn believe(&self, authorities: &str) {
        for name in self.regions.keys() {
            std::fs::write(self.folder.join(name).join("ca.pem"), authorities).unwrap();
        }
    }

    pub(crate) async fn try_start_with(&self, name: &str, authority: &Authority, names: &str) -> Result<(), String> {
        self.reissue(name, authority, names);
        let bound = Node::bind(self.regions[name].config.clone()).await;
        bound.map(|_| ()).map_err(|error| format!("{error:#}"))
    }

    pub(crate) async fn stop(&mut self, name: &str) {
        if let Some(Running { shutdown, task, .. }) = self.regions.get_mut(name).unwrap().running.take() {
            shutdown.cancel();
            task.await.unwrap().unwrap();
        }
    }

    pub(crate) async fn stop_all(&mut self) {
        for name in self.regions() {
            self.stop(&name).await;
        }
        for region in self.regions.values() {
            region.pool.close().await;
        }
        for database in &self.databases {
            // A connection that was closed has a backend for a moment longer, and only its own role may end it.
            eventually("the database is gone", async || {
                let drop = format!("DROP DATABASE IF EXISTS {database}");
                self.owner.execute(sqlx::AssertSqlSafe(drop)).await.is_ok()
            })
            .await;
        }
        self.databases.clear();
        std::fs::remove_dir_all(&self.folder).unwrap();
    }

    pub(crate) async fn status(&self, name: &str) -> Status {
        let board = &self.regions[name].running.as_ref().expect("it runs").board;
        let mut status = None;
        eventually("it has a status", async || {
            status = board.status().await.unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Waits until every region has that many ledger facts, the same vector and the same digest.
    pub(crate) async fn converged(&self, facts: i64) {
        for name in self.regions() {
            eventually(&format!("{name} has {facts} facts"), async || {
                self.count(&name, "SELECT count(*) FROM ledger_facts").await == facts
            })
            .await;
        }
        let mut seen = Vec::new();
        let agree = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let mut found = Vec::new();
                for name in self.regions().iter().filter(|name| self.regions[*name].running.is_some()) {
                    let status = self.status(name).await;
                    found.push((format!("{:?}", status.version_vector), status.digest));
                }
                seen = found;
                if seen.iter().all(|other| *other == seen[0]) {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(agree.await.is_ok(), "they differ: {seen:#?}");
    }

    pub(crate) async fn count(&self, name: &str, sql: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&self.regions[name].pool).await.unwrap()
    }

    pub(crate) async fn text(&self, name: &str, sql: &'static str) -> String {
        sqlx::query_scalar(sql).fetch_one(&self.regions[name].pool).await.unwrap()
    }

    /// Does something to a region's rows as region-node's background work may.
    pub(crate) async fn as_system(&self, name: &str, sql: &'static str) {
        self.regions[name].pool.execute(sql).await.unwrap();
    }

    /// Gives a region's replication a command, as region-node does for an operator; whether it was done, and what was said.
    pub(crate) async fn command(&self, name: &str, command: serde_json::Value) -> (bool, String) {
        let (id, pool) = (Uuid::now_v7(), &self.regions[name].pool);
        sqlx::query("INSERT INTO repl_command (id, command, reason, made_by) VALUES ($1, $2, 'a drill', 'ops')")
            .bind(id)
            .bind(&command)
            .execute(pool)
            .await
            .unwrap();
        let mut ended = None;
        eventually(&format!("{command} is carried out"), async || {
            let outcome = "SELECT done, outcome FROM repl_command WHERE id = $1 AND ended_at IS NOT NULL";
            ended = sqlx::query_as(outcome).bind(id).fetch_optional(pool).await.unwrap();
            ended.is_some()
        })
        .await;
        ended.unwrap()
    }

    /// Holds the home of the tenant 'cabs' as a command that is under way does.
    #[expect(clippy::disallowed_methods, reason = "a test plays region-node")]
    pub(crate) async fn hold_home(&self, name: &str) -> sqlx::Transaction<'static, sqlx::Postgres> {
        let mut tx = self.regions[name].pool.begin().await.unwrap();
        tx.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended('home:cabs', 0))").await.unwrap();
        tx
    }

    /// Writes something of the tenant 'cabs' as a command does: if the region is its home and stays it meanwhile.
    #[expect(clippy::disallowed_methods, reason = "a test plays region-node")]
    pub(crate) async fn try_as_command(&self, name: &str, sql: &'static str) -> bool {
        let mut tx = self.regions[name].pool.begin().await.unwrap();
        tx.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended('home:cabs', 0))").await.unwrap();
        let home = "SELECT region = $1 AND state = 'active' FROM tenant_homes WHERE tenant_id = 'cabs'";
        let is_here: bool = sqlx::query_scalar(home).bind(name).fetch_one(&mut *tx).await.unwrap();
        if is_here {
            tx.execute(sql).await.unwrap();
        }
        tx.commit().await.unwrap();
        is_here
    }

    pub(crate) async fn settle(&self, region: &str, n: u128) {
        let fact = Fact::Settlement(LedgerEntry {
            fact_id: Uuid::from_u128(n + 1),
            payment_id: Uuid::from_u128(n + 1),
            trip_id: Uuid::from_u128(n + 1),
            tenant: "porto-taxis".to_owned(),
            amount: 1250,
            currency: "EUR".to_owned(),
            settled_at: time::OffsetDateTime::UNIX_EPOCH,
        });
        self.commit(region, &fact).await;
    }

    pub(crate) async fn create_tenant(&self, region: &str, tenant: &str) {
        let fact = Fact::TenantCreated(TenantCreated {
            tenant: tenant.to_owned(),
            name: tenant.to_owned(),
            home_region: region.to_owned(),
            term: 1,
            n: 0,
        });
        self.commit(region, &fact).await;
        sqlx::query("INSERT INTO tenant_homes (tenant_id, name, region, term, n) VALUES ($1, $1, $2, 1, 0)")
            .bind(tenant)
            .bind(region)
            .execute(&self.regions[region].pool)
            .await
            .unwrap();
    }

    async fn commit(&self, region: &str, fact: &Fact) {
        sqlx::query(
            "INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body)
             VALUES ($1, $2, $3, $4, 1, 0, $5)",
        )
        .bind(Uuid::now_v7())
        .bind(fact.stream().as_str())
        .bind(fact.kind())
        .bind(fact.tenant())
        .bind(fact.to_body())
        .execute(&self.regions[region].pool)
        .await
        .unwrap();
    }

    async fn another_database(&mut self, owner: &PgPool) -> PgPool {
        let name = format!("sync_{}", Uuid::now_v7().simple());
        owner.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        let options = owner.connect_options().as_ref().clone().database(&name);
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        sqlx::migrate!("../migrations").run(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        self.databases.push(name);
        PgPoolOptions::new().connect_lazy_with(options)
    }

    fn config(&self, name: &str, quic: SocketAddr, pool: &PgPool) -> Config {
        let file = |file: &str| self.folder.join(name).join(file);
        let options = pool.connect_options();
        let url = format!(
            "postgres://gocomet_sync@{}:{}/{}",
            options.get_host(),
            options.get_port(),
            options.get_database().expect("a test has a database")
        );
        Config {
            region: RegionConfig { name: name.parse().unwrap(), cluster_id: CLUSTER.to_owned() },
            database: DatabaseConfig { url: url.into(), max_connections: 8, wait_for_schema: Duration::from_secs(10) },
            quic: QuicConfig { listen: quic, max_age: Duration::from_secs(3600) },
            status: StatusConfig { listen: "127.0.0.1:0".parse().unwrap() },
            tls: TlsConfig {
                ca_file: file("ca.pem"),
                cert_file: file("node.pem"),
                key_file: file("node.key"),
                reload_every: Duration::from_secs(1),
            },
            signing: SigningConfig {
                former_ca_file: Some(file("former-ca.pem")),
                cert_file: file("signing.pem"),
                key_file: file("signing.key"),
            },
            numbering: NumberingConfig { every: Duration::from_millis(20) },
            log: LogConfig { keep: Duration::from_secs(3600), keep_entries: 100, drop_every: Duration::from_secs(1) },
            digest: DigestConfig {
                check_ledger_every: Duration::from_secs(1),
                check_logs_every: Duration::from_secs(1),
                compare_rows_every: Duration::from_secs(1),
            },
            telemetry: TelemetryConfig {
                log_format: LogFormat::Pretty,
                log_filter: "info".to_owned(),
                otlp_endpoint: None,
            },
            peers: BTreeMap::new(),
        }
    }
}

/// An address for whoever starts, stops and starts again: not of those the system gives away, or somebody else might have it by
/// then.
fn free_udp_address() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Each test is a process of its own.
    let first = std::process::id().wrapping_mul(64);
    std::iter::repeat_with(|| 20_000 + first.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % 12_000)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())))
        .find(|address| std::net::UdpSocket::bind(address).is_ok())
        .unwrap()
}
