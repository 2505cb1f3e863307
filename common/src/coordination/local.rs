//! The embedded coordinator: one process, state in memory, every change on the drives before it is told.
//!
//! ## Flow
//! 1. Start: read the images of at least R0 = n − ⌊n/2⌋ drives, take the highest (generation, revision), continue above
//!    its reserved bound, and write it back, so that a change which reached few drives does not vanish later. What was
//!    read can be looked at before anything is written.
//! 2. Change: check, write the new image to M = ⌊n/2⌋ + 1 drives, then apply, tell the watchers, answer.
//! 3. Locks and leased keys live in memory: they end with the process anyway. Their revisions come from the range
//!    that the last image reserved.
//!
//! ## Crash consistency
//! An image that reached fewer than M drives is answered `Unavailable` (outcome unknown). Its revision is spent: the
//! next image has a higher one and decides. R0 + M > n, so a start meets every answered change.
//!
//! ## Cancellation
//! A dropped future may leave an image written and not applied: the same as an unknown outcome.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::guard::NameLocks;
use super::state::State;
use super::{
    CLUSTER_KEY, Change, Coordinator, CoordinatorError, Entry, Expected, Listing, LockGuard, RELIST,
    Revision, WatchEvent, Write,
};
use crate::node::{Snapshot, SnapshotKind};
use crate::types::Fence;

/// Events that may wait for a slow watcher; one that falls behind further gets a reset.
const WATCH_QUEUE: usize = 256;

/// Where the embedded coordinator keeps its image: one copy per drive.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// Number of drives that belong to the set, there or not.
    fn copies(&self) -> usize;

    /// The coordinator image of each drive that answered (`None`: that drive has none).
    async fn load(&self) -> Vec<Option<Snapshot>>;

    /// Writes the image to all drives; returns on how many it is durable.
    async fn store(&self, snapshot: Snapshot) -> usize;
}

struct Watcher {
    prefix: String,
    sender: mpsc::Sender<WatchEvent>,
    behind: bool,
}

struct Shared {
    state: State,
    watchers: Vec<Watcher>,
}

/// The embedded coordinator.
pub struct LocalCoordinator {
    store: Arc<dyn SnapshotStore>,
    /// Held over a change, so that images are written one after the other.
    writer: AsyncMutex<()>,
    shared: Arc<Mutex<Shared>>,
    locks: NameLocks,
    open: Arc<AtomicBool>,
}

impl LocalCoordinator {
    /// [`Self::open`] and [`Self::begin`].
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub async fn start(store: Arc<dyn SnapshotStore>) -> Result<Arc<Self>, CoordinatorError> {
        let coordinator = Self::open(store).await?;
        coordinator.begin().await;
        Ok(coordinator)
    }

    /// Reads the state from the drives and writes nothing; a set without any image begins empty.
    ///
    /// # Errors
    /// `Unavailable` if fewer than R0 drives answered, `Refused` if an image cannot be understood.
    pub async fn open(store: Arc<dyn SnapshotStore>) -> Result<Arc<Self>, CoordinatorError> {
        let copies = store.copies();
        let images = store.load().await;
        let needed = copies - copies / 2;
        if images.len() < needed {
            let reason = format!("{} of {copies} drives answered, {needed} are needed", images.len());
            return Err(CoordinatorError::Unavailable(reason));
        }
        let highest = images.into_iter().flatten().max_by_key(|image| (image.generation, image.revision));
        let state = match highest {
            None => State::new(1),
            Some(image) => State::restore(&image.data, crate::random::random())
                .map_err(|error| CoordinatorError::Refused(error.to_string()))?,
        };
        let shared = Arc::new(Mutex::new(Shared { state, watchers: Vec::new() }));
        Ok(Arc::new(Self {
            store,
            writer: AsyncMutex::new(()),
            shared,
            locks: NameLocks::default(),
            open: Arc::new(AtomicBool::new(true)),
        }))
    }

    /// Writes what was read back, and looks after the watchers from now on. To be called once, before any change.
    pub async fn begin(&self) {
        if let Err(error) = self.change(Vec::new(), true).await {
            tracing::warn!(%error, "the embedded coordinator is read-only until more drives are online");
        }
        tokio::spawn(keep_watchers_fresh(Arc::downgrade(&self.shared)));
    }

    /// Writes (if anything durable changes or `force`), then applies, then tells the watchers.
    async fn change(&self, writes: Vec<Write>, force: bool) -> Result<Revision, CoordinatorError> {
        let _writer = self.writer.lock().await;
        let planned = {
            let mut shared = self.shared.lock();
            shared.state.check(&writes)?;
            if force || shared.state.exhausted() || shared.state.durable(&writes) {
                Some(shared.state.plan(writes.clone(), generation_of(&writes)))
            } else {
                None
            }
        };
        let Some((next, revision)) = planned else {
            let mut shared = self.shared.lock();
            let revision = shared.state.take_revision();
            let events = shared.state.apply(writes, revision);
            shared.tell(events);
            return Ok(revision);
        };
        let snapshot = Snapshot {
            kind: SnapshotKind::Coordinator,
            generation: next.generation(),
            revision,
            data: next.encode(),
        };
        let (copies, durable) = (self.store.copies(), self.store.store(snapshot).await);
        let needed = copies / 2 + 1;
        if durable < needed {
            let reason = format!("{durable} of {copies} drives took the change, {needed} are needed");
            return Err(CoordinatorError::Unavailable(reason));
        }
        let mut shared = self.shared.lock();
        shared.state.confirm(&next);
        let events = shared.state.apply(writes, revision);
        shared.tell(events);
        Ok(revision)
    }

    async fn lock_revision(&self) -> Result<Fence, CoordinatorError> {
        loop {
            {
                let mut shared = self.shared.lock();
                if !shared.state.exhausted() {
                    let revision = shared.state.take_revision();
                    return Ok(Fence { generation: shared.state.generation(), revision });
                }
            }
            self.change(Vec::new(), true).await?;
        }
    }
}

fn generation_of(writes: &[Write]) -> Option<u32> {
    let write = writes.iter().find(|write| write.key == CLUSTER_KEY)?;
    match &write.change {
        Change::Put { value, .. } => super::record_generation(value),
        Change::Delete | Change::Check => None,
    }
}

impl Shared {
    fn tell(&mut self, events: Vec<WatchEvent>) {
        for event in events {
            let key = match &event {
                WatchEvent::Put(entry) => &entry.key,
                WatchEvent::Delete { key, .. } => key,
                WatchEvent::Reset(_) => continue,
            };
            for watcher in &mut self.watchers {
                if !watcher.behind && key.starts_with(&watcher.prefix) {
                    watcher.behind = watcher.sender.try_send(event.clone()).is_err();
                }
            }
        }
    }

    fn reset(&mut self, all: bool) {
        self.watchers.retain(|watcher| !watcher.sender.is_closed());
        for watcher in &mut self.watchers {
            if all || watcher.behind {
                let listing = self.state.list(&watcher.prefix);
                watcher.behind = watcher.sender.try_send(WatchEvent::Reset(listing)).is_err();
            }
        }
    }
}

/// Resets watchers that fell behind, and all of them every 30 s, as long as the coordinator lives.
async fn keep_watchers_fresh(shared: Weak<Mutex<Shared>>) {
    let ticks_per_relist = RELIST.as_secs().max(1);
    for tick in 1_u64.. {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.lock().reset(tick % ticks_per_relist == 0);
    }
}

#[async_trait]
impl Coordinator for LocalCoordinator {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CoordinatorError> {
        Ok(self.shared.lock().state.get(key))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, CoordinatorError> {
        Ok(self.shared.lock().state.list(prefix))
    }

    async fn transaction(&self, writes: Vec<Write>) -> Result<Revision, CoordinatorError> {
        self.change(writes, false).await
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        let mut shared = self.shared.lock();
        let behind = sender.try_send(WatchEvent::Reset(shared.state.list(prefix))).is_err();
        shared.watchers.push(Watcher { prefix: prefix.to_owned(), sender, behind });
        receiver
    }

    async fn lock(&self, name: &str, wait: Duration) -> Result<LockGuard, CoordinatorError> {
        if !self.session_alive() {
            return Err(CoordinatorError::SessionLost);
        }
        let Some(turn) = self.locks.take(name, wait).await else {
            return Err(CoordinatorError::Locked { name: name.to_owned() });
        };
        let fence = self.lock_revision().await?;
        let open = self.open.clone();
        Ok(LockGuard::new(fence, move || open.load(Ordering::Acquire), move || drop(turn)))
    }

    fn session_alive(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    async fn close(&self) {
        self.open.store(false, Ordering::Release);
        let leased = self.shared.lock().state.leased_keys();
        let delete = |key| Write { key, expected: Expected::Any, change: Change::Delete };
        if let Err(error) = self.change(leased.into_iter().map(delete).collect(), false).await {
            tracing::debug!(%error, "leased keys were not removed at the end of the session");
        }
    }
}

#[cfg(test)]
mod tests;
