//! What is measured of times and of the server's process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coffer_tests::harness::process::Process;

/// What one part of a run may be slower than another without anything growing: this machine has other things to do.
const FACTOR: u32 = 2;
const SLACK: Duration = Duration::from_millis(5);

/// How long each of many requests took, in the order of what they asked for.
#[derive(Default)]
pub(crate) struct Times(pub(crate) Vec<Vec<Duration>>);

/// The shortest time, median and 99th percentile.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    /// What it takes when nothing comes in between: this is what must not grow.
    pub(crate) least: Duration,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
}

impl std::fmt::Display for Spread {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:.2}/{:.2}/{:.2} ms", ms(self.least), ms(self.median), ms(self.p99))
    }
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn spread(times: impl IntoIterator<Item = Duration>) -> Spread {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    assert!(!times.is_empty(), "nothing was measured");
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Spread { least: times[0], median: at(50), p99: at(99) }
}

impl Times {
    /// The spread of the twentieth that begins here, of all runs together; at least one request of each.
    fn part(&self, begin: impl Fn(usize, usize) -> usize) -> Spread {
        spread(self.0.iter().flat_map(|run| {
            let width = (run.len() / 20).max(1);
            let begin = begin(run.len(), width);
            run[begin..begin + width].iter().copied()
        }))
    }

    /// Prints least, median and p99 at the beginning, in the middle and at the end, and the longest of all.
    ///
    /// # Panics
    /// If the end is slower than the beginning.
    pub(crate) fn report(&self, what: &str) -> Spread {
        let first = self.part(|_, _| 0);
        let middle = self.part(|len, width| (len - width) / 2);
        let last = self.part(|len, width| len - width);
        let longest = self.0.iter().flatten().max().copied().unwrap_or_default();
        println!("  {what}: first {first}, middle {middle}, last {last}, longest {:.1} ms", ms(longest));
        assert_flat(what, first, last);
        first
    }
}

/// # Panics
/// If what should cost the same has become slower.
pub(crate) fn assert_flat(what: &str, before: Spread, after: Spread) {
    assert!(after.least <= before.least * FACTOR + SLACK, "{what}: {before} has become {after}");
}

/// Resident memory of the server in MiB: now, and at most since it was started.
pub(crate) fn memory(process: &Process) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

pub(crate) fn print_memory(process: &Process, when: &str) -> Result<u64> {
    let (now, most) = memory(process)?;
    println!("  memory {when}: {now} MiB, at most {most} MiB");
    Ok(now)
}

/// Clock ticks that the process has used.
fn ticks(process: &Process) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let fields: Vec<_> = stat.rsplit(')').next().context("no stat")?.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// Waits until the server has nothing left to do of what was asked before: less than a tenth of a core for three seconds.
pub(crate) async fn idle(process: &Process) -> Result<()> {
    let (began, mut quiet, mut before) = (Instant::now(), 0, ticks(process)?);
    while quiet < 3 && began.elapsed() < Duration::from_secs(300) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = ticks(process)?;
        quiet = if now - before < 10 { quiet + 1 } else { 0 };
        before = now;
    }
    Ok(())
}
