//! How long requests took: counted into buckets that grow by a tenth, read out once in a tick, and kept for a while.

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
    pub(super) fn count(&self) -> u64 {
        self.0.iter().copied().map(u64::from).sum()
    }

    #[cfg(test)]
    pub(super) fn of(took_ms: &[f64]) -> Self {
        let mut histogram = Self::default();
        took_ms.iter().for_each(|ms| histogram.0[bucket(Duration::from_secs_f64(ms / 1000.0))] += 1);
        histogram
    }
}

/// For how long requests count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// So many do, however long ago they were.
    pub(super) requests: f64,
    /// Of more than these, what a tick leaves of those before it.
    pub(super) fading: f64,
    /// What a tick leaves of them in any case.
    pub(super) ageing: f64,
}

/// The requests of a while by how long they took: the longer ago they were, the less they count.
#[derive(Clone, Debug)]
pub(super) struct Window {
    counts: [f64; BUCKETS],
    memory: Memory,
}

impl Window {
    pub(super) fn new(memory: Memory) -> Self {
        Self { counts: [0.0; BUCKETS], memory }
    }

    /// Adds the requests of a tick.
    pub(super) fn add(&mut self, tick: &Histogram) {
        let Memory { requests, fading, ageing } = self.memory;
        let before = self.weight();
        let kept = if before > requests { fading.max(requests / before) } else { 1.0 };
        for (own, count) in self.counts.iter_mut().zip(&tick.0) {
            *own = *own * kept.min(ageing) + f64::from(*count);
        }
    }

    /// How many requests it stands for.
    pub(super) fn weight(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// Milliseconds that this share of the requests stayed below; `None` if there were none.
    pub(super) fn below_ms(&self, share: f64) -> Option<f64> {
        let wanted = self.weight() * share;
        let (mut seen, mut below) = (0.0, None);
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let part = ((wanted - seen) / count).min(1.0);
            below = Some(FIRST_US * ((bucket as f64 - 1.0 + part) / PER_DOUBLING).exp2() / 1000.0);
            seen += count;
            if seen >= wanted {
                break;
            }
        }
        below
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

    const ALL: Memory = Memory { requests: f64::MAX, fading: 1.0, ageing: 1.0 };

    fn window(memory: Memory, ticks: &[Histogram]) -> Window {
        let mut window = Window::new(memory);
        ticks.iter().for_each(|tick| window.add(tick));
        window
    }

    #[test]
    fn shares_are_told_to_a_tenth() {
        let meter = Meter::default();
        (1..=100).for_each(|ms| meter.record(Duration::from_millis(ms)));
        let histogram = meter.take();
        let all = window(ALL, std::slice::from_ref(&histogram));
        for (share, ms) in [(0.5, 50.0), (0.9, 90.0), (1.0, 100.0)] {
            let told = all.below_ms(share).unwrap();
            assert!(told >= ms * 0.9 && told <= ms * 1.1, "{share}: {told}");
        }
        assert_eq!((histogram.count(), meter.take().count()), (100, 0));
        assert_eq!(window(ALL, &[]).below_ms(0.5), None);
        let edges = Histogram::of(&[0.0, 0.001, 1e9]);
        assert_eq!((edges.count(), edges.0[0], edges.0[BUCKETS - 1]), (3, 2, 1));
    }

    #[test]
    fn few_requests_count_for_long_and_many_for_some_ticks() {
        let memory = Memory { requests: 40.0, fading: 0.5, ageing: 0.9 };
        let weight = |count: usize, ticks: usize| {
            window(memory, &vec![Histogram::of(&vec![1.0; count]); ticks]).weight()
        };
        // One a tick: as many as ageing leaves.
        assert!((9.9..10.1).contains(&weight(1, 100)));
        // Ten a tick would be a hundred; of what is above forty a half is left.
        assert!((45.0..55.0).contains(&weight(10, 100)));
        // A thousand a tick: those of two ticks.
        assert!((1990.0..2010.0).contains(&weight(1000, 100)));
        // What was long ago is forgotten.
        let mut window = window(memory, &[Histogram::of(&[100.0; 30])]);
        (0..50).for_each(|_| window.add(&Histogram::of(&[1.0; 5])));
        assert!(window.below_ms(0.99).unwrap() < 2.0);
    }
}
