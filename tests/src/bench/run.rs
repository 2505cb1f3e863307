//! Prepares, runs the workers against the clock, and cleans up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::client::{Client, Target};
use super::histogram::Histogram;
use super::plan::{Mix, Op};

/// A run, ready to start.
#[derive(Clone)]
pub struct Run {
    /// One target for each endpoint; workers take them in turn.
    pub targets: Vec<Target>,
    /// What to do.
    pub mix: Mix,
    /// Workers, each with one connection and one request at a time.
    pub concurrency: usize,
    /// Not counted; left out where the mix deletes and never puts.
    pub warm_up: Duration,
    /// Counted.
    pub duration: Duration,
    /// Objects to prepare where the mix reads, lists or deletes.
    pub objects: u64,
    /// What all keys begin with.
    pub prefix: String,
    /// Leave the objects there.
    pub keep: bool,
}

/// What one kind of request came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Latencies of the successful ones.
    pub latency: Histogram,
    /// Object bytes they moved.
    pub bytes: u64,
    /// Objects they listed.
    pub keys: u64,
    /// How many failed.
    pub errors: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// By kind, in the order of [`Op::ALL`].
    pub tallies: [Tally; 5],
    /// How often each error occurred.
    pub errors: BTreeMap<String, u64>,
    /// The counted time: shorter than asked for if the objects to delete ran out.
    pub elapsed: Duration,
    /// CPU time of this process during the counted time.
    pub client_cpu: Duration,
}

impl Outcome {
    fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.tallies.iter_mut().zip(&other.tallies) {
            mine.latency.merge(&theirs.latency);
            mine.bytes += theirs.bytes;
            mine.keys += theirs.keys;
            mine.errors += theirs.errors;
        }
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }
}

/// A worker's clock: what ends outside of the window is done but not counted.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

/// One worker and the keys that only it touches.
struct Worker {
    client: Client,
    prefix: String,
    /// Keys that exist, as numbers.
    live: Vec<u64>,
    next_key: u64,
    token: Option<String>,
    random: u64,
    outcome: Outcome,
}

impl Worker {
    fn new(run: &Run, number: usize) -> Self {
        Self {
            client: Client::new(run.targets[number % run.targets.len()].clone()),
            prefix: format!("{}/{number:04}/", run.prefix),
            live: Vec::new(),
            next_key: 0,
            token: None,
            random: (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            outcome: Outcome::default(),
        }
    }

    fn key(&self, number: u64) -> String {
        format!("{}{number:010}", self.prefix)
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    /// Puts this worker's share of the prepared objects.
    async fn prepare(&mut self, objects: u64) -> Result<()> {
        for _ in 0..objects {
            let key = self.key(self.next_key);
            self.client.request(Op::Put, &key, None).await.context("preparing objects")?;
            self.live.push(self.next_key);
            self.next_key += 1;
        }
        Ok(())
    }

    async fn work(&mut self, mix: Mix, window: Window) {
        while Instant::now() < window.until {
            let number = self.random();
            let op = mix.pick(number);
            if self.live.is_empty() && matches!(op, Op::Get | Op::Stat | Op::Delete) {
                if !mix.has(Op::Put) {
                    return;
                }
                self.step(Op::Put, window).await;
                continue;
            }
            self.step(op, window).await;
        }
    }

    async fn step(&mut self, op: Op, window: Window) {
        let (key, number) = match op {
            Op::List => (self.prefix.clone(), 0),
            Op::Put => (self.key(self.next_key), self.next_key),
            Op::Get | Op::Stat | Op::Delete => {
                let at = (self.random() % self.live.len() as u64) as usize;
                (self.key(self.live[at]), at as u64)
            }
        };
        let token = self.token.take();
        let begun = Instant::now();
        let result = self.client.request(op, &key, token.as_deref()).await;
        let ended = Instant::now();
        match op {
            // A put that failed may have happened: its key is used up, and is not read.
            Op::Put => {
                self.next_key += 1;
                if result.is_ok() {
                    self.live.push(number);
                }
            }
            Op::Delete => {
                self.live.swap_remove(number as usize);
            }
            Op::Get | Op::Stat | Op::List => {}
        }
        if let Ok(moved) = &result {
            self.token.clone_from(&moved.next);
        } else {
            // An endpoint that is down would otherwise be asked in a tight loop.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if ended < window.from || ended > window.until {
            return;
        }
        let tally = &mut self.outcome.tallies[op.index()];
        match result {
            Ok(moved) => {
                tally.latency.record((ended - begun).as_micros() as u64);
                tally.bytes += moved.bytes;
                tally.keys += moved.keys;
            }
            Err(error) => {
                tally.errors += 1;
                *self.outcome.errors.entry(format!("{error:#}")).or_default() += 1;
            }
        }
    }

    /// Removes what it knows to exist. Best effort: the figures are taken.
    async fn clean_up(&mut self) {
        for number in std::mem::take(&mut self.live) {
            let key = self.key(number);
            let _ = self.client.request(Op::Delete, &key, None).await;
        }
    }
}

/// Runs to the end.
///
/// # Errors
/// If the bucket or the objects cannot be prepared. Errors during the run are part of the outcome.
pub async fn run(run: &Run) -> Result<Outcome> {
    Client::new(run.targets[0].clone()).make_bucket().await.context("making the bucket")?;
    let workers: Vec<Worker> = (0..run.concurrency).map(|number| Worker::new(run, number)).collect();
    let needs_objects = [Op::Get, Op::Stat, Op::List, Op::Delete].iter().any(|&op| run.mix.has(op));
    let each = if needs_objects { run.objects.div_ceil(run.concurrency as u64) } else { 0 };
    let workers = each_worker(workers, move |mut worker| async move {
        worker.prepare(each).await?;
        Ok(worker)
    })
    .await?;

    let start = Instant::now();
    // What is only ever deleted would be gone before it counted.
    let consumes = run.mix.has(Op::Delete) && !run.mix.has(Op::Put);
    let from = if consumes { start } else { start + run.warm_up };
    let window = Window { from, until: from + run.duration };
    let cpu_before = Arc::new(AtomicU64::new(0));
    let reader = {
        let cpu_before = Arc::clone(&cpu_before);
        tokio::spawn(async move {
            tokio::time::sleep_until(window.from.into()).await;
            cpu_before.store(cpu_time().as_millis() as u64, Ordering::Relaxed);
        })
    };
    let mix = run.mix;
    let workers = each_worker(workers, move |mut worker| async move {
        worker.work(mix, window).await;
        Ok(worker)
    })
    .await?;
    let ended = Instant::now();
    reader.abort();
    let cpu = cpu_time().saturating_sub(Duration::from_millis(cpu_before.load(Ordering::Relaxed)));
    let mut outcome = Outcome {
        elapsed: ended.min(window.until).saturating_duration_since(window.from),
        client_cpu: cpu,
        ..Outcome::default()
    };
    workers.iter().for_each(|worker| outcome.merge(&worker.outcome));
    if !run.keep {
        each_worker(workers, |mut worker| async move {
            worker.clean_up().await;
            Ok(worker)
        })
        .await?;
    }
    Ok(outcome)
}

/// Does something with all workers at once, each in a task of its own.
async fn each_worker<F, R>(workers: Vec<Worker>, action: F) -> Result<Vec<Worker>>
where
    F: Fn(Worker) -> R,
    R: Future<Output = Result<Worker>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for worker in workers {
        tasks.spawn(action(worker));
    }
    let mut done = Vec::with_capacity(tasks.len());
    while let Some(worker) = tasks.join_next().await {
        done.push(worker??);
    }
    Ok(done)
}

/// CPU time of this process, user and system, from `/proc/self/stat`; zero where there is none.
fn cpu_time() -> Duration {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name in parentheses, which may hold blanks; user and system time are 14 and 15.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}
