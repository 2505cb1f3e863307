use bytes::Bytes;
use coffer_common::types::{ClusterId, DriveId};
use proptest::prelude::*;

use super::frame::{Frame, SegmentHeader, decode_footer, encode_footer, encode_trailer};
use super::*;
use crate::drive::SimulatedDrive;

const SEGMENT: u32 = 16 << 10;
const FIRST: &str = "journal/0000000000000001";
const OWNER: Owner = Owner { cluster: ClusterId(1), drive: DriveId(2) };

type Seen = Vec<(u64, RecordKind, Vec<u8>)>;

fn drive() -> SimulatedDrive {
    SimulatedDrive::format(OWNER.cluster, OWNER.drive, SEGMENT, 0)
}

fn open(drive: &SimulatedDrive, applied: u64) -> Result<(Journal, Seen), JournalError> {
    let mut seen = Vec::new();
    let (io, threads) = drive.open();
    let options = OpenOptions {
        owner: OWNER,
        segment_bytes: SEGMENT,
        applied,
        name: "test",
        threads,
        on_failure: Box::new(|_| {}),
    };
    let journal = Journal::open(io, options, &mut |record| {
        seen.push((record.sequence, record.kind, record.payload.to_vec()));
        Ok(())
    })?;
    Ok((journal, seen))
}

/// Appends, waiting for the next segment where needed.
fn append(journal: &Journal, kind: RecordKind, payload: &[u8]) -> (u64, Place) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    loop {
        let result = journal.appender().append(kind, Bytes::copy_from_slice(payload));
        match result {
            Ok(placed) => return placed,
            Err(AppendError::NotReady) => runtime.block_on(journal.room()).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn metadata(seen: &[(u64, RecordKind, Vec<u8>)]) -> Seen {
    seen.iter().filter(|(_, kind, _)| *kind == RecordKind::Register).cloned().collect()
}

#[test]
fn golden_bytes_of_header_record_footer_and_trailer() {
    let header = SegmentHeader { owner: OWNER, number: 3, first_sequence: 9 }.encode();
    assert_eq!(
        hex::encode(header),
        "434f464a01000000000000000000000000000000000000010000000000000000000000000000000203000000000000000900\
         0000000000006df6f0d50f401ddf"
    );
    let mut bytes = Vec::new();
    let frame = Frame { kind: RecordKind::Boot, sequence: 7, batch: 5, payload: b"abc" };
    frame.encode_into(&mut bytes, OWNER.seed(3));
    assert_eq!(
        hex::encode(&bytes),
        "030000000601000007000000000000000500000000000000968d4fd6cf5be69f6162630000000000"
    );
    assert_eq!(Frame::decode(&bytes, OWNER.seed(3)), Some(frame));
    assert_eq!(Frame::decode(&bytes, OWNER.seed(4)), None);
    let extents = vec![(64, 128), (4096, 5000)];
    assert_eq!(hex::encode(encode_footer(&extents)), "40000000800000000010000088130000");
    assert_eq!(decode_footer(&encode_footer(&extents)), Some(extents));
    assert_eq!(hex::encode(encode_trailer(3, 77)), "434f46454d000000030000000000000085a9c4d8e6481f83");
}

#[test]
fn records_survive_segments_and_restarts_and_only_the_tail_is_replayed() {
    let drive = drive();
    let mut expected = Vec::new();
    let mut places = Vec::new();
    for round in 0..3u8 {
        let (journal, seen) = open(&drive, 0).unwrap();
        assert_eq!(metadata(&seen), expected);
        for index in 0..40u8 {
            let shard = vec![index; 700];
            let (_, place) = append(&journal, RecordKind::InlineShard, &shard);
            places.push((place, shard));
            let payload = vec![round * 40 + index; usize::from(index) * 9];
            let (sequence, place) = append(&journal, RecordKind::Register, &payload);
            expected.push((sequence, RecordKind::Register, payload.clone()));
            places.push((place, payload));
        }
        journal.durable_blocking(journal.last_sequence()).unwrap();
    }
    let half = expected[60].0;
    let (journal, seen) = open(&drive, half).unwrap();
    assert_eq!(metadata(&seen), expected[61..]);
    for (place, payload) in &places {
        assert_eq!(&journal.read_record(*place).unwrap(), payload);
    }
    let mut from_footers = Vec::new();
    for number in journal.sealed() {
        journal
            .read_sealed(number, &mut |record| {
                assert_eq!(record.kind, RecordKind::Register, "shards are not read");
                from_footers.push(record.sequence);
                Ok(())
            })
            .unwrap();
    }
    assert!(from_footers.len() > 50 && from_footers.is_sorted());
}

#[test]
fn a_journal_that_ends_before_what_was_applied_is_refused() {
    let drive = drive();
    let (journal, _) = open(&drive, 0).unwrap();
    append(&journal, RecordKind::Boot, b"1");
    drop(journal);
    let refused = open(&drive, 2).err().unwrap();
    assert!(matches!(refused, JournalError::RolledBack { end: 1, applied: 2 }), "{refused}");
}

/// Writes batches of records (each made durable before the next) and returns the end of each batch in the file.
fn write_batches(drive: &SimulatedDrive, batches: &[Vec<Vec<u8>>]) -> (Seen, Vec<(usize, usize)>) {
    let (journal, _) = open(drive, 0).unwrap();
    let mut records = Vec::new();
    let mut ends = Vec::new();
    for batch in batches {
        let mut appender = journal.appender();
        let mut end = 0;
        for payload in batch {
            let (sequence, place) =
                appender.append(RecordKind::Register, Bytes::copy_from_slice(payload)).unwrap();
            end = (place.offset + place.len).next_multiple_of(8) as usize;
            records.push((sequence, RecordKind::Register, payload.clone()));
        }
        drop(appender);
        journal.durable_blocking(journal.last_sequence()).unwrap();
        ends.push((records.len(), end));
    }
    (records, ends)
}

fn batches() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..60);
    proptest::collection::vec(proptest::collection::vec(payload, 1..4), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A crash in the last batch, at every byte of it: what was durable before is there, what follows is a prefix,
    /// and the journal goes on from it.
    #[test]
    fn a_crash_at_every_byte_of_the_tail_keeps_a_prefix_with_all_that_was_durable(batches in batches()) {
        let drive = drive();
        let (records, ends) = write_batches(&drive, &batches);
        let mut whole = Vec::new();
        assert!(drive.damage(FIRST, |bytes| whole.clone_from(bytes)));
        let (durable, from) = if ends.len() > 1 { ends[ends.len() - 2] } else { (0, 64) };
        let (_, to) = ends[ends.len() - 1];
        for cut in from..=to {
            for hole in [false, true] {
                let mut torn = whole.clone();
                // Either nothing after the cut reached the drive, or only what lies after it did.
                if hole { torn[from..cut].fill(0) } else { torn[cut..].fill(0) }
                drive.damage(FIRST, |bytes| *bytes = torn);
                let (journal, seen) = open(&drive, 0).unwrap();
                prop_assert!(seen.len() >= durable && records.starts_with(&seen), "cut at {}", cut);
                let (sequence, _) = append(&journal, RecordKind::Register, b"next");
                prop_assert_eq!(sequence, seen.len() as u64 + 1);
                drop(journal);
                let (_, again) = open(&drive, 0).unwrap();
                prop_assert_eq!(&again[..seen.len()], &seen[..]);
                prop_assert_eq!(again.len(), seen.len() + 1);
            }
        }
    }

    /// Damage before the last batch is never taken for a torn tail.
    #[test]
    fn damage_in_the_middle_is_reported_with_its_place(batches in batches(), at in any::<prop::sample::Index>()) {
        prop_assume!(batches.len() > 1);
        let drive = drive();
        let (_, ends) = write_batches(&drive, &batches);
        let middle = ends[ends.len() - 2].1;
        // Padding is not covered by a checksum, and damage there is harmless.
        let at = 64 + at.index(middle - 64);
        prop_assert!(drive.damage(FIRST, |bytes| bytes[at] ^= 0x40));
        match open(&drive, 0) {
            Err(JournalError::Corrupt { segment: 1, offset, .. }) => prop_assert!(offset <= at as u64),
            Ok((_, seen)) => prop_assert_eq!(seen.len(), ends[ends.len() - 1].0),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
