//! One [`Shutdown`] for a whole process: tell, drain, wait.
//!
//! 1. Whoever learns that the process must end calls [`Shutdown::tell`] (a signal) or [`Shutdown::fail`] (what it cannot go on
//!    without has failed).
//! 2. Everybody waits for [`Shutdown::told`] beside the work, stops taking new work and finishes what runs.
//! 3. `main` calls [`Shutdown::wait`]: it returns once every task started with [`Shutdown::spawn`] has ended,
//!    or tells after a limit how many have not.
//!
//! It never aborts a task: a task that must not outlive the limit has its own deadline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks were still running when the time to drain was over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{running} tasks still run {}s after the stop was asked for", .limit.as_secs())]
pub struct StillRunning {
    /// Number of tasks.
    pub running: usize,
    /// How long they had.
    pub limit: Duration,
}

/// A handle on the end of the process; clones share one end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Shutdown {
    /// An end that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An end of a part of the process: told when `self` is told, or on its own; `self` waits for its tasks.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tasks: self.tasks.clone(), failed: Arc::clone(&self.failed) }
    }

    /// Tells everybody to stop. Further calls change nothing.
    pub fn tell(&self) {
        self.token.cancel();
    }

    /// Tells everybody to stop because of a failure: whoever has started the process learns of it by its exit code.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
        self.tell();
    }

    /// Whether a failure is why the process, or a part of it, ends.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Whether the stop was told.
    pub fn is_told(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes when the stop is told; at once if it was.
    pub async fn told(&self) {
        self.token.cancelled().await;
    }

    /// [`Self::told`] without a borrow, for servers that keep the future.
    pub fn told_owned(&self) -> impl Future<Output = ()> + Send + use<> {
        self.token.clone().cancelled_owned()
    }

    /// Starts a task that [`Self::wait`] waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Starts a task that the stop ends at once, wherever it is.
    pub fn spawn_until_told(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.clone();
        self.spawn(async move {
            tokio::select! {
                biased;
                () = stop.told() => {}
                () = task => {}
            }
        });
    }

    /// Tells the stop at the first SIGTERM or SIGINT; a second one ends the process at once, as users expect.
    ///
    /// # Errors
    /// If the operating system refuses the signal handlers.
    pub fn listen_for_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping; a second signal stops at once");
            shutdown.tell();
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("second signal, stopping without draining");
            std::process::exit(130);
        });
        Ok(())
    }

    /// Waits until the stop is told and every task has ended.
    ///
    /// # Errors
    /// [`StillRunning`] if tasks run on `limit` after the stop was told.
    pub async fn wait(&self, limit: Duration) -> Result<(), StillRunning> {
        self.told().await;
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait())
            .await
            .map_err(|_| StillRunning { running: self.tasks.len(), limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wait_returns_when_the_told_tasks_have_ended() {
        let shutdown = Shutdown::new();
        let child = shutdown.child();
        let task = shutdown.spawn(async move {
            child.told().await;
            7
        });
        assert!(!shutdown.is_told());
        shutdown.tell();
        assert_eq!(shutdown.wait(Duration::from_secs(5)).await, Ok(()));
        assert_eq!(task.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn the_stop_ends_what_runs_until_it_is_told() {
        let shutdown = Shutdown::new();
        shutdown.spawn_until_told(std::future::pending());
        shutdown.tell();
        assert_eq!(shutdown.wait(Duration::from_secs(5)).await, Ok(()));
    }

    #[tokio::test]
    async fn wait_tells_how_many_tasks_did_not_end() {
        let shutdown = Shutdown::new();
        let task = shutdown.spawn(std::future::pending::<()>());
        shutdown.tell();
        let limit = Duration::from_millis(20);
        assert_eq!(shutdown.wait(limit).await, Err(StillRunning { running: 1, limit }));
        task.abort();
    }

    #[tokio::test]
    async fn a_child_can_end_alone() {
        let shutdown = Shutdown::new();
        let child = shutdown.child();
        child.tell();
        child.told().await;
        assert!(!shutdown.is_told() && !shutdown.has_failed());
    }

    #[tokio::test]
    async fn the_failure_of_a_part_is_the_whole_process_s() {
        let shutdown = Shutdown::new();
        let child = shutdown.child();
        child.fail();
        child.told().await;
        assert!(shutdown.has_failed());
    }
}
