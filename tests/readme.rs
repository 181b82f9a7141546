//! "A ride by hand" of the README does what it says, word by word.

use std::path::Path;

use serde_json::Value;
use system_tests::harness::{Up, run_for_output};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ride_by_hand_ends_with_its_settlement_in_every_region() {
    let up = Up::start(
        &Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("readme-{}", std::process::id())),
        &["--no-sim"],
    );
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let section = readme.split_once("## A ride by hand").expect("the section is there").1;
    let block = section.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("```")).expect("so is its block").0;
    let mut block = block.replace(".local/cluster.json", &up.dir.join("cluster.json").to_string_lossy());
    for index in [0, 1, 2] {
        block = block.replace(&(18_000 + 20 * index).to_string(), &(up.port_base + 20 * index).to_string());
    }
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &block]);
    let said = run_for_output(&mut shell).await;
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let settlements: Vec<Value> = lines.filter(|value| value["kind"] == "settlement").collect();
    assert_eq!(settlements.len(), 3, "one from each region: {said}");
    assert!(settlements.iter().all(|fact| fact == &settlements[0]), "the same fact everywhere: {said}");
    assert_eq!(settlements[0]["tenant"], "manhattan-cabs");
    assert!(settlements[0]["amount"].as_i64().unwrap() > 0);
}
