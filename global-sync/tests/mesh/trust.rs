//! Whom a region believes: keys and authorities that change, strangers, impostors, and members that lie.

use std::time::Duration;

use global_sync::{
    protocol::{
        Advert, Batch, Checkpoint, Draft, Envelope, Head, Hello, LogId, LogState, MemberState, Message, Origin,
        checkpoint_message,
    },
    store::Signer as _,
    transport::MeshEvent,
};
use shared::fact::FactStream;
use sqlx::PgPool;
use uuid::Uuid;

use super::cluster::{Authority, CLUSTER, Cluster, Rogue, eventually};

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
