//! The slots of one drive: the protocol's register rules made durable.
//!
//! Owns: [`DriveStore`], which joins journal, index and shard files of a drive, and the order of their steps. Never
//! talks to another drive or node, and never decides a register rule: `common::protocol` does.
//!
//! Flow of a request to a register ([`call`]):
//! 1. Check that the caller means this slot (cluster, drive, incarnation, partition); verify a shard that came along.
//! 2. Load the register: from the index's layers, else from redb on the drive's own threads.
//! 3. Under the register's lock ([`mutate`]): epoch and bucket revision, the protocol's step, and, if it changed
//!    anything, the shard's and the whole register's record to the journal and to the index's layer.
//! 4. Without any lock: wait until the record, or, if nothing changed, the last record of the register, is durable.
//!    Only then reply. So no reply ever shows a state that a crash could take back.
//!
//! Lock order: register → [`slots::Slots`] → journal tail → index layers; the sets of what is unfinished and owed after the register alone. None is held across an await or any I/O.
//! **Failure.** A failed write or sync, and an index that is damaged while it is in use, poison the drive: all waiters and all later requests are answered
//! `DriveUnavailable`, and the state in memory, which may be ahead of the drive, is never shown again.

mod background;
mod call;
mod compact;
mod copies;
mod hand_over;
mod install;
mod leave;
mod list;
mod mutate;
mod owed;
mod purge;
mod read;
mod receive;
mod scrub;
mod slots;
#[cfg(test)]
pub(crate) mod tests;
mod unfinished;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coffer_common::node::{DriveInfo, DriveJoin, DriveScrub, DriveState, NodeError};
use coffer_common::types::{ClusterId, DriveId, Incarnation, OpId};
use parking_lot::Mutex;

pub(crate) use background::Background;
pub(crate) use install::RebuiltShard;
pub(crate) use list::{DriveItem, DriveList, after_prefix};
pub(crate) use scrub::Scrubbed;
pub(crate) use unfinished::{Task, Unfinished};

use self::compact::{KeptForgets, Stuck};
use self::install::Rebuilt;
use self::leave::Takes;
use self::owed::OwedSet;
use self::slots::Slots;
use self::unfinished::UnfinishedSet;
use crate::drive::{DriveIo, Health, IoPool, OpenDrive, PoolError};
use crate::image::{Census, Entry, decode_entry, decode_forget};
use crate::index::{Index, IndexError, StateRow};
use crate::journal::{Journal, JournalError, OpenOptions, Owner, RecordKind, Replayed};
use crate::shards::ShardFiles;

/// Locks that registers are spread over.
const REGISTER_LOCKS: usize = 1024;

/// Why a drive cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its journal.
    #[error("`{path}`: {reason}")]
    Journal {
        /// Where the drive is.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// One drive's slots.
pub struct DriveStore {
    cluster: ClusterId,
    id: DriveId,
    incarnation: Incarnation,
    drive: OpenDrive,
    pool: IoPool,
    health: Arc<Health>,
    journal: Journal,
    index: Index,
    files: ShardFiles,
    register_locks: Box<[Mutex<()>]>,
    slots: Slots,
    census: LiveCensus,
    widest: Widest,
    unfinished: UnfinishedSet,
    owed: OwedSet,
    rebuilt: Rebuilt,
    stuck: Stuck,
    takes: Takes,
    kept_forgets: KeptForgets,
    /// Ops whose shard files are being written.
    receiving: Mutex<HashSet<OpId>>,
    /// Partitions in which the drive has a slot, and those whose slot does not vote yet; 0 if nothing was ever lost.
    joining: (AtomicU32, AtomicU32),
    /// How far scrubbing has come.
    scrub: Mutex<DriveScrub>,
}

/// Counters that follow every change.
#[derive(Debug, Default)]
struct LiveCensus {
    registers: AtomicI64,
    unstable: AtomicI64,
    missing_shards: AtomicI64,
}

impl LiveCensus {
    fn add(&self, before: Census, after: Census) {
        let change = Census::default().moved(before, after);
        self.registers.fetch_add(change.registers, Ordering::Relaxed);
        self.unstable.fetch_add(change.unstable, Ordering::Relaxed);
        self.missing_shards.fetch_add(change.missing_shards, Ordering::Relaxed);
    }

    fn missing_shards(&self) -> u64 {
        self.missing_shards.load(Ordering::Relaxed).max(0) as u64
    }
}

/// The most data shards of the versions that a drive has had since it was opened.
#[derive(Debug, Default)]
struct Widest {
    shards: AtomicU8,
    /// Whether all registers have been looked at.
    known: AtomicBool,
}

impl Widest {
    fn look(&self, entry: &Entry) {
        let most = entry.register.versions.iter().map(|held| held.version.k).max().unwrap_or_default();
        self.shards.fetch_max(most, Ordering::Relaxed);
    }

    fn known(&self) -> Option<u8> {
        self.known.load(Ordering::Relaxed).then(|| self.shards.load(Ordering::Relaxed))
    }
}

impl DriveStore {
    /// Opens a formatted, locked drive: index, then the journal's tail. Blocks.
    ///
    /// # Errors
    /// [`OpenError`] if journal or index cannot be read or a record is malformed.
    pub(crate) fn open(drive: OpenDrive) -> Result<Arc<Self>, OpenError> {
        let path = drive.io.root().display().to_string();
        Self::open_inner(drive).map_err(|error| OpenError::Journal { path, reason: error.to_string() })
    }

    fn open_inner(drive: OpenDrive) -> Result<Arc<Self>, JournalError> {
        let recovered = match Recovered::read(&drive) {
            Err(JournalError::View(reason)) => {
                let path = drive.io.root().display();
                tracing::warn!(drive = %path, reason, "the index is discarded and built anew from the journal");
                Index::discard(&drive.io).map_err(view)?;
                Recovered::read(&drive)
            }
            result => result,
        }?;
        let Recovered { health, journal, index, slots, census } = recovered;
        let identity = &drive.identity;
        let joining = slots.joining();
        Ok(Arc::new(Self {
            files: ShardFiles::open(Arc::clone(&drive.io))?,
            pool: IoPool::start(&short_name(identity.drive), drive.threads.clone())?,
            cluster: identity.cluster,
            id: identity.drive,
            incarnation: identity.incarnation,
            drive,
            health,
            journal,
            index,
            register_locks: (0..REGISTER_LOCKS).map(|_| Mutex::default()).collect(),
            slots,
            census,
            widest: Widest::default(),
            unfinished: UnfinishedSet::default(),
            owed: OwedSet::default(),
            rebuilt: Rebuilt::default(),
            stuck: Stuck::default(),
            takes: Takes::default(),
            kept_forgets: KeptForgets::default(),
            receiving: Mutex::default(),
            joining,
            scrub: Mutex::default(),
        }))
    }

    /// The drive's id.
    pub fn id(&self) -> DriveId {
        self.id
    }

    /// Its incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How often its journal was synced since it was opened.
    pub(crate) fn journal_syncs(&self) -> u64 {
        self.journal.syncs()
    }

    /// Damaged shard files that were replaced and are kept; not known before the first sweep since the drive was
    /// opened has ended.
    pub(crate) fn quarantined_shards(&self) -> Option<usize> {
        self.files.set_aside_count()
    }

    /// The drive's own files.
    pub(crate) fn io(&self) -> &Arc<dyn DriveIo> {
        &self.drive.io
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.drive.io.root()
    }

    /// What it says of itself.
    pub fn info(&self) -> DriveInfo {
        let (state, reason) = self.health.state(self.oldest_call());
        let space = self.health.space();
        let count = |counter: &AtomicI64| counter.load(Ordering::Relaxed).max(0) as u64;
        DriveInfo {
            id: self.id,
            incarnation: self.incarnation,
            path: self.path().display().to_string(),
            state,
            reason,
            capacity_bytes: space.capacity,
            free_bytes: space.free,
            file_system: space.file_system,
            registers: count(&self.census.registers),
            unstable: count(&self.census.unstable),
            missing_shards: self.census.missing_shards(),
            boot_count: self.slots.boot_count(),
            journal_sequence: self.journal.durable_sequence(),
            join: DriveJoin {
                partitions: self.joining.0.load(Ordering::Relaxed),
                waiting: self.joining.1.load(Ordering::Relaxed),
            },
            heal: self.heal_info(),
            lacking: self.lacks(self.lacks_any()),
            most_data_shards: self.widest.known(),
            scrub: *self.scrub.lock(),
        }
    }

    /// Whether any shard is known to be missing.
    pub(crate) fn lacks_any(&self) -> bool {
        self.census.missing_shards() > 0
    }

    /// Age of the oldest call into the file system that has not come back.
    fn oldest_call(&self) -> Duration {
        self.pool.oldest_job().max(self.journal.stalled())
    }

    /// Whether it serves nothing.
    pub(crate) fn is_failed(&self) -> bool {
        self.check_health().is_err()
    }

    /// Refuses when the drive is failed.
    fn check_health(&self) -> Result<(), NodeError> {
        match self.health.state(self.oldest_call()) {
            (DriveState::Failed, reason) => Err(self.unavailable(reason)),
            _ => Ok(()),
        }
    }

    fn unavailable(&self, reason: impl std::fmt::Display) -> NodeError {
        NodeError::DriveUnavailable { drive: self.id, reason: reason.to_string() }
    }

    /// Runs a blocking job on the drive's threads.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let store = Arc::clone(self);
        self.pool.run(move || job(&store)).await.map_err(|error| match error {
            PoolError::Full => NodeError::Overloaded,
            PoolError::Stopped => self.unavailable(error),
        })
    }
}

/// A drive's index and what followed in its journal.
struct Recovered {
    health: Arc<Health>,
    journal: Journal,
    index: Index,
    slots: Slots,
    census: LiveCensus,
}

impl Recovered {
    fn read(drive: &OpenDrive) -> Result<Self, JournalError> {
        let identity = &drive.identity;
        let health = Arc::new(Health::default());
        health.set_space(drive.io.space()?);
        let poison = Arc::clone(&health);
        let opened =
            Index::open(&drive.io, Arc::new(move |reason| poison.poison(reason))).map_err(malformed)?;
        let (index, slots, census) = (opened.index, Slots::of(identity.incarnation), LiveCensus::default());
        census.add(Census::default(), opened.census);
        for (key, row) in opened.state {
            slots.restore(key, &row).map_err(view)?;
        }
        let poison = Arc::clone(&health);
        let options = OpenOptions {
            owner: Owner { cluster: identity.cluster, drive: identity.drive },
            segment_bytes: identity.segment_bytes,
            applied: opened.applied,
            name: &short_name(identity.drive),
            threads: drive.threads.clone(),
            on_failure: Box::new(move |reason| poison.poison(reason)),
        };
        let journal = Journal::open(Arc::clone(&drive.io), options, &mut |record| {
            replay(&index, &slots, &census, record)
        })?;
        Ok(Self { health, journal, index, slots, census })
    }
}

/// What a drive's threads are named after.
fn short_name(drive: DriveId) -> String {
    format!("{:08x}", drive.0 >> 96)
}

/// What the index says is of no use.
fn view(error: impl std::fmt::Display) -> JournalError {
    JournalError::View(error.to_string())
}

fn malformed(error: impl std::fmt::Display) -> JournalError {
    JournalError::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string()))
}

/// Applies one record of the journal's tail to the index's layer.
fn replay(
    index: &Index,
    slots: &Slots,
    census: &LiveCensus,
    record: Replayed<'_>,
) -> Result<(), JournalError> {
    let payload = Bytes::copy_from_slice(record.payload);
    let before = |key: &[u8]| -> Result<Census, JournalError> {
        Ok(index.get(key).map_err(view)?.map(|entry| entry.census()).unwrap_or_default())
    };
    let state = match record.kind {
        RecordKind::Register => {
            let entry = decode_entry(payload, record.sequence, record.place).map_err(malformed)?;
            census.add(before(&entry.key)?, entry.census());
            index.insert(Arc::new(entry));
            None
        }
        RecordKind::Forget => {
            let key = decode_forget(payload).map_err(malformed)?;
            census.add(before(&key)?, Census::default());
            index.forget(key, record.sequence);
            None
        }
        RecordKind::Boot | RecordKind::Partition | RecordKind::Bucket | RecordKind::Snapshot => {
            let row = StateRow { sequence: record.sequence, place: record.place, payload };
            let (key, superseded) = slots.replay(record.kind, &row).map_err(malformed)?;
            // Copies stay in the journal only.
            let payload =
                if record.kind == RecordKind::Snapshot { Bytes::new() } else { row.payload.clone() };
            Some((key, StateRow { payload, ..row }, superseded))
        }
        // Reserved: a newer version may have written them and went back to this one.
        RecordKind::Owed | RecordKind::InlineShard | RecordKind::Footer => None,
    };
    if let Some((key, row, superseded)) = state {
        index.insert_state(key, row, &superseded);
    }
    if index.is_due() {
        // What is replayed has been durable all along.
        index.apply(false, |_| Ok::<_, IndexError>(())).map_err(view)?;
    }
    Ok(())
}
