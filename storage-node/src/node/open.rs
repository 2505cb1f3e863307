//! Opening a node: every reason to refuse first, then each drive on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coffer_common::blocking;
use coffer_common::node::{DriveInfo, DriveState};
use coffer_common::types::{ClusterId, DriveId, Incarnation, NodeId};

use super::{NodeConfig, StorageNode};
use crate::drive::{DriveProbe, DriveRefusal, KnownPath, OpenDrive, remember_paths, survey};
use crate::pace::Pace;
use crate::store::{Background, DriveStore};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeOpenError {
    /// A drive is not used as it should be.
    #[error(transparent)]
    Refused(#[from] DriveRefusal),
    /// No drive can serve.
    #[error("no drive of node `{node}` can be opened; the last one: {reason}")]
    NoDrive {
        /// The node.
        node: String,
        /// Why the last one cannot.
        reason: String,
    },
    /// The operating system said no.
    #[error("cannot start a drive's threads: {0}")]
    Io(#[from] std::io::Error),
}

impl StorageNode {
    /// Opens all drives of a node. Drives that are broken are reported by `info` and left out; drives that are not ours,
    /// of another cluster, doubled, emptied or in use refuse the start.
    ///
    /// # Errors
    /// [`NodeOpenError`].
    pub async fn open(config: NodeConfig) -> Result<Arc<Self>, NodeOpenError> {
        blocking::run(move || open_blocking(&config))
            .await
            .map_err(|error| NodeOpenError::Io(std::io::Error::other(error)))?
    }
}

#[cfg(any(test, feature = "simulation"))]
impl StorageNode {
    /// Opens a node on simulated drives of one cluster, right here and without threads: every call does its own work, and
    /// [`Self::step`] that of the background. A drive that cannot be opened is reported as in [`Self::open`]. To crash the
    /// node: crash its drives, then drop it.
    ///
    /// # Errors
    /// [`NodeOpenError`] if no drive can be opened.
    pub fn open_simulated(
        node: NodeId,
        drives: &[crate::drive::SimulatedDrive],
    ) -> Result<Arc<Self>, NodeOpenError> {
        let (mut cluster, mut broken, mut results) = (None, Vec::new(), Vec::new());
        for drive in drives {
            match OpenDrive::simulated(drive) {
                Ok(drive) => {
                    let identity = &drive.identity;
                    cluster = cluster.or(Some(identity.cluster));
                    let (path, id) = (drive.io.root().to_owned(), identity.drive);
                    results.push((path, id, DriveStore::open(drive).map_err(|error| error.to_string())));
                }
                Err(refusal) => broken.push(broken_drive(Path::new("/simulated"), None, &refusal)),
            }
        }
        assemble(node, cluster, results, broken)
    }

    /// One round of what the loops of all drives do: apply and sync the indexes, free, compact, sweep.
    pub fn step(&self) {
        self.background.iter().for_each(Background::step);
    }
}

/// [`StorageNode::open`] for threads that may block.
pub(super) fn open_blocking(config: &NodeConfig) -> Result<Arc<StorageNode>, NodeOpenError> {
    let probes = survey(&config.drives, &config.replace)?;
    let cluster = config.cluster.or_else(|| probes.iter().find_map(|(_, probe)| cluster_of(probe)));
    let mut broken = Vec::new();
    let mut opened = Vec::new();
    for (path, _) in &probes {
        match OpenDrive::open(path, cluster) {
            Ok(drive) => opened.push((path.clone(), drive)),
            Err(refusal) if refusal.is_failure() => broken.push(broken_drive(path, None, &refusal)),
            Err(refusal) => return Err(refusal.into()),
        }
    }
    let known: Vec<KnownPath> = opened
        .iter()
        .map(|(path, drive)| KnownPath {
            path: path.clone(),
            drive: drive.identity.drive,
            incarnation: drive.identity.incarnation,
        })
        .collect();
    let results = open_stores(opened, &known, &config.drives);
    assemble(config.node.clone(), cluster, results, broken)
}

fn assemble(
    node: NodeId,
    cluster: Option<ClusterId>,
    results: Vec<OpenResult>,
    mut broken: Vec<DriveInfo>,
) -> Result<Arc<StorageNode>, NodeOpenError> {
    let mut order = Vec::new();
    let mut stores = std::collections::HashMap::new();
    for (path, id, result) in results {
        match result {
            Ok(store) => {
                order.push(id);
                stores.insert(id, store);
            }
            Err(reason) => broken.push(broken_drive(&path, Some(id), &reason)),
        }
    }
    let (Some(cluster), false) = (cluster, stores.is_empty()) else {
        let reason = broken.pop().map_or_else(|| "none was named".to_owned(), |drive| drive.reason);
        return Err(NodeOpenError::NoDrive { node: node.0, reason });
    };
    let in_order = order.iter().filter_map(|id| stores.get(id));
    let background =
        in_order.map(|store| Background::start(Arc::clone(store))).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StorageNode { id: node, cluster, stores, order, pace: Pace::default(), broken, background }))
}

fn cluster_of(probe: &DriveProbe) -> Option<ClusterId> {
    match probe {
        DriveProbe::Ours(identity) => Some(identity.cluster),
        _ => None,
    }
}

type OpenResult = (PathBuf, DriveId, Result<Arc<DriveStore>, String>);

/// Opens the stores at once: a large journal on one drive does not hold up the others.
fn open_stores(
    drives: Vec<(PathBuf, OpenDrive)>,
    known: &[KnownPath],
    configured: &[PathBuf],
) -> Vec<OpenResult> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = drives
            .into_iter()
            .map(|(path, mut drive)| {
                let id = drive.identity.drive;
                let thread = scope.spawn(move || {
                    remember_paths(&mut drive, known, configured).map_err(|error| error.to_string())?;
                    DriveStore::open(drive).map_err(|error| error.to_string())
                });
                (path, id, thread)
            })
            .collect();
        threads
            .into_iter()
            .map(|(path, id, thread)| {
                let result = thread.join().unwrap_or_else(|_| Err("opening it panicked".to_owned()));
                (path, id, result)
            })
            .collect()
    })
}

fn broken_drive(path: &Path, id: Option<DriveId>, reason: &dyn std::fmt::Display) -> DriveInfo {
    let reason = reason.to_string();
    tracing::error!(path = %path.display(), reason, "a drive cannot be opened");
    let state = if id.is_some() { DriveState::Failed } else { DriveState::Offline };
    let path = path.display().to_string();
    DriveInfo { reason, ..DriveInfo::unknown(id.unwrap_or(DriveId(0)), Incarnation(0), path, state) }
}
