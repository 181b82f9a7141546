//! The guard: a second process that outlives a crash of the first and cleans up after it.
//!
//! It holds the reading end of a pipe whose writing end only the supervisor has. Nothing is ever written; when the
//! supervisor ends, however it ends, the kernel closes the pipe and the guard sweeps the state folder. It has a process
//! group of its own, so that Ctrl-C in a terminal or a killed test group does not take it along.

use std::io::{PipeWriter, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use crate::procs::ProcessId;
use crate::state::{State, sweep};

/// The supervisor's hold on its guard; dropping it makes the guard clean up, and waits until it has.
#[derive(Debug)]
pub struct Guard {
    pipe: Option<PipeWriter>,
    process: Child,
}

impl Guard {
    /// Starts a guard over a cluster's state folder. `program` is the binary `local`.
    pub fn start(program: &Path, state: &State) -> anyhow::Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let process = Command::new(program)
            .arg("guard")
            .arg(&state.dir)
            .current_dir("/")
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!("cannot start the guard {}; build it with `cargo build -p deploy-local`", program.display())
            })?;
        let guard = Self { pipe: Some(writer), process };
        state.record_guard(&guard)?;
        Ok(guard)
    }

    /// Which process it is.
    pub(crate) fn id(&self) -> Option<ProcessId> {
        ProcessId::of(self.process.id())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.process.wait();
    }
}

/// What the guard process does: waits for the supervisor's end, then sweeps.
pub fn watch(state_dir: &Path) {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    sweep(state_dir);
}
