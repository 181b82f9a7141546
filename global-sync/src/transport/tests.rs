//! A mesh and whoever calls it: strangers, impostors, and members that do not keep to the wire.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    protocol::{Hello, MAX_FRAME_BYTES, MemberState, Message, Origin},
    store::Piece,
};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Credentials of a region of a cluster.
    fn credentials(&self, cluster: &str, region: &str) -> Credentials {
        let folder: PathBuf = std::env::temp_dir().join(format!("gocomet-tls-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(format!("gocomet://{cluster}/{region}").try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let files = ["ca.pem", "node.pem", "node.key"].map(|name| folder.join(name));
        std::fs::write(&files[0], &self.pem).unwrap();
        std::fs::write(&files[1], params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&files[2], key.serialize_pem()).unwrap();
        let credentials =
            Credentials::load(&files[0], &files[1], &files[2], cluster, &region.parse().unwrap()).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        credentials
    }
}

struct Listening {
    mesh: Mesh,
    events: mpsc::Receiver<MeshEvent>,
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: tokio_util::task::TaskTracker,
}

impl Listening {
    fn start(authority: &Authority, region: &str) -> Self {
        let credentials = authority.credentials("c1", region);
        let any = "127.0.0.1:0".parse().unwrap();
        let (mesh, events) = Mesh::listen(any, &credentials, "c1", Duration::from_secs(60)).unwrap();
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
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = credentials.client_config(ALPN).unwrap();
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
async fn certificates_of_another_authority_or_cluster_get_no_connection() {
    let authority = Authority::new();
    let mut us = Listening::start(&authority, "us-east");
    for stranger in [Authority::new().credentials("c1", "eu-west"), authority.credentials("c2", "eu-west")] {
        // The server is believed by neither or the client refused by it: either way nobody is connected.
        if let Ok(connection) = us.called_by(&stranger).await {
            let _ = connection.open_bi().await;
            ended(&connection).await;
        }
    }
    assert!(us.events.try_recv().is_err(), "nobody was connected");
    us.stop().await;
}

#[tokio::test]
async fn whoever_answers_for_another_region_is_hung_up_on() {
    let authority = Authority::new();
    let us = Listening::start(&authority, "us-east");
    let mut impostor = Listening::start(&authority, "ap-south");
    let refused = us.mesh.dial(&"eu-west".parse().unwrap(), &impostor.address.to_string()).await.unwrap_err();
    assert!(refused.to_string().contains("ap-south"), "{refused}");
    let refused = us.mesh.ask_snapshot(&"eu-west".parse().unwrap(), &impostor.address.to_string()).await;
    assert!(refused.is_err());
    assert!(!matches!(impostor.events.try_recv(), Ok(MeshEvent::Connected { .. })));
    us.stop().await;
    impostor.stop().await;
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection_and_reach_nobody() {
    let authority = Authority::new();
    let member = authority.credentials("c1", "eu-west");
    let mut us = Listening::start(&authority, "us-east");
    let oversized = u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_be_bytes();
    let packed = frame::encode(&Message::Advert(crate::protocol::Advert::default()), true);
    let bad: [&[u8]; 5] = [
        &[0, 0, 0, 0, 1],
        &[&oversized[..], &[1]].concat(),
        &[255, 255, 255, 255, 5],
        // A hello that is no protobuf, and something packed that does not unpack.
        &[0, 0, 0, 4, 1, 255, 255, 255],
        &[0, 0, 0, 6, 0x85, 0, 0, 0, 9, 1],
    ];
    let truncated = [&[0, 0, 1, 0, 1][..], &packed].concat();
    for bytes in bad.into_iter().chain([truncated.as_slice()]) {
        let connection = us.called_by(&member).await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        send.finish().unwrap();
        let ConnectionError::ApplicationClosed(close) = ended(&connection).await else { panic!("closed by us") };
        assert_eq!(close.error_code, VarInt::from_u32(2), "{bytes:?}");
        assert!(matches!(us.next().await, MeshEvent::Connected { dialed: false, .. }));
        assert!(matches!(us.next().await, MeshEvent::Disconnected { .. }));
    }
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
    let Ok(Some((Message::Hello(heard), _))) = frame::read(&mut receive).await else { panic!("a hello") };
    assert_eq!(heard.features & frame::ZSTD, frame::ZSTD);
    assert!(matches!(us.next().await, MeshEvent::Received { message: Message::Hello(_), .. }));
    let Message::Hello(long) = hello("us-east") else { unreachable!() };
    let long = Message::Hello(Hello { kinds: vec!["settlement".to_owned(); 200], ..long });
    link.say(long.clone());
    let (_, plain) = frame::read(&mut receive).await.unwrap().unwrap();
    assert!(plain > 2_000, "{plain}");
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
