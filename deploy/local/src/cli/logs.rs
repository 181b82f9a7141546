//! `local logs`: the files the programs write to, one after the other or as they grow.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use deploy_local::{Failure, last_lines};

/// Lines of each file shown at first.
const LINES: usize = 40;

/// Shows the logs of all programs, of a region's, or of one.
pub(crate) async fn show(
    state_dir: &Path,
    region: Option<&str>,
    service: Option<&str>,
    follow: bool,
) -> anyhow::Result<()> {
    let top = state_dir.join("logs");
    let mut read_to = BTreeMap::new();
    for (name, file) in files(&top, region, service) {
        println!("── {name} ──\n{}", last_lines(&file, LINES));
        read_to.insert(file.clone(), std::fs::metadata(&file)?.len());
    }
    if read_to.is_empty() {
        let what = [region, service].into_iter().flatten().collect::<Vec<_>>().join("/");
        return Err(
            Failure::new(format!("no logs of {what} in {}", top.display()), "`local status` shows what runs").into()
        );
    }
    while follow && top.is_dir() {
        for (name, file) in files(&top, region, service) {
            let from = read_to.entry(file.clone()).or_default();
            *from += more(&name, &file, *from).unwrap_or(0);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(())
}

/// Prints the whole lines a file has gained; how many bytes that were.
fn more(name: &str, file: &Path, from: u64) -> std::io::Result<u64> {
    let mut file = std::fs::File::open(file)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut out = std::io::stdout().lock();
    for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
        writeln!(out, "{name}: {line}")?;
    }
    Ok(whole as u64)
}

/// Log files by the name of their program, `us-east/postgres`; those of no region by theirs alone.
fn files(top: &Path, region: Option<&str>, service: Option<&str>) -> BTreeMap<String, PathBuf> {
    let list = |folder: &Path| {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let all = list(top).into_iter().flat_map(|path| if path.is_dir() { list(&path) } else { vec![path] });
    let named = all.filter_map(|file| {
        Some((file.strip_prefix(top).ok()?.with_extension("").to_string_lossy().into_owned(), file))
    });
    named
        .filter(|(name, _)| {
            let (of, program) = name.split_once('/').unwrap_or((name, name));
            region.is_none_or(|region| region == of) && service.is_none_or(|service| service == program)
        })
        .collect()
}
