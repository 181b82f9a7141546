use shared::{
    fact::FactStream,
    tenant_document::{DocumentActor, TenantDocument},
};
use sqlx::{Connection as _, Executor as _, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::*;
use crate::{
    protocol::{Batch, Head, LogId, verify},
    store::tests::{CLUSTER, HashSigner, Home, batch, created, edited, log, published, settlement, taken},
};

/// A second database with the schema; the first test's owner removes it at the end.
async fn another(owner: &PgPool) -> (PgPool, String) {
    let name = format!("snapshot_{}", Uuid::now_v7().simple());
    owner.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    let options = owner.connect_options().as_ref().clone().database(&name);
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    sqlx::migrate!("../migrations").run(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    (PgPoolOptions::new().max_connections(1).connect_lazy_with(options), name)
}

async fn remove(owner: &PgPool, of: Home, (pool, name): (PgPool, String)) {
    of.close().await;
    pool.close().await;
    // A connection that was closed has a backend for a moment longer, and only its own role may end it.
    let gone = timeout(Duration::from_secs(10), async {
        while owner.execute(sqlx::AssertSqlSafe(format!("DROP DATABASE {name}"))).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    gone.await.unwrap();
}

/// What goes over the wire, without one.
async fn copy(from: &Home, to: &Home) -> Result<Imported, StoreError> {
    let (pieces, mut queue) = mpsc::channel(2);
    let mut signer = HashSigner;
    let (sent, taken) = tokio::join!(
        async {
            let sent = from.store.export_snapshot(&pieces).await;
            drop(pieces);
            sent
        },
        to.store.import_snapshot(&to.fence, CLUSTER, &to.origin, &from.origin.region, &mut signer, &mut queue)
    );
    if taken.is_ok() {
        sent?;
    }
    taken
}

/// Everything of a log that `to` lacks, as pulls would bring it.
async fn pull(from: &Home, to: &Home, log: &LogId) {
    loop {
        let ours = to.store.logs().await.unwrap().get(log).map_or(Head::EMPTY, |state| state.head);
        let theirs = from.store.logs().await.unwrap()[log].head;
        if ours.seq >= theirs.seq {
            return;
        }
        let sent = from.store.read_for_peer(log, ours.seq + 1, theirs.seq, 100_000, &[]).await.unwrap().unwrap();
        let batch = Batch { log: log.clone(), pull: 1, entries: sent.entries, checkpoint: sent.checkpoint };
        to.store.receive(&verify("test", ours, batch, &mut HashSigner).unwrap()).await.unwrap();
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_snapshot_taken_while_facts_are_written_and_the_tail_after_it_lack_nothing(pool: PgPool) {
    let donor = Home::new(&pool, "us-east").await;
    let (there, name) = another(&pool).await;
    let joiner = Home::new(&there, "eu-west").await;
    donor.commit(&created("us-east", 1, 0)).await;
    donor.commit(&published(1, "EUR")).await;
    let mut author = TenantDocument::create("porto-taxis", 0);
    let patch = serde_json::json!({"labels": {"a": 1}});
    let change = author.apply_merge_patch(None, &patch, &DocumentActor::of("ap-south", 1)).unwrap().unwrap();
    let ap = log("ap-south", FactStream::Config);
    donor.store.receive(&batch(&ap, Head::EMPTY, &[edited(vec![change])])).await.unwrap();
    let control = log("ap-south", FactStream::Control);
    donor.store.receive(&batch(&control, Head::EMPTY, &[taken("ap-south", "porto-taxis", 7)])).await.unwrap();
    donor.apply_all().await;
    for n in 1..=400 {
        donor.commit(&settlement(n)).await;
    }
    donor.number().await;
    let writing = async {
        for n in 401..=600 {
            donor.commit(&settlement(n)).await;
            if n % 10 == 0 {
                donor.number().await;
            }
        }
    };
    let (copied, ()) = tokio::join!(copy(&donor, &joiner), writing);
    let facts = copied.unwrap().facts;
    assert!((400..=600).contains(&facts), "{facts}");
    for stream in FactStream::ALL {
        pull(&donor, &joiner, &log("us-east", stream)).await;
    }
    joiner.apply_all().await;
    let missing = "SELECT count(*) FROM ledger_facts";
    assert_eq!(joiner.scalar::<i64>(missing).await, 600);
    assert_eq!(joiner.store.digest().await.unwrap(), donor.store.digest().await.unwrap());
    assert_eq!(joiner.store.check_ledger(&joiner.fence).await.unwrap(), Vec::<i16>::new());
    // Again: everything is here, nothing changes.
    let again = copy(&donor, &joiner).await.unwrap();
    assert_eq!(again, Imported::default());
    assert_eq!(joiner.store.digest().await.unwrap(), donor.store.digest().await.unwrap());
    remove(&pool, joiner, (there, name)).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_ledger_row_that_was_altered_spreads_with_no_snapshot(pool: PgPool) {
    let donor = Home::new(&pool, "us-east").await;
    for n in 1..=3 {
        donor.commit(&settlement(n)).await;
    }
    donor.number().await;
    let (there, name) = another(&pool).await;
    let joiner = Home::new(&there, "eu-west").await;
    let before = joiner.store.digest().await.unwrap();
    donor.superuser.execute("UPDATE ledger_facts SET amount = amount + 1 WHERE origin_seq = 2").await.unwrap();
    let error = copy(&donor, &joiner).await.unwrap_err();
    assert!(matches!(error, StoreError::Snapshot(_)), "{error}");
    assert_eq!(joiner.store.digest().await.unwrap(), before);
    donor.superuser.execute("UPDATE ledger_facts SET amount = amount - 1 WHERE origin_seq = 2").await.unwrap();
    assert_eq!(copy(&donor, &joiner).await.unwrap().facts, 3);
    remove(&pool, joiner, (there, name)).await;
}

/// Each mistake is made at the giver, so that what is sent is as it would send it.
#[sqlx::test(migrations = "../migrations")]
async fn a_snapshot_with_anything_in_it_that_no_origin_wrote_is_refused_and_names_it(pool: PgPool) {
    let donor = Home::new(&pool, "us-east").await;
    let (there, name) = another(&pool).await;
    let joiner = Home::new(&there, "eu-west").await;
    for n in 1..=3 {
        donor.commit(&settlement(n)).await;
    }
    donor.number().await;
    // What ap-south signed as one is applied but for its last entry, and an entry is set aside.
    let control = log("ap-south", FactStream::Control);
    let told = [taken("ap-south", "porto-taxis", 1), created("ap-south", 2, 0), created("sa-east", 2, 0)];
    donor.store.receive(&batch(&control, Head::EMPTY, &told)).await.unwrap();
    assert_eq!(donor.apply_all().await, 1);
    donor.superuser.execute("UPDATE repl_apply SET applied = 2 WHERE origin_region = 'ap-south'").await.unwrap();
    donor.superuser.execute("UPDATE repl_quarantine SET seq = 2").await.unwrap();
    let before = joiner.store.digest().await.unwrap();
    let flip = |column: &str| {
        let bit = format!("8 * (length({column}) - 1)");
        format!("{column} = set_bit({column}, {bit}, 1 - get_bit({column}, {bit}))")
    };
    let (signature, envelope, body, head) = (flip("signature"), flip("envelope"), flip("body"), flip("head_hash"));
    let renumber = |from: u64, to: u64| format!("ledger_facts SET origin_seq = {to} WHERE origin_seq = {from}");
    let of_control = |seq: u64| format!("WHERE seq = {seq} AND stream = 'control'");
    let twice = |forgery: String| (forgery.clone(), forgery);
    let (theirs, ours) = ("entry 2 of ap-south", "entry 3 of us-east");
    let forgeries: [((String, String), &[&str], &str); 5] = [
        (twice(format!("repl_checkpoint SET {signature} {}", of_control(3))), &["signature"], theirs),
        (twice(format!("repl_log SET {envelope} {}", of_control(3))), &["signature", "entry"], theirs),
        (twice(format!("repl_log SET {body} {}", of_control(2))), &["entry"], theirs),
        (twice(format!("repl_cursor SET {head} WHERE stream = 'ledger'")), &["signature"], ours),
        ((renumber(3, 4), renumber(4, 3)), &["fact"], "entry 4 of us-east"),
    ];
    for ((forgery, undone), reasons, what) in forgeries {
        donor.superuser.execute(sqlx::AssertSqlSafe(format!("UPDATE {forgery}"))).await.unwrap();
        let error = copy(&donor, &joiner).await.unwrap_err();
        let StoreError::Forged { what: named, reason: said, .. } = &error else { panic!("{forgery}: {error}") };
        assert!(named.starts_with(what) && reasons.contains(said), "{forgery}: {said}: {error}");
        assert_eq!(joiner.store.digest().await.unwrap(), before);
        donor.superuser.execute(sqlx::AssertSqlSafe(format!("UPDATE {undone}"))).await.unwrap();
    }
    // Another entry of the same number was here first.
    joiner.store.receive(&batch(&control, Head::EMPTY, &told)).await.unwrap();
    let error = copy(&donor, &joiner).await.unwrap_err();
    assert!(matches!(error, StoreError::Forged { reason: "fork", .. }), "{error}");
    remove(&pool, joiner, (there, name)).await;
}

/// Of a log nothing more comes for, the signature has to come along, or nobody could be given a snapshot from here.
#[sqlx::test(migrations = "../migrations")]
async fn a_region_that_began_with_a_snapshot_can_give_one_and_finds_no_damage_in_it(pool: PgPool) {
    let donor = Home::new(&pool, "us-east").await;
    donor.commit(&settlement(1)).await;
    donor.number().await;
    let ((there, name), (third, third_name)) = (another(&pool).await, another(&pool).await);
    let joiner = Home::new(&there, "eu-west").await;
    let next = Home::new(&third, "ap-south").await;
    copy(&donor, &joiner).await.unwrap();
    assert_eq!(copy(&joiner, &next).await.unwrap().facts, 1);
    assert_eq!(next.store.membership().await.unwrap().unchecked, Some("eu-west".parse().unwrap()));
    assert_eq!(next.store.digest().await.unwrap(), donor.store.digest().await.unwrap());
    let ledger = log("us-east", FactStream::Ledger);
    let look = async || next.store.verify_log(CLUSTER, &ledger, 1, 100, &mut HashSigner).await.unwrap().damage;
    assert!(look().await.is_empty());
    next.superuser.execute("UPDATE repl_checkpoint SET signature = ''").await.unwrap();
    assert_eq!(look().await.iter().map(|damage| damage.seq).collect::<Vec<_>>(), [1]);
    remove(&pool, next, (third, third_name)).await;
    remove(&pool, joiner, (there, name)).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_snapshot_that_breaks_off_or_is_out_of_order_changes_nothing(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    us.commit(&settlement(1)).await;
    us.number().await;
    let (all, mut queue) = mpsc::channel(100);
    us.store.export_snapshot(&all).await.unwrap();
    let mut pieces = Vec::new();
    while let Ok(piece) = queue.try_recv() {
        pieces.push(piece);
    }
    assert_eq!(pieces.last(), Some(&Piece::End));
    let (there, name) = another(&pool).await;
    let joiner = Home::new(&there, "eu-west").await;
    let before = joiner.store.digest().await.unwrap();
    let mut swapped = pieces.clone();
    swapped.swap(0, 2);
    let mut torn = pieces.clone();
    for piece in &mut torn {
        if let Piece::Rows(rows) = piece {
            rows.truncate(rows.len() / 2);
        }
    }
    for bad in [&pieces[..pieces.len() - 1], &pieces[..3], &swapped, &torn, &[]] {
        let (sender, mut queue) = mpsc::channel(100);
        for piece in bad {
            sender.send(piece.clone()).await.unwrap();
        }
        drop(sender);
        joiner
            .store
            .import_snapshot(&joiner.fence, CLUSTER, &joiner.origin, &us.origin.region, &mut HashSigner, &mut queue)
            .await
            .unwrap_err();
        assert_eq!(joiner.store.digest().await.unwrap(), before);
    }
    remove(&pool, joiner, (there, name)).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_region_behind_its_own_log_takes_no_snapshot_and_what_it_edited_meanwhile_stays(pool: PgPool) {
    let donor = Home::new(&pool, "us-east").await;
    let (there, name) = another(&pool).await;
    let joiner = Home::new(&there, "eu-west").await;
    let edit = |region: &str, key: &str| {
        let mut author = TenantDocument::create("porto-taxis", 0);
        let patch = serde_json::json!({"labels": {key: 1}});
        edited(vec![author.apply_merge_patch(None, &patch, &DocumentActor::of(region, 1)).unwrap().unwrap()])
    };
    let (ap, sa) = (log("ap-south", FactStream::Config), log("sa-east", FactStream::Config));
    donor.store.receive(&batch(&ap, Head::EMPTY, &[edit("ap-south", "a")])).await.unwrap();
    joiner.store.receive(&batch(&sa, Head::EMPTY, &[edit("sa-east", "b")])).await.unwrap();
    donor.apply_all().await;
    joiner.apply_all().await;
    copy(&donor, &joiner).await.unwrap();
    let draft: serde_json::Value = joiner.scalar("SELECT draft->'labels' FROM tenant_documents").await;
    assert_eq!(draft, serde_json::json!({"a": 1, "b": 1}));

    let ours = log("eu-west", FactStream::Ledger);
    donor.store.receive(&batch(&ours, Head::EMPTY, &[settlement(9)])).await.unwrap();
    donor.apply_all().await;
    assert!(matches!(copy(&donor, &joiner).await, Err(StoreError::Discontinuous)));
    assert_eq!(joiner.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 0);
    remove(&pool, joiner, (there, name)).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_damaged_draft_gives_way_to_the_one_of_a_snapshot_and_keeps_what_the_logs_here_have_for_it(pool: PgPool) {
    let donor = Home::new(&pool, "us-east").await;
    let (there, name) = another(&pool).await;
    let joiner = Home::new(&there, "eu-west").await;
    let (ap, sa) = (log("ap-south", FactStream::Config), log("sa-east", FactStream::Config));
    let mut author = TenantDocument::create("porto-taxis", 0);
    let mut edit = |key: &str| {
        let patch = serde_json::json!({"labels": {key: 1}});
        edited(vec![author.apply_merge_patch(None, &patch, &DocumentActor::of("sa-east", 1)).unwrap().unwrap()])
    };
    let (first, second) = (edit("a"), edit("b"));
    donor.store.receive(&batch(&ap, Head::EMPTY, std::slice::from_ref(&first))).await.unwrap();
    donor.apply_all().await;
    let here = batch(&sa, Head::EMPTY, &[first, second]);
    joiner.store.receive(&here).await.unwrap();
    joiner.apply_all().await;
    let damage = "UPDATE tenant_documents SET document = substring(document FROM 1 FOR 20)";
    sqlx::query(damage).execute(&joiner.superuser).await.unwrap();
    let mut author = TenantDocument::create("porto-taxis", 0);
    let patch = serde_json::json!({"labels": {"c": 1}});
    let third = author.apply_merge_patch(None, &patch, &DocumentActor::of("sa-east", 2)).unwrap().unwrap();
    joiner.store.receive(&batch(&sa, here.checkpoint.head, &[edited(vec![third])])).await.unwrap();
    assert_eq!(joiner.apply_all().await, 1, "it waits until the draft is mended");
    copy(&donor, &joiner).await.unwrap();
    let draft: serde_json::Value = joiner.scalar("SELECT draft->'labels' FROM tenant_documents").await;
    assert_eq!(draft, serde_json::json!({"a": 1, "b": 1, "c": 1}));
    assert_eq!(joiner.scalar::<i64>("SELECT count(*) FROM repl_quarantine WHERE state = 'held'").await, 0);
    assert!(joiner.store.damaged_drafts("").await.unwrap().0.is_empty());
    remove(&pool, joiner, (there, name)).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_fact_told_in_two_lives_is_from_the_first_of_them_after_a_snapshot_too(pool: PgPool) {
    let donor = Home::new(&pool, "us-east").await;
    let (there, name) = another(&pool).await;
    let joiner = Home::new(&there, "eu-west").await;
    let told = |region: &str, incarnation, fact| {
        let LogId { origin, stream } = log(region, FactStream::Ledger);
        batch(&LogId { origin: Origin { incarnation, ..origin }, stream }, Head::EMPTY, &[settlement(fact)])
    };
    let both_lives = [told("ap-south", 1, 1), told("ap-south", 2, 1)];
    for (region, facts) in [
        (&donor, [&both_lives[0], &both_lives[1], &told("sa-east", 2, 2)].as_slice()),
        (&joiner, [&both_lives[1], &told("sa-east", 1, 2)].as_slice()),
    ] {
        for told in facts {
            region.store.receive(told).await.unwrap();
            region.apply_all().await;
        }
    }
    copy(&donor, &joiner).await.unwrap();
    let said = "SELECT string_agg(origin_incarnation::text, ' ' ORDER BY fact_id) FROM ledger_facts";
    assert_eq!(donor.scalar::<String>(said).await, "1 2");
    assert_eq!(joiner.scalar::<String>(said).await, "1 1", "and what was told here is not forgotten");
    assert_eq!(joiner.store.check_ledger(&joiner.fence).await.unwrap(), Vec::<i16>::new());
    remove(&pool, joiner, (there, name)).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn while_a_snapshot_comes_another_instance_can_take_the_lease_and_then_it_changes_nothing(pool: PgPool) {
    let donor = Home::new(&pool, "us-east").await;
    donor.commit(&settlement(1)).await;
    donor.number().await;
    let (all, mut pieces) = mpsc::channel(100);
    donor.store.export_snapshot(&all).await.unwrap();
    drop(all);
    let (there, name) = another(&pool).await;
    let joiner = Home::new(&there, "eu-west").await;
    let before = joiner.store.digest().await.unwrap();
    let (source, mut queue) = mpsc::channel(1);
    let standing_by = async {
        // More pieces than the channel holds: some have been taken when the source falls silent.
        for _ in 0..4 {
            source.send(pieces.recv().await.unwrap()).await.unwrap();
        }
        let run_out = "UPDATE repl_lease_expiry SET expires_at = clock_timestamp() - interval '1 ms'";
        sqlx::query(run_out).execute(joiner.store.pool()).await.unwrap();
        let taking = joiner.store.take_lease(Uuid::now_v7(), &joiner.identity);
        let taken = timeout(Duration::from_secs(5), taking).await.expect("nobody waits for a snapshot").unwrap();
        assert!(taken.is_some(), "the leader renews no more");
        while let Some(piece) = pieces.recv().await {
            source.send(piece).await.unwrap();
        }
        drop(source);
    };
    let mut signer = HashSigner;
    let importing = joiner.store.import_snapshot(
        &joiner.fence,
        CLUSTER,
        &joiner.origin,
        &donor.origin.region,
        &mut signer,
        &mut queue,
    );
    let (imported, ()) = tokio::join!(importing, standing_by);
    assert!(matches!(imported, Err(StoreError::NotLeading)), "{imported:?}");
    assert_eq!(joiner.store.digest().await.unwrap(), before);
    remove(&pool, joiner, (there, name)).await;
}
