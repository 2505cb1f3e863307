//! How long requests took: counted into buckets that grow by a tenth, and read out once in a tick.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Buckets to a doubling.
const PER_DOUBLING: f64 = 8.0;
/// What the first bucket ends at, in microseconds.
const FIRST_US: f64 = 32.0;
/// The last one begins at about eight seconds.
const BUCKETS: usize = 145;

/// Counts of requests by how long they took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Histogram([u32; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    pub(super) fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own = own.saturating_add(*other);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().copied().map(u64::from).sum()
    }

    /// Milliseconds that this share of the requests stayed below, rounded up by a tenth at most; `None` if there were none.
    pub(super) fn below_ms(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Some(FIRST_US * (bucket as f64 / PER_DOUBLING).exp2() / 1000.0);
            }
        }
        None
    }

    #[cfg(test)]
    pub(super) fn of(took_ms: &[f64]) -> Self {
        let mut histogram = Self::default();
        took_ms.iter().for_each(|ms| histogram.0[bucket(Duration::from_secs_f64(ms / 1000.0))] += 1);
        histogram
    }
}

fn bucket(took: Duration) -> usize {
    let doublings = (took.as_secs_f64() * 1e6 / FIRST_US).log2();
    ((doublings * PER_DOUBLING).ceil().max(0.0) as usize).min(BUCKETS - 1)
}

/// Counts requests as they end.
#[derive(Debug)]
pub(super) struct Meter([AtomicU32; BUCKETS]);

impl Default for Meter {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl Meter {
    pub(super) fn record(&self, took: Duration) {
        self.0[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the last call.
    pub(super) fn take(&self) -> Histogram {
        let mut histogram = Histogram::default();
        for (own, count) in histogram.0.iter_mut().zip(&self.0) {
            *own = count.swap(0, Ordering::Relaxed);
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_to_a_tenth() {
        let meter = Meter::default();
        (1..=100).for_each(|ms| meter.record(Duration::from_millis(ms)));
        let histogram = meter.take();
        for (share, ms) in [(0.5, 50.0), (0.9, 90.0), (1.0, 100.0)] {
            let told = histogram.below_ms(share).unwrap();
            assert!(told >= ms * 0.99 && told <= ms * 1.1, "{share}: {told}");
        }
        assert_eq!((histogram.count(), meter.take().below_ms(0.5)), (100, None));
        let edges = Histogram::of(&[0.0, 0.001, 1e9]);
        assert_eq!((edges.count(), edges.0[0], edges.0[BUCKETS - 1]), (3, 2, 1));
    }
}
