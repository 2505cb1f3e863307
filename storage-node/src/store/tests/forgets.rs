//! Records of dropped registers: carried over while an older segment could bring the registers back, and not without end.

use super::super::mutate::Change;
use super::*;

const SMALL: u32 = 64 << 10;
/// Their records fill about three small segments.
const FORGOTTEN: u64 = 200;

fn cold(counter: u64) -> RegisterKey {
    object(&format!("cold{counter}"))
}

fn gone(number: u64) -> RegisterKey {
    object(&format!("gone{number}{}", "x".repeat(900)))
}

async fn forget(bench: &Bench, key: &RegisterKey) {
    let (encoded, address) = (Bytes::from(key.encode()), bench.address(key));
    let change = Change { key: &encoded, address: &address, bucket: None, shards: Vec::new() };
    let vacate = |entry: &mut Entry, _: &PartitionState| {
        entry.register = Register::default();
        ((), true)
    };
    let done = bench.store().change_register(&change, vacate).await.unwrap();
    assert!(done.is_ok());
}

/// A drive with so many segments of cold data, and the records of dropped registers behind them; and how many registers are
/// left.
async fn with_forgotten(cold_segments: usize) -> (Bench, u64) {
    let bench = Bench::on(SimulatedDrive::format(CLUSTER, DriveId(0xD), SMALL, 0));
    let mut left = 0;
    while bench.store().journal.sealed().len() < cold_segments {
        left += 1;
        bench.put(&cold(left), left, &data(left, 5000)).await.unwrap();
    }
    for number in 0..FORGOTTEN {
        bench.put(&gone(number), left + 1 + number, b"").await.unwrap();
    }
    for number in 0..FORGOTTEN {
        forget(&bench, &gone(number)).await;
    }
    bench.store().apply(true);
    (bench, left)
}

fn compact_all(bench: &Bench) {
    let mut rounds = 0;
    while bench.store().compact(&mut |_| {}).unwrap() {
        rounds += 1;
        assert!(rounds < 100, "it does not end");
    }
}

async fn check(bench: &Bench, left: u64) {
    assert_eq!(bench.store().info().registers, left);
    for counter in 1..=left {
        let expected = encode(&version(counter, 5000), &data(counter, 5000));
        assert_eq!(bench.inline(&cold(counter)).await, Some(expected));
    }
    for number in 0..FORGOTTEN {
        assert!(bench.store().index.get(&gone(number).encode()).unwrap().is_none());
    }
}

/// Compacts to the end, again and again, also without the index; returns the sealed segments that were left at first.
async fn compact_again_and_again(cold_segments: usize) -> Vec<u64> {
    let (mut bench, left) = with_forgotten(cold_segments).await;
    compact_all(&bench);
    let (segments, sealed) = (bench.segments(), bench.store().journal.sealed());
    let last = bench.store().journal.last_sequence();
    for _ in 0..3 {
        compact_all(&bench);
    }
    assert_eq!((bench.store().journal.last_sequence(), bench.segments()), (last, segments));
    for _ in 0..2 {
        bench.lose_index();
        bench.reopen();
        check(&bench, left).await;
        bench.store().apply(true);
        compact_all(&bench);
        assert!(bench.segments() <= segments + 1, "{} after {segments}", bench.segments());
        check(&bench, left).await;
    }
    sealed
}

#[tokio::test]
async fn records_of_dropped_registers_that_must_stay_are_not_carried_without_end() {
    let sealed = compact_again_and_again(14).await;
    assert_eq!(sealed.first(), Some(&1), "what is cold and most of the journal stays where it is");
    assert!(sealed.len() > 14, "{sealed:?}");
}

#[tokio::test]
async fn cold_data_makes_way_for_many_records_of_dropped_registers_to_go() {
    let sealed = compact_again_and_again(1).await;
    assert!(sealed.len() <= 2, "{sealed:?}");
}
