//! Large shards: one immutable file each.
//!
//! Owns: the folder `shards/ab/cd/<op>-<slot>`, where `abcd` are the first digits of a hash of the op, so that folders
//! fill evenly. Never decides whether a shard is wanted: the store does, by its registers.
//!
//! 1. A file is written at its final path, synced, then its folder is synced, and the folders above, if this process has
//!    not done so before: who made them may have died before that, or not have come to it yet.
//! 2. Only then a register's record in the journal names it; before that nobody sees it.
//! 3. A file that no register names, and that is not being received, is swept.
//! 4. A damaged file is set aside under a name of its own when a whole one is written in its place, until its op is of no
//!    use to any register.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use coffer_common::types::{OpId, SlotIndex};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::drive::{DriveFile, DriveIo};

const FOLDER: &str = "shards";
/// Ends the name of a file that was set aside.
const DAMAGED: &str = ".damaged";

/// The shard files of one drive.
#[derive(Debug)]
pub(crate) struct ShardFiles {
    io: Arc<dyn DriveIo>,
    /// Folders whose own entries, and those above, are durable.
    durable: Mutex<HashSet<String>>,
    damaged: Mutex<Damaged>,
}

/// The files that were set aside.
#[derive(Debug, Default)]
struct Damaged {
    files: HashSet<(OpId, SlotIndex)>,
    /// Whether all files were looked at since the drive was opened.
    all: bool,
}

/// A file found by [`ShardFiles::visit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundFile {
    /// The op in its name.
    pub(crate) op: OpId,
    /// The slot in its name.
    pub(crate) slot: SlotIndex,
    /// Whether it was set aside.
    pub(crate) damaged: bool,
    /// Time since it was last written to.
    pub(crate) age: std::time::Duration,
}

impl ShardFiles {
    /// Opens or creates the folder.
    pub(crate) fn open(io: Arc<dyn DriveIo>) -> io::Result<Self> {
        io.create_dir(FOLDER)?;
        io.sync_dir(".")?;
        Ok(Self { io, durable: Mutex::default(), damaged: Mutex::default() })
    }

    /// Creates the file of a shard, empty.
    pub(crate) fn create(&self, op: OpId, slot: SlotIndex) -> io::Result<Arc<dyn DriveFile>> {
        let (upper, lower) = folders(op);
        self.io.create_dir(&upper)?;
        self.io.create_dir(&lower)?;
        self.io.create(&path(op, slot))
    }

    /// Makes a written file durable: its bytes, then its name.
    pub(crate) fn sync(&self, op: OpId, file: &dyn DriveFile) -> io::Result<()> {
        file.sync_data()?;
        let (upper, lower) = folders(op);
        self.io.sync_dir(&lower)?;
        self.sync_above(lower, &upper)?;
        self.sync_above(upper, FOLDER)
    }

    /// Makes a folder's own entry durable, once.
    fn sync_above(&self, folder: String, above: &str) -> io::Result<()> {
        let known = self.durable.lock().contains(&folder);
        if !known {
            self.io.sync_dir(above)?;
            self.durable.lock().insert(folder);
        }
        Ok(())
    }

    /// Opens the file of a shard.
    pub(crate) fn file(&self, op: OpId, slot: SlotIndex) -> io::Result<Arc<dyn DriveFile>> {
        self.io.open(&path(op, slot))
    }

    /// Removes the file of a shard. Not synced: what a crash brings back is swept.
    pub(crate) fn remove(&self, op: OpId, slot: SlotIndex) -> io::Result<()> {
        self.io.remove(&path(op, slot))
    }

    /// Sets the file of a shard aside, and leaves its name free. One that was set aside before stays: what lies in its place
    /// since then was never finished.
    pub(crate) fn set_aside(&self, op: OpId, slot: SlotIndex) -> io::Result<()> {
        let (path, aside) = (path(op, slot), aside(op, slot));
        if self.io.open(&aside).is_err() {
            self.io.rename(&path, &aside)?;
        }
        self.damaged.lock().files.insert((op, slot));
        Ok(())
    }

    /// Undoes [`Self::set_aside`].
    pub(crate) fn put_back(&self, op: OpId, slot: SlotIndex) -> io::Result<()> {
        self.io.rename(&aside(op, slot), &path(op, slot))?;
        self.damaged.lock().files.remove(&(op, slot));
        Ok(())
    }

    /// Removes a file that was set aside.
    pub(crate) fn remove_damaged(&self, op: OpId, slot: SlotIndex) -> io::Result<()> {
        self.io.remove(&aside(op, slot))?;
        self.damaged.lock().files.remove(&(op, slot));
        Ok(())
    }

    /// How many files are set aside; not known before the first [`Self::visit`] since the drive was opened has ended.
    pub(crate) fn set_aside_count(&self) -> Option<usize> {
        let damaged = self.damaged.lock();
        damaged.all.then_some(damaged.files.len())
    }

    /// Takes note of a file that was set aside, if it still is.
    fn note_damaged(&self, op: OpId, slot: SlotIndex) {
        self.damaged.lock().files.insert((op, slot));
        if self.io.open(&aside(op, slot)).is_err() {
            self.damaged.lock().files.remove(&(op, slot));
        }
    }

    /// Visits every shard file, also those that were set aside. `go_on` is asked before each folder: it may rest, or say
    /// that this is to end.
    pub(crate) fn visit(
        &self,
        go_on: &mut dyn FnMut() -> bool,
        mut visit: impl FnMut(FoundFile) -> io::Result<()>,
    ) -> io::Result<()> {
        for upper in self.io.list(FOLDER)?.into_iter().filter(|item| item.is_dir) {
            let upper = format!("{FOLDER}/{}", upper.name);
            for lower in self.io.list(&upper)?.into_iter().filter(|item| item.is_dir) {
                if !go_on() {
                    return Ok(());
                }
                for item in self.io.list(&format!("{upper}/{}", lower.name))? {
                    if let Some((op, slot, damaged)) = parse_name(&item.name) {
                        if damaged {
                            self.note_damaged(op, slot);
                        }
                        visit(FoundFile { op, slot, damaged, age: item.age })?;
                    }
                }
            }
        }
        self.damaged.lock().all = true;
        Ok(())
    }
}

fn folders(op: OpId) -> (String, String) {
    let hash = xxh3_64(&op.to_bytes()) >> 48;
    let (high, low) = (hash >> 8, hash & 0xFF);
    (format!("{FOLDER}/{high:02x}"), format!("{FOLDER}/{high:02x}/{low:02x}"))
}

fn path(op: OpId, slot: SlotIndex) -> String {
    format!("{}/{:032x}-{}", folders(op).1, u128::from_be_bytes(op.to_bytes()), slot.0)
}

/// Where it lies once it was set aside.
fn aside(op: OpId, slot: SlotIndex) -> String {
    format!("{}{DAMAGED}", path(op, slot))
}

fn parse_name(name: &str) -> Option<(OpId, SlotIndex, bool)> {
    let (name, damaged) = name.strip_suffix(DAMAGED).map_or((name, false), |name| (name, true));
    let (op, slot) = name.split_once('-')?;
    let op = (op.len() == 32).then(|| u128::from_str_radix(op, 16).ok())??;
    Some((OpId::from_bytes(op.to_be_bytes()), SlotIndex(slot.parse().ok()?), damaged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::FileIo;

    #[test]
    fn files_are_found_by_op_and_slot_and_strangers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = ShardFiles::open(Arc::new(FileIo::new(dir.path()))).unwrap();
        let ops: Vec<_> = (0..20).map(|counter| OpId { session: 7, counter }).collect();
        for op in &ops {
            let file = files.create(*op, SlotIndex(3)).unwrap();
            file.write_at(b"shard", 0).unwrap();
            files.sync(*op, file.as_ref()).unwrap();
        }
        let (upper, lower) = folders(ops[0]);
        assert!(lower.starts_with(&upper));
        std::fs::write(dir.path().join(&lower).join("readme"), "not ours").unwrap();
        let mut found = Vec::new();
        files
            .visit(&mut || true, |file| {
                found.push((file.op, file.slot));
                Ok(())
            })
            .unwrap();
        found.sort();
        assert_eq!(found, ops.iter().map(|op| (*op, SlotIndex(3))).collect::<Vec<_>>());
        files.remove(ops[0], SlotIndex(3)).unwrap();
        files.remove(ops[0], SlotIndex(3)).unwrap();
        assert!(files.file(ops[0], SlotIndex(3)).is_err());
    }
}
