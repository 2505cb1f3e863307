//! `coffer.json`: who a drive is, and every reason to refuse one.
//!
//! Owns: probing, formatting, locking and opening a drive's root. Never opens the journal.
//!
//! A drive is its id, not its path. The file also remembers at which paths the node's drives were when it last
//! started ([`DriveIdentity::known_paths`]), so that a path that had a drive and is suddenly empty (a disk that is not
//! mounted) is refused instead of being taken for a fresh one.
//!
//! ```json
//! { "format": 1, "cluster": "<32 hex>", "drive": "<32 hex>", "incarnation": 0, "segment_bytes": 33554432,
//!   "known_paths": [{ "path": "/data1", "drive": "<32 hex>", "incarnation": 0 }] }
//! ```
//! It is written as `coffer.json.new`, synced, renamed, and the folder is synced.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coffer_common::types::{ClusterId, DriveId, Incarnation};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::Threads;
use super::io::{DriveIo, FileIo, is_full};

/// The identity file's name.
const IDENTITY_FILE: &str = "coffer.json";
const NEW_IDENTITY_FILE: &str = "coffer.json.new";
/// The drive format that this program writes and the newest it understands.
pub(super) const FORMAT: u32 = 1;

/// The segment size of drives that are large enough: two of them are written with zeros at the first start.
const SEGMENT_BYTES: u32 = 32 << 20;
const MIN_SEGMENT_BYTES: u32 = 2 << 20;

fn default_segment_bytes() -> u32 {
    SEGMENT_BYTES
}

/// Small drives get small segments: two of them always lie there, one in use and one spare.
fn segment_bytes_for(capacity: u64) -> u32 {
    let share = u32::try_from((capacity / 64) >> 20).unwrap_or(u32::MAX);
    share.saturating_mul(1 << 20).clamp(MIN_SEGMENT_BYTES, SEGMENT_BYTES)
}

/// Where a drive of this node was when it last started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPath {
    /// The path as configured.
    pub path: PathBuf,
    /// The drive that was there.
    pub drive: DriveId,
    /// Its incarnation.
    #[serde(default)]
    pub incarnation: Incarnation,
}

/// The content of `coffer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveIdentity {
    /// Version of the drive's format.
    pub format: u32,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub drive: DriveId,
    /// How often it has lost and re-learned its state.
    pub incarnation: Incarnation,
    /// Bytes of a journal segment, fixed when the drive is formatted.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: u32,
    /// The paths of the node's drives at the last start.
    #[serde(default)]
    pub known_paths: Vec<KnownPath>,
}

/// What is at a path.
#[derive(Debug)]
pub enum DriveProbe {
    /// Nothing, or an empty folder: may be formatted.
    Fresh,
    /// A drive of ours.
    Ours(DriveIdentity),
    /// Neither: not to be touched.
    Refused(DriveRefusal),
}

/// Why a drive is not opened or formatted.
#[derive(Debug, thiserror::Error)]
pub enum DriveRefusal {
    /// The path is a file or a device.
    #[error("`{path}` is not a folder: name the folder where the drive is mounted")]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// Data of somebody else.
    #[error(
        "`{path}` is not empty (it holds `{example}`) and is not a Coffer drive: empty it or name another folder"
    )]
    NotEmpty {
        /// The path.
        path: PathBuf,
        /// Something that is in it.
        example: String,
    },
    /// No drive yet.
    #[error("`{path}` has not been formatted as a drive")]
    NotFormatted {
        /// The path.
        path: PathBuf,
    },
    /// The identity file cannot be read as one.
    #[error("`{path}/coffer.json` is damaged: {reason}")]
    Damaged {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer version.
    #[error("`{path}` has drive format {found}, this version understands up to {FORMAT}: upgrade this node")]
    NewerFormat {
        /// The path.
        path: PathBuf,
        /// The drive's format.
        found: u32,
    },
    /// Belongs elsewhere.
    #[error("`{path}` belongs to cluster {found}, not to {expected}: it was not touched")]
    OtherCluster {
        /// The path.
        path: PathBuf,
        /// The drive's cluster.
        found: ClusterId,
        /// The cluster that was expected.
        expected: ClusterId,
    },
    /// Already formatted.
    #[error("`{path}` is already drive {drive}: it was not formatted again")]
    AlreadyFormatted {
        /// The path.
        path: PathBuf,
        /// The drive.
        drive: DriveId,
    },
    /// One drive, two paths.
    #[error("`{first}` and `{second}` are the same drive {drive}: name it once")]
    SameDrive {
        /// One path.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// The drive.
        drive: DriveId,
    },
    /// A known path without its drive.
    #[error(
        "`{path}` held drive {drive} when this node last started and is empty now: is the disk mounted? \
         If the drive is gone for good, start with `--replace {path}`"
    )]
    Emptied {
        /// The path.
        path: PathBuf,
        /// The drive that was there.
        drive: DriveId,
    },
    /// Another process uses it.
    #[error("`{path}` is in use by another process: stop it first")]
    Locked {
        /// The path.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("`{path}`: {error}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl DriveRefusal {
    /// Whether the drive itself is broken (the node may start without it), not the way it is used.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Damaged { .. })
    }
}

/// Looks at a path without changing anything.
pub fn probe(path: &Path) -> DriveProbe {
    probe_inner(path).unwrap_or_else(DriveProbe::Refused)
}

fn probe_inner(path: &Path) -> Result<DriveProbe, DriveRefusal> {
    let failed = |error| DriveRefusal::Io { path: path.to_owned(), error };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DriveProbe::Fresh),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.is_dir() => return Err(DriveRefusal::NotAFolder { path: path.to_owned() }),
        Ok(_) => {}
    }
    match std::fs::read(path.join(IDENTITY_FILE)) {
        Ok(bytes) => return parse(path, &bytes).map(DriveProbe::Ours),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        // `coffer.json.new` alone is a format that a crash interrupted.
        if name != "lost+found" && name != NEW_IDENTITY_FILE {
            return Err(DriveRefusal::NotEmpty { path: path.to_owned(), example: name });
        }
    }
    Ok(DriveProbe::Fresh)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<DriveIdentity, DriveRefusal> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged =
        |error: serde_json::Error| DriveRefusal::Damaged { path: path.to_owned(), reason: error.to_string() };
    // The format first: a newer one may have other fields.
    let Format { format: found } = serde_json::from_slice(bytes).map_err(damaged)?;
    if found > FORMAT {
        return Err(DriveRefusal::NewerFormat { path: path.to_owned(), found });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Makes an empty (or missing) folder a drive of the cluster. Durable before it returns.
///
/// # Errors
/// [`DriveRefusal`] if the path is anything but fresh, or the file system refuses.
pub fn format(path: &Path, cluster: ClusterId, drive: DriveId) -> Result<DriveIdentity, DriveRefusal> {
    format_again(path, cluster, (drive, Incarnation(0)))
}

/// [`format()`], for a drive that takes the place of an earlier incarnation.
///
/// # Errors
/// As [`format()`].
pub fn format_again(
    path: &Path,
    cluster: ClusterId,
    (drive, incarnation): (DriveId, Incarnation),
) -> Result<DriveIdentity, DriveRefusal> {
    match probe(path) {
        DriveProbe::Fresh => {}
        DriveProbe::Ours(identity) => {
            return Err(DriveRefusal::AlreadyFormatted { path: path.to_owned(), drive: identity.drive });
        }
        DriveProbe::Refused(refusal) => return Err(refusal),
    }
    let failed = |error| DriveRefusal::Io { path: path.to_owned(), error };
    std::fs::create_dir_all(path).map_err(failed)?;
    let io = FileIo::new(path);
    let identity = DriveIdentity {
        format: FORMAT,
        cluster,
        drive,
        incarnation,
        segment_bytes: segment_bytes_for(io.space().map_err(failed)?.capacity),
        known_paths: Vec::new(),
    };
    write(&io, &identity).map_err(failed)?;
    // The new folder's own entry.
    if let Some(parent) = path.canonicalize().map_err(failed)?.parent() {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    Ok(identity)
}

pub(super) fn write(io: &dyn DriveIo, identity: &DriveIdentity) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(identity)?;
    text.push(b'\n');
    let file = io.create(NEW_IDENTITY_FILE)?;
    file.write_at(&text, 0)?;
    file.sync_data()?;
    io.rename(NEW_IDENTITY_FILE, IDENTITY_FILE)?;
    io.sync_dir(".")
}

/// Whether a process has the drive open. Nothing is held afterwards.
pub(crate) fn is_in_use(path: &Path) -> bool {
    let Ok(folder) = File::open(path) else { return false };
    let taken = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockShared);
    taken == Err(rustix::io::Errno::WOULDBLOCK)
}

/// A drive whose root is open and locked for this process.
#[derive(Debug)]
pub(crate) struct OpenDrive {
    /// Who it is.
    pub(crate) identity: DriveIdentity,
    /// Its files.
    pub(crate) io: Arc<dyn DriveIo>,
    /// Who does its work.
    pub(crate) threads: Threads,
    /// Holds the lock while it lives; the kernel releases it with the process.
    _lock: Option<File>,
}

impl OpenDrive {
    /// Opens and locks a formatted drive, of `cluster` if that is known.
    pub(crate) fn open(path: &Path, cluster: Option<ClusterId>) -> Result<Self, DriveRefusal> {
        let identity = match probe(path) {
            DriveProbe::Ours(identity) => identity,
            DriveProbe::Fresh => return Err(DriveRefusal::NotFormatted { path: path.to_owned() }),
            DriveProbe::Refused(refusal) => return Err(refusal),
        };
        if let Some(expected) = cluster
            && identity.cluster != expected
        {
            return Err(DriveRefusal::OtherCluster {
                path: path.to_owned(),
                found: identity.cluster,
                expected,
            });
        }
        let lock = File::open(path).map_err(|error| DriveRefusal::Io { path: path.to_owned(), error })?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DriveRefusal::Locked { path: path.to_owned() }),
            Err(errno) => return Err(DriveRefusal::Io { path: path.to_owned(), error: errno.into() }),
        }
        let io = Arc::new(FileIo::new(path));
        Ok(Self { identity, io, threads: Threads::Own, _lock: Some(lock) })
    }
}

#[cfg(any(test, feature = "simulation"))]
impl OpenDrive {
    /// Opens a simulated drive, and takes it from whoever had it open.
    pub(crate) fn simulated(drive: &super::SimulatedDrive) -> Result<Self, DriveRefusal> {
        let (io, threads) = drive.open();
        let path = io.root().to_owned();
        let read = || {
            let file = io.open(IDENTITY_FILE)?;
            let mut bytes = vec![0; file.len()? as usize];
            file.read_at(&mut bytes, 0).map(|()| bytes)
        };
        let bytes = read().map_err(|error| DriveRefusal::Io { path: path.clone(), error })?;
        Ok(Self { identity: parse(&path, &bytes)?, io, threads, _lock: None })
    }
}

/// Looks at all paths of a node, and refuses what concerns them together: the same drive twice, and a path that had a
/// drive when the node last started and is empty now, unless it is in `replace`.
///
/// # Errors
/// [`DriveRefusal`], also the first that a single path gives reason for (a broken drive is no reason).
pub fn survey(paths: &[PathBuf], replace: &[PathBuf]) -> Result<Vec<(PathBuf, DriveProbe)>, DriveRefusal> {
    let mut probes = Vec::with_capacity(paths.len());
    for path in paths {
        match probe(path) {
            DriveProbe::Refused(refusal) if !refusal.is_failure() => return Err(refusal),
            found => probes.push((path.clone(), found)),
        }
    }
    refuse_duplicates(&probes)?;
    refuse_emptied(&probes, replace)?;
    Ok(probes)
}

/// Refuses two paths that are one drive (a mount listed twice, a copied folder).
fn refuse_duplicates(probes: &[(PathBuf, DriveProbe)]) -> Result<(), DriveRefusal> {
    let mut seen: HashMap<DriveId, &PathBuf> = HashMap::new();
    for (path, probe) in probes {
        if let DriveProbe::Ours(identity) = probe
            && let Some(first) = seen.insert(identity.drive, path)
        {
            let (first, second) = (first.clone(), path.clone());
            return Err(DriveRefusal::SameDrive { first, second, drive: identity.drive });
        }
    }
    Ok(())
}

/// Refuses a path that is fresh although one of the node's drives remembers a drive there that is now nowhere.
fn refuse_emptied(probes: &[(PathBuf, DriveProbe)], replace: &[PathBuf]) -> Result<(), DriveRefusal> {
    let identities = || {
        probes.iter().filter_map(|(_, probe)| match probe {
            DriveProbe::Ours(identity) => Some(identity),
            _ => None,
        })
    };
    for (path, probe) in probes {
        if !matches!(probe, DriveProbe::Fresh) || replace.contains(path) {
            continue;
        }
        let known = identities().flat_map(|identity| &identity.known_paths).find(|known| known.path == *path);
        // A drive that merely moved to another path left a fresh folder behind with good reason.
        if let Some(known) = known
            && !identities().any(|identity| identity.drive == known.drive)
        {
            return Err(DriveRefusal::Emptied { path: path.clone(), drive: known.drive });
        }
    }
    Ok(())
}

/// Writes the node's current paths into the drive's identity file, if they changed. What is remembered of configured
/// paths that are not open now (a broken drive) stays. A full drive goes on with the file that it has: the node's others
/// remember as well, and the next start tries again.
pub(crate) fn remember_paths(
    drive: &mut OpenDrive,
    open: &[KnownPath],
    configured: &[PathBuf],
) -> io::Result<()> {
    let absent = |known: &&KnownPath| {
        configured.contains(&known.path)
            && !open.iter().any(|now| now.path == known.path || now.drive == known.drive)
    };
    let mut known = open.to_vec();
    known.extend(drive.identity.known_paths.iter().filter(absent).cloned());
    known.sort_by(|a, b| a.path.cmp(&b.path));
    if drive.identity.known_paths == known {
        return Ok(());
    }
    let identity = DriveIdentity { known_paths: known, ..drive.identity.clone() };
    match write(drive.io.as_ref(), &identity) {
        Ok(()) => drive.identity = identity,
        Err(error) if is_full(&error) => {
            let path = drive.io.root().display();
            tracing::warn!(drive = %path, %error, "a full drive does not remember where the node's drives are now");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::SimulatedDrive;

    fn ids() -> (ClusterId, DriveId) {
        (ClusterId::random(), DriveId::random())
    }

    #[test]
    fn a_fresh_folder_becomes_a_drive_and_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d1");
        let (cluster, drive) = ids();
        assert!(matches!(probe(&path), DriveProbe::Fresh));
        std::fs::create_dir_all(path.join("lost+found")).unwrap();
        assert!(matches!(probe(&path), DriveProbe::Fresh));
        format(&path, cluster, drive).unwrap();
        let open = OpenDrive::open(&path, Some(cluster)).unwrap();
        assert_eq!((open.identity.cluster, open.identity.drive), (cluster, drive));
        assert!(matches!(format(&path, cluster, drive), Err(DriveRefusal::AlreadyFormatted { .. })));
    }

    #[test]
    fn foreign_newer_locked_and_other_drives_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (cluster, drive) = ids();
        let foreign = dir.path().join("foreign");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("thesis.tex"), "x").unwrap();
        let refusal = format(&foreign, cluster, drive).unwrap_err().to_string();
        assert!(refusal.contains("thesis.tex") && refusal.contains("foreign"), "{refusal}");

        let ours = dir.path().join("ours");
        format(&ours, cluster, drive).unwrap();
        let other = ClusterId::random();
        assert!(matches!(OpenDrive::open(&ours, Some(other)), Err(DriveRefusal::OtherCluster { .. })));
        let held = OpenDrive::open(&ours, None).unwrap();
        assert!(matches!(OpenDrive::open(&ours, None), Err(DriveRefusal::Locked { .. })));
        drop(held);

        std::fs::write(ours.join(IDENTITY_FILE), r#"{"format": 2, "shape": "unknown"}"#).unwrap();
        assert!(matches!(probe(&ours), DriveProbe::Refused(DriveRefusal::NewerFormat { found: 2, .. })));
        std::fs::write(ours.join(IDENTITY_FILE), "{").unwrap();
        assert!(matches!(probe(&ours), DriveProbe::Refused(DriveRefusal::Damaged { .. })));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(probe(&file), DriveProbe::Refused(DriveRefusal::NotAFolder { .. })));
    }

    #[test]
    fn a_full_drive_goes_on_with_the_paths_that_it_has_remembered() {
        let (cluster, id) = ids();
        let drive = SimulatedDrive::format(cluster, id, 1 << 20, 0);
        let now = [KnownPath { path: "/data1".into(), drive: id, incarnation: Incarnation(0) }];
        for (room, known) in [(0, 0), (1 << 20, 1)] {
            drive.set_room(room);
            remember_paths(&mut OpenDrive::simulated(&drive).unwrap(), &now, &[]).unwrap();
            let opened = OpenDrive::simulated(&drive).unwrap();
            assert_eq!((opened.identity.drive, opened.identity.known_paths.len()), (id, known));
        }
    }

    #[test]
    fn the_same_drive_twice_and_an_emptied_path_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cluster, drive) = ids();
        let (one, two) = (dir.path().join("1"), dir.path().join("2"));
        format(&one, cluster, drive).unwrap();
        format(&two, cluster, DriveId::random()).unwrap();
        let look = || vec![(one.clone(), probe(&one)), (two.clone(), probe(&two))];
        refuse_duplicates(&look()).unwrap();

        let known: Vec<_> = look()
            .into_iter()
            .filter_map(|(path, probe)| match probe {
                DriveProbe::Ours(identity) => {
                    let incarnation = identity.incarnation;
                    Some(KnownPath { path, drive: identity.drive, incarnation })
                }
                _ => None,
            })
            .collect();
        remember_paths(&mut OpenDrive::open(&two, None).unwrap(), &known, &[]).unwrap();
        std::fs::remove_dir_all(&one).unwrap();
        assert!(matches!(refuse_emptied(&look(), &[]), Err(DriveRefusal::Emptied { .. })));
        refuse_emptied(&look(), std::slice::from_ref(&one)).unwrap();
        // The broken drive is remembered while it is away and configured.
        let open = &known[1..];
        let mut drive = OpenDrive::open(&two, None).unwrap();
        remember_paths(&mut drive, open, &[one.clone(), two.clone()]).unwrap();
        assert_eq!(drive.identity.known_paths, known);
        drop(drive);

        std::fs::create_dir(&one).unwrap();
        std::fs::copy(two.join(IDENTITY_FILE), one.join(IDENTITY_FILE)).unwrap();
        assert!(matches!(refuse_duplicates(&look()), Err(DriveRefusal::SameDrive { .. })));
    }
}
