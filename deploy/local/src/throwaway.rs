//! A Postgres and a Redis for the length of one command: what unit tests of the crates run under.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::account::Account;
use crate::failure::Failure;
use crate::guard::Guard;
use crate::interrupts::Interrupts;
use crate::ports::{Block, of_region};
use crate::postgres::{self, Durability, Postgres};
use crate::process::Process;
use crate::procs::ProcessId;
use crate::progress::Progress;
use crate::redis;
use crate::secrets;
use crate::service::Service;
use crate::state::{PidRecord, State};
use crate::tools::{Programs, Tools};
use crate::wait::until;

const READY: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(5);

/// Runs a command with `DATABASE_URL` (as gocomet_owner) and `TEST_REDIS_URL` set and returns how it ended.
pub async fn run(command: &[String]) -> anyhow::Result<u8> {
    let programs = Programs::discover()?;
    let mut interrupts = Interrupts::hold()?;
    let tools = Tools::ensure(&Progress::for_person())?;
    interrupts.check()?;
    let account = Account::for_postgres()?;
    let state_dir = std::env::temp_dir().join(format!("gocomet-services-{}", secrets::hex(6)));
    let block = Block::any(|ports| of_region(ports, "services", 0, &[Service::Postgres, Service::Redis]))?;
    let (postgres_port, redis_port) = (block.ports.postgres(0), block.ports.redis(0));
    let state = State::claim(&state_dir, account.as_ref(), block.ports.base)?;
    let _guard = Guard::start(&programs.get("local")?, &state)?;
    // psql and its like, which lie beside the server, are not on every PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(tools.postgres.clone()).chain(std::env::split_paths(&path)))?;
    let server =
        Postgres { programs: tools.postgres, account, durability: Durability::ProcessCrash, settings: Vec::new() };
    let data = state.data.join("postgres");
    server.prepare(&data).await?;
    let database = Process::start(
        server.spec("services/postgres".to_owned(), &data, postgres_port, state.log("postgres")),
        &state,
    )?;
    let cache = Process::start(
        redis::spec(
            &tools.redis,
            "services/redis".to_owned(),
            state.dir.join("regions"),
            redis_port,
            state.log("redis"),
        ),
        &state,
    )?;
    wait(&database, || postgres::accepts(postgres_port)).await?;
    wait(&cache, || redis::answers(redis_port)).await?;
    let envs = [
        ("DATABASE_URL", postgres::url("gocomet_owner", postgres_port).into()),
        ("TEST_REDIS_URL", redis::url(redis_port).into()),
        // For tests that need a cluster of them.
        ("GOCOMET_REDIS", tools.redis.into()),
        ("PATH", path),
    ];
    let status = run_to_end(command, &envs, &state, &mut interrupts).await?;
    // The data is thrown away, so both may end without a word; the guard removes the files.
    tokio::join!(database.abort(GRACE), cache.abort(GRACE));
    Ok(code(status))
}

async fn wait<F: Future<Output = Option<()>>>(process: &Process, mut answers: impl FnMut() -> F) -> anyhow::Result<()> {
    let asked = || {
        let answer = answers();
        async { if process.is_running() { answer.await.map(|()| true) } else { Some(false) } }
    };
    if until(READY, asked).await == Some(true) {
        return Ok(());
    }
    Err(Failure::new(format!("{} did not start", process.spec.name), "its last words are above")
        .with_log(&process.spec.log)
        .into())
}

/// Runs the command in this terminal; a request to end is passed on to it.
async fn run_to_end(
    command: &[String],
    envs: &[(&str, OsString)],
    state: &State,
    interrupts: &mut Interrupts,
) -> anyhow::Result<ExitStatus> {
    let (program, args) = command.split_first().context("which command? local services -- COMMAND…")?;
    let mut child = Command::new(program)
        .args(args)
        .envs(envs.iter().map(|(name, value)| (name, value)))
        .spawn()
        .map_err(|error| Failure::new(format!("{program} cannot be started ({error})"), "is it installed?"))?;
    if let Some(id) = child.id().and_then(ProcessId::of) {
        state.record(&PidRecord { name: "command".to_owned(), id, abort: Signal::SIGTERM as i32 })?;
    }
    let pid = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            // Ctrl-C in a terminal reaches the command by itself.
            signal = interrupts.next() => if signal == Signal::SIGTERM {
                let _ = pid.map(|pid| kill(pid, signal));
            },
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
