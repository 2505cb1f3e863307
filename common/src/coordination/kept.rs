//! A lock that one process of a cluster keeps, for work of which one at a time is enough.

use std::time::Duration;

use super::{Coordinator, LockGuard};

/// How long a try takes.
const WAIT: Duration = Duration::from_secs(1);

/// Whether this process is the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// As before.
    Still,
    /// Since now.
    Anew,
    /// Another one is, or nobody knows.
    No,
}

/// The lock. It saves work and protects nothing: one that is lost may be noticed late.
#[derive(Debug)]
pub struct KeptLock {
    name: String,
    guard: Option<LockGuard>,
}

impl KeptLock {
    /// Not taken yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), guard: None }
    }

    /// Tries to take it, unless it is still held.
    pub async fn keep(&mut self, coordinator: &dyn Coordinator) -> Kept {
        if self.guard.as_ref().is_some_and(LockGuard::held) {
            return Kept::Still;
        }
        // A lost one would be in the way of the next.
        drop(self.guard.take());
        self.guard = coordinator.lock(&self.name, WAIT).await.ok();
        if self.guard.is_some() { Kept::Anew } else { Kept::No }
    }
}
