//! What follows from drives that know much, little and different things; and writing it, whatever comes in between.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::cluster::map::ClusterMap;
use crate::cluster::record::{
    DriveRecord, LAYOUT_KEY, LAYOUT_TARGET_KEY, NodeRecord, PROTOCOL_VERSION, node_key, partition_key,
};
use crate::cluster::{encode_entries, first_layout};
use crate::coordination::{CLUSTER_KEY, Coordinator, Entry, Expected, LocalCoordinator, SnapshotStore};
use crate::layout::{PartitionRecord, SlotRole};
use crate::limits::PARTITION_COUNT;
use crate::node::{Snapshot, SnapshotKind, SnapshotLog};
use crate::time::UnixMillis;
use crate::types::{
    BucketId, BucketName, ClusterId, DriveId, Epoch, Incarnation, NodeId, PartitionId, SlotIndex,
};

mod moved;

const DRIVES: u128 = 4;
const MOVED: PartitionId = PartitionId(9);
const KNOWN: BucketId = BucketId(1);

fn node(id: u128) -> NodeRecord {
    let drive = DriveRecord {
        id: DriveId(id),
        incarnation: Incarnation(0),
        path: format!("/data{id}"),
        capacity_bytes: 1 << 40,
        boot_count: 3,
        journal_sequence: 50,
        fresh: false,
        absent: false,
    };
    NodeRecord {
        id: NodeId(format!("n{id}")),
        address: format!("10.0.0.{id}:9100"),
        zone: String::new(),
        drives: vec![drive],
        version: String::new(),
        protocol: PROTOCOL_VERSION,
        endpoints: Vec::new(),
    }
}

fn entry(key: &str, value: impl Into<Bytes>, revision: u64) -> Entry {
    Entry { key: key.to_owned(), value: value.into(), revision, create_revision: 1 }
}

fn copy(kind: SnapshotKind, revision: u64, entries: &[Entry]) -> CopyReport {
    let data = encode_entries(entries.iter(), UnixMillis(77));
    CopyReport { kind, generation: 1, revision, data: String::from_utf8(data.to_vec()).unwrap() }
}

/// The entries of a cluster of four nodes with a drive each, whose partition 9 has been through something.
fn tables() -> Vec<Entry> {
    let nodes: Vec<_> = (1..=DRIVES).map(node).collect();
    let first = first_layout(&nodes, ClusterId(7)).unwrap();
    let mut record = PartitionRecord::new(4);
    record.epoch = Epoch(5);
    record.slots[2].role = SlotRole::Joining;
    let mut entries = vec![
        entry(CLUSTER_KEY, serde_json::to_vec(&first.record).unwrap(), 2),
        entry(LAYOUT_KEY, first.layout.encode(), 2),
        entry(LAYOUT_TARGET_KEY, first.layout.clone().at_version(2).encode(), 30),
        entry(&partition_key(MOVED), record.encode(), 31),
    ];
    let records = nodes.iter().map(|n| entry(&node_key(&n.id), serde_json::to_vec(n).unwrap(), 3));
    entries.extend(records);
    entries
}

fn bucket(name: &str, id: BucketId, revision: u64) -> Entry {
    entry(&format!("buckets/{name}"), format!(r#"{{"id":"{id}","more":true}}"#), revision)
}

/// What an export of an older version tells of a slot that votes.
fn old_word(partition: PartitionId, epoch: Epoch) -> PartitionReport {
    let told = format!(r#"{{"partition":{},"epoch":{},"role":"voter"}}"#, partition.0, epoch.0);
    serde_json::from_str(&told).unwrap()
}

fn reports() -> Vec<DriveReport> {
    let report = |id: u128| DriveReport {
        format: REPORT_FORMAT,
        read_ms: 1,
        path: format!("/data{id}"),
        cluster: ClusterId(7),
        drive: DriveId(id),
        incarnation: Incarnation(0),
        in_use: false,
        boot_count: 4,
        last_sequence: 90,
        damage: None,
        generation: 1,
        copies: vec![
            copy(SnapshotKind::Layout, 31, &tables()),
            copy(SnapshotKind::Buckets, 40, &[bucket("photos", KNOWN, 40)]),
        ],
        partitions: vec![old_word(MOVED, Epoch(5))],
        buckets: vec![BucketReport { bucket: KNOWN, adopted: 0, objects: 100 }],
    };
    (1..=DRIVES).map(report).collect()
}

fn map(recovery: &Recovery) -> ClusterMap {
    let record = serde_json::to_vec(&recovery.record).unwrap();
    let written = recovery.entries.iter().map(|(key, value)| entry(key, value.clone(), 1));
    let entries: Vec<_> = written.chain([entry(CLUSTER_KEY, record, 1)]).collect();
    ClusterMap::from_entries(entries.iter()).unwrap().unwrap()
}

#[test]
fn everything_comes_back_in_a_higher_generation_and_in_epochs_that_nobody_has_used() {
    let recovery = Recovery::plan(&reports(), false).unwrap();
    let map = map(&recovery);
    let before = ClusterMap::from_entries(tables().iter()).unwrap().unwrap();
    assert_eq!((map.generation, map.cluster, map.record.n), (2, ClusterId(7), 4));
    assert_eq!((&map.layout, &map.target), (&before.layout, &before.target));
    assert_eq!(map.nodes.len(), 4);
    for partition in (0..PARTITION_COUNT).map(PartitionId) {
        let (new, old) = (map.record(partition), before.record(partition));
        assert!(new.epoch > Epoch(1 << 31) && new.epoch > old.epoch, "{partition:?}");
        assert_eq!(new.slots, old.slots);
        assert_eq!((new.purge_epoch, new.sweep_epoch), (0, 0), "nothing says that there was a purge");
    }
    assert_eq!(map.record(MOVED).slots[2].role, SlotRole::Joining);
    let drive = &map.nodes[&NodeId("n1".to_owned())].drives[0];
    assert_eq!((drive.boot_count, drive.journal_sequence), (4, 90), "an older copy is known as one");
    assert_eq!(
        recovery.entries["buckets/photos"],
        bucket("photos", KNOWN, 40).value,
        "as it was, to the byte"
    );
    let [found] = &recovery.buckets[..] else { panic!("{:?}", recovery.buckets) };
    assert_eq!((found.name.as_deref(), found.objects, found.changed_since), (Some("photos"), 100, false));
    assert_eq!((recovery.layout_copy.revision, recovery.layout_copy.taken), (31, Some(UnixMillis(77))));
    assert!(recovery.unnamed.is_empty() && recovery.behind.is_empty());
}

#[test]
fn the_newest_copy_counts_and_what_slots_know_beyond_it_is_told() {
    let mut reports = reports();
    // Two drives missed the last changes; one slot has adopted an epoch that nobody has a copy of.
    for old in &mut reports[..2] {
        old.copies = vec![copy(SnapshotKind::Layout, 3, &tables()[..2]), copy(SnapshotKind::Buckets, 9, &[])];
    }
    reports[3].partitions.push(old_word(PartitionId(11), Epoch(3 << 32)));
    reports[1].generation = 6;
    reports[2].buckets[0].adopted = 44;
    let made_last = BucketReport { bucket: BucketId(2), adopted: 0, objects: 3 };
    let deleted = BucketReport { bucket: BucketId(3), adopted: 12, objects: 1 };
    for report in &mut reports {
        report.buckets.extend([made_last, deleted]);
    }
    let recovery = Recovery::plan(&reports, false).unwrap();
    let map = map(&recovery);
    assert_eq!(map.generation, 7);
    assert_eq!(recovery.layout_copy.path, "/data4");
    assert_eq!(recovery.behind, [PartitionId(11)]);
    let ahead = map.record(PartitionId(11));
    assert!(ahead.epoch > Epoch(3 << 32));
    assert_eq!((ahead.purge_epoch, ahead.sweep_epoch), (ahead.epoch.0, ahead.epoch.0));
    assert!(recovery.buckets[0].changed_since);
    let [unnamed] = &recovery.unnamed[..] else { panic!("{:?}", recovery.unnamed) };
    assert_eq!((unnamed.id, unnamed.objects), (BucketId(2), 3), "never dropped without a word");

    let mut named = recovery.clone();
    let name = |name: &str| BucketName::new(name).unwrap();
    let taken = named.name_bucket(BucketId(2), &name("photos"), Bytes::new());
    assert_eq!(taken, Err(NameError::Taken(name("photos"))));
    let deleted = named.name_bucket(BucketId(3), &name("deleted"), Bytes::new());
    assert_eq!(deleted, Err(NameError::Unknown(BucketId(3))), "what was deleted does not come back");
    named.name_bucket(BucketId(2), &name("late"), Bytes::from_static(b"{}")).unwrap();
    assert_eq!((named.entries["buckets/late"].as_ref(), named.unnamed.len()), (&b"{}"[..], 0));
}

#[test]
fn too_few_drives_damaged_ones_and_older_ones_are_refused_by_name() {
    let all = reports();
    assert_eq!(Recovery::plan(&[], false).unwrap_err(), RecoveryRefusal::NoDrives);
    assert!(Recovery::plan(&all[..3], false).is_ok(), "M of 4 is 3");
    let refused = |reports: &[DriveReport]| match Recovery::plan(reports, false) {
        Err(RecoveryRefusal::TooFew { partitions, needed: 3, n: 4, missing }) => {
            assert_eq!(partitions, usize::from(PARTITION_COUNT));
            missing
        }
        other => panic!("{other:?}"),
    };
    let missing = refused(&all[..2]);
    assert!(missing.contains("/data3") && missing.contains("n4") && !missing.contains("/data1"), "{missing}");
    assert!(Recovery::plan(&all[..2], true).is_ok() && Recovery::plan(&all[..1], true).is_err());

    let mut damaged = all[..3].to_vec();
    damaged[1].damage = Some("a record does not verify".to_owned());
    assert!(refused(&damaged).contains("does not verify"));

    let mut replaced = tables();
    let mut successor = node(2);
    successor.drives[0].incarnation = Incarnation(1);
    replaced.retain(|entry| entry.key != node_key(&successor.id));
    replaced.push(entry(&node_key(&successor.id), serde_json::to_vec(&successor).unwrap(), 50));
    let mut older = all[..3].to_vec();
    older[2].copies.push(copy(SnapshotKind::Layout, 50, &replaced));
    assert!(refused(&older).contains("older copy"));

    let mut impossible = all.clone();
    impossible[1].partitions.push(old_word(PartitionId(3), Epoch(u64::MAX)));
    assert_eq!(
        Recovery::plan(&impossible, true).unwrap_err(),
        RecoveryRefusal::Impossible("/data2".to_owned()),
        "there is no epoch above it"
    );

    let mut foreign = all.clone();
    foreign[2].cluster = ClusterId(8);
    assert!(matches!(Recovery::plan(&foreign, false), Err(RecoveryRefusal::TwoClusters(..))));
}

#[test]
fn of_a_drive_that_was_read_twice_the_later_report_counts() {
    let mut reports = reports();
    let mut later = reports[0].clone();
    later.boot_count = 9;
    later.in_use = true;
    reports[0].damage = Some("while it was written".to_owned());
    reports.insert(0, later);
    let recovery = Recovery::plan(&reports[..4], false).unwrap();
    assert!(recovery.drives.iter().take(3).all(|drive| drive.sight == DriveSight::Read));
    let drive = &map(&recovery).nodes[&NodeId("n1".to_owned())].drives[0];
    assert_eq!(
        (drive.boot_count, drive.journal_sequence),
        (3, 50),
        "what a node writes now may be taken back"
    );
}

#[derive(Debug, Default)]
struct OneCopy(Mutex<Option<Snapshot>>);

#[async_trait]
impl SnapshotStore for OneCopy {
    fn copies(&self) -> usize {
        1
    }
    async fn load(&self) -> Vec<Option<SnapshotLog>> {
        vec![self.0.lock().clone().map(SnapshotLog::from)]
    }
    async fn store(&self, snapshot: Snapshot) -> usize {
        *self.0.lock() = Some(snapshot);
        1
    }
}

async fn coordinator() -> Arc<LocalCoordinator> {
    LocalCoordinator::start(Arc::new(OneCopy::default())).await.unwrap()
}

#[tokio::test]
async fn a_recovery_is_written_once_and_only_where_nothing_is() {
    let coordinator = coordinator().await;
    let recovery = Recovery::plan(&reports(), false).unwrap();
    for leased in ["live/n1", "quota-holders/0", "lifecycle-gateways/0"] {
        coordinator.put(leased, Bytes::new(), Expected::Any, true).await.unwrap();
    }
    recovery.apply(&*coordinator, "coffer/test").await.unwrap();
    let listed = coordinator.list("").await.unwrap().entries;
    let written = ClusterMap::from_entries(listed.iter()).unwrap().unwrap();
    assert_eq!(written, map(&recovery));
    assert!(listed.iter().any(|entry| entry.key == "buckets/photos"));
    assert!(!listed.iter().any(|entry| entry.key == "recovery"), "the marker has ended");
    let again = recovery.apply(&*coordinator, "coffer/test").await;
    assert!(
        matches!(again, Err(ApplyError::ClusterExists { id: ClusterId(7), generation: 2, .. })),
        "{again:?}"
    );
}

#[tokio::test]
async fn an_interrupted_recovery_is_no_cluster_and_is_begun_again() {
    let coordinator = coordinator().await;
    let recovery = Recovery::plan(&reports(), false).unwrap();
    let marker = format!(r#"{{"cluster":"{}","generation":2,"attempt":"x"}}"#, ClusterId(7));
    coordinator.put("recovery", Bytes::from(marker), Expected::Absent, false).await.unwrap();
    for key in [LAYOUT_KEY, "buckets/of-the-first-attempt"] {
        coordinator.put(key, Bytes::from_static(b"half"), Expected::Absent, false).await.unwrap();
    }
    recovery.apply(&*coordinator, "coffer/test").await.unwrap();
    let listed = coordinator.list("").await.unwrap().entries;
    assert_eq!(ClusterMap::from_entries(listed.iter()).unwrap().unwrap(), map(&recovery));
    assert!(!listed.iter().any(|entry| entry.key.contains("first-attempt")));
}

#[tokio::test]
async fn foreign_keys_are_named_and_left_alone() {
    let coordinator = coordinator().await;
    let recovery = Recovery::plan(&reports(), false).unwrap();
    coordinator.put("buckets/theirs", Bytes::new(), Expected::Absent, false).await.unwrap();
    let refused = recovery.apply(&*coordinator, "coffer/test").await.unwrap_err().to_string();
    assert!(refused.contains("buckets/theirs") && refused.contains("coffer/test/"), "{refused}");
    assert_eq!(coordinator.list("").await.unwrap().entries.len(), 1);
}

#[test]
fn a_slot_that_has_moved_is_where_it_went() {
    let mut entries = tables();
    let before = ClusterMap::from_entries(entries.iter()).unwrap().unwrap();
    let (slot, there) = (SlotIndex(0), before.drive_of(MOVED, SlotIndex(3)));
    let mut record = before.record(MOVED);
    record.epoch = Epoch(8);
    record.slots[0].drive = Some(there);
    record.slots[0].source = Some(before.drive_of(MOVED, slot));
    entries.retain(|entry| entry.key != partition_key(MOVED));
    entries.push(entry(&partition_key(MOVED), record.encode(), 60));
    let mut reports = reports();
    reports[1].copies.push(copy(SnapshotKind::Layout, 60, &entries));
    let map = map(&Recovery::plan(&reports, false).unwrap());
    assert_eq!(map.record(MOVED).slots, record.slots);
    assert_eq!(map.drive_of(MOVED, slot), there);
}
