//! A drive's health: online → suspect → failed, and read-only when full.
//!
//! Owns: the verdict and its reason. Poison is for ever (until the process starts again and recovers the journal):
//! after a failed sync nobody knows what the kernel dropped, so nothing of the drive is served or retried.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use coffer_common::node::DriveState;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::io::Space;

/// A running call older than this makes the drive suspect.
const SUSPECT_AFTER: Duration = Duration::from_secs(5);
/// A running call older than this makes it failed.
const FAILED_AFTER: Duration = Duration::from_secs(60);
/// Read errors that make a drive suspect.
const SUSPECT_ERRORS: u32 = 3;
/// Read errors count no longer when none has come for this long.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// Writes of data are refused when fewer free bytes are left than the smaller of this and one twentieth of the
/// capacity; commits, deletes and compaction go on in what remains.
const RESERVE_BYTES: u64 = 1 << 30;

/// The health of one drive.
#[derive(Debug, Default)]
pub(crate) struct Health {
    poison: Mutex<Option<String>>,
    read_errors: AtomicU32,
    last_error: Mutex<Option<Instant>>,
    full: AtomicU32,
    capacity: AtomicU64,
    free: AtomicU64,
    file_system: AtomicU64,
}

impl Health {
    /// Fails the drive for the life of this process. The first reason is kept.
    pub(crate) fn poison(&self, reason: impl Into<String>) {
        let mut poison = self.poison.lock();
        if poison.is_none() {
            let reason = reason.into();
            tracing::error!(reason, "drive is failed");
            *poison = Some(reason);
        }
    }

    /// Why the drive is failed, if it is.
    pub(crate) fn poisoned(&self) -> Option<String> {
        self.poison.lock().clone()
    }

    /// Counts a read that failed or did not verify.
    pub(crate) fn read_error(&self) {
        *self.last_error.lock() = Some(Instant::now());
        self.read_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgives read errors once none has come for a while.
    pub(crate) fn forget_old_errors(&self) {
        if self.last_error.lock().is_some_and(|at| at.elapsed() >= FORGIVEN_AFTER) {
            self.read_errors.store(0, Ordering::Relaxed);
        }
    }

    /// Takes note of the room that is left.
    pub(crate) fn set_space(&self, space: Space) {
        self.capacity.store(space.capacity, Ordering::Relaxed);
        self.free.store(space.free, Ordering::Relaxed);
        self.file_system.store(space.file_system, Ordering::Relaxed);
        self.full.store(u32::from(space.free < reserve(space.capacity)), Ordering::Relaxed);
    }

    /// Counts bytes of data that were just written, so that a fast writer does not eat the reserve before the room is
    /// looked at again.
    pub(crate) fn spend(&self, bytes: u64) {
        let spend = |free: u64| Some(free.saturating_sub(bytes));
        let before = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).unwrap_or_default();
        if before.saturating_sub(bytes) < reserve(self.capacity.load(Ordering::Relaxed)) {
            self.set_full();
        }
    }

    /// A write met "no space": read-only until room is seen again.
    pub(crate) fn set_full(&self) {
        self.full.store(1, Ordering::Relaxed);
    }

    /// Whether writes of data are refused.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed) != 0
    }

    /// Its file system, as last seen.
    pub(crate) fn space(&self) -> Space {
        Space {
            capacity: self.capacity.load(Ordering::Relaxed),
            free: self.free.load(Ordering::Relaxed),
            file_system: self.file_system.load(Ordering::Relaxed),
        }
    }

    /// The verdict and its reason; `oldest_job` is the age of the oldest running call.
    pub(crate) fn state(&self, oldest_job: Duration) -> (DriveState, String) {
        let errors = self.read_errors.load(Ordering::Relaxed);
        if let Some(reason) = self.poisoned() {
            (DriveState::Failed, reason)
        } else if oldest_job > FAILED_AFTER {
            (DriveState::Failed, format!("a call has been hanging for {} s", oldest_job.as_secs()))
        } else if oldest_job > SUSPECT_AFTER {
            (DriveState::Suspect, format!("a call has been running for {} s", oldest_job.as_secs()))
        } else if self.is_full() {
            (DriveState::ReadOnly, "the drive is full: deletes and reads only".to_owned())
        } else if errors >= SUSPECT_ERRORS {
            (DriveState::Suspect, format!("{errors} reads failed or did not verify"))
        } else {
            (DriveState::Online, String::new())
        }
    }
}

/// What of a drive is kept for commits, deletes, the index and compaction.
fn reserve(capacity: u64) -> u64 {
    RESERVE_BYTES.min(capacity / 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_outranks_everything_and_keeps_its_first_reason() {
        let health = Health::default();
        assert_eq!(health.state(Duration::ZERO).0, DriveState::Online);
        health.set_space(Space { capacity: 1000, free: 49, file_system: 0 });
        assert_eq!(health.state(Duration::ZERO).0, DriveState::ReadOnly);
        health.set_space(Space { capacity: 1000, free: 50, file_system: 0 });
        assert_eq!(health.state(Duration::ZERO).0, DriveState::Online);
        health.spend(1);
        assert_eq!((health.state(Duration::ZERO).0, health.space().free), (DriveState::ReadOnly, 49));
        assert_eq!(health.state(Duration::from_secs(6)).0, DriveState::Suspect);
        health.poison("sync failed");
        health.poison("later");
        assert_eq!(health.state(Duration::ZERO), (DriveState::Failed, "sync failed".to_owned()));
    }
}
