//! What a voter hands over to a slot that has lost its state, and how that slot takes it over (PROTOCOL §8).
//!
//! Owns both ends at the drive. Never decides when a slot may vote: `crate::join` does, with the protocol's machine.
//!
//! **Voter.** It adopts the caller's epoch durably, so that whatever it accepts afterwards is of that epoch, and then tells
//! its registers in the order of their records. A register that changes meanwhile moves to the end of that order and is
//! told (again) there; so a page that ends it tells that all from before the adoption has been told. What is told is
//! durable. A later call goes on where an earlier one ended and tells only what has changed since.
//! **Joining slot.** Floor and bucket revisions first, then the registers, each under its lock by `Register::hand_over`.
//!
//! **Crash consistency.** What is taken over is never more than a voter has told, in any order, once or twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use coffer_common::node::{DriveJoin, HandOverPage, HandOverRequest, NodeError, SlotAddress};
use coffer_common::protocol::register::{PartitionState, Register, Role};
use coffer_common::types::{Epoch, PartitionId, RegisterKey, SlotIndex};

use super::DriveStore;
use super::mutate::Change;

/// Registers of a page.
const PAGE_REGISTERS: usize = 1000;
/// A page ends after this much, give or take a register.
const PAGE_BYTES: usize = 2 << 20;

impl DriveStore {
    /// A page of what this voter has promised in a partition.
    ///
    /// # Errors
    /// [`NodeError::DriveUnavailable`] if the slot is no voter or the drive cannot be read.
    pub async fn hand_over(self: &Arc<Self>, request: HandOverRequest) -> Result<HandOverPage, NodeError> {
        let address = request.address;
        self.check_health()?;
        self.check_slot(&address)?;
        self.retrying(|store| {
            store.adopt_epoch(address.partition, address.epoch)?;
            Ok((store.slots.read().partition(address.partition).1, ()))
        })
        .await?;
        let mut page =
            self.run(move |store| store.hand_over_blocking(&request)).await?.map_err(|reason| {
                self.health.read_error();
                self.unavailable(reason)
            })?;
        // The floor last: what a dropped tombstone leaves behind must not be older than the registers.
        let state = self.partition(address.partition);
        if state.role != Role::Voter {
            return Err(
                self.unavailable(format!("its slot of partition {} is no voter", address.partition.0))
            );
        }
        (page.epoch, page.purge_epoch, page.floor) = (state.epoch, state.purge_epoch, state.floor);
        self.journal.durable(self.journal.last_sequence()).await.map_err(|e| self.unavailable(e))?;
        Ok(page)
    }

    fn hand_over_blocking(&self, request: &HandOverRequest) -> Result<HandOverPage, String> {
        if let Some(reason) = self.health.poisoned() {
            return Err(reason);
        }
        let address = &request.address;
        let recorded = self.index.recorded(address.partition, request.after, PAGE_REGISTERS);
        let recorded = recorded.map_err(|error| error.to_string())?;
        let mut page = HandOverPage {
            position: request.after,
            complete: recorded.len() < PAGE_REGISTERS,
            ..HandOverPage::default()
        };
        let mut len_bytes = 0;
        for (sequence, key) in recorded {
            if len_bytes >= PAGE_BYTES {
                page.complete = false;
                break;
            }
            page.position = sequence;
            let entry = self.index.get(&key).map_err(|error| error.to_string())?;
            let Some(entry) = entry.filter(|entry| entry.slot == address.slot) else { continue };
            if entry.register.learn.is_some() || !entry.register.versions.is_empty() {
                len_bytes += entry.memory();
                let key = RegisterKey::decode(&key).map_err(|error| error.to_string())?;
                page.registers.push((key, Register { prepared: Vec::new(), ..entry.register.clone() }));
            }
        }
        page.buckets_position = request.buckets_after;
        if page.complete {
            (page.buckets, page.buckets_position) = self.slots.buckets_after(request.buckets_after);
        }
        Ok(page)
    }

    /// Takes over what a voter of this slot's partition told. Durable before it returns.
    ///
    /// # Errors
    /// [`NodeError`] if the drive is full or failed.
    pub(crate) async fn take_over(
        self: &Arc<Self>,
        address: &SlotAddress,
        page: &HandOverPage,
    ) -> Result<(), NodeError> {
        let state = self
            .set_partition(address.partition, |state| PartitionState {
                floor: state.floor.max(page.floor),
                purge_epoch: state.purge_epoch.max(page.purge_epoch),
                epoch: state.epoch.max(page.purge_epoch),
                ..state
            })
            .await?;
        if state.role != Role::Joining {
            return Err(NodeError::Invalid("the slot does not join".to_owned()));
        }
        for (bucket, revision) in &page.buckets {
            self.adopt_bucket(*bucket, *revision).await?;
        }
        for (key, register) in &page.registers {
            self.check_address(address, key)?;
            self.take_over_register(address, key, register).await?;
        }
        self.journal.durable(self.journal.last_sequence()).await.map_err(|error| self.unavailable(error))
    }

    async fn take_over_register(
        self: &Arc<Self>,
        address: &SlotAddress,
        key: &RegisterKey,
        voter: &Register,
    ) -> Result<(), NodeError> {
        let key = Bytes::from(key.encode());
        let change = Change { key: &key, address, bucket: None, shards: Vec::new() };
        let taken = self.change_register(&change, |entry, partition| {
            ((), partition.role == Role::Joining && entry.register.hand_over(partition, voter))
        });
        let other = |slot: SlotIndex| NodeError::Invalid(format!("this drive is slot {} of it", slot.0));
        taken.await?.map(drop).map_err(other)
    }

    /// The slot has lost its state, and the map marks it in this epoch: it records what it is sent, and votes in nothing.
    ///
    /// # Errors
    /// [`NodeError`] if the drive is full or failed.
    pub(crate) async fn begin_to_join(&self, partition: PartitionId, epoch: Epoch) -> Result<(), NodeError> {
        let begin = |state: PartitionState| match state.role {
            Role::Voter => state,
            Role::Joining | Role::Out => {
                PartitionState { role: Role::Joining, epoch: state.epoch.max(epoch), ..state }
            }
        };
        self.set_partition(partition, begin).await.map(drop)
    }

    /// The slot votes from now on, under this epoch. `takes`: [`Self::takes`] before anything was learned.
    ///
    /// # Errors
    /// [`NodeError`] if the drive is full or failed, or has left the partition or begun to take a slot of it meanwhile.
    pub(crate) async fn vote(
        &self,
        partition: PartitionId,
        epoch: Epoch,
        takes: u64,
    ) -> Result<(), NodeError> {
        // Looked at where the role is changed: who takes counts before.
        let vote = |state: PartitionState| match state.role {
            _ if self.takes(partition) != takes => state,
            Role::Joining | Role::Voter => {
                PartitionState { role: Role::Voter, epoch: state.epoch.max(epoch), ..state }
            }
            Role::Out => state,
        };
        match self.set_partition(partition, vote).await?.role {
            Role::Voter if self.takes(partition) == takes => Ok(()),
            Role::Voter | Role::Joining | Role::Out => {
                Err(NodeError::Invalid("the slot does not join".to_owned()))
            }
        }
    }

    /// Tells how far the drive has come, for [`Self::info`].
    pub(crate) fn tell_joining(&self, join: DriveJoin) {
        self.joining.0.store(join.partitions, Ordering::Relaxed);
        self.joining.1.store(join.waiting, Ordering::Relaxed);
    }
}
