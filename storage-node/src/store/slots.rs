//! Drive state that is no register: partitions, adopted bucket revisions, copies of cluster state, the boot count.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU32;

use bytes::Bytes;
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::node::NodeError;
use coffer_common::protocol::register::{PartitionState, Role};
use coffer_common::protocol::slot::BucketState;
use coffer_common::types::{BucketId, Epoch, Incarnation, PartitionId};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::DriveStore;
use super::copies::UNREAD;
use crate::image::{
    DecodeImageError, StateKey, decode_boot, decode_bucket, decode_copy, decode_partition, encode_boot,
    encode_bucket, encode_partition,
};
use crate::index::StateRow;
use crate::journal::{AppendError, JournalError, Place, RecordKind};

/// A partition's slot and the sequence of its newest record.
#[derive(Clone, Copy, Debug, Default)]
struct PartitionAt {
    state: PartitionState,
    /// The last epoch in which it was JOINING; 0 if it never was.
    taken: Epoch,
    sequence: u64,
}

#[derive(Debug, Default)]
pub(super) struct SlotsInner {
    /// Of a partition without a record.
    unrecorded: PartitionState,
    partitions: HashMap<PartitionId, PartitionAt>,
    /// What is known of each bucket, and the sequence of its newest record.
    buckets: HashMap<BucketId, (BucketState, u64)>,
    /// The newest (generation, revision) of each copy of cluster state, which lies in the journal.
    pub(super) copies: HashMap<u8, (u32, u64)>,
    boot_count: u64,
    /// Where the newest record of each piece lies, so that compaction can carry it over.
    pub(super) places: BTreeMap<StateKey, Place>,
}

/// The state, under one lock. Buckets without a record have revision 0; partitions are at epoch 0, and vote unless the
/// drive has lost its state once: then they take part in nothing until they have begun to join.
#[derive(Debug, Default)]
pub(super) struct Slots {
    inner: RwLock<SlotsInner>,
}

impl SlotsInner {
    /// The state of a partition and the sequence of its record.
    pub(super) fn partition(&self, partition: PartitionId) -> (PartitionState, u64) {
        let at = self.partitions.get(&partition);
        at.map_or((self.unrecorded, 0), |at| (at.state, at.sequence))
    }

    /// The last epoch in which a partition's slot was JOINING, which a recovery of the cluster goes by.
    pub(super) fn taken(&self, partition: PartitionId) -> Epoch {
        self.partitions.get(&partition).map(|at| at.taken).unwrap_or_default()
    }

    fn put_place(&mut self, key: StateKey, place: Place, superseded: &[StateKey]) {
        self.places.insert(key, place);
        for key in superseded {
            self.places.remove(key);
        }
    }

    /// What is known of a bucket, and the sequence of its record.
    pub(super) fn bucket(&self, bucket: BucketId) -> (BucketState, u64) {
        self.buckets.get(&bucket).copied().unwrap_or_default()
    }
}

impl Slots {
    /// The state of a drive of this incarnation, without any record yet.
    pub(super) fn of(incarnation: Incarnation) -> Self {
        let role = if incarnation == Incarnation(0) { Role::Voter } else { Role::Out };
        let unrecorded = PartitionState { role, ..PartitionState::default() };
        Self { inner: RwLock::new(SlotsInner { unrecorded, ..SlotsInner::default() }) }
    }

    /// The state, held still: nothing is adopted while the guard lives.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, SlotsInner> {
        self.inner.read()
    }

    /// Partitions, and those in which the slot does not vote, of a drive that has lost its state once; until the layout is
    /// known it may have a slot in each.
    pub(super) fn joining(&self) -> (AtomicU32, AtomicU32) {
        if self.inner.read().unrecorded.role == Role::Voter {
            return Default::default();
        }
        let votes = self.partitions().iter().filter(|(_, state)| state.role == Role::Voter).count();
        let all = u32::from(PARTITION_COUNT);
        (AtomicU32::new(all), AtomicU32::new(all - votes as u32))
    }

    /// The state, to be changed.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, SlotsInner> {
        self.inner.write()
    }

    pub(super) fn boot_count(&self) -> u64 {
        self.inner.read().boot_count
    }

    /// All partitions whose state is not that of a new drive, in order.
    pub(super) fn partitions(&self) -> Vec<(PartitionId, PartitionState)> {
        let inner = self.inner.read();
        if inner.unrecorded == PartitionState::default() && inner.partitions.is_empty() {
            return Vec::new();
        }
        let all = (0..PARTITION_COUNT).map(PartitionId);
        all.map(|partition| (partition, inner.partition(partition).0))
            .filter(|(_, state)| *state != PartitionState::default())
            .collect()
    }

    /// The partitions in which the slot takes part by a record of its own.
    pub(super) fn taking_part(&self) -> Vec<PartitionId> {
        let inner = self.inner.read();
        let recorded = inner.partitions.iter().filter(|(_, at)| at.state.role != Role::Out);
        recorded.map(|(partition, _)| *partition).collect()
    }

    /// Adopted revisions of buckets, deleted ones too, that were recorded after this sequence; and the sequence of the
    /// last one.
    pub(super) fn buckets_after(&self, after: u64) -> (Vec<(BucketId, u64)>, u64) {
        let inner = self.inner.read();
        let newer = inner.buckets.iter().filter(|(_, (_, sequence))| *sequence > after);
        let last = inner.buckets.values().map(|(_, sequence)| *sequence).max().unwrap_or_default();
        let mut newer: Vec<_> = newer.map(|(bucket, (state, _))| (*bucket, state.revision)).collect();
        newer.sort_unstable();
        (newer, last.max(after))
    }

    /// Takes over what the index kept.
    pub(super) fn restore(&self, key: StateKey, row: &StateRow) -> Result<(), DecodeImageError> {
        match key {
            StateKey::Boot => self.replay(RecordKind::Boot, row).map(drop),
            StateKey::Partition(_) => self.replay(RecordKind::Partition, row).map(drop),
            StateKey::Bucket(_) => self.replay(RecordKind::Bucket, row).map(drop),
            StateKey::Snapshot(kind) | StateKey::Change(kind, _) => {
                // Generation and revision are read with the data when they are needed.
                let mut inner = self.inner.write();
                inner.copies.insert(kind, UNREAD);
                inner.places.insert(key, row.place);
                Ok(())
            }
        }
    }

    /// Takes over a record of the journal: the piece that it tells, and those that it makes superfluous.
    pub(super) fn replay(
        &self,
        kind: RecordKind,
        row: &StateRow,
    ) -> Result<(StateKey, Vec<StateKey>), DecodeImageError> {
        let mut inner = self.inner.write();
        let key = match kind {
            RecordKind::Partition => {
                let (partition, state, taken) = decode_partition(row.payload.clone())?;
                let taken = taken.max(inner.taken(partition));
                inner.partitions.insert(partition, PartitionAt { state, taken, sequence: row.sequence });
                StateKey::Partition(partition)
            }
            RecordKind::Bucket => {
                let (bucket, revision) = decode_bucket(row.payload.clone())?;
                inner.buckets.insert(bucket, (BucketState { revision }, row.sequence));
                StateKey::Bucket(bucket)
            }
            RecordKind::Snapshot => {
                let record = decode_copy(row.payload.clone())?;
                let superseded = inner.superseded(&record);
                inner.put_place(record.key(), row.place, &superseded);
                inner.note_copy(&record);
                return Ok((record.key(), superseded));
            }
            _ => {
                inner.boot_count = decode_boot(row.payload.clone())?;
                StateKey::Boot
            }
        };
        inner.put_place(key, row.place, &[]);
        Ok((key, Vec::new()))
    }
}

impl DriveStore {
    /// Appends the record of a piece of state under the slots' lock and notes its place.
    pub(super) fn append_state(
        &self,
        inner: &mut SlotsInner,
        key: StateKey,
        payload: Vec<u8>,
    ) -> Result<(u64, Place), AppendError> {
        self.supersede(inner, key, payload, &[])
    }

    /// [`Self::append_state`] of a record in whose place others are no longer needed.
    pub(super) fn supersede(
        &self,
        inner: &mut SlotsInner,
        key: StateKey,
        payload: Vec<u8>,
        superseded: &[StateKey],
    ) -> Result<(u64, Place), AppendError> {
        let kind = match key {
            StateKey::Boot => RecordKind::Boot,
            StateKey::Partition(_) => RecordKind::Partition,
            StateKey::Bucket(_) => RecordKind::Bucket,
            StateKey::Snapshot(_) | StateKey::Change(..) => RecordKind::Snapshot,
        };
        let payload = Bytes::from(payload);
        let mut appender = self.journal.appender();
        let (sequence, place) = appender.append(kind, payload.clone())?;
        let payload = if kind == RecordKind::Snapshot { Bytes::new() } else { payload };
        self.index.insert_state(key, StateRow { sequence, place, payload }, superseded);
        drop(appender);
        inner.put_place(key, place, superseded);
        Ok((sequence, place))
    }

    /// One more start. A drive without room for the record serves all the same, to be read and to have things deleted.
    /// Blocks until it is durable.
    pub(crate) fn record_boot(&self) -> Result<(), JournalError> {
        let sequence = loop {
            match self.append_boot() {
                Ok(sequence) => break sequence,
                Err(AppendError::NotReady) => self.journal.room_blocking(),
                Err(AppendError::Full) => {
                    tracing::warn!(drive = %self.id, "there is no room to record this start");
                    break self.journal.last_sequence();
                }
                Err(error) => return Err(JournalError::Io(std::io::Error::other(error))),
            }
        };
        self.journal.durable_blocking(sequence)
    }

    fn append_boot(&self) -> Result<u64, AppendError> {
        let mut inner = self.slots.inner.write();
        let count = inner.boot_count + 1;
        let (sequence, _) = self.append_state(&mut inner, StateKey::Boot, encode_boot(count))?;
        inner.boot_count = count;
        Ok(sequence)
    }

    /// Adopts a caller's epoch if it is newer. An answer under it must wait for the partition's record.
    pub(super) fn adopt_epoch(&self, partition: PartitionId, epoch: Epoch) -> Result<(), AppendError> {
        let newer =
            |mut state: PartitionState| state.admit(epoch).is_ok_and(|changed| changed).then_some(state);
        if newer(self.slots.read().partition(partition).0).is_none() {
            return Ok(());
        }
        let mut inner = self.slots.inner.write();
        if let Some(state) = newer(inner.partition(partition).0) {
            self.put_partition(&mut inner, partition, state)?;
        }
        Ok(())
    }

    fn put_partition(
        &self,
        inner: &mut SlotsInner,
        partition: PartitionId,
        state: PartitionState,
    ) -> Result<u64, AppendError> {
        let key = StateKey::Partition(partition);
        let taken = if state.role == Role::Joining { state.epoch } else { inner.taken(partition) };
        let (sequence, _) = self.append_state(inner, key, encode_partition(partition, &state, taken))?;
        inner.partitions.insert(partition, PartitionAt { state, taken, sequence });
        Ok(sequence)
    }

    /// A partition's state on this drive.
    pub fn partition(&self, partition: PartitionId) -> PartitionState {
        self.slots.read().partition(partition).0
    }

    /// Whether the drive's slot in a partition votes.
    pub(crate) fn votes(&self, partition: PartitionId) -> bool {
        self.partition(partition).role == Role::Voter
    }

    /// Changes a partition's state (role, epochs, floor) and waits until the change is durable. `change` must only raise
    /// epochs and floor.
    ///
    /// # Errors
    /// [`NodeError::DriveUnavailable`] if the drive is full or failed.
    ///
    /// # Panics
    /// If `change` lowers an epoch or the floor.
    pub async fn set_partition(
        &self,
        partition: PartitionId,
        change: impl Fn(PartitionState) -> PartitionState + Send + Sync,
    ) -> Result<PartitionState, NodeError> {
        assert!(partition.0 < PARTITION_COUNT, "partition {} does not exist", partition.0);
        self.retrying(|store| {
            let mut inner = store.slots.inner.write();
            let (old, sequence) = inner.partition(partition);
            let new = change(old);
            assert!(new.epoch >= old.epoch && new.purge_epoch >= old.purge_epoch && new.floor >= old.floor);
            if new == old {
                return Ok((sequence, new));
            }
            Ok((store.put_partition(&mut inner, partition, new)?, new))
        })
        .await
    }

    /// Adopts a bucket's configuration revision, if it is newer. Durable before it returns.
    ///
    /// # Errors
    /// [`NodeError::DriveUnavailable`] if the drive is full or failed.
    pub async fn adopt_bucket(&self, bucket: BucketId, revision: u64) -> Result<(), NodeError> {
        self.retrying(|store| {
            let mut inner = store.slots.inner.write();
            let (mut state, sequence) = inner.bucket(bucket);
            if !state.adopt(revision) {
                return Ok((sequence, ()));
            }
            let key = StateKey::Bucket(bucket);
            let (sequence, _) = store.append_state(&mut inner, key, encode_bucket(bucket, revision))?;
            inner.buckets.insert(bucket, (state, sequence));
            Ok((sequence, ()))
        })
        .await
    }

    /// Appends a piece of state's record again, if it still lies in `segment`.
    pub(super) fn carry_state(&self, key: StateKey, payload: &[u8], from: Place) -> Result<(), AppendError> {
        let mut inner = self.slots.inner.write();
        if inner.places.get(&key) != Some(&from) {
            return Ok(());
        }
        let (sequence, _) = self.append_state(&mut inner, key, payload.to_vec())?;
        match key {
            StateKey::Partition(partition) => {
                inner.partitions.entry(partition).and_modify(|at| at.sequence = sequence);
            }
            StateKey::Bucket(bucket) => {
                inner.buckets.entry(bucket).and_modify(|(_, at)| *at = sequence);
            }
            StateKey::Boot | StateKey::Snapshot(_) | StateKey::Change(..) => {}
        }
        Ok(())
    }

    /// The pieces of state whose newest record lies in `segment`, made anew from what is in memory.
    ///
    /// # Errors
    /// A copy of cluster state that does not verify: it is forgotten, so that the next whole one that is offered takes its place.
    pub(super) fn state_in(&self, segment: u64) -> Result<Vec<(StateKey, Place, Vec<u8>)>, JournalError> {
        let mut inner = self.slots.inner.write();
        let places = inner.places.iter().filter(|(_, place)| place.segment == segment);
        let places: Vec<_> = places.map(|(key, place)| (*key, *place)).collect();
        let mut failed = None;
        let mut pieces = Vec::new();
        for (key, place) in places {
            let payload = match key {
                StateKey::Boot => encode_boot(inner.boot_count),
                StateKey::Partition(partition) => {
                    encode_partition(partition, &inner.partition(partition).0, inner.taken(partition))
                }
                StateKey::Bucket(bucket) => encode_bucket(bucket, inner.bucket(bucket).0.revision),
                StateKey::Snapshot(kind) | StateKey::Change(kind, _) => match self.journal.read_record(place)
                {
                    Ok(payload) => payload,
                    Err(error) => {
                        inner.copies.remove(&kind);
                        failed = Some(error);
                        continue;
                    }
                },
            };
            pieces.push((key, place, payload));
        }
        failed.map_or(Ok(pieces), Err)
    }

    /// Runs an append, waiting for the next segment where it is needed, and then for durability.
    pub(super) async fn retrying<T: Send>(
        &self,
        append: impl Fn(&Self) -> Result<(u64, T), AppendError> + Send,
    ) -> Result<T, NodeError> {
        self.check_health()?;
        let (sequence, result) = loop {
            match append(self) {
                Ok(appended) => break appended,
                Err(AppendError::NotReady) => {
                    self.journal.room().await.map_err(|error| self.unavailable(error))?;
                }
                Err(error) => return Err(self.unavailable(error)),
            }
        };
        self.journal.durable(sequence).await.map_err(|error| self.unavailable(error))?;
        Ok(result)
    }
}
