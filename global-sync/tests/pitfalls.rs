//! The table of what goes wrong (README.md beside this) names tests that are there.
#![expect(clippy::unwrap_used, reason = "a file that cannot be read ends the test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Where tests are.
const FOLDERS: [&str; 6] =
    ["global-sync/src", "global-sync/tests", "region-node/src", "shared/src", "tests", "deploy/local/src"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "node_modules") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Words between backquotes in the last cell of every row.
fn named(table: &str) -> BTreeSet<&str> {
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |"));
    let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_test_and_every_planted_mistake_that_the_table_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = fs::read_to_string(root.join("global-sync/tests/README.md")).unwrap();
    let names = named(&table);
    assert!(names.len() > 70, "only {} are named", names.len());
    let mut files = Vec::new();
    for folder in FOLDERS {
        sources(&root.join(folder), &mut files);
    }
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let mistakes = fs::read_to_string(root.join("global-sync/tests/simulation/README.md")).unwrap();
    let is_there = |name: &str| {
        if name.contains('_') { text.contains(&format!("fn {name}(")) } else { mistakes.contains(&format!("`{name}`")) }
    };
    let gone: Vec<_> = names.into_iter().filter(|name| !is_there(name)).collect();
    assert!(gone.is_empty(), "they are gone: {gone:?}");
}
