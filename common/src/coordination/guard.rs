//! A held lock, and the turns that callers of one process take before they contend with other processes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::types::Fence;

/// A held lock; dropping it gives it back in the background.
///
/// Holding it proves nothing to anybody else: show the fence to the slots, which refuse lower ones.
pub struct LockGuard {
    fence: Fence,
    held: Box<dyn Fn() -> bool + Send + Sync>,
    release: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl LockGuard {
    pub(super) fn new(
        fence: Fence,
        held: impl Fn() -> bool + Send + Sync + 'static,
        release: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        Self { fence, held: Box::new(held), release: Some(Box::new(release)) }
    }

    /// The lock's fence: the cluster generation and the create revision of the lock's key.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Whether, as far as this process knows, the session that holds the lock is alive. `false` is certain, `true` is not.
    pub fn held(&self) -> bool {
        (self.held)()
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("fence", &self.fence).field("held", &self.held()).finish()
    }
}

type Table = Mutex<HashMap<String, Arc<AsyncMutex<()>>>>;

/// One fair queue per lock name within the process.
#[derive(Clone, Default)]
pub(super) struct NameLocks(Arc<Table>);

/// This caller's turn at a name; dropping it passes the turn on.
pub(super) struct Turn {
    table: Arc<Table>,
    name: String,
    turn: Option<OwnedMutexGuard<()>>,
}

impl NameLocks {
    /// Waits for the turn for at most `wait`.
    pub(super) async fn take(&self, name: &str, wait: Duration) -> Option<Turn> {
        let queue = self.0.lock().entry(name.to_owned()).or_default().clone();
        let turn = tokio::time::timeout(wait, queue.lock_owned()).await.ok();
        let taken = turn.is_some();
        // Without a turn this only tidies the table.
        let turn = Turn { table: self.0.clone(), name: name.to_owned(), turn };
        taken.then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        drop(self.turn.take());
        if table.get(&self.name).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            table.remove(&self.name);
        }
    }
}
