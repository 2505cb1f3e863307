//! A coordinator behind switches: one gateway's view of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coffer_common::coordination::{
    Coordinator, CoordinatorError, Entry, Listing, LockGuard, Revision, WatchEvent, Write,
};
use tokio::sync::mpsc;

/// See the module.
pub(crate) struct Switched {
    inner: Arc<dyn Coordinator>,
    /// What its watches have to tell does not arrive.
    pub(crate) tells_nothing: Arc<AtomicBool>,
    /// It answers nothing.
    pub(crate) is_away: AtomicBool,
    /// It gives out locks as if the leases of all others had ended.
    pub(crate) expires_locks: AtomicBool,
}

impl Switched {
    pub(crate) fn new(inner: Arc<dyn Coordinator>) -> Self {
        let (is_away, expires_locks) = (AtomicBool::default(), AtomicBool::default());
        Self { inner, tells_nothing: Arc::default(), is_away, expires_locks }
    }

    fn check(&self) -> Result<(), CoordinatorError> {
        let away = self.is_away.load(Ordering::SeqCst);
        if away { Err(CoordinatorError::Unavailable("switched off".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Coordinator for Switched {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordinatorError> {
        self.check()?;
        self.inner.get(key).await
    }

    /// A list of everything would tell what a watch does not.
    async fn list(&self, prefix: &str) -> Result<Listing, CoordinatorError> {
        self.check()?;
        if self.tells_nothing.load(Ordering::SeqCst) {
            return Err(CoordinatorError::Unavailable("switched off".into()));
        }
        self.inner.list(prefix).await
    }

    async fn transaction(&self, writes: Vec<Write>) -> Result<Revision, CoordinatorError> {
        self.check()?;
        self.inner.transaction(writes).await
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(1);
        let (mut events, silent) = (self.inner.watch(prefix), Arc::clone(&self.tells_nothing));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if !silent.load(Ordering::SeqCst) && sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<LockGuard, CoordinatorError> {
        self.check()?;
        if self.expires_locks.load(Ordering::SeqCst) {
            return self.inner.lock(&format!("{name}/after-expiry"), wait).await;
        }
        self.inner.lock(name, wait).await
    }

    fn session_alive(&self) -> bool {
        self.inner.session_alive()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
