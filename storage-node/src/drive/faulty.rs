//! A drive that fails on command, for tests: syncs that fail, a file system that is full, reads that fail.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::io::{DirItem, DriveFile, DriveIo, FileIo, Space};

/// What fails now.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Every sync of a file.
    pub(crate) sync: AtomicBool,
    /// Every read.
    pub(crate) read: AtomicBool,
    /// Writes and allocations, once this many bytes have been written.
    pub(crate) room: AtomicI64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { sync: AtomicBool::new(false), read: AtomicBool::new(false), room: AtomicI64::new(i64::MAX) }
    }
}

impl Faults {
    fn take_room(&self, bytes: u64) -> io::Result<()> {
        let bytes = bytes as i64;
        if self.room.load(Ordering::SeqCst) < bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room.fetch_sub(bytes, Ordering::SeqCst);
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct FaultyIo {
    inner: FileIo,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn DriveFile>,
    faults: Arc<Faults>,
}

impl FaultyIo {
    pub(crate) fn new(root: &Path, faults: Arc<Faults>) -> Self {
        Self { inner: FileIo::new(root), faults }
    }

    fn wrap(&self, inner: Arc<dyn DriveFile>) -> Arc<dyn DriveFile> {
        Arc::new(FaultyFile { inner, faults: Arc::clone(&self.faults) })
    }
}

impl DriveIo for FaultyIo {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DriveFile>> {
        Ok(self.wrap(self.inner.create(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DriveFile>> {
        Ok(self.wrap(self.inner.open(path)?))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn create_dir(&self, path: &str) -> io::Result<bool> {
        self.inner.create_dir(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.inner.sync_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirItem>> {
        self.inner.list(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }

    fn root(&self) -> &Path {
        self.inner.root()
    }
}

impl DriveFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.faults.read.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected read error"));
        }
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        // Within a file's length the room is there already, as with a preallocated segment.
        let grown = (offset + data.len() as u64).saturating_sub(self.inner.len()?);
        self.faults.take_room(grown)?;
        self.inner.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.faults.sync.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected sync error"));
        }
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.faults.take_room(len)?;
        self.inner.set_len(len)
    }
}
