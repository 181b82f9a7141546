//! `local up` as a person uses it, with the databases alone: the programs they serve have tests of their own.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::common::{folder, local, psql, runs, text, wait_for};
use deploy_local::{ClusterFile, ProcessId};

/// A cluster in the background that is stopped whatever becomes of the test.
struct Up {
    dir: PathBuf,
}

impl Up {
    fn start(test: &str, base: u16, regions: &str) -> Self {
        let up = Self { dir: folder(test) };
        let output = up.local(&[
            "up",
            "--detach",
            "--no-sim",
            "--region-nodes",
            "0",
            "--global-syncs",
            "0",
            "--regions",
            regions,
            "--port-base",
            &base.to_string(),
        ]);
        assert!(output.status.success(), "{}", text(&output));
        up
    }

    fn local(&self, args: &[&str]) -> Output {
        local().arg("--state-dir").arg(&self.dir).args(args).output().unwrap()
    }

    fn done(&self, args: &[&str]) {
        let output = self.local(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
    }

    fn file(&self) -> ClusterFile {
        serde_json::from_slice(&std::fs::read(self.dir.join("cluster.json")).unwrap()).unwrap()
    }

    fn postgres_url(&self, region: &str) -> String {
        self.file().regions.into_iter().find(|entry| entry.name == region).unwrap().postgres_url
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.local(&["down"]);
    }
}

fn everything(file: &ClusterFile) -> Vec<u32> {
    let started = file.regions.iter().flat_map(|region| region.pids.values().copied());
    started
        .chain([file.supervisor_pid])
        .flat_map(|pid| ProcessId::of(pid).map(|id| id.tree()).unwrap_or_default())
        .map(|id| id.pid)
        .collect()
}

/// A base whose ports nobody uses; each test its own. Below the blocks from which clusters that may be anywhere choose: one of
/// those runs beside the tests.
fn base(n: u16) -> u16 {
    1_300 + n * 800
}

fn data_of(pid: u32) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap()
}

#[test]
fn a_detached_cluster_runs_until_down_and_leaves_nothing() {
    let up = Up::start("detached", base(0), "us-east,eu-west");
    let file = up.file();
    assert_eq!(file.regions.iter().map(|region| region.name.as_str()).collect::<Vec<_>>(), ["us-east", "eu-west"]);
    assert_eq!(file.regions[0].redis_url, format!("redis://127.0.0.1:{}", base(0) + 4));
    assert_eq!(psql(&up.postgres_url("us-east"), "SELECT 1"), "1");
    let all = everything(&file);
    let data = data_of(file.regions[0].pids["postgres"]);
    assert!(text(&up.local(&["status"])).contains("2 links, all healthy"));
    let words = up.dir.join("supervisor.log");
    std::fs::write(&words, "what the supervisor said").unwrap();
    let again = up.local(&["up", "--detach", "--no-sim"]);
    assert_eq!(std::fs::read_to_string(&words).unwrap(), "what the supervisor said");
    assert!(
        text(&again).contains("a cluster already runs from") && text(&again).contains("make down"),
        "{}",
        text(&again)
    );
    let down = up.local(&["down"]);
    assert_eq!(text(&down).trim(), "stopped");
    assert!(!all.iter().any(|pid| runs(*pid)), "something outlived `down`");
    assert!(!up.dir.exists() && !data.exists());
    assert_eq!(text(&up.local(&["down"])).trim(), "nothing runs here");
}

#[test]
fn a_killed_supervisor_takes_everything_with_it() {
    let up = Up::start("killed", base(1), "us-east");
    let file = up.file();
    let all = everything(&file);
    let data = data_of(file.regions[0].pids["postgres"]);
    ProcessId::of(file.supervisor_pid).unwrap().signal(nix::sys::signal::Signal::SIGKILL);
    wait_for("all have ended", || !all.iter().any(|pid| runs(*pid)));
    wait_for("the folders are gone", || !up.dir.exists() && !data.exists());
}

#[test]
fn what_a_killed_guard_could_not_clean_the_next_start_does() {
    let up = Up::start("stale", base(2), "us-east");
    let file = up.file();
    let all = everything(&file);
    let supervisor = ProcessId::of(file.supervisor_pid).unwrap();
    let is_guard = |id: &ProcessId| {
        std::fs::read(format!("/proc/{}/cmdline", id.pid))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"guard"))
    };
    let guard = supervisor.tree().into_iter().find(is_guard).unwrap();
    guard.signal(nix::sys::signal::Signal::SIGKILL);
    supervisor.signal(nix::sys::signal::Signal::SIGKILL);
    wait_for("both have ended", || !guard.is_running() && !supervisor.is_running());
    assert!(runs(file.regions[0].pids["postgres"]), "nobody was there to end it");
    let again = Up::start("stale", base(2), "us-east");
    assert!(!all.iter().any(|pid| runs(*pid)), "the old cluster still runs");
    assert_eq!(psql(&again.postgres_url("us-east"), "SELECT 1"), "1");
}

#[test]
fn a_busy_port_ends_the_start_with_its_number_and_the_way_out() {
    let taken = TcpListener::bind(("127.0.0.1", base(3) + 23)).unwrap();
    let dir = folder("busy");
    let args = [
        "up",
        "--no-sim",
        "--region-nodes",
        "0",
        "--global-syncs",
        "0",
        "--regions",
        "us-east,eu-west",
        "--port-base",
        &base(3).to_string(),
    ];
    let output = local().arg("--state-dir").arg(&dir).args(args).stdin(Stdio::null()).output().unwrap();
    drop(taken);
    assert_eq!(output.status.code(), Some(1));
    let line = format!(
        "port {}, needed for eu-west/postgres, is in use; stop what uses it or choose other ports, for example `make up PORT_BASE={}`",
        base(3) + 23,
        base(3) + 1600
    );
    assert_eq!(text(&output).trim(), line);
    assert!(!dir.exists());
}

#[test]
fn a_busy_relay_port_ends_a_detached_start_and_leaves_nothing() {
    let link = base(7) + 400 + 1;
    let taken = UdpSocket::bind(("127.0.0.1", link)).unwrap();
    let dir = folder("busy-relay");
    let args = ["up", "--detach", "--no-sim", "--region-nodes", "0", "--global-syncs", "0"];
    let more = ["--regions", "us-east,eu-west", "--port-base", &base(7).to_string()];
    let output = local().arg("--state-dir").arg(&dir).args(args).args(more).output().unwrap();
    drop(taken);
    assert_eq!(output.status.code(), Some(1));
    let begins = format!("UDP port {link}, needed for the relay us-east → eu-west, is in use; stop what uses it");
    assert!(text(&output).trim().starts_with(&begins) && text(&output).lines().count() == 1, "{}", text(&output));
    assert!(!dir.exists());
}

#[test]
fn programs_are_killed_restarted_and_taken_back_to_a_backup() {
    let up = Up::start("drills", base(4), "us-east,eu-west");
    let url = up.postgres_url("us-east");
    psql(&url, "CREATE TABLE notes (n int)");
    psql(&url, "INSERT INTO notes VALUES (1)");
    up.done(&["backup", "us-east"]);
    psql(&url, "INSERT INTO notes VALUES (2)");
    let first = up.file().regions[0].pids["postgres"];
    up.done(&["kill", "us-east", "postgres"]);
    assert!(!runs(first) && !up.file().regions[0].pids.contains_key("postgres"));
    up.done(&["restart", "us-east", "postgres"]);
    assert_eq!(psql(&url, "SELECT count(*) FROM notes"), "2", "an acknowledged row outlives SIGKILL");
    up.done(&["restore", "us-east"]);
    assert_eq!(psql(&url, "SELECT count(*) FROM notes"), "1");
    up.done(&["link", "us-east", "eu-west", "cut", "--one-way"]);
    up.done(&["link", "eu-west", "us-east", "delay", "80", "--one-way"]);
    let status = text(&up.local(&["status"]));
    assert!(status.contains("us-east → eu-west: cut") && status.contains("eu-west → us-east: 80 ms late"), "{status}");
    up.done(&["link", "heal"]);
    assert!(text(&up.local(&["status"])).contains("all healthy"));
    assert!(text(&up.local(&["logs", "us-east", "postgres"])).contains("ready to accept connections"));
    let unknown = text(&up.local(&["kill", "us-east", "mysql"]));
    assert!(unknown.contains("no service mysql"), "{unknown}");
}

#[test]
fn a_region_joins_and_leaves_a_running_cluster() {
    let up = Up::start("joining", base(5), "us-east,eu-west");
    up.done(&["region", "add", "sa-east"]);
    let file = up.file();
    let added = file.regions.iter().find(|region| region.name == "sa-east").unwrap();
    assert_eq!(psql(&added.postgres_url, "SELECT 1"), "1");
    for name in ["ca.pem", "node.pem", "node.key", "signing.pem", "signing.key"] {
        assert!(Path::new(&added.certificates).join(name).exists(), "{name}");
    }
    let twice = up.local(&["region", "add", "sa-east"]);
    assert!(!twice.status.success() && text(&twice).contains("there is a region sa-east already"));
    let data = data_of(added.pids["postgres"]);
    up.done(&["region", "remove", "sa-east"]);
    assert!(!data.exists() && up.file().regions.len() == 2);
    assert!(!added.pids.values().any(|pid| runs(*pid)));
}

#[test]
fn ctrl_c_while_starting_leaves_nothing() {
    let dir = folder("interrupted");
    let args = ["up", "--no-sim", "--region-nodes", "0", "--global-syncs", "0", "--port-base", &base(6).to_string()];
    let child =
        local().arg("--state-dir").arg(&dir).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = ProcessId::of(child.id()).unwrap();
    wait_for("the start has begun", || dir.join("owner.json").exists());
    let tree = id.tree();
    id.signal(nix::sys::signal::Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert!(text(&output).contains("the start was interrupted"), "{}", text(&output));
    assert!(!dir.exists() && !tree.iter().any(ProcessId::is_running));
}
