//! How long a lost node is left alone: doubling pauses with jitter, so that callers do not return in step.

use std::time::Duration;

use super::settings::BACKOFF;

/// The pause after this many failures in a row (1 or more): half of it fixed, half random.
pub(super) fn pause(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let full = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    full.mul_f64(0.5 + crate::random::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_stay_there() {
        for failures in 1..40 {
            let pause = pause(failures);
            assert!(pause >= BACKOFF.0 / 2 && pause <= BACKOFF.1, "{failures}: {pause:?}");
        }
        assert!(pause(30) >= BACKOFF.1 / 2);
    }
}
