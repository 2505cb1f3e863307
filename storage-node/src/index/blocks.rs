//! The index's file in blocks, each verified whenever it is read: the engine never sees a byte that it did not write there.
//!
//! Owns: the two files of the index. Never knows what a block means.
//!
//! redb keeps checksums of its pages in their parents, but looks at them only in a walk over the whole file. Between two
//! walks a flipped key in a branch page makes it overlook what is there, and other damage makes it panic. A checksum in
//! each row would see neither, nor a page that went back to what it was before a lost write. So the checksum of every block
//! is kept outside of the block, in memory and in a second file: what was flipped, zeroed, cut off, written to another place
//! or not written at all does not verify, be it a row, a branch or the engine's own notes. It costs 8 bytes of memory for
//! 4 KiB of the file.
//!
//! All integers are little-endian. Golden bytes are in the tests.
//!
//! ```text
//! registers.redb
//!    0  320  redb's header
//!  320    8  how often the header was written
//!  328    8  xxh3-64 of bytes 0..328
//! 4096       blocks of 4096 bytes; redb's pages are whole blocks
//!
//! registers.sums
//!    0    8  how often the header had been written at the last sync
//!  8·n    8  xxh3-64 of block n, seeded with n; 0: never written
//! ```
//!
//! The header is the one piece that redb writes in place. Its checksum lies beside it, in one sector, because a process may
//! die between the writes of two files; its count is what tells a header that is older than it should be.
//!
//! **Crash consistency.** A sync makes the checksums durable, then the blocks, then notes the header's count. What a crash
//! cuts short are blocks that no durable commit refers to, since redb copies on write: they are not read before they are
//! written again. **Damage.** A block that does not verify is read once more. Then the files are removed, so that the next
//! start builds the index anew, whatever becomes of this process. So it is after a failed sync: the page cache would show the
//! file whole to the next process, while the medium lacks pages for good. **Not covered**: a block and its checksum both
//! set back to what they were at the same earlier time, in two files.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{FILE, FOLDER, SUMS};
use crate::drive::{DriveFile, DriveIo, is_full};

/// Bytes of a block.
pub(super) const BLOCK: usize = 4096;
/// Bytes of redb's header.
const HEADER: usize = 320;
/// The header, its count and its checksum.
const SEALED_HEADER: usize = HEADER + 16;
/// Checksums that are written at once.
const PIECE: usize = 512;

/// The index's files, open.
#[derive(Debug)]
pub(super) struct Blocks {
    io: Arc<dyn DriveIo>,
    data: Arc<dyn DriveFile>,
    sums_file: Arc<dyn DriveFile>,
    sums: RwLock<Sums>,
    /// A write failed for want of room: nothing is wrong with what is there.
    full: AtomicBool,
}

#[derive(Debug, Default)]
struct Sums {
    /// What `registers.sums` is to hold, word by word.
    words: Vec<u64>,
    /// Pieces of it that have changed since they were written.
    dirty: BTreeSet<usize>,
    /// How often the header was written.
    headers: u64,
}

impl Blocks {
    /// Begins the files anew.
    pub(super) fn create(io: &Arc<dyn DriveIo>) -> io::Result<Self> {
        let (data, sums_file) = (io.create(FILE)?, io.create(SUMS)?);
        io.sync_dir(FOLDER)?;
        Ok(Self::new(io, data, sums_file, vec![0]))
    }

    /// Opens the files; they may not belong together, which the first reads tell.
    pub(super) fn open(io: &Arc<dyn DriveIo>) -> io::Result<Self> {
        let (data, sums_file) = (io.open(FILE)?, io.open(SUMS)?);
        let words = block_count(data.len()?).max(1);
        let mut bytes = vec![0; words.min((sums_file.len()? / 8) as usize) * 8];
        sums_file.read_at(&mut bytes, 0)?;
        let mut sums: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        sums.resize(words, 0);
        Ok(Self::new(io, data, sums_file, sums))
    }

    fn new(
        io: &Arc<dyn DriveIo>,
        data: Arc<dyn DriveFile>,
        sums_file: Arc<dyn DriveFile>,
        words: Vec<u64>,
    ) -> Self {
        let sums = RwLock::new(Sums { words, ..Sums::default() });
        Self { io: Arc::clone(io), data, sums_file, sums, full: AtomicBool::new(false) }
    }

    /// Removes the files: what is in them cannot be trusted.
    fn discard(&self, reason: &dyn std::fmt::Display) {
        let (drive, removed) = (self.io.root().display(), discard(&self.io));
        tracing::error!(%drive, %reason, ?removed, "the index is damaged and removed; it has to be built anew");
    }

    /// The same, unless all that was amiss is room.
    pub(super) fn discard_unless_full(&self, reason: &dyn std::fmt::Display) {
        if !self.full.load(Ordering::Relaxed) {
            self.discard(reason);
        }
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        self.data.len()
    }

    /// Reads and verifies whole blocks, or the beginning of the header.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = if offset == 0 && out.len() <= HEADER {
            self.read_header(out)
        } else {
            self.read_blocks(offset, out)
        };
        read.inspect_err(|error| self.discard(error))
    }

    fn read_blocks(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let first = first_block(offset, out.len())?;
        let mut again = false;
        loop {
            self.data.read_at(out, offset)?;
            let wrong = {
                let sums = self.sums.read();
                (first..).zip(out.as_chunks().0).find(|(number, block)| {
                    sums.words.get(*number).is_none_or(|sum| *sum != checksum(*number, block))
                })
            };
            match wrong {
                None => return Ok(()),
                Some((number, _)) if again => return Err(damaged(number)),
                // It may be the way here that has flipped it.
                Some(_) => again = true,
            }
        }
    }

    fn read_header(&self, out: &mut [u8]) -> io::Result<()> {
        let mut sealed = [0; SEALED_HEADER];
        self.data.read_at(&mut sealed, 0)?;
        let (body, sum) = sealed.split_at(SEALED_HEADER - 8);
        let count = word_at(body, HEADER);
        let mut sums = self.sums.write();
        // A process that died may have written it more often than it could note.
        if xxh3_64(body) != word_at(sum, 0) || count < sums.words[0].max(sums.headers) {
            return Err(damaged(0));
        }
        sums.headers = count;
        out.copy_from_slice(&sealed[..out.len()]);
        Ok(())
    }

    /// Writes whole blocks, or the header.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note_room(if offset == 0 && data.len() == HEADER {
            self.write_header(data)
        } else {
            self.write_blocks(offset, data)
        })
    }

    fn write_blocks(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let first = first_block(offset, data.len())?;
        self.data.write_at(data, offset)?;
        let mut sums = self.sums.write();
        for (number, block) in (first..).zip(data.as_chunks().0) {
            sums.set(number, checksum(number, block));
        }
        Ok(())
    }

    fn write_header(&self, header: &[u8]) -> io::Result<()> {
        let count = {
            let mut sums = self.sums.write();
            sums.headers += 1;
            sums.headers
        };
        let mut sealed = [header, &count.to_le_bytes()].concat();
        let sum = xxh3_64(&sealed);
        sealed.extend_from_slice(&sum.to_le_bytes());
        self.data.write_at(&sealed, 0)
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.note_room(self.data.set_len(len))?;
        self.sums.write().resize(block_count(len).max(1));
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let (pieces, headers) = {
            let mut sums = self.sums.write();
            (sums.take_dirty(), sums.headers)
        };
        for (offset, bytes) in &pieces {
            self.note_room(self.sums_file.write_at(bytes, *offset))?;
        }
        let sums_synced = if pieces.is_empty() { Ok(()) } else { self.sums_file.sync_data() };
        sums_synced.and_then(|()| self.data.sync_data()).inspect_err(|error| self.discard(error))?;
        self.sums.write().words[0] = headers;
        // Not synced: it is for the case that a write of the header was lost and only this process ends.
        self.note_room(self.sums_file.write_at(&headers.to_le_bytes(), 0))
    }

    /// Keeps in mind whether the last write failed for want of room.
    fn note_room(&self, written: io::Result<()>) -> io::Result<()> {
        self.full.store(written.as_ref().is_err_and(is_full), Ordering::Relaxed);
        written
    }
}

impl Sums {
    fn set(&mut self, number: usize, sum: u64) {
        if self.words.len() <= number {
            self.words.resize(number + 1, 0);
        }
        self.words[number] = sum;
        self.dirty.insert(number / PIECE);
    }

    fn resize(&mut self, len: usize) {
        let old = self.words.len();
        self.words.resize(len, 0);
        // What the file holds of blocks that were cut off before is no more.
        self.dirty.extend((old..len).map(|number| number / PIECE));
        self.dirty.retain(|piece| piece * PIECE < len);
    }

    fn take_dirty(&mut self) -> Vec<(u64, Vec<u8>)> {
        let dirty = std::mem::take(&mut self.dirty).into_iter();
        let bytes_of = |piece: usize| {
            let words = &self.words[piece * PIECE..self.words.len().min((piece + 1) * PIECE)];
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        dirty.map(|piece| ((piece * PIECE * 8) as u64, bytes_of(piece))).collect()
    }
}

/// Removes the index's files.
pub(super) fn discard(io: &Arc<dyn DriveIo>) -> io::Result<()> {
    // The checksums first: without them the other is not looked at.
    io.remove(SUMS)?;
    io.remove(FILE)?;
    io.sync_dir(FOLDER)
}

fn block_count(len: u64) -> usize {
    (len / BLOCK as u64) as usize
}

/// The number of the first of the whole blocks that a range is.
fn first_block(offset: u64, len: usize) -> io::Result<usize> {
    if offset == 0 || !offset.is_multiple_of(BLOCK as u64) || !len.is_multiple_of(BLOCK) {
        let reason = format!("{len} bytes at {offset} are not whole blocks");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Ok(block_count(offset))
}

/// Never 0, which stands for a block that was not written.
fn checksum(number: usize, block: &[u8; BLOCK]) -> u64 {
    xxh3_64_with_seed(block, number as u64).max(1)
}

fn damaged(number: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("block {number} of the index does not verify"))
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
