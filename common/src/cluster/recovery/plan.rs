//! The state that follows from what drives tell. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use serde::Deserialize;

use super::moved::{self, moved_since};
use super::report::{BucketReport, CopyReport, DriveReport, PartitionReport};
use crate::cluster::map::ClusterMap;
use crate::cluster::record::{
    ClusterRecord, LAYOUT_KEY, NodeRecord, PARTITIONS_PREFIX, node_key, partition_key,
};
use crate::cluster::snapshot::{decode_entries, taken_at};
use crate::coordination::{CLUSTER_KEY, Entry};
use crate::layout::{PartitionRecord, SlotMove};
use crate::limits::PARTITION_COUNT;
use crate::node::SnapshotKind;
use crate::protocol::quorum::Geometry;
use crate::time::UnixMillis;
use crate::types::{BucketId, BucketName, DriveId, Epoch, Incarnation, NodeId, PartitionId, SlotIndex};

/// Where the gateways keep the records of buckets.
const BUCKETS_PREFIX: &str = "buckets/";
/// Epochs of a generation: every one of the next is above them.
const EPOCH_BITS: u32 = 32;
/// The last generation that has room for revisions of its own.
const MAX_GENERATION: u32 = u16::MAX as u32;

/// There is no state to rebuild, or not enough is known to rebuild it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecoveryRefusal {
    /// Nothing was given.
    #[error("no drive was read: run `coffer recover export` on every node, and give all of its output")]
    NoDrives,
    /// Two clusters.
    #[error("`{0}` is a drive of another cluster than `{1}`: give the drives of one cluster only")]
    TwoClusters(String, String),
    /// No copy.
    #[error("no drive that was read holds a copy of the layout: {0}")]
    NoLayout(String),
    /// A copy that cannot be used.
    #[error("the newest copy of the {what}, on `{path}`, is not readable: {reason}")]
    Unreadable {
        /// The copy.
        what: &'static str,
        /// Where.
        path: String,
        /// Why.
        reason: String,
    },
    /// Partitions of which too little is known.
    #[error(
        "too few drives were read: of {partitions} partitions fewer than {needed} of {n} slots, so that it is not known which \
         epoch they were in. Read these drives too:\n{missing}"
    )]
    TooFew {
        /// How many.
        partitions: usize,
        /// Slots needed of each.
        needed: usize,
        /// Of so many.
        n: usize,
        /// The drives that were not read, one a line.
        missing: String,
    },
    /// Slots of which it is not known which drive has them.
    #[error(
        "of {slots} slots it is not known which drive has them: they may have moved after the newest copy of the map was made, and \
         a drive that had one before would not know what was written since. Each line tells what helps. Where drives are gone \
         for good, `--accept-half` decides {lifted} of them, as their lines say:\n{places}"
    )]
    Undecided {
        /// How many.
        slots: usize,
        /// How many of them are decided if half is enough.
        lifted: usize,
        /// Where, which drives and what helps, one a line.
        places: String,
    },
    /// A report that cannot be true.
    #[error(
        "what was exported of `{0}` names an epoch that there cannot be: export that drive again, or leave its line out, \
         as if it had not been read"
    )]
    Impossible(String),
    /// Out of generations.
    #[error("generation {0} is the last one that there can be")]
    LastGeneration(u32),
}

/// Whether a drive of the cluster was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveSight {
    /// It was.
    Read,
    /// It was, and is damaged.
    Damaged(String),
    /// What was read is an earlier incarnation: another drive has taken its place.
    Replaced,
    /// It was not.
    Missing,
}

/// A drive of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveFinding {
    /// Its id.
    pub drive: DriveId,
    /// The node that had it last.
    pub node: NodeId,
    /// Where it was, or is.
    pub path: String,
    /// Whether it was read.
    pub sight: DriveSight,
}

/// Where a copy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySource {
    /// The drive's path.
    pub path: String,
    /// The drive.
    pub drive: DriveId,
    /// The generation it was made under.
    pub generation: u32,
    /// The coordinator's revision.
    pub revision: u64,
    /// When it was made, if it tells.
    pub taken: Option<UnixMillis>,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketFinding {
    /// Its name; `None` for one that no copy knows.
    pub name: Option<String>,
    /// Its id.
    pub id: BucketId,
    /// About how many objects it has.
    pub objects: u64,
    /// Whether slots have adopted a newer record than the copy's: its deletion had begun.
    pub changed_since: bool,
}

/// A coordinator's state, and what it was made from.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The cluster's record, with the new generation.
    pub record: ClusterRecord,
    /// The version of the layout.
    pub layout_version: u64,
    /// Slots that are not yet where a newer layout has them, and slots that are on their way.
    pub moves: (usize, usize),
    /// The drives of the cluster.
    pub drives: Vec<DriveFinding>,
    /// The copy that the layout, the nodes and the partitions come from.
    pub layout_copy: CopySource,
    /// The copy that the buckets come from.
    pub bucket_copy: Option<CopySource>,
    /// The buckets, by name.
    pub buckets: Vec<BucketFinding>,
    /// Buckets that hold objects and that no copy knows: made right before the loss.
    pub unnamed: Vec<BucketFinding>,
    /// Partitions whose slots have adopted epochs that the copy does not know.
    pub behind: Vec<PartitionId>,
    /// Slots that had moved after the copy was made, where their drives say that they are.
    pub moved: Vec<SlotMove>,
    /// Slots of which drives do not tell who has them, and what has become of them because half is enough; one a line.
    pub decided: Vec<String>,
    /// The highest epoch that was known, and the lowest that is written.
    pub epochs: (Epoch, Epoch),
    /// What is written besides the cluster's record, by key.
    pub(super) entries: BTreeMap<String, Bytes>,
}

/// What the gateway's bucket records have that matters here.
#[derive(Deserialize)]
struct BucketHead {
    id: BucketId,
}

impl Recovery {
    /// What follows from these reports. `accept_half`: R0 slots of a partition are enough, as for reading, and a slot that may
    /// be at a drive which was not read stays with the one that was.
    ///
    /// # Errors
    /// [`RecoveryRefusal`].
    pub fn plan(reports: &[DriveReport], accept_half: bool) -> Result<Self, RecoveryRefusal> {
        let reports = newest_reports(reports)?;
        let (layout_copy, tables) = newest_copy(&reports, SnapshotKind::Layout, "layout")?
            .ok_or_else(|| RecoveryRefusal::NoLayout(paths(&reports)))?;
        let map = readable_map(&layout_copy, &tables)?;
        let drives = findings(&map, &reports);
        let moved = moved_since(&map, &reports, accept_half);
        let slots = Slots::of(&map, &reports, &moved.slots);
        slots.refuse_too_few(accept_half, &drives)?;
        moved.refuse_undecided()?;
        let generation = next_generation(&map, &reports)?;

        let mut entries = BTreeMap::new();
        let carried = |entry: &&Entry| entry.key.starts_with(LAYOUT_KEY);
        entries.extend(tables.iter().filter(carried).map(|e| (e.key.clone(), e.value.clone())));
        entries.extend(node_records(&map, &reports).map(|node| (node_key(&node.id), json(&node))));
        let (epochs, behind) = slots.write_partitions(generation, &moved.slots, &mut entries);
        let mut bucket_copy = None;
        let mut records = Vec::new();
        for (kind, what) in [(SnapshotKind::Buckets, "buckets"), (SnapshotKind::Identity, "users")] {
            let Some((source, copied)) = newest_copy(&reports, kind, what)? else { continue };
            entries.extend(copied.iter().map(|entry| (entry.key.clone(), entry.value.clone())));
            if kind == SnapshotKind::Buckets {
                (bucket_copy, records) = (Some(source), copied);
            }
        }
        let (buckets, unnamed) = buckets(&records, &reports, slots.share());
        Ok(Self {
            record: ClusterRecord { generation, ..map.record.clone() },
            layout_version: map.layout.version(),
            moves: map.moves(),
            drives,
            layout_copy,
            bucket_copy,
            buckets,
            unnamed,
            behind,
            moved: moved.slots,
            decided: moved.decided,
            epochs,
            entries,
        })
    }
}

/// A bucket cannot be given this name.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// There is nothing to name.
    #[error("bucket {0} is none of those that hold objects and have no name")]
    Unknown(BucketId),
    /// Another has it.
    #[error("there is a bucket `{0}` already: choose another name")]
    Taken(BucketName),
}

impl Recovery {
    /// Brings a bucket back that no copy knows, under this name and with this record.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn name_bucket(&mut self, id: BucketId, name: &BucketName, record: Bytes) -> Result<(), NameError> {
        let key = format!("{BUCKETS_PREFIX}{name}");
        let at = self.unnamed.iter().position(|bucket| bucket.id == id).ok_or(NameError::Unknown(id))?;
        if self.entries.contains_key(&key) {
            return Err(NameError::Taken(name.clone()));
        }
        self.entries.insert(key, record);
        let found = self.unnamed.remove(at);
        self.buckets.push(BucketFinding { name: Some(name.as_str().to_owned()), ..found });
        self.buckets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("plain data is always JSON").into()
}

fn paths(reports: &[&DriveReport]) -> String {
    reports.iter().map(|report| report.path.as_str()).collect::<Vec<_>>().join(", ")
}

/// One report for each drive: that of its latest incarnation, start and record, and of those that which was made last. A node
/// that was stopped has written nothing since, but does not change any more.
fn newest_reports(reports: &[DriveReport]) -> Result<Vec<&DriveReport>, RecoveryRefusal> {
    let first = reports.first().ok_or(RecoveryRefusal::NoDrives)?;
    if let Some(other) = reports.iter().find(|report| report.cluster != first.cluster) {
        return Err(RecoveryRefusal::TwoClusters(other.path.clone(), first.path.clone()));
    }
    let is_impossible = |word: &PartitionReport| word.epoch.0 >> EPOCH_BITS >= u64::from(MAX_GENERATION);
    if let Some(report) = reports.iter().find(|report| report.partitions.iter().any(is_impossible)) {
        return Err(RecoveryRefusal::Impossible(report.path.clone()));
    }
    let progress =
        |report: &DriveReport| (report.incarnation, report.boot_count, report.last_sequence, report.read_ms);
    let mut newest: BTreeMap<DriveId, &DriveReport> = BTreeMap::new();
    for report in reports {
        let known = newest.entry(report.drive).or_insert(report);
        if progress(known) < progress(report) {
            *known = report;
        }
    }
    Ok(newest.into_values().collect())
}

/// The newest copy of a kind, with its entries.
fn newest_copy(
    reports: &[&DriveReport],
    kind: SnapshotKind,
    what: &'static str,
) -> Result<Option<(CopySource, Vec<Entry>)>, RecoveryRefusal> {
    let copies = reports.iter().flat_map(|report| report.copies.iter().map(move |copy| (*report, copy)));
    let of_kind = copies.filter(|(_, copy)| copy.kind == kind);
    let newest = of_kind.max_by_key(|(_, copy)| (copy.generation, copy.revision));
    let Some((report, CopyReport { generation, revision, data, .. })) = newest else { return Ok(None) };
    let entries = decode_entries(data.as_bytes()).map_err(|error| RecoveryRefusal::Unreadable {
        what,
        path: report.path.clone(),
        reason: error.to_string(),
    })?;
    let source = CopySource {
        path: report.path.clone(),
        drive: report.drive,
        generation: *generation,
        revision: *revision,
        taken: taken_at(data.as_bytes()),
    };
    Ok(Some((source, entries)))
}

fn readable_map(source: &CopySource, entries: &[Entry]) -> Result<ClusterMap, RecoveryRefusal> {
    let unreadable =
        |reason: String| RecoveryRefusal::Unreadable { what: "layout", path: source.path.clone(), reason };
    let map = ClusterMap::from_entries(entries.iter()).map_err(|error| unreadable(error.to_string()))?;
    map.ok_or_else(|| unreadable(format!("it lacks `{CLUSTER_KEY}` or `{LAYOUT_KEY}`")))
}

fn next_generation(map: &ClusterMap, reports: &[&DriveReport]) -> Result<u32, RecoveryRefusal> {
    let told = reports.iter().flat_map(|report| {
        report.copies.iter().map(|copy| copy.generation).chain(std::iter::once(report.generation))
    });
    match told.max().unwrap_or_default().max(map.generation) {
        last if last >= MAX_GENERATION => Err(RecoveryRefusal::LastGeneration(last)),
        known => Ok(known + 1),
    }
}

/// Where a drive was last, by the nodes' records.
pub(super) fn whereabouts(map: &ClusterMap, drive: DriveId) -> Option<(&NodeId, &str, Incarnation)> {
    let (node, incarnation) = map.locate(drive)?;
    let record = map.nodes.get(node)?.drives.iter().find(|record| record.id == drive)?;
    Some((node, &record.path, incarnation))
}

fn findings(map: &ClusterMap, reports: &[&DriveReport]) -> Vec<DriveFinding> {
    let tables = [Some(&map.layout), map.target.as_ref()];
    let placed = tables.into_iter().flatten().flat_map(|layout| layout.drives());
    let mut drives: BTreeMap<DriveId, NodeId> = placed.map(|d| (d.id, d.node.clone())).collect();
    let moved = map.partitions.iter().flat_map(|(_, record)| &record.slots);
    for id in moved.flat_map(|slot| [slot.drive, slot.source]).flatten() {
        drives.entry(id).or_insert_with(|| NodeId(String::new()));
    }
    let finding = |(drive, placed): (DriveId, NodeId)| {
        let report = reports.iter().find(|report| report.drive == drive);
        let claim = whereabouts(map, drive);
        let known = claim.map_or(Incarnation(0), |(_, _, incarnation)| incarnation);
        let sight = match report {
            None => DriveSight::Missing,
            Some(report) if report.incarnation < known => DriveSight::Replaced,
            Some(DriveReport { damage: Some(damage), .. }) => DriveSight::Damaged(damage.clone()),
            Some(_) => DriveSight::Read,
        };
        let node = claim.map_or(placed, |(node, _, _)| node.clone());
        let recorded = claim.map_or("", |(_, path, _)| path);
        let path = report.map_or(recorded, |report| report.path.as_str()).to_owned();
        DriveFinding { drive, node, path, sight }
    };
    drives.into_iter().map(finding).collect()
}

/// The nodes' records, with what was found of their drives since.
fn node_records(map: &ClusterMap, reports: &[&DriveReport]) -> impl Iterator<Item = NodeRecord> {
    map.nodes.values().map(|node| {
        let mut node = node.clone();
        for drive in &mut node.drives {
            // Another node may have the drive now: this one's claim to it stays old.
            let holds = map.locate(drive.id).is_some_and(|(holder, _)| *holder == node.id);
            let report = reports.iter().find(|report| holds && report.drive == drive.id);
            let Some(report) = report.filter(|report| report.incarnation >= drive.incarnation) else {
                continue;
            };
            if report.incarnation > drive.incarnation {
                // A successor begins to count anew.
                (drive.boot_count, drive.journal_sequence) = (0, 0);
            }
            drive.incarnation = report.incarnation;
            // What a node writes at this moment may not be durable yet.
            if !report.in_use {
                drive.boot_count = drive.boot_count.max(report.boot_count);
                drive.journal_sequence = drive.journal_sequence.max(report.last_sequence);
            }
        }
        node
    })
}

/// Whether nothing that the drive has promised is lost, as far as it and the map know.
pub(super) fn is_whole(map: &ClusterMap, report: &DriveReport) -> bool {
    let known = map.locate(report.drive).map_or(Incarnation(0), |(_, incarnation)| incarnation);
    report.damage.is_none() && report.incarnation >= known
}

/// What is known of every slot.
struct Slots<'a> {
    map: &'a ClusterMap,
    /// By partition: the slots that were read, and the highest epoch that one has adopted.
    known: Vec<(usize, Epoch)>,
}

impl<'a> Slots<'a> {
    fn of(map: &'a ClusterMap, reports: &[&DriveReport], moved: &[SlotMove]) -> Self {
        let moved: HashMap<_, _> = moved.iter().map(|slot| ((slot.partition, slot.slot), slot.to)).collect();
        let whole = reports.iter().filter(|report| is_whole(map, report));
        let whole: BTreeSet<DriveId> = whole.map(|report| report.drive).collect();
        let mut adopted: HashMap<PartitionId, Epoch> = HashMap::new();
        for told in reports.iter().flat_map(|report| &report.partitions) {
            let epoch = adopted.entry(told.partition).or_default();
            *epoch = told.epoch.max(*epoch);
        }
        let known = (0..PARTITION_COUNT).map(PartitionId).map(|partition| {
            let slots = (0..map.layout.n()).map(SlotIndex);
            let holder = |slot| moved.get(&(partition, slot)).copied();
            let holder = |slot| holder(slot).unwrap_or_else(|| map.drive_of(partition, slot));
            let read = slots.filter(|slot| whole.contains(&holder(*slot))).count();
            (read, adopted.get(&partition).copied().unwrap_or_default())
        });
        Self { map, known: known.collect() }
    }

    fn refuse_too_few(&self, accept_half: bool, drives: &[DriveFinding]) -> Result<(), RecoveryRefusal> {
        let geometry = Geometry::new(self.map.layout.n());
        let needed = if accept_half { geometry.r0() } else { geometry.m() };
        let partitions = self.known.iter().filter(|(read, _)| *read < needed).count();
        if partitions == 0 {
            return Ok(());
        }
        let missing = drives.iter().filter(|drive| drive.sight != DriveSight::Read).map(|drive| {
            let why = match &drive.sight {
                DriveSight::Damaged(damage) => format!("damaged: {damage}"),
                DriveSight::Replaced => "what was read is an older copy".to_owned(),
                DriveSight::Missing | DriveSight::Read => "not read".to_owned(),
            };
            format!("  {} on node {}, `{}`: {why}", drive.drive, drive.node, drive.path)
        });
        let missing = missing.collect::<Vec<_>>().join("\n");
        Err(RecoveryRefusal::TooFew { partitions, needed, n: geometry.n(), missing })
    }

    /// The part of all slots that was read: (read, all).
    fn share(&self) -> (u64, u64) {
        let read: usize = self.known.iter().map(|(read, _)| read).sum();
        (read.max(1) as u64, u64::from(self.map.layout.n()))
    }

    /// Writes a record for every partition, in an epoch that nobody has used, with slots where they have moved. Tells the
    /// highest epoch before and the lowest after, and where slots knew more than the map.
    fn write_partitions(
        &self,
        generation: u32,
        moved: &[SlotMove],
        entries: &mut BTreeMap<String, Bytes>,
    ) -> ((Epoch, Epoch), Vec<PartitionId>) {
        debug_assert!(!entries.keys().any(|key| key.starts_with(PARTITIONS_PREFIX)));
        let first = u64::from(generation - 1) << EPOCH_BITS;
        let (mut before, mut after, mut behind) = (Epoch(0), Epoch(u64::MAX), Vec::new());
        for (partition, (_, adopted)) in (0..PARTITION_COUNT).map(PartitionId).zip(&self.known) {
            let known = self.map.record(partition);
            let highest = known.epoch.max(*adopted);
            let epoch = Epoch((highest.0 + 1).max(first));
            let mut record = PartitionRecord { epoch, ..known.clone() };
            if *adopted > known.epoch {
                behind.push(partition);
                (record.purge_epoch, record.sweep_epoch) = (epoch.0, epoch.0);
            }
            let moved = moved.iter().filter(|slot| slot.partition == partition);
            moved.for_each(|slot| moved::write(slot, &mut record));
            (before, after) = (before.max(highest), after.min(epoch));
            entries.insert(partition_key(partition), Bytes::from(record.encode()));
        }
        ((before, after), behind)
    }
}

/// The buckets that have a record, and those that hold objects without one.
fn buckets(
    records: &[Entry],
    reports: &[&DriveReport],
    (read, n): (u64, u64),
) -> (Vec<BucketFinding>, Vec<BucketFinding>) {
    let mut held: BTreeMap<BucketId, (u64, u64)> = BTreeMap::new();
    for BucketReport { bucket, adopted, objects } in reports.iter().flat_map(|report| &report.buckets) {
        let (highest, sum) = held.entry(*bucket).or_default();
        (*highest, *sum) = ((*highest).max(*adopted), *sum + objects);
    }
    // Each object is in n slots, of which a part was read.
    let all = u64::from(PARTITION_COUNT) * n;
    let objects = |sum: u64| (u128::from(sum) * u128::from(all)).div_ceil(u128::from(read * n)) as u64;
    let mut found: Vec<BucketFinding> = Vec::new();
    for entry in records {
        let Ok(BucketHead { id }) = serde_json::from_slice(&entry.value) else { continue };
        let (adopted, sum) = held.remove(&id).unwrap_or_default();
        let name = entry.key.strip_prefix(BUCKETS_PREFIX).map(str::to_owned);
        let changed_since = adopted > entry.revision;
        found.push(BucketFinding { name, id, objects: objects(sum), changed_since });
    }
    // Whose deletion was adopted and whose record is gone was deleted: what is left of it belongs to nobody.
    let unnamed = held.into_iter().filter(|(_, (adopted, sum))| *adopted == 0 && *sum > 0);
    let unnamed = unnamed.map(|(id, (_, sum))| BucketFinding {
        name: None,
        id,
        objects: objects(sum),
        changed_since: false,
    });
    (found, unnamed.collect())
}
