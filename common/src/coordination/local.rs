//! The embedded coordinator: one process, state in memory, every change on the drives before it is told.
//!
//! ## Flow
//! 1. Start: read the copies of at least R0 = n − ⌊n/2⌋ drives, take the highest (generation, revision), continue above
//!    its reserved bound, and write that bound, so that a change which reached few drives does not vanish later. What was
//!    read can be looked at before anything is written.
//! 2. Change: check, write what changes to M = ⌊n/2⌋ + 1 drives, then apply, tell the watchers, answer.
//! 3. Locks and leased keys live in memory: they end with the process anyway. Their revisions come from the range
//!    that was reserved last.
//!
//! ## What is written
//! A drive's copy is a whole image and the changes since, each of which names the revision that it follows. A drive adds a
//! change only to a copy at that revision, so that each copy is complete at its newest revision; one whose copy is another
//! (it was away, or it has a change that reached few drives) is given the image as it is then. A change costs what it
//! changes. Once the changes are longer than the image, a whole one is written in place of the next change, and costs each
//! of them no more than its own length again. One that the drives do not take, because it is too long for them or they have no
//! room, is tried again once as much has changed again.
//!
//! ## Crash consistency
//! A change that reached fewer than M drives is answered `Unavailable` (outcome unknown). Its revision is spent: the
//! next one is higher, follows the one before it, and decides. R0 + M > n, so a start meets every answered change.
//!
//! ## Retries
//! None: what the drives did not take is answered, and the caller decides.
//!
//! ## Cancellation
//! A dropped future may leave a change written and not applied: the same as an unknown outcome.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::guard::NameLocks;
use super::state::{Plan, State};
use super::{
    CLUSTER_KEY, Change, Coordinator, CoordinatorError, Entry, Expected, Listing, LockGuard, RELIST,
    Revision, WatchEvent, Write,
};
use crate::node::{Snapshot, SnapshotChange, SnapshotKind, SnapshotLog};
use crate::types::Fence;

/// Events that may wait for a slow watcher; one that falls behind further gets a reset.
const WATCH_QUEUE: usize = 256;

/// Where the embedded coordinator keeps its image: one copy per drive.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// Number of drives that belong to the set, there or not.
    fn copies(&self) -> usize;

    /// The coordinator image of each drive that answered, with the changes since (`None`: that drive has none).
    async fn load(&self) -> Vec<Option<SnapshotLog>>;

    /// Writes the image to all drives; returns on how many it is durable.
    async fn store(&self, whole: Snapshot) -> usize;

    /// Adds the change to the copy of each drive, or has the drive store `whole`, the image after the change, where the copy is
    /// not the one that it changes; returns on how many it is durable. A store that keeps whole images only stores that.
    async fn append(&self, _change: SnapshotChange, whole: &(dyn Fn() -> Snapshot + Send + Sync)) -> usize {
        self.store(whole()).await
    }
}

/// What drives hold of this state if they have missed nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// The revision of the last durable change.
    revision: Revision,
    /// Bytes of the last image that was offered to the drives.
    whole_bytes: usize,
    /// Bytes of the changes since.
    change_bytes: usize,
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
    /// Held over a change, so that one follows the other.
    written: AsyncMutex<Written>,
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
        let logs = store.load().await;
        let needed = copies - copies / 2;
        if logs.len() < needed {
            let reason = format!("{} of {copies} drives answered, {needed} are needed", logs.len());
            return Err(CoordinatorError::Unavailable(reason));
        }
        let (state, written) = match logs.into_iter().flatten().max_by_key(SnapshotLog::newest) {
            None => (State::new(1), Written::default()),
            Some(log) => {
                let changes = log.changes().iter().map(|change| change.data.as_ref());
                let state = State::restore(&log.whole().data, changes, crate::random::random())
                    .map_err(|error| CoordinatorError::Refused(error.to_string()))?;
                (state, Written::of(&log))
            }
        };
        let shared = Arc::new(Mutex::new(Shared { state, watchers: Vec::new() }));
        Ok(Arc::new(Self {
            store,
            written: AsyncMutex::new(written),
            shared,
            locks: NameLocks::default(),
            open: Arc::new(AtomicBool::new(true)),
        }))
    }

    /// Writes a bound above what was read, and with it what was read to drives that do not have it; looks after the watchers
    /// from now on. To be called once, before any change.
    pub async fn begin(&self) {
        if let Err(error) = self.change(Vec::new(), true).await {
            tracing::warn!(%error, "the embedded coordinator is read-only until more drives are online");
        }
        tokio::spawn(keep_watchers_fresh(Arc::downgrade(&self.shared)));
    }

    /// Writes (if anything durable changes or `force`), then applies, then tells the watchers.
    async fn change(&self, writes: Vec<Write>, force: bool) -> Result<Revision, CoordinatorError> {
        let mut written = self.written.lock().await;
        let plan = {
            let mut shared = self.shared.lock();
            shared.state.check(&writes)?;
            if !force && !shared.state.exhausted() && !shared.state.durable(&writes) {
                let revision = shared.state.take_revision();
                let events = shared.state.apply(writes, revision);
                shared.tell(events);
                return Ok(revision);
            }
            shared.state.plan(generation_of(&writes))
        };
        self.write(&mut written, &writes, plan).await?;
        let mut shared = self.shared.lock();
        shared.state.confirm(plan);
        let events = shared.state.apply(writes, plan.revision);
        shared.tell(events);
        Ok(plan.revision)
    }

    /// Makes a planned change durable on M drives.
    async fn write(
        &self,
        written: &mut Written,
        writes: &[Write],
        plan: Plan,
    ) -> Result<(), CoordinatorError> {
        let (copies, kind) = (self.store.copies(), SnapshotKind::Coordinator);
        let needed = copies / 2 + 1;
        let Plan { generation, revision, .. } = plan;
        let whole = || {
            let state = self.shared.lock().state.clone();
            Snapshot { kind, generation, revision, data: state.image(writes.to_vec(), plan) }
        };
        let (mut durable, mut refused) = (0, false);
        if written.change_bytes > written.whole_bytes {
            let whole = whole();
            (written.whole_bytes, written.change_bytes) = (whole.data.len(), 0);
            durable = self.store.store(whole).await;
            refused = durable < needed;
        }
        if durable < needed {
            let data = self.shared.lock().state.change(writes, plan);
            written.change_bytes += data.len();
            let change = SnapshotChange { kind, previous: written.revision, generation, revision, data };
            durable = self.store.append(change, &whole).await;
        }
        if durable < needed {
            let reason = format!("{durable} of {copies} drives took the change, {needed} are needed");
            return Err(CoordinatorError::Unavailable(reason));
        }
        if refused {
            let bytes = written.whole_bytes;
            tracing::warn!(
                bytes,
                "drives take changes of the state, and not the whole of it: one that misses a change cannot catch up"
            );
        }
        written.revision = revision;
        Ok(())
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

impl Written {
    fn of(log: &SnapshotLog) -> Self {
        let change_bytes = log.changes().iter().map(|change| change.data.len()).sum();
        Self { revision: log.newest().1, whole_bytes: log.whole().data.len(), change_bytes }
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
