//! The one way to do work that takes longer than a hand-over to another thread. A simulated thread does it itself.

use tokio::task::JoinError;

/// Runs the work on a thread that may block.
///
/// # Errors
/// [`JoinError`] if it panicked or the runtime ends.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(any(test, feature = "simulation"))]
    if crate::simulated::is_entered() {
        return tokio::spawn(async move { work() }).await;
    }
    off_thread(work).await
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that hands work over")]
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    tokio::task::spawn_blocking(work).await
}
