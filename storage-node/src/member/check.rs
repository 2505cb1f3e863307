//! Every reason not to join, each with the way out. Nothing is changed here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_common::cluster::{ClusterRecord, NodeRecord, PROTOCOL_VERSION, protocol_compatible};
use coffer_common::coordination::{CLUSTER_KEY, Coordinator, CoordinatorError};
use coffer_common::limits::MAX_CLOCK_SKEW;
use coffer_common::node::NodeClient;
use coffer_common::rpc::RemoteNode;
use coffer_common::time::UnixMillis;
use coffer_common::types::{ClusterId, DriveId, Incarnation, NodeId};
use futures_util::future::join_all;

use super::{MemberSettings, node_records, own_drives};
use crate::drive::{DriveProbe, DriveRefusal};

const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a node must not join.
#[derive(Debug, thiserror::Error)]
pub enum MemberRefusal {
    /// The drives belong elsewhere.
    #[error(
        "the drives of this node belong to cluster {ours}, etcd knows `{name}` as cluster {theirs}: \
         check `--etcd` and `--cluster-name`, or use other drives; nothing was touched"
    )]
    OtherCluster {
        /// The drives' cluster.
        ours: ClusterId,
        /// The coordinator's cluster.
        theirs: ClusterId,
        /// Where the coordinator was asked.
        name: String,
    },
    /// The coordinator has lost the cluster, or it is the wrong one.
    #[error(
        "the drives of this node belong to cluster {ours}, but etcd at {etcd} knows no cluster here: \
         check `--etcd` and `--cluster-name`; if etcd has lost its data, `coffer recover` brings it back from the drives"
    )]
    UnknownCluster {
        /// The drives' cluster.
        ours: ClusterId,
        /// Where the coordinator was asked.
        etcd: String,
    },
    /// The lists differ.
    #[error(
        "the endpoint lists differ, and must be the same on all nodes:\n  here:    {ours}\n  on {node}: {theirs}"
    )]
    EndpointsDiffer {
        /// This node's list.
        ours: String,
        /// The other node.
        node: NodeId,
        /// Its list.
        theirs: String,
    },
    /// Two nodes, one id.
    #[error(
        "node id `{id}` is in use by a running node at {address}: give each node its own with `--node-id`"
    )]
    IdInUse {
        /// The id.
        id: NodeId,
        /// Where the other is.
        address: String,
    },
    /// Too far apart for a rolling upgrade.
    #[error(
        "this node speaks protocol {PROTOCOL_VERSION}, node `{node}` (version {version}) speaks {theirs}: only \
         neighbouring versions work together; upgrade step by step"
    )]
    Protocol {
        /// The other node.
        node: NodeId,
        /// Its version.
        version: String,
        /// Its protocol version.
        theirs: u32,
    },
    /// Clocks.
    #[error(
        "this machine's clock is {seconds} s {direction} those of the other nodes ({nodes}), more than {} s: \
         set it by NTP and start again",
        MAX_CLOCK_SKEW.as_secs()
    )]
    Clock {
        /// By how much.
        seconds: u64,
        /// `ahead of` or `behind`.
        direction: &'static str,
        /// Which nodes.
        nodes: String,
    },
    /// A drive of this node is gone.
    #[error(transparent)]
    Emptied(DriveRefusal),
    /// A drive in whose place another has come.
    #[error(
        "drive {drive} at `{path}` was replaced (it is incarnation {}, the cluster has {}): it has forgotten promises \
         that its successor has made; use it as a new drive: empty it and start with `--replace {path}`",
        found.0, known.0
    )]
    Replaced {
        /// The drive.
        drive: DriveId,
        /// Its path.
        path: String,
        /// Its incarnation.
        found: Incarnation,
        /// The latest one.
        known: Incarnation,
    },
    /// An old copy of a drive.
    #[error(
        "drive {drive} at `{path}` is older than the cluster knows it (start {}, record {}; it was at start {}, record \
         {}): it was restored from a copy and has forgotten promises; empty it and start with `--replace {path}`",
        found.0, found.1, known.0, known.1
    )]
    RolledBack {
        /// The drive.
        drive: DriveId,
        /// Its path.
        path: String,
        /// Its starts and its journal's last record.
        found: (u64, u64),
        /// How far it was.
        known: (u64, u64),
    },
}

/// What the coordinator knows before this node joins.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) cluster: Option<ClusterRecord>,
    pub(super) nodes: Vec<NodeRecord>,
    live: Vec<String>,
}

impl View {
    pub(super) async fn read(coordinator: &dyn Coordinator) -> Result<Self, CoordinatorError> {
        let cluster = coordinator.get(CLUSTER_KEY).await?;
        let live = coordinator.list("live/").await?;
        Ok(Self {
            cluster: cluster.and_then(|entry| serde_json::from_slice(&entry.value).ok()),
            nodes: node_records(coordinator).await?,
            live: live
                .entries
                .into_iter()
                .filter_map(|e| Some(e.key.strip_prefix("live/")?.to_owned()))
                .collect(),
        })
    }

    fn is_live(&self, node: &NodeId) -> bool {
        self.live.contains(&node.0)
    }
}

/// The cluster that most of the formatted drives belong to.
pub(super) fn cluster_of(probes: &[(PathBuf, DriveProbe)]) -> Option<ClusterId> {
    let clusters = || {
        probes.iter().filter_map(|(_, probe)| match probe {
            DriveProbe::Ours(identity) => Some(identity.cluster),
            DriveProbe::Fresh | DriveProbe::Refused(_) => None,
        })
    };
    clusters().max_by_key(|cluster| clusters().filter(|other| other == cluster).count())
}

pub(super) async fn refuse(
    settings: &MemberSettings,
    probes: &[(PathBuf, DriveProbe)],
    view: &View,
) -> Result<(), MemberRefusal> {
    let etcd = || settings.etcd.join(", ");
    match (cluster_of(probes), &view.cluster) {
        (Some(ours), None) => return Err(MemberRefusal::UnknownCluster { ours, etcd: etcd() }),
        (Some(ours), Some(record)) if ours != record.id => {
            return Err(MemberRefusal::OtherCluster { ours, theirs: record.id, name: etcd() });
        }
        _ => {}
    }
    for node in &view.nodes {
        if node.id == settings.id {
            refuse_emptied(settings, probes, view)?;
            // The port is ours by now: at the same address nobody else can be running.
            if node.address != settings.advertise && view.is_live(&node.id) {
                let (id, address) = (node.id.clone(), node.address.clone());
                return Err(MemberRefusal::IdInUse { id, address });
            }
            continue;
        }
        if view.is_live(&node.id) && !protocol_compatible(PROTOCOL_VERSION, node.protocol) {
            let (theirs, version) = (node.protocol, node.version.clone());
            return Err(MemberRefusal::Protocol { node: node.id.clone(), version, theirs });
        }
        refuse_other_endpoints(settings, view, node)?;
    }
    refuse_wrong_clock(settings, view).await
}

/// A folder that held a drive when this node last registered must not be taken for a fresh one.
fn refuse_emptied(
    settings: &MemberSettings,
    probes: &[(PathBuf, DriveProbe)],
    view: &View,
) -> Result<(), MemberRefusal> {
    for (path, probe) in probes {
        if !matches!(probe, DriveProbe::Fresh) || settings.replace.contains(path) {
            continue;
        }
        let mut own = own_drives(&view.nodes, &settings.id);
        let held = own.find(|drive| drive.path == path.display().to_string());
        if let Some(held) = held {
            let refusal = DriveRefusal::Emptied { path: path.clone(), drive: held.id };
            return Err(MemberRefusal::Emptied(refusal));
        }
    }
    Ok(())
}

/// Before there is a cluster all lists must be the same; afterwards those of running nodes, but for nodes that were added:
/// lists grow one restart after the other.
fn refuse_other_endpoints(
    settings: &MemberSettings,
    view: &View,
    node: &NodeRecord,
) -> Result<(), MemberRefusal> {
    let comparable = !settings.endpoints.is_empty() && !node.endpoints.is_empty();
    let agree = lists_agree(&settings.endpoints, &node.endpoints, view.cluster.is_some());
    if comparable && view.is_live(&node.id) && !agree {
        let (ours, theirs) = (settings.endpoints.join(" "), node.endpoints.join(" "));
        return Err(MemberRefusal::EndpointsDiffer { ours, node: node.id.clone(), theirs });
    }
    Ok(())
}

/// Whether two endpoint lists can be of one cluster, which `founded` says is there already.
fn lists_agree(ours: &[String], theirs: &[String], founded: bool) -> bool {
    let within = |some: &[String], all: &[String]| some.iter().all(|endpoint| all.contains(endpoint));
    ours == theirs || founded && (within(ours, theirs) || within(theirs, ours))
}

async fn refuse_wrong_clock(settings: &MemberSettings, view: &View) -> Result<(), MemberRefusal> {
    let others = view.nodes.iter().filter(|node| node.id != settings.id && view.is_live(&node.id));
    let answers = others.map(|node| async {
        let client: Arc<dyn NodeClient> =
            Arc::new(RemoteNode::connect_lazy(node.address.clone(), settings.security.clone()));
        let (asked, sent) = (Instant::now(), UnixMillis::now().0);
        let info = tokio::time::timeout(ASK_TIMEOUT, client.info()).await.ok()?.ok()?;
        let ours = sent + u64::try_from(asked.elapsed().as_millis() / 2).unwrap_or(0);
        let ahead_ms = i128::from(ours) - i128::from(info.clock_ms);
        Some((node.id.0.clone(), i64::try_from(ahead_ms).unwrap_or(i64::MAX)))
    });
    let answers: Vec<_> = join_all(answers).await.into_iter().flatten().collect();
    let limit_ms = u64::try_from(MAX_CLOCK_SKEW.as_millis()).unwrap_or(u64::MAX);
    let apart: Vec<_> = answers.iter().filter(|(_, ahead)| ahead.unsigned_abs() > limit_ms).collect();
    if apart.is_empty() {
        return Ok(());
    }
    let nodes = apart.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>().join(", ");
    if apart.len() * 2 <= answers.len() {
        tracing::warn!(
            nodes,
            "the clocks of these nodes differ from this one's by more than 3 s: set them by NTP"
        );
        return Ok(());
    }
    let ahead = apart[0].1;
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    Err(MemberRefusal::Clock { seconds: ahead.unsigned_abs() / 1000, direction, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_list_may_grow_once_there_is_a_cluster() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (three, four, other) =
            (list(&["a", "b", "c"]), list(&["a", "b", "c", "d"]), list(&["a", "b", "e"]));
        for founded in [false, true] {
            assert!(lists_agree(&three, &three, founded));
            assert_eq!(lists_agree(&three, &four, founded), founded);
            assert_eq!(lists_agree(&four, &three, founded), founded);
            assert!(!lists_agree(&three, &other, founded));
        }
    }
}
