//! Measures the platform: `make bench`. Everything it says goes to the terminal as Markdown.

use std::time::Instant;

use anyhow::bail;
use clap::Parser;
use system_tests::bench::{ALL, Options, Section, serve_crowd, serve_floor};

// As in region-node, so that the floors are measured with the same allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the platform on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Sections to run, all without a name; `quick` among them makes one short run of each.
    #[arg(env = "BENCH", value_delimiter = ',')]
    what: Vec<String>,
    /// Is one of the floors the bench measures beside the platform.
    #[arg(long, hide = true)]
    floor: Option<String>,
    /// Is a crowd of drivers, told on its input who they are.
    #[arg(long, hide = true)]
    crowd: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(floor) = arguments.floor {
        return serve_floor(&floor);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if arguments.crowd { runtime.block_on(serve_crowd()) } else { runtime.block_on(measure(&arguments.what)) }
}

#[expect(clippy::print_stdout, reason = "a report for people")]
async fn measure(what: &[String]) -> anyhow::Result<()> {
    let names: Vec<&str> = what.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    let options = Options { quick: names.contains(&"quick") };
    let wanted: Vec<&str> = names.iter().copied().filter(|name| *name != "quick").collect();
    for name in &wanted {
        if !ALL.iter().any(|section| section.name == *name) {
            let known: Vec<&str> = ALL.iter().map(|section| section.name).collect();
            bail!("there is no section '{name}': {}, or quick", known.join(", "));
        }
    }
    let chosen = |section: &&Section| wanted.is_empty() || wanted.contains(&section.name);
    let mut failed = Vec::new();
    for section in ALL.iter().filter(chosen) {
        let begun = Instant::now();
        println!("\n## {}", section.name);
        match (section.run)(&options).await {
            Ok(tables) => tables.iter().for_each(|table| println!("{table}")),
            Err(error) => {
                println!("\nfailed: {error:#}");
                failed.push(section.name);
            }
        }
        println!("\n({}: {:.0} s)", section.name, begun.elapsed().as_secs_f64());
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}
