//! The journal of a drive: the durable truth for its registers, small shards and copies of cluster state.
//!
//! Owns: the folder `journal/`: preallocated segments, framed records ([`frame`]), one writer thread with group commit
//! ([`writer`]), recovery and reading back ([`recovery`]). Never interprets a payload and never decides what is live:
//! the store does.
//!
//! Flow of an append:
//! 1. Under the tail's lock a record gets its sequence and its place; order of appends is order of sequences.
//! 2. The writer thread takes everything that waits, frames it into one buffer, writes it once, syncs once.
//! 3. It wakes those who wait for a sequence up to that one. A crash before step 3 may keep or lose the record.
//!
//! **Consistency.** Positions are fixed in step 1, so a later record may name the place of an earlier one.
//! **Crash consistency.** Recovery keeps the longest valid prefix of the last segment. What follows it is a torn tail
//! (dropped: nobody was answered) unless a later batch proves that it had been synced: then the middle is corrupt and
//! the drive is refused with the place of the damage. **Retries.** None: a failed write or sync poisons the drive.
//! **Space.** A segment is entered only when it lies preallocated on the drive, so a full file system refuses appends
//! before anything changed.

mod frame;
mod inspect;
mod recovery;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub(crate) use frame::{Owner, RecordKind};
pub(crate) use inspect::{Inspection, inspect};
pub(crate) use recovery::{OpenOptions, Replayed};
pub(crate) use writer::Journal;

use crate::drive::{DriveFile, DriveIo};

/// Segment files kept open.
const MAX_OPEN: usize = 128;

const FOLDER: &str = "journal";
const SPARE: &str = "journal/spare";

/// Where a record's payload lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The segment's number.
    pub(crate) segment: u64,
    /// Offset of the payload in the segment.
    pub(crate) offset: u32,
    /// Bytes of the payload.
    pub(crate) len: u32,
}

impl Place {
    /// Bytes that the whole record takes in its segment.
    pub(crate) fn room(self) -> u64 {
        frame::Frame::room(self.len as usize) as u64
    }
}

/// Why the journal cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file system said no.
    #[error("journal: {0}")]
    Io(#[from] io::Error),
    /// A record that had been durable does not verify.
    #[error("journal segment {segment} is corrupt at offset {offset}: {reason}")]
    Corrupt {
        /// The segment.
        segment: u64,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The journal ends before what the index has already applied.
    #[error(
        "journal ends at sequence {end}, but sequence {applied} had been durable: the drive was rolled back"
    )]
    RolledBack {
        /// Last sequence found.
        end: u64,
        /// Sequence known to have been durable.
        applied: u64,
    },
    /// Whoever keeps a view of the journal cannot go on with it from `applied`: it has to be built anew.
    #[error("the view of the journal has to be built anew: {0}")]
    View(String),
    /// The writer has failed.
    #[error("journal is failed: {0}")]
    Poisoned(String),
}

/// Why a record was not appended. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppendError {
    /// The next segment is still being prepared: wait for [`Journal::room`] and try again.
    #[error("the next journal segment is not ready")]
    NotReady,
    /// The drive has no room for another segment.
    #[error("the drive is full")]
    Full,
    /// The record can never fit.
    #[error("a record of {0} bytes is too long for the journal")]
    TooLong(usize),
    /// The writer has failed.
    #[error("journal is failed: {0}")]
    Poisoned(String),
}

/// The open segment files.
#[derive(Debug)]
struct Segments {
    io: Arc<dyn DriveIo>,
    owner: Owner,
    bytes: u32,
    open: RwLock<HashMap<u64, Arc<dyn DriveFile>>>,
    /// First sequence by segment, for all segments on the drive.
    first: Mutex<BTreeMap<u64, u64>>,
}

impl Segments {
    fn path(number: u64) -> String {
        format!("{FOLDER}/{number:016x}")
    }

    fn file(&self, number: u64) -> io::Result<Arc<dyn DriveFile>> {
        if let Some(file) = self.open.read().get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = self.io.open(&Self::path(number))?;
        let mut open = self.open.write();
        if open.len() >= MAX_OPEN {
            // Any of them: one that is in use lives on with its user, and is opened again when needed.
            let victim = open.keys().next().copied();
            victim.map(|victim| open.remove(&victim));
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }

    fn remove(&self, number: u64) -> io::Result<()> {
        self.open.write().remove(&number);
        self.first.lock().remove(&number);
        self.io.remove(&Self::path(number))?;
        self.io.sync_dir(FOLDER)
    }
}
