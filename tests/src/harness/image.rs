//! Drives with a file system of their own: ext4 in an image file, mounted through a loop device, which needs the right to
//! mount. They can be filled, made read-only, cut off from power, and lose part of their medium.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// The `SHUTDOWN` call of ext4 and XFS, with the flag that drops what is in memory, the file system's own log included.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
                        for folder in [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]:\n \
                        fcntl.ioctl(folder, 0x8004587D, struct.pack('I', 2))";

/// A file system that is unmounted when this is dropped.
#[derive(Debug)]
pub struct ImageDrive {
    image: PathBuf,
    path: PathBuf,
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<()> {
    let output = Command::new(program).args(arguments).args(paths).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?} {paths:?}: {said}");
    Ok(())
}

impl ImageDrive {
    /// A new one of this many mebibytes at each path, mounted. `None`, with a word why, where that is not permitted.
    ///
    /// # Errors
    /// If an image cannot be written.
    pub fn create(paths: &[PathBuf], mebibytes: u64) -> Result<Option<Vec<Self>>> {
        let mut drives = Vec::new();
        for path in paths {
            std::fs::create_dir_all(path)?;
            let drive = Self { image: path.with_extension("image"), path: path.clone() };
            File::create(&drive.image)?.set_len(mebibytes << 20)?;
            let made = run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0"], &[&drive.image]);
            if let Err(error) = made.and_then(|()| drive.mount()) {
                println!("skipped: no file system can be made and mounted here: {error:#}");
                return Ok(None);
            }
            drives.push(drive);
        }
        Ok(Some(drives))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that is its medium.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Mounts it.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn mount(&self) -> Result<()> {
        self.mount_at(&self.path)
    }

    /// Mounts it somewhere else.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn mount_at(&self, path: &Path) -> Result<()> {
        run("mount", &["-o", "loop"], &[&self.image, path])
    }

    /// Unmounts it; nothing may be open.
    ///
    /// # Errors
    /// If it is in use.
    pub fn unmount(&self) -> Result<()> {
        run("umount", &[], &[&self.path])
    }

    /// Takes it away from its path; what is open stays open.
    ///
    /// # Errors
    /// If it is not mounted.
    pub fn detach(&self) -> Result<()> {
        run("umount", &["-l"], &[&self.path])
    }

    /// Makes it read-only, whoever writes.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn make_read_only(&self) -> Result<()> {
        // A plain one is refused while files are open for writing; this is what the file system does after an error.
        run("mount", &["-o", "remount,abort"], &[&self.path])
    }

    /// Cuts its medium to this many bytes: what lies behind gives I/O errors, unless it is in a cache.
    ///
    /// # Errors
    /// If the image cannot be cut.
    pub fn cut_medium(&self, bytes: u64) -> Result<()> {
        Ok(File::options().write(true).open(&self.image)?.set_len(bytes)?)
    }
}

/// Power off for all of these: every call to them fails from now on, and what was not synced is gone when they are mounted
/// again.
///
/// # Errors
/// If one is not ext4 or not mounted.
pub fn power_off(drives: &[ImageDrive]) -> Result<()> {
    let paths: Vec<&Path> = drives.iter().map(ImageDrive::path).collect();
    run("python3", &["-c", SHUTDOWN], &paths)
}

impl Drop for ImageDrive {
    fn drop(&mut self) {
        // It may be mounted twice, or not at all.
        while run("umount", &["-l"], &[&self.path]).is_ok() {}
    }
}
