//! Facts reach every region: over chains, past crashes and frozen leaders, through snapshots and connections made anew.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;

use super::cluster::{Cluster, Process, eventually};

#[sqlx::test(migrations = "../migrations")]
async fn facts_of_every_region_arrive_everywhere_and_digests_agree(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    for (index, region) in ["us-east", "eu-west", "ap-south"].into_iter().enumerate() {
        for n in 0..20 {
            cluster.settle(region, (index as u128) * 1000 + n).await;
        }
        cluster.create_tenant(region, &format!("tenant-{index}")).await;
    }
    cluster.converged(60).await;
    for region in cluster.regions() {
        assert_eq!(cluster.count(&region, "SELECT count(*) FROM tenant_homes").await, 3);
        eventually("settlements are durable elsewhere", async || {
            let unmarked = format!(
                "SELECT count(*) FROM ledger_facts f WHERE origin_region = '{region}' AND NOT EXISTS
                     (SELECT FROM repl_remote_durable d WHERE d.origin_region = '{region}' AND d.seq >= f.origin_seq)"
            );
            cluster.count(&region, &unmarked).await == 0
        })
        .await;
    }
    let status = cluster.status("us-east").await;
    assert!(status.leader);
    assert_eq!(status.peers.len(), 2);
    assert!(status.peers.iter().all(|peer| peer.connected && peer.rtt_ms.is_some()), "{status:?}");
    assert_eq!(status.version_vector["eu-west/1"].ledger, 20);

    // A region that was away takes up where it was, and gets what it missed.
    cluster.stop("ap-south").await;
    for n in 0..30 {
        cluster.settle("us-east", 5000 + n).await;
        cluster.settle("ap-south", 6000 + n).await;
    }
    cluster.start("ap-south").await;
    cluster.converged(120).await;
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn facts_reach_a_region_that_cannot_hear_their_origin_and_new_regions_need_no_restart(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    // A chain: us-east and ap-south know only eu-west between them, which knows nobody.
    cluster.knows("us-east", &["eu-west"]);
    cluster.knows("eu-west", &[]);
    cluster.knows("ap-south", &["eu-west"]);
    cluster.start("eu-west").await;
    cluster.start("us-east").await;
    cluster.settle("us-east", 1).await;
    cluster.start("ap-south").await;
    cluster.settle("ap-south", 2).await;
    cluster.converged(2).await;
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_standby_takes_over_and_lost_database_connections_heal(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.add_standby("us-east", "us-standby").await;
    cluster.start_all().await;
    cluster.settle("us-east", 1).await;
    cluster.converged(1).await;
    let leaders =
        async |cluster: &Cluster| (cluster.status("us-east").await.leader, cluster.status("us-standby").await.leader);
    let (first, second) = leaders(&cluster).await;
    assert!(first != second, "exactly one of two leads");
    let leader = if first { "us-east" } else { "us-standby" };
    cluster.stop(leader).await;
    for n in 10..20 {
        cluster.settle("us-east", n).await;
        cluster.settle("eu-west", n + 100).await;
    }
    cluster.converged(21).await;

    cluster.cut_database_connections("eu-west").await;
    cluster.settle("eu-west", 500).await;
    cluster.converged(22).await;
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_leader_that_is_killed_or_frozen_is_replaced_and_no_number_is_given_twice(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.add_standby("us-east", "us-standby").await;
    cluster.start("eu-west").await;
    let mut instances = vec![cluster.start_process("us-east"), cluster.start_process("us-standby")];
    let leader = async |instances: &[Process]| {
        let mut found = None;
        eventually("exactly one leads", async || {
            let leads = [instances[0].leads().await, instances[1].leads().await];
            found = leads.iter().position(|leads| *leads);
            leads[0] != leads[1]
        })
        .await;
        found.unwrap()
    };
    let arrive = async |cluster: &Cluster, facts: i64| {
        eventually(&format!("eu-west has {facts} facts"), async || {
            cluster.count("eu-west", "SELECT count(*) FROM ledger_facts").await == facts
        })
        .await;
    };
    cluster.settle("us-east", 1).await;
    arrive(&cluster, 1).await;

    let killed = leader(&instances).await;
    let gone = Instant::now();
    instances[killed].signal("KILL");
    for n in 10..20 {
        cluster.settle("us-east", n).await;
    }
    eventually("the other one leads", async || instances[1 - killed].leads().await).await;
    assert!(gone.elapsed() < Duration::from_secs(10), "it leads after {:?}", gone.elapsed());
    arrive(&cluster, 11).await;
    instances[killed] = cluster.start_process(["us-east", "us-standby"][killed]);

    let frozen = leader(&instances).await;
    instances[frozen].signal("STOP");
    for n in 20..30 {
        cluster.settle("us-east", n).await;
    }
    arrive(&cluster, 21).await;
    instances[frozen].signal("CONT");
    for n in 30..40 {
        cluster.settle("us-east", n).await;
    }
    arrive(&cluster, 31).await;
    leader(&instances).await;
    let numbers =
        "SELECT count(DISTINCT origin_seq) FROM ledger_facts WHERE origin_incarnation = 1 AND origin_seq <= 31";
    assert_eq!(cluster.count("eu-west", numbers).await, 31);
    drop(instances);
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_region_far_behind_a_log_that_was_dropped_loads_a_snapshot_and_the_tail_and_ends_equal(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    for n in 0..10 {
        cluster.settle("us-east", n).await;
        cluster.settle("eu-west", 100 + n).await;
    }
    cluster.create_tenant("eu-west", "tenant-1").await;
    cluster.converged(20).await;
    cluster.stop("ap-south").await;
    for n in 0..150 {
        cluster.settle("us-east", 1_000 + n).await;
    }
    let dropped = "SELECT truncated FROM repl_cursor WHERE origin_region = 'us-east' AND stream = 'ledger'";
    for region in ["us-east", "eu-west"] {
        eventually("all are here", async || cluster.count(region, "SELECT count(*) FROM ledger_facts").await == 170)
            .await;
        assert_eq!(cluster.count(region, dropped).await, 0, "nothing is old");
        cluster.tamper(region, "UPDATE repl_log SET received_at = now() - interval '1 day'").await;
        eventually("what is old is dropped, though not everybody has it", async || {
            cluster.count(region, dropped).await == 159
        })
        .await;
    }
    for n in 0..30 {
        cluster.settle("us-east", 2_000 + n).await;
        cluster.settle("eu-west", 3_000 + n).await;
    }
    cluster.start("ap-south").await;
    cluster.converged(230).await;
    assert!(cluster.count("ap-south", dropped).await >= 160, "it begins where the snapshot ended");
    assert_eq!(cluster.count("ap-south", "SELECT count(*) FROM tenant_homes").await, 1);
    cluster.settle("ap-south", 4_000).await;
    cluster.settle("us-east", 4_001).await;
    cluster.converged(232).await;
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_connection_that_has_its_age_is_made_anew_and_no_fact_is_lost_or_told_twice(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.limit_age(Duration::from_millis(500));
    let (us, eu) = (cluster.start_process("us-east"), cluster.start_process("eu-west"));
    let ended = || us.lines_with("has reached its age") + eu.lines_with("has reached its age");
    let mut settled = 0;
    eventually("three connections had their age", async || {
        for region in ["us-east", "eu-west"] {
            cluster.settle(region, settled).await;
            settled += 1;
        }
        ended() >= 3
    })
    .await;
    let settled = i64::try_from(settled).unwrap();
    for region in ["us-east", "eu-west"] {
        let facts = async |sql: &str| cluster.count(region, sql).await;
        eventually("all facts are there", async || facts("SELECT count(*) FROM ledger_facts").await == settled).await;
        let numbers =
            "SELECT count(DISTINCT (origin_region, origin_seq)) FROM ledger_facts WHERE origin_incarnation = 1";
        assert_eq!(facts(numbers).await, settled);
        assert_eq!(facts("SELECT count(*) FROM repl_quarantine").await, 0);
    }
    drop((us, eu));
    cluster.stop_all().await;
}
