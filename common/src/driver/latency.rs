//! An estimate of the 95th percentile of a latency.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The estimate never goes beyond.
const CEILING: Duration = Duration::from_secs(1);
/// The first estimate.
const FIRST: Duration = Duration::from_millis(50);

/// Moves up by 19 steps for a sample above it and down by one for a sample below: at rest where 5 % lie above.
pub struct Latency {
    estimate_us: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { estimate_us: AtomicU64::new(FIRST.as_micros() as u64) }
    }
}

impl Latency {
    /// Takes a sample.
    pub fn record(&self, sample: Duration) {
        let sample = sample.as_micros() as u64;
        let estimate = self.estimate_us.load(Ordering::Relaxed);
        let step = (estimate / 500).max(1);
        let moved = if sample > estimate { estimate + 19 * step } else { estimate - step.min(estimate) };
        let moved = moved.min(CEILING.as_micros() as u64);
        // A lost update moves the estimate a little later; it is an estimate.
        self.estimate_us.store(moved, Ordering::Relaxed);
    }

    /// The estimate.
    pub fn percentile(&self) -> Duration {
        Duration::from_micros(self.estimate_us.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_comes_to_rest_near_the_95th_percentile() {
        let latency = Latency::default();
        for i in 0..200_000_u64 {
            latency.record(Duration::from_micros(1_000 * (i * 7919 % 100)));
        }
        let estimate = latency.percentile().as_millis();
        assert!((85..=99).contains(&estimate), "{estimate}");
    }
}
