//! What many schedules have come to, and how to run many.

use std::collections::BTreeMap;
use std::fmt;

use super::client::Ended;
use super::schedule::{Setting, run};
use crate::linearizability::{Call, Return};

/// Figures of many schedules.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Schedules run.
    pub schedules: u64,
    /// Schedules in which something did not hold.
    pub violations: u64,
    /// The lowest such seed, and what did not hold.
    pub first: Option<(u64, &'static str)>,
    /// Tombstones dropped, slot by slot.
    pub drops: u64,
    /// Orphaned shards purged, slot by slot.
    pub sweeps: u64,
    /// Slots that rejoined or moved.
    pub joins: u64,
    /// Schedules that ended with everything STABLE everywhere.
    pub at_rest: u64,
    outcomes: BTreeMap<&'static str, u64>,
}

impl Report {
    pub(super) fn violation(&mut self, seed: u64, why: &'static str) {
        self.violations += 1;
        if self.first.is_none_or(|(first, _)| seed < first) {
            self.first = Some((seed, why));
        }
    }

    pub(super) fn count(&mut self, call: Call, ended: Option<Ended>) {
        let name = match (call, ended) {
            (_, None) => "dead",
            (Call::Read, Some(Ended::Returned(_))) => "read",
            (Call::Read, Some(Ended::NoEffect)) => "read-503",
            (_, Some(Ended::NoEffect)) => "no-effect",
            (_, Some(Ended::Returned(Return::Rejected))) => "rejected",
            (_, Some(Ended::Returned(Return::Unknown))) => "unknown",
            (_, Some(Ended::Returned(Return::Ok | Return::Value(_)))) => "committed",
        };
        *self.outcomes.entry(name).or_default() += 1;
    }

    /// How often operations ended like this: `committed`, `rejected`, `read`, `read-503`, `no-effect`, `unknown`, `dead`.
    pub fn outcomes(&self, name: &str) -> u64 {
        self.outcomes.get(name).copied().unwrap_or(0)
    }

    fn add(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.violations += other.violations;
        self.first = self.first.into_iter().chain(other.first).min();
        self.drops += other.drops;
        self.sweeps += other.sweeps;
        self.joins += other.joins;
        self.at_rest += other.at_rest;
        for (name, count) in other.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schedules {} violations {}", self.schedules, self.violations)?;
        if let Some((seed, why)) = self.first {
            write!(f, " (first: seed {seed}, {why})")?;
        }
        let Self { drops, sweeps, joins, at_rest, .. } = self;
        write!(f, " drops {drops} sweeps {sweeps} joins {joins} at-rest {at_rest}")?;
        for (name, count) in &self.outcomes {
            write!(f, " {name} {count}")?;
        }
        Ok(())
    }
}

/// Runs these seeds on this many threads; stops early after the first violation if `stops`.
pub(super) fn run_many(setting: Setting, seeds: std::ops::Range<u64>, threads: u64, stops: bool) -> Report {
    let part = |thread: u64| {
        let mut report = Report::default();
        for seed in seeds.clone().skip(thread as usize).step_by(threads.max(1) as usize) {
            if !run(seed, setting, &mut report) && stops {
                break;
            }
        }
        report
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|thread| scope.spawn(move || part(thread))).collect();
        let mut total = Report::default();
        for worker in workers {
            match worker.join() {
                Ok(report) => total.add(report),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        total
    })
}
