//! The replication core against a hostile world: everything follows from a printed seed.
//!
//! Three to five regions emit facts while messages are lost, doubled, reordered and cut off one way or both, and while
//! regions crash between any two effects, losing what was not durable, and one loses its disk and gets an old copy back.
//! Lines have a bandwidth, and at first some alter what they carry. Old entries are dropped, whoever needs them then loads a
//! snapshot, and regions compare what they derived. After each step the laws in `world` are checked.
//! Then the world heals, and within thirty simulated seconds every region must have every fact. Each seed runs twice
//! and must leave the same trace.
//!
//! `SEEDS=10000 cargo test -p global-sync --test simulation` runs more; `SEED=42` runs one.

mod simulation {
    pub(crate) mod random;
    pub(crate) mod region;
    pub(crate) mod world;
}

use std::collections::BTreeMap;

use simulation::world::{Bug, Outcome, World};

fn run(seed: u64) -> Outcome {
    let outcome = World::new(seed).run();
    assert!(outcome.failure.is_none(), "seed {seed}: {}", outcome.failure.unwrap_or_default());
    outcome
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn regions_converge_whatever_happens_and_every_seed_replays_exactly() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(200),
    };
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds.clone() {
        let first = run(seed);
        let second = run(seed);
        assert_eq!(first.trace, second.trace, "seed {seed} does not replay");
        for (what, count) in first.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    for (what, count) in &seen {
        println!("{what:>24} {count}");
    }
    if seeds.end - seeds.start >= 20 {
        for what in [
            "hello",
            "advert",
            "pull",
            "credit",
            "batch",
            "ack",
            "store",
            "serve",
            "lost",
            "doubled",
            "crash",
            "crash before durable",
            "crash before report",
            "cut one way",
            "relayed",
            "close",
            "late numbering",
            "slow batch",
            "altered and noticed",
            "disk lost",
            "inspect",
            "digest",
            "check head",
            "answer",
            "compare rows",
            "truncate",
            "give up on",
            "load snapshot",
            "snapshot loaded",
            "snapshot failed",
        ] {
            assert!(seen.contains_key(what), "no seed has shown: {what}");
        }
    }
}

/// A batch that takes longer than a source is given time must not be thrown away when it comes.
#[test]
fn slow_lines_bring_everything_all_the_same() {
    for seed in 0..40 {
        let outcome = World::new(seed).with_slow_lines().run();
        assert!(outcome.failure.is_none(), "seed {seed}: {}", outcome.failure.unwrap_or_default());
        assert!(outcome.seen.contains_key("slow batch"), "seed {seed} had no slow batch");
    }
}

/// A row that is not what was derived is told of by its key, and nothing else is.
#[test]
fn a_tampered_row_is_found_by_its_key_in_every_seed() {
    for seed in 0..40 {
        let outcome = World::new(seed).with_a_tampered_row().run();
        assert!(outcome.failure.is_none(), "seed {seed}: {}", outcome.failure.unwrap_or_default());
        assert!(outcome.seen.contains_key("tampered row found"), "seed {seed}");
    }
}

/// The laws must be able to fail: each mistake planted around the core is found by one of them.
#[test]
fn every_planted_bug_is_caught() {
    for (bug, at_least) in [
        (Bug::DiskForgets, 15),
        (Bug::OutboxDeletedLater, 3),
        (Bug::CursorBeforeRows, 10),
        (Bug::StoredTooEarly, 10),
        (Bug::TruncatesForItself, 5),
        (Bug::TornSnapshot, 3),
        (Bug::DigestOmitsRow, 15),
        (Bug::OldLifeGoesOn, 2),
    ] {
        let found: Vec<_> = (0..20)
            .filter_map(|seed| World::new(seed).with_bug(bug).run().failure.map(|failure| (seed, failure)))
            .collect();
        println!("{bug:?}: {} of 20 seeds, the first {:?}", found.len(), found.first());
        assert!(found.len() >= at_least, "{bug:?}: only {} of 20 seeds noticed", found.len());
    }
}
