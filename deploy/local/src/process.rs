//! One child of ours: started with its own process group, log and working folder, written down for the guard, and
//! stopped, killed, frozen or thawed together with everything it started.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::sync::watch;

use crate::account::Account;
use crate::failure::Failure;
use crate::procs::ProcessId;
use crate::state::{PidRecord, State};
use crate::wait::until;

/// Everything needed to start a program, and to start it again.
#[derive(Clone, Debug)]
pub struct Spec {
    /// `us-east/postgres`: names it for people and its files.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub envs: Vec<(String, String)>,
    pub folder: PathBuf,
    pub log: PathBuf,
    /// Writes to this terminal instead of the log.
    pub to_terminal: bool,
    /// Another user to run as, for what refuses to run as root.
    pub account: Option<Account>,
    /// The signal that ends it orderly.
    pub stop: Signal,
    /// The signal with which the guard ends it: quick, without a word, but leaving no shared memory behind.
    pub abort: Signal,
}

/// Settings of the person's own shell that must not leak into a cluster.
const FOREIGN_SETTINGS: [&str; 4] = ["REGION_NODE_", "GLOBAL_SYNC_", "PG", "OTEL_"];

/// A started program.
#[derive(Debug)]
pub struct Process {
    pub id: ProcessId,
    pub spec: Spec,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts a program and writes its number down where the guard finds it.
    pub fn start(spec: Spec, state: &State) -> anyhow::Result<Self> {
        std::fs::create_dir_all(spec.log.parent().expect("a log file lies in a folder"))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot write {}", spec.log.display()))?;
        let mut command = Command::new(&spec.program);
        for (name, _) in std::env::vars_os() {
            let foreign =
                name.to_str().is_some_and(|name| FOREIGN_SETTINGS.iter().any(|prefix| name.starts_with(prefix)));
            if foreign {
                command.env_remove(name);
            }
        }
        command.args(&spec.args).envs(spec.envs.iter().cloned()).current_dir(&spec.folder).process_group(0);
        command.stdin(Stdio::null()).stderr(log.try_clone()?);
        command.stdout(if spec.to_terminal { Stdio::inherit() } else { log.into() });
        if let Some(account) = &spec.account {
            command.uid(account.uid).gid(account.gid);
        }
        let mut child = command.spawn().map_err(|error| {
            Failure::new(
                format!("{} cannot be started ({}: {error})", spec.name, spec.program.display()),
                "build it with `cargo build --workspace`",
            )
        })?;
        let id = ProcessId::of(child.id()).unwrap_or(ProcessId { pid: child.id(), started: String::new() });
        let record = state.record(&PidRecord { name: spec.name.clone(), id: id.clone(), abort: spec.abort as i32 })?;
        let (sender, exit) = watch::channel(None);
        // A thread, not a task: it must collect the child whatever becomes of the runtime that started it.
        std::thread::Builder::new().name(format!("wait {}", spec.name)).spawn(move || {
            let status = child.wait().ok();
            let _ = std::fs::remove_file(record);
            sender.send_replace(Some(status.unwrap_or_default()));
        })?;
        Ok(Self { id, spec, exit })
    }

    /// How it ended, if it did.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    pub fn is_running(&self) -> bool {
        self.exited().is_none()
    }

    /// Waits until it ends.
    pub async fn ended(&self) {
        let _ = self.exit.clone().wait_for(Option::is_some).await;
    }

    /// Ends it orderly, or by force when `grace` is over; nothing it started outlives it.
    pub async fn stop(&self, grace: Duration) {
        self.end(self.spec.stop, grace).await;
    }

    /// Ends it quickly where what it has on disk is thrown away anyhow.
    pub(crate) async fn abort(&self, grace: Duration) {
        self.end(self.spec.abort, grace).await;
    }

    async fn end(&self, how: Signal, grace: Duration) {
        let tree = self.id.tree();
        signal(&tree, Signal::SIGCONT);
        self.id.signal(how);
        let _ = tokio::time::timeout(grace, self.ended()).await;
        self.finish(tree).await;
    }

    /// Ends it and everything it started as a crash would: at once, without a word to it.
    pub async fn kill(&self) {
        self.finish(self.id.tree()).await;
    }

    /// Stops the clock for it: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        signal(&self.id.tree(), Signal::SIGSTOP);
    }

    /// Lets a frozen program go on.
    pub fn thaw(&self) {
        signal(&self.id.tree(), Signal::SIGCONT);
    }

    async fn finish(&self, tree: Vec<ProcessId>) {
        signal(&tree, Signal::SIGKILL);
        self.ended().await;
        let gone = || async { tree.iter().all(|id| !id.is_running()).then_some(()) };
        until(Duration::from_secs(10), gone).await;
    }
}

fn signal(tree: &[ProcessId], signal: Signal) {
    for id in tree {
        id.signal(signal);
    }
}
