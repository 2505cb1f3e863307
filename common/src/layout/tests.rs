use proptest::prelude::*;

use super::limits::limits;
use super::quota::{Groups, quotas};
use super::*;
use crate::types::Epoch;

const TIB: u64 = 1 << 40;

/// `nodes` of `zones` in turn, each with `drives` drives of `capacity` bytes.
fn cluster(zones: usize, nodes: usize, drives: usize, capacity: u64) -> Vec<LayoutDrive> {
    (0..nodes).flat_map(|node| node_drives(node, node % zones, drives, capacity)).collect()
}

fn node_drives(node: usize, zone: usize, drives: usize, capacity: u64) -> Vec<LayoutDrive> {
    (0..drives)
        .map(|drive| LayoutDrive {
            id: DriveId((node as u128) << 64 | drive as u128),
            node: NodeId(format!("node-{node}")),
            zone: format!("zone-{zone}"),
            capacity_bytes: capacity,
        })
        .collect()
}

fn slot_count(n: u8) -> usize {
    usize::from(PARTITION_COUNT) * usize::from(n)
}

/// What must hold of every layout: distinct drives, limits, quotas met exactly.
fn check_sound(layout: &Layout) {
    let groups = Groups::new(layout.drives());
    let n = usize::from(layout.n());
    let limits = limits(layout.drives(), &groups, n);
    for partition in partitions() {
        let row = layout.slots_of(partition);
        let (mut node_counts, mut zone_counts) = (vec![0; groups.nodes.len()], vec![0; groups.zones.len()]);
        for (i, &drive) in row.iter().enumerate() {
            assert!(!row[..i].contains(&drive), "{partition:?} has a drive twice");
            let node = groups.node_of[usize::from(drive)];
            node_counts[node] += 1;
            zone_counts[groups.zone_of[node]] += 1;
        }
        assert!(node_counts.iter().all(|&count| count <= limits.node), "{partition:?} {limits:?}");
        assert!(zone_counts.iter().all(|&count| count <= limits.zone), "{partition:?} {limits:?}");
    }
    let expected = quotas(layout.drives(), &groups, n, limits, &layout.loads());
    let total = |loads: &[u32]| loads.iter().map(|&load| load as usize).sum::<usize>();
    assert_eq!(total(&expected), slot_count(layout.n()));
    for (drive, (load, quota)) in layout.loads().iter().zip(expected).enumerate() {
        assert!(load.abs_diff(quota) <= 1, "drive {drive} has {load} slots, its quota is {quota}");
    }
}

fn assigned(drives: Vec<LayoutDrive>, n: u8, previous: Option<&Layout>) -> Layout {
    let layout = Layout::assign(drives, n, previous).unwrap();
    check_sound(&layout);
    layout
}

#[test]
fn equal_drives_get_equal_loads_and_every_index_equally_often() {
    for (zones, nodes, drives, n) in
        [(1, 1, 1, 1), (1, 1, 4, 4), (1, 8, 1, 8), (1, 5, 3, 15), (3, 9, 4, 9), (2, 7, 2, 14), (1, 20, 2, 16)]
    {
        let layout = assigned(cluster(zones, nodes, drives, TIB), n, None);
        let mean = slot_count(n) as f64 / (nodes * drives) as f64;
        for (drive, load) in layout.loads().iter().enumerate() {
            assert!(
                (f64::from(*load) - mean).abs() <= 1.0 + mean * 0.001,
                "{nodes}x{drives}: {load} of {mean}"
            );
            let per_index = mean / f64::from(n);
            for index in 0..usize::from(n) {
                let seen = partitions()
                    .filter(|&partition| usize::from(layout.slots_of(partition)[index]) == drive)
                    .count() as f64;
                let allowed = 2.0 + per_index * 0.05;
                assert!((seen - per_index).abs() <= allowed, "{nodes}x{drives} n={n}: {seen} of {per_index}");
            }
        }
    }
}

#[test]
fn the_loss_of_any_node_keeps_writes_wherever_three_equal_nodes_allow() {
    for (nodes, drives, n) in
        [(3, 1, 3), (3, 4, 12), (4, 1, 4), (4, 4, 16), (8, 1, 8), (16, 1, 16), (40, 3, 16)]
    {
        let tolerance = assigned(cluster(1, nodes, drives, TIB), n, None).tolerance();
        assert!(tolerance.nodes_for_writes >= 1, "{nodes}x{drives} n={n}: {tolerance:?}");
        assert_eq!(tolerance.warnings, Vec::<String>::new());
        assert!(tolerance.usable_bytes as f64 >= 0.98 * tolerance.capacity_bytes as f64);
    }
    let half = assigned(cluster(1, 4, 4, TIB), 16, None).tolerance();
    assert_eq!((half.nodes_for_writes, half.nodes_for_reads), (1, 2));
    assert_eq!((half.drives_for_writes, half.drives_for_reads), (7, 8));
}

#[test]
fn three_zones_survive_one() {
    let tolerance = assigned(cluster(3, 9, 2, TIB), 9, None).tolerance();
    assert_eq!((tolerance.zones_for_writes, tolerance.zones_for_reads), (1, 1));
}

#[test]
fn what_the_drives_do_not_allow_is_said_loudly() {
    let warned = |drives: Vec<LayoutDrive>, n, word: &str| {
        let warnings = assigned(drives, n, None).tolerance().warnings.join("\n");
        assert!(warnings.contains(word), "`{word}` is not in: {warnings}");
    };
    warned(cluster(1, 1, 1, TIB), 1, "one drive");
    warned(cluster(1, 2, 1, TIB), 2, "two drives");
    warned(cluster(1, 2, 4, TIB), 8, "writes stop");
    let lopsided = [node_drives(0, 0, 1, TIB), node_drives(1, 0, 7, TIB)].concat();
    warned(lopsided, 8, "data is not readable");
    let unequal = [cluster(1, 3, 1, 10 * TIB), node_drives(3, 0, 1, TIB)].concat();
    warned(unequal, 4, "cannot be used");
    let zones = [node_drives(0, 0, 7, TIB), node_drives(1, 1, 1, TIB)].concat();
    warned(zones, 8, "zones are too few");
}

#[test]
fn load_follows_capacity() {
    let drives =
        [cluster(1, 10, 2, TIB), (10..15).flat_map(|n| node_drives(n, 0, 2, 2 * TIB)).collect()].concat();
    let layout = assigned(drives, 8, None);
    let share = slot_count(8) as f64 / 40.0;
    for (drive, load) in layout.drives().iter().zip(layout.loads()) {
        let expected = share * (drive.capacity_bytes / TIB) as f64;
        assert!((f64::from(load) / expected - 1.0).abs() < 0.05, "{load} of {expected}");
    }
}

#[test]
fn a_drive_of_no_capacity_gets_nothing() {
    let mut drives = cluster(1, 5, 1, TIB);
    let before = assigned(drives.clone(), 4, None);
    drives[2].capacity_bytes = 0;
    let after = assigned(drives, 4, Some(&before));
    assert_eq!(after.loads()[2], 0);
    assert_eq!(after.slots_on(DriveId(2 << 64)), []);
}

#[test]
fn adding_one_of_equal_nodes_moves_little_more_than_its_share() {
    for (nodes, drives, n) in [
        (3, 1, 3),
        (4, 1, 4),
        (4, 4, 16),
        (5, 2, 10),
        (7, 2, 14),
        (8, 1, 8),
        (8, 4, 16),
        (15, 1, 15),
        (30, 1, 16),
    ] {
        let before = assigned(cluster(1, nodes, drives, TIB), n, None);
        let after = assigned(cluster(1, nodes + 1, drives, TIB), n, Some(&before));
        let moved = after.moves_from(&before).len() as f64 / slot_count(n) as f64;
        let share = 1.0 / (nodes + 1) as f64;
        assert!(moved <= 1.1 * share, "{nodes}x{drives} n={n}: moved {moved}, its share is {share}");
        assert!(moved >= 0.9 * share, "{nodes}x{drives} n={n}: moved only {moved} of {share}");
        assert_eq!(after.version(), 2);
    }
}

#[test]
fn growing_node_by_node_stays_cheap_and_even() {
    let mut layout = assigned(cluster(1, 4, 2, TIB), 4, None);
    for nodes in 5..=16 {
        let after = assigned(cluster(1, nodes, 2, TIB), 4, Some(&layout));
        let moved = after.moves_from(&layout).len() as f64 / slot_count(4) as f64;
        assert!(moved <= 1.1 / nodes as f64, "{nodes} nodes: {moved}");
        layout = after;
    }
}

#[test]
fn removing_a_node_moves_little_more_than_what_it_held() {
    let before = assigned(cluster(1, 9, 2, TIB), 8, None);
    let fewer: Vec<_> = cluster(1, 9, 2, TIB).into_iter().filter(|d| d.node.0 != "node-4").collect();
    let after = assigned(fewer, 8, Some(&before));
    let moved = after.moves_from(&before).len() as f64 / slot_count(8) as f64;
    assert!(moved <= 1.1 / 9.0, "{moved}");
}

#[test]
fn nothing_moves_if_nothing_changed_in_whatever_order_drives_are_listed() {
    let mut drives = cluster(3, 10, 3, TIB);
    let before = assigned(drives.clone(), 16, None);
    drives.reverse();
    assert_eq!(assigned(drives.clone(), 16, None).slots, before.slots);
    assert_eq!(assigned(drives, 16, Some(&before)).moves_from(&before), []);
}

#[test]
fn a_replaced_drive_takes_exactly_the_slots_of_the_old_one() {
    let mut drives = cluster(1, 8, 1, TIB);
    let before = assigned(drives.clone(), 8, None);
    drives[3].id = DriveId(u128::MAX);
    let after = assigned(drives, 8, Some(&before));
    let moves = after.moves_from(&before);
    assert_eq!(moves.len(), usize::from(PARTITION_COUNT));
    assert!(moves.iter().all(|slot| slot.to == DriveId(u128::MAX)));
    assert!(moves.iter().all(|slot| after.slot_on(slot.partition, slot.to) == Some(slot.slot)));
}

#[test]
fn impossible_requests_are_errors() {
    let drives = cluster(1, 3, 1, TIB);
    let layout = Layout::assign(drives.clone(), 3, None).unwrap();
    let fails =
        |drives: &[LayoutDrive], n, previous| Layout::assign(drives.to_vec(), n, previous).unwrap_err();
    assert_eq!(fails(&drives, 0, None), LayoutError::Width(0));
    assert_eq!(fails(&drives, 17, None), LayoutError::Width(17));
    assert_eq!(fails(&drives, 4, None), LayoutError::TooFewDrives { n: 4, drives: 3 });
    assert_eq!(fails(&drives, 2, Some(&layout)), LayoutError::WidthChanged { previous: 3, wanted: 2 });
    let twice = [drives.clone(), drives.clone()].concat();
    assert_eq!(fails(&twice, 3, None), LayoutError::DuplicateDrive(DriveId(0)));
    let mut long = drives;
    long[0].zone = "z".repeat(300);
    assert_eq!(fails(&long, 3, None), LayoutError::LongName(NodeId("node-0".to_owned())));
}

#[test]
fn a_thousand_drives_are_assigned_and_stored_small() {
    let layout = assigned(cluster(5, 250, 4, TIB), 16, None);
    let bytes = layout.encode();
    assert!(bytes.len() <= 200 * 1024, "{} bytes", bytes.len());
    assert_eq!(Layout::decode(&bytes), Ok(layout));
}

#[test]
fn every_damaged_byte_of_a_layout_is_found() {
    let layout = assigned(cluster(1, 2, 1, TIB), 2, None);
    let bytes = layout.encode();
    for at in (0..120).chain(bytes.len() - 20..bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert!(Layout::decode(&damaged).is_err(), "byte {at}");
    }
    for len in [0, 4, 5, 12, 13, 100, bytes.len() - 1] {
        assert!(Layout::decode(&bytes[..len]).is_err(), "cut at {len}");
    }
}

/// The stored form: this may never change for format version 1.
#[test]
fn golden_bytes_of_a_layout() {
    let drives = vec![
        LayoutDrive {
            id: DriveId(0xa1),
            node: NodeId("n1".to_owned()),
            zone: "z".to_owned(),
            capacity_bytes: 5,
        },
        LayoutDrive {
            id: DriveId(0xb2),
            node: NodeId("n2".to_owned()),
            zone: "z".to_owned(),
            capacity_bytes: 5,
        },
    ];
    let slots = partitions().flat_map(|p| [p.0 % 2, 1 - p.0 % 2]).collect();
    let layout = Layout { version: 7, n: 2, drives, slots };
    let bytes = layout.encode();
    let head = [
        "434f464c",
        "01",
        "02",
        "0010",
        "0700000000000000", // magic, format, n, partitions, version
        "0100",
        "0100",
        "7a", // zones
        "0200",
        "0200",
        "6e31",
        "0200",
        "6e32", // nodes
        "0200", // drives
        "000000000000000000000000000000a1",
        "0500000000000000",
        "0000",
        "0000",
        "000000000000000000000000000000b2",
        "0500000000000000",
        "0100",
        "0000",
        "0000",
        "0100",
        "0100",
        "0000", // slots of partitions 0 and 1
    ]
    .concat();
    assert_eq!(hex::encode(&bytes[..head.len() / 2]), head);
    assert_eq!(bytes.len(), head.len() / 2 - 8 + slot_count(2) * 2 + 8);
    assert_eq!(hex::encode(&bytes[bytes.len() - 8..]), "2967817e149154ac");
    assert_eq!(Layout::decode(&bytes), Ok(layout));
}

fn check_record(record: &PartitionRecord, golden: &str) {
    assert_eq!(hex::encode(record.encode()), golden);
    assert_eq!(PartitionRecord::decode(&record.encode()).as_ref(), Ok(record));
    for len in 0..record.encode().len() {
        assert!(PartitionRecord::decode(&record.encode()[..len]).is_err());
    }
}

#[test]
fn golden_bytes_of_a_partition_record() {
    let mut record = PartitionRecord::new(2);
    record.epoch = Epoch(3);
    record.purge_epoch = 4;
    record.slots[1] = SlotRecord { role: SlotRole::Joining, source: Some(DriveId(0xabcd)), drive: None };
    let golden = concat!(
        "01",
        "0300000000000000",
        "0400000000000000",
        "02",
        "0000",
        "0101",
        "0000000000000000000000000000abcd"
    );
    check_record(&record, golden);
    record.slots[0].drive = Some(DriveId(0x12));
    record.slots[1].drive = Some(DriveId(0x34));
    let golden = concat!(
        "02",
        "0300000000000000",
        "0400000000000000",
        "02",
        "0002",
        "00000000000000000000000000000012",
        "0103",
        "0000000000000000000000000000abcd",
        "00000000000000000000000000000034"
    );
    check_record(&record, golden);
    let mut with_drive_in_format_1 = record.encode();
    with_drive_in_format_1[0] = 1;
    assert!(PartitionRecord::decode(&with_drive_in_format_1).is_err());
    record.sweep_epoch = 5;
    let golden = format!("03{}0500000000000000{}", &golden[2..34], &golden[34..]);
    check_record(&record, &golden);
}

#[test]
fn stripe_width_follows_the_documented_rule() {
    let check = |drives: &[usize], n| assert_eq!(stripe_width(drives), n, "{drives:?}");
    check(&[], 0);
    check(&[1], 1);
    check(&[2], 2);
    check(&[3], 3);
    check(&[1, 1, 1], 3);
    check(&[4], 4);
    check(&[24], 16);
    check(&[4, 4], 8);
    check(&[2, 3], 4);
    check(&[1, 1, 1, 1], 4);
    check(&[4, 4, 4, 4], 16);
    check(&[1; 8], 8);
    check(&[4; 5], 15);
    check(&[1; 12], 12);
    check(&[2; 12], 12);
    check(&[1; 16], 16);
    check(&[1; 100], 16);
    check(&[1, 2, 9], 3);
    check(&[2, 0, 2, 2], 6);
}

#[test]
fn parity_defaults_and_settings() {
    let split = |settings: ParitySettings, n| {
        [StorageClass::Standard, StorageClass::ReducedRedundancy].map(|class| {
            let split = settings.split(class, n);
            (split.k, split.m)
        })
    };
    let defaults = ParitySettings::default();
    assert_eq!(split(defaults, 1), [(1, 0), (1, 0)]);
    assert_eq!(split(defaults, 2), [(1, 1), (1, 1)]);
    assert_eq!(split(defaults, 3), [(2, 1), (2, 1)]);
    assert_eq!(split(defaults, 4), [(2, 2), (3, 1)]);
    assert_eq!(split(defaults, 5), [(3, 2), (4, 1)]);
    assert_eq!(split(defaults, 6), [(3, 3), (4, 2)]);
    assert_eq!(split(defaults, 16), [(8, 8), (14, 2)]);
    let set = ParitySettings { standard: Some(4), reduced: Some(3) };
    assert_eq!(split(set, 16), [(12, 4), (13, 3)]);
    assert_eq!(set.check(16), Ok(()));
    let text = ParitySettings { standard: Some(9), reduced: None }.check(16).unwrap_err().to_string();
    assert_eq!(text, "parity EC:9 of STANDARD is out of range: a stripe of 16 slots allows EC:1 to EC:8");
    assert!(ParitySettings { reduced: Some(0), ..defaults }.check(4).is_err());
    assert_eq!(ParitySettings::parse("EC:4"), Ok(4));
    for text in ["", "4", "EC:", "EC:-1", "EC:+1", "EC:999", "EC: 4"] {
        assert_eq!(ParitySettings::parse(text), Err(InvalidParity::Form(text.to_owned())));
    }
}

#[test]
fn parity_rises_when_slots_are_away() {
    let split = Split { k: 14, m: 2 };
    assert_eq!(split.with_alive(16), Some(split));
    assert_eq!(split.with_alive(15), Some(split));
    assert_eq!(split.with_alive(12), Some(Split { k: 11, m: 5 }));
    assert_eq!(split.with_alive(9), Some(Split { k: 8, m: 8 }));
    assert_eq!(split.with_alive(8), None);
    assert_eq!(Split { k: 1, m: 0 }.with_alive(1), Some(Split { k: 1, m: 0 }));
    assert_eq!(Split { k: 2, m: 1 }.with_alive(2), Some(Split { k: 1, m: 2 }));
}

prop_compose! {
    /// Nodes of 1 to 4 drives of mixed sizes in up to 4 zones.
    fn any_cluster()(nodes in proptest::collection::vec((0..4_usize, 1..=4_usize, 1..=8_u64), 1..14)) -> Vec<LayoutDrive> {
        let build = |(node, &(zone, drives, size)): (usize, &(usize, usize, u64))| node_drives(node, zone, drives, size * TIB);
        nodes.iter().enumerate().flat_map(build).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_cluster_and_any_change_of_it_is_sound(before in any_cluster(), after in any_cluster(), n in 1..=16_u8) {
        let width = n.min(before.len() as u8).min(after.len() as u8);
        let first = assigned(before, width, None);
        let second = assigned(after, width, Some(&first));
        prop_assert_eq!(Layout::decode(&second.encode()), Ok(second.clone()));
        for partition in partitions() {
            for (slot, drive) in first.drives_of(partition).enumerate() {
                if let Some(kept) = second.slot_on(partition, drive.id) {
                    prop_assert_eq!(usize::from(kept.0), slot);
                }
            }
        }
        let _ = second.tolerance();
    }
}
