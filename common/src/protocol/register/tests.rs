use bytes::Bytes;

use super::*;

fn op(counter: u64) -> OpId {
    OpId { session: 1, counter }
}

fn fence(revision: u64) -> Fence {
    Fence { generation: 0, revision }
}

fn tag(revision: u64, seq: u64, writer: u64) -> Tag {
    Tag { fence: fence(revision), seq, writer: op(writer) }
}

fn version(counter: u64) -> Version {
    Version {
        op: op(counter),
        kind: VersionKind::Data,
        k: 2,
        shard_len_bytes: 10,
        block_len_bytes: 4096,
        null_version: true,
        metadata: Bytes::new(),
    }
}

fn tombstone(counter: u64) -> Version {
    Version { kind: VersionKind::Tombstone, k: 0, shard_len_bytes: 0, ..version(counter) }
}

const VOTER: PartitionState = PartitionState {
    epoch: Epoch(0),
    purge_epoch: Epoch(0),
    floor: Tag {
        fence: Fence { generation: 0, revision: 0 },
        seq: 0,
        writer: OpId { session: 0, counter: 0 },
    },
    role: Role::Voter,
};

fn commit(version: Version, tag: Tag) -> SlotRequest {
    SlotRequest::Commit { version, tag }
}

fn stable(version: Version, tag: Tag) -> SlotRequest {
    SlotRequest::Stable { version, tag, acknowledged: SlotSet(0b111) }
}

fn view(step: Step) -> RegisterView {
    match step.reply {
        SlotReply::View(view, _) => view,
        other => panic!("no view: {other:?}"),
    }
}

#[test]
fn a_commit_without_its_prepare_marks_the_shard_missing_and_a_late_prepare_fills_it() {
    let mut register = Register::default();
    let reply = register.step(&VOTER, &commit(version(1), tag(0, 1, 1)));
    assert_eq!(reply, Step { reply: SlotReply::Committed { superseded: false }, changed: true });
    assert!(!register.versions[0].shard_present);
    let shard = Bytes::from_static(b"x");
    assert!(register.step(&VOTER, &SlotRequest::Prepare { op: op(1), shard: shard.clone() }).changed);
    assert!(register.versions[0].shard_present && register.prepared.is_empty());

    let mut register = Register::default();
    assert!(register.step(&VOTER, &SlotRequest::Prepare { op: op(1), shard }).changed);
    assert_eq!(register.current(), None, "a prepared op is invisible");
    register.step(&VOTER, &commit(version(1), tag(0, 1, 1)));
    assert!(register.versions[0].shard_present && register.prepared.is_empty());
}

#[test]
fn a_repeated_commit_changes_nothing_and_one_below_current_is_superseded() {
    let mut register = Register::default();
    register.step(&VOTER, &commit(version(2), tag(0, 2, 2)));
    assert!(!register.step(&VOTER, &commit(version(2), tag(0, 2, 2))).changed);
    let below = register.step(&VOTER, &commit(version(1), tag(0, 1, 1)));
    assert_eq!(below.reply, SlotReply::Committed { superseded: true });
    assert_eq!(register.current().map(|v| v.version.op), Some(op(2)));
    assert_eq!(register.freeable(RegisterKind::Object).count(), 0, "nothing is freed before STABLE");
    register.step(&VOTER, &stable(version(2), tag(0, 2, 2)));
    assert_eq!(register.freeable(RegisterKind::Object).map(|v| v.version.op).collect::<Vec<_>>(), [op(1)]);
    assert!(register.free(RegisterKind::Object, op(1)) && !register.free(RegisterKind::Object, op(2)));
    assert_eq!(register.versions.len(), 1);
}

#[test]
fn a_late_stable_adds_to_the_acknowledgements_that_are_known() {
    let mut register = Register::default();
    let acknowledged =
        |slots| SlotRequest::Stable { version: version(1), tag: tag(0, 1, 1), acknowledged: SlotSet(slots) };
    for (told, known, changed) in [(0b0111, 0b0111, true), (0b1001, 0b1111, true), (0b0010, 0b1111, false)] {
        assert_eq!(register.step(&VOTER, &acknowledged(told)).changed, changed);
        assert_eq!(register.versions[0].acknowledged, SlotSet(known));
    }
}

#[test]
fn a_versioned_write_frees_no_null_version() {
    let mut register = Register::default();
    register.step(&VOTER, &commit(version(1), tag(0, 1, 1)));
    let versioned = Version { null_version: false, ..version(2) };
    register.step(&VOTER, &stable(versioned, tag(0, 2, 2)));
    assert_eq!(register.freeable(RegisterKind::Object).count(), 0);
    register.step(&VOTER, &stable(version(3), tag(0, 3, 3)));
    assert_eq!(register.freeable(RegisterKind::Object).map(|v| v.version.op).collect::<Vec<_>>(), [op(1)]);
}

#[test]
fn a_version_without_shards_keeps_null_versions_and_goes_with_the_next() {
    let pointer = |counter| Version { null_version: false, k: 0, shard_len_bytes: 0, ..version(counter) };
    let freeable = |register: &Register| -> Vec<OpId> {
        register.freeable(RegisterKind::Object).map(|v| v.version.op).collect()
    };
    let mut register = Register::default();
    register.step(&VOTER, &stable(version(1), tag(0, 1, 1)));
    register.step(&VOTER, &stable(pointer(2), tag(0, 2, 2)));
    register.step(&VOTER, &commit(pointer(3), tag(0, 3, 3)));
    assert_eq!(freeable(&register), [], "nothing is freed before STABLE");
    register.step(&VOTER, &stable(pointer(3), tag(0, 3, 3)));
    assert_eq!(freeable(&register), [op(2)]);
    // The same one again, and what it has kept is not needed any more.
    let last = Version { null_version: true, ..pointer(3) };
    register.step(&VOTER, &stable(last, tag(1, 1, 3)));
    assert_eq!(freeable(&register), [op(1), op(2)]);
    register.step(&VOTER, &stable(Version { null_version: true, ..pointer(4) }, tag(2, 1, 4)));
    assert_eq!(freeable(&register), [op(1), op(2), op(3)]);
}

#[test]
fn in_a_parts_register_an_attempt_frees_nothing_and_a_null_version_everything_below() {
    let freeable = |register: &Register| -> Vec<OpId> {
        register.freeable(RegisterKind::Part).map(|v| v.version.op).collect()
    };
    let attempt = |counter| Version { null_version: false, ..version(counter) };
    let mut register = Register::default();
    for counter in 1..4 {
        register.step(&VOTER, &stable(attempt(counter), tag(0, counter, counter)));
    }
    assert_eq!(freeable(&register), []);
    // The second attempt is the one that is left; it moves up, and keeps its shard.
    register.versions[1].shard_present = true;
    register.step(&VOTER, &commit(version(2), tag(5, 1, 2)));
    assert_eq!(freeable(&register), [], "nothing is freed before STABLE");
    register.step(&VOTER, &stable(version(2), tag(5, 1, 2)));
    assert_eq!(freeable(&register), [op(1), op(3)]);
    assert!(register.current().is_some_and(|v| v.version.op == op(2) && v.shard_present));
    assert_eq!(register.freeable(RegisterKind::Object).count(), 0);
    register.step(&VOTER, &stable(attempt(4), tag(5, 2, 4)));
    assert_eq!(freeable(&register), [op(1), op(3)], "a late attempt frees nothing");
}

#[test]
fn a_fence_refuses_lower_tags_and_everyone_but_its_owner() {
    let mut register = Register::default();
    let request = SlotRequest::Fence { fence: fence(5), op: op(9) };
    assert!(register.step(&VOTER, &request).changed);
    assert!(!register.step(&VOTER, &request).changed, "a repeat is answered");
    let refused = |register: &mut Register, tag| register.step(&VOTER, &commit(version(1), tag)).reply;
    assert_eq!(refused(&mut register, tag(4, 1, 1)), SlotReply::Refused(Refusal::Fenced(fence(5))));
    assert_eq!(refused(&mut register, tag(5, 2, 1)), SlotReply::Refused(Refusal::Exclusive(fence(5), op(9))));
    let other = register.step(&VOTER, &SlotRequest::Fence { fence: fence(5), op: op(8) });
    assert_eq!(other.reply, SlotReply::Refused(Refusal::Fenced(fence(5))));
    assert_eq!(refused(&mut register, tag(5, 1, 9)), SlotReply::Committed { superseded: false });
    assert_eq!(register.exclusive, None);
    assert_eq!(refused(&mut register, tag(5, 2, 1)), SlotReply::Committed { superseded: false });
}

#[test]
fn release_and_a_higher_commit_end_exclusivity() {
    let mut register = Register::default();
    register.step(&VOTER, &SlotRequest::Fence { fence: fence(5), op: op(9) });
    assert!(!register.step(&VOTER, &SlotRequest::Release { fence: fence(4) }).changed);
    assert!(register.step(&VOTER, &SlotRequest::Release { fence: fence(5) }).changed);
    register.step(&VOTER, &SlotRequest::Fence { fence: fence(6), op: op(9) });
    register.step(&VOTER, &commit(version(1), tag(7, 1, 1)));
    assert_eq!((register.fence, register.exclusive), (fence(7), None));
}

#[test]
fn a_restamp_raises_the_tag_of_the_same_op() {
    let mut register = Register::default();
    register.step(&VOTER, &stable(version(1), tag(0, 1, 1)));
    register.step(&VOTER, &commit(version(1), tag(3, 0, 9)));
    assert_eq!(register.versions.len(), 1);
    assert_eq!(register.versions[0].tag, tag(3, 0, 9));
    assert_eq!(register.versions[0].state, VersionState::Committed);
    assert!(register.versions[0].acknowledged.is_empty(), "nobody has acknowledged this tag yet");
    assert!(!register.step(&VOTER, &commit(version(1), tag(3, 0, 9))).changed);
}

#[test]
fn installed_versions_have_no_vote_until_a_commit_passes() {
    let mut register = Register::default();
    let install = SlotRequest::Install {
        version: version(1),
        tag: tag(2, 1, 1),
        source_stable: false,
        shard: Bytes::from_static(b"x"),
    };
    register.step(&VOTER, &install);
    assert_eq!(register.versions[0].state, VersionState::Learned);
    assert!(register.versions[0].shard_present);
    assert_eq!(register.fence, fence(2));
    register.step(&VOTER, &commit(version(1), tag(2, 1, 1)));
    assert_eq!(register.versions[0].state, VersionState::Committed);
    assert!(!register.step(&VOTER, &install).changed, "never lowers");
}

#[test]
fn the_floor_is_told_but_never_a_version() {
    let floored = PartitionState { floor: tag(4, 7, 3), ..VOTER };
    let mut register = Register::default();
    let seen = view(register.step(&floored, &SlotRequest::Query { inline_data: false }));
    assert_eq!((seen.fence, seen.learn, seen.current), (fence(4), tag(4, 7, 3), None));
    assert!(register.is_vacant());
    let below = register.step(&floored, &commit(version(1), tag(4, 1, 1)));
    assert_eq!(below.reply, SlotReply::Committed { superseded: false }, "recorded although below the floor");
    let higher = PartitionState { floor: tag(9, 9, 9), ..VOTER };
    let seen = view(register.step(&higher, &SlotRequest::Query { inline_data: false }));
    assert_eq!((seen.fence, seen.learn), (fence(4), tag(4, 7, 3)), "a record has copied its floor");
}

#[test]
fn a_tombstone_is_dropped_only_stable_alone_and_unfenced() {
    let (mut register, dropped) = (Register::default(), tag(2, 3, 1));
    register.step(&VOTER, &commit(tombstone(1), dropped));
    assert_eq!(register.floor_to_drop(dropped), None);
    register.step(&VOTER, &stable(tombstone(1), dropped));
    register.step(&VOTER, &SlotRequest::Fence { fence: fence(6), op: op(2) });
    assert_eq!(register.floor_to_drop(dropped), None);
    register.step(&VOTER, &SlotRequest::Release { fence: fence(6) });
    assert_eq!(
        (register.floor_to_drop(dropped), register.floor_to_drop(tag(2, 4, 1))),
        (Some(tag(6, 3, 1)), None)
    );
    let floor = |floor| PartitionState { floor, ..VOTER };
    assert!(!register.drop_tombstone(&floor(dropped), dropped), "the floor does not cover its fence");
    assert!(register.drop_tombstone(&floor(tag(6, 3, 1)), dropped) && register.is_vacant());

    let mut marker = Register::default();
    marker.step(&VOTER, &stable(Version { null_version: false, ..tombstone(1) }, dropped));
    assert_eq!(marker.floor_to_drop(dropped), None, "a delete marker is a version that people see");
}

#[test]
fn epochs_only_rise_and_old_requests_are_refused() {
    let mut partition = VOTER;
    assert_eq!(partition.admit(Epoch(2)), Ok(true));
    assert_eq!(partition.admit(Epoch(2)), Ok(false));
    assert_eq!(partition.admit(Epoch(1)), Err(Refusal::WrongEpoch(Epoch(2))));
    assert!(partition.adopt_purge(Epoch(4)) && !partition.adopt_purge(Epoch(3)));
    assert_eq!((partition.epoch, partition.purge_epoch), (Epoch(4), Epoch(4)));
    partition.role = Role::Out;
    assert_eq!(partition.admit(Epoch(9)), Err(Refusal::NotVoter));
}

#[test]
fn a_joining_slot_records_without_a_vote_and_learns_by_hand_over() {
    let joining = PartitionState { role: Role::Joining, ..VOTER };
    let mut joiner = Register::default();
    let step = joiner.step(&joining, &commit(version(1), tag(0, 1, 1)));
    assert_eq!(step.reply, SlotReply::Refused(Refusal::NotVoter));
    assert_eq!(joiner.versions[0].state, VersionState::Learned);

    let mut voter = Register::default();
    voter.step(&VOTER, &commit(version(2), tag(1, 1, 2)));
    voter.step(&VOTER, &SlotRequest::Fence { fence: fence(3), op: op(7) });
    assert!(joiner.hand_over(&joining, &voter));
    assert_eq!(joiner.current().map(|v| (v.tag, v.state)), Some((tag(1, 1, 2), VersionState::Learned)));
    assert_eq!((joiner.fence, joiner.exclusive), (fence(3), Some((fence(3), op(7)))));
    voter.step(&VOTER, &stable(version(2), tag(1, 1, 2)));
    let acknowledged = voter.current().map(|v| v.acknowledged);
    assert!(acknowledged.is_some_and(|slots| !slots.is_empty()));
    joiner.hand_over(&joining, &voter);
    assert_eq!(joiner.current().map(|v| v.state), Some(VersionState::Stable));
    assert_eq!(joiner.current().map(|v| v.acknowledged), acknowledged, "it would owe it to everybody");
}
