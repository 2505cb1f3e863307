//! A server on folders: gateway, node and coordinator in one process; nothing listens but the gateway.
//!
//! 1. Refuse taken ports and bad credentials before a folder is touched.
//! 2. Look at the drives; format fresh ones if this is the first start, or the rest of a first start that was cut short.
//! 3. Open the node; the embedded coordinator reads its image from the drives; refuse a drive that was put back from an
//!    older copy.
//! 4. First start: one coordinator change makes the cluster and its layout. Then the gateway starts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coffer_common::cluster::{
    Cluster, ClusterOptions, ClusterRecord, DriveRecord, LiveRecord, NodeRecord, PROTOCOL_VERSION,
    first_layout, live_key, node_key,
};
use coffer_common::coordination::{CLUSTER_KEY, Coordinator, Expected, LocalCoordinator, SnapshotStore};
use coffer_common::layout::{ParitySettings, StorageClass};
use coffer_common::node::{
    DriveState, NodeClient, NodeError, Snapshot, SnapshotChange, SnapshotKind, SnapshotLog,
};
use coffer_common::shutdown::Shutdown;
use coffer_common::telemetry::Metrics;
use coffer_common::time::UnixMillis;
use coffer_common::types::{ClusterId, DriveId, Incarnation, NodeId};
use coffer_gateway::app::Gateway;
use coffer_storage_node::member::replace::successor;
use coffer_storage_node::member::{keep_absent, progress};
use coffer_storage_node::{
    DriveProbe, DriveStore, KnownPath, NodeConfig, StorageNode, admin, format_again, heal, join, pace, purge,
    scrub, settle, survey,
};

use crate::listen;
use crate::server::ServerArgs;

const MAP_PATIENCE: Duration = Duration::from_secs(10);
/// The node of a standalone server; the name never leaves the process.
const NODE: &str = "standalone";

pub(crate) async fn run(args: &ServerArgs, drives: Vec<PathBuf>) -> anyhow::Result<ExitCode> {
    let config = args.gateway.gateway_config()?;
    if !args.etcd.etcd.is_empty() {
        bail!(
            "folders make a standalone server, which keeps its own state and needs no `--etcd`; for a cluster give \
             URLs, for example http://10.0.0.1{{1...4}}:9100/data"
        );
    }
    listen::refuse_taken(&[
        (config.s3_address, "S3", "--address"),
        (config.admin_address, "the admin API", "--console-address"),
    ])?;
    let start = async |shutdown: Shutdown| {
        let metrics = Metrics::install(&shutdown)?;
        let node = open_node(&drives, &args.node.replace).await?;
        admin::publish(&node, &metrics);
        let coordinator = start_coordinator(&node, drives.len()).await?;
        node.record_start().await;
        register(&node, &*coordinator, &args.node.zone).await?;
        let (stored, state, stop) = (node.clone(), coordinator.clone(), shutdown.clone());
        // Each publication is a record on every drive: a change of the state.
        shutdown.spawn(progress::keep_published(stored, state, 1, stop));
        let cluster = start_cluster(node.clone(), coordinator.clone()).await?;
        pace::start(&node, args.node.background_slowdown, &shutdown);
        join::start(&node, &cluster, &shutdown);
        settle::start(&node, &cluster, &shutdown);
        heal::start(&node, &cluster, &shutdown);
        scrub::start(&node, &cluster, args.node.scrub_period, &shutdown);
        purge::start(&node, &cluster, args.node.purge_period, &shutdown);
        say_what_it_is(&cluster, &config.parity);
        Gateway::start(config, cluster, metrics, shutdown).await?;
        Ok(coordinator)
    };
    listen::serve(start, |coordinator| async move { coordinator.close().await }).await
}

/// Opens a store that no server runs on, to look at it: nothing is formatted, and nothing listens.
pub(crate) async fn open_existing(drives: &[PathBuf]) -> anyhow::Result<(Arc<LocalCoordinator>, Cluster)> {
    for (path, probe) in survey(drives, &[])? {
        if matches!(probe, DriveProbe::Fresh) {
            bail!("`{}` holds no store of Coffer", path.display());
        }
    }
    let node = open_node(drives, &[]).await?;
    let coordinator = start_coordinator(&node, drives.len()).await?;
    let cluster = start_cluster(node, coordinator.clone()).await?;
    Ok((coordinator, cluster))
}

/// A drive that is an older copy is refused before anything is written to it, which would make it longer.
async fn start_coordinator(node: &Arc<StorageNode>, drives: usize) -> anyhow::Result<Arc<LocalCoordinator>> {
    let copies = Arc::new(DriveCopies { node: node.clone(), drives });
    let opened: Vec<_> = node.drives().map(|drive| drive.info()).collect();
    let coordinator =
        LocalCoordinator::open(copies).await.context("the embedded coordinator cannot start")?;
    progress::refuse_rolled_back(&opened, &progress::known(&*coordinator).await?)?;
    coordinator.begin().await;
    Ok(coordinator)
}

async fn open_node(drives: &[PathBuf], replace: &[PathBuf]) -> anyhow::Result<Arc<StorageNode>> {
    let probes = survey(drives, replace)?;
    let identities = || {
        probes.iter().filter_map(|(path, probe)| match probe {
            DriveProbe::Ours(identity) => Some((path, identity)),
            DriveProbe::Fresh | DriveProbe::Refused(_) => None,
        })
    };
    let clusters = || identities().map(|(_, identity)| identity.cluster);
    let common = clusters().max_by_key(|cluster| clusters().filter(|other| other == cluster).count());
    let cluster = common.unwrap_or_else(ClusterId::random);
    // A drive remembers the node's paths once the node was opened.
    let opened_before = identities().any(|(_, identity)| !identity.known_paths.is_empty());
    for (path, probe) in &probes {
        if !matches!(probe, DriveProbe::Fresh) {
            continue;
        }
        if opened_before && !replace.contains(path) {
            refuse_new_drive(path)?;
        }
        let known: Vec<KnownPath> =
            identities().flat_map(|(_, identity)| identity.known_paths.iter().cloned()).collect();
        let replaced = replace.contains(path).then(|| successor(path, &probes, &known)).flatten();
        let (drive, incarnation) = replaced.unwrap_or_else(|| (DriveId::random(), Incarnation(0)));
        format_again(path, cluster, (drive, incarnation))?;
        tracing::info!(path = %path.display(), %drive, incarnation = incarnation.0, "drive formatted");
    }
    let config = NodeConfig {
        node: NodeId(NODE.to_owned()),
        drives: drives.to_vec(),
        cluster: Some(cluster),
        replace: replace.to_vec(),
    };
    Ok(StorageNode::open(config).await?)
}

fn refuse_new_drive(path: &Path) -> anyhow::Result<()> {
    let path = path.display();
    bail!(
        "`{path}` is empty, and the other folders belong to a store that was made without it: a standalone store \
         keeps the drives it began with. Start with the same folders as before; if `{path}` takes the place of a \
         drive that is gone for good, add `--replace {path}`"
    )
}

/// Writes the node's record and sign of life, and on the first start the cluster and its layout.
async fn register(node: &StorageNode, coordinator: &dyn Coordinator, zone: &str) -> anyhow::Result<()> {
    let infos = node.drive_infos();
    let mut record = NodeRecord {
        id: node.id().clone(),
        address: String::new(),
        zone: zone.to_owned(),
        drives: infos.iter().filter(|drive| drive.id != DriveId(0)).map(DriveRecord::from).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL_VERSION,
        endpoints: Vec::new(),
    };
    let known = coordinator.get(CLUSTER_KEY).await?;
    let known = known.and_then(|entry| serde_json::from_slice::<ClusterRecord>(&entry.value).ok());
    match known {
        Some(known) if known.id != node.cluster() => {
            bail!("the drives belong to cluster {}, their state to cluster {}", node.cluster(), known.id)
        }
        Some(_) => {}
        None => {
            if let Some(broken) = infos.iter().find(|drive| drive.state != DriveState::Online) {
                bail!("the first start needs every drive: `{}`: {}", broken.path, broken.reason);
            }
            let first = first_layout(std::slice::from_ref(&record), node.cluster())?;
            first.apply(coordinator).await?;
            tracing::info!(cluster = %node.cluster(), slots = first.record.n, "the store is made");
        }
    }
    keep_absent(&mut record, coordinator).await?;
    let written = coordinator.put(&node_key(&record.id), encode(&record)?, Expected::Any, false).await;
    if let Err(error) = written {
        // With half of the drives the store can be read, not changed.
        tracing::warn!(%error, "this start was not recorded");
    }
    let live = LiveRecord { since_ms: UnixMillis::now().0, process: u64::from(std::process::id()) };
    coordinator.put(&live_key(&record.id), encode(&live)?, Expected::Any, true).await?;
    Ok(())
}

fn encode<T: serde::Serialize>(record: &T) -> anyhow::Result<bytes::Bytes> {
    Ok(serde_json::to_vec(record)?.into())
}

async fn start_cluster(
    node: Arc<StorageNode>,
    coordinator: Arc<LocalCoordinator>,
) -> anyhow::Result<Cluster> {
    let local: Arc<dyn NodeClient> = node;
    let direct = local.clone();
    let options = ClusterOptions {
        coordinator,
        clients: Arc::new(move |_| direct.clone()),
        seeds: vec![local],
        // The coordinator's own image is on every drive already.
        local: None,
    };
    Ok(Cluster::start(options, MAP_PATIENCE).await?)
}

fn say_what_it_is(cluster: &Cluster, parity: &ParitySettings) {
    let layout = &cluster.map().layout;
    let tolerance = layout.tolerance_of(parity.split(StorageClass::Standard, layout.n()).k);
    let (drives, reads, writes) =
        (layout.drives().len(), tolerance.drives_for_reads, tolerance.drives_for_writes);
    if layout.n() == 1 {
        tracing::warn!("one drive: nothing is erasure-coded, and its loss is the loss of everything on it");
    } else {
        tracing::info!(
            "{drives} drives: {reads} may fail and all stays readable, {writes} and all stays writable"
        );
    }
}

/// The embedded coordinator's image, once per drive.
struct DriveCopies {
    node: Arc<StorageNode>,
    drives: usize,
}

impl DriveCopies {
    /// Has these drives do something at once; what each of them that did it said.
    async fn on_each<T, F>(drives: Vec<Arc<DriveStore>>, task: impl Fn(Arc<DriveStore>) -> F) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        let tasks: Vec<_> = drives.into_iter().map(|drive| tokio::spawn(task(drive))).collect();
        let mut done = Vec::new();
        for task in tasks {
            match task.await {
                Ok(Ok(said)) => done.push(said),
                Ok(Err(error)) => tracing::warn!(%error, "a drive did not store the state"),
                Err(error) => tracing::error!(%error, "storing the state failed"),
            }
        }
        done
    }

    async fn store_on(drives: Vec<Arc<DriveStore>>, whole: Snapshot) -> usize {
        let store = |drive: Arc<DriveStore>| {
            let whole = whole.clone();
            async move { drive.store_snapshot(&whole).await }
        };
        Self::on_each(drives, store).await.len()
    }

    fn all(&self) -> Vec<Arc<DriveStore>> {
        self.node.drives().cloned().collect()
    }
}

#[async_trait::async_trait]
impl SnapshotStore for DriveCopies {
    fn copies(&self) -> usize {
        self.drives
    }

    async fn load(&self) -> Vec<Option<SnapshotLog>> {
        let mut answers = Vec::new();
        for drive in self.node.drives() {
            match drive.snapshot_log(SnapshotKind::Coordinator).await {
                // One that has lost its state knows of no image either; its silence is no answer.
                Ok(None) if drive.incarnation() > Incarnation(0) => {}
                Ok(log) => answers.push(log),
                Err(error) => {
                    tracing::warn!(%error, drive = %drive.id(), "its copy of the state is not readable")
                }
            }
        }
        answers
    }

    async fn store(&self, whole: Snapshot) -> usize {
        Self::store_on(self.all(), whole).await
    }

    async fn append(&self, change: SnapshotChange, whole: &(dyn Fn() -> Snapshot + Send + Sync)) -> usize {
        let append = |drive: Arc<DriveStore>| {
            let change = change.clone();
            async move { drive.change_snapshot(&change).await.map(|taken| (taken, drive)) }
        };
        let (taken, others): (Vec<_>, Vec<_>) =
            Self::on_each(self.all(), append).await.into_iter().partition(|(taken, _)| *taken);
        let others: Vec<_> = others.into_iter().map(|(_, drive)| drive).collect();
        if others.is_empty() {
            return taken.len();
        }
        taken.len() + Self::store_on(others, whole()).await
    }
}
