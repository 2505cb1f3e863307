use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::cluster::record::{LAYOUT_KEY, LAYOUT_TARGET_KEY};
use crate::cluster::tests::OneCopy;
use crate::cluster::{ClusterRecord, DriveRecord, NodeRecord, PROTOCOL_VERSION, live_key, node_key};
use crate::coordination::{CLUSTER_KEY, Coordinator, Entry, Expected, LocalCoordinator};
use crate::layout::{PartitionRecord, SlotRecord, SlotRole};
use crate::limits::PARTITION_COUNT;
use crate::node::{DriveInfo, DriveState};
use crate::types::{ClusterId, Epoch, Incarnation, PartitionId};

mod gone;

const TIB: u64 = 1 << 40;

fn drive_id(node: usize, drive: usize) -> DriveId {
    DriveId((node as u128 + 1) << 64 | drive as u128)
}

fn drive_record(node: usize, drive: usize) -> DriveRecord {
    DriveRecord {
        id: drive_id(node, drive),
        incarnation: Incarnation(0),
        path: format!("/data{drive}"),
        capacity_bytes: TIB,
        boot_count: 1,
        journal_sequence: 0,
        fresh: false,
        absent: false,
    }
}

fn node_record(node: usize, drives: usize) -> NodeRecord {
    NodeRecord {
        id: NodeId(format!("node-{node}")),
        address: format!("10.0.0.{node}:9100"),
        zone: "default".to_owned(),
        drives: (0..drives).map(|drive| drive_record(node, drive)).collect(),
        version: String::new(),
        protocol: PROTOCOL_VERSION,
        endpoints: Vec::new(),
    }
}

/// What the coordinator holds of `placed` nodes with a layout and others that have only registered.
fn entries(placed: usize, others: usize, drives: usize) -> Vec<(String, Vec<u8>)> {
    let nodes: Vec<NodeRecord> = (0..placed + others).map(|node| node_record(node, drives)).collect();
    let first = crate::cluster::first_layout(&nodes[..placed], ClusterId(9)).unwrap();
    let json = |record: &ClusterRecord| serde_json::to_vec(record).unwrap();
    let mut entries =
        vec![(CLUSTER_KEY.to_owned(), json(&first.record)), (LAYOUT_KEY.to_owned(), first.layout.encode())];
    entries.extend(nodes.iter().map(|node| (node_key(&node.id), serde_json::to_vec(node).unwrap())));
    entries
}

fn map_of(entries: &[(String, Vec<u8>)]) -> ClusterMap {
    let entry = |(key, value): &(String, Vec<u8>)| Entry {
        key: key.clone(),
        value: value.clone().into(),
        revision: 1,
        create_revision: 1,
    };
    let entries: Vec<Entry> = entries.iter().map(entry).collect();
    ClusterMap::from_entries(entries.iter()).unwrap().unwrap()
}

fn map(placed: usize, others: usize, drives: usize) -> ClusterMap {
    map_of(&entries(placed, others, drives))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn add(drives: &[&str]) -> LayoutEdit {
    LayoutEdit::Add(names(drives))
}

fn remove(drives: &[&str]) -> LayoutEdit {
    LayoutEdit::Remove(names(drives))
}

fn capacity(drives: &[&str], bytes: u64) -> LayoutEdit {
    LayoutEdit::Set { drives: names(drives), capacity_bytes: Some(bytes), zone: None }
}

/// Every node of the map.
fn all(map: &ClusterMap) -> BTreeSet<NodeId> {
    map.nodes.keys().cloned().collect()
}

fn edited(map: &ClusterMap, edits: &[LayoutEdit]) -> StagedChanges {
    edits.iter().fold(StagedChanges { version: 2, ..StagedChanges::default() }, |staged, edit| {
        staged.edit(map, &all(map), edit).unwrap().0
    })
}

fn refused(map: &ClusterMap, edit: &LayoutEdit) -> String {
    StagedChanges::default().edit(map, &all(map), edit).unwrap_err().to_string()
}

#[test]
fn drives_are_found_by_what_people_call_them() {
    let map = map(4, 1, 2);
    let staged = |name: &str| edited(&map, &[add(&[name])]).drives.into_keys().collect::<Vec<_>>();
    assert_eq!(staged("node-4"), [drive_id(4, 0), drive_id(4, 1)]);
    assert_eq!(staged("node-4:/data1"), [drive_id(4, 1)]);
    assert_eq!(staged(&drive_id(4, 0).to_string()), [drive_id(4, 0)]);
    assert!(refused(&map, &add(&["/data1"])).contains("for example `node-0:/data1`"));
    assert!(refused(&map, &add(&["node-7"])).contains("`node-7`"));
    assert!(refused(&map, &add(&["node-4", "/nowhere"])).contains("`/nowhere`"));
}

#[test]
fn without_names_every_registered_drive_that_is_not_in_the_layout_is_added() {
    let mut stored = entries(4, 1, 2);
    let mut waiting = node_record(5, 1);
    waiting.drives[0].fresh = true;
    stored.push((node_key(&waiting.id), serde_json::to_vec(&waiting).unwrap()));
    let map = map_of(&stored);
    let staged = edited(&map, &[remove(&["node-0:/data0"]), add(&[])]);
    let removed = DriveChange::Remove;
    let placed = |node: usize, drive: usize| {
        let placement = Placement {
            node: NodeId(format!("node-{node}")),
            zone: "default".to_owned(),
            capacity_bytes: TIB,
        };
        (drive_id(node, drive), DriveChange::Place(placement))
    };
    let expected: BTreeMap<_, _> = [(drive_id(0, 0), removed), placed(4, 0), placed(4, 1)].into();
    assert_eq!(staged.drives, expected, "what is to leave does not come back by itself, what is fresh waits");
    let again = staged.edit(&map, &all(&map), &add(&[])).unwrap_err().to_string();
    assert!(again.contains("changes nothing") && again.contains("node-5:/data0"), "{again}");
    assert!(refused(&map, &add(&["node-5"])).contains("has not been formatted"));
}

#[test]
fn requests_that_undo_each_other_leave_nothing_staged() {
    let map = map(4, 1, 2);
    for edits in [
        [remove(&["node-1"]), add(&["node-1"])],
        [add(&["node-4"]), remove(&["node-4"])],
        [capacity(&["node-2"], 5), capacity(&["node-2"], TIB)],
    ] {
        assert_eq!(edited(&map, &edits).drives, BTreeMap::new(), "{edits:?}");
    }
    assert!(refused(&map, &remove(&["node-4"])).contains("nothing to remove"));
    assert!(refused(&map, &capacity(&["node-4"], 1)).contains("nothing to set"));
    assert!(refused(&map, &capacity(&["node-0"], TIB)).contains("changes nothing"));
    assert!(refused(&map, &add(&["node-0"])).contains("changes nothing"));
}

#[test]
fn a_drive_that_went_to_another_node_is_counted_there_once_it_is_added_again() {
    let mut stored = entries(4, 1, 2);
    let mut new_home = node_record(4, 0);
    new_home.drives = vec![DriveRecord { boot_count: 7, ..drive_record(0, 0) }];
    stored.push((node_key(&new_home.id), serde_json::to_vec(&new_home).unwrap()));
    let map = map_of(&stored);
    let staged = edited(&map, &[add(&["node-4:/data0"])]);
    let layout = propose(&map, &staged).unwrap();
    let moved = layout.drives().iter().find(|drive| drive.id == drive_id(0, 0)).unwrap();
    assert_eq!(moved.node.0, "node-4");
    assert_eq!(layout.drives().len(), 8);
}

#[test]
fn what_cannot_work_is_refused_with_the_numbers() {
    let map = map(4, 0, 1);
    let staged = edited(&map, &[remove(&["node-3"])]);
    let refusal = propose(&map, &staged).unwrap_err();
    assert_eq!(refusal, EditError::TooFewDrives { n: 4, left: 3 });
    assert!(refusal.to_string().contains("Add drives first"), "{refusal}");
    let staged = edited(&map, &[capacity(&["node-3"], 0)]);
    assert_eq!(propose(&map, &staged).unwrap_err(), EditError::TooFewDrives { n: 4, left: 3 });
}

#[test]
fn slots_of_narrow_stripes_do_not_move() {
    for placed in [1, 2] {
        let map = map(placed, 1, 1);
        let staged = edited(&map, &[add(&[])]);
        assert_eq!(propose(&map, &staged).unwrap_err(), EditError::TooNarrow(placed as u8));
    }
    let map = map(3, 1, 1);
    assert!(propose(&map, &edited(&map, &[add(&[])])).is_ok());
}

#[test]
fn a_node_more_moves_little_more_than_its_share_and_the_plan_says_so() {
    for (nodes, drives) in [(4, 1), (4, 2), (5, 2), (8, 1)] {
        let map = map(nodes, 1, drives);
        let staged = edited(&map, &[add(&[])]);
        let plan = LayoutPlan::new(&map, &propose(&map, &staged).unwrap());
        let moved = plan.moving as f64 / plan.slots as f64;
        assert!(moved <= 1.1 / (nodes + 1) as f64, "{nodes}x{drives}: {moved}");
        assert!(plan.must_move <= plan.moving && plan.moving as f64 <= 1.1 * plan.must_move as f64);
        assert_eq!((plan.version, plan.from), (2, 1));
        let sums = plan.drives.iter().fold((0, 0, 0, 0), |(a, b, c, d), drive| {
            let slots = |share: &Option<Share>| share.as_ref().map_or(0, |share| share.slots as usize);
            (a + slots(&drive.before), b + slots(&drive.after), c + drive.slots_in, d + drive.slots_out)
        });
        assert_eq!(sums, (plan.slots, plan.slots, plan.moving, plan.moving));
        let new = plan.drives.iter().filter(|drive| drive.before.is_none()).count();
        assert_eq!(
            (new, plan.after.capacity_bytes - plan.before.capacity_bytes),
            (drives, drives as u64 * TIB)
        );
        assert!(plan.after.nodes_for_writes >= 1 && plan.critical_nodes.is_empty(), "{plan:?}");
    }
}

#[test]
fn a_plan_names_the_nodes_that_writes_cannot_do_without() {
    let map = map(4, 0, 2);
    let staged = edited(&map, &[remove(&["node-1:/data0", "node-2:/data0", "node-3:/data0"])]);
    // Stripes of eight slots are not possible with five drives.
    assert_eq!(propose(&map, &staged).unwrap_err(), EditError::TooFewDrives { n: 8, left: 5 });
    let mut nodes = vec![node_record(0, 4), node_record(1, 4)];
    nodes.extend([node_record(2, 4), node_record(3, 4)]);
    let first = crate::cluster::first_layout(&nodes[..1], ClusterId(1)).unwrap();
    let json = |record: &NodeRecord| serde_json::to_vec(record).unwrap();
    let mut stored = vec![
        (CLUSTER_KEY.to_owned(), serde_json::to_vec(&first.record).unwrap()),
        (LAYOUT_KEY.to_owned(), first.layout.encode()),
    ];
    stored.extend(nodes.iter().map(|node| (node_key(&node.id), json(node))));
    let map = map_of(&stored);
    let staged = edited(&map, &[add(&["node-1"])]);
    let plan = LayoutPlan::new(&map, &propose(&map, &staged).unwrap());
    assert_eq!(plan.critical_nodes.len(), 2, "two of four slots on each of two nodes: {plan:?}");
    let staged = edited(&map, &[add(&[])]);
    let plan = LayoutPlan::new(&map, &propose(&map, &staged).unwrap());
    assert_eq!((plan.critical_nodes.len(), plan.after.nodes_for_writes), (0, 1));
}

#[test]
fn traffic_is_what_the_moving_slots_hold() {
    let map = map(4, 1, 1);
    let plan = LayoutPlan::new(&map, &propose(&map, &edited(&map, &[add(&[])])).unwrap());
    let slots = u64::from(PARTITION_COUNT);
    // A thousand bytes a slot on each of the four drives.
    let held: BTreeMap<DriveId, u64> = (0..4).map(|node| (drive_id(node, 0), slots * 1000)).collect();
    let moving = plan.moving as u64;
    let all = plan.traffic(&held);
    let expected = Traffic {
        bytes: moving * 1000,
        busiest_drive_bytes: moving * 1000,
        measured_drives: 4,
        assumed_drives: 0,
    };
    assert_eq!(all, expected, "the new drive writes all of it");
    let told: BTreeMap<DriveId, u64> = held.into_iter().skip(1).collect();
    assert_eq!(plan.traffic(&told), Traffic { measured_drives: 3, assumed_drives: 1, ..expected });
    assert_eq!(plan.traffic(&BTreeMap::new()).bytes, 0);
}

/// Puts the slots of these partitions where the target has them.
fn move_slots(map: &mut ClusterMap, partitions: impl Iterator<Item = u16>) {
    let target = map.target.clone().unwrap();
    for partition in partitions.map(PartitionId) {
        let slots = target
            .drives_of(partition)
            .map(|drive| SlotRecord { drive: Some(drive.id), ..SlotRecord::default() });
        let record = PartitionRecord { epoch: Epoch(2), slots: slots.collect(), ..PartitionRecord::new(4) };
        map.partitions.insert(partition, Arc::new(record));
    }
}

#[test]
fn a_change_in_the_middle_of_moves_starts_from_where_the_slots_are() {
    let mut map = map(4, 2, 1);
    assert_eq!(MoveProgress::of(&map), None);
    let target = propose(&map, &edited(&map, &[add(&["node-4"])])).unwrap();
    let moves = target.moves_from(&map.layout);
    map.target = Some(target.clone());
    let progress = |total, moved, under_way| {
        Some(MoveProgress { version: 2, total, moved, under_way, waiting: total - moved - under_way })
    };
    assert_eq!(MoveProgress::of(&map), progress(moves.len(), 0, 0));
    assert_eq!(map.present_layout().moves_from(&map.layout), []);

    move_slots(&mut map, 0..2048);
    let done = moves.iter().filter(|slot| slot.partition.0 < 2048).count();
    let now = map.present_layout();
    assert_eq!(now.moves_from(&map.layout).len(), done);
    let one = moves.iter().find(|slot| slot.partition.0 < 2048).unwrap();
    let mut record = map.record(one.partition);
    let slot = &mut record.slots[usize::from(one.slot.0)];
    (slot.role, slot.source) = (SlotRole::Joining, Some(one.from));
    map.partitions.insert(one.partition, Arc::new(record));
    assert_eq!(MoveProgress::of(&map), progress(moves.len(), done - 1, 1));
    assert_eq!(map.copied_from().into_iter().collect::<Vec<_>>(), [(one.from, 1)]);

    // The table to change is the target's: node-4 is in it.
    assert!(refused(&map, &add(&["node-4"])).contains("changes nothing"));
    let staged = edited(&map, &[remove(&["node-4"])]);
    let back = LayoutPlan::new(&map, &propose(&map, &staged).unwrap());
    assert_eq!(back.moving, done, "only what has moved moves back");
    let staged = edited(&map, &[add(&["node-5"])]);
    let more = propose(&map, &staged).unwrap();
    assert_eq!(more.drives().len(), 6);
    let optimum = 2.0 / 6.0 - done as f64 / (4.0 * 4096.0);
    let moved = more.moves_from(&now).len() as f64 / (4.0 * 4096.0);
    assert!(moved <= 1.1 * optimum, "{moved} of {optimum}");
}

async fn coordinator(placed: usize, others: usize, drives: usize) -> Arc<LocalCoordinator> {
    let coordinator = LocalCoordinator::start(Arc::new(OneCopy::default())).await.unwrap();
    for (key, value) in entries(placed, others, drives) {
        coordinator.put(&key, value.into(), Expected::Any, false).await.unwrap();
    }
    for node in 0..placed + others {
        let key = live_key(&node_record(node, 0).id);
        coordinator.put(&key, "{}".into(), Expected::Any, false).await.unwrap();
    }
    coordinator
}

async fn stage(coordinator: &LocalCoordinator, edit: &LayoutEdit) -> u64 {
    let (state, ..) = LayoutState::read(coordinator).await.unwrap().edited(edit).unwrap();
    state.store(coordinator).await.unwrap();
    state.staged.version
}

#[tokio::test]
async fn only_what_was_planned_is_applied() {
    let coordinator = coordinator(4, 2, 1).await;
    let read = async || LayoutState::read(&*coordinator).await.unwrap();
    assert!(matches!(read().await.planned(None), Err(LayoutStateError::Nothing(_))));
    let version = stage(&coordinator, &add(&["node-4"])).await;
    let planned = read().await;
    let layout = planned.planned(Some(version)).unwrap();
    assert_eq!((version, layout.version()), (2, 2));

    // Another operator stages more: what the first one has seen is not what is there.
    assert_eq!(stage(&coordinator, &add(&["node-5"])).await, 3);
    assert!(matches!(planned.make_target(&layout, &*coordinator).await, Err(LayoutStateError::Changed)));
    let other = read().await.planned(Some(version));
    assert!(matches!(other, Err(LayoutStateError::OtherVersion { asked: 2, planned: 3 })));

    // A version that was dropped never means anything else.
    read().await.unstage(&*coordinator).await.unwrap();
    assert!(matches!(read().await.unstage(&*coordinator).await, Err(LayoutStateError::Nothing(_))));
    assert_eq!(stage(&coordinator, &add(&["node-5"])).await, 5);

    let state = read().await;
    let layout = state.planned(Some(5)).unwrap();
    state.make_target(&layout, &*coordinator).await.unwrap();
    assert_eq!(coordinator.get(LAYOUT_STAGED_KEY).await.unwrap(), None);
    let after = read().await;
    assert_eq!(after.map.target, Some(layout));
    assert!(!after.is_staged());
    assert!(matches!(state.store(&*coordinator).await, Err(LayoutStateError::Changed)));
}

#[tokio::test]
async fn moves_are_taken_back_to_where_the_slots_were() {
    let coordinator = coordinator(4, 1, 1).await;
    let read = async || LayoutState::read(&*coordinator).await.unwrap();
    assert!(matches!(read().await.before_moves(), Err(LayoutStateError::Nothing(_))));
    let version = stage(&coordinator, &add(&[])).await;
    let state = read().await;
    state.make_target(&state.planned(Some(version)).unwrap(), &*coordinator).await.unwrap();
    let state = read().await;
    let back = state.before_moves().unwrap();
    assert_eq!((back.version(), back.moves_from(&state.map.layout).len()), (3, 0));
    // A drive that has got another slot of a partition than it had keeps that one, or none.
    let mut crossed = state.clone();
    let drives: Vec<DriveId> = crossed.map.layout.drives_of(PartitionId(0)).map(|drive| drive.id).collect();
    let mut record = PartitionRecord::new(4);
    (record.slots[0].drive, record.slots[1].drive) = (Some(drive_id(4, 0)), Some(drives[0]));
    crossed.map.partitions.insert(PartitionId(0), Arc::new(record));
    let aside = crossed.before_moves().unwrap();
    assert_eq!(aside.drives(), crossed.map.layout.drives());
    assert!(aside.slot_on(PartitionId(0), drives[0]).is_none_or(|slot| slot.0 == 1));
    assert!(aside.moves_from(&crossed.map.present_layout()).len() < 20);

    state.make_target(&back, &*coordinator).await.unwrap();
    assert!(matches!(read().await.before_moves(), Err(LayoutStateError::Nothing(_))));
    assert_eq!(stage(&coordinator, &add(&[])).await, 4);
    // The nodes are done: what was read before that changes nothing.
    let state = read().await;
    coordinator.delete(LAYOUT_TARGET_KEY, Expected::Any).await.unwrap();
    let layout = state.planned(None).unwrap();
    assert!(matches!(state.make_target(&layout, &*coordinator).await, Err(LayoutStateError::Changed)));
}

#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    Remove(usize),
    Set(usize, u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    (0..6_usize, 0..3_u8, 1..4_u64).prop_map(|(node, kind, size)| match kind {
        0 => Step::Add(node),
        1 => Step::Remove(node),
        _ => Step::Set(node, size * TIB),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Against the plainest model: a table of drives that each request changes at once.
    #[test]
    fn staged_requests_give_the_table_that_they_ask_for(steps in proptest::collection::vec(any_step(), 0..12)) {
        let map = map(4, 2, 1);
        let mut model: BTreeMap<DriveId, u64> = (0..4).map(|node| (drive_id(node, 0), TIB)).collect();
        let mut staged = StagedChanges::default();
        for step in steps {
            let (node, edit) = match step {
                Step::Add(node) => (node, add(&[&format!("node-{node}")])),
                Step::Remove(node) => (node, remove(&[&format!("node-{node}")])),
                Step::Set(node, size) => (node, capacity(&[&format!("node-{node}")], size)),
            };
            let (id, before) = (drive_id(node, 0), model.clone());
            match step {
                Step::Add(_) => drop(model.entry(id).or_insert(TIB)),
                Step::Remove(_) => drop(model.remove(&id)),
                Step::Set(_, size) => drop(model.get_mut(&id).map(|held| *held = size)),
            }
            match staged.edit(&map, &all(&map), &edit) {
                Ok((next, _)) => staged = next,
                Err(_) => prop_assert_eq!(&before, &model, "refused though it changes something: {:?}", edit),
            }
            let table = staged.apply_to(map.layout.drives());
            let table: BTreeMap<DriveId, u64> = table.iter().map(|d| (d.id, d.capacity_bytes)).collect();
            prop_assert_eq!(&table, &model);
        }
        match propose(&map, &staged) {
            Ok(layout) => prop_assert!(layout.drives().len() >= 4),
            Err(refusal) => prop_assert_eq!(refusal, EditError::TooFewDrives { n: 4, left: model.len() }),
        }
        let stored = serde_json::to_vec(&staged).unwrap();
        prop_assert_eq!(serde_json::from_slice::<StagedChanges>(&stored).unwrap(), staged);
    }
}

#[test]
fn golden_form_of_staged_changes() {
    let map = map(4, 1, 1);
    let staged = edited(&map, &[add(&["node-4"]), remove(&["node-0"])]);
    let text = concat!(
        r#"{"version":2,"drives":{"00000000000000010000000000000000":"remove","#,
        r#""00000000000000050000000000000000":{"place":{"node":"node-4","zone":"default","capacity_bytes":1099511627776}}}}"#
    );
    assert_eq!(serde_json::to_string(&staged).unwrap(), text);
}

/// What the nodes say of their drives, each so full in percent.
fn told(map: &ClusterMap, used_percent: &[u64]) -> Vec<NearlyFull> {
    let info = |drive: &DriveRecord, used: u64| DriveInfo {
        capacity_bytes: TIB,
        free_bytes: TIB / 100 * (100 - used),
        ..DriveInfo::unknown(drive.id, drive.incarnation, drive.path.clone(), DriveState::Online)
    };
    let records = map.nodes.values().flat_map(|node| node.drives.iter().map(|drive| (&node.id, drive)));
    let infos: Vec<_> =
        records.zip(used_percent).map(|((node, drive), used)| (node, info(drive, *used))).collect();
    nearly_full(map, infos.iter().map(|(node, info)| (*node, info)))
}

#[test]
fn a_drive_that_is_fuller_than_the_others_is_to_take_as_much_less() {
    // Eight slots on twelve drives would leave room for any share; here every drive has one slot of each partition or none.
    let map = map(6, 0, 3);
    let used = |full: u64| {
        let mut used = vec![48; 18];
        used[0] = full;
        used
    };
    assert_eq!(told(&map, &used(89)), []);
    let found = told(&map, &used(96));
    let share = found[0].share_bytes.unwrap();
    assert_eq!((found.len(), found[0].path.as_str(), found[0].used_percent), (1, "/data0", 96));
    assert!((TIB / 100 * 51..TIB / 100 * 55).contains(&share), "{share}");
    let staged = edited(&map, &[capacity(&["node-0:/data0"], share)]);
    let plan = LayoutPlan::new(&map, &propose(&map, &staged).unwrap());
    let drive = plan.drives.iter().find(|drive| drive.id == found[0].id).unwrap();
    assert!(drive.slots_out > 0 && drive.slots_in == 0, "{drive:?}");
}

#[test]
fn no_share_is_proposed_that_would_not_help() {
    let all_full = told(&map(6, 0, 3), &[95; 18]);
    assert!(all_full.len() == 18 && all_full.iter().all(|drive| drive.share_bytes.is_none()));
    // Four slots on four drives: none of them can take less.
    let narrow = told(&map(4, 0, 1), &[96, 20, 20, 20]);
    assert_eq!(narrow.iter().map(|drive| drive.share_bytes).collect::<Vec<_>>(), [None]);
}
