//! The state of the cluster as one document.

use coffer_common::cluster::staged::{MoveProgress, NearlyFull, nearly_full};
use coffer_common::cluster::{Cluster, NodeStatus};
use coffer_common::layout::Tolerance;
use coffer_common::node::{DriveInfo, DriveState};
use coffer_common::types::{ClusterId, NodeId};
use serde::Serialize;

use super::quorum::Quorum;

/// The cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Every slot answers.
    Healthy,
    /// Everything can be read and written; some slots are away.
    Degraded,
    /// Everything can be read, not everything written.
    ReadOnly,
    /// Not everything can be read.
    Unavailable,
}

/// `GET /api/v1/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The cluster in one word.
    pub health: Health,
    /// Its id.
    pub cluster: ClusterId,
    /// Its generation.
    pub generation: u32,
    /// Slots of a partition.
    pub slots: u8,
    /// Partitions and what they can lose, as of now.
    pub quorum: Quorum,
    /// What the layout can lose when everything is up.
    pub tolerance: Tolerance,
    /// Bytes of all drives that answer.
    pub capacity_bytes: u64,
    /// Free bytes of all drives that answer.
    pub free_bytes: u64,
    /// Versions whose shard is missing on a drive that answers.
    pub missing_shards: u64,
    /// Versions that are committed but not yet known to be so everywhere.
    pub unstable_versions: u64,
    /// What is known to be missing, and how it comes back.
    pub heal: Heal,
    /// The version of the layout.
    pub layout: u64,
    /// How far slots are on their way to another one; `None` if none are.
    pub moves: Option<MoveProgress>,
    /// Drives that are nearly full, and what would relieve them.
    pub nearly_full: Vec<NearlyFull>,
    /// The nodes.
    pub nodes: Vec<NodeView>,
    /// The version of this gateway.
    pub version: &'static str,
}

/// Catch-up as the drives that answer know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Heal {
    /// Registers with a version that is not superseded and whose shard is missing on some drive.
    pub missing_shards: u64,
    /// About how many registers are owed to slots that did not take part: each is known to all other slots.
    pub owed_registers: u64,
    /// Whether every drive knows all of its own.
    pub complete: bool,
    /// Shards rebuilt since the nodes started.
    pub rebuilt_shards: u64,
    /// Their bytes.
    pub rebuilt_bytes: u64,
    /// How fast, lately.
    pub shards_per_minute: u64,
    /// How long the missing shards take at that rate; `None` if nothing is being rebuilt.
    pub eta_seconds: Option<u64>,
}

impl Heal {
    fn of<'a>(drives: impl Iterator<Item = &'a DriveInfo>, n: u8) -> Self {
        let mut sum = Self { complete: true, ..Self::default() };
        for heal in drives.map(|drive| &drive.heal) {
            sum.missing_shards += heal.missing;
            sum.owed_registers += heal.owed;
            sum.complete &= heal.complete;
            sum.rebuilt_shards += heal.rebuilt_shards;
            sum.rebuilt_bytes += heal.rebuilt_bytes;
            sum.shards_per_minute += heal.shards_per_minute;
        }
        sum.owed_registers = sum.owed_registers.div_ceil(u64::from(n).saturating_sub(1).max(1));
        sum.eta_seconds = (sum.missing_shards * 60).checked_div(sum.shards_per_minute);
        sum
    }
}

/// A node in [`Status`].
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Where its gRPC service answers.
    pub address: String,
    /// What fails together above it.
    pub zone: String,
    /// Whether it answers.
    pub alive: bool,
    /// Coffer's version there.
    pub version: String,
    /// How far its clock is ahead of the gateway's, in milliseconds.
    pub clock_ahead_ms: i64,
    /// Slots on its drives now.
    pub slots: u32,
    /// Its drives as it reported them last.
    pub drives: Vec<DriveInfo>,
}

impl Status {
    /// As of now.
    pub(super) fn of(cluster: &Cluster) -> Self {
        let map = cluster.map();
        let quorum = Quorum::of(cluster, None);
        let mut nodes: Vec<NodeView> = cluster.nodes().into_iter().map(NodeView::from).collect();
        let now = map.present_layout();
        for (drive, slots) in now.drives().iter().zip(now.loads()) {
            let node = map.node_of(drive.id);
            nodes.iter_mut().filter(|view| view.id == node).for_each(|view| view.slots += slots);
        }
        let serving = |drive: &&DriveInfo| !matches!(drive.state, DriveState::Failed | DriveState::Offline);
        let drives = || nodes.iter().filter(|node| node.alive).flat_map(|node| &node.drives).filter(serving);
        Self {
            health: health(&quorum, drives().any(|drive| drive.join.waiting > 0)),
            cluster: map.cluster,
            generation: map.generation,
            slots: map.layout.n(),
            tolerance: now.tolerance(),
            capacity_bytes: drives().map(|drive| drive.capacity_bytes).sum(),
            free_bytes: drives().map(|drive| drive.free_bytes).sum(),
            missing_shards: drives().map(|drive| drive.missing_shards).sum(),
            heal: Heal::of(drives(), map.layout.n()),
            layout: map.layout.version(),
            moves: MoveProgress::of(&map),
            nearly_full: nearly_full(&map, of_nodes(&nodes)),
            unstable_versions: drives().map(|drive| drive.unstable).sum(),
            quorum,
            nodes,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

fn of_nodes(nodes: &[NodeView]) -> impl Iterator<Item = (&NodeId, &DriveInfo)> {
    let alive = nodes.iter().filter(|node| node.alive);
    alive.flat_map(|node| node.drives.iter().map(|drive| (&node.id, drive)))
}

/// `joining`: a drive has lost its state, and not all of its slots vote.
fn health(quorum: &Quorum, joining: bool) -> Health {
    if quorum.complete == quorum.partitions && !joining {
        Health::Healthy
    } else if quorum.writable == quorum.partitions {
        Health::Degraded
    } else if quorum.readable == quorum.partitions {
        Health::ReadOnly
    } else {
        Health::Unavailable
    }
}

impl From<NodeStatus> for NodeView {
    fn from(node: NodeStatus) -> Self {
        let (version, drives) = match node.info {
            Some(info) => (info.version, info.drives),
            None => (node.record.version, Vec::new()),
        };
        Self {
            id: node.record.id,
            address: node.record.address,
            zone: node.record.zone,
            alive: node.alive,
            version,
            clock_ahead_ms: node.clock_ahead_ms,
            slots: 0,
            drives,
        }
    }
}

#[cfg(test)]
mod tests {
    use coffer_common::node::DriveHeal;
    use coffer_common::types::{DriveId, Incarnation};

    use super::*;

    #[test]
    fn what_three_slots_owe_to_the_fourth_is_counted_once() {
        let drive = |missing, owed, shards_per_minute| DriveInfo {
            heal: DriveHeal { missing, owed, shards_per_minute, complete: true, ..DriveHeal::default() },
            ..DriveInfo::unknown(DriveId(1), Incarnation(0), String::new(), DriveState::Online)
        };
        let drives = [drive(0, 100, 0), drive(0, 100, 0), drive(0, 99, 0), drive(50, 0, 100)];
        let heal = Heal::of(drives.iter(), 4);
        assert_eq!((heal.missing_shards, heal.owed_registers, heal.complete), (50, 100, true));
        assert_eq!(heal.eta_seconds, Some(30));
        assert_eq!(Heal::of(drives[..3].iter(), 4).eta_seconds, None, "nothing is being rebuilt");
    }
}
