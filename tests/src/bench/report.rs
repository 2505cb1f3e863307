//! The figures of a run, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use super::plan::Op;
use super::run::{Outcome, Tally};

/// Of all errors, so many different ones are shown to people.
const ERRORS_SHOWN: usize = 5;

/// The figures of one kind of request, or of all together.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Line {
    /// `put`, …, or `total`.
    pub op: &'static str,
    /// Successful requests.
    pub requests: u64,
    /// Failed ones.
    pub errors: u64,
    /// Successful ones a second.
    pub ops_per_second: f64,
    /// Object bytes a second.
    pub bytes_per_second: f64,
    /// Objects listed a second; 0 where nothing is listed.
    pub keys_per_second: f64,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 90 % are not slower, in milliseconds.
    pub p90_ms: f64,
    /// 99 % are not slower, in milliseconds.
    pub p99_ms: f64,
    /// The slowest, in milliseconds.
    pub max_ms: f64,
}

/// All figures of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Where it ran, and what it did.
    pub settings: BTreeMap<&'static str, String>,
    /// The counted time in seconds.
    pub seconds: f64,
    /// CPU seconds of the load generator itself in that time.
    pub client_cpu_seconds: f64,
    /// One line for each kind that occurred, and `total` if there are several.
    pub lines: Vec<Line>,
    /// How often each error occurred.
    pub errors: BTreeMap<String, u64>,
}

impl Report {
    /// Works out the figures.
    pub fn new(settings: BTreeMap<&'static str, String>, outcome: &Outcome) -> Self {
        let seconds = outcome.elapsed.as_secs_f64();
        let mut lines = Vec::new();
        let mut total = Tally::default();
        for (op, tally) in Op::ALL.into_iter().zip(&outcome.tallies) {
            if tally.latency.count() + tally.errors == 0 {
                continue;
            }
            lines.push(line(op.name(), tally, seconds));
            total.latency.merge(&tally.latency);
            total.bytes += tally.bytes;
            total.keys += tally.keys;
            total.errors += tally.errors;
        }
        if lines.len() != 1 {
            lines.push(line("total", &total, seconds));
        }
        let client_cpu_seconds = outcome.client_cpu.as_secs_f64();
        Self { settings, seconds, client_cpu_seconds, lines, errors: outcome.errors.clone() }
    }

    /// Whether nothing failed and something succeeded.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.lines.iter().all(|line| line.requests > 0)
    }
}

fn line(op: &'static str, tally: &Tally, seconds: f64) -> Line {
    let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let ms = |us: u64| us as f64 / 1000.0;
    Line {
        op,
        requests: tally.latency.count(),
        errors: tally.errors,
        ops_per_second: rate(tally.latency.count()),
        bytes_per_second: rate(tally.bytes),
        keys_per_second: rate(tally.keys),
        p50_ms: ms(tally.latency.quantile_us(0.50)),
        p90_ms: ms(tally.latency.quantile_us(0.90)),
        p99_ms: ms(tally.latency.quantile_us(0.99)),
        max_ms: ms(tally.latency.max_us()),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<String> =
            self.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(f, "{}", settings.join(", "))?;
        writeln!(
            f,
            "{:<7} {:>10} {:>8} {:>10} {:>11} {:>10} {:>9} {:>9} {:>9} {:>9}",
            "op", "requests", "errors", "ops/s", "MB/s", "keys/s", "p50 ms", "p90 ms", "p99 ms", "max ms"
        )?;
        for line in &self.lines {
            writeln!(
                f,
                "{:<7} {:>10} {:>8} {:>10.1} {:>11.1} {:>10.0} {:>9.2} {:>9.2} {:>9.2} {:>9.2}",
                line.op,
                line.requests,
                line.errors,
                line.ops_per_second,
                line.bytes_per_second / 1e6,
                line.keys_per_second,
                line.p50_ms,
                line.p90_ms,
                line.p99_ms,
                line.max_ms
            )?;
        }
        writeln!(f, "{:.1} s counted, {:.1} CPU-s in this client", self.seconds, self.client_cpu_seconds)?;
        let mut errors: Vec<_> = self.errors.iter().collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (error, count) in errors.iter().take(ERRORS_SHOWN) {
            writeln!(f, "{count} x {error}")?;
        }
        if errors.len() > ERRORS_SHOWN {
            writeln!(f, "and {} other errors", errors.len() - ERRORS_SHOWN)?;
        }
        Ok(())
    }
}
