//! What a drive does with a partition that it leaves, or takes a slot of again (PROTOCOL §8).
//!
//! Owns the way out at the drive: the role OUT, and what is dropped behind it. Never decides that a drive has left, nor that
//! anything may be dropped: `crate::moves` does, by the coordinator's records.
//!
//! **Consistency.** A partition's registers are only dropped while the slot is OUT, which lets no request in, so that nothing
//! comes that the walk does not meet.
//! **Crash consistency.** OUT is durable before anything is dropped; each register goes by a record of its own, many of them
//! with one sync, and their files after that. Whoever is interrupted begins anew.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use coffer_common::node::NodeError;
use coffer_common::protocol::register::{PartitionState, Register, Role};
use coffer_common::types::{Epoch, OpId, PartitionId, SlotIndex};
use parking_lot::Mutex;

use super::DriveStore;
use super::background::{FREE_PIECE, Freed};
use super::mutate::Change;
use crate::image::Entry;

/// Registers that are looked at in one go, and dropped with one sync.
const PIECE: usize = FREE_PIECE;
/// Files that are removed by one job: requests wait for the same threads.
const FILES_AT_ONCE: usize = 32;

/// How often slots were taken since the drive was opened: what was learned for an earlier time does not count.
#[derive(Debug, Default)]
pub(super) struct Takes(Mutex<HashMap<PartitionId, u64>>);

impl Takes {
    pub(super) fn of(&self, partition: PartitionId) -> u64 {
        self.0.lock().get(&partition).copied().unwrap_or_default()
    }

    fn count(&self, partition: PartitionId) {
        *self.0.lock().entry(partition).or_default() += 1;
    }
}

impl DriveStore {
    /// The slot takes part in nothing from now on. Durable before it returns.
    ///
    /// # Errors
    /// [`NodeError`] if the drive is full or failed.
    pub(crate) async fn leave(&self, partition: PartitionId) -> Result<(), NodeError> {
        let out = |state| PartitionState { role: Role::Out, ..state };
        self.set_partition(partition, out).await.map(drop)
    }

    /// The drive is about to take this slot, in this epoch: what it has promised as the slot, if it was its drive before, does
    /// not count any more, and it records what it is sent from that epoch on. Shards that it still has are kept, as if they
    /// had been prepared: a version that is handed over finds its own.
    ///
    /// Returns whether the slot may be taken. Not if the drive takes part in the partition in this epoch or a newer one: then
    /// the caller's map is an old one, the slot was taken since, and may have promised something. One that was begun in this
    /// very epoch stays as it is, because nobody knows whether the record has followed.
    ///
    /// # Errors
    /// [`NodeError`] if the drive is full or failed.
    pub(crate) async fn begin_to_take(
        self: &Arc<Self>,
        (partition, slot): (PartitionId, SlotIndex),
        epoch: Epoch,
    ) -> Result<bool, NodeError> {
        let takes_part = |state: PartitionState| state.role != Role::Out && state.epoch >= epoch;
        let state = self.partition(partition);
        if takes_part(state) {
            let begun = state.role == Role::Joining && state.epoch == epoch;
            return Ok(begun && self.has_only(partition, slot).await?);
        }
        // Whoever learns for an earlier time is not to make it vote.
        self.takes.count(partition);
        let out = |state: PartitionState| match takes_part(state) {
            true => state,
            false => PartitionState { role: Role::Out, ..state },
        };
        if self.set_partition(partition, out).await?.role != Role::Out {
            return Ok(false);
        }
        self.drop_registers(partition, Some(slot)).await?;
        let begin = |state: PartitionState| PartitionState {
            role: Role::Joining,
            epoch: state.epoch.max(epoch),
            ..state
        };
        self.set_partition(partition, begin).await?;
        Ok(true)
    }

    /// Counts how often the drive has begun to take a slot of the partition, since it was opened.
    pub(crate) fn takes(&self, partition: PartitionId) -> u64 {
        self.takes.of(partition)
    }

    /// Whether all that the drive has of a partition is of this slot.
    async fn has_only(self: &Arc<Self>, partition: PartitionId, slot: SlotIndex) -> Result<bool, NodeError> {
        let mut after = 0;
        loop {
            let (last, piece) = self.recorded_piece(partition, after).await?;
            let Some(last) = last else { return Ok(true) };
            if piece.iter().any(|entry| entry.slot != slot) {
                return Ok(false);
            }
            after = last;
        }
    }

    /// The partitions of which the drive has registers, or in which it takes part by a record of its own.
    ///
    /// # Errors
    /// [`NodeError`] if the drive cannot be read.
    pub(crate) async fn used_partitions(self: &Arc<Self>) -> Result<Vec<PartitionId>, NodeError> {
        self.check_health()?;
        let read = self.run(|store| {
            store.apply(false);
            store.index.recorded_partitions().map_err(|error| error.to_string())
        });
        let mut used = read.await?.map_err(|error| self.unavailable(error))?;
        used.extend(self.slots.taking_part());
        used.sort_unstable();
        used.dedup();
        Ok(used)
    }

    /// Drops all registers of a partition that the drive has left, and their shards; those of `kept` stay, as prepared.
    /// Returns how many registers there were.
    ///
    /// # Errors
    /// [`NodeError`] if the drive has not left the partition, or fails.
    pub(crate) async fn drop_registers(
        self: &Arc<Self>,
        partition: PartitionId,
        kept: Option<SlotIndex>,
    ) -> Result<u64, NodeError> {
        let (mut after, mut dropped) = (0, 0);
        while let Some((last, registers)) = self.drop_piece(partition, after, kept).await? {
            (after, dropped) = (last, dropped + registers);
        }
        Ok(dropped)
    }

    /// [`Self::drop_registers`] of the next ones after the sequence `after`. Returns where it stopped, and how many there
    /// were; nothing after the last ones.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn drop_piece(
        self: &Arc<Self>,
        partition: PartitionId,
        after: u64,
        kept: Option<SlotIndex>,
    ) -> Result<Option<(u64, u64)>, NodeError> {
        if self.partition(partition).role != Role::Out {
            return Err(not_left());
        }
        let (last, piece) = self.recorded_piece(partition, after).await?;
        let Some(last) = last else { return Ok(None) };
        let (mut freed, mut dropped) = (Freed::default(), Ok(()));
        for entry in &piece {
            let shards = if kept == Some(entry.slot) { shards_of(entry) } else { Vec::new() };
            dropped = self.drop_register(entry, shards, &mut freed).await;
            if dropped.is_err() {
                break;
            }
        }
        // Also if one has failed: what was dropped before it is on its way.
        let Freed { sequence, mut files, .. } = freed;
        self.journal.durable(sequence).await.map_err(|error| self.unavailable(error))?;
        while !files.is_empty() {
            let rest = files.split_off(files.len().min(FILES_AT_ONCE));
            let some = std::mem::replace(&mut files, rest);
            // What a full queue leaves is swept.
            let _ = self.run(move |store| store.remove_unnamed(some)).await;
        }
        dropped.map(|()| Some((last, piece.len() as u64)))
    }

    /// The next registers of a partition by the sequence of their records, and the last sequence that was looked at.
    pub(super) async fn recorded_piece(
        self: &Arc<Self>,
        partition: PartitionId,
        after: u64,
    ) -> Result<(Option<u64>, Vec<Arc<Entry>>), NodeError> {
        self.check_health()?;
        let read = self.run(move |store| {
            if let Some(reason) = store.health.poisoned() {
                return Err(reason);
            }
            let recorded =
                store.index.recorded(partition, after, PIECE).map_err(|error| error.to_string())?;
            let last = recorded.last().map(|(sequence, _)| *sequence);
            let entries = recorded.iter().map(|(sequence, key)| {
                // One that has changed since comes again, later in that order.
                let newest = |entry: &Arc<Entry>| entry.sequence == *sequence;
                store.index.get(key).map(|entry| entry.filter(newest))
            });
            let entries = entries.filter_map(Result::transpose);
            Ok((last, entries.collect::<Result<_, _>>().map_err(|error| error.to_string())?))
        });
        read.await?.map_err(|error| self.unavailable(error))
    }

    /// Drops one register, and adds to `freed` what may go once that is durable.
    async fn drop_register(
        self: &Arc<Self>,
        seen: &Entry,
        shards: Vec<OpId>,
        freed: &mut Freed,
    ) -> Result<(), NodeError> {
        let (key, address): (&Bytes, _) = (&seen.key, self.own_address(seen));
        let change = Change { key, address: &address, bucket: None, shards: Vec::new() };
        let dropped = self.change_register(&change, |entry, partition| {
            let kept = Register { prepared: shards.clone(), ..Register::default() };
            match partition.role == Role::Out {
                true if entry.register.is_vacant() || entry.register == kept => (true, false),
                true => {
                    entry.register = kept;
                    (true, true)
                }
                false => (false, false),
            }
        });
        match dropped.await? {
            Ok(done) if done.result => {
                freed.add(key, done);
                Ok(())
            }
            Ok(_) | Err(_) => Err(not_left()),
        }
    }
}

fn not_left() -> NodeError {
    NodeError::Invalid("the drive takes part in the partition".to_owned())
}

/// The ops whose whole shard is here.
fn shards_of(entry: &Entry) -> Vec<OpId> {
    entry.shards.iter().map(|shard| shard.op).filter(|op| entry.holds_shard(*op)).collect()
}
