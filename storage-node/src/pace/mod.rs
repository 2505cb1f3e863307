//! How background work gives way to requests.
//!
//! Owns: the turns that catch-up, joining, moves and scrub take step by step on a node, and how many there are at a time.
//! Never knows what a step does, never refuses one, never keeps one waiting for ever.
//!
//! ```text
//! requests ──how long they took──► meters ──every tick──► control ──limit──► turns ◄── heal, join, moves, scrub
//! ```
//!
//! 1. The node notes how long its requests take: those that write, those that read, those that list; and how long the other
//!    nodes take for what catch-up and joining slots ask them, because that is at their cost.
//! 2. `control` compares that with health and sets the limit; `--background-slowdown` says how much slower is too slow.
//! 3. A step waits for its turn. Where one at a time is too much there is a pause after each, in proportion to what it took.
//!    What is soon over (`Urgency::Brisk`) makes none, and of what others wait for (a slot on its way to its vote) there are
//!    always some at a time; only while health is measured they give way, too.
//!
//! One for all drives of a node: they share processors, network and the requests of the gateways.
//! **Cancellation.** A turn that is dropped is over, and one that is waited for leaves nothing behind.

mod control;
mod meter;

use std::sync::Arc;
use std::time::Duration;

use coffer_common::shutdown::Shutdown;
use coffer_common::time::UnixMillis;
use metrics::gauge;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::control::{Controller, PROBE_LIMIT, SIGNALS, TICK_MS, Tick};
use self::meter::Meter;
use crate::node::StorageNode;

/// Steps at a time for each drive, at most.
const MOST_PER_DRIVE: usize = 16;
/// Steps at a time while nobody controls them.
const UNCONTROLLED: f64 = 8.0;
/// Steps at a time of what others wait for, at least.
const MOST_PROMPT: usize = 4;
/// Longest pause after a step.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How many times as long requests may take while background work runs; nothing: no matter how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slowdown(Option<f64>);

impl std::str::FromStr for Slowdown {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no slowdown: write a number from 1.1 to 10, such as `1.5`, or `off`");
        if text == "off" {
            return Ok(Self(None));
        }
        let factor: f64 = text.parse().map_err(|_| wrong())?;
        if (1.1..=10.0).contains(&factor) { Ok(Self(Some(factor))) } else { Err(wrong()) }
    }
}

/// What took its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request that reads.
    Read,
    /// A request that makes something durable.
    Write,
    /// A page of a listing.
    List,
    /// An answer of other nodes about one register.
    Answer,
    /// A page of what a voter hands over.
    Page,
}

/// How long a step may be kept waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// As long as need be: there may be hours of it.
    Patient,
    /// Not between two steps: all of it is a matter of seconds, and ends a danger.
    Brisk,
    /// Others wait for it.
    Prompt,
}

#[derive(Debug)]
struct State {
    limit: f64,
    running: usize,
    /// The pause after the last step ends.
    rested: Instant,
    /// Whether a turn was taken since the last tick.
    worked: bool,
}

#[derive(Debug)]
struct Shared {
    meters: [Meter; SIGNALS],
    state: Mutex<State>,
    wake: Notify,
}

/// The turns of a node; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Pace(Arc<Shared>);

impl Default for Pace {
    fn default() -> Self {
        let state = State { limit: UNCONTROLLED, running: 0, rested: Instant::now(), worked: false };
        Self(Arc::new(Shared { meters: Default::default(), state: Mutex::new(state), wake: Notify::new() }))
    }
}

/// Controls the pace of the node's background work until the shutdown.
pub fn start(node: &StorageNode, slowdown: Slowdown, shutdown: &Shutdown) {
    let (pace, name) = (node.pace().clone(), node.id().0.clone());
    let controller = Controller::new(slowdown.0, (MOST_PER_DRIVE * node.drives().count()) as f64);
    shutdown.spawn_until_told(async move { pace.control(controller, name).await });
}

impl Pace {
    async fn control(&self, mut controller: Controller, node: String) {
        let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let took = std::array::from_fn(|signal| self.0.meters[signal].take());
            let worked = {
                let mut state = self.0.state.lock();
                let running = state.running > 0;
                std::mem::take(&mut state.worked) || running
            };
            let limit = controller.step(&Tick { now_ms: UnixMillis::now().0, worked, took });
            gauge!("coffer_background_limit", "node" => node.clone()).set(limit);
            gauge!("coffer_background_slowdown", "node" => node.clone()).set(controller.ratio());
            let grows = self.0.state.lock().set(limit);
            if grows {
                self.0.wake.notify_waiters();
            }
        }
    }

    /// Notes how long this takes.
    pub(crate) async fn timed<T>(&self, kind: Kind, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let result = work.await;
        self.0.meters[kind as usize].record(begun.elapsed());
        result
    }

    /// How many of a kind there were.
    #[cfg(test)]
    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.0.meters[kind as usize].take().count()
    }

    /// Waits for a turn; it lasts until it is dropped.
    pub(crate) async fn turn(&self, urgency: Urgency) -> Turn {
        loop {
            let woken = self.0.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let pause = match self.0.state.lock().admit(urgency) {
                Ok(()) => return Turn { pace: self.clone(), urgency, begun: Instant::now() },
                Err(pause) => pause,
            };
            match pause {
                Some(pause) => drop(tokio::time::timeout(pause, woken).await),
                None => woken.await,
            }
        }
    }
}

impl State {
    /// Admits a step, or says how long it has to wait; nothing: until another one ends, or the limit grows.
    fn admit(&mut self, urgency: Urgency) -> Result<(), Option<Duration>> {
        let least = if urgency == Urgency::Prompt && !self.is_probing() { MOST_PROMPT } else { 1 };
        if self.running >= (self.limit as usize).max(least) {
            return Err(None);
        }
        let pause = self.rested.saturating_duration_since(Instant::now());
        if self.rests(urgency) && !pause.is_zero() {
            return Err(Some(pause));
        }
        self.running += 1;
        self.worked = true;
        Ok(())
    }

    /// Sets the limit; whether it has grown. The long pauses of a measure of health end with it.
    fn set(&mut self, limit: f64) -> bool {
        let was_probing = self.is_probing();
        let before = std::mem::replace(&mut self.limit, limit);
        if was_probing && !self.is_probing() {
            self.rested = Instant::now();
        }
        limit > before
    }

    /// Whether health is measured.
    fn is_probing(&self) -> bool {
        self.limit <= PROBE_LIMIT
    }

    /// Whether there are pauses between such steps.
    fn rests(&self, urgency: Urgency) -> bool {
        urgency == Urgency::Patient || self.is_probing()
    }

    fn end(&mut self, took: Duration, urgency: Urgency) {
        self.running -= 1;
        if self.limit < 1.0 && self.rests(urgency) {
            let pause = took.mul_f64(1.0 / self.limit - 1.0).min(LONGEST_PAUSE);
            self.rested = self.rested.max(Instant::now() + pause);
        }
    }
}

/// A step's turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pace: Pace,
    urgency: Urgency,
    begun: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pace.0.state.lock().end(self.begun.elapsed(), self.urgency);
        // All of them: the first may have to rest, and another one not.
        self.pace.0.wake.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_slowdown_is_a_factor_or_off() {
        assert_eq!(
            ["1.5", "10", "off"].map(str::parse),
            [Some(1.5), Some(10.0), None].map(|f| Ok(Slowdown(f)))
        );
        for wrong in ["", "1", "0", "-2", "11", "NaN", "inf", "50%"] {
            assert!(wrong.parse::<Slowdown>().is_err_and(|error| error.contains("`1.5`")), "{wrong}");
        }
    }

    fn pace(limit: f64) -> Pace {
        let pace = Pace::default();
        pace.0.state.lock().limit = limit;
        pace
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_steps_run_at_a_time_than_the_limit_says() {
        let pace = pace(2.7);
        let (one, two) = (pace.turn(Urgency::Patient).await, pace.turn(Urgency::Patient).await);
        let mut third = Box::pin(pace.turn(Urgency::Patient));
        assert!((&mut third).now_or_never().is_none());
        drop(one);
        let third = third.await;
        let prompt = (pace.turn(Urgency::Prompt).await, pace.turn(Urgency::Prompt).await);
        assert!(pace.turn(Urgency::Prompt).now_or_never().is_none());
        drop((two, third, prompt));
        assert_eq!(pace.0.state.lock().running, 0);
    }

    async fn four_steps(pace: &Pace, urgency: Urgency) -> u128 {
        let begun = Instant::now();
        for _ in 0..4 {
            let turn = pace.turn(urgency).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(turn);
        }
        begun.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn below_one_there_is_a_pause_in_proportion_after_what_can_wait() {
        let pace = pace(0.25);
        assert!((130..150).contains(&four_steps(&pace, Urgency::Patient).await));
        assert!((40..50).contains(&four_steps(&pace, Urgency::Brisk).await));
        assert!((40..50).contains(&four_steps(&pace, Urgency::Prompt).await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_has_to_rest_holds_up_none_that_has_not() {
        let pace = pace(0.25);
        let (running, begun) = (pace.turn(Urgency::Patient).await, Instant::now());
        let (mut rests, mut presses) =
            (Box::pin(pace.turn(Urgency::Patient)), Box::pin(pace.turn(Urgency::Brisk)));
        assert!((&mut rests).now_or_never().is_none() && (&mut presses).now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(running);
        let turn = tokio::select! {
            biased;
            _ = &mut rests => unreachable!("its pause is not over"),
            turn = presses => turn,
        };
        assert!(begun.elapsed() < Duration::from_millis(12));
        drop(turn);
        drop(rests.await);
        assert!(begun.elapsed() >= Duration::from_millis(40));
    }

    #[tokio::test(start_paused = true)]
    async fn everything_gives_way_while_health_is_measured() {
        let pace = pace(PROBE_LIMIT);
        drop(pace.turn(Urgency::Prompt).await);
        for urgency in [Urgency::Patient, Urgency::Brisk, Urgency::Prompt] {
            assert!(four_steps(&pace, urgency).await >= 600, "{urgency:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_step_that_is_dropped_holds_up_no_other() {
        let pace = pace(1.0);
        let turn = pace.turn(Urgency::Patient).await;
        let (mut given_up, mut waiting) =
            (Box::pin(pace.turn(Urgency::Patient)), Box::pin(pace.turn(Urgency::Patient)));
        assert!((&mut given_up).now_or_never().is_none() && (&mut waiting).now_or_never().is_none());
        drop(turn);
        drop(given_up);
        assert!(waiting.now_or_never().is_some());
    }
}
