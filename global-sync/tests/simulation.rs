//! The replication core against a hostile world: everything follows from a printed seed.
//!
//! Three to five regions emit facts while messages are lost, doubled, reordered and cut off one way or both, and while
//! regions crash between any two effects, losing what was not durable, and one loses its disk and gets an old copy back.
//! Lines have a bandwidth, and at first some alter what they carry. After each step the laws in `world` are checked.
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

use simulation::world::{Outcome, World};

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

/// The oracles must be able to fail: a world whose disks forget durable entries is found out.
#[test]
fn a_disk_that_forgets_is_caught() {
    let caught = (0..20).filter(|seed| World::new(*seed).with_forgetful_disks().run().failure.is_some()).count();
    assert!(caught >= 15, "only {caught} of 20 seeds noticed");
}
