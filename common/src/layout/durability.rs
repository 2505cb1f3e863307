//! How likely a stripe loses more shards than its parity before they are rebuilt. Pure.
//!
//! The model is the birth-death chain that is usual for this question (Patterson, Gibson, Katz: "A Case for Redundant
//! Arrays of Inexpensive Disks", 1988, carried on to m parity shards): drives fail independently and at a constant rate,
//! each of i lost shards comes back at the rate 1 / repair time, and the stripe is gone when m + 1 shards are lost at once.
//! What fails together (a rack, a batch of drives, a mistaken command) is outside of it: it is an upper bound.

use super::Split;

/// Hours of a year.
pub const HOURS_PER_YEAR: f64 = 8_766.0;

/// What the chain needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DriveReliability {
    /// Part of the drives that fail in a year, 0 to 1.
    pub annual_failure_rate: f64,
    /// From a failure until the drive's shards are whole again, in hours.
    pub repair_hours: f64,
}

impl DriveReliability {
    /// Mean time until a stripe has lost data, in hours; infinite if drives do not fail.
    pub fn mean_hours_to_data_loss(&self, split: Split) -> f64 {
        let failure_rate = self.annual_failure_rate / HOURS_PER_YEAR;
        let n = f64::from(split.k) + f64::from(split.m);
        // The expected time from i to i + 1 lost shards follows from the one before.
        let (mut step, mut total) = (0.0, 0.0);
        for lost in (0..=split.m).map(f64::from) {
            let down = (n - lost) * failure_rate;
            let up = lost / self.repair_hours;
            step = (1.0 + up * step) / down;
            total += step;
        }
        total
    }

    /// The probability that a given object is lost within a year.
    pub fn annual_loss(&self, split: Split) -> f64 {
        let years = self.mean_hours_to_data_loss(split) / HOURS_PER_YEAR;
        -(-1.0 / years).exp_m1()
    }
}

/// A probability of loss as people say it: 1e-11 is 11 nines.
pub fn nines(loss: f64) -> f64 {
    -loss.log10()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn drives(annual_failure_rate: f64, repair_hours: f64) -> DriveReliability {
        DriveReliability { annual_failure_rate, repair_hours }
    }

    #[test]
    fn one_parity_is_the_textbooks_mirrored_pair_and_raid_5() {
        let (rate, repair) = (0.02 / HOURS_PER_YEAR, 1.0 / 24.0);
        for k in [1, 3, 7] {
            let n = f64::from(k + 1);
            let textbook = ((2.0 * n - 1.0) * rate + repair) / (n * (n - 1.0) * rate * rate);
            let found = drives(0.02, 24.0).mean_hours_to_data_loss(Split { k, m: 1 });
            assert!((found / textbook - 1.0).abs() < 1e-9, "{found} {textbook}");
        }
    }

    #[test]
    fn without_parity_the_first_failure_is_the_loss() {
        let found = drives(0.5, 1.0).mean_hours_to_data_loss(Split { k: 2, m: 0 });
        assert!((found - HOURS_PER_YEAR).abs() < 1e-6, "{found}");
    }

    #[test]
    fn more_parity_faster_repair_and_better_drives_are_safer() {
        let base = drives(0.02, 24.0).annual_loss(Split { k: 4, m: 2 });
        assert!(drives(0.02, 24.0).annual_loss(Split { k: 4, m: 3 }) < base / 100.0);
        assert!(drives(0.02, 12.0).annual_loss(Split { k: 4, m: 2 }) < base);
        assert!(drives(0.01, 24.0).annual_loss(Split { k: 4, m: 2 }) < base);
        assert!(nines(base) > 6.0, "{base}");
    }

    /// Plays drives that fail and come back, so often that a few thousand runs suffice.
    #[test]
    fn the_chain_agrees_with_playing_it() {
        let (split, reliability) = (Split { k: 2, m: 2 }, drives(40.0, 100.0));
        let mut random = StdRng::seed_from_u64(7);
        let mut exponential = |rate: f64| -f64::ln(1.0 - random.random::<f64>()) / rate;
        let rate = reliability.annual_failure_rate / HOURS_PER_YEAR;
        const RUNS: usize = 20_000;
        let mut sum = 0.0;
        for _ in 0..RUNS {
            let (mut now, mut changes, mut up) = (0.0, [0.0; 4].map(|_: f64| exponential(rate)), [true; 4]);
            while up.iter().filter(|up| !**up).count() <= usize::from(split.m) {
                let next = (0..4).min_by(|a, b| changes[*a].total_cmp(&changes[*b])).unwrap();
                now = changes[next];
                up[next] = !up[next];
                let wait = if up[next] { rate } else { 1.0 / reliability.repair_hours };
                changes[next] = now + exponential(wait);
            }
            sum += now;
        }
        let (played, expected) = (sum / RUNS as f64, reliability.mean_hours_to_data_loss(split));
        assert!((played / expected - 1.0).abs() < 0.03, "{played} {expected}");
    }
}
