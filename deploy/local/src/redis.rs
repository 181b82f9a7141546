//! A Redis (or Valkey) of our own: nothing kept on disk, for nothing in it is the truth.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Spec;

/// How to start a server.
pub(crate) fn spec(program: &Path, name: String, folder: PathBuf, port: u16, log: PathBuf) -> Spec {
    let port = port.to_string();
    let args =
        ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", "."];
    Spec {
        name,
        program: program.to_owned(),
        args: args.map(str::to_owned).to_vec(),
        envs: Vec::new(),
        folder,
        log,
        to_terminal: false,
        account: None,
        stop: Signal::SIGTERM,
        abort: Signal::SIGKILL,
    }
}

pub(crate) fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// Whether a server answers.
pub(crate) async fn answers(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(b"PING\r\n").await.ok()?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await.ok()?;
    (&answer == b"+PONG\r\n").then_some(())
}
