//! Receiving a large shard: from a stream of pieces to a file, then to its register.
//!
//! 1. Refuse early what would be refused at the end; claim the op, so that it is received once at a time.
//! 2. Write each piece at its place and verify it on the drive's threads, in the same step.
//! 3. At the end: whole and bound to this slot, then synced, then its folder.
//! 4. PREPARE on the register, with the file as the shard's place.
//!
//! **Cancellation.** Dropped before step 4, or without [`ShardPiece::End`], the file is removed. From step 4 on it stays:
//! either the register names it, or the sweep finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use coffer_common::node::{NodeError, PrepareShard, ShardPiece, ShardPieces};
use coffer_common::protocol::message::{Refusal, SlotReply};
use coffer_common::protocol::slot::{self, Caller};
use coffer_common::shard::{self, ShardId, Verifier};
use coffer_common::types::{OpId, SlotIndex};

use super::DriveStore;
use super::mutate::{Change, NewShard};
use crate::drive::{DriveFile, is_full};

/// Pieces that have come are written together up to about this many bytes.
const WRITE_BYTES: usize = 1 << 20;

/// A file that is being written; removed when dropped, unless it was given away.
struct Receiving {
    store: Arc<DriveStore>,
    op: OpId,
    slot: SlotIndex,
    created: AtomicBool,
}

impl Receiving {
    /// Removes the file if it was not given away, and ends the claim on the op.
    fn clean(store: &DriveStore, op: OpId, slot: SlotIndex, created: bool) {
        if created {
            store.remove_files(&[op], slot);
        }
        store.receiving.lock().remove(&op);
    }

    /// Whether there is a file that no register names.
    fn set_created(&self, created: bool) {
        self.created.store(created, Ordering::Release);
    }

    /// Cleans up before the caller is answered, so that it may try again at once.
    async fn close(self: Arc<Self>) {
        let (op, slot) = (self.op, self.slot);
        if self.created.swap(false, Ordering::AcqRel) {
            // A full queue: dropping the claim below is all that is left to do, the sweep finds the file.
            let _ = self.store.run(move |store| Self::clean(store, op, slot, true)).await;
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if *self.created.get_mut() {
            let (store, op, slot) = (Arc::clone(&self.store), self.op, self.slot);
            if self.store.pool.submit(move || Self::clean(&store, op, slot, true)).is_ok() {
                return;
            }
        }
        Self::clean(&self.store, self.op, self.slot, false);
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
        let (op, slot) = (header.op, header.address.slot);
        let key = Bytes::from(header.register.encode());
        if !self.receiving.lock().insert(op) {
            return Err(NodeError::Invalid(format!("op {op} is being received already")));
        }
        let created = AtomicBool::new(false);
        let receiving = Arc::new(Receiving { store: Arc::clone(self), op, slot, created });
        let result = self.receive(&receiving, header, &key, pieces).await;
        receiving.close().await;
        result
    }

    /// Steps 2 to 4; leaves `receiving.created` set if the file is to be removed.
    async fn receive(
        self: &Arc<Self>,
        receiving: &Arc<Receiving>,
        header: PrepareShard,
        key: &Bytes,
        pieces: ShardPieces,
    ) -> Result<SlotReply, NodeError> {
        let op = receiving.op;
        let known = self.load(key).await?.entry().is_some_and(|entry| entry.holds_shard(op));
        let mut shard = None;
        if !known {
            match self.write_file(receiving, pieces).await {
                Ok(len) => shard = Some(NewShard::File(op, len)),
                Err(WriteError::Full) => {
                    self.health.set_full();
                    return Ok(SlotReply::Refused(Refusal::Full));
                }
                Err(WriteError::Invalid(reason)) => return Err(NodeError::Invalid(reason)),
                Err(WriteError::Failed(error)) => return Err(error),
            }
        }
        receiving.set_created(false);
        let wrote = shard.is_some();
        let bucket = Some(header.register.bucket);
        let change = Change { key, address: &header.address, bucket, shard };
        let caller = Caller { epoch: header.address.epoch, bucket_revision: header.bucket_revision };
        let (reply, entry) = self.change(&change, |slot| slot::serve_shard(slot, caller, op)).await?;
        receiving.set_created(wrote && entry.is_none_or(|entry| entry.shard(op).is_none()));
        Ok(reply)
    }

    /// Writes the pieces to the op's file, verified and durable. Returns the encoded length.
    async fn write_file(
        self: &Arc<Self>,
        receiving: &Arc<Receiving>,
        mut pieces: ShardPieces,
    ) -> Result<u64, WriteError> {
        let (op, slot) = (receiving.op, receiving.slot);
        receiving.set_created(true);
        // A caller that leaves now must not have the file removed before it is made: the claim ends with the job.
        let claim = Arc::clone(receiving);
        let create = move |store: &Self| {
            let file = store.files.create(op, slot);
            drop(claim);
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
