//! What a drive owes to other slots: the registers with a STABLE version that some slot has not acknowledged
//! (PROTOCOL §3.5).
//!
//! Owns a bounded set in memory that follows every change of a register, and the walk that fills it after a start or an
//! overflow. What is owed is durable in the registers themselves. Never sends anything: slots come and ask.
//!
//! 1. A register comes in when a version becomes STABLE without all slots having acknowledged it, and leaves when they
//!    have.
//! 2. After a start the set is empty and incomplete; [`DriveStore::find_owed`] walks over all registers, a piece at a
//!    time. What did not fit makes the next walk necessary, once there is room.
//! 3. [`DriveStore::owed_page`] answers from the set alone, and looks each register up before it tells it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use coffer_common::node::{NodeError, OwedPage, OwedRegister, OwedRequest};
use coffer_common::protocol::catch_up;
use coffer_common::protocol::quorum::Geometry;
use coffer_common::protocol::register::{PartitionState, Role};
use coffer_common::types::{PartitionId, RegisterKey, SlotIndex, SlotSet};
use parking_lot::Mutex;

use super::DriveStore;
use crate::image::Entry;

/// Most registers that are kept in mind: a minute's absence at two thousand writes a second, some 25 MiB.
const LIMIT: usize = 131_072;
/// Registers looked at in one go.
const PIECE: usize = 1024;
/// Bytes of metadata after which a page ends.
const PAGE_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
struct Inner {
    registers: BTreeMap<Bytes, (PartitionId, SlotSet)>,
    /// Whether every register that is owed is among them.
    complete: bool,
    /// Where the walk stopped, and whether everything has fitted since it began.
    walk: Option<(Vec<u8>, bool)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OwedSet {
    /// All slots of a partition, as a mask; none until the width of the cluster's stripes is known.
    all: AtomicU16,
    inner: Mutex<Inner>,
}

impl OwedSet {
    /// Follows a change of a register; called under its lock.
    pub(super) fn follow(&self, before: &Entry, after: &Entry) {
        let (was, owed) = (self.owed_by(before), self.owed_by(after));
        if was != owed {
            self.inner.lock().set(after, owed);
        }
    }

    /// Registers that are owed, and whether they are all.
    pub(super) fn known(&self) -> (usize, bool) {
        let inner = self.inner.lock();
        (inner.registers.len(), inner.complete)
    }

    fn owed_by(&self, entry: &Entry) -> SlotSet {
        let others = self.all.load(Ordering::Relaxed) & !(1 << entry.slot.0);
        catch_up::owed(&entry.register, entry.kind(), SlotSet(others))
    }
}

/// A register, its partition, and the slot that is owed something of it.
type OwedKey = (Bytes, PartitionId, SlotIndex);

impl Inner {
    fn set(&mut self, entry: &Entry, owed: SlotSet) {
        if owed.is_empty() {
            self.registers.remove(&entry.key);
        } else if self.registers.len() < LIMIT || self.registers.contains_key(&entry.key) {
            self.registers.insert(entry.key.clone(), (entry.partition, owed));
        } else {
            self.complete = false;
            if let Some((_, fitted)) = &mut self.walk {
                *fitted = false;
            }
        }
    }

    /// The next registers after `after` of which one of the slots is owed something.
    fn next(&self, request: &OwedRequest) -> (Vec<OwedKey>, bool) {
        let after = match request.after.is_empty() {
            true => Bound::Unbounded,
            false => Bound::Excluded(request.after.clone()),
        };
        let slot_of = |(key, (partition, owed)): (&Bytes, &(PartitionId, SlotSet))| {
            let at = request.slots.binary_search_by_key(partition, |(partition, _)| *partition).ok()?;
            let (_, slot) = request.slots[at];
            owed.contains(slot).then(|| (key.clone(), *partition, slot))
        };
        let mut found = self.registers.range((after, Bound::Unbounded)).filter_map(slot_of);
        let page: Vec<_> = found.by_ref().take(request.limit as usize).collect();
        (page, found.next().is_some())
    }
}

impl DriveStore {
    /// Tells how many slots a partition has: before that nothing is known to be owed.
    pub(crate) fn expect_slots(&self, n: u8) {
        self.owed.all.store(Geometry::new(n).all().0, Ordering::Relaxed);
    }

    /// Whether [`Self::find_owed`] has to be called: after a start, and when there is room again for what did not fit.
    pub(crate) fn misses_owed(&self) -> bool {
        let inner = self.owed.inner.lock();
        let expects = self.owed.all.load(Ordering::Relaxed) != 0;
        expects && !inner.complete && inner.registers.len() < LIMIT / 2
    }

    /// Looks at the next registers; true at the end of the walk.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn find_owed(self: &Arc<Self>) -> Result<bool, NodeError> {
        self.check_health()?;
        let walked = self.run(|store| store.walk_owed().map_err(|error| error.to_string()));
        walked.await?.map_err(|error| self.unavailable(error))
    }

    fn walk_owed(&self) -> Result<bool, crate::index::IndexError> {
        let after = {
            let mut inner = self.owed.inner.lock();
            inner.walk.get_or_insert_with(|| (Vec::new(), true)).0.clone()
        };
        let from = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after) };
        let mut scan = self.index.scan(from, Vec::new());
        let (mut last, mut walked) = (None, 0);
        for _ in 0..PIECE {
            let Some(found) = scan.next()? else { break };
            let entry = found.entry()?;
            last = Some(entry.key.to_vec());
            walked += 1;
            let owed = self.owed.owed_by(&entry);
            let mut inner = self.owed.inner.lock();
            // What is there was followed, and is newer.
            if !owed.is_empty() && !inner.registers.contains_key(&entry.key) {
                inner.set(&entry, owed);
            }
        }
        metrics::counter!("coffer_heal_walked_registers_total").increment(walked);
        let mut inner = self.owed.inner.lock();
        let Some((at, fitted)) = &mut inner.walk else { return Ok(true) };
        if let Some(last) = last {
            *at = last;
            return Ok(false);
        }
        inner.complete = *fitted;
        inner.walk = None;
        Ok(true)
    }

    /// A page of what this drive owes to the slots that ask.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn owed_page(
        self: &Arc<Self>,
        request: Arc<OwedRequest>,
    ) -> Result<OwedPage, NodeError> {
        self.check_health()?;
        let (keys, more, complete) = {
            let inner = self.owed.inner.lock();
            let (keys, more) = inner.next(&request);
            (keys, more, inner.complete)
        };
        if keys.is_empty() {
            return Ok(OwedPage { registers: Vec::new(), next: Bytes::new(), complete });
        }
        let looked_up = self.run(move |store| {
            let mut page = OwedPage { registers: Vec::new(), next: Bytes::new(), complete };
            let (mut bytes, mut keys) = (0, keys.into_iter().peekable());
            while let Some(owed) = keys.next() {
                let key = owed.0.clone();
                if let Some(owed) = store.look_up_owed(owed)? {
                    bytes += owed.versions.iter().map(|held| held.version.metadata.len()).sum::<usize>();
                    page.registers.push(owed);
                }
                let left = keys.peek().is_some();
                if (left && bytes >= PAGE_BYTES) || (!left && more) {
                    page.next = key;
                    break;
                }
            }
            Ok::<_, String>(page)
        });
        let page = looked_up.await?.map_err(|error| self.unavailable(error))?;
        // What is told is durable: a crash of this drive must not take back what another slot has recorded.
        self.journal.durable(self.journal.last_sequence()).await.map_err(|error| self.unavailable(error))?;
        Ok(page)
    }

    fn look_up_owed(&self, (key, partition, slot): OwedKey) -> Result<Option<OwedRegister>, String> {
        // Before the register is looked at: a purge in between makes what is told worthless, not wrong.
        let PartitionState { epoch, role, .. } = self.partition(partition);
        let entry = self.index.get(&key).map_err(|error| error.to_string())?;
        // What a drive knows of a partition that it has left is of no use to those that went on.
        let owed = entry.filter(|_| role != Role::Out);
        let owed = owed
            .map(|entry| catch_up::owed_to(&entry.register, entry.kind(), slot).cloned().collect::<Vec<_>>());
        let Some(versions) = owed.filter(|versions| !versions.is_empty()) else {
            // The walk may have met an older state than what was followed at the same time.
            let mut inner = self.owed.inner.lock();
            if let Some((_, owed)) = inner.registers.get_mut(&key) {
                owed.0 &= !(1 << slot.0);
                if owed.is_empty() {
                    inner.registers.remove(&key);
                }
            }
            return Ok(None);
        };
        let register = RegisterKey::decode(&key).map_err(|error| error.to_string())?;
        Ok(Some(OwedRegister { register, partition, epoch, versions }))
    }
}
