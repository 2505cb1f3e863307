//! Loading a register, and changing it under its lock.

use std::sync::Arc;

use bytes::Bytes;
use coffer_common::node::{NodeError, SlotAddress};
use coffer_common::protocol::message::SlotReply;
use coffer_common::protocol::register::{PartitionState, Role};
use coffer_common::protocol::slot::{BucketState, Served, Slot};
use coffer_common::time::UnixMillis;
use coffer_common::types::{BucketId, OpId, SlotIndex};
use parking_lot::Mutex;

use super::DriveStore;
use crate::image::{Entry, ShardLocation, StoredShard, Waiting, encode_entry, encode_forget};
use crate::journal::{AppendError, RecordKind};

/// Most bytes that one more stored shard adds to a register's record.
const STORED_SHARD_BYTES: usize = 64;

/// Superseded versions of one register that have the whole read grace.
const SUPERSEDED_VERSIONS: usize = 16;
/// The same of versions whose shards are inline: a read has those as soon as it knows the version, and a key that is
/// overwritten often would have all of them carried from segment to segment.
const SUPERSEDED_INLINE_VERSIONS: usize = 2;
/// Superseded versions that a register keeps at most.
const MAX_SUPERSEDED_VERSIONS: usize = 128;
/// What is left of the read grace of those between.
const SHORT_GRACE_MS: u64 = 10_000;

/// A register as it was loaded, without a lock.
#[derive(Clone)]
pub(super) struct Loaded {
    entry: Option<Arc<Entry>>,
    /// The index's generation before the load: if it is still that one under the lock, `entry` is the newest.
    generation: u64,
}

impl Loaded {
    /// The register, if it has a record.
    pub(super) fn entry(&self) -> Option<&Arc<Entry>> {
        self.entry.as_ref()
    }
}

/// A shard that a change brings.
#[derive(Clone, Debug)]
pub(super) enum NewShard {
    /// To be appended to the journal.
    Inline(OpId, Bytes),
    /// Already durable in its file.
    File(OpId, u64),
}

/// What a change needs besides its step.
pub(super) struct Change<'a> {
    /// The register.
    pub(super) key: &'a Bytes,
    /// The slot that is meant.
    pub(super) address: &'a SlotAddress,
    /// The register's bucket, if its revision matters.
    pub(super) bucket: Option<BucketId>,
    /// The shards that come along.
    pub(super) shards: Vec<NewShard>,
}

/// A change that was made, or had nothing to change.
pub(super) struct Done<R> {
    /// What the step said; to be told once `sequence` is durable.
    pub(super) result: R,
    /// The register then.
    pub(super) entry: Arc<Entry>,
    /// The last record that it rests on.
    pub(super) sequence: u64,
    /// Ops whose shard files may go once that is durable.
    pub(super) dropped_files: Vec<OpId>,
}

/// What came of a change.
pub(super) enum Changed<R> {
    /// It was made.
    Done(Done<R>),
    /// The drive is another slot of the partition.
    WrongSlot(SlotIndex),
    /// The register may have changed since it was loaded: load again.
    Stale,
}

impl DriveStore {
    /// Loads a register.
    pub(super) async fn load(self: &Arc<Self>, key: &Bytes) -> Result<Loaded, NodeError> {
        let generation = self.index.generation();
        if let Some(entry) = self.index.recent(key) {
            return Ok(Loaded { entry, generation });
        }
        let key = key.clone();
        let entry = self.run(move |store| store.index.get(&key)).await?;
        let entry = entry.map_err(|error| {
            self.health.read_error();
            self.unavailable(error)
        })?;
        Ok(Loaded { entry, generation })
    }

    /// [`Self::load`] for threads that may block.
    pub(super) fn load_blocking(&self, key: &Bytes) -> Result<Loaded, crate::index::IndexError> {
        let generation = self.index.generation();
        Ok(Loaded { entry: self.index.get(key)?, generation })
    }

    /// Whether a register is still as it was loaded; under its lock.
    pub(super) fn is_newest(&self, key: &[u8], loaded: &Loaded) -> bool {
        let sequence = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|entry| entry.sequence);
        match self.index.recent(key) {
            Some(entry) => sequence(&entry) == sequence(&loaded.entry),
            None => self.index.generation() == loaded.generation,
        }
    }

    /// Changes a register under its lock. `step` tells whether it changed anything; if so the shards and the whole register
    /// are appended to the journal.
    pub(super) fn mutate<R>(
        &self,
        loaded: Loaded,
        change: &Change<'_>,
        step: impl FnOnce(&mut Entry) -> (R, bool),
    ) -> Result<Changed<R>, AppendError> {
        self.mutate_in(loaded, change, |entry, _| step(entry))
    }

    /// [`Self::mutate`], with the slot's state in the partition.
    pub(super) fn mutate_in<R>(
        &self,
        loaded: Loaded,
        change: &Change<'_>,
        step: impl FnOnce(&mut Entry, &PartitionState) -> (R, bool),
    ) -> Result<Changed<R>, AppendError> {
        self.mutate_at(loaded, change, |entry, partition, _| Some(step(entry, &partition)))
    }

    /// [`Self::mutate_in`] on the register as it is then: tried again until it was not stale and the journal had room. The change may not
    /// be durable yet. The slot that the drive is of the partition, if it is not the one that is meant.
    ///
    /// # Errors
    /// [`NodeError::DriveUnavailable`] if the drive is full or failed.
    pub(super) async fn change_register<R>(
        self: &Arc<Self>,
        change: &Change<'_>,
        step: impl Fn(&mut Entry, &PartitionState) -> (R, bool) + Send,
    ) -> Result<Result<Done<R>, SlotIndex>, NodeError> {
        self.index.admit().await;
        loop {
            let loaded = self.load(change.key).await?;
            match self.mutate_in(loaded, change, &step) {
                Ok(Changed::Done(done)) => return Ok(Ok(done)),
                Ok(Changed::WrongSlot(slot)) => return Ok(Err(slot)),
                Ok(Changed::Stale) => {}
                Err(AppendError::NotReady) => {
                    self.journal.room().await.map_err(|error| self.unavailable(error))?;
                }
                Err(error) => return Err(self.unavailable(error)),
            }
        }
    }

    /// Lets a caller's request have its way with a register, by the rules of a slot.
    pub(super) fn serve(
        &self,
        loaded: Loaded,
        change: &Change<'_>,
        step: impl FnOnce(Slot<'_>) -> Served,
    ) -> Result<Changed<SlotReply>, AppendError> {
        self.mutate_at(loaded, change, |entry, mut partition, bucket| {
            let register = &mut entry.register;
            let served = step(Slot { partition: &mut partition, bucket, register });
            // The caller's epoch has been adopted already, unless the slot's role has changed since.
            (!served.partition_changed).then_some((served.reply, served.register_changed))
        })
    }

    /// [`Self::mutate`], with what the slot knows of partition and bucket; a step that gives nothing is done again.
    fn mutate_at<R>(
        &self,
        loaded: Loaded,
        change: &Change<'_>,
        step: impl FnOnce(&mut Entry, PartitionState, BucketState) -> Option<(R, bool)>,
    ) -> Result<Changed<R>, AppendError> {
        let _lock = self.register_lock(change.key).lock();
        let known = match self.index.recent(change.key) {
            Some(entry) => entry,
            None if self.index.generation() == loaded.generation => loaded.entry,
            None => return Ok(Changed::Stale),
        };
        let slots = self.slots.read();
        let (partition, partition_sequence) = slots.partition(change.address.partition);
        let (bucket, bucket_sequence) = change.bucket.map(|id| slots.bucket(id)).unwrap_or_default();
        let old = known.unwrap_or_else(|| {
            Arc::new(Entry::vacant(change.key.clone(), change.address.partition, change.address.slot))
        });
        if old.slot != change.address.slot {
            return Ok(Changed::WrongSlot(old.slot));
        }
        let mut new = Entry::clone(&old);
        for NewShard::Inline(op, _) | NewShard::File(op, _) in &change.shards {
            if old.register.versions.iter().any(|v| v.version.op == *op && !v.shard_present) {
                // The one it had was found damaged.
                new.shards.retain(|shard| shard.op != *op);
            }
        }
        let voter = partition.role == Role::Voter;
        let Some((result, changed)) = step(&mut new, partition, bucket) else { return Ok(Changed::Stale) };
        if !changed {
            let sequence = old.sequence.max(partition_sequence).max(bucket_sequence);
            return Ok(Changed::Done(Done { result, entry: old, sequence, dropped_files: Vec::new() }));
        }
        let now = UnixMillis::now();
        bound_superseded(&mut new, now);
        let dropped_files = settle_shards(&mut new, &change.shards);
        settle_waiting(&mut new, now);
        let entry = self.append_entry(new, &change.shards)?;
        self.census.add(old.census(), entry.census());
        self.widest.look(&entry);
        self.unfinished.follow(&old, &entry, voter);
        self.owed.follow(&old, &entry);
        let sequence = entry.sequence.max(partition_sequence).max(bucket_sequence);
        Ok(Changed::Done(Done { result, entry, sequence, dropped_files }))
    }

    /// The lock of a register (and of those it shares it with).
    pub(super) fn register_lock(&self, key: &[u8]) -> &Mutex<()> {
        let locks = &self.register_locks;
        &locks[(xxhash_rust::xxh3::xxh3_64(key) % locks.len() as u64) as usize]
    }

    /// Appends shards and register, and puts the register into the index's layer, all in one order. A shard always lies
    /// in the same segment as a record of its register: compaction finds it through that record.
    fn append_entry(&self, mut entry: Entry, shards: &[NewShard]) -> Result<Arc<Entry>, AppendError> {
        let mut appender = self.journal.appender();
        let wanted = |op: OpId| entry.shard(op).is_none() && entry.refers_to(op);
        let inline = shards.iter().filter_map(|shard| match shard {
            NewShard::Inline(op, bytes) => wanted(*op).then_some((*op, bytes)),
            NewShard::File(..) => None,
        });
        let inline: Vec<(OpId, &Bytes)> = inline.collect();
        if !inline.is_empty() {
            let image = encode_entry(&entry).len() + STORED_SHARD_BYTES * inline.len();
            let rooms: Vec<usize> = inline.iter().map(|(_, bytes)| bytes.len()).chain([image]).collect();
            appender.reserve(&rooms)?;
        }
        for (op, bytes) in inline {
            let (_, place) = appender.append(RecordKind::InlineShard, bytes.clone())?;
            entry.shards.push(StoredShard { op, location: ShardLocation::Inline(place) });
        }
        if entry.register.is_vacant() {
            let (sequence, _) = appender.append(RecordKind::Forget, encode_forget(&entry.key).into())?;
            entry.sequence = sequence;
            self.index.forget(entry.key.clone(), sequence);
            return Ok(Arc::new(entry));
        }
        let (sequence, place) = appender.append(RecordKind::Register, encode_entry(&entry).into())?;
        (entry.sequence, entry.place) = (sequence, place);
        let entry = Arc::new(entry);
        self.index.insert(Arc::clone(&entry));
        Ok(entry)
    }
}

impl Entry {
    /// Whether the register has any use for the op's shard.
    fn refers_to(&self, op: OpId) -> bool {
        self.register.prepared.contains(&op) || self.register.versions.iter().any(|v| v.version.op == op)
    }
}

/// Drops the shards that the register no longer refers to, adds those of files. Returns the ops whose files may go.
fn settle_shards(entry: &mut Entry, shards: &[NewShard]) -> Vec<OpId> {
    for shard in shards {
        if let NewShard::File(op, len) = shard
            && entry.shard(*op).is_none()
            && entry.refers_to(*op)
        {
            entry.shards.push(StoredShard { op: *op, location: ShardLocation::File { len: *len } });
        }
    }
    let (kept, dropped): (Vec<_>, Vec<_>) =
        std::mem::take(&mut entry.shards).into_iter().partition(|shard| entry.refers_to(shard.op));
    entry.shards = kept;
    let file = |shard: &StoredShard| matches!(shard.location, ShardLocation::File { .. });
    dropped.iter().filter(|shard| file(shard)).map(|shard| shard.op).collect()
}

/// Frees superseded versions of a register that is overwritten faster than their grace ends: its record is written whole
/// each time, and must not grow without bound.
pub(super) fn bound_superseded(entry: &mut Entry, now: UnixMillis) {
    let kind = entry.kind();
    let freeable: Vec<OpId> = entry.register.freeable(kind).map(|v| v.version.op).collect();
    let is_inline = |op: OpId| matches!(entry.shard(op), Some(ShardLocation::Inline(_)));
    // Those after each one, the newest first: all of them, and those that are inline.
    let (mut newer, mut newer_inline) = (0, 0);
    let mut freed = Vec::new();
    for op in freeable.iter().rev() {
        let inline = is_inline(*op);
        let many = newer >= SUPERSEDED_VERSIONS || inline && newer_inline >= SUPERSEDED_INLINE_VERSIONS;
        let since = entry.waiting.iter().find(|waiting| waiting.op == *op).map_or(now, |w| w.since);
        let waited = now.0.saturating_sub(since.0);
        if newer >= MAX_SUPERSEDED_VERSIONS || many && waited >= SHORT_GRACE_MS {
            freed.push(*op);
        }
        newer += 1;
        newer_inline += usize::from(inline);
    }
    for op in freed {
        entry.register.free(kind, op);
    }
}

/// Notes since when prepared ops and superseded versions have been waiting.
fn settle_waiting(entry: &mut Entry, now: UnixMillis) {
    let freeable = entry.register.freeable(entry.kind()).map(|v| v.version.op);
    let ops: Vec<OpId> = entry.register.prepared.iter().copied().chain(freeable).collect();
    let since = |op: OpId| entry.waiting.iter().find(|w| w.op == op).map_or(now, |w| w.since);
    entry.waiting = ops.into_iter().map(|op| Waiting { op, since: since(op) }).collect();
}
