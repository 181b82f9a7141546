//! A Postgres of our own: one prepared data folder, copied for each region, and the server on it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::account::{Account, make_own_folder};
use crate::failure::Failure;
use crate::process::Spec;

/// Roles of the services; operators run the same file.
const ROLES: &str = include_str!("../../sql/roles.sql");

/// The database of a region.
pub(crate) const DATABASE: &str = "gocomet";

/// Whether commits survive a power cut. A killed process loses nothing either way; tests save the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    PowerCut,
    ProcessCrash,
}

/// The programs of Postgres and the user they run as.
#[derive(Clone, Debug)]
pub(crate) struct Postgres {
    pub programs: PathBuf,
    pub account: Option<Account>,
    pub durability: Durability,
    /// More lines of its configuration.
    pub settings: Vec<String>,
}

impl Postgres {
    /// Makes a data folder with roles and an empty database, to be copied for every region.
    pub(crate) async fn prepare(&self, folder: &Path) -> anyhow::Result<()> {
        make_own_folder(folder, self.account.as_ref())?;
        let data = folder.to_string_lossy().into_owned();
        let options = [
            "-D",
            &data,
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ];
        self.run("initdb", &options, folder, None).await?;
        let mut settings = tokio::fs::read_to_string(folder.join("postgresql.conf")).await?;
        settings.push_str(&self.settings());
        tokio::fs::write(folder.join("postgresql.conf"), settings).await?;
        let sql = format!(
            "{ROLES}\n\nALTER ROLE gocomet_owner CREATEDB;\n\nCREATE DATABASE {DATABASE} OWNER gocomet_owner;\n\n"
        );
        // One user without a server: takes a tenth of the time, and needs no psql. Statements end with an empty line.
        let said = self.run("postgres", &["--single", "-j", "-F", "-D", &data, "postgres"], folder, Some(&sql)).await?;
        match said.lines().find(|line| line.contains("ERROR:") || line.contains("FATAL:")) {
            Some(line) => {
                Err(Failure::new(format!("Postgres refused to prepare a database: {line}"), "see deploy/sql/roles.sql")
                    .into())
            }
            None => Ok(()),
        }
    }

    fn settings(&self) -> String {
        let synced = match self.durability {
            Durability::PowerCut => "on",
            Durability::ProcessCrash => "off",
        };
        // Shared memory of the kind that leaves nothing in /dev/shm when a process is killed.
        format!(
            "\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\ndynamic_shared_memory_type = mmap\nmax_connections = 200\n\
             shared_buffers = 64MB\nmax_wal_size = 512MB\njit = off\nautovacuum_naptime = 10s\nfsync = {synced}\nfull_page_writes = {synced}\nmax_wal_senders = 4\n\
             timezone = 'UTC'\nlog_timezone = 'UTC'\nlog_line_prefix = '%m [%p] %u@%d '\nlog_checkpoints = off\n{}\n",
            self.settings.join("\n")
        )
    }

    /// How to start the server on a data folder.
    pub(crate) fn spec(&self, name: String, data: &Path, port: u16, log: PathBuf) -> Spec {
        Spec {
            name,
            program: self.programs.join("postgres"),
            args: vec!["-D".to_owned(), data.to_string_lossy().into_owned(), "-p".to_owned(), port.to_string()],
            envs: Vec::new(),
            folder: data.to_owned(),
            log,
            to_terminal: false,
            account: self.account.clone(),
            stop: Signal::SIGINT,
            abort: Signal::SIGQUIT,
        }
    }

    /// Copies a data folder nobody runs on.
    pub(crate) async fn copy(&self, from: &Path, to: &Path) -> anyhow::Result<()> {
        if to.exists() {
            release(to);
            tokio::fs::remove_dir_all(to).await.with_context(|| format!("cannot remove {}", to.display()))?;
        }
        // Works where it copies to, and ends with this future: so it cannot outlive an interrupted start.
        let mut copying = Command::new("cp");
        copying.arg("-a").arg(from).arg(to).current_dir(to.parent().unwrap_or(to)).kill_on_drop(true);
        let status = copying.status().await?;
        if !status.success() {
            return Err(Failure::new(
                format!("{} could not be copied to {}", from.display(), to.display()),
                "is the disk full?",
            )
            .into());
        }
        Ok(())
    }

    /// Copies the data of a running server, consistent as of one moment.
    pub(crate) async fn backup(&self, port: u16, to: &Path) -> anyhow::Result<()> {
        if to.exists() {
            tokio::fs::remove_dir_all(to).await?;
        }
        make_own_folder(to, self.account.as_ref())?;
        let (folder, port) = (to.to_string_lossy(), port.to_string());
        let options = [
            "-D",
            &folder,
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
        ];
        self.run("pg_basebackup", &options, to, None).await?;
        Ok(())
    }

    /// Runs one of Postgres' programs as its user and returns what it said.
    async fn run(&self, program: &str, args: &[&str], folder: &Path, input: Option<&str>) -> anyhow::Result<String> {
        let mut command = Command::new(self.programs.join(program));
        command.args(args).current_dir(folder).env_remove("PGDATA").env_remove("PGPORT").env_remove("PGHOST");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        let mut child =
            command.spawn().with_context(|| format!("cannot start {program} in {}", self.programs.display()))?;
        let mut stdin = child.stdin.take().expect("its input is piped");
        stdin.write_all(input.unwrap_or_default().as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return Ok(said);
        }
        let cause = format!("{program} failed ({})", output.status);
        Err(Failure { log: Some(said), ..Failure::new(cause, "read what it says above") }.into())
    }
}

/// Gives back the piece of shared memory that a killed server could not: the last line but one of its `postmaster.pid`
/// names it. A server that ended by itself has removed both.
pub(crate) fn release(data: &Path) {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let Some(segment) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) else { return };
    let mut command = std::process::Command::new("ipcrm");
    let _ = command.args(["-m", segment]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// The address of a database for one of the roles.
pub(crate) fn url(role: &str, port: u16) -> String {
    format!("postgres://{role}@127.0.0.1:{port}/{DATABASE}")
}

/// Whether a server lets a role in: the first message of the protocol, and `R` as its answer.
pub(crate) async fn accepts(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let settings = format!("user\0gocomet_app\0database\0{DATABASE}\0\0");
    let length = u32::try_from(settings.len() + 8).expect("a few bytes");
    let message = [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), settings.as_bytes()].concat();
    stream.write_all(&message).await.ok()?;
    let answer = stream.read_u8().await.ok()?;
    // Says goodbye, else the server logs a lost connection.
    let _ = stream.write_all(&[b'X', 0, 0, 0, 4]).await;
    (answer == b'R').then_some(())
}
