//! The map: which slot of which partition is where. Pure; made from coordinator entries or from their copy on drives.

use std::collections::{BTreeMap, HashMap};

use super::record::{
    ClusterRecord, LAYOUT_KEY, NODES_PREFIX, NodeRecord, PARTITIONS_PREFIX, parse_partition_key,
};
use crate::coordination::{CLUSTER_KEY, Entry};
use crate::layout::{Layout, PartitionRecord, SlotRole};
use crate::node::SlotAddress;
use crate::protocol::action::MapEpochs;
use crate::types::{ClusterId, DriveId, Epoch, Incarnation, NodeId, PartitionId, SlotIndex};

/// The coordinator's entries make no map.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{key}` in the coordinator is not readable: {reason}")]
pub struct MapError {
    key: String,
    reason: String,
}

/// A slot and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTarget {
    /// The slot's place in its partition.
    pub slot: SlotIndex,
    /// Its complete name.
    pub address: SlotAddress,
    /// The node that has its drive.
    pub node: NodeId,
    /// Whether its answers count.
    pub voter: bool,
    /// While the slot moves: the drive that still serves the shards which the new one lacks.
    pub source: Option<DriveId>,
}

/// One consistent view of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its generation.
    pub generation: u32,
    /// The cluster's own record.
    pub record: ClusterRecord,
    /// Drives and slots.
    pub layout: Layout,
    /// The nodes by id.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Partitions that differ from new ones.
    pub partitions: BTreeMap<PartitionId, PartitionRecord>,
    /// Where each drive is now and its incarnation, by the nodes' records: a drive may have moved to another node.
    drives: HashMap<DriveId, (NodeId, Incarnation)>,
}

impl ClusterMap {
    /// Makes a map; `None` while the cluster has no layout yet.
    ///
    /// # Errors
    /// [`MapError`] if an entry cannot be decoded.
    pub fn from_entries<'a>(entries: impl Iterator<Item = &'a Entry>) -> Result<Option<Self>, MapError> {
        let (mut record, mut layout) = (None, None);
        let (mut nodes, mut partitions) = (BTreeMap::new(), BTreeMap::new());
        for entry in entries {
            let unreadable = |reason: String| MapError { key: entry.key.clone(), reason };
            if entry.key == CLUSTER_KEY {
                record = Some(json::<ClusterRecord>(entry)?);
            } else if entry.key == LAYOUT_KEY {
                layout = Some(Layout::decode(&entry.value).map_err(|error| unreadable(error.to_string()))?);
            } else if entry.key.starts_with(NODES_PREFIX) {
                let node = json::<NodeRecord>(entry)?;
                nodes.insert(node.id.clone(), node);
            } else if entry.key.starts_with(PARTITIONS_PREFIX) {
                let partition = parse_partition_key(&entry.key)
                    .ok_or_else(|| unreadable("not a partition".to_owned()))?;
                let record =
                    PartitionRecord::decode(&entry.value).map_err(|error| unreadable(error.to_string()))?;
                partitions.insert(partition, record);
            }
        }
        let (Some(record), Some(layout)) = (record, layout) else { return Ok(None) };
        let drives = drives_of(&nodes);
        let (cluster, generation) = (record.id, record.generation);
        Ok(Some(Self { cluster, generation, record, layout, nodes, partitions, drives }))
    }

    /// The slots of a partition, by slot index.
    pub fn targets(&self, partition: PartitionId) -> Vec<SlotTarget> {
        let record = self.partitions.get(&partition);
        let epoch = record.map_or(Epoch(0), |record| record.epoch);
        let drives = self.layout.drives_of(partition).enumerate();
        drives
            .map(|(index, drive)| {
                let slot = SlotIndex(index as u8);
                let (node, incarnation) = self.locate(drive.id).unwrap_or((&drive.node, Incarnation(0)));
                let state = record.and_then(|record| record.slots.get(index)).copied().unwrap_or_default();
                SlotTarget {
                    slot,
                    address: SlotAddress {
                        cluster: self.cluster,
                        drive: drive.id,
                        incarnation,
                        partition,
                        slot,
                        epoch,
                    },
                    node: node.clone(),
                    voter: state.role == SlotRole::Voter,
                    source: state.source,
                }
            })
            .collect()
    }

    /// The epochs that requests to a partition name.
    pub fn epochs(&self, partition: PartitionId) -> MapEpochs {
        self.partitions.get(&partition).map_or_else(MapEpochs::default, |record| MapEpochs {
            epoch: record.epoch,
            purge: Epoch(record.purge_epoch),
        })
    }

    /// Keeps what an older map knew of partitions at higher epochs: the nodes' copies may lag behind it.
    pub(super) fn keep_higher_epochs(&mut self, older: &Self) {
        for (partition, record) in &older.partitions {
            if self.epochs(*partition).epoch < record.epoch {
                self.partitions.insert(*partition, record.clone());
            }
        }
    }

    /// The node that has a drive now, and the drive's incarnation.
    pub fn locate(&self, drive: DriveId) -> Option<(&NodeId, Incarnation)> {
        self.drives.get(&drive).map(|(node, incarnation)| (node, *incarnation))
    }
}

/// A drive that two nodes claim (it moved, and the old node's record is still there) belongs to the one that saw it start
/// later; one that was replaced is the newest incarnation.
fn drives_of(nodes: &BTreeMap<NodeId, NodeRecord>) -> HashMap<DriveId, (NodeId, Incarnation)> {
    let mut latest: HashMap<DriveId, (Incarnation, u64, &NodeId)> = HashMap::new();
    for (id, node) in nodes {
        for drive in &node.drives {
            let claim = (drive.incarnation, drive.boot_count, id);
            let known = latest.entry(drive.id).or_insert(claim);
            if (known.0, known.1) < (claim.0, claim.1) {
                *known = claim;
            }
        }
    }
    latest.into_iter().map(|(drive, (incarnation, _, node))| (drive, (node.clone(), incarnation))).collect()
}

fn json<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, MapError> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| MapError { key: entry.key.clone(), reason: error.to_string() })
}
