//! The ordered views of a drive's registers: a rebuildable view of the journal, never the truth.
//!
//! Owns: the folder `index/` (redb, nowhere else used) and the layers in memory above it. Never decides what a register
//! says, and never acknowledges anything.
//!
//! ```text
//! append ──► active layer ──(full, or a second old)──► frozen layer ──(durable in the journal)──► redb
//!               read:  active, then frozen, then redb; a range merges the three
//! ```
//!
//! Tables: `registers` (encoded register key → sequence, place, image), `partitions` ((partition, sequence) → key),
//! `attention` (keys with something unfinished), `files` (shard file → key), `state` (drive state that is no register),
//! `segments` (live bytes of a journal segment), `meta` (applied sequence and counters).
//!
//! **Crash consistency.** A batch reaches redb only after its records are durable, and carries the sequence up to which
//! redb is complete. Most batches are committed without a sync; one in a while is synced. A start replays the journal
//! after the last synced one. An index that is lost, damaged, of another format, or older than what compaction has removed
//! from the journal is built anew from it, which reads the footers of sealed segments and the records of registers only.
//!
//! **Damage.** "Not here" is believed: reads count it, compaction and sweep remove on its word. So redb gets no block that
//! does not verify against a checksum kept elsewhere ([`blocks`] says what that covers). An error or a panic of the engine
//! ends its use at once ([`Index::guarded`]): the request is refused, the files are removed, the drive is failed and answers
//! nothing until the next start, which builds the index anew. Rows have no checksums of their own: a block is verified
//! before redb sees it, and what could go wrong behind that is the memory, or redb.
//! **Memory.** redb's cache and the layers are bounded; writers wait (see [`Index::admit`]) while the layers are full. The
//! checksums of the blocks take 2 MiB for a GiB of the index.
//!
//! Why redb: measured on this record shape (65-byte keys, images of about 420 bytes, batches of some 4 MiB, all six tables,
//! random order, one core, unoptimised build; `benches/drive.rs`): 33,000 inserts, 157,000 gets and 800,000 listed
//! registers a second. It returns I/O errors instead of a SIGBUS, has no threads of its own, and takes a custom file
//! backend (ours is [`DriveFile`](crate::drive::DriveFile)). Its weakness, inserts, is hidden by the layers: a register that
//! changes three times within a second (PREPARE, COMMIT, STABLE) is inserted once. fjall inserted four times as fast in the
//! same kind of test, but scanned at a third of the speed, and needs threads of its own.

mod apply;
mod backend;
mod blocks;
mod layers;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use coffer_common::types::PartitionId;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

pub(crate) use layers::StateRow;

use self::backend::Backend;
use self::blocks::Blocks;
use self::layers::Layers;
use crate::drive::DriveIo;
use crate::image::{Census, Entry, StateKey, decode_entry};
use crate::journal::Place;

const FOLDER: &str = "index";
const FILE: &str = "index/registers.redb";
const SUMS: &str = "index/registers.sums";
/// Raised when a table or a value changes its meaning: an older index is then built anew.
const FORMAT: u64 = 3;
/// redb's page cache for one drive. Tests read their small files from the drive too.
const CACHE_BYTES: usize = if cfg!(test) { 64 << 10 } else { 24 << 20 };

const REGISTERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("registers");
const PARTITIONS: TableDefinition<'_, (u16, u64), &[u8]> = TableDefinition::new("partitions");
const ATTENTION: TableDefinition<'_, &[u8], ()> = TableDefinition::new("attention");
const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files");
const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
const SEGMENTS: TableDefinition<'_, u64, i64> = TableDefinition::new("segments");
const META: TableDefinition<'_, &str, i64> = TableDefinition::new("meta");

/// The index cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// The engine or the file system said no.
    #[error("index: {0}")]
    Engine(String),
    /// A value is not of our format.
    #[error("index: {0}")]
    Malformed(String),
}

impl IndexError {
    pub(crate) fn engine(error: impl std::fmt::Display) -> Self {
        Self::Engine(error.to_string())
    }
}

/// Told when the engine has failed: nothing that it says counts any more.
type OnFailure = Arc<dyn Fn(String) + Send + Sync>;

/// The index of one drive.
pub(crate) struct Index {
    database: Database,
    blocks: Arc<Blocks>,
    on_failure: OnFailure,
    /// Nothing is asked of the engine any more.
    failed: AtomicBool,
    layers: Layers,
    /// Serialises batches, and guards what is known of the last one.
    applied: Mutex<Applied>,
}

/// How far redb has come.
#[derive(Clone, Copy, Debug, Default)]
struct Applied {
    /// Complete up to this sequence.
    sequence: u64,
    /// Complete up to this sequence, synced.
    synced: u64,
    /// Batches since the last synced one.
    unsynced_batches: u32,
    /// Counters at `sequence`.
    census: Census,
}

/// What an index knew when it was opened.
pub(crate) struct Opened {
    /// The index.
    pub(crate) index: Index,
    /// The journal is to be replayed after this sequence.
    pub(crate) applied: u64,
    /// The counters at that sequence.
    pub(crate) census: Census,
    /// The drive state at that sequence.
    pub(crate) state: Vec<(StateKey, StateRow)>,
}

impl Index {
    /// Opens the index; one that is missing, damaged or of another format is begun anew (with `applied` 0). `on_failure` is
    /// told when it fails later.
    ///
    /// # Errors
    /// [`IndexError`] if even a new one cannot be made.
    pub(crate) fn open(io: &Arc<dyn DriveIo>, on_failure: OnFailure) -> Result<Opened, IndexError> {
        if io.create_dir(FOLDER).map_err(IndexError::engine)? {
            io.sync_dir(".").map_err(IndexError::engine)?;
        }
        let damage = match Blocks::open(io) {
            Ok(blocks) => match Self::load(blocks, Arc::clone(&on_failure)) {
                Ok(opened) => return Ok(opened),
                Err(error) => Some(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(IndexError::engine(error)),
        };
        if let Some(error) = damage {
            tracing::warn!(drive = %io.root().display(), %error, "the index is built anew from the journal");
        }
        let blocks = Blocks::create(io).map_err(IndexError::engine)?;
        Self::load(blocks, on_failure)
    }

    /// Removes the index's files: the next [`Index::open`] begins anew.
    pub(crate) fn discard(io: &Arc<dyn DriveIo>) -> Result<(), IndexError> {
        blocks::discard(io).map_err(IndexError::engine)
    }

    fn load(blocks: Blocks, on_failure: OnFailure) -> Result<Opened, IndexError> {
        let blocks = Arc::new(blocks);
        fenced(|| {
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(Backend(Arc::clone(&blocks)))
                .map_err(IndexError::engine)?;
            let (layers, applied, failed) = Default::default();
            let index = Self { database, blocks, on_failure, layers, applied, failed };
            index.create_tables()?;
            let (applied, state) = index.read_meta()?;
            *index.applied.lock() = applied;
            Ok(Opened { index, applied: applied.sequence, census: applied.census, state })
        })
    }

    /// Runs a call of the engine. After the first failure there are no more: what it has in memory may be half of a change.
    fn guarded<T>(&self, call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(IndexError::Engine("it has failed before".to_owned()));
        }
        fenced(call).inspect_err(|error| {
            if !self.failed.swap(true, Ordering::AcqRel) {
                self.blocks.discard_unless_full(error);
                (self.on_failure)(error.to_string());
            }
        })
    }

    fn create_tables(&self) -> Result<(), IndexError> {
        let mut txn = self.database.begin_write().map_err(IndexError::engine)?;
        txn.set_quick_repair(true);
        {
            let mut meta = txn.open_table(META).map_err(IndexError::engine)?;
            let format = meta.get("format").map_err(IndexError::engine)?.map(|value| value.value());
            match format {
                None => drop(meta.insert("format", FORMAT as i64).map_err(IndexError::engine)?),
                Some(format) if format == FORMAT as i64 => {}
                Some(format) => return Err(IndexError::Malformed(format!("format {format}"))),
            }
            txn.open_table(REGISTERS).map_err(IndexError::engine)?;
            txn.open_table(PARTITIONS).map_err(IndexError::engine)?;
            txn.open_table(ATTENTION).map_err(IndexError::engine)?;
            txn.open_table(FILES).map_err(IndexError::engine)?;
            txn.open_table(STATE).map_err(IndexError::engine)?;
            txn.open_table(SEGMENTS).map_err(IndexError::engine)?;
        }
        txn.commit().map_err(IndexError::engine)
    }

    fn read_meta(&self) -> Result<(Applied, Vec<(StateKey, StateRow)>), IndexError> {
        let txn = self.database.begin_read().map_err(IndexError::engine)?;
        let meta = txn.open_table(META).map_err(IndexError::engine)?;
        let number = |name: &str| -> Result<i64, IndexError> {
            Ok(meta.get(name).map_err(IndexError::engine)?.map_or(0, |value| value.value()))
        };
        let sequence = number("applied")? as u64;
        let census = Census {
            registers: number("registers")?,
            unstable: number("unstable")?,
            missing_shards: number("missing_shards")?,
        };
        let mut state = Vec::new();
        for row in txn.open_table(STATE).map_err(IndexError::engine)?.iter().map_err(IndexError::engine)? {
            let (key, value) = row.map_err(IndexError::engine)?;
            let key = StateKey::from_bytes(key.value())
                .ok_or_else(|| IndexError::Malformed("a state key".to_owned()))?;
            let (sequence, place, payload) = split_value(value.value())?;
            let row = StateRow { sequence, place, payload: Bytes::copy_from_slice(payload) };
            state.push((key, row));
        }
        Ok((Applied { sequence, synced: sequence, unsynced_batches: 0, census }, state))
    }

    /// Records a register's newest image. Call in order of sequence, under the journal's appender.
    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        self.layers.insert(entry.key.clone(), entry.sequence, Some(entry));
    }

    /// Records that a register was dropped. Call in order of sequence, under the journal's appender.
    pub(crate) fn forget(&self, key: Bytes, sequence: u64) {
        self.layers.insert(key, sequence, None);
    }

    /// Records a piece of drive state, and that others are no longer needed, in one batch. Call in order of sequence, under
    /// the journal's appender.
    pub(crate) fn insert_state(&self, key: StateKey, row: StateRow, superseded: &[StateKey]) {
        self.layers.insert_state(key, row, superseded);
    }

    /// The register, if it is in a layer: `Some(None)` if it is known to have no record.
    pub(crate) fn recent(&self, key: &[u8]) -> Option<Option<Arc<Entry>>> {
        self.layers.get(key)
    }

    /// Changes whenever a layer was handed to redb: what [`Index::get`] read before may be old then.
    pub(crate) fn generation(&self) -> u64 {
        self.layers.generation()
    }

    /// Reads a register; blocks.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Arc<Entry>>, IndexError> {
        if let Some(found) = self.recent(key) {
            return Ok(found);
        }
        self.guarded(|| {
            let txn = self.database.begin_read().map_err(IndexError::engine)?;
            let table = txn.open_table(REGISTERS).map_err(IndexError::engine)?;
            match table.get(key).map_err(IndexError::engine)? {
                Some(value) => Ok(Some(Arc::new(decode_value(value.value())?))),
                None => Ok(None),
            }
        })
    }

    /// Waits while the layers are full.
    pub(crate) async fn admit(&self) {
        self.layers.admit().await;
    }

    /// The drive has failed and nothing will be applied any more: lets all who wait go.
    pub(crate) fn release(&self) {
        self.layers.release();
    }

    /// Drops the counter of a journal segment that was removed; blocks.
    pub(crate) fn forget_segment(&self, segment: u64) -> Result<(), IndexError> {
        let _serial = self.applied.lock();
        self.guarded(|| {
            let mut txn = self.database.begin_write().map_err(IndexError::engine)?;
            txn.set_durability(redb::Durability::None).map_err(IndexError::engine)?;
            let mut segments = txn.open_table(SEGMENTS).map_err(IndexError::engine)?;
            segments.remove(segment).map_err(IndexError::engine)?;
            drop(segments);
            txn.commit().map_err(IndexError::engine)
        })
    }

    /// Whether a batch should be applied now: the active layer is full.
    pub(crate) fn is_due(&self) -> bool {
        self.layers.is_due()
    }

    /// The sequence up to which the index would survive a crash.
    pub(crate) fn synced_sequence(&self) -> u64 {
        self.applied.lock().synced
    }

    /// The register in redb that names a shard file; blocks. Those of the layers only count once they are applied.
    pub(crate) fn file_owner(&self, name: &[u8]) -> Result<Option<Bytes>, IndexError> {
        self.guarded(|| {
            let txn = self.database.begin_read().map_err(IndexError::engine)?;
            let table = txn.open_table(FILES).map_err(IndexError::engine)?;
            let owner = table.get(name).map_err(IndexError::engine)?;
            Ok(owner.map(|key| Bytes::copy_from_slice(key.value())))
        })
    }

    /// Keys of registers with something unfinished, after `after`, at most `limit`; blocks. Those of the layers are
    /// only included once they are applied.
    pub(crate) fn attention(&self, after: &[u8], limit: usize) -> Result<Vec<Bytes>, IndexError> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.guarded(|| {
            let txn = self.database.begin_read().map_err(IndexError::engine)?;
            let table = txn.open_table(ATTENTION).map_err(IndexError::engine)?;
            let range = table.range::<&[u8]>((Excluded(after), Unbounded)).map_err(IndexError::engine)?;
            range
                .take(limit)
                .map(|row| Ok(Bytes::copy_from_slice(row.map_err(IndexError::engine)?.0.value())))
                .collect()
        })
    }

    /// Keys of a partition's registers by the sequence of their records, from after `after`, at most `limit`; blocks. A
    /// register that changes meanwhile moves to the end, and may be told twice.
    pub(crate) fn recorded(
        &self,
        partition: PartitionId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, IndexError> {
        // Before the table: what is applied in between is in both, and nothing in neither.
        let newer = self.layers.recorded(partition, after);
        let mut recorded = self.applied_records(partition, after, limit)?;
        if !newer.is_empty() {
            recorded.extend(newer);
            recorded.sort();
            recorded.dedup();
            recorded.truncate(limit);
        }
        Ok(recorded)
    }

    fn applied_records(
        &self,
        partition: PartitionId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, IndexError> {
        self.guarded(|| {
            let txn = self.database.begin_read().map_err(IndexError::engine)?;
            let table = txn.open_table(PARTITIONS).map_err(IndexError::engine)?;
            let end = (partition.0, u64::MAX);
            let range = table.range((partition.0, after.saturating_add(1))..=end);
            let rows = range.map_err(IndexError::engine)?.take(limit);
            rows.map(|row| {
                let (at, key) = row.map_err(IndexError::engine)?;
                Ok((at.value().1, Bytes::copy_from_slice(key.value())))
            })
            .collect()
        })
    }

    /// The partitions that have registers; blocks. Those of the layers are only included once they are applied.
    pub(crate) fn recorded_partitions(&self) -> Result<Vec<PartitionId>, IndexError> {
        self.guarded(|| {
            let txn = self.database.begin_read().map_err(IndexError::engine)?;
            let table = txn.open_table(PARTITIONS).map_err(IndexError::engine)?;
            let (mut found, mut next) = (Vec::new(), Some(0));
            while let Some(from) = next {
                let mut rows = table.range((from, 0_u64)..).map_err(IndexError::engine)?;
                let first = rows.next().transpose().map_err(IndexError::engine)?;
                let partition = first.map(|(at, _)| at.value().0);
                found.extend(partition.map(PartitionId));
                next = partition.and_then(|partition| partition.checked_add(1));
            }
            Ok(found)
        })
    }

    /// Live bytes of each journal segment, as of the last batch; blocks.
    pub(crate) fn live_bytes(&self) -> Result<BTreeMap<u64, u64>, IndexError> {
        self.guarded(|| {
            let txn = self.database.begin_read().map_err(IndexError::engine)?;
            let table = txn.open_table(SEGMENTS).map_err(IndexError::engine)?;
            let rows = table.iter().map_err(IndexError::engine)?;
            rows.map(|row| {
                let (segment, live) = row.map_err(IndexError::engine)?;
                Ok((segment.value(), live.value().max(0) as u64))
            })
            .collect()
        })
    }
}

/// Runs a call of the engine, and makes a panic there an error. The engine checks what its pages say by assertions and
/// indices in bounds. Blocks are verified before it sees them, so that only a fault of its own or of the memory is left to
/// trip them; that too must end with a refused request and a drive that says why, not with a thread that is gone. The engine
/// is asked nothing after that ([`Index::guarded`]), so no half-made change of its memory is ever looked at.
fn fenced<T>(call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    let panicked = |_| Err(IndexError::Engine("the engine panicked".to_owned()));
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(panicked)
}

/// A row's value: sequence (8), segment (8), offset (4), length (4), little-endian, and the payload.
fn join_value(sequence: u64, place: Place, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + payload.len());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&place.segment.to_le_bytes());
    out.extend_from_slice(&place.offset.to_le_bytes());
    out.extend_from_slice(&place.len.to_le_bytes());
    out.extend_from_slice(payload);
    out
}

fn split_value(value: &[u8]) -> Result<(u64, Place, &[u8]), IndexError> {
    let short = || IndexError::Malformed("a short value".to_owned());
    let (sequence, rest) = value.split_first_chunk::<8>().ok_or_else(short)?;
    let (segment, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (offset, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (len, payload) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let place = Place {
        segment: u64::from_le_bytes(*segment),
        offset: u32::from_le_bytes(*offset),
        len: u32::from_le_bytes(*len),
    };
    Ok((u64::from_le_bytes(*sequence), place, payload))
}

/// Decodes a row of `registers`.
pub(crate) fn decode_value(value: &[u8]) -> Result<Entry, IndexError> {
    let (sequence, place, image) = split_value(value)?;
    decode_entry(Bytes::copy_from_slice(image), sequence, place)
        .map_err(|error| IndexError::Malformed(error.to_string()))
}
