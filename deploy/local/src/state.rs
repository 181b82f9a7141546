//! The state folder: what a cluster writes down about itself, and how all of it is taken away again.
//!
//! Whoever holds this folder can end the cluster without having started it: the guard after a crash, `make down`, or
//! the next `make up` when even the guard was killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::account::{Account, make_folder, reachable_folder};
use crate::failure::Failure;
use crate::guard::Guard;
use crate::postgres;
use crate::procs::{ProcessId, working_in};

/// Where things lie.
#[derive(Clone, Debug)]
pub struct State {
    /// `.local`, or a folder of its own for a test.
    pub dir: PathBuf,
    /// Data folders; elsewhere when Postgres' user cannot reach `dir`.
    pub data: PathBuf,
}

/// Who runs the cluster of a state folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Owner {
    pub supervisor: ProcessId,
    pub guard: Option<ProcessId>,
    pub data: PathBuf,
    pub control: PathBuf,
    pub port_base: u16,
}

/// A started program, for those who may have to end it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PidRecord {
    pub name: String,
    pub id: ProcessId,
    pub abort: i32,
}

/// Everything a cluster creates in its state folder; nothing else there is ever removed.
const CONTENTS: [&str; 10] = [
    "cluster.json",
    "supervisor.log",
    "data",
    "regions",
    "certificates",
    "roads",
    "pids",
    "logs",
    "control.sock",
    "owner.json",
];

/// Where the logs of a failed start are kept until the next.
pub const KEPT_LOGS: &str = "logs-of-failure";

/// Programs a cluster runs, by the names the kernel knows them (cut at 15 characters).
const PROGRAMS: [&str; 9] = [
    "postgres",
    "redis-server",
    "valkey-server",
    "region-node",
    "global-sync",
    "demo",
    "cp",
    "initdb",
    "pg_basebackup",
];

impl State {
    /// Takes a folder for a new cluster.
    pub fn claim(dir: &Path, account: Option<&Account>, port_base: u16) -> anyhow::Result<Self> {
        make_folder(dir)?;
        let dir = dir.canonicalize()?;
        let _ = std::fs::remove_dir_all(dir.join(KEPT_LOGS));
        let data = reachable_folder(&dir.join("data"), account)?;
        let state = Self { dir, data };
        for folder in ["pids", "logs", "regions", "certificates"] {
            make_folder(&state.dir.join(folder))?;
        }
        let owner = Owner {
            supervisor: ProcessId::own(),
            guard: None,
            data: state.data.clone(),
            control: state.control_socket(),
            port_base,
        };
        write_json(&state.dir.join("owner.json"), &owner)?;
        Ok(state)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    pub fn cluster_file(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// A socket's path must be short, so a deep state folder gets one elsewhere.
    pub fn control_socket(&self) -> PathBuf {
        let near = self.dir.join("control.sock");
        if near.as_os_str().len() < 100 {
            near
        } else {
            std::env::temp_dir().join(format!("gocomet-{}.sock", std::process::id()))
        }
    }

    /// Writes down who cleans up when this process cannot.
    pub fn record_guard(&self, guard: &Guard) -> anyhow::Result<()> {
        let owner = Owner::read(&self.dir).map(|owner| Owner { guard: guard.id(), ..owner });
        owner.map_or(Ok(()), |owner| write_json(&self.dir.join("owner.json"), &owner))
    }

    /// Writes down a started program.
    pub fn record(&self, record: &PidRecord) -> anyhow::Result<PathBuf> {
        let file = self.dir.join("pids").join(format!("{}.json", record.name.replace('/', ".")));
        write_json(&file, record)?;
        Ok(file)
    }
}

impl Owner {
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join("owner.json")).ok()?).ok()
    }
}

/// Makes sure that no cluster runs from `dir` and that nothing is left of one that crashed; says whether something was.
pub fn settle(dir: &Path) -> anyhow::Result<bool> {
    let Some(owner) = Owner::read(dir) else { return Ok(false) };
    if owner.supervisor.is_running() {
        let cause = format!("a cluster already runs from {} (process {})", dir.display(), owner.supervisor.pid);
        let fix = "stop it with `make down`, or start another beside it with `make up STATE=.local-2 PORT_BASE=19600`";
        return Err(Failure::new(cause, fix).into());
    }
    // Its guard is at work: two sweeping at once could take away what comes next.
    wait_gone(owner.guard.as_slice(), Duration::from_secs(20));
    sweep(dir);
    Ok(true)
}

/// Ends every program of the cluster whose state lies in `dir` and removes its files. Blocks for seconds at most.
pub fn sweep(dir: &Path) {
    let owner = Owner::read(dir);
    let mut trees = Vec::new();
    for record in records(dir) {
        let tree = record.id.tree();
        for id in &tree {
            id.signal(Signal::SIGCONT);
        }
        record.id.signal(Signal::try_from(record.abort).unwrap_or(Signal::SIGKILL));
        trees.extend(tree);
    }
    let folders: Vec<PathBuf> = owner.iter().map(|owner| owner.data.clone()).chain(dir.canonicalize()).collect();
    trees.extend(working_in(&folders, &PROGRAMS));
    wait_gone(&trees, Duration::from_secs(5));
    for id in &trees {
        id.signal(Signal::SIGKILL);
    }
    wait_gone(&trees, Duration::from_secs(5));
    remove(dir, owner.as_ref());
}

/// Removes a cluster's files, its description first, its owner last.
pub fn remove(dir: &Path, owner: Option<&Owner>) {
    if let Some(owner) = owner {
        let regions = std::fs::read_dir(&owner.data).into_iter().flatten().flatten().map(|region| region.path());
        for folder in regions.chain([owner.data.clone()]) {
            postgres::release(&folder.join("postgres"));
        }
        let _ = std::fs::remove_dir_all(&owner.data);
        let _ = std::fs::remove_file(&owner.control);
    }
    for name in CONTENTS {
        let path = dir.join(name);
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
    let _ = std::fs::remove_dir(dir);
}

/// Writes a file so that a reader sees the old content or the new, never half of it.
pub fn write_json(file: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write_private(file, text.as_bytes())
}

/// Writes a file that only its owner can read, replacing it in one step.
pub fn write_private(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = file.with_extension(format!("new-{}", crate::secrets::hex(4)));
    let write = || -> std::io::Result<()> {
        std::fs::File::options().create_new(true).write(true).mode(0o600).open(&fresh)?.write_all(content)?;
        std::fs::rename(&fresh, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

fn records(dir: &Path) -> Vec<PidRecord> {
    let files = std::fs::read_dir(dir.join("pids")).into_iter().flatten().flatten();
    files.filter_map(|file| serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()).collect()
}

fn wait_gone(ids: &[ProcessId], limit: Duration) {
    let step = Duration::from_millis(20);
    for _ in 0..limit.as_millis() / step.as_millis() {
        if ids.iter().all(|id| !id.is_running()) {
            return;
        }
        std::thread::sleep(step);
    }
}
