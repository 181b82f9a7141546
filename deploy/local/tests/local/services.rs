//! `local services -- COMMAND`: databases for one command, and nothing of them afterwards.

use std::process::Stdio;

use crate::common::{local, runs, text, wait_for};

#[test]
fn a_command_gets_a_database_and_a_redis_and_its_exit_code_is_passed_on() {
    let script = r#"psql "$DATABASE_URL" -XAtc "SELECT current_user, rolcreatedb, rolsuper FROM pg_roles WHERE rolname = current_user" &&
        psql "$DATABASE_URL" -XAtqc "CREATE DATABASE one_more" && echo "$TEST_REDIS_URL" && exit 7"#;
    let output = local().args(["services", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(text(&output).contains("gocomet_owner|t|f\nredis://127.0.0.1:"), "{}", text(&output));
}

#[test]
fn roles_can_be_made_twice_and_none_sees_through_row_level_security() {
    let roles = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/roles.sql");
    let script = format!(
        r#"url=$(echo "$DATABASE_URL" | sed s/gocomet_owner/postgres/) && psql "$url" -XAtq -v ON_ERROR_STOP=1 -f {roles} &&
        psql "$url" -XAtc "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname LIKE 'gocomet_%' AND NOT rolsuper AND NOT rolbypassrls""#
    );
    let output = local().args(["services", "--", "sh", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("gocomet_app gocomet_move gocomet_owner gocomet_sync gocomet_system"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_killed_harness_leaves_neither_databases_nor_the_command_behind() {
    let mut child =
        local().args(["services", "--", "sleep", "600"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let id = deploy_local::ProcessId::of(child.id()).unwrap();
    let sleeps =
        |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep");
    wait_for("the command runs", || id.tree().iter().any(|id| sleeps(id.pid)));
    let tree: Vec<u32> = id.tree().into_iter().map(|id| id.pid).collect();
    assert!(tree.len() > 4, "guard, Postgres with its own, Redis and the command: {tree:?}");
    let folders: Vec<_> = tree.iter().filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).ok()).collect();
    let state = folders.iter().find(|folder| folder.to_string_lossy().contains("gocomet-services-")).unwrap().clone();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("all have ended", || !tree.iter().any(|pid| runs(*pid)));
    wait_for("the folder is gone", || !state.exists());
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    let output = local().args(["services", "--", "no-such-command"]).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains("no-such-command cannot be started"), "{}", text(&output));
}
