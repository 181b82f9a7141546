//! Installs what is missing with the system's own package manager, without letting it start any service.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use crate::failure::{Failure, last_lines};
use crate::progress::Progress;
use crate::tools::find_program;

/// What is needed and this machine has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Postgres,
    Redis,
    Chromium,
    Curl,
    Jq,
    Terraform,
}

impl Missing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL 14 or newer",
            Self::Redis => "Redis 7 (or Valkey) or newer",
            Self::Chromium => "Chromium",
            Self::Curl => "curl",
            Self::Jq => "jq",
            Self::Terraform => "Terraform 1.7 (or OpenTofu) or newer",
        }
    }

    pub(crate) fn not_found(self) -> Failure {
        let fix = match self {
            Self::Postgres => "install it by hand and set GOCOMET_POSTGRES=<folder with postgres and initdb>",
            Self::Redis => "install it by hand and set GOCOMET_REDIS=<path of redis-server>",
            Self::Chromium => "install it by hand and set CHROMIUM=<its path>",
            Self::Curl | Self::Jq => "install it by hand so that it is on the PATH",
            Self::Terraform => {
                "install it by hand so that `terraform` or `tofu` is on the PATH, or set TERRAFORM=<its path>"
            }
        };
        Failure::new(format!("{} was not found after installing packages", self.name()), fix)
    }
}

/// A package manager: how it refreshes its lists, how it installs, what it calls the packages (first that exists is taken;
/// none where the system has no such package).
struct Manager {
    program: &'static str,
    refresh: &'static [&'static str],
    install: &'static [&'static str],
    needs_root: bool,
    postgres: &'static [&'static str],
    redis: &'static [&'static str],
    chromium: &'static [&'static str],
    terraform: &'static [&'static str],
}

impl Manager {
    fn packages(&self, what: Missing) -> &'static [&'static str] {
        match what {
            Missing::Postgres => self.postgres,
            Missing::Redis => self.redis,
            Missing::Chromium => self.chromium,
            Missing::Curl => &["curl"],
            Missing::Jq => &["jq"],
            Missing::Terraform => self.terraform,
        }
    }
}

const MANAGERS: [Manager; 5] = [
    Manager {
        program: "apt-get",
        refresh: &["update", "-q"],
        install: &["install", "-y", "-q", "--no-install-recommends"],
        needs_root: true,
        postgres: &["postgresql"],
        redis: &["redis-server", "valkey-server"],
        chromium: &["chromium"],
        terraform: &[],
    },
    Manager {
        program: "dnf",
        refresh: &[],
        install: &["install", "-y"],
        needs_root: true,
        postgres: &["postgresql-server"],
        redis: &["valkey", "redis"],
        chromium: &["chromium"],
        terraform: &["opentofu", "terraform"],
    },
    Manager {
        program: "apk",
        refresh: &["update"],
        install: &["add"],
        needs_root: true,
        postgres: &["postgresql"],
        redis: &["valkey", "redis"],
        chromium: &["chromium"],
        terraform: &["opentofu"],
    },
    Manager {
        program: "pacman",
        refresh: &[],
        install: &["-Sy", "--noconfirm", "--needed"],
        needs_root: true,
        postgres: &["postgresql"],
        redis: &["valkey", "redis"],
        chromium: &["chromium"],
        terraform: &["opentofu", "terraform"],
    },
    Manager {
        program: "brew",
        refresh: &[],
        install: &["install"],
        needs_root: false,
        postgres: &["postgresql@17"],
        redis: &["valkey", "redis"],
        chromium: &["google-chrome"],
        terraform: &["opentofu"],
    },
];

/// Whether this system's package manager has it at all.
pub(crate) fn is_packaged(what: Missing) -> bool {
    MANAGERS
        .iter()
        .find(|manager| find_program(manager.program).is_some())
        .is_some_and(|manager| !manager.packages(what).is_empty())
}

/// Installs the packages, or says in one line why that cannot be and what to do by hand.
pub(crate) fn install(missing: &[Missing], progress: &Progress) -> anyhow::Result<()> {
    let names = missing.iter().map(|what| what.name()).collect::<Vec<_>>().join(" and ");
    let Some((manager, path)) = MANAGERS.iter().find_map(|manager| Some((manager, find_program(manager.program)?)))
    else {
        return Err(Failure::new(
            format!("{names} is missing and this system has none of apt-get, dnf, apk, pacman, brew"),
            "install it by hand",
        )
        .into());
    };
    let by_hand = by_hand(manager, missing);
    let prefix = as_root(manager).ok_or_else(|| {
        Failure::new(format!("{names} is missing and only root may install it"), format!("run `{by_hand}` as root"))
    })?;
    progress.note(&format!("installing {names} with {}", manager.program));
    let log = std::env::temp_dir().join(format!("gocomet-install-{}.log", std::process::id()));
    let run = |args: &[&str]| run(&prefix, &path, args, &log);
    let _services_stay_off = NoServices::hold(manager, &prefix);
    let refreshed = manager.refresh.is_empty() || run(manager.refresh);
    let mut ok = true;
    for what in missing {
        ok &= manager.packages(*what).iter().any(|package| run(&[manager.install, &[*package]].concat()));
    }
    let said = last_lines(&log, 8);
    let _ = std::fs::remove_file(&log);
    if ok {
        return Ok(());
    }
    let cause = if refreshed {
        format!("{names} could not be installed")
    } else {
        format!("{names} could not be installed (no package lists: is there a network?)")
    };
    Err(Failure { log: Some(said), ..Failure::new(cause, format!("run `{by_hand}` and read what it says")) }.into())
}

fn by_hand(manager: &Manager, missing: &[Missing]) -> String {
    let packages: Vec<&str> = missing.iter().filter_map(|what| manager.packages(*what).first().copied()).collect();
    format!("{} {} {}", manager.program, manager.install[0], packages.join(" "))
}

/// The words to put before a command that needs root: none as root, `sudo` where it can work.
fn as_root(manager: &Manager) -> Option<Vec<PathBuf>> {
    if geteuid().is_root() || !manager.needs_root {
        return Some(Vec::new());
    }
    let sudo = find_program("sudo")?;
    if std::io::stdin().is_terminal() {
        return Some(vec![sudo]);
    }
    let allowed =
        Command::new(&sudo).args(["-n", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    allowed.then(|| vec![sudo, "-n".into()])
}

fn run(prefix: &[PathBuf], program: &Path, args: &[&str], log: &Path) -> bool {
    let Ok(output) = File::options().create(true).append(true).mode(0o600).open(log) else {
        return false;
    };
    let Ok(also) = output.try_clone() else {
        return false;
    };
    let quiet = [OsStr::new("env"), OsStr::new("DEBIAN_FRONTEND=noninteractive"), program.as_os_str()];
    let words: Vec<&OsStr> = prefix.iter().map(|word| word.as_os_str()).chain(quiet).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(args).stdin(Stdio::null()).stdout(output).stderr(also);
    command.status().is_ok_and(|status| status.success())
}

/// While it lives, Debian's packages start no service: they ask this file first. One that was there before stays.
struct NoServices {
    removal: Option<Vec<PathBuf>>,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn hold(manager: &Manager, prefix: &[PathBuf]) -> Self {
        if manager.program != "apt-get" || Path::new(POLICY).exists() {
            return Self { removal: None };
        }
        let refusal = b"#!/bin/sh\nexit 101\n";
        let written = if prefix.is_empty() {
            match File::options().create_new(true).write(true).mode(0o755).open(POLICY) {
                Ok(mut file) => file.write_all(refusal).is_ok(),
                Err(error) => error.kind() == ErrorKind::AlreadyExists,
            }
        } else {
            let script = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
            Command::new(&prefix[0])
                .args(&prefix[1..])
                .args(["sh", "-c", &script])
                .status()
                .is_ok_and(|status| status.success())
        };
        Self { removal: written.then(|| prefix.to_vec()) }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let Some(prefix) = &self.removal else { return };
        let _ = match prefix.split_first() {
            None => std::fs::remove_file(POLICY).is_ok(),
            Some((sudo, rest)) => {
                Command::new(sudo).args(rest).args(["rm", "-f", POLICY]).status().is_ok_and(|status| status.success())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_run_by_hand_names_what_is_missing() {
        assert_eq!(
            by_hand(&MANAGERS[0], &[Missing::Postgres, Missing::Redis]),
            "apt-get install postgresql redis-server"
        );
        assert_eq!(by_hand(&MANAGERS[3], &[Missing::Redis]), "pacman -Sy valkey");
    }
}
