//! Three whole instances over real QUIC on loopback, each with its own Postgres database.

mod mesh {
    pub(crate) mod cluster;
}

use std::{collections::BTreeSet, time::Duration};

use global_sync::{
    protocol::{
        Advert, Batch, Checkpoint, Draft, Envelope, Head, Hello, LogId, LogState, MemberState, Message, Origin,
        checkpoint_message,
    },
    store::Signer as _,
    transport::MeshEvent,
};
use mesh::cluster::{Authority, CLUSTER, Cluster, Process, Rogue, eventually};
use serde_json::json;
use shared::fact::FactStream;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

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
async fn a_row_that_changed_in_one_region_is_noticed_by_the_other_and_not_mended(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    let (us, eu) = (cluster.start_process("us-east"), cluster.start_process("eu-west"));
    for n in 0..20 {
        cluster.settle("us-east", n).await;
    }
    cluster.create_tenant("us-east", "tenant-1").await;
    eventually("all are there", async || {
        cluster.count("eu-west", "SELECT count(*) FROM ledger_facts").await == 20
            && cluster.count("eu-west", "SELECT count(*) FROM tenant_homes").await == 1
    })
    .await;
    let before = us.metric("global_sync_rows_compared_total").await;
    eventually("rows have been compared", async || {
        us.metric("global_sync_rows_compared_total").await > before + 6.0
            && eu.metric("global_sync_rows_compared_total").await > 6.0
    })
    .await;
    let differ =
        async || (us.metric("global_sync_rows_differ_total").await, eu.metric("global_sync_rows_differ_total").await);
    assert_eq!(differ().await, (0.0, 0.0));
    cluster.tamper("eu-west", "UPDATE ledger_facts SET amount = 7 WHERE origin_seq = 3").await;
    cluster.tamper("eu-west", "UPDATE tenant_homes SET region = 'eu-west'").await;
    eventually("both have noticed both", async || differ().await == (2.0, 2.0)).await;
    assert_eq!(cluster.count("eu-west", "SELECT amount FROM ledger_facts WHERE origin_seq = 3").await, 7);
    drop((us, eu));
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_damaged_or_differs_is_the_same_whichever_instance_is_asked_until_it_is_mended(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.add_standby("us-east", "us-standby").await;
    let eu = cluster.start_process("eu-west");
    let us = [cluster.start_process("us-east"), cluster.start_process("us-standby")];
    for n in 0..5 {
        cluster.settle("us-east", n).await;
    }
    eventually("all are there", async || cluster.count("eu-west", "SELECT count(*) FROM ledger_facts").await == 5)
        .await;
    let found = async |instance: &Process| {
        let status = instance.status().await;
        (status["damage"]["named"].clone(), status["differing"].clone())
    };
    let nothing = (json!([]), json!({}));
    eventually("nothing is found", async || found(&us[0]).await == nothing && found(&us[1]).await == nothing).await;

    let flip =
        "UPDATE repl_log SET body = set_bit(body, 200, 1 - get_bit(body, 200)) WHERE stream = 'ledger' AND seq = 2";
    cluster.tamper("us-east", flip).await;
    cluster.tamper("us-east", "UPDATE ledger_facts SET amount = 7 WHERE origin_seq = 3").await;
    let fact = format!("fact {}", Uuid::from_u128(3));
    let mut seen = nothing.clone();
    eventually("both instances say the same of both", async || {
        seen = found(&us[0]).await;
        let named = seen.0.as_array().map(Vec::len);
        named == Some(2) && seen.1 == json!({"eu-west/ledger": [fact]}) && found(&us[1]).await == seen
    })
    .await;
    for (named, entry) in [(&seen.0[0], "us-east/1/ledger/2: "), (&seen.0[1], "us-east/1/ledger/3: ")] {
        assert!(named.as_str().unwrap().starts_with(entry), "{named}");
    }
    eventually("and so does the other region of the row", async || {
        found(&eu).await == (json!([]), json!({"us-east/ledger": [fact]}))
    })
    .await;

    let leads = if us[0].leads().await { 0 } else { 1 };
    let (leader, standby) = (&us[leads], &us[1 - leads]);
    leader.signal("STOP");
    assert_eq!(found(standby).await, seen, "whoever leads is not asked");
    eventually("the standby leads", async || standby.leads().await).await;
    assert_eq!(found(standby).await, seen, "nothing had to be found anew");
    leader.signal("CONT");
    eventually("the other one follows", async || !leader.leads().await && found(leader).await == seen).await;

    cluster.tamper("us-east", flip).await;
    cluster.tamper("us-east", "UPDATE ledger_facts SET amount = 1250 WHERE origin_seq = 3").await;
    for instance in [leader, standby, &eu] {
        eventually("what is mended is told of no more", async || found(instance).await == nothing).await;
    }
    drop((us, eu));
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_derived_row_that_changed_is_named_made_anew_by_command_and_told_of_no_more(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    let (us, eu) = (cluster.start_process("us-east"), cluster.start_process("eu-west"));
    for n in 0..5 {
        cluster.settle("us-east", n).await;
    }
    cluster.create_tenant("us-east", "porto-taxis").await;
    eventually("all are there", async || {
        cluster.count("eu-west", "SELECT count(*) FROM ledger_facts").await == 5
            && cluster.count("eu-west", "SELECT count(*) FROM tenant_homes").await == 1
    })
    .await;
    cluster.tamper("eu-west", "UPDATE ledger_facts SET amount = amount # 64 WHERE origin_seq = 3").await;
    cluster.tamper("eu-west", "UPDATE ledger_facts SET currency = 'EUS' WHERE origin_seq = 5").await;
    cluster.tamper("eu-west", "UPDATE tenant_homes SET region = 'eu-west'").await;
    let rows = [3, 5].map(|n| format!("fact {}", Uuid::from_u128(n)));
    let differing = |peer: &str, facts: &[String], homes: &[&str]| {
        let streams = [("ledger", json!(facts)), ("control", json!(homes))].into_iter();
        let told = streams.filter(|(_, keys)| keys != &json!([]));
        told.map(|(stream, keys)| (format!("{peer}/{stream}"), keys)).collect::<serde_json::Map<_, _>>()
    };
    let found = async |instance: &Process| {
        let status = instance.status().await;
        (status["damage"]["rows"].clone(), status["differing"].clone())
    };
    eventually("each is named by its key", async || {
        found(&eu).await == (json!(rows), json!(differing("us-east", &rows, &["home porto-taxis"])))
            && found(&us).await == (json!([]), json!(differing("eu-west", &rows, &["home porto-taxis"])))
    })
    .await;

    let outcome = cluster.command("eu-west", json!({"mend": {"key": rows[0]}})).await;
    assert_eq!(outcome, (true, format!("{} is what entry 3 of us-east/1/ledger says again", rows[0])));
    let left = &rows[1..];
    eventually("it is told of no more", async || {
        found(&eu).await == (json!(left), json!(differing("us-east", left, &["home porto-taxis"])))
            && found(&us).await.1 == json!(differing("eu-west", left, &["home porto-taxis"]))
    })
    .await;
    // Where nothing is wrong nothing is changed.
    let (done, said) = cluster.command("us-east", json!("mend_all")).await;
    assert!(done && said.contains(&format!("{} was what entry 5", rows[1])), "{said}");
    let (done, said) = cluster.command("eu-west", json!("mend_all")).await;
    assert!(done && said.contains("home porto-taxis is what entry"), "{said}");
    eventually("nothing is left", async || {
        found(&eu).await == (json!([]), json!({})) && found(&us).await == (json!([]), json!({}))
    })
    .await;
    let sound = "SELECT count(*) FROM ledger_facts WHERE (amount, currency) = (1250, 'EUR')";
    assert_eq!(cluster.count("eu-west", sound).await, 5);
    eventually("both say that they hold the same", async || {
        let [us, eu] = [us.status().await, eu.status().await];
        us["digest"].is_string() && us["digest"] == eu["digest"]
    })
    .await;
    assert_eq!(cluster.command("eu-west", json!("mend_all")).await.1, "no row is known to be damaged or to differ");
    drop((us, eu));
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_log_that_ends_in_another_entry_at_a_peer_is_shown_by_both_until_it_does_not(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.start_all().await;
    for n in 0..3 {
        cluster.settle("us-east", n).await;
    }
    cluster.converged(3).await;
    let shown = async |cluster: &Cluster| {
        [cluster.status("us-east").await, cluster.status("eu-west").await].map(|status| json!(status.diverged))
    };
    for (tamper, found) in [
        (
            "UPDATE repl_cursor SET head_hash = sha256(head_hash) WHERE origin_region = 'us-east' AND stream = 'ledger'",
            [json!({"eu-west": ["us-east/1/ledger/3"]}), json!({"us-east": ["us-east/1/ledger/3"]})],
        ),
        (
            "UPDATE repl_cursor SET head_hash = (SELECT hash FROM repl_log WHERE origin_region = 'us-east' AND stream = 'ledger' AND seq = 3)
             WHERE origin_region = 'us-east' AND stream = 'ledger'",
            [json!({}), json!({})],
        ),
    ] {
        // Who leads does not read it again.
        cluster.stop("eu-west").await;
        cluster.tamper("eu-west", tamper).await;
        cluster.start("eu-west").await;
        eventually("both say the same", async || shown(&cluster).await == found).await;
    }
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn damage_is_told_of_by_the_leader_alone(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east"]).await;
    cluster.add_standby("us-east", "us-standby").await;
    let first = cluster.start_process("us-east");
    let damaged = async |instance: &Process| instance.metric("global_sync_damaged_entries").await;
    cluster.settle("us-east", 1).await;
    eventually("it is applied", async || cluster.count("us-east", "SELECT count(*) FROM ledger_facts").await == 1)
        .await;
    cluster.tamper("us-east", "UPDATE repl_log SET body = body || 'x' WHERE stream = 'ledger'").await;
    eventually("the leader tells", async || damaged(&first).await == 1.0).await;
    let second = cluster.start_process("us-standby");
    first.signal("STOP");
    eventually("the other one leads and tells", async || damaged(&second).await == 1.0).await;
    first.signal("CONT");
    eventually("the first one tells nothing", async || !first.leads().await && damaged(&first).await == 0.0).await;
    assert_eq!(damaged(&second).await, 1.0);
    drop((first, second));
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn keys_and_authorities_change_while_facts_flow_and_who_joins_afterwards_believes_what_was_signed_before(
    pool: PgPool,
) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    for region in ["us-east", "eu-west"] {
        cluster.start(region).await;
    }
    let both_have = async |cluster: &Cluster, facts: i64| {
        for region in ["us-east", "eu-west"] {
            eventually(&format!("{region} has {facts} facts"), async || {
                cluster.count(region, "SELECT count(*) FROM ledger_facts").await == facts
            })
            .await;
        }
    };
    cluster.settle("us-east", 1).await;
    both_have(&cluster, 1).await;

    let authority = cluster.authority.clone();
    cluster.reissue("us-east", &authority, "us-east");
    eventually("us-east signs with its new key", async || cluster.known_keys("us-east", "us-east").await == 2).await;
    cluster.settle("us-east", 2).await;
    both_have(&cluster, 2).await;

    let successor = Authority::new("successor");
    let both = authority.beside(&successor);
    cluster.believe(&both);
    cluster.reissue("us-east", &successor, "us-east");
    cluster.believe(&both);
    eventually("us-east signs with the successor's", async || cluster.known_keys("us-east", "us-east").await >= 3)
        .await;
    cluster.settle("us-east", 3).await;
    cluster.settle("eu-west", 4).await;
    both_have(&cluster, 4).await;
    let passed_on = cluster.known_keys("eu-west", "us-east").await;
    assert_eq!(passed_on, cluster.known_keys("us-east", "us-east").await);

    for region in ["eu-west", "ap-south"] {
        cluster.reissue(region, &successor, region);
    }
    cluster.believe(&successor.pem);
    cluster.start("ap-south").await;
    cluster.settle("ap-south", 5).await;
    cluster.converged(5).await;
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn strangers_and_impostors_get_nothing(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    // eu-west's certificates are of another authority; it is refused whoever calls whom.
    cluster.reissue("eu-west", &Authority::new("stranger"), "eu-west");
    cluster.start_all().await;
    cluster.settle("us-east", 1).await;
    eventually("us-east has numbered", async || {
        cluster.status("us-east").await.version_vector.get("us-east/1").is_some_and(|heads| heads.ledger == 1)
    })
    .await;
    let quiet = tokio::time::timeout(Duration::from_secs(2), async {
        eventually("a stranger is connected", async || {
            cluster.status("us-east").await.peers.iter().any(|peer| peer.connected)
                || cluster.count("eu-west", "SELECT count(*) FROM ledger_facts").await > 0
        })
        .await;
    });
    assert!(quiet.await.is_err(), "a stranger must never be connected");
    cluster.stop_all().await;

    // Right authority, but the instance at eu-west's address is ap-south: not the one that was called.
    let authority = cluster.authority.clone();
    let error = cluster.try_start_with("eu-west", &authority, "ap-south").await.expect_err("a foreign certificate");
    assert!(error.contains("ap-south") && error.contains("eu-west"), "{error}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_stranger_that_calls_again_and_again_is_counted_every_time_and_named_in_the_log_once(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    let us = cluster.start_process("us-east");
    eventually("it leads", async || us.leads().await).await;
    cluster.reissue("eu-west", &Authority::new("stranger"), "eu-west");
    let rogue = cluster.rogue("eu-west");
    let (region, address) = ("us-east".parse().unwrap(), cluster.address("us-east"));
    for _ in 0..20 {
        assert!(rogue.mesh.dial(&region, &address).await.is_err());
    }
    eventually("every call is counted", async || us.metric("global_sync_refused_connections_total").await == 20.0)
        .await;
    assert_eq!(us.lines_with(" refused: "), 1);
    rogue.mesh.close().await;
    drop(us);
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

#[sqlx::test(migrations = "../migrations")]
async fn a_bit_that_flips_in_a_log_or_a_signature_reaches_no_region_and_what_was_written_comes_from_another(
    pool: PgPool,
) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    let (us, eu) = (cluster.start_process("us-east"), cluster.start_process("eu-west"));
    let facts = "SELECT count(*) FROM ledger_facts WHERE amount = 1250";
    let flips = [
        (
            "UPDATE repl_log SET envelope = set_bit(envelope, 400, 1 - get_bit(envelope, 400)) WHERE seq <= 3 AND stream = 'ledger'",
            r#"from="us-east""#,
        ),
        (
            "UPDATE repl_log SET body = set_bit(body, 200, 1 - get_bit(body, 200)) WHERE seq BETWEEN 4 AND 6 AND stream = 'ledger'",
            r#"from="us-east",reason="entry""#,
        ),
        (
            "UPDATE repl_checkpoint SET signature = set_bit(signature, 9, 1 - get_bit(signature, 9))
             WHERE seq BETWEEN 7 AND 9 AND stream = 'ledger'",
            r#"from="us-east",reason="signature""#,
        ),
    ];
    let mut written = 0;
    for (flip, refused) in flips {
        for n in 0..3 {
            cluster.settle("us-east", written as u128 + n).await;
        }
        let before = written;
        written += 3;
        eventually("eu-west has them", async || cluster.count("eu-west", facts).await == written).await;
        cluster.tamper("us-east", flip).await;
        // The origin is all that the third region finds, and it is not believed.
        eu.signal("STOP");
        let ap = cluster.start_process("ap-south");
        let bad_batches = async || ap.metric_with("global_sync_bad_batches_total", refused).await;
        eventually("what has changed is refused", async || bad_batches().await >= 1.0).await;
        assert_eq!(cluster.count("ap-south", facts).await, before);
        eu.signal("CONT");
        eventually("it is there as it was written", async || cluster.count("ap-south", facts).await == written).await;
    }
    let signed = cluster.signed_entries("us-east", "us-east", 7, 9).await;
    assert!(signed.contains(&9), "{signed:?}");
    let damaged: BTreeSet<_> = (1..=6).chain(signed).map(|seq| format!("us-east/1/ledger/{seq}")).collect();
    eventually("us-east names what it holds and nothing else", async || us.damaged().await == damaged).await;
    eventually("eu-west has looked", async || eu.metric("global_sync_log_checks_total").await >= 1.0).await;
    assert_eq!(eu.metric("global_sync_damaged_entries").await, 0.0);
    drop((us, eu));
    cluster.stop_all().await;
}

/// Says things to a region in the place of eu-west, until it hangs up or `over`.
async fn tell(rogue: &mut Rogue, address: &str, said: &[Message], mut over: impl AsyncFnMut() -> bool) {
    let Rogue { mesh, events, key } = rogue;
    let region = "us-east".parse().expect("a region");
    let talk = async {
        let Some(MeshEvent::Connected { link, .. }) = events.recv().await else { panic!("a member is connected") };
        for message in said {
            link.say(message.clone());
        }
        loop {
            match events.recv().await {
                // Whatever it is asked for, it answers with a fact of ap-south that it has signed itself.
                Some(MeshEvent::Received { message: Message::Pull(pull), .. }) if pull.credit > 0 => {
                    let draft = Draft {
                        id: Uuid::from_u128(1),
                        kind: "settlement".to_owned(),
                        tenant: None,
                        home_epoch: None,
                        traceparent: None,
                        committed_at_ms: 0,
                        body: vec![0; 32],
                    };
                    let (entry, head) = Envelope::seal(CLUSTER, &pull.log, &Head::EMPTY, draft);
                    let checkpoint = Checkpoint {
                        head,
                        key_id: key.key_id(),
                        signature: key.sign(&checkpoint_message(CLUSTER, &pull.log, &head)),
                        certificate: Some(key.certificate().to_vec()),
                    };
                    let stream = pull.log.stream;
                    let batch = Batch { log: pull.log, pull: pull.id, entries: vec![entry], checkpoint };
                    link.send(stream, Message::Batch(batch)).await;
                }
                Some(MeshEvent::Disconnected { .. }) | None => break,
                Some(_) => {}
            }
            if over().await {
                link.close("said enough");
            }
        }
    };
    let talked = async { tokio::join!(mesh.dial(&region, address), talk).0 };
    tokio::time::timeout(Duration::from_secs(60), talked).await.expect("it ends").expect("it is connected");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_member_that_says_what_is_not_true_of_it_or_signs_for_another_is_refused_counted_and_leaves_no_trace(
    pool: PgPool,
) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    let us = cluster.start_process("us-east");
    eventually("it leads", async || us.leads().await).await;
    let mut rogue = cluster.rogue("eu-west");
    let address = cluster.address("us-east");
    let origin = |region: &str| Origin { region: region.parse().unwrap(), incarnation: 1 };
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        features: 0,
        kinds: Vec::new(),
        cluster_id: CLUSTER.to_owned(),
        origin: origin("eu-west"),
        instance: 1,
        state: MemberState::Active,
    };
    let said = |hello: &Hello| Message::Hello(hello.clone());
    // A hello overheard elsewhere and said again is another region's, or comes a second time.
    let lies = [
        (vec![said(&Hello { origin: origin("ap-south"), ..hello.clone() })], "wrong_region"),
        (vec![said(&hello), said(&hello)], "out_of_order"),
        (vec![said(&Hello { min_version: 9, max_version: 9, ..hello.clone() })], "version"),
        (vec![said(&Hello { cluster_id: "another".to_owned(), ..hello.clone() })], "other_cluster"),
        (vec![Message::Advert(Advert::default())], "out_of_order"),
    ];
    for (messages, reason) in lies {
        let label = format!("reason=\"{reason}\"");
        let refused = async || us.metric_with("global_sync_refused_connections_total", &label).await;
        let before = refused().await;
        tell(&mut rogue, &address, &messages, async || false).await;
        eventually(reason, async || refused().await - before == 1.0).await;
    }

    let log = LogId { origin: origin("ap-south"), stream: FactStream::Ledger };
    let state = LogState { head: Head { seq: 1, hash: [7; 32] }, ..LogState::EMPTY };
    let advert = Advert { logs: [(log, state)].into(), leading: true };
    let forged = async || us.metric_with("global_sync_bad_batches_total", "reason=\"signer\"").await >= 1.0;
    tell(&mut rogue, &address, &[said(&hello), Message::Advert(advert)], forged).await;
    assert!(us.metric_with("global_sync_bad_batches_total", "from=\"eu-west\"").await >= 1.0);
    assert_eq!(cluster.stored_entries("us-east", "ap-south").await, 0);
    assert_eq!(cluster.known_keys("us-east", "ap-south").await, 0);
    rogue.mesh.close().await;
    drop(us);
    cluster.stop_all().await;
}

/// Everything a tenant can own, a few of each, and what belongs to the region and stays.
const BELONGINGS: &str = "
    INSERT INTO riders (id, tenant_id, sealed_name, phone_hash, created_at)
        SELECT gen_random_uuid(), 'cabs', decode(md5(n::text), 'hex'), decode(md5('p' || n), 'hex'), now() FROM generate_series(1, 3000) n;
    INSERT INTO riders (id, tenant_id, created_at) VALUES ('00000000-0000-7000-8000-0000000000a1', 'cabs', now()), (gen_random_uuid(), 'limos', now());
    INSERT INTO drivers (id, tenant_id, vehicle_class, vehicle_plate, vehicle_model, vehicle_seats, status, created_at)
        VALUES ('00000000-0000-7000-8000-0000000000d1', 'cabs', 'standard', 'P', 'M', 4, 'online', now());
    INSERT INTO driver_places VALUES ('00000000-0000-7000-8000-0000000000d1', 'cabs', 1, 2, now());
    INSERT INTO refresh_tokens (token_hash, family_id, tenant_id, subject, role, expires_at, created_at)
        VALUES ('a', gen_random_uuid(), 'cabs', 'a', 'rider', now(), now()), ('b', gen_random_uuid(), 'cabs', 'b', 'tenant_admin', now(), now());
    INSERT INTO idempotency_keys (tenant_id, caller, key, request_hash, status, sealed_body, created_at)
        VALUES ('cabs', 'rider:a', 'k', 'h', 201, 'b', now()), ('cabs', 'anywhere/tenant_admin:b', 'k', 'h', 200, 'b', now());
    INSERT INTO rides (id, tenant_id, rider_id, driver_id, status, pickup_lat, pickup_lng, dropoff_lat, dropoff_lng, vehicle_class,
            payment_method, quote, pin, requested_at, expires_at, updated_at)
        VALUES ('00000000-0000-7000-8000-0000000000e1', 'cabs', '00000000-0000-7000-8000-0000000000a1', '00000000-0000-7000-8000-0000000000d1',
            'in_progress', 0.1, 0.2, 0.3, 1e-7, 'standard', '{\"type\": \"card\"}', '{\"promotion\": {\"code\": \"X\"}}', '0000', now(), now(), now());
    INSERT INTO trips (id, tenant_id, ride_id, rider_id, driver_id, status, accepted_at, updated_at)
        VALUES ('00000000-0000-7000-8000-0000000000f1', 'cabs', '00000000-0000-7000-8000-0000000000e1', '00000000-0000-7000-8000-0000000000a1',
            '00000000-0000-7000-8000-0000000000d1', 'in_progress', now(), now());
    INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng) SELECT 'cabs', '00000000-0000-7000-8000-0000000000f1', now() + n * interval '1 s', n, n
        FROM generate_series(1, 50) n;
    INSERT INTO payments (id, tenant_id, ride_id, trip_id, rider_id, status, method, amount, currency, tax_amount, commission_amount, provider,
            attempts, created_at, updated_at)
        VALUES ('00000000-0000-7000-8000-0000000000b1', 'cabs', '00000000-0000-7000-8000-0000000000e1', '00000000-0000-7000-8000-0000000000f1',
            '00000000-0000-7000-8000-0000000000a1', 'settled', '{}', 1000, 'EUR', 0, 0, 'sandbox', 1, now(), now());
    WITH entry AS (INSERT INTO ledger_entries (id, tenant_id, kind, payment_id, currency, posted_at)
            VALUES ('00000000-0000-7000-8000-0000000000c1', 'cabs', 'settlement', '00000000-0000-7000-8000-0000000000b1', 'EUR', now()))
        INSERT INTO ledger_postings (entry_id, line, tenant_id, account, amount)
            VALUES ('00000000-0000-7000-8000-0000000000c1', 1, 'cabs', 'a', 1000), ('00000000-0000-7000-8000-0000000000c1', 2, 'cabs', 'b', -1000);";

const MOVE: &str = "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, wrapped_key, requested_by)
    VALUES (gen_random_uuid(), 'cabs', 'planned', 'us-east', 'eu-west', 1, 0, 'wrapped', 'operator')";

/// What is worth comparing of a tenant's rows.
const OWNED: &str = "SELECT (SELECT sum(hashtext(r::text)) FROM riders r WHERE tenant_id = 'cabs')
    + (SELECT sum(hashtext(r::text)) FROM rides r WHERE tenant_id = 'cabs') + (SELECT sum(hashtext(r::text)) FROM trips r WHERE tenant_id = 'cabs')
    + (SELECT sum(hashtext(r::text)) FROM breadcrumbs r WHERE tenant_id = 'cabs') + (SELECT sum(hashtext(r::text)) FROM payments r WHERE tenant_id = 'cabs')
    + (SELECT sum(hashtext(r::text)) FROM ledger_postings r WHERE tenant_id = 'cabs') + (SELECT sum(hashtext(r::text)) FROM drivers r WHERE tenant_id = 'cabs')";

#[sqlx::test(migrations = "../migrations")]
async fn a_tenant_moves_with_everything_it_owns_and_nothing_stays(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.create_tenant("us-east", "limos").await;
    cluster.as_system("us-east", BELONGINGS).await;
    let owned = cluster.count("us-east", OWNED).await;
    eventually("the tenant is known at its next home", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'cabs'").await == 1
    })
    .await;
    cluster.all_are_members().await;
    cluster.as_system("us-east", MOVE).await;
    eventually("the move is completed", async || {
        cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE state = 'completed'").await == 1
    })
    .await;

    assert_eq!(cluster.count("eu-west", OWNED).await, owned, "what was there is here, row by row");
    let one = async |region: &str, sql: &str| cluster.count(region, sql).await;
    assert_eq!(one("eu-west", "SELECT count(*) FROM refresh_tokens").await, 1, "the rider's session");
    assert_eq!(one("eu-west", "SELECT count(*) FROM idempotency_keys").await, 1, "the rider's answer");
    assert_eq!(one("eu-west", "SELECT count(*) FROM tenant_keys").await, 1);
    assert_eq!(one("eu-west", "SELECT count(*) FROM tenant_arrivals").await, 0);
    assert_eq!(one("eu-west", "SELECT count(*) FROM driver_places").await, 0, "drivers say anew where they are");
    for table in ["rides", "drivers", "driver_places", "trips", "payments", "ledger_entries", "ledger_postings"] {
        assert_eq!(one("us-east", &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(one("us-east", "SELECT count(*) FROM riders").await, 1, "another tenant's");
    assert_eq!(one("us-east", "SELECT count(*) FROM refresh_tokens").await, 1, "the back office's session");
    for region in cluster.regions() {
        eventually("every region knows the new home", async || {
            let home = "SELECT count(*) FROM tenant_homes
                        WHERE tenant_id = 'cabs' AND region = 'eu-west' AND (term, n) = (1, 1) AND state = 'active'";
            cluster.count(&region, home).await == 1
        })
        .await;
    }
    cluster.stop_all().await;
}

/// Far more than what changes in a round.
const OLD_ROWS: &str = "
    INSERT INTO dispatch_candidates (tenant_id, ride_id, round, candidates, considered_at)
        SELECT 'cabs', '00000000-0000-7000-8000-0000000000e1', n, '{}', now() FROM generate_series(1, 50) n;
    INSERT INTO breadcrumbs (tenant_id, trip_id, recorded_at, lat, lng)
        SELECT 'cabs', '00000000-0000-7000-8000-0000000000f1', now() + n * interval '1 s', n, n FROM generate_series(51, 200000) n;
    INSERT INTO idempotency_keys (tenant_id, caller, key, request_hash, status, sealed_body, created_at)
        SELECT 'cabs', 'rider:a', 'k' || n, 'h', 201, 'b', now() FROM generate_series(1, 50000) n";

#[sqlx::test(migrations = "../migrations")]
async fn a_tenant_with_many_old_rows_that_never_stops_writing_moves_in_a_short_pause_and_what_is_deleted_meanwhile_is_gone(
    pool: PgPool,
) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.as_system("us-east", BELONGINGS).await;
    cluster.as_system("us-east", OLD_ROWS).await;
    eventually("the tenant is known at its next home", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'cabs'").await == 1
    })
    .await;
    cluster.all_are_members().await;
    // While a command is under way nothing is handed over.
    let command = cluster.hold_home("us-east").await;
    cluster.as_system("us-east", MOVE).await;
    eventually("rows are copied", async || {
        cluster.count("eu-west", "SELECT count(*) FROM breadcrumbs").await == 200_000
    })
    .await;
    cluster
        .as_system(
            "us-east",
            "DELETE FROM breadcrumbs WHERE lat::int % 1000 = 0; DELETE FROM idempotency_keys WHERE key = 'k7';
             DELETE FROM dispatch_candidates WHERE round <= 10; DELETE FROM driver_records",
        )
        .await;
    command.rollback().await.unwrap();
    let mut written = 0;
    while cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE handed_over_at IS NOT NULL").await == 0 {
        let wrote = cluster
            .try_as_command(
                "us-east",
                "INSERT INTO riders (id, tenant_id, created_at) VALUES (gen_random_uuid(), 'cabs', now());
                 UPDATE rides SET pickup_eta_s = COALESCE(pickup_eta_s, 0) + 1",
            )
            .await;
        written += i64::from(wrote);
    }
    eventually("the move is completed", async || {
        cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE state = 'completed'").await == 1
    })
    .await;
    let one = async |region: &str, sql: &str| cluster.count(region, sql).await;
    assert_eq!(one("eu-west", "SELECT count(*) FROM breadcrumbs").await, 199_800);
    assert_eq!(one("eu-west", "SELECT count(*) FROM dispatch_candidates").await, 40);
    assert_eq!(one("eu-west", "SELECT count(*) FROM idempotency_keys").await, 50_000, "and one was there before");
    assert_eq!(one("eu-west", "SELECT count(*) FROM riders").await, 3001 + written);
    assert_eq!(one("eu-west", "SELECT COALESCE(sum(pickup_eta_s), 0) FROM rides").await, written);
    assert_eq!(one("us-east", "SELECT count(*) FROM breadcrumbs").await, 0);
    let paused_ms = one("us-east", "SELECT paused_ms::bigint FROM tenant_moves").await;
    assert!(paused_ms < 3_000, "writes paused for {paused_ms} ms");
    let moved = one("us-east", "SELECT rows_moved FROM tenant_moves").await;
    assert!((253_000..300_000).contains(&moved), "{moved} rows were sent: old ones once");
    cluster.stop_all().await;
}

/// A writer that keeps to the rules of commands writes all the time, the leader is killed again and again, and every row that
/// was written is there in the end, once.
#[sqlx::test(migrations = "../migrations")]
async fn a_move_goes_on_after_crashes_and_loses_nothing_that_was_written(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.start("eu-west").await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.as_system("us-east", BELONGINGS).await;
    let mut source = cluster.start_process("us-east");
    eventually("the tenant is known at its next home", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'cabs'").await == 1
    })
    .await;
    cluster.all_are_members().await;
    cluster.as_system("us-east", MOVE).await;
    let mut written = 0;
    let mut kills = 0;
    loop {
        // As a command does it.
        let wrote = cluster
            .try_as_command(
                "us-east",
                "INSERT INTO riders (id, tenant_id, created_at) VALUES (gen_random_uuid(), 'cabs', now())",
            )
            .await;
        written += i64::from(wrote);
        if cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE handed_over_at IS NOT NULL").await == 1 {
            break;
        }
        let state = cluster.text("us-east", "SELECT state FROM tenant_moves").await;
        assert_ne!(state, "failed", "{}", cluster.text("us-east", "SELECT failure FROM tenant_moves").await);
        if kills < 2 && state == ["copying", "pausing"][kills] {
            // Which kills it.
            drop(source);
            source = cluster.start_process("us-east");
            kills += 1;
        }
    }
    drop(source);
    let source = cluster.start_process("us-east");
    eventually("the move is completed", async || {
        cluster.count("us-east", "SELECT count(*) FROM tenant_moves WHERE state = 'completed'").await == 1
    })
    .await;
    assert!(kills > 0 && written > 0, "{kills} kills, {written} rows");
    assert_eq!(cluster.count("eu-west", "SELECT count(*) FROM riders").await, 3001 + written);
    assert_eq!(cluster.count("us-east", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await, 0);
    drop(source);
    cluster.stop_all().await;
}

/// Its own move may have to wait for others that are older, and copied first.
#[sqlx::test(migrations = "../migrations")]
async fn a_tenant_that_was_paused_when_the_leader_died_goes_on_under_the_next_before_any_move_does(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.create_tenant("us-east", "cabs").await;
    let paused = "UPDATE tenant_homes SET state = 'moving' WHERE tenant_id = 'cabs';
        INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by, state, next_attempt_at)
        VALUES (gen_random_uuid(), 'cabs', 'planned', 'us-east', 'eu-west', 1, 0, 'operator', 'pausing', now() + interval '1 hour')";
    cluster.as_system("us-east", paused).await;
    cluster.start("us-east").await;
    eventually("its commands go on", async || {
        cluster.text("us-east", "SELECT state FROM tenant_homes WHERE tenant_id = 'cabs'").await == "active"
    })
    .await;
    assert_eq!(cluster.text("us-east", "SELECT state FROM tenant_moves").await, "requested", "as before the pause");
    cluster.stop_all().await;
}

/// After a failover the old home still has what the tenant left there, and takes it back once that is erased.
#[sqlx::test(migrations = "../migrations")]
async fn a_tenant_taken_by_force_moves_back_once_its_old_rows_are_erased_by_command(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.as_system("us-east", BELONGINGS).await;
    cluster.converged(0).await;
    cluster.all_are_members().await;
    let erase = async |cluster: &Cluster, and_given_up: bool| {
        let erase = json!({"erase_lost": {"tenant": "cabs", "and_given_up": and_given_up}});
        cluster.command("us-east", erase).await
    };
    assert_eq!(erase(&cluster, false).await, (false, "cabs is at home here".to_owned()));
    cluster.stop("us-east").await;
    let take = "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by)
                VALUES (gen_random_uuid(), 'cabs', 'failover', 'us-east', 'eu-west', 1, 0, 'operator')";
    cluster.as_system("eu-west", take).await;
    let moves = async |cluster: &Cluster, state: &str| {
        let last = "SELECT state FROM tenant_moves ORDER BY requested_at DESC LIMIT 1";
        eventually(&format!("the move is {state}"), async || cluster.text("eu-west", last).await == state).await;
    };
    moves(&cluster, "completed").await;
    let new = "INSERT INTO riders (id, tenant_id, created_at) SELECT gen_random_uuid(), 'cabs', now() FROM generate_series(1, 7)";
    cluster.as_system("eu-west", new).await;
    cluster.start("us-east").await;
    let lost = "SELECT concat_ws(' ', region, term, n, lost_term, lost_n) FROM tenant_homes WHERE tenant_id = 'cabs'";
    eventually("the old home knows", async || cluster.text("us-east", lost).await == "eu-west 2 0 1 0").await;

    let back = "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, wrapped_key, requested_by)
                VALUES (gen_random_uuid(), 'cabs', 'planned', 'eu-west', 'us-east', 2, 0, 'wrapped', 'operator')";
    cluster.as_system("eu-west", back).await;
    moves(&cluster, "failed").await;
    let failure = cluster.text("eu-west", "SELECT failure FROM tenant_moves WHERE mode = 'planned'").await;
    assert!(failure.contains("give this region the command erase_lost"), "{failure}");

    for (payments, why) in [
        ("UPDATE payments SET status = 'unknown', next_attempt_at = now() + interval '1 h'", "have not ended"),
        ("UPDATE payments SET next_attempt_at = NULL", "say and_given_up"),
    ] {
        cluster.as_system("us-east", payments).await;
        let (done, said) = erase(&cluster, false).await;
        assert!(!done && said.contains(why), "{said}");
    }
    assert_eq!(cluster.count("us-east", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await, 3001);
    let (done, said) = erase(&cluster, true).await;
    assert!(done && said.ends_with("rows of cabs are erased: it can move here again"), "{said}");
    assert_eq!(cluster.count("us-east", "SELECT count(*) FROM riders").await, 1, "another tenant's");
    assert_eq!(cluster.text("us-east", lost).await, "eu-west 2 0", "nothing goes on under the old home");
    assert_eq!(erase(&cluster, false).await, (true, "nothing of cabs is here".to_owned()));
    cluster.as_system("eu-west", back).await;
    moves(&cluster, "completed").await;
    assert_eq!(cluster.count("us-east", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await, 7);
    assert_eq!(cluster.count("eu-west", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await, 0);
    cluster.stop_all().await;
}

const TAKE: [&str; 2] = [
    "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by)
     VALUES (gen_random_uuid(), 'porto-taxis', 'failover', 'us-east', 'eu-west', 1, 0, 'operator')",
    "INSERT INTO tenant_moves (id, tenant_id, mode, from_region, to_region, from_term, from_n, requested_by)
     VALUES (gen_random_uuid(), 'porto-taxis', 'failover', 'us-east', 'ap-south', 1, 0, 'operator')",
];
const HOME: &str =
    "SELECT concat_ws(' ', region, term, n, lost_term, lost_n) FROM tenant_homes WHERE tenant_id = 'porto-taxis'";
const TAKEN: &str = "SELECT state FROM tenant_moves";

#[sqlx::test(migrations = "../migrations")]
async fn a_home_nobody_hears_is_taken_with_a_majority_and_never_without(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "porto-taxis").await;
    cluster.settle("us-east", 1).await;
    cluster.converged(1).await;
    // A region that only joins has no voice.
    cluster.all_are_members().await;
    for region in ["us-east", "ap-south"] {
        cluster.stop(region).await;
    }
    cluster.as_system("eu-west", TAKE[0]).await;
    eventually("the first vote has failed", async || {
        cluster
            .count("eu-west", "SELECT count(*) FROM tenant_moves WHERE attempts > 0 AND failure LIKE '%ap-south%'")
            .await
            == 1
    })
    .await;
    assert_eq!(cluster.text("eu-west", HOME).await, "us-east 1 0", "one of three is no majority");
    // Settled where nobody hears it.
    cluster.settle("us-east", 2).await;

    cluster.start("ap-south").await;
    eventually("the home is taken", async || cluster.text("eu-west", TAKEN).await == "completed").await;
    for region in ["eu-west", "ap-south"] {
        eventually("the others hear of it", async || cluster.text(region, HOME).await == "eu-west 2 0").await;
    }
    cluster.start("us-east").await;
    cluster.converged(2).await;
    eventually("the old home knows that it is so no more, and what it was", async || {
        cluster.text("us-east", HOME).await == "eu-west 2 0 1 0"
    })
    .await;
    for region in ["eu-west", "ap-south"] {
        assert_eq!(cluster.count(region, "SELECT count(*) FROM ledger_facts f WHERE is_late(f)").await, 1, "{region}");
    }
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_home_is_not_taken_while_the_third_region_only_joins_and_is_once_that_has_a_voice(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "porto-taxis").await;
    eventually("the tenant is known", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'porto-taxis'").await == 1
            && cluster.count("ap-south", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'porto-taxis'").await == 1
    })
    .await;
    cluster.all_are_members().await;
    cluster.stop("us-east").await;
    cluster
        .tamper(
            "eu-west",
            "UPDATE regions SET state = 'joining' WHERE name = 'ap-south';
             UPDATE repl_member SET state = 'joining' WHERE region = 'ap-south'",
        )
        .await;
    cluster.as_system("eu-west", TAKE[0]).await;
    eventually("it is said why nothing comes of it", async || {
        let said =
            "SELECT count(*) FROM tenant_moves WHERE ended_at IS NULL AND failure LIKE '%while ap-south only joins'";
        cluster.count("eu-west", said).await == 1
    })
    .await;
    assert_eq!(cluster.text("eu-west", HOME).await, "us-east 1 0");
    cluster
        .tamper(
            "eu-west",
            "UPDATE regions SET state = 'active' WHERE name = 'ap-south';
             UPDATE repl_member SET state = 'active' WHERE region = 'ap-south'",
        )
        .await;
    eventually("the home is taken", async || cluster.text("eu-west", TAKEN).await == "completed").await;
    assert_eq!(cluster.text("eu-west", HOME).await, "eu-west 2 0");
    cluster.stop_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_regions_that_take_one_tenant_all_agree_on_one_in_the_end(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "porto-taxis").await;
    for region in ["eu-west", "ap-south"] {
        eventually("the tenant is known", async || {
            cluster.count(region, "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'porto-taxis'").await == 1
        })
        .await;
    }
    cluster.all_are_members().await;
    cluster.stop("us-east").await;
    tokio::join!(cluster.as_system("eu-west", TAKE[0]), cluster.as_system("ap-south", TAKE[1]));
    eventually("both have come to an end", async || {
        let ended = "SELECT count(*) FROM tenant_moves WHERE ended_at IS NOT NULL";
        cluster.count("eu-west", ended).await + cluster.count("ap-south", ended).await == 2
    })
    .await;
    cluster.start("us-east").await;
    eventually("all know one home, which is not the old one", async || {
        let mut homes = BTreeSet::new();
        for region in cluster.regions() {
            let home = cluster.text(&region, HOME).await;
            homes.insert(home.split(' ').take(3).map(str::to_owned).collect::<Vec<_>>());
        }
        homes.len() == 1 && homes.iter().all(|home| home[0] != "us-east")
    })
    .await;
    cluster.stop_all().await;
}

/// Somebody changes his mind while rows are copied: the tenant stays, its commands go on, and what was copied is nobody's.
#[sqlx::test(migrations = "../migrations")]
async fn a_move_that_is_cancelled_leaves_the_tenant_where_it_was(pool: PgPool) {
    let mut cluster = Cluster::new(&pool, &["us-east", "eu-west"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "cabs").await;
    cluster.as_system("us-east", BELONGINGS).await;
    eventually("the tenant is known at its next home", async || {
        cluster.count("eu-west", "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'cabs'").await == 1
    })
    .await;
    let owned = cluster.count("us-east", OWNED).await;
    // While a command is under way nothing is handed over.
    let command = cluster.hold_home("us-east").await;
    cluster.all_are_members().await;
    cluster.as_system("us-east", MOVE).await;
    eventually("rows are copied", async || {
        cluster.count("eu-west", "SELECT count(*) FROM riders WHERE tenant_id = 'cabs'").await > 0
    })
    .await;
    cluster.tamper("us-east", "UPDATE tenant_moves SET cancelled_by = 'operator'").await;
    eventually("the move has ended", async || {
        cluster.text("us-east", "SELECT state FROM tenant_moves").await == "cancelled"
    })
    .await;
    command.rollback().await.unwrap();
    assert_eq!(cluster.count("us-east", OWNED).await, owned);
    assert!(cluster.try_as_command("us-east", "SELECT 1").await, "commands go on");
    cluster.stop_all().await;
}

const CONFIRMED: &str = "SELECT count(*) FROM tenant_homes JOIN repl_self USING (region)
                         WHERE tenant_id = 'porto-taxis' AND home_is_confirmed(tenant_id, term)";

/// Three regions, all members, that know a tenant which wants its home leased.
async fn leased_at_home_in_us_east(pool: &PgPool) -> Cluster {
    let mut cluster = Cluster::new(pool, &["us-east", "eu-west", "ap-south"]).await;
    cluster.start_all().await;
    cluster.create_tenant("us-east", "porto-taxis").await;
    cluster.all_are_members().await;
    for region in cluster.regions() {
        eventually("the tenant is known", async || {
            cluster.count(&region, "SELECT count(*) FROM tenant_homes WHERE tenant_id = 'porto-taxis'").await == 1
        })
        .await;
        cluster.tamper(&region, "UPDATE tenant_homes SET is_leased = true").await;
    }
    cluster
}

/// The old home is stopped while others' word for it still holds: whoever takes its place waits until that has run out.
#[sqlx::test(migrations = "../migrations")]
async fn a_leased_home_is_never_two_and_none_without_a_majority(pool: PgPool) {
    let mut cluster = leased_at_home_in_us_east(&pool).await;
    eventually("the others confirm the home", async || {
        cluster.count("us-east", "SELECT count(*) FROM home_grants").await == 2
            && cluster.count("us-east", CONFIRMED).await == 1
    })
    .await;
    for region in ["eu-west", "ap-south"] {
        cluster.stop(region).await;
    }
    eventually("a home that hears of nobody is confirmed no more", async || {
        cluster.count("us-east", CONFIRMED).await == 0
    })
    .await;
    for region in ["eu-west", "ap-south"] {
        cluster.start(region).await;
    }
    eventually("the others confirm it again", async || cluster.count("us-east", CONFIRMED).await == 1).await;

    cluster.stop("us-east").await;
    cluster.as_system("eu-west", TAKE[0]).await;
    eventually("the home is taken once the old one is confirmed no more", async || {
        let taken = cluster.text("eu-west", TAKEN).await == "completed";
        assert!(!taken || cluster.count("us-east", CONFIRMED).await == 0, "two homes");
        taken
    })
    .await;
    let waited = "SELECT count(*) FROM tenant_moves WHERE ended_at - requested_at > 2 * home_lease()";
    assert_eq!(cluster.count("eu-west", waited).await, 1);
    cluster.stop_all().await;
}

/// A home that is cut off from all but one region has no majority once that one has agreed to another home, though it still
/// hears it; and has one again when nobody wants the home any more.
#[sqlx::test(migrations = "../migrations")]
async fn whoever_has_agreed_to_another_home_confirms_the_old_one_no_more_until_that_is_given_up(pool: PgPool) {
    let mut cluster = leased_at_home_in_us_east(&pool).await;
    eventually("the others confirm the home", async || cluster.count("us-east", CONFIRMED).await == 1).await;
    cluster.as_system("eu-west", TAKE[0]).await;
    eventually("nobody else confirms it any more, long before it is taken", async || {
        assert_eq!(cluster.text("eu-west", HOME).await, "us-east 1 0");
        cluster.count("us-east", CONFIRMED).await == 0
    })
    .await;
    cluster.tamper("eu-west", "UPDATE tenant_moves SET state = 'failed', ended_at = now()").await;
    eventually("both confirm it again", async || {
        let confirm = "SELECT count(*) FROM home_grants WHERE asked_at > now() - interval '10 s'";
        cluster.count("us-east", confirm).await == 2 && cluster.count("us-east", CONFIRMED).await == 1
    })
    .await;
    let agreed = "SELECT count(*) FROM home_grants WHERE promised ? 'porto-taxis'";
    assert_eq!(cluster.count("us-east", agreed).await, 1, "what ap-south has agreed to stays");
    cluster.stop_all().await;
}
