//! What a drive owes to other slots: the registers with a STABLE version that some slot has not acknowledged
//! (PROTOCOL §3.5).
//!
//! Owns a bounded set in memory that follows every change of a register, and the walk that fills it after a start or an
//! overflow. What is owed is durable in the registers themselves. Never sends anything: slots come and ask.
//!
//! 1. A register comes in when a version becomes STABLE without all slots having acknowledged it, and leaves when they
//!    have.
//! 2. Of the drives that hold the slots each has its share: as many registers as there is room left. So one that stays away
//!    fills half of the set, and there is room for what the next one misses.
//! 3. What does not fit leaves a [`Gap`] for that drive alone: from that key on the set may lack something. After a start
//!    all drives have a gap from the first key on. A slot of a drive with a gap is never told that it knows all.
//! 4. [`DriveStore::find_owed`] walks over the registers in a gap, a piece at a time, while the drive's share is mostly
//!    empty, and moves the gap's beginning: a drive that comes back is told what it missed as fast as it takes it over,
//!    whoever else stays away.
//! 5. [`DriveStore::owed_page`] answers from the set alone, and looks each register up before it tells it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::node::{NodeError, OwedPage, OwedRegister, OwedRequest};
use coffer_common::protocol::catch_up;
use coffer_common::protocol::quorum::Geometry;
use coffer_common::protocol::register::{PartitionState, Role};
use coffer_common::types::{DriveId, PartitionId, RegisterKey, SlotIndex, SlotSet};
use parking_lot::Mutex;

use super::DriveStore;
use super::mutate::Loaded;
use crate::image::Entry;

/// Most registers that are kept in mind, some 25 MiB: half of it is a minute's absence at a thousand writes a second.
const LIMIT: usize = 131_072;
/// The part of the limit that every drive's share has at least.
const LEAST_SHARE: usize = 128;
/// Registers looked at in one go.
const PIECE: usize = 1024;
/// Bytes of metadata after which a page ends.
const PAGE_BYTES: usize = 1 << 20;

/// A drive that holds slots beside this one's.
#[derive(Clone, Debug, Default)]
struct Peer {
    /// Registers in the set that are owed to it.
    held: usize,
    gap: Option<Gap>,
}

/// What the set may lack of what is owed to a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Gap {
    /// It has all registers below this key.
    from: Bytes,
    /// Whether there is something that did not fit since the walk's last piece began.
    widened: bool,
}

impl Peer {
    /// The set may lack something from this key on.
    fn lack(&mut self, key: &Bytes) {
        let gap = self.gap.get_or_insert_with(|| Gap { from: key.clone(), widened: true });
        if *key < gap.from {
            gap.from = key.clone();
        }
        gap.widened = true;
    }
}

#[derive(Debug)]
struct Inner {
    /// The registers, and the slots that they are held for.
    registers: BTreeMap<Bytes, (PartitionId, SlotSet)>,
    /// Who holds each slot, partition by partition, as a place in `peers`; nothing until that is known.
    holders: Vec<u16>,
    /// Slots of a partition.
    n: u8,
    peers: Vec<Peer>,
    limit: usize,
    piece: usize,
}

impl Default for Inner {
    fn default() -> Self {
        let (registers, holders, peers) = Default::default();
        Self { registers, holders, n: 0, peers, limit: LIMIT, piece: PIECE }
    }
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
            self.inner.lock().set(&after.key, after.partition, owed);
        }
    }

    /// Registers that are owed, and whether they are all.
    pub(super) fn known(&self) -> (usize, bool) {
        let inner = self.inner.lock();
        let complete = !inner.peers.is_empty() && inner.peers.iter().all(|peer| peer.gap.is_none());
        (inner.registers.len(), complete)
    }

    fn owed_by(&self, entry: &Entry) -> SlotSet {
        let others = self.all.load(Ordering::Relaxed) & !(1 << entry.slot.0);
        catch_up::owed(&entry.register, entry.kind(), SlotSet(others))
    }

    /// Keeps fewer registers in mind, and walks in smaller pieces.
    #[cfg(test)]
    pub(super) fn shrink(&self, limit: usize, piece: usize) {
        let mut inner = self.inner.lock();
        (inner.limit, inner.piece) = (limit, piece);
    }
}

/// A register, its partition, and the slot that is owed something of it.
type OwedKey = (Bytes, PartitionId, SlotIndex);

impl Inner {
    /// Registers that fit.
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.registers.len())
    }

    /// Most registers of a drive's share: as many as there is room left, and some however many drives are away.
    fn share(&self) -> usize {
        self.room().max(self.limit / LEAST_SHARE)
    }

    /// The place in `peers` of the drive that holds a slot; nothing if there is no such slot.
    fn holder(&self, partition: PartitionId, slot: SlotIndex) -> Option<usize> {
        let at = usize::from(partition.0) * usize::from(self.n) + usize::from(slot.0);
        self.holders.get(at).filter(|_| slot.0 < self.n).map(|place| usize::from(*place))
    }

    /// Takes over who holds the slots now.
    fn regroup(&mut self, n: u8, holders: Vec<u16>) {
        let count = holders.iter().max().map_or(0, |last| usize::from(*last) + 1);
        let mut peers = vec![Peer::default(); count];
        let start = Gap::default();
        for (at, place) in holders.iter().enumerate() {
            // A slot takes its gap along.
            let before = self.holders.get(at).map(|place| self.peers[usize::from(*place)].gap.as_ref());
            if let Some(gap) = before.unwrap_or(Some(&start)) {
                peers[usize::from(*place)].lack(&gap.from);
            }
        }
        (self.n, self.holders, self.peers) = (n, holders, peers);
        if self.room() < self.limit / 4 {
            // Shares may have grown together, and leave no room for others.
            for (key, (partition, slots)) in std::mem::take(&mut self.registers) {
                self.set(&key, partition, slots);
            }
            return;
        }
        for (partition, slots) in self.registers.values() {
            for slot in slots.iter() {
                if let Some(at) = self.holder(*partition, slot) {
                    self.peers[at].held += 1;
                }
            }
        }
    }

    /// Takes note of the slots that are owed something of a register; each only if its drive's share has room.
    fn set(&mut self, key: &Bytes, partition: PartitionId, owed: SlotSet) {
        let before = self.registers.get(key).map(|(_, slots)| *slots).unwrap_or_default();
        let room = self.share();
        let mut after = SlotSet::default();
        for slot in owed.iter() {
            let Some(at) = self.holder(partition, slot) else { continue };
            if before.contains(slot) || self.peers[at].held < room {
                after.insert(slot);
            } else {
                self.peers[at].lack(key);
            }
        }
        for slot in SlotSet(before.0 ^ after.0).iter() {
            let Some(at) = self.holder(partition, slot) else { continue };
            let held = &mut self.peers[at].held;
            *held = if after.contains(slot) { *held + 1 } else { *held - 1 };
        }
        if after.is_empty() {
            self.registers.remove(key);
        } else {
            self.registers.insert(key.clone(), (partition, after));
        }
    }

    /// Where the walk goes on: at the first gap of a drive whose share is mostly empty.
    fn next_gap(&self) -> Option<&Bytes> {
        let room = self.share();
        let walked = self.peers.iter().filter(|peer| 2 * peer.held < room);
        walked.filter_map(|peer| peer.gap.as_ref()).map(|gap| &gap.from).min()
    }

    /// All registers from `from` up to `end` (nothing: the last one) were looked at since `from` was the next gap.
    fn close_gaps(&mut self, from: &Bytes, end: Option<&Bytes>) {
        for peer in &mut self.peers {
            let Some(gap) = peer.gap.as_mut().filter(|gap| !gap.widened && gap.from >= *from) else {
                continue;
            };
            match end {
                None => peer.gap = None,
                Some(end) => gap.from = end.max(&gap.from).clone(),
            }
        }
    }

    /// Whether all is known that is owed to these slots.
    fn knows_all(&self, slots: &[(PartitionId, SlotIndex)]) -> bool {
        let whole = |at: usize| self.peers[at].gap.is_none();
        slots.iter().all(|(partition, slot)| self.holder(*partition, *slot).is_some_and(whole))
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
    /// Tells how many slots a partition has and which drive holds each: before that nothing is known to be owed.
    pub(crate) fn expect_slots(&self, n: u8, holder: impl Fn(PartitionId, SlotIndex) -> DriveId) {
        let mut places = HashMap::<DriveId, u16>::new();
        let slots = (0..PARTITION_COUNT).flat_map(|partition| (0..n).map(move |slot| (partition, slot)));
        let holders = slots.map(|(partition, slot)| {
            let next = places.len();
            let place = places.entry(holder(PartitionId(partition), SlotIndex(slot)));
            *place.or_insert(u16::try_from(next).unwrap_or(u16::MAX))
        });
        let holders: Vec<u16> = holders.collect();
        let mut inner = self.owed.inner.lock();
        // Who they are does not matter, only which slots are together.
        if inner.holders != holders {
            inner.regroup(n, holders);
        }
        drop(inner);
        self.owed.all.store(Geometry::new(n).all().0, Ordering::Relaxed);
    }

    /// Whether [`Self::find_owed`] has to be called: after a start, and when there is room again for what did not fit.
    pub(crate) fn misses_owed(&self) -> bool {
        self.owed.inner.lock().next_gap().is_some()
    }

    /// Looks at the next registers; true if that is all that can be done now.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn find_owed(self: &Arc<Self>) -> Result<bool, NodeError> {
        self.check_health()?;
        let walked = self.run(|store| store.walk_owed().map_err(|error| error.to_string()));
        walked.await?.map_err(|error| self.unavailable(error))
    }

    fn walk_owed(&self) -> Result<bool, crate::index::IndexError> {
        let (from, piece) = {
            let mut inner = self.owed.inner.lock();
            let Some(from) = inner.next_gap().cloned() else { return Ok(true) };
            inner.peers.iter_mut().filter_map(|peer| peer.gap.as_mut()).for_each(|gap| gap.widened = false);
            (from, inner.piece)
        };
        let mut scan = self.index.scan(Bound::Included(from.to_vec()), Vec::new());
        let (mut end, mut walked) = (None, 0);
        while let Some(found) = scan.next()? {
            if walked == piece {
                end = Some(Bytes::copy_from_slice(found.key()));
                break;
            }
            let entry = found.entry()?;
            walked += 1;
            self.widest.look(&entry);
            let owed = self.owed.owed_by(&entry);
            if !owed.is_empty() {
                let mut inner = self.owed.inner.lock();
                // What is there was followed, and may be newer; what is too much goes when it is looked up.
                let known = inner.registers.get(&entry.key).map_or(0, |(_, slots)| slots.0);
                inner.set(&entry.key, entry.partition, SlotSet(known | owed.0));
            }
        }
        metrics::counter!("coffer_heal_walked_registers_total").increment(walked as u64);
        let mut inner = self.owed.inner.lock();
        if end.is_none() {
            // Nothing is walked from the middle on before all was walked once: gaps begin with the first register.
            self.widest.known.store(true, Ordering::Relaxed);
        }
        inner.close_gaps(&from, end.as_ref());
        Ok(inner.next_gap().is_none())
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
            (keys, more, inner.knows_all(&request.slots))
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
        let loaded = self.load_blocking(&key).map_err(|error| error.to_string())?;
        // What a drive knows of a partition that it has left is of no use to those that went on.
        let entry = loaded.entry().filter(|_| role != Role::Out);
        let owed = entry.map(|entry| catch_up::owed_to(&entry.register, entry.kind(), slot).cloned());
        let versions: Vec<_> = owed.into_iter().flatten().collect();
        if versions.is_empty() {
            self.disown((&key, partition, slot), &loaded);
            return Ok(None);
        }
        let register = RegisterKey::decode(&key).map_err(|error| error.to_string())?;
        Ok(Some(OwedRegister { register, partition, epoch, versions }))
    }

    /// Takes a slot out that is owed nothing of a register: the walk may have met an older state than what was followed at the
    /// same time. Not if the register may have changed since it was loaded: what is followed then counts.
    fn disown(&self, (key, partition, slot): (&Bytes, PartitionId, SlotIndex), loaded: &Loaded) {
        let _lock = self.register_lock(key).lock();
        if self.is_newest(key, loaded) {
            let mut inner = self.owed.inner.lock();
            let slots = inner.registers.get(key).map(|(_, slots)| *slots).unwrap_or_default();
            inner.set(key, partition, SlotSet(slots.0 & !(1 << slot.0)));
        }
    }
}
