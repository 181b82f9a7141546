use std::{
    fs::DirBuilder,
    net::TcpListener,
    os::unix::{
        fs::{DirBuilderExt as _, MetadataExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use shared::fact::FactStream;
use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::{
    super::tests::{CLUSTER, HashSigner, Home, log, settlement},
    *,
};
use crate::protocol::Past;

#[sqlx::test(migrations = "../migrations")]
async fn only_the_holder_of_the_lease_numbers_and_applies(pool: PgPool) {
    let first = Home::new(&pool, "us-east").await;
    assert!(first.store.renew_lease(&first.fence).await.unwrap());
    assert_eq!(first.store.take_lease(Uuid::now_v7(), &first.identity).await.unwrap(), None);
    first.store.release_lease(&first.fence).await.unwrap();
    let second = Home::new(&pool, "us-east").await;
    assert_eq!(second.fence.epoch(), first.fence.epoch() + 1);
    assert!(!first.store.renew_lease(&first.fence).await.unwrap());

    first.commit(&settlement(1)).await;
    let zombie = first.store.number(&first.fence, CLUSTER, &first.origin, &HashSigner).await;
    assert!(matches!(zombie, Err(StoreError::NotLeading)));
    let applied = first.store.apply(&first.fence, &log("eu-west", FactStream::Ledger)).await;
    assert!(matches!(applied, Err(StoreError::NotLeading)));
    assert_eq!(second.number().await.entries, 1);
}

/// What an instance finds that starts now.
async fn identify(us: &Home) -> Identity {
    us.store.identify(CLUSTER, &us.origin.region).await.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_lease_that_has_run_out_is_no_proof_whoever_asks(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    us.commit(&settlement(1)).await;
    let run_out = "UPDATE repl_lease_expiry SET expires_at = clock_timestamp() - interval '1 ms'";
    sqlx::query(run_out).execute(&us.store.pool).await.unwrap();
    assert!(!us.store.renew_lease(&us.fence).await.unwrap(), "the database may be an old copy, with an old lease");
    let numbered = us.store.number(&us.fence, CLUSTER, &us.origin, &HashSigner).await;
    assert!(matches!(numbered, Err(StoreError::NotLeading)));
    let begun = us.store.begin_incarnation(&us.fence, 1, false).await;
    assert!(matches!(begun, Err(StoreError::NotLeading)));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_lease_of_another_database_or_from_before_the_clock_was_put_back_keeps_nobody_waiting(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let take = async || us.store.take_lease(Uuid::now_v7(), &us.identity).await.unwrap();
    assert!(us.store.renew_lease(&us.fence).await.unwrap());
    assert_eq!(take().await, None, "it is held");
    let put_back = "UPDATE repl_lease_expiry SET expires_at = expires_at + interval '5 min'";
    sqlx::query(put_back).execute(&us.store.pool).await.unwrap();
    let second = take().await.expect("no lease is given for so long");
    assert!(!us.store.renew_lease(&us.fence).await.unwrap(), "who renews it too late has lost it");
    assert_eq!(take().await, None, "the second has it for as long as any");

    sqlx::query("UPDATE repl_lease SET database = 'another'").execute(&us.store.pool).await.unwrap();
    let third = take().await.expect("it was taken elsewhere");
    assert_eq!(third.epoch(), second.epoch() + 1);
    assert!(us.store.renew_lease(&third).await.unwrap());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_new_incarnation_ends_the_lease_and_whatever_began_before_it(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let other = us.store.identify(CLUSTER, &"eu-west".parse().unwrap()).await;
    assert!(matches!(other, Err(StoreError::Damaged(_))));

    us.store.begin_incarnation(&us.fence, 4, false).await.unwrap();
    us.commit(&settlement(1)).await;
    let numbered = us.store.number(&us.fence, CLUSTER, &us.origin, &HashSigner).await;
    assert!(matches!(numbered, Err(StoreError::NotLeading)), "nothing is numbered in a life that is over");
    let again = us.store.begin_incarnation(&us.fence, 4, false).await;
    assert!(matches!(again, Err(StoreError::NotLeading)));
    assert!(us.store.is_outlived(&us.identity).await.unwrap());
    assert_eq!(
        us.store.take_lease(Uuid::now_v7(), &us.identity).await.unwrap(),
        None,
        "it would go on in the old life"
    );

    let next = identify(&us).await;
    assert_eq!(next.origin.incarnation, 5);
    let fence = us.store.take_lease(Uuid::now_v7(), &next).await.unwrap().expect("the lease was ended");
    us.store.begin_incarnation(&fence, 2, false).await.unwrap();
    assert_eq!(identify(&us).await.origin.incarnation, 6, "it only grows");
    let fence = us.store.take_lease(Uuid::now_v7(), &identify(&us).await).await.unwrap().unwrap();
    us.store.begin_incarnation(&fence, 6, true).await.unwrap();
    assert_eq!(identify(&us).await.origin.incarnation, 6, "another has heard everybody meanwhile");
    let fence = us.store.take_lease(Uuid::now_v7(), &identify(&us).await).await.unwrap().unwrap();
    sqlx::query("UPDATE repl_self SET doubted = true").execute(&us.store.pool).await.unwrap();
    us.store.begin_incarnation(&fence, 6, true).await.unwrap();
    assert!(identify(&us).await.origin.incarnation > 1_700_000_000, "one that nobody can have begun");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_database_that_nobody_has_led_for_long_is_doubted_until_others_were_asked(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    assert_eq!(identify(&us).await.past, Past::Known);
    us.store.release_lease(&us.fence).await.unwrap();
    assert_eq!(identify(&us).await.past, Past::Known, "a restart");
    let long_ago = "UPDATE repl_lease_expiry SET expires_at = now() - interval '1 hour'";
    sqlx::query(long_ago).execute(&us.store.pool).await.unwrap();
    assert!(us.store.is_outlived(&us.identity).await.unwrap(), "who ran on meanwhile looks anew too");
    assert_eq!(us.store.take_lease(Uuid::now_v7(), &us.identity).await.unwrap(), None);

    let doubting = identify(&us).await;
    assert_eq!(doubting.past, Past::Doubted);
    assert!(!us.store.is_outlived(&doubting).await.unwrap());
    let fence = us.store.take_lease(Uuid::now_v7(), &doubting).await.unwrap().expect("nobody leads");
    assert_eq!(identify(&us).await.past, Past::Doubted, "leading it settles nothing");
    us.store.confirm_database(&fence).await.unwrap();
    assert_eq!(identify(&us).await.past, Past::Known);
}

/// Another instance may have looked first, after which nothing but the doubt tells that the database was put back.
#[sqlx::test(migrations = "../migrations")]
async fn whoever_ran_on_while_another_began_to_doubt_starts_anew_until_it_is_settled(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let long_ago = "UPDATE repl_lease_expiry SET expires_at = now() - interval '1 hour'";
    sqlx::query(long_ago).execute(&us.store.pool).await.unwrap();
    let doubting = identify(&us).await;
    assert_eq!(doubting.past, Past::Doubted);
    assert!(us.store.is_outlived(&us.identity).await.unwrap());
    assert_eq!(us.store.take_lease(Uuid::now_v7(), &us.identity).await.unwrap(), None, "it would number on at once");
    let fence = us.store.take_lease(Uuid::now_v7(), &doubting).await.unwrap().expect("nobody leads");
    us.store.confirm_database(&fence).await.unwrap();
    assert!(!us.store.is_outlived(&us.identity).await.unwrap());
}

/// A second Postgres, the standby of the one the tests run on.
struct Standby {
    server: Child,
    /// Ends it.
    stop: Command,
    folder: PathBuf,
    pool: PgPool,
}

impl Standby {
    /// Copies the server whole and starts the copy, which follows it.
    async fn of(us: &Home) -> Self {
        let setting = async |sql: &'static str| -> String {
            sqlx::query_scalar(sql).fetch_one(&us.superuser).await.expect("whoever may do everything may read this")
        };
        let programs = PathBuf::from(setting("SELECT setting FROM pg_config WHERE name = 'BINDIR'").await);
        let data = setting("SHOW data_directory").await;
        let account = std::fs::metadata(&data).expect("the server runs on this machine");
        let folder = Path::new(&data).with_file_name(format!("standby-{}", Uuid::now_v7()));
        DirBuilder::new().mode(0o700).create(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(account.uid()), Some(account.gid())).unwrap();
        let options = us.superuser.connect_options();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.arg("-D").arg(&folder).uid(account.uid()).gid(account.gid()).current_dir(&folder);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut copy = run("pg_basebackup");
        copy.args(["-h", options.get_host(), "-p", &options.get_port().to_string(), "-U", options.get_username()]);
        copy.args(["-X", "stream", "-c", "fast", "--no-sync", "--write-recovery-conf"]);
        assert!(copy.status().unwrap().success(), "the server cannot be copied");
        let server = run("postgres").args(["-p", &port.to_string()]).spawn().unwrap();
        let mut stop = run("pg_ctl");
        stop.args(["stop", "-m", "immediate"]);
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(options.as_ref().clone().port(port));
        Self { server, stop, folder, pool }
    }

    /// Makes it a server of its own; with nobody to follow it has what it had.
    async fn promote(&self) {
        let begun = Instant::now();
        let promoted = async || -> sqlx::Result<bool> {
            let recovers: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&self.pool).await?;
            if recovers {
                sqlx::query("SELECT pg_promote(wait => false)").execute(&self.pool).await?;
            }
            Ok(!recovers)
        };
        loop {
            let answer = promoted().await;
            if matches!(answer, Ok(true)) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the standby was not promoted: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The store on it.
    fn store(&self) -> Store {
        Store::beside(&self.pool, "gocomet_sync")
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if !self.stop.status().is_ok_and(|status| status.success()) {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn on_a_promoted_standby_no_lease_of_before_holds_and_no_life_goes_on(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    us.commit(&settlement(1)).await;
    us.number().await;
    let standby = Standby::of(&us).await;
    standby.promote().await;
    us.commit(&settlement(2)).await;
    assert_eq!(
        us.number().await.entries,
        1,
        "the first of the two still works, and what it writes is not on the other"
    );

    // The same epoch, the same holder, a lease that lasts: all that was copied.
    let copy = standby.store();
    assert_eq!(copy.lease().await.unwrap().map(|lease| lease.epoch), Some(us.fence.epoch()));
    assert!(!copy.renew_lease(&us.fence).await.unwrap());
    let row = "INSERT INTO repl_outbox (id, stream, kind, tenant_id, body)
               VALUES (gen_random_uuid(), 'ledger', 'settlement', 'porto-taxis', '{}')";
    sqlx::query(row).execute(&standby.pool).await.unwrap();
    let numbered = copy.number(&us.fence, CLUSTER, &us.origin, &HashSigner).await;
    assert!(matches!(numbered, Err(StoreError::NotLeading)), "{numbered:?}");
    let ledger = log("us-east", FactStream::Ledger);
    assert!(matches!(copy.truncate(&us.fence, &ledger, 1, 0.0).await, Err(StoreError::NotLeading)));
    assert!(matches!(copy.confirm_database(&us.fence).await, Err(StoreError::NotLeading)));
    assert!(matches!(copy.begin_incarnation(&us.fence, 1, false).await, Err(StoreError::NotLeading)));
    assert!(copy.is_outlived(&us.identity).await.unwrap());
    assert_eq!(copy.take_lease(Uuid::now_v7(), &us.identity).await.unwrap(), None, "it knows the other database");

    let found = copy.identify(CLUSTER, &us.origin.region).await.unwrap();
    assert_eq!((found.past, &found.origin), (Past::Copied, &us.origin));
    let renewed = "UPDATE repl_lease_expiry SET expires_at = clock_timestamp() + interval '4 s'";
    sqlx::query(renewed).execute(&standby.pool).await.unwrap();
    let fence = copy.take_lease(Uuid::now_v7(), &found).await.unwrap().expect("it is the other database's lease");
    copy.confirm_database(&fence).await.unwrap();
    assert_eq!(
        copy.identify(CLUSTER, &us.origin.region).await.unwrap().past,
        Past::Copied,
        "that no doubt can be settled"
    );
    copy.begin_incarnation(&fence, 1, true).await.unwrap();
    let begun = copy.identify(CLUSTER, &us.origin.region).await.unwrap();
    assert!(begun.origin.incarnation > us.origin.incarnation);
    assert_eq!(begun.past, Past::Known);
    copy.pool.close().await;
    standby.pool.close().await;
    us.close().await;
}
