//! The I/O threads of one drive.
//!
//! Owns: a fixed number of threads and a bounded queue. Never touches another drive's queue, so a drive whose calls
//! hang holds up only those who asked for it: their jobs wait, the queue fills, and further ones are turned away. A drive
//! without threads ([`Threads::Inline`]) has no queue either.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Threads;

/// Threads of a drive: enough to keep its queue busy, few enough that 16 drives stay cheap.
const THREADS: usize = 4;
/// Jobs that may wait; more means the drive cannot keep up.
const QUEUE_LIMIT: usize = 1024;

/// Why a job gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PoolError {
    /// The queue is full.
    #[error("too many requests wait for the drive")]
    Full,
    /// The pool was stopped, or the job panicked.
    #[error("the drive's threads have stopped")]
    Stopped,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// When each running job began, by thread.
    running: Vec<Option<Instant>>,
    stopped: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Own threads and a bounded queue for one drive. Dropping it lets queued jobs finish.
pub(crate) struct IoPool {
    shared: Arc<Shared>,
    threads: Threads,
}

impl IoPool {
    /// Starts the threads, named after the drive.
    pub(crate) fn start(name: &str, threads: Threads) -> std::io::Result<Self> {
        let count = if matches!(threads, Threads::Own) { THREADS } else { 0 };
        let queue = Queue { running: vec![None; count], ..Queue::default() };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), wake: Condvar::new() });
        for index in 0..count {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("io-{name}-{index}"))
                .spawn(move || work(&shared, index))?;
        }
        Ok(Self { shared, threads })
    }

    /// Runs a blocking job on one of the threads. Dropping the future does not stop the job.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (sender, receiver) = oneshot::channel();
        self.submit(move || {
            // Nobody waits any more: the result is of no use.
            let _ = sender.send(job());
        })?;
        receiver.await.map_err(|_| PoolError::Stopped)
    }

    /// Queues a job that nobody waits for.
    pub(crate) fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), PoolError> {
        if matches!(self.threads, Threads::Inline(_)) {
            self.threads.do_inline(|| guarded(job));
            return Ok(());
        }
        {
            let mut queue = self.shared.queue.lock();
            if queue.stopped {
                return Err(PoolError::Stopped);
            }
            if queue.jobs.len() >= QUEUE_LIMIT {
                return Err(PoolError::Full);
            }
            queue.jobs.push_back(Box::new(job));
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Whether every thread has a job and no more can wait.
    #[cfg(test)]
    pub(crate) fn is_stuffed(&self) -> bool {
        let queue = self.shared.queue.lock();
        queue.jobs.len() >= QUEUE_LIMIT && queue.running.iter().all(Option::is_some)
    }

    /// How long the oldest running job has been running.
    pub(crate) fn oldest_job(&self) -> Duration {
        let queue = self.shared.queue.lock();
        let running = queue.running.iter().flatten().map(Instant::elapsed).max();
        running.unwrap_or_default().max(self.threads.oldest_job())
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        self.shared.queue.lock().stopped = true;
        self.shared.wake.notify_all();
    }
}

/// Does a job; a panic fails that job (its sender is dropped), not who does it.
fn guarded(job: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
        tracing::error!("an i/o job panicked");
    }
}

fn work(shared: &Shared, index: usize) {
    let mut queue = shared.queue.lock();
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            queue.running[index] = Some(Instant::now());
            drop(queue);
            guarded(job);
            queue = shared.queue.lock();
            queue.running[index] = None;
        } else if queue.stopped {
            return;
        } else {
            shared.wake.wait(&mut queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hung_drive_turns_callers_away_and_leaves_others_alone() {
        let hung = IoPool::start("hung", Threads::Own).unwrap();
        let other = IoPool::start("other", Threads::Own).unwrap();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let mut waiting = Vec::new();
        for _ in 0..THREADS + QUEUE_LIMIT {
            let gate = Arc::clone(&gate);
            let mut job = Box::pin(hung.run(move || {
                let mut open = gate.0.lock();
                gate.1.wait_while(&mut open, |open| !*open);
            }));
            assert!(futures_util::poll!(&mut job).is_pending());
            waiting.push(job);
            while waiting.len() <= THREADS && !hung.shared.queue.lock().jobs.is_empty() {
                std::thread::yield_now();
            }
        }
        assert_eq!(hung.run(|| ()).await, Err(PoolError::Full));
        assert_eq!(other.run(|| 7).await, Ok(7));
        *gate.0.lock() = true;
        gate.1.notify_all();
        for job in waiting {
            job.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_panic_fails_its_own_job_only() {
        let pool = IoPool::start("panic", Threads::Own).unwrap();
        assert_eq!(pool.run(|| panic!("bad job")).await, Err::<(), _>(PoolError::Stopped));
        assert_eq!(pool.run(|| 1).await, Ok(1));
    }
}
