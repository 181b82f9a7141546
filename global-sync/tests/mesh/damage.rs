//! What is damaged, or differs between two regions, is found, named, and mended by command.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::cluster::{Cluster, Process, eventually};

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
