use std::collections::BTreeMap;

use shared::{
    fact::{
        ConfigChanged, ConfigPublished, ConfigRollout, Fact, FactStream, LedgerEntry, PayoutMade, RegionAnnounced,
        TenantCreated, TenantMoved, WalletMoved,
    },
    tenant_document::{DocumentActor, TenantDocument},
};
use sqlx::PgPool;
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

use super::*;
use crate::protocol::{
    Checkpoint, Draft, Entry, Envelope, HomeEpoch, KeyId, SALT_BYTES, Trust, TrustError, VerifiedBatch,
    checkpoint_message, hash_of, verify,
};

pub(crate) const CLUSTER: &str = "test";

/// Signs with a hash; whether Ed25519 is right is tested where it is used.
pub(crate) struct HashSigner;

impl Signer for HashSigner {
    fn key_id(&self) -> KeyId {
        [1; 32]
    }
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        hash_of(message).to_vec()
    }
}

impl Trust for HashSigner {
    fn verify(&mut self, _: &RegionName, checkpoint: &Checkpoint, message: &[u8]) -> Result<(), TrustError> {
        if checkpoint.signature == self.sign(message) { Ok(()) } else { Err(TrustError::BadSignature) }
    }
    fn known_keys(&self, _: &RegionName) -> Vec<KeyId> {
        Vec::new()
    }
    fn stored(&mut self, _: &RegionName, _: &KeyId) {}
}

const EMIT: &str = "INSERT INTO repl_outbox (id, stream, kind, tenant_id, home_term, home_n, body)
                    VALUES ($1, $2, $3, $4, 1, 0, $5)";

pub(crate) struct Home {
    pub(crate) store: Store,
    pub(crate) fence: Fence,
    pub(crate) origin: Origin,
    pub(crate) identity: Identity,
    system: PgPool,
    /// Of somebody who may do to the database what no role of ours may.
    pub(crate) superuser: PgPool,
}

impl Home {
    pub(crate) async fn new(pool: &PgPool, region: &str) -> Self {
        let store = Store::beside(pool, "gocomet_sync");
        assert!(store.is_ready().await.unwrap());
        let identity = store.identify(CLUSTER, &region.parse().unwrap()).await.unwrap();
        let fence = store.take_lease(Uuid::now_v7(), &identity).await.unwrap().expect("nobody else leads");
        // A test is no shorter than a lease on every machine, and nobody renews this one.
        let for_long = "UPDATE repl_lease_expiry SET expires_at = clock_timestamp() + interval '1 hour'";
        sqlx::query(for_long).execute(&store.pool).await.unwrap();
        let system = Store::beside(pool, "gocomet_system").pool;
        let superuser = Store::beside(pool, "postgres").pool;
        Self { store, fence, origin: identity.origin.clone(), identity, system, superuser }
    }

    pub(crate) async fn close(self) {
        self.store.pool.close().await;
        self.system.close().await;
        self.superuser.close().await;
    }

    pub(crate) async fn commit(&self, fact: &Fact) -> Uuid {
        self.commit_raw(fact.stream().as_str(), fact.kind(), fact.tenant(), &fact.to_body()).await
    }

    async fn commit_raw(&self, stream: &str, kind: &str, tenant: Option<&str>, body: &[u8]) -> Uuid {
        let id = Uuid::now_v7();
        sqlx::query(EMIT).bind(id).bind(stream).bind(kind).bind(tenant).bind(body).execute(&self.system).await.unwrap();
        id
    }

    pub(crate) async fn number(&self) -> Numbered {
        self.store.number(&self.fence, CLUSTER, &self.origin, &HashSigner).await.unwrap()
    }

    pub(crate) async fn apply_all(&self) -> usize {
        let mut set_aside = 0;
        for stream in FactStream::ALL {
            while let Some(log) = self.store.unapplied(stream).await.unwrap().first() {
                set_aside += self.store.apply(&self.fence, log).await.unwrap().expect("not stuck").set_aside;
            }
        }
        set_aside
    }

    pub(crate) async fn scalar<T>(&self, sql: &'static str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).fetch_one(&self.store.pool).await.unwrap()
    }
}

pub(crate) fn log(region: &str, stream: FactStream) -> LogId {
    LogId { origin: Origin { region: region.parse().unwrap(), incarnation: 1 }, stream }
}

/// Entries of another region, as they arrive here.
pub(crate) fn batch(log: &LogId, after: Head, facts: &[Fact]) -> VerifiedBatch {
    let raw: Vec<_> = facts.iter().map(|fact| (fact.kind(), fact.tenant(), fact.to_body())).collect();
    raw_batch(log, after, &raw)
}

fn raw_batch(log: &LogId, after: Head, facts: &[(&str, Option<&str>, Vec<u8>)]) -> VerifiedBatch {
    let mut head = after;
    let entries: Vec<Entry> = facts
        .iter()
        .map(|(kind, tenant, body)| {
            let draft = Draft {
                id: Uuid::now_v7(),
                kind: (*kind).to_owned(),
                tenant: tenant.map(|tenant| tenant.parse().unwrap()),
                home_epoch: Some(HomeEpoch { term: 1, n: 0 }),
                traceparent: None,
                committed_at_ms: 0,
                body: [&[9; SALT_BYTES], body.as_slice()].concat(),
            };
            let (entry, next) = Envelope::seal(CLUSTER, log, &head, draft);
            head = next;
            entry
        })
        .collect();
    let signature = HashSigner.sign(&checkpoint_message(CLUSTER, log, &head));
    let checkpoint = Checkpoint { head, key_id: [1; 32], signature, certificate: None };
    let batch = crate::protocol::Batch { log: log.clone(), pull: 1, entries, checkpoint };
    verify(CLUSTER, after, batch, &mut HashSigner).unwrap()
}

pub(crate) fn settlement(n: u128) -> Fact {
    Fact::Settlement(LedgerEntry {
        fact_id: Uuid::from_u128(n),
        payment_id: Uuid::from_u128(n + 1_000_000),
        trip_id: Uuid::from_u128(n + 2_000_000),
        tenant: "porto-taxis".to_owned(),
        amount: i64::try_from(n).unwrap() * 10,
        currency: "EUR".to_owned(),
        settled_at: OffsetDateTime::UNIX_EPOCH,
    })
}

fn payout(n: u128) -> Fact {
    Fact::Payout(PayoutMade {
        fact_id: Uuid::from_u128(n),
        payout_id: Uuid::from_u128(n + 3_000_000),
        driver_id: Uuid::from_u128(4_000_000),
        tenant: "porto-taxis".to_owned(),
        amount: 70,
        currency: "EUR".to_owned(),
        paid_at: OffsetDateTime::UNIX_EPOCH,
    })
}

fn wallet(n: u128) -> Fact {
    Fact::Wallet(WalletMoved {
        fact_id: Uuid::from_u128(n),
        entry_id: Uuid::from_u128(n + 5_000_000),
        payment_id: None,
        rider_id: Uuid::from_u128(6_000_000),
        tenant: "porto-taxis".to_owned(),
        amount: -70,
        currency: "EUR".to_owned(),
        moved_at: OffsetDateTime::UNIX_EPOCH,
    })
}

pub(crate) fn created(region: &str, term: u64, n: u64) -> Fact {
    Fact::TenantCreated(TenantCreated {
        tenant: "porto-taxis".to_owned(),
        name: "Porto Taxis".to_owned(),
        home_region: region.to_owned(),
        term,
        n,
    })
}

/// In its second term the tenant's home is `region`, which had stored so much of the ledger of the one before.
pub(crate) fn taken(region: &str, tenant: &str, heard: u64) -> Fact {
    Fact::TenantMoved(TenantMoved {
        tenant: tenant.to_owned(),
        name: "Porto Taxis".to_owned(),
        home_region: region.to_owned(),
        term: 2,
        n: 0,
        heard: Some(BTreeMap::from([("eu-west".to_owned(), BTreeMap::from([(1, heard)]))])),
    })
}

/// The tenant's home was handed over to `region`, with the n-th hand-over of its first term.
pub(crate) fn handed_over(region: &str, n: u64) -> Fact {
    Fact::TenantMoved(TenantMoved {
        tenant: "porto-taxis".to_owned(),
        name: "Porto Taxis".to_owned(),
        home_region: region.to_owned(),
        term: 1,
        n,
        heard: None,
    })
}

pub(crate) fn published(version: u64, currency: &str) -> Fact {
    Fact::ConfigPublished(ConfigPublished {
        tenant: "porto-taxis".to_owned(),
        version,
        config: serde_json::json!({"currency": currency}),
        published_at: OffsetDateTime::UNIX_EPOCH,
    })
}

pub(crate) fn edited(changes: Vec<Vec<u8>>) -> Fact {
    Fact::ConfigChanged(ConfigChanged { tenant: "porto-taxis".to_owned(), generation: 0, changes })
}

#[sqlx::test(migrations = "../migrations")]
async fn committed_facts_get_gapless_numbers_in_their_order_and_a_chain(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    assert_eq!(us.number().await, Numbered::default());
    for n in 1..=25 {
        us.commit(&settlement(n)).await;
    }
    us.commit(&created("us-east", 1, 0)).await;
    let numbered = us.number().await;
    assert_eq!(numbered.entries, 26);
    let ledger = log("us-east", FactStream::Ledger);
    let outgoing = us.store.read_for_peer(&ledger, 1, 25, 1, &[]).await.unwrap().unwrap();
    assert_eq!(outgoing.entries.len(), 25, "at least up to the first signature");
    let batch = crate::protocol::Batch {
        log: ledger.clone(),
        pull: 1,
        entries: outgoing.entries,
        checkpoint: outgoing.checkpoint,
    };
    let verified = verify(CLUSTER, Head::EMPTY, batch, &mut HashSigner).unwrap();
    assert_eq!(verified.entries.len(), 25);
    let amounts: Vec<i64> = sqlx::query_scalar("SELECT amount FROM ledger_facts ORDER BY origin_seq")
        .fetch_all(&us.store.pool)
        .await
        .unwrap();
    assert_eq!(amounts, (1..=25).map(|n| n * 10).collect::<Vec<_>>());
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_outbox").await, 0);
    assert_eq!(us.store.logs().await.unwrap()[&ledger].applied, 25, "own facts count as applied");
    assert!(us.store.read_for_peer(&ledger, 26, 30, 1, &[]).await.unwrap().is_none());
}

/// Of a batch only its end is known to be signed: whoever passes it on passes it on whole, however little was asked for.
#[sqlx::test(migrations = "../migrations")]
async fn what_came_as_one_long_batch_is_passed_on_as_one(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let ledger = log("eu-west", FactStream::Ledger);
    let facts: Vec<Fact> = (1..=400).map(settlement).collect();
    let came = batch(&ledger, Head::EMPTY, &facts);
    us.store.receive(&came).await.unwrap();
    let passed_on = us.store.read_for_peer(&ledger, 1, 400, 1, &[]).await.unwrap().unwrap();
    let bytes: usize = passed_on.entries.iter().map(Entry::len).sum();
    assert!(bytes > crate::protocol::MAX_GROUP_BYTES, "{bytes}");
    assert_eq!(passed_on.checkpoint.head, came.checkpoint.head);
}

#[sqlx::test(migrations = "../migrations")]
async fn any_entry_can_be_compared_by_its_hash_wherever_its_origin_signed(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let ledger = log("eu-west", FactStream::Ledger);
    let came = batch(&ledger, Head::EMPTY, &[settlement(1), settlement(2), settlement(3)]);
    us.store.receive(&came).await.unwrap();
    for (_, _, head) in &came.entries {
        assert_eq!(us.store.hash_of_entry(&ledger, head.seq).await.unwrap(), Some(head.hash));
    }
    assert_eq!(us.store.hash_of_entry(&ledger, 4).await.unwrap(), None);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_may_not_leave_is_set_aside_and_stops_nothing(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let mut body: serde_json::Value = serde_json::from_slice(&settlement(1).to_body()).unwrap();
    body["rider_phone"] = "+351".into();
    let secret = us.commit_raw("ledger", "settlement", Some("porto-taxis"), body.to_string().as_bytes()).await;
    us.commit_raw("ledger", "settlement", Some("manhattan-cabs"), &settlement(2).to_body()).await;
    us.commit(&settlement(3)).await;
    let numbered = us.number().await;
    assert_eq!((numbered.entries, numbered.rejected), (1, 2));
    let reason: String = sqlx::query_scalar("SELECT reason FROM repl_rejected WHERE id = $1")
        .bind(secret)
        .fetch_one(&us.store.pool)
        .await
        .unwrap();
    assert!(reason.contains("may not carry"), "{reason}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_fact_of_ours_that_no_table_takes_is_set_aside_alone(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    us.commit(&settlement(1)).await;
    // JSON may say it, jsonb may not.
    let body = published(1, "EUR").to_body();
    let poison = String::from_utf8(body).unwrap().replace("EUR", "E\\u0000R");
    us.commit_raw("config", "config.published", Some("porto-taxis"), poison.as_bytes()).await;
    us.commit(&settlement(2)).await;
    let mut entries = 0;
    let mut rejected = 0;
    while us.scalar::<i64>("SELECT count(*) FROM repl_outbox").await > 0 {
        let numbered = us.number().await;
        entries += numbered.entries;
        rejected += numbered.rejected;
    }
    assert_eq!((entries, rejected), (2, 1));
    assert_eq!(us.scalar::<String>("SELECT kind FROM repl_rejected").await, "config.published");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_waits_is_numbered_and_applied_in_portions_of_a_few_megabytes(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let large = |version| {
        let Fact::ConfigPublished(small) = published(version, "EUR") else { unreachable!() };
        let config = serde_json::json!({"labels": {"long": "x".repeat(200_000)}});
        Fact::ConfigPublished(ConfigPublished { config, ..small })
    };
    let facts: Vec<_> = (1..=30).map(large).collect();
    for fact in &facts {
        us.commit(fact).await;
    }
    let first = us.number().await;
    assert!((20..25).contains(&first.entries) && first.more, "{first:?}");
    assert_eq!(first.entries + us.number().await.entries, 30);

    let eu = log("eu-west", FactStream::Config);
    us.store.receive(&batch(&eu, Head::EMPTY, &facts)).await.unwrap();
    let applied = us.store.apply(&us.fence, &eu).await.unwrap().unwrap();
    assert!((20..25).contains(&applied.entries), "{applied:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn receiving_twice_is_once_and_a_gap_or_another_history_changes_nothing(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    let first = batch(&eu, Head::EMPTY, &[settlement(1), settlement(2)]);
    let head = us.store.receive(&first).await.unwrap();
    assert_eq!(us.store.receive(&first).await.unwrap(), head);
    let third = batch(&eu, head, &[settlement(3)]);
    let fourth = batch(&eu, third.checkpoint.head, &[settlement(4)]);
    assert!(matches!(us.store.receive(&fourth).await, Err(StoreError::Discontinuous)));
    let other_history = batch(&eu, Head::EMPTY, &[settlement(8), settlement(9)]);
    assert!(matches!(us.store.receive(&other_history).await, Err(StoreError::Conflict)));
    assert_eq!(us.store.logs().await.unwrap()[&eu].head, head);
    assert_eq!(us.store.receive(&third).await.unwrap().seq, 3);

    let relayed = us.store.read_for_peer(&eu, 2, 3, 1 << 20, &[]).await.unwrap().unwrap();
    assert_eq!(relayed.entries[0], first.entries[1].0, "byte for byte");
    assert_eq!(relayed.checkpoint, third.checkpoint);
}

#[sqlx::test(migrations = "../migrations")]
async fn batches_that_wait_together_are_stored_together_or_not_at_all(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    let first = batch(&eu, Head::EMPTY, &[settlement(1), settlement(2)]);
    let second = batch(&eu, first.checkpoint.head, &[settlement(3)]);
    let third = batch(&eu, second.checkpoint.head, &[settlement(4)]);
    assert!(matches!(us.store.receive_all(None, &[&first, &third]).await, Err(StoreError::Discontinuous)));
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_log").await, 0);
    us.store.receive(&first).await.unwrap();
    let head = us.store.receive_all(None, &[&first, &second, &third]).await.unwrap().head;
    assert_eq!((head, head.seq), (third.checkpoint.head, 4));
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_log").await, 4);
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_checkpoint").await, 3);
    assert_eq!(us.store.read_for_peer(&eu, 1, 4, 1, &[]).await.unwrap().unwrap().checkpoint.head.seq, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_leader_applies_what_it_stores_unless_that_wants_a_closer_look(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    let mut head = Head::EMPTY;
    let mut receive = async |fence: Option<&Fence>, facts: &[Fact]| {
        let next = batch(&eu, head, facts);
        head = next.checkpoint.head;
        us.store.receive_all(fence, &[&next]).await.unwrap().applied
    };
    assert_eq!(receive(Some(&us.fence), &[settlement(1)]).await, 0, "nothing of the log was ever applied");
    assert_eq!(receive(Some(&us.fence), &[settlement(2)]).await, 0, "the one before is not applied yet");
    us.apply_all().await;
    assert_eq!(receive(Some(&us.fence), &[settlement(3), settlement(4)]).await, 2);
    assert_eq!(us.store.logs().await.unwrap()[&eu].applied, 4);
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 4);
    assert_eq!(receive(None, &[settlement(5)]).await, 0, "another instance leads");
    us.apply_all().await;

    let Fact::Settlement(mut forged) = settlement(1) else { unreachable!() };
    forged.amount = 1;
    assert_eq!(receive(Some(&us.fence), &[settlement(6), Fact::Settlement(forged)]).await, 0);
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 5, "neither, until it is looked at");
    assert_eq!(us.apply_all().await, 1);
    let conflict = (eu.origin.region.clone(), FactStream::Ledger, "conflict".to_owned());
    assert_eq!(us.store.quarantined().await.unwrap(), BTreeMap::from([(conflict, 1)]));
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 6);
    assert!(us.store.check_ledger(&us.fence).await.unwrap().is_empty(), "what was taken back is in no sum");

    let lost = us.fence;
    us.store.release_lease(&us.fence).await.unwrap();
    let next = batch(&eu, head, &[settlement(8)]);
    assert!(matches!(us.store.receive_all(Some(&lost), &[&next]).await, Err(StoreError::NotLeading)));
    assert_eq!(us.store.logs().await.unwrap()[&eu].head, head);
}

#[sqlx::test(migrations = "../migrations")]
async fn whatever_facts_say_and_whichever_way_they_come_in_their_sums_are_those_of_their_rows(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let times = [
        datetime!(2026-11-28 10:20:30.123456789 UTC),
        datetime!(2026-11-28 10:20:30.1 +5:30),
        datetime!(1999-12-31 23:59:59.999999999 UTC),
        datetime!(1970-01-01 0:00 UTC),
        datetime!(1969-12-31 23:59:58.9999995 UTC),
        datetime!(0001-01-01 0:00 UTC),
        datetime!(9999-12-31 23:59:59.999999 UTC),
    ];
    let mut n = 0;
    let mut facts = |ways: u128| -> Vec<Fact> {
        let of_time = |settled_at: OffsetDateTime| {
            n += 1;
            let (Fact::Settlement(entry), Fact::Payout(made), Fact::Wallet(moved)) =
                (settlement(ways * 1000 + n), payout(ways * 1000 + 100 + n), wallet(ways * 1000 + 200 + n))
            else {
                unreachable!()
            };
            let of_a_payment = WalletMoved {
                fact_id: Uuid::from_u128(ways * 1000 + 300 + n),
                payment_id: Some(entry.payment_id),
                ..moved.clone()
            };
            [
                Fact::Settlement(LedgerEntry { settled_at, amount: i64::MAX, ..entry.clone() }),
                Fact::Refund(LedgerEntry {
                    fact_id: Uuid::from_u128(ways * 1000 + 400 + n),
                    settled_at,
                    amount: -1,
                    ..entry
                }),
                Fact::Payout(PayoutMade { paid_at: settled_at, ..made }),
                Fact::Wallet(WalletMoved { moved_at: settled_at, ..moved }),
                Fact::Wallet(WalletMoved { moved_at: settled_at, ..of_a_payment }),
            ]
        };
        times.into_iter().flat_map(of_time).collect()
    };
    let (own, looked_at, at_once) = (facts(1), facts(2), facts(3));
    let each = i64::try_from(own.len()).unwrap();
    for fact in &own {
        us.commit(fact).await;
    }
    us.number().await;
    let eu = log("eu-west", FactStream::Ledger);
    let first = batch(&eu, Head::EMPTY, &looked_at);
    us.store.receive(&first).await.unwrap();
    us.apply_all().await;
    let second = batch(&eu, first.checkpoint.head, &at_once);
    let applied = us.store.receive_all(Some(&us.fence), &[&second]).await.unwrap().applied;
    assert_eq!(i64::try_from(applied).unwrap(), each, "with the transaction that stores them");
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 3 * each);
    assert!(us.store.check_ledger(&us.fence).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn settlements_apply_once_and_one_id_with_two_bodies_is_kept_as_it_was(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    let Fact::Settlement(mut forged) = settlement(1) else { unreachable!() };
    forged.amount = 1;
    let facts = [settlement(1), settlement(2), Fact::Settlement(forged), settlement(2), settlement(3)];
    us.store.receive(&batch(&eu, Head::EMPTY, &facts)).await.unwrap();
    assert_eq!(us.apply_all().await, 1);
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 3);
    assert_eq!(us.scalar::<i64>("SELECT amount FROM ledger_facts ORDER BY amount LIMIT 1").await, 10);
    assert_eq!(us.scalar::<String>("SELECT state FROM repl_quarantine WHERE seq = 3").await, "conflict");
    assert_eq!(us.apply_all().await, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn poison_and_unknown_kinds_hold_back_nothing_behind_them(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    let mut bad_currency: serde_json::Value = serde_json::from_slice(&settlement(2).to_body()).unwrap();
    bad_currency["currency"] = "euro".into();
    let tenant = Some("porto-taxis");
    let raw = [
        ("settlement", tenant, settlement(1).to_body()),
        ("settlement", tenant, bad_currency.to_string().into_bytes()),
        ("tip.pooled", tenant, b"{}".to_vec()),
        ("settlement", tenant, b"not json".to_vec()),
        ("settlement", tenant, settlement(5).to_body()),
    ];
    us.store.receive(&raw_batch(&eu, Head::EMPTY, &raw)).await.unwrap();
    us.apply_all().await;
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 2);
    let states: Vec<(i64, String)> =
        sqlx::query_as("SELECT seq, state FROM repl_quarantine ORDER BY seq").fetch_all(&us.store.pool).await.unwrap();
    let state = |seq: i64, state: &str| (seq, state.to_owned());
    assert_eq!(states, [state(2, "failed"), state(3, "parked"), state(4, "failed")]);
    assert_eq!(us.store.logs().await.unwrap()[&eu].applied, 5);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_kind_that_used_to_be_unknown_is_applied_after_the_upgrade(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    us.store.receive(&batch(&eu, Head::EMPTY, &[settlement(1)])).await.unwrap();
    sqlx::raw_sql(
        "INSERT INTO repl_apply (origin_region, origin_incarnation, stream, applied) VALUES ('eu-west', 1, 'ledger', 1);
         INSERT INTO repl_quarantine (origin_region, origin_incarnation, stream, seq, kind, state, reason)
         VALUES ('eu-west', 1, 'ledger', 1, 'settlement', 'parked', 'unknown kind')",
    )
    .execute(&us.store.pool)
    .await
    .unwrap();
    assert_eq!(us.store.retry_parked(&us.fence).await.unwrap(), 1);
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 1);
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_quarantine").await, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn homes_change_only_to_a_greater_epoch_and_ties_end_alike_everywhere(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Control);
    let announced = Fact::RegionAnnounced(RegionAnnounced {
        region: "eu-west".to_owned(),
        base_url: "http://eu".to_owned(),
        quic_addr: "127.0.0.1:1".to_owned(),
        jwks: serde_json::json!({"keys": []}),
        incarnation: 1,
    });
    let usurper = Fact::RegionAnnounced(RegionAnnounced {
        region: "us-east".to_owned(),
        base_url: "http://evil".to_owned(),
        quic_addr: String::new(),
        jwks: serde_json::json!({}),
        incarnation: 9,
    });
    let facts = [
        announced,
        created("sa-east", 1, 0),
        created("eu-west", 1, 0),
        created("ap-south", 2, 0),
        created("x1", 1, 9),
        usurper,
    ];
    us.store.receive(&batch(&eu, Head::EMPTY, &facts)).await.unwrap();
    assert_eq!(us.apply_all().await, 1, "only the usurper; later the epoch decided");
    let home: (String, i64, i64) =
        sqlx::query_as("SELECT region, term, n FROM tenant_homes").fetch_one(&us.store.pool).await.unwrap();
    assert_eq!(home, ("ap-south".to_owned(), 2, 0));
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM regions").await, 1);
    assert_eq!(us.store.directory().await.unwrap(), [("eu-west".parse().unwrap(), "127.0.0.1:1".to_owned())]);
}

#[sqlx::test(migrations = "../migrations")]
async fn edits_merge_in_any_order_orphans_wait_and_bad_ones_hold_back_nothing_else(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let patch = |doc: &mut TenantDocument, region: &str, patch: serde_json::Value| {
        doc.apply_merge_patch(None, &patch, &DocumentActor::of(region, 1)).unwrap().unwrap()
    };
    let mut author = TenantDocument::create("porto-taxis", 0);
    let a = patch(&mut author, "eu-west", serde_json::json!({"currency": "EUR"}));
    let b = patch(&mut author, "ap-south", serde_json::json!({"labels": {"tier": "gold"}}));
    let mut damaged = b.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;

    // ap-south's edit builds on eu-west's, which has not arrived.
    let ap = log("ap-south", FactStream::Config);
    us.store.receive(&batch(&ap, Head::EMPTY, &[edited(vec![damaged]), edited(vec![b])])).await.unwrap();
    assert_eq!(us.apply_all().await, 2);
    let states = "SELECT string_agg(state, ' ' ORDER BY seq) FROM repl_quarantine";
    assert_eq!(us.scalar::<String>(states).await, "failed held");

    let eu = log("eu-west", FactStream::Config);
    let published = Fact::ConfigPublished(ConfigPublished {
        tenant: "porto-taxis".to_owned(),
        version: 1,
        config: serde_json::json!({"currency": "EUR"}),
        published_at: OffsetDateTime::UNIX_EPOCH,
    });
    us.store.receive(&batch(&eu, Head::EMPTY, &[edited(vec![a]), published])).await.unwrap();
    us.apply_all().await;
    assert_eq!(us.scalar::<String>(states).await, "failed", "what waited is part of the draft now");
    let draft: serde_json::Value = us.scalar("SELECT draft FROM tenant_documents").await;
    assert_eq!(draft, author.to_json());
    let heads: Vec<String> = us.scalar("SELECT heads FROM tenant_documents").await;
    assert_eq!(heads, author.heads());
    assert_eq!(us.scalar::<i64>("SELECT max(version) FROM tenant_config_versions").await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_damaged_draft_holds_its_own_edits_and_nothing_else_until_it_is_mended(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Config);
    let edit = |doc: &mut TenantDocument, tenant: &str, n: u32| {
        let patch = serde_json::json!({"labels": {"n": n}});
        let change = doc.apply_merge_patch(None, &patch, &DocumentActor::of("eu-west", 1)).unwrap().unwrap();
        Fact::ConfigChanged(ConfigChanged { tenant: tenant.to_owned(), generation: 0, changes: vec![change] })
    };
    let mut porto = TenantDocument::create("porto-taxis", 0);
    let mut lisbon = TenantDocument::create("lisbon-cabs", 0);
    let first = batch(&eu, Head::EMPTY, &[edit(&mut porto, "porto-taxis", 1)]);
    us.store.receive(&first).await.unwrap();
    us.apply_all().await;
    let good: Vec<u8> = us.scalar("SELECT document FROM tenant_documents").await;
    sqlx::query("UPDATE tenant_documents SET document = '\\x00'").execute(&us.store.pool).await.unwrap();

    let facts = [edit(&mut porto, "porto-taxis", 2), edit(&mut lisbon, "lisbon-cabs", 1)];
    let second = batch(&eu, first.checkpoint.head, &facts);
    us.store.receive(&second).await.unwrap();
    assert_eq!(us.apply_all().await, 1);
    let states = "SELECT string_agg(state, ' ' ORDER BY seq) FROM repl_quarantine";
    assert_eq!(us.scalar::<String>(states).await, "held");
    let draft = "SELECT draft FROM tenant_documents WHERE tenant_id = 'lisbon-cabs'";
    assert_eq!(us.scalar::<serde_json::Value>(draft).await, lisbon.to_json());

    sqlx::query("UPDATE tenant_documents SET document = $1 WHERE tenant_id = 'porto-taxis'")
        .bind(good)
        .execute(&us.store.pool)
        .await
        .unwrap();
    let third = batch(&eu, second.checkpoint.head, &[edit(&mut porto, "porto-taxis", 3)]);
    us.store.receive(&third).await.unwrap();
    us.apply_all().await;
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_quarantine").await, 0);
    let draft = "SELECT draft FROM tenant_documents WHERE tenant_id = 'porto-taxis'";
    assert_eq!(us.scalar::<serde_json::Value>(draft).await, porto.to_json());
}

#[sqlx::test(migrations = "../migrations")]
async fn what_an_origin_added_is_taken_in_however_large_the_draft_has_become(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let noise = |n: u32| -> String {
        (0..900_u32).map(|part| hex::encode(hash_of(&[n.to_be_bytes(), part.to_be_bytes()].concat()))).collect()
    };
    // Neither region's own edits make the draft too large; what they make together, each has to take.
    let (mut heads, mut bytes) = (Vec::new(), 0);
    for (region, first) in [("eu-west", 0), ("ap-south", 100)] {
        let mut author = TenantDocument::create("porto-taxis", 0);
        let edit = |n: u32| {
            let patch = serde_json::json!({"labels": {format!("n{n}"): noise(n)}});
            edited(vec![author.apply_merge_patch(None, &patch, &DocumentActor::of(region, 1)).unwrap().unwrap()])
        };
        let edits: Vec<_> = (first..first + 25).map(edit).collect();
        us.store.receive(&batch(&log(region, FactStream::Config), Head::EMPTY, &edits)).await.unwrap();
        heads.extend(author.heads());
        bytes += author.save().len();
    }
    assert!(bytes > shared::tenant_document::MAX_DOCUMENT_BYTES, "{bytes}");
    assert_eq!(us.apply_all().await, 0);
    heads.sort();
    assert_eq!(us.scalar::<Vec<String>>("SELECT heads FROM tenant_documents").await, heads);
}

#[sqlx::test(migrations = "../migrations")]
async fn one_tenant_cannot_stop_a_log_for_all_others(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Config);
    us.store.receive(&batch(&eu, Head::EMPTY, &[published(1, "EUR"), published(2, "EUR")])).await.unwrap();
    let set_aside = "INSERT INTO repl_quarantine
                         (origin_region, origin_incarnation, stream, seq, tenant_id, kind, state, reason)
                     SELECT 'eu-west', 1, 'config', n, 'tenant-' || (n % $1), 'config.changed', 'held', ''
                     FROM generate_series(1000, 4000) n";
    sqlx::query(set_aside).bind(1).execute(&us.store.pool).await.unwrap();
    assert!(us.store.apply(&us.fence, &eu).await.unwrap().is_some());
    sqlx::query("UPDATE repl_apply SET applied = 0").execute(&us.store.pool).await.unwrap();
    sqlx::query("DELETE FROM repl_quarantine").execute(&us.store.pool).await.unwrap();
    sqlx::query(set_aside).bind(20).execute(&us.store.pool).await.unwrap();
    assert!(us.store.apply(&us.fence, &eu).await.unwrap().is_none(), "this is not about one tenant any more");
}

/// The facts of a tenant two regions have published for, in every order they can come in.
#[sqlx::test(migrations = "../migrations")]
async fn the_same_versions_stay_whatever_order_they_come_in(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let origin = |region: &str, incarnation| Origin { region: region.parse().unwrap(), incarnation };
    let facts = [
        (1, 1, origin("us-east", 1), "USD"),
        (2, 1, origin("us-east", 1), "USD"),
        (2, 1, origin("eu-west", 1), "EUR"),
        (2, 1, origin("eu-west", 2), "GBP"),
        (3, 1, origin("us-east", 1), "USD"),
        (3, 2, origin("ap-south", 1), "INR"),
        (4, 1, origin("us-east", 1), "USD"),
    ];
    let mut orders = vec![(0..facts.len()).collect::<Vec<_>>()];
    for turn in 1..60_usize {
        let mut order = orders[turn - 1].clone();
        order.swap(turn % facts.len(), (turn * 3 + 1) % facts.len());
        order.rotate_left(turn % 3);
        orders.push(order);
    }
    let mut tx = us.store.pool.begin().await.unwrap();
    for (nr, order) in orders.iter().enumerate() {
        for at in order {
            let (version, term, origin, currency) = &facts[*at];
            let Fact::ConfigPublished(fact) = published(*version, currency) else { unreachable!() };
            let fact = ConfigPublished { tenant: format!("tenant-{nr}"), ..fact };
            let epoch = HomeEpoch { term: *term, n: 0 };
            crate::documents::keep_version(&mut tx, origin, epoch, &fact).await.unwrap();
        }
    }
    let kept: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT string_agg(version || (config->>'currency'), ' ' ORDER BY version)
         FROM tenant_config_versions GROUP BY tenant_id",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    assert_eq!(kept, ["1USD 2GBP 3INR"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_decision_about_a_rollout_that_stays_does_not_depend_on_the_order_they_come_in(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let decided = |number, region: Option<&str>, pinned| ConfigRollout {
        tenant: String::new(),
        region: region.map(str::to_owned),
        number,
        pinned: Some(pinned),
        stable: None,
        canary_region: None,
        canary_version: None,
        decided_at: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
    };
    let facts = [
        (1, "us-east", decided(7, None, 1)),
        // A later home counts on from what it knew.
        (2, "ap-south", decided(2, None, 2)),
        (2, "ap-south", decided(3, None, 3)),
        // Restored from a backup, it gives a number again, later.
        (
            2,
            "ap-south",
            ConfigRollout {
                decided_at: OffsetDateTime::from_unix_timestamp(1_700_000_001).unwrap(),
                ..decided(3, None, 4)
            },
        ),
        (9, "eu-west", decided(1, Some("eu-west"), 5)),
        (1, "eu-west", decided(2, Some("eu-west"), 6)),
        // Nobody decides for another region.
        (1, "us-east", decided(3, Some("eu-west"), 7)),
    ];
    let mut tx = us.store.pool.begin().await.unwrap();
    let mut order: Vec<usize> = (0..facts.len()).collect();
    for turn in 1..40_usize {
        order.swap(turn % facts.len(), (turn * 3 + 1) % facts.len());
        order.rotate_left(turn % 3);
        for at in &order {
            let (term, region, fact) = &facts[*at];
            let origin = Origin { region: region.parse().unwrap(), incarnation: 1 };
            let fact = ConfigRollout { tenant: format!("tenant-{turn}"), ..fact.clone() };
            let epoch = HomeEpoch { term: *term, n: 0 };
            let refused = crate::documents::keep_rollout(&mut tx, &origin, epoch, &fact).await.unwrap();
            assert_eq!(refused.is_some(), fact.pinned == Some(7));
        }
    }
    let kept: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT string_agg(concat_ws(' ', region, number, pinned), ',' ORDER BY region)
         FROM tenant_config_rollouts GROUP BY tenant_id",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    assert_eq!(kept, [" 3 4,eu-west 2 6"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_version_the_home_has_just_written_gets_its_tenure_with_its_number(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let Fact::ConfigPublished(fact) = published(1, "EUR") else { unreachable!() };
    sqlx::query(
        "INSERT INTO tenant_config_versions (tenant_id, version, config, published_at) VALUES ($1, 1, $2, now())",
    )
    .bind(&fact.tenant)
    .bind(&fact.config)
    .execute(&us.system)
    .await
    .unwrap();
    us.commit(&Fact::ConfigPublished(fact)).await;
    us.number().await;
    let tenure = "SELECT concat_ws(' ', home_term, home_n, origin_region) FROM tenant_config_versions";
    assert_eq!(us.scalar::<String>(tenure).await, "1 0 us-east");
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM repl_quarantine").await, 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_altered_or_removed_ledger_row_shows_in_the_digest_after_the_next_look(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    for n in 1..=40 {
        us.commit(&settlement(n)).await;
    }
    us.number().await;
    let look = async || us.store.check_ledger(&us.fence).await.unwrap().len();
    let sound = us.store.digest().await.unwrap();
    assert_eq!(look().await, 0);
    assert_eq!(us.store.digest().await.unwrap(), sound);

    let alter = "UPDATE ledger_facts SET amount = amount + $1 WHERE origin_seq = 7";
    sqlx::query(alter).bind(1_i64).execute(&us.superuser).await.unwrap();
    assert!((1..=2).contains(&look().await), "it left one sum and came into another");
    assert_ne!(us.store.digest().await.unwrap(), sound);
    assert_eq!(look().await, 0);
    sqlx::query(alter).bind(-1_i64).execute(&us.superuser).await.unwrap();
    look().await;
    assert_eq!(us.store.digest().await.unwrap(), sound, "mended");

    sqlx::query("DELETE FROM ledger_facts WHERE origin_seq = 9").execute(&us.superuser).await.unwrap();
    assert_eq!(look().await, 1);
    assert_ne!(us.store.digest().await.unwrap(), sound);
    us.commit(&settlement(41)).await;
    us.number().await;
    assert_eq!(look().await, 0, "what comes in is added to what is there");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_acknowledged_settlement_is_durable_elsewhere_and_lag_is_what_is_not(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    for n in 1..=3 {
        us.commit(&settlement(n)).await;
        us.number().await;
    }
    let eu: RegionName = "eu-west".parse().unwrap();
    let origin = Origin { region: eu.clone(), incarnation: 1 };
    us.store.save_member(&origin, crate::protocol::MemberState::Active, 0, &[]).await.unwrap();
    assert_eq!(us.store.lag(&us.origin).await.unwrap()[&eu].entries, 3);
    let ledger = log("us-east", FactStream::Ledger);
    let ack = |hash| {
        let state = LogState { head: Head { seq: 2, hash }, applied: 0, truncated: 0 };
        BTreeMap::from([((eu.clone(), ledger.clone()), Some(state))])
    };
    let durable =
        "SELECT count(*) FROM ledger_facts f JOIN repl_remote_durable d USING (origin_region, origin_incarnation)
                   WHERE d.seq >= f.origin_seq";
    us.store.save_acks(&us.origin, &ack([0; 32])).await.unwrap();
    assert_eq!(us.scalar::<i64>(durable).await, 0, "it has something else");
    let sent = us.store.read_for_peer(&ledger, 2, 2, 1, &[]).await.unwrap().unwrap();
    us.store.save_acks(&us.origin, &ack(sent.checkpoint.head.hash)).await.unwrap();
    assert_eq!(us.scalar::<i64>(durable).await, 2);
    assert_eq!(us.store.lag(&us.origin).await.unwrap()[&eu].entries, 1);
    let membership = us.store.membership().await.unwrap();
    assert_eq!(membership.acks, BTreeMap::from([(eu.clone(), BTreeMap::from([(ledger.clone(), 2)]))]));
    us.store.save_acks(&us.origin, &BTreeMap::from([((eu.clone(), ledger.clone()), None)])).await.unwrap();
    assert_eq!(
        us.store.membership().await.unwrap().acks,
        BTreeMap::new(),
        "a log that it names no more it has no more"
    );
    assert_eq!(us.store.lag(&us.origin).await.unwrap()[&eu].entries, 3);
    let state = async || us.store.membership().await.unwrap().states[&eu];
    assert_eq!(state().await, crate::protocol::MemberState::Active);
    let retire = "INSERT INTO regions (name, base_url, quic_addr, state, state_incarnation)
                  VALUES ('eu-west', '', '', 'retired', 1)";
    sqlx::query(retire).execute(&us.store.pool).await.unwrap();
    assert_eq!(state().await, crate::protocol::MemberState::Retired, "the directory says so");
}

#[sqlx::test(migrations = "../migrations")]
async fn payouts_stand_in_every_region_s_ledger_by_who_was_paid_and_count_in_the_digest(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    us.commit(&settlement(1)).await;
    us.commit(&payout(2)).await;
    us.number().await;
    let here = us.store.digest().await.unwrap();
    let stands = "SELECT count(*) FROM ledger_facts WHERE kind = 'payout' AND amount = 70 AND payment_id IS NULL
                  AND payout_id = '00000000-0000-0000-0000-0000002dc6c2' AND driver_id = '00000000-0000-0000-0000-0000003d0900'";
    assert_eq!(us.scalar::<i64>(stands).await, 1);
    let eu = log("eu-west", FactStream::Ledger);
    us.store.receive(&batch(&eu, Head::EMPTY, &[payout(2), settlement(1), payout(3)])).await.unwrap();
    assert_eq!(us.apply_all().await, 0);
    assert_eq!(us.scalar::<i64>(stands).await, 1, "told again it is the same fact");
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts WHERE kind = 'payout'").await, 2);
    assert_ne!(us.store.digest().await.unwrap(), here);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_wallets_moved_stands_in_every_region_s_ledger_by_whose_it_was_and_counts_in_the_digest(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    us.commit(&wallet(1)).await;
    us.number().await;
    let here = us.store.digest().await.unwrap();
    let stands = "SELECT count(*) FROM ledger_facts WHERE kind = 'wallet' AND amount = -70 AND payment_id IS NULL
                  AND entry_id = '00000000-0000-0000-0000-0000004c4b41' AND rider_id = '00000000-0000-0000-0000-0000005b8d80'";
    assert_eq!(us.scalar::<i64>(stands).await, 1);
    let eu = log("eu-west", FactStream::Ledger);
    us.store.receive(&batch(&eu, Head::EMPTY, &[wallet(1), wallet(2)])).await.unwrap();
    assert_eq!(us.apply_all().await, 0);
    assert_eq!(us.scalar::<i64>(stands).await, 1, "told again it is the same fact");
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts WHERE kind = 'wallet'").await, 2);
    assert_ne!(us.store.digest().await.unwrap(), here);
    let whose = "UPDATE ledger_facts SET rider_id = gen_random_uuid() WHERE origin_seq = 1";
    sqlx::query(whose).execute(&us.superuser).await.unwrap();
    assert!(!us.store.check_ledger(&us.fence).await.unwrap().is_empty(), "whose it was counts");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_digest_follows_every_fact_and_any_change_of_a_derived_row(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let empty = us.store.digest().await.unwrap();
    us.commit(&settlement(1)).await;
    us.number().await;
    let one = us.store.digest().await.unwrap();
    assert_ne!(one, empty);
    assert_eq!(us.store.digest().await.unwrap(), one);
    let eu = log("eu-west", FactStream::Control);
    us.store.receive(&batch(&eu, Head::EMPTY, &[created("eu-west", 1, 0)])).await.unwrap();
    us.apply_all().await;
    let two = us.store.digest().await.unwrap();
    sqlx::query("UPDATE tenant_homes SET region = 'us-east'").execute(&us.store.pool).await.unwrap();
    assert_ne!(us.store.digest().await.unwrap(), two);
}

/// Its place in the outbox is before those of others that have their numbers by the time it commits.
#[sqlx::test(migrations = "../migrations")]
async fn a_fact_that_commits_after_later_ones_were_numbered_gets_the_next_number(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let (mut slow, fact) = (us.system.begin().await.unwrap(), settlement(1));
    let emit = sqlx::query(EMIT).bind(Uuid::now_v7()).bind("ledger").bind(fact.kind()).bind(fact.tenant());
    emit.bind(fact.to_body()).execute(&mut *slow).await.unwrap();
    us.commit(&settlement(2)).await;
    assert_eq!(us.number().await.entries, 1);
    slow.commit().await.unwrap();
    us.commit(&settlement(3)).await;
    assert_eq!(us.number().await.entries, 2);
    let amounts = "SELECT string_agg(amount::text, ' ' ORDER BY origin_seq) FROM ledger_facts";
    assert_eq!(us.scalar::<String>(amounts).await, "20 10 30");
}

#[sqlx::test(migrations = "../migrations")]
async fn entries_whose_transaction_fails_leave_no_row_and_no_cursor_and_come_in_whole_with_the_next(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
                  CREATE TRIGGER refuse BEFORE INSERT ON ledger_facts FOR EACH ROW WHEN (NEW.amount = 30)
                  EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(&pool).await.unwrap();
    let eu = log("eu-west", FactStream::Ledger);
    let facts: Vec<_> = (1..=4).map(settlement).collect();
    us.store.receive(&batch(&eu, Head::EMPTY, &facts)).await.unwrap();
    assert!(matches!(us.store.apply(&us.fence, &eu).await, Err(StoreError::Database(_))));
    let state = us.store.logs().await.unwrap()[&eu];
    assert_eq!((state.head.seq, state.applied), (4, 0));
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 0);
    sqlx::raw_sql("DROP TRIGGER refuse ON ledger_facts").execute(&pool).await.unwrap();
    assert_eq!(us.apply_all().await, 0);
    assert_eq!(us.store.logs().await.unwrap()[&eu].applied, 4);
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 4);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_envelope_with_a_field_of_the_future_is_applied_and_passed_on_byte_for_byte(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let eu = log("eu-west", FactStream::Ledger);
    let (mut entry, ..) = batch(&eu, Head::EMPTY, &[settlement(1)]).entries[0].clone();
    entry.envelope.extend([0xfa, 0x3f, 2, 1, 2]); // field 1023, two bytes
    let head = Head { seq: 1, hash: hash_of(&entry.envelope) };
    let signature = HashSigner.sign(&checkpoint_message(CLUSTER, &eu, &head));
    let checkpoint = Checkpoint { head, key_id: [1; 32], signature, certificate: None };
    let newer = crate::protocol::Batch { log: eu.clone(), pull: 1, entries: vec![entry.clone()], checkpoint };
    us.store.receive(&verify(CLUSTER, Head::EMPTY, newer, &mut HashSigner).unwrap()).await.unwrap();
    assert_eq!(us.apply_all().await, 0);
    assert_eq!(us.scalar::<i64>("SELECT count(*) FROM ledger_facts").await, 1);
    let sent = us.store.read_for_peer(&eu, 1, 1, 1, &[]).await.unwrap().unwrap();
    assert_eq!((sent.entries, sent.checkpoint.head), (vec![entry], head));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_tenants_role_sees_only_its_own_ledger_and_writes_no_log(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    us.commit(&settlement(1)).await;
    us.number().await;
    let app = Store::beside(&pool, "gocomet_app").pool;
    let mut tx = app.begin().await.unwrap();
    let count = "SELECT count(*) FROM ledger_facts";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *tx).await.unwrap(), 0);
    sqlx::query("SELECT set_config('app.tenant_id', 'porto-taxis', true)").execute(&mut *tx).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *tx).await.unwrap(), 1);
    let insert =
        "INSERT INTO repl_outbox (id, stream, kind, tenant_id, body) VALUES (gen_random_uuid(), 'ledger', 'x', $1, '')";
    sqlx::query(insert).bind("porto-taxis").execute(&mut *tx).await.unwrap();
    assert!(sqlx::query(insert).bind("manhattan-cabs").execute(&mut *tx).await.is_err());
    tx.rollback().await.unwrap();
    assert!(sqlx::query("SELECT 1 FROM repl_log").execute(&app).await.is_err());
    assert!(sqlx::query("DELETE FROM repl_outbox").execute(&app).await.is_err());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_payment_the_new_home_had_not_heard_of_is_marked_late_whenever_a_region_hears_of_either(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let (control, ledger) = (log("ap-south", FactStream::Control), log("eu-west", FactStream::Ledger));
    let tenants = ["before", "between", "after"];
    let paid = |n: u128| match settlement(n) {
        Fact::Settlement(entry) => {
            Fact::Settlement(LedgerEntry { tenant: tenants[usize::try_from(n % 3).unwrap()].to_owned(), ..entry })
        }
        other => other,
    };
    let first = batch(&ledger, Head::EMPTY, &[paid(0), paid(1), paid(2)]);
    let then = batch(&ledger, first.checkpoint.head, &[paid(3), paid(4), paid(5)]);
    let mut told = Head::EMPTY;
    for (tenant, payments) in tenants.into_iter().zip([Some(first), Some(then), None]) {
        let taken = batch(&control, told, &[taken("ap-south", tenant, 3)]);
        told = taken.checkpoint.head;
        us.store.receive(&taken).await.unwrap();
        assert_eq!(us.apply_all().await, 0);
        if let Some(payments) = payments {
            us.store.receive(&payments).await.unwrap();
            assert_eq!(us.apply_all().await, 0);
        }
    }
    let late = "SELECT string_agg(origin_seq || ' ' || is_late(f), ', ' ORDER BY origin_seq) FROM ledger_facts f";
    assert_eq!(us.scalar::<String>(late).await, "1 false, 2 false, 3 false, 4 true, 5 true, 6 true");
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_takeovers_of_one_term_every_region_keeps_the_same(pool: PgPool) {
    let us = Home::new(&pool, "us-east").await;
    let kept = "SELECT region || ' ' || heard FROM home_takeovers";
    let mut told = Head::EMPTY;
    for (region, heard, stays) in [
        ("sa-east", 1, "sa-east 1"),
        ("ap-south", 3, "ap-south 3"),
        ("ap-south", 2, "ap-south 2"),
        ("sa-east", 1, "ap-south 2"),
    ] {
        let taken = batch(&log("sa-east", FactStream::Control), told, &[taken(region, "porto-taxis", heard)]);
        told = taken.checkpoint.head;
        us.store.receive(&taken).await.unwrap();
        us.apply_all().await;
        let (region, heard) = stays.split_once(' ').unwrap();
        assert_eq!(us.scalar::<String>(kept).await, format!(r#"{region} {{"eu-west": {{"1": {heard}}}}}"#));
    }
}
