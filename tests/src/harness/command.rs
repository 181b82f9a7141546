//! Other programs a story is told with.

use std::process::Stdio;

use tokio::process::Command;

/// Runs a program to its end; it dies with the test.
///
/// # Panics
/// With all it said when it fails, or when it is not installed.
pub async fn run(command: &mut Command) {
    run_for_output(command).await;
}

/// As [`run`]; what it wrote to its standard output.
///
/// # Panics
/// As [`run`] does.
pub async fn run_for_output(command: &mut Command) -> String {
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = running.unwrap_or_else(|error| panic!("{command:?} cannot run: {error}; is it installed?"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
