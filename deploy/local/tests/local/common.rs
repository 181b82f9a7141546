//! What these tests share: the built program, a folder of their own, and a look at what still runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) fn local() -> Command {
    Command::new(env!("CARGO_BIN_EXE_local"))
}

/// A folder that does not exist yet, for one test.
pub(crate) fn folder(test: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()))
}

/// A port nobody uses, below those the system gives to outgoing connections: one of theirs could be taken, even by its own
/// client, while a relay changes its listener.
pub(crate) fn free_port() -> u16 {
    std::iter::repeat_with(|| rand::random_range(10_000..32_000))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("the iterator has no end")
}

/// What a program printed, both ways.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits for a condition, half a minute at most.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process still runs (one that ended but was not waited for does not).
pub(crate) fn runs(pid: u32) -> bool {
    deploy_local::ProcessId::of(pid).is_some_and(|id| id.is_running())
}

/// Asks a database and returns what psql printed.
pub(crate) fn psql(url: &str, sql: &str) -> String {
    let output = Command::new("psql").args([url, "-XAtqc", sql]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output).trim().to_owned()
}
