//! A mesh and whoever calls it: strangers, impostors, and members that do not keep to the wire.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quinn::{
    Connection, ConnectionError, Endpoint, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType};
use rustls::{
    NamedGroup, RootCertStore,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    },
    pki_types::ServerName,
    server::ServerSessionMemoryCache,
};
use shared::fact::FactStream;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    protocol::{Batch, Checkpoint, Entry, Head, Hello, LogId, MAX_FRAME_BYTES, MemberState, Message, Origin},
    store::Piece,
};

pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Credentials of a region of a cluster.
    fn credentials(&self, cluster: &str, region: &str) -> Credentials {
        self.credentials_that_believe(self, cluster, region)
    }

    /// The same, for somebody who believes another authority.
    fn credentials_that_believe(&self, believed: &Self, cluster: &str, region: &str) -> Credentials {
        self.credentials_with(believed, cluster, region, params(cluster, region))
    }

    /// The same, past their time.
    fn expired_credentials(&self, cluster: &str, region: &str) -> Credentials {
        let mut params = params(cluster, region);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.credentials_with(self, cluster, region, params)
    }

    fn credentials_with(&self, believed: &Self, cluster: &str, region: &str, params: CertificateParams) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let contents = [believed.pem.clone(), certificate, key.serialize_pem()];
        let region = region.parse().unwrap();
        in_files(contents, |[ca, cert, key]| Credentials::load(ca, cert, key, cluster, &region).unwrap())
    }

    /// The key a region signs its facts with, and the authorities that vouch for it.
    pub(crate) fn signing_key(&self, cluster: &str, region: &str) -> (SigningKey, Arc<RootCertStore>) {
        let roots = self.credentials(cluster, region).signing_roots(None).unwrap();
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = params(cluster, region).signed_by(&key, &self.issuer).unwrap().pem();
        let contents = [certificate, key.serialize_pem()];
        let region = region.parse().unwrap();
        let load = |[cert, key]: &[PathBuf; 2]| SigningKey::load(cert, key, roots.clone(), cluster, &region).unwrap();
        (in_files(contents, load), roots)
    }
}

/// What a certificate of a region says.
fn params(cluster: &str, region: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(format!("gocomet://{cluster}/{region}").try_into().unwrap()));
    params
}

/// What `load` makes of files with these contents, which are gone afterwards.
fn in_files<const COUNT: usize, T>(contents: [String; COUNT], load: impl FnOnce(&[PathBuf; COUNT]) -> T) -> T {
    let folder = std::env::temp_dir().join(format!("gocomet-tls-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let files = std::array::from_fn(|number| folder.join(number.to_string()));
    for (file, content) in files.iter().zip(contents) {
        std::fs::write(file, content).unwrap();
    }
    let loaded = load(&files);
    std::fs::remove_dir_all(folder).unwrap();
    loaded
}

struct Listening {
    mesh: Mesh,
    events: mpsc::Receiver<MeshEvent>,
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: tokio_util::task::TaskTracker,
}

/// Counts what this test's tasks count: they all run in its thread.
struct Counted {
    handle: PrometheusHandle,
    _guard: metrics::LocalRecorderGuard<'static>,
}

impl Counted {
    fn here() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        Self { handle: recorder.handle(), _guard: metrics::set_default_local_recorder(recorder) }
    }

    /// Waits until so many connections were refused for a reason.
    async fn refused(&self, reason: &str, count: u32) {
        self.shows(&format!("global_sync_refused_connections_total{{reason=\"{reason}\"}} {count}")).await;
    }

    /// Waits until there is such a line.
    async fn shows(&self, line: &str) {
        self.has(line, |other| other == line).await;
    }

    /// Waits until there is a series of a metric with these labels.
    async fn counts(&self, name: &str, labels: &[&str]) {
        let is_it = |line: &str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        self.has(&format!("{name} of {labels:?}"), is_it).await;
    }

    async fn has(&self, what: &str, is_it: impl Fn(&str) -> bool) {
        let counted = async {
            while !self.handle.render().lines().any(&is_it) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(20), counted).await.is_ok(), "{what}, not\n{}", self.handle.render());
    }
}

impl Listening {
    fn start(authority: &Authority, region: &str) -> Self {
        Self::start_with(authority, region, |_| {})
    }

    /// Starts with other limits.
    fn start_with(authority: &Authority, region: &str, limit: impl FnOnce(&mut Mesh)) -> Self {
        let credentials = authority.credentials("c1", region);
        let any = "127.0.0.1:0".parse().unwrap();
        let (mut mesh, events) = Mesh::listen(any, &credentials, "c1", Duration::from_secs(60)).unwrap();
        limit(&mut mesh);
        let (shutdown, tasks) = (CancellationToken::new(), tokio_util::task::TaskTracker::new());
        let (accepting, stop) = (mesh.clone(), shutdown.clone());
        tasks.spawn(async move { accepting.accept(stop).await });
        let address = mesh.local_address().unwrap();
        Self { mesh, events, address, shutdown, tasks }
    }

    async fn next(&mut self) -> MeshEvent {
        timeout(Duration::from_secs(10), self.events.recv()).await.expect("something happens").unwrap()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        drop(self.events);
        self.mesh.close().await;
    }

    /// A call with whatever credentials, by somebody who then says what they like.
    async fn called_by(&self, credentials: &Credentials) -> Result<Connection, ConnectionError> {
        self.called_for(credentials, ALPN).await
    }

    async fn called_for(&self, credentials: &Credentials, alpn: &[u8]) -> Result<Connection, ConnectionError> {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = credentials.client_config(alpn).unwrap();
        endpoint.connect_with(config, self.address, "gocomet.invalid").unwrap().await
    }
}

/// How the other side ended a connection.
async fn ended(connection: &Connection) -> ConnectionError {
    timeout(Duration::from_secs(10), connection.closed()).await.expect("it ends")
}

fn hello(region: &str) -> Message {
    Message::Hello(Hello {
        min_version: 1,
        max_version: 1,
        features: 0,
        kinds: Vec::new(),
        cluster_id: "c1".to_owned(),
        origin: Origin { region: region.parse().unwrap(), incarnation: 1 },
        instance: 1,
        state: MemberState::Active,
    })
}

#[tokio::test]
async fn certificates_of_another_authority_or_cluster_and_unknown_versions_get_no_connection() {
    let counted = Counted::here();
    let (authority, other) = (Authority::new(), Authority::new());
    let mut us = Listening::start(&authority, "us-east");
    let strangers = [
        (other.credentials("c1", "eu-west"), ALPN, "our_certificate"),
        (other.credentials_that_believe(&authority, "c1", "eu-west"), ALPN, "certificate"),
        (authority.credentials("c2", "eu-west"), ALPN, "other_cluster"),
        (authority.credentials("c1", "eu-west"), b"gocomet-sync/9".as_slice(), "version"),
    ];
    for (stranger, alpn, reason) in strangers {
        // In TLS 1.3 a client is connected before it hears that its certificate is not believed.
        if let Ok(connection) = us.called_for(&stranger, alpn).await {
            let _ = connection.open_bi().await;
            ended(&connection).await;
        }
        counted.refused(reason, 1).await;
    }
    assert!(us.events.try_recv().is_err(), "nobody was connected");
    us.stop().await;
}

/// Keeps what it is given to come back without a whole handshake, and counts it.
#[derive(Debug)]
struct Tickets {
    kept: ClientSessionMemoryCache,
    given: AtomicUsize,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.kept.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.given.fetch_add(1, Ordering::Relaxed);
        self.kept.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.take_tls13_ticket(server_name)
    }
}

#[tokio::test]
async fn nobody_comes_back_without_a_whole_handshake() {
    let authority = Authority::new();
    let mut us = Listening::start(&authority, "us-east");
    let any = "127.0.0.1:0".parse().unwrap();
    // A caller that would resume, and say something before the handshake is over.
    let tickets = Arc::new(Tickets { kept: ClientSessionMemoryCache::new(8), given: AtomicUsize::new(0) });
    let mut tls = authority.credentials("c1", "eu-west").client_tls(ALPN).unwrap();
    tls.resumption = Resumption::store(tickets.clone());
    tls.enable_early_data = true;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = Endpoint::client(any).unwrap();
    let call = |address| endpoint.connect_with(config.clone(), address, "gocomet.invalid").unwrap();

    let connection = call(us.address).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(&hello("eu-west"), false)).await.unwrap();
    let MeshEvent::Connected { link, .. } = us.next().await else { panic!("somebody is connected") };
    link.say(hello("us-east"));
    assert!(matches!(frame::read(&mut receive, frame::READ_WITHIN).await, Ok(Some((Message::Hello(_), _)))));
    assert_eq!(tickets.given.load(Ordering::Relaxed), 0, "it is given none, or would have them before what was said");
    assert!(call(us.address).into_0rtt().is_err(), "there is nothing to come back with");

    // It does so where it is allowed to.
    let mut tls = authority.credentials("c1", "us-east").server_tls().unwrap();
    tls.session_storage = ServerSessionMemoryCache::new(8);
    tls.send_tls13_tickets = 2;
    tls.max_early_data_size = u32::MAX;
    let lenient = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let lenient = Endpoint::server(lenient, any).unwrap();
    let listening = lenient.clone();
    us.tasks.spawn(async move {
        let mut accepted = Vec::new();
        while let Some(incoming) = listening.accept().await {
            accepted.push(incoming.await.unwrap());
        }
    });
    let first = call(lenient.local_addr().unwrap()).await.unwrap();
    let given = async {
        while tickets.given.load(Ordering::Relaxed) < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), given).await.expect("it is given tickets");
    let Ok((second, early)) = call(lenient.local_addr().unwrap()).into_0rtt() else { panic!("it resumes") };
    assert!(early.await, "it is believed before the handshake is over");

    // With the same ticket it gets nowhere here but to the beginning.
    let Ok((connection, early)) = call(us.address).into_0rtt() else { panic!("it would resume") };
    assert!(!early.await);
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(&hello("eu-west"), false)).await.unwrap();
    let stands = async {
        loop {
            if let MeshEvent::Connected { link, .. } = us.next().await {
                break link;
            }
        }
    };
    assert_eq!(stands.await.region.as_str(), "eu-west");
    drop((first, second));
    lenient.close(VarInt::from_u32(0), b"");
    us.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_ended_and_counted() {
    let counted = Counted::here();
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let us = Listening::start(&authority, "us-east");
    // Somebody who says nothing after the first packet.
    let between = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let packet = first_packet(&member).await;
    between.send_to(&packet, us.address).await.unwrap();
    counted.refused("handshake_timeout", 1).await;
    us.stop().await;
}

/// What somebody who calls sends first.
async fn first_packet(member: &Credentials) -> Vec<u8> {
    let called = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = member.client_config(ALPN).unwrap();
    let _calling = endpoint.connect_with(config, called.local_addr().unwrap(), "gocomet.invalid").unwrap();
    let mut packet = vec![0; 2048];
    let size = called.recv(&mut packet).await.unwrap();
    packet.truncate(size);
    packet
}

#[tokio::test]
async fn calls_from_addresses_where_nobody_hears_take_half_of_the_places_at_most() {
    let counted = Counted::here();
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let us = Listening::start_with(&authority, "us-east", |mesh| mesh.max_connections = 4);
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let between = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        between.send_to(&first_packet(&member).await, us.address).await.unwrap();
        deaf.push(between);
    }
    counted.shows("global_sync_address_checks_total 8").await;
    let first = us.called_by(&member).await.unwrap();
    let second = us.called_by(&member).await.unwrap();
    counted.shows("global_sync_address_checks_total 10").await;
    assert!(first.close_reason().is_none() && second.close_reason().is_none());
    us.stop().await;
}

#[tokio::test]
async fn a_caller_above_the_limit_is_refused_and_counted_and_those_before_stay() {
    let counted = Counted::here();
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let us = Listening::start_with(&authority, "us-east", |mesh| mesh.max_connections = 2);
    let first = us.called_by(&member).await.unwrap();
    let second = us.called_by(&member).await.unwrap();
    for count in 1..=3 {
        assert!(us.called_by(&member).await.is_err());
        counted.refused("too_many_connections", count).await;
    }
    assert!(first.close_reason().is_none() && second.close_reason().is_none());
    us.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_gets_no_connection_whoever_calls() {
    let counted = Counted::here();
    let authority = Authority::new();
    let expired = authority.expired_credentials("c1", "eu-west");
    let mut us = Listening::start(&authority, "us-east");
    if let Ok(connection) = us.called_for(&expired, ALPN).await {
        let _ = connection.open_bi().await;
        ended(&connection).await;
    }
    counted.refused("certificate", 1).await;
    let there = Endpoint::server(expired.server_config().unwrap(), "127.0.0.1:0".parse().unwrap()).unwrap();
    let (region, address) = ("eu-west".parse().unwrap(), there.local_addr().unwrap().to_string());
    let (called, _) = tokio::join!(us.mesh.dial(&region, &address), async { there.accept().await?.await.ok() });
    let refused = format!("{:?}", called.unwrap_err()).to_lowercase();
    assert!(refused.contains("expired"), "{refused}");
    assert!(us.events.try_recv().is_err(), "nobody was connected");
    us.stop().await;
}

#[tokio::test]
async fn whoever_answers_for_another_region_is_hung_up_on() {
    let counted = Counted::here();
    let authority = Authority::new();
    let us = Listening::start(&authority, "us-east");
    let mut impostor = Listening::start(&authority, "ap-south");
    let refused = us.mesh.dial(&"eu-west".parse().unwrap(), &impostor.address.to_string()).await.unwrap_err();
    assert!(refused.to_string().contains("ap-south"), "{refused}");
    let refused = us.mesh.ask_snapshot(&"eu-west".parse().unwrap(), &impostor.address.to_string()).await;
    assert!(refused.is_err());
    counted.refused("wrong_region", 2).await;
    assert!(!matches!(impostor.events.try_recv(), Ok(MeshEvent::Connected { .. })));
    us.stop().await;
    impostor.stop().await;
}

/// A frame that says it has so many bytes, and the type byte.
fn promise(bytes: usize, frame_type: u8) -> Vec<u8> {
    [&u32::try_from(bytes).unwrap().to_be_bytes()[..], &[frame_type]].concat()
}

/// What breaks the rules whatever the frames are about, and why it is refused; frames may have so many bytes. Then the stream
/// ends.
fn bad_frames(max_bytes: usize) -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (promise(0, 1), "unreadable_frame"),
        (promise(max_bytes + 1, 1), "oversized_frame"),
        (vec![255, 255, 255, 255, 5], "oversized_frame"),
        (vec![0, 0, 0], "truncated_frame"),
        ([promise(max_bytes, 2), vec![7; 100_000]].concat(), "truncated_frame"),
    ]
}

/// Sends what breaks the rules on a stream, and sees that the connection is ended for it.
async fn is_refused(connection: &Connection, mut send: quinn::SendStream, bytes: &[u8]) {
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    let ConnectionError::ApplicationClosed(close) = ended(connection).await else { panic!("closed by us") };
    assert_eq!(close.error_code, VarInt::from_u32(2), "{bytes:?}");
}

/// Every reason, and how often it is one.
async fn all_counted(counted: &Counted, bad: &[(Vec<u8>, &'static str)]) {
    for reason in ["oversized_frame", "unreadable_frame", "truncated_frame"] {
        let count = bad.iter().filter(|(_, other)| *other == reason).count();
        counted.refused(reason, u32::try_from(count).unwrap()).await;
    }
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection_and_reach_nobody() {
    let counted = Counted::here();
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let mut us = Listening::start(&authority, "us-east");
    let mut bad = bad_frames(MAX_FRAME_BYTES);
    // A hello that is no protobuf, and something packed that does not unpack.
    bad.push((vec![0, 0, 0, 4, 1, 255, 255, 255], "unreadable_frame"));
    bad.push((vec![0, 0, 0, 6, 0x85, 0, 0, 0, 9, 1], "unreadable_frame"));
    for (bytes, _) in &bad {
        let connection = us.called_by(&member).await.unwrap();
        let (send, _receive) = connection.open_bi().await.unwrap();
        is_refused(&connection, send, bytes).await;
        assert!(matches!(us.next().await, MeshEvent::Connected { dialed: false, .. }));
        assert!(matches!(us.next().await, MeshEvent::Disconnected { .. }));
    }
    all_counted(&counted, &bad).await;
    us.stop().await;
}

#[tokio::test]
async fn a_frame_that_does_not_come_whole_in_its_time_ends_the_connection() {
    let counted = Counted::here();
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let us = Listening::start_with(&authority, "us-east", |mesh| mesh.frame_within = Duration::from_millis(300));
    let connection = us.called_by(&member).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    let whole = frame::encode(&hello("eu-west"), false);
    send.write_all(&[whole.clone(), whole[..whole.len() - 1].to_vec()].concat()).await.unwrap();
    let ConnectionError::ApplicationClosed(close) = ended(&connection).await else { panic!("closed by us") };
    assert_eq!(close.error_code, VarInt::from_u32(2));
    counted.refused("slow_frame", 1).await;
    us.stop().await;
}

#[tokio::test]
async fn a_snapshot_whose_frames_break_the_rules_breaks_off_and_its_giver_is_refused() {
    let counted = Counted::here();
    let authority = Authority::new();
    let us = Listening::start(&authority, "us-east");
    let config = authority.credentials("c1", "eu-west").server_config().unwrap();
    let giver = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = giver.local_addr().unwrap().to_string();
    let mut bad = bad_frames(frame::MAX_ROWS_BYTES);
    // Rows that do not unpack, a table that is not named, and a type nobody knows.
    bad.push((vec![0, 0, 0, 4, 2, 1, 2, 3], "unreadable_frame"));
    bad.push((vec![0, 0, 0, 1, 1], "unreadable_frame"));
    bad.push((vec![0, 0, 0, 1, 9], "unreadable_frame"));
    for (bytes, _) in &bad {
        let called = async { giver.accept().await.unwrap().await.unwrap() };
        let region = "eu-west".parse().unwrap();
        let (pieces, connection) = tokio::join!(us.mesh.ask_snapshot(&region, &address), called);
        let send = connection.open_uni().await.unwrap();
        is_refused(&connection, send, bytes).await;
        assert_eq!(pieces.unwrap().recv().await, None, "{bytes:?}");
    }
    all_counted(&counted, &bad).await;
    us.stop().await;
}

#[tokio::test]
async fn a_tenant_whose_frames_break_the_rules_does_not_move_and_whoever_sent_it_is_refused() {
    let counted = Counted::here();
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let mut us = Listening::start(&authority, "us-east");
    let mut bad = bad_frames(frame::MAX_ROWS_BYTES);
    // No JSON, rows that do not unpack, and a type nobody knows.
    bad.push((vec![0, 0, 0, 2, 1, b'{'], "unreadable_frame"));
    bad.push((vec![0, 0, 0, 4, 2, 1, 2, 3], "unreadable_frame"));
    bad.push((vec![0, 0, 0, 1, 9], "unreadable_frame"));
    for (bytes, _) in &bad {
        let connection = us.called_for(&member, moving::ALPN).await.unwrap();
        let (send, _receive) = connection.open_bi().await.unwrap();
        let listening = async {
            let MeshEvent::Moving { mut link } = us.next().await else { panic!("a tenant moves") };
            let heard = link.hear::<serde_json::Value>().await;
            (heard, link)
        };
        let ((heard, _link), ()) = tokio::join!(listening, is_refused(&connection, send, bytes));
        assert!(heard.is_err(), "{bytes:?}");
    }
    all_counted(&counted, &bad).await;
    let rows = zstd::bulk::compress(b"rows", 1).unwrap();
    let connection = us.called_for(&member, moving::ALPN).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[promise(rows.len() + 1, 2), rows].concat()).await.unwrap();
    let MeshEvent::Moving { mut link } = us.next().await else { panic!("a tenant moves") };
    assert!(link.hear::<serde_json::Value>().await.is_err(), "something is to be said first");
    counted.refused("out_of_order", 1).await;
    us.stop().await;
}

#[tokio::test]
async fn only_so_many_tenants_are_moved_here_at_a_time_and_the_next_is_listened_to_when_one_is_over() {
    let counted = Counted::here();
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let mut us = Listening::start(&authority, "us-east");
    us.mesh.moves.forget_permits(moving::AT_A_TIME - 1);
    let call = async |us: &Listening| {
        let connection = us.called_for(&member, moving::ALPN).await.unwrap();
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&promise(1, 1)).await.unwrap();
        (connection, send, receive)
    };
    let first = call(&us).await;
    let MeshEvent::Moving { link } = us.next().await else { panic!("a tenant moves") };
    let (refused, ..) = call(&us).await;
    let ConnectionError::ApplicationClosed(close) = ended(&refused).await else { panic!("closed by us") };
    assert_eq!(close.error_code, VarInt::from_u32(3));
    counted.refused("too_many_connections", 1).await;
    drop((first, link));
    let _next = call(&us).await;
    assert!(matches!(us.next().await, MeshEvent::Moving { .. }));
    us.stop().await;
}

#[tokio::test]
async fn what_a_peer_cannot_unpack_is_not_packed_for_it_and_a_hello_says_that_we_can() {
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let mut us = Listening::start(&authority, "us-east");
    let connection = us.called_by(&member).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(&hello("eu-west"), false)).await.unwrap();
    let MeshEvent::Connected { link, .. } = us.next().await else { panic!("somebody is connected") };
    link.say(hello("us-east"));
    let Ok(Some((Message::Hello(heard), _))) = frame::read(&mut receive, frame::READ_WITHIN).await else {
        panic!("a hello")
    };
    assert_eq!(heard.features & frame::ZSTD, frame::ZSTD);
    assert!(matches!(us.next().await, MeshEvent::Received { message: Message::Hello(_), .. }));
    let Message::Hello(long) = hello("us-east") else { unreachable!() };
    let long = Message::Hello(Hello { kinds: vec!["settlement".to_owned(); 200], ..long });
    link.say(long.clone());
    let (_, plain) = frame::read(&mut receive, frame::READ_WITHIN).await.unwrap().unwrap();
    assert!(plain > 2_000, "{plain}");
    connection.close(VarInt::from_u32(0), b"");
    us.stop().await;
}

/// A batch of one entry of us-east's ledger.
fn entries(bytes: usize) -> Message {
    let origin = Origin { region: "us-east".parse().unwrap(), incarnation: 1 };
    Message::Batch(Batch {
        log: LogId { origin, stream: FactStream::Ledger },
        pull: 1,
        entries: vec![Entry { envelope: vec![1], body: Some(vec![7; bytes]) }],
        checkpoint: Checkpoint { head: Head::EMPTY, key_id: [0; 32], signature: vec![], certificate: None },
    })
}

#[tokio::test]
async fn bytes_are_counted_by_peer_and_by_the_log_they_are_of() {
    let counted = Counted::here();
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let mut us = Listening::start(&authority, "us-east");
    let connection = us.called_by(&member).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(&hello("eu-west"), false)).await.unwrap();
    let MeshEvent::Connected { link, .. } = us.next().await else { panic!("somebody is connected") };
    link.say(hello("us-east"));
    assert!(link.send(FactStream::Ledger, entries(100)).await);
    let mut relayed = connection.open_uni().await.unwrap();
    relayed.write_all(&frame::encode(&entries(100), false)).await.unwrap();
    let (peer, none, ledger) = ("peer=\"eu-west\"", "stream=\"none\"", "stream=\"ledger\"");
    counted.counts("global_sync_sent_bytes_total", &[peer, "origin=\"none\"", none]).await;
    counted.counts("global_sync_sent_bytes_total", &[peer, "origin=\"us-east\"", ledger]).await;
    counted.counts("global_sync_received_bytes_total", &[peer, none]).await;
    counted.counts("global_sync_received_bytes_total", &[peer, ledger]).await;
    connection.close(VarInt::from_u32(0), b"");
    us.stop().await;
}

#[tokio::test]
async fn a_snapshot_has_a_connection_of_its_own_and_only_one_is_given_at_a_time() {
    let authority = Authority::new();
    let mut us = Listening::start(&authority, "us-east");
    let eu = Listening::start(&authority, "eu-west");
    let (region, address) = ("us-east".parse().unwrap(), us.address.to_string());
    let mut first = eu.mesh.ask_snapshot(&region, &address).await.unwrap();
    let MeshEvent::SnapshotWanted { region: who, pieces } = us.next().await else { panic!("a snapshot is wanted") };
    assert_eq!(who.as_str(), "eu-west");
    let mut second = eu.mesh.ask_snapshot(&region, &address).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(10), second.recv()).await.unwrap(), None, "another is being given");
    let said = [Piece::Table(0), Piece::Rows(vec![7; 1_000_000]), Piece::Rows(Vec::new()), Piece::End];
    for piece in &said {
        pieces.send(piece.clone()).await.unwrap();
    }
    for piece in &said {
        assert_eq!(timeout(Duration::from_secs(10), first.recv()).await.unwrap().as_ref(), Some(piece));
    }
    assert_eq!(first.recv().await, None);
    eu.stop().await;
    us.stop().await;
}

/// Passes packets on between whoever calls and `address`; what comes from there only while the way is open.
async fn pass_on(between: UdpSocket, address: SocketAddr, mut open: watch::Receiver<bool>) {
    let mut caller = None;
    let mut packet = [0; 2048];
    while let Ok((size, from)) = between.recv_from(&mut packet).await {
        let to = if from == address {
            if open.wait_for(|open| *open).await.is_err() {
                return;
            }
            caller
        } else {
            caller = Some(from);
            Some(address)
        };
        if let Some(to) = to {
            between.send_to(&packet[..size], to).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_urgent_overtakes_a_megabyte_of_entries_that_is_on_its_way() {
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let mut us = Listening::start(&authority, "us-east");
    let between = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap();
    let (open, way) = watch::channel(true);
    let (stop, passing) = (us.shutdown.clone(), pass_on(between, us.address, way));
    us.tasks.spawn(async move {
        stop.run_until_cancelled(passing).await;
    });
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = member.client_config(ALPN).unwrap();
    let connection = endpoint.connect_with(config, address, "gocomet.invalid").unwrap().await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(&hello("eu-west"), false)).await.unwrap();
    let MeshEvent::Connected { link, .. } = us.next().await else { panic!("somebody is connected") };
    let MeshEvent::Received { .. } = us.next().await else { panic!("it has said something") };

    open.send_replace(false);
    let entries = entries(500_000);
    // Two wait for the writer while a third one does not go into the stream's window of a megabyte any more.
    for _ in 0..5 {
        let sent = timeout(Duration::from_secs(10), link.send(FactStream::Ledger, entries.clone())).await;
        assert!(sent.expect("it is taken"));
    }
    link.say(hello("us-east"));
    open.send_replace(true);
    let mut before = 0;
    tokio::select! {
        heard = frame::read(&mut receive, frame::READ_WITHIN) => {
            assert!(matches!(heard, Ok(Some((Message::Hello(_), _)))));
        }
        () = async {
            let mut entries = connection.accept_uni().await.unwrap();
            while let Some(chunk) = entries.read_chunk(usize::MAX, true).await.unwrap() {
                before += chunk.bytes.len();
            }
        } => panic!("the stream of entries ends"),
    }
    assert!(before < 250_000, "{before} bytes of entries came first");
    us.stop().await;
}
