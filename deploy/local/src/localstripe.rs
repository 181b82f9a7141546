//! A stand-in for Stripe that others wrote, for the tests of payments: a Python program, kept in a folder beside our own
//! programs and installed nowhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::progress::Progress;
use crate::tools::{Programs, find_program, run};

const LOCALSTRIPE: &str =
    "localstripe==1.15.10 --hash=sha256:e055538b786cee59f80c86d4ab7f7b31fb2cf32c3cbd28320cb463fc62dac220\n";
/// What it needs to run.
const NEEDS: &str = include_str!("localstripe.txt");
/// What it, which comes as sources alone, needs to be installed.
const SETUP: &str = include_str!("localstripe_setup.txt");

/// Where its modules are once fetched.
fn folder() -> Option<PathBuf> {
    let beside = Programs::discover().ok()?.folder;
    Some(beside.parent()?.join("test-tools/localstripe"))
}

/// What is already there.
pub(crate) fn find() -> Option<PathBuf> {
    folder().filter(|folder| folder.join("localstripe/server.py").is_file())
}

/// Fetches it; none where that cannot be.
pub(crate) fn fetch(progress: &Progress) -> Option<PathBuf> {
    progress.note("fetching localstripe from the Python package index");
    match install(&folder()?) {
        Ok(()) => find(),
        Err(error) => {
            progress.note(&format!("no localstripe: {error:#}"));
            None
        }
    }
}

fn install(folder: &Path) -> anyhow::Result<()> {
    let python = find_program("python3").context("python3 is missing")?;
    let setup = folder.with_extension("setup");
    let pip = |requirement: &str, name: &str, into: &Path, more: &[&str]| -> anyhow::Result<()> {
        let requirements = setup.join(name);
        std::fs::write(&requirements, requirement)?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps"]);
        pip.args(more).arg("--target").arg(into).arg("-r").arg(requirements).env("PYTHONPATH", &setup);
        run(&mut pip)
    };
    std::fs::create_dir_all(&setup)?;
    pip(SETUP, "setup.txt", &setup, &["--only-binary=:all:"])?;
    pip(NEEDS, "needs.txt", folder, &["--only-binary=:all:"])?;
    pip(LOCALSTRIPE, "localstripe.txt", folder, &["--no-build-isolation"])?;
    Ok(std::fs::remove_dir_all(&setup)?)
}
