//! The command line.

mod logs;
mod status;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Parser, Subcommand};
use deploy_local::control::{Change, Order, send};
use deploy_local::supervisor::{self, Options};
use deploy_local::{Event, Failure, Interrupts, Progress, TestTools, Tools, guard, throwaway};

#[derive(Debug, Parser)]
#[command(name = "local", about = "Runs GoComet DAW on this machine, and breaks it on purpose", version)]
pub(crate) struct Args {
    /// Where the cluster writes what it needs to remember
    #[arg(long, global = true, env = "GOCOMET_STATE", default_value = ".local")]
    state_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster and its simulated traffic
    Up {
        #[command(flatten)]
        options: Options,
        /// Return once all is ready; `local down` stops it
        #[arg(long)]
        detach: bool,
    },
    /// Stop the cluster and remove everything it wrote
    Down,
    /// Show every program and every link
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show what programs say
    Logs {
        region: Option<String>,
        service: Option<String>,
        /// Go on as they say more
        #[arg(short, long)]
        follow: bool,
    },
    /// End a program (or a whole region) at once, as a crash does
    Kill { region: String, service: Option<String> },
    /// Let a program stand still
    Freeze { region: String, service: String },
    /// Let a frozen program go on
    Thaw { region: String, service: String },
    /// Start a program again (or all of a region that do not run)
    Restart { region: String, service: Option<String> },
    /// Cut, slow or heal the network: `link us-east eu-west cut`, `link us-east eu-west delay 80`, `link heal`
    Link {
        /// Two regions (none: all of them) and one of: cut, heal, delay MILLISECONDS, loss PERCENT
        #[arg(required = true, value_name = "REGION REGION CHANGE")]
        words: Vec<String>,
        /// Only what travels from the first region to the second
        #[arg(long)]
        one_way: bool,
    },
    /// Copy a region's database while it runs
    Backup {
        region: String,
        #[arg(default_value = "latest")]
        name: String,
    },
    /// Take a region back to a backup
    Restore {
        region: String,
        #[arg(default_value = "latest")]
        name: String,
    },
    /// Add a region to the running cluster, or remove one
    #[command(subcommand)]
    Region(RegionCommand),
    /// Run a command with a Postgres and a Redis of its own
    Services {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Find Postgres and Redis on this machine, or install them
    Tools {
        /// And what the tests use: a browser, curl, jq, Terraform, Valhalla
        #[arg(long)]
        tests: bool,
    },
    /// Clean up after the process at the other end of standard input
    #[command(hide = true)]
    Guard { dir: PathBuf },
    /// Run a cluster in the background
    #[command(hide = true)]
    Supervise {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Subcommand)]
enum RegionCommand {
    Add { name: String },
    Remove { name: String },
}

/// Runs one command; its exit code.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    if let Command::Guard { dir } = &args.command {
        guard::watch(dir);
        return Ok(0);
    }
    if matches!(args.command, Command::Supervise { .. }) {
        // A session of its own: closing the terminal does not reach it.
        nix::unistd::setsid()?;
    }
    let state_dir = std::path::absolute(&args.state_dir)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(Box::pin(command(args.command, &state_dir)))
}

async fn command(command: Command, state_dir: &Path) -> anyhow::Result<u8> {
    let order = match command {
        Command::Up { options, detach } => {
            let progress = Progress::for_person();
            let done = if detach {
                supervisor::run_detached(&options, state_dir, &progress).await
            } else {
                supervisor::run(&options, state_dir, &progress, true).await
            };
            return done.map(|()| 0);
        }
        Command::Supervise { options } => return supervise(&options, state_dir).await,
        Command::Down => {
            println!("{}", supervisor::down(state_dir).await?);
            return Ok(0);
        }
        Command::Status { json } => {
            let status = send(state_dir, &Order::Status).await?;
            println!("{}", if json { serde_json::to_string_pretty(&status)? } else { status::table(&status) });
            return Ok(0);
        }
        Command::Logs { region, service, follow } => {
            return logs::show(state_dir, region.as_deref(), service.as_deref(), follow).await.map(|()| 0);
        }
        Command::Services { command } => return throwaway::run(&command).await,
        Command::Tools { tests } => return tools(tests).map(|()| 0),
        Command::Guard { .. } => return Ok(0),
        Command::Kill { region, service } => Order::Kill { region, service },
        Command::Freeze { region, service } => Order::Freeze { region, service },
        Command::Thaw { region, service } => Order::Thaw { region, service },
        Command::Restart { region, service } => Order::Restart { region, service },
        Command::Link { words, one_way } => link(&words, one_way)?,
        Command::Backup { region, name } => Order::Backup { region, name },
        Command::Restore { region, name } => Order::Restore { region, name },
        Command::Region(RegionCommand::Add { name }) => Order::AddRegion { name },
        Command::Region(RegionCommand::Remove { name }) => Order::RemoveRegion { name },
    };
    send(state_dir, &order).await?;
    println!("done");
    Ok(0)
}

fn tools(tests: bool) -> anyhow::Result<()> {
    // Ctrl-C ends the package manager, which shares this terminal; this program lives on to clean up after it.
    let mut interrupts = Interrupts::hold()?;
    let progress = Progress::for_person();
    let tools = Tools::ensure(&progress)?;
    interrupts.check()?;
    println!("Postgres in {}\nRedis {}", tools.postgres.display(), tools.redis.display());
    if !tests {
        return Ok(());
    }
    let TestTools { chromium, terraform, valhalla, localstripe } = TestTools::ensure(&progress)?;
    println!("Chromium {}", chromium.display());
    match terraform {
        Some(terraform) => println!("Terraform {}", terraform.display()),
        None => {
            println!("Terraform is missing and not among this system's packages: the test of terraform/ cannot run")
        }
    }
    match valhalla {
        Some(valhalla) => println!("Valhalla in {}", valhalla.display()),
        None => println!("Valhalla could not be had from the Python package index: no routing engine will be tested"),
    }
    match localstripe {
        Some(localstripe) => println!("localstripe in {}", localstripe.display()),
        None => println!("localstripe could not be had from the Python package index: Stripe will not be tested"),
    }
    Ok(())
}

async fn supervise(options: &Options, state_dir: &Path) -> anyhow::Result<u8> {
    let progress = Progress::json();
    if let Err(error) = supervisor::run(options, state_dir, &progress, false).await {
        progress.tell(&Event::Failed { text: format!("{error:#}") });
        return Ok(1);
    }
    Ok(0)
}

/// `[FROM TO] cut|heal|delay MS|loss PERCENT`
fn link(words: &[String], one_way: bool) -> anyhow::Result<Order> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (between, change) = match words[..] {
        [from, to, ref change @ ..] if !CHANGES.contains(&from) && !change.is_empty() => {
            (Some((from.to_owned(), to.to_owned())), change)
        }
        _ => (None, &words[..]),
    };
    let change = match *change {
        ["cut"] => Change::Cut,
        ["heal"] => Change::Heal,
        ["delay", amount] => Change::DelayMs(number(amount.trim_end_matches("ms"), "milliseconds")?),
        ["loss", amount] => Change::LossPercent(number(amount.trim_end_matches('%'), "percent")?),
        _ => bail!(
            "what should happen to the link? say `link [REGION REGION] cut`, `heal`, `delay MILLISECONDS` or `loss PERCENT`"
        ),
    };
    if one_way && between.is_none() {
        bail!("--one-way needs two regions");
    }
    Ok(Order::Link { between, one_way, change })
}

const CHANGES: [&str; 4] = ["cut", "heal", "delay", "loss"];

fn number<T: std::str::FromStr>(text: &str, unit: &str) -> anyhow::Result<T> {
    text.parse().map_err(|_| Failure::new(format!("{text:?} is no number of {unit}"), "give a plain number").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> anyhow::Result<Order> {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        link(&words, false)
    }

    #[test]
    fn links_are_named_by_two_regions_or_none() {
        let between = Some(("us-east".to_owned(), "eu-west".to_owned()));
        assert_eq!(
            order("us-east eu-west delay 80ms").unwrap(),
            Order::Link { between: between.clone(), one_way: false, change: Change::DelayMs(80) }
        );
        assert_eq!(order("us-east eu-west cut").unwrap(), Order::Link { between, one_way: false, change: Change::Cut });
        assert_eq!(
            order("loss 2.5%").unwrap(),
            Order::Link { between: None, one_way: false, change: Change::LossPercent(2.5) }
        );
    }

    #[test]
    fn half_an_order_is_refused() {
        for text in ["us-east eu-west", "us-east cut", "delay", "delay soon", "us-east eu-west loss"] {
            assert!(order(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
