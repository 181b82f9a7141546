#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for the one effect it is about")]

use super::*;
use crate::protocol::{
    replica::tests::{HashTrust, NOW, advert, connect, hello, log_of, region, replica_at},
    rows::Rows,
};

/// us-east is connected to eu-west, which answers questions.
fn us_beside_eu() -> Replica<HashTrust> {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Connected { conn: 1, region: region("eu-west"), dialed: true });
    let Message::Hello(says) = hello("eu-west") else { unreachable!() };
    let says = Message::Hello(Hello { features: features::ALL, ..says });
    us.handle(NOW, Event::Received { conn: 1, message: says });
    us.handle(NOW, Event::Received { conn: 1, message: advert(&[]) });
    us
}

fn asked(effects: &[Effect]) -> Vec<Inspect> {
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::Send { conn: 1, message: Message::Inspect(question) } => Some(question.clone()),
        _ => None,
    });
    asked.collect()
}

fn question(prefix: &[u8]) -> Inspect {
    Inspect { stream: FactStream::Ledger, vector: None, prefix: prefix.to_vec() }
}

fn as_of(applied: u64, question: Inspect) -> Inspect {
    Inspect { vector: Some([(log_of("eu-west").origin, applied)].into()), ..question }
}

fn differ(question: Inspect, keys: &[&str]) -> Event {
    let difference = Difference::Keys(keys.iter().map(|key| (*key).to_owned()).collect());
    Event::Compared { conn: 1, question, difference: Some(difference) }
}

fn answer(of: Inspect) -> Event {
    Event::Received { conn: 1, message: Message::Digest(Digest { of, rows: Rows::Each(Vec::new()) }) }
}

#[test]
fn every_peer_that_can_is_asked_about_every_kind_of_row_once_a_round() {
    let mut us = us_beside_eu();
    connect(&mut us, NOW, 2, "ap-south", advert(&[]));
    let effects = us.handle(NOW, Event::Tick);
    assert_eq!(asked(&effects).len(), FactStream::ALL.len());
    let others =
        effects.iter().filter(|effect| matches!(effect, Effect::Send { conn: 2, message: Message::Inspect(_) }));
    assert_eq!(others.count(), 0, "a peer of the first version would not understand");
    let due = us.settings.limits.rows_every_ms;
    us.handle(NOW.plus(due - 1), Event::Received { conn: 1, message: advert(&[]) });
    assert!(asked(&us.handle(NOW.plus(due - 1), Event::Tick)).is_empty());
    assert_eq!(asked(&us.handle(NOW.plus(due), Event::Tick)).len(), FactStream::ALL.len());
}

#[test]
fn only_an_answer_to_an_open_question_is_compared_and_only_once() {
    let mut us = us_beside_eu();
    assert!(us.handle(NOW, answer(as_of(3, question(&[])))).is_empty(), "nobody asked");
    us.handle(NOW, Event::Tick);
    let compares = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Compare { .. }));
    assert!(!compares(&us.handle(NOW, answer(as_of(3, question(&[7]))))), "another bucket");
    assert!(compares(&us.handle(NOW, answer(as_of(3, question(&[]))))));
    assert!(!compares(&us.handle(NOW, answer(as_of(3, question(&[]))))));
}

#[test]
fn buckets_that_differ_are_looked_into_as_of_the_same_entries_and_not_more_than_a_few() {
    let mut us = us_beside_eu();
    us.handle(NOW, Event::Tick);
    let of = as_of(3, question(&[]));
    let buckets = Some(Difference::Buckets(vec![4, 9]));
    let effects = us.handle(NOW, Event::Compared { conn: 1, question: of.clone(), difference: buckets });
    assert_eq!(asked(&effects), [as_of(3, question(&[4])), as_of(3, question(&[9]))]);
    let all = Some(Difference::Buckets((0..=u8::MAX).collect()));
    let effects = us.handle(NOW, Event::Compared { conn: 1, question: of, difference: all });
    assert!(asked(&effects).len() <= MAX_BUCKETS);
}

#[test]
fn a_row_that_differs_twice_running_is_reported_round_by_round_and_one_that_was_on_its_way_never() {
    let mut us = us_beside_eu();
    let alarms = |effects: Vec<Effect>| {
        let alarms = effects.into_iter().filter_map(|effect| match effect {
            Effect::Alarm(Alarm::RowsDiffer { keys, .. }) => Some(keys),
            _ => None,
        });
        alarms.flatten().collect::<Vec<_>>()
    };
    let effects = us.handle(NOW, differ(as_of(3, question(&[4])), &["damaged", "on its way"]));
    assert_eq!(asked(&effects), [question(&[4])], "asked again as of later");
    assert!(alarms(effects).is_empty());
    assert_eq!(alarms(us.handle(NOW, differ(as_of(5, question(&[4])), &["damaged", "another"]))), ["damaged"]);
    us.handle(NOW, differ(as_of(6, question(&[4])), &["damaged"]));
    assert_eq!(alarms(us.handle(NOW, differ(as_of(6, question(&[4])), &["damaged"]))), ["damaged"], "it still does");
    us.handle(NOW, differ(as_of(7, question(&[4])), &["damaged"]));
    assert!(alarms(us.handle(NOW, differ(as_of(7, question(&[4])), &[]))).is_empty(), "it was mended");
}

#[test]
fn a_peer_gets_answers_to_a_few_questions_at_a_time() {
    let mut us = us_beside_eu();
    let ask = |n: u8| Event::Received { conn: 1, message: Message::Inspect(question(&[n])) };
    let answers = |effects: Vec<Effect>| effects.iter().any(|effect| matches!(effect, Effect::Answer { .. }));
    let answered = (0..40).filter(|n| answers(us.handle(NOW, ask(*n)))).count();
    assert_eq!(answered, MAX_OPEN);
    us.handle(NOW, Event::Answered { conn: 1 });
    assert!(answers(us.handle(NOW, ask(99))));
}

#[test]
fn where_a_peer_ends_within_our_log_the_hash_of_that_entry_is_compared_and_a_difference_is_told_once() {
    let mut us = us_beside_eu();
    us.handle(NOW, Event::Numbered { log: log_of("us-east"), head: Head { seq: 9, hash: [9; 32] } });
    us.handle(NOW, Event::Received { conn: 1, message: advert(&[("us-east", 4)]) });
    let effects = us.handle(NOW, Event::Tick);
    let head = Head { seq: 4, hash: [4; 32] };
    assert!(effects.contains(&Effect::CheckHead { peer: region("eu-west"), log: log_of("us-east"), head }));
    let differs = || Event::HeadDiffers { peer: region("eu-west"), log: log_of("us-east"), seq: 4 };
    let told =
        |effects: Vec<Effect>| effects.iter().any(|e| matches!(e, Effect::Alarm(Alarm::Diverged { seq: 4, .. })));
    assert!(told(us.handle(NOW, differs())));
    assert!(!told(us.handle(NOW, differs())));
}

#[test]
fn what_a_snapshot_brought_holds_once_another_region_than_its_giver_has_all_of_it_too() {
    let mut us = us_beside_eu();
    let snapshot_of = |giver: Option<&str>, others: &[&str]| Event::Members {
        states: others.iter().map(|name| (region(name), MemberState::Active)).collect(),
        acks: BTreeMap::new(),
        unchecked: giver.map(region),
    };
    let compare = |us: &mut Replica<HashTrust>, keys: &[&str]| {
        let mut effects = Vec::new();
        for stream in FactStream::ALL {
            effects.extend(us.handle(NOW, differ(Inspect { stream, ..question(&[]) }, keys)));
        }
        effects.contains(&Effect::SnapshotHolds)
    };
    us.handle(NOW, Event::Tick);
    assert!(!compare(&mut us, &[]), "there was no snapshot");
    us.handle(NOW, snapshot_of(Some("eu-west"), &["eu-west", "ap-south"]));
    assert_eq!(asked(&us.handle(NOW, Event::Tick)).len(), FactStream::ALL.len(), "it is looked at at once");
    assert!(!compare(&mut us, &[]), "eu-west gave it, and ap-south could be asked");
    us.handle(NOW, snapshot_of(None, &[]));
    us.handle(NOW, snapshot_of(Some("ap-south"), &["eu-west", "ap-south"]));
    assert!(!compare(&mut us, &["fact 1"]));
    let soon = NOW.plus(UNCHECKED_EVERY_MS);
    us.handle(soon, Event::Received { conn: 1, message: advert(&[]) });
    assert_eq!(asked(&us.handle(soon, Event::Tick)).len(), FactStream::ALL.len(), "and again soon");
    assert!(compare(&mut us, &[]));
    us.handle(NOW, snapshot_of(None, &[]));
    us.handle(NOW, snapshot_of(Some("eu-west"), &["eu-west"]));
    assert!(compare(&mut us, &[]), "there is nobody else");
}
