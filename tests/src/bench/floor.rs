//! What no server on this machine can do better: a bare epoll loop that reads and forgets, and socketioxide with a handler
//! that only counts. Each runs in a process of its own, so that its CPU can be told from the load's.

use std::{
    io::{self, Read},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpListener};
use serde::Deserialize;
use socketioxide::{
    SocketIo,
    extract::{Data, SocketRef},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// A floor that runs.
pub struct Floor {
    /// `127.0.0.1:port`.
    pub address: String,
    pub pid: u32,
    _child: Child,
}

impl Floor {
    /// Starts this very program as `sink` or `echo`.
    pub async fn start(which: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--floor", which]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().context("it ended at once")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        let address = lines.next_line().await?.with_context(|| format!("the floor '{which}' did not start"))?;
        Ok(Self { address, pid, _child: child })
    }
}

/// Is a floor, until killed.
pub fn serve(which: &str) -> anyhow::Result<()> {
    match which {
        "sink" => sink(),
        "echo" => tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(echo()),
        other => anyhow::bail!("there is no floor '{other}': sink, echo"),
    }
}

#[expect(clippy::print_stdout, reason = "its parent reads the address there")]
fn tell(address: impl std::fmt::Display) {
    println!("{address}");
}

fn sink() -> anyhow::Result<()> {
    const LISTENER: Token = Token(usize::MAX);
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    tell(listener.local_addr()?);
    let (mut events, mut streams, mut buffer) = (Events::with_capacity(1_024), Vec::new(), [0; 4_096]);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() != LISTENER {
                read_all(&mut streams[event.token().0], &mut buffer)?;
                continue;
            }
            loop {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        poll.registry().register(&mut stream, Token(streams.len()), Interest::READABLE)?;
                        streams.push(stream);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// One read takes a fleet's message; a second would only learn that there is no more.
fn read_all(stream: &mut mio::net::TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match stream.read(buffer) {
            Ok(read) if read == buffer.len() => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// A position as a device sends it.
#[derive(Deserialize)]
struct Report {
    lat: f64,
    lng: f64,
}

async fn echo() -> anyhow::Result<()> {
    let (layer, io) = SocketIo::new_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("location:update", async |Data(report): Data<Report>| {
            if report.lat.is_finite() && report.lng.is_finite() {
                TAKEN.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    tell(listener.local_addr()?);
    let served = axum::serve(listener, axum::Router::new().layer(layer)).await;
    ensure!(served.is_ok(), "the floor cannot serve");
    Ok(())
}
