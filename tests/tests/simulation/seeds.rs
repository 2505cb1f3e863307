//! Many seeds, spread over threads.

use std::ops::ControlFlow;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use coffer_common::protocol::flaw::Flaw;
use parking_lot::Mutex;

use crate::panics;
use crate::plan::{Broken, Plan};
use crate::world::{self, Report};

/// Runs one seed; a panic is something wrong, too.
pub(crate) fn run_one(plan: Plan) -> Report {
    catch_unwind(AssertUnwindSafe(|| world::run(plan, false))).unwrap_or_else(|_| Report {
        wrong: panics::take(),
        digest: (0, 0),
        operations: 0,
    })
}

/// Everything that is broken on purpose.
pub(crate) const BROKEN: &[Broken] = &[
    Broken::Rule(Flaw::NoWriteBack),
    Broken::Rule(Flaw::ReadsOnTooFew),
    Broken::Rule(Flaw::DecidesOnTooFew),
    Broken::Rule(Flaw::WritesOnTooFew),
    Broken::Rule(Flaw::StableTooEarly),
    Broken::Rule(Flaw::TagsOnTooFew),
    Broken::Rule(Flaw::FencesOnTooFew),
    Broken::Rule(Flaw::Retags),
    Broken::Rule(Flaw::NoRestamp),
    Broken::LyingSyncs,
    Broken::UnkeptFences,
    Broken::AllStable,
    Broken::VotesEmpty,
    Broken::NoCatchUp,
];

/// Of these, what is noticed soon, with a seed to begin with that does notice it as the code is now.
pub(crate) const SOON_NOTICED: &[(Broken, u64)] = &[
    (Broken::NoCatchUp, 0),
    (Broken::LyingSyncs, 6),
    (Broken::Rule(Flaw::ReadsOnTooFew), 16),
    (Broken::Rule(Flaw::NoWriteBack), 38),
];

/// Does something with each seed, on all cores, until it says stop.
fn each(seeds: Range<u64>, work: impl Fn(u64) -> ControlFlow<()> + Sync) {
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if work(seed).is_break() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Runs all seeds of a range; fails with everything that is wrong.
pub(crate) fn run_all(seeds: Range<u64>, plan: impl Fn(u64) -> Plan + Sync) {
    let began = Instant::now();
    let (wrong, sum) = (Mutex::new(Vec::new()), Mutex::new((0_u64, 0_usize)));
    each(seeds.clone(), |seed| {
        let report = run_one(plan(seed));
        let mut sum = sum.lock();
        *sum = (sum.0 + report.digest.1, sum.1 + report.operations);
        if !report.wrong.is_empty() {
            wrong.lock().push(format!("seed {seed}: {}", report.wrong.join("\n")));
        }
        ControlFlow::Continue(())
    });
    let (wrong, (events, operations)) = (wrong.into_inner(), sum.into_inner());
    let count = seeds.end - seeds.start;
    println!("{count} seeds, {operations} operations, {events} events, {:?}", began.elapsed());
    assert!(wrong.is_empty(), "{} of {count} seeds are wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// What a broken variant is noticed by, if a seed notices it.
fn notices(seed: u64, broken: Broken) -> Option<String> {
    let wrong = run_one(Plan::of(seed).with(broken)).wrong;
    Some(wrong.first()?.lines().next().unwrap_or_default().to_owned())
}

/// Prints how many seeds notice a broken variant.
pub(crate) fn measure(broken: Broken, seeds: Range<u64>) {
    let noticed = Mutex::new(Vec::new());
    each(seeds.clone(), |seed| {
        noticed.lock().extend(notices(seed, broken).map(|what| (seed, what)));
        ControlFlow::Continue(())
    });
    let mut noticed = noticed.into_inner();
    noticed.sort();
    let count = seeds.end - seeds.start;
    println!("{broken:?}: {} of {count}: {noticed:?}", noticed.len());
}

/// Whether any of these seeds notices a broken variant.
pub(crate) fn any_notices(broken: Broken, seeds: Range<u64>) -> bool {
    let noticed = AtomicBool::new(false);
    each(seeds, |seed| match notices(seed, broken) {
        Some(_) => {
            noticed.store(true, Ordering::Relaxed);
            ControlFlow::Break(())
        }
        None => ControlFlow::Continue(()),
    });
    noticed.into_inner()
}
