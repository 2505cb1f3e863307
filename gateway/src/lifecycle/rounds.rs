//! When passes begin: pure. At the same moments by all wall clocks, from midnight UTC on: that is when days end and dates come, so
//! that what falls due then is gone over at once.

use std::time::Duration;

use coffer_common::time::UnixMillis;

use super::rules::DAY_MS;

/// From one round to the next: a whole number of them is a day.
const INTERVAL_MS: u64 = 10 * 60 * 1000;
/// Rounds in a day that a test makes shorter.
const ROUNDS_PER_TEST_DAY: u64 = 4;
/// What could not be begun with the round is tried again after this, or after half a round if that is sooner.
const RETRY_MS: u64 = 15_000;

/// The rounds: in each of them every bucket with rules has a pass, unless the one before still goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    interval_ms: u64,
}

impl Rounds {
    /// Of days of this length.
    pub(super) fn new(day_ms: u64) -> Self {
        let interval_ms = if day_ms == DAY_MS { INTERVAL_MS } else { day_ms / ROUNDS_PER_TEST_DAY };
        Self { interval_ms: interval_ms.max(1) }
    }

    /// The number of the round that this time is in.
    pub(super) fn at(self, time: UnixMillis) -> u64 {
        time.0 / self.interval_ms
    }

    /// Until the next round begins; never nothing.
    pub(super) fn until_next(self, now: UnixMillis) -> Duration {
        Duration::from_millis(self.interval_ms - now.0 % self.interval_ms)
    }

    /// Until the next look at what is due.
    pub(super) fn until_look(self, now: UnixMillis) -> Duration {
        self.until_next(now).min(Duration::from_millis(RETRY_MS.min(self.interval_ms.div_ceil(2))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_begins_with_each_day_and_every_ten_minutes() {
        let rounds = Rounds::new(DAY_MS);
        let midnight = 20_000 * DAY_MS;
        assert_ne!(rounds.at(UnixMillis(midnight - 1)), rounds.at(UnixMillis(midnight)));
        assert_eq!(rounds.until_next(UnixMillis(midnight - 1)), Duration::from_millis(1));
        assert_eq!(rounds.until_next(UnixMillis(midnight)), Duration::from_secs(600));
        let within = [0, 599_999].map(|ms| rounds.at(UnixMillis(midnight + ms)));
        assert_eq!(within[0], within[1]);
        assert_eq!(rounds.at(UnixMillis(midnight + 600_000)), within[0] + 1);
    }

    #[test]
    fn a_look_comes_soon_and_not_later_than_the_next_round() {
        let rounds = Rounds::new(DAY_MS);
        assert_eq!(rounds.until_look(UnixMillis(0)), Duration::from_secs(15));
        assert_eq!(rounds.until_look(UnixMillis(599_000)), Duration::from_secs(1));
        let short = Rounds::new(2000);
        assert_eq!(short.until_look(UnixMillis(0)), Duration::from_millis(250));
        assert_eq!(short.until_next(UnixMillis(499)), Duration::from_millis(1));
    }
}
