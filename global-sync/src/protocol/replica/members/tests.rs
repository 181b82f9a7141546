#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for the one effect it is about")]

use super::*;
use crate::protocol::replica::tests::{HashTrust, NOW, advert, connect, hello, log_of, pulls, region, replica_at};

type Us = Replica<HashTrust>;

/// us-east leads, may number, and has all ten entries of its own log applied.
fn us_with_ten_entries() -> Us {
    let mut us = replica_at("us-east", NOW);
    us.settings.limits.kept_entries = 100;
    us.handle(NOW, Event::Tick);
    us.handle(NOW, Event::Numbered { log: log_of("us-east"), head: Head { seq: 10, hash: [10; 32] } });
    us
}

fn members(states: &[(&str, MemberState)], acks: &[(&str, u64)]) -> Event {
    let ours = |stored: u64| BTreeMap::from([(log_of("us-east"), stored)]);
    Event::Members {
        states: states.iter().map(|(name, state)| (region(name), *state)).collect(),
        acks: acks.iter().map(|(name, stored)| (region(name), ours(*stored))).collect(),
        unchecked: None,
    }
}

/// What is dropped, and who is given up on, at the next time something is.
fn tidied(us: &mut Us, now: Millis) -> (Option<u64>, Vec<RegionName>) {
    let effects = us.handle(now.plus(us.settings.limits.truncate_every_ms), Event::Tick);
    let dropped = effects.iter().find_map(|effect| match effect {
        Effect::Truncate { log, upto } if *log == log_of("us-east") => Some(*upto),
        _ => None,
    });
    let given_up = effects.iter().filter_map(|effect| match effect {
        Effect::GiveUpOn { peer, .. } => Some(peer.clone()),
        _ => None,
    });
    (dropped, given_up.collect())
}

const ACTIVE: MemberState = MemberState::Active;

#[test]
fn an_entry_is_dropped_once_every_member_has_stored_it_and_the_newest_stays() {
    let mut us = us_with_ten_entries();
    assert_eq!(tidied(&mut us, NOW).0, None, "who the members are is not known");
    let both = [("us-east", ACTIVE), ("eu-west", ACTIVE), ("ap-south", MemberState::Draining)];
    us.handle(NOW, members(&both, &[]));
    connect(&mut us, NOW, 1, "eu-west", advert(&[("us-east", 10)]));
    let later = NOW.plus(200_000);
    assert_eq!(tidied(&mut us, later).0, None, "one that leaves has a say as long as it is here");
    connect(&mut us, later, 2, "ap-south", advert(&[("us-east", 4)]));
    assert_eq!(tidied(&mut us, later.plus(100_000)).0, Some(4));
    connect(&mut us, later.plus(200_000), 3, "ap-south", advert(&[("us-east", 10)]));
    assert_eq!(tidied(&mut us, later.plus(300_000)).0, Some(9));
    us.handle(later.plus(400_000), Event::Truncated { log: log_of("us-east"), upto: 9 });
    assert_eq!(tidied(&mut us, later.plus(400_000)).0, None, "nothing is dropped twice");
}

#[test]
fn what_the_database_remembers_of_a_member_that_has_not_spoken_since_the_start_lets_nothing_be_dropped() {
    let mut us = us_with_ten_entries();
    us.handle(NOW, members(&[("eu-west", ACTIVE)], &[("eu-west", 10)]));
    assert_eq!(tidied(&mut us, NOW).0, None, "it may have been restored from a backup");
    connect(&mut us, NOW.plus(100_000), 1, "eu-west", advert(&[("us-east", 3)]));
    assert_eq!(tidied(&mut us, NOW.plus(100_000)).0, Some(3));
}

#[test]
fn a_peer_that_comes_back_without_a_log_has_nothing_of_it() {
    let mut us = us_with_ten_entries();
    us.handle(NOW, members(&[("eu-west", ACTIVE)], &[]));
    connect(&mut us, NOW, 1, "eu-west", advert(&[("us-east", 10)]));
    us.handle(NOW, Event::Disconnected { conn: 1 });
    connect(&mut us, NOW, 2, "eu-west", advert(&[("eu-west", 0)]));
    assert_eq!(tidied(&mut us, NOW).0, None);
}

#[test]
fn a_retired_region_and_a_newcomer_that_was_never_heard_hold_nothing_up() {
    let mut us = us_with_ten_entries();
    let states = [("eu-west", ACTIVE), ("ap-south", MemberState::Retired), ("sa-east", MemberState::Joining)];
    us.handle(NOW, members(&states, &[]));
    connect(&mut us, NOW, 1, "eu-west", advert(&[("us-east", 7)]));
    assert_eq!(tidied(&mut us, NOW).0, Some(7));
    connect(&mut us, NOW.plus(100_000), 2, "sa-east", advert(&[("us-east", 2)]));
    assert_eq!(tidied(&mut us, NOW.plus(100_000)).0, Some(2), "one that has begun counts");
}

#[test]
fn a_member_that_lags_too_far_is_given_up_on_once_and_counts_again_when_it_has_caught_up() {
    let mut us = us_with_ten_entries();
    us.settings.limits.kept_entries = 5;
    us.handle(NOW, members(&[("eu-west", ACTIVE), ("ap-south", ACTIVE)], &[("ap-south", 2)]));
    connect(&mut us, NOW, 1, "eu-west", advert(&[("us-east", 8)]));
    assert_eq!(tidied(&mut us, NOW), (Some(8), vec![region("ap-south")]));
    us.handle(NOW.plus(90_000), Event::Truncated { log: log_of("us-east"), upto: 8 });
    assert_eq!(tidied(&mut us, NOW.plus(100_000)), (None, vec![]), "people are told once");
    let later = NOW.plus(300_000);
    connect(&mut us, later, 1, "eu-west", advert(&[("us-east", 10)]));
    connect(&mut us, later, 2, "ap-south", advert(&[("us-east", 8)]));
    assert_eq!(tidied(&mut us, later).0, None, "it is waited for again");
}

#[test]
fn what_is_written_while_a_member_that_was_given_up_on_loads_a_snapshot_is_kept_for_it() {
    let mut us = us_with_ten_entries();
    us.settings.limits.kept_entries = 5;
    // Soon enough that nobody has been silent for long when something is dropped next.
    let first = NOW.plus(us.settings.limits.truncate_every_ms);
    us.settings.limits.truncate_every_ms = 100;
    us.handle(NOW, members(&[("eu-west", ACTIVE), ("ap-south", ACTIVE)], &[("ap-south", 2)]));
    connect(&mut us, NOW, 1, "eu-west", advert(&[("us-east", 8)]));
    assert_eq!(tidied(&mut us, first), (Some(8), vec![region("ap-south")]));
    us.handle(first.plus(200), Event::Truncated { log: log_of("us-east"), upto: 8 });
    let mut grows_to = |seq: u8, now: Millis| {
        let head = Head { seq: seq.into(), hash: [seq; 32] };
        us.handle(now, Event::Numbered { log: log_of("us-east"), head });
        connect(&mut us, now, 1, "eu-west", advert(&[("us-east", head.seq)]));
        connect(&mut us, now, 2, "ap-south", advert(&[("us-east", 2)]));
        tidied(&mut us, now).0
    };
    assert_eq!(grows_to(12, first.plus(300)), None);
    assert_eq!(grows_to(20, first.plus(500)), Some(15), "no more of it than for any member that lags");
}

/// eu-west can give snapshots and has dropped the entries we need.
fn stranded() -> Us {
    let mut us = replica_at("us-east", NOW);
    us.handle(NOW, Event::Connected { conn: 1, region: region("eu-west"), dialed: true });
    us.handle(NOW, Event::Received { conn: 1, message: able(hello("eu-west")) });
    us.handle(NOW, Event::Received { conn: 1, message: dropped(5) });
    us
}

fn able(message: Message) -> Message {
    match message {
        Message::Hello(hello) => Message::Hello(Hello { features: features::ALL, ..hello }),
        other => other,
    }
}

fn dropped(truncated: u64) -> Message {
    let state = LogState { head: Head { seq: 9, hash: [9; 32] }, applied: 9, truncated };
    Message::Advert(Advert { logs: [(log_of("eu-west"), state)].into(), leading: true })
}

fn loads(effects: &[Effect]) -> bool {
    effects.contains(&Effect::LoadSnapshot { peer: region("eu-west") })
}

#[test]
fn where_nobody_has_the_next_entry_any_more_one_snapshot_is_loaded_and_the_tail_is_pulled_after_it() {
    let mut us = stranded();
    assert!(!loads(
        &us.handle(NOW.plus(SNAPSHOT_AFTER_MS - PLAN_EVERY_MS), Event::Received { conn: 1, message: dropped(5) })
    ));
    let due = NOW.plus(SNAPSHOT_AFTER_MS);
    let effects = us.handle(due, Event::Received { conn: 1, message: dropped(5) });
    assert!(loads(&effects) && pulls(&effects).is_empty(), "{effects:?}");
    let later = due.plus(2 * SNAPSHOT_AFTER_MS);
    assert!(!loads(&us.handle(later, Event::Received { conn: 1, message: dropped(5) })), "one at a time");

    let loaded = LogState { head: Head { seq: 7, hash: [7; 32] }, applied: 7, truncated: 7 };
    let effects = us.handle(later, Event::SnapshotLoaded { logs: [(log_of("eu-west"), loaded)].into() });
    assert_eq!(pulls(&effects).pop_front().map(|(conn, pull)| (conn, pull.from)), Some((1, 8)));
}

#[test]
fn a_snapshot_that_fails_is_asked_for_again_after_a_while() {
    let mut us = stranded();
    let due = NOW.plus(SNAPSHOT_AFTER_MS);
    assert!(loads(&us.handle(due, Event::Received { conn: 1, message: dropped(5) })));
    us.handle(due, Event::SnapshotFailed);
    assert!(!loads(&us.handle(due.plus(100), Event::Received { conn: 1, message: dropped(5) })));
    let again = due.plus(2 * SNAPSHOT_AFTER_MS);
    assert!(loads(&us.handle(again, Event::Received { conn: 1, message: dropped(5) })));
}

#[test]
fn a_source_that_comes_back_in_time_makes_a_snapshot_needless_and_the_wait_begins_anew() {
    let mut us = stranded();
    let soon = NOW.plus(SNAPSHOT_AFTER_MS - 500);
    let effects = connect(&mut us, soon, 2, "ap-south", advert(&[("eu-west", 9)]));
    assert!(pulls(&effects).iter().any(|(conn, pull)| *conn == 2 && pull.from == 1), "{effects:?}");
    us.handle(soon.plus(100), Event::Disconnected { conn: 2 });
    let due = NOW.plus(SNAPSHOT_AFTER_MS + 100);
    assert!(!loads(&us.handle(due, Event::Received { conn: 1, message: dropped(5) })));
}

#[test]
fn a_source_that_has_no_more_than_we_do_keeps_nobody_from_loading_a_snapshot() {
    let mut us = stranded();
    let effects = connect(&mut us, NOW, 2, "ap-south", advert(&[("eu-west", 9)]));
    assert_eq!(pulls(&effects).len(), 1);
    us.handle(NOW.plus(100), Event::Received { conn: 2, message: advert(&[("eu-west", 0)]) });
    let due = NOW.plus(200 + SNAPSHOT_AFTER_MS);
    assert!(loads(&us.handle(due, Event::Received { conn: 1, message: dropped(5) })));
}

#[test]
fn a_log_that_grew_while_the_snapshot_was_reported_keeps_its_newer_head() {
    let mut us = stranded();
    let head = Head { seq: 12, hash: [12; 32] };
    us.handle(NOW, Event::Numbered { log: log_of("us-east"), head });
    let older = LogState { head: Head { seq: 10, hash: [10; 32] }, applied: 10, truncated: 0 };
    us.handle(NOW, Event::SnapshotLoaded { logs: [(log_of("us-east"), older)].into() });
    assert_eq!(us.vector()[&log_of("us-east")], head);
}
