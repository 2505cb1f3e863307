//! Who does the work of a drive that its callers do not do themselves: I/O jobs, the journal's writer and its next
//! segment, the loops in the background.
//!
//! As a rule threads of the drive's own. A simulated drive has none: a job is done right where it is asked for, so that
//! the same calls on a single-threaded runtime with paused time are the same steps every time. A simulated drive that is
//! slow or hangs holds its jobs back as tasks of the caller's runtime, in the runtime's time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

/// Who does a drive's work.
#[derive(Clone, Debug)]
pub(crate) enum Threads {
    /// Threads of its own.
    Own,
    /// Whoever asks for it.
    #[cfg_attr(
        not(any(test, feature = "simulation")),
        expect(dead_code, reason = "real drives have threads")
    )]
    Inline(Arc<Inline>),
}

/// The latency of a drive that gets to no job before that changes.
pub(super) const HANGING: Duration = Duration::MAX;

/// Jobs that are done where they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Inline {
    /// How long a job is held back.
    latency: watch::Sender<Duration>,
    waiting: Mutex<Waiting>,
}

/// When each job that is held back was asked for.
#[derive(Debug, Default)]
struct Waiting {
    since: BTreeMap<u64, Instant>,
    next: u64,
}

impl Threads {
    /// Without threads: does the job as soon as the drive gets to it. With threads: nothing, one of them does it.
    pub(crate) fn do_inline(&self, job: impl FnOnce() + Send + 'static) {
        if let Self::Inline(inline) = self {
            Inline::run(inline, job);
        }
    }

    /// How long the oldest job has been held back.
    pub(crate) fn oldest_job(&self) -> Duration {
        match self {
            Self::Own => Duration::ZERO,
            Self::Inline(inline) => {
                inline.waiting.lock().since.values().map(Instant::elapsed).max().unwrap_or_default()
            }
        }
    }
}

impl Inline {
    /// Changes how long jobs are held back; those that have waited for the end of [`HANGING`] are held back from now on.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn set_latency(&self, latency: Duration) {
        self.latency.send_replace(latency);
    }

    /// Does the job, or leaves it with the runtime until the drive gets to it.
    fn run(inline: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let at_once = inline.latency.borrow().is_zero();
        let Some(runtime) = (!at_once).then(|| Handle::try_current().ok()).flatten() else { return job() };
        let held = inline.hold();
        runtime.spawn(async move {
            held.inline.pass().await;
            job();
        });
    }

    fn hold(self: &Arc<Self>) -> Held {
        let mut waiting = self.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.since.insert(number, Instant::now());
        Held { inline: Arc::clone(self), number }
    }

    async fn pass(&self) {
        let mut latency = self.latency.subscribe();
        // The sender is ours: it does not go away.
        let latency = latency.wait_for(|latency| *latency != HANGING).await.map(|latency| *latency);
        tokio::time::sleep(latency.unwrap_or_default()).await;
    }
}

/// A job that is held back.
struct Held {
    inline: Arc<Inline>,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inline.waiting.lock().since.remove(&self.number);
    }
}
