//! Which registers of a drive hold a current version COMMITTED but not STABLE, and when each is to be settled.
//!
//! Owns a bounded set in memory that follows every change of a register. A drive at rest has none, and looking at it
//! costs nothing. Never settles anything: `crate::settle` does.
//!
//! 1. A register comes in when its current version becomes COMMITTED, and leaves when that becomes STABLE.
//! 2. It is due after [`SETTLE_AFTER`] and a step more for each slot before this one, so that as a rule one slot settles
//!    and the others hear STABLE from it in time.
//! 3. What was handed out and has not become STABLE is due again later and later.
//! 4. After a start, and once there is room again after an overflow, [`DriveStore::find_unsettled`] walks over the
//!    registers that the index has marked as unfinished.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_common::limits::SETTLE_AFTER;
use coffer_common::node::{NodeError, SlotAddress};
use coffer_common::protocol::message::VersionState;
use coffer_common::types::{OpId, RegisterKey, SlotIndex};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::DriveStore;
use crate::image::Entry;

/// Most registers that are kept in mind.
const LIMIT: usize = 65_536;
/// A STABLE told by the slot before has arrived within this time.
const SLOT_STEP: Duration = Duration::from_millis(300);
/// Longest time between two tries of one register.
const RETRY_LIMIT: Duration = Duration::from_secs(60);
/// Registers looked at in one go.
const PIECE: usize = 1024;
/// Between two pieces: the drive has other things to do.
const PIECE_PAUSE: Duration = Duration::from_millis(10);

/// A register whose current version is COMMITTED here for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsettled {
    /// Its encoded key.
    pub(crate) key: Bytes,
    /// The register.
    pub(crate) register: RegisterKey,
    /// The slot, as this drive knows it.
    pub(crate) address: SlotAddress,
    /// The revision of its bucket that this drive has adopted.
    pub(crate) bucket_revision: u64,
    /// The op of the current version.
    pub(crate) op: OpId,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    op: OpId,
    slot: SlotIndex,
    due: Instant,
    tries: u32,
}

#[derive(Debug, Default)]
struct Inner {
    registers: BTreeMap<Bytes, Wait>,
    /// Whether every unsettled register of the drive is among them.
    complete: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UnsettledSet(Mutex<Inner>);

impl UnsettledSet {
    /// Follows a change of a register; called under its lock.
    pub(super) fn follow(&self, before: &Entry, after: &Entry) {
        let (before, op) = (current(before), current(after));
        if before == op {
            return;
        }
        let mut inner = self.0.lock();
        inner.registers.remove(&after.key);
        if let Some(op) = op {
            inner.add(after.key.clone(), op, after.slot);
        }
    }
}

impl Inner {
    fn add(&mut self, key: Bytes, op: OpId, slot: SlotIndex) {
        if self.registers.len() >= LIMIT {
            self.complete = false;
            return;
        }
        let due = Instant::now() + SETTLE_AFTER + SLOT_STEP * u32::from(slot.0);
        self.registers.entry(key).or_insert(Wait { op, slot, due, tries: 0 });
    }

    /// Registers that are due, at most `limit`; each is due again only after some time.
    fn take_due(&mut self, limit: usize) -> Vec<(Bytes, OpId)> {
        let now = Instant::now();
        let due = self.registers.iter_mut().filter(|(_, wait)| wait.due <= now).take(limit);
        due.map(|(key, wait)| {
            wait.tries = wait.tries.saturating_add(1);
            let pause = (SETTLE_AFTER * 2_u32.saturating_pow(wait.tries)).min(RETRY_LIMIT);
            wait.due = now + pause + SLOT_STEP * u32::from(wait.slot.0);
            (key.clone(), wait.op)
        })
        .collect()
    }

    fn holds(&self, key: &Bytes, op: OpId) -> bool {
        self.registers.get(key).is_some_and(|wait| wait.op == op)
    }
}

/// The op of the current version, if that is COMMITTED only.
fn current(entry: &Entry) -> Option<OpId> {
    let current = entry.register.current().filter(|current| current.state == VersionState::Committed);
    current.map(|current| current.version.op)
}

impl DriveStore {
    /// Whether [`Self::find_unsettled`] has to be called: after a start, and when there is room again for what did not
    /// fit.
    pub(crate) fn misses_unsettled(&self) -> bool {
        let inner = self.unsettled.0.lock();
        !inner.complete && inner.registers.len() < LIMIT / 2
    }

    /// Finds the unsettled registers among all those that have something unfinished.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read; not all are known then.
    pub(crate) async fn find_unsettled(self: &Arc<Self>) -> Result<(), NodeError> {
        // An overflow from now on takes it back.
        self.unsettled.0.lock().complete = true;
        let found = self.walk_unsettled().await;
        if found.is_err() {
            self.unsettled.0.lock().complete = false;
        }
        found
    }

    async fn walk_unsettled(self: &Arc<Self>) -> Result<(), NodeError> {
        self.check_health()?;
        // The walk sees what is in the table; what comes later is followed.
        self.run(|store| store.apply(false)).await?;
        let mut after = Vec::new();
        loop {
            let walked = self.run(move |store| {
                store.for_attention(after, PIECE, |key, entry| {
                    if let Some(op) = current(entry) {
                        store.unsettled.0.lock().add(key, op, entry.slot);
                    }
                    Ok(())
                })
            });
            after = walked.await?.map_err(|error| self.unavailable(error))?;
            if after.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PIECE_PAUSE).await;
        }
    }

    /// Registers that are to be settled now, at most `limit`.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn due_for_settling(
        self: &Arc<Self>,
        limit: usize,
    ) -> Result<Vec<Unsettled>, NodeError> {
        let due = self.unsettled.0.lock().take_due(limit);
        if due.is_empty() {
            return Ok(Vec::new());
        }
        self.check_health()?;
        let looked_up = self.run(move |store| {
            let found = due.into_iter().map(|(key, op)| store.look_up_unsettled(key, op));
            found.filter_map(Result::transpose).collect::<Result<Vec<_>, String>>()
        });
        looked_up.await?.map_err(|error| self.unavailable(error))
    }

    fn look_up_unsettled(&self, key: Bytes, op: OpId) -> Result<Option<Unsettled>, String> {
        let entry = self.index.get(&key).map_err(|error| error.to_string())?;
        let Some(entry) = entry.filter(|entry| current(entry) == Some(op)) else {
            // The walk may have met an older state than what was followed at the same time.
            let mut inner = self.unsettled.0.lock();
            if inner.holds(&key, op) {
                inner.registers.remove(&key);
            }
            return Ok(None);
        };
        let register = RegisterKey::decode(&key).map_err(|error| error.to_string())?;
        let bucket_revision = self.slots.read().bucket(register.bucket).0.revision;
        Ok(Some(Unsettled { key, register, address: self.own_address(&entry), bucket_revision, op }))
    }

    /// Whether it is still unsettled.
    pub(crate) fn is_unsettled(&self, unsettled: &Unsettled) -> bool {
        self.unsettled.0.lock().holds(&unsettled.key, unsettled.op)
    }

    /// It was not tried after all: it is due again after [`SETTLE_AFTER`], as if it had not been.
    pub(crate) fn postpone_settling(&self, unsettled: &Unsettled) {
        if let Some(wait) = self.unsettled.0.lock().registers.get_mut(&unsettled.key) {
            wait.tries = wait.tries.saturating_sub(1);
            wait.due = Instant::now() + SETTLE_AFTER;
        }
    }
}
