//! How a storage node becomes and stays a member of its cluster.
//!
//! Owns: deciding what the node's drives are (fresh, ours, somebody else's), taking part in the first layout, the
//! node's record and its sign of life in the coordinator, and the gRPC port. Never serves S3, never changes a layout.
//!
//! ## Flow
//! 1. Bind the port, so that a second process of the same node ends here.
//! 2. Look at the drives (`survey`) and at the coordinator (`check`): refuse what does not fit together.
//!    An empty folder that is to replace a drive becomes the next incarnation of that one (`replace`).
//! 3. Fresh drives in a cluster that does not exist yet (`first`): register, wait for the expected nodes, and let one
//!    coordinator transaction decide the first layout; then format.
//! 4. Open the drives; refuse one that was put back from an older copy (`progress`); only then count the start.
//! 5. Serve, register (`register`), and publish how far the journals are. Register again if the record is gone.
//!
//! ## Crash consistency
//! The ids of fresh drives are in the node's record before any layout names them; a node that crashes between the layout
//! and formatting finds them there again. A drive's own `coffer.json` is the truth from then on.
//!
//! ## Retries
//! A node whose drives are formatted starts without the coordinator and registers when it is back. Fresh drives wait for
//! it: it knows which ids the first layout has for them, and which drives they replace.

mod check;
mod first;
pub mod progress;
mod register;
pub mod replace;
mod settings;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer_common::cluster::{DriveRecord, NodeRecord};
use coffer_common::coordination::{Coordinator, CoordinatorError, EtcdCoordinator};
use coffer_common::node::NodeClient;
use coffer_common::shutdown::Shutdown;
use coffer_common::types::{ClusterId, DriveId, Incarnation, NodeId};
use tokio::net::TcpListener;
use tokio::time::Instant;

pub use check::MemberRefusal;
pub use register::keep_absent;
pub use settings::{Expected, MemberSettings};

use crate::drive::{DriveProbe, KnownPath, format_again, survey};
use crate::node::{NodeConfig, NodeOpenError, StorageNode};
use check::View;

/// How long a start waits for etcd.
const ETCD_PATIENCE: Duration = Duration::from_secs(10);
/// Before it is asked again meanwhile.
const ETCD_PAUSE: Duration = Duration::from_millis(250);

/// Why a node does not become a member.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The port is taken, or the address is not this machine's.
    #[error(
        "cannot listen on `{address}` for nodes and gateways: {error}; choose another with `--node-address`"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// Etcd does not answer, and without it this start cannot be decided.
    #[error(
        "etcd at {endpoints} does not answer, and a node with fresh drives cannot start without it: {error}; \
         is it running, and is `--etcd` right?"
    )]
    NoCoordinator {
        /// The members that were tried.
        endpoints: String,
        /// What happened.
        error: CoordinatorError,
    },
    /// Nodes, drives or settings do not fit together.
    #[error(transparent)]
    Refused(#[from] MemberRefusal),
    /// A drive is not used as it should be, or none can be opened.
    #[error(transparent)]
    Node(#[from] NodeOpenError),
    /// The first layout cannot be made.
    #[error(transparent)]
    Bootstrap(#[from] coffer_common::cluster::BootstrapError),
    /// The coordinator failed on the way.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// Told to stop before the cluster was complete.
    #[error("stopped while waiting for the other nodes")]
    Stopped,
}

/// A node that is a member of its cluster and serves its port until the shutdown is told.
pub struct Member {
    /// The node.
    pub node: Arc<StorageNode>,
    /// Its cluster.
    pub cluster: ClusterId,
}

impl Member {
    /// Joins the cluster, or helps to found it.
    ///
    /// # Errors
    /// [`MemberError`], each with the way out.
    pub async fn start(
        settings: MemberSettings,
        coordinator: Arc<EtcdCoordinator>,
        shutdown: &Shutdown,
    ) -> Result<Self, MemberError> {
        let address = settings.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|error| MemberError::Listen { address, error })?;
        let probes = survey(&settings.drives, &settings.replace).map_err(NodeOpenError::from)?;
        let ours = check::cluster_of(&probes);
        let fresh = probes.iter().any(|(_, probe)| matches!(probe, DriveProbe::Fresh));
        let mut lost = Vec::new();
        let cluster = match first_view(&coordinator).await {
            Ok((view, known)) => {
                check::refuse(&settings, &probes, &view).await?;
                lost = lost_drives(&settings, &view, &known);
                match (ours, &view.cluster) {
                    (None, None) => first::found(&settings, &*coordinator, shutdown).await?,
                    (ours, record) => {
                        ours.or(record.as_ref().map(|record| record.id)).unwrap_or(ClusterId(0))
                    }
                }
            }
            Err(error) if error.retryable() => {
                let endpoints = settings.etcd.join(", ");
                let Some(ours) = ours.filter(|_| !fresh) else {
                    return Err(MemberError::NoCoordinator { endpoints, error });
                };
                tracing::warn!(%error, endpoints, "etcd does not answer; starting with what the drives know");
                // Of whatever generation: an etcd without a cluster is not where to register.
                coordinator.vouch(1);
                ours
            }
            Err(error) => return Err(error.into()),
        };
        let planned = match fresh {
            true => first::planned_drives(&settings, &*coordinator).await?,
            false => Vec::new(),
        };
        format_fresh(&probes, cluster, |path| {
            let planned = planned.iter().find(|(known, _)| Path::new(known) == path).map(|(_, id)| *id);
            let replaces = settings.replace.iter().any(|replaced| replaced == path) && planned.is_none();
            let successor = replaces.then(|| replace::successor(path, &probes, &lost)).flatten();
            successor.unwrap_or_else(|| (planned.unwrap_or_else(DriveId::random), Incarnation(0)))
        })?;
        let config = NodeConfig {
            node: settings.id.clone(),
            drives: settings.drives.clone(),
            cluster: Some(cluster),
            replace: settings.replace.clone(),
        };
        let node = StorageNode::open(config).await?;
        let opened: Vec<_> = node.drives().map(|drive| drive.info()).collect();
        if let Some(known) = read(progress::known(&*coordinator)).await {
            progress::refuse_rolled_back(&opened, &known)?;
        }
        node.record_start().await;
        serve(&node, listener, &settings, shutdown);
        let (joined, stop) = (node.clone(), shutdown.clone());
        shutdown.spawn(async move {
            if register::keep_registered(&settings, &joined, opened, &*coordinator, &stop).await {
                tokio::join!(
                    register::keep_known(&settings, &joined, &*coordinator, &stop),
                    progress::keep_published(joined.clone(), coordinator.clone(), 0, stop.clone())
                );
            }
        });
        Ok(Self { node, cluster })
    }
}

fn format_fresh(
    probes: &[(std::path::PathBuf, DriveProbe)],
    cluster: ClusterId,
    identity: impl Fn(&Path) -> (DriveId, Incarnation),
) -> Result<(), NodeOpenError> {
    for (path, probe) in probes {
        if matches!(probe, DriveProbe::Fresh) {
            let (drive, incarnation) = identity(path);
            format_again(path, cluster, (drive, incarnation))?;
            let (path, incarnation) = (path.display(), incarnation.0);
            tracing::info!(%path, %drive, incarnation, %cluster, "drive formatted");
        }
    }
    Ok(())
}

/// The drives that a node was the last to start: none that has gone to another node since.
fn own_drives<'a>(nodes: &'a [NodeRecord], id: &'a NodeId) -> impl Iterator<Item = &'a DriveRecord> {
    let started = |drive: &DriveRecord| (drive.incarnation, drive.boot_count);
    let others = move || nodes.iter().filter(move |node| node.id != *id).flat_map(|node| &node.drives);
    let own = nodes.iter().filter(move |node| node.id == *id).flat_map(|node| &node.drives);
    own.filter(move |drive| {
        !drive.fresh && !others().any(|other| other.id == drive.id && started(other) > started(drive))
    })
}

/// The drives of this node that the cluster knows, each as its latest incarnation.
fn lost_drives(settings: &MemberSettings, view: &View, known: &[DriveRecord]) -> Vec<KnownPath> {
    let latest =
        |id: DriveId| known.iter().filter(|drive| drive.id == id).map(|drive| drive.incarnation).max();
    own_drives(&view.nodes, &settings.id)
        .map(|drive| KnownPath {
            path: drive.path.clone().into(),
            drive: drive.id,
            incarnation: latest(drive.id).unwrap_or_default(),
        })
        .collect()
}

fn serve(node: &Arc<StorageNode>, listener: TcpListener, settings: &MemberSettings, shutdown: &Shutdown) {
    let (node, security, stop) = (node.clone(), settings.security.clone(), shutdown.clone());
    shutdown.spawn(async move {
        let node: Arc<dyn NodeClient> = node;
        if let Err(error) = crate::rpc::serve(node, listener, security, stop.clone()).await {
            tracing::error!(%error, "the node port failed; stopping");
            stop.fail();
        }
    });
}

/// What the coordinator says at the start. Asked again while it does not answer: where it starts too, another of its members
/// may not be there yet.
async fn first_view(coordinator: &EtcdCoordinator) -> Result<(View, Vec<DriveRecord>), CoordinatorError> {
    let deadline = Instant::now() + ETCD_PATIENCE;
    coordinator.ready(ETCD_PATIENCE).await?;
    let read = || async { Ok((View::read(coordinator).await?, progress::known(coordinator).await?)) };
    patiently(deadline, read).await
}

/// Asks again while there is no answer, until the deadline.
async fn patiently<T, F: Future<Output = Result<T, CoordinatorError>>>(
    deadline: Instant,
    ask: impl Fn() -> F,
) -> Result<T, CoordinatorError> {
    loop {
        match ask().await {
            Err(error) if error.retryable() && Instant::now() < deadline => {
                tokio::time::sleep(ETCD_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Whether the coordinator answers now; a start goes on without it where it can.
async fn read<T>(answer: impl Future<Output = Result<T, CoordinatorError>>) -> Option<T> {
    match answer.await {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::debug!(%error, "the coordinator was not asked");
            None
        }
    }
}

fn encode<T: serde::Serialize>(record: &T) -> bytes::Bytes {
    serde_json::to_vec(record).expect("plain data is always JSON").into()
}

/// All records of nodes that can be read.
async fn node_records(coordinator: &dyn Coordinator) -> Result<Vec<NodeRecord>, CoordinatorError> {
    let listing = coordinator.list("nodes/").await?;
    Ok(listing.entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect())
}
