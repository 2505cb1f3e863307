//! Many seeds, spread over threads.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::panics;
use crate::plan::Plan;
use crate::world::{self, Report};

/// Runs one seed; a panic is something wrong, too.
pub(crate) fn run_one(plan: Plan) -> Report {
    catch_unwind(AssertUnwindSafe(|| world::run(plan, false))).unwrap_or_else(|_| Report {
        wrong: panics::take(),
        digest: (0, 0),
        operations: 0,
    })
}

/// Runs all seeds of a range; fails with everything that is wrong.
pub(crate) fn run_all(seeds: Range<u64>) {
    let began = std::time::Instant::now();
    let next = AtomicU64::new(seeds.start);
    let (wrong, sum) = (Mutex::new(Vec::new()), Mutex::new((0_u64, 0_usize)));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run_one(Plan::of(seed));
                    let mut sum = sum.lock();
                    *sum = (sum.0 + report.digest.1, sum.1 + report.operations);
                    if !report.wrong.is_empty() {
                        wrong.lock().push(format!("seed {seed}: {}", report.wrong.join("\n")));
                    }
                }
            });
        }
    });
    let (wrong, (events, operations)) = (wrong.into_inner(), sum.into_inner());
    let count = seeds.end - seeds.start;
    println!("{count} seeds, {operations} operations, {events} events, {:?}", began.elapsed());
    assert!(wrong.is_empty(), "{} of {count} seeds are wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}
