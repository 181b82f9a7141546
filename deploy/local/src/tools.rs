//! Finds the programs a cluster is made of: Postgres and Redis (or Valkey) of this machine, and our own binaries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::failure::Failure;
use crate::install::{Missing, install, is_packaged};
use crate::localstripe;
use crate::progress::Progress;
use crate::valhalla;

const POSTGRES_AT_LEAST: u32 = 14;
const REDIS_AT_LEAST: u32 = 7;

/// The database programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// The folder with `postgres`, `initdb` and `pg_basebackup`.
    pub postgres: PathBuf,
    /// `redis-server` or `valkey-server`.
    pub redis: PathBuf,
}

impl Tools {
    /// Finds them, or installs what is missing with the system's package manager.
    pub fn ensure(progress: &Progress) -> anyhow::Result<Self> {
        let (postgres, redis) = (find_postgres(), find_redis());
        let missing: Vec<Missing> =
            [postgres.is_none().then_some(Missing::Postgres), redis.is_none().then_some(Missing::Redis)]
                .into_iter()
                .flatten()
                .collect();
        if !missing.is_empty() {
            install(&missing, progress)?;
        }
        let postgres = postgres.or_else(find_postgres).ok_or_else(|| Missing::Postgres.not_found())?;
        let redis = redis.or_else(find_redis).ok_or_else(|| Missing::Redis.not_found())?;
        Ok(Self { postgres, redis })
    }
}

/// What the tests use beside the databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestTools {
    /// Chromium or Chrome, for the web app.
    pub chromium: PathBuf,
    /// `terraform` or `tofu`. Not every system has it among its packages; then it cannot be installed here.
    pub terraform: Option<PathBuf>,
    /// The folder with `valhalla_service` and `valhalla_build_tiles`. No system packages them; they come in a wheel of the
    /// Python package index, where there is a pip and a wheel for this machine.
    pub valhalla: Option<PathBuf>,
    /// The folder with localstripe's Python modules, from the same index.
    pub localstripe: Option<PathBuf>,
}

impl TestTools {
    /// Finds them, or installs what is missing with the system's package manager.
    pub fn ensure(progress: &Progress) -> anyhow::Result<Self> {
        let chromium = provide(Missing::Chromium, find_chromium, progress)?;
        for what in [Missing::Curl, Missing::Jq] {
            provide(what, || find_program(what.name()), progress)?;
        }
        let terraform = match find_terraform() {
            None if is_packaged(Missing::Terraform) => Some(provide(Missing::Terraform, find_terraform, progress)?),
            found => found,
        };
        let valhalla = find_valhalla().or_else(|| valhalla::fetch(progress));
        let localstripe = localstripe::find().or_else(|| localstripe::fetch(progress));
        Ok(Self { chromium, terraform, valhalla, localstripe })
    }

    /// What is already there.
    pub fn find() -> anyhow::Result<Self> {
        let chromium = find_chromium().ok_or_else(|| {
            Failure::new("Chromium is missing", "`target/debug/local tools --tests` installs what the tests need")
        })?;
        let localstripe = localstripe::find();
        Ok(Self { chromium, terraform: find_terraform(), valhalla: find_valhalla(), localstripe })
    }
}

fn provide(what: Missing, find: impl Fn() -> Option<PathBuf>, progress: &Progress) -> anyhow::Result<PathBuf> {
    if let Some(found) = find() {
        return Ok(found);
    }
    install(&[what], progress)?;
    find().ok_or_else(|| what.not_found().into())
}

/// Our own binaries, beside each other in one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    pub folder: PathBuf,
}

impl Programs {
    /// The folder of this very program; for a test, which cargo puts one folder deeper, the one above.
    /// `GOCOMET_PROGRAMS` names another.
    pub fn discover() -> anyhow::Result<Self> {
        if let Some(folder) = std::env::var_os("GOCOMET_PROGRAMS") {
            return Ok(Self { folder: folder.into() });
        }
        let own = std::env::current_exe().context("this program does not know where it lies")?;
        let folder = own.parent().context("a program lies in a folder")?;
        let above = folder.parent().filter(|_| folder.ends_with("deps"));
        Ok(Self { folder: above.unwrap_or(folder).to_owned() })
    }

    /// One of them, when it was built.
    pub fn get(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(Failure::new(
            format!("the program `{name}` is not in {}", self.folder.display()),
            "build it with `cargo build --workspace`",
        )
        .into())
    }
}

/// Runs a program to its end; an error is the last thing it said.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim().lines().last().unwrap_or("it failed without a word"));
    Ok(())
}

/// A program on the PATH or where systems keep programs of administrators.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|file| is_program(file))
}

fn find_postgres() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("GOCOMET_POSTGRES") {
        return Some(folder.into());
    }
    let on_path = find_program("initdb")
        .and_then(|file| file.canonicalize().ok())
        .and_then(|file| file.parent().map(Path::to_owned));
    let mut folders: Vec<PathBuf> = on_path.into_iter().collect();
    let mut kept: Vec<PathBuf> =
        POSTGRES_FOLDERS.iter().flat_map(|(parent, prefix, inside)| folders_like(parent, prefix, inside)).collect();
    kept.sort_by_key(|folder| std::cmp::Reverse(version(&folder.join("postgres"))));
    folders.append(&mut kept);
    folders.into_iter().find(|folder| {
        is_program(&folder.join("initdb")) && version(&folder.join("postgres")) >= Some(POSTGRES_AT_LEAST)
    })
}

/// Parent folder, how the version's folder begins, where in it the programs are: Debian, Red Hat, Alpine, Homebrew, sources.
const POSTGRES_FOLDERS: [(&str, &str, &str); 6] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/usr/local", "pgsql", "bin"),
];

fn folders_like(parent: &str, prefix: &str, inside: &str) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(parent).into_iter().flatten().flatten();
    folders
        .filter(|folder| folder.file_name().to_string_lossy().starts_with(prefix))
        .map(|folder| folder.path().join(inside))
        .collect()
}

fn find_redis() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("GOCOMET_REDIS") {
        return Some(file.into());
    }
    ["redis-server", "valkey-server"]
        .iter()
        .filter_map(|name| find_program(name))
        .find(|file| version(file) >= Some(REDIS_AT_LEAST))
}

fn find_chromium() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("CHROMIUM") {
        return Some(file.into());
    }
    let of_macos = Path::new("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome");
    let names = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
    names.into_iter().find_map(find_program).or_else(|| is_program(of_macos).then(|| of_macos.to_owned()))
}

fn find_terraform() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("TERRAFORM") {
        return Some(file.into());
    }
    ["terraform", "tofu"].into_iter().find_map(find_program)
}

fn find_valhalla() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("GOCOMET_VALHALLA") {
        return Some(folder.into());
    }
    valhalla::folder().filter(|folder| is_program(&folder.join("valhalla_service")))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The first number a program's `--version` names after its own name.
fn version(program: &Path) -> Option<u32> {
    let output = Command::new(program).arg("--version").output().ok()?;
    major(&String::from_utf8_lossy(&output.stdout))
}

fn major(text: &str) -> Option<u32> {
    let words = text.split_whitespace().map(|word| word.trim_start_matches("v="));
    let digits = |word: &str| word.chars().take_while(char::is_ascii_digit).collect::<String>();
    words
        .filter(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .find_map(|word| digits(word).parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64"), Some(7));
        assert_eq!(major("Valkey server v=8.1.3 sha=00000000:0"), Some(8));
        assert_eq!(major("command not found"), None);
    }

    #[test]
    fn a_program_that_was_not_built_is_named_with_the_fix() {
        let error = Programs { folder: "/nowhere".into() }.get("region-node").unwrap_err().to_string();
        assert_eq!(error, "the program `region-node` is not in /nowhere; build it with `cargo build --workspace`");
    }
}
