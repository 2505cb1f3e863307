//! Which registers of a drive have something unfinished that needs other slots, and when each is due.
//!
//! Owns two bounded lists in memory that follow every change of a register: to settle (the current version is COMMITTED
//! and not STABLE) and to heal (a version that is not superseded lacks its shard here). A drive at rest has none, and
//! looking at it costs nothing. Never settles or heals anything: `crate::settle` and `crate::heal` do.
//!
//! 1. A register comes in when it gets something unfinished, and leaves when that is done or there is something else.
//! 2. It is due after a while: STABLE, or a slow PREPARE, may be on its way. For settling, a step more for each slot before
//!    this one, so that as a rule one slot settles and the others hear STABLE from it in time.
//! 3. What was handed out and is still there is due again later and later. Those that are due are handed out in turn: what
//!    cannot be finished keeps nothing from the ones behind it.
//! 4. What a write leaves missing at a slot that is in step comes back within seconds as a rule: only what is missing for
//!    [`SETTLES_WITHIN`] is told to be ([`DriveStore::lacks`]). What is missing after an absence, a loss, a move or a start counts
//!    at once.
//! 5. After a start, and once there is room again after an overflow, [`DriveStore::find_unfinished`] walks over the
//!    registers that the index has marked as unfinished.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coffer_common::limits::SETTLE_AFTER;
use coffer_common::node::{Lacking, NodeError, Partitions, SlotAddress};
use coffer_common::protocol::catch_up;
use coffer_common::protocol::message::{Version, VersionState};
use coffer_common::types::{OpId, PartitionId, RegisterKey, SlotIndex};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::DriveStore;
use crate::image::Entry;

/// Most registers that are kept in mind for one task.
const LIMIT: usize = 65_536;
/// A STABLE told by the slot before has arrived within this time.
const SLOT_STEP: Duration = Duration::from_millis(300);
/// Before what could not be tried, because too few other slots are alive, is looked at again.
const POSTPONED: Duration = Duration::from_secs(10);
/// Longest time between two tries of one register.
const RETRY_LIMIT: Duration = Duration::from_secs(60);
/// What a write has left missing at a slot that is in step does not count before this is over: it has been due twice by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// How old may be what is told of a long list.
const SURVEY_AGE: Duration = Duration::from_secs(1);
/// Registers looked at in one go.
const PIECE: usize = 1024;
/// Between two pieces: the drive has other things to do.
const PIECE_PAUSE: Duration = Duration::from_millis(10);

/// What is to be done with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// The current version is COMMITTED here for too long.
    Settle,
    /// The shard of a version that is not superseded is missing here.
    Heal,
}

impl Task {
    /// The version that is unfinished.
    fn version(self, entry: &Entry) -> Option<&Version> {
        let held = match self {
            Self::Settle => {
                entry.register.current().filter(|current| current.state == VersionState::Committed)
            }
            Self::Heal => catch_up::missing(&entry.register, entry.kind()),
        };
        held.map(|held| &held.version)
    }

    /// Its op.
    fn of(self, entry: &Entry) -> Option<OpId> {
        self.version(entry).map(|version| version.op)
    }

    /// How long a slot waits for others to finish before it.
    fn step(self, slot: SlotIndex) -> Duration {
        match self {
            Self::Settle => SLOT_STEP * u32::from(slot.0),
            Self::Heal => Duration::ZERO,
        }
    }
}

/// A register that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// Its encoded key.
    pub(crate) key: Bytes,
    /// The register.
    pub(crate) register: RegisterKey,
    /// The slot, as this drive knows it.
    pub(crate) address: SlotAddress,
    /// The revision of its bucket that this drive has adopted.
    pub(crate) bucket_revision: u64,
    /// The op of the version that is unfinished.
    pub(crate) op: OpId,
    /// How many shards make that version.
    pub(crate) k: u8,
    /// How long each of them is.
    pub(crate) shard_len_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    op: OpId,
    partition: PartitionId,
    slot: SlotIndex,
    due: Instant,
    tries: u32,
    /// From when on it counts as lacking.
    counts: Instant,
}

#[derive(Debug, Default)]
struct List {
    registers: BTreeMap<Bytes, Wait>,
    /// Whether every unfinished register of the drive is among them, or will be when the walk that runs has ended.
    complete: bool,
    /// Whether they are all, and no walk runs that is to find them.
    known: bool,
    /// The last one that was handed out.
    cursor: Bytes,
    /// The partitions of those that counted, and when that was looked at.
    surveyed: Option<(Instant, Partitions)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UnfinishedSet {
    settle: Mutex<List>,
    heal: Mutex<List>,
    /// Whether the slots know what the others have.
    in_step: AtomicBool,
}

impl UnfinishedSet {
    /// Follows a change of a register; called under its lock. `voter`: the slot's vote counts.
    pub(super) fn follow(&self, before: &Entry, after: &Entry, voter: bool) {
        for task in [Task::Settle, Task::Heal] {
            let (before, op) = (task.of(before), task.of(after));
            if before == op {
                continue;
            }
            let mut list = self.list(task).lock();
            list.registers.remove(&after.key);
            if let Some(op) = op {
                let at_once = !voter || !self.in_step.load(Ordering::Relaxed);
                list.add(task, after.key.clone(), (op, at_once), after);
            }
        }
    }

    /// Registers known for a task, and whether they are all.
    pub(super) fn known(&self, task: Task) -> (usize, bool) {
        let list = self.list(task).lock();
        (list.registers.len(), list.known)
    }

    fn list(&self, task: Task) -> &Mutex<List> {
        match task {
            Task::Settle => &self.settle,
            Task::Heal => &self.heal,
        }
    }
}

impl List {
    fn add(&mut self, task: Task, key: Bytes, (op, at_once): (OpId, bool), entry: &Entry) {
        if self.registers.len() >= LIMIT {
            (self.complete, self.known) = (false, false);
            return;
        }
        let (partition, slot) = (entry.partition, entry.slot);
        let now = Instant::now();
        let due = now + SETTLE_AFTER + task.step(slot);
        let counts = if at_once { now } else { now + SETTLES_WITHIN };
        self.registers.entry(key).or_insert(Wait { op, partition, slot, due, tries: 0, counts });
    }

    /// The partitions of what counts; of a long list they may be as of [`SURVEY_AGE`] ago.
    fn survey(&mut self) -> Partitions {
        let now = Instant::now();
        if let Some((at, partitions)) = &self.surveyed
            && self.registers.len() > PIECE
            && now - *at < SURVEY_AGE
        {
            return partitions.clone();
        }
        let count = self.registers.values().filter(|wait| wait.counts <= now);
        let partitions: Partitions = count.map(|wait| wait.partition).collect();
        self.surveyed = Some((now, partitions.clone()));
        partitions
    }

    /// Registers that are due, at most `limit`, from behind the last one on; each is due again only after some time.
    fn take_due(&mut self, task: Task, limit: usize) -> Vec<(Bytes, OpId)> {
        let now = Instant::now();
        let mut taken = Vec::new();
        let behind = (Bound::Excluded(self.cursor.clone()), Bound::Unbounded);
        for range in [behind, (Bound::Unbounded, Bound::Included(self.cursor.clone()))] {
            let due = self.registers.range_mut(range).filter(|(_, wait)| wait.due <= now);
            for (key, wait) in due.take(limit - taken.len()) {
                wait.tries = wait.tries.saturating_add(1);
                let pause = (SETTLE_AFTER * 2_u32.saturating_pow(wait.tries)).min(RETRY_LIMIT);
                wait.due = now + pause + task.step(wait.slot);
                taken.push((key.clone(), wait.op));
            }
        }
        if let Some((last, _)) = taken.last() {
            self.cursor = last.clone();
        }
        taken
    }

    fn holds(&self, key: &Bytes, op: OpId) -> bool {
        self.registers.get(key).is_some_and(|wait| wait.op == op)
    }
}

impl DriveStore {
    /// Whether [`Self::find_unfinished`] has to be called: after a start, and when there is room again for what did not
    /// fit.
    pub(crate) fn misses_unfinished(&self, task: Task) -> bool {
        let list = self.unfinished.list(task).lock();
        !list.complete && list.registers.len() < LIMIT / 2
    }

    /// Finds the unfinished registers among all those that the index has marked.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read; not all are known then.
    pub(crate) async fn find_unfinished(self: &Arc<Self>, task: Task) -> Result<(), NodeError> {
        // An overflow from now on takes it back.
        self.unfinished.list(task).lock().complete = true;
        let found = self.walk_unfinished(task).await;
        let mut list = self.unfinished.list(task).lock();
        list.complete &= found.is_ok();
        list.known = list.complete;
        drop(list);
        found
    }

    /// The partitions that have a version whose shard should be here and is not; `None` while that is not known of all.
    pub(crate) fn lacking_partitions(&self) -> Option<HashSet<PartitionId>> {
        let list = self.unfinished.list(Task::Heal).lock();
        list.known.then(|| list.registers.values().map(|wait| wait.partition).collect())
    }

    /// What the drive lacks, as far as it knows; `any` tells whether any version lacks its shard.
    pub(super) fn lacks(&self, any: bool) -> Lacking {
        let mut list = self.unfinished.heal.lock();
        match self.unfinished.in_step.load(Ordering::Relaxed) {
            true if !any => Lacking::nothing(),
            true if list.known => Lacking::In(list.survey()),
            _ => Lacking::Unknown,
        }
    }

    /// Whether the peers have told all that they owe: what is missing from then on was left by writes.
    pub(crate) fn set_in_step(&self, is_in_step: bool) {
        self.unfinished.in_step.store(is_in_step, Ordering::Relaxed);
    }

    async fn walk_unfinished(self: &Arc<Self>, task: Task) -> Result<(), NodeError> {
        self.check_health()?;
        // The walk sees what is in the table; what comes later is followed.
        self.run(|store| store.apply(false)).await?;
        let mut after = Vec::new();
        loop {
            let walked = self.run(move |store| {
                store.for_attention(after, PIECE, |key, entry| {
                    if let Some(op) = task.of(entry) {
                        store.unfinished.list(task).lock().add(task, key, (op, true), entry);
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

    /// Registers that are due now, at most `limit`.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn due(
        self: &Arc<Self>,
        task: Task,
        limit: usize,
    ) -> Result<Vec<Unfinished>, NodeError> {
        let due = self.unfinished.list(task).lock().take_due(task, limit);
        if due.is_empty() {
            return Ok(Vec::new());
        }
        self.check_health()?;
        let looked_up = self.run(move |store| {
            let found = due.into_iter().map(|(key, op)| store.look_up_unfinished(task, key, op));
            found.filter_map(Result::transpose).collect::<Result<Vec<_>, String>>()
        });
        looked_up.await?.map_err(|error| self.unavailable(error))
    }

    fn look_up_unfinished(&self, task: Task, key: Bytes, op: OpId) -> Result<Option<Unfinished>, String> {
        let loaded = self.load_blocking(&key).map_err(|error| error.to_string())?;
        let version = loaded.entry().and_then(|entry| Some((entry, task.version(entry)?)));
        let Some((entry, version)) = version.filter(|(_, version)| version.op == op) else {
            // The walk may have met an older state than what was followed at the same time. What may have changed since it
            // was loaded stays.
            let _lock = self.register_lock(&key).lock();
            let newest = self.is_newest(&key, &loaded);
            let mut list = self.unfinished.list(task).lock();
            if newest && list.holds(&key, op) {
                list.registers.remove(&key);
            }
            return Ok(None);
        };
        let register = RegisterKey::decode(&key).map_err(|error| error.to_string())?;
        let bucket_revision = self.bucket_revision(register.bucket);
        let (address, k, shard_len_bytes) = (self.own_address(entry), version.k, version.shard_len_bytes);
        Ok(Some(Unfinished { key, register, address, bucket_revision, op, k, shard_len_bytes }))
    }

    /// Whether it is still unfinished.
    pub(crate) fn is_unfinished(&self, task: Task, unfinished: &Unfinished) -> bool {
        self.unfinished.list(task).lock().holds(&unfinished.key, unfinished.op)
    }

    /// It could not be tried: it is due again after [`POSTPONED`], with as many tries as before.
    pub(crate) fn postpone(&self, task: Task, unfinished: &Unfinished) {
        if let Some(wait) = self.unfinished.list(task).lock().registers.get_mut(&unfinished.key) {
            wait.tries = wait.tries.saturating_sub(1);
            wait.due = Instant::now() + POSTPONED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &'static str, partition: u16) -> Entry {
        Entry::vacant(Bytes::from_static(key.as_bytes()), PartitionId(partition), SlotIndex(1))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_write_has_left_missing_counts_when_it_does_not_come_back_and_all_else_at_once() {
        let mut list = List::default();
        let add = |list: &mut List, key, partition: u16, at_once| {
            let entry = entry(key, partition);
            let op = OpId { session: 1, counter: partition.into() };
            list.add(Task::Heal, entry.key.clone(), (op, at_once), &entry);
        };
        let counted = |list: &mut List, partitions: &[u16]| {
            let expected: Partitions = partitions.iter().copied().map(PartitionId).collect();
            assert_eq!(list.survey(), expected);
        };
        add(&mut list, "written", 1, false);
        counted(&mut list, &[]);
        add(&mut list, "moved here", 2, true);
        counted(&mut list, &[2]);
        tokio::time::advance(SETTLES_WITHIN / 2).await;
        add(&mut list, "written later", 3, false);
        tokio::time::advance(SETTLES_WITHIN / 2).await;
        counted(&mut list, &[1, 2]);
        list.registers.clear();
        counted(&mut list, &[]);
    }
}
