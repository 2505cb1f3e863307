//! Has what would be in each other's way within this process go one after the other. Only saves work: between processes
//! the registers decide.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use coffer_common::types::{BucketId, ObjectKey};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Locks that keys are spread over.
const LOCKS: usize = 1024;

/// See the module.
pub(super) struct Turns(Vec<Arc<Mutex<()>>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..LOCKS).map(|_| Arc::default()).collect())
    }
}

impl Turns {
    /// Waits for a turn with a key; it ends when the guard is dropped.
    pub(super) async fn take(&self, bucket: BucketId, key: &ObjectKey) -> OwnedMutexGuard<()> {
        let mut hasher = DefaultHasher::new();
        (bucket, key).hash(&mut hasher);
        Arc::clone(&self.0[hasher.finish() as usize % LOCKS]).lock_owned().await
    }
}
