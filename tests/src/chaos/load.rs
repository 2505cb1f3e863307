//! A mixed load: clients that read, write, create, replace, delete, copy and upload a few keys through all gateways, one
//! that writes an ever longer log of keys, and one that lists it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use coffer_common::linearizability::Return;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::recorder::Recorder;

/// Keys that are copied from and never change.
const SOURCES: u32 = 3;

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What decides every choice.
    pub seed: u64,
    /// Keys that are fought over.
    pub keys: usize,
    /// Clients, spread over the gateways request by request.
    pub clients: u64,
    /// A client rests at most this long between two requests.
    pub rest: Duration,
}

/// A load under way.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    log: Arc<AtomicUsize>,
}

impl Load {
    /// Writes what is copied from, and begins.
    ///
    /// # Errors
    /// If that cannot be written.
    pub async fn start(recorder: &Arc<Recorder>, gateways: &[Client], plan: Plan) -> Result<Self> {
        let mut sources = Vec::new();
        for number in 0..SOURCES {
            let key = format!("source/{number}");
            let (returned, value) = recorder.put(&gateways[0], &key, 900 << (4 * number)).await;
            anyhow::ensure!(returned == Return::Ok, "PUT of {key}: {returned:?}");
            sources.push((key, value));
        }
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..plan.clients {
            let random = StdRng::seed_from_u64(plan.seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let client = LoadClient {
                recorder: recorder.clone(),
                gateways: gateways.to_vec(),
                sources: sources.clone(),
                plan,
                random,
            };
            tasks.spawn(client.run(stop.clone()));
        }
        tasks.spawn(write_log(recorder.clone(), gateways.to_vec(), log.clone(), stop.clone()));
        for gateway in gateways {
            tasks.spawn(list_log(recorder.clone(), gateway.clone(), log.clone(), stop.clone()));
        }
        Ok(Self { stop, tasks, log })
    }

    /// Ends it, and waits for what is under way. How many keys of the log were acknowledged.
    ///
    /// # Errors
    /// If a client panicked.
    pub async fn stop(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a client of the load")?;
        }
        Ok(self.log.load(Ordering::SeqCst))
    }
}

/// The key of the log's entry `at`.
pub fn log_key(at: usize) -> String {
    format!("log/{at:06}")
}

/// Every entry is written until it is acknowledged, so that the log has no holes.
async fn write_log(
    recorder: Arc<Recorder>,
    gateways: Vec<Client>,
    log: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) {
    let mut tries = 0;
    while !stop.load(Ordering::SeqCst) {
        let next = log.load(Ordering::SeqCst);
        tries += 1;
        let gateway = &gateways[tries % gateways.len()];
        if recorder.put(gateway, &log_key(next), 60 + next % 5_000).await.0 == Return::Ok {
            log.store(next + 1, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn list_log(recorder: Arc<Recorder>, gateway: Client, log: Arc<AtomicUsize>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        let acknowledged = log.load(Ordering::SeqCst);
        if let Some(keys) = recorder.list(&gateway, "log/").await {
            check_log(&recorder, &keys, acknowledged);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A listing of the log must have every key that was acknowledged before it began.
pub fn check_log(recorder: &Recorder, keys: &[String], acknowledged: usize) {
    if let Some(missing) = (0..acknowledged).map(log_key).find(|key| keys.binary_search(key).is_err()) {
        recorder.violation(format!("LIST without {missing}, which was acknowledged; {} keys", keys.len()));
    }
}

struct LoadClient {
    recorder: Arc<Recorder>,
    gateways: Vec<Client>,
    sources: Vec<(String, u32)>,
    plan: Plan,
    random: StdRng,
}

impl LoadClient {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            self.one_request().await;
            let rest = self.plan.rest.as_micros() as u64;
            tokio::time::sleep(Duration::from_micros(self.random.random_range(0..=rest))).await;
        }
    }

    /// Mostly small; now and then one with shard files of its own, or of several stripes.
    fn size(&mut self) -> usize {
        match self.random.random_range(0..200) {
            0 => 2_500_000,
            1..4 => 300_000,
            4..20 => 20_000,
            other => other * 5,
        }
    }

    async fn one_request(&mut self) {
        let gateway = self.gateways[self.random.random_range(0..self.gateways.len())].clone();
        let key = format!("key/{}", self.random.random_range(0..self.plan.keys));
        let (recorder, size) = (self.recorder.clone(), self.size());
        match self.random.random_range(0..100) {
            0..30 => drop(recorder.get(&gateway, &key).await),
            30..42 => drop(recorder.head(&gateway, &key).await),
            42..64 => drop(recorder.put(&gateway, &key, size).await),
            64..74 => drop(recorder.create(&gateway, &key, size).await),
            74..82 => {
                if let Some(old) = recorder.head(&gateway, &key).await.filter(|old| *old > 0) {
                    recorder.replace(&gateway, &key, old, size).await;
                }
            }
            82..90 => drop(recorder.delete(&gateway, &key).await),
            90..94 => {
                if let Some(old) = recorder.head(&gateway, &key).await.filter(|old| *old > 0) {
                    recorder.delete_value(&gateway, &key, old).await;
                }
            }
            94..97 => {
                let (source, value) = &self.sources[self.random.random_range(0..self.sources.len())];
                recorder.copy(&gateway, &key, (source, *value)).await;
            }
            _ => {
                let if_absent = self.random.random_bool(0.3);
                if let Some(upload) = recorder.prepare_upload(&gateway, &key, size).await {
                    recorder.complete(&gateway, &upload, if_absent).await;
                }
            }
        }
    }
}
