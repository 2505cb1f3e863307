//! Clients that write while something breaks, and remember what they were told.
//!
//! Each client has keys of its own and does one thing at a time to them: writes whole objects of many sizes, and deletes.
//! What it was told happened must be there afterwards; what it was told nothing about (503, no answer) may have happened,
//! once, until it writes the key again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use coffer_tests::bucket::{Bucket, body};
use coffer_tests::harness::wait_for;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

const KEYS: usize = 6;
const SIZES: [usize; 8] = [0, 1, 700, 700, 9_000, 90_000, 400_000, 2_500_000];

/// What a key holds: the round and size of its object, or nothing.
type Value = Option<(usize, usize)>;

#[derive(Clone, Debug, Default)]
struct Key {
    /// What was acknowledged last.
    known: Value,
    /// What was tried since, with unknown outcome.
    possible: Vec<Value>,
}

/// What the clients were told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    keys: BTreeMap<String, Key>,
    /// Operations that were begun; each body tells its number.
    begun: usize,
    /// Operations that succeeded.
    pub(crate) done: usize,
    /// Refusals, by status; 0 is no answer.
    pub(crate) refused: BTreeMap<u16, usize>,
}

/// Running clients.
pub(crate) struct Load {
    told: Arc<Mutex<Told>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    seed: u64,
}

impl Load {
    /// One client for each of these.
    pub(crate) fn start(buckets: Vec<Bucket>, seed: u64) -> Self {
        let mut load =
            Self { told: Arc::default(), stop: watch::Sender::new(false), clients: JoinSet::new(), seed };
        load.go_on(buckets);
        load
    }

    /// Starts clients again, with what they know.
    pub(crate) fn go_on(&mut self, buckets: Vec<Bucket>) {
        self.stop.send_replace(false);
        self.seed += 1;
        for (number, bucket) in buckets.into_iter().enumerate() {
            let random = StdRng::seed_from_u64(self.seed * 1000 + number as u64);
            let (told, stop) = (self.told.clone(), self.stop.subscribe());
            self.clients.spawn(client(bucket, number, random, told, stop));
        }
    }

    /// Waits until this many more operations have succeeded.
    pub(crate) async fn progress(&self, operations: usize) -> Result<()> {
        let goal = self.told.lock().done + operations;
        let reached = || async { self.told.lock().done >= goal };
        wait_for("the load to make progress", Duration::from_secs(240), reached).await
    }

    /// Lets every client end what it is doing.
    pub(crate) async fn pause(&mut self) {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
    }

    /// How much was done, for people.
    pub(crate) fn summary(&self) -> String {
        let told = self.told.lock();
        format!("{} of {} operations acknowledged, refused {:?}", told.done, told.begun, told.refused)
    }

    /// What was refused so far, by status.
    pub(crate) fn refused(&self) -> BTreeMap<u16, usize> {
        self.told.lock().refused.clone()
    }

    /// Compares every key and the listing with what the paused clients were told.
    pub(crate) async fn verify(&self, bucket: &Bucket) -> Result<()> {
        let keys = self.told.lock().keys.clone();
        for (name, key) in &keys {
            let value = self.read(bucket, name, key).await?;
            let mut told = self.told.lock();
            let entry = told.keys.get_mut(name).expect("it is there");
            // What was seen once stays seen.
            entry.known = value;
        }
        let listed = listing(bucket).await?;
        for (name, key) in &keys {
            let (is_listed, told) = (listed.contains(name), &self.told.lock().keys[name]);
            let sure = key.possible.iter().all(|value| value.is_some() == told.known.is_some());
            if sure && is_listed != told.known.is_some() {
                bail!("`{name}` is listed: {is_listed}, and is {told:?}");
            }
        }
        Ok(())
    }

    /// The value of a key, which must be one that it may have.
    async fn read(&self, bucket: &Bucket, name: &str, key: &Key) -> Result<Value> {
        let got = patiently(|| bucket.get(name)).await;
        for value in key.possible.iter().chain([&key.known]) {
            let same = match (value, &got) {
                (Some((round, size)), Ok(bytes)) => *bytes == body(name, *round, *size),
                (None, Err(404)) => true,
                _ => false,
            };
            if same {
                return Ok(*value);
            }
        }
        let got = got.map(|bytes| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            (bytes.len(), text.lines().next().map(str::to_owned))
        });
        bail!("`{name}` is {got:?}, but must be one of {key:?}")
    }
}

async fn listing(bucket: &Bucket) -> Result<Vec<String>> {
    match patiently(|| bucket.keys()).await {
        Ok(keys) => Ok(keys),
        Err(status) => bail!("the listing is refused with {status}"),
    }
}

/// Unavailable is no answer about what is there: asked again for a while.
async fn patiently<T, F: Future<Output = Result<T, u16>>>(ask: impl Fn() -> F) -> Result<T, u16> {
    let start = std::time::Instant::now();
    loop {
        match ask().await {
            Err(0 | 503) if start.elapsed() < Duration::from_secs(90) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            answer => return answer,
        }
    }
}

async fn client(
    bucket: Bucket,
    number: usize,
    mut random: StdRng,
    told: Arc<Mutex<Told>>,
    stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let name = format!("client-{number}/key-{}", random.random_range(0..KEYS));
        let size = SIZES[random.random_range(0..SIZES.len())];
        let value = {
            let mut told = told.lock();
            told.begun += 1;
            let value = random.random_bool(0.8).then_some((told.begun, size));
            told.keys.entry(name.clone()).or_default().possible.push(value);
            value
        };
        let answer = match value {
            Some((round, size)) => bucket.put(&name, body(&name, round, size)).await,
            None => bucket.delete(&name).await,
        };
        let mut told = told.lock();
        match answer {
            Ok(()) => {
                told.done += 1;
                told.keys.insert(name, Key { known: value, possible: Vec::new() });
            }
            Err(status) => *told.refused.entry(status).or_default() += 1,
        }
    }
}
