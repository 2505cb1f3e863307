//! Doors for the benches into parts that are private otherwise. No stable interface.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use coffer_common::protocol::message::{SlotVersion, Version, VersionKind, VersionState};
use coffer_common::types::{
    BucketId, ClusterId, DriveId, ObjectKey, OpId, PartitionId, RegisterKey, RegisterKind, SlotIndex,
    SlotSet, Tag,
};

use crate::drive::{DriveIo, FileIo, Threads};
use crate::image::Entry;
use crate::index::Index;
use crate::journal::{AppendError, Journal, OpenOptions, Owner, Place, RecordKind};

/// A journal of its own.
pub struct JournalBench(Journal);

impl JournalBench {
    /// Begins a journal in a folder.
    ///
    /// # Errors
    /// What the journal says.
    pub fn open(path: &Path, segment_bytes: u32) -> anyhow::Result<Self> {
        let options = OpenOptions {
            owner: Owner { cluster: ClusterId(1), drive: DriveId(1) },
            segment_bytes,
            applied: 0,
            name: "bench",
            threads: Threads::Own,
            on_failure: Box::new(|_| {}),
        };
        Ok(Self(Journal::open(Arc::new(FileIo::new(path)), options, &mut |_| Ok(()))?))
    }

    /// Appends a record and waits until it is durable.
    ///
    /// # Errors
    /// What the journal says.
    pub async fn append(&self, payload: Bytes) -> anyhow::Result<()> {
        loop {
            let appended = self.0.appender().append(RecordKind::Register, payload.clone());
            match appended {
                Ok((sequence, _)) => return Ok(self.0.durable(sequence).await?),
                Err(AppendError::NotReady) => self.0.room().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A prime that divides no count that is benched: each register comes once, in no order.
const STEP: u64 = 7919;

/// An index of its own.
pub struct IndexBench(Index);

impl IndexBench {
    /// Begins an index in a folder.
    ///
    /// # Errors
    /// What the index says.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let io: Arc<dyn DriveIo> = Arc::new(FileIo::new(path));
        Ok(Self(Index::open(&io, Arc::new(|_| {}))?.index))
    }

    /// Inserts `count` registers of a typical shape and applies them in batches.
    ///
    /// # Errors
    /// What the index says.
    pub fn fill(&self, count: u64) -> anyhow::Result<()> {
        for number in 0..count {
            // Keys arrive in no order, as from many clients.
            self.0.insert(Arc::new(register(number, number * STEP % count)?));
            if self.0.is_due() {
                self.0.apply(false, |_| Ok(()))?;
            }
        }
        Ok(self.0.apply(true, |_| Ok(()))?)
    }

    /// Scans all registers, decoded as for a listing; returns how many.
    ///
    /// # Errors
    /// What the index says.
    pub fn scan(&self) -> anyhow::Result<u64> {
        let mut scan = self.0.scan(Bound::Unbounded, Vec::new());
        let mut count = 0;
        while let Some(found) = scan.next()? {
            count += u64::from(found.listed(Bytes::copy_from_slice)?.is_some());
        }
        Ok(count)
    }

    /// Reads one register.
    ///
    /// # Errors
    /// What the index says.
    pub fn get(&self, number: u64) -> anyhow::Result<bool> {
        Ok(self.0.get(&key(number)?)?.is_some())
    }
}

fn key(number: u64) -> anyhow::Result<Bytes> {
    let name = format!("photos/2026/11/{:04}/{number:012}.jpg", number / 1000);
    let key = RegisterKey::object(BucketId(7), ObjectKey::new(name)?);
    debug_assert_eq!(key.kind, RegisterKind::Object);
    Ok(key.encode().into())
}

/// A register with one stable version and 256 bytes of metadata.
fn register(sequence: u64, number: u64) -> anyhow::Result<Entry> {
    let op = OpId { session: 1, counter: number };
    let mut entry = Entry::vacant(key(number)?, PartitionId((number % 4096) as u16), SlotIndex(1));
    let tag = Tag { seq: 1, writer: op, ..Tag::default() };
    entry.register.learn = Some(Tag::default());
    entry.register.versions.push(SlotVersion {
        version: Version {
            op,
            kind: VersionKind::Data,
            null_version: true,
            k: 2,
            shard_len_bytes: 4096,
            block_len_bytes: 131_072,
            metadata: Bytes::from(vec![number as u8; 256]),
        },
        tag,
        state: VersionState::Stable,
        shard_present: true,
        acknowledged: SlotSet(15),
    });
    entry.sequence = sequence + 1;
    entry.place = Place { segment: 1 + sequence / 100_000, offset: 64, len: 420 };
    Ok(entry)
}
