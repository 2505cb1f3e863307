//! Clients that read and write objects all the time, and how long that takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub(super) const BUCKET: &str = "steady";

/// From 1 KiB to 64 MiB, most of them small.
fn size(number: usize) -> usize {
    match number {
        _ if number % 1000 == 999 => 64 << 20,
        _ if number % 100 == 99 => 4 << 20,
        _ if number % 10 == 9 => 256 << 10,
        _ if number % 3 == 2 => 16 << 10,
        _ => 1 << 10,
    }
}

pub(super) fn key(number: usize) -> String {
    format!("object/{number:06}")
}

pub(super) async fn put(client: &Client, number: usize) -> Result<()> {
    let body = vec![number as u8; size(number)];
    client.put_object().bucket(BUCKET).key(key(number)).body(ByteStream::from(body)).send().await?;
    Ok(())
}

/// Whether an object reads as it was written.
pub(super) async fn reads(client: &Client, number: usize) -> Result<bool> {
    let got = client.get_object().bucket(BUCKET).key(key(number)).send().await?;
    let body = got.body.collect().await?.into_bytes();
    Ok(body.len() == size(number) && body.iter().all(|byte| *byte == number as u8))
}

#[derive(Clone, Copy)]
struct Done {
    read: bool,
    ended: Instant,
    took: Duration,
}

/// Half and 99 of 100 requests took no longer than this, and how many there were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Took {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) count: usize,
}

impl Took {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort();
        let share = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
        Self { p50: share(50), p99: share(99), count: took.len() }
    }
}

/// How long small reads, and writes, took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    pub(super) reads: Took,
    pub(super) writes: Took,
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reads, writes } = self;
        write!(
            f,
            "{} reads p50 {:.1?} p99 {:.1?}, {} writes p50 {:.1?} p99 {:.1?}",
            reads.count, reads.p50, reads.p99, writes.count, writes.p50, writes.p99
        )
    }
}

/// The clients: two for each gateway, one of which reads.
pub(super) struct Steady {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Done>>>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Steady {
    /// Each client rests this long after a request.
    pub(super) fn start(clients: &[Client], count: usize, rest: Duration) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Done>>>::default());
        let mut tasks = Vec::new();
        for (place, client) in clients.iter().enumerate() {
            let (reader, stopped, told) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
            tasks.push(tokio::spawn(async move {
                let mut number = place * 17;
                while !stopped.load(Ordering::Relaxed) {
                    number = (number + 7919) % count;
                    let begun = Instant::now();
                    let right =
                        reads(&reader, number).await.with_context(|| format!("GET {}", key(number)))?;
                    ensure!(right, "{} reads otherwise", key(number));
                    if size(number) <= 256 << 10 {
                        told.lock().push(Done { read: true, ended: Instant::now(), took: begun.elapsed() });
                    }
                    tokio::time::sleep(rest).await;
                }
                Ok(())
            }));
            let (writer, stopped, told) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
            tasks.push(tokio::spawn(async move {
                for number in 0.. {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    let put =
                        writer.put_object().bucket(BUCKET).key(format!("load/{place}/{}", number % 500));
                    let begun = Instant::now();
                    // A write may be refused while a node dies; the client tries again.
                    let _ = put.body(ByteStream::from(vec![7; 4000])).send().await;
                    told.lock().push(Done { read: false, ended: Instant::now(), took: begun.elapsed() });
                    tokio::time::sleep(rest).await;
                }
                Ok(())
            }));
        }
        Self { stop, done, tasks }
    }

    /// How long requests that ended between these moments took.
    pub(super) fn between(&self, from: Instant, to: Instant) -> Latency {
        let done = self.done.lock();
        let took = |read| {
            let wanted = done.iter().filter(|done| done.read == read && (from..=to).contains(&done.ended));
            Took::of(wanted.map(|done| done.took).collect())
        };
        Latency { reads: took(true), writes: took(false) }
    }

    /// Ends it; how many reads there were. An error is a read that failed.
    pub(super) async fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        let reads = self.done.lock().iter().filter(|done| done.read).count();
        Ok(reads)
    }
}
