//! Random schedules of the commit protocol: the real register rules and the real client machines, one key, checked for
//! linearizability; and the same with a rule broken on purpose, to show that it would be noticed.
//!
//! Only tests and the feature `simulation` have it. A schedule is its seed, the stripe width and the [`Scenario`]:
//! deterministic, replayed by [`trace`]. On demand:
//!
//! ```text
//! cargo run --release -p coffer-common --features simulation --example protocol_simulation -- --schedules 1000000 --n 4
//! ```

mod barrier;
mod broken;
mod bucket;
mod client;
mod faults;
pub mod model;
mod random;
mod report;
mod scenario;
mod schedule;
mod start;
mod world;

pub use broken::{CASES, Case};
pub use report::Report;
pub use scenario::{Scenario, Start};

use schedule::Setting;

/// Runs the schedules of these seeds on a stripe of `n` slots, rules kept.
pub fn simulate(n: u8, scenario: Scenario, seeds: std::ops::Range<u64>, threads: u64) -> Report {
    let setting = Setting { n, scenario, broken: None, trace: false };
    report::run_many(setting, seeds, threads, false)
}

/// Runs the schedules of these seeds with a rule broken; `stops` at the first that shows it.
pub fn simulate_broken(n: u8, case: &Case, seeds: std::ops::Range<u64>, threads: u64, stops: bool) -> Report {
    let setting = Setting { n, scenario: case.scenario, broken: Some(case.broken), trace: false };
    report::run_many(setting, seeds, threads, stops)
}

/// Replays one schedule and prints what happens in it. Says whether all held.
pub fn trace(n: u8, scenario: Scenario, case: Option<&Case>, seed: u64) -> bool {
    let setting = Setting { n, scenario, broken: case.map(|case| case.broken), trace: true };
    schedule::run(seed, setting, &mut Report::default())
}

#[cfg(test)]
mod tests;
