#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for the one effect it is about")]

use super::*;
use crate::protocol::{
    MAX_ROWS, hash_of,
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
    Inspect { stream: FactStream::Ledger, vector: None, prefix: prefix.to_vec(), as_they_are: false }
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
fn where_a_peer_ends_within_our_log_that_entry_is_compared_and_a_difference_is_told_once_until_it_is_gone() {
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
    let agrees = || Event::HeadAgrees { peer: region("eu-west"), log: log_of("us-east") };
    let gone = Effect::HeadsAgree { peer: region("eu-west"), log: log_of("us-east") };
    assert!(us.handle(NOW, agrees()).contains(&gone));
    assert!(!us.handle(NOW, agrees()).contains(&gone));
    assert!(told(us.handle(NOW, differs())));
}

/// us-east has loaded ap-south's snapshot while people edit, and the ledger was found to hold.
fn us_with_a_snapshot() -> Replica<HashTrust> {
    let mut us = us_beside_eu();
    let states = ["eu-west", "ap-south"].map(|name| (region(name), MemberState::Active)).into();
    let control = LogId { stream: FactStream::Control, ..log_of("eu-west") };
    let config = LogId { stream: FactStream::Config, ..log_of("eu-west") };
    let has = |applied| LogState { head: Head { seq: applied, hash: [1; 32] }, applied, truncated: 0 };
    us.handle(NOW, Event::Leads { logs: [(control, has(2)), (config, has(5))].into() });
    us.handle(NOW, Event::Members { states, acks: BTreeMap::new(), unchecked: Some(region("ap-south")) });
    us.handle(NOW, Event::Tick);
    us.handle(NOW, differ(question(&[]), &[]));
    us
}

fn part(stream: FactStream, applied: u64, prefix: &[u8]) -> Inspect {
    Inspect { stream, as_they_are: true, ..as_of(applied, question(prefix)) }
}

#[test]
fn a_snapshot_holds_although_config_changes_all_the_time_once_each_row_was_equal_at_some_time() {
    let mut us = us_with_a_snapshot();
    let mut holds = |question, keys: &[&str]| us.handle(NOW, differ(question, keys)).contains(&Effect::SnapshotHolds);
    assert!(!holds(part(FactStream::Control, 2, &[]), &[]));
    assert!(!holds(part(FactStream::Config, 7, &[]), &["draft a", "draft b", "version a 3"]));
    assert!(!holds(part(FactStream::Config, 8, &[]), &["draft b", "version a 4"]), "a was equal now");
    assert!(holds(part(FactStream::Config, 9, &[]), &["draft a", "version a 5"]), "and b is now, as all else was");
}

#[test]
fn equal_rows_prove_nothing_where_the_other_region_had_not_applied_what_was_here_and_nor_do_too_many_that_differ() {
    let mut us = us_with_a_snapshot();
    let mut holds = |question, keys: &[&str]| us.handle(NOW, differ(question, keys)).contains(&Effect::SnapshotHolds);
    assert!(!holds(part(FactStream::Control, 2, &[]), &[]));
    assert!(!holds(part(FactStream::Config, 4, &[]), &[]), "it may lack what the snapshot left out");
    let many: Vec<String> = (0..MAX_ROWS).map(|n| format!("row {n:03}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(!holds(part(FactStream::Config, 6, &[]), &many), "not all that differ are told");
    assert!(!holds(part(FactStream::Config, 6, &[]), &many[1..]));
    assert!(!holds(part(FactStream::Config, 6, &[]), &many[9..10]));
    assert!(holds(part(FactStream::Config, 6, &[]), &[]));
}

#[test]
fn buckets_of_a_snapshot_s_rows_that_differ_are_asked_about_a_few_a_round_and_forgotten_once_equal() {
    let mut us = us_with_a_snapshot();
    let compared = |us: &mut Replica<HashTrust>, question, difference| {
        let effects = us.handle(NOW, Event::Compared { conn: 1, question, difference: Some(difference) });
        effects.contains(&Effect::SnapshotHolds)
    };
    assert!(!compared(&mut us, part(FactStream::Control, 2, &[]), Difference::Keys(BTreeSet::new())));
    let buckets = Difference::Buckets((0..20).collect());
    assert!(!compared(&mut us, part(FactStream::Config, 5, &[]), buckets));
    let mut asked_about = BTreeSet::new();
    for round in 1..=3 {
        let at = NOW.plus(round * UNCHECKED_EVERY_MS);
        us.handle(at, Event::Received { conn: 1, message: advert(&[]) });
        let parts = asked(&us.handle(at, Event::Tick)).into_iter().filter(|question| question.as_they_are);
        asked_about.extend(parts.map(|question| question.prefix));
    }
    assert_eq!(asked_about, (0..20).map(|bucket| vec![bucket]).collect(), "all of them in turn");
    for bucket in 0..19 {
        let equal = Difference::Buckets(Vec::new());
        assert!(!compared(&mut us, part(FactStream::Config, 5, &[bucket]), equal));
    }
    let key = "draft of somebody who edits".to_owned();
    let deeper = hash_of(key.as_bytes())[1];
    let only = Difference::Keys([key].into());
    assert!(!compared(&mut us, part(FactStream::Config, 5, &[19]), only));
    assert!(!compared(&mut us, part(FactStream::Config, 6, &[19]), Difference::Buckets(vec![deeper])), "many by now");
    assert!(compared(&mut us, part(FactStream::Config, 6, &[19]), Difference::Buckets(vec![deeper ^ 1])));
}

#[test]
fn whoever_comes_to_lead_looks_at_all_of_a_snapshot_anew() {
    let mut us = us_with_a_snapshot();
    let logs: BTreeMap<LogId, LogState> = us.logs.clone();
    let holds = |us: &mut Replica<HashTrust>, stream| {
        us.handle(NOW, differ(part(stream, 9, &[]), &[])).contains(&Effect::SnapshotHolds)
    };
    assert!(!holds(&mut us, FactStream::Config));
    us.handle(NOW, Event::Leads { logs });
    us.handle(NOW.plus(UNCHECKED_EVERY_MS), Event::Received { conn: 1, message: advert(&[]) });
    us.handle(NOW.plus(UNCHECKED_EVERY_MS), Event::Tick);
    us.handle(NOW, differ(question(&[]), &[]));
    assert!(!holds(&mut us, FactStream::Control), "config was looked at before another may have led");
    assert!(holds(&mut us, FactStream::Config));
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
    let questions = asked(&us.handle(soon, Event::Tick));
    let (parts, whole): (Vec<_>, Vec<_>) = questions.into_iter().partition(|question| question.as_they_are);
    assert_eq!((whole.len(), parts.len()), (FactStream::ALL.len(), 2), "and again soon, what is edited as it is too");
    assert!(compare(&mut us, &[]));
    us.handle(NOW, snapshot_of(None, &[]));
    us.handle(NOW, snapshot_of(Some("eu-west"), &["eu-west"]));
    assert!(compare(&mut us, &[]), "there is nobody else");
    let eu_joins = |giver: &str| Event::Members {
        states: [("eu-west", MemberState::Joining), ("ap-south", MemberState::Active)]
            .map(|(name, state)| (region(name), state))
            .into(),
        acks: BTreeMap::new(),
        unchecked: Some(region(giver)),
    };
    us.handle(NOW, eu_joins("ap-south"));
    assert!(!compare(&mut us, &[]), "it may have begun with the same snapshot");
    us.handle(NOW, eu_joins("sa-east"));
    assert!(!compare(&mut us, &[]), "whoever gave it");
}
