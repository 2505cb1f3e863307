//! Slots that moved after the copies were made: who has them, and where nobody knows.

use super::*;
use crate::layout::{LayoutDrive, SlotMove, SlotRecord};

/// A slot that a fifth drive takes after the copies were made.
const TAKEN: (PartitionId, SlotIndex) = (PartitionId(12), SlotIndex(1));
const SPARE: DriveId = DriveId(5);
/// A drive that may take one after it.
const SIXTH: DriveId = DriveId(6);
const VOTER: SlotRole = SlotRole::Voter;
const JOINING: SlotRole = SlotRole::Joining;

/// So many epochs after the copies.
fn since(epochs: u64) -> Epoch {
    Epoch(4 + epochs)
}

/// What a drive tells of the slot, by epochs since the copies; `taken` 0: it has not taken it since.
fn word(epoch: u64, role: SlotRole, taken: u64) -> PartitionReport {
    let taken = if taken == 0 { Epoch(0) } else { since(taken) };
    PartitionReport { role, slots: Some(vec![TAKEN.1]), taken, ..old_word(TAKEN.0, since(epoch)) }
}

/// The entries of a cluster that has two drives more, with a target that has them at these slots of the partition.
fn copied(goals: &[(SlotIndex, DriveId)], incarnation: Incarnation) -> Vec<Entry> {
    let mut entries = tables();
    let known = ClusterMap::from_entries(entries.iter()).unwrap().unwrap();
    for id in [SPARE, SIXTH] {
        let mut more = node(id.0);
        more.drives[0].incarnation = incarnation;
        entries.push(entry(&node_key(&more.id), serde_json::to_vec(&more).unwrap(), 4));
    }
    let record = PartitionRecord { epoch: since(0), ..PartitionRecord::new(4) };
    entries.push(entry(&partition_key(TAKEN.0), record.encode(), 31));
    let describe =
        |id: DriveId| LayoutDrive { id, node: node(id.0).id, zone: String::new(), capacity_bytes: 1 << 40 };
    let goals = goals.iter().map(|(slot, drive)| (TAKEN.0, *slot, *drive));
    let target = known.layout.with_slots(goals, describe).at_version(2);
    entries.retain(|entry| entry.key != LAYOUT_TARGET_KEY);
    entries.push(entry(LAYOUT_TARGET_KEY, target.encode(), 30));
    entries
}

/// The same entries, where the slot is at this drive, on its way from that one.
fn at(drive: DriveId, source: Option<DriveId>, mut entries: Vec<Entry>) -> Vec<Entry> {
    let key = partition_key(TAKEN.0);
    let mut record = PartitionRecord { epoch: since(0), ..PartitionRecord::new(4) };
    record.slots[usize::from(TAKEN.1.0)] = SlotRecord { role: VOTER, drive: Some(drive), source };
    entries.retain(|entry| entry.key != key);
    entries.push(entry(&key, record.encode(), 31));
    entries
}

/// The drive that has the slot by the copies.
fn former() -> DriveId {
    ClusterMap::from_entries(tables().iter()).unwrap().unwrap().drive_of(TAKEN.0, TAKEN.1)
}

/// Reports of the first four drives and of those that tell something of the slot.
fn told(entries: &[Entry], words: &[(DriveId, PartitionReport)]) -> Vec<DriveReport> {
    let mut all = reports();
    for drive in [SPARE, SIXTH].into_iter().filter(|id| words.iter().any(|(drive, _)| drive == id)) {
        let path = format!("/data{}", drive.0);
        all.push(DriveReport { path, drive, partitions: Vec::new(), ..all[0].clone() });
    }
    for report in &mut all {
        report.copies = vec![copy(SnapshotKind::Layout, 31, entries)];
        let of_drive = words.iter().filter(|(drive, _)| *drive == report.drive);
        report.partitions.extend(of_drive.map(|(_, word)| word.clone()));
    }
    all
}

/// Reports of five drives: what the drive before tells of the slot, and the fifth. It takes the slot by a target that is in
/// the copies, or not.
fn taken(by_known_target: bool, before: PartitionReport, after: PartitionReport) -> Vec<DriveReport> {
    let goals: &[_] = if by_known_target { &[(TAKEN.1, SPARE)] } else { &[] };
    told(&copied(goals, Incarnation(0)), &[(former(), before), (SPARE, after)])
}

/// The reports of these drives, and of this many others of the first four.
fn only(reports: &[DriveReport], drives: &[DriveId], mut others: usize) -> Vec<DriveReport> {
    let mut kept = reports.to_vec();
    kept.retain(|report| {
        let is_other = report.drive.0 <= DRIVES && report.drive != former() && others > 0;
        others -= usize::from(is_other);
        is_other || drives.contains(&report.drive)
    });
    kept
}

/// The drive that gets the slot back.
fn holder(reports: &[DriveReport], accept_half: bool) -> DriveId {
    map(&Recovery::plan(reports, accept_half).unwrap()).drive_of(TAKEN.0, TAKEN.1)
}

/// The places of which nobody knows who has them.
fn undecided(reports: &[DriveReport], accept_half: bool) -> String {
    match Recovery::plan(reports, accept_half) {
        Err(RecoveryRefusal::Undecided { slots: 1, places, .. }) => places,
        other => panic!("{other:?}"),
    }
}

/// What has become of the only slot that is undecided.
fn decided(reports: &[DriveReport]) -> String {
    let recovery = Recovery::plan(reports, true).unwrap();
    let [place] = &recovery.decided[..] else { panic!("{:?}", recovery.decided) };
    place.clone()
}

#[test]
fn a_slot_that_was_taken_after_the_copy_does_not_go_back_to_a_drive_that_missed_writes() {
    for by_known_target in [true, false] {
        // The drive before has handed over, and would still vote.
        let reports = taken(by_known_target, word(1, VOTER, 0), word(1, VOTER, 1));
        let recovery = Recovery::plan(&reports, false).unwrap();
        let moved = SlotMove { partition: TAKEN.0, slot: TAKEN.1, from: former(), to: SPARE };
        assert_eq!((&recovery.moved[..], &recovery.behind[..]), (&[moved][..], &[TAKEN.0][..]));
        let map = map(&recovery);
        assert_eq!(map.drive_of(TAKEN.0, TAKEN.1), SPARE);
        assert_eq!(map.source_of(TAKEN.0, TAKEN.1), Some(former()), "shards are still there");
        assert!(map.votes(TAKEN.0, TAKEN.1));
        let others = (0..4).map(SlotIndex).filter(|slot| *slot != TAKEN.1);
        let mut others = others.map(|slot| map.drive_of(TAKEN.0, slot));
        assert!(others.all(|drive| drive != SPARE && drive != former()));
    }
}

#[test]
fn of_drives_that_claim_a_slot_the_one_that_took_it_last_has_it() {
    let cases = [
        (word(0, VOTER, 0), word(1, VOTER, 1), true, "it was taken while the drive before was away"),
        (word(1, SlotRole::Out, 0), word(2, VOTER, 1), true, "the drive before has left"),
        (word(3, VOTER, 3), word(2, VOTER, 1), false, "it was taken back"),
        (word(3, VOTER, 3), word(3, VOTER, 1), false, "it was taken back, and the fifth has handed over"),
        (word(3, VOTER, 3), word(3, SlotRole::Out, 1), false, "it was taken back, and the fifth has left"),
        (word(1, VOTER, 0), word(1, JOINING, 1), false, "the fifth has not voted yet"),
        (word(2, VOTER, 0), word(1, VOTER, 1), true, "its peers have told the drive before of a later epoch"),
    ];
    for (before, after, is_taken, why) in cases {
        for by_known_target in [true, false] {
            let reports = taken(by_known_target, before.clone(), after.clone());
            assert_eq!(holder(&reports, false), if is_taken { SPARE } else { former() }, "{why}");
        }
    }
    let back = Recovery::plan(&taken(true, word(3, VOTER, 3), word(2, VOTER, 1)), false).unwrap();
    assert_eq!(map(&back).source_of(TAKEN.0, TAKEN.1), Some(SPARE), "what came meanwhile is there");
}

#[test]
fn a_drive_that_has_lost_the_slot_since_keeps_it_and_learns_anew() {
    let mut damaged = taken(false, word(1, VOTER, 0), word(1, VOTER, 1));
    damaged[4].damage = Some("a record does not verify".to_owned());
    let mut again = taken(false, word(1, VOTER, 0), word(2, JOINING, 2));
    again[4].incarnation = Incarnation(1);
    assert_eq!((holder(&damaged, false), holder(&again, false)), (SPARE, SPARE));

    // The drive before does not count for the slot as read, and is not done without where only one other slot votes.
    let refused = Recovery::plan(&only(&damaged, &[former(), SPARE], 2), false).unwrap_err();
    assert!(matches!(refused, RecoveryRefusal::TooFew { partitions: 1, .. }), "{refused:?}");
    let few = only(&damaged, &[former(), SPARE], 1);
    assert!(decided(&few).contains("is damaged or replaced") && holder(&few, true) == former());
}

#[test]
fn a_drive_that_was_replaced_before_the_copy_and_has_only_begun_to_take_a_slot_claims_nothing() {
    let replaced = |before, after| {
        let words = [(former(), before), (SPARE, after)];
        let mut reports = told(&copied(&[], Incarnation(1)), &words);
        reports[4].incarnation = Incarnation(1);
        reports
    };
    assert_eq!(holder(&replaced(word(1, VOTER, 0), word(1, JOINING, 1)), false), former());
    assert_eq!(holder(&replaced(word(1, VOTER, 0), word(1, VOTER, 1)), false), SPARE);

    let mut lost = taken(false, word(3, VOTER, 3), word(3, JOINING, 3));
    lost[4].incarnation = Incarnation(1);
    assert_eq!(holder(&lost, false), former(), "of two that are alike the one that votes has it");
}

#[test]
fn on_equal_epochs_a_slot_is_not_given_to_a_drive_that_took_it_before_the_copy() {
    // When the fifth took it is not known any more.
    let older = PartitionReport { taken: Epoch(3), ..word(1, VOTER, 0) };
    for before in [older, word(1, VOTER, 0), word(1, VOTER, 1)] {
        let reports = taken(false, before, word(1, VOTER, 0));
        let place = undecided(&reports, false);
        assert!(place.contains("partition 12, slot 1: either drive"), "{place}");
        assert!(place.contains(&former().to_string()) && place.contains(&SPARE.to_string()), "{place}");
        assert!(place.contains("with `--accept-half`") && decided(&reports).contains("has it"), "{place}");
    }
    for epoch in [1, 2] {
        let reports = taken(false, word(epoch, VOTER, 0), word(1, VOTER, 0));
        assert!(undecided(&reports, false).contains("either drive"), "epochs do not decide");
        assert_eq!(holder(&reports, true), SPARE);
    }

    // An older export does not tell whether the drive before has taken it back.
    let reports = taken(false, old_word(TAKEN.0, since(3)), word(3, VOTER, 1));
    let place = undecided(&reports, true);
    assert!(place.contains("export again with this version; if the drive is gone since"), "{place}");
}

#[test]
fn a_slot_that_was_on_its_way_by_the_copy_does_not_go_back_to_the_drive_before() {
    // Either may have adopted an epoch since: another slot was marked, or the cut-over came late.
    let took = |epoch| PartitionReport { taken: since(0), ..word(epoch, VOTER, 0) };
    let moving = at(SPARE, Some(former()), copied(&[], Incarnation(0)));
    for epoch in [0, 1] {
        let recovery =
            Recovery::plan(&told(&moving, &[(former(), word(1, VOTER, 0)), (SPARE, took(epoch))]), false);
        let map = map(&recovery.unwrap());
        let slot = (map.drive_of(TAKEN.0, TAKEN.1), map.source_of(TAKEN.0, TAKEN.1));
        assert_eq!(slot, (SPARE, Some(former())));
    }

    // Nor where the drive that has it is away, and the target has changed.
    let out = PartitionReport { role: SlotRole::Out, ..word(0, VOTER, 0) };
    for goal in [former(), SIXTH] {
        let moving = at(SPARE, Some(former()), copied(&[(TAKEN.1, goal)], Incarnation(0)));
        let words = [(former(), word(1, VOTER, 0)), (SIXTH, out.clone())];
        assert_eq!(holder(&told(&moving, &words), false), SPARE);
    }

    // It may have taken the slot back, and an older export does not tell.
    for epoch in [0, 1] {
        let words = [(former(), old_word(TAKEN.0, since(1))), (SPARE, took(epoch))];
        assert!(undecided(&told(&moving, &words), true).contains("export again"));
    }
    let back = [(former(), word(3, VOTER, 3)), (SPARE, took(2))];
    assert_eq!(holder(&told(&moving, &back), false), former(), "it tells that it has");
}

#[test]
fn a_drive_that_does_not_tell_which_slot_it_took_is_named() {
    let old = || old_word(TAKEN.0, since(1));
    let place = undecided(&taken(false, word(0, VOTER, 0), old()), true);
    assert!(place.contains("does not tell which") && place.contains("export again"), "{place}");
    assert_eq!(holder(&taken(true, word(0, VOTER, 0), old()), false), SPARE, "the target tells");

    let empty = |purge_epoch| PartitionReport { slots: Some(Vec::new()), purge_epoch, ..old() };
    let reports = taken(false, word(0, VOTER, 0), empty(since(0)));
    assert_eq!(holder(&reports, false), former(), "it has promised nothing");
    let reports = taken(true, word(0, VOTER, 0), empty(since(0)));
    assert_eq!(holder(&reports, false), former(), "the slot may be another one than that of the target");
    // What it had may have been purged.
    let reports = taken(false, word(0, VOTER, 0), empty(since(1)));
    assert!(undecided(&reports, false).contains("with `--accept-half`"));
    assert!(decided(&reports).contains("stays with") && holder(&reports, true) == former());

    let several = PartitionReport { slots: Some(vec![SlotIndex(0), TAKEN.1]), ..word(1, VOTER, 0) };
    let reports = told(&copied(&[], Incarnation(0)), &[(former(), several)]);
    assert_eq!(holder(&reports, false), former(), "the copy tells which of them it is");
}

#[test]
fn a_drive_that_may_have_voted_since_it_was_read_is_to_be_stopped_and_read_again() {
    let running = |before, after| {
        let mut reports = taken(true, before, after);
        reports[4].in_use = true;
        reports
    };
    let place = undecided(&running(word(1, VOTER, 0), word(1, JOINING, 1)), true);
    assert!(place.contains("stop that node and export it again; then it may run"), "{place}");
    assert!(place.contains("/data5") && place.contains("n5"), "{place}");
    // Then it has written nothing since, and the report of before may be given too.
    let mut again = running(word(1, VOTER, 0), word(1, JOINING, 1));
    let stopped = DriveReport { in_use: false, read_ms: again[4].read_ms + 1, ..again[4].clone() };
    again.push(stopped);
    assert_eq!(holder(&again, false), former());
    again.rotate_right(1);
    assert_eq!(holder(&again, false), former());
    let alone = running(word(0, VOTER, 0), word(1, JOINING, 1));
    assert_eq!(holder(&alone, false), former(), "no slot has heard of it");
    assert_eq!(holder(&running(word(1, VOTER, 0), word(1, VOTER, 1)), false), SPARE);
}

#[test]
fn a_drive_that_lost_the_race_for_a_slot_or_whose_take_did_not_come_is_no_doubt() {
    let running = |words: &[(DriveId, PartitionReport)]| {
        let mut reports = told(&copied(&[(TAKEN.1, SPARE)], Incarnation(0)), words);
        reports.last_mut().unwrap().in_use = true;
        reports
    };
    // The fifth has finished meanwhile, so that its take does not account for every epoch.
    let lost = [(former(), word(1, VOTER, 0)), (SPARE, word(2, VOTER, 1)), (SIXTH, word(1, JOINING, 1))];
    assert_eq!(holder(&running(&lost), false), SPARE);
    // The last slot that moved was finished after the copy; nobody has heard of this one.
    let begun = [(former(), word(1, VOTER, 0)), (SPARE, word(2, JOINING, 2))];
    assert_eq!(holder(&running(&begun), false), former());
}

#[test]
fn a_take_that_has_only_begun_is_no_change_that_others_may_have_part_in() {
    let words = [(SPARE, word(1, JOINING, 1))];
    // By the target a drive that was not read was to take the slot.
    let reports = told(&copied(&[(TAKEN.1, SIXTH)], Incarnation(0)), &words);
    assert_eq!(holder(&reports, false), former());
    let heard = [(former(), word(1, VOTER, 0)), (SPARE, word(1, JOINING, 1))];
    let reports = told(&copied(&[(TAKEN.1, SIXTH)], Incarnation(0)), &heard);
    assert!(undecided(&reports, false).contains("/data6"));
}

#[test]
fn a_slot_that_a_drive_may_have_taken_that_was_not_read_stays_with_the_drive_that_was() {
    // If it had not begun to take the slot, it would vote at once, and know nothing.
    let reports = taken(true, word(1, VOTER, 0), word(1, VOTER, 1));
    let unread = only(&reports, &[former()], 3);
    let place = undecided(&unread, false);
    assert!(place.contains("partition 12, slot 1") && place.contains(&former().to_string()), "{place}");
    assert!(place.contains("/data5") && place.contains("n5"), "{place}");
    assert!(place.contains("and was not read: read that drive"), "{place}");
    let refused = Recovery::plan(&unread, false).unwrap_err().to_string();
    assert!(refused.contains("`--accept-half` decides 1 of them"), "{refused}");
    for others in [1, 3] {
        let unread = only(&reports, &[former()], others);
        assert_eq!(holder(&unread, true), former());
        assert!(decided(&unread).contains("keeps it"), "{}", decided(&unread));
    }

    let quiet = only(&taken(true, word(0, VOTER, 0), word(0, VOTER, 0)), &[former()], 3);
    assert_eq!(holder(&quiet, false), former(), "no slot knows of a change");

    // By the target of the copies the fifth was to have it; the sixth took it, by a later one or from the fifth.
    let words = [(former(), word(1, VOTER, 0)), (SIXTH, word(3, VOTER, 3))];
    let place = undecided(&told(&copied(&[(TAKEN.1, SPARE)], Incarnation(0)), &words), false);
    assert!(place.contains("/data6` on node n6) had it") && place.contains("/data5"), "{place}");

    let goals = [(TAKEN.1, SPARE), (SlotIndex(2), SIXTH)];
    let both = told(&copied(&goals, Incarnation(0)), &[(former(), word(2, VOTER, 0))]);
    let refused = Recovery::plan(&both, false).unwrap_err();
    assert!(matches!(refused, RecoveryRefusal::Undecided { slots: 2, lifted: 2, .. }), "{refused:?}");
    let recovery = Recovery::plan(&both, true).unwrap();
    assert_eq!((recovery.moved.len(), recovery.decided.len()), (0, 2));
}

#[test]
fn what_is_said_of_a_drive_that_was_not_read_as_it_was_helps() {
    let words = [(former(), word(1, VOTER, 0)), (SPARE, word(0, JOINING, 0))];
    let reports = |known| told(&copied(&[(TAKEN.1, SPARE)], Incarnation(known)), &words);
    let mut damaged = reports(0);
    damaged[4].damage = Some("a record does not verify".to_owned());
    let place = undecided(&damaged, false);
    assert!(place.contains("is damaged or replaced: no drive tells more; with `--accept-half`"), "{place}");
    let mut replaced = reports(0);
    replaced[4].incarnation = Incarnation(1);
    assert!(undecided(&replaced, false).contains("is damaged or replaced: no drive tells more"));
    let place = undecided(&reports(1), false);
    assert!(
        place.contains("only an older copy of it was read: read the drive that is in its place"),
        "{place}"
    );
}

#[test]
fn a_slot_does_not_wait_for_a_drive_that_lost_it_where_too_few_others_say_that_they_vote() {
    let known = ClusterMap::from_entries(tables().iter()).unwrap().unwrap();
    let [first, third] = [0, 2].map(|slot| {
        let joins = PartitionReport { slots: Some(vec![SlotIndex(slot)]), ..word(1, JOINING, 1) };
        (known.drive_of(TAKEN.0, SlotIndex(slot)), joins)
    });
    let taken = [(former(), word(1, VOTER, 0)), (SPARE, word(1, VOTER, 1))];
    let lost = |words: &[(DriveId, PartitionReport)]| {
        let mut reports = told(&copied(&[], Incarnation(0)), words);
        reports[4].damage = Some("a record does not verify".to_owned());
        reports
    };
    let [before, after] = taken;
    let one = lost(&[before.clone(), after.clone(), first.clone()]);
    assert_eq!(holder(&one, false), SPARE, "two of four vote");
    let two = lost(&[before, after, first, third]);
    assert!(undecided(&two, false).contains("too few of which vote"));
    assert_eq!(holder(&two, true), former());
}

#[test]
fn of_two_slots_one_does_not_wait_for_a_drive_that_lost_it() {
    // It would have to learn from two others.
    let nodes = [node(1), node(2), node(SPARE.0)];
    let layout = first_layout(&nodes[..2], ClusterId(7)).unwrap();
    let mut entries = vec![
        entry(CLUSTER_KEY, serde_json::to_vec(&layout.record).unwrap(), 2),
        entry(LAYOUT_KEY, layout.layout.encode(), 2),
    ];
    entries.extend(nodes.iter().map(|n| entry(&node_key(&n.id), serde_json::to_vec(n).unwrap(), 3)));
    let before = layout.layout.drives_of(TAKEN.0).nth(1).unwrap().id;
    let mut reports = told(&entries, &[(before, word(1, VOTER, 0)), (SPARE, word(1, VOTER, 1))]);
    reports.retain(|report| nodes.iter().any(|node| node.drives[0].id == report.drive));
    reports[2].damage = Some("a record does not verify".to_owned());
    assert!(undecided(&reports, false).contains("is damaged or replaced"));
    assert_eq!(holder(&reports, true), before);
}

#[test]
fn too_few_drives_by_the_copy_do_not_hide_what_is_undecided() {
    // The sixth is dead, and the fifth took its slot; another drive is away, so that it is needed for M.
    let copied = at(SIXTH, None, copied(&[], Incarnation(0)));
    let nameless = old_word(PartitionId(13), since(1));
    let mut reports = told(&copied, &[(SPARE, word(1, VOTER, 1)), (SPARE, nameless)]);
    let away = reports.iter().position(|report| report.drive.0 <= DRIVES && report.drive != former());
    reports.remove(away.unwrap());
    assert!(undecided(&reports, false).contains("partition 13"));
}

#[test]
fn a_slot_that_the_record_of_the_copy_lacks_is_written_all_the_same() {
    let mut entries = copied(&[], Incarnation(0));
    let key = partition_key(TAKEN.0);
    entries.retain(|entry| entry.key != key);
    let short = PartitionRecord { epoch: since(0), ..PartitionRecord::new(1) };
    entries.push(entry(&key, short.encode(), 31));
    let words = [(former(), word(1, VOTER, 0)), (SPARE, word(1, VOTER, 1))];
    assert_eq!(holder(&told(&entries, &words), false), SPARE);
}

#[test]
fn a_drive_that_has_changed_its_slot_does_not_keep_the_one_before() {
    let before = map(&Recovery::plan(&reports(), false).unwrap());
    let (second, third) = (SlotIndex(2), before.drive_of(TAKEN.0, SlotIndex(2)));
    let words = [(former(), word(2, VOTER, 0)), (third, word(3, VOTER, 3))];
    let place = undecided(&told(&copied(&[], Incarnation(0)), &words), true);
    assert!(place.contains("slot 2") && place.contains("has left it"), "{place}");

    // Where the target tells who was to take it, that one has it.
    let reports = told(&copied(&[(second, SIXTH)], Incarnation(0)), &words);
    let after = map(&Recovery::plan(&reports, true).unwrap());
    assert_eq!((after.drive_of(TAKEN.0, TAKEN.1), after.drive_of(TAKEN.0, second)), (third, SIXTH));
}
