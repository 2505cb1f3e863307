//! Every call of the storage node into `std::fs`.
//!
//! Owns: files and folders below one drive's root. Never interprets a byte. Two implementations: [`FileIo`], and for tests
//! and simulation a drive in memory (`simulated`). All paths are relative to the root and made by this program, never
//! from user input. All calls block: async code reaches them through [`IoPool`](super::IoPool).

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// An open file of a drive. All methods may be called from several threads.
pub(crate) trait DriveFile: Debug + Send + Sync {
    /// Fills `buf` from `offset`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// `fdatasync`. A failure means that what was written since the last one may be lost, for good.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Truncates, or extends with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves room for `len` bytes, so that later writes below it cannot fail for want of space.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirItem {
    /// Its name; entries whose name is not UTF-8 are not ours and are left out.
    pub(crate) name: String,
    /// Whether it is a folder.
    pub(crate) is_dir: bool,
    /// Time since its last modification.
    pub(crate) age: Duration,
}

/// Room on the drive's file system, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// Size of the file system.
    pub(crate) capacity: u64,
    /// Free for this process.
    pub(crate) free: u64,
}

/// The files and folders of one drive.
pub(crate) trait DriveIo: Debug + Send + Sync {
    /// Creates a file, empty; what was there is gone.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DriveFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DriveFile>>;
    /// Removes a file; one that is not there counts as removed.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Renames a file, replacing the target. Durable after [`DriveIo::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Creates a folder; false if it was there.
    fn create_dir(&self, path: &str) -> io::Result<bool>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// The entries of a folder, in no order.
    fn list(&self, path: &str) -> io::Result<Vec<DirItem>>;
    /// Room on the file system.
    fn space(&self) -> io::Result<Space>;
    /// Where the drive is.
    fn root(&self) -> &Path;
}

/// Whether the error says that the file system is full (or a quota is).
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The real thing.
#[derive(Debug)]
pub(crate) struct FileIo {
    root: PathBuf,
}

impl FileIo {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl DriveIo for FileIo {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DriveFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.root.join(path))?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DriveFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.root.join(path))?))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        match std::fs::remove_file(self.root.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.root.join(from), self.root.join(to))
    }

    fn create_dir(&self, path: &str) -> io::Result<bool> {
        match std::fs::create_dir(self.root.join(path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        File::open(self.root.join(path))?.sync_all()
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirItem>> {
        let mut items = Vec::new();
        for entry in std::fs::read_dir(self.root.join(path))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let age = metadata.modified()?.elapsed().unwrap_or_default();
            items.push(DirItem { name, is_dir: metadata.is_dir(), age });
        }
        Ok(items)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn root(&self) -> &Path {
        &self.root
    }
}

impl DriveFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, len) {
            // File systems without extents: the zeros that the caller writes reserve the room as well.
            Err(Errno::OPNOTSUPP) => File::set_len(self, len),
            result => Ok(result?),
        }
    }
}
