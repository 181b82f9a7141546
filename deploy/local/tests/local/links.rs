//! The relays between regions: what they delay, lose and stop.

use std::net::SocketAddr;
use std::time::Duration;

use deploy_local::{Carried, Links, Route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::common;

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for a datagram that is coming at all to come.
const A_WHILE: Duration = Duration::from_millis(300);

/// A region that echoes, behind a relay from `a` to `b`.
struct Rig {
    links: Links,
    relay: SocketAddr,
    _echoes: TaskTracker,
}

impl Rig {
    async fn new() -> Self {
        let (streams, datagrams) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (tcp, udp) = (streams.local_addr().unwrap(), datagrams.local_addr().unwrap());
        let echoes = TaskTracker::new();
        let tracker = echoes.clone();
        echoes.spawn(async move {
            while let Ok((mut stream, _)) = streams.accept().await {
                tracker.spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        });
        echoes.spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = datagrams.recv_from(&mut buffer).await {
                let _ = datagrams.send_to(&buffer[..length], from).await;
            }
        });
        let links = Links::new().unwrap();
        let listen = common::free_port();
        // The other way needs a relay of its own; nothing listens behind it.
        links.open("a", "b", Route { listen, tcp: vec![tcp], udp: vec![udp] }).await.unwrap();
        Self { links, relay: SocketAddr::from(([127, 0, 0, 1], listen)), _echoes: echoes }
    }

    async fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.relay).await.unwrap();
        socket
    }
}

/// Sends a datagram and says how long its echo took, if it came.
async fn echo(socket: &UdpSocket) -> Option<Duration> {
    let start = Instant::now();
    socket.send(b"hello").await.unwrap();
    let mut buffer = [0; 16];
    timeout(A_WHILE + Duration::from_millis(400), socket.recv(&mut buffer)).await.ok()?.ok()?;
    Some(start.elapsed())
}

#[tokio::test]
async fn a_delay_is_paid_once_each_way() {
    let rig = Rig::new().await;
    let socket = rig.socket().await;
    assert!(echo(&socket).await.unwrap() < Duration::from_millis(80));
    rig.links.change("a", "b", |way| way.delay = Duration::from_millis(100)).unwrap();
    assert!(echo(&socket).await.unwrap() >= Duration::from_millis(100));
    rig.links.change("b", "a", |way| way.delay = Duration::from_millis(150)).unwrap();
    assert!(echo(&socket).await.unwrap() >= Duration::from_millis(250));
    let mut stream = TcpStream::connect(rig.relay).await.unwrap();
    let start = Instant::now();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
}

#[tokio::test]
async fn datagrams_are_lost_in_the_share_asked_for() {
    let rig = Rig::new().await;
    let socket = rig.socket().await;
    rig.links.change("a", "b", |way| way.loss = 0.5).unwrap();
    let mut buffer = [0; 16];
    let mut arrived = 0;
    for _ in 0..10 {
        for _ in 0..40 {
            socket.send(b"x").await.unwrap();
        }
        while timeout(Duration::from_millis(50), socket.recv(&mut buffer)).await.is_ok() {
            arrived += 1;
        }
    }
    assert!((120..=280).contains(&arrived), "{arrived} of 400 arrived");
    rig.links.change("a", "b", |way| way.loss = 1.0).unwrap();
    assert_eq!(echo(&socket).await, None);
}

#[tokio::test]
async fn a_cut_one_way_stops_questions_or_answers_and_healing_brings_them_back() {
    let rig = Rig::new().await;
    let socket = rig.socket().await;
    for (from, to) in [("a", "b"), ("b", "a")] {
        rig.links.change(from, to, |way| way.cut = true).unwrap();
        assert_eq!(echo(&socket).await, None, "{from} to {to}");
        rig.links.change(from, to, |way| way.cut = false).unwrap();
        assert!(echo(&socket).await.is_some());
    }
}

#[tokio::test]
async fn what_travels_is_counted_each_way_lost_or_not() {
    let rig = Rig::new().await;
    let socket = rig.socket().await;
    assert!(echo(&socket).await.is_some());
    rig.links.change("b", "a", |way| way.loss = 1.0).unwrap();
    assert_eq!(echo(&socket).await, None);
    let mut stream = TcpStream::connect(rig.relay).await.unwrap();
    stream.write_all(b"streamed").await.unwrap();
    stream.read_exact(&mut [0; 8]).await.unwrap();
    for (from, to) in [("a", "b"), ("b", "a")] {
        assert_eq!(rig.links.carried(from, to).unwrap(), Carried { streams: 8, datagrams: 10 }, "{from} to {to}");
    }
    assert!(rig.links.carried("a", "c").is_err());
}

#[tokio::test]
async fn a_stream_waits_out_a_cut_and_loses_nothing() {
    let rig = Rig::new().await;
    let mut stream = TcpStream::connect(rig.relay).await.unwrap();
    stream.write_all(b"before").await.unwrap();
    stream.read_exact(&mut [0; 6]).await.unwrap();
    rig.links.change("b", "a", |way| way.cut = true).unwrap();
    stream.write_all(b"during").await.unwrap();
    let mut answer = [0; 6];
    assert!(timeout(A_WHILE, stream.read_exact(&mut answer)).await.is_err());
    rig.links.change("b", "a", |way| way.cut = false).unwrap();
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"during");
}

#[tokio::test]
async fn nobody_answers_who_knocks_at_a_cut_link() {
    let rig = Rig::new().await;
    rig.links.change("b", "a", |way| way.cut = true).unwrap();
    let knocks_in_vain = async {
        while timeout(A_WHILE, TcpStream::connect(rig.relay)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, knocks_in_vain).await.unwrap();
    rig.links.change("b", "a", |way| way.cut = false).unwrap();
    let mut stream = timeout(PATIENCE, TcpStream::connect(rig.relay)).await.unwrap().unwrap();
    stream.write_all(b"again").await.unwrap();
    timeout(PATIENCE, stream.read_exact(&mut [0; 5])).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_knocks_just_as_a_link_is_cut_does_not_keep_it_cut() {
    let rig = Rig::new().await;
    for _ in 0..20 {
        // Some of these are still waiting to be taken when the way is cut.
        let mut knocks = JoinSet::new();
        for _ in 0..8 {
            knocks.spawn(timeout(A_WHILE, TcpStream::connect(rig.relay)));
        }
        rig.links.change("b", "a", |way| way.cut = true).unwrap();
        knocks.join_all().await;
        rig.links.change("b", "a", |way| way.cut = false).unwrap();
        let mut stream = timeout(PATIENCE, TcpStream::connect(rig.relay)).await.unwrap().unwrap();
        stream.write_all(b"again").await.unwrap();
        timeout(PATIENCE, stream.read_exact(&mut [0; 5])).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_end_of_a_stream_passes_through() {
    let rig = Rig::new().await;
    let mut stream = TcpStream::connect(rig.relay).await.unwrap();
    stream.write_all(b"all").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"all");
}

#[tokio::test]
async fn datagrams_find_the_second_target_when_the_first_is_gone() {
    let second = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let listen = common::free_port();
    let links = Links::new().unwrap();
    links
        .open("a", "b", Route { listen, tcp: Vec::new(), udp: vec![nobody, second.local_addr().unwrap()] })
        .await
        .unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let knocking = async {
        loop {
            socket.send_to(b"knock", ("127.0.0.1", listen)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut buffer = [0; 16];
    let arrived = async { second.recv(&mut buffer).await.unwrap() };
    let length = tokio::select! {
        length = timeout(PATIENCE, arrived) => length.unwrap(),
        () = knocking => 0,
    };
    assert_eq!(length, 5);
}
