//! A real routing engine for the tests. The programs lie in a Python wheel but need no Python themselves, so any pip can
//! fetch it and nothing is installed anywhere but in a folder beside our own programs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::progress::Progress;
use crate::tools::{Programs, find_program, run};

/// The wheels for x86_64 and aarch64.
const REQUIREMENT: &str = "pyvalhalla==3.9.1 --hash=sha256:7b49c5e5f86cefd555b473aaaf34df3305889d30aa889b8abd3b4c2acc622271 \
     --hash=sha256:6ebe5f9dd6ce3b16413f939a271d68e64a4addd44df8a802a8eda0b9ca0bf16f\n";
const PROGRAMS: [&str; 2] = ["valhalla_service", "valhalla_build_tiles"];

/// Where its programs are once fetched.
pub(crate) fn folder() -> Option<PathBuf> {
    let beside = Programs::discover().ok()?.folder;
    Some(beside.parent()?.join("test-tools/valhalla/bin"))
}

/// Fetches them; none where that cannot be.
pub(crate) fn fetch(progress: &Progress) -> Option<PathBuf> {
    let folder = folder()?;
    progress.note("fetching Valhalla from the Python package index");
    let root = folder.parent()?.parent()?;
    match unpack(root) {
        Ok(()) => Some(folder),
        Err(error) => {
            progress.note(&format!("no Valhalla: {error:#}"));
            None
        }
    }
}

fn unpack(root: &Path) -> anyhow::Result<()> {
    ensure!(cfg!(target_os = "linux"), "its wheels are for Linux");
    let python = find_program("python3").context("python3 is missing")?;
    let wheels = root.join("wheels");
    std::fs::create_dir_all(&wheels)?;
    let requirements = wheels.join("requirements.txt");
    std::fs::write(&requirements, REQUIREMENT)?;
    let platform = format!("manylinux_2_28_{}", std::env::consts::ARCH);
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--python-version", "3.12", "--platform", &platform, "--dest"]).arg(&wheels).arg("-r").arg(&requirements);
    run(&mut pip)?;
    let of_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    let wheel = std::fs::read_dir(&wheels)?.flatten().map(|entry| entry.path()).find(of_wheel);
    run(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(wheel.context("pip left no wheel")?).arg(root))?;
    for program in PROGRAMS {
        let path = root.join("valhalla/bin").join(program);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("the wheel has no {program}"))?;
    }
    Ok(std::fs::remove_dir_all(&wheels)?)
}
