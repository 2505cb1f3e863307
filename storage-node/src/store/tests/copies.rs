//! The embedded coordinator's copy: a whole one and the changes since.

use super::*;
use crate::image::StateKey;
use crate::journal::Place;

const COORDINATOR: SnapshotKind = SnapshotKind::Coordinator;
/// Bytes of a change.
const CHANGE: usize = 200;

/// What a change adds to the copy: its revision, again and again.
fn piece(revision: u64) -> Vec<u8> {
    revision.to_be_bytes().repeat(CHANGE / 8)
}

/// A whole copy that is made of these changes.
pub(super) fn whole(revisions: &[u64]) -> Snapshot {
    let data = revisions.iter().flat_map(|revision| piece(*revision)).collect::<Vec<_>>().into();
    let revision = revisions.last().copied().unwrap_or_default();
    Snapshot { kind: COORDINATOR, generation: 1, revision, data }
}

/// The change of a copy of these to one with a revision more.
pub(super) fn added(known: &[u64], revision: u64) -> SnapshotChange {
    let previous = known.last().copied().unwrap_or_default();
    SnapshotChange { kind: COORDINATOR, previous, generation: 1, revision, data: piece(revision).into() }
}

/// The revisions that a copy is made of.
pub(super) fn revisions_in(log: &SnapshotLog) -> Vec<u64> {
    let data = std::iter::once(&log.whole().data).chain(log.changes().iter().map(|change| &change.data));
    let bytes = data.map(|data| data.to_vec()).collect::<Vec<_>>().concat();
    let found: Vec<u64> =
        bytes.chunks(CHANGE).map(|piece| u64::from_be_bytes(piece[..8].try_into().unwrap())).collect();
    let made_of: Vec<u8> = found.iter().flat_map(|revision| piece(*revision)).collect();
    assert_eq!(made_of, bytes, "the pieces are whole");
    found
}

impl Bench {
    /// A whole copy of the first so many revisions, and a change for each of the rest.
    async fn with_copy(&self, revisions: u64, whole_to: u64) {
        let all: Vec<u64> = (1..=revisions).collect();
        let (first, rest) = all.split_at(whole_to as usize);
        self.store().store_snapshot(&whole(first)).await.unwrap();
        for revision in rest {
            let known = &all[..*revision as usize - 1];
            assert_eq!(self.store().change_snapshot(&added(known, *revision)).await, Ok(true));
        }
    }

    async fn copy(&self) -> Result<Vec<u64>, NodeError> {
        Ok(self.store().snapshot_log(COORDINATOR).await?.map_or(Vec::new(), |log| revisions_in(&log)))
    }

    /// Where the records of the copy lie: the whole one first, if there is one.
    fn records(&self) -> Vec<Place> {
        let slots = self.store().slots.read();
        let of_copy = |key: &StateKey| matches!(key, StateKey::Snapshot(3) | StateKey::Change(3, _));
        slots.places.iter().filter(|(key, _)| of_copy(key)).map(|(_, place)| *place).collect()
    }

    /// Overwrites a key until the segment of the copy is sealed.
    async fn fill_segment(&self) {
        let begun_in = self.store().journal.current_segment();
        while self.store().journal.current_segment() == begun_in {
            let counter = self.store().journal.last_sequence();
            self.put(&object("k"), counter, &data(counter, 4000)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_change_is_added_to_the_copy_that_it_follows_and_to_no_other() {
    let bench = Bench::new();
    let store = bench.store();
    assert_eq!(store.change_snapshot(&added(&[], 1)).await, Ok(false), "there is no copy");
    bench.with_copy(5, 2).await;
    assert_eq!(store.change_snapshot(&added(&[1, 2, 3], 9)).await, Ok(false), "the copy has gone on");
    assert_eq!(store.change_snapshot(&added(&[1, 7], 9)).await, Ok(false), "7 is not here");
    assert_eq!(store.change_snapshot(&added(&[1, 2, 3, 4], 5)).await, Ok(true), "it is here");
    assert_eq!(store.change_snapshot(&added(&[1, 2], 3)).await, Ok(true), "what is here is newer");
    assert_eq!(bench.copy().await, Ok(vec![1, 2, 3, 4, 5]));
    assert_eq!(bench.records().len(), 4);
    store.store_snapshot(&whole(&[1, 2, 4, 9])).await.unwrap();
    assert_eq!((bench.copy().await, bench.records().len()), (Ok(vec![1, 2, 4, 9]), 1));
    assert_eq!(store.change_snapshot(&added(&[1, 2, 3, 4, 5], 8)).await, Ok(true), "what is here is newer");
    assert_eq!(bench.copy().await, Ok(vec![1, 2, 4, 9]));
    assert_eq!(store.snapshot(SnapshotKind::Layout).await, Ok(None));
}

#[tokio::test]
async fn a_copy_with_changes_survives_restarts_compaction_and_the_loss_of_the_index() {
    let mut bench = Bench::new();
    bench.with_copy(40, 10).await;
    let mut all: Vec<u64> = (1..=40).collect();
    for round in 0..12 {
        bench.fill_segment().await;
        let store = bench.store();
        store.apply(true);
        for segment in store.journal.sealed() {
            store.compact_segment(segment, &mut || {}).unwrap();
        }
        match round % 4 {
            0 => bench.close(),
            1 => bench.lose_index(),
            2 => bench.drive.restart(),
            _ => {
                // In the layer that is lost with the process: whole, and a change of it.
                all.extend([all.len() as u64 + 1]);
                bench.store().store_snapshot(&whole(&all)).await.unwrap();
            }
        }
        bench.reopen();
        let last = all.len() as u64 + 1;
        assert_eq!(bench.store().change_snapshot(&added(&all, last)).await, Ok(true), "round {round}");
        all.push(last);
        assert_eq!(bench.copy().await, Ok(all.clone()), "round {round}");
    }
    let rows = bench.records().len();
    bench.close();
    bench.reopen();
    assert_eq!(bench.records().len(), rows, "what is superseded is not in the index either");
    assert_eq!(bench.copy().await, Ok(all));
}

#[tokio::test]
async fn a_change_costs_a_drive_what_it_changes() {
    let bench = Bench::new();
    let all: Vec<u64> = (1..=500).collect();
    bench.store().store_snapshot(&whole(&all[..400])).await.unwrap();
    for last in 400..500 {
        assert_eq!(bench.store().change_snapshot(&added(&all[..last], all[last])).await, Ok(true));
    }
    let records = bench.records();
    assert!(records[0].len as usize >= 400 * CHANGE);
    let longest = records[1..].iter().map(|place| place.room()).max().unwrap();
    assert!(longest < CHANGE as u64 + 80, "{longest} bytes");
    // One after the other: nothing else was written.
    let between = records[1..].windows(2).map(|pair| u64::from(pair[1].offset - pair[0].offset));
    assert!(between.max().unwrap() <= longest);
}

#[tokio::test]
async fn whatever_is_left_of_the_last_write_the_copy_is_that_of_a_change_before_it_or_after() {
    let mut bench = Bench::new();
    bench.with_copy(6, 3).await;
    let records = bench.records();
    let segment = format!("journal/{:016x}", records[0].segment);
    let mut full = Vec::new();
    assert!(bench.drive.damage(&segment, |bytes| full.clone_from(bytes)));
    let (first, last) = (records[1], *records.last().unwrap());
    let end = (last.offset + last.len) as usize;
    for cut in first.offset as usize - 32..=end {
        // Nothing behind the cut, or something else than was written.
        for rest in [0, 0xA5] {
            bench.lose_index();
            let torn = |bytes: &mut Vec<u8>| {
                bytes.clone_from(&full);
                bytes[cut..end].fill(rest);
            };
            assert!(bench.drive.damage(&segment, torn));
            bench.try_open().unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            let kept = records[1..].iter().filter(|place| (place.offset + place.len) as usize <= cut).count();
            let all: Vec<u64> = (1..=3 + kept as u64).collect();
            assert_eq!(bench.copy().await, Ok(all.clone()), "cut at {cut}");
            let next = all.len() as u64 + 10;
            assert_eq!(bench.store().change_snapshot(&added(&all, next)).await, Ok(true), "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_copy_that_has_rotted_anywhere_is_told_by_nobody_and_replaced_by_the_next_whole_one() {
    let mut bench = Bench::new();
    bench.with_copy(6, 3).await;
    bench.fill_segment().await;
    bench.store().apply(true);
    let rotten = bench.records();
    let all: Vec<u64> = (1..=8).collect();
    // A start learns of this one from the journal, of the others from the index.
    assert_eq!(bench.store().change_snapshot(&added(&all[..6], 7)).await, Ok(true));
    let segment = format!("journal/{:016x}", rotten[0].segment);
    let mut full = Vec::new();
    assert!(bench.drive.damage(&segment, |bytes| full.clone_from(bytes)));
    let bytes = rotten.iter().flat_map(|place| [0, place.len / 2, place.len - 1].map(|at| place.offset + at));
    for at in bytes {
        let flip = |bytes: &mut Vec<u8>| {
            bytes.clone_from(&full);
            bytes[at as usize] ^= 0x10;
        };
        bench.drive.restart();
        assert!(bench.drive.damage(&segment, flip));
        bench.reopen();
        assert!(bench.copy().await.is_err(), "byte {at}");
    }
    assert_eq!(bench.store().change_snapshot(&added(&all[..7], 8)).await, Ok(false));
    bench.store().store_snapshot(&whole(&all)).await.unwrap();
    bench.close();
    bench.reopen();
    assert_eq!(bench.copy().await, Ok(all));
}

#[tokio::test]
async fn a_copy_with_a_hole_is_told_by_nobody() {
    let mut bench = Bench::new();
    bench.with_copy(6, 3).await;
    bench.store().slots.write().places.remove(&StateKey::Change(3, 5));
    assert!(bench.copy().await.is_err());
    bench.store().slots.write().places.remove(&StateKey::Snapshot(3));
    assert!(bench.copy().await.is_err());
    bench.reopen();
    assert_eq!(bench.copy().await, Ok((1..=6).collect()));
}
