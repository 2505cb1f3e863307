//! The whole cluster in one thread: the real gateway, driver, cluster view, node and drive code over a simulated network,
//! a simulated etcd and simulated drives, with troubles by a seed. A seed replays exactly.
//!
//! ```text
//! cargo test -p coffer-tests --test simulation                                   # some seeds, as CI does
//! SEEDS=0..2000 cargo test --release -p coffer-tests --test simulation -- --ignored --nocapture many
//! SEED=17 cargo test -p coffer-tests --test simulation -- --ignored --nocapture one
//! ```

#![allow(missing_docs, clippy::unwrap_used, reason = "a test, all of it")]
#![allow(clippy::disallowed_methods, reason = "which seeds to run is for whoever starts it to say")]

#[allow(dead_code, reason = "another suite needs the rest")]
#[path = "../object/body.rs"]
mod body;
mod check;
mod client;
mod gateway;
mod history;
mod keeper;
mod network;
mod node;
mod panics;
mod plan;
mod seeds;
mod trace;
mod trouble;
mod upload;
mod world;

use std::ops::Range;

use plan::Plan;

/// Seeds that look for something broken before they give up.
const LIMIT: u64 = 200;
/// Seeds that CI runs.
const CI_SEEDS: u64 = 60;
/// Those in which a drive is replaced; they take longer.
const LOSING_SEEDS: u64 = 8;

#[test]
fn seeds_hold() {
    seeds::run_all(0..CI_SEEDS, Plan::of);
}

#[test]
fn seeds_with_a_replaced_drive_hold() {
    seeds::run_all(0..LOSING_SEEDS, |seed| Plan::of(seed).losing());
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 11, 42] {
        let digests = [(), ()].map(|()| world::run(Plan::of(seed), false).digest);
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}

#[test]
fn what_is_broken_is_noticed() {
    for (broken, from) in seeds::SOON_NOTICED {
        let noticed = seeds::any_notices(*broken, *from..from + LIMIT);
        assert!(noticed, "{broken:?} is not noticed by {LIMIT} seeds from {from}");
    }
}

#[test]
#[ignore = "on demand: SEEDS=from..to, BROKEN=part of a name; prints how many seeds notice each broken variant"]
fn broken_variants() {
    let wanted = std::env::var("BROKEN").unwrap_or_default();
    let broken = seeds::BROKEN.iter().filter(|broken| format!("{broken:?}").contains(&wanted));
    broken.for_each(|broken| seeds::measure(*broken, seeds_to_run()));
}

#[test]
#[ignore = "on demand: SEEDS=from..to, each twice"]
fn all_replay_exactly() {
    for seed in seeds_to_run() {
        let digests = [(), ()].map(|()| world::run(Plan::of(seed), false).digest);
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}

#[test]
#[ignore = "on demand: SEEDS=from..to"]
fn many() {
    seeds::run_all(seeds_to_run(), Plan::of);
}

#[test]
#[ignore = "on demand: SEEDS=from..to, in each of which a drive is replaced"]
fn many_with_a_replaced_drive() {
    seeds::run_all(seeds_to_run(), |seed| Plan::of(seed).losing());
}

fn seeds_to_run() -> Range<u64> {
    let range = std::env::var("SEEDS").expect("SEEDS=from..to");
    let (from, to) = range.split_once("..").expect("SEEDS=from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
#[ignore = "on demand: SEED=number, prints what happens"]
fn one() {
    let seed = std::env::var("SEED").expect("SEED=number").parse().unwrap();
    let plan = Plan::of(seed);
    println!("{plan:#?}");
    let report = world::run(plan, true);
    println!("{report:?}");
    assert!(report.wrong.is_empty(), "seed {seed}:\n{}", report.wrong.join("\n"));
}
