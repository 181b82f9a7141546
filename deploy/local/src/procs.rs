//! Processes of this machine: who they are, whether they still run, and how to reach one together with all its children.
//!
//! A number alone does not name a process, for numbers are used again; [`ProcessId`] therefore carries the time the
//! process began, and nothing here signals a process whose beginning differs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// When it began, in the system's own words (clock ticks after boot on Linux).
    pub started: String,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        entry(pid).map(|entry| entry.id)
    }

    /// This process itself.
    pub fn own() -> Self {
        Self::of(std::process::id()).unwrap_or(Self { pid: std::process::id(), started: String::new() })
    }

    pub fn is_running(&self) -> bool {
        entry(self.pid).is_some_and(|entry| entry.id == *self && !entry.dead)
    }

    /// Sends a signal; a process that is gone gets none.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.pid.cast_signed()), signal);
        }
    }

    /// This process and everything it started, directly or not. Postgres gives each of its children a session of its own,
    /// so the process group alone would miss them.
    pub fn tree(&self) -> Vec<Self> {
        if !self.is_running() {
            return Vec::new();
        }
        let all = table();
        let mut found = vec![self.clone()];
        let mut seen = BTreeSet::from([self.pid]);
        let mut next = 0;
        while let Some(parent) = found.get(next).map(|id| id.pid) {
            for child in all.iter().filter(|entry| entry.parent == parent && !entry.dead) {
                if seen.insert(child.id.pid) {
                    found.push(child.id.clone());
                }
            }
            next += 1;
        }
        found
    }
}

/// Running programs of the given names whose working folder lies in one of `folders`: what a crash in the instant
/// between starting a process and writing its number down can leave behind.
pub(crate) fn working_in(folders: &[PathBuf], names: &[&str]) -> Vec<ProcessId> {
    let inside = |id: &ProcessId| {
        let folder = std::fs::read_link(format!("/proc/{}/cwd", id.pid)).unwrap_or_default();
        folders.iter().any(|parent| !parent.as_os_str().is_empty() && folder.starts_with(parent))
    };
    table()
        .into_iter()
        .filter(|entry| !entry.dead && names.contains(&entry.name.as_str()))
        .map(|entry| entry.id)
        .filter(inside)
        .collect()
}

struct Entry {
    id: ProcessId,
    parent: u32,
    name: String,
    /// Ended, only its parent has not asked yet how.
    dead: bool,
}

fn entry(pid: u32) -> Option<Entry> {
    if has_proc() { from_proc(pid) } else { from_ps(&["-p", &pid.to_string()]).into_iter().next() }
}

fn table() -> Vec<Entry> {
    if !has_proc() {
        return from_ps(&["-ax"]);
    }
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok()).filter_map(from_proc).collect()
}

fn has_proc() -> bool {
    Path::new("/proc/self/stat").exists()
}

fn from_proc(pid: u32) -> Option<Entry> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may itself hold spaces and brackets: the fields begin after the last one.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let dead = matches!(*fields.first()?, "Z" | "X" | "x");
    Some(Entry {
        id: ProcessId { pid, started: (*fields.get(19)?).to_owned() },
        parent: fields.get(1)?.parse().ok()?,
        name,
        dead,
    })
}

/// For systems without /proc (macOS).
fn from_ps(which: &[&str]) -> Vec<Entry> {
    let output = std::process::Command::new("ps").args(which).args(["-o", "pid=,ppid=,stat=,lstart=,comm="]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(ps_line).collect()
}

fn ps_line(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let started = words.get(3..8)?.join(" ");
    let name = words.get(8)?.rsplit('/').next()?.to_owned();
    Some(Entry {
        id: ProcessId { pid: words[0].parse().ok()?, started },
        parent: words[1].parse().ok()?,
        name,
        dead: words[2].starts_with('Z'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_known_and_runs() {
        let own = ProcessId::own();
        assert!(own.is_running());
        assert!(!own.started.is_empty());
        assert!(own.tree().contains(&own));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let stranger = ProcessId { started: "0".to_owned(), ..ProcessId::own() };
        assert!(!stranger.is_running());
        assert!(stranger.tree().is_empty());
    }

    #[test]
    fn an_ended_child_that_nobody_waited_for_does_not_run() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        while id.is_running() {
            std::thread::yield_now();
        }
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_line_of_ps_is_understood() {
        let entry = ps_line("  812     1 Ss   Sat Nov 22 21:27:03 2026 /opt/homebrew/bin/redis-server").unwrap();
        assert_eq!((entry.id.pid, entry.parent, entry.name.as_str(), entry.dead), (812, 1, "redis-server", false));
        assert_eq!(entry.id.started, "Sat Nov 22 21:27:03 2026");
    }
}
