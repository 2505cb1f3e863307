//! How long rounds take until all slots have answered, and with it how long one waits for those that lag.
//!
//! A round that has enough answers waits for the rest until it is as old as 95 of 100 rounds of its kind were in the end, and at
//! most [`COMMIT_LINGER`] more; a round that needs the answers of all whom it has asked asks others then. So a slot that is
//! slow for a moment costs a request what is usual, not the limit, and no more than one request in twenty goes on without it.

use std::time::Duration;

use tokio::time::Instant;

use super::latency::Latency;
use crate::limits::COMMIT_LINGER;
use crate::protocol::action::RoundNumber;

/// What is waited at least for the rest of a round that has enough.
const LEAST: Duration = Duration::from_millis(2);
/// What is waited at least before others are asked.
const LEAST_HEDGE: Duration = Duration::from_millis(5);

/// What a round asks of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoundKind {
    /// To tell what they have.
    Query,
    /// The same, with the shard itself.
    Fetch,
    /// To keep a shard that came with the request.
    Prepare,
    /// To keep what a client sends meanwhile, which takes as long as the client does, or nothing.
    Receive,
    /// To change a register.
    Change,
}

/// What was seen of all rounds.
#[derive(Default)]
pub(super) struct Patience {
    queries: Latency,
    fetches: Latency,
    prepares: Latency,
    changes: Latency,
}

/// A round as it goes.
pub(super) struct RoundWatch {
    pub(super) number: RoundNumber,
    kind: RoundKind,
    began: Instant,
    asked: usize,
    answered: usize,
}

impl Patience {
    fn of(&self, kind: RoundKind) -> Option<&Latency> {
        match kind {
            RoundKind::Query => Some(&self.queries),
            RoundKind::Fetch => Some(&self.fetches),
            RoundKind::Prepare => Some(&self.prepares),
            RoundKind::Change => Some(&self.changes),
            RoundKind::Receive => None,
        }
    }

    /// How much longer a round waits for the slots that have not answered.
    pub(super) fn left(&self, round: &RoundWatch) -> Duration {
        let Some(usual) = self.of(round.kind) else { return COMMIT_LINGER };
        let least = match round.kind {
            RoundKind::Query | RoundKind::Fetch => LEAST_HEDGE,
            RoundKind::Prepare | RoundKind::Receive | RoundKind::Change => LEAST,
        };
        usual.percentile().saturating_sub(round.began.elapsed()).clamp(least, COMMIT_LINGER)
    }
}

impl RoundWatch {
    pub(super) fn begin(number: RoundNumber, kind: RoundKind) -> Self {
        Self { number, kind, began: Instant::now(), asked: 0, answered: 0 }
    }

    pub(super) fn ask(&mut self, slots: usize) {
        self.asked += slots;
    }

    /// Notes an answer; the last one tells how long the round took.
    pub(super) fn answer(&mut self, patience: &Patience) {
        self.answered += 1;
        if self.answered == self.asked
            && let Some(latency) = patience.of(self.kind)
        {
            latency.record(self.began.elapsed());
        }
    }

    /// Notes that nobody waits for the answers that are missing: it would have taken longer than this.
    pub(super) fn end(self, patience: &Patience) {
        let took = self.began.elapsed();
        if self.answered < self.asked
            && let Some(latency) = patience.of(self.kind)
            && took > latency.percentile()
        {
            latency.record(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: usize = 12;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A round of which all slots but one answer after `most`, and that one after `last`; how long it is waited for.
    async fn round(patience: &Patience, most: Duration, last: Duration) -> Duration {
        let mut round = RoundWatch::begin(1, RoundKind::Change);
        round.ask(SLOTS);
        tokio::time::sleep(most).await;
        (1..SLOTS).for_each(|_| round.answer(patience));
        let left = patience.left(&round);
        tokio::time::sleep((last - most).min(left)).await;
        if last - most <= left {
            round.answer(patience);
        }
        round.end(patience);
        (last - most).min(left)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_waited_for_as_long_as_is_usual() {
        let patience = Patience::default();
        assert_eq!(round(&patience, ms(2), ms(1_000)).await, COMMIT_LINGER, "nothing is known yet");
        for _ in 0..3_000 {
            round(&patience, ms(2), ms(4)).await;
        }
        assert_eq!(round(&patience, ms(2), ms(4)).await, ms(2));
        assert!(round(&patience, ms(2), ms(1_000)).await < ms(4));
        let mut cut = 0;
        for number in 0..5_000 {
            let last = if number % 10 == 0 { 20 } else { 4 };
            cut += usize::from(round(&patience, ms(2), ms(last)).await < ms(last) - ms(2));
        }
        assert!(cut < 400, "{cut} rounds of 5000 have gone on without the slow slot");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_or_is_always_slow_is_waited_for_as_long_as_the_limit_says() {
        let patience = Patience::default();
        for _ in 0..3_000 {
            round(&patience, ms(2), ms(4)).await;
        }
        for _ in 0..200 {
            round(&patience, ms(2), Duration::from_secs(60)).await;
        }
        let waited = round(&patience, ms(2), Duration::from_secs(60)).await;
        assert!(waited > ms(20) && waited <= COMMIT_LINGER, "{waited:?}");
        for _ in 0..3_000 {
            round(&patience, ms(90), ms(100)).await;
        }
        assert_eq!(round(&patience, ms(90), ms(100)).await, ms(10), "slow drives are not gone on without");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_sends_is_not_measured() {
        let patience = Patience::default();
        let mut round = RoundWatch::begin(1, RoundKind::Receive);
        round.ask(1);
        tokio::time::sleep(Duration::from_secs(9)).await;
        round.answer(&patience);
        assert_eq!(patience.left(&round), COMMIT_LINGER);
    }
}
