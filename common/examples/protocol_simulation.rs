//! Runs random schedules of the commit protocol on demand; see `coffer_common::protocol::simulation`.
//!
//! ```text
//! cargo run --release -p coffer-common --features simulation --example protocol_simulation -- --schedules 1000000 --n 4
//! ```

use std::time::Instant;

use clap::Parser;
use coffer_common::protocol::simulation::{CASES, Scenario, simulate, simulate_broken, trace};

/// Random simulation of Coffer's commit protocol.
#[derive(Parser)]
struct Arguments {
    /// Schedules in all, spread over the scenarios.
    #[arg(long, default_value_t = 100_000)]
    schedules: u64,
    /// Slots of the stripe.
    #[arg(long, default_value_t = 4)]
    n: u8,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only this scenario.
    #[arg(long)]
    scenario: Option<String>,
    /// Schedules for each broken rule; 0 leaves them out.
    #[arg(long, default_value_t = 50_000)]
    broken: u64,
    /// Only this broken rule.
    #[arg(long)]
    case: Option<String>,
    /// Print what happens in the schedule of `--seed`.
    #[arg(long)]
    trace: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let Arguments { n, seed, threads, .. } = arguments;
    let wanted = |name: &str, only: &Option<String>| only.as_ref().is_none_or(|only| only == name);
    let scenarios: Vec<_> =
        Scenario::ALL.iter().filter(|scenario| wanted(scenario.name, &arguments.scenario)).collect();
    let cases: Vec<_> = CASES.iter().filter(|case| wanted(case.name, &arguments.case)).collect();
    if arguments.trace {
        let case = arguments.case.as_ref().and(cases.first().copied());
        let scenario = case.map(|case| case.scenario).or(scenarios.first().map(|scenario| **scenario));
        let held = scenario.is_none_or(|scenario| trace(n, scenario, case, seed));
        return if held { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE };
    }
    let mut failed = false;
    let each = arguments.schedules.div_ceil(scenarios.len().max(1) as u64);
    for scenario in scenarios.iter().filter(|_| arguments.case.is_none()) {
        let begin = Instant::now();
        let report = simulate(n, **scenario, seed..seed + each, threads);
        failed |= report.violations > 0;
        println!("n {n} {:<16} {report} in {:.1} s", scenario.name, begin.elapsed().as_secs_f32());
    }
    for case in cases.iter().filter(|_| arguments.broken > 0) {
        let report = simulate_broken(n, case, seed..seed + arguments.broken, threads, false);
        let verdict = if report.violations > 0 { "caught" } else { "NOT CAUGHT" };
        let first = report.first.map(|(seed, why)| format!("first: seed {seed}, {why}")).unwrap_or_default();
        println!(
            "n {n} broken {:<24} in {:<16} {:>7} of {} {verdict} {first}",
            case.name, case.scenario.name, report.violations, report.schedules
        );
    }
    if failed { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS }
}
