//! The map: which slot of which partition is where. Pure; made from coordinator entries or from their copy on drives.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::record::{
    ClusterRecord, LAYOUT_KEY, LAYOUT_MOVES_KEY, LAYOUT_REMOVED_KEY, LAYOUT_TARGET_KEY, MovesBegun,
    NODES_PREFIX, NodeRecord, PARTITIONS_PREFIX, parse_partition_key,
};
use bytes::Bytes;

use crate::coordination::{CLUSTER_KEY, Entry};
use crate::layout::{DecodeLayoutError, Layout, LayoutDrive, PartitionRecord, SlotRecord, SlotRole};
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

/// The records of the partitions that differ from new ones. A copy shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records(Box<[Option<Arc<PartitionRecord>>]>);

impl Default for Records {
    fn default() -> Self {
        Self(vec![None; usize::from(PARTITION_COUNT)].into())
    }
}

impl Records {
    /// A partition's record; none if it is as new.
    pub fn get(&self, partition: PartitionId) -> Option<&Arc<PartitionRecord>> {
        self.0.get(usize::from(partition.0))?.as_ref()
    }

    /// Puts a record in place.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn insert(&mut self, partition: PartitionId, record: Arc<PartitionRecord>) {
        self.0[usize::from(partition.0)] = Some(record);
    }

    /// The records, in the order of their partitions.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &Arc<PartitionRecord>)> {
        let records = self.0.iter().zip(0_u16..);
        records.filter_map(|(record, partition)| Some((PartitionId(partition), record.as_ref()?)))
    }
}

impl FromIterator<(PartitionId, PartitionRecord)> for Records {
    fn from_iter<T: IntoIterator<Item = (PartitionId, PartitionRecord)>>(records: T) -> Self {
        let mut all = Self::default();
        records.into_iter().for_each(|(partition, record)| all.insert(partition, Arc::new(record)));
        all
    }
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
    /// What the moves there began with; `None` if that is not known.
    pub(super) begun: Option<MovesBegun>,
    /// Drives that were taken out on purpose and not taken in since.
    pub(super) removed: BTreeSet<DriveId>,
    /// The nodes by id.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Partitions that differ from new ones.
    pub partitions: Records,
    /// Where each drive is now and its incarnation, by the nodes' records: a drive may have moved to another node.
    drives: HashMap<DriveId, (NodeId, Incarnation)>,
}

impl ClusterMap {
    /// Makes a map; `None` while the cluster has no layout yet.
    ///
    /// # Errors
    /// [`MapError`] if an entry cannot be decoded.
    pub fn from_entries<'a>(entries: impl Iterator<Item = &'a Entry>) -> Result<Option<Self>, MapError> {
        Self::decode(entries, &mut Decoded::default())
    }

    /// [`Self::from_entries`], by what was decoded before where an entry has not changed.
    pub(super) fn decode<'a>(
        entries: impl Iterator<Item = &'a Entry>,
        decoded: &mut Decoded,
    ) -> Result<Option<Self>, MapError> {
        let (mut record, mut table, mut target, mut begun) = (None, None, None, None);
        let (mut nodes, mut partitions, mut removed) = (BTreeMap::new(), Records::default(), BTreeSet::new());
        for entry in entries {
            if entry.key == CLUSTER_KEY {
                record = Some(json::<ClusterRecord>(entry)?);
            } else if entry.key == LAYOUT_KEY {
                table = Some(decoded.table.get(entry, layout)?);
            } else if entry.key == LAYOUT_TARGET_KEY {
                target = Some(decoded.target.get(entry, layout)?);
            } else if entry.key == LAYOUT_MOVES_KEY {
                // Only for people: a map does without it.
                begun = json::<MovesBegun>(entry).ok();
            } else if entry.key == LAYOUT_REMOVED_KEY {
                removed = json::<BTreeSet<DriveId>>(entry).unwrap_or_default();
            } else if entry.key.starts_with(NODES_PREFIX) {
                let node = json::<NodeRecord>(entry)?;
                nodes.insert(node.id.clone(), node);
            } else if entry.key.starts_with(PARTITIONS_PREFIX) {
                let partition = partition_of(entry)?;
                let known = &mut decoded.partitions[usize::from(partition.0)];
                let record = known.get(entry, partition_record)?;
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
        Ok(Some(Self {
            cluster,
            generation,
            record,
            layout,
            target,
            begun,
            removed,
            nodes,
            partitions,
            drives,
        }))
    }

    /// Takes over records of partitions that have changed.
    ///
    /// # Errors
    /// [`MapError`] if one cannot be decoded.
    pub(super) fn update<'a>(&mut self, records: impl Iterator<Item = &'a Entry>) -> Result<(), MapError> {
        for entry in records {
            self.partitions.insert(partition_of(entry)?, partition_record(entry)?);
        }
        Ok(())
    }

    /// The same map with these tables and records.
    pub(super) fn with_tables<'a>(
        &self,
        tables: impl Iterator<Item = &'a Entry>,
        partitions: Records,
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
        let record = self.partitions.get(partition);
        record.map_or_else(|| PartitionRecord::new(self.layout.n()), |record| PartitionRecord::clone(record))
    }

    fn slot_record(&self, partition: PartitionId, slot: SlotIndex) -> SlotRecord {
        let record = self.partitions.get(partition);
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
        self.slot_at(partition, drive, self.place_of(drive))
    }

    /// All slots that a drive holds now, by partition.
    pub fn slots_on(&self, drive: DriveId) -> Vec<(PartitionId, SlotIndex)> {
        let place = self.place_of(drive);
        let partitions = (0..PARTITION_COUNT).map(PartitionId);
        partitions.filter_map(|p| self.slot_at(p, drive, place).map(|slot| (p, slot))).collect()
    }

    /// A drive's place in the table.
    fn place_of(&self, drive: DriveId) -> Option<usize> {
        self.layout.drives().iter().position(|placed| placed.id == drive)
    }

    fn slot_at(&self, partition: PartitionId, drive: DriveId, place: Option<usize>) -> Option<SlotIndex> {
        let record = self.partitions.get(partition);
        let moved = |slot: usize| record.and_then(|record| record.slots.get(slot)?.drive);
        let mut places = self.layout.slots_of(partition).iter().enumerate();
        let held = places.position(|(slot, at)| match moved(slot) {
            Some(moved) => moved == drive,
            None => Some(usize::from(*at)) == place,
        });
        held.map(|slot| SlotIndex(slot as u8))
    }

    /// The table as it would be with every slot where it is now: what a new layout is made from, and judged by.
    pub fn present_layout(&self) -> Layout {
        let moved = self.partitions.iter().flat_map(|(partition, record)| {
            let slots = record.slots.iter().zip(0_u8..);
            slots.filter_map(move |(slot, index)| Some((partition, SlotIndex(index), slot.drive?)))
        });
        self.layout.with_slots(moved, |drive| self.layout_drive(drive))
    }

    /// How many slots are not yet where the target has them, and how many are on their way or wait for their shards.
    pub fn moves(&self) -> (usize, usize) {
        let under_way =
            |record: &Arc<PartitionRecord>| record.slots.iter().filter(|slot| slot.source.is_some()).count();
        let left = self.target.as_ref().map_or(0, |target| target.moves_from(&self.present_layout()).len());
        (left, self.partitions.iter().map(|(_, record)| under_way(record)).sum())
    }

    /// How many of the slots that each drive has left are still copied from it.
    pub fn copied_from(&self) -> HashMap<DriveId, u32> {
        let mut slots: HashMap<DriveId, u32> = HashMap::new();
        let records = self.partitions.iter().flat_map(|(_, record)| &record.slots);
        for source in records.filter_map(|slot| slot.source) {
            *slots.entry(source).or_default() += 1;
        }
        slots
    }

    /// What the moves that are under way began with; `None` if there are none, or an older version began them.
    pub fn moves_begun(&self) -> Option<MovesBegun> {
        let version = self.target.as_ref()?.version();
        self.begun.filter(|begun| begun.version == version)
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

    /// Whether the slot has a vote.
    pub fn votes(&self, partition: PartitionId, slot: SlotIndex) -> bool {
        self.slot_record(partition, slot).role == SlotRole::Voter
    }

    /// While the slot moves: the drive that serves the shards which its own lacks.
    pub fn source_of(&self, partition: PartitionId, slot: SlotIndex) -> Option<DriveId> {
        self.slot_record(partition, slot).source
    }

    /// The node that has the drive, or is to have it.
    pub fn node_of(&self, drive: DriveId) -> NodeId {
        self.whereabouts(drive).0
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
        self.partitions.get(partition).map_or_else(MapEpochs::default, |record| MapEpochs {
            epoch: record.epoch,
            purge: Epoch(record.purge_epoch),
            sweep: Epoch(record.sweep_epoch),
        })
    }

    /// Keeps what an older map knew of partitions at higher epochs: the nodes' copies may lag behind it.
    pub(super) fn keep_higher_epochs(&mut self, older: &Self) {
        for (partition, record) in older.partitions.iter() {
            let known = self.partitions.get(partition);
            if !known.is_some_and(|known| Arc::ptr_eq(known, record) || known.epoch >= record.epoch) {
                self.partitions.insert(partition, Arc::clone(record));
            }
        }
    }

    /// The node that has a drive now, and the drive's incarnation.
    pub fn locate(&self, drive: DriveId) -> Option<(&NodeId, Incarnation)> {
        self.drives.get(&drive).map(|(node, incarnation)| (node, *incarnation))
    }
}

/// An entry's bytes and what they mean.
#[derive(Debug)]
struct Known<T>(Option<(Bytes, T)>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone> Known<T> {
    fn get(
        &mut self,
        entry: &Entry,
        decode: impl FnOnce(&Entry) -> Result<T, MapError>,
    ) -> Result<T, MapError> {
        if let Some((value, known)) = &self.0
            && *value == entry.value
        {
            return Ok(known.clone());
        }
        let meaning = decode(entry)?;
        self.0 = Some((entry.value.clone(), meaning.clone()));
        Ok(meaning)
    }
}

/// What entries meant when they were decoded last: from one map to the next few of thousands change. Kept by their bytes,
/// not by their revisions, which repeat after the coordinator was restored.
#[derive(Debug)]
pub(super) struct Decoded {
    table: Known<Layout>,
    target: Known<Layout>,
    partitions: Vec<Known<Arc<PartitionRecord>>>,
}

impl Default for Decoded {
    fn default() -> Self {
        let partitions = (0..PARTITION_COUNT).map(|_| Known::default()).collect();
        Self { table: Known::default(), target: Known::default(), partitions }
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

fn partition_of(entry: &Entry) -> Result<PartitionId, MapError> {
    let partition = parse_partition_key(&entry.key).filter(|partition| partition.0 < PARTITION_COUNT);
    partition.ok_or_else(|| MapError { key: entry.key.clone(), reason: "not a partition".to_owned() })
}

fn partition_record(entry: &Entry) -> Result<Arc<PartitionRecord>, MapError> {
    let unreadable =
        |error: DecodeLayoutError| MapError { key: entry.key.clone(), reason: error.to_string() };
    PartitionRecord::decode(&entry.value).map(Arc::new).map_err(unreadable)
}

fn layout(entry: &Entry) -> Result<Layout, MapError> {
    let unreadable = |reason: String| MapError { key: entry.key.clone(), reason };
    Layout::decode(&entry.value).map_err(|error| unreadable(error.to_string()))
}

fn json<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, MapError> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| MapError { key: entry.key.clone(), reason: error.to_string() })
}
