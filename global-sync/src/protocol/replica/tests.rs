#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for the one effect it is about")]

use std::collections::VecDeque;

use shared::fact::FactStream;
use uuid::Uuid;

use super::{
    fetch::{AVOID_STALLED_MS, STALLED_AFTER_MS},
    past::NUMBERING_GRACE_MS,
    *,
};
use crate::protocol::{
    batch::TrustError,
    envelope::{Draft, Envelope},
    event::{Limits, Past},
    log::{KeyId, Origin, hash_of},
    message::{Checkpoint, Pull},
};

/// Believes signatures that are the hash of region and message: enough to tell right from wrong.
#[derive(Default)]
pub(super) struct HashTrust;

fn sign(region: &RegionName, message: &[u8]) -> Vec<u8> {
    hash_of(&[region.as_str().as_bytes(), message].concat()).to_vec()
}

impl Trust for HashTrust {
    fn verify(&mut self, region: &RegionName, checkpoint: &Checkpoint, message: &[u8]) -> Result<(), TrustError> {
        if checkpoint.signature == sign(region, message) { Ok(()) } else { Err(TrustError::BadSignature) }
    }

    fn known_keys(&self, _region: &RegionName) -> Vec<KeyId> {
        Vec::new()
    }

    fn stored(&mut self, _region: &RegionName, _key: &KeyId) {}
}

pub(super) fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

pub(super) fn log_of(name: &str) -> LogId {
    LogId { origin: Origin { region: region(name), incarnation: 1 }, stream: FactStream::Ledger }
}

pub(super) fn replica_at(name: &str, now: Millis) -> Replica<HashTrust> {
    let settings = Settings {
        cluster_id: "c1".to_owned(),
        origin: Origin { region: region(name), incarnation: 1 },
        instance: 1,
        state: MemberState::Active,
        expected: BTreeSet::new(),
        past: Past::Known,
        features: features::ALL,
        limits: Limits::default(),
    };
    let mut replica = Replica::new(settings, HashTrust, BTreeMap::new(), now);
    replica.handle(now, Event::Leads { logs: BTreeMap::new() });
    replica
}

pub(super) fn hello(name: &str) -> Message {
    Message::Hello(Hello {
        min_version: 1,
        max_version: 1,
        features: 0,
        kinds: Vec::new(),
        cluster_id: "c1".to_owned(),
        origin: Origin { region: region(name), incarnation: 1 },
        instance: 5,
        state: MemberState::Active,
    })
}

pub(super) fn advert(logs: &[(&str, u64)]) -> Message {
    let logs = logs.iter().map(|(name, seq)| {
        let hash = if *seq == 0 { Head::EMPTY.hash } else { [u8::try_from(*seq).unwrap(); 32] };
        (log_of(name), LogState { head: Head { seq: *seq, hash }, applied: 0, truncated: 0 })
    });
    Message::Advert(Advert { logs: logs.collect(), leading: true })
}

fn chain(name: &str, count: u8) -> Batch {
    let log = log_of(name);
    let mut head = Head::EMPTY;
    let entries = (1..=count).map(|n| {
        let draft = Draft {
            id: Uuid::from_u128(u128::from(n)),
            kind: "settlement".to_owned(),
            tenant: None,
            home_epoch: None,
            traceparent: None,
            committed_at_ms: 0,
            body: vec![n; 20],
        };
        let (entry, next) = Envelope::seal("c1", &log, &head, draft);
        head = next;
        entry
    });
    let entries = entries.collect();
    let signature = sign(&log.origin.region, &crate::protocol::checkpoint_message("c1", &log, &head));
    let checkpoint = Checkpoint { head, key_id: [0; 32], signature, certificate: None };
    Batch { log, pull: 0, entries, checkpoint }
}

pub(super) fn connect(
    replica: &mut Replica<HashTrust>,
    now: Millis,
    conn: u64,
    name: &str,
    says: Message,
) -> Vec<Effect> {
    let mut effects = replica.handle(now, Event::Connected { conn, region: region(name), dialed: true });
    effects.extend(replica.handle(now, Event::Received { conn, message: hello(name) }));
    effects.extend(replica.handle(now, Event::Received { conn, message: says }));
    effects
}

pub(super) fn pulls(effects: &[Effect]) -> VecDeque<(u64, Pull)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { conn, message: Message::Pull(pull) } if pull.credit > 0 => Some((*conn, pull.clone())),
            _ => None,
        })
        .collect()
}

pub(super) const NOW: Millis = Millis(10_000);

#[test]
fn an_origin_is_asked_once_and_before_it_has_anything() {
    let mut us = replica_at("us-east", NOW);
    let effects = connect(&mut us, NOW, 7, "eu-west", advert(&[("eu-west", 0), ("us-east", 0)]));
    let mut asked = pulls(&effects);
    let (conn, pull) = asked.pop_front().unwrap();
    assert_eq!((conn, pull.from, pull.credit), (7, 1, Limits::default().pull_credit_bytes));
    assert_eq!(pull.log, log_of("eu-west"));
    assert!(asked.is_empty(), "never its own log, nothing twice");
    assert!(pulls(&us.handle(NOW.plus(10), Event::Tick)).is_empty());
}

#[test]
fn a_log_is_pulled_directly_while_its_origin_answers_and_through_another_when_it_is_silent() {
    let mut us = replica_at("us-east", NOW);
    connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 3)]));
    let effects = connect(&mut us, NOW, 2, "ap-south", advert(&[("eu-west", 9), ("ap-south", 0)]));
    assert!(pulls(&effects).iter().all(|(_, pull)| pull.log != log_of("eu-west")), "one fetcher a log");

    let later = NOW.plus(SILENT_AFTER_MS + 100);
    let says = advert(&[("eu-west", 9), ("ap-south", 0)]);
    let effects = us.handle(later, Event::Received { conn: 2, message: says });
    let asked = pulls(&effects);
    assert!(asked.iter().any(|(conn, pull)| *conn == 2 && pull.log == log_of("eu-west")), "{asked:?}");

    let again = later.plus(AVOID_STALLED_MS + 100);
    let effects = us.handle(again, Event::Received { conn: 1, message: advert(&[("eu-west", 9)]) });
    assert_eq!(pulls(&effects).front().map(|(conn, _)| *conn), Some(1), "back to the origin once it speaks again");
}

#[test]
fn stored_is_what_the_database_said_and_only_that_is_acknowledged() {
    let mut us = replica_at("us-east", NOW);
    let effects = connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 3)]));
    let (_, pull) = pulls(&effects).pop_front().unwrap();
    let batch = Batch { pull: pull.id, ..chain("eu-west", 3) };
    let head = batch.checkpoint.head;
    let effects = us.handle(NOW, Event::Received { conn: 1, message: Message::Batch(batch) });
    assert!(matches!(effects.as_slice(), [Effect::Store { .. }]), "{effects:?}");
    assert!(!us.vector().contains_key(&log_of("eu-west")), "nothing counts before it is durable");

    let effects = us.handle(NOW, Event::Stored { log: log_of("eu-west"), head });
    let acks: Vec<_> =
        effects.iter().filter(|effect| matches!(effect, Effect::Send { message: Message::Ack(_), .. })).collect();
    assert_eq!(acks.len(), 1);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Send { message: Message::Credit(_), .. })),
        "the room it took is granted again"
    );
    assert_eq!(us.vector()[&log_of("eu-west")], head);
}

fn stored(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Store { .. }))
}

#[test]
fn a_batch_that_comes_late_counts_although_another_was_asked_meanwhile() {
    let mut us = replica_at("us-east", NOW);
    let effects = connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 3)]));
    let (_, first) = pulls(&effects).pop_front().unwrap();
    connect(&mut us, NOW, 2, "ap-south", advert(&[("eu-west", 3)]));
    let late = NOW.plus(STALLED_AFTER_MS + 100);
    for conn in [1, 2] {
        us.handle(NOW.plus(STALLED_AFTER_MS), Event::Received { conn, message: advert(&[("eu-west", 3)]) });
    }
    let effects = us.handle(late, Event::Tick);
    let asked = pulls(&effects).into_iter().find(|(_, pull)| pull.log == log_of("eu-west")).unwrap();
    assert_eq!(asked.0, 2, "another is asked");
    let batch = Batch { pull: first.id, ..chain("eu-west", 3) };
    assert!(stored(&us.handle(late, Event::Received { conn: 1, message: Message::Batch(batch.clone()) })));
    assert!(!stored(&us.handle(late, Event::Received { conn: 2, message: Message::Batch(batch) })), "once");
}

#[test]
fn the_only_source_is_never_given_up_but_asked_again_less_and_less_often() {
    let mut us = replica_at("us-east", NOW);
    connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 3)]));
    let mut asked_at = Vec::new();
    for ms in (0..20_000).step_by(100) {
        let says = Event::Received { conn: 1, message: advert(&[("eu-west", 3)]) };
        if !pulls(&us.handle(NOW.plus(ms), says)).is_empty() {
            asked_at.push(ms);
        }
    }
    assert_eq!(asked_at.len(), 4, "{asked_at:?}");
    assert!(asked_at.windows(3).all(|three| three[2] - three[1] > three[1] - three[0]), "{asked_at:?}");
}

#[test]
fn of_two_instances_of_the_origin_the_one_that_leads_is_asked() {
    let mut us = replica_at("us-east", NOW);
    let Message::Advert(says) = advert(&[("eu-west", 3)]) else { unreachable!() };
    let standby = Message::Advert(Advert { leading: false, ..says });
    assert_eq!(pulls(&connect(&mut us, NOW, 1, "eu-west", standby)).len(), 1, "better than nobody");
    us.handle(NOW, Event::Connected { conn: 2, region: region("eu-west"), dialed: true });
    let Message::Hello(other) = hello("eu-west") else { unreachable!() };
    let other = Message::Hello(Hello { instance: 6, ..other });
    us.handle(NOW, Event::Received { conn: 2, message: other });
    let effects = us.handle(NOW, Event::Received { conn: 2, message: advert(&[("eu-west", 3)]) });
    assert_eq!(pulls(&effects).pop_front().map(|(conn, _)| conn), Some(2));
}

#[test]
fn a_connection_that_says_nothing_is_ended() {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Connected { conn: 1, region: region("eu-west"), dialed: true });
    connect(&mut us, NOW, 2, "ap-south", advert(&[]));
    let closed = |effects: Vec<Effect>| {
        let closed = effects.into_iter().filter_map(|effect| match effect {
            Effect::Close { conn, reason: CloseReason::Silent } => Some(conn),
            _ => None,
        });
        closed.collect::<Vec<_>>()
    };
    assert!(closed(us.handle(NOW.plus(HELLO_WITHIN_MS), Event::Tick)).is_empty());
    assert_eq!(closed(us.handle(NOW.plus(HELLO_WITHIN_MS + 1), Event::Tick)), [1], "no hello");
    assert!(closed(us.handle(NOW.plus(GONE_AFTER_MS), Event::Tick)).is_empty());
    assert_eq!(closed(us.handle(NOW.plus(GONE_AFTER_MS + 1), Event::Tick)), [2]);
}

#[test]
fn a_forged_altered_reordered_or_truncated_batch_is_refused_and_its_sender_avoided() {
    type Damage = fn(&mut Batch);
    let forge: [(&str, Damage); 7] = [
        ("body left out", |batch| batch.entries[1].body = None),
        ("signature", |batch| batch.checkpoint.signature[0] ^= 1),
        ("body", |batch| batch.entries[1].body.as_mut().unwrap()[17] ^= 1),
        ("envelope", |batch| {
            let end = batch.entries[1].envelope.len() - 1;
            batch.entries[1].envelope[end] ^= 1;
        }),
        ("order", |batch| batch.entries.swap(1, 2)),
        ("hole", |batch| drop(batch.entries.remove(1))),
        ("last entry missing", |batch| drop(batch.entries.pop())),
    ];
    for (what, damage) in forge {
        let mut us = replica_at("us-east", NOW);
        let effects = connect(&mut us, NOW, 1, "ap-south", advert(&[("eu-west", 3)]));
        let (_, pull) = pulls(&effects).pop_front().unwrap();
        let mut batch = Batch { pull: pull.id, ..chain("eu-west", 3) };
        damage(&mut batch);
        let effects = us.handle(NOW, Event::Received { conn: 1, message: Message::Batch(batch) });
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Alarm(Alarm::BadBatch { .. }))), "{what}");
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Store { .. })), "{what}");
        let effects = us.handle(NOW.plus(500), Event::Received { conn: 1, message: advert(&[("eu-west", 3)]) });
        assert!(pulls(&effects).is_empty(), "{what}: not asked again at once");
    }
}

/// Otherwise it goes on to send what another is asked for meanwhile.
#[test]
fn a_liar_is_told_to_stop_where_nobody_else_can_be_asked_although_it_had_stalled() {
    for waited_ms in [100, STALLED_AFTER_MS + 100] {
        let mut us = replica_at("us-east", NOW);
        let effects = connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 3)]));
        let (_, pull) = pulls(&effects).pop_front().unwrap();
        let mut batch = Batch { pull: pull.id, ..chain("eu-west", 3) };
        batch.checkpoint.signature[0] ^= 1;
        let effects = us.handle(NOW.plus(waited_ms), Event::Received { conn: 1, message: Message::Batch(batch) });
        let stop = Message::Pull(Pull { from: 1, credit: 0, ..pull });
        assert!(effects.contains(&Effect::Send { conn: 1, message: stop }), "after {waited_ms} ms: {effects:?}");
    }
}

#[test]
fn a_pull_is_served_within_its_credit_and_one_read_at_a_time() {
    let mut eu = replica_at("eu-west", NOW);
    connect(&mut eu, NOW, 1, "us-east", advert(&[]));
    let pull = |id, credit| Message::Pull(Pull { log: log_of("eu-west"), id, from: 1, credit, known_keys: vec![] });
    assert!(eu.handle(NOW, Event::Received { conn: 1, message: pull(1, 1000) }).is_empty(), "nothing there yet");

    let head = chain("eu-west", 5).checkpoint.head;
    let effects = eu.handle(NOW, Event::Numbered { log: log_of("eu-west"), head });
    assert!(
        matches!(effects.as_slice(), [Effect::Serve { from: 1, upto: 5, max_bytes: 1000, .. }]),
        "what is new goes out unasked: {effects:?}"
    );
    assert!(eu.handle(NOW, Event::Tick).iter().all(|effect| !matches!(effect, Effect::Serve { .. })));
    let served = Event::Served { conn: 1, log: log_of("eu-west"), pull: 1, next: 3, bytes: 1000 };
    assert!(eu.handle(NOW, served).is_empty(), "out of credit");
    let credit = crate::protocol::Credit { log: log_of("eu-west"), id: 1, bytes: 70 };
    let effects = eu.handle(NOW, Event::Received { conn: 1, message: Message::Credit(credit) });
    assert!(matches!(effects.as_slice(), [Effect::Serve { from: 3, max_bytes: 70, .. }]), "{effects:?}");
}

/// Otherwise more and more would be on its way to a peer that grants what it has stored.
#[test]
fn what_a_group_takes_beyond_the_credit_is_owed() {
    let mut eu = replica_at("eu-west", NOW);
    connect(&mut eu, NOW, 1, "us-east", advert(&[]));
    let pull = Pull { log: log_of("eu-west"), id: 1, from: 1, credit: 100, known_keys: vec![] };
    eu.handle(NOW, Event::Received { conn: 1, message: Message::Pull(pull) });
    let head = chain("eu-west", 5).checkpoint.head;
    eu.handle(NOW, Event::Numbered { log: log_of("eu-west"), head });
    eu.handle(NOW, Event::Served { conn: 1, log: log_of("eu-west"), pull: 1, next: 3, bytes: 700 });
    let mut grant = |bytes| {
        let credit = crate::protocol::Credit { log: log_of("eu-west"), id: 1, bytes };
        eu.handle(NOW, Event::Received { conn: 1, message: Message::Credit(credit) })
    };
    assert_eq!(grant(600), [], "that much was sent already");
    assert!(matches!(grant(50).as_slice(), [Effect::Serve { from: 3, max_bytes: 50, .. }]));
}

#[test]
fn a_pull_that_is_said_again_or_overtaken_by_a_later_one_grants_nothing() {
    let mut eu = replica_at("eu-west", NOW);
    connect(&mut eu, NOW, 1, "us-east", advert(&[]));
    let head = chain("eu-west", 5).checkpoint.head;
    eu.handle(NOW, Event::Numbered { log: log_of("eu-west"), head });
    let mut pull = |id| {
        let pull = Pull { log: log_of("eu-west"), id, from: 1, credit: 100, known_keys: vec![] };
        eu.handle(NOW, Event::Received { conn: 1, message: Message::Pull(pull) });
        let served = Event::Served { conn: 1, log: log_of("eu-west"), pull: id, next: 3, bytes: 100 };
        eu.handle(NOW, served)
    };
    assert_eq!(pull(2), [], "out of credit");
    for id in [2, 1] {
        assert_eq!(pull(id), [], "pull {id} has had its credit");
    }
}

#[test]
fn a_source_that_is_left_for_another_is_told_to_stop() {
    let mut us = replica_at("us-east", NOW);
    let effects = connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 9)]));
    let (_, asked) = pulls(&effects).pop_front().unwrap();
    connect(&mut us, NOW, 2, "ap-south", advert(&[("eu-west", 9)]));
    let later = NOW.plus(SILENT_AFTER_MS + 100);
    let effects = us.handle(later, Event::Received { conn: 2, message: advert(&[("eu-west", 9)]) });
    assert_eq!(pulls(&effects).front().map(|(conn, _)| *conn), Some(2), "{effects:?}");
    let stops = effects.iter().any(|effect| {
        matches!(effect, Effect::Send { conn: 1, message: Message::Pull(pull) } if pull.credit == 0 && pull.id == asked.id)
    });
    assert!(stops, "{effects:?}");
}

#[test]
fn wrong_cluster_wrong_region_wrong_version_and_a_second_hello_end_the_connection() {
    let refused = |message: Message| {
        let mut us = replica_at("us-east", NOW);
        us.handle(NOW, Event::Connected { conn: 1, region: region("eu-west"), dialed: false });
        let effects = us.handle(NOW, Event::Received { conn: 1, message });
        effects.into_iter().find_map(|effect| match effect {
            Effect::Close { reason, .. } => Some(reason),
            _ => None,
        })
    };
    let Message::Hello(good) = hello("eu-west") else { unreachable!() };
    assert_eq!(refused(Message::Hello(good.clone())), None);
    let other = Hello { cluster_id: "c2".to_owned(), ..good.clone() };
    assert_eq!(refused(Message::Hello(other)), Some(CloseReason::OtherCluster));
    assert_eq!(refused(hello("ap-south")), Some(CloseReason::WrongRegion));
    let newer = Hello { min_version: 2, max_version: 9, ..good };
    assert_eq!(refused(Message::Hello(newer)), Some(CloseReason::Version));
    assert_eq!(refused(advert(&[])), Some(CloseReason::OutOfOrder));

    let mut us = replica_at("us-east", NOW);
    connect(&mut us, NOW, 1, "eu-west", advert(&[]));
    let effects = us.handle(NOW, Event::Received { conn: 1, message: hello("eu-west") });
    assert!(effects.contains(&Effect::Close { conn: 1, reason: CloseReason::OutOfOrder }));
    let effects = us.handle(NOW, Event::Connected { conn: 2, region: region("us-east"), dialed: true });
    assert_eq!(effects, [Effect::Close { conn: 2, reason: CloseReason::WrongRegion }]);
}

#[test]
fn of_two_connections_to_one_peer_both_sides_keep_the_same() {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Connected { conn: 1, region: region("eu-west"), dialed: true });
    us.handle(NOW, Event::Received { conn: 1, message: hello("eu-west") });
    us.handle(NOW, Event::Connected { conn: 2, region: region("eu-west"), dialed: false });
    let effects = us.handle(NOW, Event::Received { conn: 2, message: hello("eu-west") });
    assert!(effects.contains(&Effect::Close { conn: 1, reason: CloseReason::Duplicate }), "eu-west < us-east");
}

#[test]
fn a_restored_region_that_hears_of_its_own_future_numbers_nothing_more() {
    let mut us = replica_at("us-east", NOW);
    let effects = connect(&mut us, NOW, 1, "eu-west", advert(&[("us-east", 4)]));
    let (_, pull) = pulls(&effects).pop_front().unwrap();
    assert_eq!((&pull.log, pull.from), (&log_of("us-east"), 4), "it is asked to show what it says it has");
    let proof = Batch { pull: pull.id, ..chain("us-east", 4) };
    let effects = us.handle(NOW, Event::Received { conn: 1, message: Message::Batch(proof) });
    assert!(effects.contains(&Effect::BeginIncarnation { after: 1, alone: false }), "{effects:?}");
    let effects = us.handle(NOW.plus(15_000), Event::Tick);
    assert!(!effects.contains(&Effect::AllowNumbering));
}

fn begins(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::BeginIncarnation { .. }))
}

#[test]
fn what_a_peer_says_of_our_future_and_does_not_prove_changes_nothing() {
    let mut us = replica_at("us-east", NOW);
    let later = LogId { origin: Origin { region: region("us-east"), incarnation: 9 }, ..log_of("us-east") };
    let state = LogState { head: Head { seq: 4, hash: [4; 32] }, applied: 0, truncated: 0 };
    let says =
        || Message::Advert(Advert { logs: [(later.clone(), state), (log_of("us-east"), state)].into(), leading: true });
    let effects = connect(&mut us, NOW, 1, "eu-west", says());
    assert!(!begins(&effects));
    let forged = |log: &LogId, pull: u64| {
        let mut batch = Batch { log: log.clone(), pull, ..chain("us-east", 4) };
        batch.checkpoint.signature[0] ^= 1;
        Event::Received { conn: 1, message: Message::Batch(batch) }
    };
    for (_, pull) in pulls(&effects) {
        assert!(!begins(&us.handle(NOW, forged(&pull.log, pull.id))));
    }
    us.handle(NOW.plus(NUMBERING_GRACE_MS), Event::Received { conn: 1, message: says() });
    let effects = us.handle(NOW.plus(NUMBERING_GRACE_MS), Event::Tick);
    assert!(effects.contains(&Effect::AllowNumbering), "it waits a little, not for ever");
}

#[test]
fn what_was_said_before_we_led_is_looked_at_when_we_lead() {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Follows);
    let effects = connect(&mut us, NOW, 1, "eu-west", advert(&[("us-east", 4)]));
    assert!(pulls(&effects).is_empty());
    let effects = us.handle(NOW, Event::Leads { logs: BTreeMap::new() });
    assert_eq!(pulls(&effects).pop_front().map(|(_, pull)| pull.log), Some(log_of("us-east")));
}

#[test]
fn whoever_leads_long_after_its_start_still_waits_for_the_proof_of_its_future() {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Follows);
    connect(&mut us, NOW, 1, "eu-west", advert(&[("us-east", 4)]));
    let led = NOW.plus(NUMBERING_GRACE_MS + 500);
    us.handle(led, Event::Received { conn: 1, message: advert(&[("us-east", 4)]) });
    let effects = us.handle(led, Event::Leads { logs: BTreeMap::new() });
    assert!(!effects.contains(&Effect::AllowNumbering));
    let (_, pull) = pulls(&effects).pop_front().unwrap();
    assert!(!us.handle(led.plus(100), Event::Tick).contains(&Effect::AllowNumbering), "an answer takes a while");
    let proof = Batch { pull: pull.id, ..chain("us-east", 4) };
    assert!(begins(&us.handle(led.plus(250), Event::Received { conn: 1, message: Message::Batch(proof) })));
}

#[test]
fn a_database_that_went_back_while_we_ran_ends_the_incarnation() {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Numbered { log: log_of("us-east"), head: Head { seq: 5, hash: [5; 32] } });
    let older = LogState { head: Head { seq: 3, hash: [3; 32] }, applied: 3, truncated: 0 };
    let effects = us.handle(NOW, Event::Leads { logs: [(log_of("us-east"), older)].into() });
    assert!(begins(&effects));
}

#[test]
fn numbering_waits_for_the_expected_peers_but_not_for_ever() {
    let expecting = || {
        let settings =
            Settings { expected: BTreeSet::from([region("eu-west")]), ..replica_at("us-east", NOW).settings().clone() };
        let mut us = Replica::new(settings, HashTrust, BTreeMap::new(), NOW);
        us.handle(NOW, Event::Leads { logs: BTreeMap::new() });
        us
    };
    let mut alone = expecting();
    assert!(!alone.handle(NOW.plus(100), Event::Tick).contains(&Effect::AllowNumbering));
    assert!(alone.handle(NOW.plus(NUMBERING_GRACE_MS), Event::Tick).contains(&Effect::AllowNumbering));
    let settings = Settings { past: Past::Doubted, ..expecting().settings().clone() };
    let mut restored = Replica::new(settings, HashTrust, BTreeMap::new(), NOW);
    restored.handle(NOW, Event::Leads { logs: BTreeMap::new() });
    assert!(!begins(&restored.handle(NOW.plus(100), Event::Tick)));
    let effects = restored.handle(NOW.plus(NUMBERING_GRACE_MS), Event::Tick);
    assert!(effects.contains(&Effect::BeginIncarnation { after: 1, alone: true }), "it may lack what eu-west has");
    let mut met = expecting();
    connect(&mut met, NOW, 1, "eu-west", advert(&[]));
    assert!(met.handle(NOW.plus(100), Event::Tick).contains(&Effect::AllowNumbering));
}

/// What it lacks may be in a peer's memory, where nobody says that it has it.
#[test]
fn on_a_promoted_or_restored_copy_a_life_begins_that_nobody_can_have_begun_whatever_others_know() {
    let settings = Settings { past: Past::Copied, ..replica_at("us-east", NOW).settings().clone() };
    let mut us = Replica::new(settings, HashTrust, BTreeMap::new(), NOW);
    connect(&mut us, NOW, 1, "eu-west", advert(&[]));
    assert!(!begins(&us.handle(NOW, Event::Tick)), "only a leader begins one");
    let effects = us.handle(NOW, Event::Leads { logs: BTreeMap::new() });
    assert!(effects.contains(&Effect::BeginIncarnation { after: 1, alone: true }), "{effects:?}");
    assert!(!us.handle(NOW.plus(15_000), Event::Tick).contains(&Effect::AllowNumbering));
}

#[test]
fn two_copies_that_end_alike_but_differ_raise_one_alarm_until_they_are_the_same() {
    let mut us = replica_at("us-east", NOW);
    connect(&mut us, NOW, 1, "ap-south", advert(&[]));
    let ours = |hash| Event::Stored { log: log_of("eu-west"), head: Head { seq: 3, hash: [hash; 32] } };
    us.handle(NOW, ours(1));
    let says = || Event::Received { conn: 1, message: advert(&[("eu-west", 3)]) };
    let diverged = |effects: Vec<Effect>| effects.iter().any(|e| matches!(e, Effect::Alarm(Alarm::Diverged { .. })));
    assert!(diverged(us.handle(NOW, says())));
    assert!(!diverged(us.handle(NOW, says())), "once is enough");
    us.handle(NOW, Event::Diverged(BTreeSet::new()));
    assert!(diverged(us.handle(NOW, says())), "it could not be kept");

    let agree = Effect::HeadsAgree { peer: region("ap-south"), log: log_of("eu-west") };
    us.handle(NOW, ours(3));
    assert!(us.handle(NOW, says()).contains(&agree));
    assert!(!us.handle(NOW, says()).contains(&agree), "nothing is known to differ");
    let found_by_another = BTreeSet::from([(region("ap-south"), log_of("eu-west"))]);
    us.handle(NOW, Event::Diverged(found_by_another));
    assert!(us.handle(NOW, says()).contains(&agree));
    us.handle(NOW, ours(1));
    assert!(diverged(us.handle(NOW, says())), "it differs once more");
}

#[test]
fn between_us_and_a_peer_no_entries_of_a_paused_stream_pass_until_it_is_resumed() {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Numbered { log: log_of("us-east"), head: Head { seq: 3, hash: [3; 32] } });
    let effects = connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 2)]));
    assert_eq!(pulls(&effects).len(), 1);
    let wants = Pull { log: log_of("us-east"), id: 1, from: 4, credit: 1_000, known_keys: Vec::new() };
    us.handle(NOW, Event::Received { conn: 1, message: Message::Pull(wants) });

    let paused = BTreeSet::from([(region("eu-west"), FactStream::Ledger)]);
    let effects = us.handle(NOW, Event::Paused(paused));
    let stops =
        |effect: &Effect| matches!(effect, Effect::Send { message: Message::Pull(pull), .. } if pull.credit == 0);
    assert!(effects.iter().any(stops), "the pull ends: {effects:?}");
    let later = NOW.plus(60_000);
    let serves = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Serve { .. }));
    let grown = Event::Numbered { log: log_of("us-east"), head: Head { seq: 5, hash: [5; 32] } };
    assert!(!serves(&us.handle(NOW.plus(100), grown)));
    let effects = us.handle(NOW.plus(200), Event::Received { conn: 1, message: advert(&[("eu-west", 4)]) });
    assert!(pulls(&effects).is_empty());
    assert_eq!(us.flows().iter().map(|flow| flow.credit_bytes).collect::<Vec<_>>(), [1_000]);
    // Another region has them too.
    let effects = connect(&mut us, NOW.plus(300), 2, "ap-south", advert(&[("eu-west", 4)]));
    assert_eq!(pulls(&effects).pop_front().map(|(conn, pull)| (conn, pull.from)), Some((2, 1)));

    us.handle(later, Event::Paused(BTreeSet::new()));
    us.handle(later, Event::Received { conn: 1, message: advert(&[("eu-west", 4)]) });
    assert!(serves(&us.handle(later.plus(50), Event::Tick)));
}

#[test]
fn rows_are_compared_at_once_when_an_operator_asks() {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Tick);
    us.handle(NOW, Event::Connected { conn: 1, region: region("eu-west"), dialed: true });
    let Message::Hello(greeting) = hello("eu-west") else { unreachable!() };
    let able = Message::Hello(Hello { features: features::ALL, ..greeting });
    us.handle(NOW, Event::Received { conn: 1, message: able });
    us.handle(NOW, Event::Received { conn: 1, message: advert(&[]) });
    let asks = |effects: &[Effect]| {
        let asked = effects.iter().filter(|e| matches!(e, Effect::Send { message: Message::Inspect(_), .. }));
        asked.count()
    };
    assert_eq!(asks(&us.handle(NOW.plus(50), Event::Tick)), 0, "it is not due for a while");
    us.handle(NOW.plus(60), Event::CompareNow);
    assert_eq!(asks(&us.handle(NOW.plus(100), Event::Tick)), FactStream::ALL.len());
}

/// What a member may say at any time: it has these logs, of lives nobody has lived.
fn made_up(lives: std::ops::Range<u64>) -> Advert {
    let log =
        |incarnation| LogId { origin: Origin { region: region("sa-east"), incarnation }, stream: FactStream::Ledger };
    let state = |seq| LogState { head: Head { seq, hash: [1; 32] }, applied: seq, truncated: seq / 2 };
    Advert { logs: lives.map(|life| (log(life), state(life % 3))).collect(), leading: true }
}

#[test]
fn a_member_that_names_other_logs_every_time_takes_no_more_memory_than_one_that_names_them_once() {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Connected { conn: 1, region: region("eu-west"), dialed: true });
    let Message::Hello(first) = hello("eu-west") else { unreachable!() };
    let able = Message::Hello(Hello { features: features::ALL, ..first });
    us.handle(NOW, Event::Received { conn: 1, message: able });
    let mut remembered: BTreeMap<LogId, LogState> = BTreeMap::new();
    let mut now = NOW;
    for round in 0..10 {
        now = now.plus(PLAN_EVERY_MS);
        let rogue = made_up(1 + round * 1_000..1 + (round + 1) * 1_000);
        let acked = LogId { stream: FactStream::Control, ..rogue.logs.keys().next().unwrap().clone() };
        let mut effects = us.handle(now, Event::Received { conn: 1, message: Message::Advert(rogue) });
        let ack =
            Ack { log: acked, state: LogState { head: Head { seq: 9, hash: [9; 32] }, applied: 9, truncated: 0 } };
        effects.extend(us.handle(now, Event::Received { conn: 1, message: Message::Ack(ack) }));
        for effect in effects {
            match effect {
                Effect::SaveAck { log, state, .. } => drop(remembered.insert(log, state)),
                Effect::ForgetAck { log, .. } => drop(remembered.remove(&log)),
                Effect::Alarm(alarm) => panic!("what it makes up about logs we have nothing of: {alarm:?}"),
                _ => {}
            }
        }
    }
    assert_eq!(remembered.len(), 1_000);
    assert_eq!(us.sessions[&1].logs.len(), 1_000);
    assert!(us.incoming.len() <= 2_000, "{}", us.incoming.len());
    assert!(us.diverged.is_empty());
    let (heard, stranded) = us.members.sizes();
    assert_eq!(heard, 1_000);
    assert!((1..=1_000).contains(&stranded), "{stranded}");
}

#[test]
fn a_log_is_forgotten_only_when_no_instance_of_the_region_names_it_and_in_a_later_life_of_ours_too() {
    let mut us = replica_at("us-east", NOW);
    let forgotten = |effects: Vec<Effect>| -> Vec<LogId> {
        let forgotten = effects.into_iter().filter_map(|effect| match effect {
            Effect::ForgetAck { log, .. } => Some(log),
            _ => None,
        });
        forgotten.collect()
    };
    let says = |us: &mut Replica<HashTrust>, conn, logs: &[(&str, u64)]| {
        forgotten(us.handle(NOW, Event::Received { conn, message: advert(logs) }))
    };
    connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 1), ("sa-east", 1)]));
    us.handle(NOW, Event::Connected { conn: 2, region: region("eu-west"), dialed: true });
    let Message::Hello(first) = hello("eu-west") else { unreachable!() };
    us.handle(NOW, Event::Received { conn: 2, message: Message::Hello(Hello { instance: 6, ..first }) });
    assert_eq!(says(&mut us, 2, &[("eu-west", 1)]), [], "the other instance names it");
    assert_eq!(says(&mut us, 1, &[("eu-west", 1)]), []);
    let states = BTreeMap::from([(region("eu-west"), MemberState::Active)]);
    let acks = BTreeMap::from([(region("eu-west"), BTreeMap::from([(log_of("sa-east"), 1), (log_of("eu-west"), 1)]))]);
    us.handle(NOW, Event::Members { states, acks, unchecked: None });
    assert_eq!(says(&mut us, 1, &[("eu-west", 1)]), [log_of("sa-east")], "the database remembers it");
}

#[test]
fn whoever_names_a_log_no_more_is_told_to_send_no_more_of_it() {
    let mut us = replica_at("us-east", NOW);
    let asked = pulls(&connect(&mut us, NOW, 1, "eu-west", advert(&[("eu-west", 0), ("sa-east", 2)])));
    let (_, pull) = asked.iter().find(|(_, pull)| pull.log == log_of("sa-east")).unwrap();
    let later = NOW.plus(PLAN_EVERY_MS);
    let effects = us.handle(later, Event::Received { conn: 1, message: advert(&[("eu-west", 0)]) });
    let told = effects.iter().any(|effect| match effect {
        Effect::Send { conn: 1, message: Message::Pull(told) } => told.id == pull.id && told.credit == 0,
        _ => false,
    });
    assert!(told, "{effects:?}");
}
