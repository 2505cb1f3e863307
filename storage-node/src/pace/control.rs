//! How much background work there may be at a time, by what it costs the requests.
//!
//! Pure: a tick's figures in, the limit out. The limit is a number of steps at a time; below 1 it is the share of the time in
//! which the one step runs.
//!
//! 1. **Healthy** is how long requests take while no background work runs. While it does, it is measured anew once in a
//!    [`CYCLE_MS`]: for a moment there is next to none. All nodes do so at the same moment by their wall clocks, so that
//!    none takes the work of another for health; clocks that differ make the measure worse, and nothing wrong.
//! 2. **Loaded** is how long they take beside the work. The share [`SHARE`] of both is compared for each signal by itself, over
//!    as many requests as tell it: the slowest of a few are slow by chance in either, and a limit that follows chance
//!    ends at the floor.
//! 3. The limit follows the slowest signal: it falls as far as that is above what it may be, and grows as far as it is below. It
//!    never falls under [`FLOOR`]: what is missing is a danger of its own.
//! 4. Without requests there is nothing to give way to, and the limit grows to the most.

use super::meter::{Histogram, Memory, Window};

/// How often figures come.
pub(super) const TICK_MS: u64 = 250;
/// Once in so long health is measured.
const CYCLE_MS: u64 = 10_000;
/// Ticks of the measure; in the first what was under way ends.
const PROBE_TICKS: u64 = 3;
/// Ticks that a start without any measure may take for one.
const FIRST_PROBE_TICKS: u32 = 8;
/// What the work begins with.
const START: f64 = 2.0;
/// The least. Where processors are scarce anyway, 0.6 made requests 1.9 to 2.0 times as slow, by their 99th percentile.
const FLOOR: f64 = 0.5;
/// The limit while health is measured.
pub(super) const PROBE_LIMIT: f64 = 0.05;
/// Of requests, the share whose time is compared.
const SHARE: f64 = 0.9;
/// Requests that a comparison needs of both.
const FEW: f64 = 15.0;
/// Health does not change within minutes.
const HEALTHY: Memory = Memory { requests: 100.0, fading: 0.8, ageing: 1.0 };
/// What the work does now.
const LOADED: Memory = Memory { requests: 60.0, fading: 0.8, ageing: 0.97 };
/// Ticks without a request after which there is nothing to give way to.
const OLD: u32 = 4;
/// Added to all times: below about this nobody notices what a request takes.
const SLACK_MS: f64 = 0.3;
/// What a tick may make of the limit.
const SHRINKS: f64 = 0.8;
const GROWS: f64 = 1.1;
/// Ticks without work after which it begins anew.
const FORGOTTEN: u32 = 120;

/// How many signals there are.
pub(super) const SIGNALS: usize = 5;

/// A tick.
#[derive(Clone, Debug, Default)]
pub(super) struct Tick {
    /// The wall clock.
    pub(super) now_ms: u64,
    /// Whether there was background work.
    pub(super) worked: bool,
    /// How long requests took, by signal.
    pub(super) took: [Histogram; SIGNALS],
}

/// What a tick belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Working,
    /// The work that was under way ends.
    Settling,
    Probing,
}

#[derive(Clone, Debug)]
struct Signal {
    healthy: Window,
    loaded: Window,
}

impl Default for Signal {
    fn default() -> Self {
        Self { healthy: Window::new(HEALTHY), loaded: Window::new(LOADED) }
    }
}

impl Signal {
    /// By how much requests are slower than they are in health, if that can be told.
    fn ratio(&self) -> Option<f64> {
        let told = !self.is_unknown() && self.loaded.weight() >= FEW;
        let (loaded, healthy) = (self.loaded.below_ms(SHARE)?, self.healthy.below_ms(SHARE)?);
        told.then_some((loaded + SLACK_MS) / (healthy + SLACK_MS))
    }

    fn is_unknown(&self) -> bool {
        self.healthy.weight() < FEW
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// How many times as long requests may take; nothing: no matter how long.
    slowdown: Option<f64>,
    most: f64,
    limit: f64,
    phase: Phase,
    signals: [Signal; SIGNALS],
    /// Ticks of the first measure that are left.
    first: u32,
    /// Ticks without work, and working ticks without a request.
    idle: u32,
    alone: u32,
    ratio: f64,
}

impl Controller {
    pub(super) fn new(slowdown: Option<f64>, most: f64) -> Self {
        let most = most.max(START);
        Self {
            slowdown,
            most,
            limit: START,
            phase: Phase::Working,
            signals: Default::default(),
            first: FIRST_PROBE_TICKS,
            idle: 0,
            alone: 0,
            ratio: 1.0,
        }
    }

    /// By how much requests were slower when that was told last.
    pub(super) fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Takes a tick; returns the limit until the next one.
    pub(super) fn step(&mut self, tick: &Tick) -> f64 {
        let Some(slowdown) = self.slowdown else { return self.most };
        if !tick.worked {
            self.rest(tick);
        } else {
            self.idle = 0;
            match self.phase {
                Phase::Settling => {}
                Phase::Probing => self.add_healthy(tick),
                Phase::Working => self.work(tick, slowdown),
            }
        }
        self.phase = self.next_phase(tick);
        if self.phase == Phase::Working { self.limit } else { PROBE_LIMIT }
    }

    fn add_healthy(&mut self, tick: &Tick) {
        for (signal, took) in self.signals.iter_mut().zip(&tick.took) {
            signal.healthy.add(took);
        }
    }

    fn rest(&mut self, tick: &Tick) {
        self.add_healthy(tick);
        self.ratio = 1.0;
        self.idle += 1;
        if self.idle >= FORGOTTEN {
            self.limit = START;
        }
    }

    fn work(&mut self, tick: &Tick, slowdown: f64) {
        let requests: u64 = tick.took.iter().map(Histogram::count).sum();
        self.alone = if requests == 0 { self.alone + 1 } else { 0 };
        for (signal, took) in self.signals.iter_mut().zip(&tick.took) {
            signal.loaded.add(took);
        }
        if self.alone >= OLD {
            self.ratio = 1.0;
        } else if let Some(ratio) = self.signals.iter().filter_map(Signal::ratio).reduce(f64::max) {
            self.ratio = ratio;
        } else {
            return;
        }
        let change = (slowdown / self.ratio).sqrt().clamp(SHRINKS, GROWS);
        self.limit = (self.limit * change).clamp(FLOOR, self.most);
    }

    fn next_phase(&mut self, tick: &Tick) -> Phase {
        let told = tick.took.iter().zip(&self.signals);
        let unknown = told.into_iter().any(|(took, signal)| took.count() > 0 && signal.is_unknown());
        if unknown && tick.worked && self.first > 0 {
            self.first -= 1;
            return Phase::Probing;
        }
        match tick.now_ms % CYCLE_MS / TICK_MS {
            0 => Phase::Settling,
            part if part < PROBE_TICKS => Phase::Probing,
            _ => Phase::Working,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn read(took_ms: f64, requests: usize) -> [Histogram; SIGNALS] {
        let mut took: [Histogram; SIGNALS] = Default::default();
        took[0] = Histogram::of(&vec![took_ms; requests]);
        took
    }

    /// A drive whose requests take `2 + cost · limit` milliseconds; returns the limits of all ticks.
    fn run(controller: &mut Controller, ticks: u64, cost: f64, requests: usize) -> Vec<f64> {
        let mut limit = START;
        let mut limits = Vec::new();
        for number in 1..=ticks {
            let took_ms = 2.0 + cost * limit;
            let took = read(took_ms, requests);
            limit = controller.step(&Tick { now_ms: number * TICK_MS, worked: true, took });
            limits.push(limit);
        }
        limits
    }

    fn mean(limits: &[f64]) -> f64 {
        limits.iter().sum::<f64>() / limits.len() as f64
    }

    #[test]
    fn the_limit_settles_where_requests_are_as_slow_as_they_may_be() {
        let mut controller = Controller::new(Some(1.5), 64.0);
        let limits = run(&mut controller, 2000, 0.25, 50);
        // (2 + 0.25 x + 1) / 3 is 1.5 at 6.
        let mean = mean(&limits[1000..]);
        assert!((3.0..7.0).contains(&mean), "{mean}");
        assert!(limits[1000..].iter().all(|limit| *limit <= 9.0));
    }

    #[test]
    fn work_that_costs_nothing_and_work_that_nobody_waits_for_take_all_there_is() {
        for (cost, requests) in [(0.0, 50), (5.0, 0)] {
            let limits = run(&mut Controller::new(Some(1.5), 64.0), 400, cost, requests);
            assert_eq!(limits.iter().copied().fold(0.0, f64::max), 64.0);
        }
        let unlimited = run(&mut Controller::new(None, 64.0), 10, 50.0, 50);
        assert!(unlimited.iter().all(|limit| *limit == 64.0));
    }

    /// The mean limit in the end, and how much slower requests are with it, for work that makes requests slower by `cost · limit` times
    /// where their times differ by themselves as much as those of real ones: one in six takes twice the median or more.
    fn beside_chance(cost: f64, requests: usize) -> (f64, f64) {
        let (mut controller, mut random) = (Controller::new(Some(1.5), 32.0), StdRng::seed_from_u64(7));
        let (mut limit, mut limits) = (START, Vec::new());
        for number in 1..=2400 {
            let mut took: [Histogram; SIGNALS] = Default::default();
            for took in &mut took {
                // A sum of twelve is nearly normal, by one around six.
                let mut chance = || (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
                let one = |_| 8.0 * (0.7 * chance()).exp() * (1.0 + cost * limit);
                *took = Histogram::of(&(0..requests).map(one).collect::<Vec<_>>());
            }
            limit = controller.step(&Tick { now_ms: number * TICK_MS, worked: true, took });
            limits.push(controller.limit);
        }
        let mean = mean(&limits[600..]);
        (mean, 1.0 + cost * mean)
    }

    #[test]
    fn the_limit_does_not_follow_chance() {
        for requests in [2, 5, 20, 100] {
            let (limit, _) = beside_chance(0.0, requests);
            assert!(limit > 25.0, "{requests} requests in a tick: {limit}");
            for cost in [0.02, 0.1, 0.5] {
                let (_, slower) = beside_chance(cost, requests);
                assert!(
                    (1.2..1.6).contains(&slower),
                    "{requests} requests in a tick: {slower} times for {cost}"
                );
            }
        }
    }

    #[test]
    fn work_that_slows_requests_whatever_it_does_goes_on_at_the_floor() {
        let mut controller = Controller::new(Some(1.2), 64.0);
        run(&mut controller, 400, 400.0, 50);
        assert_eq!(controller.limit, FLOOR);
    }

    #[test]
    fn requests_that_become_slower_by_themselves_do_not_stop_the_work_for_good() {
        let mut controller = Controller::new(Some(1.5), 64.0);
        // Not where health is measured: then it would be known at once.
        run(&mut controller, 410, 0.0, 50);
        let (mut least, mut last) = (f64::MAX, Vec::new());
        for number in 411..=1200_u64 {
            let took = read(20.0, 50);
            controller.step(&Tick { now_ms: number * TICK_MS, worked: true, took });
            least = least.min(controller.limit);
            last.push(controller.limit);
        }
        assert!(least < 8.0 && last.ends_with(&[64.0; 100]), "{least} {last:?}");
    }

    #[test]
    fn health_is_measured_while_nothing_runs_and_the_first_tick_of_work_begins_small() {
        let mut controller = Controller::new(Some(1.5), 64.0);
        for number in 1..=200_u64 {
            let took = read(4.0, 10);
            controller.step(&Tick { now_ms: number * TICK_MS, worked: false, took });
        }
        let healthy = controller.signals[0].healthy.below_ms(SHARE).unwrap();
        assert!((3.5..4.5).contains(&healthy), "{healthy}");
        assert_eq!((controller.limit, controller.first), (START, FIRST_PROBE_TICKS));
    }
}
