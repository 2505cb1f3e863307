//! One request to one register.

use std::sync::Arc;

use bytes::Bytes;
use coffer_common::limits::{MAX_METADATA_BYTES, MAX_SLOTS, PARTITION_COUNT};
use coffer_common::node::{NodeError, SlotAddress, SlotCall, partition_of};
use coffer_common::protocol::message::{Refusal, SlotReply, SlotRequest};
use coffer_common::protocol::slot::{self, Caller, Served, Slot};
use coffer_common::types::{OpId, RegisterKey, SlotIndex};

use super::DriveStore;
use super::mutate::{Change, Changed, Done, NewShard};
use super::read::TRIES;
use super::receive::Claim;
use crate::image::{Entry, ShardLocation};
use crate::journal::AppendError;

/// Longest encoded shard that may come inside a request: an inline shard with header and checksums.
const MAX_REQUEST_SHARD_BYTES: usize = 160 << 10;

impl DriveStore {
    /// Serves one request. Whatever the reply shows is durable.
    ///
    /// # Errors
    /// [`NodeError`]: the slot is not here, the request is malformed, or the drive has failed.
    pub async fn call(self: &Arc<Self>, call: SlotCall) -> Result<SlotReply, NodeError> {
        self.check_address(&call.address, &call.register)?;
        let shard = self.check_request(&call)?;
        if shard.is_some() && self.health.is_full() {
            return Ok(SlotReply::Refused(Refusal::Full));
        }
        let key = Bytes::from(call.register.encode());
        let bucket = Some(call.register.bucket);
        let shards = Vec::from_iter(shard);
        let change = Change { key: &key, address: &call.address, bucket, shards };
        let caller = Caller { epoch: call.address.epoch, bucket_revision: call.bucket_revision };
        let (reply, entry) = self.change(&change, |slot| slot::serve(slot, caller, &call.request)).await?;
        match (reply, entry, &call.request) {
            (SlotReply::View(view, _), Some(entry), SlotRequest::Query { inline_data: true }) => {
                let data = match view.current.as_ref().filter(|current| current.shard_present) {
                    Some(current) => self.inline_shard(&entry, current.version.op).await?,
                    None => None,
                };
                Ok(SlotReply::View(view, data))
            }
            (reply, _, _) => Ok(reply),
        }
    }

    /// Changes a register and waits until what the reply shows is durable. The entry is `None` if there is no room.
    pub(super) async fn change(
        self: &Arc<Self>,
        change: &Change<'_>,
        step: impl Fn(Slot<'_>) -> Served + Send,
    ) -> Result<(SlotReply, Option<Arc<Entry>>), NodeError> {
        self.check_health()?;
        self.index.admit().await;
        let (reply, entry, sequence, dropped) = loop {
            let appended = match self.adopt_epoch(change.address.partition, change.address.epoch) {
                Ok(()) => {
                    let loaded = self.load(change.key).await?;
                    self.serve(loaded, change, &step)
                }
                Err(error) => Err(error),
            };
            match appended {
                Ok(Changed::Done(Done { result, entry, sequence, dropped_files })) => {
                    break (result, Some(entry), sequence, dropped_files);
                }
                Ok(Changed::WrongSlot(slot)) => {
                    let reason = format!("this drive is slot {} of the partition", slot.0);
                    return Err(NodeError::Invalid(reason));
                }
                Ok(Changed::Stale) => {}
                Err(AppendError::NotReady) => match self.journal.room().await {
                    Ok(()) => {}
                    Err(AppendError::Full) => return Ok(self.refuse_full()),
                    Err(error) => return Err(self.unavailable(error)),
                },
                Err(AppendError::Full) => return Ok(self.refuse_full()),
                Err(AppendError::TooLong(len)) => {
                    return Err(NodeError::Invalid(format!("a register of {len} bytes is too long")));
                }
                Err(error @ AppendError::Poisoned(_)) => return Err(self.unavailable(error)),
            }
        };
        self.journal.durable(sequence).await.map_err(|error| self.unavailable(error))?;
        self.remove_files_later(dropped, change.address.slot);
        Ok((reply, entry))
    }

    /// Has shard files removed whose registers have dropped them, durably. Nobody waits for it; what is left, because the
    /// drive has too much to do or the op is being received again, is swept. Until it is done the ops are claimed, so that no
    /// new file of theirs is removed.
    pub(super) fn remove_files_later(self: &Arc<Self>, ops: Vec<OpId>, slot: SlotIndex) {
        let claims: Vec<Claim> = ops.into_iter().filter_map(|op| Claim::take(Arc::clone(self), op)).collect();
        if claims.is_empty() {
            return;
        }
        let removed = self.pool.submit(move || claims.into_iter().for_each(|claim| claim.remove_file(slot)));
        if let Err(error) = removed {
            tracing::debug!(drive = %self.id, %error, "dropped shard files are left to the sweep");
        }
    }

    fn refuse_full(&self) -> (SlotReply, Option<Arc<Entry>>) {
        self.health.set_full();
        (SlotReply::Refused(Refusal::Full), None)
    }

    /// Refuses a caller that does not mean this drive, or a key that is not of the partition.
    pub(super) fn check_address(
        &self,
        address: &SlotAddress,
        register: &RegisterKey,
    ) -> Result<(), NodeError> {
        self.check_slot(address)?;
        if partition_of(self.cluster, register.bucket, &register.key) != address.partition {
            return Err(NodeError::Invalid("the key is not of this partition".to_owned()));
        }
        Ok(())
    }

    /// Refuses a caller that does not mean this drive.
    pub(super) fn check_slot(&self, address: &SlotAddress) -> Result<(), NodeError> {
        if address.cluster != self.cluster {
            return Err(NodeError::Denied(format!("this node is of cluster {}", self.cluster)));
        }
        if address.drive != self.id {
            return Err(self.unavailable(format!("drive {} is not here", address.drive)));
        }
        if address.incarnation != self.incarnation {
            return Err(self.unavailable(format!(
                "it has incarnation {}, the caller means {}",
                self.incarnation.0, address.incarnation.0
            )));
        }
        if address.partition.0 >= PARTITION_COUNT || usize::from(address.slot.0) >= MAX_SLOTS {
            return Err(NodeError::Invalid("no such partition or slot".to_owned()));
        }
        Ok(())
    }

    /// Checks sizes, and verifies a shard that comes inside the request.
    fn check_request(&self, call: &SlotCall) -> Result<Option<NewShard>, NodeError> {
        let (version, op, shard) = match &call.request {
            SlotRequest::Prepare { op, shard } => (None, *op, shard),
            SlotRequest::Install { version, shard, .. } => (Some(version), version.op, shard),
            SlotRequest::Commit { version, .. } | SlotRequest::Stable { version, .. } => {
                (Some(version), version.op, &Bytes::new())
            }
            _ => return Ok(None),
        };
        if version.is_some_and(|version| version.metadata.len() > MAX_METADATA_BYTES) {
            return Err(NodeError::Invalid(format!("metadata over {MAX_METADATA_BYTES} bytes")));
        }
        if shard.is_empty() {
            return Ok(None);
        }
        if shard.len() > MAX_REQUEST_SHARD_BYTES {
            return Err(NodeError::Invalid(format!("a shard of {} bytes must be streamed", shard.len())));
        }
        self.verify_shard(op, call.address.slot, shard)?;
        Ok(Some(NewShard::Inline(op, shard.clone())))
    }

    /// The encoded shard of an op, if it lies in the journal and verifies.
    async fn inline_shard(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        op: OpId,
    ) -> Result<Option<Bytes>, NodeError> {
        let (mut entry, slot) = (Arc::clone(entry), entry.slot);
        for _ in 0..TRIES {
            let Some(location @ ShardLocation::Inline(place)) = entry.shard(op) else { return Ok(None) };
            let read = self.run(move |store| {
                let mut bytes = vec![0; place.len as usize];
                let read = store.journal.read(place.segment, u64::from(place.offset), &mut bytes);
                read.map_err(|error| error.to_string())?;
                let bytes = Bytes::from(bytes);
                store.verify_shard(op, slot, &bytes).map_err(|error| error.to_string())?;
                Ok::<_, String>(bytes)
            });
            let reason = match read.await? {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(reason) => reason,
            };
            let loaded = self.load(&entry.key).await?;
            let Some(now) = loaded.entry().filter(|now| now.slot == slot) else { return Ok(None) };
            if now.shard(op) == Some(location) {
                self.damaged(now, op, reason);
                return Ok(None);
            }
            // Compaction has moved it meanwhile. Where it is now it may still be on its way to the drive.
            self.journal.durable(now.sequence).await.map_err(|error| self.unavailable(error))?;
            entry = Arc::clone(now);
        }
        Ok(None)
    }
}
