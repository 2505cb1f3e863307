//! Receiving a large shard: from a stream of pieces to a file, then to its register.
//!
//! 1. Refuse early what would be refused at the end; claim the op, so that it is received once at a time.
//! 2. Write each piece at its place and verify it on the drive's threads, in the same step.
//! 3. At the end: whole and bound to this slot, then synced, then its folder.
//! 4. PREPARE (or INSTALL) on the register, with the file as the shard's place.
//!
//! A damaged file of the same shard is set aside in step 2, and put back if no new one takes its place: its other blocks
//! may still be of use.
//!
//! **Cancellation.** Dropped before step 4, or without [`ShardPiece::End`], the file is removed. From step 4 on it stays:
//! either the register names it, or the sweep finds it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use coffer_common::node::{NodeError, PrepareShard, ShardPiece, ShardPieces, SlotAddress};
use coffer_common::protocol::message::{Refusal, SlotReply};
use coffer_common::protocol::slot::{self, Caller, Served, Slot};
use coffer_common::shard::{self, ShardId, Verifier};
use coffer_common::types::{BucketId, OpId, SlotIndex};

use super::DriveStore;
use super::mutate::{Change, NewShard};
use crate::drive::{DriveFile, is_full};

/// Pieces that have come are written together up to about this many bytes.
const WRITE_BYTES: usize = 1 << 20;

/// An op whose file nobody else writes or removes until this is dropped, which gives it back once.
pub(super) struct Claim<S: Deref<Target = DriveStore> = Arc<DriveStore>> {
    store: S,
    op: OpId,
}

impl<S: Deref<Target = DriveStore>> Claim<S> {
    /// Nothing if somebody has claimed it already.
    pub(super) fn take(store: S, op: OpId) -> Option<Self> {
        let taken = store.receiving.lock().insert(op);
        taken.then(|| Self { store, op })
    }

    /// Removes the op's file, which no register names.
    pub(super) fn remove_file(self, slot: SlotIndex) {
        self.store.remove_files(&[self.op], slot);
    }
}

impl<S: Deref<Target = DriveStore>> Drop for Claim<S> {
    fn drop(&mut self) {
        self.store.receiving.lock().remove(&self.op);
    }
}

/// A file that is being written; removed when dropped, unless it was given away. The claim on its op ends after that.
struct Receiving {
    /// Nothing once it was handed to the job that removes the file.
    claim: Option<Claim>,
    store: Arc<DriveStore>,
    op: OpId,
    slot: SlotIndex,
    created: AtomicBool,
    /// Whether a damaged file was set aside for this one.
    replaces: AtomicBool,
}

impl Receiving {
    fn of(claim: Claim, slot: SlotIndex) -> Self {
        let (store, op) = (Arc::clone(&claim.store), claim.op);
        let (created, replaces) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { claim: Some(claim), store, op, slot, created, replaces }
    }

    /// Removes the file if it was not given away.
    fn clean(&self) {
        if self.created.swap(false, Ordering::AcqRel) {
            remove_unfinished(&self.store, (self.op, self.slot), self.replaces.load(Ordering::Acquire));
        }
    }

    /// Whether there is a file that no register names.
    fn set_created(&self, created: bool) {
        self.created.store(created, Ordering::Release);
    }

    /// Cleans up before the caller is answered, so that it may try again at once.
    async fn close(self: Arc<Self>) {
        if self.created.load(Ordering::Acquire) {
            let store = Arc::clone(&self.store);
            // The job keeps the claim until the file is gone. A full queue: it is dropped here, and the sweep finds the file.
            let _ = store.run(move |_| self.clean()).await;
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !*self.created.get_mut() {
            return;
        }
        let Some(claim) = self.claim.take() else { return };
        let (slot, replaces) = (self.slot, *self.replaces.get_mut());
        let remove = move || {
            remove_unfinished(&claim.store, (claim.op, slot), replaces);
            drop(claim);
        };
        // A full queue: the sweep finds the file.
        let _ = self.store.pool.submit(remove);
    }
}

/// Removes a file that no register names, and puts back the damaged one that was set aside for it.
fn remove_unfinished(store: &DriveStore, (op, slot): (OpId, SlotIndex), replaces: bool) {
    store.remove_files(&[op], slot);
    if replaces && let Err(error) = store.files.put_back(op, slot) {
        tracing::warn!(drive = %store.id, %op, %error, "a damaged shard file was not put back");
    }
}

/// Why a shard was not written.
enum WriteError {
    Full,
    Invalid(String),
    Failed(NodeError),
}

/// A shard on its way to its file.
struct Writing {
    file: Arc<dyn DriveFile>,
    verifier: Verifier,
    offset: u64,
}

impl DriveStore {
    /// Receives a large shard; the reply is that of PREPARE.
    ///
    /// # Errors
    /// [`NodeError`]: not this slot, bytes that do not verify, an aborted stream, or a failed drive.
    pub async fn prepare_shard(
        self: &Arc<Self>,
        header: PrepareShard,
        pieces: ShardPieces,
    ) -> Result<SlotReply, NodeError> {
        self.check_health()?;
        self.check_address(&header.address, &header.register)?;
        if self.health.is_full() {
            return Ok(SlotReply::Refused(Refusal::Full));
        }
        let (op, key) = (header.op, Bytes::from(header.register.encode()));
        let caller = Caller { epoch: header.address.epoch, bucket_revision: header.bucket_revision };
        let (place, bucket) = ((&header.address, &key, op), Some(header.register.bucket));
        self.receive_shard(place, bucket, pieces, |slot| slot::serve_shard(slot, caller, op)).await
    }

    /// Receives a large shard, then lets `step` have its way with the register.
    pub(super) async fn receive_shard(
        self: &Arc<Self>,
        (address, key, op): (&SlotAddress, &Bytes, OpId),
        bucket: Option<BucketId>,
        pieces: ShardPieces,
        step: impl Fn(Slot<'_>) -> Served + Send,
    ) -> Result<SlotReply, NodeError> {
        let slot = address.slot;
        let Some(claim) = Claim::take(Arc::clone(self), op) else {
            return Err(NodeError::Invalid(format!("op {op} is being received already")));
        };
        let receiving = Arc::new(Receiving::of(claim, slot));
        let change = Change { key, address, bucket, shards: Vec::new() };
        let result = self.receive(&receiving, change, pieces, step).await;
        receiving.close().await;
        result
    }

    /// Steps 2 to 4; leaves `receiving.created` set if the file is to be removed.
    async fn receive(
        self: &Arc<Self>,
        receiving: &Arc<Receiving>,
        mut change: Change<'_>,
        pieces: ShardPieces,
        step: impl Fn(Slot<'_>) -> Served + Send,
    ) -> Result<SlotReply, NodeError> {
        let op = receiving.op;
        let loaded = self.load(change.key).await?;
        let known = loaded.entry().is_some_and(|entry| entry.holds_shard(op));
        let damaged = loaded.entry().is_some_and(|entry| entry.shard(op).is_some());
        if !known {
            match self.write_file(receiving, damaged, pieces).await {
                Ok(len) => change.shards = vec![NewShard::File(op, len)],
                Err(WriteError::Full) => {
                    self.health.set_full();
                    return Ok(SlotReply::Refused(Refusal::Full));
                }
                Err(WriteError::Invalid(reason)) => return Err(NodeError::Invalid(reason)),
                Err(WriteError::Failed(error)) => return Err(error),
            }
        }
        receiving.set_created(false);
        let wrote = !change.shards.is_empty();
        let (reply, entry) = self.change(&change, step).await?;
        receiving.set_created(wrote && entry.is_none_or(|entry| entry.shard(op).is_none()));
        Ok(reply)
    }

    /// Writes the pieces to the op's file, verified and durable; a `damaged` one is set aside first. Returns the encoded
    /// length.
    async fn write_file(
        self: &Arc<Self>,
        receiving: &Arc<Receiving>,
        damaged: bool,
        mut pieces: ShardPieces,
    ) -> Result<u64, WriteError> {
        let (op, slot) = (receiving.op, receiving.slot);
        // A caller that leaves now must not have the file removed before it is made: the claim ends with the job. A job that
        // is turned away has made nothing, and what lies there is a register's.
        let making = Arc::clone(receiving);
        let create = move |store: &Self| {
            let set_aside = damaged && store.files.set_aside(op, slot).is_ok();
            making.replaces.store(set_aside, Ordering::Release);
            let file = store.files.create(op, slot);
            making.set_created(set_aside || file.is_ok());
            drop(making);
            file
        };
        let file = self.run(create).await.map_err(WriteError::Failed)?;
        let file = file.map_err(|error| self.write_error(&error))?;
        let expected = ShardId { cluster: self.cluster, op, slot };
        let mut writing = Some(Writing { file, verifier: Verifier::new(expected), offset: 0 });
        let mut ended = false;
        while !ended {
            let (batch, end) = next_batch(&mut pieces).await?;
            ended = end;
            let Some(mut current) = writing.take() else { break };
            let written = self.run(move |store| store.write_batch(&mut current, batch).map(|()| current));
            writing = Some(written.await.map_err(WriteError::Failed)??);
        }
        let Some(current) = writing else { return Ok(0) };
        let finished = self.run(move |store| {
            current.verifier.finish().map_err(|error| WriteError::Invalid(error.to_string()))?;
            store.files.sync(op, current.file.as_ref()).map_err(|error| {
                if !is_full(&error) {
                    store.health.poison(format!("syncing a shard file failed: {error}"));
                }
                store.write_error(&error)
            })?;
            Ok(current.offset)
        });
        finished.await.map_err(WriteError::Failed)?
    }

    fn write_batch(&self, writing: &mut Writing, batch: Vec<Bytes>) -> Result<(), WriteError> {
        for piece in batch {
            writing.verifier.push(piece.clone()).map_err(|error| WriteError::Invalid(error.to_string()))?;
            writing.file.write_at(&piece, writing.offset).map_err(|error| self.write_error(&error))?;
            writing.offset += piece.len() as u64;
            self.health.spend(piece.len() as u64);
        }
        Ok(())
    }

    fn write_error(&self, error: &std::io::Error) -> WriteError {
        if is_full(error) {
            WriteError::Full
        } else {
            self.health.read_error();
            WriteError::Failed(self.unavailable(error))
        }
    }

    /// Verifies a whole encoded shard.
    pub(super) fn verify_shard(&self, op: OpId, slot: SlotIndex, encoded: &Bytes) -> Result<(), NodeError> {
        let invalid = |error: shard::ShardError| NodeError::Invalid(error.to_string());
        let mut verifier = Verifier::new(ShardId { cluster: self.cluster, op, slot });
        verifier.push(encoded.clone()).map_err(invalid)?;
        verifier.finish().map_err(invalid).map(drop)
    }
}

/// What has come, and whether that is all.
async fn next_batch(pieces: &mut ShardPieces) -> Result<(Vec<Bytes>, bool), WriteError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut next = pieces.recv().await;
    loop {
        match next {
            Some(ShardPiece::Data(piece)) => {
                bytes += piece.len();
                batch.push(piece);
            }
            Some(ShardPiece::End) => return Ok((batch, true)),
            None => return Err(WriteError::Invalid("the stream broke off before its end".to_owned())),
        }
        if bytes >= WRITE_BYTES {
            return Ok((batch, false));
        }
        next = match pieces.try_recv() {
            Ok(piece) => Some(piece),
            Err(tokio::sync::mpsc::error::TryRecvError::Empty) => return Ok((batch, false)),
            Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => None,
        };
    }
}
