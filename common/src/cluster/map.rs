//! The map: which slot of which partition is where. Pure; made from coordinator entries or from their copy on drives.

use std::collections::{BTreeMap, HashMap};

use super::record::{
    ClusterRecord, LAYOUT_KEY, LAYOUT_TARGET_KEY, NODES_PREFIX, NodeRecord, PARTITIONS_PREFIX,
    parse_partition_key,
};
use crate::coordination::{CLUSTER_KEY, Entry};
use crate::layout::{Layout, LayoutDrive, PartitionRecord, SlotRecord, SlotRole};
use crate::limits::PARTITION_COUNT;
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
    /// While the slot moves: who still serves the shards which its drive lacks.
    pub source: Option<SlotSource>,
}

/// A drive that a slot has moved away from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSource {
    /// The drive.
    pub drive: DriveId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The node that has it.
    pub node: NodeId,
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
    /// The table of drives and slots. A partition's record overrides it where a slot has moved: who holds a slot is told by
    /// [`ClusterMap::drive_of`] and its like, never by the table alone.
    pub layout: Layout,
    /// Where slots are on their way to, if they are.
    pub target: Option<Layout>,
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
        let (mut record, mut table, mut target) = (None, None, None);
        let (mut nodes, mut partitions) = (BTreeMap::new(), BTreeMap::new());
        for entry in entries {
            let unreadable = |reason: String| MapError { key: entry.key.clone(), reason };
            if entry.key == CLUSTER_KEY {
                record = Some(json::<ClusterRecord>(entry)?);
            } else if entry.key == LAYOUT_KEY {
                table = Some(layout(entry)?);
            } else if entry.key == LAYOUT_TARGET_KEY {
                target = Some(layout(entry)?);
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
        let (Some(record), Some(layout)) = (record, table) else { return Ok(None) };
        if target.as_ref().is_some_and(|target| target.n() != layout.n()) {
            let reason = "another stripe width than the layout's".to_owned();
            return Err(MapError { key: LAYOUT_TARGET_KEY.to_owned(), reason });
        }
        let drives = drives_of(&nodes);
        let (cluster, generation) = (record.id, record.generation);
        Ok(Some(Self { cluster, generation, record, layout, target, nodes, partitions, drives }))
    }

    /// The same map with these tables and records.
    pub(super) fn with_tables<'a>(
        &self,
        tables: impl Iterator<Item = &'a Entry>,
        partitions: BTreeMap<PartitionId, PartitionRecord>,
    ) -> Result<Self, MapError> {
        let mut map = Self { target: None, partitions, ..self.clone() };
        for entry in tables {
            match entry.key.as_str() {
                LAYOUT_KEY => map.layout = layout(entry)?,
                LAYOUT_TARGET_KEY => map.target = Some(layout(entry)?),
                _ => {}
            }
        }
        Ok(map)
    }

    /// A partition's record.
    pub fn record(&self, partition: PartitionId) -> PartitionRecord {
        let record = self.partitions.get(&partition).cloned();
        record.unwrap_or_else(|| PartitionRecord::new(self.layout.n()))
    }

    fn slot_record(&self, partition: PartitionId, slot: SlotIndex) -> SlotRecord {
        let record = self.partitions.get(&partition);
        record.and_then(|record| record.slots.get(usize::from(slot.0))).copied().unwrap_or_default()
    }

    /// The drive that holds a slot now.
    ///
    /// # Panics
    /// If there is no such partition or slot.
    pub fn drive_of(&self, partition: PartitionId, slot: SlotIndex) -> DriveId {
        self.slot_record(partition, slot).drive.unwrap_or_else(|| self.table_drive(partition, slot))
    }

    fn table_drive(&self, partition: PartitionId, slot: SlotIndex) -> DriveId {
        let place = usize::from(self.layout.slots_of(partition)[usize::from(slot.0)]);
        self.layout.drives()[place].id
    }

    /// The drive that holds a slot by a record of its partition that is newer than the map's.
    ///
    /// # Panics
    /// If there is no such partition or slot.
    pub fn holder(&self, record: &PartitionRecord, partition: PartitionId, slot: SlotIndex) -> DriveId {
        let drive = record.slots.get(usize::from(slot.0)).and_then(|slot| slot.drive);
        drive.unwrap_or_else(|| self.table_drive(partition, slot))
    }

    /// The slot that a drive holds in a partition now, if any.
    pub fn slot_on(&self, partition: PartitionId, drive: DriveId) -> Option<SlotIndex> {
        (0..self.layout.n()).map(SlotIndex).find(|slot| self.drive_of(partition, *slot) == drive)
    }

    /// All slots that a drive holds now, by partition.
    pub fn slots_on(&self, drive: DriveId) -> Vec<(PartitionId, SlotIndex)> {
        let partitions = (0..PARTITION_COUNT).map(PartitionId);
        partitions.filter_map(|p| self.slot_on(p, drive).map(|slot| (p, slot))).collect()
    }

    /// The table as it would be with every slot where it is now: what a new layout is made from, and judged by.
    pub fn present_layout(&self) -> Layout {
        let moved = self.partitions.iter().flat_map(|(partition, record)| {
            let slots = record.slots.iter().zip(0_u8..);
            slots.filter_map(|(slot, index)| Some((*partition, SlotIndex(index), slot.drive?)))
        });
        self.layout.with_slots(moved, |drive| self.layout_drive(drive))
    }

    /// How many slots are not yet where the target has them, and how many are on their way or wait for their shards.
    pub fn moves(&self) -> (usize, usize) {
        let under_way =
            |record: &PartitionRecord| record.slots.iter().filter(|slot| slot.source.is_some()).count();
        let left = self.target.as_ref().map_or(0, |target| target.moves_from(&self.present_layout()).len());
        (left, self.partitions.values().map(under_way).sum())
    }

    /// A drive as a layout sees it, whether or not a table has it.
    fn layout_drive(&self, id: DriveId) -> LayoutDrive {
        let tables = [Some(&self.layout), self.target.as_ref()];
        let planned = tables.into_iter().flatten().flat_map(Layout::drives).find(|drive| drive.id == id);
        planned.cloned().unwrap_or_else(|| {
            let of_node = |node: &NodeRecord| {
                let drive = node.drives.iter().find(|drive| drive.id == id)?;
                Some((node.zone.clone(), drive.capacity_bytes))
            };
            let node = self.locate(id).map(|(node, _)| node.clone()).unwrap_or_else(|| NodeId(String::new()));
            let (zone, capacity_bytes) = self.nodes.get(&node).and_then(of_node).unwrap_or_default();
            LayoutDrive { id, node, zone, capacity_bytes }
        })
    }

    /// The slots of a partition, by slot index.
    pub fn targets(&self, partition: PartitionId) -> Vec<SlotTarget> {
        let epoch = self.epochs(partition).epoch;
        let slots = (0..self.layout.n()).map(SlotIndex);
        slots
            .map(|slot| {
                let state = self.slot_record(partition, slot);
                let drive = self.drive_of(partition, slot);
                let (node, incarnation) = self.whereabouts(drive);
                let cluster = self.cluster;
                SlotTarget {
                    slot,
                    address: SlotAddress { cluster, drive, incarnation, partition, slot, epoch },
                    node,
                    voter: state.role == SlotRole::Voter,
                    source: state.source.map(|source| self.source(source)),
                }
            })
            .collect()
    }

    fn whereabouts(&self, drive: DriveId) -> (NodeId, Incarnation) {
        let located = self.locate(drive).map(|(node, incarnation)| (node.clone(), incarnation));
        located.unwrap_or_else(|| (self.layout_drive(drive).node, Incarnation(0)))
    }

    fn source(&self, drive: DriveId) -> SlotSource {
        let (node, incarnation) = self.whereabouts(drive);
        SlotSource { drive, incarnation, node }
    }

    /// The epochs that requests to a partition name.
    pub fn epochs(&self, partition: PartitionId) -> MapEpochs {
        self.partitions.get(&partition).map_or_else(MapEpochs::default, |record| MapEpochs {
            epoch: record.epoch,
            purge: Epoch(record.purge_epoch),
            sweep: Epoch(record.sweep_epoch),
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

fn layout(entry: &Entry) -> Result<Layout, MapError> {
    let unreadable = |reason: String| MapError { key: entry.key.clone(), reason };
    Layout::decode(&entry.value).map_err(|error| unreadable(error.to_string()))
}

fn json<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, MapError> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| MapError { key: entry.key.clone(), reason: error.to_string() })
}
