//! Reading blocks of a shard, each verified before it leaves the drive.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coffer_common::node::{NodeError, ReadShard, ShardBlock, ShardBlocks};
use coffer_common::shard::{CHECKSUM_LEN_BYTES, HEADER_LEN_BYTES, ShardHeader, ShardId, block_offset_bytes};
use coffer_common::types::{OpId, SlotIndex};
use tokio::sync::mpsc;

use super::DriveStore;
use super::mutate::{Change, Changed};
use crate::drive::DriveFile;
use crate::image::{Entry, ShardLocation};
use crate::journal::Place;

/// Bytes read from the drive at a time.
const READ_BYTES: u64 = 1 << 20;
/// Blocks that may wait for the caller.
const CHANNEL_BLOCKS: usize = 4;
/// A shard that was moved while it was read is read again, so often.
pub(super) const TRIES: u32 = 3;

/// Where a shard is read from.
pub(super) enum Source {
    File(Arc<dyn DriveFile>),
    Journal(Place),
}

/// A shard being read.
pub(super) struct Reading {
    pub(super) source: Source,
    pub(super) header: ShardHeader,
}

impl DriveStore {
    /// Streams verified blocks of a shard. Blocks past the shard's end are left out.
    ///
    /// # Errors
    /// [`NodeError::ShardUnavailable`] if the shard is not here; what is found while reading ends the stream.
    pub async fn read_shard(self: &Arc<Self>, request: ReadShard) -> Result<ShardBlocks, NodeError> {
        self.check_health()?;
        self.check_address(&request.address, &request.register)?;
        let op = request.op;
        let (first, count) = (request.first_block, request.block_count);
        let (entry, reading, piece) = self.begin_reading(&request).await?;
        let (sender, receiver) = mpsc::channel(CHANNEL_BLOCKS);
        let store = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = store.stream_blocks(&sender, reading, piece, (first, count)).await {
                let reason = match error {
                    StreamError::Gone => return,
                    StreamError::Node(error) => error,
                    StreamError::Shard(reason) => store.damaged(&entry, op, reason),
                };
                // The caller may have gone meanwhile.
                let _ = sender.send(Err(reason)).await;
            }
        });
        Ok(receiver)
    }

    /// Opens the shard where its register says that it lies, and reads the first piece.
    async fn begin_reading(
        self: &Arc<Self>,
        request: &ReadShard,
    ) -> Result<(Arc<Entry>, Reading, Vec<ShardBlock>), NodeError> {
        let key = Bytes::from(request.register.encode());
        let (op, slot) = (request.op, request.address.slot);
        let (first, count) = (request.first_block, request.block_count);
        let missing = |reason: &str| NodeError::ShardUnavailable { op, reason: reason.to_owned() };
        let mut failed: Option<(ShardLocation, String)> = None;
        for _ in 0..=TRIES {
            let loaded = self.load(&key).await?;
            let entry = Arc::clone(loaded.entry().ok_or_else(|| missing("the register is not here"))?);
            let location = entry.shard(op).ok_or_else(|| missing("its shard is not here"))?;
            if entry.slot != slot {
                return Err(missing("this drive is another slot of the partition"));
            }
            // Else compaction has moved it while it was read.
            if let Some((_, reason)) = failed.take_if(|(before, _)| *before == location) {
                return Err(self.damaged(&entry, op, reason));
            }
            // What was recorded a moment ago may still be on its way to the journal.
            self.journal.durable(entry.sequence).await.map_err(|error| self.unavailable(error))?;
            let opened = self.run(move |store| {
                let reading = store.open_shard(op, slot, location)?;
                let piece =
                    store.read_blocks(&reading, first, blocks_per_read(&reading.header).min(count))?;
                Ok::<_, String>((reading, piece))
            });
            match opened.await? {
                Ok((reading, piece)) => return Ok((entry, reading, piece)),
                Err(reason) => failed = Some((location, reason)),
            }
        }
        Err(missing("it is being moved within the drive"))
    }

    async fn stream_blocks(
        self: &Arc<Self>,
        sender: &mpsc::Sender<Result<ShardBlock, NodeError>>,
        reading: Reading,
        mut piece: Vec<ShardBlock>,
        (first, count): (u64, u64),
    ) -> Result<(), StreamError> {
        let end = first.saturating_add(count).min(reading.header.block_count());
        let per_read = blocks_per_read(&reading.header);
        let reading = Arc::new(reading);
        let mut next = first;
        loop {
            next += piece.len() as u64;
            for block in piece {
                sender.send(Ok(block)).await.map_err(|_| StreamError::Gone)?;
            }
            if next >= end {
                return Ok(());
            }
            let reading = Arc::clone(&reading);
            let read = self.run(move |store| store.read_blocks(&reading, next, per_read.min(end - next)));
            piece = read.await.map_err(StreamError::Node)?.map_err(StreamError::Shard)?;
        }
    }

    /// Opens a shard and reads its header.
    pub(super) fn open_shard(
        &self,
        op: OpId,
        slot: SlotIndex,
        location: ShardLocation,
    ) -> Result<Reading, String> {
        let source = match location {
            ShardLocation::File { .. } => {
                Source::File(self.files.file(op, slot).map_err(|error| error.to_string())?)
            }
            ShardLocation::Inline(place) => Source::Journal(place),
        };
        let mut bytes = [0; HEADER_LEN_BYTES];
        self.read_at(&source, &mut bytes, 0)?;
        let header = ShardHeader::decode(&bytes).map_err(|error| error.to_string())?;
        if header.id() != (ShardId { cluster: self.cluster, op, slot }) {
            return Err("another shard lies in its place".to_owned());
        }
        Ok(Reading { source, header })
    }

    /// Reads and verifies up to `count` blocks from `first`.
    pub(super) fn read_blocks(
        &self,
        reading: &Reading,
        first: u64,
        count: u64,
    ) -> Result<Vec<ShardBlock>, String> {
        let header = &reading.header;
        let end = first.saturating_add(count).min(header.block_count());
        if first >= end {
            return Ok(Vec::new());
        }
        let from = block_offset_bytes(first, header.block_len_bytes);
        let to = block_offset_bytes(end, header.block_len_bytes).min(header.encoded_len_bytes());
        let mut bytes = BytesMut::zeroed((to - from) as usize);
        self.read_at(&reading.source, &mut bytes, from)?;
        let mut bytes = bytes.freeze();
        let mut blocks = Vec::with_capacity((end - first) as usize);
        for number in first..end {
            let mut checksum = [0; CHECKSUM_LEN_BYTES];
            checksum.copy_from_slice(&bytes.split_to(CHECKSUM_LEN_BYTES));
            let checksum = u128::from_le_bytes(checksum);
            let data = bytes.split_to(header.block_len_bytes_at(number) as usize);
            header.verify(number, checksum, &data).map_err(|error| error.to_string())?;
            blocks.push(ShardBlock { checksum, data });
        }
        Ok(blocks)
    }

    fn read_at(&self, source: &Source, bytes: &mut [u8], offset: u64) -> Result<(), String> {
        match source {
            Source::File(file) => file.read_at(bytes, offset).map_err(|error| error.to_string()),
            Source::Journal(place) if offset + bytes.len() as u64 <= u64::from(place.len) => self
                .journal
                .read(place.segment, u64::from(place.offset) + offset, bytes)
                .map_err(|error| error.to_string()),
            Source::Journal(_) => Err("the shard is shorter than its header says".to_owned()),
        }
    }

    /// Marks the version's shard as missing, so that it is healed, and tells the caller.
    pub(super) fn damaged(self: &Arc<Self>, entry: &Arc<Entry>, op: OpId, reason: String) -> NodeError {
        self.health.read_error();
        tracing::warn!(drive = %self.id, %op, reason, "a shard cannot be read");
        let (store, entry) = (Arc::clone(self), Arc::clone(entry));
        let marked = self.pool.submit(move || {
            if let Err(error) = store.mark_missing(&entry, op) {
                let drive = store.id;
                tracing::warn!(%drive, %op, error, "the damaged shard was not marked, its next read will");
            }
        });
        if marked.is_err() {
            tracing::warn!(drive = %self.id, %op, "the damaged shard was not marked, its next read will");
        }
        NodeError::ShardUnavailable { op, reason }
    }

    pub(super) fn mark_missing(&self, seen: &Entry, op: OpId) -> Result<(), String> {
        let address = self.own_address(seen);
        let change = Change { key: &seen.key, address: &address, bucket: None, shards: Vec::new() };
        // Compaction may have moved the shard while it was read.
        let location = seen.shard(op);
        loop {
            let loaded = self.load_blocking(&seen.key).map_err(|error| error.to_string())?;
            let changed = self.with_room(|| {
                self.mutate(loaded.clone(), &change, |entry| {
                    let same = entry.shard(op) == location;
                    let version = entry.register.versions.iter_mut().find(|v| v.version.op == op);
                    match version {
                        Some(version) if same && version.shard_present => {
                            version.shard_present = false;
                            ((), true)
                        }
                        _ => ((), false),
                    }
                })
            })?;
            if !matches!(changed, Changed::Stale) {
                return Ok(());
            }
        }
    }
}

enum StreamError {
    /// The caller has gone.
    Gone,
    Node(NodeError),
    Shard(String),
}

pub(super) fn blocks_per_read(header: &ShardHeader) -> u64 {
    (READ_BYTES / u64::from(header.block_len_bytes)).max(1)
}
