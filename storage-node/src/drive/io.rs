//! Every call of the storage node into `std::fs`.
//!
//! Owns: files and folders below one drive's root. Never interprets a byte. Two implementations: [`FileIo`], and for tests
//! and simulation a drive in memory (`simulated`). All paths are relative to the root and made by this program, never
//! from user input. All calls block: async code reaches them through [`IoPool`](super::IoPool).

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustix::fs::{Advice, AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags};
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
    /// Lets the kernel forget its clean copy, so that the next read comes from the medium. Only a hint.
    fn forget_cached(&self) {}
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
    /// Which file system it is, among those of this machine; 0 if that is not known.
    pub(crate) file_system: u64,
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

/// The real thing. The folder is opened once, and everything is reached from there: whatever is mounted, unmounted or
/// moved at its path later, the files are those of the drive that was opened.
#[derive(Debug)]
pub(crate) struct FileIo {
    root: PathBuf,
    folder: OnceLock<OwnedFd>,
    writable: bool,
}

impl FileIo {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), folder: OnceLock::new(), writable: true }
    }

    /// The same, but nothing can be changed through it.
    pub(crate) fn read_only(root: impl Into<PathBuf>) -> Self {
        Self { writable: false, ..Self::new(root) }
    }

    fn may_write(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::ReadOnlyFilesystem.into()) }
    }

    fn folder(&self) -> io::Result<&OwnedFd> {
        if let Some(folder) = self.folder.get() {
            return Ok(folder);
        }
        let folder = rustix::fs::open(&self.root, FOLDER, Mode::empty())?;
        Ok(self.folder.get_or_init(|| folder))
    }

    fn open_with(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let mode = Mode::from_raw_mode(0o666);
        Ok(rustix::fs::openat(self.folder()?, path, flags | OFlags::CLOEXEC, mode)?)
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl DriveIo for FileIo {
    fn create(&self, path: &str) -> io::Result<Arc<dyn DriveFile>> {
        self.may_write()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        Ok(Arc::new(File::from(self.open_with(path, flags)?)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DriveFile>> {
        let flags = if self.writable { OFlags::RDWR } else { OFlags::RDONLY };
        Ok(Arc::new(File::from(self.open_with(path, flags)?)))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.may_write()?;
        match rustix::fs::unlinkat(self.folder()?, path, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.may_write()?;
        let folder = self.folder()?;
        Ok(rustix::fs::renameat(folder, from, folder, to)?)
    }

    fn create_dir(&self, path: &str) -> io::Result<bool> {
        self.may_write()?;
        match rustix::fs::mkdirat(self.folder()?, path, Mode::from_raw_mode(0o777)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        File::from(self.open_with(path, FOLDER)?).sync_all()
    }

    fn list(&self, path: &str) -> io::Result<Vec<DirItem>> {
        let folder = self.open_with(path, FOLDER)?;
        let mut items = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Removed while we looked.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let seconds = stat.st_mtime.try_into().unwrap_or_default();
            let modified = Duration::new(seconds, stat.st_mtime_nsec.try_into().unwrap_or_default());
            let age = (SystemTime::UNIX_EPOCH + modified).elapsed().unwrap_or_default();
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            items.push(DirItem { name: name.to_owned(), is_dir, age });
        }
        Ok(items)
    }

    fn space(&self) -> io::Result<Space> {
        let folder = self.folder()?;
        let stat = rustix::fs::fstatvfs(folder)?;
        Ok(Space {
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            file_system: rustix::fs::fstat(folder)?.st_dev,
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

    fn forget_cached(&self) {
        // A file system without the hint is read as it is.
        let _ = rustix::fs::fadvise(self, 0, None, Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_that_is_moved_away_is_followed_and_nothing_is_made_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("drive"), dir.path().join("moved"));
        std::fs::create_dir(&path).unwrap();
        let io = FileIo::new(&path);
        assert!(io.create_dir("a").unwrap() && !io.create_dir("a").unwrap());
        std::fs::rename(&path, &moved).unwrap();
        std::fs::create_dir(&path).unwrap();
        io.create("a/b").unwrap().write_at(b"bytes", 0).unwrap();
        io.rename("a/b", "a/c").unwrap();
        io.sync_dir("a").unwrap();
        let items = io.list("a").unwrap();
        assert_eq!((items.len(), items[0].name.as_str(), items[0].is_dir), (1, "c", false));
        assert!(items[0].age < Duration::from_secs(60) && io.list(".").unwrap()[0].is_dir);
        assert_eq!(std::fs::read(moved.join("a/c")).unwrap(), b"bytes");
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        io.remove("a/c").unwrap();
        io.remove("a/c").unwrap();
        assert!(io.open("a/c").is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
    }
}
