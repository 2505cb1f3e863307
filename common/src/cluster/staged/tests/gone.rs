//! Drives and nodes that are not there, and slots that go back.

use super::*;
use crate::cluster::{partition_key, progress_key};

#[test]
fn drives_that_are_not_there_are_not_added_but_by_their_own_names() {
    let mut stored = entries(4, 2, 2);
    let mut node = node_record(4, 2);
    node.drives[1].absent = true;
    stored.push((node_key(&node.id), serde_json::to_vec(&node).unwrap()));
    let map = map_of(&stored);
    let mut live = all(&map);
    live.remove(&NodeId("node-5".to_owned()));
    let nothing = StagedChanges::default();
    let skipped = |edit: &LayoutEdit| {
        let (staged, skipped) = nothing.edit(&map, &live, edit).unwrap();
        let skipped = skipped.into_iter().map(|drive| (drive.place, drive.why));
        (staged.drives.into_keys().collect::<Vec<_>>(), skipped.collect::<Vec<_>>())
    };
    let absent = ("node-4:/data1".to_owned(), SkipReason::Absent);
    let away = |drive: usize| (format!("node-5:/data{drive}"), SkipReason::NodeAway);
    assert_eq!(skipped(&add(&[])), (vec![drive_id(4, 0)], vec![absent.clone(), away(0), away(1)]));
    assert_eq!(skipped(&add(&["node-4"])), (vec![drive_id(4, 0)], vec![absent]));
    assert_eq!(skipped(&add(&["node-4:/data1"])), (vec![drive_id(4, 1)], vec![]));
    assert_eq!(skipped(&add(&["node-5"])), (vec![drive_id(5, 0), drive_id(5, 1)], vec![]));
    live.remove(&NodeId("node-4".to_owned()));
    let refusal = nothing.edit(&map, &live, &add(&[])).unwrap_err().to_string();
    assert!(refusal.contains("changes nothing") && refusal.contains("node-5:/data1 (its node is away)"));
}

#[test]
fn a_nodes_name_means_those_of_its_drives_that_are_in_the_layout() {
    let mut stored = entries(4, 0, 2);
    let spare = node_record(0, 3);
    stored.push((node_key(&spare.id), serde_json::to_vec(&spare).unwrap()));
    let map = map_of(&stored);
    for edit in [remove(&["node-0"]), capacity(&["node-0"], 5)] {
        let (staged, skipped) = StagedChanges::default().edit(&map, &all(&map), &edit).unwrap();
        assert_eq!(staged.drives.into_keys().collect::<Vec<_>>(), [drive_id(0, 0), drive_id(0, 1)]);
        let skipped: Vec<_> = skipped.into_iter().map(|drive| (drive.id, drive.why)).collect();
        assert_eq!(skipped, [(drive_id(0, 2), SkipReason::NotPlaced)]);
    }
    assert!(refused(&map, &remove(&["node-1", "node-0:/data2"])).contains("nothing to remove"));
    // What is to leave already is not set.
    let staged = edited(&map, &[remove(&["node-0:/data0"]), capacity(&["node-0"], 5)]);
    assert_eq!(staged.drives[&drive_id(0, 0)], DriveChange::Remove);
}

#[tokio::test]
async fn slots_that_have_moved_back_are_counted() {
    let coordinator = coordinator(4, 1, 1).await;
    let read = async || LayoutState::read(&*coordinator).await.unwrap();
    let version = stage(&coordinator, &add(&[])).await;
    let state = read().await;
    state.make_target(&state.planned(Some(version)).unwrap(), &*coordinator).await.unwrap();
    let mut state = read().await;
    let moves = MoveProgress::of(&state.map).unwrap();
    let put = async |map: &ClusterMap, partition: u16| {
        let record = map.record(PartitionId(partition)).encode();
        let key = partition_key(PartitionId(partition));
        coordinator.put(&key, record.into(), Expected::Any, false).await.unwrap();
    };
    move_slots(&mut state.map, 0..512);
    for partition in 0..512 {
        put(&state.map, partition).await;
    }
    let moved = MoveProgress::of(&state.map).unwrap().moved;
    assert!(moved > 100 && moves.total > moved);

    let state = read().await;
    state.make_target(&state.before_moves().unwrap(), &*coordinator).await.unwrap();
    let mut state = read().await;
    let progress = |moved, waiting| {
        Some(MoveProgress { version: 3, total: moved + waiting, moved, under_way: 0, waiting })
    };
    assert_eq!(MoveProgress::of(&state.map), progress(0, moved));
    move_slots(&mut state.map, 0..512);
    assert_eq!(MoveProgress::of(&state.map), progress(moved, 0));
}

#[tokio::test]
async fn a_node_is_forgotten_only_when_it_is_gone_and_no_layout_needs_it() {
    let coordinator = coordinator(4, 1, 1).await;
    let read = async || LayoutState::read(&*coordinator).await.unwrap();
    let node = |number: usize| node_record(number, 1).id;
    let refusal = async |number: usize| match read().await.forget(&node(number), &*coordinator).await {
        Err(LayoutStateError::Forget(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let needed = async |number: usize| match refusal(number).await {
        ForgetRefusal::Needed { why, .. } => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(9).await, ForgetRefusal::Unknown(node(9)));
    assert_eq!(refusal(4).await, ForgetRefusal::Live(node(4)));
    for number in [0, 4] {
        coordinator.delete(&live_key(&node(number)), Expected::Any).await.unwrap();
    }
    assert_eq!(needed(0).await, "holds slots");
    let version = {
        let mut state = read().await;
        state.live.insert(node(4));
        let (state, ..) = state.edited(&add(&[])).unwrap();
        state.store(&*coordinator).await.unwrap();
        state.staged.version
    };
    assert!(matches!(refusal(4).await, ForgetRefusal::Staged { .. }));
    let state = read().await;
    state.make_target(&state.planned(Some(version)).unwrap(), &*coordinator).await.unwrap();
    assert_eq!(needed(4).await, "is part of the layout that the slots move to");
    let state = read().await;
    state.make_target(&state.before_moves().unwrap(), &*coordinator).await.unwrap();
    let record = PartitionRecord {
        slots: vec![SlotRecord { source: Some(drive_id(4, 0)), ..SlotRecord::default() }; 4],
        ..PartitionRecord::new(4)
    };
    let key = partition_key(PartitionId(7));
    coordinator.put(&key, record.encode().into(), Expected::Any, false).await.unwrap();
    assert_eq!(needed(4).await, "is what slots that have moved are copied from");
    coordinator.delete(&key, Expected::Any).await.unwrap();

    // Of a node that starts at that moment nothing is lost, nor is a change of the layout missed.
    let progress = progress_key(&node(4));
    let record = coordinator.get(&node_key(&node(4))).await.unwrap().unwrap().value;
    for key in [live_key(&node(4)), node_key(&node(4)), LAYOUT_TARGET_KEY.to_owned()] {
        let before = coordinator.get(&key).await.unwrap();
        let state = read().await;
        let value = before.as_ref().map_or_else(|| record.clone(), |entry| entry.value.clone());
        coordinator.put(&key, value, Expected::Any, false).await.unwrap();
        let refused = state.forget(&node(4), &*coordinator).await;
        assert!(matches!(refused, Err(LayoutStateError::Forget(ForgetRefusal::Changed))), "{key}");
        if before.is_none() {
            coordinator.delete(&key, Expected::Any).await.unwrap();
        }
    }
    coordinator.put(&progress, "[]".into(), Expected::Any, false).await.unwrap();
    read().await.forget(&node(4), &*coordinator).await.unwrap();
    assert_eq!(coordinator.get(&node_key(&node(4))).await.unwrap(), None);
    assert_eq!(coordinator.get(&progress).await.unwrap(), None);
    assert!(!read().await.map.nodes.contains_key(&node(4)));
}

#[tokio::test]
async fn drives_that_were_taken_out_come_back_only_by_their_names() {
    let coordinator = coordinator(4, 1, 1).await;
    let read = async || LayoutState::read(&*coordinator).await.unwrap();
    let refusal = async || read().await.edited(&add(&[])).unwrap_err().to_string();
    let out = "node-0:/data0 (it was taken out of the layout: name it";
    stage(&coordinator, &add(&["node-4"])).await;
    stage(&coordinator, &remove(&["node-0"])).await;
    let state = read().await;
    let target = state.planned(None).unwrap();
    state.make_target(&target, &*coordinator).await.unwrap();
    assert!(refusal().await.contains(out), "on its way out");
    coordinator.put(LAYOUT_KEY, target.encode().into(), Expected::Any, false).await.unwrap();
    coordinator.delete(LAYOUT_TARGET_KEY, Expected::Any).await.unwrap();
    assert!(refusal().await.contains(out), "out");
    let by_name = read().await.edited(&add(&["node-0"])).unwrap().0;
    assert_eq!(by_name.staged.drives.into_keys().collect::<Vec<_>>(), [drive_id(0, 0)]);

    // Once it is forgotten it is a new one.
    let node = node_record(0, 1);
    coordinator.delete(&live_key(&node.id), Expected::Any).await.unwrap();
    read().await.forget(&node.id, &*coordinator).await.unwrap();
    let record = serde_json::to_vec(&node).unwrap();
    coordinator.put(&node_key(&node.id), record.into(), Expected::Any, false).await.unwrap();
    coordinator.put(&live_key(&node.id), "{}".into(), Expected::Any, false).await.unwrap();
    let again = read().await.edited(&add(&[])).unwrap().0;
    assert_eq!(again.staged.drives.into_keys().collect::<Vec<_>>(), [drive_id(0, 0)]);
}
