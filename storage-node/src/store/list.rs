//! One drive's part of a listing.
//!
//! It is read in pieces, each a job of its own: a prefix may be full of deleted keys, and a job that looked at all of them
//! would pass for a call that hangs. Whoever does not wait any longer ends it with the piece that runs. A piece goes on behind
//! the last key of the one before, as a scan does whenever a layer has gone into redb: no register that was there all the time
//! is missed. For a caller that goes on from there, the page ends behind such a piece once its time is up.

use std::collections::HashSet;
use std::iter;
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coffer_common::node::{ListEntry, ListRequest, NodeError};
use coffer_common::protocol::message::VersionKind;
use coffer_common::protocol::register::Role;
use coffer_common::types::{BucketId, Epoch, PartitionId, RegisterKey};
use tokio::time::Instant;

use super::DriveStore;
use crate::image::Listed;
use crate::index::{Index, IndexError};

/// How much the keys and the metadata of a page are allocated at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Registers looked at in one go: some more than an ordinary page has. Tests take small pieces.
const PIECE: usize = if cfg!(test) { 16 } else { 1024 };

/// An item of one drive's page, with the key it is ordered by.
#[derive(Clone, Debug)]
pub(crate) enum DriveItem {
    /// A register with a current version.
    Entry(Listed),
    /// Rolled-up keys, and the first live register below them.
    CommonPrefix(Bytes, ListEntry),
}

/// Keys and metadata of a page, in few allocations. Each holds on to its chunk.
#[derive(Default)]
struct Chunks(BytesMut);

impl Chunks {
    fn keep(&mut self, bytes: &[u8]) -> Bytes {
        if self.0.capacity() < bytes.len() {
            self.0 = BytesMut::with_capacity(bytes.len().max(CHUNK_BYTES));
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }
}

/// One drive's page.
#[derive(Debug, Default)]
pub(crate) struct DriveList {
    /// Items, ordered by their key: the encoded register, or the encoded prefix.
    pub(crate) items: Vec<(Bytes, DriveItem)>,
    /// Whether more may follow the last item.
    pub(crate) truncated: bool,
    /// How far the drive has looked, if it had to stop before the page was full: what it holds up to there, this key
    /// included, is among the items.
    pub(crate) walked: Option<Bytes>,
    /// The bucket's revision here, if the caller's record is older: then nothing is listed.
    pub(crate) newer_bucket: Option<u64>,
}

/// A page while it is read, piece by piece.
struct PageReader {
    request: Arc<ListRequest>,
    /// The page ends with the item that makes it longer than this.
    bytes: usize,
    /// Partitions that the drive takes no part in.
    left: HashSet<PartitionId>,
    /// Where the next piece begins, and what the last one ends before.
    from: Bound<Vec<u8>>,
    end: Vec<u8>,
    chunks: Chunks,
    held: usize,
    list: DriveList,
}

impl PageReader {
    fn new(request: Arc<ListRequest>, bytes: usize, left: HashSet<PartitionId>) -> Self {
        let prefix = RegisterKey::encode_prefix(request.bucket, request.kind, &request.prefix);
        let end = after_prefix(&prefix);
        let from = if request.after.as_ref() >= prefix.as_slice() {
            Bound::Excluded(request.after.to_vec())
        } else {
            Bound::Included(prefix)
        };
        let (chunks, held, list) = Default::default();
        Self { request, bytes, left, from, end, chunks, held, list }
    }

    /// Looks at the next [`PIECE`] registers; true if the page has ended.
    fn read_on(&mut self, index: &Index) -> Result<bool, IndexError> {
        if self.request.after.as_ref() >= self.end.as_slice() {
            return Ok(true);
        }
        let mut scan = index.scan(self.from.clone(), self.end.clone());
        for _ in 0..PIECE {
            let Some(found) = scan.next()? else { return Ok(true) };
            let listed = found.listed(|metadata| self.chunks.keep(metadata))?;
            let Some(listed) = listed.filter(|listed| !self.left.contains(&listed.partition)) else {
                continue;
            };
            if self.list.items.len() == self.request.limit.max(1) as usize || self.held > self.bytes {
                self.list.truncated = true;
                return Ok(true);
            }
            if let Some(below) = self.take(found.key(), listed)? {
                scan.seek(after_prefix(&below));
            }
        }
        self.from = scan.into_position();
        Ok(false)
    }

    /// Ends the page where the last piece has ended. (A place that is included is the one behind a rolled-up prefix, which is
    /// no register's key.)
    fn stop(&mut self) {
        if let Bound::Included(position) | Bound::Excluded(position) = &self.from {
            self.list.walked = Some(Bytes::copy_from_slice(position));
            self.list.truncated = true;
        }
    }

    /// Adds a register to the page; tells the encoded prefix that it is rolled up into, if nothing else below that counts.
    fn take(&mut self, key: &[u8], listed: Listed) -> Result<Option<Vec<u8>>, IndexError> {
        let Some(common) = rolled_up(key, &self.request)? else {
            let metadata = iter::once(listed.current.version.metadata.len());
            self.held += ListEntry::memory_of(key.len(), metadata);
            let key = self.chunks.keep(key);
            self.list.items.push((key, DriveItem::Entry(listed)));
            return Ok(None);
        };
        // Tombstones tell nothing of what else is below the prefix.
        if listed.current.version.kind == VersionKind::Tombstone {
            return Ok(None);
        }
        let encoded = RegisterKey::encode_prefix(self.request.bucket, self.request.kind, &common);
        let witness = list_entry(key, listed)?;
        self.held += witness.memory();
        self.list.items.push((encoded.clone().into(), DriveItem::CommonPrefix(common, witness)));
        Ok(Some(encoded))
    }
}

impl DriveStore {
    /// Reads this drive's part of a page, which ends with the item that makes it longer than `bytes`, or with the first piece
    /// that ends after `until`.
    pub(crate) async fn list(
        self: &Arc<Self>,
        request: Arc<ListRequest>,
        bytes: usize,
        until: Option<Instant>,
    ) -> Result<DriveList, NodeError> {
        self.check_health()?;
        let (bucket, caller) = (request.bucket, request.bucket_revision);
        let mut reader = PageReader::new(request, bytes, self.left_partitions());
        loop {
            let read = self.run(move |store| reader.read_on(&store.index).map(|ended| (ended, reader)));
            let (ended, read) = read.await?.map_err(|error| {
                self.health.read_error();
                self.unavailable(error)
            })?;
            reader = read;
            if ended {
                break;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                reader.stop();
                break;
            }
        }
        let list = reader.list;
        // Asked after the read: what was adopted meanwhile counts.
        if let Err(newer) = self.admits(bucket, caller) {
            return Ok(DriveList { newer_bucket: Some(newer), ..DriveList::default() });
        }
        // What was read from the layers may not be durable yet.
        let shown = self.journal.last_sequence();
        self.journal.durable(shown).await.map_err(|error| self.unavailable(error))?;
        Ok(list)
    }

    /// Lets a caller in whose record of the bucket is as new as this drive's, or who does not tell it (0); else says what
    /// is known here.
    fn admits(&self, bucket: BucketId, revision: u64) -> Result<(), u64> {
        let known = self.slots.read().bucket(bucket).0;
        if revision == 0 || known.admit(revision).is_ok() { Ok(()) } else { Err(known.revision) }
    }

    /// What this drive knows of one register, for a listing.
    pub(crate) async fn list_one(
        self: &Arc<Self>,
        register: RegisterKey,
    ) -> Result<Option<ListEntry>, NodeError> {
        let key = register.encode();
        let entry = self.run(move |store| store.index.get(&key)).await?.map_err(|e| self.unavailable(e))?;
        let left = |partition| self.partition(partition).role == Role::Out;
        let listed = entry.filter(|entry| !left(entry.partition)).and_then(|entry| {
            let slots = vec![(entry.slot, entry.register.current()?.clone())];
            Some(ListEntry { register, partition: entry.partition, slots })
        });
        self.journal.durable(self.journal.last_sequence()).await.map_err(|e| self.unavailable(e))?;
        Ok(listed)
    }

    /// Partitions whose slot on this drive is no voter.
    pub(crate) fn not_voting(&self) -> Vec<PartitionId> {
        let partitions = self.slots.partitions().into_iter();
        partitions.filter(|(_, state)| state.role != Role::Voter).map(|(partition, _)| partition).collect()
    }

    /// Partitions that the drive takes no part in: what it has of them is of the past.
    fn left_partitions(&self) -> HashSet<PartitionId> {
        let partitions = self.slots.partitions().into_iter();
        partitions.filter(|(_, state)| state.role == Role::Out).map(|(partition, _)| partition).collect()
    }

    /// Partitions whose epoch is not 0.
    pub(crate) fn epochs(&self) -> Vec<(PartitionId, Epoch)> {
        let partitions = self.slots.partitions().into_iter();
        partitions
            .map(|(partition, state)| (partition, state.epoch))
            .filter(|(_, epoch)| *epoch != Epoch(0))
            .collect()
    }
}

fn decode_key(key: &[u8]) -> Result<RegisterKey, IndexError> {
    RegisterKey::decode(key).map_err(|error| IndexError::Malformed(error.to_string()))
}

fn list_entry(key: &[u8], listed: Listed) -> Result<ListEntry, IndexError> {
    let slots = vec![(listed.slot, listed.current)];
    Ok(ListEntry { register: decode_key(key)?, partition: listed.partition, slots })
}

/// The common prefix that a register's key is rolled up into, delimiter included.
fn rolled_up(key: &[u8], request: &ListRequest) -> Result<Option<Bytes>, IndexError> {
    let delimiter = request.delimiter.as_ref();
    if delimiter.is_empty() {
        return Ok(None);
    }
    let register = decode_key(key)?;
    let key = register.key.as_bytes();
    let Some(rest) = key.get(request.prefix.len()..) else { return Ok(None) };
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter);
    Ok(at.map(|at| Bytes::copy_from_slice(&key[..request.prefix.len() + at + delimiter.len()])))
}

/// The first byte string behind all that begin with the encoded prefix: UTF-8 has no 0xFF, and the one that escapes a
/// zero never begins a unit.
pub(crate) fn after_prefix(encoded: &[u8]) -> Vec<u8> {
    [encoded, &[0xFF]].concat()
}
