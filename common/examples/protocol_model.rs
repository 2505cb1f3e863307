//! Runs the exhaustive model of the commit protocol on demand; see `coffer_common::protocol::simulation::model`.
//!
//! ```text
//! cargo run --release -p coffer-common --features simulation --example protocol_model -- --setup write-read-crash
//! ```

use std::num::NonZeroUsize;
use std::time::Instant;

use clap::Parser;
use coffer_common::protocol::simulation::model::{SETUPS, Space, State, Step};
use coffer_common::protocol::simulation::{CASES, Case};

#[path = "../src/protocol/simulation/model/checker.rs"]
mod checker;

/// The exhaustive model of Coffer's commit protocol.
#[derive(Parser)]
struct Arguments {
    /// Only this configuration.
    #[arg(long)]
    setup: Option<String>,
    /// With this rule broken.
    #[arg(long)]
    case: Option<String>,
    /// About so many states, those with the fewest steps first; all of them if not given.
    #[arg(long)]
    limit: Option<usize>,
    /// Threads.
    #[arg(long, default_value = "2")]
    threads: NonZeroUsize,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let case: Option<&Case> = arguments.case.as_ref().and_then(|name| CASES.iter().find(|c| c.name == name));
    if arguments.case.is_some() && case.is_none() {
        eprintln!("there is no such broken rule");
        return std::process::ExitCode::FAILURE;
    }
    let mut failed = false;
    for setup in SETUPS.iter().filter(|s| arguments.setup.as_ref().is_none_or(|only| only == s.name)) {
        let begin = Instant::now();
        let searched = checker::search(Space::new(*setup, case), arguments.threads, arguments.limit);
        let checker::Searched { states, depth, breach } = searched;
        let seconds = begin.elapsed().as_secs_f32();
        println!("n {} {:<22} states {states} depth {depth} {seconds:.1} s {breach:?}", setup.n, setup.name);
        failed |= breach.is_some();
    }
    if failed { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS }
}
