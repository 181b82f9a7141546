//! A cluster as a person starts it: by the command behind `make up`, in the background.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use deploy_local::{ClusterFile, Programs};

/// Ports one cluster takes, and where its folder is looked for.
const BLOCK: u16 = 800;
const TRIES: usize = 20;

/// A running cluster with a supervisor of its own; whatever becomes of the test it is stopped.
pub struct Up {
    program: PathBuf,
    pub dir: PathBuf,
    pub port_base: u16,
}

impl Up {
    /// `local up --detach` with more words, on ports nobody uses, its state in `dir`.
    ///
    /// # Panics
    /// With what the command said, when it fails.
    pub fn start(dir: &Path, words: &[&str]) -> Self {
        let program = Programs::discover().and_then(|programs| programs.get("local"));
        let program = program.unwrap_or_else(|error| panic!("{error}"));
        let mut said = String::new();
        for _ in 0..TRIES {
            // Below the ports the system gives to outgoing connections.
            let port_base = 10_000 + BLOCK * rand::random_range(0..27);
            let up = Self { program: program.clone(), dir: dir.to_owned(), port_base };
            let mut command = up.command();
            command.args(["up", "--detach", "--port-base", &port_base.to_string()]).args(words);
            let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            if output.status.success() {
                return up;
            }
            said = text(&output);
            assert!(said.contains("is in use"), "{command:?}: {said}");
        }
        panic!("no free ports: {said}");
    }

    /// What is known about it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn file(&self) -> ClusterFile {
        let file = self.dir.join("cluster.json");
        let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        serde_json::from_slice(&text).expect("the description is as documented")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state-dir").arg(&self.dir).stdin(Stdio::null());
        command
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.dir.join("owner.json").exists() {
            let _ = self.command().arg("down").output();
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
