//! How many partitions can be written and read with the drives that answer now, what may fail besides, and what is in the way of
//! stopping a node.
//!
//! Pure but for [`View::of`], which takes down what the gateway knows of the drives. What may be lost is never told from who answers
//! alone: a drive that lacks shards in a partition, or may, is no slot to read from there when something else is lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coffer_common::cluster::{Cluster, ClusterMap};
use coffer_common::layout::{ParitySettings, StorageClass};
use coffer_common::limits::PARTITION_COUNT;
use coffer_common::node::{DriveInfo, Lacking};
use coffer_common::protocol::quorum::Geometry;
use coffer_common::types::{DriveId, NodeId, PartitionId, SlotIndex};
use serde::Serialize;

/// Counts over all partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quorum {
    /// Partitions.
    pub partitions: usize,
    /// Those with enough slots for writes: slots that answer and are not full.
    pub writable: usize,
    /// Those with enough slots for reads, as far as is known: where no more slots answer than objects need, one that lacks shards is none.
    pub readable: usize,
    /// Those of which every object can be read: enough slots are known to lack nothing.
    pub certain: usize,
    /// Those with every slot, none of them full.
    pub complete: usize,
    /// Slots that the worst partition can lose before writes to it stop.
    pub spare_for_writes: usize,
    /// Slots that the worst partition can surely lose before some object of it cannot be read.
    pub spare_for_reads: usize,
}

/// How many slots each thing needs.
#[derive(Clone, Copy, Debug)]
struct Needs {
    n: usize,
    /// Of slots with room, for a write of any storage class: its parity rises when slots are away.
    write: usize,
    /// Of answers, to decide what is there.
    decide: usize,
    /// Of shards, for the widest objects.
    shards: usize,
}

impl Needs {
    fn new(n: u8, data_shards: u8) -> Self {
        let geometry = Geometry::new(n);
        let (n, shards) = (geometry.n(), usize::from(data_shards));
        Self { n, write: geometry.m(), decide: geometry.r0(), shards }
    }
}

/// The slots of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slots {
    /// Those that vote and answer.
    alive: usize,
    /// Of these, those with room.
    with_room: usize,
    /// Of these, those that are not known to lack shards, or whose shards can be had where the slot was before.
    serving: usize,
    /// Of these, those that are known to lack nothing.
    whole: usize,
}

impl Slots {
    fn is_writable(self, needs: Needs) -> bool {
        self.with_room >= needs.write
    }

    /// Slots may lack different objects: only where none can be spared is one of them surely not readable.
    fn is_readable(self, needs: Needs) -> bool {
        let none_to_spare = self.alive == needs.shards;
        self.alive >= needs.decide.max(needs.shards) && !(none_to_spare && self.serving < needs.shards)
    }

    fn is_certain(self, needs: Needs) -> bool {
        self.alive >= needs.decide && self.whole >= needs.shards
    }
}

impl Quorum {
    /// From the slots of all partitions.
    fn count(needs: Needs, partitions: impl Iterator<Item = Slots>) -> Self {
        let mut quorum = Self { spare_for_writes: needs.n, spare_for_reads: needs.n, ..Self::default() };
        for slots in partitions {
            quorum.partitions += 1;
            quorum.writable += usize::from(slots.is_writable(needs));
            quorum.readable += usize::from(slots.is_readable(needs));
            quorum.certain += usize::from(slots.is_certain(needs));
            quorum.complete += usize::from(slots.with_room >= needs.n);
            let for_writes = slots.with_room.saturating_sub(needs.write);
            let answers = slots.alive.saturating_sub(needs.decide);
            let for_reads = answers.min(slots.whole.saturating_sub(needs.shards));
            quorum.spare_for_writes = quorum.spare_for_writes.min(for_writes);
            quorum.spare_for_reads = quorum.spare_for_reads.min(for_reads);
        }
        quorum
    }

    /// Whether every partition can be written, and read as far as is known.
    pub(super) fn all_served(&self) -> bool {
        self.writable == self.partitions && self.readable == self.partitions
    }

    /// Whether every partition can be written, and all of it surely be read.
    pub(super) fn all_certain(&self) -> bool {
        self.all_served() && self.certain == self.partitions
    }
}

/// What is known of a drive.
#[derive(Clone, Debug)]
struct Drive {
    node: NodeId,
    answers: bool,
    with_room: bool,
    /// It has lost its state and does not vote everywhere yet; the map may not know yet in which partitions.
    rejoins: bool,
    lacking: Lacking,
    missing: u64,
}

/// The drives as this gateway sees them, and the slots that they have.
pub(super) struct View {
    map: Arc<ClusterMap>,
    drives: HashMap<DriveId, Drive>,
    data_shards: u8,
}

impl View {
    /// As of now.
    pub(super) fn of(cluster: &Cluster, parity: &ParitySettings) -> Self {
        let map = cluster.map();
        let nodes = cluster.nodes();
        let told = nodes.iter().filter_map(|node| node.info.as_ref()).flat_map(|info| &info.drives);
        let told: HashMap<DriveId, &DriveInfo> = told.map(|drive| (drive.id, drive)).collect();
        let widest = |id: &DriveId| told.get(id).and_then(|drive| drive.most_data_shards);
        let (n, mut drives, mut most_silent) = (map.layout.n(), HashMap::new(), 0);
        for partition in partitions() {
            let mut silent = 0;
            for slot in (0..n).map(SlotIndex) {
                let id = map.drive_of(partition, slot);
                silent += usize::from(widest(&id).is_none());
                for id in [Some(id), map.source_of(partition, slot)].into_iter().flatten() {
                    // Looked at once for each drive, not for each of its thousands of slots: probes come every second.
                    drives
                        .entry(id)
                        .or_insert_with(|| Drive::of(cluster, map.node_of(id), (id, told.get(&id).copied())));
                }
            }
            most_silent = most_silent.max(silent);
        }
        let data_shards = data_shards(parity, (n, most_silent), drives.keys().filter_map(widest));
        Self { map, drives, data_shards }
    }

    /// The data shards of the widest objects that there are, and of those that are written without a storage class.
    pub(super) fn data_shards(&self) -> u8 {
        self.data_shards
    }

    /// With all drives that answer.
    pub(super) fn quorum(&self) -> Quorum {
        Quorum::count(self.needs(), partitions().map(|partition| self.slots(partition)))
    }

    /// Whether enough drives answer of any partition to decide what is in it, whatever they lack.
    pub(super) fn any_decided(&self) -> bool {
        partitions().any(|partition| self.slots(partition).alive >= self.needs().decide)
    }

    /// While a node is down. That is not decided on the word of a drive that has lost its state.
    pub(super) fn quorum_without(&self, node: &NodeId) -> Quorum {
        Quorum::count(self.needs(), partitions().map(|partition| self.slots_without(partition, node)))
    }

    fn needs(&self) -> Needs {
        Needs::new(self.map.layout.n(), self.data_shards)
    }

    fn slots(&self, partition: PartitionId) -> Slots {
        let mut slots = Slots::default();
        for slot in voters(&self.map, partition) {
            let Some(drive) = self.drives.get(&self.map.drive_of(partition, slot)) else { continue };
            let before = match self.map.source_of(partition, slot) {
                Some(source) => Before::At(self.drives.get(&source)),
                None => Before::Nowhere,
            };
            slots.add(drive, before, partition);
        }
        slots
    }

    fn slots_without(&self, partition: PartitionId, node: &NodeId) -> Slots {
        let mut slots = Slots::default();
        for slot in voters(&self.map, partition) {
            let Some(drive) = self.drives.get(&self.map.drive_of(partition, slot)) else { continue };
            if drive.node != *node && !drive.rejoins {
                // What it still reads from the drive before may be on the node that stops.
                let moves = self.map.source_of(partition, slot).is_some();
                slots.add(drive, if moves { Before::At(None) } else { Before::Nowhere }, partition);
            }
        }
        slots
    }

    /// What keeps a node from being stopped: drives of other nodes, in the partitions that could not be written, or not all be read.
    pub(super) fn obstacles(&self, without: &NodeId) -> Vec<Obstacle> {
        let needs = self.needs();
        let mut found: BTreeMap<(NodeId, DriveId, String), usize> = BTreeMap::new();
        for partition in partitions() {
            let slots = self.slots_without(partition, without);
            let (writable, certain) = (slots.is_writable(needs), slots.is_certain(needs));
            if writable && certain {
                continue;
            }
            for slot in (0..self.map.layout.n()).map(SlotIndex) {
                let id = self.map.drive_of(partition, slot);
                let Some(drive) = self.drives.get(&id).filter(|drive| drive.node != *without) else {
                    continue;
                };
                let moves = self.map.source_of(partition, slot).is_some();
                let place = Place { partition, votes: self.map.votes(partition, slot), moves };
                if let Some(reason) = drive.why_not(place, (!writable, !certain)) {
                    *found.entry((drive.node.clone(), id, reason)).or_default() += 1;
                }
            }
        }
        let obstacle = |((node, drive, reason), partitions): ((NodeId, DriveId, _), _)| Obstacle {
            path: self.path(&node, drive),
            node,
            drive,
            reason,
            partitions,
        };
        found.into_iter().map(obstacle).collect()
    }

    fn path(&self, node: &NodeId, id: DriveId) -> String {
        let drive = self.map.nodes.get(node).and_then(|node| node.drives.iter().find(|drive| drive.id == id));
        drive.map(|drive| drive.path.clone()).unwrap_or_default()
    }
}

fn partitions() -> impl Iterator<Item = PartitionId> {
    (0..PARTITION_COUNT).map(PartitionId)
}

fn voters(map: &ClusterMap, partition: PartitionId) -> impl Iterator<Item = SlotIndex> + '_ {
    (0..map.layout.n()).map(SlotIndex).filter(move |slot| map.votes(partition, *slot))
}

/// The most data shards that a version may have, by what drives have `told`: at least those of `STANDARD`. A version is known to more
/// than half of its slots, so that its width is known to some drive as long as fewer slots of its partition are `silent`; else it may be
/// of any class.
fn data_shards(parity: &ParitySettings, (n, silent): (u8, usize), told: impl Iterator<Item = u8>) -> u8 {
    let standard = parity.split(StorageClass::Standard, n).k;
    let reduced = parity.split(StorageClass::ReducedRedundancy, n).k;
    let most = told.fold(standard, u8::max);
    let widest = if silent >= Geometry::new(n).m() { most.max(reduced) } else { most };
    widest.min(n)
}

/// Where a slot was before its drive has it, while it moves.
#[derive(Clone, Copy)]
enum Before<'a> {
    /// It does not move.
    Nowhere,
    /// At this drive, if anything is known of it.
    At(Option<&'a Drive>),
}

/// A slot, as the map has it.
#[derive(Clone, Copy)]
struct Place {
    partition: PartitionId,
    votes: bool,
    moves: bool,
}

impl Slots {
    /// Counts a slot that votes: its drive, and the one where it was before. A drive that has just taken a slot may not have told yet what
    /// it lacks of it.
    fn add(&mut self, drive: &Drive, before: Before<'_>, partition: PartitionId) {
        if !drive.answers {
            return;
        }
        self.alive += 1;
        self.with_room += usize::from(drive.with_room);
        let (moves, elsewhere) = match before {
            Before::Nowhere => (false, false),
            Before::At(drive) => {
                (true, drive.is_some_and(|drive| drive.answers && !drive.lacking.surely(partition)))
            }
        };
        self.serving += usize::from(elsewhere || !drive.lacking.surely(partition));
        self.whole += usize::from(!moves && !drive.rejoins && !drive.lacking.maybe(partition));
    }
}

impl Drive {
    fn of(cluster: &Cluster, node: NodeId, (id, told): (DriveId, Option<&DriveInfo>)) -> Self {
        Self {
            answers: cluster.alive(&node, &id),
            with_room: cluster.has_room(&node, &id),
            rejoins: told.is_some_and(|drive| drive.incarnation.0 > 0 && drive.join.waiting > 0),
            lacking: told.map(|drive| drive.lacking.clone()).unwrap_or_default(),
            missing: told.map_or(0, |drive| drive.heal.missing),
            node,
        }
    }

    /// Why its slot in a partition does not count; `None` if it does. What it lacks counts where reads are in question, and that it is
    /// full where writes are.
    fn why_not(&self, place: Place, (for_writes, for_reads): (bool, bool)) -> Option<String> {
        if !place.votes || self.rejoins {
            Some("does not vote yet".to_owned())
        } else if !self.answers {
            Some("does not answer".to_owned())
        } else if for_writes && !self.with_room {
            Some("is full".to_owned())
        } else if for_reads && self.lacking == Lacking::Unknown {
            Some("does not know yet all that it lacks".to_owned())
        } else if for_reads && self.lacking.surely(place.partition) {
            Some(format!("still lacks {} shards", self.missing.max(1)))
        } else if for_reads && place.moves {
            Some("is still taking its slots over".to_owned())
        } else {
            None
        }
    }
}

/// A drive whose slots do not count, and which partitions need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Obstacle {
    /// The node that has the drive.
    pub node: NodeId,
    /// The drive.
    pub drive: DriveId,
    /// Where it is mounted; empty if no node has registered it.
    pub path: String,
    /// For people: why its slots do not count.
    pub reason: String,
    /// How many partitions have a slot there and too few others.
    pub partitions: usize,
}

#[cfg(test)]
mod tests {
    use coffer_common::node::Partitions;

    use super::*;

    fn slots(alive: usize, with_room: usize, whole: usize) -> Slots {
        Slots { alive, with_room, serving: whole, whole }
    }

    fn count(n: u8, data_shards: u8, partitions: &[Slots]) -> Quorum {
        Quorum::count(Needs::new(n, data_shards), partitions.iter().copied())
    }

    #[test]
    fn the_worst_partition_decides_what_may_be_lost() {
        let quorum = count(4, 2, &[slots(4, 4, 4), slots(3, 3, 3), slots(2, 2, 2), slots(1, 1, 1)]);
        let expected = Quorum {
            partitions: 4,
            writable: 2,
            readable: 3,
            certain: 3,
            complete: 1,
            spare_for_writes: 0,
            spare_for_reads: 0,
        };
        assert_eq!(quorum, expected);
        let quorum = count(8, 4, &[slots(8, 8, 8), slots(8, 7, 8)]);
        assert_eq!((quorum.spare_for_writes, quorum.spare_for_reads), (2, 4));
        assert!(quorum.all_certain());
        assert!(count(1, 1, &[slots(1, 1, 1)]).all_certain());
        let full = count(4, 2, &[slots(4, 2, 4)]);
        assert_eq!((full.readable, full.writable, full.complete, full.spare_for_reads), (1, 0, 0, 2));
    }

    #[test]
    fn a_class_with_less_parity_can_lose_less() {
        let all = count(12, 8, &[slots(12, 12, 12)]);
        assert_eq!((all.spare_for_writes, all.spare_for_reads), (5, 4), "EC:4 on twelve slots");
        let five_down = count(12, 8, &[slots(7, 7, 7)]);
        assert_eq!((five_down.writable, five_down.readable), (1, 0), "objects of 8 data shards have 7 left");
    }

    #[test]
    fn a_slot_that_lacks_shards_is_none_to_read_from_when_another_is_lost() {
        let filling = count(3, 2, &[slots(3, 3, 2)]);
        assert_eq!((filling.readable, filling.certain, filling.spare_for_reads), (1, 1, 0));
        let different = count(4, 2, &[slots(3, 3, 1)]);
        assert_eq!((different.readable, different.certain), (1, 0), "they may lack different objects");
        let and_one_down = count(3, 2, &[slots(2, 2, 1)]);
        assert_eq!((and_one_down.writable, and_one_down.readable, and_one_down.certain), (1, 0, 0));
        assert!(!and_one_down.all_certain());
        // Not known to lack anything, nor to lack nothing.
        let unknown = count(3, 2, &[Slots { serving: 3, ..slots(3, 3, 0) }]);
        assert_eq!((unknown.readable, unknown.certain, unknown.spare_for_reads), (1, 0, 0));
        assert!(unknown.all_served() && !unknown.all_certain());
    }

    fn drive(lacking: Lacking) -> Drive {
        let node = NodeId("node".to_owned());
        Drive { node, answers: true, with_room: true, rejoins: false, lacking, missing: 7 }
    }

    #[test]
    fn a_slot_counts_for_what_its_drive_knows_to_have() {
        let here = PartitionId(5);
        let lacks = |at| Lacking::In(Partitions::from_iter([PartitionId(at)]));
        let counted = |drive: Drive, source: Option<Drive>| {
            let mut slots = Slots::default();
            let before = source.as_ref().map_or(Before::Nowhere, |source| Before::At(Some(source)));
            slots.add(&drive, before, here);
            (slots.alive, slots.with_room, slots.serving, slots.whole)
        };
        assert_eq!(counted(drive(lacks(6)), None), (1, 1, 1, 1), "it lacks something elsewhere");
        assert_eq!(counted(drive(lacks(5)), None), (1, 1, 0, 0));
        assert_eq!(counted(drive(Lacking::Unknown), None), (1, 1, 1, 0));
        let told_before = counted(drive(Lacking::nothing()), Some(drive(lacks(5))));
        assert_eq!(
            told_before,
            (1, 1, 1, 0),
            "it may not have told yet what it lacks of a slot that it has just taken"
        );
        let moving = |source: Drive| counted(drive(lacks(5)), Some(source));
        assert_eq!(moving(drive(Lacking::nothing())), (1, 1, 1, 0), "the drive before serves what it lacks");
        assert_eq!(moving(Drive { answers: false, ..drive(Lacking::nothing()) }), (1, 1, 0, 0));
        assert_eq!(counted(Drive { rejoins: true, ..drive(Lacking::nothing()) }, None), (1, 1, 1, 0));
        assert_eq!(counted(Drive { answers: false, ..drive(Lacking::nothing()) }, None), (0, 0, 0, 0));
    }

    #[test]
    fn what_is_in_the_way_is_said_where_it_matters() {
        let lacks = drive(Lacking::In(Partitions::from_iter([PartitionId(5)])));
        let place = |at| Place { partition: PartitionId(at), votes: true, moves: false };
        let why = |drive: &Drive, at, question| drive.why_not(place(at), question);
        let (writes, reads) = ((true, false), (false, true));
        assert_eq!(why(&lacks, 5, reads).as_deref(), Some("still lacks 7 shards"));
        assert_eq!((why(&lacks, 6, reads), why(&lacks, 5, writes)), (None, None));
        assert_eq!(why(&Drive { with_room: false, ..lacks.clone() }, 6, writes).as_deref(), Some("is full"));
        let told = why(&drive(Lacking::Unknown), 6, reads);
        assert_eq!(told.as_deref(), Some("does not know yet all that it lacks"));
        let moving =
            |drive: &Drive, at, question| drive.why_not(Place { moves: true, ..place(at) }, question);
        assert_eq!(moving(&lacks, 5, reads).as_deref(), Some("still lacks 7 shards"));
        assert_eq!(moving(&lacks, 6, reads).as_deref(), Some("is still taking its slots over"));
        assert_eq!(moving(&lacks, 6, writes), None);
    }

    #[test]
    fn whatever_keeps_a_slot_from_being_whole_is_a_reason() {
        let here = PartitionId(5);
        let lacks = |at| Lacking::In(Partitions::from_iter([PartitionId(at)]));
        for lacking in [lacks(5), lacks(6), Lacking::nothing(), Lacking::Unknown] {
            for (answers, rejoins, moves) in (0..8).map(|bits| (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0)) {
                let drive = Drive { answers, rejoins, ..drive(lacking.clone()) };
                let mut slots = Slots::default();
                slots.add(&drive, if moves { Before::At(None) } else { Before::Nowhere }, here);
                let reason = drive.why_not(Place { partition: here, votes: true, moves }, (true, true));
                assert_eq!(slots.whole == 0, reason.is_some(), "{drive:?} moves: {moves}: {reason:?}");
            }
        }
    }

    #[test]
    fn the_widest_objects_count_and_any_class_may_be_there_while_most_drives_are_silent() {
        let (defaults, n) = (ParitySettings::default(), 12);
        let widest = |parity: &ParitySettings, told: &[Option<u8>]| {
            let silent = told.iter().filter(|told| told.is_none()).count();
            data_shards(parity, (n, silent), told.iter().copied().flatten())
        };
        assert_eq!(widest(&defaults, &[Some(0); 12]), 6, "what is written next counts, too");
        assert_eq!(widest(&defaults, &[vec![Some(6); 11], vec![Some(10)]].concat()), 10);
        assert_eq!(widest(&defaults, &[vec![Some(6); 6], vec![None; 6]].concat()), 6);
        assert_eq!(widest(&defaults, &[vec![Some(6); 5], vec![None; 7]].concat()), 10);
        assert_eq!(widest(&ParitySettings { standard: Some(4), reduced: None }, &[Some(6); 12]), 8);
    }
}
